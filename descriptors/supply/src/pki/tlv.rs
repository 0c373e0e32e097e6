//! ASN.1 tag, length, value: a strict DER cursor, and the one tolerance that the field needs.
//!
//! `openssl cms -stream` and BouncyCastle write BER: indefinite lengths and octet strings in pieces. [`to_der`] rewrites
//! such a structure as DER once, before anything is read; what is read afterwards is strict.

use std::borrow::Cow;

use super::error::{PkiError, malformed};

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTETS: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// `[0]`, constructed.
pub(crate) const CONTEXT_0: u8 = 0xa0;
/// `[1]`, constructed.
pub(crate) const CONTEXT_1: u8 = 0xa1;
/// `[0]`, primitive.
pub(crate) const CONTEXT_0_PRIMITIVE: u8 = 0x80;

const CONSTRUCTED: u8 = 0x20;
/// An octet string in pieces.
const OCTETS_IN_PIECES: u8 = OCTETS | CONSTRUCTED;
/// Deepest nesting; a CMS signature with a time stamp in it needs 20.
const MAX_DEPTH: usize = 40;

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tlv<'a> {
    pub tag: u8,
    pub value: &'a [u8],
    /// With tag and length.
    pub raw: &'a [u8],
}

/// Reads elements one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// `what` names the structure in errors.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn bad(&self, why: impl std::fmt::Display) -> PkiError {
        malformed(self.what)(&why)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn next(&mut self) -> Result<Tlv<'a>, PkiError> {
        let (tag, length, header) = head(self.rest).map_err(|why| self.bad(why))?;
        let length = length.ok_or_else(|| self.bad("an indefinite length inside of a definite one"))?;
        let minimal = header == 1 + length_bytes(length);
        let end = header.checked_add(length).filter(|end| *end <= self.rest.len());
        let Some(end) = end.filter(|_| minimal) else {
            return Err(self.bad("a length that is too large or not in its shortest form"));
        };
        let (raw, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(Tlv { tag, value: &raw[header..], raw })
    }

    pub(crate) fn expect(&mut self, tag: u8) -> Result<Tlv<'a>, PkiError> {
        let it = self.next()?;
        if it.tag == tag {
            Ok(it)
        } else {
            Err(self.bad(format!("tag {:#04x} where {tag:#04x} belongs", it.tag)))
        }
    }

    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Tlv<'a>>, PkiError> {
        if self.rest.first() == Some(&tag) { self.next().map(Some) } else { Ok(None) }
    }

    /// The elements of a SEQUENCE, SET or context tag.
    pub(crate) fn inside(&self, it: Tlv<'a>) -> Self {
        Self { rest: it.value, what: self.what }
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), PkiError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("bytes behind its end")) }
    }
}

/// Tag, length (`None`: indefinite) and the size of both.
fn head(bytes: &[u8]) -> Result<(u8, Option<usize>, usize), &'static str> {
    let [tag, first, rest @ ..] = bytes else { return Err("it ends early") };
    if tag & 0x1f == 0x1f {
        return Err("a tag of more than one byte");
    }
    match *first {
        0x80 => Ok((*tag, None, 2)),
        short if short < 0x80 => Ok((*tag, Some(usize::from(short)), 2)),
        long => {
            let count = usize::from(long & 0x7f);
            let Some(digits) = rest.get(..count).filter(|_| count <= 4) else {
                return Err("a length of more than four bytes");
            };
            let length = digits.iter().fold(0usize, |n, d| (n << 8) | usize::from(*d));
            Ok((*tag, Some(length), 2 + count))
        }
    }
}

/// Bytes of a length in its shortest form.
fn length_bytes(length: usize) -> usize {
    match length {
        0..=0x7f => 1,
        0x80..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xff_ffff => 4,
        _ => 5,
    }
}

