//! What the worker does when there is nothing to do.
//!
//! Several of these processes may share a core, so it polls a few times, then sleeps until a packet, a command or the
//! next tick. Ports over shared memory cannot wake it: with one of those the sleep is short and grows while nothing
//! comes.

use std::{io, os::fd::BorrowedFd, time::Duration};

use dpdk::{DpdkError, Eal, Waiter, Woken};

/// Empty polls before it sleeps: about 2 µs, less than a sleep and a wake-up cost.
const SPINS: u32 = 32;
/// First sleep when a port cannot wake us.
const SHORTEST_US: u64 = 20;
/// Longest such sleep: at most 2,000 wake-ups a second, about 1 % of a core.
const LONGEST_US: u64 = 500;
/// Granularity the kernel may use for our sleeps; its default would add 50 µs to each.
const TIMER_SLACK_NS: u64 = 1_000;

/// Decides when to sleep and how long.
pub struct Idle<'e> {
    waiter: Waiter<'e>,
    all_ports_wake: bool,
    empty_polls: u32,
    sleep_us: u64,
}

impl<'e> Idle<'e> {
    /// Of the thread that calls it. `sockets`: how many of the open ports should have one; `all`: whether that is
    /// all ports.
    pub fn new(eal: &'e Eal, bell: BorrowedFd<'e>, sockets: usize, all: bool) -> io::Result<Self> {
        nix::sys::prctl::set_timerslack(TIMER_SLACK_NS)?;
        let waiter = Waiter::new(eal, bell);
        let found = waiter.sockets();
        if found < sockets {
            tracing::warn!("{found} of {sockets} ports have a socket to wait for: sleeping by time instead");
        }
        let all_ports_wake = all && found >= sockets;
        Ok(Self { waiter, all_ports_wake, empty_polls: 0, sleep_us: SHORTEST_US })
    }

    /// Of one of several packet threads: it sleeps by time.
    pub fn by_time(bell: BorrowedFd<'e>) -> io::Result<Self> {
        nix::sys::prctl::set_timerslack(TIMER_SLACK_NS)?;
        Ok(Self { waiter: Waiter::only(bell), all_ports_wake: false, empty_polls: 0, sleep_us: SHORTEST_US })
    }

    /// Something came: poll on.
    pub fn busy(&mut self) {
        self.empty_polls = 0;
        self.sleep_us = SHORTEST_US;
    }

    /// Nothing came: poll on, or sleep, at most `most`. True: somebody rang.
    pub fn nothing(&mut self, most: Duration) -> Result<bool, DpdkError> {
        self.empty_polls = self.empty_polls.saturating_add(1);
        if self.empty_polls < SPINS {
            std::hint::spin_loop();
            return Ok(false);
        }
        let timeout = if self.all_ports_wake { most } else { most.min(self.next_sleep()) };
        Ok(self.waiter.wait(timeout)? == Woken::Called)
    }

    fn next_sleep(&mut self) -> Duration {
        let now = Duration::from_micros(self.sleep_us);
        self.sleep_us = (self.sleep_us * 2).min(LONGEST_US);
        now
    }
}
