//! The rules in force: what `trust.json` and `config.toml` pin, and what the ledger proves to have been changed since.
//!
//! The ledger's state says only where the changes are; each is verified from the pins before it counts
//! ([`ledger_contract::constitution`]). A change that does not verify is none: what is decided under it is refused.

use std::sync::PoisonError;

use ledger::LedgerError;
use ledger_contract::{Constitution, evidence::ProvenEntry};
use tokio::sync::watch;
use trust::TrustRoots;

use super::Engine;

/// Where the state keeps the positions of the changes.
const CHANGES: &str = "governance/";

impl Engine {
    pub(super) fn constitution<T>(&self, f: impl FnOnce(&Constitution) -> T) -> T {
        f(&self.constitution.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Organisations and log keys as of now.
    #[must_use]
    pub fn roots(&self) -> TrustRoots {
        self.constitution(|c| c.now().roots.clone())
    }

    /// Changes with every change of the rules that is followed.
    #[must_use]
    pub fn rules_changed(&self) -> watch::Receiver<u64> {
        self.rules.subscribe()
    }

    /// Reads the changes that came before the place in the stream where we go on; once.
    pub(super) async fn learn_rules(&self) -> Result<(), LedgerError> {
        if self.constitution(|c| c.followed_to().is_some()) {
            return Ok(());
        }
        let mut positions = vec![0];
        for (_, value) in self.ledger.state_prefix(CHANGES).await? {
            positions.extend(serde_json::from_slice::<u64>(&value).ok());
        }
        let mut changes = Vec::with_capacity(positions.len());
        for position in positions {
            match self.ledger.entry(position).await {
                // What was decided by that change is refused as long as it is not known here.
                Err(error @ LedgerError::Elsewhere { .. }) => {
                    tracing::error!(position, %error, "a change of the rules is not known here");
                }
                found => changes.extend(found?),
            }
        }
        changes.sort_by_key(ProvenEntry::place);
        changes.iter().for_each(|proven| self.follow_rules(proven));
        Ok(())
    }

    /// Follows one change of the stream, or of the past.
    pub(super) fn follow_rules(&self, proven: &ProvenEntry) {
        let mut rules = self.constitution.write().unwrap_or_else(PoisonError::into_inner);
        match rules.follow(proven) {
            Ok(()) => {
                tracing::info!(position = proven.proof.index, "rules followed");
                self.rules.send_modify(|n| *n = n.wrapping_add(1));
            }
            Err(refusal) => {
                tracing::error!(position = proven.proof.index, %refusal, "a change of the rules is not accepted");
            }
        }
    }
}
