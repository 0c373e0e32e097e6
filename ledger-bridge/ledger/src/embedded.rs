//! The embedded log: a directory of one machine, in C2SP tlog-tiles ([`layout`] names its files).
//!
//! A request passes through four hands, each of which goes on while the next one works:
//!
//! 1. Who submits it reads it and checks its signatures ([`ledger_contract::contract::Prepared`]): many at once.
//! 2. One thread ([`writer`]) decides the requests in order, each over the state that the one before left and at the
//!    ledger's time. Two kinds of request are answered at once, without an entry: all of them while the clock cannot be
//!    believed ([`LedgerError::Clock`]; try again), and those that nobody known to the ledger has signed
//!    ([`LedgerError::Unauthenticated`]), for the log is kept for ever and a stranger must not be able to make it grow.
//!    Refusals of those who are known are entries like approvals.
//! 3. Another ([`committer`]) commits everything that was decided meanwhile, up to [`MAX_BATCH`], with one sync
//!    ([`store`] has the protocol), shows it to readers and answers; who submitted makes the proof.
//! 4. A third ([`applier`]) brings the derived state up to date ([`state`]), some milliseconds later.
//!
//! When any of that fails the log closes, for what is on disk is no longer known; opening it again finds out.
//!
//! # What opening verifies
//!
//! The tail, whole, against the log's key; that the published checkpoint is of the same tree; that the derived state
//! was made from this tree, and the rows of it ([`MAX_SCAN_BYTES`] at once, more in the background). Entries that the
//! state does not cover are decided again, and must give the writes that they say. Everything else that is read is
//! verified when it is read; `mandate ledger fsck` reads everything ([`crate::fsck`]).
//!
//! # Ledger time
//!
//! Ledger time is the wall clock, but never goes back. So that one wrong reading cannot push it into the future for
//! ever, the clock is believed once, at opening, and from then on only as far as the machine's uptime bears it out
//! ([`MAX_AHEAD_S`]). A ledger may have been idle for any time up to [`MAX_IDLE_S`] when it is opened; beyond that
//! somebody has to confirm the clock ([`OpenOptions::accept_clock`]).
//!
//! Never: creating a log in [`Log::open`], changing or removing a committed byte. Tests: beside each module, and
//! `tests/`; figures: `examples/ledger-bench.rs`.

mod applier;
mod clock;
mod committer;
mod convert;
mod decide;
pub(crate) mod disk;
pub(crate) mod edge;
pub(crate) mod home;
pub(crate) mod layout;
mod publisher;
pub(crate) mod reader;
mod recent;
mod recover;
mod rotation;
#[cfg(test)]
mod simulated;
pub(crate) mod state;
pub(crate) mod store;
pub(crate) mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread::JoinHandle,
};

use async_trait::async_trait;
use ledger_contract::{
    contract::Prepared,
    evidence::{InclusionProof, ProvenEntry},
};
use tokio::sync::{mpsc, oneshot, watch};
use trust::{
    Digest, Envelope, UnixTime,
    note::{NoteSigner, NoteVerifier},
};

use crate::{Committed, Extension, Ledger, LedgerError, MAX_PAGE};
use applier::Applier;
use clock::LedgerClock;
pub use clock::{MAX_AHEAD_S, MAX_IDLE_S};
use committer::{Answer, Committer};
use disk::{Disk, RealDisk};
use home::Lock;
use publisher::Publisher;
use reader::{Tiles, View};
use recent::Recent;
pub use recover::MAX_SCAN_BYTES;
use state::{Changes, Covers, State, StateError};
use store::{Founding, Head, ROTATE_BYTES, Store};
use writer::{Job, Writer};

/// Most requests that wait to be decided; the next submitter waits for a place.
pub const MAX_QUEUE: usize = 1024;
/// Most requests that share one sync.
pub const MAX_BATCH: usize = 256;

