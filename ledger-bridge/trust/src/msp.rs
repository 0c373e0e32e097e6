//! Members of a Hyperledger Fabric organisation: an X.509 MSP as a channel's configuration defines it.
//!
//! As Fabric's own MSP does it: a member's certificate is signed by a root or an intermediate CA of the organisation that has no
//! CA below it, is not on a revocation list that this CA signed, and says in one `OU` which role it has (NodeOUs). Unlike
//! Fabric, which looks at no expiry when it validates, it must count at the time that is asked for, and so must its CAs.
//! P-256 alone. What hangs on an MSP and a certificate alone is remembered by a thread within a bound, as in
//! `certificate.rs`; time is looked at every time. Never: a clock. Tests: `tests/msp.rs`.

use std::{cell::RefCell, collections::BTreeSet, sync::Arc};

use der::{
    Decode as _, DecodePem as _, Encode as _,
    asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef},
    oid::{AssociatedOid as _, ObjectIdentifier},
};
use p256::ecdsa::VerifyingKey;
use x509_cert::{
    Certificate,
    attr::AttributeTypeAndValue,
    certificate::Rfc5280,
    crl::CertificateList,
    ext::pkix::{
        AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName,
        SubjectKeyIdentifier,
    },
};

use crate::{
    UnixTime,
    certificate::{Validity, key_of, malformed},
    digest::Digest,
    dsse::{verify_bytes, verify_issued},
    identity::IdentityError,
    memo::Memo,
};

/// Members that a thread remembers: those of a consortium, a few hundred bytes each.
const MAX_MEMBERS: usize = 1024;
/// Largest certificate that is remembered, bytes of PEM; cryptogen's have 850.
const MAX_REMEMBERED_BYTES: usize = 8 << 10;
/// Most CAs above one another.
const MAX_CHAIN: usize = 8;
/// Organisational unit, RFC 4519.
const OU: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");
/// Extended key usages that Fabric takes when a certificate has any: servers, and any.
const USAGES: [ObjectIdentifier; 2] =
    [ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1"), ObjectIdentifier::new_unwrap("2.5.29.37.0")];

thread_local! {
    static MEMBERS: RefCell<Memo<Arc<Member>>> = RefCell::new(Memo::new(MAX_MEMBERS));
}

type Read<T> = Result<T, IdentityError>;

/// What a member is for (NodeOUs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Submits.
    Client,
    /// Endorses and keeps the ledger.
    Peer,
    /// Administers.
    Admin,
    /// Orders.
    Orderer,
    /// Of an organisation without NodeOUs: nobody can tell.
    Unknown,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Peer => "peer",
            Self::Admin => "admin",
            Self::Orderer => "orderer",
            Self::Unknown => "member without a role",
        })
    }
}

/// An `OU` that means something, and perhaps the one CA (PEM) whose certificates it counts in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The OU.
    pub name: String,
    /// PEM, or empty: any CA of the organisation.
    pub authority: Vec<u8>,
}

/// An organisation as a channel's configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Definition {
    /// MSP id.
    pub id: String,
    /// Root CAs, PEM each.
    pub roots: Vec<Vec<u8>>,
    /// Intermediate CAs, PEM each.
    pub intermediates: Vec<Vec<u8>>,
    /// Revocation lists, PEM or DER each.
    pub revocations: Vec<Vec<u8>>,
    /// NodeOUs, when they are enabled.
    pub roles: Vec<(Role, Unit)>,
    /// If there are any, a member has one of these OUs.
    pub units: Vec<Unit>,
}

/// An organisation.
#[derive(Debug, Clone)]
pub struct Msp {
    id: String,
    digest: Digest,
    authorities: Vec<Authority>,
    roles: Vec<(Role, Known)>,
    units: Vec<Known>,
}

/// A [`Unit`] whose CA is known.
#[derive(Debug, Clone)]
struct Known {
    name: String,
    authority: Option<Digest>,
}

/// A CA with its way to a root.
#[derive(Debug, Clone)]
struct Authority {
    certificate: Arc<Certificate>,
    digest: Digest,
    key: VerifyingKey,
    key_id: Vec<u8>,
    /// Its own and those of the CAs above it.
    validity: Vec<Arc<Validity>>,
    /// CAs that may be below it; `None`: any number.
    below: Option<u8>,
    /// Is there a CA below it? Then it vouches for no member.
    inner: bool,
    revoked: BTreeSet<Vec<u8>>,
}

