//! Cosignatures of witnesses on checkpoints: C2SP tlog-cosignature, version 1 (Ed25519).
//!
//! <https://c2sp.org/tlog-cosignature>. A witness signs a checkpoint when it is consistent with the one it signed
//! before; a log that shows different trees to different people finds no witness for both. The cosignature is a line
//! of the signed note. Whoever verifies names the witnesses he believes, and how many of them he demands
//! ([`Witnesses`]). Pure; tests below, and `tests/foreign.rs` of the crate `ledger`, with others' software.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey};

use crate::{
    UnixTime,
    note::{NamedKey, NoteError},
};

const COSIGNATURE_V1: u8 = 4;
/// Most witnesses of one log.
pub const MAX_WITNESSES: usize = 32;
/// Most signature lines of a note.
const MAX_LINES: usize = 64;

/// A witness's public key, `name+<8 hex>+<base64>` with signature type 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey(NamedKey);

/// A witness's private key.
#[derive(Clone)]
pub struct WitnessSigner {
    key: SigningKey,
    public: NamedKey,
}

fn message(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// A note's text with its final newline, and its signature lines.
fn split(note: &str) -> Option<(&str, impl Iterator<Item = &str>)> {
    let at = note.rfind("\n\n")?;
    Some((&note[..=at], note[at + 2..].lines().take(MAX_LINES)))
}

impl WitnessKey {
    /// Parses `name+id+key`.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        NamedKey::parse(text, COSIGNATURE_V1, "a witness's key is of type 4 (Ed25519 cosignature/v1)")
            .map(Self)
    }

    /// The witness's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// When this witness cosigned the note; `None` when it did not, or the signature does not verify.
    #[must_use]
    pub fn cosigned(&self, note: &str) -> Option<UnixTime> {
        let (text, mut lines) = split(note)?;
        lines.find_map(|line| self.verify(text, line))
    }

    fn verify(&self, text: &str, line: &str) -> Option<UnixTime> {
        let (name, sig) = line.strip_prefix("— ")?.split_once(' ')?;
        let raw = STANDARD.decode(sig).ok()?;
        let (id, rest) = raw.split_first_chunk::<4>()?;
        let (time, sig) = rest.split_first_chunk::<8>()?;
        if name != self.0.name || *id != self.0.id {
            return None;
        }
        let time = u64::from_be_bytes(*time);
        let sig = Signature::from_slice(sig).ok()?;
        self.0.key.verify_strict(message(text, time).as_bytes(), &sig).ok()?;
        (time <= u64::MAX >> 1).then_some(UnixTime(time))
    }
}

impl std::fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl WitnessSigner {
    /// A signer from its secret seed.
    pub fn new(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        NamedKey::signer(name, COSIGNATURE_V1, seed).map(|(public, key)| Self { key, public })
    }

    /// Its public half.
    #[must_use]
    pub fn key(&self) -> WitnessKey {
        WitnessKey(self.public.clone())
    }

    /// The note with this witness's cosignature. Whoever calls has verified the log's signature and the consistency
    /// with what this witness signed before.
    pub fn cosign(&self, note: &str, time: UnixTime) -> Result<String, NoteError> {
        let (text, _) = split(note).ok_or(NoteError::Malformed("no blank line before the signatures"))?;
        let signature = self.key.sign(message(text, time.0).as_bytes()).to_bytes();
        let line = self.public.line(&[&time.0.to_be_bytes()[..], &signature].concat());
        Ok(format!("{note}{line}"))
    }
}

/// Whom a verifier believes, and how many of them it demands.
#[derive(Debug, Clone, Default)]
pub struct Witnesses {
    /// The witnesses.
    pub keys: Vec<WitnessKey>,
    /// How many of them must have cosigned.
    pub quorum: usize,
}

/// Too few witnesses have cosigned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} of {demanded} demanded witnesses have cosigned the checkpoint ({})", .cosigned.len(), if .cosigned.is_empty() { "none".to_owned() } else { .cosigned.join(", ") })]
pub struct TooFewWitnesses {
    /// Names of those that have.
    pub cosigned: Vec<String>,
    /// How many were demanded.
    pub demanded: usize,
}

