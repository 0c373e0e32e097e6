//! The manifest (`.mf`): what the package is, each file with its digest, and in option 1 the signature over all of it.
//! SOL004 4.3.2.

use std::collections::BTreeMap;

use super::Sol004Error;
use crate::pki::Hash;

/// Largest manifest, bytes, its signature included.
pub const MAX_BYTES: usize = 4 << 20;
const BEGIN: &str = "-----BEGIN CMS-----";
const END: &str = "-----END CMS-----";

/// A file that the manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// Line of its first `Source:`.
    pub line: usize,
    /// Algorithm and digest (lower-case hex), and the line of the digest.
    pub hash: Option<(Hash, String, usize)>,
    /// `Signature:` path of a detached CMS signature of this file.
    pub signature: Option<String>,
    /// `Certificate:` path of the certificate of that signature.
    pub certificate: Option<String>,
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// `metadata:`, by key.
    pub metadata: BTreeMap<String, String>,
    /// Files in the package, by path.
    pub sources: BTreeMap<String, Source>,
    /// What it refers to elsewhere (URIs): not a part of the package.
    pub external: BTreeMap<String, Source>,
    /// The bytes before the signature, and the signature (PEM).
    pub signed: Option<(Vec<u8>, String)>,
}

struct Reader<'a> {
    file: &'a str,
    out: Manifest,
    section: String,
    current: Option<(String, Pending)>,
}

#[derive(Default)]
struct Pending {
    source: Source,
    algorithm: Option<(String, usize)>,
    digest: Option<(String, usize)>,
}

impl Manifest {
    /// Reads it. `file` is its path, for messages.
    pub fn read(bytes: &[u8], file: &str) -> Result<Self, Sol004Error> {
        let bad =
            |line, why: &str| Sol004Error::Manifest { file: file.to_owned(), line, why: why.to_owned() };
        if bytes.len() > MAX_BYTES {
            return Err(bad(0, &format!("it has {} bytes; at most {MAX_BYTES} are read", bytes.len())));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| bad(0, "it is not UTF-8 text"))?;
        let (body, signed) = split(text).map_err(|(line, why)| bad(line, why))?;
        let mut reader = Reader {
            file,
            out: Manifest { signed, ..Manifest::default() },
            section: String::new(),
            current: None,
        };
        for (line, n) in body.trim_start_matches('\u{feff}').lines().zip(1..) {
            reader.line(line, n)?;
        }
        reader.close()?;
        Ok(reader.out)
    }

    /// A value of `metadata:`, by the first of `names` that is there.
    #[must_use]
    pub fn meta(&self, names: &[&'static str]) -> Option<(&'static str, &str)> {
        names.iter().find_map(|n| self.metadata.get(*n).map(|v| (*n, v.as_str())))
    }
}

/// The text before the signature, and both as they are signed. Behind the signature is nothing.
#[expect(clippy::type_complexity, reason = "one caller, beside it")]
fn split(text: &str) -> Result<(&str, Option<(Vec<u8>, String)>), (usize, &'static str)> {
    let Some(at) = text.find(BEGIN) else { return Ok((text, None)) };
    let line = text[..at].lines().count() + 1;
    if !(at == 0 || text[..at].ends_with('\n')) {
        return Err((line, "the signature does not begin at the start of a line"));
    }
    let end = text[at..].find(END).ok_or((line, "the signature does not end"))? + at + END.len();
    if !text[end..].trim().is_empty() {
        return Err((line, "there is text behind the signature"));
    }
    let body = &text[..at];
    Ok((body, Some((body.as_bytes().to_vec(), text[at..end].to_owned()))))
}

impl Reader<'_> {
    fn bad(&self, line: usize, why: impl Into<String>) -> Sol004Error {
        Sol004Error::Manifest { file: self.file.to_owned(), line, why: why.into() }
    }

