//! What opening and reading make of every way in which the files can have been left or altered.
//!
//! Crashes at every operation of the disk are enumerated beside the code (`src/embedded/tests.rs`).
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;
#[path = "logs/kept.rs"]
mod kept;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use common::*;
use kept::Kept;
use ledger::{Ledger, LedgerError, embedded::Log};
use ledger_contract::records::{AK_PAYLOAD, Entry, Event};
use proptest::prelude::*;
use tempfile::TempDir;
use trust::{
    merkle::{leaf_hash, verify_inclusion},
    note::NoteSigner,
};

fn block<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(f)
}

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
    let mut before = String::new();
    for i in 1..n {
        before = fs::read_to_string(path.join("checkpoint")).unwrap();
        let log = Log::open(&path, || NOW).unwrap();
        block(log.submit(sign(AK_PAYLOAD, &ak(&format!("site-{i}")), &w.operator))).unwrap();
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
    fn open(&self) -> Result<Log, LedgerError> {
        Log::open(&self.path(), || NOW)
    }
}

fn corrupt(left: &Left) -> String {
    let before = tree(&left.path());
    let error = left.open().unwrap_err();
    assert!(matches!(error, LedgerError::Corrupt { .. }), "{error}");
    assert!(!error.retryable());
    assert_eq!(tree(&left.path()), before, "a refused log was changed");
    error.to_string()
}

