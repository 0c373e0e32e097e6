//! From YAML text to the typed model, with every finding.
//!
//! Three passes over one tree: is it a descriptor that is read here at all ([`Dialect`]), does it keep to the schema
//! ([`crate::schema`]), does it mean something that can be deployed. A value comes out only if none of them found
//! something that prevents it. What OSM refuses is an error; what OSM lets through wrongly is an error when it could
//! not mean what it says and a warning otherwise; what OSM deploys and Mandate does not (KNFs, physical and nested
//! functions) is a warning, and no value. Golden findings: `tests/golden/`.

use std::collections::{BTreeMap, HashSet};

use crate::{
    diagnostic::{Code, Diagnostic, Lint},
    model::{Nsd, Vnfd},
    nsd,
    package::Descriptor,
    references, schema, vnfd,
    yaml::{self, Entry, Mark, Node, Value, own},
};

/// What became of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed<T> {
    /// The descriptor; there is one exactly if no diagnostic prevents its deployment.
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

/// Most deployment flavours of a descriptor; OSM deploys the first one only.
const MAX_FLAVOURS: usize = 64;

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
    read(yaml, file, |root, lint| vnfd_of(root, None, lint))
}

/// Reads an NS descriptor.
#[must_use]
pub fn nsd(yaml: &str, file: &str) -> Parsed<Nsd> {
    read(yaml, file, nsd_of)
}

/// What a document is written in, by what gives it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// A VNF descriptor of SOL006.
    #[serde(rename = "sol006-vnfd")]
    Vnfd,
    /// An NS descriptor of SOL006.
    #[serde(rename = "sol006-nsd")]
    Nsd,
    /// A VNF descriptor whose deployment units are Helm charts or Juju bundles.
    #[serde(rename = "sol006-knf")]
    Knf,
    /// A VNF descriptor of OSM Release 8 and older.
    #[serde(rename = "pre-sol006-vnfd")]
    PreSol006Vnfd,
    /// An NS descriptor of OSM Release 8 and older.
    #[serde(rename = "pre-sol006-nsd")]
    PreSol006Nsd,
    /// A network slice template.
    OsmNst,
    /// A TOSCA service template of SOL001.
    Sol001Tosca,
}

impl std::fmt::Display for Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        serde::Serialize::serialize(self, f)
    }
}

impl Dialect {
    /// What it is and what to do about it, if it is no SOL006.
    fn other(self) -> Option<(&'static str, &'static str)> {
        let old = "write it as SOL006, which OSM reads since Release 9";
        Some(match self {
            Self::Vnfd | Self::Nsd | Self::Knf => return None,
            Self::PreSol006Vnfd => ("a VNF descriptor of before SOL006 (OSM Release 8 and older)", old),
            Self::PreSol006Nsd => ("an NS descriptor of before SOL006 (OSM Release 8 and older)", old),
            Self::OsmNst => (
                "a network slice template (NST)",
                "slices are not read: submit its network services one by one",
            ),
            Self::Sol001Tosca => {
                ("an ETSI SOL001 TOSCA template", "SOL001 is not read: write it as SOL006 YAML")
            }
        })
    }
}

/// Keys of descriptors before SOL006 that SOL006 does not have.
const OLD_KEYS: [&str; 7] = [
    "connection-point",
    "internal-vld",
    "mgmt-interface",
    "monitoring-param",
    "constituent-vnfd",
    "vld",
    "short-name",
];

/// What the tree is written in, if anything gives it away.
fn dialect(root: &Node) -> Option<Dialect> {
    let Value::Map(entries) = &root.value else { return None };
    entries.iter().find_map(|e| {
        Some(match own(&e.key)? {
            "tosca_definitions_version" | "topology_template" | "node_templates" => Dialect::Sol001Tosca,
            "nst" => Dialect::OsmNst,
            "vnfd-catalog" => Dialect::PreSol006Vnfd,
            "nsd-catalog" => Dialect::PreSol006Nsd,
            "vnfd" if is_old(&e.value) => Dialect::PreSol006Vnfd,
            "vnfd" if e.value.get("kdu").is_some() || e.value.get("k8s-cluster").is_some() => Dialect::Knf,
            "vnfd" => Dialect::Vnfd,
            "nsd" if is_old(&e.value) => Dialect::PreSol006Nsd,
            "nsd" => Dialect::Nsd,
            _ => return None,
        })
    })
}

