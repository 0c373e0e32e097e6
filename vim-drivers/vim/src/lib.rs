//! The port to a Virtualised Infrastructure Manager, and to what runs in it.
//!
//! [`VimDriver`] is ETSI's Vi-Vnfm/Or-Vi reference point, reduced to three verbs that are idempotent by *our* key:
//! no VIM has idempotency keys, so names, tags and labels carry ours, and only objects that carry it are ever
//! touched. [`VnfControl`] is Ve-Vnfm: what the orchestrator asks of the running function itself.
//!
//! Drivers share this port and its conformance suite, not code: [`conformance`] is run on every implementation,
//! [`fake`] is the one that fails on demand.

pub mod calls;
pub mod conformance;
pub mod fake;
mod observed;
pub mod pcapng;
mod spec;
pub mod trace;

pub use observed::{
    Binding, Changed, ComputeState, GroupState, HostRoom, Inventory, Observed, ObservedCompute, PortState,
    ProcessState, Resources, Room, Scope, Stray, VIRTUAL_FUNCTIONS, Whereabouts,
};
pub use spec::{
    AddressPair, ComputeSpec, CpuPolicy, Group, GroupPolicy, Hardware, ImageSpec, Interconnect, Kind,
    NetworkSpec, NetworkType, Numa, NumaCell, PageSize, PciDevices, PortSecurity, PortSpec, ProviderSegment,
    Qos, SecurityRule, Spec, Subnet, Subport, ThreadPolicy, Vnic, VolumeSpec,
};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    str::FromStr,
};

use async_trait::async_trait;
use attestation::Evidence;
use dataplane_control::{
    protocol::Status,
    traffic::{TrafficProfile, TrafficReport},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use trust::Digest;

/// Our key of an object: `<ns instance id>/<path>`, 3 to 200 characters of `a-z 0-9 - _ . /`, no empty part.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an object key: <ns instance>/<path>, 3 to 200 of a-z 0-9 - _ . /")]
pub struct BadKey(pub String);

impl ObjectKey {
    /// The least key that a service's objects can have, for ranges.
    pub(crate) fn first_of(service: &str) -> Self {
        Self(format!("{service}/"))
    }

    /// Checks and wraps.
    pub fn new(text: impl Into<String>) -> Result<Self, BadKey> {
        let text = text.into();
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_./".contains(c);
        let parts_ok = text.contains('/') && text.split('/').all(|p| !p.is_empty() && p != "." && p != "..");
        if (3..=200).contains(&text.len()) && text.chars().all(legal) && parts_ok {
            Ok(Self(text))
        } else {
            Err(BadKey(text))
        }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The NS instance it belongs to: the part before the first slash.
    #[must_use]
    pub fn service(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// A name for systems whose names are free text of 63 characters: the key without slashes, its end replaced by a piece of
    /// its digest when it is longer. Known before the object is there; unique enough to be looked up by.
    #[must_use]
    pub fn label(&self) -> String {
        const MAX: usize = 63;
        let flat = self.0.replace('/', "-");
        if flat.len() <= MAX { flat } else { self.short(&format!("{}-", &flat[..MAX - 11])) }
    }

    /// A short name for systems with narrow names: `prefix` and 10 hexadecimal digits of the key's digest.
    #[must_use]
    pub fn short(&self, prefix: &str) -> String {
        format!("{prefix}{}", &Digest::of(self.0.as_bytes()).hex()[..10])
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for ObjectKey {
    type Err = BadKey;
    fn from_str(s: &str) -> Result<Self, BadKey> {
        Self::new(s)
    }
}
impl Serialize for ObjectKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for ObjectKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Name of the interface, inside the instance, behind its `index`-th connection point.
#[must_use]
pub fn port_interface(index: usize) -> String {
    format!("cp{index}")
}

/// What a VIM can do; the planner asks before it plans.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Driver name: `host`, `openstack`, `kubevirt`.
    pub driver: String,
    /// Can it produce TPM quotes for its instances?
    pub attestation: bool,
    /// Can a virtual link span to other sites?
    pub inter_site_links: bool,
    /// Can it capture an instance's traffic ([`VnfControl::capture`])?
    #[serde(default)]
    pub capture: bool,
    /// Are an instance's virtual CPUs and memory held to what was asked for, or only counted?
    #[serde(default)]
    pub enforced: Enforced,
    /// Can running functions be asked ([`VnfControl::status`], [`VnfControl::attest`], [`VnfControl::run_traffic`])? Where they
    /// cannot, another configuration is another boot of the instance, and nothing is attested or measured.
    #[serde(default)]
    pub functions: bool,
    /// What it has of what a descriptor may ask for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<Feature>,
}

/// What a descriptor may ask of a VIM beyond plain links and instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Connection points that are virtual functions ([`Vnic::Direct`]).
    SrIov,
    /// Connection points that are whole devices ([`Vnic::DirectPhysical`]).
    PciPassthrough,
    /// Dedicated CPUs ([`Hardware::cpu_policy`]).
    CpuPinning,
    /// Memory in huge pages ([`Hardware::page_size`]).
    HugePages,
    /// NUMA topology ([`Hardware::numa`]).
    Numa,
    /// Devices by alias ([`Hardware::pci`]).
    PciDevices,
    /// Provider networks ([`ProviderSegment`]), and links that are there already.
    ProviderNetworks,
    /// Subnets and addresses on links.
    Subnets,
    /// Rules, address pairs and port security at connection points.
    PortSecurity,
    /// Bandwidth limits and marks at connection points.
    Qos,
    /// VLAN-aware connection points ([`Subport`]).
    Trunks,
    /// Floating addresses.
    FloatingIps,
    /// Affinity groups ([`Group`]).
    Groups,
    /// Volumes.
    Volumes,
    /// Whole guests that it knows nothing about: instances without a configuration document.
    Guests,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::SrIov,
        Self::PciPassthrough,
        Self::CpuPinning,
        Self::HugePages,
        Self::Numa,
        Self::PciDevices,
        Self::ProviderNetworks,
        Self::Subnets,
        Self::PortSecurity,
        Self::Qos,
        Self::Trunks,
        Self::FloatingIps,
        Self::Groups,
        Self::Volumes,
        Self::Guests,
    ];
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SrIov => "SR-IOV virtual functions",
            Self::PciPassthrough => "PCI passthrough",
            Self::CpuPinning => "dedicated CPUs",
            Self::HugePages => "huge pages",
            Self::Numa => "NUMA topology",
            Self::PciDevices => "PCI devices by alias",
            Self::ProviderNetworks => "provider networks",
            Self::Subnets => "subnets",
            Self::PortSecurity => "port security",
            Self::Qos => "QoS",
            Self::Trunks => "VLAN-aware ports",
            Self::FloatingIps => "floating addresses",
            Self::Groups => "affinity groups",
            Self::Volumes => "volumes",
            Self::Guests => "whole guests",
        })
    }
}

