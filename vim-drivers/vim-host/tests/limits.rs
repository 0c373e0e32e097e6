//! Limits on a machine that can enforce them (cgroup v2 with the cpu and memory controllers): what takes more memory than
//! it was given is killed and told, what wants more CPU than it was given waits.
//!
//! The functions are the stand-in of `examples/`, which takes what the name of its instance says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{
    Host,
    bench::{Bench, bench, compute, finish, ground},
    eventually, key, missing,
};
use vim::{ObjectKey, Observed, ProcessState, Scope, VimDriver, VnfControl};

/// Of `bench::compute`.
const MEMORY_MIB: u64 = 64;
/// For how long CPU time is counted.
const SPAN: Duration = Duration::from_secs(3);

async fn limited() -> Option<(Bench, Host)> {
    let bench = bench()?;
    let host = Host::new(&bench.recipe).unwrap();
    let enforced = host.vim().capabilities().await.unwrap().enforced;
    if !enforced.vcpus || !enforced.memory {
        missing(&format!("limits are not enforced here: {}", enforced.why_not));
        return None;
    }
    ground(&host).await;
    Some((bench, host))
}

/// The cgroup of an instance, by its process.
fn cgroup(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|l| l.strip_prefix("0::/")).unwrap();
    PathBuf::from("/sys/fs/cgroup").join(path)
}

fn number(text: &str, name: &str) -> u64 {
    let of = |l: &str| l.split_once(' ').filter(|(n, _)| *n == name).map(|(_, v)| v.parse().unwrap());
    text.lines().find_map(of).unwrap_or_else(|| panic!("no {name} in {text}"))
}

async fn started(host: &Host, vdu: &ObjectKey) -> u32 {
    host.vim().ensure(vdu, &compute(host, vdu, &["ns/net"])).await.unwrap();
    host.vim().status(vdu).await.unwrap().pid
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_more_memory_than_given_is_killed_and_told_and_nobody_else_is() {
    let Some((_bench, host)) = limited().await else { return };
    let (modest, greedy) = (key("ns/modest"), key("ns/takes-256-mib"));
    let stays = started(&host, &modest).await;
    let vim = host.vim().clone();
    let told = tokio::spawn(async move { vim.changed(0).await });
    // It answers first; what it takes, it takes in the moments after.
    let pid = started(&host, &greedy).await;
    let dir = cgroup(pid);
    assert!(eventually(Duration::from_secs(60), || !PathBuf::from(format!("/proc/{pid}")).exists()).await);
    let events = fs::read_to_string(dir.join("memory.events")).unwrap();
    assert!(number(&events, "oom_kill") >= 1, "{events}");
    let peak = fs::read_to_string(dir.join("memory.max")).unwrap();
    assert_eq!(peak.trim().parse::<u64>().unwrap(), MEMORY_MIB << 20);
    let changed = tokio::time::timeout(Duration::from_secs(30), told).await.unwrap().unwrap();
    assert!(changed.keys.contains(&greedy), "{changed:?}");
    let seen = host.vim().observe(&Scope::All).await.unwrap().objects;
    let process = |key: &ObjectKey| match &seen[key] {
        Observed::Compute(c) => c.process,
        other => panic!("{other:?}"),
    };
    assert_eq!((process(&greedy), process(&modest)), (ProcessState::Gone, ProcessState::Answers));
    assert_eq!(host.vim().status(&modest).await.unwrap().pid, stays);
    eprintln!("limits: 256 MiB of {MEMORY_MIB} MiB given: killed, told and observed; its neighbour runs");
    finish(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_more_cpu_than_given_gets_what_was_given() {
    let Some((_bench, host)) = limited().await else { return };
    // Two threads that never rest, on one virtual CPU.
    let vdu = key("ns/spins-2");
    let dir = cgroup(started(&host, &vdu).await);
    let usage = || {
        let stat = fs::read_to_string(dir.join("cpu.stat")).unwrap();
        (number(&stat, "usage_usec"), number(&stat, "nr_throttled"))
    };
    let (start, before) = (Instant::now(), usage());
    tokio::time::sleep(SPAN).await;
    let (elapsed, after) = (start.elapsed(), usage());
    let used = Duration::from_micros(after.0 - before.0);
    // A period (100 ms) at either end may be another's.
    assert!(used <= elapsed + Duration::from_millis(200), "{used:?} of CPU time in {elapsed:?}");
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert!(after.1 > before.1, "it was never held back: {used:?} in {elapsed:?}");
    }
    eprintln!(
        "limits: 2 busy threads on 1 virtual CPU: {used:.1?} of CPU time in {elapsed:.1?}, held back {} times",
        after.1 - before.1
    );
    finish(host).await;
}
