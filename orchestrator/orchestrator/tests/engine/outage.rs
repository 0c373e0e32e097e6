//! The ledger does not answer: evidence waits, and is anchored in the order in which operations ended, once each.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use ledger::{Committed, Ledger, LedgerError, embedded::Log};
use ledger_contract::{
    evidence::ProvenEntry,
    records::{ANCHOR_PAYLOAD, Anchor, Entry},
};
use orchestrator::service::Service as _;
use tokio::sync::watch;
use trust::{Digest, Envelope};

use crate::{
    life::Life,
    world::{TENANTS, World, plain, terminate},
};

/// A ledger behind a bad line.
pub struct Line {
    pub inner: Log,
    /// Anchors are not received.
    pub anchors_lost: AtomicBool,
    /// So many replies to anchors are lost: they are committed.
    pub replies_lost: AtomicU32,
    /// So many calls to `events` fail.
    pub events_fail: AtomicU32,
    /// Nothing gets through at all.
    pub down: AtomicBool,
    /// Nobody is told of events while this is true.
    pub held: watch::Sender<bool>,
    /// The ledger refuses the evidence of this operation.
    pub refuses: Mutex<Option<String>>,
    /// What the stream says instead of an entry, by position.
    pub forged: Mutex<BTreeMap<u64, ProvenEntry>>,
}

impl Line {
    pub fn to(world: &World) -> Arc<Self> {
        Arc::new(Self {
            inner: world.log(),
            anchors_lost: AtomicBool::new(false),
            replies_lost: AtomicU32::new(0),
            events_fail: AtomicU32::new(0),
            down: AtomicBool::new(false),
            held: watch::Sender::new(false),
            refuses: Mutex::default(),
            forged: Mutex::default(),
        })
    }

    fn gone(&self) -> LedgerError {
        LedgerError::Closed { reason: "the line is down".into() }
    }

    /// Operations by the position of their anchor.
    pub async fn anchors(&self) -> Vec<String> {
        let entries = self.inner.range(0, 1_000).await.unwrap();
        let entries = entries.iter().map(|e| serde_json::from_str::<Entry>(e).unwrap());
        let anchors = entries.filter(|e| e.request.payload_type == ANCHOR_PAYLOAD);
        anchors.map(|e| anchor(&e.request).operation_id).collect()
    }
}

fn anchor(request: &Envelope) -> Anchor {
    serde_json::from_slice(&request.payload).unwrap()
}

