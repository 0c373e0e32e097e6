//! SPDX 2.3 tag-value: <https://spdx.github.io/spdx-spec/v2.3/conformance/>: `Tag: value` lines, `<text>` over several.

use super::{
    Sbom, SbomError,
    spdx2::{self, Checksum, Document, ExternalRef, File, Package, Relationship},
};

/// Where the next tags belong.
enum Place {
    Document,
    Package,
    File,
    /// Snippets, annotations, other licences: nothing that is looked at.
    Other,
}

pub(super) fn read(text: &str) -> Result<Sbom, SbomError> {
    let mut reader = Reader { document: Document::default(), place: Place::Document, version: None };
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((tag, value)) = line.split_once(':') else {
            return Err(SbomError::Format(format!("a tag-value line without a tag: `{}`", shown(line))));
        };
        let value = value.trim();
        match value.strip_prefix("<text>") {
            Some(start) if !start.contains("</text>") => skip_text(&mut lines)?,
            Some(start) => reader.tag(tag, start.trim_end_matches("</text>").trim()),
            None => reader.tag(tag, value),
        }
    }
    spdx2::check_version(reader.version.as_deref().unwrap_or("without a version"))?;
    Ok(spdx2::sbom(&reader.document))
}

fn shown(line: &str) -> String {
    line.chars().take(60).collect()
}

/// Texts of more than one line are comments, licences and notices.
fn skip_text<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Result<(), SbomError> {
    match lines.find(|l| l.contains("</text>")) {
        Some(_) => Ok(()),
        None => Err(SbomError::Format("a <text> that does not end".into())),
    }
}

struct Reader {
    document: Document,
    place: Place,
    version: Option<String>,
}

impl Reader {
    fn tag(&mut self, tag: &str, value: &str) {
        let text = value.to_owned();
        match tag {
            "SPDXVersion" => self.version = Some(text),
            "Creator" => self.document.creation_info.creators.push(text),
            "Created" => self.document.creation_info.created = text,
            "PackageName" => {
                self.document.packages.push(Package { name: text, ..Package::default() });
                self.place = Place::Package;
            }
            "FileName" => {
                self.document.files.push(File { file_name: text, ..File::default() });
                self.place = Place::File;
            }
            "SnippetSPDXID" | "LicenseID" | "Annotator" => self.place = Place::Other,
            "Relationship" => self.relationship(value),
            _ => self.inner(tag, text),
        }
    }

    fn relationship(&mut self, value: &str) {
        let mut words = value.split_whitespace();
        if let (Some(a), Some(kind), Some(b)) = (words.next(), words.next(), words.next()) {
            self.document.relationships.push(Relationship {
                spdx_element_id: a.to_owned(),
                related_spdx_element: b.to_owned(),
                relationship_type: kind.to_owned(),
            });
        }
    }

    fn inner(&mut self, tag: &str, text: String) {
        match self.place {
            Place::Package => {
                if let Some(p) = self.document.packages.last_mut() {
                    package(p, tag, text);
                }
            }
            Place::File => {
                if let Some(f) = self.document.files.last_mut() {
                    match tag {
                        "SPDXID" => f.id = text,
                        "FileChecksum" => f.checksums.extend(checksum(&text)),
                        "LicenseConcluded" => f.license_concluded = text,
                        _ => {}
                    }
                }
            }
            Place::Document | Place::Other => {}
        }
    }
}

fn package(p: &mut Package, tag: &str, text: String) {
    match tag {
        "SPDXID" => p.id = text,
        "PackageVersion" => p.version_info = text,
        "PackageSupplier" => p.supplier = text,
        "PackageOriginator" => p.originator = text,
        "PackageChecksum" => p.checksums.extend(checksum(&text)),
        "PackageLicenseConcluded" => p.license_concluded = text,
        "PackageLicenseDeclared" => p.license_declared = text,
        "ExternalRef" => p.external_refs.extend(external(&text)),
        _ => {}
    }
}

fn checksum(text: &str) -> Option<Checksum> {
    let (algorithm, value) = text.split_once(':')?;
    Some(Checksum { algorithm: algorithm.trim().to_owned(), checksum_value: value.trim().to_owned() })
}

/// `PACKAGE-MANAGER purl pkg:…`.
fn external(text: &str) -> Option<ExternalRef> {
    let mut words = text.split_whitespace().skip(1);
    let (kind, locator) = (words.next()?, words.next()?);
    Some(ExternalRef { reference_type: kind.to_owned(), reference_locator: locator.to_owned() })
}
