//! What descriptors ask of the infrastructure, in the words of the VIM port.
//!
//! What OSM makes of the same descriptor on OpenStack is followed, so that the result does not depend on who deploys it.
//! A site that boots no guests (its functions are processes of the driver's) has links without filters and addresses: what
//! only takes filters away, or gives a guest addresses and data to boot with, asks nothing of it and is left out.
//! Everything else is asked of every site, and siting looks for one that has it. Pure. Tests: `tests/platform.rs`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use dataplane_control::{MacAddr, config::Prefix};
use descriptors::model::{
    AffinityGroup, AffinityScope, Cidr, Hardware as Needed, IntCpd, IpProfile, LinkProfile, Mac,
    PortSecurity as Guard, ProviderNetwork, Requests, SwImage, Vdu, VirtualLink, VnfFlavour,
};
use trust::Digest;
use vim::{
    AddressPair, CpuPolicy, Feature, GroupPolicy, Hardware, ImageSpec, NetworkSpec, NetworkType, Numa,
    NumaCell, ObjectKey, PageSize, PciDevices, PortSecurity, PortSpec, ProviderSegment, Qos, SecurityRule,
    Spec, Subnet, ThreadPolicy, Vnic, VolumeSpec,
};

use super::{Input, Refusal, refuse};
use crate::{placement::Defaults, record::NsRecord};

/// MTU of a virtual link that says nothing of it, bytes.
const MTU: u16 = 1500;

/// What a site is, as far as objects there depend on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    /// Does it boot whole guests?
    pub(super) guests: bool,
    /// Does a MANO make the instances there?
    managed: bool,
    defaults: Option<&'a Defaults>,
    pub(super) site: &'a str,
}

impl<'a> Ground<'a> {
    /// Of a site as observed; one that cannot be asked is what the service's record shows that it was.
    pub(super) fn of(input: &'a Input<'_>, site: &'a str, before: Option<&NsRecord>) -> Self {
        let found = input.sites.iter().find(|s| s.name == site);
        let guests = match found.filter(|s| s.problem.is_none()) {
            Some(s) => s.capabilities.features.contains(&Feature::Guests),
            None => before.is_some_and(|b| b.objects.iter().any(|o| o.site == site && is_guest(&o.spec))),
        };
        let managed = super::mano::manages(input, site);
        Self { guests, managed, defaults: found.map(|s| &s.defaults), site }
    }

    fn default(&self, of: impl FnOnce(&'a Defaults) -> &'a Option<String>) -> Option<String> {
        self.defaults.and_then(|n| of(n).clone())
    }

    /// Availability zone of an instance: the one that is asked for, or that it is in, or the site's.
    pub(super) fn zone(&self, asked: &Requests, was: Option<&Spec>) -> Option<String> {
        let stays = || match was {
            Some(Spec::Compute(c)) => c.zone.clone(),
            _ => self.default(|d| &d.zone),
        };
        asked.zone.clone().or_else(stays)
    }

    /// The external network of floating addresses.
    fn external(&self, what: &str) -> Result<String, Refusal> {
        match self.default(|d| &d.external_network) {
            Some(name) => Ok(name),
            None => refuse(
                "NO_SITE",
                format!(
                    "{what} needs a floating address, and site {} names no external network: name one in `mandate.vim.ports`, or configure the site's",
                    self.site
                ),
            ),
        }
    }

    /// Links that need it are provider networks: of the network that they name, or of the site's for such links.
    fn segment(&self, link: &str, asked: &ProviderNetwork) -> Result<ProviderSegment, Refusal> {
        let named = asked.physical_network.clone().or_else(|| self.default(|d| &d.physical_network));
        let Some(physical_network) = named else {
            return refuse(
                "NO_SITE",
                format!(
                    "link {link} has SR-IOV ports or is a provider network, and neither it nor site {} names a physical network: give `provider-network`, or configure the site's",
                    self.site
                ),
            );
        };
        let network_type = if asked.flat { NetworkType::Flat } else { NetworkType::Vlan };
        Ok(ProviderSegment { physical_network, network_type, segment: asked.segment })
    }
}

fn is_guest(spec: &Spec) -> bool {
    matches!(spec, Spec::Compute(c) if c.user_data.is_some() || c.configuration.is_empty())
}

/// A link of the NSD or inside a VNF. `hardware`: a virtual function or a whole device is on it.
pub(super) struct Link<'a> {
    pub(super) id: &'a str,
    pub(super) of_nsd: Option<&'a VirtualLink>,
    pub(super) profile: &'a LinkProfile,
    pub(super) hardware: bool,
    /// Is it a part of one that spans sites? That decides its segment.
    pub(super) joined: bool,
}

