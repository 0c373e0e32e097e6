//! A peer itself: blocks ([`crate::deliver`]), its own answers, and its signed word on a transaction.

use fabric::{
    block::ProposalResponse,
    gateway::{Call, EndorseError, Proposed, Refusal, SignError},
    message::{Response, SignedProposal},
    proof::{Validity, ValidityError},
};

use crate::{
    connect::{Connection, nonce, now},
    gateway::{Deadlines, Member, Options},
    tls::OpenError,
};

/// Why a peer has given no word.
#[derive(Debug, thiserror::Error)]
pub enum WordError {
    /// The key has not signed.
    #[error("the question could not be signed")]
    Signing(#[source] SignError),
    /// The peer, or the way to it.
    #[error("the peer gives no answer: {0}")]
    Refused(Refusal),
    /// Its chaincode has refused.
    #[error("the chaincode answers with status {status}: {message}")]
    Chaincode {
        /// As in HTTP.
        status: i32,
        /// Why.
        message: String,
    },
    /// It does not say that the transaction is valid.
    #[error(transparent)]
    Validity(#[from] ValidityError),
}

/// One peer, asked by one member about one channel. Clones share its connection.
#[derive(Clone)]
pub struct Peer {
    pub(crate) connection: Connection,
    pub(crate) deadlines: Deadlines,
    pub(crate) channel: String,
    pub(crate) member: Member,
}

impl Peer {
    /// A peer whose options are sound; it is connected to with the first call. Within a Tokio runtime.
    pub fn open(options: &Options, channel: &str, member: Member) -> Result<Self, OpenError> {
        Ok(Self::on(Connection::open(options)?, options.deadlines, channel, member))
    }

    pub(crate) fn on(connection: Connection, deadlines: Deadlines, channel: &str, member: Member) -> Self {
        Self { connection, deadlines, channel: channel.to_owned(), member }
    }

    /// This peer's signed word that a transaction is VALID (`qscc GetTransactionByID`).
    pub async fn validity(&self, tx_id: &str) -> Result<Validity, WordError> {
        let (question, answer) = self.ask(Validity::question(&self.channel, tx_id)).await?;
        Ok(Validity::of(&question, &answer)?)
    }

    /// What a chaincode answers on this peer; nothing is written. The channel is this peer's.
    pub async fn evaluate(&self, call: Call) -> Result<Response, WordError> {
        let (_, answer) = self.ask(Call { channel: self.channel.clone(), ..call }).await?;
        match answer.response.unwrap_or_default() {
            response @ Response { status: 200..400, .. } => Ok(response),
            Response { status, message, .. } => Err(WordError::Chaincode { status, message }),
        }
    }

    async fn ask(&self, call: Call) -> Result<(SignedProposal, ProposalResponse), WordError> {
        let nonce = nonce().map_err(WordError::Signing)?;
        let sign = |bytes: &[u8]| (self.member.sign)(bytes);
        let proposed = Proposed::new(call, &self.member.creator, nonce, now(), sign);
        let question = proposed.map_err(unsigned)?.request().proposed_transaction.clone().unwrap_or_default();
        let deadline = self.deadlines.evaluate;
        let answer = self.connection.call("/protos.Endorser/ProcessProposal", question.clone(), deadline);
        Ok((question, answer.await.map_err(WordError::Refused)?))
    }
}

/// A proposal fails to be made for one reason.
fn unsigned(error: EndorseError) -> WordError {
    match error {
        EndorseError::Signing(e) => WordError::Signing(e),
        other => WordError::Signing(other.into()),
    }
}
