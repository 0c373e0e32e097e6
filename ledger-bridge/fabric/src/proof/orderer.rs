//! A block's header and who signed it.

use trust::{Digest, UnixTime};

use super::{
    error::{Checked, ProofCode, ProofError, canonical, decode, ensure, refuse},
    signer::{Of, identity, member},
};
use crate::{
    block::{Block, BlockHeader, Metadata, MetadataSignature, OrdererBlockMetadata, SIGNATURES, data_hash},
    channel::Channel,
    gateway::message::Envelope,
    message::SignatureHeader,
};

/// Most orderers' signatures on a block that are looked at.
const MAX_SIGNATURES: usize = 16;

/// A block's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// From 0.
    pub number: u64,
    /// Its hash.
    pub hash: Digest,
    /// Hash of the header before; of block 0 all zero.
    pub previous: Digest,
    /// Hash over all envelopes.
    pub data_hash: Digest,
    /// Number of the configuration block that was in force; a configuration block names itself.
    pub configuration: u64,
}

impl Header {
    pub(crate) fn of(header: &BlockHeader, configuration: u64) -> Option<Self> {
        let digest = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).ok().map(Digest);
        let previous = match (header.number, header.previous_hash.as_slice()) {
            (0, []) => Digest([0; 32]),
            (_, bytes) => digest(bytes)?,
        };
        Some(Self {
            number: header.number,
            hash: Digest::of(header.to_der()?),
            previous,
            data_hash: digest(&header.data_hash)?,
            configuration,
        })
    }

    /// A hash in a header.
    pub(super) fn digest(bytes: &[u8]) -> Checked<Digest> {
        match <[u8; 32]>::try_from(bytes) {
            Ok(bytes) => Ok(Digest(bytes)),
            Err(_) => {
                refuse(ProofCode::BlockFormat, format!("a hash of {} bytes, SHA-256 has 32", bytes.len()))
            }
        }
    }

    /// Is it the one after `previous`?
    pub fn after(&self, previous: &Self) -> Result<(), ProofError> {
        let next = previous.number.checked_add(1) == Some(self.number);
        ensure(next && self.previous == previous.hash, ProofCode::Chain, || {
            let (number, hash) = (previous.number, previous.hash);
            format!("block {} follows {}, not block {number} with {hash}", self.number, self.previous)
        })
    }
}

/// Verifies a block: its envelopes are those of its header, which an orderer of the channel signed, under this configuration or
/// with a later one in it ([`Channel::follow`]). The orderer's certificate may have expired: nobody vouches for a block's time.
pub fn verify_block(channel: &Channel, block: &Block) -> Result<Header, ProofError> {
    let header = block.header.clone().unwrap_or_default();
    let hash = data_hash(block.envelopes());
    ensure(header.data_hash == hash.0, ProofCode::DataHash, || {
        format!("the envelopes of block {} have the hash {hash}, its header another", header.number)
    })?;
    well_formed(block.envelopes())?;
    let configuration = verify(channel, &header, block.metadata(SIGNATURES), None)?;
    let ours = configuration == channel.number();
    let new = configuration == header.number && header.number > channel.number();
    ensure(ours || new, ProofCode::Configuration, || {
        let (number, channel) = (header.number, channel.number());
        format!(
            "block {number} was made under configuration block {configuration}, the channel is of {channel}"
        )
    })?;
    match Header::of(&header, configuration) {
        Some(header) => Ok(header),
        None => refuse(
            ProofCode::BlockFormat,
            format!("the hashes of block {} are none of SHA-256", header.number),
        ),
    }
}

