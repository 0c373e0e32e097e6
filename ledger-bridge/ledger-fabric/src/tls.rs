//! TLS towards one organisation's peers: its own roots, and our certificate where they ask for one.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, pem, pem::PemObject as _},
    version::TLS13,
};
use trust::Digest;

/// Why a gateway cannot be used. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No host and port.
    #[error("`{0}` is not an address: give host:port")]
    Address(String),
    /// No name that a certificate has.
    #[error("`{name}` is no name of a server: give a host's name or an IP address")]
    Name {
        /// The name.
        name: String,
        /// Why.
        source: InvalidDnsNameError,
    },
    /// No PEM.
    #[error("cannot read the {what}: it must be PEM")]
    Pem {
        /// Which.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// Not a CA, or not our certificate's key.
    #[error("cannot use the {what}")]
    Tls {
        /// Which.
        what: &'static str,
        /// Why.
        source: rustls::Error,
    },
    /// No certificate at all.
    #[error("the TLS roots are empty: give the organisation's TLS CA")]
    NoRoots,
    /// A pool of none.
    #[error("there is no gateway: give the address of at least one peer")]
    NoGateways,
}

/// How a gateway is recognised, and we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// TLS CAs of the gateway's organisation, PEM. No other is trusted.
    pub roots_pem: Vec<u8>,
    /// For peers that ask for a certificate.
    pub client: Option<ClientTls>,
}

/// Our certificate for TLS, which is not the one that signs.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// Chain, PEM.
    pub chain_pem: Vec<u8>,
    /// Its key, PEM.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls")
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| OpenError::Pem { what, source })
}

/// SHA-256 of our certificate (DER), which binds a request for blocks to its connection; nothing where there is none.
pub(crate) fn client_hash(tls: &Tls) -> Result<Vec<u8>, OpenError> {
    let Some(client) = &tls.client else { return Ok(Vec::new()) };
    let chain = certificates("TLS certificate", &client.chain_pem)?;
    Ok(chain.first().map(|own| Digest::of(own).0.to_vec()).unwrap_or_default())
}

/// TLS 1.3 alone, which every 2.5 peer speaks.
pub(crate) fn config(tls: &Tls) -> Result<ClientConfig, OpenError> {
    let mut roots = RootCertStore::empty();
    for root in certificates("TLS roots", &tls.roots_pem)? {
        roots.add(root).map_err(|source| OpenError::Tls { what: "TLS roots", source })?;
    }
    if roots.is_empty() {
        return Err(OpenError::NoRoots);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| OpenError::Tls { what: "TLS 1.3", source })?
        .with_root_certificates(roots);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let chain = certificates("client's TLS certificate", &client.chain_pem)?;
            let key = PrivateKeyDer::from_pem_slice(&client.key_pem)
                .map_err(|source| OpenError::Pem { what: "client's TLS key", source })?;
            let made = builder.with_client_auth_cert(chain, key);
            made.map_err(|source| OpenError::Tls { what: "client's TLS certificate and key", source })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use trust::{UnixTime, issue::ca};

    use super::*;

    #[test]
    fn roots_and_client_certificates_are_read_before_anything_is_sent() {
        let made = |org| ca(org, &[1; 32], UnixTime(1_700_000_000), UnixTime(1_900_000_000)).unwrap();
        let (one, other) = (made("one"), ca("two", &[2; 32], UnixTime(0), UnixTime(1_900_000_000)).unwrap());
        let with = |roots: &str, client: Option<(&str, &str)>| {
            let client =
                client.map(|(chain, key)| ClientTls { chain_pem: chain.into(), key_pem: key.into() });
            config(&Tls { roots_pem: roots.into(), client })
        };
        let root = one.certificate_pem.as_str();
        assert_eq!(with(root, None).unwrap().alpn_protocols, [b"h2"]);
        assert!(with(root, Some((root, &one.key_pem))).unwrap().client_auth_cert_resolver.has_certs());
        assert!(matches!(with("", None), Err(OpenError::NoRoots)));
        let broken = root.replace("END", "AND");
        assert!(matches!(with(&broken, None), Err(OpenError::Pem { what: "TLS roots", .. })));
        assert!(matches!(with(root, Some((root, "no key"))), Err(OpenError::Pem { .. })));
        assert!(matches!(with(root, Some((root, &other.key_pem))), Err(OpenError::Tls { .. })));
    }
}
