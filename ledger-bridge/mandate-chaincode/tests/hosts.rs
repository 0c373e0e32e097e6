//! The contract decides the same wherever it runs: bare, in the embedded log, and behind the shim's machine.
//!
//! Bare and machine are told the same position and time, so verdicts, events and writes must be the same bytes. The
//! embedded log numbers its entries; there the positions are written as the log has them before comparing.
//! `tests/fabric.rs` has the fourth host: a real Fabric.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod asking;
#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;
mod peer;

use std::{collections::BTreeMap, time::Duration};

use asking::{Asker, Bare, Embedded, approved, ask};
use common::*;
use fabric::{
    message::{ChaincodeMessage, Header, Kind, Proposal},
    shim::{Action, Session, Want},
};
use ledger_contract::{
    Intent,
    contract::snapshot,
    intent::INTENT_PAYLOAD,
    records::AK_PAYLOAD,
    transaction::{Answer, Before, Decided, Notice, request_key},
};
use mandate_chaincode::{Contract, Row, Was};
use peer::{Ended, Machine, TxHead, transient};
use proptest::prelude::*;
use prost::Message as _;
use trust::Envelope;

fn tx(n: usize) -> TxHead {
    TxHead::new(LEDGER, n, NOW)
}

/// A machine that is founded and has its packages and a key.
fn ready(asker: &Asker) -> Machine {
    let mut it = Machine::new(Contract::default());
    let (answer, _) = it.submit(&tx(0), &asker.founding());
    assert!(answer.decided.iter().all(approved), "{answer:?}");
    it
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn the_same_verdicts_and_writes_in_every_host(
        asks in prop::collection::vec(ask(), 1..40),
        sizes in prop::collection::vec(1_usize..6, 40),
    ) {
        let mut asker = Asker::new(LEDGER);
        let founding = asker.founding();
        let mut requests = founding.clone();
        requests.extend(asks.iter().map(|a| asker.envelope(a)));
        let (mut machine, mut bare) = (Machine::new(Contract::default()), Bare::default());
        let mut embedded = Embedded::new(LEDGER, &founding[0], NOW);
        let (mut rest, mut n) = (requests.as_slice(), 0);
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(sizes[n % sizes.len()].min(rest.len()));
            let (answer, event) = machine.submit(&tx(n), batch);
            let expected: Vec<_> =
                batch.iter().enumerate().map(|(i, r)| bare.decide(r, &tx(n), i)).collect();
            prop_assert_eq!(&answer.decided, &expected);
            prop_assert_eq!(machine.peer.contract_state(), bare.state.clone());
            let made = answer.decided.iter().filter(|d| matches!(d, Decided::Entry { .. })).count();
            let notice = event.map(|e| serde_json::from_slice::<Notice>(&e.payload).unwrap());
            prop_assert_eq!(notice.map_or(0, |n| n.events.len() + n.others.len()), made);
            for (request, decided) in batch.iter().zip(&answer.decided) {
                embedded.compare(request, NOW, decided);
            }
            (rest, n) = (later, n + 1);
        }
        embedded.compare_state(&machine.peer.contract_state());
    }
}

#[test]
fn a_request_is_decided_once_also_within_a_transaction() {
    let asker = Asker::new(LEDGER);
    let mut it = ready(&asker);
    let deploy = signed(&asker.w, &deploy_intent("intent-0001", "edge"));
    let (answer, event) = it.submit(&tx(1), &[deploy.clone(), deploy.clone()]);
    let Decided::Entry { entry } = &answer.decided[0] else { panic!("{answer:?}") };
    let before = Before { v: 1, tx: tx(1).id, position: entry.position };
    assert_eq!(answer.decided[1], Decided::Before { before: before.clone() });
    let notice: Notice = serde_json::from_slice(&event.unwrap().payload).unwrap();
    assert_eq!((notice.events, notice.others), (vec![entry.position], vec![]));
    let writes = it.peer.asked[&Kind::PutState];
    let (again, event) = it.submit(&tx(2), std::slice::from_ref(&deploy));
    assert_eq!((again.decided, event), (vec![Decided::Before { before }], None));
    assert_eq!(it.peer.asked[&Kind::PutState], writes, "nothing is written");
    assert!(it.peer.state.contains_key(&request_key(&deploy.digest())));
}

