//! Answers: JSON with an ETag, or a problem.

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use trust::Digest;

use super::BODY_TIMEOUT;
use crate::problem::Problem;

/// What a handler returns.
pub type Reply = Result<Response, Problem>;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-cache");

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response()
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

/// The same for bytes of another media type.
pub fn tagged(request: &HeaderMap, media_type: HeaderValue, body: Vec<u8>) -> Reply {
    let tag = format!("\"{}\"", &Digest::of(&body).hex()[..32]);
    let value = HeaderValue::from_str(&tag).map_err(|e| Problem::internal("ETAG", e))?;
    let headers = [(header::ETAG, value), (header::CACHE_CONTROL, NO_STORE)];
    if matches(request, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    Ok((headers, [(header::CONTENT_TYPE, media_type)], body).into_response())
}

/// RFC 9110, 13.1.2: weak comparison with a list of tags or `*`.
fn matches(request: &HeaderMap, tag: &str) -> bool {
    request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .any(|t| t == "*" || t.trim_start_matches("W/") == tag)
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

/// A JSON document in the body.
pub async fn json<T: DeserializeOwned>(from: Body, limit: usize, what: &str) -> Result<T, Problem> {
    let bytes = body(from, limit).await?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Problem::new(400, "MALFORMED", "The request is malformed", format!("not {what}: {e}")))
}
