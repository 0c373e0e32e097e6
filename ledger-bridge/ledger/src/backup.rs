//! Copying a log while it is open, and putting a copy back.
//!
//! A backup needs no lock and no help from the writer: full tiles never change, the tail only grows or is replaced as a
//! whole, and its frames say where they end. It takes the tail up to what is published, because everything that is
//! published is durable: a backup never knows more than the log itself does after a crash. The copy is a log like any
//! other: `fsck` reads it, others' tlog tools do, and `mandate serve` would. It holds the log's key; keep it as secret.
//! A second backup into the same directory copies what is new, after proving that it is the same log. A backup that fails
//! leaves the directory as it was ([`target`]); one that was killed is gone on with by the next.
//!
//! Restoring refuses a directory where a ledger is. It cannot know whether a later head was ever handed out; whoever
//! holds a later checkpoint notices ([`crate::Ledger::consistency`]): the orchestrator's journal does, and the CLI.
//! Tests: `tests/backup.rs`.

mod target;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use trust::{Digest, merkle, note::NoteSigner};

use crate::{
    LedgerError,
    embedded::{
        disk::{Disk, RealDisk, at},
        home,
        layout::{self, CHECKPOINT, KEY, Kind, LARGE, TAIL, TILE_WIDTH},
        reader::{Tiles, View},
        store::{self, Head, corrupt, publish, replay},
        tail,
    },
};
use target::Target;

/// How often the published checkpoint is waited for.
const TRIES: u32 = 50;
/// Pause between two looks at it.
const PAUSE: Duration = Duration::from_millis(100);

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Copied {
    /// Name of the log.
    pub ledger: String,
    /// Entries.
    pub size: u64,
    /// Root over them.
    pub root: Digest,
    /// Files that were made or replaced; 0: the backup was as new as the log.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// A log as it is at this moment: whole frames up to the published checkpoint.
struct Moment {
    signer: NoteSigner,
    head: Head,
    /// The tail up to that head.
    tail: Vec<u8>,
    /// Where it begins.
    base: u64,
    /// Full tiles that the tail covers.
    files: Vec<store::NewFile>,
}

/// Looks at a log that somebody may be writing.
fn moment(disk: &dyn Disk, dir: &Path) -> Result<Moment, LedgerError> {
    if !home::present(dir) {
        return Err(LedgerError::Missing { dir: dir.to_owned() });
    }
    if !dir.join(TAIL).exists() && dir.join(layout::V1_ENTRIES).exists() {
        return Err(LedgerError::OldFormat { dir: dir.to_owned() });
    }
    let signer = home::key(dir)?;
    let (checkpoint, path) = (dir.join(CHECKPOINT), dir.join(TAIL));
    for _ in 0..TRIES {
        let note = disk.read(&checkpoint).map_err(at("read", &checkpoint))?.unwrap_or_default();
        let published = signer
            .verifier()
            .checkpoint(&String::from_utf8_lossy(&note))
            .map_err(|e| corrupt(&checkpoint, "whole file", e.to_string()))?;
        let bytes = disk.read(&path).map_err(at("read", &path))?.unwrap_or_default();
        let mut read = tail::parse(&bytes).map_err(|problem| corrupt(&path, "frames", problem))?;
        read.keep(|note| store::size_of(note).is_some_and(|size| size <= published.size));
        if let Some(end) = read.ends.last().copied() {
            let base = read.header.edge.size();
            let (head, files) = replay(disk, dir, &signer, &read)?;
            if head.size() < published.size {
                let problem = format!(
                    "the published checkpoint covers {} entries, it ends after {}",
                    published.size,
                    head.size()
                );
                return Err(corrupt(&path, "end", problem));
            }
            return Ok(Moment { signer, head, tail: bytes[..end].to_vec(), base, files });
        }
        // The tail was replaced and its head is not published yet.
        std::thread::sleep(PAUSE);
    }
    Err(corrupt(&checkpoint, "whole file", "it is older than the tail, and nobody replaces it"))
}

struct Copy<'a> {
    from: &'a Path,
    to: &'a Path,
    target: &'a Target,
}

impl Copy<'_> {
    /// Copies a file that never changes, unless it is there with the same length.
    fn file(&self, path: &Path) -> Result<bool, LedgerError> {
        let length = fs::metadata(path).map_err(at("read", path))?.len();
        if fs::metadata(self.there(path)).is_ok_and(|m| m.len() == length) {
            return Ok(false);
        }
        let bytes = self.target.read(path).map_err(at("read", path))?.unwrap_or_default();
        self.put(path, &bytes)?;
        Ok(true)
    }

    /// Where a file of the log is in the copy.
    fn there(&self, path: &Path) -> PathBuf {
        self.to.join(path.strip_prefix(self.from).unwrap_or(path))
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
        let there = self.there(path);
        self.target.put(&there, bytes).map_err(at("write", &there))
    }

    /// Entries that are in files of their own.
    fn large(&self, dir: &Path) -> Result<(), LedgerError> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(at("list", dir)(e)),
        };
        for entry in entries {
            let path = entry.map_err(at("list", dir))?.path();
            if path.is_dir() {
                self.large(&path)?;
            } else {
                self.file(&path)?;
            }
        }
        Ok(())
    }

    /// Everything but the tail and the checkpoint.
    fn files(&self, moment: &Moment, progress: &mut impl FnMut(u64, u64)) -> Result<(), LedgerError> {
        let tiles = Tiles::new(Arc::new(RealDisk::default()), self.from);
        let view = View::new(&tiles, &moment.head);
        for n in 0..moment.base / TILE_WIDTH {
            if self.file(&layout::tile(self.from, Kind::Entries, n))? {
                // What is copied is what the signed tree says.
                view.entry(n * TILE_WIDTH)?;
            }
            self.file(&layout::tile(self.from, Kind::Hashes(0), n))?;
            progress(n * TILE_WIDTH, moment.head.size());
        }
        let mut level = 1;
        while moment.base >> (8 * (level + 1)) > 0 {
            for n in 0..moment.base >> (8 * (level + 1)) {
                self.file(&layout::tile(self.from, Kind::Hashes(level), n))?;
            }
            level += 1;
        }
        self.large(&self.from.join(LARGE))?;
        moment.files.iter().try_for_each(|(path, bytes)| self.put(path, bytes))?;
        for name in [KEY, "witness/keys", "witness/checkpoint"] {
            let path = self.from.join(name);
            if let Some(bytes) = self.target.read(&path).map_err(at("read", &path))? {
                self.put(&path, &bytes)?;
            }
        }
        Ok(())
    }

    fn whole(&self, moment: &Moment, mut progress: impl FnMut(u64, u64)) -> Result<(), LedgerError> {
        self.target.make_dir(self.to).map_err(at("create", self.to))?;
        self.files(moment, &mut progress)?;
        // The tail is the copy's commit, as it is the log's: until it is in place an earlier backup stays what it was.
        self.target.put_tail(&moment.tail).map_err(at("write", &self.to.join(TAIL)))?;
        publish(self.target, self.to, &moment.head, 0)?;
        progress(moment.head.size(), moment.head.size());
        Ok(())
    }
}

