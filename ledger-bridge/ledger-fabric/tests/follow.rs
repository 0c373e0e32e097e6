//! Following a channel whose keys are all known: what a block must be to be taken, and that nothing of another one is.
#![allow(missing_docs, clippy::panic, clippy::unwrap_used)]

#[path = "../../fabric/tests/consortium/mod.rs"]
mod consortium;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use consortium::{CHAINCODE, CHANNEL, Consortium, Draft, NOW, Node, endorse, seal};
use fabric::{
    block::Block,
    gateway::message::{ChaincodeAction, ProposalResponsePayload, ValidationCode},
    proof::ProofCode,
};
use ledger_contract::{
    records::Verdict,
    transaction::{Answer, Before, Decided, SealedEntry, position_of, request_key},
};
use ledger_fabric::{
    FollowError,
    follow::Follower,
    mirror::{At, Mirror},
};
use prost::Message as _;
use trust::{Digest, UnixTime, identity::ChannelRoot};

/// Number of the pinned configuration block.
const PINNED: u64 = 1;

struct Field {
    them: Consortium,
    orderer: Node,
    mirror: Arc<Mirror>,
    follower: Follower,
    root: ChannelRoot,
    pinned: Block,
    dir: tempfile::TempDir,
}

fn hash(block: &Block) -> Digest {
    Digest::of(block.header.clone().unwrap().to_der().unwrap())
}

fn genesis() -> Block {
    seal(&[b"\n\x01a\x12\x01b".to_vec()], 0, Digest([0; 32]), 0, None)
}

impl Field {
    fn new() -> Self {
        let them = Consortium::new();
        let orderer = them.node("OrdererMSP", "orderer");
        let mut pinned = them.config_block(CHANNEL, PINNED, 2, Some(&orderer));
        // It follows the channel's first block.
        pinned.header.as_mut().unwrap().previous_hash = hash(&genesis()).0.to_vec();
        let root = ChannelRoot {
            configuration: STANDARD.encode(pinned.encode_to_vec()),
            chaincode: CHAINCODE.into(),
            endorsers: std::collections::BTreeSet::new(),
        };
        let dir = tempfile::tempdir().unwrap();
        let mirror = Arc::new(Mirror::open(dir.path(), CHANNEL).unwrap());
        let follower = Follower::open(root.clone(), Arc::clone(&mirror)).unwrap();
        Self { them, orderer, mirror, follower, root, pinned, dir }
    }

    /// Up to the pinned block.
    fn begun() -> Self {
        let field = Self::new();
        field.follower.take(&genesis()).unwrap();
        field.follower.take(&field.pinned).unwrap();
        field
    }

    /// The next block, of these envelopes and what a peer made of each.
    fn next(&self, envelopes: &[(Vec<u8>, ValidationCode)]) -> Block {
        let At { next, hash } = self.mirror.at();
        let data: Vec<_> = envelopes.iter().map(|(e, _)| e.clone()).collect();
        let mut block =
            seal(&data, next, hash.unwrap(), self.follower.channel().number(), Some(&self.orderer));
        let codes = envelopes.iter().map(|(_, code)| u8::try_from(*code as i32).unwrap()).collect();
        block.metadata.as_mut().unwrap().metadata.extend([vec![], codes]);
        block
    }

    /// A transaction that decided one request, as the contract says so.
    fn decision(&self, seed: u64) -> (Draft, SealedEntry) {
        let mut draft = Draft::new(&self.them, seed);
        draft.args = vec![b"submit".to_vec()];
        let tx = draft.parts().tx_id;
        let entry = SealedEntry {
            v: 4,
            ledger: CHANNEL.into(),
            position: position_of(&tx, 0).unwrap(),
            time: UnixTime(NOW),
            request: Digest::of(seed.to_be_bytes()),
            verdict: Verdict { approved: true, rules: Vec::new(), policy: Digest([0; 32]) },
            event: None,
            writes: Digest([0; 32]),
        };
        let before = Before { v: 1, tx, position: entry.position };
        draft.sets[1].1.push((request_key(&entry.request), Some(serde_json::to_vec(&before).unwrap())));
        (draft, entry)
    }

