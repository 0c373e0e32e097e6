//! A CSAR: its files, its manifest, and which of them is the descriptor.

use std::collections::BTreeSet;

use super::{
    Sol004Error,
    manifest::{Manifest, Source},
    meta::{self, Meta},
};
use crate::{package::PackageError, parse::Files};

/// Directories under which SOL004 packages keep what OSM packages have at their top.
const WRAPPERS: [&str; 3] = ["Files/", "Scripts/", "Artifacts/"];
/// What OSM packages have at their top.
const OSM_DIRECTORIES: [&str; 4] = ["images/", "cloud_init/", "sbom/", "provenance/"];

/// A CSAR that is whole: every file that the manifest names is there, with the digest that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csar {
    /// Name of its directory, or of its manifest.
    pub name: String,
    /// The manifest.
    pub manifest: Manifest,
    /// Where it is.
    pub manifest_path: String,
    /// Where the descriptor is.
    pub descriptor_path: String,
    /// Where `TOSCA.meta` says the signer's certificate is.
    pub certificate_path: Option<String>,
    files: Files,
}

impl Csar {
    pub(super) fn read(files: Files) -> Result<Self, PackageError> {
        let (directory, files) = without_directory(files);
        let meta = files.get(meta::PATH).map(|b| Meta::read(b)).transpose()?;
        if let Some(meta) = &meta {
            check_entries(meta, &files)?;
        }
        let (manifest_path, manifest) = find_manifest(meta.as_ref(), &files)?;
        let descriptor_path = find_descriptor(meta.as_ref(), &files)?;
        let stem = manifest_path.rsplit('/').next().and_then(|n| n.strip_suffix(".mf")).unwrap_or("package");
        let certificate_path =
            meta.as_ref().and_then(|m| m.entry("ETSI-Entry-Certificate")).map(|(_, p)| p.to_owned());
        let it = Self {
            name: directory.unwrap_or_else(|| stem.to_owned()),
            manifest,
            manifest_path,
            descriptor_path,
            certificate_path,
            files,
        };
        it.check_digests()?;
        Ok(it)
    }

    /// The bytes of a file, by its path in the CSAR.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(Vec::as_slice)
    }

    /// Paths of all files.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    fn check_digests(&self) -> Result<(), Sol004Error> {
        for (path, source) in &self.manifest.sources {
            let by = || self.manifest_path.clone();
            let missing = || Sol004Error::FileMissing { file: path.clone(), by: by(), line: source.line };
            let bytes = self.file(path).ok_or_else(missing)?;
            for named in [&source.signature, &source.certificate].into_iter().flatten() {
                if self.file(named).is_none() {
                    return Err(Sol004Error::FileMissing {
                        file: named.clone(),
                        by: by(),
                        line: source.line,
                    });
                }
            }
            let Some((hash, expected, line)) = &source.hash else { continue };
            let found = hex::encode(hash.digest(bytes));
            if found != *expected {
                let (file, expected) = (path.clone(), expected.clone());
                return Err(Sol004Error::HashMismatch { file, by: by(), line: *line, expected, found });
            }
        }
        Ok(())
    }

    /// Every file but those that cannot be in the manifest has a digest there: the manifest itself, certificates of
    /// its signature, and signatures of single files.
    pub(super) fn check_covered(&self, certificates: &BTreeSet<String>) -> Result<(), Sol004Error> {
        let named = |s: &Source| s.signature.iter().chain(&s.certificate).cloned().collect::<Vec<_>>();
        let apart: BTreeSet<String> = self.manifest.sources.values().flat_map(named).collect();
        let covered = |path: &str| self.manifest.sources.get(path).is_some_and(|s| s.hash.is_some());
        let open = self.paths().find(|path| {
            *path != self.manifest_path
                && !covered(path)
                && !certificates.contains(*path)
                && !apart.contains(*path)
        });
        match open {
            Some(file) => {
                Err(Sol004Error::FileUnlisted { file: file.to_owned(), by: self.manifest_path.clone() })
            }
            None => Ok(()),
        }
    }

    /// The files as an OSM package has them: `Files/images/x` is `images/x`. Two files that would meet are refused.
    pub fn into_files(self) -> Result<Files, PackageError> {
        let mut out = Files::new();
        for (path, bytes) in self.files {
            let short = WRAPPERS.iter().find_map(|w| path.strip_prefix(w));
            let path = match short.filter(|s| OSM_DIRECTORIES.iter().any(|d| s.starts_with(d))) {
                Some(short) => short.to_owned(),
                None => path,
            };
            if out.contains_key(&path) {
                return Err(Sol004Error::Duplicate { entry: path }.into());
            }
            out.insert(path, bytes);
        }
        Ok(out)
    }
}

