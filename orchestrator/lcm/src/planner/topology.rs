//! A service's descriptors, resolved: which VDU of which member is what, and on which links.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_control::{Configuration, Function, MacAddr, config::Backend, config::Generator};
use descriptors::{
    day0::{Day0, Day0Function},
    model::{CpRef, IntCpd, Member, Vdu},
};
use ledger_contract::intent::{Scale, ScaleDirection, VnfParams};
use trust::Digest;
use vim::{ComputeSpec, Interconnect, NetworkSpec, ObjectKey, PortSpec, Resources, Spec, Subport};

use super::{
    Catalogue, Counts, Input, Refusal, VnfPackage, asked,
    platform::{self, Ground, Subnets},
    refuse,
    siting::Seats,
};
use crate::{
    functions::{self, Instance},
    placement::Amounts,
    record::{NsRecord, Object},
};

/// Size of a measuring probe.
pub(super) const PROBE: Resources = Resources { vcpus: 1, memory_mib: 256, instances: 1 };

/// The service's descriptors, resolved.
pub(super) struct Topology<'a> {
    pub(super) input: &'a Input<'a>,
    pub(super) ns: &'a str,
    service: &'a str,
    pub(super) catalogue: &'a Catalogue,
    pub(super) members: BTreeMap<&'a str, (&'a Member, &'a VnfPackage)>,
    params: &'a BTreeMap<String, VnfParams>,
}

/// Where the traffic generator sits, and what it measures.
pub(super) struct ProbeAt<'a> {
    /// Service access point.
    pub(super) sap: &'a str,
    /// Its virtual link.
    pub(super) link: &'a str,
    /// The balancer's member.
    pub(super) balancer: &'a str,
}

static NO_PARAMS: VnfParams = VnfParams { rules: Vec::new(), vips: Vec::new(), weights: Vec::new() };

impl<'a> Topology<'a> {
    pub(super) fn new(
        input: &'a Input<'a>,
        params: &'a BTreeMap<String, VnfParams>,
    ) -> Result<Self, Refusal> {
        let Some(catalogue) = input.catalogue else {
            return refuse("PACKAGES", "the service's packages are not here: push them again");
        };
        let Some(flavour) = catalogue.nsd.flavours.first() else {
            return refuse("DESCRIPTOR", format!("NSD {} has no df", catalogue.nsd.id));
        };
        let mut members = BTreeMap::new();
        for (index, member) in &flavour.members {
            let Some(package) = catalogue.vnfs.get(&member.vnfd) else {
                return refuse(
                    "PACKAGES",
                    format!("member {index} is of {}, whose package is not here", member.vnfd),
                );
            };
            members.insert(index.as_str(), (member, package));
        }
        if let Some(stray) = params.keys().find(|k| !members.contains_key(k.as_str())) {
            let known: Vec<_> = members.keys().collect();
            return refuse(
                "PARAMETERS",
                format!("vnf_params name `{stray}`; the NSD's members are {known:?}"),
            );
        }
        let (ns, service) = (input.grant.ns_instance_id.as_str(), input.intent.service.as_str());
        Ok(Self { input, ns, service, catalogue, members, params })
    }

    pub(super) fn params(&self, member: &str) -> &VnfParams {
        self.params.get(member).unwrap_or(&NO_PARAMS)
    }

    pub(super) fn initial(&self) -> Counts {
        self.members.iter().map(|(m, (_, p))| ((*m).to_owned(), initial(p))).collect()
    }

    /// The same numbers as before, within what the (perhaps new) descriptors allow.
    pub(super) fn carried_over(&self, before: &Counts) -> Counts {
        let of = |(member, (_, package)): (&&str, &(&Member, &VnfPackage))| {
            let limits = package.vnfd.flavours.first().map(|f| &f.profiles);
            let count = |(vdu, first): (String, u32)| {
                let now = before.get(*member).and_then(|v| v.get(&vdu)).copied();
                let (min, max) = limits.and_then(|l| l.get(&vdu)).map_or((1, u32::MAX), |l| (l.min, l.max));
                let n = now.map_or(first, |n| n.max(min).min(max));
                (vdu, n)
            };
            ((*member).to_owned(), initial(package).into_iter().map(count).collect())
        };
        self.members.iter().map(of).collect()
    }

