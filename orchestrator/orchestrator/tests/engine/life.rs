//! Lives of the orchestrator: one that is started and stopped as `mandate serve` is, and one that dies on the spot.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use async_trait::async_trait;
use attestation::Evidence;
use dataplane_control::{
    protocol::Status,
    traffic::{TrafficProfile, TrafficReport},
};
use futures::task::AtomicWaker;
use lcm::operation::Direction;
use ledger::{Committed, Ledger, LedgerError};
use ledger_contract::{Intent, evidence::ProvenEntry};
use orchestrator::{
    engine::{Engine, EngineError, Parts},
    service::Service as _,
    views::{CommittedView, OperationView},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use trust::{Digest, Envelope};
use vim::{
    Capabilities, DriverError, Inventory, Kind, ObjectKey, Observed, Scope, Spec, VimDriver, VnfControl,
    fake::FakeVim,
};

use crate::world::{Ports, World, plain};

/// Longest that an operation may take here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who decides here about what is FAILED_TEMP.
pub const PERSON: &str = "operator@operator";

/// An engine that runs.
pub struct Life {
    pub engine: Arc<Engine>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), EngineError>>,
}

impl Life {
    pub fn start(world: &World) -> Self {
        Self::of(world.parts(Arc::new(world.log()), plain))
    }

    pub fn of(parts: Parts) -> Self {
        let engine = Engine::new(parts).unwrap();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(engine.clone().run(stopped));
        Self { engine, stop, task }
    }

    /// Stops it in good order.
    pub async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }

    /// Submits an intent that the ledger approves.
    pub async fn submit(&self, world: &World, intent: &Intent) -> CommittedView {
        let committed = self.engine.submit(world.signed(intent)).await.unwrap();
        assert!(committed.verdict.approved, "{}: {:?}", intent.id, committed.verdict);
        committed
    }

    /// The operation of an intent once it is as it should be.
    pub async fn until(&self, intent: &str, good: impl Fn(&OperationView) -> bool) -> OperationView {
        tokio::time::timeout(PATIENCE, until(&self.engine, intent, good)).await.unwrap_or_else(|_| {
            panic!("{intent} takes too long; the engine runs: {}", !self.task.is_finished())
        })
    }

    pub async fn anchored(&self, intent: &str) -> OperationView {
        self.until(intent, |o| o.anchored).await
    }

    /// Submits an intent and waits until its evidence is anchored. Where a person is called, one comes, and ends it as it
    /// stands.
    pub async fn carry_out(&self, world: &World, intent: &Intent) -> OperationView {
        self.submit(world, intent).await;
        let view = self.until(&intent.id, |o| o.anchored || o.state == "FAILED_TEMP").await;
        if view.state == "FAILED_TEMP" {
            self.engine.direct(&view.id, "olga@op", Direction::Fail, "looked at it").unwrap();
        }
        self.anchored(&intent.id).await
    }

    /// Submits an intent and waits until it is over, or a person is needed.
    pub async fn attempt(&self, world: &World, intent: &Intent) -> OperationView {
        self.submit(world, intent).await;
        self.until(&intent.id, |o| o.anchored || o.state == "FAILED_TEMP").await
    }

    /// Decides, as a person, about an operation that is FAILED_TEMP, and waits until it is over.
    pub async fn decide(&self, view: &OperationView, what: Direction) -> OperationView {
        self.engine.direct(&view.id, PERSON, what, "looked at").unwrap();
        self.anchored(&view.intent_id).await
    }
}

async fn until(engine: &Engine, intent: &str, good: impl Fn(&OperationView) -> bool) -> OperationView {
    let mut changes = engine.changes();
    let mut id: Option<String> = None;
    loop {
        changes.borrow_and_update();
        // The intent is looked up in the ledger; its operation is at hand.
        let found = match &id {
            Some(id) => engine.operation(id).await.ok(),
            None => engine.intent(intent).await.ok().and_then(|v| v.operation),
        };
        id = id.or_else(|| found.as_ref().map(|o| o.id.clone()));
        if let Some(operation) = found.filter(&good) {
            return operation;
        }
        changes.changed().await.unwrap();
    }
}

