//! Finds DPDK, compiles the shim, generates the bindings, and says what to install when something is missing.

use std::{
    env, panic,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Oldest DPDK with the names we use (`RTE_ETH_*`).
const OLDEST: (u32, u32) = (21, 11);

/// What must be in the binary whatever the linker thinks of it: drivers register themselves in constructors.
const LIBRARIES: &[&str] = &[
    "eal",
    "ethdev",
    "mbuf",
    "mempool",
    "ring",
    "kvargs",
    "telemetry",
    "net",
    "meter",
    "bus_vdev",
    "mempool_ring",
    "hash",
    "rcu",
    "net_af_packet",
    "net_memif",
    "net_null",
    "net_ring",
    // vhost-user, both sides; the library of the host's wants two others.
    "pci",
    "bus_pci",
    "net_virtio",
    "cryptodev",
    "dmadev",
    "vhost",
    "net_vhost",
];
/// Only some versions or distributions have them: parts of the core that were split off later, and drivers of network cards that
/// need no library of their own.
const OPTIONAL_LIBRARIES: &[&str] = &[
    "log",
    "argparse",
    "net_af_xdp",
    "security",
    "mbuf_dyn",
    "common_iavf",
    "net_iavf",
    "net_ice",
    "net_i40e",
    "net_ixgbe",
    "net_e1000",
];
/// System libraries of the above; linked if `pkg-config --static` names them.
const SYSTEM_LIBRARIES: &[&str] = &["bsd", "numa", "xdp", "bpf", "elf", "z"];
/// The core, when linked as shared libraries: the EAL loads the drivers itself.
const SHARED_LIBRARIES: &[&str] = &["eal", "ethdev", "mbuf", "mempool", "ring"];

const FUNCTIONS: &[&str] = &[
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_version",
    "rte_strerror",
    "rte_pktmbuf_pool_create",
    "rte_mempool_free",
    "rte_mempool_in_use_count",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_configure",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_rx_queue_setup",
    "rte_eth_tx_queue_setup",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_close",
    "rte_eth_stats_get",
    "rte_eth_macaddr_get",
    "mandate_.*",
];
const VARIABLES: &[&str] = &["RTE_MAX_LCORE", "RTE_PKTMBUF_HEADROOM"];

const INSTALL: &str = "install DPDK's development files with `apt-get install pkg-config libdpdk-dev libclang-dev`, \
                       or run `cargo testbed up deps`";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=shim.h");
    println!("cargo::rerun-if-changed=shim.c");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    println!("cargo::rerun-if-env-changed=DPDK_SYS_LINK");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("cargo::error={}", problem.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    check_version(&pkg_config(&["--modversion"])?)?;
    let flags: Vec<String> = pkg_config(&["--cflags"])?.split_whitespace().map(str::to_owned).collect();
    compile_shim(&flags)?;
    generate(&flags)?;
    link()
}

fn pkg_config(arguments: &[&str]) -> Result<String, String> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(&program)
        .args(arguments)
        .arg("libdpdk")
        .output()
        .map_err(|e| format!("cannot run {}: {e}; {INSTALL}", program.display()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("pkg-config does not find libdpdk: {}; {INSTALL}", why.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn check_version(version: &str) -> Result<(), String> {
    let mut numbers = version.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < OLDEST {
        return Err(format!(
            "DPDK {version} is too old, {}.{} is the oldest supported; {INSTALL}",
            OLDEST.0, OLDEST.1
        ));
    }
    println!("cargo::metadata=version={version}");
    Ok(())
}

fn compile_shim(flags: &[String]) -> Result<(), String> {
    let mut build = cc::Build::new();
    build.file("shim.c").opt_level(3).warnings(true);
    // DPDK's own headers warn with -Wextra.
    build.flag("-Wno-unused-parameter");
    for flag in flags {
        build.flag(flag);
    }
    build.try_compile("mandate_dpdk_shim").map_err(|e| format!("shim.c does not compile: {e}; {INSTALL}"))
}

fn generate(flags: &[String]) -> Result<(), String> {
    let mut builder = bindgen::Builder::default()
        .header("shim.h")
        .clang_args(flags)
        .derive_default(true)
        .generate_comments(false)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .allowlist_type("mandate_mbuf")
        // How its fields are reached depends on the release: they are read through `mandate_mbuf`.
        .opaque_type("rte_mbuf");
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in VARIABLES {
        builder = builder.allowlist_var(name);
    }
    // bindgen panics when there is no libclang to load.
    let bindings = panic::catch_unwind(panic::AssertUnwindSafe(|| builder.generate()))
        .map_err(|_| format!("libclang cannot be loaded; {INSTALL}"))?
        .map_err(|e| format!("bindgen fails on DPDK's headers: {e}; {INSTALL}"))?;
    let out = out_dir()?.join("bindings.rs");
    bindings.write_to_file(&out).map_err(|e| format!("cannot write {}: {e}", out.display()))
}

fn out_dir() -> Result<PathBuf, String> {
    env::var_os("OUT_DIR").map(PathBuf::from).ok_or_else(|| "cargo sets OUT_DIR".to_owned())
}

fn link() -> Result<(), String> {
    let directory = pkg_config(&["--variable=libdir"])?;
    println!("cargo::rustc-link-search=native={directory}");
    let archive = |name: &str| Path::new(&directory).join(format!("librte_{name}.a")).exists();
    let shared = env::var("DPDK_SYS_LINK").is_ok_and(|v| v == "shared");
    if !shared && LIBRARIES.iter().all(|n| archive(n)) {
        link_archives(&archive)
    } else {
        for name in SHARED_LIBRARIES {
            println!("cargo::rustc-link-lib=dylib=rte_{name}");
        }
        println!("cargo::metadata=linkage=shared");
        Ok(())
    }
}

fn link_archives(archive: &dyn Fn(&str) -> bool) -> Result<(), String> {
    let pcap = env::var_os("CARGO_FEATURE_PCAP").is_some();
    let libraries = LIBRARIES.iter().chain(OPTIONAL_LIBRARIES.iter().filter(|n| archive(n)));
    for name in libraries.chain(pcap.then_some(&"net_pcap")) {
        println!("cargo::rustc-link-lib=static:+whole-archive,-bundle=rte_{name}");
    }
    let named = pkg_config(&["--static", "--libs"])?;
    let named: Vec<&str> = named.split_whitespace().filter_map(|t| t.strip_prefix("-l")).collect();
    for name in SYSTEM_LIBRARIES.iter().chain(pcap.then_some(&"pcap")).filter(|n| named.contains(n)) {
        println!("cargo::rustc-link-lib=dylib={name}");
    }
    println!("cargo::metadata=linkage=static");
    Ok(())
}
