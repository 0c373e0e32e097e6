//! The handlers: one for each operation of the [catalogue](super::catalogue).

use axum::{
    Router,
    body::Body,
    extract::State,
    handler::Handler,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::IntoResponse as _,
    routing::MethodFilter,
};
use lcm::operation::Direction;
use ledger_contract::{
    Intent,
    evidence::ProvenEntry,
    intent::{INTENT_PAYLOAD, MAX_INTENT_BYTES},
};
use serde::{Deserialize, Serialize};
use trust::Envelope;

use super::{
    Context, LONG_POLL, MAX_APPROVAL_BYTES, MAX_CLEANING_BYTES, MAX_DIRECTION_BYTES, MAX_PAGE,
    MAX_REQUEST_BYTES,
    catalogue::{self as op, Operation, Verb},
    events::{self, Filter},
    openapi,
    page::{Page, Paging},
    reply::{self, Asked, Asking, Named, Reply},
};
use crate::{
    journal::{Listing, Mitigation},
    problem::Problem,
    service::Order,
    telemetry::trace::TraceParent,
    views::{
        AliveView, ChangeView, CheckpointView, CleaningView, DirectionView, EntriesView, HealthView,
        IndexView, MAX_REASON, OperationView, PolicyView, ReadyView,
    },
};

/// Longest id of an intent, bytes.
const MAX_INTENT_ID: usize = 64;
/// Most pages of operations that are looked through for one page of a tenant's.
const MAX_LOOKS: usize = 20;
const JSON_LINES: HeaderValue = HeaderValue::from_static("application/jsonl");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Query of an attestation key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateQuery {
    /// Make a new key.
    #[serde(default)]
    pub rotate: bool,
}

// `flatten` reads every value as text, so each query names its paging itself.
macro_rules! query {
    ($name:ident { $($field:ident: $type:ty),* }) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $(#[serde(default)] $field: $type,)*
            limit: Option<usize>,
            nextpage_opaque_marker: Option<String>,
        }
        impl $name {
            fn paging(&self) -> Paging {
                Paging::new(self.limit, self.nextpage_opaque_marker.clone())
            }
        }
    };
}
query!(ListQuery {});
query!(ServicesQuery { all: bool });
query!(OperationsQuery { open: bool });
query!(EventsQuery { after: Option<Number>, ns: Option<String> });
query!(EntriesQuery { from: Number });

/// A number that every JSON parser keeps.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(try_from = "u64")]
struct Number(u64);

