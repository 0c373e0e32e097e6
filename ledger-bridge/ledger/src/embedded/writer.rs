//! The deciding thread: takes what waits, decides it in order, and hands it over to be committed.
//!
//! It decides over the derived state and, in memory, what it has decided since ([`super::recent`]); it does not wait for
//! the disk. When a commit fails the log closes, and with it ends what was decided on top of that commit: nobody was told
//! of it.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc::SyncSender},
};

use ledger_contract::{
    Snapshot, TxInfo,
    contract::{Prepared, decide},
    records::{ENTRY_VERSION, Entry},
};
use tokio::sync::mpsc;
use trust::{Digest, Envelope, UnixTime};

use super::{
    Shared,
    applier::Applier,
    clock::LedgerClock,
    committer::{Decided, Reply},
    decide::{outcome, seen},
    layout::MAX_ENTRY_BYTES,
    recent::{Recent, Writes},
    state::{self, State},
};
use crate::LedgerError;

/// What the writer is asked for.
pub(super) enum Job {
    /// To decide a request.
    Decide {
        /// The request, read, its signatures checked.
        request: Box<Prepared>,
        /// Of its envelope.
        digest: Digest,
        /// Who waits.
        reply: Reply,
    },
    /// To end, for the reason that is in [`Shared::stopped`].
    Stop,
}

/// Everything that only the deciding thread touches.
pub(super) struct Writer {
    pub name: String,
    /// The derived state, to read.
    pub state: State,
    pub state_path: PathBuf,
    pub recent: Recent,
    /// Position of the next entry.
    pub next: u64,
    pub last_time: UnixTime,
    pub clock: LedgerClock,
    pub shared: Arc<Shared>,
    pub applier: Arc<Applier>,
    pub committer: SyncSender<Decided>,
}

/// Entry 0, if the contract approves of the genesis.
pub(super) fn found(name: &str, genesis: Envelope, time: UnixTime) -> Result<Entry, LedgerError> {
    let tx = TxInfo { v: ENTRY_VERSION, ledger: name.to_owned(), position: 0, time };
    let outcome = decide(&genesis, &Snapshot::default(), &tx);
    if let Some(rule) = outcome.verdict.rules.iter().find(|r| !r.passed) {
        return Err(LedgerError::Genesis { code: rule.code.clone(), detail: rule.detail.clone() });
    }
    Ok(outcome.into_entry(tx, genesis).0)
}

/// What was made of a request.
enum Made {
    /// The next entry.
    New { entry: Box<Entry>, bytes: Vec<u8>, digest: Digest, writes: Writes },
    /// Nothing: it was decided at this position.
    Before(u64),
}

impl Writer {
    /// Until the queue ends, or what it stands on fails.
    pub fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(Job::Decide { request, digest, reply }) = queue.blocking_recv() {
            self.recent.forget(self.applier.applied());
            let decided = match self.decide(*request, digest) {
                Ok(Made::Before(position)) => Decided::Before { position, reply },
                Ok(Made::New { entry, bytes, digest, writes }) => {
                    Decided::New { entry, bytes, digest, writes, reply }
                }
                Err(e @ LedgerError::State { .. }) => {
                    // What cannot be read is not kept: opening the log makes it again.
                    state::remove(&self.state_path);
                    // Whoever waits is told why the log is closed.
                    return self.shared.stop(&self.name, &e);
                }
                Err(e) => {
                    drop(reply.send(Err(e)));
                    continue;
                }
            };
            if self.committer.send(decided).is_err() {
                return;
            }
        }
    }

    /// Decides one request over everything that was decided before.
    fn decide(&mut self, request: Prepared, digest: Digest) -> Result<Made, LedgerError> {
        if let Some(position) = seen(&digest, &self.state, &self.recent)? {
            return Ok(Made::Before(position));
        }
        let time = self.last_time.max(self.clock.now()?);
        let position = self.next;
        let tx = TxInfo { v: ENTRY_VERSION, ledger: self.name.clone(), position, time };
        let outcome = outcome(&request, &tx, &self.state, &self.recent)?;
        if !outcome.verdict.authenticated() {
            return Err(LedgerError::Unauthenticated { verdict: Box::new(outcome.verdict) });
        }
        let (entry, writes) = outcome.into_entry(tx, request.into_envelope());
        let bytes = entry.to_bytes();
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(LedgerError::TooLarge { bytes: bytes.len(), most: MAX_ENTRY_BYTES });
        }
        (self.last_time, self.next) = (time, position + 1);
        self.state.forget(writes.keys());
        self.recent.add(digest, position, &writes);
        Ok(Made::New { entry: Box::new(entry), bytes, digest, writes })
    }
}
