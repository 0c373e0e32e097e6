//! A new configuration: judged and compiled on the connection's thread, swapped in by the packet thread.
//!
//! One at a time, so that each is prepared against what runs when it is swapped in; the packet thread checks that too.
//! What was replaced comes back and is freed here.
//!
//! Tests: below, and `tests/process.rs` (refusals, and how long packets wait).

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use dataplane_control::{Configuration, protocol::Status};

use crate::{
    command::{ANSWER_WITHIN, Command, Handle},
    document::Document,
    error::Refusal,
    report::{Next, Running, Swapped},
    role,
};

/// Gives the packet thread its configurations.
#[derive(Clone)]
pub struct Configurator {
    handle: Handle,
    turn: Arc<Mutex<()>>,
}

impl Configurator {
    /// For the worker behind `handle`; clones take turns, others would not.
    pub fn new(handle: Handle) -> Self {
        Self { handle, turn: Arc::default() }
    }

    /// Parses, prepares and swaps in; answers when it runs.
    pub fn configure(&self, text: &str) -> Result<Status, Refusal> {
        let document = Arc::new(parse(text)?);
        // A thread that panicked in its turn has left nothing half done: the swap is the worker's.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let running = self.handle.ask(|reply| Command::Running { reply }, ANSWER_WITHIN)?;
        if document.digest == running.document.digest {
            return self.handle.status();
        }
        self.replace(running, document)
    }

    fn replace(&self, running: Running, document: Arc<Document>) -> Result<Status, Refusal> {
        acceptable(&running.document.configuration, &document.configuration)?;
        let began = Instant::now();
        let prepared = running.function.map(|basis| basis.prepare(&document.configuration));
        let function = prepared.transpose().map_err(|e| refused(&e))?;
        let prepare_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let next = Box::new(Next { before: running.document, document, function });
        let swapped = self.handle.ask(|reply| Command::Configure { next, reply }, ANSWER_WITHIN)?;
        let Swapped { report, swap_us, before, function } = swapped;
        let status = report.into_status();
        tracing::info!(
            generation = status.generation,
            configuration = %status.configuration,
            prepare_us,
            swap_us,
            "reconfigured"
        );
        drop((before, function));
        Ok(status)
    }
}

/// Why a document or what it says is not taken.
pub fn refused(error: &dataplane_engine::ConfigError) -> Refusal {
    Refusal::new("CONFIGURATION_REFUSED", format!("{error}; correct it and send it again"))
}

fn parse(text: &str) -> Result<Document, Refusal> {
    let configuration = Configuration::parse(text.as_bytes()).map_err(|e| refused(&e))?;
    Ok(Document { configuration, digest: Configuration::digest(text.as_bytes()) })
}

/// Whether `new` may follow `running` without a new process.
fn acceptable(running: &Configuration, new: &Configuration) -> Result<(), Refusal> {
    if new.instance != running.instance {
        let message = format!("this is `{}`, the document is for `{}`", running.instance, new.instance);
        return Err(Refusal::new("OTHER_INSTANCE", message));
    }
    if new.generation <= running.generation {
        let message = format!(
            "generation {} is not above the running {}; send the newest document",
            new.generation, running.generation
        );
        return Err(Refusal::new("GENERATION_STALE", message));
    }
    if new.ports != running.ports {
        return Err(Refusal::new("PORTS_CHANGED", "ports cannot change while running; start a new process"));
    }
    if mem::discriminant(&new.function) != mem::discriminant(&running.function) {
        let message = format!(
            "a {} does not become a {}; start a new process",
            role::name(&running.function),
            role::name(&new.function)
        );
        return Err(Refusal::new("FUNCTION_CHANGED", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dataplane_control::{
        Function,
        config::{self, Reflector},
    };

    use super::*;

    fn configuration() -> Configuration {
        Configuration {
            instance: "a".into(),
            generation: 2,
            ports: vec![],
            function: Function::Reflector(Reflector { port: "p".into(), number: 1, addresses: vec![] }),
        }
    }

    #[test]
    fn what_may_follow_without_a_new_process() {
        let running = configuration();
        let next = Configuration { generation: 3, ..configuration() };
        assert_eq!(acceptable(&running, &next), Ok(()));
        let code = |new: Configuration| acceptable(&running, &new).unwrap_err().code;
        assert_eq!(code(configuration()), "GENERATION_STALE");
        assert_eq!(code(Configuration { instance: "b".into(), ..next.clone() }), "OTHER_INSTANCE");
        let function = Function::Generator(config::Generator { port: "p".into() });
        assert_eq!(code(Configuration { function, ..next.clone() }), "FUNCTION_CHANGED");
        let driver = config::PortDriver::AfPacket { interface: "x".into() };
        let port = config::Port { name: "p".into(), driver, mac: Default::default() };
        assert_eq!(code(Configuration { ports: vec![port], ..next }), "PORTS_CHANGED");
    }
}
