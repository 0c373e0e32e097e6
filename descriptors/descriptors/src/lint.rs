//! The verdict on whatever a provider hands over: a descriptor, a source directory, a package, or something else.
//!
//! A descriptor with errors is rejected; so is everything that is no descriptor that OSM would take. Warnings do not
//! reject. What OSM deploys and Mandate does not (a KNF) is accepted with a warning that says so:
//! [`Report::is_deployable`] tells the two apart.
//!
//! Never fails and never reads anything but the bytes it is handed; what they cost is bounded by
//! [`crate::package::MAX_PACKAGE_BYTES`] and its like. Tests: `tests/lint.rs`, `tests/bounds.rs`.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use crate::{
    diagnostic::{Code, Diagnostic, Lint, has_errors},
    dir::SourceDir,
    package::{self, PackageError},
    parse::{self, Dialect, Files, Kind, Within},
    yaml::Mark,
};

pub use crate::yaml::MAX_DOCUMENT_BYTES as MAX_DESCRIPTOR_BYTES;

/// The answer about one input.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What it is written in, if anything gave that away.
    pub dialect: Option<Dialect>,
    /// In the order of the document.
    pub diagnostics: Vec<Diagnostic>,
    /// Texts that findings point into, by file name, for excerpts.
    pub sources: BTreeMap<String, String>,
}

impl Report {
    /// No errors.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        !has_errors(&self.diagnostics)
    }

    /// Nothing keeps Mandate from deploying it.
    #[must_use]
    pub fn is_deployable(&self) -> bool {
        !self.diagnostics.iter().any(Diagnostic::prevents_deployment)
    }

    /// `accept` or `reject`.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        if self.is_accepted() { "accept" } else { "reject" }
    }
}

/// `{"verdict":"accept|reject","dialect","diagnostics":[{"severity","code","path","line","column","message","hint"}…]}`.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut it = to.serialize_struct("Report", 3)?;
        it.serialize_field("verdict", self.verdict())?;
        it.serialize_field("dialect", &self.dialect)?;
        it.serialize_field("diagnostics", &self.diagnostics)?;
        it.end()
    }
}

/// Whether bytes begin as a package does: gzip or zip.
#[must_use]
pub fn is_package(start: &[u8]) -> bool {
    matches!(start, [0x1f, 0x8b, ..] | [b'P', b'K', ..])
}

/// A package, or a descriptor by itself. `beside`: the files that stand beside a descriptor, by path from its
/// directory; without them, what it says of files is not looked at.
#[must_use]
pub fn bytes(bytes: &[u8], name: &str, beside: Option<&Files>) -> Report {
    if is_package(bytes) {
        return of_package(bytes, name);
    }
    descriptor(bytes, name, beside.map(|files| Within { files, images: false }))
}

/// A package's source: what [`package::open`] would find in it, before images and evidence are put in.
#[must_use]
pub fn source(source: &SourceDir) -> Report {
    let found = package::descriptor_path(&source.files);
    let Ok(path) = found else {
        return found.map_or_else(|e| refused(&source.name, &e), |_| Report::default());
    };
    let bytes = source.files.get(&path).map(Vec::as_slice).unwrap_or_default();
    descriptor(bytes, &path, Some(Within { files: &source.files, images: false }))
}

/// What cannot be a package or a package's source at all.
#[must_use]
pub fn unacceptable(name: &str, problem: &str) -> Report {
    // Errors of packages and directories end in what to do.
    let (message, hint) = match problem.rsplit_once("; ").or_else(|| problem.rsplit_once(": ")) {
        Some((message, hint)) if !hint.is_empty() => (message, hint),
        _ => (problem, "get it again from its provider"),
    };
    let mut lint = Lint::new(name);
    lint.error(Code::Archive, "", Mark::START, message).hint(hint).osm();
    Report { diagnostics: lint.finish(), ..Report::default() }
}

fn refused(name: &str, e: &PackageError) -> Report {
    unacceptable(name, &e.to_string())
}

fn of_package(bytes: &[u8], name: &str) -> Report {
    match package::open(bytes) {
        Ok(it) => {
            let dialect = if it.kind == Kind::Vnf { Dialect::Vnfd } else { Dialect::Nsd };
            let text = it.file(&it.descriptor_path).map(String::from_utf8_lossy).unwrap_or_default();
            let sources = BTreeMap::from([(it.descriptor_path.clone(), text.into_owned())]);
            Report { dialect: Some(dialect), diagnostics: it.diagnostics, sources }
        }
        Err(PackageError::Descriptor { file, dialect, text, diagnostics }) => {
            Report { dialect, diagnostics, sources: BTreeMap::from([(file, text)]) }
        }
        Err(e) => refused(name, &e),
    }
}

fn descriptor(bytes: &[u8], name: &str, within: Option<Within<'_>>) -> Report {
    if bytes.len() > MAX_DESCRIPTOR_BYTES {
        let mut lint = Lint::new(name);
        let message = format!("more than {MAX_DESCRIPTOR_BYTES} bytes: too large for a descriptor");
        lint.error(Code::YamlBounds, "", Mark::START, message).hint("is it the right file?");
        return Report { diagnostics: lint.finish(), ..Report::default() };
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => return not_text(bytes, e.valid_up_to(), name),
    };
    let read = parse::descriptor(text, name, within);
    let sources = BTreeMap::from([(name.to_owned(), text.to_owned())]);
    Report { dialect: read.dialect, diagnostics: read.diagnostics, sources }
}

/// Points at the first byte that is no UTF-8.
fn not_text(bytes: &[u8], valid: usize, name: &str) -> Report {
    let mut lint = Lint::new(name);
    let before = bytes.get(..valid).map(String::from_utf8_lossy).unwrap_or_default();
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let line = narrow(before.matches('\n').count() + 1);
    let column = narrow(before.rsplit('\n').next().unwrap_or_default().chars().count() + 1);
    let byte = bytes.get(valid).copied().unwrap_or_default();
    let message = format!("the byte 0x{byte:02x} is not UTF-8 text");
    lint.error(Code::YamlSyntax, "", Mark { line, column }, message)
        .hint("save the descriptor as UTF-8; a package is a tar.gz")
        .osm();
    let sources = BTreeMap::from([(name.to_owned(), String::from_utf8_lossy(bytes).into_owned())]);
    Report { dialect: None, diagnostics: lint.finish(), sources }
}
