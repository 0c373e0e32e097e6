//! What a placement is and costs, and the reason against every other place.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{
    model::{MILLI, MILLI_PER_US, Model, Shares, Violation, bit, lack, member_cost, signed},
    problem::{Leg, Link, Member, Path, Problem},
};

/// A cost, in thousandths of the unit that a site's `cost` per vCPU is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cost(pub i64);

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, n) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        match n % 1000 {
            0 => f.pad(&format!("{sign}{}", n / 1000)),
            rest => f.pad(format!("{sign}{}.{rest:03}", n / 1000).trim_end_matches('0')),
        }
    }
}

/// Why a member is not on a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// The site cannot be asked.
    SiteProblem,
    /// It takes nothing new.
    SiteDrained,
    /// It has refused already.
    SiteExcluded,
    /// The intent names other sites.
    SiteNotAllowed,
    /// It is in another jurisdiction.
    Jurisdiction,
    /// Restricted traffic, and no jurisdiction is named.
    JurisdictionUnnamed,
    /// Too far from the tenant.
    SiteLatency,
    /// Too few vCPUs.
    CapacityVcpus,
    /// Too little memory.
    CapacityMemory,
    /// Too few instances.
    CapacityInstances,
    /// Too few virtual functions.
    CapacityVfs,
    /// Too little bandwidth at the site.
    CapacityBandwidth,
    /// The tenant may use no more there.
    SiteQuota,
    /// It cannot attest.
    Attestation,
    /// It has no trusted execution environment.
    Tee,
    /// The member stays where it is.
    Pinned,
    /// Something that must be on the same site cannot.
    Affinity,
    /// Something that must not be on the same site is.
    AntiAffinity,
    /// A member that it talks to is on a site that this one is not connected with.
    NotConnected,
    /// The connection of two sites has no room for the traffic.
    LinkBandwidth,
    /// It could be there, and Z would be higher.
    CostsMore,
    /// It could be there, at the same Z; names decide.
    CostsTheSame,
}

impl Code {
    /// Stable name, `UPPER_SNAKE_CASE`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SiteProblem => "SITE_PROBLEM",
            Self::SiteDrained => "SITE_DRAINED",
            Self::SiteExcluded => "SITE_EXCLUDED",
            Self::SiteNotAllowed => "SITE_NOT_ALLOWED",
            Self::Jurisdiction => "JURISDICTION",
            Self::JurisdictionUnnamed => "JURISDICTION_UNNAMED",
            Self::SiteLatency => "SITE_LATENCY",
            Self::CapacityVcpus => "CAPACITY_VCPUS",
            Self::CapacityMemory => "CAPACITY_MEMORY",
            Self::CapacityInstances => "CAPACITY_INSTANCES",
            Self::CapacityVfs => "CAPACITY_VFS",
            Self::CapacityBandwidth => "CAPACITY_BANDWIDTH",
            Self::SiteQuota => "SITE_QUOTA",
            Self::Attestation => "ATTESTATION",
            Self::Tee => "TEE",
            Self::Pinned => "PINNED",
            Self::Affinity => "AFFINITY",
            Self::AntiAffinity => "ANTI_AFFINITY",
            Self::NotConnected => "NOT_CONNECTED",
            Self::LinkBandwidth => "LINK_BANDWIDTH",
            Self::CostsMore => "COSTS_MORE",
            Self::CostsTheSame => "COSTS_THE_SAME",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The reason against one site for one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Against {
    /// The member.
    pub member: String,
    /// The site.
    pub site: String,
    /// Which constraint, or that it costs more.
    pub code: Code,
    /// For people.
    pub text: String,
    /// Does it hold whatever the other members do?
    pub alone: bool,
    /// By how much Z rises when it alone moves there (with what is bound to it by affinity); absent: it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worse_by: Option<Cost>,
}

/// What a member adds to Z.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberPart {
    /// The member.
    pub member: String,
    /// Its site.
    pub site: String,
    /// vCPUs x the site's cost.
    pub cost: Cost,
}