impl TryFrom<u64> for Number {
    type Error = String;
    fn try_from(n: u64) -> Result<Self, String> {
        if n <= op::MAX_NUMBER { Ok(Self(n)) } else { Err(format!("{n} is more than {}", op::MAX_NUMBER)) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangesQuery {
    #[serde(default)]
    after: Number,
}

trait On {
    fn on<H: Handler<T, Context>, T: 'static>(self, operation: &Operation, handler: H) -> Self;
}

impl On for Router<Context> {
    fn on<H: Handler<T, Context>, T: 'static>(self, operation: &Operation, handler: H) -> Self {
        let filter = match operation.verb {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
            Verb::Put => MethodFilter::PUT,
        };
        self.route(operation.path, axum::routing::on(filter, handler))
    }
}

/// All routes.
pub fn all() -> Router<Context> {
    Router::new()
        .on(&op::ALIVE, alive)
        .on(&op::READY, ready)
        .on(&op::METRICS, metrics)
        .on(&op::OPENAPI, document)
        .on(&op::INDEX, index)
        .on(&op::HEALTH, health)
        .on(&op::SUBMIT, submit)
        .on(&op::PACKAGES, packages)
        .on(&op::PUT_PACKAGE, put_package)
        .on(&op::INTENTS, intents)
        .on(&op::INTENT, intent)
        .on(&op::PLAN, plan)
        .on(&op::SERVICES, services)
        .on(&op::SERVICE, ns)
        .on(&op::TIMELINE, timeline)
        .on(&op::NS_DRIFT, ns_drift)
        .on(&op::OPERATIONS, operations)
        .on(&op::GET_OPERATION, operation)
        .on(&op::RETRY, retry)
        .on(&op::ROLLBACK, rollback)
        .on(&op::FAIL, fail)
        .on(&op::STEPS, steps)
        .on(&op::EVIDENCE, bundle)
        .on(&op::EVENTS, all_events)
        .on(&op::OPERATION_EVENTS, operation_events)
        .on(&op::SITES, sites)
        .on(&op::ATTESTATION_KEY, attestation_key)
        .on(&op::NEW_ATTESTATION_KEY, new_attestation_key)
        .on(&op::DELIVER, deliver)
        .on(&op::LEDGER_HEAD, head)
        .on(&op::LEDGER_CONSISTENCY, consistency)
        .on(&op::LEDGER_ENTRIES, entries)
        .on(&op::LEDGER_ENTRY, entry)
        .on(&op::POLICY, policy)
        .on(&op::DRIFT, drift)
        .on(&op::SITE_TIMELINE, site_timeline)
        .on(&op::STRAYS, strays)
        .on(&op::CLEAN, clean)
        .on(&op::MITIGATIONS, mitigations)
        .on(&op::CHANGES, changes)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
}

async fn no_route(uri: Uri) -> Problem {
    Problem::new(404, "NO_ROUTE", "Not found", format!("this API has no `{}`", uri.path()))
        .hint("GET /openapi.json lists what there is")
}

async fn no_method(method: Method, uri: Uri, path: axum::extract::MatchedPath) -> axum::response::Response {
    let detail = format!("`{}` does not take {method}", uri.path());
    let known = op::ALL.iter().filter(|o| o.path == path.as_str());
    let mut allowed: Vec<&str> = known.map(|o| o.verb.name()).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    let mut response = Problem::new(405, "METHOD_NOT_ALLOWED", "Method not allowed", detail)
        .hint(format!("it takes {}", allowed.join(", ")))
        .into_response();
    if let Ok(value) = HeaderValue::from_str(&allowed.join(", ")) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

async fn alive() -> Reply {
    reply::document(StatusCode::OK, &AliveView { status: "ok".into() })
}

async fn ready(State(c): State<Context>) -> Reply {
    let view = c.ready().await;
    let status = if view.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::document(status, &view)
}

impl Context {
    async fn ready(&self) -> ReadyView {
        let components = self.service.components().await;
        let draining = *self.draining.borrow();
        ReadyView {
            ready: !draining && components.iter().all(|c| c.ready || c.optional),
            phase: if draining { "draining" } else { "serving" }.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            components,
        }
    }
}

async fn metrics(State(c): State<Context>) -> Reply {
    let components = c.service.components().await;
    let open = c.service.operations(true, None, MAX_PAGE).await?;
    let text = c.metrics.render(&components, &open).map_err(|e| Problem::internal("METRICS", e))?;
    let media = op::METRICS.answers[0].contents[0].media_type;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(media))], text).into_response())
}

async fn document(asked: Asked) -> Reply {
    reply::resource(&asked.headers, &openapi::document())
}

async fn index(asked: Asked) -> Reply {
    let routes = op::ALL.iter().map(|o| format!("{} {}", o.verb.name(), o.path)).collect();
    reply::resource(&asked.headers, &IndexView { openapi: op::OPENAPI.path.into(), routes })
}

async fn health(State(c): State<Context>) -> Reply {
    let change = *c.service.changes().borrow();
    let version = env!("CARGO_PKG_VERSION").into();
    reply::document(StatusCode::OK, &HealthView { status: "ok".into(), version, change })
}

async fn submit(State(c): State<Context>, asked: Asked, body: Body) -> Reply {
    let bytes = reply::body(body, MAX_REQUEST_BYTES).await?;
    let envelope: Envelope = reply::parse(&bytes, "a DSSE envelope")?;
    let signer = envelope.signatures.first().and_then(|s| trust::identity::claimed(&s.certificate).ok());
    if signer.is_some_and(|(org, _)| !asked.caller.speaks_for(&org)) {
        let detail = format!("`{}` submits what another organisation signed", asked.caller.name());
        return Err(Problem::new(403, "FORBIDDEN", "Not allowed", detail)
            .hint("connect with a certificate of the organisation that signed"));
    }
    remember_trace(&c, &asked.headers, &envelope).await?;
    let committed = c.service.submit(envelope).await?;
    c.metrics.decision(&committed.verdict);
    reply::document(StatusCode::CREATED, &committed)
}

