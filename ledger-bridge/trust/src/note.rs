//! C2SP signed notes and tlog checkpoints, with Ed25519.
//!
//! <https://c2sp.org/signed-note>, <https://c2sp.org/tlog-checkpoint>. Unknown signature lines are kept and ignored
//! (a witness may have added its own); the log's own must be there and must verify.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

const ED25519: u8 = 1;
/// A checkpoint with more signatures than this is refused.
const MAX_NOTE_SIGNATURES: usize = 64;

/// Why a note or checkpoint is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not in the format.
    #[error("malformed signed note: {0}")]
    Malformed(&'static str),
    /// The verifier key is not `name+id+key`.
    #[error("malformed verifier key: {0}")]
    BadKey(&'static str),
    /// No signature by the key.
    #[error("the note is not signed by `{0}`")]
    NotSigned(String),
    /// The signature does not verify.
    #[error("the signature of `{0}` does not verify")]
    BadSignature(String),
    /// A checkpoint of another log.
    #[error("the checkpoint is of log `{found}`, expected `{expected}`")]
    OtherLog {
        /// Whose it should be.
        expected: String,
        /// Whose it is.
        found: String,
    },
}

/// A log's (or witness's) public key, `name+<8 hex>+<base64>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteVerifier(NamedKey);

/// A log's private key.
#[derive(Clone)]
pub struct NoteSigner {
    key: SigningKey,
    public: NamedKey,
}

/// A key of C2SP's signed notes: with its name and type, which its id is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedKey {
    pub name: String,
    pub id: [u8; 4],
    pub key: VerifyingKey,
    kind: u8,
}

impl NamedKey {
    /// Of a signature type.
    fn new(name: &str, kind: u8, key: VerifyingKey) -> Self {
        let hash = Sha256::new()
            .chain_update(name)
            .chain_update(b"\n")
            .chain_update([kind])
            .chain_update(key.as_bytes())
            .finalize();
        Self { name: name.to_owned(), id: [hash[0], hash[1], hash[2], hash[3]], key, kind }
    }

    /// The key of a secret seed, and that.
    pub fn signer(name: &str, kind: u8, seed: &[u8; 32]) -> Result<(Self, SigningKey), NoteError> {
        let key = SigningKey::from_bytes(seed);
        match good_name(name) {
            true => Ok((Self::new(name, kind, key.verifying_key()), key)),
            false => Err(NoteError::BadKey("a name has no spaces and no plus")),
        }
    }

    /// The line of a note for what this key signed.
    pub fn line(&self, signed: &[u8]) -> String {
        format!("— {} {}\n", self.name, STANDARD.encode([&self.id[..], signed].concat()))
    }

    /// Parses `name+id+key` of one signature type.
    pub fn parse(text: &str, kind: u8, other_kind: &'static str) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::BadKey("expected name+id+key"));
        };
        let raw = STANDARD.decode(key).map_err(|_| NoteError::BadKey("the key is not base64"))?;
        let Some((_, key)) = raw.split_first().filter(|(found, _)| **found == kind) else {
            return Err(NoteError::BadKey(other_kind));
        };
        let key: &[u8; 32] = key.try_into().map_err(|_| NoteError::BadKey("not 32 bytes"))?;
        let key = VerifyingKey::from_bytes(key).map_err(|_| NoteError::BadKey("not a point"))?;
        let it = Self::new(name, kind, key);
        match good_name(name) && hex::encode(it.id) == id {
            true => Ok(it),
            false => Err(NoteError::BadKey("name and id do not belong to the key")),
        }
    }
}

impl std::fmt::Display for NamedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raw = [&[self.kind][..], self.key.as_bytes()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id), STANDARD.encode(raw))
    }
}

fn good_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+')
}

