//! What is asked of the contract, and the hosts that are compared: bare, and the embedded log.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ledger::{Ledger, LedgerError, embedded::Log};
use ledger_contract::{
    TxInfo,
    contract::{Malformed, SnapshotError, decide, snapshot},
    intent::{Heal, INTENT_PAYLOAD, IntentKind, Isolate, ScaleDirection, ns_instance_id},
    records::{
        AK_PAYLOAD, ANCHOR_PAYLOAD, Change, ENTRY_VERSION, GENESIS_PAYLOAD, GOVERNANCE_PAYLOAD, Genesis,
        Governance, PACKAGE_PAYLOAD, PolicyBundle, Revocable,
    },
    transaction::{Before, Decided, SealedEntry, position_of},
};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use trust::{Digest, Envelope, UnixTime, note::NoteSigner};

use crate::{
    common::*,
    peer::{State, TxHead},
};

/// Something that is asked for.
#[derive(Debug, Clone)]
pub enum Ask {
    Intent { service: usize, action: usize, n: u32 },
    Anchor { of: prop::sample::Index, outcome: usize, isolated: bool },
    Again(prop::sample::Index),
    Package(u32),
    Key(u32),
    Revoke(prop::sample::Index),
    Stranger,
    Foreign,
    Nonsense,
}

const SERVICES: [&str; 4] = ["edge", "core", "lab", "shop"];
const OUTCOMES: [&str; 3] = ["COMPLETED", "ROLLED_BACK", "FAILED"];

pub fn ask() -> impl Strategy<Value = Ask> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => (0..SERVICES.len(), 0_usize..6, 1_u32..5)
            .prop_map(|(service, action, n)| Ask::Intent { service, action, n }),
        6 => (index(), prop_oneof![3 => Just(0_usize), 1 => Just(1), 1 => Just(2)], proptest::bool::weighted(0.1))
            .prop_map(|(of, outcome, isolated)| Ask::Anchor { of, outcome, isolated }),
        2 => index().prop_map(Ask::Again),
        1 => (0_u32..3).prop_map(Ask::Package),
        1 => (0_u32..3).prop_map(Ask::Key),
        1 => index().prop_map(Ask::Revoke),
        1 => Just(Ask::Stranger),
        1 => Just(Ask::Foreign),
        1 => Just(Ask::Nonsense),
    ]
}

/// Makes envelopes of what is asked for.
pub struct Asker {
    pub w: World,
    /// Name of the ledger.
    pub ledger: String,
    sent: Vec<Envelope>,
    /// Intent and NS instance.
    intents: Vec<(String, String)>,
    deployed: BTreeMap<usize, String>,
}

impl Asker {
    pub fn new(ledger: &str) -> Self {
        let ledger = ledger.to_owned();
        Self { w: world(), ledger, sent: vec![], intents: vec![], deployed: BTreeMap::new() }
    }

    /// A genesis with this policy.
    pub fn genesis(&self, policy: PolicyBundle) -> Envelope {
        let (ledger, orgs) = (self.ledger.clone(), self.w.roots.orgs.clone());
        sign(GENESIS_PAYLOAD, &Genesis { ledger, orgs, operator: "op".into(), policy }, &self.w.operator)
    }

    /// Genesis, packages, an attestation key.
    pub fn founding(&self) -> Vec<Envelope> {
        let packages = [vnf(&self.w, "vfw_vnf"), vnf(&self.w, "vlb_vnf"), nsd()];
        let packages = packages.iter().map(|p| sign(PACKAGE_PAYLOAD, p, &self.w.provider));
        let key = sign(AK_PAYLOAD, &ak("edge-1"), &self.w.operator);
        [self.genesis(policy())].into_iter().chain(packages).chain([key]).collect()
    }

