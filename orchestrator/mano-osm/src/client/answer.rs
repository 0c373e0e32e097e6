//! Answers, and what the NBI writes into its errors: `{"code": "CONFLICT", "status": 409, "detail": "..."}`.

use std::{fmt, time::Duration};

use http_peer::Unread;
use reqwest::{Response, StatusCode, header};
use serde_json::Value;

use super::{Answer, Call};

/// Longest error answer that is read, bytes.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Longest detail that is repeated, characters.
const MAX_DETAIL: usize = 600;

/// A call that has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// `OSM POST nslcm/v1/ns_instances`.
    pub call: String,
    /// Why.
    pub fault: Fault,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The NBI was not reached: nothing happened.
    Unreachable {
        /// What the network said.
        problem: String,
    },
    /// It was sent, and there is no answer: it may have been carried out.
    Lost {
        /// What broke.
        problem: String,
    },
    /// The NBI (or what stands before it) said no.
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its words.
        detail: String,
        /// When to come again, as it asked.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the NBI's source says.
    Unreadable {
        /// What is wrong with it.
        problem: String,
    },
    /// We are not let in, and asking again would lock the account.
    Login {
        /// Why, and what to do.
        problem: String,
        /// Is the account locked?
        locked: bool,
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
            Fault::Refused { status, detail, .. } => write!(f, "{}: {detail}", status.as_u16()),
            Fault::Unreadable { problem } => write!(f, "an answer that cannot be read: {problem}"),
            Fault::Login { problem, .. } | Fault::Secret { problem } => f.write_str(problem),
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

    /// What the NBI answered.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match &self.fault {
            Fault::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The NBI's words.
    #[must_use]
    pub fn detail(&self) -> &str {
        match &self.fault {
            Fault::Refused { detail, .. } => detail,
            _ => "",
        }
    }

    /// There is no such thing, or it is another project's.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// It is in use, in another state, or there already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(StatusCode::CONFLICT)
    }

    /// The token is none any more. A missing permission is 401 as well, and another token would not help.
    #[must_use]
    pub fn is_stale_token(&self) -> bool {
        // "Needed a token", "Invalid Token", "Expired Token or Authorization HTTP header".
        let detail = self.detail().to_lowercase();
        self.status() == Some(StatusCode::UNAUTHORIZED)
            && detail.contains("token or authorization http header")
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
        // A proxy's words about an NBI that it lost, or the NBI's about itself.
        let unsure = |s: StatusCode| {
            s == StatusCode::REQUEST_TIMEOUT || s.is_server_error() && s != StatusCode::SERVICE_UNAVAILABLE
        };
        matches!(self.fault, Fault::Lost { .. } | Fault::Unreadable { .. })
            || self.status().is_some_and(unsure)
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
pub(super) async fn read(answer: Response, most: usize, call: &Call) -> Result<Answer, ApiError> {
    let status = answer.status();
    if !status.is_success() {
        return Err(refused(answer, call).await);
    }
    match http_peer::bounded(answer, most).await {
        Ok(body) => Ok(Answer { body }),
        Err(e) => Err(ApiError::new(call.place(), unread(e))),
    }
}

fn unread(e: Unread) -> Fault {
    match e {
        Unread::Lost(problem) => Fault::Lost { problem },
        Unread::TooLong(_) => Fault::Unreadable { problem: e.to_string() },
    }
}

async fn refused(answer: Response, call: &Call) -> ApiError {
    let status = answer.status();
    let after = answer.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    let body = http_peer::bounded(answer, MAX_ERROR_BYTES).await.unwrap_or_default();
    let detail = match detail(&body) {
        text if text.is_empty() => status.canonical_reason().unwrap_or("no reason given").to_owned(),
        text => text,
    };
    let retry_after = after.map(Duration::from_secs);
    ApiError::new(call.place(), Fault::Refused { status, detail, retry_after })
}

/// The words of an error: the NBI's, or those of whatever stands before it.
fn detail(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(v) => v.get("detail").and_then(Value::as_str).unwrap_or_default().to_owned(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    // "database exception database exception Not found …": every layer of the NBI adds it once.
    let text = text.trim().trim_start_matches("database exception ").to_owned();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, detail: &str) -> ApiError {
        let status = StatusCode::from_u16(status).unwrap_or_default();
        let fault = Fault::Refused { status, detail: detail.into(), retry_after: None };
        ApiError { call: String::new(), fault }
    }

    #[test]
    fn the_words_are_found() {
        for (body, words) in [
            (
                r#"{"code": "CONFLICT", "status": 409, "detail": "Error, MD5 mismatch"}"#,
                "Error, MD5 mismatch",
            ),
            (r#"{"detail": "database exception database exception Not found any nsr"}"#, "Not found any nsr"),
            ("<html>502 Bad Gateway</html>\n", "<html>502 Bad Gateway</html>"),
            ("{}", ""),
            ("[]", ""),
            ("", ""),
        ] {
            assert_eq!(detail(body.as_bytes()), words, "{body}");
        }
        assert_eq!(detail(&[b'a'; 5000]).len(), MAX_DETAIL);
    }

    #[test]
    fn only_a_stale_token_is_worth_another_login() {
        for (text, stale) in [
            ("Needed a token or Authorization http header", true),
            ("Invalid Token or Authorization HTTP header", true),
            ("Expired Token or Authorization HTTP header", true),
            ("Invalid username/password", false),
            ("Access denied: You have not permissions to use these admin query string", false),
            ("Failed to login as the account is locked due to MANY FAILED ATTEMPTS", false),
        ] {
            assert_eq!(error(401, text).is_stale_token(), stale, "{text}");
        }
        assert!(!error(403, "Invalid Token or Authorization HTTP header").is_stale_token());
    }

    #[test]
    fn what_may_have_happened_is_not_taken_for_nothing() {
        for (status, nothing, lost) in [
            (400, false, false),
            (409, false, false),
            (429, true, false),
            (503, true, false),
            (500, false, true),
            (502, false, true),
            (504, false, true),
        ] {
            let e = error(status, "");
            assert_eq!((e.did_nothing(), e.is_lost()), (nothing, lost), "{status}");
        }
    }
}