/// Who somebody is in an organisation.
#[derive(Debug)]
pub struct Member {
    /// MSP id.
    pub msp: String,
    /// Role.
    pub role: Role,
    /// Digest of the certificate (DER).
    pub certificate: Digest,
    /// The public key.
    pub key: VerifyingKey,
    validity: Vec<Arc<Validity>>,
}

impl Member {
    /// Does the certificate count then, and do all CAs above it?
    pub fn check(&self, at: UnixTime) -> Result<(), IdentityError> {
        self.validity.iter().try_for_each(|v| v.check(at))
    }

    /// Did its key sign this (ECDSA P-256 over SHA-256, DER, low-S)?
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), &'static str> {
        verify_bytes(&self.key, message, signature)
    }
}

impl Msp {
    /// Reads an organisation. An intermediate CA that has no way to a root or was revoked is an error, as it is for Fabric; a
    /// revocation list that none of the CAs signed says nothing, as for Fabric.
    pub fn new(definition: &Definition) -> Result<Self, IdentityError> {
        if definition.roots.is_empty() {
            return Err(malformed("it has no root CA"));
        }
        let mut it = Self {
            id: definition.id.clone(),
            digest: digest(definition),
            authorities: Vec::new(),
            roles: Vec::new(),
            units: Vec::new(),
        };
        for pem in &definition.roots {
            let root = Authority::root(pem)?;
            it.authorities.push(root);
        }
        it.add_intermediates(&definition.intermediates)?;
        for list in &definition.revocations {
            it.revoke(list)?;
        }
        for authority in &it.authorities {
            it.check_revoked(&authority.certificate)?;
        }
        let known = |unit: &Unit| it.known(unit);
        let roles = definition.roles.iter().map(|(role, unit)| Ok((*role, known(unit)?)));
        let roles = roles.collect::<Read<_>>()?;
        let units = definition.units.iter().map(known).collect::<Read<_>>()?;
        (it.roles, it.units) = (roles, units);
        Ok(it)
    }

    /// MSP id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Of everything that the answers hang on.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The member whose certificate (PEM) this is. When it counts is [`Member::check`]'s to say.
    pub fn member(&self, certificate: &[u8]) -> Result<Arc<Member>, IdentityError> {
        let key = Digest::of_parts([&self.digest.0[..], certificate]);
        if let Some(member) = MEMBERS.with_borrow(|known| known.get(&key)) {
            return Ok(member);
        }
        let member = Arc::new(self.read(certificate)?);
        if certificate.len() <= MAX_REMEMBERED_BYTES {
            MEMBERS.with_borrow_mut(|known| known.put(key, Arc::clone(&member)));
        }
        Ok(member)
    }

    fn read(&self, certificate: &[u8]) -> Read<Member> {
        let cert = Certificate::from_pem(certificate).map_err(malformed)?;
        check_extensions(&cert)?;
        if extension::<BasicConstraints>(&cert)?.is_some_and(|b| b.ca) {
            return Err(malformed("it is a CA's certificate, which is no member's"));
        }
        let signs = extension::<KeyUsage>(&cert)?.is_none_or(|u| u.digital_signature());
        let serves = extension::<ExtendedKeyUsage>(&cert)?
            .is_none_or(|u| u.0.iter().any(|usage| USAGES.contains(usage)));
        if !signs || !serves {
            return Err(IdentityError::Usage);
        }
        let authority = self.issuer(&cert)?;
        if authority.inner {
            return Err(malformed("its issuer has CAs below it, and vouches for no member itself"));
        }
        self.check_revoked(&cert)?;
        let units = units(&cert)?;
        let counts = |known: &Known, unit: &String| {
            known.name == *unit && known.authority.is_none_or(|ca| ca == authority.digest)
        };
        if !self.units.is_empty() && !self.units.iter().any(|k| units.iter().any(|u| counts(k, u))) {
            return Err(malformed(format!("none of its OUs {units:?} is one of `{}`", self.id)));
        }
        let mut validity = vec![Arc::new(Validity::of(&cert))];
        validity.extend(authority.validity.iter().cloned());
        Ok(Member {
            msp: self.id.clone(),
            role: self.role(&units, authority)?,
            certificate: Digest::of(cert.to_der().map_err(malformed)?),
            key: key_of(&cert)?,
            validity,
        })
    }

