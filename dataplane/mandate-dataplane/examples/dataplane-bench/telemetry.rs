//! What a packet thread does for `--ipfix` and `--metrics`, as `mandate-dataplane` does it: batches of events and a copy of the counters
//! go to other threads, which never hold it up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, Weak,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use dataplane_engine::{
    PacketFunction, Snapshot,
    events::{BATCH, Event, Events},
};
use dpdk::Mbuf;

use crate::threads;

/// One connection in so many is in the flow records.
const EVERY: u32 = 64;
/// How often counters are left for others, µs of virtual time.
const PUBLISH_US: u64 = 100_000;
/// How often they are read, by name.
const READ: Duration = Duration::from_secs(1);
/// Batches on their way, or back.
const BATCHES: usize = 8;

type Board = Mutex<Option<Arc<Snapshot>>>;

/// The packet thread's end.
pub struct Telemetry {
    on: bool,
    board: Arc<Board>,
    full: SyncSender<Vec<Event>>,
    spare: Receiver<Vec<Event>>,
    /// The last tick; and time with it on since counters were left.
    ticked_us: u64,
    unpublished_us: u64,
}

impl Telemetry {
    /// With its readers, which end when it does. It is off.
    pub fn start() -> Self {
        let board = Arc::<Board>::default();
        let (full, taken) = mpsc::sync_channel::<Vec<Event>>(BATCHES);
        let (give, spare) = mpsc::sync_channel(BATCHES);
        for _ in 0..BATCHES {
            give.try_send(Vec::with_capacity(BATCH)).unwrap();
        }
        thread::spawn(move || {
            threads::elsewhere();
            for batch in taken {
                // As `black_box` says, each is read.
                std::hint::black_box(batch.iter().map(|e| u64::from(e.chosen)).sum::<u64>());
                // Nobody may be there any more.
                let _ = give.try_send(batch);
            }
        });
        let latest = Arc::downgrade(&board);
        thread::spawn(move || {
            threads::elsewhere();
            read(&latest);
        });
        Self { on: false, board, full, spare, ticked_us: 0, unpublished_us: 0 }
    }

    /// From now on.
    pub fn switch<'p>(&mut self, on: bool, function: &mut (dyn PacketFunction<Mbuf<'p>> + 'p)) {
        self.on = on;
        if let Some(events) = function.events() {
            events.sample(if on { EVERY } else { 0 });
        }
    }

    /// After the connections were aged.
    pub fn tick<'p>(&mut self, now_us: u64, function: &mut (dyn PacketFunction<Mbuf<'p>> + 'p)) {
        let since_us = now_us - std::mem::replace(&mut self.ticked_us, now_us);
        if !self.on {
            return;
        }
        self.unpublished_us += since_us;
        let ring = function.events().map(Events::ring).filter(|ring| !ring.is_empty());
        if let Some(ring) = ring
            && let Ok(empty) = self.spare.try_recv()
        {
            // There are fewer batches than there is room for.
            let _ = self.full.try_send(ring.exchange(empty));
        }
        if self.unpublished_us >= PUBLISH_US {
            self.unpublished_us = 0;
            let snapshot = Arc::new(function.snapshot());
            // Freed after the lock is given back, and not at all while somebody reads.
            let _before = self.board.try_lock().ok().and_then(|mut slot| slot.replace(snapshot));
        }
    }
}

fn read(board: &Weak<Board>) {
    while let Some(board) = board.upgrade() {
        let latest = board.lock().unwrap().clone();
        drop(board);
        let mut counters = BTreeMap::new();
        if let Some(snapshot) = latest {
            snapshot.counters(&mut counters);
        }
        std::hint::black_box(counters);
        thread::sleep(READ);
    }
}
