//! Evidence: what the attester sends.

use serde::{Deserialize, Serialize};
use trust::Digest;

/// Most measurements accepted in one event log.
pub const MAX_MEASUREMENTS: usize = 100_000;

/// One line of the event log. The PCR is extended with the SHA-256 of the line's exact bytes (without the newline).
///
/// Read lines with [`crate::log::decode`]: serde cannot refuse unknown fields where a field is flattened, the canonical
/// form does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// Counted from 0; no gaps.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: MeasurementKind,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum MeasurementKind {
    /// A process was started from these bytes with this configuration.
    Launch {
        /// Object key of the instance.
        instance: String,
        /// Digest of the executed file.
        image: Digest,
        /// Digest of the configuration document.
        configuration: Digest,
    },
    /// A running process was given another configuration.
    Configure {
        /// Object key of the instance.
        instance: String,
        /// Digest of the new document.
        configuration: Digest,
    },
}

/// What a running function says of itself, collected with the quote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Object key of the instance.
    pub instance: String,
    /// Digest of the file that the process executes, read back from the process.
    pub image: Digest,
    /// Digest of the running configuration document.
    pub configuration: Digest,
    /// Its generation.
    pub generation: u64,
    /// Is its traffic cut?
    pub isolated: bool,
}

/// What the attester sends: everything the appraisal needs but the reference values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// `TPMS_ATTEST` (TPM 2.0 Part 2, 10.12.8) as signed, base64.
    pub attest: String,
    /// The quote's signature: ECDSA P-256/SHA-256, DER, base64.
    pub signature: String,
    /// The attestation key's public half, SubjectPublicKeyInfo DER, base64.
    pub ak: String,
    /// The PCR (SHA-256 bank).
    pub pcr: u8,
    /// Value of the PCR before the first measurement.
    pub pcr_baseline: Digest,
    /// The event log, exact lines.
    pub log: Vec<String>,
    /// The claims, exact bytes of a JSON list of [`Claim`].
    pub claims: String,
}

impl Evidence {
    /// What the quote's `extraData` must be: SHA-256(nonce ‖ SHA-256(claims)).
    #[must_use]
    pub fn qualifying_data(nonce: &Digest, claims: &str) -> Digest {
        let mut bytes = nonce.0.to_vec();
        bytes.extend_from_slice(&Digest::of(claims.as_bytes()).0);
        Digest::of(bytes)
    }
}
