//! A real Fabric network whose nodes are killed, stopped and cut off while intents are submitted through a pool of gateways:
//! nothing is lost, nothing is done twice, and errors say what is known.
//!
//! `cargo testbed test fabric` runs it. It needs `FABRIC_CONTROL`, a program that is called with `kill`, `stop`, `pause`, `resume` or `start`
//! and a node's name, or `leader`; and `FABRIC_NETWORK`, a file that says which nodes there are. `FAULTS` chooses scenarios
//! by words of their names, with commas.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;
mod network;

use std::{
    collections::BTreeSet,
    env, fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::*;
use fabric::gateway::{Call, Outcome};
use ledger_contract::transaction::{Decided, request_key};
use ledger_fabric::{
    Deadlines, Options, Tls,
    pool::{Limits, Pool, TransactError, Transacted},
};
use network::{Network, approved, decided};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};
use trust::Envelope;

const SECOND: Duration = Duration::from_secs(1);
/// How long all orderers are away.
const OUTAGE: Duration = Duration::from_secs(60);
/// In flight at once, all of one tenant: each conflicts with every other.
const CONTENDERS: usize = 40;
/// Connections that are cut, evenly over what a transaction's answers are made of.
const CUTS: usize = 12;
const LIMITS: Limits =
    Limits { total: Duration::from_secs(120), resend: Duration::from_secs(5), proposals: 200 };

#[derive(Deserialize)]
struct Info {
    organizations: Vec<Organization>,
    orderers: Vec<Service>,
}

#[derive(Deserialize)]
struct Organization {
    peers: Vec<Service>,
    tls_ca: String,
}

#[derive(Deserialize)]
struct Service {
    name: String,
    address: String,
}

/// The network, and everything that was submitted.
struct Field {
    network: Network,
    info: Info,
    world: World,
    control: String,
    count: AtomicUsize,
}

/// What came of intents that were submitted one after the other.
#[derive(Debug, Default)]
struct Run {
    intents: usize,
    slowest: Duration,
    proposals: u32,
}

impl Field {
    fn open() -> Option<Self> {
        let network = Network::open()?;
        let (Ok(control), Ok(file)) = (env::var("FABRIC_CONTROL"), env::var("FABRIC_NETWORK")) else {
            eprintln!("SKIPPED: no FABRIC_CONTROL and FABRIC_NETWORK; `cargo testbed test fabric` sets them");
            return None;
        };
        let info: Info = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        Some(Self { network, info, world: world(), control, count: AtomicUsize::new(0) })
    }

