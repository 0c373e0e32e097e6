//! SPDX 3.0.1 JSON-LD: <https://spdx.github.io/spdx-spec/v3.0.1/serializations/>.
//!
//! Read by the names of the standard's own context; a document with another context would mean other things by the
//! same words, and is refused.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::{Component, ComponentRef, Format, Index, Sbom, SbomError, asserted, digest, parse};

const CONTEXT: &str = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld";

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "@context")]
    context: Value,
    #[serde(rename = "@graph")]
    graph: Vec<Value>,
}

pub(super) fn read(text: &str) -> Result<Sbom, SbomError> {
    let document: Document = parse(text)?;
    let contexts: Vec<&Value> = match &document.context {
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    };
    if !contexts.iter().all(|c| c.as_str() == Some(CONTEXT)) {
        return Err(SbomError::Format(format!("its @context is not {CONTEXT}")));
    }
    let mut graph = Graph::default();
    document.graph.iter().for_each(|e| graph.element(e));
    if !graph.version {
        return Err(SbomError::Format("no CreationInfo of specVersion 3.0.1".into()));
    }
    Ok(graph.finish())
}

#[derive(Default)]
struct Graph {
    index: Index,
    licences: BTreeMap<String, String>,
    related: Vec<(String, String, Vec<String>)>,
    version: bool,
    author: bool,
    timestamp: bool,
    subjects: BTreeSet<String>,
}

fn field<'a>(element: &'a Value, name: &str) -> &'a str {
    element.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(element: &'a Value, name: &str) -> Vec<&'a Value> {
    match element.get(name) {
        Some(Value::Array(items)) => items.iter().collect(),
        Some(Value::Null) | None => Vec::new(),
        Some(one) => vec![one],
    }
}

fn texts(element: &Value, name: &str) -> Vec<String> {
    list(element, name).into_iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn id(element: &Value) -> &str {
    let id = field(element, "spdxId");
    if id.is_empty() { field(element, "@id") } else { id }
}

impl Graph {
    fn element(&mut self, e: &Value) {
        let kind = if field(e, "type").is_empty() { field(e, "@type") } else { field(e, "type") };
        match kind {
            "CreationInfo" => self.creation(e),
            "software_Package" => self.index.push(id(e), package(e)),
            "software_File" => self.index.push(id(e), file(e)),
            "SpdxDocument" | "software_Sbom" | "Bom" => self.subjects.extend(texts(e, "rootElement")),
            "Relationship" | "LifecycleScopedRelationship" => {
                let kind = field(e, "relationshipType").to_owned();
                self.related.push((field(e, "from").to_owned(), kind, texts(e, "to")));
            }
            "simplelicensing_LicenseExpression" => {
                let text = field(e, "simplelicensing_licenseExpression").to_owned();
                self.licences.insert(id(e).to_owned(), text);
            }
            "expandedlicensing_ListedLicense" | "expandedlicensing_CustomLicense" => {
                self.licences.insert(id(e).to_owned(), listed(id(e)));
            }
            _ => {}
        }
    }

    fn creation(&mut self, e: &Value) {
        self.version |= field(e, "specVersion") == "3.0.1";
        self.author |= !list(e, "createdBy").is_empty();
        self.timestamp |= !field(e, "created").is_empty();
    }

    fn finish(mut self) -> Sbom {
        let mut relations = false;
        for (from, kind, to) in std::mem::take(&mut self.related) {
            match kind.as_str() {
                "hasDeclaredLicense" | "hasConcludedLicense" => self.licensed(&from, &to),
                "describes" => self.subjects.extend(to),
                _ => relations = true,
            }
        }
        for id in &self.subjects {
            if let Some(it) = self.index.get(id) {
                it.subject = true;
            }
        }
        let Self { author, timestamp, .. } = self;
        Sbom { format: Format::Spdx301, author, timestamp, components: self.index.list, relations }
    }

    fn licensed(&mut self, from: &str, to: &[String]) {
        for licence in to {
            let text = self.licences.get(licence).cloned().unwrap_or_else(|| listed(licence));
            if let (Some(text), Some(it)) = (asserted(&text), self.index.get(from)) {
                it.about.licences.insert(text);
            }
        }
    }
}

/// The identifier of a listed licence is the end of its IRI; the individuals `expandedlicensing_…` say nothing.
fn listed(iri: &str) -> String {
    match iri
        .strip_prefix("https://spdx.org/licenses/")
        .or_else(|| iri.strip_prefix("http://spdx.org/licenses/"))
    {
        Some(name) => name.to_owned(),
        None if iri.contains("NoAssertionLicense") || iri.contains("NoneLicense") => String::new(),
        None => iri.to_owned(),
    }
}

fn digests(e: &Value) -> BTreeSet<String> {
    let hashes = list(e, "verifiedUsing");
    hashes.into_iter().filter_map(|h| digest(field(h, "algorithm"), field(h, "hashValue"))).collect()
}

fn package(e: &Value) -> Component {
    let identifiers = list(e, "externalIdentifier");
    let external = identifiers.iter().find(|i| field(i, "externalIdentifierType") == "packageUrl");
    let direct = Some(field(e, "software_packageUrl")).filter(|p| !p.is_empty());
    let purl = direct.or(external.map(|i| field(i, "identifier"))).map(str::to_owned);
    Component {
        supplier: !list(e, "suppliedBy").is_empty() || !list(e, "originatedBy").is_empty(),
        identifier: purl.is_some() || !identifiers.is_empty(),
        about: ComponentRef {
            name: field(e, "name").to_owned(),
            version: field(e, "software_packageVersion").to_owned(),
            purl,
            licences: BTreeSet::new(),
            digests: digests(e),
        },
        subject: false,
    }
}

fn file(e: &Value) -> Component {
    let about =
        ComponentRef { name: field(e, "name").to_owned(), digests: digests(e), ..ComponentRef::default() };
    Component { about, supplier: false, identifier: false, subject: true }
}
