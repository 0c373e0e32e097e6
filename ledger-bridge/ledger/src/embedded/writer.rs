//! The one writer: takes what waits, decides it, commits it, answers.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, PoisonError},
};

use ledger_contract::{
    Snapshot, TxInfo,
    contract::{Outcome, SnapshotError, decide, snapshot},
    records::{ENTRY_VERSION, Entry},
};
use tokio::sync::{mpsc, oneshot, watch};
use trust::{
    Digest, Envelope, UnixTime,
    merkle::{Tree, leaf_hash},
    note::NoteSigner,
};

use super::{CommittedLog, MAX_BATCH, Shared, clock::LedgerClock, files::Files};
use crate::{Committed, LedgerError};

/// A request that waits.
pub(super) struct Job {
    pub request: Envelope,
    pub reply: oneshot::Sender<Result<Committed, LedgerError>>,
}

/// Everything that only the writing thread touches.
pub(super) struct Writer {
    pub name: String,
    pub files: Files,
    pub signer: NoteSigner,
    pub tree: Tree,
    pub last_time: UnixTime,
    pub seen: HashMap<Digest, u64>,
    pub clock: LedgerClock,
    pub shared: Arc<Shared>,
    pub last_event: watch::Sender<Option<u64>>,
}

/// What a batch adds to the log.
#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    ends: Vec<u64>,
    leaves: Vec<Digest>,
    events: Vec<u64>,
    state: BTreeMap<String, Option<Vec<u8>>>,
    /// Who waits for which position.
    replies: Vec<(u64, oneshot::Sender<Result<Committed, LedgerError>>)>,
}

impl CommittedLog {
    pub(super) fn apply(&mut self, writes: BTreeMap<String, Option<Vec<u8>>>) {
        for (key, value) in writes {
            match value {
                Some(value) => self.state.insert(key, value),
                None => self.state.remove(&key),
            };
        }
    }
}

fn entry(tx: TxInfo, request: Envelope, outcome: &Outcome) -> Entry {
    Entry {
        v: tx.v,
        ledger: tx.ledger,
        position: tx.position,
        time: tx.time,
        request,
        verdict: outcome.verdict.clone(),
        event: outcome.event.clone(),
        writes: outcome.writes_digest(),
    }
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
            if let Err(e) = self.commit(jobs, &mut batch) {
                self.stop(&e);
                // Only now, that the reason is known, are those who wait told.
                return drop(batch);
            }
        }
    }

    fn stop(&self, why: &LedgerError) {
        let cause = std::error::Error::source(why).map(|s| format!(": {s}")).unwrap_or_default();
        tracing::error!(ledger = %self.name, error = %why, "the ledger is closed{cause}");
        let mut stopped = self.shared.stopped.write().unwrap_or_else(PoisonError::into_inner);
        *stopped = Some(format!("{why}{cause}"));
    }

    fn commit(&mut self, jobs: Vec<Job>, batch: &mut Batch) -> Result<(), LedgerError> {
        for job in jobs {
            match self.decide(job.request, batch) {
                Ok(position) => batch.replies.push((position, job.reply)),
                Err(e) => drop(job.reply.send(Err(e))),
            }
        }
        if !batch.lines.is_empty() {
            let note =
                self.signer.sign_checkpoint(self.tree.size(), self.tree.root()).map_err(LedgerError::Key)?;
            self.files.commit(&batch.lines, &note)?;
            self.publish(batch, note);
        }
        for (position, reply) in batch.replies.drain(..) {
            // Who asked may have gone; the entry is there for whoever asks again.
            let _ = reply.send(self.committed(position));
        }
        Ok(())
    }

    /// Decides one request over the committed state and what the batch has done to it.
    fn decide(&mut self, request: Envelope, batch: &mut Batch) -> Result<u64, LedgerError> {
        let digest = request.digest();
        if let Some(position) = self.seen.get(&digest) {
            return Ok(*position);
        }
        let state = self.snapshot(&request, batch)?;
        let time = self.last_time.max(self.clock.now()?);
        let position = self.tree.size();
        let tx = TxInfo { v: ENTRY_VERSION, ledger: self.name.clone(), position, time };
        let outcome = decide(&request, &state, &tx);
        if !outcome.verdict.authenticated() {
            return Err(LedgerError::Unauthenticated { verdict: Box::new(outcome.verdict) });
        }
        self.last_time = time;
        let entry = entry(tx, request, &outcome);
        let bytes = entry.to_bytes();
        let leaf = leaf_hash(&bytes);
        self.tree.push(leaf);
        self.seen.insert(digest, position);
        if outcome.event.is_some() {
            batch.events.push(position);
        }
        batch.state.extend(outcome.writes);
        batch.leaves.push(leaf);
        batch.lines.extend_from_slice(&bytes);
        batch.lines.push(b'\n');
        batch.ends.push(self.files.end() + batch.lines.len() as u64);
        Ok(position)
    }

    fn snapshot(&self, request: &Envelope, batch: &Batch) -> Result<Snapshot, LedgerError> {
        let read = |log: &CommittedLog| {
            snapshot::<Infallible>(request, |key| {
                Ok(batch.state.get(key).cloned().unwrap_or_else(|| log.state.get(key).cloned()))
            })
        };
        self.shared.read(read).map_err(|e| match e {
            SnapshotError::Malformed(m) => LedgerError::Malformed(m),
            SnapshotError::Read(never) => match never {},
        })
    }

    /// Step 4: what is durable becomes visible.
    fn publish(&self, batch: &mut Batch, note: String) {
        let mut log = self.shared.committed.write().unwrap_or_else(PoisonError::into_inner);
        batch.leaves.iter().for_each(|leaf| log.tree.push(*leaf));
        log.offsets.append(&mut batch.ends);
        let newest = batch.events.last().copied();
        log.events.append(&mut batch.events);
        log.apply(std::mem::take(&mut batch.state));
        log.checkpoint = note;
        drop(log);
        if newest.is_some() {
            self.last_event.send_replace(newest);
        }
    }

    fn committed(&self, position: u64) -> Result<Committed, LedgerError> {
        let proven = self
            .shared
            .proven(position)?
            .ok_or(LedgerError::Range { asked: position, size: self.tree.size() })?;
        let entry = serde_json::from_str(&proven.entry).map_err(|e| LedgerError::Corrupt {
            path: self.files.entries_path(),
            place: format!("entry {position}"),
            problem: e.to_string(),
        })?;
        Ok(Committed { entry, proven })
    }
}
