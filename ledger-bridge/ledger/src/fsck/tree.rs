//! RFC 6962 hashes and the tree over the whole log, level by level, tile by tile. Nothing of the writer is used.

use sha2::{Digest as _, Sha256};

use super::parse::Hash;

/// SHA-256(0x00 ‖ entry).
pub(super) fn leaf(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

fn inner(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Merkle tree hash by the definition of RFC 6962, 2.1.
pub(super) fn mth(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        many => {
            let mut split = 1;
            while split * 2 < many.len() {
                split *= 2;
            }
            inner(&mth(&many[..split]), &mth(&many[split..]))
        }
    }
}

/// Hashes of complete subtrees of each tile level that are not in a full tile yet.
#[derive(Default)]
pub(super) struct Levels(pub Vec<Vec<Hash>>);

impl Levels {
    /// Root over everything: the rest of each level is folded onto what is right of it.
    pub fn root(&self) -> Hash {
        let mut right: Option<Hash> = None;
        for level in &self.0 {
            right = fold(level, right);
        }
        right.unwrap_or_else(|| mth(&[]))
    }
}

/// Joins the complete subtrees of one level with the tree right of them.
fn fold(level: &[Hash], right: Option<Hash>) -> Option<Hash> {
    // The level splits into perfect trees, the largest first: 0b1101 is 8 + 4 + 1.
    let mut trees = Vec::new();
    let mut rest = level;
    while !rest.is_empty() {
        let size = 1_usize << (usize::BITS - 1 - rest.len().leading_zeros());
        let (tree, after) = rest.split_at(size);
        trees.push(mth(tree));
        rest = after;
    }
    trees.iter().rev().fold(right, |right, tree| Some(right.map_or(*tree, |r| inner(tree, &r))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_over_levels_is_that_of_the_definition() {
        let leaves: Vec<Hash> = (0..700_u32).map(|i| leaf(&i.to_be_bytes())).collect();
        let mut levels = Levels(vec![vec![], vec![]]);
        for (i, l) in leaves.iter().enumerate() {
            levels.0[0].push(*l);
            if levels.0[0].len() == 256 {
                let full = std::mem::take(&mut levels.0[0]);
                levels.0[1].push(mth(&full));
            }
            assert_eq!(levels.root(), mth(&leaves[..=i]), "{i}");
        }
    }
}
