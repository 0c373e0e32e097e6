//! How many calls of a peer's API one piece of work takes: counted where they are made, read by who asked for the work.
//!
//! The engine counts each attempt of a step ([`counted`]); a driver that talks to a cloud says of every request that it is sent
//! ([`made`]), whatever becomes of it. Who spawns a task carries the count over: [`current`], then [`counted`]. It is for people
//! who look for the cause of load: no driver may decide anything by it.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

thread_local! {
    static CURRENT: RefCell<Option<Count>> = const { RefCell::new(None) };
}

/// A count of calls; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Count(Arc<AtomicU32>);

impl Count {
    /// Calls so far.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is being counted here, if anything.
#[must_use]
pub fn current() -> Option<Count> {
    CURRENT.with_borrow(Clone::clone)
}

/// A call is made, for whatever is being counted here.
pub fn made() {
    CURRENT.with_borrow(|current| {
        if let Some(count) = current {
            count.0.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Runs a future with its calls counted, on whichever threads it is polled.
pub fn counted<F: Future>(count: Option<Count>, future: F) -> Counted<F> {
    Counted { count, future: Box::pin(future) }
}

/// A future whose calls are counted.
#[derive(Debug)]
pub struct Counted<F> {
    count: Option<Count>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _restored = Restore(CURRENT.replace(self.count.clone()));
        self.future.as_mut().poll(cx)
    }
}

/// Puts back what was current, also when the future panics.
struct Restore(Option<Count>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn calls_are_counted_where_they_belong_and_nowhere_else() {
        let call = || async {
            tokio::task::yield_now().await;
            made();
        };
        let (outer, inner) = (Count::default(), Count::default());
        let work = counted(Some(outer.clone()), async {
            call().await;
            tokio::spawn(counted(current(), call())).await.unwrap();
            counted(Some(inner.clone()), call()).await;
            // Who does not carry it over is not counted.
            tokio::spawn(call()).await.unwrap();
            call().await;
        });
        tokio::join!(work, call());
        assert_eq!((outer.get(), inner.get()), (3, 1));
        assert!(current().is_none());
    }
}