/// Copies the log in `from`, open or not, to `to`, which is new, empty or an earlier backup of the same log. When it fails,
/// `to` is left as it was.
pub fn backup(from: &Path, to: &Path, progress: impl FnMut(u64, u64)) -> Result<Copied, LedgerError> {
    let moment = moment(&RealDisk::default(), from)?;
    elsewhere(from, to)?;
    let shared: Arc<dyn Disk> = Arc::new(RealDisk::default());
    same_log(&shared, from, to, &moment)?;
    let target = Target::new(to);
    if let Err(e) = (Copy { from, to, target: &target }).whole(&moment, progress) {
        target.undo();
        return Err(e);
    }
    let (files, bytes) = target.written();
    target.commit().map_err(at("tidy", to))?;
    let ledger = moment.signer.verifier().name().to_owned();
    Ok(Copied { ledger, size: moment.head.size(), root: moment.head.root, files, bytes })
}

/// A copy is not put into the log itself: it would write over what is being read.
fn elsewhere(from: &Path, to: &Path) -> Result<(), LedgerError> {
    let absolute = std::path::absolute(to).map_err(at("find", to))?;
    let there = absolute.ancestors().find_map(|p| p.canonicalize().ok());
    let log = from.canonicalize().map_err(at("find", from))?;
    match there.is_some_and(|t| t.starts_with(&log)) {
        true => Err(LedgerError::Inside { dir: to.to_owned() }),
        false => Ok(()),
    }
}

/// An earlier backup must be of this log's past.
fn same_log(disk: &Arc<dyn Disk>, from: &Path, to: &Path, now: &Moment) -> Result<(), LedgerError> {
    let path = to.join(CHECKPOINT);
    let Some(bytes) = disk.read(&path).map_err(at("read", &path))? else {
        let empty = fs::read_dir(to).map_or(true, |mut d| d.next().is_none());
        // What an interrupted backup left has a key and no checkpoint; it is gone on with.
        return match empty || to.join(KEY).exists() || to.join("tile").exists() {
            true => Ok(()),
            false => Err(LedgerError::Exists { dir: to.to_owned() }),
        };
    };
    let verifier = now.signer.verifier();
    let earlier = verifier.checkpoint(&String::from_utf8_lossy(&bytes)).ok();
    let tiles = Tiles::new(Arc::clone(disk), from);
    let same = match &earlier {
        Some(c) if c.size <= now.head.size() => {
            merkle::root(&View::new(&tiles, &now.head), c.size)? == c.root
        }
        _ => false,
    };
    let theirs = earlier
        .map_or_else(|| "another log's".to_owned(), |c| format!("of {} entries, root {}", c.size, c.root));
    match same {
        true => Ok(()),
        false => Err(LedgerError::OtherBackup {
            dir: to.to_owned(),
            theirs,
            ours: format!("of {} entries, root {}", now.head.size(), now.head.root),
        }),
    }
}

/// Puts the backup in `from` into `to`, which must be new or empty. `from` is left as it is.
///
/// Whoever calls has checked the backup ([`crate::fsck::fsck`]).
pub fn restore(from: &Path, to: &Path, progress: impl FnMut(u64, u64)) -> Result<Copied, LedgerError> {
    if fs::read_dir(to).is_ok_and(|mut d| d.next().is_some()) {
        return Err(LedgerError::Exists { dir: to.to_owned() });
    }
    let mut beside = to.as_os_str().to_owned();
    beside.push(".restoring");
    let beside = PathBuf::from(beside);
    let copied = backup(from, &beside, progress)?;
    put(&beside, to).inspect_err(|_| {
        // It holds the log's key; the cause is what is said.
        let _ = fs::remove_dir_all(&beside);
    })?;
    Ok(copied)
}

/// Renames a whole copy to where it belongs.
fn put(beside: &Path, to: &Path) -> Result<(), LedgerError> {
    let disk = RealDisk::default();
    if to.exists() {
        fs::remove_dir(to).map_err(at("remove", to))?;
    }
    disk.rename(beside, to).map_err(at("rename", beside))?;
    match to.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => disk.sync_dir(parent).map_err(at("sync", parent)),
        None => Ok(()),
    }
}