/// Every file but the locks and the derived state.
fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                dirs.push(path);
            } else if !name.contains("lock") && !name.starts_with("state.db") {
                all.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

/// Bytes of the tail before its last frame.
fn last_frame(tail: &[u8]) -> usize {
    let (mut at, mut last) = (0, 0);
    while at < tail.len() {
        last = at;
        at += 36 + u32::from_be_bytes(tail[at..at + 4].try_into().unwrap()) as usize;
    }
    last
}

/// A crash before the sync: the last commit is there in part, and no published checkpoint covers it.
#[test]
fn every_torn_tail_is_cut_off_and_the_log_goes_on() {
    let w = world();
    let left = left(4);
    let whole = fs::read(left.file("tail")).unwrap();
    let start = last_frame(&whole);
    for end in (start..whole.len()).step_by(41).chain([whole.len() - 1]) {
        fs::write(left.file("checkpoint"), &left.before).unwrap();
        fs::write(left.file("tail"), &whole[..end]).unwrap();
        let log = left.open().unwrap();
        assert_eq!((log.size(), fs::read(left.file("tail")).unwrap().len()), (3, start), "torn at {end}");
        assert!(block(log.state("ak/site-3")).unwrap().is_none(), "the state was ahead of the log");
    }
    // The same request again gives the same entry as if nothing had happened.
    let log = left.open().unwrap();
    block(log.submit(sign(AK_PAYLOAD, &ak("site-3"), &w.operator))).unwrap();
    assert_eq!(fs::read(left.file("tail")).unwrap(), whole);
}

/// A published checkpoint beyond the tail cannot come from a crash.
#[test]
fn every_cut_below_the_published_checkpoint_is_refused() {
    let left = left(4);
    let whole = fs::read(left.file("tail")).unwrap();
    for end in (0..whole.len()).step_by(97).chain([last_frame(&whole)]) {
        fs::write(left.file("tail"), &whole[..end]).unwrap();
        let said = corrupt(&left);
        assert!(said.contains("tail"), "{said}");
        if end == last_frame(&whole) {
            assert!(
                said.contains("the published checkpoint covers 4 entries, but it ends after 3"),
                "{said}"
            );
        }
    }
    fs::remove_file(left.file("tail")).unwrap();
    assert!(corrupt(&left).contains("it is missing"));
}

/// Whoever has the log's key can sign any tree, but not make the contract decide otherwise.
#[test]
fn an_entry_that_the_contract_did_not_decide_is_refused() {
    let w = world();
    let changes: [fn(&mut Entry); 4] = [
        |e| e.writes = trust::Digest::of("other writes"),
        |e| e.verdict.approved = false,
        |e| e.event = Some(Event::EvidenceAnchored { operation_id: "op".into(), bundle: e.writes }),
        |e| e.time.0 -= 1,
    ];
    for change in changes {
        let source = left(3);
        let lines = block(source.open().unwrap().range(0, 10)).unwrap();
        // As a log of one file, which anybody can write.
        let dir = TempDir::new().unwrap();
        let mut tree = trust::merkle::Tree::default();
        let mut out = Vec::new();
        for (i, line) in lines.iter().enumerate() {
            let mut entry: Entry = serde_json::from_str(line).unwrap();
            if i == 2 {
                change(&mut entry);
            }
            tree.push(leaf_hash(&entry.to_bytes()));
            out.extend([entry.to_bytes(), b"\n".to_vec()].concat());
        }
        fs::write(dir.path().join("entries.jsonl"), out).unwrap();
        fs::write(dir.path().join("checkpoint"), w.log.sign_checkpoint(3, tree.root()).unwrap()).unwrap();
        fs::copy(source.file("log.key"), dir.path().join("log.key")).unwrap();
        let error = Log::open(dir.path(), || NOW).unwrap_err().to_string();
        assert!(error.contains("entry 2"), "{error}");
    }
}

#[test]
fn what_is_half_written_beside_the_files_is_no_matter() {
    let left = left(3);
    for name in ["checkpoint.new", "tail.new"] {
        fs::write(left.file(name), "ledger.exa").unwrap();
    }
    assert_eq!(left.open().unwrap().size(), 3);
}

#[test]
fn another_key_is_refused() {
    let left = left(2);
    let other = NoteSigner::new(LEDGER, &[1; 32]).unwrap();
    let key = format!("{LEDGER}\n{}\n", trust::Digest(other.seed()).hex());
    fs::write(left.file("log.key"), key).unwrap();
    assert!(corrupt(&left).contains("log.key"));
    fs::write(left.file("log.key"), "nonsense").unwrap();
    assert!(corrupt(&left).contains("log.key"));
}

/// Another log's files under the same key: each is refused or made again.
#[test]
fn files_of_another_log_are_noticed() {
    let w = world();
    let (here, there) = (left(4), left(1));
    let log = there.open().unwrap();
    for i in 1..4 {
        block(log.submit(sign(AK_PAYLOAD, &ak(&format!("other-{i}")), &w.operator))).unwrap();
    }
    drop(log);
    let own = fs::read(here.file("checkpoint")).unwrap();
    fs::copy(there.file("checkpoint"), here.file("checkpoint")).unwrap();
    let error = here.open().unwrap_err().to_string();
    assert!(error.contains("root is not that of the first 4 entries"), "{error}");
    fs::write(here.file("checkpoint"), own).unwrap();
    fs::copy(there.file("state.db"), here.file("state.db")).unwrap();
    let log = here.open().unwrap();
    assert!(block(log.state("ak/other-1")).unwrap().is_none(), "another tree's state was used");
    assert!(block(log.state("ak/site-1")).unwrap().is_some());
}

/// The storage fails while the log is open: it closes and says so, and what was confirmed is there afterwards.
#[test]
fn a_failing_commit_closes_the_log() {
    let w = world();
    let left = left(2);
    let log = left.open().unwrap();
    // The next commit cannot be written: a directory is in the tail's place.
    fs::rename(left.file("tail"), left.file("kept")).unwrap();
    fs::create_dir(left.file("tail")).unwrap();
    let it = sign(AK_PAYLOAD, &ak("site-2"), &w.operator);
    let error = block(log.submit(it.clone())).unwrap_err();
    assert!(matches!(&error, LedgerError::Closed { reason } if reason.contains("tail")), "{error}");
    assert!(error.retryable());
    assert!(matches!(block(log.wait(None)), Err(LedgerError::Closed { .. })), "never silently");
    assert!(matches!(block(log.submit(it.clone())), Err(LedgerError::Closed { .. })));
    assert_eq!(log.size(), 2, "readers see only what is committed");
    drop(log);
    fs::remove_dir(left.file("tail")).unwrap();
    fs::rename(left.file("kept"), left.file("tail")).unwrap();
    let log = left.open().unwrap();
    assert_eq!(log.size(), 2);
    assert!(block(log.submit(it)).unwrap().entry.verdict.approved);
}

/// The derived state fails while the log is open: the log closes, and what was confirmed is there afterwards.
#[test]
fn a_failing_state_closes_the_log() {
    let w = world();
    let left = left(2);
    let log = left.open().unwrap();
    let state = rusqlite::Connection::open(left.file("state.db")).unwrap();
    state.execute_batch("DROP TABLE row").unwrap();
    let mut confirmed = 2;
    let error = loop {
        let request = sign(AK_PAYLOAD, &ak(&format!("site-{confirmed}")), &w.operator);
        match block(log.submit(request)) {
            Ok(_) => confirmed += 1,
            Err(e) => break e,
        }
        assert!(confirmed < 100_000, "it goes on without its state");
    };
    assert!(matches!(&error, LedgerError::Closed { reason } if reason.contains("derived state")), "{error}");
    assert!(matches!(block(log.wait(None)), Err(LedgerError::Closed { .. })), "never silently");
    drop((log, state));
    let log = left.open().unwrap();
    assert_eq!(log.size(), confirmed);
    assert!(block(log.state("ak/site-1")).unwrap().is_some());
}

/// A log of 300 entries: a full tile of hashes, a full bundle, partial ones, and an entry that no bundle can hold.
fn long() -> &'static (Kept, Vec<String>) {
    static LONG: OnceLock<(Kept, Vec<String>)> = OnceLock::new();
    LONG.get_or_init(|| {
        let w = world();
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("ledger");
        Log::init(&path, &w.log, genesis(&w, policy()), NOW).unwrap();
        let log = Log::open(&path, || NOW).unwrap();
        let mut big = vnf(&w, "big_vnf");
        big.images = vec![image(&w); 40];
        let entries = block(async {
            let done =
                log.submit(sign(ledger_contract::records::PACKAGE_PAYLOAD, &big, &w.provider)).await.unwrap();
            assert!(done.proven.entry.len() > 65_535, "{} bytes are no large entry", done.proven.entry.len());
            for i in 2..300 {
                // Refused requests are entries too, and cheap.
                log.submit(sign(AK_PAYLOAD, &ak(&format!("site-{i}")), &w.acme)).await.unwrap();
            }
            log.range(0, 1000).await.unwrap()
        });
        drop(log);
        (Kept::of(dir.path()), entries)
    })
}

