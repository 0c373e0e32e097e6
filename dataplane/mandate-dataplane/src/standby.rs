//! State sync between a load balancer and its standby: what packet threads leave of their connections goes out as datagrams on one thread;
//! those of others come in on another, which gives them to the packet thread, a datagram at a time.
//!
//! A datagram is taken once, in the order of its session's, within [`FRESH_MS`] of its time stamp; its connections are older by the time that
//! it was under way. Whatever else comes is counted, and said once in [`QUIET`]. Neither thread holds up packets: what is not taken in time is
//! told again in the next round.
//!
//! Tests: below; `tests/standby.rs`; the form of datagrams: `dataplane_control::sync`.

use std::{
    collections::BTreeMap,
    fs, io,
    net::UdpSocket,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::RecvTimeoutError,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use dataplane_control::sync::{Datagram, Key, SyncError, Told};
use dataplane_engine::events::{Ring, TELL_BATCH};

use crate::{
    arguments::Arguments,
    clock::now_ms,
    command::{ANSWER_WITHIN, Command, Workers},
    document::Document,
    error::{Refusal, StartError},
    telemetry::{
        batches::{self, Batch, Given, Taker},
        flows::connected,
    },
};

/// How far a datagram's time stamp may be from our clock, ms.
const FRESH_MS: u64 = 30_000;
/// A session that says nothing for so long is forgotten, ms: whatever it said is no longer fresh.
const SESSION_MS: u64 = 2 * FRESH_MS;
/// Sessions at once: a few peers, each started again a few times a minute.
const MAX_SESSIONS: usize = 16;
/// Longest time that a connection waits for company.
const LINGER: Duration = Duration::from_millis(100);
/// The same trouble is said once in so long.
const QUIET: Duration = Duration::from_secs(60);
/// Pause after a failed recv(2).
const PAUSE: Duration = Duration::from_millis(100);

/// Of the process.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    unsent: AtomicU64,
    datagrams: AtomicU64,
    datagrams_refused: AtomicU64,
}

impl Counts {
    fn add(count: &AtomicU64, more: usize) {
        count.fetch_add(u64::try_from(more).unwrap_or(0), Ordering::Relaxed);
    }
}

/// A packet thread's end.
pub struct SyncTap {
    taker: Option<Taker<Told>>,
    counts: Arc<Counts>,
    first: bool,
}

impl SyncTap {
    /// Whether connections are told.
    pub fn tells(&self) -> bool {
        self.taker.is_some()
    }

    /// Takes what a function of the row left, if somebody will have it.
    pub fn take(&mut self, part: usize, ring: &mut Ring<Told>, document: &Arc<Document>) {
        if let Some(taker) = &mut self.taker {
            taker.take(part, ring, document);
        }
    }

    /// Adds the process's counters, once.
    pub fn counters(&self, out: &mut BTreeMap<String, u64>) {
        let Counts { sent, unsent, datagrams, datagrams_refused } = &*self.counts;
        let all = [
            ("sync.sent", sent),
            ("sync.unsent", unsent),
            ("sync.datagrams", datagrams),
            ("sync.datagrams_refused", datagrams_refused),
        ];
        if self.first {
            out.extend(all.map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed))));
        }
    }
}

/// What the process has of state sync.
pub struct Standby {
    /// An end for each packet thread.
    pub taps: Vec<SyncTap>,
    /// Ends when all packet threads' ends are gone.
    pub teller: Option<JoinHandle<()>>,
    listener: Option<Listener>,
}

/// Opens what the arguments ask for, and starts to tell.
pub fn start(arguments: &Arguments) -> Result<Option<Standby>, StartError> {
    let Some(path) = &arguments.sync_key else { return Ok(None) };
    let workers = arguments.workers;
    if arguments.sync_from.is_some() && workers > 1 {
        return Err(StartError::SyncWorkers { workers });
    }
    let key = read_key(path)?;
    let session = getrandom::u64().map_err(|e| StartError::System(io::Error::other(e.to_string())))?;
    let counts = Arc::new(Counts::default());
    let (mut takers, mut teller) = (vec![], None);
    if let Some(to) = arguments.sync_to {
        let socket = connected(to).map_err(|source| StartError::Sync { address: to, source })?;
        let (all, given) = batches::channel(workers.into(), TELL_BATCH);
        takers = all;
        let it = Teller::new(socket, key.clone(), session, counts.clone());
        let run = move || it.run(&given);
        let thread = thread::Builder::new().name("sync-to".into()).spawn(run);
        teller = Some(thread.map_err(StartError::System)?);
    }
    let listen = |from| {
        let socket = UdpSocket::bind(from).map_err(|source| StartError::Sync { address: from, source })?;
        let ear = Ear { key: key.clone(), own: session, sessions: BTreeMap::new() };
        Ok::<_, StartError>(Listener { socket, ear, counts: counts.clone() })
    };
    let listener = arguments.sync_from.map(listen).transpose()?;
    let mut takers = takers.into_iter();
    let taps =
        (0..workers).map(|index| SyncTap { taker: takers.next(), counts: counts.clone(), first: index == 0 });
    Ok(Some(Standby { taps: taps.collect(), teller, listener }))
}

