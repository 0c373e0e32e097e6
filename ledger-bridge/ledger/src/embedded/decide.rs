//! Deciding over the derived state and what a group has done to it so far: the same for new entries and for old ones.

use ledger_contract::{
    Snapshot, TxInfo,
    contract::{Outcome, Prepared, SnapshotError, decide_prepared, snapshot_of},
    records::Entry,
};
use trust::Digest;

use super::{
    recent::Writes,
    state::{Changes, State, StateError},
};
use crate::LedgerError;

/// Why there is no decision.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoDecision {
    /// The request.
    #[error("{0}")]
    Malformed(ledger_contract::contract::Malformed),
    /// The state.
    #[error("the derived state cannot be read: {0}")]
    State(#[from] StateError),
}

/// What was decided and is not in the derived state yet.
pub(crate) trait Since {
    /// The value written last; `Some(None)`: deleted.
    fn written(&self, key: &str) -> Option<Option<Vec<u8>>>;
    /// Where a request was decided.
    fn decided(&self, digest: &Digest) -> Option<u64>;
}

impl Since for Changes {
    fn written(&self, key: &str) -> Option<Option<Vec<u8>>> {
        self.state.get(key).cloned()
    }

    fn decided(&self, digest: &Digest) -> Option<u64> {
        self.seen.get(digest).copied()
    }
}

fn read(request: &Prepared, state: &State, since: &impl Since) -> Result<Snapshot, NoDecision> {
    let value = |key: &str| match since.written(key) {
        Some(written) => Ok(written),
        None => state.get(key),
    };
    snapshot_of(request, value).map_err(|e| match e {
        SnapshotError::Malformed(m) => NoDecision::Malformed(m),
        SnapshotError::Read(e) => NoDecision::State(e),
    })
}

/// Decides a request.
pub(crate) fn outcome(
    request: &Prepared,
    tx: &TxInfo,
    state: &State,
    since: &impl Since,
) -> Result<Outcome, NoDecision> {
    Ok(decide_prepared(request, &read(request, state, since)?, tx))
}

/// Where the request was decided before.
pub(crate) fn seen(digest: &Digest, state: &State, since: &impl Since) -> Result<Option<u64>, StateError> {
    match since.decided(digest) {
        Some(position) => Ok(Some(position)),
        None => state.seen(digest),
    }
}

impl Changes {
    /// Takes up what an entry does.
    pub fn add(&mut self, digest: Digest, position: u64, event: bool, writes: Writes) {
        self.seen.insert(digest, position);
        if event {
            self.events.push(position);
        }
        self.state.extend(writes);
    }

    /// Takes up what later entries do.
    pub fn extend(&mut self, later: Self) {
        self.seen.extend(later.seen);
        self.events.extend(later.events);
        self.state.extend(later.state);
    }
}

/// Decides an entry of the log again; what is wrong with it otherwise.
pub(crate) fn again(
    text: &str,
    position: u64,
    name: &str,
    state: &State,
    group: &mut Changes,
) -> Result<Entry, Again> {
    let wrong = |problem: String| Again::Entry(problem);
    let entry: Entry = serde_json::from_str(text).map_err(|e| wrong(format!("it cannot be read: {e}")))?;
    if entry.to_bytes() != text.as_bytes() {
        return Err(wrong("it is not in its canonical encoding".to_owned()));
    }
    if entry.position != position || entry.ledger != name {
        return Err(wrong(format!("it says ledger `{}`, position {}", entry.ledger, entry.position)));
    }
    let tx = TxInfo { v: entry.v, ledger: entry.ledger.clone(), position, time: entry.time };
    let request = Prepared::read(entry.request.clone()).map_err(|m| wrong(m.to_string()))?;
    let outcome = outcome(&request, &tx, state, group).map_err(|e| match e {
        NoDecision::Malformed(m) => wrong(m.to_string()),
        NoDecision::State(e) => Again::State(e),
    })?;
    let same = outcome.writes_digest() == entry.writes
        && outcome.event == entry.event
        && outcome.verdict.approved == entry.verdict.approved;
    if !same {
        return Err(wrong(format!(
            "deciding it again gives `{}` and writes {}, the entry says `{}` and {}",
            outcome.verdict.code(),
            outcome.writes_digest(),
            entry.verdict.code(),
            entry.writes
        )));
    }
    let digest = entry.request.digest();
    if seen(&digest, state, group)?.is_none() {
        group.add(digest, position, outcome.event.is_some(), outcome.writes);
        return Ok(entry);
    }
    Err(wrong("the same request was decided before".to_owned()))
}

/// Why an entry was not decided again.
#[derive(Debug)]
pub(crate) enum Again {
    /// The entry is wrong.
    Entry(String),
    /// The state failed.
    State(StateError),
}

impl From<StateError> for Again {
    fn from(e: StateError) -> Self {
        Self::State(e)
    }
}

impl From<NoDecision> for LedgerError {
    fn from(e: NoDecision) -> Self {
        match e {
            NoDecision::Malformed(m) => Self::Malformed(m),
            NoDecision::State(e) => e.into(),
        }
    }
}

impl From<StateError> for LedgerError {
    fn from(e: StateError) -> Self {
        Self::State { problem: e.to_string() }
    }
}
