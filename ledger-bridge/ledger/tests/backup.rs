//! Backups of an open log, restoring, and who notices an older copy.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod logs;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use ledger::{
    Ledger, LedgerError,
    backup::{backup, restore},
    embedded::Log,
    fsck::fsck,
};
use logs::{common::*, *};
use trust::{Digest, merkle::verify_consistency};

#[test]
fn a_backup_is_the_log_and_a_second_one_copies_what_is_new() {
    let dir = copy();
    let (path, target) = (dir.path().join("ledger"), dir.path().join("backup"));
    let log = open(&path);
    let first = backup(&path, &target, |_, _| {}).unwrap();
    assert_eq!(first.size, 300);
    assert_eq!(fsck(&target, |_, _| {}).unwrap().findings, []);
    let again = backup(&path, &target, |_, _| {}).unwrap();
    assert_eq!((again.files, again.bytes, again.size), (0, 0, 300), "nothing is new");
    assert!(first.files > 3, "{first:?}");
    block(grow(&log, &world(), 300..520));
    drop(log);
    let second = backup(&path, &target, |_, _| {}).unwrap();
    assert_eq!(second.size, 520);
    assert_eq!(fsck(&target, |_, _| {}).unwrap().findings, []);
    // Restored, it goes on where it was, with the same head.
    let restored = dir.path().join("restored");
    restore(&target, &restored, |_, _| {}).unwrap();
    let (a, b) = (open(&path), open(&restored));
    assert_eq!(block(a.head()).unwrap(), block(b.head()).unwrap());
    assert_eq!(block(a.range(0, 1000)).unwrap(), block(b.range(0, 1000)).unwrap());
    assert_eq!(block(a.state_prefix("")).unwrap(), block(b.state_prefix("")).unwrap());
    assert!(matches!(restore(&target, &restored, |_, _| {}), Err(LedgerError::Exists { .. })));
}

/// While it is written to: every backup is a whole log of the past.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_log_that_is_written_is_whole() {
    let dir = copy();
    let (path, target) = (dir.path().join("ledger"), dir.path().join("backup"));
    let log = Arc::new(open(&path));
    let writer = {
        let log = Arc::clone(&log);
        tokio::spawn(async move { grow(&log, &world(), 300..700).await })
    };
    let mut last = 0;
    while !writer.is_finished() {
        let (from, to) = (path.clone(), target.clone());
        let copied =
            tokio::task::spawn_blocking(move || backup(&from, &to, |_, _| {})).await.unwrap().unwrap();
        assert!(copied.size >= last);
        last = copied.size;
        let report = fsck(&target, |_, _| {}).unwrap();
        assert_eq!((report.findings.as_slice(), report.entries), (&[][..], copied.size));
    }
    writer.await.unwrap();
}

#[test]
fn an_older_copy_is_noticed_by_whoever_holds_a_later_checkpoint() {
    let dir = copy();
    let (path, target) = (dir.path().join("ledger"), dir.path().join("backup"));
    backup(&path, &target, |_, _| {}).unwrap();
    let log = open(&path);
    block(grow(&log, &world(), 300..310));
    let held = log.verifier().checkpoint(&block(log.head()).unwrap()).unwrap();
    drop(log);
    fs::remove_dir_all(&path).unwrap();
    restore(&target, &path, |_, _| {}).unwrap();
    let log = open(&path);
    assert!(matches!(block(log.consistency(310)), Err(LedgerError::Range { asked: 310, size: 300 })));
    // It grows again, differently: no proof leads from the held checkpoint to its head.
    block(grow(&log, &world(), 1000..1020));
    let head = log.verifier().checkpoint(&block(log.head()).unwrap()).unwrap();
    let proof = block(log.consistency(held.size)).unwrap();
    assert!(verify_consistency(held.size, head.size, held.root, head.root, &proof).is_err());
    // The old backup's owner, too: the log it backed up is not this one any more.
    drop(log);
    let later = dir.path().join("later");
    backup(&path, &later, |_, _| {}).unwrap();
    let other = logs::copy();
    let other = other.path().join("ledger");
    let log = open(&other);
    block(grow(&log, &world(), 2000..2030));
    drop(log);
    assert!(matches!(backup(&other, &later, |_, _| {}), Err(LedgerError::OtherBackup { .. })));
}

