//! The client's side of mutual TLS: who we are, and whether it is our orchestrator that answers.
//!
//! A server is accepted when its certificate is of an organisation among the trust roots and either says the role
//! `orchestrator` or names the host that was asked for. So the certificate that signs evidence can serve, which names
//! no host, and so can an ordinary server certificate.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use trust::TrustRoots;

use crate::api::tls::{identity, provider, root_store};

pub use crate::api::tls::TlsError;

/// Who we are, and whom we believe.
#[derive(Debug, Clone, Copy)]
pub struct ServerIdentity<'a> {
    /// Our certificate, PEM.
    pub certificate_pem: &'a str,
    /// Its key, PEM.
    pub key_pem: &'a str,
    /// The organisations.
    pub roots: &'a TrustRoots,
}

fn bad(what: &str, reason: impl std::fmt::Display) -> TlsError {
    TlsError::Material { what: what.to_owned(), reason: reason.to_string() }
}

/// For a UNIX socket: the HTTP client wants to know which TLS it does not use.
pub(super) fn none() -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    let config = config.map_err(|e| bad("TLS 1.3", e))?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

pub(super) fn config(who: &ServerIdentity<'_>) -> Result<ClientConfig, TlsError> {
    let (chain, key) = identity(who.certificate_pem.as_bytes(), who.key_pem.as_bytes())?;
    let named = WebPkiServerVerifier::builder_with_provider(Arc::new(root_store(who.roots)?), provider());
    let named = named.build().map_err(|e| bad("the trust roots", e))?;
    let verifier = Arc::new(Orchestrator { named, roots: who.roots.clone() });
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| bad("TLS 1.3", e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .map_err(|e| bad("the client's certificate", e))
}

/// The TLS error at the bottom of another one: I/O errors carry theirs inside instead of naming it as their source.
pub(super) fn error<'a>(outer: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    let mut next = Some(outer);
    while let Some(it) = next {
        if let Some(found) = it.downcast_ref::<Error>() {
            return Some(found);
        }
        let inside = it.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inside {
            Some(inner) => Some(inner),
            None => it.source(),
        };
    }
    None
}

#[derive(Debug)]
struct Orchestrator {
    named: Arc<WebPkiServerVerifier>,
    roots: TrustRoots,
}

impl ServerCertVerifier for Orchestrator {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let at = trust::UnixTime(now.as_secs());
        match self.roots.verify(end_entity, at) {
            Ok(identity) if identity.role() == "orchestrator" => Ok(ServerCertVerified::assertion()),
            _ => self.named.verify_server_cert(end_entity, intermediates, server_name, ocsp, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.named.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.named.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.named.supported_verify_schemes()
    }
}
