//! What opening makes of every way in which the files can have been left.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::*;
use ledger::{Ledger, LedgerError, embedded::Log};
use ledger_contract::records::{AK_PAYLOAD, Entry, Event};
use proptest::prelude::*;
use tempfile::TempDir;
use trust::note::NoteSigner;

/// A log of `n` entries; its files, and the checkpoint as it was one entry before.
struct Left {
    dir: TempDir,
    before: String,
}

fn left(n: u64) -> Left {
    let w = world();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ledger");
    Log::init(&path, &w.log, genesis(&w, open_policy()), NOW).unwrap();
    let mut before = fs::read_to_string(path.join("checkpoint")).unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let log = Log::open(&path, || NOW).unwrap();
    for i in 1..n {
        before = fs::read_to_string(path.join("checkpoint")).unwrap();
        rt.block_on(log.submit(sign(AK_PAYLOAD, &ak(&format!("site-{i}")), &w.operator))).unwrap();
    }
    Left { dir, before }
}

impl Left {
    fn path(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }
    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
    fn entries(&self) -> Vec<u8> {
        fs::read(self.file("entries.jsonl")).unwrap()
    }
    fn open(&self) -> Result<Log, LedgerError> {
        Log::open(&self.path(), || NOW)
    }
}

fn last_entry(bytes: &[u8]) -> usize {
    bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1
}

fn corrupt(left: &Left) -> String {
    let before = tree(&left.path());
    let error = left.open().unwrap_err();
    assert!(matches!(error, LedgerError::Corrupt { .. }), "{error}");
    assert!(!error.retryable());
    assert_eq!(tree(&left.path()), before, "a refused log was changed");
    error.to_string()
}

fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.clone(), fs::read(p).unwrap()))
        .collect();
    all.sort();
    all
}

/// A crash before the rename: the last entry is there in part or whole, and no checkpoint covers it.
#[test]
fn every_torn_tail_is_cut_off_and_the_log_goes_on() {
    let w = world();
    let left = left(4);
    let whole = left.entries();
    let start = last_entry(&whole);
    fs::write(left.file("checkpoint"), &left.before).unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for end in start..=whole.len() {
        fs::write(left.file("entries.jsonl"), &whole[..end]).unwrap();
        let log = left.open().unwrap();
        assert_eq!((log.size(), left.entries().len()), (3, start), "torn at {end}");
        assert!(rt.block_on(log.state("ak/site-3")).unwrap().is_none());
    }
    // The same request again gives the same entry as if nothing had happened.
    let log = left.open().unwrap();
    rt.block_on(log.submit(sign(AK_PAYLOAD, &ak("site-3"), &w.operator))).unwrap();
    assert_eq!(left.entries(), whole);
}

/// A checkpoint beyond the entries cannot come from a crash.
#[test]
fn every_cut_below_the_checkpoint_is_refused() {
    let left = left(4);
    let whole = left.entries();
    for end in last_entry(&whole)..whole.len() {
        fs::write(left.file("entries.jsonl"), &whole[..end]).unwrap();
        let said = corrupt(&left);
        assert!(said.contains("entry 3") && said.contains("the checkpoint covers 4 entries"), "{said}");
    }
    fs::write(left.file("entries.jsonl"), b"").unwrap();
    assert!(corrupt(&left).contains("entry 0"));
}

/// Whoever has the log's key can sign any tree, but not make the contract decide otherwise.
#[test]
fn an_entry_that_the_contract_did_not_decide_is_refused() {
    let w = world();
    let changes: [fn(&mut Entry); 3] = [
        |e| e.writes = trust::Digest::of("other writes"),
        |e| e.verdict.approved = false,
        |e| e.event = Some(Event::EvidenceAnchored { operation_id: "op".into(), bundle: e.writes }),
    ];
    for change in changes {
        let left = left(3);
        let mut tree = trust::merkle::Tree::default();
        let mut out = Vec::new();
        for (i, line) in left.entries().strip_suffix(b"\n").unwrap().split(|b| *b == b'\n').enumerate() {
            let mut entry: Entry = serde_json::from_slice(line).unwrap();
            if i == 2 {
                change(&mut entry);
            }
            tree.push(trust::merkle::leaf_hash(&entry.to_bytes()));
            out.extend([entry.to_bytes(), b"\n".to_vec()].concat());
        }
        fs::write(left.file("entries.jsonl"), out).unwrap();
        fs::write(left.file("checkpoint"), w.log.sign_checkpoint(3, tree.root()).unwrap()).unwrap();
        let said = corrupt(&left);
        assert!(said.contains("entry 2") && said.contains("deciding it again"), "{said}");
    }
}

