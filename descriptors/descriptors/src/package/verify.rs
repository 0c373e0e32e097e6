//! Is this package, to the last byte, what its provider signed, and is there evidence for every image in it?
//!
//! In order, for a package signed with DSSE: the envelope is read; every file has the digest it names and there is no
//! other; the archive's bytes are those it names; the signature and its certificate hold; the descriptor is the one it
//! names. For SOL004 packages and Sigstore bundles see [`crate::sol004`] and [`crate::sigstore`]. Then, for each image,
//! the descriptor's checksum, the SBOM and the provenance agree on its digest. Cheap comparisons come first because
//! they name the file that was changed; nothing is believed before all of them have passed.

use std::collections::{BTreeMap, BTreeSet};

use trust::{
    Digest, Envelope, Identity, TrustRoots, UnixTime,
    dsse::DsseError,
    statement::{IN_TOTO_PAYLOAD, Statement},
};

use super::{
    CHECKSUMS, PREDICATE_TYPE, Package, PackageError, PackagePredicate, SIGNATURE, archive,
    evidence::{self, ImageEvidence},
};
use crate::{
    diagnostic::Code,
    pki::{Anchor, Leaf, Purpose, chain, cms::Trust},
    sigstore::{self, Bundle, Claim},
    sol004::{self, Sol004Error, Wrapped},
};

const SIGNED_ELSE: &str = "it was changed after signing: get the package from its provider again";

/// How somebody signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureKind {
    /// DSSE with a member's certificate.
    Dsse,
    /// CMS: SOL004's options 1 and 2.
    Cms,
    /// A Sigstore bundle.
    Sigstore,
}

/// Who signed, for which organisation, and how. Verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// The organisation among the trust roots.
    pub org: String,
    /// Name in the certificate, of the key, or the identity.
    pub name: String,
    /// How.
    pub kind: SignatureKind,
    /// SHA-256 of the certificate, where there is one.
    pub certificate: Option<Digest>,
}

impl std::fmt::Display for SignedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.org)
    }
}

impl From<Identity> for SignedBy {
    fn from(it: Identity) -> Self {
        Self { org: it.org, name: it.name, kind: SignatureKind::Dsse, certificate: Some(it.certificate) }
    }
}

impl From<Leaf> for SignedBy {
    fn from(it: Leaf) -> Self {
        Self { org: it.org, name: it.name, kind: SignatureKind::Cms, certificate: Some(it.certificate) }
    }
}

impl From<Claim> for SignedBy {
    fn from(it: Claim) -> Self {
        Self { org: it.org, name: it.name, kind: SignatureKind::Sigstore, certificate: it.certificate }
    }
}

/// A package with a good signature and evidence for every image. Whether its signer may register packages is for
/// the policy contract to say.
#[derive(Debug, Clone)]
pub struct VerifiedPackage {
    /// The package.
    pub package: Package,
    /// Who signed it.
    pub signer: SignedBy,
    /// One per image of the descriptor, by image id.
    pub images: Vec<ImageEvidence>,
}

/// Verifies a package at a time. The certificates must be valid then.
pub fn verify(bytes: &[u8], roots: &TrustRoots, at: UnixTime) -> Result<VerifiedPackage, PackageError> {
    let (package, signer) = match sol004::is_zip(bytes) {
        true => zip(bytes, roots, at)?,
        false => osm(bytes, roots, at)?,
    };
    with_evidence(package, signer, roots, at)
}

fn with_evidence(
    package: Package,
    signer: SignedBy,
    roots: &TrustRoots,
    at: UnixTime,
) -> Result<VerifiedPackage, PackageError> {
    if let Some(found) = package.diagnostics.iter().find(|d| d.code == Code::File) {
        let problem = found.to_string();
        return Err(PackageError::Evidence { file: CHECKSUMS.into(), problem });
    }
    let images = evidence::of(&package, roots, at)?;
    Ok(VerifiedPackage { package, signer, images })
}

/// Verifies a package whose signature is a Sigstore bundle in another file.
pub fn verify_with_bundle(
    bytes: &[u8],
    bundle: &[u8],
    roots: &TrustRoots,
    at: UnixTime,
) -> Result<VerifiedPackage, PackageError> {
    let wrapped = Wrapped {
        name: "package".into(),
        package: bytes.to_vec(),
        cms: None,
        bundle: Some(("bundle".into(), bundle.to_vec())),
        certificates: Vec::new(),
    };
    let (mut package, signer) = wrapper(&wrapped, roots, at)?;
    package.digest = Digest::of(bytes);
    with_evidence(package, signer, roots, at)
}

