//! CMS `SignedData` (RFC 5652): who signed which content.
//!
//! The subset that signatures of files use: detached or enclosed content, signers by issuer and serial number or by
//! subject key identifier, with or without signed attributes. `cms` of RustCrypto is of another generation than the
//! rest of our cryptography, or a release candidate (docs/adr/0003); the structure is read with a strict cursor
//! ([`super::tlv`]). Every signer must verify: a signature by somebody else beside a good one is refused.

use std::collections::BTreeSet;

use der::{Decode as _, asn1::ObjectIdentifier};
use trust::UnixTime;
use x509_cert::{Certificate, ext::pkix::SubjectKeyIdentifier, spki::AlgorithmIdentifierRef};

use super::{
    Algorithm, Anchor, Hash, Leaf, PkiError, PublicKey, Purpose,
    chain::{self, MAX_CERTIFICATES},
    error::malformed,
    tlv::{self, Cursor, Tlv},
};

/// Most signers of one content.
pub const MAX_SIGNERS: usize = 8;
/// Largest signature, bytes, its certificates included.
pub const MAX_CMS_BYTES: usize = 1 << 20;

const WHAT: &str = "the CMS signature";
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SIGNING_CERTIFICATE_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");

/// A parsed `SignedData`. Nothing in it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedData {
    /// `eContentType`.
    pub content_type: ObjectIdentifier,
    /// The content, if it is enclosed.
    pub content: Option<Vec<u8>>,
    /// Certificates that it brings along, DER.
    pub certificates: Vec<Vec<u8>>,
    signers: Vec<SignerInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SignerId {
    /// Issuer and serial number, both as DER.
    Issuer(Vec<u8>, Vec<u8>),
    Key(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SignerInfo {
    id: SignerId,
    digest: Hash,
    /// As a `SET`, which is what is signed.
    attributes: Option<Vec<u8>>,
    algorithm: Algorithm,
    signature: Vec<u8>,
}

/// What certificates are checked against.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// Roots.
    pub anchors: &'a [Anchor],
    /// Organisation and serial number (lower-case hex) of what was revoked.
    pub revoked: &'a BTreeSet<(String, String)>,
    /// What the certificates are for.
    pub purpose: Purpose,
    /// When they must be valid.
    pub at: UnixTime,
}

fn oid(it: Tlv<'_>) -> Result<ObjectIdentifier, PkiError> {
    ObjectIdentifier::from_bytes(it.value).map_err(|e| malformed(WHAT)(&e))
}

fn algorithm<'a>(it: Tlv<'a>) -> Result<AlgorithmIdentifierRef<'a>, PkiError> {
    AlgorithmIdentifierRef::from_der(it.raw).map_err(|e| malformed(WHAT)(&e))
}

