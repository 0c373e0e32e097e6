//! Why a key, signature or certificate is not accepted.

use trust::UnixTime;

/// Why a key, signature or certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// Not the structure it should be.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// `the certificate`, `the CMS signature`, …
        what: &'static str,
        /// What the reader said.
        why: String,
    },
    /// A hash that must not be used any more, or that is not known.
    #[error("digest algorithm {0} is not accepted: sign with SHA-256, SHA-384 or SHA-512")]
    Digest(String),
    /// A signature algorithm that is not supported.
    #[error(
        "signature algorithm {0} is not supported: sign with ECDSA (P-256, P-384), RSA (PKCS #1 v1.5, PSS) or Ed25519"
    )]
    Algorithm(String),
    /// A key of a kind or size that is not accepted.
    #[error("{0}")]
    Key(String),
    /// The signature is not one over these bytes by this key.
    #[error("the signature does not verify: the bytes or the key are not those that were signed")]
    BadSignature,
    /// The content has another digest than the signature says.
    #[error("the signature is over other content: its digest is {signed}, that of the content {found}")]
    OtherContent {
        /// Hex digest in the signature.
        signed: String,
        /// Hex digest of the content.
        found: String,
    },
    /// A CMS structure without what a verifier needs.
    #[error("the CMS signature {0}")]
    Cms(&'static str),
    /// The certificate that made the signature is nowhere.
    #[error("the signer's certificate ({0}) is neither in the signature nor beside it")]
    NoCertificate(String),
    /// Outside of its validity.
    #[error("the certificate of {subject} is valid from {not_before} to {not_after}, not at {at}")]
    NotValidAt {
        /// Whose.
        subject: String,
        /// Start of validity.
        not_before: UnixTime,
        /// End of validity.
        not_after: UnixTime,
        /// The time asked for.
        at: UnixTime,
    },
    /// No chain to a root that is trusted.
    #[error("the certificate of {subject} (issued by {issuer}) does not lead to a trusted root: {why}")]
    Untrusted {
        /// Whose.
        subject: String,
        /// By whom.
        issuer: String,
        /// What the path builder said.
        why: String,
    },
    /// The certificate may not be used for this.
    #[error("the certificate of {subject} may not be used for {what}")]
    Usage {
        /// Whose.
        subject: String,
        /// `signing packages`, `time-stamping`, …
        what: &'static str,
    },
    /// On the organisation's list of revoked certificates.
    #[error("the certificate of {subject} (serial {serial}) was revoked")]
    Revoked {
        /// Whose.
        subject: String,
        /// Lower-case hex.
        serial: String,
    },
}

impl PkiError {
    /// A stable name of the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "SIGNATURE_MALFORMED",
            Self::Digest(_) => "SIGNATURE_DIGEST_ALGORITHM",
            Self::Algorithm(_) => "SIGNATURE_ALGORITHM",
            Self::Key(_) => "SIGNATURE_KEY",
            Self::BadSignature => "SIGNATURE_INVALID",
            Self::OtherContent { .. } => "SIGNATURE_OTHER_CONTENT",
            Self::Cms(_) => "SIGNATURE_CMS",
            Self::NoCertificate(_) => "CERTIFICATE_MISSING",
            Self::NotValidAt { .. } => "CERTIFICATE_NOT_VALID",
            Self::Untrusted { .. } => "CERTIFICATE_UNTRUSTED",
            Self::Usage { .. } => "CERTIFICATE_USAGE",
            Self::Revoked { .. } => "CERTIFICATE_REVOKED",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Malformed { .. } | Self::Cms(_) => {
                "ask the provider to sign again, for example with `openssl cms -sign -binary`"
            }
            Self::Digest(_) | Self::Algorithm(_) | Self::Key(_) => {
                "ask the provider to sign with one of these"
            }
            Self::BadSignature | Self::OtherContent { .. } => {
                "it was changed after signing, or the signature is another's: get it from its provider again"
            }
            Self::NoCertificate(_) => "ask the provider for a package that holds its certificate",
            Self::NotValidAt { .. } => "ask the provider to sign with a certificate that is valid now",
            Self::Untrusted { .. } => {
                "if you trust the provider, add its root to its organisation's `ca` in the trust roots; else refuse the package"
            }
            Self::Usage { .. } => "ask the provider to sign with a certificate for signing code or documents",
            Self::Revoked { .. } => "refuse the package",
        }
    }
}

/// `the certificate` and its kin, with why.
pub(crate) fn malformed(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> PkiError {
    move |why| PkiError::Malformed { what, why: why.to_string() }
}
