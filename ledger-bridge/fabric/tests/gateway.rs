//! A transaction's phases: what is signed, what is not, and what is known after each error.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod peer;

use std::time::Duration;

use fabric::{
    gateway::{message::*, *},
    message::Timestamp,
};
use peer::Parts;
use proptest::prelude::*;
use prost::Message as _;
use trust::Digest;

fn call() -> Call {
    Call {
        channel: "evidence".into(),
        chaincode: "mandate".into(),
        args: vec![b"submit".to_vec(), vec![0, 255]],
        transient: [("requests", "[]"), ("collection", "c")].map(|(k, v)| (k.into(), v.into())).into(),
        organizations: vec!["Org1MSP".into()],
    }
}

fn proposed() -> Proposed {
    let nonce = std::array::from_fn(|n| u8::try_from(n).unwrap());
    let creator = Creator::new("Org1MSP", "-----CERT-----");
    let time = Timestamp { seconds: 1_800_000_000, nanos: 7 };
    Proposed::new(call(), &creator, nonce, time, signed).unwrap()
}

/// Not a signature, but one can see what was signed.
fn signed(bytes: &[u8]) -> Result<Vec<u8>, SignError> {
    Ok([b"signed ", bytes].concat())
}

fn broken(_: &[u8]) -> Result<Vec<u8>, SignError> {
    Err("the key is in a drawer".into())
}

fn refusal(code: Code, message: &str) -> Refusal {
    Refusal::new(code.into(), message, &[])
}

fn endorsed() -> Endorsed {
    let it = proposed();
    it.endorsed(Parts::of(it.request()).answer(), signed).unwrap()
}

fn submitted() -> Submitted {
    endorsed().submitted(Ok(SubmitResponse {})).unwrap()
}

/// The numbers are those of another encoder, written after Fabric's .proto files.
#[test]
fn a_proposal_has_the_bytes_that_another_encoder_makes() {
    let it = proposed();
    assert_eq!(it.tx_id(), "dc09dc682ce09bdfc49d22788a0a3b4880c2b8aad7aece70936732b8df8945d9");
    let request = it.request();
    assert_eq!((request.channel_id.as_str(), request.transaction_id.as_str()), ("evidence", it.tx_id()));
    assert_eq!(request.organizations, ["Org1MSP"]);
    let proposal = request.proposed_transaction.clone().unwrap();
    assert_eq!(proposal.proposal_bytes.len(), 227);
    assert_eq!(
        Digest::of(&proposal.proposal_bytes).hex(),
        "a27d90447c383ce54231ee8777b7b66995aecd613bb2c5a9473f562af0376296"
    );
    assert_eq!(proposal.signature, signed(&proposal.proposal_bytes).unwrap());
}

#[test]
fn a_transaction_goes_through_its_phases_and_is_signed_as_it_came() {
    let it = proposed();
    let mut parts = Parts::of(it.request());
    // Field 15, which nobody knows: encoded again it would be gone.
    parts.unknown = vec![0x7a, 1, b'x'];
    let answer = parts.answer();
    let payload = answer.prepared_transaction.clone().unwrap().payload;
    let endorsed = it.endorsed(answer, signed).unwrap();
    assert_eq!((endorsed.response().status, endorsed.response().payload.as_slice()), (200, &b"done"[..]));
    assert_eq!(endorsed.event().unwrap().event_name, "mandate");
    let sent = endorsed.request().prepared_transaction.clone().unwrap();
    assert_eq!((&sent.payload, &sent.signature), (&payload, &signed(&payload).unwrap()));
    let submitted = endorsed.submitted(Ok(SubmitResponse {})).unwrap();
    let asked = submitted.request(signed).unwrap();
    assert_eq!(asked.signature, signed(&asked.request).unwrap());
    let asked = CommitStatusRequest::decode(asked.request.as_slice()).unwrap();
    assert_eq!((asked.transaction_id.as_str(), asked.channel_id.as_str()), (it.tx_id(), "evidence"));
    let committed = submitted.committed(CommitStatusResponse { result: 0, block_number: 9 }).unwrap();
    assert_eq!((committed.tx_id(), committed.block()), (it.tx_id(), 9));
}

