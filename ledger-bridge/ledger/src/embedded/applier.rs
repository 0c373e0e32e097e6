//! Brings the derived state up to date, behind the commits.
//!
//! A commit does not wait for it: what is not in the database yet is in memory ([`Shared`] for readers, `recent.rs` for
//! the deciding thread). It takes up everything that was committed meanwhile in one transaction, and not again before
//! [`PAUSE`]: what is written again and again, a tenant's usage, is written once. The commits wait only when it is
//! [`MAX_UNAPPLIED`] entries behind. When the database fails the log closes, and opening it makes a new one.

use std::{
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{
    Shared,
    state::{self, State, StateError},
};

/// Least time between two transactions.
const PAUSE: Duration = Duration::from_millis(50);
/// Most committed entries that the database lacks: their writes are in memory, some kilobytes each.
pub(super) const MAX_UNAPPLIED: u64 = 4096;

#[derive(Debug, Default)]
struct Wanted {
    dirty: bool,
    /// The commits wait: no pause.
    urgent: bool,
    stop: bool,
    /// It has ended, after an error too.
    ended: bool,
}

/// The applier's bell.
#[derive(Debug, Default)]
pub(super) struct Applier {
    wanted: Mutex<Wanted>,
    rung: Condvar,
    /// Entries that the database has.
    applied: AtomicU64,
}

impl Applier {
    /// The database has so many entries.
    pub fn new(applied: u64) -> Self {
        Self { applied: AtomicU64::new(applied), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries that the database has: what they wrote, it answers.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// The log has `size` entries. Waits when the database is too far behind; false when it has failed: the log closes.
    pub fn dirty(&self, size: u64) -> bool {
        let mut wanted = self.lock();
        wanted.dirty = true;
        wanted.urgent = size.saturating_sub(self.applied()) > MAX_UNAPPLIED;
        self.rung.notify_all();
        let behind = |w: &mut Wanted| size.saturating_sub(self.applied()) > MAX_UNAPPLIED && !w.ended;
        !self.rung.wait_while(wanted, behind).unwrap_or_else(PoisonError::into_inner).ended
    }

    /// Takes up what is left, and ends.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.rung.notify_all();
    }

    /// Waits for something to take up; is it the last?
    fn wait(&self) -> bool {
        let idle = |w: &mut Wanted| !w.dirty && !w.stop;
        let mut wanted = self.rung.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        wanted.dirty = false;
        wanted.stop
    }

    fn pause(&self) {
        let calm = |w: &mut Wanted| !w.stop && !w.urgent;
        drop(self.rung.wait_timeout_while(self.lock(), PAUSE, calm));
    }

    fn run(&self, shared: &Shared, state: &State) -> Result<(), StateError> {
        loop {
            let last = self.wait();
            if let Some((changes, covers)) = shared.take() {
                state.apply(&changes, &covers)?;
                shared.settle();
                self.applied.store(covers.size, Ordering::Release);
                self.lock().urgent = false;
                self.rung.notify_all();
            }
            if last {
                return Ok(());
            }
            self.pause();
        }
    }

    /// The thread.
    pub fn start(
        self: &Arc<Self>,
        shared: Arc<Shared>,
        state: State,
        path: PathBuf,
        name: String,
    ) -> std::io::Result<JoinHandle<()>> {
        let this = Arc::clone(self);
        let run = move || {
            if let Err(e) = this.run(&shared, &state) {
                // What cannot be written is not kept: opening the log makes it again.
                state::remove(&path);
                shared.stop(&name, &e.into());
            }
            this.lock().ended = true;
            this.rung.notify_all();
        };
        std::thread::Builder::new().name("ledger-state".to_owned()).spawn(run)
    }
}
