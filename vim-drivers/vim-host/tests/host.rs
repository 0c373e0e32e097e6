//! What only this VIM promises: a quiet kernel, disjoint sites, foreign links, callers that give up, errors by code.
//! Launcher and data plane are the stand-in of `examples/`; `tests/real.rs` has the real ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use common::{Host, Recipe, TwoImages, is_root, key, sh, standin};
use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{Port, PortDriver, Reflector},
};
use trust::Digest;
use vim::{
    ComputeSpec, ComputeState, Disposition, DriverError, ImageSpec, Kind, NetworkSpec, ObjectKey, Observed,
    PortSpec, Scope, Spec, VimDriver, VnfControl, conformance::Fixture, port_interface,
};
use vim_host::HostVim;

struct Bench {
    recipe: Recipe,
    _dir: tempfile::TempDir,
}

fn bench() -> Option<Bench> {
    if !is_root() {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = TwoImages::of(&standin(), dir.path());
    let recipe =
        Recipe { launcher: standin(), images, tpm: None, run_as: None, dataplane_arguments: Vec::new() };
    Some(Bench { recipe, _dir: dir })
}

fn network(mtu: u16) -> Spec {
    Spec::Network(NetworkSpec { name: "net".into(), mtu })
}

/// A reflector with a port on each of these networks.
fn compute(host: &Host, instance: &ObjectKey, networks: &[&str]) -> Spec {
    let mac = |i: usize| {
        let [a, b, c, ..] = Digest::of(format!("{instance} {i}")).0;
        MacAddr([2, 0, 0, a, b, c])
    };
    let port = |(i, _): (usize, &&str)| Port {
        name: format!("eth{i}"),
        driver: PortDriver::AfPacket { interface: port_interface(i) },
        mac: mac(i),
    };
    let spec = |(i, network): (usize, &&str)| PortSpec {
        name: format!("eth{i}"),
        network: key(network),
        mac: mac(i),
        addresses: Vec::new(),
    };
    let function = Function::Reflector(Reflector { port: "eth0".into(), number: 1, addresses: Vec::new() });
    let ports = networks.iter().enumerate().map(port).collect();
    let document = Configuration { instance: instance.to_string(), generation: 1, ports, function };
    Spec::Compute(ComputeSpec {
        name: "vdu".into(),
        image: host.images()[0],
        vcpus: 1,
        memory_mib: 64,
        ports: networks.iter().enumerate().map(spec).collect(),
        configuration: String::from_utf8(document.to_bytes()).unwrap(),
    })
}

async fn ground(host: &Host) {
    let image = Spec::Image(ImageSpec { name: "dataplane".into(), digest: host.images()[0] });
    host.vim().ensure(&key("ns/image"), &image).await.unwrap();
    host.vim().ensure(&key("ns/net"), &network(1500)).await.unwrap();
}

async fn finish(mut host: Host) {
    let found = host.vim().observe(&Scope::All).await.unwrap().objects;
    for kind in [Kind::Compute, Kind::Network, Kind::Image] {
        for key in found.keys() {
            host.vim().remove(key, kind).await.unwrap();
        }
    }
    assert_eq!(host.residue().await.unwrap(), Vec::<String>::new());
}

fn verdict(error: &DriverError) -> (&str, Disposition) {
    (&error.code, error.disposition)
}

/// A frame on a port of an instance is a data plane's, never the kernel's: none when no data plane sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_adds_no_frames() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    ground(&host).await;
    let instances = [key("ns/one"), key("ns/two")];
    for instance in &instances {
        host.vim().ensure(instance, &compute(&host, instance, &["ns/net", "ns/net"])).await.unwrap();
    }
    // Duplicate address detection, router solicitation, IGMP and MLD reports come within a second or two of `up`.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for instance in &instances {
        let shown = sh(&format!("ip -n {} -s -j link show", host.namespace(instance))).unwrap();
        let links: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let mut seen = 0;
        for link in
            links.as_array().unwrap().iter().filter(|l| l["ifname"].as_str().unwrap().starts_with("cp"))
        {
            let (rx, tx) = (&link["stats64"]["rx"]["packets"], &link["stats64"]["tx"]["packets"]);
            assert_eq!((rx.as_u64(), tx.as_u64()), (Some(0), Some(0)), "{link}");
            assert!(link["flags"].as_array().unwrap().contains(&"UP".into()), "{link}");
            assert!(link["flags"].as_array().unwrap().contains(&"PROMISC".into()), "{link}");
            seen += 1;
        }
        assert_eq!(seen, 2, "{links}");
    }
    finish(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_link_with_our_name_is_left_to_its_owner() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    let (fabric, net) = (host.fabric(), key("ns/net"));
    let bridge = net.short("b");
    let make = |alias: &str| {
        sh(&format!(
            "ip netns add {fabric} 2>/dev/null || true; ip -n {fabric} link add {bridge} type bridge; \
             ip -n {fabric} link set {bridge} alias '{alias}'"
        ))
    };
    for (alias, code, disposition) in [
        ("uplink of the lab", "FOREIGN_OBJECT", Disposition::Escalate),
        (&format!("mandate {} other/net", host.site), "KEY_COLLISION", Disposition::Compensate),
    ] {
        make(alias).unwrap();
        let refused = host.vim().ensure(&net, &network(1500)).await.unwrap_err();
        assert_eq!(verdict(&refused), (code, disposition), "{refused}");
        host.vim().remove(&net, Kind::Network).await.unwrap();
        let still = sh(&format!("ip -n {fabric} link show {bridge}")).unwrap();
        assert!(still.contains(alias), "{still}");
        sh(&format!("ip -n {fabric} link del {bridge}")).unwrap();
    }
    host.vim().remove(&net, Kind::Network).await.unwrap();
    finish(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_of_one_machine_are_disjoint() {
    let Some(bench) = bench() else { return };
    let (east, mut west) = (Host::new(&bench.recipe).unwrap(), Host::new(&bench.recipe).unwrap());
    let vdu = key("ns/vdu");
    for host in [&east, &west] {
        ground(host).await;
        host.vim().ensure(&vdu, &compute(host, &vdu, &["ns/net"])).await.unwrap();
    }
    let before = (west.residue().await.unwrap(), west.vim().status(&vdu).await.unwrap().pid);
    finish(east).await;
    assert_eq!((west.residue().await.unwrap(), west.vim().status(&vdu).await.unwrap().pid), before);
    finish(west).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_mtu_reaches_both_ends_of_every_port() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    ground(&host).await;
    let vdu = key("ns/vdu");
    host.vim().ensure(&vdu, &compute(&host, &vdu, &["ns/net"])).await.unwrap();
    let observed = host.vim().ensure(&key("ns/net"), &network(9000)).await.unwrap();
    assert_eq!(observed, Observed::Network { up: true, mtu: 9000 });
    let links = sh(&format!("ip -n {} link; ip -n {} link", host.fabric(), host.namespace(&vdu))).unwrap();
    assert_eq!(links.matches("mtu 9000").count(), 3, "bridge, outer and inner end: {links}");
    finish(host).await;
}

/// What does not show in an observation but cuts the instance off is seen and made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_broken_under_a_running_process_are_made_anew() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    ground(&host).await;
    let vdu = key("ns/vdu");
    let spec = compute(&host, &vdu, &["ns/net"]);
    let (fabric, namespace, port) = (host.fabric(), host.namespace(&vdu), format!("{}p0", vdu.short("v")));
    for broken in [
        format!("ip -n {namespace} link set cp0 down"),
        format!("ip -n {fabric} link set {port} down"),
        format!("ip -n {fabric} link set {port} nomaster"),
        format!("ip -n {namespace} link set cp0 down; ip -n {namespace} link set cp0 name eth0 up"),
    ] {
        host.vim().ensure(&vdu, &spec).await.unwrap();
        let before = host.vim().status(&vdu).await.unwrap().pid;
        sh(&broken).unwrap();
        host.vim().ensure(&vdu, &spec).await.unwrap();
        assert_ne!(host.vim().status(&vdu).await.unwrap().pid, before, "{broken}");
        let outer = sh(&format!("ip -n {fabric} link show {port}")).unwrap();
        assert!(outer.contains(&format!("master {}", key("ns/net").short("b"))), "{broken}: {outer}");
        assert!(outer.contains("LOWER_UP"), "{broken}: {outer}");
    }
    finish(host).await;
}

/// A caller that stops waiting neither stops the operation nor harms the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_may_stop_waiting_at_any_moment() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    ground(&host).await;
    let vdu = key("ns/vdu");
    let spec = compute(&host, &vdu, &["ns/net"]);
    for wait_us in (0..60_000).step_by(6_000) {
        let wait = Duration::from_micros(wait_us);
        drop(tokio::time::timeout(wait, host.vim().ensure(&vdu, &spec)).await);
        let Observed::Compute(whole) = host.vim().ensure(&vdu, &spec).await.unwrap() else {
            panic!("a compute")
        };
        assert_eq!((whole.state, whole.ports.len()), (ComputeState::Active, 1), "{wait:?}");
        assert_eq!(host.processes().len(), 1, "{wait:?}");
        drop(tokio::time::timeout(wait, host.vim().remove(&vdu, Kind::Compute)).await);
        host.vim().remove(&vdu, Kind::Compute).await.unwrap();
        assert!(host.processes().is_empty(), "{wait:?}");
    }
    finish(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_by_code() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    let open = |change: &dyn Fn(&mut vim_host::HostConfig)| {
        let mut config = host.config.clone();
        change(&mut config);
        HostVim::new(config).map(drop).unwrap_err()
    };
    assert_eq!(verdict(&open(&|_| {})), ("SITE_IN_USE", Disposition::Escalate));
    let bad = ("BAD_CONFIG", Disposition::Escalate);
    assert_eq!(verdict(&open(&|c| c.site = "East Side".into())), bad);
    assert_eq!(verdict(&open(&|c| c.run_dir = Some(format!("/run/{}", "x".repeat(90)).into()))), bad);
    assert_eq!(verdict(&open(&|c| c.state_dir = PathBuf::from("relative"))), bad);
    assert_eq!(verdict(&open(&|c| c.launcher = PathBuf::from("/no/launcher"))), bad);
    assert_eq!(verdict(&open(&|c| c.run_as = Some(0..=9))), bad);

    ground(&host).await;
    let vdu = key("ns/vdu");
    host.vim().ensure(&vdu, &compute(&host, &vdu, &["ns/net"])).await.unwrap();
    let in_use = host.vim().remove(&key("ns/net"), Kind::Network).await.unwrap_err();
    assert_eq!(verdict(&in_use), ("NETWORK_IN_USE", Disposition::Retry), "{in_use}");
    assert!(!host.vim().capabilities().await.unwrap().attestation);
    let no_tpm = host.vim().attest(std::slice::from_ref(&vdu), &Digest::of(b"nonce")).await.unwrap_err();
    assert_eq!(verdict(&no_tpm), ("NO_TPM", Disposition::Compensate), "{no_tpm}");
    for name in ["ns/vdu", "ns/image"] {
        let refused = host.vim().ensure(&key(name), &network(1500)).await.unwrap_err();
        assert_eq!(verdict(&refused), ("KEY_IN_USE", Disposition::Compensate), "{refused}");
    }
    finish(host).await;
}

/// What ends before it answers is an error with its last words, and leaves what remove takes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_fails_says_why() {
    let Some(bench) = bench() else { return };
    for (script, code, disposition) in [
        ("echo no such function >&2; exit 7", "LAUNCH_FAILED", Disposition::Compensate),
        ("echo TPM is gone >&2; exit 4", "LAUNCH_NOT_MEASURED", Disposition::Unknown),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let launcher = dir.path().join("launcher");
        sh(&format!("printf '#!/bin/sh\n{script}\n' > {0}; chmod +x {0}", launcher.display())).unwrap();
        let host = Host::new(&Recipe { launcher, ..bench.recipe.clone() }).unwrap();
        ground(&host).await;
        let vdu = key("ns/vdu");
        let failed = host.vim().ensure(&vdu, &compute(&host, &vdu, &["ns/net"])).await.unwrap_err();
        assert_eq!(verdict(&failed), (code, disposition), "{failed}");
        let words = script.split(" >&2").next().unwrap().trim_start_matches("echo ");
        assert!(failed.reason.contains(words), "{failed}");
        let found = host.vim().observe(&Scope::All).await.unwrap().objects;
        assert!(matches!(&found[&vdu], Observed::Compute(c) if c.state == ComputeState::Down), "{found:?}");
        finish(host).await;
    }
}

