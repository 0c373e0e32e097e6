//! Time for the packet function: µs since the start of the process, the same for every thread.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Begins at 0.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// µs since the start.
    pub fn now_us(self) -> u64 {
        // 584,000 years fit.
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// When something happened, in ms since 1970. `at_ms` is of the packet functions' clock, which wraps after 49 days: it was not so
    /// long ago.
    pub fn since_1970_ms(self, at_ms: u32) -> u64 {
        let clock_ms = u32::try_from((self.now_us() / 1_000) & u64::from(u32::MAX)).unwrap_or(0);
        now_ms().saturating_sub(clock_ms.wrapping_sub(at_ms).into())
    }
}

/// ms since 1970.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
