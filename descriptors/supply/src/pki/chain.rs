//! Certificate chains, built and checked by `rustls-webpki` with our verification functions.
//!
//! webpki bounds the search (paths, depth, signatures), enforces basic constraints, path length, name constraints and
//! critical extensions. Here are added: the time of the roots themselves, the signer's key usage, revocation by serial
//! number, and a root that is the signer's own certificate (self-signed, listed as trusted).

use std::collections::BTreeSet;

use der::{Decode as _, Encode as _};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, TrustAnchor,
    alg_id,
};
use trust::{Digest, UnixTime};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, RequiredEkuNotFoundContext,
};
use x509_cert::{
    Certificate,
    ext::pkix::{KeyUsage, SubjectAltName, name::GeneralName},
};

use super::{Algorithm, Hash, PkiError, PublicKey, error::malformed};

/// Most certificates that a signature may bring along; a bound on the work it can ask for.
pub const MAX_CERTIFICATES: usize = 32;

/// A root that is trusted, and for whom it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The organisation whose CA it is.
    pub org: String,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
}

/// What a certificate is to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Signing packages: an extended key usage, if there is one, allows code, documents or mail.
    Package,
    /// Fulcio's: the extended key usage must be there and allow code signing.
    Code,
    /// RFC 3161: the extended key usage must be there and allow time-stamping.
    Time,
}

const CODE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];
const MAIL: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 4];
const TIME: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];
const DOCUMENT: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 36];
const ANY: &[u8] = &[0x55, 0x1d, 0x25, 0];

impl Purpose {
    fn allows(self) -> (&'static [&'static [u8]], bool) {
        match self {
            Self::Package => (&[CODE, MAIL, DOCUMENT, ANY], false),
            Self::Code => (&[CODE], true),
            Self::Time => (&[TIME], true),
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Package | Self::Code => "signing packages",
            Self::Time => "time-stamping",
        }
    }
}

/// Also asked of intermediates: one without an extended key usage allows all, one with it must allow this.
struct Eku(Purpose);

impl ExtendedKeyUsageValidator for Eku {
    fn validate(&self, iter: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let (allowed, _) = self.0.allows();
        let mut present = Vec::new();
        for id in iter {
            let id = id?;
            present.push(id.to_decoded_oid());
            if allowed.iter().any(|a| KeyPurposeId::new(a) == id) {
                return Ok(());
            }
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = webpki::KeyUsage::required(allowed[0]);
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present }))
    }
}

/// An algorithm as webpki wants it.
#[derive(Debug)]
struct Supported {
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    algorithm: Algorithm,
    read: fn(&[u8]) -> Result<PublicKey, PkiError>,
}

impl SignatureVerificationAlgorithm for Supported {
    fn verify_signature(&self, key: &[u8], message: &[u8], sig: &[u8]) -> Result<(), InvalidSignature> {
        let key = (self.read)(key).map_err(|_| InvalidSignature)?;
        key.verify(self.algorithm, message, sig).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

fn p256(point: &[u8]) -> Result<PublicKey, PkiError> {
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point);
    key.map(|k| PublicKey::P256(Box::new(k))).map_err(|e| malformed("the public key")(&e))
}

fn p384(point: &[u8]) -> Result<PublicKey, PkiError> {
    let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(point);
    key.map(|k| PublicKey::P384(Box::new(k))).map_err(|e| malformed("the public key")(&e))
}

fn ed25519(key: &[u8]) -> Result<PublicKey, PkiError> {
    let key = key.try_into().ok().and_then(|k| ed25519_dalek::VerifyingKey::from_bytes(k).ok());
    key.map(|k| PublicKey::Ed25519(Box::new(k)))
        .ok_or_else(|| malformed("the public key")(&"not a point of Ed25519"))
}

macro_rules! supported {
    ($($key:ident $signature:ident $algorithm:expr, $read:expr;)*) => {
        &[$(&Supported { key: alg_id::$key, signature: alg_id::$signature, algorithm: $algorithm, read: $read }),*]
    };
}

const SUPPORTED: &[&dyn SignatureVerificationAlgorithm] = supported![
    ECDSA_P256 ECDSA_SHA256 Algorithm::Ecdsa(Hash::Sha256), p256;
    ECDSA_P256 ECDSA_SHA384 Algorithm::Ecdsa(Hash::Sha384), p256;
    ECDSA_P256 ECDSA_SHA512 Algorithm::Ecdsa(Hash::Sha512), p256;
    ECDSA_P384 ECDSA_SHA256 Algorithm::Ecdsa(Hash::Sha256), p384;
    ECDSA_P384 ECDSA_SHA384 Algorithm::Ecdsa(Hash::Sha384), p384;
    ECDSA_P384 ECDSA_SHA512 Algorithm::Ecdsa(Hash::Sha512), p384;
    RSA_ENCRYPTION RSA_PKCS1_SHA256 Algorithm::RsaPkcs1(Hash::Sha256), PublicKey::from_rsa;
    RSA_ENCRYPTION RSA_PKCS1_SHA384 Algorithm::RsaPkcs1(Hash::Sha384), PublicKey::from_rsa;
    RSA_ENCRYPTION RSA_PKCS1_SHA512 Algorithm::RsaPkcs1(Hash::Sha512), PublicKey::from_rsa;
    RSA_ENCRYPTION RSA_PSS_SHA256 Algorithm::RsaPss(Hash::Sha256), PublicKey::from_rsa;
    RSA_ENCRYPTION RSA_PSS_SHA384 Algorithm::RsaPss(Hash::Sha384), PublicKey::from_rsa;
    RSA_ENCRYPTION RSA_PSS_SHA512 Algorithm::RsaPss(Hash::Sha512), PublicKey::from_rsa;
    ED25519 ED25519 Algorithm::Ed25519, ed25519;
];

/// A certificate whose chain was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Organisation of the root that its chain ends in.
    pub org: String,
    /// Subject `CN`, or the whole subject.
    pub name: String,
    /// SHA-256 of the certificate.
    pub certificate: Digest,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// Its public key.
    pub key: PublicKey,
}

