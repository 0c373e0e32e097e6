//! Verifying, on this machine, that an entry is in the log: against the trust roots, believing nobody.

use ledger_contract::{evidence::ProvenEntry, records::Entry};
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

/// Verifies that an entry is in the log, and is the entry of that position.
pub fn verify(roots: &TrustRoots, proven: &ProvenEntry) -> Result<Verified, Failure> {
    let refused = |code: &str, detail: String| Failure::refused(code, "The proof does not verify", detail);
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
    Ok(Verified { entry, checkpoint, leaf })
}
