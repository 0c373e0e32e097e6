//! The resources and their handlers.

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri},
    routing::{get, post, put},
};
use ledger_contract::evidence::ProvenEntry;
use serde::{Deserialize, Serialize};
use trust::{Digest, Envelope};

use super::{
    Context, DEFAULT_PAGE, LONG_POLL, MAX_APPROVAL_BYTES, MAX_PAGE, MAX_REQUEST_BYTES,
    reply::{self, Reply},
};
use crate::problem::Problem;

const JSON_LINES: HeaderValue = HeaderValue::from_static("application/jsonl");

/// `GET /v1/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// `ok`.
    pub status: String,
    /// Version of the orchestrator.
    pub version: String,
    /// Number of the newest change.
    pub change: u64,
}

/// `GET /v1/ledger/head`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointView {
    /// C2SP checkpoint, a signed note.
    pub checkpoint: String,
}

/// `GET /v1/ledger/entries`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntriesView {
    /// Position of the first.
    pub from: u64,
    /// Exact bytes of each entry.
    pub entries: Vec<String>,
}

/// `GET /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// The policy bundle in force.
    pub digest: Digest,
}

/// `GET /v1/changes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeView {
    /// Number of the newest change.
    pub change: u64,
}

/// Query of an attestation key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateQuery {
    /// Make a new key.
    #[serde(default)]
    pub rotate: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct All {
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    from: u64,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    #[serde(default)]
    after: u64,
}

type Asked<T> = Result<Query<T>, QueryRejection>;

fn query<T>(asked: Asked<T>) -> Result<T, Problem> {
    asked.map(|q| q.0).map_err(|e| Problem::new(400, "QUERY", "The query is malformed", e.body_text()))
}

fn page(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(DEFAULT_PAGE) {
        n @ 1..=MAX_PAGE => Ok(n),
        n => Err(Problem::new(400, "LIMIT", "The query is malformed", format!("limit={n}; 1 to {MAX_PAGE}"))),
    }
}

/// What `GET /v1` lists. An NS is named by its instance id, by `tenant%2Fservice`, or by the two as path segments.
pub const ROUTES: [&str; 23] = [
    "GET /v1",
    "GET /v1/health",
    "POST /v1/requests",
    "GET /v1/packages",
    "PUT /v1/packages/content",
    "GET /v1/intents?limit",
    "GET /v1/intents/{id}",
    "GET /v1/ns?all",
    "GET /v1/ns/{id}",
    "GET /v1/ns/{id}/timeline",
    "GET /v1/ns/{tenant}/{service}",
    "GET /v1/ns/{tenant}/{service}/timeline",
    "GET /v1/operations/{id}",
    "GET /v1/operations/{id}/evidence",
    "GET /v1/sites",
    "GET /v1/sites/{name}/attestation-key",
    "POST /v1/sites/{name}/attestation-key?rotate",
    "POST /v1/approvals",
    "GET /v1/ledger/head",
    "GET /v1/ledger/entries?from&limit",
    "GET /v1/ledger/entries/{position}",
    "GET /v1/policy",
    "GET /v1/changes?after",
];

/// All routes.
pub fn all() -> Router<Context> {
    Router::new()
        .route("/v1", get(index))
        .route("/v1/health", get(health))
        .route("/v1/requests", post(submit))
        .route("/v1/packages", get(packages))
        .route("/v1/packages/content", put(put_package))
        .route("/v1/intents", get(intents))
        .route("/v1/intents/{id}", get(intent))
        .route("/v1/ns", get(services))
        .route("/v1/ns/{id}", get(ns))
        .route("/v1/ns/{id}/timeline", get(timeline))
        .route("/v1/ns/{id}/{service}", get(ns_by_name))
        .route("/v1/ns/{id}/{service}/timeline", get(timeline_by_name))
        .route("/v1/operations/{id}", get(operation))
        .route("/v1/operations/{id}/evidence", get(bundle))
        .route("/v1/sites", get(sites))
        .route("/v1/sites/{name}/attestation-key", get(attestation_key).post(new_attestation_key))
        .route("/v1/approvals", post(deliver))
        .route("/v1/ledger/head", get(head))
        .route("/v1/ledger/entries", get(entries))
        .route("/v1/ledger/entries/{position}", get(entry))
        .route("/v1/policy", get(policy))
        .route("/v1/changes", get(changes))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
}

/// `GET /v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexView {
    /// Method, path and query of each route.
    pub routes: Vec<String>,
}

async fn index(headers: HeaderMap) -> Reply {
    reply::resource(&headers, &IndexView { routes: ROUTES.map(str::to_owned).into() })
}

async fn no_route(uri: Uri) -> Problem {
    Problem::new(404, "NO_ROUTE", "Not found", format!("this API has no `{}`", uri.path()))
        .hint("GET /v1 lists what there is")
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("`{}` does not take {method}", uri.path());
    Problem::new(405, "METHOD_NOT_ALLOWED", "Method not allowed", detail)
}

async fn health(State(c): State<Context>) -> Reply {
    let change = *c.service.changes().borrow();
    reply::document(
        StatusCode::OK,
        &HealthView { status: "ok".into(), version: env!("CARGO_PKG_VERSION").into(), change },
    )
}