    /// Does something to a node, and waits until it is done.
    async fn control(&self, words: &[&str]) -> String {
        let mut command = Command::new(&self.control);
        command.args(words);
        let out = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    /// Every peer as a gateway, our own organisation's first.
    fn gateways(&self) -> Vec<Options> {
        let deadlines = Deadlines { endorse: SECOND * 8, submit: SECOND * 5, ..Deadlines::default() };
        let of = |org: &Organization| {
            let roots_pem = fs::read(&org.tls_ca).unwrap();
            let options = |peer: &Service| Options {
                address: peer.address.clone(),
                server_name: None,
                tls: Tls { roots_pem: roots_pem.clone(), client: None },
                deadlines,
            };
            org.peers.iter().map(options).collect::<Vec<_>>()
        };
        self.info.organizations.iter().flat_map(of).collect()
    }

    fn pool(&self) -> Pool {
        self.pool_within(LIMITS)
    }

    fn pool_within(&self, limits: Limits) -> Pool {
        Pool::open(&self.gateways(), &self.network.member, limits).unwrap()
    }

    /// An intent that nobody has had before, and its call.
    fn intent(&self) -> (Envelope, Call) {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let request = signed(&self.world, &deploy_intent(&format!("fault-{n:05}"), &format!("s{n}")));
        let call = self.network.submit(std::slice::from_ref(&request));
        (request, call)
    }

    /// That it was decided, once, in the transaction that was said.
    async fn decided_once(&self, request: &Envelope, transacted: &Transacted) {
        assert!(approved(&decided(&transacted.endorsed)[0]), "{:?}", decided(&transacted.endorsed));
        let key = request_key(&request.digest());
        let (pool, begin) = (self.pool(), Instant::now());
        let past = loop {
            let past = pool.evaluate(&self.network.call(&["history", &key, "10"])).await.unwrap();
            let past: Vec<serde_json::Value> = serde_json::from_slice(&past.payload).unwrap();
            // Another peer may have the block a moment later than the one that said so.
            if !past.is_empty() || begin.elapsed() > SECOND * 10 {
                break past;
            }
            sleep(SECOND / 50).await;
        };
        assert_eq!(past.len(), 1, "not decided once: {past:?}");
        assert_eq!(past[0]["tx"], transacted.committed.tx_id());
    }

    /// Submits so many, one after the other; each is decided once.
    async fn submit(&self, pool: &Pool, count: usize) -> Run {
        let mut run = Run::default();
        for _ in 0..count {
            self.submit_one(pool, &mut run).await;
        }
        run
    }

    async fn submit_one(&self, pool: &Pool, run: &mut Run) {
        let (request, call) = self.intent();
        let begin = Instant::now();
        let transacted = pool.transact(&call).await.unwrap_or_else(|e| panic!("lost: {e}"));
        run.slowest = run.slowest.max(begin.elapsed());
        run.intents += 1;
        run.proposals += transacted.proposals;
        self.decided_once(&request, &transacted).await;
    }

    /// Submits while something is done to a node, and a few more.
    async fn submit_while(self: &Arc<Self>, words: &[&str]) -> Run {
        let pool = Arc::new(self.pool());
        self.submit(&pool, 1).await;
        let (field, user) = (Arc::clone(self), Arc::clone(&pool));
        let running: JoinHandle<Run> = tokio::spawn(async move { field.submit(&user, 8).await });
        sleep(SECOND / 4).await;
        self.control(words).await;
        running.await.unwrap()
    }

    /// Until every gateway transacts by itself again.
    async fn mended(&self) {
        for options in self.gateways() {
            let pool = Pool::open(&[options], &self.network.member, LIMITS).unwrap();
            self.submit(&pool, 1).await;
        }
    }
}

fn report(name: &str, run: &Run, more: &str) {
    println!(
        "{name}: {} intents, each decided once, {} proposals, the slowest {} ms{more}",
        run.intents,
        run.proposals,
        run.slowest.as_millis()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_nothing_is_lost_and_nothing_done_twice() {
    let Some(field) = Field::open().map(Arc::new) else { return };
    let chosen = env::var("FAULTS").unwrap_or_default();
    let wanted = |name: &str| chosen.is_empty() || chosen.split(',').any(|word| name.contains(word));
    refusing(&field).await;
    if wanted("peer killed") {
        let run = field.submit_while(&["kill", "peer0.org1"]).await;
        report("peer killed, its clients go to another", &run, "");
        field.control(&["start", "peer0.org1"]).await;
        field.mended().await;
    }
    if wanted("peer hangs") {
        let run = field.submit_while(&["pause", "peer0.org1"]).await;
        report("peer hangs", &run, "");
        field.control(&["resume", "peer0.org1"]).await;
        field.mended().await;
    }
    if wanted("leader killed") {
        let leader = field.control(&["leader"]).await;
        let run = field.submit_while(&["kill", &leader]).await;
        report("Raft leader killed", &run, "");
        field.control(&["start", &leader]).await;
        field.mended().await;
    }
    if wanted("chaincode killed") {
        chaincode_killed(&field).await;
    }
    if wanted("answers cut") {
        answers_cut(&field).await;
    }
    if wanted("contention") {
        contention(&field).await;
    }
    if wanted("quorum lost") {
        quorum_lost(&field).await;
    }
    if wanted("all orderers away") {
        orderers_away(&field).await;
    }
    counted(&field).await;
}

/// The other organisation's contract is for another ledger, then stopped: nothing happens, and that is known. At the end the ledger is
/// founded.
async fn refusing(field: &Arc<Field>) {
    let founding = field.network.submit(&field.network.founding(&field.world));
    field.control(&["stop", "chaincode.org2"]).await;
    field.control(&["start", "chaincode.org2", "--genesis", &"00".repeat(32)]).await;
    let hasty = field.pool_within(Limits { total: SECOND * 2, proposals: 3, ..LIMITS });
    let error = hasty.transact(&founding).await.unwrap_err();
    println!("one organisation refuses: {error}");
    assert!(matches!(error, TransactError::NotEndorsed { .. }), "{error}");
    field.control(&["stop", "chaincode.org2"]).await;
    let error = hasty.transact(&founding).await.unwrap_err();
    println!("one organisation's contract is stopped: {error}");
    assert_eq!(error.outcome(), Outcome::Nothing, "{error}");
    let state = field.pool().evaluate(&field.network.call(&["prefix", "", "", "5"])).await.unwrap();
    assert_eq!(state.payload, b"[]", "there is something on the ledger");

    field.control(&["start", "chaincode.org2"]).await;
    let transacted = field.pool().transact(&founding).await.unwrap();
    assert!(decided(&transacted.endorsed).iter().all(approved));
}

async fn chaincode_killed(field: &Arc<Field>) {
    let mender = {
        let field = Arc::clone(field);
        tokio::spawn(async move {
            sleep(SECOND * 4).await;
            field.control(&["start", "chaincode.org1"]).await;
        })
    };
    let run = field.submit_while(&["kill", "chaincode.org1"]).await;
    mender.await.unwrap();
    report("contract of one organisation killed, started after 4 s", &run, "");
    field.mended().await;
}

/// Between a client and its gateway; counts what comes back, and cuts the connection after so many bytes.
struct Proxy {
    address: String,
    passed: Arc<AtomicUsize>,
    cut_after: Arc<AtomicUsize>,
}

impl Proxy {
    async fn to(peer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let it = Self {
            address: listener.local_addr().unwrap().to_string(),
            passed: Arc::default(),
            cut_after: Arc::new(AtomicUsize::new(usize::MAX)),
        };
        let (peer, passed, cut_after) = (peer.to_owned(), Arc::clone(&it.passed), Arc::clone(&it.cut_after));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (passed, cut_after) = (Arc::clone(&passed), Arc::clone(&cut_after));
                let (mut from, mut to) = client.into_split();
                let (mut peer_from, mut peer_to) = TcpStream::connect(&peer).await.unwrap().into_split();
                let up = tokio::spawn(async move { tokio::io::copy(&mut from, &mut peer_to).await });
                tokio::spawn(async move {
                    let mut bytes = vec![0; 256];
                    while let Ok(n @ 1..) = peer_from.read(&mut bytes).await {
                        let before = passed.fetch_add(n, Ordering::Relaxed);
                        let left = cut_after.load(Ordering::Relaxed).saturating_sub(before);
                        if to.write_all(&bytes[..n.min(left)]).await.is_err() || left < n {
                            break;
                        }
                    }
                    // Both directions end.
                    up.abort();
                });
            }
        });
        it
    }
}

