//! Room: what placement says of each host, the project's quota, and what the operator set.
//!
//! Two calls for any number of hosts: `allocation_candidates` has capacity and use of every host that has memory left. Totals
//! change seldom: inventories are asked for once in [`KEEP`]; hosts that are full are asked one by one. Who may not ask
//! placement has only its quota. Tests: the scenarios on a real cloud.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::{try_join_all, try_join3};
use reqwest::StatusCode;
use serde::Deserialize;
use vim::{ComputeSpec, HostRoom, Resources, Room, Vnic};

use crate::{
    client::{Call, Microversion, Service},
    cloud::{Network, Port, Server},
    driver::Site,
    error::CloudError,
    marks,
    port::vnic_of,
};

/// How long a host's inventory is taken for what it is.
const KEEP: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Deserialize)]
struct Provider {
    uuid: String,
    name: String,
    root_provider_uuid: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Inventory {
    total: u64,
    #[serde(default)]
    reserved: u64,
    #[serde(default = "one")]
    allocation_ratio: f64,
    #[serde(default)]
    max_unit: u64,
}

fn one() -> f64 {
    1.0
}

impl Inventory {
    /// What can be given out, overcommitment included (placement's own formula).
    fn capacity(&self) -> u64 {
        let thousandths = (self.allocation_ratio * 1000.0).clamp(0.0, 1e9).round();
        // Placement's ratios have few digits; a thousandth is enough, and exact in integers from here.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped above")]
        let thousandths = thousandths as u64;
        self.total.saturating_sub(self.reserved).saturating_mul(thousandths) / 1000
    }

    fn most(&self) -> u64 {
        let capacity = self.capacity();
        if self.max_unit == 0 || self.max_unit >= capacity { 0 } else { self.max_unit }
    }
}

#[derive(Debug, Deserialize)]
struct Provided {
    inventories: BTreeMap<String, Inventory>,
}

#[derive(Debug, Deserialize)]
struct Usages {
    usages: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Candidates {
    provider_summaries: BTreeMap<String, Summary>,
}

#[derive(Debug, Deserialize)]
struct Summary {
    resources: BTreeMap<String, Amount>,
}

#[derive(Debug, Deserialize)]
struct Amount {
    used: u64,
}

#[derive(Debug, Deserialize)]
struct Hypervisor {
    hypervisor_hostname: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    status: String,
    service: HypervisorService,
}

#[derive(Debug, Deserialize)]
struct HypervisorService {
    host: String,
}

#[derive(Debug, Deserialize)]
struct Limits {
    limits: Inner,
}

#[derive(Debug, Deserialize)]
struct Inner {
    absolute: Absolute,
}

/// A limit below 0 is none.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Absolute {
    max_total_cores: i64,
    #[serde(rename = "maxTotalRAMSize")]
    max_total_ram: i64,
    max_total_instances: i64,
    total_cores_used: i64,
    #[serde(rename = "totalRAMUsed")]
    total_ram_used: i64,
    total_instances_used: i64,
}

type Kept = BTreeMap<String, (Instant, BTreeMap<String, Inventory>)>;

/// Inventories of providers, kept.
#[derive(Default)]
pub(crate) struct Inventories(Mutex<Kept>);

/// What there is.
#[derive(Debug, Default)]
pub(crate) struct Found {
    hosts: BTreeMap<String, HostRoom>,
}

impl Site {
    /// Room on each host, by nova's names of them. Without the cloud's administration: none.
    pub(crate) async fn room(&self) -> Result<Found, CloudError> {
        match self.hosts_room().await {
            Ok(hosts) => Ok(Found { hosts }),
            Err(CloudError::Forbidden(_)) => Ok(Found::default()),
            Err(other) => Err(other),
        }
    }

