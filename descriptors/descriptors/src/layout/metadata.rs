//! Layouts, links and keys as files: metablocks and DSSE.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::LayoutError;
use crate::{
    pki::{Algorithm, Hash, PkiError, PublicKey},
    sigstore::pae,
};

/// Largest layout or link, bytes: a link lists every file of a source tree.
const MAX_BYTES: usize = 8 << 20;
/// Most signatures of one file.
const MAX_SIGNATURES: usize = 16;
/// Deepest nesting of what is written as canonical JSON; the reader's own bound is larger.
const MAX_DEPTH: usize = 64;
const PAYLOAD: &str = "application/vnd.in-toto+json";

/// Artifacts: digests by algorithm, by path.
pub(super) type Artifacts = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Layout {
    #[serde(default)]
    pub steps: Vec<Step>,
    #[serde(default)]
    pub inspect: Vec<Value>,
    #[serde(default)]
    pub keys: BTreeMap<String, Key>,
    pub expires: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Step {
    pub name: String,
    #[serde(default)]
    pub expected_materials: Vec<Vec<String>>,
    #[serde(default)]
    pub expected_products: Vec<Vec<String>>,
    #[serde(default)]
    pub pubkeys: Vec<String>,
    #[serde(default)]
    pub threshold: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Link {
    pub name: String,
    #[serde(default)]
    pub materials: Artifacts,
    #[serde(default)]
    pub products: Artifacts,
}

/// A functionary's key, as securesystemslib writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Key {
    keytype: String,
    scheme: String,
    keyval: KeyValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct KeyValue {
    public: String,
}

/// A key with the scheme that it signs with.
pub(super) struct SchemeKey {
    key: PublicKey,
    algorithm: Algorithm,
}

impl SchemeKey {
    /// The same key, whatever it signs with.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Key {
    pub(super) fn public(&self) -> Result<SchemeKey, PkiError> {
        let algorithm = match self.scheme.as_str() {
            "ed25519" => Algorithm::Ed25519,
            "ecdsa-sha2-nistp256" => Algorithm::Ecdsa(Hash::Sha256),
            "ecdsa-sha2-nistp384" => Algorithm::Ecdsa(Hash::Sha384),
            "rsassa-pss-sha256" => Algorithm::RsaPss(Hash::Sha256),
            "rsassa-pss-sha384" => Algorithm::RsaPss(Hash::Sha384),
            "rsassa-pss-sha512" => Algorithm::RsaPss(Hash::Sha512),
            "rsa-pkcs1v15-sha256" => Algorithm::RsaPkcs1(Hash::Sha256),
            "rsa-pkcs1v15-sha384" => Algorithm::RsaPkcs1(Hash::Sha384),
            "rsa-pkcs1v15-sha512" => Algorithm::RsaPkcs1(Hash::Sha512),
            other => return Err(PkiError::Algorithm(other.chars().take(60).collect())),
        };
        let key = if self.keytype == "ed25519" {
            let raw = hex::decode(&self.keyval.public).ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
            let key = raw.and_then(|b| ed25519_dalek::VerifyingKey::from_bytes(&b).ok());
            PublicKey::Ed25519(Box::new(
                key.ok_or_else(|| PkiError::Key("not an Ed25519 key in hex".into()))?,
            ))
        } else {
            PublicKey::from_pem(&self.keyval.public)?
        };
        Ok(SchemeKey { key, algorithm })
    }
}

pub(super) fn short(keyid: &str) -> String {
    keyid.chars().take(8).collect()
}

/// A signed file, as its bytes were signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signed {
    value: Value,
    message: Vec<u8>,
    /// Key id and signature.
    signatures: Vec<(String, Vec<u8>)>,
}

#[derive(Deserialize)]
struct Metablock {
    signed: Value,
    signatures: Vec<MetablockSignature>,
}

#[derive(Deserialize)]
struct MetablockSignature {
    keyid: String,
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<MetablockSignature>,
}

impl Signed {
    pub(super) fn read(bytes: &[u8], file: &str) -> Result<Self, LayoutError> {
        let bad = |why: String| LayoutError::Malformed { file: file.to_owned(), why };
        if bytes.len() > MAX_BYTES {
            return Err(bad(format!("{} bytes; at most {MAX_BYTES} are read", bytes.len())));
        }
        let it = match serde_json::from_slice::<Metablock>(bytes) {
            Ok(block) => Self::metablock(block),
            Err(_) => serde_json::from_slice::<Envelope>(bytes)
                .map_err(|e| format!("neither a metablock nor DSSE: {e}"))
                .and_then(Self::envelope),
        };
        let it = it.map_err(&bad)?;
        match it.signatures.len() {
            0..=MAX_SIGNATURES => Ok(it),
            n => Err(bad(format!("{n} signatures; at most {MAX_SIGNATURES}"))),
        }
    }

    fn metablock(block: Metablock) -> Result<Self, String> {
        let mut message = Vec::new();
        canonical(&block.signed, &mut message, 0)?;
        let signature = |s: MetablockSignature| Ok((s.keyid, hex::decode(s.sig).map_err(|e| e.to_string())?));
        let signatures = block.signatures.into_iter().map(signature).collect::<Result<_, String>>()?;
        Ok(Self { value: block.signed, message, signatures })
    }

    fn envelope(envelope: Envelope) -> Result<Self, String> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|e| e.to_string());
        if envelope.payload_type != PAYLOAD {
            return Err(format!("payload type `{}`", envelope.payload_type));
        }
        let payload = decode(&envelope.payload)?;
        let value = serde_json::from_slice(&payload).map_err(|e| e.to_string())?;
        let signature = |s: MetablockSignature| Ok((s.keyid, decode(&s.sig)?));
        let signatures = envelope.signatures.into_iter().map(signature).collect::<Result<_, String>>()?;
        Ok(Self { value, message: pae(&envelope.payload_type, &payload), signatures })
    }

    pub(super) fn kind(&self, file: &str) -> Result<&str, LayoutError> {
        let kind = self.value.get("_type").and_then(Value::as_str);
        kind.ok_or_else(|| LayoutError::Malformed { file: file.to_owned(), why: "it has no _type".into() })
    }

    pub(super) fn payload<T: DeserializeOwned>(&self, file: &str, kind: &str) -> Result<T, LayoutError> {
        let bad = |why: String| LayoutError::Malformed { file: file.to_owned(), why };
        let found = self.kind(file)?;
        if found != kind {
            return Err(bad(format!("it is a {found}, not a {kind}")));
        }
        T::deserialize(&self.value).map_err(|e| bad(e.to_string()))
    }

    /// Whether the functionary with that key signed it.
    pub(super) fn by(&self, keyid: &str, key: &SchemeKey) -> bool {
        let own = self.signatures.iter().filter(|(id, _)| id == keyid);
        own.into_iter().any(|(_, sig)| key.key.verify(key.algorithm, &self.message, sig).is_ok())
    }

    /// Whether a key signed it, with any scheme that the key can sign with: owners' keys are given as PEM.
    pub(super) fn by_any(&self, key: &PublicKey) -> bool {
        let schemes = match key {
            PublicKey::Rsa(_) => vec![Algorithm::RsaPss(Hash::Sha256), Algorithm::RsaPkcs1(Hash::Sha256)],
            other => vec![other.usual()],
        };
        let verifies = |sig: &[u8]| schemes.iter().any(|s| key.verify(*s, &self.message, sig).is_ok());
        self.signatures.iter().any(|(_, sig)| verifies(sig))
    }
}

