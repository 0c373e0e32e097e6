//! The load balancer's part of the configuration.
//!
//! Every service has a [`Mode`]. What a mode needs besides a backend's MAC address - the backend's own addresses, ours
//! towards the backends - is checked here, so that the engine never meets a service that it cannot carry.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, MacAddr, default_max_connections, default_tcp_idle_ms, unique};
use crate::number;

/// Smallest MTU towards the backends, bytes: of IPv6 (RFC 8200 §5).
pub const MIN_MTU: u16 = 1280;
/// Largest, bytes: what fits a packet buffer.
pub const MAX_MTU: u16 = 9000;
/// Connection id configurations of QUIC: three bits, of which all ones means "none" (QUIC-LB §3).
const MAX_ROTATION: u8 = 6;

/// Maglev load balancer between clients and backends.
///
/// In mode `l2` and `nat`, backends answer through the balancer (it is their next hop), which sends replies to the client's MAC as learnt
/// from the connection; in the tunnel modes they may, or answer the client themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadBalancer {
    /// Port towards the clients.
    pub client: String,
    /// Port towards the backends.
    pub backend: String,
    /// The services.
    pub vips: Vec<Vip>,
    /// The backends, all serving every VIP.
    pub backends: Vec<Backend>,
    /// Size of the Maglev table, a prime.
    #[serde(default = "default_table_size")]
    pub table_size: u32,
    /// Most connections tracked at once.
    #[serde(default = "default_max_connections")]
    pub max_connections: u32,
    /// Idle time after which a connection is forgotten, ms.
    #[serde(default = "default_tcp_idle_ms")]
    pub idle_ms: u64,
    /// Our own addresses on the backend port, one of each IP version at most: tunnels begin there, and whoever asks for them there by
    /// ARP or neighbour discovery is told our MAC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Longest IP packet towards the backends, bytes: a longer one is answered with ICMP "too big" in the tunnel and NAT modes.
    #[serde(default = "default_mtu", skip_serializing_if = "is_default_mtu")]
    pub mtu: u16,
    /// How backends are asked whether they work; absent: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
}

/// Asks every backend at its first address, from the process's network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Time from one question to the next, ms, a tenth more or less at random: 100 to 3,600,000.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u32,
    /// Longest time for an answer, ms; not above the interval.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u32,
    /// Good answers in a row after which a backend that was down is used again, at least 1.
    #[serde(default = "default_up_after")]
    pub up_after: u32,
    /// Bad or missing answers in a row after which a backend is down, at least 1.
    #[serde(default = "default_down_after")]
    pub down_after: u32,
}

/// What a backend is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Probe {
    /// To take a TCP connection.
    Tcp {
        /// Port.
        port: u16,
    },
    /// To answer `GET` (HTTP/1.1) with a status of 200 to 299.
    Http {
        /// Port.
        port: u16,
        /// From its `/` on; of visible ASCII.
        path: String,
    },
    /// To answer an ICMP echo; needs `CAP_NET_RAW`, or the process's group in `net.ipv4.ping_group_range`.
    Icmp,
}

fn default_interval_ms() -> u32 {
    2000
}

fn default_timeout_ms() -> u32 {
    1000
}

fn default_up_after() -> u32 {
    2
}

fn default_down_after() -> u32 {
    3
}

impl HealthCheck {
    /// With every option at its default.
    #[must_use]
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval_ms: default_interval_ms(),
            timeout_ms: default_timeout_ms(),
            up_after: default_up_after(),
            down_after: default_down_after(),
        }
    }

    fn check(&self, backends: &[Backend]) -> Result<(), ConfigError> {
        let path = |field: &str| format!("load_balancer.health.{field}");
        if !(100..=3_600_000).contains(&self.interval_ms) {
            return invalid(
                &path("interval_ms"),
                format!("{} is not within 100 to 3600000", self.interval_ms),
            );
        }
        if !(1..=self.interval_ms).contains(&self.timeout_ms) {
            return invalid(&path("timeout_ms"), "must be at least 1 and not above `interval_ms`");
        }
        if self.up_after == 0 || self.down_after == 0 {
            return invalid(&path("up_after, down_after"), "must be at least 1");
        }
        if let Probe::Http { path: of, .. } = &self.probe
            && !(of.starts_with('/') && of.bytes().all(|b| b.is_ascii_graphic()))
        {
            return invalid(
                &path("probe.http.path"),
                format!("`{of}` is no path: begin with / and escape others"),
            );
        }
        match backends.iter().find(|b| b.addresses.is_empty()) {
            Some(b) => invalid(&path("probe"), format!("backend `{}` has no address to be asked at", b.id)),
            None => Ok(()),
        }
    }
}

