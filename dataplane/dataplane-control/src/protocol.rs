//! The control protocol: length-prefixed JSON on a UNIX stream socket, one request at a time, in order.
//!
//! A frame is a 4-byte big-endian length and that many bytes of JSON. The first request of a connection is
//! [`Request::Hello`]; its version is checked before anything else is decoded.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use trust::Digest;

use crate::{
    capture::{Capture, CaptureReport},
    traffic::{TrafficProfile, TrafficReport},
};

/// Version of this protocol; both sides must have the same.
pub const VERSION: u32 = 1;
/// Largest frame, bytes: a configuration as a JSON string, escaped.
pub const MAX_FRAME_BYTES: u32 = 128 << 20;

/// Counters that are read without asking the packet threads are at most so old, ms.
pub const COUNTERS_AGE_MS: u64 = 500;

/// What the data plane is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// First on every connection.
    Hello {
        /// Must be [`VERSION`].
        version: u32,
    },
    /// What runs now? The packet threads are asked, between two bursts.
    Status,
    /// What ran last time somebody looked, at most [`COUNTERS_AGE_MS`] ago: costs the packet threads nothing.
    Counters,
    /// Copy frames to a file; answered when it is complete. One at a time.
    Capture {
        /// Which, how many, where to.
        capture: Box<Capture>,
    },
    /// Replace the whole configuration; the document's generation must be above the running one.
    /// Ports cannot change: that needs a new process. An identical document is accepted again and changes nothing.
    Configure {
        /// The exact document, whose digest the answer repeats.
        document: String,
    },
    /// Stop forwarding (keep the process and its tables for forensics), or go on.
    Isolate {
        /// True: every packet is dropped and counted as `isolated`.
        on: bool,
    },
    /// Tell the link whose addresses are here (a load balancer only), so that neighbours who know another place forget
    /// it: ARP announcements (RFC 5227) and unsolicited neighbour advertisements (RFC 4861 §7.2.6).
    Announce,
    /// Send traffic (a generator only); answered when it is over.
    Run {
        /// What to send.
        profile: Box<TrafficProfile>,
    },
    /// Drain and exit.
    Shutdown,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case")]
pub enum Response {
    /// Versions agree.
    Hello {
        /// The data plane's.
        version: u32,
    },
    /// Answer to `Status`, `Counters`, `Configure`, `Isolate` and `Announce`.
    Status(Box<Status>),
    /// Answer to `Run`.
    Report(Box<TrafficReport>),
    /// Answer to `Capture`.
    Captured(CaptureReport),
    /// Answer to `Shutdown`, before the exit.
    Bye,
    /// Refused; nothing was changed.
    Error {
        /// Stable code, `UPPER_SNAKE_CASE`.
        code: String,
        /// What, where, why and what to do.
        message: String,
    },
}

/// What runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Object key of the instance.
    pub instance: String,
    /// `firewall`, `load_balancer`, `reflector` or `generator`.
    pub function: String,
    /// Generation of the running configuration.
    pub generation: u64,
    /// Digest of the running configuration's document.
    pub configuration: Digest,
    /// Whether traffic is cut.
    pub isolated: bool,
    /// Process id.
    pub pid: u32,
    /// Connections tracked now.
    pub connections: u64,
    /// Counters by name: `rx_frames.<port>`, `tx_frames.<port>`, `drop.<reason>`, `rule.<id>`, `backend.<id>`, …
    pub counters: BTreeMap<String, u64>,
}

/// Why a frame could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The socket failed or closed.
    #[error("control connection: {0}")]
    Io(#[from] io::Error),
    /// Longer than [`MAX_FRAME_BYTES`].
    #[error("a control frame of {0} bytes; at most {MAX_FRAME_BYTES}")]
    TooLong(usize),
    /// Not the JSON expected.
    #[error("control frame: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Other versions.
    #[error("the data plane speaks control protocol {found}, we speak {VERSION}: update the older side")]
    Version {
        /// What the other side said.
        found: u32,
    },
    /// The data plane refused.
    #[error("the data plane refused ({code}): {message}")]
    Refused {
        /// Its code.
        code: String,
        /// Its words.
        message: String,
    },
    /// An answer to another question.
    #[error("unexpected answer from the data plane: {0}")]
    Unexpected(String),
}

/// Reads one frame; `None` when the other side closed between frames.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> Result<Option<T>, ProtocolError> {
    let mut length = [0; 4];
    match from.read(&mut length[..1])? {
        0 => return Ok(None),
        _ => from.read_exact(&mut length[1..])?,
    }
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME_BYTES {
        return Err(ProtocolError::TooLong(length as usize));
    }
    let mut body = Vec::new();
    let read = from.take(u64::from(length)).read_to_end(&mut body)?;
    if read < length as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Writes one frame.
pub fn write_frame<T: Serialize>(to: &mut impl Write, value: &T) -> Result<(), ProtocolError> {
    let body = serde_json::to_vec(value)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|l| *l <= MAX_FRAME_BYTES)
        .ok_or(ProtocolError::TooLong(body.len()))?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(&body)?;
    to.flush()?;
    Ok(())
}

/// A blocking client over any stream; versions are compared when it is made.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
}

impl<S: Read + Write> Client<S> {
    /// Says hello.
    pub fn new(stream: S) -> Result<Self, ProtocolError> {
        let mut it = Self { stream };
        match it.ask(&Request::Hello { version: VERSION })? {
            Response::Hello { version: VERSION } => Ok(it),
            Response::Hello { version } => Err(ProtocolError::Version { found: version }),
            other => Err(ProtocolError::Unexpected(format!("{other:?}"))),
        }
    }

    /// One request, one answer; a refusal is an error.
    pub fn ask(&mut self, request: &Request) -> Result<Response, ProtocolError> {
        write_frame(&mut self.stream, request)?;
        match read_frame(&mut self.stream)? {
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Some(Response::Error { code, message }) => Err(ProtocolError::Refused { code, message }),
            Some(response) => Ok(response),
        }
    }

    /// A request whose answer is a status.
    pub fn status(&mut self, request: &Request) -> Result<Status, ProtocolError> {
        match self.ask(request)? {
            Response::Status(s) => Ok(*s),
            other => Err(ProtocolError::Unexpected(format!("{other:?}"))),
        }
    }

    /// Copies frames and waits for the end.
    pub fn capture(&mut self, capture: Capture) -> Result<CaptureReport, ProtocolError> {
        match self.ask(&Request::Capture { capture: Box::new(capture) })? {
            Response::Captured(r) => Ok(r),
            other => Err(ProtocolError::Unexpected(format!("{other:?}"))),
        }
    }

    /// Sends traffic and waits for the report.
    pub fn run(&mut self, profile: TrafficProfile) -> Result<TrafficReport, ProtocolError> {
        match self.ask(&Request::Run { profile: Box::new(profile) })? {
            Response::Report(r) => Ok(*r),
            other => Err(ProtocolError::Unexpected(format!("{other:?}"))),
        }
    }
}
