//! Transparency log entries: is this entry about exactly this signature, and does the log stand by it?
//!
//! Rekor v1 (`hashedrekord` 0.0.1, `dsse` 0.0.1, `intoto` 0.0.2, with the log's promise) and Rekor v2 on tiles
//! (`hashedrekord` 0.0.2, `dsse` 0.0.2, inclusion proof only, no time).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use trust::{Digest, UnixTime, merkle};

use super::{
    SigstoreError,
    bundle::{Content, Entry, Proof},
    root::{Log, TrustedRoot},
};

/// What an entry must be about.
pub(super) struct About<'a> {
    pub content: &'a Content,
    /// SHA-256 of the artifact or of the envelope's payload.
    pub digest: Digest,
    /// SHA-256 of what the signature is over: the artifact, or the envelope's pre-authentication encoding.
    pub message: Digest,
    /// The signer's certificate (DER), or its key (SPKI, DER).
    pub verifier: &'a [u8],
}

/// Verifies entry `index`. Returns the time at which the log took it, if the log vouches for one.
pub(super) fn verify(
    index: usize,
    entry: &Entry,
    about: &About<'_>,
    root: &TrustedRoot,
) -> Result<Option<UnixTime>, SigstoreError> {
    let bad = |why: String| SigstoreError::Log { index, why };
    let logs: Vec<&Log> = root.logs.iter().filter(|l| l.id == entry.log_id).collect();
    let Some(log) = logs.first() else {
        return Err(bad("its log is not in the trusted root".into()));
    };
    body(entry, about).map_err(bad)?;
    let time = match &entry.promise {
        Some(set) => Some(promise(entry, set, log).map_err(bad)?),
        None => None,
    };
    match &entry.proof {
        Some(proof) => inclusion(entry, proof, log).map_err(bad)?,
        None if time.is_none() => return Err(bad("it has neither promise nor proof".into())),
        None => {}
    }
    Ok(time)
}

/// The log's signature over canonical JSON (RFC 8785: keys sorted, no spaces).
fn promise(entry: &Entry, set: &[u8], log: &Log) -> Result<UnixTime, String> {
    let body = STANDARD.encode(&entry.body);
    let signed = format!(
        "{{\"body\":\"{body}\",\"integratedTime\":{},\"logID\":\"{}\",\"logIndex\":{}}}",
        entry.integrated_time,
        hex::encode(&entry.log_id),
        entry.log_index
    );
    log.key
        .verify(log.key.usual(), signed.as_bytes(), set)
        .map_err(|_| "the log's promise (signed entry timestamp) does not verify".to_owned())?;
    let time = UnixTime(entry.integrated_time);
    if !log.valid.contains(time) {
        return Err(format!("it was logged at {time}, when the log's key did not count"));
    }
    Ok(time)
}

fn hash(bytes: &[u8]) -> Result<Digest, String> {
    <[u8; 32]>::try_from(bytes).map(Digest).map_err(|_| "a hash that is not 32 bytes".to_owned())
}

fn inclusion(entry: &Entry, proof: &Proof, log: &Log) -> Result<(), String> {
    let (size, root) = checkpoint(&proof.checkpoint, log)?;
    if size != proof.size || root != hash(&proof.root)? {
        return Err("the checkpoint is of another tree than the proof".into());
    }
    let path = proof.hashes.iter().map(|h| hash(h)).collect::<Result<Vec<_>, _>>()?;
    merkle::verify_inclusion(merkle::leaf_hash(&entry.body), proof.index, proof.size, &path, root)
        .map_err(|_| "the inclusion proof does not lead to the checkpoint".to_owned())
}

/// Opens a signed note and reads its first three lines: origin, size, root. Later lines are the log's own.
fn checkpoint(note: &str, log: &Log) -> Result<(u64, Digest), String> {
    let (text, signatures) = note.split_once("\n\n").ok_or("a checkpoint without signatures")?;
    let text = format!("{text}\n");
    let signed = signatures.lines().take(64).any(|line| {
        let raw =
            line.strip_prefix("\u{2014} ").and_then(|l| l.rsplit_once(' ')).map(|(_, s)| STANDARD.decode(s));
        let Some(Ok(raw)) = raw else { return false };
        let Some((id, sig)) = raw.split_first_chunk::<4>() else { return false };
        log.id.starts_with(id) && log.key.verify(log.key.usual(), text.as_bytes(), sig).is_ok()
    });
    if !signed {
        return Err("the checkpoint is not signed by the log".into());
    }
    let mut lines = text.lines().skip(1);
    let size = lines.next().and_then(|l| l.parse().ok()).ok_or("a checkpoint without a size")?;
    let root = lines.next().and_then(|l| STANDARD.decode(l).ok()).ok_or("a checkpoint without a root")?;
    Ok((size, hash(&root)?))
}

