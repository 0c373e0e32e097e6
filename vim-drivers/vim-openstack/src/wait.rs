//! Waiting for the cloud without storming it: the first look when it is likely to be done, then ever more seldom.
//!
//! How long boots take is learned from those before. Tests: below.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// First look when nothing is known yet.
const FIRST: Duration = Duration::from_millis(1_500);
/// Earliest and latest first look.
const EARLIEST: Duration = Duration::from_millis(250);
const LATEST: Duration = Duration::from_secs(20);
/// Pause after the first look when nothing is known, the shortest, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(150);
const LONGEST: Duration = Duration::from_secs(10);

/// A call whose answer was lost may be carried out after that: so long it is waited before it is looked for. What comes even later
/// is found by its mark, at the next look or when it is removed.
pub(crate) const LATE: Duration = Duration::from_secs(2);

/// Looks in a row that found it done before they come ever faster down.
const SURE: u32 = 2;

/// When to look first for something, learned: a little later than it mostly takes. A look too early costs its answer and a pause,
/// several times what it costs to look a little late.
#[derive(Debug, Default)]
pub(crate) struct Learned(Mutex<Lately>);

#[derive(Debug, Default, Clone, Copy)]
struct Lately {
    first: Option<Duration>,
    /// First looks in a row that found it done.
    found: u32,
    /// One did not: it is known about how long it takes.
    missed: bool,
}

impl Learned {
    fn lately(&self) -> Lately {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self) -> Duration {
        self.lately().first.map_or(FIRST, |first| first.clamp(EARLIEST, LATEST))
    }

    /// The pause after that: a part of it, so that little is waited for nothing.
    fn pause(&self) -> Duration {
        self.lately().first.map_or(PAUSE, |first| (first / 16).clamp(SHORTEST, PAUSE))
    }

    /// It took so long, as far as anybody saw. What was done at the first look was done before that, nobody knows how long: the
    /// next look is a little earlier, and ever more so while it is found done. What was not was done at some
    /// time between two looks: a quarter of the way there. Where it took far longer, twice as late at most: one that was slow
    /// holds the next ones up no more than that.
    fn learn(&self, took: Duration, at_first: bool) {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A look's answer takes its time, too: when it was asked counts.
        let asked = lately.first.unwrap_or(FIRST).min(LATEST);
        let (first, found) = match at_first {
            true => {
                let part = 32 >> if lately.missed { lately.found.saturating_sub(SURE).min(3) } else { 3 };
                (asked - asked / part, lately.found + 1)
            }
            false => {
                let late = took.saturating_sub(asked);
                (asked + if late < asked { late / 4 } else { asked.min(late / 2) }, 0)
            }
        };
        let (first, missed) = (Some(first.clamp(EARLIEST, 2 * LATEST)), lately.missed || !at_first);
        *lately = Lately { first, found, missed };
    }
}

/// A wait for one thing.
#[derive(Debug)]
pub(crate) struct Pace<'a> {
    learned: Option<&'a Learned>,
    begun: Instant,
    limit: Duration,
    looks: u32,
    /// When the next one is, once that is known.
    due: Option<Instant>,
}

impl<'a> Pace<'a> {
    pub(crate) fn new(limit: Duration, learned: Option<&'a Learned>) -> Self {
        Self { learned, begun: Instant::now(), limit, looks: 0, due: None }
    }

    /// Sleeps until the next look; false: the time is over, and there was a last look at its end. It may be given up and called
    /// again.
    pub(crate) async fn next(&mut self) -> bool {
        let end = self.begun + self.limit;
        if Instant::now() >= end {
            return false;
        }
        let due = self.due(Instant::now()).min(end);
        tokio::time::sleep_until(due.into()).await;
        self.looked();
        true
    }

    fn due(&mut self, now: Instant) -> Instant {
        *self.due.get_or_insert_with(|| now + pause(self.learned, self.looks))
    }

    fn looked(&mut self) {
        (self.due, self.looks) = (None, self.looks + 1);
    }

    /// Somebody looked for all: the next look is a pause from now, if it is not later anyway.
    pub(crate) fn seen_by_another(&mut self) {
        self.put_off(Instant::now());
    }

    fn put_off(&mut self, now: Instant) {
        let before = self.due(now);
        self.looked();
        self.due = Some(self.due(now).max(before));
    }

    /// It is done.
    pub(crate) fn done(&self) {
        if let Some(learned) = self.learned.filter(|_| self.looks > 0) {
            learned.learn(self.begun.elapsed(), self.looks == 1);
        }
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.begun.elapsed().as_secs()
    }
}

