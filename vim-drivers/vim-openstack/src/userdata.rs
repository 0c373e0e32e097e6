//! What a server is booted with: the VDU's own cloud-init and the data plane's configuration document, in one MIME message that
//! cloud-init understands; and the document read out of it again.
//!
//! The document is a file in the guest, [`PATH`], which nothing but its bytes decides: the digest of what is read back is the
//! digest of what the server was booted with. The same input gives the same bytes. Tests: below.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use dataplane_control::Configuration;
use trust::Digest;

use crate::error::CloudError;

/// Where the guest finds its configuration document.
pub(crate) const PATH: &str = "/etc/mandate/configuration.json";
/// Longest user data that nova takes, bytes of Base64.
const MAX_BYTES: usize = 65_535;
/// The line before the document, in our part.
const MARK: &str = "#mandate configuration";
const CONTENT: &str = "    content: ";

/// A configuration document that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub digest: Digest,
    pub generation: Option<u64>,
}

/// The user data in Base64; `None`: there is nothing to say.
pub(crate) fn encode(configuration: &str, own: Option<&str>) -> Result<Option<String>, CloudError> {
    let text = match (configuration, own) {
        ("", None) => return Ok(None),
        ("", Some(own)) => own.to_owned(),
        (document, None) => ours(document),
        (document, Some(own)) => both(&ours(document), own),
    };
    let out = STANDARD.encode(text);
    if out.len() > MAX_BYTES {
        let problem =
            format!("its cloud-init and configuration are {} bytes; nova takes {MAX_BYTES}", out.len());
        return Err(CloudError::BadSpec { problem });
    }
    Ok(Some(out))
}

fn ours(document: &str) -> String {
    let content = STANDARD.encode(document);
    format!(
        "#cloud-config\n{MARK}\nwrite_files:\n  - path: {PATH}\n    owner: root:root\n    permissions: '0644'\n    \
         encoding: b64\n{CONTENT}{content}\n"
    )
}

fn both(ours: &str, own: &str) -> String {
    // A boundary that is in neither of them: it has their digest in it.
    let boundary = format!("mandate-{}", &Digest::of_parts([ours.as_bytes(), own.as_bytes()]).hex()[..24]);
    let part = |kind: &str, text: &str| {
        let body = STANDARD.encode(text);
        format!(
            "--{boundary}\nContent-Type: {kind}; charset=\"utf-8\"\nContent-Transfer-Encoding: base64\n\
             MIME-Version: 1.0\n\n{body}\n"
        )
    };
    // write_files of both are kept: cloud-init merges lists of configurations that say so.
    let ours = ours.replacen(
        MARK,
        &format!("{MARK}\nmerge_how: 'list(append)+dict(no_replace,recurse_list)+str()'"),
        1,
    );
    let parts = [part(kind_of(own), own), part("text/cloud-config", &ours)].concat();
    format!(
        "Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n{parts}--{boundary}--\n"
    )
}

/// What cloud-init takes a text for, by its first line.
fn kind_of(text: &str) -> &'static str {
    match text.lines().next().unwrap_or_default().trim_end() {
        line if line.starts_with("#!") => "text/x-shellscript",
        line if line.starts_with("#cloud-boothook") => "text/cloud-boothook",
        line if line.starts_with("#include") => "text/x-include-url",
        line if line.starts_with("## template: jinja") => "text/jinja2",
        _ => "text/cloud-config",
    }
}

/// The document in some user data.
pub(crate) fn decode(user_data: &str) -> Option<Found> {
    let text = text(user_data)?;
    let document = match text.starts_with("Content-Type: multipart/mixed") {
        false => document(&text),
        true => text.lines().filter_map(self::text).find_map(|part| document(&part)),
    };
    let document = document?;
    let generation = Configuration::parse(&document).ok().map(|c| c.generation);
    Some(Found { digest: Configuration::digest(&document), generation })
}

fn text(base64: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(base64.trim()).ok()?).ok()
}

fn document(part: &str) -> Option<Vec<u8>> {
    if !part.lines().any(|line| line == MARK) {
        return None;
    }
    STANDARD.decode(part.lines().find_map(|line| line.strip_prefix(CONTENT))?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DOCUMENT: &str = "{\"generation\": 1}";

    #[test]
    fn the_document_is_read_back_whatever_is_beside_it() {
        let digest = Configuration::digest(DOCUMENT.as_bytes());
        for own in [None, Some("#cloud-config\nusers: []\n"), Some("#!/bin/sh\necho content: x\n"), Some("")]
        {
            let made = encode(DOCUMENT, own).unwrap().unwrap();
            assert_eq!(decode(&made), Some(Found { digest, generation: None }), "{own:?}");
            assert_eq!(encode(DOCUMENT, own).unwrap().unwrap(), made);
        }
        assert_eq!(encode("", None).unwrap(), None);
        assert_eq!(decode(&encode("", Some("#!/bin/sh\n")).unwrap().unwrap()), None);
        for odd in ["", "x", "####", &STANDARD.encode([0xff; 9]), &STANDARD.encode(MARK)] {
            assert_eq!(decode(odd), None, "{odd}");
        }
    }

    #[test]
    fn what_nova_would_refuse_is_refused_with_its_size() {
        let error = encode(&"x".repeat(50_000), None).unwrap_err().to_string();
        assert!(error.contains("nova takes 65535"), "{error}");
    }

    #[test]
    fn cloud_init_takes_each_part_for_what_it_is() {
        assert_eq!(kind_of("#!/bin/sh"), "text/x-shellscript");
        assert_eq!(kind_of("#cloud-config\n"), "text/cloud-config");
        assert_eq!(kind_of("#cloud-boothook\n"), "text/cloud-boothook");
    }
}
