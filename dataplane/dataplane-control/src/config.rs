//! The configuration of one data-plane process, as a whole.
//!
//! The bytes of the JSON document are what is measured and compared ([`Configuration::digest`] of the bytes), never
//! a re-encoding of the structure.

pub mod tracking;

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use trust::Digest;

pub use tracking::Tracking;

pub use crate::balancer::{Affinity, Backend, HealthCheck, LoadBalancer, MIN_MTU, Mode, Probe, QuicIds, Vip};
pub use crate::chain::{Chain, Link};
pub use crate::port::{PciAddress, Port, PortDriver};
use crate::{number, port};

/// Largest configuration document accepted, bytes (100,000 rules fit).
pub const MAX_CONFIGURATION_BYTES: usize = 64 << 20;

/// Most rules of a firewall: what its classifier is built and tested for.
pub const MAX_RULES: usize = 100_000;

/// Most zones on one port.
pub const MAX_ZONES: usize = 254;

/// Largest VLAN id (IEEE 802.1Q §9.6; 4095 is reserved).
const MAX_VLAN: u16 = 4094;

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
    /// Several of the above, one after the other.
    Chain(Chain),
}

/// Stateful firewall: default deny, first matching rule wins, replies of allowed connections pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    /// Port towards the clients (untrusted).
    pub outside: String,
    /// Port towards the protected side.
    pub inside: String,
    /// Names for parts of the two ports' networks, which rules may come from or lead to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<Zone>,
    /// In order of precedence, at most [`MAX_RULES`].
    pub rules: Vec<Rule>,
    /// Most connections tracked at once; what becomes of a new one beyond it, [`tracking::WhenFull`] says.
    #[serde(default = "default_max_connections")]
    pub max_connections: u32,
    /// Idle time after which an established TCP connection is forgotten, ms.
    #[serde(default = "default_tcp_idle_ms")]
    pub tcp_idle_ms: u64,
    /// Idle time after which any other connection is forgotten, ms.
    #[serde(default = "default_other_idle_ms")]
    pub other_idle_ms: u64,
    /// Limits, strictness, fragments, and time-outs in detail.
    #[serde(default, skip_serializing_if = "tracking::is_default")]
    pub tracking: Tracking,
}

/// Most connections that a function may track: 1 GiB of entries.
pub const MAX_CONNECTIONS: u32 = 1 << 24;

fn check_max_connections(path: &str, most: u32) -> Result<(), ConfigError> {
    match (1..=MAX_CONNECTIONS).contains(&most) {
        true => Ok(()),
        false => refuse(path.into(), format!("{most} is not within 1 to {MAX_CONNECTIONS}")),
    }
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

/// VLANs of a port under one name. Zones of one port share no VLAN, and none has a port's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// Unique; rules refer to it.
    pub id: String,
    /// Name of the firewall's port that it is on.
    pub port: String,
    /// Outer VLAN ids, 0 to 4094; 0: no tag, or a priority tag (IEEE 802.1Q §9.6). None at all: every VLAN of the port that
    /// no other zone has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<u16>,
}

/// One rule for new connections: it applies where all of its conditions hold, and where no rule before it does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique in the rule set; counters carry it.
    pub id: String,
    /// Name of the port, or of the zone, where the connection's first packet comes in.
    pub from: String,
    /// Name of the port, or of the zone, that it leaves to; absent: wherever the other port leads. The firewall keeps tags, so
    /// that a zone on the other port with other VLANs than `from` is never reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What happens.
    pub action: RuleAction,
    /// IP protocol number; absent: any.
    #[serde(default, deserialize_with = "number::or_none", skip_serializing_if = "Option::is_none")]
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
    /// ICMP (protocol 1) or ICMPv6 (58) messages; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IcmpMatch>,
    /// Flags of the first segment (protocol 6); absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<TcpFlags>,
    /// Each decision of the rule is written down.
    #[serde(default, skip_serializing_if = "is_false")]
    pub log: bool,
    /// How many connections it decides on in a time; what is beyond is dropped in silence. Not with `deny`, which drops all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// The connection and its replies pass.
    Allow,
    /// Dropped, counted.
    #[default]
    Deny,
    /// Dropped, counted, and its sender told: with a TCP RST (RFC 9293 §3.5.2), or an ICMP error that says
    /// administratively prohibited (RFC 1812 §5.2.7.1 code 13, RFC 4443 §3.1 code 1).
    Reject,
}

