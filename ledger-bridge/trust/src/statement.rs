//! in-toto Statement v1: what a signed claim is about, and the claim.
//!
//! <https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    digest::Digest,
    dsse::{DsseError, Envelope, Signer},
};

/// `_type` of every statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// DSSE payload type of every statement.
pub const IN_TOTO_PAYLOAD: &str = "application/vnd.in-toto+json";

/// An in-toto Statement v1 with predicate `P`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement<P> {
    /// Always [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// What the claim is about.
    pub subject: Vec<ResourceDescriptor>,
    /// The URI that says how to read `predicate`.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// The claim.
    pub predicate: P,
}

/// in-toto `ResourceDescriptor`: a named thing and its digests (algorithm -> lower-case hex).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResourceDescriptor {
    /// Its name; absent when the digest says it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it can be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Digests by algorithm name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
}

impl ResourceDescriptor {
    /// A name and its SHA-256.
    #[must_use]
    pub fn new(name: impl Into<String>, digest: Digest) -> Self {
        Self { name: Some(name.into()), uri: None, digest: digest.to_set() }
    }

    /// Its SHA-256, if it has one that is well formed.
    #[must_use]
    pub fn sha256(&self) -> Option<Digest> {
        self.digest.get("sha256").and_then(|h| Digest::from_hex(h).ok())
    }
}

impl<P> Statement<P> {
    /// A statement of `predicate_type` about `subject`.
    pub fn new(subject: Vec<ResourceDescriptor>, predicate_type: impl Into<String>, predicate: P) -> Self {
        Self { kind: STATEMENT_TYPE.into(), subject, predicate_type: predicate_type.into(), predicate }
    }
}

impl<P: Serialize> Statement<P> {
    /// Signs it as a DSSE envelope.
    pub fn sign(&self, signer: &Signer) -> Result<Envelope, DsseError> {
        let payload = serde_json::to_vec(self).map_err(|e| DsseError::Payload(e.to_string()))?;
        Envelope::sign(IN_TOTO_PAYLOAD, payload, &[signer])
    }
}

impl<P: DeserializeOwned> Statement<P> {
    /// Reads the payload of an envelope (whose signature the caller has verified) as a statement of one type.
    pub fn from_envelope(envelope: &Envelope, predicate_type: &str) -> Result<Self, DsseError> {
        if envelope.payload_type != IN_TOTO_PAYLOAD {
            return Err(DsseError::PayloadType {
                expected: IN_TOTO_PAYLOAD.into(),
                found: envelope.payload_type.clone(),
            });
        }
        let it: Self =
            serde_json::from_slice(&envelope.payload).map_err(|e| DsseError::Payload(e.to_string()))?;
        if it.kind != STATEMENT_TYPE {
            return Err(DsseError::PayloadType { expected: STATEMENT_TYPE.into(), found: it.kind });
        }
        if it.predicate_type != predicate_type {
            return Err(DsseError::PayloadType { expected: predicate_type.into(), found: it.predicate_type });
        }
        Ok(it)
    }
}
