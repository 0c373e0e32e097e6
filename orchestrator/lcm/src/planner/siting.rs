//! Which site each member goes to.

use std::collections::{BTreeMap, BTreeSet};

use ledger_contract::intent::Deploy;

use super::{Counts, Input, Refusal, fit, refuse, topology::Topology};
use crate::{
    placement::{
        Amounts, Budget, Candidate, Connection, Costs, Exclusion, Group, Leg, Link, Member, Path,
        PlacementError, Problem, Rules, Site, solve,
    },
    record::NsRecord,
};

/// Where each member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seats {
    /// Where the service's traffic comes in.
    pub(super) main: String,
    members: BTreeMap<String, String>,
}

impl Seats {
    /// Where the members of a service are now; one that is new to it goes to the main site.
    pub(super) fn of(topology: &Topology<'_>, before: &NsRecord) -> Result<Self, Refusal> {
        let mut members = BTreeMap::new();
        for (member, vdus) in &before.instances {
            for vdu in vdus.keys() {
                let key = topology.instance_key(member, vdu, 0)?;
                if let Some(o) = before.computes().find(|o| o.key == key) {
                    members.insert(member.clone(), o.site.clone());
                }
            }
        }
        Ok(Self { main: before.site.clone(), members })
    }

    /// The site of a member.
    pub(super) fn of_member(&self, member: &str) -> &str {
        self.members.get(member).unwrap_or(&self.main)
    }
}

/// Every other site, and why not.
type Refused = Vec<(String, String)>;

/// Looks for sites.
pub(super) struct Siting<'a> {
    input: &'a Input<'a>,
    topology: &'a Topology<'a>,
    asked: &'a Deploy,
}

impl<'a> Siting<'a> {
    pub(super) fn new(input: &'a Input<'a>, topology: &'a Topology<'a>, asked: &'a Deploy) -> Self {
        Self { input, topology, asked }
    }

    /// A site for every member.
    pub(super) fn everything(&self, counts: &Counts) -> Result<(Seats, Refused), Refusal> {
        let all = counts.keys().cloned().collect();
        self.seat(counts, None, &all)
    }

    /// Another site for some of the members; the others stay.
    pub(super) fn moving(
        &self,
        counts: &Counts,
        now: &Seats,
        moving: &BTreeSet<String>,
    ) -> Result<(Seats, Refused), Refusal> {
        self.seat(counts, Some(now), moving)
    }

    fn seat(
        &self,
        counts: &Counts,
        now: Option<&Seats>,
        moving: &BTreeSet<String>,
    ) -> Result<(Seats, Refused), Refusal> {
        match solve(&self.problem(counts, now, moving), Budget::default()) {
            Ok(answer) => {
                let refused = answer.refused();
                Ok((self.seats(answer.assignment), refused))
            }
            Err(e @ (PlacementError::Unplaceable(_) | PlacementError::Undecided { .. })) => {
                refuse("NO_SITE", e.to_string())
            }
            Err(e @ PlacementError::Malformed(_)) => refuse("DESCRIPTOR", e.to_string()),
        }
    }

    /// What is to be solved: the members that move, or all of them, and those that stay.
    pub(super) fn problem(&self, counts: &Counts, now: Option<&Seats>, moving: &BTreeSet<String>) -> Problem {
        let grant = self.input.grant;
        let rules = Rules { tee: grant.tee_required, ..Rules::of(self.asked, grant.attestation_required) };
        let stays = |m: &&str| now.is_some() && !moving.contains(*m);
        let members: Vec<&str> = counts.keys().map(String::as_str).collect();
        let member = |m: &&str| Member {
            name: (*m).to_owned(),
            demand: self.topology.demand(counts, m),
            held: None,
            pinned: now.filter(|_| stays(m)).map(|n| n.of_member(m).to_owned()),
            rules: rules.clone(),
        };
        let at = self.input.at;
        let mut sites: Vec<Candidate> = self.input.sites.iter().map(|s| Candidate::of(s, at)).collect();
        for site in &mut sites {
            site.quota = self.quota(&site.name);
            // What stays has its room already.
            let staying = members.iter().filter(|m| stays(m));
            for m in staying.filter(|m| now.is_some_and(|n| n.of_member(m) == site.name)) {
                let held = self.topology.demand(counts, m);
                site.free.vcpus = site.free.vcpus.saturating_add(held.vcpus);
                site.free.memory_mib = site.free.memory_mib.saturating_add(held.memory_mib);
                site.free.instances = site.free.instances.saturating_add(held.instances);
                site.free.vfs = site.free.vfs.saturating_add(held.vfs);
                site.quota = site.quota.map(|q| q.plus(held));
            }
        }
        let (mut affinity, anti_affinity) = self.topology.affinity();
        affinity.extend(self.together(&members));
        Problem {
            members: members.iter().map(member).collect(),
            links: self.links(&members),
            paths: self.paths(&members),
            sites,
            connections: self.connections(),
            affinity,
            anti_affinity,
            exclusions: self
                .exclusions(now, moving)
                .into_iter()
                .chain(self.misfits(counts, &members, &stays))
                .collect(),
            costs: Costs { alpha_permille: self.input.prices.alpha_permille, ..Costs::default() },
        }
    }

