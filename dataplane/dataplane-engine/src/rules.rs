//! A firewall's rules, compiled: by the side a connection comes from and its IP version, in order of precedence.
//!
//! Tests: below the firewall's model in `tests/firewall.rs`, which evaluates the configuration's own form.

use dataplane_control::config::{ConfigError, Firewall, PortRange, Prefix, Rule, RuleAction};

use crate::{
    hash::address_bits,
    table::{Key, Side},
};

/// Any protocol.
const ANY: u16 = 0x100;

/// What the rules say about a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Index of the rule that allows it.
    Allow(u32),
    /// Index of the rule that denies it.
    Deny(u32),
    /// No rule matches.
    Default,
}

/// A rule's conditions on addresses of type `A`.
#[derive(Debug, Clone, Copy)]
struct Compiled<A> {
    source: Net<A>,
    destination: Net<A>,
    source_ports: PortRange,
    destination_ports: PortRange,
    protocol: u16,
    allow: bool,
    index: u32,
}

#[derive(Debug, Clone, Copy)]
struct Net<A> {
    value: A,
    mask: A,
}

/// A new connection's first packet.
#[derive(Debug, Clone, Copy)]
struct Flow<A> {
    source: A,
    destination: A,
    source_port: u16,
    destination_port: u16,
    protocol: u16,
}

/// The rule set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    v4: [Vec<Compiled<u32>>; 2],
    v6: [Vec<Compiled<u128>>; 2],
}

impl Rules {
    /// # Errors
    /// A rule comes from a port that is neither of the two.
    pub(crate) fn compile(firewall: &Firewall) -> Result<Self, ConfigError> {
        let mut it = Self::default();
        for (index, rule) in (0u32..).zip(&firewall.rules) {
            let side = side_of(firewall, rule, index)? as usize;
            if is_version(rule, true) {
                it.v4[side].push(compile(rule, index, net_v4));
            }
            if is_version(rule, false) {
                it.v6[side].push(compile(rule, index, net_v6));
            }
        }
        Ok(it)
    }

    /// The first match for a connection that `side` opens.
    pub(crate) fn decide(&self, key: &Key, side: Side) -> Decision {
        let (source, destination, ports) = key.as_sent_from(side);
        let (source_port, destination_port) = ((ports >> 16) as u16, (ports & 0xffff) as u16);
        let protocol = u16::from(key.protocol());
        if source >> 32 == 0xffff {
            let (source, destination) = ((source & 0xffff_ffff) as u32, (destination & 0xffff_ffff) as u32);
            first(
                &self.v4[side as usize],
                &Flow { source, destination, source_port, destination_port, protocol },
            )
        } else {
            first(
                &self.v6[side as usize],
                &Flow { source, destination, source_port, destination_port, protocol },
            )
        }
    }
}

fn first<A>(rules: &[Compiled<A>], flow: &Flow<A>) -> Decision
where
    A: Copy + PartialEq + std::ops::BitAnd<Output = A>,
{
    let within = |port: u16, range: PortRange| range.first <= port && port <= range.last;
    let matches = |r: &&Compiled<A>| {
        flow.source & r.source.mask == r.source.value
            && flow.destination & r.destination.mask == r.destination.value
            && (r.protocol == ANY || r.protocol == flow.protocol)
            && within(flow.source_port, r.source_ports)
            && within(flow.destination_port, r.destination_ports)
    };
    match rules.iter().find(matches) {
        Some(rule) if rule.allow => Decision::Allow(rule.index),
        Some(rule) => Decision::Deny(rule.index),
        None => Decision::Default,
    }
}

fn side_of(firewall: &Firewall, rule: &Rule, index: u32) -> Result<Side, ConfigError> {
    match &rule.from {
        from if *from == firewall.outside => Ok(Side::Near),
        from if *from == firewall.inside => Ok(Side::Far),
        from => Err(ConfigError::Invalid {
            path: format!("firewall.rules[{index}].from"),
            problem: format!("`{from}` is neither `{}` nor `{}`", firewall.outside, firewall.inside),
        }),
    }
}

fn is_version(rule: &Rule, v4: bool) -> bool {
    [rule.source, rule.destination].into_iter().flatten().all(|p| p.address.is_ipv4() == v4)
}

fn compile<A>(rule: &Rule, index: u32, net: impl Fn(Option<Prefix>) -> Net<A>) -> Compiled<A> {
    let any = PortRange { first: 0, last: u16::MAX };
    Compiled {
        source: net(rule.source),
        destination: net(rule.destination),
        source_ports: rule.source_ports.unwrap_or(any),
        destination_ports: rule.destination_ports.unwrap_or(any),
        protocol: rule.protocol.map_or(ANY, u16::from),
        allow: rule.action == RuleAction::Allow,
        index,
    }
}

fn net_v4(prefix: Option<Prefix>) -> Net<u32> {
    let Some(prefix) = prefix else { return Net { value: 0, mask: 0 } };
    let value = (address_bits(prefix.address) & 0xffff_ffff) as u32;
    Net { value, mask: u32::MAX.checked_shl(32 - u32::from(prefix.length.min(32))).unwrap_or(0) }
}

fn net_v6(prefix: Option<Prefix>) -> Net<u128> {
    let Some(prefix) = prefix else { return Net { value: 0, mask: 0 } };
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix.length.min(128))).unwrap_or(0);
    Net { value: address_bits(prefix.address), mask }
}