impl Link<'_> {
    /// The VIM's network that it is, if it is not made: as OSM does it, the one that is named, or the management network.
    fn existing(&self, at: Ground<'_>) -> Option<String> {
        let link = self.of_nsd?;
        let managed = link.management && at.guests && link.profile.provider.is_none();
        let found = || at.default(|d| &d.management_network).unwrap_or_else(|| link.id.clone());
        link.vim_network.clone().or_else(|| managed.then(found))
    }

    pub(super) fn spec(
        &self,
        at: Ground<'_>,
        subnet: impl FnOnce() -> Option<Subnet>,
    ) -> Result<NetworkSpec, Refusal> {
        let existing = self.existing(at);
        if existing.is_some() {
            return Ok(NetworkSpec { existing, ..NetworkSpec::new(self.id, MTU) });
        }
        let default = ProviderNetwork::default();
        let asked = self.profile.provider.as_ref().or((self.hardware && !self.joined).then_some(&default));
        let provider = asked.map(|p| at.segment(self.id, p)).transpose()?;
        if !at.guests {
            return Ok(NetworkSpec { provider, ..NetworkSpec::new(self.id, MTU) });
        }
        let said = self.profile.subnet.as_ref().map(subnet_of);
        let own = || match self.joined {
            false => subnet(),
            // nova takes no port without an address unless that was said when it was made, which a MANO does not say. The parts share
            // frames: each has addresses of its own, and nobody gives them out.
            true if at.managed => subnet().map(|s| Subnet { dhcp: false, ..s }),
            true => None,
        };
        let subnets = said.or_else(own).into_iter().collect();
        // What nobody said, the cloud knows: its overlays have less than what carries them.
        let mtu = self.profile.mtu.unwrap_or_default();
        Ok(NetworkSpec { provider, subnets, ..NetworkSpec::new(self.id, mtu) })
    }
}

fn subnet_of(said: &IpProfile) -> Subnet {
    Subnet { cidr: prefix(said.cidr), gateway: said.gateway, dhcp: said.dhcp }
}

fn prefix(cidr: Cidr) -> Prefix {
    Prefix { address: cidr.address(), length: cidr.length() }
}

/// Subnets of links that say nothing of addresses, so that guests get some: 192.168.0.0/24 and on, as OSM makes them, but
/// each once in a service and the same ones every time.
pub(super) struct Subnets<'a> {
    before: Option<&'a NsRecord>,
    taken: Vec<Prefix>,
}

/// How many there are.
const SUBNETS: u8 = u8::MAX;

impl<'a> Subnets<'a> {
    pub(super) fn new(before: Option<&'a NsRecord>) -> Self {
        let of = |o: &crate::record::Object| match &o.spec {
            Spec::Network(n) => n.subnets.iter().map(|s| s.cidr).collect(),
            _ => Vec::new(),
        };
        let taken = before.into_iter().flat_map(|b| &b.objects).flat_map(of).collect();
        Self { before, taken }
    }

    /// What a descriptor says is not given to others.
    pub(super) fn said(&mut self, profile: &LinkProfile) {
        self.taken.extend(profile.subnet.as_ref().map(|s| prefix(s.cidr)));
    }

    /// The link's, or the first free one from its key's digest on; none, when there are more links than that.
    pub(super) fn of(&mut self, site: &str, key: &ObjectKey) -> Option<Subnet> {
        let dhcp = |cidr| Subnet { cidr, gateway: None, dhcp: true };
        if let Some(Spec::Network(n)) = self.before.and_then(|b| b.spec(site, key))
            && let Some(subnet) = n.subnets.first()
        {
            return Some(dhcp(subnet.cidr));
        }
        let first = Digest::of(key.as_str().as_bytes()).0[0];
        let at = |i: u8| Prefix {
            address: IpAddr::V4(Ipv4Addr::new(192, 168, first.wrapping_add(i), 0)),
            length: 24,
        };
        let cidr = (0..SUBNETS).map(at).find(|p| !self.taken.contains(p))?;
        self.taken.push(cidr);
        Some(dhcp(cidr))
    }
}

