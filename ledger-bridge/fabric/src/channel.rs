//! A channel as its configuration block describes it: who may order, endorse and submit. The trust root of [`crate::proof`].

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use trust::{
    Digest,
    identity::IdentityError,
    msp::{Definition, Msp, Role, Unit},
};

use crate::{
    block::{
        Block, BlockDataHashingStructure, ConfigEnvelope, ConfigGroup, ConsensusType, FabricMspConfig,
        FabricOuIdentifier, HashingAlgorithm, MspConfig, data_hash,
    },
    gateway::message::{Envelope, Payload},
    message::ChannelHeader,
    proof::Header,
};

/// `HeaderType.CONFIG`.
const CONFIG: i32 = 1;
/// Most organisations of a channel.
const MAX_ORGANISATIONS: usize = 256;

/// Why a block is no trust root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Not a block, or none with a configuration.
    #[error("not a configuration block: {0}; `peer channel fetch config` writes one")]
    NotConfiguration(String),
    /// A kind of channel that Fabric 2.5 has, or an organisation, which is not understood here.
    #[error("the channel is not supported: {0}")]
    Unsupported(String),
    /// An organisation's CAs, lists or OUs.
    #[error("organisation `{organisation}` of the channel cannot be read: {source}")]
    Organisation {
        /// MSP id.
        organisation: String,
        /// Why.
        source: IdentityError,
    },
}

/// A channel's configuration.
#[derive(Debug, Clone)]
pub struct Channel {
    name: String,
    number: u64,
    sequence: u64,
    digest: Digest,
    header: Header,
    msps: BTreeMap<String, Msp>,
    application: BTreeSet<String>,
    orderers: BTreeSet<String>,
}

fn none(what: impl Into<String>) -> ChannelError {
    ChannelError::NotConfiguration(what.into())
}

fn decode<M: Message + Default>(what: &str, bytes: &[u8]) -> Result<M, ChannelError> {
    M::decode(bytes).map_err(|e| none(format!("{what}: {e}")))
}

impl Channel {
    /// From a configuration block, or a genesis block, which is trusted as given: no signature is looked at.
    pub fn from_block(block: &[u8]) -> Result<Self, ChannelError> {
        Self::read(&decode("the block", block)?)
    }

    pub(crate) fn read(block: &Block) -> Result<Self, ChannelError> {
        let header = block.header.clone().ok_or_else(|| none("it has no header"))?;
        let [data] = block.envelopes() else { return Err(none("it has not one transaction")) };
        let hash = data_hash(block.envelopes());
        if header.data_hash != hash.0 {
            return Err(none(format!("its transaction has the hash {hash}, its header another")));
        }
        let envelope: Envelope = decode("the transaction", data)?;
        let payload: Payload = decode("the transaction's payload", &envelope.payload)?;
        let headers = payload.header.unwrap_or_default();
        let of: ChannelHeader = decode("the transaction's header", &headers.channel_header)?;
        if of.kind != CONFIG {
            return Err(none(format!(
                "its transaction is of type {}, a configuration of type {CONFIG}",
                of.kind
            )));
        }
        let envelope: ConfigEnvelope = decode("the configuration", &payload.data)?;
        let config = envelope.config.unwrap_or_default();
        let tree = config.channel_group.ok_or_else(|| none("its configuration is empty"))?;
        let mut channel = Self {
            name: of.channel_id,
            number: header.number,
            sequence: config.sequence,
            header: Header::of(&header, header.number)
                .ok_or_else(|| none("the hashes in its header are none of SHA-256"))?,
            digest: Digest::of(&payload.data),
            msps: BTreeMap::new(),
            application: BTreeSet::new(),
            orderers: BTreeSet::new(),
        };
        channel.check_kind(&tree)?;
        channel.application = channel.add_group(&tree, "Application")?;
        channel.orderers = channel.add_group(&tree, "Orderer")?;
        Ok(channel)
    }

