//! CAs of organisations as Fabric has them, for tests: roots, CAs below them, members with OUs, revocation lists.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use der::{EncodePem as _, asn1::UtcTime, pem::LineEnding};
use p256::{
    SecretKey,
    ecdsa::{DerSignature, Signature, SigningKey, signature::Signer as _},
    pkcs8::EncodePublicKey as _,
};
use trust::Digest;
use x509_cert::{
    TbsCertificate,
    builder::{self, Builder as _, CertificateBuilder, CrlBuilder, profile::BuilderProfile},
    certificate::{Certificate, Rfc5280},
    crl::RevokedCert,
    ext::{
        Extension, ToExtension as _,
        pkix::{
            AuthorityKeyIdentifier, BasicConstraints, CrlNumber, KeyUsage, KeyUsages, SubjectKeyIdentifier,
        },
    },
    name::Name,
    serial_number::SerialNumber,
    spki::{SubjectPublicKeyInfo, SubjectPublicKeyInfoRef},
    time::{Time, Validity},
};

/// The present of these tests.
pub const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

/// A key, made of its name.
pub fn key(name: &str) -> SigningKey {
    SecretKey::from_slice(&Digest::of(name).0).unwrap().into()
}

/// DER, low-S.
pub fn sign(key: &SigningKey, bytes: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(bytes);
    signature.normalize_s().to_der().as_bytes().to_vec()
}

fn time(at: u64) -> Time {
    Time::UtcTime(UtcTime::from_unix_duration(Duration::from_secs(at)).unwrap())
}

struct Profile {
    subject: Name,
    issuer: Name,
    ca: Option<Option<u8>>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        spk: SubjectPublicKeyInfoRef<'_>,
        issuer: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        let usage = match self.ca {
            Some(_) => KeyUsages::KeyCertSign | KeyUsages::CRLSign,
            None => KeyUsages::DigitalSignature.into(),
        };
        let path_len_constraint = self.ca.flatten();
        let mut out = Vec::new();
        let subject = tbs.subject();
        out.push(
            (&BasicConstraints { ca: self.ca.is_some(), path_len_constraint }).to_extension(subject, &out)?,
        );
        out.push((&KeyUsage(usage)).to_extension(subject, &out)?);
        out.push((&SubjectKeyIdentifier::try_from(spk)?).to_extension(subject, &out)?);
        out.push((&AuthorityKeyIdentifier::try_from(issuer)?).to_extension(subject, &out)?);
        Ok(out)
    }
}

/// A CA.
#[derive(Clone)]
pub struct Ca {
    pub pem: String,
    key: SigningKey,
    certificate: Certificate,
}

/// A certificate to be.
#[derive(Clone)]
pub struct Wanted<'a> {
    pub name: &'a str,
    pub units: &'a [&'a str],
    pub serial: u8,
    pub from: u64,
    pub to: u64,
    /// A CA, with as many below it.
    pub ca: Option<Option<u8>>,
}

impl<'a> Wanted<'a> {
    pub fn new(name: &'a str, units: &'a [&'a str], serial: u8) -> Self {
        Self { name, units, serial, from: NOW - DAY, to: NOW + DAY, ca: None }
    }
}

fn certificate(
    wanted: &Wanted<'_>,
    organisation: &str,
    key_name: &str,
    by: Option<&Ca>,
) -> (Certificate, SigningKey) {
    let own = key(key_name);
    let units: String = wanted.units.iter().map(|u| format!("OU={u},")).collect();
    let subject: Name = format!("CN={},{units}O={organisation}", wanted.name).parse().unwrap();
    let issuer = by.map_or_else(|| subject.clone(), |ca| ca.certificate.tbs_certificate().subject().clone());
    let spki = own.verifying_key().to_public_key_der().unwrap();
    let spki = SubjectPublicKeyInfo::try_from(spki.as_bytes()).unwrap();
    let validity = Validity::new(time(wanted.from), time(wanted.to));
    let serial = SerialNumber::new(&[wanted.serial]).unwrap();
    let profile = Profile { subject, issuer, ca: wanted.ca };
    let builder = CertificateBuilder::new(profile, serial, validity, spki).unwrap();
    let signer = by.map_or(&own, |ca| &ca.key);
    (builder.build::<_, DerSignature>(signer).unwrap(), own)
}

impl Ca {
    /// A root; `secret` makes its key.
    pub fn root(organisation: &str, secret: &str) -> Self {
        let name = format!("ca.{organisation}");
        let wanted = Wanted { ca: Some(None), ..Wanted::new(&name, &[], 1) };
        Self::of(certificate(&wanted, organisation, secret, None))
    }

    fn of((certificate, key): (Certificate, SigningKey)) -> Self {
        Self { pem: certificate.to_pem(LineEnding::LF).unwrap(), key, certificate }
    }

    /// A CA below it.
    pub fn below(&self, wanted: &Wanted<'_>) -> Self {
        Self::of(certificate(wanted, "below", &format!("{} below", wanted.name), Some(self)))
    }

    /// A member's certificate (PEM) and key.
    pub fn member(&self, wanted: &Wanted<'_>) -> (String, SigningKey) {
        let (certificate, key) =
            certificate(wanted, "members", &format!("{} of {}", wanted.name, self.pem), Some(self));
        (certificate.to_pem(LineEnding::LF).unwrap(), key)
    }

    /// A revocation list, PEM.
    pub fn revokes(&self, serials: &[u8]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCert::<Rfc5280> {
            serial_number: SerialNumber::new(&[*serial]).unwrap(),
            revocation_date: time(NOW - 10),
            crl_entry_extensions: None,
        });
        let number = CrlNumber::try_from(1_u64).unwrap();
        let builder = CrlBuilder::new_with_this_update(&self.certificate, number, time(NOW - 5)).unwrap();
        let list = builder.with_certificates(revoked).build::<_, DerSignature>(&self.key).unwrap();
        list.to_pem(LineEnding::LF).unwrap()
    }
}
