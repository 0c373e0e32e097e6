//! `GET /metrics`, and nothing else: one request a connection, one connection at a time, every wait bounded.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{Board, metrics};
use crate::{clock::Clock, control::ControlSocket, error::StartError};

/// Longest request head, bytes: a scraper's is some hundred.
const MAX_HEAD_BYTES: usize = 8192;
/// A client has so long for its request, and again to take the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause after a failed accept(2), e.g. for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A UNIX socket, made with mode 0600.
    Socket(PathBuf),
    /// An address of the loopback interface: nothing here is encrypted, and nobody is asked who they are.
    Loopback(SocketAddr),
}

impl FromStr for Place {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if let Some(path) = s.strip_prefix("unix:") {
            return Ok(Self::Socket(path.into()));
        }
        match s.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
            Ok(address) => Err(format!(
                "{} is not an address of the loopback interface; put a proxy before it",
                address.ip()
            )),
            Err(_) => Err("is neither unix:PATH nor an address like 127.0.0.1:9464".into()),
        }
    }
}

/// The listener, bound; a socket's file is removed on drop.
#[derive(Debug)]
pub enum Listener {
    Socket(ControlSocket),
    Loopback(TcpListener),
}

impl Listener {
    pub fn bind(place: &Place) -> Result<Self, StartError> {
        match place {
            Place::Socket(path) => ControlSocket::bind(path).map(Self::Socket),
            Place::Loopback(address) => TcpListener::bind(address)
                .map(Self::Loopback)
                .map_err(|source| StartError::Metrics { address: *address, source }),
        }
    }

    /// Serves on a thread of its own until the process ends.
    pub fn serve(&self, boards: Vec<Arc<Board>>, clock: Clock) -> Result<(), StartError> {
        let page = move || {
            let reports: Vec<_> = boards.iter().filter_map(|b| b.latest()).collect();
            metrics::exposition(&reports, clock.now_us())
        };
        let serve: Box<dyn FnOnce() + Send> = match self {
            Self::Socket(socket) => {
                let listener = socket.listener().map_err(StartError::System)?;
                Box::new(move || accept(|| accept_unix(&listener), page))
            }
            Self::Loopback(listener) => {
                let listener = listener.try_clone().map_err(StartError::System)?;
                Box::new(move || accept(|| accept_tcp(&listener), page))
            }
        };
        thread::Builder::new().name("metrics".into()).spawn(serve).map_err(StartError::System)?;
        Ok(())
    }
}

fn accept_unix(listener: &UnixListener) -> io::Result<impl Read + Write + use<>> {
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn accept_tcp(listener: &TcpListener) -> io::Result<impl Read + Write + use<>> {
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn accept<S: Read + Write>(next: impl Fn() -> io::Result<S>, page: impl Fn() -> String) {
    loop {
        match next() {
            // A client that goes away, or is too slow, is its own loss.
            Ok(mut stream) => drop(answer(&mut stream, &page)),
            Err(error) => {
                tracing::warn!("metrics: {error}");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn answer(stream: &mut (impl Read + Write), page: impl Fn() -> String) -> io::Result<()> {
    let Some(head) = head(stream)? else { return Ok(()) };
    let (status, body) = match request(&head) {
        Some(("GET" | "HEAD", path)) if path == "/metrics" || path.starts_with("/metrics?") => {
            ("200 OK", page())
        }
        Some(("GET" | "HEAD", _)) => ("404 Not Found", "there is /metrics here and nothing else\n".into()),
        Some(_) => ("405 Method Not Allowed", "GET /metrics\n".into()),
        None => ("400 Bad Request", "not a request of HTTP/1\n".into()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Allow: GET, HEAD\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if !head.starts_with(b"HEAD ") {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

/// Everything up to the empty line; `None`: it did not come, or not in time.
fn head(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let until = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while head.len() < MAX_HEAD_BYTES && Instant::now() < until {
        let length = stream.read(&mut part)?;
        if length == 0 {
            return Ok(None);
        }
        head.extend_from_slice(part.get(..length).unwrap_or_default());
        if head.windows(4).any(|w| w == b"\r\n\r\n") {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

/// Method and target.
fn request(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|b| *b == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    (version.starts_with("HTTP/1.") && words.next().is_none()).then_some((method, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_interface_is_listened_on() {
        assert_eq!("unix:/run/m".parse(), Ok(Place::Socket("/run/m".into())));
        assert_eq!("[::1]:9464".parse(), Ok(Place::Loopback("[::1]:9464".parse().unwrap())));
        for bad in ["0.0.0.0:9464", "192.0.2.1:80", "9464", "localhost:9464"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    struct Client(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Client {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.0.read(to)
        }
    }

    impl Write for Client {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn ask(request: &str) -> String {
        let mut client = Client(io::Cursor::new(request.into()), vec![]);
        answer(&mut client, || "a 1\n".into()).unwrap();
        String::from_utf8(client.1).unwrap()
    }

    #[test]
    fn requests_get_what_they_deserve() {
        let page = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\na 1\n"), "{page}");
        assert!(page.contains("Content-Length: 4\r\n"));
        assert!(ask("HEAD /metrics HTTP/1.0\r\n\r\n").ends_with("\r\n\r\n"));
        assert!(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(ask("GET /metrics\r\n\r\n").starts_with("HTTP/1.1 400"));
        assert_eq!(ask("GET /metrics HTTP/1.1\r\n"), "", "no end: no answer");
        assert_eq!(ask(&"x".repeat(MAX_HEAD_BYTES + 1)), "");
    }
}
