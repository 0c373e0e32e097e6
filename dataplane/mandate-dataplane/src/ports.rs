//! From configured ports to DPDK devices, and how much memory they need.

use dataplane_control::{
    Configuration,
    config::{Port, PortDriver},
};
use dpdk::{DpdkError, EalConfig, Memory, Vdev};
use nix::{net::if_::InterfaceFlags, sched::CpuSet, unistd::Pid};

use crate::{
    arguments::{Arguments, EalMemory},
    error::StartError,
};

/// Buffers for bursts in flight and a generator's frames: `af_packet` and `memif` copy, so queues hold none.
const BUFFERS: u32 = 511;
/// Buffers an `af_xdp` port keeps in its fill ring and queues: four times the driver's 2048 descriptors.
const BUFFERS_PER_XDP_PORT: u32 = 8192;
/// Of a buffer: 2432 with headroom and headers, but none crosses a page, and ordinary pages have 4096.
const BYTES_PER_BUFFER: u32 = 4224;
/// What the EAL, the pool's caches and drivers need besides; only what is touched is resident.
const BASE_MEMORY_MB: u32 = 16;

/// The configured interfaces exist and are up. DPDK would say so too, but later and with less reason.
pub fn check_interfaces(configuration: &Configuration) -> Result<(), StartError> {
    for port in &configuration.ports {
        let (PortDriver::AfPacket { interface } | PortDriver::AfXdp { interface }) = &port.driver else {
            continue;
        };
        let (name, wanted) = (port.name.clone(), interface.clone());
        match interface_is_up(interface) {
            None => return Err(StartError::NoInterface { port: name, interface: wanted }),
            Some(false) => return Err(StartError::InterfaceDown { port: name, interface: wanted }),
            Some(true) => {}
        }
    }
    Ok(())
}

fn interface_is_up(name: &str) -> Option<bool> {
    let mut all = nix::ifaddrs::getifaddrs().ok()?.filter(|i| i.interface_name == name).peekable();
    all.peek()?;
    Some(all.any(|i| i.flags.contains(InterfaceFlags::IFF_UP)))
}

/// Name and arguments of a port's device.
pub fn device(index: usize, port: &Port) -> Result<Vdev, DpdkError> {
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    match &port.driver {
        PortDriver::AfPacket { interface } => Vdev::af_packet(index, interface),
        PortDriver::AfXdp { interface } => Vdev::af_xdp(index, interface),
        PortDriver::Memif { socket, server } => Vdev::memif(index, socket, *server),
    }
}

/// Whether the port's driver has a socket that can be waited for.
pub fn has_socket(port: &Port) -> bool {
    !matches!(port.driver, PortDriver::Memif { .. })
}

/// How the EAL starts for this configuration.
pub fn eal_config(configuration: &Configuration, arguments: &Arguments) -> Result<EalConfig, StartError> {
    let size_mb = BASE_MEMORY_MB + (buffers(configuration) * BYTES_PER_BUFFER).div_ceil(1 << 20);
    let memory = match arguments.eal_memory {
        EalMemory::Auto => Memory::detect(size_mb),
        EalMemory::Ordinary => Memory::Ordinary { size_mb },
        EalMemory::Huge => Memory::Huge { size_mb },
    };
    let vdevs =
        configuration.ports.iter().enumerate().map(|(i, p)| device(i, p)).collect::<Result<_, _>>()?;
    let cpus = if arguments.eal_cpus.is_empty() { allowed_cpus()? } else { arguments.eal_cpus.clone() };
    Ok(EalConfig { memory, cpus, vdevs })
}

/// Buffers of the process's pool.
pub fn buffers(configuration: &Configuration) -> u32 {
    let xdp = configuration.ports.iter().filter(|p| matches!(p.driver, PortDriver::AfXdp { .. }));
    // A configuration has few ports; a thousand would still be within the pool's bound.
    let xdp = u32::try_from(xdp.count()).unwrap_or(0).min(64);
    (BUFFERS + xdp * BUFFERS_PER_XDP_PORT).next_power_of_two() - 1
}

fn allowed_cpus() -> Result<Vec<usize>, StartError> {
    let set = nix::sched::sched_getaffinity(Pid::from_raw(0)).map_err(|e| StartError::System(e.into()))?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there_and_another_is_not() {
        assert!(interface_is_up("lo").is_some());
        assert_eq!(interface_is_up("no-such-if"), None);
    }

    #[test]
    fn the_worker_may_run_wherever_the_process_may() {
        assert!(!allowed_cpus().unwrap().is_empty());
    }
}
