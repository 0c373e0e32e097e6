//! Every error that leaves this crate: a stable code, and what to do about it.
//!
//! What OSM answers:
//!
//! | answer | code | disposition |
//! |---|---|---|
//! | no connection | `OSM_UNREACHABLE` | retry |
//! | 429, 503 | `OSM_BUSY` | retry |
//! | sent, and no answer; 5xx, 408 | `OSM_LOST` | unknown |
//! | not what the NBI's source says | `OSM_UNREADABLE` | unknown |
//! | 401 at the login, or our secret is unreadable | `OSM_LOGIN` | escalate |
//! | 401 at the login: locked | `OSM_LOCKED` | escalate |
//! | 401 elsewhere: a missing permission; 403 | `OSM_FORBIDDEN` | escalate |
//! | 404 | `OSM_NOT_FOUND` | compensate |
//! | 409 | `OSM_CONFLICT` | compensate |
//! | 422 `quota (…) exceeded` | `OSM_QUOTA` | elsewhere |
//! | 400, 422 and any other 4xx | `OSM_REFUSED` | compensate |
//!
//! What becomes of an operation: `OSM_FAILED` (elsewhere when OSM's words are of want of room, else compensate) and
//! `OSM_DEADLINE` (cancelled at our deadline and unwound: compensate; not to be cancelled: compensate for what is being built, else unknown).
//!
//! What we refuse ourselves is where it is refused; `docs/reference.md` has every code.

use reqwest::StatusCode;
use vim::{Disposition, DriverError};

use crate::client::{ApiError, Fault};

/// An error inside this crate, before it is said what it was about.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// A call has no result.
    Api(ApiError),
    /// Something else is in the way.
    Refused { code: &'static str, reason: String, disposition: Disposition },
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// An error that unwinding is the answer to.
pub(crate) fn refuse<T>(code: &'static str, reason: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Refused { code, reason: reason.into(), disposition: Disposition::Compensate })
}

/// An error that a person is the answer to.
pub(crate) fn escalate<T>(code: &'static str, reason: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Refused { code, reason: reason.into(), disposition: Disposition::Escalate })
}

/// An operation of OSM's that failed, in OSM's words.
pub(crate) fn failed(what: &str, words: &str) -> Trouble {
    let low = words.to_lowercase();
    let room = [
        "no valid host",
        "novalidhost",
        "quota",
        "not enough",
        "insufficient",
        "no more ip addresses",
        "exceeded maximum number of retries",
        // Its hosts are all out of service.
        "availability zone is not available",
    ];
    let disposition = match room.iter().any(|w| low.contains(w)) {
        true => Disposition::Elsewhere,
        false => Disposition::Compensate,
    };
    Trouble::Refused { code: "OSM_FAILED", reason: format!("OSM's {what} failed: {words}"), disposition }
}

impl Trouble {
    /// May what was asked have happened?
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Api(e) if e.is_lost())
    }

    /// What is past our deadline is over; anything else is as it was.
    pub(crate) fn over(self) -> Self {
        match self {
            Self::Refused { code: "OSM_DEADLINE", reason, .. } => {
                Self::Refused { code: "OSM_DEADLINE", reason, disposition: Disposition::Compensate }
            }
            other => other,
        }
    }

    pub(crate) fn about(self, key: impl ToString, operation: &str) -> DriverError {
        let (code, reason, disposition) = match self {
            Self::Refused { code, reason, disposition } => (code, reason, disposition),
            Self::Api(error) => {
                let (code, disposition) = verdict(&error);
                (code, error.to_string(), disposition)
            }
        };
        DriverError {
            key: key.to_string(),
            operation: operation.to_owned(),
            code: code.to_owned(),
            reason,
            disposition,
        }
    }
}

