//! What an object is to be.
//!
//! Every field beyond the first ones has a default and is left out of a document when it has it: plans and records of
//! earlier versions open, and keep their digests. Names are those of SOL006 and of OSM's augments where they have one; what
//! a VIM has of it is in its [`Capabilities::features`](crate::Capabilities::features).
//!
//! Tests: the conformance suite; `tests/spec.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane_control::{MacAddr, config::Prefix};
use serde::{Deserialize, Serialize};
use trust::Digest;

use crate::{Feature, ObjectKey};

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

    /// What it asks of a VIM: a site whose driver lacks one of them cannot take it.
    #[must_use]
    pub fn needs(&self) -> BTreeSet<Feature> {
        match self {
            Self::Image(_) => BTreeSet::new(),
            Self::Network(n) => n.needs(),
            Self::Compute(c) => c.needs(),
        }
    }
}

/// Those that are asked for.
fn asked<const N: usize>(all: [(bool, Feature); N]) -> impl Iterator<Item = Feature> {
    all.into_iter().filter(|(asked, _)| *asked).map(|(_, feature)| feature)
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

/// A software image. Its bytes come from [`Artifacts`](crate::Artifacts) and are verified against the digest by the driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// Name in the VNFD (`sw-image-desc`).
    pub name: String,
    /// Digest of the bytes.
    pub digest: Digest,
    /// `disk-format` of SOL006: `raw`, `qcow2`, …; absent: raw bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_format: Option<String>,
    /// What the VIM is to know of it: hardware (`hw_…`), signature (`img_signature…`). No name of ours (`mandate…`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

impl ImageSpec {
    /// Raw bytes, without properties.
    #[must_use]
    pub fn new(name: impl Into<String>, digest: Digest) -> Self {
        Self { name: name.into(), digest, disk_format: None, properties: BTreeMap::new() }
    }

    /// Its name at VIMs that have names for images, and the name by which a MANO finds it there: of the bytes alone, because
    /// services that call them differently share them.
    #[must_use]
    pub fn vim_name(&self) -> String {
        format!("mandate-{}", &self.digest.hex()[..NAME_DIGITS])
    }
}

/// Digits of the digest in an image's name: no two images have the same, and people can still read it.
const NAME_DIGITS: usize = 32;

/// A virtual link: one broadcast domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Name in the descriptor.
    pub name: String,
    /// MTU, bytes; 0: as the VIM gives, for sites of guests. An overlay has less room than what carries it.
    pub mtu: u16,
    /// The same link at other sites, joined to this one; absent: a link of this site alone. Only for sites whose
    /// [`Capabilities::inter_site_links`](crate::Capabilities::inter_site_links) says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interconnect: Option<Interconnect>,
    /// The segment of the physical network that it is; absent: whatever the VIM gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderSegment>,
    /// Subnets of it; none: a link without addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<Subnet>,
    /// It is not made: the VIM's network of this name (or id) is used, neither changed nor removed (`vim-network-name`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<String>,
}

impl NetworkSpec {
    /// A link of one site.
    #[must_use]
    pub fn new(name: impl Into<String>, mtu: u16) -> Self {
        let (interconnect, provider, subnets, existing) = (None, None, Vec::new(), None);
        Self { name: name.into(), mtu, interconnect, provider, subnets, existing }
    }

    /// The network's name in a VIM where networks have names, so that a MANO can be told it before the network is there; of one
    /// that exists already, its own.
    #[must_use]
    pub fn vim_name(&self, key: &ObjectKey) -> String {
        self.existing.clone().unwrap_or_else(|| key.label())
    }

    fn needs(&self) -> BTreeSet<Feature> {
        let provider = self.provider.is_some() || self.existing.is_some();
        asked([(provider, Feature::ProviderNetworks), (!self.subnets.is_empty(), Feature::Subnets)]).collect()
    }
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

/// A segment of a physical network (`provider-network` in OSM's augment of `virtual-link-desc`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSegment {
    /// `physical-network`: its name at the site.
    pub physical_network: String,
    /// `network-type`.
    pub network_type: NetworkType,
    /// `segmentation-id`, 1 to 4094, of a VLAN; absent: the VIM gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<u16>,
}

/// How a link is told apart on its physical network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkType {
    /// It is the whole physical network.
    Flat,
    /// By an IEEE 802.1Q tag.
    Vlan,
}

