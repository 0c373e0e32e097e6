//! Who signed a SOL004 package: CMS over the manifest (option 1) or over the whole CSAR (option 2), SOL004 5.
//!
//! Option 1 covers what the manifest names with a digest, so there every other file is refused; option 2 covers every
//! byte. A package with both must be good in both, by the same organisation.

use std::collections::BTreeSet;

use super::{Csar, Sol004Error, Wrapped};
use crate::pki::{
    Leaf, PkiError, chain,
    cms::{self, SignedData, Trust},
};

fn at(file: &str) -> impl Fn(PkiError) -> Sol004Error + '_ {
    move |source| Sol004Error::Signature { file: file.to_owned(), source }
}

/// The one signer of what may have several.
fn one(file: &str, mut signers: Vec<Leaf>) -> Result<Leaf, Sol004Error> {
    let last = signers.pop().ok_or_else(|| at(file)(PkiError::Cms("has no signer")))?;
    match signers.iter().find(|s| s.org != last.org) {
        Some(other) => Err(Sol004Error::OtherSigner {
            file: file.to_owned(),
            expected: last.org,
            found: other.org.clone(),
        }),
        None => Ok(last),
    }
}

/// Certificates of a file beside a signature: PEM, DER or PKCS #7.
fn certificates(file: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Sol004Error> {
    chain::from_file(bytes)
        .ok()
        .filter(|c| !c.is_empty())
        .map_or_else(|| cms::certificates_of(bytes), Ok)
        .map_err(|_| {
            at(file)(PkiError::Malformed {
                what: "the certificate",
                why: "neither PEM, DER nor PKCS #7".into(),
            })
        })
}

/// Verifies the signature beside a package (option 2).
pub fn beside(wrapped: &Wrapped, trust: Trust<'_>) -> Result<Option<Leaf>, Sol004Error> {
    let Some((file, bytes)) = &wrapped.cms else { return Ok(None) };
    let mut others = Vec::new();
    for (name, content) in &wrapped.certificates {
        others.extend(certificates(name, content)?);
    }
    let signed = SignedData::from_file(bytes).map_err(at(file))?;
    let signers = signed.verify(&[&wrapped.package], &others, trust).map_err(at(file))?;
    one(file, signers).map(Some)
}

/// Verifies the signature in the manifest (option 1), that it covers every file, and signatures of single files.
pub fn inside(csar: &Csar, trust: Trust<'_>) -> Result<Option<Leaf>, Sol004Error> {
    let Some((body, pem)) = &csar.manifest.signed else { return Ok(None) };
    let file = &csar.manifest_path;
    let signed = SignedData::from_pem(pem).map_err(at(file))?;
    let paths = certificate_paths(csar);
    let mut others = Vec::new();
    for path in &paths {
        others.extend(certificates(path, csar.file(path).unwrap_or_default())?);
    }
    let forms = signed_forms(body);
    let forms: Vec<&[u8]> = forms.iter().map(Vec::as_slice).collect();
    let signer = one(file, signed.verify(&forms, &others, trust).map_err(at(file))?)?;
    csar.check_covered(&paths)?;
    artifacts(csar, &signer, trust)?;
    Ok(Some(signer))
}

/// The certificate that `TOSCA.meta` names, or the one at the root beside the manifest with its name.
fn certificate_paths(csar: &Csar) -> BTreeSet<String> {
    let stem = csar.manifest_path.strip_suffix(".mf").unwrap_or(&csar.manifest_path);
    let beside = [".cert", ".crt", ".cer", ".pem"].map(|e| format!("{stem}{e}"));
    let named = csar.certificate_path.iter().cloned().chain(beside);
    named.filter(|p| csar.file(p).is_some()).collect()
}

/// What tools may have signed of the text before the signature. Signers add a line break between the two or not;
/// `openssl cms` without `-binary` signs with CRLF. Each form stands for one text only: a text that has CRs is taken
/// as it is.
fn signed_forms(body: &[u8]) -> Vec<Vec<u8>> {
    let mut out = vec![body.to_vec()];
    out.extend(body.strip_suffix(b"\n").map(<[u8]>::to_vec));
    if !body.contains(&b'\r') {
        let crlf = |text: &Vec<u8>| text.split(|b| *b == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..]);
        let translated: Vec<Vec<u8>> = out.iter().map(crlf).collect();
        out.extend(translated);
    }
    out
}

/// Signatures of single files: by the same organisation as the manifest's.
fn artifacts(csar: &Csar, signer: &Leaf, trust: Trust<'_>) -> Result<(), Sol004Error> {
    for (path, source) in &csar.manifest.sources {
        let Some(signature) = &source.signature else { continue };
        let (content, bytes) =
            (csar.file(path).unwrap_or_default(), csar.file(signature).unwrap_or_default());
        let others = match &source.certificate {
            Some(file) => certificates(file, csar.file(file).unwrap_or_default())?,
            None => Vec::new(),
        };
        let signed = SignedData::from_file(bytes).map_err(at(signature))?;
        let found = one(signature, signed.verify(&[content], &others, trust).map_err(at(signature))?)?;
        if found.org != signer.org {
            return Err(Sol004Error::OtherSigner {
                file: path.clone(),
                expected: signer.org.clone(),
                found: found.org,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signed_form_is_of_one_text() {
        assert_eq!(
            signed_forms(b"a\nb\n"),
            [b"a\nb\n".to_vec(), b"a\nb".to_vec(), b"a\r\nb\r\n".to_vec(), b"a\r\nb".to_vec()]
        );
        assert_eq!(signed_forms(b"a\r\nb\n"), [b"a\r\nb\n".to_vec(), b"a\r\nb".to_vec()]);
    }
}
