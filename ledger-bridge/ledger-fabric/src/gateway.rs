//! The calls.

use std::{sync::Arc, time::Duration};

use fabric::{
    gateway::{
        Call, CommitError, Committed, Creator, EndorseError, Endorsed, EvaluateError, Proposed, SignError,
        SubmitError, Submitted,
    },
    message::Response,
};

use crate::{
    connect::{Connection, nonce, now},
    peer::Peer,
    tls::{OpenError, Tls},
};

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
    connection: Connection,
    deadlines: Deadlines,
    member: Member,
}

impl Gateway {
    /// A gateway whose options are sound; it is connected to with the first call, and again when the connection broke.
    /// Within a Tokio runtime.
    pub fn open(options: &Options, member: Member) -> Result<Self, OpenError> {
        Ok(Self { connection: Connection::open(options)?, deadlines: options.deadlines, member })
    }

    /// The peer itself, over the same connection, on a channel.
    #[must_use]
    pub fn peer(&self, channel: &str) -> Peer {
        Peer::on(self.connection.clone(), self.deadlines, channel, self.member.clone())
    }

    /// A signed proposal with this machine's time and a new nonce. Nothing is sent.
    pub fn propose(&self, call: Call) -> Result<Proposed, EndorseError> {
        let nonce = nonce().map_err(EndorseError::Signing)?;
        Proposed::new(call, &self.member.creator, nonce, now(), |bytes| (self.member.sign)(bytes))
    }

    /// Has it endorsed, and signs the transaction.
    pub async fn endorse(&self, proposed: &Proposed) -> Result<Endorsed, EndorseError> {
        let answer = self.connection.call(
            "/gateway.Gateway/Endorse",
            proposed.request().clone(),
            self.deadlines.endorse,
        );
        let answer = answer.await.map_err(EndorseError::Refused)?;
        proposed.endorsed(answer, |bytes| (self.member.sign)(bytes))
    }

    /// Has it ordered. Dropped before it ends, it leaves the outcome open.
    pub async fn submit(&self, endorsed: &Endorsed) -> Result<Submitted, SubmitError> {
        let answer = self.connection.call(
            "/gateway.Gateway/Submit",
            endorsed.request().clone(),
            self.deadlines.submit,
        );
        endorsed.submitted(answer.await)
    }

    /// Waits until it is in a block. May be asked as often as wanted, of any gateway of the channel.
    pub async fn commit_status(&self, submitted: &Submitted) -> Result<Committed, CommitError> {
        let request = submitted.request(|bytes| (self.member.sign)(bytes))?;
        let answer = self.connection.call("/gateway.Gateway/CommitStatus", request, self.deadlines.commit);
        submitted.committed(answer.await.map_err(CommitError::Unknown)?)
    }

    /// Asks the chaincode on one peer; nothing is written.
    pub async fn evaluate(&self, call: Call) -> Result<Response, EvaluateError> {
        let proposed = self.propose(call).map_err(|e| match e {
            EndorseError::Signing(e) => EvaluateError::Signing(e),
            EndorseError::Refused(refusal) => EvaluateError::Refused(refusal),
            EndorseError::Altered(what) => EvaluateError::Altered(what),
        })?;
        let answer = self.connection.call(
            "/gateway.Gateway/Evaluate",
            proposed.request().clone(),
            self.deadlines.evaluate,
        );
        proposed.evaluated(answer.await.map_err(EvaluateError::Refused)?)
    }
}
