//! The client of `mandate serve`: HTTP over its UNIX socket, or mutual TLS over TCP; typed, with problems decoded.
//!
//! Every call is an operation of the API's [catalogue](crate::api::catalogue), which the served OpenAPI document is made
//! from too: there is no path here that the document does not have. It never retries by itself: requests are idempotent
//! (each POST has its `Idempotency-Key`), and who follows an operation decides how long a restart may take.

mod sse;
mod tls;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use attestation::AkRecord;
use lcm::operation::Direction;
use ledger_contract::{Intent, evidence::ProvenEntry};
use reqwest::{Body, Method, RequestBuilder, Response, Url, header};
use serde::de::DeserializeOwned;
use trust::{Digest, Envelope};

use crate::{
    api::{
        LONG_POLL, MAX_PAGE,
        catalogue::{self as op, Operation, Verb},
    },
    journal::Mitigation,
    problem::Problem,
    views::{
        ChangeView, CheckpointView, Cleaned, CleaningView, CommittedView, ConsistencyView, DeliveredView,
        DirectionView, DriftView, EntriesView, HealthView, IntentView, NsDriftView, NsView, OperationView,
        PackageView, PlanView, PolicyView, ReadyView, SiteView, StepView, StraysView, TimelineLine,
    },
};

pub use sse::{Events, Message};
pub use tls::{ServerIdentity, TlsError};

/// Longest wait for an ordinary answer: a submission is decided and durable within seconds.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest upload of a package: verified before it is answered.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest silence on a stream: several heartbeats of the server's.
const SILENCE: Duration = Duration::from_secs(60);
/// Most pages of one list that are put together.
const MAX_PAGES: usize = 100;

