//! The typed model of SOL006 descriptors (v2.6.1 with OSM's augments), as far as life-cycle management reads it.
//!
//! Values of this model are valid: references resolve, mandatory fields are there, numbers are in range. Only
//! [`crate::parse`] makes them. Names follow SOL006. Fields that earlier versions did not have default to what asks for
//! nothing.

mod platform;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

pub use platform::{
    AddressPair, AffinityGroup, AffinityScope, BadCidr, BadMac, Cidr, Hardware, IpProfile, LinkProfile, Mac,
    NumaCell, NumaPolicy, Pages, Pinning, PortRequests, PortSecurity, ProviderNetwork, Qos, Requests,
    SecurityRule, Threads, Volume,
};

use serde::{Deserialize, Serialize};
use trust::Digest;

/// A VNF descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Vnfd {
    /// `id`.
    pub id: String,
    /// `provider`, or empty.
    pub provider: String,
    /// `product-name`, or the id.
    pub product_name: String,
    /// `version`, or empty.
    pub version: String,
    /// `software-version`, or empty.
    pub software_version: String,
    /// `vdu`, by id.
    pub vdus: BTreeMap<String, Vdu>,
    /// `int-virtual-link-desc`, in the descriptor's order.
    pub internal_links: Vec<InternalLink>,
    /// `ext-cpd`: external connection point id -> the VDU's internal one.
    pub external_cps: BTreeMap<String, CpRef>,
    /// `sw-image-desc`, by id.
    pub images: BTreeMap<String, SwImage>,
    /// `df`, in order; never empty.
    pub flavours: Vec<VnfFlavour>,
}

/// A virtual link inside a VNF.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InternalLink {
    /// `id`.
    pub id: String,
    /// `provider-network`, and `virtual-link-profile` of the first flavour.
    #[serde(default)]
    pub profile: LinkProfile,
}

/// A VDU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Vdu {
    /// `id`.
    pub id: String,
    /// `name`, or the id.
    pub name: String,
    /// `sw-image-desc`: id of an image.
    pub image: String,
    /// From `virtual-compute-desc`: `virtual-cpu.num-virtual-cpu`.
    pub vcpus: u32,
    /// From `virtual-compute-desc`: `virtual-memory.size` (GiB in SOL006 as OSM reads it), in MiB.
    pub memory_mib: u32,
    /// What it needs of its machine.
    #[serde(default)]
    pub hardware: Hardware,
    /// `size-of-storage` of its first `virtual-storage-desc`, GB: the root disk; 0: as large as the image.
    #[serde(default)]
    pub disk_gib: u32,
    /// The others of type `persistent-storage`.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// `int-cpd`, in the descriptor's order.
    pub cpds: Vec<IntCpd>,
    /// Content of `cloud-init-file`, from the package's `cloud_init/`.
    pub day0: Option<String>,
    /// `mandate.vim` of it.
    #[serde(default)]
    pub requests: Requests,
}

/// An internal connection point descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IntCpd {
    /// `id`.
    pub id: String,
    /// `int-virtual-link-desc`, when it is on an internal link.
    pub internal_link: Option<String>,
    /// `virtual-network-interface-requirement[].virtual-interface.type`, default `PARAVIRT`.
    pub interface_type: String,
    /// `virtual-network-interface-requirement[].name`, or the connection point's id: what the interface is called to a MANO.
    #[serde(default)]
    pub interface: String,
    /// `position` of the interface.
    #[serde(default)]
    pub position: Option<u32>,
    /// `mac-address` of the interface.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// `ip-address` of the interface.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// `port-security-enabled` with its strategy; that of the `ext-cpd` counts before its own, as in OSM.
    #[serde(default)]
    pub security: PortSecurity,
    /// The `security-group-rule`s that it and its `ext-cpd` name.
    #[serde(default)]
    pub rules: Vec<SecurityRule>,
}

/// A VDU's connection point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpRef {
    /// VDU id.
    pub vdu: String,
    /// `int-cpd` id.
    pub cpd: String,
}