/// Before the ledger decides: the approval may be taken before the answer is written.
async fn remember_trace(c: &Context, headers: &HeaderMap, envelope: &Envelope) -> Result<(), Problem> {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    let parent = headers.get(TRACEPARENT).and_then(|v| v.to_str().ok()).and_then(TraceParent::parse);
    let (Some(parent), true) = (parent, envelope.payload_type == INTENT_PAYLOAD) else { return Ok(()) };
    let Ok(Id { id }) = serde_json::from_slice(&envelope.payload) else { return Ok(()) };
    // Nobody has looked at it yet, and what is longer is no intent's.
    if id.len() > MAX_INTENT_ID {
        return Ok(());
    }
    let journal = c.service.journal();
    let kept = tokio::task::spawn_blocking(move || journal.keep_trace(&id, &parent.to_string())).await;
    kept.map_err(|e| Problem::internal("TASK", e))?.map_err(|e| Problem::internal("JOURNAL", e))
}

async fn put_package(State(c): State<Context>, body: Body) -> Reply {
    let _turn = c.uploads.acquire().await.map_err(|e| Problem::internal("UPLOADS", e))?;
    let bytes = reply::body(body, c.bounds.package_bytes).await?;
    reply::document(StatusCode::OK, &c.service.put_package(bytes.into()).await?)
}

async fn packages(State(c): State<Context>, asked: Asked, Asking(q): Asking<ListQuery>) -> Reply {
    let all = c.service.packages().await?;
    reply::list(&asked, q.paging().of(all, |p| p.digest.to_string(), |_| true)?)
}

async fn intents(State(c): State<Context>, asked: Asked, Asking(q): Asking<ListQuery>) -> Reply {
    let paging = q.paging();
    let (before, limit) = (paging.after()?.and_then(|k| k.parse().ok()), paging.limit()?);
    let own = (!asked.caller.sees_all()).then(|| asked.caller.tenant().to_owned());
    // One more than asked for says whether there is another page.
    let mut items = c.service.intents(own.as_deref(), before, limit + 1).await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|i| i.position.to_string());
    reply::paged(&asked, &items, next.as_deref())
}

async fn intent(State(c): State<Context>, asked: Asked, Named(id): Named) -> Reply {
    let view = c.service.intent(&id).await?;
    own(&asked, &view.tenant, "intent", &id)?;
    reply::resource(&asked.headers, &view)
}

async fn plan(State(c): State<Context>, asked: Asked, body: Body) -> Reply {
    let intent: Intent = reply::json(body, MAX_INTENT_BYTES, "an intent").await?;
    if !asked.caller.sees(&intent.tenant) {
        let detail = format!("`{}` plans for tenant `{}`", asked.caller.name(), intent.tenant);
        return Err(
            Problem::new(403, "FORBIDDEN", "Not allowed", detail).hint("name your own tenant in the intent")
        );
    }
    reply::document(StatusCode::OK, &c.service.plan(intent).await?)
}

/// What is another tenant's is not there.
fn own(asked: &Asked, tenant: &str, what: &str, name: &str) -> Result<(), Problem> {
    if asked.caller.sees(tenant) { Ok(()) } else { Err(Problem::not_found(what, name)) }
}

async fn services(State(c): State<Context>, asked: Asked, Asking(q): Asking<ServicesQuery>) -> Reply {
    let paging = q.paging();
    let (after, limit) = (paging.after()?, paging.limit()?);
    let tenant = (!asked.caller.sees_all()).then(|| asked.caller.tenant());
    // One more than asked for says whether there is another page.
    let listing = Listing { tenant, all: q.all, after: after.as_deref(), limit: limit + 1 };
    let mut items = c.service.services(&listing).await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|s| s.id.clone());
    reply::list(&asked, Page { items, next })
}

async fn ns(State(c): State<Context>, asked: Asked, Named(id): Named) -> Reply {
    let view = c.service.ns(&id).await?;
    own(&asked, &view.tenant, "network service", &id)?;
    reply::resource(&asked.headers, &view)
}

async fn timeline(State(c): State<Context>, asked: Asked, Named(id): Named) -> Reply {
    if !asked.caller.sees_all() {
        own(&asked, &c.service.ns(&id).await?.tenant, "network service", &id)?;
    }
    reply::resource(&asked.headers, &c.service.timeline(&id).await?)
}

async fn ns_drift(State(c): State<Context>, asked: Asked, Named(id): Named) -> Reply {
    let view = c.service.ns_drift(&id).await?;
    own(&asked, &view.tenant, "network service", &id)?;
    reply::resource(&asked.headers, &view)
}

