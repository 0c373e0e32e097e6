//! Signed certificate timestamps (RFC 6962 3.2): the certificate is in a certificate transparency log.
//!
//! Fulcio embeds them. What the log signed is the certificate without them, and the hash of its issuer's key.

use der::{Decode as _, Encode as _};
use sha2::{Digest as _, Sha256};
use trust::UnixTime;
use x509_cert::Certificate;

use super::{SigstoreError, root::TrustedRoot};
use crate::pki::{
    PkiError,
    tlv::{self, Cursor},
};

/// `1.3.6.1.4.1.11129.2.4.2`.
const LIST: &[u8] = &[0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 2];
/// `[3]` of a `TBSCertificate`: its extensions.
const EXTENSIONS: u8 = 0xa3;
/// Most time stamps of a certificate.
const MAX_SCTS: usize = 8;

/// One is enough: by a log of the trusted root, whose key counted when it was made.
pub(super) fn verify(leaf: &[u8], issuers: &[Vec<u8>], root: &TrustedRoot) -> Result<(), SigstoreError> {
    if root.ct_logs.is_empty() {
        return Ok(());
    }
    let bad = |why: &str| SigstoreError::Sct(why.to_owned());
    let cert = Certificate::from_der(leaf).map_err(|_| bad("the certificate cannot be read"))?;
    let issuer = issuers
        .iter()
        .filter_map(|i| Certificate::from_der(i).ok())
        .find(|i| i.tbs_certificate().subject() == cert.tbs_certificate().issuer());
    let issuer = issuer.ok_or_else(|| bad("its issuer is not in the trusted root"))?;
    let spki =
        issuer.tbs_certificate().subject_public_key_info().to_der().map_err(|_| bad("the issuer's key"))?;
    let tbs = cert.tbs_certificate().to_der().map_err(|_| bad("the certificate cannot be written"))?;
    let (tbs, list) = without_list(&tbs)?;
    let list = list.ok_or_else(|| bad("it has none"))?;
    let good = read(&list).ok_or_else(|| bad("the list of them is malformed"))?.iter().any(|sct| {
        let key_hash: [u8; 32] = Sha256::digest(&spki).into();
        let message = sct.message(&key_hash, &tbs);
        let at = UnixTime(sct.time_ms / 1000);
        root.ct_logs.iter().any(|log| {
            log.id == sct.log
                && log.valid.contains(at)
                && log.key.verify(log.key.usual(), &message, &sct.signature).is_ok()
        })
    });
    if good { Ok(()) } else { Err(bad("none is by a log of the trusted root")) }
}

/// The `TBSCertificate` without the list, and the list.
fn without_list(tbs: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>), PkiError> {
    let mut outer = Cursor::new(tbs, "the certificate");
    let whole = outer.expect(tlv::SEQUENCE)?;
    let mut fields = outer.inside(whole);
    let (mut out, mut list) = (Vec::new(), None);
    while !fields.is_empty() {
        let field = fields.next()?;
        if field.tag != EXTENSIONS {
            out.extend_from_slice(field.raw);
            continue;
        }
        let mut wrapped = fields.inside(field);
        let sequence = wrapped.expect(tlv::SEQUENCE)?;
        let mut extensions = wrapped.inside(sequence);
        let mut kept = Vec::new();
        while !extensions.is_empty() {
            let extension = extensions.expect(tlv::SEQUENCE)?;
            let mut parts = extensions.inside(extension);
            if parts.expect(tlv::OID)?.value != LIST {
                kept.extend_from_slice(extension.raw);
                continue;
            }
            let octets = parts.expect(tlv::OCTETS)?;
            list = Some(Cursor::new(octets.value, "the list of SCTs").expect(tlv::OCTETS)?.value.to_vec());
        }
        let mut inner = Vec::new();
        tlv::write(tlv::SEQUENCE, &kept, &mut inner);
        tlv::write(EXTENSIONS, &inner, &mut out);
    }
    let mut tbs = Vec::new();
    tlv::write(tlv::SEQUENCE, &out, &mut tbs);
    Ok((tbs, list))
}

struct Sct {
    log: Vec<u8>,
    time_ms: u64,
    extensions: Vec<u8>,
    signature: Vec<u8>,
}

/// Bytes behind a length of two bytes.
fn vector(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn read(list: &[u8]) -> Option<Vec<Sct>> {
    let (mut rest, behind) = vector(list)?;
    let mut out = Vec::new();
    while !rest.is_empty() && out.len() < MAX_SCTS {
        let (one, next) = vector(rest)?;
        rest = next;
        // Version 1 is written as 0.
        let (0, one) = one.split_first().map(|(v, r)| (*v, r))? else { return None };
        let (log, one) = one.split_first_chunk::<32>()?;
        let (time, one) = one.split_first_chunk::<8>()?;
        let (extensions, one) = vector(one)?;
        // Hash and signature algorithm: the log's key says both.
        let (signature, end) = vector(one.get(2..)?)?;
        if !end.is_empty() {
            return None;
        }
        out.push(Sct {
            log: log.to_vec(),
            time_ms: u64::from_be_bytes(*time),
            extensions: extensions.to_vec(),
            signature: signature.to_vec(),
        });
    }
    behind.is_empty().then_some(out)
}

impl Sct {
    /// RFC 6962 3.2: version, `certificate_timestamp`, time, `precert_entry`, issuer, certificate, extensions.
    fn message(&self, issuer: &[u8; 32], tbs: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0];
        out.extend(self.time_ms.to_be_bytes());
        out.extend([0, 1]);
        out.extend(issuer);
        out.extend(&(tbs.len() as u64).to_be_bytes()[5..]);
        out.extend(tbs);
        out.extend(&(self.extensions.len() as u64).to_be_bytes()[6..]);
        out.extend(&self.extensions);
        out
    }
}
