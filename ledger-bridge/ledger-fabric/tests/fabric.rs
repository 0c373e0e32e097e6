//! A real Fabric network: a genesis and intents through a peer's gateway to `mandate-chaincode`, and answers lost at each
//! phase.
//!
//! `cargo testbed test fabric` runs it; otherwise it runs where `FABRIC_BIN` is set (`network/mod.rs`).
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;
mod network;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::*;
use fabric::gateway::{
    Code, CommitError, Endorsed, EvaluateError, Outcome, Proposed, Retry, SubmitError,
    message::ValidationCode,
};
use ledger_contract::transaction::{Before, EVENT, request_key};
use ledger_fabric::{Deadlines, Gateway, Member, Options};
use network::{Network, approved, decided};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Between a client and its gateway; once silent, answers are lost.
struct Relay {
    address: String,
    silent: watch::Sender<bool>,
}

impl Relay {
    async fn to(peer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (silent, is_silent) = watch::channel(false);
        let peer = peer.to_owned();
        tokio::spawn(async move {
            loop {
                let (mut from, mut to) = listener.accept().await.unwrap().0.into_split();
                let (mut peer_from, mut peer_to) = TcpStream::connect(&peer).await.unwrap().into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut peer_to).await });
                let is_silent = is_silent.clone();
                tokio::spawn(async move {
                    let mut bytes = vec![0; 1 << 16];
                    while let Ok(n @ 1..) = peer_from.read(&mut bytes).await {
                        if !*is_silent.borrow() && to.write_all(&bytes[..n]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, silent }
    }
}

/// A gateway behind a relay, with short deadlines.
async fn behind_relay(network: &Network) -> (Relay, Gateway) {
    let relay = Relay::to(&network.options.address).await;
    let second = Duration::from_secs(1);
    let deadlines = Deadlines { submit: second, commit: second * 3, ..Deadlines::default() };
    let options = Options { address: relay.address.clone(), deadlines, ..network.options.clone() };
    (relay, Gateway::open(&options, network.member.clone()).unwrap())
}

#[tokio::test]
async fn requests_are_committed_through_a_gateway_and_lost_answers_are_found_again() {
    let Some(network) = Network::open() else { return };
    let gateway = network.gateway();
    let w = world();

    // A question that the chaincode refuses.
    let refused = gateway.evaluate(network.call(&["state", "nothing"])).await.unwrap_err();
    let EvaluateError::Refused(refusal) = &refused else { panic!("{refused}") };
    assert_eq!((refusal.chaincode_status(), refused.retry()), (Some(404), Retry::Never), "{refused}");

    // Founding, with room for all that follows.
    let founding = network.founding(&w);
    let proposed = gateway.propose(network.submit(&founding)).unwrap();
    let endorsed = gateway.endorse(&proposed).await.unwrap();
    assert!(decided(&endorsed).iter().all(approved), "{:?}", decided(&endorsed));
    assert_eq!(endorsed.event().unwrap().event_name, EVENT);
    let submitted = gateway.submit(&endorsed).await.unwrap();
    let founded = gateway.commit_status(&submitted).await.unwrap();
    assert_eq!(founded.tx_id(), proposed.tx_id());

    // An intent, and where it was decided.
    let intent = signed(&w, &deploy_intent("intent-one", "edge"));
    let at = Instant::now();
    let proposed = gateway.propose(network.submit(std::slice::from_ref(&intent))).unwrap();
    let endorsed = gateway.endorse(&proposed).await.unwrap();
    assert!(approved(&decided(&endorsed)[0]), "{:?}", decided(&endorsed));
    let submitted = gateway.submit(&endorsed).await.unwrap();
    let committed = gateway.commit_status(&submitted).await.unwrap();
    println!("intent approved and in block {} after {} ms", committed.block(), at.elapsed().as_millis());
    assert!(committed.block() > founded.block());
    let key = request_key(&intent.digest());
    let found = gateway.evaluate(network.call(&["state", &key])).await.unwrap();
    let before: Before = serde_json::from_slice(&found.payload).unwrap();
    assert_eq!(before.tx, committed.tx_id());

    // The same envelope again is the same transaction.
    let again = gateway.submit(&endorsed).await.unwrap();
    assert_eq!(gateway.commit_status(&again).await.unwrap(), committed);

    lost_answers(&network, &gateway, &w).await;
    conflict(&network, &gateway, &w).await;
    stranger(&network).await;
}

/// At each phase an answer is lost; another gateway finds out.
async fn lost_answers(network: &Network, gateway: &Gateway, w: &World) {
    let one = |id: &str| network.submit(&[signed(w, &deploy_intent(id, id))]);

    let (relay, lossy) = behind_relay(network).await;
    let proposed = lossy.propose(one("intent-endorse")).unwrap();
    relay.silent.send_replace(true);
    let short = Duration::from_secs(2);
    assert!(tokio::time::timeout(short, lossy.endorse(&proposed)).await.is_err(), "the answer was not lost");
    let endorsed = gateway.endorse(&gateway.propose(one("intent-endorse")).unwrap()).await.unwrap();
    assert!(approved(&decided(&endorsed)[0]), "the lost proposal had an effect");
    finish(gateway, &endorsed).await;

    let (relay, lossy) = behind_relay(network).await;
    let endorsed = lossy.endorse(&lossy.propose(one("intent-submit")).unwrap()).await.unwrap();
    relay.silent.send_replace(true);
    let error = lossy.submit(&endorsed).await.unwrap_err();
    assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::LookUp));
    let SubmitError::Unknown { refusal, submitted } = error else { panic!("{error}") };
    assert_eq!(refusal.code, Code::DeadlineExceeded, "{refusal}");
    assert_eq!(gateway.commit_status(&submitted).await.unwrap().tx_id(), endorsed.tx_id());

    let (relay, lossy) = behind_relay(network).await;
    let endorsed = lossy.endorse(&lossy.propose(one("intent-commit")).unwrap()).await.unwrap();
    let submitted = lossy.submit(&endorsed).await.unwrap();
    relay.silent.send_replace(true);
    let error = lossy.commit_status(&submitted).await.unwrap_err();
    assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::LookUp), "{error}");
    assert_eq!(gateway.commit_status(&submitted).await.unwrap().tx_id(), endorsed.tx_id());
}

