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
    records::{PackageRecord, ResourceUse},
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
    /// `deploy`, `scale`, `terminate`.
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
}

/// State of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// Approved, evidence of its instantiation not anchored yet.
    Pending,
    /// Instantiated, with anchored evidence.
    Active,
    /// Its traffic is cut, its instances are kept; it can only be terminated.
    Isolated,
    /// An operation failed half way: parts of it may run, and it can only be terminated.
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
    /// The approved operation whose evidence is not anchored yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<InFlight>,
}

/// An approved operation whose evidence is not anchored yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InFlight {
    /// The intent.
    pub intent_id: String,
    /// What it does.
    pub kind: InFlightKind,
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
}

/// What a tenant uses now, reservations included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Services.
    pub services: u32,
    /// Sum over its services.
    pub resources: ResourceUse,
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
