//! Signed bytes and who signed them.
//!
//! Everything Mandate hashes or signs goes through this crate: DSSE envelopes ([`dsse`]), X.509 identities and
//! their roots ([`identity`], [`issue`]), in-toto statements ([`statement`]), RFC 6962 trees ([`merkle`]) and C2SP
//! signed notes and checkpoints ([`note`]) with cosignatures ([`witness`]), and the members of a Fabric channel's
//! organisations ([`msp`]).
//!
//! It never reads a clock, a file or a random source: time and randomness are arguments, so that the contract, the
//! data plane and an offline verifier on another machine compute the same answers. Bytes are signed, not
//! structures: a payload is stored as it was signed and never encoded again.
//!
//! Tests are beside each module; `tests/` holds vectors that other implementations made.

mod certificate;
pub mod continuity;
pub mod digest;
pub mod dsse;
pub mod identity;
pub mod issue;
pub mod memo;
pub mod merkle;
pub mod msp;
pub mod note;
#[cfg(feature = "schema")]
mod schema;
pub mod statement;
pub mod witness;

pub use digest::Digest;
pub use dsse::{Envelope, Signer};
pub use identity::{Identity, TrustRoots};

/// Seconds since 1970-01-01T00:00:00Z: the only notion of time in pure code.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The same instant, `seconds` later (saturating).
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

impl std::fmt::Display for UnixTime {
    /// RFC 3339 in UTC.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match der::DateTime::from_unix_duration(std::time::Duration::from_secs(self.0)) {
            Ok(t) => write!(f, "{t}"),
            Err(_) => write!(f, "@{}", self.0),
        }
    }
}
