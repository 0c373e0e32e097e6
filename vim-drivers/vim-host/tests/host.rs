//! What only this VIM promises: a quiet kernel, disjoint sites, foreign links, callers that give up, errors by code.
//! Launcher and data plane are the stand-in of `examples/`; `tests/real.rs` has the real ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use common::{
    Host, Recipe, TwoImages,
    bench::{bench, compute, finish, ground, network, verdict},
    eventually, is_root, key, sh,
};
use trust::Digest;
use vim::{
    ComputeState, Disposition, Kind, Observed, Scope, Spec, VimDriver, VnfControl, conformance::Fixture,
};
use vim_host::HostVim;

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
    assert_eq!(observed, Observed::Network { up: true, mtu: 9000, interconnect: None });
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

/// A process whose executable cannot be read (here: a kernel thread's, which has none) is not reported as what was
/// asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_read_is_not_the_one_asked_for() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    let Some((pid, start)) = kernel_thread() else {
        return common::missing("needs a kernel thread in sight: this namespace for process ids has none");
    };
    ground(&host).await;
    let vdu = key("ns/vdu");
    let spec = compute(&host, &vdu, &["ns/net"]);
    host.vim().ensure(&vdu, &spec).await.unwrap();
    let recorded = host.instance_dir(&vdu).join("process.json");
    std::fs::write(&recorded, format!("{{\"pid\":{pid},\"start_ticks\":{start}}}")).unwrap();
    let found = host.vim().observe(&Scope::All).await.unwrap().objects;
    let Observed::Compute(seen) = &found[&vdu] else { panic!("{found:?}") };
    assert_eq!((seen.state, seen.configuration), (ComputeState::Down, None));
    assert_ne!(seen.image, host.images()[0], "nothing that runs it was read");
    // Ended behind our back: nothing is read either.
    std::fs::remove_file(&recorded).unwrap();
    let found = host.vim().observe(&Scope::All).await.unwrap().objects;
    assert!(matches!(&found[&vdu], Observed::Compute(c) if c.image != host.images()[0]), "{found:?}");
    let Observed::Compute(again) = host.vim().ensure(&vdu, &spec).await.unwrap() else { panic!() };
    assert_eq!((again.state, again.image), (ComputeState::Active, host.images()[0]));
    finish(host).await;
}

/// Id and start time of the parent of kernel threads.
fn kernel_thread() -> Option<(u32, String)> {
    let stat = std::fs::read_to_string("/proc/2/stat").ok()?;
    let start = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.to_owned();
    std::fs::read("/proc/2/exe").is_err().then_some((2, start))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_grows_is_cut_to_its_end() {
    const LONG: usize = 20 << 20;
    let Some(bench) = bench() else { return };
    let mut host = Host::new(&bench.recipe).unwrap();
    ground(&host).await;
    let vdu = key("ns/vdu");
    host.vim().ensure(&vdu, &compute(&host, &vdu, &["ns/net"])).await.unwrap();
    let pid = host.vim().status(&vdu).await.unwrap().pid;
    // What the process writes, through its own descriptors: to the end, wherever that is.
    for descriptor in [1, 2] {
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).unwrap();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap().trim().to_owned();
        assert_ne!(u32::from_str_radix(&flags, 8).unwrap() & 0o2000, 0, "O_APPEND: {info}");
    }
    let log = host.instance_dir(&vdu).join("log");
    std::fs::write(format!("/proc/{pid}/fd/1"), vec![b'x'; LONG]).unwrap();
    assert_eq!(std::fs::metadata(&log).unwrap().len(), LONG as u64);
    host.restart().await.unwrap();
    host.vim().observe(&Scope::All).await.unwrap();
    let cut = eventually(Duration::from_secs(5), || std::fs::metadata(&log).unwrap().len() < 2 << 20).await;
    assert!(cut, "{} bytes", std::fs::metadata(&log).unwrap().len());
    assert_eq!(host.vim().status(&vdu).await.unwrap().pid, pid);
    finish(host).await;
}

/// What goes past the links of this VIM could not be cut, so it is not made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_port_of_a_document_is_on_a_link_of_ours() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    ground(&host).await;
    let vdu = key("ns/vdu");
    let Spec::Compute(good) = compute(&host, &vdu, &["ns/net"]) else { panic!() };
    for other in [r#"{"memif":{"socket":"cp0","server":true}}"#, r#"{"af_packet":{"interface":"eth0"}}"#] {
        let mut spec = good.clone();
        let mut document: serde_json::Value = serde_json::from_str(&spec.configuration).unwrap();
        document["ports"][0]["driver"] = serde_json::from_str(other).unwrap();
        spec.configuration = document.to_string();
        let refused = host.vim().ensure(&vdu, &Spec::Compute(spec)).await.unwrap_err();
        assert_eq!(verdict(&refused), ("BAD_SPEC", Disposition::Compensate), "{refused}");
        assert!(refused.reason.contains("can be cut"), "{refused}");
    }
    finish(host).await;
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
