//! Forged proofs: with keys, each check reached with everything else right; and ten thousand altered ones.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod consortium;

use std::{collections::BTreeSet, sync::LazyLock};

use consortium::*;
use fabric::{
    block::{Block, Config, ConfigGroup, ConfigValue, ConsensusType, Metadata, OrdererBlockMetadata},
    channel::{Channel, ChannelError},
    gateway::message::{Endorsement, Envelope, Payload, SerializedIdentity},
    message::SignatureHeader,
    proof::{Bytes, ProofCode, ProofError, Proven, Rules, TransactionProof, verify_block},
};
use p256::ecdsa::Signature;
use prost::Message as _;
use trust::Digest;

use ProofCode as C;

/// Number of the configuration block, and of the block that is proven.
const CONFIGURED: u64 = 4;
const NUMBER: u64 = 7;

struct Field {
    consortium: Consortium,
    channel: Channel,
    /// Transactions in the same block.
    others: [Vec<u8>; 2],
}

static FIELD: LazyLock<Field> = LazyLock::new(|| {
    let consortium = Consortium::new();
    let block = consortium.config_block(CHANNEL, CONFIGURED, 2, None);
    let channel = Channel::from_block(&block.encode_to_vec()).unwrap();
    let others = [1_000, 1_001].map(|seed| Draft::new(&consortium, seed).envelope());
    Field { channel, consortium, others }
});

fn verify(proof: &TransactionProof) -> Result<Proven, ProofError> {
    let all = BTreeSet::new();
    proof.verify(&Rules { channel: &FIELD.channel, chaincode: CHAINCODE, endorsers: &all })
}

/// Somebody with a certificate of a CA.
fn somebody(msp: &str, ca: &Ca, role: &str, serial: u8, days: (i64, i64)) -> Node {
    let at = |days: i64| NOW.saturating_add_signed(days * 86_400);
    let units = [role];
    let wanted = Wanted { from: at(days.0), to: at(days.1), ..Wanted::new("somebody", &units, serial) };
    Node::of(msp, ca, &wanted)
}

/// Those who are not `role` of `msp`, each in one way.
fn impostors(msp: &'static str, role: &str) -> Vec<(String, Node)> {
    let them = &FIELD.consortium;
    let ca = &them.cas[msp];
    let foreign = Ca::root(msp, "a key of mine");
    let other = if msp == "Org2MSP" { "Org1MSP" } else { "Org2MSP" };
    let mut all = vec![
        ("foreign CA of the same name".to_owned(), somebody(msp, &foreign, role, 20, (-1, 1))),
        ("expired".to_owned(), somebody(msp, ca, role, 21, (-3, -1))),
        ("not valid yet".to_owned(), somebody(msp, ca, role, 22, (1, 3))),
        ("revoked".to_owned(), somebody(msp, ca, role, them.revoked[0], (-1, 1))),
        ("of another organisation".to_owned(), them.node(other, role).calling_itself(msp)),
        ("two roles".to_owned(), Node::of(msp, ca, &Wanted::new("two", &[role, "other", "admin"], 23))),
    ];
    let roles = ["client", "peer", "admin", "orderer"].into_iter();
    all.extend(roles.filter(|r| *r != role).map(|r| (format!("{r} as {role}"), them.node(msp, r))));
    all
}

fn high_s(der: &[u8]) -> Vec<u8> {
    let low = Signature::from_der(der).unwrap();
    let (r, s) = low.split_scalars();
    Signature::from_scalars(r.to_bytes(), (-s).to_bytes()).unwrap().to_der().as_bytes().to_vec()
}

/// A block with this transaction second, and a proof of it.
fn proof_of(envelope: Vec<u8>, tx_id: &str, seed: u64) -> TransactionProof {
    let [before, after] = FIELD.others.clone();
    assert!(seed < 1_000, "the others have that");
    prove(&FIELD.consortium, &[before, envelope, after], 1, tx_id, NUMBER)
}

fn honest(seed: u64) -> (Draft, TransactionProof) {
    let draft = Draft::new(&FIELD.consortium, seed);
    let parts = draft.parts();
    (draft.clone(), proof_of(parts.envelope(&draft.creator), &parts.tx_id, seed))
}

/// Signed again by an orderer, whatever is in it.
fn resealed(proof: &TransactionProof, by: &Node, configuration: u64) -> TransactionProof {
    let data: Vec<_> = proof.data.iter().map(|e| e.0.clone()).collect();
    let block = seal(&data, proof.number, proof.previous, configuration, Some(by));
    TransactionProof { signatures: Bytes(block.metadata(0).to_vec()), ..proof.clone() }
}