/// Whether the entry's body is about this signature, by this key, over this content.
fn body(entry: &Entry, about: &About<'_>) -> Result<(), String> {
    let json: Value = serde_json::from_slice(&entry.body).map_err(|e| format!("its body is no JSON: {e}"))?;
    let (kind, version) = (entry.kind.as_str(), entry.kind_version.as_str());
    if json["kind"] != kind || json["apiVersion"] != version {
        return Err(format!("its body is not of kind {kind} {version}"));
    }
    let spec = &json["spec"];
    let is_message = matches!(about.content, Content::Message { .. });
    let claim = match (kind, version, is_message) {
        ("hashedrekord", "0.0.1", true) => hashedrekord_1(spec),
        // Rekor v2 keeps envelopes as records of their pre-authentication encoding.
        ("hashedrekord", "0.0.2", _) => version_2(&spec["hashedRekordV002"], "data"),
        ("dsse", "0.0.1", false) => dsse_1(spec),
        ("intoto", "0.0.2", false) => intoto_2(spec),
        ("dsse", "0.0.2", false) => version_2(&spec["dsseV002"], "payloadHash"),
        _ => return Err(format!("entries of kind {kind} {version} are not read for what was signed")),
    };
    let over_message = kind == "hashedrekord";
    let claim = claim.ok_or_else(|| format!("its body is not what {kind} {version} should be"))?;
    let digest = if over_message { about.message } else { about.digest };
    if claim.digest != digest {
        return Err("it is about another artifact".into());
    }
    if claim.signature != about.content.signature() {
        return Err("it is about another signature".into());
    }
    if claim.verifier != about.verifier {
        return Err("it is about another key or certificate".into());
    }
    Ok(())
}

struct Logged {
    digest: Digest,
    signature: Vec<u8>,
    verifier: Vec<u8>,
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

fn base64(value: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(text(value)?).ok()
}

fn hex_digest(value: &Value) -> Option<Digest> {
    if text(&value["algorithm"])? != "sha256" {
        return None;
    }
    Digest::from_hex(text(&value["value"])?).ok()
}

/// PEM in base64: of a certificate or of a public key.
fn pem(value: &Value) -> Option<Vec<u8>> {
    let raw = base64(value)?;
    let pem = std::str::from_utf8(&raw).ok()?.trim();
    der::pem::decode_vec(pem.as_bytes()).ok().map(|(_, der)| der)
}

fn only(list: &Value) -> Option<&Value> {
    match list.as_array()?.as_slice() {
        [one] => Some(one),
        _ => None,
    }
}

fn hashedrekord_1(spec: &Value) -> Option<Logged> {
    Some(Logged {
        digest: hex_digest(&spec["data"]["hash"])?,
        signature: base64(&spec["signature"]["content"])?,
        verifier: pem(&spec["signature"]["publicKey"]["content"])?,
    })
}

fn dsse_1(spec: &Value) -> Option<Logged> {
    let one = only(&spec["signatures"])?;
    Some(Logged {
        digest: hex_digest(&spec["payloadHash"])?,
        signature: base64(&one["signature"])?,
        verifier: pem(&one["verifier"])?,
    })
}

fn intoto_2(spec: &Value) -> Option<Logged> {
    let content = &spec["content"];
    let one = only(&content["envelope"]["signatures"])?;
    // Encoded twice.
    let inner = base64(&one["sig"])?;
    Some(Logged {
        digest: hex_digest(&content["payloadHash"])?,
        signature: STANDARD.decode(inner).ok()?,
        verifier: pem(&one["publicKey"])?,
    })
}

/// Rekor v2: `data` of a hashed record, `payloadHash` of an envelope.
fn version_2(spec: &Value, digest: &str) -> Option<Logged> {
    let one = if digest == "data" { &spec["signature"] } else { only(&spec["signatures"])? };
    if text(&spec[digest]["algorithm"])? != "SHA2_256" {
        return None;
    }
    let verifier = &one["verifier"];
    let raw = base64(&verifier["x509Certificate"]["rawBytes"]);
    Some(Logged {
        digest: Digest(<[u8; 32]>::try_from(base64(&spec[digest]["digest"])?).ok()?),
        signature: base64(&one["content"])?,
        verifier: raw.or_else(|| base64(&verifier["publicKey"]["rawBytes"]))?,
    })
}