impl SignedData {
    /// Reads a signature from a file: DER, BER, or PEM with any label (`CMS`, `PKCS7`).
    pub fn from_file(bytes: &[u8]) -> Result<Self, PkiError> {
        let bad = malformed(WHAT);
        if bytes.len() > MAX_CMS_BYTES {
            return Err(bad(&format!("{} bytes; at most {MAX_CMS_BYTES} are read", bytes.len())));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) if text.trim_start().starts_with("-----BEGIN ") => Self::from_pem(text),
            _ => Self::parse(bytes),
        }
    }

    /// Reads one PEM block.
    pub fn from_pem(text: &str) -> Result<Self, PkiError> {
        let bad = malformed(WHAT);
        let text = text.trim().replace('\r', "");
        let (label, bytes) = der::pem::decode_vec(text.as_bytes()).map_err(|e| bad(&e))?;
        if !matches!(label, "CMS" | "PKCS7" | "PKCS #7 SIGNED DATA") {
            return Err(bad(&format!("it is a PEM block of {label}")));
        }
        Self::parse(&bytes)
    }

    /// Reads a `ContentInfo` with `SignedData`, DER or BER.
    pub fn parse(bytes: &[u8]) -> Result<Self, PkiError> {
        let der = tlv::to_der(bytes, WHAT)?;
        let mut outer = Cursor::new(&der, WHAT);
        let info = outer.expect(tlv::SEQUENCE)?;
        outer.end()?;
        let mut info = outer.inside(info);
        if oid(info.expect(tlv::OID)?)? != SIGNED_DATA {
            return Err(PkiError::Cms("is not SignedData"));
        }
        let content = info.expect(tlv::CONTEXT_0)?;
        info.end()?;
        let mut wrapped = info.inside(content);
        let data = wrapped.expect(tlv::SEQUENCE)?;
        wrapped.end()?;
        Self::from_fields(wrapped.inside(data))
    }

    fn from_fields(mut it: Cursor<'_>) -> Result<Self, PkiError> {
        it.expect(tlv::INTEGER)?;
        it.expect(tlv::SET)?;
        let encapsulated = it.expect(tlv::SEQUENCE)?;
        let (content_type, content) = encapsulated_content(it.inside(encapsulated))?;
        let certificates = match it.optional(tlv::CONTEXT_0)? {
            Some(list) => certificates(it.inside(list))?,
            None => Vec::new(),
        };
        // Revocation lists that the signer chose say nothing.
        it.optional(tlv::CONTEXT_1)?;
        let infos = it.expect(tlv::SET)?;
        it.end()?;
        let mut infos = it.inside(infos);
        let mut signers = Vec::new();
        while !infos.is_empty() {
            if signers.len() == MAX_SIGNERS {
                return Err(PkiError::Cms("has more than 8 signers"));
            }
            let info = infos.expect(tlv::SEQUENCE)?;
            signers.push(signer_info(infos.inside(info))?);
        }
        Ok(Self { content_type, content, certificates, signers })
    }

    /// Verifies every signer over one of `contents` (the same content, in the forms that tools may have signed) and
    /// its certificate. `beside`: certificates found next to the signature. Returns the signers, never none.
    pub fn verify(
        &self,
        contents: &[&[u8]],
        beside: &[Vec<u8>],
        trust: Trust<'_>,
    ) -> Result<Vec<Leaf>, PkiError> {
        if self.signers.is_empty() {
            return Err(PkiError::Cms("has no signer"));
        }
        if self.content.as_ref().is_some_and(|c| !contents.contains(&c.as_slice())) {
            return Err(PkiError::Cms("encloses other content than the file beside it"));
        }
        let all: Vec<Vec<u8>> = self.certificates.iter().chain(beside).cloned().collect();
        self.signers.iter().map(|s| s.verify(self.content_type, contents, &all, trust)).collect()
    }
}

fn encapsulated_content(mut it: Cursor<'_>) -> Result<(ObjectIdentifier, Option<Vec<u8>>), PkiError> {
    let kind = oid(it.expect(tlv::OID)?)?;
    let content = match it.optional(tlv::CONTEXT_0)? {
        Some(wrapped) => {
            let mut wrapped = it.inside(wrapped);
            let octets = wrapped.expect(tlv::OCTETS)?;
            wrapped.end()?;
            Some(octets.value.to_vec())
        }
        None => None,
    };
    it.end()?;
    Ok((kind, content))
}

fn certificates(mut list: Cursor<'_>) -> Result<Vec<Vec<u8>>, PkiError> {
    let mut out = Vec::new();
    while !list.is_empty() {
        let it = list.next()?;
        // Other forms (attribute certificates) prove nothing here.
        if it.tag == tlv::SEQUENCE {
            out.push(it.raw.to_vec());
        }
        if out.len() > MAX_CERTIFICATES {
            return Err(PkiError::Cms("brings more than 32 certificates"));
        }
    }
    Ok(out)
}

fn signer_info(mut it: Cursor<'_>) -> Result<SignerInfo, PkiError> {
    it.expect(tlv::INTEGER)?;
    let id = it.next()?;
    let id = match id.tag {
        tlv::SEQUENCE => {
            let mut pair = it.inside(id);
            let (issuer, serial) = (pair.expect(tlv::SEQUENCE)?, pair.expect(tlv::INTEGER)?);
            pair.end()?;
            SignerId::Issuer(issuer.raw.to_vec(), serial.raw.to_vec())
        }
        tlv::CONTEXT_0_PRIMITIVE => SignerId::Key(id.value.to_vec()),
        _ => return Err(it.bad("a signer that is named in no known way")),
    };
    let digest = Hash::from_oid(&algorithm(it.expect(tlv::SEQUENCE)?)?.oid)?;
    let attributes = it.optional(tlv::CONTEXT_0)?.map(|a| {
        let mut set = Vec::new();
        tlv::write(tlv::SET, a.value, &mut set);
        set
    });
    let algorithm = Algorithm::from_identifier(&algorithm(it.expect(tlv::SEQUENCE)?)?, Some(digest))?;
    let signature = it.expect(tlv::OCTETS)?.value.to_vec();
    it.optional(tlv::CONTEXT_1)?;
    it.end()?;
    Ok(SignerInfo { id, digest, attributes, algorithm, signature })
}

