//! A rule as a box, and a connection as a point in the same fields.

use dataplane_control::config::{PortRange, Prefix, Rule};

use super::{
    NewConnection,
    leaf::Words,
    zones::{ANYWHERE, Path, Zones},
};
use crate::{
    hash::address_bits,
    key::Side,
    packet::{ICMP, ICMPV6},
};

/// Fields beyond the addresses: source port, destination port (or ICMP type and code), protocol, zone, zone it leaves to.
const REST: usize = 5;
/// No rule.
pub(super) const NONE: u32 = u32::MAX;

/// Fields and words of an IPv4 connection, and how many of the words are compared under masks.
pub(super) const V4_FIELDS: usize = 2 + REST;
pub(super) const V4_WORDS: usize = 4;
pub(super) const V4_MASKED: usize = 3;
/// The same of IPv6; the last words are not used.
pub(super) const V6_FIELDS: usize = 8 + REST;
pub(super) const V6_WORDS: usize = 16;
pub(super) const V6_MASKED: usize = 9;

/// A rule's interval in each field, and TCP flags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions<const F: usize> {
    pub low: [u32; F],
    pub high: [u32; F],
    pub flags: u8,
    pub flags_mask: u8,
    /// Lower than that of the rules behind it.
    pub answer: u32,
}

/// Word and lowest bit of a field, see [`Words`].
pub(super) fn place<const F: usize>(field: usize) -> (usize, u32) {
    let masked = F - REST;
    match field.checked_sub(masked) {
        None => (field, 0),
        Some(0) => (masked + 1, 16),
        Some(1) => (masked + 1, 0),
        Some(2) => (masked, 0),
        Some(3) => (masked, 8),
        Some(_) => (masked, 16),
    }
}

impl<const F: usize> Conditions<F> {
    /// Value and mask of a word before the ports'. All fields there are prefixes, or one value, or any.
    pub(super) fn masked(&self, word: usize) -> (u32, u32) {
        let agree = |f: usize| !(self.low[f] ^ self.high[f]);
        if word < F - REST {
            return (self.low[word], agree(word));
        }
        let flags = (u32::from(self.flags) << 24, u32::from(self.flags_mask) << 24);
        (F - REST + 2..F).zip([0, 8, 16]).fold(flags, |(value, mask), (f, shift)| {
            (value | self.low[f] << shift, mask | (agree(f) & 0xff) << shift)
        })
    }

    /// First and last source port, or destination port.
    pub(super) fn ports(&self, end: usize) -> (u16, u16) {
        let port = |at: u32| u16::try_from(at).unwrap_or(u16::MAX);
        (port(self.low[F - REST + end]), port(self.high[F - REST + end]))
    }

    /// Length of the source's prefix, or the destination's.
    pub(super) fn prefix(&self, end: usize) -> u32 {
        let words = (F - REST) / 2;
        (end * words..(end + 1) * words).map(|f| (self.low[f] ^ self.high[f]).leading_zeros()).sum()
    }
}

/// `None`: a rule for IPv6.
pub(super) fn v4(rule: &Rule, answer: u32, path: Path) -> Option<Conditions<V4_FIELDS>> {
    is_version(rule, true).then(|| conditions(rule, answer, path))
}

/// `None`: a rule for IPv4.
pub(super) fn v6(rule: &Rule, answer: u32, path: Path) -> Option<Conditions<V6_FIELDS>> {
    is_version(rule, false).then(|| conditions(rule, answer, path))
}

fn conditions<const F: usize>(rule: &Rule, answer: u32, path: Path) -> Conditions<F> {
    let mut it = anything(answer);
    let words = (F - REST) / 2;
    address(&mut it, 0, words, rule.source);
    address(&mut it, words, words, rule.destination);
    rest(&mut it, rule, path);
    it
}

