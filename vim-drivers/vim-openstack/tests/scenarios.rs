//! Scenarios on a real Yoga: SR-IOV, groups, what runs out, quotas, everything that a connection point may ask for, tenants at
//! once, cycles, adoption, and a compute service that is killed. `cargo testbed test openstack` runs them, one at a time: they count
//! what placement says is used.
//!
//! `SCENARIO_CYCLES`: services made and removed in the one about leaks (8 unless set).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use common::{Cloud, NEUTRON, NOVA, Raw, TwoImages, clouds, config, home, id, residue, text};
use dataplane_control::MacAddr;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use vim::{
    AddressPair, Adoption, ComputeSpec, ComputeState, CpuPolicy, Disposition, DriverError, Feature, Group,
    GroupPolicy, Hardware, ImageSpec, Kind, NetworkSpec, NetworkType, ObjectKey, Observed, ObservedCompute,
    PageSize, PortSecurity, PortSpec, ProviderSegment, Qos, Scope, SecurityRule, Spec, Subnet, Subport,
    VimDriver as _, Vnic, VolumeSpec,
};
use vim_openstack::{Auth, Call, Client, OpenStackConfig, OpenStackVim, Service};

static ONE_AT_A_TIME: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);

/// A site without limits of its own, and the cloud asked directly.
struct Site {
    vim: OpenStackVim,
    cloud: Cloud,
    images: Arc<TwoImages>,
    home: String,
}

impl Site {
    fn new(clouds: &Path) -> Self {
        Self::with(clouds, |c| c)
    }

    fn with(clouds: &Path, f: impl FnOnce(OpenStackConfig) -> OpenStackConfig) -> Self {
        let (images, home) = (TwoImages::make(), home());
        let config = f(config(clouds, &home, &images));
        let cloud = Cloud(Client::new(config.cloud.clone()).unwrap());
        Self { vim: OpenStackVim::new(config).unwrap(), cloud, images, home }
    }

    /// In another project.
    fn of_project(clouds: &Path, project: &str) -> Self {
        Self::with(clouds, |mut c| {
            let Auth::Password { project_name, .. } = &mut c.cloud.auth else { panic!() };
            project.clone_into(project_name);
            c
        })
    }

    async fn image(&self, service: &str) {
        let spec = Spec::Image(ImageSpec::new("vnf", self.images.digests[0]));
        self.vim.ensure(&key(&format!("{service}/image")), &spec).await.unwrap();
    }

    async fn network(&self, service: &str, name: &str, provider: Option<ProviderSegment>) -> ObjectKey {
        let key = key(&format!("{service}/{name}"));
        let subnet = Subnet { cidr: "10.9.0.0/24".parse().unwrap(), gateway: None, dhcp: false };
        let spec = NetworkSpec { provider, subnets: vec![subnet], ..NetworkSpec::new(name, 1500) };
        self.vim.ensure(&key, &Spec::Network(spec)).await.unwrap();
        key
    }

    fn compute(&self, vcpus: u32, ports: Vec<PortSpec>) -> ComputeSpec {
        ComputeSpec { ports, disk_gib: 1, ..ComputeSpec::new("vdu", self.images.digests[0], vcpus, 1024) }
    }

    async fn make(&self, name: &str, spec: ComputeSpec) -> Result<ObservedCompute, DriverError> {
        match self.vim.ensure(&key(name), &Spec::Compute(spec)).await? {
            Observed::Compute(c) => Ok(c),
            other => panic!("{other:?}"),
        }
    }