    pub(super) fn scaled(&self, now: &Counts, scale: &Scale) -> Result<Counts, Refusal> {
        let Some((_, package)) = self.members.get(scale.member.as_str()) else {
            let known: Vec<_> = self.members.keys().collect();
            return refuse("PARAMETERS", format!("no member `{}`; there are {known:?}", scale.member));
        };
        let flavour = package.vnfd.flavours.first();
        let Some(aspect) = flavour.and_then(|f| f.aspects.get(&scale.aspect)) else {
            return refuse(
                "PARAMETERS",
                format!("VNFD {} has no scaling aspect `{}`", package.vnfd.id, scale.aspect),
            );
        };
        let mut counts = now.clone();
        let of_member = counts.entry(scale.member.clone()).or_default();
        for (vdu, delta) in &aspect.delta {
            let change = delta.saturating_mul(scale.steps);
            let count = of_member.entry(vdu.clone()).or_default();
            let next = match scale.direction {
                ScaleDirection::ScaleOut => count.saturating_add(change),
                ScaleDirection::ScaleIn => count.saturating_sub(change),
            };
            let limits = flavour.and_then(|f| f.profiles.get(vdu)).copied();
            let (min, max) = limits.map_or((1, 1), |l| (l.min, l.max));
            if next < min || next > max {
                let detail = format!(
                    "{}/{vdu} would go from {count} to {next} instances; the vdu-profile allows {min} to {max}",
                    scale.member
                );
                return refuse("SCALE_LIMIT", detail);
            }
            *count = next;
        }
        Ok(counts)
    }

    /// What a member's instances use; the probe counts with the member on whose link it sits.
    pub(super) fn demand(&self, counts: &Counts, member: &str) -> Amounts {
        let mut sum = Amounts::default();
        let Some((_, package)) = self.members.get(member) else { return sum };
        for (vdu, n) in counts.get(member).into_iter().flatten() {
            let Some(v) = package.vnfd.vdus.get(vdu) else { continue };
            sum.vcpus = sum.vcpus.saturating_add(v.vcpus.saturating_mul(*n));
            sum.memory_mib = sum.memory_mib.saturating_add(v.memory_mib.saturating_mul(*n));
            sum.instances = sum.instances.saturating_add(*n);
            sum.vfs = sum.vfs.saturating_add(platform::virtual_functions(v).saturating_mul(*n));
        }
        if self.probe().is_some_and(|p| self.first_on(p.link) == Some(member)) {
            sum.vcpus = sum.vcpus.saturating_add(PROBE.vcpus);
            sum.memory_mib = sum.memory_mib.saturating_add(PROBE.memory_mib);
            sum.instances = sum.instances.saturating_add(PROBE.instances);
        }
        sum
    }

