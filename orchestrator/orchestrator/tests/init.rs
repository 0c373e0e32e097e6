//! `mandate init`: complete or absent, once, and nobody else's to read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use orchestrator::{
    config::{Config, HostSite, SiteConfig},
    home::Home,
    init::{self, InitError, Plan},
};
use trust::{Envelope, Signer, TrustRoots, UnixTime};

const NOW: UnixTime = UnixTime(1_800_000_000);

fn plan() -> Plan {
    let host = HostSite { vcpus: 4, memory_mib: 1024, instances: 4, first_uid: 0, launcher: None, tpm: None };
    Plan {
        ledger: "operator/mandate-test".into(),
        operator: "operator".into(),
        provider: "provider".into(),
        tenants: vec!["acme".into(), "globex".into()],
        auditor: "auditor".into(),
        sites: vec![SiteConfig {
            name: "edge-a".into(),
            jurisdiction: "DE".into(),
            latency_us: 1,
            cost: 1,
            concurrent_operations: 2,
            drained: false,
            tee: None,
            host: Some(host),
            openstack: None,
        }],
        now: NOW,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn walk(path: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        out.push(path.clone());
        if path.is_dir() {
            walk(&path, out);
        }
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_home_is_whole_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path().join("home"));
    let made = init::init(&home, &plan()).unwrap();
    assert_eq!(names(dir.path()), BTreeSet::from(["home".to_owned()]), "no staging directory stays");

    let mut all = Vec::new();
    walk(home.path(), &mut all);
    assert_eq!(mode(home.path()), 0o700);
    for path in &all {
        let expected = match path {
            p if p.is_dir() => 0o700,
            p if p.extension().is_some_and(|e| e == "crt") => 0o644,
            // The ledger writes its own files; the directory keeps others out.
            p if p.starts_with(home.ledger()) => continue,
            _ => 0o600,
        };
        assert_eq!(mode(path), expected, "{}", path.display());
    }
    assert_eq!(mode(&home.ledger()), 0o700);

    let roots: TrustRoots = serde_json::from_slice(&fs::read(home.trust()).unwrap()).unwrap();
    assert_eq!(roots.logs, std::slice::from_ref(&made.log_key));
    let config = Config::parse(&fs::read_to_string(home.config()).unwrap(), "config.toml").unwrap();
    assert_eq!(config.accepted_policies, [made.policy]);
    assert_eq!(made.identities.len(), 7);
    for (who, role) in &made.identities {
        let (org, name) = who.split_once('/').unwrap();
        let (key, certificate) = home.identity(org, name);
        let signer =
            Signer::from_pem(&fs::read_to_string(key).unwrap(), &fs::read_to_string(certificate).unwrap())
                .unwrap();
        let envelope = Envelope::sign("text/plain", b"x".to_vec(), &[&signer]).unwrap();
        let signers = envelope.verify(&roots, NOW).unwrap().signers;
        assert_eq!(signers[0].role(), role);
        assert_eq!(signers[0].tenant(), if role == "tenant" { org } else { "" });
    }
}

#[test]
fn the_ledger_and_the_journal_open() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path().join("home"));
    let made = init::init(&home, &plan()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use ledger::Ledger as _;
        let log = ledger::embedded::Log::open(&home.ledger(), || NOW).unwrap();
        assert_eq!(log.name(), made.ledger);
        assert_eq!(log.verifier().to_string(), made.log_key);
        assert_eq!(log.range(0, 10).await.unwrap().len(), 1, "the genesis and nothing else");
    });
    orchestrator::journal::Journal::open(&home.journal()).unwrap();
}

#[test]
fn a_second_init_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path().join("home"));
    init::init(&home, &plan()).unwrap();
    let before = fs::read(home.trust()).unwrap();
    let again = init::init(&home, &plan());
    assert!(matches!(again, Err(InitError::Exists(_))), "{again:?}");
    assert_eq!(fs::read(home.trust()).unwrap(), before);
    assert_eq!(names(dir.path()), BTreeSet::from(["home".to_owned()]));
}

#[test]
fn anything_that_is_there_already_is_refused_and_an_empty_directory_is_not() {
    let dir = tempfile::tempdir().unwrap();
    for (name, make) in [
        ("file", (|p: &Path| fs::write(p, b"").unwrap()) as fn(&Path)),
        ("full", |p| {
            fs::create_dir(p).unwrap();
            fs::write(p.join("mine"), b"").unwrap();
        }),
        ("link", |p| std::os::unix::fs::symlink("/nowhere", p).unwrap()),
    ] {
        let path = dir.path().join(name);
        make(&path);
        let refused = init::init(&Home::new(&path), &plan());
        assert!(matches!(refused, Err(InitError::Exists(_))), "{name}: {refused:?}");
    }
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    init::init(&Home::new(&empty), &plan()).unwrap();
    assert_eq!(mode(&empty), 0o700);
}

#[test]
fn what_an_interrupted_run_left_is_removed_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join(".home.init");
    fs::create_dir_all(left.join("pki/operator")).unwrap();
    fs::write(left.join("pki/operator/ca.key"), b"half a key").unwrap();
    let home = Home::new(dir.path().join("home"));
    init::init(&home, &plan()).unwrap();
    assert_ne!(fs::read(home.identity("operator", "ca").0).unwrap(), b"half a key");
    assert_eq!(names(dir.path()), BTreeSet::from(["home".to_owned()]));
}

#[test]
fn a_failed_run_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path().join("home"));
    // Fails late: keys and ledger are made before the configuration is refused.
    let mut bad = plan();
    bad.sites[0].jurisdiction = "nowhere".into();
    assert!(init::init(&home, &bad).is_err());
    assert_eq!(names(dir.path()), BTreeSet::new());
    init::init(&home, &plan()).unwrap();
}

#[test]
fn two_at_once_do_not_build_the_same_home() {
    let dir = tempfile::tempdir().unwrap();
    let staging = dir.path().join(".home.init");
    fs::DirBuilder::new().mode(0o700).create(&staging).unwrap();
    fs::write(staging.join("theirs"), b"").unwrap();
    let lock = Flock::lock(fs::File::open(&staging).unwrap(), FlockArg::LockShared).unwrap(); // an exclusive one must be asked for
    let home = Home::new(dir.path().join("home"));
    let busy = init::init(&home, &plan());
    assert!(matches!(busy, Err(InitError::Busy(_))), "{busy:?}");
    assert!(staging.join("theirs").exists(), "the other one's work is untouched");
    drop(lock);
    init::init(&home, &plan()).unwrap();
}

#[test]
fn a_staging_directory_that_is_a_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("precious"), b"").unwrap();
    std::os::unix::fs::symlink(&elsewhere, dir.path().join(".home.init")).unwrap();
    let refused = init::init(&Home::new(dir.path().join("home")), &plan());
    assert!(matches!(refused, Err(InitError::Foreign(_))), "{refused:?}");
    assert!(elsewhere.join("precious").exists());
}

#[test]
fn names_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path().join("home"));
    for tenant in ["", "..", "a/b", "Acme", "operator", "x".repeat(33).as_str()] {
        let mut bad = plan();
        bad.tenants = vec![tenant.to_owned()];
        let refused = init::init(&home, &bad);
        assert!(matches!(refused, Err(InitError::Name { .. })), "{tenant}: {refused:?}");
    }
    assert_eq!(names(dir.path()), BTreeSet::new());
}
