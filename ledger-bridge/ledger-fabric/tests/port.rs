//! The ledger port on a real Fabric channel: what was decided is proven, found again, and goes on after a restart.
//!
//! `cargo testbed test fabric` runs it. It needs `FABRIC_NETWORK`, a file that says which nodes there are, and what
//! `network/mod.rs` needs.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../ledger-contract/tests/channel/altered.rs"]
mod altered;
#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;
mod network;

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use altered::verify;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::*;
use ledger::{Ledger, LedgerError};
use ledger_contract::{
    Constitution, evidence::ProvenEntry, intent::INTENT_PAYLOAD, records::Event, state::intent_key,
};
use ledger_fabric::{ChannelOptions, Deadlines, FabricLedger, Node, Options, Tls};
use network::Network;
use prost::Message as _;
use serde::Deserialize;
use trust::{Envelope, TrustRoots, UnixTime, identity::ChannelRoot, note::NoteSigner};

#[derive(Deserialize)]
struct Info {
    organizations: Vec<Organization>,
}

#[derive(Deserialize)]
struct Organization {
    msp_id: String,
    peers: Vec<Service>,
    tls_ca: String,
}

#[derive(Deserialize)]
struct Service {
    address: String,
}

fn nodes() -> Vec<Node> {
    let info: Info = serde_json::from_slice(&fs::read(env::var("FABRIC_NETWORK").unwrap()).unwrap()).unwrap();
    let of = |org: &Organization| {
        let tls = Tls { roots_pem: fs::read(&org.tls_ca).unwrap(), client: None };
        let node = |peer: &Service| Node {
            msp_id: org.msp_id.clone(),
            options: Options {
                address: peer.address.clone(),
                server_name: None,
                tls: tls.clone(),
                deadlines: Deadlines::default(),
            },
        };
        org.peers.iter().map(node).collect::<Vec<_>>()
    };
    info.organizations.iter().flat_map(of).collect()
}

struct Home<'a> {
    network: &'a Network,
    root: ChannelRoot,
    log: NoteSigner,
    dir: tempfile::TempDir,
}

impl Home<'_> {
    fn open(&self, dir: &Path) -> FabricLedger {
        let options = ChannelOptions {
            root: self.root.clone(),
            msp_id: env::var("CORE_PEER_LOCALMSPID").unwrap(),
            member: self.network.member.clone(),
            nodes: nodes(),
            collection: None,
            log: NoteSigner::new(&self.network.channel, &self.log.seed()).unwrap(),
            dir,
        };
        FabricLedger::open(options).unwrap()
    }

    fn roots(&self, w: &World) -> TrustRoots {
        TrustRoots {
            orgs: w.roots.orgs.clone(),
            logs: vec![self.log.verifier().to_string()],
            channel: Some(self.root.clone()),
        }
    }
}