struct Cases {
    seed: u64,
    all: Vec<(String, C, TransactionProof)>,
}

impl Cases {
    fn draft(&mut self, name: &str, code: C, change: impl FnOnce(&mut Draft)) {
        let mut draft = Draft::new(&FIELD.consortium, self.seed);
        change(&mut draft);
        let parts = draft.parts();
        let proof = proof_of(parts.envelope(&draft.creator), &parts.tx_id, self.seed);
        self.all.push((name.to_owned(), code, proof));
    }

    /// The endorsers have signed, then the submitter alters it.
    fn parts(&mut self, name: &str, code: C, change: impl FnOnce(&mut Parts)) {
        let draft = Draft::new(&FIELD.consortium, self.seed);
        let mut parts = draft.parts();
        change(&mut parts);
        let proof = proof_of(parts.envelope(&draft.creator), &parts.tx_id, self.seed);
        self.all.push((name.to_owned(), code, proof));
    }

    fn proof(&mut self, name: &str, code: C, change: impl FnOnce(&mut TransactionProof)) {
        let (_, mut proof) = honest(self.seed);
        change(&mut proof);
        self.all.push((name.to_owned(), code, proof));
    }

    /// One organisation's word is another one.
    fn word(&mut self, name: &str, code: C, change: impl FnOnce(&mut Word)) {
        let them = &FIELD.consortium;
        let tx_id = Draft::new(them, self.seed).parts().tx_id;
        let mut word = Word::new(them, &them.node("Org2MSP", "peer"), &tx_id);
        change(&mut word);
        self.proof(name, code, |p| p.validity[1] = word.about(&p.data[1].0));
    }
}

fn cases(seed: u64) -> Vec<(String, C, TransactionProof)> {
    let them = &FIELD.consortium;
    let mut it = Cases { seed, all: vec![] };
    transactions(&mut it);
    endorsements(&mut it);
    encodings(&mut it);
    blocks(&mut it);
    words(&mut it);
    for (name, node) in impostors("Org2MSP", "peer") {
        it.draft(&format!("endorser: {name}"), C::EndorserIdentity, |d| d.endorsers[1] = node.clone());
        it.word(&format!("word: {name}"), C::ValidityIdentity, |w| w.by = node.clone());
    }
    for (name, node) in impostors("OrdererMSP", "orderer") {
        it.proof(&format!("orderer: {name}"), C::OrdererIdentity, |p| *p = resealed(p, &node, CONFIGURED));
    }
    for (name, node) in impostors("Org1MSP", "client") {
        // Every member may submit.
        if !name.contains(" as ") {
            it.draft(&format!("creator: {name}"), C::CreatorIdentity, |d| d.creator = node.clone());
        }
    }
    let orderer = them.node("OrdererMSP", "orderer");
    it.draft("creator: an orderer", C::CreatorIdentity, |d| d.creator = orderer.clone());
    it.draft("endorser: an orderer", C::UnderEndorsed, |d| d.endorsers[1] = orderer.clone());
    it.word("word: an orderer", C::ValidityIdentity, |w| w.by = orderer.clone());
    let peer = them.node("Org1MSP", "orderer");
    it.proof("orderer: one of an application organisation", C::OrdererIdentity, |p| {
        *p = resealed(p, &peer, CONFIGURED);
    });
    it.all
}