impl SignerInfo {
    fn verify(
        &self,
        content_type: ObjectIdentifier,
        contents: &[&[u8]],
        certificates: &[Vec<u8>],
        trust: Trust<'_>,
    ) -> Result<Leaf, PkiError> {
        let leaf = self.certificate(certificates)?;
        let key = PublicKey::of_certificate(leaf)?;
        match &self.attributes {
            Some(set) => {
                self.check_attributes(set, content_type, contents, leaf)?;
                key.verify(self.algorithm, set, &self.signature)?;
            }
            None if content_type != DATA => return Err(PkiError::Cms("has no signed attributes")),
            None => {
                let good = contents.iter().any(|c| key.verify(self.algorithm, c, &self.signature).is_ok());
                if !good {
                    return Err(PkiError::BadSignature);
                }
            }
        }
        chain::verify(leaf, certificates, trust.anchors, trust.revoked, trust.purpose, trust.at)
    }

    fn certificate<'a>(&self, certificates: &'a [Vec<u8>]) -> Result<&'a [u8], PkiError> {
        let is_signer = |der: &&Vec<u8>| {
            Certificate::from_der(der).is_ok_and(|cert| match &self.id {
                SignerId::Issuer(issuer, serial) => {
                    use der::Encode as _;
                    let tbs = cert.tbs_certificate();
                    tbs.issuer().to_der().is_ok_and(|i| i == *issuer)
                        && tbs.serial_number().to_der().is_ok_and(|s| s == *serial)
                }
                SignerId::Key(id) => cert
                    .tbs_certificate()
                    .get_extension::<SubjectKeyIdentifier>()
                    .is_ok_and(|e| e.is_some_and(|(_, k)| k.0.as_bytes() == id)),
            })
        };
        let named = || match &self.id {
            SignerId::Issuer(_, serial) => format!("serial {}", hex::encode(&serial[2..])),
            SignerId::Key(id) => format!("key {}", hex::encode(id)),
        };
        let found = certificates.iter().find(is_signer);
        found.map(Vec::as_slice).ok_or_else(|| PkiError::NoCertificate(named()))
    }

    fn check_attributes(
        &self,
        set: &[u8],
        content_type: ObjectIdentifier,
        contents: &[&[u8]],
        leaf: &[u8],
    ) -> Result<(), PkiError> {
        let attribute = |wanted| attribute(set, wanted);
        let kind =
            attribute(CONTENT_TYPE)?.ok_or(PkiError::Cms("has no content type among what is signed"))?;
        if kind.tag != tlv::OID || oid(kind)? != content_type {
            return Err(PkiError::Cms("names another content type than it signs"));
        }
        let digest = attribute(MESSAGE_DIGEST)?.ok_or(PkiError::Cms("has no digest among what is signed"))?;
        if digest.tag != tlv::OCTETS {
            return Err(PkiError::Cms("has no digest among what is signed"));
        }
        if !contents.iter().any(|c| self.digest.digest(c) == digest.value) {
            let found = contents.first().map(|c| hex::encode(self.digest.digest(c))).unwrap_or_default();
            return Err(PkiError::OtherContent { signed: hex::encode(digest.value), found });
        }
        match attribute(SIGNING_CERTIFICATE_V2)? {
            Some(it) => check_signing_certificate(it, leaf),
            None => Ok(()),
        }
    }
}

/// The one value of an attribute; twice the same attribute, or two values, are refused.
fn attribute(set: &[u8], wanted: ObjectIdentifier) -> Result<Option<Tlv<'_>>, PkiError> {
    let mut outer = Cursor::new(set, WHAT);
    let all = outer.expect(tlv::SET)?;
    let mut all = outer.inside(all);
    let mut found = None;
    while !all.is_empty() {
        let it = all.expect(tlv::SEQUENCE)?;
        let mut pair = all.inside(it);
        let kind = oid(pair.expect(tlv::OID)?)?;
        let values = pair.expect(tlv::SET)?;
        pair.end()?;
        if kind != wanted {
            continue;
        }
        let mut values = pair.inside(values);
        let value = values.next()?;
        values.end()?;
        if found.replace(value).is_some() {
            return Err(PkiError::Cms("has a signed attribute twice"));
        }
    }
    Ok(found)
}

