//! A session with OSM's northbound interface (NBI): a token, one way to ask, and every call counted.
//!
//! What every call shares is here. JSON is asked for explicitly: without it, or with `*/*`, the NBI answers YAML. A token is
//! got once, renewed before it expires and got again when it is refused; a wrong password is tried once and then not again
//! until it is another one, because the fifth locks the account. A call that certainly did nothing is made again within
//! a bound, and so is one whose answer was lost when it may be (GET, DELETE); a POST, PUT or PATCH whose answer was lost is
//! the driver's to find out about: the NBI has no idempotency key.
//!
//! Names of query parameters are ours alone ([`Call::query`] takes no text of others): `?METHOD=DELETE` in a query would override
//! the verb, `?FORCE`, `?ADMIN` and `?PUBLIC` what is checked.
//!
//! Tests: `tests/session.rs` against an NBI that misbehaves on demand, `tests/nbi.rs` against a real one.

mod answer;
mod auth;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, Url, header};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Mutex;

pub use answer::{ApiError, Fault};

use crate::config::OsmConfig;
use http_peer::BadConfig;

/// Times that a call which certainly did nothing is made in all.
const MAX_TRIES: u32 = 4;
/// First pause before it is made again, when the answer names none.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause that an answer may ask for: who waits longer waits in the engine.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Longest answer that is read, bytes: a thousand services with all their records, or a package.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// What a call is about, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `admin/v1/tokens`.
    Tokens,
    /// VIM accounts, clusters and the rest of `admin/v1`.
    Admin,
    /// VNF and NS packages.
    Packages,
    /// NS instances.
    Services,
    /// NS operations.
    Operations,
    /// VNF instances.
    Vnfs,
    /// Subscriptions.
    Subscriptions,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Tokens,
        Self::Admin,
        Self::Packages,
        Self::Services,
        Self::Operations,
        Self::Vnfs,
        Self::Subscriptions,
    ];

    fn of(path: &str) -> Self {
        let topic = path.split('/').nth(2).unwrap_or_default();
        match topic {
            "tokens" => Self::Tokens,
            "vnf_packages" | "vnf_packages_content" | "ns_descriptors" | "ns_descriptors_content" => {
                Self::Packages
            }
            "ns_instances" | "ns_instances_content" => Self::Services,
            "ns_lcm_op_occs" => Self::Operations,
            "vnf_instances" => Self::Vnfs,
            "subscriptions" => Self::Subscriptions,
            _ => Self::Admin,
        }
    }
}

/// How many calls were made about each resource, in the order of [`Resource::ALL`]; tries that were made again count each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls(pub [u64; 7]);

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

impl std::fmt::Display for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} calls", self.total())?;
        for (resource, n) in Resource::ALL.iter().zip(self.0).filter(|(_, n)| *n > 0) {
            write!(f, " {}={n}", format!("{resource:?}").to_lowercase())?;
        }
        Ok(())
    }
}

/// A session with an NBI; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: OsmConfig,
    base: Url,
    http: reqwest::Client,
    session: Mutex<auth::Held>,
    calls: [AtomicU64; 7],
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(Cow<'static, str>, String)>,
    body: Body,
    accept: &'static str,
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Json(serde_json::Value),
    Bytes(Upload),
}

/// A package on its way: in one piece, with the digests that the NBI checks.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) content_type: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// `Digest`: `sha-384=` and base64.
    pub(crate) digest: String,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// A call; `path` is below the NBI's base, its parts escaped ([`http_peer::segment`]).
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), query: Vec::new(), body: Body::None, accept: "application/json" }
    }

    /// GET.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// POST of a document.
    #[must_use]
    pub fn post(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self::new(Method::POST, path).json(body)
    }

    /// With a parameter of the query. `fields` and `filter` do not exist: a query with one is answered `[]`.
    #[must_use]
    pub fn query(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.query.push((name.into(), value.into()));
        self
    }

    /// With a document.
    #[must_use]
    pub fn json(mut self, body: &impl Serialize) -> Self {
        // What cannot be encoded is a defect, and the NBI refuses `null`.
        self.body = Body::Json(serde_json::to_value(body).unwrap_or_default());
        self
    }

    pub(crate) fn upload(mut self, upload: Upload) -> Self {
        self.body = Body::Bytes(upload);
        self
    }

    /// Asks for a file, which the NBI gives to nobody who asks for JSON.
    pub(crate) fn file(mut self) -> Self {
        self.accept = "application/zip";
        self
    }

    fn idempotent(&self) -> bool {
        matches!(self.method, Method::GET | Method::DELETE)
    }

    fn place(&self) -> String {
        format!("OSM {} {}", self.method, self.path)
    }
}

