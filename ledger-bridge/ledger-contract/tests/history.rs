//! Logs that former versions of the rules wrote are decided again as they were. And whatever is altered in a log is found.
//!
//! `tests/fixtures/log-v1.jsonl` was written by the first release, `log-v2.jsonl` and `log-v3.jsonl` by the last
//! programs of versions 2 and 3: the
//! entries that every branch begins with, and after each blank line those of one branch.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use ledger_contract::{
    history::History,
    records::{ENTRY_VERSION, Entry},
};

fn again<'a>(lines: impl Iterator<Item = &'a str>) -> History {
    let mut history = History::default();
    for line in lines {
        history.next(line).unwrap();
    }
    history
}

#[test]
fn old_entries_are_decided_as_they_were() {
    let logs = [
        include_str!("fixtures/log-v1.jsonl"),
        include_str!("fixtures/log-v2.jsonl"),
        include_str!("fixtures/log-v3.jsonl"),
    ];
    for (log, least) in logs.iter().zip([25, 6, 1]) {
        let mut branches = log.split("\n\n");
        let trunk: Vec<&str> = branches.next().unwrap().lines().collect();
        let mut count = 0;
        for branch in branches {
            again(trunk.iter().copied().chain(branch.lines()));
            count += 1;
        }
        assert!(count > least, "{count} branches");
    }
}

/// What version 2 refused is refused still when its log is decided again, though version 3 would approve it.
#[test]
fn an_old_refusal_is_not_turned_into_an_approval() {
    let log = include_str!("fixtures/log-v2.jsonl");
    let trunk = log.split("\n\n").next().unwrap().lines().count();
    let ends = |l: &&str| l.contains("OPERATION_IN_FLIGHT") && l.contains("\"v\":2");
    let branch = log.split("\n\n").skip(1).find(|b| b.lines().any(|l| ends(&l))).unwrap();
    let mut history = again(log.lines().take(trunk));
    for line in branch.lines() {
        let newer = line.replacen("\"v\":2", "\"v\":3", 1);
        if ends(&line) {
            assert_eq!(history.next(&newer).unwrap_err().again, "compliance/in-flight passed");
        }
        history.next(line).unwrap();
    }
}

/// Services of version 3 have ids of 48 bits; the same entries under version 4 would have granted others.
#[test]
fn old_services_keep_their_ids() {
    let log = include_str!("fixtures/log-v3.jsonl");
    let mut branches = log.split("\n\n");
    let trunk: Vec<&str> = branches.next().unwrap().lines().collect();
    let deploy = branches.next().unwrap().lines().next().unwrap();
    let mut history = again(trunk.iter().copied());
    let newer = deploy.replacen("\"v\":3", "\"v\":4", 1);
    assert_eq!(history.next(&newer).unwrap_err().what, "event");
    history.next(deploy).unwrap();
}

/// A ledger that was founded by version 1 goes on under the present one.
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
        assert_eq!(history.next(line).unwrap().entry.v, ENTRY_VERSION);
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
