//! What a gateway makes of a proposal, for tests.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use fabric::{
    gateway::message::*,
    message::{
        ChaincodeEvent, ChaincodeId, ChaincodeProposalPayload, ChannelHeader, Header, Proposal, Response,
    },
};
use prost::Message as _;
use trust::Digest;

/// A transaction in parts.
#[derive(Clone)]
pub struct Parts {
    pub header: Header,
    pub action_header: Vec<u8>,
    pub proposed: Vec<u8>,
    pub hash: Vec<u8>,
    pub result: ChaincodeAction,
    /// What else is in the payload, which nobody here knows.
    pub unknown: Vec<u8>,
    /// How often the action is there.
    pub actions: usize,
}

impl Parts {
    /// As the gateway does it; the chaincode answers `done` and emits an event.
    pub fn of(request: &EndorseRequest) -> Self {
        let proposal = &request.proposed_transaction.as_ref().unwrap().proposal_bytes;
        let proposal = Proposal::decode(proposal.as_slice()).unwrap();
        let header = Header::decode(proposal.header.as_slice()).unwrap();
        let mut payload = ChaincodeProposalPayload::decode(proposal.payload.as_slice()).unwrap();
        payload.transient_map.clear();
        let proposed = payload.encode_to_vec();
        let hash = Digest::of([&header.channel_header[..], &header.signature_header, &proposed].concat());
        let channel = ChannelHeader::decode(header.channel_header.as_slice()).unwrap();
        let extension = ChaincodeHeaderExtension::decode(channel.extension.as_slice()).unwrap();
        let event = ChaincodeEvent { event_name: "mandate".into(), ..ChaincodeEvent::default() };
        let result = ChaincodeAction {
            results: b"rwset".to_vec(),
            events: event.encode_to_vec(),
            response: Some(Response { status: 200, message: String::new(), payload: b"done".to_vec() }),
            chaincode_id: extension.chaincode_id.map(|id| ChaincodeId { version: "1.0".into(), ..id }),
        };
        let action_header = header.signature_header.clone();
        Self { header, action_header, proposed, hash: hash.0.to_vec(), result, unknown: vec![], actions: 1 }
    }

    pub fn answer(&self) -> EndorseResponse {
        let endorsed = ProposalResponsePayload {
            proposal_hash: self.hash.clone(),
            extension: self.result.encode_to_vec(),
        };
        let action = ChaincodeEndorsedAction {
            proposal_response_payload: endorsed.encode_to_vec(),
            endorsements: vec![Endorsement { endorser: b"peer0".to_vec(), signature: b"sig".to_vec() }],
        };
        let payload = ChaincodeActionPayload {
            chaincode_proposal_payload: self.proposed.clone(),
            action: Some(action),
        };
        let action =
            TransactionAction { header: self.action_header.clone(), payload: payload.encode_to_vec() };
        let data = Transaction { actions: vec![action; self.actions] }.encode_to_vec();
        let mut payload = Payload { header: Some(self.header.clone()), data }.encode_to_vec();
        payload.extend(&self.unknown);
        EndorseResponse { prepared_transaction: Some(Envelope { payload, signature: vec![] }) }
    }
}
