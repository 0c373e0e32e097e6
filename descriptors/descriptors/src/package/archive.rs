//! The tar.gz itself: read within bounds, written always the same.
//!
//! A written archive has two gzip members, which every reader takes as one stream: the content, and a tail that is
//! stored uncompressed and holds the signature (if any) and the end of the archive. So a signature can cover the
//! content's compressed bytes, and the tail has only one possible encoding: no byte of a signed package is free.

use std::{collections::BTreeMap, io::Read};

use flate2::{Compression, Crc, GzBuilder, bufread::GzDecoder};
use tar::{Archive, EntryType, Header, PaxExtensions};

use super::{PackageError, SIGNATURE};
use crate::parse::Files;

/// Largest package, bytes as uploaded.
pub const MAX_PACKAGE_BYTES: u64 = 256 << 20;
/// Largest package, bytes unpacked.
pub const MAX_UNPACKED_BYTES: u64 = 768 << 20;
/// Largest ratio of unpacked to packed bytes; executables have 3 to 5.
pub const MAX_RATIO: u64 = 100;
/// Below this size the ratio says nothing: a tar archive of three small files is mostly zeros.
pub(crate) const RATIO_FLOOR_BYTES: u64 = 1 << 20;
/// Most gzip members: ours have two, and a parallel compressor's one per block; each costs a start, however empty.
const MAX_MEMBERS: usize = 8192;
/// Most files and directories.
pub const MAX_FILES: usize = 1024;
/// Longest path, bytes: what a ustar header holds.
pub const MAX_PATH_BYTES: usize = 255;
/// Most bytes of an entry's pax records: a path, times, and what a file system keeps beside a file.
const MAX_PAX_BYTES: u64 = 64 << 10;
/// Tar's unit.
const BLOCK: usize = 512;
/// Most bytes of a stored deflate block.
const STORED_BLOCK: usize = 65_535;
/// Header of a gzip member without name, time or comment, from an unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// What is in a package.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The one directory.
    pub name: String,
    /// Files by path inside it.
    pub files: Files,
}

/// The gzip members of a package, as one stream.
struct Members<'a> {
    current: GzDecoder<&'a [u8]>,
    count: usize,
}

impl<'a> Members<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { current: GzDecoder::new(bytes), count: 1 }
    }
}

impl Read for Members<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let n = self.current.read(buf)?;
            let rest = *self.current.get_ref();
            if n > 0 || buf.is_empty() || rest.is_empty() {
                return Ok(n);
            }
            if self.count >= MAX_MEMBERS {
                return Err(std::io::Error::other(format!("it has more than {MAX_MEMBERS} gzip members")));
            }
            self.count += 1;
            self.current = GzDecoder::new(rest);
        }
    }
}

