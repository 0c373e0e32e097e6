//! What a thread remembers of former decisions changes none: not when time goes on, a certificate is revoked, or the
//! state says something else.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::*;
use ledger_contract::{
    Outcome, Snapshot, TxInfo,
    contract::{Prepared, decide, decide_prepared},
    intent::INTENT_PAYLOAD,
};
use trust::{Envelope, TrustRoots, UnixTime, identity::OrgRoot};

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

/// A request whose signatures were checked before is decided like the bare envelope, and as [`Envelope::verify`] says.
#[test]
fn a_prepared_request_is_decided_like_its_envelope() {
    let w = world();
    let chain = Chain::ready(&w);
    let good = signed(&w, &deploy_intent("intent-0001", "edge"));
    let mut cosigned = good.clone();
    cosigned.cosign(&w.globex).unwrap();
    let mut requests = vec![good.clone(), cosigned.clone()];
    for who in [&w.stranger, &w.expired, &w.impostor] {
        requests.push(sign(INTENT_PAYLOAD, &deploy_intent("intent-0001", "edge"), who));
        let mut also = good.clone();
        also.cosign(who).unwrap();
        requests.push(also);
    }
    let mut swapped = cosigned.clone();
    (swapped.signatures[0].sig, swapped.signatures[1].sig) =
        (cosigned.signatures[1].sig.clone(), cosigned.signatures[0].sig.clone());
    let mut retyped = good.clone();
    retyped.payload_type = ledger_contract::records::ANCHOR_PAYLOAD.to_owned();
    requests.extend([swapped, retyped]);
    for index in 0..2 {
        let step = cosigned.signatures[index].certificate.len() / 40;
        for at in (0..cosigned.signatures[index].certificate.len()).step_by(step) {
            let mut altered = cosigned.clone();
            altered.signatures[index].certificate[at] ^= 1;
            requests.push(altered);
        }
        for at in 0..cosigned.signatures[index].sig.len() {
            let mut altered = cosigned.clone();
            altered.signatures[index].sig[at] ^= 1;
            requests.push(altered);
        }
    }
    let (mut known, mut codes) = (0, std::collections::BTreeSet::new());
    for request in requests {
        let Ok(mut prepared) = Prepared::read(request.clone()) else { continue };
        let (state, tx) = (chain.snapshot(&request), chain.tx());
        let bare = afresh(&request, &state, &tx);
        assert_eq!(decide_prepared(&prepared, &state, &tx), bare);
        prepared.check_signatures();
        assert_eq!(decide_prepared(&prepared, &state, &tx), bare);
        let read =
            |name: &str| state.get::<OrgRoot>(&format!("org/{name}")).unwrap().map(|r| (name.to_owned(), r));
        let orgs = ["op", "prov", "acme", "globex"].into_iter().filter_map(read).collect();
        let verified = request.verify(&TrustRoots { orgs, logs: vec![], channel: None }, tx.time);
        assert_eq!(bare.verdict.authenticated(), verified.is_ok(), "{:?}", bare.verdict.rules.first());
        if let Err(e) = verified {
            assert!(bare.verdict.detail().contains(&e.to_string()), "{e}: {}", bare.verdict.detail());
            codes.insert(bare.verdict.code().to_owned());
        } else {
            known += 1;
        }
    }
    assert!(known >= 4 && codes.len() >= 5, "{known} known, {codes:?}");
}
