//! Answers, and what five services write into their errors.

use std::{fmt, time::Duration};

use http_peer::Unread;
use reqwest::{Response, StatusCode, header};
use serde_json::Value;

use super::{Call, Microversion};

/// Longest error answer that is read, bytes.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Longest message of a service that is repeated, characters.
const MAX_MESSAGE: usize = 600;

/// A call that has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// `nova POST servers`.
    pub call: String,
    /// Why.
    pub fault: Fault,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The endpoint was not reached: nothing happened.
    Unreachable {
        /// What the network said.
        problem: String,
    },
    /// It was sent, and there is no answer: it may have been carried out.
    Lost {
        /// What broke.
        problem: String,
    },
    /// The service said no.
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// The service's own name of the error, where it has one (`OverQuota`, `PortInUse`, …).
        kind: String,
        /// Its words.
        message: String,
        /// Its request id, for the service's log.
        request_id: String,
        /// When to come again, as it asked.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the API's documentation says.
    Unreadable {
        /// What is wrong with it.
        problem: String,
    },
    /// The service is older than what is asked of it.
    TooOld {
        /// What the call needs.
        needs: Microversion,
        /// What is spoken.
        has: String,
    },
    /// The catalogue has no such endpoint.
    NoEndpoint {
        /// What was looked for, and what there is.
        problem: String,
    },
    /// Our secret cannot be read any more.
    Secret {
        /// Which, and why.
        problem: String,
    },
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.call)?;
        match &self.fault {
            Fault::Unreachable { problem } => write!(f, "not reached: {problem}"),
            Fault::Lost { problem } => write!(f, "no answer, it may have been carried out: {problem}"),
            Fault::Refused { status, kind, message, request_id, .. } => {
                write!(f, "{}", status.as_u16())?;
                if !kind.is_empty() {
                    write!(f, " {kind}")?;
                }
                write!(f, ": {message}")?;
                if !request_id.is_empty() {
                    write!(f, " ({request_id})")?;
                }
                Ok(())
            }
            Fault::Unreadable { problem } => write!(f, "an answer that cannot be read: {problem}"),
            Fault::TooOld { needs, has } => {
                write!(
                    f,
                    "it needs microversion {needs}, the service speaks {has}: use a newer release of it"
                )
            }
            Fault::NoEndpoint { problem } | Fault::Secret { problem } => f.write_str(problem),
        }
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    pub(crate) fn new(call: String, fault: Fault) -> Self {
        Self { call, fault }
    }

    /// Of a request that was sent, as far as it got.
    pub(super) fn sent(call: String, error: &reqwest::Error) -> Self {
        let problem = http_peer::chain(error);
        let fault = match error.is_connect() || error.is_builder() {
            true => Fault::Unreachable { problem },
            false => Fault::Lost { problem },
        };
        Self { call, fault }
    }

    /// What the service answered.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match &self.fault {
            Fault::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The service's name of the error.
    #[must_use]
    pub fn kind(&self) -> &str {
        match &self.fault {
            Fault::Refused { kind, .. } => kind,
            _ => "",
        }
    }

    /// The service's words.
    #[must_use]
    pub fn message(&self) -> &str {
        match &self.fault {
            Fault::Refused { message, .. } => message,
            _ => "",
        }
    }

    /// There is no such thing.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// There is such a thing, or it is in use.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(StatusCode::CONFLICT)
    }

    /// Certainly nothing happened, and later it may.
    #[must_use]
    pub fn did_nothing(&self) -> bool {
        let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        matches!(self.fault, Fault::Unreachable { .. }) || self.status().is_some_and(|s| busy.contains(&s))
    }

    /// It may have happened.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        // A proxy's words about a service that it lost, or a service's about itself.
        let unsure = [
            StatusCode::INTERNAL_SERVER_ERROR,
            StatusCode::BAD_GATEWAY,
            StatusCode::GATEWAY_TIMEOUT,
            StatusCode::REQUEST_TIMEOUT,
        ];
        matches!(self.fault, Fault::Lost { .. } | Fault::Unreadable { .. })
            || self.status().is_some_and(|s| unsure.contains(&s))
    }

    /// When to come again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match &self.fault {
            Fault::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The answer, when it is a success.
pub(super) async fn checked(answer: Response, call: &Call) -> Result<Response, ApiError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let request_id = header("x-openstack-request-id").unwrap_or_default();
    // Seconds; the form with a date is not used by OpenStack.
    let retry_after =
        header(header::RETRY_AFTER.as_str()).and_then(|v| v.parse().ok()).map(Duration::from_secs);
    let html = header(header::CONTENT_TYPE.as_str()).is_some_and(|t| t.contains("html"));
    let body = bounded(answer, MAX_ERROR_BYTES, call).await.unwrap_or_default();
    let (kind, message) = words(&body, html);
    let message = match message.is_empty() {
        true => status.canonical_reason().unwrap_or("no reason given").to_owned(),
        false => message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect(),
    };
    Err(ApiError::new(call.place(), Fault::Refused { status, kind, message, request_id, retry_after }))
}

