//! What a Fabric peer sends to chaincode: any messages in any order, to a session that asks for something each time.
#![no_main]

use std::time::Duration;

use fabric::{
    message::{ChaincodeMessage, GetState, Kind},
    shim::{Action, Session, Want},
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let (mut session, _) = Session::open("mandate:00");
    for kind in [Kind::Registered, Kind::Ready] {
        let message = ChaincodeMessage { kind: kind.into(), ..ChaincodeMessage::default() };
        let _ = session.receive(message, Duration::ZERO);
    }
    let mut rest = data;
    // Each message behind its length and what is wanted after it.
    while let [length, wanted, later @ ..] = rest {
        let (bytes, later) = later.split_at(later.len().min(usize::from(*length)));
        rest = later;
        let Ok(message) = ChaincodeMessage::decode(bytes) else { continue };
        let want = match wanted % 3 {
            0 => Want::Get(GetState { key: "k".into(), collection: String::new() }),
            1 => Want::Range(Default::default()),
            _ => Want::History(Default::default()),
        };
        let key = match session.receive(message, Duration::ZERO) {
            Ok(Action::Begin(it)) => it.key.clone(),
            Ok(Action::Resume(key, _)) => key,
            Ok(Action::Send(_) | Action::Nothing) => continue,
            Err(_) => return,
        };
        assert!(session.want(&key, want.clone()).is_some(), "what runs may ask");
        assert!(session.want(&key, want).is_none(), "and has one request in flight");
    }
});
