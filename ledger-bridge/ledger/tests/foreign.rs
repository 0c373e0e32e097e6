//! Others' software reads the log: `tlog_tiles` and `signed_note`, published by Cloudflare, ported from Go's sumdb.
//!
//! It verifies the checkpoint, authenticates every tile of the directory against it, checks our inclusion and
//! consistency proofs, and is the witness whose cosignatures the log keeps.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod logs;

use std::{fs, path::PathBuf};

use ed25519_dalek_2::{Signer as _, SigningKey};
use ledger::{Ledger, witness};
use logs::{common::*, *};
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{
    Checkpoint, Error, Hash, HashReader, Tile, TileHashReader, TileReader, check_record, check_tree,
    prove_record, prove_tree, record_hash, tree_hash,
};
use trust::witness::{WitnessKey, Witnesses};

/// The directory, as it is served.
struct Directory(PathBuf);

impl TileReader for Directory {
    fn height(&self) -> u8 {
        8
    }
    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        let path = |t: &Tile| self.0.join(t.path().replacen("tile/8/", "tile/", 1));
        tiles.iter().map(|t| fs::read(path(t)).map_err(|_| Error::InvalidTile)).collect()
    }
    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// What the foreign software makes of a note.
fn verified(note: &str, key: &str) -> Checkpoint {
    let note = Note::from_bytes(note.as_bytes()).unwrap();
    let log = StandardVerifier::new(key).unwrap();
    let (good, _) = note.verify(&VerifierList::new(vec![Box::new(log)])).unwrap();
    assert_eq!(good.len(), 1);
    Checkpoint::from_bytes(note.text()).unwrap()
}

fn hashes(ours: &[trust::Digest]) -> Vec<Hash> {
    ours.iter().map(|d| Hash(d.0)).collect()
}

#[test]
fn checkpoint_tiles_and_proofs_are_accepted() {
    let dir = copy();
    let path = dir.path().join("ledger");
    let published = fs::read_to_string(path.join("checkpoint")).unwrap();
    let log = open(&path);
    let key = log.verifier().to_string();
    let old = verified(&published, &key);
    assert_eq!((old.origin(), old.size()), (LEDGER, 300));
    // Its own proofs, from our tiles: every hash is authenticated against the checkpoint.
    let directory = Directory(path.clone());
    let reader = TileHashReader::new(old.size(), *old.hash(), &directory);
    assert_eq!(tree_hash(old.size(), &reader).unwrap(), *old.hash());
    for position in [0, 1, 2, 128, 255, 256, 257, 299] {
        let p = block(log.entry(position)).unwrap().unwrap();
        let leaf = record_hash(p.entry.as_bytes());
        assert_eq!(reader.read_hashes(&[tlog_tiles::stored_hash_index(0, position)]).unwrap(), [leaf]);
        let ours = hashes(&p.proof.path);
        check_record(&ours, old.size(), *old.hash(), position, leaf).unwrap();
        assert_eq!(prove_record(old.size(), position, &reader).unwrap(), ours, "the same proof");
    }
    block(grow(&log, &world(), 300..520));
    let note = block(log.head()).unwrap();
    let new = verified(&note, &key);
    drop(log);
    let log = open(&path);
    let reader = TileHashReader::new(new.size(), *new.hash(), &directory);
    for size in [1, 2, 255, 256, 257, 300, 519] {
        let ours = hashes(&block(log.consistency(size)).unwrap());
        let then = tree_hash(size, &reader).unwrap();
        check_tree(&ours, new.size(), *new.hash(), size, then).unwrap();
        assert_eq!(prove_tree(new.size(), size, &reader).unwrap(), ours, "the same proof");
    }
    assert_eq!(tree_hash(300, &reader).unwrap(), *old.hash());
    // Entry bundles are what the specification says, but for the one that it has no room for.
    let mut bundle = &fs::read(path.join("tile/entries/000")).unwrap()[..];
    for position in 0..256 {
        let (length, rest) = bundle.split_first_chunk::<2>().unwrap();
        let (entry, rest) = rest.split_at(u16::from_be_bytes(*length).into());
        let leaf = reader.read_hashes(&[tlog_tiles::stored_hash_index(0, position)]).unwrap()[0];
        assert_eq!(record_hash(entry) == leaf, position != 1, "entry {position}");
        bundle = rest;
    }
    assert!(bundle.is_empty());
}

/// A witness made of the foreign software: remembers what it signed, and signs only what is consistent with that.
struct Witness {
    name: &'static str,
    key: SigningKey,
    seen: Option<(u64, Hash)>,
}