/// ICMP messages by type and code (RFC 792, RFC 4443).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IcmpMatch {
    /// Type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Code; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

/// Flags of a TCP segment: those in `mask` are as in `value` (RFC 9293 §3.1: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64,
/// CWR 128).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpFlags {
    /// Which are set.
    pub value: u8,
    /// Which are looked at.
    pub mask: u8,
}

/// A token bucket for a rule's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Connections a second, from 1.
    pub rate_per_second: u32,
    /// Connections at once after silence, from 1.
    pub burst: u32,
    /// Who shares a bucket.
    #[serde(default)]
    pub per: LimitPer,
}

/// Who shares a [`Limit`]'s bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitPer {
    /// All connections of the rule.
    #[default]
    Rule,
    /// Those of one source: an IPv4 address or an IPv6 /64.
    Source,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(it: &bool) -> bool {
    !it
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

pub(crate) fn value(text: &str, expected: &'static str) -> ConfigError {
    ConfigError::Value { text: text.to_owned(), expected }
}

pub(crate) fn invalid(path: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { path: path.into(), problem: problem.into() }
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
        impl serde::Serialize for $t {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.collect_str(self) }
        }
        impl<'de> serde::Deserialize<'de> for $t {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
pub(crate) use serde_as_text;
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
        port::check(&self.ports)?;
        let known = |path: &str, name: &str| match names.contains(&name) {
            true => Ok(()),
            false => invalid(path.into(), format!("no port `{name}` among {names:?}")),
        };
        match &self.function {
            Function::Firewall(f) => {
                known("firewall.outside", &f.outside)?;
                known("firewall.inside", &f.inside)?;
                two_sides("firewall.inside", &f.outside, &f.inside)?;
                check_max_connections("firewall.max_connections", f.max_connections)?;
                f.tracking.check(f.max_connections)?;
                f.check_zones()?;
                f.check_rules()
            }
            Function::LoadBalancer(l) => {
                known("load_balancer.client", &l.client)?;
                known("load_balancer.backend", &l.backend)?;
                two_sides("load_balancer.backend", &l.client, &l.backend)?;
                check_max_connections("load_balancer.max_connections", l.max_connections)?;
                l.check()
            }
            Function::Reflector(r) if r.number == 0 => invalid(
                "reflector.number".into(),
                "number 0 means \"not answered\" in a probe; number reflectors from 1".into(),
            ),
            Function::Reflector(r) => known("reflector.port", &r.port),
            Function::Generator(g) => known("generator.port", &g.port),
            Function::Chain(c) => c.check(self),
        }
    }
}

impl Default for Firewall {
    /// No ports and no rules; what a document may leave out is as if it did.
    fn default() -> Self {
        Self {
            outside: String::new(),
            inside: String::new(),
            zones: Vec::new(),
            rules: Vec::new(),
            max_connections: default_max_connections(),
            tcp_idle_ms: default_tcp_idle_ms(),
            other_idle_ms: default_other_idle_ms(),
            tracking: Tracking::default(),
        }
    }
}

impl Firewall {
    fn check_zones(&self) -> Result<(), ConfigError> {
        unique("firewall.zones", self.zones.iter().map(|z| z.id.as_str()))?;
        for (i, zone) in self.zones.iter().enumerate() {
            let path = |field: &str| format!("firewall.zones[{i}].{field}");
            if zone.id == self.outside || zone.id == self.inside {
                return refuse(path("id"), format!("`{}` is a port; give the zone another name", zone.id));
            }
            if zone.port != self.outside && zone.port != self.inside {
                let problem = format!("`{}` is neither `{}` nor `{}`", zone.port, self.outside, self.inside);
                return refuse(path("port"), problem);
            }
            if let Some(vlan) = zone.vlans.iter().find(|v| **v > MAX_VLAN) {
                return refuse(path("vlans"), format!("{vlan} is not within 0 to {MAX_VLAN}"));
            }
        }
        for port in [&self.outside, &self.inside] {
            let zones = || self.zones.iter().filter(|z| z.port == *port);
            unique(&format!("VLANs of firewall.zones on `{port}`"), zones().flat_map(|z| &z.vlans))?;
            if zones().filter(|z| z.vlans.is_empty()).count() > 1 {
                let problem = format!("two zones on `{port}` have no `vlans`: both would be what is left");
                return refuse("firewall.zones".into(), problem);
            }
            if zones().count() > MAX_ZONES {
                let problem = format!("{} zones on `{port}`; at most {MAX_ZONES}", zones().count());
                return refuse("firewall.zones".into(), problem);
            }
        }
        Ok(())
    }

