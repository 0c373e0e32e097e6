//! What a service asks of the sites that take it: which features of a VIM, and which members go together.
//!
//! The specifications themselves are asked ([`vim::Spec::needs`]), so that siting and planning cannot differ. Tests:
//! `tests/platform.rs`.

use std::collections::BTreeSet;

use descriptors::model::{AffinityGroup, AffinityScope, CpRef, IntCpd, InternalLink, LinkProfile};
use vim::{ComputeSpec, Feature, Group, NetworkSpec, Spec, Subnet};

use super::{
    Refusal, VnfPackage,
    platform::{self, Ground, Link},
    refuse,
    topology::Topology,
};
use crate::{placement, record::NsRecord};

impl Topology<'_> {
    /// What every link says of itself.
    pub(super) fn profiles(&self) -> impl Iterator<Item = &LinkProfile> {
        let inside = self.members.values().flat_map(|(_, p)| &p.vnfd.internal_links);
        self.catalogue.nsd.links.values().map(|l| &l.profile).chain(inside.map(|l| &l.profile))
    }

    pub(super) fn link(
        &self,
        id: &str,
        joined: bool,
        at: Ground<'_>,
        subnet: impl FnOnce() -> Option<Subnet>,
    ) -> Result<NetworkSpec, Refusal> {
        let Some(link) = self.catalogue.nsd.links.get(id) else {
            return refuse("DESCRIPTOR", format!("there is no virtual link `{id}`"));
        };
        let hardware = self.members.values().any(|(m, p)| {
            let on = p.vnfd.external_cps.iter().filter(|(cp, _)| m.links.get(*cp).is_some_and(|l| l == id));
            let cpd = |c: &CpRef| p.vnfd.vdus.get(&c.vdu)?.cpds.iter().find(|i| i.id == c.cpd);
            on.filter_map(|(_, c)| cpd(c)).any(platform::is_hardware)
        });
        Link { id, of_nsd: Some(link), profile: &link.profile, hardware, joined }.spec(at, subnet)
    }

    pub(super) fn ground<'s>(&'s self, site: &'s str, before: Option<&NsRecord>) -> Ground<'s> {
        Ground::of(self.input, site, before)
    }

    /// Why a site cannot take a member, by what its VIM has; `None`: it can.
    pub(super) fn lacking(&self, member: &str, site: &placement::Site) -> Option<String> {
        match self.needs(member, &site.name) {
            Ok(needs) => {
                let missing = needs.difference(&site.capabilities.features);
                let missing: Vec<String> = missing.map(ToString::to_string).collect();
                (!missing.is_empty()).then(|| format!("it has no {}", missing.join(", no ")))
            }
            Err(refusal) => Some(refusal.detail),
        }
    }

    /// What a member asks of a site's VIM, with the links that it is on.
    fn needs(&self, member: &str, site: &str) -> Result<BTreeSet<Feature>, Refusal> {
        let at = self.ground(site, None);
        let mut out = BTreeSet::new();
        let Some((m, package)) = self.members.get(member) else { return Ok(out) };
        for link in m.links.values().collect::<BTreeSet<_>>() {
            out.extend(Spec::Network(self.link(link, false, at, || None)?).needs());
        }
        for link in &package.vnfd.internal_links {
            out.extend(Spec::Network(internal(package, link).spec(at, || None)?).needs());
        }
        for id in package.vnfd.vdus.keys() {
            let key = self.instance_key(member, id, 0)?;
            let bare = self.bare((member, id, 0), &key, at, None)?;
            // Its configuration is not known yet; that there is one is all that counts.
            let configuration = package.day0.get(id).map(|_| "{}".to_owned()).unwrap_or_default();
            out.extend(Spec::Compute(ComputeSpec { configuration, ..bare }).needs());
        }
        Ok(out)
    }

    /// Members that the NSD wants at one site, and members that it wants at different ones. OSM reads neither.
    pub(super) fn affinity(&self) -> (Vec<placement::Group>, Vec<placement::Group>) {
        let groups = self.catalogue.nsd.flavours.first().map(|f| &f.groups);
        let mut out = (Vec::new(), Vec::new());
        for group in groups.into_iter().flatten().map(|(_, g)| g) {
            let members: Vec<String> = self.in_group(&group.id).map(str::to_owned).collect();
            let it = placement::Group { name: group.id.clone(), members };
            match (group.anti, group.scope) {
                _ if it.members.len() < 2 => {}
                (false, _) => out.0.push(it),
                (true, AffinityScope::NfviPop) => out.1.push(it),
                (true, _) => {}
            }
        }
        out
    }

    fn in_group<'s>(&'s self, group: &'s str) -> impl Iterator<Item = &'s str> {
        self.members.iter().filter(move |(_, (m, _))| m.groups.contains(group)).map(|(index, _)| *index)
    }

    /// The group of an instance: that of its VNF descriptor, as OSM has it, else of the NSD where that is held by host.
    pub(super) fn group(&self, member: &str, vdu: &str, at: Ground<'_>) -> Result<Option<Group>, Refusal> {
        let Some((m, package)) = self.members.get(member) else { return Ok(None) };
        let flavour = package.vnfd.flavours.first();
        if let Some(group) = flavour.and_then(|f| platform::own_group(f, vdu, at)) {
            let key = self.key(&[member, "group", &group.id])?;
            return Ok(Some(Group { key, policy: platform::policy(group) }));
        }
        let of_nsd = self.catalogue.nsd.flavours.first().map(|f| platform::by_host(&f.groups));
        let shared = |g: &&AffinityGroup| m.groups.contains(&g.id) && self.in_group(&g.id).count() > 1;
        let Some(group) = of_nsd.and_then(|mut all| all.find(shared)) else { return Ok(None) };
        Ok(Some(Group { key: self.key(&["group", &group.id])?, policy: platform::policy(group) }))
    }
}

/// A link inside a VNF.
pub(super) fn internal<'a>(package: &'a VnfPackage, link: &'a InternalLink) -> Link<'a> {
    let on = |c: &&IntCpd| c.internal_link.as_deref() == Some(&link.id);
    let hardware = package.vnfd.vdus.values().flat_map(|v| &v.cpds).filter(on).any(platform::is_hardware);
    Link { id: &link.id, of_nsd: None, profile: &link.profile, hardware, joined: false }
}