/// The key of the log in `dir`, whether it is open or not.
pub fn log_key(dir: &std::path::Path) -> Result<NoteSigner, LedgerError> {
    home::key(dir)
}

/// What an operator has to confirm when opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// Believe the clock although it is more than [`MAX_IDLE_S`] ahead of the last entry.
    pub accept_clock: bool,
}

/// An append-only log in a directory, open and locked. Dropping it closes it.
#[derive(Debug)]
pub struct Log {
    name: String,
    verifier: NoteVerifier,
    shared: Arc<Shared>,
    last_event: watch::Receiver<Option<u64>>,
    jobs: Option<mpsc::Sender<Job>>,
    /// The deciding and the committing thread.
    writing: [Option<JoinHandle<()>>; 2],
    applier: Arc<Applier>,
    applying: Option<JoinHandle<()>>,
    publisher: Arc<Publisher>,
    publishing: Option<JoinHandle<()>>,
    // Dropped last: the lock is released when nothing can write any more.
    _lock: Lock,
}

/// What readers see: only what is committed.
#[derive(Debug)]
struct Shared {
    tiles: Tiles,
    committed: RwLock<CommittedLog>,
    /// Who reads the derived state holds it to read: no change moves from memory into the database meanwhile.
    settling: RwLock<()>,
    /// The derived state; what it does not cover yet is in [`CommittedLog`].
    state: Mutex<State>,
    /// Why the writer stopped, once it has.
    stopped: RwLock<Option<String>>,
}

#[derive(Debug, Clone)]
struct CommittedLog {
    head: Arc<Head>,
    /// What the database is taking up now.
    applying: Arc<Changes>,
    /// What was committed after that.
    pending: Arc<Changes>,
}

impl CommittedLog {
    fn new(head: Arc<Head>) -> Self {
        Self { head, applying: Arc::default(), pending: Arc::default() }
    }

    /// Oldest first.
    fn changes(&self) -> [&Changes; 2] {
        [&self.applying, &self.pending]
    }

    /// What was written last, if the database may not have it.
    fn written(&self, key: &str) -> Option<Option<Vec<u8>>> {
        self.changes().iter().rev().find_map(|c| c.state.get(key).cloned())
    }
}

impl Log {
    /// Creates a log in `dir` (new or empty) with its key and its genesis, and closes it again.
    ///
    /// The ledger's name is the signer's, and the genesis must say the same.
    pub fn init(
        dir: &Path,
        signer: &NoteSigner,
        genesis: Envelope,
        time: UnixTime,
    ) -> Result<(), LedgerError> {
        let name = signer.verifier().name().to_owned();
        let entry = writer::found(&name, genesis, time)?;
        let _lock = home::create(dir, signer)?;
        let disk = RealDisk::default();
        let mut founding = Founding::new(&disk, dir);
        founding.push(&entry.to_bytes())?;
        let note = signer.sign_checkpoint(1, founding.root()?).map_err(LedgerError::Key)?;
        let head = founding.finish(&name, &note)?;
        store::publish(&disk, dir, &head, 0).map(|_| ())
    }

    /// Opens the log in `dir`; never creates one.
    pub fn open(
        dir: &Path,
        clock: impl Fn() -> UnixTime + Send + Sync + 'static,
    ) -> Result<Self, LedgerError> {
        Self::open_with(dir, clock, OpenOptions::default())
    }

