//! A service for tests of the interfaces.
#![allow(dead_code, reason = "each test uses its part")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use attestation::AkRecord;
use ledger_contract::{
    Intent,
    evidence::{InclusionProof, ProvenEntry},
    records::Verdict,
};
use orchestrator::{
    journal::{Journal, Listing},
    problem::Problem,
    service::{Order, Service},
    views::{
        CommittedView, ComponentView, ConsistencyView, DeliveredView, EventView, IntentView, NsView,
        OperationView, PackageView, PlanView, SiteView, StepView, TimelineLine,
    },
};
use tokio::sync::watch;
use trust::{Digest, Envelope, Identity, TrustRoots, UnixTime};

/// Records what it was asked, and answers what it was given.
pub struct Recorder {
    asked: Mutex<Vec<String>>,
    /// Counts up when something changed.
    pub changes: watch::Sender<u64>,
    /// The only intent there is.
    pub intent: Mutex<Option<IntentView>>,
    /// The only timeline there is.
    pub timeline: Mutex<Vec<TimelineLine>>,
    /// All services.
    pub services: Mutex<Vec<NsView>>,
    /// All operations.
    pub operations: Mutex<Vec<OperationView>>,
    /// What happened.
    pub events: Mutex<Vec<EventView>>,
    /// The parts.
    pub components: Mutex<Vec<ComponentView>>,
    /// How long a submission takes.
    pub submission: Mutex<std::time::Duration>,
    /// Whose members are known.
    pub roots: Mutex<TrustRoots>,
    journal: Arc<Journal>,
    _dir: tempfile::TempDir,
}

impl Default for Recorder {
    fn default() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Journal::create(&dir.path().join("journal.db")).unwrap();
        Self {
            journal: Arc::new(Journal::open(&dir.path().join("journal.db")).unwrap()),
            _dir: dir,
            roots: Mutex::default(),
            services: Mutex::default(),
            operations: Mutex::default(),
            events: Mutex::default(),
            components: Mutex::default(),
            submission: Mutex::default(),
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
    fn member(&self, certificate: &[u8], at: UnixTime) -> Result<Identity, String> {
        self.roots.lock().unwrap().verify(certificate, at).map_err(|e| e.to_string())
    }
    async fn submit(&self, request: Envelope) -> Result<CommittedView, Problem> {
        self.note(format!("submit {}", request.payload_type));
        let takes = *self.submission.lock().unwrap();
        tokio::time::sleep(takes).await;
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
    async fn intents(
        &self,
        tenant: Option<&str>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<IntentView>, Problem> {
        self.note(format!("intents {tenant:?} {before:?} {limit}"));
        Ok(self.intent.lock().unwrap().clone().into_iter().collect())
    }
    async fn site_timeline(&self, site: &str) -> Result<Vec<TimelineLine>, Problem> {
        none(site)
    }
    async fn services(&self, asked: &Listing<'_>) -> Result<Vec<NsView>, Problem> {
        self.note(format!("services {}", asked.all));
        let mut all = self.services.lock().unwrap().clone().into_iter();
        if let Some(after) = asked.after {
            all.find(|s| s.id == after);
        }
        let seen = |s: &NsView| asked.tenant.is_none_or(|t| t == s.tenant);
        let live = |s: &NsView| asked.all || s.state != "NOT_INSTANTIATED";
        Ok(all.filter(|s| seen(s) && live(s)).take(asked.limit).collect())
    }
    async fn ns(&self, id: &str) -> Result<NsView, Problem> {
        self.note(format!("ns {id}"));
        let found = self.services.lock().unwrap().iter().find(|s| s.id == id).cloned();
        found.map_or_else(|| none(id), Ok)
    }
    async fn operations(
        &self,
        open: bool,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<OperationView>, Problem> {
        let mut all = self.operations.lock().unwrap().clone().into_iter();
        if let Some(before) = before {
            all.find(|o| o.id == before);
        }
        Ok(all.filter(|o| !open || !o.anchored).take(limit).collect())
    }
    async fn steps(&self, _: &str) -> Result<Vec<StepView>, Problem> {
        Ok(Vec::new())
    }
    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, EventView)>, Problem> {
        let all = self.events.lock().unwrap().clone();
        let numbered = (1..).zip(all).skip_while(|(n, _)| *n <= after);
        Ok(numbered.take(limit).collect())
    }
    async fn newest_event(&self) -> Result<u64, Problem> {
        Ok(self.events.lock().unwrap().len() as u64)
    }
    async fn components(&self) -> Vec<ComponentView> {
        self.components.lock().unwrap().clone()
    }
    fn journal(&self) -> Arc<Journal> {
        self.journal.clone()
    }
    async fn timeline(&self, ns: &str) -> Result<Vec<TimelineLine>, Problem> {
        self.note(format!("timeline {ns}"));
        Ok(self.timeline.lock().unwrap().clone())
    }
    async fn operation(&self, id: &str) -> Result<OperationView, Problem> {
        let found = self.operations.lock().unwrap().iter().find(|o| o.id == id).cloned();
        found.ok_or_else(|| Problem::internal("BROKEN", format!("operation {id}")))
    }
    async fn plan(&self, intent: Intent) -> Result<PlanView, Problem> {
        self.note(format!("plan {}", intent.id));
        none("plan")
    }
    async fn direct_operation(&self, id: &str, order: &Order<'_>) -> Result<OperationView, Problem> {
        self.note(format!("{} {id} by {}: {}", order.what.name(), order.by, order.reason));
        self.operation(id).await
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
    async fn drift(&self) -> Result<orchestrator::views::DriftView, Problem> {
        Ok(orchestrator::views::DriftView::default())
    }
    async fn ns_drift(&self, ns: &str) -> Result<orchestrator::views::NsDriftView, Problem> {
        let (tenant, service) = ("acme".to_owned(), "edge".to_owned());
        let ns_instance_id = ns.to_owned();
        Ok(orchestrator::views::NsDriftView { ns_instance_id, tenant, service, ..Default::default() })
    }
    async fn strays(&self) -> Result<orchestrator::views::StraysView, Problem> {
        Ok(orchestrator::views::StraysView::default())
    }
    async fn clean_strays(
        &self,
        by: &str,
        asked: orchestrator::views::CleaningView,
    ) -> Result<Vec<orchestrator::views::Cleaned>, Problem> {
        self.note(format!("clean {} by {by}: {}", asked.keys.join(" "), asked.reason));
        let gone = |key: String| orchestrator::views::Cleaned { site: "edge-a".into(), key, problem: None };
        Ok(asked.keys.into_iter().map(gone).collect())
    }
    async fn mitigations(&self) -> Result<Vec<orchestrator::journal::Mitigation>, Problem> {
        Ok(Vec::new())
    }
    async fn ledger_head(&self) -> Result<String, Problem> {
        Ok("origin\n1\nroot\n".into())
    }
    async fn ledger_consistency(&self, _: u64) -> Result<ConsistencyView, Problem> {
        Ok(ConsistencyView { checkpoint: "origin\n1\nroot\n".into(), proof: Vec::new() })
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
    ProvenEntry { entry: "entry".into(), proof, channel: None }
}
