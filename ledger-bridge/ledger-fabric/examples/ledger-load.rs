//! Intents at a fixed rate, through the gateways of a real Fabric: an open loop, as Caliper's.
//!
//! `cargo testbed bench ledger` runs it. It takes the environment of the tests (`tests/network/mod.rs`), on a chaincode that is
//! new; `--rates N,…` a second, each for `--seconds N`. One JSON document a line on stdout for each rate. A rate of which
//! less than two thirds are decided a second is the last.
//!
//! Each intent is one transaction, of another tenant than those in flight with it, signed beforehand. Latency is from the moment
//! when it was due until its gateway says that it is in a block and valid; nothing is tried again.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;
#[path = "../tests/network/mod.rs"]
mod network;

use std::{
    collections::BTreeMap,
    env, fs,
    sync::Arc,
    time::{Duration, Instant},
};

use common::*;
use fabric::gateway::Call;
use ledger_contract::{intent::INTENT_PAYLOAD, records::PolicyBundle};
use ledger_fabric::{Gateway, Options, Tls};
use network::{Network, approved, decided};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep_until};
use trust::{
    Envelope, Signer,
    issue::{ca, member},
};

/// Of one organisation; more than intents are in flight.
const TENANTS: usize = 600;
/// Below a gateway's own limit of 500; who comes then waits, and that counts.
const MOST_IN_FLIGHT: usize = 450;

fn argument(name: &str) -> Option<String> {
    let mut all = env::args().skip_while(|a| a != name);
    all.next().and_then(|_| all.next())
}

fn tenant(n: usize) -> String {
    format!("tenant-{n}")
}

/// Each tenant's key and certificate, all of acme's CA.
fn signers() -> Vec<Signer> {
    let authority = ca("acme", &[3; 32], FROM, TO).unwrap();
    let signer = |n: usize| {
        let attrs = [("mandate.role", "tenant".to_owned()), ("mandate.tenant", tenant(n))];
        let attrs = attrs.map(|(k, v)| (k.to_owned(), v)).into();
        let number = u16::try_from(n + 1).unwrap().to_be_bytes();
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&number);
        let serial = [&[9], number.as_slice()].concat();
        let it = member(&authority, &tenant(n), attrs, &seed, &serial, (FROM, TO)).unwrap();
        Signer::from_pem(&it.key_pem, &it.certificate_pem).unwrap()
    };
    (0..TENANTS).map(signer).collect()
}

/// A policy in which all of them may have any number of services.
fn bundle() -> PolicyBundle {
    let mut data = policy().data().unwrap();
    data.orgs.get_mut("acme").unwrap().tenants.extend((0..TENANTS).map(tenant));
    let quota = data.quotas.get_mut("default").unwrap();
    (quota.services, quota.instances) = (u32::MAX, u32::MAX);
    (quota.vcpus, quota.memory_mib) = (u32::MAX, u32::MAX);
    PolicyBundle::default_bundle().with_data(&data)
}

/// Our organisation's peers.
fn gateways(network: &Network) -> Vec<Gateway> {
    let info: Value =
        serde_json::from_slice(&fs::read(env::var("FABRIC_NETWORK").unwrap()).unwrap()).unwrap();
    let ours = &info["organizations"][0];
    let roots_pem = fs::read(ours["tls_ca"].as_str().unwrap()).unwrap();
    let open = |peer: &Value| {
        let address = peer["address"].as_str().unwrap().to_owned();
        let tls = Tls { roots_pem: roots_pem.clone(), client: None };
        Gateway::open(&Options { address, tls, ..network.options.clone() }, network.member.clone()).unwrap()
    };
    ours["peers"].as_array().unwrap().iter().map(open).collect()
}

/// What became of one, and when; in ms since it was due.
struct Sample {
    endorsed_ms: f64,
    committed_ms: f64,
}

