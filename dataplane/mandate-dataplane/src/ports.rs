//! From configured ports to DPDK devices, and how much memory they need.

use std::{fs, path::Path};

use dataplane_control::{
    Configuration,
    config::{PciAddress, Port, PortDriver},
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
/// Buffers a PCI or `virtio_user` port keeps in its receive and transmit rings: 512 descriptors each, and room.
const BUFFERS_PER_RING_PORT: u32 = 1536;
/// Of a buffer: 2432 with headroom and headers, but none crosses a page, and ordinary pages have 4096.
const BYTES_PER_BUFFER: u32 = 4224;
/// What the EAL, the pool's caches and drivers need besides; only what is touched is resident.
const BASE_MEMORY_MB: u32 = 16;

/// Where the system shows its PCI functions.
const PCI_DEVICES: &str = "/sys/bus/pci/devices";
/// The driver that gives a PCI function to a process.
const VFIO: &str = "vfio-pci";

/// The configured devices are there, and ready. DPDK would say so too, but later and with less reason.
pub fn check_devices(configuration: &Configuration) -> Result<(), StartError> {
    configuration.ports.iter().try_for_each(check_device)
}

fn check_device(port: &Port) -> Result<(), StartError> {
    let name = || port.name.clone();
    let file = |path: &Path, problem: &str| {
        Err(StartError::PortFile { port: name(), path: path.to_owned(), problem: problem.to_owned() })
    };
    if let Some(interface) = port.driver.interface() {
        let wanted = interface.to_owned();
        match interface_is_up(interface) {
            None => return Err(StartError::NoInterface { port: name(), interface: wanted }),
            Some(false) => return Err(StartError::InterfaceDown { port: name(), interface: wanted }),
            Some(true) => {}
        }
    }
    match &port.driver {
        PortDriver::PcapFile { .. } | PortDriver::PcapInterface { .. } if !dpdk::HAS_PCAP => {
            Err(StartError::NoPcap { port: name() })
        }
        PortDriver::PcapFile { receive: Some(receive), .. } if !Path::new(receive).is_file() => {
            file(Path::new(receive), "there is no such capture file; `receive` names one to be read")
        }
        PortDriver::PcapFile { transmit: Some(path), .. } if !parent(path).is_dir() => {
            file(Path::new(path), "its directory does not exist; `transmit` is written there: create it")
        }
        PortDriver::Memif { socket, server: true }
        | PortDriver::VirtioUser { socket, server: true }
        | PortDriver::Vhost { socket, server: true }
            if !parent(socket).is_dir() =>
        {
            file(Path::new(socket), "its directory does not exist; the socket is made there: create it")
        }
        PortDriver::VirtioUser { socket, server: false } if !Path::new(socket).exists() => file(
            Path::new(socket),
            "nobody serves this vhost-user socket; start its other side first, or say `\"server\": true`",
        ),
        PortDriver::Pci { address } => bound_to_vfio(Path::new(PCI_DEVICES), *address)
            .map_err(|problem| StartError::Pci { port: name(), address: *address, problem }),
        _ => Ok(()),
    }
}

fn parent(path: &str) -> &Path {
    match Path::new(path).parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Whether `vfio-pci` has it; what to do if not.
fn bound_to_vfio(devices: &Path, address: PciAddress) -> Result<(), String> {
    let device = devices.join(address.to_string());
    let bind =
        format!("`driverctl set-override {address} {VFIO}` or `dpdk-devbind.py --bind={VFIO} {address}`");
    if !device.exists() {
        return Err(
            "does not exist on this machine: `lspci -D` lists what does; an SR-IOV VF exists once its \
                    number is in the PF's `sriov_numvfs`"
                .into(),
        );
    }
    match fs::read_link(device.join("driver")).ok().as_deref().and_then(Path::file_name) {
        Some(driver) if driver == VFIO => Ok(()),
        Some(driver) => Err(format!("is bound to `{}`, not to `{VFIO}`: {bind}", driver.to_string_lossy())),
        None => Err(format!("is bound to no driver: {bind}")),
    }
}

/// The NUMA node of a PCI function; a machine with one node often says -1.
fn node(devices: &Path, address: PciAddress) -> Option<u32> {
    fs::read_to_string(devices.join(address.to_string()).join("numa_node")).ok()?.trim().parse().ok()
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
        PortDriver::Pci { address } => {
            Vdev::pci(&address.to_string(), node(Path::new(PCI_DEVICES), *address))
        }
        PortDriver::VirtioUser { socket, server } => Vdev::virtio_user(index, socket, *server, port.mac.0),
        PortDriver::Vhost { socket, server } => Vdev::vhost(index, socket, *server),
        PortDriver::PcapFile { receive, transmit } => {
            Vdev::pcap(index, receive.as_deref(), transmit.as_deref())
        }
        PortDriver::PcapInterface { interface } => Vdev::pcap_interface(index, interface),
        PortDriver::Null { frame_bytes } => Ok(Vdev::null(index, *frame_bytes)),
    }
}

/// Whether the port's driver has a socket that can be waited for.
pub fn has_socket(port: &Port) -> bool {
    matches!(port.driver, PortDriver::AfPacket { .. } | PortDriver::AfXdp { .. })
}

/// How the EAL starts for this configuration.
pub fn eal_config(configuration: &Configuration, arguments: &Arguments) -> Result<EalConfig, StartError> {
    let workers = u32::from(arguments.workers);
    let pools_mb = (buffers(configuration) * BYTES_PER_BUFFER).div_ceil(1 << 20) * workers;
    let size_mb = BASE_MEMORY_MB + pools_mb;
    let memory = match arguments.eal_memory {
        EalMemory::Auto => Memory::detect(size_mb),
        EalMemory::Ordinary => Memory::Ordinary { size_mb },
        EalMemory::Huge => Memory::Huge { size_mb },
    };
    let vdevs =
        configuration.ports.iter().enumerate().map(|(i, p)| device(i, p)).collect::<Result<Vec<_>, _>>()?;
    let vdevs = vdevs.into_iter().map(|device| device.with_queues(arguments.workers)).collect();
    let cpus = if arguments.eal_cpus.is_empty() { allowed_cpus()? } else { arguments.eal_cpus.clone() };
    Ok(EalConfig { memory, cpus, vdevs })
}

/// Buffers of the process's pool.
pub fn buffers(configuration: &Configuration) -> u32 {
    // A configuration has few ports; a thousand would still be within the pool's bound.
    let held: u32 = configuration.ports.iter().take(64).map(held_buffers).sum();
    (BUFFERS + held).next_power_of_two() - 1
}

/// Buffers that a port's queues keep for themselves.
fn held_buffers(port: &Port) -> u32 {
    match port.driver {
        PortDriver::AfXdp { .. } => BUFFERS_PER_XDP_PORT,
        PortDriver::Pci { .. } | PortDriver::VirtioUser { .. } => BUFFERS_PER_RING_PORT,
        _ => 0,
    }
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
    fn a_pci_function_is_ours_when_vfio_has_it() {
        let sys = tempfile::tempdir().unwrap();
        let address: PciAddress = "0000:3b:02.1".parse().unwrap();
        let device = sys.path().join(address.to_string());
        let words = || bound_to_vfio(sys.path(), address).unwrap_err();
        assert!(words().contains("does not exist on this machine"));
        fs::create_dir(&device).unwrap();
        assert!(words().contains("bound to no driver: `driverctl set-override 0000:3b:02.1 vfio-pci`"));
        assert_eq!(node(sys.path(), address), None);
        for (driver, ours) in [("iavf", false), (VFIO, true)] {
            let _ = fs::remove_file(device.join("driver"));
            std::os::unix::fs::symlink(format!("/sys/bus/pci/drivers/{driver}"), device.join("driver"))
                .unwrap();
            assert_eq!(bound_to_vfio(sys.path(), address).is_ok(), ours);
        }
        for (text, known) in [("1\n", Some(1)), ("-1\n", None)] {
            fs::write(device.join("numa_node"), text).unwrap();
            assert_eq!(node(sys.path(), address), known);
        }
    }

    #[test]
    fn the_worker_may_run_wherever_the_process_may() {
        assert!(!allowed_cpus().unwrap().is_empty());
    }
}
