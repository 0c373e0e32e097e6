//! Option 2: a zip of the package, its signature, and perhaps the signer's certificates.

use super::{Sol004Error, is_zip, zip};
use crate::{package::PackageError, parse::Files};

/// Most bytes of a package for each byte of the zip around it. A package is compressed itself: one that shrinks more
/// is a bomb in a bomb.
const MAX_WRAPPED_RATIO: usize = 10;
/// Below this size the ratio says nothing: small packages may be stored.
const WRAPPED_FLOOR_BYTES: usize = 256 << 10;

/// A package with a signature beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// Its name in the outer zip.
    pub name: String,
    /// The package as it was signed: a CSAR, or an OSM tar.gz.
    pub package: Vec<u8>,
    /// Name and bytes of the CMS signature (`.cms`, `.p7s`, `.p7m`).
    pub cms: Option<(String, Vec<u8>)>,
    /// Name and bytes of the Sigstore bundle (`.sigstore.json`, `.sigstore`).
    pub bundle: Option<(String, Vec<u8>)>,
    /// Certificates beside it (`.cert`, `.crt`, `.cer`, `.pem`, `.p7b`, `.p7c`), as files.
    pub certificates: Vec<(String, Vec<u8>)>,
}

#[derive(PartialEq, Eq)]
enum Role {
    Package,
    Cms,
    Bundle,
    Certificate,
}

fn role(name: &str) -> Option<Role> {
    if name.contains('/') {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    let is = |ends: &[&str]| ends.iter().any(|e| lower.ends_with(e));
    if is(&[".sigstore.json", ".sigstore"]) {
        Some(Role::Bundle)
    } else if is(&[".csar", ".zip", ".tar.gz", ".tgz"]) {
        Some(Role::Package)
    } else if is(&[".cms", ".p7s", ".p7m"]) {
        Some(Role::Cms)
    } else if is(&[".cert", ".crt", ".cer", ".pem", ".p7b", ".p7c"]) {
        Some(Role::Certificate)
    } else {
        None
    }
}

/// The package inside, if `bytes` are a zip of option 2; `None`: a CSAR itself.
pub fn unwrap(bytes: &[u8]) -> Result<Option<Wrapped>, PackageError> {
    let files = zip::read(bytes)?;
    // A CSAR has a manifest or metadata; a wrapper has a package at its top.
    let is_csar = files.keys().any(|p| p.ends_with(".mf") || p.ends_with(super::meta::PATH));
    let wraps = files.keys().any(|p| role(p) == Some(Role::Package));
    if is_csar || !wraps {
        return Ok(None);
    }
    let wrapped = sort(files)?;
    let limit = WRAPPED_FLOOR_BYTES.max(bytes.len().saturating_mul(MAX_WRAPPED_RATIO));
    if wrapped.package.len() > limit {
        let (found, limit) = (wrapped.package.len() as u64, limit as u64);
        return Err(PackageError::TooLarge { what: "bytes of a package in a zip", found, limit });
    }
    Ok(Some(wrapped))
}

fn sort(files: Files) -> Result<Wrapped, PackageError> {
    let refuse = |entry: &str, why| Err(Sol004Error::Outer { entry: entry.to_owned(), why }.into());
    let mut package = None;
    let (mut cms, mut bundle, mut certificates) = (None, None, Vec::new());
    for (name, bytes) in files {
        let again = match role(&name) {
            Some(Role::Package) => package.replace((name.clone(), bytes)).is_some(),
            Some(Role::Cms) => cms.replace((name.clone(), bytes)).is_some(),
            Some(Role::Bundle) => bundle.replace((name.clone(), bytes)).is_some(),
            Some(Role::Certificate) => {
                certificates.push((name.clone(), bytes));
                false
            }
            None => return refuse(&name, "it does not belong there"),
        };
        if again {
            return refuse(&name, "a second of its kind");
        }
    }
    let Some((name, package)) = package else { return refuse("", "there is no package") };
    if !is_zip(&package) && !package.starts_with(&[0x1f, 0x8b]) {
        return refuse(&name, "it is neither a zip nor a tar.gz");
    }
    Ok(Wrapped { name, package, cms, bundle, certificates })
}
