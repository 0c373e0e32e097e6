//! How many calls of a peer's API one piece of work takes: counted where they are made, read by who asked for the work.
//!
//! The engine counts each attempt of a step ([`counted`]); a driver that talks to a cloud says of every request that it is sent
//! ([`made`]), whatever becomes of it. Who spawns a task carries the count over: [`current`], then [`counted`]. It is for people
//! who look for the cause of load: no driver may decide anything by it.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

tokio::task_local! {
    static CURRENT: Count;
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
    CURRENT.try_with(Clone::clone).ok()
}

/// A call is made, for whatever is being counted here.
pub fn made() {
    // Nothing is being counted: nobody asked.
    let _ = CURRENT.try_with(|count| count.0.fetch_add(1, Ordering::Relaxed));
}

/// Runs a future with its calls counted, on whichever threads it is polled.
pub async fn counted<F: Future>(count: Option<Count>, future: F) -> F::Output {
    match count {
        Some(count) => CURRENT.scope(count, future).await,
        None => future.await,
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
