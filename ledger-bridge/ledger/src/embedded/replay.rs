//! Opening: everything that was committed is verified and decided again; what was not is cut off.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _},
};

use ledger_contract::{
    TxInfo,
    contract::{SnapshotError, decide, snapshot},
    records::Entry,
};
use trust::{Digest, UnixTime, merkle, note::NoteSigner};

use super::{CommittedLog, MAX_BATCH, files::Files};
use crate::LedgerError;

/// Longest entry accepted, bytes: a request of the largest size in base64, twice over.
pub(super) const MAX_ENTRY_BYTES: u64 = 16 << 20;

/// The log as it was left.
pub(super) struct Replayed {
    pub log: CommittedLog,
    pub last_time: UnixTime,
    /// Position of each request by its envelope's digest.
    pub seen: HashMap<Digest, u64>,
}

struct Corrupt<'a>(&'a Files);

impl Corrupt<'_> {
    fn entry(&self, position: u64, problem: impl Into<String>) -> LedgerError {
        let place = format!("entry {position}");
        LedgerError::Corrupt { path: self.0.entries_path(), place, problem: problem.into() }
    }

    fn checkpoint(&self, problem: impl Into<String>) -> LedgerError {
        let place = "whole file".to_owned();
        LedgerError::Corrupt { path: self.0.checkpoint_path(), place, problem: problem.into() }
    }
}

/// Verifies and replays; truncates a tail that no checkpoint covers.
pub(super) fn replay(files: &mut Files, signer: &NoteSigner) -> Result<Replayed, LedgerError> {
    let note = files.checkpoint()?;
    let verifier = signer.verifier();
    let checkpoint = verifier
        .checkpoint(&note)
        .map_err(|e| Corrupt(files).checkpoint(format!("{e} (the key in log.key is {verifier})")))?;
    let mut replayed = Replayed {
        log: CommittedLog { checkpoint: note, offsets: vec![0], ..CommittedLog::default() },
        last_time: UnixTime(0),
        seen: HashMap::new(),
    };
    let mut reader = BufReader::new(files.reader()?);
    for position in 0..checkpoint.size {
        let line = line(&mut reader, files)?.ok_or_else(|| {
            let size = checkpoint.size;
            Corrupt(files).entry(
                position,
                format!("the checkpoint covers {size} entries, but this one is missing or incomplete"),
            )
        })?;
        replayed.push(position, &line).map_err(|problem| Corrupt(files).entry(position, problem))?;
    }
    if replayed.log.tree.root() != checkpoint.root {
        return Err(Corrupt(files).checkpoint(format!(
            "its root is not that of the {} entries: an entry was altered",
            checkpoint.size
        )));
    }
    redecide(files, verifier.name(), &mut replayed)?;
    cut_off(files, &mut reader, &replayed)?;
    Ok(replayed)
}

/// The next complete line without its newline.
fn line(reader: &mut BufReader<std::fs::File>, files: &Files) -> Result<Option<Vec<u8>>, LedgerError> {
    let mut line = Vec::new();
    let read = reader.by_ref().take(MAX_ENTRY_BYTES).read_until(b'\n', &mut line);
    read.map_err(|source| LedgerError::Storage { doing: "read", path: files.entries_path(), source })?;
    Ok((line.pop() == Some(b'\n')).then_some(line))
}

impl Replayed {
    /// One more entry, as far as it can be judged by itself.
    fn push(&mut self, position: u64, line: &[u8]) -> Result<(), String> {
        let entry: Entry = serde_json::from_slice(line).map_err(|e| format!("it cannot be read: {e}"))?;
        if entry.to_bytes() != line {
            return Err("it is not in its canonical encoding".to_owned());
        }
        if entry.position != position {
            return Err(format!("it says position {}", entry.position));
        }
        let start = self.log.offsets.last().copied().unwrap_or_default();
        self.log.offsets.push(start + line.len() as u64 + 1);
        self.log.tree.push(merkle::leaf_hash(line));
        if entry.event.is_some() {
            self.log.events.push(position);
        }
        self.seen.entry(entry.request.digest()).or_insert(position);
        Ok(())
    }
}

/// Decides every entry again over the state that those before it left.
fn redecide(files: &Files, name: &str, replayed: &mut Replayed) -> Result<(), LedgerError> {
    let entries = files.entries()?;
    for position in 0..replayed.log.tree.size() {
        let corrupt = |problem: String| Corrupt(files).entry(position, problem);
        let Some(extent) = replayed.log.extent(position) else { break };
        let text = entries.read(extent)?;
        let entry: Entry = serde_json::from_str(&text).map_err(|e| corrupt(e.to_string()))?;
        if entry.ledger != name || entry.time < replayed.last_time {
            return Err(corrupt(format!(
                "it is of ledger `{}` at {}, out of place here",
                entry.ledger, entry.time
            )));
        }
        replayed.last_time = entry.time;
        apply(&entry, &mut replayed.log).map_err(corrupt)?;
    }
    Ok(())
}

fn apply(entry: &Entry, log: &mut CommittedLog) -> Result<(), String> {
    let state = snapshot::<std::convert::Infallible>(&entry.request, |key| Ok(log.state.get(key).cloned()))
        .map_err(|e| match e {
        SnapshotError::Malformed(m) => m.to_string(),
        SnapshotError::Read(never) => match never {},
    })?;
    let tx = TxInfo { v: entry.v, ledger: entry.ledger.clone(), position: entry.position, time: entry.time };
    let outcome = decide(&entry.request, &state, &tx);
    let same = outcome.writes_digest() == entry.writes
        && outcome.event == entry.event
        && outcome.verdict.approved == entry.verdict.approved;
    if !same {
        return Err(format!(
            "deciding it again gives `{}` and writes {}, the entry says `{}` and {}",
            outcome.verdict.code(),
            outcome.writes_digest(),
            entry.verdict.code(),
            entry.writes
        ));
    }
    log.apply(outcome.writes);
    Ok(())
}

/// What is beyond the checkpoint was never confirmed to anybody.
fn cut_off(
    files: &mut Files,
    reader: &mut BufReader<std::fs::File>,
    replayed: &Replayed,
) -> Result<(), LedgerError> {
    let end = replayed.log.offsets.last().copied().unwrap_or_default();
    if files.end() <= end {
        return Ok(());
    }
    let mut complete = 0;
    while line(reader, files)?.is_some() {
        complete += 1;
        if complete > MAX_BATCH {
            let problem =
                format!("more than {MAX_BATCH} entries lie beyond it: it was replaced by an older one");
            return Err(Corrupt(files).checkpoint(problem));
        }
    }
    tracing::warn!(
        bytes = files.end() - end,
        entries = complete,
        "cutting off what an interrupted commit left at the ledger's end; none of it was confirmed"
    );
    files.truncate(end)
}
