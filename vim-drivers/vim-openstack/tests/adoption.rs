//! A service that a MANO made on a real Yoga is taken for ours: within the calls promised, whatever is lost on the way, from where a
//! crash left it, and nothing of anybody else's with it.
//!
//! `LOSSES=all`: calls are lost in each of the ways, not in [`WAYS`] of them drawn from `LOSSES_SEED`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use common::{
    Cloud, GLANCE, NEUTRON, NOVA, TwoImages, clouds, config, home, id,
    lossy::{LOSSES, Loss, Lossy, Named},
    residue, text,
};
use dataplane_control::MacAddr;
use reqwest::Method;
use serde_json::{Value, json};
use vim::{
    Adoption, ComputeSpec, ComputeState, Disposition, ImageSpec, Kind, NetworkSpec, NetworkType, ObjectKey,
    Observed, PortSecurity, PortSpec, ProviderSegment, Qos, SecurityRule, Spec, Subnet, VimDriver as _, Vnic,
};
use vim_openstack::{Call, CloudConfig, OpenStackConfig, OpenStackVim};

const SERVICE: &str = "ns-adopted";
/// Connection points of each instance.
const PORTS: [usize; 4] = [2, 2, 1, 1];
/// Ways of losing a call in one run.
const WAYS: usize = 3;
/// Times that an adoption is tried.
const TRIES: usize = 6;
/// How long a driver waits for an answer in these lives, s.
const TIMEOUT_S: u64 = 8;

fn key(path: &str) -> ObjectKey {
    ObjectKey::new(format!("{SERVICE}/{path}")).unwrap()
}

struct World {
    clouds: std::path::PathBuf,
    cloud: Cloud,
    images: Arc<TwoImages>,
    home: String,
    flavor: String,
    /// In the order of [`PORTS`].
    servers: Vec<String>,
    /// One of somebody else's, whose name begins alike, with its port.
    foreign: (String, String),
}

/// A driver of its own, through a proxy that counts and loses.
struct Driver {
    vim: OpenStackVim,
    lossy: Lossy,
}

impl World {
    /// What there is when a MANO has made a service: image and links are ours.
    async fn new(clouds: &Path) -> Self {
        let cloud = Cloud::of(clouds, "mandate");
        let (images, home) = (TwoImages::make(), home());
        let mut it = Self {
            clouds: clouds.to_owned(),
            cloud,
            images,
            home,
            flavor: String::new(),
            servers: Vec::new(),
            foreign: (String::new(), String::new()),
        };
        let driver = it.driver().await;
        it.ground(&driver).await;
        let body =
            json!({ "flavor": { "name": format!("osm-{}", it.home), "vcpus": 1, "ram": 512, "disk": 1 } });
        it.flavor = id(&it.cloud.post(NOVA, "flavors", body).await.unwrap()["flavor"]);
        for (n, ports) in PORTS.into_iter().enumerate() {
            let (server, _) = it.build(&format!("{SERVICE}-vnf-vdu-{n}"), ports).await;
            it.servers.push(server);
        }
        let (server, ports) = it.build(&format!("{SERVICE}-2-vnf-vdu-0"), 1).await;
        it.foreign = (server, ports[0].clone());
        for server in it.servers.iter().chain([&it.foreign.0]) {
            it.cloud.becomes(server, "ACTIVE").await.unwrap();
        }
        it
    }

    async fn driver(&self) -> Driver {
        let direct = config(&self.clouds, &self.home, &self.images);
        let (lossy, through) = Lossy::start(&direct.cloud).await;
        let cloud = CloudConfig { timeout_s: TIMEOUT_S, ..through };
        Driver { vim: OpenStackVim::new(OpenStackConfig { cloud, ..direct }).unwrap(), lossy }
    }

    /// Image and links, which a MANO's service is made on; a driver that made them knows them.
    async fn ground(&self, driver: &Driver) {
        let image = Spec::Image(ImageSpec::new("vnf", self.images.digests[0]));
        driver.vim.ensure(&key("image"), &image).await.unwrap();
        for name in ["vl/0", "vl/1"] {
            let spec = Spec::Network(NetworkSpec::new(name, 1400));
            driver.vim.ensure(&key(name), &spec).await.unwrap();
        }
    }