/// Whose certificate it is, for messages.
pub(crate) fn subject(cert: &Certificate) -> String {
    format!("`{}`", cert.tbs_certificate().subject())
}

pub(crate) fn parse(der: &[u8]) -> Result<Certificate, PkiError> {
    Certificate::from_der(der).map_err(|e| malformed("the certificate")(&e))
}

/// The certificates of a PEM file, DER; other blocks in it are passed over. At most [`MAX_CERTIFICATES`].
pub fn from_pem(text: &str) -> Result<Vec<Vec<u8>>, PkiError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let bad = malformed("the PEM certificate");
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let end = rest[at..].find(END).ok_or_else(|| bad(&"it does not end"))? + at + END.len();
        if out.len() == MAX_CERTIFICATES {
            return Err(bad(&format!("more than {MAX_CERTIFICATES} certificates")));
        }
        let block = rest[at..end].replace('\r', "");
        let (_, der) = der::pem::decode_vec(block.as_bytes()).map_err(|e| bad(&e))?;
        out.push(der);
        rest = &rest[end..];
    }
    Ok(out)
}

/// Certificates of a file, PEM or DER; of a `.cert` in a package. A PKCS #7 bundle is read by [`super::cms`].
pub fn from_file(bytes: &[u8]) -> Result<Vec<Vec<u8>>, PkiError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => from_pem(text),
        _ => parse(bytes).map(|_| vec![bytes.to_vec()]),
    }
}

/// Verifies that `leaf` leads to one of `anchors` at a time; `others` in any order, used or not.
pub fn verify(
    leaf: &[u8],
    others: &[Vec<u8>],
    anchors: &[Anchor],
    revoked: &BTreeSet<(String, String)>,
    purpose: Purpose,
    at: UnixTime,
) -> Result<Leaf, PkiError> {
    if others.len() > MAX_CERTIFICATES {
        let why = format!("{} certificates; at most {MAX_CERTIFICATES}", others.len());
        return Err(malformed("the certificate chain")(&why));
    }
    let cert = parse(leaf)?;
    check_time(&cert, at)?;
    check_usage(&cert, purpose)?;
    let own = anchors.iter().find(|a| a.certificate == leaf);
    let org = match own {
        Some(anchor) if purpose == Purpose::Package => anchor.org.clone(),
        _ => path(leaf, &cert, others, anchors, revoked, purpose, at)?,
    };
    let serial = serial(&cert);
    if revoked.contains(&(org.clone(), serial.clone())) {
        return Err(PkiError::Revoked { subject: subject(&cert), serial });
    }
    Ok(Leaf {
        name: common_name(&cert),
        certificate: Digest::of(leaf),
        serial,
        key: PublicKey::of_certificate(leaf)?,
        org,
    })
}

