//! What every request passes before its handler: who calls, whether that one may, whether we still take it, whether
//! its body is of a known kind, and whether it was answered before.
//!
//! An `Idempotency-Key` belongs to its caller. The same request again gets the stored answer; while the first is
//! under way, or for another request under the same key, there is a refusal. A crash between effect and stored
//! answer is safe all the same: the ledger answers the identical request with its first outcome, and an approval
//! counts once.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures::StreamExt as _;
use trust::Digest;

use super::{
    Context,
    caller::{Caller, Peer},
    catalogue::{self, Operation, Verb},
    reply,
};
use crate::{engine, journal::Reply, problem::Problem};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest `Idempotency-Key`, bytes.
const MAX_KEY_BYTES: usize = 128;
/// Largest answer that is stored, bytes: a verdict with all its rules is a few KiB.
const MAX_REPLY_BYTES: usize = 1 << 20;

/// Most of a refused request's body that is read, bytes: more than any document but a package, an approval or a request.
const MAX_REST_BYTES: usize = 1 << 20;
/// Longest that it is read.
const REST_TIMEOUT: Duration = Duration::from_secs(2);

/// Keys whose first request is under way.
pub type Busy = Arc<Mutex<BTreeSet<(String, String)>>>;

/// The middleware: lets a request through, answers it from what was stored, or refuses it.
pub async fn pass(State(c): State<Context>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned());
    let operation = route.as_deref().and_then(|r| catalogue::find(method.as_str(), r));
    let response = match operation {
        // No route, or no such method on it: the router's own refusals say so.
        None => next.run(request).await,
        Some(o) => checked(&c, o, request, next).await.unwrap_or_else(|p| p.into_response()),
    };
    let label = operation.map_or("none", |o| o.path);
    c.metrics.request(method.as_str(), label, response.status().as_u16(), began.elapsed());
    response
}

/// Answers a request, or refuses it once all of it has come.
async fn checked(
    c: &Context,
    operation: &Operation,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (caller, key) = match admitted(c, operation, &request) {
        Ok(admitted) => admitted,
        Err(problem) => {
            let_finish(request.into_body()).await;
            return Err(problem);
        }
    };
    request.extensions_mut().insert(caller.clone());
    match key {
        Some(key) if operation.verb == Verb::Post => once(c, operation, &caller, key, request, next).await,
        _ => Ok(next.run(request).await),
    }
}

