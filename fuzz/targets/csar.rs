//! SOL004 packages: a zip archive made of the input's parts, so that mutations reach what is in it, then changed here
//! and there, so that they reach the reader of zip archives too.
//!
//! The input is a sequence of parts, each `MARK`, a byte of flags, a name, `END`, and the content. A part without a
//! name holds changes of the finished archive: `u16` place, `u8` value. `Hash: @` in a manifest is the digest of its
//! `Source`. A part `….csar` without content wraps what came before it (option 2).
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use descriptors::{lint, package, sol004};
use flate2::{Compression, Crc, write::DeflateEncoder};
use libfuzzer_sys::fuzz_target;
use trust::{Digest, TrustRoots, UnixTime, identity::OrgRoot, issue::ca};

const MARK: &[u8] = b"\x1e\x1e\x1e\x1e";
const END: u8 = 0x1f;
/// When the seeds' certificates are valid.
const NOW: UnixTime = UnixTime(1_800_000_000);
/// The image of every seed: what else verifies, nobody signed.
const IMAGE: &[u8] = b"an image that is not one";

/// Flags of a part.
const DEFLATE: u8 = 1;
const DESCRIPTOR: u8 = 2;
const UNIX_MODE: u8 = 4;
const ODD_MODE: u8 = 8;
const OTHER_LOCAL_NAME: u8 = 16;
const OTHER_LOCAL_SIZE: u8 = 32;
const SAME_DATA: u8 = 64;
const LONG_EXTRA: u8 = 128;

static ROOTS: LazyLock<TrustRoots> = LazyLock::new(|| {
    let authority = ca("provider-org", &[3; 32], UnixTime(1_700_000_000), UnixTime(1_900_000_000));
    let members = authority.expect("a certificate").certificate_pem;
    let org = |pem: String| OrgRoot { ca: vec![pem], ..OrgRoot::default() };
    let vendor = org(include_str!("../keys/vendor.pem").to_owned());
    TrustRoots {
        orgs: BTreeMap::from([("provider-org".into(), org(members)), ("vendor".into(), vendor)]),
        logs: Vec::new(), channel: None 
    }
});

#[derive(Default)]
struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
    last: Option<(u32, [u8; 12])>,
}

fn le16(n: usize) -> [u8; 2] {
    (n as u16).to_le_bytes()
}

fn le32(n: usize) -> [u8; 4] {
    (n as u32).to_le_bytes()
}

impl Zip {
    fn add(&mut self, flags: u8, name: &[u8], content: &[u8]) {
        let mut crc = Crc::new();
        crc.update(content);
        let data = if flags & DEFLATE == 0 { content.to_vec() } else { deflate(content) };
        let mut sizes = [0; 12];
        sizes[..4].copy_from_slice(&crc.sum().to_le_bytes());
        sizes[4..8].copy_from_slice(&le32(data.len()));
        sizes[8..].copy_from_slice(&le32(content.len()));
        let mut place = self.bytes.len() as u32;
        let head = |sizes: &[u8]| {
            let general = if flags & DESCRIPTOR == 0 { 0 } else { 8 };
            let method = usize::from(flags & DEFLATE != 0) * 8;
            [&le16(20)[..], &le16(general), &le16(method), &[0; 4], sizes, &le16(name.len())].concat()
        };
        match (flags & SAME_DATA != 0, self.last) {
            // Another name for the entry before: the local header is shared.
            (true, Some((at, before))) => (place, sizes) = (at, before),
            _ => {
                let mut local = if flags & DESCRIPTOR == 0 { sizes } else { [0; 12] };
                if flags & OTHER_LOCAL_SIZE != 0 {
                    local[8] ^= 1;
                }
                let mut local_name = name.to_vec();
                if let (true, Some(first)) = (flags & OTHER_LOCAL_NAME != 0, local_name.first_mut()) {
                    *first ^= 1;
                }
                let extra = if flags & LONG_EXTRA == 0 { &[][..] } else { &[0xfe, 0xca, 2, 0, 1, 2][..] };
                let parts: [&[u8]; 6] =
                    [b"PK\x03\x04", &head(&local), &le16(extra.len()), &local_name, extra, &data];
                self.bytes.extend(parts.concat());
                if flags & DESCRIPTOR != 0 {
                    self.bytes.extend([b"PK\x07\x08".as_slice(), &sizes].concat());
                }
            }
        }
        let mode: u32 = match (flags & UNIX_MODE != 0, flags & ODD_MODE != 0) {
            (false, _) => 0,
            (true, false) => 0o100_644,
            (true, true) => 0o120_777,
        };
        let made_by = if flags & UNIX_MODE == 0 { le16(20) } else { le16(0x0314) };
        // Extra field, comment, disk and internal attributes: none.
        let tail = [&[0; 8][..], &(mode << 16).to_le_bytes(), &place.to_le_bytes(), name].concat();
        let record = [b"PK\x01\x02".as_slice(), &made_by, &head(&sizes), &tail].concat();
        self.directory.extend(record);
        self.count = self.count.wrapping_add(1);
        self.last = Some((place, sizes));
    }

