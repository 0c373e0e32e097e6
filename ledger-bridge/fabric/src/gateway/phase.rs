//! The phases.

use std::collections::BTreeMap;

use prost::Message as _;
use trust::Digest;

use super::{
    error::{CommitError, EndorseError, EvaluateError, SignError, SubmitError},
    message::{
        ChaincodeAction, ChaincodeActionPayload, ChaincodeHeaderExtension, ChaincodeInvocationSpec,
        ChaincodeSpec, CommitStatusRequest, CommitStatusResponse, EndorseRequest, EndorseResponse,
        EvaluateResponse, Payload, ProposalResponsePayload, SerializedIdentity, SignedCommitStatusRequest,
        SubmitRequest, SubmitResponse, Transaction, ValidationCode,
    },
    refusal::{Code, Refusal},
};
use crate::message::{
    ChaincodeEvent, ChaincodeId, ChaincodeInput, ChaincodeProposalPayload, ChannelHeader, Header, Proposal,
    Response, SignatureHeader, SignedProposal, Timestamp,
};

/// `HeaderType.ENDORSER_TRANSACTION`.
const ENDORSER_TRANSACTION: i32 = 3;
/// `ChaincodeSpec.Type.GOLANG`, what Fabric's own command says of every chaincode.
const GOLANG: i32 = 1;
/// Length of a nonce, bytes.
pub const NONCE_BYTES: usize = 24;

/// Who submits: a serialised identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creator(Vec<u8>);

impl Creator {
    /// A member of the organisation `msp_id`, by its certificate (PEM).
    #[must_use]
    pub fn new(msp_id: &str, certificate_pem: &str) -> Self {
        let identity = SerializedIdentity { msp_id: msp_id.into(), id_bytes: certificate_pem.into() };
        Self(identity.encode_to_vec())
    }

    /// As it stands in headers.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Call {
    /// Channel.
    pub channel: String,
    /// Chaincode.
    pub chaincode: String,
    /// The function's name first.
    pub args: Vec<Vec<u8>>,
    /// What the endorsers see and the ledger does not keep.
    pub transient: BTreeMap<String, Vec<u8>>,
    /// Organisations that must endorse, by MSP id; empty: the gateway chooses. Whoever sends transient data names them.
    pub organizations: Vec<String>,
}

/// A signed proposal: nothing has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    request: EndorseRequest,
    header: Header,
    /// The payload as it must be in the transaction, without what is transient.
    payload: Vec<u8>,
    chaincode: String,
    creator: Creator,
}

impl Proposed {
    /// Makes the proposal of `call` by `creator` and has it signed. `nonce` must be random and new; `time` is the
    /// submitter's. ECDSA P-256 over SHA-256, DER, low-S.
    pub fn new(
        call: Call,
        creator: &Creator,
        nonce: [u8; NONCE_BYTES],
        time: Timestamp,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, SignError>,
    ) -> Result<Self, EndorseError> {
        let id = ChaincodeId { name: call.chaincode.clone(), ..ChaincodeId::default() };
        let tx_id = transaction_id(&nonce, creator);
        let extension = ChaincodeHeaderExtension { chaincode_id: Some(id.clone()) };
        let channel_header = ChannelHeader {
            kind: ENDORSER_TRANSACTION,
            timestamp: Some(time),
            channel_id: call.channel.clone(),
            tx_id: tx_id.clone(),
            extension: extension.encode_to_vec(),
            ..ChannelHeader::default()
        };
        let signature_header = SignatureHeader { creator: creator.0.clone(), nonce: nonce.to_vec() };
        let header = Header {
            channel_header: channel_header.encode_to_vec(),
            signature_header: signature_header.encode_to_vec(),
        };
        let mut payload = proposal_payload(&id, call.args);
        let kept = payload.encode_to_vec();
        payload.transient_map = call.transient;
        let proposal = Proposal {
            header: header.encode_to_vec(),
            payload: payload.encode_to_vec(),
            ..Proposal::default()
        };
        let proposal_bytes = proposal.encode_to_vec();
        let signature = sign(&proposal_bytes).map_err(EndorseError::Signing)?;
        let request = EndorseRequest {
            transaction_id: tx_id,
            channel_id: call.channel,
            proposed_transaction: Some(SignedProposal { proposal_bytes, signature }),
            organizations: call.organizations,
        };
        Ok(Self { request, header, payload: kept, chaincode: call.chaincode, creator: creator.clone() })
    }

