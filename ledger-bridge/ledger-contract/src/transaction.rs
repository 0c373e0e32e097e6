//! What a transaction of a shared ledger (Fabric) carries: requests in, decided entries without them out.
//!
//! A shared ledger shows every transaction to all its members, for ever. So the requests travel beside the transaction
//! (Fabric's transient data), and what it keeps of each is its digest, the verdict, what was emitted, and the digest of the
//! writes: a [`SealedEntry`]. Whoever has the request makes the [`Entry`] of it again, byte for byte.
//!
//! One transaction decides up to [`MAX_REQUESTS`] requests, each over the state that the one before it left. That is how
//! requests of one tenant, which its quota puts in an order, do not invalidate each other (docs/adr/0030).
//!
//! Ordering comes after deciding there, so an entry does not know its place: [`Entry::position`] is a name
//! ([`position_of`]), unique and not ascending. Tests: below, and those of `mandate-chaincode`.

use serde::{Deserialize, Serialize};
use trust::{Digest, Envelope, UnixTime};

use crate::records::{Entry, Event, Verdict};

/// Version of [`Answer`], [`Before`] and [`Notice`].
pub const TRANSACTION_VERSION: u32 = 1;
/// Most requests of one transaction: [`position_of`] has 6 bits for them, and each takes some ms to decide.
pub const MAX_REQUESTS: usize = 64;
/// Largest difference of a transaction's time and the clock of who decides it, s: the time is the submitter's word.
pub const MAX_SKEW_S: u64 = 300;
/// Key of the transient data: a JSON list of envelopes.
pub const REQUESTS: &str = "requests";
/// Key of the transient data: name of the private data collection that keeps the envelopes; absent: nobody keeps them.
pub const COLLECTION: &str = "collection";
/// Name of the event of a transaction that made entries; its payload is a [`Notice`].
pub const EVENT: &str = "mandate";

/// `request/<digest>`: a [`Before`]. The host's, not the contract's: no rule reads it.
#[must_use]
pub fn request_key(request: &Digest) -> String {
    format!("request/{request}")
}

/// Where a request was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    /// Version.
    pub v: u32,
    /// Transaction id.
    pub tx: String,
    /// Its entry's.
    pub position: u64,
}

/// An entry without its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedEntry {
    /// See [`Entry::v`].
    pub v: u32,
    /// See [`Entry::ledger`].
    pub ledger: String,
    /// See [`position_of`].
    pub position: u64,
    /// The transaction's time.
    pub time: UnixTime,
    /// Digest of the request, signatures and certificates included.
    pub request: Digest,
    /// What was decided.
    pub verdict: Verdict,
    /// What was emitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    /// Digest over this entry's state writes.
    pub writes: Digest,
}

/// The request is another one than was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the entry decides request {sealed}, this is {found}")]
pub struct OtherRequest {
    /// What was decided.
    pub sealed: Digest,
    /// What was brought.
    pub found: Digest,
}

impl SealedEntry {
    /// Takes the request out.
    #[must_use]
    pub fn seal(entry: Entry) -> Self {
        let Entry { v, ledger, position, time, request, verdict, event, writes } = entry;
        Self { v, ledger, position, time, request: request.digest(), verdict, event, writes }
    }

    /// The leaf of a mirror's tree: always the same bytes for the same entry.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and maps with text keys always encode.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Puts the request back: the very entry that was sealed.
    pub fn open(self, request: Envelope) -> Result<Entry, OtherRequest> {
        let found = request.digest();
        let Self { v, ledger, position, time, request: sealed, verdict, event, writes } = self;
        match found == sealed {
            true => Ok(Entry { v, ledger, position, time, request, verdict, event, writes }),
            false => Err(OtherRequest { sealed, found }),
        }
    }
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Decided {
    /// It is an entry, approved or refused.
    Entry {
        /// It.
        entry: Box<SealedEntry>,
    },
    /// The same envelope was decided before; nothing is written.
    Before {
        /// Where.
        before: Before,
    },
    /// It is no request; nothing is written.
    Malformed {
        /// Why.
        problem: String,
    },
    /// Nobody known to the ledger signed it; nothing is written.
    Unauthenticated {
        /// Every rule.
        verdict: Verdict,
    },
}

/// What became of the requests of a transaction, in their order: its response's payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Version.
    pub v: u32,
    /// One for each request.
    pub decided: Vec<Decided>,
}

