//! Waiting for packets without burning a core.
//!
//! DPDK's drivers for sockets have no receive interrupt, but the sockets behind them can be polled like any other:
//! a process with nothing to do sleeps in poll(2) and wakes with the first packet, where a timed sleep would cost
//! either latency or CPU. Drivers over shared memory (memif, rings) have no such descriptor; a caller with one of
//! those waits with a short timeout.
//!
//! Tests: `tests/process.rs` of `mandate-dataplane` measures idle CPU and the time to answer.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    time::Duration,
};

use crate::{DpdkError, Eal};

/// Descriptors searched for sockets of drivers. A process of ours has some tens.
const MAX_DESCRIPTORS: RawFd = 1024;

/// The descriptors to wait for.
#[derive(Debug)]
pub struct Waiter<'e> {
    /// The first is the caller's own.
    descriptors: Vec<libc::pollfd>,
    _borrowed: PhantomData<&'e Eal>,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// A port has packets, or its interface changed state.
    Packets,
    /// The caller's own descriptor is readable.
    Called,
    /// Nothing happened in time.
    TimedOut,
}

impl<'e> Waiter<'e> {
    /// Waits for `call` alone: sockets of ports with several queues would wake the threads of all of them.
    #[must_use]
    pub fn only(call: BorrowedFd<'e>) -> Self {
        let own = libc::pollfd { fd: call.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        Self { descriptors: vec![own], _borrowed: PhantomData }
    }

    /// Waits for the sockets of all ports that are open now, and for `call`.
    pub fn new(_eal: &'e Eal, call: BorrowedFd<'e>) -> Self {
        let own = call.as_raw_fd();
        let sockets = (0..MAX_DESCRIPTORS).filter(|fd| *fd != own && is_port_socket(*fd));
        let descriptors = std::iter::once(own)
            .chain(sockets)
            .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
            .collect();
        Self { descriptors, _borrowed: PhantomData }
    }

    /// Sockets of ports it waits for.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.descriptors.len() - 1
    }

    /// Sleeps until a packet, a call, or the timeout (rounded up to whole µs; more with the system's timer slack).
    pub fn wait(&mut self, timeout: Duration) -> Result<Woken, DpdkError> {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let count = self.descriptors.len() as libc::nfds_t;
        // SAFETY: `descriptors` has `count` entries; the timeout is read only; no signal mask. A descriptor that was
        // closed is reported as invalid. JUSTIFICATION: the standard library cannot wait for descriptors.
        let ready = unsafe {
            libc::ppoll(self.descriptors.as_mut_ptr(), count, &raw const timeout, std::ptr::null())
        };
        match ready {
            0 => Ok(Woken::TimedOut),
            n if n > 0 => Ok(self.woken()),
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => Ok(Woken::TimedOut),
                e => Err(DpdkError::Wait(e)),
            },
        }
    }

    fn woken(&self) -> Woken {
        for socket in self.descriptors.iter().skip(1).filter(|d| d.revents & libc::POLLERR != 0) {
            // The interface went down; reading the error clears it, or the next wait would return at once.
            let _ = option(socket.fd, libc::SO_ERROR);
        }
        match self.descriptors.first() {
            Some(own) if own.revents != 0 => Woken::Called,
            _ => Woken::Packets,
        }
    }
}

/// A socket that a driver receives from: of the XDP family, or of the packet family and bound to an interface. (The
/// `af_packet` driver has an unbound one too, only for ioctl(2), that nobody reads.)
fn is_port_socket(fd: RawFd) -> bool {
    match option(fd, libc::SO_DOMAIN) {
        Some(libc::AF_XDP) => true,
        Some(libc::AF_PACKET) => bound_interface(fd).is_some_and(|index| index != 0),
        _ => false,
    }
}

fn option(fd: RawFd, name: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size::<libc::c_int>();
    // SAFETY: writes at most `length` bytes to `value`; a wrong descriptor is an error. JUSTIFICATION: the descriptors
    // are the drivers', so no owner of ours can be asked.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length) };
    (result == 0).then_some(value)
}

fn bound_interface(fd: RawFd) -> Option<libc::c_int> {
    // SAFETY: zeroes are a valid address structure. JUSTIFICATION: C has no other initialiser.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut length = size::<libc::sockaddr_ll>();
    // SAFETY: writes at most `length` bytes to `address`. JUSTIFICATION: as in `option`.
    let result = unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut length) };
    (result == 0).then_some(address.sll_ifindex)
}

fn size<T>() -> libc::socklen_t {
    // Some tens of bytes; 0 would make the call fail.
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}