async fn operations(State(c): State<Context>, asked: Asked, Asking(q): Asking<OperationsQuery>) -> Reply {
    let paging = q.paging();
    let (mut before, limit) = (paging.after()?, paging.limit()?);
    let mut items: Vec<OperationView> = Vec::new();
    // A tenant to whom few belong looks through many, up to a bound; then the page is short and has a next one.
    for _ in 0..MAX_LOOKS {
        let page = c.service.operations(q.open, before.as_deref(), MAX_PAGE).await?;
        let Some(last) = page.last().map(|o| o.id.clone()) else {
            return reply::list(&asked, Page { items, next: None });
        };
        let end = page.len() < MAX_PAGE;
        items.extend(page.into_iter().filter(|o| asked.caller.sees(&o.tenant)));
        if items.len() > limit {
            items.truncate(limit);
            let next = items.last().map(|o| o.id.clone());
            return reply::list(&asked, Page { items, next });
        }
        if end {
            return reply::list(&asked, Page { items, next: None });
        }
        before = Some(last);
    }
    reply::list(&asked, Page { items, next: before })
}

async fn found(c: &Context, asked: &Asked, id: &str) -> Result<OperationView, Problem> {
    let view = c.service.operation(id).await?;
    own(asked, &view.tenant, "operation", id)?;
    Ok(view)
}

async fn operation(State(c): State<Context>, asked: Asked, Named(id): Named) -> Reply {
    reply::resource(&asked.headers, &found(&c, &asked, &id).await?)
}

async fn retry(State(c): State<Context>, asked: Asked, Named(id): Named, body: Body) -> Reply {
    direct(&c, &asked, &id, Direction::Retry, body).await
}

async fn rollback(State(c): State<Context>, asked: Asked, Named(id): Named, body: Body) -> Reply {
    direct(&c, &asked, &id, Direction::Rollback, body).await
}

async fn fail(State(c): State<Context>, asked: Asked, Named(id): Named, body: Body) -> Reply {
    direct(&c, &asked, &id, Direction::Fail, body).await
}

async fn direct(c: &Context, asked: &Asked, id: &str, what: Direction, body: Body) -> Reply {
    let DirectionView { reason } = reply::json(body, MAX_DIRECTION_BYTES, "a direction").await?;
    with_reason(&reason)?;
    let by = asked.caller.name();
    let view = c.service.direct_operation(id, &Order { by: &by, what, reason: &reason }).await?;
    reply::document(StatusCode::ACCEPTED, &view)
}

/// A person's decision says why.
fn with_reason(reason: &str) -> Result<(), Problem> {
    if (1..=MAX_REASON).contains(&reason.chars().count()) {
        return Ok(());
    }
    let detail = format!("a reason has 1 to {MAX_REASON} characters");
    Err(Problem::new(422, "REASON", "The request is not what it must be", detail)
        .hint("say in a sentence why: it is kept on record"))
}

async fn steps(State(c): State<Context>, asked: Asked, Named(id): Named) -> Reply {
    found(&c, &asked, &id).await?;
    reply::resource(&asked.headers, &c.service.steps(&id).await?)
}

async fn bundle(State(c): State<Context>, asked: Asked, Named(id): Named) -> Reply {
    if !asked.caller.sees_all() {
        found(&c, &asked, &id).await?;
    }
    reply::tagged(&asked.headers, JSON_LINES, c.service.bundle(&id).await?)
}

async fn all_events(State(c): State<Context>, asked: Asked, Asking(q): Asking<EventsQuery>) -> Reply {
    let filter = Filter { caller: asked.caller.clone(), ns: q.ns.clone(), operation: None };
    events::answer(&c, &asked, filter, q.after.map(|n| n.0), &q.paging()).await
}

async fn operation_events(
    State(c): State<Context>,
    asked: Asked,
    Named(id): Named,
    Asking(q): Asking<EventsQuery>,
) -> Reply {
    found(&c, &asked, &id).await?;
    // From its beginning, unless the client says otherwise.
    let after = q.after.map(|n| n.0).or(Some(0));
    let filter = Filter { caller: asked.caller.clone(), ns: q.ns.clone(), operation: Some(id) };
    events::answer(&c, &asked, filter, after, &q.paging()).await
}

