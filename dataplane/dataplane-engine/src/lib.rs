//! Mandate's packet functions: stateful firewall, Maglev load balancer, reflector, and the traffic generator.
//!
//! Pure: a frame and the time come in, the frame (rewritten in place) and a [`Verdict`] go out. There is no I/O, no
//! clock, no randomness and, after [`build`] and but for a new configuration or a copy of the counters, no allocation. What moves frames
//! (DPDK) is another crate; what they mean is `dataplane_control::config`.
//!
//! It must never panic or read beyond a frame, whatever the bytes: `tests/parser.rs` feeds it random and mutated
//! frames, `tests/firewall.rs` and `tests/balancer.rs` compare with naive models, `tests/chain.rs` drives
//! generator, firewall, balancer and reflectors against each other in memory.

mod ages;
mod balancer;
mod chain;
mod checksum;
mod common;
pub mod events;
mod firewall;
mod frame;
mod hash;
pub mod headers;
mod key;
mod machine;
pub mod maglev;
mod neighbour;
mod packet;
mod prepare;
pub mod probe;
mod reason;
mod reflector;
pub mod rules;
mod table;
pub mod traffic;

use std::collections::BTreeMap;

pub use dataplane_control::config::ConfigError;
use dataplane_control::{Configuration, Function, sync::Told};
pub use frame::Frame;
pub use key::Side;
pub use machine::{Machine, Plain, Work, set_huge_pages};
pub use prepare::{Basis, Prepared, Retired, Snapshot};
pub use reason::DropReason;

/// Index of a port in [`Configuration::ports`].
pub type PortIndex = u16;

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it. A reply is a frame forwarded to the port it came in on.
    Forward {
        /// Where it leaves.
        port: PortIndex,
    },
    /// Free it.
    Drop(DropReason),
}

/// A packet function for frames that lie in buffers of kind `F`.
pub trait PacketFunction<F: Frame = Vec<u8>>: Send {
    /// Decides on one frame and rewrites it in place. `now_us` must not go backwards. Never allocates.
    fn process(&mut self, now_us: u64, ingress: PortIndex, frame: &mut F) -> Verdict;

    /// [`PacketFunction::process`] of each frame in turn, and no other verdict or byte than that; faster. `frames` and `verdicts` are
    /// as long as each other: what is longer is left alone.
    fn burst(&mut self, now_us: u64, ingress: PortIndex, frames: &mut [F], verdicts: &mut [Verdict]) {
        for (frame, verdict) in frames.iter_mut().zip(verdicts) {
            *verdict = self.process(now_us, ingress, frame);
        }
    }

    /// Ages connections: bounded work, to be called about every millisecond.
    fn tick(&mut self, now_us: u64);

    /// New randomness, about once a minute: secrets that strangers see the work of (SYN cookies) are replaced, each staying good for one
    /// period more. `seed` must not be predictable. Constant time.
    fn reseed(&mut self, seed: u64) {
        let _ = seed;
    }

    /// What the next configuration is to be prepared against; constant time.
    fn basis(&self) -> Basis;

    /// Swaps a prepared configuration in as a whole; tracked connections are kept. Drops nothing, and takes
    /// constant time, or that of copying a counter for each backend, unless the connection table grows: then every connection moves.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if another configuration was swapped in since the preparation; nothing was changed.
    fn swap(&mut self, prepared: Prepared) -> Result<Retired, ConfigError>;

    /// Prepares and swaps in one go, where nobody waits for packets. Neither the kind of function nor the ports may
    /// change. On an error nothing was changed.
    ///
    /// # Errors
    /// As [`Basis::prepare`].
    fn reconfigure(&mut self, configuration: &Configuration) -> Result<(), ConfigError> {
        let prepared = self.basis().prepare(configuration)?;
        self.swap(prepared).map(drop)
    }

    /// Writes the `index`-th frame that tells the link whose addresses are here, into a buffer of a whole frame; where it
    /// leaves and its length. `None`: there are no more, or the function has no address of its own.
    fn announcement(&self, index: usize, buffer: &mut [u8]) -> Option<(PortIndex, u16)> {
        let _ = (index, buffer);
        None
    }

    /// Copies the counters; they get their names where the copy is read.
    fn snapshot(&self) -> Snapshot;

    /// Adds this function's counters, see [`Snapshot::counters`].
    fn counters(&self, out: &mut BTreeMap<String, u64>) {
        self.snapshot().counters(out);
    }

    /// Connections tracked now.
    fn connections(&self) -> u64;

    /// Where it keeps what was opened and closed, if it tracks connections.
    fn events(&mut self) -> Option<&mut events::Events> {
        None
    }

    /// Where the `index`-th function of a row, or one that is alone as the first, keeps what its rules with `log` decided.
    fn log(&mut self, index: usize) -> Option<&mut events::Ring<events::Logged>> {
        let _ = index;
        None
    }

    /// Where the `index`-th function of a row, or one that is alone as the first, leaves its connections for a standby once the ring has room;
    /// `None`: it tells of none.
    fn sync(&mut self, index: usize) -> Option<&mut events::Ring<Told>> {
        let _ = index;
        None
    }

    /// Gives the `index`-th function connections that another process told. As much work as there are.
    fn adopt(&mut self, now_us: u64, index: usize, told: &[Told]) {
        let _ = (now_us, index, told);
    }
}

/// Builds the configured function for frames on their own; its tables are seeded from the instance's name (see [`build_with_seed`]).
///
/// # Errors
/// [`ConfigError`] if the configuration contradicts itself or names the generator, which is no packet function:
/// use [`traffic::Session`].
pub fn build(configuration: &Configuration) -> Result<Box<dyn PacketFunction>, ConfigError> {
    build_with_seed(configuration, common::default_seed(configuration))
}

/// [`build`] with a seed for the connection table's hash: a random one keeps an attacker from choosing flows that
/// collide. It has no influence on what passes or where it goes.
///
/// # Errors
/// As [`build`].
pub fn build_with_seed(
    configuration: &Configuration,
    seed: u64,
) -> Result<Box<dyn PacketFunction>, ConfigError> {
    build_on::<Plain, _>(configuration, seed)
}

/// [`build_with_seed`] for a machine and its packet buffers.
///
/// # Errors
/// As [`build`].
pub fn build_on<'f, M: Machine, F: Frame + 'f>(
    configuration: &Configuration,
    seed: u64,
) -> Result<Box<dyn PacketFunction<F> + 'f>, ConfigError> {
    configuration.check()?;
    Ok(match &configuration.function {
        Function::Firewall(f) => Box::new(firewall::Firewall::<M>::new(configuration, f, seed)?),
        Function::LoadBalancer(_) => Box::new(balancer::Balancer::<M>::new(configuration, seed)?),
        Function::Reflector(r) => Box::new(reflector::Reflector::new(configuration, r)?),
        Function::Chain(c) => Box::new(chain::build::<M, F>(configuration, c, seed)?),
        Function::Generator(_) => {
            let problem = "is a generator, which processes no packets; run it as a traffic::Session";
            return Err(common::invalid("function", problem));
        }
    })
}
