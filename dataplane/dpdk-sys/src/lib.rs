//! Raw bindings to DPDK, generated from the installed headers.
//!
//! An allowlist of the functions that `dpdk` uses, and `mandate_*`: out-of-line forms (`shim.c`) of the static inline
//! functions that are called once per burst. Nothing here is safe and nothing here decides anything; the safe layer is
//! the `dpdk` crate, the only one that may depend on this. Layouts are asserted at compile time by bindgen.
//!
//! DPDK is linked statically where its archives are installed (Debian's and Ubuntu's `libdpdk-dev` have them): then
//! the measured binary contains the drivers, the EAL does not load every plugin of the system (24 MB and 20 ms less a
//! process), and a process needs no DPDK package to run. `build.rs` falls back to the shared libraries.

#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    rust_2018_idioms,
    unsafe_op_in_unsafe_fn,
    unnecessary_transmutes,
    clippy::all,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

/// Whether the driver of capture files is linked.
pub const PCAP: bool = cfg!(feature = "pcap");

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
