//! The engine: takes approvals from the ledger, carries operations out, anchors their evidence.
//!
//! [`intake`] verifies and journals approvals; [`schedule`] says whose turn it is; [`runner`] drives one operation from
//! its journal to its anchor; [`effect`] is the only place that calls a VIM; [`anchor`] folds, signs and submits the
//! evidence; [`book`] is what all of them have in memory. The engine decides nothing: what to do comes from
//! [`lcm::Operation::next`], what an error means from its disposition.

mod anchor;
mod book;
mod catalogue;
mod constitution;
mod continuity;
mod decided;
mod dry_run;
mod effect;
mod gate;
mod guard;
mod inbox;
mod intake;
mod observe;
mod reconcile;
mod runner;
mod schedule;
mod service;
mod standing;
mod storage;
mod strays;
mod verified;
mod views;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use attestation::AkRecord;
use lcm::{Event, Operation, operation::Retries};
use ledger::Ledger;
use ledger_contract::Constitution;
use mano::Mano;
use tokio::{
    sync::{Mutex, Notify, Semaphore, watch},
    task::JoinSet,
};
use trust::{Signer, TrustRoots, UnixTime};
use vim::{VimDriver, VnfControl};

use crate::{
    artifacts::ArtifactStore,
    config::{Config, SiteConfig},
    journal::{Journal, JournalError},
};

use book::{Book, Shown, Tracked, Turn};
pub use catalogue::CatalogueError;
use inbox::Inbox;
use reconcile::Look;
pub(crate) use runner::intent_of;
use schedule::{Rate, Why};
use verified::Verified;

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
    /// Does the site's TPM answer? Asked often: it neither makes a key nor uses one.
    async fn answers(&self) -> Result<(), String> {
        Ok(())
    }
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
    /// Who makes whole services at the sites that it names; `None`: we make everything ourselves.
    pub mano: Option<Arc<dyn Mano>>,
    /// Our identity: evidence and anchors are signed with it.
    pub signer: Signer,
}

