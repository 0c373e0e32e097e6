//! Ends of instances, noticed when they happen: a pidfd becomes readable when its process ends (pidfd_open(2)).
//!
//! Watched is what we started and what was found running, once each. An end that we brought about ourselves is no
//! change. Nothing depends on it: an observation finds the same a little later.
//!
//! Tests: `tests/drift.rs`, the conformance suite.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::fd::OwnedFd;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, watch},
};
use vim::{Changed, ObjectKey};

use crate::process::Process;

/// Most keys remembered; beyond it a caller is told to look at everything.
const MAX_CHANGES: usize = 1024;

/// What ended by itself.
pub(crate) struct Watch {
    seen: Mutex<Seen>,
    told: Notify,
    /// Its end ends the tasks that wait.
    lives: watch::Sender<()>,
}

#[derive(Default)]
struct Seen {
    count: u64,
    keys: VecDeque<ObjectKey>,
    watched: BTreeSet<Process>,
    ending: BTreeSet<Process>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { seen: Mutex::default(), told: Notify::new(), lives: watch::Sender::new(()) }
    }
}

impl Watch {
    /// Notices when this process ends. On a runtime.
    pub(crate) fn over(self: &Arc<Self>, key: &ObjectKey, process: Process) {
        if !self.lock().watched.insert(process) {
            return;
        }
        let ends = process.pidfd().and_then(readiness);
        let Some(ends) = ends else {
            // It ended already, or there are too many descriptors: the next observation sees it.
            self.lock().watched.remove(&process);
            return;
        };
        let (watch, key, mut lives) = (Arc::downgrade(self), key.clone(), self.lives.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                _ = ends.readable() => {}
                _ = lives.changed() => return,
            }
            if let Some(watch) = watch.upgrade() {
                watch.ended(&key, process);
            }
        });
    }

    /// This process is about to be ended by us.
    pub(crate) fn expect_end(&self, process: Process) {
        let mut seen = self.lock();
        if seen.watched.contains(&process) {
            seen.ending.insert(process);
        }
    }

    fn ended(&self, key: &ObjectKey, process: Process) {
        let mut seen = self.lock();
        seen.watched.remove(&process);
        if seen.ending.remove(&process) {
            return;
        }
        seen.count += 1;
        seen.keys.push_back(key.clone());
        if seen.keys.len() > MAX_CHANGES {
            seen.keys.pop_front();
        }
        self.told.notify_waiters();
    }

    /// Waits for more than `after` ends.
    pub(crate) async fn changed(&self, after: u64) -> Changed {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if let Some(changed) = self.lock().since(after) {
                return changed;
            }
            told.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells when the descriptor is readable. Deprecated for types whose descriptor may change or be closed under it; an
/// owned one is neither, and what replaces it is unsafe.
#[allow(deprecated)]
fn readiness(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE).ok()
}

impl Seen {
    fn since(&self, after: u64) -> Option<Changed> {
        let new = self.count.checked_sub(after).filter(|n| *n > 0)?;
        let skip = self.keys.len().checked_sub(usize::try_from(new).unwrap_or(usize::MAX));
        let keys = skip.map(|s| self.keys.iter().skip(s).cloned().collect()).unwrap_or_default();
        Some(Changed { count: self.count, keys })
    }
}
