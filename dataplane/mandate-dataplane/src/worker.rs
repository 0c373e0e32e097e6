//! The packet thread: receive a burst, decide, send a burst; between bursts a look at the command queue.
//!
//! It owns ports, buffers and the packet function, so there is no lock on the packet path. A new configuration arrives
//! compiled and is swapped in between two bursts while frames wait in the ports' queues: none is lost, and the answer
//! is sent when it runs. What is replaced, and counters without their names, go to the thread that asked. It never
//! blocks but in [`Idle`], never allocates per packet, and every loop has a bound.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use dataplane_control::config::PortDriver;
use dataplane_engine::{
    DropReason, Verdict,
    events::{LOG_BATCH, TELL_BATCH},
};
use dpdk::{BURST, Burst, Eal, EalConfig, MAX_FRAME_BYTES, Mbuf, Pool, Port, Queue, Registered};
use nix::{sched::CpuSet, unistd::Pid};

use crate::{
    clock::Clock,
    command::{Command, Inbox},
    configure,
    document::Document,
    error::{Refusal, StartError},
    idle::Idle,
    lane::Lane,
    ports,
    report::{Next, Report, Running, Swapped},
    role::{self, Generator, Role, Run},
    standby::SyncTap,
    telemetry::{BURST_BOUNDS, PUBLISH_US, Watch, capture::Fate},
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

/// What a packet thread needs besides its queues.
pub struct Post {
    /// Commands to it.
    pub inbox: Inbox,
    /// What others see of it.
    pub watch: Watch,
    /// The CPU it is pinned to, if it is.
    pub cpu: Option<usize>,
}

/// Starts DPDK on this thread, opens the ports and forwards until told to stop: the first of `posts` on this thread, each other
/// on one of its own. `stop` ends all of them when one has failed.
pub fn run(
    eal: &EalConfig,
    document: Document,
    posts: Vec<Post>,
    clock: Clock,
    stop: &(dyn Fn() + Sync),
) -> Result<(), StartError> {
    let began = Instant::now();
    let eal = Eal::init(eal)?;
    dataplane_engine::set_huge_pages(dpdk::prefer_huge_pages);
    let configuration = &document.configuration;
    let buffers = ports::buffers(configuration);
    let pools = posts.iter().map(|_| Pool::new(&eal, buffers)).collect::<Result<Vec<_>, _>>()?;
    let mut open = Vec::with_capacity(configuration.ports.len());
    for (index, port) in configuration.ports.iter().enumerate() {
        open.push(Port::open_with(pools.iter().collect(), ports::device(index, port)?.name())?);
    }
    // By port, then by thread.
    let mut queues: Vec<_> = open.iter_mut().map(|port| port.queues().into_iter()).collect();
    let document = Arc::new(document);
    let mut workers = Vec::with_capacity(posts.len());
    for (post, pool) in posts.into_iter().zip(&pools) {
        let own: Vec<Queue<'_>> = queues.iter_mut().filter_map(Iterator::next).collect();
        workers.push((post, pool, own));
    }
    let seed = getrandom::u64().map_err(|e| StartError::System(std::io::Error::other(e.to_string())))?;
    let count = workers.len();
    let start = |post: Post, pool, own, document: Arc<Document>, eal: Option<&Eal>, first: bool| {
        let result = Worker::new(pool, own, document, seed, clock, post.watch).and_then(|worker| {
            if first {
                worker.say_forwarding(began, count);
            }
            worker.work(post.inbox, post.cpu, eal)
        });
        // Whichever way it ended, the others are not to go on without it.
        stop();
        result
    };
    let mut workers = workers.into_iter();
    let Some((post, pool, own)) = workers.next() else { return Ok(()) };
    let alone = count == 1;
    let result = thread::scope(|scope| {
        let others: Vec<_> = workers
            .map(|(post, pool, own)| {
                let (start, document) = (&start, document.clone());
                let body = move || {
                    let _known = Registered::this_thread(pool)?;
                    start(post, pool, own, document, None, false)
                };
                thread::Builder::new().name("packets".into()).spawn_scoped(scope, body)
            })
            .collect();
        let first = start(post, pool, own, document.clone(), alone.then_some(&eal), true);
        others.into_iter().fold(first, |result, other| result.and(joined(other)))
    });
    drop(queues);
    for (port, configured) in open.into_iter().zip(&document.configuration.ports) {
        if let PortDriver::Memif { socket, server } = &configured.driver {
            port.abandon();
            if *server {
                // Whoever closes a memif removes its socket.
                let _missing = std::fs::remove_file(socket);
            }
        }
    }
    tracing::info!("stopped");
    result
}

/// How a packet thread ended, if it began.
fn joined(
    thread: std::io::Result<thread::ScopedJoinHandle<'_, Result<(), StartError>>>,
) -> Result<(), StartError> {
    let failed = || StartError::System(std::io::Error::other("a packet thread panicked"));
    thread.map_err(StartError::System)?.join().map_err(|_| failed())?
}

struct Worker<'p> {
    pool: &'p Pool<'p>,
    lanes: Vec<Lane<'p>>,
    role: Role<'p>,
    clock: Clock,
    document: Arc<Document>,
    isolated: bool,
    /// Received, being decided on.
    received: Burst<'p>,
    /// To be freed together.
    dropped: Burst<'p>,
    last_tick_us: u64,
    drops: Drops,
    commands: Commands,
    watch: Watch,
}