    fn envelope(&self, draft: &Draft, entry: &SealedEntry) -> Vec<u8> {
        let answer = Answer { v: 1, decided: vec![Decided::Entry { entry: Box::new(entry.clone()) }] };
        let mut parts = draft.parts();
        let mut payload = ProposalResponsePayload::decode(parts.answer.as_slice()).unwrap();
        let mut action = ChaincodeAction::decode(payload.extension.as_slice()).unwrap();
        action.response.as_mut().unwrap().payload = serde_json::to_vec(&answer).unwrap();
        payload.extension = action.encode_to_vec();
        parts.answer = payload.encode_to_vec();
        parts.endorsements = draft.endorsers.iter().map(|by| endorse(by, &parts.answer)).collect();
        parts.envelope(&draft.creator)
    }

    fn decided(&self, seed: u64) -> Vec<u8> {
        let (draft, entry) = self.decision(seed);
        self.envelope(&draft, &entry)
    }

    /// A block is refused, and the mirror is as it was.
    fn refused(&self, block: &Block) -> FollowError {
        let before = (self.mirror.at(), self.mirror.size());
        let error = self.follower.take(block).unwrap_err();
        println!("refused: {error}");
        assert_eq!((self.mirror.at(), self.mirror.size()), before);
        error
    }

    fn proof(&self, block: &Block) -> ProofCode {
        match self.refused(block) {
            FollowError::Proof { source, .. } => source.code,
            other => panic!("{other}"),
        }
    }
}

const VALID: ValidationCode = ValidationCode::Valid;

#[test]
fn blocks_up_to_the_pinned_one_are_tied_to_it() {
    let field = Field::new();
    assert!(matches!(field.refused(&field.pinned), FollowError::Other { .. }), "block 0 comes first");
    let mut more = genesis();
    more.data.as_mut().unwrap().data.push(b"more".to_vec());
    assert!(matches!(field.refused(&more), FollowError::Other { .. }), "other transactions");
    field.follower.take(&genesis()).unwrap();
    let mut other = field.them.config_block(CHANNEL, PINNED, 3, Some(&field.orderer));
    other.header.as_mut().unwrap().previous_hash = hash(&genesis()).0.to_vec();
    assert!(matches!(field.refused(&other), FollowError::Other { .. }), "not the pinned one");
    field.follower.take(&field.pinned).unwrap();
    assert_eq!(field.mirror.at(), At { next: PINNED + 1, hash: Some(hash(&field.pinned)) });
}

#[test]
fn what_was_decided_is_taken_in_order_and_what_is_invalid_is_not() {
    let field = Field::begun();
    let invalid = ValidationCode::MvccReadConflict;
    let block =
        field.next(&[(field.decided(1), VALID), (field.decided(2), invalid), (field.decided(3), VALID)]);
    field.follower.take(&block).unwrap();
    assert_eq!(field.mirror.size(), 2);
    for (number, seed) in [(0, 1), (1, 3)] {
        let kept = field.mirror.entry(number).unwrap().unwrap();
        assert_eq!((kept.block, kept.sealed), (PINNED + 1, field.decision(seed).1));
        assert!(field.mirror.state(&format!("intent/{seed}-1")).unwrap().is_some());
    }
    assert_eq!(field.mirror.state("intent/2-1").unwrap(), None);
    // It goes on where it was.
    let mirror = Arc::new(Mirror::open(field.dir.path(), CHANNEL).unwrap());
    let follower = Follower::open(field.root.clone(), Arc::clone(&mirror)).unwrap();
    follower.take(&field.next(&[(field.decided(4), VALID)])).unwrap();
    assert_eq!(mirror.size(), 3);
}