/// What a path adds to Z.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathPart {
    /// The path.
    pub path: String,
    /// Latency of each leg, in order, µs.
    pub legs_us: Vec<u64>,
    /// Their sum, µs.
    pub latency_us: u64,
    /// What was promised, µs.
    pub bound_us: u64,
    /// 1 per 100 µs.
    pub distance: Cost,
    /// For what is over the bound.
    pub penalty: Cost,
}

/// What a connection in use adds to Z.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionPart {
    /// One site.
    pub a: String,
    /// The other.
    pub b: String,
    /// Links that cross it.
    pub links: Vec<String>,
    /// Their traffic, kbit/s.
    pub traffic_kbps: u64,
    /// Free bandwidth, kbit/s; absent: more than we can fill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_kbps: Option<u64>,
    /// For traffic that it has no room for.
    pub penalty: Cost,
}

/// What a site that the service opens adds to Z.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SitePart {
    /// The site.
    pub site: String,
    /// What stays free there, mean share of its total, millionths.
    pub unused_ppm: u64,
    /// Alpha x that.
    pub unused: Cost,
}

/// What Z is made of; the costs in it add up to Z.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// By member.
    pub members: Vec<MemberPart>,
    /// By path.
    pub paths: Vec<PathPart>,
    /// By pair of sites that traffic crosses.
    pub connections: Vec<ConnectionPart>,
    /// By site in use.
    pub sites: Vec<SitePart>,
}

impl Parts {
    /// The sum.
    #[must_use]
    pub fn total(&self) -> Cost {
        let members = self.members.iter().map(|m| m.cost.0);
        let paths = self.paths.iter().map(|p| p.distance.0.saturating_add(p.penalty.0));
        let connections = self.connections.iter().map(|c| c.penalty.0);
        let sites = self.sites.iter().map(|s| s.unused.0);
        Cost(members.chain(paths).chain(connections).chain(sites).fold(0, i64::saturating_add))
    }
}

/// A placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Site by member.
    pub assignment: BTreeMap<String, String>,
    /// Its cost.
    pub z: Cost,
    /// What the cost is made of.
    pub parts: Parts,
    /// Is nothing cheaper possible?
    pub optimal: bool,
    /// Nothing is cheaper than this; equal to `z` when optimal.
    pub lower_bound: Cost,
    /// How far `z` is above the bound, per mille of `z`, rounded up; 0 when optimal.
    pub gap_permille: u32,
    /// Nodes of the search.
    pub nodes: u64,
    /// For every member and every site that it is not on.
    pub against: Vec<Against>,
}

impl Answer {
    /// Sites that no member is on, each with one reason: of the first member that cannot be there
    /// whatever the others do, else that cannot as the others are, else the first. Sites that cannot be come first.
    ///
    /// What a plan says about the candidates that it did not choose.
    #[must_use]
    pub fn refused(&self) -> Vec<(String, String)> {
        let mut first: BTreeMap<&str, &Against> = BTreeMap::new();
        for a in self.against.iter().filter(|a| !self.assignment.values().any(|s| *s == a.site)) {
            let known = first.entry(&a.site).or_insert(a);
            let rank = |a: &Against| (a.worse_by.is_some(), !a.alone);
            if rank(a) < rank(known) {
                *known = a;
            }
        }
        let mut sites: Vec<_> = first.into_values().collect();
        sites.sort_by_key(|a| (a.worse_by.is_some(), a.worse_by, a.site.clone()));
        sites.into_iter().map(|a| (a.site.clone(), a.text.clone())).collect()
    }
}

