//! Connections to a peer.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::codegen::{BoxFuture, Service, http::Uri};

/// Makes them, whatever the address asked for: there is one peer.
pub(crate) struct Connector {
    address: Arc<str>,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Connector {
    pub(crate) fn new(address: &str, name: ServerName<'static>, config: ClientConfig) -> Self {
        Self { address: address.into(), name, tls: TlsConnector::from(Arc::new(config)) }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<Self::Response, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (address, name, tls) = (Arc::clone(&self.address), self.name.clone(), self.tls.clone());
        Box::pin(async move {
            let socket = TcpStream::connect(&*address).await?;
            socket.set_nodelay(true)?;
            Ok(TokioIo::new(tls.connect(name, socket).await?))
        })
    }
}