async fn transact(gateway: &Gateway, call: Call, due: Instant) -> Result<Sample, String> {
    let ms = || due.elapsed().as_secs_f64() * 1e3;
    let proposed = gateway.propose(call).map_err(|e| e.to_string())?;
    let endorsed = gateway.endorse(&proposed).await.map_err(|e| e.to_string())?;
    if !decided(&endorsed).iter().all(approved) {
        return Err(format!("not approved: {:?}", decided(&endorsed)));
    }
    let endorsed_ms = ms();
    let submitted = gateway.submit(&endorsed).await.map_err(|e| e.to_string())?;
    gateway.commit_status(&submitted).await.map_err(|e| e.to_string())?;
    Ok(Sample { endorsed_ms, committed_ms: ms() })
}

fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    sorted.get(sorted.len().checked_sub(1)? * percent / 100).copied()
}

/// One rate.
async fn round(gateways: &Arc<Vec<Gateway>>, calls: Vec<Call>, rate: u32) -> Value {
    let (sent, room) = (calls.len(), Arc::new(Semaphore::new(MOST_IN_FLIGHT)));
    let start = Instant::now();
    let mut all = JoinSet::new();
    for (n, call) in calls.into_iter().enumerate() {
        let due = start + Duration::from_secs_f64(n as f64 / f64::from(rate));
        sleep_until(due.into()).await;
        let permit = Arc::clone(&room).acquire_owned().await.unwrap();
        let gateways = Arc::clone(gateways);
        all.spawn(async move {
            let it = transact(&gateways[n % gateways.len()], call, due).await;
            drop(permit);
            it
        });
    }
    let (mut endorsed, mut committed, mut errors) =
        (Vec::new(), Vec::new(), BTreeMap::<String, usize>::new());
    while let Some(one) = all.join_next().await {
        match one.unwrap() {
            Ok(sample) => {
                endorsed.push(sample.endorsed_ms);
                committed.push(sample.committed_ms);
            }
            // Ids differ; the beginning says what kind.
            Err(why) => *errors.entry(why.chars().take(60).collect()).or_default() += 1,
        }
    }
    let took = start.elapsed().as_secs_f64();
    endorsed.sort_by(f64::total_cmp);
    committed.sort_by(f64::total_cmp);
    json!({
        "rate_per_s": rate, "sent": sent, "committed": committed.len(), "errors": errors,
        "throughput_per_s": committed.len() as f64 / took.max(sent as f64 / f64::from(rate)),
        "endorsed_p50_ms": percentile(&endorsed, 50),
        "p50_ms": percentile(&committed, 50), "p95_ms": percentile(&committed, 95), "p99_ms": percentile(&committed, 99),
    })
}

#[tokio::main]
async fn main() {
    let Some(network) = Network::open() else { return };
    let rates: Vec<u32> =
        argument("--rates").unwrap_or_else(|| "10".into()).split(',').map(|r| r.parse().unwrap()).collect();
    let seconds: u32 = argument("--seconds").map_or(10, |s| s.parse().unwrap());
    let w = world();
    let gateways = Arc::new(gateways(&network));
    let founding = network.submit(&network.founding_with(&w, bundle()));
    transact(&gateways[0], founding, Instant::now()).await.unwrap();
    let signers = signers();
    let mut next = 0;
    let mut intent = || -> Envelope {
        let (n, of) = (next, next % TENANTS);
        next += 1;
        let mut it = deploy_intent(&format!("load-{n:07}"), &format!("s{n}"));
        it.tenant = tenant(of);
        sign(INTENT_PAYLOAD, &it, &signers[of])
    };
    let mut calls = |count: u32| (0..count).map(|_| network.submit(&[intent()])).collect::<Vec<_>>();
    // Connections, and every chaincode's stream.
    round(&gateways, calls(20), 10).await;
    for rate in rates {
        let answer = round(&gateways, calls(rate * seconds), rate).await;
        println!("{answer}");
        if answer["throughput_per_s"].as_f64().unwrap() < f64::from(rate) * 2.0 / 3.0 {
            break;
        }
    }
}
