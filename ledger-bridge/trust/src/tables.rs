//! Verifying many signatures by few keys: an orchestrator's evidence has one key and a signature on every line.
//!
//! ECDSA P-256 verification is `u1 G + u2 Q`. For a key that is seen often, the multiples `j 256^i Q` are computed once
//! and each verification takes 64 additions instead of some 250 doublings and 100 additions. Everything in it is public,
//! so time may depend on it; the arithmetic is p256's, whose additions are complete: no case is an exception.
//!
//! It never decides anything else than `p256::ecdsa::VerifyingKey::verify` does: which of the two is used depends on how
//! often a key was seen by this thread, and must not be seen in the answer. Tests: below, both on every input.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use p256::{
    AffinePoint, FieldBytes, ProjectivePoint, Scalar,
    ecdsa::{
        Signature, VerifyingKey,
        signature::{self, Verifier as _},
    },
    elliptic_curve::{BatchNormalize as _, ops::Reduce, point::AffineCoordinates as _},
};
use sha2::{Digest as _, Sha256};

/// Multiples in a window of 8 bits, without zero.
const MULTIPLES: usize = 255;
/// Windows of a scalar.
const WINDOWS: usize = 32;
/// Keys with a table, of one thread: some 600 KiB each.
const MAX_TABLES: usize = 16;
/// Keys that are counted, of one thread.
const MAX_COUNTED: usize = 1024;
/// A table costs as much as some 40 verifications and saves two thirds of each one after it.
const WORTH_A_TABLE: u32 = 64;

/// The multiples of one point.
struct Table(Vec<[AffinePoint; MULTIPLES]>);

impl Table {
    fn of(point: ProjectivePoint) -> Self {
        let mut base = point;
        let windows = (0..WINDOWS).map(|_| {
            let mut next = base;
            let multiples = [(); MULTIPLES].map(|()| {
                let this = next;
                next += base;
                this
            });
            // The one after the last is 256 times the first.
            base = next;
            ProjectivePoint::batch_normalize_vartime(&multiples)
        });
        Self(windows.collect())
    }

    /// Adds `scalar` times the point to `sum`.
    fn add(&self, scalar: &Scalar, sum: &mut ProjectivePoint) {
        // Big-endian: the last byte is the first window.
        for (multiples, digit) in self.0.iter().zip(scalar.to_bytes().iter().rev()) {
            if let Some(multiple) = usize::from(*digit).checked_sub(1).and_then(|i| multiples.get(i)) {
                *sum += multiple;
            }
        }
    }
}

thread_local! {
    static GENERATOR: Rc<Table> = Rc::new(Table::of(ProjectivePoint::GENERATOR));
    static KEYS: RefCell<Keys> = RefCell::default();
}

#[derive(Default)]
struct Keys {
    seen: HashMap<[u8; 33], u32>,
    tables: HashMap<[u8; 33], Rc<Table>>,
}

impl Keys {
    /// The key's table, once it is worth having. When there is no room, everything is forgotten: what is needed often
    /// is soon there again.
    fn table(&mut self, key: &VerifyingKey) -> Option<Rc<Table>> {
        let name: [u8; 33] = key.to_sec1_point(true).as_bytes().try_into().ok()?;
        if let Some(table) = self.tables.get(&name) {
            return Some(table.clone());
        }
        if self.seen.len() >= MAX_COUNTED {
            self.seen.clear();
        }
        let seen = self.seen.entry(name).or_default();
        *seen += 1;
        if *seen < WORTH_A_TABLE {
            return None;
        }
        self.seen.remove(&name);
        if self.tables.len() >= MAX_TABLES {
            self.tables.clear();
        }
        let table = Rc::new(Table::of(key.as_affine().into()));
        self.tables.insert(name, table.clone());
        Some(table)
    }
}

/// Does the signature fit the message and the key?
pub(crate) fn verify(
    key: &VerifyingKey,
    message: &[u8],
    signature: &Signature,
) -> Result<(), signature::Error> {
    match KEYS.with_borrow_mut(|keys| keys.table(key)) {
        Some(table) if fits(&table, message, signature) => Ok(()),
        // What does not fit is rare, and told by p256 itself.
        _ => key.verify(message, signature),
    }
}

