//! A real network's blocks (`tests/fixtures`): what is proven of them, and what is not.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeSet, fs, path::Path};

use fabric::{
    block::Block,
    channel::Channel,
    gateway::message::ValidationCode,
    proof::{ProofCode, ProofError, Proven, Rules, TransactionProof, transaction, verify_block},
};
use prost::Message as _;
use trust::Digest;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

fn channel() -> Channel {
    Channel::from_block(&fixture("config.block")).unwrap()
}

fn proof(name: &str) -> TransactionProof {
    serde_json::from_slice(&fixture(name)).unwrap()
}

fn ids(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn verify(proof: &TransactionProof) -> Result<Proven, ProofError> {
    verify_of(proof, "mandate", &["Org1MSP", "Org2MSP"])
}

fn verify_of(proof: &TransactionProof, chaincode: &str, endorsers: &[&str]) -> Result<Proven, ProofError> {
    let channel = channel();
    proof.verify(&Rules { channel: &channel, chaincode, endorsers: &ids(endorsers) })
}

fn code(result: Result<Proven, ProofError>) -> ProofCode {
    result.unwrap_err().code
}

#[test]
fn a_real_channel_is_read_from_its_configuration_block() {
    let channel = channel();
    assert_eq!((channel.name(), channel.number(), channel.sequence()), ("evidence", 0, 0));
    assert_eq!(channel.organisations().collect::<Vec<_>>(), ["Org1MSP", "Org2MSP"]);
    assert_eq!(channel.orderers().collect::<Vec<_>>(), ["OrdererMSP"]);
    for broken in [fixture("several.block"), fixture("config.block")[..9000].to_vec(), vec![]] {
        assert!(Channel::from_block(&broken).is_err());
    }
}

#[test]
fn real_transactions_are_proven() {
    for name in ["alone.json", "several.json"] {
        let proof = proof(name);
        assert_eq!(proof.configuration().unwrap(), 0);
        let proven = verify(&proof).unwrap();
        assert_eq!(verify_of(&proof, "mandate", &[]).unwrap(), proven, "all organisations is both");
        assert_eq!(proven.number, proof.number);
        assert_eq!(proven.args, [b"submit".to_vec()]);
        assert_eq!(proven.event.as_ref().unwrap().event_name, "mandate");
        assert_eq!(proven.creator.msp_id, "Org1MSP");
        assert_eq!(proven.response.status, 200);
        let both = ids(&["Org1MSP", "Org2MSP"]);
        assert_eq!((&proven.endorsed_by, &proven.valid_by), (&both, &both));
        assert!(proven.writes.keys().any(|k| k.starts_with("intent/")), "{:?}", proven.writes.keys());
        assert!(proven.writes.values().all(Option::is_some));
    }
}

#[test]
fn a_real_block_is_verified_and_its_transactions_read() {
    let (channel, all) = (channel(), BTreeSet::new());
    let rules = Rules { channel: &channel, chaincode: "mandate", endorsers: &all };
    let mut block = Block::decode(fixture("several.block").as_slice()).unwrap();
    let header = verify_block(&channel, &block).unwrap();
    assert_eq!(block.codes(), [ValidationCode::Valid, ValidationCode::MvccReadConflict]);
    let ids: Vec<_> = (0..2_u32)
        .zip(block.envelopes())
        .map(|(n, e)| transaction(&rules, header.number, n, e).unwrap().tx_id)
        .collect();

    // The loser has no peer's word on it, and the winner's is not for it.
    let won = proof("several.json");
    assert_eq!(verify(&won).unwrap().tx_id, ids[0]);
    let lost = TransactionProof::of(&block, &ids[1], won.validity.clone()).unwrap();
    assert_eq!(lost.transaction, 1);
    assert_eq!(code(verify(&lost)), ProofCode::ValiditySignature);
    let lost = TransactionProof { validity: vec![], ..lost };
    assert_eq!(code(verify(&lost)), ProofCode::UnderValidated);
    assert_eq!(TransactionProof::of(&block, "none", vec![]).unwrap_err().code, ProofCode::Index);

    // The chain: this block follows another one than the configuration's.
    assert_eq!(header.after(channel.header()).unwrap_err().code, ProofCode::Chain);
    block.data.as_mut().unwrap().data.swap(0, 1);
    assert_eq!(verify_block(&channel, &block).unwrap_err().code, ProofCode::DataHash);
    let hash = Digest::of(block.envelopes().concat());
    block.header.as_mut().unwrap().data_hash = hash.0.to_vec();
    assert_eq!(verify_block(&channel, &block).unwrap_err().code, ProofCode::OrdererSignature);
}

#[test]
fn what_is_asked_for_must_be_there() {
    let (alone, several) = (proof("alone.json"), proof("several.json"));
    assert_eq!(code(verify_of(&alone, "another", &[])), ProofCode::WrongChaincode);
    assert_eq!(code(verify_of(&alone, "mandate", &["Org1MSP", "Org3MSP"])), ProofCode::UnderEndorsed);
    let one = TransactionProof { validity: alone.validity[..1].to_vec(), ..alone.clone() };
    assert_eq!(code(verify(&one)), ProofCode::UnderValidated);
    assert!(verify_of(&one, "mandate", &["Org1MSP"]).is_ok());
    let twice = TransactionProof { validity: vec![one.validity[0].clone(); 2], ..alone.clone() };
    assert_eq!(code(verify(&twice)), ProofCode::UnderValidated);
    let others = TransactionProof { validity: several.validity.clone(), ..alone.clone() };
    assert_eq!(code(verify(&others)), ProofCode::ValiditySignature);
    let other = TransactionProof { transaction: 1, ..several.clone() };
    assert_eq!(code(verify(&other)), ProofCode::ValiditySignature);
    assert_eq!(code(verify(&TransactionProof { transaction: 2, ..several })), ProofCode::Index);
    for (number, previous) in [(alone.number + 1, alone.previous), (alone.number, Digest([0; 32]))] {
        let moved = TransactionProof { number, previous, ..alone.clone() };
        assert_eq!(code(verify(&moved)), ProofCode::OrdererSignature);
    }
}

#[test]
fn json_is_one_text() {
    let text = String::from_utf8(fixture("alone.json")).unwrap();
    let proof = proof("alone.json");
    assert_eq!(serde_json::to_string(&proof).unwrap(), text);
    for broken in [
        text.replacen('{', r#"{"more":1,"#, 1),
        text.replacen('{', r#"{"number":1,"#, 1),
        text.replacen("==\"", "\"", 1),
    ] {
        assert_ne!(broken, text);
        assert!(serde_json::from_str::<TransactionProof>(&broken).is_err());
    }
}

/// CPU time of this thread, ns.
fn cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// `cargo test --release -p fabric --test proof cost -- --nocapture`
#[test]
fn the_cost_of_a_proof_is_below_2_ms_of_cpu() {
    const TIMES: u64 = 200;
    for name in ["alone.json", "several.json"] {
        let (proof, channel, all) = (proof(name), channel(), BTreeSet::new());
        let rules = Rules { channel: &channel, chaincode: "mandate", endorsers: &all };
        let mut from = cpu_ns();
        assert!(proof.verify(&rules).is_ok());
        let first = cpu_ns() - from;
        from = cpu_ns();
        for _ in 0..TIMES {
            assert!(proof.verify(&rules).is_ok());
        }
        let each = (cpu_ns() - from) / TIMES;
        let transactions = proof.data.len();
        println!(
            "{transactions} in the block: the first time {} us of CPU, then {} us",
            first / 1000,
            each / 1000
        );
        assert!(cfg!(debug_assertions) || each < 2_000_000, "{each} ns");
    }
}
