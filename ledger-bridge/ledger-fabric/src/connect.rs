//! Connections to a peer, and calls over them.

use std::{
    error::Error as _,
    io,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fabric::{
    gateway::{Code, NONCE_BYTES, Refusal, SignError},
    message::Timestamp,
};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    codegen::{
        BoxFuture, Service,
        http::uri::{Authority, PathAndQuery, Uri},
    },
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{
    gateway::Options,
    tls::{OpenError, client_hash, config},
};

/// Largest message, as the peers have it (`peer.maxRecvMsgSize`).
const MAX_MESSAGE_BYTES: usize = 100 << 20;
/// A peer that says nothing is asked so often whether it is there; Fabric's peers end a connection that asks more than
/// once in 60 s.
const PING_EVERY: Duration = Duration::from_secs(70);
/// And must answer within this.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes them, whatever the address asked for: there is one peer.
struct Connector {
    address: Arc<str>,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Connector {
    fn new(address: &str, name: ServerName<'static>, config: ClientConfig) -> Self {
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

/// A connection to one peer, made with the first call and again when it broke. Clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    grpc: Grpc<Channel>,
    tls_certificate: Vec<u8>,
}

impl Connection {
    /// Within a Tokio runtime. Nothing is sent.
    pub(crate) fn open(options: &Options) -> Result<Self, OpenError> {
        let Options { address, server_name, tls, deadlines } = options;
        let no_address = || OpenError::Address(address.clone());
        let authority: Authority = address.parse().map_err(|_| no_address())?;
        authority.port_u16().ok_or_else(no_address)?;
        let host = authority.host().trim_matches(['[', ']']);
        let name = server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|source| OpenError::Name { name: name.to_owned(), source })?;
        let connector = Connector::new(address, name, config(tls)?);
        let channel = Endpoint::from_shared(format!("https://{address}"))
            .map_err(|_| no_address())?
            .connect_timeout(deadlines.connect)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector);
        let grpc = Grpc::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { grpc, tls_certificate: client_hash(tls)? })
    }

    /// SHA-256 of our TLS certificate (DER), or nothing.
    pub(crate) fn tls_certificate(&self) -> &[u8] {
        &self.tls_certificate
    }

    /// One call with its deadline.
    pub(crate) async fn call<Q, A>(
        &self,
        method: &'static str,
        message: Q,
        deadline: Duration,
    ) -> Result<A, Refusal>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        within(method, deadline, async {
            let mut grpc = self.ready().await?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(Request::new(message), PathAndQuery::from_static(method), codec).await
        })
        .await
    }

    /// A call that is answered by a stream; the deadline is for its beginning.
    pub(crate) async fn stream<Q, A>(
        &self,
        method: &'static str,
        message: Q,
        deadline: Duration,
    ) -> Result<Streaming<A>, Refusal>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        within(method, deadline, async {
            let mut grpc = self.ready().await?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.server_streaming(Request::new(message), PathAndQuery::from_static(method), codec).await
        })
        .await
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|e| Status::unavailable(chain(&e)))?;
        Ok(grpc)
    }
}

/// What is answered in time. Without a timeout of gRPC's: when ours ends, the stream is reset, and so is what the peer does
/// for it.
async fn within<T>(
    method: &'static str,
    deadline: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Refusal> {
    match timeout(deadline, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refusal(&status)),
        Err(_) => Err(late(method, deadline)),
    }
}

pub(crate) fn late(method: &str, deadline: Duration) -> Refusal {
    let message = format!("no answer to {method} within {deadline:?}");
    Refusal { code: Code::DeadlineExceeded, message, details: Vec::new() }
}

/// Random and new.
pub(crate) fn nonce() -> Result<[u8; NONCE_BYTES], SignError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

/// What the gateway said, or what broke on the way.
pub(crate) fn refusal(status: &Status) -> Refusal {
    let message = match status.source() {
        None => status.message().to_owned(),
        Some(source) => chain(source),
    };
    Refusal::new(status.code().into(), message, status.details())
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}
/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
