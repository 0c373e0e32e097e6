//! Verification of ECDSA P-256: `trust::dsse::verify_bytes`, which asks ring, gives p256's answer on every input (ADR 0019).
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::ops::RangeInclusive;

use p256::{
    FieldBytes, ProjectivePoint, Scalar,
    ecdsa::{
        DerSignature, Signature, SigningKey, VerifyingKey,
        signature::{Signer, Verifier as _},
    },
    elliptic_curve::{ops::Reduce, point::AffineCoordinates as _},
};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use trust::dsse::verify_bytes;

/// What `verify_bytes` promises, with p256 alone.
fn reference(key: &VerifyingKey, message: &[u8], der: &[u8]) -> bool {
    let Ok(text) = DerSignature::try_from(der) else { return false };
    let Ok(signature) = Signature::try_from(text) else { return false };
    signature.normalize_s() == signature && key.verify(message, &signature).is_ok()
}

/// Both answers, when they are one.
fn agreed(key: &VerifyingKey, message: &[u8], der: &[u8]) -> bool {
    let (ours, theirs) = (verify_bytes(key, message, der), reference(key, message, der));
    assert_eq!(ours.is_ok(), theirs, "{ours:?}: key {:?}, {} of {message:?}", key, hex::encode(der));
    theirs
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).unwrap()
}

fn signed(key: &SigningKey, message: &[u8]) -> Signature {
    Signer::<Signature>::sign(key, message).normalize_s()
}

/// The order of the curve, plus so much; 32 bytes, big endian.
fn order_plus(n: i8) -> [u8; 32] {
    let mut bytes: [u8; 32] = (-Scalar::ONE).to_bytes().into();
    // Its last byte is 0x50: no carry.
    bytes[31] = bytes[31].checked_add_signed(n + 1).unwrap();
    bytes
}

fn small(n: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[31] = n;
    bytes
}

/// An INTEGER of DER in its one form.
fn integer(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|b| **b == 0).count().min(number.len() - 1);
    let digits = &number[zeros..];
    let pad: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
    tlv(2, &[pad, digits].concat())
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(value.len()).unwrap()][..], value].concat()
}

fn sequence(r: &[u8], s: &[u8]) -> Vec<u8> {
    tlv(0x30, &[r, s].concat())
}

fn der(r: &[u8; 32], s: &[u8; 32]) -> Vec<u8> {
    sequence(&integer(r), &integer(s))
}

/// `s`, and its other form.
fn forms(signature: &Signature) -> ([u8; 32], [u8; 32], [u8; 32]) {
    let (r, s) = signature.split_scalars();
    (r.to_bytes().into(), s.to_bytes().into(), (-*s).to_bytes().into())
}

/// A number below the order, congruent to these bytes.
fn reduced(bytes: &FieldBytes) -> Scalar {
    <Scalar as Reduce<FieldBytes>>::reduce(bytes)
}

const SEEDS: RangeInclusive<u8> = 1..=254;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_was_signed_verifies_and_nothing_near_it(
        seed in SEEDS, other in SEEDS, message: Vec<u8>, at in 0_usize..72, bit in 0_u8..8,
    ) {
        let signer = key(seed);
        let signature = signed(&signer, &message);
        let (r, s, high) = forms(&signature);
        let good = der(&r, &s);
        let text = DerSignature::from(signature);
        prop_assert_eq!(good.as_slice(), text.as_bytes());
        prop_assert!(agreed(signer.verifying_key(), &message, &good));
        prop_assert!(!agreed(signer.verifying_key(), &message, &der(&r, &high)), "high S");
        prop_assert!(!agreed(signer.verifying_key(), &message, &signature.to_bytes()), "64 bytes");
        prop_assert!(!agreed(signer.verifying_key(), &[&message[..], &[bit]].concat(), &good));
        prop_assert!(!agreed(signer.verifying_key(), &Sha256::digest(&message), &good), "hashed twice");
        prop_assert_eq!(agreed(key(other).verifying_key(), &message, &good), seed == other);
        let mut altered = good.clone();
        let at = at % altered.len();
        altered[at] ^= 1 << bit;
        prop_assert!(!agreed(signer.verifying_key(), &message, &altered));
        prop_assert!(!agreed(signer.verifying_key(), &message, &good[..at]));
    }

    #[test]
    fn any_bytes(seed in SEEDS, message: Vec<u8>, bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        agreed(key(seed).verifying_key(), &message, &bytes);
    }

    #[test]
    fn any_numbers(seed in SEEDS, message: Vec<u8>, r: [u8; 32], s: [u8; 32]) {
        agreed(key(seed).verifying_key(), &message, &der(&r, &s));
    }

    /// Signatures by a key that was made for them: `Q = (s R - z G) / r` verifies for any `R` and `s`, also where the
    /// numbers are at the ends of the order.
    #[test]
    fn a_key_for_any_numbers(nonce in 1_u64.., message: Vec<u8>, end in 1_u8..4, low: bool) {
        let point = (ProjectivePoint::GENERATOR * Scalar::from(nonce)).to_affine();
        let x: [u8; 32] = point.x().into();
        let r = reduced(&x.into());
        let s = if low { Scalar::from(u64::from(end)) } else { -Scalar::from(u64::from(end)) };
        let z = reduced(&Sha256::digest(&message));
        let q = (ProjectivePoint::from(point) * s - ProjectivePoint::GENERATOR * z) * r.invert().unwrap();
        let key = VerifyingKey::from_affine(q.to_affine()).unwrap();
        let text = der(&r.to_bytes().into(), &s.to_bytes().into());
        prop_assert_eq!(agreed(&key, &message, &text), low, "s at the upper end is high");
    }
}

