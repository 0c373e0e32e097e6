//! A session with a cloud: token, catalogue, microversions, and one way to ask.
//!
//! What every call shares is here: the token is got once, renewed before it expires and got again on a 401; the catalogue comes
//! with it; each service's microversion is negotiated once. A call that certainly did nothing (no connection, 429, 503) is
//! made again within a bound, waiting as long as the answer says; a call whose answer was lost is made again only when the
//! verb is idempotent. Everything else is the caller's: finding what a lost POST made is by our tags ([`crate::driver`]).
//! Calls are counted by service ([`Client::calls`]).
//!
//! Why this is not somebody's SDK: ADR 0026. Tests: `tests/session.rs` against a cloud that misbehaves on demand, and
//! `tests/yoga.rs` against a real one.

mod answer;
mod auth;
mod bulk;
mod version;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, StatusCode, Url, header};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Mutex;

pub use answer::{ApiError, Fault};
pub use http_peer::segment;
pub use version::Microversion;

use crate::config::{BadConfig, CloudConfig};
use auth::Session;

/// Times that a call which certainly did nothing is made in all.
const MAX_TRIES: u32 = 4;
/// First pause before it is made again, when the answer names none; doubled each time, with jitter.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause that an answer may ask for: who waits longer waits in the engine.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// glance's name of a JSON patch.
const PATCH: &str = "application/openstack-images-v2.1-json-patch";
/// Longest answer that is read, bytes: a list of ten thousand servers with everything.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A service of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// keystone.
    Identity,
    /// nova.
    Compute,
    /// neutron.
    Network,
    /// glance.
    Image,
    /// placement.
    Placement,
    /// cinder, which a cloud need not have.
    Volume,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Identity, Self::Compute, Self::Network, Self::Image, Self::Placement, Self::Volume];

    /// Its type in the catalogue (service types authority).
    #[must_use]
    pub fn catalogue_type(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Compute => "compute",
            Self::Network => "network",
            Self::Image => "image",
            Self::Placement => "placement",
            Self::Volume => "block-storage",
        }
    }

    /// The types by which catalogues have it.
    pub(crate) fn types(self) -> &'static [&'static str] {
        match self {
            Self::Volume => &["block-storage", "volumev3"],
            Self::Identity => &["identity"],
            Self::Compute => &["compute"],
            Self::Network => &["network"],
            Self::Image => &["image"],
            Self::Placement => &["placement"],
        }
    }

    /// The project's name, which people say.
    #[must_use]
    pub fn project(self) -> &'static str {
        match self {
            Self::Identity => "keystone",
            Self::Compute => "nova",
            Self::Network => "neutron",
            Self::Image => "glance",
            Self::Placement => "placement",
            Self::Volume => "cinder",
        }
    }
}

/// How many calls were made to each service, in the order of [`Service::ALL`]; tries that were made again count each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls(pub [u64; 6]);

impl Calls {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Those made since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut out = *self;
        out.0.iter_mut().zip(before.0).for_each(|(now, then)| *now = now.saturating_sub(then));
        out
    }
}

/// A session with a cloud; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: CloudConfig,
    identity: Url,
    http: reqwest::Client,
    session: Mutex<Option<Arc<Session>>>,
    versions: Mutex<version::Known>,
    calls: [AtomicU64; 6],
    /// Calls that change something whose answers were lost.
    lost: AtomicU64,
}

/// What a call carries.
#[derive(Debug, Clone)]
enum Content {
    Nothing,
    Json(serde_json::Value),
    /// JSON patch, in glance's own form.
    Patch(serde_json::Value),
    /// A file's bytes.
    File(PathBuf),
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    service: Service,
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    body: Content,
    /// A second time changes nothing, although it is a POST.
    repeatable: bool,
    /// Sent although the service has it only from this version on.
    least: Option<Microversion>,
    /// Asked in this version, although the service has a newer one.
    most: Option<Microversion>,
}

impl Call {
    /// A call of a service; `path` is below its endpoint, its parts escaped ([`segment`]).
    #[must_use]
    pub fn new(service: Service, method: Method, path: impl Into<String>) -> Self {
        let path = path.into();
        let (query, body) = (Vec::new(), Content::Nothing);
        Self { service, method, path, query, body, repeatable: false, least: None, most: None }
    }

    /// GET.
    #[must_use]
    pub fn get(service: Service, path: impl Into<String>) -> Self {
        Self::new(service, Method::GET, path)
    }

    /// With a parameter of the query.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// With a document.
    #[must_use]
    pub fn json(mut self, body: &impl Serialize) -> Self {
        // What cannot be encoded is a defect, and the service refuses `null`.
        self.body = Content::Json(serde_json::to_value(body).unwrap_or_default());
        self
    }

    /// With a JSON patch of an image.
    pub(crate) fn patch(mut self, patch: serde_json::Value) -> Self {
        self.body = Content::Patch(patch);
        self
    }

    /// With the bytes of a file; it may take an hour.
    pub(crate) fn file(mut self, file: &Path) -> Self {
        self.body = Content::File(file.to_owned());
        self
    }

    /// It says who or what it makes: a second time finds it, or sets the same again.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Needs at least this microversion of its service.
    #[must_use]
    pub fn least(mut self, version: Microversion) -> Self {
        self.least = Some(version);
        self
    }

