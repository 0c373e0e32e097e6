//! Looking: what runs, from `/proc` and from the processes' own answers; what was asked for, from files that are read
//! again only when they changed. No process is started, and everything blocks: never on a worker of the runtime.
//!
//! Tests: `tests/drift.rs` (every change behind our back; thousands of objects), the conformance suite.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dataplane_control::protocol::{Request, Status};
use serde::de::DeserializeOwned;
use trust::Digest;
use vim::{ObjectKey, ProcessState};

use crate::{
    Site, blocking, control,
    error::{HostError, state},
    image::Digests,
    process::Process,
    state::{ImageRef, Layout, Record, names, read_json},
};

/// Instances asked at once when all are observed.
const ASKED_AT_ONCE: usize = 16;
/// Longest wait for an answer while all are observed: who hangs must not hide the others.
const GLANCE: Duration = Duration::from_secs(1);

/// Identity of a file's content as far as the kernel keeps it: any write changes the change time.
type Version = [i128; 4];

/// State files, parsed once per version.
#[derive(Default)]
pub(crate) struct Files {
    records: Mutex<Cache<Record>>,
    references: Mutex<Cache<ImageRef>>,
}

type Cache<T> = BTreeMap<PathBuf, (Version, Arc<T>)>;

/// What looking needs, to be taken along to another thread.
#[derive(Clone)]
pub(crate) struct Looker {
    pub layout: Layout,
    pub digests: Arc<Digests>,
    pub files: Arc<Files>,
}

/// An instance as it is.
pub(crate) struct Found {
    pub process: Option<Process>,
    /// What became of the process that was started.
    pub answer: ProcessState,
    /// Digest of what the process executes.
    pub image: Option<Digest>,
    /// What it answers.
    pub status: Option<Status>,
}

/// What comes of asking an instance.
enum Answer {
    Status(Process, Box<Status>),
    /// Nothing runs.
    Down,
    /// Another process is in its place; it may still run too.
    Replaced {
        running: Option<Process>,
        recorded: u32,
        found: u32,
    },
    /// It runs and does not answer as it should.
    Failed(Process, HostError),
}

impl Looker {
    /// Every instance record.
    pub(crate) fn records(&self) -> Result<Vec<Arc<Record>>, HostError> {
        let dir = self.layout.instances();
        let paths = names(&dir)?.into_iter().map(|name| dir.join(name).join("record.json"));
        all(&self.files.records, paths)
    }

    /// Every image reference.
    pub(crate) fn references(&self) -> Result<Vec<Arc<ImageRef>>, HostError> {
        let dir = self.layout.image_refs();
        let files = names(&dir)?.into_iter().filter(|n| n.ends_with(".json"));
        all(&self.files.references, files.map(|name| dir.join(name)))
    }

    fn ask(&self, key: &ObjectKey, limit: Duration) -> Result<Answer, HostError> {
        let paths = self.layout.instance(key);
        let Some(process) = read_json::<Process>(&paths.process())? else { return Ok(Answer::Down) };
        if !process.runs() {
            let replaced = |found| Answer::Replaced { running: None, recorded: process.pid, found };
            return Ok(control::listener(&paths.control())?.map_or(Answer::Down, replaced));
        }
        let replaced = |recorded, found| Answer::Replaced { running: Some(process), recorded, found };
        let asked = control::status_now(&paths.control(), process.pid, &Request::Status, limit);
        Ok(match asked {
            Ok(s) if s.instance == key.as_str() && s.pid == process.pid => {
                Answer::Status(process, Box::new(s))
            }
            Ok(s) => replaced(process.pid, s.pid),
            Err(HostError::InstanceReplaced { recorded, found }) => replaced(recorded, found),
            // It ended while it was asked.
            Err(HostError::Control(_)) if !process.runs() => Answer::Down,
            Err(e) => Answer::Failed(process, e),
        })
    }

    /// An instance that must run: its process and status.
    fn running(&self, key: &ObjectKey, limit: Duration) -> Result<(Process, Status), HostError> {
        match self.ask(key, limit)? {
            Answer::Status(process, status) => Ok((process, *status)),
            Answer::Down => Err(HostError::InstanceDown { log: self.layout.instance(key).log_tail() }),
            Answer::Replaced { recorded, found, .. } => Err(HostError::InstanceReplaced { recorded, found }),
            Answer::Failed(_, e) => Err(e),
        }
    }