/// What commands cost: frames wait for so long.
#[derive(Default)]
struct Commands {
    obeyed: u64,
    us: u64,
}

/// Frames dropped here and not by the packet function.
#[derive(Default)]
struct Drops {
    /// Traffic is cut.
    isolated: u64,
    /// In several buffers: longer than any frame we take.
    segmented: u64,
    /// A verdict that names no port: a defect.
    verdict: u64,
}

impl<'p> Worker<'p> {
    fn new(
        pool: &'p Pool<'p>,
        queues: Vec<Queue<'p>>,
        document: Arc<Document>,
        seed: u64,
        clock: Clock,
        watch: Watch,
    ) -> Result<Self, StartError> {
        let configuration = &document.configuration;
        let role = Role::build(configuration, seed).map_err(StartError::Function)?;
        let named = configuration.ports.iter().zip(queues);
        let lanes = named.map(|(port, queue)| Lane::new(port.name.clone(), queue)).collect();
        let mut it = Self {
            pool,
            lanes,
            role,
            clock,
            document,
            isolated: false,
            received: Burst::new(),
            dropped: Burst::new(),
            last_tick_us: 0,
            drops: Drops::default(),
            commands: Commands::default(),
            watch,
        };
        it.hold();
        it.watch.board.publish(it.report());
        Ok(it)
    }

    fn say_forwarding(&self, began: Instant, workers: usize) {
        let Document { configuration, digest } = &*self.document;
        tracing::info!(
            instance = configuration.instance,
            function = role::name(&configuration.function),
            generation = configuration.generation,
            configuration = %digest,
            start_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            workers,
            "forwarding, {}",
            dpdk::version()
        );
    }

    /// Forwards until told to stop, and what is still in the queues then. `eal`: it is the only packet thread, and can sleep until a
    /// packet comes.
    fn work(mut self, mut inbox: Inbox, cpu: Option<usize>, eal: Option<&Eal>) -> Result<(), StartError> {
        if let Some(cpu) = cpu {
            pin(cpu)?;
        }
        let bell = inbox.bell.try_clone().map_err(StartError::System)?;
        let mut idle = match eal {
            Some(eal) => {
                let ports = &self.document.configuration.ports;
                let sockets = ports.iter().filter(|p| ports::has_socket(p)).count();
                Idle::new(eal, bell.as_fd(), sockets, sockets == ports.len())
            }
            None => Idle::by_time(bell.as_fd()),
        }
        .map_err(StartError::System)?;
        self.forward_until_told(&mut inbox, &mut idle)?;
        self.drain();
        self.hand_over();
        let report = self.report();
        let sum = |what: &str| -> u64 {
            report.counters.iter().filter(|(name, _)| name.starts_with(what)).map(|(_, n)| n).sum()
        };
        tracing::info!(received = sum("rx_frames."), sent = sum("tx_frames."), "drained");
        self.watch.board.publish(report);
        Ok(())
    }

