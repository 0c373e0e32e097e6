//! The Internet checksum (RFC 1071), in full and incremental (RFC 1624).
//!
//! Tests: below, and golden packets in `tests/golden.rs`.

/// One's complement sum of big-endian 16-bit words, unfolded; an odd last byte counts as its word's high half.
/// Inputs are at most 64 KiB, so a `u64` cannot overflow.
#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = words.iter().map(|w| u64::from(u32::from_be_bytes(*w))).sum();
    let (pair, last) = rest.as_chunks::<2>();
    total += pair.iter().map(|w| u64::from(u16::from_be_bytes(*w))).sum::<u64>();
    total + last.iter().map(|b| u64::from(*b) << 8).sum::<u64>()
}

/// Folds to 16 bits.
#[inline]
pub(crate) fn fold(mut total: u64) -> u16 {
    total = (total >> 32) + (total & 0xffff_ffff);
    total = (total >> 16 & 0xffff) + (total >> 32) + (total & 0xffff);
    total = (total >> 16) + (total & 0xffff);
    total = (total >> 16) + (total & 0xffff);
    (total & 0xffff) as u16
}

/// The checksum to write for a sum over everything else.
#[inline]
pub(crate) fn finish(total: u64) -> u16 {
    !fold(total)
}

/// RFC 1624 eqn. 3: the checksum after a 16-bit word changed from `old` to `new`.
#[inline]
pub(crate) fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    finish(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// What a checksum's sum grows by when bytes at an even place become others, as many: RFC 1624's `~m + m'`.
#[inline]
pub(crate) fn difference(old: &[u8], new: &[u8]) -> u64 {
    0xffff * (old.len() as u64).div_ceil(2) - sum_of_words(old) + sum_of_words(new)
}

/// [`sum`], exactly: as 16-bit words each, so that no more than all ones comes of one.
#[inline]
fn sum_of_words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | w.get(1).map_or(0, |b| u64::from(*b))).sum()
}

/// RFC 1624 eqn. 3 for any number of words: the checksum after [`difference`].
#[inline]
pub(crate) fn adjusted(checksum: u16, difference: u64) -> u16 {
    finish(u64::from(!checksum) + difference)
}

/// Sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1); addresses of 4 or 16 bytes.
#[inline]
pub(crate) fn pseudo_header(source: &[u8], destination: &[u8], protocol: u8, length: usize) -> u64 {
    sum(source) + sum(destination) + u64::from(protocol) + length as u64
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // small test values
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    proptest! {
        #[test]
        fn equals_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(fold(sum(&bytes)), naive(&bytes));
        }

        #[test]
        fn an_update_equals_a_recomputation(mut bytes in proptest::collection::vec(any::<u8>(), 4..64), new: u16) {
            // All-zero data is the one case where the two zeros of one's complement differ (RFC 1624 §3).
            bytes[0] |= 1;
            let before = finish(sum(&bytes));
            let old = u16::from_be_bytes([bytes[2], bytes[3]]);
            bytes[2..4].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(updated(before, old, new), finish(sum(&bytes)));
        }
    }
}