fn read_key(path: &Path) -> Result<Key, StartError> {
    let wrong = |problem: String| StartError::SyncKey { path: path.to_owned(), problem };
    let bytes =
        fs::read(path).map_err(|e| wrong(format!("{e}; --sync-key names a file that this user may read")))?;
    Key::new(&bytes).map_err(|e| wrong(e.to_string()))
}

impl Standby {
    /// Gives what others tell to the packet thread from now on.
    pub fn listen(&mut self, workers: Workers) -> Result<(), StartError> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let run = move || listener.run(&workers);
        thread::Builder::new().name("sync-from".into()).spawn(run).map_err(StartError::System)?;
        Ok(())
    }
}

/// Trouble that is said at a bounded rate.
#[derive(Default)]
struct Trouble {
    said: Option<Instant>,
    since: u64,
}

impl Trouble {
    /// How often it was, this time included, if it is to be said now.
    fn again(&mut self) -> Option<u64> {
        self.since += 1;
        if self.said.is_some_and(|at| at.elapsed() < QUIET) {
            return None;
        }
        self.said = Some(Instant::now());
        Some(std::mem::take(&mut self.since))
    }
}

/// The thread that tells.
struct Teller {
    socket: UdpSocket,
    key: Key,
    datagram: Datagram,
    /// When all that there was was sent.
    sent: Instant,
    counts: Arc<Counts>,
    trouble: Trouble,
}

impl Teller {
    fn new(socket: UdpSocket, key: Key, session: u64, counts: Arc<Counts>) -> Self {
        let datagram = Datagram::new(session, 0, "");
        Self { socket, key, datagram, sent: Instant::now(), counts, trouble: Trouble::default() }
    }