/// FIPS 186-5, 6.4.2. `r` and `s` are from 1 to the order - 1: their type says so.
fn fits(table: &Table, message: &[u8], signature: &Signature) -> bool {
    let (r, s) = signature.split_scalars();
    let z = <Scalar as Reduce<FieldBytes>>::reduce(&Sha256::digest(message));
    let Some(inverse) = s.invert_vartime().into_option() else { return false };
    let mut sum = ProjectivePoint::IDENTITY;
    GENERATOR.with(|g| g.add(&(z * inverse), &mut sum));
    table.add(&(*r * inverse), &mut sum);
    // The x coordinate of the identity is zero, which `r` is not.
    <Scalar as Reduce<FieldBytes>>::reduce(&sum.to_affine().x()) == *r
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::ecdsa::{SigningKey, signature::Signer as _};
    use proptest::prelude::*;

    fn table(key: &VerifyingKey) -> Table {
        Table::of(key.as_affine().into())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn both_ways_agree(seed in 1_u8..255, message: Vec<u8>, flip in 0_usize..64, bit in 0_u8..8) {
            let signer = SigningKey::from_slice(&[seed; 32]).unwrap();
            let (key, signature): (_, Signature) = (signer.verifying_key(), signer.sign(&message));
            let table = table(key);
            prop_assert!(fits(&table, &message, &signature));
            let mut other = message.clone();
            other.push(bit);
            prop_assert!(!fits(&table, &other, &signature));
            let mut bytes = signature.to_bytes();
            bytes[flip] ^= 1 << bit;
            if let Ok(altered) = Signature::from_bytes(&bytes) {
                prop_assert_eq!(fits(&table, &message, &altered), key.verify(&message, &altered).is_ok());
            }
        }
    }

    #[test]
    fn ends_of_the_order_and_the_identity_are_no_exception() {
        let signer = SigningKey::from_slice(&[3; 32]).unwrap();
        let (key, table) = (signer.verifying_key(), table(signer.verifying_key()));
        let ends =
            [Scalar::ONE, Scalar::from(2_u64), -Scalar::ONE, -Scalar::from(2_u64), Scalar::from(256_u64)];
        for r in ends {
            for s in ends {
                let signature = Signature::from_scalars(r, s).unwrap();
                assert_eq!(fits(&table, b"m", &signature), key.verify(b"m", &signature).is_ok());
            }
        }
        let mut sum = ProjectivePoint::IDENTITY;
        let own = *signer.as_nonzero_scalar().as_ref();
        GENERATOR.with(|g| g.add(&own, &mut sum));
        table.add(&-Scalar::ONE, &mut sum);
        assert_eq!(sum, ProjectivePoint::IDENTITY, "k G - Q");
        table.add(&Scalar::ZERO, &mut sum);
        assert_eq!(sum, ProjectivePoint::IDENTITY);
    }

    #[test]
    fn a_key_that_is_seen_often_gets_a_table_and_the_answers_stay() {
        let signer = SigningKey::from_slice(&[5; 32]).unwrap();
        let (key, good): (_, Signature) = (signer.verifying_key(), signer.sign(b"m"));
        for _ in 0..2 * WORTH_A_TABLE {
            assert!(verify(key, b"m", &good).is_ok());
            assert!(verify(key, b"n", &good).is_err());
        }
        assert_eq!(KEYS.with_borrow(|k| k.tables.len()), 1);
        for seed in 10..10 + u8::try_from(MAX_TABLES).unwrap() {
            let signer = SigningKey::from_slice(&[seed; 32]).unwrap();
            let signature: Signature = signer.sign(b"m");
            (0..=WORTH_A_TABLE).for_each(|_| verify(signer.verifying_key(), b"m", &signature).unwrap());
        }
        assert!(KEYS.with_borrow(|k| k.tables.len()) <= MAX_TABLES);
    }
}
