//! The log on disk: how it grows, what a crash leaves of it, and how it is found again.
//!
//! # The commit protocol
//!
//! What must hold, whatever stops the writer, at any call of [`Disk`], whether that call took effect or not:
//!
//! - an entry that was acknowledged is there for ever, in its place;
//! - of what was not acknowledged, a commit is there as a whole or not at all;
//! - the head never goes back: a checkpoint that anybody was given has a consistency proof to every later one.
//!
//! The tail makes it so. It is one file ([`super::tail`]) that only grows: a commit is one frame of it, with the new
//! entries and the signed checkpoint over the tree that includes them, and one sync. Everything else in the
//! directory is a copy, for readers, of what a tail once held:
//!
//! - a full tile or bundle is written when its last entry is committed, and synced before the tail that holds its
//!   entries is replaced (*rotation*, beside the commits: [`super::rotation`]);
//! - partial tiles and `checkpoint` are written by [`publish`], some time later: `checkpoint` is synced before it is
//!   renamed into place, so that a damaged one cannot come from a crash, and it never covers more than the tail does.
//!
//! Opening reads the tail, verifies it against the log's key, writes every full tile that it covers once more (the
//! same function as a commit), and is where it was. It does not read what is below the tail's base: that was durable
//! before the tail began, and every tile is verified against the signed root when it is read ([`super::reader`]).
//!
//! Each step says at its line what a crash there leaves. Tests: `tests.rs` (every crash point, with the unsynced
//! persisted, lost, and torn), `tests/damage.rs` (flipped bits, full disk, older copies).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use trust::{
    Digest,
    merkle::{self, leaf_hash},
    note::{Checkpoint, NoteSigner},
};

use super::{
    disk::{Disk, at},
    edge::{Edge, Hole, full, width},
    layout::{
        self, CHECKPOINT, CHECKPOINT_NEW, Kind, MAX_BUNDLED_BYTES, PUBLISH_LOCK, TAIL, TAIL_NEW, TILE_WIDTH,
        push_element,
    },
    reader::{Tiles, View},
    rotation::{self, NewTail, Rotation},
    tail,
};
use crate::LedgerError;

/// A tail that has become longer is replaced. Opening reads so much, and a rotation syncs the tiles of so much.
pub(crate) const ROTATE_BYTES: u64 = 8 << 20;

/// The tree's edge with the entries that belong to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Growth {
    /// The tree's edge.
    pub edge: Edge,
    /// Entries of the partial bundle; an empty one is in a file of its own.
    pub partial: Vec<Arc<[u8]>>,
}

/// A committed state of the log.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// The signed checkpoint, as the log signed it.
    pub note: String,
    /// Root of the tree.
    pub root: Digest,
    /// Its edge.
    pub growth: Growth,
}

/// A file that is written once.
pub(crate) type NewFile = (PathBuf, Vec<u8>);

/// The log, for its one writer.
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    signer: NoteSigner,
    head: Arc<Head>,
    tail_bytes: u64,
    /// Where the tail begins.
    base: u64,
    rotate_bytes: u64,
    /// Full tiles that the next rotation has to sync.
    unsynced: BTreeSet<PathBuf>,
    turning: Option<Turning>,
}

/// A rotation that is under way.
struct Turning {
    /// Where the new tail begins.
    base: u64,
    /// Frames committed since: the new tail has to have them, too.
    since: Vec<u8>,
    /// The new tail, once it is durable beside the old one.
    ready: Option<NewTail>,
}

/// What contradicts what.
pub(crate) fn corrupt(path: &Path, place: &str, problem: impl Into<String>) -> LedgerError {
    LedgerError::Corrupt { path: path.to_owned(), place: place.to_owned(), problem: problem.into() }
}

impl Growth {
    /// Appends an entry; the tiles and the bundle that are full now are added to `files`.
    pub fn push(&mut self, dir: &Path, entry: &[u8], files: &mut Vec<NewFile>) {
        let large = entry.len() > MAX_BUNDLED_BYTES;
        self.partial.push(if large { Arc::default() } else { entry.into() });
        let full = self.edge.push(leaf_hash(entry));
        for tile in &full {
            let path = layout::tile(dir, Kind::Hashes(tile.level), tile.n);
            files.push((path, layout::tile_bytes(&tile.hashes)));
        }
        if let Some(lowest) = full.first() {
            files.push((layout::tile(dir, Kind::Entries, lowest.n), self.bundle()));
            self.partial.clear();
        }
    }

