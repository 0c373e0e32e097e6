//! The chaincode's gRPC server: peers connect, each stream is a [`Session`], and some threads run the transactions' code.
//!
//! Stopping is graceful: no connection and no transaction is taken any more, what runs comes to its end, then the streams
//! end. Peers connect again on the next transaction. Tests: `tests/stream.rs`, `tests/fabric.rs` (a real network).

mod listen;
mod stream;
mod work;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use fabric::{message::ChaincodeMessage, shim::EXECUTION_LIMIT};
use futures::Stream;
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;
use tonic::{
    Request, Response, Status, Streaming,
    codegen::{Body, BoxFuture, Service, StdError, http},
    server::StreamingService,
    transport::Server,
};
use tonic_prost::ProstCodec;
use trust::UnixTime;

use crate::Contract;
use work::Workers;

/// Largest message, as the peers have it (`peer.maxRecvMsgSize`).
const MAX_MESSAGE_BYTES: usize = 100 << 20;
/// A peer that says nothing is asked so often whether it is there; Fabric's peers allow no more.
const PING_EVERY: Duration = Duration::from_secs(60);
/// And must answer within this.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The one method.
const CONNECT: &str = "/protos.Chaincode/Connect";

/// What is served.
pub struct Options {
    /// Id of the chaincode's package, as the peers call it: `label:digest`.
    pub package_id: String,
    /// Where the peers connect to.
    pub listener: TcpListener,
    /// `None`: in the clear.
    pub tls: Option<TlsAcceptor>,
    /// The chaincode.
    pub contract: Contract,
    /// Threads that decide.
    pub threads: usize,
}

/// What all streams share.
struct Shared {
    package_id: String,
    contract: Contract,
    workers: Workers,
    stopping: watch::Receiver<bool>,
}

/// Serves until `stop`, and then until everything that runs has come to its end.
pub async fn serve(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let Options { package_id, listener, tls, contract, threads } = options;
    let (stopped, stopping) = watch::channel(false);
    let workers = Workers::start(threads).context("cannot start the threads that decide")?;
    let shared = Arc::new(Shared { package_id, contract, workers, stopping: stopping.clone() });
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .serve_with_incoming_shutdown(
            Chaincode(shared),
            listen::connections(listener, tls),
            until(stopping.clone()),
        );
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.context("the server ended"),
        () = stop => {}
    }
    tracing::info!("stopping: what runs comes to its end, nothing new is taken");
    stopped.send_replace(true);
    match tokio::time::timeout(EXECUTION_LIMIT, server).await {
        Ok(ended) => ended.context("the server ended"),
        Err(_) => {
            tracing::warn!("a peer keeps its connection; closed");
            Ok(())
        }
    }
}

async fn until(mut stopping: watch::Receiver<bool>) {
    // An error: who would say so is gone.
    drop(stopping.wait_for(|stop| *stop).await);
}

/// The wall clock.
fn now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// `protos.Chaincode`, by hand: one method (docs/adr/0030).
#[derive(Clone)]
struct Chaincode(Arc<Shared>);

/// Messages to a peer.
type Outgoing = Pin<Box<dyn Stream<Item = Result<ChaincodeMessage, Status>> + Send>>;

impl<B> Service<http::Request<B>> for Chaincode
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let it = self.clone();
        Box::pin(async move {
            if request.uri().path() != CONNECT {
                return Ok(
                    Status::unimplemented("this server has protos.Chaincode/Connect alone").into_http()
                );
            }
            let codec = ProstCodec::<ChaincodeMessage, ChaincodeMessage>::default();
            let mut grpc = tonic::server::Grpc::new(codec)
                .apply_max_message_size_config(Some(MAX_MESSAGE_BYTES), Some(MAX_MESSAGE_BYTES));
            Ok(grpc.streaming(it, request).await)
        })
    }
}

impl StreamingService<ChaincodeMessage> for Chaincode {
    type Response = ChaincodeMessage;
    type ResponseStream = Outgoing;
    type Future = BoxFuture<Response<Outgoing>, Status>;

    fn call(&mut self, request: Request<Streaming<ChaincodeMessage>>) -> Self::Future {
        let outgoing = stream::start(Arc::clone(&self.0), request.into_inner());
        Box::pin(std::future::ready(Ok(Response::new(outgoing))))
    }
}
