//! Metrics and spans of operations, as a fold of the journal's feed.
//!
//! One trace for each operation, from the ledger's decision to the anchor of its evidence: its identity is the trace
//! that the intent was submitted under, or is computed from the operation's id. Counters begin at zero with each
//! start, as Prometheus expects; operations that were open then are known, so that their ends have durations.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lcm::{Event, Plan, operation::StepResult};
use tokio::sync::watch;

use super::{
    Telemetry,
    otlp::Span,
    trace::{self, TraceParent},
};
use crate::{
    api::MAX_PAGE,
    journal::{Happened, Journal, JournalError},
    service::Service,
};

/// Events read at once.
const PAGE: usize = 256;
/// How long a refused approval, which changes no operation, may wait to be counted.
const IDLE: Duration = Duration::from_secs(5);

/// The context that a step's effect runs in.
pub fn step_context(journal: &Journal, operation: &str, intent: &str, name: &str) -> TraceParent {
    let parent = parent(journal, intent);
    TraceParent {
        trace_id: parent.map_or_else(|| trace::trace_id(operation), |p| p.trace_id),
        span_id: trace::span_id(operation, name),
        sampled: true,
    }
}

fn parent(journal: &Journal, intent: &str) -> Option<TraceParent> {
    // A trace is never worth an operation's failure.
    journal.trace_of(intent).ok().flatten().and_then(|text| TraceParent::parse(&text))
}

/// Follows the feed until `stop`, and what it holds then to its end.
pub async fn run(service: Arc<dyn Service>, telemetry: Telemetry, mut stop: watch::Receiver<bool>) {
    let journal = service.journal();
    let mut changes = service.changes();
    let mut fold = Fold { telemetry, journal: journal.clone(), open: BTreeMap::new() };
    let mut from = match begin(&service, &mut fold).await {
        Ok(from) => from,
        Err(error) => {
            tracing::error!(%error, "the journal cannot be read: no metrics of operations");
            return;
        }
    };
    loop {
        let stopping = *stop.borrow();
        changes.mark_unchanged();
        match fold.read(from) {
            Ok(Some(last)) => {
                from = last;
                // Let others use the journal.
                tokio::task::yield_now().await;
                continue;
            }
            Ok(None) if stopping => return,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the feed cannot be read"),
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|s| *s) => {}
            () = tokio::time::sleep(IDLE) => {}
        }
    }
}

async fn begin(service: &Arc<dyn Service>, fold: &mut Fold) -> Result<u64, JournalError> {
    // First the number, then the operations: what happens in between is seen twice, and never missed.
    let from = fold.journal.newest()?;
    let open = service.operations(true, None, MAX_PAGE).await.unwrap_or_default();
    for operation in open {
        for event in fold.journal.events(&operation.id)? {
            fold.remember(&operation.id, &event);
        }
    }
    Ok(from)
}

struct Fold {
    telemetry: Telemetry,
    journal: Arc<Journal>,
    open: BTreeMap<String, Open>,
}

/// What must be known of an operation until it ends.
struct Open {
    action: String,
    tenant: String,
    trace_id: [u8; 16],
    parent: Option<[u8; 8]>,
    decided_ms: u64,
    accepted_ms: u64,
    closed_ms: u64,
    problem: Option<String>,
    plan: Option<Arc<Plan>>,
    /// Attempts under way: number and beginning, by step and direction.
    started: BTreeMap<(u32, bool), (u32, u64)>,
}

impl Fold {
    /// Reads a page of the feed; the last number, or `None` at its end.
    fn read(&mut self, from: u64) -> Result<Option<u64>, JournalError> {
        let page = self.journal.feed(from, PAGE)?;
        let last = page.last().map(|(number, _)| *number);
        for (_, happened) in page {
            match happened {
                // Counted where it is answered.
                Happened::RefusedCall(_) => {}
                Happened::Refused(refused) => self.telemetry.metrics.approval_refused(&refused.code),
                Happened::Event { operation, event } => {
                    self.observe(&operation, &event);
                    self.remember(&operation, &event);
                }
            }
        }
        Ok(last)
    }

    /// What later events need.
    fn remember(&mut self, id: &str, event: &Event) {
        if let Event::Accepted { grant, decided_at, at_ms, .. } = event {
            let parent = parent(&self.journal, &grant.intent_id);
            let open = Open {
                action: grant.action.clone(),
                tenant: grant.tenant.clone(),
                trace_id: parent.map_or_else(|| trace::trace_id(id), |p| p.trace_id),
                parent: parent.map(|p| p.span_id),
                decided_ms: decided_at.0.saturating_mul(1_000),
                accepted_ms: *at_ms,
                closed_ms: *at_ms,
                problem: None,
                plan: None,
                started: BTreeMap::new(),
            };
            self.open.insert(id.to_owned(), open);
            return;
        }
        if matches!(event, Event::Anchored { .. }) {
            self.open.remove(id);
            return;
        }
        let Some(open) = self.open.get_mut(id) else { return };
        match event {
            Event::Planned { plan, .. } => open.plan = Some(plan.clone()),
            Event::Started { step, attempt, at_ms } => {
                open.started.insert((*step, false), (*attempt, *at_ms));
            }
            Event::UndoStarted { step, attempt, at_ms } => {
                open.started.insert((*step, true), (*attempt, *at_ms));
            }
            Event::Done { step, .. } | Event::Failed { step, .. } => {
                open.started.remove(&(*step, false));
            }
            Event::Undone { step, .. } | Event::UndoFailed { step, .. } => {
                open.started.remove(&(*step, true));
            }
            Event::Closed { outcome, at_ms } => {
                open.closed_ms = *at_ms;
                open.problem.clone_from(&outcome.problem);
            }
            _ => {}
        }
    }