fn one_less(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

#[async_trait]
impl Ledger for Line {
    fn name(&self) -> &str {
        self.inner.name()
    }
    async fn submit(&self, request: Envelope) -> Result<Committed, LedgerError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(self.gone());
        }
        if request.payload_type != ANCHOR_PAYLOAD {
            return self.inner.submit(request).await;
        }
        if self.anchors_lost.load(Ordering::SeqCst) {
            return Err(self.gone());
        }
        let refused = *self.refuses.lock().unwrap() == Some(anchor(&request).operation_id);
        let mut committed = self.inner.submit(request).await?;
        if refused {
            committed.entry.verdict.approved = false;
        }
        if one_less(&self.replies_lost) { Err(self.gone()) } else { Ok(committed) }
    }
    async fn events(&self, after: Option<u64>, limit: usize) -> Result<Vec<ProvenEntry>, LedgerError> {
        if one_less(&self.events_fail) || self.down.load(Ordering::SeqCst) {
            return Err(self.gone());
        }
        let mut events = self.inner.events(after, limit).await?;
        for event in &mut events {
            if let Some(forged) = self.forged.lock().unwrap().get(&event.proof.index) {
                *event = forged.clone();
            }
        }
        Ok(events)
    }
    async fn wait(&self, after: Option<u64>) -> Result<(), LedgerError> {
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        // A call under way when the line goes down does not wait for ever.
        tokio::select! {
            it = self.inner.wait(after) => it,
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => match self.down.load(Ordering::SeqCst) {
                true => Err(self.gone()),
                false => Ok(()),
            },
        }
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

/// Operations in the order in which they were closed.
async fn in_order_of_closing(life: &Life) -> Vec<String> {
    let mut closed = Vec::new();
    for ns in life.engine.services(&orchestrator::journal::Listing::of(true)).await.unwrap() {
        let lines = life.engine.timeline(&ns.id).await.unwrap();
        closed.extend(lines.into_iter().filter(|l| l.kind == "outcome").map(|l| (l.at_ms, l.operation_id)));
    }
    closed.sort();
    closed.into_iter().map(|(_, id)| id).collect()
}

async fn backlog(world: &World, line: &Arc<Line>, services: usize) -> Life {
    line.anchors_lost.store(true, Ordering::SeqCst);
    let life = Life::of(world.parts(line.clone(), plain));
    for n in 0..services {
        let deploy = world.deploy_for(TENANTS[n % TENANTS.len()], &format!("svc-{n}"));
        life.submit(world, &deploy).await;
        // More of them than operations are carried out at once: a backlog holds nobody up.
        let view = life.until(&deploy.id, |o| o.state == "COMPLETED").await;
        assert!(!view.anchored && line.anchors().await.is_empty());
        let refused = life.engine.bundle(&view.id).await.unwrap_err();
        assert_eq!((refused.status, refused.code.as_str()), (409, "NOT_ANCHORED"));
    }
    life
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_waits_for_the_ledger_and_goes_there_in_order_once() {
    let world = World::new();
    let line = Line::to(&world);
    let life = backlog(&world, &line, 5).await;
    let order = in_order_of_closing(&life).await;
    line.anchors_lost.store(false, Ordering::SeqCst);
    for n in 0..5 {
        let view = life.anchored(&format!("{}-svc-{n}-deploy", TENANTS[n % TENANTS.len()])).await;
        world.verified(&life.engine.bundle(&view.id).await.unwrap());
    }
    assert_eq!(line.anchors().await, order);
    world.nothing_twice();
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_outlives_the_orchestrator() {
    let world = World::new();
    let line = Line::to(&world);
    let life = backlog(&world, &line, 4).await;
    let order = in_order_of_closing(&life).await;
    life.end().await;
    line.anchors_lost.store(false, Ordering::SeqCst);
    let life = Life::of(world.parts(line.clone(), plain));
    for (n, tenant) in TENANTS.iter().enumerate().take(4) {
        life.anchored(&format!("{tenant}-svc-{n}-deploy")).await;
    }
    assert_eq!(line.anchors().await, order);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_whose_reply_is_lost_is_there_once() {
    let world = World::new();
    let line = Line::to(&world);
    line.replies_lost.store(1, Ordering::SeqCst);
    let life = Life::of(world.parts(line.clone(), plain));
    let view = life.carry_out(&world, &world.deploy("edge")).await;
    world.verified(&life.engine.bundle(&view.id).await.unwrap());
    assert_eq!(line.anchors().await, [view.id]);
    // The service is not in flight any more.
    assert_eq!(life.carry_out(&world, &terminate("edge")).await.state, "COMPLETED");
    life.end().await;
}

/// Evidence that the ledger refuses is a matter for people; it does not hold up that of other operations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_evidence_holds_nobody_up() {
    let world = World::new();
    let line = Line::to(&world);
    line.held.send_replace(true);
    let life = Life::of(world.parts(line.clone(), plain));
    life.submit(&world, &world.deploy("refused")).await;
    // The operation's id is that of its approval's position.
    let approval = line.inner.events(None, 10).await.unwrap().pop().unwrap();
    let delivered = life.engine.deliver(approval).await.unwrap();
    *line.refuses.lock().unwrap() = Some(delivered.operation_id);
    line.held.send_replace(false);
    for service in ["one", "two"] {
        assert_eq!(life.carry_out(&world, &world.deploy(service)).await.state, "COMPLETED");
    }
    let stuck = life.until("acme-refused-deploy", |o| o.state == "COMPLETED").await;
    assert!(!stuck.anchored);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_is_taken_up_again() {
    let world = World::new();
    let line = Line::to(&world);
    line.events_fail.store(1, Ordering::SeqCst);
    let life = Life::of(world.parts(line.clone(), plain));
    assert_eq!(life.carry_out(&world, &world.deploy("edge")).await.state, "COMPLETED");
    assert_eq!(line.events_fail.load(Ordering::SeqCst), 0);
    life.end().await;
}