fn default_table_size() -> u32 {
    65_537
}

fn default_mtu() -> u16 {
    1500
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_default_mtu(mtu: &u16) -> bool {
    *mtu == default_mtu()
}

fn is_default<T: Default + PartialEq>(it: &T) -> bool {
    *it == T::default()
}

/// A service address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// Unique name.
    pub id: String,
    /// Address.
    pub address: IpAddr,
    /// IP protocol number: 6 or 17.
    #[serde(deserialize_with = "number::protocol")]
    pub protocol: u8,
    /// Destination port.
    pub port: u16,
    /// How packets get to the backends.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: Mode,
    /// In mode `nat`, the port that backends listen on; absent: the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_port: Option<u16>,
    /// Which connections go to the same backend.
    #[serde(default, skip_serializing_if = "is_default")]
    pub affinity: Affinity,
    /// It is QUIC, and backends put their number into their connection ids in these ways.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quic: Vec<QuicIds>,
}

/// How packets get to a service's backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The destination MAC is rewritten, the VIP stays: backends carry it.
    #[default]
    L2,
    /// The VIP and port become the backend's address and port, and in replies these the VIP (NAT44, NAT66).
    Nat,
    /// In an IPv4 or IPv6 packet to the backend, which carries the VIP (RFC 2003, RFC 2473, RFC 4213).
    Ipip,
    /// The same in UDP (Generic UDP Encapsulation, variant 0, port 6080; Linux: `ip fou add port 6080 gue`).
    Gue,
}

impl Mode {
    /// Whether packets are put into others.
    #[must_use]
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }
}

/// Which connections to a service go to the same backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// Each on its own.
    #[default]
    FiveTuple,
    /// Those of one client address to one VIP address, whatever their ports and protocol.
    Source,
}

/// Where a QUIC connection id says which backend it is of (QUIC-LB, plaintext: draft-ietf-quic-load-balancers §5.2): the backend's
/// number, big-endian, after the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuicIds {
    /// The configuration's id, in the first byte's three highest bits: 0 to 6.
    pub rotation: u8,
    /// Bytes of the server id: 1 to 15.
    pub server_id_bytes: u8,
}

/// A backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Unique name; the Maglev permutation is derived from it, so it must survive reconfiguration.
    pub id: String,
    /// Its number, as its reflector stamps it and as its QUIC connection ids have it; from 1, and no other backend's.
    pub number: u16,
    /// Where its frames go.
    pub mac: MacAddr,
    /// Relative share, 1 to 1000.
    pub weight: u32,
    /// Its own addresses, one of each IP version at most: for NAT of the VIP's version, for tunnels of any that we have, too (the
    /// VIP's version is preferred).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Takes no new connections, and keeps those that it has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub draining: bool,
}

impl LoadBalancer {
    /// With every option at its default.
    #[must_use]
    pub fn new(client: &str, backend: &str, vips: Vec<Vip>, backends: Vec<Backend>) -> Self {
        Self {
            client: client.to_owned(),
            backend: backend.to_owned(),
            vips,
            backends,
            table_size: default_table_size(),
            max_connections: default_max_connections(),
            idle_ms: default_tcp_idle_ms(),
            addresses: Vec::new(),
            mtu: default_mtu(),
            health: None,
        }
    }

    /// Our address and a backend's that a tunnel for a VIP of this version goes between: of the VIP's version, else of the other.
    #[must_use]
    pub fn tunnel(&self, backend: &Backend, v4: bool) -> Option<(IpAddr, IpAddr)> {
        let ends = |v4| Some((of_version(&self.addresses, v4)?, of_version(&backend.addresses, v4)?));
        ends(v4).or_else(|| ends(!v4))
    }

