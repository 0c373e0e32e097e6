//! The payload of a probe frame, written by the generator, completed by a reflector, read by the generator again.
//!
//! | offset | bytes | field, big endian |
//! |---|---|---|
//! | 0 | 8 | magic `MNDPRB01` |
//! | 8 | 2 | index of the group in the profile |
//! | 10 | 2 | number of the backend that answered; 0 on the way there |
//! | 12 | 4 | index of the flow within the group |
//! | 16 | 8 | sequence number of the frame within the run, from 0 |
//! | 24 | 8 | time of transmission on the generator's clock, µs |
//!
//! What follows it up to the frame's size is zero.
//!
//! Tests: below; `tests/chain.rs`.

/// First bytes of a probe payload.
pub const MAGIC: [u8; 8] = *b"MNDPRB01";
/// Bytes of a probe payload without padding.
pub const BYTES: usize = 32;
/// Where the backend's number is.
pub const BACKEND_OFFSET: usize = 10;

/// A probe payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Index of the group in the profile.
    pub group: u16,
    /// Number of the backend that answered; 0 on the way there.
    pub backend: u16,
    /// Index of the flow within the group.
    pub flow: u32,
    /// Sequence number of the frame within the run.
    pub sequence: u64,
    /// Time of transmission, µs.
    pub sent_us: u64,
}

impl Probe {
    /// Reads the probe at the beginning of a payload, if it is one.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let p: &[u8; BYTES] = payload.first_chunk()?;
        let (head, tail) = p.split_at(16);
        let long = |b: &[u8]| b.first_chunk().copied().map(u64::from_be_bytes);
        head.starts_with(&MAGIC).then_some(())?;
        Some(Self {
            group: u16::from_be_bytes([p[8], p[9]]),
            backend: u16::from_be_bytes([p[10], p[11]]),
            flow: u32::from_be_bytes([p[12], p[13], p[14], p[15]]),
            sequence: long(tail)?,
            sent_us: long(tail.get(8..)?)?,
        })
    }

    /// The payload's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&self.group.to_be_bytes());
        out[10..12].copy_from_slice(&self.backend.to_be_bytes());
        out[12..16].copy_from_slice(&self.flow.to_be_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        out[24..].copy_from_slice(&self.sent_us.to_be_bytes());
        out
    }
}

/// Writes a backend's number into a payload that is a probe; the word that was there, if so.
pub(crate) fn stamp(payload: &mut [u8], number: u16) -> Option<u16> {
    payload.starts_with(&MAGIC).then_some(())?;
    let word: &mut [u8; 2] = payload.get_mut(..BYTES)?.get_mut(BACKEND_OFFSET..)?.first_chunk_mut()?;
    let before = u16::from_be_bytes(*word);
    *word = number.to_be_bytes();
    Some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_what_the_head_says() {
        let probe = Probe { group: 0x0102, backend: 0, flow: 0x0304_0506, sequence: 7, sent_us: 0x0809 };
        let mut bytes = probe.to_bytes();
        assert_eq!(bytes, *b"MNDPRB01\x01\x02\0\0\x03\x04\x05\x06\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\x08\x09");
        assert_eq!(stamp(&mut bytes, 0xabcd), Some(0));
        assert_eq!(Probe::read(&bytes), Some(Probe { backend: 0xabcd, ..probe }));
        assert_eq!(Probe::read(&bytes[..31]), None);
        bytes[0] = 0;
        assert_eq!((Probe::read(&bytes), stamp(&mut bytes, 1)), (None, None));
    }
}
