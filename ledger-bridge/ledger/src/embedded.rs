//! The embedded log: a directory of one machine.
//!
//! | file | what |
//! |---|---|
//! | `entries.jsonl` | one entry per line, appended only; a line without its newline is a leaf of the Merkle tree |
//! | `checkpoint` | signed note (C2SP tlog-checkpoint) over the tree; replaced as a whole |
//! | `log.key` | name and secret seed of the log's key, mode 0600 |
//! | `lock` | held (`flock`) by the one process that has the log open |
//!
//! # The commit protocol
//!
//! One thread writes. It takes the requests that wait, up to [`MAX_BATCH`], decides them in order, each over the
//! state that the one before left and at the ledger's time. Two kinds of request are answered at once, without an
//! entry: all of them while the clock cannot be believed ([`LedgerError::Clock`]; try again), and those that nobody
//! known to the ledger has signed ([`LedgerError::Unauthenticated`]), for the log is kept for ever and a stranger must
//! not be able to make it grow. Refusals of those who are known are entries like approvals. Then, for all entries
//! together, the thread
//!
//! 1. appends their entries to `entries.jsonl`;
//! 2. syncs `entries.jsonl`;
//! 3. signs the checkpoint of the tree that includes them and writes it to `checkpoint.new`, syncs that, renames it
//!    over `checkpoint`, and syncs the directory;
//! 4. shows the new entries to readers;
//! 5. answers the requests.
//!
//! The rename is the commit. A crash before it leaves entries that no checkpoint covers and nobody was told of:
//! opening cuts them off. A crash after it leaves a checkpoint whose entries were durable before it was. So a
//! checkpoint beyond the entries cannot come from a crash: it is damage, and opening refuses. When any of the steps
//! fails the log closes, for what is on disk is no longer known; opening it again finds out. Founding a log runs the
//! same steps with the genesis as the only request.
//!
//! # What opening verifies
//!
//! The checkpoint's signature, the root over all entries, and that deciding every entry again, in order, gives the
//! writes that the entry says: the state is what that leaves.
//!
//! # Ledger time
//!
//! Ledger time is the wall clock, but never goes back. So that one wrong reading cannot push it into the future for
//! ever, the clock is believed once, at opening, and from then on only as far as the machine's uptime bears it out
//! ([`MAX_AHEAD_S`]). A ledger may have been idle for any time up to [`MAX_IDLE_S`] when it is opened; beyond that
//! somebody has to confirm the clock ([`OpenOptions::accept_clock`]).
//!
//! Never: creating anything in [`Log::open`], changing or removing a committed byte. Tests: `tests/embedded.rs`,
//! `tests/crash.rs`, `clock.rs`; figures: `examples/measure.rs`.

mod clock;
mod files;
mod replay;
mod writer;

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    thread::JoinHandle,
};

use async_trait::async_trait;
use ledger_contract::evidence::{InclusionProof, ProvenEntry};
use tokio::sync::{mpsc, oneshot, watch};
use trust::{
    Digest, Envelope, UnixTime,
    merkle::Tree,
    note::{NoteSigner, NoteVerifier},
};

use crate::{Committed, Ledger, LedgerError, MAX_PAGE};
use clock::LedgerClock;
pub use clock::{MAX_AHEAD_S, MAX_IDLE_S};
use files::{EntryFile, Files, Lock};
use writer::{Job, Writer};

/// Most requests that wait to be decided; the next submitter waits for a place.
pub const MAX_QUEUE: usize = 1024;
/// Most requests that share one sync. Opening cuts off at most so many entries.
pub const MAX_BATCH: usize = 256;

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
    thread: Option<JoinHandle<()>>,
    // Dropped last: the lock is released when nothing can write any more.
    _lock: Lock,
}

/// What readers see: only what is committed.
#[derive(Debug)]
struct Shared {
    entries: EntryFile,
    committed: RwLock<CommittedLog>,
    /// Why the writer stopped, once it has.
    stopped: RwLock<Option<String>>,
}

