//! The right edge of the tree: what is not in full tiles yet. All that appending needs, however long the log is.

use serde::{Deserialize, Serialize};
use trust::{
    Digest,
    merkle::{self, Nodes, Tree},
};

use super::layout::{TILE_HEIGHT, TILE_WIDTH};

/// A tile that has become full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FullTile {
    /// Tile level.
    pub level: u32,
    /// Index within the level.
    pub n: u64,
    /// Its 256 hashes.
    pub hashes: Vec<Digest>,
}

/// The partial tile of each level.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edge {
    size: u64,
    levels: Vec<Tree>,
}

/// The edge on disk: size and hashes of each level's partial tile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EdgeRecord {
    size: u64,
    levels: Vec<Vec<Digest>>,
}

impl EdgeRecord {
    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Hashes in the partial tile of a level, of a tree of `size`.
pub(crate) fn width(size: u64, level: u32) -> u64 {
    full(size, level) % TILE_WIDTH
}

/// Complete subtrees of `256^level` leaves in a tree of `size`.
pub(crate) fn full(size: u64, level: u32) -> u64 {
    size.checked_shr(level * TILE_HEIGHT).unwrap_or(0)
}

impl Edge {
    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Tile levels.
    pub fn levels(&self) -> u32 {
        u32::try_from(self.levels.len()).unwrap_or(u32::MAX)
    }

    /// The partial tile of a level; none when it is empty.
    pub fn partial(&self, level: u32) -> Option<&Tree> {
        self.levels.get(usize::try_from(level).ok()?).filter(|t| t.size() > 0)
    }

    /// Appends a leaf; returns the tiles that are full now, lowest first.
    pub fn push(&mut self, leaf: Digest) -> Vec<FullTile> {
        self.size += 1;
        let (mut hash, mut done) = (leaf, Vec::new());
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Tree::default());
            }
            self.levels[level].push(hash);
            if self.levels[level].size() < TILE_WIDTH {
                break;
            }
            let tile = std::mem::take(&mut self.levels[level]);
            let number = u32::try_from(level).unwrap_or(u32::MAX);
            let n = full(self.size, number + 1).saturating_sub(1);
            done.push(FullTile { level: number, n, hashes: tile.leaves().to_vec() });
            hash = tile.root();
        }
        done
    }

    /// Without the leaves of the partial tile of level 0.
    pub fn base(&self) -> Self {
        let mut levels = self.levels.clone();
        if let Some(first) = levels.first_mut() {
            *first = Tree::default();
        }
        Self { size: self.size - self.size % TILE_WIDTH, levels }
    }

    /// For the disk.
    pub fn record(&self) -> EdgeRecord {
        EdgeRecord { size: self.size, levels: self.levels.iter().map(|t| t.leaves().to_vec()).collect() }
    }

    /// From the disk; `None` when the widths are not those of the size.
    pub fn parse(record: EdgeRecord) -> Option<Self> {
        let mut levels = Vec::new();
        for (level, hashes) in record.levels.iter().enumerate() {
            if hashes.len() as u64 != width(record.size, u32::try_from(level).ok()?) {
                return None;
            }
            let mut tree = Tree::default();
            hashes.iter().for_each(|h| tree.push(*h));
            levels.push(tree);
        }
        let covers = full(record.size, u32::try_from(levels.len()).ok()?) == 0;
        covers.then_some(Self { size: record.size, levels })
    }

    /// Hash of a complete subtree, if it is in a partial tile.
    pub fn node(&self, level: u32, index: u64) -> Option<Digest> {
        let (tile_level, inner) = (level / TILE_HEIGHT, level % TILE_HEIGHT);
        let first = full(self.size, tile_level + 1) * (TILE_WIDTH >> inner);
        self.partial(tile_level)?.subtree(inner, index.checked_sub(first)?)
    }

    /// Root of the whole tree: every subtree that it needs is at the edge.
    pub fn root(&self) -> Result<Digest, Hole> {
        merkle::root(self, self.size)
    }
}

/// A subtree that is not at the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hole;

impl Nodes for Edge {
    type Error = Hole;

    fn node(&self, level: u32, index: u64) -> Result<Digest, Hole> {
        Edge::node(self, level, index).ok_or(Hole)
    }
}

#[cfg(test)]
mod tests {
    use trust::merkle::leaf_hash;

    use super::*;

    #[test]
    fn roots_and_records_of_every_size() {
        let (mut edge, mut tree) = (Edge::default(), Tree::default());
        let mut tiles = 0;
        for i in 0..70_000_u32 {
            let leaf = leaf_hash(&i.to_be_bytes());
            tree.push(leaf);
            let full = edge.push(leaf);
            tiles += full.len();
            if i % 97 == 0 || !full.is_empty() {
                assert_eq!(edge.root(), Ok(tree.root()), "{i}");
                assert_eq!(Edge::parse(edge.record()).unwrap().root(), Ok(tree.root()));
                assert_eq!(edge.base().size() % 256, 0);
            }
        }
        // As the specification counts a tree of 70,000 leaves.
        assert_eq!((tiles, edge.levels()), (273 + 1, 3));
        assert_eq!([0, 1, 2].map(|l| edge.partial(l).unwrap().size()), [112, 17, 1]);
        let mut wrong = edge.record();
        wrong.levels[1].pop();
        assert!(Edge::parse(wrong).is_none());
        let mut short = edge.record();
        short.levels.pop();
        assert!(Edge::parse(short).is_none());
    }
}
