//! An approval of a channel, altered.

use std::collections::BTreeSet;

use ledger_contract::{
    Constitution,
    approval::{self, ActuatorPolicy, Approved, RefusalCode},
    evidence::ProvenEntry,
};
use trust::{TrustRoots, UnixTime};

/// As who acts verifies it.
pub fn verify(it: &ProvenEntry, rules: &Constitution, at: UnixTime) -> Result<Approved, RefusalCode> {
    approval::verify(it, &ActuatorPolicy { constitution: rules, at }).map_err(|e| {
        println!("refused: {e}");
        e.code
    })
}

/// What is altered, under-endorsed, of elsewhere or out of its place is refused.
pub fn altered(
    good: &ProvenEntry,
    genesis: &ProvenEntry,
    rules: &Constitution,
    roots: &TrustRoots,
    channel: &str,
    at: UnixTime,
) {
    let with = |change: &dyn Fn(&mut ProvenEntry)| {
        let mut it = good.clone();
        change(&mut it);
        verify(&it, rules, at).unwrap_err()
    };
    let proof = |it: &mut ProvenEntry| it.channel.clone().unwrap();
    let put = |it: &mut ProvenEntry, new| it.channel = Some(new);
    assert_eq!(with(&|it| it.channel = None), RefusalCode::Channel);
    assert_eq!(
        with(&|it| it.entry = it.entry.replace("\"approved\":true", "\"approved\": true")),
        RefusalCode::EntryFormat
    );
    assert_eq!(with(&|it| it.entry = it.entry.replace("intent-one", "intent-two")), RefusalCode::Transaction);
    assert_eq!(with(&|it| it.entry.clone_from(&genesis.entry)), RefusalCode::Transaction);
    assert_eq!(with(&|it| it.channel.clone_from(&genesis.channel)), RefusalCode::Transaction);
    assert_eq!(with(&|it| it.proof.index += 1), RefusalCode::Inclusion);
    assert_eq!(
        with(&|it| {
            let mut new = proof(it);
            new.decided = 1;
            put(it, new);
        }),
        RefusalCode::Transaction
    );
    assert_eq!(
        with(&|it| {
            let mut new = proof(it);
            new.transaction.validity.pop();
            put(it, new);
        }),
        RefusalCode::Transaction,
        "a peer of each organisation must have said that it is valid"
    );
    assert_eq!(
        with(&|it| {
            let mut new = proof(it);
            new.configuration.push("AAAA".into());
            put(it, new);
        }),
        RefusalCode::Channel
    );
    // A verifier without a mirror's key needs none; one that pins no channel takes none.
    let policies = BTreeSet::from([verify(good, rules, at).unwrap().grant.policy]);
    let stranger = TrustRoots { logs: Vec::new(), ..roots.clone() };
    assert!(verify(good, &Constitution::pinned(channel, &stranger, policies.clone()), at).is_ok());
    let log_alone = TrustRoots { channel: None, ..roots.clone() };
    assert_eq!(
        verify(good, &Constitution::pinned(channel, &log_alone, policies), at),
        Err(RefusalCode::Channel)
    );
}
