//! The command line.

use std::{path::PathBuf, sync::LazyLock};

use clap::{Parser, ValueEnum};

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
