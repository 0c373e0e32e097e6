//! The committing thread: takes what was decided, commits it together, shows it, answers.
//!
//! While it waits for the disk the deciding thread goes on ([`super::writer`]); what has gathered meanwhile is the next
//! group. Proofs are made by those who asked: only heads and bytes are handed over. Never: an answer before the sync.

use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use ledger_contract::records::Entry;
use tokio::sync::{oneshot, watch};
use trust::Digest;

use super::{
    MAX_BATCH, Shared,
    applier::Applier,
    publisher::Publisher,
    recent::Writes,
    rotation::NewTail,
    state::Changes,
    store::{Head, Store},
};
use crate::LedgerError;

/// Who waits for a decision.
pub(super) type Reply = oneshot::Sender<Result<Answer, LedgerError>>;

/// What was committed; whoever asked makes the proof.
#[derive(Debug)]
pub(super) struct Answer {
    /// A head that covers it.
    pub head: Arc<Head>,
    pub position: u64,
    /// The entry with its bytes; absent for a request that was decided before.
    pub entry: Option<(Entry, Vec<u8>)>,
}

/// What the deciding thread hands over, in order.
pub(super) enum Decided {
    /// The next entry.
    New { entry: Box<Entry>, bytes: Vec<u8>, digest: Digest, writes: Writes, reply: Reply },
    /// A request that was decided at this position.
    Before { position: u64, reply: Reply },
}

/// Everything that only the committing thread touches.
pub(super) struct Committer {
    pub name: String,
    pub store: Store,
    pub shared: Arc<Shared>,
    pub last_event: watch::Sender<Option<u64>>,
    pub publisher: Arc<Publisher>,
    pub applier: Arc<Applier>,
    /// A rotation that is being carried out.
    pub rotating: Option<JoinHandle<Result<NewTail, LedgerError>>>,
}

impl Committer {
    /// Until the deciding thread ends, or the storage fails. Dropping `last_event` wakes everybody who waits.
    pub fn run(mut self, decided: mpsc::Receiver<Decided>) {
        while let Ok(first) = decided.recv() {
            let mut group = vec![first];
            group.extend(decided.try_iter().take(MAX_BATCH - 1));
            if let Err((e, _waiting)) = self.commit(group) {
                // Only when the reason is known are those who wait told.
                self.shared.stop(&self.name, &e);
                break;
            }
            // The reason is known: who failed has said it.
            if !self.applier.dirty(self.store.head().size()) {
                break;
            }
        }
        // Nothing writes any more when this thread has ended.
        drop(self.rotating.take().map(JoinHandle::join));
    }

    fn commit(&mut self, group: Vec<Decided>) -> Result<(), (LedgerError, Vec<Reply>)> {
        let mut replies = Vec::with_capacity(group.len());
        let (mut bytes, mut changes) = (Vec::with_capacity(group.len()), Changes::default());
        let first = self.store.head().size();
        for item in group {
            let (position, entry, reply) = match item {
                Decided::Before { position, reply } => (position, None, reply),
                Decided::New { entry, bytes: its, digest, writes, reply } => {
                    let position = first + bytes.len() as u64;
                    changes.add(digest, position, entry.event.is_some(), writes);
                    bytes.push(its);
                    (position, Some(entry), reply)
                }
            };
            replies.push((position, entry, reply));
        }
        let committed = self.step(&bytes, changes);
        let mut bytes = bytes.into_iter();
        match committed {
            Err(e) => Err((e, replies.into_iter().map(|(_, _, reply)| reply).collect())),
            Ok(head) => {
                for (position, entry, reply) in replies {
                    let entry = entry.and_then(|entry| Some((*entry, bytes.next()?)));
                    // Who asked may have gone; the entry is there for whoever asks again.
                    let _ = reply.send(Ok(Answer { head: Arc::clone(&head), position, entry }));
                }
                Ok(())
            }
        }
    }

    /// What is durable becomes visible.
    fn step(&mut self, bytes: &[Vec<u8>], changes: Changes) -> Result<Arc<Head>, LedgerError> {
        if bytes.is_empty() {
            return Ok(Arc::clone(self.store.head()));
        }
        self.look_after_rotation()?;
        let head = Arc::clone(self.store.commit(bytes)?);
        let newest = changes.events.last().copied();
        self.shared.show(&head, changes);
        self.publisher.dirty();
        if newest.is_some() {
            self.last_event.send_replace(newest);
        }
        Ok(head)
    }

    /// Begins a rotation when it is time, and takes up one that was carried out.
    fn look_after_rotation(&mut self) -> Result<(), LedgerError> {
        if let Some(thread) = self.rotating.take_if(|t| t.is_finished() || self.store.waits_for_rotation()) {
            let panicked = |_| LedgerError::Closed { reason: "the rotating thread panicked".to_owned() };
            self.store.rotated(thread.join().map_err(panicked)??);
        }
        if let Some(rotation) = self.store.rotation() {
            let dir = rotation.dir.clone();
            let thread = std::thread::Builder::new().name("ledger-rotation".to_owned());
            let started = thread.spawn(move || rotation.carry_out());
            let failed =
                |source| LedgerError::Storage { doing: "start the rotating thread of", path: dir, source };
            self.rotating = Some(started.map_err(failed)?);
        }
        Ok(())
    }
}
