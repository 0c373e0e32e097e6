//! What a package and a service are to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

use dataplane_control::MacAddr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use trust::Digest;
use vim::{ObjectKey, ProviderSegment, Subnet};

/// Most members of a service: more is a mistake, and every member costs calls.
pub const MAX_MEMBERS: usize = 64;
/// Most instances of a VDU, those in reserve included.
pub const MAX_INSTANCES: usize = 64;
/// Longest key: it becomes a name in systems with names of 255 characters.
const MAX_KEY: usize = 120;

/// Our key of a service, its NS instance id: what its objects' keys begin with ([`ObjectKey::service`]).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey(String);

/// Why a text is not a service's key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a service's key: 1 to 120 of a-z 0-9 - _ .")]
pub struct BadKey(pub String);

impl ServiceKey {
    /// Checks and wraps.
    pub fn new(text: impl Into<String>) -> Result<Self, BadKey> {
        let text = text.into();
        let whole = !text.contains('/') && text.len() <= MAX_KEY;
        match whole && ObjectKey::new(format!("{text}/x")).is_ok() {
            true => Ok(Self(text)),
            false => Err(BadKey(text)),
        }
    }

    /// The service that an object belongs to.
    #[must_use]
    pub fn of(key: &ObjectKey) -> Self {
        Self(key.service().to_owned())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for ServiceKey {
    type Err = BadKey;
    fn from_str(s: &str) -> Result<Self, BadKey> {
        Self::new(s)
    }
}
impl Serialize for ServiceKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for ServiceKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Kind of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackageKind {
    /// A VNF package.
    Vnf,
    /// An NS package (SOL007: an NSD archive).
    Ns,
}

impl fmt::Display for PackageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vnf => "VNF package",
            Self::Ns => "NS package",
        })
    }
}

/// A package: the descriptor's id and the very bytes. The bytes come from [`vim::Artifacts`] and are verified against the
/// digest by the driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageSpec {
    /// Which kind.
    pub kind: PackageKind,
    /// Id in its descriptor (`vnfd:id`, `nsd:id`).
    pub id: String,
    /// SHA-256 of the package file's bytes.
    pub digest: Digest,
    /// What its images are called at the VIMs: they are made there before the MANO needs them, and a VIM knows no SHA-256 by
    /// which it could find them. The package's bytes stay as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<NamedImage>,
}

/// An image of a VNFD at the VIMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedImage {
    /// Place in `sw-image-desc`, from 0.
    pub index: usize,
    /// Its name at the VIMs.
    pub name: String,
}

/// A package that a service refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRef {
    /// Id in its descriptor.
    pub id: String,
    /// SHA-256 of the package file's bytes.
    pub digest: Digest,
}

/// A network service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Name for people.
    pub name: String,
    /// The NSD.
    pub nsd: PackageRef,
    /// Its deployment flavour (`df` id).
    pub flavour: String,
    /// By member-vnf-index (`vnf-profile` id).
    pub members: BTreeMap<String, MemberSpec>,
    /// By id of the NSD's `virtual-link-desc`.
    pub links: BTreeMap<String, LinkSpec>,
    /// Parameters of the service; names are identifiers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, serde_json::Value>,
}

/// A VNF of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSpec {
    /// Its VNFD.
    pub vnfd: PackageRef,
    /// Where our placement put it: a site of ours, wholly.
    pub site: String,
    /// By `vdu` id.
    pub vdus: BTreeMap<String, VduSpec>,
    /// Links within the VNF, by id of `int-virtual-link-desc`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, LinkSpec>,
    /// Server groups that are there already, by id of the VNFD's affinity group: the VIM's id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, String>,
    /// Parameters of the VNF; names are identifiers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, serde_json::Value>,
}

/// A VDU of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VduSpec {
    /// How many instances there are to be.
    pub count: u32,
    /// The instances by count-index: at least `count`. What is beyond is planned in reserve, so that a MANO whose
    /// day-0 documents are fixed can scale out to it ([`crate::Capabilities::day0_fixed`]).
    pub instances: Vec<InstanceSpec>,
    /// The VIM's id of the flavour to use; absent: the MANO finds or makes one by the descriptor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<String>,
}

