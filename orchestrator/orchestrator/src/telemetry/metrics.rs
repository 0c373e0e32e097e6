//! Metrics: Prometheus' base units, and bounded label values.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use ledger_contract::records::Verdict;
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::views::{ComponentView, OperationView};

/// Most distinct values of one label; what comes later is counted as `other` (tenants' policies name codes of
/// their own).
const MAX_VALUES: usize = 100;

type Labels<const N: usize> = [(&'static str, String); N];
type Seconds<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// 1 ms to 33 s: from a cached answer to a long step.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

/// 10 µs to 330 ms: answers from memory.
fn answers() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 2.0, 16))
}

/// 50 µs to 1.6 s: commits to disk.
fn commits() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 16))
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    values: Mutex<BTreeSet<(&'static str, String)>>,
    requests: Family<Labels<3>, Counter>,
    request_seconds: Seconds<1>,
    decisions: Family<Labels<2>, Counter>,
    approvals_refused: Family<Labels<1>, Counter>,
    operations: Family<Labels<2>, Counter>,
    operation_seconds: Seconds<2>,
    steps: Family<Labels<2>, Counter>,
    step_seconds: Seconds<2>,
    attestations: Family<Labels<2>, Counter>,
    vim_seconds: Seconds<3>,
    journal_seconds: Histogram,
    policy_checks: Family<Labels<3>, Counter>,
    policy_seconds: Seconds<1>,
    gateway_requests: Family<Labels<2>, Counter>,
    gateway_seconds: Seconds<1>,
    gateway_refused: Family<Labels<2>, Counter>,
    /// Spans that no collector took.
    pub spans_dropped: Counter,
    /// Spans that a collector took.
    pub spans_exported: Counter,
    open: Family<Labels<2>, Gauge>,
    ready: Family<Labels<1>, Gauge>,
    found: Family<Labels<2>, Gauge<f64, AtomicU64>>,
    lag: Gauge,
    outbox: Gauge,
    outbox_age: Gauge,
    ledger_age: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut it = Self {
            registry: Registry::with_prefix("mandate"),
            values: Mutex::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            decisions: Family::default(),
            approvals_refused: Family::default(),
            operations: Family::default(),
            operation_seconds: Family::new_with_constructor(seconds),
            steps: Family::default(),
            step_seconds: Family::new_with_constructor(seconds),
            attestations: Family::default(),
            vim_seconds: Family::new_with_constructor(seconds),
            journal_seconds: commits(),
            policy_checks: Family::default(),
            policy_seconds: Family::new_with_constructor(answers),
            gateway_requests: Family::default(),
            gateway_seconds: Family::new_with_constructor(seconds),
            gateway_refused: Family::default(),
            spans_dropped: Counter::default(),
            spans_exported: Counter::default(),
            open: Family::default(),
            ready: Family::default(),
            found: Family::default(),
            lag: Gauge::default(),
            outbox: Gauge::default(),
            outbox_age: Gauge::default(),
            ledger_age: Gauge::default(),
        };
        it.register();
        it
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("build", "Version", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        r.register("api_requests", "API requests", self.requests.clone());
        let about = "Time to the first byte of an answer";
        r.register_with_unit("api_request_duration", about, Unit::Seconds, self.request_seconds.clone());
        r.register("decisions", "Requests submitted here, as the ledger decided", self.decisions.clone());
        let about = "Approvals that the orchestrator's own verification refused";
        r.register("approvals_refused", about, self.approvals_refused.clone());
        r.register("operations", "Operations by how they ended", self.operations.clone());
        let about = "From acceptance to close";
        r.register_with_unit("operation_duration", about, Unit::Seconds, self.operation_seconds.clone());
        r.register("steps", "Attempts of steps by how they ended", self.steps.clone());
        r.register_with_unit("step_duration", "One attempt", Unit::Seconds, self.step_seconds.clone());
        r.register("attestations", "Appraisals, by the check that failed", self.attestations.clone());
        let about = "Calls of VIMs and of the functions that run there";
        r.register_with_unit("vim_call_duration", about, Unit::Seconds, self.vim_seconds.clone());
        let about = "Durable commits of the journal";
        r.register_with_unit("journal_append_duration", about, Unit::Seconds, self.journal_seconds.clone());
        let about = "Policy checks of OpenStack's services, by the answer";
        r.register("policy_checks", about, self.policy_checks.clone());
        let about = "From a policy check's arrival to its answer";
        r.register_with_unit("policy_check_duration", about, Unit::Seconds, self.policy_seconds.clone());
        let about = "Requests of OSM's clients, by what became of them";
        r.register("osm_gateway_requests", about, self.gateway_requests.clone());
        let about = "Time to the first byte of an answer to a client of OSM's";
        r.register_with_unit(
            "osm_gateway_request_duration",
            about,
            Unit::Seconds,
            self.gateway_seconds.clone(),
        );
        let about = "Requests of OSM's clients that were refused, by managed project and code";
        r.register("osm_gateway_refused", about, self.gateway_refused.clone());
        r.register("trace_spans_exported", "Spans that a collector took", self.spans_exported.clone());
        r.register("trace_spans_dropped", "Spans that no collector took", self.spans_dropped.clone());
        r.register("operations_open", "Operations that are not anchored", self.open.clone());
        r.register("component_ready", "Does it do its part?", self.ready.clone());
        r.register("component_value", "What was found of it", self.found.clone());
        r.register("ledger_lag_events", "Ledger events that wait to be taken, at most 100", self.lag.clone());
        r.register("outbox_operations", "Closed operations whose evidence waits", self.outbox.clone());
        let about = "Age of the evidence that waits longest";
        r.register_with_unit("outbox_oldest", about, Unit::Seconds, self.outbox_age.clone());
        let about = "Age of the ledger's newest entry";
        r.register_with_unit("ledger_newest_entry_age", about, Unit::Seconds, self.ledger_age.clone());
    }

    /// A label's value, or `other` when there are too many of them.
    fn value(&self, label: &'static str, value: &str) -> (&'static str, String) {
        let mut known = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let new = (label, value.to_owned());
        if known.contains(&new) {
            return new;
        }
        if known.iter().filter(|(l, _)| *l == label).count() >= MAX_VALUES {
            return (label, "other".into());
        }
        known.insert(new.clone());
        new
    }

    /// An answered request; `route` is a route's template, so there are few.
    pub fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let method = match method {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS") => known,
            _ => "other",
        };
        let labels =
            [("method", method.to_owned()), ("route", route.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.get_or_create(&[("route", route.to_owned())]).observe(took.as_secs_f64());
    }

    /// What the ledger decided.
    pub fn decision(&self, verdict: &Verdict) {
        let outcome = if verdict.approved { "approved" } else { "refused" };
        let labels = [("outcome", outcome.to_owned()), self.value("code", verdict.code())];
        self.decisions.get_or_create(&labels).inc();
    }

    /// An approval that was refused here.
    pub fn approval_refused(&self, code: &str) {
        self.approvals_refused.get_or_create(&[self.value("code", code)]).inc();
    }

    /// An operation that was closed.
    pub fn operation(&self, action: &str, state: &str, took: Duration) {
        let labels = [self.value("action", action), self.value("outcome", state)];
        self.operations.get_or_create(&labels).inc();
        self.operation_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// An attempt that ended; `took` is unknown when a crash swallowed its beginning.
    pub fn step(&self, action: &str, result: &str, took: Option<Duration>) {
        let labels = [self.value("action", action), self.value("result", result)];
        self.steps.get_or_create(&labels).inc();
        if let Some(took) = took {
            self.step_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    /// An appraisal; `code` is empty when it affirms.
    pub fn attestation(&self, code: &str) {
        let result = if code.is_empty() { "affirming" } else { "contraindicated" };
        self.attestations.get_or_create(&[("result", result.to_owned()), self.value("code", code)]).inc();
    }

    /// A call of a VIM.
    pub fn vim_call(&self, site: &str, verb: &'static str, result: &'static str, took: Duration) {
        let labels = [("site", site.to_owned()), ("verb", verb.to_owned()), ("result", result.to_owned())];
        self.vim_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A policy check of a cloud's service; `code` is `ALLOWED` or why not.
    pub fn policy_check(&self, cloud: &str, service: &'static str, code: &'static str, took: Duration) {
        let labels =
            [("cloud", cloud.to_owned()), ("service", service.to_owned()), ("code", code.to_owned())];
        self.policy_checks.get_or_create(&labels).inc();
        let labels = [("service", service.to_owned())];
        self.policy_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// An answered request of a client of OSM's.
    pub fn gateway_request(&self, kind: &'static str, status: u16, took: Duration) {
        let labels = [("kind", kind.to_owned()), ("status", status.to_string())];
        self.gateway_requests.get_or_create(&labels).inc();
        self.gateway_seconds.get_or_create(&[("kind", kind.to_owned())]).observe(took.as_secs_f64());
    }

    /// A refused one.
    pub fn gateway_refused(&self, project: &str, code: &str) {
        let labels = [self.value("project", project), self.value("code", code)];
        self.gateway_refused.get_or_create(&labels).inc();
    }

    /// Where the journal's commits are observed.
    #[must_use]
    pub fn journal(&self) -> Histogram {
        self.journal_seconds.clone()
    }

    /// OpenMetrics text, with what the components say now.
    pub fn render(
        &self,
        components: &[ComponentView],
        open: &[OperationView],
    ) -> Result<String, std::fmt::Error> {
        self.observe(components, open);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn observe(&self, components: &[ComponentView], open: &[OperationView]) {
        // States come and go: those that nobody is in any more must not stand.
        self.open.clear();
        for o in open {
            let labels = [self.value("action", &o.action), self.value("state", &o.state)];
            self.open.get_or_create(&labels).inc();
        }
        for c in components {
            self.ready.get_or_create(&[("component", c.name.clone())]).set(i64::from(c.ready));
            for (name, value) in &c.values {
                let labels = [("component", c.name.clone()), ("name", name.clone())];
                #[allow(clippy::cast_precision_loss, reason = "a count or an age is far below 2^53")]
                self.found.get_or_create(&labels).set(*value as f64);
                match name.as_str() {
                    "lag_events" => self.lag.set(*value),
                    "outbox_operations" => self.outbox.set(*value),
                    "oldest_s" => self.outbox_age.set(*value),
                    "newest_entry_age_s" => self.ledger_age.set(*value),
                    _ => continue,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_base_units_and_values_are_bounded() {
        let m = Metrics::default();
        for n in 0..2 * MAX_VALUES {
            m.approval_refused(&format!("CODE_{n}"));
        }
        m.request("BREW", "/v1/ns/{id}", 200, Duration::from_millis(3));
        m.step("ensure compute", "done", Some(Duration::from_secs(1)));
        let text = m.render(&[], &[]).unwrap();
        let series = text.lines().filter(|l| l.starts_with("mandate_approvals_refused_total{"));
        assert_eq!(series.count(), MAX_VALUES + 1);
        assert!(text.contains("mandate_approvals_refused_total{code=\"other\"} 100\n"), "{text}");
        assert!(
            text.contains(
                "mandate_api_requests_total{method=\"other\",route=\"/v1/ns/{id}\",status=\"200\"} 1"
            )
        );
        assert!(
            text.contains("mandate_step_duration_seconds_count{action=\"ensure compute\",result=\"done\"} 1")
        );
        assert!(text.ends_with("# EOF\n"));
    }
}
