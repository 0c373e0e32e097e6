//! The independent check of a log over files that somebody altered: the tail's frames and their checkpoints, bundles,
//! tiles. Hashes of frames and the log's signatures are made here, so that mutations reach what is inside of them.
//!
//! The input is a sequence of parts, each `MARK`, a byte of flags, a name, `END`, and the content (as of `csar`):
//! `header` and `commit` (a note, `0x1d`, entries) become frames of the tail, `tail` follows as it is; the others are
//! files.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use ledger::fsck::{self, fsck};
use libfuzzer_sys::fuzz_target;
use trust::{Digest, note::NoteSigner};

const MARK: &[u8] = b"\x1e\x1e\x1e\x1e";
const END: u8 = 0x1f;
const ENTRIES: u8 = 0x1d;
const NAME: &str = "ledger.example/mandate";
const SEED: [u8; 32] = [9; 32];
/// Flags of a part: sign it; its content is one entry.
const SIGN: u8 = 1;
const ONE_ENTRY: u8 = 2;
/// Longest log that a checkpoint may claim: each bundle of it is looked for.
const MAX_ENTRIES: u64 = 1024;

const FILES: [&str; 7] = [
    "checkpoint",
    "tile/entries/000",
    "tile/entries/000.p/1",
    "tile/0/000",
    "tile/0/000.p/1",
    "tile/1/000.p/1",
    "large/000",
];

static SIGNER: LazyLock<NoteSigner> = LazyLock::new(|| NoteSigner::new(NAME, &SEED).expect("a good name"));

/// A directory of this process, in memory where there is one.
static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
    base.join(format!("mandate-fuzz-{}", std::process::id()))
});

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
    starts.iter().zip(ends).filter_map(part).take(32).collect()
}

fn frame(body: &[u8], out: &mut Vec<u8>) {
    out.extend((body.len() as u32).to_be_bytes());
    out.extend(Digest::of(body).0);
    out.extend(body);
}

/// A note, signed if it is asked for and can be; `None`: a log that is too long to look for.
fn note(flags: u8, text: &[u8]) -> Option<Vec<u8>> {
    let words = std::str::from_utf8(text).unwrap_or_default();
    let size = words.lines().nth(1).and_then(|l| l.trim_start_matches('+').parse::<u64>().ok());
    if size.is_some_and(|n| n > MAX_ENTRIES) {
        return None;
    }
    let signed = (flags & SIGN != 0).then(|| SIGNER.sign(words).ok()).flatten();
    Some(signed.map_or_else(|| text.to_vec(), String::into_bytes))
}

fn commit(flags: u8, content: &[u8]) -> Option<Vec<u8>> {
    let cut = content.iter().position(|b| *b == ENTRIES).unwrap_or(content.len());
    let (text, entries) = (&content[..cut], content.get(cut + 1..).unwrap_or_default());
    let note = note(flags, text)?;
    let mut body = [&(note.len() as u32).to_be_bytes()[..], &note].concat();
    if flags & ONE_ENTRY != 0 {
        body.extend(u16::try_from(entries.len()).ok()?.to_be_bytes());
    }
    body.extend(entries);
    Some(body)
}

fn lay_out(data: &[u8]) -> Option<()> {
    let _ = fs::remove_dir_all(&*DIR);
    let write = |name: &str, bytes: &[u8]| {
        let path = DIR.join(name);
        fs::create_dir_all(path.parent().expect("inside of DIR")).expect("a directory");
        fs::write(path, bytes).expect("a file");
    };
    let seed: String = SEED.iter().map(|b| format!("{b:02x}")).collect();
    write("log.key", format!("{NAME}\n{seed}\n").as_bytes());
    let mut tail = Vec::new();
    for (flags, name, content) in parts(data) {
        match name {
            b"header" => frame(content, &mut tail),
            b"commit" => frame(&commit(flags, content)?, &mut tail),
            b"tail" => tail.extend(content),
            b"checkpoint" => write("checkpoint", &note(flags, content)?),
            other => {
                let file = FILES.iter().find(|f| f.as_bytes() == other)?;
                write(file, content);
            }
        }
    }
    write("tail", &tail);
    Some(())
}

fuzz_target!(|data: &[u8]| {
    if lay_out(data).is_none() {
        return;
    }
    let report = fsck(&DIR, |at, of| assert!(at <= of, "{at} of {of}"));
    let report = report.expect("files that can be read");
    assert!(report.entries <= MAX_ENTRIES && report.findings.len() <= fsck::MAX_FINDINGS);
    assert!(report.findings.iter().all(|f| !f.action.is_empty() && !f.problem.contains('\0')));
});
