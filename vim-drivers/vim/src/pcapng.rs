//! Captures as pcapng files (draft-ietf-opsawg-pcapng): little-endian, one section, Ethernet, timestamps in ns.
//!
//! The few block types that a capture of frames needs, written in order and within a bound, and read back: the
//! conformance suite and the drivers' tests read what drivers write. Never: more than the bound in memory.
//!
//! Tests: below; tcpdump reads what `vim-host` writes in its `tests/capture.rs`.

/// Section header block, interface description, enhanced packet, interface statistics.
const SHB: u32 = 0x0a0d_0d0a;
const IDB: u32 = 1;
const ISB: u32 = 5;
const EPB: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
/// Options: name, timestamp resolution of an interface; received and dropped frames of its statistics.
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
/// 10^-9 s.
const NANOSECONDS: u8 = 9;
/// An enhanced packet block without its data, bytes.
const EPB_BYTES: u64 = 32;
/// A statistics block as it is written here, bytes.
const ISB_BYTES: u64 = 24 + 2 * 12 + 4;

/// A frame of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Index of its interface.
    pub interface: u32,
    /// When, ns since the epoch.
    pub at_ns: u64,
    /// How long it was on the wire, bytes.
    pub wire_bytes: u32,
    /// What is kept of it.
    pub bytes: Vec<u8>,
}

/// A capture, read back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Names of the interfaces.
    pub interfaces: Vec<String>,
    /// Frames, in the order of the file.
    pub frames: Vec<Frame>,
}

/// Why bytes are no capture as this module writes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a pcapng capture of ours, at byte {at}: {problem}")]
pub struct BadCapture {
    /// Where.
    pub at: usize,
    /// What.
    pub problem: &'static str,
}

/// Writes a capture within a bound.
pub struct Writer {
    file: Vec<u8>,
    max_bytes: u64,
    snap_bytes: u32,
    received: Vec<u64>,
    dropped: Vec<u64>,
}

impl Writer {
    /// A capture of these interfaces whose file has at most `max_bytes` (but always its headers), with at most
    /// `snap_bytes` of each frame.
    #[must_use]
    pub fn new(interfaces: &[String], snap_bytes: u32, max_bytes: u64) -> Self {
        let mut file = Vec::new();
        let section =
            [BYTE_ORDER.to_le_bytes().as_slice(), &1u16.to_le_bytes(), &0u16.to_le_bytes()].concat();
        block(&mut file, SHB, &[section.as_slice(), &(-1i64).to_le_bytes()].concat());
        for name in interfaces {
            let mut body = [ETHERNET.to_le_bytes().as_slice(), &[0, 0], &snap_bytes.to_le_bytes()].concat();
            option(&mut body, IF_NAME, name.as_bytes());
            option(&mut body, IF_TSRESOL, &[NANOSECONDS]);
            option(&mut body, 0, &[]);
            block(&mut file, IDB, &body);
        }
        let none = vec![0; interfaces.len()];
        Self { file, max_bytes, snap_bytes, received: none.clone(), dropped: none }
    }

    /// Adds a frame, in order; false: there is no room for it, it is counted as dropped.
    pub fn add(&mut self, interface: u32, at_ns: u64, wire_bytes: u32, bytes: &[u8]) -> bool {
        let kept = &bytes[..bytes.len().min(usize::try_from(self.snap_bytes).unwrap_or(usize::MAX))];
        let index = usize::try_from(interface).unwrap_or(usize::MAX);
        let Some(received) = self.received.get_mut(index) else { return false };
        *received += 1;
        if self.len() + EPB_BYTES + padded(kept.len()) > self.max_bytes {
            self.lost(interface, 1);
            return false;
        }
        let [low, high] =
            [at_ns & 0xffff_ffff, at_ns >> 32].map(|half| u32::try_from(half).unwrap_or_default());
        let kept_bytes = u32::try_from(kept.len()).unwrap_or(u32::MAX);
        let mut body = Vec::with_capacity(20 + kept.len() + 3);
        for field in [interface, high, low, kept_bytes, wire_bytes] {
            body.extend(field.to_le_bytes());
        }
        body.extend(kept);
        pad(&mut body);
        block(&mut self.file, EPB, &body);
        true
    }

    /// Notes frames that were seen on an interface and not kept.
    pub fn lost(&mut self, interface: u32, frames: u64) {
        if let Some(dropped) = self.dropped.get_mut(usize::try_from(interface).unwrap_or(usize::MAX)) {
            *dropped += frames;
        }
    }

    /// The capture, with each interface's counts at `at_ns`.
    #[must_use]
    pub fn finish(mut self, at_ns: u64) -> crate::Capture {
        let (seen, dropped): (u64, u64) = (self.received.iter().sum(), self.dropped.iter().sum());
        let frames = frames(&self.file);
        for (interface, (received, dropped)) in (0u32..).zip(self.received.iter().zip(&self.dropped)) {
            let [low, high] =
                [at_ns & 0xffff_ffff, at_ns >> 32].map(|half| u32::try_from(half).unwrap_or_default());
            let mut body: Vec<u8> = [interface, high, low].iter().flat_map(|f| f.to_le_bytes()).collect();
            option(&mut body, ISB_IFRECV, &received.to_le_bytes());
            option(&mut body, ISB_IFDROP, &dropped.to_le_bytes());
            option(&mut body, 0, &[]);
            block(&mut self.file, ISB, &body);
        }
        debug_assert!(frames <= seen);
        crate::Capture { pcapng: self.file, frames, dropped }
    }