#[test]
fn a_backup_never_overwrites_what_is_none() {
    let dir = copy();
    let (path, target) = (dir.path().join("ledger"), dir.path().join("photos"));
    fs::create_dir(&target).unwrap();
    fs::write(target.join("holiday.jpg"), "x").unwrap();
    assert!(matches!(backup(&path, &target, |_, _| {}), Err(LedgerError::Exists { .. })));
    assert!(matches!(backup(&dir.path().join("none"), &target, |_, _| {}), Err(LedgerError::Missing { .. })));
    drop(Log::open(&path, || NOW).unwrap());
}

/// Somebody who may write where backups are put has prepared the place.
#[test]
fn a_backup_writes_through_nobodys_file_or_link() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let dir = copy();
    let (path, target) = (dir.path().join("ledger"), dir.path().join("backup"));
    fs::create_dir_all(target.join("tile/entries")).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, "untouched").unwrap();
    symlink(&elsewhere, target.join("log.key")).unwrap();
    let open_to_all = target.join("tail.new");
    fs::write(&open_to_all, "").unwrap();
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o666)).unwrap();
    backup(&path, &target, |_, _| {}).unwrap();
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
    for name in ["log.key", "tail"] {
        let found = fs::symlink_metadata(target.join(name)).unwrap();
        assert!(found.is_file() && found.permissions().mode() & 0o777 == 0o600, "{name}");
    }
    assert_eq!(fs::read(target.join("log.key")).unwrap(), fs::read(path.join("log.key")).unwrap());
}

/// Every file with its content's digest, every directory.
fn all(dir: &Path) -> BTreeMap<String, Option<Digest>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        if path.is_dir() {
            found.extend(all(&path));
            found.insert(name, None);
        } else {
            found.insert(name, Some(Digest::of(fs::read(&path).unwrap())));
        }
    }
    found
}

#[test]
fn a_backup_that_fails_leaves_what_was_there() {
    let dir = copy();
    let (path, target) = (dir.path().join("ledger"), dir.path().join("new/backup"));
    // A directory where a file must be made: at the tail, and after it, at the checkpoint.
    for stands in ["tail.new", "checkpoint.new"] {
        fs::create_dir_all(target.join("tile")).unwrap();
        fs::create_dir(target.join(stands)).unwrap();
        let before = all(dir.path());
        let error = backup(&path, &target, |_, _| {}).unwrap_err();
        assert!(matches!(&error, LedgerError::Storage { path, .. } if path.starts_with(&target)), "{error}");
        assert_eq!(all(dir.path()), before, "{stands}: the key, too, is gone");
        fs::remove_dir(target.join(stands)).unwrap();
    }
    fs::remove_dir_all(dir.path().join("new")).unwrap();

    // An earlier backup stays what it was, and whole.
    backup(&path, &target, |_, _| {}).unwrap();
    let log = open(&path);
    block(grow(&log, &world(), 300..520));
    for stands in ["tail.new", "checkpoint.new"] {
        fs::create_dir(target.join(stands)).unwrap();
        let before = all(&target);
        backup(&path, &target, |_, _| {}).unwrap_err();
        assert_eq!(all(&target), before, "{stands}");
        fs::remove_dir(target.join(stands)).unwrap();
        let report = fsck(&target, |_, _| {}).unwrap();
        assert_eq!((report.findings.as_slice(), report.entries), (&[][..], 300), "{stands}");
    }
    assert_eq!(backup(&path, &target, |_, _| {}).unwrap().size, 520);
    assert_eq!(fsck(&target, |_, _| {}).unwrap().findings, []);
}

#[test]
fn a_restore_that_fails_leaves_no_key() {
    let dir = copy();
    let (path, to) = (dir.path().join("ledger"), dir.path().join("occupied"));
    fs::write(&to, "a file").unwrap();
    let before = all(dir.path());
    restore(&path, &to, |_, _| {}).unwrap_err();
    assert_eq!(all(dir.path()), before);
}

#[test]
fn a_backup_is_not_put_into_its_own_ledger() {
    let dir = copy();
    let path = dir.path().join("ledger");
    let before = all(&path);
    std::os::unix::fs::symlink(&path, dir.path().join("elsewhere")).unwrap();
    for target in [path.clone(), path.join("backup"), path.join("a/b"), dir.path().join("elsewhere/backup")] {
        let error = backup(&path, &target, |_, _| {}).unwrap_err();
        assert!(matches!(error, LedgerError::Inside { .. }), "{}: {error}", target.display());
    }
    assert_eq!(all(&path), before);
}
