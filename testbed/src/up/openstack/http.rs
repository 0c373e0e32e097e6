//! JSON to and from a service on this machine: HTTP/1.0, one request for each connection.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// A service's answer on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Longer than any list of a new cloud.
const LONGEST: u64 = 16 * 1024 * 1024;

/// What was answered.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header lines.
    head: String,
    /// `null` when the body is none.
    pub body: Value,
}

impl Reply {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|l| l.split_once(':'));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Of the service on 127.0.0.1.
    pub port: u16,
    /// keystone's; empty: none.
    pub token: &'a str,
}

impl Client<'_> {
    /// Asks and takes any answer.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.call_in("2.1", (method, path), body)
    }

    /// The same in a microversion of nova's.
    pub fn call_in(
        &self,
        version: &str,
        (method, path): (&str, &str),
        body: &Value,
    ) -> anyhow::Result<Reply> {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nAccept: application/json\r\nX-Auth-Token: {}\r\n\
             X-OpenStack-Nova-API-Version: {version}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.port,
            self.token,
            text.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(text.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(LONGEST).read_to_end(&mut answer)?;
        parse(&answer).with_context(|| format!("{method} {path} on port {}", self.port))
    }

    /// Asks; an error for every status but 2xx.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Reply> {
        let reply = self.call(method, path, body)?;
        let (status, said) = (reply.status, &reply.body);
        ensure!((200..300).contains(&status), "{method} {path} on port {}: {status} {said}", self.port);
        Ok(reply)
    }

    /// Reads.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.ask("GET", path, &Value::Null)?.body)
    }
}

fn parse(answer: &[u8]) -> anyhow::Result<Reply> {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("no answer of HTTP's form") };
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    let body = serde_json::from_str(body).unwrap_or_default();
    Ok(Reply { status, head: head.to_owned(), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_headers_and_body_are_read() {
        let reply = parse(b"HTTP/1.1 201 Created\r\nX-Subject-Token: t:1\r\n\r\n{\"a\":1}").unwrap();
        assert_eq!((reply.status, reply.header("x-subject-token")), (201, Some("t:1")));
        assert_eq!(reply.body["a"], 1);
        assert_eq!(parse(b"HTTP/1.0 204 No Content\r\n\r\n").unwrap().body, Value::Null);
        assert!(parse(b"\x16\x03\x01").is_err());
    }
}