async fn finish(gateway: &Gateway, endorsed: &Endorsed) {
    let submitted = gateway.submit(endorsed).await.unwrap();
    gateway.commit_status(&submitted).await.unwrap();
}

/// Two transactions of one tenant at once: the second is invalid, and that is known.
async fn conflict(network: &Network, gateway: &Gateway, w: &World) {
    let propose = |id: &str| gateway.propose(network.submit(&[signed(w, &deploy_intent(id, id))])).unwrap();
    let (a, b): (Proposed, Proposed) = (propose("intent-a"), propose("intent-b"));
    let (a, b) = tokio::join!(gateway.endorse(&a), gateway.endorse(&b));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(approved(&decided(&a)[0]) && approved(&decided(&b)[0]));
    finish(gateway, &a).await;
    let error = gateway.commit_status(&gateway.submit(&b).await.unwrap()).await.unwrap_err();
    assert_eq!((error.outcome(), error.retry()), (Outcome::Invalid, Retry::Anew), "{error}");
    assert!(matches!(error, CommitError::Invalid { code: ValidationCode::MvccReadConflict, .. }), "{error}");
    let again = gateway.endorse(&propose("intent-b")).await.unwrap();
    finish(gateway, &again).await;
}

/// Who signs with another key is refused; nothing has happened.
async fn stranger(network: &Network) {
    let signer = world().stranger;
    let sign: ledger_fabric::Sign = Arc::new(move |bytes| Ok(signer.sign_bytes(bytes)));
    let gateway = Gateway::open(&network.options, Member { sign, ..network.member.clone() }).unwrap();
    let proposed = gateway.propose(network.submit(&[])).unwrap();
    let error = gateway.endorse(&proposed).await.unwrap_err();
    println!("refused: {error}");
    assert_eq!((error.outcome(), error.retry()), (Outcome::Nothing, Retry::Never), "{error}");
}