/// OSM's tar.gz, signed with DSSE.
fn osm(bytes: &[u8], roots: &TrustRoots, at: UnixTime) -> Result<(Package, SignedBy), PackageError> {
    let unpacked = archive::read(bytes)?;
    let Some(signature) = unpacked.files.get(SIGNATURE) else {
        let hint = "the package is not signed: its provider signs it with `mandate package sign`";
        return Err(PackageError::Missing { file: SIGNATURE.into(), hint });
    };
    let (envelope, statement) = read_signature(signature)?;
    check_subjects(&unpacked.files, &statement)?;
    check_bytes(bytes, &unpacked.name, signature, &statement.predicate)?;
    let signer = signer(SIGNATURE, &envelope, roots, at)?;
    let package = super::assemble(unpacked, Digest::of(bytes))?;
    check_predicate(&package, &statement.predicate)?;
    Ok((package, signer.into()))
}

/// A CSAR, or a zip with a package and its signature.
fn zip(bytes: &[u8], roots: &TrustRoots, at: UnixTime) -> Result<(Package, SignedBy), PackageError> {
    let Some(wrapped) = sol004::unwrap(bytes)? else {
        let csar = sol004::open(bytes)?;
        let signer = inside(&csar, roots, at)?;
        let manifest = csar.manifest_path.clone();
        let package = super::from_csar(csar, Digest::of(bytes))?;
        return Ok((package, signer.ok_or(Sol004Error::NotSigned { manifest })?));
    };
    let (mut package, signer) = wrapper(&wrapped, roots, at)?;
    package.digest = Digest::of(bytes);
    Ok((package, signer))
}

/// Every signature that is there must be good, and all by one organisation; one must be there.
fn wrapper(wrapped: &Wrapped, roots: &TrustRoots, at: UnixTime) -> Result<(Package, SignedBy), PackageError> {
    let mut signers = Vec::new();
    let outside = with_trust(roots, at, |trust| sol004::signature::beside(wrapped, trust))?;
    signers.extend(outside.map(SignedBy::from));
    if let Some((file, bundle)) = &wrapped.bundle {
        let sigstore = |source| PackageError::Sigstore { file: file.clone(), source };
        let bundle = Bundle::from_json(bundle).map_err(sigstore)?;
        let claim = sigstore::verify_artifact(&bundle, &wrapped.package, roots).map_err(sigstore)?;
        signers.push(claim.into());
    }
    let digest = Digest::of(&wrapped.package);
    let package = if sol004::is_zip(&wrapped.package) {
        let csar = sol004::open(&wrapped.package)?;
        signers.extend(inside(&csar, roots, at)?);
        super::from_csar(csar, digest)?
    } else if super::open(&wrapped.package)?.is_signed() {
        let (package, signer) = osm(&wrapped.package, roots, at)?;
        signers.push(signer);
        package
    } else {
        super::open(&wrapped.package)?
    };
    let mut signers = signers.into_iter();
    let first = signers.next().ok_or_else(|| Sol004Error::NotSigned { manifest: wrapped.name.clone() })?;
    match signers.find(|s| s.org != first.org) {
        Some(other) => {
            let (expected, found) = (first.org, other.org);
            Err(Sol004Error::OtherSigner { file: wrapped.name.clone(), expected, found }.into())
        }
        None => Ok((package, first)),
    }
}

fn inside(csar: &sol004::Csar, roots: &TrustRoots, at: UnixTime) -> Result<Option<SignedBy>, PackageError> {
    let leaf = with_trust(roots, at, |trust| sol004::signature::inside(csar, trust))?;
    Ok(leaf.map(SignedBy::from))
}

/// The organisations' CAs as what CMS signatures are checked against.
fn with_trust<T>(
    roots: &TrustRoots,
    at: UnixTime,
    check: impl FnOnce(Trust<'_>) -> Result<T, Sol004Error>,
) -> Result<T, PackageError> {
    let (mut anchors, mut revoked) = (Vec::new(), BTreeSet::new());
    for (org, root) in &roots.orgs {
        for pem in &root.ca {
            let certificates = chain::from_pem(pem)
                .map_err(|source| Sol004Error::Signature { file: format!("trust roots: {org}"), source })?;
            anchors
                .extend(certificates.into_iter().map(|certificate| Anchor { org: org.clone(), certificate }));
        }
        revoked.extend(root.revoked.iter().map(|serial| (org.clone(), serial.clone())));
    }
    let trust = Trust { anchors: &anchors, revoked: &revoked, purpose: Purpose::Package, at };
    check(trust).map_err(PackageError::from)
}

pub(super) fn bad(file: &str) -> impl Fn(DsseError) -> PackageError + '_ {
    move |source| PackageError::Signature { file: file.to_owned(), source }
}

