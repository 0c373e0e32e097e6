//! Is there evidence for every image: a checksum, an SBOM, provenance, and an in-toto layout if the provider has one?
//!
//! | evidence | files, NAME being the image's file name |
//! |---|---|
//! | SBOM | `sbom/NAME.cdx.json`, `sbom/NAME.spdx.json`, `sbom/NAME.spdx` |
//! | provenance | `provenance/NAME.slsa.dsse.json` (a member's signature), `provenance/NAME.slsa.sigstore.json` (a bundle) |
//! | in-toto | `in-toto/root.layout` and `in-toto/*.link` |

use trust::{Digest, Envelope, TrustRoots, UnixTime};

use super::{
    Package, PackageError, SignedBy, provenance_path, sbom_path,
    verify::{canonical, same, signer},
};
use crate::{
    layout,
    model::SwImage,
    provenance::{self, BundledError},
    sbom::{self, SbomSummary},
};

/// Where an in-toto layout is.
pub const LAYOUT: &str = "in-toto/root.layout";
const LINKS: &str = "in-toto/";

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
    /// Its provenance whole: the ledger's contract verifies it again.
    pub provenance: SignedProvenance,
    /// `runDetails.builder.id` of the provenance.
    pub builder: String,
    /// Who signed the provenance.
    pub provenance_signer: SignedBy,
    /// Steps of the in-toto layout that lead to the image; empty without a layout.
    pub steps: Vec<String>,
}

/// Provenance with its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignedProvenance {
    /// A member's envelope.
    Envelope(Envelope),
    /// The text of a Sigstore bundle.
    Bundle(String),
}

/// Evidence for every image of the descriptor.
pub(super) fn of(
    package: &Package,
    roots: &TrustRoots,
    at: UnixTime,
) -> Result<Vec<ImageEvidence>, PackageError> {
    let Some(vnfd) = package.descriptor.vnfd() else { return Ok(Vec::new()) };
    let chain = supply_chain(package, roots, at)?;
    vnfd.images.values().map(|i| image(package, i, chain.as_ref(), roots, at)).collect()
}

/// The in-toto layout, verified with its links.
fn supply_chain(
    package: &Package,
    roots: &TrustRoots,
    at: UnixTime,
) -> Result<Option<layout::Verified>, PackageError> {
    let Some(bytes) = package.file(LAYOUT) else { return Ok(None) };
    let links = package.files.keys().filter(|p| p.starts_with(LINKS) && p.ends_with(".link"));
    let links = links.filter_map(|p| Some((p.as_str(), package.file(p)?)));
    layout::verify(bytes, links, roots, at)
        .map(Some)
        .map_err(|source| PackageError::Layout { file: LAYOUT.into(), source })
}

fn image(
    package: &Package,
    image: &SwImage,
    chain: Option<&layout::Verified>,
    roots: &TrustRoots,
    at: UnixTime,
) -> Result<ImageEvidence, PackageError> {
    let path = &image.image;
    let Some(digest) = package.files.get(path).copied() else {
        let hint = "an image outside of the package has no evidence: put it under images/";
        return Err(PackageError::Missing { file: path.clone(), hint });
    };
    let Some(said) = image.sha256 else {
        let hint = "give `checksum: {algorithm: sha-256, hash: …}`";
        let file = format!("{}: sw-image-desc `{}`: checksum", package.descriptor_path, image.id);
        return Err(PackageError::Missing { file, hint });
    };
    same(path, "the digest", &said, &digest)?;
    let (sbom_file, sbom) = sbom_of(package, path)?;
    let summary = sbom::summary(sbom, &digest)
        .map_err(|e| PackageError::Evidence { file: sbom_file, problem: e.to_string() })?;
    let (provenance, builder, provenance_signer) = provenance_of(package, path, &digest, roots, at)?;
    let steps = match chain {
        Some(chain) => {
            chain.steps_to(&digest).map_err(|source| PackageError::Layout { file: LAYOUT.into(), source })?
        }
        None => Vec::new(),
    };
    Ok(ImageEvidence {
        image: image.id.clone(),
        path: path.clone(),
        digest,
        sbom: Digest::of(sbom),
        summary,
        provenance,
        builder,
        provenance_signer,
        steps,
    })
}

/// The SBOM under the first of its names.
fn sbom_of<'a>(package: &'a Package, image: &str) -> Result<(String, &'a [u8]), PackageError> {
    let usual = sbom_path(image);
    let stem = usual.trim_end_matches(".cdx.json");
    let names = [usual.clone(), format!("{stem}.spdx.json"), format!("{stem}.spdx")];
    let mut found = names.into_iter().filter_map(|n| package.file(&n).map(|b| (n, b)));
    let hint = "every image needs its SBOM: CycloneDX (.cdx.json) or SPDX (.spdx.json, .spdx)";
    found.next().ok_or(PackageError::Missing { file: usual, hint })
}

fn provenance_of(
    package: &Package,
    image: &str,
    digest: &Digest,
    roots: &TrustRoots,
    at: UnixTime,
) -> Result<(SignedProvenance, String, SignedBy), PackageError> {
    let file = provenance_path(image);
    let problem = |file: &str, e: provenance::ProvenanceError| PackageError::Evidence {
        file: file.to_owned(),
        problem: e.to_string(),
    };
    if let Some(bytes) = package.file(&file) {
        let envelope = canonical(&file, bytes)?;
        let by = signer(&file, &envelope, roots, at)?;
        let builder = provenance::check(&envelope, digest).map_err(|e| problem(&file, e))?;
        return Ok((SignedProvenance::Envelope(envelope), builder, by.into()));
    }
    let bundled = file.replace(".dsse.json", ".sigstore.json");
    let Some(bytes) = package.file(&bundled) else {
        return Err(PackageError::Missing { file, hint: "every image needs its SLSA provenance" });
    };
    let (claim, builder) = provenance::bundled(bytes, roots, digest).map_err(|e| match e {
        BundledError::Sigstore(source) => PackageError::Sigstore { file: bundled.clone(), source },
        BundledError::Provenance(e) => problem(&bundled, e),
    })?;
    // What was read as JSON is text.
    let text = String::from_utf8_lossy(bytes).into_owned();
    Ok((SignedProvenance::Bundle(text), builder, claim.into()))
}
