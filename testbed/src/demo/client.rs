//! A tenant's client: a machine of its own on the service's access link, with this kernel's network stack.
//!
//! It resolves the service's addresses as any client does (ARP, neighbour discovery), keeps what it resolved, and sends
//! numbered datagrams that the backends echo. What it counts is what a user would notice of a change.

use std::{
    fs::File,
    io::ErrorKind,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{self, MsgFlags},
};
use serde_json::Value;

use crate::command;

/// Sockets to each address: as many flows, so that every backend is likely to have some.
const FLOWS: usize = 8;
/// Pause between two datagrams.
const EVERY: Duration = Duration::from_millis(1);
/// Between two looks at the sockets.
const LOOK: Duration = Duration::from_micros(200);
/// Longest wait for the last answers.
const DRAIN: Duration = Duration::from_millis(500);
const IP_LIMIT: Duration = Duration::from_secs(10);

/// The machine; gone when dropped.
#[derive(Debug)]
pub struct Client {
    namespace: String,
    fabric: String,
}

impl Client {
    /// Plugs it into a link, found by its alias in a site's fabric.
    pub fn plug(fabric: &str, alias: &str, addresses: &[&str]) -> anyhow::Result<Self> {
        let bridge = bridge(fabric, alias)?;
        let it = Self { namespace: format!("tbc{}", std::process::id()), fabric: fabric.to_owned() };
        let Self { namespace: ns, .. } = &it;
        ip(&["netns", "add", ns])?;
        ip(&["-n", fabric, "link", "add", ns, "type", "veth", "peer", "name", "eth0", "netns", ns])?;
        ip(&["-n", fabric, "link", "set", ns, "master", &bridge, "up"])?;
        for address in addresses {
            let tail: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            ip(&[&["-n", ns, "address", "add", address, "dev", "eth0"], tail].concat())?;
        }
        ip(&["-n", ns, "link", "set", "eth0", "up"])?;
        Ok(it)
    }

    /// Begins to send to these services, and goes on until [`Traffic::end`].
    pub fn talk(&self, services: &[&str]) -> anyhow::Result<Traffic> {
        let sockets = self.sockets(services)?;
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let thread = thread::spawn(move || exchange(&sockets, &seen));
        Ok(Traffic { ended, thread })
    }

