//! Mutual TLS 1.3 over TCP: only members of the organisations among the trust roots get as far as HTTP.
//!
//! Handshakes run beside each other, bounded in number and in time, so that a client that stalls holds nobody up. So are
//! connections, in all and for each certificate: who opens many and says nothing is in nobody's way but its own.
//! What handshakes are made with can be replaced while it listens ([`Renewal`]); connections that stand go on.
//! Tests: `tests/tls.rs`.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use trust::TrustRoots;

use super::caller::Peer;

/// Handshakes at once.
const MAX_HANDSHAKES: usize = 64;
/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once: each costs a socket, a task and some buffers.
pub const MAX_CONNECTIONS: usize = 1024;
/// Connections of one certificate at once: a person, or a program with all its streams.
pub const MAX_OF_ONE: usize = 64;
/// Finished handshakes that wait to be served.
const ARRIVALS: usize = 16;
/// Pause after the machine had no socket for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate or key that cannot be used.
    #[error("{what}: {reason}")]
    Material {
        /// Which.
        what: String,
        /// Why.
        reason: String,
    },
}

/// The one provider of cryptography for TLS.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The organisations' CAs.
pub fn root_store(roots: &TrustRoots) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for (org, root) in &roots.orgs {
        for pem in &root.ca {
            let bad = |reason: String| TlsError::Material { what: format!("the CA of `{org}`"), reason };
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
            store.add(der).map_err(|e| bad(e.to_string()))?;
        }
    }
    Ok(store)
}

/// A chain and its key, PEM.
pub fn identity(
    certificate_pem: &[u8],
    key_pem: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let bad = |what: &str, reason: String| TlsError::Material { what: what.to_owned(), reason };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate_pem)
        .collect::<Result<_, _>>()
        .map_err(|e| bad("the certificate", e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|e| bad("the key", e.to_string()))?;
    Ok((chain, key))
}

/// TLS for the server: who connects must have a certificate of one of the organisations.
pub fn server(roots: &TrustRoots, certificate_pem: &[u8], key_pem: &[u8]) -> Result<ServerConfig, TlsError> {
    server_for(root_store(roots)?, certificate_pem, key_pem)
}

