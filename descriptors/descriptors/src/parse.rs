//! From YAML text to the typed model, with every finding.
//!
//! Three passes over one tree: is it a descriptor that is read here at all, does it keep to the schema
//! ([`crate::schema`]), does it mean something that can be deployed. A value comes out only if none of them found an
//! error. What OSM refuses is refused; what OSM lets through wrongly is an error when it could not be deployed and a
//! warning otherwise. Golden findings: `tests/golden/`.

use std::collections::BTreeMap;

use crate::{
    diagnostic::{Code, Diagnostic, Lint},
    model::{Nsd, Vnfd},
    nsd, schema, vnfd,
    yaml::{self, Mark, Node, Value, local},
};

/// What became of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed<T> {
    /// The descriptor; there is one exactly if no diagnostic is an error.
    pub value: Option<T>,
    /// In the order of the document.
    pub diagnostics: Vec<Diagnostic>,
}

/// Which of the two descriptors a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A VNF descriptor or package.
    Vnf,
    /// An NS descriptor or package.
    Ns,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::Vnf { "vnf" } else { "ns" })
    }
}

/// Files of a package, by path inside its directory.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// The package around a descriptor.
#[derive(Clone, Copy)]
pub(crate) struct Within<'a> {
    pub files: &'a Files,
    /// Whether its images must be there already: not in a package's source.
    pub images: bool,
}

/// Reads a VNF descriptor that stands alone: `day0` of its VDUs holds inline `cloud-init` only. `file` is the name
/// that diagnostics carry.
#[must_use]
pub fn vnfd(yaml: &str, file: &str) -> Parsed<Vnfd> {
    vnfd_in(yaml, file, None)
}

/// Reads the VNF descriptor of a package: the files it names must be there.
pub(crate) fn vnfd_in(yaml: &str, file: &str, within: Option<Within<'_>>) -> Parsed<Vnfd> {
    read(yaml, file, |root, lint| {
        let (node, path) = envelope(root, Kind::Vnf, lint)?;
        schema::check(&schema::VNFD, node, &path, lint);
        vnfd::build(node, &path, within, lint)
    })
}

/// Reads an NS descriptor.
#[must_use]
pub fn nsd(yaml: &str, file: &str) -> Parsed<Nsd> {
    read(yaml, file, |root, lint| {
        let (outer, path) = envelope(root, Kind::Ns, lint)?;
        schema::check(&schema::NSD, outer, &path, lint);
        let (node, path) = only_nsd(outer, &path, lint)?;
        nsd::build(node, &path, lint)
    })
}

/// Which descriptor a text seems to be, by its outermost key.
#[must_use]
pub fn kind(yaml: &str) -> Option<Kind> {
    let root = yaml::read(yaml, &mut Lint::new(""))?;
    let Value::Map(entries) = &root.value else { return None };
    entries.iter().find_map(|e| match local(&e.key) {
        "vnfd" => Some(Kind::Vnf),
        "nsd" => Some(Kind::Ns),
        _ => None,
    })
}

fn read<T>(text: &str, file: &str, build: impl FnOnce(&Node, &mut Lint) -> Option<T>) -> Parsed<T> {
    let mut lint = Lint::new(file);
    let value = yaml::read(text, &mut lint).and_then(|root| build(&root, &mut lint));
    let value = value.filter(|_| !lint.has_errors());
    Parsed { value, diagnostics: lint.finish() }
}

/// The descriptor inside its wrapper (`vnfd:`, `vnfd:vnfd:`, `etsi-nfv-vnfd:vnfd:`, and the same for `nsd`).
fn envelope<'a>(root: &'a Node, kind: Kind, lint: &mut Lint) -> Option<(&'a Node, String)> {
    let wanted = if kind == Kind::Vnf { "vnfd" } else { "nsd" };
    let Value::Map(entries) = &root.value else {
        let message = format!("{} where a descriptor belongs", root.kind());
        lint.error(Code::WrongType, "", root.at, message)
            .hint(format!("its outermost key is `{wanted}`"))
            .osm();
        return None;
    };
    if let Some(entry) = entries.iter().find(|e| local(&e.key) == wanted) {
        for other in entries.iter().filter(|e| !std::ptr::eq(*e, entry)) {
            let message = format!("key `{}` beside `{}`", other.key, entry.key);
            lint.error(Code::UnknownKey, "", other.at, message)
                .hint(format!("all of it belongs in `{wanted}`"));
        }
        return Some((&entry.value, format!("/{wanted}")));
    }
    let (at, message, hint) = entries
        .iter()
        .find_map(|e| {
            other_dialect(local(&e.key), kind).map(|(what, hint)| (e.at, what.to_owned(), hint.to_owned()))
        })
        .unwrap_or_else(|| {
            let keys = entries.iter().take(5).map(|e| e.key.as_str()).collect::<Vec<_>>().join("`, `");
            (
                root.at,
                format!("no descriptor: its keys are `{}`", schema::clip(&keys)),
                format!("wrap it in `{wanted}:`"),
            )
        });
    lint.error(Code::Unsupported, "", at, message).hint(hint).osm();
    None
}

