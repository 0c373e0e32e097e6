//! X.509 identities: who signed, for which organisation, with which attributes.
//!
//! An organisation is a CA certificate in [`TrustRoots`]. A member's certificate names the organisation in subject
//! `O` and carries its attributes where Hyperledger Fabric's CA puts them, in the extension
//! [`ATTRS_OID`] as `{"attrs":{"mandate.role":"tenant",…}}`, so that one certificate serves both ledgers.

use std::collections::{BTreeMap, BTreeSet};

use der::oid::ObjectIdentifier;
use p256::ecdsa::VerifyingKey;
use serde::{Deserialize, Serialize};

use crate::{
    UnixTime,
    certificate::{self, Member, malformed},
    digest::Digest,
};

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
    /// The Fabric channel that the entries are transactions of; absent: the log alone has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelRoot>,
}

/// Where the trust in a Fabric channel begins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelRoot {
    /// A configuration block of the channel (`peer channel fetch config`), base64: its organisations and their CAs.
    pub configuration: String,
    /// Name of the contract's chaincode on it.
    pub chaincode: String,
    /// MSP ids of the organisations of which each must have endorsed a transaction, and say that it is valid; empty:
    /// every application organisation of the channel.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub endorsers: BTreeSet<String>,
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

impl TrustRoots {
    /// Verifies a member's certificate (DER) at a time.
    pub fn verify(&self, certificate: &[u8], at: UnixTime) -> Result<Identity, IdentityError> {
        let member = Member::of(certificate)?;
        let org = &member.org;
        let root = self.orgs.get(org).ok_or_else(|| IdentityError::UnknownOrganisation(org.clone()))?;
        member.validity.check(at)?;
        if !root.ca.iter().any(|pem| member.issued_by(pem, at)) {
            return Err(IdentityError::NotIssuedBy(org.clone()));
        }
        if root.revoked.contains(&member.serial) {
            return Err(IdentityError::Revoked(member.serial.clone()));
        }
        member.usage.clone()?;
        let attrs = member.attrs.clone()?;
        if let Some(vouches) = &root.vouches {
            vouches.check(org, &attrs)?;
        }
        Ok(Identity {
            org: org.clone(),
            name: member.name.clone()?,
            attrs,
            certificate: member.digest,
            serial: member.serial.clone(),
            key: member.key.clone()?,
        })
    }
}

/// Are these the roots of `org`: at least one CA certificate, each of its own name?
pub fn check_root(org: &str, root: &OrgRoot) -> Result<(), IdentityError> {
    if root.ca.is_empty() {
        return Err(malformed("it has no CA certificate"));
    }
    root.ca.iter().try_for_each(|pem| certificate::check_authority(pem, org))
}

/// The P-256 key of a certificate (DER).
pub fn public_key(certificate: &[u8]) -> Result<VerifyingKey, IdentityError> {
    certificate::public_key(certificate)
}

/// One PEM certificate to DER.
pub fn pem_to_der(pem: &str) -> Result<Vec<u8>, IdentityError> {
    certificate::pem_to_der(pem)
}

/// The identity a certificate claims, for display; nothing is verified.
pub fn claimed(certificate: &[u8]) -> Result<(String, String), IdentityError> {
    let member = Member::of(certificate)?;
    Ok((member.org.clone(), member.name.clone()?))
}

/// From when to when a certificate (DER) counts, as it says itself; nothing is verified.
pub fn validity(certificate: &[u8]) -> Result<(UnixTime, UnixTime), IdentityError> {
    Ok(Member::of(certificate)?.validity.span())
}
