//! A line between two interfaces of a namespace that loses, reorders and doubles frames, from a seed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::support::wire::{LONGEST, Wire, wait};

/// How often, in thousands, of each direction.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    pub lost: u32,
    /// Some milliseconds later than what came after it.
    pub late: u32,
    pub twice: u32,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    lost: AtomicU32,
    late: AtomicU32,
    twice: AtomicU32,
    frames: AtomicU64,
    spoilt: AtomicU64,
}

/// Carries frames until it is dropped.
pub struct Line {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    pub fn start(namespace: &str, near: &str, far: &str) -> Self {
        let wires = [near, far].map(|interface| Wire::open(namespace, interface));
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        Self { shared, thread: Some(std::thread::spawn(move || carry(&wires, &its))) }
    }

    pub fn quality(&self, quality: Quality) {
        let Quality { lost, late, twice } = quality;
        self.shared.lost.store(lost, Relaxed);
        self.shared.late.store(late, Relaxed);
        self.shared.twice.store(twice, Relaxed);
    }

    /// Frames carried, and those that were lost, late or doubled.
    pub fn done(&self) -> (u64, u64) {
        (self.shared.frames.load(Relaxed), self.shared.spoilt.load(Relaxed))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _its_own_panic = thread.join();
        }
    }
}

fn carry(wires: &[Wire; 2], shared: &Shared) {
    let mut buffer = vec![0; LONGEST];
    let mut late: Vec<(Instant, usize, Vec<u8>)> = vec![];
    let mut state = 0x6d61_6e64_6174_6521_u64;
    let mut chance = |thousandths: u32| {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 32 & 0xffff_ffff < u64::from(thousandths) * 4_294_967
    };
    while !shared.stop.load(Relaxed) {
        wait(&[&wires[0], &wires[1]], Duration::from_millis(if late.is_empty() { 20 } else { 1 }));
        let now = Instant::now();
        late.retain(|(due, to, frame)| {
            let keep = *due > now;
            if !keep {
                wires[*to].send(frame);
            }
            keep
        });
        for from in 0..2 {
            // Some at a time, so that neither side waits for the other.
            for _ in 0..64 {
                let Some(n) = wires[from].take(&mut buffer) else { break };
                shared.frames.fetch_add(1, Relaxed);
                let frame = &buffer[..n];
                let (lost, is_late, twice) = (
                    chance(shared.lost.load(Relaxed)),
                    chance(shared.late.load(Relaxed)),
                    chance(shared.twice.load(Relaxed)),
                );
                shared.spoilt.fetch_add(u64::from(lost | is_late | twice), Relaxed);
                match (lost, is_late) {
                    (true, _) => continue,
                    (_, true) => late.push((now + Duration::from_millis(3), 1 - from, frame.to_vec())),
                    _ => drop(wires[1 - from].send(frame)),
                }
                if twice {
                    wires[1 - from].send(frame);
                }
            }
        }
    }
}
