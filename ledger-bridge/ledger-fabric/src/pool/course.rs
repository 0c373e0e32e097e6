//! Whether a transaction goes on after an error, and when. Time and randomness are arguments.

use std::time::{Duration, Instant};

use fabric::gateway::{Retry, back_off};

/// How long a transaction is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the first proposal: after it nothing new is begun. What goes on then has its phase's deadline.
    pub total: Duration,
    /// A transaction that is in no block by then is sent again: the orderer that took it may have died.
    pub resend: Duration,
    /// Most transactions that are proposed for one call.
    pub proposals: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // An election takes 7 s; a back-off is 10 s at most.
        Self { total: Duration::from_secs(120), resend: Duration::from_secs(10), proposals: 64 }
    }
}

/// One call on its way.
#[derive(Debug, Clone)]
pub struct Course {
    limits: Limits,
    begin: Instant,
    proposals: u32,
    look_ups: u32,
}

impl Course {
    /// Begins now, with its first proposal.
    #[must_use]
    pub const fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, begin: now, proposals: 1, look_ups: 0 }
    }

    /// Transactions that were proposed.
    #[must_use]
    pub const fn proposals(&self) -> u32 {
        self.proposals
    }

    /// Nothing has happened, or nothing of effect: when to propose a new transaction; `None`: not at all.
    pub fn propose(&mut self, retry: Retry, now: Instant, random: u32) -> Option<Duration> {
        // What is open is looked up: a new one could do the same a second time.
        let again = matches!(retry, Retry::Propose | Retry::Anew) && self.proposals < self.limits.proposals;
        let after = again.then(|| back_off(self.proposals, random))?;
        self.in_time(now, after)?;
        self.proposals += 1;
        self.look_ups = 0;
        Some(after)
    }

    /// It is open what has happened: when to send the same again and ask; `None`: not any more.
    pub fn look_up(&mut self, now: Instant, random: u32) -> Option<Duration> {
        let after = back_off(self.look_ups + 1, random);
        self.in_time(now, after)?;
        self.look_ups += 1;
        Some(after)
    }

    fn in_time(&self, now: Instant, after: Duration) -> Option<()> {
        let spent = now.saturating_duration_since(self.begin).saturating_add(after);
        (spent < self.limits.total).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { total: Duration::from_secs(60), resend: Duration::from_secs(5), proposals: 4 };

    #[test]
    fn what_is_open_is_never_proposed_again() {
        let now = Instant::now();
        let mut it = Course::new(LIMITS, now);
        for random in [0, 1, u32::MAX] {
            assert_eq!(it.propose(Retry::LookUp, now, random), None);
            assert_eq!(it.propose(Retry::Never, now, random), None);
        }
        assert_eq!(it.proposals(), 1);
        assert!(it.look_up(now, 0).is_some());
        assert_eq!(it.proposals(), 1, "the same transaction");
    }

    #[test]
    fn back_offs_grow_are_random_and_end_with_the_proposals() {
        let now = Instant::now();
        let mut it = Course::new(LIMITS, now);
        let longest: Vec<Duration> = std::iter::from_fn(|| it.propose(Retry::Anew, now, u32::MAX)).collect();
        assert_eq!(longest, [50, 100, 200].map(Duration::from_millis));
        assert_eq!(it.proposals(), 4);
        let mut it = Course::new(LIMITS, now);
        assert_eq!(it.propose(Retry::Propose, now, 0), Some(Duration::ZERO));
        assert!(it.propose(Retry::Propose, now, u32::MAX / 2).unwrap() < Duration::from_millis(51));
    }

    #[test]
    fn nothing_is_begun_after_the_time() {
        let now = Instant::now();
        let mut it = Course::new(LIMITS, now);
        let late = now + LIMITS.total;
        assert_eq!((it.propose(Retry::Anew, late, 0), it.look_up(late, 0)), (None, None));
        let just = late - Duration::from_millis(30);
        assert_eq!(it.look_up(just, u32::MAX), None, "its back-off would end after it");
        assert_eq!(it.look_up(just, 0), Some(Duration::ZERO));
        // As long as it takes, within the time: an outage of a minute is many look-ups.
        let mut it = Course::new(LIMITS, now);
        let mut at = now;
        let mut count = 0;
        while let Some(after) = it.look_up(at, u32::MAX) {
            (at, count) = (at + after, count + 1);
        }
        assert!((10..20).contains(&count), "{count}");
    }
}
