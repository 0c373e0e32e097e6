//! DPDK's environment abstraction layer: once per process, configured by types, writing nothing to the file system.

use std::{
    collections::BTreeSet,
    ffi::{CStr, CString, c_char, c_int},
    marker::PhantomData,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{DpdkError, Vdev, log};

/// Most memory an EAL may be given, MiB.
const MAX_MEMORY_MB: u32 = 16 * 1024;
/// Highest CPU number EAL's core lists take.
const MAX_CPU: usize = 1023;
/// Highest NUMA node, `RTE_MAX_NUMA_NODES` less one.
const MAX_NODE: u32 = 31;
/// Where 2 MiB hugepages that nobody uses are counted.
const FREE_HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

/// How the EAL starts.
#[derive(Debug, Clone)]
pub struct EalConfig {
    /// Where packet buffers live.
    pub memory: Memory,
    /// CPUs the calling thread may run on afterwards; it floats over all of them, it is not pinned to one.
    pub cpus: Vec<usize>,
    /// Devices to make ports of.
    pub vdevs: Vec<Vdev>,
}

/// Where packet buffers live; both vanish with the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Ordinary pages (`--no-huge`): no preparation of the machine, about a third of the speed for memory-bound work.
    Ordinary {
        /// MiB.
        size_mb: u32,
    },
    /// Anonymous hugepages (`--in-memory`).
    Huge {
        /// MiB.
        size_mb: u32,
    },
}

impl Memory {
    /// Hugepages if at least twice `size_mb` of them are free (another process may be starting too), else ordinary.
    #[must_use]
    pub fn detect(size_mb: u32) -> Self {
        let free = std::fs::read_to_string(FREE_HUGEPAGES).ok().and_then(|t| t.trim().parse::<u64>().ok());
        if free.is_some_and(|pages| pages >= u64::from(size_mb)) {
            Self::Huge { size_mb }
        } else {
            Self::Ordinary { size_mb }
        }
    }

    const fn size_mb(self) -> u32 {
        match self {
            Self::Ordinary { size_mb } | Self::Huge { size_mb } => size_mb,
        }
    }
}

/// The initialised EAL. The thread that made it is DPDK's only lcore, so it stays on that thread.
#[derive(Debug)]
pub struct Eal {
    /// Numbers of the ports that are open.
    open: Mutex<BTreeSet<u16>>,
    _this_thread_only: PhantomData<*const ()>,
}

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// DPDK's version, e.g. `DPDK 22.11.11`.
#[must_use]
pub fn version() -> String {
    // SAFETY: returns a static string. JUSTIFICATION: DPDK knows its version only through this call.
    let text = unsafe { CStr::from_ptr(dpdk_sys::rte_version()) };
    text.to_string_lossy().into_owned()
}

impl Eal {
    /// Starts DPDK on the calling thread. A device whose driver fails does not fail this, but [`crate::Port::open`].
    ///
    /// Nothing is written to the file system: no shared configuration, no telemetry socket, no run-time directory,
    /// no hugepage files (`dpdk-sys/shim.c` says how). Takes about 110 ms, of which DPDK spends 100 measuring the clock.
    pub fn init(config: &EalConfig) -> Result<Self, DpdkError> {
        let arguments = arguments(config)?;
        if INITIALISED.swap(true, Ordering::SeqCst) {
            return Err(DpdkError::AlreadyInitialised);
        }
        if !log::capture() {
            return Err(init_error("its log cannot be captured".into()));
        }
        // DPDK keeps pointers into its arguments, and runs once: they live as long as the process.
        let mut argv: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
        let argc = c_int::try_from(argv.len()).map_err(|_| init_error("too many arguments".into()))?;
        // SAFETY: `argv` holds `argc` NUL-terminated strings that are never freed. JUSTIFICATION: the only entry.
        let taken = unsafe { dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) };
        if taken < 0 {
            return Err(init_error(last_error()));
        }
        // What it said while all went well is of no use to an error later on.
        let _ = log::drain().len();
        Ok(Self { open: Mutex::default(), _this_thread_only: PhantomData })
    }
}

impl Eal {
    /// Notes that a port is open; false: it was.
    pub(crate) fn opened(&self, port: u16) -> bool {
        self.open().insert(port)
    }

    /// Notes that a port is closed.
    pub(crate) fn closed(&self, port: u16) {
        self.open().remove(&port);
    }

    /// Whether no port is open.
    pub(crate) fn is_quiet(&self) -> bool {
        self.open().is_empty()
    }

    fn open(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        // A port was abandoned (`Port::abandon`): its driver goes on until the process ends.
        if !self.is_quiet() {
            return;
        }
        // SAFETY: ports and pools borrow the EAL, so none is left. JUSTIFICATION: closes drivers' sockets and files.
        unsafe { dpdk_sys::rte_eal_cleanup() };
    }
}

fn refuse<T>(what: &'static str, text: String, problem: &'static str) -> Result<T, DpdkError> {
    Err(DpdkError::Argument { what, text, problem })
}

