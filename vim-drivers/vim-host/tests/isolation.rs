//! Isolation is the kernel's, whatever the process is, does or says; and evidence of what is not there any more.
//! Launcher and data plane are the stand-in of `examples/`; `tests/real.rs` has the real ones, with traffic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{
    Host, Recipe,
    bench::{bench, compute, finish, ground, verdict},
    eventually, key, sh,
};
use dataplane_control::protocol::{Client, Request, Response, Status, VERSION, read_frame, write_frame};
use trust::Digest;
use vim::{
    ComputeState, Disposition, ImageSpec, Kind, ObjectKey, Observed, Scope, Spec, VimDriver, VnfControl,
    conformance::Fixture,
};
use vim_host::TpmConfig;

/// Longest that isolation may take of a process that does not answer.
const PROMPT: Duration = Duration::from_secs(4);

fn socket(host: &Host, instance: &ObjectKey) -> PathBuf {
    host.run_dir().join(instance.short("i")).join("control")
}

/// Which outer ends of the instance's ports are up: `ip`'s word.
fn up(host: &Host, instance: &ObjectKey) -> Vec<bool> {
    let shown = sh(&format!("ip -n {} -j link show", host.fabric())).unwrap();
    let links: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let mut found = Vec::new();
    for port in 0.. {
        let name = format!("{}p{port}", instance.short("v"));
        let Some(link) = links.as_array().unwrap().iter().find(|l| l["ifname"] == name.as_str()) else {
            break;
        };
        found.push(link["flags"].as_array().unwrap().contains(&"UP".into()));
    }
    found
}

async fn state(host: &Host, instance: &ObjectKey) -> ComputeState {
    match &host.vim().observe(&Scope::All).await.unwrap().objects[instance] {
        Observed::Compute(c) => c.state,
        other => panic!("{other:?}"),
    }
}

/// An instance with two ports, and its process.
async fn start(host: &Host, instance: &ObjectKey) -> (Spec, u32) {
    ground(host).await;
    let spec = compute(host, instance, &["ns/net", "ns/net"]);
    host.vim().ensure(instance, &spec).await.unwrap();
    assert_eq!(up(host, instance), [true, true]);
    (spec, host.vim().status(instance).await.unwrap().pid)
}

fn kill(pid: u32) {
    sh(&format!("kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.01; done")).unwrap();
}

/// Sits on the instance's socket and says of itself whatever one wants to hear.
fn lie(host: &Host, instance: &ObjectKey, pid: u32) {
    let path = socket(host, instance);
    let _gone = fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    let status = Status {
        instance: instance.to_string(),
        function: "reflector".into(),
        generation: 1,
        configuration: Digest::of(b"whatever"),
        isolated: false,
        pid,
        connections: 0,
        counters: BTreeMap::new(),
    };
    std::thread::spawn(move || {
        let mut status = status;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            while let Ok(Some(request)) = read_frame::<Request>(&mut stream) {
                let answer = match request {
                    Request::Hello { .. } => Response::Hello { version: VERSION },
                    Request::Isolate { on } => {
                        status.isolated = on;
                        Response::Status(Box::new(status.clone()))
                    }
                    _ => Response::Status(Box::new(status.clone())),
                };
                if write_frame(&mut stream, &answer).is_err() {
                    break;
                }
            }
        }
    });
}

/// What can have become of an instance when it is to be isolated.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Runs,
    Dead,
    Stopped,
    DeadAndReplaced,
    StoppedAndReplaced,
    WithoutSocket,
    WithoutRecordedProcess,
}

impl Fate {
    const ALL: [Self; 7] = [
        Self::Runs,
        Self::Dead,
        Self::Stopped,
        Self::DeadAndReplaced,
        Self::StoppedAndReplaced,
        Self::WithoutSocket,
        Self::WithoutRecordedProcess,
    ];