    pub fn envelope(&mut self, ask: &Ask) -> Envelope {
        let it = match ask {
            Ask::Intent { service, action, n } => self.intent(*service, *action, *n),
            Ask::Anchor { of, outcome, isolated } => self.anchor(of, OUTCOMES[*outcome], *isolated),
            Ask::Again(of) if !self.sent.is_empty() => of.get(&self.sent).clone(),
            Ask::Revoke(of) if !self.intents.is_empty() => {
                let what = Revocable::Intent { id: of.get(&self.intents).0.clone() };
                let it = Governance {
                    id: format!("revocation-{:04}", self.sent.len()),
                    ledger: self.ledger.clone(),
                    not_after: TO,
                    reason: "no longer wanted".into(),
                    change: Change::Revoke { what },
                };
                sign(GOVERNANCE_PAYLOAD, &it, &self.w.operator)
            }
            Ask::Package(n) => sign(PACKAGE_PAYLOAD, &vnf(&self.w, &format!("vnf-{n}")), &self.w.provider),
            Ask::Key(n) => sign(AK_PAYLOAD, &ak(&format!("site-{n}")), &self.w.operator),
            Ask::Stranger => {
                sign(INTENT_PAYLOAD, &deploy_intent("intent-stranger", "edge"), &self.w.stranger)
            }
            Ask::Foreign => sign(INTENT_PAYLOAD, &deploy_intent("intent-foreign", "edge"), &self.w.globex),
            Ask::Again(_) | Ask::Revoke(_) | Ask::Nonsense => sign(INTENT_PAYLOAD, &"nonsense", &self.w.acme),
        };
        self.sent.push(it.clone());
        it
    }

    fn intent(&mut self, service: usize, action: usize, n: u32) -> Envelope {
        let (id, name) = (format!("intent-{:06}", self.sent.len()), SERVICES[service]);
        let direction = if n.is_multiple_of(2) { ScaleDirection::ScaleOut } else { ScaleDirection::ScaleIn };
        let it = match action {
            0 | 1 => deploy_intent(&id, name),
            2 => scale_intent(&id, name, direction, n),
            3 => intent(&id, name, IntentKind::Terminate {}),
            4 => intent(&id, name, IntentKind::Heal(Heal { targets: vec![], cause: "down".into() })),
            _ => {
                let isolate = Isolate { targets: vec![], capture_ms: 0, reason: "suspect".into() };
                intent(&id, name, IntentKind::Isolate(isolate))
            }
        };
        if action < 2 {
            self.deployed.insert(service, ns_instance_id("acme", name, &id));
        }
        let ns = self.deployed.get(&service).cloned().unwrap_or_default();
        self.intents.push((id, ns));
        signed(&self.w, &it)
    }

    fn anchor(&self, of: &prop::sample::Index, outcome: &str, isolated: bool) -> Envelope {
        let none = ("intent-none".to_owned(), "ns-none".to_owned());
        let (intent, ns) = if self.intents.is_empty() { &none } else { of.get(&self.intents) };
        let operation = format!("op-{}", self.sent.len());
        let mut it = anchor(&operation, intent, ns, outcome);
        it.isolated = isolated;
        it.sites = Some(BTreeMap::from([("edge-1".to_owned(), nsd().resources)]));
        sign(ANCHOR_PAYLOAD, &it, &self.w.orchestrator)
    }
}

/// The contract alone, over a map.
#[derive(Default)]
pub struct Bare {
    pub state: State,
    seen: BTreeMap<Digest, Before>,
}

