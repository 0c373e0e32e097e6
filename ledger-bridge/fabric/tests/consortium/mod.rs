//! A small channel whose keys are all known: blocks, transactions and peers' words with anything wrong that is wanted, and
//! everything else right.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

#[path = "../../../trust/tests/authority/mod.rs"]
mod authority;

use std::{collections::BTreeMap, sync::Mutex};

pub use authority::{Ca, NOW, Wanted, sign};
use fabric::{
    block::{
        Block, BlockData, BlockDataHashingStructure, BlockHeader, BlockMetadata, Config, ConfigEnvelope,
        ConfigGroup, ConfigValue, ConsensusType, FabricMspConfig, FabricNodeOus, FabricOuIdentifier,
        HashingAlgorithm, KvRwSet, KvWrite, LastConfig, Metadata, MetadataSignature, MspConfig,
        NsReadWriteSet, OrdererBlockMetadata, ProcessedTransaction, TxReadWriteSet, data_hash,
    },
    gateway::message::*,
    message::{
        ChaincodeEvent, ChaincodeId, ChaincodeInput, ChaincodeProposalPayload, ChannelHeader, Header,
        Response, SignatureHeader, Timestamp,
    },
    proof::{Bytes, TransactionProof, Validity},
};
use p256::ecdsa::SigningKey;
use prost::Message;
use trust::Digest;

pub const CHANNEL: &str = "trade";
pub const CHAINCODE: &str = "mandate";

/// Somebody with a key.
#[derive(Clone)]
pub struct Node {
    pub identity: Vec<u8>,
    pub key: SigningKey,
}

impl Node {
    pub fn of(msp: &str, ca: &Ca, wanted: &Wanted<'_>) -> Self {
        let (pem, key) = ca.member(wanted);
        let identity = SerializedIdentity { msp_id: msp.into(), id_bytes: pem.into_bytes() };
        Self { identity: identity.encode_to_vec(), key }
    }

    /// With the same certificate, said to be of another organisation.
    pub fn calling_itself(&self, msp: &str) -> Self {
        let mut identity = SerializedIdentity::decode(self.identity.as_slice()).unwrap();
        identity.msp_id = msp.into();
        Self { identity: identity.encode_to_vec(), key: self.key.clone() }
    }

    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        sign(&self.key, bytes)
    }
}

/// The channel's organisations.
pub struct Consortium {
    pub cas: BTreeMap<&'static str, Ca>,
    pub revoked: Vec<u8>,
    nodes: Mutex<BTreeMap<(String, String), Node>>,
}

pub const PEER_SERIAL: u8 = 10;

impl Consortium {
    pub fn new() -> Self {
        let cas = ["Org1MSP", "Org2MSP", "OrdererMSP"];
        Self {
            cas: cas.into_iter().map(|id| (id, Ca::root(id, id))).collect(),
            revoked: vec![66],
            nodes: Mutex::default(),
        }
    }

    pub fn node(&self, msp: &str, role: &str) -> Node {
        let serial = PEER_SERIAL + u8::try_from(role.len()).unwrap();
        let make = || Node::of(msp, &self.cas[msp], &Wanted::new(role, &[role], serial));
        self.nodes.lock().unwrap().entry((msp.into(), role.into())).or_insert_with(make).clone()
    }

    fn organisation(&self, id: &str) -> ConfigGroup {
        let ou = |name: &str| {
            Some(FabricOuIdentifier { certificate: vec![], organizational_unit_identifier: name.into() })
        };
        let ca = &self.cas[id];
        let msp = FabricMspConfig {
            name: id.into(),
            root_certs: vec![ca.pem.clone().into_bytes()],
            revocation_list: vec![ca.revokes(&self.revoked).into_bytes()],
            fabric_node_ous: Some(FabricNodeOus {
                enable: true,
                client: ou("client"),
                peer: ou("peer"),
                admin: ou("admin"),
                orderer: ou("orderer"),
            }),
            ..FabricMspConfig::default()
        };
        let value = MspConfig { kind: 0, config: msp.encode_to_vec() };
        ConfigGroup { values: values([("MSP", value.encode_to_vec())]), ..ConfigGroup::default() }
    }

