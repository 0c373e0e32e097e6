//! What is to be placed, where it could go, and what must hold.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use vim::Resources;

/// Most members of one service: sets of them are kept in 128 bits.
pub const MAX_MEMBERS: usize = 128;
/// Most sites to choose from: sets of them are kept in 128 bits. An intent that allows fewer is quicker anyway.
pub const MAX_SITES: usize = 128;
/// Most links: each has a table of all pairs of sites.
const MAX_LINKS: usize = 256;
/// Most paths, legs of all paths, groups: looked at again for every node of the search.
const MAX_PARTS: usize = 1024;

/// Kinds of resource.
pub(super) const DIMENSIONS: usize = 5;

/// Amounts of each kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Amounts {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// VDU instances.
    pub instances: u32,
    /// SR-IOV virtual functions.
    pub vfs: u32,
    /// Bandwidth of the site's uplinks, kbit/s.
    pub bandwidth_kbps: u32,
}

impl Amounts {
    pub(super) fn array(self) -> [u32; DIMENSIONS] {
        [self.vcpus, self.memory_mib, self.instances, self.vfs, self.bandwidth_kbps]
    }

    /// The sum, each kind by itself.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            instances: self.instances.saturating_add(other.instances),
            vfs: self.vfs.saturating_add(other.vfs),
            bandwidth_kbps: self.bandwidth_kbps.saturating_add(other.bandwidth_kbps),
        }
    }
}

impl Candidate {
    /// What can be placed there: what is free, as far as the tenant's quota goes.
    pub(super) fn room(&self) -> [u64; DIMENSIONS] {
        let free = self.free.array().map(u64::from);
        let quota = self.quota.map(|q| q.array().map(u64::from));
        std::array::from_fn(|d| quota.map_or(free[d], |q| free[d].min(q[d])))
    }
}

impl From<Resources> for Amounts {
    fn from(r: Resources) -> Self {
        Self { vcpus: r.vcpus, memory_mib: r.memory_mib, instances: r.instances, ..Self::default() }
    }
}

/// A member VNF.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Member VNF index of the NSD; unique.
    pub name: String,
    /// What all its instances together use.
    pub demand: Amounts,
    /// What it has already: there it needs only what goes beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// Stays on this site (a migration moves one member and keeps the others), whatever the rules say; only what it
    /// needs beyond what it holds must be free there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
    /// Where it may go.
    #[serde(default)]
    pub rules: Rules,
}

/// Resources that a member uses at a site now, and that the site counts as used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The site.
    pub site: String,
    /// How much.
    pub amounts: Amounts,
}

/// Rules for the site of a member; empty: any.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Only these sites; empty: any.
    pub sites: Vec<String>,
    /// Only sites of these jurisdictions (ISO 3166-1 alpha-2); empty: any.
    pub jurisdictions: Vec<String>,
    /// Sovereignty: an empty list of jurisdictions allows none.
    pub sovereign: bool,
    /// Highest latency from the tenant to the site, µs.
    pub max_latency_us: Option<u64>,
    /// Its instances are to be attested.
    pub attestation: bool,
    /// Its instances are to run in a trusted execution environment.
    pub tee: bool,
}

/// Traffic between two members. A virtual link with more connection points is several of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Unique; the virtual link's id, and what tells several pairs of it apart.
    pub name: String,
    /// One member.
    pub a: String,
    /// The other.
    pub b: String,
    /// Traffic between the two, both ways together, kbit/s.
    pub traffic_kbps: u64,
}

/// One way of the service's traffic, with what was promised for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Path {
    /// Unique.
    pub name: String,
    /// What it runs over; a leg that is used both ways is listed twice.
    pub legs: Vec<Leg>,
    /// Highest sum of the legs' latencies, µs.
    pub bound_us: u64,
    /// Penalty for each µs over the bound.
    pub penalty_per_us: u32,
    /// Weight of the SLA; the penalty is multiplied by it.
    pub weight: u32,
}

/// A leg of a [`Path`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leg {
    /// From the tenant to this member's site.
    Access(String),
    /// Between the sites of the two members of this link; within a site nothing.
    Link(String),
}

/// A site.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Name; unique.
    pub name: String,
    /// ISO 3166-1 alpha-2.
    pub jurisdiction: String,
    /// Latency from the tenant, µs.
    pub latency_us: u64,
    /// Cost of a vCPU.
    pub cost: u32,
    /// All it has.
    pub total: Amounts,
    /// What of it is not in use.
    pub free: Amounts,
    /// What the tenant may still use there, by the policy; absent: as much as is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Amounts>,
    /// Why it cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Why it takes nothing new; what is pinned there stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<String>,
    /// Why it cannot attest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_attestation: Option<String>,
    /// Why it has no trusted execution environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_tee: Option<String>,
}

/// A connection of two sites, both ways. Sites without one are not connected: members that share a link cannot be split
/// over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// One site.
    pub a: String,
    /// The other.
    pub b: String,
    /// Latency, one way, µs.
    pub latency_us: u64,
    /// Free bandwidth, both ways together, kbit/s; absent: more than we can fill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_kbps: Option<u64>,
}