    /// As a MANO does: ports first, then the server.
    async fn build(&self, name: &str, ports: usize) -> (String, Vec<String>) {
        let networks = self.cloud.own("networks", "networks").await.unwrap();
        let mut made = Vec::new();
        for n in 0..ports {
            let mark = format!("mandate:{}:{}", self.home, key(&format!("vl/{n}")));
            let network = networks.iter().find(|n| text(n, "description") == mark).unwrap();
            let port = json!({ "port": { "network_id": id(network), "name": format!("theirs-{n}"), "fixed_ips": [] } });
            made.push(id(&self.cloud.post(NEUTRON, "ports", port).await.unwrap()["port"]));
        }
        let images = Call::get(GLANCE, "images").query("mandate_home", &self.home);
        let image = id(&self.cloud.list(images, "images").await.unwrap()[0]);
        let networks: Vec<Value> = made.iter().map(|p| json!({ "port": p })).collect();
        let body = json!({ "server": { "name": name, "imageRef": image, "flavorRef": self.flavor, "networks": networks } });
        (text(&self.cloud.post(NOVA, "servers", body).await.unwrap()["server"], "id"), made)
    }

    fn adoption(&self, n: usize) -> Adoption {
        let port = |p: usize| {
            let last = u8::try_from(10 * n + p).unwrap();
            PortSpec::new(format!("eth{p}"), key(&format!("vl/{p}")), MacAddr([2, 0, 0, 9, 9, last]))
        };
        let spec = ComputeSpec {
            ports: (0..PORTS[n]).map(port).collect(),
            disk_gib: 1,
            ..ComputeSpec::new("vdu", self.images.digests[0], 1, 512)
        };
        Adoption { key: key(&format!("vnf/vdu/{n}")), spec: Spec::Compute(spec), id: self.servers[n].clone() }
    }

    /// One instance, as often as the engine would try it.
    async fn adopt(&self, driver: &Driver, n: usize) -> Observed {
        let one = [self.adoption(n)];
        let mut errors = Vec::new();
        for _ in 0..TRIES {
            match driver.vim.adopt(&one).await {
                Ok(mut taken) => return taken.remove(&one[0].key).unwrap(),
                Err(e) => {
                    assert!(matches!(e.disposition, Disposition::Retry | Disposition::Unknown), "{e}");
                    errors.push(e.to_string());
                }
            }
        }
        panic!("not adopted: {errors:?}");
    }

    /// All of them at the same time, as the engine does.
    async fn adopt_all(&self, driver: &Driver) {
        let all = (0..PORTS.len()).map(|n| self.adopt(driver, n));
        for (n, seen) in futures::future::join_all(all).await.into_iter().enumerate() {
            let Observed::Compute(seen) = seen else { panic!("{seen:?}") };
            assert_eq!(seen.state, ComputeState::Active, "{seen:?}");
            assert_eq!(seen.whereabouts.unwrap().id, self.servers[n]);
            assert_eq!(seen.links.len(), PORTS[n], "{:?}", seen.links);
        }
    }

    /// What is marked: each server whole, each of its ports, and nothing of the stranger's.
    async fn marked(&self) {
        let ports = self.cloud.own("ports", "ports").await.unwrap();
        for (n, server) in self.servers.iter().enumerate() {
            let seen = self.cloud.server(server).await.unwrap();
            assert_eq!(seen["metadata"]["mandate.key"], key(&format!("vnf/vdu/{n}")).as_str(), "{seen}");
            assert_eq!(seen["tags"].as_array().unwrap().len(), 3, "{seen}");
            let mark = format!("mandate:{}:{}", self.home, key(&format!("vnf/vdu/{n}")));
            let its: Vec<&Value> = ports.iter().filter(|p| text(p, "device_id") == *server).collect();
            assert_eq!(its.len(), PORTS[n]);
            assert!(its.iter().all(|p| text(p, "description") == mark && text(p, "name").starts_with("eth")));
        }
        let seen = self.cloud.server(&self.foreign.0).await.unwrap();
        assert_eq!((&seen["metadata"], &seen["tags"]), (&json!({}), &json!([])), "{seen}");
        let port = ports.iter().find(|p| id(p) == self.foreign.1).unwrap();
        assert_eq!((text(port, "description"), text(port, "name")), (String::new(), "theirs-0".into()));
    }