impl NoteVerifier {
    /// Parses `name+id+key`.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        NamedKey::parse(text, ED25519, "only Ed25519 (type 1) is supported").map(Self)
    }

    /// The log's name (its origin).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Verifies a note and returns its text (with the final newline).
    pub fn open<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let split = note.rfind("\n\n").ok_or(NoteError::Malformed("no blank line before the signatures"))?;
        let (text, signatures) = (&note[..=split], &note[split + 2..]);
        if !signatures.ends_with('\n') {
            return Err(NoteError::Malformed("the last line does not end"));
        }
        let mut found = false;
        for (n, line) in signatures.lines().enumerate() {
            if n >= MAX_NOTE_SIGNATURES {
                return Err(NoteError::Malformed("too many signatures"));
            }
            let line =
                line.strip_prefix("— ").ok_or(NoteError::Malformed("a signature line lacks its dash"))?;
            let (name, sig) =
                line.split_once(' ').ok_or(NoteError::Malformed("a signature line has no signature"))?;
            let raw = STANDARD.decode(sig).map_err(|_| NoteError::Malformed("a signature is not base64"))?;
            let Some((id, sig)) = raw.split_first_chunk::<4>() else {
                return Err(NoteError::Malformed("a signature is too short"));
            };
            if name != self.0.name || *id != self.0.id {
                continue;
            }
            let sig = Signature::from_slice(sig).map_err(|_| NoteError::BadSignature(name.into()))?;
            self.0
                .key
                .verify_strict(text.as_bytes(), &sig)
                .map_err(|_| NoteError::BadSignature(name.to_owned()))?;
            found = true;
        }
        if found { Ok(text) } else { Err(NoteError::NotSigned(self.0.name.clone())) }
    }

    /// Opens a note that is this log's checkpoint.
    pub fn checkpoint(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let checkpoint = Checkpoint::parse(self.open(note)?)?;
        if checkpoint.origin != self.0.name {
            return Err(NoteError::OtherLog { expected: self.0.name.clone(), found: checkpoint.origin });
        }
        Ok(checkpoint)
    }
}

impl std::fmt::Display for NoteVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl NoteSigner {
    /// A signer from its secret seed.
    pub fn new(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        NamedKey::signer(name, ED25519, seed).map(|(public, key)| Self { key, public })
    }

    /// The secret seed, for storing (mode 0600).
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Its public half.
    #[must_use]
    pub fn verifier(&self) -> NoteVerifier {
        NoteVerifier(self.public.clone())
    }

    /// Signs a text, which must end in a newline.
    pub fn sign(&self, text: &str) -> Result<String, NoteError> {
        if !text.ends_with('\n') || text.contains("\n\n") {
            return Err(NoteError::Malformed("a note's text ends in one newline and has no blank line"));
        }
        let signature = self.key.sign(text.as_bytes()).to_bytes();
        Ok(format!("{text}\n{}", self.public.line(&signature)))
    }

    /// Signs the state of a log.
    pub fn sign_checkpoint(&self, size: u64, root: Digest) -> Result<String, NoteError> {
        self.sign(&Checkpoint { origin: self.public.name.clone(), size, root }.to_string())
    }
}

/// The state of a log: so many entries, this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Digest,
}

impl std::fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, STANDARD.encode(self.root.0))
    }
}

impl Checkpoint {
    /// Parses a checkpoint's text; extension lines are refused, because we write none.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let lines: Vec<_> = text.split('\n').collect();
        let [origin, size, root, ""] = lines[..] else {
            return Err(NoteError::Malformed("a checkpoint has three lines"));
        };
        let number: u64 = size.parse().map_err(|_| NoteError::Malformed("the size is not a number"))?;
        if number.to_string() != size {
            return Err(NoteError::Malformed("the size is not in its shortest form"));
        }
        let root = STANDARD.decode(root).ok().and_then(|r| <[u8; 32]>::try_from(r).ok());
        let root = root.ok_or(NoteError::Malformed("the root is not 32 bytes of base64"))?;
        Ok(Self { origin: origin.to_owned(), size: number, root: Digest(root) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_round_trip_and_every_flipped_byte() {
        let signer = NoteSigner::new("ledger.example/log", &[7; 32]).unwrap();
        let verifier = NoteVerifier::parse(&signer.verifier().to_string()).unwrap();
        let note = signer.sign_checkpoint(42, Digest::of(b"root")).unwrap();
        assert_eq!(verifier.checkpoint(&note).unwrap().size, 42);
        for i in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[i] ^= 1;
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(verifier.checkpoint(&text).is_err(), "byte {i}");
            }
        }
        let other = NoteSigner::new("ledger.example/log", &[8; 32]).unwrap();
        assert!(other.verifier().checkpoint(&note).is_err());
    }

    /// The example of the Go module golang.org/x/mod/sumdb/note.
    #[test]
    fn a_note_that_go_signed() {
        let verifier =
            NoteVerifier::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
                .unwrap();
        let note = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\n\
                    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        verifier.open(note).unwrap();
    }
}