    /// References between fields, uniqueness and ranges; the ports are the configuration's.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        unique("load_balancer.vips", self.vips.iter().map(|v| v.id.as_str()))?;
        unique("load_balancer.backends", self.backends.iter().map(|b| b.id.as_str()))?;
        unique("load_balancer.backends[].number", self.backends.iter().map(|b| b.number))?;
        one_of_each_version("load_balancer.addresses", &self.addresses)?;
        if !(MIN_MTU..=MAX_MTU).contains(&self.mtu) {
            return invalid(
                "load_balancer.mtu",
                format!("{} is not within {MIN_MTU} to {MAX_MTU}", self.mtu),
            );
        }
        let prime = self.table_size >= 2
            && (2..).take_while(|d| d * d <= self.table_size).all(|d| !self.table_size.is_multiple_of(d));
        if !prime || self.backends.len() > self.table_size as usize {
            return invalid("load_balancer.table_size", "must be a prime, not below the number of backends");
        }
        self.backends.iter().try_for_each(Backend::check)?;
        self.vips.iter().try_for_each(|v| v.check(self))?;
        self.health.iter().try_for_each(|h| h.check(&self.backends))?;
        self.nat_is_one_to_one()
    }

    /// The service of a reply is known by the port it comes from.
    fn nat_is_one_to_one(&self) -> Result<(), ConfigError> {
        let mut seen = std::collections::BTreeMap::new();
        for vip in self.vips.iter().filter(|v| v.mode == Mode::Nat) {
            let port = vip.port_of_backends();
            if let Some(other) = seen.insert((vip.address.is_ipv4(), vip.protocol, port), &vip.id) {
                return invalid(
                    &format!("load_balancer.vips `{}`", vip.id),
                    format!(
                        "backends would answer from port {port} for `{other}`, too; give one another `backend_port`"
                    ),
                );
            }
        }
        Ok(())
    }
}

impl Vip {
    /// With every option at its default.
    #[must_use]
    pub fn new(id: &str, address: IpAddr, protocol: u8, port: u16) -> Self {
        Self {
            id: id.to_owned(),
            address,
            protocol,
            port,
            mode: Mode::default(),
            backend_port: None,
            affinity: Affinity::default(),
            quic: Vec::new(),
        }
    }

    /// The port that backends listen on.
    #[must_use]
    pub fn port_of_backends(&self) -> u16 {
        self.backend_port.unwrap_or(self.port)
    }

    fn check(&self, of: &LoadBalancer) -> Result<(), ConfigError> {
        let path = format!("load_balancer.vips `{}`", self.id);
        if !matches!(self.protocol, 6 | 17) {
            return invalid(&path, "protocol must be 6 or 17");
        }
        if self.backend_port.is_some() && self.mode != Mode::Nat {
            return invalid(&path, "`backend_port` is for mode `nat`; in the others the port stays");
        }
        if !self.quic.is_empty() && self.protocol != 17 {
            return invalid(&path, "`quic` is for protocol 17");
        }
        unique(&format!("{path}.quic[].rotation"), self.quic.iter().map(|q| q.rotation))?;
        for ids in &self.quic {
            if ids.rotation > MAX_ROTATION || !(1..=15).contains(&ids.server_id_bytes) {
                return invalid(
                    &format!("{path}.quic"),
                    format!("`rotation` must be 0 to {MAX_ROTATION}, `server_id_bytes` 1 to 15"),
                );
            }
            if let Some(b) = of.backends.iter().find(|b| ids.server_id_bytes == 1 && b.number > 255) {
                return invalid(
                    &format!("{path}.quic"),
                    format!("number {} of backend `{}` does not fit one byte", b.number, b.id),
                );
            }
        }
        self.reaches_all(of, &path)
    }

