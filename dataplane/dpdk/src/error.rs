//! What can go wrong at DPDK's door.

/// Why DPDK did not do it. `log` is what DPDK itself said last, often the only place where the reason is.
#[derive(Debug, thiserror::Error)]
pub enum DpdkError {
    /// [`crate::Eal::init`] was called before in this process.
    #[error("the EAL was initialised before in this process, and can be only once: start another process")]
    AlreadyInitialised,
    /// A name or number that DPDK's argument syntax cannot carry.
    #[error("{what} `{text}`: {problem}")]
    Argument {
        /// Which value.
        what: &'static str,
        /// As given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `rte_eal_init` failed.
    #[error("DPDK's environment (EAL) did not start: {cause}{log}")]
    Init {
        /// `rte_errno` in words.
        cause: String,
        /// DPDK's last lines.
        log: String,
    },
    /// No memory for a pool of packet buffers.
    #[error("no pool of {buffers} packet buffers: {cause}; give the EAL more memory{log}")]
    Pool {
        /// Buffers asked for.
        buffers: u32,
        /// `rte_errno` in words.
        cause: String,
        /// DPDK's last lines.
        log: String,
    },
    /// The driver did not make the port: most often the interface is missing.
    #[error("DPDK has no port `{port}`: its driver did not start{log}")]
    NoPort {
        /// Name of the device, e.g. `net_af_packet0`.
        port: String,
        /// DPDK's last lines.
        log: String,
    },
    /// A port is opened once.
    #[error("port `{port}` is open already")]
    PortTaken {
        /// Name of the device.
        port: String,
    },
    /// A step of bringing a port up failed.
    #[error("port `{port}`: {step} failed: {cause}{log}")]
    Port {
        /// Name of the device.
        port: String,
        /// Which step.
        step: &'static str,
        /// The error in words.
        cause: String,
        /// DPDK's last lines.
        log: String,
    },
    /// A thread is one too many for DPDK.
    #[error("DPDK does not take another packet thread: {cause}; start with fewer")]
    Thread {
        /// `rte_errno` in words.
        cause: String,
    },
    /// The system call filter was not installed.
    #[error("cannot install the system call filter that keeps drivers from changing interfaces: {0}")]
    Guard(String),
    /// Waiting for packets failed.
    #[error("cannot wait for packets: {0}")]
    Wait(#[source] std::io::Error),
}
