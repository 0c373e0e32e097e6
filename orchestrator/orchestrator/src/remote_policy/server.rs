//! The server: HTTPS with mutual TLS, one kind of request, `True` or `False`.
//!
//! `POST /v1/CLOUD/SERVICE/RULE` with what oslo.policy sends. The answer's body is what its `https:` rules look for; why
//! not is in the headers `mandate-code` and `mandate-reason`, which the plugin writes to the service's log. Anything but an
//! allowed call is answered with `False`, whatever else is wrong with the request. Who may ask is whoever has a certificate
//! of the configured CA, which should sign for the services alone.

use std::{fs, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::Response,
    routing::post,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::{sync::watch, time::Instant};

use super::{
    config::PolicyConfig,
    decision::{Refusal, decide},
    refusals::{Counted, Refusals, RefusedCall},
    request::{MAX_BODY_BYTES, Question},
    rules::Service,
    running::Running,
};
use crate::{
    api::tls::{self, MAX_CONNECTIONS, TlsError, TlsListener},
    engine::now_ms,
    telemetry::metrics::Metrics,
};

/// Longest time in which a question must arrive: the services are near, and their callers wait.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two writes of refusals to the journal: so late may one appear on the timeline.
const NOTE_EVERY: Duration = Duration::from_millis(500);
/// How long connections may finish what they do when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Longest reason in a header, bytes.
const MAX_REASON: usize = 512;

/// What the answers are made from, and where refusals are kept.
pub trait Source: Send + Sync + 'static {
    /// What runs now; answered from memory.
    fn running(&self) -> Arc<Running>;
    /// Keeps refusals, durably; those that are new rather than counted.
    fn keep(&self, refused: &[(RefusedCall, Counted)]) -> Result<Vec<RefusedCall>, String>;
}

/// Answers the services of the configured clouds.
pub struct Gate {
    config: PolicyConfig,
    source: Arc<dyn Source>,
    metrics: Arc<Metrics>,
    refusals: Refusals,
}

/// TLS with the configured material: read whole before anything is replaced.
pub fn material(config: &PolicyConfig) -> Result<ServerConfig, TlsError> {
    let bad = |what: &std::path::Path, reason: String| TlsError::Material {
        what: what.display().to_string(),
        reason,
    };
    let read = |path: &std::path::Path| fs::read(path).map_err(|e| bad(path, e.to_string()));
    let ca = &config.client_ca;
    let mut clients = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read(ca)?) {
        let certificate = certificate.map_err(|e| bad(ca, e.to_string()))?;
        clients.add(certificate).map_err(|e| bad(ca, e.to_string()))?;
    }
    tls::server_for(clients, &read(&config.certificate)?, &read(&config.key)?)
}

/// Listens where it is configured. All of a cloud's services may share one certificate.
pub async fn listen(config: &PolicyConfig) -> Result<TlsListener, TlsError> {
    TlsListener::bind_for(&config.listen, material(config)?, MAX_CONNECTIONS).await
}