/// OLPC canonical JSON: sorted keys, no spaces, only `"` and `\` escaped, integers only.
/// <http://wiki.laptop.org/go/Canonical_JSON>
fn canonical(value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("nested too deeply".into());
    }
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(true) => out.extend(b"true"),
        Value::Bool(false) => out.extend(b"false"),
        Value::Number(n) if n.is_f64() => return Err(format!("{n} is no integer")),
        Value::Number(n) => out.extend(n.to_string().bytes()),
        Value::String(s) => text(s, out),
        Value::Array(list) => {
            out.push(b'[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                canonical(item, out, depth + 1)?;
            }
            out.push(b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            // Sorted here, whatever order the map of the JSON reader keeps.
            for (i, (key, item)) in map.iter().collect::<BTreeMap<_, _>>().into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                text(key, out);
                out.push(b':');
                canonical(item, out, depth + 1)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn text(s: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for b in s.bytes() {
        if b == b'"' || b == b'\\' {
            out.push(b'\\');
        }
        out.push(b);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_as_securesystemslib_writes_it() {
        let value = serde_json::json!({"b": [1, true, null], "a": "x\"\\\n\u{e4}", "c": {}});
        let mut out = Vec::new();
        canonical(&value, &mut out, 0).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"a\":\"x\\\"\\\\\n\u{e4}\",\"b\":[1,true,null],\"c\":{}}"
        );
        assert!(canonical(&serde_json::json!(1.5), &mut Vec::new(), 0).is_err());
    }
}
