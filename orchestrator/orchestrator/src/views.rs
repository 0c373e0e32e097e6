//! What the API answers: shapes for people and programs; never stored.

use std::collections::BTreeMap;

use ledger_contract::records::{PackageRecord, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trust::{Digest, UnixTime};

/// A request that the ledger has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperationView {
    /// Operation id.
    pub id: String,
    /// The tenant whose service it is.
    #[serde(default)]
    pub tenant: String,
    /// The intent that it carries out.
    #[serde(default)]
    pub intent_id: String,
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
    /// `FAILED_TEMP`, `FAILED`: the objects that it did not deal with as it should, exactly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<String>,
    /// Is it closed *and* anchored?
    pub anchored: bool,
    /// When it was accepted.
    pub accepted_at: UnixTime,
    /// From acceptance to close, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// Why a person has an operation tried again, taken back or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectionView {
    /// For the operation's record and its evidence; at most [`MAX_REASON`] characters.
    #[schemars(length(min = 1, max = 1000))]
    pub reason: String,
}

/// Longest reason of a direction, characters: a paragraph; it is kept in the evidence for good.
pub const MAX_REASON: usize = 1000;

/// What would be done about an intent if it were approved now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanView {
    /// NS instance that it is, or would be.
    pub ns_instance_id: String,
    /// `deploy`, `scale`, `terminate`, …
    pub action: String,
    /// Is there a plan?
    pub feasible: bool,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What, where, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Where the service's traffic would come in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Every step, in order.
    pub steps: Vec<PlannedStepView>,
    /// Where the members would go, and why; absent when nothing is placed anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementView>,
    /// What the policy demands of a site's trustworthiness, and what each site has of it; absent when it demands nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demands: Option<TableView>,
}

/// A step of a plan that nobody carries out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedStepView {
    /// Number.
    pub id: u32,
    /// What it would do, for people.
    pub what: String,
    /// `ensure network`, `remove compute`, `attest`, …
    pub action: String,
    /// Object it is about, or empty.
    pub object: String,
    /// Where.
    pub site: String,
    /// Steps that must be done before.
    pub needs: Vec<u32>,
    /// What would take it back; absent: nothing to take back, or no way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
}

/// Where members would go, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlacementView {
    /// Site of each member; empty: there is no place.
    pub sites: BTreeMap<String, String>,
    /// Z, and how good it is; or what stands in the way.
    pub headline: String,
    /// What Z is made of; the reason against every other site.
    pub tables: Vec<TableView>,
}

/// A table for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TableView {
    /// What it shows.
    pub title: String,
    /// Heads.
    pub columns: Vec<String>,
    /// As many cells each as there are columns.
    pub rows: Vec<Vec<String>>,
}

/// A network service instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// VDU instances: object key, and the service's state, or what the last look at the site found wrong (`DOWN`, `MISSING`, …).
    pub instances: Vec<(String, String)>,
    /// Site of each instance, by its object key; without those of a service that nothing is known of for sure (`BROKEN`).
    #[serde(default)]
    pub instance_sites: BTreeMap<String, String>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TimelineLine {
    /// When, ms since the epoch.
    pub at_ms: u64,
    /// Operation it belongs to.
    pub operation_id: String,
    /// `decision`, `plan`, `step`, `attestation`, `measurement`, `outcome`, `anchor`, `recovery`, `refusal`; `gap` (the
    /// ledger did not answer), `mitigation` (what was done about drift) and `gate` (a call that a cloud refused because it
    /// belonged to no operation) belong to no operation.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// What the last look at the sites found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct DriftView {
    /// When, ms since the epoch; 0: there was no look yet.
    pub at_ms: u64,
    /// How long it took, ms.
    pub took_ms: u64,
    /// Services that were compared.
    pub services: usize,
    /// Sites that could not be observed, and why.
    pub unseen: BTreeMap<String, String>,
    /// Every difference, by NS instance; `stray` for what belongs to none.
    #[schemars(with = "BTreeMap<String, Vec<Finding>>")]
    pub findings: BTreeMap<String, Vec<lcm::drift::Difference>>,
    /// Intents that wait for somebody who may sign them, by NS instance.
    pub proposals: BTreeMap<String, crate::journal::Proposal>,
}

