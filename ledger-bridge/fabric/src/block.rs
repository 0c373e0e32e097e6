//! Blocks: `common/common.proto`, `common/configtx.proto`, `msp/msp_config.proto`, `ledger/rwset/*.proto`, and what `qscc` and
//! `Deliver` say. Only fields that are read here. A block's hashes are here too; who signed it is [`crate::proof`]'s.

use std::collections::BTreeMap;

use prost::Message as _;
use trust::Digest;

use crate::{
    gateway::message::{Endorsement, Envelope, ValidationCode},
    message::{Response, Timestamp},
};

/// A block, as orderers make and peers keep it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Block {
    /// What is signed.
    #[prost(message, optional, tag = "1")]
    pub header: Option<BlockHeader>,
    /// Transactions.
    #[prost(message, optional, tag = "2")]
    pub data: Option<BlockData>,
    /// Signatures, and what the peer that has it says of each transaction.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<BlockMetadata>,
}

/// A block's header.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BlockHeader {
    /// From 0.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Hash of the header before.
    #[prost(bytes = "vec", tag = "2")]
    pub previous_hash: Vec<u8>,
    /// SHA-256 over all envelopes.
    #[prost(bytes = "vec", tag = "3")]
    pub data_hash: Vec<u8>,
}

/// A block's transactions.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BlockData {
    /// An [`Envelope`] each.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub data: Vec<Vec<u8>>,
}

/// A block's metadata: [`SIGNATURES`], [`CODES`] and others.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BlockMetadata {
    /// By index.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub metadata: Vec<Vec<u8>>,
}

/// Index of the orderer's signatures, a [`Metadata`].
pub const SIGNATURES: usize = 0;
/// Index of what the peer made of each transaction, one byte each, under nobody's signature.
pub const CODES: usize = 2;

/// Signed metadata.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Metadata {
    /// An [`OrdererBlockMetadata`].
    #[prost(bytes = "vec", tag = "1")]
    pub value: Vec<u8>,
    /// Each over value, signature header and the header's DER.
    #[prost(message, repeated, tag = "2")]
    pub signatures: Vec<MetadataSignature>,
}

/// An orderer's signature.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MetadataSignature {
    /// A [`crate::message::SignatureHeader`].
    #[prost(bytes = "vec", tag = "1")]
    pub signature_header: Vec<u8>,
    /// DER.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// What orderers sign besides the header.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct OrdererBlockMetadata {
    /// The configuration in force.
    #[prost(message, optional, tag = "1")]
    pub last_config: Option<LastConfig>,
    /// The consenters' own.
    #[prost(bytes = "vec", tag = "2")]
    pub consenter_metadata: Vec<u8>,
}

/// The configuration in force.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LastConfig {
    /// Number of its block.
    #[prost(uint64, tag = "1")]
    pub index: u64,
}

/// Data of a configuration transaction.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfigEnvelope {
    /// The whole new configuration.
    #[prost(message, optional, tag = "1")]
    pub config: Option<Config>,
}

/// A channel's configuration.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Config {
    /// One more each time.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// The tree.
    #[prost(message, optional, tag = "2")]
    pub channel_group: Option<ConfigGroup>,
}

/// A node of the tree; its policies are not read here.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfigGroup {
    /// One more with each change of its members.
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// Nodes below.
    #[prost(btree_map = "string, message", tag = "2")]
    pub groups: BTreeMap<String, ConfigGroup>,
    /// Values.
    #[prost(btree_map = "string, message", tag = "3")]
    pub values: BTreeMap<String, ConfigValue>,
}

/// A value of the tree.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConfigValue {
    /// One more with each change.
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// By name.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// Value `ConsensusType`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConsensusType {
    /// `etcdraft`.
    #[prost(string, tag = "1")]
    pub kind: String,
}

/// Value `HashingAlgorithm`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HashingAlgorithm {
    /// `SHA256`.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Value `BlockDataHashingStructure`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct BlockDataHashingStructure {
    /// 2^32 - 1: flat.
    #[prost(uint32, tag = "1")]
    pub width: u32,
}

/// Value `MSP`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MspConfig {
    /// 0: X.509.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// A [`FabricMspConfig`].
    #[prost(bytes = "vec", tag = "2")]
    pub config: Vec<u8>,
}

/// An organisation.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FabricMspConfig {
    /// MSP id.
    #[prost(string, tag = "1")]
    pub name: String,
    /// PEM each.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub root_certs: Vec<Vec<u8>>,
    /// PEM each.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub intermediate_certs: Vec<Vec<u8>>,
    /// Certificate revocation lists.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub revocation_list: Vec<Vec<u8>>,
    /// OUs of members.
    #[prost(message, repeated, tag = "7")]
    pub organizational_unit_identifiers: Vec<FabricOuIdentifier>,
    /// Hash functions.
    #[prost(message, optional, tag = "8")]
    pub crypto_config: Option<FabricCryptoConfig>,
    /// OUs that are roles.
    #[prost(message, optional, tag = "11")]
    pub fabric_node_ous: Option<FabricNodeOus>,
}

/// Hash functions of an MSP.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FabricCryptoConfig {
    /// `SHA2`, or empty.
    #[prost(string, tag = "1")]
    pub signature_hash_family: String,
}