#[test]
fn a_block_that_is_not_the_channels_next_is_not_taken() {
    let field = Field::begun();
    let good = field.next(&[(field.decided(1), VALID)]);
    let with = |change: &dyn Fn(&mut Block)| {
        let mut block = good.clone();
        change(&mut block);
        block
    };
    let peer = field.them.node("Org1MSP", "peer");
    let data = good.envelopes();
    let header = good.header.clone().unwrap();
    let previous = field.mirror.at().hash.unwrap();
    let other = |what: &str, block: &Block| {
        assert!(matches!(field.refused(block), FollowError::Other { .. }), "{what}")
    };
    other("a gap", &seal(data, header.number + 1, previous, PINNED, Some(&field.orderer)));
    other("another past", &seal(data, header.number, Digest([5; 32]), PINNED, Some(&field.orderer)));
    let more = with(&|b| b.data.as_mut().unwrap().data.push(field.decided(2)));
    assert_eq!(field.proof(&more), ProofCode::DataHash);
    assert_eq!(field.proof(&seal(data, header.number, previous, PINNED, None)), ProofCode::OrdererSignature);
    assert_eq!(
        field.proof(&seal(data, header.number, previous, PINNED, Some(&peer))),
        ProofCode::OrdererIdentity
    );
    assert_eq!(
        field.proof(&seal(data, header.number, previous, 0, Some(&field.orderer))),
        ProofCode::Configuration
    );
    field.follower.take(&good).unwrap();
    other("the same again", &good);
}

#[test]
fn what_a_peer_calls_valid_must_have_been_endorsed_by_all() {
    let field = Field::begun();
    let (draft, entry) = field.decision(1);
    let alone = Draft { endorsers: vec![field.them.node("Org1MSP", "peer")], ..draft.clone() };
    let block = field.next(&[(field.decided(2), VALID), (field.envelope(&alone, &entry), VALID)]);
    assert_eq!(field.proof(&block), ProofCode::UnderEndorsed);
    let admin = field.them.node("Org2MSP", "admin");
    let no_peer = Draft { endorsers: vec![field.them.node("Org1MSP", "peer"), admin], ..draft.clone() };
    assert_eq!(
        field.proof(&field.next(&[(field.envelope(&no_peer, &entry), VALID)])),
        ProofCode::EndorserIdentity
    );
    // It wrote, and does not say what the contract says.
    let block = field.next(&[(draft.envelope(), VALID)]);
    assert!(matches!(field.refused(&block), FollowError::Other { .. }));
    // Another chaincode's is nobody's here.
    let mut foreign = draft;
    foreign.chaincodes = ["other"; 4].map(str::to_owned);
    foreign.sets[1].0 = "other".into();
    field.follower.take(&field.next(&[(foreign.envelope(), VALID)])).unwrap();
    assert_eq!(field.mirror.size(), 0);
}

#[test]
fn a_new_configuration_is_followed_and_kept() {
    let field = Field::begun();
    let At { next, hash } = field.mirror.at();
    let config = |sequence, by: &Node| {
        let data = field.them.config_block(CHANNEL, next, sequence, None).envelopes().to_vec();
        seal(&data, next, hash.unwrap(), next, Some(by))
    };
    field.refused(&config(3, &field.them.node("Org1MSP", "peer")));
    field.refused(&config(2, &field.orderer));
    field.follower.take(&config(3, &field.orderer)).unwrap();
    assert_eq!(field.follower.channel().number(), next);
    assert_eq!(
        field.mirror.configuration(PINNED, u64::MAX).unwrap(),
        [config(3, &field.orderer).encode_to_vec()]
    );
    // Under the new one, and after a restart.
    let block = field.next(&[(field.decided(1), VALID)]);
    let mirror = Arc::new(Mirror::open(field.dir.path(), CHANNEL).unwrap());
    let follower = Follower::open(field.root.clone(), Arc::clone(&mirror)).unwrap();
    follower.take(&block).unwrap();
    assert_eq!((mirror.size(), follower.channel().number()), (1, next));
}
