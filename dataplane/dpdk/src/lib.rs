//! DPDK ports, queues and buffers, owned by value.
//!
//! The safe layer over `dpdk-sys`, for one thread that runs to completion: [`Eal`] is initialised once per process by
//! that thread; a [`Pool`] borrows it, a [`Port`] (one receive and one transmit queue) borrows its pool, and packet
//! buffers ([`Mbuf`], [`Burst`]) borrow the pool they came from. None of them is `Send` or `Clone`: DPDK's queues and
//! per-lcore caches belong to the thread, and a buffer is freed exactly once, when it is dropped or when a driver
//! took it. What a burst could not transmit stays in the caller's hands.
//!
//! Unsafe code lives here and in `dpdk-sys` only. Every unsafe block says why it is sound (SAFETY) and why it is
//! worth it (JUSTIFICATION). Never here: packet formats, policy, configuration files.
//!
//! Tests: `tests/`, one process each, because the EAL initialises once: `null`, `ring`, `pcap`, `refused`.

mod eal;
mod error;
mod guard;
mod log;
mod mbuf;
mod memory;
mod pool;
mod port;
mod processor;
mod vdev;
mod wait;

pub use eal::{Eal, EalConfig, Memory, version};
pub use error::DpdkError;
pub use guard::hold_interfaces;
pub use log::drain as drain_log;
pub use mbuf::{BURST, Burst, Drain, Mbuf};
pub use memory::prefer_huge_pages;
pub use pool::{MAX_BUFFERS, MAX_FRAME_BYTES, Pool, Registered};
pub use port::{Link, MAX_QUEUES, Port, PortStats, Queue};
pub use processor::Processor;
pub use vdev::Vdev;
pub use wait::{Waiter, Woken};

/// Whether ports of libpcap can be made: the feature `pcap`.
pub const HAS_PCAP: bool = dpdk_sys::PCAP;
