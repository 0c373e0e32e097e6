//! in-toto layouts v1.0: who may do which step of a supply chain, and how its artifacts lead from one to the next.
//! <https://github.com/in-toto/specification/blob/v1.0/in-toto-spec.md>
//!
//! A layout is signed by its owner (a key among an organisation's `keys`), its links by the functionaries that it
//! names. Both come as metablocks (signatures over canonical JSON) or in DSSE. [`verify`] checks, in the order of the
//! specification's 5.2: signature, expiry, links with their thresholds, that the links of a step agree, and the rules
//! on materials and products ([`rules`]).
//!
//! Never: runs a command. A layout with inspections is refused by name, since inspections are commands of the
//! provider's; so are sublayouts. Tests: beside each module, `tests/layout_tools.rs` with layouts and links that
//! in-toto's own library signs.

mod metadata;
mod rules;

use std::collections::BTreeMap;

use trust::{Digest, TrustRoots, UnixTime};

use self::metadata::{Layout, Link, Signed, Step};
use crate::{pki::PkiError, sigstore::rfc3339};

/// Most steps of a layout.
pub const MAX_STEPS: usize = 64;
/// Most links with a layout.
pub const MAX_LINKS: usize = 512;

/// Why a layout is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not a layout or link that can be read.
    #[error("`{file}` cannot be read: {why}; make it again with in-toto")]
    Malformed {
        /// Which file.
        file: String,
        /// What the reader said.
        why: String,
    },
    /// Something that is never done here.
    #[error("the layout asks for {0}; ask the provider for a layout without")]
    Refused(&'static str),
    /// No owner's signature.
    #[error(
        "no key of an organisation signed the layout; add the owner's key to `keys` of its organisation if you trust it"
    )]
    NotSigned,
    /// After its end.
    #[error("the layout expired at {expires}, it is {at}; ask the provider for a new one")]
    Expired {
        /// Its end.
        expires: UnixTime,
        /// The time asked for.
        at: UnixTime,
    },
    /// Too few functionaries.
    #[error("step `{step}` has {found} good links by its functionaries, {threshold} are needed{}; ask the provider for the links", note(.why))]
    Threshold {
        /// The step.
        step: String,
        /// How many there are.
        found: usize,
        /// How many there must be.
        threshold: usize,
        /// Why links do not count.
        why: String,
    },
    /// Two functionaries saw different things.
    #[error("the links of step `{step}` do not agree on its {what}; ask the provider which is right")]
    Disagree {
        /// The step.
        step: String,
        /// `materials` or `products`.
        what: &'static str,
    },
    /// An artifact rule is broken.
    #[error(
        "step `{step}`, rule `{rule}` on its {what}: {why}; the artifacts are not those of the layout's supply chain"
    )]
    Rule {
        /// The step.
        step: String,
        /// `materials` or `products`.
        what: &'static str,
        /// The rule as it is written.
        rule: String,
        /// What it found.
        why: String,
    },
    /// The image is no product of it.
    #[error("no step has the image {0} as its product; the layout is about another build")]
    OtherProduct(Digest),
}

fn note(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

impl LayoutError {
    /// A stable name of the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "LAYOUT_MALFORMED",
            Self::Refused(_) => "LAYOUT_REFUSED",
            Self::NotSigned => "LAYOUT_NOT_SIGNED",
            Self::Expired { .. } => "LAYOUT_EXPIRED",
            Self::Threshold { .. } => "LAYOUT_THRESHOLD",
            Self::Disagree { .. } => "LAYOUT_LINKS_DISAGREE",
            Self::Rule { .. } => "LAYOUT_RULE",
            Self::OtherProduct(_) => "LAYOUT_OTHER_PRODUCT",
        }
    }
}

/// A layout that is signed, in time, and kept to by its links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Organisation whose key signed the layout.
    pub org: String,
    /// Name of that key.
    pub name: String,
    /// Steps with their products' SHA-256, in the order of the layout.
    pub steps: Vec<(String, Vec<Digest>)>,
}

