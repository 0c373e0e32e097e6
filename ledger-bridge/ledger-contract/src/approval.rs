//! An approval: a ledger entry with its proof, verified by who acts on it.
//!
//! The actuator trusts no ledger client and no ledger host: from its trust roots alone it verifies the log's
//! checkpoint, the inclusion of the entry, the tenant's signature, and that the grant is what the intent asked for.
//! Whether the approval was consumed before is the journal's to say, not this module's.

use std::collections::BTreeSet;

use trust::{Digest, Identity, TrustRoots, UnixTime};

use crate::{
    evidence::ProvenEntry,
    intent::Intent,
    records::{Entry, Grant},
};

/// What the actuator accepts.
#[derive(Debug, Clone, Copy)]
pub struct ActuatorPolicy<'a> {
    /// Organisations and log keys.
    pub roots: &'a TrustRoots,
    /// Name of the ledger whose approvals count.
    pub ledger: &'a str,
    /// Digests of the policy bundles whose decisions are accepted.
    pub policies: &'a BTreeSet<Digest>,
    /// Now.
    pub at: UnixTime,
}

/// An approval that verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    /// The entry.
    pub entry: Entry,
    /// The intent.
    pub intent: Intent,
    /// What it entitles to.
    pub grant: Grant,
    /// Who signed the intent.
    pub tenant_identity: Identity,
    /// Position in the log.
    pub position: u64,
}

/// Why an approval is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the approval is refused ({}): {detail}", .code.as_str())]
pub struct Refusal {
    /// One per cause, stable.
    pub code: RefusalCode,
    /// What was compared with what.
    pub detail: String,
}

/// Causes of a [`Refusal`], in the order in which they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalCode {
    /// No accepted log signed the checkpoint.
    CheckpointSignature,
    /// The entry is not in the tree of the checkpoint.
    Inclusion,
    /// The bytes are not an entry in its one encoding.
    EntryFormat,
    /// The entry or its checkpoint is of another ledger.
    WrongLedger,
    /// The entry says another position than the one it is at.
    Position,
    /// The entry's request is not an intent.
    NotAnIntent,
    /// The tenant's signature or certificate does not verify at the entry's time.
    IntentSignature,
    /// The signer's role is not `tenant`.
    RoleNotAllowed,
    /// The signer speaks for another tenant.
    TenantMismatch,
    /// The verdict is not an approval, a rule did not pass, or there is no grant.
    NotApproved,
    /// The grant is not for this intent.
    GrantMismatch,
    /// Decided under a policy bundle that is not accepted here.
    PolicyNotAccepted,
    /// Too late to start.
    Expired,
    /// The entry lies in the future of who verifies.
    NotYet,
}

impl RefusalCode {
    /// `UPPER_SNAKE_CASE`, as reported and tested for.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CheckpointSignature => "CHECKPOINT_SIGNATURE",
            Self::Inclusion => "INCLUSION",
            Self::EntryFormat => "ENTRY_FORMAT",
            Self::WrongLedger => "WRONG_LEDGER",
            Self::Position => "POSITION",
            Self::NotAnIntent => "NOT_AN_INTENT",
            Self::IntentSignature => "INTENT_SIGNATURE",
            Self::RoleNotAllowed => "ROLE_NOT_ALLOWED",
            Self::TenantMismatch => "TENANT_MISMATCH",
            Self::NotApproved => "NOT_APPROVED",
            Self::GrantMismatch => "GRANT_MISMATCH",
            Self::PolicyNotAccepted => "POLICY_NOT_ACCEPTED",
            Self::Expired => "EXPIRED",
            Self::NotYet => "NOT_YET",
        }
    }
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Verifies an approval.
pub fn verify(approval: &ProvenEntry, policy: &ActuatorPolicy<'_>) -> Result<Approved, Refusal> {
    let _ = (approval, policy);
    Err(Refusal { code: RefusalCode::EntryFormat, detail: "not verified yet".into() })
}
