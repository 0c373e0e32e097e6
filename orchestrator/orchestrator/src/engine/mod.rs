//! The engine: takes approvals from the ledger, carries operations out, anchors their evidence.
//!
//! [`intake`] verifies and journals approvals; [`runner`] drives one operation from its journal to its anchor;
//! [`effect`] is the only place that calls a VIM; [`anchor`] folds, signs and submits the evidence. The engine decides
//! nothing: what to do comes from [`lcm::Operation::next`], what an error means from its disposition.

mod anchor;
mod catalogue;
mod effect;
mod intake;
mod runner;
mod service;
mod views;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use attestation::AkRecord;
use lcm::{Event, Operation, operation::Retries};
use ledger::Ledger;
use tokio::{
    sync::{Mutex, Semaphore, mpsc, watch},
    task::JoinSet,
};
use trust::{Digest, Signer, TrustRoots, UnixTime};
use vim::{VimDriver, VnfControl};

use crate::{
    artifacts::ArtifactStore,
    config::{Config, SiteConfig},
    journal::{Journal, JournalError},
};

pub use catalogue::CatalogueError;

/// Delivered approvals that wait for the engine; a delivery beyond waits for room.
const ARRIVALS: usize = 64;

/// A site's ports.
pub struct Site {
    /// Its configuration.
    pub config: SiteConfig,
    /// Its VIM.
    pub vim: Arc<dyn VimDriver>,
    /// The functions that run there.
    pub control: Arc<dyn VnfControl>,
    /// Its attestation key.
    pub keys: Arc<dyn KeyAdmin>,
}

/// Administration of a site's attestation key.
#[async_trait]
pub trait KeyAdmin: Send + Sync {
    /// The key that the site quotes with, valid for `valid_s` from now; with `rotate` a new one.
    async fn attestation_key(&self, rotate: bool) -> Result<AkRecord, String>;
}

/// What the engine is made of.
pub struct Parts {
    /// Configuration.
    pub config: Config,
    /// Organisations and log keys.
    pub roots: TrustRoots,
    /// The ledger.
    pub ledger: Arc<dyn Ledger>,
    /// The journal.
    pub journal: Journal,
    /// Packages and images.
    pub artifacts: ArtifactStore,
    /// Sites by name.
    pub sites: BTreeMap<String, Site>,
    /// Our identity: evidence and anchors are signed with it.
    pub signer: Signer,
}

/// The engine.
pub struct Engine {
    config: Config,
    policies: BTreeSet<Digest>,
    roots: TrustRoots,
    ledger: Arc<dyn Ledger>,
    journal: Arc<Journal>,
    artifacts: ArtifactStore,
    sites: BTreeMap<String, Site>,
    signer: Signer,
    operations: RwLock<BTreeMap<String, Tracked>>,
    changes: watch::Sender<u64>,
    slots: Arc<Semaphore>,
    retries: Retries,
    /// Operations whose approval was carried here by hand.
    arrivals: mpsc::Sender<String>,
    arrived: Mutex<mpsc::Receiver<String>>,
}

/// An operation with the events it is the fold of (for the timeline).
#[derive(Debug, Clone)]
struct Tracked {
    operation: Operation,
    events: Vec<Event>,
    /// Why its evidence is not on the ledger, when the ledger refused it.
    problem: Option<String>,
}