fn transactions(it: &mut Cases) {
    it.draft("configuration", C::NotATransaction, |d| d.kind = 1);
    it.draft("epoch", C::NotATransaction, |d| d.epoch = 1);
    it.draft("other channel", C::WrongChannel, |d| d.channel = "other".into());
    it.draft("id", C::TransactionId, |d| d.tx_id = Some("0".repeat(64)));
    it.draft("no nonce", C::TransactionId, |d| d.nonce = vec![]);
    it.draft("no time", C::Time, |d| d.time = None);
    it.draft("time before 1970", C::Time, |d| d.time = Some(-1));
    it.draft("transient data", C::Format, |d| d.transient = true);
    for n in 0..3 {
        it.draft(&format!("chaincode {n}"), C::WrongChaincode, |d| d.chaincodes[n] = "other".into());
    }
    it.draft("event of another chaincode", C::Event, |d| d.chaincodes[3] = "other".into());
    it.draft("event of another transaction", C::Event, |d| d.event_tx = Some("1".repeat(64)));
    it.draft("refused by the chaincode", C::Failed, |d| d.status = 500);
    it.draft("status below 200", C::Failed, |d| d.status = 199);
    it.draft("model of the write set", C::WriteSet, |d| d.model = 1);
    it.draft("two write sets", C::WriteSet, |d| d.sets.push((CHAINCODE.into(), vec![])));
    it.draft("a key twice", C::WriteSet, |d| {
        let write = d.sets[1].1[0].clone();
        d.sets[1].1.push(write);
    });
    it.draft("hash", C::ProposalHash, |d| d.hash = Some(vec![7; 32]));
    it.parts("no action", C::Format, |p| p.actions = 0);
    it.parts("two actions", C::Format, |p| p.actions = 2);
    it.parts("another action header", C::Format, |p| p.action_header.push(0));
    let other = Draft::new(&FIELD.consortium, it.seed + 9);
    it.parts("other arguments", C::ProposalHash, |p| p.call = other.parts().call);
    it.parts("other answer, endorsed for another", C::ProposalHash, |p| {
        (p.answer, p.endorsements) = (other.parts().answer, other.parts().endorsements);
    });
    it.parts("other time", C::ProposalHash, |p| {
        let later = Draft { time: Some(i64::try_from(NOW + 1).unwrap()), ..Draft::new(&FIELD.consortium, 0) };
        let mut header = fabric::message::ChannelHeader::decode(p.channel_header.as_slice()).unwrap();
        header.timestamp.as_mut().unwrap().seconds = later.time.unwrap();
        p.channel_header = header.encode_to_vec();
    });
    let draft = Draft::new(&FIELD.consortium, it.seed);
    let parts = draft.parts();
    let stranger = FIELD.consortium.node("Org1MSP", "admin");
    let proof = proof_of(parts.envelope(&stranger), &parts.tx_id, it.seed);
    it.all.push(("signed by another".into(), C::CreatorSignature, proof));
    let mut envelope = Envelope::decode(parts.envelope(&draft.creator).as_slice()).unwrap();
    envelope.signature = high_s(&envelope.signature);
    it.all.push((
        "high S".into(),
        C::CreatorSignature,
        proof_of(envelope.encode_to_vec(), &parts.tx_id, it.seed),
    ));
}

fn endorsements(it: &mut Cases) {
    let them = &FIELD.consortium;
    let other = Draft::new(them, it.seed + 9).parts();
    it.draft("under-endorsed", C::UnderEndorsed, |d| d.endorsers.truncate(1));
    it.draft("not endorsed", C::UnderEndorsed, |d| d.endorsers.clear());
    it.draft("one endorser twice", C::UnderEndorsed, |d| d.endorsers[1] = d.endorsers[0].clone());
    let second = Node::of("Org1MSP", &them.cas["Org1MSP"], &Wanted::new("second", &["peer"], 30));
    it.draft("two of one organisation", C::UnderEndorsed, |d| d.endorsers[1] = second);
    it.parts("another's endorsement", C::EndorsementSignature, |p| {
        p.endorsements[1] = other.endorsements[1].clone()
    });
    it.parts("signatures swapped", C::EndorsementSignature, |p| {
        let signatures = [1, 0].map(|n: usize| p.endorsements[n].signature.clone());
        for (e, signature) in p.endorsements.iter_mut().zip(signatures) {
            e.signature = signature;
        }
    });
    it.parts("high S of an endorser", C::EndorsementSignature, |p| {
        p.endorsements[0].signature = high_s(&p.endorsements[0].signature);
    });
    it.parts("endorser calls itself another", C::EndorserIdentity, |p| {
        p.endorsements[0].endorser = them.node("Org2MSP", "peer").calling_itself("Org1MSP").identity;
    });
    it.parts("an organisation that is none", C::UnderEndorsed, |p| {
        let by = them.node("Org2MSP", "peer").calling_itself("Org3MSP");
        p.endorsements[1] = endorse(&by, &p.answer);
    });
}

