//! The bundle's JSON, read into a type: sigstore/protobuf-specs `sigstore_bundle.proto` in protobuf's JSON form.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer};

use super::SigstoreError;

/// Largest bundle, bytes: statements about many files are large.
pub const MAX_BYTES: usize = 16 << 20;
/// Most log entries, time stamps and certificates; each costs signatures to verify.
pub const MAX_ITEMS: usize = 8;
/// Most hashes of an inclusion proof: the depth of a tree that can be counted.
pub const MAX_PROOF: usize = 64;

/// Version of a bundle; they differ in what must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The log's promise must be there.
    V0_1,
    /// The inclusion proof must be there.
    V0_2,
    /// The same, and one certificate in place of a chain.
    V0_3,
}

/// A bundle. Nothing in it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Its version.
    pub version: Version,
    /// Who signed.
    pub signer: Signer,
    /// Entries of transparency logs.
    pub entries: Vec<Entry>,
    /// RFC 3161 responses.
    pub timestamps: Vec<Vec<u8>>,
    /// What was signed.
    pub content: Content,
}

/// Who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// A key that the verifier knows; the hint helps to find it.
    Key(String),
    /// A certificate and perhaps its issuers, DER; never empty.
    Certificates(Vec<Vec<u8>>),
}

/// What was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An artifact, by its digest.
    Message {
        /// SHA-256 of the artifact, as far as the signer says.
        digest: Option<Vec<u8>>,
        /// Over the artifact.
        signature: Vec<u8>,
    },
    /// A DSSE envelope.
    Envelope {
        /// Media type of the payload.
        payload_type: String,
        /// The signed bytes.
        payload: Vec<u8>,
        /// Over the pre-authentication encoding.
        signature: Vec<u8>,
    },
}

impl Content {
    /// The signature.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        match self {
            Self::Message { signature, .. } | Self::Envelope { signature, .. } => signature,
        }
    }
}

/// An entry of a transparency log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Index in the log as a whole.
    pub log_index: u64,
    /// Which log: the key id in the trusted root.
    pub log_id: Vec<u8>,
    /// `hashedrekord`, `dsse`, `intoto`.
    pub kind: String,
    /// `0.0.1`, `0.0.2`.
    pub kind_version: String,
    /// Seconds since 1970; 0: the log says no time.
    pub integrated_time: u64,
    /// The log's promise: its signature over index, time and body.
    pub promise: Option<Vec<u8>>,
    /// The proof that it is in the log.
    pub proof: Option<Proof>,
    /// The entry as the log keeps it.
    pub body: Vec<u8>,
}