    /// What the grant lets the tenant use at a site, and the probe on top: evidence does not count it.
    fn quota(&self, site: &str) -> Option<Amounts> {
        let (_, left) = self.input.site_quotas().find(|(name, _)| *name == site)?;
        let amounts = Amounts {
            vcpus: left.vcpus,
            memory_mib: left.memory_mib,
            instances: left.instances,
            vfs: left.vfs,
            bandwidth_kbps: left.bandwidth_mbps.saturating_mul(1000),
        };
        Some(match self.topology.probe() {
            Some(_) => amounts.plus(super::topology::PROBE.into()),
            None => amounts,
        })
    }

    fn seats(&self, members: BTreeMap<String, String>) -> Seats {
        let first = self.topology.probe().and_then(|p| self.topology.first_on(p.link));
        let entry = first.and_then(|m| members.get(m)).or_else(|| members.values().next());
        Seats { main: entry.cloned().unwrap_or_default(), members }
    }

    /// Members that share a link of the NSD, pairwise along it.
    fn links(&self, members: &[&str]) -> Vec<Link> {
        let mut out = Vec::new();
        for link in self.topology.catalogue.nsd.links.keys() {
            let on: Vec<&str> = self.topology.on_link(link).filter(|m| members.contains(m)).collect();
            for pair in on.windows(2) {
                let [a, b] = pair else { continue };
                out.push(Link {
                    name: format!("{link}/{a}-{b}"),
                    a: (*a).to_owned(),
                    b: (*b).to_owned(),
                    traffic_kbps: self.asked.sla.throughput_kbps,
                });
            }
        }
        out
    }

    /// The way in: from the tenants to the member at the service access point.
    fn paths(&self, members: &[&str]) -> Vec<Path> {
        let first = self.topology.probe().and_then(|p| self.topology.first_on(p.link));
        let entry = first.or_else(|| members.first().copied());
        let promised = self.asked.sla.latency_p95_us;
        let penalty_per_us = if promised > 0 { self.input.prices.sla_penalty_per_us } else { 0 };
        let path = |member: &str| {
            let access = Leg::Access(member.to_owned());
            let (name, legs, bound_us) = match penalty_per_us {
                0 => ("access", vec![access], u64::MAX),
                // The whole way through the service, against what its SLA promises.
                _ => {
                    let links = self.links(members).into_iter().map(|l| Leg::Link(l.name));
                    ("sla", std::iter::once(access).chain(links).collect(), promised)
                }
            };
            Path { name: name.into(), legs, bound_us, penalty_per_us, weight: penalty_per_us.min(1) }
        };
        entry.map(path).into_iter().collect()
    }

    /// Sites that a link may span.
    fn connections(&self) -> Vec<Connection> {
        let joins = |name: &String| {
            let site = self.input.sites.iter().find(|s| s.name == *name);
            site.is_some_and(|s| s.capabilities.inter_site_links)
        };
        let all = self.input.wan.map(|w| w.connections.as_slice()).unwrap_or_default();
        all.iter().filter(|c| joins(&c.a) && joins(&c.b)).cloned().collect()
    }

    /// Without a wide-area network, a service stays in one piece.
    fn together(&self, members: &[&str]) -> Vec<Group> {
        if self.input.wan.is_some() || members.len() < 2 {
            return Vec::new();
        }
        let members = members.iter().map(|m| (*m).to_owned()).collect();
        vec![Group { name: "one site".into(), members }]
    }

    /// Sites that lack what a member asks for: each is looked at as if everything were to go there.
    fn misfits(&self, counts: &Counts, members: &[&str], stays: &impl Fn(&&str) -> bool) -> Vec<Exclusion> {
        let mut out = Vec::new();
        for site in self.input.sites {
            let there = Seats { main: site.name.clone(), members: BTreeMap::new() };
            let objects = match self.topology.objects(counts, &there, None) {
                Ok(objects) => Some(objects),
                Err(refusal) if refusal.code == "NO_SITE" => None,
                // What is wrong with the descriptors is said when the objects are made.
                Err(_) => return Vec::new(),
            };
            for member in members.iter().filter(|m| !stays(m)) {
                let why = match &objects {
                    Some(objects) => fit::misfit(site, member, objects),
                    None => self.topology.lacking(member, site),
                };
                out.extend(why.map(|why| Exclusion {
                    site: site.name.clone(),
                    member: Some((*member).to_owned()),
                    why,
                }));
            }
        }
        out
    }

    /// Where nothing new goes: sites that had no room, and, when moving, where the members are now.
    fn exclusions(&self, now: Option<&Seats>, moving: &BTreeSet<String>) -> Vec<Exclusion> {
        let known = |site: &str| self.input.sites.iter().any(|s: &Site| s.name == site);
        let stayers = moving.len() < now.map_or(0, |n| n.members.len());
        let full = self.input.without.iter().filter(|(s, _)| known(s)).flat_map(|(site, why)| {
            let all: Vec<Option<String>> =
                if stayers { moving.iter().cloned().map(Some).collect() } else { vec![None] };
            all.into_iter().map(move |member| Exclusion {
                site: site.clone(),
                member,
                why: format!("it had no room: {why}"),
            })
        });
        let left = moving.iter().filter_map(|m| now.map(|n| (m, n.of_member(m).to_owned())));
        let left = left.filter(|(_, s)| known(s)).map(|(m, site)| Exclusion {
            site,
            member: Some(m.clone()),
            why: "it is to move away from there".into(),
        });
        full.chain(left).collect()
    }
}