/// Endorsed and signed as they are, in encodings that others could read otherwise.
fn encodings(it: &mut Cases) {
    let them = &FIELD.consortium;
    let endorsed = |p: &mut Parts| {
        let hash = Digest::of([p.channel_header.as_slice(), &p.signature_header, &p.call].concat());
        let mut answer =
            fabric::gateway::message::ProposalResponsePayload::decode(p.answer.as_slice()).unwrap();
        answer.proposal_hash = hash.0.to_vec();
        p.answer = answer.encode_to_vec();
        p.action_header = p.signature_header.clone();
        p.endorsements = ["Org1MSP", "Org2MSP"].map(|msp| endorse(&them.node(msp, "peer"), &p.answer)).into();
    };
    // Field 15, which nobody knows.
    let unknown = [0x7a, 1, b'x'];
    it.parts("unknown field of the channel header", C::NotCanonical, |p| {
        p.channel_header.extend(unknown);
        endorsed(p);
    });
    it.parts("unknown field of the signature header", C::NotCanonical, |p| {
        p.signature_header.extend(unknown);
        endorsed(p);
    });
    it.parts("unknown field of the call", C::NotCanonical, |p| {
        p.call.extend(unknown);
        endorsed(p);
    });
    it.parts("arguments twice", C::NotCanonical, |p| {
        let twice = [p.call.clone(), p.call.clone()].concat();
        p.call = twice;
        endorsed(p);
    });
    it.parts("the border between headers moved", C::TransactionId, |p| {
        // The same bytes and hash; the nonce is now before the call.
        let by = SignatureHeader::decode(p.signature_header.as_slice()).unwrap();
        let short = SignatureHeader { nonce: vec![], ..by }.encode_to_vec();
        let moved = p.signature_header.split_off(short.len());
        p.call = [moved, p.call.clone()].concat();
        p.action_header.clone_from(&p.signature_header);
    });
    it.proof("unknown field of the envelope", C::NotCanonical, |p| {
        p.data[1].0.extend(unknown);
        *p = resealed(p, &them.node("OrdererMSP", "orderer"), CONFIGURED);
    });
    it.proof("two envelopes as one, which have the same hash", C::NotCanonical, |p| {
        let last = p.data.pop().unwrap();
        p.data[1].0.extend(last.0);
    });
    it.proof("one envelope as two", C::Format, |p| {
        let envelope = Envelope::decode(p.data[2].0.as_slice()).unwrap();
        let payload = Envelope { signature: vec![], ..envelope }.encode_to_vec();
        let rest = p.data[2].0.split_off(payload.len());
        p.data.push(Bytes(rest));
    });
}

fn blocks(it: &mut Cases) {
    let orderer = FIELD.consortium.node("OrdererMSP", "orderer");
    it.proof("number", C::OrdererSignature, |p| p.number += 1);
    it.proof("previous", C::OrdererSignature, |p| p.previous.0[0] ^= 1);
    it.proof("an envelope less", C::OrdererSignature, |p| drop(p.data.pop()));
    it.proof("an envelope more", C::OrdererSignature, |p| p.data.push(p.data[0].clone()));
    it.proof("envelopes swapped", C::OrdererSignature, |p| p.data.swap(0, 2));
    it.proof("no envelope", C::BlockFormat, |p| p.data.clear());
    it.proof("no such envelope", C::Index, |p| p.transaction = 3);
    it.proof("under another index", C::ValiditySignature, |p| p.transaction = 2);
    it.proof("the same under a later index", C::Duplicate, |p| {
        p.data[2] = p.data[1].clone();
        p.transaction = 2;
        *p = resealed(p, &orderer, CONFIGURED);
    });
    it.proof("older configuration", C::Configuration, |p| *p = resealed(p, &orderer, CONFIGURED - 1));
    it.proof("newer configuration", C::Configuration, |p| *p = resealed(p, &orderer, CONFIGURED + 1));
    let change = |p: &mut TransactionProof, change: &dyn Fn(&mut Metadata)| {
        let mut metadata = Metadata::decode(p.signatures.0.as_slice()).unwrap();
        change(&mut metadata);
        p.signatures.0 = metadata.encode_to_vec();
    };
    it.proof("no signature", C::OrdererSignature, |p| change(p, &|m| m.signatures.clear()));
    it.proof("other metadata", C::OrdererSignature, |p| {
        change(p, &|m| {
            let mut value = OrdererBlockMetadata::decode(m.value.as_slice()).unwrap();
            value.consenter_metadata.push(0);
            m.value = value.encode_to_vec();
        });
    });
    it.proof("metadata without a configuration", C::BlockFormat, |p| change(p, &|m| m.value.clear()));
    it.proof("high S of the orderer", C::OrdererSignature, |p| {
        change(p, &|m| m.signatures[0].signature = high_s(&m.signatures[0].signature));
    });
    it.proof("another nonce", C::OrdererSignature, |p| {
        change(p, &|m| {
            let by = SignatureHeader { nonce: vec![1], creator: orderer.identity.clone() };
            m.signatures[0].signature_header = by.encode_to_vec();
        });
    });
    it.proof("a block's signature of another block", C::OrdererSignature, |p| {
        let other = TransactionProof { number: p.number + 1, ..p.clone() };
        p.signatures = resealed(&other, &orderer, CONFIGURED).signatures;
    });
}