/// A subnet of a link (`l3-protocol-data`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// Prefix.
    pub cidr: Prefix,
    /// Its gateway; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Does the VIM answer DHCP there?
    #[serde(default)]
    pub dhcp: bool,
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
    /// devices in it follow [`port_interface`](crate::port_interface). Empty: a guest that is none of ours, of which
    /// nothing is measured.
    pub configuration: String,
    /// Root disk, GiB (`size-of-storage`); 0: as large as the image.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub disk_gib: u32,
    /// What it needs of the machine beyond size.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hardware: Hardware,
    /// The affinity group it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// Availability zone; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The host it must be on; absent: the VIM chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// More disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeSpec>,
    /// The VDU's own cloud-init, for the guest; the configuration document reaches it beside this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
}

impl ComputeSpec {
    /// An instance of this size, without connection points or configuration.
    #[must_use]
    pub fn new(name: impl Into<String>, image: Digest, vcpus: u32, memory_mib: u32) -> Self {
        Self {
            name: name.into(),
            image,
            vcpus,
            memory_mib,
            ports: Vec::new(),
            configuration: String::new(),
            disk_gib: 0,
            hardware: Hardware::default(),
            group: None,
            zone: None,
            host: None,
            volumes: Vec::new(),
            user_data: None,
        }
    }

    fn needs(&self) -> BTreeSet<Feature> {
        let (hw, groups) = (&self.hardware, self.group.is_some());
        let pinned = hw.cpu_policy == Some(CpuPolicy::Dedicated);
        let huge = hw.page_size.is_some_and(|p| !matches!(p, PageSize::Small | PageSize::PreferLarge));
        let own = asked([
            (pinned, Feature::CpuPinning),
            (huge, Feature::HugePages),
            (hw.numa.is_some(), Feature::Numa),
            (!hw.pci.is_empty(), Feature::PciDevices),
            (groups, Feature::Groups),
            (!self.volumes.is_empty(), Feature::Volumes),
            (self.configuration.is_empty(), Feature::Guests),
        ]);
        own.chain(self.ports.iter().flat_map(PortSpec::needs)).collect()
    }
}

/// What an instance needs of its machine (`virtual-compute-desc`, `virtual-cpu`, `virtual-memory` and OSM's augments).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hardware {
    /// `pinning.policy`: `static` is dedicated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_policy: Option<CpuPolicy>,
    /// `pinning.thread-policy`; with dedicated CPUs only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_policy: Option<ThreadPolicy>,
    /// `mempage-size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size: Option<PageSize>,
    /// `numa-node-policy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa: Option<Numa>,
    /// Devices that the VIM knows by an alias.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pci: Vec<PciDevices>,
    /// Properties that the host's aggregate must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub aggregate: BTreeMap<String, String>,
}

/// Whose CPUs they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuPolicy {
    /// Shared with others.
    Shared,
    /// Its own, pinned.
    Dedicated,
}

/// What becomes of a pinned CPU's sibling threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadPolicy {
    /// Siblings where there are any.
    Prefer,
    /// Nobody else's.
    Isolate,
    /// Siblings only.
    Require,
}

/// Size of memory pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageSize {
    /// Ordinary ones.
    Small,
    /// Huge ones, of any size.
    Large,
    /// Huge ones where there are any (`PREFER_LARGE`).
    PreferLarge,
    /// 2 MiB.
    #[serde(rename = "2mib")]
    Mib2,
    /// 1 GiB.
    #[serde(rename = "1gib")]
    Gib1,
}

/// NUMA topology that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Numa {
    /// `node-cnt`, at least 1.
    pub nodes: u16,
    /// `mem-policy`: is memory of a node on that node only?
    pub strict_memory: bool,
    /// `node[]`, when CPUs and memory are divided otherwise than evenly: one for each node, in order of `id`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<NumaCell>,
}

/// One node of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NumaCell {
    /// `vcpu[]`.
    pub vcpus: Vec<u32>,
    /// `memory-mb`.
    pub memory_mib: u32,
}

/// Devices by alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciDevices {
    /// The VIM's alias.
    pub alias: String,
    /// How many, at least 1.
    pub count: u16,
}