impl signed_note::Signer for Witness {
    fn name(&self) -> &str {
        self.name
    }
    fn key_id(&self) -> u32 {
        signed_note::key_id(self.name, &[&[4], &self.key.verifying_key().to_bytes()[..]].concat())
    }
    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, ed25519_dalek_2::SignatureError> {
        let message = [format!("cosignature/v1\ntime {}\n", NOW.0).as_bytes(), text].concat();
        Ok([&NOW.0.to_be_bytes()[..], &self.key.try_sign(&message)?.to_bytes()].concat())
    }
}

impl Witness {
    fn new(name: &'static str, seed: u8) -> Self {
        Self { name, key: SigningKey::from_bytes(&[seed; 32]), seen: None }
    }

    fn vkey(&self) -> WitnessKey {
        let raw = [&[4], &self.key.verifying_key().to_bytes()[..]].concat();
        let id = signed_note::key_id(self.name, &raw);
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        WitnessKey::parse(&format!("{}+{id:08x}+{}", self.name, STANDARD.encode(raw))).unwrap()
    }

    fn cosign(&mut self, note: &str, log: &str, proof: &[Hash]) -> Result<String, Error> {
        let checkpoint = verified(note, log);
        if let Some((size, root)) = self.seen {
            check_tree(&proof.to_vec(), checkpoint.size(), *checkpoint.hash(), size, root)?;
        }
        self.seen = Some((checkpoint.size(), *checkpoint.hash()));
        let mut note = Note::from_bytes(note.as_bytes()).unwrap();
        note.add_sigs(&[&*self]).unwrap();
        Ok(String::from_utf8(note.to_bytes()).unwrap())
    }
}

#[test]
fn cosignatures_of_a_foreign_witness_are_kept_and_can_be_demanded() {
    let dir = copy();
    let path = dir.path().join("ledger");
    let log = open(&path);
    let key = log.verifier().to_string();
    let (mut one, mut two) = (Witness::new("witness.example/1", 1), Witness::new("witness.example/2", 2));
    let demand = |quorum| Witnesses { keys: vec![one.vkey(), two.vkey()], quorum };
    let (any, both) = (demand(1), demand(2));
    let note = block(log.head()).unwrap();
    let cosigned = one.cosign(&note, &key, &[]).unwrap();
    let error = witness::import(&path, &cosigned).unwrap_err();
    assert!(error.to_string().contains("no witness of this log"), "{error}");
    witness::add(&path, one.vkey()).unwrap();
    witness::add(&path, two.vkey()).unwrap();
    let imported = witness::import(&path, &cosigned).unwrap();
    assert_eq!((imported.size, imported.current, imported.cosigned.len()), (300, true, 1));
    // While the log is open: on its head, and on the published checkpoint.
    let head = block(log.head()).unwrap();
    assert_eq!(any.verify(&head).unwrap(), ["witness.example/1"]);
    assert!(both.verify(&head).is_err());
    assert_eq!(fs::read_to_string(path.join("checkpoint")).unwrap(), head);
    witness::import(&path, &two.cosign(&note, &key, &[]).unwrap()).unwrap();
    assert_eq!(both.verify(&block(log.head()).unwrap()).unwrap().len(), 2);
    // The log grows: its head has no cosignature yet, the newest cosigned checkpoint is kept.
    block(grow(&log, &world(), 300..310));
    let note = block(log.head()).unwrap();
    assert!(any.verify(&note).is_err());
    assert!(both.verify(&witness::cosigned(&path).unwrap().unwrap()).is_ok());
    let proof = hashes(&block(log.consistency(300)).unwrap());
    let next = one.cosign(&note, &key, &proof).unwrap();
    assert!(one.cosign(&cosigned, &key, &proof).is_err(), "a witness does not go back");
    witness::import(&path, &next).unwrap();
    let error = witness::import(&path, &cosigned).unwrap_err();
    assert!(error.to_string().contains("cosigned already"), "{error}");
    // Lines that nobody asked for are not kept, nor do they survive a restart.
    let noise = format!("{next}— stranger.example AAAAAAAA\n");
    witness::import(&path, &noise).unwrap();
    drop(log);
    let log = open(&path);
    let head = block(log.head()).unwrap();
    assert!(!head.contains("stranger") && any.verify(&head).is_ok());
    assert!(witness::remove(&path, "witness.example/2").unwrap());
    assert_eq!(witness::list(&path).unwrap(), [one.vkey()]);
}
