//! The configuration of one data-plane process, as a whole.
//!
//! The bytes of the JSON document are what is measured and compared ([`Configuration::digest`] of the bytes), never
//! a re-encoding of the structure.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use trust::Digest;

pub use crate::balancer::{Affinity, Backend, LoadBalancer, Mode, QuicIds, Vip};

/// Largest configuration document accepted, bytes (100,000 rules fit).
pub const MAX_CONFIGURATION_BYTES: usize = 64 << 20;

/// One process's whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// The object key of the VDU instance (or probe) this is for.
    pub instance: String,
    /// Grows by one with each configuration of the same instance; starts at 1.
    pub generation: u64,
    /// The process's ports, in order.
    pub ports: Vec<Port>,
    /// What it does with packets.
    pub function: Function,
}

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
    /// `net_memif`, zero copy, between processes of one machine.
    Memif {
        /// Socket path.
        socket: String,
        /// Whether this side opens the socket.
        server: bool,
    },
}

/// What the process does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// Stateful firewall between two ports, transparent at layer 2.
    Firewall(Firewall),
    /// Maglev load balancer between two ports.
    LoadBalancer(LoadBalancer),
    /// Answers what it is sent (a measured backend).
    Reflector(Reflector),
    /// Sends known traffic when asked to (the client-side probe).
    Generator(Generator),
}

/// Stateful firewall: default deny, first matching rule wins, replies of allowed connections pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    /// Port towards the clients (untrusted).
    pub outside: String,
    /// Port towards the protected side.
    pub inside: String,
    /// In order of precedence.
    pub rules: Vec<Rule>,
    /// Most connections tracked at once; a new one beyond it is dropped and counted.
    #[serde(default = "default_max_connections")]
    pub max_connections: u32,
    /// Idle time after which an established TCP connection is forgotten, ms.
    #[serde(default = "default_tcp_idle_ms")]
    pub tcp_idle_ms: u64,
    /// Idle time after which any other connection is forgotten, ms.
    #[serde(default = "default_other_idle_ms")]
    pub other_idle_ms: u64,
}

pub(crate) fn default_max_connections() -> u32 {
    65_536
}
pub(crate) fn default_tcp_idle_ms() -> u64 {
    300_000
}
fn default_other_idle_ms() -> u64 {
    60_000
}

/// One 5-tuple rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique in the rule set; counters carry it.
    pub id: String,
    /// Name of the port where the connection's first packet comes in.
    pub from: String,
    /// What happens.
    pub action: RuleAction,
    /// IP protocol number; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Source prefix; absent: any IPv4 or IPv6 source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Prefix>,
    /// Destination prefix; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Prefix>,
    /// Source ports (TCP, UDP, SCTP only), inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<PortRange>,
    /// Destination ports, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ports: Option<PortRange>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// The connection and its replies pass.
    Allow,
    /// Dropped, counted.
    Deny,
}

/// An inclusive range of ports, written `"443"` or `"8000-8080"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// First.
    pub first: u16,
    /// Last, not below `first`.
    pub last: u16,
}

/// An address prefix, written `"192.0.2.0/24"`; host bits must be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Network address.
    pub address: IpAddr,
    /// Prefix length.
    pub length: u8,
}

/// Answers TCP and UDP to its addresses, and stamps its number into probe payloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reflector {
    /// Port it answers on.
    pub port: String,
    /// Stamped into probe payloads; from 1.
    pub number: u16,
    /// Addresses it answers for (the VIPs).
    pub addresses: Vec<IpAddr>,
}

/// Sends [`crate::traffic::TrafficProfile`]s when asked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generator {
    /// Port it sends and receives on.
    pub port: String,
}

/// An Ethernet address, written `02:00:00:aa:bb:cc`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