fn words(it: &mut Cases) {
    let them = &FIELD.consortium;
    let other = Draft::new(them, it.seed + 9).parts().tx_id;
    it.word("invalid", C::ValiditySignature, |w| w.code = 11);
    it.word("not validated", C::ValiditySignature, |w| w.code = 254);
    it.word("asked for another", C::ValiditySignature, |w| w.tx_id = other);
    it.word("asked about another channel", C::ValiditySignature, |w| w.asked_channel = "other".into());
    it.word("asked on another channel", C::ValidityQuestion, |w| w.channel = "other".into());
    it.word("asked another chaincode", C::ValidityQuestion, |w| w.chaincode = "other".into());
    it.word("answered by another chaincode", C::ValiditySignature, |w| w.said_chaincode = "other".into());
    it.word("asked as a configuration", C::ValidityQuestion, |w| w.kind = 1);
    it.word("asked at no time", C::ValidityQuestion, |w| w.time = None);
    it.word("id of the question", C::ValidityQuestion, |w| w.question_id = Some("2".repeat(64)));
    it.word("only one organisation's peers", C::UnderValidated, |w| w.by = them.node("Org1MSP", "peer"));
    it.word("signed by another key", C::ValiditySignature, |w| w.by.key = them.node("Org1MSP", "peer").key);
    it.word("asked when the peer's certificate was over", C::ValidityIdentity, |w| {
        w.time = Some(i64::try_from(NOW + 86_400 * 2).unwrap());
    });
    it.proof("about another envelope", C::ValiditySignature, |p| {
        let word =
            Word::new(them, &them.node("Org2MSP", "peer"), &Draft::new(them, it_seed(p)).parts().tx_id);
        p.validity[1] = word.about(&p.data[0].0);
    });
    it.proof("no word", C::UnderValidated, |p| p.validity.clear());
    it.proof("one word", C::UnderValidated, |p| p.validity.truncate(1));
    it.proof("a word twice", C::UnderValidated, |p| p.validity[1] = p.validity[0].clone());
    it.proof("too many words", C::UnderValidated, |p| p.validity = vec![p.validity[0].clone(); 33]);
    it.proof("version", C::ValiditySignature, |p| p.validity[1].version = "2".into());
    it.proof("results", C::ValiditySignature, |p| p.validity[1].results.0.push(0));
    it.proof("who asked", C::ValidityQuestion, |p| p.validity[1].signature_header.0.clear());
    it.proof("high S of a word", C::ValiditySignature, |p| {
        p.validity[0].signature.0 = high_s(&p.validity[0].signature.0);
    });
    it.proof("another's word", C::ValiditySignature, |p| {
        let endorser = p.validity[0].endorser.clone();
        p.validity[1].endorser = endorser;
    });
}

/// The arguments have the seed in them.
fn it_seed(proof: &TransactionProof) -> u64 {
    let proven = verify(proof).unwrap();
    String::from_utf8(proven.args[1].clone()).unwrap().parse().unwrap()
}

#[test]
fn what_nobody_forged_is_proven() {
    let (draft, proof) = honest(1);
    let proven = verify(&proof).unwrap();
    assert_eq!(proven.args, draft.args);
    assert_eq!((proven.number, proven.transaction, proven.time.0), (NUMBER, 1, NOW));
    assert_eq!(proven.writes["intent/1-1"], Some(b"approved".to_vec()));
    assert_eq!(proven.writes["intent/1-2"], None);
    assert_eq!(proven.event.unwrap().payload, b"position");
    let both: BTreeSet<_> = ["Org1MSP", "Org2MSP"].map(str::to_owned).into();
    assert_eq!((&proven.endorsed_by, &proven.valid_by), (&both, &both));
    // Admins and peers may submit; endorsements that do not count do no harm.
    let mut draft = Draft::new(&FIELD.consortium, 2);
    draft.creator = FIELD.consortium.node("Org2MSP", "admin");
    draft.endorsers.insert(0, impostors("Org2MSP", "peer").remove(0).1);
    draft.endorsers.push(FIELD.consortium.node("OrdererMSP", "orderer"));
    let parts = draft.parts();
    let proven = verify(&proof_of(parts.envelope(&draft.creator), &parts.tx_id, 2)).unwrap();
    assert_eq!(proven.endorsed_by, both);
    assert_eq!(proven.creator.msp_id, "Org2MSP");
}