impl Verified {
    /// The steps up to the last that has an image as its product.
    pub fn steps_to(&self, image: &Digest) -> Result<Vec<String>, LayoutError> {
        let last = self.steps.iter().rposition(|(_, products)| products.contains(image));
        let last = last.ok_or(LayoutError::OtherProduct(*image))?;
        Ok(self.steps[..=last].iter().map(|(name, _)| name.clone()).collect())
    }
}

/// Verifies a layout and its links (name and bytes of each) at a time.
pub fn verify<'a>(
    layout: &[u8],
    links: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    roots: &TrustRoots,
    at: UnixTime,
) -> Result<Verified, LayoutError> {
    let signed = Signed::read(layout, "the layout")?;
    let (org, name) = owner(&signed, roots)?;
    let layout: Layout = signed.payload("the layout", "layout")?;
    let expires = rfc3339(&layout.expires).ok_or_else(|| LayoutError::Malformed {
        file: "the layout".into(),
        why: format!("`{}` is no time in UTC", layout.expires),
    })?;
    if at > expires {
        return Err(LayoutError::Expired { expires, at });
    }
    if !layout.inspect.is_empty() {
        return Err(LayoutError::Refused("inspections, which are commands to run"));
    }
    if layout.steps.len() > MAX_STEPS {
        return Err(LayoutError::Refused("more than 64 steps"));
    }
    let chain = chain(&layout, links)?;
    for step in &layout.steps {
        rules::check(step, &chain)?;
    }
    let products = |step: &Step| {
        let link = chain.get(&step.name);
        let digests = link.into_iter().flat_map(|l| l.products.values());
        digests.filter_map(|d| d.get("sha256").and_then(|h| Digest::from_hex(h).ok())).collect()
    };
    let steps = layout.steps.iter().map(|s| (s.name.clone(), products(s))).collect();
    Ok(Verified { org, name, steps })
}

/// The organisation and the name of the key that signed.
fn owner(signed: &Signed, roots: &TrustRoots) -> Result<(String, String), LayoutError> {
    for (org, root) in &roots.orgs {
        for (name, pem) in &root.keys {
            let key = crate::pki::PublicKey::from_pem(pem).map_err(|e: PkiError| LayoutError::Malformed {
                file: format!("trust roots: key `{name}` of `{org}`"),
                why: e.to_string(),
            })?;
            if signed.by_any(&key) {
                return Ok((org.clone(), name.clone()));
            }
        }
    }
    Err(LayoutError::NotSigned)
}

/// One link per step, agreed upon by enough of its functionaries.
fn chain<'a>(
    layout: &Layout,
    links: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<BTreeMap<String, Link>, LayoutError> {
    let mut read = Vec::new();
    for (file, bytes) in links {
        if read.len() == MAX_LINKS {
            return Err(LayoutError::Refused("more than 512 links"));
        }
        let signed = Signed::read(bytes, file)?;
        if signed.kind(file)? == "layout" {
            return Err(LayoutError::Refused("a sublayout"));
        }
        let link: Link = signed.payload(file, "link")?;
        read.push((signed, link));
    }
    let mut out = BTreeMap::new();
    for step in &layout.steps {
        if out.insert(step.name.clone(), step_link(layout, step, &read)?).is_some() {
            return Err(LayoutError::Refused("two steps of the same name"));
        }
    }
    Ok(out)
}

