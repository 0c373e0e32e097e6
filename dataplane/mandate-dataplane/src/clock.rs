//! Time for the packet function: µs since the start of the process, the same for every thread.

use std::time::Instant;

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
}
