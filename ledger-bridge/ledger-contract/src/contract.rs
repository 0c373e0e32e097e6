//! The decision: rules over the state that the request's read set names, a verdict that lists them all, and writes.
//!
//! [`decide`] is a pure function of its arguments: the embedded log runs it again over every entry when it opens, and
//! Fabric's endorsers run it each for themselves; all must get the same bytes. It never reads anything else, never
//! panics, and on any doubt refuses. Tests: `tests/decide.rs` (refusals by code, quota life cycle, determinism).

use std::collections::BTreeMap;

use trust::{Digest, Envelope, UnixTime};

use crate::{
    anchoring,
    authority::{Context, NoContext},
    governance, intents,
    records::{ENTRY_VERSION, Entry, Event, Verdict},
    registry, standing,
    state::{BadRecord, Snapshot},
    verdict::{Rules, fault},
};
pub use crate::{
    prepared::Prepared,
    request::{
        MAX_READ_ROUNDS, MAX_REQUEST_BYTES, Malformed, Reading, Request, SnapshotError, read_set, snapshot,
        snapshot_of,
    },
    verdict::{NOT_APPLICABLE, NOT_EVALUATED, WAIVED},
};

/// The transaction that a request is decided in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxInfo {
    /// Version of the rules that decide: the entry's ([`crate::records::Entry::v`]). A log that an older program wrote
    /// is decided again by the rules of its time.
    pub v: u32,
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

    /// The entry that the decision of `request` in `tx` makes, and what it writes.
    #[must_use]
    pub fn into_entry(self, tx: TxInfo, request: Envelope) -> (Entry, BTreeMap<String, Option<Vec<u8>>>) {
        let writes = self.writes_digest();
        let TxInfo { v, ledger, position, time } = tx;
        let entry =
            Entry { v, ledger, position, time, request, verdict: self.verdict, event: self.event, writes };
        (entry, self.writes)
    }
}

/// Decides a request over the state it reads ([`read_set`]).
#[must_use]
pub fn decide(request: &Envelope, state: &Snapshot, tx: &TxInfo) -> Outcome {
    match Prepared::read(request.clone()) {
        Ok(prepared) => decide_prepared(&prepared, state, tx),
        Err(e) => refuse("form/request", "INVALID_REQUEST", &e.to_string(), Digest([0; 32])),
    }
}

/// [`decide`], of a request that was read before: the same bytes.
#[must_use]
pub fn decide_prepared(request: &Prepared, state: &Snapshot, tx: &TxInfo) -> Outcome {
    let parsed = request.request();
    if let Request::Genesis(genesis) = parsed {
        return registry::genesis(request.envelope(), genesis, state, tx);
    }
    if !(1..=ENTRY_VERSION).contains(&tx.v) {
        let detail = format!("version {} of the rules; this program knows 1 to {ENTRY_VERSION}", tx.v);
        return refuse("ledger/state", "UNKNOWN_VERSION", &detail, Digest([0; 32]));
    }
    let context = match Context::new(request, state, tx) {
        Ok(context) => context,
        Err(NoContext { code, detail, policy }) => return refuse("ledger/state", code, &detail, policy),
    };
    let outcome = match parsed {
        Request::Genesis(_) => return refuse("form/request", "INVALID_REQUEST", "a genesis", context.policy),
        Request::Package(record) => registry::package(&context, record),
        Request::AttestationKey(ak) => registry::attestation_key(&context, ak),
        Request::Intent(intent) => intents::intent(&context, intent),
        Request::Anchor(anchor) => anchoring::anchor(&context, anchor),
        Request::Standing(grant) => standing::grant(&context, grant),
        Request::Governance(change) => governance::change(&context, change),
    };
    outcome.unwrap_or_else(|e: BadRecord| {
        refuse("ledger/state", "STATE_DAMAGED", &e.to_string(), context.policy)
    })
}

fn refuse(rule: &str, code: &str, detail: &str, policy: Digest) -> Outcome {
    let mut rules = Rules::new(1);
    rules.check(rule, fault(code, detail));
    rules.refused(policy)
}
