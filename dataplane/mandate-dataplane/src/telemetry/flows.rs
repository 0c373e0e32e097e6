//! Flow records: batches of events from the packet threads become IPFIX messages to a collector, by UDP, on a thread of their own.
//!
//! A connection that is sampled is told twice: when it is opened, and when it is over, with its start if it is remembered. The
//! memory for that is bounded, and so is the queue; what finds no room is counted. Decisions of rules that are written down
//! ([`super::rule_log`]) become records here, too.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use dataplane_control::Function;
use dataplane_engine::events::{BATCH, Ends, Event, Events, Happened};

use super::{
    batches::{self, Batch, Given, Taker},
    ipfix::{Exporter, Flow},
};
use crate::{
    clock::{Clock, now_ms},
    document::Document,
    error::StartError,
};

/// Sampled connections whose start is remembered.
const MAX_OPEN: usize = 65_536;
/// Decisions of rules that wait to be exported: some seconds of them.
const MAX_DECISIONS: usize = 1024;
/// Templates are sent again after so long (RFC 7011 §8.1).
const TEMPLATES_EVERY: Duration = Duration::from_secs(30);
/// Longest time that a record waits for company.
const LINGER: Duration = Duration::from_millis(250);

/// Where flow records go.
#[derive(Debug, Clone, Copy)]
pub struct FlowExport {
    pub collector: SocketAddr,
    /// One connection in so many.
    pub every: u32,
}

/// A decision of a rule with `log`, for a record.
#[derive(Debug)]
pub struct Decided {
    /// ms since 1970.
    pub at_ms: u64,
    /// firewallEvent.
    pub event: u8,
    pub ends: Ends,
    pub rule: String,
}

/// A packet thread's end.
pub struct FlowTap {
    taker: Taker<Event>,
    every: u32,
}

impl FlowTap {
    /// One connection in so many.
    pub fn every(&self) -> u32 {
        self.every
    }

    /// Takes what there is, if somebody will have it.
    pub fn take(&mut self, events: &mut Events, document: &Arc<Document>) {
        self.taker.take(0, events.ring(), document);
    }

    /// Events that found no room, or nobody.
    pub fn missed(&self) -> u64 {
        self.taker.missed()
    }
}

/// The thread that exports.
pub struct Export {
    /// An end for each packet thread.
    pub taps: Vec<FlowTap>,
    /// Where decisions of rules go.
    pub decisions: SyncSender<Decided>,
    /// Ends when all of these are gone.
    pub thread: JoinHandle<()>,
}

/// Starts it.
pub fn start(export: FlowExport, workers: usize, clock: Clock) -> Result<Export, StartError> {
    let failed = |source| StartError::Collector { collector: export.collector, source };
    let socket = connected(export.collector).map_err(failed)?;
    let (takers, given) = batches::channel(workers, BATCH);
    let (decisions, decided) = mpsc::sync_channel(MAX_DECISIONS);
    let exporter = Exporter::new(std::process::id(), export.every);
    let open = HashMap::new();
    let mut it = Thread { socket, exporter, clock, open, templates: None, sent: Instant::now(), decided };
    let thread = thread::Builder::new()
        .name("flows".into())
        .spawn(move || it.run(&given))
        .map_err(StartError::System)?;
    let taps = takers.into_iter().map(|taker| FlowTap { taker, every: export.every }).collect();
    Ok(Export { taps, decisions, thread })
}

/// A socket that sends there, from any address.
pub fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let local: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

/// What tells sampled connections apart.
type OpenKey = (IpAddr, IpAddr, u16, u16, u8);

struct Thread {
    socket: UdpSocket,
    exporter: Exporter,
    clock: Clock,
    /// When each was opened, ms since 1970.
    open: HashMap<OpenKey, u64>,
    /// When the templates were sent.
    templates: Option<Instant>,
    /// When all that there was was sent.
    sent: Instant,
    decided: Receiver<Decided>,
}