/// In OSM Release 8, descriptors were lists, or had other keys.
fn is_old(node: &Node) -> bool {
    let one = if let Value::Seq(items) = &node.value { items.first() } else { Some(node) };
    one.is_some_and(|d| OLD_KEYS.iter().any(|k| d.get(k).is_some()))
}

/// What became of a text that may be either descriptor.
pub(crate) struct Read {
    pub dialect: Option<Dialect>,
    /// There is one exactly if no diagnostic prevents its deployment.
    pub descriptor: Option<Descriptor>,
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads a descriptor as what it is; whatever is no NSD is best explained as a VNFD that it is not.
pub(crate) fn descriptor(text: &str, file: &str, within: Option<Within<'_>>) -> Read {
    let mut seen = None;
    let Parsed { value, diagnostics } = read(text, file, |root, lint| {
        seen = dialect(root);
        match seen {
            Some(Dialect::Nsd | Dialect::PreSol006Nsd) => nsd_of(root, lint).map(Descriptor::Nsd),
            _ => vnfd_of(root, within, lint).map(Descriptor::Vnfd),
        }
    });
    Read { dialect: seen, descriptor: value, diagnostics }
}

fn vnfd_of(root: &Node, within: Option<Within<'_>>, lint: &mut Lint) -> Option<Vnfd> {
    let (node, path) = envelope(root, Kind::Vnf, lint)?;
    schema::check(&schema::VNFD, node, &path, lint);
    references::check(&references::VNFD, node, &path, lint);
    vnfd::build(node, &path, within, lint)
}

fn nsd_of(root: &Node, lint: &mut Lint) -> Option<Nsd> {
    let (outer, path) = envelope(root, Kind::Ns, lint)?;
    schema::check(&schema::NSD, outer, &path, lint);
    let (node, path) = only_nsd(outer, &path, lint)?;
    references::check(&references::NSD, node, &path, lint);
    nsd::build(node, &path, lint)
}

fn read<T>(text: &str, file: &str, build: impl FnOnce(&Node, &mut Lint) -> Option<T>) -> Parsed<T> {
    let mut lint = Lint::new(file);
    let value = yaml::read(text, &mut lint).and_then(|root| build(&root, &mut lint));
    let value = value.filter(|_| !lint.prevents_deployment());
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
    let found = dialect(root);
    if let Some((what, hint)) = found.and_then(Dialect::other) {
        let at = entries.iter().find(|e| own(&e.key).is_some()).map_or(root.at, |e| e.at);
        lint.error(Code::Unsupported, "", at, what).hint(hint).osm();
        return None;
    }
    let Some(entry) = entries.iter().find(|e| own(&e.key) == Some(wanted)) else {
        no_descriptor(root, entries, kind, lint);
        return None;
    };
    for other in entries.iter().filter(|e| !std::ptr::eq(*e, entry)) {
        let message = format!("key `{}` beside `{}`", schema::clip(&other.key), schema::clip(&entry.key));
        lint.error(Code::UnknownKey, "", other.at, message).hint(format!("all of it belongs in `{wanted}`"));
    }
    Some((&entry.value, format!("/{wanted}")))
}

fn no_descriptor(root: &Node, entries: &[Entry], kind: Kind, lint: &mut Lint) {
    let (wanted, other, what) = match kind {
        Kind::Vnf => ("vnfd", "nsd", "an NS descriptor where a VNF descriptor belongs"),
        Kind::Ns => ("nsd", "vnfd", "a VNF descriptor where an NS descriptor belongs"),
    };
    if let Some(entry) = entries.iter().find(|e| own(&e.key) == Some(other)) {
        let hint = format!("read it as what it is, or put a `{wanted}` there");
        lint.error(Code::Unsupported, "", entry.at, what).hint(hint).osm();
        return;
    }
    let keys: Vec<&str> = entries.iter().take(5).map(|e| e.key.as_str()).collect();
    let message = format!("no descriptor: its keys are `{}`", schema::clip(&keys.join("`, `")));
    let hint = match schema::near(keys.first().copied().unwrap_or_default(), [wanted, other].into_iter()) {
        Some(name) => format!("did you mean `{name}:`?"),
        None => format!("wrap it in `{wanted}:`"),
    };
    lint.error(Code::Unsupported, "", root.at, message).hint(hint).osm();
}

/// `nsd: {nsd: [x]}` has exactly one x, as in OSM.
fn only_nsd<'a>(outer: &'a Node, path: &str, lint: &mut Lint) -> Option<(&'a Node, String)> {
    for key in ["vnfd", "pnfd"] {
        if let Some(embedded) = outer.get(key) {
            let message = format!("a {key} inside the NSD");
            let path = format!("{path}/{key}");
            lint.warning(Code::Unsupported, &path, embedded.at, message)
                .hint("upload it as a package of its own");
        }
    }
    match outer.items("nsd") {
        [one] => Some((one, format!("{path}/nsd/0"))),
        found => {
            let message =
                format!("{} descriptors in `nsd: nsd:`; it must be a list of exactly one", found.len());
            lint.error(Code::WrongType, path, outer.at, message).hint("one package, one NSD").osm();
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
            self.lint
                .error(Code::MissingMandatory, path, node.at, format!("`{key}` is missing"))
                .hint("nothing can refer to a descriptor without it");
        }
        found
    }

    /// Reports a reference to something that is not among `known`. `osm`: whether OSM finds it too.
    pub(crate) fn resolve(
        &mut self,
        what: &str,
        target: &Node,
        path: &str,
        known: &Names<'_>,
        osm: bool,
    ) -> Option<String> {
        let name = target.text()?;
        if known.contains(name) {
            return Some(name.to_owned());
        }
        let message = format!("there is no {what} `{}`", schema::clip(name));
        let hint = if self.lint.is_full() { String::new() } else { known.hint(what, name) };
        let found = self.lint.error(Code::DanglingReference, path, target.at, message).hint(hint);
        if osm {
            found.osm();
        }
        None
    }

    /// The flavours that are read: each holds a line per VDU or virtual link, so many of both would fill the memory.
    pub(crate) fn flavours<'n>(&mut self, found: &'n [Node], path: &str) -> &'n [Node] {
        let Some((kept, [beyond, ..])) = found.split_at_checked(MAX_FLAVOURS) else { return found };
        let message = format!("{} deployment flavours; at most {MAX_FLAVOURS} are read", found.len());
        self.lint
            .error(Code::YamlBounds, &format!("{path}/df/{MAX_FLAVOURS}"), beyond.at, message)
            .hint("describe another function in another descriptor");
        kept
    }

    pub(crate) fn number(&self, node: &Node, key: &str) -> Option<u32> {
        node.str(key)?.parse().ok()
    }

    pub(crate) fn ignored(&mut self, node: &Node, key: &str, path: &str, why: &str) {
        if let Some(found) = node.get(key) {
            let path = format!("{path}/{key}");
            let message = format!("`{key}` has no effect: {why}");
            self.lint
                .warning(Code::Ignored, &path, found.at, message)
                .hint("keep it if the package is for OSM too");
        }
    }

    /// Nothing that anybody could deploy.
    pub(crate) fn not_deployable(&mut self, path: &str, at: Mark, message: impl Into<String>, hint: &str) {
        self.lint.error(Code::NotDeployable, path, at, message).hint(hint);
    }

    /// Something that OSM deploys and Mandate does not.
    pub(crate) fn not_here(&mut self, path: &str, at: Mark, message: impl Into<String>, hint: &str) {
        self.lint.warning(Code::NotDeployable, path, at, message).hint(hint);
    }
}

