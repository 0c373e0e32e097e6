//! The NBI behind the gateway: requests go on with their client's own credentials, answers come back as they are.
//!
//! Nothing is tried twice: a client's request is its client's to repeat. Bounds: requests at once, and time.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use futures::StreamExt as _;
use reqwest::Url;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    config::Upstream,
    refusal::{Refused, codes},
    request::{Asked, passed_on},
};

/// Requests to the NBI at once: it answers with ten threads.
const MAX_AT_ONCE: usize = 64;
/// Longest wait for a place among them.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest exchange, a package of 64 MiB over a slow line included.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest answer to a question of our own (a descriptor, a package), bytes.
pub(crate) const MAX_ANSWER: usize = 64 << 20;
/// Headers of a client by which the NBI knows who asks.
const CREDENTIALS: [header::HeaderName; 2] = [header::AUTHORIZATION, header::COOKIE];

/// The NBI.
#[derive(Clone)]
pub struct Nbi {
    base: Url,
    http: reqwest::Client,
    places: Arc<Semaphore>,
}

/// What a body costs while it is under way: a place.
pub(crate) struct Place(#[allow(dead_code, reason = "given back when dropped")] OwnedSemaphorePermit);

/// An answer that is being read.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: reqwest::Response,
    pub(crate) place: Place,
}

impl Nbi {
    /// Asks nothing yet.
    pub fn new(config: &Upstream) -> Result<Self, http_peer::BadConfig> {
        let text = config.url.trim_end_matches('/').trim_end_matches("/osm");
        let url = Url::parse(&format!("{text}/osm/"));
        let base = url.or_else(|e| http_peer::bad("url", format!("`{}` is no URL: {e}", config.url)))?;
        http_peer::encrypted(&base, ("allow_plain_http", config.allow_plain_http))
            .or_else(|problem| http_peer::bad("url", problem))?;
        let http = http_peer::client(config.cacert.as_deref(), "cacert", EXCHANGE_TIMEOUT)?;
        Ok(Self { base, http, places: Arc::new(Semaphore::new(MAX_AT_ONCE)) })
    }

    async fn place(&self) -> Result<Place, Refused> {
        let place = tokio::time::timeout(PLACE_TIMEOUT, self.places.clone().acquire_owned()).await;
        let busy = || {
            Refused::new(503, codes::BUSY, format!("{MAX_AT_ONCE} requests to OSM are under way; try again"))
        };
        Ok(Place(place.ok().and_then(Result::ok).ok_or_else(busy)?))
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: Option<reqwest::Body>,
    ) -> Result<Answer, Refused> {
        let url = self.base.join(target).map_err(|e| Refused::request(format!("the URL: {e}")))?;
        if !url.path().starts_with(self.base.path()) {
            return Err(Refused::request("the URL leaves OSM".into()));
        }
        let place = self.place().await?;
        let mut request = self.http.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let body = request.send().await.map_err(|e| silent(&e))?;
        Ok(Answer { status: body.status(), headers: body.headers().clone(), body, place })
    }

    /// A client's request as it is, its body streamed: of the verbs that have one, and never in chunks.
    pub(crate) async fn pass(
        &self,
        asked: &Asked,
        headers: &HeaderMap,
        body: Option<Body>,
    ) -> Result<Answer, Refused> {
        let mut on = passed_on(headers);
        let body = body.filter(|_| matches!(asked.method, Method::POST | Method::PUT | Method::PATCH));
        if body.is_some() && headers.contains_key(header::TRANSFER_ENCODING) {
            // The NBI's server leaves a body in chunks unread: what is in it would be the next request on that connection,
            // one that nobody decided about.
            let detail = "OSM passes over a body in chunks: send it with its Content-Length";
            return Err(Refused::new(411, codes::REQUEST, detail));
        }
        let body = body.filter(|_| headers.contains_key(header::CONTENT_LENGTH));
        if body.is_none() {
            on.remove(header::CONTENT_LENGTH);
        }
        let body = body.map(|body| reqwest::Body::wrap_stream(body.into_data_stream()));
        self.send(asked.method.clone(), &asked.target(), on, body).await
    }

    /// A question of ours, asked as the client: a JSON document. `None`: there is no such thing for that client.
    pub(crate) async fn ask(&self, target: &str, headers: &HeaderMap) -> Result<Option<Value>, Refused> {
        let answer = self.ask_for(target, headers, "application/json").await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            s if s.is_success() => {
                let body = answer.whole().await?;
                serde_json::from_slice(&body).map(Some).map_err(|e| unreadable(target, &e.to_string()))
            }
            _ => Err(answer.into_refusal().await),
        }
    }

    /// A question of ours, asked as the client.
    pub(crate) async fn ask_for(
        &self,
        target: &str,
        headers: &HeaderMap,
        accept: &'static str,
    ) -> Result<Answer, Refused> {
        let mut on = credentials(headers);
        on.insert(header::ACCEPT, HeaderValue::from_static(accept));
        self.send(Method::GET, target, on, None).await
    }
}

/// A client's credentials, and nothing else of it.
pub(crate) fn credentials(headers: &HeaderMap) -> HeaderMap {
    let of = |name: &header::HeaderName| {
        headers.get_all(name).iter().map(|v| (name.clone(), v.clone())).collect::<Vec<_>>()
    };
    CREDENTIALS.iter().flat_map(of).collect()
}

fn silent(e: &reqwest::Error) -> Refused {
    let problem = http_peer::chain(e);
    match e.is_timeout() && !e.is_connect() {
        true => Refused::new(504, codes::NBI, format!("OSM did not answer in time: {problem}")),
        false => Refused::new(
            502,
            codes::NBI,
            format!("OSM does not answer: {problem}; reads and writes go on when it does"),
        ),
    }
}

pub(crate) fn unreadable(what: &str, why: &str) -> Refused {
    Refused::new(502, codes::NBI, format!("OSM's answer to {what} cannot be read: {why}"))
}

impl Answer {
    /// All of it, within bounds.
    pub(crate) async fn whole(self) -> Result<Vec<u8>, Refused> {
        http_peer::bounded(self.body, MAX_ANSWER).await.map_err(|e| unreadable("us", &e.to_string()))
    }

    /// OSM's own refusal of a question that we asked as the client: its status and words.
    pub(crate) async fn into_refusal(self) -> Refused {
        let status = self.status.as_u16();
        let body = http_peer::bounded(self.body, 16 << 10).await.unwrap_or_default();
        let words = serde_json::from_slice::<Value>(&body).ok();
        let words = words.as_ref().and_then(|v| v.get("detail")?.as_str().map(str::to_owned));
        let status = if (400..500).contains(&status) { status } else { 502 };
        Refused::new(status, codes::NBI, words.unwrap_or_else(|| format!("OSM answers {}", self.status)))
    }

    /// As the client's answer, streamed.
    pub(crate) fn relay(self) -> Response {
        let (mut headers, status) = (passed_on(&self.headers), self.status);
        if let Some(place) = headers.get(header::LOCATION).and_then(|v| v.to_str().ok()).and_then(relative) {
            headers.insert(header::LOCATION, place);
        }
        let place = self.place;
        let stream = self.body.bytes_stream().map(move |piece| {
            let _held = &place;
            piece
        });
        let mut response = Response::new(Body::from_stream(stream));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// Where OSM says that something is, seen from the client: the path alone.
fn relative(location: &str) -> Option<HeaderValue> {
    let url = Url::parse(location).ok()?;
    let path = url.query().map_or_else(|| url.path().to_owned(), |q| format!("{}?{q}", url.path()));
    HeaderValue::from_str(&path).ok()
}
