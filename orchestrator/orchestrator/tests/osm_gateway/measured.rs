//! What the way through the gateway costs: compared with the NBI itself, in one run. It prints what `docs/osm-gateway.md` names.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::clients::{Client, Osm, PASSWORD, Setup, refused, topic};

/// Times that each is asked.
const ROUNDS: usize = 60;

async fn took(client: &Client, path: &str) -> Duration {
    let began = Instant::now();
    let answer = client.request(Method::GET, path).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    drop(answer.bytes().await.unwrap());
    began.elapsed()
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_through_it() {
    let mut setup = Setup::new().await;
    let alice = setup.alice().await;
    for n in 0..20 {
        assert_eq!(
            alice.post("nslcm/v1/ns_instances", &setup.ns(&format!("edge-{n}"))).await.0,
            StatusCode::CREATED
        );
    }
    let direct = match &setup.osm {
        Osm::Real(url) => Client::login(url, &setup.user("alice"), PASSWORD, &setup.project).await,
        Osm::Fake(nbi) => Client::login(&nbi.url, "alice", PASSWORD, &setup.project).await,
    };
    for path in ["nsd/v1/ns_descriptors", "nslcm/v1/ns_instances", "admin/v1/vim_accounts"] {
        let (mut there, mut through) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            there.push(took(&direct, path).await);
            through.push(took(&alice, path).await);
        }
        let (there, through) = (median(there), median(through));
        println!(
            "{path}: {:.2} of {:.2} ms directly",
            through.as_secs_f64() / there.as_secs_f64(),
            there.as_secs_f64() * 1000.0
        );
    }
    setup.stop().await;
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A list of a hundred megabytes, and bodies that nobody asked for: neither is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_whatever_passes() {
    let mut setup = Setup::on_fake().await;
    let alice = setup.alice().await;
    let huge = vec![b'x'; 2 << 20];
    let request =
        alice.request(Method::POST, "nslcm/v1/ns_instances").header("Content-Type", "application/json");
    refused(&Client::send(request.body(huge)).await, 413, "OSM_GATEWAY_REQUEST");
    let package = vec![0x1f; 65 << 20];
    refused(&alice.upload(topic("vfw_vnf"), package).await, 413, "OSM_GATEWAY_REQUEST");
    // One record of more than a record may have.
    {
        let mut shelf = setup.fake().shelf.lock().unwrap();
        let record = |n: usize, size: usize| json!({ "_id": format!("r{n}"), "name": format!("n{n}"), "blob": "x".repeat(size) });
        shelf.records.insert("ns_instances", (0..200).map(|n| record(n, 256 << 10)).collect());
    }
    let before = resident_kib();
    let mut answer = alice.request(Method::GET, "nslcm/v1/ns_instances").send().await.unwrap();
    let mut length = 0;
    while let Some(piece) = answer.chunk().await.unwrap() {
        length += piece.len();
    }
    assert!(length > 50 << 20, "{length}");
    println!(
        "a list of {} MiB: {} MiB more at most, the stand-in's own answer included",
        length >> 20,
        (resident_kib() - before) >> 10
    );
    setup.stop().await;
}