fn read_signature(bytes: &[u8]) -> Result<(Envelope, Statement<PackagePredicate>), PackageError> {
    let envelope = canonical(SIGNATURE, bytes)?;
    let statement = Statement::from_envelope(&envelope, PREDICATE_TYPE).map_err(bad(SIGNATURE))?;
    Ok((envelope, statement))
}

/// An envelope in the one encoding we write: nothing in it is free.
pub(super) fn canonical(file: &str, bytes: &[u8]) -> Result<Envelope, PackageError> {
    let envelope = Envelope::from_json(bytes).map_err(bad(file))?;
    if envelope.to_json() == bytes {
        return Ok(envelope);
    }
    Err(bad(file)(DsseError::Malformed("it is not in its canonical encoding".into())))
}

pub(super) fn signer(
    file: &str,
    envelope: &Envelope,
    roots: &TrustRoots,
    at: UnixTime,
) -> Result<Identity, PackageError> {
    let verified = envelope.verify_type(IN_TOTO_PAYLOAD, roots, at).map_err(bad(file))?;
    verified.signers.into_iter().next().ok_or_else(|| bad(file)(DsseError::SignatureCount(0)))
}

fn check_subjects(
    files: &BTreeMap<String, Vec<u8>>,
    statement: &Statement<PackagePredicate>,
) -> Result<(), PackageError> {
    let mut named = BTreeMap::new();
    for subject in &statement.subject {
        let (Some(name), Some(digest)) = (&subject.name, subject.sha256()) else {
            return Err(bad(SIGNATURE)(DsseError::Payload("a subject without name or sha256".into())));
        };
        named.insert(name.as_str(), digest);
    }
    for (path, bytes) in files.iter().filter(|(p, _)| *p != SIGNATURE) {
        let Some(expected) = named.remove(path.as_str()) else {
            return Err(PackageError::Uncovered { file: path.clone() });
        };
        same(path, "the digest", &expected, &Digest::of(bytes))?;
    }
    match named.into_keys().next() {
        Some(path) => Err(PackageError::Missing { file: path.to_owned(), hint: SIGNED_ELSE }),
        None => Ok(()),
    }
}

pub(super) fn same<T: PartialEq + ToString>(
    file: &str,
    what: &'static str,
    expected: &T,
    found: &T,
) -> Result<(), PackageError> {
    if expected == found {
        return Ok(());
    }
    let (file, expected, found) = (file.to_owned(), expected.to_string(), found.to_string());
    Err(PackageError::Mismatch { file, what, expected, found, hint: SIGNED_ELSE })
}

/// The archive is the signed content and the one tail that goes with the signature.
fn check_bytes(
    bytes: &[u8],
    name: &str,
    signature: &[u8],
    predicate: &PackagePredicate,
) -> Result<(), PackageError> {
    let size = usize::try_from(predicate.content.size_bytes).unwrap_or(usize::MAX);
    let Some((content, tail)) = bytes.split_at_checked(size) else {
        return same(name, "the archive's size", &predicate.content.size_bytes, &(bytes.len() as u64));
    };
    same(name, "the digest of the archive's content", &predicate.content.digest, &Digest::of(content))?;
    if tail != archive::tail(name, Some(signature))? {
        return Err(PackageError::Damaged {
            reason: "the bytes around the signature are not those of a package".into(),
        });
    }
    Ok(())
}

fn check_predicate(package: &Package, predicate: &PackagePredicate) -> Result<(), PackageError> {
    let file = &package.descriptor_path;
    same(SIGNATURE, "the package's name", &predicate.name, &package.name)?;
    same(SIGNATURE, "the package's kind", &predicate.kind, &package.kind)?;
    same(file, "the descriptor's id", &predicate.id.as_str(), &package.descriptor.id())?;
    same(file, "the descriptor's version", &predicate.version.as_str(), &package.descriptor.version())
}
