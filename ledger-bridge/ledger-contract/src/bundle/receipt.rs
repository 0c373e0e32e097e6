//! The last line: the anchor's ledger entry and its proof.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use trust::{Identity, TrustRoots, UnixTime};

use super::{BundleError, broken};
use crate::{
    approval::{Refusal, proven_entry, signer},
    constitution::Constitution,
    evidence,
    memo::{ByBytes, remembered},
    records::{ANCHOR_PAYLOAD, Anchor, Entry, Event},
};

const PLACE: &str = "receipt";

/// Ledgers whose rules a thread remembers to have followed: bundle after bundle of one ledger brings the same changes.
const MAX_CONSTITUTIONS: usize = 64;

thread_local! {
    static CONSTITUTIONS: RefCell<ByBytes<Result<Rc<Constitution>, Refusal>>> =
        RefCell::new(ByBytes::new(MAX_CONSTITUTIONS));
}

/// A receipt that verified by itself; the body is compared with it later.
pub(super) struct Receipt {
    pub entry: Entry,
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
    let receipt: evidence::Receipt =
        serde_json::from_slice(line).or_else(|e| broken(PLACE, format!("it cannot be read: {e}")))?;
    if serde_json::to_vec(&receipt).unwrap_or_default() != line {
        return broken(PLACE, "it is not in its canonical encoding: a byte of it was altered");
    }
    let proof = &receipt.anchor.proof;
    let constitution = constitution(&receipt, roots)?;
    let roots = &constitution.at(proof.index).roots;
    let entry = proven_entry(&receipt.anchor, roots)
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
    Ok(Receipt { entry, anchor, orchestrator, size, constitution })
}

/// The part of an entry that says which ledger it is of.
#[derive(serde::Deserialize)]
struct Of {
    ledger: String,
}

/// Follows the changes of the rules that the receipt brings, from the verifier's own roots.
fn constitution(receipt: &evidence::Receipt, roots: &TrustRoots) -> Result<Rc<Constitution>, BundleError> {
    // Which ledger it is, the anchor says; that all are of one is compared.
    let ledger = serde_json::from_str::<Of>(&receipt.anchor.entry).map(|e| e.ledger).unwrap_or_default();
    let follow = || {
        let pinned = Constitution::pinned(&ledger, roots, BTreeSet::new());
        pinned.followed(&receipt.constitution).map(Rc::new)
    };
    let bytes = (serde_json::to_vec(roots), serde_json::to_vec(&receipt.constitution));
    let followed = match &bytes {
        (Ok(roots), Ok(changes)) => remembered(
            |f| CONSTITUTIONS.with_borrow_mut(f),
            &[ledger.as_bytes(), roots.as_slice(), changes.as_slice()][..],
            follow,
        ),
        // Strings and numbers always encode.
        _ => follow(),
    };
    followed.or_else(|refusal| {
        broken(PLACE, format!("the rules at its time: {} ({})", refusal.detail, refusal.code))
    })
}

/// Second line of a checkpoint whose signature was verified.
fn checkpoint_size(note: &str) -> u64 {
    note.lines().nth(1).and_then(|l| l.parse().ok()).unwrap_or_default()
}
