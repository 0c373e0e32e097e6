//! Everything that the log does to a disk, as few operations behind one door.
//!
//! The commit protocol ([`super::store`]) is written against [`Disk`] alone, so that its tests can fail each single
//! operation, persist it or not, and stop the writer there (`simulated.rs`). The derived state is not written through
//! it: it is disposable ([`super::state`]). Nothing here retries, and nothing here decides what an error means.

use std::{
    any::Any,
    fmt::Debug,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::fcntl::{Flock, FlockArg};

use crate::LedgerError;

/// Only the owner reads a ledger's files: entries name tenants and what they run.
pub(crate) const PRIVATE: u32 = 0o600;
const PRIVATE_DIR: u32 = 0o700;

/// A file system, as far as a log needs one.
pub(crate) trait Disk: Debug + Send + Sync {
    /// The whole file; `None` when there is none.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;
    /// Makes or empties the file and writes it; not durable.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Writes at the end of a file that is `at` bytes long; not durable.
    fn append(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file to `length` bytes; not durable.
    fn truncate(&self, path: &Path, length: u64) -> io::Result<()>;
    /// Makes the file's content durable (not its name).
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Makes the directory's names durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Replaces `to` by `from`, atomically; not durable.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes a directory and those above it; not durable.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all it holds; nothing there is success.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Waits for an exclusive lock on the file (made when it is not there); held until the guard is dropped.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send>>;
}

/// The machine's own file system.
#[derive(Debug, Default)]
pub(crate) struct RealDisk {
    /// The file appended to last, open: one of them is appended to all the time.
    appending: Mutex<Option<(PathBuf, Arc<File>)>>,
}

fn private() -> OpenOptions {
    OpenOptions::new().write(true).mode(PRIVATE).clone()
}

impl RealDisk {
    /// The file, which stays open. Nobody waits for what another does with it.
    fn open(&self, path: &Path) -> io::Result<Arc<File>> {
        if let Some(file) = self.held(path) {
            return Ok(file);
        }
        let file = Arc::new(private().open(path)?);
        *self.slot() = Some((path.to_owned(), Arc::clone(&file)));
        Ok(file)
    }

    fn held(&self, path: &Path) -> Option<Arc<File>> {
        self.slot().as_ref().filter(|(at, _)| at == path).map(|(_, file)| Arc::clone(file))
    }

    fn slot(&self) -> MutexGuard<'_, Option<(PathBuf, Arc<File>)>> {
        self.appending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, path: &Path) {
        self.slot().take_if(|(at, _)| at == path);
    }
}

impl Disk for RealDisk {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.close(path);
        private().create(true).truncate(true).open(path)?.write_all(bytes)
    }

    fn append(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.open(path)?.write_all_at(bytes, at)
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        self.open(path)?.set_len(length)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        match self.held(path) {
            Some(file) => file.sync_data(),
            None => private().open(path)?.sync_data(),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.close(from);
        self.close(to);
        fs::rename(from, to)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send>> {
        let file = private().create(true).truncate(false).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(held) => Ok(Box::new(held)),
            Err((_, e)) => Err(e.into()),
        }
    }
}

/// Says what was being done to which file when it failed; a full disk has an error of its own.
pub(crate) fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            LedgerError::Full { doing, path, source }
        }
        _ => LedgerError::Storage { doing, path, source },
    }
}
