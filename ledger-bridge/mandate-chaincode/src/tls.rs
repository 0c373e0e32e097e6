//! TLS of the server, from PEM files: none, the server's certificate, or both sides'.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use tokio_rustls::TlsAcceptor;

/// Where the files are.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// CA of the peers' certificates; `None`: they need none.
    pub client_ca: Option<PathBuf>,
}

/// Reads the files. TLS 1.3 alone, which every 2.5 peer speaks.
pub fn acceptor(files: &TlsFiles) -> anyhow::Result<TlsAcceptor> {
    let certificates = |path: &PathBuf| {
        let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        all.with_context(|| format!("cannot read the certificates in {}", path.display()))
    };
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("cannot read the key in {}", files.key.display()))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .context("TLS 1.3")?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).with_context(|| format!("cannot use a CA in {}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(
                verifier.with_context(|| format!("cannot use the CAs in {}", path.display()))?,
            )
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .with_context(|| format!("the key in {} is not the certificate's", files.key.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
