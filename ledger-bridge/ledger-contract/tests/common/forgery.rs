//! Approvals as somebody forges them who controls the log: its key, and every entry before the forged one. Also used by
//! the orchestrator's tests.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

use ledger_contract::{
    evidence::{InclusionProof, ProvenEntry},
    intent::{INTENT_PAYLOAD, Intent},
    records::{Entry, Event, Grant},
};
use trust::{
    Digest, Envelope, Signer,
    merkle::{Tree, leaf_hash},
    note::NoteSigner,
};

pub struct Forgery {
    pub before: Vec<Digest>,
    pub genuine: Entry,
    pub key: NoteSigner,
}

impl Forgery {
    /// The genuine approval, after these entries.
    pub fn of(before: &[String], genuine: &str, key: NoteSigner) -> Self {
        let before = before.iter().map(|e| leaf_hash(e.as_bytes())).collect();
        Self { before, genuine: serde_json::from_str(genuine).unwrap(), key }
    }

    /// A log that ends with these bytes.
    pub fn log(&self, entry: String, key: &NoteSigner) -> ProvenEntry {
        let mut tree = Tree::default();
        self.before.iter().for_each(|leaf| tree.push(*leaf));
        tree.push(leaf_hash(entry.as_bytes()));
        let index = tree.size() - 1;
        let path = tree.inclusion(index, tree.size()).unwrap();
        let checkpoint = key.sign_checkpoint(tree.size(), tree.root()).unwrap();
        ProvenEntry { entry, proof: InclusionProof { index, path, checkpoint }, channel: None }
    }

    pub fn entry(&self, change: impl FnOnce(&mut Entry)) -> ProvenEntry {
        let mut entry = self.genuine.clone();
        change(&mut entry);
        self.log(String::from_utf8(entry.to_bytes()).unwrap(), &self.key)
    }

    pub fn grant(&self, change: impl FnOnce(&mut Grant)) -> ProvenEntry {
        self.entry(|e| match &mut e.event {
            Some(Event::IntentApproved { grant }) => change(grant),
            other => panic!("{other:?}"),
        })
    }

    /// Another intent, with a grant that fits it.
    pub fn intent(&self, by: &Signer, change: impl FnOnce(&mut Intent)) -> ProvenEntry {
        let mut it: Intent = serde_json::from_slice(&self.genuine.request.payload).unwrap();
        change(&mut it);
        self.entry(|e| {
            e.request = Envelope::sign(INTENT_PAYLOAD, serde_json::to_vec(&it).unwrap(), &[by]).unwrap();
            if let Some(Event::IntentApproved { grant }) = &mut e.event {
                grant.intent = Digest::of(&e.request.payload);
                (grant.intent_id, grant.not_after) = (it.id.clone(), it.not_after);
            }
        })
    }
}
