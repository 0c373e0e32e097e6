//! A transaction: who wanted it, what it did, who endorsed it.

use std::collections::{BTreeMap, BTreeSet};

use trust::Digest;

use super::{
    MAX_SIGNERS, Proven, Rules, Submitter,
    error::{Checked, ProofCode, ProofError, canonical, decode, ensure, refuse},
    signer::{Of, identity, member, seconds},
};
use crate::{
    block::{KvRwSet, TxReadWriteSet},
    channel::Channel,
    gateway::message::{
        ChaincodeAction, ChaincodeActionPayload, ChaincodeEndorsedAction, ChaincodeHeaderExtension,
        ChaincodeInvocationSpec, Endorsement, Envelope, Payload, ProposalResponsePayload, Transaction,
    },
    message::{
        ChaincodeEvent, ChaincodeId, ChaincodeInput, ChaincodeProposalPayload, ChannelHeader, Header,
        SignatureHeader,
    },
};

/// `HeaderType.ENDORSER_TRANSACTION`.
const ENDORSER_TRANSACTION: i32 = 3;
/// Answers that are endorsed.
const ENDORSED: std::ops::Range<i32> = 200..400;

/// Verifies a transaction of a block that was verified ([`super::verify_block`]): all but that it is valid, which a block does
/// not say under a signature. For who reads blocks as they are.
pub fn transaction(
    rules: &Rules<'_>,
    number: u64,
    index: u32,
    envelope: &[u8],
) -> Result<Proven, ProofError> {
    let envelope: Envelope = canonical("the envelope", envelope)?;
    let payload: Payload = decode(ProofCode::Format, "the payload", &envelope.payload)?;
    let header = payload.header.unwrap_or_default();
    let (of, signature_header) = headers(rules.channel, &header)?;
    let Some(time) = seconds(of.timestamp) else {
        return refuse(ProofCode::Time, "the transaction has no time");
    };
    let creator = identity(&signature_header.creator).and_then(|id| {
        let member = member(rules.channel, Of::Submitters, &id, Some(time))?;
        Ok((id, member))
    });
    let (creator, submitter) =
        creator.or_else(|e| refuse(ProofCode::CreatorIdentity, format!("the submitter {e}")))?;
    submitter.verify(&envelope.payload, &envelope.signature).or_else(|e| {
        let code = ProofCode::CreatorSignature;
        refuse(code, format!("a member of `{}` did not sign the transaction: {e}", submitter.msp))
    })?;
    let action = action(&header, &payload.data)?;
    let (args, called) = call(&action.chaincode_proposal_payload)?;
    let extension: ChaincodeHeaderExtension =
        decode(ProofCode::Format, "the header's extension", &of.extension)?;
    is_chaincode(rules, "the header", extension.chaincode_id.as_ref())?;
    is_chaincode(rules, "what is called", called.as_ref())?;
    let endorsed = action.action.unwrap_or_default();
    let done = result(rules, &header, &action.chaincode_proposal_payload, &endorsed)?;
    let response = done.response.unwrap_or_default();
    ensure(ENDORSED.contains(&response.status), ProofCode::Failed, || {
        format!("the chaincode answered with status {}: {}", response.status, response.message)
    })?;
    let event = event(rules, &of.tx_id, &done.events)?;
    let writes = writes(rules, &done.results)?;
    let endorsed_by = endorsers(rules, &endorsed, |e| endorsement(rules.channel, &endorsed, e, time))?;
    Ok(Proven {
        tx_id: of.tx_id,
        number,
        transaction: index,
        time,
        creator: Submitter { msp_id: creator.msp_id, certificate: creator.id_bytes },
        args,
        response,
        event,
        writes,
        endorsed_by,
        valid_by: BTreeSet::new(),
    })
}

/// Headers of a proposal on that channel, each in its one encoding: their hash has no lengths in it.
pub(super) fn headers(channel: &Channel, header: &Header) -> Checked<(ChannelHeader, SignatureHeader)> {
    let of: ChannelHeader = canonical("the channel header", &header.channel_header)?;
    ensure(of.kind == ENDORSER_TRANSACTION && of.epoch == 0, ProofCode::NotATransaction, || {
        format!("it has type {} and epoch {}, a transaction {ENDORSER_TRANSACTION} and 0", of.kind, of.epoch)
    })?;
    ensure(of.channel_id == channel.name(), ProofCode::WrongChannel, || {
        format!("it is of channel `{}`, not `{}`", of.channel_id, channel.name())
    })?;
    let by: SignatureHeader = canonical("the signature header", &header.signature_header)?;
    let id = Digest::of([by.nonce.as_slice(), &by.creator].concat()).hex();
    let made = !by.nonce.is_empty() && of.tx_id == id;
    ensure(made, ProofCode::TransactionId, || {
        format!("it has the id {}, nonce and creator make {id}", of.tx_id)
    })?;
    Ok((of, by))
}

/// The one action of a transaction.
fn action(header: &Header, data: &[u8]) -> Checked<ChaincodeActionPayload> {
    let format = ProofCode::Format;
    let transaction: Transaction = decode(format, "the transaction", data)?;
    let [action] = transaction.actions.as_slice() else {
        return refuse(format, format!("it has {} actions, not one", transaction.actions.len()));
    };
    ensure(action.header == header.signature_header, format, || "its action has another header".into())?;
    decode(format, "the action", &action.payload)
}

