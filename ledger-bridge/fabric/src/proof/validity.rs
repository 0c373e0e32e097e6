//! Peers' words: this transaction is VALID. A block does not say that under a signature, an answer of `qscc` does.

use std::collections::BTreeSet;

use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::{
    Bytes, MAX_SIGNERS, Rules,
    error::{Checked, ProofCode, ProofError, decode, ensure, refuse},
    signer::{Of, identity, member, seconds},
    transaction::{headers, proposal_hash},
};
use crate::{
    block::{ProcessedTransaction, ProposalResponse},
    gateway::{
        Call,
        message::{
            ChaincodeAction, ChaincodeHeaderExtension, Envelope, ProposalResponsePayload, ValidationCode,
        },
        proposal_payload,
    },
    message::{ChaincodeId, Header, Proposal, Response, SignedProposal},
};

/// The system chaincode that knows transactions.
const QSCC: &str = "qscc";
/// Its function.
const BY_ID: &str = "GetTransactionByID";

/// One peer's signed word that a transaction is VALID. Neither transaction nor code is in it: what the peer signed is made from
/// the transaction that is to be proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validity {
    /// Of the question.
    pub channel_header: Bytes,
    /// Of the question: who asked.
    pub signature_header: Bytes,
    /// The version that `qscc` says it has.
    pub version: String,
    /// What the question read and wrote: nothing.
    pub results: Bytes,
    /// The peer.
    pub endorser: Bytes,
    /// Over its answer.
    pub signature: Bytes,
}

/// Why an answer is not that a transaction is valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidityError {
    /// The peer gives no answer; one that has not got the block yet, or a transaction that is in none.
    #[error("the peer does not know the transaction ({status}): {message}")]
    Unknown {
        /// As in HTTP.
        status: i32,
        /// Why.
        message: String,
    },
    /// It is in a block, without effect.
    #[error("the transaction is invalid: {0:?}")]
    Invalid(ValidationCode),
    /// No answer to such a question.
    #[error("the answer is none to the question whether a transaction is valid: {0}")]
    Malformed(&'static str),
}

impl Validity {
    /// The question, to be proposed to a peer itself (`protos.Endorser/ProcessProposal`).
    #[must_use]
    pub fn question(channel: &str, tx_id: &str) -> Call {
        Call {
            channel: channel.into(),
            chaincode: QSCC.into(),
            args: [BY_ID, channel, tx_id].map(|arg| arg.as_bytes().to_vec()).into(),
            ..Call::default()
        }
    }

    /// From the question and the peer's answer. That they belong together is the proof's to verify.
    pub fn of(question: &SignedProposal, answer: &ProposalResponse) -> Result<Self, ValidityError> {
        let bad = |what| move |_| ValidityError::Malformed(what);
        if let Some(Response { status, message, .. }) = answer.response.as_ref().filter(|r| r.status != 200) {
            return Err(ValidityError::Unknown { status: *status, message: message.clone() });
        }
        let proposal = Proposal::decode(question.proposal_bytes.as_slice()).map_err(bad("the question"))?;
        let header = Header::decode(proposal.header.as_slice()).map_err(bad("the question's header"))?;
        let payload =
            ProposalResponsePayload::decode(answer.payload.as_slice()).map_err(bad("its payload"))?;
        let said = ChaincodeAction::decode(payload.extension.as_slice()).map_err(bad("its result"))?;
        let response = said.response.unwrap_or_default();
        let processed =
            ProcessedTransaction::decode(response.payload.as_slice()).map_err(bad("its transaction"))?;
        let code = ValidationCode::try_from(processed.validation_code);
        let code = code.unwrap_or(ValidationCode::InvalidOtherReason);
        if code != ValidationCode::Valid {
            return Err(ValidityError::Invalid(code));
        }
        let endorsement = answer.endorsement.clone().ok_or(ValidityError::Malformed("nobody signed it"))?;
        Ok(Self {
            channel_header: Bytes(header.channel_header),
            signature_header: Bytes(header.signature_header),
            version: said.chaincode_id.unwrap_or_default().version,
            results: Bytes(said.results),
            endorser: Bytes(endorsement.endorser),
            signature: Bytes(endorsement.signature),
        })
    }

