//! The client of `mandate serve`: HTTP over its UNIX socket, typed, with problems decoded.
//!
//! Used by the command line and by tests of the API. It never retries by itself: requests are idempotent, and who
//! follows an operation decides how long a restart of the orchestrator may take.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use attestation::AkRecord;
use ledger_contract::evidence::ProvenEntry;
use reqwest::{Body, Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use trust::{Digest, Envelope};

use crate::{
    api::{ChangeView, CheckpointView, EntriesView, HealthView, LONG_POLL, PolicyView},
    problem::Problem,
    views::{
        CommittedView, DeliveredView, IntentView, NsView, OperationView, PackageView, SiteView, TimelineLine,
    },
};

/// Longest wait for an ordinary answer: a submission is decided and durable within seconds.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest upload of a package: verified before it is answered.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("nobody listens on {}", .socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// The connection broke or the time is over; the request may have been carried out.
    #[error("no answer from `mandate serve` on {}", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
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
    socket: PathBuf,
    base: Url,
}

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// A client for the orchestrator on this socket; nothing is connected yet.
    pub fn new(socket: &Path) -> Result<Self> {
        let not_running = |source| ClientError::NotRunning { socket: socket.to_owned(), source };
        let http = reqwest::Client::builder()
            .unix_socket(socket.to_owned())
            .timeout(TIMEOUT)
            .build()
            .map_err(|e| not_running(Some(e)))?;
        // The host is not looked up; it is what the Host header says.
        let base = Url::parse("http://mandate/v1/").map_err(|_| not_running(None))?;
        Ok(Self { http, socket: socket.to_owned(), base })
    }

    /// The socket it talks to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn request(&self, method: Method, path: &[&str], query: &[(&str, String)]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http.request(method, url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|source| {
            let socket = self.socket.clone();
            if source.is_connect() {
                ClientError::NotRunning { socket, source: Some(source) }
            } else {
                ClientError::Broken { socket, source }
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
        let bytes = bytes.map_err(|source| ClientError::Broken { socket: self.socket.clone(), source })?;
        Ok(bytes.into())
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        let status = response.status().as_u16();
        let body = self.body(response).await?;
        serde_json::from_slice(&body).map_err(|e| ClientError::Answer { status, reason: e.to_string() })
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, String)]) -> Result<T> {
        self.json(self.request(Method::GET, path, query)).await
    }

    /// Is it there, and which version is it?
    pub async fn health(&self) -> Result<HealthView> {
        self.get(&["health"], &[]).await
    }

    /// Submits a signed request; a refusal by policy is a result.
    pub async fn submit(&self, request: &Envelope) -> Result<CommittedView> {
        self.json(self.request(Method::POST, &["requests"], &[]).body(request.to_json())).await
    }

    /// Uploads a package.
    pub async fn put_package(&self, content: impl Into<Body>) -> Result<PackageView> {
        let request = self.request(Method::PUT, &["packages", "content"], &[]);
        self.json(request.timeout(UPLOAD_TIMEOUT).body(content)).await
    }

    /// All packages.
    pub async fn packages(&self) -> Result<Vec<PackageView>> {
        self.get(&["packages"], &[]).await
    }

    /// An intent.
    pub async fn intent(&self, id: &str) -> Result<IntentView> {
        self.get(&["intents", id], &[]).await
    }

    /// The newest intents.
    pub async fn intents(&self, limit: usize) -> Result<Vec<IntentView>> {
        self.get(&["intents"], &[("limit", limit.to_string())]).await
    }

    /// Services that live, or all there ever were.
    pub async fn services(&self, all: bool) -> Result<Vec<NsView>> {
        self.get(&["ns"], &[("all", all.to_string())]).await
    }

    /// A service, by instance id or `tenant/service`.
    pub async fn ns(&self, id: &str) -> Result<NsView> {
        self.get(&["ns", id], &[]).await
    }

    /// What happened to a service.
    pub async fn timeline(&self, ns: &str) -> Result<Vec<TimelineLine>> {
        self.get(&["ns", ns, "timeline"], &[]).await
    }

    /// An operation.
    pub async fn operation(&self, id: &str) -> Result<OperationView> {
        self.get(&["operations", id], &[]).await
    }

    /// The evidence bundle of an operation, exact bytes.
    pub async fn bundle(&self, operation: &str) -> Result<Vec<u8>> {
        let response =
            self.send(self.request(Method::GET, &["operations", operation, "evidence"], &[])).await?;
        self.body(response).await
    }

    /// All sites.
    pub async fn sites(&self) -> Result<Vec<SiteView>> {
        self.get(&["sites"], &[]).await
    }

    /// A site's attestation key; `rotate` makes a new one.
    pub async fn attestation_key(&self, site: &str, rotate: bool) -> Result<AkRecord> {
        let path = ["sites", site, "attestation-key"];
        if rotate {
            self.json(self.request(Method::POST, &path, &[("rotate", "true".into())])).await
        } else {
            self.get(&path, &[]).await
        }
    }

    /// Delivers an approval by hand.
    pub async fn deliver(&self, approval: &ProvenEntry) -> Result<DeliveredView> {
        self.json(self.request(Method::POST, &["approvals"], &[]).json(approval)).await
    }

    /// The ledger's newest checkpoint.
    pub async fn ledger_head(&self) -> Result<String> {
        self.get(&["ledger", "head"], &[]).await.map(|v: CheckpointView| v.checkpoint)
    }

    /// Ledger entries, exact bytes.
    pub async fn ledger_range(&self, from: u64, limit: usize) -> Result<Vec<String>> {
        let query = [("from", from.to_string()), ("limit", limit.to_string())];
        self.get(&["ledger", "entries"], &query).await.map(|v: EntriesView| v.entries)
    }

    /// A ledger entry with its proof.
    pub async fn ledger_entry(&self, position: u64) -> Result<ProvenEntry> {
        self.get(&["ledger", "entries", &position.to_string()], &[]).await
    }

    /// The policy bundle in force.
    pub async fn policy(&self) -> Result<Digest> {
        self.get(&["policy"], &[]).await.map(|v: PolicyView| v.digest)
    }

    /// Waits (at most half a minute) until the number of changes differs from `after`.
    pub async fn changes(&self, after: u64) -> Result<u64> {
        let request = self.request(Method::GET, &["changes"], &[("after", after.to_string())]);
        self.json(request.timeout(LONG_POLL + TIMEOUT)).await.map(|v: ChangeView| v.change)
    }
}
