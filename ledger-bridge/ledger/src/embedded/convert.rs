//! Converting a log of the format before tiles: all entries in `entries.jsonl`, one per line.
//!
//! Once, when such a log is opened. The tree is the same, so the head is the same, signature and all. The tail comes
//! last and is the conversion; a crash before it leaves the old log untouched, and the next opening begins anew.
//! After it `entries.jsonl` is kept under another name. Tests: `tests/convert.rs`, with a log that the version before
//! wrote.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

use trust::note::NoteSigner;

use super::{
    MAX_BATCH,
    disk::{Disk, at},
    layout::{CHECKPOINT, MAX_ENTRY_BYTES, TAIL, V1_ENTRIES, V1_KEPT},
    store::{Founding, corrupt},
};
use crate::LedgerError;

/// Converts what is there, if it is of the old format.
pub(crate) fn convert(disk: &dyn Disk, dir: &Path, signer: &NoteSigner) -> Result<(), LedgerError> {
    let (entries, kept) = (dir.join(V1_ENTRIES), dir.join(V1_KEPT));
    if !entries.exists() {
        return Ok(());
    }
    if !dir.join(TAIL).exists() {
        let size = write(disk, dir, signer)?;
        tracing::warn!(
            entries = size,
            kept = %kept.display(),
            "the ledger was converted to tiles (docs/ledger.md); its head is the same, the old file is kept"
        );
    }
    disk.rename(&entries, &kept).map_err(at("rename", &entries))?;
    disk.sync_dir(dir).map_err(at("sync", dir))
}

fn write(disk: &dyn Disk, dir: &Path, signer: &NoteSigner) -> Result<u64, LedgerError> {
    let path = dir.join(CHECKPOINT);
    let bytes = disk.read(&path).map_err(at("read", &path))?.unwrap_or_default();
    let note = String::from_utf8_lossy(&bytes).into_owned();
    let verifier = signer.verifier();
    let bad = |problem: String| corrupt(&path, "whole file", problem);
    let checkpoint =
        verifier.checkpoint(&note).map_err(|e| bad(format!("{e} (the key in log.key is {verifier})")))?;
    tracing::warn!(
        entries = checkpoint.size,
        dir = %dir.display(),
        "converting the ledger from the format of one file; interrupted, it begins anew at the next start"
    );
    let entries = dir.join(V1_ENTRIES);
    let mut reader = BufReader::new(File::open(&entries).map_err(at("open", &entries))?);
    let mut founding = Founding::new(disk, dir);
    for position in 0..checkpoint.size {
        let mut line = Vec::new();
        let most = MAX_ENTRY_BYTES as u64 + 1;
        reader.by_ref().take(most).read_until(b'\n', &mut line).map_err(at("read", &entries))?;
        if line.pop() != Some(b'\n') || line.is_empty() {
            let problem =
                format!("the checkpoint covers {} entries, but this one is not whole", checkpoint.size);
            return Err(corrupt(&entries, &format!("entry {position}"), problem));
        }
        founding.push(&line)?;
    }
    if founding.root()? != checkpoint.root {
        let problem = format!("its root is not that of the {} entries: one was altered", checkpoint.size);
        return Err(bad(problem));
    }
    // What is beyond was never confirmed, unless the checkpoint was replaced by an older one.
    let beyond = reader.split(b'\n').take(MAX_BATCH + 1).count();
    if beyond > MAX_BATCH {
        return Err(bad(format!(
            "more than {MAX_BATCH} entries lie beyond it: it was replaced by an older one"
        )));
    }
    founding.finish(verifier.name(), &note)?;
    Ok(checkpoint.size)
}
