//! Batches of what packet functions leave ([`Ring`]), on their way from the packet threads to one other thread, and back empty. A packet
//! thread never waits: what is not taken in time stays in its ring, which is bounded.
//!
//! Tests: `rule_log`, `tests/telemetry.rs`.

use std::sync::{
    Arc,
    mpsc::{self, Receiver, SyncSender},
};

use dataplane_engine::events::Ring;

use crate::document::Document;

/// Batches of one packet thread on their way, or back.
const BATCHES: usize = 8;

/// What a packet thread gives away.
pub struct Batch<T> {
    pub worker: usize,
    /// Which function of a row left it.
    pub part: usize,
    pub all: Vec<T>,
    /// What its indices are of.
    pub document: Arc<Document>,
    /// How many were lost since the batch before.
    pub missed: u64,
}

/// A packet thread's end.
pub struct Taker<T> {
    worker: usize,
    spare: Receiver<Vec<T>>,
    full: SyncSender<Batch<T>>,
    /// Lost, of each part's ring and here.
    missed: Vec<u64>,
    lost: u64,
    told: u64,
}

impl<T> Taker<T> {
    /// Takes what a function of the row left, if somebody will have it.
    pub fn take(&mut self, part: usize, ring: &mut Ring<T>, document: &Arc<Document>) {
        if self.missed.len() <= part {
            // Once for each function.
            self.missed.resize(part + 1, 0);
        }
        if let Some(missed) = self.missed.get_mut(part) {
            *missed = ring.missed();
        }
        if ring.is_empty() {
            return;
        }
        let Ok(empty) = self.spare.try_recv() else { return };
        let missed = self.missed() - self.told;
        let all = ring.exchange(empty);
        let length = all.len() as u64;
        let batch = Batch { worker: self.worker, part, all, document: document.clone(), missed };
        // There are fewer batches than the queue has room for: full means that nobody is there any more.
        match self.full.try_send(batch) {
            Ok(()) => self.told += missed,
            Err(_) => self.lost += length,
        }
    }

    /// How many found no room, or nobody.
    pub fn missed(&self) -> u64 {
        self.missed.iter().sum::<u64>() + self.lost
    }
}

/// The other thread's end.
pub struct Given<T> {
    pub full: Receiver<Batch<T>>,
    spare: Vec<SyncSender<Vec<T>>>,
}

impl<T> Given<T> {
    /// Gives a batch's room back to its packet thread.
    pub fn give_back(&self, batch: Batch<T>) {
        if let Some(spare) = self.spare.get(batch.worker) {
            // One that has ended needs none.
            let _ = spare.try_send(batch.all);
        }
    }
}

/// The ends of so many packet threads, with batches of `most`, and the other.
pub fn channel<T>(workers: usize, most: usize) -> (Vec<Taker<T>>, Given<T>) {
    let (into, full) = mpsc::sync_channel(BATCHES * workers);
    let (takers, spare) = (0..workers)
        .map(|worker| {
            let (give, spare) = mpsc::sync_channel(BATCHES);
            for _ in 0..BATCHES {
                // As many as there is room for.
                let _ = give.try_send(Vec::with_capacity(most));
            }
            (Taker { worker, spare, full: into.clone(), missed: vec![], lost: 0, told: 0 }, give)
        })
        .unzip();
    (takers, Given { full, spare })
}
