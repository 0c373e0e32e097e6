//! Why a package is not accepted: which file, what was expected and found, and what to do.

use trust::{dsse::DsseError, identity::IdentityError};

use crate::{
    diagnostic::Diagnostic, layout::LayoutError, parse::Dialect, sigstore::SigstoreError, sol004::Sol004Error,
};

/// Why a package is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// Not a package of a format that is read here.
    #[error("not an OSM package: it is {found}; {hint}")]
    Format {
        /// What it seems to be.
        found: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Beyond a bound.
    #[error(
        "the package has {found} {what}; at most {limit} are accepted: remove what does not belong in it"
    )]
    TooLarge {
        /// What there is too much of, with its unit.
        what: &'static str,
        /// How much of it, at least.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// The bytes do not decompress or are no tar archive.
    #[error("the archive is damaged: {reason}; fetch or pack it again")]
    Damaged {
        /// What the reader said.
        reason: String,
    },
    /// An entry that no package needs, or that names a file in two ways.
    #[error("`{path}`: {problem}; {hint}")]
    Entry {
        /// The entry's path, as far as it can be shown.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The descriptor has errors, or describes what is not deployed here.
    #[error("`{file}`: {}", summary(.diagnostics))]
    Descriptor {
        /// Path of the descriptor.
        file: String,
        /// What it is written in, if anything gave that away.
        dialect: Option<Dialect>,
        /// Its text, which the findings point into.
        text: String,
        /// All findings.
        diagnostics: Vec<Diagnostic>,
    },
    /// A file that must be there is not.
    #[error("`{file}` is missing; {hint}")]
    Missing {
        /// Its path.
        file: String,
        /// What to do.
        hint: &'static str,
    },
    /// A file that the signature does not name.
    #[error(
        "`{file}` is not covered by the signature; remove it, or have the provider sign the package again"
    )]
    Uncovered {
        /// Its path.
        file: String,
    },
    /// Two statements about the same thing differ.
    #[error("`{file}`: {what} is {found}, expected {expected}; {hint}")]
    Mismatch {
        /// The file in question.
        file: String,
        /// What was compared.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// An envelope that does not verify.
    #[error("`{file}`: the signature is not accepted; ask the signer, or check the trust roots")]
    Signature {
        /// Path of the envelope.
        file: String,
        /// Why.
        #[source]
        source: DsseError,
    },
    /// An SBOM or a provenance statement that does not say what it must.
    #[error("`{file}`: {problem}; make it again from the build")]
    Evidence {
        /// Its path.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A SOL004 package that is not accepted.
    #[error(transparent)]
    Sol004(#[from] Sol004Error),
    /// A Sigstore bundle that is not accepted.
    #[error("`{file}`: the Sigstore bundle is not accepted")]
    Sigstore {
        /// Its path.
        file: String,
        /// Why.
        #[source]
        source: SigstoreError,
    },
    /// An in-toto layout that is not accepted, or not kept to.
    #[error("`{file}`: the in-toto layout is not fulfilled")]
    Layout {
        /// Its path.
        file: String,
        /// Why.
        #[source]
        source: LayoutError,
    },
    /// The signer's own certificate cannot be read.
    #[error("the signing identity is not usable")]
    Signer {
        /// Why.
        #[source]
        source: IdentityError,
    },
}

impl PackageError {
    /// A stable name of the kind of error, for scripts and reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Format { .. } => "package-format",
            Self::TooLarge { .. } => "package-too-large",
            Self::Damaged { .. } => "package-damaged",
            Self::Entry { .. } => "package-entry",
            Self::Descriptor { .. } => "package-descriptor",
            Self::Missing { .. } => "package-file-missing",
            Self::Uncovered { .. } => "package-file-uncovered",
            Self::Mismatch { .. } => "package-mismatch",
            Self::Signature { .. } => "package-signature",
            Self::Evidence { .. } => "package-evidence",
            Self::Sol004(e) => e.code(),
            Self::Sigstore { source, .. } => source.code(),
            Self::Layout { source, .. } => source.code(),
            Self::Signer { .. } => "package-signer",
        }
    }
}

/// The first finding that prevents deployment, and how many there are.
fn summary(diagnostics: &[Diagnostic]) -> String {
    let errors = || diagnostics.iter().filter(|d| d.prevents_deployment());
    let first = errors().next().map_or_else(String::new, ToString::to_string);
    match errors().count() {
        0 | 1 => first,
        n => format!("{n} errors, the first: {first}"),
    }
}