/// What an assignment costs, and the reasons against all others; how good it is, the search says.
pub(super) fn answer(problem: &Problem, model: &Model, sites: &[usize]) -> Answer {
    let view = View { problem, model, sites };
    let parts = Parts {
        members: view.members(),
        paths: view.paths(),
        connections: view.connections(),
        sites: view.sites(),
    };
    let assignment = parts.members.iter().map(|m| (m.member.clone(), m.site.clone())).collect();
    let z = parts.total();
    debug_assert_eq!(Ok(z.0), model.evaluate(sites));
    let against = view.against(z);
    Answer { assignment, z, parts, optimal: false, lower_bound: Cost(0), gap_permille: 0, nodes: 0, against }
}

struct View<'a> {
    problem: &'a Problem,
    model: &'a Model,
    sites: &'a [usize],
}

impl View<'_> {
    fn member(&self, position: usize) -> &Member {
        &self.problem.members[self.model.members[position]]
    }

    fn site_name(&self, site: usize) -> &str {
        &self.problem.sites[self.model.sites[site]].name
    }

    fn site_of(&self, member: &str) -> usize {
        let position = (0..self.model.members.len()).find(|p| self.member(*p).name == member);
        position.map_or(0, |p| self.sites[self.model.block_of[p]])
    }

    fn members(&self) -> Vec<MemberPart> {
        let part = |p: usize| {
            let (member, site) = (self.member(p), self.sites[self.model.block_of[p]]);
            let cost = Cost(member_cost(self.problem, member, self.model.sites[site]));
            MemberPart { member: member.name.clone(), site: self.site_name(site).to_owned(), cost }
        };
        (0..self.model.members.len()).map(part).collect()
    }

    fn leg_us(&self, leg: &Leg) -> u64 {
        match leg {
            Leg::Access(member) => self.problem.sites[self.model.sites[self.site_of(member)]].latency_us,
            Leg::Link(name) => {
                let link = self.problem.links.iter().find(|l| l.name == *name);
                link.map_or(0, |l| self.model.latency_us(self.site_of(&l.a), self.site_of(&l.b)))
            }
        }
    }

    fn paths(&self) -> Vec<PathPart> {
        let part = |path: &Path| {
            let legs_us: Vec<u64> = path.legs.iter().map(|l| self.leg_us(l)).collect();
            let latency_us = legs_us.iter().fold(0, |sum: u64, us| sum.saturating_add(*us));
            let over = signed(latency_us.saturating_sub(path.bound_us));
            let rate = i64::from(path.penalty_per_us).saturating_mul(path.weight.into());
            PathPart {
                path: path.name.clone(),
                legs_us,
                latency_us,
                bound_us: path.bound_us,
                distance: Cost(signed(latency_us).saturating_mul(MILLI_PER_US)),
                penalty: Cost(over.saturating_mul(rate.saturating_mul(MILLI))),
            }
        };
        self.problem.paths.iter().map(part).collect()
    }

    fn connections(&self) -> Vec<ConnectionPart> {
        let mut used: BTreeMap<(usize, usize), Vec<&Link>> = BTreeMap::new();
        for link in &self.problem.links {
            let (a, b) = (self.site_of(&link.a), self.site_of(&link.b));
            if a != b {
                used.entry((a.min(b), a.max(b))).or_default().push(link);
            }
        }
        let part = |((a, b), links): ((usize, usize), Vec<&Link>)| {
            let traffic_kbps = links.iter().fold(0, |sum: u64, l| sum.saturating_add(l.traffic_kbps));
            let bandwidth = self.model.bandwidth_kbps(a, b);
            ConnectionPart {
                a: self.site_name(a).to_owned(),
                b: self.site_name(b).to_owned(),
                links: links.iter().map(|l| l.name.clone()).collect(),
                traffic_kbps,
                bandwidth_kbps: (bandwidth != u64::MAX).then_some(bandwidth),
                penalty: Cost(self.model.congestion(a, b, traffic_kbps).unwrap_or(0)),
            }
        };
        used.into_iter().map(part).collect()
    }

    fn sites(&self) -> Vec<SitePart> {
        let shares = Shares::of(self.problem);
        let part = |site: usize| {
            let index = self.model.sites[site];
            let here = (0..self.model.members.len()).filter(|p| self.sites[self.model.block_of[*p]] == site);
            let (mut unused_ppm, mut unused) = (shares.room_ppm(index), shares.room(index));
            for p in here {
                unused_ppm = unused_ppm.saturating_sub(shares.member_ppm(self.member(p), index));
                unused -= shares.share(self.member(p), index);
            }
            SitePart { site: self.site_name(site).to_owned(), unused_ppm, unused: Cost(unused) }
        };
        let used: BTreeSet<usize> = self.sites.iter().copied().collect();
        used.into_iter().map(part).collect()
    }

    fn against(&self, z: Cost) -> Vec<Against> {
        let mut all = Vec::new();
        for position in 0..self.model.members.len() {
            let block = self.model.block_of[position];
            for index in (0..self.model.width()).filter(|s| *s != self.sites[block]) {
                let (code, text, worse_by) = match &self.model.reasons[position][index] {
                    Some(reason) => (reason.code, reason.text.clone(), None),
                    None => self.moved(block, index, z),
                };
                let (member, site) = (self.member(position).name.clone(), self.site_name(index).to_owned());
                let alone = self.model.reasons[position][index].is_some();
                all.push(Against { member, site, code, text, alone, worse_by });
            }
        }
        all
    }

    /// What becomes of Z when one block moves.
    fn moved(&self, block: usize, site: usize, z: Cost) -> (Code, String, Option<Cost>) {
        let mut sites = self.sites.to_vec();
        sites[block] = site;
        let now = self.site_name(self.sites[block]);
        match self.model.evaluate(&sites) {
            Ok(other) if other == z.0 => {
                let text = format!("feasible, but costs {z} as well; {now} is first by name or as found");
                (Code::CostsTheSame, text, Some(Cost(0)))
            }
            Ok(other) => {
                let text = format!("feasible, but costs {} against {z} on {now}", Cost(other));
                (Code::CostsMore, text, Some(Cost(other.saturating_sub(z.0))))
            }
            Err(violation) => {
                let (code, text) = self.violated(violation, block, &sites);
                (code, text, None)
            }
        }
    }

    fn names(&self, blocks: impl Iterator<Item = usize>) -> String {
        let members = blocks.flat_map(|b| &self.model.blocks[b]);
        members.map(|p| format!("`{}`", self.member(*p).name)).collect::<Vec<_>>().join(", ")
    }

    fn violated(&self, violation: Violation, block: usize, sites: &[usize]) -> (Code, String) {
        match violation {
            Violation::Capacity { site, dimension, need } => {
                let there = (0..sites.len()).filter(|b| *b != block && sites[*b] == site);
                let at = &self.problem.sites[self.model.sites[site]];
                let (code, short) = lack(at, dimension, need);
                (code, format!("with {} there it {short}", self.names(there)))
            }
            Violation::Apart { group, other } => {
                let with = (0..sites.len()).find(|b| {
                    *b != other && sites[*b] == sites[other] && self.model.apart[group] & bit(*b) != 0
                });
                let with = if with == Some(block) { Some(other) } else { with };
                let name = &self.problem.anti_affinity[group].name;
                let text = format!("{} is there; anti-affinity `{name}`", self.names(with.into_iter()));
                (Code::AntiAffinity, text)
            }
            Violation::Unconnected { edge } => {
                let e = &self.model.edges[edge];
                let other = if e.a == block { e.b } else { e.a };
                let link = e.links.first().map_or("", |l| self.problem.links[*l].name.as_str());
                let text = format!(
                    "not connected with {}, where {} is; link `{link}`",
                    self.site_name(sites[other]),
                    self.names(std::iter::once(other))
                );
                (Code::NotConnected, text)
            }
            Violation::Bandwidth { a, b, load } => {
                let (free, a, b) = (self.model.bandwidth_kbps(a, b), self.site_name(a), self.site_name(b));
                let text = format!("{load} kbit/s between {a} and {b}, {free} are free");
                (Code::LinkBandwidth, text)
            }
        }
    }
}
