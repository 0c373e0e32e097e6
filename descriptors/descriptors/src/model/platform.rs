//! What VDUs, connection points and links ask of the infrastructure, beyond a size and a link.
//!
//! Read from SOL006, OSM's augments and, where neither has a word for it, from [`Requests`] in the VDU's cloud-init.
//! Everything has a default that asks for nothing. What a VIM does with it is the planner's and the driver's business.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a VDU needs of its machine (`virtual-compute-desc`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hardware {
    /// `virtual-cpu.pinning`, or the cores and threads of `numa-node-policy`.
    pub pinning: Option<Pinning>,
    /// `virtual-memory.mempage-size`.
    pub pages: Option<Pages>,
    /// `virtual-memory.numa-node-policy`.
    pub numa: Option<NumaPolicy>,
}

/// Whose CPUs they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pinning {
    /// `dynamic`: shared with others.
    Dynamic,
    /// `static`: its own, with what becomes of sibling threads.
    Static(Option<Threads>),
}

/// `pinning.thread-policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threads {
    /// Siblings only.
    Require,
    /// Nobody else's siblings.
    Isolate,
    /// Siblings where there are any.
    Prefer,
}

/// `mempage-size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pages {
    /// Huge ones of any size.
    Large,
    /// Ordinary ones.
    Small,
    /// Huge ones where there are any.
    PreferLarge,
    /// 2 MiB.
    Mib2,
    /// 1 GiB.
    Gib1,
}

/// `numa-node-policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumaPolicy {
    /// `node-cnt`, or as many as there are `node`s; at least 1.
    pub nodes: u16,
    /// `mem-policy: STRICT`.
    pub strict: bool,
    /// `node`, in order of `id`: one for each node and with all CPUs and memory, or none (divided evenly).
    pub cells: Vec<NumaCell>,
}

/// One `node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumaCell {
    /// `vcpu[].id`, ascending.
    pub vcpus: Vec<u32>,
    /// `memory-mb`.
    pub memory_mib: u32,
}

/// A disk that outlives a reboot of its instance, beside the root disk (`persistent-storage`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// `virtual-storage-desc.id`.
    pub id: String,
    /// `size-of-storage`, GB.
    pub size_gib: u32,
}

/// What may pass a connection point, as `port-security-enabled` and its strategy say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortSecurity {
    /// What the VIM lets pass, or what the rules allow.
    #[default]
    On,
    /// `full`: everything.
    Off,
    /// `allow-address-pairs`: from any address, but only what the rules allow.
    AnyAddress,
}

/// `security-group-rule`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecurityRule {
    /// `direction: ingress`, the default.
    pub ingress: bool,
    /// `ether-type: ipv6`.
    pub ipv6: bool,
    /// `protocol`: `tcp` (the default), `udp`, `icmp`.
    pub protocol: String,
    /// `port-range-min` and `-max`; for ICMP its type and code. Absent: all.
    pub ports: Option<(u16, u16)>,
}

/// What a link is to be (`provider-network`, `virtual-link-protocol-data`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkProfile {
    /// `provider-network`.
    pub provider: Option<ProviderNetwork>,
    /// `l2-protocol-data.mtu`.
    pub mtu: Option<u16>,
    /// `l3-protocol-data`.
    pub subnet: Option<IpProfile>,
}

/// A segment of a physical network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderNetwork {
    /// `physical-network`; absent: the site's.
    pub physical_network: Option<String>,
    /// `segmentation_id`, 1 to 4094; absent: the VIM gives one.
    pub segment: Option<u16>,
    /// `l2-protocol-data.network-type: flat`: it is the whole physical network, and no VLAN of it.
    pub flat: bool,
}

/// `l3-protocol-data` with a `cidr`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpProfile {
    /// `cidr`.
    pub cidr: Cidr,
    /// `gateway-ip`; absent: none.
    pub gateway: Option<IpAddr>,
    /// `dhcp-enabled`; OSM takes an absent one as false, and so is it taken here.
    pub dhcp: bool,
}

/// A prefix with its host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// Every IPv4 address.
    pub const ANY_IPV4: Self = Self { address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), length: 0 };

    /// Network address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Length, bits.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self::of(address, self.length) == Some(*self)
    }

    /// The prefix of that length which an address is in; `None` if it is too long.
    #[must_use]
    pub fn of(address: IpAddr, length: u8) -> Option<Self> {
        let shift = u32::from(length);
        let address = match address {
            IpAddr::V4(a) => {
                let host = 32_u32.checked_sub(shift)?;
                let mask = u32::MAX.checked_shl(host).unwrap_or(0);
                IpAddr::V4((a.to_bits() & mask).into())
            }
            IpAddr::V6(a) => {
                let host = 128_u32.checked_sub(shift)?;
                let mask = u128::MAX.checked_shl(host).unwrap_or(0);
                IpAddr::V6((a.to_bits() & mask).into())
            }
        };
        Some(Self { address, length })
    }
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a prefix like 192.0.2.0/24 or 2001:db8::/64")]
pub struct BadCidr(pub String);