    /// What a peer signs when it answers this question with: that envelope, VALID.
    fn signed(&self, header: &Header, channel: &str, tx_id: &str, envelope: Envelope) -> Vec<u8> {
        let Call { chaincode, args, .. } = Self::question(channel, tx_id);
        let asked = ChaincodeId { name: chaincode, ..ChaincodeId::default() };
        let question = proposal_payload(&asked, args).encode_to_vec();
        let valid = ValidationCode::Valid.into();
        let said = ProcessedTransaction { transaction_envelope: Some(envelope), validation_code: valid };
        let id = ChaincodeId { name: QSCC.into(), version: self.version.clone(), ..ChaincodeId::default() };
        let result = ChaincodeAction {
            results: self.results.0.clone(),
            response: Some(Response { status: 200, message: String::new(), payload: said.encode_to_vec() }),
            chaincode_id: Some(id),
            ..ChaincodeAction::default()
        };
        let payload = ProposalResponsePayload {
            proposal_hash: proposal_hash(header, &question).0.to_vec(),
            extension: result.encode_to_vec(),
        };
        [payload.encode_to_vec().as_slice(), &self.endorser.0].concat()
    }

    /// The organisation of the peer that says so.
    fn verify(&self, rules: &Rules<'_>, tx_id: &str, envelope: &Envelope) -> Checked<String> {
        let question =
            |e: ProofError| refuse(ProofCode::ValidityQuestion, format!("{}: {}", e.code, e.detail));
        let header = Header {
            channel_header: self.channel_header.0.clone(),
            signature_header: self.signature_header.0.clone(),
        };
        let (of, _) = headers(rules.channel, &header).or_else(question)?;
        let extension: ChaincodeHeaderExtension =
            decode(ProofCode::ValidityQuestion, "the question's extension", &of.extension)?;
        let name = extension.chaincode_id.unwrap_or_default().name;
        ensure(name == QSCC, ProofCode::ValidityQuestion, || format!("it asks `{name}`, not `{QSCC}`"))?;
        let Some(time) = seconds(of.timestamp) else {
            return refuse(ProofCode::ValidityQuestion, "the question has no time");
        };
        let peer =
            identity(&self.endorser.0).and_then(|id| member(rules.channel, Of::Peers, &id, Some(time)));
        let peer =
            peer.or_else(|e| refuse(ProofCode::ValidityIdentity, format!("who says that it is valid, {e}")))?;
        let message = self.signed(&header, rules.channel.name(), tx_id, envelope.clone());
        match peer.verify(&message, &self.signature.0) {
            Ok(()) => Ok(peer.msp.clone()),
            Err(e) => {
                let detail = format!("a peer of `{}` did not sign that {tx_id} is VALID: {e}", peer.msp);
                refuse(ProofCode::ValiditySignature, detail)
            }
        }
    }
}

/// Organisations whose peers say that this envelope is valid; each word must hold, and one of each that must endorse be there.
pub(super) fn verify(
    rules: &Rules<'_>,
    tx_id: &str,
    envelope: &[u8],
    words: &[Validity],
) -> Checked<BTreeSet<String>> {
    let envelope: Envelope = decode(ProofCode::Format, "the envelope", envelope)?;
    ensure(words.len() <= MAX_SIGNERS, ProofCode::UnderValidated, || {
        format!("{} peers' words, {MAX_SIGNERS} are looked at", words.len())
    })?;
    let by: BTreeSet<String> =
        words.iter().map(|w| w.verify(rules, tx_id, &envelope)).collect::<Checked<_>>()?;
    let missing = rules.missing(&by);
    ensure(missing.is_empty(), ProofCode::UnderValidated, || {
        format!("no peer of {missing:?} says that it is valid, but of {by:?}")
    })?;
    Ok(by)
}