/// The words of an IPv4 connection that `side` opens.
#[inline(always)]
pub(super) fn v4_words(new: &NewConnection, side: Side, zones: &Zones) -> Option<Words<V4_WORDS>> {
    let (source, destination, ports) = new.key.v4_as_sent_from(side)?;
    let [rest, ports] = last_words(new, ports, side, zones);
    Some([source, destination, rest, ports])
}

/// The same of IPv6.
pub(super) fn v6_words(new: &NewConnection, side: Side, zones: &Zones) -> Words<V6_WORDS> {
    let (source, destination, ports) = new.key.as_sent_from(side);
    let [s3, s2, s1, s0] = [3, 2, 1, 0].map(|n| word(source, n));
    let [d3, d2, d1, d0] = [3, 2, 1, 0].map(|n| word(destination, n));
    let [rest, ports] = last_words(new, ports, side, zones);
    [s3, s2, s1, s0, d3, d2, d1, d0, rest, ports, 0, 0, 0, 0, 0, 0]
}

#[inline(always)]
fn last_words(new: &NewConnection, ports: u32, side: Side, zones: &Zones) -> [u32; 2] {
    let protocol = new.key.protocol();
    let (from, to) = zones.of(new.key.outer_vlan(), side);
    let rest = u32::from_le_bytes([protocol, from, to, new.tcp_flags]);
    // Without a branch: which protocol comes next is hard to guess.
    let icmp = u32::from((protocol == ICMP) | (protocol == ICMPV6)).wrapping_neg();
    [rest, u32::from(new.icmp) & icmp | ports & !icmp]
}

/// A 32-bit word, counted from the low end.
#[inline]
fn word(bits: u128, n: u32) -> u32 {
    ((bits >> (32 * n)) & 0xffff_ffff) as u32
}

fn anything<const F: usize>(answer: u32) -> Conditions<F> {
    let mut high = [u32::MAX; F];
    let widths = [0xffff, 0xffff, 0xff, 0xff, 0xff];
    high[F - REST..].copy_from_slice(&widths);
    Conditions { low: [0; F], high, flags: 0, flags_mask: 0, answer }
}

/// The fields of an address of `words`, from `at` on.
fn address<const F: usize>(it: &mut Conditions<F>, at: usize, words: usize, prefix: Option<Prefix>) {
    let Some(prefix) = prefix else { return };
    let width = u32::try_from(words * 32).unwrap_or(128);
    let hosts = u128::MAX.checked_shr(128 - width + u32::from(prefix.length)).unwrap_or(0);
    let low = address_bits(prefix.address);
    let high = low | hosts;
    for (n, field) in (0..).zip((at..at + words).rev()) {
        (it.low[field], it.high[field]) = (word(low, n), word(high, n));
    }
}

fn rest<const F: usize>(it: &mut Conditions<F>, rule: &Rule, path: Path) {
    let at = F - REST;
    let mut set = |n: usize, low: u32, high: u32| (it.low[at + n], it.high[at + n]) = (low, high);
    let range = |r: PortRange| (u32::from(r.first), u32::from(r.last));
    if let Some((low, high)) = rule.source_ports.map(range) {
        set(0, low, high);
    }
    if let Some((low, high)) = rule.destination_ports.map(range) {
        set(1, low, high);
    }
    if let Some(icmp) = rule.icmp {
        let code = |absent: u8| u32::from(u16::from_be_bytes([icmp.kind, icmp.code.unwrap_or(absent)]));
        set(1, code(0), code(u8::MAX));
    }
    if let Some(protocol) = rule.protocol.map(u32::from) {
        set(2, protocol, protocol);
    }
    for (n, zone) in [(3, path.from), (4, path.to)] {
        if zone != ANYWHERE {
            set(n, u32::from(zone), u32::from(zone));
        }
    }
    if let Some(flags) = rule.tcp_flags {
        (it.flags, it.flags_mask) = (flags.value, flags.mask);
    }
}

fn is_version(rule: &Rule, v4: bool) -> bool {
    [rule.source, rule.destination].into_iter().flatten().all(|p| p.address.is_ipv4() == v4)
}