    /// The partial bundle.
    pub fn bundle(&self) -> Vec<u8> {
        let mut bundle = Vec::new();
        self.partial.iter().for_each(|e| push_element(&mut bundle, e));
        bundle
    }

    /// Where the partial bundle begins, and the edge there.
    pub fn base(&self) -> Edge {
        self.edge.base()
    }

    fn root(&self, dir: &Path) -> Result<Digest, LedgerError> {
        self.edge.root().map_err(|Hole| corrupt(&dir.join(TAIL), "header", "its edge of the tree has a hole"))
    }
}

impl Head {
    /// How many entries.
    pub fn size(&self) -> u64 {
        self.growth.edge.size()
    }
}

/// Writes a file whose directory may not be there yet.
fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
    if let Some(parent) = path.parent() {
        disk.make_dir(parent).map_err(at("create", parent))?;
    }
    disk.write(path, bytes).map_err(at("write", path))
}

/// Makes files and the names of all of them durable, up to `dir`.
pub(super) fn sync_all<'a>(
    disk: &dyn Disk,
    dir: &Path,
    files: impl Iterator<Item = &'a PathBuf>,
) -> Result<(), LedgerError> {
    let mut parents = BTreeSet::from([dir.to_owned()]);
    for path in files {
        disk.sync(path).map_err(at("sync", path))?;
        let above = path.ancestors().skip(1).take_while(|p| p.starts_with(dir));
        parents.extend(above.map(Path::to_owned));
    }
    parents.iter().rev().try_for_each(|parent| disk.sync_dir(parent).map_err(at("sync", parent)))
}

/// Entries that no bundle can hold get files of their own, durable before anything names them.
fn write_large<'a>(
    disk: &dyn Disk,
    dir: &Path,
    entries: impl Iterator<Item = (u64, &'a [u8])>,
) -> Result<(), LedgerError> {
    let mut written = Vec::new();
    for (position, entry) in entries.filter(|(_, e)| e.len() > MAX_BUNDLED_BYTES) {
        let path = layout::large(dir, position);
        write(disk, &path, entry)?;
        written.push(path);
    }
    if written.is_empty() { Ok(()) } else { sync_all(disk, dir, written.iter()) }
}

/// Entries of a log that is written in one go: founding one, and converting one.
pub(crate) struct Founding<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    growth: Growth,
    written: Vec<PathBuf>,
}

impl<'a> Founding<'a> {
    /// No entry yet.
    pub fn new(disk: &'a dyn Disk, dir: &'a Path) -> Self {
        Self { disk, dir, growth: Growth::default(), written: Vec::new() }
    }

    /// The next entry; what is full is written.
    pub fn push(&mut self, entry: &[u8]) -> Result<(), LedgerError> {
        write_large(self.disk, self.dir, [(self.growth.edge.size(), entry)].into_iter())?;
        let mut files = Vec::new();
        self.growth.push(self.dir, entry, &mut files);
        for (path, bytes) in files {
            write(self.disk, &path, &bytes)?;
            self.written.push(path);
        }
        Ok(())
    }

    /// Root over all that was pushed.
    pub fn root(&self) -> Result<Digest, LedgerError> {
        self.growth.root(self.dir)
    }

    /// Makes everything durable and, last, the tail: with it there is a log.
    pub fn finish(self, ledger: &str, note: &str) -> Result<Head, LedgerError> {
        sync_all(self.disk, self.dir, self.written.iter())?;
        rotation::write_tail(self.disk, self.dir, ledger, note, &self.growth)?;
        rotation::put_in_place(self.disk, self.dir)?;
        Ok(Head { note: note.to_owned(), root: self.growth.root(self.dir)?, growth: self.growth })
    }
}