    /// Bytes of the file, its statistics included.
    fn len(&self) -> u64 {
        let statistics = ISB_BYTES.saturating_mul(self.received.len() as u64);
        (self.file.len() as u64).saturating_add(statistics)
    }
}

/// Reads a capture.
///
/// # Errors
/// What is not as this module writes it.
pub fn read(file: &[u8]) -> Result<Contents, BadCapture> {
    let mut contents = Contents::default();
    for block in Blocks::new(file) {
        let (at, kind, body) = block?;
        let bad = |problem| BadCapture { at, problem };
        match kind {
            SHB if at == 0 && word(body, 0) == Some(BYTE_ORDER) => {}
            _ if at == 0 => return Err(bad("it begins with no little-endian section")),
            IDB => contents.interfaces.push(name(body).ok_or(bad("an interface without a name"))?),
            EPB => contents.frames.push(frame(body).ok_or(bad("a cut packet"))?),
            ISB => {}
            _ => return Err(bad("a block of an unknown type")),
        }
    }
    let known = u32::try_from(contents.interfaces.len()).unwrap_or(u32::MAX);
    match contents.frames.iter().find(|f| f.interface >= known) {
        Some(_) => {
            Err(BadCapture { at: file.len(), problem: "a frame of an interface that is not described" })
        }
        None => Ok(contents),
    }
}

struct Blocks<'f> {
    file: &'f [u8],
    at: usize,
}

impl<'f> Blocks<'f> {
    fn new(file: &'f [u8]) -> Self {
        Self { file, at: 0 }
    }
}

impl<'f> Iterator for Blocks<'f> {
    type Item = Result<(usize, u32, &'f [u8]), BadCapture>;
    fn next(&mut self) -> Option<Self::Item> {
        let (at, rest) = (self.at, self.file.get(self.at..)?);
        if rest.is_empty() {
            return None;
        }
        let read = || {
            let (kind, length) = (word(rest, 0)?, usize::try_from(word(rest, 4)?).ok()?);
            let whole = rest.get(..length).filter(|_| length >= 12 && length % 4 == 0)?;
            (word(whole, length - 4) == word(rest, 4)).then(|| (at, kind, &whole[8..length - 4], length))
        };
        match read() {
            Some((at, kind, body, length)) => {
                self.at += length;
                Some(Ok((at, kind, body)))
            }
            None => {
                self.at = self.file.len();
                Some(Err(BadCapture { at, problem: "a cut block" }))
            }
        }
    }
}

fn frames(file: &[u8]) -> u64 {
    Blocks::new(file).filter(|b| matches!(b, Ok((_, EPB, _)))).count() as u64
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn frame(body: &[u8]) -> Option<Frame> {
    let kept = usize::try_from(word(body, 12)?).ok()?;
    let bytes = body.get(20..)?.get(..kept)?.to_vec();
    let at_ns = u64::from(word(body, 4)?) << 32 | u64::from(word(body, 8)?);
    Some(Frame { interface: word(body, 0)?, at_ns, wire_bytes: word(body, 16)?, bytes })
}

/// The name among an interface's options.
fn name(body: &[u8]) -> Option<String> {
    let mut options = body.get(8..)?;
    while let [a, b, c, d, rest @ ..] = options {
        let (code, length) = (u16::from_le_bytes([*a, *b]), usize::from(u16::from_le_bytes([*c, *d])));
        if code == IF_NAME {
            return String::from_utf8(rest.get(..length)?.to_vec()).ok();
        }
        options = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn padded(bytes: usize) -> u64 {
    bytes.next_multiple_of(4) as u64
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn block(file: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX).to_le_bytes();
    file.extend(kind.to_le_bytes());
    file.extend(length);
    file.extend(body);
    file.extend(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_in_order_and_within_the_bound() {
        let names = ["north".to_owned(), "south".to_owned()];
        let mut writer = Writer::new(&names, 60, 1000);
        let at = 1_700_000_000_123_456_789;
        let mut kept = Vec::new();
        for i in 0..20u32 {
            let bytes = vec![u8::try_from(i).unwrap(); 40 + 2 * usize::try_from(i).unwrap()];
            let wire = u32::try_from(bytes.len()).unwrap();
            if writer.add(i % 2, at + u64::from(i), wire, &bytes) {
                let bytes = bytes[..bytes.len().min(60)].to_vec();
                kept.push(Frame { interface: i % 2, at_ns: at + u64::from(i), wire_bytes: wire, bytes });
            }
        }
        writer.lost(1, 5);
        let capture = writer.finish(at + 100);
        assert!(capture.pcapng.len() <= 1000, "{}", capture.pcapng.len());
        assert!(kept.len() > 5 && kept.len() < 20, "{}", kept.len());
        assert_eq!((capture.frames, capture.dropped), (kept.len() as u64, 20 - kept.len() as u64 + 5));
        assert_eq!(read(&capture.pcapng).unwrap(), Contents { interfaces: names.into(), frames: kept });
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_refused_or_read_never_a_panic() {
        let mut writer = Writer::new(&["eth0".into()], 128, 4096);
        assert!(writer.add(0, 7, 64, &[0xa5; 64]) && !writer.add(1, 7, 64, &[0; 64]));
        let whole = writer.finish(9).pcapng;
        for cut in 1..whole.len() {
            if let Ok(part) = read(&whole[..cut]) {
                assert!(part.frames.len() <= 1 && cut % 4 == 0, "{cut}");
            }
            let mut changed = whole.clone();
            changed[cut] ^= 0xff;
            drop(read(&changed));
        }
        assert!(read(b"GIF89a is no capture").is_err());
        assert_eq!(read(&[]).unwrap(), Contents::default());
    }
}