    /// The tree of the channel's configuration.
    pub fn tree(&self) -> ConfigGroup {
        let group = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), self.organisation(id))).collect();
        let application = ConfigGroup { groups: group(&["Org1MSP", "Org2MSP"]), ..ConfigGroup::default() };
        let orderer = ConfigGroup {
            groups: group(&["OrdererMSP"]),
            values: values([("ConsensusType", ConsensusType { kind: "etcdraft".into() }.encode_to_vec())]),
            ..ConfigGroup::default()
        };
        ConfigGroup {
            groups: [("Application".into(), application), ("Orderer".into(), orderer)].into(),
            values: values([
                ("HashingAlgorithm", HashingAlgorithm { name: "SHA256".into() }.encode_to_vec()),
                ("BlockDataHashingStructure", BlockDataHashingStructure { width: u32::MAX }.encode_to_vec()),
            ]),
            ..ConfigGroup::default()
        }
    }

    /// A configuration block, signed by an orderer where one is given.
    pub fn config_block(&self, channel: &str, number: u64, sequence: u64, orderer: Option<&Node>) -> Block {
        self.config_of(channel, number, Config { sequence, channel_group: Some(self.tree()) }, orderer)
    }

    pub fn config_of(&self, channel: &str, number: u64, config: Config, orderer: Option<&Node>) -> Block {
        let header = ChannelHeader { kind: 1, channel_id: channel.into(), ..ChannelHeader::default() };
        let payload = Payload {
            header: Some(Header { channel_header: header.encode_to_vec(), signature_header: vec![] }),
            data: ConfigEnvelope { config: Some(config) }.encode_to_vec(),
        };
        let envelope = Envelope { payload: payload.encode_to_vec(), signature: b"an orderer's".to_vec() };
        seal(&[envelope.encode_to_vec()], number, Digest([9; 32]), number, orderer)
    }
}

fn values<const N: usize>(of: [(&str, Vec<u8>); N]) -> BTreeMap<String, ConfigValue> {
    of.into_iter().map(|(name, value)| (name.to_owned(), ConfigValue { version: 0, value })).collect()
}

/// A block of these envelopes.
pub fn seal(
    envelopes: &[Vec<u8>],
    number: u64,
    previous: Digest,
    configuration: u64,
    orderer: Option<&Node>,
) -> Block {
    let header = BlockHeader {
        number,
        previous_hash: previous.0.to_vec(),
        data_hash: data_hash(envelopes).0.to_vec(),
    };
    let value = OrdererBlockMetadata {
        last_config: Some(LastConfig { index: configuration }),
        consenter_metadata: b"raft".to_vec(),
    };
    let mut metadata = Metadata { value: value.encode_to_vec(), signatures: vec![] };
    if let Some(orderer) = orderer {
        let by =
            SignatureHeader { creator: orderer.identity.clone(), nonce: b"nonce".to_vec() }.encode_to_vec();
        let signature = orderer.sign(&[metadata.value.as_slice(), &by, &header.to_der().unwrap()].concat());
        metadata.signatures.push(MetadataSignature { signature_header: by, signature });
    }
    Block {
        header: Some(header),
        data: Some(BlockData { data: envelopes.to_vec() }),
        metadata: Some(BlockMetadata { metadata: vec![metadata.encode_to_vec()] }),
    }
}

/// A key and its value; `None`: deleted.
type Write = (String, Option<Vec<u8>>);

/// A transaction to be, and what may be wrong with it.
#[derive(Clone)]
pub struct Draft {
    pub kind: i32,
    pub epoch: u64,
    pub channel: String,
    pub tx_id: Option<String>,
    pub nonce: Vec<u8>,
    pub time: Option<i64>,
    pub creator: Node,
    pub args: Vec<Vec<u8>>,
    pub transient: bool,
    /// Names in the header, in what is called, in the result, in the event.
    pub chaincodes: [String; 4],
    pub event_tx: Option<String>,
    pub status: i32,
    pub model: i32,
    /// By chaincode.
    pub sets: Vec<(String, Vec<Write>)>,
    pub hash: Option<Vec<u8>>,
    pub endorsers: Vec<Node>,
}

/// Its bytes, endorsed; the envelope is made of them, whatever they have become.
#[derive(Clone)]
pub struct Parts {
    pub channel_header: Vec<u8>,
    pub signature_header: Vec<u8>,
    pub action_header: Vec<u8>,
    pub call: Vec<u8>,
    pub answer: Vec<u8>,
    pub endorsements: Vec<Endorsement>,
    pub actions: usize,
    pub tx_id: String,
}

fn id(name: &str) -> Option<ChaincodeId> {
    Some(ChaincodeId { name: name.into(), ..ChaincodeId::default() })
}