    /// As the MANO had made them.
    async fn unmark(&self) {
        let ports = self.cloud.own("ports", "ports").await.unwrap();
        for server in &self.servers {
            let path = format!("servers/{server}");
            let none = json!({ "metadata": {} });
            self.cloud
                .tell(Call::new(NOVA, Method::PUT, format!("{path}/metadata")).json(&none))
                .await
                .unwrap();
            self.cloud.delete(NOVA, &format!("{path}/tags")).await.unwrap();
            for (n, port) in ports.iter().filter(|p| text(p, "device_id") == *server).enumerate() {
                let body = json!({ "port": { "description": "", "name": format!("theirs-{n}") } });
                self.cloud.put(&format!("ports/{}", id(port)), body).await.unwrap();
            }
        }
    }

    async fn end(self, driver: &Driver) {
        for n in 0..PORTS.len() {
            driver.vim.remove(&key(&format!("vnf/vdu/{n}")), Kind::Compute).await.unwrap();
        }
        self.cloud.gone(&self.foreign.0).await.unwrap();
        self.cloud.delete(NEUTRON, &format!("ports/{}", self.foreign.1)).await.unwrap();
        for name in ["vl/0", "vl/1"] {
            driver.vim.remove(&key(name), Kind::Network).await.unwrap();
        }
        driver.vim.remove(&key("image"), Kind::Image).await.unwrap();
        self.cloud.delete(NOVA, &format!("flavors/{}", self.flavor)).await.unwrap();
        let left = residue(&self.cloud, &self.home).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn of(changes: &[Named], shape: &str) -> usize {
    changes.iter().filter(|(s, _)| s == shape).count()
}

const PORT: &str = "PUT v2.0/ports/*";
const METADATA: &str = "POST v2.1/servers/*/metadata";
const TAGS: &str = "PUT v2.1/servers/*/tags";

/// Which calls of one adoption are lost: of each shape one, never the same.
fn plan(way: Loss, turn: usize) -> BTreeMap<Named, Loss> {
    let ports: usize = PORTS.iter().sum();
    [(PORT, ports), (METADATA, PORTS.len()), (TAGS, PORTS.len())]
        .map(|(shape, of)| ((shape.to_owned(), turn % of), way))
        .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_a_mano_made_is_ours_within_the_calls_promised_whatever_is_lost() {
    let Some(clouds) = clouds() else { return };
    let world = World::new(&clouds).await;
    let (instances, ports) = (PORTS.len(), PORTS.iter().sum::<usize>());
    let driver = world.driver().await;
    world.ground(&driver).await;

    // One list of servers, one of ports; each object is written once, a server's tags by a call of their own.
    driver.lossy.lose([]);
    world.adopt_all(&driver).await;
    // nova's versions are asked for once in a process.
    let calls: Vec<Named> = driver.lossy.calls().into_iter().filter(|(s, _)| s != "GET v2.1/").collect();
    let changes = driver.lossy.changes();
    println!(
        "{instances} servers with {ports} ports taken for ours by {} calls: {:?}",
        calls.len(),
        driver.lossy.counts()
    );
    assert_eq!(
        (of(&changes, PORT), of(&changes, METADATA), of(&changes, TAGS)),
        (ports, instances, instances)
    );
    assert_eq!((changes.len(), calls.len()), (ports + 2 * instances, ports + 2 * instances + 2), "{calls:?}");
    world.marked().await;

    // Again, by one that was killed: nothing is written that is there already.
    let second = world.driver().await;
    second.lossy.lose([]);
    world.adopt_all(&second).await;
    let written = second.lossy.changes();
    assert_eq!(written.iter().filter(|(s, _)| !s.ends_with("/auth/tokens")).count(), 0, "{written:?}");

    // Killed between any two: what is missing is written, and nothing else.
    world.unmark().await;
    let half = world.adoption(0);
    let mark = format!("mandate:{}:{}", world.home, half.key);
    let all = world.cloud.own("ports", "ports").await.unwrap();
    let first = all.iter().find(|p| text(p, "device_id") == half.id).unwrap();
    world
        .cloud
        .put(&format!("ports/{}", id(first)), json!({ "port": { "description": mark } }))
        .await
        .unwrap();
    let third = world.driver().await;
    third.lossy.lose([]);
    world.adopt_all(&third).await;
    world.marked().await;
    world.cloud.delete(NOVA, &format!("servers/{}/tags", world.servers[1])).await.unwrap();
    third.lossy.lose([]);
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    world.adopt_all(&third).await;
    assert_eq!(third.lossy.changes().iter().map(|c| c.0.as_str()).collect::<Vec<_>>(), [TAGS]);
    world.marked().await;

    // Every kind of call lost.
    let seed =
        std::env::var("LOSSES_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(std::process::id() as usize);
    let every = std::env::var("LOSSES").is_ok_and(|v| v == "all");
    println!("LOSSES_SEED={seed}");
    let ways = (0..if every { LOSSES.len() } else { WAYS }).map(|n| LOSSES[(seed + 5 * n) % LOSSES.len()]);
    for (turn, way) in ways.enumerate() {
        world.unmark().await;
        let driver = world.driver().await;
        world.ground(&driver).await;
        driver.lossy.lose(plan(way, seed + turn));
        world.adopt_all(&driver).await;
        assert_eq!(driver.lossy.lost().len(), 3, "{way:?}");
        // What was given up may come late.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        world.marked().await;
    }

    // A port that carries somebody else's mark: refused, and nothing of the instance is marked.
    world.unmark().await;
    let theirs = json!({ "port": { "description": "mandate:other:ns/vdu" } });
    world.cloud.put(&format!("ports/{}", id(first)), theirs.clone()).await.unwrap();
    let fourth = world.driver().await;
    let refused = fourth.vim.adopt(&[half]).await.unwrap_err();
    assert_eq!(refused.code, "NOT_ADOPTABLE", "{refused}");
    let seen = world.cloud.server(&world.servers[0]).await.unwrap();
    assert_eq!((&seen["metadata"], &seen["tags"]), (&json!({}), &json!([])), "{seen}");
    world.cloud.put(&format!("ports/{}", id(first)), json!({ "port": { "description": "" } })).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    world.adopt_all(&fourth).await;
    world.end(&fourth).await;
}

/// Guards, QoS and trust are what a MANO does not make: they are there after adoption, and adopting again changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_mano_does_not_make_is_there_after_adoption() {
    let Some(clouds) = clouds() else { return };
    let (images, home) = (TwoImages::make(), home());
    let cloud = Cloud::of(&clouds, "mandate");
    let vim = OpenStackVim::new(config(&clouds, &home, &images)).unwrap();
    let image = Spec::Image(ImageSpec::new("vnf", images.digests[0]));
    vim.ensure(&key("image"), &image).await.unwrap();
    let segment = u16::try_from(3000 + std::process::id() % 900).unwrap();
    let provider = ProviderSegment {
        physical_network: "physnet2".into(),
        network_type: NetworkType::Vlan,
        segment: Some(segment),
    };
    let subnet = Subnet { cidr: "10.9.0.0/24".parse().unwrap(), gateway: None, dhcp: false };
    for (name, provider) in [("vl/fast", Some(provider)), ("vl/slow", None)] {
        let subnets = vec![subnet.clone()];
        let spec = NetworkSpec { provider, subnets, ..NetworkSpec::new(name, 1400) };
        vim.ensure(&key(name), &Spec::Network(spec)).await.unwrap();
    }
    let networks = cloud.own("networks", "networks").await.unwrap();
    let mut made = Vec::new();
    for (name, vnic) in [("vl/fast", "direct"), ("vl/slow", "normal")] {
        let mark = format!("mandate:{home}:{}", key(name));
        let network = id(networks.iter().find(|n| text(n, "description") == mark).unwrap());
        let body = json!({ "port": { "network_id": network, "binding:vnic_type": vnic } });
        made.push(id(&cloud.post(NEUTRON, "ports", body).await.unwrap()["port"]));
    }
    let body = json!({ "flavor": { "name": format!("osm-{home}"), "vcpus": 1, "ram": 512, "disk": 1 } });
    let flavor = id(&cloud.post(NOVA, "flavors", body).await.unwrap()["flavor"]);
    let found = Call::get(GLANCE, "images").query("mandate_home", &home);
    let glances = id(&cloud.list(found, "images").await.unwrap()[0]);
    let plugged: Vec<Value> = made.iter().map(|p| json!({ "port": p })).collect();
    let body = json!({ "server": {
        "name": format!("{SERVICE}-vnf-vdu-0"), "imageRef": glances, "flavorRef": flavor, "networks": plugged } });
    let server = text(&cloud.post(NOVA, "servers", body).await.unwrap()["server"], "id");
    cloud.becomes(&server, "ACTIVE").await.unwrap();

    let rule =
        SecurityRule { ingress: true, ipv6: false, protocol: Some("tcp".into()), ports: None, remote: None };
    let fast = PortSpec {
        vnic: Vnic::Direct,
        trusted: true,
        ..PortSpec::new("fast", key("vl/fast"), MacAddr([2, 0, 0, 9, 8, 1]))
    };
    let slow = PortSpec {
        security: PortSecurity::Rules(vec![rule]),
        qos: Some(Qos { max_egress_kbps: 5000, ..Qos::default() }),
        ..PortSpec::new("slow", key("vl/slow"), MacAddr([2, 0, 0, 9, 8, 2]))
    };
    let spec = ComputeSpec {
        ports: vec![fast, slow],
        disk_gib: 1,
        ..ComputeSpec::new("vdu", images.digests[0], 1, 512)
    };
    let one = [Adoption { key: key("vnf/vdu/0"), spec: Spec::Compute(spec), id: server.clone() }];
    let taken = vim.adopt(&one).await.unwrap();
    let Observed::Compute(seen) = &taken[&one[0].key] else { panic!("{taken:?}") };
    assert_eq!((seen.state, &seen.whereabouts.as_ref().unwrap().id), (ComputeState::Active, &server));
    let binding = |name: &str| seen.links[name].binding.clone().unwrap();
    assert!(binding("fast").trusted && binding("fast").pci_slot.is_some(), "{seen:?}");
    assert_eq!((binding("fast").id, binding("slow").id), (made[0].clone(), made[1].clone()));
    let ports = cloud.own("ports", "ports").await.unwrap();
    let port = ports.iter().find(|p| id(p) == made[1]).unwrap();
    assert!(port["qos_policy_id"].is_string(), "{port}");
    let group = format!("security-groups/{}", port["security_groups"][0].as_str().unwrap());
    let group = cloud.ask(Call::get(NEUTRON, group)).await.unwrap();
    assert_eq!(text(&group["security_group"], "description"), format!("mandate:{home}:{}", one[0].key));
    assert_eq!(vim.adopt(&one).await.unwrap(), taken, "again");

    vim.remove(&one[0].key, Kind::Compute).await.unwrap();
    for name in ["vl/fast", "vl/slow"] {
        vim.remove(&key(name), Kind::Network).await.unwrap();
    }
    vim.remove(&key("image"), Kind::Image).await.unwrap();
    cloud.delete(NOVA, &format!("flavors/{flavor}")).await.unwrap();
    let left = residue(&cloud, &home).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}
