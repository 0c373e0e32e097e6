//! Which gateway is used. Time and randomness are arguments.
//!
//! The preferred one that is well. One that fails is left alone for a back-off, then tried again; when all have failed, the
//! one whose back-off ends first.

use std::time::{Duration, Instant};

use fabric::gateway::{Code, Refusal, back_off};

/// A gateway that has failed so often in a row is left alone for the longest back-off.
const MOST_FAILURES: u32 = 16;
/// Added to a back-off: a peer that was just killed needs seconds to come back.
const AT_LEAST: Duration = Duration::from_millis(500);
/// So many times what asking it has cost is added as well: one that hangs takes little of the time.
const TIMES_LOST: u32 = 4;
/// But no more than this.
const MOST: Duration = Duration::from_secs(60);

/// How a gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Its last answers were no answers, so often in a row.
    pub failures: u32,
    /// Left alone for so long from now; zero: it is used.
    pub left_alone: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct One {
    failures: u32,
    until: Option<Instant>,
}

impl One {
    fn out(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
    }
}

/// How each gateway is.
#[derive(Debug, Clone)]
pub struct Health {
    all: Vec<One>,
}

impl Health {
    /// So many, all well.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { all: vec![One::default(); count] }
    }

    /// The one to use now; of none, the first.
    #[must_use]
    pub fn choose(&self, now: Instant) -> usize {
        let well = self.all.iter().position(|one| !one.out(now));
        let soonest = || (0..self.all.len()).min_by_key(|place| self.all[*place].until);
        well.or_else(soonest).unwrap_or_default()
    }

    /// It has answered.
    pub fn good(&mut self, place: usize) {
        if let Some(one) = self.all.get_mut(place) {
            *one = One::default();
        }
    }

    /// It has not, and was asked since `asked`.
    pub fn bad(&mut self, place: usize, asked: Instant, now: Instant, random: u32) {
        if let Some(one) = self.all.get_mut(place) {
            one.failures = one.failures.saturating_add(1);
            let lost = now.saturating_duration_since(asked).saturating_mul(TIMES_LOST);
            let after = back_off(one.failures.min(MOST_FAILURES), random);
            one.until = now.checked_add(after + lost.clamp(AT_LEAST, MOST));
        }
    }

    /// Of each.
    #[must_use]
    pub fn states(&self, now: Instant) -> Vec<State> {
        let left = |one: &One| one.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        self.all.iter().map(|one| State { failures: one.failures, left_alone: left(one) }).collect()
    }
}

/// Should another gateway be asked? Not when it is the chaincode that refuses, or what was asked is wrong: all would say it.
pub(super) fn speaks_against(refusal: &Refusal) -> bool {
    if refusal.chaincode_status().is_some() {
        return false;
    }
    match refusal.code {
        // FailedPrecondition: it does not know of enough endorsers; others may.
        Code::Unavailable | Code::DeadlineExceeded | Code::FailedPrecondition | Code::ResourceExhausted => {
            true
        }
        Code::Unknown | Code::Internal | Code::Cancelled | Code::Unimplemented | Code::DataLoss => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_one_that_is_well_is_used_and_comes_back() {
        let now = Instant::now();
        let mut it = Health::new(3);
        assert_eq!(it.choose(now), 0);
        it.bad(0, now, now, 0);
        assert_eq!(it.choose(now), 1);
        it.bad(1, now, now, 0);
        assert_eq!((it.choose(now), it.choose(now + AT_LEAST)), (2, 0), "tried again after its back-off");
        it.good(0);
        assert_eq!(it.choose(now), 0);
        assert_eq!(it.states(now).iter().map(|s| s.failures).collect::<Vec<_>>(), [0, 1, 0]);
    }

    #[test]
    fn when_all_fail_the_one_that_is_soonest_back_is_used() {
        let now = Instant::now();
        let mut it = Health::new(2);
        it.bad(0, now, now, u32::MAX);
        it.bad(0, now, now, u32::MAX);
        it.bad(1, now, now, u32::MAX);
        assert_eq!(it.choose(now), 1);
        for _ in 0..100 {
            it.bad(1, now, now, u32::MAX);
        }
        assert_eq!(it.choose(now), 0);
        assert!(it.states(now)[1].left_alone <= Duration::from_millis(10_500));
    }

    #[test]
    fn one_that_hangs_takes_little_of_the_time() {
        let begin = Instant::now();
        let mut it = Health::new(1);
        let mut hung = |asked: Duration| {
            it.bad(0, begin, begin + asked, 0);
            it.states(begin + asked)[0].left_alone
        };
        assert_eq!(hung(Duration::ZERO), AT_LEAST);
        assert_eq!(hung(Duration::from_secs(8)), Duration::from_secs(32));
        assert_eq!(hung(Duration::from_secs(80)), MOST);
    }

    #[test]
    fn what_the_chaincode_says_does_not_speak_against_its_gateway() {
        let refusal = |code, message: &str| Refusal { code, message: message.into(), details: Vec::new() };
        assert!(speaks_against(&refusal(Code::Unavailable, "connection refused")));
        assert!(!speaks_against(&refusal(Code::Unknown, "chaincode response 404, nothing")));
        assert!(!speaks_against(&refusal(Code::Aborted, "failed to endorse")));
    }
}
