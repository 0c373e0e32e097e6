//! Issuing: an organisation's CA and its members, for `mandate init` and for tests.
//!
//! Small on purpose: a consortium brings its own CA (Fabric CA, step-ca, OpenSSL); what it must put into a
//! certificate is in [`crate::identity`].

use std::{collections::BTreeMap, time::Duration};

use der::{
    EncodePem as _,
    asn1::{OctetString, UtcTime},
    flagset::FlagSet,
    pem::LineEnding,
};
use p256::{
    SecretKey,
    ecdsa::{DerSignature, SigningKey},
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _},
};
use x509_cert::{
    TbsCertificate,
    builder::{Builder as _, CertificateBuilder, profile::BuilderProfile},
    ext::{
        Extension, ToExtension as _,
        pkix::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier},
    },
    name::Name,
    serial_number::SerialNumber,
    spki::{SubjectPublicKeyInfo, SubjectPublicKeyInfoRef},
    time::{Time, Validity},
};

use crate::{
    UnixTime,
    identity::{ATTRS_OID, IdentityError},
};

/// A key pair and its certificate, both PEM (PKCS#8 and X.509).
#[derive(Clone)]
pub struct Issued {
    /// Private key; keep it in a file of mode 0600.
    pub key_pem: String,
    /// Certificate.
    pub certificate_pem: String,
}

/// 32 bytes of randomness, given by the caller, and used once.
pub type Seed = [u8; 32];

struct Profile {
    subject: Name,
    issuer: Option<Name>,
    attrs: BTreeMap<String, String>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, subject: &Name) -> Name {
        self.issuer.clone().unwrap_or_else(|| subject.clone())
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        spk: SubjectPublicKeyInfoRef<'_>,
        issuer_spk: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let ca = self.issuer.is_none();
        let usage: FlagSet<KeyUsages> =
            if ca { KeyUsages::KeyCertSign | KeyUsages::CRLSign } else { KeyUsages::DigitalSignature.into() };
        let mut out: Vec<Extension> = Vec::new();
        let subject = tbs.subject();
        out.push(
            (&BasicConstraints { ca, path_len_constraint: ca.then_some(0) }).to_extension(subject, &out)?,
        );
        out.push((&KeyUsage(usage)).to_extension(subject, &out)?);
        out.push((&SubjectKeyIdentifier::try_from(spk)?).to_extension(subject, &out)?);
        out.push((&AuthorityKeyIdentifier::try_from(issuer_spk)?).to_extension(subject, &out)?);
        if !self.attrs.is_empty() {
            let json = serde_json::json!({ "attrs": self.attrs }).to_string();
            out.push(Extension {
                extn_id: ATTRS_OID,
                critical: false,
                extn_value: OctetString::new(json.into_bytes())?,
            });
        }
        Ok(out)
    }
}

fn bad(e: impl std::fmt::Display) -> IdentityError {
    IdentityError::Malformed(e.to_string())
}

fn key_from(seed: &Seed) -> Result<SecretKey, IdentityError> {
    SecretKey::from_slice(seed).map_err(|_| bad("that seed is not a scalar of P-256: draw another one"))
}

fn time(at: UnixTime) -> Result<Time, IdentityError> {
    UtcTime::from_unix_duration(Duration::from_secs(at.0)).map(Time::UtcTime).map_err(bad)
}

fn name(org: &str, common_name: &str) -> Result<Name, IdentityError> {
    let legal = |s: &str| {
        !s.is_empty() && s.len() <= 64 && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@ ".contains(c))
    };
    if !legal(org) || !legal(common_name) {
        return Err(bad(format!(
            "`{org}` and `{common_name}` must be 1 to 64 ASCII letters, digits, spaces or any of -_.@"
        )));
    }
    format!("CN={common_name},O={org}").parse().map_err(bad)
}

fn build(
    profile: Profile,
    key: &SecretKey,
    signer: &SecretKey,
    serial: &[u8],
    valid: (UnixTime, UnixTime),
) -> Result<Issued, IdentityError> {
    let spki_der = key.public_key().to_public_key_der().map_err(bad)?;
    let spki = SubjectPublicKeyInfo::try_from(spki_der.as_bytes()).map_err(bad)?;
    let validity = Validity::new(time(valid.0)?, time(valid.1)?);
    let serial = SerialNumber::new(serial).map_err(bad)?;
    let builder = CertificateBuilder::new(profile, serial, validity, spki).map_err(bad)?;
    let signing = SigningKey::from(signer.clone());
    let certificate = builder.build::<_, DerSignature>(&LowS(signing)).map_err(bad)?;
    Ok(Issued {
        key_pem: key.to_pkcs8_pem(LineEnding::LF).map_err(bad)?.to_string(),
        certificate_pem: certificate.to_pem(LineEnding::LF).map_err(bad)?,
    })
}

/// Signs certificates in low-S form, which is what we (and Fabric) accept.
struct LowS(SigningKey);

impl p256::ecdsa::signature::Keypair for LowS {
    type VerifyingKey = p256::ecdsa::VerifyingKey;
    fn verifying_key(&self) -> Self::VerifyingKey {
        *self.0.verifying_key()
    }
}

impl p256::ecdsa::signature::Signer<DerSignature> for LowS {
    fn try_sign(&self, msg: &[u8]) -> Result<DerSignature, p256::ecdsa::signature::Error> {
        let signature: p256::ecdsa::Signature = self.0.try_sign(msg)?;
        Ok(signature.normalize_s().into())
    }
}

impl x509_cert::spki::DynSignatureAlgorithmIdentifier for LowS {
    fn signature_algorithm_identifier(
        &self,
    ) -> x509_cert::spki::Result<x509_cert::spki::AlgorithmIdentifierOwned> {
        self.0.signature_algorithm_identifier()
    }
}

/// A self-signed CA for `org`, good for members only (path length 0).
pub fn ca(org: &str, seed: &Seed, from: UnixTime, to: UnixTime) -> Result<Issued, IdentityError> {
    let key = key_from(seed)?;
    let profile = Profile { subject: name(org, &format!("{org} CA"))?, issuer: None, attrs: BTreeMap::new() };
    build(profile, &key, &key, &[1], (from, to))
}

/// A member of the CA's organisation, with attributes. `serial`: 1 to 20 bytes, unique for the CA.
pub fn member(
    authority: &Issued,
    common_name: &str,
    attrs: BTreeMap<String, String>,
    seed: &Seed,
    serial: &[u8],
    valid: (UnixTime, UnixTime),
) -> Result<Issued, IdentityError> {
    let (org, _) = crate::identity::claimed(&crate::identity::pem_to_der(&authority.certificate_pem)?)?;
    let issuer = name(&org, &format!("{org} CA"))?;
    let signer = SecretKey::from_pkcs8_pem(&authority.key_pem).map_err(bad)?;
    let profile = Profile { subject: name(&org, common_name)?, issuer: Some(issuer), attrs };
    build(profile, &key_from(seed)?, &signer, serial, valid)
}