/// Drift of one service: what is wrong, what was done about it, and what may still be done without asking.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct NsDriftView {
    /// NS instance.
    pub ns_instance_id: String,
    /// Tenant.
    pub tenant: String,
    /// Service.
    pub service: String,
    /// When it was looked at last, ms since the epoch; 0: there was no look yet.
    pub at_ms: u64,
    /// Every difference that the last look found.
    #[schemars(with = "Vec<Finding>")]
    pub findings: Vec<lcm::drift::Difference>,
    /// The intent that waits for somebody who may sign it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<crate::journal::Proposal>,
    /// What was done: who, what, why; the newest [`MAX_MITIGATIONS`], oldest first.
    pub mitigations: Vec<crate::journal::Mitigation>,
    /// Standing grants that cover the service now.
    pub grants: Vec<GuardView>,
    /// Objects that were repaired within the flap guard's window.
    pub flaps: Vec<FlapView>,
}

/// Most mitigations of a service that are shown.
pub const MAX_MITIGATIONS: usize = 100;

/// What is left of a standing grant for one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuardView {
    /// The standing grant.
    pub grant: String,
    /// What it lets be done: `heal`, `isolate`, `terminate`.
    pub actions: Vec<String>,
    /// Most repairs of the service within the window.
    pub budget: u32,
    /// Repairs within the window so far.
    pub used: u32,
    /// The window, s.
    pub window_s: u64,
    /// Least time between two repairs of the service, s.
    pub cooldown_s: u64,
    /// Good to.
    pub not_after: UnixTime,
    /// No repair before this moment, by cool-down or budget; absent: one may begin now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<UnixTime>,
}

/// How often an object was repaired lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlapView {
    /// Object key.
    pub object: String,
    /// Repairs within the window.
    pub repairs: u32,
    /// So many, and it is left to a person.
    pub most: u32,
    /// The window, s.
    pub window_s: u64,
}

/// What carries our mark and belongs to no service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct StraysView {
    /// What is there now.
    #[schemars(with = "Vec<Finding>")]
    pub strays: Vec<lcm::drift::Difference>,
    /// Sites that could not be observed, and why: nothing is known of those.
    pub unseen: BTreeMap<String, String>,
    /// What was removed lately, oldest first: who, what, why.
    pub cleaned: Vec<crate::journal::Mitigation>,
}

/// Strays that are to be removed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CleaningView {
    /// Their keys: `KEY` at whichever site, or `KEY@SITE`; at most [`MAX_CLEANED`].
    #[schemars(length(min = 1, max = 1000))]
    pub keys: Vec<String>,
    /// For the record; at most [`MAX_REASON`] characters.
    #[schemars(length(min = 1, max = 1000))]
    pub reason: String,
}

/// Most strays that are removed in one go: each is a call to a VIM.
pub const MAX_CLEANED: usize = 1000;

/// What became of a stray.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cleaned {
    /// Where.
    pub site: String,
    /// Its key.
    pub key: String,
    /// Why it is still there; absent: it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The form of a [`lcm::drift::Difference`], for the API's document.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "only its schema is used; tests/openapi.rs compares it with the type")]
pub struct Finding {
    /// Where.
    site: String,
    /// Object.
    key: String,
    /// `image`, `network`, `compute`.
    kind: String,
    /// How it differs: `MISSING`, `DOWN`, `REPLACED`, `CONFIGURATION_CHANGED`, `EXTRA`, …
    deviation: String,
    /// Found and wanted, for people.
    detail: String,
}

/// An approval that was delivered by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeliveredView {
    /// The operation that was accepted.
    pub operation_id: String,
}

/// One attempt of a step, or of taking it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttemptView {
    /// From 1.
    pub number: u32,
    /// Is the step being taken back?
    pub undo: bool,
    /// When it began, ms since the epoch.
    pub started_ms: u64,
    /// When it ended, ms since the epoch; absent while it runs, or when a crash swallowed its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Why it failed, `CODE: detail`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Calls of the VIM's and the MANO's APIs that it took; none where they are not called over a network.
    #[serde(default)]
    pub calls: u32,
}

