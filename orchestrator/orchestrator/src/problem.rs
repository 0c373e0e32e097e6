//! RFC 9457 problem details: the one form in which anything is refused at our interfaces.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A refusal: what, where, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{title} ({code}): {detail}{}", hint.as_ref().map(|h| format!(" — {h}")).unwrap_or_default())]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable code, `UPPER_SNAKE_CASE`.
    pub code: String,
    /// What was refused, in a few words.
    pub title: String,
    /// Where and why.
    pub detail: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(status: u16, code: &str, title: &str, detail: impl std::fmt::Display) -> Self {
        Self { status, code: code.into(), title: title.into(), detail: detail.to_string(), hint: None }
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Something that is not there.
    pub fn not_found(what: &str, name: &str) -> Self {
        Self::new(404, "NOT_FOUND", "Not found", format!("there is no {what} `{name}`"))
    }

    /// A failure of ours: state kept, try again or look into the log.
    pub fn internal(code: &str, detail: impl std::fmt::Display) -> Self {
        Self::new(500, code, "The orchestrator failed", detail)
            .hint("nothing was lost; see `mandate serve`'s log")
    }
}