/// Before the look after so many.
fn pause(learned: Option<&Learned>, looks: u32) -> Duration {
    match looks {
        0 => learned.map_or(PAUSE, Learned::first),
        n => jitter(grown(learned.map_or(PAUSE, Learned::pause), n)),
    }
}

/// Half as long again each time.
fn grown(first: Duration, looks: u32) -> Duration {
    let mut pause = first;
    for _ in 1..looks.min(16) {
        pause = (pause * 3 / 2).min(LONGEST);
    }
    pause
}

/// A quarter of it is random: who waits for the same does not come at once.
fn jitter(whole: Duration) -> Duration {
    whole / 4 * 3 + whole / 4 * (getrandom::u32().unwrap_or_default() % 1000) / 1000
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_a_boot_of_minutes_takes_few_looks() {
        let (mut looks, mut passed) = (1, FIRST);
        while passed < Duration::from_secs(300) {
            let pause = grown(SHORTEST, looks);
            assert!(pause >= SHORTEST && pause <= LONGEST);
            assert!((pause / 4 * 3..=pause).contains(&jitter(pause)), "{looks}");
            passed += pause * 3 / 4;
            looks += 1;
        }
        assert!(looks < 60, "{looks}");
    }

    #[test]
    fn what_it_took_lately_is_when_to_look_first() {
        let learned = Learned::default();
        assert_eq!(learned.first(), FIRST);
        learned.learn(Duration::from_secs(4), false);
        assert_eq!(
            (learned.first(), learned.pause()),
            (Duration::from_millis(2750), Duration::from_micros(171_875))
        );
        learned.learn(Duration::from_secs(3), false);
        assert_eq!(learned.first(), Duration::from_micros(2_812_500));
        learned.learn(Duration::from_secs(3600), false);
        assert_eq!(learned.first(), Duration::from_micros(2 * 2_812_500));
        (0..3).for_each(|_| learned.learn(Duration::from_secs(3600), false));
        assert_eq!(learned.first(), LATEST);
    }

    /// Many that wait at once cost few looks more than one: whoever looks puts all others off.
    #[test]
    fn a_look_for_all_puts_everybody_off() {
        let learned = Learned::default();
        let looks = |n: u64| {
            let start = Instant::now();
            let mut all: Vec<Pace<'_>> = (0..n).map(|_| Pace::new(LONGEST, Some(&learned))).collect();
            // They begin one after the other, as orders do.
            for (k, one) in (0..).zip(&mut all) {
                one.due(start + Duration::from_millis(37 * k));
            }
            let mut count = 0;
            loop {
                let dues: Vec<Instant> = all.iter_mut().map(|p| p.due(start)).collect();
                let first = (0..all.len()).min_by_key(|at| dues[*at]).unwrap_or_default();
                let now = dues[first];
                if now > start + Duration::from_secs(8) {
                    return count;
                }
                count += 1;
                for (at, one) in all.iter_mut().enumerate() {
                    match at == first {
                        true => {
                            one.looked();
                            one.due(now);
                        }
                        false => one.put_off(now),
                    }
                }
            }
        };
        let (one, many) = (looks(1), looks(40));
        assert!((3..12).contains(&one) && many <= 3 * one, "one: {one} looks, forty: {many}");
    }

    /// Whatever came before: when it always is there at the first look, looks come earlier, down to the earliest.
    #[test]
    fn what_is_done_at_the_first_look_is_looked_for_earlier() {
        let learned = Learned::default();
        learned.learn(Duration::from_secs(20), false);
        for _ in 0..40 {
            learned.learn(learned.first(), true);
        }
        assert_eq!(learned.first(), EARLIEST);
    }

    /// Boots that take a second, more or less: looked for once, seldom twice, and not long after they are done.
    #[test]
    fn what_takes_about_as_long_as_ever_is_looked_for_once_and_soon() {
        const ANSWER: u64 = 80;
        let learned = Learned::default();
        let mut random = 7_u64;
        let (mut looks, mut waited) = (0, 0);
        for turn in 0..220 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let takes = 950 + (random >> 33) % 100;
            let (mut at, mut n) = (millis(learned.first()), 1);
            while at < takes {
                at += ANSWER + millis(pause(Some(&learned), n));
                n += 1;
            }
            learned.learn(Duration::from_millis(at + ANSWER), n == 1);
            if turn >= 20 {
                (looks, waited) = (looks + n, waited + at - takes);
            }
        }
        let (looks, waited) = (f64::from(looks) / 200.0, waited / 200);
        assert!(looks < 1.4 && waited < 110, "{looks} looks, {waited} ms too late");
    }

    fn millis(of: Duration) -> u64 {
        u64::try_from(of.as_millis()).unwrap()
    }
}