/// Why the engine stopped or could not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The journal failed; nothing may be done without it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal that contradicts itself.
    #[error("the journal cannot be folded: {0}")]
    Fold(#[from] lcm::operation::IllegalTransition),
    /// The ledger failed.
    #[error("ledger: {0}")]
    Ledger(#[from] ledger::LedgerError),
    /// A task of ours died.
    #[error("a task of the orchestrator ended unexpectedly: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// Folding the evidence failed.
    #[error("evidence: {0}")]
    Evidence(#[from] lcm::fold::FoldError),
    /// Something that cannot be written as JSON or signed.
    #[error("{0}")]
    Encode(String),
}

/// Wall clock, ms since the epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Wall clock, s.
pub(crate) fn now() -> UnixTime {
    UnixTime(now_ms() / 1000)
}

impl Engine {
    /// Reads the journal; nothing runs yet.
    pub fn new(parts: Parts) -> Result<Arc<Self>, EngineError> {
        let limits = &parts.config.limits;
        let retries =
            Retries { attempts: limits.step_attempts, pause_ms: limits.retry_ms, ..Retries::default() };
        let slots = Arc::new(Semaphore::new(limits.concurrent_operations));
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let mut operations = BTreeMap::new();
        for id in parts.journal.operations()? {
            let events = parts.journal.events(&id)?;
            operations.insert(id, Tracked { operation: Operation::fold(&events)?, events, problem: None });
        }
        Ok(Arc::new(Self {
            policies: parts.config.accepted_policies.iter().copied().collect(),
            config: parts.config,
            roots: parts.roots,
            ledger: parts.ledger,
            journal: Arc::new(parts.journal),
            artifacts: parts.artifacts,
            sites: parts.sites,
            signer: parts.signer,
            operations: RwLock::new(operations),
            changes: watch::Sender::new(0),
            slots,
            retries,
            arrivals,
            arrived: Mutex::new(arrived),
        }))
    }

    /// Takes open operations up again and then follows the ledger, until `stop` says so or something fails.
    ///
    /// On stop no new step is started; effects in flight end and are journaled.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) -> Result<(), EngineError> {
        let mut tasks: JoinSet<Result<(), EngineError>> = JoinSet::new();
        for id in self.open_operations() {
            self.recover(&id).await?;
            self.spawn(&mut tasks, id, stop.clone());
        }
        let mut arrived = self.arrived.lock().await;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|s| *s) => break,
                Some(ended) = tasks.join_next() => { ended??; continue }
                Some(id) = arrived.recv() => vec![id],
                accepted = self.intake() => accepted?,
            };
            for id in accepted {
                self.spawn(&mut tasks, id, stop.clone());
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }

    fn spawn(
        self: &Arc<Self>,
        tasks: &mut JoinSet<Result<(), EngineError>>,
        id: String,
        stop: watch::Receiver<bool>,
    ) {
        let engine = self.clone();
        tasks.spawn(async move { engine.drive(&id, stop).await });
    }

    fn open_operations(&self) -> Vec<String> {
        let all = self.read();
        let mut open: Vec<_> = all.values().map(|t| &t.operation).filter(|o| !o.is_anchored()).collect();
        open.sort_by_key(|o| o.approval.proof.index);
        open.into_iter().map(|o| o.id.clone()).collect()
    }

    async fn recover(&self, id: &str) -> Result<(), EngineError> {
        tracing::info!(operation = id, "taken up again after a restart");
        self.record(id, vec![Event::Recovered { at_ms: now_ms() }]).await
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Tracked>> {
        self.operations.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn operation(&self, id: &str) -> Option<Operation> {
        self.read().get(id).map(|t| t.operation.clone())
    }

    /// Journals events and only then folds them: what is not durable has not happened.
    async fn record(&self, id: &str, events: Vec<Event>) -> Result<(), EngineError> {
        let (journal, operation, written) = (self.journal.clone(), id.to_owned(), events.clone());
        self.check(id, &events)?;
        tokio::task::spawn_blocking(move || journal.append(&operation, &written)).await??;
        self.fold_in(id, events)
    }

    /// An event that cannot follow must not be written.
    fn check(&self, id: &str, events: &[Event]) -> Result<(), EngineError> {
        if let Some(mut operation) = self.operation(id) {
            events.iter().try_for_each(|e| operation.apply(e))?;
        }
        Ok(())
    }

    fn fold_in(&self, id: &str, events: Vec<Event>) -> Result<(), EngineError> {
        let mut all = self.operations.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(tracked) = all.get_mut(id) {
            for event in events {
                tracked.operation.apply(&event)?;
                tracked.events.push(event);
            }
        }
        drop(all);
        self.changed();
        Ok(())
    }

    fn set_problem(&self, id: &str, problem: String) {
        let mut all = self.operations.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(tracked) = all.get_mut(id) {
            tracked.problem = Some(problem);
        }
        drop(all);
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}
