//! OSM's filters (`a.b=v`, `.eq .neq .gt .gte .lt .lte .cont .ncont`, comma lists), for the records that are ours to show.

use serde_json::Value;

use crate::fields::ADMIN_WORDS;

/// A filter of a query.
#[derive(Debug, Clone)]
pub(crate) struct Filter(Vec<Term>);

#[derive(Debug, Clone)]
struct Term {
    path: Vec<String>,
    test: Test,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Eq,
    Neq,
    Gt,
    Gte,
    Lt,
    Lte,
    Cont,
    Ncont,
}

impl Filter {
    pub(crate) fn of(query: &[(String, String)]) -> Self {
        let said = query.iter().filter(|(name, _)| !ADMIN_WORDS.contains(&name.as_str()));
        Self(said.map(|(name, value)| Term::of(name, value)).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn matches(&self, record: &Value) -> bool {
        self.0.iter().all(|term| term.matches(record))
    }
}

impl Term {
    fn of(name: &str, value: &str) -> Self {
        let mut path: Vec<String> = name.split('.').filter(|p| *p != "ANYINDEX").map(str::to_owned).collect();
        let test = match path.last().map(String::as_str) {
            Some("eq") => Some(Test::Eq),
            Some("neq" | "ne") => Some(Test::Neq),
            Some("gt") => Some(Test::Gt),
            Some("gte") => Some(Test::Gte),
            Some("lt") => Some(Test::Lt),
            Some("lte") => Some(Test::Lte),
            Some("cont") => Some(Test::Cont),
            Some("ncont") => Some(Test::Ncont),
            _ => None,
        };
        if test.is_some() {
            path.pop();
        }
        Self { path, test: test.unwrap_or(Test::Eq), values: value.split(',').map(str::to_owned).collect() }
    }

    fn matches(&self, record: &Value) -> bool {
        let mut found = Vec::new();
        at(record, &self.path, &mut found);
        let any =
            |test: fn(&Value, &str) -> bool| found.iter().any(|f| self.values.iter().any(|v| test(f, v)));
        match self.test {
            Test::Eq | Test::Cont => any(same),
            Test::Neq | Test::Ncont => !any(same),
            Test::Gt => any(|f, v| compared(f, v).is_some_and(|o| o.is_gt())),
            Test::Gte => any(|f, v| compared(f, v).is_some_and(|o| o.is_ge())),
            Test::Lt => any(|f, v| compared(f, v).is_some_and(|o| o.is_lt())),
            Test::Lte => any(|f, v| compared(f, v).is_some_and(|o| o.is_le())),
        }
    }
}

/// Everything at a path; of a list, whatever any of its items has there.
fn at<'a>(value: &'a Value, path: &[String], out: &mut Vec<&'a Value>) {
    match (value, path.split_first()) {
        (Value::Array(items), _) => items.iter().for_each(|item| at(item, path, out)),
        (Value::Object(map), Some((name, rest))) => {
            if let Some(inner) = map.get(name) {
                at(inner, rest, out);
            }
        }
        (leaf, None) => out.push(leaf),
        (_, Some(_)) => {}
    }
}

fn same(found: &Value, wanted: &str) -> bool {
    match found {
        Value::String(text) => text == wanted,
        Value::Null => wanted.is_empty() || wanted == "null",
        Value::Bool(flag) => wanted.eq_ignore_ascii_case(&flag.to_string()),
        Value::Number(number) => number.to_string() == wanted || number.as_f64() == wanted.parse().ok(),
        _ => false,
    }
}

fn compared(found: &Value, wanted: &str) -> Option<std::cmp::Ordering> {
    match (found.as_f64(), wanted.parse::<f64>().ok()) {
        (Some(a), Some(b)) => a.partial_cmp(&b),
        _ => Some(found.as_str()?.cmp(wanted)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn as_osm_filters() {
        let record = json!({
            "name": "edge-1", "n": 5, "_admin": { "nsState": "INSTANTIATED", "projects_read": ["p1", "p2"] },
            "vld": [{ "id": "mgmt" }, { "id": "data" }], "ok": true, "none": null,
        });
        for (query, expected) in [
            ("name=edge-1", true),
            ("name=edge-2", false),
            ("name=edge-2,edge-1", true),
            ("name.neq=edge-1", false),
            ("_admin.nsState=INSTANTIATED", true),
            ("_admin.projects_read.cont=p2", true),
            ("_admin.projects_read.ncont=p2", false),
            ("vld.id=data", true),
            ("vld.ANYINDEX.id=data", true),
            ("n.gt=4", true),
            ("n.lt=4", false),
            ("n=5", true),
            ("ok=True", true),
            ("missing=1", false),
            ("missing.neq=1", true),
            ("fields=name", false),
            ("ADMIN=True", true),
        ] {
            let pair = query.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
            let filter = Filter::of(&pair.into_iter().collect::<Vec<_>>());
            assert_eq!(filter.matches(&record), expected, "{query}");
        }
    }
}