/// Which of an instance's resources the VIM enforces.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Enforced {
    /// An instance gets no more CPU time than its virtual CPUs.
    pub vcpus: bool,
    /// An instance gets no more memory than it asked for.
    pub memory: bool,
    /// Why one of them is only counted, and what to do about it; empty when both are enforced.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why_not: String,
}

/// What to do about an error. The engine matches on nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Nothing happened; the same call may succeed later.
    Retry,
    /// It will not work: unwind.
    Compensate,
    /// Nothing happened and it will not work here, for want of room or of a feature; another site may do it: unwind
    /// here and place it again.
    Elsewhere,
    /// It may or may not have happened: observe, or do it again (calls are idempotent).
    Unknown,
    /// A person is needed; what is there must be left as it is.
    Escalate,
}

/// An error at this port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{operation} {key}: {reason}")]
pub struct DriverError {
    /// The object, or the NS instance.
    pub key: String,
    /// What was attempted: `ensure`, `remove`, `observe`, `configure`, `attest`, …
    pub operation: String,
    /// Stable code, `UPPER_SNAKE_CASE`.
    pub code: String,
    /// What went wrong and what to do about it.
    pub reason: String,
    /// What the engine does about it.
    pub disposition: Disposition,
}

/// An object that a MANO made, and which of ours it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Our key.
    pub key: ObjectKey,
    /// What was asked for.
    pub spec: Spec,
    /// The VIM's identifier of it, as the MANO says (a server's, a network's UUID).
    pub id: String,
}

/// Where image bytes come from: verified, by digest.
pub trait Artifacts: Send + Sync {
    /// A local file that holds the bytes of this digest.
    fn path(&self, digest: &Digest) -> Option<PathBuf>;
}

/// A Virtualised Infrastructure Manager.
#[async_trait]
pub trait VimDriver: Send + Sync {
    /// What it can do.
    async fn capabilities(&self) -> Result<Capabilities, DriverError>;