    fn check_rules(&self) -> Result<(), ConfigError> {
        if self.rules.len() > MAX_RULES {
            let problem = format!("{} rules; at most {MAX_RULES}", self.rules.len());
            return refuse("firewall.rules".into(), problem);
        }
        let ports: BTreeMap<&str, &str> =
            self.zones.iter().map(|z| (z.id.as_str(), z.port.as_str())).collect();
        let on_outside = |name: &str| match name == self.outside || name == self.inside {
            true => Some(name == self.outside),
            false => ports.get(name).map(|port| *port == self.outside),
        };
        for (i, rule) in self.rules.iter().enumerate() {
            let known = |field: &str, name: &str| {
                on_outside(name).ok_or_else(|| ConfigError::Invalid {
                    path: format!("firewall.rules[{i}].{field}"),
                    problem: format!(
                        "`{name}` is neither `{}` nor `{}` nor a zone",
                        self.outside, self.inside
                    ),
                })
            };
            let from_outside = known("from", &rule.from)?;
            if let Some(to) = &rule.to
                && known("to", to)? == from_outside
            {
                let problem = format!("`{to}` is on the port of `{}`; packets leave by the other", rule.from);
                return refuse(format!("firewall.rules[{i}].to"), problem);
            }
            rule.check(&format!("firewall.rules[{i}]"))?;
        }
        unique("firewall.rules", self.rules.iter().map(|r| r.id.as_str()))
    }
}

impl Rule {
    /// Whether the conditions go together; `path` is the rule's.
    fn check(&self, path: &str) -> Result<(), ConfigError> {
        let invalid = |problem: &str| refuse(path.to_owned(), problem.to_owned());
        if let (Some(s), Some(d)) = (self.source, self.destination)
            && s.address.is_ipv4() != d.address.is_ipv4()
        {
            return invalid("source and destination differ in IP version");
        }
        let ports = self.source_ports.is_some() || self.destination_ports.is_some();
        if ports && !matches!(self.protocol, Some(6 | 17 | 132)) {
            return invalid("ports need protocol 6, 17 or 132");
        }
        if self.icmp.is_some() && !matches!(self.protocol, Some(1 | 58)) {
            return invalid("icmp needs protocol 1 or 58");
        }
        if self.tcp_flags.is_some() && self.protocol != Some(6) {
            return invalid("tcp_flags need protocol 6");
        }
        if self.tcp_flags.is_some_and(|f| f.value & !f.mask != 0) {
            return refuse(format!("{path}.tcp_flags.value"), "has flags that `mask` leaves out".into());
        }
        if self.limit.is_some() && self.action == RuleAction::Deny {
            return refuse(format!("{path}.limit"), "`deny` drops all; limit `allow` or `reject`".into());
        }
        if self.limit.is_some_and(|l| l.rate_per_second == 0 || l.burst == 0) {
            return refuse(format!("{path}.limit"), "rate_per_second and burst start at 1".into());
        }
        Ok(())
    }
}

fn refuse(path: String, problem: String) -> Result<(), ConfigError> {
    Err(ConfigError::Invalid { path, problem })
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
            ..Firewall::default()
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
    fn tables_have_a_bound() {
        let with = |most| match firewall("a", "b") {
            Configuration { function: Function::Firewall(f), .. } => {
                configuration(Function::Firewall(Firewall { max_connections: most, ..f }))
            }
            other => other,
        };
        assert_eq!(refusal(&with(MAX_CONNECTIONS)), None);
        for most in [0, MAX_CONNECTIONS + 1] {
            let words = refusal(&with(most)).unwrap();
            assert!(words.contains("firewall.max_connections") && words.contains("within 1 to"), "{words}");
        }
    }

    #[test]
    fn a_protocol_is_a_number() {
        let rule = |protocol: &str| {
            let text = format!(r#"{{"id":"r","from":"a","action":"allow","protocol":{protocol}}}"#);
            serde_json::from_str::<Rule>(&text).map(|rule| rule.protocol).map_err(|e| e.to_string())
        };
        assert_eq!((rule("17"), rule("null")), (Ok(Some(17)), Ok(None)));
        for wrong in [r#""udp""#, "256", "-1"] {
            let words = rule(wrong).unwrap_err();
            assert!(words.contains("an IP protocol number: 1 is ICMP, 6 TCP, 17 UDP"), "{words}");
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