    /// Counts, and makes the spans that end here.
    fn observe(&self, id: &str, event: &Event) {
        let metrics = &self.telemetry.metrics;
        let Some(open) = self.open.get(id) else { return };
        match event {
            Event::Planned { at_ms, .. } => self.span(id, open, "plan", open.accepted_ms, *at_ms, None),
            Event::Refused { code, detail, at_ms } => {
                let why = Some(format!("{code}: {detail}"));
                self.span(id, open, "plan", open.accepted_ms, *at_ms, why);
            }
            Event::Done { step, result, at_ms, .. } => {
                if matches!(**result, StepResult::Attested { .. }) {
                    metrics.attestation("");
                }
                self.step(id, open, (*step, false), "done", *at_ms, None);
            }
            Event::Failed { step, failure, at_ms, .. } => {
                if let Some(code) = failure.code.strip_prefix("ATTESTATION_") {
                    metrics.attestation(code);
                }
                let why = Some(format!("{}: {}", failure.code, failure.detail));
                self.step(id, open, (*step, false), "failed", *at_ms, why);
            }
            Event::Undone { step, at_ms, .. } => self.step(id, open, (*step, true), "undone", *at_ms, None),
            Event::UndoFailed { step, failure, at_ms, .. } => {
                let why = Some(format!("{}: {}", failure.code, failure.detail));
                self.step(id, open, (*step, true), "undo_failed", *at_ms, why);
            }
            Event::Closed { outcome, at_ms } => {
                let took = Duration::from_millis(at_ms.saturating_sub(open.accepted_ms));
                metrics.operation(&open.action, outcome.state.name(), took);
            }
            Event::Anchored { at_ms, .. } => {
                self.span(id, open, "anchor", open.closed_ms, *at_ms, None);
                self.root(id, open, *at_ms);
            }
            _ => {}
        }
    }

    fn step(&self, id: &str, open: &Open, key: (u32, bool), result: &str, at_ms: u64, why: Option<String>) {
        let step = open.plan.as_ref().and_then(|p| p.step(key.0));
        let action = step.map_or_else(|| "unknown".into(), |s| s.action.name());
        let begun = open.started.get(&key);
        let took = begun.map(|(_, since)| Duration::from_millis(at_ms.saturating_sub(*since)));
        self.telemetry.metrics.step(&action, result, took);
        let (number, since) = begun.copied().unwrap_or((0, at_ms));
        let mut span = self.child(id, open, &trace::attempt(key.0, number, key.1), since, at_ms, why);
        span.name = format!("{}{action}", if key.1 { "undo " } else { "" });
        span.attributes.extend([
            ("mandate.step", key.0.to_string()),
            ("mandate.attempt", number.to_string()),
            ("mandate.object", step.map(|s| s.action.object().to_owned()).unwrap_or_default()),
        ]);
        self.telemetry.span(span);
    }

    fn span(&self, id: &str, open: &Open, name: &str, from_ms: u64, to_ms: u64, why: Option<String>) {
        self.telemetry.span(self.child(id, open, name, from_ms, to_ms, why));
    }

    fn child(
        &self,
        id: &str,
        open: &Open,
        name: &str,
        from_ms: u64,
        to_ms: u64,
        why: Option<String>,
    ) -> Span {
        Span {
            trace_id: open.trace_id,
            span_id: trace::span_id(id, name),
            parent: Some(trace::span_id(id, "operation")),
            name: name.to_owned(),
            client: false,
            start_ns: ns(from_ms),
            end_ns: ns(to_ms.max(from_ms)),
            error: why,
            attributes: vec![("mandate.operation", id.to_owned())],
        }
    }

    /// The operation, and before it the approval's way from the ledger.
    fn root(&self, id: &str, open: &Open, at_ms: u64) {
        // The ledger's time has whole seconds, and its own clock.
        let decided = open.decided_ms.min(open.accepted_ms);
        let mut root = self.child(id, open, "operation", decided, at_ms, open.problem.clone());
        root.parent = open.parent;
        root.name = format!("operation {}", open.action);
        root.attributes.push(("mandate.tenant", open.tenant.clone()));
        self.telemetry.span(root);
        self.span(id, open, "approval", decided, open.accepted_ms, None);
    }
}

fn ns(ms: u64) -> u64 {
    ms.saturating_mul(1_000_000)
}
