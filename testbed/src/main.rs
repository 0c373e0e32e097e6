//! `cargo testbed`: the demo, the tests and the real peers they need.
//!
//! It never holds product code and never stands in for the product: `demo` and `test` drive the `mandate` binary as
//! its users do. Its own dependencies compile no C, so that it can be built first and install what the rest needs.
//! Tests are beside each module; `check`'s run it on broken fixtures.

mod bench;
mod check;
mod cli;
mod command;
mod demo;
mod interrupt;
mod test;
mod ui;
mod up;
mod workspace;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    let outcome = interrupt::install().and_then(|()| run(arguments));
    match outcome {
        Ok(code) => code,
        Err(e) => {
            ui::error(&e);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: cli::Cli) -> anyhow::Result<ExitCode> {
    let well = match arguments.command {
        cli::Command::Up { what, fabric } => up::up(what, &fabric).map(|()| true),
        cli::Command::Down { what } => up::down(what).map(|()| true),
        cli::Command::Status => up::status(),
        cli::Command::Node(options) => up::fabric::node(&options).map(|()| true),
        cli::Command::Demo(options) => demo::main(&options),
        cli::Command::Check => check::run(),
        cli::Command::Test(options) => test::run(&options),
        cli::Command::Inside => test::systemd::inside::main(),
        cli::Command::Bench(options) => {
            return bench::main(&options).or_else(|e| {
                ui::error(&e);
                Ok(ExitCode::from(bench::NOT_MEASURED))
            });
        }
    }?;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