/// TLS for a server whose clients have a certificate of one of these CAs.
pub fn server_for(
    clients: RootCertStore,
    certificate_pem: &[u8],
    key_pem: &[u8],
) -> Result<ServerConfig, TlsError> {
    let bad = |what: &str, reason: String| TlsError::Material { what: what.to_owned(), reason };
    let (chain, key) = identity(certificate_pem, key_pem)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider())
        .build()
        .map_err(|e| bad("the trust roots", e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| bad("TLS 1.3", e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| bad("the server's certificate", e.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// TLS for a server that knows its clients by what they send; TLS 1.2 too, for clients that are as old as what they talk to.
pub fn server_for_anybody(certificate_pem: &[u8], key_pem: &[u8]) -> Result<ServerConfig, TlsError> {
    let bad = |what: &str, reason: String| TlsError::Material { what: what.to_owned(), reason };
    let (chain, key) = identity(certificate_pem, key_pem)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("TLS", e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| bad("the server's certificate", e.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Whom connections are counted for, and who the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The certificate: no connection without one.
    ByCertificate,
    /// The address: there are no certificates.
    ByAddress,
}

/// Connections whose client has proven its certificate, or of anybody ([`TlsListener::bind_for_anybody`]).
#[derive(Debug)]
pub struct TlsListener {
    ready: mpsc::Receiver<(Held, Peer)>,
    address: SocketAddr,
    renewal: Renewal,
}

/// Replaces certificate, key and CAs of a listener.
#[derive(Clone)]
pub struct Renewal(Arc<RwLock<TlsAcceptor>>);

impl std::fmt::Debug for Renewal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Renewal")
    }
}

impl Renewal {
    /// Handshakes that begin from now on are made with this one; no session of the former is resumed.
    pub fn replace(&self, config: ServerConfig) {
        // An acceptor is put in whole: a panic elsewhere leaves nothing half done.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = TlsAcceptor::from(Arc::new(config));
    }

    fn acceptor(&self) -> TlsAcceptor {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl TlsListener {
    /// Listens; each certificate has up to [`MAX_OF_ONE`] connections.
    pub async fn bind(address: &str, config: ServerConfig) -> Result<Self, TlsError> {
        Self::bind_for(address, config, MAX_OF_ONE).await
    }

    /// Listens; each certificate has up to `of_one` connections.
    pub async fn bind_for(address: &str, config: ServerConfig, of_one: usize) -> Result<Self, TlsError> {
        Self::bound(address, config, (of_one, Known::ByCertificate)).await
    }

    /// Listens for clients without certificates; each address has up to `of_one` connections.
    pub async fn bind_for_anybody(
        address: &str,
        config: ServerConfig,
        of_one: usize,
    ) -> Result<Self, TlsError> {
        Self::bound(address, config, (of_one, Known::ByAddress)).await
    }

    async fn bound(address: &str, config: ServerConfig, who: (usize, Known)) -> Result<Self, TlsError> {
        let failed = |source| TlsError::Listen { address: address.to_owned(), source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let (send, ready) = mpsc::channel(ARRIVALS);
        let renewal = Renewal(Arc::new(RwLock::new(TlsAcceptor::from(Arc::new(config)))));
        tokio::spawn(accept(listener, renewal.clone(), send, who));
        Ok(Self { ready, address: bound, renewal })
    }

    /// To replace what handshakes are made with.
    #[must_use]
    pub fn renewal(&self) -> Renewal {
        self.renewal.clone()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Until nobody takes connections any more.
async fn accept(
    listener: TcpListener,
    renewal: Renewal,
    ready: mpsc::Sender<(Held, Peer)>,
    (of_one, known): (usize, Known),
) {
    let turns = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let places = Places::default();
    loop {
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // An answer is one small write: nothing to wait for.
        let _ = stream.set_nodelay(true);
        let (acceptor, ready, places) = (renewal.acceptor(), ready.clone(), places.clone());
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
            drop(turn);
            match shaken {
                Ok(Ok(stream)) => {
                    let (who, peer) = match known {
                        Known::ByCertificate => {
                            let Some(certificate) = certificate_of(&stream) else { return };
                            (certificate.clone(), Peer::Certificate(certificate))
                        }
                        Known::ByAddress => (from.ip().to_string().as_bytes().into(), Peer::Unknown),
                    };
                    let Some(place) = Place::take(&places, &who, of_one) else {
                        tracing::info!(%from, "too many connections");
                        return;
                    };
                    // Closed: the server has stopped.
                    let _ = ready.send((Held { stream, _place: place }, peer)).await;
                }
                Ok(Err(error)) => tracing::info!(%from, %error, "no TLS"),
                Err(_) => tracing::info!(%from, "the TLS handshake took too long"),
            }
        });
    }
}

fn certificate_of(stream: &TlsStream<TcpStream>) -> Option<Arc<[u8]>> {
    stream.get_ref().1.peer_certificates()?.first().map(|c| c.as_ref().into())
}

/// Connections by certificate.
type Places = Arc<Mutex<HashMap<Arc<[u8]>, usize>>>;

/// The right to a connection, given back when dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    certificate: Arc<[u8]>,
}

impl Place {
    fn take(places: &Places, certificate: &Arc<[u8]>, of_one: usize) -> Option<Self> {
        let mut held = places.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = held.values().sum();
        let own = held.entry(certificate.clone()).or_default();
        if all >= MAX_CONNECTIONS || *own >= of_one {
            return None;
        }
        *own += 1;
        Some(Self { places: places.clone(), certificate: certificate.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = held.get_mut(&self.certificate) {
            *own = own.saturating_sub(1);
        }
        held.retain(|_, n| *n > 0);
    }
}

/// A connection in its place.
#[derive(Debug)]
pub struct Held {
    stream: TlsStream<TcpStream>,
    _place: Place,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = Held;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The accepting task is gone, which happens only when the runtime ends.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(Peer::Local)
    }
}
