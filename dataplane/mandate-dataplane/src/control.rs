//! The control socket: one thread per connection, few at a time, every wait bounded.
//!
//! The socket is made with mode 0600 and is the only authorization: whoever may open it may say anything. The version
//! is checked before anything else is decoded. Requests become [`Command`]s for the worker; documents and profiles are
//! parsed and prepared here, off the packet thread.

use std::{
    fs, io,
    os::unix::{
        fs::FileTypeExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use dataplane_control::{
    Configuration, Function, MacAddr,
    capture::Capture,
    config::Generator,
    protocol::{self, ProtocolError, Request, Response, Status},
    traffic::TrafficProfile,
};
use dataplane_engine::traffic::Session;
use nix::sys::stat::{Mode, umask};
use serde::Deserialize;

use crate::{
    clock::Clock,
    command::{Command, Workers},
    configure::Configurator,
    error::{Refusal, StartError},
    report::merged,
    telemetry::{Board, capture},
};

/// Connections at once: the orchestrator, a launcher, an operator, each perhaps reconnecting.
const MAX_CONNECTIONS: usize = 8;
/// A connection that says nothing for so long is closed.
const SILENCE: Duration = Duration::from_secs(60);
/// A client that does not read its answer for so long is disconnected.
const WRITE_WITHIN: Duration = Duration::from_secs(5);
/// A run begins so long after it was prepared, µs: its tables take time to build.
const RUN_LEAD_US: u64 = 20_000;
/// Time for the report beyond the run itself.
const RUN_MARGIN: Duration = Duration::from_secs(30);
/// Pause after a failed accept(2), e.g. for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bound socket; its file is removed on drop.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds. A socket file on which nobody answers was left by a crash and is replaced; anything else is refused.
    pub fn bind(path: &Path) -> Result<Self, StartError> {
        remove_stale(path)?;
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(|source| StartError::Socket { path: path.to_owned(), source })?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// To accept on; the file stays with `self`.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove the socket {}: {error}", self.path.display());
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(StartError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(e) => Err(failed(e)),
        Ok(_) => Err(StartError::SocketInUse { path: path.to_owned() }),
    }
}

/// What a connection needs to know.
#[derive(Clone)]
struct Server {
    workers: Workers,
    boards: Arc<[Arc<Board>]>,
    configurator: Configurator,
    clock: Clock,
    /// Ports and their names never change.
    configuration: Arc<Configuration>,
    /// Whether a capture is going on.
    capturing: Arc<AtomicBool>,
    /// Of the generator's port, if the process is one.
    generator: Option<MacAddr>,
    connections: Arc<AtomicUsize>,
}

/// Serves the socket on threads of its own until the process ends.
pub fn serve(
    socket: &ControlSocket,
    workers: Workers,
    boards: Vec<Arc<Board>>,
    clock: Clock,
    configuration: &Configuration,
) -> Result<(), StartError> {
    let listener = socket.listener().map_err(StartError::System)?;
    let server = Server {
        configurator: Configurator::new(workers.clone(), configuration)?,
        workers,
        boards: boards.into(),
        clock,
        generator: generator_mac(configuration),
        configuration: Arc::new(Configuration {
            function: Function::Generator(Generator { port: String::new() }),
            ..configuration.clone()
        }),
        capturing: Arc::default(),
        connections: Arc::default(),
    };
    let accept = move || {
        loop {
            match listener.accept() {
                Ok((stream, _)) => server.admit(stream),
                Err(error) => {
                    tracing::warn!("control socket: {error}");
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    };
    thread::Builder::new().name("control".into()).spawn(accept).map_err(StartError::System)?;
    Ok(())
}

fn generator_mac(configuration: &Configuration) -> Option<MacAddr> {
    let Function::Generator(generator) = &configuration.function else { return None };
    configuration.ports.iter().find(|p| p.name == generator.port).map(|p| p.mac)
}

/// Counts a connection for as long as it lives.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    fn admit(&self, mut stream: UnixStream) {
        let slot = Slot(self.connections.clone());
        let taken = self.connections.fetch_add(1, Ordering::Relaxed);
        let server = self.clone();
        let result = set_timeouts(&stream).and_then(|()| {
            if taken >= MAX_CONNECTIONS {
                let message = format!("{MAX_CONNECTIONS} connections are open; close one and try again");
                return answer(&mut stream, &error(&Refusal::new("TOO_MANY_CONNECTIONS", message)));
            }
            let talk = move || {
                let _slot = slot;
                if let Err(error) = server.talk(&mut stream) {
                    tracing::warn!("{error}");
                }
            };
            thread::Builder::new().name("connection".into()).spawn(talk)?;
            Ok(())
        });
        if let Err(error) = result {
            tracing::warn!("{error}");
        }
    }

    fn talk(&self, stream: &mut UnixStream) -> Result<(), ProtocolError> {
        if !greet(stream)? {
            return Ok(());
        }
        loop {
            let request = match protocol::read_frame::<Request>(stream) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(ProtocolError::Malformed(cause)) => {
                    answer(stream, &error(&Refusal::new("MALFORMED", format!("not a request: {cause}"))))?;
                    continue;
                }
                Err(ProtocolError::Io(e)) if is_timeout(&e) => return Ok(()),
                Err(other) => return Err(other),
            };
            let last = request == Request::Shutdown;
            let response = self.respond(request).unwrap_or_else(|refusal| error(&refusal));
            answer(stream, &response)?;
            if last {
                self.workers.shutdown();
                return Ok(());
            }
        }
    }

    fn respond(&self, request: Request) -> Result<Response, Refusal> {
        let ask = |status| Ok(Response::Status(Box::new(status)));
        match request {
            Request::Hello { .. } => Ok(Response::Hello { version: protocol::VERSION }),
            Request::Status => self.workers.status(|reply| Command::Status { reply }).and_then(ask),
            Request::Counters => self.counters().and_then(ask),
            Request::Configure { document } => self.configurator.configure(&document).and_then(ask),
            Request::Isolate { on } => {
                self.workers.status(|reply| Command::Isolate { on, reply }).and_then(ask)
            }
            Request::Announce => self.workers.status(|reply| Command::Announce { reply }).and_then(ask),
            Request::Capture { capture } => self.capture(&capture),
            Request::Run { profile } => self.run(*profile),
            Request::Shutdown => Ok(Response::Bye),
        }
    }

    fn run(&self, profile: TrafficProfile) -> Result<Response, Refusal> {
        let mac = self.generator.ok_or_else(|| {
            Refusal::new("NOT_A_GENERATOR", "this process sends no traffic of its own; ask a generator")
        })?;
        let lasts = Duration::from_millis(u64::from(profile.duration_ms) + u64::from(profile.drain_ms));
        let session = Session::new(profile, mac, self.clock.now_us() + RUN_LEAD_US)
            .map_err(|e| Refusal::new("PROFILE_REFUSED", format!("{e}; correct the profile")))?;
        let session = Box::new(session);
        // A generator is one thread.
        let Some(worker) = self.workers.each().first() else {
            return Err(Refusal::new("SHUTTING_DOWN", "no packet thread is left"));
        };
        let report = worker.ask(|reply| Command::Run { session, reply }, lasts + RUN_MARGIN)?;
        Ok(Response::Report(Box::new(report)))
    }

    /// What the packet threads last left: nobody is asked.
    fn counters(&self) -> Result<Status, Refusal> {
        let reports: Vec<_> = self.boards.iter().filter_map(|b| b.latest()).collect();
        merged(reports.iter().map(|r| &**r))
            .ok_or_else(|| Refusal::new("STARTING", "no packet thread has begun yet; ask again"))
    }

    fn capture(&self, capture: &Capture) -> Result<Response, Refusal> {
        if self.capturing.swap(true, Ordering::AcqRel) {
            return Err(Refusal::new(
                "CAPTURE_ACTIVE",
                "a capture is going on; wait for its end and ask again",
            ));
        }
        let report = capture::run(capture, &self.configuration, self.workers.each(), self.clock);
        self.capturing.store(false, Ordering::Release);
        report.map(Response::Captured)
    }
}

/// The first frame, decoded no further than its version.
#[derive(Deserialize)]
struct Greeting {
    request: String,
    #[serde(default)]
    version: u32,
}

/// Whether to go on.
fn greet(stream: &mut UnixStream) -> Result<bool, ProtocolError> {
    let greeting = match protocol::read_frame::<Greeting>(stream) {
        Ok(Some(greeting)) if greeting.request == "hello" => greeting,
        Ok(Some(_)) | Err(ProtocolError::Malformed(_)) => {
            let refusal = Refusal::new("HELLO_FIRST", "the first request of a connection is `hello`");
            answer(stream, &error(&refusal))?;
            return Ok(false);
        }
        // Closed or silent: somebody looked whether we are there.
        Ok(None) => return Ok(false),
        Err(ProtocolError::Io(e)) if is_timeout(&e) => return Ok(false),
        Err(other) => return Err(other),
    };
    // The other side compares too, and says which is older.
    answer(stream, &Response::Hello { version: protocol::VERSION })?;
    Ok(greeting.version == protocol::VERSION)
}

fn answer(stream: &mut UnixStream, response: &Response) -> Result<(), ProtocolError> {
    protocol::write_frame(stream, response)
}

fn error(refusal: &Refusal) -> Response {
    Response::Error { code: refusal.code.into(), message: refusal.message.clone() }
}

fn set_timeouts(stream: &UnixStream) -> Result<(), ProtocolError> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(WRITE_WITHIN))?;
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let first = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(ControlSocket::bind(&path), Err(StartError::SocketInUse { .. })));
        drop(first);
        assert!(!path.exists());

        // A listener that is closed without removing its file: what a crash leaves.
        drop(UnixListener::bind(&path).unwrap());
        drop(ControlSocket::bind(&path).unwrap());

        fs::write(&path, "precious").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(StartError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
