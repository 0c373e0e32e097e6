//! A firewall's rules, compiled to decide on new connections: by the side one comes from and its IP version.
//!
//! A rule is a box: in each field (address word, port, protocol, zone) an interval, and a mask of TCP flags. The first rule whose
//! box holds the connection decides; none: default deny. Rules are looked up in a few trees of cuts ([`forest`], [`build`]) whose
//! leaves compare whole rules ([`leaf`]), a burst's connections level by level ([`tree`]). What is compiled never decides anything
//! else than the list from top to bottom would.
//!
//! Tests: `tests/classify.rs`, `tests/conditions.rs` and the firewall's model in `tests/firewall.rs`, both of which evaluate the configuration's own form.

mod build;
mod conditions;
mod forest;
mod leaf;
mod tree;
mod zones;

use std::net::IpAddr;

use dataplane_control::config::{ConfigError, Firewall, Limit, RuleAction};

use self::{
    conditions::{NONE, V4_FIELDS, V4_MASKED, V4_WORDS, V6_FIELDS, V6_MASKED, V6_WORDS},
    forest::Forest,
    leaf::Words,
    zones::Zones,
};
use crate::{
    hash::address_bits,
    key::{Key, Side, V4Key},
    machine::Machine,
    packet::{ICMP, ICMPV6, Message, Packet, SYN, TCP},
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

/// A new connection of untagged IPv4 in the rules' words.
pub(crate) type Opening = Words<V4_WORDS>;

/// What makes [`Opening`]s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Untagged {
    side: Side,
    /// Where it comes from, and where it leads.
    zones: (u8, u8),
}

impl Untagged {
    /// A datagram, or a segment with these flags, that begins a connection.
    #[inline(always)]
    pub(crate) fn of(self, key: V4Key, tcp_flags: u8) -> Opening {
        let ((source, destination), ports) = key.as_sent_from(self.side);
        let (from, to) = self.zones;
        [source, destination, u32::from_le_bytes([key.protocol(), from, to, tcp_flags]), ports]
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

    /// The rule that allows it, of those without `log` and limit.
    #[inline]
    pub(crate) fn simply_allowed_by(self) -> Option<u32> {
        self.allowed_by().filter(|_| !self.log & !self.limited)
    }

    /// The rule has one of [`Rules::limits`].
    #[inline]
    #[must_use]
    pub fn limited(self) -> bool {
        self.limited
    }
}

impl Decision {
    /// In one word, in the order of the rules.
    fn answer(self) -> u32 {
        let action = match self.action {
            RuleAction::Allow => 0,
            RuleAction::Deny => 1,
            RuleAction::Reject => 2,
        };
        self.rule << 4 | u32::from(self.limited) << 3 | u32::from(self.log) << 2 | action
    }

    #[inline(always)]
    fn of(answer: u32) -> Self {
        if answer == NONE {
            return Self::DEFAULT;
        }
        let action = match answer & 3 {
            0 => RuleAction::Allow,
            1 => RuleAction::Deny,
            _ => RuleAction::Reject,
        };
        Self { rule: answer >> 4, action, log: answer & 4 != 0, limited: answer & 8 != 0 }
    }
}

/// The rule set.
#[derive(Debug, Default)]
pub struct Rules {
    v4: [Forest<V4_MASKED>; 2],
    v6: [Forest<V6_MASKED>; 2],
    zones: Zones,
    limits: Vec<(u32, Limit)>,
}

impl Rules {
    /// Compiles the rules of a configuration that was checked. Takes as long as it takes: not for the packet thread.
    ///
    /// # Errors
    /// A rule comes from, or leads to, a port or zone that is neither of the two ports' nor on them.
    pub fn compile(firewall: &Firewall) -> Result<Self, ConfigError> {
        let places = zones::Places::of(firewall);
        let mut limits = Vec::new();
        let (mut v4, mut v6) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
        for (index, rule) in (0u32..).zip(&firewall.rules) {
            limits.extend(rule.limit.map(|limit| (index, limit)));
            let limited = rule.limit.is_some();
            let answer = Decision { rule: index, action: rule.action, log: rule.log, limited }.answer();
            let path = places.path(rule, index)?;
            v4[path.side as usize].extend(conditions::v4(rule, answer, path));
            v6[path.side as usize].extend(conditions::v6(rule, answer, path));
        }
        Ok(Self {
            v4: v4.map(|rules| Forest::new::<V4_FIELDS, V4_WORDS>(&rules)),
            v6: v6.map(|rules| Forest::new::<V6_FIELDS, V6_WORDS>(&rules)),
            zones: Zones::compile(firewall),
            limits,
        })
    }

