//! Answers in the form that OSM would give them.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize as _;
use serde_json::Value;

use crate::refusal::Refused;

/// In which form a client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON.
    Json,
    /// YAML: what OSM gives to whoever asks for nothing.
    Yaml,
}

impl Form {
    /// As the NBI chooses (`_format_out`); HTML is not made here, JSON is.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match accept {
            a if a.contains("text/html") => Self::Json,
            a if a.contains("application/yaml") || a.contains("*/*") => Self::Yaml,
            a if a.contains("application/json") => Self::Json,
            _ => Self::Yaml,
        }
    }

    /// The same for an error: whoever accepts anything but YAML gets JSON.
    #[must_use]
    pub fn of_error(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match accept {
            "" => Self::Yaml,
            a if a.contains("application/yaml") || a.contains("*/*") => Self::Yaml,
            _ => Self::Json,
        }
    }

    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=utf-8",
            Self::Yaml => "application/yaml",
        }
    }

    /// A document.
    #[must_use]
    pub fn render(self, document: &Value) -> String {
        match self {
            Self::Json => json(document) + "\n",
            Self::Yaml => format!("---\n{}", yaml(document)),
        }
    }
}

/// As Python's `json.dumps(indent=4)`.
pub(crate) fn json(document: &Value) -> String {
    let mut out = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, form);
    // A document of ours always encodes, and JSON is UTF-8.
    let _ = document.serialize(&mut serializer);
    String::from_utf8(out).unwrap_or_default()
}

/// JSON is YAML: a document that the YAML writer would not take is still one.
pub(crate) fn yaml(document: &Value) -> String {
    serde_saphyr::to_string(document).unwrap_or_else(|_| json(document) + "\n")
}

/// An answer.
#[must_use]
pub fn answer(status: u16, form: Form, document: &Value) -> Response {
    let mut response = Response::new(Body::from(form.render(document)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    response
}

/// 204.
#[must_use]
pub fn nothing() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// With where to look, a relative path as OSM's.
#[must_use]
pub fn located(mut response: Response, path: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(path) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// A refusal.
#[must_use]
pub fn refusal(headers: &HeaderMap, refused: &Refused) -> Response {
    let mut response = answer(refused.status, Form::of_error(headers), &refused.document());
    let out = response.headers_mut();
    if refused.status == 401 {
        out.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"Mandate\""));
    }
    if refused.status == 503 {
        out.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    // What metrics and logs go by.
    if let Ok(code) = HeaderValue::from_str(&refused.code) {
        out.insert(HeaderName::from_static("mandate-code"), code);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_client_gets_the_form_that_the_nbi_gives() {
        let form = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            (Form::of(&headers), Form::of_error(&headers))
        };
        assert_eq!(
            (Form::of(&HeaderMap::new()), Form::of_error(&HeaderMap::new())),
            (Form::Yaml, Form::Yaml)
        );
        assert_eq!(form("application/json"), (Form::Json, Form::Json));
        assert_eq!(form("*/*"), (Form::Yaml, Form::Yaml));
        assert_eq!(form("application/json, application/yaml"), (Form::Yaml, Form::Yaml));
        assert_eq!(form("application/zip"), (Form::Yaml, Form::Json));
    }

    #[test]
    fn what_is_rendered_reads_back() {
        let document = json!({ "a": ["x: y", "- no", "", "yes", "0x1", "1e3", "null"], "b": { "c": null, "d": 1.5 }, "é": "ü\n\"" });
        let back: Value = serde_json::from_str(&Form::Json.render(&document)).unwrap();
        assert_eq!(back, document);
        let back: Value = serde_saphyr::from_str(&Form::Yaml.render(&document)).unwrap();
        assert_eq!(back, document);
    }
}
