//! The one writer: takes what waits, decides it, commits it, answers.

use std::{path::PathBuf, sync::Arc};

use ledger_contract::{
    Snapshot, TxInfo,
    contract::decide,
    evidence::{InclusionProof, ProvenEntry},
    records::{ENTRY_VERSION, Entry},
};
use tokio::sync::{mpsc, oneshot, watch};
use trust::{Envelope, UnixTime};

use super::{
    MAX_BATCH, Shared,
    clock::LedgerClock,
    decide::{entry, outcome, seen},
    layout::MAX_ENTRY_BYTES,
    publisher::Publisher,
    reader::View,
    state::{self, Changes, Covers, State, StateError},
    store::{Head, Store},
};
use crate::{Committed, LedgerError};

type Reply = oneshot::Sender<Result<Committed, LedgerError>>;

/// What the writer is asked for.
pub(super) enum Job {
    /// To decide a request.
    Decide {
        /// The request.
        request: Box<Envelope>,
        /// Who waits.
        reply: Reply,
    },
    /// To end, for the reason that is in [`Shared::stopped`].
    Stop,
}

/// Everything that only the writing thread touches.
pub(super) struct Writer {
    pub name: String,
    pub store: Store,
    pub state: State,
    pub state_path: PathBuf,
    pub last_time: UnixTime,
    pub clock: LedgerClock,
    pub shared: Arc<Shared>,
    pub last_event: watch::Sender<Option<u64>>,
    pub publisher: Arc<Publisher>,
}

/// What a batch adds to the log.
#[derive(Default)]
struct Batch {
    /// Their bytes, in order.
    bytes: Vec<Vec<u8>>,
    entries: Vec<Entry>,
    changes: Changes,
    /// Who waits for which position.
    replies: Vec<(u64, Reply)>,
}

/// Entry 0, if the contract approves of the genesis.
pub(super) fn found(name: &str, genesis: Envelope, time: UnixTime) -> Result<Entry, LedgerError> {
    let tx = TxInfo { v: ENTRY_VERSION, ledger: name.to_owned(), position: 0, time };
    let outcome = decide(&genesis, &Snapshot::default(), &tx);
    if let Some(rule) = outcome.verdict.rules.iter().find(|r| !r.passed) {
        return Err(LedgerError::Genesis { code: rule.code.clone(), detail: rule.detail.clone() });
    }
    Ok(entry(tx, genesis, &outcome))
}

impl Writer {
    /// Until the queue ends or the storage fails. Dropping `last_event` wakes everybody who waits.
    pub fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut jobs = vec![first];
            while jobs.len() < MAX_BATCH
                && let Ok(job) = queue.try_recv()
            {
                jobs.push(job);
            }
            let mut batch = Batch::default();
            if jobs.iter().any(|j| matches!(j, Job::Stop)) {
                return;
            }
            if let Err(e) = self.commit(jobs, &mut batch) {
                self.shared.stop(&self.name, &e);
                // Only now, that the reason is known, are those who wait told.
                return drop(batch);
            }
        }
    }

    fn commit(&mut self, jobs: Vec<Job>, batch: &mut Batch) -> Result<(), LedgerError> {
        for job in jobs {
            let Job::Decide { request, reply } = job else { continue };
            match self.decide(*request, batch) {
                Ok(position) => batch.replies.push((position, reply)),
                Err(e @ LedgerError::State { .. }) => {
                    // Whoever waits is told why the log is closed.
                    batch.replies.push((0, reply));
                    return Err(self.discard_state(e));
                }
                Err(e) => drop(reply.send(Err(e))),
            }
        }
        let first = self.store.head().size();
        if !batch.bytes.is_empty() {
            // What is durable becomes visible; then whoever asked is told; then the state takes it up.
            let head = Arc::clone(self.store.commit(&batch.bytes)?);
            self.show(&head, std::mem::take(&mut batch.changes));
        }
        self.answer(batch, first);
        let pending = self.shared.pending();
        if !pending.seen.is_empty() {
            let head = self.store.head();
            let covers = Covers { size: head.size(), root: head.root };
            self.state.apply(&pending, &covers).map_err(|e| self.discard_state(e.into()))?;
            self.shared.settle();
        }
        Ok(())
    }

    /// What cannot be read is not kept: opening the log makes it again.
    fn discard_state(&self, why: LedgerError) -> LedgerError {
        state::remove(&self.state_path);
        why
    }

    /// Decides one request over the committed state and what the batch has done to it.
    fn decide(&mut self, request: Envelope, batch: &mut Batch) -> Result<u64, LedgerError> {
        let digest = request.digest();
        if let Some(position) = seen(&digest, &self.state, &batch.changes)? {
            return Ok(position);
        }
        let time = self.last_time.max(self.clock.now()?);
        let position = self.store.head().size() + batch.bytes.len() as u64;
        let tx = TxInfo { v: ENTRY_VERSION, ledger: self.name.clone(), position, time };
        let outcome = outcome(&request, &tx, &self.state, &batch.changes)?;
        if !outcome.verdict.authenticated() {
            return Err(LedgerError::Unauthenticated { verdict: Box::new(outcome.verdict) });
        }
        let entry = entry(tx, request, &outcome);
        let bytes = entry.to_bytes();
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(LedgerError::TooLarge { bytes: bytes.len(), most: MAX_ENTRY_BYTES });
        }
        self.last_time = time;
        batch.changes.add(digest, position, outcome);
        batch.bytes.push(bytes);
        batch.entries.push(entry);
        Ok(position)
    }

    fn show(&self, head: &Arc<Head>, changes: Changes) {
        let newest = changes.events.last().copied();
        self.shared.show(Arc::clone(head), changes);
        self.publisher.dirty();
        if newest.is_some() {
            self.last_event.send_replace(newest);
        }
    }

    /// Tells everybody who waits; `first` is the batch's first position.
    fn answer(&self, batch: &mut Batch, first: u64) {
        let head = self.store.head();
        for (position, reply) in std::mem::take(&mut batch.replies) {
            let new = position.checked_sub(first).and_then(|i| usize::try_from(i).ok());
            let known = new.and_then(|i| Some((batch.entries.get(i)?, batch.bytes.get(i)?)));
            let answer = match known {
                Some((entry, bytes)) => self.fresh(head, position, entry, bytes),
                None => self.again(head, position),
            };
            // Who asked may have gone; the entry is there for whoever asks again.
            let _ = reply.send(answer);
        }
    }

    fn fresh(
        &self,
        head: &Head,
        position: u64,
        entry: &Entry,
        bytes: &[u8],
    ) -> Result<Committed, LedgerError> {
        let path = View::new(&self.shared.tiles, head).inclusion(position)?;
        let path = path.ok_or(LedgerError::Range { asked: position, size: head.size() })?;
        let text = String::from_utf8_lossy(bytes).into_owned();
        let proof = InclusionProof { index: position, path, checkpoint: head.note.clone() };
        Ok(Committed { entry: entry.clone(), proven: ProvenEntry { entry: text, proof } })
    }

    fn again(&self, head: &Head, position: u64) -> Result<Committed, LedgerError> {
        let proven = self.shared.proven(head, position)?;
        let proven = proven.ok_or(LedgerError::Range { asked: position, size: head.size() })?;
        let entry = serde_json::from_str(&proven.entry)
            .map_err(|e| StateError::Damaged(format!("entry {position} cannot be read: {e}")))?;
        Ok(Committed { entry, proven })
    }
}
