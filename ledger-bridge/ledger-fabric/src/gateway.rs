//! The calls.

use std::{
    error::Error as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fabric::{
    gateway::{
        Call, Code, CommitError, Committed, Creator, EndorseError, Endorsed, EvaluateError, NONCE_BYTES,
        Proposed, Refusal, SignError, SubmitError, Submitted,
    },
    message::{Response, Timestamp},
};
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::{Authority, PathAndQuery},
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{
    connect::Connector,
    tls::{OpenError, Tls, config},
};

/// Largest message, as the peers have it (`peer.maxRecvMsgSize`).
const MAX_MESSAGE_BYTES: usize = 100 << 20;
/// A peer that says nothing is asked so often whether it is there; Fabric's peers end a connection that asks more than
/// once in 60 s.
const PING_EVERY: Duration = Duration::from_secs(70);
/// And must answer within this.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Signs bytes: ECDSA P-256 over SHA-256, DER, low-S. A key in a file, or in hardware; it must not take long.
pub type Sign = Arc<dyn Fn(&[u8]) -> Result<Vec<u8>, SignError> + Send + Sync>;

/// Who submits.
#[derive(Clone)]
pub struct Member {
    /// As the channel knows it.
    pub creator: Creator,
    /// With its key.
    pub sign: Sign,
}

/// Longest that each phase waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Connection and handshake.
    pub connect: Duration,
    /// A question.
    pub evaluate: Duration,
    /// Endorsement by all that must. A chaincode has 30 s.
    pub endorse: Duration,
    /// Until an orderer has it.
    pub submit: Duration,
    /// Until it is in a block.
    pub commit: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(5),
            evaluate: seconds(30),
            endorse: seconds(30),
            submit: seconds(10),
            commit: seconds(60),
        }
    }
}

/// Which gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `host:port` of a peer.
    pub address: String,
    /// Name in its certificate, when it is not the host.
    pub server_name: Option<String>,
    /// How it is recognised.
    pub tls: Tls,
    /// Longest that each phase waits.
    pub deadlines: Deadlines,
}

/// A peer through which one member transacts. Clones share its connection.
#[derive(Clone)]
pub struct Gateway {
    grpc: Grpc<Channel>,
    deadlines: Deadlines,
    member: Member,
}

impl Gateway {
    /// A gateway whose options are sound; it is connected to with the first call, and again when the connection broke.
    /// Within a Tokio runtime.
    pub fn open(options: &Options, member: Member) -> Result<Self, OpenError> {
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
        Ok(Self { grpc, deadlines: *deadlines, member })
    }

    /// A signed proposal with this machine's time and a new nonce. Nothing is sent.
    pub fn propose(&self, call: Call) -> Result<Proposed, EndorseError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|e| EndorseError::Signing(e.into()))?;
        Proposed::new(call, &self.member.creator, nonce, now(), |bytes| (self.member.sign)(bytes))
    }

    /// Has it endorsed, and signs the transaction.
    pub async fn endorse(&self, proposed: &Proposed) -> Result<Endorsed, EndorseError> {
        let answer =
            self.call("/gateway.Gateway/Endorse", proposed.request().clone(), self.deadlines.endorse);
        let answer = answer.await.map_err(EndorseError::Refused)?;
        proposed.endorsed(answer, |bytes| (self.member.sign)(bytes))
    }

    /// Has it ordered. Dropped before it ends, it leaves the outcome open.
    pub async fn submit(&self, endorsed: &Endorsed) -> Result<Submitted, SubmitError> {
        let answer = self.call("/gateway.Gateway/Submit", endorsed.request().clone(), self.deadlines.submit);
        endorsed.submitted(answer.await)
    }

    /// Waits until it is in a block. May be asked as often as wanted, of any gateway of the channel.
    pub async fn commit_status(&self, submitted: &Submitted) -> Result<Committed, CommitError> {
        let request = submitted.request(|bytes| (self.member.sign)(bytes))?;
        let answer = self.call("/gateway.Gateway/CommitStatus", request, self.deadlines.commit);
        submitted.committed(answer.await.map_err(CommitError::Unknown)?)
    }

    /// Asks the chaincode on one peer; nothing is written.
    pub async fn evaluate(&self, call: Call) -> Result<Response, EvaluateError> {
        let proposed = self.propose(call).map_err(|e| match e {
            EndorseError::Signing(e) => EvaluateError::Signing(e),
            EndorseError::Refused(refusal) => EvaluateError::Refused(refusal),
            EndorseError::Altered(what) => EvaluateError::Altered(what),
        })?;
        let answer =
            self.call("/gateway.Gateway/Evaluate", proposed.request().clone(), self.deadlines.evaluate);
        proposed.evaluated(answer.await.map_err(EvaluateError::Refused)?)
    }

    async fn call<Q, A>(&self, method: &'static str, message: Q, deadline: Duration) -> Result<A, Refusal>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let answered = timeout(deadline, async {
            let mut grpc = self.grpc.clone();
            grpc.ready().await.map_err(|e| Status::unavailable(chain(&e)))?;
            let codec = ProstCodec::<Q, A>::default();
            // Without a timeout of gRPC's: when ours ends, the stream is reset, and so is what the peer does for it.
            grpc.unary(Request::new(message), PathAndQuery::from_static(method), codec).await
        });
        match answered.await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(refusal(&status)),
            Err(_) => {
                let message = format!("no answer to {method} within {deadline:?}");
                Err(Refusal { code: Code::DeadlineExceeded, message, details: Vec::new() })
            }
        }
    }
}

/// What the gateway said, or what broke on the way.
fn refusal(status: &Status) -> Refusal {
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
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
