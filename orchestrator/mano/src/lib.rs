//! The port to a MANO: an NFV orchestrator that makes whole network services (reference point Os-Ma-nfvo, ETSI SOL005).
//!
//! [`Mano`] is to a whole service what [`vim::VimDriver`] is to one object: verbs that are idempotent by *our* key, of
//! which a MANO knows nothing; only what carries our key is ever touched. Errors are the VIM port's: what to do about
//! one is its [`vim::Disposition`].
//!
//! A MANO's word is not the truth: a service that it calls instantiated is instantiated when its objects are read back
//! from the VIMs. Where to find them is what [`ObservedService::objects`] tells; reading them is not this port's.
//!
//! The types carry no behaviour but their own checks and are journaled: fields are added, never renamed.
//! [`conformance`] is run on every back end; [`fake`] is the one that fails on demand. Tests: `tests/fake.rs`.

pub mod conformance;
pub mod fake;
mod observed;
mod spec;

pub use observed::{
    Inventory, ObservedPackage, ObservedService, Operation, OperationKind, OperationState, Removal, Scope,
    ServiceState, VimObject,
};
pub use spec::{
    BadKey, BadSpec, InstanceSpec, InterfaceSpec, LinkSpec, MAX_INSTANCES, MAX_MEMBERS, MemberSpec,
    NamedImage, PackageKind, PackageRef, PackageSpec, ServiceKey, ServiceSpec, SiteLink, VduSpec,
};

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use vim::{DriverError, ObjectKey};

/// What a MANO can do and how it does it; the planner asks before it plans.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Back end's name: `osm`, `native`, `fake`.
    pub driver: String,
    /// Sites that it can place members at, by our names.
    pub sites: BTreeSet<String>,
    /// Has it an operation that makes instances anew ([`Mano::heal`])?
    #[serde(default)]
    pub heal: bool,
    /// Has it an operation that moves an instance to another host ([`Mano::migrate`])?
    #[serde(default)]
    pub migrate: bool,
    /// Does it count the MAC addresses of a VDU's instances up itself? Then the plan must say the same: the address
    /// of instance *n* is that of instance 0 with *n* added to its last octet, without a carry.
    #[serde(default)]
    pub counts_macs_up: bool,
    /// Are day-0 documents fixed when the service is made? Then scaling out beyond the [`VduSpec::instances`] given
    /// then is refused: plan some in reserve.
    #[serde(default)]
    pub day0_fixed: bool,
    /// Can it make a link's network ([`SiteLink::Provider`], [`SiteLink::Made`] with a subnet) at one site only? Then
    /// networks of links that span sites are made at the VIMs first and named by id ([`SiteLink::Existing`]).
    #[serde(default)]
    pub one_site_networks: bool,
    /// What of the descriptors it accepts and does not act on, so that our planner decides it: for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignores: Vec<String>,
}

/// A MANO.
#[async_trait]
pub trait Mano: Send + Sync {
    /// What it can do. Asks nobody.
    async fn capabilities(&self) -> Result<Capabilities, DriverError>;

    /// Makes the package of this id be the one of this digest: on-boarded when absent, replaced when it differs and is
    /// ours, and in both cases read back byte for byte. A package of this id that is not ours is never replaced.
    async fn ensure_package(&self, spec: &PackageSpec) -> Result<ObservedPackage, DriverError>;

    /// Removes our package of this descriptor id. Absent is success, and so is a package that services still use: it
    /// stays, as [`Removal`] says.
    async fn remove_package(&self, kind: PackageKind, id: &str) -> Result<Removal, DriverError>;

    /// Makes the service be as specified: made and instantiated when absent, scaled when counts differ, updated when
    /// a member's package differs and the MANO has an operation for it. What cannot be changed in place is refused
    /// with [`vim::Disposition::Compensate`] and says what differs. Returns when the MANO is done or has failed; what a failed
    /// call left behind in the MANO is gone again, or is what [`Self::remove_service`] removes.
    async fn ensure_service(
        &self,
        key: &ServiceKey,
        spec: &ServiceSpec,
    ) -> Result<ObservedService, DriverError>;

    /// Terminates and removes the service, in whatever state it is. Absent is success. Objects that the MANO leaves
    /// at the VIMs are the caller's.
    async fn remove_service(&self, key: &ServiceKey) -> Result<(), DriverError>;

    /// Makes these instances anew (same image, addresses and day-0 documents), once per `action`: asked again under
    /// the same name it waits for the first and answers as it did.
    async fn heal(
        &self,
        key: &ServiceKey,
        action: &str,
        instances: &BTreeSet<ObjectKey>,
    ) -> Result<ObservedService, DriverError>;

    /// Moves an instance to another host of its site. What is there already is not moved.
    async fn migrate(
        &self,
        key: &ServiceKey,
        instance: &ObjectKey,
        host: &str,
    ) -> Result<ObservedService, DriverError>;

    /// Our packages and services as the MANO knows them: one look, without waiting.
    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError>;
}
