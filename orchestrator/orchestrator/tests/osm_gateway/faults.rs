//! What breaks: the NBI, the ledger, we ourselves between two lines. On the stand-in alone: a real NBI does not break on demand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ledger::{Committed, Ledger, LedgerError, embedded::Log};
use ledger_contract::{evidence::ProvenEntry, intent::INTENT_PAYLOAD};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use trust::{Digest, Envelope};

use crate::{
    clients::{Osm, Setup, refused},
    nbi::{FakeNbi, Fault},
    world::plain,
};

/// How the ledger takes intents.
const WELL: u8 = 0;
/// Not at all.
const DOWN: u8 = 1;
/// It does, and the answer is lost.
const LOST: u8 = 2;
/// It does, much later.
const LATE: u8 = 3;

/// A ledger behind a bad line.
struct Line {
    inner: Log,
    how: AtomicU8,
}

impl Line {
    fn gone() -> LedgerError {
        LedgerError::Closed { reason: "the line is down".into() }
    }
}

#[async_trait]
impl Ledger for Line {
    fn name(&self) -> &str {
        self.inner.name()
    }
    async fn submit(&self, request: Envelope) -> Result<Committed, LedgerError> {
        if request.payload_type != INTENT_PAYLOAD {
            return self.inner.submit(request).await;
        }
        match self.how.load(Ordering::SeqCst) {
            DOWN => return Err(Self::gone()),
            LOST => {
                self.inner.submit(request).await?;
                return Err(Self::gone());
            }
            LATE => tokio::time::sleep(Duration::from_secs(4)).await,
            _ => {}
        }
        self.inner.submit(request).await
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

async fn on(how: u8) -> (Setup, Arc<Line>) {
    let mut setup = Setup::on_fake().await;
    setup.stop().await;
    let line = Arc::new(Line { inner: setup.world.log(), how: AtomicU8::new(how) });
    let parts = setup.world.parts(line.clone(), plain);
    setup.start_of(parts).await;
    (setup, line)
}

fn id(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_nbi_that_dies_in_the_middle_of_a_list_is_noticed() {
    let mut setup = Setup::on_fake().await;
    let alice = setup.alice().await;
    alice.post("nslcm/v1/ns_instances", &setup.ns("edge-1")).await;
    setup.fake().shelf.lock().unwrap().fault = Some(Fault::Torn);
    let answer = alice.request(Method::GET, "nslcm/v1/ns_instances").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "what has begun has begun");
    assert!(answer.text().await.is_err(), "a list that breaks off must not look like a short one");
    setup.fake().shelf.lock().unwrap().fault = Some(Fault::Broken);
    let answer = alice.post("nslcm/v1/ns_instances", &setup.ns("edge-2")).await;
    refused(&answer, 502, "OSM_GATEWAY_NBI");
    setup.fake().shelf.lock().unwrap().fault = None;
    assert_eq!(alice.names().await, ["edge-1"]);
    let Osm::Fake(nbi) = std::mem::replace(&mut setup.osm, Osm::Real("http://127.0.0.1:1/osm".into())) else {
        panic!()
    };
    nbi.stop().await;
    refused(&alice.get_any("nslcm/v1/ns_instances").await, 502, "OSM_GATEWAY_NBI");
    refused(&alice.get_any("nsd/v1/ns_descriptors").await, 502, "OSM_GATEWAY_NBI");
    refused(&alice.post("nslcm/v1/ns_instances", &setup.ns("edge-3")).await, 502, "OSM_GATEWAY_NBI");
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_ledger_nothing_is_done_and_it_is_told() {
    let (mut setup, line) = on(DOWN).await;
    let alice = setup.alice().await;
    let answer = alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await;
    refused(&answer, 503, "OSM_GATEWAY_BACKEND");
    assert_eq!(alice.names().await, Vec::<String>::new());
    line.how.store(WELL, Ordering::SeqCst);
    // Nothing comes later of what was refused.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(alice.names().await, Vec::<String>::new());
    assert_eq!(setup.world.left(), Vec::new());
    let (status, made) = alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(alice.ended(&id(&made, "nslcmop_id")).await["operationState"], "COMPLETED");
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_ledger_took_although_its_answer_was_lost_is_shown() {
    let (mut setup, line) = on(LOST).await;
    let alice = setup.alice().await;
    let answer = alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await;
    refused(&answer, 503, "OSM_GATEWAY_BACKEND");
    line.how.store(WELL, Ordering::SeqCst);
    for _ in 0..100 {
        if alice.names().await == ["edge-1"] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(alice.names().await, ["edge-1"], "the truth is the ledger's");
    // The same once more is refused: there is one.
    let again = alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await;
    assert_eq!(again.0, StatusCode::CONFLICT, "{again:?}");
    assert_eq!(setup.world.nothing_twice(), ());
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_decided_in_time_is_under_way_and_followed() {
    let (mut setup, _) = on(LATE).await;
    let alice = setup.alice().await;
    let (status, made) = alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let op = id(&made, "nslcmop_id");
    let seen = alice.get(&format!("nslcm/v1/ns_lcm_op_occs/{op}")).await;
    assert_eq!(
        (seen["operationState"].as_str(), seen["detailed-status"].as_str()),
        (Some("PROCESSING"), Some("waits for the ledger's decision"))
    );
    assert_eq!(alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await.1, made, "the same");
    let mut refusable = setup.ns("edge-2");
    refusable["additionalParamsForNs"] = json!({ "mandate": { "lease_s": 3_000_000_000_u64 } });
    let (_, late) = alice.post("nslcm/v1/ns_instances_content", &refusable).await;
    assert_eq!(alice.ended(&op).await["operationState"], "COMPLETED");
    let failed = alice.ended(&id(&late, "nslcmop_id")).await;
    assert_eq!(failed["operationState"], "FAILED");
    assert!(failed["errorMessage"].as_str().unwrap().contains("mandate intent status"), "{failed}");
    assert_eq!(
        alice.get(&format!("nslcm/v1/ns_instances/{}", id(&late, "id"))).await["nsState"],
        "NOT_INSTANTIATED"
    );
    setup.stop().await;
}

/// Killed after the operation was kept and before the ledger had it; the client asks again, and the next start submits it.
#[test]
fn killed_between_the_record_and_the_decision_it_is_decided_by_the_next_start() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let first = runtime();
    let (mut setup, made) = first.block_on(async {
        let (setup, _) = on(LATE).await;
        let alice = setup.alice().await;
        let (_, made) = alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await;
        (setup, made)
    });
    // Every task dies where it is: of the four seconds of the submission two are over.
    setup.run = None;
    first.shutdown_timeout(Duration::from_secs(1));
    let undecided = setup.world.journal().gateway_undecided().unwrap();
    assert_eq!(undecided.len(), 1, "kept, not decided");
    runtime().block_on(async {
        setup.osm = Osm::Fake(FakeNbi::of(setup.fake().shelf.clone()).await);
        setup.start().await;
        let alice = setup.alice().await;
        let (status, again) = alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await;
        assert_eq!((status, &again), (StatusCode::CREATED, &made), "the same request is the same operation");
        assert_eq!(alice.ended(&id(&made, "nslcmop_id")).await["operationState"], "COMPLETED");
        assert_eq!(alice.names().await, ["edge-1"]);
        setup.world.nothing_twice();
        setup.stop().await;
    });
}
