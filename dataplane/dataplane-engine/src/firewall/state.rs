//! What a connection remembers, and how long it lives.
//!
//! Tests: `tests/firewall.rs` compares with a naive model.

use dataplane_control::config::Firewall as Config;

use crate::{
    ages::Age,
    common::{self, TCP_CLOSING_MS, TCP_HALF_CLOSED_MS, TCP_HANDSHAKE_MS},
    key::Side,
    packet::{ICMP, ICMPV6, TCP, UDP},
    table::{Entry, Judged},
};

/// What a connection remembers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    /// Of the rule set that last allowed it.
    pub generation: u32,
    /// Index of the rule that did.
    pub rule: u32,
    pub flags: u16,
    /// Of the counters of sources that it is counted in; 0: in none.
    pub counted: u8,
}

/// SYN-ACK came from the responder; of another protocol than TCP: anything did.
pub(super) const ANSWERED: u16 = 1;
/// The initiator acknowledged it.
pub(super) const ESTABLISHED: u16 = 2;
pub(super) const FIN_FROM_INITIATOR: u16 = 4;
pub(super) const FIN_FROM_RESPONDER: u16 = 8;
const FINS: u16 = FIN_FROM_INITIATOR | FIN_FROM_RESPONDER;
pub(super) const RESET: u16 = 16;
/// The initiator is on the far side.
pub(super) const FROM_FAR: u16 = 32;
/// Its segments are checked against its windows.
pub(super) const WINDOWED: u16 = 64;
/// It was opened by a SYN cookie: the responder's numbers are translated.
pub(super) const PROXIED: u16 = 128;
/// Both its ends are flow records.
pub(super) const SAMPLED: u16 = 256;

/// Reset, or FIN from both sides.
#[inline]
pub(super) fn is_closing(flags: u16) -> bool {
    flags & RESET != 0 || flags & FINS == FINS
}

impl State {
    #[inline]
    pub(super) fn initiator(self) -> Side {
        if self.flags & FROM_FAR == 0 { Side::Near } else { Side::Far }
    }

    #[inline]
    pub(super) fn closing(self) -> bool {
        is_closing(self.flags)
    }
}

/// A TCP connection whose handshake is neither complete nor refused.
pub(super) fn is_half_open(protocol: u8, flags: u16) -> bool {
    protocol == TCP && flags & (ESTABLISHED | RESET) == 0
}

/// Idle times, ms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub tcp: u32,
    tcp_handshake: u32,
    tcp_half_closed: u32,
    tcp_closing: u32,
    /// Heard of from one side, from both.
    udp: [u32; 2],
    icmp: u32,
    other: u32,
}

impl Timeouts {
    pub(super) fn of(config: &Config) -> Self {
        let wanted = &config.tracking.timeouts;
        let tcp = common::idle_ms(config.tcp_idle_ms);
        let other = common::idle_ms(config.other_idle_ms);
        // Of TCP's, none is longer than an established connection's.
        let of_tcp = |wanted: Option<u64>, usual: u32| wanted.map_or(usual, common::idle_ms).min(tcp);
        let of_other = |wanted: Option<u64>| wanted.map_or(other, common::idle_ms);
        Self {
            tcp,
            tcp_handshake: of_tcp(wanted.tcp_handshake_ms, TCP_HANDSHAKE_MS),
            tcp_half_closed: of_tcp(wanted.tcp_half_closed_ms, TCP_HALF_CLOSED_MS),
            tcp_closing: of_tcp(wanted.tcp_closing_ms, TCP_CLOSING_MS),
            udp: [of_other(wanted.udp_one_way_ms), of_other(wanted.udp_both_ways_ms)],
            icmp: of_other(wanted.icmp_ms),
            other,
        }
    }

    #[inline]
    pub(super) fn udp(&self, flags: u16) -> u32 {
        self.udp[usize::from(flags & ANSWERED)]
    }

    #[inline]
    pub(super) fn expired(&self, entry: &Entry<State>, now_ms: u32) -> bool {
        now_ms.wrapping_sub(entry.last_ms) > self.lifetime(entry.key.protocol(), entry.value)
    }

    /// When a connection is looked at next: when it is over if nothing renews it. One that is closed, that is not established, or that
    /// was heard of from one side only (of UDP, of ICMP, of another protocol) may be given up for others, in this order.
    pub(super) fn age(&self, entry: &Entry<State>) -> (Age, u32) {
        self.age_at_first(entry.key.protocol(), entry.value, entry.last_ms)
    }

    /// [`Timeouts::age`] of a connection that is not there yet.
    pub(super) fn age_at_first(&self, protocol: u8, state: State, last_ms: u32) -> (Age, u32) {
        let settled = if protocol == TCP { ESTABLISHED } else { ANSWERED };
        let age = match () {
            () if state.closing() => Age::Queue(0),
            () if state.flags & settled != 0 => Age::Wheel,
            () if protocol == TCP => Age::Queue(1),
            () if protocol == UDP => Age::Queue(2),
            () if matches!(protocol, ICMP | ICMPV6) => Age::Queue(3),
            () => Age::Queue(4),
        };
        (age, last_ms.wrapping_add(self.lifetime(protocol, state)))
    }

    /// Whether a connection that is looked at is over.
    pub(super) fn judge(&self, entry: &Entry<State>, now_ms: u32) -> Judged {
        if self.expired(entry, now_ms) {
            return Judged::Over;
        }
        let (age, due_ms) = self.age(entry);
        Judged::Waits(age, due_ms)
    }

    #[inline]
    fn lifetime(&self, protocol: u8, state: State) -> u32 {
        match protocol {
            TCP if state.closing() => self.tcp_closing,
            TCP if state.flags & ESTABLISHED == 0 => self.tcp_handshake,
            TCP if state.flags & FINS != 0 => self.tcp_half_closed,
            TCP => self.tcp,
            UDP => self.udp(state.flags),
            ICMP | ICMPV6 => self.icmp,
            _ => self.other,
        }
    }
}
