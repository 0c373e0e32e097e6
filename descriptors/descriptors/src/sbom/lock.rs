//! The SBOM that `mandate package pack` writes: CycloneDX 1.6 JSON, made from a `Cargo.lock`.
//!
//! The lock file is read with `toml` alone: its format is a list of packages, and `cargo-lock` would bring a second
//! TOML and semver stack. A lock file does not say which dependencies are for tests only, so those of workspace
//! members are listed too: the SBOM may name more than is linked, never less. The supplier of a component is the
//! registry or repository that it was had from, which is what a lock file knows; licences it does not know.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trust::{Digest, UnixTime};

use super::{MAX_BYTES, SbomError};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bom {
    bom_format: String,
    spec_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serial_number: Option<String>,
    #[serde(default = "one")]
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(default)]
    components: Vec<Component>,
    #[serde(default)]
    dependencies: Vec<Dependency>,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Metadata {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(default)]
    tools: Tools,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    component: Option<Component>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Tools {
    components: Vec<Component>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Supplier {
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Component {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bom_ref: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    supplier: Option<Supplier>,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hash {
    alg: String,
    content: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    of: String,
    #[serde(default)]
    depends_on: Vec<String>,
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

impl Locked {
    /// Package URL, <https://github.com/package-url/purl-spec>; the `+` of build metadata is encoded.
    fn purl(&self) -> String {
        let base = format!("pkg:cargo/{}@{}", self.name, self.version.replace('+', "%2B"));
        match self.source.as_deref().and_then(|s| s.strip_prefix("git+")) {
            Some(git) => format!("{base}?vcs_url=git%2B{}", percent(git)),
            None => base,
        }
    }

    /// Where it was had from: a registry by its host, a repository by its URL, else the workspace itself.
    fn supplier(&self) -> String {
        let Some(source) = &self.source else { return "the workspace's authors".into() };
        if source.ends_with("github.com/rust-lang/crates.io-index") || source.contains("//index.crates.io") {
            return "crates.io".into();
        }
        let url = source.split_once('+').map_or(source.as_str(), |(_, url)| url);
        url.split(['?', '#']).next().unwrap_or(url).to_owned()
    }

    /// Whether a lock file's reference (`name`, `name version` or `name version (source)`) means this package.
    fn is(&self, reference: &str) -> bool {
        let mut words = reference.split(' ');
        let name = words.next() == Some(&self.name);
        let version = words.next().is_none_or(|v| v == self.version);
        let source = words.next().map(|s| s.trim_matches(['(', ')']));
        name && version && source.is_none_or(|s| Some(s) == self.source.as_deref())
    }

    fn component(&self) -> Component {
        let hashes =
            self.checksum.iter().map(|c| Hash { alg: "SHA-256".into(), content: c.clone() }).collect();
        Component {
            kind: "library".into(),
            bom_ref: Some(self.purl()),
            supplier: Some(Supplier { name: self.supplier() }),
            name: self.name.clone(),
            version: Some(self.version.clone()),
            hashes,
            purl: Some(self.purl()),
        }
    }
}

/// The SBOM (JSON) of the binary of package `root`: everything it depends on, directly or not.
///
/// `image`: the binary's SHA-256. Same arguments, same bytes: the serial number is derived from them.
pub fn cyclonedx(lock: &str, root: &str, image: Digest, at: UnixTime) -> Result<Vec<u8>, SbomError> {
    if lock.len() > MAX_BYTES {
        return Err(SbomError::Lock(format!("{} bytes; at most {MAX_BYTES}", lock.len())));
    }
    let parsed: Lock = toml::from_str(lock).map_err(|e| SbomError::Lock(e.message().to_owned()))?;
    let start = find(&parsed, root)?;
    let reached = closure(&parsed, start)?;
    let package = &parsed.package[start];
    let serial = uuid(&Digest::of_parts([lock.as_bytes(), root.as_bytes(), &image.0]));
    let mut component = package.component();
    component.kind = "application".into();
    component.hashes = vec![Hash { alg: "SHA-256".into(), content: image.hex() }];
    let bom = Bom {
        bom_format: "CycloneDX".into(),
        spec_version: "1.6".into(),
        serial_number: Some(format!("urn:uuid:{serial}")),
        version: 1,
        metadata: Some(Metadata {
            timestamp: Some(at.to_string()),
            tools: Tools { components: vec![tool()] },
            component: Some(component),
        }),
        components: reached.keys().filter(|i| **i != start).map(|i| parsed.package[*i].component()).collect(),
        dependencies: reached.iter().map(|(i, on)| edges(&parsed, *i, on)).collect(),
    };
    serde_json::to_vec_pretty(&bom).map_err(|e| SbomError::Format(e.to_string()))
}

/// Who made the document: its author, in NTIA's words.
fn tool() -> Component {
    Component {
        kind: "application".into(),
        name: "mandate".into(),
        version: Some(env!("CARGO_PKG_VERSION").into()),
        ..Component::default()
    }
}

fn find(lock: &Lock, reference: &str) -> Result<usize, SbomError> {
    let found = lock.package.iter().position(|p| p.is(reference));
    found.ok_or_else(|| SbomError::NoPackage(reference.to_owned()))
}

/// Packages reachable from `start`, each with what it depends on; in the lock file's (sorted) order.
fn closure(lock: &Lock, start: usize) -> Result<BTreeMap<usize, BTreeSet<usize>>, SbomError> {
    let mut out = BTreeMap::new();
    let mut open = vec![start];
    while let Some(i) = open.pop() {
        if out.contains_key(&i) {
            continue;
        }
        let on =
            lock.package[i].dependencies.iter().map(|d| find(lock, d)).collect::<Result<BTreeSet<_>, _>>()?;
        open.extend(&on);
        out.insert(i, on);
    }
    Ok(out)
}

fn edges(lock: &Lock, of: usize, on: &BTreeSet<usize>) -> Dependency {
    let depends_on = on.iter().map(|i| lock.package[*i].purl()).collect();
    Dependency { of: lock.package[of].purl(), depends_on }
}

/// Percent-encodes what a purl's qualifier may not hold as it is.
fn percent(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A version 8 UUID (RFC 9562 5.8) made of a digest.
fn uuid(digest: &Digest) -> String {
    let mut b: [u8; 16] = [0; 16];
    b.copy_from_slice(&digest.0[..16]);
    b[6] = (b[6] & 0x0f) | 0x80;
    b[8] = (b[8] & 0x3f) | 0x80;
    let h = hex::encode(b);
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    const LOCK: &str = r#"
version = 4
[[package]]
name = "app"
version = "0.1.0"
dependencies = ["a", "b 2.0.0"]
[[package]]
name = "a"
version = "1.0.0+x"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "aa"
dependencies = ["b 1.0.0"]
[[package]]
name = "b"
version = "1.0.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "bb"
[[package]]
name = "b"
version = "2.0.0"
source = "git+https://example.org/b?rev=1#abc"
[[package]]
name = "unrelated"
version = "9.0.0"
"#;

    #[test]
    fn lists_the_transitive_closure_and_nothing_else() {
        let image = Digest::of(b"binary");
        let text = cyclonedx(LOCK, "app", image, UnixTime(1_800_000_000)).unwrap();
        let bom: Bom = serde_json::from_slice(&text).unwrap();
        let names: Vec<_> =
            bom.components.iter().map(|c| (c.name.as_str(), c.version.as_deref().unwrap())).collect();
        assert_eq!(names, [("a", "1.0.0+x"), ("b", "1.0.0"), ("b", "2.0.0")]);
        assert_eq!(bom.components[0].purl.as_deref(), Some("pkg:cargo/a@1.0.0%2Bx"));
        let git = "pkg:cargo/b@2.0.0?vcs_url=git%2Bhttps%3A%2F%2Fexample.org%2Fb%3Frev%3D1%23abc";
        assert_eq!(bom.components[2].purl.as_deref(), Some(git));
        assert_eq!(bom.components[0].hashes[0].content, "aa");
        assert_eq!(bom.dependencies[1].depends_on, ["pkg:cargo/b@1.0.0"]);
        assert_eq!(bom.metadata.unwrap().timestamp.as_deref(), Some("2027-01-15T08:00:00Z"));
        let summary = summary(&text, &image).unwrap();
        assert!(summary.complete, "{:?}", summary.missing);
        assert_eq!(summary.components.len(), 3);
        assert_eq!(text, cyclonedx(LOCK, "app", image, UnixTime(1_800_000_000)).unwrap());
    }

    #[test]
    fn refuses_other_images_formats_and_nameless_components() {
        let image = Digest::of(b"binary");
        let good = String::from_utf8(cyclonedx(LOCK, "app", image, UnixTime(0)).unwrap()).unwrap();
        assert_eq!(check(good.as_bytes(), &Digest::of(b"x")), Err(SbomError::OtherImage(Digest::of(b"x"))));
        let old = good.replace("\"specVersion\": \"1.6\"", "\"specVersion\": \"1.4\"");
        assert!(matches!(check(old.as_bytes(), &image), Err(SbomError::Format(_))));
        let nameless = good.replace("\"purl\": \"pkg:cargo/b@1.0.0\"", "\"group\": \"x\"");
        let summary = summary(nameless.as_bytes(), &image).unwrap();
        assert_eq!(summary.missing, ["component `b` has not a unique identifier (purl, CPE)"]);
        assert_eq!(cyclonedx(LOCK, "nope", image, UnixTime(0)), Err(SbomError::NoPackage("nope".into())));
        assert!(matches!(cyclonedx("package = 1", "app", image, UnixTime(0)), Err(SbomError::Lock(_))));
    }
}
