//! How a guest gets its configuration document: as a file, [`PATH`], that the VDU's own cloud-init writes.
//!
//! ```yaml
//! #cloud-config
//! write_files:
//! - path: /etc/mandate/dataplane.json
//!   permissions: '0600'
//!   encoding: b64
//!   content: '{{ mandate_day0[OSM.count_index] }}'
//! ```
//!
//! The expression is Jinja2 as OSM's resource orchestrator renders it (StrictUndefined, autoescape): the parameter is a list with the
//! document of each instance of the VDU, by its count-index, in Base64, which autoescape leaves as it is. Where no OSM stands in
//! between, [`render`] makes the same text of the same cloud-init; it is no Jinja2, and [`foreign`] names what it would leave as it is.
//!
//! Never here: the encoding (callers have it), reading user data back (a VIM's matter). Tests: below.

/// Where the guest finds its configuration document.
pub const PATH: &str = "/etc/mandate/dataplane.json";
/// The parameter: a list, by count-index, of documents in Base64.
pub const PARAMETER: &str = "mandate_day0";
/// The expression, without braces.
const PICKED: &str = "mandate_day0[OSM.count_index]";
/// The expression as cloud-init files have it.
pub const EXPRESSION: &str = "{{ mandate_day0[OSM.count_index] }}";

/// Does a cloud-init file ask for the document?
#[must_use]
pub fn asks(text: &str) -> bool {
    parts(text).iter().any(|p| matches!(p, Part::Document))
}

/// The first thing in a cloud-init file that is Jinja2 and not [`EXPRESSION`].
#[must_use]
pub fn foreign(text: &str) -> Option<&str> {
    parts(text).into_iter().find_map(|p| match p {
        Part::Foreign(it) => Some(it),
        _ => None,
    })
}

/// The cloud-init file with the document (in Base64) in its place, as OSM renders it: line ends are `\n`, and the last one is not
/// there.
#[must_use]
pub fn render(text: &str, document: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let parts = parts(text).into_iter();
    parts
        .map(|p| match p {
            Part::Document => document,
            Part::Text(it) | Part::Foreign(it) => it,
        })
        .collect()
}

enum Part<'t> {
    Text(&'t str),
    Document,
    Foreign(&'t str),
}

/// What opens a template's tag, and what closes it.
const TAGS: [(&str, &str); 3] = [("{{", "}}"), ("{%", "%}"), ("{#", "#}")];

fn parts(mut text: &str) -> Vec<Part<'_>> {
    let mut out = Vec::new();
    loop {
        let opened = TAGS.iter().filter_map(|(open, close)| Some((text.find(open)?, close))).min();
        let Some((start, close)) = opened else { break };
        let (before, tag) = text.split_at(start);
        let end = tag.get(2..).and_then(|t| t.find(close)).map_or(tag.len(), |n| n + 4);
        let (tag, rest) = tag.split_at(end);
        out.push(Part::Text(before));
        let inner = tag.strip_prefix("{{").and_then(|t| t.strip_suffix("}}"));
        out.push(match inner.is_some_and(|i| i.trim() == PICKED) {
            true => Part::Document,
            false => Part::Foreign(tag),
        });
        text = rest;
    }
    out.push(Part::Text(text));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_put_where_the_file_asks_for_it() {
        let file = "#cloud-config\r\na: '{{ mandate_day0[OSM.count_index] }}'\nb: {{mandate_day0[OSM.count_index]}}\n\n";
        assert!(asks(file) && foreign(file).is_none());
        assert_eq!(render(file, "eA=="), "#cloud-config\na: 'eA=='\nb: eA==\n");
        assert_eq!(EXPRESSION.trim_matches(['{', '}', ' ']), PICKED);
        assert!(PICKED.starts_with(PARAMETER));
    }

    #[test]
    fn whatever_else_is_a_template_is_named_and_left() {
        for (file, named) in [
            ("a {{ x }} b", Some("{{ x }}")),
            ("{% if x %}", Some("{% if x %}")),
            ("{# no #}", Some("{# no #}")),
            ("a {{ open", Some("{{ open")),
            ("{{ mandate_day0[0] }}", Some("{{ mandate_day0[0] }}")),
            ("{{ mandate_day0[OSM.count_index] }} {%}%}", Some("{%}%}")),
            ("${x} { y: {} }", None),
            ("", None),
        ] {
            assert_eq!(foreign(file), named, "{file}");
            assert_eq!(render(file, EXPRESSION), file, "{file}");
        }
        assert!(!asks("{{ x }} mandate_day0[OSM.count_index]"));
    }
}
