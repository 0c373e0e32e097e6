//! Ledger time: the wall clock, as far as it can be believed.
//!
//! Ledger time never goes back, so a single wrong reading far in the future would stay the ledger's time until the
//! world caught up, with every intent expired on arrival. No rule can tell a wrong clock from a ledger that was idle
//! by looking at entries alone. But a process can: from the moment it opened the ledger, the wall clock and the
//! machine's uptime advance together.
//!
//! - While the log is open, a reading more than [`MAX_AHEAD_S`] ahead of the time of opening plus the uptime since is
//!   refused, retryably and without an entry. A clock that was set right by so much needs a restart, which judges anew.
//! - At opening, the clock may be any time ahead of the last entry, for the ledger may have been idle, but not more
//!   than [`MAX_IDLE_S`] unless that is confirmed ([`super::OpenOptions::accept_clock`]).
//! - A reading behind is no danger: ledger time stands still until the clock has caught up.
//!
//! Uptime counts suspended time, as Linux' `CLOCK_BOOTTIME` does; otherwise a lid that was closed would look like a jump.

use std::{path::Path, time::Duration};

use nix::time::{ClockId, clock_gettime};
use trust::UnixTime;

use crate::LedgerError;

/// Most seconds that the wall clock may gain on the uptime while the log is open: room for every correction by NTP short
/// of a clock that was wrong.
pub const MAX_AHEAD_S: u64 = 300;
/// Most seconds that a ledger can have been idle without somebody confirming the clock: 400 days, over a year.
pub const MAX_IDLE_S: u64 = 400 * 24 * 3600;
/// A gap at opening that is worth a line in the log.
const NOTEWORTHY_S: u64 = 24 * 3600;

/// Reads the wall clock.
pub(super) type Wall = Box<dyn Fn() -> UnixTime + Send + Sync>;
/// Reads how long the machine has been up, suspended time included.
pub(super) type Uptime = Box<dyn Fn() -> Duration + Send + Sync>;

/// A clock that was believed once, and is held to that.
pub(super) struct LedgerClock {
    wall: Wall,
    uptime: Uptime,
    /// What it showed when the log was opened, not before the last entry; and the uptime then.
    opened: (UnixTime, Duration),
}

/// The machine's uptime. Where it cannot be read (no Linux has that) it stands still, and the rule is only stricter.
pub(super) fn uptime() -> Uptime {
    Box::new(|| clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default())
}

impl LedgerClock {
    /// Judges the first reading by the last entry's time.
    pub fn start(
        dir: &Path,
        wall: Wall,
        uptime: Uptime,
        last: UnixTime,
        accept: bool,
    ) -> Result<Self, LedgerError> {
        let (shows, up) = (wall(), uptime());
        if shows > last.plus(MAX_IDLE_S) && !accept {
            return Err(LedgerError::ClockAtOpening { dir: dir.to_owned(), shows, last });
        }
        if shows > last.plus(NOTEWORTHY_S) {
            tracing::warn!(clock = %shows, last_entry = %last, "the clock is far ahead of the ledger's last entry; it will be the ledger's time");
        }
        Ok(Self { wall, uptime, opened: (shows.max(last), up) })
    }