    /// The transaction's id.
    #[must_use]
    pub fn tx_id(&self) -> &str {
        &self.request.transaction_id
    }

    /// For `Gateway.Endorse`, or for `Gateway.Evaluate`.
    #[must_use]
    pub const fn request(&self) -> &EndorseRequest {
        &self.request
    }

    /// What the chaincode answers to a question.
    pub fn evaluated(&self, answer: EvaluateResponse) -> Result<Response, EvaluateError> {
        answer.result.ok_or(EvaluateError::Altered("it has no result"))
    }

    /// The next phase: the gateway's transaction, once it is seen to be the one proposed, is signed as it came.
    pub fn endorsed(
        &self,
        answer: EndorseResponse,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, SignError>,
    ) -> Result<Endorsed, EndorseError> {
        let mut envelope = answer.prepared_transaction.unwrap_or_default();
        let action = self.action(&envelope.payload).map_err(EndorseError::Altered)?;
        envelope.signature = sign(&envelope.payload).map_err(EndorseError::Signing)?;
        let event = match action.events.as_slice() {
            [] => None,
            bytes => Some(ChaincodeEvent::decode(bytes).map_err(|_| EndorseError::Altered("its event"))?),
        };
        let request = SubmitRequest {
            transaction_id: self.request.transaction_id.clone(),
            channel_id: self.request.channel_id.clone(),
            prepared_transaction: Some(envelope),
        };
        let response = action.response.unwrap_or_default();
        Ok(Endorsed { request, response, event, creator: self.creator.clone() })
    }

    /// What the transaction does, when it is ours; otherwise what is not.
    fn action(&self, payload: &[u8]) -> Result<ChaincodeAction, &'static str> {
        let decoded = Payload::decode(payload).map_err(|_| "it is no transaction")?;
        if decoded.header.as_ref() != Some(&self.header) {
            return Err("its header is not the proposal's");
        }
        let transaction = Transaction::decode(decoded.data.as_slice()).map_err(|_| "it has no actions")?;
        let [action] = transaction.actions.as_slice() else { return Err("it has not one action") };
        if action.header != self.header.signature_header {
            return Err("its action's header is not the proposal's");
        }
        let action = ChaincodeActionPayload::decode(action.payload.as_slice()).map_err(|_| "its action")?;
        if action.chaincode_proposal_payload != self.payload {
            return Err("what it calls is not what was proposed");
        }
        let endorsed = action.action.ok_or("nothing was endorsed")?;
        let endorsed = ProposalResponsePayload::decode(endorsed.proposal_response_payload.as_slice())
            .map_err(|_| "what was endorsed")?;
        let Header { channel_header, signature_header } = &self.header;
        let proposed = Digest::of([channel_header.as_slice(), signature_header, &self.payload].concat());
        if endorsed.proposal_hash != proposed.0 {
            return Err("another proposal was endorsed");
        }
        let action = ChaincodeAction::decode(endorsed.extension.as_slice()).map_err(|_| "its result")?;
        match &action.chaincode_id {
            Some(id) if id.name == self.chaincode => Ok(action),
            _ => Err("another chaincode answered"),
        }
    }
}

/// Endorsed and signed: still nothing has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsed {
    request: SubmitRequest,
    response: Response,
    event: Option<ChaincodeEvent>,
    creator: Creator,
}

impl Endorsed {
    /// The transaction's id.
    #[must_use]
    pub fn tx_id(&self) -> &str {
        &self.request.transaction_id
    }

