//! The mirror alone: blocks whole or not at all, numbers that stay, requests that come before their entries.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use ledger_contract::{
    records::{Event, Verdict},
    transaction::{SealedEntry, position_of},
};
use ledger_fabric::mirror::{Applied, At, Mirror, MirrorError};
use trust::{Digest, Envelope, UnixTime, dsse::Signature};

fn request(n: u64) -> Envelope {
    Envelope {
        payload_type: "application/x".into(),
        payload: n.to_be_bytes().to_vec(),
        signatures: vec![Signature { sig: vec![1], certificate: vec![2] }],
    }
}

fn tx(n: u64) -> String {
    Digest::of(n.to_be_bytes()).hex()
}

fn entry(n: u64, event: bool) -> SealedEntry {
    SealedEntry {
        v: 4,
        ledger: "channel".into(),
        position: position_of(&tx(n), 0).unwrap(),
        time: UnixTime(n),
        request: request(n).digest(),
        verdict: Verdict { approved: true, rules: Vec::new(), policy: Digest([0; 32]) },
        event: event.then(|| Event::StandingRevoked { id: n.to_string() }),
        writes: Digest([0; 32]),
    }
}

fn applied(n: u64, event: bool, writes: &[(&str, Option<&str>)]) -> Applied {
    let writes = writes.iter().map(|(k, v)| ((*k).to_owned(), v.map(|v| v.as_bytes().to_vec())));
    Applied { tx_id: tx(n), decided: vec![(0, entry(n, event))], writes: writes.collect::<BTreeMap<_, _>>() }
}

fn hash(n: u64) -> Digest {
    Digest::of([&n.to_be_bytes()[..], b"header"].concat())
}

#[test]
fn a_block_is_taken_whole_and_nothing_is_numbered_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror::open(dir.path(), "channel").unwrap();
    assert_eq!((mirror.at(), mirror.size()), (At { next: 0, hash: None }, 0));
    mirror.keep(&request(2).digest(), &request(2)).unwrap();

    mirror.take(0, &hash(0), &[], None).unwrap();
    let two =
        [applied(1, true, &[("a/1", Some("x")), ("b", Some("y"))]), applied(2, true, &[("a/2", Some("z"))])];
    mirror.take(1, &hash(1), &two, None).unwrap();
    assert!(matches!(mirror.take(1, &hash(1), &two, None), Err(MirrorError::Damaged { .. })), "twice");
    assert!(matches!(mirror.take(3, &hash(3), &[], None), Err(MirrorError::Damaged { .. })), "a gap");
    // The same request again is none of the contract's: the block is not taken, not even in part.
    let again = [applied(3, false, &[("c", Some("new"))]), applied(2, true, &[])];
    assert!(matches!(mirror.take(2, &hash(2), &again, None), Err(MirrorError::Sqlite { .. })));
    assert_eq!((mirror.at().next, mirror.size(), mirror.state("c").unwrap()), (2, 2, None));
    mirror.take(2, &hash(2), &[applied(3, false, &[("a/1", None)])], Some(b"configuration")).unwrap();

    let seen = |mirror: &Mirror| {
        assert_eq!(mirror.at(), At { next: 3, hash: Some(hash(2)) });
        let kept = mirror.entry(1).unwrap().unwrap();
        assert_eq!((kept.block, &kept.tx_id, &kept.request), (1, &tx(2), &Some(request(2))));
        assert_eq!(kept.open().unwrap().request, request(2));
        assert_eq!(mirror.entry(kept.sealed.position).unwrap().unwrap(), kept, "by its name");
        assert_eq!(mirror.decided(&request(2).digest()).unwrap().unwrap(), kept);
        assert_eq!(mirror.entry(0).unwrap().unwrap().open(), None, "its request is elsewhere");
        assert_eq!(mirror.entry(3).unwrap(), None);
        let numbers = |events| -> Vec<u64> {
            mirror.entries(0, 10, events).unwrap().iter().map(|k| k.number).collect()
        };
        assert_eq!(
            (numbers(false), numbers(true), mirror.last_event().unwrap()),
            (vec![0, 1, 2], vec![1], Some(1))
        );
        assert_eq!(mirror.state("b").unwrap().unwrap(), b"y");
        let under: Vec<_> = mirror.state_prefix("a/").unwrap();
        assert_eq!(under, [("a/2".to_owned(), b"z".to_vec())]);
        assert_eq!(mirror.configuration(0, 9).unwrap(), [b"configuration"]);
        assert!(
            mirror.configuration(2, 9).unwrap().is_empty() && mirror.configuration(0, 2).unwrap().is_empty()
        );
        mirror.tree(trust::merkle::Tree::root)
    };
    let root = seen(&mirror);
    drop(mirror);
    assert_eq!(seen(&Mirror::open(dir.path(), "channel").unwrap()), root, "after a restart");
    assert!(matches!(Mirror::open(dir.path(), "other"), Err(MirrorError::OtherChannel { .. })));
}

#[test]
fn a_request_is_kept_before_its_entry_and_forgotten_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror::open(dir.path(), "channel").unwrap();
    for n in [1, 2] {
        mirror.keep(&request(n).digest(), &request(n)).unwrap();
        mirror.keep(&request(n).digest(), &request(n)).unwrap();
    }
    mirror.take(0, &hash(0), &[applied(1, true, &[])], None).unwrap();
    mirror.forget(&request(1).digest()).unwrap();
    mirror.forget(&request(2).digest()).unwrap();
    assert!(mirror.entry(0).unwrap().unwrap().open().is_some(), "it has an entry");
    mirror.take(1, &hash(1), &[applied(2, true, &[])], None).unwrap();
    assert!(mirror.entry(1).unwrap().unwrap().open().is_none());
    // It came later.
    mirror.keep(&request(2).digest(), &request(2)).unwrap();
    assert_eq!(mirror.last_event().unwrap(), Some(1));
}
