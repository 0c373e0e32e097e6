//! The decision.

use std::collections::BTreeMap;

use trust::{Digest, Envelope, UnixTime};

pub use crate::request::{MAX_READ_ROUNDS, Malformed, Request, SnapshotError, read_set, snapshot};
use crate::{
    records::{Event, Verdict},
    state::Snapshot,
};

/// The transaction that a request is decided in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxInfo {
    /// Name of the ledger.
    pub ledger: String,
    /// Position of the entry this becomes.
    pub position: u64,
    /// Ledger time; never goes back.
    pub time: UnixTime,
}

/// What a request leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict, with every rule.
    pub verdict: Verdict,
    /// State writes; `None` deletes.
    pub writes: BTreeMap<String, Option<Vec<u8>>>,
    /// What is emitted.
    pub event: Option<Event>,
}

impl Outcome {
    /// What [`crate::records::Entry::writes`] carries: sorted keys, each with a tag (1 put, 0 delete) and its value.
    #[must_use]
    pub fn writes_digest(&self) -> Digest {
        Digest::of_parts(self.writes.iter().flat_map(|(key, value)| {
            let tag: &[u8] = if value.is_some() { &[1] } else { &[0] };
            [key.as_bytes(), tag, value.as_deref().unwrap_or_default()]
        }))
    }
}

/// Decides a request over the state it reads.
#[must_use]
pub fn decide(request: &Envelope, state: &Snapshot, tx: &TxInfo) -> Outcome {
    let _ = (request, state, tx);
    let verdict = Verdict { approved: false, rules: Vec::new(), policy: Digest([0; 32]) };
    Outcome { verdict, writes: BTreeMap::new(), event: None }
}
