//! Ten thousand approvals that are not what they seem, made from a seed: none is accepted, each class has its code.
//!
//! What is judged is [`approval::verify`], the only way from an approval to an effect (`Engine::take`). Somebody who controls
//! the log itself (its key and every entry) makes them, but has no key of a tenant.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "common/forgery.rs"]
mod forgery;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use forgery::Forgery;
use ledger_contract::{
    Constitution,
    approval::{ActuatorPolicy, verify},
    evidence::ProvenEntry,
    records::{ANCHOR_PAYLOAD, ENTRY_VERSION, Event},
};
use trust::{Digest, UnixTime, note::NoteSigner};

const COUNT: u64 = 10_000;
const SEED: u64 = 0x6d61_6e64_6174_6531;

/// SplitMix64: the same corpus from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }
}

struct Forger {
    w: World,
    chain: Chain,
    forgery: Forgery,
    proven: ProvenEntry,
}

impl std::ops::Deref for Forger {
    type Target = Forgery;

    fn deref(&self) -> &Forgery {
        &self.forgery
    }
}

impl Forger {
    fn new() -> Self {
        let w = world();
        let mut chain = Chain::ready(&w);
        chain.approve(signed(&w, &deploy_intent("intent-0001", "edge")));
        let (genuine, before) = chain.entries.split_last().unwrap();
        let forgery = Forgery::of(before, genuine, w.log.clone());
        let proven = chain.last();
        Self { w, chain, forgery, proven }
    }

    fn one(&self, class: usize, r: &mut Random) -> (&'static str, ProvenEntry) {
        let text = format!("x{:x}", r.next());
        let mut altered = self.proven.clone();
        match class {
            // Altered after the log was made.
            0 => {
                let at = r.below(altered.entry.len() - 1) + 1;
                altered.entry.insert(at, ' ');
                ("INCLUSION", altered)
            }
            1 => {
                let at = r.below(altered.proof.path.len());
                altered.proof.path[at].0[r.below(32)] ^= 1 << r.below(8);
                ("INCLUSION", altered)
            }
            // Reordered: another place in the log.
            2 => {
                altered.proof.index += 1 + r.next() % 1000;
                ("INCLUSION", altered)
            }
            3 => {
                let place = r.below(self.chain.entries.len() - 1) as u64;
                ("INCLUSION", ProvenEntry { proof: self.chain.proven(place).proof, ..altered })
            }
            4 => {
                let at = r.below(60);
                altered.proof.checkpoint.insert(at, 'x');
                ("CHECKPOINT_SIGNATURE", altered)
            }
            5 => {
                let key = NoteSigner::new(LEDGER, &Digest::of(&text).0).unwrap();
                ("CHECKPOINT_SIGNATURE", self.log(self.proven.entry.clone(), &key))
            }
            6 => {
                let key = NoteSigner::new(&format!("{text}.example/log"), &self.w.log.seed()).unwrap();
                ("CHECKPOINT_SIGNATURE", self.log(self.proven.entry.clone(), &key))
            }
            7 => ("ENTRY_FORMAT", self.log(text, &self.w.log)),
            8 => (
                "ENTRY_FORMAT",
                self.entry(|e| e.v = ENTRY_VERSION + 1 + u32::try_from(r.below(1000)).unwrap()),
            ),
            9 => ("WRONG_LEDGER", self.entry(|e| e.ledger = text)),
            // Replayed at another position.
            10 => ("POSITION", self.entry(|e| e.position += 1 + r.next() % 1000)),
            11 => {
                let it = anchor(&text, "intent-0001", "ns", "COMPLETED");
                ("NOT_AN_INTENT", self.entry(|e| e.request = sign(ANCHOR_PAYLOAD, &it, &self.w.orchestrator)))
            }
            12 => (
                "INTENT_SIGNATURE",
                self.entry(|e| {
                    let at = r.below(e.request.payload.len());
                    e.request.payload[at] ^= 1;
                }),
            ),
            13 => ("INTENT_SIGNATURE", self.intent(&self.w.stranger, |i| i.service = text)),
            14 => ("INTENT_SIGNATURE", self.intent(&self.w.expired, |i| i.service = text)),
            15 => ("ROLE_NOT_ALLOWED", self.intent(&self.w.provider, |i| i.id = text)),
            16 => ("TENANT_MISMATCH", self.intent(&self.w.globex, |i| i.id = text)),
            17 => (
                "NOT_APPROVED",
                self.entry(|e| {
                    let at = r.below(e.verdict.rules.len());
                    (e.verdict.rules[at].passed, e.verdict.rules[at].code) = (false, text);
                }),
            ),
            18 => ("NOT_APPROVED", self.entry(|e| e.event = None)),
            19 => ("GRANT_MISMATCH", self.grant(|g| g.intent_id = text)),
            20 => ("GRANT_MISMATCH", self.grant(|g| g.ns_instance_id = text)),
            21 => ("GRANT_MISMATCH", self.grant(|g| g.not_after = g.not_after.plus(1 + r.next() % 100_000))),
            22 => ("GRANT_MISMATCH", self.grant(|g| g.waived = vec![text])),
            23 => ("GRANT_MISMATCH", self.grant(|g| g.standing = Some(text))),
            24 => (
                "POLICY_NOT_ACCEPTED",
                self.entry(|e| {
                    e.verdict.policy = Digest::of(&text);
                    if let Some(Event::IntentApproved { grant }) = &mut e.event {
                        grant.policy = e.verdict.policy;
                    }
                }),
            ),
            25 => (
                "EXPIRED",
                self.intent(&self.w.acme, |i| i.not_after = UnixTime(NOW.0 - 1 - r.next() % 100_000)),
            ),
            _ => ("NOT_YET", self.later(400 + r.next() % 1000)),
        }
    }

    /// An approval from the future.
    fn later(&self, seconds: u64) -> ProvenEntry {
        self.entry(|e| {
            e.time = e.time.plus(seconds);
            if let Some(Event::IntentApproved { grant }) = &mut e.event {
                grant.lease_until = grant.lease_until.map(|t| t.plus(seconds));
            }
        })
    }
}

const CLASSES: usize = 27;

#[test]
fn ten_thousand_forgeries_have_no_effect() {
    let forger = Forger::new();
    let pinned = Constitution::pinned(LEDGER, &forger.w.roots, BTreeSet::from([policy().digest()]));
    let rules = pinned.followed(&[forger.chain.proven(0)]).unwrap();
    let judge = |it: &ProvenEntry| verify(it, &ActuatorPolicy { constitution: &rules, at: NOW });
    assert!(judge(&forger.proven).is_ok() && judge(&forger.entry(|_| ())).is_ok());
    let mut random = Random(SEED);
    let mut counted: BTreeMap<&str, u32> = BTreeMap::new();
    for n in 0..COUNT {
        let class = usize::try_from(n).unwrap() % CLASSES;
        let (code, forged) = forger.one(class, &mut random);
        let refusal = judge(&forged).expect_err("an effect");
        assert_eq!(refusal.code.as_str(), code, "{n}, class {class}: {}", refusal.detail);
        *counted.entry(code).or_default() += 1;
    }
    println!("{counted:?}");
    assert_eq!(counted.values().sum::<u32>(), 10_000);
    assert_eq!(counted.len(), 14);
}
