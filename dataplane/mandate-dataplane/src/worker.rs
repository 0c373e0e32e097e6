//! The packet thread: receive a burst, decide, send a burst; between bursts a look at the command queue.
//!
//! It owns ports, buffers, the packet function and the running configuration, so there is no lock on the packet path.
//! A new configuration arrives parsed and is swapped in between two bursts while frames wait in the ports' queues:
//! none is lost, and the answer is sent when it runs. It never blocks but in [`Idle`], never allocates per packet, and
//! every loop has a bound.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use dataplane_control::{Configuration, protocol::Status};
use dataplane_engine::Verdict;
use dpdk::{BURST, Burst, Eal, EalConfig, MAX_FRAME_BYTES, Pool, Port};
use trust::Digest;

use crate::{
    clock::Clock,
    command::{Command, Inbox},
    document::Document,
    error::{Refusal, StartError},
    idle::Idle,
    lane::Lane,
    ports,
    role::{self, Generator, Role, Run},
};

/// How often connections are aged while packets flow, µs.
const TICK_US: u64 = 1_000;
/// Longest sleep with connections to age.
const SLEEP_WITH_CONNECTIONS: Duration = Duration::from_millis(5);
/// Longest sleep with nothing to do at all; commands and packets end it.
const SLEEP: Duration = Duration::from_millis(250);
/// Longest sleep while a run is going on: frames may become due.
const SLEEP_IN_RUN: Duration = Duration::from_micros(50);
/// Longest time to forward what is still in the queues at the end.
const DRAIN: Duration = Duration::from_millis(50);
/// Rounds without a packet after which the queues are taken to be empty.
const DRAINED_ROUNDS: u32 = 16;

/// Starts DPDK on this thread, opens the ports and forwards until told to stop.
pub fn run(eal: &EalConfig, document: Document, mut inbox: Inbox, clock: Clock) -> Result<(), StartError> {
    let began = Instant::now();
    let bell = inbox.bell.try_clone().map_err(StartError::System)?;
    let eal = Eal::init(eal)?;
    let pool = Pool::new(&eal, ports::buffers(&document.configuration))?;
    let mut worker = Worker::new(&pool, document, clock)?;
    let sockets = worker.configuration.ports.iter().filter(|p| ports::has_socket(p)).count();
    let mut idle =
        Idle::new(&eal, bell.as_fd(), sockets, sockets == worker.lanes.len()).map_err(StartError::System)?;
    tracing::info!(
        instance = worker.configuration.instance,
        function = role::name(&worker.configuration.function),
        generation = worker.configuration.generation,
        configuration = %worker.digest,
        start_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "forwarding, {}",
        dpdk::version()
    );
    worker.forward_until_told(&mut inbox, &mut idle)?;
    worker.drain();
    tracing::info!("stopped");
    Ok(())
}

struct Worker<'p> {
    pool: &'p Pool<'p>,
    lanes: Vec<Lane<'p>>,
    role: Role,
    clock: Clock,
    configuration: Configuration,
    digest: Digest,
    isolated: bool,
    /// Received, being decided on.
    received: Burst<'p>,
    /// To be freed together.
    dropped: Burst<'p>,
    last_tick_us: u64,
    drops: Drops,
}

/// Frames dropped here and not by the packet function.
#[derive(Default)]
struct Drops {
    /// Traffic is cut.
    isolated: u64,
    /// In several buffers: longer than any frame we take.
    segmented: u64,
    /// A verdict that names no port or a length beyond the frame: a defect.
    verdict: u64,
}

impl<'p> Worker<'p> {
    fn new(pool: &'p Pool<'p>, document: Document, clock: Clock) -> Result<Self, StartError> {
        let Document { configuration, digest } = document;
        let seed = getrandom::u64().map_err(|e| StartError::System(std::io::Error::other(e.to_string())))?;
        let role = Role::build(&configuration, seed)
            .map_err(|source| StartError::Configuration { path: "configuration".into(), source })?;
        let mut lanes = Vec::with_capacity(configuration.ports.len());
        for (index, port) in configuration.ports.iter().enumerate() {
            let open = Port::open(pool, ports::device(index, port)?.name())?;
            lanes.push(Lane::new(port.name.clone(), open));
        }
        Ok(Self {
            pool,
            lanes,
            role,
            clock,
            configuration,
            digest,
            isolated: false,
            received: Burst::new(),
            dropped: Burst::new(),
            last_tick_us: 0,
            drops: Drops::default(),
        })
    }

