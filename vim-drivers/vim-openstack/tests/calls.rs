//! How many calls a real Yoga is asked, through [`Lossy`], which loses nothing here and counts everything.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{path::Path, sync::Arc, time::Instant};

use common::{Cloud, TwoImages, clouds, config, home, lossy::Lossy, residue};
use dataplane_control::MacAddr;
use vim::{
    ComputeSpec, ComputeState, ImageSpec, Kind, NetworkSpec, ObjectKey, Observed, PortSpec, Spec, Subnet,
    VimDriver as _,
};
use vim_openstack::{OpenStackConfig, OpenStackVim};

/// Calls of a deployment: at most two for each resource, and so many more.
const BESIDE: usize = 6;
/// Looks that a boot takes on a machine that has nothing else to do.
const QUICK: usize = 2;
/// Services deployed one after the other, of so many instances each.
const SIZES: [usize; 4] = [1, 1, 4, 12];

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

struct Site {
    vim: OpenStackVim,
    lossy: Lossy,
    images: Arc<TwoImages>,
    home: String,
}

impl Site {
    async fn new(clouds: &Path) -> Self {
        let (images, home) = (TwoImages::make(), home());
        let direct = config(clouds, &home, &images);
        let (lossy, cloud) = Lossy::start(&direct.cloud).await;
        let vim = OpenStackVim::new(OpenStackConfig { cloud, ..direct }).unwrap();
        Self { vim, lossy, images, home }
    }

    /// A service of so many instances, each with a port, all ordered at once.
    async fn deploy(&self, service: &str, instances: usize) {
        let ensure = async |name: String, spec: Spec| {
            self.vim.ensure(&key(&format!("{service}/{name}")), &spec).await.unwrap()
        };
        ensure("image".into(), Spec::Image(ImageSpec::new("vnf", self.images.digests[0]))).await;
        let subnet = Subnet { cidr: "10.9.0.0/24".parse().unwrap(), gateway: None, dhcp: false };
        let spec = NetworkSpec { subnets: vec![subnet], ..NetworkSpec::new("net", 1400) };
        ensure("net".into(), Spec::Network(spec)).await;
        let [a, b, ..] = trust::Digest::of(service).0;
        let all = (0..instances).map(|n| {
            let mac = MacAddr([2, 0, 0, a, b, u8::try_from(n).unwrap()]);
            let port = PortSpec::new("eth", key(&format!("{service}/net")), mac);
            let spec = ComputeSpec {
                ports: vec![port],
                disk_gib: 1,
                ..ComputeSpec::new("vdu", self.images.digests[0], 1, 128)
            };
            ensure(format!("vdu-{n}"), Spec::Compute(spec))
        });
        for made in futures::future::join_all(all).await {
            let Observed::Compute(made) = made else { panic!("{made:?}") };
            assert_eq!(made.state, ComputeState::Active);
        }
    }

    async fn remove(&self, service: &str, instances: usize) {
        let remove = async |name: String, kind| {
            self.vim.remove(&key(&format!("{service}/{name}")), kind).await.unwrap();
        };
        let all = (0..instances).map(|n| remove(format!("vdu-{n}"), Kind::Compute));
        futures::future::join_all(all).await;
        remove("net".into(), Kind::Network).await;
        remove("image".into(), Kind::Image).await;
    }
}

/// Many servers that boot at once are looked for by one list, and one token does for all services.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_servers_are_waited_for_by_one_list_and_one_token_does_for_all() {
    let Some(clouds) = clouds() else { return };
    let site = Site::new(&clouds).await;
    let (mut tokens, mut looks_each) = (0, Vec::new());
    println!(
        "instances  resources  calls  at most  of them looks at servers, first and while they are built  seconds"
    );
    for (n, instances) in SIZES.into_iter().enumerate() {
        site.lossy.lose([]);
        let (start, service) = (Instant::now(), format!("many-{n}"));
        site.deploy(&service, instances).await;
        let counts = site.lossy.counts();
        let asked = |shape: &str| counts.get(shape).copied().unwrap_or_default();
        tokens += asked("POST v3/auth/tokens");
        let total: usize = counts.values().sum();
        // Image, link, subnet, flavor; server and port of each.
        let resources = 4 + 2 * instances;
        // Before they are ordered, and while they are built.
        let looks = asked("GET v2.1/servers/*") + asked("GET v2.1/servers/detail");
        println!(
            "{instances:9}  {resources:9}  {total:5}  {:7}  {looks:56}  {:7.1}",
            2 * resources + BESIDE,
            start.elapsed().as_secs_f64()
        );
        // A boot that takes long on a busy machine is looked at more often than that.
        let quick = total - looks + looks.min(QUICK + instances);
        assert!(quick <= 2 * resources + BESIDE, "{total} calls for {resources} resources: {counts:?}");
        looks_each.push((instances, looks));
        site.remove(&service, instances).await;
    }
    println!("{tokens} token for {} services", SIZES.len());
    assert_eq!(tokens, 1);
    let (most, looks) = looks_each[SIZES.len() - 1];
    assert!(looks < most, "{looks} looks for {most} servers that boot at once");
    let left = residue(&Cloud::of(&clouds, "mandate"), &site.home).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}