#[test]
fn each_check_is_reached_with_everything_else_right() {
    let mut reached = BTreeSet::new();
    for (name, code, proof) in cases(3) {
        let error = verify(&proof).map(drop).expect_err(&name);
        assert_eq!(error.code, code, "{name}: {error}");
        assert!(!error.detail.is_empty(), "{name}");
        reached.insert(code);
    }
    let elsewhere = [C::DataHash, C::Chain, C::ConfigurationOrder];
    let all = (0..).map_while(|n| CODES.get(n)).filter(|c| !elsewhere.contains(c));
    let missed: Vec<_> = all.filter(|c| !reached.contains(c)).collect();
    assert!(missed.is_empty(), "no forgery reaches {missed:?}");
}

const CODES: &[C] = &[
    C::BlockFormat,
    C::OrdererIdentity,
    C::OrdererSignature,
    C::Configuration,
    C::Index,
    C::Duplicate,
    C::Format,
    C::NotCanonical,
    C::NotATransaction,
    C::WrongChannel,
    C::TransactionId,
    C::Time,
    C::CreatorIdentity,
    C::CreatorSignature,
    C::WrongChaincode,
    C::ProposalHash,
    C::Failed,
    C::WriteSet,
    C::Event,
    C::EndorserIdentity,
    C::EndorsementSignature,
    C::UnderEndorsed,
    C::ValidityQuestion,
    C::ValidityIdentity,
    C::ValiditySignature,
    C::UnderValidated,
];

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap() % n.max(1)
    }

    /// Flips a bit, takes bytes away, doubles some, or puts another one in.
    fn alter(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), u8::try_from(self.below(256)).unwrap()),
            2 => {
                let end = at + self.below(bytes.len() - at.min(bytes.len()) + 1).min(40);
                let some: Vec<u8> = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.extend(some);
            }
            _ => match bytes.get_mut(at) {
                Some(byte) => *byte ^= 1 << self.below(8),
                None => bytes.push(0),
            },
        }
    }
}

/// What is altered, and what it proves.
struct Honest {
    draft: Draft,
    parts: Parts,
    proof: TransactionProof,
    proven: Proven,
}

static HONEST: LazyLock<Vec<Honest>> = LazyLock::new(|| {
    let of = |seed| {
        let (draft, proof) = honest(seed);
        Honest { parts: draft.parts(), proven: verify(&proof).unwrap(), draft, proof }
    };
    (0..16).map(of).collect()
});

/// Somewhere in it, as it is or with what is around it made good again: by the submitter, by the orderer, by the peers that
/// say it is valid. The endorsers do not help.
fn altered(seed: u64, random: &mut Random) -> (TransactionProof, Proven) {
    let them = &FIELD.consortium;
    let Honest { draft, parts, proof, proven } = &HONEST[usize::try_from(seed).unwrap() % HONEST.len()];
    let mut parts = parts.clone();
    let mut forged = proof.clone();
    let n = random.below(proof.validity.len());
    match random.below(16) {
        0 => random.alter(&mut forged.data[1].0),
        1 => random.alter(&mut forged.signatures.0),
        2 => forged.number ^= 1 << random.below(64),
        3 => forged.previous.0[random.below(32)] ^= 1 << random.below(8),
        4 => random.alter(&mut forged.validity[n].channel_header.0),
        5 => random.alter(&mut forged.validity[n].signature_header.0),
        6 => random.alter(&mut forged.validity[n].endorser.0),
        7 => random.alter(&mut forged.validity[n].signature.0),
        8 => {
            let mut envelope = Envelope::decode(forged.data[1].0.as_slice()).unwrap();
            random.alter(&mut envelope.payload);
            envelope.signature = draft.creator.sign(&envelope.payload);
            forged.data[1].0 = envelope.encode_to_vec();
        }
        9 => {
            let mut envelope = Envelope::decode(forged.data[1].0.as_slice()).unwrap();
            let mut payload = Payload::decode(envelope.payload.as_slice()).unwrap();
            random.alter(&mut payload.data);
            envelope.payload = payload.encode_to_vec();
            envelope.signature = draft.creator.sign(&envelope.payload);
            forged.data[1].0 = envelope.encode_to_vec();
        }
        10 => {
            random.alter(&mut parts.channel_header);
            forged.data[1].0 = parts.envelope(&draft.creator);
        }
        11 => {
            random.alter(&mut parts.signature_header);
            parts.action_header.clone_from(&parts.signature_header);
            forged.data[1].0 = parts.envelope(&draft.creator);
        }
        12 => {
            random.alter(&mut parts.call);
            forged.data[1].0 = parts.envelope(&draft.creator);
        }
        13 => {
            random.alter(&mut parts.answer);
            forged.data[1].0 = parts.envelope(&draft.creator);
        }
        _ => {
            let Endorsement { endorser, signature } = &mut parts.endorsements[n];
            match random.below(3) {
                0 => random.alter(signature),
                1 => random.alter(endorser),
                _ => {
                    let mut identity = SerializedIdentity::decode(endorser.as_slice()).unwrap();
                    random.alter(&mut identity.id_bytes);
                    *endorser = identity.encode_to_vec();
                }
            }
            forged.data[1].0 = parts.envelope(&draft.creator);
        }
    }
    let repaired = random.below(3);
    if repaired > 0 && forged.data != proof.data {
        forged = resealed(&forged, &them.node("OrdererMSP", "orderer"), CONFIGURED);
    }
    // Words can only be about what is an envelope.
    if repaired > 1 && forged.data != proof.data && Envelope::decode(forged.data[1].0.as_slice()).is_ok() {
        let word = |msp| Word::new(them, &them.node(msp, "peer"), &proven.tx_id).about(&forged.data[1].0);
        forged.validity = ["Org1MSP", "Org2MSP"].map(word).into();
    }
    (forged, proven.clone())
}

