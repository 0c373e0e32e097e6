//! A bundle against the trust roots: who signed, when, and what.

use std::collections::BTreeSet;

use der::{Decode as _, asn1::ObjectIdentifier};
use trust::{Digest, TrustRoots, UnixTime, identity::SigstoreTrust};
use x509_cert::Certificate;

use super::{
    Bundle, SigstoreError,
    bundle::{Content, Signer},
    root::TrustedRoot,
    sct, tlog,
};
use crate::pki::{Algorithm, Hash, PkiError, PublicKey, Purpose, chain, timestamp};

/// The identity provider, as a DER string.
const ISSUER_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.8");
/// The same, as bare text, in older certificates.
const ISSUER_V1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.1");

/// What a verified bundle says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Organisation that lists the key or the identity.
    pub org: String,
    /// Name of the key, or the identity (subject alternative name).
    pub name: String,
    /// When it was signed, where somebody vouches for that.
    pub time: Option<UnixTime>,
    /// SHA-256 of the signer's certificate.
    pub certificate: Option<Digest>,
    /// The key that made the signature.
    pub key: PublicKey,
}

/// DSSE pre-authentication encoding.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// Verifies a bundle over an artifact: a message signature over its bytes.
pub fn verify_artifact(bundle: &Bundle, artifact: &[u8], roots: &TrustRoots) -> Result<Claim, SigstoreError> {
    let Content::Message { digest, .. } = &bundle.content else {
        return Err(SigstoreError::OtherSubject("it holds an envelope, not a signature over a file".into()));
    };
    let found = Digest::of(artifact);
    if digest.as_ref().is_some_and(|d| *d != found.0) {
        return Err(SigstoreError::OtherSubject(format!("the file's digest is {found}")));
    }
    verify(bundle, artifact, found, roots)
}

/// Verifies a bundle that holds an envelope; returns the payload's type and bytes.
pub fn verify_statement<'a>(
    bundle: &'a Bundle,
    roots: &TrustRoots,
) -> Result<(Claim, &'a str, &'a [u8]), SigstoreError> {
    let Content::Envelope { payload_type, payload, .. } = &bundle.content else {
        return Err(SigstoreError::OtherSubject("it holds a signature over a file, not a statement".into()));
    };
    let claim = verify(bundle, &pae(payload_type, payload), Digest::of(payload), roots)?;
    Ok((claim, payload_type, payload))
}

fn verify(
    bundle: &Bundle,
    message: &[u8],
    digest: Digest,
    roots: &TrustRoots,
) -> Result<Claim, SigstoreError> {
    match &bundle.signer {
        Signer::Key(hint) => keyed(bundle, hint, message, digest, roots),
        Signer::Certificates(list) => match list.split_first() {
            Some((leaf, others)) => keyless(bundle, leaf, others, message, digest, roots),
            None => Err(SigstoreError::Bundle("no certificate".into())),
        },
    }
}

/// A signature with the algorithm usual for the key; older tools sign with SHA-256 whatever the curve.
fn check(key: &PublicKey, message: &[u8], sig: &[u8]) -> Result<(), PkiError> {
    match key.verify(key.usual(), message, sig) {
        Err(PkiError::BadSignature) if matches!(key, PublicKey::P384(_)) => {
            key.verify(Algorithm::Ecdsa(Hash::Sha256), message, sig)
        }
        other => other,
    }
}

fn trusted_root(org: &str, sigstore: &SigstoreTrust) -> Result<TrustedRoot, SigstoreError> {
    TrustedRoot::read(&sigstore.trusted_root, org)
        .map_err(|why| SigstoreError::Root { org: org.to_owned(), why })
}

fn keyed(
    bundle: &Bundle,
    hint: &str,
    message: &[u8],
    digest: Digest,
    roots: &TrustRoots,
) -> Result<Claim, SigstoreError> {
    for (org, root) in &roots.orgs {
        for (name, pem) in &root.keys {
            let key = PublicKey::from_pem(pem)?;
            if check(&key, message, bundle.content.signature()).is_err() {
                continue;
            }
            let time = match &root.sigstore {
                Some(sigstore) => {
                    let instance = trusted_root(org, sigstore)?;
                    let spki =
                        der::pem::decode_vec(pem.trim().as_bytes()).map(|(_, d)| d).unwrap_or_default();
                    let about = tlog::About {
                        content: &bundle.content,
                        digest,
                        message: Digest::of(message),
                        verifier: &spki,
                    };
                    times(bundle, &about, &instance)?.first().copied()
                }
                // Without a log among the roots, its entries prove nothing and are not needed: the key is known.
                None => None,
            };
            return Ok(Claim { org: org.clone(), name: name.clone(), time, certificate: None, key });
        }
    }
    Err(SigstoreError::UnknownKey { hint: hint.chars().take(80).collect() })
}

