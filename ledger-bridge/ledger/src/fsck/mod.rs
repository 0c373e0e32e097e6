//! Checking a whole log, independently: every file, every hash, every signature, every decision.
//!
//! This is code of its own: it parses the files anew and computes the tree by the definition of RFC 6962. With the
//! writer it shares the hash and signature libraries and `ledger_contract::decide`, nothing else, so that a mistake of
//! the writer is not repeated here. It never changes a file. It needs the log closed, or a backup of it.
//!
//! Memory stays small however long the log is: the state it makes is in a database of its own, temporary.
//! Tests: `tests/fsck.rs`.

mod entries;
mod parse;
mod tree;

use std::{
    io,
    path::{Path, PathBuf},
};

use parse::{Checkpoint, Element, Hash, Key, Tail, elements, read, show};
use tree::{Levels, leaf, mth};

use crate::{LedgerError, embedded::home::Lock};
use entries::Replay;

const TILE: usize = 256;
/// More findings are counted, not listed.
pub const MAX_FINDINGS: usize = 100;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Stable code.
    pub code: &'static str,
    /// Which file.
    pub file: PathBuf,
    /// Where in it.
    pub place: String,
    /// What contradicts what.
    pub problem: String,
    /// What to do.
    pub action: &'static str,
}

/// What was looked at, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Name of the log.
    pub ledger: String,
    /// Entries that the tail's last checkpoint covers.
    pub entries: u64,
    /// Root over them, hexadecimal.
    pub root: String,
    /// Size of the published checkpoint.
    pub published: u64,
    /// Files of tiles and bundles that were read.
    pub tiles: u64,
    /// Entries that were decided again.
    pub decided: u64,
    /// Entries that the derived state covers; `None` when there is none.
    pub derived: Option<u64>,
    /// What is wrong, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond.
    pub more: u64,
}

const RESTORE: &str = "restore the ledger from a backup (`mandate ledger restore`), or this file alone from a replica: it never changes";
const RESTART: &str = "start `mandate serve` once: it is written again from what is whole";
const REMOVE_STATE: &str = "remove state.db, state.db-wal and state.db-shm: they are made again from the log";

struct Check<'a> {
    dir: &'a Path,
    report: Report,
    /// Where the tail begins, and the partial tile of level 1 there.
    base: u64,
    edge: Vec<Hash>,
}

/// Checks the log in `dir`. `progress` is told how many entries of how many were looked at.
///
/// An error means that nothing could be checked at all; everything else is in the report.
pub fn fsck(dir: &Path, mut progress: impl FnMut(u64, u64)) -> Result<Report, LedgerError> {
    if dir.join("entries.jsonl").exists() && !dir.join("tail").exists() {
        return Err(LedgerError::OldFormat { dir: dir.to_owned() });
    }
    if !dir.join("tail").exists() && !dir.join("checkpoint").exists() {
        return Err(LedgerError::Missing { dir: dir.to_owned() });
    }
    let _lock = alone(dir)?;
    let mut check = Check { dir, report: Report::default(), base: 0, edge: Vec::new() };
    check.whole(&mut progress)?;
    Ok(check.report)
}

/// Keeps writers away. On a medium that nobody can write to there is no need to, and no way.
fn alone(dir: &Path) -> Result<Option<Lock>, LedgerError> {
    match Lock::take(dir) {
        Err(LedgerError::Storage { source, .. }) if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Ok(None)
        }
        taken => taken.map(Some),
    }
}

fn storage(path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Storage { doing: "read", path, source }
}

/// `x001/x234/067`.
fn numbered(n: u64) -> String {
    let digits = format!("{n:0width$}", width = n.to_string().len().div_ceil(3) * 3);
    let groups: Vec<_> =
        digits.as_bytes().chunks(3).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
    let (last, rest) = groups.split_last().map_or(("000", &[][..]), |(l, r)| (l.as_str(), r));
    rest.iter().map(|g| format!("x{g}/")).collect::<String>() + last
}

/// The same hashes, whatever empty levels follow.
fn same_levels(a: &[Vec<Hash>], b: &[Vec<Hash>]) -> bool {
    let longest = a.len().max(b.len());
    let level = |l: &[Vec<Hash>], i: usize| l.get(i).cloned().unwrap_or_default();
    (0..longest).all(|i| level(a, i) == level(b, i))
}

