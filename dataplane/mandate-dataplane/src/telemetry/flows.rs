//! Flow records: batches of events from the packet threads become IPFIX messages to a collector, by UDP, on a thread of their own.
//!
//! A connection that is sampled is told twice: when it is opened, and when it is over, with its start if it is remembered. The
//! memory for that is bounded, and so is the queue; what finds no room is counted.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use dataplane_control::Function;
use dataplane_engine::events::{BATCH, Event, Events, Happened};

use super::ipfix::{Exporter, Flow};
use crate::{clock::Clock, document::Document, error::StartError};

/// Batches of one packet thread on their way, or back.
const BATCHES: usize = 8;
/// Sampled connections whose start is remembered.
const MAX_OPEN: usize = 65_536;
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

struct Batch {
    worker: usize,
    events: Vec<Event>,
    /// What `chosen` is an index of.
    document: Arc<Document>,
}

/// A packet thread's end.
pub struct FlowTap {
    worker: usize,
    spare: Receiver<Vec<Event>>,
    full: SyncSender<Batch>,
    every: u32,
    missed: u64,
}

impl FlowTap {
    /// One connection in so many.
    pub fn every(&self) -> u32 {
        self.every
    }

    /// Takes what there is, if somebody will have it.
    pub fn take(&mut self, events: &mut Events, document: &Arc<Document>) {
        if events.is_empty() {
            return;
        }
        let Ok(empty) = self.spare.try_recv() else { return };
        let batch = Batch { worker: self.worker, events: events.exchange(empty), document: document.clone() };
        let length = batch.events.len() as u64;
        // There are fewer batches than the queue has room for: full means that nobody is there any more.
        if self.full.try_send(batch).is_err() {
            self.missed += length;
        }
    }

    /// Events that were taken and lost.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

/// Starts the thread that exports; gives one end for each packet thread.
pub fn start(export: FlowExport, workers: usize, clock: Clock) -> Result<Vec<FlowTap>, StartError> {
    let failed = |source| StartError::Collector { collector: export.collector, source };
    let local: IpAddr = match export.collector {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0)).map_err(failed)?;
    socket.connect(export.collector).map_err(failed)?;
    let (into, full) = mpsc::sync_channel(BATCHES * workers);
    let (taps, spare) = (0..workers)
        .map(|worker| {
            let (give, spare) = mpsc::sync_channel(BATCHES);
            for _ in 0..BATCHES {
                // As many as there is room for.
                let _ = give.try_send(Vec::with_capacity(BATCH));
            }
            (FlowTap { worker, spare, full: into.clone(), every: export.every, missed: 0 }, give)
        })
        .unzip();
    let exporter = Exporter::new(std::process::id(), export.every);
    let open = HashMap::new();
    let mut thread = Thread { socket, exporter, clock, open, templates: None, spare };
    thread::Builder::new()
        .name("flows".into())
        .spawn(move || thread.run(&full))
        .map_err(StartError::System)?;
    Ok(taps)
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
    spare: Vec<SyncSender<Vec<Event>>>,
}

impl Thread {
    fn run(&mut self, full: &Receiver<Batch>) {
        loop {
            match full.recv_timeout(LINGER) {
                Ok(batch) => self.export(batch),
                Err(RecvTimeoutError::Timeout) => self.send(),
                Err(RecvTimeoutError::Disconnected) => return self.send(),
            }
        }
    }

    fn export(&mut self, batch: Batch) {
        for event in &batch.events {
            let name = chosen(&batch.document, event);
            let flow = self.flow(event, name);
            self.templates_if_due();
            if !self.exporter.add(&flow) {
                self.send();
                self.templates_if_due();
                // An empty message has room for any record.
                let _ = self.exporter.add(&flow);
            }
        }
        if let Some(spare) = self.spare.get(batch.worker) {
            let _ = spare.try_send(batch.events);
        }
    }

    fn flow<'n>(&mut self, event: &Event, chosen: &'n str) -> Flow<'n> {
        let Event { source, destination, source_port, destination_port, protocol, .. } = *event;
        let key = (source, destination, source_port, destination_port, protocol);
        let at_ms = self.since_1970_ms(event.at_ms);
        let (event_code, start_ms) = match event.happened {
            Happened::Opened => {
                if self.open.len() < MAX_OPEN {
                    self.open.insert(key, at_ms);
                }
                (1, at_ms)
            }
            Happened::Closed => (2, self.open.remove(&key).unwrap_or(at_ms)),
        };
        Flow {
            start_ms,
            end_ms: at_ms,
            event: event_code,
            ingress: if event.from_near { 1 } else { 2 },
            source,
            destination,
            ports: (source_port, destination_port),
            protocol,
            chosen,
        }
    }

    /// The functions' clock wraps after 49 days: what is told is not so old.
    fn since_1970_ms(&self, at_ms: u32) -> u64 {
        let clock_ms = u32::try_from((self.clock.now_us() / 1_000) & u64::from(u32::MAX)).unwrap_or(0);
        now_ms().saturating_sub(clock_ms.wrapping_sub(at_ms).into())
    }

    fn templates_if_due(&mut self) {
        if self.templates.is_none_or(|at| at.elapsed() > TEMPLATES_EVERY) {
            self.send();
            self.templates = Some(Instant::now());
            self.exporter.templates();
        }
    }

    fn send(&mut self) {
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

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
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
        // The first one's events are told.
        Function::Chain(c) => chosen_of(c.functions.first()?, index),
        Function::Reflector(_) | Function::Generator(_) => None,
    }
}