/// Counts what comes out of the decompressor and stops at the bounds.
struct Bounded<R> {
    inner: R,
    read: u64,
    limit: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.read = self.read.saturating_add(n as u64);
        if self.read > self.limit {
            return Err(std::io::Error::other(Exceeded(self.limit)));
        }
        Ok(n)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
struct Exceeded(u64);

fn io_error(e: std::io::Error) -> PackageError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
    while let Some(it) = cause {
        // tar wraps errors in errors; an io::Error hides its own in get_ref.
        let inner = it.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(Exceeded(limit)) = inner.and_then(|i| i.downcast_ref::<Exceeded>()) {
            return PackageError::TooLarge { what: "bytes when unpacked", found: limit + 1, limit: *limit };
        }
        cause = inner.map(|i| i as &(dyn std::error::Error + 'static)).or_else(|| it.source());
    }
    PackageError::Damaged { reason: e.to_string() }
}

/// Reads an archive, all of it.
pub(crate) fn read(bytes: &[u8]) -> Result<Unpacked, PackageError> {
    check_format(bytes)?;
    let packed = bytes.len() as u64;
    if packed > MAX_PACKAGE_BYTES {
        return Err(PackageError::TooLarge { what: "bytes", found: packed, limit: MAX_PACKAGE_BYTES });
    }
    let limit = MAX_UNPACKED_BYTES.min(RATIO_FLOOR_BYTES.max(packed * MAX_RATIO));
    let stream = Bounded { inner: Members::of(bytes), read: 0, limit };
    let mut archive = Archive::new(stream);
    let mut entries = Entries { limit, ..Entries::default() };
    // Raw: the crate would read a long name whole, however long it is.
    for entry in archive.entries().map_err(io_error)?.raw(true) {
        entries.take(entry.map_err(io_error)?)?;
    }
    check_rest(archive.into_inner())?;
    entries.finish()
}

fn check_format(bytes: &[u8]) -> Result<(), PackageError> {
    let refuse = |found, hint| Err(PackageError::Format { found, hint });
    match bytes {
        [0x1f, 0x8b, ..] => Ok(()),
        [0xfd, b'7', b'z', ..] => refuse("an xz archive", "compress it with gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => refuse("a zstd archive", "compress it with gzip"),
        _ if bytes.get(257..262) == Some(b"ustar") => refuse("a tar archive", "compress it with gzip"),
        _ => refuse("no gzip", "a package is a tar.gz with everything in one directory"),
    }
}

/// Behind the end of the archive is nothing: what some readers see and others do not is refused.
fn check_rest(mut rest: impl Read) -> Result<(), PackageError> {
    let mut buffer = [0; 8192];
    loop {
        match rest.read(&mut buffer).map_err(io_error)? {
            0 => return Ok(()),
            n if buffer[..n].iter().all(|b| *b == 0) => {}
            _ => {
                return Err(PackageError::Damaged {
                    reason: "there are bytes behind the end of the archive".into(),
                });
            }
        }
    }
}

#[derive(Default)]
struct Entries {
    top: Option<String>,
    files: Files,
    directories: BTreeMap<String, ()>,
    count: usize,
    /// Bytes that the headers promise so far, and how many they may.
    promised: u64,
    limit: u64,
    /// What was said of the entry that comes next.
    ahead: Ahead,
}

/// What entries of their own say of the entry behind them.
#[derive(Default)]
struct Ahead {
    /// GNU tar's long name.
    name: Option<Vec<u8>>,
    /// Pax records.
    pax: Option<Vec<u8>>,
}

impl Ahead {
    /// Takes such an entry, within its bound.
    fn take(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), PackageError> {
        let (slot, what, limit) = match entry.header().entry_type() {
            // With the zero byte at its end.
            EntryType::GNULongName => (&mut self.name, "bytes of a path", MAX_PATH_BYTES as u64 + 1),
            _ => (&mut self.pax, "bytes of pax records of an entry", MAX_PAX_BYTES),
        };
        if entry.size() > limit {
            return Err(PackageError::TooLarge { what, found: entry.size(), limit });
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(io_error)?;
        if bytes.len() as u64 != entry.size() {
            return Err(PackageError::Damaged { reason: format!("the {what} end early") });
        }
        match slot.replace(bytes) {
            None => Ok(()),
            Some(_) => Err(PackageError::Damaged { reason: "an entry is named twice".into() }),
        }
    }

    /// The path of the entry behind, which says this of itself.
    fn path(&self, own: &[u8]) -> Result<Vec<u8>, PackageError> {
        if let Some(name) = &self.name {
            return Ok(name.strip_suffix(b"\0").unwrap_or(name).to_vec());
        }
        let mut path = own.to_vec();
        for record in PaxExtensions::new(self.pax.as_deref().unwrap_or_default()) {
            let record = record.map_err(io_error)?;
            let key = record.key_bytes();
            // It would let two readers find different files in the same bytes.
            if key == b"size" || key.starts_with(b"GNU.sparse") {
                let path = String::from_utf8_lossy(&path).into_owned();
                return entry_error(
                    &path,
                    "a pax record that changes its size",
                    "pack it with plain tar headers",
                );
            }
            if key == b"path" {
                path = record.value_bytes().to_vec();
            }
        }
        Ok(path)
    }
}

fn entry_error<T>(path: &str, problem: &'static str, hint: &'static str) -> Result<T, PackageError> {
    let path = path.chars().take(MAX_PATH_BYTES).collect::<String>().escape_debug().to_string();
    Err(PackageError::Entry { path, problem, hint })
}

impl Entries {
    /// An entry, or what is said of the one behind it.
    fn take(&mut self, entry: tar::Entry<'_, impl Read>) -> Result<(), PackageError> {
        let header = entry.header();
        let known = header.as_gnu().is_some() || header.as_ustar().is_some();
        match header.entry_type() {
            EntryType::GNULongName | EntryType::XHeader if known => self.ahead.take(entry),
            _ => self.add(entry),
        }
    }

    fn add(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), PackageError> {
        let ahead = std::mem::take(&mut self.ahead);
        self.count += 1;
        if self.count > MAX_FILES {
            return Err(PackageError::TooLarge {
                what: "entries",
                found: self.count as u64,
                limit: MAX_FILES as u64,
            });
        }
        let kind = entry.header().entry_type();
        let raw = ahead.path(&entry.path_bytes())?;
        let path = String::from_utf8_lossy(&raw).into_owned();
        match kind {
            EntryType::Regular | EntryType::Directory => {}
            EntryType::Symlink | EntryType::Link | EntryType::GNULongLink => {
                return entry_error(&path, "a link", "put the file itself there");
            }
            _ => return entry_error(&path, "neither a file nor a directory", "remove it"),
        }
        let is_directory = kind == EntryType::Directory;
        let parts = components(&path, &raw, is_directory)?;
        let inside = self.inside(&path, &parts, is_directory)?;
        if is_directory {
            if self.directories.insert(inside.clone(), ()).is_some() || self.files.contains_key(&inside) {
                return entry_error(&path, "it is in the archive twice", "keep one");
            }
            return Ok(());
        }
        // Before anything of it is unpacked.
        self.promised = self.promised.saturating_add(entry.size());
        if self.promised > self.limit {
            let (found, limit) = (self.promised, self.limit);
            return Err(PackageError::TooLarge { what: "bytes when unpacked", found, limit });
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(io_error)?;
        if bytes.len() as u64 != entry.size() {
            return Err(PackageError::Damaged { reason: format!("`{path}` ends early") });
        }
        if self.directories.contains_key(&inside) || self.files.insert(inside, bytes).is_some() {
            return entry_error(&path, "it is in the archive twice", "keep one");
        }
        Ok(())
    }

    /// The path inside the one directory; empty for the directory itself.
    fn inside(&mut self, path: &str, parts: &[&str], is_directory: bool) -> Result<String, PackageError> {
        let (top, rest) = parts.split_first().map_or(("", parts), |(t, r)| (*t, r));
        if rest.is_empty() && !is_directory {
            return entry_error(
                path,
                "a file outside of the package's directory",
                "put everything into one directory",
            );
        }
        if self.top.get_or_insert_with(|| top.to_owned()) != top {
            return entry_error(path, "a second top-level directory", "put everything into one directory");
        }
        Ok(rest.join("/"))
    }

    fn finish(self) -> Result<Unpacked, PackageError> {
        if self.ahead.name.is_some() || self.ahead.pax.is_some() {
            return Err(PackageError::Damaged { reason: "behind a name comes no entry".into() });
        }
        for path in self.files.keys() {
            let mut parents = path.match_indices('/').map(|(i, _)| &path[..i]);
            if let Some(file) = parents.find(|p| self.files.contains_key(*p)) {
                return entry_error(file, "both a file and a directory", "keep one");
            }
        }
        match self.top {
            Some(name) => Ok(Unpacked { name, files: self.files }),
            None => Err(PackageError::Damaged { reason: "the archive is empty".into() }),
        }
    }
}

/// Characters that make a name look like another: without width, or turning the direction of what follows.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// A path's components; only one spelling of each path is accepted.
pub(crate) fn components<'a>(
    path: &'a str,
    raw: &[u8],
    is_directory: bool,
) -> Result<Vec<&'a str>, PackageError> {
    if raw != path.as_bytes() || path.chars().any(|c| c.is_control() || c == '\\' || is_invisible(c)) {
        return entry_error(
            path,
            "a name with control or invisible characters, backslashes or not in UTF-8",
            "rename it",
        );
    }
    if raw.len() > MAX_PATH_BYTES {
        return entry_error(path, "a path of more than 255 bytes", "shorten it");
    }
    if path.starts_with('/') {
        return entry_error(path, "an absolute path", "pack with relative paths");
    }
    if matches!(path.as_bytes(), [drive, b':', ..] if drive.is_ascii_alphabetic()) {
        return entry_error(path, "a path with a drive letter", "pack with relative paths");
    }
    let trimmed = if is_directory { path.strip_suffix('/').unwrap_or(path) } else { path };
    let parts: Vec<&str> = trimmed.split('/').collect();
    if parts.contains(&"..") {
        return entry_error(path, "a path that leads out of the package", "pack without `..`");
    }
    if parts.contains(&".") || parts.contains(&"") {
        return entry_error(
            path,
            "a path with `.` or empty components, which OSM refuses",
            "pack `name/…`, not `./name/…`",
        );
    }
    Ok(parts)
}

/// The one YAML file at the top of the package's directory.
pub(crate) fn descriptor_path(files: &Files) -> Result<String, PackageError> {
    let is_descriptor = |p: &&String| {
        let extension = std::path::Path::new(p.as_str()).extension().and_then(|e| e.to_str());
        !p.contains('/') && matches!(extension, Some("yaml" | "yml" | "json"))
    };
    let mut found = files.keys().filter(is_descriptor);
    let Some(path) = found.next() else {
        let hint = "put the descriptor (`….yaml`) at the top of the package's directory";
        return Err(PackageError::Missing { file: "*.yaml".into(), hint });
    };
    if let Some(other) = found.next() {
        return entry_error(
            other,
            "a second descriptor",
            "keep one YAML at the top; move others into a directory",
        );
    }
    if !path.ends_with(".yaml") && !path.ends_with(".yml") {
        return entry_error(path, "a descriptor in JSON, which OSM refuses", "write it as YAML");
    }
    Ok(path.clone())
}

/// An archive with everything but the signature, and its end.
pub(crate) fn write(name: &str, files: &Files) -> Result<Vec<u8>, PackageError> {
    let mut out = content(name, files)?;
    let signature = files.get(SIGNATURE).map(Vec::as_slice);
    out.extend(tail(name, signature)?);
    Ok(out)
}

/// The first gzip member: all files but the signature, sorted, with their directories.
pub(crate) fn content(name: &str, files: &Files) -> Result<Vec<u8>, PackageError> {
    let mut tar = Vec::new();
    let mut directories: Vec<String> = vec![String::new()];
    for (path, bytes) in files.iter().filter(|(p, _)| *p != SIGNATURE) {
        for (i, _) in path.match_indices('/') {
            if !directories.iter().any(|d| d == &path[..i]) {
                directories.push(path[..i].to_owned());
                directory(&mut tar, name, &path[..i])?;
            }
        }
        if tar.is_empty() {
            directory(&mut tar, name, "")?;
        }
        file(&mut tar, name, path, bytes)?;
    }
    gzip(&tar)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>, PackageError> {
    use std::io::Write as _;
    let mut out = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::new(6));
    out.write_all(bytes).and_then(|()| out.finish()).map_err(io_error)
}

/// The second gzip member; always the same bytes for the same signature.
pub(crate) fn tail(name: &str, signature: Option<&[u8]>) -> Result<Vec<u8>, PackageError> {
    let mut tar = Vec::new();
    if let Some(bytes) = signature {
        let parent = SIGNATURE.split('/').next().unwrap_or_default();
        directory(&mut tar, name, parent)?;
        file(&mut tar, name, SIGNATURE, bytes)?;
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    Ok(stored(&tar))
}

fn directory(tar: &mut Vec<u8>, name: &str, path: &str) -> Result<(), PackageError> {
    let full = if path.is_empty() { format!("{name}/") } else { format!("{name}/{path}/") };
    header(tar, &full, EntryType::Directory, 0, 0o755)
}

fn file(tar: &mut Vec<u8>, name: &str, path: &str, bytes: &[u8]) -> Result<(), PackageError> {
    // Images are executed or booted where the VIM is; everything else is read.
    let mode = if path.starts_with("images/") { 0o755 } else { 0o644 };
    header(tar, &format!("{name}/{path}"), EntryType::Regular, bytes.len() as u64, mode)?;
    tar.extend_from_slice(bytes);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    Ok(())
}

fn header(tar: &mut Vec<u8>, path: &str, kind: EntryType, size: u64, mode: u32) -> Result<(), PackageError> {
    let mut it = Header::new_ustar();
    if it.set_path(path).is_err() {
        return entry_error(path, "a path that a ustar header cannot hold", "shorten its names");
    }
    it.set_entry_type(kind);
    it.set_size(size);
    it.set_mode(mode);
    it.set_uid(0);
    it.set_gid(0);
    it.set_mtime(0);
    it.set_cksum();
    tar.extend_from_slice(it.as_bytes());
    Ok(())
}

/// A gzip member of stored blocks: RFC 1951 3.2.4, RFC 1952 2.3. The compressor's freedom is what this avoids.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = GZIP_HEADER.to_vec();
    let mut chunks = bytes.chunks(STORED_BLOCK).peekable();
    while let Some(chunk) = chunks.next() {
        let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
        out.push(u8::from(chunks.peek().is_none()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend_from_slice(chunk);
    }
    let mut crc = Crc::new();
    crc.update(bytes);
    out.extend(crc.sum().to_le_bytes());
    out.extend(crc.amount().to_le_bytes());
    out
}
