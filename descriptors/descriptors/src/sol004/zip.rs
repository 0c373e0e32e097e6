//! The zip archive, read so that no two readers could find different files in it.
//!
//! `rawzip` finds the records; here is decided what is acceptable. Entries stand one behind the other from the first
//! byte to the central directory, without gaps or overlaps; local and central headers agree; sizes and CRCs are those
//! of the data; nothing is encrypted, linked, compressed otherwise than with deflate, or there twice.

use std::{collections::BTreeMap, io::Read as _};

use flate2::read::DeflateDecoder;
use rawzip::{CompressionMethod, ZipArchive, ZipArchiveEntryWayfinder, ZipFileHeaderRecord, ZipSliceArchive};

use super::Sol004Error;
use crate::{
    package::{
        MAX_FILES, MAX_PACKAGE_BYTES, MAX_RATIO, MAX_UNPACKED_BYTES, PackageError, RATIO_FLOOR_BYTES,
        components,
    },
    parse::Files,
};

/// Sizes of a data descriptor: with or without its signature, of a 32-bit or a zip64 entry.
const DESCRIPTOR_BYTES: [u64; 4] = [12, 16, 20, 24];
/// File types in the upper bits of a UNIX mode.
const TYPE_MASK: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

fn damaged(entry: &str, why: impl std::fmt::Display) -> PackageError {
    let entry = entry.chars().take(255).collect::<String>().escape_debug().to_string();
    Sol004Error::Archive { entry, why: why.to_string() }.into()
}

/// Where an entry is, for the check that they fill the archive.
struct Span {
    start: u64,
    data_end: u64,
    descriptor: bool,
    path: String,
}

/// An entry whose headers are good: what is unpacked then.
struct Planned {
    /// As it is in the archive, for messages.
    path: String,
    inside: String,
    place: ZipArchiveEntryWayfinder,
    stored: bool,
    size: u64,
    crc: u32,
}

/// Reads an archive, all of it.
///
/// In two passes: nothing is unpacked before every header is good, and together they promise no more than the bound.
/// So entries that share their data, and sizes beyond the bound, cost nothing.
pub(super) fn read(bytes: &[u8]) -> Result<Files, PackageError> {
    let size = bytes.len() as u64;
    if size > MAX_PACKAGE_BYTES {
        return Err(PackageError::TooLarge { what: "bytes", found: size, limit: MAX_PACKAGE_BYTES });
    }
    let archive = ZipArchive::from_slice(bytes).map_err(|e| damaged("", &e))?;
    if archive.end_offset() != size {
        return Err(damaged("", "there are bytes behind its end"));
    }
    let limit = MAX_UNPACKED_BYTES.min(RATIO_FLOOR_BYTES.max(size * MAX_RATIO));
    let mut plan = Plan::new(&archive, limit);
    let mut entries = archive.entries();
    while let Some(entry) = entries.next_entry().map_err(|e| damaged("", &e))? {
        plan.entry(&entry)?;
    }
    let planned = plan.finish()?;
    planned.into_iter().map(|it| Ok((it.inside.clone(), unpack(&archive, &it)?))).collect()
}

/// What the headers say.
struct Plan<'a> {
    archive: &'a ZipSliceArchive<&'a [u8]>,
    files: Vec<Planned>,
    names: BTreeMap<String, Kind>,
    spans: Vec<Span>,
    promised: u64,
    limit: u64,
}

#[derive(PartialEq, Eq)]
enum Kind {
    File,
    Directory,
}

impl<'a> Plan<'a> {
    fn new(archive: &'a ZipSliceArchive<&'a [u8]>, limit: u64) -> Self {
        Self { archive, files: Vec::new(), names: BTreeMap::new(), spans: Vec::new(), promised: 0, limit }
    }

    fn entry(&mut self, entry: &ZipFileHeaderRecord<'_>) -> Result<(), PackageError> {
        if self.spans.len() >= MAX_FILES {
            let found = self.archive.entries_hint().max(MAX_FILES as u64 + 1);
            return Err(PackageError::TooLarge { what: "entries", found, limit: MAX_FILES as u64 });
        }
        let raw = entry.file_path();
        let raw: &[u8] = raw.as_bytes();
        let path = String::from_utf8_lossy(raw).into_owned();
        let is_directory = path.ends_with('/');
        let inside = components(&path, raw, is_directory)?.join("/");
        check_kind(entry, &path, is_directory)?;
        self.headers(entry, &path)?;
        let size = entry.uncompressed_size_hint();
        if is_directory && size != 0 {
            return Err(damaged(&path, "a directory with content"));
        }
        self.promise(size)?;
        let kind = if is_directory { Kind::Directory } else { Kind::File };
        if self.names.insert(inside.clone(), kind).is_some() {
            return Err(Sol004Error::Duplicate { entry: inside }.into());
        }
        let stored = entry.compression_method() == CompressionMethod::STORE;
        let planned = Planned { path, inside, place: entry.wayfinder(), stored, size, crc: entry.crc32() };
        self.files.extend((!is_directory).then_some(planned));
        Ok(())
    }

