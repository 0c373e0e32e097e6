//! A service that a MANO makes: which one does, what it is told, and what it cannot be asked for.
//!
//! Images and links are ours at the VIMs, with or without a MANO: it is told the links by name. Instances are the MANO's to make;
//! each is then taken for ours by the step that ensures it. What it cannot do in place is refused before anything is done.
//!
//! Tests: `tests/mano.rs`.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_control::{MacAddr, day0};
use mano::{
    InstanceSpec, InterfaceSpec, LinkSpec, MAX_INSTANCES, MemberSpec, NamedImage, PackageKind, PackageRef,
    PackageSpec, ServiceKey, ServiceSpec, SiteLink, VduSpec,
};
use vim::{ComputeSpec, ImageSpec, ObjectKey, Spec};

use super::{Counts, Input, Refusal, VnfPackage, refuse, siting::Seats, topology::Topology};
use crate::record::NsRecord;

/// Instances of a VDU for which MAC addresses are counted up from the first one's.
const COUNTED: u8 = 64;

/// The MANO that makes services at some sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// What it can do, and where.
    pub capabilities: mano::Capabilities,
}

/// Does a MANO make the instances at this site?
pub(super) fn manages(input: &Input<'_>, site: &str) -> bool {
    input.mano.is_some_and(|m| m.capabilities.sites.contains(site))
}

/// The MANO that makes a service with these instances; `None`: we do.
pub(super) fn manager(input: &Input<'_>, record: &NsRecord) -> Result<Option<String>, Refusal> {
    let sites: BTreeSet<&str> = record.computes().map(|o| o.site.as_str()).collect();
    let (theirs, ours): (Vec<&str>, Vec<&str>) = sites.into_iter().partition(|s| manages(input, s));
    match (input.mano, ours.as_slice(), theirs.as_slice()) {
        (None, ..) | (_, _, []) => Ok(None),
        (Some(mano), [], _) => Ok(Some(mano.capabilities.driver.clone())),
        (Some(mano), [ours, ..], [theirs, ..]) => {
            let name = &mano.capabilities.driver;
            refuse(
                "MANO",
                format!(
                    "{name} makes what is at site {theirs}, and not at {ours}: name sites of one kind in the intent"
                ),
            )
        }
    }
}

/// The day-0 documents in what a MANO is told.
pub(super) fn documents(spec: &ServiceSpec) -> BTreeMap<ObjectKey, String> {
    let vdus = spec.members.values().flat_map(|m| m.vdus.values());
    let instances = vdus.flat_map(|v| &v.instances).filter(|i| !i.day0.is_empty());
    instances.map(|i| (i.key.clone(), i.day0.clone())).collect()
}

/// What an operation would have to change about instances that a MANO made, and it cannot.
pub(super) fn unchangeable(mano: &str, objects: &[&crate::record::Object]) -> Refusal {
    let names: Vec<&str> = objects.iter().map(|o| o.key.as_str()).collect();
    let detail = format!(
        "{mano} made {} and cannot change what it was made from: deploy the revision as a service of its own",
        names.join(", ")
    );
    Refusal { code: "MANO", detail }
}

/// Where a MANO counts MAC addresses up: the key of the first instance of an instance's VDU, and the instance's number.
pub(super) fn first_of(input: &Input<'_>, site: &str, key: &ObjectKey) -> Option<(ObjectKey, u32)> {
    input.mano.filter(|m| m.capabilities.counts_macs_up && m.capabilities.sites.contains(site))?;
    let (vdu, index) = key.as_str().rsplit_once('/')?;
    Some((ObjectKey::new(format!("{vdu}/0")).ok()?, index.parse().ok()?))
}

/// The MAC address of an instance's connection point where a MANO counts them up: the first instance's, and the number.
pub(super) fn counted(first: MacAddr, index: u32) -> MacAddr {
    let MacAddr([a, b, c, d, e, last]) = first;
    let index = u8::try_from(index).unwrap_or(u8::MAX).min(COUNTED - 1);
    // Without a carry: whoever counts has none either.
    MacAddr([a, b, c, d, e, last % (u8::MAX - COUNTED) + index])
}