fn step_link(layout: &Layout, step: &Step, read: &[(Signed, Link)]) -> Result<Link, LayoutError> {
    let mut good: Vec<&Link> = Vec::new();
    let mut counted: Vec<metadata::SchemeKey> = Vec::new();
    let mut why = String::new();
    for keyid in &step.pubkeys {
        let key = match layout.keys.get(keyid).map(metadata::Key::public) {
            // A functionary counts once, under whatever key ids.
            Some(Ok(key)) if counted.iter().any(|k| k.is_same(&key)) => continue,
            Some(Ok(key)) => key,
            Some(Err(e)) => {
                why = format!("key {}: {e}", metadata::short(keyid));
                continue;
            }
            None => continue,
        };
        let of_step = || read.iter().filter(|(_, l)| l.name == step.name);
        match of_step().find(|(signed, _)| signed.by(keyid, &key)) {
            Some((_, link)) => {
                good.push(link);
                counted.push(key);
            }
            None if of_step().next().is_some() => why = format!("none by key {}", metadata::short(keyid)),
            None => {}
        }
    }
    let threshold = step.threshold.max(1);
    let Some((first, others)) = good.split_first().filter(|_| good.len() >= threshold) else {
        return Err(LayoutError::Threshold { step: step.name.clone(), found: good.len(), threshold, why });
    };
    for other in others {
        for (what, same) in [
            ("materials", first.materials == other.materials),
            ("products", first.products == other.products),
        ] {
            if !same {
                return Err(LayoutError::Disagree { step: step.name.clone(), what });
            }
        }
    }
    Ok((*first).clone())
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use ed25519_dalek::{Signer as _, SigningKey};
    use serde_json::{Value, json};
    use trust::identity::OrgRoot;

    use super::*;

    /// A metablock, signed under each of these key ids. `serde_json` writes what is here as canonical JSON would be.
    fn block(signed: &Value, by: &[(&str, &SigningKey)]) -> Vec<u8> {
        let message = serde_json::to_vec(signed).unwrap();
        let signatures: Vec<_> = by
            .iter()
            .map(|(id, key)| json!({"keyid": id, "sig": hex::encode(key.sign(&message).to_bytes())}))
            .collect();
        serde_json::to_vec(&json!({"signed": signed, "signatures": signatures})).unwrap()
    }

    fn functionary(key: &SigningKey) -> Value {
        let public = hex::encode(key.verifying_key().as_bytes());
        json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}})
    }

    fn verified(first: &SigningKey, second: &SigningKey, pubkeys: &[&str]) -> Result<Verified, LayoutError> {
        of_steps(first, second, &[json!({"name": "build", "pubkeys": pubkeys, "threshold": 2})])
    }

    fn of_steps(first: &SigningKey, second: &SigningKey, steps: &[Value]) -> Result<Verified, LayoutError> {
        let owner = SigningKey::from_bytes(&[9; 32]);
        let public = owner.verifying_key().to_bytes();
        let spki = [hex::decode("302a300506032b6570032100").unwrap(), public.to_vec()];
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(spki.concat())
        );
        let root = OrgRoot { keys: [("owner".to_owned(), pem)].into(), ..OrgRoot::default() };
        let roots = TrustRoots { orgs: [("prov".to_owned(), root)].into(), logs: vec![], channel: None };
        let layout = json!({
            "_type": "layout", "expires": "2030-01-01T00:00:00Z", "inspect": [], "steps": steps,
            "keys": {"one": functionary(first), "two": functionary(second)},
        });
        let link = json!({"_type": "link", "name": "build", "materials": {}, "products": {}});
        let links = [("a", block(&link, &[("one", first)])), ("b", block(&link, &[("two", second)]))];
        let links = links.iter().map(|(name, bytes)| (*name, bytes.as_slice()));
        verify(&block(&layout, &[("owner", &owner)]), links, &roots, UnixTime(1_800_000_000))
    }

    #[test]
    fn one_functionary_is_not_two() {
        let [a, b] = [1, 2].map(|n| SigningKey::from_bytes(&[n; 32]));
        assert!(verified(&a, &b, &["one", "two"]).is_ok());
        for (second, pubkeys) in [(&a, ["one", "two"]), (&b, ["one", "one"])] {
            let error = verified(&a, second, &pubkeys).unwrap_err();
            assert!(matches!(error, LayoutError::Threshold { found: 1, threshold: 2, .. }), "{error}");
        }
    }

    #[test]
    fn two_steps_of_one_name_and_a_step_of_nobody_are_refused() {
        let [a, b] = [1, 2].map(|n| SigningKey::from_bytes(&[n; 32]));
        let step =
            |key: &str, threshold: usize| json!({"name": "build", "pubkeys": [key], "threshold": threshold});
        assert!(of_steps(&a, &b, &[step("one", 1)]).is_ok());
        let twice = of_steps(&a, &b, &[step("one", 1), step("two", 1)]).unwrap_err();
        assert_eq!(twice.code(), "LAYOUT_REFUSED");
        let nobody = of_steps(&a, &b, &[step("none", 0)]).unwrap_err();
        assert!(matches!(nobody, LayoutError::Threshold { found: 0, threshold: 1, .. }), "{nobody}");
    }
}