impl Client {
    /// A session that asks nothing yet.
    pub fn new(config: OsmConfig) -> Result<Self, BadConfig> {
        let base = config.base()?;
        let timeout = Duration::from_secs(config.timeout_s.clamp(1, 600));
        let http = http_peer::client(config.cacert.as_deref(), "cacert", timeout)?;
        let inner = Inner { config, base, http, session: Mutex::default(), calls: Default::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> Calls {
        let mut out = Calls::default();
        out.0.iter_mut().zip(&self.inner.calls).for_each(|(n, c)| *n = c.load(Ordering::Relaxed));
        out
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &OsmConfig {
        &self.inner.config
    }

    /// The document that answers.
    pub async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ApiError> {
        let answer = self.send(call).await?;
        serde_json::from_slice(&answer.body)
            .map_err(|e| ApiError::new(call.place(), Fault::Unreadable { problem: e.to_string() }))
    }

    /// The document that answers; `None` when there is no such thing.
    pub async fn find<T: DeserializeOwned>(&self, call: &Call) -> Result<Option<T>, ApiError> {
        match self.ask(call).await {
            Ok(it) => Ok(Some(it)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A call whose answer says nothing that is needed.
    pub async fn tell(&self, call: &Call) -> Result<(), ApiError> {
        self.send(call).await.map(|_| ())
    }

    /// A deletion; what is not there is deleted.
    pub async fn delete(&self, path: impl Into<String>) -> Result<(), ApiError> {
        match self.tell(&Call::new(Method::DELETE, path)).await {
            Err(e) if e.is_absent() => Ok(()),
            other => other,
        }
    }

    /// Makes the call as often as it takes; an answer that is no success is an error.
    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, ApiError> {
        let (mut tries, mut renewed) = (1, false);
        loop {
            let token = self.token().await?;
            let error = match self.once(call, &token).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.is_stale_token() && !renewed {
                // Expired early, or the NBI restarted without it: once more with a new one.
                renewed = true;
                self.forget(&token).await;
                continue;
            }
            let same_again = matches!(error.fault, Fault::Unreadable { .. });
            let harmless = error.did_nothing() || (call.idempotent() && error.is_lost() && !same_again);
            if !harmless || tries >= MAX_TRIES {
                return Err(error);
            }
            let pause =
                error.retry_after().unwrap_or_else(|| http_peer::backoff(PAUSE, tries)).min(MAX_PAUSE);
            tracing::debug!(call = call.place(), %error, pause_ms = pause.as_millis(), "asked again");
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }

    async fn once(&self, call: &Call, token: &str) -> Result<Answer, ApiError> {
        let mut request = self.request(call)?.bearer_auth(token);
        request = match &call.body {
            Body::None => request,
            Body::Json(body) => request.json(body),
            Body::Bytes(upload) => request
                .header(header::CONTENT_TYPE, upload.content_type)
                .header("Digest", &upload.digest)
                .body(upload.bytes.clone()),
        };
        self.exchange(call, request).await
    }

    fn request(&self, call: &Call) -> Result<reqwest::RequestBuilder, ApiError> {
        let problem = |e| ApiError::new(call.place(), Fault::Unreadable { problem: format!("its URL: {e}") });
        let mut url = self.inner.base.join(&call.path).map_err(problem)?;
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        Ok(self.inner.http.request(call.method.clone(), url).header(header::ACCEPT, call.accept))
    }

    async fn exchange(&self, call: &Call, request: reqwest::RequestBuilder) -> Result<Answer, ApiError> {
        let at = Resource::ALL.iter().position(|r| *r == Resource::of(&call.path)).unwrap_or_default();
        self.inner.calls[at].fetch_add(1, Ordering::Relaxed);
        vim::calls::made();
        let answer = request.send().await.map_err(|e| ApiError::sent(call.place(), &e))?;
        answer::read(answer, MAX_ANSWER_BYTES, call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_what_they_are_about() {
        for (path, resource) in [
            ("admin/v1/tokens", Resource::Tokens),
            ("admin/v1/vim_accounts/x", Resource::Admin),
            ("vnfpkgm/v1/vnf_packages/x/package_content", Resource::Packages),
            ("nsd/v1/ns_descriptors", Resource::Packages),
            ("nslcm/v1/ns_instances/x/instantiate", Resource::Services),
            ("nslcm/v1/ns_lcm_op_occs/x", Resource::Operations),
            ("nslcm/v1/vnf_instances", Resource::Vnfs),
            ("nslcm/v1/subscriptions", Resource::Subscriptions),
        ] {
            assert_eq!(Resource::of(path), resource, "{path}");
        }
        let calls = Calls([1, 0, 2, 0, 0, 0, 0]);
        assert_eq!(calls.to_string(), "3 calls tokens=1 packages=2");
        assert_eq!(calls.since(&Calls([1, 0, 1, 0, 0, 0, 0])).total(), 1);
    }
}