    fn forward_until_told(&mut self, inbox: &mut Inbox, idle: &mut Idle<'_>) -> Result<(), StartError> {
        loop {
            let busy = self.round();
            while let Some(command) = inbox.next() {
                let began = self.clock.now_us();
                if self.obey(command).is_break() {
                    return Ok(());
                }
                self.commands.obeyed += 1;
                self.commands.us += self.clock.now_us() - began;
            }
            if busy {
                idle.busy();
                continue;
            }
            if idle.nothing(self.longest_sleep())? {
                inbox.silence().map_err(StartError::System)?;
            }
            self.watch.polls.slept(self.clock.now_us());
        }
    }

    /// The function keeps what is written down of it: events that flow records are made of, decisions of rules.
    fn hold(&mut self) {
        let Role::Function(function) = &mut self.role else { return };
        match (&self.watch.flows, function.events()) {
            (Some(flows), Some(events)) => events.sample(flows.every()),
            (Some(_), None) => {
                tracing::warn!("--ipfix: this function tells of no connections; there are no flow records")
            }
            (None, _) => {}
        }
        let parts = 0..self.document.configuration.function.row().len();
        if self.watch.log.is_some() {
            for part in parts.clone() {
                function.log(part).into_iter().for_each(|log| log.hold(LOG_BATCH));
            }
        }
        if self.watch.sync.as_ref().is_some_and(SyncTap::tells) {
            let mut told = 0;
            for part in parts {
                if let Some(ring) = function.sync(part) {
                    ring.hold(TELL_BATCH);
                    told += 1;
                }
            }
            if told == 0 {
                tracing::warn!("--sync-to: this function has no backends; a standby is told of nothing");
            }
        }
    }

