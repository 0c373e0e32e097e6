//! Reads a package's source directory. The only module of the crate that touches the file system.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    day0::MAX_DAY0_BYTES,
    package::{MAX_FILES, MAX_UNPACKED_BYTES},
    parse::Files,
};

/// Where the day-0 files of a package are.
const CLOUD_INIT: &str = "cloud_init";
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

/// Reads what stands beside a descriptor that is no package's yet and that it may name: the files of `cloud_init/`.
/// Links, devices and files larger than a day-0 file can be are left out, and so is a directory that is not there.
pub fn beside(descriptor: &Path) -> Files {
    let mut files = Files::new();
    let directory = descriptor.parent().unwrap_or(Path::new("")).join(CLOUD_INIT);
    let Ok(found) = fs::read_dir(directory) else { return files };
    for entry in found.flatten().take(MAX_FILES) {
        let small =
            |e: &fs::DirEntry| e.metadata().is_ok_and(|m| m.is_file() && m.len() <= MAX_DAY0_BYTES as u64);
        let name = entry.file_name();
        let (Some(name), true) = (name.to_str(), small(&entry)) else { continue };
        if let Ok(bytes) = fs::read(entry.path()) {
            files.insert(format!("{CLOUD_INIT}/{name}"), bytes);
        }
    }
    files
}

/// Reads a package's source for a verdict: as [`read`], but of the files that no verdict depends on, only the names.
pub fn outline(path: &Path) -> Result<SourceDir, DirError> {
    walk(path, |inside| !inside.contains('/') || inside.starts_with(CLOUD_INIT))
}

/// Reads all files below `path`. Hidden files (editors', version control's) are left out.
pub fn read(path: &Path) -> Result<SourceDir, DirError> {
    walk(path, |_| true)
}

fn walk(path: &Path, wanted: fn(&str) -> bool) -> Result<SourceDir, DirError> {
    let whole = fs::canonicalize(path).map_err(io_at(path))?;
    let name = whole.file_name().and_then(|n| n.to_str()).map(str::to_owned);
    let Some(name) = name else { return entry(path, "without a name in UTF-8") };
    let mut walk = Walk { root: whole.clone(), files: Files::new(), bytes: 0, wanted };
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
    /// Whether a file's content is read, by its path inside.
    wanted: fn(&str) -> bool,
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
        let bytes = if (self.wanted)(&inside) { fs::read(path).map_err(io_at(path))? } else { Vec::new() };
        self.files.insert(inside, bytes);
        Ok(())
    }
}
