//! YAML as a tree in which every node knows its line and column.
//!
//! Built from `granit-parser`'s events (the parser beneath `serde-saphyr`): typed deserialisation stops at its first
//! error and cannot name every unknown key, a provider wants all findings at once. Bounded in bytes, depth and nodes,
//! with aliases counted as what they expand to, so that a "billion laughs" document costs no more than its limit.

use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};

use crate::diagnostic::{Code, Lint};

/// Largest descriptor, bytes; the largest of the OSM corpus has 20 kB.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Deepest nesting; SOL006's own is 14. Every walk over the tree is recursive and relies on it.
pub const MAX_DEPTH: usize = 48;
/// Most nodes, after expansion of aliases; a text counts one more for each [`TEXT_PER_NODE`] bytes.
pub const MAX_NODES: usize = 100_000;
/// What the parser says when it looks ahead further than that.
const TOO_DEEP_FOR_THE_PARSER: &str = "recursion limit exceeded";
/// Bytes of text that weigh as much as a node.
const TEXT_PER_NODE: usize = 64;

/// A place in a file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub line: u32,
    pub column: u32,
}

impl Mark {
    pub(crate) const START: Self = Self { line: 1, column: 1 };

    fn of(span: Span) -> Self {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { line: narrow(span.start.line()), column: narrow(span.start.col().saturating_add(1)) }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub value: Value,
    pub at: Mark,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Text(String),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub at: Mark,
    pub value: Node,
}

impl Node {
    /// The value of a key; an explicit null is as good as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|e| own(&e.key) == Some(key)).map(|e| &e.value).filter(|n| !n.is_null())
    }

    /// The items of a list under a key; none if it is absent or no list.
    pub(crate) fn items(&self, key: &str) -> &[Node] {
        match self.get(key).map(|n| &n.value) {
            Some(Value::Seq(items)) => items,
            _ => &[],
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    /// The text under a key.
    pub(crate) fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }

    /// Equality of what is said, wherever it is said.
    fn says_the_same(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Null, Value::Null) => true,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Seq(a), Value::Seq(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.says_the_same(b))
            }
            (Value::Map(a), Value::Map(b)) => {
                let same = |(a, b): (&Entry, &Entry)| a.key == b.key && a.value.says_the_same(&b.value);
                a.len() == b.len() && a.iter().zip(b).all(same)
            }
            _ => false,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Text(_) => "a value",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// YANG modules (and their prefixes) of SOL006 v2.6.1 and of OSM's augments. A key of any other one is its vendor's.
const OWN_MODULES: [&str; 28] = [
    "vnfd",
    "nsd",
    "nst",
    "pnfd",
    "etsi-nfv-common",
    "etsi-nfv-descriptors",
    "etsi-nfv-nsd",
    "etsi-nfv-pnfd",
    "etsi-nfv-vnfd",
    "additional-info",
    "alarm",
    "alternative-images",
    "cloud-init",
    "day1-2",
    "epa",
    "exporters",
    "healing",
    "interface",
    "ip-profiles",
    "kdu",
    "kdu-migrations",
    "mgmt-interface",
    "ns-configuration",
    "ns-various",
    "ns-vld",
    "scaling",
    "various",
    "vip",
];

/// The vendor's module of a key that SOL006 and OSM do not have (`acme-nfv:turbo`).
pub(crate) fn foreign(key: &str) -> Option<&str> {
    let (modules, _) = key.rsplit_once(':')?;
    modules.split(':').any(|m| !OWN_MODULES.contains(&m)).then_some(modules)
}

/// A key's name if it is SOL006's or OSM's.
pub(crate) fn own(key: &str) -> Option<&str> {
    foreign(key).is_none().then(|| local(key))
}

/// A key without its YANG module prefix (`day1-2:day1-2`), which OSM accepts and ignores.
pub(crate) fn local(key: &str) -> &str {
    key.rsplit_once(':').map_or(key, |(_, local)| local)
}

/// The tree, or nothing and an error in `lint`.
pub(crate) fn read(text: &str, lint: &mut Lint) -> Option<Node> {
    if text.len() > MAX_DOCUMENT_BYTES {
        let what = format!("{} bytes; at most {MAX_DOCUMENT_BYTES} are read", text.len());
        lint.error(Code::YamlBounds, "", Mark::START, what);
        return None;
    }
    let mut builder = Builder::default();
    let outcome = builder.run(text);
    for (at, message) in builder.repeated {
        lint.warning(Code::YamlAmbiguous, "", at, message).hint("the values are the same: remove one");
    }
    match outcome {
        Ok(node) => Some(node),
        Err(fault) => {
            let found = lint.error(fault.code, "", fault.at, fault.message);
            found.hint(fault.hint);
            if fault.code == Code::YamlSyntax {
                found.osm();
            }
            None
        }
    }
}

struct Fault {
    code: Code,
    at: Mark,
    message: String,
    hint: &'static str,
}

fn fault<T>(code: Code, at: Mark, message: impl Into<String>, hint: &'static str) -> Result<T, Fault> {
    Err(Fault { code, at, message: message.into(), hint })
}

fn too_deep<T>(at: Mark) -> Result<T, Fault> {
    let message = format!("nested deeper than {MAX_DEPTH} levels");
    fault(Code::YamlBounds, at, message, "no descriptor needs that")
}

/// What is open: a list, or a mapping with the key whose value comes next.
enum Frame {
    Seq(Vec<Node>, Mark, usize),
    Map(Mapping, Mark, usize),
}

/// A mapping that is being read.
#[derive(Default)]
struct Mapping {
    entries: Vec<Entry>,
    /// Where each key is: a mapping of very many keys takes no longer per key than a small one.
    index: HashMap<String, usize>,
    pending: Option<(String, Mark)>,
}

impl Mapping {
    fn put(&mut self, node: Node) -> Result<Option<(Mark, String)>, Fault> {
        let Some((key, at)) = self.pending.take() else {
            self.pending = Some((key_text(&node)?, node.at));
            return Ok(None);
        };
        let entry = Entry { key, at, value: node };
        if let Some(first) = self.index.get(&entry.key).and_then(|i| self.entries.get(*i)) {
            return repeated(first, &entry).map(Some);
        }
        self.index.insert(entry.key.clone(), self.entries.len());
        self.entries.push(entry);
        Ok(None)
    }
}

struct Anchored {
    node: Node,
    nodes: usize,
    depth: usize,
}

#[derive(Default)]
struct Builder {
    stack: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    root: Option<Node>,
    documents: usize,
    /// Keys given twice with the same value.
    repeated: Vec<(Mark, String)>,
}

impl Builder {
    fn run(&mut self, text: &str) -> Result<Node, Fault> {
        let mut options = Options::default();
        options.set_emit_comments(false);
        for event in Parser::new_from_str_with_options(text, options) {
            match event {
                Ok((event, span)) => self.event(event, Mark::of(span))?,
                Err(e) => {
                    let at = Mark::of(Span::empty(*e.marker()));
                    if e.info() == TOO_DEEP_FOR_THE_PARSER {
                        return too_deep(at);
                    }
                    return fault(Code::YamlSyntax, at, e.info(), "it is not YAML from here on");
                }
            }
        }
        let empty = Node { value: Value::Null, at: Mark::START };
        Ok(self.root.take().unwrap_or(empty))
    }

