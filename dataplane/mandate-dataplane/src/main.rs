//! The data-plane process: packets in, one packet function, packets out.
//!
//! `mandate-dataplane --config FILE --control SOCKET` reads its configuration once, opens the configured ports with
//! DPDK, and runs to completion on one thread: receive a burst, decide, send a burst ([`worker`]). A second thread
//! serves the control socket ([`control`]) and compiles configurations ([`configure`]); the two share nothing but a
//! bounded queue of commands ([`command`]).
//!
//! It must never change the network interfaces it uses (they belong to whoever prepared the namespace), never write
//! to the file system beyond its own control socket, and never need more than `CAP_NET_RAW` for `af_packet` ports.
//!
//! Tests: unit tests in the modules; `tests/chain.rs` (five real processes in network namespaces), `tests/process.rs`
//! (one process: control protocol, signals, start time, idle CPU).

mod arguments;
mod clock;
mod command;
mod configure;
mod control;
mod document;
mod error;
mod idle;
mod lane;
mod ports;
mod report;
mod role;
mod signals;
mod worker;

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;

use crate::{
    arguments::Arguments, clock::Clock, control::ControlSocket, document::Document, error::StartError,
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MANDATE_LOG").unwrap_or_else(|_| "info".into()),
        )
        .init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), StartError> {
    // Before the first thread: all of them must have the signals blocked that one of them waits for.
    let signals = signals::block()?;
    let document = Document::read(&arguments.config)?;
    ports::check_devices(&document.configuration)?;
    let socket = ControlSocket::bind(&arguments.control)?;
    let eal = ports::eal_config(&document.configuration, arguments)?;
    dpdk::hold_interfaces()?;

    let clock = Clock::start();
    let (handle, inbox) = command::channel().map_err(StartError::System)?;
    signals::watch(signals, handle.clone())?;
    control::serve(&socket, handle, clock, &document.configuration)?;
    worker::run(&eal, document, inbox, clock)
    // `socket` is removed here, whichever way the worker ended.
}
