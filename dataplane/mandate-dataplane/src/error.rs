//! Why the process does not start, or ends: what, where, why and what to do.

use std::{io, net::SocketAddr, path::PathBuf};

use dataplane_control::config::{ConfigError, PciAddress};
use dpdk::DpdkError;

/// Ends the process with exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be read.
    #[error("cannot read the configuration {path}: {source}; --config names a file that this user may read", path = path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration is not one.
    #[error("{path}: {source}", path = path.display())]
    Configuration {
        /// Where.
        path: PathBuf,
        /// Why.
        source: ConfigError,
    },
    /// The configuration asks for more than a function, or this machine, has.
    #[error(transparent)]
    Function(ConfigError),
    /// An interface of the configuration is not there.
    #[error(
        "port `{port}`: interface `{interface}` does not exist in this network namespace: create it, or start the \
         process in the namespace that has it (`ip netns exec NAMESPACE …`)"
    )]
    NoInterface {
        /// Port's name.
        port: String,
        /// Interface's name.
        interface: String,
    },
    /// An interface of the configuration is down.
    #[error("port `{port}`: interface `{interface}` is down: `ip link set dev {interface} up`")]
    InterfaceDown {
        /// Port's name.
        port: String,
        /// Interface's name.
        interface: String,
    },
    /// A PCI function of the configuration is not there, or is not ours to use.
    #[error("port `{port}`: PCI function {address} {problem}")]
    Pci {
        /// Port's name.
        port: String,
        /// Where it should be.
        address: PciAddress,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A file or directory of a port is missing.
    #[error("port `{port}`: {path}: {problem}", path = path.display())]
    PortFile {
        /// Port's name.
        port: String,
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// libpcap is not in this program.
    #[error("port `{port}` needs libpcap, which this build does not carry; build it with `--features pcap`")]
    NoPcap {
        /// Port's name.
        port: String,
    },
    /// Somebody serves the control socket, or the one for metrics.
    #[error(
        "socket {path}: another process answers on it; stop that one, or choose another path",
        path = path.display()
    )]
    SocketInUse {
        /// Where.
        path: PathBuf,
    },
    /// There is something else.
    #[error(
        "socket {path}: there is a file that is no socket; remove it, or choose another path",
        path = path.display()
    )]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("socket {path}: {source}; its directory must exist and be writable for this user", path = path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address for metrics cannot be listened on.
    #[error("metrics on {address}: {source}; choose another address or port with --metrics")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No datagram can be sent to the collector of flow records.
    #[error("flow records to {collector}: {source}; a route to it must exist, or leave --ipfix out")]
    Collector {
        /// Where.
        collector: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The key of state sync cannot be read, or is none.
    #[error("the key of state sync {path}: {problem}", path = path.display())]
    SyncKey {
        /// Where.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// No datagram of state sync can be sent there, or received here.
    #[error(
        "state sync at {address}: {source}; --sync-to needs a route to the standby, --sync-from an address of ours and a \
         free port"
    )]
    Sync {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Which packet thread a connection will come to is not known.
    #[error(
        "--sync-from with --workers {workers}: nobody can say which packet thread a connection will come to; use one"
    )]
    SyncWorkers {
        /// How many there are to be.
        workers: u16,
    },
    /// Threads, pipes, signals or randomness.
    #[error("cannot get threads, signals or randomness from the system: {0}")]
    System(#[source] io::Error),
    /// DPDK.
    #[error(
        "{0}; af_packet ports need CAP_NET_RAW, af_xdp ports CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF as well as \
         unlimited locked memory, PCI ports the group's file in /dev/vfio and unlimited locked memory"
    )]
    Ports(#[source] DpdkError),
    /// DPDK, but not a port.
    #[error(transparent)]
    Dpdk(DpdkError),
}

impl From<DpdkError> for StartError {
    fn from(error: DpdkError) -> Self {
        match error {
            DpdkError::NoPort { .. } | DpdkError::Port { .. } => Self::Ports(error),
            other => Self::Dpdk(other),
        }
    }
}

/// Why a request is refused; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Stable, `UPPER_SNAKE_CASE`.
    pub code: &'static str,
    /// What, where, why and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
