//! X.509 identities: who signed, for which organisation, with which attributes.
//!
//! An organisation is a CA certificate in [`TrustRoots`]. A member's certificate names the organisation in subject
//! `O` and carries its attributes where Hyperledger Fabric's CA puts them, in the extension
//! [`ATTRS_OID`] as `{"attrs":{"mandate.role":"tenant",…}}`, so that one certificate serves both ledgers.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
};

use der::{Decode as _, DecodePem as _, Encode as _, oid::ObjectIdentifier};
use p256::{ecdsa::VerifyingKey, pkcs8::DecodePublicKey as _};
use serde::{Deserialize, Serialize};
use x509_cert::{
    Certificate,
    ext::pkix::{BasicConstraints, KeyUsage},
};

use crate::{UnixTime, digest::Digest, dsse::verify_bytes};

/// Fabric CA's attribute extension.
pub const ATTRS_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.3.4.5.6.7.8.1");
/// Attribute: the role, one of [`Identity::role`]'s values.
pub const ATTR_ROLE: &str = "mandate.role";
/// Attribute: the tenant whose services this identity may ask for.
pub const ATTR_TENANT: &str = "mandate.tenant";

/// Why a certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a certificate or key of the kind we accept (P-256).
    #[error("malformed certificate or key: {0}")]
    Malformed(String),
    /// Key and certificate do not belong together.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// No trust root of that organisation.
    #[error("organisation `{0}` is not among the trust roots")]
    UnknownOrganisation(String),
    /// The organisation's CA did not sign it.
    #[error("the certificate was not issued by a CA of organisation `{0}`")]
    NotIssuedBy(String),
    /// Outside `notBefore`..`notAfter`.
    #[error("the certificate is valid from {not_before} to {not_after}, not at {at}")]
    NotValidAt {
        /// Start of validity.
        not_before: UnixTime,
        /// End of validity.
        not_after: UnixTime,
        /// The time asked for.
        at: UnixTime,
    },
    /// Its serial number is on the organisation's revocation list.
    #[error("the certificate (serial {0}) was revoked")]
    Revoked(String),
    /// Its organisation may not give it that role, or speak for that tenant.
    #[error("organisation `{org}` may not vouch for {what}")]
    NotVouched {
        /// The organisation.
        org: String,
        /// `the role `tenant``, `tenant `acme``.
        what: String,
    },
    /// It may not sign.
    #[error("the certificate's key usage does not allow digital signatures")]
    Usage,
}

/// Who signed: read from a certificate whose chain was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Organisation, subject `O`.
    pub org: String,
    /// Name of the member, subject `CN`.
    pub name: String,
    /// Attributes of the extension [`ATTRS_OID`].
    pub attrs: BTreeMap<String, String>,
    /// Digest of the certificate.
    pub certificate: Digest,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// The public key.
    pub key: VerifyingKey,
}

impl Identity {
    /// `operator`, `provider`, `tenant`, `auditor`, `orchestrator`, or empty.
    #[must_use]
    pub fn role(&self) -> &str {
        self.attrs.get(ATTR_ROLE).map_or("", String::as_str)
    }

    /// The tenant it speaks for, or empty.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.attrs.get(ATTR_TENANT).map_or("", String::as_str)
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.org)
    }
}

/// What a verifier starts from: each organisation's CA, and the key of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRoots {
    /// By organisation name.
    pub orgs: BTreeMap<String, OrgRoot>,
    /// C2SP verifier keys of the logs whose checkpoints are accepted (`name+id+key`).
    #[serde(default)]
    pub logs: Vec<String>,
}

/// An organisation's roots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgRoot {
    /// CA certificates, PEM.
    pub ca: Vec<String>,
    /// Serial numbers (lower-case hex) of revoked certificates.
    #[serde(default)]
    pub revoked: BTreeSet<String>,
    /// Public keys (PEM) that sign packages for it without a certificate (cosign, in-toto), by the key's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, String>,
    /// Identities that sign packages for it without a key of their own (Sigstore's keyless signatures).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigstore: Option<SigstoreTrust>,
    /// What its CA may say of its members. Absent: anything, which is right only where every CA is trusted alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouches: Option<Vouches>,
}

