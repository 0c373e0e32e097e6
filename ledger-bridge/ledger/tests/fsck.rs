//! The independent check finds what is wrong, says where, and finds nothing in a whole log.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod logs;

use std::{fs, path::Path};

use ledger::{
    LedgerError,
    fsck::{Report, fsck},
};
use logs::*;

fn check(path: &Path) -> Report {
    fsck(path, |_, _| {}).unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_whole_log_has_no_finding() {
    let dir = copy();
    let path = dir.path().join("ledger");
    let mut seen = Vec::new();
    let report = fsck(&path, |at, of| seen.push((at, of))).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.entries, report.published, report.decided), (300, 300, 300));
    assert_eq!(report.derived, Some(300));
    assert_eq!(seen, [(256, 300), (300, 300)]);
    // Without derived state, and with one that is behind.
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = fs::remove_file(path.join(file));
    }
    let report = check(&path);
    assert!(report.findings.is_empty() && report.derived.is_none());
}

/// A ledger that was just founded, and one whose partial tiles a crash has lost, once it was opened.
#[test]
fn a_new_log_and_one_after_a_crash_have_no_finding() {
    use logs::common::{genesis, policy, world};
    let (w, dir) = (world(), tempfile::tempdir().unwrap());
    let path = dir.path().join("ledger");
    ledger::embedded::Log::init(&path, &w.log, genesis(&w, policy()), logs::common::NOW).unwrap();
    assert_eq!(check(&path).findings, []);
    fs::remove_dir_all(path.join("tile")).unwrap();
    assert_eq!(check(&path).findings[0].code, "TILE_MISSING");
    drop(open(&path));
    assert_eq!(check(&path).findings, []);
}

#[test]
fn every_kind_of_damage_is_found_and_named() {
    type Damage = fn(&Path);
    let cases: [(&str, &str, &str, Damage); 12] = [
        ("ENTRY_ALTERED", "tile/entries/000", "entry ", |p| flip(&p.join("tile/entries/000"), 300_000)),
        ("BUNDLE_MISSING", "tile/entries/000", "", |p| fs::remove_file(p.join("tile/entries/000")).unwrap()),
        ("TILE", "tile/0/000", "", |p| flip(&p.join("tile/0/000"), 40)),
        ("TILE", "tile/0/001.p/44", "", |p| flip(&p.join("tile/0/001.p/44"), 40)),
        ("TILE_MISSING", "tile/1/000.p/1", "", |p| fs::remove_file(p.join("tile/1/000.p/1")).unwrap()),
        ("ENTRY_ALTERED", "tile/entries/000", "entry 1", |p| flip(&p.join("large/001"), 5000)),
        ("CHECKPOINT", "checkpoint", "", |p| flip(&p.join("checkpoint"), 30)),
        ("CHECKPOINT_MISSING", "checkpoint", "", |p| fs::remove_file(p.join("checkpoint")).unwrap()),
        ("TAIL_END", "tail", "end", |p| {
            let bytes = fs::read(p.join("tail")).unwrap();
            fs::write(p.join("tail"), [&bytes[..], b"torn"].concat()).unwrap();
        }),
        ("TAIL", "tail", "", |p| flip(&p.join("tail"), 100)),
        ("STATE", "state.db", "", |p| {
            let state = rusqlite::Connection::open(p.join("state.db")).unwrap();
            state
                .execute(
                    "DELETE FROM row WHERE kind=1 AND value IN (SELECT value FROM row WHERE kind=1 LIMIT 1)",
                    [],
                )
                .unwrap();
        }),
        ("KEY", "log.key", "", |p| fs::write(p.join("log.key"), "nonsense").unwrap()),
    ];
    for (code, file, place, damage) in cases {
        let dir = copy();
        let path = dir.path().join("ledger");
        damage(&path);
        let report = check(&path);
        let hit = report.findings.iter().any(|f| {
            f.code == code && f.file == Path::new(file) && f.place.contains(place) && !f.action.is_empty()
        });
        assert!(hit, "{code} in {file}: {:#?}", report.findings);
    }
}

#[test]
fn a_log_that_somebody_writes_is_not_checked() {
    let dir = copy();
    let path = dir.path().join("ledger");
    let log = open(&path);
    assert!(matches!(fsck(&path, |_, _| {}), Err(LedgerError::Locked { .. })));
    drop(log);
    assert!(matches!(fsck(dir.path(), |_, _| {}), Err(LedgerError::Missing { .. })));
}

/// Whoever holds the log's key has the rules of a former version decide, which know no maintenance windows.
#[test]
fn rules_of_the_past_decide_nothing_anew() {
    use ledger_contract::{
        TxInfo,
        contract::decide,
        policy::Window,
        records::{Entry, PACKAGE_PAYLOAD},
    };
    use logs::common::*;
    let w = world();
    let mut data = policy().data().unwrap();
    data.windows = vec![Window {
        tenants: [].into(),
        actions: ["deploy".to_owned()].into(),
        days: [].into(),
        from_hour: 22,
        to_hour: 24,
    }];
    let mut chain = Chain::founded(&w, policy().with_data(&data));
    for package in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), nsd()] {
        chain.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
    }
    let request = signed(&w, &deploy_intent("intent-0001", "edge"));
    assert_eq!(chain.decide(&request).verdict.code(), "OUTSIDE_WINDOW");
    let tx = TxInfo { v: 1, ..chain.tx() };
    let outcome = decide(&request, &chain.snapshot(&request), &tx);
    assert!(outcome.verdict.approved);
    let TxInfo { v, ledger, position, time } = tx;
    let (verdict, event, writes) = (outcome.verdict.clone(), outcome.event.clone(), outcome.writes_digest());
    let entry = Entry { v, ledger, position, time, request, verdict, event, writes };
    chain.push(String::from_utf8(entry.to_bytes()).unwrap());
    // In the format of one file, which is converted when it is opened.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    fs::create_dir(&path).unwrap();
    let lines: String = chain.entries.iter().map(|e| format!("{e}\n")).collect();
    fs::write(path.join("entries.jsonl"), lines).unwrap();
    fs::write(path.join("checkpoint"), chain.last().proof.checkpoint).unwrap();
    let seed: String = w.log.seed().iter().map(|b| format!("{b:02x}")).collect();
    fs::write(path.join("log.key"), format!("{LEDGER}\n{seed}\n")).unwrap();
    let opened = ledger::embedded::Log::open(&path, || NOW);
    assert!(opened.is_err_and(|e| e.to_string().contains("version 1 of the rules")));
    let report = check(&path);
    let found = &report.findings[0];
    assert_eq!((found.code, found.place.as_str()), ("ENTRY_VERSION", "entry 4"));
}