    /// Whether every backend has the addresses that the mode needs.
    fn reaches_all(&self, of: &LoadBalancer, path: &str) -> Result<(), ConfigError> {
        let v4 = self.address.is_ipv4();
        let version = if v4 { "IPv4" } else { "IPv6" };
        for backend in &of.backends {
            let id = &backend.id;
            match self.mode {
                Mode::Nat if of_version(&backend.addresses, v4).is_none() => {
                    return invalid(
                        path,
                        format!("mode `nat`: backend `{id}` has no {version} address in `addresses`"),
                    );
                }
                Mode::Ipip | Mode::Gue if of.tunnel(backend, v4).is_none() => {
                    return invalid(
                        path,
                        format!(
                            "tunnel to backend `{id}`: it and `load_balancer.addresses` need an address of the same IP version each"
                        ),
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Backend {
    /// With every option at its default.
    #[must_use]
    pub fn new(id: &str, number: u16, mac: MacAddr, weight: u32) -> Self {
        Self { id: id.to_owned(), number, mac, weight, addresses: Vec::new(), draining: false }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let path = format!("load_balancer.backends `{}`", self.id);
        if self.number == 0 {
            return invalid(&path, "number 0 means \"not answered\" in a probe; number backends from 1");
        }
        if !(1..=1000).contains(&self.weight) {
            return invalid(&path, "weight must be 1 to 1000");
        }
        one_of_each_version(&format!("{path}.addresses"), &self.addresses)
    }
}

/// The first address of this version.
fn of_version(addresses: &[IpAddr], v4: bool) -> Option<IpAddr> {
    addresses.iter().find(|a| a.is_ipv4() == v4).copied()
}

/// One IPv4 and one IPv6 address at most, of single hosts.
fn one_of_each_version(path: &str, addresses: &[IpAddr]) -> Result<(), ConfigError> {
    unique(path, addresses.iter().map(|a| if a.is_ipv4() { "an IPv4 address" } else { "an IPv6 address" }))?;
    match addresses.iter().find(|a| a.is_unspecified() || a.is_multicast() || a.is_loopback()) {
        Some(a) => invalid(path, format!("{a} is no address of one host on a network")),
        None => Ok(()),
    }
}

fn invalid<T>(path: &str, problem: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid { path: path.to_owned(), problem: problem.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn balancer(mode: Mode, vips: &[(&str, u16)], ours: &[&str], theirs: &[&str]) -> LoadBalancer {
        let vips = vips.iter().zip(0..);
        let vips = vips.map(|((a, port), n)| Vip { mode, ..Vip::new(&format!("v{n}"), ip(a), 6, *port) });
        let addresses = theirs.iter().map(|a| ip(a)).collect();
        let backends = vec![Backend { addresses, ..Backend::new("b1", 1, MacAddr([2; 6]), 1) }];
        LoadBalancer {
            addresses: ours.iter().map(|a| ip(a)).collect(),
            ..LoadBalancer::new("a", "b", vips.collect(), backends)
        }
    }

    fn problem(of: &LoadBalancer) -> String {
        of.check().err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn options_at_their_defaults_are_not_written() {
        let plain = balancer(Mode::L2, &[("192.0.2.1", 80)], &[], &[]);
        let text = serde_json::to_string(&plain).unwrap();
        for name in ["addresses", "mtu", "health", "mode", "backend_port", "affinity", "quic", "draining"] {
            assert!(!text.contains(name), "{text}");
        }
        assert_eq!(serde_json::from_str::<LoadBalancer>(&text).unwrap(), plain);
        let mut full = balancer(Mode::Nat, &[("192.0.2.1", 80)], &["10.0.0.1"], &["10.0.0.2"]);
        (full.mtu, full.backends[0].draining) = (9000, true);
        full.vips[0].affinity = Affinity::Source;
        let text = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<LoadBalancer>(&text).unwrap(), full);
    }

    #[test]
    fn a_mode_has_the_addresses_that_it_needs() {
        let (v4, v6) = (&[("192.0.2.1", 80)][..], &[("2001:db8::1", 80)][..]);
        for mode in [Mode::Nat, Mode::Ipip, Mode::Gue] {
            assert!(problem(&balancer(mode, v4, &["10.0.0.1"], &[])).contains("`v0`"));
        }
        assert!(problem(&balancer(Mode::Nat, v6, &[], &["10.0.0.2"])).contains("no IPv6 address"));
        assert_eq!(problem(&balancer(Mode::Nat, v4, &[], &["10.0.0.2"])), "");
        for mode in [Mode::Ipip, Mode::Gue] {
            assert!(problem(&balancer(mode, v4, &["10.0.0.1"], &["fd00::2"])).contains("same IP version"));
            for vip in [v4, v6] {
                assert_eq!(problem(&balancer(mode, vip, &["10.0.0.1"], &["10.0.0.2"])), "");
            }
        }
        let both = balancer(Mode::Ipip, v6, &["10.0.0.1", "fd00::1"], &["10.0.0.2", "fd00::2"]);
        assert_eq!(both.tunnel(&both.backends[0], false), Some((ip("fd00::1"), ip("fd00::2"))));
        assert_eq!(both.tunnel(&both.backends[0], true), Some((ip("10.0.0.1"), ip("10.0.0.2"))));
    }

    #[test]
    fn a_health_check_is_possible() {
        let mut it = balancer(Mode::L2, &[], &[], &["10.0.0.2"]);
        it.health = Some(HealthCheck::new(Probe::Http { port: 80, path: "/health".into() }));
        assert_eq!(problem(&it), "");
        let text = serde_json::to_string(&it).unwrap();
        assert_eq!(serde_json::from_str::<LoadBalancer>(&text).unwrap(), it);
        for (change, words) in [
            (HealthCheck { interval_ms: 99, ..HealthCheck::new(Probe::Icmp) }, "interval_ms"),
            (HealthCheck { timeout_ms: 2001, ..HealthCheck::new(Probe::Icmp) }, "timeout_ms"),
            (HealthCheck { up_after: 0, ..HealthCheck::new(Probe::Icmp) }, "at least 1"),
            (HealthCheck::new(Probe::Http { port: 1, path: "/a b".into() }), "no path"),
        ] {
            it.health = Some(change);
            assert!(problem(&it).contains(words), "{words}: {}", problem(&it));
        }
        it.backends[0].addresses.clear();
        it.health = Some(HealthCheck::new(Probe::Icmp));
        assert!(problem(&it).contains("no address to be asked at"));
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let nat = |vips: &[(&str, u16)]| balancer(Mode::Nat, vips, &[], &["10.0.0.2"]);
        let mut two = nat(&[("192.0.2.1", 80), ("192.0.2.2", 80)]);
        assert!(problem(&two).contains("another `backend_port`"));
        two.vips[1].backend_port = Some(8080);
        assert_eq!(problem(&two), "");
        two.vips[1].mode = Mode::L2;
        assert!(problem(&two).contains("is for mode `nat`"));
        let mut l2 = balancer(Mode::L2, &[("192.0.2.1", 80)], &["10.0.0.1", "10.0.0.2"], &[]);
        assert!(problem(&l2).contains("load_balancer.addresses"));
        l2.addresses = vec![ip("127.0.0.1")];
        assert!(problem(&l2).contains("127.0.0.1"));
        (l2.addresses, l2.mtu) = (vec![], 1279);
        assert!(problem(&l2).contains("load_balancer.mtu"));
        l2.mtu = 1500;
        l2.vips[0].quic = vec![QuicIds { rotation: 0, server_id_bytes: 2 }];
        assert!(problem(&l2).contains("for protocol 17"));
        l2.vips[0].protocol = 17;
        assert_eq!(problem(&l2), "");
        for (rotation, server_id_bytes, words) in [(7, 2, "0 to 6"), (0, 0, "1 to 15"), (0, 16, "1 to 15")] {
            l2.vips[0].quic = vec![QuicIds { rotation, server_id_bytes }];
            assert!(problem(&l2).contains(words));
        }
        (l2.vips[0].quic, l2.backends[0].number) = (vec![QuicIds { rotation: 0, server_id_bytes: 1 }], 256);
        assert!(problem(&l2).contains("does not fit one byte"));
    }
}
