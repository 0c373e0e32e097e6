//! The port to a Virtualised Infrastructure Manager, and to what runs in it.
//!
//! [`VimDriver`] is ETSI's Vi-Vnfm/Or-Vi reference point, reduced to three verbs that are idempotent by *our* key:
//! no VIM has idempotency keys, so names, tags and labels carry ours, and only objects that carry it are ever
//! touched. [`VnfControl`] is Ve-Vnfm: what the orchestrator asks of the running function itself.
//!
//! Drivers share this port and its conformance suite, not code: [`conformance`] is run on every implementation,
//! [`fake`] is the one that fails on demand.

pub mod conformance;
pub mod fake;
mod observed;
pub mod pcapng;
pub mod trace;

pub use observed::{
    Changed, ComputeState, Inventory, Observed, ObservedCompute, PortState, ProcessState, Resources, Scope,
    Stray,
};

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use async_trait::async_trait;
use attestation::Evidence;
use dataplane_control::{
    MacAddr,
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

/// What an object is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Spec {
    /// A software image, in the VIM by digest.
    Image(ImageSpec),
    /// A virtual link.
    Network(NetworkSpec),
    /// A VDU instance with its connection points.
    Compute(ComputeSpec),
}

impl Spec {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Image(_) => Kind::Image,
            Self::Network(_) => Kind::Network,
            Self::Compute(_) => Kind::Compute,
        }
    }
}

/// Kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// [`ImageSpec`].
    Image,
    /// [`NetworkSpec`].
    Network,
    /// [`ComputeSpec`].
    Compute,
}

/// A software image. Its bytes come from [`Artifacts`] and are verified against the digest by the driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// Name in the VNFD (`sw-image-desc`).
    pub name: String,
    /// Digest of the bytes.
    pub digest: Digest,
}

/// A virtual link: one broadcast domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Name in the descriptor.
    pub name: String,
    /// MTU, bytes.
    pub mtu: u16,
    /// The same link at other sites, joined to this one; absent: a link of this site alone. Only for sites whose
    /// [`Capabilities::inter_site_links`] says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interconnect: Option<Interconnect>,
}

/// Joins the parts that a virtual link has at several sites (a SOL005 multi-site virtual link; with OpenStack a
/// provider network of that segmentation id).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interconnect {
    /// Name of the wide-area network that connects the sites, as configured.
    pub wan: String,
    /// Segment in it, 1 to 4094: the same at every site, different for every link.
    pub segment: u16,
}

/// A VDU instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeSpec {
    /// Name for people.
    pub name: String,
    /// The image it runs: digest of the bytes, which the VIM must hold already (an [`ImageSpec`] of this service).
    pub image: Digest,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Connection points, in the order of the configuration's ports.
    pub ports: Vec<PortSpec>,
    /// The data plane's configuration document, exactly as it is measured. The driver fills no templates: port
    /// devices in it follow [`port_interface`].
    pub configuration: String,
}

/// A connection point of a VDU instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// Name of the connection point (`int-cpd` id).
    pub name: String,
    /// The virtual link's key.
    pub network: ObjectKey,
    /// Its MAC address, given by the planner.
    pub mac: MacAddr,
    /// Addresses, for information.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
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
