//! A log's directory: its lock and its key.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use nix::fcntl::{Flock, FlockArg};
use trust::{Digest, note::NoteSigner};

use super::{
    disk::at,
    layout::{CHECKPOINT, KEY, LOCK, TAIL, V1_ENTRIES},
    store::corrupt,
};
use crate::LedgerError;

/// The exclusive lock; released when dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _held: Flock<File>,
}

impl Lock {
    /// Takes it, or says who is in the way.
    pub fn take(dir: &Path) -> Result<Self, LedgerError> {
        let path = dir.join(LOCK);
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone();
        let file = options.open(&path).map_err(at("open", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Self { _held: held }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                Err(LedgerError::Locked { dir: dir.to_owned(), lock: path })
            }
            Err((_, e)) => Err(at("lock", &path)(e.into())),
        }
    }
}

/// Makes the directory with its lock and its key.
pub(crate) fn create(dir: &Path, signer: &NoteSigner) -> Result<Lock, LedgerError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("create", dir))?;
    if fs::read_dir(dir).map_err(at("list", dir))?.next().is_some() {
        return Err(LedgerError::Exists { dir: dir.to_owned() });
    }
    let lock = Lock::take(dir)?;
    let path = dir.join(KEY);
    let key = format!("{}\n{}\n", signer.verifier().name(), Digest(signer.seed()).hex());
    let options = OpenOptions::new().write(true).create_new(true).mode(0o600).clone();
    let mut file = options.open(&path).map_err(at("create", &path))?;
    file.write_all(key.as_bytes()).and_then(|()| file.sync_all()).map_err(at("write", &path))?;
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        File::open(parent).and_then(|p| p.sync_all()).map_err(at("sync", parent))?;
    }
    Ok(lock)
}

/// Is there a log, of this format or the one before?
pub(crate) fn present(dir: &Path) -> bool {
    [TAIL, CHECKPOINT, V1_ENTRIES].iter().any(|name| dir.join(name).exists())
}

/// The log's key, as [`create`] wrote it.
pub(crate) fn key(dir: &Path) -> Result<NoteSigner, LedgerError> {
    let path = dir.join(KEY);
    let text = fs::read_to_string(&path).map_err(at("read", &path))?;
    let parsed = text.strip_suffix('\n').and_then(|t| t.split_once('\n'));
    let parsed = parsed.and_then(|(name, seed)| Some((name, Digest::from_hex(seed).ok()?)));
    let Some((name, seed)) = parsed else {
        return Err(corrupt(&path, "whole file", "it is not a name and 64 hexadecimal digits on two lines"));
    };
    NoteSigner::new(name, &seed.0).map_err(LedgerError::Key)
}