/// Zipped from outside, everything is in one directory.
fn without_directory(files: Files) -> (Option<String>, Files) {
    let top = |path: &String| path.split_once('/').map(|(top, _)| top.to_owned());
    let tops: BTreeSet<Option<String>> = files.keys().map(top).collect();
    let mut tops = tops.into_iter();
    match (tops.next(), tops.next()) {
        (Some(Some(directory)), None) if directory != "TOSCA-Metadata" => {
            let cut = directory.len() + 1;
            let files = files.into_iter().map(|(path, bytes)| (path[cut..].to_owned(), bytes)).collect();
            (Some(directory), files)
        }
        _ => (None, files),
    }
}

/// Every entry of `TOSCA.meta` is a file or a directory of the package.
fn check_entries(meta: &Meta, files: &Files) -> Result<(), Sol004Error> {
    for (_, line, path) in meta.entries() {
        let directory = format!("{}/", path.trim_end_matches('/'));
        let there =
            path.is_empty() || files.contains_key(path) || files.keys().any(|f| f.starts_with(&directory));
        if !there {
            return Err(Sol004Error::FileMissing { file: path.to_owned(), by: meta::PATH.into(), line });
        }
    }
    Ok(())
}

fn find_manifest(meta: Option<&Meta>, files: &Files) -> Result<(String, Manifest), Sol004Error> {
    let none = |why: &str| Sol004Error::NoManifest { why: why.to_owned() };
    let path = match meta.and_then(|m| m.entry("ETSI-Entry-Manifest")) {
        Some((_, path)) => path.to_owned(),
        None => {
            let mut at_root = files.keys().filter(|p| !p.contains('/') && p.ends_with(".mf"));
            let first = at_root.next().ok_or_else(|| none("there is no `.mf` file at the root"))?;
            if at_root.next().is_some() {
                return Err(none("there is more than one `.mf` file at the root"));
            }
            first.clone()
        }
    };
    let bytes = files.get(&path).ok_or_else(|| none(&format!("`{path}` is not a file")))?;
    let manifest = Manifest::read(bytes, &path)?;
    Ok((path, manifest))
}

fn find_descriptor(meta: Option<&Meta>, files: &Files) -> Result<String, Sol004Error> {
    let none = |why: String| Sol004Error::NoDescriptor { why };
    if let Some(meta) = meta {
        let (_, path) = meta
            .entry("Entry-Definitions")
            .ok_or_else(|| none("TOSCA.meta has no Entry-Definitions".into()))?;
        if !is_yaml(path) {
            return Err(none(format!("Entry-Definitions is `{path}`, which is not YAML")));
        }
        return Ok(path.to_owned());
    }
    let mut at_root = files.keys().filter(|p| !p.contains('/') && is_yaml(p));
    let first = at_root.next().ok_or_else(|| none("there is no YAML file at the root".into()))?;
    match at_root.next() {
        None => Ok(first.clone()),
        Some(other) => Err(none(format!("`{first}` and `{other}` are both at the root"))),
    }
}

fn is_yaml(path: &str) -> bool {
    let extension = std::path::Path::new(path).extension().and_then(|e| e.to_str());
    matches!(extension, Some("yaml" | "yml"))
}
