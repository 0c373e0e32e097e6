//! Reading TPM 2.0 quotes: `TPMS_ATTEST` of type `TPM_ST_ATTEST_QUOTE` (TPM 2.0 Library Part 2, 10.12.8).
//!
//! Untrusted bytes become a [`Quote`] once, strictly: every length is bounded, nothing may be left over, and another
//! structure that a TPM can sign (a certification, a time stamp) is refused by its type. It never looks at a
//! signature: [`crate::ak`] does. Tests are below and in `tests/`.

use std::fmt;

/// Longest `TPMS_ATTEST` accepted, bytes; a quote over one PCR with 32 bytes of `extraData` has 145.
pub const MAX_ATTEST_BYTES: usize = 1024;
/// `TPM_GENERATED_VALUE`: a restricted key never signs outside data that begins so.
const GENERATED: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
const ATTEST_QUOTE: u16 = 0x8018;
/// `TPM_ALG_SHA256`.
const ALG_SHA256: u16 = 0x000b;
/// Longest `TPM2B_NAME`: an algorithm and a SHA-512 digest.
const MAX_NAME_BYTES: usize = 2 + 64;
/// Longest `TPM2B_DATA`: as long as `TPMT_HA`.
const MAX_DATA_BYTES: usize = 2 + 64;
/// Longest `TPM2B_DIGEST`.
const MAX_DIGEST_BYTES: usize = 64;
/// Most PCR banks in a selection (`HASH_COUNT` of any TPM we know is below).
const MAX_BANKS: u32 = 16;
/// `sizeofSelect`: at least 3 (24 PCRs, PC Client profile), at most 32 (256 PCRs, what the index can address).
const SELECT_BYTES: std::ops::RangeInclusive<usize> = 3..=32;

/// Why bytes are not a quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Longer than any quote.
    #[error("attest has {0} bytes; at most {MAX_ATTEST_BYTES}")]
    TooLong(usize),
    /// It ends inside a field.
    #[error("attest ends inside {field}, at byte {offset}")]
    Truncated {
        /// Name in the specification.
        field: &'static str,
        /// Where.
        offset: usize,
    },
    /// A field with a value that a quote cannot have.
    #[error("attest, {field}: {found}, expected {expected}")]
    Field {
        /// Name in the specification.
        field: &'static str,
        /// What is there.
        found: String,
        /// What may be there.
        expected: &'static str,
    },
    /// Bytes after the structure.
    #[error("attest has {0} bytes after its end")]
    Trailing(usize),
}

/// `TPMS_CLOCK_INFO`. Keys outside the endorsement hierarchy see `reset_count` and `restart_count` obfuscated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds the TPM has been powered.
    pub clock_ms: u64,
    /// TPM resets.
    pub reset_count: u32,
    /// TPM restarts and resumes.
    pub restart_count: u32,
    /// Whether the clock cannot have been reported greater before.
    pub safe: bool,
}

/// One bank of a `TPML_PCR_SELECTION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrSelection {
    /// `TPM_ALG_ID` of the bank.
    pub hash: u16,
    /// Bit `i % 8` of byte `i / 8` selects PCR `i`.
    pub select: Vec<u8>,
}

/// A quote, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Qualified name of the signing key.
    pub qualified_signer: Vec<u8>,
    /// What the caller wanted bound: the qualifying data.
    pub extra_data: Vec<u8>,
    /// The TPM's clock.
    pub clock: ClockInfo,
    /// Vendor's firmware version.
    pub firmware_version: u64,
    /// Which PCRs.
    pub selection: Vec<PcrSelection>,
    /// Digest of the concatenated values of the selected PCRs.
    pub pcr_digest: Vec<u8>,
}