/// Reads the rest of a request that is refused, within bounds: who is cut off while it writes never sees the answer.
async fn let_finish(body: Body) {
    let mut stream = body.into_data_stream();
    let rest = async {
        let mut left = MAX_REST_BYTES;
        while let Some(Ok(piece)) = stream.next().await {
            match left.checked_sub(piece.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // What has not come by then is not waited for.
    let _ = tokio::time::timeout(REST_TIMEOUT, rest).await;
}

/// Who calls, and under which key, if that is allowed.
fn admitted(
    c: &Context,
    operation: &Operation,
    request: &Request,
) -> Result<(Caller, Option<String>), Problem> {
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|p| p.0.clone());
    let peer = peer.ok_or_else(|| Problem::internal("CALLER", "a connection without its origin"))?;
    let caller = Caller::of(&peer, c.service.as_ref(), engine::now())?;
    caller.may(operation)?;
    if operation.verb != Verb::Get && *c.draining.borrow() {
        return Err(Problem::new(
            503,
            "DRAINING",
            "Not now",
            "the orchestrator is stopping; nothing new is taken",
        )
        .hint("try again: it goes on after its restart"));
    }
    media_type(operation, request.headers())?;
    Ok((caller, key(request.headers())?))
}

/// The body is one of those that the operation takes.
fn media_type(operation: &Operation, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(body) = &operation.body else { return Ok(()) };
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let given = given.split(';').next().unwrap_or_default().trim();
    if body.contents.iter().any(|c| c.media_type.eq_ignore_ascii_case(given)) {
        return Ok(());
    }
    let known: Vec<_> = body.contents.iter().map(|c| c.media_type).collect();
    let detail = format!("`Content-Type: {given}`");
    Err(Problem::new(415, "MEDIA_TYPE", "Unsupported media type", detail)
        .hint(format!("send {}", known.join(" or "))))
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut all = headers.get_all(KEY).iter();
    let Some(value) = all.next() else { return Ok(None) };
    // The draft standard writes it as a quoted string; many clients do not.
    let text = value.to_str().unwrap_or_default().trim_matches('"');
    let legal = |b: u8| b.is_ascii_graphic();
    if all.next().is_none() && (1..=MAX_KEY_BYTES).contains(&text.len()) && text.bytes().all(legal) {
        return Ok(Some(text.to_owned()));
    }
    let detail = format!("one `Idempotency-Key` of 1 to {MAX_KEY_BYTES} visible ASCII characters");
    Err(Problem::new(400, "IDEMPOTENCY_KEY", "The request is malformed", detail).hint("a UUID will do"))
}

/// Answers from the store, or answers and stores.
async fn once(
    c: &Context,
    operation: &Operation,
    caller: &Caller,
    key: String,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let owner = caller.name();
    let (parts, body) = request.into_parts();
    let _turn = match Turn::take(&c.busy, &owner, &key) {
        Ok(turn) => turn,
        Err(problem) => {
            let_finish(body).await;
            return Err(problem);
        }
    };
    let body = reply::body(body, operation.body.map_or(0, |b| b.max_bytes)).await?;
    let asked = parts.uri.path_and_query().map_or("", |p| p.as_str());
    let digest = Digest::of_parts([operation.id.as_bytes(), asked.as_bytes(), &body]).to_string();
    if let Some(stored) = stored(c, &owner, &key).await? {
        return replay(&key, &digest, stored);
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    keep(c, owner, key, digest, response).await
}

async fn stored(c: &Context, owner: &str, key: &str) -> Result<Option<Reply>, Problem> {
    let (journal, owner, key) = (c.service.journal(), owner.to_owned(), key.to_owned());
    let read = move || journal.reply(&owner, &key, engine::now_ms());
    let read = tokio::task::spawn_blocking(read).await.map_err(|e| Problem::internal("TASK", e))?;
    read.map_err(|e| Problem::internal("JOURNAL", e))
}

fn replay(key: &str, digest: &str, stored: Reply) -> Result<Response, Problem> {
    if stored.request != digest {
        let detail = format!("`{key}` was used for another request");
        return Err(Problem::new(422, "IDEMPOTENCY_KEY_REUSED", "The key was used before", detail)
            .hint("a request that is meant anew needs a key of its own"));
    }
    let mut response = rebuild(&stored, Bytes::from(stored.body.clone()))?;
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

fn rebuild(stored: &Reply, body: Bytes) -> Result<Response, Problem> {
    let status = StatusCode::from_u16(stored.status).map_err(|e| Problem::internal("JOURNAL", e))?;
    let media = HeaderValue::from_str(&stored.media_type).map_err(|e| Problem::internal("JOURNAL", e))?;
    Ok((status, [(header::CONTENT_TYPE, media)], body).into_response())
}

/// Stores an answer that would be the same again. Trouble of ours is not: the client shall try again.
async fn keep(
    c: &Context,
    owner: String,
    key: String,
    request: String,
    response: Response,
) -> Result<Response, Problem> {
    let status = response.status().as_u16();
    if status >= 500 || status == 408 {
        return Ok(response);
    }
    let media = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let media_type = media.unwrap_or("application/json").to_owned();
    let (parts, body) = response.into_parts();
    let body =
        axum::body::to_bytes(body, MAX_REPLY_BYTES).await.map_err(|e| Problem::internal("REPLY", e))?;
    let reply = Reply { request, status, media_type, body: body.to_vec() };
    let journal = c.service.journal();
    let write = move || journal.keep_reply(&owner, &key, &reply, engine::now_ms());
    let written = tokio::task::spawn_blocking(write).await.map_err(|e| Problem::internal("TASK", e))?;
    written.map_err(|e| Problem::internal("JOURNAL", e))?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// The right to work under a key, given back when dropped (also when the client goes away).
struct Turn {
    busy: Busy,
    held: (String, String),
}

impl Turn {
    fn take(busy: &Busy, owner: &str, key: &str) -> Result<Self, Problem> {
        let held = (owner.to_owned(), key.to_owned());
        if busy.lock().unwrap_or_else(PoisonError::into_inner).insert(held.clone()) {
            return Ok(Self { busy: busy.clone(), held });
        }
        let detail = format!("a request under `{key}` is under way");
        Err(Problem::new(409, "IDEMPOTENCY_KEY_BUSY", "Not yet answered", detail)
            .hint("the same request again in a moment gets its answer"))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.held);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[&[u8]]) -> Result<Option<String>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(KEY, HeaderValue::from_bytes(value).unwrap());
        }
        key(&headers)
    }

    #[test]
    fn a_key_is_one_of_its_length_quoted_or_not() {
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[b"\"8e03978e\""]).unwrap().as_deref(), Some("8e03978e"));
        let longest = vec![b'k'; MAX_KEY_BYTES];
        assert_eq!(of(&[&longest]).unwrap().unwrap().len(), MAX_KEY_BYTES);
        let longer = vec![b'k'; MAX_KEY_BYTES + 1];
        for bad in [&[b"a".as_slice(), b"b"][..], &[b""], &[b"\"\""], &[b"a b"], &[b"\xe4"], &[&longer]] {
            assert_eq!(of(bad).unwrap_err().code, "IDEMPOTENCY_KEY", "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_key_that_is_taken_can_be_stored(value in proptest::collection::vec(0x20u8..=0xff, 0..200)) {
            prop_assume!(!value.contains(&0x7f));
            if let Ok(Some(key)) = of(&[&value]) {
                prop_assert!((1..=MAX_KEY_BYTES).contains(&key.len()));
                prop_assert!(key.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
