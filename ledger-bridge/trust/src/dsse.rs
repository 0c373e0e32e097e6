//! DSSE envelopes: <https://github.com/secure-systems-lab/dsse/blob/master/envelope.md>, protocol DSSEv1.
//!
//! Signatures are ECDSA P-256 over SHA-256, DER encoded, low-S, deterministic (RFC 6979). A signature carries the
//! signer's certificate in the field `certificate` (base64 of DER), as witness does, so that a verifier needs the
//! roots only. Parsing is strict: unknown fields, foreign key ids and non-canonical base64 are refused, so no byte
//! of an envelope can change unnoticed.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use p256::ecdsa::{
    DerSignature, Signature as EcdsaSignature, SigningKey, VerifyingKey, signature::Signer as _,
};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::{
    UnixTime,
    digest::Digest,
    identity::{Identity, IdentityError, TrustRoots},
};

/// More signatures than any n-of-m rule needs; a bound on the work an envelope can ask for.
pub const MAX_SIGNATURES: usize = 16;

/// What is wrong with an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DsseError {
    /// Not an envelope at all.
    #[error("not a DSSE envelope: {0}")]
    Malformed(String),
    /// An envelope, in another text than [`Envelope::to_json`] writes.
    #[error("the line is not in its canonical encoding: a byte of it was altered")]
    NotCanonical,
    /// The payload could not be read or written.
    #[error("the signed payload is not what its type says: {0}")]
    Payload(String),
    /// A good envelope of another kind.
    #[error("payload type is `{found}`, expected `{expected}`")]
    PayloadType {
        /// What the reader wanted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// None, or more than [`MAX_SIGNATURES`].
    #[error("{0} signatures; between 1 and {MAX_SIGNATURES} are accepted")]
    SignatureCount(usize),
    /// The signature does not fit the payload and the key.
    #[error("signature {index} does not verify: {reason}")]
    BadSignature {
        /// Counted from 0.
        index: usize,
        /// What failed.
        reason: &'static str,
    },
    /// The certificate is not good for this.
    #[error("signature {index}: {source}")]
    Identity {
        /// Counted from 0.
        index: usize,
        /// Why.
        #[source]
        source: IdentityError,
    },
}

/// A DSSE envelope. `payload` is the exact bytes that were signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Media type of the payload.
    pub payload_type: String,
    /// The signed bytes.
    pub payload: Vec<u8>,
    /// One or more signatures.
    pub signatures: Vec<Signature>,
}

/// One signature and the certificate of the key that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// DER ECDSA signature over the pre-authentication encoding.
    pub sig: Vec<u8>,
    /// The signer's certificate, DER.
    pub certificate: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEnvelope<'a> {
    #[serde(rename = "payloadType", borrow)]
    payload_type: Cow<'a, str>,
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow)]
    signatures: Vec<RawSignature<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSignature<'a> {
    #[serde(borrow)]
    keyid: Cow<'a, str>,
    #[serde(borrow)]
    sig: Cow<'a, str>,
    #[serde(borrow)]
    certificate: Cow<'a, str>,
}

