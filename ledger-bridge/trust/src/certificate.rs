//! Certificates, each read once by a thread.
//!
//! What a certificate says of itself hangs on its bytes alone, and whether a CA signed it on two certificates alone. Both
//! are remembered by digest, within a bound. Time, revocation and what a CA may vouch for are [`crate::identity`]'s, and
//! looked at every time. Never remembered: a certificate that no CA of some roots signed, so that nobody fills the memory
//! with certificates of his own making. Tests: `tests/envelopes.rs`, and `tests/remembered.rs` of `ledger-contract`.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use der::{Decode as _, DecodePem as _, Encode as _};
use p256::{ecdsa::VerifyingKey, pkcs8::DecodePublicKey as _};
use serde::Deserialize;
use x509_cert::{
    Certificate,
    ext::pkix::{BasicConstraints, KeyUsage},
    name::Name,
};

use crate::{
    UnixTime,
    digest::Digest,
    dsse::verify_bytes,
    identity::{ATTRS_OID, IdentityError},
    memo::Memo,
};

/// Members' certificates that a thread remembers: those of a consortium, some KiB each.
const MAX_MEMBERS: usize = 1024;
/// Largest certificate that is remembered, bytes; ours have 700.
const MAX_REMEMBERED_BYTES: usize = 8 << 10;
/// CA certificates that a thread remembers: a few for each organisation.
const MAX_AUTHORITIES: usize = 256;
/// Pairs of member and CA whose signature verified, 32 bytes each.
const MAX_ISSUED: usize = 4096;

thread_local! {
    static MEMBERS: RefCell<Memo<Rc<Member>>> = RefCell::new(Memo::new(MAX_MEMBERS));
    static AUTHORITIES: RefCell<Memo<Option<Rc<Authority>>>> = RefCell::new(Memo::new(MAX_AUTHORITIES));
    static ISSUED: RefCell<Memo<()>> = RefCell::new(Memo::new(MAX_ISSUED));
}

type Read<T> = Result<T, IdentityError>;

pub(crate) fn malformed(e: impl std::fmt::Display) -> IdentityError {
    IdentityError::Malformed(e.to_string())
}

/// When a certificate counts.
#[derive(Debug)]
pub(crate) struct Validity {
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Validity {
    pub fn of(cert: &Certificate) -> Self {
        let validity = cert.tbs_certificate().validity();
        Self {
            not_before: UnixTime(validity.not_before.to_unix_duration().as_secs()),
            not_after: UnixTime(validity.not_after.to_unix_duration().as_secs()),
        }
    }

    pub fn span(&self) -> (UnixTime, UnixTime) {
        (self.not_before, self.not_after)
    }

    pub fn check(&self, at: UnixTime) -> Read<()> {
        let Self { not_before, not_after } = *self;
        match not_before <= at && at <= not_after {
            true => Ok(()),
            false => Err(IdentityError::NotValidAt { not_before, not_after, at }),
        }
    }
}

/// What a member's certificate says of itself. That something is missing from it is told only when it is asked for.
#[derive(Debug)]
pub(crate) struct Member {
    pub digest: Digest,
    pub org: String,
    pub name: Read<String>,
    pub serial: String,
    pub validity: Validity,
    pub usage: Read<()>,
    pub attrs: Read<BTreeMap<String, String>>,
    pub key: Read<VerifyingKey>,
    issuer: Name,
    signed: Read<Vec<u8>>,
    signature: Vec<u8>,
}

impl Member {
    /// From DER.
    pub fn of(certificate: &[u8]) -> Read<Rc<Self>> {
        let digest = Digest::of(certificate);
        match MEMBERS.with_borrow(|known| known.get(&digest)) {
            Some(member) => Ok(member),
            None => Self::read(certificate, digest).map(Rc::new),
        }
    }

    fn read(certificate: &[u8], digest: Digest) -> Read<Self> {
        let cert = parse(certificate)?;
        let tbs = cert.tbs_certificate();
        Ok(Self {
            digest,
            org: subject(&cert, "O")?,
            name: subject(&cert, "CN"),
            serial: hex::encode(tbs.serial_number().as_bytes()),
            validity: Validity::of(&cert),
            usage: usage(&cert),
            attrs: attributes(&cert),
            key: key_of(&cert),
            issuer: tbs.issuer().clone(),
            signed: tbs.to_der().map_err(malformed),
            signature: cert.signature().raw_bytes().to_vec(),
        })
    }

    /// Did this CA (PEM) of the member's organisation issue it, and does the CA count at that time?
    pub fn issued_by(self: &Rc<Self>, ca_pem: &str, at: UnixTime) -> bool {
        let Some(ca) = Authority::of(ca_pem) else { return false };
        let named = ca.subject == self.issuer && ca.org == self.org;
        named && ca.validity.check(at).is_ok() && self.signed_by(&ca)
    }

