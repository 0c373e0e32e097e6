//! Lifecycle packages of chaincode that runs as a service: where the peers find it, and how they know it.
//!
//! A gzipped tar of `metadata.json` (type `ccaas`, label) and `code.tar.gz`, which has `connection.json` alone. Always the
//! same bytes for the same connection, stored and not compressed, so that every organisation that makes the package gets
//! the same id: label and SHA-256. Tests: below.

use std::io::{self, Write as _};

use flate2::{Compression, GzBuilder};
use serde::Serialize;
use tar::{Builder, EntryType, Header};
use trust::Digest;

/// Longest label.
const MAX_LABEL_BYTES: usize = 64;

/// How peers connect to the chaincode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connection {
    /// `host:port`.
    pub address: String,
    /// TLS; `None`: in the clear.
    pub tls: Option<Tls>,
}

/// TLS from peers to the chaincode. PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// CA of the chaincode's certificate.
    pub root: String,
    /// Certificate and key that the peers show; `None`: they show none.
    pub client: Option<(String, String)>,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The file.
    pub bytes: Vec<u8>,
    /// What the peers call it: `label:digest`.
    pub id: String,
}

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The label.
    #[error(
        "`{0}` is not a label: 1 to {MAX_LABEL_BYTES} letters, digits and `_.+-`, beginning with a letter or digit"
    )]
    Label(String),
    /// The address.
    #[error("`{0}` is not an address: give the host and port that the peers connect to, `host:port`")]
    Address(String),
    /// Making it.
    #[error("the package cannot be made")]
    Write(#[from] io::Error),
}

#[derive(Serialize)]
struct ConnectionJson<'a> {
    address: &'a str,
    dial_timeout: &'a str,
    tls_required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_auth_required: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_cert: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_cert: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key: Option<&'a str>,
}

#[derive(Serialize)]
struct MetadataJson<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    label: &'a str,
}

/// Makes a package.
pub fn build(label: &str, connection: &Connection) -> Result<Package, PackageError> {
    if !is_label(label) {
        return Err(PackageError::Label(label.to_owned()));
    }
    if !is_address(&connection.address) {
        return Err(PackageError::Address(connection.address.clone()));
    }
    let (tls, client) = (connection.tls.as_ref(), connection.tls.as_ref().and_then(|t| t.client.as_ref()));
    let json = ConnectionJson {
        address: &connection.address,
        dial_timeout: "10s",
        tls_required: tls.is_some(),
        client_auth_required: client.map(|_| true),
        root_cert: tls.map(|t| t.root.as_str()),
        client_cert: client.map(|c| c.0.as_str()),
        client_key: client.map(|c| c.1.as_str()),
    };
    let code = archive(&[("connection.json", &json_of(&json)?)])?;
    let metadata = json_of(&MetadataJson { kind: "ccaas", label })?;
    let bytes = archive(&[("metadata.json", &metadata), ("code.tar.gz", &code)])?;
    let id = format!("{label}:{}", Digest::of(&bytes).hex());
    Ok(Package { bytes, id })
}

fn is_label(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= MAX_LABEL_BYTES
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.+-".contains(&b))
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|p| p > 0)
    })
}

fn json_of(value: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

fn archive(files: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes)?;
    }
    // No name, no time, one operating system: whoever packs.
    let gzip = GzBuilder::new().mtime(0).operating_system(255);
    let mut gzip = gzip.write(Vec::new(), Compression::none());
    gzip.write_all(&builder.into_inner()?)?;
    gzip.finish()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use flate2::read::GzDecoder;

    use super::*;

    fn files(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(GzDecoder::new(bytes));
        let read = |entry: io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn a_package_has_what_peers_look_for_and_is_always_the_same() {
        let connection = Connection { address: "cc.example:9999".into(), tls: None };
        let it = build("mandate_1.0", &connection).unwrap();
        assert_eq!(it, build("mandate_1.0", &connection).unwrap());
        // Known: another program, or another version of the compressor, gives the same.
        assert_eq!(it.id, "mandate_1.0:88625e7acd265dcdadea258b98137ae45e8a8f7d11c756464b4a4b2725df6fbc");
        let outer = files(&it.bytes);
        assert_eq!(outer["metadata.json"], br#"{"type":"ccaas","label":"mandate_1.0"}"#);
        let inner = files(&outer["code.tar.gz"]);
        assert_eq!((outer.len(), inner.len()), (2, 1));
        let plain = br#"{"address":"cc.example:9999","dial_timeout":"10s","tls_required":false}"#;
        assert_eq!(inner["connection.json"], plain);
    }

    #[test]
    fn tls_is_told_whole() {
        let client = Some(("cert".to_owned(), "key".to_owned()));
        let tls = Some(Tls { root: "root".into(), client });
        let it = build("m", &Connection { address: "[::1]:7".into(), tls }).unwrap();
        let inner = files(&files(&it.bytes)["code.tar.gz"]);
        let json: serde_json::Value = serde_json::from_slice(&inner["connection.json"]).unwrap();
        assert_eq!(json["tls_required"], true);
        assert_eq!(json["client_auth_required"], true);
        assert_eq!([&json["root_cert"], &json["client_cert"], &json["client_key"]], ["root", "cert", "key"]);
    }

    #[test]
    fn bad_labels_and_addresses_are_refused() {
        let at = |address: &str| Connection { address: address.into(), tls: None };
        for label in ["", "-a", "a b", "a/b", "a:b", &"a".repeat(65)] {
            assert!(matches!(build(label, &at("h:1")), Err(PackageError::Label(_))), "{label}");
        }
        for address in ["", "host", "host:", ":1", "host:0", "host:65536", "a b:1"] {
            assert!(matches!(build("m", &at(address)), Err(PackageError::Address(_))), "{address}");
        }
    }
}