impl RawEnvelope<'_> {
    /// Is this the text that [`Envelope::to_json`] writes, when [`Envelope::from_raw`] accepts it? Then everything but
    /// the payload type is base64 or hexadecimal digits in their one form, of which JSON escapes nothing.
    fn is_written_as(&self, text: &[u8]) -> bool {
        // A string always encodes.
        let payload_type = serde_json::to_vec(&self.payload_type).unwrap_or_default();
        let mut pieces: Vec<&[u8]> =
            vec![br#"{"payloadType":"#, &payload_type, br#","payload":""#, self.payload.as_bytes()];
        for (i, s) in self.signatures.iter().enumerate() {
            pieces.push(if i == 0 { br#"","signatures":[{"keyid":""# } else { br#""},{"keyid":""# });
            pieces.extend([s.keyid.as_bytes(), br#"","sig":""#, s.sig.as_bytes()]);
            pieces.extend([br#"","certificate":""#, s.certificate.as_bytes()]);
        }
        pieces.push(br#""}]}"#);
        pieces.iter().try_fold(text, |rest, piece| rest.strip_prefix(*piece)).is_some_and(<[u8]>::is_empty)
    }
}

/// A private key with the certificate that speaks for it.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    certificate: Vec<u8>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", keyid(&self.certificate))
    }
}

impl Signer {
    /// A key (PKCS#8 PEM) and its certificate (PEM); refused when they do not belong together.
    pub fn from_pem(key_pem: &str, certificate_pem: &str) -> Result<Self, IdentityError> {
        use p256::pkcs8::DecodePrivateKey as _;
        let key = SigningKey::from_pkcs8_pem(key_pem)
            .map_err(|e| IdentityError::Malformed(format!("private key: {e}")))?;
        let certificate = crate::identity::pem_to_der(certificate_pem)?;
        Self::new(key, certificate)
    }

    /// A key and its certificate (DER); refused when they do not belong together.
    pub fn new(key: SigningKey, certificate: Vec<u8>) -> Result<Self, IdentityError> {
        let certified = crate::identity::public_key(&certificate)?;
        if certified != *key.verifying_key() {
            return Err(IdentityError::KeyMismatch);
        }
        Ok(Self { key, certificate })
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Raw ECDSA P-256/SHA-256 signature of `message`, DER, low-S.
    #[must_use]
    pub fn sign_bytes(&self, message: &[u8]) -> Vec<u8> {
        let signature: EcdsaSignature = self.key.sign(message);
        DerSignature::from(signature.normalize_s()).as_bytes().to_vec()
    }
}

/// Verifies a DER ECDSA P-256/SHA-256 signature; high-S is refused.
pub fn verify_bytes(key: &VerifyingKey, message: &[u8], sig: &[u8]) -> Result<(), &'static str> {
    let signature = signature_of(sig)?;
    if signature.normalize_s() != signature {
        return Err("it is not in low-S form");
    }
    verify_signature(key, message, &signature)
}

/// As [`verify_bytes`], of a certificate or a revocation list: CAs that know nothing of low-S make both forms.
pub(crate) fn verify_issued(key: &VerifyingKey, message: &[u8], sig: &[u8]) -> Result<(), &'static str> {
    verify_signature(key, message, &signature_of(sig)?.normalize_s())
}

fn signature_of(sig: &[u8]) -> Result<EcdsaSignature, &'static str> {
    let der = DerSignature::try_from(sig).map_err(|_| "it is not a DER ECDSA signature")?;
    EcdsaSignature::try_from(der).map_err(|_| "its numbers are outside the curve's order")
}

fn verify_signature(
    key: &VerifyingKey,
    message: &[u8],
    signature: &EcdsaSignature,
) -> Result<(), &'static str> {
    // ring takes the point as it is, and the numbers that p256 has read (ADR 0019).
    let point = key.to_sec1_point(false);
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.as_bytes())
        .verify(message, &signature.to_bytes())
        .map_err(|_| "the bytes or the key are not those that were signed")
}

/// An envelope whose every signature verified, and who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<'a> {
    /// The signed bytes.
    pub payload: &'a [u8],
    /// One per signature, in order; never empty.
    pub signers: Vec<Identity>,
}

fn keyid(certificate: &[u8]) -> String {
    Digest::of(certificate).to_string()
}

fn raw(bytes: &[u8]) -> Result<RawEnvelope<'_>, DsseError> {
    serde_json::from_slice(bytes).map_err(|e| DsseError::Malformed(e.to_string()))
}

