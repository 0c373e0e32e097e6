//! Ports of a data-plane process: what they are called, whose address they have, and how DPDK reaches them.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, MacAddr, invalid, serde_as_text, value};

/// Longest path of a UNIX socket, bytes: `sun_path` without its NUL.
pub const MAX_SOCKET_BYTES: usize = 107;
/// Longest path of a capture file that DPDK's arguments carry, bytes.
pub const MAX_FILE_BYTES: usize = 255;
/// Longest name of a network interface, bytes: `IFNAMSIZ` without its NUL.
pub const MAX_INTERFACE_BYTES: usize = 15;
/// Shortest and longest frame of a [`PortDriver::Null`], bytes without FCS.
pub const NULL_FRAME_BYTES: (u16, u16) = (60, 2000);

/// A port of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The connection point's name; functions refer to it.
    pub name: String,
    /// How DPDK reaches it.
    pub driver: PortDriver,
    /// Our MAC address on it.
    pub mac: MacAddr,
}

/// The DPDK poll-mode driver behind a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PortDriver {
    /// `net_af_packet` on a network interface of the process's namespace.
    AfPacket {
        /// Interface name.
        interface: String,
    },
    /// `net_af_xdp` on a network interface of the process's namespace.
    AfXdp {
        /// Interface name.
        interface: String,
    },
    /// `net_memif`, between processes of one machine.
    Memif {
        /// Socket path.
        socket: String,
        /// Whether this side opens the socket.
        server: bool,
    },
    /// A PCI network function (most often an SR-IOV VF) that is bound to `vfio-pci`, by its address.
    Pci {
        /// `DOMAIN:BUS:DEVICE.FUNCTION`, as `lspci -D` prints it.
        address: PciAddress,
    },
    /// `net_virtio_user`: the guest's side of a vhost-user socket.
    VirtioUser {
        /// Socket path.
        socket: String,
        /// Whether this side opens the socket.
        #[serde(default)]
        server: bool,
    },
    /// `net_vhost`: the host's side of a vhost-user socket, which a virtual machine or a container's `virtio_user` attaches to.
    Vhost {
        /// Socket path.
        socket: String,
        /// Whether this side opens the socket; the other side is then the client (QEMU: `reconnect=`).
        #[serde(default = "yes")]
        server: bool,
    },
    /// `net_pcap` on capture files: frames are read from one, once, and written to the other. At least one must be there.
    PcapFile {
        /// What is received; absent: nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        receive: Option<String>,
        /// Where what is sent goes, truncated at the start; absent: nowhere.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        transmit: Option<String>,
    },
    /// `net_pcap` on a network interface of the process's namespace, through libpcap.
    PcapInterface {
        /// Interface name.
        interface: String,
    },
    /// `net_null`: frames of zeroes without end come in, and whatever is sent is swallowed. For measurements.
    Null {
        /// Of a frame that comes in, without FCS.
        #[serde(default = "shortest_frame")]
        frame_bytes: u16,
    },
}

fn yes() -> bool {
    true
}
pub(crate) fn shortest_frame() -> u16 {
    NULL_FRAME_BYTES.0
}

/// The place of a PCI function, written `0000:3b:02.1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Domain.
    pub domain: u16,
    /// Bus.
    pub bus: u8,
    /// Device, below 32.
    pub device: u8,
    /// Function, below 8.
    pub function: u8,
}

impl FromStr for PciAddress {
    type Err = ConfigError;
    fn from_str(s: &str) -> Result<Self, ConfigError> {
        let parse = || {
            let (domain, rest) = s.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let digits = |t: &str, n: usize| t.len() == n && t.bytes().all(|b| b.is_ascii_hexdigit());
            let shaped = digits(domain, 4) && digits(bus, 2) && digits(device, 2) && digits(function, 1);
            let it = Self {
                domain: u16::from_str_radix(domain, 16).ok()?,
                bus: u8::from_str_radix(bus, 16).ok()?,
                device: u8::from_str_radix(device, 16).ok()?,
                function: u8::from_str_radix(function, 16).ok()?,
            };
            (shaped && it.device < 32 && it.function < 8).then_some(it)
        };
        parse().ok_or_else(|| value(s, "a PCI address like 0000:3b:02.1"))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
serde_as_text!(PciAddress);

impl PortDriver {
    /// The field of the configuration that names the driver.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::AfPacket { .. } => "af_packet",
            Self::AfXdp { .. } => "af_xdp",
            Self::Memif { .. } => "memif",
            Self::Pci { .. } => "pci",
            Self::VirtioUser { .. } => "virtio_user",
            Self::Vhost { .. } => "vhost",
            Self::PcapFile { .. } => "pcap_file",
            Self::PcapInterface { .. } => "pcap_interface",
            Self::Null { .. } => "null",
        }
    }

