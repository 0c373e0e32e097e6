//! From a source directory to a package: always the same bytes for the same inputs.

use std::collections::BTreeMap;

use md5::{Digest as _, Md5};
use trust::{Digest, Envelope};

use super::{CHECKSUMS, PackageError, SIGNATURE, archive};
use crate::{
    diagnostic::{Code, Diagnostic, Lint},
    dir::SourceDir,
    parse::Files,
    vnfd::PLACEHOLDER,
    yaml::Mark,
};

/// What a build adds to a package's source.
#[derive(Debug, Clone, Default)]
pub struct PackInputs {
    /// By file name: `mandate-dataplane` becomes `images/mandate-dataplane`.
    pub images: BTreeMap<String, ImageInput>,
}

/// An image and the evidence about it.
#[derive(Debug, Clone)]
pub struct ImageInput {
    /// The image itself.
    pub bytes: Vec<u8>,
    /// Its CycloneDX SBOM ([`crate::sbom`]).
    pub sbom: Vec<u8>,
    /// Its SLSA provenance, signed by the builder ([`crate::provenance`]).
    pub provenance: Envelope,
}

/// Where the SBOM of an image is.
#[must_use]
pub fn sbom_path(image: &str) -> String {
    format!("sbom/{}.cdx.json", base(image))
}

/// Where the provenance of an image is.
#[must_use]
pub fn provenance_path(image: &str) -> String {
    format!("provenance/{}.slsa.dsse.json", base(image))
}

fn base(image: &str) -> &str {
    image.rsplit('/').next().unwrap_or(image)
}

/// Packs a source directory with its images. In the descriptor, `@sha256:images/NAME@` stands for the image's SHA-256
/// (a placeholder, not an edit of the YAML: the provider sees where the digest goes, and every other byte stays).
/// The result is opened once before it is returned: what `pack` makes, [`super::open`] accepts.
pub fn pack(source: &SourceDir, inputs: &PackInputs) -> Result<Vec<u8>, PackageError> {
    let mut files = source.files.clone();
    // A source that was unpacked from a package: what `pack` writes is written anew.
    files.remove(SIGNATURE);
    files.remove(CHECKSUMS);
    for (name, image) in &inputs.images {
        files.insert(format!("images/{name}"), image.bytes.clone());
        files.insert(sbom_path(name), image.sbom.clone());
        files.insert(provenance_path(name), image.provenance.to_json());
    }
    let descriptor = archive::descriptor_path(&files)?;
    let filled = fill_placeholders(&descriptor, &files)?;
    files.insert(descriptor, filled);
    let sums = sums(&source.name, &files);
    files.insert(CHECKSUMS.into(), sums.into_bytes());
    let bytes = archive::write(&source.name, &files)?;
    super::open(&bytes)?;
    Ok(bytes)
}

fn fill_placeholders(descriptor: &str, files: &Files) -> Result<Vec<u8>, PackageError> {
    let mut text = files.get(descriptor).cloned().unwrap_or_default();
    for (path, bytes) in files.iter().filter(|(p, _)| p.starts_with("images/")) {
        let placeholder = format!("{}{path}{}", PLACEHOLDER.0, PLACEHOLDER.1);
        text = replace(&text, placeholder.as_bytes(), Digest::of(bytes).hex().as_bytes());
    }
    if let Some(at) = find(&text, PLACEHOLDER.0.as_bytes()) {
        let rest = String::from_utf8_lossy(&text[at + PLACEHOLDER.0.len()..]).into_owned();
        let end = rest.find(['@', '\n', '\'', '"']).unwrap_or(rest.len());
        let hint = "the descriptor refers to its digest: give the image to `pack`";
        return Err(PackageError::Missing { file: rest[..end].to_owned(), hint });
    }
    Ok(text)
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).position(|w| w == pattern)
}

fn replace(text: &[u8], pattern: &[u8], with: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find(rest, pattern) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(with);
        rest = &rest[at + pattern.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// OSM's format: MD5, tab, path with the package's directory. MD5 protects nothing; the signature does.
fn sums(name: &str, files: &Files) -> String {
    let line = |(path, bytes): (&String, &Vec<u8>)| format!("{}\t{name}/{path}\n", md5(bytes));
    files.iter().filter(|(p, _)| *p != CHECKSUMS && *p != SIGNATURE).map(line).collect()
}

fn md5(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

/// What `checksums.txt` says and is not so. OSM never looks, so these are warnings; [`super::verify`] refuses them.
pub(crate) fn check_sums(name: &str, files: &Files) -> Vec<Diagnostic> {
    let mut lint = Lint::new(CHECKSUMS);
    let place = format!("{CHECKSUMS}#");
    let text = files.get(CHECKSUMS).map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default();
    for (line, n) in text.lines().zip(1u32..) {
        let mut words = line.split_whitespace();
        let (Some(sum), Some(path)) = (words.next(), words.next()) else { continue };
        let inside = path.strip_prefix(name).and_then(|p| p.strip_prefix('/')).unwrap_or(path);
        let at = Mark { line: n, column: 1 };
        match files.get(inside) {
            None => lint
                .warning(Code::File, &place, at, format!("`{inside}` is not in the package"))
                .hint("pack it again"),
            Some(bytes) if md5(bytes) != sum.to_ascii_lowercase() => {
                let message = format!("`{inside}` has MD5 {}, not {sum}", md5(bytes));
                lint.warning(Code::File, &place, at, message)
                    .hint("the file was changed after packing: pack again")
            }
            Some(_) => continue,
        };
    }
    lint.finish()
}
