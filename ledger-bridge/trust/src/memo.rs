//! Remembering what a pure function gave, within a bound.
//!
//! What is remembered is keyed by the SHA-256 of everything that it depends on, so an empty memo and a full one give the
//! same answers. Never: a key that leaves an input out. Tests: below.

use std::collections::HashMap;

use crate::Digest;

/// At most so many results, of one thread.
#[derive(Debug)]
pub struct Memo<V> {
    most: usize,
    results: HashMap<Digest, V>,
}

impl<V: Clone> Memo<V> {
    /// An empty one.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, results: HashMap::new() }
    }

    /// What was remembered.
    #[must_use]
    pub fn get(&self, key: &Digest) -> Option<V> {
        self.results.get(key).cloned()
    }

    /// When there is no room, everything is forgotten: what is needed often is soon there again.
    pub fn put(&mut self, key: Digest, value: V) {
        if self.results.len() >= self.most {
            self.results.clear();
        }
        self.results.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_within_its_bound() {
        let mut memo = Memo::new(3);
        for n in 0..100_u64 {
            let key = Digest::of(n.to_be_bytes());
            assert_eq!(memo.get(&key), None);
            memo.put(key, n);
            assert_eq!(memo.get(&key), Some(n));
            assert!(memo.results.len() <= 3);
        }
    }
}
