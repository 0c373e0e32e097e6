//! What is seen of the orchestrator from outside: metrics for Prometheus, traces for OTLP.
//!
//! Neither is written by the engine. Both are folds of the journal's feed ([`follow`]), as the evidence is: what is not
//! durable is not counted, and what is traced is what was journaled. Only what the journal does not know is observed
//! where it happens: API requests (by the gate), VIM calls ([`vim`]) and the journal's own commits.
//!
//! It never slows anything down: whatever a collector does not take is dropped, and counted.
//! Tests: beside each module; `tests/telemetry.rs` has an engine traced to a collector.

pub mod follow;
pub mod metrics;
pub mod otlp;
pub mod trace;
pub mod vim;

use std::sync::Arc;

use tokio::sync::mpsc;

use metrics::Metrics;
use otlp::Span;

/// Where everything that is seen goes.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    spans: Option<mpsc::Sender<Span>>,
}

impl Telemetry {
    /// Metrics, and spans into this queue.
    #[must_use]
    pub fn with_spans(spans: mpsc::Sender<Span>) -> Self {
        Self { metrics: Arc::default(), spans: Some(spans) }
    }

    /// Is anybody interested in spans?
    #[must_use]
    pub fn traces(&self) -> bool {
        self.spans.is_some()
    }

    /// Hands a span over; one for which there is no room is dropped and counted.
    pub fn span(&self, span: Span) {
        if let Some(queue) = &self.spans
            && queue.try_send(span).is_err()
        {
            self.metrics.spans_dropped.inc();
        }
    }
}

/// Wall clock, ns since the epoch.
fn now_ns() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