    /// What is there of a recorded instance.
    fn look(&self, key: &ObjectKey, limit: Duration) -> Result<Found, HostError> {
        let (process, answer, status) = match self.ask(key, limit)? {
            Answer::Status(process, status) => (Some(process), ProcessState::Answers, Some(*status)),
            Answer::Down => (None, ProcessState::Gone, None),
            Answer::Replaced { running, recorded, found } => {
                tracing::warn!(instance = %key, recorded, found, "another process answers in its place");
                (running, ProcessState::Replaced, None)
            }
            Answer::Failed(process, error) => {
                tracing::warn!(instance = %key, pid = process.pid, "it does not answer: {error}");
                (Some(process), ProcessState::Silent, None)
            }
        };
        let image = process.and_then(|p| match self.digests.of(&p.executable()) {
            Ok(image) => image,
            Err(error) => {
                tracing::warn!(instance = %key, pid = p.pid, "what it executes: {error}");
                None
            }
        });
        Ok(Found { process, answer, image, status })
    }
}

impl Site {
    pub(crate) fn looker(&self) -> Looker {
        Looker { layout: self.layout.clone(), digests: self.digests.clone(), files: self.files.clone() }
    }

    /// What is recorded under this key.
    pub(crate) async fn record(&self, key: &ObjectKey) -> Result<Option<Record>, HostError> {
        let path = self.layout.instance(key).record();
        match blocking(move || read_json::<Record>(&path)).await? {
            Some(r) if r.key != *key => {
                Err(HostError::KeyCollision { short: key.short("i"), other: r.key.to_string() })
            }
            other => Ok(other),
        }
    }

    /// The answer to an instance that must run: its process and status.
    pub(crate) async fn running(&self, key: &ObjectKey) -> Result<(Process, Status), HostError> {
        self.record(key).await?.ok_or(HostError::InstanceAbsent)?;
        let (looker, key) = (self.looker(), key.clone());
        blocking(move || looker.running(&key, control::ANSWER)).await
    }

    /// What is there of a recorded instance.
    pub(crate) async fn look(&self, record: &Record) -> Result<Found, HostError> {
        let (looker, key) = (self.looker(), record.key.clone());
        blocking(move || looker.look(&key, control::ANSWER)).await
    }

    /// What is there of each of these, in their order. Some threads take one after the other, so that who does not
    /// answer holds one of them.
    pub(crate) async fn look_at_all(&self, records: &[Arc<Record>]) -> Result<Vec<Found>, HostError> {
        let (next, shared) = (Arc::new(AtomicUsize::new(0)), Arc::new(records.to_vec()));
        let workers = (0..ASKED_AT_ONCE.min(records.len())).map(|_| {
            let (looker, next, records) = (self.looker(), next.clone(), shared.clone());
            blocking(move || {
                let mut found = Vec::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(record) = records.get(i) else { return Ok(found) };
                    found.push((i, looker.look(&record.key, GLANCE)?));
                }
            })
        });
        let mut found: Vec<_> = futures::future::try_join_all(workers).await?.into_iter().flatten().collect();
        found.sort_unstable_by_key(|(i, _)| *i);
        Ok(found.into_iter().map(|(_, found)| found).collect())
    }
}

/// Reads these files, each again only when it changed; forgets the others.
fn all<T: DeserializeOwned>(
    cache: &Mutex<Cache<T>>,
    paths: impl Iterator<Item = PathBuf>,
) -> Result<Vec<Arc<T>>, HostError> {
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    let mut known = std::mem::take(&mut *cache);
    for path in paths {
        let Some(version) = version(&path).map_err(state("look at", &path))? else { continue };
        let value = match known.remove(&path) {
            Some((of, value)) if of == version => value,
            _ => match read_json(&path)? {
                Some(value) => Arc::new(value),
                None => continue,
            },
        };
        cache.insert(path, (version, value));
    }
    Ok(cache.values().map(|(_, value)| value.clone()).collect())
}

/// `None`: there is no such file.
fn version(path: &Path) -> io::Result<Option<Version>> {
    match fs::metadata(path) {
        Ok(m) => {
            let changed = i128::from(m.ctime()) * 1_000_000_000 + i128::from(m.ctime_nsec());
            Ok(Some([i128::from(m.dev()), i128::from(m.ino()), i128::from(m.size()), changed]))
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}
