//! Why something is not proven.

use prost::Message;

/// Why something is not proven.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not proven ({}): {detail}", .code.as_str())]
pub struct ProofError {
    /// One per cause, stable.
    pub code: ProofCode,
    /// What was compared with what.
    pub detail: String,
}

/// Causes of a [`ProofError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProofCode {
    /// Not a block, or a part of it is missing.
    BlockFormat,
    /// The envelopes are not those that the header names.
    DataHash,
    /// The header does not follow the one before.
    Chain,
    /// No orderer of the channel.
    OrdererIdentity,
    /// An orderer has not signed it.
    OrdererSignature,
    /// Made under another configuration of the channel.
    Configuration,
    /// Not a later configuration of the channel.
    ConfigurationOrder,
    /// No such transaction in the block.
    Index,
    /// The same envelope stands before it in the block.
    Duplicate,
    /// Not a transaction's bytes.
    Format,
    /// In an encoding that another reader could read otherwise.
    NotCanonical,
    /// No endorser's transaction.
    NotATransaction,
    /// Of another channel.
    WrongChannel,
    /// Its id is not that of its nonce and creator.
    TransactionId,
    /// It has no time.
    Time,
    /// No member of an application organisation of the channel has submitted it.
    CreatorIdentity,
    /// Its creator has not signed it.
    CreatorSignature,
    /// Of another chaincode.
    WrongChaincode,
    /// What was endorsed is another proposal's answer.
    ProposalHash,
    /// The chaincode refused.
    Failed,
    /// Its read and write set cannot be read, or says two things.
    WriteSet,
    /// Its event is of another transaction or chaincode.
    Event,
    /// An endorser that must count is no peer of the organisation.
    EndorserIdentity,
    /// An endorser that must count has not signed it.
    EndorsementSignature,
    /// No peer of an organisation that must endorse has.
    UnderEndorsed,
    /// A peer's word on it answers another question.
    ValidityQuestion,
    /// Who says that it is valid is no peer of the channel.
    ValidityIdentity,
    /// A peer has not signed that it is valid.
    ValiditySignature,
    /// No peer of an organisation that must say that it is valid does.
    UnderValidated,
}

impl ProofCode {
    /// `UPPER_SNAKE_CASE`, as reported and tested for.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlockFormat => "BLOCK_FORMAT",
            Self::DataHash => "DATA_HASH",
            Self::Chain => "CHAIN",
            Self::OrdererIdentity => "ORDERER_IDENTITY",
            Self::OrdererSignature => "ORDERER_SIGNATURE",
            Self::Configuration => "CONFIGURATION",
            Self::ConfigurationOrder => "CONFIGURATION_ORDER",
            Self::Index => "INDEX",
            Self::Duplicate => "DUPLICATE",
            Self::Format => "FORMAT",
            Self::NotCanonical => "NOT_CANONICAL",
            Self::NotATransaction => "NOT_A_TRANSACTION",
            Self::WrongChannel => "WRONG_CHANNEL",
            Self::TransactionId => "TRANSACTION_ID",
            Self::Time => "TIME",
            Self::CreatorIdentity => "CREATOR_IDENTITY",
            Self::CreatorSignature => "CREATOR_SIGNATURE",
            Self::WrongChaincode => "WRONG_CHAINCODE",
            Self::ProposalHash => "PROPOSAL_HASH",
            Self::Failed => "FAILED",
            Self::WriteSet => "WRITE_SET",
            Self::Event => "EVENT",
            Self::EndorserIdentity => "ENDORSER_IDENTITY",
            Self::EndorsementSignature => "ENDORSEMENT_SIGNATURE",
            Self::UnderEndorsed => "UNDER_ENDORSED",
            Self::ValidityQuestion => "VALIDITY_QUESTION",
            Self::ValidityIdentity => "VALIDITY_IDENTITY",
            Self::ValiditySignature => "VALIDITY_SIGNATURE",
            Self::UnderValidated => "UNDER_VALIDATED",
        }
    }
}

impl std::fmt::Display for ProofCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

pub(super) type Checked<T> = Result<T, ProofError>;

pub(super) fn refuse<T>(code: ProofCode, detail: impl Into<String>) -> Checked<T> {
    Err(ProofError { code, detail: detail.into() })
}

pub(super) fn ensure(holds: bool, code: ProofCode, detail: impl FnOnce() -> String) -> Checked<()> {
    if holds { Ok(()) } else { refuse(code, detail()) }
}

pub(super) fn decode<M: Message + Default>(code: ProofCode, what: &str, bytes: &[u8]) -> Checked<M> {
    M::decode(bytes).or_else(|e| refuse(code, format!("{what} cannot be read: {e}")))
}

/// Reads a message in the one encoding that protobuf's libraries write: fields ascending, each once, none unknown.
pub(super) fn canonical<M: Message + Default>(what: &str, bytes: &[u8]) -> Checked<M> {
    let message: M = decode(ProofCode::Format, what, bytes)?;
    let same = message.encode_to_vec() == bytes;
    ensure(same, ProofCode::NotCanonical, || {
        format!("{what} has {} bytes in another encoding", bytes.len())
    })?;
    Ok(message)
}