    fn line(&mut self, line: &str, n: usize) -> Result<(), Sol004Error> {
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(());
        }
        let Some((key, value)) = text.split_once(':') else {
            return Err(self.bad(n, "it is not `key: value`"));
        };
        let (key, value) = (key.trim(), unquoted(value.trim()));
        match key {
            "Source" => {
                self.close()?;
                self.current = Some((value.to_owned(), Pending::default()));
                self.pending(n)?.source.line = n;
            }
            "Algorithm" => self.once(n, key, |p| p.algorithm.replace((value.to_owned(), n)).is_some())?,
            "Hash" => self.once(n, key, |p| p.digest.replace((value.to_owned(), n)).is_some())?,
            "Signature" => self.once(n, key, |p| p.source.signature.replace(value.to_owned()).is_some())?,
            "Certificate" => {
                self.once(n, key, |p| p.source.certificate.replace(value.to_owned()).is_some())?;
            }
            _ if value.is_empty() => {
                self.close()?;
                if !line.starts_with([' ', '\t']) {
                    self.section = key.to_owned();
                }
            }
            _ if self.section == "metadata" && self.current.is_none() => self.metadata(key, value, n)?,
            _ if self.current.is_some() => return Err(self.bad(n, format!("`{key}` is no key of a Source"))),
            // Sections of later versions, for others to read.
            _ => {}
        }
        Ok(())
    }

    fn metadata(&mut self, key: &str, value: &str, n: usize) -> Result<(), Sol004Error> {
        match self.out.metadata.insert(key.to_owned(), value.to_owned()) {
            Some(_) => Err(self.bad(n, format!("`{key}` is there twice"))),
            None => Ok(()),
        }
    }

    fn pending(&mut self, n: usize) -> Result<&mut Pending, Sol004Error> {
        let bad = Sol004Error::Manifest {
            file: self.file.to_owned(),
            line: n,
            why: "it belongs to no Source".into(),
        };
        self.current.as_mut().map(|(_, p)| p).ok_or(bad)
    }

    fn once(
        &mut self,
        n: usize,
        key: &str,
        set: impl FnOnce(&mut Pending) -> bool,
    ) -> Result<(), Sol004Error> {
        let twice = set(self.pending(n)?);
        if twice { Err(self.bad(n, format!("`{key}` is there twice"))) } else { Ok(()) }
    }

    /// The source before is complete.
    fn close(&mut self) -> Result<(), Sol004Error> {
        let Some((path, mut it)) = self.current.take() else { return Ok(()) };
        let n = it.source.line;
        if path.is_empty() {
            return Err(self.bad(n, "an empty Source"));
        }
        it.source.hash = match (it.algorithm, it.digest) {
            (Some((algorithm, line)), Some((digest, at))) => {
                let by = self.file.to_owned();
                let hash = Hash::from_name(&algorithm).map_err(|_| Sol004Error::HashAlgorithm {
                    file: path.clone(),
                    algorithm,
                    by,
                    line,
                })?;
                let length = hash.digest(b"").len() * 2;
                if digest.len() != length || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(self.bad(at, format!("a Hash that is not {length} hexadecimal digits")));
                }
                Some((hash, digest.to_ascii_lowercase(), at))
            }
            (None, None) => None,
            _ => return Err(self.bad(n, "Algorithm and Hash belong together")),
        };
        self.insert(path, it.source)
    }

    /// A file may be listed once more as a non-MANO artifact, without a digest or with the same.
    fn insert(&mut self, path: String, source: Source) -> Result<(), Sol004Error> {
        let list = if path.contains("://") { &mut self.out.external } else { &mut self.out.sources };
        let Some(known) = list.get_mut(&path) else {
            list.insert(path, source);
            return Ok(());
        };
        let digest = |s: &Source| s.hash.as_ref().map(|(h, d, _)| (*h, d.clone()));
        let (old, new) = (digest(known), digest(&source));
        let again = source.signature.is_some() && known.signature.is_some();
        if again || (old.is_some() && new.is_some() && old != new) {
            let why =
                format!("`{path}` is listed a second time and otherwise (first in line {})", known.line);
            return Err(Sol004Error::Manifest { file: self.file.to_owned(), line: source.line, why });
        }
        known.hash = known.hash.take().or(source.hash);
        known.signature = known.signature.take().or(source.signature);
        known.certificate = known.certificate.take().or(source.certificate);
        Ok(())
    }
}

fn unquoted(value: &str) -> &str {
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    inner.or_else(|| value.strip_prefix('\'').and_then(|v| v.strip_suffix('\''))).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "09e5a788acb180162c51679ae4c998039fa6644505db2415e35107d1ee213943";

    fn read(text: &str) -> Result<Manifest, Sol004Error> {
        Manifest::read(text.as_bytes(), "a.mf")
    }

    #[test]
    fn reads_metadata_sources_sets_and_signature() {
        let text = format!(
            "metadata:\n  vnf_product_name: \"vMRF\"\n  vnf_release_date_time: 2017-01-01T10:00:00+03:00\n\n\
             Source: MRF.yaml\nAlgorithm: SHA-256\nHash: {HASH}\n\n\
             Source: https://example.org/scale.sh\nAlgorithm: SHA-256\nHash: {HASH}\n\n\
             non_mano_artifact_sets:\n  foo_bar:\n    Source: MRF.yaml\n\
             -----BEGIN CMS-----\nMGCG\n-----END CMS-----\n"
        );
        let it = read(&text).unwrap();
        assert_eq!(it.meta(&["vnf_product_name"]), Some(("vnf_product_name", "vMRF")));
        assert_eq!(it.metadata["vnf_release_date_time"], "2017-01-01T10:00:00+03:00");
        assert_eq!(it.sources["MRF.yaml"].hash, Some((Hash::Sha256, HASH.into(), 7)));
        assert_eq!(it.external.len(), 1);
        let (body, cms) = it.signed.unwrap();
        assert!(body.ends_with(b"Source: MRF.yaml\n"));
        assert!(cms.starts_with(BEGIN) && cms.ends_with(END));
    }

    #[test]
    fn refuses_with_the_line() {
        let line = |text: &str| match read(text).unwrap_err() {
            Sol004Error::Manifest { line, .. } | Sol004Error::HashAlgorithm { line, .. } => line,
            other => panic!("{other}"),
        };
        assert_eq!(line("metadata:\n a: 1\n a: 2\n"), 3);
        assert_eq!(line("Algorithm: SHA-256\n"), 1);
        assert_eq!(line("Source: a\nHash: 00\n"), 1);
        assert_eq!(line(&format!("Source: a\nAlgorithm: SHA-256\nHash: {HASH}0\n")), 3);
        for weak in ["MD5", "SHA-1", "SHA1", "SHA-224", "CRC32"] {
            let error = read(&format!("\nSource: a\nAlgorithm: {weak}\nHash: {HASH}\n")).unwrap_err();
            assert_eq!(error.code(), "SOL004_HASH_ALGORITHM");
            assert!(error.to_string().contains(weak), "{error}");
        }
        assert_eq!(
            line(&format!(
                "Source: a\nAlgorithm: SHA-256\nHash: {HASH}\nSource: a\nAlgorithm: SHA-512\nHash: {HASH}{HASH}\n"
            )),
            4
        );
        assert_eq!(line("a: b\n-----BEGIN CMS-----\n"), 2);
        assert_eq!(line("-----BEGIN CMS-----\n-----END CMS-----\nmore\n"), 1);
        assert_eq!(line("metadata\n"), 1);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([A-Za-z]{0,8}[:\n -]{1,3}){0,40}") {
            let _ = read(&text);
        }
    }
}
