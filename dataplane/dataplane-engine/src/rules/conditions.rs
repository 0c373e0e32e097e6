//! A rule as a box, and a connection as a point in the same fields.

use dataplane_control::config::{PortRange, Prefix, Rule};

use super::{
    NewConnection,
    zones::{ANYWHERE, Path, Zones},
};
use crate::{
    hash::address_bits,
    packet::{ICMP, ICMPV6},
    table::Side,
};

/// Fields beyond the addresses: source port, destination port (or ICMP type and code), protocol, zone, zone it leaves to.
const REST: usize = 5;
/// No rule.
pub(super) const NONE: u32 = u32::MAX;

/// A connection's value in each field, and its TCP flags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<const F: usize> {
    pub at: [u32; F],
    pub flags: u8,
}

/// A rule's interval in each field, and TCP flags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions<const F: usize> {
    pub low: [u32; F],
    pub high: [u32; F],
    pub flags: u8,
    pub flags_mask: u8,
    /// Its index in the configuration.
    pub rule: u32,
}

impl<const F: usize> Conditions<F> {
    #[inline]
    pub(super) fn hold(&self, fields: &Fields<F>) -> bool {
        let within =
            self.low.iter().zip(&self.high).zip(&fields.at).all(|((low, high), at)| low <= at && at <= high);
        within && fields.flags & self.flags_mask == self.flags
    }
}

/// The first that holds.
pub(super) fn first<const F: usize>(rules: &[Conditions<F>], fields: &Fields<F>) -> u32 {
    rules.iter().find(|r| r.hold(fields)).map_or(NONE, |r| r.rule)
}

/// IPv4: an address is one word.
pub(super) struct V4;
/// IPv6: an address is four words.
pub(super) struct V6;

impl V4 {
    pub(super) const FIELDS: usize = 2 + REST;

    /// `None`: a rule for the other version.
    pub(super) fn conditions(rule: &Rule, index: u32, path: Path) -> Option<Conditions<{ Self::FIELDS }>> {
        is_version(rule, true).then(|| {
            let mut it = anything(index);
            address(&mut it, 0, 1, rule.source);
            address(&mut it, 1, 1, rule.destination);
            rest(&mut it, rule, path);
            it
        })
    }

    #[inline]
    pub(super) fn fields(new: &NewConnection, side: Side, zones: &Zones) -> Fields<{ Self::FIELDS }> {
        let (source, destination, ports) = new.key.as_sent_from(side);
        let [a, b, c, d, e] = rest_of(new, ports, side, zones);
        Fields { at: [word(source, 0), word(destination, 0), a, b, c, d, e], flags: new.tcp_flags }
    }
}

impl V6 {
    pub(super) const FIELDS: usize = 8 + REST;

    /// `None`: a rule for the other version.
    pub(super) fn conditions(rule: &Rule, index: u32, path: Path) -> Option<Conditions<{ Self::FIELDS }>> {
        is_version(rule, false).then(|| {
            let mut it = anything(index);
            address(&mut it, 0, 4, rule.source);
            address(&mut it, 4, 4, rule.destination);
            rest(&mut it, rule, path);
            it
        })
    }

    #[inline]
    pub(super) fn fields(new: &NewConnection, side: Side, zones: &Zones) -> Fields<{ Self::FIELDS }> {
        let (s, t, ports) = new.key.as_sent_from(side);
        let [a, b, c, d, e] = rest_of(new, ports, side, zones);
        let at = [
            word(s, 3),
            word(s, 2),
            word(s, 1),
            word(s, 0),
            word(t, 3),
            word(t, 2),
            word(t, 1),
            word(t, 0),
            a,
            b,
            c,
            d,
            e,
        ];
        Fields { at, flags: new.tcp_flags }
    }
}

/// A 32-bit word, counted from the low end.
#[inline]
fn word(bits: u128, n: u32) -> u32 {
    ((bits >> (32 * n)) & 0xffff_ffff) as u32
}

#[inline]
fn rest_of(new: &NewConnection, ports: u32, side: Side, zones: &Zones) -> [u32; REST] {
    let protocol = new.key.protocol();
    let low = if matches!(protocol, ICMP | ICMPV6) { u32::from(new.icmp) } else { ports & 0xffff };
    let (from, to) = zones.of(new.key.outer_vlan(), side);
    [ports >> 16, low, u32::from(protocol), u32::from(from), u32::from(to)]
}

fn anything<const F: usize>(rule: u32) -> Conditions<F> {
    let mut high = [u32::MAX; F];
    let widths = [0xffff, 0xffff, 0xff, 0xff, 0xff];
    high[F - REST..].copy_from_slice(&widths);
    Conditions { low: [0; F], high, flags: 0, flags_mask: 0, rule }
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