impl FromStr for Cidr {
    type Err = BadCidr;

    /// An address, or one with a length; host bits are cleared.
    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(crate::schema::clip(text));
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, length.parse().map_err(|_| bad())?),
            None => (text, if text.contains(':') { 128 } else { 32 }),
        };
        Self::of(address.parse().map_err(|_| bad())?, length).ok_or_else(bad)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A MAC address of one station: six pairs of hexadecimal digits, the first one even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Why a text is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address like fa:16:3e:00:00:01")]
pub struct BadMac(pub String);

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(crate::schema::clip(text));
        let mut out = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut out {
            let digits = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(digits).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() || out[0] & 1 == 1 { Err(bad()) } else { Ok(Self(out)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An affinity group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityGroup {
    /// `id`.
    pub id: String,
    /// `type: anti-affinity`, or affinity.
    pub anti: bool,
    /// `scope`.
    pub scope: AffinityScope,
}

/// What members of a group share, or do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AffinityScope {
    /// A host.
    #[default]
    NfviNode,
    /// A group of zones.
    ZoneGroup,
    /// A zone.
    Zone,
    /// A site.
    NfviPop,
}

/// `mandate.vim` of a VDU's cloud-init: what neither SOL006 nor OSM has a word for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Requests {
    /// Availability zone.
    pub zone: Option<String>,
    /// Properties that the host's aggregate must have.
    pub aggregate: BTreeMap<String, String>,
    /// How many devices, at least 1, by the VIM's alias.
    pub pci: BTreeMap<String, u16>,
    /// By `int-cpd` id.
    pub ports: BTreeMap<String, PortRequests>,
}

impl Requests {
    /// The connection point that carries `cpd` in a VLAN, and in which.
    #[must_use]
    pub fn carrier(&self, cpd: &str) -> Option<(&str, u16)> {
        self.ports.iter().find_map(|(id, p)| Some((id.as_str(), *p.subports.get(cpd)?)))
    }
}

/// What is asked for at a connection point.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortRequests {
    /// A virtual function that may change its MAC address and see other frames.
    pub trusted: bool,
    /// The external network that a floating address is taken from.
    pub floating: Option<String>,
    /// Addresses and prefixes, besides its own, that it may send from.
    pub address_pairs: Vec<AddressPair>,
    /// How much may pass.
    pub qos: Option<Qos>,
    /// `int-cpd` ids of the same VDU that are carried here in a VLAN of 1 to 4094, instead of being interfaces.
    pub subports: BTreeMap<String, u16>,
}

/// An address that a connection point may send from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPair {
    /// Address or prefix.
    pub address: Cidr,
    /// With this MAC address; absent: the connection point's.
    #[serde(default)]
    pub mac: Option<Mac>,
}

/// How much may pass a connection point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Qos {
    /// At most, out of the instance, kbit/s; 0: no limit.
    pub max_egress_kbps: u32,
    /// At most, into the instance, kbit/s; 0: no limit.
    pub max_ingress_kbps: u32,
    /// At least, out of the instance, kbit/s; 0: none.
    pub min_egress_kbps: u32,
    /// Mark of what leaves, 0 to 63.
    pub dscp: Option<u8>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes_have_no_host_bits() {
        let it: Cidr = "10.0.6.9/24".parse().unwrap();
        assert_eq!(it.to_string(), "10.0.6.0/24");
        assert!(it.contains("10.0.6.255".parse().unwrap()) && !it.contains("10.0.7.0".parse().unwrap()));
        assert_eq!("2001:db8::7".parse::<Cidr>().unwrap().to_string(), "2001:db8::7/128");
        assert_eq!("0.0.0.0/0".parse(), Ok(Cidr::ANY_IPV4));
        for bad in ["10.0.0.0/33", "::/129", "10.0.0/8", "x", "10.0.0.0/", "/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn macs_are_of_one_station() {
        assert_eq!("FA:16:3e:00:00:01".parse::<Mac>().unwrap().to_string(), "fa:16:3e:00:00:01");
        for bad in ["01:00:5e:00:00:01", "fa:16:3e:00:00", "fa:16:3e:00:00:01:02", "+a:16:3e:00:00:01"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn texts_of_values_are_read_back(address: u128, length in 0_u8..=128, mac: [u8; 6]) {
            let cidr = Cidr::of(IpAddr::V6(address.into()), length).unwrap();
            prop_assert_eq!(cidr.to_string().parse(), Ok(cidr));
            let mac = Mac([mac[0] & !1, mac[1], mac[2], mac[3], mac[4], mac[5]]);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = (text.parse::<Cidr>(), text.parse::<Mac>());
        }
    }
}
