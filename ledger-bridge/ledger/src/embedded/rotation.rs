//! Rotation: replacing the tail by a shorter one, beside the commits.
//!
//! A tail is replaced when it has grown long ([`super::store::ROTATE_BYTES`]). The order matters: the tiles are durable
//! before the tail that could make them again is gone. That takes many syncs, and nobody who waits for a decision has to
//! wait for them:
//!
//! 1. [`Rotation::carry_out`], in a thread of its own, syncs every full tile below the new tail's base, then writes
//!    `tail.new` (the edge at the base, and the head's partial bundle as one commit) and syncs it. The old tail is in
//!    place and gets the commits meanwhile. A crash leaves it, and a `tail.new` that nobody reads.
//! 2. The next commit appends to `tail.new` what was committed since, and itself; it is durable when that is synced, renamed
//!    over `tail`, and the directory synced ([`super::store::Store::commit`]).
//!
//! When any of it fails the log closes: the old tail makes every tile again. Tests: `tests.rs`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    disk::{Disk, at},
    layout::{TAIL, TAIL_NEW},
    store::{Growth, Head, sync_all},
    tail,
};
use crate::LedgerError;

/// All that a new tail needs, taken at a commit.
#[derive(Debug)]
pub(crate) struct Rotation {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    /// The log's.
    pub name: String,
    /// What the new tail holds first.
    pub head: Arc<Head>,
    /// Full tiles that may not be durable.
    pub unsynced: BTreeSet<PathBuf>,
}

/// A tail that is durable beside the one in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewTail {
    /// How long it is.
    pub bytes: u64,
}

impl Rotation {
    /// Makes the tiles durable, then the new tail.
    pub fn carry_out(self) -> Result<NewTail, LedgerError> {
        sync_all(&*self.disk, &self.dir, self.unsynced.iter())?;
        write_tail(&*self.disk, &self.dir, &self.name, &self.head.note, &self.head.growth)
    }
}

/// Writes `tail.new`, beginning at the growth's base, durable but for its name.
///
/// Whoever calls has synced every full tile below the base.
pub(super) fn write_tail(
    disk: &dyn Disk,
    dir: &Path,
    ledger: &str,
    note: &str,
    growth: &Growth,
) -> Result<NewTail, LedgerError> {
    let mut bytes = tail::Header::new(ledger, growth.base().record()).to_frame();
    bytes.extend(tail::commit_frame(note, growth.partial.iter().map(AsRef::as_ref)));
    let new = dir.join(TAIL_NEW);
    disk.write(&new, &bytes).map_err(at("write", &new))?;
    disk.sync(&new).map_err(at("sync", &new))?;
    Ok(NewTail { bytes: bytes.len() as u64 })
}

/// `tail.new`, which was synced, becomes `tail`, durably.
pub(super) fn put_in_place(disk: &dyn Disk, dir: &Path) -> Result<(), LedgerError> {
    let (new, path) = (dir.join(TAIL_NEW), dir.join(TAIL));
    disk.rename(&new, &path).map_err(at("replace", &path))?;
    disk.sync_dir(dir).map_err(at("sync", dir))
}