/// A Sigstore instance, and who in it speaks for the organisation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigstoreTrust {
    /// The instance's `trusted_root.json`.
    pub trusted_root: serde_json::Value,
    /// Identities that count.
    pub identities: Vec<SigstoreIdentity>,
}

/// An identity as Fulcio certifies it: exact texts, no patterns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigstoreIdentity {
    /// The identity provider, a URL.
    pub issuer: String,
    /// Mail address or URI of the subject alternative name.
    pub subject: String,
}

/// The attributes that an organisation's CA may give.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vouches {
    /// Values of [`ATTR_ROLE`].
    pub roles: BTreeSet<String>,
    /// Values of [`ATTR_TENANT`].
    #[serde(default)]
    pub tenants: BTreeSet<String>,
}

impl Vouches {
    fn check(&self, org: &str, attrs: &BTreeMap<String, String>) -> Result<(), IdentityError> {
        for (attribute, allowed, word) in
            [(ATTR_ROLE, &self.roles, "the role"), (ATTR_TENANT, &self.tenants, "tenant")]
        {
            if let Some(value) = attrs.get(attribute).filter(|v| !allowed.contains(*v)) {
                return Err(IdentityError::NotVouched {
                    org: org.to_owned(),
                    what: format!("{word} `{value}`"),
                });
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Attrs {
    attrs: BTreeMap<String, String>,
}

impl TrustRoots {
    /// Verifies a member's certificate (DER) at a time.
    pub fn verify(&self, certificate: &[u8], at: UnixTime) -> Result<Identity, IdentityError> {
        let cert = parse(certificate)?;
        let org = subject(&cert, "O")?;
        let root = self.orgs.get(&org).ok_or_else(|| IdentityError::UnknownOrganisation(org.clone()))?;
        check_validity(&cert, at)?;
        let issued = root.ca.iter().any(|pem| issued_by((&cert, certificate), pem, &org, at).is_ok());
        if !issued {
            return Err(IdentityError::NotIssuedBy(org));
        }
        let serial = hex::encode(cert.tbs_certificate().serial_number().as_bytes());
        if root.revoked.contains(&serial) {
            return Err(IdentityError::Revoked(serial));
        }
        check_usage(&cert)?;
        let attrs = attributes(&cert)?;
        if let Some(vouches) = &root.vouches {
            vouches.check(&org, &attrs)?;
        }
        Ok(Identity {
            name: subject(&cert, "CN")?,
            attrs,
            certificate: Digest::of(certificate),
            key: public_key(certificate)?,
            serial,
            org,
        })
    }
}

/// Are these the roots of `org`: at least one CA certificate, each of its own name?
pub fn check_root(org: &str, root: &OrgRoot) -> Result<(), IdentityError> {
    if root.ca.is_empty() {
        return Err(malformed("it has no CA certificate"));
    }
    for pem in &root.ca {
        let ca = parse(&pem_to_der(pem)?)?;
        let basic = ca.tbs_certificate().get_extension::<BasicConstraints>().map_err(malformed)?;
        if !basic.is_some_and(|(_, basic)| basic.ca) || subject(&ca, "O")? != org {
            return Err(IdentityError::NotIssuedBy(org.to_owned()));
        }
        public_key(&pem_to_der(pem)?)?;
    }
    Ok(())
}

fn malformed(e: impl std::fmt::Display) -> IdentityError {
    IdentityError::Malformed(e.to_string())
}

fn parse(certificate: &[u8]) -> Result<Certificate, IdentityError> {
    Certificate::from_der(certificate).map_err(malformed)
}

fn subject(cert: &Certificate, part: &str) -> Result<String, IdentityError> {
    let name = cert.tbs_certificate().subject();
    let value = if part == "O" { name.organization() } else { name.common_name() };
    value
        .map_err(malformed)?
        .map(|v| v.value().into_owned())
        .ok_or_else(|| malformed(format!("the subject has no {part}")))
}

fn check_validity(cert: &Certificate, at: UnixTime) -> Result<(), IdentityError> {
    let validity = cert.tbs_certificate().validity();
    let not_before = UnixTime(validity.not_before.to_unix_duration().as_secs());
    let not_after = UnixTime(validity.not_after.to_unix_duration().as_secs());
    if at < not_before || at > not_after {
        return Err(IdentityError::NotValidAt { not_before, not_after, at });
    }
    Ok(())
}

fn check_usage(cert: &Certificate) -> Result<(), IdentityError> {
    match cert.tbs_certificate().get_extension::<KeyUsage>().map_err(malformed)? {
        Some((_, usage)) if usage.digital_signature() => Ok(()),
        _ => Err(IdentityError::Usage),
    }
}

fn issued_by(
    (cert, bytes): (&Certificate, &[u8]),
    ca_pem: &str,
    org: &str,
    at: UnixTime,
) -> Result<(), IdentityError> {
    let ca_der = pem_to_der(ca_pem)?;
    let ca = parse(&ca_der)?;
    check_validity(&ca, at)?;
    let is_ca = ca
        .tbs_certificate()
        .get_extension::<BasicConstraints>()
        .map_err(malformed)?
        .is_some_and(|(_, basic)| basic.ca);
    let named = ca.tbs_certificate().subject() == cert.tbs_certificate().issuer();
    if !is_ca || !named || subject(&ca, "O")? != org {
        return Err(IdentityError::NotIssuedBy(org.to_owned()));
    }
    match signed(cert, bytes, ca_pem, &ca_der)? {
        true => Ok(()),
        false => Err(IdentityError::NotIssuedBy(org.to_owned())),
    }
}

/// Certificates whose signature by a CA was verified, of one thread; 32 bytes each.
const MAX_ISSUED: usize = 4096;

thread_local! {
    static ISSUED: RefCell<HashSet<Digest>> = RefCell::default();
}

/// Did the CA sign these bytes? A yes is remembered: it depends on the two certificates alone, both of which the key
/// covers whole. Validity, revocation and what the CA may vouch for are looked at every time.
fn signed(cert: &Certificate, bytes: &[u8], ca_pem: &str, ca_der: &[u8]) -> Result<bool, IdentityError> {
    let pair = Digest::of_parts([bytes, ca_pem.as_bytes()]);
    if ISSUED.with_borrow(|known| known.contains(&pair)) {
        return Ok(true);
    }
    let tbs = cert.tbs_certificate().to_der().map_err(malformed)?;
    let good = verify_bytes(&public_key(ca_der)?, &tbs, cert.signature().raw_bytes()).is_ok();
    if good {
        ISSUED.with_borrow_mut(|known| {
            if known.len() >= MAX_ISSUED {
                known.clear();
            }
            known.insert(pair);
        });
    }
    Ok(good)
}

fn attributes(cert: &Certificate) -> Result<BTreeMap<String, String>, IdentityError> {
    let Some(extensions) = cert.tbs_certificate().extensions() else { return Ok(BTreeMap::new()) };
    let Some(ext) = extensions.iter().find(|e| e.extn_id == ATTRS_OID) else { return Ok(BTreeMap::new()) };
    let attrs: Attrs = serde_json::from_slice(ext.extn_value.as_bytes())
        .map_err(|e| malformed(format!("attribute extension {}: {e}", ATTRS_OID)))?;
    Ok(attrs.attrs)
}

/// The P-256 key of a certificate (DER).
pub fn public_key(certificate: &[u8]) -> Result<VerifyingKey, IdentityError> {
    let cert = parse(certificate)?;
    let spki = cert.tbs_certificate().subject_public_key_info().to_der().map_err(malformed)?;
    VerifyingKey::from_public_key_der(&spki).map_err(|e| malformed(format!("only P-256 keys: {e}")))
}

/// One PEM certificate to DER.
pub fn pem_to_der(pem: &str) -> Result<Vec<u8>, IdentityError> {
    Certificate::from_pem(pem.as_bytes()).and_then(|c| c.to_der()).map_err(malformed)
}

/// The identity a certificate claims, for display; nothing is verified.
pub fn claimed(certificate: &[u8]) -> Result<(String, String), IdentityError> {
    let cert = parse(certificate)?;
    Ok((subject(&cert, "O")?, subject(&cert, "CN")?))
}