    /// Members on a link of the NSD.
    pub(super) fn on_link(&self, link: &str) -> impl Iterator<Item = &'a str> {
        let on = |(member, (m, _)): (&&'a str, &(&Member, &VnfPackage))| {
            m.links.values().any(|l| l == link).then_some(*member)
        };
        self.members.iter().filter_map(on).collect::<Vec<_>>().into_iter()
    }

    /// The member at whose site a link begins: where its service access point is.
    pub(super) fn first_on(&self, link: &str) -> Option<&'a str> {
        self.on_link(link).next()
    }

    /// Every object of the service, in the order it is made.
    pub(super) fn objects(
        &self,
        counts: &Counts,
        seats: &Seats,
        before: Option<&NsRecord>,
    ) -> Result<Vec<Object>, Refusal> {
        let mut out = self.images(seats, before)?;
        self.links(seats, before, &mut out)?;
        for (member, vdus) in counts {
            let site = seats.of_member(member);
            for (vdu, n) in vdus {
                for index in 0..*n {
                    let key = self.instance_key(member, vdu, index)?;
                    let spec = self.compute(counts, seats, (member, vdu, index), before)?;
                    out.push(Object { site: site.to_owned(), key, spec: Spec::Compute(spec) });
                }
            }
        }
        Ok(out)
    }

    /// Each image, at every site where a member runs it.
    fn images(&self, seats: &Seats, before: Option<&NsRecord>) -> Result<Vec<Object>, Refusal> {
        let mut out = Vec::new();
        let mut seen = BTreeSet::new();
        for (member, (_, package)) in &self.members {
            let site = seats.of_member(member);
            for (id, digest) in &package.images {
                if seen.insert((site, *digest)) {
                    let at = self.ground(site, before);
                    let spec = Spec::Image(platform::image(id, *digest, package.vnfd.images.get(id), at));
                    let key = self.key(&["image", &digest.short()])?;
                    out.push(Object { site: site.to_owned(), key, spec });
                }
            }
        }
        Ok(out)
    }

    fn links(&self, seats: &Seats, before: Option<&NsRecord>, out: &mut Vec<Object>) -> Result<(), Refusal> {
        let mut segments = Segments::new(self.input, before);
        let mut subnets = Subnets::new(before);
        self.profiles().for_each(|p| subnets.said(p));
        for link in self.catalogue.nsd.links.keys() {
            let key = self.link_key(link)?;
            let mut sites: BTreeSet<&str> = self.on_link(link).map(|m| seats.of_member(m)).collect();
            if sites.is_empty() {
                sites.insert(&seats.main);
            }
            let interconnect = if sites.len() > 1 { Some(segments.of(&key)?) } else { None };
            for site in sites {
                let at = self.ground(site, before);
                let spec = self.link(link, interconnect.is_some(), at, || subnets.of(site, &key))?;
                let spec = NetworkSpec { interconnect: interconnect.clone(), ..spec };
                out.push(Object { site: site.to_owned(), key: key.clone(), spec: Spec::Network(spec) });
            }
        }
        for (member, (_, package)) in &self.members {
            let site = seats.of_member(member);
            let at = self.ground(site, before);
            for link in &package.vnfd.internal_links {
                let key = self.internal_key(member, &link.id)?;
                let spec = asked::internal(package, link).spec(at, || subnets.of(site, &key))?;
                out.push(Object { site: site.to_owned(), key, spec: Spec::Network(spec) });
            }
        }
        Ok(())
    }

    /// An instance without its configuration.
    pub(super) fn bare(
        &self,
        (member, vdu_id, index): (&str, &str, u32),
        key: &ObjectKey,
        at: Ground<'_>,
        was: Option<&Spec>,
    ) -> Result<ComputeSpec, Refusal> {
        let (_, package, vdu) = self.vdu(member, vdu_id)?;
        let Some(image) = package.images.get(&vdu.image) else {
            return refuse(
                "DESCRIPTOR",
                format!("{member}/{vdu_id}: image `{}` is not in the package", vdu.image),
            );
        };
        let name = format!("{}-{member}-{vdu_id}-{index}", self.service);
        Ok(ComputeSpec {
            ports: self.ports((member, vdu, index), key, at, was)?,
            disk_gib: if at.guests { vdu.disk_gib } else { 0 },
            hardware: platform::hardware(&vdu.hardware, &vdu.requests),
            group: self.group(member, vdu_id, at)?,
            zone: at.zone(&vdu.requests, was),
            volumes: platform::volumes(vdu),
            user_data: vdu.day0.clone().filter(|_| at.guests),
            ..ComputeSpec::new(name, *image, vdu.vcpus, vdu.memory_mib)
        })
    }

    /// A compute; its configuration's generation is the former one's, or one more when the content differs.
    pub(super) fn compute(
        &self,
        counts: &Counts,
        seats: &Seats,
        (member, vdu_id, index): (&str, &str, u32),
        before: Option<&NsRecord>,
    ) -> Result<ComputeSpec, Refusal> {
        let (_, package, vdu) = self.vdu(member, vdu_id)?;
        let key = self.instance_key(member, vdu_id, index)?;
        let label = format!("{member}/{vdu_id}");
        let site = seats.of_member(member);
        let at = self.ground(site, before);
        let was = before.and_then(|b| b.spec(site, &key));
        let Some(day0) = package.day0.get(vdu_id) else {
            return self.guest((member, vdu_id, index), &key, (at, before.is_some()), was);
        };
        let bare = self.bare((member, vdu_id, index), &key, at, was)?;
        let ports = bare.ports.iter().enumerate();
        let mut instance = Instance {
            key: &key,
            label,
            vdu,
            day0,
            ports: ports.map(|(i, p)| functions::port(i, &p.name, p.mac)).collect(),
            params: self.params(member),
            index,
            backends: self.backends(counts, (member, site), day0, before)?,
            addresses: functions::addresses(self.params),
            generation: was.and_then(generation_of).unwrap_or(1),
        };
        let bad = |e: functions::FunctionError| Refusal { code: "PARAMETERS", detail: e.to_string() };
        let mut document = text(&instance.configuration().map_err(bad)?);
        if let Some(Spec::Compute(b)) = was
            && b.configuration != document
        {
            instance.generation = instance.generation.saturating_add(1);
            document = text(&instance.configuration().map_err(bad)?);
        }
        Ok(ComputeSpec { configuration: document, ..bare })
    }

    /// An instance that is none of our functions: the VIM boots it with its own cloud-init.
    fn guest(
        &self,
        instance: (&str, &str, u32),
        key: &ObjectKey,
        (at, placed): (Ground<'_>, bool),
        was: Option<&Spec>,
    ) -> Result<ComputeSpec, Refusal> {
        let (member, vdu, _) = instance;
        // When a service is placed, siting says which sites boot none.
        if !at.guests && placed {
            return refuse(
                "DESCRIPTOR",
                format!(
                    "{member}/{vdu}: its cloud-init has no `mandate` section, so its function is unknown, and its site boots no guests"
                ),
            );
        }
        if *self.params(member) != NO_PARAMS {
            return refuse(
                "PARAMETERS",
                format!(
                    "vnf_params name `{member}`, whose VDU {vdu} is a guest: its rules and services are its own"
                ),
            );
        }
        self.bare(instance, key, at, was)
    }

    fn ports(
        &self,
        (member, vdu, index): (&str, &Vdu, u32),
        key: &ObjectKey,
        at: Ground<'_>,
        was: Option<&Spec>,
    ) -> Result<Vec<PortSpec>, Refusal> {
        let (m, package, _) = self.vdu(member, &vdu.id)?;
        let mut ports = Vec::with_capacity(vdu.cpds.len());
        for cpd in platform::interfaces(vdu, at) {
            let mac = self.mac(was, at, key, cpd, index);
            let bare = PortSpec::new(cpd.id.clone(), self.network_of(member, vdu, cpd)?, mac);
            let outside =
                package.vnfd.external_cps.iter().filter(|(_, c)| c.vdu == vdu.id && c.cpd == cpd.id);
            let outside: Vec<&String> =
                outside.map(|(id, _)| id).filter(|id| m.links.contains_key(*id)).collect();
            let said = outside.iter().find_map(|id| m.addresses.get(*id)).map_or(&[][..], Vec::as_slice);
            let floating = outside.iter().any(|id| m.floating.contains(*id));
            let port = platform::port(bare, cpd, &vdu.requests, (at, index), (said, floating))?;
            ports.push(PortSpec {
                subports: self.subports((member, vdu, index), cpd, (key, at), was)?,
                ..port
            });
        }
        Ok(ports)
    }

    /// The MAC that an instance has at its site, or the one that its descriptor gives it, or a new one of its own; where a
    /// MANO counts them up, its VDU's first instance's and its number.
    fn mac(&self, was: Option<&Spec>, at: Ground<'_>, key: &ObjectKey, cpd: &IntCpd, index: u32) -> MacAddr {
        let said = || platform::said_mac(cpd, at, index);
        had_mac(was, &cpd.id).or_else(said).unwrap_or_else(|| {
            match super::mano::first_of(self.input, at.site, key) {
                Some((first, index)) => {
                    super::mano::counted(functions::mac_of(at.site, &first, &cpd.id), index)
                }
                None => functions::mac_of(at.site, key, &cpd.id),
            }
        })
    }

    /// The connection points that one carries in VLANs.
    fn subports(
        &self,
        (member, vdu, index): (&str, &Vdu, u32),
        carrier: &IntCpd,
        (key, at): (&ObjectKey, Ground<'_>),
        was: Option<&Spec>,
    ) -> Result<Vec<Subport>, Refusal> {
        let Some(asked) = vdu.requests.ports.get(&carrier.id) else { return Ok(Vec::new()) };
        let carried = vdu.cpds.iter().filter_map(|c| Some((c, *asked.subports.get(&c.id)?)));
        let subport = |(cpd, vlan): (&IntCpd, u16)| {
            let network = self.network_of(member, vdu, cpd)?;
            Ok(Subport { name: cpd.id.clone(), network, vlan, mac: self.mac(was, at, key, cpd, index) })
        };
        carried.map(subport).collect()
    }

    fn network_of(&self, member: &str, vdu: &Vdu, cpd: &IntCpd) -> Result<ObjectKey, Refusal> {
        match &cpd.internal_link {
            Some(link) => self.internal_key(member, link),
            None => self.external_link(member, vdu, &cpd.id),
        }
    }

    fn external_link(&self, member: &str, vdu: &Vdu, cpd: &str) -> Result<ObjectKey, Refusal> {
        let (m, package, _) = self.vdu(member, &vdu.id)?;
        let wanted = CpRef { vdu: vdu.id.clone(), cpd: cpd.to_owned() };
        let external = package.vnfd.external_cps.iter().filter(|(_, c)| **c == wanted).map(|(id, _)| id);
        match external.filter_map(|id| m.links.get(id)).next() {
            Some(link) => self.link_key(link),
            None => refuse(
                "DESCRIPTOR",
                format!(
                    "{member}/{}: connection point `{cpd}` is on no link: connect it in the NSD's vnf-profile",
                    vdu.id
                ),
            ),
        }
    }

    fn backends(
        &self,
        counts: &Counts,
        (member, site): (&str, &str),
        day0: &Day0,
        before: Option<&NsRecord>,
    ) -> Result<Vec<Backend>, Refusal> {
        let Some(at) = &day0.backends else { return Ok(Vec::new()) };
        let n = counts.get(member).and_then(|v| v.get(&at.vdu)).copied().unwrap_or(0);
        let weights = &self.params(member).weights;
        let backend = |i: u32| {
            let key = self.instance_key(member, &at.vdu, i)?;
            let was = before.and_then(|b| b.spec(site, &key));
            let mac =
                self.backend_mac(was, (member, &at.vdu, &at.cpd, i), self.ground(site, before), &key)?;
            Ok(functions::backend(&key, mac, i, weights))
        };
        (0..n).map(backend).collect()
    }

    fn backend_mac(
        &self,
        was: Option<&Spec>,
        (member, vdu, cpd, index): (&str, &str, &str, u32),
        at: Ground<'_>,
        key: &ObjectKey,
    ) -> Result<MacAddr, Refusal> {
        let (_, _, vdu) = self.vdu(member, vdu)?;
        match vdu.cpds.iter().find(|c| c.id == cpd) {
            Some(cpd) => Ok(self.mac(was, at, key, cpd, index)),
            None => refuse("DESCRIPTOR", format!("{member}/{}: it has no int-cpd `{cpd}`", vdu.id)),
        }
    }

    fn vdu(&self, member: &str, vdu: &str) -> Result<(&Member, &VnfPackage, &Vdu), Refusal> {
        let found = self.members.get(member).and_then(|(m, p)| p.vnfd.vdus.get(vdu).map(|v| (*m, *p, v)));
        match found {
            Some(it) => Ok(it),
            None => refuse("DESCRIPTOR", format!("there is no VDU {member}/{vdu}")),
        }
    }

    /// Name of the interface behind a VDU's connection point, as a MANO calls it.
    pub(super) fn interface<'b>(&'b self, member: &str, vdu: &str, cpd: &'b str) -> Result<&'b str, Refusal> {
        let (_, _, vdu) = self.vdu(member, vdu)?;
        Ok(vdu.cpds.iter().find(|c| c.id == cpd && !c.interface.is_empty()).map_or(cpd, |c| &c.interface))
    }

    /// The service access point the probe sits on, and the balancer it measures.
    pub(super) fn probe(&self) -> Option<ProbeAt<'_>> {
        let (sap, link) = self.catalogue.nsd.saps.iter().next()?;
        let balancer = self.members.iter().find(|(m, (_, p))| {
            !self.params(m).vips.is_empty()
                && p.day0.values().any(|d| d.function == Day0Function::LoadBalancer)
        });
        balancer.map(|(m, _)| ProbeAt { sap, link, balancer: m })
    }

    /// The probe's key, site and spec. It runs an image that is at its site.
    pub(super) fn probe_object(&self, seats: &Seats) -> Result<Option<Object>, Refusal> {
        let Some(at) = self.probe() else { return Ok(None) };
        let on_link = self.first_on(at.link);
        let site = on_link.map_or(seats.main.as_str(), |m| seats.of_member(m));
        let here = std::iter::once(at.balancer).chain(on_link).find(|m| seats.of_member(m) == site);
        let image = here.and_then(|m| self.members.get(m)).and_then(|(_, p)| p.images.values().next());
        let Some(image) = image.copied() else { return Ok(None) };
        let key = self.key(&["probe", at.sap])?;
        let mac = functions::mac_of(site, &key, at.sap);
        let configuration = Configuration {
            instance: key.to_string(),
            generation: 1,
            ports: vec![functions::port(0, at.sap, mac)],
            function: Function::Generator(Generator { port: at.sap.to_owned() }),
        };
        let spec = Spec::Compute(ComputeSpec {
            ports: vec![PortSpec::new(at.sap.to_owned(), self.link_key(at.link)?, mac)],
            configuration: text(&configuration),
            ..ComputeSpec::new(
                format!("{}-probe-{}", self.service, at.sap),
                image,
                PROBE.vcpus,
                PROBE.memory_mib,
            )
        });
        Ok(Some(Object { site: site.to_owned(), key, spec }))
    }

    pub(super) fn firewall_params(&self) -> Option<&VnfParams> {
        self.members
            .iter()
            .find(|(_, (_, p))| p.day0.values().any(|d| d.function == Day0Function::Firewall))
            .map(|(m, _)| self.params(m))
    }

    pub(super) fn key(&self, parts: &[&str]) -> Result<ObjectKey, Refusal> {
        object_key(self.ns, parts)
    }
    pub(super) fn link_key(&self, link: &str) -> Result<ObjectKey, Refusal> {
        self.key(&["vl", link])
    }
    pub(super) fn internal_key(&self, member: &str, link: &str) -> Result<ObjectKey, Refusal> {
        self.key(&[member, "vl", link])
    }
    pub(super) fn instance_key(&self, member: &str, vdu: &str, index: u32) -> Result<ObjectKey, Refusal> {
        self.key(&[member, vdu, &index.to_string()])
    }
}

