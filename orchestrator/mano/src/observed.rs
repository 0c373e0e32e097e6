//! What a MANO says of our packages and services.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trust::Digest;
use vim::{Kind, ObjectKey};

use crate::{PackageKind, ServiceKey};

/// A package that the MANO has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedPackage {
    /// Which kind.
    pub kind: PackageKind,
    /// Id in its descriptor.
    pub id: String,
    /// SHA-256 of the bytes: read back by `ensure_package`; what our mark on it says when merely observed.
    pub digest: Digest,
    /// The MANO's id of it.
    pub mano_id: String,
    /// Do services use it?
    pub in_use: bool,
}

/// What `remove_package` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// It is gone now, or was before.
    Gone,
    /// Services use it: it stays.
    InUse,
}

/// State of a service, as the MANO says. Not the truth: that is the VIM's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// There is a record and nothing of it at a VIM.
    NotInstantiated,
    /// Being built, changed or taken down: see [`ObservedService::operation`].
    Changing,
    /// The MANO says it is there.
    Instantiated,
    /// An operation failed: parts may be there.
    Broken,
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Builds the service.
    Instantiate,
    /// Changes counts.
    Scale,
    /// Changes packages or power.
    Update,
    /// Makes instances anew.
    Heal,
    /// Moves instances.
    Migrate,
    /// Takes the service down.
    Terminate,
    /// Any other, in the MANO's word.
    Other(String),
}

/// State of an operation (SOL005 `LcmOperationStateType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Under way.
    Processing,
    /// Done.
    Completed,
    /// Done in part (`PARTIALLY_COMPLETED`).
    Partial,
    /// Failed, for now or for good (`FAILED_TEMP`: OSM's cancelled).
    Failed,
}

/// An operation on a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The MANO's id of it.
    pub id: String,
    /// What it does.
    pub kind: OperationKind,
    /// How it is.
    pub state: OperationState,
    /// The MANO's words.
    #[serde(default)]
    pub detail: String,
}

/// An object at a VIM, as the MANO says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VimObject {
    /// Our name of the site.
    pub site: String,
    /// Instance or network.
    pub kind: Kind,
    /// The VIM's id: of the server, of the network.
    pub id: String,
    /// Of an instance: the VIM's ids of its ports, by the interface's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, String>,
}

/// A service as the MANO knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedService {
    /// The MANO's id of it.
    pub mano_id: String,
    /// Its state.
    pub state: ServiceState,
    /// The operation that is under way, or else the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// Digest of what it was made from ([`crate::ServiceSpec::fixed_digest`]); absent when its mark cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<Digest>,
    /// Where its objects are, one entry per site: a link can be at several.
    #[serde(default)]
    pub objects: BTreeMap<ObjectKey, Vec<VimObject>>,
    /// Instances: member -> VDU -> how many.
    #[serde(default)]
    pub counts: BTreeMap<String, BTreeMap<String, u32>>,
    /// The MANO's words about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What Mandate decided because the MANO does not: which member went where and by whose rule, for the evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decided: Vec<String>,
}

/// What to observe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything of ours.
    All,
    /// One service.
    Service(ServiceKey),
}

/// What a MANO holds of ours.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// Packages; looked for when everything is observed, else empty.
    pub packages: Vec<ObservedPackage>,
    /// Services in the scope.
    pub services: BTreeMap<ServiceKey, ObservedService>,
}