    async fn hosts_room(&self) -> Result<BTreeMap<String, HostRoom>, CloudError> {
        let placement = |path: &str| Call::get(Service::Placement, path);
        let hypervisors = async {
            // From 2.88 on nova asks every host for its uptime meanwhile.
            let call = Call::get(Service::Compute, "os-hypervisors/detail").most(Microversion(2, 87));
            Ok::<Vec<Hypervisor>, CloudError>(self.client.all(call, "hypervisors").await?)
        };
        let providers = async {
            let call = placement("resource_providers");
            Ok(self.client.all::<Provider>(call, "resource_providers").await?)
        };
        let candidates = async {
            let call = placement("allocation_candidates").query("resources", "MEMORY_MB:1");
            Ok(self.client.ask::<Candidates>(&call).await?)
        };
        let (hypervisors, providers, candidates) = try_join3(hypervisors, providers, candidates).await?;
        let one = |p: Provider| self.provider_room(p, &candidates);
        let rooms = try_join_all(providers.clone().into_iter().map(one)).await?;
        let mut hosts = BTreeMap::new();
        for hypervisor in hypervisors {
            let root = providers.iter().find(|p| p.name == hypervisor.hypervisor_hostname);
            let Some(root) = root else { continue };
            let mut room: BTreeMap<String, Room> = BTreeMap::new();
            for (provider, classes) in rooms.iter().filter(|(p, _)| p.root_provider_uuid == root.uuid) {
                let _ = provider;
                for (class, amount) in classes {
                    let sum = room.entry(class.clone()).or_default();
                    sum.total += amount.total;
                    sum.used += amount.used;
                    sum.most = sum.most.max(amount.most);
                }
            }
            let enabled = hypervisor.state == "up" && hypervisor.status == "enabled";
            hosts.insert(hypervisor.service.host, HostRoom { enabled, room });
        }
        Ok(hosts)
    }

    async fn provider_room(
        &self,
        provider: Provider,
        candidates: &Candidates,
    ) -> Result<(Provider, BTreeMap<String, Room>), CloudError> {
        let inventory = self.inventory(&provider.uuid).await?;
        let summary = candidates.provider_summaries.get(&provider.uuid);
        let used: BTreeMap<String, u64> = match summary {
            Some(s) => s.resources.iter().map(|(class, a)| (class.clone(), a.used)).collect(),
            None if inventory.is_empty() => BTreeMap::new(),
            None => {
                let path = format!("resource_providers/{}/usages", provider.uuid);
                self.client.ask::<Usages>(&Call::get(Service::Placement, path)).await?.usages
            }
        };
        let room = inventory.into_iter().map(|(class, i)| {
            let used = used.get(&class).copied().unwrap_or_default();
            let room = Room { total: i.capacity(), used, most: i.most() };
            (class, room)
        });
        Ok((provider, room.collect()))
    }

    async fn inventory(&self, uuid: &str) -> Result<BTreeMap<String, Inventory>, CloudError> {
        let kept = || self.inventories.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, found)) = kept().get(uuid)
            && at.elapsed() < KEEP
        {
            return Ok(found.clone());
        }
        let call = Call::get(Service::Placement, format!("resource_providers/{uuid}/inventories"));
        let found = match self.client.ask::<Provided>(&call).await {
            Ok(answer) => answer.inventories,
            Err(e) if e.is_absent() => BTreeMap::new(),
            Err(e) => return Err(e.into()),
        };
        kept().insert(uuid.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }

    /// Virtual functions are added to what placement knows: as many as the operator says, less those of our ports.
    pub(crate) fn hosts(
        &self,
        found: Found,
        ports: &[Port],
        networks: &[Network],
    ) -> BTreeMap<String, HostRoom> {
        let mut hosts = found.hosts;
        for (physical, total) in &self.config.virtual_functions {
            let segments: BTreeSet<&str> = networks
                .iter()
                .filter(|n| n.physical_network.as_ref() == Some(physical))
                .map(|n| n.id.as_str())
                .collect();
            for (name, host) in &mut hosts {
                let on_it = |p: &&Port| {
                    p.host == *name
                        && vnic_of(&p.vnic_type) == Vnic::Direct
                        && segments.contains(p.network_id.as_str())
                };
                let used = ports.iter().filter(on_it).count() as u64;
                host.room.insert(format!("VF:{physical}"), Room { total: u64::from(*total), used, most: 0 });
            }
        }
        hosts
    }

