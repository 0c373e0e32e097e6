//! Devices: what becomes a port.

use std::fmt;

use crate::DpdkError;

/// A device for the EAL's command line: `--vdev=net_af_packet0,iface=veth0` or `--allow=0000:3b:02.1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vdev {
    name: String,
    arguments: String,
    /// How the driver is told of a number of queues, if it has to be.
    queues: Option<&'static str>,
    /// The NUMA node of a PCI device, if the system says.
    node: Option<u32>,
    pci: bool,
}

impl Vdev {
    /// `net_af_packet`: an interface of the network namespace, over `AF_PACKET` rings. Needs `CAP_NET_RAW`.
    pub fn af_packet(index: u16, interface: &str) -> Result<Self, DpdkError> {
        let interface = checked("interface", interface, MAX_INTERFACE_BYTES)?;
        let it = Self::new("net_af_packet", index, format!(",iface={interface},qdisc_bypass=1"));
        Ok(Self { queues: Some("qpairs"), ..it })
    }

    /// `net_af_xdp`: an interface of the network namespace, over XDP sockets. Needs `CAP_NET_ADMIN`, `CAP_NET_RAW`,
    /// `CAP_BPF` and memory that may be locked: it loads a program into the interface.
    pub fn af_xdp(index: u16, interface: &str) -> Result<Self, DpdkError> {
        let interface = checked("interface", interface, MAX_INTERFACE_BYTES)?;
        let it = Self::new("net_af_xdp", index, format!(",iface={interface}"));
        Ok(Self { queues: Some("queue_count"), ..it })
    }

    /// `net_memif`: shared memory between two processes, found through `socket`; one side is the server.
    pub fn memif(index: u16, socket: &str, server: bool) -> Result<Self, DpdkError> {
        let socket = checked("memif socket", socket, MAX_SOCKET_BYTES)?;
        let role = if server { "server" } else { "client" };
        Ok(Self::new("net_memif", index, format!(",role={role},socket={socket},socket-abstract=no")))
    }

    /// `net_virtio_user`: the guest's side of a vhost-user socket, with our Ethernet address.
    pub fn virtio_user(index: u16, socket: &str, server: bool, mac: [u8; 6]) -> Result<Self, DpdkError> {
        let socket = checked("vhost-user socket", socket, MAX_SOCKET_BYTES)?;
        let [a, b, c, d, e, f] = mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let server = u8::from(server);
        let it = Self::new("net_virtio_user", index, format!(",path={socket},server={server},mac={mac}"));
        Ok(Self { queues: Some("queues"), ..it })
    }

    /// `net_vhost`: the host's side of a vhost-user socket.
    pub fn vhost(index: u16, socket: &str, server: bool) -> Result<Self, DpdkError> {
        let socket = checked("vhost-user socket", socket, MAX_SOCKET_BYTES)?;
        let client = u8::from(!server);
        let it = Self::new("net_vhost", index, format!(",iface={socket},client={client}"));
        Ok(Self { queues: Some("queues"), ..it })
    }

    /// A PCI function that is bound to `vfio-pci`, by its address (`0000:3b:02.1`), and its NUMA node if the system says.
    pub fn pci(address: &str, node: Option<u32>) -> Result<Self, DpdkError> {
        let name = checked("PCI address", address, PCI_ADDRESS_BYTES)?.to_owned();
        Ok(Self { name, arguments: String::new(), queues: None, node, pci: true })
    }

    /// `net_null`: receives zeroed frames of `frame_bytes` without end and swallows what is sent. For measurements.
    #[must_use]
    pub fn null(index: u16, frame_bytes: u16) -> Self {
        Self::new("net_null", index, format!(",size={frame_bytes}"))
    }

    /// `net_ring`: receives what it sent. For tests.
    #[must_use]
    pub fn ring(index: u16) -> Self {
        Self::new("net_ring", index, String::new())
    }

    /// `net_pcap`: receives the frames of one capture file, once, and writes what is sent to another. Needs the feature
    /// `pcap`.
    pub fn pcap(index: u16, receive: Option<&str>, transmit: Option<&str>) -> Result<Self, DpdkError> {
        let mut arguments = String::new();
        for (key, file) in [("rx_pcap", receive), ("tx_pcap", transmit)] {
            let Some(file) = file else { continue };
            let file = checked("capture file", file, MAX_FILE_BYTES)?;
            arguments.push_str(&format!(",{key}={file}"));
        }
        Ok(Self::new("net_pcap", index, arguments))
    }

