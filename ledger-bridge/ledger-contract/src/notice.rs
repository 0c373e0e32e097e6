//! What an orchestrator learns from the ledger besides approvals: standing grants, and what was taken back.
//!
//! Verified as an approval is: from the trust roots alone, the log's checkpoint, the inclusion of the entry, the
//! signatures of who asked, the policy that decided. Whether as many signed as the policy asks for was the ledger's to
//! decide; that it was decided under an accepted policy is checked here.
//!
//! Pure. Tests: `tests/notice.rs`.

use trust::Identity;

use crate::{
    approval::{ActuatorPolicy, Refusal, RefusalCode, proven_entry, signer},
    evidence::ProvenEntry,
    records::{
        Change, Entry, Event, GOVERNANCE_PAYLOAD, Governance, Revocable, STANDING_PAYLOAD, StandingGrant,
    },
};

/// A notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The orchestrator may act by itself.
    Standing(Box<StandingGrant>),
    /// It may no longer.
    StandingRevoked {
        /// The standing grant.
        id: String,
    },
    /// An approved intent was taken back.
    IntentRevoked {
        /// The intent.
        id: String,
        /// Why.
        reason: String,
    },
}

/// A notice that verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its entry.
    pub entry: Entry,
    /// Who asked first.
    pub by: Identity,
    /// What it says.
    pub notice: Notice,
}

fn refused<T>(code: RefusalCode, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, detail: detail.into() })
}

/// Verifies an entry; `None` when it is none of these.
pub fn verify(proven: &ProvenEntry, policy: &ActuatorPolicy<'_>) -> Result<Option<Verified>, Refusal> {
    let rules = policy.constitution;
    let roots = &rules.at(proven.place()).roots;
    let entry = proven_entry(proven, roots)?;
    let Some(event) = entry.event.clone() else { return Ok(None) };
    let notice = match event {
        Event::StandingGranted { grant } => Notice::Standing(grant),
        Event::StandingRevoked { id } => Notice::StandingRevoked { id },
        Event::IntentRevoked { intent_id, reason } => Notice::IntentRevoked { id: intent_id, reason },
        _ => return Ok(None),
    };
    if entry.ledger != rules.ledger() {
        let detail = format!("it is of ledger `{}`, `{}` counts here", entry.ledger, rules.ledger());
        return refused(RefusalCode::WrongLedger, detail);
    }
    let by = signer(&entry.request, roots, entry.time)
        .or_else(|e| refused(RefusalCode::IntentSignature, format!("the request's signature: {e}")))?;
    if rules.revoked_since(&by) {
        return refused(RefusalCode::SignerRevoked, format!("the certificate of {by} was revoked since"));
    }
    if !entry.verdict.approved || entry.verdict.rules.iter().any(|r| !r.passed) {
        return refused(RefusalCode::NotApproved, "the verdict is not an approval");
    }
    let decided_by = entry.verdict.policy;
    if !rules.accepts(proven.place(), &decided_by) {
        let detail = format!("decided under policy bundle {decided_by}, which is not accepted here");
        return refused(RefusalCode::PolicyNotAccepted, detail);
    }
    asked_for(&entry, &notice, &by)?;
    Ok(Some(Verified { entry, by, notice }))
}

/// Does the notice say what was asked for?
fn asked_for(entry: &Entry, notice: &Notice, by: &Identity) -> Result<(), Refusal> {
    let payload = &entry.request.payload;
    let unreadable = |e: serde_json::Error| Refusal {
        code: RefusalCode::GrantMismatch,
        detail: format!("the request cannot be read: {e}"),
    };
    let same = match notice {
        Notice::Standing(grant) => {
            let asked: StandingGrant = serde_json::from_slice(payload).map_err(unreadable)?;
            let speaks = by.role() == "operator" || (by.role() == "tenant" && by.tenant() == asked.tenant);
            if !speaks {
                return refused(RefusalCode::TenantMismatch, format!("{by} grants for `{}`", asked.tenant));
            }
            entry.request.payload_type == STANDING_PAYLOAD && asked == **grant
        }
        Notice::StandingRevoked { id } => revoked(entry, payload)
            .map_err(unreadable)?
            .is_some_and(|what| matches!(what, Revocable::StandingGrant { id: asked } if asked == *id)),
        Notice::IntentRevoked { id, .. } => revoked(entry, payload)
            .map_err(unreadable)?
            .is_some_and(|what| matches!(what, Revocable::Intent { id: asked } if asked == *id)),
    };
    match same {
        true => Ok(()),
        false => refused(RefusalCode::GrantMismatch, "it says something else than what was asked for"),
    }
}

fn revoked(entry: &Entry, payload: &[u8]) -> Result<Option<Revocable>, serde_json::Error> {
    if entry.request.payload_type != GOVERNANCE_PAYLOAD {
        return Ok(None);
    }
    let asked: Governance = serde_json::from_slice(payload)?;
    Ok(match asked.change {
        Change::Revoke { what } => Some(what),
        _ => None,
    })
}
