//! The embedded log.

use std::path::Path;

use async_trait::async_trait;
use ledger_contract::evidence::ProvenEntry;
use trust::{
    Digest, Envelope, UnixTime,
    note::{NoteSigner, NoteVerifier},
};

use crate::{Committed, Ledger, LedgerError};

/// An append-only log in a directory.
#[derive(Debug)]
pub struct Log {
    name: String,
    verifier: NoteVerifier,
}

impl Log {
    /// Creates a log in `dir` (new or empty) with its key and its genesis, and closes it again.
    pub fn init(
        dir: &Path,
        signer: &NoteSigner,
        genesis: Envelope,
        time: UnixTime,
    ) -> Result<(), LedgerError> {
        let _ = (signer, genesis, time);
        Err(LedgerError::Missing { dir: dir.to_owned() })
    }

    /// Opens the log in `dir`; never creates one.
    pub fn open(
        dir: &Path,
        clock: impl Fn() -> UnixTime + Send + Sync + 'static,
    ) -> Result<Self, LedgerError> {
        let _ = clock;
        Err(LedgerError::Missing { dir: dir.to_owned() })
    }

    /// The public key of its checkpoints; its text form is what `TrustRoots::logs` lists.
    #[must_use]
    pub fn verifier(&self) -> &NoteVerifier {
        &self.verifier
    }
}

#[async_trait]
impl Ledger for Log {
    fn name(&self) -> &str {
        &self.name
    }
    async fn submit(&self, _request: Envelope) -> Result<Committed, LedgerError> {
        Err(LedgerError::Closed { reason: "not open".into() })
    }
    async fn events(&self, _after: Option<u64>, _limit: usize) -> Result<Vec<ProvenEntry>, LedgerError> {
        Err(LedgerError::Closed { reason: "not open".into() })
    }
    async fn wait(&self, _after: Option<u64>) -> Result<(), LedgerError> {
        Err(LedgerError::Closed { reason: "not open".into() })
    }
    async fn entry(&self, _position: u64) -> Result<Option<ProvenEntry>, LedgerError> {
        Err(LedgerError::Closed { reason: "not open".into() })
    }
    async fn range(&self, _from: u64, _limit: usize) -> Result<Vec<String>, LedgerError> {
        Err(LedgerError::Closed { reason: "not open".into() })
    }
    async fn head(&self) -> Result<String, LedgerError> {
        Err(LedgerError::Closed { reason: "not open".into() })
    }
    async fn consistency(&self, _old_size: u64) -> Result<Vec<Digest>, LedgerError> {
        Err(LedgerError::Closed { reason: "not open".into() })
    }
    async fn state(&self, _key: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        Err(LedgerError::Closed { reason: "not open".into() })
    }
    async fn state_prefix(&self, _prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        Err(LedgerError::Closed { reason: "not open".into() })
    }
}