    fn finish(self) -> Vec<u8> {
        let (size, at) = (le32(self.directory.len()), le32(self.bytes.len()));
        let count = self.count.to_le_bytes();
        let end = [&[0; 4][..], &count, &count, &size, &at, &[0; 2]].concat();
        [&self.bytes[..], &self.directory, b"PK\x05\x06", &end].concat()
    }
}

fn deflate(content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut out = DeflateEncoder::new(Vec::new(), Compression::fast());
    out.write_all(content).expect("memory");
    out.finish().expect("memory")
}

/// The parts: flags, name, content.
fn parts(data: &[u8]) -> Vec<(u8, &[u8], &[u8])> {
    let mut starts: Vec<usize> = Vec::new();
    let mut at = 0;
    while let Some(found) = data[at..].windows(MARK.len()).position(|w| w == MARK) {
        starts.push(at + found);
        at += found + MARK.len();
    }
    let ends = starts.iter().skip(1).copied().chain([data.len()]);
    let part = |(start, end): (&usize, usize)| {
        let (flags, rest) = data[start + MARK.len()..end].split_first()?;
        let cut = rest.iter().position(|b| *b == END)?;
        Some((*flags, &rest[..cut], &rest[cut + 1..]))
    };
    starts.iter().zip(ends).filter_map(part).take(64).collect()
}

/// The manifest with the digests that it leaves open.
fn with_digests(text: &[u8], parts: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(text) else { return text.to_vec() };
    let mut source = "";
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        source = line.strip_prefix("Source: ").map_or(source, str::trim);
        let content = parts.iter().find(|p| p.1 == source.as_bytes());
        match content.filter(|_| line.trim() == "Hash: @") {
            Some((_, _, content)) => out += &format!("Hash: {}\n", Digest::of(content).hex()),
            None => out += line,
        }
    }
    out.into_bytes()
}

fn archive(data: &[u8]) -> Vec<u8> {
    let parts = parts(data);
    let mut zip = Zip::default();
    let mut changes: Vec<&[u8]> = Vec::new();
    for (flags, name, content) in &parts {
        match (name.is_empty(), name.ends_with(b".csar") && content.is_empty()) {
            (true, _) => changes.push(content),
            (_, true) => {
                let inner = std::mem::take(&mut zip).finish();
                zip.add(*flags, name, &inner);
            }
            _ if name.ends_with(b".mf") => zip.add(*flags, name, &with_digests(content, &parts)),
            _ => zip.add(*flags, name, content),
        }
    }
    let mut bytes = zip.finish();
    for change in changes.iter().flat_map(|c| c.chunks_exact(3)) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
        // From the end: the central directory is there.
        if let Some(place) = bytes.len().checked_sub(at + 1) {
            bytes[place] = change[2];
        }
    }
    bytes
}

fn judge(bytes: &[u8]) {
    let report = lint::bytes(bytes, "p", None);
    assert!(report.is_accepted() || !report.diagnostics.is_empty());
    if let Ok(csar) = sol004::open(bytes) {
        let paths: BTreeSet<&str> = csar.paths().collect();
        for path in &paths {
            assert!(!path.starts_with('/') && path.split('/').all(|p| !matches!(p, "" | "." | "..")));
            let mut parents = path.match_indices('/').map(|(i, _)| &path[..i]);
            assert!(!parents.any(|p| paths.contains(p)), "a file inside a file: {path}");
        }
    }
    let opened = package::open(bytes);
    if let Ok(opened) = &opened {
        assert!(opened.files.contains_key(&opened.descriptor_path));
    }
    if let Ok(verified) = package::verify(bytes, &ROOTS, NOW) {
        assert!(opened.is_ok_and(|o| o.is_signed()), "verified, and not signed");
        for image in &verified.images {
            assert_eq!(image.digest, Digest::of(IMAGE), "nobody signed that image");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    judge(data);
    if data.windows(MARK.len()).any(|w| w == MARK) {
        judge(&archive(data));
    }
});
