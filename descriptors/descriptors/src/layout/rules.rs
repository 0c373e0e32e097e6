//! Artifact rules: in-toto specification 4.3.3. Rules consume artifacts from a queue, in order.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    LayoutError,
    metadata::{Artifacts, Link, Step},
};

/// Most rules of one step.
const MAX_RULES: usize = 1000;

/// Checks the rules of a step on its materials and its products.
pub(super) fn check(step: &Step, chain: &BTreeMap<String, Link>) -> Result<(), LayoutError> {
    let Some(link) = chain.get(&step.name) else { return Ok(()) };
    for (what, rules, artifacts) in [
        ("materials", &step.expected_materials, &link.materials),
        ("products", &step.expected_products, &link.products),
    ] {
        if rules.len() > MAX_RULES {
            return Err(LayoutError::Refused("more than 1000 rules in a step"));
        }
        let mut queue: BTreeSet<&str> = artifacts.keys().map(String::as_str).collect();
        for words in rules {
            let broken =
                |why: String| LayoutError::Rule { step: step.name.clone(), what, rule: words.join(" "), why };
            let rule = Rule::parse(words).ok_or_else(|| broken("it is no artifact rule".into()))?;
            let consumed = rule.consumes(&queue, link, artifacts, chain).map_err(broken)?;
            queue.retain(|path| !consumed.contains(*path));
        }
    }
    Ok(())
}