    /// `net_pcap`: receives the frames of a capture file again and again, from memory, and swallows what is sent. For measurements. Needs
    /// the feature `pcap`, and a buffer for each frame.
    pub fn pcap_endless(index: u16, receive: &str) -> Result<Self, DpdkError> {
        let file = checked("capture file", receive, MAX_FILE_BYTES)?;
        Ok(Self::new("net_pcap", index, format!(",rx_pcap={file},infinite_rx=1")))
    }

    /// `net_pcap` on an interface of the network namespace. Needs the feature `pcap`, and `CAP_NET_RAW`.
    pub fn pcap_interface(index: u16, interface: &str) -> Result<Self, DpdkError> {
        let interface = checked("interface", interface, MAX_INTERFACE_BYTES)?;
        Ok(Self::new("net_pcap", index, format!(",iface={interface}")))
    }

    fn new(driver: &str, index: u16, arguments: String) -> Self {
        Self { name: format!("{driver}{index}"), arguments, queues: None, node: None, pci: false }
    }

    /// With so many queues each way, where the driver has to be told before it is opened.
    #[must_use]
    pub fn with_queues(mut self, queues: u16) -> Self {
        if let Some(key) = self.queues.take_if(|_| queues > 1) {
            self.arguments.push_str(&format!(",{key}={queues}"));
        }
        self
    }

    /// Name of the port it becomes, e.g. `net_af_packet0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the EAL has to look at the PCI bus for it.
    #[must_use]
    pub const fn is_pci(&self) -> bool {
        self.pci
    }

    /// The NUMA node it is at, if known.
    #[must_use]
    pub const fn node(&self) -> Option<u32> {
        self.node
    }
}

/// As an argument of the EAL, without the option's dashes.
impl fmt::Display for Vdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let option = if self.pci { "allow" } else { "vdev" };
        write!(f, "{option}={}{}", self.name, self.arguments)
    }
}

/// `0000:3b:02.1`.
const PCI_ADDRESS_BYTES: usize = 12;
/// Longest path of a capture file, bytes.
const MAX_FILE_BYTES: usize = 255;
/// `IFNAMSIZ` without its NUL.
const MAX_INTERFACE_BYTES: usize = 15;
/// `sun_path` without its NUL.
const MAX_SOCKET_BYTES: usize = 107;

/// A value in a device's argument list must not end it or begin another.
fn checked<'t>(what: &'static str, text: &'t str, most: usize) -> Result<&'t str, DpdkError> {
    let refuse = |problem| Err(DpdkError::Argument { what, text: text.to_owned(), problem });
    match text {
        "" => refuse("is empty"),
        t if t.len() > most => refuse("is too long"),
        t if t.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@:/".contains(&b)) => Ok(t),
        _ => refuse("only letters, digits and . _ - @ : / can be in a device's argument"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_smuggle_arguments() {
        assert_eq!(
            Vdev::af_packet(3, "veth-a.1").unwrap().to_string(),
            "vdev=net_af_packet3,iface=veth-a.1,qdisc_bypass=1"
        );
        for bad in ["", "a,iface=eth0", "a=b", "a b", "interface-name-16"] {
            assert!(matches!(Vdev::af_packet(0, bad), Err(DpdkError::Argument { .. })), "{bad}");
        }
        assert!(Vdev::memif(0, "/run/a,role=server", false).is_err());
        assert!(Vdev::pcap(0, Some("/a"), Some("/b,infinite_rx=1")).is_err());
    }

    #[test]
    fn each_driver_is_told_in_its_own_words() {
        let mac = [2, 0, 0, 0, 0xa, 0xb];
        for (device, words) in [
            (Vdev::pci("0000:3b:02.1", Some(1)), "allow=0000:3b:02.1"),
            (
                Vdev::virtio_user(1, "/s", false, mac),
                "vdev=net_virtio_user1,path=/s,server=0,mac=02:00:00:00:0a:0b,queues=2",
            ),
            (Vdev::vhost(0, "/s", true), "vdev=net_vhost0,iface=/s,client=0,queues=2"),
            (Vdev::pcap(2, Some("/a"), None), "vdev=net_pcap2,rx_pcap=/a"),
            (Vdev::pcap(2, Some("/a"), Some("/b")), "vdev=net_pcap2,rx_pcap=/a,tx_pcap=/b"),
            (Vdev::pcap_interface(2, "lo"), "vdev=net_pcap2,iface=lo"),
            (Vdev::pcap_endless(2, "/a"), "vdev=net_pcap2,rx_pcap=/a,infinite_rx=1"),
            (Vdev::af_xdp(0, "e"), "vdev=net_af_xdp0,iface=e,queue_count=2"),
            (Ok(Vdev::null(0, 60)), "vdev=net_null0,size=60"),
        ] {
            assert_eq!(device.unwrap().with_queues(1).with_queues(2).to_string(), words);
        }
    }
}
