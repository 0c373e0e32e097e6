//! What the gateway asks of the orchestrator. It decides nothing itself: intents go to the ledger, and what became of them
//! is read here each time it is asked for. Rows are what neither the ledger nor OSM keeps: drafts, names, who asked.

use async_trait::async_trait;
use ledger_contract::records::PackageRecord;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trust::{Digest, Envelope};

/// Why the orchestrator cannot say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Trouble {
    /// Would the same request later be taken? Else it is refused for good.
    pub later: bool,
    /// Stable code.
    pub code: String,
    /// Why, and what to do.
    pub detail: String,
}

/// What the ledger decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Approved?
    pub approved: bool,
    /// The code of the rule that refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// The rule's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// How an operation of ours does (SOL003 states).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// `STARTING`, `PROCESSING`, `COMPLETED`, `FAILED_TEMP`, `FAILED`, `ROLLING_BACK`, `ROLLED_BACK`.
    pub state: String,
    /// Its intent.
    pub intent_id: String,
    /// `deploy`, `scale`, …
    pub action: String,
    /// Steps done, and in all.
    pub steps: (u32, u32),
    /// What went wrong.
    pub problem: Option<String>,
    /// When it was accepted, ms.
    pub accepted_ms: u64,
    /// When it was closed, ms.
    pub closed_ms: Option<u64>,
}

/// A service of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Governed {
    /// NS instance id: the name of its record in OSM, if OSM has one.
    pub ns: String,
    /// Whose.
    pub tenant: String,
    /// Its name.
    pub service: String,
    /// `INSTANTIATING`, `INSTANTIATED`, `NOT_INSTANTIATED`, `BROKEN`, `ISOLATED`.
    pub state: String,
    /// Id of its NSD.
    pub nsd: String,
    /// Instances: member, VDU, index, state.
    pub instances: Vec<(String, String, u32, String)>,
    /// Its operations, oldest first.
    pub operations: Vec<Progress>,
}

impl Governed {
    /// Is it there, or being made or removed?
    #[must_use]
    pub fn lives(&self) -> bool {
        self.state != "NOT_INSTANTIATED"
    }
}

/// A network service record that a client made here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NsRow {
    /// What clients know it by.
    pub id: String,
    /// OSM's project, by name.
    pub project: String,
    /// OSM's project, by id.
    pub project_id: String,
    /// Who made it.
    pub user: String,
    /// `nsName`.
    pub name: String,
    /// Tenant.
    pub tenant: String,
    /// The service's name there.
    pub service: String,
    /// What it was made with.
    pub request: Value,
    /// Its NSD's package, and the NSD's id in OSM.
    pub nsd: (Digest, String),
    /// NS instance id of the newest deployment that was not refused.
    pub ns: Option<String>,
    /// When, ms.
    pub created_ms: u64,
    /// Removed: kept for its operations' sake.
    pub removed: bool,
}

/// An operation that a client asked for here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpRow {
    /// What clients know it by ([`crate::ids::operation`] of the intent).
    pub id: String,
    /// The record that it is about, by its id.
    pub record: String,
    /// `instantiate`, `scale`, …
    pub kind: String,
    /// Its intent.
    pub intent_id: String,
    /// The signed intent: sent again as it is until the ledger has decided.
    pub envelope: String,
    /// Who asked.
    pub user: String,
    /// What was asked.
    pub params: Value,
    /// When, ms.
    pub at_ms: u64,
    /// Once decided.
    pub decision: Option<Decision>,
    /// The record goes when it has completed.
    pub autoremove: bool,
    /// The client was told of the refusal instead of the operation: it is none to it.
    #[serde(default)]
    pub hidden: bool,
}

/// A call that was refused, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCall {
    /// `nslcm/v1/ns_instances`.
    pub topic: String,
    /// Verb.
    pub method: String,
    /// OSM's user; empty: nobody known.
    pub user: String,
    /// OSM's project.
    pub project: String,
    /// Stable code.
    pub code: String,
    /// Why.
    pub detail: String,
    /// NS instance that it was about.
    pub ns: Option<String>,
}

/// What the gateway needs of the orchestrator.
#[async_trait]
pub trait Orchestrator: Send + Sync + 'static {
    /// Submits a signed intent: decided and durable when this returns. The same envelope again has the same answer.
    async fn submit(&self, envelope: Envelope) -> Result<Decision, Trouble>;
    /// The operation that carries an intent out; `None`: not begun, or never.
    async fn progress(&self, intent_id: &str) -> Result<Option<Progress>, Trouble>;
    /// A service, by NS instance id.
    async fn service(&self, ns: &str) -> Result<Option<Governed>, Trouble>;
    /// A tenant's services that live, at most [`crate::MAX_SERVICES`].
    async fn services(&self, tenant: &str) -> Result<Vec<Governed>, Trouble>;
    /// Who is `tenant` of the service that this NS instance is, if it is any.
    async fn tenant_of(&self, ns: &str) -> Result<Option<String>, Trouble> {
        Ok(self.service(ns).await?.map(|s| s.tenant))
    }
    /// A registered package.
    async fn package(&self, digest: &Digest) -> Result<Option<PackageRecord>, Trouble>;
    /// Has OSM hold a registered package, marked as ours; its id there.
    async fn onboard(&self, package: &PackageRecord) -> Result<String, Trouble>;

    /// Keeps a record, durably.
    fn put_record(&self, row: &NsRow) -> Result<(), Trouble>;
    /// A record, removed or not.
    fn record(&self, id: &str) -> Result<Option<NsRow>, Trouble>;
    /// A project's records that are not removed, oldest first, at most [`crate::MAX_SERVICES`].
    fn records(&self, project: &str) -> Result<Vec<NsRow>, Trouble>;
    /// The record whose newest deployment this NS instance is.
    fn record_of(&self, ns: &str) -> Result<Option<NsRow>, Trouble>;
    /// Keeps an operation and the record as it is with it, in one transaction.
    fn put_operation(&self, row: &OpRow, record: Option<&NsRow>) -> Result<(), Trouble>;
    /// An operation.
    fn operation(&self, id: &str) -> Result<Option<OpRow>, Trouble>;
    /// A record's operations, oldest first.
    fn operations(&self, record: &str) -> Result<Vec<OpRow>, Trouble>;
    /// Operations that the ledger has not decided, oldest first.
    fn undecided(&self) -> Result<Vec<OpRow>, Trouble>;

    /// A refusal for the timeline and the metrics; does not wait for the disk.
    fn refused(&self, call: RefusedCall);
    /// An answered request: what kind it was (`read`, `intent`, `passed`, …) and the answer's status.
    fn answered(&self, kind: &'static str, status: u16, took: std::time::Duration);
    /// Is it stopping? Then nothing new is taken.
    fn draining(&self) -> bool;
    /// Wall clock, ms.
    fn now_ms(&self) -> u64;
}