/// Every altered proof is refused (1,500 of them in a debug build), or proves the same: what was changed is then nothing that is proven.
#[test]
fn ten_thousand_forgeries_prove_nothing_else() {
    let (rounds, all) = if cfg!(debug_assertions) { (1, 1_500) } else { (10, 10_000) };
    let (mut count, mut same) = (0, 0);
    for seed in 0..rounds {
        for (name, _, proof) in cases(seed) {
            assert!(verify(&proof).is_err(), "{name}, {seed}");
            count += 1;
        }
    }
    let mut random = Random(0x6d61_6e64_6174_6501);
    while count < all {
        let (forged, honest) = altered(count, &mut random);
        if let Ok(proven) = verify(&forged) {
            assert_eq!(proven, honest, "forgery {count}");
            same += 1;
        }
        if count % 32 == 0 {
            // As a stranger gets it.
            let json = serde_json::to_string(&forged).unwrap();
            assert_eq!(serde_json::from_str::<TransactionProof>(&json).unwrap(), forged);
        }
        count += 1;
    }
    println!("{count} forgeries, {same} of them prove what the honest proof does");
    assert!(same * 20 < count, "{same}");
}

#[test]
fn a_channel_is_followed_by_its_orderers_alone() {
    let them = &FIELD.consortium;
    let orderer = them.node("OrdererMSP", "orderer");
    let follow = |block: Block| FIELD.channel.follow(&block.encode_to_vec());
    let code = |block: Block| follow(block).map(drop).unwrap_err().code;
    let next = follow(them.config_block(CHANNEL, 9, 3, Some(&orderer))).unwrap();
    assert_eq!((next.number(), next.sequence(), next.name()), (9, 3, CHANNEL));

    assert_eq!(code(them.config_block(CHANNEL, 9, 3, None)), C::OrdererSignature);
    assert_eq!(code(them.config_block("other", 9, 3, Some(&orderer))), C::WrongChannel);
    assert_eq!(code(them.config_block(CHANNEL, 9, 2, Some(&orderer))), C::ConfigurationOrder);
    assert_eq!(code(them.config_block(CHANNEL, 3, 3, Some(&orderer))), C::Configuration);
    assert_eq!(code(them.config_block(CHANNEL, CONFIGURED, 3, Some(&orderer))), C::ConfigurationOrder);
    assert_eq!(
        code(them.config_block(CHANNEL, 9, 3, Some(&them.node("Org1MSP", "orderer")))),
        C::OrdererIdentity
    );
    for (name, node) in impostors("OrdererMSP", "orderer") {
        // Nobody vouches for a block's time.
        if !["expired", "not valid yet"].contains(&name.as_str()) {
            assert_eq!(code(them.config_block(CHANNEL, 9, 3, Some(&node))), C::OrdererIdentity, "{name}");
        }
    }
    let transactions = [Draft::new(them, 1).envelope()];
    assert_eq!(code(seal(&transactions, 9, Digest([3; 32]), 9, Some(&orderer))), C::BlockFormat);
    assert_eq!(FIELD.channel.follow(b"nothing").unwrap_err().code, C::BlockFormat);
    // What was proven under the old one is not under the new.
    let (_, proof) = honest(1);
    let all = BTreeSet::new();
    let rules = Rules { channel: &next, chaincode: CHAINCODE, endorsers: &all };
    assert_eq!(proof.verify(&rules).unwrap_err().code, C::Configuration);
}

