//! Which requests go into one transaction, and which transactions may be under way at once.
//!
//! What a tenant's quota orders is in the tenant's lane: of a lane one transaction is under way, and what arrives
//! meanwhile goes into the next one together, as the embedded log shares one sync. Lanes do not wait for each other. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ledger_contract::transaction::MAX_REQUESTS;

/// Most transactions under way at once: a peer's default of concurrent proposals is far above.
const MAX_UNDER_WAY: usize = 64;
/// Most bytes of requests in one transaction; one alone may have more. A transaction of Fabric's default is 10 MiB at most.
const MAX_BYTES: usize = 4 << 20;

/// What waits for its transaction.
pub(crate) trait Weighs {
    /// Bytes that it adds to a transaction.
    fn bytes(&self) -> usize;
}

/// The lanes.
pub(crate) struct Lanes<J> {
    waiting: BTreeMap<String, VecDeque<J>>,
    /// Lanes with something to do and nothing under way, in the order in which they became so.
    ready: VecDeque<String>,
    under_way: BTreeSet<String>,
}

impl<J> Default for Lanes<J> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), ready: VecDeque::new(), under_way: BTreeSet::new() }
    }
}

impl<J: Weighs> Lanes<J> {
    /// One more.
    pub fn push(&mut self, lane: String, job: J) {
        let queue = self.waiting.entry(lane.clone()).or_default();
        queue.push_back(job);
        if queue.len() == 1 && !self.under_way.contains(&lane) {
            self.ready.push_back(lane);
        }
    }

    /// What goes into the next transaction, now; its lane is under way until [`Self::done`].
    pub fn next(&mut self) -> Option<(String, Vec<J>)> {
        if self.under_way.len() >= MAX_UNDER_WAY {
            return None;
        }
        let lane = self.ready.pop_front()?;
        let queue = self.waiting.get_mut(&lane)?;
        let (mut bytes, mut count) = (0, 0);
        for job in queue.iter().take(MAX_REQUESTS) {
            bytes += job.bytes();
            if count > 0 && bytes > MAX_BYTES {
                break;
            }
            count += 1;
        }
        let taken = queue.drain(..count).collect();
        if queue.is_empty() {
            self.waiting.remove(&lane);
        }
        self.under_way.insert(lane.clone());
        Some((lane, taken))
    }

    /// The lane's transaction is over.
    pub fn done(&mut self, lane: &str) {
        self.under_way.remove(lane);
        if self.waiting.contains_key(lane) {
            self.ready.push_back(lane.to_owned());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    impl Weighs for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    #[test]
    fn a_lane_has_one_transaction_under_way_and_the_next_takes_what_came_meanwhile() {
        let mut lanes = Lanes::default();
        lanes.push("a".into(), 1);
        assert_eq!(lanes.next(), Some(("a".into(), vec![1])));
        (2..5).for_each(|n| lanes.push("a".into(), n));
        lanes.push("b".into(), 9);
        assert_eq!(lanes.next(), Some(("b".into(), vec![9])), "another lane does not wait");
        assert_eq!(lanes.next(), None);
        lanes.done("a");
        assert_eq!(lanes.next(), Some(("a".into(), vec![2, 3, 4])), "together, in order");
        lanes.done("a");
        lanes.done("b");
        assert_eq!(lanes.next(), None);
    }

    #[test]
    fn a_transaction_has_its_bounds() {
        let mut lanes = Lanes::default();
        (0..=MAX_REQUESTS).for_each(|_| lanes.push("a".into(), 1));
        assert_eq!(lanes.next().unwrap().1.len(), MAX_REQUESTS);
        lanes.done("a");
        assert_eq!(lanes.next().unwrap().1.len(), 1);
        lanes.done("a");
        [MAX_BYTES + 1, 1, MAX_BYTES, 1].into_iter().for_each(|n| lanes.push("a".into(), n));
        for expected in [vec![MAX_BYTES + 1], vec![1], vec![MAX_BYTES], vec![1]] {
            assert_eq!(lanes.next().unwrap().1, expected);
            lanes.done("a");
        }
        for n in 0..=MAX_UNDER_WAY {
            lanes.push(n.to_string(), 1);
        }
        assert_eq!(std::iter::from_fn(|| lanes.next()).count(), MAX_UNDER_WAY);
        lanes.done("0");
        assert!(lanes.next().is_some());
    }
}