/// Why a text or a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that does not parse.
    #[error("`{text}` is not {expected}")]
    Value {
        /// As written.
        text: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Not JSON, or an unknown or missing field.
    #[error("configuration: {0}")]
    Malformed(String),
    /// Fields that contradict each other.
    #[error("configuration, {path}: {problem}")]
    Invalid {
        /// Which field.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn value(text: &str, expected: &'static str) -> ConfigError {
    ConfigError::Value { text: text.to_owned(), expected }
}

impl FromStr for MacAddr {
    type Err = ConfigError;
    fn from_str(s: &str) -> Result<Self, ConfigError> {
        let bad = || value(s, "a MAC address like 02:00:00:aa:bb:cc");
        let mut out = [0; 6];
        let mut parts = s.split(':');
        for byte in &mut out {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(out)) }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PortRange {
    type Err = ConfigError;
    fn from_str(s: &str) -> Result<Self, ConfigError> {
        let bad = || value(s, "a port or a range of ports like 8000-8080");
        let (a, b) = s.split_once('-').unwrap_or((s, s));
        let (first, last) = (a.parse().map_err(|_| bad())?, b.parse().map_err(|_| bad())?);
        if first > last { Err(bad()) } else { Ok(Self { first, last }) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for Prefix {
    type Err = ConfigError;
    fn from_str(s: &str) -> Result<Self, ConfigError> {
        let bad = || value(s, "a prefix like 192.0.2.0/24 with its host bits zero");
        let (address, length) = s.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().map_err(|_| bad())?;
        let it = Self { address, length };
        if it.host_bits_are_zero() { Ok(it) } else { Err(bad()) }
    }
}

impl Prefix {
    fn host_bits_are_zero(&self) -> bool {
        let (bits, width) = match self.address {
            IpAddr::V4(a) => (u128::from(a.to_bits()) << 96, 32),
            IpAddr::V6(a) => (a.to_bits(), 128),
        };
        self.length <= width && bits.checked_shl(u32::from(self.length)).unwrap_or(0) == 0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

macro_rules! serde_as_text {
    ($($t:ty),*) => {$(
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.collect_str(self) }
        }
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(MacAddr, PortRange, Prefix);

impl Configuration {
    /// Parses and checks a document.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() > MAX_CONFIGURATION_BYTES {
            return Err(ConfigError::Malformed(format!(
                "{} bytes; at most {MAX_CONFIGURATION_BYTES}",
                bytes.len()
            )));
        }
        let it: Self = serde_json::from_slice(bytes).map_err(|e| ConfigError::Malformed(e.to_string()))?;
        it.check()?;
        Ok(it)
    }

    /// The document for this configuration: always the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and lists always encode.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// What is measured and compared.
    #[must_use]
    pub fn digest(bytes: &[u8]) -> Digest {
        Digest::of(bytes)
    }

    /// References between fields, uniqueness and ranges.
    pub fn check(&self) -> Result<(), ConfigError> {
        let invalid = |path: String, problem: String| Err(ConfigError::Invalid { path, problem });
        if self.generation == 0 {
            return invalid("generation".into(), "starts at 1".into());
        }
        let names: Vec<&str> = self.ports.iter().map(|p| p.name.as_str()).collect();
        unique("ports", names.iter().copied())?;
        let known = |path: &str, name: &str| match names.contains(&name) {
            true => Ok(()),
            false => invalid(path.into(), format!("no port `{name}` among {names:?}")),
        };
        match &self.function {
            Function::Firewall(f) => {
                known("firewall.outside", &f.outside)?;
                known("firewall.inside", &f.inside)?;
                two_sides("firewall.inside", &f.outside, &f.inside)?;
                for (i, rule) in f.rules.iter().enumerate() {
                    known(&format!("firewall.rules[{i}].from"), &rule.from)?;
                    if let (Some(s), Some(d)) = (rule.source, rule.destination)
                        && s.address.is_ipv4() != d.address.is_ipv4()
                    {
                        return invalid(
                            format!("firewall.rules[{i}]"),
                            "source and destination differ in IP version".into(),
                        );
                    }
                    let ports = rule.source_ports.is_some() || rule.destination_ports.is_some();
                    if ports && !matches!(rule.protocol, Some(6 | 17 | 132)) {
                        return invalid(
                            format!("firewall.rules[{i}]"),
                            "ports need protocol 6, 17 or 132".into(),
                        );
                    }
                }
                unique("firewall.rules", f.rules.iter().map(|r| r.id.as_str()))
            }
            Function::LoadBalancer(l) => {
                known("load_balancer.client", &l.client)?;
                known("load_balancer.backend", &l.backend)?;
                two_sides("load_balancer.backend", &l.client, &l.backend)?;
                l.check()
            }
            Function::Reflector(r) if r.number == 0 => invalid(
                "reflector.number".into(),
                "number 0 means \"not answered\" in a probe; number reflectors from 1".into(),
            ),
            Function::Reflector(r) => known("reflector.port", &r.port),
            Function::Generator(g) => known("generator.port", &g.port),
        }
    }
}

fn two_sides(path: &str, one: &str, other: &str) -> Result<(), ConfigError> {
    if one != other {
        return Ok(());
    }
    let problem = format!("`{other}` is the port of both sides; name two");
    Err(ConfigError::Invalid { path: path.into(), problem })
}

pub(crate) fn unique<T: Ord + Copy + fmt::Display>(
    path: &str,
    mut names: impl Iterator<Item = T>,
) -> Result<(), ConfigError> {
    let mut seen = std::collections::BTreeSet::new();
    match names.find(|n| !seen.insert(*n)) {
        None => Ok(()),
        Some(n) => Err(ConfigError::Invalid { path: path.into(), problem: format!("`{n}` is there twice") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str) -> Port {
        let driver = PortDriver::AfPacket { interface: name.into() };
        Port { name: name.into(), driver, mac: MacAddr([2, 0, 0, 0, 0, 1]) }
    }

    fn configuration(function: Function) -> Configuration {
        Configuration { instance: "i".into(), generation: 1, ports: vec![port("a"), port("b")], function }
    }

    fn firewall(outside: &str, inside: &str) -> Configuration {
        configuration(Function::Firewall(Firewall {
            outside: outside.into(),
            inside: inside.into(),
            rules: vec![],
            max_connections: 1,
            tcp_idle_ms: 1,
            other_idle_ms: 1,
        }))
    }

    fn balancer(client: &str, backend: &str, numbers: &[u16]) -> Configuration {
        let one = |(i, number): (usize, &u16)| {
            Backend::new(&format!("backend-{i}"), *number, MacAddr([2, 0, 0, 0, 1, 1]), 1)
        };
        let backends = numbers.iter().enumerate().map(one).collect();
        configuration(Function::LoadBalancer(LoadBalancer {
            table_size: 5,
            ..LoadBalancer::new(client, backend, vec![], backends)
        }))
    }

    /// Both ways in: the structure, and the document.
    fn refusal(c: &Configuration) -> Option<String> {
        let refusal = c.check().err();
        assert_eq!(Configuration::parse(&c.to_bytes()).err(), refusal);
        refusal.map(|e| e.to_string())
    }

    #[test]
    fn two_sides_are_two_ports() {
        assert_eq!(refusal(&firewall("a", "b")), None);
        assert_eq!(refusal(&balancer("a", "b", &[1])), None);
        for (same, path) in
            [(firewall("a", "a"), "firewall.inside"), (balancer("b", "b", &[1]), "load_balancer.backend")]
        {
            let words = refusal(&same).unwrap();
            assert!(words.contains(path) && words.contains("both sides"), "{words}");
        }
    }

    #[test]
    fn numbers_name_one_backend_each_and_none_is_zero() {
        assert_eq!(refusal(&balancer("a", "b", &[2, 1, u16::MAX])), None);
        let words = refusal(&balancer("a", "b", &[3, 1, 3])).unwrap();
        assert!(words.contains("load_balancer.backends[].number: `3` is there twice"), "{words}");
        let words = refusal(&balancer("a", "b", &[1, 0])).unwrap();
        assert!(words.contains("`backend-1`") && words.contains("number 0"), "{words}");
        let reflector = |number| {
            configuration(Function::Reflector(Reflector { port: "a".into(), number, addresses: vec![] }))
        };
        assert_eq!(refusal(&reflector(1)), None);
        assert!(refusal(&reflector(0)).unwrap().contains("reflector.number"));
    }
}
