//! Reading the log: entries and the hashes of the tree, from tiles and from the edge.
//!
//! Nothing that is read is believed: a tile must hash to what the tile above it says, up to the edge of the tree, which
//! the signed checkpoint covers; an entry must hash to its leaf. So no proof that is handed out is wrong, and an error
//! names the file that was altered. Never: writing. Tests: `tests.rs`, `tests/damage.rs`.

use std::{
    collections::HashMap,
    hash::Hash,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use trust::{
    Digest,
    merkle::{self, Nodes, Tree, leaf_hash},
};

use super::{
    disk::{Disk, at},
    edge::full,
    layout::{self, Kind, TILE_HEIGHT, TILE_WIDTH, element},
    store::{Head, corrupt, read_large},
};
use crate::LedgerError;

/// Tiles kept: 16 KiB each with their inner hashes.
const MAX_TILES: usize = 512;
/// Bundles kept: entries are read in order, mostly.
const MAX_BUNDLES: usize = 8;

/// What was read last, within a bound.
#[derive(Debug)]
struct Cache<K, V> {
    most: usize,
    known: Mutex<HashMap<K, Arc<V>>>,
}

impl<K: Eq + Hash, V> Cache<K, V> {
    fn new(most: usize) -> Self {
        Self { most, known: Mutex::new(HashMap::new()) }
    }

    fn get(&self, key: &K) -> Option<Arc<V>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// When there is no room, everything is forgotten: what is needed often is soon there again.
    fn put(&self, key: K, value: V) -> Arc<V> {
        let value = Arc::new(value);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= self.most {
            known.clear();
        }
        known.insert(key, Arc::clone(&value));
        value
    }
}

#[derive(Debug)]
struct Bundle {
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
}

/// The full tiles and bundles of a directory.
#[derive(Debug)]
pub(crate) struct Tiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    tiles: Cache<(u32, u64), Tree>,
    bundles: Cache<u64, Bundle>,
}

impl Tiles {
    /// Of this directory.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        let (tiles, bundles) = (Cache::new(MAX_TILES), Cache::new(MAX_BUNDLES));
        Self { disk, dir: dir.to_owned(), tiles, bundles }
    }

    /// The note with every cosignature that is known of it.
    pub fn with_cosignatures(&self, note: String) -> String {
        let known = self.disk.read(&crate::witness::cosigned_path(&self.dir)).ok().flatten();
        match known.and_then(|bytes| String::from_utf8(bytes).ok()) {
            Some(known) => trust::witness::merge(&note, &known),
            None => note,
        }
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, LedgerError> {
        let bytes = self.disk.read(path).map_err(at("read", path))?;
        bytes.ok_or_else(|| corrupt(path, "whole file", "it is missing"))
    }
}

/// The log up to a head.
pub(crate) struct View<'a> {
    tiles: &'a Tiles,
    head: &'a Head,
}

impl<'a> View<'a> {
    /// Of these tiles, up to this head.
    pub fn new(tiles: &'a Tiles, head: &'a Head) -> Self {
        Self { tiles, head }
    }

    /// Inclusion proof of an entry in the head's tree; `None` beyond its end.
    pub fn inclusion(&self, position: u64) -> Result<Option<Vec<Digest>>, LedgerError> {
        merkle::inclusion(self, position, self.head.size())
    }

    /// Consistency proof from the tree of `old` entries to the head's; `None` when that is larger.
    pub fn consistency(&self, old: u64) -> Result<Option<Vec<Digest>>, LedgerError> {
        merkle::consistency(self, old, self.head.size())
    }