/// One dump, whatever the number of objects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_networks_are_observed_at_once() {
    const NETWORKS: usize = 200;
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    for i in 0..NETWORKS {
        host.vim().ensure(&key(&format!("ns/net-{i}")), &network(1500)).await.unwrap();
    }
    let start = Instant::now();
    let found = host.vim().observe(&Scope::Service("ns".into())).await.unwrap().objects;
    let elapsed = start.elapsed();
    eprintln!("{} networks observed in {elapsed:.1?}", found.len());
    assert_eq!(found.len(), NETWORKS);
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    finish(host).await;
}

/// Without root: the same suite inside user, mount and network namespaces of its own.
#[test]
fn it_works_in_a_user_namespace() {
    if !is_root() {
        return;
    }
    let inner = "mount -t tmpfs tmpfs /run && exec \"$0\" --exact the_kernel_adds_no_frames errors_by_code \
                 two_sites_of_one_machine_are_disjoint";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "--fork", "sh", "-c", inner])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if text.contains("unshare failed") {
        common::missing(
            "this kernel refuses user namespaces (kernel.unprivileged_userns_clone, user.max_user_namespaces)",
        );
        return;
    }
    assert!(output.status.success() && text.contains("3 passed"), "{text}");
}

/// Not root: said at once, with what to do.
#[test]
fn without_root_it_says_what_to_do() {
    if !is_root() {
        return;
    }
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "only_without_root", "--nocapture"])
        .env("WITHOUT_ROOT", "1")
        .current_dir("/")
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if text.contains("ermission denied") && !text.contains("running 1 test") {
        common::missing("the test program is in a directory that only root reads");
        return;
    }
    assert!(output.status.success() && text.contains("unshare --user --map-root-user"), "{text}");
}

/// Run by [`without_root_it_says_what_to_do`].
#[test]
fn only_without_root() {
    if std::env::var_os("WITHOUT_ROOT").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = TwoImages(Default::default(), [Digest::of(b""); 2]);
    let launcher = std::env::current_exe().unwrap();
    let recipe = Recipe { launcher, images, tpm: None, run_as: None, dataplane_arguments: Vec::new() };
    let refused = Host::new(&recipe).map(drop).unwrap_err();
    eprintln!("{refused}");
    assert_eq!(common::entries(dir.path()), Vec::<String>::new());
}