/// What Fabric's validation compares: two transactions conflict when one writes a key that the other read.
#[test]
fn independent_intents_touch_no_key_of_each_other_but_their_tenants_usage() {
    let asker = Asker::new(LEDGER);
    let it = ready(&asker);
    let globex = |mut i: Intent| {
        i.tenant = "globex".into();
        sign(INTENT_PAYLOAD, &i, &asker.w.globex)
    };
    let touched = |request: &Envelope| {
        let mut other = Machine::new(Contract::default());
        other.peer.state = it.peer.state.clone();
        let before = other.peer.state.clone();
        let (answer, _) = other.submit(&tx(9), std::slice::from_ref(request));
        assert!(approved(&answer.decided[0]), "{answer:?}");
        let mut reads = Vec::new();
        snapshot::<()>(request, |k| {
            reads.push(k.to_owned());
            Ok(before.get(k).cloned())
        })
        .unwrap();
        let writes: Vec<String> = other
            .peer
            .state
            .iter()
            .filter(|(k, v)| before.get(*k) != Some(v))
            .map(|(k, _)| k.clone())
            .collect();
        (reads, writes)
    };
    let conflicts = |a: &Envelope, b: &Envelope| {
        let ((reads, _), (_, writes)) = (touched(a), touched(b));
        writes.into_iter().filter(|w| reads.contains(w)).collect::<Vec<_>>()
    };
    let one = signed(&asker.w, &deploy_intent("intent-0001", "edge"));
    let two = signed(&asker.w, &deploy_intent("intent-0002", "core"));
    let other = globex(deploy_intent("intent-0003", "edge"));
    assert_eq!(conflicts(&one, &other), Vec::<String>::new());
    assert_eq!(conflicts(&one, &two), ["usage/acme"]);
    // So those of one tenant go into one transaction, where they do not.
    let mut both = ready(&asker);
    let (answer, _) = both.submit(&tx(1), &[one, two]);
    assert!(answer.decided.iter().all(approved));
}

#[test]
fn only_the_genesis_that_it_was_started_for_founds() {
    let asker = Asker::new(LEDGER);
    let founding = asker.founding();
    let pinned = Contract { genesis: Some(founding[0].digest()) };
    let other = asker.genesis(open_policy());
    let mut it = Machine::new(pinned);
    let (answer, event) = it.submit(&tx(0), std::slice::from_ref(&other));
    assert!(
        matches!(&answer.decided[0], Decided::Malformed { problem } if problem.contains("another genesis"))
    );
    assert!(event.is_none() && it.peer.state.is_empty());
    assert!(approved(&it.submit(&tx(1), &founding[..1]).0.decided[0]));
    // Once founded, not even that one again: it was decided, and another is nobody's.
    let mut it = Machine::new(Contract::default());
    assert!(approved(&it.submit(&tx(1), &founding[..1]).0.decided[0]));
    let (answer, _) = it.submit(&tx(2), &[other]);
    assert!(matches!(answer.decided[0], Decided::Unauthenticated { .. }), "{answer:?}");
}