enum Rule<'a> {
    Create(&'a str),
    Delete(&'a str),
    Modify(&'a str),
    Allow(&'a str),
    Disallow(&'a str),
    Require(&'a str),
    Match { pattern: &'a str, source: &'a str, products: bool, destination: &'a str, step: &'a str },
}

impl<'a> Rule<'a> {
    /// Words in any case, as the specification's tools accept them.
    fn parse(words: &'a [String]) -> Option<Self> {
        let lower: Vec<String> = words.iter().map(|w| w.to_ascii_lowercase()).collect();
        let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
        let word = |i: usize| words.get(i).map_or("", String::as_str);
        match lower.as_slice() {
            ["create", _] => Some(Self::Create(word(1))),
            ["delete", _] => Some(Self::Delete(word(1))),
            ["modify", _] => Some(Self::Modify(word(1))),
            ["allow", _] => Some(Self::Allow(word(1))),
            ["disallow", _] => Some(Self::Disallow(word(1))),
            ["require", _] => Some(Self::Require(word(1))),
            ["match", rest @ ..] => Self::parse_match(rest, &|i| word(i + 1)),
            _ => None,
        }
    }

    /// `pattern [IN prefix] WITH (MATERIALS|PRODUCTS) [IN prefix] FROM step`.
    fn parse_match(lower: &[&str], word: &dyn Fn(usize) -> &'a str) -> Option<Self> {
        let (source, at) = match lower {
            [_, "in", _, "with", ..] => (word(2), 4),
            [_, "with", ..] => ("", 2),
            _ => return None,
        };
        let products = match *lower.get(at)? {
            "materials" => false,
            "products" => true,
            _ => return None,
        };
        let (destination, step) = match lower.get(at + 1..)? {
            ["in", _, "from", _] => (word(at + 2), word(at + 4)),
            ["from", _] => ("", word(at + 2)),
            _ => return None,
        };
        Some(Self::Match { pattern: word(0), source, products, destination, step })
    }

    /// The paths that the rule takes from the queue, or what it finds wrong.
    fn consumes(
        &self,
        queue: &BTreeSet<&str>,
        link: &Link,
        artifacts: &Artifacts,
        chain: &BTreeMap<String, Link>,
    ) -> Result<BTreeSet<String>, String> {
        let (materials, products) = (&link.materials, &link.products);
        let matching = |pattern: &str| -> BTreeSet<String> {
            queue.iter().filter(|p| fnmatch(pattern, p)).map(|p| (*p).to_owned()).collect()
        };
        let keep = |pattern: &str, good: &dyn Fn(&String) -> bool| -> BTreeSet<String> {
            matching(pattern).into_iter().filter(|p| good(p)).collect()
        };
        Ok(match *self {
            Self::Create(p) => keep(p, &|f| products.contains_key(f) && !materials.contains_key(f)),
            Self::Delete(p) => keep(p, &|f| materials.contains_key(f) && !products.contains_key(f)),
            Self::Modify(p) => keep(p, &|f| match (materials.get(f), products.get(f)) {
                (Some(before), Some(after)) => before != after,
                _ => false,
            }),
            Self::Allow(p) => matching(p),
            Self::Disallow(p) => match matching(p).into_iter().next() {
                Some(found) => return Err(format!("`{found}` is left over")),
                None => BTreeSet::new(),
            },
            Self::Require(file) if queue.contains(file) => BTreeSet::new(),
            Self::Require(_) => return Err("it is not there".into()),
            Self::Match { pattern, source, products, destination, step } => {
                let Some(other) = chain.get(step) else { return Ok(BTreeSet::new()) };
                let there = if products { &other.products } else { &other.materials };
                let source = directory(source);
                let destination = directory(destination);
                let same = |path: &&&str| {
                    let Some(inside) = path.strip_prefix(source.as_str()) else { return false };
                    let other = there.get(&format!("{destination}{inside}"));
                    fnmatch(pattern, inside) && other.is_some() && other == artifacts.get(**path)
                };
                queue.iter().filter(same).map(|p| (*p).to_owned()).collect()
            }
        })
    }
}

fn directory(prefix: &str) -> String {
    if prefix.is_empty() || prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") }
}

/// Python's `fnmatch`: `*` (a `/` too), `?`, `[…]` and `[!…]`. Linear in the text for each `*`, without recursion.
fn fnmatch(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut i, mut j) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while j < t.len() {
        if p.get(i) == Some(&'*') {
            star = Some((i + 1, j));
            i += 1;
            continue;
        }
        if let Some(next) = p.get(i).and_then(|_| one(&p, i, t[j])) {
            i = next;
            j += 1;
            continue;
        }
        let Some((after, from)) = star else { return false };
        star = Some((after, from + 1));
        (i, j) = (after, from + 1);
    }
    p[i..].iter().all(|c| *c == '*')
}

/// Matches one character; the position behind what matched it.
fn one(p: &[char], i: usize, c: char) -> Option<usize> {
    match p[i] {
        '?' => Some(i + 1),
        '[' => {
            let negated = p.get(i + 1) == Some(&'!');
            let start = i + 1 + usize::from(negated);
            // A `]` in the first place stands for itself.
            let Some(end) = (start + 1..p.len()).find(|k| p[*k] == ']') else {
                return (c == '[').then_some(i + 1);
            };
            (class(&p[start..end], c) != negated).then_some(end + 1)
        }
        other => (other == c).then_some(i + 1),
    }
}

fn class(set: &[char], c: char) -> bool {
    let mut k = 0;
    while k < set.len() {
        if let (Some('-'), Some(high)) = (set.get(k + 1), set.get(k + 2)) {
            if (set[k]..=*high).contains(&c) {
                return true;
            }
            k += 3;
        } else {
            if set[k] == c {
                return true;
            }
            k += 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_as_python_matches_them() {
        for (pattern, text, expected) in [
            ("*", "a/b", true),
            ("foo*", "foo/bar", true),
            ("foo/*.py", "foo/a.py", true),
            ("foo/*.py", "foo/a.pyc", false),
            ("?", "", false),
            ("[ab]c", "bc", true),
            ("[!ab]c", "bc", false),
            ("[a-c]", "b", true),
            ("[]]", "]", true),
            ("[", "[", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXc", false),
            ("", "", true),
        ] {
            assert_eq!(fnmatch(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_ends(pattern in "[ab*?\\[\\]!-]{0,20}", text in "[ab]{0,40}") {
            fnmatch(&pattern, &text);
        }
    }
}
