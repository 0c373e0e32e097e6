//! The commit protocol, stopped at every operation of the disk.

use std::{io, path::Path, sync::Arc};

use trust::{
    Digest,
    merkle::{self, verify_consistency},
    note::NoteSigner,
};

use super::{
    disk::Disk,
    reader::{Tiles, View},
    rotation::Rotation,
    simulated::{Crash, Fault, SimulatedDisk},
    store::{Founding, Store, publish},
};
use crate::LedgerError;

const DIR: &str = "log";
/// Small, so that the story has rotations.
const ROTATE_BYTES: u64 = 3000;

fn signer() -> NoteSigner {
    NoteSigner::new("ledger.example/log", &[7; 32]).unwrap()
}

fn entry(n: usize) -> Vec<u8> {
    match n {
        // No bundle can hold them; one is committed with others, one alone.
        100 | 262 => vec![b'0' + u8::try_from(n % 10).unwrap(); 70_000],
        _ => format!("entry {n}").into_bytes(),
    }
}

/// Commits of these sizes: through three full tiles, each with a rotation, that other commits overtake or do not.
const COMMITS: [usize; 14] = [1, 3, 150, 95, 6, 6, 1, 200, 60, 3, 245, 9, 2, 4];

/// What somebody was told.
#[derive(Default)]
struct Told {
    acknowledged: usize,
    /// Size of the commit in flight.
    trying: usize,
    heads: Vec<(u64, Digest)>,
    /// Rotations begun.
    rotations: usize,
}

fn found(disk: &dyn Disk) -> Result<(), LedgerError> {
    let dir = Path::new(DIR);
    disk.make_dir(dir).map_err(|source| LedgerError::Storage {
        doing: "create",
        path: dir.to_owned(),
        source,
    })?;
    let mut founding = Founding::new(disk, dir);
    founding.push(&entry(0))?;
    let note = signer().sign_checkpoint(1, founding.root()?).unwrap();
    let head = founding.finish("ledger.example/log", &note)?;
    publish(disk, dir, &head, 0).map(|_| ())
}

fn open(disk: &Arc<SimulatedDisk>) -> Result<(Store, u64), LedgerError> {
    Store::open(Arc::clone(disk) as Arc<dyn Disk>, Path::new(DIR), signer(), ROTATE_BYTES)
}

/// Founds a log, makes it grow, and publishes now and then.
fn story(disk: &Arc<SimulatedDisk>, told: &mut Told) -> Result<(), LedgerError> {
    told.trying = 1;
    found(&**disk)?;
    (told.acknowledged, told.trying) = (1, 0);
    let (mut store, mut published) = open(disk)?;
    let mut rotation = None;
    for (i, size) in COMMITS.into_iter().enumerate() {
        let entries: Vec<_> = (told.acknowledged..told.acknowledged + size).map(entry).collect();
        told.trying = size;
        let head = Arc::clone(store.commit(&entries)?);
        (told.acknowledged, told.trying) = (told.acknowledged + size, 0);
        told.heads.push((head.size(), head.root));
        // A rotation is carried out beside the commits: now at once, now after another commit.
        if let Some(new) = rotation.take().map(Rotation::carry_out).transpose()? {
            store.rotated(new);
        }
        rotation = store.rotation();
        told.rotations += usize::from(rotation.is_some());
        let at_once = rotation.take_if(|_| told.rotations.is_multiple_of(2));
        if let Some(new) = at_once.map(Rotation::carry_out).transpose()? {
            store.rotated(new);
        }
        if i % 2 == 0 {
            published = publish(&**disk, Path::new(DIR), &head, published)?;
        }
    }
    Ok(())
}

