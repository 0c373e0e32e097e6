//! What the deciding thread has decided and the derived state does not have yet, in memory.
//!
//! Every decision stands on all before it, committed or not; the database has them some milliseconds later
//! ([`super::applier`]). What it has taken up is forgotten here, in the order in which it was decided, so the size is
//! bounded by what may be decided ahead of the database. Never: forgetting what was written again since. Tests: below.

use std::collections::{BTreeMap, HashMap, VecDeque};

use trust::Digest;

use super::decide::Since;

/// What a decision writes; `None` deletes.
pub(super) type Writes = BTreeMap<String, Option<Vec<u8>>>;

/// A value, or a deletion, and the position that wrote it.
type Written = (u64, Option<Vec<u8>>);

/// The newest decisions.
#[derive(Debug, Default)]
pub(super) struct Recent {
    state: HashMap<String, Written>,
    seen: HashMap<Digest, u64>,
    /// What each position wrote, oldest first.
    order: VecDeque<(u64, Digest, Vec<String>)>,
}

impl Recent {
    /// Takes up a decision.
    pub fn add(&mut self, digest: Digest, position: u64, writes: &Writes) {
        self.seen.insert(digest, position);
        for (key, value) in writes {
            self.state.insert(key.clone(), (position, value.clone()));
        }
        self.order.push_back((position, digest, writes.keys().cloned().collect()));
    }

    /// The database has the first `size` entries.
    pub fn forget(&mut self, size: u64) {
        while self.order.front().is_some_and(|(position, ..)| *position < size) {
            let Some((position, digest, keys)) = self.order.pop_front() else { return };
            self.seen.remove(&digest);
            for key in keys {
                if self.state.get(&key).is_some_and(|(written, _)| *written == position) {
                    self.state.remove(&key);
                }
            }
        }
    }
}

impl Since for Recent {
    fn written(&self, key: &str) -> Option<Option<Vec<u8>>> {
        self.state.get(key).map(|(_, value)| value.clone())
    }

    fn decided(&self, digest: &Digest) -> Option<u64> {
        self.seen.get(digest).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Over a database that has the first entries, it answers like a database that has all.
        #[test]
        fn over_what_was_taken_up_nothing_is_missing(
            writes in prop::collection::vec((0_u8..5, prop::option::of(any::<u8>())), 1..40),
            taken in any::<prop::sample::Index>(),
        ) {
            let (mut recent, taken) = (Recent::default(), taken.index(writes.len() + 1));
            let (mut database, mut all) = (BTreeMap::new(), BTreeMap::new());
            for (position, (key, value)) in (0_u64..).zip(&writes) {
                let (key, value) = (format!("key/{key}"), value.map(|v| vec![v]));
                recent.add(Digest::of(position.to_be_bytes()), position, &BTreeMap::from([(key.clone(), value.clone())]));
                if position < taken as u64 {
                    database.insert(key.clone(), value.clone());
                }
                all.insert(key, value);
            }
            recent.forget(taken as u64);
            for key in (0..5).map(|k| format!("key/{k}")) {
                let found = recent.written(&key).or_else(|| database.get(&key).cloned());
                prop_assert_eq!(found, all.get(&key).cloned());
            }
            for position in 0..writes.len() as u64 {
                let known = recent.decided(&Digest::of(position.to_be_bytes()));
                prop_assert_eq!(known, (position >= taken as u64).then_some(position));
            }
            recent.forget(u64::MAX);
            prop_assert!(recent.state.is_empty() && recent.seen.is_empty() && recent.order.is_empty());
        }
    }
}
