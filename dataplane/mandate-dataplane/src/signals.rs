//! SIGTERM and SIGINT ask for an orderly end. They are blocked in every thread and taken by one that waits for them.

use std::thread;

use nix::sys::signal::{SigSet, Signal};

use crate::{command::Workers, error::StartError};

/// Blocks the signals; to be called before the first thread is made.
pub fn block() -> Result<SigSet, StartError> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block().map_err(|e| StartError::System(e.into()))?;
    Ok(set)
}

/// Turns the first of them into a shutdown.
pub fn watch(set: SigSet, workers: Workers) -> Result<(), StartError> {
    let wait = move || {
        if let Ok(signal) = set.wait() {
            tracing::info!("{signal}: shutting down");
            workers.shutdown();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(StartError::System)?;
    Ok(())
}
