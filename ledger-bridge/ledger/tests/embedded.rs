//! The embedded log as its users see it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::*;
use ledger::{
    Ledger, LedgerError,
    embedded::{Log, MAX_IDLE_S, OpenOptions},
};
use ledger_contract::{
    contract::Malformed,
    intent::INTENT_PAYLOAD,
    records::{AK_PAYLOAD, PACKAGE_PAYLOAD},
};
use tempfile::TempDir;
use trust::{
    Digest, Envelope, UnixTime,
    merkle::{leaf_hash, verify_consistency, verify_inclusion},
    note::NoteSigner,
};

fn init(w: &World) -> TempDir {
    let dir = TempDir::new().unwrap();
    Log::init(&dir.path().join("ledger"), &w.log, genesis(w, policy()), NOW).unwrap();
    dir
}

fn open(dir: &TempDir) -> Log {
    Log::open(&dir.path().join("ledger"), || NOW).unwrap()
}

async fn fill(log: &Log, w: &World) {
    for p in [vnf(w, "vfw_vnf"), vnf(w, "vlb_vnf"), nsd()] {
        let done = log.submit(sign(PACKAGE_PAYLOAD, &p, &w.provider)).await.unwrap();
        assert!(done.entry.verdict.approved);
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn submits_proves_and_remembers() {
    let w = world();
    let dir = init(&w);
    let log = open(&dir);
    assert_eq!(log.name(), LEDGER);
    fill(&log, &w).await;
    let done = log.submit(signed(&w, &deploy_intent("intent-0001", "edge"))).await.unwrap();
    assert!(done.entry.verdict.approved);
    assert_eq!(done.entry.position, 4);
    let head = log.verifier().checkpoint(&log.head().await.unwrap()).unwrap();
    assert_eq!(head.size, 5);
    for position in 0..5 {
        let p = log.entry(position).await.unwrap().unwrap();
        let c = log.verifier().checkpoint(&p.proof.checkpoint).unwrap();
        verify_inclusion(leaf_hash(p.entry.as_bytes()), position, c.size, &p.proof.path, c.root).unwrap();
    }
    assert_eq!(log.entry(5).await.unwrap(), None);
    assert_eq!(log.range(1, 2).await.unwrap().len(), 2);
    assert_eq!(log.range(5, 2).await.unwrap().len(), 0);
    let events = log.events(None, 10).await.unwrap();
    assert_eq!(events, [log.entry(4).await.unwrap().unwrap()]);
    assert!(log.events(Some(4), 10).await.unwrap().is_empty());
    assert!(log.state("service/acme/edge").await.unwrap().is_some());
    assert_eq!(log.state_prefix("package/").await.unwrap().len(), 3);
    drop(log);
    let again = open(&dir);
    assert_eq!(again.events(None, 10).await.unwrap(), events);
    assert_eq!(again.size(), 5);
}

#[tokio::test]
async fn the_same_envelope_has_one_outcome_also_after_a_restart_and_within_a_batch() {
    let w = world();
    let dir = init(&w);
    let log = open(&dir);
    fill(&log, &w).await;
    let it = signed(&w, &deploy_intent("intent-0001", "edge"));
    let (a, b, c) = tokio::join!(log.submit(it.clone()), log.submit(it.clone()), log.submit(it.clone()));
    let first = a.unwrap().entry;
    assert!(first.verdict.approved);
    assert_eq!((&b.unwrap().entry, &c.unwrap().entry), (&first, &first));
    assert_eq!(log.size(), 5);
    drop(log);
    let log = open(&dir);
    assert_eq!(log.submit(it).await.unwrap().entry, first);
    assert_eq!(log.size(), 5);
    let mut other = deploy_intent("intent-0001", "edge");
    other.service = "other".into();
    let refused = log.submit(signed(&w, &other)).await.unwrap();
    assert_eq!(refused.entry.verdict.code(), "INTENT_ID_REUSED");
}

#[tokio::test]
async fn refusals_are_entries_and_rubbish_is_not() {
    let w = world();
    let dir = init(&w);
    let log = open(&dir);
    let refused = log.submit(signed(&w, &deploy_intent("intent-0001", "edge"))).await.unwrap();
    assert_eq!(refused.entry.verdict.code(), "PACKAGE_NOT_REGISTERED");
    assert_eq!(log.size(), 2);
    let rubbish = Envelope::sign("text/plain", b"hello".to_vec(), &[&w.acme]).unwrap();
    let error = log.submit(rubbish).await.unwrap_err();
    assert!(matches!(error, LedgerError::Malformed(Malformed::PayloadType(_))), "{error}");
    let mut unsigned = signed(&w, &deploy_intent("intent-0002", "edge"));
    unsigned.signatures.clear();
    let error = log.submit(unsigned).await.unwrap_err();
    assert!(matches!(error, LedgerError::Malformed(Malformed::Signatures(0))), "{error}");
    assert!(!error.retryable());
    assert_eq!(log.size(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_and_every_head_is_consistent_with_the_last() {
    let w = world();
    let dir = init(&w);
    let log = Arc::new(open(&dir));
    let old = log.verifier().checkpoint(&log.head().await.unwrap()).unwrap();
    let requests: Vec<_> =
        (0..40).map(|i| sign(AK_PAYLOAD, &ak(&format!("site-{i}")), &w.operator)).collect();
    let tasks: Vec<_> = requests
        .into_iter()
        .map(|r| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.submit(r).await.unwrap() })
        })
        .collect();
    let mut positions = Vec::new();
    for t in tasks {
        let done = t.await.unwrap();
        assert!(done.entry.verdict.approved);
        let c = log.verifier().checkpoint(&done.proven.proof.checkpoint).unwrap();
        let leaf = leaf_hash(done.proven.entry.as_bytes());
        verify_inclusion(leaf, done.entry.position, c.size, &done.proven.proof.path, c.root).unwrap();
        positions.push(done.entry.position);
    }
    positions.sort_unstable();
    assert_eq!(positions, (1..=40).collect::<Vec<_>>());
    let new = log.verifier().checkpoint(&log.head().await.unwrap()).unwrap();
    let path = log.consistency(old.size).await.unwrap();
    verify_consistency(old.size, new.size, old.root, new.root, &path).unwrap();
    assert!(matches!(log.consistency(99).await, Err(LedgerError::Range { asked: 99, size: 41 })));
    let index: Vec<String> = serde_json::from_slice(&log.state("ak-index").await.unwrap().unwrap()).unwrap();
    assert_eq!(index.len(), 40);
}

#[tokio::test]
async fn waiting_ends_with_an_event_and_with_an_error_when_the_log_closes() {
    let w = world();
    let dir = init(&w);
    let log = Arc::new(open(&dir));
    fill(&log, &w).await;
    let waits = |after| {
        let log = Arc::clone(&log);
        async move { tokio::time::timeout(Duration::from_millis(50), log.wait(after)).await }
    };
    assert!(waits(None).await.is_err(), "registrations are no events");
    let (woken, done) =
        tokio::join!(log.wait(None), log.submit(signed(&w, &deploy_intent("intent-0001", "edge"))));
    woken.unwrap();
    let position = done.unwrap().entry.position;
    assert!(waits(None).await.unwrap().is_ok(), "what is there already is not waited for");
    assert!(waits(Some(position)).await.is_err());
}

#[test]
fn one_writer() {
    let w = world();
    let dir = init(&w);
    let path = dir.path().join("ledger");
    let first = open(&dir);
    let error = Log::open(&path, || NOW).unwrap_err();
    assert!(matches!(error, LedgerError::Locked { .. }) && error.retryable(), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(first);
    drop(Log::open(&path, || NOW).unwrap());
}

#[test]
fn creating_and_opening_are_different_things() {
    let w = world();
    let dir = init(&w);
    let path = dir.path().join("ledger");
    assert_eq!([mode(&path), mode(&path.join("log.key")), mode(&path.join("tail"))], [0o700, 0o600, 0o600]);
    let error = Log::init(&path, &w.log, genesis(&w, policy()), NOW).unwrap_err();
    assert!(matches!(error, LedgerError::Exists { .. }), "{error}");
    let nowhere = dir.path().join("nowhere");
    let error = Log::open(&nowhere, || NOW).unwrap_err();
    assert!(matches!(error, LedgerError::Missing { .. }), "{error}");
    assert!(!nowhere.exists(), "opening created something");
    let other = NoteSigner::new("another.name", &[1; 32]).unwrap();
    let error = Log::init(&nowhere, &other, genesis(&w, policy()), NOW).unwrap_err();
    assert!(matches!(&error, LedgerError::Genesis { code, .. } if code == "WRONG_LEDGER"), "{error}");
    assert!(!nowhere.exists(), "a refused genesis left something");
}

#[tokio::test]
async fn ledger_time_never_goes_back() {
    let w = world();
    let dir = init(&w);
    let clock = Arc::new(AtomicU64::new(NOW.0 + 100));
    let (read, path) = (Arc::clone(&clock), dir.path().join("ledger"));
    let log = Log::open(&path, move || UnixTime(read.load(Ordering::SeqCst))).unwrap();
    let mut times = Vec::new();
    for (i, t) in [NOW.0 + 100, NOW.0 + 50, 0, NOW.0 + 101].into_iter().enumerate() {
        clock.store(t, Ordering::SeqCst);
        let request = sign(AK_PAYLOAD, &ak(&format!("site-{i}")), &w.operator);
        times.push(log.submit(request).await.unwrap().entry.time.0 - NOW.0);
    }
    assert_eq!(times, [100, 100, 100, 101]);
    drop(log);
    let log = Log::open(&path, || UnixTime(1)).unwrap();
    let request = sign(AK_PAYLOAD, &ak("site-9"), &w.operator);
    assert_eq!(log.submit(request).await.unwrap().entry.time, NOW.plus(101));
}

#[tokio::test]
async fn a_log_in_memory_and_this_one_write_the_same_bytes() {
    let w = world();
    let dir = init(&w);
    let log = open(&dir);
    let mut chain = Chain::founded(&w, policy());
    fill(&log, &w).await;
    for p in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), nsd()] {
        chain.approve(sign(PACKAGE_PAYLOAD, &p, &w.provider));
    }
    let it = signed(&w, &deploy_intent("intent-0001", "edge"));
    chain.approve(it.clone());
    log.submit(it).await.unwrap();
    assert_eq!(log.range(0, 100).await.unwrap(), chain.entries);
    assert_eq!(Digest::of(log.head().await.unwrap()), Digest::of(chain.last().proof.checkpoint));
}

/// A log can be as long as its entries: nobody but its members may add one.
#[tokio::test]
async fn a_stranger_cannot_make_the_log_grow() {
    let w = world();
    let dir = init(&w);
    let log = open(&dir);
    fill(&log, &w).await;
    let it = deploy_intent("intent-0001", "edge");
    let mut forged = signed(&w, &it);
    forged.payload = payload(&deploy_intent("intent-0002", "edge"));
    let strangers = [
        ("BAD_SIGNATURE", forged),
        ("IDENTITY_UNKNOWN_ORG", sign(INTENT_PAYLOAD, &it, &w.stranger)),
        ("IDENTITY_NOT_VALID", sign(INTENT_PAYLOAD, &it, &w.expired)),
        // Signed well, by the roots that it brings along.
        ("ALREADY_FOUNDED", genesis(&w, open_policy())),
    ];
    for (code, request) in strangers {
        for _ in 0..2 {
            let error = log.submit(request.clone()).await.unwrap_err();
            let LedgerError::Unauthenticated { verdict } = &error else { panic!("{code}: {error}") };
            assert_eq!(verdict.code(), code);
            assert!(!error.retryable() && error.to_string().contains(code), "{error}");
        }
    }
    assert_eq!((log.size(), log.state("intent/intent-0001").await.unwrap()), (4, None));
    // Among others in a batch, and afterwards: nobody else is concerned.
    let bad = sign(INTENT_PAYLOAD, &it, &w.stranger);
    let (bad, good) = tokio::join!(log.submit(bad), log.submit(signed(&w, &it)));
    assert!(bad.is_err() && good.unwrap().entry.verdict.approved);
    drop(log);
    assert_eq!(open(&dir).size(), 5);
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_is_refused_until_it_is_right() {
    let w = world();
    let dir = init(&w);
    let path = dir.path().join("ledger");
    let hand = Arc::new(AtomicU64::new(NOW.0));
    let read = Arc::clone(&hand);
    let log = Log::open(&path, move || UnixTime(read.load(Ordering::SeqCst))).unwrap();
    let year = 365 * 24 * 3600;
    hand.store(NOW.0 + year, Ordering::SeqCst);
    let request = sign(AK_PAYLOAD, &ak("site-1"), &w.operator);
    let error = log.submit(request.clone()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Clock { .. }) && error.retryable(), "{error}");
    assert_eq!(log.size(), 1);
    hand.store(NOW.0 + 60, Ordering::SeqCst);
    assert_eq!(log.submit(request).await.unwrap().entry.time, NOW.plus(60));
    drop(log);
    // Idle for a year, and then opened: that is how it is.
    let log = Log::open(&path, move || NOW.plus(year)).unwrap();
    let request = sign(AK_PAYLOAD, &ak("site-2"), &w.operator);
    assert_eq!(log.submit(request).await.unwrap().entry.time, NOW.plus(year));
}

#[test]
fn a_clock_beyond_a_year_is_confirmed_at_opening() {
    let w = world();
    let dir = init(&w);
    let path = dir.path().join("ledger");
    let late = || NOW.plus(MAX_IDLE_S + 1);
    let error = Log::open(&path, late).unwrap_err();
    assert!(matches!(error, LedgerError::ClockAtOpening { .. }) && !error.retryable(), "{error}");
    drop(Log::open_with(&path, late, OpenOptions { accept_clock: true }).unwrap());
    drop(Log::open(&path, || NOW).unwrap());
}