/// Packages that the MANO must hold: VNFs, then the service that refers to them.
pub(super) fn packages(topology: &Topology<'_>) -> Vec<PackageSpec> {
    let catalogue = topology.catalogue;
    let vnfs = catalogue.vnfs.iter().map(|(id, p)| PackageSpec {
        kind: PackageKind::Vnf,
        id: id.clone(),
        digest: p.digest,
        images: images(p),
    });
    let nsd = PackageSpec {
        kind: PackageKind::Ns,
        id: catalogue.nsd.id.clone(),
        digest: catalogue.nsd_package,
        images: Vec::new(),
    };
    vnfs.chain([nsd]).collect()
}

/// The names at VIMs of the images that we put there.
fn images(package: &VnfPackage) -> Vec<NamedImage> {
    let described = package.vnfd.images.values();
    let named = described.filter_map(|i| {
        let name = ImageSpec::new(&*i.id, *package.images.get(&i.id)?).vim_name();
        Some(NamedImage { index: i.index, name })
    });
    named.collect()
}

/// Packages that the MANO was given for a service, in the order in which they can go.
pub(super) fn given(record: &NsRecord) -> Vec<(PackageKind, String)> {
    let vnfs = record.packages.keys().filter(|id| **id != record.nsd);
    let ns = std::iter::once((PackageKind::Ns, record.nsd.clone()));
    ns.chain(vnfs.map(|id| (PackageKind::Vnf, id.clone()))).collect()
}

/// Key of a service.
pub(super) fn key(ns: &str) -> Result<ServiceKey, Refusal> {
    ServiceKey::new(ns).map_err(|e| Refusal { code: "MANO", detail: e.to_string() })
}

/// What the MANO is told of a service.
pub(super) struct Telling<'a> {
    pub(super) topology: &'a Topology<'a>,
    pub(super) seats: &'a Seats,
    pub(super) record: &'a NsRecord,
    /// Are instances to be planned in reserve, because their documents cannot come later?
    pub(super) reserve: bool,
}