/// Arguments and chaincode of a proposal without what is transient.
fn call(payload: &[u8]) -> Checked<(Vec<Vec<u8>>, Option<ChaincodeId>)> {
    let payload: ChaincodeProposalPayload = canonical("the proposal's payload", payload)?;
    let clean = payload.transient_map.is_empty();
    ensure(clean, ProofCode::Format, || "the transaction has transient data in it".into())?;
    let spec: ChaincodeInvocationSpec = decode(ProofCode::Format, "what is called", &payload.input)?;
    let spec = spec.chaincode_spec.unwrap_or_default();
    let ChaincodeInput { args, .. } = spec.input.unwrap_or_default();
    Ok((args, spec.chaincode_id))
}

fn is_chaincode(rules: &Rules<'_>, what: &str, id: Option<&ChaincodeId>) -> Checked<()> {
    let name = id.map_or("", |id| &id.name);
    ensure(name == rules.chaincode, ProofCode::WrongChaincode, || {
        format!("{what} names chaincode `{name}`, not `{}`", rules.chaincode)
    })
}

/// As endorsers compute it.
pub(super) fn proposal_hash(header: &Header, payload: &[u8]) -> Digest {
    Digest::of([header.channel_header.as_slice(), &header.signature_header, payload].concat())
}

/// What was endorsed, when it is this proposal's answer by the chaincode.
fn result(
    rules: &Rules<'_>,
    header: &Header,
    payload: &[u8],
    endorsed: &ChaincodeEndorsedAction,
) -> Checked<ChaincodeAction> {
    let format = ProofCode::Format;
    let answer: ProposalResponsePayload =
        decode(format, "what was endorsed", &endorsed.proposal_response_payload)?;
    let hash = proposal_hash(header, payload);
    ensure(answer.proposal_hash == hash.0, ProofCode::ProposalHash, || {
        format!("the proposal has the hash {hash}, what was endorsed answers another")
    })?;
    let done: ChaincodeAction = decode(format, "the result", &answer.extension)?;
    is_chaincode(rules, "the result", done.chaincode_id.as_ref())?;
    Ok(done)
}

fn event(rules: &Rules<'_>, tx_id: &str, bytes: &[u8]) -> Checked<Option<ChaincodeEvent>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let event: ChaincodeEvent = decode(ProofCode::Event, "the event", bytes)?;
    let ours = event.chaincode_id == rules.chaincode && event.tx_id == tx_id;
    ensure(ours, ProofCode::Event, || {
        let ChaincodeEvent { chaincode_id, tx_id: of, .. } = &event;
        format!("the event is of chaincode `{chaincode_id}` and transaction {of}, not of {tx_id}")
    })?;
    Ok(Some(event))
}

/// What was written under the chaincode's name.
fn writes(rules: &Rules<'_>, results: &[u8]) -> Checked<BTreeMap<String, Option<Vec<u8>>>> {
    let code = ProofCode::WriteSet;
    let sets: TxReadWriteSet = decode(code, "the write set", results)?;
    ensure(sets.data_model == 0, code, || {
        format!("it is of model {}, keys and values of 0", sets.data_model)
    })?;
    let mut ours = sets.ns_rwset.into_iter().filter(|set| set.namespace == rules.chaincode);
    let bytes = ours.next().map(|set| set.rwset).unwrap_or_default();
    ensure(ours.next().is_none(), code, || "the chaincode has two write sets".into())?;
    let set: KvRwSet = decode(code, "the chaincode's write set", &bytes)?;
    let mut writes = BTreeMap::new();
    for write in set.writes {
        let value = (!write.is_delete).then_some(write.value);
        let before = writes.insert(write.key.clone(), value);
        ensure(before.is_none(), code, || format!("key `{}` is written twice", write.key))?;
    }
    Ok(writes)
}

/// Organisations whose peers' endorsements count. What does not count matters only where it is missed.
fn endorsers(
    rules: &Rules<'_>,
    endorsed: &ChaincodeEndorsedAction,
    counts: impl Fn(&Endorsement) -> Checked<String>,
) -> Checked<BTreeSet<String>> {
    let mut by = BTreeSet::new();
    let mut failed = BTreeMap::new();
    for it in endorsed.endorsements.iter().take(MAX_SIGNERS) {
        match counts(it) {
            Ok(organisation) => drop(by.insert(organisation)),
            Err(e) => {
                let of = identity(&it.endorser).map(|id| id.msp_id).unwrap_or_default();
                failed.entry(of).or_insert(e);
            }
        }
    }
    let missing = rules.missing(&by);
    match missing.iter().find_map(|m| failed.remove(m)) {
        Some(e) => Err(e),
        None => ensure(missing.is_empty(), ProofCode::UnderEndorsed, || {
            format!("no peer of {missing:?} has endorsed it, but of {by:?}")
        })
        .map(|()| by),
    }
}

/// The organisation of the peer that endorsed.
fn endorsement(
    channel: &Channel,
    endorsed: &ChaincodeEndorsedAction,
    it: &Endorsement,
    time: trust::UnixTime,
) -> Checked<String> {
    let peer = identity(&it.endorser).and_then(|id| member(channel, Of::Peers, &id, Some(time)));
    let peer = peer.or_else(|e| refuse(ProofCode::EndorserIdentity, format!("an endorser {e}")))?;
    let message = [endorsed.proposal_response_payload.as_slice(), &it.endorser].concat();
    match peer.verify(&message, &it.signature) {
        Ok(()) => Ok(peer.msp.clone()),
        Err(e) => {
            let code = ProofCode::EndorsementSignature;
            refuse(
                code,
                format!("a peer of `{}` did not sign what it is said to have endorsed: {e}", peer.msp),
            )
        }
    }
}
