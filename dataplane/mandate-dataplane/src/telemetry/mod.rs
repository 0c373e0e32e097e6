//! What others see of the packet threads without holding them up: counters ([`board`], [`metrics`], [`http`]), copies of frames
//! ([`capture`], [`pcapng`]), flow records ([`flows`], [`ipfix`]) and decisions of rules ([`rule_log`]).
//!
//! The packet thread's part is [`Watch`]: it leaves a report on a board ten times a second, copies frames while somebody
//! captures, and hands on batches of events. It never waits for anybody: what is not taken in time is counted and dropped. Everything
//! else runs on other threads.

pub mod batches;
pub mod board;
pub mod capture;
pub mod flows;
pub mod http;
mod ipfix;
mod metrics;
mod pcapng;
pub mod rule_log;

use std::sync::Arc;

pub use board::Board;
use capture::Tap;
use flows::FlowTap;
use rule_log::LogTap;

use crate::standby::SyncTap;

/// How often a report is left on the board, µs.
pub const PUBLISH_US: u64 = 100_000;

/// A packet thread's part.
#[derive(Default)]
pub struct Watch {
    pub board: Arc<Board>,
    pub tap: Option<Tap>,
    pub flows: Option<FlowTap>,
    pub log: Option<LogTap>,
    pub sync: Option<SyncTap>,
    pub polls: Polls,
    pub published_us: u64,
}

/// How busy a packet thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Polls {
    /// Rounds over all ports.
    pub rounds: u64,
    /// Of those, with frames.
    pub busy_rounds: u64,
    /// Time of those, µs.
    pub busy_us: u64,
    /// Bursts by number of frames: to 1, 2, 4, 8, 16, 32.
    pub bursts: [u64; BURST_BOUNDS.len()],
    /// When the last round ended.
    last_us: u64,
}

/// Upper bounds of the groups that bursts are counted in, frames.
pub const BURST_BOUNDS: [usize; 6] = [1, 2, 4, 8, 16, 32];

impl Polls {
    /// A burst of `frames`, at least one.
    #[inline]
    pub fn burst(&mut self, frames: usize) {
        let group = frames.saturating_sub(1).checked_ilog2().map_or(0, |log| log as usize + 1);
        if let Some(count) = self.bursts.get_mut(group) {
            *count += 1;
        }
    }

    /// The end of a round.
    #[inline]
    pub fn round(&mut self, now_us: u64, busy: bool) {
        self.rounds += 1;
        if busy {
            self.busy_rounds += 1;
            self.busy_us += now_us.saturating_sub(self.last_us);
        }
        self.last_us = now_us;
    }

    /// What follows begins now: the time before was slept.
    pub fn slept(&mut self, now_us: u64) {
        self.last_us = now_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_counted_by_their_size_and_sleep_is_not_work() {
        let mut polls = Polls::default();
        for frames in 1..=32 {
            polls.burst(frames);
        }
        assert_eq!(polls.bursts, [1, 1, 2, 4, 8, 16]);
        polls.slept(100);
        polls.round(103, true);
        polls.round(110, false);
        polls.slept(500);
        polls.round(505, true);
        assert_eq!((polls.rounds, polls.busy_rounds, polls.busy_us), (3, 2, 8));
    }
}