/// An OU.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FabricOuIdentifier {
    /// The CA whose certificates it counts in, PEM; empty: any.
    #[prost(bytes = "vec", tag = "1")]
    pub certificate: Vec<u8>,
    /// It.
    #[prost(string, tag = "2")]
    pub organizational_unit_identifier: String,
}

/// OUs that are roles.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FabricNodeOus {
    /// Are they?
    #[prost(bool, tag = "1")]
    pub enable: bool,
    /// Clients.
    #[prost(message, optional, tag = "2")]
    pub client: Option<FabricOuIdentifier>,
    /// Peers.
    #[prost(message, optional, tag = "3")]
    pub peer: Option<FabricOuIdentifier>,
    /// Administrators.
    #[prost(message, optional, tag = "4")]
    pub admin: Option<FabricOuIdentifier>,
    /// Orderers.
    #[prost(message, optional, tag = "5")]
    pub orderer: Option<FabricOuIdentifier>,
}

/// Read and write sets of a transaction.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TxReadWriteSet {
    /// 0: keys and values.
    #[prost(int32, tag = "1")]
    pub data_model: i32,
    /// One for each chaincode.
    #[prost(message, repeated, tag = "2")]
    pub ns_rwset: Vec<NsReadWriteSet>,
}

/// Of a chaincode; those of private data are not read here.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NsReadWriteSet {
    /// Chaincode.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// A [`KvRwSet`].
    #[prost(bytes = "vec", tag = "2")]
    pub rwset: Vec<u8>,
}

/// `kvrwset.KVRWSet`; what was read is not read here.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KvRwSet {
    /// What was written.
    #[prost(message, repeated, tag = "3")]
    pub writes: Vec<KvWrite>,
}

/// A key that was written.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KvWrite {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Deleted?
    #[prost(bool, tag = "2")]
    pub is_delete: bool,
    /// Value.
    #[prost(bytes = "vec", tag = "3")]
    pub value: Vec<u8>,
}

/// What an endorser answers to a proposal.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ProposalResponse {
    /// 1.
    #[prost(int32, tag = "1")]
    pub version: i32,
    /// Not used.
    #[prost(message, optional, tag = "2")]
    pub timestamp: Option<Timestamp>,
    /// The chaincode's answer, or why there is none.
    #[prost(message, optional, tag = "4")]
    pub response: Option<Response>,
    /// A [`crate::gateway::message::ProposalResponsePayload`].
    #[prost(bytes = "vec", tag = "5")]
    pub payload: Vec<u8>,
    /// Over it.
    #[prost(message, optional, tag = "6")]
    pub endorsement: Option<Endorsement>,
}

/// What `qscc` says of a transaction.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ProcessedTransaction {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub transaction_envelope: Option<Envelope>,
    /// A [`ValidationCode`].
    #[prost(int32, tag = "2")]
    pub validation_code: i32,
}

impl BlockHeader {
    /// What is hashed and signed: DER of SEQUENCE { number INTEGER, previous OCTET STRING, data OCTET STRING }. `None`: a hash
    /// is longer than any is.
    #[must_use]
    pub fn to_der(&self) -> Option<Vec<u8>> {
        let bytes = self.number.to_be_bytes();
        let mut number: Vec<u8> = bytes.iter().copied().skip_while(|b| *b == 0).collect();
        // An integer has a byte at least, and its first bit is its sign.
        if number.first().is_none_or(|b| *b >= 0x80) {
            number.insert(0, 0);
        }
        let mut inner = Vec::new();
        for (tag, value) in [(0x02, number.as_slice()), (0x04, &self.previous_hash), (0x04, &self.data_hash)]
        {
            inner.extend([tag, short(value, 32)?]);
            inner.extend_from_slice(value);
        }
        let mut der = vec![0x30, short(&inner, 127)?];
        der.append(&mut inner);
        Some(der)
    }
}

/// A length of one byte.
fn short(value: &[u8], most: usize) -> Option<u8> {
    u8::try_from(value.len()).ok().filter(|_| value.len() <= most)
}

impl Block {
    /// Envelopes, in order.
    #[must_use]
    pub fn envelopes(&self) -> &[Vec<u8>] {
        self.data.as_ref().map_or(&[], |d| &d.data)
    }

    /// One entry of the metadata, or nothing.
    #[must_use]
    pub fn metadata(&self, index: usize) -> &[u8] {
        self.metadata.as_ref().and_then(|m| m.metadata.get(index)).map_or(&[], Vec::as_slice)
    }

    /// What the peer that gave the block made of each transaction: its word, which nobody signed.
    #[must_use]
    pub fn codes(&self) -> Vec<ValidationCode> {
        let code =
            |b: &u8| ValidationCode::try_from(i32::from(*b)).unwrap_or(ValidationCode::InvalidOtherReason);
        self.metadata(CODES).iter().map(code).collect()
    }
}

impl Block {
    /// Number of the configuration block that was in force, as its orderer says; nothing is verified.
    #[must_use]
    pub fn configuration(&self) -> Option<u64> {
        let metadata = Metadata::decode(self.metadata(SIGNATURES)).ok()?;
        Some(OrdererBlockMetadata::decode(metadata.value.as_slice()).ok()?.last_config?.index)
    }
}

/// Hash over all envelopes of a block.
#[must_use]
pub fn data_hash(envelopes: &[Vec<u8>]) -> Digest {
    Digest::of(envelopes.concat())
}