/// At most so many bytes of an answer.
pub(super) async fn bounded(answer: Response, most: usize, call: &Call) -> Result<Vec<u8>, ApiError> {
    http_peer::bounded(answer, most).await.map_err(|e| {
        let fault = match e {
            Unread::Lost(problem) => Fault::Lost { problem },
            Unread::TooLong(_) => Fault::Unreadable { problem: e.to_string() },
        };
        ApiError::new(call.place(), fault)
    })
}

/// Name and words of an error, from whichever of the services' forms it has.
fn words(body: &[u8], html: bool) -> (String, String) {
    let Ok(document) = serde_json::from_slice::<Value>(body) else {
        let text = String::from_utf8_lossy(body);
        return (String::new(), if html { untagged(&text) } else { text.trim().to_owned() });
    };
    let text = |v: &Value, name: &str| v.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    // placement: {"errors": [{"status", "title", "detail", "code"}]}
    if let Some(first) = document.get("errors").and_then(|e| e.get(0)) {
        return (text(first, "code"), text(first, "detail").trim().to_owned());
    }
    // neutron: {"NeutronError": {"type", "message", "detail"}} · keystone: {"error": {"title", "message", "code"}}
    // nova: {"badRequest": {"message", "code"}}, the name being the kind
    let Some((name, inner)) = document.as_object().and_then(|o| o.iter().find(|(_, v)| v.is_object())) else {
        // glance: {"message": "No image found<br />", "code": "404 Not Found", "title"}
        let kind = text(&document, "code");
        let kind = if kind.starts_with(|c: char| c.is_ascii_digit()) { String::new() } else { kind };
        return (kind, untagged(&text(&document, "message")));
    };
    let kind = match name.as_str() {
        "NeutronError" => text(inner, "type"),
        "error" => text(inner, "title"),
        other => other.to_owned(),
    };
    (kind, text(inner, "message"))
}

/// glance's and every proxy's page, without its tags.
fn untagged(page: &str) -> String {
    let (mut out, mut tag) = (String::new(), false);
    for c in page.chars() {
        match c {
            '<' => tag = true,
            '>' if tag => {
                tag = false;
                out.push(' ');
            }
            c if !tag => out.push(c),
            _ => {}
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_services_words_are_found() {
        let forms: [(&str, bool, &str, &str); 8] = [
            (
                r#"{"forbidden": {"code": 403, "message": "Quota exceeded for cores"}}"#,
                false,
                "forbidden",
                "Quota exceeded for cores",
            ),
            (
                r#"{"NeutronError": {"type": "OverQuota", "message": "Quota exceeded", "detail": ""}}"#,
                false,
                "OverQuota",
                "Quota exceeded",
            ),
            (
                r#"{"error": {"code": 401, "message": "The request you have made", "title": "Unauthorized"}}"#,
                false,
                "Unauthorized",
                "The request you have made",
            ),
            (
                r#"{"errors": [{"status": 409, "detail": "generation conflict\n", "code": "placement.concurrent_update"}]}"#,
                false,
                "placement.concurrent_update",
                "generation conflict",
            ),
            (r#"{"message": "plain", "code": "x"}"#, false, "x", "plain"),
            (
                "<html><head><title>404 Not Found</title></head><body><h1>404</h1>No image</body></html>",
                true,
                "",
                "404 Not Found 404 No image",
            ),
            ("upstream reset\n", false, "", "upstream reset"),
            (
                r#"{"message": "No image with ID 1<br /><br />\n", "code": "404 Not Found", "title": "Not Found"}"#,
                false,
                "",
                "No image with ID 1",
            ),
        ];
        for (body, html, kind, message) in forms {
            assert_eq!(words(body.as_bytes(), html), (kind.to_owned(), message.to_owned()), "{body}");
        }
        for odd in ["", "[]", "null", "{}", "{\"a\": 1}", "{\"errors\": []}", "<", "<>"] {
            words(odd.as_bytes(), false);
            words(odd.as_bytes(), true);
        }
    }

    #[test]
    fn what_may_have_happened_is_not_taken_for_nothing() {
        let refused = |status: u16| ApiError {
            call: String::new(),
            fault: Fault::Refused {
                status: StatusCode::from_u16(status).unwrap_or_default(),
                kind: String::new(),
                message: String::new(),
                request_id: String::new(),
                retry_after: None,
            },
        };
        for (status, nothing, lost) in [
            (400, false, false),
            (429, true, false),
            (503, true, false),
            (500, false, true),
            (502, false, true),
            (504, false, true),
        ] {
            let error = refused(status);
            assert_eq!((error.did_nothing(), error.is_lost()), (nothing, lost), "{status}");
        }
    }
}
