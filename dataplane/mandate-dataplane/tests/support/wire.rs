//! Raw frames into and out of an interface of a namespace.

#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
        sockopt::RcvBuf,
    },
};

/// Room for any frame.
pub const LONGEST: usize = 1 << 16;
/// Bytes that the kernel keeps of what was not read yet.
const QUEUE: usize = 4 << 20;

/// Does something in a namespace, which is its thread's.
pub fn within<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = format!("/var/run/netns/{namespace}");
    std::thread::spawn(move || {
        setns(File::open(namespace).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// A packet socket on one interface.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn open(namespace: &str, interface: &str) -> Self {
        let interface = interface.to_owned();
        within(namespace, move || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let it = socket(AddressFamily::Packet, SockType::Raw, flags, Some(SockProtocol::EthAll)).unwrap();
            let link = getifaddrs().unwrap().find_map(|a| {
                (a.interface_name == interface).then(|| a.address?.as_link_addr().copied()).flatten()
            });
            bind(it.as_raw_fd(), &link.unwrap()).unwrap();
            let _smaller_does = setsockopt(&it, RcvBuf, &QUEUE);
            let wire = Self(it);
            // What came from elsewhere before it was bound.
            while wire.take(&mut [0; LONGEST]).is_some() {}
            wire
        })
        .join()
        .unwrap()
    }

    /// Whether the kernel took it: nothing shorter than an Ethernet header, or longer than the link's.
    pub fn send(&self, frame: &[u8]) -> bool {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty()).is_ok()
    }

    /// What is there already.
    pub fn take(&self, buffer: &mut [u8]) -> Option<usize> {
        recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()).ok()
    }

    /// Waits for the next frame.
    pub fn receive(&self, buffer: &mut [u8], until: Instant) -> Option<usize> {
        loop {
            if let Some(n) = self.take(buffer) {
                return Some(n);
            }
            let left = until.checked_duration_since(Instant::now())?;
            wait(&[self], left);
        }
    }
}

/// Until one has a frame, or the time is over.
pub fn wait(wires: &[&Wire], at_most: Duration) {
    let mut all: Vec<PollFd<'_>> =
        wires.iter().map(|w| PollFd::new(w.0.as_fd(), PollFlags::POLLIN)).collect();
    let _interrupted = poll(&mut all, PollTimeout::try_from(at_most).unwrap());
}
