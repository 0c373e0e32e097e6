//! Blocks of a peer, as they come.

use fabric::{
    block::Block,
    deliver::{DeliverResponse, SUCCESS, Seek},
    gateway::{Refusal, SignError},
};
use tonic::Streaming;

use crate::{
    connect::{late, nonce, now, refusal},
    peer::Peer,
};

/// A peer's call for blocks.
const DELIVER: &str = "/protos.Deliver/Deliver";

/// Why there are no blocks, or no more. Whatever ends a stream, it can be opened again from the block after the last.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The key has not signed.
    #[error("the request for blocks could not be signed")]
    Signing(#[source] SignError),
    /// The peer, or the way to it.
    #[error("the peer gives no blocks: {0}")]
    Refused(Refusal),
    /// The peer ends the stream.
    #[error(
        "the peer ends with status {0}; 403: who asks may not read the channel, 404: no such block or channel"
    )]
    Status(i32),
    /// It ends without a word.
    #[error("the peer ended the stream of blocks without a status")]
    Ended,
    /// The peer has not got that far: it would say nothing until it has.
    #[error(
        "the peer has {height} blocks, block {from} is not the next one; it is behind, or of another chain"
    )]
    Behind {
        /// Blocks that it has.
        height: u64,
        /// The block asked for.
        from: u64,
    },
    /// Another block than the next one.
    #[error("the peer gives block {found}, the next one is {expected}")]
    OutOfOrder {
        /// The next one.
        expected: u64,
        /// What came.
        found: u64,
    },
}

/// Blocks of a channel, one after the other.
#[derive(Debug)]
pub struct Blocks {
    stream: Streaming<DeliverResponse>,
    next: u64,
}

impl Blocks {
    /// Waits for the next block. After an error the stream is over.
    pub async fn next(&mut self) -> Result<Block, DeliverError> {
        let block = message(&mut self.stream).await?;
        let found = block.header.as_ref().map_or(0, |h| h.number);
        if block.header.is_none() || found != self.next {
            return Err(DeliverError::OutOfOrder { expected: self.next, found });
        }
        self.next = self.next.saturating_add(1);
        Ok(block)
    }
}

async fn message(stream: &mut Streaming<DeliverResponse>) -> Result<Block, DeliverError> {
    match stream.message().await {
        Err(status) => Err(DeliverError::Refused(refusal(&status))),
        Ok(None) => Err(DeliverError::Ended),
        Ok(Some(DeliverResponse { block: Some(block), .. })) => Ok(block),
        Ok(Some(DeliverResponse { status, .. })) => Err(DeliverError::Status(status.unwrap_or(SUCCESS))),
    }
}

impl Peer {
    /// Blocks from `from` on, as they come. A peer that has not got the block before `from` is an error, for it would say
    /// nothing; that a peer still has new blocks is not known while none comes.
    pub async fn blocks(&self, from: u64) -> Result<Blocks, DeliverError> {
        let height = self.newest().await?.header.map_or(0, |h| h.number.saturating_add(1));
        if from > height {
            return Err(DeliverError::Behind { height, from });
        }
        // A peer answers nothing at all, not even headers, before the first block is there: begin with one that is.
        let start = from.saturating_sub(1);
        let mut blocks = Blocks { stream: self.seek(Seek::From(start)).await?, next: start };
        while blocks.next < from {
            blocks.next().await?;
        }
        Ok(blocks)
    }

    /// One block.
    pub async fn block(&self, number: u64) -> Result<Block, DeliverError> {
        let block = self.one(Seek::One(number)).await?;
        match block.header.as_ref().map(|h| h.number) {
            Some(found) if found == number => Ok(block),
            found => Err(DeliverError::OutOfOrder { expected: number, found: found.unwrap_or(0) }),
        }
    }

    /// The newest block that it has.
    pub async fn newest(&self) -> Result<Block, DeliverError> {
        self.one(Seek::Newest).await
    }

    /// The configuration block in force. Nothing is verified: it is no trust root because a peer gives it.
    pub async fn config_block(&self) -> Result<Block, DeliverError> {
        let newest = self.newest().await?;
        match newest.configuration() {
            Some(number) => self.block(number).await,
            // The genesis block has no orderer's word in it.
            None => self.block(0).await,
        }
    }

    async fn one(&self, seek: Seek) -> Result<Block, DeliverError> {
        let answered = tokio::time::timeout(self.deadlines.evaluate, async {
            message(&mut self.seek(seek).await?).await
        });
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(DeliverError::Refused(late(DELIVER, self.deadlines.evaluate))),
        }
    }

    async fn seek(&self, seek: Seek) -> Result<Streaming<DeliverResponse>, DeliverError> {
        let nonce = nonce().map_err(DeliverError::Signing)?;
        let hash = self.connection.tls_certificate();
        let sign = |bytes: &[u8]| (self.member.sign)(bytes);
        let request = seek.request(&self.channel, &self.member.creator, &nonce, now(), hash, sign);
        let request = request.map_err(DeliverError::Signing)?;
        let stream = self.connection.stream(DELIVER, request, self.deadlines.evaluate);
        stream.await.map_err(DeliverError::Refused)
    }
}
