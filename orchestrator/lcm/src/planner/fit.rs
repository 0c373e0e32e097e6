//! Does a site have what a member asks for beyond size: the features of its specs, and a host that each instance fits on?
//!
//! The solver counts what sites have in all; here each instance is held against the hosts, one by one: an instance is on one
//! machine. Whether all fit at once is for the VIM, whose refusal leads to the next site ([`crate::Command::Replan`]).
//!
//! Tests: below; `tests/planner.rs`.

use std::collections::BTreeMap;

use vim::{ComputeSpec, CpuPolicy, HostRoom, ObjectKey, Spec, VIRTUAL_FUNCTIONS, Vnic};

use crate::{placement::Site, record::Object};

/// Why a site cannot take these objects of a member, as they would be there; `None`: nothing speaks against it.
pub(super) fn misfit(site: &Site, member: &str, objects: &[Object]) -> Option<String> {
    // Of a site that was not seen nothing is concluded.
    if site.problem.is_some() {
        return None;
    }
    let of_member = |o: &&Object| {
        let path = o.key.as_str().split_once('/').map_or("", |(_, path)| path);
        o.spec.kind() == vim::Kind::Compute && path.split('/').next() == Some(member)
    };
    let networks: BTreeMap<&ObjectKey, &Spec> = objects.iter().map(|o| (&o.key, &o.spec)).collect();
    objects.iter().filter(of_member).find_map(|o| {
        let Spec::Compute(compute) = &o.spec else { return None };
        lacking(site, compute, &networks).or_else(|| homeless(site, compute, &networks))
    })
}

/// A feature that it lacks.
fn lacking(site: &Site, compute: &ComputeSpec, networks: &BTreeMap<&ObjectKey, &Spec>) -> Option<String> {
    let links = compute.ports.iter().filter_map(|p| networks.get(&p.network));
    let mut needs = Spec::Compute(compute.clone()).needs();
    needs.extend(links.flat_map(|n| n.needs()));
    let missing = needs.into_iter().find(|f| !site.capabilities.features.contains(f))?;
    Some(format!("it has no {missing}, which {} asks for", compute.name))
}

/// What an instance takes of its host, by resource class.
fn takes(compute: &ComputeSpec, networks: &BTreeMap<&ObjectKey, &Spec>) -> BTreeMap<String, u64> {
    let dedicated = compute.hardware.cpu_policy == Some(CpuPolicy::Dedicated);
    let cpus = if dedicated { "PCPU" } else { "VCPU" };
    let mut out = BTreeMap::from([
        (cpus.to_owned(), u64::from(compute.vcpus)),
        ("MEMORY_MB".to_owned(), u64::from(compute.memory_mib)),
        ("DISK_GB".to_owned(), u64::from(compute.disk_gib)),
    ]);
    for port in compute.ports.iter().filter(|p| p.vnic == Vnic::Direct) {
        if let Some(Spec::Network(n)) = networks.get(&port.network)
            && let Some(segment) = &n.provider
        {
            *out.entry(format!("{VIRTUAL_FUNCTIONS}{}", segment.physical_network)).or_default() += 1;
        }
    }
    out.retain(|_, n| *n > 0);
    out
}

/// Counts the virtual functions of an instance that is planned and not made yet as used: of the hosts that have most left, since
/// nobody knows which it will be on.
pub fn reserve_functions(site: &mut Site, compute: &ComputeSpec, objects: &[Object]) {
    let here = objects.iter().filter(|o| o.site == site.name);
    let networks: BTreeMap<&ObjectKey, &Spec> = here.map(|o| (&o.key, &o.spec)).collect();
    let functions = takes(compute, &networks).into_iter().filter(|(c, _)| c.starts_with(VIRTUAL_FUNCTIONS));
    for (class, n) in functions {
        let hosts = site.inventory.hosts.values_mut().filter(|h| h.enabled);
        let most = hosts.filter_map(|h| h.room.get_mut(&class)).max_by_key(|room| room.free());
        if let Some(room) = most {
            room.used = room.used.saturating_add(n);
        }
    }
}

