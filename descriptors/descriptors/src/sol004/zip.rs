//! The zip archive, read so that no two readers could find different files in it.
//!
//! `rawzip` finds the records; here is decided what is acceptable. Entries stand one behind the other from the first
//! byte to the central directory, without gaps or overlaps; local and central headers agree; sizes and CRCs are those
//! of the data; nothing is encrypted, linked, compressed otherwise than with deflate, or there twice.

use std::{collections::BTreeSet, io::Read as _};

use flate2::read::DeflateDecoder;
use rawzip::{CompressionMethod, ZipArchive, ZipFileHeaderRecord, ZipSliceArchive};

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

/// Reads an archive, all of it.
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
    let mut reader = Reader::new(&archive, limit);
    let mut entries = archive.entries();
    while let Some(entry) = entries.next_entry().map_err(|e| damaged("", &e))? {
        reader.entry(&entry)?;
    }
    reader.finish()
}

struct Reader<'a> {
    archive: &'a ZipSliceArchive<&'a [u8]>,
    files: Files,
    directories: BTreeSet<String>,
    spans: Vec<Span>,
    room: u64,
    limit: u64,
}

impl<'a> Reader<'a> {
    fn new(archive: &'a ZipSliceArchive<&'a [u8]>, limit: u64) -> Self {
        let (files, directories, spans) = (Files::new(), BTreeSet::new(), Vec::new());
        Self { archive, files, directories, spans, room: limit, limit }
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
        let bytes = self.data(entry, &path, is_directory)?;
        let known = self.directories.contains(&inside) || self.files.contains_key(&inside);
        if known {
            return Err(Sol004Error::Duplicate { entry: inside }.into());
        }
        if is_directory {
            self.directories.insert(inside);
        } else {
            self.files.insert(inside, bytes);
        }
        Ok(())
    }

    fn data(
        &mut self,
        entry: &ZipFileHeaderRecord<'_>,
        path: &str,
        is_directory: bool,
    ) -> Result<Vec<u8>, PackageError> {
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
        if is_directory && entry.uncompressed_size_hint() != 0 {
            return Err(damaged(path, "a directory with content"));
        }
        let expected = entry.uncompressed_size_hint();
        if expected > self.room {
            return Err(self.too_large());
        }
        let bytes = self.inflate(entry, found.data(), path)?;
        self.room = self.room.checked_sub(bytes.len() as u64).ok_or_else(|| self.too_large())?;
        let mut crc = flate2::Crc::new();
        crc.update(&bytes);
        if bytes.len() as u64 != expected || crc.sum() != entry.crc32() {
            return Err(damaged(path, "its size or CRC is not what the archive says"));
        }
        Ok(bytes)
    }

    fn too_large(&self) -> PackageError {
        PackageError::TooLarge { what: "bytes when unpacked", found: self.limit + 1, limit: self.limit }
    }

    fn inflate(
        &self,
        entry: &ZipFileHeaderRecord<'_>,
        data: &[u8],
        path: &str,
    ) -> Result<Vec<u8>, PackageError> {
        if entry.compression_method() == CompressionMethod::STORE {
            return Ok(data.to_vec());
        }
        let mut decoder = DeflateDecoder::new(data);
        let mut out = Vec::new();
        (&mut decoder).take(self.room + 1).read_to_end(&mut out).map_err(|e| damaged(path, e))?;
        if out.len() as u64 > self.room {
            return Err(self.too_large());
        }
        if decoder.total_in() != data.len() as u64 {
            return Err(damaged(path, "there are bytes behind its compressed data"));
        }
        Ok(out)
    }

    fn finish(mut self) -> Result<Files, PackageError> {
        if self.spans.len() as u64 != self.archive.entries_hint() {
            return Err(damaged("", "its directory has another number of entries than it says"));
        }
        self.spans.sort_by_key(|s| s.start);
        let mut at = 0;
        let mut gap_allowed = false;
        let end = (self.archive.directory_offset(), String::new(), false);
        let starts = self.spans.iter().map(|s| (s.start, s.path.clone(), s.descriptor));
        let mut ends = self.spans.iter().map(|s| s.data_end);
        for (start, path, descriptor) in starts.chain(std::iter::once(end)) {
            let gap = start.checked_sub(at).ok_or_else(|| damaged(&path, "it overlaps another entry"))?;
            let good = if gap_allowed { DESCRIPTOR_BYTES.contains(&gap) } else { gap == 0 };
            if !good {
                return Err(damaged(&path, "there are bytes before it that belong to no entry"));
            }
            at = ends.next().unwrap_or(at);
            gap_allowed = descriptor;
        }
        for path in self.files.keys() {
            let mut parents = path.match_indices('/').map(|(i, _)| &path[..i]);
            if let Some(file) = parents.find(|p| self.files.contains_key(*p)) {
                return Err(damaged(file, "it is both a file and a directory"));
            }
        }
        if self.files.is_empty() {
            return Err(damaged("", "it is empty"));
        }
        Ok(self.files)
    }
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
