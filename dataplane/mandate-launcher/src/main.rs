//! `mandate-launcher`: see the library, or `--help`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser as _;
use mandate_launcher::{
    cli::{Action, Cli},
    error::Error,
    evidence, launch,
};

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mandate-launcher: {}", with_causes(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(action: &Action) -> Result<(), Error> {
    match action {
        Action::Launch(args) => match launch::launch(args)? {},
        Action::Measure(args) => launch::measure(args),
        Action::Quote(args) => print(&evidence::quote(args)?),
        Action::Ak(args) => print(&evidence::attestation_key(args)?),
    }
}

fn print(value: &impl serde::Serialize) -> Result<(), Error> {
    let line = serde_json::to_string(value).map_err(io::Error::from);
    let printed = line.and_then(|line| writeln!(io::stdout(), "{line}"));
    printed.map_err(|source| Error::File { what: "standard output", path: "/dev/stdout".into(), source })
}

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