type Alter<'a> = &'a dyn Fn(&mut Parts);

#[test]
fn what_was_not_proposed_is_not_signed() {
    let it = proposed();
    let other = Call { args: vec![b"other".to_vec()], ..call() };
    let creator = Creator::new("Org1MSP", "-----CERT-----");
    let other = Proposed::new(other, &creator, [7; 24], Timestamp::default(), signed).unwrap();
    let other = Parts::of(other.request());
    let alter: [(&str, Alter<'_>); 8] = [
        ("all of it", &|p| *p = other.clone()),
        ("the channel header", &|p| p.header.channel_header.clone_from(&other.header.channel_header)),
        ("the nonce", &|p| p.header.signature_header.clone_from(&other.header.signature_header)),
        ("the action's header", &|p| p.action_header.push(0)),
        ("the arguments", &|p| p.proposed.clone_from(&other.proposed)),
        ("the endorsed proposal", &|p| p.hash.clone_from(&other.hash)),
        ("the chaincode", &|p| p.result.chaincode_id.as_mut().unwrap().name = "qscc".into()),
        ("two actions", &|p| p.actions = 2),
    ];
    for (what, alter) in alter {
        let mut parts = Parts::of(it.request());
        alter(&mut parts);
        let never = |_: &[u8]| panic!("{what} was altered, and it was signed");
        let error = it.endorsed(parts.answer(), never).unwrap_err();
        assert!(matches!(error, EndorseError::Altered(_)), "{what}: {error}");
        assert_eq!((error.outcome(), error.retry()), (Outcome::Nothing, Retry::Never));
    }
    let error = it.endorsed(EndorseResponse::default(), |_| panic!("nothing was signed")).unwrap_err();
    assert!(matches!(error, EndorseError::Altered(_)));
}

#[test]
fn a_key_that_does_not_sign_ends_each_phase() {
    let creator = Creator::new("Org1MSP", "");
    let error = Proposed::new(call(), &creator, [0; 24], Timestamp::default(), broken).unwrap_err();
    assert!(matches!(error, EndorseError::Signing(_)));
    let it = proposed();
    let error = it.endorsed(Parts::of(it.request()).answer(), broken).unwrap_err();
    assert!(matches!(error, EndorseError::Signing(_)));
    let error = submitted().request(broken).unwrap_err();
    assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::LookUp));
}

#[test]
fn details_say_what_each_node_said() {
    let bytes: Vec<u8> = "080a12066661696c65641a650a27747970652e676f6f676c65617069732e636f6d2f676174657761792e4572726f7244657461696c123a0a0a70656572303a3730353112074f7267314d53501a23636861696e636f646520726573706f6e7365203430342c206e6f2073756368206b65791a1e0a19747970652e676f6f676c65617069732e636f6d2f6f74686572120178"
        .as_bytes()
        .chunks(2)
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
        .collect();
    let it = Refusal::new(10, "failed", &bytes);
    assert_eq!(it.to_string(), "Aborted: failed; peer0:7051 (Org1MSP): chaincode response 404, no such key");
    assert_eq!(it.chaincode_status(), Some(404));
    assert_eq!(EndorseError::Refused(it).retry(), Retry::Never);
    let denied = |n: usize| {
        let said = ["error validating proposal: access denied", "connection refused"];
        let detail =
            |message: &&str| ErrorDetail { message: (*message).to_owned(), ..ErrorDetail::default() };
        let it = refusal(Code::Aborted, "failed to collect enough transaction endorsements");
        EndorseError::Refused(Refusal { details: said[..n].iter().map(detail).collect(), ..it }).retry()
    };
    assert_eq!([0, 1, 2].map(denied), [Retry::Propose, Retry::Never, Retry::Propose]);
    assert_eq!(Refusal::new(99, "", &[]).code, Code::Unknown);
}

