//! A Fabric channel's configuration block, blocks, envelopes and proofs: each parser gets each input.
#![no_main]

use std::{collections::BTreeSet, sync::LazyLock};

use fabric::{
    block::Block,
    channel::Channel,
    proof::{Rules, TransactionProof, transaction, verify_block},
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

static CHANNEL: LazyLock<Channel> = LazyLock::new(|| {
    let block = include_bytes!("../../ledger-bridge/fabric/tests/fixtures/config.block");
    Channel::from_block(block).expect("a real network's block")
});
/// Transactions that the seeds prove.
static PROVEN: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let texts = [
        include_str!("../../ledger-bridge/fabric/tests/fixtures/alone.json"),
        include_str!("../../ledger-bridge/fabric/tests/fixtures/several.json"),
    ];
    let id = |text| {
        let proof: TransactionProof = serde_json::from_str(text).expect("a proof");
        proof.verify(&rules(&BTreeSet::new())).expect("of a real transaction").tx_id
    };
    texts.into_iter().map(id).collect()
});

fn rules(endorsers: &BTreeSet<String>) -> Rules<'_> {
    Rules { channel: &CHANNEL, chaincode: "mandate", endorsers }
}

fuzz_target!(|data: &[u8]| {
    let endorsers = BTreeSet::new();
    let rules = rules(&endorsers);
    let _ = Channel::from_block(data);
    let _ = CHANNEL.follow(data);
    let _ = transaction(&rules, 1, 0, data);
    if let Ok(block) = Block::decode(data) {
        let _ = (block.codes(), block.configuration(), verify_block(&CHANNEL, &block));
        for envelope in block.envelopes() {
            let _ = transaction(&rules, 1, 0, envelope);
        }
    }
    if let Ok(proof) = serde_json::from_slice::<TransactionProof>(data) {
        let _ = proof.configuration();
        if let Ok(proven) = proof.verify(&rules) {
            assert!(PROVEN.contains(&proven.tx_id), "forged: {proven:?}");
        }
    }
});
