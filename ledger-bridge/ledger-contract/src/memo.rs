//! Remembering what a pure function gave, within a bound.
//!
//! A decision verifies the same certificates and compiles the same rules again and again. What is remembered is keyed
//! by everything that the result depends on, its SHA-256 or its bytes, so a decision with an empty memo and one with a full memo
//! give the same bytes. Never: a key that leaves an input out. Tests: below, and `tests/decide.rs` (determinism).

use std::collections::HashMap;

use trust::Digest;
pub(crate) use trust::memo::Memo;

/// Results of one thread, found by what they were made of.
pub(crate) trait Results<Q: ?Sized, V> {
    fn get(&self, made_of: &Q) -> Option<V>;
    fn put(&mut self, made_of: &Q, value: V);
}

impl<V: Clone> Results<Digest, V> for Memo<V> {
    fn get(&self, key: &Digest) -> Option<V> {
        Memo::get(self, key)
    }

    fn put(&mut self, key: &Digest, value: V) {
        Memo::put(self, *key, value);
    }
}

/// Most bytes that a [`ByBytes`] keeps of what its results were made of.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// At most so many results, each kept with the bytes that it was made of: comparing long ones costs a fraction of hashing
/// them. The first part is a name; of each name the newest is kept.
#[derive(Debug)]
pub(crate) struct ByBytes<V> {
    most: usize,
    bytes: usize,
    results: HashMap<Vec<u8>, (Vec<Vec<u8>>, V)>,
}

impl<V: Clone> ByBytes<V> {
    pub fn new(most: usize) -> Self {
        Self { most, bytes: 0, results: HashMap::new() }
    }
}

impl<V: Clone> Results<[&[u8]], V> for ByBytes<V> {
    fn get(&self, parts: &[&[u8]]) -> Option<V> {
        let (name, rest) = parts.split_first()?;
        let (made_of, value) = self.results.get(*name)?;
        (made_of.iter().map(Vec::as_slice).eq(rest.iter().copied())).then(|| value.clone())
    }

    fn put(&mut self, parts: &[&[u8]], value: V) {
        let Some((name, rest)) = parts.split_first() else { return };
        let bytes: usize = parts.iter().map(|p| p.len()).sum();
        if self.results.len() >= self.most || self.bytes + bytes > MAX_KEPT_BYTES {
            (self.bytes, self.results) = (0, HashMap::new());
        }
        // What is replaced stays counted: the count is an upper bound, and begins anew with the results.
        self.bytes += bytes;
        self.results.insert(name.to_vec(), (rest.iter().map(|p| p.to_vec()).collect(), value));
    }
}

/// The remembered result, or what `make` gives; `with` lends the memo, and not while `make` runs.
pub(crate) fn remembered<Q: ?Sized, M: Results<Q, V>, V: Clone>(
    with: impl Fn(&mut dyn FnMut(&mut M)),
    made_of: &Q,
    make: impl FnOnce() -> V,
) -> V {
    let mut known = None;
    with(&mut |memo| known = memo.get(made_of));
    known.unwrap_or_else(|| {
        let made = make();
        with(&mut |memo| memo.put(made_of, made.clone()));
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
    fn a_result_is_made_once() {
        let mut made = 0;
        let mut square = |n: u64| {
            let key = Digest::of(n.to_be_bytes());
            let result = remembered(
                |f| SQUARES.with_borrow_mut(f),
                &key,
                || {
                    made += 1;
                    n * n
                },
            );
            assert_eq!(result, n * n);
            made
        };
        assert_eq!([1, 1, 2, 2, 1].map(&mut square), [1, 1, 2, 2, 2]);
    }

    #[test]
    fn other_bytes_are_another_result_and_the_bound_holds() {
        let mut memo = ByBytes::new(2);
        memo.put(&[b"a", b"1", b"23"], 1);
        assert_eq!(memo.get(&[b"a", b"1", b"23"]), Some(1));
        // Not a part, not their number, and not where one ends.
        for other in
            [&[&b"a"[..], b"1", b"24"][..], &[b"a", b"1"], &[b"a", b"12", b"3"], &[b"b", b"1", b"23"], &[]]
        {
            assert_eq!(memo.get(other), None);
        }
        memo.put(&[b"a", b"2"], 2);
        assert_eq!((memo.get(&[b"a", b"1", b"23"]), memo.get(&[b"a", b"2"])), (None, Some(2)));
        for n in 0..100_u8 {
            memo.put(&[&[n], &vec![n; MAX_KEPT_BYTES / 10]], n);
            assert!(memo.results.len() <= 2 && memo.bytes <= MAX_KEPT_BYTES);
        }
    }
}
