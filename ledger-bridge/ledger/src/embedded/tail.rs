//! The tail: the file that a commit appends to.
//!
//! A sequence of frames, each `u32 length ‖ SHA-256(body) ‖ body`. The first body is the header (JSON): the log's name
//! and the edge of the tree at the tail's base, a multiple of 256. Every other is a commit: `u32 length ‖ signed note`,
//! and the entries that the note's tree has beyond the one before, encoded as in a bundle. Numbers are big endian.
//!
//! A frame is there or it is not: one whose hash does not fit is what an interrupted write left, if it is the last.
//! Anything else is damage. Pure: bytes in, bytes out.

use serde::{Deserialize, Serialize};
use trust::Digest;

use super::{
    edge::EdgeRecord,
    layout::{element, push_element},
};

const VERSION: u32 = 2;
const FRAME_HEAD: usize = 4 + 32;
/// A tail is replaced long before it gets so long; a longer frame is damage.
pub(crate) const MAX_FRAME_BYTES: usize = 64 << 20;

/// The first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    v: u32,
    /// Name of the log.
    pub ledger: String,
    /// The tree before the tail's first entry.
    pub edge: EdgeRecord,
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    /// The signed checkpoint.
    pub note: String,
    /// The entries; an empty one is in a file of its own.
    pub entries: Vec<Vec<u8>>,
}

/// A tail, as far as it is whole.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Its header.
    pub header: Header,
    /// Its commits, oldest first.
    pub commits: Vec<Commit>,
    /// Where each of them ends.
    pub ends: Vec<usize>,
    /// Bytes of them.
    pub whole: usize,
    /// Is there something behind them that an interrupted write can have left?
    pub torn: bool,
}

fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &Digest::of(body).0, body].concat()
}

impl Header {
    /// Of a log with this name and tree.
    pub fn new(ledger: &str, edge: EdgeRecord) -> Self {
        Self { v: VERSION, ledger: ledger.to_owned(), edge }
    }

    /// Its frame.
    pub fn to_frame(&self) -> Vec<u8> {
        // Text and numbers always encode.
        frame(&serde_json::to_vec(self).unwrap_or_default())
    }
}

/// The frame of a commit.
pub(crate) fn commit_frame<'a>(note: &str, entries: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let length = u32::try_from(note.len()).unwrap_or(u32::MAX);
    let mut body = [&length.to_be_bytes()[..], note.as_bytes()].concat();
    entries.for_each(|e| push_element(&mut body, e));
    frame(&body)
}

impl Tail {
    /// Keeps the first commits whose checkpoint `wanted` accepts.
    pub fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        let kept = self.commits.iter().take_while(|c| wanted(&c.note)).count();
        self.commits.truncate(kept);
        self.ends.truncate(kept);
    }
}

enum Frame<'a> {
    Whole(&'a [u8], usize),
    End,
    Torn,
    Damaged(String),
}

fn next(bytes: &[u8], at: usize) -> Frame<'_> {
    let rest = &bytes[at.min(bytes.len())..];
    if rest.is_empty() {
        return Frame::End;
    }
    let Some((head, body)) = rest.split_at_checked(FRAME_HEAD) else { return Frame::Torn };
    let length =
        usize::try_from(u32::from_be_bytes([head[0], head[1], head[2], head[3]])).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return match rest.iter().all(|b| *b == 0) || rest.len() <= MAX_FRAME_BYTES {
            true => Frame::Torn,
            false => Frame::Damaged(format!("a length of {length} bytes at byte {at}")),
        };
    }
    let Some(content) = body.get(..length) else { return Frame::Torn };
    if Digest::of(content).0 == head[4..] {
        return Frame::Whole(content, at + FRAME_HEAD + length);
    }
    match body.len() > length {
        true => Frame::Damaged(format!("the frame at byte {at} has another hash, and more follows it")),
        false => Frame::Torn,
    }
}

fn commit(body: &[u8]) -> Option<Commit> {
    let (length, rest) = body.split_first_chunk::<4>()?;
    let (note, elements) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let (mut at, mut entries) = (0, Vec::new());
    while at < elements.len() {
        let place = element(elements, at)?;
        at = place.end;
        entries.push(elements[place].to_vec());
    }
    Some(Commit { note: std::str::from_utf8(note).ok()?.to_owned(), entries })
}

/// Reads a tail; what is wrong with it otherwise.
pub(crate) fn parse(bytes: &[u8]) -> Result<Tail, String> {
    let (header, mut at) = match next(bytes, 0) {
        Frame::Whole(body, end) => {
            let header: Header =
                serde_json::from_slice(body).map_err(|e| format!("its header cannot be read: {e}"))?;
            (header, end)
        }
        Frame::Damaged(problem) => return Err(problem),
        Frame::End | Frame::Torn => return Err("its header is not whole".to_owned()),
    };
    if header.v != VERSION {
        return Err(format!("it is of version {}, this program reads version {VERSION}", header.v));
    }
    let (mut commits, mut ends) = (Vec::new(), Vec::new());
    loop {
        match next(bytes, at) {
            Frame::Whole(body, end) => {
                let problem = || format!("the frame at byte {at} is no commit");
                commits.push(commit(body).ok_or_else(problem)?);
                ends.push(end);
                at = end;
            }
            Frame::Damaged(problem) => return Err(problem),
            Frame::End => return Ok(Tail { header, commits, ends, whole: at, torn: false }),
            Frame::Torn => return Ok(Tail { header, commits, ends, whole: at, torn: true }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::edge::Edge, *};

    fn tail(commits: &[Commit]) -> Vec<u8> {
        let mut bytes = Header::new("log", Edge::default().record()).to_frame();
        for c in commits {
            bytes.extend(commit_frame(&c.note, c.entries.iter().map(Vec::as_slice)));
        }
        bytes
    }

    fn commits() -> impl Strategy<Value = Vec<Commit>> {
        let entry = prop::collection::vec(any::<u8>(), 1..40);
        let one = (".{0,20}", prop::collection::vec(entry, 1..5))
            .prop_map(|(note, entries)| Commit { note, entries });
        prop::collection::vec(one, 1..5)
    }

    proptest! {
        #[test]
        fn comes_back_and_every_cut_is_torn(commits in commits()) {
            let bytes = tail(&commits);
            let whole = parse(&bytes).unwrap();
            prop_assert!(!whole.torn && whole.commits == commits && whole.whole == bytes.len());
            let last = tail(&commits[..commits.len() - 1]).len();
            for end in last..bytes.len() {
                let cut = parse(&bytes[..end]).unwrap();
                prop_assert_eq!((cut.torn, cut.whole), (end > last, last));
                prop_assert_eq!(cut.commits.len(), commits.len() - 1);
            }
        }

        #[test]
        fn no_flipped_bit_goes_unseen(commits in commits(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut bytes = tail(&commits);
            let i = at.index(bytes.len());
            bytes[i] ^= 1_u8 << bit;
            if let Ok(read) = parse(&bytes) {
                prop_assert!(read.torn, "byte {}", i);
                prop_assert!(commits.starts_with(&read.commits));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
