//! Every call that changes something in a real Yoga, lost once in every way: nothing is made twice, nothing is left.
//!
//! A *life* is a service with one of everything that the driver makes: deployed, configured anew, isolated, removed; through
//! [`Lossy`], which loses the calls that are named. Each step is called again as the engine would, for as long as the error says
//! so. A first life without losses says which calls there are.
//!
//! - `LOSSES`: absent, every call is lost once, in a way drawn from the seed; `all`: every call in every way.
//! - `LOSSES_SEED`: a number, printed by each run. `LOSSES_APART`: calls between two losses of one life (4, with `all` 8; 1,000: one a life).
//! - `LOSSES_ONLY`: part of a loss's or a call's name.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    Cloud, NEUTRON, TwoImages, clouds, config, home, id,
    lossy::{LOSSES, Loss, Lossy, Named},
    residue, text,
};
use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{Port, PortDriver, Reflector},
};
use futures::StreamExt as _;
use serde_json::{Value, json};
use vim::{
    AddressPair, ComputeSpec, ComputeState, CpuPolicy, Disposition, DriverError, Group, GroupPolicy,
    Hardware, ImageSpec, Kind, NetworkSpec, NetworkType, ObjectKey, Observed, PortSecurity, PortSpec,
    ProviderSegment, Qos, SecurityRule, Spec, Subnet, Subport, VimDriver as _, VnfControl as _, Vnic,
};
use vim_openstack::{Call, CloudConfig, OpenStackConfig, OpenStackVim, Service};

/// Lives at a time: the cloud has two processors.
const AT_ONCE: usize = 5;
/// Times that a step is called in all: a life loses several calls, and one step may meet more than one.
const MAX_CALLS: u32 = 12;
/// How long a driver waits for an answer in these lives, s.
const TIMEOUT_S: u64 = 8;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 7, 7, 7, n])
}

/// The cloud's own external network, for all lives.
struct Outside {
    name: String,
    id: String,
}

impl Outside {
    async fn make(admin: &Cloud) -> Self {
        let name = format!("outside-{}", home());
        let body = json!({ "network": { "name": name, "router:external": true } });
        let id = id(&admin.post(NEUTRON, "networks", body).await.unwrap()["network"]);
        let body = json!({ "subnet": { "network_id": id, "ip_version": 4, "cidr": "198.51.100.0/24" } });
        admin.post(NEUTRON, "subnets", body).await.unwrap();
        Self { name, id }
    }
}

struct Life<'a> {
    cloud: Cloud,
    vim: OpenStackVim,
    lossy: Lossy,
    images: Arc<TwoImages>,
    home: String,
    outside: &'a Outside,
    vlan: u16,
}

/// What a life makes, by neutron's and nova's names, and how many of each.
const MADE: [(&str, usize); 11] = [
    ("server", 1),
    ("networks", 3),
    ("subnets", 3),
    // Three connection points, and one that a trunk carries.
    ("ports", 4),
    ("security-groups", 1),
    ("qos/policies", 1),
    ("trunks", 1),
    ("floatingips", 1),
    ("image", 1),
    ("group", 1),
    ("flavor", 1),
];

impl<'a> Life<'a> {
    async fn new(clouds: &Path, outside: &'a Outside, n: usize) -> Self {
        let (images, home) = (TwoImages::make(), home());
        let direct = config(clouds, &home, &images);
        let (lossy, through) = Lossy::start(&direct.cloud).await;
        let cloud = CloudConfig { timeout_s: TIMEOUT_S, ..through };
        let vim = OpenStackVim::new(OpenStackConfig { cloud, ..direct }).unwrap();
        let vlan = u16::try_from(2000 + (std::process::id() as usize * 13 + n) % 1900).unwrap();
        Self { cloud: Cloud::of(clouds, "mandate"), vim, lossy, images, home, outside, vlan }
    }

