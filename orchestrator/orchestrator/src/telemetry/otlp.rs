//! Sends spans to an OpenTelemetry collector: OTLP over HTTP, protobuf (`POST …/v1/traces`).
//!
//! Spans wait in a bounded queue and go in batches. A collector that does not answer is tried a few times; then the
//! batch is dropped and counted, and said once.

use std::{sync::Arc, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as Wire, Status, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use tokio::sync::mpsc;

use super::metrics::Metrics;

/// Spans that wait; an operation of 50 steps makes about 110.
pub const QUEUE: usize = 4_096;
/// Spans of one request.
const BATCH: usize = 512;
/// How long a batch is gathered.
const GATHER: Duration = Duration::from_millis(500);
/// Longest request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Tries of a batch.
const ATTEMPTS: u32 = 3;
/// Pause before the second try; doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// A span that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Trace.
    pub trace_id: [u8; 16],
    /// Its id.
    pub span_id: [u8; 8],
    /// The span it is part of.
    pub parent: Option<[u8; 8]>,
    /// What it is.
    pub name: String,
    /// Is it a call of somebody else?
    pub client: bool,
    /// Beginning, ns since the epoch.
    pub start_ns: u64,
    /// End, ns since the epoch.
    pub end_ns: u64,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What else is known.
    pub attributes: Vec<(&'static str, String)>,
}

fn attribute(key: &str, value: impl Into<String>) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.into())) };
    KeyValue { key: key.into(), value: Some(value), ..KeyValue::default() }
}

fn wire(span: Span) -> Wire {
    let status = match &span.error {
        Some(why) => Status { message: why.clone(), code: StatusCode::Error.into() },
        None => Status { message: String::new(), code: StatusCode::Ok.into() },
    };
    Wire {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        parent_span_id: span.parent.map(|p| p.to_vec()).unwrap_or_default(),
        name: span.name,
        kind: if span.client { SpanKind::Client } else { SpanKind::Internal }.into(),
        start_time_unix_nano: span.start_ns,
        end_time_unix_nano: span.end_ns,
        attributes: span.attributes.into_iter().map(|(k, v)| attribute(k, v)).collect(),
        status: Some(status),
        ..Wire::default()
    }
}

/// The request for a batch, encoded.
fn encode(batch: Vec<Span>, instance: &str) -> Vec<u8> {
    let resource = Resource {
        attributes: vec![
            attribute("service.name", "mandate"),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
            attribute("service.instance.id", instance),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "mandate".into(), ..InstrumentationScope::default() };
    let spans = batch.into_iter().map(wire).collect();
    let scope_spans = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
    let resource_spans = ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

/// Sends what is queued until the queue's senders are gone.
pub async fn export(
    endpoint: String,
    instance: String,
    mut queue: mpsc::Receiver<Span>,
    metrics: Arc<Metrics>,
) {
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let client = match client() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(error, "no traces: no HTTP client");
            return;
        }
    };
    let mut reachable = true;
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        if batch.len() < BATCH {
            let rest = BATCH - batch.len();
            // Steps end together: a moment more makes one request of many.
            tokio::time::sleep(GATHER).await;
            for _ in 0..rest {
                let Ok(span) = queue.try_recv() else { break };
                batch.push(span);
            }
        }
        let count = batch.len() as u64;
        match send(&client, &url, encode(std::mem::take(&mut batch), &instance)).await {
            Ok(()) => {
                metrics.spans_exported.inc_by(count);
                reachable = true;
            }
            Err(error) => {
                metrics.spans_dropped.inc_by(count);
                if std::mem::take(&mut reachable) {
                    tracing::warn!(
                        url,
                        error,
                        "the trace collector does not take spans; they are dropped until it does"
                    );
                }
            }
        }
    }
}

fn client() -> Result<reqwest::Client, String> {
    // A collector behind https is verified against the machine's roots; a provider that is there already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(TIMEOUT).build().map_err(|e| e.to_string())
}

async fn send(client: &reqwest::Client, url: &str, body: Vec<u8>) -> Result<(), String> {
    let mut pause = PAUSE;
    let mut last = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        let request = client.post(url).header("content-type", "application/x-protobuf").body(body.clone());
        match request.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            // Only what the specification calls retryable is tried again.
            Ok(answer) if !matches!(answer.status().as_u16(), 429 | 502 | 503 | 504) => {
                return Err(format!("it answers {}", answer.status()));
            }
            Ok(answer) => last = format!("it answers {}", answer.status()),
            Err(e) => last = e.to_string(),
        }
    }
    Err(last)
}