/// Is each an envelope in its one encoding, with payload and signature? Where one ends and the next begins is not in
/// their hash.
pub(super) fn well_formed(envelopes: &[Vec<u8>]) -> Checked<()> {
    ensure(!envelopes.is_empty(), ProofCode::BlockFormat, || "the block is empty".into())?;
    for (n, envelope) in envelopes.iter().enumerate() {
        let it: Envelope = canonical(&format!("envelope {n} of the block"), envelope)?;
        ensure(!it.payload.is_empty() && !it.signature.is_empty(), ProofCode::Format, || {
            format!("envelope {n} of the block has no payload or no signature")
        })?;
    }
    Ok(())
}

/// Number of the configuration block that was in force, as an entry [`SIGNATURES`] says.
pub(super) fn configuration(signatures: &[u8]) -> Checked<u64> {
    read(signatures).map(|(_, configuration)| configuration)
}

fn read(signatures: &[u8]) -> Checked<(Metadata, u64)> {
    let format = ProofCode::BlockFormat;
    let metadata: Metadata = decode(format, "the block's signatures", signatures)?;
    let value: OrdererBlockMetadata = decode(format, "the block's metadata", &metadata.value)?;
    match value.last_config {
        Some(last) => Ok((metadata, last.index)),
        // Protobuf has no field for block 0 within the message, but the message.
        None => refuse(format, "the block's metadata names no configuration"),
    }
}

/// Has an orderer of the channel signed the header? The number of the configuration block that it signed with it.
pub(super) fn verify(
    channel: &Channel,
    header: &BlockHeader,
    signatures: &[u8],
    at: Option<UnixTime>,
) -> Checked<u64> {
    let (metadata, configuration) = read(signatures)?;
    let Some(der) = header.to_der() else {
        return refuse(ProofCode::BlockFormat, "the hashes of the header are none of SHA-256");
    };
    let mut why = None;
    for signature in metadata.signatures.iter().take(MAX_SIGNATURES) {
        match signed(channel, signature, &metadata.value, &der, at) {
            Ok(()) => return Ok(configuration),
            Err(e) => why = why.or(Some(e)),
        }
    }
    match why {
        Some(e) => Err(e),
        None => refuse(ProofCode::OrdererSignature, format!("nobody signed block {}", header.number)),
    }
}

fn signed(
    channel: &Channel,
    signature: &MetadataSignature,
    value: &[u8],
    header: &[u8],
    at: Option<UnixTime>,
) -> Checked<()> {
    let of: SignatureHeader =
        decode(ProofCode::BlockFormat, "a signature's header", &signature.signature_header)?;
    let orderer = identity(&of.creator).and_then(|id| member(channel, Of::Orderers, &id, at));
    let orderer =
        orderer.or_else(|e| refuse(ProofCode::OrdererIdentity, format!("the block's signer {e}")))?;
    let message = [value, &signature.signature_header, header].concat();
    orderer.verify(&message, &signature.signature).or_else(|e| {
        let orderer = &orderer.msp;
        refuse(ProofCode::OrdererSignature, format!("an orderer of `{orderer}` did not sign this block: {e}"))
    })
}

impl Channel {
    /// The channel as a later configuration block has it: signed by an orderer of this configuration, of the same channel, its
    /// sequence higher.
    pub fn follow(&self, block: &[u8]) -> Result<Self, ProofError> {
        let block: Block = decode(ProofCode::BlockFormat, "the block", block)?;
        let channel = Self::read(&block).or_else(|e| refuse(ProofCode::BlockFormat, e.to_string()))?;
        ensure(channel.name() == self.name(), ProofCode::WrongChannel, || {
            format!("the configuration is of channel `{}`, not `{}`", channel.name(), self.name())
        })?;
        let header = verify_block(self, &block)?;
        let later = channel.number() > self.number() && channel.sequence() > self.sequence();
        ensure(later && header.configuration == header.number, ProofCode::ConfigurationOrder, || {
            format!(
                "block {} has configuration {} and is made under block {}; known is {} of block {}",
                channel.number(),
                channel.sequence(),
                header.configuration,
                self.sequence(),
                self.number()
            )
        })?;
        Ok(channel)
    }
}
