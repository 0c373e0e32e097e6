//! The witnesses of a log: whose cosignatures it keeps, and the newest checkpoint that they cosigned.
//!
//! `witness/keys` lists their public keys, one per line; `witness/checkpoint` is the newest cosigned checkpoint.
//! Both may be changed while the log is open: the writer only reads them, when it publishes a checkpoint and when it is
//! asked for its head. A cosignature of the current checkpoint is also put into the published `checkpoint`.
//! Who demands cosignatures is the verifier ([`trust::witness::Witnesses`]); the log only keeps them.
//! Tests: `tests/foreign.rs`, with a witness made of others' software.

use std::path::{Path, PathBuf};

use trust::witness::{MAX_WITNESSES, WitnessKey, merge};

use crate::{
    LedgerError,
    embedded::{
        disk::{Disk as _, RealDisk, at},
        home,
        layout::{CHECKPOINT, CHECKPOINT_NEW, PUBLISH_LOCK},
    },
};

/// The newest cosigned checkpoint of the log in `dir`.
pub(crate) fn cosigned_path(dir: &Path) -> PathBuf {
    dir.join("witness").join("checkpoint")
}

fn keys_path(dir: &Path) -> PathBuf {
    dir.join("witness").join("keys")
}

/// What an import has added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Size of the cosigned checkpoint.
    pub size: u64,
    /// The witnesses of this log that have cosigned it, those known before included.
    pub cosigned: Vec<String>,
    /// Is it the published one?
    pub current: bool,
}

fn refused(problem: impl Into<String>) -> LedgerError {
    LedgerError::Witness { problem: problem.into() }
}

/// The witnesses of the log in `dir`.
pub fn list(dir: &Path) -> Result<Vec<WitnessKey>, LedgerError> {
    let path = keys_path(dir);
    let bytes = RealDisk::default().read(&path).map_err(at("read", &path))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let parse = |line: &str| WitnessKey::parse(line).map_err(|e| refused(format!("{}: {e}", path.display())));
    text.lines().filter(|l| !l.is_empty()).map(parse).collect()
}

fn store(dir: &Path, keys: &[WitnessKey]) -> Result<(), LedgerError> {
    let text: String = keys.iter().map(|k| format!("{k}\n")).collect();
    replace(&keys_path(dir), text.as_bytes())
}

/// Replaces a file of `witness/`, durably.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
    let disk = RealDisk::default();
    let parent = path.parent().unwrap_or(path);
    let new = path.with_extension("new");
    disk.make_dir(parent).map_err(at("create", parent))?;
    disk.write(&new, bytes).map_err(at("write", &new))?;
    disk.sync(&new).map_err(at("sync", &new))?;
    disk.rename(&new, path).map_err(at("replace", path))?;
    disk.sync_dir(parent).map_err(at("sync", parent))
}

/// Keeps cosignatures of this witness from now on; once is enough.
pub fn add(dir: &Path, key: WitnessKey) -> Result<(), LedgerError> {
    if !home::present(dir) {
        return Err(LedgerError::Missing { dir: dir.to_owned() });
    }
    let mut keys = list(dir)?;
    if keys.contains(&key) {
        return Ok(());
    }
    if keys.len() >= MAX_WITNESSES {
        return Err(refused(format!("a log has at most {MAX_WITNESSES} witnesses; remove one first")));
    }
    keys.push(key);
    store(dir, &keys)
}

/// Keeps no more cosignatures of the witness of this name; was there one?
pub fn remove(dir: &Path, name: &str) -> Result<bool, LedgerError> {
    let keys = list(dir)?;
    let left: Vec<_> = keys.iter().filter(|k| k.name() != name).cloned().collect();
    let removed = left.len() < keys.len();
    if removed {
        store(dir, &left)?;
    }
    Ok(removed)
}

/// The newest cosigned checkpoint, if there is one.
pub fn cosigned(dir: &Path) -> Result<Option<String>, LedgerError> {
    let path = cosigned_path(dir);
    let bytes = RealDisk::default().read(&path).map_err(at("read", &path))?;
    Ok(bytes.map(|b| String::from_utf8_lossy(&b).into_owned()))
}

/// Takes a checkpoint of this log that a witness has cosigned.
///
/// Only lines of this log's witnesses that verify are kept. A checkpoint that is older than the newest cosigned one adds
/// nothing and is refused.
pub fn import(dir: &Path, note: &str) -> Result<Imported, LedgerError> {
    if !home::present(dir) {
        return Err(LedgerError::Missing { dir: dir.to_owned() });
    }
    let log = home::key(dir)?.verifier();
    let checkpoint =
        log.checkpoint(note).map_err(|e| refused(format!("this log did not sign that checkpoint: {e}")))?;
    let witnesses = list(dir)?;
    let own = own_lines(note, &log, &witnesses);
    let lock = dir.join(PUBLISH_LOCK);
    let disk = RealDisk::default();
    let _held = disk.lock(&lock).map_err(at("lock", &lock))?;
    let known = cosigned(dir)?.unwrap_or_default();
    let newest = log.checkpoint(&known).map_or(0, |c| c.size);
    if checkpoint.size < newest {
        let size = checkpoint.size;
        return Err(refused(format!("it is of {size} entries, and one of {newest} is cosigned already")));
    }
    let merged = merge(&own, &known);
    let by = |note: &str| -> Vec<String> {
        witnesses.iter().filter(|k| k.cosigned(note).is_some()).map(|k| k.name().to_owned()).collect()
    };
    if by(&own).is_empty() {
        return Err(refused(
            "no witness of this log has cosigned it, or its signature does not verify; `mandate ledger witness list` names them",
        ));
    }
    replace(&cosigned_path(dir), merged.as_bytes())?;
    let published = dir.join(CHECKPOINT);
    let bytes = disk.read(&published).map_err(at("read", &published))?.unwrap_or_default();
    let before = String::from_utf8_lossy(&bytes).into_owned();
    let after = merge(&before, &merged);
    let current = log.checkpoint(&before).is_ok_and(|c| c == checkpoint);
    if after != before {
        let new = dir.join(CHECKPOINT_NEW);
        disk.write(&new, after.as_bytes()).map_err(at("write", &new))?;
        disk.sync(&new).map_err(at("sync", &new))?;
        disk.rename(&new, &published).map_err(at("replace", &published))?;
    }
    Ok(Imported { size: checkpoint.size, cosigned: by(&merged), current })
}

/// The note with the log's own line and those of its witnesses that verify; nothing else that somebody wrote into it.
fn own_lines(note: &str, log: &trust::note::NoteVerifier, witnesses: &[WitnessKey]) -> String {
    let Some(at) = note.rfind("\n\n") else { return note.to_owned() };
    let (text, lines) = (&note[..at + 2], &note[at + 2..]);
    let keep = |line: &&str| {
        let one = format!("{text}{line}\n");
        log.open(&one).is_ok() || witnesses.iter().any(|w| w.cosigned(&one).is_some())
    };
    lines.lines().filter(keep).fold(text.to_owned(), |note, line| note + line + "\n")
}
