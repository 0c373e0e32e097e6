//! The signature of a package: an in-toto statement that names every other file and the archive's own bytes.

use serde::{Deserialize, Serialize};
use trust::{
    Digest, Signer,
    statement::{ResourceDescriptor, Statement},
};

use super::{Package, PackageError, SIGNATURE, archive};
use crate::parse::{Files, Kind};

/// `predicateType` of a package's statement.
pub const PREDICATE_TYPE: &str = "https://mandate.dev/package/v1";

/// What the signer says about the package as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackagePredicate {
    /// Name of the package's directory.
    pub name: String,
    /// `vnf` or `ns`.
    pub kind: Kind,
    /// The descriptor's id.
    pub id: String,
    /// The descriptor's version, or empty.
    pub version: String,
    /// The archive's first gzip member (everything but the signature).
    pub content: Content,
}

/// The bytes that are signed as they are: compression and tar headers leave room that no file's digest covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Length, bytes.
    pub size_bytes: u64,
    /// SHA-256.
    pub digest: Digest,
}

/// Signs a package; a signature that is there already is replaced. Refuses what [`super::open`] refuses.
pub fn sign(bytes: &[u8], signer: &Signer) -> Result<Vec<u8>, PackageError> {
    if crate::sol004::is_zip(bytes) {
        let hint = "sign its manifest (option 1) or all of it (option 2) with `openssl cms -sign -binary`";
        return Err(PackageError::Format { found: "a SOL004 package, which is signed with CMS", hint });
    }
    let package = super::open(bytes)?;
    let mut files: Files = package.contents.clone();
    files.remove(SIGNATURE);
    let content = archive::content(&package.name, &files)?;
    let statement = Statement::new(subjects(&package), PREDICATE_TYPE, predicate(&package, &content));
    let envelope = statement
        .sign(signer)
        .map_err(|source| PackageError::Signature { file: SIGNATURE.into(), source })?;
    let mut out = content;
    out.extend(archive::tail(&package.name, Some(&envelope.to_json()))?);
    Ok(out)
}

fn subjects(package: &Package) -> Vec<ResourceDescriptor> {
    let files = package.files.iter().filter(|(path, _)| *path != SIGNATURE);
    files.map(|(path, digest)| ResourceDescriptor::new(path.clone(), *digest)).collect()
}

fn predicate(package: &Package, content: &[u8]) -> PackagePredicate {
    PackagePredicate {
        name: package.name.clone(),
        kind: package.kind,
        id: package.descriptor.id().to_owned(),
        version: package.descriptor.version().to_owned(),
        content: Content { size_bytes: content.len() as u64, digest: Digest::of(content) },
    }
}
