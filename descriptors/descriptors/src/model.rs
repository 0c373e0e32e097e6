//! The typed model of SOL006 descriptors (v2.6.1 with OSM's augments), as far as life-cycle management reads it.
//!
//! Values of this model are valid: references resolve, mandatory fields are there, numbers are in range. Only
//! [`crate::parse`] makes them. Names follow SOL006.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trust::Digest;

/// A VNF descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Ids of `int-virtual-link-desc`.
    pub internal_links: Vec<String>,
    /// `ext-cpd`: external connection point id -> the VDU's internal one.
    pub external_cps: BTreeMap<String, CpRef>,
    /// `sw-image-desc`, by id.
    pub images: BTreeMap<String, SwImage>,
    /// `df`, in order; never empty.
    pub flavours: Vec<VnfFlavour>,
}

/// A VDU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `int-cpd`, in the descriptor's order.
    pub cpds: Vec<IntCpd>,
    /// Content of `cloud-init-file`, from the package's `cloud_init/`.
    pub day0: Option<String>,
}

/// An internal connection point descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntCpd {
    /// `id`.
    pub id: String,
    /// `int-virtual-link-desc`, when it is on an internal link.
    pub internal_link: Option<String>,
    /// `virtual-network-interface-requirement[].virtual-interface.type`, default `PARAVIRT`.
    pub interface_type: String,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// A VNF deployment flavour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VnfFlavour {
    /// `id`.
    pub id: String,
    /// `vdu-profile`: limits by VDU id (SOL006 defaults: 1 and 1).
    pub profiles: BTreeMap<String, VduProfile>,
    /// Instances by VDU id at the default instantiation level (`instantiation-level[0].vdu-level`), default: the minimum.
    pub initial: BTreeMap<String, u32>,
    /// `scaling-aspect`, by id.
    pub aspects: BTreeMap<String, ScalingAspect>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualLink {
    /// `id`.
    pub id: String,
    /// `mgmt-network` (OSM augment).
    pub management: bool,
}

/// An NS deployment flavour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NsFlavour {
    /// `id`.
    pub id: String,
    /// `vnf-profile`, by its id (OSM's member-vnf-index).
    pub members: BTreeMap<String, Member>,
}

/// A constituent VNF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `vnf-profile.id`.
    pub index: String,
    /// `vnfd-id`.
    pub vnfd: String,
    /// `virtual-link-connectivity`: external connection point id (`constituent-cpd-id`) -> virtual link id.
    pub links: BTreeMap<String, String>,
}
