//! Where a packet thread leaves its counters for whoever wants to read them, as often as they like.

use std::sync::{Arc, Mutex, PoisonError};

use crate::report::Report;

/// The last report of one packet thread.
#[derive(Debug, Default)]
pub struct Board(Mutex<Option<Arc<Report>>>);

impl Board {
    /// Replaces the report, unless somebody is reading this very moment: then it is left for the next time.
    pub fn publish(&self, report: Report) {
        let report = Arc::new(report);
        // Freed after the lock is given back.
        let _before = match self.0.try_lock() {
            Ok(mut slot) => slot.replace(report),
            Err(_) => return,
        };
    }

    /// The last report; none before the thread has begun.
    pub fn latest(&self) -> Option<Arc<Report>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
