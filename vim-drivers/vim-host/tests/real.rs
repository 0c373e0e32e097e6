//! The run that counts: the port's suite, evidence and traffic with mandate-launcher, mandate-dataplane (DPDK) and
//! a TPM (swtpm), every instance as a user of its own.
//!
//! Needs root, swtpm, and both programs: `cargo build -p mandate-launcher -p mandate-dataplane`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use attestation::{AkRecord, ReferenceValues, Workload, appraise};
use common::{Host, Recipe, TwoImages, conclude, eventually, is_root, key, missing, only, programs, sh};
use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{Backend, Generator, Port, PortDriver, Reflector},
    protocol::{Client, Request, Status},
    traffic::{Expectation, FlowGroup, TrafficProfile},
};
use trust::{Digest, UnixTime};
use vim::{
    ComputeSpec, ComputeState, Disposition, ImageSpec, Kind, NetworkSpec, ObjectKey, Observed, PortSpec,
    Scope, Spec, VimDriver, VnfControl,
    conformance::{self, Fixture},
    port_interface,
};
use vim_host::TpmConfig;

const PCR: u8 = 15;
const USERS: std::ops::RangeInclusive<u32> = 700_000..=700_015;

/// False inside a user namespace that one user made.
fn all_users_are_mapped() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().nth(2).is_some_and(|count| count.parse::<u32>().unwrap() > *USERS.end())
}

/// A TPM of the tests' own, and what a fixture is made from.
struct Machine {
    swtpm: Child,
    dir: tempfile::TempDir,
    recipe: Recipe,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _gone = self.swtpm.kill();
        let _reaped = self.swtpm.wait();
    }
}

