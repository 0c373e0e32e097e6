//! A signed note, a checkpoint, a verifier key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trust::note::{Checkpoint, NoteSigner, NoteVerifier};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = NoteVerifier::parse(text);
    let _ = Checkpoint::parse(text);
    let signer = NoteSigner::new("fuzz.example/log", &[9; 32]).expect("a good name");
    assert!(signer.verifier().open(text).is_err(), "nobody signed that");
    if let Ok(note) = signer.sign(text) {
        assert_eq!(signer.verifier().open(&note).ok(), Some(text), "what we sign opens as it was");
    }
});
