//! A log that version 1 of the rules wrote is decided again as it was: the fixture was written by the first release. And
//! whatever is altered in a log is found.
//!
//! `tests/fixtures/log-v1.jsonl`: the entries that every branch begins with, and after each blank line those of one branch.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use ledger_contract::{history::History, records::Entry};

fn again<'a>(lines: impl Iterator<Item = &'a str>) -> History {
    let mut history = History::default();
    for line in lines {
        history.next(line).unwrap();
    }
    history
}

#[test]
fn old_entries_are_decided_as_they_were() {
    let mut branches = include_str!("fixtures/log-v1.jsonl").split("\n\n");
    let trunk: Vec<&str> = branches.next().unwrap().lines().collect();
    let mut count = 0;
    for branch in branches {
        again(trunk.iter().copied().chain(branch.lines()));
        count += 1;
    }
    assert!(count > 25, "{count} branches");
}

/// A ledger that was founded by version 1 goes on under version 2.
#[test]
fn an_old_ledger_goes_on() {
    let w = world();
    let trunk = include_str!("fixtures/log-v1.jsonl").split("\n\n").next().unwrap();
    let mut chain = Chain::founded(&w, policy());
    let mut history = History::default();
    (chain.state, chain.entries) = Default::default();
    for line in trunk.lines() {
        let again = history.next(line).unwrap();
        for (key, value) in again.outcome.writes {
            chain.state.insert(key, value.unwrap());
        }
        chain.push(line.to_owned());
    }
    chain.active(&w, "intent-0001", "edge");
    for line in &chain.entries[trunk.lines().count()..] {
        assert_eq!(history.next(line).unwrap().entry.v, 2);
    }
    let old =
        trunk.lines().last().unwrap().replace("\"position\":4", &format!("\"position\":{}", history.len()));
    let difference = history.next(&old).unwrap_err();
    assert_eq!(difference.what, "version", "{difference}");
}

#[test]
fn what_was_altered_is_found() {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.active(&w, "intent-0001", "edge");
    chain.refuse(signed(&w, &deploy_intent("intent-0002", "edge")), "SERVICE_EXISTS");
    assert_eq!(again(chain.entries.iter().map(String::as_str)).len(), chain.entries.len() as u64);
    let last = chain.entries.len() - 1;
    let found = |at: usize, change: &dyn Fn(&mut Entry)| {
        let mut history = again(chain.entries[..at].iter().map(String::as_str));
        let mut entry: Entry = serde_json::from_str(&chain.entries[at]).unwrap();
        change(&mut entry);
        history.next(&String::from_utf8(entry.to_bytes()).unwrap()).unwrap_err().what
    };
    assert_eq!(found(last, &|e| e.verdict.approved = true), "verdict");
    assert_eq!(found(last, &|e| drop(e.verdict.rules.pop())), "rule 40");
    assert_eq!(found(last, &|e| e.position += 1), "position");
    assert_eq!(found(last, &|e| e.time = trust::UnixTime(1)), "time");
    assert_eq!(found(last, &|e| e.writes = trust::Digest::of("x")), "writes");
    assert_eq!(found(last - 1, &|e| e.event = None), "event");
    assert_eq!(found(last, &|e| e.v = 1), "version");
    let mut history = again(chain.entries[..last].iter().map(String::as_str));
    assert_eq!(history.next(&format!(" {}", chain.entries[last])).unwrap_err().what, "encoding");
}