/// No host of the site has room for it.
fn homeless(site: &Site, compute: &ComputeSpec, networks: &BTreeMap<&ObjectKey, &Spec>) -> Option<String> {
    let asked = takes(compute, networks);
    let hosts = &site.inventory.hosts;
    // What a host does not count is not known to be short there.
    let short = |host: &HostRoom| {
        asked.iter().find_map(|(class, n)| {
            let room = host.room.get(class)?;
            (room.free() < *n || room.most != 0 && room.most < *n).then_some((class.clone(), *n, room.free()))
        })
    };
    let enabled = hosts.iter().filter(|(_, h)| h.enabled);
    let asked_for = |name: &str| compute.host.as_deref().is_none_or(|h| h == name);
    let mut worst = None;
    for (name, host) in enabled.filter(|(name, _)| asked_for(name)) {
        worst = Some((name, short(host)?));
    }
    let because = match worst {
        Some((host, (class, n, free))) => format!("{host}, for one, has {free} of the {n} {class}"),
        None if hosts.is_empty() => return None,
        None => "none of them takes anything new".to_owned(),
    };
    Some(format!("no host there has room for {}: {because}", compute.name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use dataplane_control::MacAddr;
    use trust::Digest;
    use vim::{Capabilities, Feature, Inventory, NetworkSpec, NetworkType, PortSpec, ProviderSegment, Room};

    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    /// Class, total and used.
    type Rooms = &'static [(&'static str, u64, u64)];
    /// Name, whether it takes anything new, and what it has.
    type Host = (&'static str, bool, Rooms);

    fn site(hosts: &[Host]) -> Site {
        let room = |(class, total, used): &(&str, u64, u64)| {
            ((*class).to_owned(), Room { total: *total, used: *used, most: 0 })
        };
        let host = |(name, enabled, rooms): &Host| {
            ((*name).to_owned(), HostRoom { enabled: *enabled, room: rooms.iter().map(room).collect() })
        };
        Site {
            name: "cloud".into(),
            jurisdiction: "DE".into(),
            latency_us: 1,
            cost: 1,
            capabilities: Capabilities { features: Feature::ALL.into(), ..Capabilities::default() },
            inventory: Inventory { hosts: hosts.iter().map(host).collect(), ..Inventory::default() },
            ak: None,
            problem: None,
            drained: false,
            tee: None,
            defaults: crate::placement::Defaults::default(),
        }
    }

    /// A guest with one virtual function and one ordinary port.
    fn objects() -> Vec<Object> {
        let provider = ProviderSegment {
            physical_network: "physnet2".into(),
            network_type: NetworkType::Vlan,
            segment: None,
        };
        let link = NetworkSpec { provider: Some(provider), ..NetworkSpec::new("data", 1500) };
        let port = |name: &str, vnic| PortSpec {
            vnic,
            ..PortSpec::new(name, key("ns/vl/data"), MacAddr([2, 0, 0, 0, 0, 1]))
        };
        let compute = ComputeSpec {
            ports: vec![port("sr", Vnic::Direct), port("eth", Vnic::Normal)],
            ..ComputeSpec::new("fw", Digest::of("image"), 4, 2048)
        };
        let here = |path: &str, spec| Object { site: "cloud".into(), key: key(path), spec };
        vec![here("ns/vl/data", Spec::Network(link)), here("ns/fw/fw/0", Spec::Compute(compute))]
    }

    #[test]
    fn an_instance_is_on_one_machine() {
        let small: Rooms = &[("VCPU", 16, 13), ("MEMORY_MB", 8192, 0), ("VF:physnet2", 8, 0)];
        let large: Rooms = &[("VCPU", 16, 12), ("MEMORY_MB", 8192, 0), ("VF:physnet2", 8, 7)];
        let full: Rooms = &[("VCPU", 16, 0), ("MEMORY_MB", 8192, 0), ("VF:physnet2", 8, 8)];
        let told = |hosts: &[Host]| misfit(&site(hosts), "fw", &objects());
        assert_eq!(told(&[("a", true, small), ("b", true, large)]), None);
        let why = told(&[("a", true, small), ("c", true, full)]).unwrap();
        assert!(why.contains("room for fw") && why.contains("has 0 of the 1 VF:physnet2"), "{why}");
        assert!(told(&[("a", true, small)]).unwrap().contains("has 3 of the 4 VCPU"));
        assert!(told(&[("b", false, large)]).unwrap().contains("takes anything new"));
        // A VIM that does not tell of hosts, or of a class, is asked.
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[("a", true, &[("MEMORY_MB", 8192, 0)])]), None);
        // It is another member that asks for it.
        assert_eq!(misfit(&site(&[("a", true, small)]), "lb", &objects()), None);
    }

    /// Two on the way leave what they take on no host.
    #[test]
    fn what_is_planned_counts() {
        let room: Rooms = &[("VCPU", 16, 0), ("VF:physnet2", 2, 1)];
        let mut it = site(&[("a", true, room), ("b", true, room), ("c", false, room)]);
        let objects = objects();
        let Spec::Compute(compute) = &objects[1].spec else { panic!() };
        for left in [1, 0] {
            assert_eq!(misfit(&it, "fw", &objects), None);
            reserve_functions(&mut it, compute, &objects);
            let free = |h: &HostRoom| h.room["VF:physnet2"].free();
            assert_eq!(it.inventory.hosts.values().filter(|h| h.enabled).map(free).sum::<u64>(), left);
        }
        assert!(misfit(&it, "fw", &objects).unwrap().contains("0 of the 1 VF:physnet2"));
    }

    #[test]
    fn a_feature_that_a_site_lacks_is_named() {
        let mut it = site(&[]);
        it.capabilities.features.remove(&Feature::SrIov);
        assert_eq!(
            misfit(&it, "fw", &objects()).unwrap(),
            "it has no SR-IOV virtual functions, which fw asks for"
        );
        it.capabilities.features = Feature::ALL.into();
        it.capabilities.features.remove(&Feature::ProviderNetworks);
        assert!(misfit(&it, "fw", &objects()).unwrap().contains("provider networks"));
        it.problem = Some("it does not answer".into());
        assert_eq!(misfit(&it, "fw", &objects()), None, "nothing is concluded of what was not seen");
    }
}