/// Every log entry and time stamp must be good; the times that they vouch for.
fn times(
    bundle: &Bundle,
    about: &tlog::About<'_>,
    instance: &TrustedRoot,
) -> Result<Vec<UnixTime>, SigstoreError> {
    let mut out = Vec::new();
    for (index, entry) in bundle.entries.iter().enumerate() {
        out.extend(tlog::verify(index, entry, about, instance)?);
    }
    for stamp in &bundle.timestamps {
        out.push(stamped(stamp, bundle.content.signature(), instance)?);
    }
    Ok(out)
}

fn stamped(stamp: &[u8], signature: &[u8], instance: &TrustedRoot) -> Result<UnixTime, SigstoreError> {
    let mut last = SigstoreError::NoTime("the trusted root has no time-stamping authority".into());
    for authority in &instance.time {
        let anchors = std::slice::from_ref(&authority.root);
        match timestamp::verify(stamp, signature, anchors, &authority.certificates) {
            Ok(at) if authority.valid.contains(at) => return Ok(at),
            Ok(at) => {
                last = SigstoreError::NoTime(format!("stamped at {at}, when the authority did not count"))
            }
            Err(e) => last = e.into(),
        }
    }
    Err(last)
}

fn keyless(
    bundle: &Bundle,
    leaf: &[u8],
    others: &[Vec<u8>],
    message: &[u8],
    digest: Digest,
    roots: &TrustRoots,
) -> Result<Claim, SigstoreError> {
    let (subjects, issuer) = identity(leaf)?;
    let listed = roots.orgs.iter().find_map(|(org, root)| {
        let sigstore = root.sigstore.as_ref()?;
        let found =
            sigstore.identities.iter().find(|i| i.issuer == issuer && subjects.contains(&i.subject))?;
        Some((org, sigstore, found.subject.clone()))
    });
    let Some((org, sigstore, name)) = listed else {
        let subject = subjects.first().cloned().unwrap_or_default();
        return Err(SigstoreError::UnknownIdentity { subject, issuer });
    };
    let instance = trusted_root(org, sigstore)?;
    let about =
        tlog::About { content: &bundle.content, digest, message: Digest::of(message), verifier: leaf };
    let times = times(bundle, &about, &instance)?;
    if bundle.entries.is_empty() {
        return Err(SigstoreError::Log {
            index: 0,
            why: "there is none, and keyless signatures need one".into(),
        });
    }
    if times.is_empty() {
        return Err(SigstoreError::NoTime("no log promise and no time stamp".into()));
    }
    for at in &times {
        certified(leaf, others, &instance, *at)?;
    }
    let key = PublicKey::of_certificate(leaf)?;
    check(&key, message, bundle.content.signature())?;
    let (time, certificate) = (times.first().copied(), Some(Digest::of(leaf)));
    Ok(Claim { org: org.clone(), name, time, certificate, key })
}

/// The certificate was valid at that time, under an authority that counted then, and its issuance was logged.
fn certified(
    leaf: &[u8],
    others: &[Vec<u8>],
    instance: &TrustedRoot,
    at: UnixTime,
) -> Result<(), SigstoreError> {
    let mut last = None;
    for authority in instance.authorities.iter().filter(|a| a.valid.contains(at)) {
        let others: Vec<Vec<u8>> = others.iter().chain(&authority.certificates).cloned().collect();
        let anchors = std::slice::from_ref(&authority.root);
        match chain::verify(leaf, &others, anchors, &BTreeSet::new(), Purpose::Code, at) {
            Ok(_) => {
                let mut issuers = others;
                issuers.push(authority.root.certificate.clone());
                return sct::verify(leaf, &issuers, instance);
            }
            Err(e) => last = Some(e),
        }
    }
    Err(last.map_or_else(
        || SigstoreError::NoTime(format!("no certificate authority of the trusted root counted at {at}")),
        SigstoreError::Pki,
    ))
}

/// Subject alternative names and identity provider of a Fulcio certificate.
fn identity(leaf: &[u8]) -> Result<(Vec<String>, String), SigstoreError> {
    let cert: Certificate = chain::parse(leaf)?;
    let subjects = chain::alternative_names(&cert)?;
    let extension = |oid: ObjectIdentifier| {
        let mut all = cert.tbs_certificate().extensions().into_iter().flatten();
        all.find(|e| e.extn_id == oid).map(|e| e.extn_value.as_bytes())
    };
    let v2 = extension(ISSUER_V2)
        .and_then(|b| der::asn1::Utf8StringRef::from_der(b).ok())
        .map(|s| s.as_str().to_owned());
    let v1 = || extension(ISSUER_V1).and_then(|b| std::str::from_utf8(b).ok()).map(str::to_owned);
    let issuer = v2.or_else(v1).unwrap_or_default();
    Ok((subjects, issuer))
}