/// Documents that are something else, by a key that gives them away.
fn other_dialect(key: &str, kind: Kind) -> Option<(&'static str, &'static str)> {
    let sol006 = "write it as SOL006, which OSM reads since Release 9";
    Some(match key {
        "tosca_definitions_version" | "topology_template" | "node_templates" => {
            ("an ETSI SOL001 TOSCA template", "SOL001 is not read: write it as SOL006 YAML")
        }
        "vnfd-catalog" | "nsd-catalog" => ("a descriptor of before SOL006 (OSM Release 8 and older)", sol006),
        "nst" => {
            ("a network slice template (NST)", "slices are not read: submit its network services one by one")
        }
        "nsd" if kind == Kind::Vnf => {
            ("an NS descriptor where a VNF descriptor belongs", "read it as an NSD")
        }
        "vnfd" if kind == Kind::Ns => {
            ("a VNF descriptor where an NS descriptor belongs", "read it as a VNFD")
        }
        _ => return None,
    })
}

/// `nsd: {nsd: [x]}` has exactly one x, as in OSM.
fn only_nsd<'a>(outer: &'a Node, path: &str, lint: &mut Lint) -> Option<(&'a Node, String)> {
    for key in ["vnfd", "pnfd"] {
        if let Some(embedded) = outer.get(key) {
            let message = format!("a {key} inside the NSD");
            let path = format!("{path}/{key}");
            lint.error(Code::Unsupported, &path, embedded.at, message)
                .hint("upload it as a package of its own");
        }
    }
    match outer.items("nsd") {
        [one] => Some((one, format!("{path}/nsd/0"))),
        found => {
            let message =
                format!("{} descriptors in `nsd: nsd:`; it must be a list of exactly one", found.len());
            lint.error(Code::WrongType, path, outer.at, message).osm();
            None
        }
    }
}

/// What `vnfd` and `nsd` share: a node, where it is, and who hears about it.
pub(crate) struct Reader<'a> {
    pub lint: &'a mut Lint,
}

impl Reader<'_> {
    /// A text that must be there (the list keys are checked by the schema).
    pub(crate) fn required(&mut self, node: &Node, key: &str, path: &str) -> Option<String> {
        let found = node.str(key).map(str::to_owned);
        if found.is_none() {
            self.lint.error(Code::MissingMandatory, path, node.at, format!("`{key}` is missing"));
        }
        found
    }

    /// Reports a reference to something that is not among `known`. `osm`: whether OSM finds it too.
    pub(crate) fn resolve<'k>(
        &mut self,
        what: &str,
        target: &Node,
        path: &str,
        known: impl IntoIterator<Item = &'k str>,
        osm: bool,
    ) -> Option<String> {
        let name = target.text()?;
        let known: Vec<&str> = known.into_iter().collect();
        if known.contains(&name) {
            return Some(name.to_owned());
        }
        let message = format!("there is no {what} `{}`", schema::clip(name));
        let hint = if known.is_empty() {
            format!("define one under `{what}`")
        } else {
            format!("there is: {}", schema::clip(&known.join(", ")))
        };
        let found = self.lint.error(Code::DanglingReference, path, target.at, message).hint(hint);
        if osm {
            found.osm();
        }
        None
    }

    pub(crate) fn number(&self, node: &Node, key: &str) -> Option<u32> {
        node.str(key)?.parse().ok()
    }

    pub(crate) fn ignored(&mut self, node: &Node, key: &str, path: &str, why: &str) {
        if let Some(found) = node.get(key) {
            self.lint.warning(
                Code::Ignored,
                &format!("{path}/{key}"),
                found.at,
                format!("`{key}` has no effect: {why}"),
            );
        }
    }

    pub(crate) fn not_deployable(&mut self, path: &str, at: Mark, message: impl Into<String>, hint: &str) {
        self.lint.error(Code::NotDeployable, path, at, message).hint(hint);
    }
}
