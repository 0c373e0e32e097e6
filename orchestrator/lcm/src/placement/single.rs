//! A service that stays on one site: which, and why not the others.

use attestation::AkRecord;
use ledger_contract::intent::{Deploy, Sensitivity};
use serde::{Deserialize, Serialize};
use trust::UnixTime;
use vim::{Capabilities, HostRoom, Inventory, Resources, Room, VIRTUAL_FUNCTIONS};

use super::{Amounts, Budget, Candidate, Leg, Member, Path, PlacementError, Problem, Rules};

/// A site as observed once, at planning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Name.
    pub name: String,
    /// ISO 3166-1 alpha-2.
    pub jurisdiction: String,
    /// Latency from the tenants, µs.
    pub latency_us: u64,
    /// Relative cost of a vCPU.
    pub cost: u32,
    /// What its VIM can do.
    pub capabilities: Capabilities,
    /// What it holds and has room for.
    pub inventory: Inventory,
    /// Its registered attestation key, as granted.
    pub ak: Option<AkRecord>,
    /// Why it cannot be asked, if so.
    pub problem: Option<String>,
    /// Does it take nothing new, by its operator's word?
    #[serde(default)]
    pub drained: bool,
    /// The trusted execution environment that its operator says it has.
    #[serde(default)]
    pub tee: Option<String>,
    /// What it has for what descriptors leave open.
    #[serde(default)]
    pub defaults: Defaults,
}

/// What a site gives where a descriptor names nothing, as its operator configured it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// The network of links with `mgmt-network` (OSM: `management_network_name`); absent: one that is named as the link.
    pub management_network: Option<String>,
    /// The physical network of links with virtual functions (OSM: `dataplane_physical_net`).
    pub physical_network: Option<String>,
    /// The external network of floating addresses.
    pub external_network: Option<String>,
    /// Availability zone of new instances.
    pub zone: Option<String>,
}

/// Why no site will do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no site can take it: {}", refused.iter().map(|(s, why)| format!("{s}: {why}")).collect::<Vec<_>>().join("; "))]
pub struct NoSite {
    /// Every candidate, and why not.
    pub refused: Vec<(String, String)>,
}

/// What a deployment asks of its site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand<'a> {
    /// Hints and sensitivity.
    pub deploy: &'a Deploy,
    /// Everything it will use, the measuring probe included.
    pub resources: Resources,
    /// Must its instances be attested?
    pub attestation: bool,
    /// Ledger time of the decision.
    pub at: UnixTime,
}

/// The site chosen, and every other one with the reason against it.
pub type Placed<'a> = (&'a Site, Vec<(String, String)>);

/// The cheapest feasible site for a service that stays together (ties by name), and the reason for every other one.
///
/// The special case of [`solve`](super::solve) with one member: Z is the vCPUs x the site's cost + 1 per 100 µs of its
/// latency.
pub fn place<'a>(demand: &Demand<'_>, sites: &'a [Site]) -> Result<Placed<'a>, NoSite> {
    let problem = problem(demand, sites);
    let answer = match super::solve(&problem, Budget::default()) {
        Ok(answer) => answer,
        Err(PlacementError::Unplaceable(why)) => {
            return Err(NoSite { refused: why.against.into_iter().map(|a| (a.site, a.text)).collect() });
        }
        Err(other) => return Err(NoSite { refused: vec![("every site".into(), other.to_string())] }),
    };
    let chosen = answer.assignment.values().next().and_then(|name| sites.iter().find(|s| s.name == *name));
    match chosen {
        Some(site) => Ok((site, answer.refused())),
        None => Err(NoSite { refused: Vec::new() }),
    }
}

const WHOLE: &str = "service";

fn problem(demand: &Demand<'_>, sites: &[Site]) -> Problem {
    let member = Member {
        name: WHOLE.into(),
        demand: demand.resources.into(),
        rules: Rules::of(demand.deploy, demand.attestation),
        ..Member::default()
    };
    let path = Path {
        name: WHOLE.into(),
        legs: vec![Leg::Access(WHOLE.into())],
        bound_us: u64::MAX,
        penalty_per_us: 0,
        weight: 0,
    };
    Problem {
        members: vec![member],
        paths: vec![path],
        sites: sites.iter().map(|s| Candidate::of(s, demand.at)).collect(),
        ..Problem::default()
    }
}

impl Rules {
    /// The rules of a deployment; they hold for each of its members.
    #[must_use]
    pub fn of(deploy: &Deploy, attestation: bool) -> Self {
        let hints = &deploy.placement;
        Self {
            sites: hints.sites.clone(),
            jurisdictions: hints.jurisdictions.clone(),
            sovereign: deploy.sensitivity == Sensitivity::Restricted,
            max_latency_us: hints.max_site_latency_us,
            attestation,
            tee: false,
        }
    }
}

