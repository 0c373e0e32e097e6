//! The ledger's state: its keys, the records under them, and the snapshot a decision reads.
//!
//! Independent intents never touch the same key but their tenant's `usage/<tenant>`: that is where quotas are kept,
//! and the only place where two intents of one tenant must be ordered. Values are JSON of the records here; they are
//! written by [`crate::contract::decide`] alone, so their encoding is part of the format (`v` of the entry).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use trust::{Digest, Envelope, UnixTime, identity::OrgRoot};

use crate::{
    intent::{ScaleDirection, Sensitivity},
    records::{PackageRecord, ResourceUse, StandingGrant},
};

/// Key of the [`GenesisRecord`].
pub const GENESIS: &str = "genesis";
/// Key of the digest of the policy bundle in force.
pub const POLICY_ACTIVE: &str = "policy/active";
/// Key of the list of sites that ever had an attestation key registered (a sorted JSON list).
pub const AK_INDEX: &str = "ak-index";

/// `org/<name>`: an [`OrgRoot`].
#[must_use]
pub fn org_key(name: &str) -> String {
    format!("org/{name}")
}
/// `policy/<digest>`: a [`crate::records::PolicyBundle`].
#[must_use]
pub fn policy_key(digest: &Digest) -> String {
    format!("policy/{digest}")
}
/// `package/<digest>`: a [`PackageEntry`].
#[must_use]
pub fn package_key(digest: &Digest) -> String {
    format!("package/{digest}")
}
/// `ak/<site>`: an [`attestation::AkRecord`].
#[must_use]
pub fn ak_key(site: &str) -> String {
    format!("ak/{site}")
}
/// `ak-used/<digest>`: the position at which an attestation key's record, by the digest of its JSON, was registered, or
/// replaced or taken back.
#[must_use]
pub fn ak_used_key(record: &Digest) -> String {
    format!("ak-used/{record}")
}
/// `intent/<id>`: an [`IntentRecord`].
#[must_use]
pub fn intent_key(id: &str) -> String {
    format!("intent/{id}")
}
/// `service/<tenant>/<service>`: a [`ServiceRecord`], while the service lives.
#[must_use]
pub fn service_key(tenant: &str, service: &str) -> String {
    format!("service/{tenant}/{service}")
}
/// `usage/<tenant>`: a [`Usage`].
#[must_use]
pub fn usage_key(tenant: &str) -> String {
    format!("usage/{tenant}")
}
/// `refused/<tenant>/<digest>`: a [`RefusedRecord`].
#[must_use]
pub fn refused_key(tenant: &str, digest: &Digest) -> String {
    format!("refused/{tenant}/{digest}")
}
/// `standing/<id>`: a [`StandingRecord`].
#[must_use]
pub fn standing_key(id: &str) -> String {
    format!("standing/{id}")
}
/// `standing-use/<id>/<service>`: a [`StandingUsed`].
#[must_use]
pub fn standing_use_key(id: &str, service: &str) -> String {
    format!("standing-use/{id}/{service}")
}
/// `governance/<id>`: the position of the change's entry.
#[must_use]
pub fn governance_key(id: &str) -> String {
    format!("governance/{id}")
}
/// `operation/<id>`: an [`OperationRecord`].
#[must_use]
pub fn operation_key(id: &str) -> String {
    format!("operation/{id}")
}

/// Exactly the keys of the read set that exist, with their values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot(pub BTreeMap<String, Vec<u8>>);

/// A state value that is not what its key says: the ledger's state is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ledger's record `{key}` cannot be read: {problem}")]
pub struct BadRecord {
    /// Its key.
    pub key: String,
    /// What the decoder said.
    pub problem: String,
}

impl Snapshot {
    /// Decodes the record under `key`; `None` when there is none.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, BadRecord> {
        self.0.get(key).map(|bytes| decode(key, bytes)).transpose()
    }

    /// Adds a value.
    pub fn insert(&mut self, key: impl Into<String>, value: Vec<u8>) {
        self.0.insert(key.into(), value);
    }
}

/// Decodes one state value.
pub fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, BadRecord> {
    serde_json::from_slice(bytes).map_err(|e| BadRecord { key: key.to_owned(), problem: e.to_string() })
}

/// What is kept of the genesis: organisations and policy have keys of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisRecord {
    /// Name of the ledger.
    pub ledger: String,
    /// The organisation that operates it.
    pub operator: String,
    /// Names of all organisations.
    pub orgs: BTreeSet<String>,
}

/// A registered package: the provider's signed request itself, so that every decision can verify it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageEntry {
    /// The signed registration; its payload is the [`PackageRecord`].
    pub request: Envelope,
    /// Where it was registered.
    pub position: u64,
    /// When; the provider's certificate must have been valid then.
    pub time: UnixTime,
    /// Position of the entry that took it back: no intent may name it from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

impl PackageEntry {
    /// The record that the provider signed.
    pub fn record(&self) -> Result<PackageRecord, serde_json::Error> {
        serde_json::from_slice(&self.request.payload)
    }
}

/// An intent that was decided: the id is used up, whatever the verdict was.
///
/// Requests that fail authentication, authorization or form leave no record, so nobody can use up another's ids
/// without being allowed to ask at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentRecord {
    /// Digest of its payload.
    pub intent: Digest,
    /// Tenant.
    pub tenant: String,
    /// Service.
    pub service: String,
    /// One of [`crate::intent::ACTIONS`].
    pub action: String,
    /// Position of its entry.
    pub position: u64,
    /// Was it approved?
    pub approved: bool,
    /// Code of the refusal, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// NS instance it concerns; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns_instance_id: Option<String>,
    /// The operation that carried it out, once anchored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    /// Position of the entry that took it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

