//! References that nobody resolves before it is too late: YANG calls them leafrefs, OSM accepts whatever they say.
//!
//! The table in `schema/references.tsv` holds those that Mandate does not need either; dangling, they are warnings.
//! What the model is made of is resolved in [`crate::vnfd`] and [`crate::nsd`], as errors. Tests: below, and
//! `tests/lint.rs`.

use std::sync::LazyLock;

use crate::{
    diagnostic::{Code, Lint},
    parse::Names,
    yaml::{Node, Value},
};

/// Those of a VNFD.
pub(crate) static VNFD: LazyLock<Vec<Reference>> = LazyLock::new(|| table("vnfd"));
/// Those of an NSD.
pub(crate) static NSD: LazyLock<Vec<Reference>> = LazyLock::new(|| table("nsd"));

type Path = Vec<&'static str>;

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Reference {
    /// The node that both sides are below.
    shared: Path,
    from: Path,
    to: Vec<Path>,
    what: &'static str,
}

/// Lines of one descriptor. A line that is no reference is left out; a test sees that there is none.
fn table(descriptor: &str) -> Vec<Reference> {
    let lines = include_str!("../schema/references.tsv").lines().filter(|l| !l.starts_with('#'));
    lines.filter_map(|l| reference(l, descriptor)).collect()
}

fn reference(line: &'static str, descriptor: &str) -> Option<Reference> {
    let mut columns = line.split('\t');
    columns.next().filter(|d| *d == descriptor)?;
    let shared = path(columns.next()?);
    let from = path(columns.next()?);
    let to = columns.next()?.split('|').map(path).collect();
    Some(Reference { shared, from, to, what: columns.next()? })
}

fn path(text: &'static str) -> Path {
    if text == "." { Path::new() } else { text.split('/').collect() }
}

/// Reports the dangling ones of a descriptor.
pub(crate) fn check(table: &[Reference], root: &Node, at: &str, lint: &mut Lint) {
    for reference in table {
        each(root, at, &reference.shared, &mut |node, path| below(reference, node, path, lint));
    }
}

fn below(reference: &Reference, shared: &Node, at: &str, lint: &mut Lint) {
    let mut found: Vec<(&Node, String)> = Vec::new();
    each(shared, at, &reference.from, &mut |node, path| found.push((node, path.to_owned())));
    if found.is_empty() {
        return;
    }
    let mut known = Names::default();
    for to in &reference.to {
        each(shared, "", to, &mut |node, _| known.extend(node.text()));
    }
    for (node, path) in found {
        let Some(name) = node.text().filter(|name| !known.contains(name)) else { continue };
        let message = format!("there is no {} `{}`", reference.what, crate::schema::clip(name));
        let hint = if lint.is_full() { String::new() } else { known.hint(reference.what, name) };
        lint.warning(Code::DanglingReference, &path, node.at, message).hint(hint);
    }
}

/// Calls `f` with every node at `path` below `node`, list items one by one.
fn each<'a>(node: &'a Node, at: &str, path: &[&str], f: &mut dyn FnMut(&'a Node, &str)) {
    if let Value::Seq(items) = &node.value {
        for (i, item) in items.iter().enumerate() {
            each(item, &format!("{at}/{i}"), path, f);
        }
        return;
    }
    match path.split_first() {
        None => f(node, at),
        Some((key, rest)) => {
            if let Some(next) = node.get(key) {
                each(next, &format!("{at}/{key}"), rest, f);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    /// Every path of the table exists in the schema, so that a misspelt one cannot hide.
    #[test]
    fn the_table_is_about_nodes_that_there_are() {
        let lines = include_str!("../schema/references.tsv").lines().filter(|l| !l.starts_with('#')).count();
        assert_eq!(lines, VNFD.len() + NSD.len());
        let nsd = schema::NSD.child("nsd").unwrap();
        for (root, table) in [(&*schema::VNFD, &*VNFD), (nsd, &*NSD)] {
            for it in table {
                for path in it.to.iter().chain([&it.from]) {
                    let whole = it.shared.iter().chain(path);
                    let found = whole.clone().try_fold(root, |item, key| item.child(key));
                    assert!(found.is_some(), "{:?}", whole.collect::<Vec<_>>());
                }
            }
        }
    }
}
