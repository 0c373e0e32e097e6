//! What handlers are given, and what they answer: JSON with an ETag, a page with a link, or a problem.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequestParts, Path, Query, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use trust::Digest;

use super::{
    BODY_TIMEOUT,
    caller::Caller,
    page::{self, Page},
};
use crate::problem::Problem;

/// Who asks, and how.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who.
    pub caller: Caller,
    /// The headers.
    pub headers: HeaderMap,
    /// The path and query.
    pub uri: Uri,
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Put there by the gate, which every operation of the catalogue passes.
        let caller = parts.extensions.get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Problem::internal("CALLER", "a request that passed no gate"))?;
        Ok(Self { caller, headers: parts.headers.clone(), uri: parts.uri.clone() })
    }
}

/// The query, as a problem when it is not one.
#[derive(Debug, Clone)]
pub struct Asking<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Asking<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        query
            .map(|q| Self(q.0))
            .map_err(|e| Problem::new(400, "QUERY", "The query is malformed", e.body_text()))
    }
}

/// A name in the path. One that is not UTF-8 names nothing.
#[derive(Debug, Clone)]
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        path.map(|p| Self(p.0)).map_err(|e| Problem::new(404, "NOT_FOUND", "Not found", e.body_text()))
    }
}

/// What a handler returns.
pub type Reply = Result<Response, Problem>;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-cache");

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        let pause = match (self.status, self.code.as_str()) {
            (503, _) => Some("5"),
            (409, "IDEMPOTENCY_KEY_BUSY") => Some("1"),
            _ => None,
        };
        if let Some(seconds) = pause {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|e| Problem::internal("ENCODING", e))
}

/// A document with this status.
pub fn document(status: StatusCode, value: &impl Serialize) -> Reply {
    Ok((status, [(header::CONTENT_TYPE, JSON)], encode(value)?).into_response())
}

/// A representation of a resource with its entity tag; 304 when the client has it already.
pub fn resource(request: &HeaderMap, value: &impl Serialize) -> Reply {
    tagged(request, JSON, encode(value)?)
}

/// A page of a list: with its entity tag, and a link to the next.
pub fn list<T: Serialize>(asked: &Asked, page: Page<T>) -> Reply {
    paged(asked, &page.items, page.next.as_deref())
}

/// The same with the items inside of something.
pub fn paged(asked: &Asked, value: &impl Serialize, next: Option<&str>) -> Reply {
    let mut response = resource(&asked.headers, value)?;
    if let Some(link) = next.and_then(|key| page::link(&asked.uri, key)) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// Refuses when `If-Match` names another representation than this one.
pub fn if_match(headers: &HeaderMap, current: &impl Serialize) -> Result<(), Problem> {
    if !headers.contains_key(header::IF_MATCH) {
        return Ok(());
    }
    let tag = tag(&encode(current)?);
    if names(headers, &header::IF_MATCH, &tag, false) {
        return Ok(());
    }
    Err(Problem::new(412, "PRECONDITION", "It is not what it was", format!("its entity tag is {tag} now"))
        .hint("read it again and decide anew"))
}

fn tag(body: &[u8]) -> String {
    format!("\"{}\"", &Digest::of(body).hex()[..32])
}

/// The same for bytes of another media type.
pub fn tagged(request: &HeaderMap, media_type: HeaderValue, body: Vec<u8>) -> Reply {
    let tag = tag(&body);
    let value = HeaderValue::from_str(&tag).map_err(|e| Problem::internal("ETAG", e))?;
    let headers = [(header::ETAG, value), (header::CACHE_CONTROL, NO_STORE)];
    if names(request, &header::IF_NONE_MATCH, &tag, true) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    Ok((headers, [(header::CONTENT_TYPE, media_type)], body).into_response())
}

/// RFC 9110, 13.1: a list of tags or `*`; weak comparison for `If-None-Match`, strong for `If-Match`.
fn names(request: &HeaderMap, header: &header::HeaderName, tag: &str, weak: bool) -> bool {
    let all = request.get_all(header).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(','))
        .map(str::trim)
        .any(|t| t == "*" || t == tag || weak && t.strip_prefix("W/") == Some(tag))
}

/// The whole body, within its bound and its time.
pub async fn body(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let read = axum::body::to_bytes(body, limit);
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Err(_) => Err(Problem::new(
            408,
            "BODY_TIMEOUT",
            "The request took too long",
            "the body did not arrive in time",
        )),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) if too_large(&e) => Err(Problem::new(
            413,
            "BODY_TOO_LARGE",
            "The request is too large",
            format!("at most {limit} bytes are accepted here"),
        )),
        Ok(Err(e)) => Err(Problem::new(400, "BODY", "The request could not be read", e)),
    }
}

fn too_large(error: &axum::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = next {
        if e.to_string().contains("length limit exceeded") {
            return true;
        }
        next = e.source();
    }
    false
}

/// A JSON document in the body: 400 when it is no JSON, 422 when it is not what it must be.
pub async fn json<T: DeserializeOwned>(from: Body, limit: usize, what: &str) -> Result<T, Problem> {
    parse(&body(from, limit).await?, what)
}

/// The same, of bytes.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|e| {
        let detail = format!("not {what}: {e}");
        if e.is_data() {
            Problem::new(422, "UNPROCESSABLE", "The request is not what it must be", detail)
                .hint("GET /openapi.json says what it must be")
        } else {
            Problem::new(400, "MALFORMED", "The request is malformed", detail).hint("send a JSON document")
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAG: &str = "\"0123456789abcdef0123456789abcdef\"";

    fn named(values: &[&[u8]], weak: bool) -> bool {
        let mut request = HeaderMap::new();
        for value in values {
            request.append(header::IF_MATCH, HeaderValue::from_bytes(value).unwrap());
        }
        names(&request, &header::IF_MATCH, TAG, weak)
    }

    #[test]
    fn entity_tags_are_compared_as_rfc_9110_says() {
        let weak = format!("W/{TAG}");
        for (values, strong, lax) in [
            (vec![TAG], true, true),
            (vec!["*"], true, true),
            (vec![weak.as_str()], false, true),
            (vec!["\"a\", \"b\"", &format!(" \"c\" ,{TAG} ")], true, true),
            (vec!["\"a\"", &weak], false, true),
            (vec![TAG.trim_matches('"')], false, false),
            (vec!["w/", "W/*", ""], false, false),
            (vec![], false, false),
        ] {
            let bytes: Vec<&[u8]> = values.iter().map(|v| v.as_bytes()).collect();
            assert_eq!((named(&bytes, false), named(&bytes, true)), (strong, lax), "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_names_a_tag_by_chance(value in proptest::collection::vec(0x20u8..=0xff, 0..80)) {
            prop_assume!(!value.contains(&0x7f) && !value.contains(&b'*'));
            prop_assert!(!named(&[&value], true));
        }

        #[test]
        fn no_body_is_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let read: Result<trust::Envelope, Problem> = parse(&bytes, "an envelope");
            prop_assert!(read.is_err_and(|p| matches!(p.status, 400 | 422)));
        }
    }
}
