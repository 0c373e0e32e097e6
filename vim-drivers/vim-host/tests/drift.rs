//! What the conformance suite cannot say of drift: trunks broken in every way, ends of instances that an earlier driver
//! started, and what a look costs. Launcher and data plane are the stand-in of `examples/`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use common::{
    Host,
    bench::{bench, compute, finish, ground, network, verdict},
    key, sh,
};
use vim::{
    Disposition, Interconnect, Kind, NetworkSpec, Observed, ProcessState, Scope, Spec, VimDriver, VnfControl,
    conformance::Fixture,
};

fn joined(wan: &str, segment: u16) -> Spec {
    let interconnect = Some(Interconnect { wan: wan.into(), segment });
    Spec::Network(NetworkSpec { interconnect, ..NetworkSpec::new("net", 1500) })
}

fn is_joined(found: &Observed) -> bool {
    matches!(found, Observed::Network { interconnect: Some(_), .. })
}

/// Broken at either end, or half made: seen, put right, and nothing is left of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_trunk_is_seen_and_made_anew() {
    let Some(bench) = bench() else { return };
    let mut east = Host::new(&bench.recipe).unwrap();
    let west = east.other_site().await.unwrap().unwrap();
    let (net, fabric) = (key("ns/net"), east.fabric());
    let exchange = format!("mdx-{}", east.config.home.as_deref().unwrap());
    let trunk = net.short("w");
    let part = |what: &str| {
        format!(
            "p=$(ip -n {exchange} -o link | grep 'mandate-part {} ' | sed 's/^[0-9]*: \\([^@:]*\\).*/\\1/'); {what}",
            east.site
        )
    };
    west.vim().ensure(&net, &joined("wan", 7)).await.unwrap();
    for broken in [
        format!("ip -n {fabric} link del {trunk}"),
        format!("ip -n {fabric} link set {trunk} down"),
        format!("ip -n {fabric} link set {trunk} nomaster"),
        format!("ip -n {fabric} link set {trunk} alias ''"),
        part(&format!("ip -n {exchange} link set $p nomaster")),
        part(&format!("ip -n {exchange} link set $p down")),
        part(&format!("ip -n {exchange} link set $p alias ''")),
        part(&format!("ip -n {exchange} link del $p")),
    ] {
        let made = east.vim().ensure(&net, &joined("wan", 7)).await.unwrap();
        assert!(is_joined(&made), "{broken}: {made:?}");
        sh(&broken).unwrap();
        let seen = east.vim().observe(&Scope::All).await.unwrap();
        assert!(!is_joined(&seen.objects[&net]), "{broken}: {seen:?}");
        let again = east.vim().ensure(&net, &joined("wan", 7)).await.unwrap();
        assert!(
            is_joined(&again) && is_joined(&west.vim().observe(&Scope::All).await.unwrap().objects[&net])
        );
    }
    // Half made by a crash of the other site: gone with our next change.
    sh(&format!("ip -n {exchange} link add x00000000ff type bridge")).unwrap();
    let elsewhere = east.vim().ensure(&net, &joined("wan", 8)).await.unwrap();
    assert!(is_joined(&elsewhere));
    let left = sh(&format!("ip -n {exchange} -br link")).unwrap();
    assert!(!left.contains("x00000000ff"), "{left}");
    for (spec, code, disposition) in [
        (joined("WAN", 7), "BAD_SPEC", Disposition::Compensate),
        (joined("wan", 0), "BAD_SPEC", Disposition::Compensate),
        (joined("wan", 8), "SEGMENT_IN_USE", Disposition::Compensate),
    ] {
        let refused = east.vim().ensure(&key("ns/other"), &spec).await.unwrap_err();
        assert_eq!(verdict(&refused), (code, disposition), "{refused}");
    }
    finish(east).await;
    assert!(Path::new("/run/netns").join(&exchange).exists(), "the other site's part is still there");
    finish(west).await;
    assert!(!Path::new("/run/netns").join(&exchange).exists(), "the last part is gone");
}

/// Sites that join and part at once end with what was asked for last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_join_and_part_at_the_same_time() {
    let Some(bench) = bench() else { return };
    let mut east = Host::new(&bench.recipe).unwrap();
    let west = east.other_site().await.unwrap().unwrap();
    let net = key("ns/net");
    for _ in 0..5 {
        let (spec, nine) = (joined("wan", 7), joined("wan", 9));
        let (one, two) = tokio::join!(east.vim().ensure(&net, &spec), west.vim().ensure(&net, &spec));
        assert!(is_joined(&one.unwrap()) && is_joined(&two.unwrap()));
        let (one, two) = tokio::join!(east.vim().remove(&net, Kind::Network), west.vim().ensure(&net, &nine));
        one.unwrap();
        assert!(is_joined(&two.unwrap()));
        west.vim().remove(&net, Kind::Network).await.unwrap();
    }
    finish(east).await;
    finish(west).await;
}

