//! Placement: which site, and why not the others.

use attestation::AkRecord;
use ledger_contract::intent::{Deploy, Sensitivity};
use serde::{Deserialize, Serialize};
use trust::UnixTime;
use vim::{Capabilities, Inventory, Resources};

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

/// The cheapest feasible site (ties by name), and the reason for every other one.
///
/// Cost Z = vCPUs x the site's cost + 1 per 100 µs of its latency: an SLA counts round trips, so a near site is worth
/// something, but a cheap one more.
pub fn place<'a>(demand: &Demand<'_>, sites: &'a [Site]) -> Result<Placed<'a>, NoSite> {
    let mut refused = Vec::new();
    let mut feasible: Vec<(u64, &Site)> = Vec::new();
    for site in sites {
        match refusal(demand, site) {
            Some(why) => refused.push((site.name.clone(), why)),
            None => feasible.push((cost(demand, site), site)),
        }
    }
    feasible.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    let Some((best, chosen)) = feasible.first().copied() else { return Err(NoSite { refused }) };
    for (z, site) in &feasible[1..] {
        refused
            .push((site.name.clone(), format!("feasible, but costs {z} against {best} on {}", chosen.name)));
    }
    Ok((chosen, refused))
}

fn cost(demand: &Demand<'_>, site: &Site) -> u64 {
    u64::from(demand.resources.vcpus) * u64::from(site.cost) + site.latency_us / 100
}

fn refusal(demand: &Demand<'_>, site: &Site) -> Option<String> {
    let hints = &demand.deploy.placement;
    if let Some(problem) = &site.problem {
        return Some(problem.clone());
    }
    if !hints.sites.is_empty() && !hints.sites.contains(&site.name) {
        return Some(format!("the intent allows only {}", hints.sites.join(", ")));
    }
    if !hints.jurisdictions.is_empty() && !hints.jurisdictions.contains(&site.jurisdiction) {
        return Some(format!(
            "jurisdiction {}; the intent allows {}",
            site.jurisdiction,
            hints.jurisdictions.join(", ")
        ));
    }
    if demand.deploy.sensitivity == Sensitivity::Restricted && hints.jurisdictions.is_empty() {
        return Some("restricted traffic needs its jurisdictions named".into());
    }
    if let Some(max) = hints.max_site_latency_us.filter(|max| site.latency_us > *max) {
        return Some(format!("latency {} µs; the intent allows {max} µs", site.latency_us));
    }
    capacity(&demand.resources, site).or_else(|| attestation(demand, site))
}

fn capacity(need: &Resources, site: &Site) -> Option<String> {
    let (total, used) = (&site.inventory.total, &site.inventory.used);
    let short = |what: &str, need: u32, total: u32, used: u32| {
        let free = total.saturating_sub(used);
        (need > free).then(|| format!("needs {need} {what}, {free} of {total} are free"))
    };
    short("vCPUs", need.vcpus, total.vcpus, used.vcpus)
        .or_else(|| short("MiB of memory", need.memory_mib, total.memory_mib, used.memory_mib))
        .or_else(|| short("instances", need.instances, total.instances, used.instances))
}

fn attestation(demand: &Demand<'_>, site: &Site) -> Option<String> {
    if !demand.attestation {
        return None;
    }
    if !site.capabilities.attestation {
        return Some("attestation is required and the site has no TPM".into());
    }
    match &site.ak {
        None => Some("attestation is required and the site's attestation key is not registered".into()),
        Some(ak) if demand.at < ak.not_before || demand.at > ak.not_after => {
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