impl Quote {
    /// Reads a whole `TPMS_ATTEST`.
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_ATTEST_BYTES {
            return Err(QuoteError::TooLong(bytes.len()));
        }
        let mut r = Reader { bytes, offset: 0 };
        let magic = u32::from_be_bytes(r.array("magic")?);
        constant("magic", magic, GENERATED, "TPM_GENERATED_VALUE 0xff544347")?;
        let kind = u32::from(u16::from_be_bytes(r.array("type")?));
        constant("type", kind, ATTEST_QUOTE.into(), "TPM_ST_ATTEST_QUOTE 0x8018")?;
        let quote = Self {
            qualified_signer: r.sized("qualifiedSigner", MAX_NAME_BYTES)?,
            extra_data: r.sized("extraData", MAX_DATA_BYTES)?,
            clock: r.clock()?,
            firmware_version: u64::from_be_bytes(r.array("firmwareVersion")?),
            selection: r.selection()?,
            pcr_digest: r.sized("pcrDigest", MAX_DIGEST_BYTES)?,
        };
        match bytes.len() - r.offset {
            0 => Ok(quote),
            left => Err(QuoteError::Trailing(left)),
        }
    }

    /// Is exactly this PCR of the SHA-256 bank selected, and nothing else?
    #[must_use]
    pub fn selects_exactly(&self, pcr: u8) -> bool {
        let [bank] = self.selection.as_slice() else { return false };
        bank.hash == ALG_SHA256 && bank.pcrs().eq([usize::from(pcr)])
    }
}

impl PcrSelection {
    fn pcrs(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.select.len() * 8).filter(|i| self.select[i / 8] >> (i % 8) & 1 == 1)
    }
}

impl fmt::Display for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hash {
            ALG_SHA256 => write!(f, "sha256:{:?}", self.pcrs().collect::<Vec<_>>()),
            other => write!(f, "{other:#06x}:{:?}", self.pcrs().collect::<Vec<_>>()),
        }
    }
}

fn constant(field: &'static str, found: u32, wanted: u32, expected: &'static str) -> Result<(), QuoteError> {
    if found == wanted {
        return Ok(());
    }
    Err(QuoteError::Field { field, found: format!("{found:#x}"), expected })
}