async fn machine() -> Option<Machine> {
    let (launcher, dataplane) = (programs().join("mandate-launcher"), programs().join("mandate-dataplane"));
    if !is_root() {
        return None;
    }
    if !launcher.is_file() || !dataplane.is_file() {
        missing("needs `cargo build -p mandate-launcher -p mandate-dataplane`");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("tpm.sock");
    fs::create_dir(dir.path().join("tpm")).unwrap();
    let swtpm = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "startup-clear", "--server"])
        .arg(format!("type=unixio,path={}", socket.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", dir.path().join("ctrl.sock").display()))
        .arg("--tpmstate")
        .arg(format!("dir={}", dir.path().join("tpm").display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(swtpm) = swtpm else {
        missing("needs swtpm (`apt-get install swtpm`)");
        return None;
    };
    assert!(eventually(Duration::from_secs(10), || socket.exists()).await, "swtpm's socket");
    let tpm = TpmConfig {
        tcti: format!("swtpm:path={}", socket.display()),
        event_log: dir.path().join("events"),
        pcr: PCR,
        ak_generation: None,
    };
    let images = TwoImages::of(&dataplane, dir.path());
    let run_as = all_users_are_mapped().then_some(USERS);
    let recipe = Recipe { launcher, images, tpm: Some(tpm), run_as, dataplane_arguments: Vec::new() };
    Some(Machine { swtpm, dir, recipe })
}

impl Machine {
    /// What an operator registers for the site.
    fn ak(&self) -> AkRecord {
        let tpm = self.recipe.tpm.as_ref().unwrap();
        let output = Command::new(&self.recipe.launcher)
            .args(["ak", "--tpm", &tpm.tcti, "--pcr", &PCR.to_string(), "--log"])
            .arg(&tpm.event_log)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let field = |name: &str| {
            printed[name].as_str().unwrap_or_else(|| panic!("no {name} in {printed}")).to_owned()
        };
        AkRecord {
            site: "test".into(),
            public_key: field("public_key"),
            pcr: PCR,
            pcr_baseline: field("pcr_baseline").parse().unwrap(),
            not_before: UnixTime(0),
            not_after: UnixTime(u64::from(u32::MAX)),
        }
    }
}

fn document(instance: &ObjectKey, generation: u64, mac: MacAddr, function: Function) -> String {
    let driver = PortDriver::AfPacket { interface: port_interface(0) };
    let ports = vec![Port { name: "eth".into(), driver, mac }];
    let document = Configuration { instance: instance.to_string(), generation, ports, function };
    String::from_utf8(document.to_bytes()).unwrap()
}

fn reflector(number: u16) -> Function {
    Function::Reflector(Reflector { port: "eth".into(), number, addresses: vec![[192, 0, 2, 10].into()] })
}

fn compute(host: &Host, mac: MacAddr, configuration: String) -> Spec {
    let port = PortSpec::new("eth", key("ns/net"), mac);
    Spec::Compute(ComputeSpec {
        ports: vec![port],
        configuration,
        ..ComputeSpec::new("vdu", host.images()[0], 1, 64)
    })
}

/// Speaks to an instance behind the driver's back.
fn told(host: &Host, instance: &ObjectKey, request: Request) -> Status {
    let socket = UnixStream::connect(host.run_dir().join(instance.short("i")).join("control")).unwrap();
    Client::new(socket).unwrap().status(&request).unwrap()
}

async fn ground(host: &Host) {
    let image = Spec::Image(ImageSpec::new("dataplane", host.images()[0]));
    host.vim().ensure(&key("ns/image"), &image).await.unwrap();
    let network = Spec::Network(NetworkSpec::new("net", 1500));
    host.vim().ensure(&key("ns/net"), &network).await.unwrap();
}

async fn finish(mut host: Host) {
    let found = host.vim().observe(&Scope::All).await.unwrap().objects;
    for kind in [Kind::Compute, Kind::Network, Kind::Image] {
        for key in found.keys() {
            host.vim().remove(key, kind).await.unwrap();
        }
    }
    assert_eq!(host.residue().await.unwrap(), Vec::<String>::new());
    host.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_vim_conforms_with_the_real_data_plane() {
    let Some(machine) = machine().await else { return };
    let report = conformance::run(async || Host::new(&machine.recipe), only().as_deref()).await;
    conclude(&report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_is_affirmed_for_what_runs_and_for_nothing_else() {
    let Some(machine) = machine().await else { return };
    let host = Host::new(&machine.recipe).unwrap();
    ground(&host).await;
    let (one, mac) = (key("ns/vdu"), MacAddr([2, 0, 0, 0, 0, 1]));
    let first = document(&one, 1, mac, reflector(1));
    host.vim().ensure(&one, &compute(&host, mac, first.clone())).await.unwrap();
    let ak = machine.ak();
    let reference = |configuration: &str| {
        let workload = Workload { image: host.images()[0], configuration: Digest::of(configuration) };
        ReferenceValues {
            ak: ak.clone(),
            workloads: BTreeMap::from([(one.to_string(), workload)]),
            tee: false,
        }
    };
    let nonce = |n: u8| Digest::of([n]);
    let at = UnixTime(1_800_000_000);

    let evidence = host.vim().attest(std::slice::from_ref(&one), &nonce(1)).await.unwrap();
    let result = appraise(&evidence, &reference(&first), &nonce(1), at);
    assert!(result.affirming, "{result:?}");
    assert!(!appraise(&evidence, &reference(&first), &nonce(2), at).affirming, "another nonce");

    let second = document(&one, 2, mac, reflector(2));
    host.vim().ensure(&one, &compute(&host, mac, second.clone())).await.unwrap();
    // A refused document must not leave its measurement as the last word of the log.
    let stale = document(&one, 2, mac, reflector(3));
    let refused = host.vim().ensure(&one, &compute(&host, mac, stale)).await.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), refused.disposition),
        ("CONFIGURATION_REFUSED", Disposition::Compensate)
    );
    let generator = document(&one, 3, mac, Function::Generator(Generator { port: "eth".into() }));
    let refused = host.vim().ensure(&one, &compute(&host, mac, generator)).await.unwrap_err();
    assert_eq!(refused.code, "CONFIGURATION_REFUSED", "a reflector does not become a generator: {refused}");
    let evidence = host.vim().attest(std::slice::from_ref(&one), &nonce(3)).await.unwrap();
    let result = appraise(&evidence, &reference(&second), &nonce(3), at);
    assert!(result.affirming, "{result:?}");
    assert!(!appraise(&evidence, &reference(&first), &nonce(3), at).affirming, "the old configuration");

    // Isolation shows in the claims.
    host.vim().isolate(&one, true).await.unwrap();
    let evidence = host.vim().attest(std::slice::from_ref(&one), &nonce(4)).await.unwrap();
    assert!(evidence.claims.contains("\"isolated\":true"), "{}", evidence.claims);
    // The kernel's word, whatever the process says.
    assert!(!told(&host, &one, Request::Isolate { on: false }).isolated);
    let evidence = host.vim().attest(std::slice::from_ref(&one), &nonce(6)).await.unwrap();
    assert!(evidence.claims.contains("\"isolated\":true"), "{}", evidence.claims);
    let absent = host.vim().attest(&[one.clone(), key("ns/absent")], &nonce(5)).await.unwrap_err();
    assert_eq!(absent.code, "INSTANCE_ABSENT");
    assert!(machine.dir.path().join("events").is_file());
    finish(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_instance_is_a_user_of_its_own_with_two_capabilities() {
    let Some(machine) = machine().await else { return };
    if machine.recipe.run_as.is_none() {
        return missing("needs a machine's root: other users have no ids in this user namespace");
    }
    let host = Host::new(&machine.recipe).unwrap();
    ground(&host).await;
    let mut users = Vec::new();
    for n in 1..=2u8 {
        let (vdu, mac) = (key(&format!("ns/vdu-{n}")), MacAddr([2, 0, 0, 0, 0, n]));
        host.vim().ensure(&vdu, &compute(&host, mac, document(&vdu, 1, mac, reflector(1)))).await.unwrap();
        let pid = host.vim().status(&vdu).await.unwrap().pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
        // CAP_NET_RAW is 13, CAP_IPC_LOCK 14.
        assert_eq!(u64::from_str_radix(&field("CapBnd:"), 16).unwrap(), 1 << 13 | 1 << 14);
        users.push(field("Uid:"));
        // A session of its own: our end is not its end.
        assert_eq!(sh(&format!("ps -o sid= -p {pid}")).unwrap().trim(), pid.to_string());
    }
    assert_eq!(users, ["700000\t700000\t700000\t700000", "700001\t700001\t700001\t700001"]);
    finish(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_tpm_it_runs_and_gives_no_evidence() {
    let Some(machine) = machine().await else { return };
    let host = Host::new(&Recipe { tpm: None, ..machine.recipe.clone() }).unwrap();
    ground(&host).await;
    let (vdu, mac) = (key("ns/vdu"), MacAddr([2, 0, 0, 0, 0, 1]));
    for generation in 1..=2 {
        let spec = compute(&host, mac, document(&vdu, generation, mac, reflector(1)));
        host.vim().ensure(&vdu, &spec).await.unwrap();
        assert_eq!(host.vim().status(&vdu).await.unwrap().generation, generation);
    }
    let refused = host.vim().attest(std::slice::from_ref(&vdu), &Digest::of(b"n")).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.disposition), ("NO_TPM", Disposition::Compensate));
    finish(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_traffic_passes_from_a_generator_to_a_reflector() {
    let Some(machine) = machine().await else { return };
    let host = Host::new(&machine.recipe).unwrap();
    ground(&host).await;
    let (probe, backend) = (key("ns/probe"), key("ns/backend"));
    let (from, to) = (MacAddr([2, 0, 0, 0, 1, 1]), MacAddr([2, 0, 0, 0, 1, 2]));
    host.vim().ensure(&backend, &compute(&host, to, document(&backend, 1, to, reflector(7)))).await.unwrap();
    let generator = Function::Generator(Generator { port: "eth".into() });
    host.vim().ensure(&probe, &compute(&host, from, document(&probe, 1, from, generator))).await.unwrap();
    let backends = vec![Backend::new("b7", 7, to, 1)];
    let group = FlowGroup {
        id: "all".into(),
        protocol: 17,
        source: [198, 51, 100, 1].into(),
        destination: [192, 0, 2, 10].into(),
        destination_port: 80,
        first: 0,
        count: 64,
        expect: Expectation::Balanced { backends, table_size: 65_537 },
    };
    let profile = TrafficProfile {
        groups: vec![group],
        frame_bytes: 124,
        rate_pps: 2000,
        duration_ms: 1000,
        drain_ms: 300,
        next_hop: None,
    };
    let report = host.vim().run_traffic(&probe, &profile).await.unwrap();
    assert_eq!((report.groups["all"].arrived, report.groups["all"].misrouted), (64, 0), "{report:?}");
    assert!(report.rx_frames >= 1500 && report.rx_frames <= report.tx_frames, "{report:?}");
    eprintln!("{} of {} frames back, p50 {} us", report.rx_frames, report.tx_frames, report.latency_p50_us);

    host.vim().isolate(&backend, true).await.unwrap();
    let cut = host.vim().run_traffic(&probe, &profile).await;
    assert!(cut.as_ref().map_or(true, |r| r.rx_frames == 0), "isolated, and yet: {cut:?}");
    // The process lets everything through again; the kernel does not.
    assert!(!told(&host, &backend, Request::Isolate { on: false }).isolated);
    let cut = host.vim().run_traffic(&probe, &profile).await;
    assert!(cut.as_ref().map_or(true, |r| r.rx_frames == 0), "isolated, and yet: {cut:?}");
    // Killed and made anew, it is as cut as before.
    let pid = host.vim().status(&backend).await.unwrap().pid;
    sh(&format!("kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.01; done")).unwrap();
    let spec = compute(&host, to, document(&backend, 1, to, reflector(7)));
    let made = host.vim().ensure(&backend, &spec).await.unwrap();
    assert!(matches!(&made, Observed::Compute(c) if c.state == ComputeState::Isolated), "{made:?}");
    let cut = host.vim().run_traffic(&probe, &profile).await;
    assert!(cut.as_ref().map_or(true, |r| r.rx_frames == 0), "isolated, and yet: {cut:?}");
    // Taken back, traffic flows through the same process.
    host.vim().isolate(&backend, false).await.unwrap();
    let report = host.vim().run_traffic(&probe, &profile).await.unwrap();
    assert_eq!((report.groups["all"].arrived, report.groups["all"].misrouted), (64, 0), "{report:?}");
    let refused = host.vim().run_traffic(&backend, &profile).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.disposition), ("DATAPLANE_REFUSED", Disposition::Compensate));
    finish(host).await;
}

/// What the host VIM costs. Prints medians; asserts only that it is within reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_it_takes() {
    const ROUNDS: usize = 9;
    let Some(machine) = machine().await else { return };
    let host = Host::new(&machine.recipe).unwrap();
    ground(&host).await;
    drop(machine.ak());
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let (net, vdu, mac) = (key("ns/other"), key("ns/vdu"), MacAddr([2, 0, 0, 0, 0, 1]));
    for _ in 0..ROUNDS {
        let mut time = |what, start: Instant| times.entry(what).or_default().push(start.elapsed());
        let network = Spec::Network(NetworkSpec::new("net", 1500));
        let start = Instant::now();
        host.vim().ensure(&net, &network).await.unwrap();
        time("network: ensure", start);
        let first = compute(&host, mac, document(&vdu, 1, mac, reflector(1)));
        for what in ["compute: ensure, cold to Active", "compute: ensure again"] {
            let start = Instant::now();
            host.vim().ensure(&vdu, &first).await.unwrap();
            time(what, start);
        }
        let start = Instant::now();
        host.vim().ensure(&vdu, &compute(&host, mac, document(&vdu, 2, mac, reflector(2)))).await.unwrap();
        time("compute: reconfigure, measured", start);
        let start = Instant::now();
        host.vim().attest(std::slice::from_ref(&vdu), &Digest::of(b"n")).await.unwrap();
        time("compute: attest", start);
        let start = Instant::now();
        host.vim().observe(&Scope::All).await.unwrap();
        time("observe", start);
        let start = Instant::now();
        host.vim().remove(&vdu, Kind::Compute).await.unwrap();
        time("compute: remove", start);
        let start = Instant::now();
        host.vim().remove(&net, Kind::Network).await.unwrap();
        time("network: remove", start);
    }
    for (what, times) in &mut times {
        times.sort();
        eprintln!("{what:<34} median {:>8.1?}  worst {:>8.1?}", times[ROUNDS / 2], times[ROUNDS - 1]);
        assert!(times[ROUNDS / 2] < Duration::from_secs(10), "{what}");
    }
    finish(host).await;
}