    /// The network interface of the process's namespace that it uses, if any.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::AfPacket { interface } | Self::AfXdp { interface } | Self::PcapInterface { interface } => {
                Some(interface)
            }
            _ => None,
        }
    }

    /// What no other port of the process may use too, if anything.
    fn exclusive(&self) -> Option<String> {
        match self {
            Self::Memif { socket, .. } | Self::VirtioUser { socket, .. } | Self::Vhost { socket, .. } => {
                Some(socket.clone())
            }
            Self::Pci { address } => Some(address.to_string()),
            Self::PcapFile { transmit, .. } => transmit.clone(),
            Self::Null { .. } => None,
            Self::AfPacket { .. } | Self::AfXdp { .. } | Self::PcapInterface { .. } => {
                self.interface().map(str::to_owned)
            }
        }
    }

    fn check(&self, path: &str) -> Result<(), ConfigError> {
        let named = |field: &str, text: &str, most: usize| match text.len() {
            0 => Err(invalid(format!("{path}.{field}"), "is empty")),
            n if n > most => {
                Err(invalid(format!("{path}.{field}"), format!("has {n} bytes, at most {most} are possible")))
            }
            _ => Ok(()),
        };
        match self {
            Self::AfPacket { interface } | Self::AfXdp { interface } | Self::PcapInterface { interface } => {
                named("interface", interface, MAX_INTERFACE_BYTES)
            }
            Self::Memif { socket, .. } | Self::VirtioUser { socket, .. } | Self::Vhost { socket, .. } => {
                named("socket", socket, MAX_SOCKET_BYTES)
            }
            Self::PcapFile { receive: None, transmit: None } => {
                Err(invalid(path, "names no file: give `receive`, `transmit` or both"))
            }
            Self::PcapFile { receive, transmit } => {
                receive.iter().try_for_each(|t| named("receive", t, MAX_FILE_BYTES))?;
                transmit.iter().try_for_each(|t| named("transmit", t, MAX_FILE_BYTES))
            }
            Self::Null { frame_bytes } => {
                let (least, most) = NULL_FRAME_BYTES;
                match (least..=most).contains(frame_bytes) {
                    true => Ok(()),
                    false => Err(invalid(
                        format!("{path}.frame_bytes"),
                        format!("{frame_bytes} is not within {least} to {most}"),
                    )),
                }
            }
            Self::Pci { .. } => Ok(()),
        }
    }
}

/// Each port by itself, and no two of them on one device.
pub(crate) fn check(ports: &[Port]) -> Result<(), ConfigError> {
    let mut taken = BTreeMap::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("ports[{i}].driver.{}", port.driver.name());
        port.driver.check(&path)?;
        let Some(device) = port.driver.exclusive() else { continue };
        if let Some(other) = taken.insert(device.clone(), &port.name) {
            return Err(invalid(path, format!("`{device}` is port `{other}`'s already")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, driver: PortDriver) -> Port {
        Port { name: name.into(), driver, mac: MacAddr::default() }
    }

    fn refusal(ports: &[Port]) -> String {
        check(ports).unwrap_err().to_string()
    }

    #[test]
    fn every_driver_has_its_form_in_a_document() {
        for (text, driver) in [
            (r#"{"af_packet":{"interface":"e"}}"#, PortDriver::AfPacket { interface: "e".into() }),
            (
                r#"{"pci":{"address":"0000:3b:02.1"}}"#,
                PortDriver::Pci { address: PciAddress { domain: 0, bus: 0x3b, device: 2, function: 1 } },
            ),
            (
                r#"{"virtio_user":{"socket":"/s","server":false}}"#,
                PortDriver::VirtioUser { socket: "/s".into(), server: false },
            ),
            (
                r#"{"vhost":{"socket":"/s","server":true}}"#,
                PortDriver::Vhost { socket: "/s".into(), server: true },
            ),
            (
                r#"{"pcap_file":{"receive":"/a"}}"#,
                PortDriver::PcapFile { receive: Some("/a".into()), transmit: None },
            ),
            (r#"{"pcap_interface":{"interface":"e"}}"#, PortDriver::PcapInterface { interface: "e".into() }),
            (r#"{"null":{"frame_bytes":60}}"#, PortDriver::Null { frame_bytes: 60 }),
        ] {
            let read: PortDriver = serde_json::from_str(text).unwrap();
            assert_eq!(read, driver);
            assert_eq!(serde_json::to_string(&driver).unwrap(), text);
            assert!(text.contains(driver.name()));
            check(&[port("p", driver)]).unwrap();
        }
        let short: PortDriver = serde_json::from_str(r#"{"vhost":{"socket":"/s"}}"#).unwrap();
        assert_eq!(short, PortDriver::Vhost { socket: "/s".into(), server: true });
    }

    #[test]
    fn what_cannot_be_a_device_is_refused_with_its_place() {
        for bad in
            ["", "3b:02.1", "0000:3b:02.8", "0000:3b:20.0", "0000:3b:2.0", "+000:3b:02.1", "0000:3b:02.1 "]
        {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad}");
        }
        let long = "x".repeat(108);
        let memif = |socket: &str| PortDriver::Memif { socket: socket.into(), server: true };
        let words = refusal(&[port("a", memif("/s")), port("b", memif(&long))]);
        assert!(words.contains("ports[1].driver.memif.socket: has 108 bytes"), "{words}");
        let words = refusal(&[port("a", memif("/s")), port("b", memif("/s"))]);
        assert!(words.contains("ports[1].driver.memif: `/s` is port `a`'s already"), "{words}");
        let words = refusal(&[port("a", PortDriver::PcapFile { receive: None, transmit: None })]);
        assert!(words.contains("`receive`, `transmit` or both"), "{words}");
        let words = refusal(&[port("a", PortDriver::Null { frame_bytes: 59 })]);
        assert!(words.contains("ports[0].driver.null.frame_bytes: 59"), "{words}");
        check(&[
            port("a", PortDriver::Null { frame_bytes: 60 }),
            port("b", PortDriver::Null { frame_bytes: 60 }),
        ])
        .unwrap();
    }
}
