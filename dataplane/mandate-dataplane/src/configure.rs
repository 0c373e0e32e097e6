//! A new configuration: judged and compiled on the connection's thread, swapped in by the packet threads.
//!
//! One at a time, so that each is prepared against what runs when it is swapped in; the packet thread checks that too.
//! What was replaced comes back and is freed here.
//!
//! Tests: below, and `tests/process.rs` (refusals, and how long packets wait).

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, PoisonError, mpsc::Sender},
    time::Instant,
};

use dataplane_control::{Configuration, Function, protocol::Status};

use crate::{
    command::{ANSWER_WITHIN, Command, Handle, Workers},
    document::Document,
    error::{Refusal, StartError},
    health::{self, News},
    report::{Next, Running, Swapped, merged},
    role,
};

/// Gives the packet threads their configurations.
#[derive(Clone)]
pub struct Configurator {
    workers: Workers,
    /// Taken in turns; whoever is told what runs, by the balancer's place in the row.
    turn: Arc<Mutex<BTreeMap<usize, Sender<News>>>>,
}

impl Configurator {
    /// For these packet threads, which run this; clones take turns, others would not. Balancers' backends are asked from now on.
    pub fn new(workers: Workers, running: &Configuration) -> Result<Self, StartError> {
        let it = Self { workers, turn: Arc::default() };
        let mut judges = BTreeMap::new();
        for (index, function) in running.function.row().iter().enumerate() {
            if matches!(function, Function::LoadBalancer(_)) {
                judges.insert(index, health::start(it.clone(), index)?);
            }
        }
        tell(&judges, running);
        *it.turn.lock().unwrap_or_else(PoisonError::into_inner) = judges;
        Ok(it)
    }

    /// The running configuration with these backends of the row's `index`-th function down, everywhere.
    pub fn leave_out(&self, index: usize, down: &BTreeSet<String>) -> Result<(), Refusal> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let prepare = |running: Running| {
            let prepared = running.function.map(|basis| basis.prepare_health(index, down));
            let function = prepared.transpose().map_err(|e| refused(&e))?;
            Ok(Next { before: running.document.clone(), document: running.document, function })
        };
        let prepared: Vec<Next> = self.running()?.into_iter().map(prepare).collect::<Result<_, Refusal>>()?;
        self.swap(prepared).map(drop)
    }

    /// Parses, prepares and swaps in; answers when it runs everywhere.
    pub fn configure(&self, text: &str) -> Result<Status, Refusal> {
        let document = Arc::new(parse(text)?);
        // A thread that panicked in its turn has left nothing half done: the swap is the worker's.
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let running = self.running()?;
        if running.iter().all(|r| r.document.digest == document.digest) {
            return self.workers.status(|reply| Command::Status { reply });
        }
        let status = self.replace(running, document.clone())?;
        tell(&turn, &document.configuration);
        Ok(status)
    }

    fn running(&self) -> Result<Vec<Running>, Refusal> {
        let ask = |worker: &Handle| worker.ask(|reply| Command::Running { reply }, ANSWER_WITHIN);
        self.workers.each().iter().map(ask).collect()
    }

    fn swap(&self, prepared: Vec<Next>) -> Result<Vec<Swapped>, Refusal> {
        let swap = |(worker, next): (&Handle, Next)| {
            let next = Box::new(next);
            worker.ask(|reply| Command::Configure { next, reply }, ANSWER_WITHIN)
        };
        self.workers.each().iter().zip(prepared).map(swap).collect()
    }

    /// Nothing is swapped in anywhere before it is compiled for all.
    fn replace(&self, running: Vec<Running>, document: Arc<Document>) -> Result<Status, Refusal> {
        let began = Instant::now();
        let prepared: Vec<Next> =
            running.into_iter().map(|r| prepare(r, document.clone())).collect::<Result<_, _>>()?;
        let prepare_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let swapped = self.swap(prepared)?;
        let swap_us = swapped.iter().map(|s| s.swap_us).max().unwrap_or(0);
        let status = merged(swapped.iter().map(|s| &s.report))
            .ok_or_else(|| Refusal::new("SHUTTING_DOWN", "no packet thread is left"))?;
        tracing::info!(
            generation = status.generation,
            configuration = %status.configuration,
            prepare_us,
            swap_us,
            "reconfigured"
        );
        drop(swapped);
        Ok(status)
    }
}

/// Tells whoever asks backends what runs.
fn tell(judges: &BTreeMap<usize, Sender<News>>, running: &Configuration) {
    for (index, judge) in judges {
        if let Some(Function::LoadBalancer(config)) = running.function.row().get(*index) {
            // It ends with the process.
            let _ = judge.send(News::Runs(Box::new(config.clone())));
        }
    }
}

fn prepare(running: Running, document: Arc<Document>) -> Result<Next, Refusal> {
    acceptable(&running.document.configuration, &document.configuration)?;
    let prepared = running.function.map(|basis| basis.prepare(&document.configuration));
    let function = prepared.transpose().map_err(|e| refused(&e))?;
    Ok(Next { before: running.document, document, function })
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
