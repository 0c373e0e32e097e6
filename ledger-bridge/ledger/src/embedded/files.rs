//! The log's directory: what is written, in which order, and what is synced when.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::{Flock, FlockArg};
use trust::{Digest, note::NoteSigner};

use crate::LedgerError;

const ENTRIES: &str = "entries.jsonl";
const CHECKPOINT: &str = "checkpoint";
const CHECKPOINT_NEW: &str = "checkpoint.new";
const KEY: &str = "log.key";
const LOCK: &str = "lock";
/// Only the owner reads a ledger's files: entries name tenants and what they run.
const PRIVATE: u32 = 0o600;

/// The exclusive lock; released when dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _held: Flock<File>,
}

/// The files of one log, open for its writer.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    dir_handle: File,
    entries: Arc<File>,
    /// Where the next entry goes.
    end: u64,
}

/// The entries, for readers.
#[derive(Debug)]
pub(super) struct EntryFile {
    file: Arc<File>,
    path: PathBuf,
}

fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Storage { doing, path, source }
}

fn lock(dir: &Path, file: File, path: PathBuf) -> Result<Lock, LedgerError> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Lock { _held: held }),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            Err(LedgerError::Locked { dir: dir.to_owned(), lock: path })
        }
        Err((_, e)) => Err(at("lock", &path)(e.into())),
    }
}

/// Writes a new file and syncs it.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
    let options = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).clone();
    let mut file = options.open(path).map_err(at("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at("write", path))
}

impl Files {
    /// Makes the directory and its files, with no entry and no checkpoint yet.
    pub fn create(dir: &Path, signer: &NoteSigner) -> Result<(Self, Lock), LedgerError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("create", dir))?;
        if fs::read_dir(dir).map_err(at("list", dir))?.next().is_some() {
            return Err(LedgerError::Exists { dir: dir.to_owned() });
        }
        write_new(&dir.join(LOCK), b"")?;
        let lock = Self::take_lock(dir)?;
        let key = format!("{}\n{}\n", signer.verifier().name(), Digest(signer.seed()).hex());
        write_new(&dir.join(KEY), key.as_bytes())?;
        write_new(&dir.join(ENTRIES), b"")?;
        let files = Self::handles(dir)?;
        files.dir_handle.sync_all().map_err(at("sync", dir))?;
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            File::open(parent).and_then(|p| p.sync_all()).map_err(at("sync", parent))?;
        }
        Ok((files, lock))
    }

    /// Opens and locks what [`Self::create`] made.
    pub fn open(dir: &Path) -> Result<(Self, Lock), LedgerError> {
        if !dir.join(CHECKPOINT).exists() || !dir.join(LOCK).exists() {
            return Err(LedgerError::Missing { dir: dir.to_owned() });
        }
        let lock = Self::take_lock(dir)?;
        Ok((Self::handles(dir)?, lock))
    }

    fn take_lock(dir: &Path) -> Result<Lock, LedgerError> {
        let path = dir.join(LOCK);
        let file = OpenOptions::new().write(true).open(&path).map_err(at("open", &path))?;
        lock(dir, file, path)
    }

    fn handles(dir: &Path) -> Result<Self, LedgerError> {
        let path = dir.join(ENTRIES);
        let entries = OpenOptions::new().read(true).write(true).open(&path).map_err(at("open", &path))?;
        let end = entries.metadata().map_err(at("read", &path))?.len();
        let dir_handle = File::open(dir).map_err(at("open", dir))?;
        Ok(Self { dir: dir.to_owned(), dir_handle, entries: Arc::new(entries), end })
    }

    /// The log's key, as [`Self::create`] wrote it.
    pub fn key(&self) -> Result<NoteSigner, LedgerError> {
        let path = self.dir.join(KEY);
        let text = fs::read_to_string(&path).map_err(at("read", &path))?;
        let parsed = text.strip_suffix('\n').and_then(|t| t.split_once('\n'));
        let parsed = parsed.and_then(|(name, seed)| Some((name, Digest::from_hex(seed).ok()?)));
        let Some((name, seed)) = parsed else {
            let problem = "it is not a name and 64 hexadecimal digits on two lines".to_owned();
            return Err(LedgerError::Corrupt { path, place: "whole file".to_owned(), problem });
        };
        NoteSigner::new(name, &seed.0).map_err(LedgerError::Key)
    }

    /// The current checkpoint.
    pub fn checkpoint(&self) -> Result<String, LedgerError> {
        let path = self.checkpoint_path();
        fs::read_to_string(&path).map_err(at("read", &path))
    }

    pub fn checkpoint_path(&self) -> PathBuf {
        self.dir.join(CHECKPOINT)
    }

    pub fn entries_path(&self) -> PathBuf {
        self.dir.join(ENTRIES)
    }

    /// The entries, for readers.
    pub fn entries(&self) -> Result<EntryFile, LedgerError> {
        Ok(EntryFile { file: Arc::clone(&self.entries), path: self.entries_path() })
    }

    /// Another handle to read the entries from their beginning.
    pub fn reader(&self) -> Result<File, LedgerError> {
        let path = self.entries_path();
        File::open(&path).map_err(at("open", &path))
    }

    /// Where the next entry goes.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Steps 1 to 3 of the commit protocol. After an error the log must be closed.
    pub fn commit(&mut self, lines: &[u8], checkpoint: &str) -> Result<(), LedgerError> {
        let path = self.entries_path();
        self.entries.write_all_at(lines, self.end).map_err(at("append to", &path))?;
        self.entries.sync_data().map_err(at("sync", &path))?;
        self.replace_checkpoint(checkpoint)?;
        self.end += lines.len() as u64;
        Ok(())
    }

    fn replace_checkpoint(&self, note: &str) -> Result<(), LedgerError> {
        let (new, path) = (self.dir.join(CHECKPOINT_NEW), self.checkpoint_path());
        let options = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).clone();
        let mut file = options.open(&new).map_err(at("create", &new))?;
        file.write_all(note.as_bytes()).and_then(|()| file.sync_data()).map_err(at("write", &new))?;
        fs::rename(&new, &path).map_err(at("replace", &path))?;
        self.dir_handle.sync_all().map_err(at("sync", &self.dir))
    }

    /// Cuts off what no checkpoint covers.
    pub fn truncate(&mut self, end: u64) -> Result<(), LedgerError> {
        let path = self.entries_path();
        self.entries.set_len(end).and_then(|()| self.entries.sync_all()).map_err(at("truncate", &path))?;
        self.end = end;
        Ok(())
    }
}

impl EntryFile {
    /// Reads one entry by its extent.
    pub fn read(&self, (start, end): (u64, u64)) -> Result<String, LedgerError> {
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start).map_err(at("read", &self.path))?;
        String::from_utf8(bytes).map_err(|_| LedgerError::Corrupt {
            path: self.path.clone(),
            place: format!("byte {start}"),
            problem: "the entry is not UTF-8".to_owned(),
        })
    }
}