/// Writes an element.
pub(crate) fn write(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    let count = length_bytes(value.len());
    let digits = value.len().to_be_bytes();
    if count == 1 {
        out.push(digits[digits.len() - 1]);
    } else {
        let marker = u8::try_from(count - 1).unwrap_or_default();
        out.push(0x80 | marker);
        out.extend_from_slice(&digits[digits.len() + 1 - count..]);
    }
    out.extend_from_slice(value);
}

/// The same structure in DER; as it is when nothing in its head says that it is BER.
pub(crate) fn to_der<'a>(bytes: &'a [u8], what: &'static str) -> Result<Cow<'a, [u8]>, PkiError> {
    let bad = malformed(what);
    let (_, length, _) = head(bytes).map_err(|why| bad(&why))?;
    if length.is_some() {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut out = Vec::with_capacity(bytes.len());
    let used = convert(bytes, &mut out, 0).map_err(|why| bad(&why))?;
    if used != bytes.len() {
        return Err(bad(&"bytes behind its end"));
    }
    Ok(Cow::Owned(out))
}

/// Converts one element; says how many bytes it took.
fn convert(bytes: &[u8], out: &mut Vec<u8>, depth: usize) -> Result<usize, &'static str> {
    if depth > MAX_DEPTH {
        return Err("nested too deeply");
    }
    let (tag, length, header) = head(bytes)?;
    if tag & CONSTRUCTED == 0 {
        let end = length.and_then(|n| header.checked_add(n)).filter(|e| *e <= bytes.len());
        let end = end.ok_or("a primitive element without a good length")?;
        write(tag, &bytes[header..end], out);
        return Ok(end);
    }
    let end = match length {
        Some(n) => Some(header.checked_add(n).filter(|e| *e <= bytes.len()).ok_or("it ends early")?),
        None => None,
    };
    let mut at = header;
    let mut inner = Vec::new();
    loop {
        match end {
            Some(end) if at == end => break,
            None if bytes[at..].starts_with(&[0, 0]) => {
                at += 2;
                break;
            }
            _ => at += convert(&bytes[at..end.unwrap_or(bytes.len())], &mut inner, depth + 1)?,
        }
    }
    if tag == OCTETS_IN_PIECES {
        write(OCTETS, &joined(&inner)?, out);
    } else {
        write(tag, &inner, out);
    }
    Ok(at)
}

/// The pieces of an octet string, which are DER by now.
fn joined(pieces: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut cursor = Cursor::new(pieces, "an octet string");
    let mut out = Vec::new();
    while !cursor.is_empty() {
        let piece = cursor.expect(OCTETS).map_err(|_| "an octet string in pieces of something else")?;
        out.extend_from_slice(piece.value);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn indefinite_lengths_and_pieces_become_der() {
        let ber = [0x30, 0x80, 0x24, 0x80, 4, 1, 0xaa, 4, 2, 0xbb, 0xcc, 0, 0, 2, 1, 5, 0, 0];
        let der = [0x30, 8, 4, 3, 0xaa, 0xbb, 0xcc, 2, 1, 5];
        assert_eq!(to_der(&ber, "it").unwrap().as_ref(), der);
        assert_eq!(to_der(&der, "it").unwrap().as_ref(), der);
        assert!(to_der(&ber[..ber.len() - 1], "it").is_err());
        assert!(to_der(&[&ber[..], &[0]].concat(), "it").is_err());
        assert!(to_der(&[0x30, 0x80].repeat(1000), "it").is_err());
    }

    #[test]
    fn lengths_are_the_shortest() {
        for n in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let mut out = Vec::new();
            write(OCTETS, &vec![7; n], &mut out);
            assert_eq!(Cursor::new(&out, "it").expect(OCTETS).unwrap().value.len(), n);
        }
        for bad in [&[4, 0x81, 1, 0][..], &[4, 2, 0], &[4, 0x85, 0, 0, 0, 0, 1, 0], &[0x1f, 1, 0], &[4]] {
            assert!(Cursor::new(bad, "it").next().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(der) = to_der(&bytes, "it") {
                let mut cursor = Cursor::new(&der, "it");
                while !cursor.is_empty() && cursor.next().is_ok() {}
            }
        }
    }
}
