//! RFC 3161 time stamps: when somebody whom we trust saw some bytes.

use std::collections::BTreeSet;

use der::{Decode as _, asn1::ObjectIdentifier};
use trust::UnixTime;
use x509_cert::spki::AlgorithmIdentifierRef;

use super::{
    Anchor, Hash, PkiError, Purpose,
    cms::{SignedData, Trust},
    error::malformed,
    tlv::{self, Cursor},
};

const WHAT: &str = "the time stamp";
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
/// `granted` and `grantedWithMods`.
const GRANTED: [&[u8]; 2] = [&[0], &[1]];

/// What a `TSTInfo` says.
struct Info {
    hash: Hash,
    imprint: Vec<u8>,
    time: UnixTime,
}

/// Verifies a `TimeStampResp` or a bare token (DER) over `message`; returns the time it names. The authority's chain
/// must have been valid at that time. `certificates`: the authority's own, which tokens may leave out.
pub fn verify(
    bytes: &[u8],
    message: &[u8],
    anchors: &[Anchor],
    certificates: &[Vec<u8>],
) -> Result<UnixTime, PkiError> {
    let token = SignedData::parse(token(bytes)?)?;
    if token.content_type != TST_INFO {
        return Err(malformed(WHAT)(&"its content is no TSTInfo"));
    }
    let content = token.content.clone().ok_or_else(|| malformed(WHAT)(&"it has no content"))?;
    let info = info(&content)?;
    let found = info.hash.digest(message);
    if found != info.imprint {
        return Err(PkiError::OtherContent { signed: hex::encode(&info.imprint), found: hex::encode(found) });
    }
    let trust = Trust { anchors, revoked: &BTreeSet::new(), purpose: Purpose::Time, at: info.time };
    token.verify(&[&content], certificates, trust)?;
    Ok(info.time)
}

/// The token of a response; a token starts with an OID where a response has its status.
fn token(bytes: &[u8]) -> Result<&[u8], PkiError> {
    let mut outer = Cursor::new(bytes, WHAT);
    let response = outer.expect(tlv::SEQUENCE)?;
    outer.end()?;
    let mut response = outer.inside(response);
    let first = response.next()?;
    if first.tag == tlv::OID {
        return Ok(bytes);
    }
    let mut status = response.inside(first);
    if first.tag != tlv::SEQUENCE || !GRANTED.contains(&status.expect(tlv::INTEGER)?.value) {
        return Err(malformed(WHAT)(&"the authority did not grant it"));
    }
    let token = response.expect(tlv::SEQUENCE)?;
    response.end()?;
    Ok(token.raw)
}

fn info(content: &[u8]) -> Result<Info, PkiError> {
    let bad = malformed(WHAT);
    let mut outer = Cursor::new(content, WHAT);
    let it = outer.expect(tlv::SEQUENCE)?;
    outer.end()?;
    let mut it = outer.inside(it);
    if it.expect(tlv::INTEGER)?.value != [1] {
        return Err(bad(&"another version than 1"));
    }
    it.expect(tlv::OID)?;
    let imprint = it.expect(tlv::SEQUENCE)?;
    let mut imprint = it.inside(imprint);
    let algorithm =
        AlgorithmIdentifierRef::from_der(imprint.expect(tlv::SEQUENCE)?.raw).map_err(|e| bad(&e))?;
    let digest = imprint.expect(tlv::OCTETS)?;
    imprint.end()?;
    it.expect(tlv::INTEGER)?;
    let time = generalized(it.expect(tlv::TIME)?.value).ok_or_else(|| bad(&"its time cannot be read"))?;
    Ok(Info { hash: Hash::from_oid(&algorithm.oid)?, imprint: digest.value.to_vec(), time })
}

/// `YYYYMMDDhhmmss[.f…]Z`; fractions of a second are dropped (`der` refuses them).
fn generalized(value: &[u8]) -> Option<UnixTime> {
    let text = std::str::from_utf8(value).ok()?.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if whole.len() != 14 || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') || fraction.is_empty() {
        return None;
    }
    let number = |range: std::ops::Range<usize>| whole.get(range)?.parse::<u16>().ok();
    let byte = |range| number(range).and_then(|n| u8::try_from(n).ok());
    let at = der::DateTime::new(
        number(0..4)?,
        byte(4..6)?,
        byte(6..8)?,
        byte(8..10)?,
        byte(10..12)?,
        byte(12..14)?,
    );
    at.ok().map(|t| UnixTime(t.unix_duration().as_secs()))
}
