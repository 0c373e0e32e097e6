//! Which keys and values a descriptor may have: the tables in `schema/`, walked along the YAML tree.
//!
//! The tables hold every node of SOL006 v2.6.1 and OSM's augments. What they say that OSM enforces (unknown keys,
//! list keys, duplicates, most types) is an error; what only YANG says (`mandatory`) is a warning.

use std::{cmp::Ordering, collections::HashMap, net::IpAddr, sync::LazyLock};

use crate::{
    diagnostic::{Code, Lint},
    yaml::{Entry, Mark, Node, Value, foreign, local, own},
};

/// The VNFD's nodes.
pub(crate) static VNFD: LazyLock<Item> = LazyLock::new(|| table(include_str!("../schema/vnfd.tsv")));
/// The NSD's nodes; `nsd` is a container with the list `nsd` in it.
pub(crate) static NSD: LazyLock<Item> = LazyLock::new(|| table(include_str!("../schema/nsd.tsv")));

#[derive(Debug)]
pub(crate) struct Item {
    name: &'static str,
    kind: Kind,
    mandatory: bool,
    children: Vec<Item>,
}

#[derive(Debug)]
enum Kind {
    Container,
    List(Vec<&'static str>),
    Leaf(Type),
    LeafList(Type),
}

#[derive(Debug, Clone, Copy)]
enum Type {
    Text,
    Boolean,
    Whole { min: u64, max: u64 },
    Decimal { max: Option<u32> },
    OneOf(&'static str),
    Ip,
}

/// The root of a table. A line that is no node is left out; a test sees that there is none.
fn table(text: &'static str) -> Item {
    let mut lines = text.lines().filter(|l| !l.starts_with('#')).peekable();
    let mut root = Item { name: "", kind: Kind::Container, mandatory: false, children: Vec::new() };
    children(&mut lines, 0, &mut root.children);
    root.children.pop().unwrap_or(root)
}

fn depth(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn children<I>(lines: &mut std::iter::Peekable<I>, at: usize, into: &mut Vec<Item>)
where
    I: Iterator<Item = &'static str>,
{
    while let Some(line) = lines.next_if(|l| depth(l) == at) {
        let Some(mut item) = item(line.trim_start_matches(' ')) else { continue };
        children(lines, at + 1, &mut item.children);
        into.push(item);
    }
}

fn item(line: &'static str) -> Option<Item> {
    let mut columns = line.split('\t');
    let (name, kind, rest) = (columns.next()?, columns.next()?, columns.next().unwrap_or(""));
    let kind = match kind {
        "container" => Kind::Container,
        "list" => Kind::List(rest.split(' ').collect()),
        "leaf" => Kind::Leaf(leaf_type(rest)?),
        "leaf-list" => Kind::LeafList(leaf_type(rest)?),
        _ => return None,
    };
    let mandatory = name.ends_with('!');
    Some(Item { name: name.trim_end_matches('!'), kind, mandatory, children: Vec::new() })
}

fn leaf_type(text: &'static str) -> Option<Type> {
    let (name, range) = text.split_once(' ').unwrap_or((text, ""));
    let (low, high) = range.split_once("..").unwrap_or(("0", "max"));
    let whole = |max| Some(Type::Whole { min: low.parse().ok()?, max: high.parse().unwrap_or(max) });
    match name {
        // An identity may come from any module, so its names are open.
        "string" | "identity" => Some(Type::Text),
        "boolean" => Some(Type::Boolean),
        "uint8" => whole(u8::MAX.into()),
        "uint16" => whole(u16::MAX.into()),
        "uint32" => whole(u32::MAX.into()),
        "uint64" => whole(u64::MAX),
        "decimal" => Some(Type::Decimal { max: high.split('.').next()?.parse().ok() }),
        "ip" => Some(Type::Ip),
        _ => name.strip_prefix("enum:").map(Type::OneOf),
    }
}

/// Checks `node` against the schema node of that name, and everything below it.
pub(crate) fn check(item: &Item, node: &Node, path: &str, lint: &mut Lint) {
    match (&item.kind, &node.value) {
        (Kind::Container, Value::Map(entries)) => mapping(item, entries, node.at, path, lint),
        (Kind::List(keys), Value::Seq(items)) => list(item, keys, items, path, lint),
        (Kind::LeafList(kind), Value::Seq(items)) => {
            leaves(*kind, items, path, lint);
        }
        (Kind::Leaf(kind), Value::Text(_)) => leaf(*kind, node, path, lint),
        (_, Value::Null) => {}
        (kind, _) => wrong_type(item.name, kind, node, path, lint),
    }
}

fn leaves(kind: Type, items: &[Node], path: &str, lint: &mut Lint) {
    let mut seen: HashMap<&str, Mark> = HashMap::new();
    for (i, node) in items.iter().enumerate() {
        let path = format!("{path}/{i}");
        if node.is_null() {
            lint.error(Code::WrongType, &path, node.at, "null where a value belongs")
                .hint("remove the line")
                .osm();
        }
        leaf(kind, node, &path, lint);
        let Some(text) = node.text() else { continue };
        match seen.get(text) {
            Some(first) => {
                let message = format!("`{}` again; line {} has it already", clip(text), first.line);
                lint.error(Code::Duplicate, &path, node.at, message).hint("remove one").osm();
            }
            None => {
                seen.insert(text, node.at);
            }
        }
    }
}

fn wrong_type(name: &str, kind: &Kind, node: &Node, path: &str, lint: &mut Lint) {
    let expected = match kind {
        Kind::Container => "a mapping",
        Kind::List(_) => "a list of mappings (lines that start with `- `)",
        Kind::Leaf(_) => "a single value",
        Kind::LeafList(_) => "a list of values (lines that start with `- `)",
    };
    let found =
        lint.error(Code::WrongType, path, node.at, format!("{} where {expected} belongs", node.kind()));
    found.hint(match (kind, &node.value) {
        (Kind::List(_) | Kind::LeafList(_), _) => "a single one is a list too: put `- ` before it",
        (_, Value::Seq(_)) => "keep one of the list, without its `- `",
        _ => "check the indentation of the lines below it",
    });
    // OSM turns a list into its text where a string belongs, and reads a text as a list of letters; but where it looks
    // that text up, it stumbles over it.
    let lenient =
        matches!((kind, &node.value), (Kind::Leaf(Type::Text), Value::Seq(_)) | (Kind::LeafList(_), _));
    if !lenient || matches!(name, "virtual-compute-desc" | "helm-chart") {
        found.osm();
    }
}

fn mapping(item: &Item, entries: &[Entry], at: Mark, path: &str, lint: &mut Lint) {
    for entry in entries {
        if let Some(module) = foreign(&entry.key) {
            augment(item, entry, module, path, lint);
            continue;
        }
        match item.child(&entry.key) {
            Some(child) => check(child, &entry.value, &format!("{path}/{}", child.name), lint),
            None => unknown(item, entry, path, lint),
        }
    }
    for child in item.children.iter().filter(|c| c.mandatory) {
        let given = |e: &Entry| own(&e.key).is_some_and(|name| name == child.name) && !e.value.is_null();
        if !entries.iter().any(given) {
            let message = format!("`{}` is missing; SOL006 calls it mandatory", child.name);
            lint.warning(Code::MissingMandatory, path, at, message).hint(format!("add `{}`", child.name));
        }
    }
}

/// Another vendor's augment is its reader's business (RFC 7950, 7.17): kept as it is, never mistaken for ours.
fn augment(item: &Item, entry: &Entry, module: &str, path: &str, lint: &mut Lint) {
    let message = format!("`{}` is of the module `{}`: kept, not read", clip(&entry.key), clip(module));
    let hint = match item.child(&entry.key) {
        Some(ours) => format!("OSM ignores the module and reads it as `{}`", ours.name),
        None => "OSM refuses it: leave it out of a package for OSM".to_owned(),
    };
    let path = format!("{path}/{}", pointer(&entry.key));
    lint.warning(Code::ForeignAugment, &path, entry.at, message).hint(hint);
}

/// A key as a component of a JSON pointer (RFC 6901), short enough for a line.
pub(crate) fn pointer(key: &str) -> String {
    clip(key).replace('~', "~0").replace('/', "~1")
}

fn list(item: &Item, keys: &[&str], items: &[Node], path: &str, lint: &mut Lint) {
    let mut seen: HashMap<Vec<&str>, Mark> = HashMap::new();
    for (i, node) in items.iter().enumerate() {
        let path = format!("{path}/{i}");
        let Value::Map(entries) = &node.value else {
            let message = format!("{} where an item of `{}` (a mapping) belongs", node.kind(), item.name);
            let hint = "write `- key: value` lines";
            lint.error(Code::WrongType, &path, node.at, message).hint(hint).osm();
            continue;
        };
        mapping(item, entries, node.at, &path, lint);
        let values: Vec<&str> = keys.iter().filter_map(|k| node.str(k)).collect();
        if values.len() < keys.len() {
            missing_keys(item, keys, node, &path, lint);
        } else if let Some(first) = seen.get(&values) {
            let message =
                format!("`{}` again; line {} has it already", clip(&values.join("` `")), first.line);
            repeated_item(item, keys, &path, node.at, message, lint);
        } else {
            seen.insert(values, node.at);
        }
    }
}

/// OSM looks at ids and names only; a link that is given twice is one link with all its connection points.
fn repeated_item(item: &Item, keys: &[&str], path: &str, at: Mark, message: String, lint: &mut Lint) {
    if item.name == "virtual-link-connectivity" {
        lint.warning(Code::Duplicate, path, at, message).hint("list all its connection points in one item");
        return;
    }
    let found = lint.error(Code::Duplicate, path, at, message);
    found.hint("give one of them another name, or remove it");
    if matches!(keys, ["id" | "name"]) {
        found.osm();
    }
}

fn missing_keys(item: &Item, keys: &[&str], node: &Node, path: &str, lint: &mut Lint) {
    for key in keys.iter().filter(|k| node.str(k).is_none()) {
        let message = format!("an item of `{}` without its key `{key}`", item.name);
        lint.error(Code::MissingKey, path, node.at, message).hint(format!("give it a `{key}`")).osm();
    }
}

fn unknown(item: &Item, entry: &Entry, path: &str, lint: &mut Lint) {
    let message = format!("unknown key `{}`", clip(&entry.key));
    let hint = if lint.is_full() { None } else { suggestion(item, &entry.key) };
    let path = format!("{path}/{}", pointer(&entry.key));
    let found = lint.error(Code::UnknownKey, &path, entry.at, message).osm();
    found.hint(hint.unwrap_or_else(|| "neither SOL006 nor OSM has it here: remove it".into()));
}

/// Most keys a hint lists.
const MAX_LISTED: usize = 10;
/// Most names that a misspelt one is compared with.
const MAX_COMPARED: usize = 1000;
/// Longest key for which a near one is looked up: the search is quadratic in it.
const MAX_SUGGESTED_FOR: usize = 64;

fn suggestion(item: &Item, key: &str) -> Option<String> {
    if key.len() > MAX_SUGGESTED_FOR {
        return None;
    }
    let near = item.children.iter().map(|c| (strsim::osa_distance(key, c.name), c.name)).min();
    if let Some((distance, name)) = near
        && distance <= 2.max(key.len() / 3)
    {
        return Some(format!("did you mean `{name}`?"));
    }
    let mut homes = Vec::new();
    VNFD.homes(key, "", &mut homes);
    NSD.homes(key, "", &mut homes);
    if let Some(home) = homes.first() {
        return Some(format!("it belongs in {home}"));
    }
    let names: Vec<&str> = item.children.iter().map(|c| c.name).collect();
    (names.len() <= MAX_LISTED).then(|| format!("here can be: {}", names.join(", ")))
}

impl Item {
    /// The child of that name, with or without a YANG module prefix.
    pub(crate) fn child(&self, key: &str) -> Option<&Item> {
        self.children.iter().find(|c| c.name == key).or_else(|| {
            let name = local(key);
            self.children.iter().find(|c| c.name == name)
        })
    }

    fn homes(&self, key: &str, path: &str, out: &mut Vec<String>) {
        let path = format!("{path}/{}", self.name);
        if self.children.iter().any(|c| c.name == key) {
            out.push(path.clone());
        }
        for child in &self.children {
            child.homes(key, &path, out);
        }
    }
}

fn leaf(kind: Type, node: &Node, path: &str, lint: &mut Lint) {
    let text = match &node.value {
        Value::Null => return,
        Value::Text(text) => text.as_str(),
        _ => {
            let message = format!("{} where a single value belongs", node.kind());
            lint.error(Code::WrongType, path, node.at, message).hint("write one value").osm();
            return;
        }
    };
    if let Err(expected) = kind.accepts(text) {
        let found = lint.error(Code::BadValue, path, node.at, format!("`{}` is not {expected}", clip(text)));
        found.hint(match kind {
            Type::OneOf(names) => one_of(text, names),
            _ => format!("write {expected}"),
        });
        found.osm();
    }
}

fn one_of(text: &str, names: &str) -> String {
    let all = format!("one of: {}", names.replace('|', ", "));
    match near(text, names.split('|')) {
        Some(name) => format!("did you mean `{name}`? {all}"),
        None => all,
    }
}

/// The name that was probably meant.
pub(crate) fn near<'k>(text: &str, names: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if text.len() > MAX_SUGGESTED_FOR {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let distance = |n: &str| strsim::osa_distance(&lower, &n.to_ascii_lowercase());
    let names = names.filter(|n| n.len() <= MAX_SUGGESTED_FOR).take(MAX_COMPARED);
    let (found, name) = names.map(|n| (distance(n), n)).min()?;
    (found <= 1.max(text.chars().count() / 3)).then_some(name)
}

/// A value short enough for a message.
pub(crate) fn clip(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return text.escape_debug().to_string();
    }
    format!("{}…", text.chars().take(MOST).collect::<String>().escape_debug())
}

impl Type {
    fn accepts(self, text: &str) -> Result<(), String> {
        let good = match self {
            Self::Text => true,
            Self::Boolean => boolean(text).is_some(),
            Self::Whole { min, max } => text.parse::<u64>().is_ok_and(|n| (min..=max).contains(&n)),
            Self::Decimal { max } => {
                thousandths(text).is_some_and(|n| max.is_none_or(|m| n <= u64::from(m) * 1000))
            }
            Self::OneOf(names) => names.split('|').any(|n| n == text),
            Self::Ip => text.parse::<IpAddr>().is_ok(),
        };
        if good { Ok(()) } else { Err(self.expected()) }
    }