    /// All that the site has, and what of it is used: by the capacity set, else by what is scarcer, hosts or quota.
    pub(crate) async fn total(
        &self,
        room: &Found,
        servers: &[Server],
    ) -> Result<(Resources, Resources), CloudError> {
        if let Some(total) = self.config.capacity {
            return Ok((total, used(servers.iter().filter(|s| s.mark(marks::HOME) == self.marks.home()))));
        }
        let limits = self.client.ask::<Limits>(&Call::get(Service::Compute, "limits")).await;
        let limits = match limits {
            Ok(found) => found.limits.absolute,
            Err(e) if e.status() == Some(StatusCode::FORBIDDEN) => {
                return Ok((Resources::default(), Resources::default()));
            }
            Err(e) => return Err(e.into()),
        };
        let sum = |class: &[&str], f: fn(&Room) -> u64| -> u64 {
            room.hosts.values().flat_map(|h| class.iter().filter_map(|c| h.room.get(*c))).map(f).sum()
        };
        let cpus = ["VCPU", "PCPU"];
        let vcpus = scarcer(
            (sum(&cpus, |r| r.total), sum(&cpus, |r| r.used)),
            (limits.max_total_cores, limits.total_cores_used),
        );
        let memory = scarcer(
            (sum(&["MEMORY_MB"], |r| r.total), sum(&["MEMORY_MB"], |r| r.used)),
            (limits.max_total_ram, limits.total_ram_used),
        );
        let instances = scarcer((0, 0), (limits.max_total_instances, limits.total_instances_used));
        let all = |f: fn(&(u32, u32)) -> u32| Resources {
            vcpus: f(&vcpus),
            memory_mib: f(&memory),
            instances: f(&instances),
        };
        Ok((all(|r| r.0), all(|r| r.1)))
    }

    /// Beyond the capacity set for the site nothing is asked of the cloud.
    pub(crate) async fn refuse_without_room(&self, spec: &ComputeSpec) -> Result<(), CloudError> {
        let Some(total) = self.config.capacity else { return Ok(()) };
        let call = Call::get(Service::Compute, "servers/detail").query("tags", self.marks.tag());
        let servers: Vec<Server> = self.client.all(call, "servers").await?;
        let used = used(servers.iter().filter(|s| s.mark(marks::HOME) == self.marks.home()));
        for (what, asked, used, total) in [
            ("virtual CPUs", spec.vcpus, used.vcpus, total.vcpus),
            ("MiB of memory", spec.memory_mib, used.memory_mib, total.memory_mib),
            ("instances", 1, used.instances, total.instances),
        ] {
            if asked > total.saturating_sub(used) {
                let problem =
                    format!("{asked} {what} asked for, {used} of {total} used at site {}", self.config.site);
                return Err(CloudError::Capacity { problem });
            }
        }
        Ok(())
    }
}

/// What servers use, by their flavors.
fn used<'a>(servers: impl Iterator<Item = &'a Server>) -> Resources {
    servers.fold(Resources::default(), |sum, s| Resources {
        vcpus: sum.vcpus.saturating_add(s.flavor.vcpus),
        memory_mib: sum.memory_mib.saturating_add(s.flavor.ram),
        instances: sum.instances.saturating_add(1),
    })
}

/// Total and used of what has less left: hosts (nothing known of them: 0) or the quota (no limit: below 0).
fn scarcer(hosts: (u64, u64), quota: (i64, i64)) -> (u32, u32) {
    let quota = match (u64::try_from(quota.0), u64::try_from(quota.1)) {
        (Ok(total), Ok(used)) => Some((total, used)),
        _ => None,
    };
    let free = |r: (u64, u64)| r.0.saturating_sub(r.1);
    let it = match (hosts.0, quota) {
        (0, Some(quota)) => quota,
        (_, Some(quota)) if free(quota) < free(hosts) => quota,
        _ => hosts,
    };
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    (narrow(it.0), narrow(it.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcer_of_hosts_and_quota_is_what_there_is() {
        assert_eq!(scarcer((100, 10), (1000, 5)), (100, 10));
        assert_eq!(scarcer((100, 10), (20, 5)), (20, 5));
        assert_eq!(scarcer((100, 10), (-1, 5)), (100, 10));
        assert_eq!(scarcer((0, 0), (20, 5)), (20, 5));
        assert_eq!(scarcer((0, 0), (-1, 0)), (0, 0));
    }

    #[test]
    fn capacity_is_placements() {
        let of = |total, reserved, allocation_ratio, max_unit| Inventory {
            total,
            reserved,
            allocation_ratio,
            max_unit,
        };
        assert_eq!(of(16, 0, 4.0, 16).capacity(), 64);
        assert_eq!(of(16, 2, 1.5, 16).capacity(), 21);
        assert_eq!(of(16, 0, 4.0, 16).most(), 16);
        assert_eq!(of(16, 0, 1.0, 16).most(), 0, "no less than all of it");
    }
}