impl Candidate {
    /// A site as observed; `at` is the ledger time at which its attestation key must be valid.
    #[must_use]
    pub fn of(site: &Site, at: UnixTime) -> Self {
        let (total, used) = (site.inventory.total, site.inventory.used);
        let free = Resources {
            vcpus: total.vcpus.saturating_sub(used.vcpus),
            memory_mib: total.memory_mib.saturating_sub(used.memory_mib),
            instances: total.instances.saturating_sub(used.instances),
        };
        let vfs = virtual_functions(&site.inventory);
        Self {
            name: site.name.clone(),
            jurisdiction: site.jurisdiction.clone(),
            latency_us: site.latency_us,
            cost: site.cost,
            total: Amounts { vfs: vfs.0, ..total.into() },
            free: Amounts { vfs: vfs.1, ..free.into() },
            problem: site.problem.clone(),
            quota: None,
            drained: site.drained.then(|| "its operator drains it: it takes nothing new".into()),
            no_attestation: no_attestation(site, at),
            no_tee: match &site.tee {
                Some(_) => None,
                None => Some(NO_TEE.into()),
            },
        }
    }
}

/// Virtual functions in all, and those that are free on hosts that take something new. A VIM that counts none is not known to be
/// short of them.
fn virtual_functions(inventory: &Inventory) -> (u32, u32) {
    let classes = |h: &HostRoom| -> Vec<Room> {
        h.room.iter().filter(|(class, _)| class.starts_with(VIRTUAL_FUNCTIONS)).map(|(_, r)| *r).collect()
    };
    if !inventory.hosts.values().any(|h| !classes(h).is_empty()) {
        return (u32::MAX, u32::MAX);
    }
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let all = inventory.hosts.values().flat_map(classes).fold(0, |sum: u64, r| sum.saturating_add(r.total));
    let open = inventory.hosts.values().filter(|h| h.enabled).flat_map(classes);
    (narrow(all), narrow(open.fold(0, |sum: u64, r| sum.saturating_add(r.free()))))
}

/// No driver has one, and no evidence that is appraised shows one.
pub(crate) const NO_TEE: &str =
    "a trusted execution environment is required and the site offers none: its TPM attests a measured launch";

fn no_attestation(site: &Site, at: UnixTime) -> Option<String> {
    if !site.capabilities.attestation {
        return Some("attestation is required and the site has no TPM".into());
    }
    match &site.ak {
        None => Some("attestation is required and the site's attestation key is not registered".into()),
        Some(ak) if at < ak.not_before || at > ak.not_after => {
            Some(format!("its attestation key is valid from {} to {}", ak.not_before, ak.not_after))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger_contract::intent::{PlacementHints, Sla};
    use std::collections::BTreeMap;

    fn deploy() -> Deploy {
        Deploy {
            nsd_package: trust::Digest::of("nsd"),
            sla: Sla { throughput_kbps: 1, latency_p95_us: 1, loss_ppm: 1 },
            placement: PlacementHints::default(),
            sensitivity: Sensitivity::Internal,
            lease_s: 60,
            vnf_params: BTreeMap::new(),
        }
    }

    fn site(name: &str, cost: u32, vcpus: u32) -> Site {
        Site {
            name: name.into(),
            jurisdiction: "DE".into(),
            latency_us: 500,
            cost,
            capabilities: Capabilities::default(),
            inventory: Inventory {
                total: Resources { vcpus, memory_mib: 1000, instances: 10 },
                ..Inventory::default()
            },
            ak: None,
            problem: None,
            drained: false,
            tee: None,
            defaults: Defaults::default(),
        }
    }

    fn demand(deploy: &Deploy) -> Demand<'_> {
        let resources = Resources { vcpus: 4, memory_mib: 500, instances: 4 };
        Demand { deploy, resources, attestation: false, at: UnixTime(1) }
    }

    #[test]
    fn cheapest_wins_and_every_other_has_a_reason() {
        let d = deploy();
        let sites = [site("b", 2, 8), site("a", 3, 8), site("c", 1, 3)];
        let (chosen, refused) = place(&demand(&d), &sites).unwrap();
        assert_eq!(chosen.name, "b");
        assert_eq!(
            refused,
            [
                ("c".into(), "needs 4 vCPUs, 3 of 3 are free".into()),
                ("a".into(), "feasible, but costs 17 against 13 on b".into())
            ]
        );
    }

    #[test]
    fn each_hint_refuses() {
        let mut d = deploy();
        let sites = [site("a", 1, 8)];
        let why = |d: &Deploy, attestation| {
            let demand = Demand { attestation, ..demand(d) };
            place(&demand, &sites).unwrap_err().refused[0].1.clone()
        };
        assert!(why(&d, true).contains("no TPM"));
        d.placement.sites = vec!["x".into()];
        assert!(why(&d, false).contains("allows only x"));
        d.placement = PlacementHints { jurisdictions: vec!["FR".into()], ..PlacementHints::default() };
        assert!(why(&d, false).contains("jurisdiction DE"));
        d.placement = PlacementHints { max_site_latency_us: Some(499), ..PlacementHints::default() };
        assert!(why(&d, false).contains("latency 500"));
        d.placement = PlacementHints::default();
        d.sensitivity = Sensitivity::Restricted;
        assert!(why(&d, false).contains("jurisdictions named"));
    }
}