    fn befalls(self, host: &Host, instance: &ObjectKey, pid: u32) {
        match self {
            Self::Runs => {}
            Self::Dead => kill(pid),
            Self::Stopped => drop(sh(&format!("kill -STOP {pid}")).unwrap()),
            Self::DeadAndReplaced => {
                kill(pid);
                lie(host, instance, pid);
            }
            Self::StoppedAndReplaced => {
                sh(&format!("kill -STOP {pid}")).unwrap();
                lie(host, instance, pid);
            }
            Self::WithoutSocket => fs::remove_file(socket(host, instance)).unwrap(),
            Self::WithoutRecordedProcess => {
                fs::remove_file(host.instance_dir(instance).join("process.json")).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_cuts_whatever_became_of_the_process() {
    let Some(bench) = bench() else { return };
    for fate in Fate::ALL {
        let mut host = Host::new(&bench.recipe).unwrap();
        let vdu = key("ns/vdu");
        let (_, pid) = start(&host, &vdu).await;
        fate.befalls(&host, &vdu, pid);
        for on in [true, false, true] {
            let start = Instant::now();
            let asked = host.vim().isolate(&vdu, on).await;
            asked.unwrap_or_else(|e| panic!("{fate:?}, isolate {on}: {e}"));
            assert!(start.elapsed() < PROMPT, "{fate:?}, isolate {on}: {:?}", start.elapsed());
            assert_eq!(up(&host, &vdu), [!on, !on], "{fate:?}, isolate {on}");
        }
        host.restart().await.unwrap();
        assert_eq!(state(&host, &vdu).await, ComputeState::Isolated, "{fate:?}");
        finish(host).await;
    }
}

/// Made anew, configured anew, of another image: an instance that is cut stays cut until that is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_stays_cut_until_it_is_taken_back() {
    let Some(bench) = bench() else { return };
    let mut host = Host::new(&bench.recipe).unwrap();
    let vdu = key("ns/vdu");
    let (spec, pid) = start(&host, &vdu).await;
    host.vim().isolate(&vdu, true).await.unwrap();
    kill(pid);
    host.restart().await.unwrap();
    let second = Spec::Image(ImageSpec::new("second", host.images()[1]));
    host.vim().ensure(&key("ns/second"), &second).await.unwrap();
    let Spec::Compute(mut other) = spec.clone() else { panic!() };
    other.image = host.images()[1];
    for spec in [spec, Spec::Compute(other)] {
        let Observed::Compute(made) = host.vim().ensure(&vdu, &spec).await.unwrap() else { panic!() };
        assert_eq!((made.state, up(&host, &vdu)), (ComputeState::Isolated, vec![false, false]));
        assert!(host.vim().status(&vdu).await.unwrap().isolated, "the process was told");
    }
    let pid = host.vim().status(&vdu).await.unwrap().pid;
    host.vim().isolate(&vdu, false).await.unwrap();
    let status = host.vim().status(&vdu).await.unwrap();
    assert_eq!((status.pid, status.isolated, up(&host, &vdu)), (pid, false, vec![true, true]));
    assert_eq!(state(&host, &vdu).await, ComputeState::Active);
    finish(host).await;
}

/// What is reported is what the links are; what is wrong about them is put right without another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reported_is_the_kernels_state() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    let vdu = key("ns/vdu");
    let (spec, pid) = start(&host, &vdu).await;
    let told = |on| {
        let mut client = Client::new(UnixStream::connect(socket(&host, &vdu)).unwrap()).unwrap();
        client.status(&Request::Isolate { on }).unwrap()
    };
    assert!(told(true).isolated);
    assert_eq!(state(&host, &vdu).await, ComputeState::Active, "it says so and nothing is cut");
    host.vim().isolate(&vdu, true).await.unwrap();
    assert!(!told(false).isolated);
    assert_eq!(state(&host, &vdu).await, ComputeState::Isolated, "it says not and all is cut");
    // One port is up again by another's hand, or a crash left it so.
    sh(&format!("ip -n {} link set {}p1 up", host.fabric(), vdu.short("v"))).unwrap();
    assert_eq!(state(&host, &vdu).await, ComputeState::Active, "half cut is not cut");
    let Observed::Compute(again) = host.vim().ensure(&vdu, &spec).await.unwrap() else { panic!() };
    assert_eq!((again.state, up(&host, &vdu)), (ComputeState::Isolated, vec![false, false]));
    assert_eq!(host.vim().status(&vdu).await.unwrap().pid, pid);
    // Another instance of the same network is another's matter.
    let other = key("ns/other");
    host.vim().ensure(&other, &compute(&host, &other, &["ns/net"])).await.unwrap();
    assert_eq!((up(&host, &other), up(&host, &vdu)), (vec![true], vec![false, false]));
    finish(host).await;
}

/// Who works on the instance, and waits for it, does not make isolation wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cut_does_not_wait_for_who_waits_for_the_process() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    let vdu = key("ns/vdu");
    let (spec, pid) = start(&host, &vdu).await;
    sh(&format!("kill -STOP {pid}")).unwrap();
    let (vim, held) = (host.vim().clone(), vdu.clone());
    let waits = tokio::spawn(async move { vim.ensure(&held, &spec).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (vim, cut) = (host.vim().clone(), vdu.clone());
    let isolates = tokio::spawn(async move { vim.isolate(&cut, true).await });
    let cut = eventually(Duration::from_secs(1), || up(&host, &vdu) == [false, false]).await;
    assert!(cut && !waits.is_finished(), "the instance's process still is waited for");
    sh(&format!("kill -CONT {pid}")).unwrap();
    // What waited makes the instance anew at most; then it is cut for good.
    waits.await.unwrap().unwrap();
    isolates.await.unwrap().unwrap();
    assert_eq!((state(&host, &vdu).await, up(&host, &vdu)), (ComputeState::Isolated, vec![false, false]));
    finish(host).await;
}

/// No evidence of what is gone or replaced, and which of the two is told apart from what may pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_of_what_is_not_there_is_refused_by_code() {
    let Some(bench) = bench() else { return };
    for (fate, code) in [
        (Fate::Dead, "INSTANCE_DOWN"),
        (Fate::WithoutRecordedProcess, "INSTANCE_DOWN"),
        (Fate::DeadAndReplaced, "INSTANCE_REPLACED"),
        (Fate::StoppedAndReplaced, "INSTANCE_REPLACED"),
        (Fate::Stopped, "CONTROL_IO"),
        (Fate::WithoutSocket, "CONTROL_IO"),
    ] {
        // Claims are collected before the TPM is asked: this one is never reached.
        let tpm = TpmConfig {
            tcti: "device:/dev/null".into(),
            event_log: "/dev/null".into(),
            pcr: 15,
            ak_generation: None,
        };
        let host = Host::new(&Recipe { tpm: Some(tpm), ..bench.recipe.clone() }).unwrap();
        let vdu = key("ns/vdu");
        let (_, pid) = start(&host, &vdu).await;
        fate.befalls(&host, &vdu, pid);
        let refused = host.vim().attest(std::slice::from_ref(&vdu), &Digest::of(b"n")).await.unwrap_err();
        assert_eq!(verdict(&refused), (code, Disposition::Unknown), "{fate:?}: {refused}");
        host.vim().isolate(&vdu, true).await.unwrap();
        assert_eq!(up(&host, &vdu), [false, false], "{fate:?}");
        host.vim().remove(&vdu, Kind::Compute).await.unwrap();
        finish(host).await;
    }
}
