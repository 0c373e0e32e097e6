//! Names and encodings of the log's directory: C2SP tlog-tiles where it says how, ours where it does not.
//!
//! | file | what |
//! |---|---|
//! | `checkpoint` | signed note (C2SP tlog-checkpoint), with the cosignatures of witnesses |
//! | `tile/<L>/<N>[.p/<W>]` | 256 (or `W`) hashes of level `8 L` of the tree |
//! | `tile/entries/<N>[.p/<W>]` | 256 (or `W`) entries, each after its length (u16, big endian) |
//! | `large/<position>` | an entry of more than 65,535 bytes, which no entry bundle can hold: its place there is empty |
//! | `tail` | what was committed last, see [`super::tail`]: the commit itself |
//! | `state.db` | derived state, disposable, see [`super::state`] |
//! | `log.key` | name and secret seed of the log's key |
//! | `lock`, `publish.lock` | held by the one writer; held while `checkpoint` is replaced |
//! | `witness/` | the witnesses and the newest cosigned checkpoint, see [`crate::witness`] |
//!
//! Everything is mode 0600 (directories 0700). Never: a path from anything but numbers.

use std::path::{Path, PathBuf};

use trust::Digest;

/// Hashes in a full tile, entries in a full bundle.
pub(crate) const TILE_WIDTH: u64 = 256;
/// Levels of the tree in one tile.
pub(crate) const TILE_HEIGHT: u32 = 8;
/// Longest entry that a bundle can hold.
pub(crate) const MAX_BUNDLED_BYTES: usize = u16::MAX as usize;
/// Longest entry accepted, bytes: a request of the largest size in base64, and twice that.
pub(crate) const MAX_ENTRY_BYTES: usize = 16 << 20;

/// The tail.
pub(crate) const TAIL: &str = "tail";
/// A tail that is being written.
pub(crate) const TAIL_NEW: &str = "tail.new";
/// The published checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// A checkpoint that is being written.
pub(crate) const CHECKPOINT_NEW: &str = "checkpoint.new";
/// The log's key.
pub(crate) const KEY: &str = "log.key";
/// The writer's lock.
pub(crate) const LOCK: &str = "lock";
/// Held while `checkpoint` is replaced.
pub(crate) const PUBLISH_LOCK: &str = "publish.lock";
/// The derived state.
pub(crate) const STATE: &str = "state.db";
/// Entries too large for a bundle.
pub(crate) const LARGE: &str = "large";
/// Entries of the format before tiles.
pub(crate) const V1_ENTRIES: &str = "entries.jsonl";
/// Where those are kept after conversion.
pub(crate) const V1_KEPT: &str = "entries.jsonl.v1";

/// `x001/x234/067`.
fn number(n: u64) -> String {
    let mut text = format!("{:03}", n % 1000);
    let mut rest = n / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    text
}

/// Which tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Hashes of tile level `L`.
    Hashes(u32),
    /// Entries.
    Entries,
}

/// Path of a full tile.
pub(crate) fn tile(dir: &Path, kind: Kind, n: u64) -> PathBuf {
    let level = match kind {
        Kind::Hashes(level) => level.to_string(),
        Kind::Entries => "entries".to_owned(),
    };
    dir.join("tile").join(level).join(number(n))
}

/// Directory of a tile's partial versions.
pub(crate) fn partials(dir: &Path, kind: Kind, n: u64) -> PathBuf {
    let mut path = tile(dir, kind, n).into_os_string();
    path.push(".p");
    path.into()
}

/// Path of a partial tile.
pub(crate) fn partial(dir: &Path, kind: Kind, n: u64, width: usize) -> PathBuf {
    partials(dir, kind, n).join(width.to_string())
}

/// Path of an entry that no bundle can hold.
pub(crate) fn large(dir: &Path, position: u64) -> PathBuf {
    dir.join(LARGE).join(number(position))
}

/// The hashes of a tile, one after the other.
pub(crate) fn tile_bytes(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|h| h.0).collect()
}

/// Appends an entry to a bundle.
pub(crate) fn push_element(bundle: &mut Vec<u8>, entry: &[u8]) {
    match u16::try_from(entry.len()) {
        Ok(length) => {
            bundle.extend_from_slice(&length.to_be_bytes());
            bundle.extend_from_slice(entry);
        }
        Err(_) => bundle.extend_from_slice(&[0, 0]),
    }
}

/// Where the next element of a bundle is, after byte `at`; an empty one is a large entry.
pub(crate) fn element(bundle: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
    let length = bundle.get(at..at + 2)?;
    let start = at + 2;
    let end = start + usize::from(u16::from_be_bytes([length[0], length[1]]));
    (end <= bundle.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_specification() {
        let dir = Path::new("log");
        assert_eq!(tile(dir, Kind::Hashes(0), 1_234_067), Path::new("log/tile/0/x001/x234/067"));
        assert_eq!(partial(dir, Kind::Entries, 0, 7), Path::new("log/tile/entries/000.p/7"));
        assert_eq!(tile(dir, Kind::Hashes(3), 1000), Path::new("log/tile/3/x001/000"));
    }

    #[test]
    fn elements_come_back() {
        let mut bundle = Vec::new();
        for entry in [&b"one"[..], &[b'x'; 65_536], b"three", &[b'y'; 65_535]] {
            push_element(&mut bundle, entry);
        }
        let (mut at, mut lengths) = (0, Vec::new());
        while at < bundle.len() {
            let place = element(&bundle, at).unwrap();
            lengths.push(place.len());
            at = place.end;
        }
        assert_eq!(lengths, [3, 0, 5, 65_535]);
        assert_eq!(element(&bundle[..bundle.len() - 1], at - 65_537), None);
        assert_eq!(element(&[0], 0), None);
    }
}