    fn signed_by(self: &Rc<Self>, ca: &Authority) -> bool {
        let pair = Digest::of_parts([&self.digest.0[..], &ca.digest.0]);
        if ISSUED.with_borrow(|known| known.get(&pair)).is_some() {
            return true;
        }
        let Ok(signed) = &self.signed else { return false };
        let good = verify_bytes(&ca.key, signed, &self.signature).is_ok();
        if good && signed.len() <= MAX_REMEMBERED_BYTES {
            MEMBERS.with_borrow_mut(|known| known.put(self.digest, self.clone()));
            ISSUED.with_borrow_mut(|known| known.put(pair, ()));
        }
        good
    }
}

/// A CA's certificate.
#[derive(Debug)]
struct Authority {
    /// Of its PEM.
    digest: Digest,
    org: String,
    subject: Name,
    validity: Validity,
    key: VerifyingKey,
}

impl Authority {
    /// From PEM; `None`: it is no CA certificate. Either is remembered: it stands in somebody's trust roots.
    fn of(pem: &str) -> Option<Rc<Self>> {
        let digest = Digest::of(pem);
        AUTHORITIES.with_borrow(|known| known.get(&digest)).unwrap_or_else(|| {
            let it = Self::read(pem, digest).ok().flatten().map(Rc::new);
            AUTHORITIES.with_borrow_mut(|known| known.put(digest, it.clone()));
            it
        })
    }

    /// `None`: it is no CA.
    fn read(pem: &str, digest: Digest) -> Read<Option<Self>> {
        let cert = parse(&pem_to_der(pem)?)?;
        if !is_ca(&cert)? {
            return Ok(None);
        }
        Ok(Some(Self {
            digest,
            org: subject(&cert, "O")?,
            subject: cert.tbs_certificate().subject().clone(),
            validity: Validity::of(&cert),
            key: key_of(&cert)?,
        }))
    }
}

/// Is it a CA certificate (PEM) of that organisation, with a key that counts?
pub(crate) fn check_authority(pem: &str, org: &str) -> Read<()> {
    let cert = parse(&pem_to_der(pem)?)?;
    if !is_ca(&cert)? || subject(&cert, "O")? != org {
        return Err(IdentityError::NotIssuedBy(org.to_owned()));
    }
    key_of(&cert).map(|_| ())
}

/// The P-256 key of a certificate (DER).
pub(crate) fn public_key(certificate: &[u8]) -> Read<VerifyingKey> {
    key_of(&parse(certificate)?)
}

/// One PEM certificate to DER.
pub(crate) fn pem_to_der(pem: &str) -> Read<Vec<u8>> {
    Certificate::from_pem(pem.as_bytes()).and_then(|c| c.to_der()).map_err(malformed)
}

fn parse(certificate: &[u8]) -> Read<Certificate> {
    Certificate::from_der(certificate).map_err(malformed)
}

fn subject(cert: &Certificate, part: &str) -> Read<String> {
    let name = cert.tbs_certificate().subject();
    let value = if part == "O" { name.organization() } else { name.common_name() };
    value
        .map_err(malformed)?
        .map(|v| v.value().into_owned())
        .ok_or_else(|| malformed(format!("the subject has no {part}")))
}

fn is_ca(cert: &Certificate) -> Read<bool> {
    let basic = cert.tbs_certificate().get_extension::<BasicConstraints>().map_err(malformed)?;
    Ok(basic.is_some_and(|(_, basic)| basic.ca))
}

fn usage(cert: &Certificate) -> Read<()> {
    match cert.tbs_certificate().get_extension::<KeyUsage>().map_err(malformed)? {
        Some((_, usage)) if usage.digital_signature() => Ok(()),
        _ => Err(IdentityError::Usage),
    }
}

#[derive(Deserialize)]
struct Attrs {
    attrs: BTreeMap<String, String>,
}

fn attributes(cert: &Certificate) -> Read<BTreeMap<String, String>> {
    let Some(extensions) = cert.tbs_certificate().extensions() else { return Ok(BTreeMap::new()) };
    let Some(ext) = extensions.iter().find(|e| e.extn_id == ATTRS_OID) else { return Ok(BTreeMap::new()) };
    let attrs: Attrs = serde_json::from_slice(ext.extn_value.as_bytes())
        .map_err(|e| malformed(format!("attribute extension {}: {e}", ATTRS_OID)))?;
    Ok(attrs.attrs)
}

pub(crate) fn key_of(cert: &Certificate) -> Read<VerifyingKey> {
    let spki = cert.tbs_certificate().subject_public_key_info().to_der().map_err(malformed)?;
    VerifyingKey::from_public_key_der(&spki).map_err(|e| malformed(format!("only P-256 keys: {e}")))
}