impl Store {
    /// Finds the log again. Nothing is changed unless the tail fits together, and covers what is published.
    ///
    /// Returns the size of the checkpoint that is published, too.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        signer: NoteSigner,
        rotate_bytes: u64,
    ) -> Result<(Self, u64), LedgerError> {
        let path = dir.join(TAIL);
        let bytes = disk.read(&path).map_err(at("read", &path))?;
        let bytes = bytes.ok_or_else(|| corrupt(&path, "whole file", "it is missing"))?;
        let read = tail::parse(&bytes).map_err(|problem| corrupt(&path, "frames", problem))?;
        let (head, files) = replay(&*disk, dir, &signer, &read)?;
        let published = published(&*disk, dir, &signer, &head)?;
        let mut store = Self {
            disk,
            dir: dir.to_owned(),
            signer,
            head: Arc::new(head),
            tail_bytes: read.whole as u64,
            base: read.header.edge.size(),
            rotate_bytes,
            unsynced: BTreeSet::new(),
            turning: None,
        };
        if read.torn {
            store.cut_off(bytes.len() - read.whole)?;
        }
        // The tail may cover full tiles that were lost or torn: they were not synced. Written again, they are the same.
        store.write_files(files)?;
        store.same_tree(published.as_ref())?;
        Ok((store, published.map_or(0, |c| c.size)))
    }

    /// The published checkpoint must be of this log's past or present.
    fn same_tree(&self, published: Option<&Checkpoint>) -> Result<(), LedgerError> {
        let Some(published) = published else { return Ok(()) };
        let tiles = Tiles::new(Arc::clone(&self.disk), &self.dir);
        if merkle::root(&View::new(&tiles, &self.head), published.size)? == published.root {
            return Ok(());
        }
        let problem = format!("its root is not that of the first {} entries", published.size);
        Err(corrupt(&self.dir.join(CHECKPOINT), "whole file", problem))
    }

    /// The committed head.
    pub fn head(&self) -> &Arc<Head> {
        &self.head
    }

    /// What an interrupted commit left was never confirmed to anybody.
    fn cut_off(&self, bytes: usize) -> Result<(), LedgerError> {
        let path = self.dir.join(TAIL);
        tracing::warn!(
            bytes,
            "cutting off what an interrupted commit left at the ledger's end; none of it was confirmed"
        );
        self.disk.truncate(&path, self.tail_bytes).map_err(at("truncate", &path))?;
        self.disk.sync(&path).map_err(at("sync", &path))
    }

    fn write_files(&mut self, files: Vec<NewFile>) -> Result<(), LedgerError> {
        for (path, bytes) in files {
            write(&*self.disk, &path, &bytes)?;
            self.unsynced.insert(path);
        }
        Ok(())
    }

    /// Commits entries, all or none. After an error the log must be closed: what is on disk is no longer known.
    pub fn commit(&mut self, entries: &[Vec<u8>]) -> Result<&Arc<Head>, LedgerError> {
        // 1. Entries that do not fit into a bundle. A crash leaves files that nothing names; the next commit at their
        //    positions replaces them.
        let first = self.head.size();
        write_large(&*self.disk, &self.dir, (first..).zip(entries.iter().map(Vec::as_slice)))?;
        let (mut growth, mut files) = (self.head.growth.clone(), Vec::new());
        entries.iter().for_each(|e| growth.push(&self.dir, e, &mut files));
        let root = growth.root(&self.dir)?;
        let note = self.signer.sign_checkpoint(growth.edge.size(), root).map_err(LedgerError::Key)?;
        // 2. One frame: the checkpoint and its entries. A crash leaves it whole, in part, or not at all; its hash says
        //    which. Whole, it is a commit that nobody was told of yet; otherwise opening cuts it off.
        // 3. The sync is the commit: from here on the entries are there whatever happens.
        let frame = tail::commit_frame(&note, entries.iter().map(Vec::as_slice));
        match self.turning.take() {
            Some(Turning { base, since, ready: Some(new) }) => self.turn(base, &since, &new, &frame)?,
            turning => self.append(turning, &frame)?,
        }
        // 4. Tiles that have become full, for readers. Not synced: as long as this tail is in place, opening writes
        //    them again.
        self.write_files(files)?;
        self.head = Arc::new(Head { note, root, growth });
        Ok(&self.head)
    }

    fn append(&mut self, turning: Option<Turning>, frame: &[u8]) -> Result<(), LedgerError> {
        let path = self.dir.join(TAIL);
        self.disk.append(&path, self.tail_bytes, frame).map_err(at("append to", &path))?;
        self.disk.sync(&path).map_err(at("sync", &path))?;
        self.tail_bytes += frame.len() as u64;
        self.turning = turning.map(|mut t| {
            t.since.extend_from_slice(frame);
            t
        });
        Ok(())
    }

    /// The commit that puts the new tail in place: the frame is in it alone. The new tail gets what was committed since
    /// it was written, and this frame; a crash before the rename leaves the old one, which has everything but this
    /// frame, and one after it may leave either.
    fn turn(&mut self, base: u64, since: &[u8], new: &NewTail, frame: &[u8]) -> Result<(), LedgerError> {
        let path = self.dir.join(TAIL_NEW);
        let added = [since, frame].concat();
        self.disk.append(&path, new.bytes, &added).map_err(at("append to", &path))?;
        self.disk.sync(&path).map_err(at("sync", &path))?;
        rotation::put_in_place(&*self.disk, &self.dir)?;
        self.tail_bytes = new.bytes + added.len() as u64;
        self.base = base;
        Ok(())
    }

    /// 5. Now and then, a new tail: a shorter one, for it begins at the partial bundle. What takes long is done beside
    ///    the commits, by whoever is given the rotation; one at a time.
    pub fn rotation(&mut self) -> Option<Rotation> {
        let base = self.head.growth.base().size();
        if self.tail_bytes <= self.rotate_bytes || base <= self.base || self.turning.is_some() {
            return None;
        }
        self.turning = Some(Turning { base, since: Vec::new(), ready: None });
        Some(Rotation {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            name: self.signer.verifier().name().to_owned(),
            head: Arc::clone(&self.head),
            unsynced: std::mem::take(&mut self.unsynced),
        })
    }

    /// The rotation has been carried out; the next commit turns to the new tail.
    pub fn rotated(&mut self, new: NewTail) {
        if let Some(turning) = &mut self.turning {
            turning.ready = Some(new);
        }
    }

    /// Have so many bytes been committed while a rotation is under way that it has to be waited for?
    pub fn waits_for_rotation(&self) -> bool {
        self.turning.as_ref().is_some_and(|t| t.ready.is_none() && t.since.len() as u64 > self.rotate_bytes)
    }
}