    fn expected(self) -> String {
        match self {
            Self::Text => "a text".into(),
            Self::Boolean => "true or false".into(),
            Self::Whole { min, max } => match max.cmp(&u64::MAX) {
                Ordering::Less => format!("a whole number from {min} to {max}"),
                _ => format!("a whole number of at least {min}"),
            },
            Self::Decimal { max: None } => "a decimal number of at least 0".into(),
            Self::Decimal { max: Some(max) } => format!("a decimal number from 0 to {max}"),
            Self::OneOf(_) => "one of the names it can have".into(),
            Self::Ip => "an IP address".into(),
        }
    }
}

/// A YAML 1.1 boolean, which is what OSM's reader (PyYAML) takes.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// A decimal number of at least 0, in thousandths, rounded up.
pub(crate) fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if !text.bytes().any(|b| b.is_ascii_digit()) || !digits(whole) || !digits(fraction) || text.len() > 30 {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let kept = format!("{fraction:0<3}");
    let (first, rest) = kept.split_at(3);
    let up = u64::from(rest.bytes().any(|b| b != b'0'));
    whole.checked_mul(1000)?.checked_add(first.parse::<u64>().ok()?)?.checked_add(up)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(item: &Item) -> usize {
        1 + item.children.iter().map(count).sum::<usize>()
    }

    #[test]
    fn every_line_of_the_tables_is_a_node() {
        for (text, root) in
            [(include_str!("../schema/vnfd.tsv"), &*VNFD), (include_str!("../schema/nsd.tsv"), &*NSD)]
        {
            assert_eq!(text.lines().filter(|l| !l.starts_with('#')).count(), count(root));
        }
    }

    #[test]
    fn decimals_round_up() {
        assert_eq!(thousandths("0.25"), Some(250));
        assert_eq!(thousandths("1"), Some(1000));
        assert_eq!(thousandths("2.0001"), Some(2001));
        assert_eq!(thousandths(".5"), Some(500));
        for bad in ["", ".", "-1", "1e3", "1.2.3", "x", "99999999999999999999"] {
            assert_eq!(thousandths(bad), None, "{bad}");
        }
    }
}