fn arguments(config: &EalConfig) -> Result<Vec<CString>, DpdkError> {
    let size_mb = config.memory.size_mb();
    if !(1..=MAX_MEMORY_MB).contains(&size_mb) {
        return refuse("EAL memory in MiB", size_mb.to_string(), "must be 1 to 16384");
    }
    if config.cpus.is_empty() || config.cpus.iter().any(|c| *c > MAX_CPU) {
        return refuse("EAL CPUs", format!("{:?}", config.cpus), "must be at least one, each at most 1023");
    }
    let cpus = config.cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut all: Vec<String> = vec!["dpdk".into()];
    all.extend(match config.memory {
        // The EAL refuses `--in-memory` together with `--no-huge`; this is what it would imply.
        Memory::Ordinary { .. } => vec!["--no-huge".into(), "--no-shconf".into()],
        Memory::Huge { .. } => vec!["--in-memory".into()],
    });
    all.extend(match (config.memory, node(config)?) {
        // Only hugepages are of a node; the list begins at node 0.
        (Memory::Huge { .. }, Some(node)) => {
            let others = "0,".repeat(usize::try_from(node).unwrap_or(0));
            ["--socket-mem".into(), format!("{others}{size_mb}")]
        }
        _ => ["-m".into(), size_mb.to_string()],
    });
    all.extend(["--lcores".into(), format!("0@({cpus})")]);
    if !config.vdevs.iter().any(Vdev::is_pci) {
        all.push("--no-pci".into());
    }
    all.extend(["--no-telemetry", "--iova-mode=va", "--log-level=warning"].map(str::to_owned));
    all.extend(config.vdevs.iter().map(|v| format!("--{v}")));
    // None of these can contain a NUL: numbers, literals and checked device arguments.
    all.into_iter()
        .map(|a| CString::new(a.clone()).or_else(|_| refuse("EAL argument", a, "contains a NUL")))
        .collect()
}

/// The NUMA node of the first device that has one: memory is taken there.
fn node(config: &EalConfig) -> Result<Option<u32>, DpdkError> {
    match config.vdevs.iter().find_map(Vdev::node) {
        Some(node) if node > MAX_NODE => {
            refuse("NUMA node of a device", node.to_string(), "must be at most 31")
        }
        node => Ok(node),
    }
}

fn init_error(cause: String) -> DpdkError {
    DpdkError::Init { cause, log: log::appendix() }
}

/// `rte_errno` of this thread in words.
pub(crate) fn last_error() -> String {
    // SAFETY: reads a thread-local number. JUSTIFICATION: DPDK's error channel.
    error_text(unsafe { dpdk_sys::mandate_errno() })
}

/// An error number in words; DPDK returns them negated.
pub(crate) fn error_text(number: c_int) -> String {
    // SAFETY: returns a string that lives until this thread's next call; copied at once. JUSTIFICATION: DPDK adds
    // numbers of its own to the system's.
    let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(number.abs())) };
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(config: &EalConfig) -> String {
        let all: Vec<String> =
            arguments(config).unwrap().into_iter().map(|a| a.into_string().unwrap()).collect();
        all.join(" ")
    }

    #[test]
    fn nothing_of_the_command_line_touches_the_file_system() {
        let mut config = EalConfig {
            memory: Memory::Ordinary { size_mb: 32 },
            cpus: vec![0, 2],
            vdevs: vec![Vdev::null(0, 64)],
        };
        let ordinary = "dpdk --no-huge --no-shconf -m 32 --lcores 0@(0,2) --no-pci --no-telemetry --iova-mode=va \
                        --log-level=warning --vdev=net_null0,size=64";
        assert_eq!(line(&config), ordinary);
        config.memory = Memory::Huge { size_mb: 32 };
        assert!(line(&config).starts_with("dpdk --in-memory -m 32"));
    }

    #[test]
    fn a_pci_device_is_the_only_one_looked_for_and_memory_is_near_it() {
        let device = Vdev::pci("0000:3b:02.1", Some(1)).unwrap();
        let config = EalConfig { memory: Memory::Huge { size_mb: 32 }, cpus: vec![0], vdevs: vec![device] };
        let words = line(&config);
        assert!(words.contains("--socket-mem 0,32") && words.ends_with("--allow=0000:3b:02.1"), "{words}");
        assert!(!words.contains("--no-pci"), "{words}");
        let far = Vdev::pci("0000:3b:02.1", Some(32)).unwrap();
        assert!(arguments(&EalConfig { vdevs: vec![far], ..config }).is_err());
    }

    #[test]
    fn senseless_numbers_are_refused() {
        let good = EalConfig { memory: Memory::Ordinary { size_mb: 32 }, cpus: vec![0], vdevs: vec![] };
        let no_cpu = EalConfig { cpus: vec![], ..good.clone() };
        let no_memory = EalConfig { memory: Memory::Huge { size_mb: 0 }, ..good };
        assert!(arguments(&no_cpu).is_err() && arguments(&no_memory).is_err());
    }
}
