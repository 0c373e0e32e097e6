//! in-toto Statement v1: what a signed claim is about, and the claim.
//!
//! <https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>

use std::collections::BTreeMap;

use serde::{
    Deserialize, Deserializer as _, Serialize,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor},
};

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

/// The predicate type of a statement, for who does not know yet what it claims. Nothing after it is read, so nothing else
/// is told of the statement: [`Statement::from_envelope`] does that.
pub fn predicate_type(payload: &[u8]) -> Result<String, DsseError> {
    let mut found = None;
    let read = serde_json::Deserializer::from_slice(payload).deserialize_map(PredicateType(&mut found));
    match (found, read) {
        (Some(kind), _) => Ok(kind),
        (None, Err(e)) => Err(DsseError::Payload(e.to_string())),
        (None, Ok(())) => Err(DsseError::Payload("it has no predicateType".to_owned())),
    }
}

struct PredicateType<'a>(&'a mut Option<String>);

impl<'de> Visitor<'de> for PredicateType<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an in-toto statement")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "predicateType" {
                *self.0 = Some(map.next_value()?);
                return Ok(());
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_claims_is_read_alone() {
        let read = |text: &str| predicate_type(text.as_bytes()).map_err(|e| e.to_string());
        for text in [
            r#"{"_type":"x","subject":[{"a":[1,"}"]}],"predicateType":"p","predicate":{"predicateType":"q"}}"#,
            r#"{"predicate":{"predicateType":"q"},"predicateType":"p"}"#,
            r#"{"predicateType":"p" and whatever follows"#,
        ] {
            assert_eq!(read(text).unwrap(), "p", "{text}");
        }
        for text in ["", "[]", "{}", r#"{"predicateType":1}"#, r#"{"predicate":{"predicateType":"q"}}"#] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