/// Verifies a tail and follows it: the head, and every full tile from its base on.
pub(crate) fn replay(
    disk: &dyn Disk,
    dir: &Path,
    signer: &NoteSigner,
    read: &tail::Tail,
) -> Result<(Head, Vec<NewFile>), LedgerError> {
    let path = dir.join(TAIL);
    let verifier = signer.verifier();
    let bad = |place: &str, problem: String| corrupt(&path, place, problem);
    if read.header.ledger != verifier.name() {
        let problem = format!("it is of `{}`, log.key of `{}`", read.header.ledger, verifier.name());
        return Err(bad("header", problem));
    }
    let edge = Edge::parse(read.header.edge.clone())
        .ok_or_else(|| bad("header", "its edge of the tree does not fit its size".to_owned()))?;
    let mut head =
        Head { note: String::new(), root: merkle::empty_root(), growth: Growth { edge, partial: vec![] } };
    let mut files = Vec::new();
    for commit in &read.commits {
        let mut apart = String::new();
        for entry in &commit.entries {
            let position = head.size();
            let large = if entry.is_empty() { Some(read_large(disk, dir, position)?) } else { None };
            if large.is_some() {
                apart = format!(" (entry {position} is in {})", layout::large(dir, position).display());
            }
            head.growth.push(dir, large.as_deref().unwrap_or(entry), &mut files);
        }
        let place = format!("commit of entry {}", head.size().saturating_sub(1));
        let checkpoint = verifier
            .checkpoint(&commit.note)
            .map_err(|e| bad(&place, format!("{e} (the key in log.key is {verifier})")))?;
        head.root = head.growth.root(dir)?;
        if checkpoint.size != head.size() || checkpoint.root != head.root {
            let problem = format!(
                "its checkpoint is of {} entries with root {}, the entries give {} with root {}{apart}",
                checkpoint.size,
                checkpoint.root,
                head.size(),
                head.root
            );
            return Err(bad(&place, problem));
        }
        head.note.clone_from(&commit.note);
    }
    match read.commits.is_empty() {
        false => Ok((head, files)),
        true => Err(bad("frames", "it holds no commit".to_owned())),
    }
}

/// An entry that no bundle can hold.
pub(crate) fn read_large(disk: &dyn Disk, dir: &Path, position: u64) -> Result<Vec<u8>, LedgerError> {
    let path = layout::large(dir, position);
    let bytes = disk.read(&path).map_err(at("read", &path))?;
    bytes.ok_or_else(|| corrupt(&path, "whole file", format!("entry {position} is missing")))
}

