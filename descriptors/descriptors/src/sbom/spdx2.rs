//! SPDX 2.3 JSON: <https://spdx.github.io/spdx-spec/v2.3/>.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Component, ComponentRef, Format, Index, Sbom, SbomError, asserted, digests, parse};

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Document {
    pub creation_info: CreationInfo,
    pub packages: Vec<Package>,
    pub files: Vec<File>,
    pub relationships: Vec<Relationship>,
    pub document_describes: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CreationInfo {
    pub created: String,
    pub creators: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Package {
    #[serde(rename = "SPDXID")]
    pub id: String,
    pub name: String,
    pub version_info: String,
    pub supplier: String,
    pub originator: String,
    pub checksums: Vec<Checksum>,
    pub external_refs: Vec<ExternalRef>,
    pub license_concluded: String,
    pub license_declared: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct File {
    #[serde(rename = "SPDXID")]
    pub id: String,
    pub file_name: String,
    pub checksums: Vec<Checksum>,
    pub license_concluded: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Checksum {
    pub algorithm: String,
    pub checksum_value: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ExternalRef {
    pub reference_type: String,
    pub reference_locator: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Relationship {
    pub spdx_element_id: String,
    pub related_spdx_element: String,
    pub relationship_type: String,
}

pub(super) fn read(text: &str, version: &str) -> Result<Sbom, SbomError> {
    check_version(version)?;
    Ok(sbom(&parse(text)?))
}

pub(super) fn check_version(version: &str) -> Result<(), SbomError> {
    match version {
        "SPDX-2.3" => Ok(()),
        other => Err(SbomError::Format(format!("it is {other}"))),
    }
}

pub(super) fn sbom(document: &Document) -> Sbom {
    let mut index = Index::default();
    document.packages.iter().for_each(|p| index.push(&p.id, package(p)));
    document.files.iter().for_each(|f| index.push(&f.id, file(f)));
    let described = document.document_describes.iter();
    let related = document.relationships.iter().filter_map(|r| match r.relationship_type.as_str() {
        "DESCRIBES" => Some(&r.related_spdx_element),
        "DESCRIBED_BY" => Some(&r.spdx_element_id),
        _ => None,
    });
    for id in described.chain(related) {
        if let Some(it) = index.get(id) {
            it.subject = true;
        }
    }
    Sbom {
        format: Format::Spdx23,
        author: document.creation_info.creators.iter().any(|c| !c.trim().is_empty()),
        timestamp: !document.creation_info.created.is_empty(),
        components: index.list,
        relations: document
            .relationships
            .iter()
            .any(|r| !matches!(r.relationship_type.as_str(), "DESCRIBES" | "DESCRIBED_BY")),
    }
}

fn sums(list: &[Checksum]) -> BTreeSet<String> {
    digests(list.iter().map(|c| (c.algorithm.as_str(), c.checksum_value.as_str())))
}

fn package(p: &Package) -> Component {
    let purl = p.external_refs.iter().find(|r| r.reference_type == "purl");
    let licences = [&p.license_declared, &p.license_concluded];
    Component {
        about: ComponentRef {
            name: p.name.clone(),
            version: p.version_info.clone(),
            purl: purl.map(|r| r.reference_locator.clone()),
            licences: licences.iter().filter_map(|l| asserted(l)).collect(),
            digests: sums(&p.checksums),
        },
        supplier: [&p.supplier, &p.originator].iter().any(|s| asserted(s).is_some()),
        identifier: !p.external_refs.is_empty(),
        subject: false,
    }
}

fn file(f: &File) -> Component {
    Component {
        about: ComponentRef {
            name: f.file_name.clone(),
            licences: asserted(&f.license_concluded).into_iter().collect(),
            digests: sums(&f.checksums),
            ..ComponentRef::default()
        },
        supplier: false,
        identifier: false,
        subject: true,
    }
}
