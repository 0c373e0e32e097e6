//! Virtual devices: what becomes a port.

use std::fmt;

use crate::DpdkError;

/// A virtual device for the EAL's command line: `net_af_packet0,iface=veth0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vdev {
    name: String,
    arguments: String,
}

impl Vdev {
    /// `net_af_packet`: an interface of the network namespace, over `AF_PACKET` rings. Needs `CAP_NET_RAW`.
    pub fn af_packet(index: u16, interface: &str) -> Result<Self, DpdkError> {
        let interface = checked("interface", interface, MAX_INTERFACE_BYTES)?;
        Ok(Self::new("net_af_packet", index, format!(",iface={interface},qdisc_bypass=1")))
    }

    /// `net_af_xdp`: an interface of the network namespace, over XDP sockets. Needs `CAP_NET_ADMIN`, `CAP_NET_RAW`,
    /// `CAP_BPF` and memory that may be locked: it loads a program into the interface.
    pub fn af_xdp(index: u16, interface: &str) -> Result<Self, DpdkError> {
        let interface = checked("interface", interface, MAX_INTERFACE_BYTES)?;
        Ok(Self::new("net_af_xdp", index, format!(",iface={interface}")))
    }

    /// `net_memif`: shared memory between two processes, found through `socket`; one side is the server.
    pub fn memif(index: u16, socket: &str, server: bool) -> Result<Self, DpdkError> {
        let socket = checked("memif socket", socket, MAX_SOCKET_BYTES)?;
        let role = if server { "server" } else { "client" };
        Ok(Self::new("net_memif", index, format!(",role={role},socket={socket},socket-abstract=no")))
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

    /// `net_pcap`: receives the frames of one capture file, writes what is sent to another. For tests and
    /// measurements; needs the feature `pcap` of `dpdk-sys`.
    pub fn pcap(index: u16, receive: &str, transmit: &str) -> Result<Self, DpdkError> {
        let receive = checked("capture file", receive, MAX_SOCKET_BYTES)?;
        let transmit = checked("capture file", transmit, MAX_SOCKET_BYTES)?;
        Ok(Self::new("net_pcap", index, format!(",rx_pcap={receive},tx_pcap={transmit}")))
    }

    fn new(driver: &str, index: u16, arguments: String) -> Self {
        Self { name: format!("{driver}{index}"), arguments }
    }

    /// Name of the port it becomes, e.g. `net_af_packet0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Vdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.arguments)
    }
}

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
            "net_af_packet3,iface=veth-a.1,qdisc_bypass=1"
        );
        for bad in ["", "a,iface=eth0", "a=b", "a b", "interface-name-16"] {
            assert!(matches!(Vdev::af_packet(0, bad), Err(DpdkError::Argument { .. })), "{bad}");
        }
        assert!(Vdev::memif(0, "/run/a,role=server", false).is_err());
    }
}
