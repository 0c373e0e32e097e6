//! A service for tests of the interfaces.
#![allow(dead_code, reason = "each test uses its part")]

use std::sync::Mutex;

use async_trait::async_trait;
use attestation::AkRecord;
use ledger_contract::{
    evidence::{InclusionProof, ProvenEntry},
    records::Verdict,
};
use orchestrator::{
    problem::Problem,
    service::Service,
    views::{
        CommittedView, DeliveredView, IntentView, NsView, OperationView, PackageView, SiteView, TimelineLine,
    },
};
use tokio::sync::watch;
use trust::{Digest, Envelope, UnixTime};

/// Records what it was asked, and answers what it was given.
pub struct Recorder {
    asked: Mutex<Vec<String>>,
    /// Counts up when something changed.
    pub changes: watch::Sender<u64>,
    /// The only intent there is.
    pub intent: Mutex<Option<IntentView>>,
    /// The only timeline there is.
    pub timeline: Mutex<Vec<TimelineLine>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            asked: Mutex::default(),
            changes: watch::channel(1).0,
            intent: Mutex::default(),
            timeline: Mutex::default(),
        }
    }
}

impl Recorder {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    /// What it was asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn none<T>(what: &str) -> Result<T, Problem> {
    Err(Problem::not_found("thing", what).hint("look elsewhere"))
}

#[async_trait]
impl Service for Recorder {
    async fn submit(&self, request: Envelope) -> Result<CommittedView, Problem> {
        self.note(format!("submit {}", request.payload_type));
        let verdict = Verdict { approved: false, rules: Vec::new(), policy: Digest([0; 32]) };
        Ok(CommittedView {
            position: 7,
            time: UnixTime(1),
            verdict,
            ns_instance_id: None,
            checkpoint: String::new(),
        })
    }
    async fn put_package(&self, content: Vec<u8>) -> Result<PackageView, Problem> {
        self.note(format!("put {}", content.len()));
        none("package")
    }
    async fn packages(&self) -> Result<Vec<PackageView>, Problem> {
        Ok(Vec::new())
    }
    async fn intent(&self, id: &str) -> Result<IntentView, Problem> {
        self.note(format!("intent {id}"));
        self.intent.lock().unwrap().clone().map_or_else(|| none(id), Ok)
    }
    async fn intents(&self, limit: usize) -> Result<Vec<IntentView>, Problem> {
        self.note(format!("intents {limit}"));
        Ok(Vec::new())
    }
    async fn services(&self, all: bool) -> Result<Vec<NsView>, Problem> {
        self.note(format!("services {all}"));
        Ok(Vec::new())
    }
    async fn ns(&self, id: &str) -> Result<NsView, Problem> {
        self.note(format!("ns {id}"));
        none(id)
    }
    async fn timeline(&self, ns: &str) -> Result<Vec<TimelineLine>, Problem> {
        self.note(format!("timeline {ns}"));
        Ok(self.timeline.lock().unwrap().clone())
    }
    async fn operation(&self, id: &str) -> Result<OperationView, Problem> {
        Err(Problem::internal("BROKEN", format!("operation {id}")))
    }
    async fn bundle(&self, operation: &str) -> Result<Vec<u8>, Problem> {
        Ok(format!("{{\"op\":\"{operation}\"}}\n").into_bytes())
    }
    async fn sites(&self) -> Result<Vec<SiteView>, Problem> {
        Ok(Vec::new())
    }
    async fn attestation_key(&self, site: &str, rotate: bool) -> Result<AkRecord, Problem> {
        self.note(format!("key {site} {rotate}"));
        Ok(AkRecord {
            site: site.into(),
            public_key: "key".into(),
            pcr: 13,
            pcr_baseline: Digest([0; 32]),
            not_before: UnixTime(0),
            not_after: UnixTime(1),
        })
    }
    async fn deliver(&self, approval: ProvenEntry) -> Result<DeliveredView, Problem> {
        self.note(format!("deliver {}", approval.entry));
        Ok(DeliveredView { operation_id: "op-1".into() })
    }
    async fn ledger_head(&self) -> Result<String, Problem> {
        Ok("origin\n1\nroot\n".into())
    }
    async fn ledger_entry(&self, position: u64) -> Result<ProvenEntry, Problem> {
        Ok(approval(position))
    }
    async fn ledger_range(&self, from: u64, limit: usize) -> Result<Vec<String>, Problem> {
        self.note(format!("range {from} {limit}"));
        Ok(vec!["{}".into()])
    }
    async fn policy(&self) -> Result<Digest, Problem> {
        Ok(Digest([1; 32]))
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// An approval that proves nothing.
pub fn approval(index: u64) -> ProvenEntry {
    let proof = InclusionProof { index, path: Vec::new(), checkpoint: String::new() };
    ProvenEntry { entry: "entry".into(), proof }
}
