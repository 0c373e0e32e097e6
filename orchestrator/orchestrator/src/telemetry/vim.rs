//! VIM calls, counted and traced where they happen: a port in front of a port.
//!
//! A call is a span of the step that it is made for: the engine says which through [`within`]. The driver finds the
//! call's own span in [`vim::trace::current`], to hand on.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use async_trait::async_trait;
use attestation::Evidence;
use dataplane_control::{
    protocol::Status,
    traffic::{TrafficProfile, TrafficReport},
};
use trust::Digest;
use vim::{
    Adoption, Capabilities, Capture, CaptureSpec, Changed, Disposition, DriverError, Inventory, Kind,
    ObjectKey, Observed, Scope, Spec, VimDriver, VnfControl,
};

use super::{
    Telemetry, now_ns,
    otlp::Span,
    trace::{TraceParent, span_id},
};

tokio::task_local! {
    static STEP: TraceParent;
}

/// Runs an effect as part of a step's span.
pub async fn within<F: Future>(step: TraceParent, effect: F) -> F::Output {
    STEP.scope(step, effect).await
}

/// The step that is being worked in, if any.
fn current() -> Option<TraceParent> {
    STEP.try_with(|step| *step).ok()
}

/// A port that is watched.
pub struct Watched<P: ?Sized> {
    site: String,
    telemetry: Telemetry,
    port: Arc<P>,
}

impl<P: ?Sized> Watched<P> {
    /// Watches the port of a site.
    pub fn new(site: &str, telemetry: &Telemetry, port: Arc<P>) -> Self {
        Self { site: site.to_owned(), telemetry: telemetry.clone(), port }
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        object: &str,
        call: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T, DriverError> {
        let (began, start_ns) = (Instant::now(), now_ns());
        let step = current();
        let id = |s: &TraceParent| span_id(&hex::encode(s.span_id), &format!("{verb} {object} {start_ns}"));
        let own = step.map(|s| TraceParent { span_id: id(&s), ..s });
        let answer = vim::trace::within(own.map(|o| o.to_string().into()), call).await;
        let result = match &answer {
            Ok(_) => "ok",
            Err(e) => match e.disposition {
                Disposition::Retry => "retry",
                Disposition::Compensate => "compensate",
                Disposition::Unknown => "unknown",
                Disposition::Escalate => "escalate",
                Disposition::Elsewhere => "elsewhere",
            },
        };
        self.telemetry.metrics.vim_call(&self.site, verb, result, began.elapsed());
        if let (Some(step), Some(own)) = (step, own) {
            let error = answer.as_ref().err().map(|e| format!("{}: {}", e.code, e.reason));
            self.telemetry.span(self.span((step, own), verb, object, start_ns, error));
        }
        answer
    }

    fn span(
        &self,
        (step, own): (TraceParent, TraceParent),
        verb: &str,
        object: &str,
        start_ns: u64,
        error: Option<String>,
    ) -> Span {
        Span {
            trace_id: step.trace_id,
            span_id: own.span_id,
            parent: Some(step.span_id),
            name: format!("vim {verb}"),
            client: true,
            start_ns,
            end_ns: now_ns(),
            error,
            attributes: vec![("mandate.site", self.site.clone()), ("mandate.object", object.to_owned())],
        }
    }
}

#[async_trait]
impl VimDriver for Watched<dyn VimDriver> {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        self.call("capabilities", "", self.port.capabilities()).await
    }
    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, DriverError> {
        self.call("ensure", key.as_str(), self.port.ensure(key, spec)).await
    }
    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), DriverError> {
        self.call("remove", key.as_str(), self.port.remove(key, kind)).await
    }
    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        self.call("observe", "", self.port.observe(scope)).await
    }
    async fn adopt(&self, found: &[Adoption]) -> Result<BTreeMap<ObjectKey, Observed>, DriverError> {
        let object = found.first().map_or("", |a| a.key.as_str());
        self.call("adopt", object, self.port.adopt(found)).await
    }
    async fn fault(&self, id: &str) -> Result<Option<String>, DriverError> {
        self.call("fault", id, self.port.fault(id)).await
    }
    // It waits for as long as nothing happens: not a call that takes time.
    async fn changed(&self, after: u64) -> Changed {
        self.port.changed(after).await
    }
}

#[async_trait]
impl VnfControl for Watched<dyn VnfControl> {
    async fn status(&self, key: &ObjectKey) -> Result<Status, DriverError> {
        self.call("status", key.as_str(), self.port.status(key)).await
    }
    async fn attest(&self, keys: &[ObjectKey], nonce: &Digest) -> Result<Evidence, DriverError> {
        self.call("attest", "", self.port.attest(keys, nonce)).await
    }
    async fn run_traffic(
        &self,
        key: &ObjectKey,
        profile: &TrafficProfile,
    ) -> Result<TrafficReport, DriverError> {
        self.call("run_traffic", key.as_str(), self.port.run_traffic(key, profile)).await
    }
    async fn isolate(&self, key: &ObjectKey, on: bool) -> Result<(), DriverError> {
        self.call("isolate", key.as_str(), self.port.isolate(key, on)).await
    }
    async fn announce(&self, key: &ObjectKey) -> Result<(), DriverError> {
        self.call("announce", key.as_str(), self.port.announce(key)).await
    }
    async fn capture(&self, key: &ObjectKey, spec: &CaptureSpec) -> Result<Capture, DriverError> {
        self.call("capture", key.as_str(), self.port.capture(key, spec)).await
    }
}