fn initial(package: &VnfPackage) -> BTreeMap<String, u32> {
    let flavour = package.vnfd.flavours.first();
    let count = |vdu: &String| flavour.and_then(|f| f.initial.get(vdu)).copied().unwrap_or(1);
    package.vnfd.vdus.keys().map(|v| (v.clone(), count(v))).collect()
}

/// Segments of the wide-area network, for links that span sites.
struct Segments<'a> {
    input: &'a Input<'a>,
    before: Option<&'a NsRecord>,
    taken: BTreeSet<u16>,
}

/// Segments of IEEE 802.1Q: 0 and 4095 are reserved.
const SEGMENTS: u16 = 4094;

impl<'a> Segments<'a> {
    fn new(input: &'a Input<'a>, before: Option<&'a NsRecord>) -> Self {
        let others = input.wan.map(|w| w.taken.clone()).unwrap_or_default();
        let own = before.map(NsRecord::segments).unwrap_or_default();
        Self { input, before, taken: others.into_iter().chain(own).collect() }
    }

    /// The segment that the link has, or the first free one from its key's digest on.
    fn of(&mut self, key: &ObjectKey) -> Result<Interconnect, Refusal> {
        let Some(wan) = self.input.wan else {
            return refuse(
                "NO_SITE",
                format!("{key} would span sites, and no wide-area network joins them: configure one"),
            );
        };
        let has = self.before.into_iter().flat_map(|b| &b.objects).find_map(|o| match &o.spec {
            Spec::Network(n) if o.key == *key => n.interconnect.clone(),
            _ => None,
        });
        if let Some(interconnect) = has.filter(|i| i.wan == wan.name) {
            return Ok(interconnect);
        }
        let digest = Digest::of(key.as_str().as_bytes()).0;
        let first = u16::from_be_bytes([digest[0], digest[1]]) % SEGMENTS;
        let mut candidates = (0..SEGMENTS).map(|i| (first + i) % SEGMENTS + 1);
        let Some(segment) = candidates.find(|s| !self.taken.contains(s)) else {
            return refuse(
                "NO_SEGMENT",
                format!("all {SEGMENTS} segments of {} are in use: end a service that spans sites", wan.name),
            );
        };
        self.taken.insert(segment);
        Ok(Interconnect { wan: wan.name.clone(), segment })
    }
}

