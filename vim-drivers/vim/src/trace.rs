//! The W3C trace context of a call at the port: who calls says which span the call is, a driver hands it on.
//!
//! A driver that talks HTTP sends [`current`] as its `traceparent` header; one that starts processes puts it into their
//! environment as [`VARIABLE`]. It is for people who look for the cause of something: no driver may decide anything by
//! it. Whoever spawns a task must carry it over with [`within`].

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// Name of the environment variable that carries it to a process.
pub const VARIABLE: &str = "TRACEPARENT";

/// A `traceparent` header's value.
pub type TraceContext = Arc<str>;

thread_local! {
    static CURRENT: RefCell<Option<TraceContext>> = const { RefCell::new(None) };
}

/// The context that is being worked in, if any.
#[must_use]
pub fn current() -> Option<TraceContext> {
    CURRENT.with_borrow(Clone::clone)
}

/// Runs a future in a context, on whichever threads it is polled.
pub fn within<F: Future>(context: Option<TraceContext>, future: F) -> Within<F> {
    Within { context, future: Box::pin(future) }
}

/// A future that runs in a context.
#[derive(Debug)]
pub struct Within<F> {
    context: Option<TraceContext>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _restored = Restore(CURRENT.replace(self.context.clone()));
        self.future.as_mut().poll(cx)
    }
}

/// Puts back what was current, also when the future panics.
struct Restore(Option<TraceContext>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_context_is_seen_where_it_belongs_and_nowhere_else() {
        let look = || async {
            tokio::task::yield_now().await;
            current()
        };
        let outer = within(Some("a".into()), async move {
            let inner = tokio::spawn(within(Some("b".into()), look())).await.unwrap();
            let lost = tokio::spawn(look()).await.unwrap();
            (look().await, inner, lost)
        });
        let (here, inner, lost) = outer.await;
        assert_eq!((here.as_deref(), inner.as_deref(), lost), (Some("a"), Some("b"), None));
        assert_eq!(current(), None);
        let panics = tokio::spawn(within(Some("c".into()), async { panic!("as it may") }));
        assert!(panics.await.is_err());
        assert_eq!(tokio::spawn(look()).await.unwrap(), None);
    }
}