/// What a transaction's event says; the rest is in its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// Version.
    pub v: u32,
    /// Positions of its entries that emitted something.
    pub events: Vec<u64>,
    /// Positions of its other entries.
    pub others: Vec<u64>,
}

/// The smallest name: [`position_of`] gives none below, and no ledger has so many entries.
pub const FIRST_NAME: u64 = 1 << 52;

/// The name of the entry that request `index` of a transaction makes: [`FIRST_NAME`], 46 bits of the transaction id
/// (hexadecimal), 6 of the index. It fits into 53 bits, the integers that every reader of JSON keeps exact, and is never
/// an index of an entry; 0 is the genesis' alone. `None`: no transaction id, or an index beyond [`MAX_REQUESTS`].
#[must_use]
pub fn position_of(tx_id: &str, index: usize) -> Option<u64> {
    if index >= MAX_REQUESTS {
        return None;
    }
    let bits = u64::from_str_radix(tx_id.get(..12)?, 16).ok()? >> 2;
    Some(FIRST_NAME | (bits << 6) | u64::try_from(index).ok()?)
}

/// Bits of a place that count transactions of a block: Fabric's default is 500 to a block.
const TRANSACTION_BITS: u32 = 14;
/// Bits of a place that count the decisions of a transaction.
const DECISION_BITS: u32 = 6;

/// Where a decision is in the channel's order: by block, transaction, and decision. Below [`FIRST_NAME`]: 32 bits for the block,
/// 27 years of five each second. `None`: beyond these bounds.
#[must_use]
pub fn place_of(block: u64, transaction: u32, decided: u32) -> Option<u64> {
    let fits = block < 1 << 32 && transaction < 1 << TRANSACTION_BITS && decided < 1 << DECISION_BITS;
    let in_block = (u64::from(transaction) << DECISION_BITS) | u64::from(decided);
    fits.then_some((block << (TRANSACTION_BITS + DECISION_BITS)) | in_block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_exact_in_json_and_never_the_genesis() {
        let id = |c: &str| c.repeat(64);
        assert_eq!(position_of(&id("0"), 0), Some(FIRST_NAME));
        assert_eq!(position_of(&id("f"), 63), Some((1 << 53) - 1));
        assert_eq!(position_of(&id("a"), 1).unwrap() - position_of(&id("a"), 0).unwrap(), 1);
        assert_eq!(position_of(&id("f"), 64), None);
        for bad in ["", "0123456789a", "gggggggggggggggg", "ééééééé"] {
            assert_eq!(position_of(bad, 0), None, "{bad}");
        }
    }

    #[test]
    fn places_ascend_and_are_no_names() {
        let of = |b, t, d| place_of(b, t, d).unwrap();
        assert!(of(0, 0, 1) < of(0, 1, 0) && of(0, (1 << 14) - 1, 63) < of(1, 0, 0));
        assert_eq!(of((1 << 32) - 1, (1 << 14) - 1, 63), FIRST_NAME - 1);
        for beyond in [place_of(1 << 32, 0, 0), place_of(0, 1 << 14, 0), place_of(0, 0, 64)] {
            assert_eq!(beyond, None);
        }
    }

    #[test]
    fn a_sealed_entry_opens_with_its_request_alone() {
        let request = |payload: &[u8]| Envelope {
            payload_type: "application/x".into(),
            payload: payload.to_vec(),
            signatures: Vec::new(),
        };
        let verdict = Verdict { approved: false, rules: vec![], policy: Digest([0; 32]) };
        let writes = Digest::of("writes");
        let entry = Entry {
            v: 4,
            ledger: "l".into(),
            position: 64,
            time: UnixTime(1),
            request: request(b"a"),
            verdict,
            event: None,
            writes,
        };
        let sealed = SealedEntry::seal(entry.clone());
        assert!(!serde_json::to_string(&sealed).unwrap().contains("payload"));
        assert_eq!(sealed.clone().open(request(b"a")).unwrap().to_bytes(), entry.to_bytes());
        assert_eq!(sealed.open(request(b"b")).unwrap_err().found, request(b"b").digest());
    }
}