impl Thread {
    fn run(&mut self, given: &Given<Event>) {
        loop {
            match given.full.recv_timeout(LINGER.saturating_sub(self.sent.elapsed())) {
                Ok(batch) => {
                    self.export(&batch);
                    given.give_back(batch);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.decisions();
            if self.sent.elapsed() >= LINGER {
                self.send();
            }
        }
        // Who makes decisions into records ends soon after the packet threads.
        while let Ok(decided) = self.decided.recv_timeout(LINGER) {
            self.decision(&decided);
        }
        self.send();
    }

    fn export(&mut self, batch: &Batch<Event>) {
        for event in &batch.all {
            let name = chosen(&batch.document, event);
            let flow = self.flow(event, name);
            self.add(&flow);
        }
    }

    /// Those that wait.
    fn decisions(&mut self) {
        for _ in 0..MAX_DECISIONS {
            let Ok(decided) = self.decided.try_recv() else { return };
            self.decision(&decided);
        }
    }

    fn decision(&mut self, decided: &Decided) {
        let Decided { at_ms, event, ends, rule } = decided;
        self.add(&flow_of(ends, (*at_ms, *at_ms), *event, rule));
    }

    fn add(&mut self, flow: &Flow<'_>) {
        self.templates_if_due();
        if !self.exporter.add(flow) {
            self.send();
            self.templates_if_due();
            // An empty message has room for any record.
            let _ = self.exporter.add(flow);
        }
    }

    fn flow<'n>(&mut self, event: &Event, chosen: &'n str) -> Flow<'n> {
        let Ends { source, destination, source_port, destination_port, protocol, .. } = event.ends;
        let key = (source, destination, source_port, destination_port, protocol);
        let at_ms = self.clock.since_1970_ms(event.at_ms);
        let (event_code, start_ms) = match event.happened {
            Happened::Opened => {
                if self.open.len() < MAX_OPEN {
                    self.open.insert(key, at_ms);
                }
                (1, at_ms)
            }
            Happened::Closed => (2, self.open.remove(&key).unwrap_or(at_ms)),
        };
        flow_of(&event.ends, (start_ms, at_ms), event_code, chosen)
    }

    fn templates_if_due(&mut self) {
        if self.templates.is_none_or(|at| at.elapsed() > TEMPLATES_EVERY) {
            self.send();
            self.templates = Some(Instant::now());
            self.exporter.templates();
        }
    }

    fn send(&mut self) {
        self.sent = Instant::now();
        let now_s = u32::try_from(now_ms() / 1_000).unwrap_or(u32::MAX);
        let Some(message) = self.exporter.finish(now_s) else { return };
        // A collector that is not there says so in answer to the message before (ICMP): go on.
        if let Err(error) = self.socket.send(&message)
            && error.kind() != io::ErrorKind::ConnectionRefused
        {
            tracing::warn!("flow records: {error}");
        }
    }
}

fn flow_of<'n>(ends: &Ends, (start_ms, end_ms): (u64, u64), event: u8, chosen: &'n str) -> Flow<'n> {
    Flow {
        start_ms,
        end_ms,
        event,
        ingress: if ends.from_near { 1 } else { 2 },
        source: ends.source,
        destination: ends.destination,
        ports: (ends.source_port, ends.destination_port),
        protocol: ends.protocol,
        chosen,
    }
}

/// Name of the rule or backend.
fn chosen<'d>(document: &'d Document, event: &Event) -> &'d str {
    let index = usize::try_from(event.chosen).unwrap_or(usize::MAX);
    chosen_of(&document.configuration.function, index).unwrap_or("")
}

fn chosen_of(function: &Function, index: usize) -> Option<&str> {
    match function {
        Function::Firewall(f) => f.rules.get(index).map(|r| r.id.as_str()),
        Function::LoadBalancer(l) => l.backends.get(index).map(|b| b.id.as_str()),
        // Of the first that keeps events: whatever may stand in a row does.
        Function::Chain(c) => chosen_of(c.functions.first()?, index),
        Function::Reflector(_) | Function::Generator(_) => None,
    }
}