/// The organisation of the root that the path ends in.
fn path(
    leaf: &[u8],
    cert: &Certificate,
    others: &[Vec<u8>],
    anchors: &[Anchor],
    revoked: &BTreeSet<(String, String)>,
    purpose: Purpose,
    at: UnixTime,
) -> Result<String, PkiError> {
    let usable: Vec<(&Anchor, CertificateDer<'_>)> = anchors
        .iter()
        .filter(|a| parse(&a.certificate).is_ok_and(|c| check_time(&c, at).is_ok()))
        .map(|a| (a, CertificateDer::from(a.certificate.as_slice())))
        .collect();
    let roots: Vec<TrustAnchor<'_>> =
        usable.iter().filter_map(|(_, der)| webpki::anchor_from_trusted_cert(der).ok()).collect();
    let leaf_der = CertificateDer::from(leaf);
    let end = EndEntityCert::try_from(&leaf_der).map_err(|e| refused(cert, &e, others, at))?;
    let others_der: Vec<CertificateDer<'_>> =
        others.iter().map(|c| CertificateDer::from(c.as_slice())).collect();
    let time = rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.0));
    let found = end
        .verify_for_usage(SUPPORTED, &roots, &others_der, time, Eku(purpose), None, None)
        .map_err(|e| refused(cert, &e, others, at))?;
    let anchor = found.anchor();
    let org = usable
        .iter()
        .find(|(_, der)| {
            webpki::anchor_from_trusted_cert(der).is_ok_and(|a| {
                a.subject == anchor.subject && a.subject_public_key_info == anchor.subject_public_key_info
            })
        })
        .map(|(a, _)| a.org.clone())
        .unwrap_or_default();
    for other in found.intermediate_certificates() {
        let it = parse(other.der().as_ref())?;
        let serial = serial(&it);
        if revoked.contains(&(org.clone(), serial.clone())) {
            return Err(PkiError::Revoked { subject: subject(&it), serial });
        }
    }
    Ok(org)
}

fn refused(cert: &Certificate, e: &webpki::Error, others: &[Vec<u8>], at: UnixTime) -> PkiError {
    use webpki::Error as E;
    match e {
        E::CertExpired { .. } | E::CertNotValidYet { .. } => others
            .iter()
            .filter_map(|o| parse(o).ok())
            .find_map(|c| check_time(&c, at).err())
            .unwrap_or_else(|| untrusted(cert, e)),
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => {
            PkiError::Usage { subject: subject(cert), what: "signing packages" }
        }
        _ => untrusted(cert, e),
    }
}

fn untrusted(cert: &Certificate, e: &webpki::Error) -> PkiError {
    let why = match e {
        webpki::Error::UnknownIssuer => {
            "no trusted root, or an intermediate certificate is missing".to_owned()
        }
        other => format!("{other:?}"),
    };
    let issuer = format!("`{}`", cert.tbs_certificate().issuer());
    PkiError::Untrusted { subject: subject(cert), issuer, why }
}

fn serial(cert: &Certificate) -> String {
    hex::encode(cert.tbs_certificate().serial_number().as_bytes())
}

fn common_name(cert: &Certificate) -> String {
    let subject = cert.tbs_certificate().subject();
    match subject.common_name() {
        Ok(Some(name)) => name.value().into_owned(),
        _ => subject.to_string(),
    }
}

pub(crate) fn check_time(cert: &Certificate, at: UnixTime) -> Result<(), PkiError> {
    let validity = cert.tbs_certificate().validity();
    let not_before = UnixTime(validity.not_before.to_unix_duration().as_secs());
    let not_after = UnixTime(validity.not_after.to_unix_duration().as_secs());
    if at < not_before || at > not_after {
        return Err(PkiError::NotValidAt { subject: subject(cert), not_before, not_after, at });
    }
    Ok(())
}

fn check_usage(cert: &Certificate, purpose: Purpose) -> Result<(), PkiError> {
    let usage = || PkiError::Usage { subject: subject(cert), what: purpose.what() };
    let bad = malformed("the certificate");
    let tbs = cert.tbs_certificate();
    let signs = tbs.get_extension::<KeyUsage>().map_err(|e| bad(&e))?;
    if signs.is_some_and(|(_, u)| !u.digital_signature() && !u.non_repudiation()) {
        return Err(usage());
    }
    let extended = tbs.get_extension::<x509_cert::ext::pkix::ExtendedKeyUsage>().map_err(|e| bad(&e))?;
    let (allowed, required) = purpose.allows();
    match extended {
        None if required => Err(usage()),
        Some((_, list)) if !list.0.iter().any(|oid| allowed.contains(&oid.as_bytes())) => Err(usage()),
        _ => Ok(()),
    }
}

/// The subject alternative names of a certificate (URIs, mail addresses, DNS names, other names as UTF-8).
pub fn alternative_names(cert: &Certificate) -> Result<Vec<String>, PkiError> {
    let bad = malformed("the certificate");
    let found = cert.tbs_certificate().get_extension::<SubjectAltName>().map_err(|e| bad(&e))?;
    let Some((_, names)) = found else { return Ok(Vec::new()) };
    let text = |name: &GeneralName| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
        GeneralName::Rfc822Name(mail) => Some(mail.to_string()),
        GeneralName::DnsName(dns) => Some(dns.to_string()),
        GeneralName::OtherName(other) => other
            .value
            .to_der()
            .ok()
            .and_then(|d| der::asn1::Utf8StringRef::from_der(&d).map(|s| s.as_str().to_owned()).ok()),
        _ => None,
    };
    Ok(names.0.iter().filter_map(text).collect())
}
