//! SBOMs: made from a `Cargo.lock` ([`cyclonedx`]), and read in every form that providers send ([`read`]).
//!
//! | form | versions |
//! |---|---|
//! | CycloneDX JSON | 1.5, 1.6, 1.7 |
//! | SPDX JSON and tag-value | 2.3 |
//! | SPDX JSON-LD | 3.0.1 |
//!
//! All become one model: components with version, package URL, licences and digests, and whether the seven elements
//! that NTIA calls minimal ("The Minimum Elements For a Software Bill of Materials", 2021-07-12) are there. What an
//! incomplete SBOM or a licence means is for the policy contract to say: [`SbomSummary`] is what it is told.
//!
//! Never: resolves a reference outside of the document, or takes a digest for a name. Other encodings of the same
//! standards (XML, RDF, YAML) are refused by name. Tests: beside each module, `tests/sbom_tools.rs` with documents that
//! the standards' own libraries write.

mod cdx;
mod lock;
mod spdx2;
mod spdx3;
mod tagvalue;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trust::Digest;

pub use cdx::SPEC_VERSIONS;
pub use lock::cyclonedx;

/// Largest SBOM or lock file, bytes.
pub const MAX_BYTES: usize = 32 << 20;
/// Most components: a whole distribution has 60,000 packages.
pub const MAX_COMPONENTS: usize = 100_000;
/// Most findings that a summary lists; the rest is counted.
pub const MAX_MISSING: usize = 20;

/// What is wrong with an SBOM or a lock file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SbomError {
    /// Not a lock file, or too large.
    #[error("not a Cargo.lock: {0}")]
    Lock(String),
    /// The root package, or a dependency of one, is not in the lock file.
    #[error("the Cargo.lock has no package `{0}`")]
    NoPackage(String),
    /// Not an SBOM of a form and version that is read.
    #[error(
        "not an SBOM that is read here (CycloneDX 1.5 to 1.7 JSON, SPDX 2.3 JSON or tag-value, SPDX 3.0.1 JSON): {0}"
    )]
    Format(String),
    /// It describes something else.
    #[error("it does not name the image by its digest {0}")]
    OtherImage(Digest),
    /// It lists nothing, or too much.
    #[error("{0}")]
    Components(String),
}

/// The standard and version of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Format {
    /// CycloneDX 1.5 JSON.
    #[serde(rename = "CycloneDX 1.5")]
    CycloneDx15,
    /// CycloneDX 1.6 JSON.
    #[serde(rename = "CycloneDX 1.6")]
    CycloneDx16,
    /// CycloneDX 1.7 JSON.
    #[serde(rename = "CycloneDX 1.7")]
    CycloneDx17,
    /// SPDX 2.3, JSON or tag-value.
    #[serde(rename = "SPDX 2.3")]
    Spdx23,
    /// SPDX 3.0.1 JSON-LD.
    #[serde(rename = "SPDX 3.0.1")]
    Spdx301,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// A component as policies look at it: names for people, digests and package URL for comparing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentRef {
    /// Its name.
    pub name: String,
    /// Its version, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Package URL, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purl: Option<String>,
    /// SPDX licence identifiers or expressions, as they were written; empty: the document asserts none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub licences: BTreeSet<String>,
    /// Digests, `sha256:<lower-case hex>`, `sha512:…`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub digests: BTreeSet<String>,
}

impl ComponentRef {
    /// A digest that names the component wherever it is listed: of its package URL, or else of name and version.
    /// Deny-lists can hold it for what has no digest of its own.
    #[must_use]
    pub fn id(&self) -> Digest {
        match &self.purl {
            Some(purl) => Digest::of_parts([b"purl".as_slice(), purl.as_bytes()]),
            None => Digest::of_parts([b"name".as_slice(), self.name.as_bytes(), self.version.as_bytes()]),
        }
    }
}