    /// A socket belongs to the namespace of the thread that makes it, for ever.
    fn sockets(&self, services: &[&str]) -> anyhow::Result<Vec<UdpSocket>> {
        let namespace = format!("/run/netns/{}", self.namespace);
        let services: Vec<String> = services.iter().map(|s| (*s).to_owned()).collect();
        let make = move || -> anyhow::Result<Vec<UdpSocket>> {
            setns(File::open(&namespace)?, CloneFlags::CLONE_NEWNET).context("entering the client")?;
            let mut sockets = Vec::new();
            for service in (0..FLOWS).flat_map(|_| &services) {
                let any = if service.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(service.as_str()).with_context(|| format!("connecting to {service}"))?;
                socket.set_nonblocking(true)?;
                sockets.push(socket);
            }
            Ok(sockets)
        };
        thread::spawn(make).join().map_err(|_| anyhow!("the client's thread ended"))?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Not through `command`: that ends at once when we were interrupted, and this must not. Gone is what we want.
        let _gone = Command::new("ip").args(["-n", &self.fabric, "link", "delete", &self.namespace]).status();
        let _gone = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<String> {
    Ok(command::succeed(Command::new("ip").args(arguments), IP_LIMIT)?.stdout)
}

fn bridge(fabric: &str, alias: &str) -> anyhow::Result<String> {
    let links: Vec<Value> = serde_json::from_str(&ip(&["-n", fabric, "-j", "link", "show"])?)?;
    let found = links.iter().find(|l| l["ifalias"].as_str().is_some_and(|a| a.ends_with(alias)));
    let name = found.and_then(|l| l["ifname"].as_str());
    name.map(str::to_owned).with_context(|| format!("no link `{alias}` in {fabric}"))
}

/// Datagrams under way.
#[derive(Debug)]
pub struct Traffic {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Traffic {
    /// Stops sending, waits for the last answers, and counts.
    pub fn end(self) -> anyhow::Result<Counts> {
        self.ended.store(true, Ordering::Relaxed);
        let seen = self.thread.join().map_err(|_| anyhow!("the client's thread ended"))?;
        ensure!(!seen.sent.is_empty(), "the client sent nothing");
        Ok(seen.counts())
    }
}

/// What a client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams sent.
    pub sent: usize,
    /// Not answered.
    pub lost: usize,
    /// Answered more than once.
    pub twice: usize,
    /// Longest time in which none of those sent was answered, ms.
    pub outage_ms: u128,
}

/// When each datagram was sent, and how often it was answered.
#[derive(Debug, Default)]
struct Seen {
    sent: Vec<Instant>,
    answers: Vec<u32>,
}

impl Seen {
    fn counts(&self) -> Counts {
        let (mut outage, mut since) = (Duration::ZERO, self.sent.first().copied());
        for (at, answers) in self.sent.iter().zip(&self.answers) {
            if *answers == 0 {
                outage = outage.max(since.map_or(Duration::ZERO, |s| at.duration_since(s)));
            } else {
                since = Some(*at);
            }
        }
        Counts {
            sent: self.sent.len(),
            lost: self.answers.iter().filter(|n| **n == 0).count(),
            twice: self.answers.iter().filter(|n| **n > 1).count(),
            outage_ms: outage.as_millis(),
        }
    }
}

fn exchange(sockets: &[UdpSocket], ended: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut due = Instant::now();
    let mut last = None;
    loop {
        let now = Instant::now();
        if ended.load(Ordering::Relaxed) {
            if now.duration_since(*last.get_or_insert(now)) > DRAIN {
                return seen;
            }
        } else if now >= due {
            let number = seen.sent.len();
            // What cannot be sent is not answered either.
            let _sent = send(&sockets[number % sockets.len()], number as u64);
            seen.sent.push(now);
            seen.answers.push(0);
            due = now + EVERY;
        }
        sockets.iter().for_each(|socket| take(socket, &mut seen));
        thread::sleep(LOOK);
    }
}

/// In two pieces, so that the kernel sums it up here and now: what a veth pair carries otherwise has its checksum left
/// to a network card that never comes.
fn send(socket: &UdpSocket, number: u64) -> nix::Result<usize> {
    let number = number.to_be_bytes();
    let (head, tail) = number.split_at(4);
    socket::send(socket.as_raw_fd(), head, MsgFlags::from_bits_retain(nix::libc::MSG_MORE))?;
    socket::send(socket.as_raw_fd(), tail, MsgFlags::empty())
}

fn take(socket: &UdpSocket, seen: &mut Seen) {
    let mut buffer = [0; 64];
    loop {
        match socket.recv(&mut buffer) {
            Ok(8) => {
                let number = u64::from_be_bytes([
                    buffer[0], buffer[1], buffer[2], buffer[3], buffer[4], buffer[5], buffer[6], buffer[7],
                ]);
                let place = usize::try_from(number).ok().and_then(|n| seen.answers.get_mut(n));
                place.into_iter().for_each(|n| *n += 1);
            }
            Ok(_) => {}
            // An unreachable network is told by an error on the socket, once.
            Err(e) if e.kind() != ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_doubles_and_the_longest_outage_are_counted() {
        let start = Instant::now();
        let sent = (0..10).map(|n| start + Duration::from_millis(n)).collect();
        let seen = Seen { sent, answers: vec![1, 1, 0, 1, 2, 0, 0, 0, 1, 1] };
        assert_eq!(seen.counts(), Counts { sent: 10, lost: 4, twice: 1, outage_ms: 3 });
    }
}