impl Bare {
    pub fn decide(&mut self, request: &Envelope, tx: &TxHead, index: usize) -> Decided {
        if let Some(before) = self.seen.get(&request.digest()) {
            return Decided::Before { before: before.clone() };
        }
        let read = |key: &str| Ok::<_, Malformed>(self.state.get(key).cloned());
        let snapshot = match snapshot(request, read) {
            Ok(snapshot) => snapshot,
            Err(SnapshotError::Malformed(e) | SnapshotError::Read(e)) => {
                return Decided::Malformed { problem: e.to_string() };
            }
        };
        let founding = request.payload_type == GENESIS_PAYLOAD;
        let position = if founding { 0 } else { position_of(&tx.id, index).unwrap() };
        let info = TxInfo { v: ENTRY_VERSION, ledger: tx.channel.clone(), position, time: tx.time };
        let outcome = decide(request, &snapshot, &info);
        if !outcome.verdict.authenticated() {
            return Decided::Unauthenticated { verdict: outcome.verdict };
        }
        let (entry, writes) = outcome.into_entry(info, request.clone());
        for (key, value) in writes {
            match value {
                Some(value) => drop(self.state.insert(key, value)),
                None => drop(self.state.remove(&key)),
            }
        }
        self.seen.insert(request.digest(), Before { v: 1, tx: tx.id.clone(), position });
        Decided::Entry { entry: Box::new(SealedEntry::seal(entry)) }
    }
}

/// The embedded log, and which of its positions is which of the other's.
pub struct Embedded {
    _dir: TempDir,
    log: Log,
    time: Arc<AtomicU64>,
    names: Vec<(u64, u64)>,
    runtime: Runtime,
}

impl Embedded {
    /// Founded at `time`.
    pub fn new(ledger: &str, genesis: &Envelope, time: UnixTime) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("ledger");
        Log::init(&path, &NoteSigner::new(ledger, &[42; 32]).unwrap(), genesis.clone(), time).unwrap();
        let clock = Arc::new(AtomicU64::new(time.0));
        let time = Arc::clone(&clock);
        let log = Log::open(&path, move || UnixTime(clock.load(Ordering::SeqCst))).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { _dir: dir, log, time, names: vec![], runtime }
    }

    /// What the other said, as the log would say it.
    fn as_the_log(&self, text: &str) -> String {
        let put =
            |t: String, (name, position): &(u64, u64)| t.replace(&name.to_string(), &position.to_string());
        self.names.iter().fold(text.to_owned(), put)
    }

    /// Submits the request, and compares with what the other decided at `time`.
    pub fn compare(&mut self, request: &Envelope, time: UnixTime, decided: &Decided) {
        self.time.store(time.0, Ordering::SeqCst);
        match (self.runtime.block_on(self.log.submit(request.clone())), decided) {
            (Ok(done), Decided::Entry { entry }) => {
                self.names.push((entry.position, done.entry.position));
                let opened = entry.as_ref().clone().open(request.clone()).unwrap();
                assert_eq!(self.as_the_log(&json(&opened.verdict)), json(&done.entry.verdict));
                assert_eq!(self.as_the_log(&json(&opened.event)), json(&done.entry.event));
                assert_eq!((opened.time, opened.request), (done.entry.time, done.entry.request));
            }
            (Ok(done), Decided::Before { before }) => {
                assert!(self.names.contains(&(before.position, done.entry.position)));
            }
            (Err(LedgerError::Malformed(e)), Decided::Malformed { problem }) => {
                assert_eq!(e.to_string(), *problem);
            }
            (Err(LedgerError::Unauthenticated { verdict }), Decided::Unauthenticated { verdict: here }) => {
                assert_eq!(*verdict, *here);
            }
            (log, other) => panic!("the log says {log:?}, the other {other:?}"),
        }
    }

    /// Compares the whole state.
    pub fn compare_state(&self, other: &State) {
        let log = self.runtime.block_on(self.log.state_prefix("")).unwrap();
        assert_eq!(log.len(), other.len());
        for ((key, value), (k, v)) in log.iter().zip(other) {
            assert_eq!(key, k);
            let (value, v) = (std::str::from_utf8(value).unwrap(), std::str::from_utf8(v).unwrap());
            assert_eq!(value, self.as_the_log(v), "{key}");
        }
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

pub fn approved(it: &Decided) -> bool {
    matches!(it, Decided::Entry { entry } if entry.verdict.approved)
}