/// Members that belong together, or that must not be together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// SOL: `affinityOrAntiAffinityGroup` id.
    pub name: String,
    /// Its members.
    pub members: Vec<String>,
}

/// A site that has refused already (OpenStack's NoValidHost).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// The site.
    pub site: String,
    /// The member that it refused; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// What it said.
    pub why: String,
}

/// What things cost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Costs {
    /// Alpha, per mille: price of unused capacity.
    pub alpha_permille: u32,
    /// Penalty for each started Mbit/s of traffic that a connection has no room for; absent: it must fit.
    pub shortfall_per_mbps: Option<u32>,
}

/// A placement problem. The order of the lists does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Problem {
    /// What is to be placed.
    pub members: Vec<Member>,
    /// Who talks to whom.
    pub links: Vec<Link>,
    /// What was promised for which way.
    pub paths: Vec<Path>,
    /// Where.
    pub sites: Vec<Candidate>,
    /// Which sites are connected.
    pub connections: Vec<Connection>,
    /// Each on one site.
    pub affinity: Vec<Group>,
    /// Each member on a site of its own.
    pub anti_affinity: Vec<Group>,
    /// Not there.
    pub exclusions: Vec<Exclusion>,
    /// What things cost.
    pub costs: Costs,
}

/// A problem that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{name}`: {problem}")]
pub struct Malformed {
    /// `member`, `link`, `path`, `site`, `connection`, `group`, `exclusion`, `problem`.
    pub what: &'static str,
    /// Which.
    pub name: String,
    /// What is wrong with it and what is right.
    pub problem: String,
}

type Names<'a> = BTreeSet<&'a str>;

impl Problem {
    /// Names are unique, references resolve, sizes are within bounds.
    pub fn check(&self) -> Result<(), Malformed> {
        self.check_sizes()?;
        let members = unique("member", self.members.iter().map(|m| m.name.as_str()))?;
        let sites = unique("site", self.sites.iter().map(|s| s.name.as_str()))?;
        let links = unique("link", self.links.iter().map(|l| l.name.as_str()))?;
        unique("path", self.paths.iter().map(|p| p.name.as_str()))?;
        for link in &self.links {
            known("link", &link.name, &members, [&link.a, &link.b])?;
        }
        for path in &self.paths {
            for leg in &path.legs {
                match leg {
                    Leg::Access(member) => known("path", &path.name, &members, [member])?,
                    Leg::Link(link) => known("path", &path.name, &links, [link])?,
                }
            }
        }
        for group in self.affinity.iter().chain(&self.anti_affinity) {
            known("group", &group.name, &members, &group.members)?;
        }
        for exclusion in &self.exclusions {
            known("exclusion", &exclusion.site, &members, &exclusion.member)?;
        }
        for member in &self.members {
            known("member", &member.name, &sites, &member.pinned)?;
        }
        self.check_connections(&sites)
    }

    fn check_sizes(&self) -> Result<(), Malformed> {
        let groups = self.affinity.len().saturating_add(self.anti_affinity.len());
        for (what, count, max) in [
            ("members", self.members.len(), MAX_MEMBERS),
            ("sites", self.sites.len(), MAX_SITES),
            ("links", self.links.len(), MAX_LINKS),
            ("paths", self.paths.len(), MAX_PARTS),
            ("legs", self.paths.iter().map(|p| p.legs.len()).sum(), MAX_PARTS),
            ("groups", groups, MAX_PARTS),
        ] {
            if count > max {
                let problem = format!("{count} {what}; at most {max}: split the service, or name its sites");
                return Err(Malformed { what: "problem", name: what.into(), problem });
            }
        }
        Ok(())
    }

    fn check_connections(&self, sites: &Names<'_>) -> Result<(), Malformed> {
        let mut seen = BTreeSet::new();
        for c in &self.connections {
            let name = format!("{} to {}", c.a, c.b);
            known("connection", &name, sites, [&c.a, &c.b])?;
            let pair = if c.a < c.b { (&c.a, &c.b) } else { (&c.b, &c.a) };
            if c.a == c.b || !seen.insert(pair) {
                let problem = "there once for each two sites".into();
                return Err(Malformed { what: "connection", name, problem });
            }
        }
        Ok(())
    }
}

fn unique<'a>(what: &'static str, names: impl Iterator<Item = &'a str>) -> Result<Names<'a>, Malformed> {
    let mut seen = Names::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Malformed { what, name: name.into(), problem: "there twice".into() });
        }
    }
    Ok(seen)
}

fn known<'a>(
    what: &'static str,
    name: &str,
    names: &Names<'_>,
    asked: impl IntoIterator<Item = &'a String>,
) -> Result<(), Malformed> {
    match asked.into_iter().find(|n| !names.contains(n.as_str())) {
        Some(n) => {
            let problem = format!("names `{n}`, which the problem does not have");
            Err(Malformed { what, name: name.into(), problem })
        }
        None => Ok(()),
    }
}
