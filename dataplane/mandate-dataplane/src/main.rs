//! The data-plane process: packets in, one packet function, packets out.
//!
//! `mandate-dataplane --config FILE --control SOCKET` reads its configuration once, opens the configured ports with
//! DPDK, and runs to completion on one thread for each of `--workers`: receive a burst, decide, send a burst ([`worker`]). Others
//! serve the control socket ([`control`]), compile configurations ([`configure`]), and show what happens ([`telemetry`]); they share
//! nothing with packet threads but bounded queues ([`command`]) and boards that those leave their counters on.
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
mod health;
mod idle;
mod lane;
mod ports;
mod report;
mod role;
mod secrets;
mod signals;
mod standby;
mod telemetry;
mod worker;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    thread::JoinHandle,
};

use clap::Parser;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    arguments::Arguments,
    clock::Clock,
    command::{Handle, Workers},
    control::ControlSocket,
    document::Document,
    error::StartError,
    standby::Standby,
    telemetry::{
        Watch,
        flows::{self, Export, FlowExport},
        http::Listener,
        rule_log,
    },
    worker::Post,
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whatever is logged, whoever started it is to know.
            if tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!("{error}");
            } else {
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// `MANDATE_LOG` selects (as `RUST_LOG` does elsewhere). `mandate serve` has the same: what both programs are made of
/// neither reads nor writes.
fn log_to_stderr() {
    let wanted = std::env::var("MANDATE_LOG").unwrap_or_default();
    let wanted = if wanted.is_empty() { "info" } else { &wanted };
    let (filter, wrong) = match wanted.parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(e) => (Targets::new().with_default(tracing::Level::INFO), Some(e)),
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour).with_target(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
    if let Some(e) = wrong {
        tracing::warn!("MANDATE_LOG is `{wanted}`: {e}; write for instance `mandate_dataplane=debug,info`");
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
    let mut standby = standby::start(arguments)?;
    let (mut posts, writers) = posts(arguments, clock, &mut standby)?;
    let workers = Workers::new(posts.iter_mut().map(|(handle, _)| handle.clone()).collect());
    let workers = workers.ok_or_else(|| StartError::System(io::Error::other("no packet thread")))?;
    let posts: Vec<Post> = posts.into_iter().map(|(_, post)| post).collect();
    let boards: Vec<_> = posts.iter().map(|post| post.watch.board.clone()).collect();
    signals::watch(signals, workers.clone())?;
    secrets::renew(workers.clone())?;
    standby.iter_mut().try_for_each(|standby| standby.listen(workers.clone()))?;
    control::serve(&socket, workers.clone(), boards.clone(), clock, &document.configuration)?;
    let metrics = arguments.metrics.as_ref().map(Listener::bind).transpose()?;
    metrics.iter().try_for_each(|m| m.serve(boards.clone(), clock))?;
    let result = worker::run(&eal, document, posts, clock, &|| workers.shutdown());
    // What the packet threads gave away last is written before the end.
    for writer in writers {
        let _ = writer.join();
    }
    result
    // `socket` is removed here, whichever way the packet threads ended.
}

/// Threads that write down what packet threads give away; they end after those.
type Writers = Vec<JoinHandle<()>>;

/// What each packet thread gets, and how it is asked.
fn posts(
    arguments: &Arguments,
    clock: Clock,
    standby: &mut Option<Standby>,
) -> Result<(Vec<(Handle, Post)>, Writers), StartError> {
    let count = usize::from(arguments.workers);
    let export = arguments.ipfix.map(|collector| FlowExport { collector, every: arguments.ipfix_every });
    let export = export.map(|e| flows::start(e, count, clock)).transpose()?;
    let (flows, decisions, exporter) = match export {
        Some(Export { taps, decisions, thread }) => (taps, Some(decisions), Some(thread)),
        None => (vec![], None, None),
    };
    let (logs, log) = rule_log::start(count, decisions, clock)?;
    let (mut flows, mut logs) = (flows.into_iter(), logs.into_iter());
    let (taps, teller) = match standby {
        Some(standby) => (std::mem::take(&mut standby.taps), standby.teller.take()),
        None => (vec![], None),
    };
    let mut taps = taps.into_iter();
    let pinned = arguments.eal_cpus.len() >= count && count > 1;
    let posts = (0..count)
        .map(|index| {
            let (handle, inbox) = command::channel().map_err(StartError::System)?;
            let (flows, log, sync) = (flows.next(), logs.next(), taps.next());
            let watch = Watch { flows, log, sync, ..Watch::default() };
            let cpu = arguments.eal_cpus.get(index).copied().filter(|_| pinned);
            Ok((handle, Post { inbox, watch, cpu }))
        })
        .collect::<Result<_, StartError>>()?;
    Ok((posts, [Some(log), exporter, teller].into_iter().flatten().collect()))
}