/// Opens what is left and compares it with what was told.
fn check(disk: SimulatedDisk, seen: Option<Vec<u8>>, told: &Told, what: &str) {
    let disk = Arc::new(disk);
    let (mut store, _) = match open(&disk) {
        Ok(opened) => opened,
        Err(e) => return assert!(told.acknowledged == 0, "{what}: {e}"),
    };
    let size = usize::try_from(store.head().size()).unwrap();
    assert!([told.acknowledged, told.acknowledged + told.trying].contains(&size), "{what}: {size} entries");
    for round in 0..2 {
        let head = Arc::clone(store.head());
        let tiles = Tiles::new(Arc::clone(&disk) as Arc<dyn Disk>, Path::new(DIR));
        let view = View::new(&tiles, &head);
        for n in 0..usize::try_from(head.size()).unwrap() {
            let read = view.entry(n as u64).unwrap_or_else(|e| panic!("{what}: {e}")).unwrap();
            assert_eq!(read.as_bytes(), entry(n), "{what}: entry {n}");
        }
        // Whoever holds a checkpoint, published ones too, finds it in the log's past.
        let published = seen.as_ref().map(|note| {
            let c = signer().verifier().checkpoint(std::str::from_utf8(note).unwrap()).unwrap();
            (c.size, c.root)
        });
        for (size, root) in told.heads.iter().copied().chain(published) {
            assert!(size <= head.size(), "{what}: the head went back from {size} to {}", head.size());
            assert_eq!(merkle::root(&view, size).unwrap(), root, "{what}");
            let proof = view.consistency(size).unwrap().unwrap();
            verify_consistency(size, head.size(), root, head.root, &proof).unwrap();
        }
        // And it goes on.
        if round == 0 {
            let from = usize::try_from(head.size()).unwrap();
            store.commit(&(from..from + 40).map(entry).collect::<Vec<_>>()).unwrap();
        }
    }
}

#[test]
fn stopped_at_every_operation_nothing_confirmed_is_lost() {
    let disk = Arc::new(SimulatedDisk::default());
    let mut told = Told::default();
    story(&disk, &mut told).unwrap();
    let operations = disk.operations();
    assert!(operations > 80, "{operations} operations are no story");
    assert!(told.rotations >= 3, "{} rotations", told.rotations);
    assert!(disk.seen(Path::new("log/tile/entries/000")).is_some(), "no full bundle");
    assert!(disk.seen(Path::new("log/tile/0/000.p/5")).is_none(), "partial tiles of a full one are left");
    for at in 1..=operations {
        for fault in [Fault::Refused, Fault::Done, Fault::Half] {
            let disk = Arc::new(SimulatedDisk::default());
            let mut told = Told::default();
            disk.fail(at, fault, io::ErrorKind::Other);
            let failed = story(&disk, &mut told);
            assert!(failed.is_err(), "operation {at} does not matter");
            let seen = disk.seen(Path::new("log/checkpoint"));
            for crash in [Crash::Kept, Crash::Lost, Crash::Names, Crash::Torn] {
                check(
                    disk.crash(crash),
                    seen.clone(),
                    &told,
                    &format!("operation {at}, {fault:?}, {crash:?}"),
                );
            }
        }
    }
}

/// The same while it is opened again: opening repairs, and may be stopped there, too.
#[test]
fn stopped_while_opening_nothing_confirmed_is_lost() {
    let disk = Arc::new(SimulatedDisk::default());
    let mut told = Told::default();
    disk.fail(60, Fault::Half, io::ErrorKind::Other);
    assert!(story(&disk, &mut told).is_err());
    for crash in [Crash::Kept, Crash::Lost, Crash::Torn] {
        for at in 1.. {
            let left = Arc::new(disk.crash(crash));
            left.fail(at, Fault::Half, io::ErrorKind::Other);
            if open(&left).is_ok() {
                break;
            }
            check(left.crash(Crash::Torn), None, &told, &format!("opening, operation {at}, {crash:?}"));
        }
    }
}

#[test]
fn a_full_disk_says_so() {
    let disk = Arc::new(SimulatedDisk::default());
    found(&*disk).unwrap();
    let (mut store, _) = open(&disk).unwrap();
    disk.fail(disk.operations() + 1, Fault::Half, io::ErrorKind::StorageFull);
    let error = store.commit(&[entry(1)]).unwrap_err();
    assert!(matches!(error, LedgerError::Full { .. }), "{error}");
    assert!(
        error.to_string().contains("the disk is full") && error.to_string().contains("log/tail"),
        "{error}"
    );
    let told = Told { acknowledged: 1, trying: 1, ..Told::default() };
    check(disk.crash(Crash::Kept), None, &told, "full disk");
}