#[test]
fn a_checkpoint_half_written_beside_the_old_one_is_no_matter() {
    let left = left(3);
    fs::write(left.file("checkpoint.new"), "ledger.exa").unwrap();
    assert_eq!(left.open().unwrap().size(), 3);
}

#[test]
fn another_key_is_refused() {
    let left = left(2);
    let other = NoteSigner::new(LEDGER, &[1; 32]).unwrap();
    let key = format!("{LEDGER}\n{}\n", trust::Digest(other.seed()).hex());
    fs::write(left.file("log.key"), key).unwrap();
    assert!(corrupt(&left).contains("checkpoint"));
    fs::write(left.file("log.key"), "nonsense").unwrap();
    assert!(corrupt(&left).contains("log.key"));
}

/// An older checkpoint put back over a longer log would cut off what was confirmed: within one batch that cannot be
/// told from a crash, beyond it is refused.
#[test]
fn a_checkpoint_that_is_too_old_is_refused() {
    let w = world();
    let left = left(2);
    let old = left.before.clone();
    let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let log = left.open().unwrap();
    rt.block_on(async {
        for i in 0..ledger::embedded::MAX_BATCH {
            // Refused requests are entries too, and cheap.
            let it = sign(AK_PAYLOAD, &ak(&format!("site-{i}")), &w.acme);
            assert!(!log.submit(it).await.unwrap().entry.verdict.approved);
        }
    });
    drop(log);
    fs::write(left.file("checkpoint"), old).unwrap();
    assert!(corrupt(&left).contains("replaced by an older one"));
}

/// The storage fails while the log is open: it closes and says so, and what was confirmed is there afterwards.
#[test]
fn a_failing_commit_closes_the_log() {
    let w = world();
    let left = left(2);
    let rt = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let log = left.open().unwrap();
    // The next checkpoint cannot be written: a directory is in its place.
    fs::remove_file(left.file("checkpoint.new")).ok();
    fs::create_dir(left.file("checkpoint.new")).unwrap();
    let it = sign(AK_PAYLOAD, &ak("site-2"), &w.operator);
    let error = rt.block_on(log.submit(it.clone())).unwrap_err();
    assert!(matches!(&error, LedgerError::Closed { reason } if reason.contains("checkpoint.new")), "{error}");
    assert!(error.retryable());
    assert!(matches!(rt.block_on(log.wait(None)), Err(LedgerError::Closed { .. })), "never silently");
    assert!(matches!(rt.block_on(log.submit(it.clone())), Err(LedgerError::Closed { .. })));
    assert_eq!(log.size(), 2, "readers see only what is committed");
    drop(log);
    fs::remove_dir(left.file("checkpoint.new")).unwrap();
    let log = left.open().unwrap();
    assert_eq!(log.size(), 2);
    assert!(rt.block_on(log.submit(it)).unwrap().entry.verdict.approved);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Any flipped bit of what is committed is found at opening.
    #[test]
    fn flipped_bits_are_found(at in any::<prop::sample::Index>(), bit in 0u8..8, in_checkpoint in any::<bool>()) {
        let left = left(3);
        let file = left.file(if in_checkpoint { "checkpoint" } else { "entries.jsonl" });
        let mut bytes = fs::read(&file).unwrap();
        let i = at.index(bytes.len());
        bytes[i] ^= 1 << bit;
        fs::write(&file, bytes).unwrap();
        prop_assert!(left.open().is_err(), "bit {bit} of byte {i}");
    }
}