#[test]
fn what_cannot_be_run_is_not_endorsed_and_says_why() {
    let asker = Asker::new(LEDGER);
    let mut it = ready(&asker);
    let before = it.peer.state.clone();
    let deploy = [signed(&asker.w, &deploy_intent("intent-0001", "edge"))];
    let far = TxHead { time: NOW.plus(301), ..tx(1) };
    // The machine's clock is the transaction's in these tests; here it is not.
    let begun = |sent: ChaincodeMessage| {
        let (mut session, _) = Session::open("m:0");
        for kind in [Kind::Registered, Kind::Ready] {
            let m = ChaincodeMessage { kind: kind.into(), ..Default::default() };
            session.receive(m, Duration::ZERO).unwrap();
        }
        let action = session.receive(sent, Duration::ZERO).unwrap();
        let Action::Begin(invocation) = action else { panic!("not begun") };
        let Want::Done(done) = it.contract.begin(*invocation, NOW).resume(None) else { panic!("it went on") };
        (done.response.status, done.response.message)
    };
    let late = begun(peer::transaction(&far, &["submit"], transient(&deploy, None)));
    assert_eq!(late.0, 409);
    assert!(late.1.contains("apart"), "{}", late.1);
    // A field of length 0, which is there all the same: another reader of the header reads the same.
    let mut odd = peer::transaction(&tx(1), &["submit"], transient(&deploy, None));
    let signed = odd.proposal.as_mut().unwrap();
    let mut proposal = Proposal::decode(signed.proposal_bytes.as_slice()).unwrap();
    let mut header = Header::decode(proposal.header.as_slice()).unwrap();
    header.channel_header.extend([0x3a, 0x00]);
    proposal.header = header.encode_to_vec();
    signed.proposal_bytes = proposal.encode_to_vec();
    let odd = begun(odd);
    assert_eq!(odd.0, 400);
    assert!(odd.1.contains("no proof takes"), "{}", odd.1);
    let none = BTreeMap::new();
    let many = vec![deploy[0].clone(); 65];
    for (args, transient, status, says) in [
        (&["submit"][..], none.clone(), 400, "no list of envelopes"),
        (&["submit"], transient(&[], None), 400, "0 requests"),
        (&["submit"], transient(&many, None), 400, "65 requests"),
        (&["submit"], transient(&deploy, Some("unknown")), 500, "collection not defined"),
        (&["submit", "more"], transient(&deploy, None), 400, "wrong arguments of `submit`"),
        (&["mint"], none.clone(), 404, "no function `mint`"),
        (&[], none.clone(), 400, "no function"),
        (&["prefix", "a", "", "many"], none.clone(), 400, "no number"),
        (&["state", "intent/none"], none, 404, "no `intent/none`"),
    ] {
        let Ended { response, event } = it.run(&tx(7), args, transient);
        assert_eq!(response.status, status, "{args:?}: {}", response.message);
        assert!(response.message.contains(says) && event.is_none(), "{}", response.message);
    }
    assert_eq!(it.peer.state, before);
}

#[test]
fn the_envelope_stays_off_the_chain_unless_a_collection_keeps_it() {
    let asker = Asker::new(LEDGER);
    let mut it = ready(&asker);
    let deploy = signed(&asker.w, &deploy_intent("intent-0001", "edge"));
    let ended = it.run(&tx(1), &["submit"], transient(std::slice::from_ref(&deploy), Some("tenants")));
    let answer: Answer = serde_json::from_slice(&ended.response.payload).unwrap();
    assert!(approved(&answer.decided[0]));
    let secret = serde_json::to_string(&deploy).unwrap();
    let payload = serde_json::from_str::<serde_json::Value>(&secret).unwrap()["payload"].to_string();
    let public: Vec<u8> = [ended.response.payload, ended.event.unwrap().payload]
        .concat()
        .into_iter()
        .chain(it.peer.state.values().flatten().copied())
        .collect();
    assert!(!String::from_utf8_lossy(&public).contains(payload.trim_matches('"')));
    let kept = &it.peer.private[&("tenants".to_owned(), request_key(&deploy.digest()))];
    assert_eq!(*kept, deploy.to_json());
}

#[test]
fn the_state_is_looked_at_page_by_page() {
    let asker = Asker::new(LEDGER);
    let mut it = ready(&asker);
    for n in 0..8 {
        it.submit(&tx(10 + n), &[sign(AK_PAYLOAD, &ak(&format!("site-{n}")), &asker.w.operator)]);
    }
    let rows = |it: &mut Machine, after: &str, limit: &str| {
        let ended = it.run(&tx(30), &["prefix", "ak/", after, limit], BTreeMap::new());
        let rows: Vec<Row> = serde_json::from_slice(&ended.response.payload).unwrap();
        rows.into_iter().map(|r| r.key).collect::<Vec<_>>()
    };
    let all = rows(&mut it, "", "1000");
    assert_eq!((all.len(), all[0].as_str(), all[8].as_str()), (9, "ak/edge-1", "ak/site-7"));
    assert_eq!(rows(&mut it, "", "4"), all[..4], "and the query is closed");
    assert_eq!(rows(&mut it, &all[3], "3"), all[4..7]);
    assert_eq!(rows(&mut it, &all[8], "3"), Vec::<String>::new());
    let ended = it.run(&tx(31), &["history", "ak-index", "5"], BTreeMap::new());
    let past: Vec<Was> = serde_json::from_slice(&ended.response.payload).unwrap();
    assert_eq!((past.len(), past[0].tx.as_str()), (5, tx(17).id.as_str()));
    let ended = it.run(&tx(32), &["state", "genesis"], BTreeMap::new());
    assert_eq!(ended.response.payload, it.peer.state["genesis"]);
}
