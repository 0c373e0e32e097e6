//! SOL006 descriptors and OSM packages: everything a provider uploads, read once into types that cannot be wrong.
//!
//! [`mod@lint`] gives a verdict on whatever a provider hands over; [`parse`] reads VNF and NS descriptors (ETSI SOL006 v2.6.1 as OSM speaks it) and says what is wrong with line and
//! column; [`day0`] reads what a VDU's cloud-init tells our planner; [`package`] opens, packs, signs and verifies OSM
//! packages; [`sbom`] and [`provenance`] make and check the evidence that travels in them. Signatures that others make are
//! verified by the crate [`supply`].
//!
//! It never touches the network, a clock or a random source, and reads nothing but the bytes it is handed, except
//! [`dir`], which reads one package source directory. Nothing in here trusts its input: sizes, depths, counts and
//! ratios are bounded by named constants.
//!
//! Tests are beside each module and in `tests/` (golden diagnostics, packages end to end, the OSM corpus).

mod coherence;
pub mod day0;
pub mod diagnostic;
pub mod dir;
pub mod layout;
pub mod lint;
pub mod model;
mod nsd;
pub mod package;
pub mod parse;
mod platform;
mod references;
pub mod sbom;
mod schema;
pub mod sol004;
mod vnfd;
mod yaml;

pub use diagnostic::{Code, Diagnostic, Severity};
pub use lint::Report;
pub use package::{Package, PackageError, VerifiedPackage};
pub use parse::{Dialect, Parsed};
pub use supply::{pki, provenance, sigstore};