/// DSSE pre-authentication encoding.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// What a signature of it covers.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }

    /// Signs `payload` with each of `signers`.
    pub fn sign(
        payload_type: impl Into<String>,
        payload: Vec<u8>,
        signers: &[&Signer],
    ) -> Result<Self, DsseError> {
        if signers.is_empty() || signers.len() > MAX_SIGNATURES {
            return Err(DsseError::SignatureCount(signers.len()));
        }
        let payload_type = payload_type.into();
        let message = pae(&payload_type, &payload);
        let signatures = signers
            .iter()
            .map(|s| Signature { sig: s.sign_bytes(&message), certificate: s.certificate.clone() })
            .collect();
        Ok(Self { payload_type, payload, signatures })
    }

    /// Adds one more signature over the same payload (co-signing).
    pub fn cosign(&mut self, signer: &Signer) -> Result<(), DsseError> {
        if self.signatures.len() >= MAX_SIGNATURES {
            return Err(DsseError::SignatureCount(self.signatures.len() + 1));
        }
        let message = self.signed_bytes();
        self.signatures
            .push(Signature { sig: signer.sign_bytes(&message), certificate: signer.certificate.clone() });
        Ok(())
    }

    /// Reads an envelope from JSON; says nothing about its signatures.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DsseError> {
        Self::from_raw(&raw(bytes)?)
    }

    /// Reads an envelope from the one text that [`Self::to_json`] writes, and refuses every other.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, DsseError> {
        let raw = raw(bytes)?;
        let it = Self::from_raw(&raw)?;
        if raw.is_written_as(bytes) { Ok(it) } else { Err(DsseError::NotCanonical) }
    }

    fn from_raw(raw: &RawEnvelope<'_>) -> Result<Self, DsseError> {
        let decode = |field: &str, text: &str| {
            STANDARD.decode(text).map_err(|e| DsseError::Malformed(format!("{field}: {e}")))
        };
        if raw.signatures.is_empty() || raw.signatures.len() > MAX_SIGNATURES {
            return Err(DsseError::SignatureCount(raw.signatures.len()));
        }
        let mut signatures = Vec::with_capacity(raw.signatures.len());
        for (i, s) in raw.signatures.iter().enumerate() {
            let certificate = decode("certificate", &s.certificate)?;
            if s.keyid != keyid(&certificate) {
                return Err(DsseError::Malformed(format!("signatures[{i}].keyid is not its certificate's")));
            }
            signatures.push(Signature { sig: decode("sig", &s.sig)?, certificate });
        }
        let payload = decode("payload", &raw.payload)?;
        Ok(Self { payload_type: raw.payload_type.clone().into_owned(), payload, signatures })
    }

    /// One line of JSON, always the same bytes for the same envelope.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings always encodes.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Digest of [`Self::to_json`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_json())
    }

    /// Verifies every signature and every certificate (chain, validity at `at`, revocation).
    pub fn verify(&self, roots: &TrustRoots, at: UnixTime) -> Result<Verified<'_>, DsseError> {
        let message = self.signed_bytes();
        let mut signers = Vec::with_capacity(self.signatures.len());
        if self.signatures.is_empty() {
            return Err(DsseError::SignatureCount(0));
        }
        for (index, s) in self.signatures.iter().enumerate() {
            let identity =
                roots.verify(&s.certificate, at).map_err(|source| DsseError::Identity { index, source })?;
            verify_bytes(&identity.key, &message, &s.sig)
                .map_err(|reason| DsseError::BadSignature { index, reason })?;
            signers.push(identity);
        }
        Ok(Verified { payload: &self.payload, signers })
    }

    /// [`Self::verify`], and the payload must be of `payload_type`.
    pub fn verify_type(
        &self,
        payload_type: &str,
        roots: &TrustRoots,
        at: UnixTime,
    ) -> Result<Verified<'_>, DsseError> {
        if self.payload_type != payload_type {
            return Err(DsseError::PayloadType {
                expected: payload_type.into(),
                found: self.payload_type.clone(),
            });
        }
        self.verify(roots, at)
    }
}

/// Field by field, in the order of the DSSE specification: what is hashed must not depend on how a map orders its keys.
impl Serialize for Envelope {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let signature = |s: &Signature| RawSignature {
            keyid: keyid(&s.certificate).into(),
            sig: STANDARD.encode(&s.sig).into(),
            certificate: STANDARD.encode(&s.certificate).into(),
        };
        let raw = RawEnvelope {
            payload_type: self.payload_type.as_str().into(),
            payload: STANDARD.encode(&self.payload).into(),
            signatures: self.signatures.iter().map(signature).collect(),
        };
        raw.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::from_raw(&RawEnvelope::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}