#[test]
fn blocks_follow_one_another() {
    let them = &FIELD.consortium;
    let orderer = them.node("OrdererMSP", "orderer");
    let transactions = [Draft::new(them, 1).envelope(), Draft::new(them, 2).envelope()];
    let first = seal(&transactions, 5, FIELD.channel.header().hash, CONFIGURED, Some(&orderer));
    let header = verify_block(&FIELD.channel, &first).unwrap();
    assert_eq!(header.after(FIELD.channel.header()), Ok(()));
    let second = seal(&transactions, 6, header.hash, CONFIGURED, Some(&orderer));
    let next = verify_block(&FIELD.channel, &second).unwrap();
    assert_eq!(next.after(&header), Ok(()));
    for (header, after) in [(next, next), (header, next), (next, *FIELD.channel.header())] {
        assert_eq!(header.after(&after).unwrap_err().code, C::Chain);
    }
    let forked = seal(&transactions, 6, Digest([3; 32]), CONFIGURED, Some(&orderer));
    let forked = verify_block(&FIELD.channel, &forked).unwrap();
    assert_eq!(forked.after(&header).unwrap_err().code, C::Chain);
    // The header names other envelopes; the envelopes are not those of the header.
    let mut altered = first.clone();
    altered.header.as_mut().unwrap().data_hash[0] ^= 1;
    assert_eq!(verify_block(&FIELD.channel, &altered).unwrap_err().code, C::DataHash);
    let old = seal(&transactions, 6, header.hash, 2, Some(&orderer));
    assert_eq!(verify_block(&FIELD.channel, &old).unwrap_err().code, C::Configuration);
}

#[test]
fn channels_that_are_not_understood_are_none() {
    let them = &FIELD.consortium;
    let read = |tree: ConfigGroup| {
        let config = Config { sequence: 0, channel_group: Some(tree) };
        Channel::from_block(&them.config_of(CHANNEL, 0, config, None).encode_to_vec())
    };
    assert!(read(them.tree()).is_ok());
    let with = |change: &dyn Fn(&mut ConfigGroup)| {
        let mut tree = them.tree();
        change(&mut tree);
        read(tree).unwrap_err()
    };
    let unsupported = |e: &ChannelError| matches!(e, ChannelError::Unsupported(_));
    let bft = ConsensusType { kind: "BFT".into() }.encode_to_vec();
    let error = with(&|t| {
        let orderer = t.groups.get_mut("Orderer").unwrap();
        orderer.values.insert("ConsensusType".into(), ConfigValue { version: 0, value: bft.clone() });
    });
    assert!(unsupported(&error), "{error}");
    for value in ["HashingAlgorithm", "BlockDataHashingStructure"] {
        let error = with(&|t| drop(t.values.remove(value)));
        assert!(unsupported(&error), "{error}");
    }
    for group in ["Application", "Orderer"] {
        let error = with(&|t| t.groups.get_mut(group).unwrap().groups.clear());
        assert!(matches!(error, ChannelError::NotConfiguration(_)), "{error}");
    }
    // One id twice, and one id for two organisations.
    let error = with(&|t| {
        let groups = &mut t.groups.get_mut("Application").unwrap().groups;
        groups.insert("Again".into(), groups["Org1MSP"].clone());
    });
    assert!(error.to_string().contains("twice"), "{error}");
    let other = Consortium::new();
    let error = with(&|t| {
        let mut msp = other.tree().groups["Application"].groups["Org1MSP"].clone();
        msp.values.get_mut("MSP").unwrap().value.push(0);
        t.groups.get_mut("Application").unwrap().groups.insert("Org1MSP".into(), msp);
    });
    assert!(matches!(error, ChannelError::NotConfiguration(_)), "{error}");
    let mut block = them.config_block(CHANNEL, 0, 0, None);
    block.data.as_mut().unwrap().data[0].push(0);
    assert!(Channel::from_block(&block.encode_to_vec()).is_err());
}
