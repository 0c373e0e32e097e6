//! What a thread remembers of former decisions changes none: not when time goes on, a certificate is revoked, or the
//! state says something else.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::*;
use ledger_contract::{Outcome, Snapshot, TxInfo, contract::decide};
use trust::{Envelope, UnixTime, identity::OrgRoot};

fn codes(request: &Envelope, state: &Snapshot, tx: &TxInfo) -> String {
    decide(request, state, tx).verdict.code().to_owned()
}

/// The same on a thread that remembers nothing.
fn afresh(request: &Envelope, state: &Snapshot, tx: &TxInfo) -> Outcome {
    std::thread::scope(|s| s.spawn(|| decide(request, state, tx)).join().unwrap())
}

#[test]
fn what_is_remembered_ends_with_what_it_hangs_on() {
    let w = world();
    let chain = Chain::ready(&w);
    let request = signed(&w, &deploy_intent("intent-0001", "edge"));
    let (state, tx) = (chain.snapshot(&request), chain.tx());
    let first = decide(&request, &state, &tx);
    assert!(first.verdict.approved);
    assert_eq!(first, decide(&request, &state, &tx));

    for (time, code) in
        [(TO.plus(1), "IDENTITY_NOT_VALID"), (UnixTime(FROM.0 - 1), "IDENTITY_NOT_VALID"), (TO, "EXPIRED")]
    {
        let later = TxInfo { time, ..tx.clone() };
        assert_eq!(codes(&request, &state, &later), code, "at {time}");
        assert_eq!(decide(&request, &state, &later), afresh(&request, &state, &later));
    }

    let mut revoked = state.clone();
    let mut root: OrgRoot = revoked.get("org/acme").unwrap().unwrap();
    root.revoked.insert(w.roots.verify(w.acme.certificate(), NOW).unwrap().serial);
    revoked.insert("org/acme", payload(&root));
    assert_eq!(codes(&request, &revoked, &tx), "IDENTITY_REVOKED");

    // Under the same keys something else: a policy that is not the one in force, a package that is damaged.
    for (prefix, bytes, code) in [
        ("policy/sha256:", payload(&open_policy()), "POLICY_ERROR"),
        ("policy/sha256:", b"{".to_vec(), "STATE_DAMAGED"),
        ("package/", b"{".to_vec(), "STATE_DAMAGED"),
    ] {
        let mut other = state.clone();
        let key = other.0.keys().find(|k| k.starts_with(prefix)).unwrap().clone();
        other.insert(key, bytes);
        assert_eq!(codes(&request, &other, &tx), code, "{prefix}");
        assert_eq!(decide(&request, &other, &tx), afresh(&request, &other, &tx));
    }
    assert_eq!(first, decide(&request, &state, &tx));
    assert_eq!(first, afresh(&request, &state, &tx));
}