/// The engine.
pub struct Engine {
    config: Config,
    constitution: RwLock<Constitution>,
    ledger: Arc<dyn Ledger>,
    journal: Arc<Journal>,
    artifacts: ArtifactStore,
    /// What the packages say that plans were made from.
    verified: Verified,
    sites: BTreeMap<String, Site>,
    mano: Option<Arc<dyn Mano>>,
    signer: Signer,
    book: RwLock<Book>,
    changes: watch::Sender<u64>,
    /// Counts the changes of the rules that were followed.
    rules: watch::Sender<u64>,
    /// Have the operations that were open at the start been taken up again?
    recovered: watch::Sender<bool>,
    retries: Retries,
    /// Something may begin, or there is room for more.
    wake: Notify,
    /// One plan at a time: each sees what the one before has reserved.
    planning: Mutex<()>,
    /// The package store is written, and cleared, by one at a time.
    storing: Mutex<()>,
    /// The index of intents is brought up to date by one at a time.
    indexing: Mutex<()>,
    /// Operations with effects at a site at once.
    site_slots: BTreeMap<String, Arc<Semaphore>>,
    /// Does the ledger answer?
    ledger_up: AtomicBool,
    /// Directions, revocations and late approvals for operations under way.
    inbox: Inbox,
    /// What the last look at the sites found.
    looked: watch::Sender<Look>,
    /// What runs now, where a cloud's services ask for it.
    shown: Shown,
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
    /// The ledger is not the one that the journal knows.
    #[error("{}: {source}; nothing is carried out on it", .source.code())]
    Discontinuity {
        /// Both heads.
        #[from]
        source: trust::continuity::Discontinuity,
    },
    /// The ledger shows a checkpoint that no log of the trust roots has signed.
    #[error(
        "LEDGER_HEAD: the ledger's checkpoint is not accepted: {0}; nothing is carried out on it: is it the ledger of trust.json?"
    )]
    Head(String),
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
        let rate = Rate { per_minute: limits.tenant_operations_per_minute, burst: limits.tenant_burst };
        let slots = |s: &Site| Arc::new(Semaphore::new(s.config.concurrent_operations));
        let engine = Self {
            constitution: RwLock::new(Constitution::pinned(
                parts.ledger.name(),
                &parts.roots,
                parts.config.accepted_policies.iter().copied().collect(),
            )),
            site_slots: parts.sites.iter().map(|(name, s)| (name.clone(), slots(s))).collect(),
            config: parts.config,
            ledger: parts.ledger,
            journal: Arc::new(parts.journal),
            artifacts: parts.artifacts,
            verified: Verified::default(),
            sites: parts.sites,
            mano: parts.mano,
            signer: parts.signer,
            book: RwLock::new(Book::new(rate)),
            changes: watch::Sender::new(0),
            rules: watch::Sender::new(0),
            recovered: watch::Sender::new(false),
            retries,
            wake: Notify::new(),
            planning: Mutex::new(()),
            storing: Mutex::new(()),
            indexing: Mutex::new(()),
            ledger_up: AtomicBool::new(true),
            inbox: Inbox::default(),
            looked: watch::Sender::new(Look::default()),
            shown: Shown::default(),
        };
        if engine.config.openstack_policy.is_some() {
            engine.write().show_in(engine.shown.clone());
        }
        engine.read_journal()?;
        Ok(Arc::new(engine))
    }

    /// Services in short, and what is not over: what had begun is resumed, what had not waits for its turn.
    fn read_journal(&self) -> Result<(), EngineError> {
        let mut book = self.write();
        for row in self.journal.live_services()? {
            let record = self.journal.record(&row.id)?;
            book.put_service(row, record.as_ref());
        }
        for id in self.journal.open_operations()? {
            let events = self.journal.events(&id)?;
            let operation = Operation::fold(&events)?;
            match self.queued(&operation) {
                Some(waiting) => book.enqueue(waiting, now_ms(), &self.journal),
                None => book.resume(operation),
            }
        }
        let begun: Vec<String> = book.live().map(|t| t.operation.grant.ns_instance_id.clone()).collect();
        drop(book);
        begun.iter().for_each(|ns| self.make_way(ns));
        self.tell_of_revocations()?;
        Ok(())
    }

    /// What was taken back while we were down is told to the operations that are under way.
    fn tell_of_revocations(&self) -> Result<(), EngineError> {
        let open: Vec<String> = {
            let book = self.read();
            let open = book.live().filter(|t| t.operation.outcome.is_none());
            open.map(|t| t.operation.grant.intent_id.clone()).collect()
        };
        for intent in open {
            if let Some((position, reason)) = self.journal.revoked_intent(&intent)? {
                self.revoke(&intent, position, &reason)?;
            }
        }
        Ok(())
    }

    /// Takes open operations up again and then follows the ledger, until `stop` says so or something fails.
    ///
    /// On stop no new step is started; effects in flight end and are journaled.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) -> Result<(), EngineError> {
        self.same_ledger().await?;
        // What is taken up again is judged by the rules that were followed before.
        if let Err(error) = self.learn_rules().await {
            tracing::warn!(%error, "changes of the rules cannot be read yet");
        }
        let mut tasks: JoinSet<Result<(), EngineError>> = JoinSet::new();
        let resumed: Vec<String> = self.read().live().map(|t| t.operation.id.clone()).collect();
        for id in resumed {
            tracing::info!(operation = id, "taken up again after a restart");
            self.spawn(&mut tasks, id, true, &stop);
        }
        self.recovered.send_replace(true);
        let (intake, stopped) = (self.clone(), stop.clone());
        tasks.spawn(async move { intake.follow(stopped).await });
        tasks.spawn(self.clone().reconcile(stop.clone()));
        tasks.spawn(self.clone().keep_store(stop.clone()));
        loop {
            let until = self.begin_what_may(&mut tasks, &stop)?;
            tokio::select! {
                biased;
                _ = stop.wait_for(|s| *s) => break,
                Some(ended) = tasks.join_next() => ended??,
                () = self.wake.notified() => {}
                () = pause_until(until) => {}
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Begins the operations whose turn it is; when to look again, if nothing happens before.
    fn begin_what_may(
        self: &Arc<Self>,
        tasks: &mut JoinSet<Result<(), EngineError>>,
        stop: &watch::Receiver<bool>,
    ) -> Result<Option<u64>, EngineError> {
        let ordinary = self.ledger_up.load(Ordering::Relaxed);
        loop {
            let mut book = self.write();
            if book.begun() >= self.config.limits.concurrent_operations {
                tracing::debug!(waiting = book.waiting(), "every place is taken");
                return Ok(None);
            }
            let (id, refused) = match book.turn(now_ms(), ordinary, &self.journal) {
                Turn::Begin(id) => (id, None),
                Turn::Refuse(id, why) => (id, Some(why)),
                Turn::Wait(until_ms) => return Ok(Some(until_ms)),
                Turn::Idle => return Ok(None),
            };
            let operation = Operation::fold(&self.journal.events(&id)?)?;
            book.track(operation);
            drop(book);
            match refused {
                None => {}
                Some(Why::Dependency(intent)) => {
                    let detail = format!("intent `{intent}` did not complete");
                    self.refuse(&id, "DEPENDENCY_NOT_COMPLETED", detail)?;
                }
                Some(Why::GivesWay(intent)) => {
                    let detail = format!("it had not begun when intent `{intent}` was approved");
                    self.refuse(&id, "PREEMPTED", detail)?;
                }
            }
            self.spawn(tasks, id, false, stop);
        }
    }

    /// Closes the door on an operation that has not begun; driving it closes and anchors it.
    fn refuse(&self, id: &str, code: &str, detail: String) -> Result<(), EngineError> {
        let event = Event::Refused { code: code.to_owned(), detail, at_ms: now_ms() };
        self.journal.append(id, std::slice::from_ref(&event))?;
        self.write().apply(id, &[event])?;
        Ok(())
    }

    /// Waits until every operation that was open at the start has been taken up again.
    pub async fn recovered(&self) {
        // The sender is ours: it does not end before we do.
        let _ = self.recovered.subscribe().wait_for(|done| *done).await;
    }

    fn spawn(
        self: &Arc<Self>,
        tasks: &mut JoinSet<Result<(), EngineError>>,
        id: String,
        recovered: bool,
        stop: &watch::Receiver<bool>,
    ) {
        let (engine, stop) = (self.clone(), stop.clone());
        tasks.spawn(async move { engine.drive(&id, recovered, stop).await });
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Book> {
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Journals events before anybody can see them folded: what is not durable has not happened. `operation` is its
    /// driver's own copy; an event that cannot follow is never written.
    async fn record(&self, operation: &mut Operation, events: Vec<Event>) -> Result<(), EngineError> {
        events.iter().try_for_each(|e| operation.apply(e))?;
        let (journal, id, written) = (self.journal.clone(), operation.id.clone(), events.clone());
        tokio::task::spawn_blocking(move || journal.append(&id, &written)).await??;
        self.write().apply(&operation.id, &events)?;
        self.changed();
        Ok(())
    }

    /// As [`Self::record`], for the event that closes it: the service as it is then goes with it.
    async fn close(&self, operation: &mut Operation, event: Event) -> Result<(), EngineError> {
        operation.apply(&event)?;
        let (journal, closed, written) = (self.journal.clone(), operation.clone(), event.clone());
        let row =
            tokio::task::spawn_blocking(move || journal.closed(&closed.id, &written, &closed)).await??;
        let mut book = self.write();
        book.apply(&operation.id, &[event])?;
        if let Some(row) = row {
            book.put_service(row, operation.record().as_ref());
        }
        book.closed(&operation.id, &self.journal);
        drop(book);
        self.changed();
        self.wake.notify_one();
        Ok(())
    }

    fn set_problem(&self, id: &str, problem: String) {
        self.write().set_problem(id, problem);
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}

async fn pause_until(until_ms: Option<u64>) {
    match until_ms {
        Some(until) => tokio::time::sleep(Duration::from_millis(until.saturating_sub(now_ms()))).await,
        None => std::future::pending().await,
    }
}
