//! The directory that a log is copied to: every change of it is remembered, so that a copy that fails leaves nothing.
//!
//! Files are made beside their names and renamed, so that what stood there stays whole until the new one is. What is
//! there already, byte for byte and our own, is not written again. Backups are put into directories that others write to: what
//! stands under a name, a link or somebody's file, is never written through, for the log's key is among what is copied.
//! Tests: `tests/backup.rs`.

use std::{
    any::Any,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::embedded::{
    disk::{Disk, PRIVATE, RealDisk},
    layout::{TAIL, TAIL_NEW},
};

/// A tail that was replaced, until the copy is whole.
const TAIL_BEFORE: &str = "tail.before.new";

/// Where a log is copied to.
#[derive(Debug)]
pub(super) struct Target {
    dir: PathBuf,
    disk: RealDisk,
    did: Mutex<Did>,
}

/// What was done there so far.
#[derive(Debug, Default)]
struct Did {
    /// Files and directories that were not there before, in order.
    made: Vec<PathBuf>,
    /// The tail that was replaced is kept under another name.
    kept: bool,
    /// The tail was replaced, and the one before is gone.
    forward: bool,
    files: u64,
    bytes: u64,
}

impl Target {
    /// Nothing is done yet.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), disk: RealDisk::default(), did: Mutex::default() }
    }

    /// Files that were made or replaced, and their bytes.
    pub(super) fn written(&self) -> (u64, u64) {
        let did = self.did();
        (did.files, did.bytes)
    }

    fn did(&self) -> MutexGuard<'_, Did> {
        self.did.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what is about to be made, if it is not there.
    fn making(&self, path: &Path) {
        if fs::symlink_metadata(path).is_err() {
            self.did().made.push(path.to_owned());
        }
    }

    /// Is this file there already, written by us?
    fn has(path: &Path, bytes: &[u8]) -> bool {
        let ours = |m: &fs::Metadata| {
            m.is_file()
                && m.len() == bytes.len() as u64
                && m.mode() & 0o777 == PRIVATE
                && m.uid() == nix::unistd::geteuid().as_raw()
        };
        fs::symlink_metadata(path).is_ok_and(|m| ours(&m)) && fs::read(path).is_ok_and(|there| there == bytes)
    }

    /// Makes or replaces a file, synced with its name, unless it is there already.
    pub(super) fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if Self::has(path, bytes) {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(path);
        self.make_dir(parent)?;
        let mut name = path.file_name().map(OsString::from).unwrap_or_default();
        name.push(".new");
        let beside = path.with_file_name(name);
        self.fresh(&beside, bytes)?;
        self.rename(&beside, path)?;
        self.sync_dir(parent)?;
        self.count(bytes);
        Ok(())
    }

    /// Replaces the tail: with it the copy is that of the new head. The one before is kept until [`Target::commit`].
    pub(super) fn put_tail(&self, bytes: &[u8]) -> io::Result<()> {
        let (new, tail, before) = (self.dir.join(TAIL_NEW), self.dir.join(TAIL), self.dir.join(TAIL_BEFORE));
        if Self::has(&tail, bytes) {
            return Ok(());
        }
        self.fresh(&new, bytes)?;
        absent(&before)?;
        let earlier = tail.exists();
        let kept = earlier && fs::hard_link(&tail, &before).is_ok();
        self.did().kept = kept;
        self.rename(&new, &tail)?;
        // Without hard links (FAT) there is no way back from here; the next backup goes on.
        self.did().forward = earlier && !kept;
        self.sync_dir(&self.dir)?;
        self.count(bytes);
        Ok(())
    }

    fn count(&self, bytes: &[u8]) {
        let mut did = self.did();
        (did.files, did.bytes) = (did.files + 1, did.bytes + bytes.len() as u64);
    }

    /// Makes a file of our own and syncs it.
    fn fresh(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        absent(path)?;
        self.making(path);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
        file.write_all(bytes)?;
        file.sync_data()
    }

    /// The copy is whole: it stays.
    pub(super) fn commit(self) -> io::Result<()> {
        if self.did().kept {
            absent(&self.dir.join(TAIL_BEFORE))?;
        }
        Ok(())
    }

    /// The copy failed: the directory becomes what it was. What cannot be removed stays; the cause of the failure is what
    /// is said.
    pub(super) fn undo(self) {
        let did = std::mem::take(&mut *self.did());
        if did.forward {
            return;
        }
        if did.kept {
            let _ = fs::rename(self.dir.join(TAIL_BEFORE), self.dir.join(TAIL));
        }
        for path in did.made.iter().rev() {
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        }
    }
}

/// Removes a file or link.
fn absent(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// What publishing a head needs; nothing that is there already is written again.
impl Disk for Target {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.disk.read(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match Self::has(path, bytes) {
            true => Ok(()),
            false => self.fresh(path, bytes),
        }
    }

    fn append(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.append(path, at, bytes)
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        self.disk.truncate(path, length)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.disk.sync(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.making(to);
        self.disk.rename(from, to)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> =
            path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
        missing.into_iter().rev().for_each(|p| self.making(p));
        self.disk.make_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send>> {
        self.making(path);
        self.disk.lock(path)
    }
}