/// Where the orchestrator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Its UNIX socket.
    Socket(PathBuf),
    /// Its TCP address, `https://HOST:PORT`.
    Url(String),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("nobody listens on {server}")]
    NotRunning {
        /// Where.
        server: Endpoint,
        /// Why.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// The connection broke or the time is over; the request may have been carried out.
    #[error("no answer from `mandate serve` on {server}")]
    Broken {
        /// Where.
        server: Endpoint,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Somebody listens, and one of the two does not believe the other's certificate.
    #[error("no TLS with {server}")]
    Handshake {
        /// Where.
        server: Endpoint,
        /// Is it the server that does not believe us?
        refused: bool,
        /// Why.
        #[source]
        reason: rustls::Error,
    },
    /// There can be no TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The orchestrator refused.
    #[error("{0}")]
    Problem(Problem),
    /// An answer that is none.
    #[error("`mandate serve` answered {status} with something else than was expected: {reason}")]
    Answer {
        /// HTTP status.
        status: u16,
        /// What is wrong with it.
        reason: String,
    },
}

/// A client of one orchestrator.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    server: Endpoint,
    base: Url,
}

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// A client for the orchestrator on this socket; nothing is connected yet.
    pub fn new(socket: &Path) -> Result<Self> {
        let server = Endpoint::Socket(socket.to_owned());
        let builder = reqwest::Client::builder().unix_socket(socket.to_owned());
        // The host is not looked up; it is what the Host header says.
        Self::built(builder.tls_backend_preconfigured(tls::none()?), server, "http://mandate/")
    }

    /// A client over mutual TLS, as the member whose certificate and key these are.
    pub fn over_tls(url: &str, identity: &ServerIdentity<'_>) -> Result<Self> {
        let server = Endpoint::Url(url.to_owned());
        let builder =
            reqwest::Client::builder().https_only(true).tls_backend_preconfigured(tls::config(identity)?);
        Self::built(builder, server, url)
    }

    fn built(builder: reqwest::ClientBuilder, server: Endpoint, base: &str) -> Result<Self> {
        let not_running = |source| ClientError::NotRunning { server: server.clone(), source };
        let http = builder.timeout(TIMEOUT).build().map_err(|e| not_running(Some(e)))?;
        let base = Url::parse(base).map_err(|_| not_running(None))?;
        Ok(Self { http, server, base })
    }

    /// Where it talks to.
    #[must_use]
    pub fn server(&self) -> &Endpoint {
        &self.server
    }

    fn request(&self, operation: &Operation, path: &[&str], query: &[(&str, String)]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(operation.fill(path));
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = match operation.verb {
            Verb::Get => self.http.request(Method::GET, url),
            Verb::Put => self.http.request(Method::PUT, url),
            Verb::Post => self.http.request(Method::POST, url).header("idempotency-key", fresh_key()),
        };
        match operation.body.as_ref().and_then(|b| b.contents.first()) {
            Some(content) => request.header(header::CONTENT_TYPE, content.media_type),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|source| {
            let server = self.server.clone();
            if let Some(reason) = tls::error(&source) {
                let refused = matches!(reason, rustls::Error::AlertReceived(_));
                ClientError::Handshake { server, refused, reason: reason.clone() }
            } else if source.is_connect() {
                ClientError::NotRunning { server, source: Some(source) }
            } else {
                ClientError::Broken { server, source }
            }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await?;
        Err(match serde_json::from_slice(&body) {
            Ok(problem) => ClientError::Problem(problem),
            Err(e) => ClientError::Answer { status: status.as_u16(), reason: e.to_string() },
        })
    }

    async fn body(&self, response: Response) -> Result<Vec<u8>> {
        let bytes = response.bytes().await;
        let bytes = bytes.map_err(|source| ClientError::Broken { server: self.server.clone(), source })?;
        Ok(bytes.into())
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        let status = response.status().as_u16();
        let body = self.body(response).await?;
        serde_json::from_slice(&body).map_err(|e| ClientError::Answer { status, reason: e.to_string() })
    }

    async fn get<T: DeserializeOwned>(
        &self,
        operation: &Operation,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T> {
        self.json(self.request(operation, path, query)).await
    }

    /// All pages of a list, at most [`MAX_PAGES`] of [`MAX_PAGE`].
    async fn all<T: DeserializeOwned>(
        &self,
        operation: &Operation,
        query: &[(&str, String)],
    ) -> Result<Vec<T>> {
        let (mut out, mut marker) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let mut query = query.to_vec();
            query.push(("limit", MAX_PAGE.to_string()));
            query.extend(marker.map(|m| (op::MARKER.name, m)));
            let response = self.send(self.request(operation, &[], &query)).await?;
            let (status, next) = (response.status().as_u16(), next_marker(&response));
            let body = self.body(response).await?;
            let page: Vec<T> = serde_json::from_slice(&body)
                .map_err(|e| ClientError::Answer { status, reason: e.to_string() })?;
            out.extend(page);
            match next {
                Some(next) => marker = Some(next),
                None => break,
            }
        }
        Ok(out)
    }

    /// Is it there, and which version is it?
    pub async fn health(&self) -> Result<HealthView> {
        self.get(&op::HEALTH, &[], &[]).await
    }

    /// Can it do its work, part by part? Not ready is an answer.
    pub async fn ready(&self) -> Result<ReadyView> {
        let request = self.request(&op::READY, &[], &[]);
        let response = request.send().await.map_err(|source| {
            let server = self.server.clone();
            ClientError::NotRunning { server, source: Some(source) }
        })?;
        let status = response.status().as_u16();
        let body = self.body(response).await?;
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(ClientError::Problem(problem)),
            Err(_) => serde_json::from_slice(&body)
                .map_err(|e| ClientError::Answer { status, reason: e.to_string() }),
        }
    }

    /// Submits a signed request; a refusal by policy is a result.
    pub async fn submit(&self, request: &Envelope) -> Result<CommittedView> {
        self.json(self.request(&op::SUBMIT, &[], &[]).body(request.to_json())).await
    }

    /// Uploads a package.
    pub async fn put_package(&self, content: impl Into<Body>) -> Result<PackageView> {
        self.json(self.request(&op::PUT_PACKAGE, &[], &[]).timeout(UPLOAD_TIMEOUT).body(content)).await
    }

    /// All packages.
    pub async fn packages(&self) -> Result<Vec<PackageView>> {
        self.all(&op::PACKAGES, &[]).await
    }

    /// An intent.
    pub async fn intent(&self, id: &str) -> Result<IntentView> {
        self.get(&op::INTENT, &[id], &[]).await
    }

    /// The newest intents.
    pub async fn intents(&self, limit: usize) -> Result<Vec<IntentView>> {
        self.get(&op::INTENTS, &[], &[("limit", limit.to_string())]).await
    }

    /// Services that live, or all there ever were.
    pub async fn services(&self, all: bool) -> Result<Vec<NsView>> {
        self.all(&op::SERVICES, &[("all", all.to_string())]).await
    }

    /// A service, by instance id or `tenant/service`.
    pub async fn ns(&self, id: &str) -> Result<NsView> {
        self.get(&op::SERVICE, &[id], &[]).await
    }

    /// Drift of a service, and what was done about it.
    pub async fn ns_drift(&self, ns: &str) -> Result<NsDriftView> {
        self.get(&op::NS_DRIFT, &[ns], &[]).await
    }

    /// What happened to a service.
    pub async fn timeline(&self, ns: &str) -> Result<Vec<TimelineLine>> {
        self.get(&op::TIMELINE, &[ns], &[]).await
    }

    /// What happened at a site and belongs to no operation.
    pub async fn site_timeline(&self, site: &str) -> Result<Vec<TimelineLine>> {
        self.get(&op::SITE_TIMELINE, &[site], &[]).await
    }

    /// Operations, newest first: all, or those that are not closed and anchored; at most `limit`.
    pub async fn operations(&self, open: bool, limit: usize) -> Result<Vec<OperationView>> {
        let query = [("open", open.to_string()), ("limit", limit.to_string())];
        self.get(&op::OPERATIONS, &[], &query).await
    }

    /// An operation.
    pub async fn operation(&self, id: &str) -> Result<OperationView> {
        self.get(&op::GET_OPERATION, &[id], &[]).await
    }

    /// What would be done about an intent if it were approved now.
    pub async fn plan(&self, intent: &Intent) -> Result<PlanView> {
        self.json(self.request(&op::PLAN, &[], &[]).json(intent)).await
    }

    /// Has an operation tried again, taken back or ended; the answer is how it is until that is carried out.
    pub async fn direct(&self, operation: &str, what: Direction, reason: &str) -> Result<OperationView> {
        let of = match what {
            Direction::Retry => &op::RETRY,
            Direction::Rollback => &op::ROLLBACK,
            Direction::Fail => &op::FAIL,
        };
        let direction = DirectionView { reason: reason.to_owned() };
        self.json(self.request(of, &[operation], &[]).json(&direction)).await
    }

    /// The steps of an operation, with every attempt.
    pub async fn steps(&self, operation: &str) -> Result<Vec<StepView>> {
        self.get(&op::STEPS, &[operation], &[]).await
    }

    /// What happens from now on (or after the event of this number), of one service or of all.
    pub async fn events(&self, ns: Option<&str>, after: Option<u64>) -> Result<Events> {
        let query: Vec<_> = ns.map(|ns| ("ns", ns.to_owned())).into_iter().collect();
        let mut request = self.request(&op::EVENTS, &[], &query).header(header::ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        // The stream as a whole has no end; its silence has a bound.
        let response = self.send(request.timeout(Duration::MAX)).await?;
        Ok(Events::new(response, self.server.clone(), SILENCE))
    }

    /// The evidence bundle of an operation, exact bytes.
    pub async fn bundle(&self, operation: &str) -> Result<Vec<u8>> {
        let response = self.send(self.request(&op::EVIDENCE, &[operation], &[])).await?;
        self.body(response).await
    }

    /// All sites.
    pub async fn sites(&self) -> Result<Vec<SiteView>> {
        self.all(&op::SITES, &[]).await
    }

    /// A site's attestation key; `rotate` makes a new one.
    pub async fn attestation_key(&self, site: &str, rotate: bool) -> Result<AkRecord> {
        if rotate {
            self.json(self.request(&op::NEW_ATTESTATION_KEY, &[site], &[("rotate", "true".into())])).await
        } else {
            self.get(&op::ATTESTATION_KEY, &[site], &[]).await
        }
    }

    /// Delivers an approval by hand.
    pub async fn deliver(&self, approval: &ProvenEntry) -> Result<DeliveredView> {
        self.json(self.request(&op::DELIVER, &[], &[]).json(approval)).await
    }

    /// The ledger's newest checkpoint.
    pub async fn ledger_head(&self) -> Result<String> {
        self.get(&op::LEDGER_HEAD, &[], &[]).await.map(|v: CheckpointView| v.checkpoint)
    }

    /// The ledger's newest checkpoint with the consistency proof from the tree of `size` entries.
    pub async fn ledger_consistency(&self, size: u64) -> Result<ConsistencyView> {
        self.get(&op::LEDGER_CONSISTENCY, &[&size.to_string()], &[]).await
    }

    /// Ledger entries, exact bytes.
    pub async fn ledger_range(&self, from: u64, limit: usize) -> Result<Vec<String>> {
        let query = [("from", from.to_string()), ("limit", limit.to_string())];
        self.get(&op::LEDGER_ENTRIES, &[], &query).await.map(|v: EntriesView| v.entries)
    }

    /// A ledger entry with its proof.
    pub async fn ledger_entry(&self, position: u64) -> Result<ProvenEntry> {
        self.get(&op::LEDGER_ENTRY, &[&position.to_string()], &[]).await
    }

    /// The policy bundle in force.
    pub async fn policy(&self) -> Result<Digest> {
        self.get(&op::POLICY, &[], &[]).await.map(|v: PolicyView| v.digest)
    }

    /// What the last look at every site found, and what is proposed about it.
    pub async fn drift(&self) -> Result<DriftView> {
        self.get(&op::DRIFT, &[], &[]).await
    }

    /// What belongs to no service.
    pub async fn strays(&self) -> Result<StraysView> {
        self.get(&op::STRAYS, &[], &[]).await
    }

    /// Removes strays.
    pub async fn clean_strays(&self, cleaning: &CleaningView) -> Result<Vec<Cleaned>> {
        self.json(self.request(&op::CLEAN, &[], &[]).json(cleaning)).await
    }

    /// What was done about drift, oldest first.
    pub async fn mitigations(&self) -> Result<Vec<Mitigation>> {
        self.all(&op::MITIGATIONS, &[]).await
    }

    /// Waits (at most half a minute) until the number of changes differs from `after`.
    pub async fn changes(&self, after: u64) -> Result<u64> {
        let request = self.request(&op::CHANGES, &[], &[("after", after.to_string())]);
        self.json(request.timeout(LONG_POLL + TIMEOUT)).await.map(|v: ChangeView| v.change)
    }
}

/// A key that nobody has used: 128 random bits, or the clock where there is no randomness (never, on Linux).
fn fresh_key() -> String {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        bytes = since.as_nanos().to_be_bytes();
    }
    hex::encode(bytes)
}

/// The marker in a `Link` to the next page.
fn next_marker(response: &Response) -> Option<String> {
    let link = response.headers().get(header::LINK)?.to_str().ok()?;
    let (target, relation) = link.split_once('>')?;
    let query = target.split_once('?')?.1;
    let marker = query.split('&').find_map(|p| p.strip_prefix("nextpage_opaque_marker="))?;
    relation.contains("rel=\"next\"").then(|| marker.to_owned())
}
