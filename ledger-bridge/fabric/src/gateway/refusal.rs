//! What a gateway says instead of an answer, and what to do then.

use std::time::Duration;

use prost::Message as _;

use super::message::{ErrorDetail, RpcStatus};

/// Most details that are kept: a consortium's endorsers, one each.
const MAX_DETAILS: usize = 64;

/// Status codes of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs, reason = "the names are gRPC's")]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// A gateway's error, or that of the way to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// What kind.
    pub code: Code,
    /// The gateway's words.
    pub message: String,
    /// Of each node that the gateway tried.
    pub details: Vec<ErrorDetail>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)?;
        for ErrorDetail { address, msp_id, message } in &self.details {
            write!(f, "; {address} ({msp_id}): {message}")?;
        }
        Ok(())
    }
}

impl Refusal {
    /// From a gRPC status; `details` is the trailer `grpc-status-details-bin`, of which only what is understood is kept.
    #[must_use]
    pub fn new(code: i32, message: impl Into<String>, details: &[u8]) -> Self {
        let status = RpcStatus::decode(details).unwrap_or_default();
        let ours = status.details.iter().filter(|any| any.type_url.ends_with("/gateway.ErrorDetail"));
        let details = ours.filter_map(|any| ErrorDetail::decode(any.value.as_slice()).ok()).take(MAX_DETAILS);
        Self {
            code: Code::try_from(code).unwrap_or(Code::Unknown),
            message: message.into(),
            details: details.collect(),
        }
    }

    /// Status of the chaincode's own answer, when it was the chaincode that refused.
    #[must_use]
    pub fn chaincode_status(&self) -> Option<i32> {
        let said = |text: &str| {
            let (_, rest) = text.split_once("chaincode response ")?;
            rest.split_once(',')?.0.parse().ok()
        };
        self.details.iter().map(|d| d.message.as_str()).chain([self.message.as_str()]).find_map(said)
    }

    /// Has every node that was asked not known who asks? The gateway says the same of that as of a peer that is away.
    fn access_denied(&self) -> bool {
        !self.details.is_empty() && self.details.iter().all(|d| d.message.contains("access denied"))
    }

    /// Before anything was ordered: is it worth proposing again?
    pub(super) fn before_ordering(&self) -> Retry {
        if self.access_denied() {
            return Retry::Never;
        }
        match (self.chaincode_status(), self.code) {
            (Some(status), _) if status < 500 => Retry::Never,
            (Some(_), _) => Retry::Propose,
            (None, Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated) => Retry::Never,
            (None, Code::Unimplemented | Code::NotFound | Code::OutOfRange) => Retry::Never,
            // FailedPrecondition too: what gossip has not spread yet is refused with it ("no combination of peers").
            (None, _) => Retry::Propose,
        }
    }
}

/// Is it known what became of the transaction?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in no block and will be in none.
    Nothing,
    /// It may be in a block, now or later.
    Unknown,
    /// It is in a block, without effect.
    Invalid,
}

/// What helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same again is refused again.
    Never,
    /// A new proposal, after a back-off.
    Propose,
    /// Ask what became of the transaction; a new one could do the same a second time.
    LookUp,
    /// A new transaction after a back-off: another one was first.
    Anew,
}

/// Shortest step of a back-off: a block's time on a fast channel.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Longest.
const MAX_BACK_OFF: Duration = Duration::from_secs(10);

/// How long to wait before attempt `attempt` (from 1): anything up to 50 ms, doubled each time, 10 s at most. `random` is
/// any number; all of it counts.
#[must_use]
pub fn back_off(attempt: u32, random: u32) -> Duration {
    let doubled = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    let longest = BACK_OFF.saturating_mul(doubled).min(MAX_BACK_OFF);
    let nanos = longest.as_nanos() * u128::from(random) / u128::from(u32::MAX);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
