//! Captures in pcapng (draft-ietf-opsawg-pcapng): a section, an interface for each port, packets with what became of them, and at the
//! end how many were missed.
//!
//! Tests: below, and `tests/telemetry.rs` reads a capture with tcpdump, and with tshark where it is installed.

use std::io::{self, Write};

/// §4.1
const SECTION: u32 = 0x0a0d_0d0a;
/// §4.2
const INTERFACE: u32 = 1;
/// §4.6
const STATISTICS: u32 = 5;
/// §4.3
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const EPB_FLAGS: u16 = 2;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
/// Inbound (§4.3.1).
const INBOUND: u32 = 1;

/// A capture being written.
pub struct PcapngWriter<W> {
    to: W,
    written: u64,
    block: Vec<u8>,
}

/// A packet.
pub struct Captured<'p> {
    /// Index of its interface, as given to [`PcapngWriter::new`].
    pub interface: u32,
    /// µs since 1970.
    pub at_us: u64,
    /// Of the frame, which may be longer than what is kept of it.
    pub length: u32,
    pub bytes: &'p [u8],
    pub comment: &'p str,
}

impl<W: Write> PcapngWriter<W> {
    /// Writes the head: who wrote it, and the interfaces.
    pub fn new(to: W, application: &str, interfaces: &[&str], snaplen: u32) -> io::Result<Self> {
        let mut it = Self { to, written: 0, block: Vec::with_capacity(4096) };
        it.put(&BYTE_ORDER.to_le_bytes());
        // Version 1.0; the section's length is not given.
        it.put(&[1, 0, 0, 0]);
        it.put(&u64::MAX.to_le_bytes());
        it.option(SHB_USERAPPL, application.as_bytes());
        it.end(SECTION)?;
        for name in interfaces {
            it.put(&ETHERNET.to_le_bytes());
            it.put(&[0, 0]);
            it.put(&snaplen.to_le_bytes());
            it.option(IF_NAME, name.as_bytes());
            it.end(INTERFACE)?;
        }
        Ok(it)
    }

    /// Writes a packet.
    pub fn packet(&mut self, packet: &Captured<'_>) -> io::Result<()> {
        let kept = u32::try_from(packet.bytes.len()).unwrap_or(u32::MAX);
        for word in [packet.interface, high(packet.at_us), low(packet.at_us), kept, packet.length] {
            self.put(&word.to_le_bytes());
        }
        self.put(packet.bytes);
        self.pad();
        self.option(EPB_FLAGS, &INBOUND.to_le_bytes());
        self.option(OPT_COMMENT, packet.comment.as_bytes());
        self.end(PACKET)
    }

    /// Writes what an interface has received in all and what of it is missing here.
    pub fn statistics(&mut self, interface: u32, at_us: u64, received: u64, missed: u64) -> io::Result<()> {
        for word in [interface, high(at_us), low(at_us)] {
            self.put(&word.to_le_bytes());
        }
        self.option(ISB_IFRECV, &received.to_le_bytes());
        self.option(ISB_IFDROP, &missed.to_le_bytes());
        self.end(STATISTICS)
    }

    /// Everything written so far reaches the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// Bytes of the file.
    pub fn written(&self) -> u64 {
        self.written
    }

    fn put(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        // No value of ours is near to that.
        let Ok(length) = u16::try_from(value.len()) else { return };
        self.put(&code.to_le_bytes());
        self.put(&length.to_le_bytes());
        self.put(value);
        self.pad();
    }

    /// Ends the options and writes the block.
    fn end(&mut self, kind: u32) -> io::Result<()> {
        self.put(&[0; 4]);
        let length = u32::try_from(self.block.len() + 12).map_err(io::Error::other)?;
        self.to.write_all(&kind.to_le_bytes())?;
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(&self.block)?;
        self.to.write_all(&length.to_le_bytes())?;
        self.written += u64::from(length);
        self.block.clear();
        Ok(())
    }
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_say_their_length_at_both_ends_and_are_whole_words() {
        let mut file = Vec::new();
        let mut writer = PcapngWriter::new(&mut file, "test", &["in", "outside"], 2048).unwrap();
        let packet =
            Captured { interface: 1, at_us: 1 << 33, length: 61, bytes: &[7; 61], comment: "drop: no_rule" };
        writer.packet(&packet).unwrap();
        writer.statistics(1, 1, 2, 3).unwrap();
        let written = writer.written();
        assert_eq!(written, file.len() as u64);
        let mut kinds = vec![];
        let mut rest = &file[..];
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes(*rest[at..].first_chunk().unwrap());
            let length = word(4) as usize;
            assert_eq!((length % 4, word(length - 4) as usize), (0, length));
            kinds.push(word(0));
            if word(0) == PACKET {
                assert_eq!([word(8), word(12), word(16), word(20), word(24)], [1, 2, 0, 61, 61]);
                assert_eq!(&rest[28..28 + 61], [7; 61]);
            }
            rest = &rest[length..];
        }
        assert_eq!(kinds, [SECTION, INTERFACE, INTERFACE, PACKET, STATISTICS]);
    }
}
