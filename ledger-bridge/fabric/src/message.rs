//! Messages of the chaincode protocol: `peer/chaincode_shim.proto` and what it refers to. Only fields that are read or
//! written here; unknown ones are skipped, as protobuf has it.

use std::collections::BTreeMap;

/// What a [`ChaincodeMessage`] is. The numbers beyond 23 are Fabric 3's: a 2.5 peer ends the stream on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// None.
    Undefined = 0,
    /// Chaincode to peer: here I am.
    Register = 1,
    /// Peer to chaincode: known.
    Registered = 2,
    /// Peer to chaincode: initialise.
    Init = 3,
    /// Peer to chaincode: transactions come from now on.
    Ready = 4,
    /// Peer to chaincode: a transaction.
    Transaction = 5,
    /// Chaincode to peer: a transaction's [`Response`].
    Completed = 6,
    /// Either: what was asked for cannot be done.
    Error = 7,
    /// [`GetState`].
    GetState = 8,
    /// [`PutState`].
    PutState = 9,
    /// [`DelState`].
    DelState = 10,
    /// Not used here.
    InvokeChaincode = 11,
    /// Peer to chaincode: what was asked for.
    Response = 13,
    /// [`GetStateByRange`].
    GetStateByRange = 14,
    /// Not used here.
    GetQueryResult = 15,
    /// [`QueryState`]: the next page.
    QueryStateNext = 16,
    /// [`QueryState`]: no more of it.
    QueryStateClose = 17,
    /// Either: still there.
    Keepalive = 18,
    /// [`GetHistoryForKey`].
    GetHistoryForKey = 19,
    /// Not used here.
    GetStateMetadata = 20,
    /// Not used here.
    PutStateMetadata = 21,
    /// Not used here.
    GetPrivateDataHash = 22,
    /// Not used here.
    PurgePrivateData = 23,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Timestamp {
    /// Since 1970, s.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Within the second.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// Everything on the stream between a peer and a chaincode.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChaincodeMessage {
    /// A [`Kind`].
    #[prost(enumeration = "Kind", tag = "1")]
    pub kind: i32,
    /// When it was sent.
    #[prost(message, optional, tag = "2")]
    pub timestamp: Option<Timestamp>,
    /// By kind.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    /// Transaction.
    #[prost(string, tag = "4")]
    pub txid: String,
    /// What the submitter signed.
    #[prost(message, optional, tag = "5")]
    pub proposal: Option<SignedProposal>,
    /// With [`Kind::Completed`].
    #[prost(message, optional, tag = "6")]
    pub chaincode_event: Option<ChaincodeEvent>,
    /// Channel of the transaction.
    #[prost(string, tag = "7")]
    pub channel_id: String,
}

/// What a transaction emits: one at most. The peer fills in chaincode and transaction.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChaincodeEvent {
    /// Name of the chaincode.
    #[prost(string, tag = "1")]
    pub chaincode_id: String,
    /// Transaction.
    #[prost(string, tag = "2")]
    pub tx_id: String,
    /// Name of the event.
    #[prost(string, tag = "3")]
    pub event_name: String,
    /// Anything.
    #[prost(bytes = "vec", tag = "4")]
    pub payload: Vec<u8>,
}

/// A chaincode's name; in [`Kind::Register`] that of its package.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChaincodeId {
    /// Not used since Fabric 2.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Version.
    #[prost(string, tag = "3")]
    pub version: String,
}

/// What a transaction calls.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChaincodeInput {
    /// The function's name first.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub args: Vec<Vec<u8>>,
    /// What the peer adds.
    #[prost(btree_map = "string, bytes", tag = "2")]
    pub decorations: BTreeMap<String, Vec<u8>>,
    /// Is it the initialisation?
    #[prost(bool, tag = "3")]
    pub is_init: bool,
}

/// A transaction's result. From 400 on it is not endorsed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Response {
    /// As in HTTP.
    #[prost(int32, tag = "1")]
    pub status: i32,
    /// Why, when it is an error.
    #[prost(string, tag = "2")]
    pub message: String,
    /// The result.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
}