/// An inclusion proof with its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Index in the tree of the checkpoint.
    pub index: u64,
    /// Size of that tree.
    pub size: u64,
    /// Its root.
    pub root: Vec<u8>,
    /// Hashes from the leaf to the root.
    pub hashes: Vec<Vec<u8>>,
    /// The signed checkpoint.
    pub checkpoint: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Bytes(pub Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A 64-bit number, which protobuf's JSON writes as a string.
#[derive(Clone, Copy, Default)]
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(d)? {
            serde_json::Value::String(s) => s.parse().map(Self).map_err(serde::de::Error::custom),
            other => other.as_u64().map(Self).ok_or_else(|| serde::de::Error::custom("not a number")),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBundle {
    media_type: String,
    verification_material: RawMaterial,
    message_signature: Option<RawMessage>,
    dsse_envelope: Option<RawEnvelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMaterial {
    public_key: Option<RawHint>,
    x509_certificate_chain: Option<RawChain>,
    certificate: Option<RawBytes>,
    #[serde(default)]
    tlog_entries: Vec<RawEntry>,
    timestamp_verification_data: Option<RawTimestamps>,
}

#[derive(Deserialize)]
struct RawHint {
    #[serde(default)]
    hint: String,
}

#[derive(Deserialize)]
struct RawChain {
    certificates: Vec<RawBytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBytes {
    raw_bytes: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTimestamps {
    #[serde(default)]
    rfc3161_timestamps: Vec<RawTimestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTimestamp {
    signed_timestamp: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEntry {
    #[serde(default)]
    log_index: Number,
    log_id: RawLogId,
    kind_version: RawKind,
    #[serde(default)]
    integrated_time: Number,
    inclusion_promise: Option<RawPromise>,
    inclusion_proof: Option<RawProof>,
    canonicalized_body: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLogId {
    key_id: Bytes,
}

#[derive(Deserialize)]
struct RawKind {
    kind: String,
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPromise {
    signed_entry_timestamp: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawProof {
    #[serde(default)]
    log_index: Number,
    root_hash: Bytes,
    tree_size: Number,
    #[serde(default)]
    hashes: Vec<Bytes>,
    checkpoint: Option<RawCheckpoint>,
}

#[derive(Deserialize)]
struct RawCheckpoint {
    envelope: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMessage {
    message_digest: Option<RawDigest>,
    signature: Bytes,
}

#[derive(Deserialize)]
struct RawDigest {
    algorithm: String,
    digest: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEnvelope {
    payload: Bytes,
    payload_type: String,
    signatures: Vec<RawSignature>,
}

#[derive(Deserialize)]
struct RawSignature {
    sig: Bytes,
}

fn bad(why: impl std::fmt::Display) -> SigstoreError {
    SigstoreError::Bundle(why.to_string())
}

impl Bundle {
    /// Reads a bundle.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SigstoreError> {
        if bytes.len() > MAX_BYTES {
            return Err(bad(format!("{} bytes; at most {MAX_BYTES} are read", bytes.len())));
        }
        let raw: RawBundle = serde_json::from_slice(bytes).map_err(bad)?;
        let version = version(&raw.media_type)?;
        let material = raw.verification_material;
        let timestamps = material.timestamp_verification_data.map_or_else(Vec::new, |t| t.rfc3161_timestamps);
        for (what, count) in [("log entries", material.tlog_entries.len()), ("time stamps", timestamps.len())]
        {
            if count > MAX_ITEMS {
                return Err(bad(format!("{count} {what}; at most {MAX_ITEMS} are read")));
            }
        }
        let signer =
            signer(version, material.public_key, material.x509_certificate_chain, material.certificate)?;
        Ok(Self {
            version,
            signer,
            entries: material
                .tlog_entries
                .into_iter()
                .map(|e| entry(e, version))
                .collect::<Result<_, _>>()?,
            timestamps: timestamps.into_iter().map(|t| t.signed_timestamp.0).collect(),
            content: content(raw.message_signature, raw.dsse_envelope)?,
        })
    }
}

fn version(media_type: &str) -> Result<Version, SigstoreError> {
    match media_type {
        "application/vnd.dev.sigstore.bundle+json;version=0.1" => Ok(Version::V0_1),
        "application/vnd.dev.sigstore.bundle+json;version=0.2" => Ok(Version::V0_2),
        "application/vnd.dev.sigstore.bundle+json;version=0.3"
        | "application/vnd.dev.sigstore.bundle.v0.3+json" => Ok(Version::V0_3),
        other => Err(bad(format!("its media type is `{}`", other.chars().take(80).collect::<String>()))),
    }
}

fn signer(
    version: Version,
    key: Option<RawHint>,
    chain: Option<RawChain>,
    certificate: Option<RawBytes>,
) -> Result<Signer, SigstoreError> {
    match (key, chain, certificate) {
        (Some(key), None, None) => Ok(Signer::Key(key.hint)),
        (None, Some(chain), None) if version < Version::V0_3 => {
            let list: Vec<_> = chain.certificates.into_iter().map(|c| c.raw_bytes.0).collect();
            if list.is_empty() || list.len() > MAX_ITEMS {
                return Err(bad(format!("a chain of {} certificates", list.len())));
            }
            Ok(Signer::Certificates(list))
        }
        (None, None, Some(one)) => Ok(Signer::Certificates(vec![one.raw_bytes.0])),
        (None, Some(_), None) => Err(bad("version 0.3 holds one certificate and no chain")),
        _ => Err(bad("it needs exactly one of publicKey, certificate and x509CertificateChain")),
    }
}

fn content(message: Option<RawMessage>, envelope: Option<RawEnvelope>) -> Result<Content, SigstoreError> {
    match (message, envelope) {
        (Some(it), None) => {
            let digest = match it.message_digest {
                Some(d) if d.algorithm == "SHA2_256" => Some(d.digest.0),
                Some(d) => return Err(bad(format!("a message digest with {}", d.algorithm))),
                None => None,
            };
            Ok(Content::Message { digest, signature: it.signature.0 })
        }
        (None, Some(it)) => {
            let mut signatures = it.signatures.into_iter();
            match (signatures.next(), signatures.next()) {
                (Some(one), None) => Ok(Content::Envelope {
                    payload_type: it.payload_type,
                    payload: it.payload.0,
                    signature: one.sig.0,
                }),
                _ => Err(bad("an envelope in a bundle has exactly one signature")),
            }
        }
        _ => Err(bad("it needs exactly one of messageSignature and dsseEnvelope")),
    }
}

fn entry(raw: RawEntry, version: Version) -> Result<Entry, SigstoreError> {
    let promise = raw.inclusion_promise.map(|p| p.signed_entry_timestamp.0);
    let proof = raw.inclusion_proof.map(proof).transpose()?;
    if version == Version::V0_1 && promise.is_none() {
        return Err(bad("a log entry without the log's promise, which version 0.1 demands"));
    }
    if version > Version::V0_1 && proof.is_none() {
        return Err(bad("a log entry without inclusion proof"));
    }
    Ok(Entry {
        log_index: raw.log_index.0,
        log_id: raw.log_id.key_id.0,
        kind: raw.kind_version.kind,
        kind_version: raw.kind_version.version,
        integrated_time: raw.integrated_time.0,
        promise,
        proof,
        body: raw.canonicalized_body.0,
    })
}

fn proof(raw: RawProof) -> Result<Proof, SigstoreError> {
    if raw.hashes.len() > MAX_PROOF {
        return Err(bad(format!("an inclusion proof of {} hashes", raw.hashes.len())));
    }
    let checkpoint = raw.checkpoint.ok_or_else(|| bad("an inclusion proof without checkpoint"))?;
    Ok(Proof {
        index: raw.log_index.0,
        size: raw.tree_size.0,
        root: raw.root_hash.0,
        hashes: raw.hashes.into_iter().map(|h| h.0).collect(),
        checkpoint: checkpoint.envelope,
    })
}
