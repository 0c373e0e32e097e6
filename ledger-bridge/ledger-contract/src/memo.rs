//! Remembering what a pure function gave, within a bound.
//!
//! A decision verifies the same certificates and compiles the same rules again and again. What is remembered is keyed
//! by the SHA-256 of everything that the result depends on, so a decision with an empty memo and one with a full memo
//! give the same bytes. Never: a key that leaves an input out. Tests: below, and `tests/decide.rs` (determinism).

use std::collections::HashMap;

use trust::Digest;

/// At most so many results, of one thread.
#[derive(Debug)]
pub(crate) struct Memo<V> {
    most: usize,
    results: HashMap<Digest, V>,
}

impl<V: Clone> Memo<V> {
    pub fn new(most: usize) -> Self {
        Self { most, results: HashMap::new() }
    }

    fn get(&self, key: &Digest) -> Option<V> {
        self.results.get(key).cloned()
    }

    /// When there is no room, everything is forgotten: what is needed often is soon there again.
    fn put(&mut self, key: Digest, value: V) {
        if self.results.len() >= self.most {
            self.results.clear();
        }
        self.results.insert(key, value);
    }
}

/// The remembered result of `key`, or what `make` gives; `with` lends the memo, and not while `make` runs.
pub(crate) fn remembered<V: Clone>(
    with: impl Fn(&mut dyn FnMut(&mut Memo<V>)),
    key: Digest,
    make: impl FnOnce() -> V,
) -> V {
    let mut known = None;
    with(&mut |memo| known = memo.get(&key));
    known.unwrap_or_else(|| {
        let made = make();
        with(&mut |memo| memo.put(key, made.clone()));
        made
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        static SQUARES: RefCell<Memo<u64>> = RefCell::new(Memo::new(3));
    }

    #[test]
    fn remembers_within_its_bound() {
        let mut made = 0;
        let mut square = |n: u64| {
            let key = Digest::of(n.to_be_bytes());
            let result = remembered(
                |f| SQUARES.with_borrow_mut(f),
                key,
                || {
                    made += 1;
                    n * n
                },
            );
            assert_eq!(result, n * n);
            made
        };
        assert_eq!([1, 1, 2, 2, 1].map(&mut square), [1, 1, 2, 2, 2]);
        for n in 0..100 {
            square(n);
            assert!(SQUARES.with_borrow(|m| m.results.len()) <= 3);
        }
    }
}
