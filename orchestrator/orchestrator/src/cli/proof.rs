//! Verifying, on this machine, that an entry is in the log: against the trust roots, believing nobody.

use ledger_contract::{approval, evidence::ProvenEntry, records::Entry, transaction::SealedEntry};
use trust::{
    Digest, TrustRoots,
    merkle::{leaf_hash, verify_inclusion},
    note::{Checkpoint, NoteVerifier},
};

use super::failure::Failure;

/// What a verified entry is in.
pub struct Verified {
    /// The entry.
    pub entry: Entry,
    /// The tree it is in.
    pub checkpoint: Checkpoint,
    /// Hash of the leaf.
    pub leaf: Digest,
    /// Its number.
    pub index: u64,
    /// What the channel that it is in proves.
    pub channel: Option<String>,
}

/// The number of entries that a checkpoint claims, unverified: enough to say where to go on.
#[must_use]
pub fn claimed_size(note: &str) -> Option<u64> {
    note.lines().nth(1)?.parse().ok()
}

/// Verifies a checkpoint against the roots' log keys.
pub fn checkpoint(roots: &TrustRoots, note: &str) -> Result<Checkpoint, Failure> {
    let bad = |detail: String| {
        Failure::refused("CHECKPOINT_SIGNATURE", "The checkpoint does not verify", detail)
            .hint("are these the trust roots of that ledger? see --trust and --home")
    };
    let mut problems = Vec::new();
    for key in &roots.logs {
        let verifier = NoteVerifier::parse(key).map_err(|e| bad(format!("log key `{key}`: {e}")))?;
        match verifier.checkpoint(note) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(e) => problems.push(e.to_string()),
        }
    }
    Err(bad(if problems.is_empty() { "the trust roots name no log".into() } else { problems.join("; ") }))
}

/// Verifies that an entry is in the log, and is the entry of that position; in a channel, that a valid transaction decided
/// it.
pub fn verify(roots: &TrustRoots, proven: &ProvenEntry) -> Result<Verified, Failure> {
    let refused = |code: &str, detail: String| {
        Failure::refused(code, "The proof does not verify", detail).hint(
            "fetch it again; if that fails too, the ledger that answered is not the one of these trust roots",
        )
    };
    if let Some(channel) = &proven.channel {
        let entry = approval::entry(proven, roots).map_err(|e| refused(e.code.as_str(), e.detail))?;
        let told = channel.told();
        let sealed = SealedEntry::seal(entry.clone());
        let checkpoint = checkpoint(roots, &proven.proof.checkpoint)?;
        let (leaf, index) = (leaf_hash(&sealed.to_bytes()), proven.proof.index);
        return Ok(Verified { entry, checkpoint, leaf, index, channel: Some(told) });
    }
    let checkpoint = checkpoint(roots, &proven.proof.checkpoint)?;
    let leaf = leaf_hash(proven.entry.as_bytes());
    let p = &proven.proof;
    verify_inclusion(leaf, p.index, checkpoint.size, &p.path, checkpoint.root).map_err(|e| {
        refused("INCLUSION", format!("entry {} in a tree of {}: {e}", p.index, checkpoint.size))
    })?;
    let entry: Entry = serde_json::from_str(&proven.entry)
        .map_err(|e| refused("ENTRY_FORMAT", format!("not a ledger entry: {e}")))?;
    if entry.position != p.index || entry.ledger != checkpoint.origin {
        let detail = format!(
            "the entry says `{}` {}, the proof `{}` {}",
            entry.ledger, entry.position, checkpoint.origin, p.index
        );
        return Err(refused("POSITION", detail));
    }
    Ok(Verified { entry, checkpoint, leaf, index: p.index, channel: None })
}

#[cfg(test)]
mod tests {
    use ledger_contract::{
        evidence::InclusionProof,
        records::{GENESIS_PAYLOAD, Verdict},
    };
    use trust::{Envelope, UnixTime, dsse::Signature, merkle::Tree, note::NoteSigner};

    use super::*;

    fn entry(position: u64) -> String {
        let signatures = vec![Signature { sig: vec![1], certificate: vec![2] }];
        let request = Envelope { payload_type: GENESIS_PAYLOAD.into(), payload: b"x".to_vec(), signatures };
        let verdict = Verdict { approved: true, rules: Vec::new(), policy: Digest([0; 32]) };
        let entry = Entry {
            v: 1,
            ledger: "op/log".into(),
            position,
            time: UnixTime(1),
            request,
            verdict,
            event: None,
            writes: Digest([0; 32]),
        };
        serde_json::to_string(&entry).unwrap()
    }

    fn log(seed: u8) -> NoteSigner {
        NoteSigner::new("op/log", &[seed; 32]).unwrap()
    }

    fn roots() -> TrustRoots {
        TrustRoots { logs: vec![log(1).verifier().to_string()], ..TrustRoots::default() }
    }

    /// Entry `position` of a log of five, proven at leaf `at`.
    fn proven(position: u64, at: u64, signer: &NoteSigner) -> ProvenEntry {
        let mut tree = Tree::default();
        (0..5).for_each(|n| tree.push(leaf_hash(entry(if n == at { position } else { n }).as_bytes())));
        let checkpoint = signer.sign_checkpoint(tree.size(), tree.root()).unwrap();
        let proof = InclusionProof { index: at, path: tree.inclusion(at, 5).unwrap(), checkpoint };
        ProvenEntry { entry: entry(position), proof, channel: None }
    }

    fn code(proven: &ProvenEntry) -> String {
        verify(&roots(), proven).map(|_| String::new()).unwrap_or_else(|f| f.problem.code)
    }

    #[test]
    fn what_is_in_the_log_verifies_and_nothing_else() {
        let good = proven(3, 3, &log(1));
        assert_eq!(verify(&roots(), &good).map(|v| v.entry.position).unwrap(), 3);
        let mut other_bytes = good.clone();
        other_bytes.entry = other_bytes.entry.replace("\"time\":1", "\"time\":2");
        assert_eq!(code(&other_bytes), "INCLUSION");
        let mut other_path = good.clone();
        other_path.proof.path[1].0[0] ^= 1;
        assert_eq!(code(&other_path), "INCLUSION");
        let mut other_index = good;
        other_index.proof.index = 2;
        assert_eq!(code(&other_index), "INCLUSION");
        assert_eq!(code(&proven(3, 3, &log(2))), "CHECKPOINT_SIGNATURE");
        assert_eq!(code(&proven(3, 4, &log(1))), "POSITION", "in the log, but not where it says it is");
        assert_eq!(
            verify(&TrustRoots::default(), &proven(3, 3, &log(1))).err().unwrap().problem.code,
            "CHECKPOINT_SIGNATURE"
        );
    }
}