impl Gate {
    /// A gate of these clouds.
    #[must_use]
    pub fn new(config: PolicyConfig, source: Arc<dyn Source>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { config, source, metrics, refusals: Refusals::default() })
    }

    /// Serves until `stop`, then keeps the last refusals.
    pub async fn serve(
        self: Arc<Self>,
        listener: TlsListener,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let app = Router::new().route("/v1/{cloud}/{service}/{rule}", post(answer)).with_state(self.clone());
        let mut ended = stop.clone();
        let stopped = async move { drop(ended.wait_for(|s| *s).await) };
        let server = axum::serve(listener, app).with_graceful_shutdown(stopped).into_future();
        let late = async {
            // An error means that the sender is gone, which is a stop too.
            let _ = stop.wait_for(|s| *s).await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        let served = tokio::select! {
            served = server => served,
            () = late => Ok(()),
            () = self.clone().keep_notes() => Ok(()),
        };
        self.write().await;
        served
    }

    async fn keep_notes(self: Arc<Self>) {
        loop {
            tokio::time::sleep(NOTE_EVERY).await;
            self.write().await;
        }
    }

    /// Has the notes journaled; each new one is an event in the log.
    async fn write(self: &Arc<Self>) {
        let notes: Vec<_> = self.refusals.take().into_iter().collect();
        if notes.is_empty() {
            return;
        }
        let gate = self.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let new = gate.source.keep(&notes)?;
            for (call, counted) in notes.iter().filter(|(call, _)| new.contains(call)) {
                tracing::warn!(
                    cloud = call.cloud,
                    code = call.code,
                    ns = call.ns,
                    "{}",
                    call.sentence(counted)
                );
            }
            Ok::<_, String>(())
        });
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error, "refused calls are not on record"),
            Err(error) => tracing::error!(%error, "refused calls are not on record"),
        }
    }

    async fn decide(
        &self,
        (cloud, service, rule): (&str, &str, &str),
        request: Request,
    ) -> Result<Option<String>, Refusal> {
        let refuse = |code, detail: String| Refusal { code, detail, ns: None };
        let known = self.config.clouds.get(cloud);
        let known = known.ok_or_else(|| refuse("CLOUD_UNKNOWN", "no cloud of this name".into()))?;
        let service: Service =
            service.parse().map_err(|()| refuse("SERVICE_UNKNOWN", "no service of this name".into()))?;
        let question = read(request).await.map_err(|e| refuse("UNREADABLE", e))?;
        let running = self.source.running();
        match decide(known, (service, rule), &question, &running) {
            Ok(operation) => Ok(operation.map(str::to_owned)),
            Err(refusal) => {
                self.note(cloud, (service, rule), &question, &refusal);
                Err(refusal)
            }
        }
    }

    fn note(&self, cloud: &str, rule: (Service, &str), question: &Question, refusal: &Refusal) {
        let at_ms = now_ms();
        let counted = Counted {
            first_ms: at_ms,
            last_ms: at_ms,
            count: 1,
            detail: refusal.detail.clone(),
            object: question.target.id.clone(),
        };
        self.refusals.note(RefusedCall::of(cloud, rule, question, refusal), counted);
    }
}

async fn answer(
    State(gate): State<Arc<Gate>>,
    Path((cloud, service, rule)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    let began = Instant::now();
    let decided = gate.decide((&cloud, &service, &rule), request).await;
    let known = gate.config.clouds.contains_key(&cloud);
    let service = service.parse::<Service>().map_or("unknown", Service::name);
    let code = decided.as_ref().map_or_else(|r| r.code, |_| "ALLOWED");
    gate.metrics.policy_check(if known { &cloud } else { "unknown" }, service, code, began.elapsed());
    reply(&decided)
}

/// The body, within bounds.
async fn read(request: Request) -> Result<Question, String> {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    let media_type = media_type.and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let body = tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), MAX_BODY_BYTES)).await;
    let body = body.map_err(|_| format!("it did not arrive within {} s", BODY_TIMEOUT.as_secs()))?;
    let body = body.map_err(|e| format!("{e} (at most {MAX_BODY_BYTES} bytes)"))?;
    Question::parse(&media_type, &body).map_err(|e| e.0)
}

fn reply(decided: &Result<Option<String>, Refusal>) -> Response {
    let mut response = Response::new(Body::from(if decided.is_ok() { "True" } else { "False" }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let Err(refusal) = decided {
        headers.insert("mandate-code", HeaderValue::from_static(refusal.code));
        let plain = |c: &char| c.is_ascii_graphic() || *c == ' ';
        let reason: String = refusal.detail.chars().filter(plain).take(MAX_REASON).collect();
        if let Ok(reason) = HeaderValue::from_str(&reason) {
            headers.insert("mandate-reason", reason);
        }
        if matches!(refusal.code, "UNREADABLE" | "CLOUD_UNKNOWN" | "SERVICE_UNKNOWN") {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
    }
    response
}
