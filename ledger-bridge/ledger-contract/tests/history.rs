//! A log that version 1 of the rules wrote is decided again as it was: the fixture was written by the first release.
//!
//! `tests/fixtures/log-v1.jsonl`: the entries that every branch begins with, and after each blank line those of one branch.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use ledger_contract::{
    TxInfo,
    contract::{decide, snapshot},
    records::{Entry, Verdict},
};

type State = BTreeMap<String, Vec<u8>>;

fn again(state: &mut State, line: &str) {
    let entry: Entry = serde_json::from_str(line).unwrap();
    assert_eq!(entry.v, 1);
    assert_eq!(entry.to_bytes(), line.as_bytes(), "an old entry keeps its encoding");
    let read = snapshot::<()>(&entry.request, |key| Ok(state.get(key).cloned())).unwrap();
    let tx = TxInfo { v: entry.v, ledger: entry.ledger.clone(), position: entry.position, time: entry.time };
    let outcome = decide(&entry.request, &read, &tx);
    let rules =
        |v: &Verdict| v.rules.iter().map(|r| (r.rule.clone(), r.passed, r.code.clone())).collect::<Vec<_>>();
    assert_eq!(rules(&outcome.verdict), rules(&entry.verdict), "entry {}", entry.position);
    assert_eq!(outcome.verdict.approved, entry.verdict.approved);
    assert_eq!(outcome.event, entry.event);
    assert_eq!(
        outcome.writes_digest(),
        entry.writes,
        "entry {}: {:?}",
        entry.position,
        outcome.writes.keys()
    );
    for (key, value) in outcome.writes {
        match value {
            Some(value) => state.insert(key, value),
            None => state.remove(&key),
        };
    }
}

#[test]
fn old_entries_are_decided_as_they_were() {
    let mut branches = include_str!("fixtures/log-v1.jsonl").split("\n\n");
    let mut trunk = State::new();
    branches.next().unwrap().lines().for_each(|line| again(&mut trunk, line));
    let mut count = 0;
    for branch in branches {
        let mut state = trunk.clone();
        branch.lines().for_each(|line| again(&mut state, line));
        count += 1;
    }
    assert!(count > 25, "{count} branches");
}
