//! A refusal in OSM's own error form: `{"code": "CONFLICT", "status": 409, "detail": "CODE: why; what to do"}`.

use serde_json::{Value, json};

/// The stable codes that begin a refusal's `detail`; a refusal of the ledger begins with the ledger's code.
pub mod codes {
    /// The request cannot be read, or could be understood in two ways.
    pub const REQUEST: &str = "OSM_GATEWAY_REQUEST";
    /// No certificate and key are kept for this user.
    pub const IDENTITY: &str = "OSM_GATEWAY_IDENTITY";
    /// A person's certificate or key cannot be used.
    pub const KEY: &str = "OSM_GATEWAY_KEY";
    /// No intent can carry what the request says.
    pub const NOT_CARRIED: &str = "OSM_GATEWAY_NOT_CARRIED";
    /// The project is managed, and this is nothing that an intent does.
    pub const NOT_ALLOWED: &str = "OSM_GATEWAY_NOT_ALLOWED";
    /// A write that reaches into other projects.
    pub const ADMIN_REACH: &str = "OSM_GATEWAY_ADMIN_REACH";
    /// The NSD or package is not registered on the ledger.
    pub const PACKAGE: &str = "OSM_GATEWAY_PACKAGE";
    /// The VIM account is none of Mandate's sites.
    pub const VIM: &str = "OSM_GATEWAY_VIM";
    /// Not in this state.
    pub const STATE: &str = "OSM_GATEWAY_STATE";
    /// There is no such record.
    pub const NOT_FOUND: &str = "OSM_GATEWAY_NOT_FOUND";
    /// The NBI does not answer, or not as it should.
    pub const NBI: &str = "OSM_GATEWAY_NBI";
    /// Journal or ledger cannot be had.
    pub const BACKEND: &str = "OSM_GATEWAY_BACKEND";
    /// Too much at once.
    pub const BUSY: &str = "OSM_GATEWAY_BUSY";
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}{}{detail}", if code.is_empty() { "" } else { ": " })]
pub struct Refused {
    /// HTTP status, as OSM would give.
    pub status: u16,
    /// Stable code: one of [`codes`], or the ledger's; empty: the words are OSM's own.
    pub code: String,
    /// What, where, why, and what to do.
    pub detail: String,
}

impl Refused {
    /// A refusal.
    pub fn new(status: u16, code: &str, detail: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), detail: detail.into() }
    }

    /// A request that cannot be read (400).
    #[must_use]
    pub fn request(detail: String) -> Self {
        Self::new(400, codes::REQUEST, detail)
    }

    /// What no intent can carry (422).
    pub fn not_carried(field: &str, why: &str) -> Self {
        Self::new(422, codes::NOT_CARRIED, format!("{field}: {why}"))
    }

    /// OSM's document.
    #[must_use]
    pub fn document(&self) -> Value {
        json!({ "code": name(self.status), "status": self.status, "detail": self.to_string() })
    }
}

/// As Python's `HTTPStatus` names it.
fn name(status: u16) -> &'static str {
    match status {
        400 => "BAD_REQUEST",
        401 => "UNAUTHORIZED",
        403 => "FORBIDDEN",
        404 => "NOT_FOUND",
        405 => "METHOD_NOT_ALLOWED",
        409 => "CONFLICT",
        408 => "REQUEST_TIMEOUT",
        411 => "LENGTH_REQUIRED",
        413 => "REQUEST_ENTITY_TOO_LARGE",
        415 => "UNSUPPORTED_MEDIA_TYPE",
        422 => "UNPROCESSABLE_ENTITY",
        501 => "NOT_IMPLEMENTED",
        502 => "BAD_GATEWAY",
        503 => "SERVICE_UNAVAILABLE",
        504 => "GATEWAY_TIMEOUT",
        _ => "INTERNAL_SERVER_ERROR",
    }
}