    /// In the words of this microversion where a newer one means something else.
    #[must_use]
    pub fn most(mut self, version: Microversion) -> Self {
        self.most = Some(version);
        self
    }

    fn idempotent(&self) -> bool {
        self.repeatable || matches!(self.method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE)
    }

    fn place(&self) -> String {
        format!("{} {} {}", self.service.project(), self.method, self.path)
    }
}

/// Before a call is made again: the pause; `None`: it is not.
fn again(error: &ApiError, idempotent: bool, tries: u32) -> Option<Duration> {
    let same_again = matches!(error.fault, Fault::Unreadable { .. });
    let harmless = error.did_nothing() || idempotent && error.is_lost() && !same_again;
    if !harmless || tries >= MAX_TRIES {
        return None;
    }
    let pause = error.retry_after().unwrap_or_else(|| http_peer::backoff(PAUSE, tries)).min(MAX_PAUSE);
    tracing::debug!(%error, pause_ms = pause.as_millis(), "asked again");
    Some(pause)
}

impl Client {
    /// A session that asks nothing yet.
    pub fn new(config: CloudConfig) -> Result<Self, BadConfig> {
        let identity = config.identity()?;
        let timeout = Duration::from_secs(config.timeout_s.clamp(1, 600));
        let http = http_peer::client(config.cacert.as_deref(), "cacert", timeout)?;
        let inner = Inner {
            config,
            identity,
            http,
            session: Mutex::new(None),
            versions: Mutex::default(),
            calls: Default::default(),
            lost: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> Calls {
        let mut out = Calls::default();
        out.0.iter_mut().zip(&self.inner.calls).for_each(|(n, c)| *n = c.load(Ordering::Relaxed));
        out
    }

    /// Calls so far that change something and whose answers were lost, those that were made again included: whatever they were to do may
    /// still be done.
    pub(crate) fn lost(&self) -> u64 {
        self.inner.lost.load(Ordering::Relaxed)
    }

    /// The project that the token is scoped to.
    pub async fn project_id(&self) -> Result<String, ApiError> {
        Ok(self.session().await?.project_id.clone())
    }

    /// The document that answers.
    pub async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ApiError> {
        let bytes = self.send(call).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| ApiError::new(call.place(), Fault::Unreadable { problem: e.to_string() }))
    }

    /// A call whose answer says nothing that is needed.
    pub async fn tell(&self, call: &Call) -> Result<(), ApiError> {
        self.send(call).await.map(|_| ())
    }

    /// A deletion; what is not there is deleted.
    pub async fn delete(&self, service: Service, path: impl Into<String>) -> Result<(), ApiError> {
        match self.tell(&Call::new(service, Method::DELETE, path)).await {
            Err(e) if e.is_absent() => Ok(()),
            other => other,
        }
    }

    /// Where a service is.
    pub(crate) async fn endpoint(&self, service: Service) -> Result<Url, ApiError> {
        if service == Service::Identity {
            return Ok(self.inner.identity.clone());
        }
        self.session().await?.endpoint(service, &self.inner.config)
    }

    /// Makes the call as often as it takes; an answer that is no success is an error.
    async fn send(&self, call: &Call) -> Result<Vec<u8>, ApiError> {
        let (mut tries, mut renewed) = (1, false);
        loop {
            let error = match self.once(call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.is_lost() && !matches!(call.method, Method::GET | Method::HEAD) {
                self.inner.lost.fetch_add(1, Ordering::Relaxed);
            }
            if error.status() == Some(StatusCode::UNAUTHORIZED) && !renewed {
                // Expired early or revoked: once more with a new one.
                renewed = true;
                self.forget().await;
                continue;
            }
            match again(&error, call.idempotent(), tries) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
            tries += 1;
        }
    }

    async fn once(&self, call: &Call) -> Result<Vec<u8>, ApiError> {
        let session = self.session().await?;
        let base = self.endpoint(call.service).await?;
        let version = self.version(call.service).await?;
        if let Some(least) = call.least.filter(|least| version.is_none_or(|v| v < *least)) {
            let has = version.map_or("none".to_owned(), |v| v.to_string());
            return Err(ApiError::new(call.place(), Fault::TooOld { needs: least, has }));
        }
        let mut url = base.join(&call.path).map_err(|e| {
            ApiError::new(call.place(), Fault::Unreadable { problem: format!("its URL: {e}") })
        })?;
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = self.inner.http.request(call.method.clone(), url);
        request = request.header("X-Auth-Token", session.token()).header(header::ACCEPT, "application/json");
        if let Some(version) = version.map(|v| call.most.map_or(v, |most| most.min(v))) {
            request = request
                .header("OpenStack-API-Version", format!("{} {version}", call.service.catalogue_type()));
        }
        request = match &call.body {
            Content::Nothing => request,
            Content::Json(body) => request.json(body),
            Content::Patch(patch) => request.header(header::CONTENT_TYPE, PATCH).body(patch.to_string()),
            Content::File(file) => bulk::with_file(request, file, call).await?,
        };
        self.count(call.service);
        let answer = request.send().await.map_err(|e| ApiError::sent(call.place(), &e))?;
        answer::bounded(answer::checked(answer, call).await?, MAX_ANSWER_BYTES, call).await
    }

    fn count(&self, service: Service) {
        let at = Service::ALL.iter().position(|s| *s == service).unwrap_or_default();
        self.inner.calls[at].fetch_add(1, Ordering::Relaxed);
        vim::calls::made();
    }
}
