//! Health checks: asks a balancer's backends whether they work, and has the packet threads leave out those that do not.
//!
//! A few threads ask with ordinary sockets of the process's namespace, each its share of the backends in turn; one judges the answers and
//! gives the packet threads the same configuration with other backends down (`dataplane_engine::Basis::prepare_health`), swapped in by
//! pointer. A backend is up until it was asked. It never touches a packet, and every wait has a bound.
//!
//! In a chain each balancer has a judge and askers of its own. Tests: below; `tests/rows.rs` has a chain.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use dataplane_control::config::{HealthCheck, LoadBalancer, Probe};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::{configure::Configurator, error::StartError};

/// Threads that ask: with a time-out of a second, so many dead backends are found a second.
const ASKERS: usize = 16;
/// How soon a thread sees that it is no longer needed.
const GLANCE: Duration = Duration::from_millis(100);
/// When a change that could not be given to the packet threads is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Changes that come together are swapped in together.
const TOGETHER: Duration = Duration::from_millis(20);

/// What the judge hears.
pub enum News {
    /// This runs from now on.
    Runs(Box<LoadBalancer>),
    /// A backend answered, or did not.
    Answer { round: u64, backend: String, good: bool },
}

/// Starts to judge for the row's `index`-th function; what runs is to be told.
pub fn start(configurator: Configurator, index: usize) -> Result<Sender<News>, StartError> {
    let (sender, news) = mpsc::channel();
    let judge = Judge::new(sender.clone());
    thread::Builder::new()
        .name("health".into())
        .spawn(move || judge.run(&news, |down| configurator.leave_out(index, down)))
        .map_err(StartError::System)?;
    Ok(sender)
}

/// A backend's answers.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    down: bool,
    /// Answers in a row that speak against what it is.
    against: u32,
}

impl Record {
    /// Whether that makes it another.
    fn hear(&mut self, good: bool, check: &HealthCheck) -> bool {
        if good != self.down {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let changes = self.against >= if good { check.up_after } else { check.down_after };
        if changes {
            *self = Self { down: !good, against: 0 };
        }
        changes
    }
}

struct Judge {
    sender: Sender<News>,
    /// Grows with each configuration: answers to an older one are not heard.
    round: u64,
    /// The balancer's side towards clients: tells it from others in a row.
    client: String,
    check: Option<(HealthCheck, Arc<AtomicBool>)>,
    backends: BTreeMap<String, Record>,
}

impl Judge {
    fn new(sender: Sender<News>) -> Self {
        Self { sender, round: 0, client: String::new(), check: None, backends: BTreeMap::new() }
    }

