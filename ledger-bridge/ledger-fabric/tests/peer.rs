//! A real Fabric network: blocks as its peers give them, their words on transactions, and proofs made of both.
//!
//! `cargo testbed test fabric` runs it; `FABRIC_NETWORK` and `FABRIC_CONTROL` as for `faults.rs`: without them there is one
//! peer, which is not enough to prove anything, and none to be killed. With `CAPTURE`, a directory, it writes what the tests of
//! `fabric` are fed with there.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;
mod network;

use std::{collections::BTreeSet, env, fs, path::PathBuf, process::Command, time::Duration};

use common::*;
use fabric::{
    block::Block,
    channel::Channel,
    gateway::{Call, Endorsed, Submitted, message::ValidationCode},
    proof::{Header, ProofCode, Rules, TransactionProof, Validity, ValidityError, transaction, verify_block},
};
use ledger_fabric::{DeliverError, Gateway, Options, Peer, Tls, WordError};
use network::{Network, approved, decided};
use prost::Message as _;
use serde_json::Value;

/// Peers by name, those of an organisation together.
fn organisations(network: &Network) -> Vec<Vec<(String, Peer)>> {
    let Ok(file) = env::var("FABRIC_NETWORK") else {
        eprintln!("SKIPPED in part: no FABRIC_NETWORK; `cargo testbed test fabric` sets it");
        return Vec::new();
    };
    let info: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let peer = |ca: &str, it: &Value| {
        let tls = Tls { roots_pem: fs::read(ca).unwrap(), client: None };
        let address = it["address"].as_str().unwrap().to_owned();
        let options = Options { address, tls, ..network.options.clone() };
        let peer = Peer::open(&options, &network.channel, network.member.clone()).unwrap();
        (it["name"].as_str().unwrap().to_owned(), peer)
    };
    let organisation = |it: &Value| {
        let ca = it["tls_ca"].as_str().unwrap();
        it["peers"].as_array().unwrap().iter().map(|p| peer(ca, p)).collect()
    };
    info["organizations"].as_array().unwrap().iter().map(organisation).collect()
}

async fn endorse(network: &Network, gateway: &Gateway, requests: &[trust::Envelope]) -> Endorsed {
    // Peers that are a block apart answer differently.
    for _ in 0..50 {
        match gateway.endorse(&gateway.propose(network.submit(requests)).unwrap()).await {
            Ok(endorsed) => {
                assert!(decided(&endorsed).iter().all(approved), "{:?}", decided(&endorsed));
                return endorsed;
            }
            Err(e) => println!("again: {e}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not endorsed");
}

async fn submit(gateway: &Gateway, endorsed: &Endorsed) -> Submitted {
    gateway.submit(endorsed).await.unwrap()
}

struct Read {
    channel: Channel,
    config: Vec<u8>,
    blocks: Vec<Block>,
}

impl Read {
    fn rules<'a>(&'a self, network: &'a Network, endorsers: &'a BTreeSet<String>) -> Rules<'a> {
        Rules { channel: &self.channel, chaincode: &network.chaincode, endorsers }
    }
}

/// Reads the chain up to a block and verifies each block and each valid transaction of the chaincode in it.
async fn follow(network: &Network, peer: &Peer, upto: u64) -> Read {
    let config = peer.config_block().await.unwrap().encode_to_vec();
    let channel = Channel::from_block(&config).unwrap();
    assert_eq!(channel.name(), network.channel);
    let mut read = Read { channel, config, blocks: vec![] };
    let mut stream = peer.blocks(read.channel.number() + 1).await.unwrap();
    let all = BTreeSet::new();
    let mut before: Header = *read.channel.header();
    let mut seen = 0;
    while before.number < upto {
        let block = stream.next().await.unwrap();
        let header = verify_block(&read.channel, &block).unwrap();
        header.after(&before).unwrap();
        let codes = block.codes();
        for (n, envelope) in block.envelopes().iter().enumerate() {
            let index = u32::try_from(n).unwrap();
            match transaction(&read.rules(network, &all), header.number, index, envelope) {
                Ok(it) if codes[n] == ValidationCode::Valid => {
                    seen += 1;
                    assert!(it.endorsed_by.len() > 1 || network.endorsers.len() == 1, "{it:?}");
                }
                Ok(it) => println!("{} in block {} is {:?}", it.tx_id, header.number, codes[n]),
                Err(e) => assert_eq!(e.code, ProofCode::WrongChaincode, "{e}"),
            }
        }
        before = header;
        read.blocks.push(block);
    }
    println!("{upto} blocks verified, {seen} valid transactions of the chaincode");
    read
}

fn capture(name: &str, bytes: &[u8]) {
    if let Some(directory) = env::var_os("CAPTURE") {
        fs::create_dir_all(&directory).unwrap();
        fs::write(PathBuf::from(directory).join(name), bytes).unwrap();
    }
}

