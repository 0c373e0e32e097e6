//! Messages of `gateway/gateway.proto` and of the transactions that it carries. Only fields that are read or written here.

use crate::message::{ChaincodeId, ChaincodeInput, Header, Response, SignedProposal};

/// A transaction and its signature, as orderers take it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Envelope {
    /// A [`Payload`].
    #[prost(bytes = "vec", tag = "1")]
    pub payload: Vec<u8>,
    /// Over it.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// `gateway.EndorseRequest`; `gateway.EvaluateRequest` has the same fields.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndorseRequest {
    /// Transaction.
    #[prost(string, tag = "1")]
    pub transaction_id: String,
    /// Channel.
    #[prost(string, tag = "2")]
    pub channel_id: String,
    /// The signed proposal.
    #[prost(message, optional, tag = "3")]
    pub proposed_transaction: Option<SignedProposal>,
    /// Organisations that are asked, by MSP id; empty: the gateway chooses.
    #[prost(string, repeated, tag = "4")]
    pub organizations: Vec<String>,
}

/// `gateway.EndorseResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndorseResponse {
    /// To sign.
    #[prost(message, optional, tag = "1")]
    pub prepared_transaction: Option<Envelope>,
}

/// `gateway.SubmitRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SubmitRequest {
    /// Transaction.
    #[prost(string, tag = "1")]
    pub transaction_id: String,
    /// Channel.
    #[prost(string, tag = "2")]
    pub channel_id: String,
    /// Signed.
    #[prost(message, optional, tag = "3")]
    pub prepared_transaction: Option<Envelope>,
}

/// `gateway.SubmitResponse`: an orderer has it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SubmitResponse {}

/// `gateway.SignedCommitStatusRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SignedCommitStatusRequest {
    /// A [`CommitStatusRequest`].
    #[prost(bytes = "vec", tag = "1")]
    pub request: Vec<u8>,
    /// Over it.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// `gateway.CommitStatusRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CommitStatusRequest {
    /// Transaction.
    #[prost(string, tag = "1")]
    pub transaction_id: String,
    /// Channel.
    #[prost(string, tag = "2")]
    pub channel_id: String,
    /// A [`SerializedIdentity`]: who asks.
    #[prost(bytes = "vec", tag = "3")]
    pub identity: Vec<u8>,
}

/// `gateway.CommitStatusResponse`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CommitStatusResponse {
    /// What the peer made of it.
    #[prost(enumeration = "ValidationCode", tag = "1")]
    pub result: i32,
    /// The block that it is in.
    #[prost(uint64, tag = "2")]
    pub block_number: u64,
}

/// `gateway.EvaluateResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EvaluateResponse {
    /// The chaincode's answer.
    #[prost(message, optional, tag = "1")]
    pub result: Option<Response>,
}

/// `gateway.ErrorDetail`: what one node that the gateway tried has said.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ErrorDetail {
    /// The node's address.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Its organisation.
    #[prost(string, tag = "2")]
    pub msp_id: String,
    /// What it said.
    #[prost(string, tag = "3")]
    pub message: String,
}

/// `google.rpc.Status`, in the trailer `grpc-status-details-bin`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RpcStatus {
    /// As in gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// As in gRPC.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Anything; here [`ErrorDetail`]s.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Any {
    /// Ends with the message's name.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `msp.SerializedIdentity`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SerializedIdentity {
    /// Organisation.
    #[prost(string, tag = "1")]
    pub msp_id: String,
    /// Certificate, PEM.
    #[prost(bytes = "vec", tag = "2")]
    pub id_bytes: Vec<u8>,
}

/// Extension of a proposal's channel header.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChaincodeHeaderExtension {
    /// The chaincode.
    #[prost(message, optional, tag = "2")]
    pub chaincode_id: Option<ChaincodeId>,
}

/// `input` of a proposal's payload.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChaincodeInvocationSpec {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub chaincode_spec: Option<ChaincodeSpec>,
}