/// What an instance needs of its machine.
pub(super) fn hardware(needed: &Needed, asked: &Requests) -> Hardware {
    use descriptors::model::{Pages, Pinning, Threads};
    let (cpu_policy, thread_policy) = match needed.pinning {
        None => (None, None),
        Some(Pinning::Dynamic) => (Some(CpuPolicy::Shared), None),
        Some(Pinning::Static(threads)) => (Some(CpuPolicy::Dedicated), threads),
    };
    let cell =
        |c: &descriptors::model::NumaCell| NumaCell { vcpus: c.vcpus.clone(), memory_mib: c.memory_mib };
    Hardware {
        cpu_policy,
        thread_policy: thread_policy.map(|t| match t {
            Threads::Require => ThreadPolicy::Require,
            Threads::Isolate => ThreadPolicy::Isolate,
            Threads::Prefer => ThreadPolicy::Prefer,
        }),
        page_size: needed.pages.map(|p| match p {
            Pages::Large => PageSize::Large,
            Pages::Small => PageSize::Small,
            Pages::PreferLarge => PageSize::PreferLarge,
            Pages::Mib2 => PageSize::Mib2,
            Pages::Gib1 => PageSize::Gib1,
        }),
        numa: needed.numa.as_ref().map(|n| Numa {
            nodes: n.nodes,
            strict_memory: n.strict,
            cells: n.cells.iter().map(cell).collect(),
        }),
        pci: asked.pci.iter().map(|(alias, n)| PciDevices { alias: alias.clone(), count: *n }).collect(),
        aggregate: asked.aggregate.clone(),
    }
}

/// Its disks beside the root disk.
pub(super) fn volumes(vdu: &Vdu) -> Vec<VolumeSpec> {
    let of = |v: &descriptors::model::Volume| VolumeSpec { name: v.id.clone(), size_gib: v.size_gib };
    vdu.volumes.iter().map(of).collect()
}

/// An image, as a site stores it.
pub(super) fn image(id: &str, digest: Digest, described: Option<&SwImage>, at: Ground<'_>) -> ImageSpec {
    let format = described.map(|i| i.disk_format.as_str()).filter(|f| at.guests && !matches!(*f, "" | "raw"));
    ImageSpec { disk_format: format.map(str::to_owned), ..ImageSpec::new(id, digest) }
}

/// Whether a connection point is hardware: the link behind it must be of a physical network.
pub(super) fn is_hardware(cpd: &IntCpd) -> bool {
    vnic(cpd) != Vnic::Normal
}

/// Virtual functions that an instance takes.
pub(super) fn virtual_functions(vdu: &Vdu) -> u32 {
    u32::try_from(vdu.cpds.iter().filter(|c| vnic(c) == Vnic::Direct).count()).unwrap_or(u32::MAX)
}

fn vnic(cpd: &IntCpd) -> Vnic {
    match cpd.interface_type.as_str() {
        "SR-IOV" => Vnic::Direct,
        "PCI-PASSTHROUGH" => Vnic::DirectPhysical,
        _ => Vnic::Normal,
    }
}

/// The interfaces of a VDU, in the order in which a guest finds them: by `position`, as OSM has it. A site without guests
/// has them in the descriptor's order.
pub(super) fn interfaces<'v>(vdu: &'v Vdu, at: Ground<'_>) -> Vec<&'v IntCpd> {
    let mut out: Vec<&IntCpd> = vdu.cpds.iter().filter(|c| vdu.requests.carrier(&c.id).is_none()).collect();
    if at.guests {
        out.sort_by_key(|c| (c.position.is_none(), c.position));
    }
    out
}

