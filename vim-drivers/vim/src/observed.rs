//! What a VIM is found to hold, in one look: the half of the port that a comparison with the desired state reads.
//!
//! Tests: the conformance suite, which alters every field of it behind a driver's back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane_control::MacAddr;
use serde::{Deserialize, Serialize};
use trust::Digest;

use crate::{Interconnect, Kind, ObjectKey, Vnic};

/// What an object is found to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Observed {
    /// An image is there, with these bytes.
    Image {
        /// Digest read back: of the bytes, whatever the name says.
        digest: Digest,
    },
    /// A virtual link is there.
    Network {
        /// Is it up?
        up: bool,
        /// MTU, bytes.
        mtu: u16,
        /// The wide-area segment that it is joined to; absent: to none, or not wholly.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interconnect: Option<Interconnect>,
    },
    /// A VDU instance is there.
    Compute(ObservedCompute),
}

impl Observed {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Image { .. } => Kind::Image,
            Self::Network { .. } => Kind::Network,
            Self::Compute(_) => Kind::Compute,
        }
    }
}

/// A VDU instance as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedCompute {
    /// Does it run?
    pub state: ComputeState,
    /// What became of its process (its machine), whether or not its traffic is cut.
    #[serde(default)]
    pub process: ProcessState,
    /// Digest of the image it was started from.
    pub image: Digest,
    /// Digest of the configuration document it runs, as the data plane says.
    pub configuration: Option<Digest>,
    /// Generation of that configuration.
    pub generation: Option<u64>,
    /// Connection points found: name and MAC.
    pub ports: BTreeMap<String, MacAddr>,
    /// The same connection points as links. A driver that cannot see them leaves this empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, PortState>,
    /// Where it came to be, for VIMs of more than one machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whereabouts: Option<Box<Whereabouts>>,
}

/// Where an instance came to be, as the VIM says: what evidence has of its placement.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The VIM's identifier of the instance.
    pub id: String,
    /// Host.
    pub host: String,
    /// Availability zone; empty: it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// The VIM's identifier of the size that it was given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flavor: String,
    /// The affinity group that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupState>,
    /// Disks: name in the descriptor and the VIM's identifier.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, String>,
}

/// How it stands with an affinity group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupState {
    /// The VIM's identifier.
    pub id: String,
    /// Is each of its instances where the policy wants it? A soft policy may not be satisfied.
    pub satisfied: bool,
    /// Hosts of its instances, by the VIM's identifiers of them.
    pub hosts: BTreeMap<String, String>,
}

/// State of a VDU instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputeState {
    /// Runs and answers.
    Active,
    /// Traffic cut, whether or not it runs.
    Isolated,
    /// Parts of it are there, it does not run.
    Down,
}

/// What became of the process that an instance was started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs and answers.
    #[default]
    Answers,
    /// It runs and does not answer.
    Silent,
    /// It ended, or was never started.
    Gone,
    /// Something else is in its place: it answers there and is not what was started.
    Replaced,
}

/// A connection point as a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// Do frames pass: are both of its ends up? False for every port of an isolated instance.
    pub up: bool,
    /// MTU, bytes: the smaller of its ends'.
    pub mtu: u16,
    /// The virtual link it is attached to; absent: to none of ours.
    pub network: Option<ObjectKey>,
    /// How the VIM bound it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Box<Binding>>,
}

/// How a VIM bound a connection point.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Binding {
    /// The VIM's identifier of the port.
    pub id: String,
    /// What it is.
    pub vnic: Vnic,
    /// `binding:vif_type`: `ovs`, `hw_veb`, …; `binding_failed` is never taken for bound.
    pub vif_type: String,
    /// Host that it is bound to.
    pub host: String,
    /// PCI address of the virtual function or device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_slot: Option<String>,
    /// Is the virtual function trusted?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trusted: bool,
    /// Is every address let through?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unguarded: bool,
    /// Addresses on the link.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Its floating address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floating: Option<IpAddr>,
}

/// What a VIM holds of ours, and what it has room for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// All it has.
    pub total: Resources,
    /// Used, by us and by others as far as the VIM says.
    pub used: Resources,
    /// Our objects in the scope asked for.
    pub objects: BTreeMap<ObjectKey, Observed>,
    /// What carries our mark and belongs to none of `objects`: remains of what was removed, additions behind our
    /// back. Sorted. Looked for when everything is observed; of one service a driver may leave it empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<Stray>,
    /// Room on each host, for VIMs of more than one machine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, HostRoom>,
}

/// Beginning of the class of virtual functions; the physical network follows.
pub const VIRTUAL_FUNCTIONS: &str = "VF:";

/// What a host has, by the placement service's resource classes (`VCPU`, `PCPU`, `MEMORY_MB`, `DISK_GB`, `VF:<physical network>`, …).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostRoom {
    /// Is it up, and may something new go there?
    pub enabled: bool,
    /// By resource class.
    pub room: BTreeMap<String, Room>,
}

/// How much there is of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Room {
    /// All that can be given out, overcommitment included.
    pub total: u64,
    /// What is given out.
    pub used: u64,
    /// Most that one instance can have of it; 0: as much as there is.
    #[serde(default)]
    pub most: u64,
}

impl Room {
    /// What is left.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.total.saturating_sub(self.used)
    }
}

/// A part in the VIM that carries our mark and belongs to no object that the driver knows.
///
/// `remove(key, kind)` takes it away: when an object has that key, that object goes with it. What a driver finds
/// under a name from which no key can be read has a key of the service [`Stray::SERVICE`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stray {
    /// Whose it is, or by which key it goes.
    pub key: ObjectKey,
    /// The kind of object it would be a part of.
    pub kind: Kind,
    /// What it is, in the VIM's words: `process`, `link`, `network namespace`, `directory`, `server`, `port`, …
    pub what: String,
    /// Where it is and how it is found there, for people.
    pub place: String,
}

impl Stray {
    /// Service of the keys of strays that carry none: no NS instance may be called so.
    pub const SERVICE: &'static str = "stray";
}

/// Countable resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Resources {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// VDU instances.
    pub instances: u32,
}

/// Which objects to observe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything of ours.
    All,
    /// One NS instance's.
    Service(String),
}

impl Scope {
    /// Is this object in it?
    #[must_use]
    pub fn contains(&self, key: &ObjectKey) -> bool {
        match self {
            Self::All => true,
            Self::Service(s) => key.service() == s,
        }
    }
}

/// That something of ours changed by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    /// How many changes this driver has seen so far: give it to the next [`crate::VimDriver::changed`].
    pub count: u64,
    /// What changed since; empty when the driver does not say (or no longer knows): look at everything.
    pub keys: BTreeSet<ObjectKey>,
}
