//! Keeps `checkpoint` and the partial tiles up to date for readers of the directory, behind the writer's back.
//!
//! A commit does not wait for it: what it writes is in the tail already ([`super::store`]). It runs at once after a
//! commit, and not again before [`PAUSE`]: readers poll, and under load every head would be replaced unread. When a
//! publication fails it is tried again; the log goes on, for nothing that was confirmed depends on it.

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use super::{Shared, disk::Disk, store::publish};

/// Least time between two publications.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct Wanted {
    dirty: bool,
    stop: bool,
}

/// The publisher's bell.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    wanted: Mutex<Wanted>,
    rung: Condvar,
}

impl Publisher {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a new head.
    pub fn dirty(&self) {
        self.lock().dirty = true;
        self.rung.notify_one();
    }

    /// Publishes what is left, and ends.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.rung.notify_one();
    }

    /// Waits for a new head; is it the last?
    fn wait(&self) -> bool {
        let idle = |w: &mut Wanted| !w.dirty && !w.stop;
        let mut wanted = self.rung.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        wanted.dirty = false;
        wanted.stop
    }

    fn pause(&self) {
        let running = |w: &mut Wanted| !w.stop;
        drop(self.rung.wait_timeout_while(self.lock(), PAUSE, running));
    }

    /// The thread.
    pub fn start(
        self: &Arc<Self>,
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        mut since: u64,
    ) -> std::io::Result<JoinHandle<()>> {
        let this = Arc::clone(self);
        let run = move || loop {
            let last = this.wait();
            let head = shared.head();
            if head.size() != since {
                match publish(&*disk, &dir, &head, since) {
                    Ok(size) => since = size,
                    Err(error) => {
                        tracing::error!(%error, "the ledger's checkpoint cannot be published; trying again");
                        this.lock().dirty = true;
                    }
                }
            }
            if last {
                return;
            }
            this.pause();
        };
        std::thread::Builder::new().name("ledger-publisher".to_owned()).spawn(run)
    }
}