    async fn clear(&self) {
        let found = self.vim.observe(&Scope::All).await.unwrap();
        for kind in [Kind::Compute, Kind::Network, Kind::Image] {
            let strays = found.extra.iter().filter(|s| s.kind == kind).map(|s| &s.key);
            let keys: BTreeSet<_> = found
                .objects
                .iter()
                .filter(|(_, o)| o.kind() == kind)
                .map(|(k, _)| k)
                .chain(strays)
                .collect();
            let all = keys.into_iter().map(|key| self.vim.remove(key, kind));
            futures::future::join_all(all).await.into_iter().for_each(Result::unwrap);
        }
        let left = self.vim.observe(&Scope::All).await.unwrap();
        assert!(left.objects.is_empty() && left.extra.is_empty(), "{:?} {:?}", left.objects, left.extra);
        let flavors = Call::get(NOVA, "flavors").query("is_public", "None");
        let prefix = format!("mandate-{}-", self.home);
        let flavors = self.cloud.list(flavors, "flavors").await.unwrap();
        assert!(flavors.iter().all(|f| !id(f).starts_with(&prefix)), "a flavor is left");
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// A VLAN of this run: what a run that failed left is not in the way.
fn segment(n: u32) -> u16 {
    u16::try_from(1100 + (std::process::id() * 7 + n) % 800).unwrap()
}

fn vlan(physical: &str, segment: u16) -> Option<ProviderSegment> {
    let physical_network = physical.to_owned();
    Some(ProviderSegment { physical_network, network_type: NetworkType::Vlan, segment: Some(segment) })
}

fn port(name: &str, network: &ObjectKey, vnic: Vnic, n: u8) -> PortSpec {
    let [a, b, ..] = trust::Digest::of(network.as_str()).0;
    PortSpec { vnic, ..PortSpec::new(name, network.clone(), MacAddr([2, 0, 0, a, b, n])) }
}

fn code(result: Result<ObservedCompute, DriverError>) -> (String, Disposition, String) {
    let error = result.unwrap_err();
    (error.code, error.disposition, error.reason)
}

macro_rules! cloud {
    () => {{
        let Some(clouds) = clouds() else { return };
        clouds
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_virtual_functions_are_bound_counted_and_given_back_within_the_calls_promised() {
    let clouds = cloud!();
    let _alone = ONE_AT_A_TIME.lock().await;
    let site = Site::new(&clouds);
    let used = site.cloud.used().await.unwrap();
    let before = site.vim.observe(&Scope::All).await.unwrap();
    let calls = OpenStackVim::new(config(&clouds, &site.home, &site.images)).unwrap();
    let site = Site { vim: calls, ..site };
    site.image("sriov").await;
    let fast = site.network("sriov", "fast", vlan("physnet2", segment(1))).await;
    let slow = site.network("sriov", "slow", None).await;
    let ports = vec![
        port("a", &fast, Vnic::Direct, 1),
        PortSpec { trusted: true, ..port("b", &fast, Vnic::Direct, 2) },
        port("c", &slow, Vnic::Normal, 3),
    ];
    let hardware = Hardware {
        cpu_policy: Some(CpuPolicy::Dedicated),
        page_size: Some(PageSize::Gib1),
        ..Hardware::default()
    };
    let spec = ComputeSpec { hardware, ..site.compute(2, ports) };
    let made = site.make("sriov/vdu", spec.clone()).await.unwrap();
    // Image, two networks and subnets, flavor, three ports, server.
    let (resources, calls) = (10, site.vim.calls());
    println!(
        "calls for {resources} resources: {} {:?} (keystone, nova, neutron, glance, placement)",
        calls.total(),
        calls.0
    );
    assert_eq!(made.state, ComputeState::Active, "{made:?}");
    let at = made.whereabouts.clone().unwrap();
    let bindings: Vec<_> = made.links.values().map(|l| l.binding.clone().unwrap()).collect();
    assert!(bindings.iter().all(|b| b.host == at.host), "{bindings:?}");
    let slots: BTreeSet<_> = bindings.iter().filter_map(|b| b.pci_slot.clone()).collect();
    assert_eq!(slots.len(), 2, "{bindings:?}");
    assert_eq!(bindings.iter().map(|b| b.vif_type.as_str()).collect::<Vec<_>>(), ["hw_veb", "hw_veb", "ovs"]);
    assert_eq!(bindings.iter().map(|b| b.trusted).collect::<Vec<_>>(), [false, true, false]);
    let during = site.vim.observe(&Scope::All).await.unwrap();
    assert_eq!(during.objects[&key("sriov/vdu")], Observed::Compute(made));
    let (then, now) = (&before.hosts[&at.host].room, &during.hosts[&at.host].room);
    let grown = |class: &str| now[class].used - then.get(class).map_or(0, |r| r.used);
    assert_eq!(["PCPU", "MEMORY_MB", "VF:physnet2"].map(grown), [2, 1024, 2], "{now:?}");
    assert_eq!(now["VF:physnet2"].total, 16);
    // Again: looked at, not made.
    let calls_before = site.vim.calls();
    site.make("sriov/vdu", spec).await.unwrap();
    println!("calls to find it as it is: {}", site.vim.calls().since(&calls_before).total());
    let calls_before = site.vim.calls();
    site.vim.observe(&Scope::All).await.unwrap();
    println!("calls to observe everything: {}", site.vim.calls().since(&calls_before).total());
    site.clear().await;
    assert_eq!(site.cloud.used().await.unwrap(), used, "placement");
    assert!(calls.total() <= 2 * resources + 6, "{} calls for {resources} resources", calls.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_there_goes_elsewhere_and_leaves_nothing() {
    let clouds = cloud!();
    let _alone = ONE_AT_A_TIME.lock().await;
    let site = Site::new(&clouds);
    let used = site.cloud.used().await.unwrap();
    site.image("room").await;
    let fast = site.network("room", "fast", vlan("physnet2", segment(2))).await;
    let group = |policy| Some(Group { key: key("room/group"), policy });
    let apart = |group| ComputeSpec { group, ..site.compute(1, vec![]) };
    let all = ["a", "b"].map(|n| {
        let (site, spec) = (&site, apart(group(GroupPolicy::AntiAffinity)));
        async move { site.make(&format!("room/{n}"), spec).await.unwrap() }
    });
    let made = futures::future::join_all(all).await;
    let hosts: BTreeSet<_> = made.iter().map(|m| m.whereabouts.clone().unwrap().host).collect();
    assert_eq!(hosts.len(), 2, "{made:?}");
    let inventory = site.vim.observe(&Scope::Service("room".into())).await.unwrap();
    for name in ["room/a", "room/b"] {
        let Observed::Compute(c) = &inventory.objects[&key(name)] else { panic!() };
        let group = c.whereabouts.as_ref().unwrap().group.clone().unwrap();
        assert!(group.satisfied && group.hosts.len() == 2, "{group:?}");
    }
    let third = code(site.make("room/c", apart(group(GroupPolicy::AntiAffinity))).await);
    assert_eq!((third.0.as_str(), third.1), ("NO_VALID_HOST", Disposition::Elsewhere), "{}", third.2);
    for name in ["room/a", "room/b"] {
        site.vim.remove(&key(name), Kind::Compute).await.unwrap();
    }
    let huge = ComputeSpec {
        hardware: Hardware { cpu_policy: Some(CpuPolicy::Dedicated), ..Hardware::default() },
        ..site.compute(64, vec![])
    };
    let huge = code(site.make("room/huge", huge).await);
    assert_eq!((huge.0.as_str(), huge.1), ("NO_VALID_HOST", Disposition::Elsewhere), "{}", huge.2);
    // Sixteen virtual functions on each host: twelve fit twice.
    let many =
        |n: u8| (0..12).map(|p| port(&format!("p{p}"), &fast, Vnic::Direct, 12 * n + p)).collect::<Vec<_>>();
    for n in 0..2 {
        site.make(&format!("room/vf{n}"), site.compute(1, many(n))).await.unwrap();
    }
    let exhausted = code(site.make("room/vf2", site.compute(1, many(2))).await);
    assert_eq!(
        (exhausted.0.as_str(), exhausted.1),
        ("NO_VALID_HOST", Disposition::Elsewhere),
        "{}",
        exhausted.2
    );
    let ports = site.cloud.own("ports", "ports").await.unwrap();
    let mark = format!("mandate:{}:room/vf2", site.home);
    assert!(ports.iter().all(|p| text(p, "description") != mark), "what failed left its ports");
    site.clear().await;
    assert_eq!(site.cloud.used().await.unwrap(), used, "placement");
}

/// A whole device, whose MAC address is its own; there is one on each host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_device_keeps_its_own_mac_address() {
    let clouds = cloud!();
    let _alone = ONE_AT_A_TIME.lock().await;
    let site = Site::new(&clouds);
    let used = site.cloud.used().await.unwrap();
    site.image("whole").await;
    let fast = site.network("whole", "fast", vlan("physnet2", segment(3))).await;
    let spec = |n: u8| site.compute(1, vec![port("a", &fast, Vnic::DirectPhysical, n)]);
    let made = site.make("whole/one", spec(1)).await.unwrap();
    assert_eq!(made.state, ComputeState::Active, "{made:?}");
    let binding = made.links["a"].binding.clone().unwrap();
    assert_eq!((binding.vnic, binding.vif_type.as_str()), (Vnic::DirectPhysical, "hostdev_physical"));
    assert!(binding.pci_slot.as_ref().is_some_and(|s| s.ends_with(":00.0")), "{binding:?}");
    let asked = spec(1).ports[0].mac;
    assert_ne!(made.ports["a"], asked, "the device's, not ours");
    let again = site.make("whole/one", spec(1)).await.unwrap();
    assert_eq!(again, made, "found as it is, with another address than asked for");
    let seen = site.vim.observe(&Scope::All).await.unwrap();
    assert_eq!(seen.objects[&key("whole/one")], Observed::Compute(made.clone()));
    let other = site.make("whole/two", spec(2)).await.unwrap();
    assert_ne!(other.whereabouts.unwrap().host, made.whereabouts.unwrap().host);
    let third = code(site.make("whole/three", spec(3)).await);
    assert_eq!((third.0.as_str(), third.1), ("NO_VALID_HOST", Disposition::Elsewhere), "{}", third.2);
    site.clear().await;
    assert_eq!(site.cloud.used().await.unwrap(), used, "placement");
}

/// The testbed's cloud has no cinder: what asks for a volume goes elsewhere before anything is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_where_there_is_no_cinder_goes_elsewhere() {
    let clouds = cloud!();
    let _alone = ONE_AT_A_TIME.lock().await;
    let site = Site::new(&clouds);
    if site.vim.capabilities().await.unwrap().features.contains(&Feature::Volumes) {
        eprintln!("SKIPPED: this cloud has cinder");
        return;
    }
    site.image("disk").await;
    let volumes = vec![VolumeSpec { name: "data".into(), size_gib: 1 }];
    let (code, disposition, reason) =
        code(site.make("disk/vdu", ComputeSpec { volumes, ..site.compute(1, vec![]) }).await);
    assert_eq!((code.as_str(), disposition), ("UNSUPPORTED_FEATURE", Disposition::Elsewhere), "{reason}");
    assert!(reason.contains("volume"), "{reason}");
    site.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_named() {
    let clouds = cloud!();
    let _alone = ONE_AT_A_TIME.lock().await;
    let (site, admin) = (Site::new(&clouds), Cloud::of(&clouds, "admin"));
    let project = site.cloud.0.project_id().await.unwrap();
    site.image("quota").await;
    let net = site.network("quota", "net", None).await;
    let of = |service: Service, path: String, body: Value| {
        let admin = admin.clone();
        async move { admin.tell(Call::new(service, Method::PUT, path).json(&body)).await.unwrap() }
    };
    let nova = format!("os-quota-sets/{project}");
    of(NOVA, nova.clone(), json!({ "quota_set": { "cores": 1 } })).await;
    let cores = code(site.make("quota/vdu", site.compute(2, vec![])).await);
    admin.delete(NOVA, &nova).await.unwrap();
    let neutron = format!("quotas/{project}");
    of(NEUTRON, neutron.clone(), json!({ "quota": { "port": 0 } })).await;
    let ports = code(site.make("quota/vdu", site.compute(1, vec![port("a", &net, Vnic::Normal, 1)])).await);
    of(NEUTRON, neutron.clone(), json!({ "quota": { "network": 0 } })).await;
    let network = Spec::Network(NetworkSpec::new("more", 1500));
    let networks = site.vim.ensure(&key("quota/more"), &network).await.unwrap_err();
    admin.delete(NEUTRON, &neutron).await.unwrap();
    for ((code, disposition, reason), name) in [
        (cores, "cores"),
        (ports, "port"),
        ((networks.code, networks.disposition, networks.reason), "network"),
    ] {
        assert_eq!((code.as_str(), disposition), ("QUOTA_EXCEEDED", Disposition::Elsewhere), "{reason}");
        assert!(reason.starts_with(name), "{reason}");
    }
    site.clear().await;
}

/// Everything that a connection point may ask for, on a cloud's own external network.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_point_has_all_that_it_asks_for() {
    let clouds = cloud!();
    let _alone = ONE_AT_A_TIME.lock().await;
    let (site, admin) = (Site::new(&clouds), Cloud::of(&clouds, "admin"));
    site.image("all").await;
    let name = format!("outside-{}", site.home);
    let body = json!({ "network": { "name": name, "router:external": true } });
    let outside = admin.post(NEUTRON, "networks", body).await.unwrap()["network"].take();
    let body =
        json!({ "subnet": { "network_id": id(&outside), "ip_version": 4, "cidr": "198.51.100.0/24" } });
    admin.post(NEUTRON, "subnets", body).await.unwrap();
    let (net, inner) = (site.network("all", "net", None).await, site.network("all", "inner", None).await);
    let body = json!({ "router": { "name": "r", "external_gateway_info": { "network_id": id(&outside) } } });
    let router = site.cloud.post(NEUTRON, "routers", body).await.unwrap()["router"].take();
    let networks = site.cloud.own("networks", "networks").await.unwrap();
    let mark = format!("mandate:{}:{net}", site.home);
    let network = networks.iter().find(|n| text(n, "description") == mark).unwrap();
    let subnet = network["subnets"][0].clone();
    let gateway =
        json!({ "port": { "network_id": id(network), "fixed_ips": [{ "ip_address": "10.9.0.1" }] } });
    let gateway = site.cloud.post(NEUTRON, "ports", gateway).await.unwrap()["port"].take();
    let interface = format!("routers/{}/add_router_interface", id(&router));
    site.cloud.put(&interface, json!({ "port_id": id(&gateway) })).await.unwrap();
    let rules = vec![
        SecurityRule {
            ingress: true,
            ipv6: false,
            protocol: Some("tcp".into()),
            ports: Some((22, 22)),
            remote: None,
        },
        SecurityRule {
            ingress: false,
            ipv6: false,
            protocol: None,
            ports: None,
            remote: Some("10.0.0.0/8".parse().unwrap()),
        },
    ];
    let qos = Qos { max_egress_kbps: 5000, max_ingress_kbps: 4000, min_egress_kbps: 0, dscp: Some(26) };
    let first = PortSpec {
        addresses: vec!["10.9.0.77".parse().unwrap()],
        security: PortSecurity::Rules(rules),
        address_pairs: vec![AddressPair { address: "10.9.0.100/32".parse().unwrap(), mac: None }],
        qos: Some(qos),
        floating: Some(name.clone()),
        ..port("a", &net, Vnic::Normal, 1)
    };
    let second = PortSpec {
        security: PortSecurity::Off,
        subports: vec![Subport {
            name: "v7".into(),
            network: inner.clone(),
            vlan: 7,
            mac: MacAddr([2, 0, 0, 9, 9, 9]),
        }],
        ..port("b", &net, Vnic::Normal, 2)
    };
    let spec = site.compute(1, vec![first, second]);
    let made = site.make("all/vdu", spec.clone()).await.unwrap();
    assert_eq!(made.state, ComputeState::Active, "{made:?}");
    let a = made.links["a"].binding.clone().unwrap();
    assert_eq!(a.addresses, ["10.9.0.77".parse::<std::net::IpAddr>().unwrap()]);
    assert!(a.floating.is_some() && !a.unguarded, "{a:?}");
    assert!(made.links["b"].binding.clone().unwrap().unguarded, "{made:?}");
    let ports = site.cloud.own("ports", "ports").await.unwrap();
    let found = ports.iter().find(|p| id(p) == a.id).unwrap();
    assert_eq!(found["allowed_address_pairs"][0]["ip_address"], "10.9.0.100/32", "{found}");
    let policy = format!("qos/policies/{}", text(found, "qos_policy_id"));
    let policy = site.cloud.ask(Call::get(NEUTRON, policy)).await.unwrap();
    assert_eq!(policy["policy"]["rules"].as_array().unwrap().len(), 3, "{policy}");
    let group = format!("security-groups/{}", found["security_groups"][0].as_str().unwrap());
    let group = site.cloud.ask(Call::get(NEUTRON, group)).await.unwrap();
    assert_eq!(group["security_group"]["security_group_rules"].as_array().unwrap().len(), 2, "{group}");
    let b = ports
        .iter()
        .find(|p| text(p, "name") == "b" && text(p, "device_id") == text(found, "device_id"))
        .unwrap();
    assert_eq!(b["trunk_details"]["sub_ports"][0]["segmentation_id"], 7, "{b}");
    let seen = site.vim.observe(&Scope::All).await.unwrap();
    assert_eq!(seen.objects[&key("all/vdu")], Observed::Compute(made.clone()));
    assert!(seen.extra.is_empty(), "{:?}", seen.extra);
    assert_eq!(site.make("all/vdu", spec).await.unwrap(), made, "again");
    site.vim.remove(&key("all/vdu"), Kind::Compute).await.unwrap();
    let body = json!({ "subnet_id": subnet });
    site.cloud.put(&format!("routers/{}/remove_router_interface", id(&router)), body).await.unwrap();
    site.cloud.delete(NEUTRON, &format!("routers/{}", id(&router))).await.unwrap();
    site.clear().await;
    // What is there already is used, and stays.
    site.image("all").await;
    let spec = NetworkSpec { existing: Some(name), ..NetworkSpec::new("outside", 1500) };
    let used = site.vim.ensure(&key("all/outside"), &Spec::Network(spec)).await.unwrap();
    let seen = site.vim.observe(&Scope::All).await.unwrap();
    assert_eq!(seen.objects.get(&key("all/outside")), Some(&used));
    site.clear().await;
    let now = admin.ask(Call::get(NEUTRON, format!("networks/{}", id(&outside)))).await.unwrap();
    assert_eq!(now["network"]["description"], "", "{now}");
    admin.delete(NEUTRON, &format!("networks/{}", id(&outside))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_mano_made_becomes_ours_when_it_is_what_was_asked_for() {
    let clouds = cloud!();
    let _alone = ONE_AT_A_TIME.lock().await;
    let site = Site::new(&clouds);
    site.image("osm").await;
    let body = json!({ "network": { "name": "ns-vld" } });
    let network = id(&site.cloud.post(NEUTRON, "networks", body).await.unwrap()["network"]);
    let body = json!({ "subnet": { "network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24", "enable_dhcp": false, "gateway_ip": null } });
    site.cloud.post(NEUTRON, "subnets", body).await.unwrap();
    let body = json!({ "port": { "network_id": network, "name": "eth0" } });
    let made = id(&site.cloud.post(NEUTRON, "ports", body).await.unwrap()["port"]);
    let body =
        json!({ "flavor": { "name": format!("osm-{}", site.home), "vcpus": 1, "ram": 1024, "disk": 1 } });
    let flavor = id(&site.cloud.post(NOVA, "flavors", body).await.unwrap()["flavor"]);
    let image = site
        .cloud
        .list(Call::get(common::GLANCE, "images").query("mandate_home", &site.home), "images")
        .await
        .unwrap();
    let body = json!({ "server": { "name": "ns-1-vdu-0", "imageRef": id(&image[0]), "flavorRef": flavor, "networks": [{ "port": made }] } });
    let server = text(&site.cloud.post(NOVA, "servers", body).await.unwrap()["server"], "id");
    site.cloud.becomes(&server, "ACTIVE").await.unwrap();
    let subnet = Subnet { cidr: "10.9.0.0/24".parse().unwrap(), gateway: None, dhcp: false };
    let net = key("osm/net");
    let link = Spec::Network(NetworkSpec { subnets: vec![subnet], ..NetworkSpec::new("net", 1500) });
    let spec = site.compute(1, vec![port("eth", &net, Vnic::Normal, 1)]);
    let adoption =
        |key: &ObjectKey, spec: Spec, id: &str| Adoption { key: key.clone(), spec, id: id.to_owned() };
    let vdu = key("osm/vdu");
    // Another size is refused, and nothing is marked.
    let larger = ComputeSpec { vcpus: 2, ..spec.clone() };
    let both = [adoption(&net, link, &network), adoption(&vdu, Spec::Compute(larger), &server)];
    assert_eq!(site.vim.adopt(&both).await.unwrap_err().code, "NOT_ADOPTABLE");
    assert!(site.cloud.server(&server).await.unwrap()["metadata"]["mandate.key"].is_null());
    let one = [adoption(&vdu, Spec::Compute(spec.clone()), &server)];
    let found = site.vim.adopt(&one).await.unwrap();
    let Observed::Compute(compute) = &found[&vdu] else { panic!() };
    assert_eq!((compute.state, &compute.whereabouts.as_ref().unwrap().id), (ComputeState::Active, &server));
    assert_eq!(site.vim.ensure(&vdu, &Spec::Compute(spec)).await.unwrap(), found[&vdu], "kept as it is");
    assert_eq!(site.vim.observe(&Scope::All).await.unwrap().objects[&vdu], found[&vdu]);
    let other = Site::new(&clouds);
    let theirs = other.vim.adopt(&one).await.unwrap_err();
    assert_eq!(theirs.code, "NOT_ADOPTABLE", "{theirs}");
    site.clear().await;
    site.cloud.delete(NOVA, &format!("flavors/{flavor}")).await.unwrap();
}

/// Its record is gone: a server of a service of ours that nobody took for ours goes with the link, and one of somebody else's does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_mano_left_goes_with_the_link() {
    let clouds = cloud!();
    let _alone = ONE_AT_A_TIME.lock().await;
    let site = Site::new(&clouds);
    site.image("left").await;
    let net = site.network("left", "net", None).await;
    let networks = Call::get(NEUTRON, "networks").query("name", NetworkSpec::new("net", 1500).vim_name(&net));
    let network = id(&site.cloud.list(networks, "networks").await.unwrap()[0]);
    let images = Call::get(common::GLANCE, "images").query("mandate_home", &site.home);
    let image = id(&site.cloud.list(images, "images").await.unwrap()[0]);
    let body =
        json!({ "flavor": { "name": format!("osm-{}", site.home), "vcpus": 1, "ram": 1024, "disk": 1 } });
    let flavor = id(&site.cloud.post(NOVA, "flavors", body).await.unwrap()["flavor"]);
    let mut made = Vec::new();
    for name in ["left-vfw-vfw-0", "leftover-1"] {
        let body = json!({ "port": { "network_id": network, "name": "eth0" } });
        let port = id(&site.cloud.post(NEUTRON, "ports", body).await.unwrap()["port"]);
        let body = json!({ "server": { "name": name, "imageRef": image, "flavorRef": flavor, "networks": [{ "port": port }] } });
        let server = text(&site.cloud.post(NOVA, "servers", body).await.unwrap()["server"], "id");
        site.cloud.becomes(&server, "ACTIVE").await.unwrap();
        made.push((server, port));
    }
    let refused = site.vim.remove(&net, Kind::Network).await.unwrap_err();
    assert_eq!(refused.code, "NETWORK_IN_USE", "{refused}");
    let names: Vec<String> = site
        .cloud
        .list(Call::get(NOVA, "servers"), "servers")
        .await
        .unwrap()
        .iter()
        .map(|s| text(s, "name"))
        .collect();
    assert!(!names.contains(&"left-vfw-vfw-0".into()) && names.contains(&"leftover-1".into()), "{names:?}");
    let ports = site.cloud.own("ports", "ports").await.unwrap();
    let there = |port: &str| ports.iter().any(|p| id(p) == port);
    assert!(!there(&made[0].1) && there(&made[1].1), "a port of RO's goes with its server, another's stays");
    site.cloud.delete(NOVA, &format!("servers/{}", made[1].0)).await.unwrap();
    site.cloud.delete(NEUTRON, &format!("ports/{}", made[1].1)).await.unwrap();
    site.clear().await;
    site.cloud.delete(NOVA, &format!("flavors/{flavor}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_services_of_two_tenants_at_once_and_cycles_without_a_leak() {
    let clouds = cloud!();
    let _alone = ONE_AT_A_TIME.lock().await;
    let sites = [Site::new(&clouds), Site::of_project(&clouds, "tenant-b")];
    let projects =
        futures::future::join_all(sites.iter().map(|s| async { s.cloud.0.project_id().await.unwrap() }))
            .await;
    assert_ne!(projects[0], projects[1]);
    let used = sites[0].cloud.used().await.unwrap();
    let deploy = |site: usize, n: usize| {
        let site = &sites[site];
        async move {
            let service = format!("many-{n}");
            site.image(&service).await;
            let net = site.network(&service, "net", None).await;
            let spec = site.compute(1, vec![port("a", &net, Vnic::Normal, 1)]);
            site.make(&format!("{service}/vdu"), spec)
                .await
                .map(|m| assert_eq!(m.state, ComputeState::Active))
        }
    };
    let start = Instant::now();
    let all = (0..20).map(|n| deploy(n % 2, n));
    let done = futures::future::join_all(all).await;
    let failed: Vec<_> = done.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    println!("20 services of two projects at once: {:.1} s", start.elapsed().as_secs_f64());
    // Nobody sees the other's.
    for site in &sites {
        let seen = site.vim.observe(&Scope::All).await.unwrap();
        let servers = seen.objects.values().filter(|o| o.kind() == Kind::Compute).count();
        assert_eq!(servers, 10, "{:?}", seen.objects.keys());
        assert!(seen.extra.is_empty(), "{:?}", seen.extra);
    }
    futures::future::join_all(sites.iter().map(Site::clear)).await;
    let cycles: usize = std::env::var("SCENARIO_CYCLES").ok().and_then(|v| v.parse().ok()).unwrap_or(8);
    let lane = |lane: usize| {
        let (site, deploy) = (&sites[lane % 2], &deploy);
        async move {
            for n in 0..cycles.div_ceil(4) {
                let n = 100 + lane * 1000 + n;
                deploy(lane % 2, n).await.unwrap();
                for (name, kind) in [("vdu", Kind::Compute), ("net", Kind::Network), ("image", Kind::Image)] {
                    site.vim.remove(&key(&format!("many-{n}/{name}")), kind).await.unwrap();
                }
            }
        }
    };
    let (start, before) = (Instant::now(), held());
    futures::future::join_all((0..4).map(lane)).await;
    let after = held();
    println!(
        "{cycles} cycles: {:.1} s; memory {} KiB, then {} KiB; {} open files, then {}",
        start.elapsed().as_secs_f64(),
        before.0,
        after.0,
        before.1,
        after.1
    );
    assert!(after.0 < before.0 + MORE_KIB && after.1 < before.1 + MORE_FILES, "{before:?}, {after:?}");
    futures::future::join_all(sites.iter().map(Site::clear)).await;
    for (site, project) in sites.iter().zip(&projects) {
        let left = residue(&site.cloud, &site.home).await.unwrap();
        assert!(left.is_empty(), "{project}: {left:?}");
    }
    assert_eq!(sites[0].cloud.used().await.unwrap(), used, "placement");
}

/// What cycles may add to this process's memory: what is remembered of services is bounded, and an allocator keeps some.
const MORE_KIB: u64 = 16 * 1024;
/// And to its open files: connections that are kept.
const MORE_FILES: usize = 24;

/// Memory of this process, KiB, and its open files, sockets among them.
fn held() -> (u64, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    let kib = line.split_whitespace().next().unwrap().parse().unwrap();
    (kib, std::fs::read_dir("/proc/self/fd").unwrap().count())
}

/// The same service by the driver and by the bare calls that it takes, in turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_driver_takes_as_long_as_its_calls() {
    // A median of few turns is noise: a figure to write down takes a dozen, on a machine with nothing else to do.
    let turns = std::env::var("OVERHEAD_TURNS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let clouds = cloud!();
    let _alone = ONE_AT_A_TIME.lock().await;
    let site = Site::new(&clouds);
    let raw = Raw::login(&clouds).await.unwrap();
    // In the first both learn; from then on each goes first in turn.
    let mut pairs = Vec::new();
    for turn in 0..=turns {
        let (ours, bare) = match turn % 2 {
            0 => (by_the_driver(&site).await, by_its_calls(&site, &raw, turn).await),
            _ => {
                let bare = by_its_calls(&site, &raw, turn).await;
                (by_the_driver(&site).await, bare)
            }
        };
        pairs.push((ours.as_secs_f64(), bare.as_secs_f64()));
    }
    let median = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = pairs[1..].iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (ours, bare) = (median(&|p| p.0), median(&|p| p.1));
    println!(
        "a service by the driver {ours:.2} s, by its bare calls {bare:.2} s, {turns} turns: {:.3}, of each turn {:.3}",
        ours / bare,
        median(&|p| p.0 / p.1)
    );
    assert!(ours < 2.0 * bare, "more than a noisy machine explains");
}

async fn by_the_driver(site: &Site) -> Duration {
    let start = Instant::now();
    site.image("bare").await;
    let net = site.network("bare", "net", None).await;
    site.make("bare/vdu", site.compute(1, vec![port("a", &net, Vnic::Normal, 1)])).await.unwrap();
    let took = start.elapsed();
    site.clear().await;
    took
}

async fn by_its_calls(site: &Site, raw: &Raw, turn: usize) -> Duration {
    let (took, made) = by_hand(site, raw, turn).await;
    site.cloud.gone(&made[0]).await.unwrap();
    let kinds = [(NEUTRON, "ports"), (NEUTRON, "networks"), (NOVA, "flavors"), (common::GLANCE, "images")];
    for ((service, path), id) in kinds.into_iter().zip(&made[1..]) {
        site.cloud.delete(service, &format!("{path}/{id}")).await.unwrap();
    }
    took
}

async fn by_hand(site: &Site, raw: &Raw, turn: usize) -> (Duration, [String; 5]) {
    let cloud = &site.cloud;
    let start = Instant::now();
    let body =
        json!({ "name": "i", "disk_format": "raw", "container_format": "bare", "visibility": "private" });
    let image = id(&cloud.post(common::GLANCE, "images", body).await.unwrap());
    let bytes = std::fs::read(site.images.file(&site.images.digests[0])).unwrap();
    raw.put(&format!("images/{image}/file"), bytes).await.unwrap();
    let network =
        id(&cloud.post(NEUTRON, "networks", json!({ "network": { "name": "n" } })).await.unwrap()["network"]);
    let body = json!({ "subnet": { "network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24", "enable_dhcp": false } });
    cloud.post(NEUTRON, "subnets", body).await.unwrap();
    let body =
        json!({ "flavor": { "name": format!("{}-{turn}", site.home), "vcpus": 1, "ram": 1024, "disk": 1 } });
    let flavor = id(&cloud.post(NOVA, "flavors", body).await.unwrap()["flavor"]);
    let port = id(
        &cloud.post(NEUTRON, "ports", json!({ "port": { "network_id": network } })).await.unwrap()["port"]
    );
    let body = json!({ "server": { "name": "s", "imageRef": image, "flavorRef": flavor, "networks": [{ "port": port }] } });
    let server = text(&cloud.post(NOVA, "servers", body).await.unwrap()["server"], "id");
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if text(&cloud.server(&server).await.unwrap(), "status") == "ACTIVE" {
            break;
        }
    }
    while text(&cloud.ask(Call::get(NEUTRON, format!("ports/{port}"))).await.unwrap()["port"], "status")
        != "ACTIVE"
    {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    (start.elapsed(), [server, port, network, flavor, image])
}

/// The compute service that has the order dies in the middle of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compute_service_that_is_killed_in_the_middle_leaves_one_instance_in_the_end() {
    let clouds = cloud!();
    let _alone = ONE_AT_A_TIME.lock().await;
    let site = Site::with(&clouds, |c| OpenStackConfig { boot_timeout_s: 20, delete_timeout_s: 10, ..c });
    let Some(pids) = compute_services(&clouds) else {
        eprintln!("SKIPPED: not a cloud of this checkout's testbed, so its processes are not ours to kill");
        return;
    };
    let used = site.cloud.used().await.unwrap();
    site.image("kill").await;
    let net = site.network("kill", "net", None).await;
    let spec = site.compute(1, vec![port("a", &net, Vnic::Normal, 1)]);
    let (vim, wanted) = (site.vim.clone(), Spec::Compute(spec.clone()));
    let going = tokio::spawn(async move { vim.ensure(&key("kill/vdu"), &wanted).await });
    tokio::time::sleep(Duration::from_millis(1200)).await;
    for pid in pids.values() {
        let killed = Command::new("kill").args(["-9", pid]).status().unwrap();
        assert!(killed.success(), "{pid}");
    }
    let outcome = going.await.unwrap();
    println!(
        "killed in the middle: {:?}",
        outcome.as_ref().map(Observed::kind).map_err(|e| (&e.code, e.disposition))
    );
    if let Err(e) = &outcome {
        assert!([Disposition::Unknown, Disposition::Retry].contains(&e.disposition), "{e}");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = clouds.ancestors().nth(3).unwrap();
    let up = Command::new(cargo).current_dir(root).args(["testbed", "up", "openstack"]).status().unwrap();
    assert!(up.success());
    let start = Instant::now();
    let made = loop {
        match site.make("kill/vdu", spec.clone()).await {
            Ok(made) => break made,
            Err(e) => assert!(start.elapsed() < Duration::from_secs(240), "{} {e}", e.code),
        }
    };
    assert_eq!(made.state, ComputeState::Active, "{made:?}");
    let tag = format!("mandate-{}", site.home);
    let servers = site.cloud.list(Call::get(NOVA, "servers").query("tags", tag), "servers").await.unwrap();
    assert_eq!(servers.len(), 1, "{servers:?}");
    site.clear().await;
    assert_eq!(site.cloud.used().await.unwrap(), used, "placement");
}

/// Process ids of the compute services, when the cloud is the one beside `clouds.yaml` in this checkout.
fn compute_services(clouds: &Path) -> Option<BTreeMap<String, String>> {
    let run = clouds.parent()?.join("run");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().ok()?;
    if !clouds.canonicalize().ok()?.starts_with(workspace) {
        return None;
    }
    let read = |host: &str| {
        let text = std::fs::read_to_string(run.join(format!("{host}.pid"))).ok()?;
        Some((host.to_owned(), text.split_whitespace().next()?.to_owned()))
    };
    ["compute1", "compute2"].into_iter().map(read).collect()
}
