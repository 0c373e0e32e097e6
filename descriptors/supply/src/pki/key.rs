//! Public keys and the signatures they verify: ECDSA P-256 and P-384, RSA PKCS #1 v1.5 and PSS, Ed25519.
//!
//! Verification only. High-S ECDSA signatures are accepted here, unlike in `trust`: other people's tools write them.

use der::{
    Decode as _, Encode as _,
    asn1::{AnyRef, ObjectIdentifier, UintRef},
};
use p256::ecdsa::signature::{Verifier as _, hazmat::PrehashVerifier as _};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::spki::{AlgorithmIdentifierRef, DecodePublicKey as _, SubjectPublicKeyInfoRef};

use super::error::{PkiError, malformed};

/// Smallest RSA key, bits (NIST SP 800-131A).
pub const MIN_RSA_BITS: usize = 2048;
/// Largest RSA key, bits: a bound on the work a key can ask for.
pub const MAX_RSA_BITS: usize = 8192;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Names of what is refused, so that the refusal can say them.
const NAMES: &[(&str, &str)] = &[
    ("1.2.840.113549.2.5", "MD5"),
    ("1.3.14.3.2.26", "SHA-1"),
    ("2.16.840.1.101.3.4.2.4", "SHA-224"),
    ("1.2.840.113549.1.1.4", "MD5 with RSA"),
    ("1.2.840.113549.1.1.5", "SHA-1 with RSA"),
    ("1.2.840.10045.4.1", "ECDSA with SHA-1"),
    ("1.2.840.10040.4.1", "DSA"),
    ("1.2.840.10040.4.3", "DSA with SHA-1"),
    ("2.16.840.1.101.3.4.3.2", "DSA with SHA-256"),
    ("1.3.132.0.35", "P-521"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.3.101.113", "Ed448"),
];

fn name(oid: &ObjectIdentifier) -> String {
    let text = oid.to_string();
    NAMES.iter().find(|(o, _)| *o == text).map_or(text.clone(), |(_, n)| format!("{n} ({text})"))
}

/// A hash that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// By its OID; others are refused by name.
    pub fn from_oid(oid: &ObjectIdentifier) -> Result<Self, PkiError> {
        match oid.to_string().as_str() {
            "2.16.840.1.101.3.4.2.1" => Ok(Self::Sha256),
            "2.16.840.1.101.3.4.2.2" => Ok(Self::Sha384),
            "2.16.840.1.101.3.4.2.3" => Ok(Self::Sha512),
            _ => Err(PkiError::Digest(name(oid))),
        }
    }

    /// By its name as SOL004, in-toto, SPDX or Sigstore write it: `SHA-256`, `sha256`, `SHA2_256`.
    pub fn from_name(text: &str) -> Result<Self, PkiError> {
        match text.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
            "sha256" | "sha2256" => Ok(Self::Sha256),
            "sha384" | "sha2384" => Ok(Self::Sha384),
            "sha512" | "sha2512" => Ok(Self::Sha512),
            _ => Err(PkiError::Digest(text.chars().take(40).collect())),
        }
    }

    /// The digest of some bytes.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha384 => Sha384::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }
}

/// How a signature was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA, DER encoded.
    Ecdsa(Hash),
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(Hash),
    /// RSASSA-PSS with MGF1 over the same hash; any length of salt.
    RsaPss(Hash),
    /// Ed25519.
    Ed25519,
}

impl Algorithm {
    /// From an `AlgorithmIdentifier`; `digest` is the hash named beside it where the identifier itself names none.
    pub fn from_identifier(it: &AlgorithmIdentifierRef<'_>, digest: Option<Hash>) -> Result<Self, PkiError> {
        let refused = || PkiError::Algorithm(name(&it.oid));
        Ok(match it.oid.to_string().as_str() {
            "1.2.840.10045.4.3.2" => Self::Ecdsa(Hash::Sha256),
            "1.2.840.10045.4.3.3" => Self::Ecdsa(Hash::Sha384),
            "1.2.840.10045.4.3.4" => Self::Ecdsa(Hash::Sha512),
            "1.2.840.113549.1.1.11" => Self::RsaPkcs1(Hash::Sha256),
            "1.2.840.113549.1.1.12" => Self::RsaPkcs1(Hash::Sha384),
            "1.2.840.113549.1.1.13" => Self::RsaPkcs1(Hash::Sha512),
            _ if it.oid == ED25519 => Self::Ed25519,
            _ if it.oid == RSA_PSS => Self::RsaPss(pss_hash(it.parameters)?),
            _ if it.oid == RSA => Self::RsaPkcs1(digest.ok_or_else(refused)?),
            _ if it.oid == EC => Self::Ecdsa(digest.ok_or_else(refused)?),
            _ => return Err(refused()),
        })
    }

