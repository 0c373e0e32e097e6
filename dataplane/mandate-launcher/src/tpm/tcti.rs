//! The way to a TPM: a swtpm socket or the kernel's device. Frames go as they are; both accept them so.
//!
//! swtpm serves one client and queues two; a bare `/dev/tpm0` admits one. A busy TPM is asked again with growing
//! pauses until [`BUSY_MS`] are over. swtpm's control channel (power, locality) is not ours. Tests are below and in
//! `tests/lifecycle/`.

use std::{
    fmt,
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::PathBuf,
    str::FromStr,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr},
};

use super::{
    TpmError,
    codec::{HEADER_BYTES, MAX_FRAME_BYTES, frame_size},
};

/// Longest wait for a TPM that other clients hold, ms: some hundred quotes.
pub const BUSY_MS: u64 = 30_000;
/// First pause before a busy TPM is asked again, ms; it doubles up to [`MAX_PAUSE_MS`].
const FIRST_PAUSE_MS: u64 = 2;
/// Longest pause, ms.
const MAX_PAUSE_MS: u64 = 100;

/// Where the TPM is, as tpm2-tss writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tcti {
    /// `swtpm:path=SOCKET`.
    SwtpmUnix(PathBuf),
    /// `swtpm:host=HOST,port=PORT`.
    SwtpmTcp(String, u16),
    /// `device:PATH`.
    Device(PathBuf),
}

/// Why a text is not a [`Tcti`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no TPM: expected swtpm:path=SOCKET, swtpm:host=HOST,port=PORT or device:PATH")]
pub struct BadTcti(String);

impl FromStr for Tcti {
    type Err = BadTcti;
    fn from_str(text: &str) -> Result<Self, BadTcti> {
        let bad = || BadTcti(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        let named = |name: &str| rest.split(',').find_map(|p| p.strip_prefix(name)).filter(|v| !v.is_empty());
        match kind {
            "device" if !rest.is_empty() => Ok(Self::Device(rest.into())),
            "swtpm" => match (named("path="), named("host="), named("port=")) {
                (Some(path), None, None) => Ok(Self::SwtpmUnix(path.into())),
                (None, host, Some(port)) => {
                    Ok(Self::SwtpmTcp(host.unwrap_or("localhost").into(), port.parse().map_err(|_| bad())?))
                }
                _ => Err(bad()),
            },
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Tcti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SwtpmUnix(path) => write!(f, "swtpm:path={}", path.display()),
            Self::SwtpmTcp(host, port) => write!(f, "swtpm:host={host},port={port}"),
            Self::Device(path) => write!(f, "device:{}", path.display()),
        }
    }
}

/// Pauses that grow, until time is up.
#[derive(Debug)]
pub struct Backoff {
    pause_ms: u64,
    end: Instant,
}

impl Backoff {
    /// Gives up after `total_ms`.
    pub fn new(total_ms: u64) -> Self {
        Self { pause_ms: FIRST_PAUSE_MS, end: Instant::now() + Duration::from_millis(total_ms) }
    }

    /// Sleeps and says whether another try is due.
    pub fn again(&mut self) -> bool {
        let left = self.end.saturating_duration_since(Instant::now());
        std::thread::sleep(left.min(Duration::from_millis(self.pause_ms)));
        self.pause_ms = (self.pause_ms * 2).min(MAX_PAUSE_MS);
        !left.is_zero()
    }
}

trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

/// An open TPM: one frame out, one frame back.
pub struct Channel {
    stream: Box<dyn Duplex>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel")
    }
}

impl Channel {
    /// Opens, waiting while others hold the TPM.
    pub fn open(tcti: &Tcti) -> Result<Self, TpmError> {
        let mut backoff = Backoff::new(BUSY_MS);
        loop {
            match open_once(tcti) {
                Ok(stream) => return Ok(Self { stream }),
                Err(e) if is_busy(&e) && backoff.again() => {}
                Err(source) => return Err(TpmError::Open { tcti: tcti.to_string(), source }),
            }
        }
    }

    /// Sends a frame and reads the answer.
    pub fn transact(&mut self, command: &'static str, frame: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.exchange(frame).map_err(|source| TpmError::Transport { command, source })
    }

    fn exchange(&mut self, frame: &[u8]) -> io::Result<Vec<u8>> {
        // In one write: a device takes each write as a whole command.
        self.stream.write_all(frame)?;
        self.stream.flush()?;
        let mut buffer = [0; MAX_FRAME_BYTES];
        let mut got = 0;
        // A device gives the whole answer to one read, a socket may cut it.
        while got < HEADER_BYTES || frame_size(&buffer[..got]).is_some_and(|size| got < size) {
            match self.stream.read(&mut buffer[got..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => got += n,
            }
        }
        Ok(buffer[..got].to_vec())
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(Errno::EBUSY as i32)
}

fn open_once(tcti: &Tcti) -> io::Result<Box<dyn Duplex>> {
    let patience = Some(Duration::from_millis(BUSY_MS));
    match tcti {
        Tcti::SwtpmUnix(path) => {
            let stream = connect_unix(path)?;
            stream.set_read_timeout(patience)?;
            stream.set_write_timeout(patience)?;
            Ok(Box::new(stream))
        }
        Tcti::SwtpmTcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port))?;
            stream.set_read_timeout(patience)?;
            stream.set_write_timeout(patience)?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        Tcti::Device(path) => Ok(Box::new(std::fs::File::options().read(true).write(true).open(path)?)),
    }
}

/// Without blocking: a full queue says `EAGAIN` here, where a blocking connect would wait for ever.
fn connect_unix(path: &std::path::Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["swtpm:path=/run/x.sock", "swtpm:host=::1,port=2321", "device:/dev/tpmrm0"] {
            assert_eq!(good.parse::<Tcti>().unwrap().to_string(), good);
        }
        for bad in
            ["", "swtpm", "swtpm:", "swtpm:path=", "swtpm:port=x", "device:", "mssim:port=1", "/dev/tpm0"]
        {
            assert!(bad.parse::<Tcti>().is_err(), "{bad}");
        }
    }

    #[test]
    fn back_off_ends() {
        let mut backoff = Backoff::new(20);
        let start = Instant::now();
        while backoff.again() {}
        assert!(start.elapsed() >= Duration::from_millis(20) && start.elapsed() < Duration::from_secs(5));
    }
}
