//! What to send through a service to know that it does what was asked: known flows, derived from its own rules.
//!
//! For every service address: flows that the firewall's rules allow (they must come back, from the backend that Maglev
//! names), and flows next to them that no rule allows (they must not). Sources are in the blocks reserved for
//! benchmarking: 198.18.0.0/15 (RFC 2544) and 2001:2::/48 (RFC 5180), unless the rule that allows names another.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_control::{
    config::{Backend, Prefix, Rule, RuleAction, Vip},
    traffic::{Expectation, FlowGroup, TrafficProfile},
};
use ledger_contract::intent::Sla;

use crate::functions::TABLE_SIZE;

/// Flows of each group: enough that every backend of eight gets some with near certainty.
pub const FLOWS: u32 = 64;
/// Flows from one source address: `dataplane_control::traffic::FlowGroup` moves on to the next one then.
pub const FLOWS_PER_ADDRESS: u32 = 16_384;
/// Frame size of a probe without FCS: 512 byte frames of RFC 2544.
pub const FRAME_BYTES: u16 = 508;
/// Never offer more than this: a probe shares its machine with what it measures.
const MAX_RATE_PPS: u64 = 20_000;
/// Always offer this much, so that percentiles mean something.
const MIN_RATE_PPS: u64 = 1_000;
const DURATION_MS: u32 = 1_000;
const DRAIN_MS: u32 = 300;

/// A packet's 5-tuple without its source port, as rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

/// What the measurement starts from.
#[derive(Debug, Clone)]
pub struct Offer<'a> {
    /// Rules of the outermost firewall, `from` being a role; `None` when the chain has no firewall.
    pub rules: Option<&'a [Rule]>,
    /// Services.
    pub vips: &'a [Vip],
    /// What was promised.
    pub sla: &'a Sla,
}

impl Offer<'_> {
    /// The profile: `sets` are (first flow, backends at the flow's beginning).
    #[must_use]
    pub fn profile(&self, sets: &[(u32, Vec<Backend>)]) -> TrafficProfile {
        let mut groups = Vec::new();
        for vip in self.vips {
            let flow = Flow {
                protocol: vip.protocol,
                source: self.source_for(vip),
                destination: vip.address,
                port: vip.port,
            };
            if self.allows(flow) {
                for (first, backends) in sets {
                    let expect = Expectation::Balanced { backends: backends.clone(), table_size: TABLE_SIZE };
                    groups.push(group(&format!("{}-from-{first}", vip.id), flow, *first, FLOWS, expect));
                }
            } else {
                groups.push(group(&format!("{}-blocked", vip.id), flow, 0, FLOWS, Expectation::Blocked));
            }
            let neighbour = Flow { port: vip.port.wrapping_add(1).max(1), ..flow };
            if self.rules.is_some() && !self.allows(neighbour) {
                let id = format!("{}-other-port", vip.id);
                groups.push(group(&id, neighbour, 0, FLOWS / 4, Expectation::Blocked));
            }
            let other = Flow { protocol: if vip.protocol == 6 { 17 } else { 6 }, ..flow };
            if self.rules.is_some() && !self.allows(other) {
                let id = format!("{}-other-protocol", vip.id);
                groups.push(group(&id, other, 0, FLOWS / 4, Expectation::Blocked));
            }
        }
        TrafficProfile {
            rate_pps: self.rate(&groups),
            groups,
            frame_bytes: FRAME_BYTES,
            duration_ms: DURATION_MS,
            drain_ms: DRAIN_MS,
            next_hop: None,
        }
    }

    /// Enough to carry the promised throughput through the groups that must come back, with 10 % to spare.
    fn rate(&self, groups: &[FlowGroup]) -> u32 {
        let total: u64 = groups.iter().map(|g| u64::from(g.count)).sum();
        let carried: u64 = groups
            .iter()
            .filter(|g| matches!(g.expect, Expectation::Balanced { .. }))
            .map(|g| u64::from(g.count))
            .sum();
        let frame_bits = (u64::from(FRAME_BYTES) + 4) * 8;
        let promised = self.sla.throughput_kbps.saturating_mul(1_000).div_ceil(frame_bits);
        let offered = (promised.saturating_mul(total) / carried.max(1)).saturating_mul(110) / 100;
        u32::try_from(offered.clamp(MIN_RATE_PPS, MAX_RATE_PPS)).unwrap_or(u32::MAX)
    }

    fn allows(&self, flow: Flow) -> bool {
        let Some(rules) = self.rules else { return true };
        let hit = rules.iter().find(|r| r.from == "outside" && matches(r, flow));
        hit.is_some_and(|r| r.action == RuleAction::Allow)
    }

    fn source_for(&self, vip: &Vip) -> IpAddr {
        let default = match vip.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1)),
        };
        let candidates = self.rules.unwrap_or_default().iter().filter_map(|r| r.source).map(first_host);
        std::iter::once(default)
            .chain(candidates)
            .filter(|s| s.is_ipv4() == vip.address.is_ipv4())
            .find(|s| {
                self.allows(Flow {
                    protocol: vip.protocol,
                    source: *s,
                    destination: vip.address,
                    port: vip.port,
                })
            })
            .unwrap_or(default)
    }
}