    /// Exactly one of the OUs is a role.
    fn role(&self, units: &[String], authority: &Authority) -> Read<Role> {
        if self.roles.is_empty() {
            return Ok(Role::Unknown);
        }
        let pairs = units.iter().flat_map(|unit| self.roles.iter().map(move |role| (unit, role)));
        let found: Vec<_> = pairs.filter(|(unit, (_, known))| known.name == **unit).map(|(_, r)| r).collect();
        match found.as_slice() {
            [(role, known)] if known.authority.is_none_or(|ca| ca == authority.digest) => Ok(*role),
            _ => Err(malformed(format!("its OUs {units:?} do not name one role of `{}`", self.id))),
        }
    }

    fn known(&self, unit: &Unit) -> Read<Known> {
        let authority = match unit.authority.as_slice() {
            [] => None,
            pem => {
                let digest = digest_of(pem)?;
                let ours = self.authorities.iter().any(|a| a.digest == digest);
                Some(
                    ours.then_some(digest)
                        .ok_or_else(|| malformed("an OU's CA is not the organisation's"))?,
                )
            }
        };
        Ok(Known { name: unit.name.clone(), authority })
    }

    /// Who signed it; not whether that counts.
    fn issuer(&self, cert: &Certificate) -> Read<&Authority> {
        let signer = self.authorities.iter().find(|a| a.has_signed(cert));
        signer.ok_or_else(|| IdentityError::NotIssuedBy(self.id.clone()))
    }

    /// In any order: each is added below the one that signed it.
    fn add_intermediates(&mut self, pems: &[Vec<u8>]) -> Read<()> {
        let mut left =
            pems.iter().map(|p| Certificate::from_pem(p).map_err(malformed)).collect::<Read<Vec<_>>>()?;
        while !left.is_empty() {
            let before = left.len();
            let mut later = Vec::new();
            for cert in left {
                match self.authorities.iter().position(|a| a.has_signed(&cert)) {
                    Some(above) => self.add_below(above, cert)?,
                    None => later.push(cert),
                }
            }
            if later.len() == before {
                return Err(IdentityError::NotIssuedBy(self.id.clone()));
            }
            left = later;
        }
        Ok(())
    }

    fn add_below(&mut self, above: usize, cert: Certificate) -> Read<()> {
        let Some(parent) = self.authorities.get_mut(above) else { return Ok(()) };
        parent.inner = true;
        let depth = parent.validity.len();
        if parent.below == Some(0) || depth >= MAX_CHAIN {
            return Err(malformed("more CAs above one another than the topmost allows"));
        }
        let (from, upwards) = (parent.below.map(|n| n - 1), parent.validity.clone());
        let mut it = Authority::of(cert)?;
        it.below = match (it.below, from) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        it.validity.extend(upwards);
        self.authorities.push(it);
        Ok(())
    }

    fn revoke(&mut self, list: &[u8]) -> Read<()> {
        let list = match list.starts_with(b"-----") {
            true => CertificateList::<Rfc5280>::from_pem(list),
            false => CertificateList::from_der(list),
        };
        let list = list.map_err(malformed)?;
        let signed = list.tbs_cert_list.to_der().map_err(malformed)?;
        let key_id = list
            .tbs_cert_list
            .crl_extensions
            .iter()
            .flatten()
            .find(|e| e.extn_id == AuthorityKeyIdentifier::OID)
            .and_then(|e| AuthorityKeyIdentifier::from_der(e.extn_value.as_bytes()).ok())
            .and_then(|a| a.key_identifier);
        let signer = self.authorities.iter_mut().find(|a| {
            let named = a.certificate.tbs_certificate().subject() == &list.tbs_cert_list.issuer;
            let keyed = key_id.as_ref().is_none_or(|id| id.as_bytes() == a.key_id);
            named && keyed && verify_issued(&a.key, &signed, list.signature.raw_bytes()).is_ok()
        });
        if let Some(authority) = signer {
            let revoked = list.tbs_cert_list.revoked_certificates.iter().flatten();
            authority.revoked.extend(revoked.map(|r| r.serial_number.as_bytes().to_vec()));
        }
        Ok(())
    }

    fn check_revoked(&self, cert: &Certificate) -> Read<()> {
        let serial = cert.tbs_certificate().serial_number().as_bytes();
        let by = |a: &&Authority| a.revoked.contains(serial) && a.has_signed(cert);
        match self.authorities.iter().find(by) {
            None => Ok(()),
            Some(_) => Err(IdentityError::Revoked(hex::encode(serial))),
        }
    }
}

impl Authority {
    fn root(pem: &[u8]) -> Read<Self> {
        let it = Self::of(Certificate::from_pem(pem).map_err(malformed)?)?;
        match it.has_signed(&it.certificate) {
            true => Ok(it),
            false => Err(malformed("a root CA is not signed by itself")),
        }
    }