    fn forward_until_told(&mut self, inbox: &mut Inbox, idle: &mut Idle<'_>) -> Result<(), StartError> {
        loop {
            let busy = self.round();
            while let Some(command) = inbox.next() {
                if self.obey(command).is_break() {
                    return Ok(());
                }
            }
            if busy {
                idle.busy();
            } else if idle.nothing(self.longest_sleep())? {
                inbox.silence().map_err(StartError::System)?;
            }
        }
    }

    /// One burst from each port, and what is due besides. False: there was nothing.
    fn round(&mut self) -> bool {
        let mut busy = false;
        for index in 0..self.lanes.len() {
            busy |= self.receive(index);
        }
        busy |= self.generate();
        self.tick();
        busy
    }

    fn receive(&mut self, index: usize) -> bool {
        let Some(lane) = self.lanes.get_mut(index) else { return false };
        let count = lane.receive(&mut self.received);
        if count == 0 {
            return false;
        }
        let now_us = self.clock.now_us();
        if self.isolated {
            self.drops.isolated += count as u64;
            self.received.clear();
        } else {
            self.decide(index, now_us);
        }
        true
    }

    fn decide(&mut self, index: usize, now_us: u64) {
        let Self { role, received, dropped, lanes, drops, .. } = self;
        let ingress = u16::try_from(index).unwrap_or(u16::MAX);
        for mut frame in received.drain() {
            let verdict = match role {
                _ if !frame.is_contiguous() => {
                    drops.segmented += 1;
                    None
                }
                Role::Function(function) => match function.process(now_us, ingress, frame.frame_mut()) {
                    Verdict::Forward { port, length } => Some((port, length)),
                    Verdict::Drop(_) => None,
                },
                Role::Generator(generator) => {
                    generator.receive(now_us, frame.frame());
                    None
                }
            };
            if let Some((port, length)) = verdict {
                match lanes.get_mut(usize::from(port)) {
                    Some(lane) if length <= frame.len() && frame.set_len(length) => {
                        lane.enqueue(frame);
                        continue;
                    }
                    _ => drops.verdict += 1,
                }
            }
            // As many as were received at most, and a burst has that much room.
            drop(dropped.push(frame));
        }
        dropped.clear();
        lanes.iter_mut().for_each(Lane::flush);
    }

    /// Sends the generator's frames that are due.
    fn generate(&mut self) -> bool {
        let Self { role: Role::Generator(generator), lanes, pool, clock, .. } = self else { return false };
        let Some(lane) = lanes.get_mut(generator.lane) else { return false };
        let sent = send_due(generator, lane, pool, clock.now_us());
        lane.flush();
        generator.finish(clock.now_us());
        sent > 0
    }

    fn tick(&mut self) {
        let now_us = self.clock.now_us();
        if now_us.saturating_sub(self.last_tick_us) < TICK_US {
            return;
        }
        self.last_tick_us = now_us;
        if let Role::Function(function) = &mut self.role {
            function.tick(now_us);
        }
        for line in dpdk::drain_log() {
            tracing::warn!("DPDK: {line}");
        }
    }

    fn longest_sleep(&self) -> Duration {
        match &self.role {
            Role::Generator(Generator { run: Some(_), .. }) => SLEEP_IN_RUN,
            role if role.connections() > 0 => SLEEP_WITH_CONNECTIONS,
            _ => SLEEP,
        }
    }

