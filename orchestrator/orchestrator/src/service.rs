//! What the HTTP API calls: the orchestrator as a service, as values in and values out.

use std::sync::Arc;

use async_trait::async_trait;
use attestation::AkRecord;
use lcm::operation::Direction;
use ledger_contract::{Intent, evidence::ProvenEntry};
use tokio::sync::watch;
use trust::{Digest, Envelope, Identity, UnixTime};

use crate::{
    journal::{Journal, Listing, Mitigation},
    problem::Problem,
    views::{
        Cleaned, CleaningView, CommittedView, ComponentView, ConsistencyView, DeliveredView, DriftView,
        EventView, IntentView, NsDriftView, NsView, OperationView, PackageView, PlanView, SiteView, StepView,
        StraysView, TimelineLine,
    },
};

/// A person's decision about an operation, as it is kept on record.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Who.
    pub by: &'a str,
    /// What.
    pub what: Direction,
    /// Why.
    pub reason: &'a str,
}

/// The orchestrator as its interfaces see it.
#[async_trait]
pub trait Service: Send + Sync {
    /// Whose certificate (DER) it is, by the newest rules that are known here, and the reason when it is nobody's any more.
    fn member(&self, certificate: &[u8], at: UnixTime) -> Result<Identity, String>;
    /// Submits a signed request to the ledger: decided and durable when this returns; refused by policy is `Ok`.
    async fn submit(&self, request: Envelope) -> Result<CommittedView, Problem>;
    /// Verifies a package and stores it by digest (idempotent).
    async fn put_package(&self, content: Vec<u8>) -> Result<PackageView, Problem>;
    /// All packages, registered or stored.
    async fn packages(&self) -> Result<Vec<PackageView>, Problem>;
    /// An intent and what became of it.
    async fn intent(&self, id: &str) -> Result<IntentView, Problem>;
    /// Intents, newest first, at most `limit`: of one tenant or all, decided before a position or up to now.
    async fn intents(
        &self,
        tenant: Option<&str>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<IntentView>, Problem>;
    /// Services, oldest first: a page of those that live, or of every one there ever was.
    async fn services(&self, asked: &Listing<'_>) -> Result<Vec<NsView>, Problem>;
    /// One service, by instance id or by `tenant/service`.
    async fn ns(&self, id: &str) -> Result<NsView, Problem>;
    /// Everything that happened to a service, in order.
    async fn timeline(&self, ns: &str) -> Result<Vec<TimelineLine>, Problem>;
    /// What happened at a site and belongs to no operation, oldest first, at most the newest 1000: calls that its cloud
    /// refused, and what was done about drift.
    async fn site_timeline(&self, site: &str) -> Result<Vec<TimelineLine>, Problem>;
    /// Operations, newest first, at most `limit`: all, or those that are not anchored; older than `before`, or up to now.
    async fn operations(
        &self,
        open: bool,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<OperationView>, Problem>;
    /// The steps of an operation's plan with every attempt; none before it is planned.
    async fn steps(&self, operation: &str) -> Result<Vec<StepView>, Problem>;
    /// What became durable after number `after`, in order, at most `limit`.
    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, EventView)>, Problem>;
    /// Number of the newest event.
    async fn newest_event(&self) -> Result<u64, Problem>;
    /// How each part, and each peer, does.
    async fn components(&self) -> Vec<ComponentView>;
    /// Where the interfaces keep what must survive a restart.
    fn journal(&self) -> Arc<Journal>;
    /// One operation.
    async fn operation(&self, id: &str) -> Result<OperationView, Problem>;
    /// What would be done about an intent if it were approved now; nothing is journaled, reserved or submitted.
    async fn plan(&self, intent: Intent) -> Result<PlanView, Problem>;
    /// Has a person's decision about an operation carried out (SOL003: retry, rollback, fail).
    async fn direct_operation(&self, id: &str, order: &Order<'_>) -> Result<OperationView, Problem>;
    /// The evidence bundle of an anchored operation (JSON Lines).
    async fn bundle(&self, operation: &str) -> Result<Vec<u8>, Problem>;
    /// All sites with their room.
    async fn sites(&self) -> Result<Vec<SiteView>, Problem>;
    /// The attestation key of a site, to be signed by the operator; `rotate` makes a new one.
    async fn attestation_key(&self, site: &str, rotate: bool) -> Result<AkRecord, Problem>;
    /// Takes an approval that was carried here by hand, through the same verification as the stream.
    async fn deliver(&self, approval: ProvenEntry) -> Result<DeliveredView, Problem>;
    /// The ledger's newest checkpoint.
    async fn ledger_head(&self) -> Result<String, Problem>;
    /// The ledger's newest checkpoint with the consistency proof from the tree of `size` entries.
    async fn ledger_consistency(&self, size: u64) -> Result<ConsistencyView, Problem>;
    /// A ledger entry with its proof.
    async fn ledger_entry(&self, position: u64) -> Result<ProvenEntry, Problem>;
    /// Ledger entries, oldest first.
    async fn ledger_range(&self, from: u64, limit: usize) -> Result<Vec<String>, Problem>;
    /// The policy bundle digest in force.
    async fn policy(&self) -> Result<Digest, Problem>;
    /// What the last look at the sites found, and what is proposed about it.
    async fn drift(&self) -> Result<DriftView, Problem>;
    /// Drift of one service, what was done about it, and what may be done about it without asking.
    async fn ns_drift(&self, ns: &str) -> Result<NsDriftView, Problem>;
    /// What is there now and belongs to no service, and what was removed of such.
    async fn strays(&self) -> Result<StraysView, Problem>;
    /// Removes strays, by a person's word.
    async fn clean_strays(&self, by: &str, asked: CleaningView) -> Result<Vec<Cleaned>, Problem>;
    /// What the orchestrator did about drift, oldest first, at most the newest 1000.
    async fn mitigations(&self) -> Result<Vec<Mitigation>, Problem>;
    /// Counts up with every change of any operation: for following.
    fn changes(&self) -> watch::Receiver<u64>;
}