#[derive(Debug, Default)]
struct CommittedLog {
    tree: Tree,
    /// Where each entry begins, and where the next one will.
    offsets: Vec<u64>,
    /// Positions of the entries with an event.
    events: Vec<u64>,
    state: std::collections::BTreeMap<String, Vec<u8>>,
    checkpoint: String,
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
        let (mut files, _lock) = Files::create(dir, signer)?;
        let bytes = entry.to_bytes();
        let mut tree = Tree::default();
        tree.push(trust::merkle::leaf_hash(&bytes));
        let note = signer.sign_checkpoint(1, tree.root()).map_err(LedgerError::Key)?;
        files.commit(&[&bytes[..], b"\n"].concat(), &note)
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
        let (mut files, lock) = Files::open(dir)?;
        let signer = files.key()?;
        let replayed = replay::replay(&mut files, &signer)?;
        let (wall, uptime) = (Box::new(clock), clock::uptime());
        let clock = LedgerClock::start(dir, wall, uptime, replayed.last_time, options.accept_clock)?;
        let (last_event_tx, last_event) = watch::channel(replayed.log.events.last().copied());
        let tree = replayed.log.tree.clone();
        let shared = Arc::new(Shared {
            entries: files.entries()?,
            committed: RwLock::new(replayed.log),
            stopped: RwLock::new(None),
        });
        let (jobs, queue) = mpsc::channel(MAX_QUEUE);
        let verifier = signer.verifier();
        let writer = Writer {
            name: verifier.name().to_owned(),
            files,
            signer,
            tree,
            last_time: replayed.last_time,
            seen: replayed.seen,
            clock,
            shared: Arc::clone(&shared),
            last_event: last_event_tx,
        };
        let thread = std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|source| LedgerError::Storage {
                doing: "start the writer of",
                path: dir.to_owned(),
                source,
            })?;
        Ok(Self {
            name: verifier.name().to_owned(),
            verifier,
            shared,
            last_event,
            jobs: Some(jobs),
            thread: Some(thread),
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
        self.shared.read(|log| log.tree.size())
    }

    fn closed(&self) -> LedgerError {
        let reason = self.shared.stopped.read().unwrap_or_else(PoisonError::into_inner).clone();
        LedgerError::Closed { reason: reason.unwrap_or_else(|| "it was shut down".to_owned()) }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // The writer ends when its queue does; what was queued before is committed first.
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(ledger = %self.name, "the ledger's writer panicked");
        }
    }
}

impl Shared {
    /// A reader that panicked has changed nothing, so a poisoned lock is as good as any.
    fn read<T>(&self, f: impl FnOnce(&CommittedLog) -> T) -> T {
        f(&self.committed.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn proven(&self, position: u64) -> Result<Option<ProvenEntry>, LedgerError> {
        let found = self.read(|log| {
            let path = log.tree.inclusion(position, log.tree.size())?;
            Some((log.extent(position)?, path, log.checkpoint.clone()))
        });
        let Some((extent, path, checkpoint)) = found else { return Ok(None) };
        let entry = self.entries.read(extent)?;
        Ok(Some(ProvenEntry { entry, proof: InclusionProof { index: position, path, checkpoint } }))
    }
}

impl CommittedLog {
    /// Where an entry's bytes are, without the newline.
    fn extent(&self, position: u64) -> Option<(u64, u64)> {
        let i = usize::try_from(position).ok()?;
        let (start, end) = (*self.offsets.get(i)?, *self.offsets.get(i + 1)?);
        Some((start, end - 1))
    }
}

#[async_trait]
impl Ledger for Log {
    fn name(&self) -> &str {
        &self.name
    }

    async fn submit(&self, request: Envelope) -> Result<Committed, LedgerError> {
        ledger_contract::Request::parse(&request).map_err(LedgerError::Malformed)?;
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(|| self.closed())?;
        jobs.send(Job { request, reply }).await.map_err(|_| self.closed())?;
        answer.await.map_err(|_| self.closed())?
    }

    async fn events(&self, after: Option<u64>, limit: usize) -> Result<Vec<ProvenEntry>, LedgerError> {
        let positions: Vec<u64> = self.shared.read(|log| {
            let from = after.map_or(0, |a| log.events.partition_point(|p| *p <= a));
            log.events.iter().skip(from).take(limit.min(MAX_PAGE)).copied().collect()
        });
        let proven = positions.into_iter().map(|p| self.shared.proven(p));
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
        self.shared.proven(position)
    }

    async fn range(&self, from: u64, limit: usize) -> Result<Vec<String>, LedgerError> {
        let extents: Vec<_> = self.shared.read(|log| {
            let end = from.saturating_add(limit.min(MAX_PAGE) as u64).min(log.tree.size());
            (from..end).map_while(|p| log.extent(p)).collect()
        });
        extents.into_iter().map(|e| self.shared.entries.read(e)).collect()
    }

    async fn head(&self) -> Result<String, LedgerError> {
        Ok(self.shared.read(|log| log.checkpoint.clone()))
    }

    async fn consistency(&self, old_size: u64) -> Result<Vec<Digest>, LedgerError> {
        self.shared.read(|log| {
            let size = log.tree.size();
            log.tree.consistency(old_size, size).ok_or(LedgerError::Range { asked: old_size, size })
        })
    }

    async fn state(&self, key: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(self.shared.read(|log| log.state.get(key).cloned()))
    }

    async fn state_prefix(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        Ok(self.shared.read(|log| {
            let from = log.state.range(prefix.to_owned()..);
            from.take_while(|(k, _)| k.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect()
        }))
    }
}