fn now() -> UnixTime {
    UnixTime(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_is_a_ledger() {
    let Some(network) = Network::open() else { return };
    let w = world();
    let peer = network.gateway().peer(&network.channel);
    let block = peer.config_block().await.unwrap();
    let home = Home {
        root: ChannelRoot {
            configuration: STANDARD.encode(block.encode_to_vec()),
            chaincode: network.chaincode.clone(),
            endorsers: BTreeSet::new(),
        },
        log: NoteSigner::new(&network.channel, &[7; 32]).unwrap(),
        dir: tempfile::tempdir().unwrap(),
        network: &network,
    };
    let ledger = home.open(home.dir.path());
    ledger.caught_up().await.unwrap();

    // Founding; what is founded already is found.
    let founding = network.founding(&w);
    let mut positions = Vec::new();
    for request in &founding {
        let committed = ledger.submit(request.clone()).await.unwrap();
        assert!(committed.entry.verdict.approved, "{:?}", committed.entry.verdict);
        positions.push(committed.proven.proof.index);
    }
    assert_eq!(positions, [0, 1, 2, 3]);
    let again = ledger.submit(founding[1].clone()).await.unwrap();
    assert_eq!((again.proven.proof.index, &again.entry.request), (1, &founding[1]));

    // Approvals, verified from the trust roots alone.
    let roots = home.roots(&w);
    let policy = again.entry.verdict.policy;
    let genesis = ledger.entry(0).await.unwrap().unwrap();
    let pinned = Constitution::pinned(&network.channel, &roots, BTreeSet::from([policy]));
    let rules = pinned.followed(std::slice::from_ref(&genesis)).unwrap();
    let at = Instant::now();
    let intent = signed(&w, &deploy_intent("intent-one", "edge"));
    let committed = ledger.submit(intent.clone()).await.unwrap();
    println!("decided, in a block and proven after {} ms", at.elapsed().as_millis());
    let approved = verify(&committed.proven, &rules, now()).unwrap();
    assert_eq!((approved.intent.id.as_str(), approved.position), ("intent-one", 4));
    assert!(approved.place > genesis.place());
    let json = serde_json::to_string(&committed.proven).unwrap();
    println!("an approval with its proof has {} bytes", json.len());
    assert_eq!(serde_json::from_str::<ProvenEntry>(&json).unwrap(), committed.proven);

    altered::altered(&committed.proven, &genesis, &rules, &roots, &network.channel, now());
    if let Some(to) = env::var_os("MANDATE_WRITE_GOLDEN") {
        let golden = serde_json::json!({ "channel": network.channel, "roots": roots, "genesis": genesis,
            "approval": committed.proven });
        fs::write(to, serde_json::to_vec(&golden).unwrap()).unwrap();
    }
    refusals(&ledger, &w).await;
    together(&ledger, &w, &rules).await;

    // The stream, and the state.
    ledger.wait(Some(3)).await.unwrap();
    let events = ledger.events(Some(3), 100).await.unwrap();
    // Each proof has words of peers of its own.
    assert_eq!((events[0].proof.index, &events[0].entry), (4, &committed.proven.entry));
    assert_eq!(verify(&events[0], &rules, now()).unwrap(), approved);
    assert!(events.windows(2).all(|two| two[0].place() < two[1].place()));
    assert!(ledger.state(&intent_key("intent-one")).await.unwrap().is_some());
    let record: serde_json::Value =
        serde_json::from_slice(&ledger.state(&intent_key("intent-one")).await.unwrap().unwrap()).unwrap();
    let name = record["position"].as_u64().unwrap();
    assert_eq!(ledger.read(name).await.unwrap().unwrap().0, 4, "by its name");

    // Another mirror of the channel numbers alike, and knows no request that it was not given.
    let (head, size) = (ledger.head().await.unwrap(), ledger.range(0, 1000).await.unwrap().len());
    let elsewhere = tempfile::tempdir().unwrap();
    let other = home.open(elsewhere.path());
    other.caught_up().await.unwrap();
    assert_eq!(other.head().await.unwrap(), head);
    assert!(matches!(other.entry(4).await, Err(LedgerError::Elsewhere { position: 4 })));
    assert!(other.events(None, 10).await.unwrap().is_empty());
    let there = other.submit(intent).await.unwrap();
    assert_eq!(there.entry, committed.entry);
    drop(other);

    // The same one goes on where it was.
    drop(ledger);
    let ledger = home.open(home.dir.path());
    assert_eq!((ledger.head().await.unwrap(), ledger.range(0, 1000).await.unwrap().len()), (head, size));
    ledger.caught_up().await.unwrap();
    assert_eq!(ledger.entry(4).await.unwrap().unwrap().entry, committed.proven.entry);
}

/// Refusals by the contract are entries; of nobody who is known, and of no request, there is none.
async fn refusals(ledger: &FabricLedger, w: &World) {
    let refused = ledger.submit(signed(w, &deploy_intent("intent-one", "other"))).await.unwrap();
    assert!(!refused.entry.verdict.approved);
    let stranger = sign(INTENT_PAYLOAD, &deploy_intent("intent-strange", "edge"), &w.stranger);
    assert!(matches!(ledger.submit(stranger).await, Err(LedgerError::Unauthenticated { .. })));
    let other = Envelope { payload_type: "application/x".into(), ..signed(w, &deploy_intent("x", "x")) };
    assert!(matches!(ledger.submit(other).await, Err(LedgerError::Malformed(_))));
}

/// Forty intents of one tenant at once: they share transactions, none is lost, each is approved once.
async fn together(ledger: &FabricLedger, w: &World, rules: &Constitution) {
    let at = Instant::now();
    let intents: Vec<_> = (0..40)
        .map(|n| signed(w, &deploy_intent(&format!("intent-many-{n:02}"), &format!("many-{n:02}"))))
        .collect();
    let submitted = intents.iter().map(|intent| ledger.submit(intent.clone()));
    let committed = futures::future::join_all(submitted).await;
    let (mut transactions, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (intent, committed) in intents.iter().zip(committed) {
        let committed = committed.unwrap();
        assert_eq!(committed.entry.request, *intent);
        assert!(
            matches!(committed.entry.event, Some(Event::IntentApproved { .. })),
            "{:?}",
            committed.entry.verdict
        );
        verify(&committed.proven, rules, now()).unwrap();
        transactions.insert(committed.proven.place() >> 6);
        numbers.insert(committed.proven.proof.index);
    }
    println!("40 intents of one tenant in {} transactions after {:?}", transactions.len(), at.elapsed());
    assert_eq!(numbers.len(), 40);
    assert!(transactions.len() < 10 && at.elapsed() < Duration::from_secs(30));
}