async fn submit(State(c): State<Context>, body: Body) -> Reply {
    let bytes = reply::body(body, MAX_REQUEST_BYTES).await?;
    let envelope = Envelope::from_json(&bytes)
        .map_err(|e| Problem::new(400, "MALFORMED", "The request is malformed", e))?;
    reply::document(StatusCode::CREATED, &c.service.submit(envelope).await?)
}

async fn put_package(State(c): State<Context>, body: Body) -> Reply {
    let _turn = c.uploads.acquire().await.map_err(|e| Problem::internal("UPLOADS", e))?;
    let bytes = reply::body(body, c.bounds.package_bytes).await?;
    reply::document(StatusCode::OK, &c.service.put_package(bytes.into()).await?)
}

async fn packages(State(c): State<Context>, headers: HeaderMap) -> Reply {
    reply::resource(&headers, &c.service.packages().await?)
}

async fn intents(State(c): State<Context>, headers: HeaderMap, asked: Asked<Limit>) -> Reply {
    let limit = page(query(asked)?.limit)?;
    reply::resource(&headers, &c.service.intents(limit).await?)
}

async fn intent(State(c): State<Context>, headers: HeaderMap, Path(id): Path<String>) -> Reply {
    reply::resource(&headers, &c.service.intent(&id).await?)
}

async fn services(State(c): State<Context>, headers: HeaderMap, asked: Asked<All>) -> Reply {
    let all = query(asked)?.all;
    reply::resource(&headers, &c.service.services(all).await?)
}

async fn ns(State(c): State<Context>, headers: HeaderMap, Path(id): Path<String>) -> Reply {
    reply::resource(&headers, &c.service.ns(&id).await?)
}

async fn ns_by_name(
    State(c): State<Context>,
    headers: HeaderMap,
    Path(name): Path<(String, String)>,
) -> Reply {
    reply::resource(&headers, &c.service.ns(&format!("{}/{}", name.0, name.1)).await?)
}

async fn timeline(State(c): State<Context>, headers: HeaderMap, Path(id): Path<String>) -> Reply {
    reply::resource(&headers, &c.service.timeline(&id).await?)
}

async fn timeline_by_name(
    State(c): State<Context>,
    headers: HeaderMap,
    Path(name): Path<(String, String)>,
) -> Reply {
    reply::resource(&headers, &c.service.timeline(&format!("{}/{}", name.0, name.1)).await?)
}

async fn operation(State(c): State<Context>, headers: HeaderMap, Path(id): Path<String>) -> Reply {
    reply::resource(&headers, &c.service.operation(&id).await?)
}

async fn bundle(State(c): State<Context>, headers: HeaderMap, Path(id): Path<String>) -> Reply {
    reply::tagged(&headers, JSON_LINES, c.service.bundle(&id).await?)
}

async fn sites(State(c): State<Context>, headers: HeaderMap) -> Reply {
    reply::resource(&headers, &c.service.sites().await?)
}

async fn attestation_key(State(c): State<Context>, headers: HeaderMap, Path(site): Path<String>) -> Reply {
    reply::resource(&headers, &c.service.attestation_key(&site, false).await?)
}

/// Making a key changes the TPM, so only POST rotates.
async fn new_attestation_key(
    State(c): State<Context>,
    Path(site): Path<String>,
    asked: Asked<RotateQuery>,
) -> Reply {
    let rotate = query(asked)?.rotate;
    reply::document(StatusCode::OK, &c.service.attestation_key(&site, rotate).await?)
}

async fn deliver(State(c): State<Context>, body: Body) -> Reply {
    let approval: ProvenEntry = reply::json(body, MAX_APPROVAL_BYTES, "an approval").await?;
    reply::document(StatusCode::ACCEPTED, &c.service.deliver(approval).await?)
}

async fn head(State(c): State<Context>, headers: HeaderMap) -> Reply {
    reply::resource(&headers, &CheckpointView { checkpoint: c.service.ledger_head().await? })
}

async fn entries(State(c): State<Context>, headers: HeaderMap, asked: Asked<Page>) -> Reply {
    let asked = query(asked)?;
    let entries = c.service.ledger_range(asked.from, page(asked.limit)?).await?;
    reply::resource(&headers, &EntriesView { from: asked.from, entries })
}

async fn entry(State(c): State<Context>, headers: HeaderMap, Path(position): Path<String>) -> Reply {
    let position = position.parse().map_err(|_| Problem::not_found("ledger entry", &position))?;
    reply::resource(&headers, &c.service.ledger_entry(position).await?)
}

async fn policy(State(c): State<Context>, headers: HeaderMap) -> Reply {
    reply::resource(&headers, &PolicyView { digest: c.service.policy().await? })
}

/// Answers as soon as the number differs from `after` (also when it is lower: the orchestrator started again).
async fn changes(State(mut c): State<Context>, asked: Asked<After>) -> Reply {
    let after = query(asked)?.after;
    let mut changes = c.service.changes();
    tokio::select! {
        _ = tokio::time::timeout(LONG_POLL, changes.wait_for(|n| *n != after)) => {}
        _ = c.stop.wait_for(|stop| *stop) => {}
    }
    let change = *changes.borrow();
    reply::document(StatusCode::OK, &ChangeView { change })
}
