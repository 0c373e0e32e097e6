//! What a server is booted with: the VDU's own cloud-init with the data plane's configuration document where it asks for it
//! ([`dataplane_control::day0`]), or beside it in one MIME message; and the document read out of it again, whoever booted the
//! server.
//!
//! The document is a file in the guest, [`day0::PATH`], which nothing but its bytes decides: the digest of what is read back is the
//! digest of what the server was booted with. The same input gives the same bytes. Tests: below.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use dataplane_control::{Configuration, day0};
use serde::Deserialize;
use trust::Digest;

use crate::error::CloudError;

/// Longest user data that nova takes, bytes of Base64.
const MAX_BYTES: usize = 65_535;
/// First line of what cloud-init takes for its own configuration.
const CLOUD_CONFIG: &str = "#cloud-config";

/// A configuration document that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub digest: Digest,
    /// Whose it is.
    pub instance: Option<String>,
    pub generation: Option<u64>,
}

/// The user data in Base64; `None`: there is nothing to say.
pub(crate) fn encode(configuration: &str, own: Option<&str>) -> Result<Option<String>, CloudError> {
    let text = match (configuration, own) {
        ("", None) => return Ok(None),
        ("", Some(own)) => own.to_owned(),
        (document, None) => ours(document),
        (document, Some(own)) if day0::asks(own) => day0::render(own, &STANDARD.encode(document)),
        (document, Some(own)) => both(document, own),
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
    file(document, "")
}

fn file(document: &str, merge: &str) -> String {
    let (path, content) = (day0::PATH, STANDARD.encode(document));
    format!(
        "{CLOUD_CONFIG}\n{merge}write_files:\n  - path: {path}\n    owner: root:root\n    permissions: '0600'\n    encoding: b64\n    \
         content: {content}\n"
    )
}

fn both(document: &str, own: &str) -> String {
    // write_files of both are kept: cloud-init merges lists of configurations that say so.
    let ours = file(document, "merge_how: 'list(append)+dict(no_replace,recurse_list)+str()'\n");
    // A boundary that is in neither of them: it has their digest in it.
    let boundary = format!("mandate-{}", &Digest::of_parts([ours.as_bytes(), own.as_bytes()]).hex()[..24]);
    let part = |kind: &str, text: &str| {
        let body = STANDARD.encode(text);
        format!(
            "--{boundary}\nContent-Type: {kind}; charset=\"utf-8\"\nContent-Transfer-Encoding: base64\n\
             MIME-Version: 1.0\n\n{body}\n"
        )
    };
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
    let digest = Configuration::digest(&document);
    let read = Configuration::parse(&document).ok();
    Some(Found {
        digest,
        generation: read.as_ref().map(|c| c.generation),
        instance: read.map(|c| c.instance),
    })
}

fn text(base64: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(base64.trim()).ok()?).ok()
}

#[derive(Deserialize)]
struct Files {
    #[serde(default)]
    write_files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    path: String,
    #[serde(default)]
    encoding: String,
    #[serde(default)]
    content: String,
}

/// The document that a part of user data writes; the last one that is written counts.
fn document(part: &str) -> Option<Vec<u8>> {
    if !part.starts_with(CLOUD_CONFIG) || !part.contains(day0::PATH) {
        return None;
    }
    // What OSM appends may say a key of the file's own again.
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
    let files: Files = serde_saphyr::from_str_with_options(part, options).ok()?;
    let file = files.write_files.into_iter().rev().find(|f| f.path == day0::PATH)?;
    match file.encoding.as_str() {
        "b64" | "base64" => STANDARD.decode(file.content.trim()).ok(),
        "" | "text/plain" => Some(file.content.into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DOCUMENT: &str = "{\"generation\": 1}";

    #[test]
    fn the_document_is_read_back_whatever_is_beside_it() {
        let digest = Configuration::digest(DOCUMENT.as_bytes());
        let asks = "#cloud-config\nwrite_files:\n- path: /etc/mandate/dataplane.json\n  encoding: b64\n  content: '{{ mandate_day0[OSM.count_index] }}'\n";
        for own in [
            None,
            Some("#cloud-config\nusers: []\n"),
            Some("#!/bin/sh\necho content: x\n"),
            Some(""),
            Some(asks),
        ] {
            let made = encode(DOCUMENT, own).unwrap().unwrap();
            assert_eq!(decode(&made), Some(Found { digest, generation: None, instance: None }), "{own:?}");
            assert_eq!(encode(DOCUMENT, own).unwrap().unwrap(), made);
        }
        assert_eq!(encode("", None).unwrap(), None);
        assert_eq!(decode(&encode("", Some("#!/bin/sh\n")).unwrap().unwrap()), None);
        for odd in ["", "x", "####", &STANDARD.encode([0xff; 9]), &STANDARD.encode(CLOUD_CONFIG)] {
            assert_eq!(decode(odd), None, "{odd}");
        }
    }

    /// As RO appends it (kube-nfv/RO, RO-plugin, vimconn.py `_create_user_data`).
    const APPENDED: &str = "\nmerge_how:\n-   name: list\n    settings:\n    - append\n    - recurse_dict\n    - recurse_list\n-   name: dict\n    settings:\n    - no_replace\n    - recurse_list\n    - recurse_dict\n";

    #[test]
    fn what_osm_made_of_the_same_file_has_the_same_document() {
        let own = "#cloud-config\nmerge_how: str()\nwrite_files:\n- {path: /x, content: y}\n- path: /etc/mandate/dataplane.json\n  \
                   permissions: '0600'\n  encoding: b64\n  content: '{{ mandate_day0[OSM.count_index] }}'\n";
        let ours = text(&encode(DOCUMENT, Some(own)).unwrap().unwrap()).unwrap();
        let theirs = format!("{ours}{APPENDED}");
        let found = Some(Found {
            digest: Configuration::digest(DOCUMENT.as_bytes()),
            generation: None,
            instance: None,
        });
        assert_eq!(decode(&STANDARD.encode(&ours)), found);
        assert_eq!(decode(&STANDARD.encode(theirs)), found);
        assert!(ours.ends_with("'eyJnZW5lcmF0aW9uIjogMX0='"), "{ours}");
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