/// A VDU instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Our key.
    pub key: ObjectKey,
    /// By the interface's name in the VNFD.
    pub interfaces: BTreeMap<String, InterfaceSpec>,
    /// The day-0 document: the data plane's configuration, exactly as it is measured. Empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub day0: String,
}

/// An interface of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceSpec {
    /// Its MAC address, given by the planner.
    pub mac: MacAddr,
    /// Its address; absent: the VIM's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// A virtual link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSpec {
    /// Our key.
    pub key: ObjectKey,
    /// What it is at each site that it reaches.
    pub sites: BTreeMap<String, SiteLink>,
    /// Its subnet, where the MANO makes the network; absent: as the descriptor says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Subnet>,
}

/// A virtual link at a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum SiteLink {
    /// A network that is there already, by the VIM's id.
    Existing {
        /// The VIM's id.
        id: String,
    },
    /// A network that is there already, by a name that is unique there.
    Named {
        /// Its name.
        name: String,
    },
    /// Made by the MANO as this segment of a physical network.
    Provider(ProviderSegment),
    /// Made by the MANO.
    Made,
}

/// Why a specification is refused before anybody is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct BadSpec {
    /// Which part: `members[1].vdus[vm]`.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

fn bad<T>(path: impl Into<String>, problem: impl Into<String>) -> Result<T, BadSpec> {
    Err(BadSpec { path: path.into(), problem: problem.into() })
}

impl ServiceSpec {
    /// Every key in it, with what it is the key of: objects as the port means them.
    pub fn keys(&self) -> impl Iterator<Item = (&ObjectKey, vim::Kind)> {
        let inner = self.members.values().flat_map(|m| m.links.values());
        let links = self.links.values().chain(inner).map(|l| (&l.key, vim::Kind::Network));
        let vdus = self.members.values().flat_map(|m| m.vdus.values());
        links.chain(vdus.flat_map(|v| &v.instances).map(|i| (&i.key, vim::Kind::Compute)))
    }

    /// Checks what needs no MANO: sizes, keys of this service and no other's, each once; every member's site reached by
    /// each of the links it says; an instance for every count.
    pub fn check(&self, service: &ServiceKey) -> Result<(), BadSpec> {
        if self.members.is_empty() || self.members.len() > MAX_MEMBERS {
            return bad("members", format!("{} of them: 1 to {MAX_MEMBERS}", self.members.len()));
        }
        let mut seen = BTreeSet::new();
        for (key, _) in self.keys() {
            if key.service() != service.as_str() {
                return bad(key.as_str(), format!("is no key of service {service}"));
            }
            if !seen.insert(key) {
                return bad(key.as_str(), "is the key of two objects");
            }
        }
        self.members.iter().try_for_each(|(index, member)| member.check(index))
    }

    /// Digest of the specification without what may change in place (counts): two that have it in common differ in
    /// nothing that needs the service made anew.
    #[must_use]
    pub fn fixed_digest(&self) -> Digest {
        let mut fixed = self.clone();
        fixed.members.values_mut().flat_map(|m| m.vdus.values_mut()).for_each(|v| v.count = 0);
        fixed.members.values_mut().for_each(|m| m.vnfd.digest = Digest([0; 32]));
        // A struct of maps with text keys always encodes.
        Digest::of(serde_json::to_vec(&fixed).unwrap_or_default())
    }
}

impl MemberSpec {
    fn check(&self, index: &str) -> Result<(), BadSpec> {
        for (id, vdu) in &self.vdus {
            let path = format!("members[{index}].vdus[{id}]");
            if vdu.instances.len() > MAX_INSTANCES {
                return bad(path, format!("{} instances: at most {MAX_INSTANCES}", vdu.instances.len()));
            }
            if usize::try_from(vdu.count).map_or(true, |count| count > vdu.instances.len()) {
                return bad(
                    path,
                    format!("count {} and {} instances planned", vdu.count, vdu.instances.len()),
                );
            }
        }
        Ok(())
    }
}