/// At which moment the orchestrator dies, counted from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    Never,
    /// Right after the n-th change was journaled, before anything else happens.
    AfterAppend(u64),
    /// The VIM's n-th call has not taken effect.
    BeforeEffect(u32),
    /// The VIM's n-th call has taken effect; nobody was told.
    AfterEffect(u32),
    /// The ledger's n-th submission was not received.
    BeforeAnchor(u32),
    /// The ledger's n-th submission is committed; nobody was told.
    AfterAnchor(u32),
}

/// How a life ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Died,
    /// The operation's evidence is anchored.
    Anchored(Box<OperationView>),
}

/// One life, on a runtime of its own with a single thread, which ends with it: at the given death, or when the evidence
/// of the intent's operation is anchored. Nothing that ran in it goes on.
pub fn live(world: &World, ledger: &Arc<dyn Ledger>, intent: &str, death: Death) -> End {
    live_until(world, ledger, (intent, |o| o.anchored), death)
}

/// As [`live`], until the operation is as it should be.
pub fn live_until(
    world: &World,
    ledger: &Arc<dyn Ledger>,
    (intent, good): (&str, fn(&OperationView) -> bool),
    death: Death,
) -> End {
    let reaper = Arc::new(Reaper::new(death));
    let mortal = Arc::new(MortalLedger { inner: ledger.clone(), reaper: reaper.clone() });
    let ports = |vim: &Arc<FakeVim>| -> Ports {
        let mortal = Arc::new(MortalVim { inner: vim.clone(), reaper: reaper.clone() });
        (mortal.clone(), mortal)
    };
    // One task at a time, and the future of `block_on` before each: no step is taken after a death.
    let runtime =
        tokio::runtime::Builder::new_current_thread().event_interval(1).enable_all().build().unwrap();
    let parts = world.parts(mortal, ports);
    let lived = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async { tokio::time::timeout(PATIENCE, life(parts, (intent, good), &reaper)).await })
    }));
    drop(runtime);
    match lived {
        Ok(Ok(end)) => end,
        Ok(Err(_)) => panic!("{intent}, {death:?}: it takes too long"),
        Err(cause) if cause.is::<Killed>() => End::Died,
        Err(cause) => resume_unwind(cause),
    }
}

async fn life(parts: Parts, (intent, good): (&str, fn(&OperationView) -> bool), reaper: &Arc<Reaper>) -> End {
    let engine = Engine::new(parts).unwrap();
    let (_stop, stopped) = watch::channel(false);
    let run = engine.clone().run(stopped);
    let fate = fate(engine.changes(), reaper);
    tokio::select! {
        biased;
        () = fate => End::Died,
        view = until(&engine, intent, good) => End::Anchored(Box::new(view)),
        // A task of the engine that the reaper took ends the engine too.
        ended = run => match ended {
            Err(EngineError::Task(e)) if e.is_panic() && reaper.struck() => End::Died,
            other => panic!("{intent}: the engine ended: {other:?}"),
        },
    }
}

/// What a panic of the reaper carries: no message, no backtrace.
struct Killed;

struct Reaper {
    death: Death,
    calls: AtomicU32,
    submissions: AtomicU32,
    changes: std::sync::OnceLock<watch::Receiver<u64>>,
    parent: AtomicWaker,
    dead: Notify,
    struck: AtomicU32,
}

impl Reaper {
    fn new(death: Death) -> Self {
        Self {
            death,
            calls: AtomicU32::new(0),
            submissions: AtomicU32::new(0),
            changes: std::sync::OnceLock::new(),
            parent: AtomicWaker::new(),
            dead: Notify::new(),
            struck: AtomicU32::new(0),
        }
    }

    fn struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst) > 0
    }

    /// From inside a call: it never returns.
    async fn strike(&self) {
        self.struck.store(1, Ordering::SeqCst);
        self.dead.notify_one();
        std::future::pending::<()>().await;
    }

    /// A call between two deaths.
    async fn around<T>(
        &self,
        count: &AtomicU32,
        deaths: [fn(u32) -> Death; 2],
        call: impl Future<Output = T>,
    ) -> T {
        let n = count.fetch_add(1, Ordering::SeqCst) + 1;
        if self.death == deaths[0](n) {
            self.strike().await;
        }
        let out = call.await;
        if self.death == deaths[1](n) {
            self.strike().await;
        }
        out
    }

    async fn effect<T>(&self, call: impl Future<Output = T>) -> T {
        self.around(&self.calls, [Death::BeforeEffect, Death::AfterEffect], call).await
    }

    fn changes_are_over(&self) -> bool {
        matches!(self.death, Death::AfterAppend(n) if self.changes.get().is_some_and(|c| *c.borrow() >= n))
    }
}