    /// Gives away what the function kept.
    fn hand_over(&mut self) {
        let Self { role: Role::Function(function), watch, document, .. } = self else { return };
        if let (Some(flows), Some(events)) = (&mut watch.flows, function.events()) {
            flows.take(events, document);
        }
        if let Some(tap) = &mut watch.log {
            for part in 0..document.configuration.function.row().len() {
                function.log(part).into_iter().for_each(|log| tap.take(part, log, document));
            }
        }
        if let Some(tap) = watch.sync.as_mut().filter(|tap| tap.tells()) {
            for part in 0..document.configuration.function.row().len() {
                function.sync(part).into_iter().for_each(|ring| tap.take(part, ring, document));
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
        self.tick(busy);
        busy
    }

    fn receive(&mut self, index: usize) -> bool {
        let Some(lane) = self.lanes.get_mut(index) else { return false };
        let count = lane.receive(&mut self.received);
        if count == 0 {
            return false;
        }
        let now_us = self.clock.now_us();
        self.watch.polls.burst(count);
        if self.isolated {
            self.drops.isolated += count as u64;
            self.copy_isolated(index, now_us);
            self.received.clear();
        } else {
            self.decide(index, now_us);
        }
        true
    }

    fn decide(&mut self, index: usize, now_us: u64) {
        let Self { role, received, dropped, lanes, drops, watch, .. } = self;
        let ingress = u16::try_from(index).unwrap_or(u16::MAX);
        if !received.iter().all(Mbuf::is_contiguous) {
            let all = std::mem::take(received);
            drops.segmented += keep_contiguous(all, received);
        }
        if let Some(tap) = &mut watch.tap {
            received.iter().enumerate().for_each(|(at, frame)| tap.before(at, ingress, frame.frame()));
        }
        let function = match role {
            Role::Function(function) => function,
            Role::Generator(generator) => {
                if let Some(tap) = &mut watch.tap {
                    (0..received.len()).for_each(|at| tap.after(at, ingress, now_us, Fate::Taken));
                }
                received.iter().for_each(|frame| generator.receive(now_us, frame.frame()));
                return received.clear();
            }
        };
        let mut verdicts = [Verdict::Drop(DropReason::Untracked); BURST];
        function.burst(now_us, ingress, received.buffers_mut(), &mut verdicts);
        if let Some(tap) = &mut watch.tap {
            for (at, verdict) in verdicts.iter().enumerate().take(received.len()) {
                let fate = match *verdict {
                    Verdict::Forward { port } => Fate::Forward(port),
                    Verdict::Drop(reason) => Fate::Drop(reason),
                };
                tap.after(at, ingress, now_us, fate);
            }
        }
        for (frame, verdict) in received.drain().zip(verdicts) {
            if let Verdict::Forward { port } = verdict {
                if let Some(lane) = lanes.get_mut(usize::from(port)) {
                    lane.enqueue(frame);
                    continue;
                }
                drops.verdict += 1;
            }
            // As many as were received at most, and a burst has that much room.
            drop(dropped.push(frame));
        }
        dropped.clear();
        lanes.iter_mut().for_each(Lane::flush);
    }

    /// Frames that are dropped because traffic is cut.
    fn copy_isolated(&mut self, index: usize, now_us: u64) {
        let ingress = u16::try_from(index).unwrap_or(u16::MAX);
        let Some(tap) = &mut self.watch.tap else { return };
        for (at, frame) in self.received.iter().enumerate() {
            tap.before(at, ingress, frame.frame());
            tap.after(at, ingress, now_us, Fate::Isolated);
        }
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

    fn tick(&mut self, busy: bool) {
        let now_us = self.clock.now_us();
        self.watch.polls.round(now_us, busy);
        if now_us.saturating_sub(self.last_tick_us) < TICK_US {
            return;
        }
        self.last_tick_us = now_us;
        if let Role::Function(function) = &mut self.role {
            function.tick(now_us);
        }
        self.hand_over();
        self.watch.tap.take_if(|tap| tap.is_over());
        if now_us.saturating_sub(self.watch.published_us) >= PUBLISH_US {
            self.watch.published_us = now_us;
            self.watch.board.publish(self.report());
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
            Command::Status { reply } => drop(reply.send(Ok(self.report()))),
            Command::Running { reply } => drop(reply.send(Ok(self.running()))),
            Command::Configure { next, reply } => drop(reply.send(self.configure(*next))),
            Command::Isolate { on, reply } => drop(reply.send(Ok(self.isolate(on)))),
            Command::Announce { reply } => drop(reply.send(self.announce())),
            Command::Reseed { seed } => {
                if let Role::Function(function) = &mut self.role {
                    function.reseed(seed);
                }
            }
            Command::Adopt { part, told, reply } => {
                if let Role::Function(function) = &mut self.role {
                    function.adopt(self.clock.now_us(), part, &told);
                }
                drop(reply.send(Ok(told)));
            }
            Command::Capture { tap, reply } => {
                self.watch.tap = Some(*tap);
                drop(reply.send(Ok(())));
            }
            Command::Run { session, reply } => self.begin(Run { session, reply }),
            Command::Shutdown => return std::ops::ControlFlow::Break(()),
        }
        std::ops::ControlFlow::Continue(())
    }

    fn running(&self) -> Running {
        Running { document: self.document.clone(), function: self.role.basis() }
    }

    fn configure(&mut self, next: Next) -> Result<Swapped, Refusal> {
        let Next { before, document, function } = next;
        if !Arc::ptr_eq(&before, &self.document) {
            let message = "another configuration came in between; send the newest document";
            return Err(Refusal::new("GENERATION_STALE", message));
        }
        // What its indices are of is about to go.
        self.hand_over();
        let began = self.clock.now_us();
        let function = self.role.swap(function).map_err(|e| configure::refused(&e))?;
        let before = std::mem::replace(&mut self.document, document);
        let swap_us = self.clock.now_us() - began;
        Ok(Swapped { report: self.report(), swap_us, before, function })
    }

    fn isolate(&mut self, on: bool) -> Report {
        if on != self.isolated {
            tracing::warn!(isolated = on, "traffic {}", if on { "is cut" } else { "passes again" });
        }
        self.isolated = on;
        if let (true, Role::Generator(generator)) = (on, &mut self.role) {
            generator.abort(isolated());
        }
        self.report()
    }

    /// A frame for each address that is here; as many as there are services at most.
    fn announce(&mut self) -> Result<Report, Refusal> {
        if self.isolated {
            return Err(isolated());
        }
        let Self { role, lanes, pool, .. } = self;
        let Role::Function(function) = role else { return Ok(self.report()) };
        for index in 0..usize::from(u16::MAX) {
            let no_buffer = || Refusal::new("NO_BUFFER", "all packet buffers are in use; ask again");
            let mut frame = pool.alloc().ok_or_else(no_buffer)?;
            if !frame.set_len(MAX_FRAME_BYTES) {
                return Err(no_buffer());
            }
            let Some((port, length)) = function.announcement(index, frame.frame_mut()) else { break };
            if let Some(lane) = lanes.get_mut(usize::from(port))
                && frame.set_len(length)
            {
                lane.enqueue(frame);
            }
        }
        lanes.iter_mut().for_each(Lane::flush);
        Ok(self.report())
    }

    fn begin(&mut self, run: Run) {
        let refusal = match &mut self.role {
            Role::Generator(_) if self.isolated => isolated(),
            Role::Generator(generator) => return generator.begin(run),
            Role::Function(_) => Refusal::new(
                "NOT_A_GENERATOR",
                format!(
                    "`{}` sends no traffic of its own; ask a generator",
                    self.document.configuration.instance
                ),
            ),
        };
        let _ = run.reply.send(Err(refusal));
    }

    fn report(&self) -> Report {
        let mut counters = BTreeMap::new();
        self.lanes.iter().for_each(|lane| lane.counters(&mut counters));
        let Drops { isolated, segmented, verdict } = self.drops;
        counters.insert("drop.isolated".into(), isolated);
        counters.insert("drop.segmented".into(), segmented);
        counters.insert("drop.verdict".into(), verdict);
        counters.insert("worker.commands".into(), self.commands.obeyed);
        counters.insert("worker.command_us".into(), self.commands.us);
        let polls = &self.watch.polls;
        counters.insert("worker.polls".into(), polls.rounds);
        counters.insert("worker.polls_busy".into(), polls.busy_rounds);
        counters.insert("worker.busy_us".into(), polls.busy_us);
        for (bound, count) in BURST_BOUNDS.iter().zip(polls.bursts) {
            counters.insert(format!("burst.{bound}"), count);
        }
        if let Some(flows) = &self.watch.flows {
            counters.insert("worker.events_missed".into(), flows.missed());
        }
        if let Some(log) = &self.watch.log {
            counters.insert("worker.log_lines".into(), log.lines());
            counters.insert("worker.log_suppressed".into(), log.suppressed());
        }
        if let Some(sync) = &self.watch.sync {
            sync.counters(&mut counters);
        }
        let function = self.role.snapshot(&mut counters);
        let at_us = self.clock.now_us();
        Report { at_us, document: self.document.clone(), isolated: self.isolated, function, counters }
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

/// Puts the frames that are in one buffer into `kept`; how many are not.
fn keep_contiguous<'p>(mut all: Burst<'p>, kept: &mut Burst<'p>) -> u64 {
    let mut segmented = 0;
    for frame in all.drain() {
        if frame.is_contiguous() {
            // No more than there were.
            drop(kept.push(frame));
        } else {
            segmented += 1;
        }
    }
    segmented
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

/// Keeps this thread on one CPU.
fn pin(cpu: usize) -> Result<(), StartError> {
    let mut set = CpuSet::new();
    let pinned = set.set(cpu).and_then(|()| nix::sched::sched_setaffinity(Pid::from_raw(0), &set));
    pinned.map_err(|e| StartError::System(std::io::Error::other(format!("CPU {cpu}: {e}"))))
}

fn isolated() -> Refusal {
    Refusal::new("ISOLATED", "traffic is cut; end the isolation first")
}