/// CAdES (RFC 5035): the first certificate named is the signer's. SHA-256 when no algorithm is given.
fn check_signing_certificate(it: Tlv<'_>, leaf: &[u8]) -> Result<(), PkiError> {
    let cursor = Cursor::new(it.raw, WHAT);
    let mut list = cursor.inside(it);
    let ids = list.expect(tlv::SEQUENCE)?;
    let mut ids = list.inside(ids);
    let first = ids.expect(tlv::SEQUENCE)?;
    let mut first = ids.inside(first);
    let hash = match first.optional(tlv::SEQUENCE)? {
        Some(named) => Hash::from_oid(&algorithm(named)?.oid)?,
        None => Hash::Sha256,
    };
    let digest = first.expect(tlv::OCTETS)?;
    if hash.digest(leaf) == digest.value {
        return Ok(());
    }
    Err(PkiError::Cms("names another certificate as its signer's"))
}

/// Certificates of a PKCS #7 bundle (`openssl crl2pkcs7`): a `SignedData` without signers.
pub fn certificates_of(bytes: &[u8]) -> Result<Vec<Vec<u8>>, PkiError> {
    SignedData::from_file(bytes).map(|d| d.certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"what is signed";
    const OTHER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.3.4");

    fn element(tag: u8, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        tlv::write(tag, value, &mut out);
        out
    }

    fn attribute_of(kind: ObjectIdentifier, values: &[Vec<u8>]) -> Vec<u8> {
        let both = [element(tlv::OID, kind.as_bytes()), element(tlv::SET, &values.concat())].concat();
        element(tlv::SEQUENCE, &both)
    }

    fn content_type(named: ObjectIdentifier) -> Vec<u8> {
        attribute_of(CONTENT_TYPE, &[element(tlv::OID, named.as_bytes())])
    }

    fn digest(of: &[u8]) -> Vec<u8> {
        attribute_of(MESSAGE_DIGEST, &[element(tlv::OCTETS, &Hash::Sha256.digest(of))])
    }

    fn check(attributes: &[Vec<u8>]) -> Result<(), PkiError> {
        let signer = SignerInfo {
            id: SignerId::Key(Vec::new()),
            digest: Hash::Sha256,
            attributes: None,
            algorithm: Algorithm::Ed25519,
            signature: Vec::new(),
        };
        signer.check_attributes(&element(tlv::SET, &attributes.concat()), DATA, &[CONTENT], b"leaf")
    }

    #[test]
    fn signed_attributes_are_about_the_content_and_there_once() {
        let named = |hash: &[u8]| {
            let id = element(tlv::SEQUENCE, &element(tlv::OCTETS, hash));
            let value = element(tlv::SEQUENCE, &element(tlv::SEQUENCE, &id));
            attribute_of(SIGNING_CERTIFICATE_V2, &[value])
        };
        let time = attribute_of(OTHER, &[element(tlv::TIME, b"20260101000000Z")]);
        let good = [content_type(DATA), digest(CONTENT), time];
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&[&good[..], &[named(&Hash::Sha256.digest(b"leaf"))]].concat()), Ok(()));
        let two = attribute_of(
            MESSAGE_DIGEST,
            &[CONTENT, b"else"].map(|c| element(tlv::OCTETS, &Hash::Sha256.digest(c))),
        );
        let wrong_tag = attribute_of(MESSAGE_DIGEST, &[element(tlv::TIME, &Hash::Sha256.digest(CONTENT))]);
        for (why, bad) in [
            ("another type", vec![content_type(OTHER), digest(CONTENT)]),
            ("no type", vec![digest(CONTENT)]),
            ("no digest", vec![content_type(DATA)]),
            ("another content", vec![content_type(DATA), digest(b"else")]),
            ("twice", vec![content_type(DATA), digest(CONTENT), digest(b"else")]),
            ("twice the same", vec![content_type(DATA), digest(CONTENT), digest(CONTENT)]),
            ("two values", vec![content_type(DATA), two]),
            ("no octets", vec![content_type(DATA), wrong_tag]),
            ("another certificate", [&good[..], &[named(&Hash::Sha256.digest(b"else"))]].concat()),
        ] {
            assert!(check(&bad).is_err(), "{why}");
        }
    }
}