    /// The hash it is made over, where there is one outside of the algorithm.
    #[must_use]
    pub fn hash(self) -> Option<Hash> {
        match self {
            Self::Ecdsa(h) | Self::RsaPkcs1(h) | Self::RsaPss(h) => Some(h),
            Self::Ed25519 => None,
        }
    }
}

#[derive(der::Sequence)]
struct PssParameters<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt: Option<u32>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<u32>,
}

/// RFC 4055 3.1. Absent fields mean SHA-1; two different hashes are refused.
fn pss_hash(parameters: Option<AnyRef<'_>>) -> Result<Hash, PkiError> {
    let bad = |e: der::Error| malformed("the RSASSA-PSS parameter")(&e);
    let sha1 = || PkiError::Digest("SHA-1".into());
    let it: PssParameters<'_> = parameters.ok_or_else(sha1)?.decode_as().map_err(bad)?;
    let hash = Hash::from_oid(&it.hash.ok_or_else(sha1)?.oid)?;
    let mask = it.mask.ok_or_else(sha1)?;
    let inner: AlgorithmIdentifierRef<'_> = mask.parameters.ok_or_else(sha1)?.decode_as().map_err(bad)?;
    if mask.oid != MGF1 || Hash::from_oid(&inner.oid)? != hash || it.trailer.is_some_and(|t| t != 1) {
        return Err(PkiError::Algorithm("RSASSA-PSS with two hashes or another mask than MGF1".into()));
    }
    Ok(hash)
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// On NIST P-256.
    P256(Box<p256::ecdsa::VerifyingKey>),
    /// On NIST P-384.
    P384(Box<p384::ecdsa::VerifyingKey>),
    /// Ed25519.
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
    /// RSA of [`MIN_RSA_BITS`] to [`MAX_RSA_BITS`].
    Rsa(Box<rsa::RsaPublicKey>),
}

impl PublicKey {
    /// From a `SubjectPublicKeyInfo`, DER.
    pub fn from_spki(spki: &[u8]) -> Result<Self, PkiError> {
        let bad = malformed("the public key");
        let info = SubjectPublicKeyInfoRef::try_from(spki).map_err(|e| bad(&e))?;
        match info.algorithm.oid {
            EC => Self::from_ec(spki, &info),
            ED25519 => {
                let key = ed25519_dalek::VerifyingKey::from_public_key_der(spki).map_err(|e| bad(&e))?;
                Ok(Self::Ed25519(Box::new(key)))
            }
            RSA | RSA_PSS => Self::from_rsa(info.subject_public_key.raw_bytes()),
            other => Err(PkiError::Key(format!("keys of algorithm {} are not supported", name(&other)))),
        }
    }

    fn from_ec(spki: &[u8], info: &SubjectPublicKeyInfoRef<'_>) -> Result<Self, PkiError> {
        let bad = malformed("the public key");
        let curve = info.algorithm.parameters_oid().map_err(|e| bad(&e))?;
        match curve {
            P256 => p256::ecdsa::VerifyingKey::from_public_key_der(spki)
                .map(|k| Self::P256(Box::new(k)))
                .map_err(|e| bad(&e)),
            P384 => p384::ecdsa::VerifyingKey::from_public_key_der(spki)
                .map(|k| Self::P384(Box::new(k)))
                .map_err(|e| bad(&e)),
            other => {
                Err(PkiError::Key(format!("curve {} is not supported: P-256 and P-384 are", name(&other))))
            }
        }
    }

