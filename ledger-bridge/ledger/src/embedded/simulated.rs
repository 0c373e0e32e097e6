//! A disk in memory that can fail at any operation and be cut from power at any moment.
//!
//! It keeps, for every file and every name, what is durable and what is only in the page cache. A name survives when
//! its directory was synced, and so were those above; content survives when the file was synced. [`Crash`] says what
//! becomes of the rest.

use std::{
    any::Any,
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::disk::Disk;

/// What happens at the failing operation. Every later one fails: the process is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It has no effect.
    Refused,
    /// It takes effect all the same.
    Done,
    /// Half of what is written is; anything else has no effect.
    Half,
}

/// What the power cut leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// Everything: only the process was killed.
    Kept,
    /// Nothing.
    Lost,
    /// The names, without the content.
    Names,
    /// Names, and half of what was written since the last sync.
    Torn,
}

#[derive(Debug, Clone, Default)]
struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
}

/// A file's number; `None` for a directory.
type Node = Option<usize>;

#[derive(Debug, Default)]
struct Inner {
    files: Vec<Content>,
    cached: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    operations: usize,
    fail_at: Option<(usize, Fault, io::ErrorKind)>,
    dead: bool,
}

#[derive(Debug, Default)]
pub(crate) struct SimulatedDisk(Mutex<Inner>);

impl Inner {
    /// Counts an operation; how much of it happens, and whether it then fails.
    fn step(&mut self) -> io::Result<Option<(Fault, io::Error)>> {
        if self.dead {
            return Err(io::Error::other("the process is gone"));
        }
        self.operations += 1;
        match self.fail_at {
            Some((at, fault, kind)) if at == self.operations => {
                self.dead = true;
                Ok(Some((fault, io::Error::from(kind))))
            }
            _ => Ok(None),
        }
    }

    fn file(&mut self, path: &Path) -> io::Result<&mut Content> {
        match self.cached.get(path) {
            Some(Some(n)) => Ok(&mut self.files[*n]),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl SimulatedDisk {
    fn inner<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An operation that changes something: `f` is told whether only half of it is to happen.
    fn change(&self, f: impl FnOnce(&mut Inner, bool) -> io::Result<()>, halves: bool) -> io::Result<()> {
        self.inner(|inner| match inner.step()? {
            None => f(inner, false),
            Some((fault, error)) => {
                match fault {
                    Fault::Refused => {}
                    Fault::Half if !halves => {}
                    Fault::Half => f(inner, true)?,
                    Fault::Done => f(inner, false)?,
                }
                Err(error)
            }
        })
    }

    /// Fails operation number `at` (from 1).
    pub fn fail(&self, at: usize, fault: Fault, kind: io::ErrorKind) {
        self.inner(|inner| inner.fail_at = Some((at, fault, kind)));
    }

    /// Operations so far.
    pub fn operations(&self) -> usize {
        self.inner(|inner| inner.operations)
    }

    /// A file as another process sees it.
    pub fn seen(&self, path: &Path) -> Option<Vec<u8>> {
        self.inner(|inner| inner.file(path).ok().map(|c| c.cached.clone()))
    }

    /// Cuts the power; the disk that is found afterwards.
    pub fn crash(&self, crash: Crash) -> Self {
        self.inner(|inner| {
            let names = if crash == Crash::Lost { &inner.durable } else { &inner.cached };
            let reachable = |path: &Path| {
                path.ancestors().skip(1).all(|p| {
                    p == Path::new("")
                        || names.contains_key(p)
                        || p.parent().is_none_or(|q| q == Path::new(""))
                })
            };
            let mut found = Inner::default();
            for (path, node) in names.iter().filter(|(p, _)| reachable(p)) {
                let node = node.map(|n| {
                    let file = &inner.files[n];
                    let bytes = match crash {
                        Crash::Kept => file.cached.clone(),
                        Crash::Lost | Crash::Names => file.durable.clone(),
                        Crash::Torn => torn(file),
                    };
                    found.files.push(Content { cached: bytes.clone(), durable: bytes });
                    found.files.len() - 1
                });
                found.cached.insert(path.clone(), node);
            }
            found.durable = found.cached.clone();
            Self(Mutex::new(found))
        })
    }
}

/// What is durable, and half of what came after it; or half of what replaced it.
fn torn(file: &Content) -> Vec<u8> {
    let kept = if file.cached.starts_with(&file.durable) { file.durable.len() } else { 0 };
    let end = kept + (file.cached.len() - kept).div_ceil(2);
    file.cached[..end].to_vec()
}

impl Disk for SimulatedDisk {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.inner(|inner| {
            if let Some((_, error)) = inner.step()? {
                return Err(error);
            }
            Ok(inner.file(path).ok().map(|c| c.cached.clone()))
        })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let write = |inner: &mut Inner, half: bool| {
            let written = &bytes[..if half { bytes.len() / 2 } else { bytes.len() }];
            if inner.file(path).is_err() {
                inner.files.push(Content::default());
                inner.cached.insert(path.to_owned(), Some(inner.files.len() - 1));
            }
            written.clone_into(&mut inner.file(path)?.cached);
            Ok(())
        };
        self.change(write, true)
    }

    fn append(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        let append = |inner: &mut Inner, half: bool| {
            let written = &bytes[..if half { bytes.len() / 2 } else { bytes.len() }];
            let file = inner.file(path)?;
            file.cached.truncate(usize::try_from(at).unwrap_or(usize::MAX));
            file.cached.extend_from_slice(written);
            Ok(())
        };
        self.change(append, true)
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.change(|inner, _| inner.file(path).map(|f| f.cached.truncate(length)), false)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let sync = |inner: &mut Inner, _| {
            let file = inner.file(path)?;
            file.durable.clone_from(&file.cached);
            Ok(())
        };
        self.change(sync, false)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let sync = |inner: &mut Inner, _| {
            let inside = |p: &&PathBuf| p.parent() == Some(path);
            inner.durable.retain(|p, _| !inside(&p));
            let new: Vec<_> =
                inner.cached.iter().filter(|(p, _)| inside(p)).map(|(p, n)| (p.clone(), *n)).collect();
            inner.durable.extend(new);
            Ok(())
        };
        self.change(sync, false)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let rename = |inner: &mut Inner, _| {
            let node = inner.cached.remove(from).ok_or(io::ErrorKind::NotFound)?;
            inner.cached.insert(to.to_owned(), node);
            Ok(())
        };
        self.change(rename, false)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let make = |inner: &mut Inner, _| {
            for dir in path.ancestors().filter(|p| *p != Path::new("")) {
                inner.cached.entry(dir.to_owned()).or_insert(None);
            }
            Ok(())
        };
        self.change(make, false)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let remove = |inner: &mut Inner, _| {
            inner.cached.retain(|p, _| !p.starts_with(path));
            Ok(())
        };
        self.change(remove, false)
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Any + Send>> {
        Ok(Box::new(()))
    }
}
