//! CycloneDX JSON: <https://cyclonedx.org/docs/1.7/json/>.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::{Component as Part, ComponentRef, Format, Sbom, SbomError, asserted, digests, parse};

/// Versions that are read.
pub const SPEC_VERSIONS: [&str; 3] = ["1.5", "1.6", "1.7"];

#[derive(Deserialize)]
struct Bom {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    components: Vec<Component>,
    #[serde(default)]
    dependencies: Vec<Value>,
    #[serde(default)]
    compositions: Vec<Value>,
}

#[derive(Deserialize, Default)]
struct Metadata {
    timestamp: Option<String>,
    component: Option<Component>,
    #[serde(default)]
    authors: Vec<Value>,
    manufacturer: Option<Value>,
    /// Its name in 1.5.
    manufacture: Option<Value>,
    supplier: Option<Value>,
    tools: Option<Value>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    name: String,
    version: Option<String>,
    supplier: Option<Value>,
    manufacturer: Option<Value>,
    publisher: Option<String>,
    author: Option<String>,
    #[serde(default)]
    authors: Vec<Value>,
    #[serde(default)]
    hashes: Vec<Hash>,
    #[serde(default)]
    licenses: Vec<Licence>,
    purl: Option<String>,
    cpe: Option<String>,
    swid: Option<Value>,
    #[serde(rename = "omniborId", default)]
    omnibor: Vec<String>,
    #[serde(default)]
    swhid: Vec<String>,
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Hash {
    alg: String,
    content: String,
}

#[derive(Deserialize)]
struct Licence {
    license: Option<Named>,
    expression: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    id: Option<String>,
    name: Option<String>,
}

impl Licence {
    fn text(&self) -> Option<String> {
        let named = self.license.as_ref().and_then(|l| l.id.as_ref().or(l.name.as_ref()));
        self.expression.as_ref().or(named).and_then(|t| asserted(t))
    }
}

pub(super) fn read(text: &str, version: &str) -> Result<Sbom, SbomError> {
    let format = match version {
        "1.5" => Format::CycloneDx15,
        "1.6" => Format::CycloneDx16,
        "1.7" => Format::CycloneDx17,
        other => return Err(SbomError::Format(format!("it is CycloneDX {other}"))),
    };
    let bom: Bom = parse(text)?;
    let about = &bom.metadata;
    let author = !about.authors.is_empty()
        || [&about.manufacturer, &about.manufacture, &about.supplier, &about.tools]
            .iter()
            .any(|v| v.is_some());
    let mut components = Vec::new();
    if let Some(subject) = &about.component {
        collect(subject, true, &mut components);
    }
    bom.components.iter().for_each(|c| collect(c, false, &mut components));
    Ok(Sbom {
        format,
        author,
        timestamp: about.timestamp.is_some(),
        components,
        relations: !bom.dependencies.is_empty() || !bom.compositions.is_empty(),
    })
}

/// A component and what it is made of. The depth is bounded by the JSON reader's.
fn collect(component: &Component, subject: bool, out: &mut Vec<Part>) {
    let c = component;
    let licences: BTreeSet<String> = c.licenses.iter().filter_map(Licence::text).collect();
    let about = ComponentRef {
        name: c.name.clone(),
        version: c.version.clone().unwrap_or_default(),
        purl: c.purl.clone(),
        licences,
        digests: digests(c.hashes.iter().map(|h| (h.alg.as_str(), h.content.as_str()))),
    };
    let supplier = c.supplier.is_some()
        || c.manufacturer.is_some()
        || c.publisher.is_some()
        || c.author.is_some()
        || !c.authors.is_empty();
    let identifier = c.purl.is_some()
        || c.cpe.is_some()
        || c.swid.is_some()
        || !c.omnibor.is_empty()
        || !c.swhid.is_empty();
    // A file is a part of what lists it, not something that is supplied.
    let subject = subject || c.kind == "file";
    out.push(Part { about, supplier, identifier, subject });
    c.components.iter().for_each(|inner| collect(inner, false, out));
}