/// An affinity group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its key: of the same service. It is there as long as an instance is in it.
    pub key: ObjectKey,
    /// What its instances have to do with each other.
    pub policy: GroupPolicy,
}

/// What a group's instances have to do with each other (`affinity-or-anti-affinity-group.type`, scope `nfvi-node`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupPolicy {
    /// All on one host.
    Affinity,
    /// Each on a host of its own.
    AntiAffinity,
    /// On one host where that can be.
    SoftAffinity,
    /// On different hosts where that can be.
    SoftAntiAffinity,
}

/// A disk beside the root disk (`virtual-storage-desc` of type `persistent-storage`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Name in the descriptor.
    pub name: String,
    /// Size, GiB.
    pub size_gib: u32,
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
    /// Addresses on the link; for information where the VIM has no subnets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// What it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vnic: Vnic,
    /// A virtual function that may change its MAC address and see other frames.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trusted: bool,
    /// What may pass.
    #[serde(default, skip_serializing_if = "is_default")]
    pub security: PortSecurity,
    /// Addresses besides its own that it may send from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address_pairs: Vec<AddressPair>,
    /// How much may pass; absent: as much as there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<Qos>,
    /// Name of the external network that a floating address is taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floating: Option<String>,
    /// Links that it carries in VLANs beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subports: Vec<Subport>,
}

impl PortSpec {
    /// A paravirtual connection point.
    #[must_use]
    pub fn new(name: impl Into<String>, network: ObjectKey, mac: MacAddr) -> Self {
        Self {
            name: name.into(),
            network,
            mac,
            addresses: Vec::new(),
            vnic: Vnic::default(),
            trusted: false,
            security: PortSecurity::default(),
            address_pairs: Vec::new(),
            qos: None,
            floating: None,
            subports: Vec::new(),
        }
    }

    fn needs(&self) -> impl Iterator<Item = Feature> {
        let guarded = self.security != PortSecurity::Default || !self.address_pairs.is_empty();
        asked([
            (self.vnic == Vnic::Direct, Feature::SrIov),
            (self.vnic == Vnic::DirectPhysical, Feature::PciPassthrough),
            (guarded, Feature::PortSecurity),
            (self.qos.is_some(), Feature::Qos),
            (!self.subports.is_empty(), Feature::Trunks),
            (self.floating.is_some(), Feature::FloatingIps),
        ])
    }
}

/// What a connection point is (`virtual-interface.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vnic {
    /// Paravirtual or emulated, on a virtual switch (`PARAVIRT`, `VIRTIO`, `E1000`, …).
    #[default]
    Normal,
    /// A virtual function (`SR-IOV`).
    Direct,
    /// A whole device (`PCI-PASSTHROUGH`).
    DirectPhysical,
}

/// What may pass a connection point.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortSecurity {
    /// What the VIM lets pass by default.
    #[default]
    Default,
    /// Everything, from and to any address (`port-security-enabled: false`).
    Off,
    /// What these rules allow, and nothing else in that direction.
    Rules(Vec<SecurityRule>),
}

/// Lets something pass (`security-group-rule`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecurityRule {
    /// Into the instance, or out of it?
    pub ingress: bool,
    /// IPv6, or IPv4?
    #[serde(default)]
    pub ipv6: bool,
    /// `protocol`: `tcp`, `udp`, `icmp`, …; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// `src-port-range-min` to `-max`; for ICMP type and code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<(u16, u16)>,
    /// From or to these addresses; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Prefix>,
}

/// An address that a connection point may send from besides its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPair {
    /// Address or prefix.
    pub address: Prefix,
    /// With this MAC address; absent: the connection point's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
}

/// How much may pass a connection point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Qos {
    /// At most, out of the instance, kbit/s; 0: no limit.
    pub max_egress_kbps: u32,
    /// At most, into the instance, kbit/s; 0: no limit.
    pub max_ingress_kbps: u32,
    /// At least, out of the instance, kbit/s: the VIM sets it aside; 0: none.
    pub min_egress_kbps: u32,
    /// Mark of what leaves, 0 to 63.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
}

/// A link that a connection point carries in a VLAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subport {
    /// Name in the descriptor.
    pub name: String,
    /// The virtual link's key.
    pub network: ObjectKey,
    /// VLAN inside the instance, 1 to 4094.
    pub vlan: u16,
    /// Its MAC address.
    pub mac: MacAddr,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
