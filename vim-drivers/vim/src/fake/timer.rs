//! A timer that needs no runtime: one thread for all who wait, however many.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Condvar, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// Longest sleep of the thread when nobody waits: it then looks again.
const IDLE: Duration = Duration::from_secs(60);

type Waiting = BTreeMap<(Instant, u64), Waker>;

static WAITING: Mutex<Waiting> = Mutex::new(BTreeMap::new());
static EARLIER: Condvar = Condvar::new();
static STARTED: Once = Once::new();
static LAST: AtomicU64 = AtomicU64::new(0);

/// Ready after some time.
pub(crate) struct Sleep((Instant, u64));

impl Sleep {
    pub(crate) fn new(time: Duration) -> Self {
        STARTED.call_once(|| drop(std::thread::spawn(run)));
        Self((Instant::now() + time, LAST.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.0.0 {
            return Poll::Ready(());
        }
        let mut waiting = lock();
        waiting.insert(self.0, cx.waker().clone());
        if waiting.first_key_value().is_some_and(|(first, _)| *first == self.0) {
            EARLIER.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        lock().remove(&self.0);
    }
}

fn lock() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run() {
    let mut waiting = lock();
    loop {
        let now = Instant::now();
        let later = waiting.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut *waiting, later);
        if !due.is_empty() {
            drop(waiting);
            due.into_values().for_each(Waker::wake);
            waiting = lock();
            continue;
        }
        let next = waiting.keys().next().map_or(IDLE, |(at, _)| at.saturating_duration_since(now));
        (waiting, _) = EARLIER.wait_timeout(waiting, next).unwrap_or_else(PoisonError::into_inner);
    }
}
