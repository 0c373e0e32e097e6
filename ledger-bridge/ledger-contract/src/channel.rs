//! An entry that a transaction of a Fabric channel has decided: what proves it, and the proof of it.
//!
//! [`fabric::proof`] says what a valid transaction of the chaincode answered, wrote and emitted; here that is held against
//! the entry. Nothing is asked of anybody: the channel's configuration block in the trust roots is where trust begins, and
//! configuration blocks since come with the proof. Why: docs/adr/0031. Tests: `tests/channel.rs`.

use std::{cell::RefCell, rc::Rc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fabric::{
    channel::Channel,
    proof::{Proven, Rules, TransactionProof},
};
use serde::{Deserialize, Serialize};
use trust::identity::ChannelRoot;

use crate::{
    approval::{Checked, Refusal, RefusalCode, ensure, refuse},
    memo::{ByBytes, remembered},
    transaction::{Answer, Before, Decided, EVENT, Notice, SealedEntry, place_of, position_of, request_key},
};

/// What a Fabric channel proves of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelProof {
    /// Which of the transaction's decisions it is, from 0.
    pub decided: u32,
    /// The channel's configuration blocks since the one that a verifier pins, base64, in order; empty: there were none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configuration: Vec<String>,
    /// The transaction in its block.
    pub transaction: TransactionProof,
}

impl ChannelProof {
    /// Where the entry is in the channel's order ([`place_of`]); beyond all others when it is nowhere.
    #[must_use]
    pub fn place(&self) -> u64 {
        place_of(self.transaction.number, self.transaction.transaction, self.decided).unwrap_or(u64::MAX)
    }

    /// Which transaction it is, for a person.
    #[must_use]
    pub fn told(&self) -> String {
        let TransactionProof { number, transaction, .. } = &self.transaction;
        format!("transaction {transaction} of block {number}, decision {}", self.decided)
    }
}

/// Channels whose configuration a thread remembers to have read.
const MAX_CHANNELS: usize = 16;

type Read = Result<Rc<Channel>, String>;

thread_local! {
    static CHANNELS: RefCell<ByBytes<Read>> = RefCell::new(ByBytes::new(MAX_CHANNELS));
}

/// The channel as its newest configuration block says, followed from the pinned one.
fn channel(root: &ChannelRoot, since: &[String]) -> Checked<Rc<Channel>> {
    let blocks: Vec<&[u8]> =
        std::iter::once(&root.configuration).chain(since).map(String::as_bytes).collect();
    let read = || {
        let bytes = |block: &[u8]| STANDARD.decode(block).map_err(|e| format!("it is not base64: {e}"));
        let pinned = bytes(root.configuration.as_bytes())
            .and_then(|block| Channel::from_block(&block).map_err(|e| e.to_string()))
            .map_err(|e| format!("the pinned configuration block: {e}"))?;
        let follow = |before: Channel, next: &String| {
            let followed = bytes(next.as_bytes()).and_then(|b| before.follow(&b).map_err(|e| e.to_string()));
            followed.map_err(|e| format!("a configuration block after {}: {e}", before.number()))
        };
        since.iter().try_fold(pinned, follow).map(Rc::new)
    };
    // The newest of each pinned block is remembered.
    remembered(|f| CHANNELS.with_borrow_mut(f), &blocks[..], read)
        .or_else(|problem| refuse(RefusalCode::Channel, problem))
}

/// Name of the channel of trust roots.
pub fn name(root: &ChannelRoot) -> Result<String, Refusal> {
    channel(root, &[]).map(|channel| channel.name().to_owned())
}

/// Verifies that a valid transaction of the channel has decided an entry.
pub(crate) fn decided(proof: &ChannelProof, root: &ChannelRoot, sealed: &SealedEntry) -> Checked<()> {
    let channel = channel(root, &proof.configuration)?;
    let rules = Rules { channel: &channel, chaincode: &root.chaincode, endorsers: &root.endorsers };
    let transaction =
        proof.transaction.verify(&rules).or_else(|e| refuse(RefusalCode::Transaction, e.to_string()))?;
    ensure(sealed.ledger == channel.name(), RefusalCode::WrongLedger, || {
        format!("the entry is of ledger `{}`, the transaction of channel `{}`", sealed.ledger, channel.name())
    })?;
    of_transaction(&transaction, proof, sealed)
}

/// Is the entry what the transaction decided, at the place that the proof says, and wrote down?
fn of_transaction(it: &Proven, proof: &ChannelProof, sealed: &SealedEntry) -> Checked<()> {
    let not = |what: &str| refuse(RefusalCode::Transaction, format!("transaction {}: {what}", it.tx_id));
    if place_of(it.number, it.transaction, proof.decided).is_none() {
        return not("it is beyond the places that a ledger has");
    }
    if !matches!(it.args.as_slice(), [function] if function == b"submit") {
        return not("it is no submission");
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(&it.response.payload) else {
        return not("its answer is none of the contract's");
    };
    let at = usize::try_from(proof.decided).unwrap_or(usize::MAX);
    match answer.decided.get(at) {
        Some(Decided::Entry { entry }) if **entry == *sealed => {}
        Some(Decided::Entry { .. }) => return not("it decided something else there"),
        _ => return not("it made no entry there"),
    }
    let named = [Some(0), position_of(&it.tx_id, at)];
    ensure(named.contains(&Some(sealed.position)), RefusalCode::Position, || {
        format!("the entry's name is {}, not of transaction {}", sealed.position, it.tx_id)
    })?;
    let written = it.writes.get(&request_key(&sealed.request)).and_then(|value| value.as_deref());
    let before = written.and_then(|bytes| serde_json::from_slice::<Before>(bytes).ok());
    if !before.is_some_and(|b| b.tx == it.tx_id && b.position == sealed.position) {
        return not("it has not written down that the request was decided");
    }
    let event = it.event.as_ref().filter(|e| e.event_name == EVENT);
    let notice = event.and_then(|e| serde_json::from_slice::<Notice>(&e.payload).ok());
    let Some(notice) = notice else { return not("it emits no such event") };
    let told = if sealed.event.is_some() { &notice.events } else { &notice.others };
    match told.contains(&sealed.position) {
        true => Ok(()),
        false => not("its event does not tell of the entry"),
    }
}