fn had_mac(was: Option<&Spec>, cpd: &str) -> Option<MacAddr> {
    let Some(Spec::Compute(c)) = was else { return None };
    let subports = || c.ports.iter().flat_map(|p| &p.subports).find(|s| s.name == cpd).map(|s| s.mac);
    c.ports.iter().find(|p| p.name == cpd).map(|p| p.mac).or_else(subports)
}

pub(super) fn text(configuration: &Configuration) -> String {
    String::from_utf8_lossy(&configuration.to_bytes()).into_owned()
}

pub(super) fn configuration_of(spec: &Spec) -> Option<Configuration> {
    match spec {
        Spec::Compute(c) => Configuration::parse(c.configuration.as_bytes()).ok(),
        _ => None,
    }
}

pub(super) fn generation_of(spec: &Spec) -> Option<u64> {
    configuration_of(spec).map(|c| c.generation)
}

/// A key from descriptor ids, which may have characters that a key may not: those parts are slugged and made unique
/// again by a piece of their digest.
pub(super) fn object_key(ns: &str, parts: &[&str]) -> Result<ObjectKey, Refusal> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let part = |p: &str| {
        if !p.is_empty() && p.len() <= 40 && p != "." && p != ".." && p.chars().all(legal) {
            return p.to_owned();
        }
        let slug: String =
            p.to_lowercase().chars().map(|c| if legal(c) { c } else { '-' }).take(24).collect();
        format!("{slug}-{}", &Digest::of(p.as_bytes()).hex()[..8])
    };
    let path = parts.iter().map(|p| part(p)).collect::<Vec<_>>().join("/");
    ObjectKey::new(format!("{ns}/{path}")).map_err(|e| Refusal { code: "DESCRIPTOR", detail: e.to_string() })
}
