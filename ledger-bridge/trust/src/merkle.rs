//! RFC 6962 / RFC 9162 Merkle trees over SHA-256: roots, inclusion and consistency proofs, and their verification.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

/// Hash of a leaf: SHA-256(0x00 ‖ bytes).
#[must_use]
pub fn leaf_hash(bytes: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update([0]).chain_update(bytes).finalize().into())
}

/// Hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// Root of the tree without leaves.
#[must_use]
pub fn empty_root() -> Digest {
    Digest::of([])
}

/// Where the hashes of complete subtrees are kept: in memory ([`Tree`]), in tiles, in a database.
pub trait Nodes {
    /// Why one cannot be had.
    type Error;

    /// Hash of the complete subtree over the leaves `index << level .. (index + 1) << level`.
    fn node(&self, level: u32, index: u64) -> Result<Digest, Self::Error>;
}

/// A tree kept as its levels of complete subtrees: `levels[0]` are the leaf hashes.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    levels: Vec<Vec<Digest>>,
}

/// A subtree that is not complete in a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incomplete;

impl Nodes for Tree {
    type Error = Incomplete;

    fn node(&self, level: u32, index: u64) -> Result<Digest, Incomplete> {
        self.subtree(level, index).ok_or(Incomplete)
    }
}

impl Tree {
    /// How many leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |l| l.len() as u64)
    }

    /// The leaf hashes, in order.
    #[must_use]
    pub fn leaves(&self) -> &[Digest] {
        self.levels.first().map_or(&[], Vec::as_slice)
    }

    /// Hash of the complete subtree of `1 << level` leaves, `None` when they are not all there.
    #[must_use]
    pub fn subtree(&self, level: u32, index: u64) -> Option<Digest> {
        self.levels.get(usize::try_from(level).ok()?)?.get(usize::try_from(index).ok()?).copied()
    }

    /// Appends a leaf by its [`leaf_hash`]; amortised constant time.
    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(hash);
            let n = self.levels[level].len();
            if n % 2 == 1 {
                return;
            }
            hash = node_hash(&self.levels[level][n - 2], &self.levels[level][n - 1]);
        }
    }

    /// Root of the whole tree.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.root_at(self.size()).unwrap_or_else(empty_root)
    }

    /// Root as it was when the tree had `size` leaves; `None` if it never had.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Digest> {
        (size <= self.size()).then(|| root(self, size).ok()).flatten()
    }

    /// Inclusion proof (RFC 9162, 2.1.3.1) of leaf `index` in the tree of `size` leaves.
    #[must_use]
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Digest>> {
        (size <= self.size()).then(|| inclusion(self, index, size).ok()).flatten().flatten()
    }

    /// Consistency proof (RFC 9162, 2.1.4.1) between the trees of `old` and `new` leaves.
    #[must_use]
    pub fn consistency(&self, old: u64, new: u64) -> Option<Vec<Digest>> {
        (new <= self.size()).then(|| consistency(self, old, new).ok()).flatten().flatten()
    }
}

/// Root of the tree of the first `size` leaves.
pub fn root<N: Nodes + ?Sized>(nodes: &N, size: u64) -> Result<Digest, N::Error> {
    if size == 0 { Ok(empty_root()) } else { range(nodes, 0, size) }
}

/// Inclusion proof (RFC 9162, 2.1.3.1) of leaf `index` in the tree of `size` leaves; `None` when it is not in it.
pub fn inclusion<N: Nodes + ?Sized>(
    nodes: &N,
    index: u64,
    size: u64,
) -> Result<Option<Vec<Digest>>, N::Error> {
    if index >= size {
        return Ok(None);
    }
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range(nodes, middle, end)?);
            end = middle;
        } else {
            path.push(range(nodes, start, middle)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(Some(path))
}

/// Consistency proof (RFC 9162, 2.1.4.1) between the trees of `old` and `new` leaves; `None` when `old` is larger.
pub fn consistency<N: Nodes + ?Sized>(
    nodes: &N,
    old: u64,
    new: u64,
) -> Result<Option<Vec<Digest>>, N::Error> {
    if old > new {
        return Ok(None);
    }
    if old == 0 || old == new {
        return Ok(Some(Vec::new()));
    }
    let (mut start, mut end) = (0, new);
    let mut whole = true;
    let mut path = Vec::new();
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            path.push(range(nodes, middle, end)?);
            end = middle;
        } else {
            path.push(range(nodes, start, middle)?);
            start = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(range(nodes, start, end)?);
    }
    path.reverse();
    Ok(Some(path))
}

