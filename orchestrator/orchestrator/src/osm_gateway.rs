//! The orchestrator behind the gate inside OSM (`osm-gateway`): intents go to the ledger as anybody's do, what became of them is
//! read as the API reads it, and what clients made is in the journal.
//!
//! It decides nothing and knows no shortcut: an intent of a client of OSM's is signed by its tenant's member and verified like
//! every other. Tests: `tests/osm_gateway.rs`.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use ::osm_gateway::{
    Decision, Gateway, GatewayConfig, Governed, MAX_SERVICES, NsRow, OpRow, Orchestrator, Progress, Trouble,
    Upstream,
};
use async_trait::async_trait;
use axum::serve::ListenerExt as _;
use ledger_contract::records::{PackageKind, PackageRecord};
use tokio::{net::TcpListener, sync::watch};
use trust::{Digest, Envelope};

use crate::{
    api::tls::{self, MAX_CONNECTIONS, TlsError, TlsListener},
    config::OsmSection,
    engine::{self, Engine},
    journal::{JournalError, Listing},
    problem::Problem,
    remote_policy::{Refusals, RefusedCall, Source as _, refusals::Counted},
    service::Service as _,
    telemetry::metrics::Metrics,
    views::{NsView, OperationView},
};

/// Connections of one address: many people sit behind one.
const MAX_OF_ADDRESS: usize = 512;
/// Between two writes of refusals to the journal.
const NOTE_EVERY: Duration = Duration::from_millis(500);
/// How long connections may finish what they do when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The engine as the gateway sees it.
pub struct Behind {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    refusals: Refusals,
    draining: watch::Receiver<bool>,
}

/// Where clients connect to.
pub enum Door {
    /// TLS.
    Tls(TlsListener),
    /// Plain, on this machine alone.
    Plain(TcpListener),
}

impl Door {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tls(listener) => Some(listener.address()),
            Self::Plain(listener) => listener.local_addr().ok(),
        }
    }
}

/// TLS with the configured material; `None`: plain.
pub fn material(config: &GatewayConfig) -> Result<Option<rustls::ServerConfig>, TlsError> {
    let (Some(certificate), Some(key)) = (&config.certificate, &config.key) else { return Ok(None) };
    let read = |path: &std::path::Path| {
        let bad = |e: std::io::Error| TlsError::Material {
            what: path.display().to_string(),
            reason: e.to_string(),
        };
        fs::read(path).map_err(bad)
    };
    tls::server_for_anybody(&read(certificate)?, &read(key)?).map(Some)
}

/// Listens where it is configured.
pub async fn listen(config: &GatewayConfig) -> Result<Door, TlsError> {
    match material(config)? {
        Some(tls) => TlsListener::bind_for_anybody(&config.listen, tls, MAX_OF_ADDRESS.min(MAX_CONNECTIONS))
            .await
            .map(Door::Tls),
        None => {
            let failed = |source| TlsError::Listen { address: config.listen.clone(), source };
            TcpListener::bind(&config.listen).await.map(Door::Plain).map_err(failed)
        }
    }
}

/// What the gateway needs of `[osm]`.
#[must_use]
pub fn upstream(section: &OsmSection) -> Upstream {
    Upstream {
        url: section.url.clone(),
        cacert: section.cacert.clone(),
        allow_plain_http: section.allow_plain_http,
        sites: section.sites.clone(),
    }
}

impl Behind {
    /// The engine, for the gateway.
    #[must_use]
    pub fn new(engine: Arc<Engine>, metrics: Arc<Metrics>, draining: watch::Receiver<bool>) -> Arc<Self> {
        Arc::new(Self { engine, metrics, refusals: Refusals::default(), draining })
    }

    /// Serves until `stop`, then keeps the last refusals.
    pub async fn serve(
        self: Arc<Self>,
        gateway: Arc<Gateway>,
        door: Door,
        mut stop: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let router = gateway.router();
        let mut ended = stop.clone();
        let stopped = async move { drop(ended.wait_for(|s| *s).await) };
        let server = async move {
            match door {
                Door::Tls(listener) => axum::serve(listener, router).with_graceful_shutdown(stopped).await,
                Door::Plain(listener) => {
                    // An answer is a few writes: nothing to wait for.
                    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
                    axum::serve(listener, router).with_graceful_shutdown(stopped).await
                }
            }
        };
        let outbox = gateway.outbox(stop.clone());
        let late = async {
            // An error means that the sender is gone, which is a stop too.
            let _ = stop.wait_for(|s| *s).await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        let notes = async {
            loop {
                tokio::time::sleep(NOTE_EVERY).await;
                self.write().await;
            }
        };
        let served = tokio::select! {
            served = server => served,
            () = late => Ok(()),
            () = async { outbox.await; std::future::pending().await } => Ok(()),
            () = notes => Ok(()),
        };
        self.write().await;
        served
    }

    /// Has the notes journaled; each new one is an event in the log.
    async fn write(self: &Arc<Self>) {
        let notes: Vec<_> = self.refusals.take().into_iter().collect();
        if notes.is_empty() {
            return;
        }
        let behind = self.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let new = behind.engine.keep(&notes)?;
            for (call, counted) in notes.iter().filter(|(call, _)| new.contains(call)) {
                tracing::warn!(code = call.code, ns = call.ns, "{}", call.sentence(counted));
            }
            Ok::<_, String>(())
        });
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error, "refused calls are not on record"),
            Err(error) => tracing::error!(%error, "refused calls are not on record"),
        }
    }
}

fn trouble(problem: Problem) -> Trouble {
    let hint = problem.hint.map(|h| format!("; {h}")).unwrap_or_default();
    Trouble { later: problem.status >= 500, code: problem.code, detail: format!("{}{hint}", problem.detail) }
}