#[test]
fn before_ordering_nothing_has_happened() {
    let cases = [
        (Code::Unavailable, "broken pipe", Retry::Propose),
        (Code::DeadlineExceeded, "endorsement timeout expired", Retry::Propose),
        (Code::FailedPrecondition, "no combination of peers", Retry::Propose),
        (Code::Aborted, "ProposalResponsePayloads do not match", Retry::Propose),
        (Code::Aborted, "chaincode response 503, stopping", Retry::Propose),
        (Code::Unknown, "evaluate call: chaincode response 400, what?", Retry::Never),
        (Code::InvalidArgument, "no proposal", Retry::Never),
        (Code::PermissionDenied, "who?", Retry::Never),
    ];
    for (code, message, retry) in cases {
        let error = EndorseError::Refused(refusal(code, message));
        assert_eq!((error.outcome(), error.retry()), (Outcome::Nothing, retry), "{message}");
        assert_eq!(EvaluateError::Refused(refusal(code, message)).retry(), retry, "{message}");
    }
}

#[test]
fn a_submission_is_known_to_have_failed_only_when_no_orderer_can_have_it() {
    let orderer = "received unsuccessful response from orderer: status=FORBIDDEN, info=";
    for n in 1..=16 {
        let code = Code::try_from(n).unwrap();
        for message in ["", orderer] {
            let error = endorsed().submitted(Err(refusal(code, message))).unwrap_err();
            let known =
                matches!(code, Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented)
                    || code == Code::Aborted && message == orderer;
            if known {
                assert_eq!(error.outcome(), Outcome::Nothing, "{code:?} {message}");
                assert_ne!(error.retry(), Retry::LookUp);
                continue;
            }
            assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::LookUp), "{code:?}");
            let SubmitError::Unknown { submitted: look_up, .. } = error else { panic!("{code:?}") };
            assert_eq!(*look_up, submitted());
        }
    }
}

#[test]
fn a_commit_is_valid_invalid_or_unknown() {
    for result in -1..=260 {
        let answer = submitted().committed(CommitStatusResponse { result, block_number: 3 });
        let (outcome, retry) = match result {
            0 => {
                assert_eq!(answer.unwrap().block(), 3);
                continue;
            }
            9 | 254 => (Outcome::Unknown, Retry::LookUp),
            11 | 12 | 17 | 18 => (Outcome::Invalid, Retry::Anew),
            _ => (Outcome::Invalid, Retry::Never),
        };
        let error = answer.unwrap_err();
        assert_eq!((error.outcome(), error.retry()), (outcome, retry), "{result}");
    }
    let error = submitted().committed(CommitStatusResponse { result: 11, block_number: 3 }).unwrap_err();
    assert_eq!(error.to_string(), "the transaction is invalid in block 3: MvccReadConflict");
    let error = CommitError::Unknown(refusal(Code::DeadlineExceeded, ""));
    assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::LookUp));
}

proptest! {
    /// Whatever a gateway gives to sign: it is refused unsigned, or signed as it came.
    #[test]
    fn any_byte_of_a_transaction_may_be_altered(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let it = proposed();
        let mut answer = Parts::of(it.request()).answer();
        let payload = &mut answer.prepared_transaction.as_mut().unwrap().payload;
        let at = at.index(payload.len());
        payload[at] = to;
        let payload = payload.clone();
        match it.endorsed(answer, signed) {
            Err(error) => prop_assert_eq!(error.outcome(), Outcome::Nothing),
            Ok(endorsed) => {
                let sent = endorsed.request().prepared_transaction.clone().unwrap();
                prop_assert_eq!(sent.signature, signed(&payload).unwrap());
                // What was proposed stands in it as it was proposed.
                let ours = Payload::decode(payload.as_slice()).unwrap().header.unwrap();
                prop_assert_eq!(ours, Parts::of(it.request()).header);
            }
        }
    }

    #[test]
    fn any_details_are_taken(code in any::<i32>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let it = Refusal::new(code, "m", &bytes);
        prop_assert!(it.to_string().contains('m'));
    }

    #[test]
    fn a_back_off_doubles_up_to_ten_seconds(attempt in any::<u32>(), random in any::<u32>()) {
        let most = Duration::from_millis(50 << attempt.saturating_sub(1).min(10)).min(Duration::from_secs(10));
        prop_assert!(back_off(attempt, random) <= most);
        prop_assert_eq!(back_off(attempt, u32::MAX), most);
        prop_assert_eq!(back_off(attempt, 0), Duration::ZERO);
    }
}