    /// [`Self::open`], with what an operator has confirmed.
    pub fn open_with(
        dir: &Path,
        clock: impl Fn() -> UnixTime + Send + Sync + 'static,
        options: OpenOptions,
    ) -> Result<Self, LedgerError> {
        if !home::present(dir) {
            return Err(LedgerError::Missing { dir: dir.to_owned() });
        }
        let lock = Lock::take(dir)?;
        let signer = home::key(dir)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::default());
        convert::convert(&*disk, dir, &signer)?;
        let (store, published) = Store::open(Arc::clone(&disk), dir, signer.clone(), ROTATE_BYTES)?;
        let tiles = Tiles::new(Arc::clone(&disk), dir);
        let name = signer.verifier().name().to_owned();
        let head = Arc::clone(store.head());
        let recovered = recover::recover(dir, &name, &View::new(&tiles, &head), &head)?;
        let clock = LedgerClock::start(
            dir,
            Box::new(clock),
            clock::uptime(),
            recovered.last_time,
            options.accept_clock,
        )?;
        let published = store::publish_whole(&*disk, dir, &head, published)?;
        let state_path = dir.join(layout::STATE);
        let (last_event_tx, last_event) = watch::channel(recovered.state.last_event()?);
        let shared = Arc::new(Shared {
            tiles,
            committed: RwLock::new(CommittedLog::new(Arc::clone(&head))),
            settling: RwLock::default(),
            state: Mutex::new(State::open(&state_path, &name)?),
            stopped: RwLock::new(None),
        });
        let publisher = Arc::new(Publisher::default());
        let started =
            |source| LedgerError::Storage { doing: "start the threads of", path: dir.to_owned(), source };
        let publishing =
            publisher.start(Arc::clone(&shared), disk, dir.to_owned(), published).map_err(started)?;
        let (jobs, queue) = mpsc::channel(MAX_QUEUE);
        if recovered.scan_later {
            recover::scan_in_background(&state_path, &name, &shared, jobs.downgrade()).map_err(started)?;
        }
        let applier = Arc::new(Applier::new(head.size()));
        let (hand_over, decided) = std::sync::mpsc::sync_channel(MAX_BATCH);
        let writer = Writer {
            name: name.clone(),
            state: State::open(&state_path, &name)?,
            state_path: state_path.clone(),
            recent: Recent::default(),
            next: head.size(),
            last_time: recovered.last_time,
            clock,
            shared: Arc::clone(&shared),
            applier: Arc::clone(&applier),
            committer: hand_over,
        };
        let committer = Committer {
            name: name.clone(),
            store,
            shared: Arc::clone(&shared),
            last_event: last_event_tx,
            publisher: Arc::clone(&publisher),
            applier: Arc::clone(&applier),
            rotating: None,
        };
        let applying =
            applier.start(Arc::clone(&shared), recovered.state, state_path, name.clone()).map_err(started)?;
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let committing = thread("ledger-committer").spawn(move || committer.run(decided)).map_err(started)?;
        let writing = thread("ledger-writer").spawn(move || writer.run(queue)).map_err(started)?;
        Ok(Self {
            name,
            verifier: signer.verifier(),
            shared,
            last_event,
            jobs: Some(jobs),
            writing: [Some(writing), Some(committing)],
            applier,
            applying: Some(applying),
            publisher,
            publishing: Some(publishing),
            _lock: lock,
        })
    }

    /// The public key of its checkpoints; its text form is what `TrustRoots::logs` lists.
    #[must_use]
    pub fn verifier(&self) -> &NoteVerifier {
        &self.verifier
    }

    /// Number of committed entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared.head().size()
    }

    fn closed(&self) -> LedgerError {
        let reason = self.shared.stopped.read().unwrap_or_else(PoisonError::into_inner).clone();
        LedgerError::Closed { reason: reason.unwrap_or_else(|| "it was shut down".to_owned()) }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // The writer ends when its queue does; what was queued before is committed first, and then published.
        self.jobs = None;
        let ended = |thread: &mut Option<JoinHandle<()>>| {
            !matches!(thread.take().map(JoinHandle::join), Some(Err(_)))
        };
        let [deciding, committing] = self.writing.each_mut().map(ended);
        self.applier.stop();
        let applying = ended(&mut self.applying);
        self.publisher.stop();
        if ![deciding, committing, applying, ended(&mut self.publishing)].iter().all(|well| *well) {
            tracing::error!(ledger = %self.name, "a thread of the ledger panicked");
        }
    }
}

