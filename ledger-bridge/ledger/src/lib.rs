//! The ledger port, and the embedded append-only log behind it.
//!
//! [`Ledger`] is all that the rest of the product knows of a ledger: requests go in, decided entries with proofs come
//! out. [`embedded::Log`] keeps them in a directory of one machine; a Fabric gateway implements the same port.
//! Nothing here decides anything: the contract does (`ledger_contract::decide`).

pub mod backup;
pub mod embedded;
mod error;
pub mod fsck;
pub mod witness;

use async_trait::async_trait;
use ledger_contract::{evidence::ProvenEntry, records::Entry};
use trust::{Digest, Envelope};

pub use error::LedgerError;

/// Most entries that one call of [`Ledger::events`] or [`Ledger::range`] returns.
pub const MAX_PAGE: usize = 1000;

/// A request that was decided and is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// What was decided; a refusal by policy has `verdict.approved == false`.
    pub entry: Entry,
    /// The entry's exact bytes with its inclusion proof.
    pub proven: ProvenEntry,
}

/// A checkpoint with the proof that it continues an earlier tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// The current checkpoint, a signed note.
    pub checkpoint: String,
    /// RFC 9162 consistency proof to it.
    pub proof: Vec<Digest>,
}

/// How often [`Ledger::extension`] looks again at a ledger that has grown meanwhile.
const MAX_LOOKS: usize = 16;

/// A ledger.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Its name: the origin of its checkpoints.
    fn name(&self) -> &str;

    /// Has a request decided. Durable before it returns. The identical envelope again returns the first outcome.
    /// A request that no identity known to the ledger has signed is answered with
    /// [`LedgerError::Unauthenticated`] and leaves no entry.
    async fn submit(&self, request: Envelope) -> Result<Committed, LedgerError>;

    /// Entries with an event, in order, after position `after`; at most `limit` and [`MAX_PAGE`].
    async fn events(&self, after: Option<u64>, limit: usize) -> Result<Vec<ProvenEntry>, LedgerError>;

    /// Returns as soon as there is an entry with an event after position `after`; an error when the ledger closes.
    async fn wait(&self, after: Option<u64>) -> Result<(), LedgerError>;

    /// One entry, proven in the current checkpoint, and by its channel where it is in one; `None` beyond the end.
    async fn entry(&self, position: u64) -> Result<Option<ProvenEntry>, LedgerError>;

    /// The number and the bytes of one entry, without a proof: for who shows it. A shared ledger takes an entry's name too
    /// ([`ledger_contract::transaction::position_of`]), which is what its state refers to.
    async fn read(&self, position: u64) -> Result<Option<(u64, String)>, LedgerError> {
        Ok(self.entry(position).await?.map(|proven| (proven.proof.index, proven.entry)))
    }

    /// How many entries with an event there are after position `after`, counted up to `most`.
    async fn waiting(&self, after: Option<u64>, most: usize) -> Result<u64, LedgerError> {
        Ok(self.events(after, most).await?.len() as u64)
    }

    /// Exact bytes of the entries from position `from`; at most `limit` and [`MAX_PAGE`]. An entry of a
    /// shared ledger whose request is not kept here is sealed ([`ledger_contract::transaction::SealedEntry`]).
    async fn range(&self, from: u64, limit: usize) -> Result<Vec<String>, LedgerError>;

    /// The current checkpoint, a signed note.
    async fn head(&self) -> Result<String, LedgerError>;

    /// RFC 9162 consistency proof from the tree of `old_size` entries to the current checkpoint's.
    async fn consistency(&self, old_size: u64) -> Result<Vec<Digest>, LedgerError>;

    /// The current checkpoint with the consistency proof from the tree of `old_size` entries to it;
    /// [`LedgerError::Range`] when the ledger is shorter than that.
    async fn extension(&self, old_size: u64) -> Result<Extension, LedgerError> {
        let mut checkpoint = self.head().await?;
        for _ in 0..MAX_LOOKS {
            let proof = self.consistency(old_size).await?;
            let after = self.head().await?;
            if after == checkpoint {
                return Ok(Extension { checkpoint, proof });
            }
            checkpoint = after;
        }
        Err(LedgerError::Growing)
    }

    /// One value of the state (keys: `ledger_contract::state`).
    async fn state(&self, key: &str) -> Result<Option<Vec<u8>>, LedgerError>;

    /// All values whose key begins with `prefix`, sorted by key.
    async fn state_prefix(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError>;
}