async fn sites(State(c): State<Context>, asked: Asked, Asking(q): Asking<ListQuery>) -> Reply {
    let all = c.service.sites().await?;
    reply::list(&asked, q.paging().of(all, |s| s.name.clone(), |_| true)?)
}

async fn attestation_key(State(c): State<Context>, asked: Asked, Named(site): Named) -> Reply {
    reply::resource(&asked.headers, &c.service.attestation_key(&site, false).await?)
}

/// Making a key changes the TPM, so only POST rotates.
async fn new_attestation_key(
    State(c): State<Context>,
    asked: Asked,
    Named(site): Named,
    Asking(q): Asking<RotateQuery>,
) -> Reply {
    if asked.headers.contains_key(header::IF_MATCH) {
        reply::if_match(&asked.headers, &c.service.attestation_key(&site, false).await?)?;
    }
    reply::document(StatusCode::OK, &c.service.attestation_key(&site, q.rotate).await?)
}

async fn deliver(State(c): State<Context>, body: Body) -> Reply {
    let approval: ProvenEntry = reply::json(body, MAX_APPROVAL_BYTES, "an approval").await?;
    reply::document(StatusCode::ACCEPTED, &c.service.deliver(approval).await?)
}

async fn head(State(c): State<Context>, asked: Asked) -> Reply {
    reply::resource(&asked.headers, &CheckpointView { checkpoint: c.service.ledger_head().await? })
}

async fn consistency(State(c): State<Context>, asked: Asked, Named(size): Named) -> Reply {
    let size = size.parse().map_err(|_| Problem::not_found("ledger size", &size))?;
    reply::resource(&asked.headers, &c.service.ledger_consistency(size).await?)
}

async fn entries(State(c): State<Context>, asked: Asked, Asking(q): Asking<EntriesQuery>) -> Reply {
    let paging = q.paging();
    let (limit, from) = (paging.limit()?, paging.after()?.and_then(|k| k.parse().ok()).unwrap_or(q.from.0));
    let entries = c.service.ledger_range(from, limit).await?;
    let next = (entries.len() == limit).then(|| (from + limit as u64).to_string());
    reply::paged(&asked, &EntriesView { from, entries }, next.as_deref())
}

async fn entry(State(c): State<Context>, asked: Asked, Named(position): Named) -> Reply {
    let position = position.parse().map_err(|_| Problem::not_found("ledger entry", &position))?;
    reply::resource(&asked.headers, &c.service.ledger_entry(position).await?)
}

async fn policy(State(c): State<Context>, asked: Asked) -> Reply {
    reply::resource(&asked.headers, &PolicyView { digest: c.service.policy().await? })
}

async fn drift(State(c): State<Context>, asked: Asked) -> Reply {
    reply::resource(&asked.headers, &c.service.drift().await?)
}

async fn site_timeline(State(c): State<Context>, asked: Asked, Named(site): Named) -> Reply {
    reply::resource(&asked.headers, &c.service.site_timeline(&site).await?)
}

async fn strays(State(c): State<Context>, asked: Asked) -> Reply {
    reply::resource(&asked.headers, &c.service.strays().await?)
}

async fn clean(State(c): State<Context>, asked: Asked, body: Body) -> Reply {
    let cleaning: CleaningView = reply::json(body, MAX_CLEANING_BYTES, "a cleaning").await?;
    with_reason(&cleaning.reason)?;
    let cleaned = c.service.clean_strays(&asked.caller.name(), cleaning).await?;
    reply::document(StatusCode::OK, &cleaned)
}

async fn mitigations(State(c): State<Context>, asked: Asked, Asking(q): Asking<ListQuery>) -> Reply {
    let all = c.service.mitigations().await?;
    let key = |m: &Mitigation| format!("{} {} {}", m.at_ms, m.ns, m.decision);
    reply::list(&asked, q.paging().of(all, key, |m| asked.caller.sees(&m.tenant))?)
}

/// Answers as soon as the number differs from `after` (also when it is lower: the orchestrator started again).
async fn changes(State(mut c): State<Context>, Asking(q): Asking<ChangesQuery>) -> Reply {
    let mut changes = c.service.changes();
    tokio::select! {
        _ = tokio::time::timeout(LONG_POLL, changes.wait_for(|n| *n != q.after.0)) => {}
        _ = c.stop.wait_for(|stop| *stop) => {}
    }
    let change = *changes.borrow();
    reply::document(StatusCode::OK, &ChangeView { change })
}
