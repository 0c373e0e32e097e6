//! Why a SOL004 package is not accepted: each refusal has its code, says where, and what to do.

use crate::pki::PkiError;

/// Why a SOL004 package is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Sol004Error {
    /// The zip archive is not what two readers would read alike.
    #[error("the zip archive{}: {why}; zip it again with a plain zip program", at(.entry))]
    Archive {
        /// The entry, or empty.
        entry: String,
        /// What is wrong.
        why: String,
    },
    /// Twice the same name in the archive.
    #[error("`{entry}` is in the zip archive twice; keep one")]
    Duplicate {
        /// Its path.
        entry: String,
    },
    /// `TOSCA.meta` cannot be understood.
    #[error("`TOSCA-Metadata/TOSCA.meta`, line {line}: {why}; see SOL004 4.1.2")]
    Meta {
        /// Counted from 1; 0: the file as a whole.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// No manifest, or more than one.
    #[error(
        "no manifest: {why}; put one `.mf` file at the root, or name it as ETSI-Entry-Manifest in TOSCA.meta"
    )]
    NoManifest {
        /// What was found.
        why: String,
    },
    /// The manifest cannot be understood.
    #[error("`{file}`, line {line}: {why}; see SOL004 4.3.2")]
    Manifest {
        /// Its path.
        file: String,
        /// Counted from 1; 0: the file as a whole.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// The descriptor is not named, or not in a form that is read here.
    #[error("no descriptor: {why}; name the SOL006 descriptor (YAML) as Entry-Definitions in TOSCA.meta")]
    NoDescriptor {
        /// What was found.
        why: String,
    },
    /// Named, and not there.
    #[error(
        "`{file}` is named in `{by}` (line {line}) and is not in the package; add it, or take out its name"
    )]
    FileMissing {
        /// Its path.
        file: String,
        /// The file that names it.
        by: String,
        /// Where.
        line: usize,
    },
    /// There, and not in the manifest.
    #[error(
        "`{file}` is not in the manifest `{by}` with a digest; add Source, Algorithm and Hash for it, and sign again"
    )]
    FileUnlisted {
        /// Its path.
        file: String,
        /// The manifest.
        by: String,
    },
    /// Another digest than the manifest says.
    #[error(
        "`{file}` has digest {found}, the manifest says {expected} (`{by}`, line {line}); get the package from its provider again"
    )]
    HashMismatch {
        /// Its path.
        file: String,
        /// The manifest.
        by: String,
        /// Where.
        line: usize,
        /// Hex.
        expected: String,
        /// Hex.
        found: String,
    },
    /// MD5, SHA-1 or an unknown name.
    #[error(
        "digest algorithm `{algorithm}` for `{file}` is not accepted (`{by}`, line {line}); use SHA-256, SHA-384 or SHA-512"
    )]
    HashAlgorithm {
        /// Of which file.
        file: String,
        /// As it was written.
        algorithm: String,
        /// The manifest.
        by: String,
        /// Where.
        line: usize,
    },
    /// Neither option 1 nor option 2.
    #[error(
        "the package is not signed: the manifest `{manifest}` has no CMS signature (option 1) and no signature is beside the CSAR (option 2); sign it, for example with `openssl cms -sign -binary`"
    )]
    NotSigned {
        /// The manifest.
        manifest: String,
    },
    /// The zip around a CSAR holds something else as well.
    #[error(
        "`{entry}` beside the CSAR: {why}; option 2 is one CSAR, its signature (`.cms`) and its certificate (`.cert`)"
    )]
    Outer {
        /// What it is.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A signature that is not accepted.
    #[error("`{file}`: {}", .source.hint())]
    Signature {
        /// The file that holds it.
        file: String,
        /// Why.
        #[source]
        source: PkiError,
    },
    /// An artifact that somebody else signed.
    #[error("`{file}` was signed by {found}, the manifest by {expected}; ask the provider which is right")]
    OtherSigner {
        /// The artifact.
        file: String,
        /// Who signed the manifest.
        expected: String,
        /// Who signed this.
        found: String,
    },
    /// The manifest is of another package.
    #[error(
        "the manifest `{by}` says {what} {said}, the descriptor {found}; correct one of them and sign again"
    )]
    OtherProduct {
        /// The manifest.
        by: String,
        /// `vnfd_id`, …
        what: &'static str,
        /// In the manifest.
        said: String,
        /// In the descriptor.
        found: String,
    },
}

fn at(entry: &str) -> String {
    if entry.is_empty() { String::new() } else { format!(", entry `{entry}`") }
}

impl Sol004Error {
    /// A stable name of the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Archive { .. } => "SOL004_ARCHIVE",
            Self::Duplicate { .. } => "SOL004_ENTRY_DUPLICATE",
            Self::Meta { .. } => "SOL004_TOSCA_META",
            Self::NoManifest { .. } => "SOL004_MANIFEST_MISSING",
            Self::Manifest { .. } => "SOL004_MANIFEST_SYNTAX",
            Self::NoDescriptor { .. } => "SOL004_DESCRIPTOR_MISSING",
            Self::FileMissing { .. } => "SOL004_FILE_MISSING",
            Self::FileUnlisted { .. } => "SOL004_FILE_UNLISTED",
            Self::HashMismatch { .. } => "SOL004_HASH_MISMATCH",
            Self::HashAlgorithm { .. } => "SOL004_HASH_ALGORITHM",
            Self::NotSigned { .. } => "SOL004_NOT_SIGNED",
            Self::Outer { .. } => "SOL004_OUTER_ENTRY",
            Self::Signature { source, .. } => source.code(),
            Self::OtherSigner { .. } => "SOL004_OTHER_SIGNER",
            Self::OtherProduct { .. } => "SOL004_OTHER_PRODUCT",
        }
    }
}