    fn event(&mut self, event: Event<'_>, at: Mark) -> Result<(), Fault> {
        match event {
            Event::DocumentStart(..) => self.document(at),
            Event::Scalar(text, style, anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let value =
                    if plain && is_null(&text) { Value::Null } else { Value::Text(text.into_owned()) };
                self.place(Node { value, at }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.open(Frame::Seq(Vec::new(), at, anchor), at)
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.open(Frame::Map(Mapping::default(), at, anchor), at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => self.alias(id, at),
            _ => Ok(()),
        }
    }

    fn document(&mut self, at: Mark) -> Result<(), Fault> {
        self.documents += 1;
        if self.documents > 1 {
            return fault(Code::YamlSyntax, at, "a second YAML document", "one descriptor per file");
        }
        Ok(())
    }

    fn open(&mut self, frame: Frame, at: Mark) -> Result<(), Fault> {
        if self.stack.len() >= MAX_DEPTH {
            return too_deep(at);
        }
        self.stack.push(frame);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Fault> {
        match self.stack.pop() {
            Some(Frame::Seq(items, at, anchor)) => self.place(Node { value: Value::Seq(items), at }, anchor),
            Some(Frame::Map(map, at, anchor)) => {
                self.place(Node { value: Value::Map(map.entries), at }, anchor)
            }
            None => Ok(()),
        }
    }

    fn alias(&mut self, id: usize, at: Mark) -> Result<(), Fault> {
        let Some(target) = self.anchors.get(&id) else {
            return fault(Code::YamlSyntax, at, "an alias inside its own anchor", "write the value out");
        };
        if self.stack.len() + target.depth > MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels once its aliases are expanded");
            return fault(Code::YamlBounds, at, message, "write the values out");
        }
        // Counted before it is copied: an alias bomb is never built.
        self.count(target.nodes, at)?;
        let value = self.anchors.get(&id).map_or(Value::Null, |a| a.node.value.clone());
        self.put(Node { value, at })
    }

    fn count(&mut self, more: usize, at: Mark) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            let message = format!("more than {MAX_NODES} nodes once its aliases are expanded");
            return fault(Code::YamlBounds, at, message, "no descriptor needs that");
        }
        Ok(())
    }

    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        self.count(own_weight(&node), node.at)?;
        if anchor != 0 {
            let (nodes, depth) = size(&node);
            self.count(nodes, node.at)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, depth });
        }
        self.put(node)
    }

    fn put(&mut self, node: Node) -> Result<(), Fault> {
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::Seq(items, ..)) => items.push(node),
            Some(Frame::Map(map, ..)) => self.repeated.extend(map.put(node)?),
        }
        Ok(())
    }
}