impl Shared {
    /// A reader that panicked has changed nothing, so a poisoned lock is as good as any.
    fn read<T>(&self, f: impl FnOnce(&CommittedLog) -> T) -> T {
        f(&self.committed.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn head(&self) -> Arc<Head> {
        self.read(|log| Arc::clone(&log.head))
    }

    /// What is durable becomes visible.
    fn show(&self, head: &Arc<Head>, changes: Changes) {
        let mut log = self.committed.write().unwrap_or_else(PoisonError::into_inner);
        log.head = Arc::clone(head);
        Arc::make_mut(&mut log.pending).extend(changes);
    }

    /// What the database is to take up, and what it covers then; nothing when it is up to date.
    fn take(&self) -> Option<(Arc<Changes>, Covers)> {
        let _nobody_reads = self.settling.write().unwrap_or_else(PoisonError::into_inner);
        let mut log = self.committed.write().unwrap_or_else(PoisonError::into_inner);
        if log.pending.seen.is_empty() {
            return None;
        }
        log.applying = std::mem::take(&mut log.pending);
        let covers = Covers { size: log.head.size(), root: log.head.root };
        Some((Arc::clone(&log.applying), covers))
    }

    /// The database has taken it up.
    fn settle(&self) {
        let _nobody_reads = self.settling.write().unwrap_or_else(PoisonError::into_inner);
        let mut log = self.committed.write().unwrap_or_else(PoisonError::into_inner);
        log.applying = Arc::default();
    }

    /// Reads the state with what it lacks. Commits go on meanwhile; only the database waits.
    fn state<T>(&self, f: impl FnOnce(&State, &CommittedLog) -> T) -> T {
        let _unsettled = self.settling.read().unwrap_or_else(PoisonError::into_inner);
        let log = self.read(CommittedLog::clone);
        f(&self.state.lock().unwrap_or_else(PoisonError::into_inner), &log)
    }

    /// What was committed, with its proof.
    fn committed(&self, answer: Answer) -> Result<Committed, LedgerError> {
        let Answer { head, position, entry } = answer;
        let beyond = || LedgerError::Range { asked: position, size: head.size() };
        let Some((entry, bytes)) = entry else {
            let proven = self.proven(&head, position)?.ok_or_else(beyond)?;
            let entry = serde_json::from_str(&proven.entry)
                .map_err(|e| StateError::Damaged(format!("entry {position} cannot be read: {e}")))?;
            return Ok(Committed { entry, proven });
        };
        let path = View::new(&self.tiles, &head).inclusion(position)?.ok_or_else(beyond)?;
        let proof = InclusionProof { index: position, path, checkpoint: head.note.clone() };
        // JSON is UTF-8.
        let text = String::from_utf8(bytes).unwrap_or_default();
        Ok(Committed { entry, proven: ProvenEntry { entry: text, proof, channel: None } })
    }

    fn stop(&self, name: &str, why: &LedgerError) {
        let cause = std::error::Error::source(why).map(|s| format!(": {s}")).unwrap_or_default();
        tracing::error!(ledger = %name, error = %why, "the ledger is closed{cause}");
        let mut stopped = self.stopped.write().unwrap_or_else(PoisonError::into_inner);
        stopped.get_or_insert(format!("{why}{cause}"));
    }

    fn proven(&self, head: &Head, position: u64) -> Result<Option<ProvenEntry>, LedgerError> {
        let view = View::new(&self.tiles, head);
        let Some(path) = view.inclusion(position)? else { return Ok(None) };
        let Some(entry) = view.entry(position)? else { return Ok(None) };
        let proof = InclusionProof { index: position, path, checkpoint: head.note.clone() };
        Ok(Some(ProvenEntry { entry, proof, channel: None }))
    }
}

#[async_trait]
impl Ledger for Log {
    fn name(&self) -> &str {
        &self.name
    }

    async fn submit(&self, request: Envelope) -> Result<Committed, LedgerError> {
        let jobs = self.jobs.as_ref().ok_or_else(|| self.closed())?;
        // A place first: what cannot be decided soon is not worth the work.
        let place = jobs.reserve().await.map_err(|_| self.closed())?;
        let digest = request.digest();
        let mut request = Prepared::read(request).map_err(LedgerError::Malformed)?;
        request.check_signatures();
        let (reply, answer) = oneshot::channel();
        place.send(Job::Decide { request: Box::new(request), digest, reply });
        let answer = answer.await.map_err(|_| self.closed())??;
        self.shared.committed(answer)
    }

    async fn events(&self, after: Option<u64>, limit: usize) -> Result<Vec<ProvenEntry>, LedgerError> {
        let (limit, from) = (limit.min(MAX_PAGE), after.map_or(0, |a| a.saturating_add(1)));
        let (head, positions) = self.shared.state(|state, log| {
            let mut found = state.events(from, limit)?;
            let known = found.last().map_or(from, |last| last + 1);
            let newer = log.changes().into_iter().flat_map(|c| &c.events);
            found.extend(newer.filter(|p| **p >= known));
            found.truncate(limit);
            Ok::<_, LedgerError>((Arc::clone(&log.head), found))
        })?;
        let proven = positions.into_iter().map(|p| self.shared.proven(&head, p));
        proven.filter_map(Result::transpose).collect()
    }

    async fn wait(&self, after: Option<u64>) -> Result<(), LedgerError> {
        let mut last = self.last_event.clone();
        // `None` is before every position.
        match last.wait_for(|newest| *newest > after).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.closed()),
        }
    }

