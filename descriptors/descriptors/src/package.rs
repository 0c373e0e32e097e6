//! OSM packages: opened, packed, signed and verified.
//!
//! ```text
//! vfw_vnf/vfw_vnfd.yaml                                  the descriptor: the only YAML at this level
//! vfw_vnf/cloud_init/vfw.cfg                             day-0 files
//! vfw_vnf/images/mandate-dataplane                       images, named by their path in sw-image-desc.image
//! vfw_vnf/sbom/mandate-dataplane.cdx.json                CycloneDX, names the image by its SHA-256
//! vfw_vnf/provenance/mandate-dataplane.slsa.dsse.json    SLSA v1 in DSSE, its subject is the image
//! vfw_vnf/checksums.txt                                  MD5 and path of each file, as OSM's client writes it
//! vfw_vnf/signature/package.dsse.json                    in-toto statement over all the other files
//! ```
//!
//! Two steps of trust: [`open`] reads any OSM package within its bounds and checks that it is whole and deployable;
//! [`verify`] also demands a signature that covers every byte, an SBOM and provenance for every image.
//!
//! Never: follows a link, writes a file, or believes a size or name before it is checked. Tests: `tests/package.rs`.

mod archive;
mod error;
mod evidence;
mod pack;
mod sign;
mod verify;

use std::collections::BTreeMap;

use trust::Digest;

pub use archive::{MAX_FILES, MAX_PACKAGE_BYTES, MAX_PATH_BYTES, MAX_RATIO, MAX_UNPACKED_BYTES};
pub(crate) use archive::{RATIO_FLOOR_BYTES, components};
pub use error::PackageError;
pub use evidence::{ImageEvidence, LAYOUT, SignedProvenance};
pub use pack::{ImageInput, PackInputs, pack, provenance_path, sbom_path};
pub use sign::{PREDICATE_TYPE, PackagePredicate, sign};
pub use verify::{SignatureKind, SignedBy, VerifiedPackage, verify, verify_with_bundle};

use crate::{
    day0::{self, Day0},
    diagnostic::{Code, Diagnostic, Lint},
    model::{Nsd, Vnfd},
    parse::{self, Files, Kind, Read, Within},
    sol004,
    yaml::Mark,
};
pub(crate) use archive::descriptor_path;

/// Where the signature is.
pub const SIGNATURE: &str = "signature/package.dsse.json";
/// Where OSM's client puts the MD5 sums.
pub const CHECKSUMS: &str = "checksums.txt";

/// What a package describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Descriptor {
    /// A VNF.
    Vnfd(Vnfd),
    /// A network service.
    Nsd(Nsd),
}

impl Descriptor {
    /// The descriptor's `id`.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Vnfd(d) => &d.id,
            Self::Nsd(d) => &d.id,
        }
    }

    /// The descriptor's `version`, or empty.
    #[must_use]
    pub fn version(&self) -> &str {
        match self {
            Self::Vnfd(d) => &d.version,
            Self::Nsd(d) => &d.version,
        }
    }

    /// The VNFD, if it is one.
    #[must_use]
    pub fn vnfd(&self) -> Option<&Vnfd> {
        if let Self::Vnfd(d) = self { Some(d) } else { None }
    }

    /// The NSD, if it is one.
    #[must_use]
    pub fn nsd(&self) -> Option<&Nsd> {
        if let Self::Nsd(d) = self { Some(d) } else { None }
    }
}

/// A package that is whole: within its bounds, with a descriptor that can be deployed and the files it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name of its directory.
    pub name: String,
    /// What it is a package of.
    pub kind: Kind,
    /// SHA-256 of the package's exact bytes.
    pub digest: Digest,
    /// Path of the descriptor, inside the directory.
    pub descriptor_path: String,
    /// The descriptor.
    pub descriptor: Descriptor,
    /// SHA-256 of every file, by path inside the directory.
    pub files: BTreeMap<String, Digest>,
    /// Warnings; a package with errors is not opened.
    pub diagnostics: Vec<Diagnostic>,
    contents: Files,
    signed: bool,
}

impl Package {
    /// The bytes of a file, by path inside the directory.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.contents.get(path).map(Vec::as_slice)
    }

    /// The day-0 instructions of a VDU.
    #[must_use]
    pub fn day0(&self, vdu: &str) -> Option<Day0> {
        let text = self.descriptor.vnfd()?.vdus.get(vdu)?.day0.as_deref()?;
        // `open` has read it before: there is no error left to report.
        day0::parse(text).ok().flatten()
    }

    /// Whether it carries a signature; says nothing about it.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.signed
    }
}

