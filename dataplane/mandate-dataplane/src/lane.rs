//! A port of the worker with what is waiting to leave through it and what it counted.

use std::collections::BTreeMap;

use dpdk::{Burst, Mbuf, Queue};

/// Tries for a burst that the driver does not take at once; then the rest is dropped and counted. A driver that is
/// full frees slots within microseconds or, its peer being gone, not at all.
const SEND_TRIES: u32 = 8;

/// A port in use.
pub struct Lane<'p> {
    name: String,
    queue: Queue<'p>,
    out: Burst<'p>,
    rx_frames: u64,
    tx_frames: u64,
    tx_dropped: u64,
}

impl<'p> Lane<'p> {
    /// Around a queue of an open port; `name` is its connection point's.
    pub fn new(name: String, queue: Queue<'p>) -> Self {
        Self { name, queue, out: Burst::new(), rx_frames: 0, tx_frames: 0, tx_dropped: 0 }
    }

    /// Receives into `burst`; says how many.
    pub fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        let received = self.queue.rx(burst);
        self.rx_frames += received as u64;
        received
    }

    /// Puts a frame in line, sending what is in line first if there is no room.
    pub fn enqueue(&mut self, frame: Mbuf<'p>) {
        if self.out.is_full() {
            self.flush();
        }
        if self.out.push(frame).is_err() {
            self.tx_dropped += 1;
        }
    }

    /// Sends what is in line.
    pub fn flush(&mut self) {
        for _ in 0..SEND_TRIES {
            if self.out.is_empty() {
                return;
            }
            self.tx_frames += self.queue.tx(&mut self.out) as u64;
        }
        self.tx_dropped += self.out.len() as u64;
        self.out.clear();
    }

    /// Adds `rx_frames.<port>` and the like.
    pub fn counters(&self, out: &mut BTreeMap<String, u64>) {
        let mut add = |what: &str, value| out.insert(format!("{what}.{}", self.name), value);
        add("rx_frames", self.rx_frames);
        add("tx_frames", self.tx_frames);
        add("tx_dropped", self.tx_dropped);
        // The driver counts for all queues of the port: the first one's lane tells.
        if !self.queue.is_first() {
            return;
        }
        let driver = self.queue.stats();
        add("rx_missed", driver.rx_missed + driver.rx_errors);
        add("tx_errors", driver.tx_errors);
    }
}
