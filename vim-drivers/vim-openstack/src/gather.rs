//! What many look for at once is asked for together: one list for all keys that were asked about while the list before was on
//! its way.
//!
//! Who asks first waits a moment for company ([`COMPANY`]): steps that an engine begins together ask within it. What is answered was
//! always asked after it was wanted.
//! Tests: below; the scenario `many_servers` counts the calls on a real cloud.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;
use vim::ObjectKey;

use crate::error::CloudError;

/// A list takes twenty times that and more.
const COMPANY: Duration = Duration::from_millis(4);
/// Keys in one list: their marks are in its URL, of 250 characters each at most, and proxies cut it at 8 KiB.
const MOST: usize = 16;

type Answer<T> = Result<Vec<T>, CloudError>;

/// Who waits for what is found of a key.
#[derive(Debug)]
pub(crate) struct Gather<T> {
    waiting: Mutex<Vec<(ObjectKey, oneshot::Sender<Answer<T>>)>>,
    asking: tokio::sync::Mutex<()>,
}

impl<T> Default for Gather<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }
}

impl<T: Clone> Gather<T> {
    fn waiting<R>(&self, f: impl FnOnce(&mut Vec<(ObjectKey, oneshot::Sender<Answer<T>>)>) -> R) -> R {
        f(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything of a key: `list` has all of these keys, `is` tells which is whose.
    pub(crate) async fn find<F: Future<Output = Answer<T>>>(
        &self,
        key: &ObjectKey,
        list: impl Fn(Vec<ObjectKey>) -> F,
        is: impl Fn(&T, &ObjectKey) -> bool,
    ) -> Answer<T> {
        let (mut sender, mut answer) = oneshot::channel();
        self.waiting(|w| w.push((key.clone(), sender)));
        loop {
            let _asking = self.asking.lock().await;
            match answer.try_recv() {
                Ok(found) => return found,
                Err(oneshot::error::TryRecvError::Empty) => {}
                // Whoever asked for us was given up.
                Err(oneshot::error::TryRecvError::Closed) => {
                    (sender, answer) = oneshot::channel();
                    self.waiting(|w| w.push((key.clone(), sender)));
                }
            }
            tokio::time::sleep(COMPANY).await;
            // Ours is among them, or its turn comes.
            let some = self.waiting(|w| w.drain(..w.len().min(MOST)).collect::<Vec<_>>());
            let mut keys: Vec<ObjectKey> = some.iter().map(|(key, _)| key.clone()).collect();
            keys.sort();
            keys.dedup();
            let found = list(keys).await;
            for (key, sender) in some {
                let of_it = |all: &Vec<T>| all.iter().filter(|one| is(one, &key)).cloned().collect();
                // Who was given up does not listen.
                let _gone = sender.send(found.as_ref().map(of_it).map_err(Clone::clone));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use super::*;

    fn key(n: usize) -> ObjectKey {
        ObjectKey::new(format!("ns/{n}")).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_at_once_are_few_lists_and_each_has_its_own() {
        let (gather, lists) = (Gather::<ObjectKey>::default(), AtomicU32::new(0));
        let list = |keys: Vec<ObjectKey>| {
            lists.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(keys)
            }
        };
        let alone = gather.find(&key(0), list, |a, b| a == b).await.unwrap();
        assert_eq!((alone, lists.load(Ordering::Relaxed)), (vec![key(0)], 1));
        let one = async |n: usize| {
            let found = gather.find(&key(n), list, |a, b| a == b).await.unwrap();
            assert_eq!(found, [key(n)]);
        };
        futures::future::join_all((0..40).map(one)).await;
        assert!(lists.load(Ordering::Relaxed) <= 5, "{lists:?}");
    }

    /// Who is given up in the middle of a list keeps nobody else waiting.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_is_given_up_holds_nobody_up() {
        let gather = Gather::<ObjectKey>::default();
        let list = |keys: Vec<ObjectKey>| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(keys)
        };
        let find = async |n: usize| gather.find(&key(n), list, |a, b| a == b).await;
        let given_up = tokio::time::timeout(Duration::from_millis(10), find(1));
        let (first, second) = tokio::join!(given_up, find(2));
        assert!(first.is_err());
        assert_eq!(second.unwrap(), [key(2)]);
    }
}