fn group(id: &str, flow: Flow, first: u32, count: u32, expect: Expectation) -> FlowGroup {
    FlowGroup {
        id: id.to_owned(),
        protocol: flow.protocol,
        source: flow.source,
        destination: flow.destination,
        destination_port: flow.port,
        first,
        count,
        expect,
    }
}

/// The flag of a flow's first segment.
const SYN: u8 = 2;

fn matches(rule: &Rule, flow: Flow) -> bool {
    rule.protocol.is_none_or(|p| p == flow.protocol)
        && rule.source.is_none_or(|p| within(p, flow.source))
        && rule.destination.is_none_or(|p| within(p, flow.destination))
        && rule.source_ports.is_none_or(|r| r.first <= 49_152 && r.last == u16::MAX)
        && rule.destination_ports.is_none_or(|r| (r.first..=r.last).contains(&flow.port))
        && rule.icmp.is_none()
        && rule.tcp_flags.is_none_or(|f| f.mask & SYN == f.value)
}

fn bits(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(a) => (u128::from(a.to_bits()) << 96, true),
        IpAddr::V6(a) => (a.to_bits(), false),
    }
}

fn within(prefix: Prefix, address: IpAddr) -> bool {
    let ((p, v4), (a, same)) = (bits(prefix.address), bits(address));
    let difference = (p ^ a).checked_shr(128 - u32::from(prefix.length)).unwrap_or(0);
    v4 == same && difference == 0
}

fn first_host(prefix: Prefix) -> IpAddr {
    match prefix.address {
        IpAddr::V4(a) if prefix.length < 31 => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() | 1)),
        IpAddr::V6(a) if prefix.length < 127 => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() | 1)),
        same => same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: &str, action: RuleAction, source: Option<&str>, ports: Option<&str>) -> Rule {
        Rule {
            id: id.into(),
            from: "outside".into(),
            action,
            protocol: Some(17),
            source: source.map(|s| s.parse().unwrap()),
            destination_ports: ports.map(|p| p.parse().unwrap()),
            ..Rule::default()
        }
    }

    fn vip() -> Vip {
        Vip::new("dns", "203.0.113.10".parse().unwrap(), 17, 53)
    }

    #[test]
    fn flows_follow_the_rules() {
        let sla = Sla { throughput_kbps: 8_000, latency_p95_us: 1, loss_ppm: 0 };
        let rules = [
            rule("no", RuleAction::Deny, Some("198.18.0.0/15"), None),
            rule("yes", RuleAction::Allow, Some("192.0.2.0/24"), Some("53")),
        ];
        let vips = [vip()];
        let offer = Offer { rules: Some(&rules), vips: &vips, sla: &sla };
        let profile = offer.profile(&[(0, vec![]), (64, vec![])]);
        let seen: Vec<_> = profile
            .groups
            .iter()
            .map(|g| (g.id.as_str(), g.source.to_string(), g.first, g.expect == Expectation::Blocked))
            .collect();
        assert_eq!(
            seen,
            [
                ("dns-from-0", "192.0.2.1".into(), 0, false),
                ("dns-from-64", "192.0.2.1".into(), 64, false),
                ("dns-other-port", "192.0.2.1".into(), 0, true),
                ("dns-other-protocol", "192.0.2.1".into(), 0, true),
            ]
        );
        // 8 Mbit/s of 512-byte frames through 128 of 160 flows, and 10 %.
        assert_eq!(profile.rate_pps, (1954 * 160 / 128) * 110 / 100);
    }

    #[test]
    fn without_rules_everything_comes_back_and_default_deny_blocks() {
        let sla = Sla { throughput_kbps: 1, latency_p95_us: 1, loss_ppm: 0 };
        let vips = [vip()];
        let open = Offer { rules: None, vips: &vips, sla: &sla }.profile(&[(0, vec![])]);
        assert!(open.groups.iter().all(|g| g.expect != Expectation::Blocked));
        let closed = Offer { rules: Some(&[]), vips: &vips, sla: &sla }.profile(&[(0, vec![])]);
        assert!(closed.groups.iter().all(|g| g.expect == Expectation::Blocked));
        assert_eq!(closed.rate_pps, 1_000);
    }

    #[test]
    fn prefixes() {
        let p = |s: &str| s.parse::<Prefix>().unwrap();
        assert!(within(p("0.0.0.0/0"), "1.2.3.4".parse().unwrap()));
        assert!(within(p("10.0.0.0/8"), "10.255.0.1".parse().unwrap()));
        assert!(!within(p("10.0.0.0/8"), "11.0.0.1".parse().unwrap()));
        assert!(!within(p("::/0"), "11.0.0.1".parse().unwrap()));
        assert!(within(p("2001:2::/48"), "2001:2::1".parse().unwrap()));
        assert!(within(p("192.0.2.1/32"), "192.0.2.1".parse().unwrap()));
    }
}
