//! The directory that a home is built in, and its commit.
//!
//! Protocol: create `.<name>.init` beside the home (0700) or take over what an interrupted run left; lock it;
//! make sure that the name still leads to what is locked (another run may just have renamed it into place) and that
//! no home is there; empty it; build; sync every file and directory; rename; sync the parent. The lock is held
//! throughout, so that at any time at most one process writes below that name.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg, OFlag};

use super::InitError;

/// Mode of keys and everything that is nobody else's business.
pub(super) const PRIVATE: u32 = 0o600;
/// Mode of certificates; the home's 0700 still keeps others out.
pub(super) const PUBLIC: u32 = 0o644;

pub(super) struct Staging {
    path: PathBuf,
    home: PathBuf,
    committed: bool,
    // Held until the home is in place.
    _lock: Flock<File>,
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InitError {
    move |source| InitError::Io { doing, path: path.to_owned(), source }
}

/// A directory of mode 0700, with its parents below the staging directory.
pub(super) fn directory(path: &Path) -> Result<(), InitError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("create", path))
}

/// A new file with this mode, whatever the umask; synced.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InitError> {
    if let Some(parent) = path.parent() {
        directory(parent)?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io("write", path))
}

/// Gives a file that somebody else created the mode of private ones.
pub(super) fn private(path: &Path) -> Result<(), InitError> {
    fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE)).map_err(io("protect", path))
}

impl Staging {
    /// An empty, locked directory beside `home`.
    pub fn open(home: &Path) -> Result<Self, InitError> {
        let (Some(parent), Some(name)) = (home.parent(), home.file_name()) else {
            return Err(InitError::Exists(home.to_owned()));
        };
        refuse_existing(home)?;
        fs::create_dir_all(parent).map_err(io("create", parent))?;
        let mut staging = std::ffi::OsString::from(".");
        staging.push(name);
        staging.push(".init");
        let path = parent.join(staging);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(io("create", &path)(e)),
            _ => {}
        }
        let lock = lock(&path, home)?;
        refuse_existing(home)?;
        empty(&path)?;
        Ok(Self { path, home: home.to_owned(), committed: false, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it the home, durably.
    pub fn commit(mut self) -> Result<(), InitError> {
        sync(&self.path)?;
        // rename(2) replaces an empty directory and refuses any other.
        fs::rename(&self.path, &self.home).map_err(|e| match e.raw_os_error() {
            Some(nix::libc::ENOTEMPTY | nix::libc::EEXIST | nix::libc::ENOTDIR) => {
                InitError::Exists(self.home.clone())
            }
            _ => io("put in place", &self.home)(e),
        })?;
        self.committed = true;
        let parent = self.home.parent().unwrap_or(Path::new("/"));
        File::open(parent).and_then(|d| d.sync_all()).map_err(io("sync", parent))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed {
            // Best effort: what stays behind is removed by the next run.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn refuse_existing(home: &Path) -> Result<(), InitError> {
    match fs::symlink_metadata(home) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io("look at", home)(e)),
        Ok(m) if m.is_dir() => match fs::read_dir(home).map_err(io("read", home))?.next() {
            None => Ok(()),
            Some(_) => Err(InitError::Exists(home.to_owned())),
        },
        Ok(_) => Err(InitError::Exists(home.to_owned())),
    }
}

fn lock(path: &Path, home: &Path) -> Result<Flock<File>, InitError> {
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let dir = opened.map_err(|e| match e.raw_os_error() {
        // What O_DIRECTORY and O_NOFOLLOW refuse.
        Some(nix::libc::ENOTDIR | nix::libc::ELOOP) => InitError::Foreign(path.to_owned()),
        Some(nix::libc::ENOENT) => InitError::Busy(home.to_owned()),
        _ => io("open", path)(e),
    })?;
    let found = dir.metadata().map_err(io("look at", path))?;
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(InitError::Foreign(path.to_owned()));
    }
    let lock =
        Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|_| InitError::Busy(home.to_owned()))?;
    // Between opening and locking, another run may have renamed this very directory into place.
    match fs::symlink_metadata(path) {
        Ok(now) if now.ino() == found.ino() && now.dev() == found.dev() => Ok(lock),
        _ => Err(InitError::Busy(home.to_owned())),
    }
}

fn empty(path: &Path) -> Result<(), InitError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io("protect", path))?;
    for entry in fs::read_dir(path).map_err(io("read", path))? {
        let entry = entry.map_err(io("read", path))?.path();
        let is_dir = fs::symlink_metadata(&entry).map_err(io("look at", &entry))?.is_dir();
        let removed = if is_dir { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
        removed.map_err(io("remove", &entry))?;
    }
    Ok(())
}

/// Everything below and the directory itself is on the disk.
fn sync(path: &Path) -> Result<(), InitError> {
    for entry in fs::read_dir(path).map_err(io("read", path))? {
        let entry = entry.map_err(io("read", path))?;
        let kind = entry.file_type().map_err(io("look at", &entry.path()))?;
        if kind.is_dir() {
            sync(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path()).and_then(|f| f.sync_all()).map_err(io("sync", &entry.path()))?;
        }
    }
    File::open(path).and_then(|d| d.sync_all()).map_err(io("sync", path))
}