    /// The wall clock's time, if the uptime bears it out.
    pub fn now(&self) -> Result<UnixTime, LedgerError> {
        let (opened, up) = self.opened;
        let expected = opened.plus((self.uptime)().saturating_sub(up).as_secs());
        let shows = (self.wall)();
        match shows > expected.plus(MAX_AHEAD_S) {
            true => Err(LedgerError::Clock { shows, expected }),
            false => Ok(shows),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use proptest::prelude::*;

    use super::*;

    const T0: UnixTime = UnixTime(1_800_000_000);
    const DAY: u64 = 24 * 3600;

    /// A clock whose wall and uptime (seconds) a test sets.
    fn clock(
        wall: u64,
        last: UnixTime,
        accept: bool,
    ) -> (Arc<[AtomicU64; 2]>, Result<LedgerClock, LedgerError>) {
        let hands = Arc::new([AtomicU64::new(wall), AtomicU64::new(1000)]);
        let (a, b) = (Arc::clone(&hands), Arc::clone(&hands));
        let wall: Wall = Box::new(move || UnixTime(a[0].load(Ordering::SeqCst)));
        let uptime: Uptime = Box::new(move || Duration::from_secs(b[1].load(Ordering::SeqCst)));
        (hands, LedgerClock::start(Path::new("ledger"), wall, uptime, last, accept))
    }

    #[test]
    fn a_long_run_is_believed_and_a_jump_is_not() {
        let (hands, clock) = clock(T0.0, T0, false);
        let clock = clock.unwrap();
        for (wall, up, good) in [
            (0, 0, true),
            (MAX_AHEAD_S, 0, true),
            (MAX_AHEAD_S + 1, 0, false),
            (10 * DAY, 10 * DAY, true),
            (10 * DAY + MAX_AHEAD_S, 10 * DAY, true),
            (10 * DAY + MAX_AHEAD_S + 1, 10 * DAY, false),
            // Behind, and back again.
            (5, 20 * DAY, true),
            (20 * DAY, 20 * DAY, true),
        ] {
            hands[0].store(T0.0 + wall, Ordering::SeqCst);
            hands[1].store(1000 + up, Ordering::SeqCst);
            let read = clock.now();
            assert_eq!(read.is_ok(), good, "{wall} s by the wall, {up} s up");
            if let Err(e) = read {
                assert!(e.retryable(), "{e}");
            }
        }
        hands[0].store(u64::MAX, Ordering::SeqCst);
        assert!(clock.now().is_err());
    }

    #[test]
    fn idle_for_a_week_or_a_year_is_fine_and_more_is_to_be_confirmed() {
        for (idle, good) in [(0, true), (7 * DAY, true), (MAX_IDLE_S, true), (MAX_IDLE_S + 1, false)] {
            let (_, opened) = clock(T0.0 + idle, T0, false);
            assert_eq!(opened.is_ok(), good, "{idle}");
            let (_, opened) = clock(T0.0 + idle, T0, true);
            assert_eq!(opened.unwrap().now().unwrap(), T0.plus(idle));
        }
        let (_, opened) = clock(T0.0 + MAX_IDLE_S + 1, T0, false);
        let Err(error) = opened else { panic!("accepted") };
        assert!(!error.retryable() && error.to_string().contains("--accept-clock"), "{error}");
    }

    /// A clock that was behind at opening may be set right, up to what the last entry shows that it must be by now.
    #[test]
    fn a_clock_that_was_behind_may_be_set_right() {
        let (hands, clock) = clock(0, T0, false);
        let clock = clock.unwrap();
        hands[0].store(T0.0 + 10, Ordering::SeqCst);
        assert_eq!(clock.now().unwrap(), T0.plus(10));
        hands[0].store(T0.0 + DAY, Ordering::SeqCst);
        assert!(clock.now().is_err());
    }

    proptest! {
        #[test]
        fn what_is_believed_is_never_far_ahead(wall: u64, idle in 0..MAX_IDLE_S, up in 0_u64..1 << 40) {
            let (hands, clock) = clock(T0.0 + idle, T0, false);
            let clock = clock.unwrap();
            hands[0].store(wall, Ordering::SeqCst);
            hands[1].store(1000 + up, Ordering::SeqCst);
            if let Ok(t) = clock.now() {
                prop_assert!(t <= T0.plus(idle + up + MAX_AHEAD_S));
            } else {
                prop_assert!(wall > T0.0 + idle + up + MAX_AHEAD_S);
            }
        }
    }

    #[test]
    fn the_machines_uptime_advances() {
        let uptime = uptime();
        let first = uptime();
        std::thread::sleep(Duration::from_millis(5));
        assert!(first > Duration::ZERO && uptime() > first);
    }
}