/// Opens, reads every entry and verifies its proof; the error that says what is wrong.
fn read_all(path: &Path) -> Result<Vec<String>, LedgerError> {
    let log = Log::open(path, || NOW)?;
    let entries = block(log.range(0, 1000))?;
    for (position, text) in (0..).zip(&entries) {
        let p = block(log.entry(position))?.unwrap();
        let c = log.verifier().checkpoint(&p.proof.checkpoint).unwrap();
        verify_inclusion(leaf_hash(text.as_bytes()), position, c.size, &p.proof.path, c.root).unwrap();
    }
    Ok(entries)
}

#[test]
fn an_entry_that_no_bundle_can_hold_is_read_and_proven() {
    let (kept, entries) = long();
    let copied = TempDir::new().unwrap();
    kept.write(copied.path());
    let path = copied.path().join("ledger");
    assert_eq!(&read_all(&path).unwrap(), entries);
    assert!(path.join("large/001").exists());
    // The derived state is disposable.
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = fs::remove_file(path.join(file));
    }
    assert_eq!(&read_all(&path).unwrap(), entries);
    let log = Log::open(&path, || NOW).unwrap();
    assert!(block(log.state_prefix("package/")).unwrap().len() == 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A flipped bit in any file is an error that names the file, or changes nothing that anybody reads.
    #[test]
    fn flipped_bits_are_found(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (kept, entries) = long();
        let copied = TempDir::new().unwrap();
        kept.write(copied.path());
        let path = copied.path().join("ledger");
        let mut files: Vec<_> = tree(&path).into_iter().map(|(p, _)| p).collect();
        files.extend([path.join("state.db"), path.join("state.db"), path.join("tail"), path.join("checkpoint")]);
        let file = &files[which.index(files.len())];
        let mut bytes = fs::read(file).unwrap();
        let i = at.index(bytes.len());
        bytes[i] ^= 1 << bit;
        fs::write(file, bytes).unwrap();
        match read_all(&path) {
            Ok(read) => prop_assert_eq!(&read, entries, "bit {} of byte {} of {}", bit, i, file.display()),
            Err(error @ LedgerError::Corrupt { .. }) => {
                let said = error.to_string();
                prop_assert!(said.contains(&file.display().to_string()) || file.ends_with("log.key"), "{}: {}", file.display(), said);
            }
            Err(other) => prop_assert!(file.ends_with("log.key"), "{}: {}", file.display(), other),
        }
        if file.ends_with("state.db") {
            let log = Log::open(&path, || NOW).unwrap();
            prop_assert_eq!(block(log.state_prefix("package/")).unwrap().len(), 1);
        }
    }
}