/// An instance that an earlier driver started is watched by this one; one that hangs does not hide the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_instances_end_is_noticed_at_once() {
    let Some(bench) = bench() else { return };
    let mut host = Host::new(&bench.recipe).unwrap();
    ground(&host).await;
    let (one, two) = (key("ns/one"), key("ns/two"));
    for vdu in [&one, &two] {
        host.vim().ensure(vdu, &compute(&host, vdu, &["ns/net"])).await.unwrap();
    }
    host.restart().await.unwrap();
    let pids = [host.vim().status(&one).await.unwrap().pid, host.vim().status(&two).await.unwrap().pid];
    let vim = host.vim().clone();
    let waits = tokio::spawn(async move { (vim.changed(0).await, Instant::now()) });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let killed = Instant::now();
    sh(&format!("kill -9 {}", pids[0])).unwrap();
    let (changed, at) = tokio::time::timeout(Duration::from_secs(5), waits).await.unwrap().unwrap();
    assert_eq!((changed.count, changed.keys), (1, [one.clone()].into()));
    eprintln!("an end was noticed after {:.1?}", at.duration_since(killed));
    sh(&format!("kill -STOP {}", pids[1])).unwrap();
    let start = Instant::now();
    let seen = host.vim().observe(&Scope::All).await.unwrap().objects;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let process = |key| match &seen[key] {
        Observed::Compute(c) => c.process,
        other => panic!("{other:?}"),
    };
    assert_eq!((process(&one), process(&two)), (ProcessState::Gone, ProcessState::Silent));
    sh(&format!("kill -CONT {}", pids[1])).unwrap();
    finish(host).await;
}

/// What is not enforced is said, with what to do about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_counted_is_said() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    let enforced = host.vim().capabilities().await.unwrap().enforced;
    eprintln!("{enforced:?}");
    assert_eq!(enforced.vcpus && enforced.memory, enforced.why_not.is_empty(), "{enforced:?}");
    if !enforced.memory {
        return common::missing("the rest needs cgroup v2 with the memory controller");
    }
    ground(&host).await;
    let vdu = key("ns/vdu");
    host.vim().ensure(&vdu, &compute(&host, &vdu, &["ns/net"])).await.unwrap();
    let pid = host.vim().status(&vdu).await.unwrap().pid;
    let of = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(of.contains(&format!("mandate/{}/{}", host.site, vdu.short("i"))), "{of}");
    finish(host).await;
}

/// Thousands of services in one look, with one dump; files are read again only when they changed. The services have a
/// network and an image each, and an instance that does not run; what running ones cost is what their answers cost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_services_are_observed_in_one_look() {
    let services: usize =
        std::env::var("OBSERVED_SERVICES").map_or(1000, |n| n.parse().expect("a number of services"));
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    ground(&host).await;
    let vdu = key("ns/vdu");
    let Spec::Compute(mut spec) = compute(&host, &vdu, &["ns/net"]) else { panic!() };
    spec.configuration.clear();
    let state = &host.config.state_dir;
    let mut batch = String::new();
    for i in 0..services {
        let (net, image, vdu) =
            (key(&format!("s{i}/net")), key(&format!("s{i}/image")), key(&format!("s{i}/vdu")));
        batch += &format!(
            "link add {0} type bridge\nlink set {0} alias \"mandate {1} {net}\" up\n",
            net.short("b"),
            host.site
        );
        let reference = serde_json::json!({ "key": image, "name": "dp", "digest": host.images()[0] });
        fs::write(state.join("image-refs").join(format!("{}.json", image.short("m"))), reference.to_string())
            .unwrap();
        let dir = host.instance_dir(&vdu);
        fs::create_dir(&dir).unwrap();
        let record = serde_json::json!({ "key": vdu, "spec": spec, "user": null, "isolated": false });
        fs::write(dir.join("record.json"), record.to_string()).unwrap();
    }
    let file = state.join("batch");
    fs::write(&file, batch).unwrap();
    sh(&format!("ip -n {} -b {}", host.fabric(), file.display())).unwrap();
    let mut times = Vec::new();
    for _ in 0..4 {
        let start = Instant::now();
        let seen = host.vim().observe(&Scope::All).await.unwrap();
        times.push(start.elapsed());
        assert_eq!((seen.objects.len(), seen.extra.len()), (3 * services + 2, 0));
    }
    let best = times[1..].iter().min().unwrap();
    // `cargo testbed bench control` reads this line.
    eprintln!(
        "{services} services, {} objects: observed in {} ms (each look: {times:.1?})",
        3 * services + 2,
        best.as_millis()
    );
    assert!(best < &Duration::from_secs(2), "{times:?}");
    fs::remove_file(file).unwrap();
    sh(&format!("rm -r {0}/instances/* {0}/image-refs/*", state.display())).unwrap();
    // Whoever wiped the state directory left the links: they are objects still, by their aliases.
    let left = host.vim().observe(&Scope::All).await.unwrap().objects;
    assert_eq!(left.len(), services + 1);
    sh(&format!("ip netns del {}", host.fabric())).unwrap();
    host.vim()
        .ensure(&key("ns/image"), &Spec::Image(vim::ImageSpec::new("i", host.images()[0])))
        .await
        .unwrap();
    host.vim().ensure(&key("ns/net"), &network(1500)).await.unwrap();
    finish(host).await;
}