    fn obey(&mut self, command: Command) -> std::ops::ControlFlow<()> {
        // Whoever asked may have given up waiting: a reply that nobody takes is no error.
        match command {
            Command::Status { reply } => drop(reply.send(Ok(self.status()))),
            Command::Configure { document, reply } => drop(reply.send(self.configure(*document))),
            Command::Isolate { on, reply } => drop(reply.send(Ok(self.isolate(on)))),
            Command::Run { session, reply } => self.begin(Run { session, reply }),
            Command::Shutdown => return std::ops::ControlFlow::Break(()),
        }
        std::ops::ControlFlow::Continue(())
    }

    fn configure(&mut self, document: Document) -> Result<Status, Refusal> {
        if document.digest == self.digest {
            return Ok(self.status());
        }
        acceptable(&self.configuration, &document.configuration)?;
        let began = Instant::now();
        self.role.reconfigure(&document.configuration).map_err(|e| {
            Refusal::new("CONFIGURATION_REFUSED", format!("{e}; correct it and send it again"))
        })?;
        let Document { configuration, digest } = document;
        tracing::info!(
            generation = configuration.generation,
            configuration = %digest,
            swap_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            "reconfigured"
        );
        (self.configuration, self.digest) = (configuration, digest);
        Ok(self.status())
    }

    fn isolate(&mut self, on: bool) -> Status {
        if on != self.isolated {
            tracing::warn!(isolated = on, "traffic {}", if on { "is cut" } else { "passes again" });
        }
        self.isolated = on;
        if let (true, Role::Generator(generator)) = (on, &mut self.role) {
            generator.abort(isolated());
        }
        self.status()
    }

    fn begin(&mut self, run: Run) {
        let refusal = match &mut self.role {
            Role::Generator(_) if self.isolated => isolated(),
            Role::Generator(generator) => return generator.begin(run),
            Role::Function(_) => Refusal::new(
                "NOT_A_GENERATOR",
                format!("`{}` sends no traffic of its own; ask a generator", self.configuration.instance),
            ),
        };
        let _ = run.reply.send(Err(refusal));
    }

    fn status(&self) -> Status {
        let mut counters = BTreeMap::new();
        self.role.counters(&mut counters);
        self.lanes.iter().for_each(|lane| lane.counters(&mut counters));
        let Drops { isolated, segmented, verdict } = self.drops;
        counters.insert("drop.isolated".into(), isolated);
        counters.insert("drop.segmented".into(), segmented);
        counters.insert("drop.verdict".into(), verdict);
        Status {
            instance: self.configuration.instance.clone(),
            function: role::name(&self.configuration.function).into(),
            generation: self.configuration.generation,
            configuration: self.digest,
            isolated: self.isolated,
            pid: std::process::id(),
            connections: self.role.connections(),
            counters,
        }
    }

    /// Forwards what is still in the queues.
    fn drain(&mut self) {
        if let Role::Generator(generator) = &mut self.role {
            generator.abort(Refusal::new("SHUTTING_DOWN", "the generator was told to stop; start it again"));
        }
        let until = Instant::now() + DRAIN;
        let mut empty = 0;
        while empty < DRAINED_ROUNDS && Instant::now() < until {
            empty = if self.round() { 0 } else { empty + 1 };
        }
    }
}

/// Sends up to a burst of what is due; says how many.
fn send_due<'p>(generator: &mut Generator, lane: &mut Lane<'p>, pool: &'p Pool<'p>, now_us: u64) -> usize {
    let Some(run) = &mut generator.run else { return 0 };
    for sent in 0..BURST {
        // No buffer: all are in queues. The session counts what it could not send in time.
        let Some(mut frame) = pool.alloc() else { return sent };
        if !frame.set_len(MAX_FRAME_BYTES) {
            return sent;
        }
        let Some(length) = run.session.next_frame(now_us, frame.frame_mut()) else { return sent };
        if u16::try_from(length).is_ok_and(|l| frame.set_len(l)) {
            lane.enqueue(frame);
        }
    }
    BURST
}

fn isolated() -> Refusal {
    Refusal::new("ISOLATED", "traffic is cut; end the isolation first")
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
    if std::mem::discriminant(&new.function) != std::mem::discriminant(&running.function) {
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
