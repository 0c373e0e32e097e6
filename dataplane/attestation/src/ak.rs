//! Attestation keys: ECDSA P-256 with SHA-256, as SubjectPublicKeyInfo DER in base64.
//!
//! A TPM gives coordinates and signature numbers without their leading zeros and signs with high `s` as often as with
//! low; what travels is canonical: SPKI DER and low-S DER, because [`trust::dsse::verify_bytes`] refuses the other
//! form (two encodings of one signature would let a byte of evidence change unnoticed). The attester therefore
//! normalises with [`signature_der`] before it sends. It never sees a private key. Tests are below and in `tests/`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use p256::{
    ecdsa::{DerSignature, Signature, VerifyingKey},
    pkcs8::{DecodePublicKey as _, EncodePublicKey as _},
};

/// Bytes of a coordinate or a signature number on P-256.
const SCALAR_BYTES: usize = 32;
/// Longest base64 text of a key or signature looked at (an SPKI of P-256 has 124, a signature at most 96).
const MAX_TEXT_BYTES: usize = 1024;

/// Why a key or a signature is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AkError {
    /// A number that P-256 does not have.
    #[error("{field} has {bytes} bytes; P-256 has 32")]
    Length {
        /// `x`, `y`, `r` or `s`.
        field: &'static str,
        /// How many.
        bytes: usize,
    },
    /// Not a point on the curve, or a number outside the order.
    #[error("{0} is not on P-256")]
    OffCurve(&'static str),
    /// Not the encoding expected.
    #[error("{field} is not {expected}")]
    Encoding {
        /// Which value.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The signature is not over these bytes by this key.
    #[error("the quote's signature does not verify: {0}")]
    Signature(&'static str),
}

/// From `TPMS_ECC_POINT` to SubjectPublicKeyInfo, DER, base64.
pub fn public_key(x: &[u8], y: &[u8]) -> Result<String, AkError> {
    let mut sec1 = vec![4];
    sec1.extend(padded("x", x)?);
    sec1.extend(padded("y", y)?);
    let key = VerifyingKey::from_sec1_bytes(&sec1).map_err(|_| AkError::OffCurve("the public key"))?;
    let der = key.to_public_key_der().map_err(|_| AkError::OffCurve("the public key"))?;
    Ok(STANDARD.encode(der.as_bytes()))
}

/// From `TPMS_SIGNATURE_ECDSA` to DER, low-S, base64.
pub fn signature_der(r: &[u8], s: &[u8]) -> Result<String, AkError> {
    let signature = Signature::from_scalars(padded("r", r)?, padded("s", s)?)
        .map_err(|_| AkError::OffCurve("the signature"))?;
    Ok(STANDARD.encode(DerSignature::from(signature.normalize_s()).as_bytes()))
}

/// Verifies a base64 DER signature over `message` by a base64 SPKI key.
pub fn verify(key: &str, message: &[u8], signature: &str) -> Result<(), AkError> {
    let expected = "SubjectPublicKeyInfo of a P-256 key, DER, base64";
    let key = VerifyingKey::from_public_key_der(&decode("the attestation key", key)?)
        .map_err(|_| AkError::Encoding { field: "the attestation key", expected })?;
    let signature = decode("the signature", signature)?;
    trust::dsse::verify_bytes(&key, message, &signature).map_err(AkError::Signature)
}

/// Canonical, padded base64 of bounded length.
pub(crate) fn decode(field: &'static str, text: &str) -> Result<Vec<u8>, AkError> {
    let bad = AkError::Encoding { field, expected: "canonical base64 of at most 1024 characters" };
    if text.len() > MAX_TEXT_BYTES {
        return Err(bad);
    }
    STANDARD.decode(text).map_err(|_| bad)
}

fn padded(field: &'static str, number: &[u8]) -> Result<[u8; SCALAR_BYTES], AkError> {
    let bytes = number.len();
    let at = SCALAR_BYTES.checked_sub(bytes).ok_or(AkError::Length { field, bytes })?;
    let mut out = [0; SCALAR_BYTES];
    out[at..].copy_from_slice(number);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::{SigningKey, signature::Signer};

    use super::*;

    /// A key and its registered form.
    fn key(seed: u8) -> (SigningKey, String) {
        let key = SigningKey::from_slice(&[seed; 32]).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        (key, public_key(point.x().unwrap(), point.y().unwrap()).unwrap())
    }

    #[test]
    fn high_s_of_a_tpm_is_sent_as_low_s() {
        let (key, spki) = key(7);
        let low: Signature = Signer::<Signature>::sign(&key, b"quote").normalize_s();
        let (r, s) = low.split_scalars();
        let high = Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).unwrap();
        let (r, s) = high.split_bytes();
        let refused = STANDARD.encode(DerSignature::from(high).as_bytes());
        assert_eq!(verify(&spki, b"quote", &refused), Err(AkError::Signature("it is not in low-S form")));
        assert_eq!(verify(&spki, b"quote", &signature_der(&r, &s).unwrap()), Ok(()));
    }

    #[test]
    fn stripped_leading_zeros_are_restored() {
        // A signature whose r begins with a zero byte: about one in 256.
        let (key, spki) = key(9);
        let (message, signature) = (0_u32..)
            .map(|i| (i.to_be_bytes(), Signer::<Signature>::sign(&key, &i.to_be_bytes())))
            .find(|(_, s)| s.split_bytes().0[0] == 0)
            .unwrap();
        let (r, s) = signature.split_bytes();
        assert_eq!(verify(&spki, &message, &signature_der(&r[1..], &s).unwrap()), Ok(()));
    }

    #[test]
    fn refuses_what_is_not_on_the_curve() {
        assert_eq!(public_key(&[1], &[1]), Err(AkError::OffCurve("the public key")));
        assert_eq!(public_key(&[1; 33], &[1]), Err(AkError::Length { field: "x", bytes: 33 }));
        assert_eq!(signature_der(&[0; 32], &[1]), Err(AkError::OffCurve("the signature")));
        assert!(verify("AAAA", b"", "AAAA").is_err() && verify("=", b"", "").is_err());
    }
}