/// MTH(D[start..end]) with `start` a multiple of the largest power of two below the length.
fn range<N: Nodes + ?Sized>(nodes: &N, start: u64, end: u64) -> Result<Digest, N::Error> {
    let n = end - start;
    if n.is_power_of_two() && start.is_multiple_of(n) {
        return nodes.node(n.trailing_zeros(), start / n);
    }
    let k = split(n);
    Ok(node_hash(&range(nodes, start, start + k)?, &range(nodes, start + k, end)?))
}

/// Largest power of two smaller than `n` (n >= 2).
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ProofError {
    /// The index is not below the size, or the sizes are in the wrong order.
    #[error("the proof's index or sizes contradict each other")]
    Range,
    /// Too many or too few hashes for these sizes.
    #[error("the proof has the wrong number of hashes")]
    Length,
    /// It leads to another root.
    #[error("the proof does not lead to the signed root")]
    Root,
}

/// Verifies an inclusion proof (RFC 9162, 2.1.3.2).
pub fn verify_inclusion(
    leaf: Digest,
    index: u64,
    size: u64,
    path: &[Digest],
    root: Digest,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Range);
    }
    let (mut f, mut s) = (index, size - 1);
    let mut r = leaf;
    for p in path {
        if s == 0 {
            return Err(ProofError::Length);
        }
        if f & 1 == 1 || f == s {
            r = node_hash(p, &r);
            while f & 1 == 0 && f != 0 {
                f >>= 1;
                s >>= 1;
            }
        } else {
            r = node_hash(&r, p);
        }
        f >>= 1;
        s >>= 1;
    }
    if s != 0 {
        return Err(ProofError::Length);
    }
    if r == root { Ok(()) } else { Err(ProofError::Root) }
}

/// Verifies a consistency proof (RFC 9162, 2.1.4.2).
pub fn verify_consistency(
    old: u64,
    new: u64,
    old_root: Digest,
    new_root: Digest,
    path: &[Digest],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::Range);
    }
    if old == new || old == 0 {
        return match (path.is_empty(), old == 0 || old_root == new_root) {
            (false, _) => Err(ProofError::Length),
            (true, false) => Err(ProofError::Root),
            (true, true) => Ok(()),
        };
    }
    let mut hashes = path.iter();
    let mut next = || hashes.next().copied().ok_or(ProofError::Length);
    let first = if old.is_power_of_two() { old_root } else { next()? };
    let (mut f, mut s) = (old - 1, new - 1);
    while f & 1 == 1 {
        f >>= 1;
        s >>= 1;
    }
    let (mut fr, mut sr) = (first, first);
    for c in hashes {
        if s == 0 {
            return Err(ProofError::Length);
        }
        if f & 1 == 1 || f == s {
            fr = node_hash(c, &fr);
            sr = node_hash(c, &sr);
            while f & 1 == 0 && f != 0 {
                f >>= 1;
                s >>= 1;
            }
        } else {
            sr = node_hash(&sr, c);
        }
        f >>= 1;
        s >>= 1;
    }
    if s != 0 {
        return Err(ProofError::Length);
    }
    if fr == old_root && sr == new_root { Ok(()) } else { Err(ProofError::Root) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            many => {
                let k = usize::try_from(split(many.len() as u64)).unwrap();
                node_hash(&naive(&many[..k]), &naive(&many[k..]))
            }
        }
    }

    #[test]
    fn every_proof_of_small_trees() {
        let leaves: Vec<_> = (0u8..40).map(|i| leaf_hash(&[i])).collect();
        let mut tree = Tree::default();
        leaves.iter().for_each(|l| tree.push(*l));
        for n in 1..=leaves.len() {
            let root = naive(&leaves[..n]);
            assert_eq!(tree.root_at(n as u64), Some(root));
            for i in 0..n {
                let path = tree.inclusion(i as u64, n as u64).unwrap();
                verify_inclusion(leaves[i], i as u64, n as u64, &path, root).unwrap();
                assert!(verify_inclusion(leaves[(i + 1) % 40], i as u64, n as u64, &path, root).is_err());
                for j in 0..path.len() {
                    let mut bad = path.clone();
                    bad[j].0[0] ^= 1;
                    assert!(verify_inclusion(leaves[i], i as u64, n as u64, &bad, root).is_err());
                }
            }
            for old in 0..=n {
                let path = tree.consistency(old as u64, n as u64).unwrap();
                let old_root = naive(&leaves[..old]);
                verify_consistency(old as u64, n as u64, old_root, root, &path).unwrap();
                if old > 0 {
                    let other = leaf_hash(b"x");
                    assert!(verify_consistency(old as u64, n as u64, other, root, &path).is_err());
                }
            }
        }
    }

    /// RFC 6962 test vectors, as in certificate-transparency-go's `merkle/rfc6962`.
    #[test]
    fn published_hashes() {
        assert_eq!(empty_root().hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(leaf_hash(b"").hex(), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    }
}
