//! ETSI GS NFV-SOL 004 v3.6.1 packages (and SOL 007 archives, which are built alike): zip CSARs with a YANG-based
//! (SOL006) descriptor.
//!
//! ```text
//! with metadata                          without
//! TOSCA-Metadata/TOSCA.meta              vfw.mf         manifest: what it is, and each file's digest
//! Definitions/vfw_vnfd.yaml              vfw_vnfd.yaml  SOL006 descriptor
//! vfw.mf
//! Files/images/…, Files/sbom/…           images/…, sbom/…
//!
//! option 1: the manifest ends in a CMS signature     option 2: a zip of the CSAR, its signature and certificate
//! ```
//!
//! [`open`] reads the zip ([`zip`]), `TOSCA.meta` ([`meta`]) and the manifest ([`manifest`]) and checks every digest;
//! [`signature`] says who signed. What comes out is laid out like an OSM package ([`Csar::into_files`]), so that
//! everything behind it knows one kind of package only. SOL001 (TOSCA) descriptors are refused by name there.
//!
//! The zip that wraps a package in option 2 may also hold an OSM package, and a Sigstore bundle in place of the CMS
//! signature: that is what `cosign sign-blob --bundle` makes.
//!
//! Never: believes a size, a name or a digest before it is checked; fetches what a manifest refers to elsewhere.
//! Tests: beside each module, `tests/sol004.rs`, and `tests/sol004_tools.rs` with signatures of `openssl cms`.

mod csar;
pub mod error;
pub mod manifest;
pub mod meta;
mod outer;
pub mod signature;
mod zip;

pub use csar::Csar;
pub use error::Sol004Error;
pub use outer::{Wrapped, unwrap};

use crate::package::PackageError;

/// Whether bytes are a zip archive.
#[must_use]
pub fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

/// Opens a CSAR (the inner one in option 2): it is whole and every digest in its manifest is right.
pub fn open(bytes: &[u8]) -> Result<Csar, PackageError> {
    Csar::read(zip::read(bytes)?)
}
