//! The command line.

use std::{net::SocketAddr, path::PathBuf, sync::LazyLock};

use clap::{Parser, ValueEnum};

use crate::telemetry::http::Place;

static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} ({})", env!("CARGO_PKG_VERSION"), dpdk::version()));

/// Runs one packet function between DPDK ports, as its configuration says.
#[derive(Debug, Parser)]
#[command(name = "mandate-dataplane", version = VERSION.as_str())]
pub struct Arguments {
    /// Configuration document (JSON), read once; its bytes are what `Status` reports the digest of.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// UNIX socket to serve the control protocol on; made with mode 0600, removed at the end.
    #[arg(long, value_name = "SOCKET")]
    pub control: PathBuf,
    /// Where packet buffers live: `auto` takes hugepages if enough are free.
    #[arg(long, value_enum, default_value_t = EalMemory::Auto)]
    pub eal_memory: EalMemory,
    /// CPUs the worker may run on, e.g. `0,2`; all that the process may use if absent.
    #[arg(long, value_delimiter = ',', value_name = "CPUS")]
    pub eal_cpus: Vec<usize>,
    /// Packet threads, each with its own queue of every port, its own tables and its own part of the flows; with as many
    /// `--eal-cpus`, each is pinned to one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    pub workers: u16,
    /// Serve counters to Prometheus: `unix:PATH`, or an address of the loopback interface like 127.0.0.1:9464.
    #[arg(long, value_name = "WHERE")]
    pub metrics: Option<Place>,
    /// Send flow records (IPFIX over UDP) to this collector, ADDRESS:PORT: of a firewall's or load balancer's
    /// connections, and of what rules with `log` decide.
    #[arg(long, value_name = "COLLECTOR", value_parser = collector)]
    pub ipfix: Option<SocketAddr>,
    /// Flow records of one connection in so many.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), value_name = "N", requires = "ipfix")]
    pub ipfix_every: u32,
    /// Tell a standby, ADDRESS:PORT, of a load balancer's connections (UDP).
    #[arg(long, value_name = "STANDBY", value_parser = endpoint, requires = "sync_key")]
    pub sync_to: Option<SocketAddr>,
    /// Take connections that another process tells (its `--sync-to`), at this ADDRESS:PORT of ours; needs one packet thread.
    #[arg(long, value_name = "OURS", value_parser = endpoint, requires = "sync_key")]
    pub sync_from: Option<SocketAddr>,
    /// The key that both ends have: a file of 32 bytes or more, taken as they are.
    #[arg(long, value_name = "FILE")]
    pub sync_key: Option<PathBuf>,
}

fn endpoint(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(
        |_| "is no address and port like 192.0.2.1:4790 or [2001:db8::1]:4790; names are not looked up",
    )
}

fn collector(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(
        |_| "is no address and port like 192.0.2.1:4739 or [2001:db8::1]:4739; names are not looked up",
    )
}

/// Kind of memory for packet buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EalMemory {
    /// Hugepages if enough are free, else ordinary pages.
    Auto,
    /// Ordinary pages (`--no-huge`).
    Ordinary,
    /// Hugepages, or fail.
    Huge,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_names_dpdk() {
        Arguments::command().debug_assert();
        assert!(VERSION.contains("DPDK"));
    }
}
