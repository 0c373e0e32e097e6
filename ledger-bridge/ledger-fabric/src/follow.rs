//! Following the channel: its blocks from a peer, each verified and taken into the mirror.
//!
//! A block is taken when its header follows the one before, the channel's orderers signed it, and every transaction of the
//! contract that the peer calls valid was endorsed as the trust roots ask. Blocks up to the pinned configuration block are
//! tied to it by their hashes, and hold nothing of the contract's. What a transaction's validity is, is one peer's word here;
//! before anything is done about an entry, peers of several organisations have said it ([`crate::ledger`]). A configuration
//! block changes whom to believe from the next block on. Tests: `tests/port.rs`.

use std::{
    cmp::Ordering,
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fabric::{
    block::{Block, data_hash},
    channel::Channel,
    gateway::message::{ChaincodeHeaderExtension, Envelope, Payload, ValidationCode},
    message::ChannelHeader,
    proof::{self, ProofError, Proven, Rules},
};
use ledger_contract::transaction::{Answer, Decided};
use prost::Message as _;
use trust::{Digest, identity::ChannelRoot};

use crate::mirror::{Applied, Mirror, MirrorError};

/// `HeaderType.CONFIG`.
const CONFIG: i32 = 1;
/// `HeaderType.ENDORSER_TRANSACTION`.
const ENDORSER_TRANSACTION: i32 = 3;

/// Why a block is not taken. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The trust roots' configuration block.
    #[error("the pinned configuration block cannot be used: {0}")]
    Root(String),
    /// It, or a transaction in it, does not verify.
    #[error("block {block} is not accepted: {source}")]
    Proof {
        /// Its number.
        block: u64,
        /// Why.
        source: ProofError,
    },
    /// It is not the one that comes next, or holds what it cannot.
    #[error("block {block} is not accepted: {problem}")]
    Other {
        /// Its number.
        block: u64,
        /// Why.
        problem: String,
    },
    /// The mirror does not take it.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

/// Who takes blocks.
pub struct Follower {
    root: ChannelRoot,
    pinned: Channel,
    channel: RwLock<Arc<Channel>>,
    mirror: Arc<Mirror>,
}

/// A transaction of a block, as its header says.
struct Listed {
    kind: i32,
    chaincode: String,
}

fn listed(envelope: &[u8]) -> Option<Listed> {
    let envelope = Envelope::decode(envelope).ok()?;
    let header = Payload::decode(envelope.payload.as_slice()).ok()?.header?;
    let header = ChannelHeader::decode(header.channel_header.as_slice()).ok()?;
    let extension = ChaincodeHeaderExtension::decode(header.extension.as_slice()).unwrap_or_default();
    let chaincode = extension.chaincode_id.unwrap_or_default().name;
    Some(Listed { kind: header.kind, chaincode })
}

impl Follower {
    /// The channel as the trust roots pin it.
    pub fn pinned(root: &ChannelRoot) -> Result<Channel, FollowError> {
        let bytes = STANDARD.decode(&root.configuration).map_err(|e| FollowError::Root(e.to_string()))?;
        Channel::from_block(&bytes).map_err(|e| FollowError::Root(e.to_string()))
    }

    /// Goes on where the mirror is, from the configuration that its blocks brought.
    pub fn open(root: ChannelRoot, mirror: Arc<Mirror>) -> Result<Self, FollowError> {
        let pinned = Self::pinned(&root)?;
        let mut channel = pinned.clone();
        for block in mirror.configuration(pinned.number(), u64::MAX)? {
            let after = channel.number();
            channel = channel.follow(&block).map_err(|source| FollowError::Proof { block: after, source })?;
        }
        Ok(Self { root, pinned, channel: RwLock::new(Arc::new(channel)), mirror })
    }

    /// The channel's newest configuration.
    pub fn channel(&self) -> Arc<Channel> {
        Arc::clone(&self.channel.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Verifies the block that comes next and takes it.
    pub fn take(&self, block: &Block) -> Result<(), FollowError> {
        let channel = self.channel();
        let (number, hash) = self.verified(&channel, block)?;
        let failed = |source| FollowError::Proof { block: number, source };
        let rules =
            Rules { channel: &channel, chaincode: &self.root.chaincode, endorsers: &self.root.endorsers };
        let codes = block.codes();
        let (mut applied, mut next) = (Vec::new(), None);
        for (index, envelope) in (0_u32..).zip(block.envelopes()) {
            let Some(it) = listed(envelope) else { continue };
            if it.kind == CONFIG && number > self.pinned.number() {
                let bytes = block.encode_to_vec();
                next = Some((channel.follow(&bytes).map_err(failed)?, bytes));
            }
            let ours = it.kind == ENDORSER_TRANSACTION && it.chaincode == self.root.chaincode;
            let code = usize::try_from(index).ok().and_then(|at| codes.get(at));
            if ours && code == Some(&ValidationCode::Valid) {
                let proven = proof::transaction(&rules, number, index, envelope).map_err(failed)?;
                applied.extend(self.decided(number, proven)?);
            }
        }
        let bytes = next.as_ref().map(|(_, bytes)| bytes.as_slice());
        self.mirror.take(number, &hash, &applied, bytes)?;
        if let Some((next, _)) = next {
            *self.channel.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        }
        Ok(())
    }

    /// Number and header hash of the block that comes next: signed by the orderers, or tied by its hash to the pinned block.
    fn verified(&self, channel: &Channel, block: &Block) -> Result<(u64, Digest), FollowError> {
        let header = block.header.clone().unwrap_or_default();
        let number = header.number;
        let other = |problem: String| Err(FollowError::Other { block: number, problem });
        let at = self.mirror.at();
        if number != at.next {
            return other(format!("block {} comes next", at.next));
        }
        if at.hash.is_some_and(|hash| header.previous_hash != hash.0) {
            return other("it does not follow the block before: the channel has another past".to_owned());
        }
        let Some(der) = header.to_der() else { return other("its header cannot be".to_owned()) };
        let hash = Digest::of(der);
        match number.cmp(&self.pinned.number()) {
            Ordering::Equal if hash != self.pinned.header().hash => {
                return other("it is not the configuration block of the trust roots".to_owned());
            }
            // Of later ones the proof looks.
            Ordering::Less | Ordering::Equal if header.data_hash != data_hash(block.envelopes()).0 => {
                return other("its transactions are not those of its header".to_owned());
            }
            Ordering::Less | Ordering::Equal => {}
            Ordering::Greater => {
                let source = |source| FollowError::Proof { block: number, source };
                proof::verify_block(channel, block).map_err(source)?;
            }
        }
        Ok((number, hash))
    }

    /// What a transaction of the contract did; `None`: it only looked.
    fn decided(&self, block: u64, it: Proven) -> Result<Option<Applied>, FollowError> {
        let other = |problem: String| Err(FollowError::Other { block, problem });
        if it.writes.is_empty() {
            return Ok(None);
        }
        if block < self.pinned.number() {
            return other(format!(
                "the contract has decided before configuration block {}, which the trust roots pin: pin the one that was in force then",
                self.pinned.number()
            ));
        }
        let answer: Answer = match serde_json::from_slice(&it.response.payload) {
            Ok(answer) => answer,
            Err(e) => {
                return other(format!(
                    "transaction {} wrote, and answers what the contract does not: {e}",
                    it.tx_id
                ));
            }
        };
        let entries = (0..).zip(answer.decided).filter_map(|(n, decided)| match decided {
            Decided::Entry { entry } => Some((n, *entry)),
            _ => None,
        });
        Ok(Some(Applied { decided: entries.collect(), tx_id: it.tx_id, writes: it.writes }))
    }
}
