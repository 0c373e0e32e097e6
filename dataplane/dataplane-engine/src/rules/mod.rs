//! A firewall's rules, compiled to decide on new connections: by the side one comes from and its IP version.
//!
//! A rule is a box: in each field (address word, port, protocol, zone) an interval, and a mask of TCP flags. The first rule whose
//! box holds the connection decides; none: default deny. What is compiled never decides anything else than the list
//! from top to bottom would.
//!
//! Tests: `tests/classify.rs` and the firewall's model in `tests/firewall.rs`, both of which evaluate the configuration's own form.

mod conditions;
mod zones;

use std::net::IpAddr;

use dataplane_control::config::{ConfigError, Firewall, Limit, RuleAction};

use self::{
    conditions::{Conditions, V4, V6},
    zones::Zones,
};
use crate::{
    hash::address_bits,
    machine::Machine,
    packet::{ICMP, ICMPV6, Message, Packet, SYN, TCP},
    table::{Key, Side},
};

/// Connections whose look-ups are interleaved by [`Rules::decide_all`].
pub const BURST: usize = 64;

/// The first packet of a connection, as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct NewConnection {
    pub(crate) key: Key,
    /// ICMP type in the high byte, code in the low one.
    pub(crate) icmp: u16,
    pub(crate) tcp_flags: u8,
}

/// A connection in words, to be looked up from the side where it begins.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Destination address and port, of the same IP version.
    pub destination: (IpAddr, u16),
    /// IP protocol number.
    pub protocol: u8,
    /// Outer and inner VLAN id; 0: none.
    pub vlans: (u16, u16),
    /// ICMP type and code.
    pub icmp: (u8, u8),
    /// Flags of the first TCP segment.
    pub tcp_flags: u8,
}

impl NewConnection {
    /// Of the packet whose key this is.
    #[inline]
    pub(crate) fn of(packet: &Packet, key: Key) -> Self {
        Self { key, icmp: packet.icmp, tcp_flags: packet.tcp_flags }
    }

    /// Of a connection that is tracked, to be judged again: what is not remembered of its first packet is as usual, a SYN
    /// alone, an echo request with code 0.
    pub(crate) fn tracked(key: Key) -> Self {
        let kind: u16 = if key.protocol() == ICMPV6 { 128 } else { 8 };
        Self { key, icmp: kind << 8, tcp_flags: if key.protocol() == TCP { SYN } else { 0 } }
    }

    /// Of a flow that comes in on `side`.
    #[must_use]
    pub fn from_flow(flow: &Flow, side: Side) -> Self {
        let packet = Packet {
            source: address_bits(flow.source.0),
            destination: address_bits(flow.destination.0),
            ports: u32::from(flow.source.1) << 16 | u32::from(flow.destination.1),
            vlan: u32::from(flow.vlans.0 & 0xfff) << 12 | u32::from(flow.vlans.1 & 0xfff),
            protocol: flow.protocol,
            v6: flow.source.0.is_ipv6(),
            tcp_flags: flow.tcp_flags,
            message: if matches!(flow.protocol, ICMP | ICMPV6) {
                Message::EchoRequest
            } else {
                Message::None
            },
            icmp: u16::from_be_bytes([flow.icmp.0, flow.icmp.1]),
            l3: 0,
            l4: 0,
            end: 0,
        };
        Self::of(&packet, Key::of(&packet, side))
    }
}

/// What the rules say about a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    rule: u32,
    action: RuleAction,
    log: bool,
    limited: bool,
}

impl Decision {
    /// No rule matches.
    pub const DEFAULT: Self = Self { rule: u32::MAX, action: RuleAction::Deny, log: false, limited: false };

    /// Index of the rule that decided, in the configuration's list; `None`: default deny.
    #[inline]
    #[must_use]
    pub fn rule(self) -> Option<u32> {
        (self.rule != u32::MAX).then_some(self.rule)
    }

    /// What happens; deny if no rule matches.
    #[inline]
    #[must_use]
    pub fn action(self) -> RuleAction {
        self.action
    }

    /// The rule that allows it.
    #[inline]
    #[must_use]
    pub fn allowed_by(self) -> Option<u32> {
        (self.action == RuleAction::Allow).then_some(self.rule)
    }

    /// The decision is written down.
    #[inline]
    #[must_use]
    pub fn log(self) -> bool {
        self.log
    }

    /// The rule has one of [`Rules::limits`].
    #[inline]
    #[must_use]
    pub fn limited(self) -> bool {
        self.limited
    }
}

/// The rule set.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    v4: [Vec<Conditions<{ V4::FIELDS }>>; 2],
    v6: [Vec<Conditions<{ V6::FIELDS }>>; 2],
    zones: Zones,
    decisions: Vec<Decision>,
    limits: Vec<(u32, Limit)>,
}

impl Rules {
    /// Compiles the rules of a configuration that was checked. Takes as long as it takes: not for the packet thread.
    ///
    /// # Errors
    /// A rule comes from, or leads to, a port or zone that is neither of the two ports' nor on them.
    pub fn compile(firewall: &Firewall) -> Result<Self, ConfigError> {
        let mut it = Self { zones: Zones::compile(firewall), ..Self::default() };
        for (index, rule) in (0u32..).zip(&firewall.rules) {
            let limited = rule.limit.is_some();
            it.decisions.push(Decision { rule: index, action: rule.action, log: rule.log, limited });
            it.limits.extend(rule.limit.map(|limit| (index, limit)));
            let path = zones::Path::of(firewall, rule, index)?;
            let side = path.side as usize;
            it.v4[side].extend(V4::conditions(rule, index, path));
            it.v6[side].extend(V6::conditions(rule, index, path));
        }
        Ok(it)
    }

    /// The rules that have a limit, in order, by their index.
    #[must_use]
    pub fn limits(&self) -> &[(u32, Limit)] {
        &self.limits
    }

    /// The first match for a connection that `side` opens.
    #[inline]
    #[must_use]
    pub fn decide(&self, new: &NewConnection, side: Side) -> Decision {
        let (source, _, _) = new.key.as_sent_from(side);
        let found = if source >> 32 == 0xffff {
            conditions::first(&self.v4[side as usize], &V4::fields(new, side, &self.zones))
        } else {
            conditions::first(&self.v6[side as usize], &V6::fields(new, side, &self.zones))
        };
        self.decisions.get(found as usize).copied().unwrap_or(Decision::DEFAULT)
    }

    /// [`Rules::decide`] of each connection; what one waits for from memory the others wait for, too. `new` and `out` are as long
    /// as each other: what is longer is left alone.
    pub fn decide_all<M: Machine>(&self, side: Side, new: &[NewConnection], out: &mut [Decision]) {
        for (new, out) in new.iter().zip(out) {
            *out = self.decide(new, side);
        }
    }
}