    /// Hashes and consensus as they are understood here.
    fn check_kind(&self, tree: &ConfigGroup) -> Result<(), ChannelError> {
        let value = |group: Option<&ConfigGroup>, name: &str| {
            group.and_then(|g| g.values.get(name)).map(|v| v.value.clone()).unwrap_or_default()
        };
        let hash: HashingAlgorithm = decode("HashingAlgorithm", &value(Some(tree), "HashingAlgorithm"))?;
        let width: BlockDataHashingStructure =
            decode("BlockDataHashingStructure", &value(Some(tree), "BlockDataHashingStructure"))?;
        let orderer = tree.groups.get("Orderer");
        let consensus: ConsensusType = decode("ConsensusType", &value(orderer, "ConsensusType"))?;
        if self.name.is_empty() {
            return Err(none("its channel has no name"));
        }
        // Of others one orderer's signature is not enough.
        if hash.name != "SHA256" || width.width != u32::MAX || consensus.kind != "etcdraft" {
            return Err(ChannelError::Unsupported(format!(
                "it hashes with `{}`, width {}, and orders with `{}`; understood are SHA256, {} and etcdraft",
                hash.name,
                width.width,
                consensus.kind,
                u32::MAX
            )));
        }
        Ok(())
    }

    /// Organisations of a group, by MSP id.
    fn add_group(&mut self, tree: &ConfigGroup, group: &str) -> Result<BTreeSet<String>, ChannelError> {
        let mut ids = BTreeSet::new();
        let below = tree.groups.get(group).map(|g| &g.groups);
        if below.is_some_and(|b| b.len() > MAX_ORGANISATIONS) {
            return Err(ChannelError::Unsupported(format!("more than {MAX_ORGANISATIONS} organisations")));
        }
        for (name, organisation) in below.into_iter().flatten() {
            let value = organisation.values.get("MSP").ok_or_else(|| none(format!("`{name}` has no MSP")))?;
            let msp = read_msp(name, &value.value)?;
            let id = msp.id().to_owned();
            match self.msps.get(&id) {
                Some(known) if known.digest() != msp.digest() => {
                    return Err(none(format!("MSP id `{id}` is there twice and not the same")));
                }
                _ => self.msps.insert(id.clone(), msp),
            };
            if !ids.insert(id.clone()) {
                return Err(none(format!("MSP id `{id}` is there twice in {group}")));
            }
        }
        match ids.is_empty() {
            true => Err(none(format!("it has no organisation in {group}"))),
            false => Ok(ids),
        }
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of its configuration block.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// How often it was configured.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Digest of the configuration transaction's data: two channels with the same one are the same.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Header of its configuration block, for who follows the chain from there. Trusted with the block, or verified.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Organisations that endorse and submit, by MSP id.
    pub fn organisations(&self) -> impl Iterator<Item = &str> {
        self.application.iter().map(String::as_str)
    }

    /// Organisations that order, by MSP id.
    pub fn orderers(&self) -> impl Iterator<Item = &str> {
        self.orderers.iter().map(String::as_str)
    }

    pub(crate) const fn application_ids(&self) -> &BTreeSet<String> {
        &self.application
    }

    pub(crate) const fn orderer_ids(&self) -> &BTreeSet<String> {
        &self.orderers
    }

    pub(crate) fn msp(&self, id: &str) -> Option<&Msp> {
        self.msps.get(id)
    }
}

fn read_msp(name: &str, value: &[u8]) -> Result<Msp, ChannelError> {
    let MspConfig { kind, config } = decode("an MSP", value)?;
    if kind != 0 {
        return Err(ChannelError::Unsupported(format!(
            "organisation `{name}` has no X.509 MSP but type {kind}"
        )));
    }
    let config: FabricMspConfig = decode("an MSP", &config)?;
    let family = config.crypto_config.map(|c| c.signature_hash_family).unwrap_or_default();
    if !["", "SHA2"].contains(&family.as_str()) {
        return Err(ChannelError::Unsupported(format!(
            "organisation `{name}` hashes with {family}, not SHA2"
        )));
    }
    if config.name.is_empty() {
        return Err(none(format!("the MSP of `{name}` has no id")));
    }
    let unit =
        |it: FabricOuIdentifier| Unit { name: it.organizational_unit_identifier, authority: it.certificate };
    let ous = config.fabric_node_ous.filter(|o| o.enable).unwrap_or_default();
    let roles = [
        (Role::Client, ous.client),
        (Role::Peer, ous.peer),
        (Role::Admin, ous.admin),
        (Role::Orderer, ous.orderer),
    ];
    let definition = Definition {
        id: config.name.clone(),
        roots: config.root_certs,
        intermediates: config.intermediate_certs,
        revocations: config.revocation_list,
        roles: roles.into_iter().filter_map(|(role, ou)| Some((role, unit(ou?)))).collect(),
        units: config.organizational_unit_identifiers.into_iter().map(unit).collect(),
    };
    Msp::new(&definition).map_err(|source| ChannelError::Organisation { organisation: config.name, source })
}
