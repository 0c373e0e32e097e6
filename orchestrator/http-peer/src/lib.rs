//! What clients of foreign HTTP APIs share: TLS with a private CA, secrets in files, bounded answers, pauses between tries.
//!
//! It knows no API and makes no call of its own; what an answer means, and whether a call may be made again, is its
//! client's. Tests: below, and those of the clients.

mod secret;

pub use secret::Secret;

use std::{error::Error, fs, path::Path, sync::Arc, time::Duration};

use futures::StreamExt as _;
use reqwest::{Response, Url};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use rustls_platform_verifier::BuilderVerifierExt as _;

/// What is wrong with a configuration, and in which field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadConfig {
    /// Field.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// The error of a field.
pub fn bad<T>(field: &'static str, problem: impl Into<String>) -> Result<T, BadConfig> {
    Err(BadConfig { field, problem: problem.into() })
}

/// An HTTP client that trusts this CA (absent: those that browsers know) and follows no redirect: what we send goes
/// where it is sent and nowhere else.
pub fn client(
    ca: Option<&Path>,
    field: &'static str,
    timeout: Duration,
) -> Result<reqwest::Client, BadConfig> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls(ca, field)?)
        .timeout(timeout)
        .connect_timeout(timeout.min(Duration::from_secs(10)))
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("mandate/", env!("CARGO_PKG_VERSION")))
        .build()
        .or_else(|e| bad(field, format!("no HTTP client: {e}")))
}

fn tls(ca: Option<&Path>, field: &'static str) -> Result<ClientConfig, BadConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .or_else(|e| bad(field, format!("TLS: {e}")))?;
    let Some(path) = ca else {
        let builder = builder.with_platform_verifier();
        let builder =
            builder.or_else(|e| bad(field, format!("this machine's trusted CAs: {e}; name a CA file")))?;
        return Ok(builder.with_no_client_auth());
    };
    let trouble = |e: &dyn Error| BadConfig { field, problem: format!("{}: {e}", path.display()) };
    let pem = fs::read(path).map_err(|e| trouble(&e))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|e| trouble(&e))?).map_err(|e| trouble(&e))?;
    }
    if roots.is_empty() {
        return bad(field, format!("{} has no certificate (PEM)", path.display()));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// May this endpoint be asked? `allowed` is the name of the switch that says that plain HTTP is taken, and whether it is on.
pub fn encrypted(url: &Url, allowed: (&str, bool)) -> Result<(), String> {
    match url.scheme() {
        "https" => Ok(()),
        "http" if allowed.1 => Ok(()),
        "http" => Err(format!(
            "{url} is not TLS, and our token would cross the network readable: use an https endpoint, or say {} = true",
            allowed.0
        )),
        other => Err(format!("{url}: `{other}` is neither https nor http")),
    }
}

/// One part of a path or a query, escaped: what others named never becomes a path or a parameter of its own.
#[must_use]
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// An error with what is behind it, once each.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let (mut out, mut next) = (error.to_string(), error.source());
    while let Some(it) = next {
        let text = it.to_string();
        if !out.contains(&text) {
            out = format!("{out}: {text}");
        }
        next = it.source();
    }
    out
}

/// Why an answer was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// It broke off.
    #[error("{0}")]
    Lost(String),
    /// It has more bytes than anybody asked for.
    #[error("more than {0} bytes")]
    TooLong(usize),
}

/// At most so many bytes of an answer.
pub async fn bounded(answer: Response, most: usize) -> Result<Vec<u8>, Unread> {
    let (mut out, mut stream) = (Vec::new(), answer.bytes_stream());
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| Unread::Lost(chain(&e)))?;
        if out.len() + chunk.len() > most {
            return Err(Unread::TooLong(most));
        }
        out.extend_from_slice(&chunk);
    }
    Ok(out)
}

/// The pause before try `tries + 1`: doubled each time up to 256 times the first, and half of it random, so that many who
/// failed together do not come together.
#[must_use]
pub fn backoff(first: Duration, tries: u32) -> Duration {
    jittered(first * 2_u32.saturating_pow(tries.saturating_sub(1).min(8)))
}

/// Between a half and the whole of it.
#[must_use]
pub fn jittered(whole: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or_default() % 1000;
    whole / 2 + whole / 2 * random / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part_of_a_path() {
        assert_eq!(segment("a-b_1"), "a-b_1");
        assert_eq!(segment("../x?y#z"), "%2E%2E%2Fx%3Fy%23z");
        assert_eq!(segment("a&METHOD=DELETE"), "a%26METHOD%3DDELETE");
        assert_eq!(segment("ü"), "%C3%BC");
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let first = Duration::from_millis(250);
        for tries in 1..40 {
            let whole = first * 2_u32.pow(tries.min(9) - 1);
            assert!((whole / 2..=whole).contains(&backoff(first, tries)), "{tries}");
        }
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused() {
        let error = client(Some(Path::new("/dev/null")), "ca", Duration::from_secs(1)).err();
        assert!(error.is_some_and(|e| e.field == "ca" && e.problem.contains("no certificate")));
    }
}
