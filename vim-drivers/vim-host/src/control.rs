//! The control protocol over an instance's UNIX socket: blocking, bounded, off the runtime's workers.
//!
//! Who answers is asked of the kernel (SO_PEERCRED, unix(7): the process that listens), never of the answer. The
//! time limit is for the whole exchange, so that a peer that sends a byte at a time cannot stretch it.
//!
//! Tests: `tests/isolation.rs`, with another process on the socket; below, with a slow one.

use std::{
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use dataplane_control::protocol::{Client, ProtocolError, Request, Response, Status};
use nix::sys::{
    socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, setsockopt, socket,
        sockopt::{PeerCredentials, SendTimeout},
    },
    time::{TimeVal, TimeValLike},
};

use crate::{blocking, error::HostError};

/// Longest wait for an answer that needs no work.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// Longest wait for a configuration to be built and swapped in.
pub(crate) const CONFIGURE: Duration = Duration::from_secs(60);

/// A stream whose reads and writes all end by one moment.
pub(crate) struct Timed {
    stream: UnixStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(to)
    }
}

impl Write for Timed {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(from)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// One exchange with this process on a connection of its own; `INSTANCE_REPLACED` when another one listens.
pub(crate) async fn exchange<T: Send + 'static>(
    socket: &Path,
    pid: u32,
    limit: Duration,
    f: impl FnOnce(&mut Client<Timed>) -> Result<T, ProtocolError> + Send + 'static,
) -> Result<T, HostError> {
    let socket = socket.to_owned();
    blocking(move || exchange_now(&socket, pid, limit, f)).await
}

/// The same, here and now: it blocks.
fn exchange_now<T>(
    socket: &Path,
    pid: u32,
    limit: Duration,
    f: impl FnOnce(&mut Client<Timed>) -> Result<T, ProtocolError>,
) -> Result<T, HostError> {
    let until = Instant::now() + limit;
    let stream = connect(socket, limit).map_err(ProtocolError::from)?;
    match peer(&stream)? {
        found if found == pid => {}
        found => return Err(HostError::InstanceReplaced { recorded: pid, found }),
    }
    let mut client = Client::new(Timed { stream, until })?;
    Ok(f(&mut client)?)
}

/// A request that is answered with a status, here and now: it blocks.
pub(crate) fn status_now(
    socket: &Path,
    pid: u32,
    request: &Request,
    limit: Duration,
) -> Result<Status, HostError> {
    exchange_now(socket, pid, limit, |client| client.status(request))
}

/// The process that listens on a socket; `None` when nobody does. It blocks.
pub(crate) fn listener(socket: &Path) -> Result<Option<u32>, HostError> {
    match connect(socket, ANSWER) {
        Ok(stream) => peer(&stream).map(Some),
        Err(_) => Ok(None),
    }
}

/// Connects in bounded time: without a limit it waits for as long as a stopped process's queue is full.
fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let micros = i64::try_from(limit.as_micros()).unwrap_or(i64::MAX);
    setsockopt(&fd, SendTimeout, &TimeVal::microseconds(micros))?;
    nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd.into())
}

fn peer(stream: &UnixStream) -> Result<u32, HostError> {
    let found = getsockopt(stream, PeerCredentials).map_err(|e| ProtocolError::from(io::Error::from(e)))?;
    Ok(u32::try_from(found.pid()).unwrap_or_default())
}

/// A request that is answered with a status.
pub(crate) async fn status(
    socket: &Path,
    pid: u32,
    request: Request,
    limit: Duration,
) -> Result<Status, HostError> {
    exchange(socket, pid, limit, move |client| client.status(&request)).await
}

/// Asks it to drain and exit.
pub(crate) async fn shutdown(socket: &Path, pid: u32, limit: Duration) -> Result<(), HostError> {
    let ask = |client: &mut Client<Timed>| match client.ask(&Request::Shutdown)? {
        Response::Bye => Ok(()),
        other => Err(ProtocolError::Unexpected(format!("{other:?}"))),
    };
    exchange(socket, pid, limit, ask).await
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    #[tokio::test]
    async fn a_peer_that_trickles_does_not_stretch_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control");
        let server = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            // A frame of 255 bytes, one byte each 20 ms: 5 s in all.
            let frame = [[0, 0, 0, 255].as_slice(), &[b' '; 255]].concat();
            for byte in frame {
                thread::sleep(Duration::from_millis(20));
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
            }
        });
        let (start, limit) = (Instant::now(), Duration::from_millis(300));
        let answer = status(&socket, std::process::id(), Request::Status, limit).await;
        assert_eq!(answer.unwrap_err().code(), "CONTROL_IO");
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_full_queue_of_a_stopped_peer_does_not_hold_us() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let address = UnixAddr::new(&path).unwrap();
        let server = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        nix::sys::socket::bind(server.as_raw_fd(), &address).unwrap();
        nix::sys::socket::listen(&server, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        let (start, limit) = (Instant::now(), Duration::from_millis(200));
        let answer = status(&path, std::process::id(), Request::Status, limit).await;
        assert_eq!(answer.unwrap_err().code(), "CONTROL_IO");
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn another_process_is_not_spoken_to() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control");
        assert_eq!(listener(&socket).unwrap(), None);
        let _server = UnixListener::bind(&socket).unwrap();
        let answer = status(&socket, 1, Request::Status, ANSWER).await;
        assert_eq!(answer.unwrap_err().code(), "INSTANCE_REPLACED");
        assert_eq!(listener(&socket).unwrap(), Some(std::process::id()));
    }
}