#[tokio::test]
async fn what_is_committed_is_proven_offline() {
    let Some(network) = Network::open() else { return };
    let gateway = network.gateway();
    let peer = gateway.peer(&network.channel);
    let w = world();
    let one = |id: &str| [signed(&w, &deploy_intent(id, id))];

    // Founding; then one alone in its block, and two of one tenant at once, of which one loses.
    let founded = endorse(&network, &gateway, &network.founding(&w)).await;
    gateway.commit_status(&submit(&gateway, &founded).await).await.unwrap();
    let alone = endorse(&network, &gateway, &one("proof-alone")).await;
    gateway.commit_status(&submit(&gateway, &alone).await).await.unwrap();
    let (won, lost) = (
        endorse(&network, &gateway, &one("proof-first")).await,
        endorse(&network, &gateway, &one("proof-second")).await,
    );
    let (a, b) = (submit(&gateway, &won).await, submit(&gateway, &lost).await);
    let committed = gateway.commit_status(&a).await.unwrap();
    println!("and the other: {}", gateway.commit_status(&b).await.unwrap_err());

    let read = follow(&network, &peer, committed.block()).await;
    capture("config.block", &read.config);
    let endorsers: BTreeSet<String> = network.endorsers.iter().cloned().collect();
    let witnesses: Vec<_> = organisations(&network).into_iter().filter_map(|mut of| of.pop()).collect();
    for (name, endorsed) in [("alone", &alone), ("several", &won)] {
        let tx_id = endorsed.tx_id();
        let mut words = Vec::new();
        for (name, peer) in &witnesses {
            words.push(word(name, peer, tx_id).await);
        }
        let holds = |b: &&Block| TransactionProof::of(b, tx_id, vec![]).is_ok();
        let block = read.blocks.iter().find(holds).unwrap();
        capture(&format!("{name}.block"), &block.encode_to_vec());
        let proof = TransactionProof::of(block, tx_id, words).unwrap();
        let json = serde_json::to_vec(&proof).unwrap();
        capture(&format!("{name}.json"), &json);
        println!("a proof of {} transactions in the block has {} bytes", proof.data.len(), json.len());
        let proof: TransactionProof = serde_json::from_slice(&json).unwrap();
        if witnesses.len() < endorsers.len() {
            continue;
        }
        let proven = proof.verify(&read.rules(&network, &endorsers)).unwrap();
        assert_eq!((&proven.response, proven.event.as_ref()), (endorsed.response(), endorsed.event()));
        assert_eq!((&proven.endorsed_by, &proven.valid_by), (&endorsers, &endorsers));
        assert!(!proven.writes.is_empty());
    }

    // What lost, what does not exist, and a chaincode asked at the peer itself.
    let error = peer.validity(lost.tx_id()).await.unwrap_err();
    let invalid = ValidityError::Invalid(ValidationCode::MvccReadConflict);
    assert!(matches!(&error, WordError::Validity(e) if *e == invalid), "{error}");
    let error = peer.validity(&"0".repeat(64)).await.unwrap_err();
    assert!(matches!(&error, WordError::Validity(ValidityError::Unknown { .. })), "{error}");
    println!("of a transaction that is none: {error}");
    let asked = |key: &str| Call { args: vec![b"state".to_vec(), key.into()], ..network.call(&[]) };
    assert!(!peer.evaluate(asked("intent/proof-alone")).await.unwrap().payload.is_empty());
    let error = peer.evaluate(asked("nothing")).await.unwrap_err();
    assert!(matches!(&error, WordError::Chaincode { status: 404, .. }), "{error}");
}

async fn word(name: &str, peer: &Peer, tx_id: &str) -> Validity {
    // Another peer may be a moment behind.
    for _ in 0..50 {
        match peer.validity(tx_id).await {
            Ok(word) => return word,
            Err(WordError::Validity(ValidityError::Unknown { .. })) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(e) => panic!("{name}: {e}"),
        }
    }
    panic!("{name} does not know {tx_id}");
}

#[tokio::test]
async fn a_stream_of_blocks_says_why_it_ends_and_is_never_just_silent() {
    let Some(network) = Network::open() else { return };
    let peer = network.gateway().peer(&network.channel);
    let newest = peer.newest().await.unwrap().header.unwrap().number;
    assert_eq!(peer.block(newest).await.unwrap().header.unwrap().number, newest);

    // Further than there are blocks: Fabric would say nothing until there are.
    drop(peer.blocks(newest + 1).await.unwrap());
    let error = peer.blocks(newest + 2).await.unwrap_err();
    assert!(
        matches!(&error, DeliverError::Behind { height, from } if (*height, *from) == (newest + 1, newest + 2))
    );
    let error = peer.block(newest + 2).await.unwrap_err();
    assert!(matches!(&error, DeliverError::Status(404)), "{error}");
    let nowhere = network.gateway().peer("nowhere");
    assert!(matches!(nowhere.blocks(0).await.unwrap_err(), DeliverError::Status(404)));

    // A peer is killed while its stream is open.
    let (Some(mut last), Ok(control)) = (organisations(&network).pop(), env::var("FABRIC_CONTROL")) else {
        return;
    };
    let Some((name, victim)) = last.pop().filter(|_| !last.is_empty()) else {
        eprintln!("SKIPPED in part: no peer to spare");
        return;
    };
    let mut stream = victim.blocks(0).await.unwrap();
    for n in 0..=newest {
        assert_eq!(stream.next().await.unwrap().header.unwrap().number, n);
    }
    let run = |verb: &'static str| {
        let (control, name) = (control.clone(), name.clone());
        tokio::task::spawn_blocking(move || Command::new(control).args([verb, &name]).status())
    };
    let killed = run("kill");
    let error = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.unwrap().unwrap_err();
    assert!(killed.await.unwrap().unwrap().success());
    println!("the killed peer's stream: {error}");
    assert!(matches!(error, DeliverError::Refused(_)), "{error}");
    assert!(run("start").await.unwrap().unwrap().success());
}