fn call(chaincode: &str, args: &[Vec<u8>]) -> ChaincodeProposalPayload {
    let input = ChaincodeInput { args: args.to_vec(), ..ChaincodeInput::default() };
    let spec = ChaincodeSpec { kind: 1, chaincode_id: id(chaincode), input: Some(input) };
    let input = ChaincodeInvocationSpec { chaincode_spec: Some(spec) }.encode_to_vec();
    ChaincodeProposalPayload { input, transient_map: BTreeMap::new() }
}

fn header_of(
    kind: i32,
    epoch: u64,
    channel: &str,
    tx_id: &str,
    time: Option<i64>,
    chaincode: &str,
) -> Vec<u8> {
    ChannelHeader {
        kind,
        epoch,
        timestamp: time.map(|seconds| Timestamp { seconds, nanos: 5 }),
        channel_id: channel.into(),
        tx_id: tx_id.into(),
        extension: ChaincodeHeaderExtension { chaincode_id: id(chaincode) }.encode_to_vec(),
        ..ChannelHeader::default()
    }
    .encode_to_vec()
}

impl Draft {
    pub fn new(consortium: &Consortium, seed: u64) -> Self {
        let key = |n: u64| format!("intent/{seed}-{n}");
        Self {
            kind: 3,
            epoch: 0,
            channel: CHANNEL.into(),
            tx_id: None,
            nonce: seed.to_be_bytes().to_vec(),
            time: Some(i64::try_from(NOW).unwrap()),
            creator: consortium.node("Org1MSP", "client"),
            args: vec![b"submit".to_vec(), seed.to_string().into_bytes()],
            transient: false,
            chaincodes: [CHAINCODE; 4].map(str::to_owned),
            event_tx: None,
            status: 200,
            model: 0,
            sets: vec![
                ("_lifecycle".into(), vec![]),
                (CHAINCODE.into(), vec![(key(1), Some(b"approved".to_vec())), (key(2), None)]),
            ],
            hash: None,
            endorsers: vec![consortium.node("Org1MSP", "peer"), consortium.node("Org2MSP", "peer")],
        }
    }

    pub fn parts(&self) -> Parts {
        let tx_id = Digest::of([self.nonce.as_slice(), &self.creator.identity].concat()).hex();
        let said = self.tx_id.clone().unwrap_or_else(|| tx_id.clone());
        let channel_header =
            header_of(self.kind, self.epoch, &self.channel, &said, self.time, &self.chaincodes[0]);
        let signature_header =
            SignatureHeader { creator: self.creator.identity.clone(), nonce: self.nonce.clone() }
                .encode_to_vec();
        let mut call = call(&self.chaincodes[1], &self.args);
        if self.transient {
            call.transient_map.insert("requests".into(), b"secret".to_vec());
        }
        let call = call.encode_to_vec();
        let hash = Digest::of([channel_header.as_slice(), &signature_header, &call].concat()).0.to_vec();
        let write = |(key, value): &Write| KvWrite {
            key: key.clone(),
            is_delete: value.is_none(),
            value: value.clone().unwrap_or_default(),
        };
        let set = |(namespace, writes): &(String, Vec<_>)| NsReadWriteSet {
            namespace: namespace.clone(),
            rwset: KvRwSet { writes: writes.iter().map(write).collect() }.encode_to_vec(),
        };
        let results =
            TxReadWriteSet { data_model: self.model, ns_rwset: self.sets.iter().map(set).collect() };
        let event = ChaincodeEvent {
            chaincode_id: self.chaincodes[3].clone(),
            tx_id: self.event_tx.clone().unwrap_or(said),
            event_name: "mandate".into(),
            payload: b"position".to_vec(),
        };
        let result = ChaincodeAction {
            results: results.encode_to_vec(),
            events: event.encode_to_vec(),
            response: Some(Response {
                status: self.status,
                message: String::new(),
                payload: b"done".to_vec(),
            }),
            chaincode_id: id(&self.chaincodes[2]),
        };
        let answer = ProposalResponsePayload {
            proposal_hash: self.hash.clone().unwrap_or(hash),
            extension: result.encode_to_vec(),
        };
        let answer = answer.encode_to_vec();
        let endorsements = self.endorsers.iter().map(|by| endorse(by, &answer)).collect();
        let action_header = signature_header.clone();
        Parts {
            channel_header,
            signature_header,
            action_header,
            call,
            answer,
            endorsements,
            actions: 1,
            tx_id,
        }
    }

    pub fn envelope(&self) -> Vec<u8> {
        self.parts().envelope(&self.creator)
    }
}

