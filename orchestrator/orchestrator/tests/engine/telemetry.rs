//! What an operation leaves for a trace collector and for Prometheus: decoded by a collector of ours, which is nobody's
//! exporter turned around but reads OTLP's protobuf as it comes over HTTP.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use orchestrator::{
    service::Service as _,
    telemetry::{
        Telemetry, follow,
        otlp::{self, QUEUE},
        trace,
        vim::Watched,
    },
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{mpsc, watch},
};
use vim::{
    Capabilities, DriverError, Inventory, Kind, ObjectKey, Observed, Scope, Spec, VimDriver, VnfControl,
    fake::FakeVim,
};

use crate::{life::Life, world::World};

type Spans = Arc<Mutex<Vec<Span>>>;

/// Takes what is posted to `/v1/traces`, one request per connection.
async fn collector() -> (String, Spans) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let spans = Spans::default();
    let into = spans.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            let (head, length) = loop {
                assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
                let text = String::from_utf8_lossy(&bytes).to_lowercase();
                if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                    assert!(text.starts_with("post /v1/traces ") && text.contains("application/x-protobuf"));
                    let length = text.split("content-length: ").nth(1).unwrap();
                    break (end + 4, length.split("\r\n").next().unwrap().parse::<usize>().unwrap());
                }
            };
            while bytes.len() < head + length {
                assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
            }
            let request = ExportTraceServiceRequest::decode(&bytes[head..]).unwrap();
            let scopes = request.resource_spans.into_iter().flat_map(|r| r.scope_spans);
            into.lock().unwrap().extend(scopes.flat_map(|s| s.spans));
            let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(ok).await.unwrap();
        }
    });
    (url, spans)
}

/// A driver that keeps the contexts it is called in, as one that talks HTTP would send them.
struct Listening {
    inner: Arc<FakeVim>,
    heard: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl VimDriver for Listening {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        self.inner.capabilities().await
    }
    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, DriverError> {
        self.heard.lock().unwrap().extend(vim::trace::current().map(|c| c.to_string()));
        self.inner.ensure(key, spec).await
    }
    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), DriverError> {
        self.inner.remove(key, kind).await
    }
    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        assert_eq!(vim::trace::current(), None, "a look at the sites is of no step");
        self.inner.observe(scope).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_one_trace_from_the_ledger_to_the_vim() {
    let world = World::new();
    let (url, spans) = collector().await;
    let (send, queue) = mpsc::channel(QUEUE);
    let telemetry = Telemetry::with_spans(send);
    let exporter = tokio::spawn(otlp::export(url, "test".into(), queue, telemetry.metrics.clone()));
    let watched = telemetry.clone();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listening = heard.clone();
    let parts = world.parts(Arc::new(world.log()), move |fake| {
        let vim: Arc<dyn VimDriver> = Arc::new(Listening { inner: fake.clone(), heard: listening.clone() });
        let control: Arc<dyn VnfControl> = fake.clone();
        (
            Arc::new(Watched::new("edge-a", &watched, vim)) as Arc<dyn VimDriver>,
            Arc::new(Watched::new("edge-a", &watched, control)) as Arc<dyn VnfControl>,
        )
    });
    let life = Life::of(parts);
    let (stop, stopped) = watch::channel(false);
    let follower = tokio::spawn(follow::run(life.engine.clone(), telemetry.clone(), stopped));

    // The first has a parent of its client's, the second has none.
    let mut first = world.deploy("edge");
    first.id = "i-traced".into();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    life.engine.journal().keep_trace(&first.id, parent).unwrap();
    let traced = life.carry_out(&world, &first).await;
    let own = life.carry_out(&world, &world.deploy("other")).await;
    let engine = life.engine.clone();
    stop.send_replace(true);
    follower.await.unwrap();
    let text = telemetry.metrics.render(&engine.components().await, &[]).unwrap();
    life.end().await;
    drop((telemetry, engine));
    exporter.await.unwrap();

    let spans = spans.lock().unwrap().clone();
    let of = |trace: &[u8]| spans.iter().filter(|s| s.trace_id == trace).cloned().collect::<Vec<_>>();
    let theirs = of(&hex::decode("4bf92f3577b34da6a3ce929d0e0e4736").unwrap());
    let root = theirs.iter().find(|s| s.name == "operation deploy").unwrap();
    assert_eq!(hex::encode(&root.parent_span_id), "00f067aa0ba902b7");
    assert!(traced.progress.1 > 5, "{traced:?}");

    let ours = of(&trace::trace_id(&own.id));
    let root = ours.iter().find(|s| s.name == "operation deploy").unwrap();
    assert!(root.parent_span_id.is_empty());
    for name in ["approval", "plan", "ensure network", "ensure compute", "attest", "measure", "anchor"] {
        let span = ours.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no `{name}`"));
        assert_eq!(span.parent_span_id, root.span_id, "{name}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{name}");
    }
    let calls: Vec<_> = ours.iter().filter(|s| s.name == "vim ensure").collect();
    assert!(!calls.is_empty());
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard.len(), spans.iter().filter(|s| s.name == "vim ensure").count());
    for call in calls {
        // The driver was called in the call's own span: what it sends on continues the trace.
        let header = format!("00-{}-{}-01", hex::encode(&call.trace_id), hex::encode(&call.span_id));
        assert!(heard.contains(&header), "{header}: {heard:?}");
        let step = ours.iter().find(|s| s.span_id == call.parent_span_id).unwrap();
        assert!(step.name.starts_with("ensure "), "a VIM call is part of its step, not of {}", step.name);
    }
    let mut ids: Vec<_> = spans.iter().map(|s| s.span_id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), spans.len(), "no two spans are the same");

    for line in [
        "mandate_operations_total{action=\"deploy\",outcome=\"COMPLETED\"} 2",
        "mandate_attestations_total{result=\"affirming\",code=\"\"} 2",
        "mandate_steps_total{action=\"measure\",result=\"done\"} 2",
        "mandate_component_ready{component=\"journal\"} 1",
        "mandate_outbox_operations 0",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