    /// From an `RSAPublicKey` (RFC 8017 A.1.1), DER.
    pub(crate) fn from_rsa(der: &[u8]) -> Result<Self, PkiError> {
        let bad = malformed("the RSA public key");
        let it: rsa::pkcs1::RsaPublicKey<UintRef<'_>> =
            rsa::pkcs1::RsaPublicKey::from_der(der).map_err(|e| bad(&e))?;
        let (modulus, exponent) = (it.modulus.as_bytes(), it.public_exponent.as_bytes());
        let bits = modulus.len() * 8;
        // A modulus is counted in whole bytes: its first bit is set in every key that tools make.
        if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
            let why = format!(
                "RSA keys of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits are accepted, this one has {bits}"
            );
            return Err(PkiError::Key(why));
        }
        let int = |b: &[u8]| rsa::BoxedUint::from_be_slice_vartime(b);
        let limits = MIN_RSA_BITS..=MAX_RSA_BITS;
        let key = rsa::RsaPublicKey::new_with_size_limits(int(modulus), int(exponent), limits);
        key.map(|k| Self::Rsa(Box::new(k))).map_err(|e| bad(&e))
    }

    /// From PEM: `PUBLIC KEY`, or a whole `CERTIFICATE`.
    pub fn from_pem(text: &str) -> Result<Self, PkiError> {
        let bad = malformed("the PEM public key");
        let (label, der) = der::pem::decode_vec(text.trim().as_bytes()).map_err(|e| bad(&e))?;
        match label {
            "PUBLIC KEY" => Self::from_spki(&der),
            "RSA PUBLIC KEY" => Self::from_rsa(&der),
            "CERTIFICATE" => Self::of_certificate(&der),
            other => Err(bad(&format!("it is a {other}"))),
        }
    }

    /// The key of a certificate, DER.
    pub fn of_certificate(certificate: &[u8]) -> Result<Self, PkiError> {
        let bad = malformed("the certificate");
        let cert = x509_cert::Certificate::from_der(certificate).map_err(|e| bad(&e))?;
        let spki = cert.tbs_certificate().subject_public_key_info().to_der().map_err(|e| bad(&e))?;
        Self::from_spki(&spki)
    }

    /// The algorithm that tools take for a key when nothing else is said (Sigstore, in-toto).
    #[must_use]
    pub fn usual(&self) -> Algorithm {
        match self {
            Self::P256(_) => Algorithm::Ecdsa(Hash::Sha256),
            Self::P384(_) => Algorithm::Ecdsa(Hash::Sha384),
            Self::Ed25519(_) => Algorithm::Ed25519,
            Self::Rsa(_) => Algorithm::RsaPkcs1(Hash::Sha256),
        }
    }

    /// Verifies a signature over a message.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], sig: &[u8]) -> Result<(), PkiError> {
        match (self, algorithm) {
            (Self::P256(key), Algorithm::Ecdsa(hash)) => p256::ecdsa::DerSignature::try_from(sig)
                .and_then(|s| p256::ecdsa::Signature::try_from(s).map_err(|_| Default::default()))
                .and_then(|s| key.verify_prehash(&hash.digest(message), &s))
                .map_err(|_| PkiError::BadSignature),
            (Self::P384(key), Algorithm::Ecdsa(hash)) => p384::ecdsa::Signature::from_der(sig)
                .and_then(|s| key.verify_prehash(&hash.digest(message), &s))
                .map_err(|_| PkiError::BadSignature),
            (Self::Ed25519(key), Algorithm::Ed25519) => ed25519_dalek::Signature::from_slice(sig)
                .and_then(|s| key.verify_strict(message, &s))
                .map_err(|_| PkiError::BadSignature),
            (Self::Rsa(key), Algorithm::RsaPkcs1(hash)) => pkcs1(key, hash, message, sig),
            (Self::Rsa(key), Algorithm::RsaPss(hash)) => pss(key, hash, message, sig),
            _ => Err(PkiError::Key("the signature's algorithm is not that of the key".into())),
        }
    }
}

fn pkcs1(key: &rsa::RsaPublicKey, hash: Hash, message: &[u8], sig: &[u8]) -> Result<(), PkiError> {
    let sig = rsa::pkcs1v15::Signature::try_from(sig).map_err(|_| PkiError::BadSignature)?;
    let key = key.clone();
    match hash {
        Hash::Sha256 => rsa::pkcs1v15::VerifyingKey::<Sha256>::new(key).verify(message, &sig),
        Hash::Sha384 => rsa::pkcs1v15::VerifyingKey::<Sha384>::new(key).verify(message, &sig),
        Hash::Sha512 => rsa::pkcs1v15::VerifyingKey::<Sha512>::new(key).verify(message, &sig),
    }
    .map_err(|_| PkiError::BadSignature)
}

fn pss(key: &rsa::RsaPublicKey, hash: Hash, message: &[u8], sig: &[u8]) -> Result<(), PkiError> {
    let sig = rsa::pss::Signature::try_from(sig).map_err(|_| PkiError::BadSignature)?;
    let key = key.clone();
    match hash {
        Hash::Sha256 => rsa::pss::VerifyingKey::<Sha256>::new_with_auto_salt_len(key).verify(message, &sig),
        Hash::Sha384 => rsa::pss::VerifyingKey::<Sha384>::new_with_auto_salt_len(key).verify(message, &sig),
        Hash::Sha512 => rsa::pss::VerifyingKey::<Sha512>::new_with_auto_salt_len(key).verify(message, &sig),
    }
    .map_err(|_| PkiError::BadSignature)
}