/// The engine says that something changed, right after it was journaled, by waking who waits for changes: so the waker
/// is the place to die at, in the middle of what the engine does.
impl Wake for Reaper {
    fn wake(self: Arc<Self>) {
        if self.changes_are_over() {
            self.struck.store(1, Ordering::SeqCst);
            self.dead.notify_one();
            resume_unwind(Box::new(Killed));
        }
        self.parent.wake();
    }
}

/// Ends when the life does.
async fn fate(changes: watch::Receiver<u64>, reaper: &Arc<Reaper>) {
    let _ = reaper.changes.set(changes.clone());
    let mut changes = changes;
    let mut every = pin!(async move { while changes.changed().await.is_ok() {} });
    let waker = Waker::from(reaper.clone());
    let mut dead = pin!(reaper.dead.notified());
    std::future::poll_fn(|cx| {
        reaper.parent.register(cx.waker());
        let _ = every.as_mut().poll(&mut Context::from_waker(&waker));
        if reaper.changes_are_over() { Poll::Ready(()) } else { dead.as_mut().poll(cx) }
    })
    .await;
}

struct MortalVim {
    inner: Arc<FakeVim>,
    reaper: Arc<Reaper>,
}

#[async_trait]
impl VimDriver for MortalVim {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        self.inner.capabilities().await
    }
    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, DriverError> {
        self.reaper.effect(self.inner.ensure(key, spec)).await
    }
    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), DriverError> {
        self.reaper.effect(self.inner.remove(key, kind)).await
    }
    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        self.inner.observe(scope).await
    }
}

#[async_trait]
impl VnfControl for MortalVim {
    async fn status(&self, key: &ObjectKey) -> Result<Status, DriverError> {
        self.inner.status(key).await
    }
    async fn attest(&self, keys: &[ObjectKey], nonce: &Digest) -> Result<Evidence, DriverError> {
        self.reaper.effect(self.inner.attest(keys, nonce)).await
    }
    async fn run_traffic(
        &self,
        key: &ObjectKey,
        profile: &TrafficProfile,
    ) -> Result<TrafficReport, DriverError> {
        self.reaper.effect(self.inner.run_traffic(key, profile)).await
    }
    async fn isolate(&self, key: &ObjectKey, on: bool) -> Result<(), DriverError> {
        self.reaper.effect(self.inner.isolate(key, on)).await
    }
    async fn announce(&self, key: &ObjectKey) -> Result<(), DriverError> {
        self.reaper.effect(self.inner.announce(key)).await
    }
}

struct MortalLedger {
    inner: Arc<dyn Ledger>,
    reaper: Arc<Reaper>,
}

#[async_trait]
impl Ledger for MortalLedger {
    fn name(&self) -> &str {
        self.inner.name()
    }
    async fn submit(&self, request: Envelope) -> Result<Committed, LedgerError> {
        let deaths = [Death::BeforeAnchor as fn(u32) -> Death, Death::AfterAnchor];
        self.reaper.around(&self.reaper.submissions, deaths, self.inner.submit(request)).await
    }
    async fn events(&self, after: Option<u64>, limit: usize) -> Result<Vec<ProvenEntry>, LedgerError> {
        self.inner.events(after, limit).await
    }
    async fn wait(&self, after: Option<u64>) -> Result<(), LedgerError> {
        self.inner.wait(after).await
    }
    async fn entry(&self, position: u64) -> Result<Option<ProvenEntry>, LedgerError> {
        self.inner.entry(position).await
    }
    async fn range(&self, from: u64, limit: usize) -> Result<Vec<String>, LedgerError> {
        self.inner.range(from, limit).await
    }
    async fn head(&self) -> Result<String, LedgerError> {
        self.inner.head().await
    }
    async fn consistency(&self, old_size: u64) -> Result<Vec<Digest>, LedgerError> {
        self.inner.consistency(old_size).await
    }
    async fn state(&self, key: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        self.inner.state(key).await
    }
    async fn state_prefix(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        self.inner.state_prefix(prefix).await
    }
}
