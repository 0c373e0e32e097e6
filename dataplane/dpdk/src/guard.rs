//! Keeps drivers from changing network interfaces.
//!
//! Starting an `af_packet` port makes the driver write the interface's flags and hardware address back
//! (`SIOCSIFFLAGS`, `SIOCSIFHWADDR`), clearing the promiscuous mode that was set from outside; without `CAP_NET_ADMIN`
//! that fails and the port with it. Both are asked for by DPDK's generic start, so no option avoids them. A system
//! call filter answers these two requests with success and does nothing: interfaces belong to whoever prepared the
//! namespace, whatever capabilities the process has.
//!
//! Tests: the chain test of `mandate-dataplane` runs its processes with `CAP_NET_RAW` alone.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::DpdkError;

/// Set an interface's flags.
const SIOCSIFFLAGS: u64 = 0x8914;
/// Set an interface's hardware address.
const SIOCSIFHWADDR: u64 = 0x8924;
/// Which argument of ioctl(2) is the request.
const REQUEST: u8 = 1;

/// From now on no driver of this thread (or of threads it starts) changes an interface: such requests succeed and do
/// nothing. Sets `no_new_privs`. Call it before [`crate::Eal::init`].
pub fn hold_interfaces() -> Result<(), DpdkError> {
    let program = program().map_err(|e| DpdkError::Guard(e.to_string()))?;
    seccompiler::apply_filter(&program).map_err(|e| DpdkError::Guard(e.to_string()))
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = [SIOCSIFFLAGS, SIOCSIFHWADDR]
        .into_iter()
        .map(|request| {
            let is = SeccompCondition::new(REQUEST, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?;
            SeccompRule::new(vec![is])
        })
        .collect::<Result<Vec<_>, _>>()?;
    let rules = BTreeMap::from([(libc::SYS_ioctl, rules)]);
    // Error number 0: the call is skipped and returns success.
    let skip = SeccompAction::Errno(0);
    SeccompFilter::new(rules, SeccompAction::Allow, skip, std::env::consts::ARCH.try_into()?)?.try_into()
}