#[test]
fn the_ends_of_the_order() {
    let ends = [
        small(0),
        small(1),
        small(2),
        order_plus(-2),
        order_plus(-1),
        order_plus(0),
        order_plus(1),
        [0xff; 32],
    ];
    for seed in [1, 2, 254] {
        for r in &ends {
            for s in &ends {
                assert!(!agreed(key(seed).verifying_key(), b"m", &der(r, s)), "{r:x?} {s:x?}");
            }
        }
    }
}

/// `u1 G + u2 Q` is the identity when `Q = -(z / r) G`: there is no x coordinate, and no signature.
#[test]
fn the_identity_has_no_x() {
    let z = reduced(&Sha256::digest(b"m"));
    for r in [1_u64, 2, 77] {
        let scalar = Scalar::from(r);
        let q = ProjectivePoint::GENERATOR * -(z * scalar.invert().unwrap());
        let key = VerifyingKey::from_affine(q.to_affine()).unwrap();
        for s in [1_u64, 2, 77] {
            let text = der(&scalar.to_bytes().into(), &Scalar::from(s).to_bytes().into());
            assert!(!agreed(&key, b"m", &text));
        }
    }
}

/// `u1 G` and `u2 Q` are the same point, or opposite: the addition is a doubling, or gives the identity.
#[test]
fn both_multiples_are_one_point() {
    let z = reduced(&Sha256::digest(b"m"));
    // s k = 2 z with u1 = z / s, u2 = r / s and Q = (z / r) G: both are (z / s) G.
    for k in [1_u64, 3, 1 << 40] {
        let point = (ProjectivePoint::GENERATOR * Scalar::from(k)).to_affine();
        let x: FieldBytes = point.x();
        let r = reduced(&x);
        let q = ProjectivePoint::GENERATOR * (z * r.invert().unwrap());
        let s = (z + z) * Scalar::from(k).invert().unwrap();
        let key = VerifyingKey::from_affine(q.to_affine()).unwrap();
        let signature = Signature::from_scalars(r, s).unwrap();
        let low = signature.normalize_s();
        assert!(agreed(&key, b"m", DerSignature::from(low).as_bytes()), "k = {k}");
    }
}

#[test]
fn another_form_of_der_is_refused() {
    let signer = key(7);
    let (r, s, _) = forms(&signed(&signer, b"m"));
    let good = der(&r, &s);
    assert!(agreed(signer.verifying_key(), b"m", &good));
    let padded = |n: &[u8]| tlv(2, &[&[0], &integer(n)[2..]].concat());
    let long = |tag: u8, v: &[u8]| [&[tag, 0x81, u8::try_from(v.len()).unwrap()][..], v].concat();
    let body = [integer(&r), integer(&s)].concat();
    let forms = [
        vec![],
        vec![0x30, 0],
        sequence(&padded(&r), &integer(&s)),
        sequence(&integer(&r), &padded(&s)),
        sequence(&tlv(2, &[]), &integer(&s)),
        sequence(&tlv(4, &integer(&r)[2..]), &integer(&s)),
        sequence(&integer(&r), &[]),
        sequence(&integer(&r), &[integer(&s), vec![5, 0]].concat()),
        [&good[..], &[0]].concat(),
        long(0x30, &body),
        sequence(&long(2, &integer(&r)[2..]), &integer(&s)),
        [&[0x30, 0x80][..], &body, &[0, 0]].concat(),
        tlv(0x31, &body),
        der(&s, &r),
    ];
    for form in forms {
        assert!(!agreed(signer.verifying_key(), b"m", &form), "{}", hex::encode(&form));
    }
}

/// A negative number, as a sloppy writer would leave it: the first bit is set and no zero stands before it.
#[test]
fn negative_numbers_are_refused() {
    let signer = key(9);
    let signature = (0_u32..)
        .map(|i| (i.to_be_bytes(), signed(&signer, &i.to_be_bytes())))
        .find(|(_, s)| forms(s).0[0] >= 0x80);
    let (message, signature) = signature.unwrap();
    let (r, s, _) = forms(&signature);
    assert!(agreed(signer.verifying_key(), &message, &der(&r, &s)));
    assert!(!agreed(signer.verifying_key(), &message, &sequence(&tlv(2, &r), &integer(&s))));
}

/// The point of a key in its short form is the same key.
#[test]
fn a_key_in_its_short_form() {
    let signer = key(11);
    let good = DerSignature::from(signed(&signer, b"m"));
    let short = signer.verifying_key().to_sec1_point(true);
    let key = VerifyingKey::from_sec1_bytes(short.as_bytes()).unwrap();
    assert!(agreed(&key, b"m", good.as_bytes()));
    for bad in [&[0][..], &[4; 65], &[0xff; 33], &[6; 65], &[]] {
        assert!(VerifyingKey::from_sec1_bytes(bad).is_err(), "{bad:x?}");
    }
}