/// The preferred gateway's answers end within the handshake, the endorsement, the submission or the commit; the others' do not.
async fn answers_cut(field: &Arc<Field>) {
    let through = |proxy: &Proxy| {
        let mut gateways = field.gateways();
        gateways[0].address.clone_from(&proxy.address);
        Pool::open(&gateways, &field.network.member, LIMITS).unwrap()
    };
    let peer = field.gateways()[0].address.clone();
    let whole = Proxy::to(&peer).await;
    let mut run = field.submit(&through(&whole), 1).await;
    let bytes = whole.passed.load(Ordering::Relaxed);
    assert!(bytes > 2_000, "the transaction did not go through the proxy");
    let mut cut = 0;
    for n in 0..CUTS {
        let proxy = Proxy::to(&peer).await;
        let after = bytes * (2 * n + 1) / (2 * CUTS);
        proxy.cut_after.store(after, Ordering::Relaxed);
        let pool = through(&proxy);
        field.submit_one(&pool, &mut run).await;
        cut += usize::from(pool.states()[0].failures > 0);
    }
    report("answers cut", &run, &format!("; {cut} of {CUTS} connections, after up to {bytes} bytes"));
    assert!(cut >= CUTS - 1, "only {cut} were cut");
}

/// All of one tenant at once: of those in the same block one is valid, the others are proposed again.
async fn contention(field: &Arc<Field>) {
    // One of each block's, and each waits for a block it does not know: minutes on a busy machine.
    let pool = Arc::new(field.pool_within(Limits { total: SECOND * 300, ..LIMITS }));
    let begin = Instant::now();
    let one = || {
        let (field, pool) = (Arc::clone(field), Arc::clone(&pool));
        tokio::spawn(async move {
            let (request, call) = field.intent();
            let at = Instant::now();
            (request, pool.transact(&call).await, at.elapsed())
        })
    };
    let all: Vec<_> = (0..CONTENDERS).map(|_| one()).collect();
    let (mut run, mut lost) = (Run::default(), 0);
    for task in all {
        let (request, transacted, took) = task.await.unwrap();
        match transacted {
            Ok(transacted) => {
                field.decided_once(&request, &transacted).await;
                run.intents += 1;
                run.proposals += transacted.proposals;
                run.slowest = run.slowest.max(took);
            }
            Err(error) => {
                println!("lost: {error}");
                lost += 1;
            }
        }
    }
    let took = begin.elapsed().as_millis();
    report("contention of one tenant", &run, &format!("; {lost} lost; all in {took} ms"));
    assert_eq!(lost, 0);
}