/// The names that something may refer to.
#[derive(Default)]
pub(crate) struct Names<'a> {
    ordered: Vec<&'a str>,
    set: HashSet<&'a str>,
}

impl<'a> FromIterator<&'a str> for Names<'a> {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut it = Self::default();
        it.extend(names);
        it
    }
}

impl<'a> Extend<&'a str> for Names<'a> {
    fn extend<I: IntoIterator<Item = &'a str>>(&mut self, names: I) {
        for name in names {
            if self.set.insert(name) {
                self.ordered.push(name);
            }
        }
    }
}

impl<'a> Names<'a> {
    /// Most names that a hint lists; the message is clipped anyway.
    const LISTED: usize = 12;

    /// The `key` of each item of a list.
    pub(crate) fn of(node: &'a Node, list: &str, key: &str) -> Self {
        node.items(list).iter().filter_map(|n| n.str(key)).collect()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.set.contains(name)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ordered.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.ordered.iter().copied()
    }

    /// What to write instead of a name that is not among them.
    pub(crate) fn hint(&self, what: &str, name: &str) -> String {
        if self.ordered.is_empty() {
            return format!("define one under `{what}`");
        }
        let listed = self.ordered.iter().take(Self::LISTED).copied().collect::<Vec<_>>().join(", ");
        let all = format!("there is: {}", schema::clip(&listed));
        match schema::near(name, self.iter()) {
            Some(near) => format!("did you mean `{}`? {all}", schema::clip(near)),
            None => all,
        }
    }
}
