//! What the API answers: shapes for people and programs; never stored.

use ledger_contract::records::{PackageRecord, Verdict};
use serde::{Deserialize, Serialize};
use trust::{Digest, UnixTime};

/// A request that the ledger has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedView {
    /// Position in the ledger.
    pub position: u64,
    /// Ledger time.
    pub time: UnixTime,
    /// The verdict with every rule.
    pub verdict: Verdict,
    /// NS instance concerned, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns_instance_id: Option<String>,
    /// Signed checkpoint that includes the entry.
    pub checkpoint: String,
}

/// A package that is registered, or stored and not yet registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageView {
    /// Digest of the file.
    pub digest: Digest,
    /// Descriptor id.
    pub descriptor_id: String,
    /// Version.
    pub version: String,
    /// Who signed the package.
    pub provider: String,
    /// Size, bytes; 0 when the content is not here.
    pub size_bytes: u64,
    /// Is its record on the ledger?
    pub registered: bool,
    /// The record as the content makes it (what the provider signs to register).
    pub record: PackageRecord,
}

/// An intent and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentView {
    /// Its id.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// Service.
    pub service: String,
    /// `deploy`, `scale`, `terminate`.
    pub action: String,
    /// Position of its decision.
    pub position: u64,
    /// The decision.
    pub verdict: Verdict,
    /// The operation that carries it out, once accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationView>,
}

/// An operation occurrence (SOL003 `VnfLcmOpOcc`, SOL005 `NsLcmOpOcc`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationView {
    /// Operation id.
    pub id: String,
    /// NS instance.
    pub ns_instance_id: String,
    /// `deploy`, `scale`, `terminate`.
    pub action: String,
    /// SOL003 state: `STARTING`, `PROCESSING`, `COMPLETED`, `FAILED_TEMP`, `FAILED`, `ROLLING_BACK`, `ROLLED_BACK`.
    pub state: String,
    /// Site chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Steps done and steps in all.
    pub progress: (u32, u32),
    /// What went wrong, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Is it closed *and* anchored?
    pub anchored: bool,
    /// When it was accepted.
    pub accepted_at: UnixTime,
    /// From acceptance to close, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// A network service instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NsView {
    /// NS instance id.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// Service name.
    pub service: String,
    /// SOL005 `nsState`: `NOT_INSTANTIATED` or `INSTANTIATED`; or `BROKEN`, `ISOLATED`.
    pub state: String,
    /// Site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Id of its NSD.
    pub nsd: String,
    /// VDU instances: (object key, state).
    pub instances: Vec<(String, String)>,
    /// Its operations, oldest first.
    pub operations: Vec<OperationView>,
    /// End of its lease. It is not ended then by itself: it can no longer be scaled, and is shown as overdue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<UnixTime>,
    /// Was the SLA met at the last measurement?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla_met: Option<bool>,
}

/// One line of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineLine {
    /// When, ms since the epoch.
    pub at_ms: u64,
    /// Operation it belongs to.
    pub operation_id: String,
    /// `decision`, `plan`, `step`, `attestation`, `measurement`, `outcome`, `anchor`, `recovery`, `refusal`.
    pub kind: String,
    /// `done`, `failed`, `started`, `undone`, `refused`.
    pub state: String,
    /// What, for people.
    pub what: String,
    /// How long it took, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Where the evidence is: `bundle line 4`, `ledger entry 17`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteView {
    /// Name.
    pub name: String,
    /// Driver: `host`.
    pub driver: String,
    /// ISO 3166-1 alpha-2.
    pub jurisdiction: String,
    /// Latency from the tenants, µs.
    pub latency_us: u64,
    /// Room in all.
    pub total: vim::Resources,
    /// Used.
    pub used: vim::Resources,
    /// Can it attest, and is its key registered?
    pub attestation: String,
    /// Why it cannot be used now, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// An approval that was delivered by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveredView {
    /// The operation that was accepted.
    pub operation_id: String,
}
