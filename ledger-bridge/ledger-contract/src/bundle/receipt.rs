//! The last line: the anchor's ledger entry and its proof.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use serde_json::value::RawValue;
use trust::{Identity, TrustRoots, UnixTime};

use super::{BundleError, broken};
use crate::{
    approval::{Refusal, proven_entry, signer},
    constitution::Constitution,
    evidence::ProvenEntry,
    memo::{ByBytes, remembered},
    records::{ANCHOR_PAYLOAD, Anchor, Entry, Event},
};

const PLACE: &str = "receipt";
const ALTERED: &str = "it is not in its canonical encoding: a byte of it was altered";

/// Ledgers whose rules a thread remembers to have followed: bundle after bundle of one ledger brings the same changes.
const MAX_CONSTITUTIONS: usize = 64;

thread_local! {
    static CONSTITUTIONS: RefCell<ByBytes<Result<Rc<Constitution>, String>>> =
        RefCell::new(ByBytes::new(MAX_CONSTITUTIONS));
}

/// A receipt that verified by itself; the body is compared with it later.
pub(super) struct Receipt {
    pub entry: Entry,
    /// Index in the log, or in the mirror of a channel.
    pub index: u64,
    /// Where it is in the ledger's order.
    pub place: u64,
    /// The transaction that decided it, where the ledger is a channel.
    pub channel: Option<String>,
    pub anchor: Anchor,
    pub orchestrator: Identity,
    pub size: u64,
    /// The rules at every position of the log, as far as the receipt proves their changes.
    pub constitution: Rc<Constitution>,
}

impl Receipt {
    /// When the evidence was anchored: the time at which the orchestrator's certificates are judged.
    pub fn time(&self) -> UnixTime {
        self.entry.time
    }
}

/// Verifies the anchor: in the log, by an orchestrator, approved.
pub(super) fn verify(line: &[u8], roots: &TrustRoots) -> Result<Receipt, BundleError> {
    let (anchored, changes) = split(line)?;
    let proof = &anchored.proof;
    let constitution = constitution(&anchored, changes, roots)?;
    let roots = &constitution.at(anchored.place()).roots;
    let entry = proven_entry(&anchored, roots)
        .or_else(|refusal| broken(PLACE, format!("{} ({})", refusal.detail, refusal.code)))?;
    if entry.request.payload_type != ANCHOR_PAYLOAD {
        return broken(
            PLACE,
            format!("the entry anchors nothing: its request is a `{}`", entry.request.payload_type),
        );
    }
    let orchestrator = signer(&entry.request, roots, entry.time)
        .or_else(|e| broken(PLACE, format!("the anchor's signature: {e}")))?;
    if orchestrator.role() != "orchestrator" {
        return broken(
            PLACE,
            format!("{orchestrator} has the role `{}`, not `orchestrator`", orchestrator.role()),
        );
    }
    let anchor: Anchor = serde_json::from_slice(&entry.request.payload)
        .or_else(|e| broken(PLACE, format!("the anchor cannot be read: {e}")))?;
    if let Some(rule) = entry.verdict.rules.iter().find(|r| !r.passed) {
        return broken(PLACE, format!("the ledger refused the anchor: {} ({})", rule.detail, rule.code));
    }
    let event = Event::EvidenceAnchored { operation_id: anchor.operation_id.clone(), bundle: anchor.bundle };
    if !entry.verdict.approved || entry.event != Some(event) {
        return broken(PLACE, "the ledger did not accept the anchor");
    }
    let size = checkpoint_size(&proof.checkpoint);
    let (index, place) = (proof.index, anchored.place());
    let channel = anchored.channel.as_ref().map(|c| c.told());
    Ok(Receipt { entry, index, place, channel, anchor, orchestrator, size, constitution })
}

/// The part of an entry that says which ledger it is of.
#[derive(serde::Deserialize)]
struct Of {
    ledger: String,
}

/// A receipt's line ([`crate::evidence::Receipt`]), read as far as each bundle has its own.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts<'a> {
    #[serde(borrow)]
    anchor: &'a RawValue,
    #[serde(borrow)]
    constitution: Option<&'a RawValue>,
}

/// The anchor, and the text of the changes of the rules (empty: there are none), in the one encoding of both together.
fn split(line: &[u8]) -> Result<(ProvenEntry, &str), BundleError> {
    let unreadable = |e: serde_json::Error| BundleError {
        place: PLACE.to_owned(),
        problem: format!("it cannot be read: {e}"),
    };
    let parts: Parts<'_> = serde_json::from_slice(line).map_err(unreadable)?;
    let anchor: ProvenEntry = serde_json::from_str(parts.anchor.get()).map_err(unreadable)?;
    let changes = parts.constitution.map_or("", RawValue::get);
    let own = serde_json::to_vec(&anchor).unwrap_or_default();
    let rest = line.strip_prefix(br#"{"anchor":"#).and_then(|l| l.strip_prefix(own.as_slice()));
    let rest = match changes {
        "" => rest,
        changes => {
            rest.and_then(|l| l.strip_prefix(br#","constitution":"#)?.strip_prefix(changes.as_bytes()))
        }
    };
    match rest {
        Some(b"}") => Ok((anchor, changes)),
        _ => broken(PLACE, ALTERED),
    }
}

/// Follows the changes of the rules that the receipt brings, from the verifier's own roots.
fn constitution(
    anchor: &ProvenEntry,
    changes: &str,
    roots: &TrustRoots,
) -> Result<Rc<Constitution>, BundleError> {
    // Which ledger it is, the anchor says; that all are of one is compared.
    let ledger = serde_json::from_str::<Of>(&anchor.entry).map(|e| e.ledger).unwrap_or_default();
    let follow = || follow(&ledger, changes, roots).map(Rc::new);
    let followed = match serde_json::to_vec(roots) {
        Ok(own) => remembered(
            |f| CONSTITUTIONS.with_borrow_mut(f),
            &[ledger.as_bytes(), own.as_slice(), changes.as_bytes()][..],
            follow,
        ),
        // Strings and numbers always encode.
        Err(_) => follow(),
    };
    followed.or_else(|problem| broken(PLACE, problem))
}

fn follow(ledger: &str, changes: &str, roots: &TrustRoots) -> Result<Constitution, String> {
    let pinned = Constitution::pinned(ledger, roots, BTreeSet::new());
    if changes.is_empty() {
        return Ok(pinned);
    }
    let chain: Vec<ProvenEntry> =
        serde_json::from_str(changes).map_err(|e| format!("the rules at its time cannot be read: {e}"))?;
    if chain.is_empty() || serde_json::to_vec(&chain).unwrap_or_default() != changes.as_bytes() {
        return Err(ALTERED.to_owned());
    }
    let refused = |r: Refusal| format!("the rules at its time: {} ({})", r.detail, r.code);
    pinned.followed(&chain).map_err(refused)
}

/// Second line of a checkpoint whose signature was verified.
fn checkpoint_size(note: &str) -> u64 {
    note.lines().nth(1).and_then(|l| l.parse().ok()).unwrap_or_default()
}