    /// Makes the object be as specified, whatever was there before of ours under this key, and reads it back.
    /// A compute whose image, ports and size are as specified but whose configuration differs is reconfigured in
    /// place (measured first); anything else about it that differs is a new instance.
    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, DriverError>;

    /// Removes the object and everything that came with it; [strays](Stray) of this key and kind too, whether or not
    /// there is an object. Absent is success.
    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), DriverError>;

    /// One look at our objects and at the room left.
    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError>;

    /// Takes objects that a MANO had made here for ours: marks each with its key, if it is as specified or only named and
    /// addressed otherwise, and reads it back. From then on it is observed, removed and isolated like any other. An object that
    /// carries another key, or none of this MANO's, is refused and stays as it is. A driver that has no such objects refuses.
    async fn adopt(&self, found: &[Adoption]) -> Result<BTreeMap<ObjectKey, Observed>, DriverError> {
        let key = found.first().map_or_else(String::new, |a| a.key.to_string());
        Err(DriverError {
            key,
            operation: "adopt".into(),
            code: "UNSUPPORTED".into(),
            reason: "this VIM's objects are made by its driver alone: use the built-in MANO for this site"
                .into(),
            disposition: Disposition::Compensate,
        })
    }

    /// What the VIM says went wrong with a machine that a MANO made here, by the VIM's id of it; `None`: nothing, or it is not there. A
    /// MANO says less than that. A driver of whose objects no MANO makes any knows nothing.
    async fn fault(&self, id: &str) -> Result<Option<String>, DriverError> {
        let _ = id;
        Ok(None)
    }

    /// Waits until something of ours has changed by itself (an instance ended, …) more than `after` times since this
    /// driver was made; 0 at first, then [`Changed::count`]. What our own calls change is not counted. It is a hint
    /// to observe at once instead of at the next interval: nothing may depend on it. A driver that is not told by
    /// its VIM waits for ever; waiting may be given up at any time.
    async fn changed(&self, after: u64) -> Changed {
        let _ = after;
        std::future::pending().await
    }
}

/// The running functions themselves.
#[async_trait]
pub trait VnfControl: Send + Sync {
    /// What runs in the instance.
    async fn status(&self, key: &ObjectKey) -> Result<Status, DriverError>;

    /// Evidence over these instances, with this nonce.
    async fn attest(&self, keys: &[ObjectKey], nonce: &Digest) -> Result<Evidence, DriverError>;

    /// Sends traffic from a probe and reports.
    async fn run_traffic(
        &self,
        key: &ObjectKey,
        profile: &TrafficProfile,
    ) -> Result<TrafficReport, DriverError>;

    /// Cuts (or restores) the instance's traffic and keeps the process.
    async fn isolate(&self, key: &ObjectKey, on: bool) -> Result<(), DriverError>;

    /// Has the instance tell its links which addresses are there now, so that neighbours who know another place forget it.
    /// Nothing depends on it but time: a neighbour finds out by itself when it asks again.
    async fn announce(&self, key: &ObjectKey) -> Result<(), DriverError> {
        Err(DriverError {
            key: key.to_string(),
            operation: "announce".into(),
            code: "UNSUPPORTED".into(),
            reason: "this VIM's functions announce nothing: neighbours find out when they ask again".into(),
            disposition: Disposition::Compensate,
        })
    }

    /// Records the frames at the instance's connection points, from outside of it, for as long as asked for; the
    /// traffic itself is not touched. A driver whose [`Capabilities::capture`] is false refuses with `UNSUPPORTED`.
    async fn capture(&self, key: &ObjectKey, spec: &CaptureSpec) -> Result<Capture, DriverError> {
        let _ = spec;
        Err(DriverError {
            key: key.to_string(),
            operation: "capture".into(),
            code: "UNSUPPORTED".into(),
            reason: "this VIM cannot capture traffic: isolate without a capture".into(),
            disposition: Disposition::Compensate,
        })
    }
}

/// What to capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureSpec {
    /// For how long, ms.
    pub duration_ms: u32,
    /// Bytes of each frame that are kept.
    pub snap_bytes: u32,
    /// Most bytes of the file; frames beyond are counted, not kept.
    pub max_bytes: u64,
}

/// A capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// A pcapng file: one interface per connection point, named like it.
    pub pcapng: Vec<u8>,
    /// Frames in it.
    pub frames: u64,
    /// Frames that were seen and not kept.
    pub dropped: u64,
}