    /// A full tile with its inner hashes.
    fn tile(&self, level: u32, n: u64) -> Result<Arc<Tree>, LedgerError> {
        if let Some(tile) = self.tiles.tiles.get(&(level, n)) {
            return Ok(tile);
        }
        let path = layout::tile(&self.tiles.dir, Kind::Hashes(level), n);
        let bytes = self.tiles.read(&path)?;
        let (hashes, rest) = bytes.as_chunks::<32>();
        if hashes.len() as u64 != TILE_WIDTH || !rest.is_empty() {
            return Err(corrupt(&path, "whole file", format!("it has {} bytes, not 8192", bytes.len())));
        }
        let mut tree = Tree::default();
        hashes.iter().for_each(|h| tree.push(Digest(*h)));
        if tree.root() != self.node((level + 1) * TILE_HEIGHT, n)? {
            return Err(corrupt(&path, "whole file", "its hashes are not those of the signed tree"));
        }
        Ok(self.tiles.tiles.put((level, n), tree))
    }

    /// The bytes of an entry; `None` beyond the head.
    pub fn entry(&self, position: u64) -> Result<Option<String>, LedgerError> {
        if position >= self.head.size() {
            return Ok(None);
        }
        let (n, i) = (position / TILE_WIDTH, usize::try_from(position % TILE_WIDTH).unwrap_or(0));
        let bytes = match n == full(self.head.size(), 1) {
            true => self.head.growth.partial.get(i).map(|e| e.to_vec()),
            false => {
                let bundle = self.bundle(n)?;
                bundle.places.get(i).map(|p| bundle.bytes[p.clone()].to_vec())
            }
        };
        let path = || layout::tile(&self.tiles.dir, Kind::Entries, n);
        let place = || format!("entry {position}");
        let mut bytes = bytes.ok_or_else(|| corrupt(&path(), &place(), "it is missing"))?;
        let mut read_from = path();
        if bytes.is_empty() {
            read_from = layout::large(&self.tiles.dir, position);
            bytes = read_large(&*self.tiles.disk, &self.tiles.dir, position)?;
        }
        // The one that is asked for, and no other: a bundle is 256 entries, and most are asked for singly.
        if leaf_hash(&bytes) != self.node(0, position)? {
            let problem = "it was altered: its hash is not that of the signed tree";
            return Err(corrupt(&read_from, &place(), problem));
        }
        String::from_utf8(bytes).map(Some).map_err(|_| corrupt(&path(), &place(), "it is not UTF-8"))
    }

    /// A full bundle, taken apart; nothing says yet that its entries are those of the tree.
    fn bundle(&self, n: u64) -> Result<Arc<Bundle>, LedgerError> {
        if let Some(bundle) = self.tiles.bundles.get(&n) {
            return Ok(bundle);
        }
        let path = layout::tile(&self.tiles.dir, Kind::Entries, n);
        let bytes = self.tiles.read(&path)?;
        let first = n * TILE_WIDTH;
        let mut places: Vec<Range<usize>> = Vec::new();
        for position in first..first + TILE_WIDTH {
            let place = element(&bytes, places.last().map_or(0, |p| p.end));
            let cut = || corrupt(&path, &format!("entry {position}"), "it is cut off");
            places.push(place.ok_or_else(cut)?);
        }
        if places.last().is_none_or(|p| p.end != bytes.len()) {
            return Err(corrupt(&path, "end", "bytes follow its last entry"));
        }
        Ok(self.tiles.bundles.put(n, Bundle { bytes, places }))
    }
}

impl Nodes for View<'_> {
    type Error = LedgerError;

    fn node(&self, level: u32, index: u64) -> Result<Digest, LedgerError> {
        if let Some(hash) = self.head.growth.edge.node(level, index) {
            return Ok(hash);
        }
        let (tile_level, inner) = (level / TILE_HEIGHT, level % TILE_HEIGHT);
        let per_tile = TILE_WIDTH >> inner;
        let n = index / per_tile;
        let path = layout::tile(&self.tiles.dir, Kind::Hashes(tile_level), n);
        if n >= full(self.head.size(), tile_level + 1) {
            return Err(corrupt(&path, "whole file", "it is beyond the end of the tree"));
        }
        let tile = self.tile(tile_level, n)?;
        tile.subtree(inner, index % per_tile).ok_or_else(|| corrupt(&path, "whole file", "it has a hole"))
    }
}