/// A step of an operation's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepView {
    /// Number in the plan.
    pub id: u32,
    /// What it does, for people.
    pub what: String,
    /// `ensure`, `remove`, `attest`, `measure`, `isolate`.
    pub action: String,
    /// Object it is about.
    pub object: String,
    /// Steps that must be done before.
    pub needs: Vec<u32>,
    /// `pending`, `started`, `done`, `failed`, `undoing`, `undone`.
    pub state: String,
    /// Every attempt, in order.
    pub attempts: Vec<AttemptView>,
}

/// Something that became durable: the data of an event (CloudEvents 1.0.2 carries it).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventView {
    /// `accepted`, `planned`, `refused`, `started`, `done`, `failed`, `undo_started`, `undone`, `undo_failed`,
    /// `recovered`, `closed`, `anchored`, … as the journal names it; `call_refused`: a cloud refused a call that belonged
    /// to no operation.
    pub event: String,
    /// Wall clock, ms since the epoch.
    pub at_ms: u64,
    /// Tenant; empty for an approval that was refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// NS instance, when the event is an operation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns_instance_id: Option<String>,
    /// The operation, as it is *now*, when the event is an operation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationView>,
    /// Step, when the event is a step's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// What the step does, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// Reason code of a failure or refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// An event in CloudEvents' JSON format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CloudEvent {
    /// `1.0`.
    pub specversion: String,
    /// Number in the feed: what `Last-Event-ID` takes.
    pub id: String,
    /// `/v1/operations/ID`, or `/v1/approvals` for a refused one.
    pub source: String,
    /// `dev.mandate.operation.EVENT`, or `dev.mandate.approval.refused`.
    #[serde(rename = "type")]
    pub kind: String,
    /// NS instance, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// RFC 3339, UTC.
    pub time: String,
    /// `application/json`.
    pub datacontenttype: String,
    /// What happened.
    pub data: EventView,
}

/// A part of the orchestrator, or a peer of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ComponentView {
    /// `journal`, `ledger`, `clock`, `outbox`, `site/NAME`.
    pub name: String,
    /// Does it do its part?
    pub ready: bool,
    /// Can the orchestrator do its work without it for a while? A component that is not ready and not optional makes
    /// the whole not ready.
    pub optional: bool,
    /// What was found, for people.
    pub detail: String,
    /// What was found, for programs: names carry their units.
    pub values: std::collections::BTreeMap<String, i64>,
}

/// `GET /readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyView {
    /// Can it do its work?
    pub ready: bool,
    /// `serving`, or `draining` after it was told to stop.
    pub phase: String,
    /// Version of the orchestrator.
    pub version: String,
    /// Every part.
    pub components: Vec<ComponentView>,
}

/// `GET /healthz`: the process answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AliveView {
    /// `ok`.
    pub status: String,
}

/// `GET /v1/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthView {
    /// `ok`.
    pub status: String,
    /// Version of the orchestrator.
    pub version: String,
    /// Number of the newest change.
    pub change: u64,
}

/// `GET /v1/ledger/head`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckpointView {
    /// C2SP checkpoint, a signed note.
    pub checkpoint: String,
}

/// `GET /v1/ledger/consistency/{position}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConsistencyView {
    /// C2SP checkpoint, a signed note.
    pub checkpoint: String,
    /// RFC 9162 consistency proof to it.
    pub proof: Vec<Digest>,
}

/// `GET /v1/ledger/entries`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EntriesView {
    /// Position of the first.
    pub from: u64,
    /// Exact bytes of each entry.
    pub entries: Vec<String>,
}

/// `GET /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyView {
    /// The policy bundle in force.
    pub digest: Digest,
}

/// `GET /v1/changes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeView {
    /// Number of the newest change.
    pub change: u64,
}

/// `GET /v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IndexView {
    /// Where the OpenAPI document is.
    pub openapi: String,
    /// Method and path of each route.
    pub routes: Vec<String>,
}