impl Telling<'_> {
    /// The service, whole.
    pub(super) fn service(&self) -> Result<ServiceSpec, Refusal> {
        let catalogue = self.topology.catalogue;
        let flavour = catalogue.nsd.flavours.first().map(|f| f.id.clone()).unwrap_or_default();
        let members = self.topology.members.keys().map(|m| Ok(((*m).to_owned(), self.member(m)?)));
        let links = catalogue.nsd.links.keys().map(|link| {
            let key = self.topology.link_key(link)?;
            Ok((link.clone(), self.link(&key)))
        });
        let spec = ServiceSpec {
            name: self.record.service.clone(),
            nsd: PackageRef { id: catalogue.nsd.id.clone(), digest: catalogue.nsd_package },
            flavour,
            members: members.collect::<Result<_, Refusal>>()?,
            links: links.collect::<Result<_, Refusal>>()?,
            parameters: BTreeMap::new(),
        };
        let bad = |e: mano::BadSpec| Refusal { code: "MANO", detail: e.to_string() };
        spec.check(&key(&self.record.id)?).map_err(bad)?;
        Ok(spec)
    }

    fn member(&self, index: &str) -> Result<MemberSpec, Refusal> {
        let Some((member, package)) = self.topology.members.get(index) else {
            return refuse("DESCRIPTOR", format!("there is no member {index}"));
        };
        let links = package.vnfd.internal_links.iter().map(|link| {
            let key = self.topology.internal_key(index, &link.id)?;
            Ok((link.id.clone(), self.link(&key)))
        });
        let vdus = package.vnfd.vdus.keys().map(|vdu| Ok((vdu.clone(), self.vdu(index, vdu, package)?)));
        Ok(MemberSpec {
            vnfd: PackageRef { id: member.vnfd.clone(), digest: package.digest },
            site: self.seats.of_member(index).to_owned(),
            vdus: vdus.collect::<Result<_, Refusal>>()?,
            links: links.collect::<Result<_, Refusal>>()?,
            groups: BTreeMap::new(),
            parameters: BTreeMap::new(),
        })
    }

    fn vdu(&self, member: &str, vdu: &str, package: &VnfPackage) -> Result<VduSpec, Refusal> {
        let count = self.count(member, vdu);
        let most = package.vnfd.flavours.first().and_then(|f| f.profiles.get(vdu)).map_or(count, |p| p.max);
        let bound = u32::try_from(MAX_INSTANCES).unwrap_or(u32::MAX);
        let planned = if self.reserve { count.max(most.min(bound)) } else { count };
        let instances = (0..planned).map(|i| self.instance(member, vdu, i));
        let instances: Vec<InstanceSpec> = instances.collect::<Result<_, Refusal>>()?;
        let asks = package.vnfd.vdus.get(vdu).and_then(|v| v.day0.as_deref()).is_some_and(day0::asks);
        if !asks && instances.iter().any(|i| !i.day0.is_empty()) {
            return refuse("MANO", self.unasked(member, vdu, package));
        }
        Ok(VduSpec { count, instances, flavor: None })
    }

    fn unasked(&self, member: &str, vdu: &str, package: &VnfPackage) -> String {
        let (mano, id) = (self.record.mano.as_deref().unwrap_or("the MANO"), &package.vnfd.id);
        format!(
            "{member}/{vdu}: {mano} gives instances their configuration through their cloud-init, and that of package {id} does not \
             ask for it: let `write_files` write {} from `{}`",
            day0::PATH,
            day0::EXPRESSION
        )
    }

    fn count(&self, member: &str, vdu: &str) -> u32 {
        self.record.instances.get(member).and_then(|m| m.get(vdu)).copied().unwrap_or_default()
    }

    /// An instance that there is, or one in reserve.
    fn instance(&self, member: &str, vdu: &str, index: u32) -> Result<InstanceSpec, Refusal> {
        let key = self.topology.instance_key(member, vdu, index)?;
        let site = self.seats.of_member(member);
        let compute: ComputeSpec = match self.record.spec(site, &key) {
            Some(Spec::Compute(c)) => c.clone(),
            _ => {
                self.topology.compute(&self.counts(), self.seats, (member, vdu, index), Some(self.record))?
            }
        };
        let mut interfaces = BTreeMap::new();
        for port in &compute.ports {
            let name = self.topology.interface(member, vdu, &port.name)?;
            let address = port.addresses.first().copied();
            interfaces.insert(name.to_owned(), InterfaceSpec { mac: port.mac, address });
        }
        let told = self.record.told.get(&key).cloned();
        Ok(InstanceSpec { key, interfaces, day0: told.unwrap_or(compute.configuration) })
    }

    fn counts(&self) -> Counts {
        self.record.instances.clone()
    }

    /// A link, by the name that its network has at each site.
    fn link(&self, key: &ObjectKey) -> LinkSpec {
        let named = self.record.objects.iter().filter(|o| o.key == *key).filter_map(|o| match &o.spec {
            Spec::Network(n) => Some((o.site.clone(), SiteLink::Named { name: n.vim_name(key) })),
            _ => None,
        });
        LinkSpec { key: key.clone(), sites: named.collect(), subnet: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_counted_up_without_a_carry() {
        for last in 0..=255 {
            let first = counted(MacAddr([2, 0, 0, 0, 0, last]), 0);
            for index in 0..u32::from(COUNTED) {
                let MacAddr(it) = counted(MacAddr([2, 0, 0, 0, 0, last]), index);
                assert_eq!(it[..5], [2, 0, 0, 0, 0]);
                assert_eq!(u32::from(it[5]), u32::from(first.0[5]) + index);
            }
        }
    }
}
