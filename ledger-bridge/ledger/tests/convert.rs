//! A log of the format before tiles (one file, `tests/data/v1-ledger`, written by that version) is converted once.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::*;
use ledger::{Ledger, LedgerError, embedded::Log};
use ledger_contract::records::AK_PAYLOAD;
use tempfile::TempDir;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/v1-ledger");

fn old() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ledger");
    fs::create_dir(&path).unwrap();
    for file in ["checkpoint", "entries.jsonl", "log.key"] {
        fs::copy(Path::new(FIXTURE).join(file), path.join(file)).unwrap();
    }
    (dir, path)
}

#[tokio::test]
async fn converted_once_with_the_same_head_and_the_old_file_kept() {
    let w = world();
    let (_dir, path) = old();
    let (head, entries) =
        (fs::read(path.join("checkpoint")).unwrap(), fs::read_to_string(path.join("entries.jsonl")).unwrap());
    let log = Log::open(&path, || NOW.plus(10)).unwrap();
    assert_eq!(log.head().await.unwrap().as_bytes(), head, "signature and all");
    assert_eq!(log.range(0, 100).await.unwrap(), entries.lines().collect::<Vec<_>>());
    assert_eq!(fs::read_to_string(path.join("entries.jsonl.v1")).unwrap(), entries);
    assert!(!path.join("entries.jsonl").exists());
    let again = log.submit(signed(&w, &deploy_intent("intent-0001", "edge"))).await.unwrap();
    assert_eq!(again.entry.position, 5, "decided before the conversion");
    assert!(log.state("service/acme/edge").await.unwrap().is_some());
    let new = log.submit(sign(AK_PAYLOAD, &ak("edge-2"), &w.operator)).await.unwrap();
    assert_eq!(new.entry.position, 10);
    drop(log);
    assert_eq!(Log::open(&path, || NOW.plus(10)).unwrap().size(), 11);
    assert_eq!(ledger::fsck::fsck(&path, |_, _| {}).unwrap().findings, []);
}

/// Stopped at any point: what is there is either the old log or the new one.
#[test]
fn an_interrupted_conversion_begins_anew() {
    let (_dir, path) = old();
    fs::create_dir_all(path.join("tile/0/000.p")).unwrap();
    fs::write(path.join("tile/0/000.p/3"), "torn").unwrap();
    fs::write(path.join("tail.new"), "torn").unwrap();
    assert_eq!(Log::open(&path, || NOW.plus(10)).unwrap().size(), 10);
    // After the tail, before the old file got its other name.
    fs::rename(path.join("entries.jsonl.v1"), path.join("entries.jsonl")).unwrap();
    assert_eq!(Log::open(&path, || NOW.plus(10)).unwrap().size(), 10);
    assert!(path.join("entries.jsonl.v1").exists());
}

#[test]
fn a_damaged_old_log_is_refused_and_left_alone() {
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage); 3] = [
        ("root", |entries| entries[20_000] ^= 1),
        ("entry 9", |entries| {
            entries.truncate(entries.len() - 5);
        }),
        ("older one", |entries| entries.extend(b"{}\n".repeat(300))),
    ];
    for (said, damage) in cases {
        let (_dir, path) = old();
        let mut entries = fs::read(path.join("entries.jsonl")).unwrap();
        damage(&mut entries);
        fs::write(path.join("entries.jsonl"), &entries).unwrap();
        let error = Log::open(&path, || NOW.plus(10)).unwrap_err();
        assert!(matches!(&error, LedgerError::Corrupt { .. }) && error.to_string().contains(said), "{error}");
        assert_eq!(fs::read(path.join("entries.jsonl")).unwrap(), entries);
        assert!(!path.join("tail").exists());
    }
}
