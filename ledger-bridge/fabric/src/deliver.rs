//! What is asked of a peer itself, not of its gateway: blocks (`protos.Deliver/Deliver`). Messages and how they are signed.

use prost::Message as _;

use crate::{
    block::Block,
    gateway::{
        Creator, SignError,
        message::{Envelope, Payload},
    },
    message::{ChannelHeader, Header, SignatureHeader, Timestamp},
};

/// `HeaderType.DELIVER_SEEK_INFO`.
const SEEK: i32 = 5;

/// Which blocks.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SeekInfo {
    /// First.
    #[prost(message, optional, tag = "1")]
    pub start: Option<SeekPosition>,
    /// Last.
    #[prost(message, optional, tag = "2")]
    pub stop: Option<SeekPosition>,
    /// 0: wait for blocks that are not there yet; 1: end with [`NOT_FOUND`].
    #[prost(int32, tag = "3")]
    pub behavior: i32,
}

/// A place in the chain; one of these.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SeekPosition {
    /// The newest block.
    #[prost(message, optional, tag = "1")]
    pub newest: Option<SeekNewest>,
    /// By number.
    #[prost(message, optional, tag = "3")]
    pub specified: Option<SeekSpecified>,
}

/// The newest block.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SeekNewest {}

/// By number.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SeekSpecified {
    /// It.
    #[prost(uint64, tag = "1")]
    pub number: u64,
}

/// `common.Status`: what was asked for was sent.
pub const SUCCESS: i32 = 200;
/// `common.Status`: no such block or channel.
pub const NOT_FOUND: i32 = 404;

/// A peer's answer: one of these.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeliverResponse {
    /// The end, and why (`common.Status`).
    #[prost(int32, optional, tag = "1")]
    pub status: Option<i32>,
    /// A block.
    #[prost(message, optional, tag = "2")]
    pub block: Option<Block>,
}

/// Which blocks are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The newest.
    Newest,
    /// One, if it is there.
    One(u64),
    /// From there on, for ever.
    From(u64),
}

impl Seek {
    fn info(self) -> SeekInfo {
        let at = |number| Some(SeekPosition { newest: None, specified: Some(SeekSpecified { number }) });
        let newest = Some(SeekPosition { newest: Some(SeekNewest {}), specified: None });
        let (start, stop, behavior) = match self {
            Self::Newest => (newest, newest, 1),
            Self::One(number) => (at(number), at(number), 1),
            Self::From(number) => (at(number), at(u64::MAX), 0),
        };
        SeekInfo { start, stop, behavior }
    }

    /// The request, signed. `nonce` must be random and new; the peer takes no `time` more than 15 minutes from its own.
    /// `tls_cert_hash`: SHA-256 of our TLS certificate (DER) where the peer asks for one, else empty.
    pub fn request(
        self,
        channel: &str,
        creator: &Creator,
        nonce: &[u8],
        time: Timestamp,
        tls_cert_hash: &[u8],
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, SignError>,
    ) -> Result<Envelope, SignError> {
        let channel_header = ChannelHeader {
            kind: SEEK,
            timestamp: Some(time),
            channel_id: channel.into(),
            tls_cert_hash: tls_cert_hash.into(),
            ..ChannelHeader::default()
        };
        let signature_header = SignatureHeader { creator: creator.bytes().into(), nonce: nonce.into() };
        let header = Header {
            channel_header: channel_header.encode_to_vec(),
            signature_header: signature_header.encode_to_vec(),
        };
        let payload = Payload { header: Some(header), data: self.info().encode_to_vec() }.encode_to_vec();
        let signature = sign(&payload)?;
        Ok(Envelope { payload, signature })
    }
}
