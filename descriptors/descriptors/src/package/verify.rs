//! Is this package, to the last byte, what its provider signed, and is there evidence for every image in it?
//!
//! In order: the envelope is read; every file has the digest it names and there is no other; the archive's bytes are
//! those it names; the signature and its certificate hold; the descriptor is the one it names; then, for each image,
//! the descriptor's checksum, the SBOM and the provenance agree on its digest. Cheap comparisons come first because
//! they name the file that was changed; nothing is believed before all of them have passed.

use std::collections::BTreeMap;

use trust::{
    Digest, Envelope, Identity, TrustRoots, UnixTime,
    dsse::DsseError,
    statement::{IN_TOTO_PAYLOAD, Statement},
};

use super::{
    CHECKSUMS, PREDICATE_TYPE, Package, PackageError, PackagePredicate, SIGNATURE, archive, provenance_path,
    sbom_path,
};
use crate::{
    diagnostic::Code,
    model::SwImage,
    provenance,
    sbom::{self, SbomSummary},
};

const SIGNED_ELSE: &str = "it was changed after signing: get the package from its provider again";

/// A package with a good signature and evidence for every image. Whether its signer may register packages is for
/// the policy contract to say.
#[derive(Debug, Clone)]
pub struct VerifiedPackage {
    /// The package.
    pub package: Package,
    /// Who signed it.
    pub signer: Identity,
    /// One per image of the descriptor, by image id.
    pub images: Vec<ImageEvidence>,
}

/// What is known about an image.
#[derive(Debug, Clone)]
pub struct ImageEvidence {
    /// `sw-image-desc.id`.
    pub image: String,
    /// Its path in the package.
    pub path: String,
    /// SHA-256 of the image.
    pub digest: Digest,
    /// SHA-256 of its SBOM.
    pub sbom: Digest,
    /// What the SBOM says, for the policy.
    pub summary: SbomSummary,
    /// Its provenance, as it was signed.
    pub provenance: Envelope,
    /// `runDetails.builder.id` of the provenance.
    pub builder: String,
    /// Who signed the provenance.
    pub provenance_signer: Identity,
}

/// Verifies a package at a time. The certificates must be valid then.
pub fn verify(bytes: &[u8], roots: &TrustRoots, at: UnixTime) -> Result<VerifiedPackage, PackageError> {
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
    if let Some(found) = package.diagnostics.iter().find(|d| d.code == Code::File) {
        let problem = found.to_string();
        return Err(PackageError::Evidence { file: CHECKSUMS.into(), problem });
    }
    let images = package.descriptor.vnfd().map_or_else(BTreeMap::new, |v| v.images.clone());
    let images = images.values().map(|i| image_evidence(&package, i, roots, at)).collect::<Result<_, _>>()?;
    Ok(VerifiedPackage { package, signer, images })
}

fn bad(file: &str) -> impl Fn(DsseError) -> PackageError + '_ {
    move |source| PackageError::Signature { file: file.to_owned(), source }
}

fn read_signature(bytes: &[u8]) -> Result<(Envelope, Statement<PackagePredicate>), PackageError> {
    let envelope = canonical(SIGNATURE, bytes)?;
    let statement = Statement::from_envelope(&envelope, PREDICATE_TYPE).map_err(bad(SIGNATURE))?;
    Ok((envelope, statement))
}

/// An envelope in the one encoding we write: nothing in it is free.
fn canonical(file: &str, bytes: &[u8]) -> Result<Envelope, PackageError> {
    let envelope = Envelope::from_json(bytes).map_err(bad(file))?;
    if envelope.to_json() == bytes {
        return Ok(envelope);
    }
    Err(bad(file)(DsseError::Malformed("it is not in its canonical encoding".into())))
}

fn signer(
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

fn same<T: PartialEq + ToString>(
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

fn image_evidence(
    package: &Package,
    image: &SwImage,
    roots: &TrustRoots,
    at: UnixTime,
) -> Result<ImageEvidence, PackageError> {
    let path = &image.image;
    let Some(digest) = package.files.get(path).copied().filter(|_| path.starts_with("images/")) else {
        let hint = "an image outside of the package has no evidence: put it under images/";
        return Err(PackageError::Missing { file: path.clone(), hint });
    };
    // `open` has compared the bytes with the checksum; here it must exist.
    if image.sha256.is_none() {
        let hint = "give `checksum: {algorithm: sha-256, hash: …}`";
        let file = format!("{}: sw-image-desc `{}`: checksum", package.descriptor_path, image.id);
        return Err(PackageError::Missing { file, hint });
    }
    let sbom_file = sbom_path(path);
    let sbom = evidence(package, &sbom_file, "every image needs its CycloneDX SBOM")?;
    let summary = sbom::summary(sbom, &digest)
        .map_err(|e| PackageError::Evidence { file: sbom_file.clone(), problem: e.to_string() })?;
    let file = provenance_path(path);
    let envelope = canonical(&file, evidence(package, &file, "every image needs its SLSA provenance")?)?;
    let provenance_signer = signer(&file, &envelope, roots, at)?;
    let builder = provenance::check(&envelope, &digest)
        .map_err(|e| PackageError::Evidence { file: file.clone(), problem: e.to_string() })?;
    Ok(ImageEvidence {
        image: image.id.clone(),
        path: path.clone(),
        digest,
        sbom: Digest::of(sbom),
        summary,
        provenance: envelope,
        builder,
        provenance_signer,
    })
}

fn evidence<'a>(package: &'a Package, file: &str, hint: &'static str) -> Result<&'a [u8], PackageError> {
    package.file(file).ok_or_else(|| PackageError::Missing { file: file.to_owned(), hint })
}