    /// Until the process ends. `leave_out` has the packet threads leave these out.
    fn run<E: std::fmt::Display>(
        mut self,
        news: &Receiver<News>,
        leave_out: impl Fn(&BTreeSet<String>) -> Result<(), E>,
    ) {
        let mut told = BTreeSet::new();
        let mut wait = Duration::MAX;
        loop {
            match news.recv_timeout(wait) {
                Ok(one) => self.hear(one),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let until = Instant::now() + TOGETHER;
            while let Ok(one) = news.recv_timeout(until.saturating_duration_since(Instant::now())) {
                self.hear(one);
            }
            let down: BTreeSet<String> =
                self.backends.iter().filter(|(_, r)| r.down).map(|(id, _)| id.clone()).collect();
            wait = Duration::MAX;
            if down != told {
                match leave_out(&down) {
                    Ok(()) => told = down,
                    Err(error) => {
                        tracing::warn!("health: {error}");
                        wait = AGAIN;
                    }
                }
            }
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Runs(config) => self.begin(&config),
            News::Answer { round, backend, good } => {
                let (Some((check, _)), Some(record)) = (&self.check, self.backends.get_mut(&backend)) else {
                    return;
                };
                if round == self.round && record.hear(good, check) {
                    let now = if good { "is up" } else { "is down" };
                    tracing::warn!(backend, client = self.client, "{now}");
                }
            }
        }
    }

    /// Asks the backends of a configuration; what is known of those that stay is kept.
    fn begin(&mut self, config: &LoadBalancer) {
        if let Some((_, stop)) = self.check.take() {
            stop.store(true, Ordering::Relaxed);
        }
        self.round += 1;
        self.client.clone_from(&config.client);
        let Some(check) = config.health.clone() else { return self.backends.clear() };
        let before = std::mem::take(&mut self.backends);
        let record = |id: &String| before.get(id).copied().unwrap_or_default();
        self.backends = config.backends.iter().map(|b| (b.id.clone(), record(&b.id))).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let asked: Vec<(String, IpAddr)> =
            config.backends.iter().filter_map(|b| Some((b.id.clone(), *b.addresses.first()?))).collect();
        for share in 0..ASKERS.min(asked.len()) {
            let backends = asked.iter().skip(share).step_by(ASKERS).cloned().collect();
            let asker = Asker {
                check: check.clone(),
                backends,
                round: self.round,
                stop: stop.clone(),
                news: self.sender.clone(),
            };
            let started = thread::Builder::new().name("health-ask".into()).spawn(move || asker.run());
            if let Err(error) = started {
                tracing::warn!("health: a share of the backends is not asked: {error}");
            }
        }
        self.check = Some((check, stop));
    }
}

/// Asks a share of the backends.
struct Asker {
    check: HealthCheck,
    backends: Vec<(String, IpAddr)>,
    round: u64,
    stop: Arc<AtomicBool>,
    news: Sender<News>,
}

impl Asker {
    fn run(self) {
        let interval = Duration::from_millis(self.check.interval_ms.into());
        let count = u32::try_from(self.backends.len()).unwrap_or(u32::MAX).max(1);
        // Spread over the interval from the start.
        let mut due: Vec<Instant> = (0..count).map(|n| Instant::now() + interval / count * n).collect();
        while !self.stop.load(Ordering::Relaxed) {
            let Some(at) = (0..due.len()).min_by_key(|i| due[*i]) else { return };
            let wait = due[at].saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                thread::sleep(wait.min(GLANCE));
                continue;
            }
            let (backend, address) = &self.backends[at];
            let good = ask(&self.check, *address).is_ok();
            let answer = News::Answer { round: self.round, backend: backend.clone(), good };
            if self.news.send(answer).is_err() {
                return;
            }
            due[at] = Instant::now() + jittered(interval);
        }
    }
}

/// A tenth more or less.
fn jittered(interval: Duration) -> Duration {
    // Without random numbers all intervals are alike, which is no reason to stop.
    let tenths_of_percent = getrandom::u64().map_or(1000, |n| 900 + n % 201);
    interval * u32::try_from(tenths_of_percent).unwrap_or(1000) / 1000
}

/// Asks a backend once.
fn ask(check: &HealthCheck, address: IpAddr) -> io::Result<()> {
    let until = Instant::now() + Duration::from_millis(check.timeout_ms.into());
    match &check.probe {
        Probe::Tcp { port } => connect(SocketAddr::new(address, *port), until).map(drop),
        Probe::Http { port, path } => get(SocketAddr::new(address, *port), path, until),
        Probe::Icmp => echo(address, until),
    }
}

/// Time left, which must be some: a time-out of zero is none.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn connect(to: SocketAddr, until: Instant) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&to, left(until)?)
}