    fn run(mut self, given: &Given<Told>) {
        loop {
            match given.full.recv_timeout(LINGER.saturating_sub(self.sent.elapsed())) {
                Ok(batch) => {
                    self.tell(&batch);
                    given.give_back(batch);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.sent.elapsed() >= LINGER {
                self.send();
            }
        }
        self.send();
    }

    fn tell(&mut self, batch: &Batch<Told>) {
        // A row has four functions at most.
        let part = u8::try_from(batch.part).unwrap_or(u8::MAX);
        let instance = &batch.document.configuration.instance;
        if self.datagram.part != part || self.datagram.instance() != instance {
            self.send();
            let next = Datagram::new(self.datagram.session, part, instance);
            self.datagram = next.numbered(self.datagram.sequence, 0);
        }
        for told in &batch.all {
            if !self.datagram.push(*told) {
                self.send();
                // An empty datagram has room for any.
                let _ = self.datagram.push(*told);
            }
        }
    }

    fn send(&mut self) {
        self.sent = Instant::now();
        let connections = self.datagram.connections().len();
        if connections == 0 {
            return;
        }
        self.datagram.sequence += 1;
        self.datagram.at_ms = now_ms();
        let sent = self.socket.send(&self.key.seal(&self.datagram));
        self.datagram.clear();
        match sent {
            Ok(_) => Counts::add(&self.counts.sent, connections),
            Err(error) => {
                Counts::add(&self.counts.unsent, connections);
                if let Some(times) = self.trouble.again() {
                    tracing::warn!(times, "state sync: cannot tell the standby: {error}; it is told again");
                }
            }
        }
    }
}

/// What was last heard of a session.
#[derive(Debug, Clone, Copy)]
struct Heard {
    sequence: u64,
    /// By our clock, ms since 1970.
    at_ms: u64,
}

/// What decides whether a datagram is taken.
struct Ear {
    key: Key,
    /// Our own session.
    own: u64,
    sessions: BTreeMap<u64, Heard>,
}

/// Why one is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Datagram(SyncError),
    #[error("a datagram {0} ms from our time; set the clocks of both ends, or it was sent again")]
    Stale(u64),
    #[error("a datagram that came already, or after a later one")]
    Repeated,
    #[error("a datagram of our own; --sync-to names the other end's --sync-from")]
    Own,
    #[error("more than {MAX_SESSIONS} senders within a minute")]
    Crowd,
}

impl Ear {
    /// The datagram of a peer, its connections as old as they are by now; and whether its session is new.
    fn hear(&mut self, bytes: &[u8], now_ms: u64) -> Result<(Datagram, bool), Refused> {
        let datagram = self.key.open(bytes).map_err(Refused::Datagram)?;
        let Datagram { session, sequence, at_ms, .. } = datagram;
        if session == self.own {
            return Err(Refused::Own);
        }
        if now_ms.abs_diff(at_ms) > FRESH_MS {
            return Err(Refused::Stale(now_ms.abs_diff(at_ms)));
        }
        self.sessions.retain(|_, heard| now_ms.abs_diff(heard.at_ms) <= SESSION_MS);
        let before = self.sessions.get(&session);
        if before.is_some_and(|heard| sequence <= heard.sequence) {
            return Err(Refused::Repeated);
        }
        let new = before.is_none();
        if new && self.sessions.len() >= MAX_SESSIONS {
            return Err(Refused::Crowd);
        }
        self.sessions.insert(session, Heard { sequence, at_ms: now_ms });
        Ok((datagram, new))
    }
}

/// The thread that listens.
struct Listener {
    socket: UdpSocket,
    ear: Ear,
    counts: Arc<Counts>,
}

impl Listener {
    fn run(mut self, workers: &Workers) {
        let mut buffer = [0; 2048];
        let (mut trouble, mut stalled) = (Trouble::default(), Trouble::default());
        loop {
            let (length, peer) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) => {
                    if let Some(times) = trouble.again() {
                        tracing::warn!(times, "state sync: {error}");
                    }
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            let now_ms = now_ms();
            let told = match self.ear.hear(buffer.get(..length).unwrap_or_default(), now_ms) {
                Ok((datagram, new)) => {
                    if new {
                        let instance = datagram.instance();
                        tracing::info!(%peer, instance, "state sync: a peer tells of its connections");
                    }
                    datagram
                }
                Err(refused) => {
                    Counts::add(&self.counts.datagrams_refused, 1);
                    if let Some(times) = trouble.again() {
                        tracing::warn!(%peer, times, "state sync: refused: {refused}");
                    }
                    continue;
                }
            };
            Counts::add(&self.counts.datagrams, 1);
            match give(workers, told, now_ms) {
                Ok(()) => {}
                Err(Refusal { code: "SHUTTING_DOWN", .. }) => return,
                Err(error) => {
                    if let Some(times) = stalled.again() {
                        tracing::warn!(times, "state sync: {error}");
                    }
                }
            }
        }
    }
}

/// Gives a datagram's connections to the packet thread and waits until it has them: no more than one waits in its queue.
fn give(workers: &Workers, datagram: Datagram, now_ms: u64) -> Result<(), Refusal> {
    let part = usize::from(datagram.part);
    let late_ms = u32::try_from(now_ms.saturating_sub(datagram.at_ms)).unwrap_or(u32::MAX);
    let mut told = datagram.into_connections();
    for one in &mut told {
        one.idle_ms = one.idle_ms.saturating_add(late_ms);
    }
    let Some(worker) = workers.each().first() else { return Ok(()) };
    worker.ask(|reply| Command::Adopt { part, told, reply }, ANSWER_WITHIN).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    fn key(octet: u8) -> Key {
        Key::new(&[octet; 32]).unwrap()
    }

    fn ear() -> Ear {
        Ear { key: key(1), own: 5, sessions: BTreeMap::new() }
    }

    fn sealed(session: u64, sequence: u64, at_ms: u64) -> Vec<u8> {
        key(1).seal(&Datagram::new(session, 0, "other").numbered(sequence, at_ms))
    }

    const NOW_MS: u64 = 1_795_000_000_000;

    #[test]
    fn a_datagram_is_taken_once_in_order_and_while_it_is_fresh() {
        let mut ear = ear();
        let mut hear = |session, sequence, at_ms, now_ms| {
            ear.hear(&sealed(session, sequence, at_ms), now_ms).map(|(_, new)| new)
        };
        assert_eq!(hear(1, 7, NOW_MS, NOW_MS), Ok(true));
        assert_eq!(hear(1, 7, NOW_MS, NOW_MS), Err(Refused::Repeated));
        assert_eq!(hear(1, 9, NOW_MS + 5, NOW_MS + 9), Ok(false));
        assert_eq!(hear(1, 8, NOW_MS + 4, NOW_MS + 10), Err(Refused::Repeated));
        assert_eq!(hear(1, 10, NOW_MS, NOW_MS + 30_001), Err(Refused::Stale(30_001)));
        assert_eq!(hear(1, 10, NOW_MS + 30_001, NOW_MS), Err(Refused::Stale(30_001)));
        // Started again.
        assert_eq!(hear(2, 1, NOW_MS + 20, NOW_MS + 20), Ok(true));
        assert_eq!(hear(1, 9, NOW_MS + 5, NOW_MS + 21), Err(Refused::Repeated));
        assert_eq!(hear(5, 1, NOW_MS, NOW_MS), Err(Refused::Own));
        // A session is remembered for longer than anything that it said is fresh.
        let late = NOW_MS + 30_000;
        assert_eq!(hear(3, 1, late, NOW_MS), Ok(true));
        assert_eq!(hear(3, 1, late, NOW_MS + 60_000), Err(Refused::Repeated));
        assert_eq!(hear(3, 1, late, NOW_MS + 60_001), Err(Refused::Stale(30_001)));
    }

    #[test]
    fn neither_strangers_nor_crowds_are_heard() {
        let mut ear = ear();
        let stranger = key(2).seal(&Datagram::new(1, 0, "x").numbered(1, NOW_MS));
        assert_eq!(ear.hear(&stranger, NOW_MS).unwrap_err(), Refused::Datagram(SyncError::Code));
        assert_eq!(ear.hear(b"hello", NOW_MS).unwrap_err(), Refused::Datagram(SyncError::Foreign));
        for session in 100..116 {
            assert!(ear.hear(&sealed(session, 1, NOW_MS), NOW_MS).is_ok());
        }
        assert_eq!(ear.hear(&sealed(116, 1, NOW_MS), NOW_MS).unwrap_err(), Refused::Crowd);
        let later = NOW_MS + 60_001;
        assert!(ear.hear(&sealed(116, 1, later), later).is_ok());
    }

    fn told(client_port: u16) -> Told {
        Told {
            client: [198, 51, 100, 7].into(),
            client_port,
            service: [192, 0, 2, 10].into(),
            service_port: 53,
            protocol: 17,
            vlans: 0,
            client_mac: [2; 6],
            ends: 0,
            backend: 1,
            idle_ms: 100,
        }
    }

    #[test]
    fn connections_are_as_old_as_they_are_when_they_are_given() {
        let mut datagram = Datagram::new(1, 3, "other").numbered(1, NOW_MS);
        assert!(datagram.push(told(4)) && datagram.push(Told { idle_ms: u32::MAX - 1, ..told(5) }));
        let (handle, inbox) = command::channel().unwrap();
        let workers = Workers::new(vec![handle]).unwrap();
        let thread = thread::spawn(move || give(&workers, datagram, NOW_MS + 25));
        let got = loop {
            match inbox.next() {
                Some(Command::Adopt { part, told, reply }) => {
                    let idle: Vec<u32> = told.iter().map(|t| t.idle_ms).collect();
                    reply.send(Ok(told)).unwrap();
                    break (part, idle);
                }
                Some(_) => panic!("another command"),
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        assert_eq!(got, (3, vec![125, u32::MAX]));
        assert_eq!(thread.join().unwrap(), Ok(()));
    }

    #[test]
    fn a_standby_that_is_not_there_is_told_again_and_counted() {
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let mut teller = Teller::new(connected(gone).unwrap(), key(1), 1, counts.clone());
        let until = Instant::now() + Duration::from_secs(10);
        while counts.unsent.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < until, "nobody says that it is not there");
            assert!(teller.datagram.push(told(1)));
            teller.send();
        }
        assert!(teller.datagram.sequence > 1 && teller.datagram.connections().is_empty());
        // It is there again.
        let there = UdpSocket::bind(gone).unwrap();
        let before = counts.sent.load(Ordering::Relaxed);
        while counts.sent.load(Ordering::Relaxed) == before {
            assert!(teller.datagram.push(told(2)));
            teller.send();
        }
        let mut buffer = [0; 2048];
        let length = there.recv(&mut buffer).unwrap();
        let (heard, new) = ear().hear(&buffer[..length], now_ms()).unwrap();
        assert_eq!((heard.connections(), new), (&[told(2)][..], true));
    }

    #[test]
    fn trouble_is_said_once_and_counted() {
        let mut trouble = Trouble::default();
        assert_eq!(trouble.again(), Some(1));
        assert_eq!((trouble.again(), trouble.again()), (None, None));
        trouble.said = Instant::now().checked_sub(QUIET);
        assert_eq!(trouble.again(), Some(3));
    }
}