/// What a policy is told about an image's SBOM. Same document, same summary: everything in it is sorted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SbomSummary {
    /// The document's standard and version.
    pub format: Format,
    /// Whether all of NTIA's minimum elements are there, for every component.
    pub complete: bool,
    /// What is not there, at most [`MAX_MISSING`] findings and a count of the rest; empty if complete.
    pub missing: Vec<String>,
    /// Every licence identifier named anywhere, expressions taken apart. `MIT OR GPL-3.0-only` names both.
    pub licences: BTreeSet<String>,
    /// The components, without the image itself.
    pub components: Vec<ComponentRef>,
}

/// An SBOM of any form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sbom {
    /// Its standard and version.
    pub format: Format,
    /// Whether it says who made it.
    pub author: bool,
    /// Whether it says when it was made.
    pub timestamp: bool,
    /// What the document says it is about, and every component.
    pub components: Vec<Component>,
    /// Whether it says how components depend on each other.
    pub relations: bool,
}

/// A component with what completeness asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Component {
    /// What policies see.
    pub about: ComponentRef,
    /// Whether it has a supplier, manufacturer, publisher or author.
    pub supplier: bool,
    /// Whether it has an identifier besides its name: package URL, CPE, SWID, …
    pub identifier: bool,
    /// Whether the document says that it is its subject, or it is a plain file: neither is a dependency.
    pub subject: bool,
}

impl Component {
    fn has(&self, image: &str) -> bool {
        self.about.digests.contains(image)
    }
}

impl Sbom {
    /// Whether it names that image by its SHA-256.
    #[must_use]
    pub fn describes(&self, image: &Digest) -> bool {
        let image = image.to_string();
        self.components.iter().any(|c| c.has(&image))
    }

    /// What it says about the image with that digest.
    pub fn summary(&self, image: &Digest) -> Result<SbomSummary, SbomError> {
        if !self.describes(image) {
            return Err(SbomError::OtherImage(*image));
        }
        let of_image = image.to_string();
        let parts = || self.components.iter().filter(|c| !c.subject && !c.has(&of_image));
        if parts().next().is_none() {
            return Err(SbomError::Components("it lists no component".into()));
        }
        let missing = self.missing(parts());
        let components: BTreeSet<ComponentRef> = parts().map(|c| c.about.clone()).collect();
        let all = self.components.iter().flat_map(|c| &c.about.licences);
        Ok(SbomSummary {
            format: self.format,
            complete: missing.is_empty(),
            missing,
            licences: all.flat_map(|l| identifiers(l)).map(str::to_owned).collect(),
            components: components.into_iter().collect(),
        })
    }

    fn missing<'a>(&'a self, parts: impl Iterator<Item = &'a Component>) -> Vec<String> {
        let document = [
            (self.author, "the author of the SBOM"),
            (self.timestamp, "the time at which the SBOM was made"),
            (self.relations, "the dependency relationships"),
        ];
        let mut out: Vec<String> =
            document.iter().filter(|(there, _)| !there).map(|(_, what)| (*what).to_owned()).collect();
        for part in parts {
            let about = &part.about;
            let elements = [
                (!about.name.is_empty(), "a name"),
                (!about.version.is_empty(), "a version"),
                (part.supplier, "a supplier"),
                (part.identifier, "a unique identifier (purl, CPE)"),
            ];
            let gaps: Vec<&str> =
                elements.iter().filter(|(there, _)| !there).map(|(_, what)| *what).collect();
            if !gaps.is_empty() {
                out.push(format!("component `{}` has not {}", about.name, gaps.join(", ")));
            }
        }
        let more = out.len().saturating_sub(MAX_MISSING);
        if more > 0 {
            out.truncate(MAX_MISSING);
            out.push(format!("and {more} findings more"));
        }
        out
    }
}

/// The licence identifiers of an SPDX expression (Annex D of SPDX 2.3); exceptions (`WITH …`) are not licences.
fn identifiers(expression: &str) -> impl Iterator<Item = &str> {
    let mut exception = false;
    expression.split(|c: char| c.is_whitespace() || c == '(' || c == ')').filter(move |word| {
        let skip = std::mem::replace(&mut exception, *word == "WITH");
        !skip && !matches!(*word, "" | "AND" | "OR" | "WITH" | "NOASSERTION" | "NONE")
    })
}