/// A proposal with its submitter's signature.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SignedProposal {
    /// A [`Proposal`].
    #[prost(bytes = "vec", tag = "1")]
    pub proposal_bytes: Vec<u8>,
    /// Over them.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// A proposal.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Proposal {
    /// A [`Header`].
    #[prost(bytes = "vec", tag = "1")]
    pub header: Vec<u8>,
    /// A [`ChaincodeProposalPayload`].
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
    /// Not used here.
    #[prost(bytes = "vec", tag = "3")]
    pub extension: Vec<u8>,
}

/// Header of a proposal.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Header {
    /// A [`ChannelHeader`].
    #[prost(bytes = "vec", tag = "1")]
    pub channel_header: Vec<u8>,
    /// A [`SignatureHeader`].
    #[prost(bytes = "vec", tag = "2")]
    pub signature_header: Vec<u8>,
}

/// Which transaction, where, when.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChannelHeader {
    /// 3: an endorser's transaction.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Of the message.
    #[prost(int32, tag = "2")]
    pub version: i32,
    /// The submitter's clock.
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<Timestamp>,
    /// Channel.
    #[prost(string, tag = "4")]
    pub channel_id: String,
    /// Transaction.
    #[prost(string, tag = "5")]
    pub tx_id: String,
    /// Always 0.
    #[prost(uint64, tag = "6")]
    pub epoch: u64,
    /// By kind.
    #[prost(bytes = "vec", tag = "7")]
    pub extension: Vec<u8>,
    /// Digest of the submitter's TLS certificate, or empty.
    #[prost(bytes = "vec", tag = "8")]
    pub tls_cert_hash: Vec<u8>,
}

/// Who signed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SignatureHeader {
    /// A serialised identity.
    #[prost(bytes = "vec", tag = "1")]
    pub creator: Vec<u8>,
    /// Used once.
    #[prost(bytes = "vec", tag = "2")]
    pub nonce: Vec<u8>,
}

/// What a proposal carries.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChaincodeProposalPayload {
    /// What is called.
    #[prost(bytes = "vec", tag = "1")]
    pub input: Vec<u8>,
    /// What the endorsers see and the ledger does not keep.
    #[prost(btree_map = "string, bytes", tag = "2")]
    pub transient_map: BTreeMap<String, Vec<u8>>,
}

/// Asks for a value.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetState {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Private data collection, or empty.
    #[prost(string, tag = "2")]
    pub collection: String,
}

/// Writes a value.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PutState {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value, not empty.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
    /// Private data collection, or empty.
    #[prost(string, tag = "3")]
    pub collection: String,
}

/// Deletes a key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DelState {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Private data collection, or empty.
    #[prost(string, tag = "2")]
    pub collection: String,
}

/// Asks for keys in order.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetStateByRange {
    /// From this one.
    #[prost(string, tag = "1")]
    pub start_key: String,
    /// To before this one.
    #[prost(string, tag = "2")]
    pub end_key: String,
    /// Private data collection, or empty.
    #[prost(string, tag = "3")]
    pub collection: String,
}

/// Asks for what a key was.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetHistoryForKey {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
}

/// Of [`Kind::QueryStateNext`] and [`Kind::QueryStateClose`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct QueryState {
    /// The query.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// A page.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct QueryResponse {
    /// A [`KeyValue`] or a [`KeyModification`] each.
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<QueryResultBytes>,
    /// Is there another page?
    #[prost(bool, tag = "2")]
    pub has_more: bool,
    /// The query.
    #[prost(string, tag = "3")]
    pub id: String,
}

/// A result of a query.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct QueryResultBytes {
    /// It.
    #[prost(bytes = "vec", tag = "1")]
    pub result_bytes: Vec<u8>,
}

/// `queryresult.KV`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyValue {
    /// Chaincode.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Key.
    #[prost(string, tag = "2")]
    pub key: String,
    /// Value.
    #[prost(bytes = "vec", tag = "3")]
    pub value: Vec<u8>,
}

/// `queryresult.KeyModification`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyModification {
    /// Transaction that wrote it.
    #[prost(string, tag = "1")]
    pub tx_id: String,
    /// Value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
    /// The transaction's.
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<Timestamp>,
    /// Was it deleted?
    #[prost(bool, tag = "4")]
    pub is_delete: bool,
}
