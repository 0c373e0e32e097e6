//! An approval with the proof of its Fabric channel, and what is altered of it.
//!
//! The approval, and the trust roots that it is verified from, are of a real network of three orderers and two organisations
//! that both endorse: `MANDATE_WRITE_GOLDEN=FILE` with `cargo test -p ledger-fabric --test port`, which shows the same there.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "channel/altered.rs"]
mod altered;

use std::collections::BTreeSet;

use altered::{altered, verify};
use ledger_contract::{Constitution, approval::RefusalCode, evidence::ProvenEntry, records::Entry};
use serde::Deserialize;
use trust::{TrustRoots, UnixTime};

#[derive(Deserialize)]
struct Golden {
    channel: String,
    roots: TrustRoots,
    genesis: ProvenEntry,
    approval: ProvenEntry,
}

fn golden() -> (Golden, Constitution, UnixTime) {
    let it: Golden = serde_json::from_str(include_str!("channel/approval.json")).unwrap();
    let decided: Entry = serde_json::from_str(&it.approval.entry).unwrap();
    let policies = BTreeSet::from([decided.verdict.policy]);
    let rules = Constitution::pinned(&it.channel, &it.roots, policies);
    let rules = rules.followed(std::slice::from_ref(&it.genesis)).unwrap();
    (it, rules, decided.time.plus(1))
}

#[test]
fn an_approval_of_a_channel_is_verified_and_what_is_altered_is_refused() {
    let (it, rules, at) = golden();
    let approved = verify(&it.approval, &rules, at).unwrap();
    assert!(approved.place > it.genesis.place() && approved.position == 4);
    assert_eq!(verify(&it.genesis, &rules, at), Err(RefusalCode::NotAnIntent));
    assert_eq!(verify(&it.approval, &rules, at.plus(1 << 40)), Err(RefusalCode::Expired));
    altered(&it.approval, &it.genesis, &rules, &it.roots, &it.channel, at);
}

/// Bytes of the whole proof, one after the other: none of them can be another without being noticed, or without meaning the
/// same.
#[test]
fn no_byte_of_a_proof_can_be_another() {
    let (it, rules, at) = golden();
    let good = verify(&it.approval, &rules, at).unwrap();
    let json = serde_json::to_string(&it.approval).unwrap();
    let step = json.len() / 97;
    let mut refused = 0;
    for n in (0..json.len()).step_by(step) {
        let mut bytes = json.clone().into_bytes();
        bytes[n] = if bytes[n] == b'A' { b'B' } else { b'A' };
        let Ok(altered) = serde_json::from_slice::<ProvenEntry>(&bytes) else { continue };
        match verify(&altered, &rules, at) {
            Err(_) => refused += 1,
            Ok(approved) => assert_eq!((altered, approved), (it.approval.clone(), good.clone()), "byte {n}"),
        }
    }
    assert!(refused > 50, "{refused}");
}
