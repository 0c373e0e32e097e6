//! `cargo testbed bench`: what is promised of speed, measured on this machine, each promise beside its bar.
//!
//! The programs that measure are examples and tests of the crates concerned, built as releases; this runs them one
//! after the other, reads their answers and judges. A figure that could not be had is a missed bar, never a held one.
//! Tests: `bench/report.rs`, `bench/control.rs`.

mod control;
mod report;

use std::io::{self, IsTerminal as _, Write as _};

use crate::{
    cli::{BenchOptions, Subject},
    ui,
};

/// The subcommand; true when every bar was held.
pub fn main(options: &BenchOptions) -> anyhow::Result<bool> {
    let report = match options.subject {
        Subject::Control => control::run(options)?,
    };
    let text = match options.json {
        true => serde_json::to_string(&report)?,
        false => report.table(ui::coloured(io::stdout().is_terminal())),
    };
    // Whoever closed stdout does not want the answer.
    let _gone = writeln!(io::stdout(), "{text}");
    Ok(report.held)
}
