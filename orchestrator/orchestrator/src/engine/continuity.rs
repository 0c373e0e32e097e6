//! The ledger is the one that it was: its head continues the one that the journal verified last.
//!
//! Looked at before anything is taken up again, and before what the stream brings is taken. A ledger whose head is older
//! than what was seen, or has another past, was restored from an older copy or rewritten; the engine does nothing on it.
//! A ledger that does not answer is not one that has changed: that is for [`super::intake`] to bear.
//! Tests: `tests/engine/continuity.rs`.

use ledger::{Extension, LedgerError};
use trust::{
    continuity::continues,
    note::{Checkpoint, NoteVerifier},
};

use super::{Engine, EngineError};

impl Engine {
    /// Verifies that the ledger continues what the journal knows, and remembers its head.
    pub(super) async fn same_ledger(&self) -> Result<(), EngineError> {
        let known = self.journal.verified_head()?;
        let before = known.as_deref().map(|note| self.signed(note)).transpose()?;
        let found = match self.extension(before.as_ref()).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the ledger's head cannot be compared with what the journal knows");
                return Ok(());
            }
        };
        let head = self.signed(&found.checkpoint)?;
        if let Some(before) = &before {
            continues(before, &head, &found.proof)?;
        }
        if before.as_ref() != Some(&head) {
            self.journal.set_verified_head(&found.checkpoint)?;
        }
        Ok(())
    }

    async fn extension(&self, before: Option<&Checkpoint>) -> Result<Extension, LedgerError> {
        match self.ledger.extension(before.map_or(0, |c| c.size)).await {
            // Shorter than what is known: its head says so itself.
            Err(LedgerError::Range { .. }) => {
                Ok(Extension { checkpoint: self.ledger.head().await?, proof: Vec::new() })
            }
            other => other,
        }
    }

    /// A checkpoint that a log of the trust roots has signed.
    fn signed(&self, note: &str) -> Result<Checkpoint, EngineError> {
        let roots = self.roots();
        let keys = roots.logs.iter().filter_map(|key| NoteVerifier::parse(key).ok());
        let mut why = "the trust roots name no log".to_owned();
        for key in keys {
            match key.checkpoint(note) {
                Ok(checkpoint) => return Ok(checkpoint),
                Err(e) => why = e.to_string(),
            }
        }
        Err(EngineError::Head(why))
    }
}