impl Witnesses {
    /// The names of those that cosigned, when they are enough. A key that is listed twice counts once.
    pub fn verify(&self, note: &str) -> Result<Vec<String>, TooFewWitnesses> {
        let mut seen = Vec::new();
        for key in self.keys.iter().take(MAX_WITNESSES) {
            if !seen.iter().any(|s: &&WitnessKey| s.0.key == key.0.key) && key.cosigned(note).is_some() {
                seen.push(key);
            }
        }
        let cosigned: Vec<_> = seen.iter().map(|k| k.0.name.clone()).collect();
        match cosigned.len() >= self.quorum {
            true => Ok(cosigned),
            false => Err(TooFewWitnesses { cosigned, demanded: self.quorum }),
        }
    }
}

/// `note` with those signature lines of `other` that it lacks, if both are of the same text; otherwise `note`.
#[must_use]
pub fn merge(note: &str, other: &str) -> String {
    let (Some((text, ours)), Some((same, theirs))) = (split(note), split(other)) else {
        return note.to_owned();
    };
    if text != same {
        return note.to_owned();
    }
    let ours: Vec<_> = ours.collect();
    let new = theirs.filter(|line| line.starts_with("— ") && !ours.contains(line));
    let mut merged = note.to_owned();
    for line in new.take(MAX_LINES - ours.len().min(MAX_LINES)) {
        merged.push_str(line);
        merged.push('\n');
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, note::NoteSigner};

    #[test]
    fn cosigned_by_so_many_and_every_flipped_byte() {
        let log = NoteSigner::new("ledger.example/log", &[7; 32]).unwrap();
        let note = log.sign_checkpoint(42, Digest::of(b"root")).unwrap();
        let [a, b] = [1, 2].map(|n| WitnessSigner::new(&format!("witness.example/{n}"), &[n; 32]).unwrap());
        let one = a.cosign(&note, UnixTime(1_800_000_000)).unwrap();
        let two = b.cosign(&note, UnixTime(1_800_000_001)).unwrap();
        let both = merge(&one, &two);
        assert_eq!(merge(&both, &two), both);
        assert_eq!(merge(&note, &log.sign_checkpoint(43, Digest::of(b"root")).unwrap()), note);
        assert!(log.verifier().checkpoint(&both).is_ok());
        let keys = [a.key(), b.key()].map(|k| WitnessKey::parse(&k.to_string()).unwrap()).to_vec();
        let demand = |keys: &[WitnessKey], quorum| Witnesses { keys: keys.to_vec(), quorum };
        assert_eq!(demand(&keys, 2).verify(&both).unwrap().len(), 2);
        assert_eq!(demand(&keys, 2).verify(&one).unwrap_err().cosigned, ["witness.example/1"]);
        assert!(demand(&[keys[0].clone(), keys[0].clone()], 2).verify(&both).is_err(), "one is not two");
        for i in 0..one.len() {
            let mut bytes = one.clone().into_bytes();
            bytes[i] ^= 1;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let log_line = note.rfind("\n\n").unwrap() + 2..note.len();
            assert!(keys[0].cosigned(&text).is_none() || log_line.contains(&i), "byte {i}");
        }
    }

    /// The vkey and the cosignature have the form of the specification.
    #[test]
    fn the_form_of_the_specification() {
        let w = WitnessSigner::new("witness.example.com/w1", &[3; 32]).unwrap();
        assert!(w.key().to_string().starts_with("witness.example.com/w1+"));
        let note = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/behind-the-sofa AAAA\n";
        let cosigned = w.cosign(note, UnixTime(1_679_315_147)).unwrap();
        let raw = STANDARD.decode(cosigned.lines().last().unwrap().rsplit(' ').next().unwrap()).unwrap();
        assert_eq!(raw.len(), 4 + 8 + 64);
        assert_eq!(raw[4..12], 1_679_315_147_u64.to_be_bytes());
        assert!(WitnessKey::parse(&NoteSigner::new("a", &[1; 32]).unwrap().verifier().to_string()).is_err());
    }
}
