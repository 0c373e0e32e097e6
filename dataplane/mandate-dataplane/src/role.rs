//! What the process does with frames: a packet function of the engine, or the traffic generator.

use std::collections::BTreeMap;

use dataplane_control::{Configuration, Function, config::ConfigError, traffic::TrafficReport};
use dataplane_engine::{Basis, PacketFunction, Prepared, Retired, Snapshot, traffic::Session};
use dpdk::{Mbuf, Processor};

use crate::{command::Reply, error::Refusal};

/// What the process does with frames.
pub enum Role<'p> {
    /// Firewall, load balancer, reflector.
    Function(Box<dyn PacketFunction<Mbuf<'p>> + 'p>),
    /// The client-side probe.
    Generator(Generator),
}

/// The generator, sending or not.
#[derive(Default)]
pub struct Generator {
    /// Lane it uses.
    pub lane: usize,
    /// What is being sent and who waits for the report.
    pub run: Option<Run>,
    /// Frames received while nothing was being measured.
    pub idle_frames: u64,
}

/// A run in progress.
pub struct Run {
    pub session: Box<Session>,
    pub reply: Reply<TrafficReport>,
}

impl Role<'_> {
    /// As the configuration says. `seed` is of the connection table's hash and must not be predictable.
    pub fn build(configuration: &Configuration, seed: u64) -> Result<Self, ConfigError> {
        if let Function::Generator(generator) = &configuration.function {
            let lane = configuration.ports.iter().position(|p| p.name == generator.port).unwrap_or(0);
            return Ok(Self::Generator(Generator { lane, ..Generator::default() }));
        }
        dataplane_engine::build_on::<Processor, _>(configuration, seed).map(Self::Function)
    }

    /// What a new configuration is prepared against, if anything: all a generator has is its port.
    pub fn basis(&self) -> Option<Basis> {
        match self {
            Self::Function(function) => Some(function.basis()),
            Self::Generator(_) => None,
        }
    }

    /// Swaps in what was prepared against [`Role::basis`].
    pub fn swap(&mut self, prepared: Option<Prepared>) -> Result<Option<Retired>, ConfigError> {
        match (self, prepared) {
            (Self::Function(function), Some(prepared)) => function.swap(prepared).map(Some),
            _ => Ok(None),
        }
    }

    /// The packet function's counters; a generator's, which has few, are added to `out`.
    pub fn snapshot(&self, out: &mut BTreeMap<String, u64>) -> Option<Snapshot> {
        match self {
            Self::Function(function) => Some(function.snapshot()),
            Self::Generator(generator) => {
                out.insert("drop.no_run".into(), generator.idle_frames);
                None
            }
        }
    }

    /// Connections tracked.
    pub fn connections(&self) -> u64 {
        match self {
            Self::Function(function) => function.connections(),
            Self::Generator(_) => 0,
        }
    }
}

impl Generator {
    /// Begins a run.
    pub fn begin(&mut self, run: Run) {
        if self.run.is_some() {
            let refusal = Refusal::new("RUN_ACTIVE", "a run is going on; wait for its report and ask again");
            let _ = run.reply.send(Err(refusal));
        } else {
            self.run = Some(run);
        }
    }

    /// Takes in a received frame.
    pub fn receive(&mut self, now_us: u64, frame: &[u8]) {
        match &mut self.run {
            Some(run) => run.session.receive(now_us, frame),
            None => self.idle_frames += 1,
        }
    }

    /// Ends the run when it is over.
    pub fn finish(&mut self, now_us: u64) {
        if let Some(run) = self.run.take_if(|r| r.session.finished(now_us)) {
            // Whoever asked may have gone; the run is over all the same.
            let _ = run.reply.send(Ok(run.session.report()));
        }
    }

    /// Ends the run before its time.
    pub fn abort(&mut self, refusal: Refusal) {
        if let Some(run) = self.run.take() {
            let _ = run.reply.send(Err(refusal));
        }
    }
}

/// The function's name, as `Status` says it.
pub fn name(function: &Function) -> &'static str {
    match function {
        Function::Firewall(_) => "firewall",
        Function::LoadBalancer(_) => "load_balancer",
        Function::Reflector(_) => "reflector",
        Function::Generator(_) => "generator",
        Function::Chain(_) => "chain",
    }
}