    /// The rules that have a limit, in order, by their index.
    #[must_use]
    pub fn limits(&self) -> &[(u32, Limit)] {
        &self.limits
    }

    /// Memory that look-ups read.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let v4: usize = self.v4.iter().map(Forest::bytes).sum();
        v4 + self.v6.iter().map(Forest::bytes).sum::<usize>()
    }

    /// The first match for a connection that `side` opens.
    #[must_use]
    pub fn decide(&self, new: &NewConnection, side: Side) -> Decision {
        Decision::of(match conditions::v4_words(new, side, &self.zones) {
            Some(words) => self.v4[side as usize].first(&words),
            None => self.v6[side as usize].first(&conditions::v6_words(new, side, &self.zones)),
        })
    }

    /// [`Rules::decide`] of each connection; what one waits for from memory the others wait for, too. `new` and `out` are as long
    /// as each other: what is longer is left alone.
    pub fn decide_all<M: Machine>(&self, side: Side, new: &[NewConnection], out: &mut [Decision]) {
        for (new, out) in new.chunks(BURST).zip(out.chunks_mut(BURST)) {
            self.decide_burst::<M>(side, new, out);
        }
    }

    /// What the connections of untagged IPv4 that begin on a side have in common.
    #[inline]
    pub(crate) fn opening(&self, side: Side) -> Untagged {
        Untagged { side, zones: self.zones.of(0, side) }
    }

    /// [`Rules::decide_all`] of at most [`BURST`] connections from `side`.
    #[inline(always)]
    pub(crate) fn decide_openings<M: Machine>(
        &self,
        side: Side,
        openings: &[Opening],
    ) -> impl Iterator<Item = Decision> {
        self.v4[side as usize].first_of_all::<M, V4_WORDS>(openings).into_iter().map(Decision::of)
    }

    /// Of at most [`BURST`].
    fn decide_burst<M: Machine>(&self, side: Side, new: &[NewConnection], out: &mut [Decision]) {
        let mut words = [[0; V4_WORDS]; BURST];
        let mut others = false;
        for (new, slot) in new.iter().zip(&mut words) {
            match conditions::v4_words(new, side, &self.zones) {
                Some(words) => *slot = words,
                None => others = true,
            }
        }
        if others {
            return self.decide_both::<M>(side, new, out);
        }
        let count = new.len().min(BURST);
        let found = self.v4[side as usize].first_of_all::<M, V4_WORDS>(words.get(..count).unwrap_or(&words));
        out.iter_mut().zip(found).for_each(|(out, answer)| *out = Decision::of(answer));
    }

    /// Of at most [`BURST`], not all of IPv4: each version's together.
    #[cold]
    #[inline(never)]
    fn decide_both<M: Machine>(&self, side: Side, new: &[NewConnection], out: &mut [Decision]) {
        let mut v4 = OfVersion::<V4_WORDS>::default();
        let mut v6 = OfVersion::<V6_WORDS>::default();
        for (new, which) in new.iter().zip(0..) {
            match conditions::v4_words(new, side, &self.zones) {
                Some(words) => v4.push(words, which),
                None => v6.push(conditions::v6_words(new, side, &self.zones), which),
            }
        }
        v4.answer(self.v4[side as usize].first_of_all::<M, V4_WORDS>(v4.words()), out);
        v6.answer(self.v6[side as usize].first_of_all::<M, V6_WORDS>(v6.words()), out);
    }
}

/// Those of a burst that are of one version.
struct OfVersion<const W: usize> {
    words: [Words<W>; BURST],
    /// Their places in the burst.
    which: [u8; BURST],
    count: usize,
}

impl<const W: usize> Default for OfVersion<W> {
    fn default() -> Self {
        Self { words: [[0; W]; BURST], which: [0; BURST], count: 0 }
    }
}

impl<const W: usize> OfVersion<W> {
    #[inline(always)]
    fn push(&mut self, words: Words<W>, which: u8) {
        let n = self.count % BURST;
        (self.words[n], self.which[n]) = (words, which);
        self.count += 1;
    }

    fn words(&self) -> &[Words<W>] {
        self.words.get(..self.count).unwrap_or(&self.words)
    }

    fn answer(&self, found: [u32; BURST], out: &mut [Decision]) {
        for (which, answer) in self.which.iter().zip(found).take(self.count) {
            out.get_mut(usize::from(*which)).into_iter().for_each(|out| *out = Decision::of(answer));
        }
    }
}