/// A digest as `sha256:…`; algorithm names of CycloneDX (`SHA-256`) and SPDX (`SHA256`, `sha256`).
fn digest(algorithm: &str, value: &str) -> Option<String> {
    let hex =
        value.len() >= 32 && value.len().is_multiple_of(2) && value.bytes().all(|b| b.is_ascii_hexdigit());
    let name = algorithm.to_ascii_lowercase().replace(['-', '_'], "");
    hex.then(|| format!("{name}:{}", value.to_ascii_lowercase()))
}

/// Licence fields say `NOASSERTION` or `NONE` where they say nothing.
fn asserted(licence: &str) -> Option<String> {
    let text = licence.trim();
    (!text.is_empty() && text != "NOASSERTION" && text != "NONE").then(|| text.to_owned())
}

/// Reads an SBOM of any of the forms.
pub fn read(bytes: &[u8]) -> Result<Sbom, SbomError> {
    if bytes.len() > MAX_BYTES {
        return Err(SbomError::Format(format!("{} bytes; at most {MAX_BYTES} are read", bytes.len())));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| SbomError::Format("it is not UTF-8 text".into()))?;
    let start = text.trim_start_matches('\u{feff}').trim_start();
    let sbom = match start.as_bytes().first() {
        Some(b'{') => json(start)?,
        Some(b'<') => return Err(SbomError::Format("it is XML: convert it to JSON".into())),
        _ if start.contains("SPDXVersion:") => tagvalue::read(start)?,
        _ if start.contains("spdxVersion:") => {
            return Err(SbomError::Format("it is YAML: convert it to JSON".into()));
        }
        _ => return Err(SbomError::Format("neither JSON nor SPDX tag-value".into())),
    };
    match sbom.components.len() {
        0..=MAX_COMPONENTS => Ok(sbom),
        n => Err(SbomError::Components(format!("it lists {n} components; at most {MAX_COMPONENTS}"))),
    }
}

/// Which JSON it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    bom_format: Option<String>,
    spec_version: Option<String>,
    spdx_version: Option<String>,
    #[serde(rename = "@graph")]
    graph: Option<serde::de::IgnoredAny>,
}

fn json(text: &str) -> Result<Sbom, SbomError> {
    let head: Head = parse(text)?;
    match head {
        Head { bom_format: Some(format), spec_version, .. } if format == "CycloneDX" => {
            cdx::read(text, spec_version.as_deref().unwrap_or_default())
        }
        Head { spdx_version: Some(version), .. } => spdx2::read(text, &version),
        Head { graph: Some(_), .. } => spdx3::read(text),
        _ => Err(SbomError::Format("JSON without bomFormat, spdxVersion or @graph".into())),
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, SbomError> {
    serde_json::from_str(text).map_err(|e| SbomError::Format(e.to_string()))
}

/// What an SBOM says about the image with that digest. `bytes`: a document of any form.
pub fn summary(bytes: &[u8], image: &Digest) -> Result<SbomSummary, SbomError> {
    read(bytes)?.summary(image)
}

/// Checks that an SBOM of any form describes the image with that digest and lists components.
pub fn check(bytes: &[u8], image: &Digest) -> Result<(), SbomError> {
    summary(bytes, image).map(|_| ())
}

/// Digests by algorithm, as the readers collect them.
fn digests<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeSet<String> {
    pairs.into_iter().filter_map(|(algorithm, value)| digest(algorithm, value)).collect()
}

/// Components by the document's own id for them, in the order of the document.
#[derive(Default)]
struct Index {
    at: BTreeMap<String, usize>,
    list: Vec<Component>,
}

impl Index {
    fn push(&mut self, id: &str, component: Component) {
        self.at.entry(id.to_owned()).or_insert(self.list.len());
        self.list.push(component);
    }

    fn get(&mut self, id: &str) -> Option<&mut Component> {
        self.at.get(id).and_then(|i| self.list.get_mut(*i))
    }
}