/// The published checkpoint, which never runs ahead of the tail.
fn published(
    disk: &dyn Disk,
    dir: &Path,
    signer: &NoteSigner,
    head: &Head,
) -> Result<Option<Checkpoint>, LedgerError> {
    let path = dir.join(CHECKPOINT);
    let Some(bytes) = disk.read(&path).map_err(at("read", &path))? else { return Ok(None) };
    let bad = |problem: String| corrupt(&path, "whole file", problem);
    let note = String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8".to_owned()))?;
    let verifier = signer.verifier();
    let checkpoint =
        verifier.checkpoint(&note).map_err(|e| bad(format!("{e} (the key in log.key is {verifier})")))?;
    if checkpoint.size <= head.size() {
        return Ok(Some(checkpoint));
    }
    let problem = format!(
        "the published checkpoint covers {} entries, but it ends after {}: it is cut off, altered, or an older one",
        checkpoint.size,
        head.size()
    );
    Err(corrupt(&dir.join(TAIL), "end", problem))
}

/// Writes what readers of the directory need for a head: its partial tiles, then its checkpoint.
///
/// Only `checkpoint` is synced: a crash may lose partial tiles of a checkpoint that is there, until the log is opened
/// again, and never a committed entry. `since` is what was published before; returns what is published now.
pub(crate) fn publish(disk: &dyn Disk, dir: &Path, head: &Head, since: u64) -> Result<u64, LedgerError> {
    let size = head.size();
    let edge = &head.growth.edge;
    for level in 0..edge.levels() {
        let changed = since == 0 || full(since, level) != full(size, level);
        if let Some(tree) = edge.partial(level).filter(|_| changed) {
            let n = full(size, level + 1);
            let path = layout::partial(dir, Kind::Hashes(level), n, tree.leaves().len());
            write(disk, &path, &layout::tile_bytes(tree.leaves()))?;
        }
    }
    if !head.growth.partial.is_empty() {
        let path = layout::partial(dir, Kind::Entries, size / TILE_WIDTH, head.growth.partial.len());
        write(disk, &path, &head.growth.bundle())?;
    }
    replace_checkpoint(disk, dir, &head.note)?;
    clear_partials(disk, dir, head, since)?;
    Ok(size)
}

/// [`publish`], of everything: what a crash has lost of the partial tiles is there again.
pub(crate) fn publish_whole(
    disk: &dyn Disk,
    dir: &Path,
    head: &Head,
    since: u64,
) -> Result<u64, LedgerError> {
    publish(disk, dir, head, 0)?;
    clear_partials(disk, dir, head, since)?;
    Ok(head.size())
}

/// What has become full needs its partial versions no more.
fn clear_partials(disk: &dyn Disk, dir: &Path, head: &Head, since: u64) -> Result<(), LedgerError> {
    let (size, edge) = (head.size(), &head.growth.edge);
    for (kind, level) in (0..edge.levels()).map(|l| (Kind::Hashes(l), l)).chain([(Kind::Entries, 0)]) {
        let n = full(since, level + 1);
        if width(since, level) > 0 && n < full(size, level + 1) {
            let path = layout::partials(dir, kind, n);
            disk.remove_dir(&path).map_err(at("remove", &path))?;
        }
    }
    Ok(())
}

/// Replaces `checkpoint`, with every cosignature that is known of the same checkpoint.
fn replace_checkpoint(disk: &dyn Disk, dir: &Path, note: &str) -> Result<(), LedgerError> {
    let lock = dir.join(PUBLISH_LOCK);
    let _held = disk.lock(&lock).map_err(at("lock", &lock))?;
    let (new, path) = (dir.join(CHECKPOINT_NEW), dir.join(CHECKPOINT));
    let mut note = note.to_owned();
    for known in [&path, &crate::witness::cosigned_path(dir)] {
        let bytes = disk.read(known).map_err(at("read", known))?.unwrap_or_default();
        if let Ok(known) = std::str::from_utf8(&bytes) {
            note = trust::witness::merge(&note, known);
        }
    }
    // Synced before the rename: a checkpoint in place is whole, also after a crash.
    disk.write(&new, note.as_bytes()).map_err(at("write", &new))?;
    disk.sync(&new).map_err(at("sync", &new))?;
    disk.rename(&new, &path).map_err(at("replace", &path))
}

/// Size of a checkpoint that this log signed, unverified.
pub(crate) fn size_of(note: &str) -> Option<u64> {
    note.lines().nth(1)?.parse().ok()
}