impl Check<'_> {
    fn find(
        &mut self,
        code: &'static str,
        file: &Path,
        place: impl Into<String>,
        problem: impl Into<String>,
        action: &'static str,
    ) {
        if self.report.findings.len() >= MAX_FINDINGS {
            self.report.more += 1;
            return;
        }
        let file = file.strip_prefix(self.dir).unwrap_or(file).to_owned();
        self.report.findings.push(Finding {
            code,
            file,
            place: place.into(),
            problem: problem.into(),
            action,
        });
    }

    fn read(&mut self, path: &Path) -> Result<Option<Vec<u8>>, LedgerError> {
        read(path).map_err(storage(path))
    }

    fn whole(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), LedgerError> {
        let Some(key) = self.key()? else { return Ok(()) };
        self.report.ledger.clone_from(&key.name);
        let published = self.published(&key)?;
        let Some(tail) = self.tail(&key)? else { return Ok(()) };
        let Some(head) = tail.commits.last().map(|c| c.checkpoint.clone()) else { return Ok(()) };
        (self.base, self.edge) = (tail.base, tail.edge.get(1).cloned().unwrap_or_default());
        (self.report.entries, self.report.root) = (head.size, show(&head.root));
        if let Some(p) = &published {
            self.report.published = p.size;
            if p.size > head.size {
                let problem = format!(
                    "the published checkpoint covers {} entries, the tail ends after {}",
                    p.size, head.size
                );
                self.find("TAIL_SHORT", &self.dir.join("tail"), "end", problem, RESTORE);
            }
        }
        self.entries(&key, &tail, published.as_ref(), progress)
    }

    fn key(&mut self) -> Result<Option<Key>, LedgerError> {
        let path = self.dir.join("log.key");
        let bytes = self.read(&path)?.unwrap_or_default();
        let key = std::str::from_utf8(&bytes).ok().and_then(Key::of_file);
        if key.is_none() {
            let action = "restore log.key from a backup: without it nothing can be verified or appended";
            self.find(
                "KEY",
                &path,
                "whole file",
                "it is not a name and 64 hexadecimal digits on two lines",
                action,
            );
        }
        Ok(key)
    }

    fn published(&mut self, key: &Key) -> Result<Option<Checkpoint>, LedgerError> {
        let path = self.dir.join("checkpoint");
        let Some(bytes) = self.read(&path)? else {
            self.find("CHECKPOINT_MISSING", &path, "whole file", "it is missing", RESTART);
            return Ok(None);
        };
        let note = String::from_utf8_lossy(&bytes).into_owned();
        match key.checkpoint(&note) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(problem) => {
                let action =
                    "remove this file if the tail is whole (nothing else found here): it is published again";
                self.find("CHECKPOINT", &path, "whole file", problem, action);
                Ok(None)
            }
        }
    }

    fn tail(&mut self, key: &Key) -> Result<Option<Tail>, LedgerError> {
        let path = self.dir.join("tail");
        let bytes = self.read(&path)?.unwrap_or_default();
        let tail = match parse::tail(&bytes, key) {
            Ok(tail) => tail,
            Err(problem) => {
                self.find("TAIL", &path, "frames", problem, RESTORE);
                return Ok(None);
            }
        };
        if tail.left > 0 {
            let problem = format!("{} bytes after the last whole frame", tail.left);
            let action = "start `mandate serve` once: what an interrupted commit left is cut off; anything else is refused";
            self.find("TAIL_END", &path, "end", problem, action);
        }
        if tail.commits.is_empty() {
            self.find("TAIL", &path, "frames", "it holds no commit", RESTORE);
        }
        Ok(Some(tail))
    }

    /// Every entry, in order, with the tiles over it.
    fn entries(
        &mut self,
        key: &Key,
        tail: &Tail,
        published: Option<&Checkpoint>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), LedgerError> {
        let head = self.report.entries;
        let mut replay = Replay::new(&key.name, self.dir)?;
        let mut levels = Levels(vec![Vec::new()]);
        let mut heads: Vec<(u64, Hash, PathBuf)> = tail
            .commits
            .iter()
            .map(|c| (c.checkpoint.size, c.checkpoint.root, self.dir.join("tail")))
            .collect();
        heads.extend(
            published.filter(|p| p.size <= head).map(|p| (p.size, p.root, self.dir.join("checkpoint"))),
        );
        heads.sort_by_key(|h| h.0);
        let mut heads = heads.into_iter().peekable();
        let recent: Vec<&Element> = tail.commits.iter().flat_map(|c| &c.entries).collect();
        let mut at = 0;
        while at < head {
            let n = at / TILE as u64;
            let count = usize::try_from((head - at).min(TILE as u64)).unwrap_or(TILE);
            let of_tail = at.checked_sub(tail.base).and_then(|i| usize::try_from(i).ok());
            let own = of_tail.and_then(|i| recent.get(i..i + count));
            let (bytes, path) = self.bundle(n, count, own)?;
            let leaves = self.leaves(n, &bytes, &path)?;
            for (leaf, entry) in leaves.iter().zip(&bytes) {
                levels.0[0].push(*leaf);
                at += 1;
                let found = replay.entry(at - 1, entry.as_deref());
                found.into_iter().for_each(|(code, problem)| {
                    self.find(code, &path, format!("entry {}", at - 1), problem, RESTORE);
                });
                while heads.peek().is_some_and(|h| h.0 <= at) {
                    if let Some((size, root, file)) = heads.next()
                        && size == at
                        && levels.root() != root
                    {
                        let problem = format!(
                            "the root over the first {size} entries is {}, not {}",
                            show(&levels.root()),
                            show(&root)
                        );
                        self.find("ROOT", &file, format!("checkpoint of {size}"), problem, RESTORE);
                    }
                }
                for (code, problem) in replay.derived_at(at) {
                    self.find(
                        code,
                        &self.dir.join("state.db"),
                        format!("at entry {at}"),
                        problem,
                        REMOVE_STATE,
                    );
                }
            }
            self.tiles(&mut levels, n, published)?;
            if at == tail.base && !same_levels(&levels.0, &tail.edge) {
                let problem = format!("its edge of the tree at {at} is not that of the entries below");
                self.find("TAIL", &self.dir.join("tail"), "header", problem, RESTORE);
            }
            progress(at, head);
        }
        (self.report.decided, self.report.derived) = (replay.decided, replay.derived);
        if let Some(problem) = replay.derived_ahead(head) {
            self.find("STATE", &self.dir.join("state.db"), "covers", problem, REMOVE_STATE);
        }
        Ok(())
    }

    /// The entries of a bundle, and the file they are from.
    fn bundle(
        &mut self,
        n: u64,
        count: usize,
        own: Option<&[&Element]>,
    ) -> Result<(Vec<Element>, PathBuf), LedgerError> {
        let path = self.dir.join("tile/entries").join(numbered(n));
        let tail = self.dir.join("tail");
        let mut found = Vec::new();
        let action = if own.is_some() { RESTART } else { RESTORE };
        if count == TILE {
            self.report.tiles += 1;
            match self.read(&path)? {
                None => self.find("BUNDLE_MISSING", &path, "whole file", "it is missing", action),
                Some(bytes) => match elements(&bytes).filter(|e| e.len() == TILE) {
                    None => self.find(
                        "BUNDLE",
                        &path,
                        "lengths",
                        "its lengths do not add up to 256 entries",
                        action,
                    ),
                    Some(entries) => found = entries,
                },
            }
        }
        if let Some(own) = own {
            let own: Vec<_> = own.iter().map(|e| (*e).clone()).collect();
            if !found.is_empty() && found != own {
                self.find("BUNDLE", &path, "whole file", "its entries are not those of the tail", RESTART);
            }
            found = own;
        }
        found.resize(count, None);
        let first = n * TILE as u64;
        for (entry, position) in found.iter_mut().zip(first..) {
            if entry.is_none() {
                let large = self.dir.join("large").join(numbered(position));
                *entry = self.read(&large)?;
            }
        }
        Ok((found, if count == TILE { path } else { tail }))
    }

    /// Leaf hashes; where entries and tile disagree, the tile above says which of them was altered.
    fn leaves(&mut self, n: u64, entries: &[Element], path: &Path) -> Result<Vec<Hash>, LedgerError> {
        let computed: Vec<Hash> = entries.iter().map(|e| leaf(e.as_deref().unwrap_or_default())).collect();
        if computed.len() < TILE {
            return Ok(computed);
        }
        let tile = self.dir.join("tile/0").join(numbered(n));
        self.report.tiles += 1;
        let Some(hashes) = self.tile_file(&tile)? else { return Ok(computed) };
        if hashes == computed {
            return Ok(computed);
        }
        // The tail's own entries are signed; below it the hash of the whole tile is.
        let of_tail = n >= self.base / TILE as u64;
        if of_tail || self.above(n)?.is_some_and(|h| h == mth(&computed)) {
            let action = if of_tail { RESTART } else { RESTORE };
            self.find("TILE", &tile, "whole file", "its hashes are not those of the entries", action);
            return Ok(computed);
        }
        let first = n * TILE as u64;
        for ((a, b), position) in computed.iter().zip(&hashes).zip(first..) {
            if a != b {
                let problem = format!("its hash is {}, the tile says {}", show(a), show(b));
                self.find("ENTRY_ALTERED", path, format!("entry {position}"), problem, RESTORE);
            }
        }
        Ok(hashes)
    }

    /// What the tile above says about tile `n` of level 0; the last of them is in the tail's header.
    fn above(&mut self, n: u64) -> Result<Option<Hash>, LedgerError> {
        let (tile, index) = (n / TILE as u64, usize::try_from(n % TILE as u64).unwrap_or(0));
        if tile == self.base >> 16 {
            return Ok(self.edge.get(index).copied());
        }
        let path = self.dir.join("tile/1").join(numbered(tile));
        let bytes = self.read(&path)?.unwrap_or_default();
        Ok(bytes.chunks_exact(32).nth(index).and_then(|h| h.try_into().ok()))
    }

    fn tile_file(&mut self, path: &Path) -> Result<Option<Vec<Hash>>, LedgerError> {
        match self.read(path)? {
            None => {
                self.find("TILE_MISSING", path, "whole file", "it is missing", RESTART);
                Ok(None)
            }
            Some(bytes) if bytes.len() != TILE * 32 => {
                self.find(
                    "TILE",
                    path,
                    "whole file",
                    format!("it has {} bytes, not 8192", bytes.len()),
                    RESTORE,
                );
                Ok(None)
            }
            Some(bytes) => Ok(Some(bytes.chunks_exact(32).filter_map(|h| h.try_into().ok()).collect())),
        }
    }

    /// Tiles of the levels above that are full now.
    fn tiles(
        &mut self,
        levels: &mut Levels,
        bundle: u64,
        published: Option<&Checkpoint>,
    ) -> Result<(), LedgerError> {
        self.partials(levels, bundle, published)?;
        let mut level = 0;
        while levels.0[level].len() == TILE {
            let full = std::mem::take(&mut levels.0[level]);
            if level > 0 {
                let n = bundle >> (8 * level);
                let path = self.dir.join("tile").join(level.to_string()).join(numbered(n));
                self.report.tiles += 1;
                if let Some(hashes) = self.tile_file(&path)?
                    && hashes != full
                {
                    let differs = hashes.iter().zip(&full).position(|(a, b)| a != b).unwrap_or(0);
                    self.find(
                        "TILE",
                        &path,
                        format!("hash {differs}"),
                        "it is not that of the entries below",
                        RESTORE,
                    );
                }
            }
            level += 1;
            if level == levels.0.len() {
                levels.0.push(Vec::new());
            }
            levels.0[level].push(mth(&full));
        }
        Ok(())
    }

    /// The partial tiles of the published checkpoint, when it ends in this bundle.
    fn partials(
        &mut self,
        levels: &Levels,
        bundle: u64,
        published: Option<&Checkpoint>,
    ) -> Result<(), LedgerError> {
        let Some(p) = published.filter(|p| p.size / TILE as u64 == bundle) else { return Ok(()) };
        for (level, hashes) in levels.0.iter().enumerate() {
            let width = usize::try_from((p.size >> (8 * level)) % TILE as u64).unwrap_or(0);
            let Some(expected) = hashes.get(..width).filter(|h| !h.is_empty()) else { continue };
            let n = p.size >> (8 * (level + 1));
            let dir = self.dir.join("tile").join(level.to_string()).join(format!("{}.p", numbered(n)));
            let path = dir.join(width.to_string());
            self.report.tiles += 1;
            match self.read(&path)? {
                None => self.find(
                    "TILE_MISSING",
                    &path,
                    "whole file",
                    "the published checkpoint needs it",
                    RESTART,
                ),
                Some(bytes) if bytes != expected.concat() => {
                    self.find(
                        "TILE",
                        &path,
                        "whole file",
                        "its hashes are not those of the entries",
                        "remove this file and start `mandate serve`: it is written again with the next entry",
                    );
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}
