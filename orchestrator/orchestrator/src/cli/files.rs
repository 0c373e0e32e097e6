//! Reading with bounds and writing whole files.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use super::failure::Failure;
use crate::home::Home;

/// Largest document (intent, envelope, approval) read, bytes.
pub const MAX_DOCUMENT_BYTES: u64 = 16 << 20;
/// More members than this are not listed in a hint.
const MAX_LISTED: usize = 12;

/// A whole file of at most `limit` bytes; `-` is stdin.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let outcome = if path == Path::new("-") {
        std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|f| f.take(limit + 1).read_to_end(&mut bytes))
    };
    outcome.map_err(|e| Failure::unreadable(path, &e))?;
    if bytes.len() as u64 > limit {
        let detail = format!("{}: larger than {limit} bytes", path.display());
        return Err(Failure::usage("TOO_LARGE", "A file is too large", detail).hint("is it the right file?"));
    }
    Ok(bytes)
}

/// A whole text file.
pub fn text(path: &Path, limit: u64) -> Result<String, Failure> {
    String::from_utf8(read(path, limit)?).map_err(|_| {
        Failure::usage("UNREADABLE", "Cannot read a file", format!("{}: not UTF-8", path.display()))
            .hint("this must be a text file; is it the right one?")
    })
}

/// Writes a whole file (a reader never sees half of it); `-` is stdout.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::unwritable(path, &e);
    if path == Path::new("-") {
        let mut out = std::io::stdout().lock();
        return match out.write_all(bytes).and_then(|()| out.flush()) {
            // The reader has seen enough.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(failed(e)),
            _ => Ok(()),
        };
    }
    let name = path.file_name().ok_or_else(|| failed(std::io::ErrorKind::InvalidFilename.into()))?;
    let mut part = name.to_owned();
    part.push(format!(".part-{}", std::process::id()));
    let part = path.with_file_name(part);
    let done = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path));
    done.map_err(|e| {
        // The cause is what matters; a part that stays behind is named so.
        let _ = std::fs::remove_file(&part);
        failed(e)
    })
}

/// Where output goes when nobody says: the input's name with another ending (`edge.json` -> `edge.dsse.json`).
#[must_use]
pub fn beside(input: &Path, ending: &str) -> PathBuf {
    if input == Path::new("-") { input.to_owned() } else { input.with_extension(ending) }
}

/// The identities of a home, `org/name`; `None` when there are none.
#[must_use]
pub fn members(home: &Home) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for org in std::fs::read_dir(home.path().join("pki")).ok()?.flatten() {
        for file in std::fs::read_dir(org.path()).ok()?.flatten() {
            let path = file.path();
            let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            if path.extension().is_some_and(|e| e == "key") && stem != "ca" {
                found.push(format!("{}/{stem}", org.file_name().to_string_lossy()));
            }
        }
    }
    found.sort();
    found.truncate(MAX_LISTED);
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_bounded_and_writing_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().problem.code, "TOO_LARGE");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no part stays behind");
        assert_eq!(read(&dir.path().join("none"), 4).unwrap_err().problem.code, "UNREADABLE");
        assert_eq!(write(&dir.path().join("x/y"), b"").unwrap_err().problem.code, "UNWRITABLE");
    }

    #[test]
    fn outputs_stand_beside_their_inputs() {
        assert_eq!(beside(Path::new("a/edge.json"), "dsse.json"), Path::new("a/edge.dsse.json"));
        assert_eq!(beside(Path::new("-"), "dsse.json"), Path::new("-"));
    }
}