    /// Calls as the engine does: again while the error says that it may help.
    async fn again<T>(
        &self,
        what: &str,
        call: impl AsyncFn() -> Result<T, DriverError>,
    ) -> Result<T, String> {
        let mut errors = Vec::new();
        for _ in 0..MAX_CALLS {
            match call().await {
                Ok(done) => return Ok(done),
                Err(e) if matches!(e.disposition, Disposition::Retry | Disposition::Unknown) => {
                    errors.push(e.to_string());
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(e) => {
                    return Err(format!(
                        "{what} is given up: {:?} {} {e}; before: {errors:?}",
                        e.disposition, e.code
                    ));
                }
            }
        }
        Err(format!("{what} does not come to an end: {errors:?}"))
    }

    async fn ensure(&self, name: &str, spec: Spec) -> Result<Observed, String> {
        self.again(name, async || self.vim.ensure(&key(name), &spec).await).await
    }

    async fn remove(&self, name: &str, kind: Kind) -> Result<(), String> {
        self.again(&format!("removing {name}"), async || self.vim.remove(&key(name), kind).await).await
    }

    fn document(&self, generation: u64) -> String {
        let port =
            Port { name: "a".into(), driver: PortDriver::AfPacket { interface: "eth0".into() }, mac: mac(1) };
        let reflector = Reflector { port: "a".into(), number: 1, addresses: vec![[192, 0, 2, 10].into()] };
        let document = Configuration {
            instance: "life/vdu".into(),
            generation,
            ports: vec![port],
            function: Function::Reflector(reflector),
        };
        String::from_utf8(document.to_bytes()).unwrap()
    }

    fn spec(&self, generation: u64) -> Spec {
        let rule = |ingress| SecurityRule {
            ingress,
            ipv6: false,
            protocol: Some("tcp".into()),
            ports: Some((22, 22)),
            remote: None,
        };
        let a = PortSpec {
            security: PortSecurity::Rules(vec![rule(true), rule(false)]),
            qos: Some(Qos { max_egress_kbps: 5000, max_ingress_kbps: 0, min_egress_kbps: 0, dscp: Some(26) }),
            address_pairs: vec![AddressPair { address: "10.9.0.100/32".parse().unwrap(), mac: None }],
            floating: Some(self.outside.name.clone()),
            ..PortSpec::new("a", key("life/net"), mac(1))
        };
        let carried = Subport { name: "v7".into(), network: key("life/inner"), vlan: 7, mac: mac(9) };
        let b = PortSpec {
            security: PortSecurity::Off,
            subports: vec![carried],
            ..PortSpec::new("b", key("life/net"), mac(2))
        };
        let c =
            PortSpec { vnic: Vnic::Direct, trusted: true, ..PortSpec::new("c", key("life/fast"), mac(3)) };
        Spec::Compute(ComputeSpec {
            ports: vec![a, b, c],
            disk_gib: 1,
            configuration: self.document(generation),
            hardware: Hardware { cpu_policy: Some(CpuPolicy::Dedicated), ..Hardware::default() },
            group: Some(Group { key: key("life/group"), policy: GroupPolicy::SoftAntiAffinity }),
            ..ComputeSpec::new("vdu", self.images.digests[0], 1, 512)
        })
    }

    async fn network(&self, name: &str, provider: Option<ProviderSegment>) -> Result<(), String> {
        let subnet = Subnet { cidr: "10.9.0.0/24".parse().unwrap(), gateway: None, dhcp: false };
        let spec = NetworkSpec { provider, subnets: vec![subnet], ..NetworkSpec::new(name, 1400) };
        self.ensure(&format!("life/{name}"), Spec::Network(spec)).await.map(drop)
    }

    /// A router between the link and the outside: somebody else's, as far as the driver knows.
    async fn router(&self) -> Result<(String, String), String> {
        let body = json!({ "router": { "name": self.home, "external_gateway_info": { "network_id": self.outside.id } } });
        let router = id(&self.cloud.post(NEUTRON, "routers", body).await?["router"]);
        let mark = format!("mandate:{}:life/net", self.home);
        let networks = self.cloud.own("networks", "networks").await?;
        let network = networks.iter().find(|n| text(n, "description") == mark).ok_or("no link")?;
        let body =
            json!({ "port": { "network_id": id(network), "fixed_ips": [{ "ip_address": "10.9.0.1" }] } });
        let port = id(&self.cloud.post(NEUTRON, "ports", body).await?["port"]);
        let interface = format!("routers/{router}/add_router_interface");
        self.cloud.put(&interface, json!({ "port_id": port })).await?;
        Ok((router, port))
    }

    async fn made_once(&self, when: &str) -> Result<(), String> {
        let found = residue(&self.cloud, &self.home).await?;
        for (what, expected) in MADE {
            let those: Vec<&String> = found.iter().filter(|o| o.starts_with(&format!("{what} "))).collect();
            if those.len() != expected {
                return Err(format!("{when}: {expected} {what} expected, there are {those:?}"));
            }
        }
        Ok(())
    }

    fn active(observed: &Observed) -> Result<(), String> {
        match observed {
            Observed::Compute(c) if c.state == ComputeState::Active => Ok(()),
            other => Err(format!("not active: {other:?}")),
        }
    }

    /// All of it.
    async fn live(&self) -> Result<(), String> {
        self.ensure("life/image", Spec::Image(ImageSpec::new("vnf", self.images.digests[0]))).await?;
        let physical_network = "physnet2".to_owned();
        let vlan =
            ProviderSegment { physical_network, network_type: NetworkType::Vlan, segment: Some(self.vlan) };
        self.network("net", None).await?;
        self.network("inner", None).await?;
        self.network("fast", Some(vlan)).await?;
        let (router, port) = self.router().await?;
        let made = self.ensure("life/vdu", self.spec(1)).await?;
        Self::active(&made)?;
        self.made_once("deployed").await?;
        let again = self.ensure("life/vdu", self.spec(2)).await?;
        Self::active(&again)?;
        let server = |o: &Observed| match o {
            Observed::Compute(c) => c.whereabouts.as_ref().map(|w| w.id.clone()),
            _ => None,
        };
        if server(&made) != server(&again) {
            return Err(format!("configured: another server, {made:?}, {again:?}"));
        }
        for on in [true, false] {
            self.again("isolating", async || self.vim.isolate(&key("life/vdu"), on).await).await?;
        }
        Self::active(&self.ensure("life/vdu", self.spec(2)).await?)?;
        self.made_once("configured").await?;
        self.remove("life/vdu", Kind::Compute).await?;
        self.cloud
            .put(&format!("routers/{router}/remove_router_interface"), json!({ "port_id": port }))
            .await?;
        self.cloud.delete(NEUTRON, &format!("routers/{router}")).await?;
        for name in ["net", "inner", "fast"] {
            self.remove(&format!("life/{name}"), Kind::Network).await?;
        }
        self.remove("life/image", Kind::Image).await?;
        // A call that was given up may be carried out after all.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let left = residue(&self.cloud, &self.home).await?;
        if left.is_empty() { Ok(()) } else { Err(format!("left: {left:?}")) }
    }
}

/// A number from a seed (splitmix64).
fn draw(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// What each life loses: every call of `calls` in the ways that `ways` names for it, those of one life well apart.
fn lives(calls: &[Named], apart: usize, ways: impl Fn(usize) -> Vec<Loss>) -> Vec<BTreeMap<Named, Loss>> {
    let mut by: BTreeMap<(usize, usize), BTreeMap<Named, Loss>> = BTreeMap::new();
    for (n, call) in calls.iter().enumerate() {
        for (w, loss) in ways(n).into_iter().enumerate() {
            by.entry((w, n % apart.max(1))).or_default().insert(call.clone(), loss);
        }
    }
    by.into_values().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_lost_in_every_way_makes_nothing_twice_and_leaves_nothing() {
    let Some(clouds) = clouds() else { return };
    let (admin, cloud) = (Cloud::of(&clouds, "admin"), Cloud::of(&clouds, "mandate"));
    let used = cloud.used().await.unwrap();
    let outside = Outside::make(&admin).await;
    let first = Life::new(&clouds, &outside, 0).await;
    first.live().await.unwrap();
    let calls = first.lossy.changes();
    let kinds: BTreeMap<String, usize> = calls.iter().fold(BTreeMap::new(), |mut all, (shape, _)| {
        *all.entry(shape.clone()).or_default() += 1;
        all
    });
    println!("{} calls that change something: {kinds:?}", calls.len());
    assert!(calls.len() > 40 && kinds.len() > 25, "{kinds:?}");
    let mut seed = number("LOSSES_SEED", u64::from(std::process::id()));
    let all = std::env::var("LOSSES").is_ok_and(|v| v == "all");
    let apart = usize::try_from(number("LOSSES_APART", if all { 8 } else { 4 })).unwrap();
    println!("LOSSES_SEED={seed}");
    let drawn: Vec<Loss> = calls.iter().map(|_| LOSSES[(draw(&mut seed) % 13) as usize]).collect();
    let mut plans = lives(&calls, apart, |n| if all { LOSSES.to_vec() } else { vec![drawn[n]] });
    if let Ok(only) = std::env::var("LOSSES_ONLY") {
        plans
            .iter_mut()
            .for_each(|p| p.retain(|(shape, _), loss| format!("{loss:?} {shape}").contains(&only)));
        plans.retain(|p| !p.is_empty());
    }
    let (start, count) = (Instant::now(), plans.len());
    let run = |(n, plan): (usize, BTreeMap<Named, Loss>)| {
        let (clouds, outside) = (&clouds, &outside);
        async move {
            let life = Life::new(clouds, outside, n + 1).await;
            life.lossy.lose(plan.clone());
            let outcome = life.live().await;
            let lost = life.lossy.lost();
            let missed: Vec<_> = plan.iter().filter(|(c, l)| !lost.contains(&((*c).clone(), **l))).collect();
            let outcome = match outcome {
                Ok(()) if !missed.is_empty() => Err(format!("never asked, so never lost: {missed:?}")),
                other => other,
            };
            let outcome = outcome.map_err(|e| format!("life {n}: {e}\n  lost {lost:?}"));
            println!(
                "{:4.0} s  life {n}: {}",
                start.elapsed().as_secs_f64(),
                outcome.as_ref().err().map_or("ok", |e| e)
            );
            (n, plan.len(), outcome)
        }
    };
    let done: Vec<_> = futures::stream::iter(plans.into_iter().enumerate().map(run))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let lost: usize = done.iter().map(|d| d.1).sum();
    println!("{lost} losses in {count} lives: {:.0} s", start.elapsed().as_secs_f64());
    let failed: Vec<String> = done.into_iter().filter_map(|(.., outcome)| outcome.err()).collect();
    assert!(failed.is_empty(), "{} lives failed:\n{}", failed.len(), failed.join("\n"));
    let gone: Result<Value, String> =
        admin.ask(Call::get(Service::Network, format!("networks/{}", outside.id))).await;
    gone.unwrap();
    admin.delete(NEUTRON, &format!("networks/{}", outside.id)).await.unwrap();
    assert_eq!(cloud.used().await.unwrap(), used, "placement");
}
