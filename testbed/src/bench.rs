//! `cargo testbed bench`: what is promised of speed, measured on this machine, each promise beside its bar.
//!
//! The programs that measure are examples and tests of the crates concerned, built as releases; this runs them one
//! after the other, reads their answers and judges. It ends with 0 when every bar was held, 1 when one was missed, and 2
//! when a figure could not be had: that is neither.
//! Tests: `bench/report.rs`, `bench/control.rs`, `bench/dataplane.rs`, `bench/ledger.rs`, `bench/policy.rs`.

mod control;
mod dataplane;
mod ledger;
mod plot;
mod policy;
mod report;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use crate::{
    cli::{BenchOptions, Subject},
    ui,
};

/// How the subcommand ends when a figure could not be had.
pub const NOT_MEASURED: u8 = 2;

/// The subcommand.
pub fn main(options: &BenchOptions) -> anyhow::Result<ExitCode> {
    let (report, document) = match options.subject {
        Subject::Control => with_document(control::run(options, control::PARTS)?)?,
        Subject::Policy => with_document(control::run(options, policy::PARTS)?)?,
        Subject::Ledger => {
            let measured = ledger::run(options)?;
            let document = measured.json();
            (measured.report, document)
        }
        Subject::Dataplane => {
            let measured = dataplane::run(options)?;
            let document = measured.json();
            (measured.report, document)
        }
    };
    let mut text = document.to_string();
    if options.subject == Subject::Dataplane {
        // The cases are for programs; people see the promises.
        ui::say(&report.table(ui::coloured(io::stderr().is_terminal())));
    } else if !options.json {
        text = report.table(ui::coloured(io::stdout().is_terminal()));
    }
    // Whoever closed stdout does not want the answer.
    let _gone = writeln!(io::stdout(), "{text}");
    Ok(match (report.complete, report.held) {
        (false, _) => ExitCode::from(NOT_MEASURED),
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::FAILURE,
    })
}

fn with_document(report: report::Report) -> anyhow::Result<(report::Report, serde_json::Value)> {
    let document = serde_json::to_value(&report)?;
    Ok((report, document))
}
