//! Proofs: a transaction of a chaincode is in a block of a channel, and valid. From the channel's configuration block alone.
//!
//! What is shown, by whom:
//! - the block's header, and through its data hash every envelope in it: an orderer, who signs with it which configuration was
//!   in force ([`verify_block`]);
//! - what the transaction calls, and that it was wanted: its creator, who signs the envelope;
//! - its answer, event and writes: a peer of each organisation that must endorse ([`transaction`]);
//! - that it is VALID, which no block says under a signature: a peer of each of them, asked `qscc GetTransactionByID`
//!   ([`Validity`]). What such a peer must have signed is made from the transaction itself, so a proof can carry no other.
//!
//! Bytes are hashed and verified as they are. What two readers could take for two things is refused: envelopes, whose
//! hash has no lengths in it, and the three parts of a proposal, for the same reason, are taken in the one encoding that
//! protobuf's libraries write. Endorsements that do not count are passed over, as Fabric does; nobody can add one to a
//! transaction and have it refused.
//!
//! Not shown: that no earlier block has the same envelope (who follows the chain sees that; Fabric finds the first
//! one). Never: I/O, a clock, randomness. Tests: `tests/proof.rs` (a real network's blocks), `tests/forgeries.rs`.

mod bytes;
mod error;
mod orderer;
mod signer;
mod transaction;
mod validity;

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use serde::{Deserialize, Serialize};
use trust::{Digest, UnixTime};

pub use bytes::Bytes;
pub use error::{ProofCode, ProofError};
pub use orderer::{Header, verify_block};
pub use transaction::transaction;
pub use validity::{Validity, ValidityError};

use crate::{
    block::{Block, BlockHeader, SIGNATURES, data_hash},
    channel::Channel,
    gateway::message::{Envelope, Payload, ValidationCode},
    message::{ChaincodeEvent, ChannelHeader, Response},
};
use error::{ensure, refuse};

/// Most endorsements of a transaction that are looked at, and most peers' words on it: a bound on the work.
const MAX_SIGNERS: usize = 32;

/// A transaction, its block and peers' words on it: everything a stranger needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransactionProof {
    /// The block's number.
    pub number: u64,
    /// Hash of the header before.
    pub previous: Digest,
    /// All envelopes of the block, in order.
    pub data: Vec<Bytes>,
    /// The orderer's signature: entry [`SIGNATURES`] of the block's metadata.
    pub signatures: Bytes,
    /// Which of the envelopes it is.
    pub transaction: u32,
    /// One for each peer asked.
    pub validity: Vec<Validity>,
}

/// What is asked of a transaction.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The channel, as it was configured when the block was made.
    pub channel: &'a Channel,
    /// Name of the chaincode.
    pub chaincode: &'a str,
    /// A peer of each must have endorsed, and said VALID. Empty: every application organisation of the channel.
    pub endorsers: &'a BTreeSet<String>,
}

impl Rules<'_> {
    /// Those that must have endorsed and are not in `by`.
    fn missing(&self, by: &BTreeSet<String>) -> Vec<String> {
        let all = || self.channel.organisations().map(str::to_owned).collect();
        let wanted: BTreeSet<String> = if self.endorsers.is_empty() { all() } else { self.endorsers.clone() };
        wanted.difference(by).cloned().collect()
    }
}

/// Who submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitter {
    /// MSP id.
    pub msp_id: String,
    /// Certificate, PEM.
    pub certificate: Vec<u8>,
}

/// What was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The transaction's id.
    pub tx_id: String,
    /// The block's number.
    pub number: u64,
    /// The transaction's index in it.
    pub transaction: u32,
    /// The submitter's time.
    pub time: UnixTime,
    /// Who submitted.
    pub creator: Submitter,
    /// What was called; the function's name first.
    pub args: Vec<Vec<u8>>,
    /// What the chaincode answered.
    pub response: Response,
    /// What it emitted.
    pub event: Option<ChaincodeEvent>,
    /// What it wrote under its own name; `None`: deleted.
    pub writes: BTreeMap<String, Option<Vec<u8>>>,
    /// Organisations of the peers that endorsed.
    pub endorsed_by: BTreeSet<String>,
    /// Organisations of the peers that say it is valid.
    pub valid_by: BTreeSet<String>,
}

impl TransactionProof {
    /// Of a transaction of that block: the one that is valid, as the block's peer says, or the first with that id. Nothing is
    /// verified.
    pub fn of(block: &Block, tx_id: &str, validity: Vec<Validity>) -> Result<Self, ProofError> {
        let header = block.header.clone().unwrap_or_default();
        let codes = block.codes();
        let is_it = |envelope: &Vec<u8>| id_of(envelope).is_some_and(|id| id == tx_id);
        let all = || block.envelopes().iter().enumerate().filter(|(_, e)| is_it(e)).map(|(n, _)| n);
        let Some(index) =
            all().find(|n| codes.get(*n) == Some(&ValidationCode::Valid)).or_else(|| all().next())
        else {
            let detail = format!("block {} has no transaction {tx_id}", header.number);
            return refuse(ProofCode::Index, detail);
        };
        Ok(Self {
            number: header.number,
            previous: Header::digest(&header.previous_hash)?,
            data: block.envelopes().iter().cloned().map(Bytes).collect(),
            signatures: Bytes(block.metadata(SIGNATURES).to_vec()),
            transaction: u32::try_from(index).unwrap_or(u32::MAX),
            validity,
        })
    }

    /// Number of the configuration block that was in force, as the block says: of which configuration the [`Channel`] in
    /// [`Rules`] must be. Nothing is verified.
    pub fn configuration(&self) -> Result<u64, ProofError> {
        orderer::configuration(&self.signatures.0)
    }

    /// Verifies all of it.
    pub fn verify(&self, rules: &Rules<'_>) -> Result<Proven, ProofError> {
        let data: Vec<Vec<u8>> = self.data.iter().map(|e| e.0.clone()).collect();
        let header = BlockHeader {
            number: self.number,
            previous_hash: self.previous.0.to_vec(),
            data_hash: data_hash(&data).0.to_vec(),
        };
        orderer::well_formed(&data)?;
        let index = usize::try_from(self.transaction).unwrap_or(usize::MAX);
        let (Some(envelope), Some(before)) = (data.get(index), data.get(..index)) else {
            let detail = format!("transaction {} of {} in the block", self.transaction, data.len());
            return refuse(ProofCode::Index, detail);
        };
        // What is there twice is valid once at most.
        ensure(!before.contains(envelope), ProofCode::Duplicate, || {
            format!("transaction {} stands in the block before", self.transaction)
        })?;
        let mut proven = transaction(rules, self.number, self.transaction, envelope)?;
        let configuration = orderer::verify(rules.channel, &header, &self.signatures.0, Some(proven.time))?;
        ensure(configuration == rules.channel.number(), ProofCode::Configuration, || {
            let channel = rules.channel.number();
            format!(
                "the block was made under configuration block {configuration}, the channel given is of {channel}"
            )
        })?;
        proven.valid_by = validity::verify(rules, &proven.tx_id, envelope, &self.validity)?;
        Ok(proven)
    }
}

/// The id that an envelope says its transaction has; nothing is verified.
fn id_of(envelope: &[u8]) -> Option<String> {
    let envelope = Envelope::decode(envelope).ok()?;
    let header = Payload::decode(envelope.payload.as_slice()).ok()?.header?;
    Some(ChannelHeader::decode(header.channel_header.as_slice()).ok()?.tx_id)
}
