//! Signatures as others make them: X.509 chains, CMS and bare keys, with the algorithms that occur in the field.
//!
//! [`key`]: public keys and signature algorithms; [`chain`]: certificate chains; [`cms`]: CMS `SignedData` (RFC 5652);
//! [`tlv`]: the ASN.1 beneath. What Mandate signs itself is DSSE with P-256 only (crate `trust`); this is for packages
//! that arrive signed otherwise. Algorithms that are broken (MD5, SHA-1) or not supported are refused by name.
//!
//! Never: fetches a certificate, asks a clock, or takes the time that a signer claims. Tests: beside each module, and
//! `sol004_tools.rs` of `descriptors` with signatures that `openssl cms` makes.

pub mod chain;
pub mod cms;
pub mod error;
pub mod key;
pub mod timestamp;
pub(crate) mod tlv;

pub use chain::{Anchor, Leaf, Purpose};
pub use error::PkiError;
pub use key::{Algorithm, Hash, PublicKey};
