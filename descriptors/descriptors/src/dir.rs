//! Reads a package's source directory. The only module of the crate that touches the file system.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    package::{MAX_FILES, MAX_UNPACKED_BYTES},
    parse::Files,
};

/// Deepest directory below the source.
const MAX_DIR_DEPTH: usize = 8;

/// A package's source: what is packed, before images and evidence are added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDir {
    /// Name of the directory, and of the package.
    pub name: String,
    /// Files by path inside the directory, with `/`.
    pub files: Files,
}

/// Why a source directory cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// The operating system says no.
    #[error("cannot read `{path}`")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Links, devices, or names that no package can hold.
    #[error("`{path}` is {problem}: only plain files with plain names can be packed")]
    Entry {
        /// Which one.
        path: PathBuf,
        /// What it is.
        problem: &'static str,
    },
    /// Beyond a bound.
    #[error("`{path}` holds more than {limit} {what}: is it a package's source?")]
    TooLarge {
        /// The source directory.
        path: PathBuf,
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}

/// Reads all files below `path`. Hidden files (editors', version control's) are left out.
pub fn read(path: &Path) -> Result<SourceDir, DirError> {
    let whole = fs::canonicalize(path).map_err(io_at(path))?;
    let name = whole.file_name().and_then(|n| n.to_str()).map(str::to_owned);
    let Some(name) = name else { return entry(path, "without a name in UTF-8") };
    let mut walk = Walk { root: whole.clone(), files: Files::new(), bytes: 0 };
    walk.directory(&whole, "", 0)?;
    Ok(SourceDir { name, files: walk.files })
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> DirError + '_ {
    move |source| DirError::Io { path: path.to_owned(), source }
}

fn entry<T>(path: &Path, problem: &'static str) -> Result<T, DirError> {
    Err(DirError::Entry { path: path.to_owned(), problem })
}

struct Walk {
    root: PathBuf,
    files: Files,
    bytes: u64,
}

impl Walk {
    fn directory(&mut self, path: &Path, inside: &str, depth: usize) -> Result<(), DirError> {
        if depth > MAX_DIR_DEPTH {
            return entry(path, "nested too deeply");
        }
        for found in fs::read_dir(path).map_err(io_at(path))? {
            let found = found.map_err(io_at(path))?;
            let path = found.path();
            let name = found.file_name();
            let Some(name) = name.to_str() else { return entry(&path, "not named in UTF-8") };
            if name.starts_with('.') {
                continue;
            }
            let inside = if inside.is_empty() { name.to_owned() } else { format!("{inside}/{name}") };
            // Not followed: file_type says what the entry itself is.
            let kind = found.file_type().map_err(io_at(&path))?;
            if kind.is_dir() {
                self.directory(&path, &inside, depth + 1)?;
            } else if kind.is_file() {
                self.file(&path, inside)?;
            } else {
                return entry(&path, "a link or a device");
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, inside: String) -> Result<(), DirError> {
        self.bytes = self.bytes.saturating_add(fs::metadata(path).map_err(io_at(path))?.len());
        let too_large = |what, limit| DirError::TooLarge { path: self.root.clone(), what, limit };
        if self.bytes > MAX_UNPACKED_BYTES {
            return Err(too_large("bytes", MAX_UNPACKED_BYTES));
        }
        if self.files.len() >= MAX_FILES {
            return Err(too_large("files", MAX_FILES as u64));
        }
        self.files.insert(inside, fs::read(path).map_err(io_at(path))?);
        Ok(())
    }
}