/// Two of three orderers are killed: the error says that it is open; later the same request is found, or decided then.
async fn quorum_lost(field: &Arc<Field>) {
    let names: Vec<&str> = field.info.orderers.iter().map(|o| o.name.as_str()).collect();
    for name in &names[1..] {
        field.control(&["kill", name]).await;
    }
    let hasty = field.pool_within(Limits { total: SECOND * 4, resend: SECOND * 2, ..LIMITS });
    let (request, call) = field.intent();
    let begin = Instant::now();
    let error = hasty.transact(&call).await.unwrap_err();
    println!("quorum lost, after {} ms: {error}", begin.elapsed().as_millis());
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    assert!(error.to_string().contains("may be in a block or not"), "{error}");
    for name in &names[1..] {
        field.control(&["start", name]).await;
    }
    let transacted = field.pool().transact(&call).await.unwrap();
    let transacted_before = match &decided(&transacted.endorsed)[0] {
        Decided::Before { .. } => true,
        it => {
            assert!(approved(it));
            field.decided_once(&request, &transacted).await;
            false
        }
    };
    println!(
        "quorum lost and back: the open one {}",
        if transacted_before { "was in a block" } else { "was in none, and was decided then" }
    );
    field.mended().await;
}

/// All orderers are away for a minute; what was submitted meanwhile is decided when they are back.
async fn orderers_away(field: &Arc<Field>) {
    let names: Vec<&str> = field.info.orderers.iter().map(|o| o.name.as_str()).collect();
    for name in &names {
        field.control(&["stop", name]).await;
    }
    let pool = Arc::new(field.pool_within(Limits { total: OUTAGE * 3, ..LIMITS }));
    let running: JoinHandle<Run> = {
        let (field, pool) = (Arc::clone(field), Arc::clone(&pool));
        tokio::spawn(async move { field.submit(&pool, 5).await })
    };
    sleep(OUTAGE).await;
    assert!(!running.is_finished(), "decided without orderers");
    let back = Instant::now();
    for name in &names {
        field.control(&["start", name]).await;
    }
    let run = running.await.unwrap();
    report(
        "all orderers away for a minute",
        &run,
        &format!("; all {} ms after they were back", back.elapsed().as_millis()),
    );
    field.mended().await;
}

/// The ledger has exactly what was submitted: each intent once, and each request once.
async fn counted(field: &Arc<Field>) {
    let pool = field.pool();
    let (mut keys, mut after) = (BTreeSet::new(), String::new());
    loop {
        let rows = pool.evaluate(&field.network.call(&["prefix", "", &after, "100"])).await.unwrap();
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&rows.payload).unwrap();
        let Some(last) = rows.last() else { break };
        after = last["key"].as_str().unwrap().to_owned();
        keys.extend(rows.iter().map(|r| r["key"].as_str().unwrap().to_owned()));
    }
    let under = |prefix: &str| keys.iter().filter(|k| k.starts_with(prefix)).count();
    let submitted = field.count.load(Ordering::Relaxed);
    let founding = field.network.founding(&field.world).len();
    assert_eq!((under("intent/fault-"), under("request/")), (submitted, submitted + founding));
    let usage = pool.evaluate(&field.network.call(&["state", "usage/acme"])).await.unwrap();
    let usage: serde_json::Value = serde_json::from_slice(&usage.payload).unwrap();
    println!("{submitted} intents on the ledger, each once; the tenant uses {usage}");
    assert_eq!(usage["services"], submitted);
}
