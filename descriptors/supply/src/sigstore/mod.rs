//! Sigstore bundles v0.1, v0.2 and v0.3: <https://docs.sigstore.dev/about/bundle/>. Verified offline.
//!
//! | kind | who signed | needs from the trust roots |
//! |---|---|---|
//! | keyed | a public key that an organisation lists | `orgs.NAME.keys` |
//! | keyless | an identity (mail address, workflow URI) that an identity provider confirmed to Fulcio | `orgs.NAME.sigstore`: a `trusted_root.json` and the identities that count |
//!
//! In the order of the client specification: the certificate's identity is one that counts ([`verify`]); a time at
//! which it was signed comes from the transparency log's promise or a time-stamping authority, never from the signer;
//! the certificate chain was valid then, and its issuance is in a certificate transparency log ([`sct`]); the
//! signature holds; the log entry is about exactly this signature, and is in the log ([`tlog`]).
//!
//! Own code, and not `sigstore-verify` or `sigstore`: those bring ring or aws-lc-rs, an HTTP client or a second
//! generation of RustCrypto (docs/adr/0003); what is needed is 600 lines over `pki` and `trust::merkle`.
//!
//! Never: asks Fulcio, Rekor or TUF; accepts a keyless bundle without a time that somebody trusted vouches for. Tests:
//! `signing_tools.rs` of `descriptors`, with bundles that a miniature Fulcio, Rekor and time-stamping authority sign and
//! sigstore-python accepts.

pub mod bundle;
mod root;
mod sct;
mod tlog;
pub mod verify;

pub use bundle::Bundle;
pub use root::TrustedRoot;
pub use root::rfc3339;
pub use verify::pae;
pub use verify::{Claim, verify_artifact, verify_statement};

use crate::pki::PkiError;

/// Why a Sigstore bundle is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigstoreError {
    /// Not a bundle of a version that is read.
    #[error(
        "not a Sigstore bundle of version 0.1 to 0.3: {0}; sign again with a current cosign or sigstore-python"
    )]
    Bundle(String),
    /// The trust roots' `trusted_root` cannot be read.
    #[error(
        "the trusted root of organisation `{org}` is malformed: {why}; get it again with `cosign trusted-root`"
    )]
    Root {
        /// Whose.
        org: String,
        /// What the reader said.
        why: String,
    },
    /// Nobody listed that key.
    #[error(
        "no organisation lists a key that made the signature (hint `{hint}`); add it to `keys` of its organisation if you trust it"
    )]
    UnknownKey {
        /// The bundle's hint.
        hint: String,
    },
    /// Nobody listed that identity.
    #[error(
        "signed by `{subject}`, which `{issuer}` confirmed: no organisation lists that identity; add it to `sigstore.identities` of its organisation if you trust it"
    )]
    UnknownIdentity {
        /// Subject alternative name.
        subject: String,
        /// The identity provider.
        issuer: String,
    },
    /// Nobody trusted says when it was signed.
    #[error(
        "no trusted time: {0}; sign with a transparency log or a time-stamping authority that the trusted root names"
    )]
    NoTime(String),
    /// The log entry is not good.
    #[error(
        "transparency log entry {index}: {why}; the bundle was altered, or the log is not the one in the trusted root"
    )]
    Log {
        /// Its index in the bundle, from 0.
        index: usize,
        /// What is wrong.
        why: String,
    },
    /// The certificate's issuance is not in a certificate transparency log.
    #[error(
        "the certificate's transparency proof (SCT) is not accepted: {0}; the trusted root may be too old"
    )]
    Sct(String),
    /// It is about something else.
    #[error("the bundle is about something else: {0}; get the right bundle from the provider")]
    OtherSubject(String),
    /// The signature or the certificate.
    #[error("{}", .0.hint())]
    Pki(
        #[from]
        #[source]
        PkiError,
    ),
}

impl SigstoreError {
    /// A stable name of the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bundle(_) => "SIGSTORE_BUNDLE",
            Self::Root { .. } => "SIGSTORE_ROOT",
            Self::UnknownKey { .. } => "SIGSTORE_UNKNOWN_KEY",
            Self::UnknownIdentity { .. } => "SIGSTORE_UNKNOWN_IDENTITY",
            Self::NoTime(_) => "SIGSTORE_NO_TIME",
            Self::Log { .. } => "SIGSTORE_LOG",
            Self::Sct(_) => "SIGSTORE_SCT",
            Self::OtherSubject(_) => "SIGSTORE_OTHER_SUBJECT",
            Self::Pki(e) => e.code(),
        }
    }
}