/// `GET` (RFC 9112); good is a status of 2xx.
fn get(from: SocketAddr, path: &str, until: Instant) -> io::Result<()> {
    const STATUS_LINE: usize = 12;
    let mut stream = connect(from, until)?;
    stream.set_write_timeout(Some(left(until)?))?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {from}\r\nUser-Agent: mandate\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let (mut line, mut got) = ([0; STATUS_LINE], 0);
    while got < STATUS_LINE {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut line[got..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => got += n,
        }
    }
    let good = line.starts_with(b"HTTP/1.") && line[8..10] == *b" 2";
    if good { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// ICMP echo (RFC 792, RFC 4443 §4.1) by a ping socket, else a raw one; the answer is known by what was sent along.
fn echo(address: IpAddr, until: Instant) -> io::Result<()> {
    let (family, protocol, request, reply) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let open = |kind| socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol);
    let (fd, raw) = match open(SockType::Datagram) {
        Ok(fd) => (fd, false),
        Err(_) => (open(SockType::Raw)?, true),
    };
    let socket = UdpSocket::from(fd);
    socket.connect(SocketAddr::new(address, 0))?;
    let token = getrandom::u64().map_err(|e| io::Error::other(e.to_string()))?.to_be_bytes();
    let mut message = [request, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    message[8..].copy_from_slice(&token);
    // The kernel sums up all others.
    let sum = internet_checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    socket.send(&message)?;
    let mut buffer = [0; 256];
    loop {
        socket.set_read_timeout(Some(left(until)?))?;
        let got = socket.recv(&mut buffer)?;
        let packet = buffer.get(..got).unwrap_or_default();
        // A raw IPv4 socket gives the IP header, too.
        let header = if raw && address.is_ipv4() {
            usize::from(packet.first().copied().unwrap_or(0) & 15) * 4
        } else {
            0
        };
        let answer = packet.get(header..).unwrap_or_default();
        if answer.first() == Some(&reply) && answer.get(8..16) == Some(&token[..]) {
            return Ok(());
        }
    }
}

/// RFC 1071.
fn internet_checksum(message: &[u8; 16]) -> u16 {
    let sum: u32 = message.chunks_exact(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    !u16::try_from((folded >> 16) + (folded & 0xffff)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, TcpListener},
        sync::Mutex,
    };

    use dataplane_control::{MacAddr, config::Backend};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn check(probe: Probe) -> HealthCheck {
        HealthCheck { timeout_ms: 200, interval_ms: 100, ..HealthCheck::new(probe) }
    }

    #[test]
    fn so_many_answers_in_a_row_change_it() {
        let check = check(Probe::Icmp);
        let mut record = Record::default();
        let heard: Vec<bool> =
            [true, false, false, true, false, false, false, false, true, false, true, true, true]
                .into_iter()
                .map(|good| {
                    record.hear(good, &check);
                    record.down
                })
                .collect();
        let (t, f) = (true, false);
        assert_eq!(heard, [f, f, f, f, f, f, t, t, t, t, t, f, f]);
    }

    /// Answers each connection so.
    fn server(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(answer);
            }
        });
        port
    }

    fn nobody() -> u16 {
        TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn tcp_and_http_are_asked() {
        let good = server(b"HTTP/1.1 204 No Content\r\n\r\n");
        let path = || "/health".to_owned();
        assert!(ask(&check(Probe::Tcp { port: good }), HERE).is_ok());
        assert!(ask(&check(Probe::Tcp { port: nobody() }), HERE).is_err());
        assert!(ask(&check(Probe::Http { port: good, path: path() }), HERE).is_ok());
        for answer in
            [&b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..], b"HTTP/1.", b"220 mail.example ESMTP\r\n"]
        {
            assert!(ask(&check(Probe::Http { port: server(answer), path: path() }), HERE).is_err());
        }
        // Accepted by the kernel, and nobody answers.
        let silent = TcpListener::bind((HERE, 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let began = Instant::now();
        assert!(ask(&check(Probe::Http { port, path: path() }), HERE).is_err());
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn icmp_is_asked() {
        match ask(&check(Probe::Icmp), HERE) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("skipped: neither a ping socket nor a raw one may be opened");
            }
            answer => answer.unwrap(),
        }
    }

    #[test]
    fn who_does_not_answer_is_left_out_until_it_does() {
        let late = nobody();
        let told: Arc<Mutex<Vec<BTreeSet<String>>>> = Arc::default();
        let (sender, news) = mpsc::channel();
        let judge = Judge::new(sender.clone());
        let heard = told.clone();
        thread::spawn(move || {
            judge.run(&news, |down| {
                heard.lock().unwrap().push(down.clone());
                // The first time nobody listens.
                if heard.lock().unwrap().len() == 1 { Err("not now") } else { Ok(()) }
            });
        });
        let backends =
            ["a", "b"].map(|id| Backend { addresses: vec![HERE], ..Backend::new(id, 1, MacAddr([2; 6]), 1) });
        let config = |probe| LoadBalancer {
            health: Some(check(probe)),
            ..LoadBalancer::new("x", "y", vec![], backends.to_vec())
        };
        let until = |wanted: &BTreeSet<String>| {
            let began = Instant::now();
            while told.lock().unwrap().last() != Some(wanted) && began.elapsed() < Duration::from_secs(20) {
                thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(told.lock().unwrap().last(), Some(wanted));
        };
        let both: BTreeSet<String> = ["a", "b"].map(str::to_owned).into();
        sender.send(News::Runs(Box::new(config(Probe::Tcp { port: late })))).unwrap();
        // One after the other or together; again after the refusal.
        until(&both);
        let began = Instant::now();
        while told.lock().unwrap().len() < 2 && began.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(told.lock().unwrap().len() >= 2, "told once, and not again after the refusal");
        until(&both);
        let _up = TcpListener::bind((HERE, late)).unwrap();
        until(&BTreeSet::new());
    }
}
