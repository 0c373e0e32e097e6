//! `TOSCA-Metadata/TOSCA.meta`: which file is what (SOL004 4.1.2, TOSCA Simple Profile in YAML 1.1 6.2).

use std::collections::BTreeMap;

use super::Sol004Error;

/// Where it is.
pub const PATH: &str = "TOSCA-Metadata/TOSCA.meta";
/// Most lines.
const MAX_LINES: usize = 1000;

/// The keys of its first block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    keys: BTreeMap<String, (usize, String)>,
}

impl Meta {
    /// Reads it. Blocks after the first describe files and are not looked at.
    pub fn read(bytes: &[u8]) -> Result<Self, Sol004Error> {
        let bad = |line, why: &str| Sol004Error::Meta { line, why: why.to_owned() };
        let text = std::str::from_utf8(bytes).map_err(|_| bad(0, "it is not UTF-8 text"))?;
        let text = text.trim_start_matches('\u{feff}');
        let mut keys = BTreeMap::new();
        for (line, n) in text.lines().zip(1..) {
            if n > MAX_LINES {
                return Err(bad(n, "more lines than it needs"));
            }
            let line = line.trim_end();
            if line.is_empty() && !keys.is_empty() {
                break;
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = line.split_once(':').ok_or_else(|| bad(n, "it is not `key: value`"))?;
            if keys.insert(key.trim().to_owned(), (n, value.trim().to_owned())).is_some() {
                return Err(bad(n, "a key that is there twice"));
            }
        }
        let it = Self { keys };
        for (key, versions) in
            [("TOSCA-Meta-File-Version", &["1.0", "1.1"][..]), ("CSAR-Version", &["1.0", "1.1", "2.0"])]
        {
            match it.keys.get(key) {
                Some((_, found)) if versions.contains(&found.as_str()) => {}
                Some((n, found)) => {
                    return Err(bad(*n, &format!("{key} is {found}; {} are read", versions.join(", "))));
                }
                None => return Err(bad(0, &format!("{key} is missing"))),
            }
        }
        Ok(it)
    }

    /// The line and the value of a key; names before SOL004 v2.6.1 had no `ETSI-`.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<(usize, &str)> {
        let old = name.strip_prefix("ETSI-").unwrap_or(name);
        let found = self.keys.get(name).or_else(|| self.keys.get(old));
        found.map(|(n, v)| (*n, v.as_str())).filter(|(_, v)| !v.is_empty())
    }

    /// All entries that name a file or directory.
    pub fn entries(&self) -> impl Iterator<Item = (&str, usize, &str)> {
        let named = self.keys.iter().filter(|(k, _)| k.starts_with("Entry-") || k.starts_with("ETSI-Entry-"));
        named.map(|(k, (n, v))| (k.as_str(), *n, v.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "TOSCA-Meta-File-Version: 1.0\nCSAR-Version: 1.1\nCreated-By: x\nEntry-Definitions: a.yaml\n";

    #[test]
    fn reads_the_first_block_and_old_names() {
        let text = format!("{GOOD}Entry-Manifest: a.mf\n\nName: x\nContent-Type: y\n");
        let meta = Meta::read(text.as_bytes()).unwrap();
        assert_eq!(meta.entry("Entry-Definitions"), Some((4, "a.yaml")));
        assert_eq!(meta.entry("ETSI-Entry-Manifest"), Some((5, "a.mf")));
        assert_eq!(meta.entry("ETSI-Entry-Certificate"), None);
        assert_eq!(meta.entries().count(), 2);
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        for (text, line) in [
            (format!("{GOOD}Entry-Definitions: b.yaml\n"), 5),
            (format!("{GOOD}nonsense\n"), 5),
            (GOOD.replace("CSAR-Version: 1.1", "CSAR-Version: 9"), 2),
            (GOOD.replace("CSAR-Version: 1.1\n", ""), 0),
        ] {
            assert!(
                matches!(Meta::read(text.as_bytes()), Err(Sol004Error::Meta { line: l, .. }) if l == line),
                "{text}"
            );
        }
    }
}