/// The table in this module's head.
pub(crate) fn verdict(error: &ApiError) -> (&'static str, Disposition) {
    use Disposition::{Compensate, Elsewhere, Escalate, Retry, Unknown};
    match &error.fault {
        Fault::Unreachable { .. } => ("OSM_UNREACHABLE", Retry),
        Fault::Lost { .. } => ("OSM_LOST", Unknown),
        Fault::Unreadable { .. } => ("OSM_UNREADABLE", Unknown),
        Fault::Login { locked: true, .. } => ("OSM_LOCKED", Escalate),
        Fault::Login { .. } | Fault::Secret { .. } => ("OSM_LOGIN", Escalate),
        Fault::Refused { status, detail, .. } => match *status {
            _ if error.did_nothing() => ("OSM_BUSY", Retry),
            _ if error.is_lost() => ("OSM_LOST", Unknown),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ("OSM_FORBIDDEN", Escalate),
            StatusCode::NOT_FOUND => ("OSM_NOT_FOUND", Compensate),
            StatusCode::CONFLICT => ("OSM_CONFLICT", Compensate),
            StatusCode::UNPROCESSABLE_ENTITY if detail.contains("quota (") => ("OSM_QUOTA", Elsewhere),
            _ => ("OSM_REFUSED", Compensate),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_verdict() {
        use Disposition::{Compensate, Elsewhere, Escalate, Retry, Unknown};
        let at = |status: u16, detail: &str| {
            let status = StatusCode::from_u16(status).unwrap_or_default();
            let fault = Fault::Refused { status, detail: detail.into(), retry_after: None };
            verdict(&ApiError::new(String::new(), fault))
        };
        for (status, detail, expected) in [
            (400, "Invalid parameter vld:name='x' is not present at nsd:vld", ("OSM_REFUSED", Compensate)),
            (
                401,
                "Access denied: You have not permissions to use these admin query string",
                ("OSM_FORBIDDEN", Escalate),
            ),
            (403, "", ("OSM_FORBIDDEN", Escalate)),
            (404, "Not found any nsr with filter", ("OSM_NOT_FOUND", Compensate)),
            (405, "Unexpected URL item zzz", ("OSM_REFUSED", Compensate)),
            (409, "nsd with id 'fw-ns' already exists for this project", ("OSM_CONFLICT", Compensate)),
            (422, "Format error  ''nsName' is a required property' ", ("OSM_REFUSED", Compensate)),
            (422, "quota (nsrs=500) exceeded for project a (1)", ("OSM_QUOTA", Elsewhere)),
            (429, "", ("OSM_BUSY", Retry)),
            (500, "", ("OSM_LOST", Unknown)),
            (502, "", ("OSM_LOST", Unknown)),
            (503, "", ("OSM_BUSY", Retry)),
        ] {
            assert_eq!(at(status, detail), expected, "{status} {detail}");
        }
        for (fault, expected) in [
            (Fault::Unreachable { problem: String::new() }, ("OSM_UNREACHABLE", Retry)),
            (Fault::Lost { problem: String::new() }, ("OSM_LOST", Unknown)),
            (Fault::Unreadable { problem: String::new() }, ("OSM_UNREADABLE", Unknown)),
            (Fault::Login { problem: String::new(), locked: false }, ("OSM_LOGIN", Escalate)),
            (Fault::Login { problem: String::new(), locked: true }, ("OSM_LOCKED", Escalate)),
            (Fault::Secret { problem: String::new() }, ("OSM_LOGIN", Escalate)),
        ] {
            assert_eq!(verdict(&ApiError::new(String::new(), fault)), expected);
        }
    }

    #[test]
    fn want_of_room_is_somebody_elses_chance() {
        let of = |words| failed("instantiate", words).about("svc", "ensure").disposition;
        assert_eq!(of("Stage 2/5: Error Deploying at VIM: NoValidHost"), Disposition::Elsewhere);
        assert_eq!(of("Quota exceeded for cores"), Disposition::Elsewhere);
        assert_eq!(of("The requested availability zone is not available"), Disposition::Elsewhere);
        assert_eq!(of("vimconnNotFoundException image not found"), Disposition::Compensate);
    }
}