/// A cursor over the structure; big endian, as all of TPM 2.0.
struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], QuoteError> {
        let end = self.offset + length;
        let taken = self
            .bytes
            .get(self.offset..end)
            .ok_or(QuoteError::Truncated { field, offset: self.bytes.len() })?;
        self.offset = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], QuoteError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(field, N)?);
        Ok(out)
    }

    /// A `TPM2B_*` of at most `max` bytes.
    fn sized(&mut self, field: &'static str, max: usize) -> Result<Vec<u8>, QuoteError> {
        let length = usize::from(u16::from_be_bytes(self.array(field)?));
        if length > max {
            let expected = "a length that its type allows";
            return Err(QuoteError::Field { field, found: format!("{length} bytes"), expected });
        }
        Ok(self.take(field, length)?.to_vec())
    }

    fn clock(&mut self) -> Result<ClockInfo, QuoteError> {
        Ok(ClockInfo {
            clock_ms: u64::from_be_bytes(self.array("clockInfo.clock")?),
            reset_count: u32::from_be_bytes(self.array("clockInfo.resetCount")?),
            restart_count: u32::from_be_bytes(self.array("clockInfo.restartCount")?),
            safe: self.yes_no("clockInfo.safe")?,
        })
    }

    fn yes_no(&mut self, field: &'static str) -> Result<bool, QuoteError> {
        match self.array(field)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(QuoteError::Field { field, found: other.to_string(), expected: "0 or 1" }),
        }
    }

    fn selection(&mut self) -> Result<Vec<PcrSelection>, QuoteError> {
        let field = "quote.pcrSelect.count";
        let count = u32::from_be_bytes(self.array(field)?);
        if count > MAX_BANKS {
            return Err(QuoteError::Field { field, found: count.to_string(), expected: "at most 16" });
        }
        (0..count).map(|_| self.bank()).collect()
    }

    fn bank(&mut self) -> Result<PcrSelection, QuoteError> {
        let hash = u16::from_be_bytes(self.array("quote.pcrSelect.hash")?);
        let field = "quote.pcrSelect.sizeofSelect";
        let [size] = self.array(field)?;
        if !SELECT_BYTES.contains(&usize::from(size)) {
            return Err(QuoteError::Field { field, found: size.to_string(), expected: "3 to 32" });
        }
        Ok(PcrSelection { hash, select: self.take("quote.pcrSelect.pcrSelect", size.into())?.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A quote as a TPM writes it.
    fn encode(extra: &[u8], pcr: u8, pcr_digest: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(GENERATED.to_be_bytes());
        out.extend(ATTEST_QUOTE.to_be_bytes());
        for sized in [&[0, 0x0b, 7][..], extra] {
            out.extend(u16::try_from(sized.len()).unwrap().to_be_bytes());
            out.extend(sized);
        }
        out.extend([0; 8 + 4 + 4]);
        out.push(1);
        out.extend([0x20; 8]);
        out.extend([0, 0, 0, 1, 0, 0x0b, 3]);
        let mut select = [0; 3];
        select[usize::from(pcr / 8)] = 1 << (pcr % 8);
        out.extend(select);
        out.extend(u16::try_from(pcr_digest.len()).unwrap().to_be_bytes());
        out.extend(pcr_digest);
        out
    }

    #[test]
    fn reads_what_a_tpm_writes() {
        let quote = Quote::parse(&encode(&[9; 32], 14, &[5; 32])).unwrap();
        assert_eq!((quote.extra_data, quote.pcr_digest), (vec![9; 32], vec![5; 32]));
        let quote = Quote::parse(&encode(b"", 14, b"")).unwrap();
        assert!(quote.selects_exactly(14) && !quote.selects_exactly(13) && !quote.selects_exactly(255));
        assert_eq!(quote.selection[0].to_string(), "sha256:[14]");
    }

    #[test]
    fn refuses_every_prefix_and_anything_appended() {
        let good = encode(&[9; 32], 14, &[5; 32]);
        for end in 0..good.len() {
            assert!(Quote::parse(&good[..end]).is_err(), "{end}");
        }
        assert_eq!(Quote::parse(&[&good[..], &[0]].concat()), Err(QuoteError::Trailing(1)));
        assert_eq!(Quote::parse(&[0; 1025]), Err(QuoteError::TooLong(1025)));
    }

    #[test]
    fn refuses_other_structures_and_wild_lengths() {
        let good = encode(&[9; 32], 14, &[5; 32]);
        let select = good.len() - 34 - 10;
        // magic, TPM_ST_ATTEST_CERTIFY, extraData's length, safe, count, sizeofSelect
        for (at, byte) in
            [(0, 0), (5, 0x17), (11, 0xff), (61, 2), (select, 1), (select + 6, 2), (select + 6, 33)]
        {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(Quote::parse(&bad).is_err(), "byte {at} = {byte}");
        }
    }

    #[test]
    fn a_second_bank_or_pcr_is_not_exactly_one() {
        let mut two = Quote::parse(&encode(b"", 14, b"")).unwrap();
        two.selection[0].select[0] = 1;
        assert!(!two.selects_exactly(14));
        let mut banks = Quote::parse(&encode(b"", 14, b"")).unwrap();
        banks.selection.push(PcrSelection { hash: 4, select: vec![0; 3] });
        assert!(!banks.selects_exactly(14));
        let mut sha1 = Quote::parse(&encode(b"", 14, b"")).unwrap();
        sha1.selection[0].hash = 4;
        assert!(!sha1.selects_exactly(14));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1100)) {
            let _ = Quote::parse(&bytes);
        }

        #[test]
        fn damaged_quotes_never_panic(at in 0_usize..141, byte: u8) {
            let mut bytes = encode(&[9; 32], 14, &[5; 32]);
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(quote) = Quote::parse(&bytes) {
                let _ = quote.selects_exactly(14);
            }
        }
    }
}
