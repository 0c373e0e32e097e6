//! Verified packages and images by digest, in one directory.
//!
//! A name is never trusted: content is stored under the digest that was computed while it was written, and the digest
//! is computed again whenever a package is read. Files are written beside and renamed, so there is never half a file
//! under a digest.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use trust::Digest;
use vim::Artifacts;

/// The store.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    dir: PathBuf,
}

/// Why content cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The file system failed.
    #[error("artifact {digest} in {dir}: {source}")]
    Io {
        /// Which.
        digest: Digest,
        /// Where.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory cannot be read.
    #[error("the package store {dir}: {source}")]
    Directory {
        /// Where.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing is stored under it.
    #[error("there is no artifact {0} here: push the package again")]
    Missing(Digest),
    /// The bytes changed on disk.
    #[error(
        "artifact {expected} on disk has digest {found}: the file was changed; remove it and push the package again"
    )]
    Corrupt {
        /// Its name.
        expected: Digest,
        /// Its content.
        found: Digest,
    },
}

impl ArtifactError {
    /// Is there no room on the file system?
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Directory { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Missing(_) | Self::Corrupt { .. } => false,
        }
    }
}

impl ArtifactStore {
    /// A store in this directory, which must exist.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Stores content and returns its digest; storing it again is a no-op.
    pub fn put(&self, content: &[u8]) -> Result<Digest, ArtifactError> {
        let digest = Digest::of(content);
        let io = |source| ArtifactError::Io { digest, dir: self.dir.clone(), source };
        if self.get(&digest).is_ok() {
            return Ok(digest);
        }
        let temporary = self.dir.join(format!(".{}.{}", digest.hex(), std::process::id()));
        let written =
            write_durably(&temporary, content).and_then(|()| fs::rename(&temporary, self.file(&digest)));
        if let Err(e) = written.and_then(|()| fs::File::open(&self.dir)?.sync_all()) {
            // Best effort: the next start sweeps what is left.
            let _ = fs::remove_file(&temporary);
            return Err(io(e));
        }
        Ok(digest)
    }

    /// The content, its digest computed again.
    pub fn get(&self, digest: &Digest) -> Result<Vec<u8>, ArtifactError> {
        let content = match fs::read(self.file(digest)) {
            Ok(c) => c,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ArtifactError::Missing(*digest)),
            Err(source) => return Err(ArtifactError::Io { digest: *digest, dir: self.dir.clone(), source }),
        };
        let found = Digest::of(&content);
        if found == *digest { Ok(content) } else { Err(ArtifactError::Corrupt { expected: *digest, found }) }
    }

    /// Size of an artifact, bytes; 0 when it is not here.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> u64 {
        fs::metadata(self.file(digest)).map_or(0, |m| m.len())
    }

    /// Every artifact with its size, bytes.
    pub fn all(&self) -> Result<BTreeMap<Digest, u64>, ArtifactError> {
        let failed = |source| ArtifactError::Directory { dir: self.dir.clone(), source };
        let mut out = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Ok(digest) = Digest::from_hex(&entry.file_name().to_string_lossy()) {
                out.insert(digest, entry.metadata().map_err(failed)?.len());
            }
        }
        Ok(out)
    }

    /// Removes an artifact; one that is not here is success.
    pub fn remove(&self, digest: &Digest) -> Result<(), ArtifactError> {
        match fs::remove_file(self.file(digest)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(ArtifactError::Io { digest: *digest, dir: self.dir.clone(), source: e })
            }
            _ => Ok(()),
        }
    }

    /// Removes what an interrupted [`Self::put`] left.
    pub fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

impl Artifacts for ArtifactStore {
    fn path(&self, digest: &Digest) -> Option<PathBuf> {
        let file = self.file(digest);
        file.exists().then_some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_once_and_never_believed() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::new(dir.path().to_owned());
        let digest = store.put(b"package").unwrap();
        assert_eq!(store.put(b"package").unwrap(), digest);
        assert_eq!(store.get(&digest).unwrap(), b"package");
        fs::write(store.file(&digest), b"packagf").unwrap();
        assert!(matches!(store.get(&digest), Err(ArtifactError::Corrupt { .. })));
        assert_eq!(store.put(b"package").unwrap(), digest, "putting it again mends it");
        assert_eq!(store.get(&digest).unwrap(), b"package");
        assert!(matches!(store.get(&Digest::of("x")), Err(ArtifactError::Missing(_))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