    async fn entry(&self, position: u64) -> Result<Option<ProvenEntry>, LedgerError> {
        self.shared.proven(&self.shared.head(), position)
    }

    async fn range(&self, from: u64, limit: usize) -> Result<Vec<String>, LedgerError> {
        let head = self.shared.head();
        let view = View::new(&self.shared.tiles, &head);
        let end = from.saturating_add(limit.min(MAX_PAGE) as u64).min(head.size());
        (from..end).map(|p| view.entry(p)).filter_map(Result::transpose).collect()
    }

    async fn head(&self) -> Result<String, LedgerError> {
        let note = self.shared.head().note.clone();
        Ok(self.shared.tiles.with_cosignatures(note))
    }

    async fn consistency(&self, old_size: u64) -> Result<Vec<Digest>, LedgerError> {
        let head = self.shared.head();
        let proof = View::new(&self.shared.tiles, &head).consistency(old_size)?;
        proof.ok_or(LedgerError::Range { asked: old_size, size: head.size() })
    }

    async fn extension(&self, old_size: u64) -> Result<Extension, LedgerError> {
        let head = self.shared.head();
        let proof = View::new(&self.shared.tiles, &head).consistency(old_size)?;
        let proof = proof.ok_or(LedgerError::Range { asked: old_size, size: head.size() })?;
        Ok(Extension { checkpoint: self.shared.tiles.with_cosignatures(head.note.clone()), proof })
    }

    async fn state(&self, key: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        self.shared.state(|state, log| match log.written(key) {
            Some(written) => Ok(written),
            None => Ok(state.fresh(key)?),
        })
    }

    async fn state_prefix(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        self.shared.state(|state, log| {
            let mut found = state.prefix(prefix)?;
            let newer = log
                .changes()
                .into_iter()
                .flat_map(|c| c.state.range(prefix.to_owned()..).take_while(|(k, _)| k.starts_with(prefix)));
            for (key, value) in newer {
                match value {
                    Some(value) => found.insert(key.clone(), value.clone()),
                    None => found.remove(key),
                };
            }
            Ok(found.into_iter().collect())
        })
    }
}