/// What is called.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChaincodeSpec {
    /// A language, which no 2.5 peer reads.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// The chaincode.
    #[prost(message, optional, tag = "2")]
    pub chaincode_id: Option<ChaincodeId>,
    /// Arguments.
    #[prost(message, optional, tag = "3")]
    pub input: Option<ChaincodeInput>,
}

/// What is signed of an [`Envelope`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Payload {
    /// The proposal's.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// A [`Transaction`].
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

/// `protos.Transaction`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Transaction {
    /// One.
    #[prost(message, repeated, tag = "1")]
    pub actions: Vec<TransactionAction>,
}

/// `protos.TransactionAction`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TransactionAction {
    /// The proposal's signature header.
    #[prost(bytes = "vec", tag = "1")]
    pub header: Vec<u8>,
    /// A [`ChaincodeActionPayload`].
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

/// What was proposed, and what it came to.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChaincodeActionPayload {
    /// The proposal's payload without what is transient.
    #[prost(bytes = "vec", tag = "1")]
    pub chaincode_proposal_payload: Vec<u8>,
    /// What was endorsed.
    #[prost(message, optional, tag = "2")]
    pub action: Option<ChaincodeEndorsedAction>,
}

/// What was endorsed, and by whom.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChaincodeEndorsedAction {
    /// A [`ProposalResponsePayload`].
    #[prost(bytes = "vec", tag = "1")]
    pub proposal_response_payload: Vec<u8>,
    /// Signatures over it.
    #[prost(message, repeated, tag = "2")]
    pub endorsements: Vec<Endorsement>,
}

/// A peer's signature.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Endorsement {
    /// A [`SerializedIdentity`].
    #[prost(bytes = "vec", tag = "1")]
    pub endorser: Vec<u8>,
    /// Over the payload and the endorser.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// What endorsers sign.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ProposalResponsePayload {
    /// Of the proposal that they answered.
    #[prost(bytes = "vec", tag = "1")]
    pub proposal_hash: Vec<u8>,
    /// A [`ChaincodeAction`].
    #[prost(bytes = "vec", tag = "2")]
    pub extension: Vec<u8>,
}

/// What a transaction does.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChaincodeAction {
    /// Read and write set.
    #[prost(bytes = "vec", tag = "1")]
    pub results: Vec<u8>,
    /// A [`ChaincodeEvent`](crate::message::ChaincodeEvent), or empty.
    #[prost(bytes = "vec", tag = "2")]
    pub events: Vec<u8>,
    /// The chaincode's answer.
    #[prost(message, optional, tag = "3")]
    pub response: Option<Response>,
    /// The chaincode.
    #[prost(message, optional, tag = "4")]
    pub chaincode_id: Option<ChaincodeId>,
}

/// What a peer makes of a transaction in a block (`protos.TxValidationCode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs, reason = "the names are Fabric's")]
pub enum ValidationCode {
    Valid = 0,
    NilEnvelope = 1,
    BadPayload = 2,
    BadCommonHeader = 3,
    BadCreatorSignature = 4,
    InvalidEndorserTransaction = 5,
    InvalidConfigTransaction = 6,
    UnsupportedTxPayload = 7,
    BadProposalTxid = 8,
    DuplicateTxid = 9,
    EndorsementPolicyFailure = 10,
    MvccReadConflict = 11,
    PhantomReadConflict = 12,
    UnknownTxType = 13,
    TargetChainNotFound = 14,
    MarshalTxError = 15,
    NilTxaction = 16,
    ExpiredChaincode = 17,
    ChaincodeVersionConflict = 18,
    BadHeaderExtension = 19,
    BadChannelHeader = 20,
    BadResponsePayload = 21,
    BadRwset = 22,
    IllegalWriteset = 23,
    InvalidWriteset = 24,
    InvalidChaincode = 25,
    NotValidated = 254,
    InvalidOtherReason = 255,
}