/// What a connection point is besides its name, link and MAC address. `addresses`: those of the NSD; `floating`: whether
/// the NSD asks for a floating address.
pub(super) fn port(
    bare: PortSpec,
    cpd: &IntCpd,
    asked: &Requests,
    (at, index): (Ground<'_>, u32),
    (addresses, floating): (&[IpAddr], bool),
) -> Result<PortSpec, Refusal> {
    let nothing = descriptors::model::PortRequests::default();
    let requests = asked.ports.get(&cpd.id).unwrap_or(&nothing);
    let floating = match &requests.floating {
        Some(network) => Some(network.clone()),
        None if floating => Some(at.external(&cpd.id)?),
        None => None,
    };
    let rules = cpd.rules.iter().map(|r| SecurityRule {
        ingress: r.ingress,
        ipv6: r.ipv6,
        protocol: Some(r.protocol.clone()),
        ports: r.ports,
        remote: None,
    });
    let security = match cpd.security {
        Guard::Off if at.guests => PortSecurity::Off,
        Guard::On | Guard::AnyAddress if !cpd.rules.is_empty() => PortSecurity::Rules(rules.collect()),
        _ => PortSecurity::Default,
    };
    let any = AddressPair { address: prefix(Cidr::ANY_IPV4), mac: None };
    let pair = |p: &descriptors::model::AddressPair| AddressPair {
        address: prefix(p.address),
        mac: p.mac.map(|Mac(bytes)| MacAddr(bytes)),
    };
    let opened = (at.guests && cpd.security == Guard::AnyAddress).then_some(any);
    Ok(PortSpec {
        addresses: self::addresses(cpd, addresses, at, index),
        vnic: vnic(cpd),
        trusted: requests.trusted,
        security,
        address_pairs: opened.into_iter().chain(requests.address_pairs.iter().map(pair)).collect(),
        qos: requests.qos.map(|q| Qos {
            max_egress_kbps: q.max_egress_kbps,
            max_ingress_kbps: q.max_ingress_kbps,
            min_egress_kbps: q.min_egress_kbps,
            dscp: q.dscp,
        }),
        floating,
        ..bare
    })
}

/// Fixed addresses are the first instance's; the next ones have the addresses after, as in OSM.
fn addresses(cpd: &IntCpd, said: &[IpAddr], at: Ground<'_>, index: u32) -> Vec<IpAddr> {
    if !at.guests {
        return Vec::new();
    }
    let own = if said.is_empty() { cpd.address.as_slice() } else { said };
    let next = |a: &IpAddr| match a {
        IpAddr::V4(a) => a.to_bits().checked_add(index).map(|b| IpAddr::V4(b.into())),
        IpAddr::V6(a) => a.to_bits().checked_add(index.into()).map(|b| IpAddr::V6(b.into())),
    };
    own.iter().filter_map(next).collect()
}

/// The MAC address that a descriptor gives an instance; that of the first is given, the next ones follow, as in OSM.
pub(super) fn said_mac(cpd: &IntCpd, at: Ground<'_>, index: u32) -> Option<MacAddr> {
    let Mac([a, b, c, tail @ ..]) = cpd.mac.filter(|_| at.guests)?;
    let [x, y, z] = tail;
    let next = u32::from_be_bytes([0, x, y, z]).checked_add(index)?;
    let [over, x, y, z] = next.to_be_bytes();
    (over == 0).then_some(MacAddr([a, b, c, x, y, z]))
}

pub(super) fn policy(group: &AffinityGroup) -> GroupPolicy {
    if group.anti { GroupPolicy::AntiAffinity } else { GroupPolicy::Affinity }
}

/// The group that a VDU's VNF descriptor puts it in, unless it is of one instance at most and the site is none where it
/// could have others.
pub(super) fn own_group<'v>(flavour: &'v VnfFlavour, vdu: &str, at: Ground<'_>) -> Option<&'v AffinityGroup> {
    let group = flavour.groups.get(vdu)?;
    let inside = flavour.groups.iter().filter(|(_, g)| g.id == group.id);
    let most = inside.map(|(v, _)| flavour.profiles.get(v).map_or(1, |p| p.max)).fold(0, u32::saturating_add);
    (at.guests || most > 1).then_some(group)
}

/// Groups of an NSD that are held by host, by id: those of scope `nfvi-node`, and members apart within a site.
pub(super) fn by_host(groups: &BTreeMap<String, AffinityGroup>) -> impl Iterator<Item = &AffinityGroup> {
    groups.values().filter(|g| match g.scope {
        AffinityScope::NfviNode => true,
        AffinityScope::Zone | AffinityScope::ZoneGroup => g.anti,
        AffinityScope::NfviPop => false,
    })
}