    /// The chaincode's answer, if the transaction becomes valid.
    #[must_use]
    pub const fn response(&self) -> &Response {
        &self.response
    }

    /// The event, if the transaction becomes valid.
    #[must_use]
    pub const fn event(&self) -> Option<&ChaincodeEvent> {
        self.event.as_ref()
    }

    /// For `Gateway.Submit`. The same request twice is one transaction.
    #[must_use]
    pub const fn request(&self) -> &SubmitRequest {
        &self.request
    }

    /// The next phase. From the moment that the request was sent the outcome is open unless it was refused for sure.
    pub fn submitted(&self, answer: Result<SubmitResponse, Refusal>) -> Result<Submitted, SubmitError> {
        let submitted = Submitted {
            request: CommitStatusRequest {
                transaction_id: self.request.transaction_id.clone(),
                channel_id: self.request.channel_id.clone(),
                identity: self.creator.0.clone(),
            },
        };
        match answer {
            Ok(_) => Ok(submitted),
            Err(refusal) if was_refused(&refusal) => Err(SubmitError::Refused(refusal)),
            Err(refusal) => Err(SubmitError::Unknown { refusal, submitted: Box::new(submitted) }),
        }
    }
}

/// Has no orderer taken it? The gateway says `InvalidArgument` and `FailedPrecondition` before it asks any, and `Aborted`
/// when one refused it for good (its signature, its size, the channel's policy), as each would.
fn was_refused(refusal: &Refusal) -> bool {
    match refusal.code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => true,
        Code::Aborted => refusal.message.starts_with("received unsuccessful response from orderer"),
        _ => false,
    }
}

/// Submitted: what becomes of it is to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    request: CommitStatusRequest,
}

impl Submitted {
    /// The transaction's id.
    #[must_use]
    pub fn tx_id(&self) -> &str {
        &self.request.transaction_id
    }

    /// For `Gateway.CommitStatus`, which answers once the transaction is in a block.
    pub fn request(
        &self,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, SignError>,
    ) -> Result<SignedCommitStatusRequest, CommitError> {
        let request = self.request.encode_to_vec();
        let signature = sign(&request).map_err(CommitError::Signing)?;
        Ok(SignedCommitStatusRequest { request, signature })
    }

    /// The last phase: in a block and valid, as the gateway's peer says. A proof is the block's to give.
    pub fn committed(&self, answer: CommitStatusResponse) -> Result<Committed, CommitError> {
        let code = ValidationCode::try_from(answer.result).unwrap_or(ValidationCode::InvalidOtherReason);
        let block = answer.block_number;
        match code {
            ValidationCode::Valid => Ok(Committed { tx_id: self.request.transaction_id.clone(), block }),
            ValidationCode::NotValidated => Err(CommitError::NotValidated { block }),
            code => Err(CommitError::Invalid { code, block }),
        }
    }
}

/// In a block, and valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    tx_id: String,
    block: u64,
}

impl Committed {
    /// The transaction's id.
    #[must_use]
    pub fn tx_id(&self) -> &str {
        &self.tx_id
    }

    /// The block's number.
    #[must_use]
    pub const fn block(&self) -> u64 {
        self.block
    }
}

/// Payload of a proposal, without what is transient.
pub(crate) fn proposal_payload(id: &ChaincodeId, args: Vec<Vec<u8>>) -> ChaincodeProposalPayload {
    let input = ChaincodeInput { args, ..ChaincodeInput::default() };
    let spec = ChaincodeSpec { kind: GOLANG, chaincode_id: Some(id.clone()), input: Some(input) };
    let input = ChaincodeInvocationSpec { chaincode_spec: Some(spec) }.encode_to_vec();
    ChaincodeProposalPayload { input, transient_map: BTreeMap::new() }
}

/// As Fabric has it: hex of SHA-256 over nonce and creator.
fn transaction_id(nonce: &[u8], creator: &Creator) -> String {
    Digest::of([nonce, &creator.0].concat()).hex()
}
