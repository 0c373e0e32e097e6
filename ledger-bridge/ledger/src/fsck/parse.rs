//! Reading the log's files, written anew from the specifications and `docs/ledger.md`; nothing of the writer is used.

use std::{fs, io, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A SHA-256.
pub(super) type Hash = [u8; 32];

/// The log's name and public key.
pub(super) struct Key {
    pub name: String,
    key: VerifyingKey,
    id: [u8; 4],
}

/// An entry of a bundle; `None` for one that is in a file of its own.
pub(super) type Element = Option<Vec<u8>>;

/// A signed tree head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub size: u64,
    pub root: Hash,
}

/// A commit of the tail.
pub(super) struct Commit {
    pub checkpoint: Checkpoint,
    /// Its entries.
    pub entries: Vec<Element>,
}

/// The tail.
pub(super) struct Tail {
    pub base: u64,
    /// Hashes of the partial tile of each level at the base.
    pub edge: Vec<Vec<Hash>>,
    pub commits: Vec<Commit>,
    /// Bytes after the last whole frame.
    pub left: usize,
}

pub(super) fn hex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(hash)
}

pub(super) fn show(hash: &Hash) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

/// The file; `None` when it is not there.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Key {
    /// From `log.key`.
    pub fn of_file(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (name, seed) = (lines.next()?.to_owned(), hex(lines.next()?)?);
        let key = SigningKey::from_bytes(&seed).verifying_key();
        let hash = Sha256::digest([name.as_bytes(), b"\n\x01", key.as_bytes()].concat());
        Some(Self { name, key, id: [hash[0], hash[1], hash[2], hash[3]] })
    }

    /// The checkpoint of a note, if this key signed it; what is wrong otherwise.
    pub fn checkpoint(&self, note: &str) -> Result<Checkpoint, String> {
        let at = note.find("\n\n").ok_or("it has no blank line before its signatures")?;
        let (text, signatures) = (&note[..=at], &note[at + 2..]);
        let prefix = format!("— {} ", self.name);
        let ours = signatures.lines().filter_map(|l| STANDARD.decode(l.strip_prefix(&prefix)?).ok());
        let mut signed = false;
        for raw in ours.filter(|raw| raw.starts_with(&self.id)) {
            let signature =
                Signature::from_slice(&raw[4..]).map_err(|_| "its signature is not of 64 bytes")?;
            self.key
                .verify_strict(text.as_bytes(), &signature)
                .map_err(|_| "its signature does not verify with the key in log.key")?;
            signed = true;
        }
        if !signed {
            return Err(format!("it is not signed by `{}` with the key in log.key", self.name));
        }
        let mut lines = text.lines();
        if lines.next() != Some(&self.name) {
            return Err("it is of another log".to_owned());
        }
        let size = lines.next().and_then(|l| l.parse().ok()).ok_or("its size is not a number")?;
        let root = lines.next().and_then(|l| STANDARD.decode(l).ok()?.try_into().ok());
        Ok(Checkpoint { size, root: root.ok_or("its root is not 32 bytes")? })
    }
}

/// The elements of a bundle; `None` when they do not fill it.
pub(super) fn elements(mut bytes: &[u8]) -> Option<Vec<Element>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        found.push((!entry.is_empty()).then(|| entry.to_vec()));
        bytes = rest;
    }
    Some(found)
}

fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (hash, rest) = rest.split_first_chunk::<32>()?;
    let (body, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    (Sha256::digest(body)[..] == hash[..]).then_some((body, rest))
}

/// Reads a tail; what is wrong with it otherwise.
pub(super) fn tail(bytes: &[u8], key: &Key) -> Result<Tail, String> {
    let (header, mut rest) = frame(bytes).ok_or("its first frame is not whole")?;
    let header: Value =
        serde_json::from_slice(header).map_err(|e| format!("its header cannot be read: {e}"))?;
    if header["v"] != 2 || header["ledger"] != key.name.as_str() {
        return Err(format!("its header says version {} of `{}`", header["v"], header["ledger"]));
    }
    let hashes = |level: &Value| -> Option<Vec<Hash>> {
        level.as_array()?.iter().map(|h| hex(h.as_str()?.trim_start_matches("sha256:"))).collect()
    };
    let edge = header["edge"]["levels"].as_array().and_then(|l| l.iter().map(hashes).collect::<Option<_>>());
    let (Some(base), Some(edge)) = (header["edge"]["size"].as_u64(), edge) else {
        return Err("its header has no edge of the tree".to_owned());
    };
    let mut commits = Vec::new();
    while let Some((body, after)) = frame(rest) {
        let at = bytes.len() - rest.len();
        commits.push(commit(body, key).map_err(|e| format!("the commit at byte {at}: {e}"))?);
        rest = after;
    }
    Ok(Tail { base, edge, commits, left: rest.len() })
}

fn commit(body: &[u8], key: &Key) -> Result<Commit, String> {
    let parts = body
        .split_first_chunk::<4>()
        .and_then(|(length, rest)| rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?));
    let (note, bundle) = parts.ok_or("it is too short")?;
    let note = std::str::from_utf8(note).map_err(|_| "its checkpoint is not UTF-8")?;
    let entries = elements(bundle).ok_or("its entries do not fill it")?;
    Ok(Commit { checkpoint: key.checkpoint(note)?, entries })
}
