//! Reading server-sent events (WHATWG HTML 9.2.6).

use std::{collections::VecDeque, time::Duration};

use reqwest::Response;

use super::{ClientError, Endpoint};
use crate::{problem::Problem, views::CloudEvent};

/// Longest line, bytes: an event is a few KiB.
const MAX_LINE_BYTES: usize = 1 << 20;

/// What a stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Something happened.
    Event(Box<CloudEvent>),
    /// So many events were passed over: read the state anew.
    Lagged(u64),
}

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    response: Response,
    server: Endpoint,
    silence: Duration,
    parser: Parser,
    last: Option<u64>,
}

impl Events {
    pub(super) fn new(response: Response, server: Endpoint, silence: Duration) -> Self {
        Self { response, server, silence, parser: Parser::default(), last: None }
    }

    /// Number of the last event: from where to go on after the connection was lost.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// The next message; `None` when the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<Message>, ClientError> {
        loop {
            while let Some(raw) = self.parser.ready.pop_front() {
                self.last = raw.id.as_deref().and_then(|id| id.parse().ok()).or(self.last);
                if let Some(message) = read(&raw)? {
                    return Ok(Some(message));
                }
            }
            // A connection that is silent for several heartbeats is dead.
            let Ok(chunk) = tokio::time::timeout(self.silence, self.response.chunk()).await else {
                return Ok(None);
            };
            match chunk.map_err(|source| ClientError::Broken { server: self.server.clone(), source })? {
                Some(bytes) => self.parser.feed(&bytes)?,
                None => return Ok(None),
            }
        }
    }
}

fn read(raw: &Raw) -> Result<Option<Message>, ClientError> {
    let wrong = |e: serde_json::Error| ClientError::Answer { status: 200, reason: e.to_string() };
    match raw.event.as_str() {
        _ if raw.data.is_empty() => Ok(None),
        "problem" => Err(ClientError::Problem(serde_json::from_str::<Problem>(&raw.data).map_err(wrong)?)),
        "lagged" => {
            let lagged: serde_json::Value = serde_json::from_str(&raw.data).map_err(wrong)?;
            Ok(Some(Message::Lagged(lagged["missed"].as_u64().unwrap_or_default())))
        }
        _ => Ok(Some(Message::Event(Box::new(serde_json::from_str(&raw.data).map_err(wrong)?)))),
    }
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Raw {
    id: Option<String>,
    event: String,
    data: String,
}

/// Bytes to events, whatever the chunks.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    open: Raw,
    ready: VecDeque<Raw>,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for byte in bytes {
            match byte {
                b'\n' => self.end_of_line(),
                b'\r' => {}
                _ if self.line.len() >= MAX_LINE_BYTES => {
                    let reason = format!("an event line of more than {MAX_LINE_BYTES} bytes");
                    return Err(ClientError::Answer { status: 200, reason });
                }
                other => self.line.push(*other),
            }
        }
        Ok(())
    }

    fn end_of_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            let raw = std::mem::take(&mut self.open);
            if raw != Raw::default() {
                self.ready.push_back(raw);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.open.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.open.event),
            "data" if self.open.data.is_empty() => value.clone_into(&mut self.open.data),
            "data" => {
                self.open.data.push('\n');
                self.open.data.push_str(value);
            }
            // Comments (an empty field) and `retry` say nothing to us.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn chunks_make_no_difference(cuts in proptest::collection::vec(1usize..9, 0..40)) {
            let text = ": heartbeat\nretry: 5\n\nid: 7\r\nevent: done\ndata: a\ndata: b\n\n\ndata: c\n\n";
            let mut whole = Parser::default();
            whole.feed(text.as_bytes()).unwrap();
            let (mut parts, mut rest) = (Parser::default(), text.as_bytes());
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                parts.feed(now).unwrap();
                rest = later;
            }
            parts.feed(rest).unwrap();
            proptest::prop_assert_eq!(&parts.ready, &whole.ready);
            let expected = Raw { id: Some("7".into()), event: "done".into(), data: "a\nb".into() };
            proptest::prop_assert_eq!(&whole.ready[0], &expected);
            proptest::prop_assert_eq!(whole.ready.len(), 2);
        }
    }

    #[test]
    fn a_line_without_an_end_is_bounded() {
        let mut parser = Parser::default();
        assert!(parser.feed(&vec![b'x'; MAX_LINE_BYTES]).is_ok());
        assert!(parser.feed(b"x").is_err());
    }
}