/// State of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// Approved, evidence of its instantiation not anchored yet.
    Pending,
    /// Instantiated, with anchored evidence.
    Active,
    /// Its traffic, or some instances', is cut, the instances are kept; it can be healed, isolated, terminated.
    Isolated,
    /// An operation failed half way: parts of it may run; it can be healed, isolated, terminated.
    Broken,
}

/// A service that lives, or is being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRecord {
    /// NS instance.
    pub ns_instance_id: String,
    /// Id of the intent that deployed it.
    pub deploy_intent: String,
    /// State.
    pub state: ServiceState,
    /// Digest of its NSD package.
    pub nsd_package: Digest,
    /// All its packages, by descriptor id.
    pub packages: BTreeMap<String, Digest>,
    /// Sensitivity it was deployed with.
    pub sensitivity: Sensitivity,
    /// End of its lease.
    pub lease_until: UnixTime,
    /// What it is charged for in its tenant's usage.
    pub reserved: ResourceUse,
    /// The approved operation whose evidence is to be anchored next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<InFlight>,
    /// Isolations and terminations that were approved since, in order: they end it, and their evidence comes after its
    /// own. At most [`MAX_BEHIND`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<InFlight>,
    /// Nothing is left of the service and nothing is charged for it; only evidence is waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// What runs; absent for a service whose deployment version 1 of the rules decided, until its first update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// What ran before, oldest first, at most [`MAX_REVISIONS`]: what a rollback can go back to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Revision>,
    /// What it uses at each site, as its last evidence says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sites: BTreeMap<String, ResourceUse>,
}

/// Approvals that may wait behind the operation under way: an isolation of every suspect, and the end.
pub const MAX_BEHIND: usize = 7;

/// Former revisions that are kept: going back further is a new update.
pub const MAX_REVISIONS: usize = 8;

/// A revision of a service: software and configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// The intent (deploy, update, rollback) that made it.
    pub intent_id: String,
    /// Its NSD package.
    pub nsd_package: Digest,
    /// Its configuration: [`crate::intent::parameters_digest`].
    pub parameters: Digest,
    /// Is its configuration empty?
    #[serde(default)]
    pub plain: bool,
}

/// A digest that a tenant's rollback has left behind: nothing of the tenant's may name it any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusedRecord {
    /// The rollback.
    pub intent_id: String,
    /// Position of its entry.
    pub position: u64,
    /// What was wrong.
    pub reason: String,
}

/// A standing grant on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandingRecord {
    /// It.
    pub grant: StandingGrant,
    /// Position of its entry.
    pub position: u64,
    /// Position of the entry that took it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

/// What was done on one service under a standing grant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandingUsed {
    /// When the causes were seen, ascending; as many as the budget at most.
    pub observed: Vec<UnixTime>,
}

/// An approved operation whose evidence is not anchored yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InFlight {
    /// The intent.
    pub intent_id: String,
    /// What it does.
    pub kind: InFlightKind,
    /// What was reserved for it on approval.
    #[serde(default, skip_serializing_if = "ResourceUse::is_zero")]
    pub asked: ResourceUse,
}

/// What an operation in flight will change in the tenant's usage when it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum InFlightKind {
    /// The whole service is reserved.
    Deploy,
    /// Out: `delta` is reserved already; in: `delta` is given back on completion.
    Scale {
        /// Direction.
        direction: ScaleDirection,
        /// Change.
        delta: ResourceUse,
    },
    /// The whole service is given back on completion.
    Terminate,
    /// Update or rollback: on completion the next revision is the present one.
    Revise {
        /// It.
        next: Revision,
        /// Its packages.
        packages: BTreeMap<String, Digest>,
        /// What is charged for it.
        reserved: ResourceUse,
        /// The lease's end from then on, when it is renewed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease_until: Option<UnixTime>,
    },
    /// Nothing changes in what is charged.
    Heal,
    /// What moves is reserved twice until then.
    Migrate,
    /// Nothing is given back.
    Isolate,
}

/// What a tenant uses now, reservations included.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Services.
    pub services: u32,
    /// Sum over its services.
    pub resources: ResourceUse,
    /// By site, as the evidence says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sites: BTreeMap<String, ResourceUse>,
    /// Part of `resources` of which no evidence says yet at which site it is.
    #[serde(default, skip_serializing_if = "ResourceUse::is_zero")]
    pub unplaced: ResourceUse,
}

/// An operation whose evidence is anchored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationRecord {
    /// Position of the anchor's entry.
    pub position: u64,
    /// The intent it carried out.
    pub intent_id: String,
    /// Tenant.
    pub tenant: String,
    /// Service.
    pub service: String,
    /// NS instance.
    pub ns_instance_id: String,
    /// `COMPLETED`, `ROLLED_BACK`, `FAILED`.
    pub outcome: String,
    /// Digest of the bundle's body.
    pub bundle: Digest,
    /// Was the SLA met? Absent when nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla_met: Option<bool>,
}

/// An organisation's roots as the state keeps them.
pub type OrgRecord = OrgRoot;