/// A software image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SwImage {
    /// `id`.
    pub id: String,
    /// `name`, or the id.
    pub name: String,
    /// `version`, or empty.
    pub version: String,
    /// `image`: a path inside the package (`images/…`) or a name the VIM knows.
    pub image: String,
    /// `checksum.hash` with `checksum.algorithm` `sha-256`.
    pub sha256: Option<Digest>,
    /// Place in `sw-image-desc`, from 0.
    #[serde(default)]
    pub index: usize,
    /// `disk-format`; empty in models of earlier versions.
    #[serde(default)]
    pub disk_format: String,
}

/// A VNF deployment flavour.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VnfFlavour {
    /// `id`.
    pub id: String,
    /// `vdu-profile`: limits by VDU id (SOL006 defaults: 1 and 1).
    pub profiles: BTreeMap<String, VduProfile>,
    /// Instances by VDU id at the default instantiation level (`instantiation-level[0].vdu-level`), default: the minimum.
    pub initial: BTreeMap<String, u32>,
    /// `scaling-aspect`, by id.
    pub aspects: BTreeMap<String, ScalingAspect>,
    /// The first `affinity-or-anti-affinity-group` of each `vdu-profile` that has one, by VDU id.
    #[serde(default)]
    pub groups: BTreeMap<String, AffinityGroup>,
}

/// Limits of a VDU's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VduProfile {
    /// `min-number-of-instances`.
    pub min: u32,
    /// `max-number-of-instances`.
    pub max: u32,
}

/// A scaling aspect with its uniform delta (or the first of `deltas`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalingAspect {
    /// `id`.
    pub id: String,
    /// `max-scale-level`.
    pub max_level: u32,
    /// `aspect-delta-details.deltas[0].vdu-delta`: instances added per step, by VDU id.
    pub delta: BTreeMap<String, u32>,
}

/// An NS descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nsd {
    /// `id`.
    pub id: String,
    /// `name`, or the id.
    pub name: String,
    /// `version`, or empty.
    pub version: String,
    /// `designer`, or empty.
    pub designer: String,
    /// `vnfd-id`.
    pub vnfd_ids: Vec<String>,
    /// `virtual-link-desc`, by id.
    pub links: BTreeMap<String, VirtualLink>,
    /// `sapd`: service access point id -> virtual link id.
    pub saps: BTreeMap<String, String>,
    /// `df`, in order; never empty.
    pub flavours: Vec<NsFlavour>,
}

/// An NS virtual link.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VirtualLink {
    /// `id`.
    pub id: String,
    /// `mgmt-network` (OSM augment).
    pub management: bool,
    /// `vim-network-name` (OSM augment): the VIM's network of that name is used, and none is made.
    #[serde(default)]
    pub vim_network: Option<String>,
    /// `provider-network`, and `virtual-link-profile` of the first flavour.
    #[serde(default)]
    pub profile: LinkProfile,
}

/// An NS deployment flavour.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NsFlavour {
    /// `id`.
    pub id: String,
    /// `vnf-profile`, by its id (OSM's member-vnf-index).
    pub members: BTreeMap<String, Member>,
    /// `affinity-or-anti-affinity-group`, by id.
    #[serde(default)]
    pub groups: BTreeMap<String, AffinityGroup>,
}

/// A constituent VNF.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// `vnf-profile.id`.
    pub index: String,
    /// `vnfd-id`.
    pub vnfd: String,
    /// `virtual-link-connectivity`: external connection point id (`constituent-cpd-id`) -> virtual link id.
    pub links: BTreeMap<String, String>,
    /// `ip-address` of its connection points, by external connection point id.
    #[serde(default)]
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// External connection points that a `sapd` with `floating-ip-required` is about.
    #[serde(default)]
    pub floating: BTreeSet<String>,
    /// Ids of its `affinity-or-anti-affinity-group`s, sorted.
    #[serde(default)]
    pub groups: BTreeSet<String>,
}