/// Opens a package: OSM's (tar.gz, everything in one directory), or SOL004's (zip CSAR, with or without a zip of
/// option 2 around it).
pub fn open(bytes: &[u8]) -> Result<Package, PackageError> {
    let digest = Digest::of(bytes);
    if !sol004::is_zip(bytes) {
        return assemble(archive::read(bytes)?, digest);
    }
    match sol004::unwrap(bytes)? {
        Some(wrapped) if !sol004::is_zip(&wrapped.package) => {
            let mut it = assemble(archive::read(&wrapped.package)?, digest)?;
            it.signed |= wrapped.cms.is_some() || wrapped.bundle.is_some();
            Ok(it)
        }
        Some(wrapped) => {
            let mut it = from_csar(sol004::open(&wrapped.package)?, digest)?;
            it.signed |= wrapped.cms.is_some() || wrapped.bundle.is_some();
            Ok(it)
        }
        None => from_csar(sol004::open(bytes)?, digest),
    }
}

/// A CSAR as what every package is here.
fn from_csar(csar: sol004::Csar, digest: Digest) -> Result<Package, PackageError> {
    let (manifest, by) = (csar.manifest.clone(), csar.manifest_path.clone());
    let descriptor_path = csar.descriptor_path.clone();
    let unpacked = archive::Unpacked { name: csar.name.clone(), files: csar.into_files()? };
    let mut package = assemble_at(unpacked, digest, descriptor_path)?;
    package.signed = manifest.signed.is_some();
    for (what, found) in [("vnfd_id", package.descriptor.id()), ("nsd_id", package.descriptor.id())] {
        if let Some(said) = manifest.metadata.get(what).filter(|s| *s != found) {
            let (said, found) = (said.clone(), found.to_owned());
            return Err(sol004::Sol004Error::OtherProduct { by, what, said, found }.into());
        }
    }
    Ok(package)
}

fn assemble(unpacked: archive::Unpacked, digest: Digest) -> Result<Package, PackageError> {
    let descriptor_path = archive::descriptor_path(&unpacked.files)?;
    assemble_at(unpacked, digest, descriptor_path)
}

fn assemble_at(
    unpacked: archive::Unpacked,
    digest: Digest,
    descriptor_path: String,
) -> Result<Package, PackageError> {
    let archive::Unpacked { name, files: contents } = unpacked;
    let (descriptor, mut diagnostics) = describe(&descriptor_path, &contents)?;
    diagnostics.extend(pack::check_sums(&name, &contents));
    let files = contents.iter().map(|(path, bytes)| (path.clone(), Digest::of(bytes))).collect();
    let kind = if descriptor.vnfd().is_some() { Kind::Vnf } else { Kind::Ns };
    let signed = contents.contains_key(SIGNATURE);
    Ok(Package { name, kind, digest, descriptor_path, descriptor, files, diagnostics, contents, signed })
}

/// The descriptor with its warnings, or all its findings. The files that it names must be there.
fn describe(path: &str, files: &Files) -> Result<(Descriptor, Vec<Diagnostic>), PackageError> {
    let bytes = files.get(path).map(Vec::as_slice).unwrap_or_default();
    let refuse = |text: String, read: Read| PackageError::Descriptor {
        file: path.to_owned(),
        dialect: read.dialect,
        text,
        diagnostics: read.diagnostics,
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        let read = Read { dialect: None, descriptor: None, diagnostics: not_text(path) };
        return Err(refuse(String::from_utf8_lossy(bytes).into_owned(), read));
    };
    let read = parse::descriptor(text, path, Some(Within { files, images: true }));
    match read {
        Read { descriptor: Some(descriptor), diagnostics, .. } => Ok((descriptor, diagnostics)),
        read => Err(refuse(text.to_owned(), read)),
    }
}

fn not_text(path: &str) -> Vec<Diagnostic> {
    let mut lint = Lint::new(path);
    let hint = "save the descriptor as UTF-8";
    lint.error(Code::YamlSyntax, "", Mark::START, "it is not UTF-8 text").hint(hint).osm();
    lint.finish()
}