pub fn endorse(by: &Node, answer: &[u8]) -> Endorsement {
    let signature = by.sign(&[answer, &by.identity].concat());
    Endorsement { endorser: by.identity.clone(), signature }
}

impl Parts {
    pub fn envelope(&self, by: &Node) -> Vec<u8> {
        let action = ChaincodeEndorsedAction {
            proposal_response_payload: self.answer.clone(),
            endorsements: self.endorsements.clone(),
        };
        let payload =
            ChaincodeActionPayload { chaincode_proposal_payload: self.call.clone(), action: Some(action) };
        let action =
            TransactionAction { header: self.action_header.clone(), payload: payload.encode_to_vec() };
        let header = Header {
            channel_header: self.channel_header.clone(),
            signature_header: self.signature_header.clone(),
        };
        let data = Transaction { actions: vec![action; self.actions] }.encode_to_vec();
        let payload = Payload { header: Some(header), data }.encode_to_vec();
        let signature = by.sign(&payload);
        Envelope { payload, signature }.encode_to_vec()
    }
}

/// A peer's word to be.
#[derive(Clone)]
pub struct Word {
    pub channel: String,
    pub asked_channel: String,
    pub tx_id: String,
    pub chaincode: String,
    pub said_chaincode: String,
    pub kind: i32,
    pub time: Option<i64>,
    pub code: i32,
    pub by: Node,
    pub asker: Node,
    pub question_id: Option<String>,
}

impl Word {
    pub fn new(consortium: &Consortium, by: &Node, tx_id: &str) -> Self {
        Self {
            channel: CHANNEL.into(),
            asked_channel: CHANNEL.into(),
            tx_id: tx_id.into(),
            chaincode: "qscc".into(),
            said_chaincode: "qscc".into(),
            kind: 3,
            time: Some(i64::try_from(NOW + 5).unwrap()),
            code: 0,
            by: by.clone(),
            asker: consortium.node("Org1MSP", "client"),
            question_id: None,
        }
    }

    /// What a proof carries of it, about that envelope.
    pub fn about(&self, envelope: &[u8]) -> Validity {
        let nonce = b"question".to_vec();
        let made = Digest::of([nonce.as_slice(), &self.asker.identity].concat()).hex();
        let question_id = self.question_id.as_ref().unwrap_or(&made);
        let channel_header = header_of(self.kind, 0, &self.channel, question_id, self.time, &self.chaincode);
        let signature_header =
            SignatureHeader { creator: self.asker.identity.clone(), nonce }.encode_to_vec();
        let args = ["GetTransactionByID", &self.asked_channel, &self.tx_id].map(|a| a.as_bytes().to_vec());
        let call = call("qscc", &args).encode_to_vec();
        let said = ProcessedTransaction {
            transaction_envelope: Some(Envelope::decode(envelope).unwrap()),
            validation_code: self.code,
        };
        let result = ChaincodeAction {
            response: Some(Response { status: 200, message: String::new(), payload: said.encode_to_vec() }),
            chaincode_id: id(&self.said_chaincode),
            ..ChaincodeAction::default()
        };
        let answer = ProposalResponsePayload {
            proposal_hash: Digest::of([channel_header.as_slice(), &signature_header, &call].concat())
                .0
                .to_vec(),
            extension: result.encode_to_vec(),
        };
        let Endorsement { endorser, signature } = endorse(&self.by, &answer.encode_to_vec());
        Validity {
            channel_header: Bytes(channel_header),
            signature_header: Bytes(signature_header),
            version: String::new(),
            results: Bytes(vec![]),
            endorser: Bytes(endorser),
            signature: Bytes(signature),
        }
    }
}

/// A proof of one of these envelopes.
pub fn prove(
    consortium: &Consortium,
    envelopes: &[Vec<u8>],
    transaction: usize,
    tx_id: &str,
    number: u64,
) -> TransactionProof {
    let orderer = consortium.node("OrdererMSP", "orderer");
    let block = seal(envelopes, number, Digest([3; 32]), 4, Some(&orderer));
    let words = ["Org1MSP", "Org2MSP"].map(|msp| {
        Word::new(consortium, &consortium.node(msp, "peer"), tx_id).about(&envelopes[transaction])
    });
    TransactionProof {
        number,
        previous: Digest([3; 32]),
        data: envelopes.iter().cloned().map(Bytes).collect(),
        signatures: Bytes(block.metadata(0).to_vec()),
        transaction: u32::try_from(transaction).unwrap(),
        validity: words.into(),
    }
}