    /// The local header says the same, and where the data is.
    fn headers(&mut self, entry: &ZipFileHeaderRecord<'_>, path: &str) -> Result<(), PackageError> {
        let found = self.archive.get_entry(entry.wayfinder()).map_err(|e| damaged(path, &e))?;
        let local = found.local_header();
        let (start, data_end) = (entry.local_header_offset(), found.compressed_data_range().1);
        let descriptor = entry.flags().has_data_descriptor();
        self.spans.push(Span { start, data_end, descriptor, path: path.to_owned() });
        let same_name = local.file_path().as_bytes() == entry.file_path().as_bytes();
        let same_sizes = local.compressed_size_hint() == entry.compressed_size_hint()
            && local.uncompressed_size_hint() == entry.uncompressed_size_hint()
            && local.crc32() == entry.crc32();
        let zero = local.compressed_size_hint() == 0 && local.crc32() == 0;
        if !same_name
            || local.compression_method() != entry.compression_method()
            || local.flags().has_data_descriptor() != descriptor
            || !(same_sizes || (descriptor && zero))
        {
            return Err(damaged(path, "its two headers differ"));
        }
        Ok(())
    }

    fn promise(&mut self, size: u64) -> Result<(), PackageError> {
        self.promised = self.promised.saturating_add(size);
        if self.promised > self.limit {
            let (found, limit) = (self.promised, self.limit);
            return Err(PackageError::TooLarge { what: "bytes when unpacked", found, limit });
        }
        Ok(())
    }

    /// The files, when the entries fill the archive and none is inside another.
    fn finish(mut self) -> Result<Vec<Planned>, PackageError> {
        if self.spans.len() as u64 != self.archive.entries_hint() {
            return Err(damaged("", "its directory has another number of entries than it says"));
        }
        self.check_spans()?;
        for path in self.names.keys() {
            let mut parents = path.match_indices('/').map(|(i, _)| &path[..i]);
            if let Some(file) = parents.find(|p| self.names.get(*p) == Some(&Kind::File)) {
                return Err(damaged(file, "it is both a file and a directory"));
            }
        }
        if self.files.is_empty() {
            return Err(damaged("", "it is empty"));
        }
        Ok(self.files)
    }

    fn check_spans(&mut self) -> Result<(), PackageError> {
        self.spans.sort_by_key(|s| s.start);
        let mut at = 0;
        let mut gap_allowed = false;
        let end = (self.archive.directory_offset(), "", false);
        let starts = self.spans.iter().map(|s| (s.start, s.path.as_str(), s.descriptor));
        let mut ends = self.spans.iter().map(|s| s.data_end);
        for (start, path, descriptor) in starts.chain(std::iter::once(end)) {
            let gap = start.checked_sub(at).ok_or_else(|| damaged(path, "it overlaps another entry"))?;
            let good = if gap_allowed { DESCRIPTOR_BYTES.contains(&gap) } else { gap == 0 };
            if !good {
                return Err(damaged(path, "there are bytes before it that belong to no entry"));
            }
            at = ends.next().unwrap_or(at);
            gap_allowed = descriptor;
        }
        Ok(())
    }
}

/// The data of an entry: as long as it promises, with the CRC that it promises.
fn unpack(archive: &ZipSliceArchive<&[u8]>, it: &Planned) -> Result<Vec<u8>, PackageError> {
    let data = archive.get_entry(it.place).map_err(|e| damaged(&it.path, &e))?.data();
    let bytes = if it.stored { data.to_vec() } else { inflate(data, it)? };
    let mut crc = flate2::Crc::new();
    crc.update(&bytes);
    if bytes.len() as u64 != it.size || crc.sum() != it.crc {
        return Err(damaged(&it.path, "its size or CRC is not what the archive says"));
    }
    Ok(bytes)
}

fn inflate(data: &[u8], it: &Planned) -> Result<Vec<u8>, PackageError> {
    let mut decoder = DeflateDecoder::new(data);
    let mut out = Vec::new();
    // One byte more than it promises shows that it lies.
    (&mut decoder).take(it.size.saturating_add(1)).read_to_end(&mut out).map_err(|e| damaged(&it.path, e))?;
    if out.len() as u64 == it.size && decoder.total_in() != data.len() as u64 {
        return Err(damaged(&it.path, "there are bytes behind its compressed data"));
    }
    Ok(out)
}

fn check_kind(entry: &ZipFileHeaderRecord<'_>, path: &str, is_directory: bool) -> Result<(), PackageError> {
    let flags = entry.flags();
    if flags.is_encrypted() || flags.has_strong_encryption() {
        return Err(damaged(path, "it is encrypted"));
    }
    let method = entry.compression_method();
    if method != CompressionMethod::STORE && method != CompressionMethod::DEFLATE {
        return Err(damaged(path, format!("it is compressed with {method:?}: only deflate is read")));
    }
    let kind = if entry.version_made_by().creator_system() == rawzip::CreatorSystem::UNIX {
        (entry.external_attributes() >> 16) & TYPE_MASK
    } else {
        0
    };
    let expected = if is_directory { DIRECTORY } else { REGULAR };
    if kind != 0 && kind != expected {
        return Err(damaged(path, "it is a link or a device: put the file itself there"));
    }
    Ok(())
}