    fn of(cert: Certificate) -> Read<Self> {
        check_extensions(&cert)?;
        let Some(basic) = extension::<BasicConstraints>(&cert)?.filter(|b| b.ca) else {
            return Err(malformed("a CA's certificate is none of a CA"));
        };
        if extension::<KeyUsage>(&cert)?.is_some_and(|u| !u.key_cert_sign()) {
            return Err(malformed("a CA's key may not sign certificates"));
        }
        let key_id = extension::<SubjectKeyIdentifier>(&cert)?
            .ok_or_else(|| malformed("a CA's certificate has no subject key identifier"))?;
        Ok(Self {
            digest: Digest::of(cert.to_der().map_err(malformed)?),
            key: key_of(&cert)?,
            key_id: key_id.0.as_bytes().to_vec(),
            validity: vec![Arc::new(Validity::of(&cert))],
            below: basic.path_len_constraint,
            inner: false,
            revoked: BTreeSet::new(),
            certificate: Arc::new(cert),
        })
    }

    fn has_signed(&self, cert: &Certificate) -> bool {
        let tbs = cert.tbs_certificate();
        if self.certificate.tbs_certificate().subject() != tbs.issuer() {
            return false;
        }
        let Ok(signed) = tbs.to_der() else { return false };
        tbs.signature() == cert.signature_algorithm()
            && verify_issued(&self.key, &signed, cert.signature().raw_bytes()).is_ok()
    }
}

fn digest_of(pem: &[u8]) -> Read<Digest> {
    let cert = Certificate::from_pem(pem).map_err(malformed)?;
    cert.to_der().map(Digest::of).map_err(malformed)
}

/// Of all that [`Msp::new`] reads.
fn digest(definition: &Definition) -> Digest {
    let Definition { id, roots, intermediates, revocations, roles, units } = definition;
    let lists = [roots, intermediates, revocations];
    let lists = lists.map(|list| Digest::of_parts(list.iter().map(Vec::as_slice)));
    let unit = |u: &Unit| Digest::of_parts([u.name.as_bytes(), &u.authority]);
    let roles: Vec<_> =
        roles.iter().map(|(r, u)| Digest::of_parts([r.to_string().as_bytes(), &unit(u).0])).collect();
    let units: Vec<_> = units.iter().map(unit).collect();
    let last = [roles, units].map(|list| Digest::of_parts(list.iter().map(|d| &d.0[..])));
    let parts = lists.iter().chain(&last).map(|d| &d.0[..]);
    Digest::of_parts([id.as_bytes()].into_iter().chain(parts))
}

fn extension<T>(cert: &Certificate) -> Read<Option<T>>
where
    T: for<'a> der::Decode<'a, Error = der::Error> + der::oid::AssociatedOid,
{
    let found = cert.tbs_certificate().get_extension::<T>().map_err(malformed)?;
    Ok(found.map(|(_, it)| it))
}

/// Whatever is critical must be understood (RFC 5280, 4.2).
fn check_extensions(cert: &Certificate) -> Read<()> {
    let known = [
        BasicConstraints::OID,
        KeyUsage::OID,
        ExtendedKeyUsage::OID,
        SubjectAltName::OID,
        SubjectKeyIdentifier::OID,
        AuthorityKeyIdentifier::OID,
    ];
    let strange = |e: &&x509_cert::ext::Extension| e.critical && !known.contains(&e.extn_id);
    match cert.tbs_certificate().extensions().into_iter().flatten().find(strange) {
        None => Ok(()),
        Some(e) => Err(malformed(format!("its critical extension {} is not understood", e.extn_id))),
    }
}

/// The subject's OUs.
fn units(cert: &Certificate) -> Read<Vec<String>> {
    let all = cert.tbs_certificate().subject().iter().filter(|a| a.oid == OU);
    all.map(|a| text(a).ok_or_else(|| malformed("an OU of its subject is no text"))).collect()
}

fn text(attribute: &AttributeTypeAndValue) -> Option<String> {
    let value = &attribute.value;
    let utf8 = Utf8StringRef::try_from(value).ok().map(|s| s.as_str().to_owned());
    utf8.or_else(|| PrintableStringRef::try_from(value).ok().map(|s| s.as_str().to_owned()))
        .or_else(|| TeletexStringRef::try_from(value).ok().map(|s| s.as_str().to_owned()))
        .or_else(|| Ia5StringRef::try_from(value).ok().map(|s| s.as_str().to_owned()))
}