fn unkept(e: JournalError) -> Trouble {
    Trouble { later: true, code: "JOURNAL".into(), detail: e.to_string() }
}

fn progress(o: &OperationView) -> Progress {
    let accepted_ms = o.accepted_at.0.saturating_mul(1000);
    Progress {
        state: o.state.clone(),
        intent_id: o.intent_id.clone(),
        action: o.action.clone(),
        steps: o.progress,
        problem: o.problem.clone(),
        accepted_ms,
        closed_ms: o.duration_ms.map(|took| accepted_ms.saturating_add(took)),
    }
}

fn governed(view: &NsView) -> Governed {
    // ns/member/vdu/index: see `lcm::planner`.
    let instance = |(key, state): &(String, String)| {
        let mut parts = key.split('/').skip(1);
        let (member, vdu, index) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        Some((member.to_owned(), vdu.to_owned(), index, state.clone()))
    };
    Governed {
        ns: view.id.clone(),
        tenant: view.tenant.clone(),
        service: view.service.clone(),
        state: view.state.clone(),
        nsd: view.nsd.clone(),
        instances: view.instances.iter().filter_map(instance).collect(),
        operations: view.operations.iter().map(progress).collect(),
    }
}

#[async_trait]
impl Orchestrator for Behind {
    async fn submit(&self, envelope: Envelope) -> Result<Decision, Trouble> {
        let committed = self.engine.submit(envelope).await.map_err(trouble)?;
        self.metrics.decision(&committed.verdict);
        let refused = committed.verdict.rules.iter().find(|r| !r.passed);
        let text = |of: fn(&ledger_contract::records::RuleResult) -> &String| {
            refused.map(of).cloned().unwrap_or_default()
        };
        Ok(Decision {
            approved: committed.verdict.approved,
            code: text(|r| &r.code),
            rule: text(|r| &r.rule),
            detail: text(|r| &r.detail),
        })
    }

    async fn progress(&self, intent_id: &str) -> Result<Option<Progress>, Trouble> {
        let journal = self.engine.journal();
        let Some(id) = journal.operation_of(intent_id).map_err(unkept)? else { return Ok(None) };
        let view = self.engine.operation(&id).await.map_err(trouble)?;
        Ok(Some(progress(&view)))
    }

    async fn service(&self, ns: &str) -> Result<Option<Governed>, Trouble> {
        match self.engine.ns(ns).await {
            Ok(view) => Ok(Some(governed(&view))),
            Err(problem) if problem.status == 404 => Ok(None),
            Err(problem) => Err(trouble(problem)),
        }
    }

    async fn services(&self, tenant: &str) -> Result<Vec<Governed>, Trouble> {
        let listing = Listing { tenant: Some(tenant), all: false, after: None, limit: MAX_SERVICES };
        let views = self.engine.services(&listing).await.map_err(trouble)?;
        Ok(views.iter().map(governed).collect())
    }

    async fn package(&self, digest: &Digest) -> Result<Option<PackageRecord>, Trouble> {
        self.engine.registered_package(digest).await.map_err(trouble)
    }

    async fn onboard(&self, package: &PackageRecord) -> Result<String, Trouble> {
        let kind = match package.kind {
            PackageKind::Vnf => mano::PackageKind::Vnf,
            PackageKind::Ns => mano::PackageKind::Ns,
        };
        let spec = mano::PackageSpec {
            kind,
            id: package.descriptor_id.clone(),
            digest: package.digest,
            images: Vec::new(),
        };
        self.engine.onboard(&spec).await.map_err(trouble)
    }

    fn put_record(&self, row: &NsRow) -> Result<(), Trouble> {
        self.engine.journal().put_gateway_record(row, engine::now_ms()).map_err(unkept)
    }

    fn record(&self, id: &str) -> Result<Option<NsRow>, Trouble> {
        self.engine.journal().gateway_record(id).map_err(unkept)
    }

    fn records(&self, project: &str) -> Result<Vec<NsRow>, Trouble> {
        self.engine.journal().gateway_records(project).map_err(unkept)
    }

    fn record_of(&self, ns: &str) -> Result<Option<NsRow>, Trouble> {
        self.engine.journal().gateway_record_of(ns).map_err(unkept)
    }

    fn put_operation(&self, row: &OpRow, record: Option<&NsRow>) -> Result<(), Trouble> {
        self.engine.journal().put_gateway_operation(row, record).map_err(unkept)
    }

    fn operation(&self, id: &str) -> Result<Option<OpRow>, Trouble> {
        self.engine.journal().gateway_operation(id).map_err(unkept)
    }

    fn operations(&self, record: &str) -> Result<Vec<OpRow>, Trouble> {
        self.engine.journal().gateway_operations(record).map_err(unkept)
    }

    fn undecided(&self) -> Result<Vec<OpRow>, Trouble> {
        self.engine.journal().gateway_undecided().map_err(unkept)
    }

    fn refused(&self, call: ::osm_gateway::RefusedCall) {
        let at_ms = engine::now_ms();
        let detail = call.detail;
        let counted = Counted { first_ms: at_ms, last_ms: at_ms, count: 1, detail, object: String::new() };
        self.metrics.gateway_refused(&call.project, &call.code);
        let call = RefusedCall {
            cloud: "osm".into(),
            service: "osm".into(),
            rule: format!("{} {}", call.method, call.topic),
            user_id: call.user,
            project_id: call.project,
            code: call.code,
            ns: call.ns,
        };
        self.refusals.note(call, counted);
    }

    fn answered(&self, kind: &'static str, status: u16, took: Duration) {
        self.metrics.gateway_request(kind, status, took);
    }

    fn draining(&self) -> bool {
        *self.draining.borrow()
    }

    fn now_ms(&self) -> u64 {
        engine::now_ms()
    }
}