fn key_text(node: &Node) -> Result<String, Fault> {
    match &node.value {
        Value::Text(text) if text == "<<" => {
            fault(Code::YamlAmbiguous, node.at, "a merge key", "write the merged keys out")
        }
        Value::Text(text) => Ok(text.clone()),
        Value::Null => Ok(String::new()),
        _ => fault(Code::YamlAmbiguous, node.at, "a key that is no text", "keys of descriptors are names"),
    }
}

/// A key again: harmless with the same value, refused with another.
fn repeated(first: &Entry, again: &Entry) -> Result<(Mark, String), Fault> {
    let message = format!("key `{}` again; it is already in line {}", again.key, first.at.line);
    if first.value.says_the_same(&again.value) {
        return Ok((again.at, message));
    }
    fault(Code::YamlAmbiguous, again.at, message, "readers differ on which one holds: keep one")
}

fn check_tag(tag: Option<&Tag>, at: Mark) -> Result<(), Fault> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => fault(
            Code::YamlAmbiguous,
            at,
            format!("the tag `{}`", tag.original()),
            "descriptors have no tags",
        ),
        _ => Ok(()),
    }
}

fn is_null(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

fn own_weight(node: &Node) -> usize {
    1 + node.text().map_or(0, |text| text.len() / TEXT_PER_NODE)
}

/// Weight and depth of a tree; as deep as [`MAX_DEPTH`] at most.
fn size(node: &Node) -> (usize, usize) {
    let children: Vec<&Node> = match &node.value {
        Value::Null | Value::Text(_) => return (own_weight(node), 0),
        Value::Seq(items) => items.iter().collect(),
        Value::Map(entries) => entries.iter().map(|e| &e.value).collect(),
    };
    let sizes = children.into_iter().map(size);
    let (nodes, depth) = sizes.fold((0, 0), |(n, d), (cn, cd)| (n + cn, d.max(cd)));
    (nodes + 1, depth + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(text: &str) -> (Code, u32, u32) {
        let mut lint = Lint::new("t");
        assert!(read(text, &mut lint).is_none(), "{text}");
        let found = lint.finish();
        (found[0].code, found[0].line, found[0].column)
    }

    #[test]
    fn nodes_know_where_they_are() {
        let mut lint = Lint::new("t");
        let node = read("a: 1\nb:\n  - {c: ~, d: 'x'}\n", &mut lint).unwrap();
        let d = node.items("b")[0].get("d").unwrap();
        assert_eq!((d.text(), d.at.line, d.at.column), (Some("x"), 3, 15));
        assert!(node.items("b")[0].get("c").is_none());
    }

    #[test]
    fn ambiguous_documents_are_refused_where_they_are() {
        assert_eq!(fails("a: 1\na: 2\n"), (Code::YamlAmbiguous, 2, 1));
        let mut lint = Lint::new("t");
        assert!(read("a: [1]\nb: 1\na: [1]\n", &mut lint).is_some());
        assert_eq!(lint.finish()[0].line, 3);
        assert_eq!(fails("a: {<<: {b: 1}}\n"), (Code::YamlAmbiguous, 1, 5));
        assert_eq!(fails("a: !python/object:os.system x\n").0, Code::YamlAmbiguous);
        assert_eq!(fails("? [a]\n: 1\n"), (Code::YamlAmbiguous, 1, 3));
        assert_eq!(fails("a: 1\n---\nb: 2\n").0, Code::YamlSyntax);
        assert_eq!(fails("a: [1\nb: 2\n").0, Code::YamlSyntax);
    }

    #[test]
    fn bombs_cost_their_limit_at_most() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let row = vec![format!("*a{}", i - 1); 9].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{row}]\n"));
        }
        assert_eq!(fails(&bomb).0, Code::YamlBounds);
        let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(900_000), vec!["*a"; 1000].join(", "));
        assert_eq!(fails(&text).0, Code::YamlBounds);
        let mut deep = String::from("a0: &a0 [x]\n");
        for i in 1..100 {
            deep.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
        }
        assert_eq!(fails(&deep).0, Code::YamlBounds);
        let flow = format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
        assert_eq!(fails(&flow).0, Code::YamlBounds);
        assert_eq!(fails(&" ".repeat(MAX_DOCUMENT_BYTES + 1)).0, Code::YamlBounds);
    }
}
