//! What a function leaves for others to write down: connections that were opened and closed, for flow records (IPFIX, RFC 7011), and
//! decisions of rules with `log`.
//!
//! Each kind lies in a [`Ring`] of bounded room: what finds none is counted and forgotten. Whoever runs the function takes the full
//! batch away and gives an empty one back ([`Ring::exchange`]), so nothing is allocated after [`Ring::hold`]. Both are on paths that open
//! or end a connection, or refuse one, and on no other.
//!
//! A function that tracks connections owns one [`Events`], asks it of each that is opened whether it is in the sample ([`Events::sampled`]) and
//! says what happened to those that are. It is off until a sampling rate is set. Sampled are whole connections, chosen by their key: of one
//! whose beginning is in the sample the end is, too.
//!
//! Tests: below, and `tests/conditions.rs` (what rules with `log` leave).

use std::{mem, net::IpAddr};

use crate::{
    DropReason,
    hash::address_of,
    key::{Key, Side, V4Key},
};

/// Flow events kept between two exchanges: a millisecond of a million new connections a second.
pub const BATCH: usize = 1024;
/// Decisions kept between two exchanges: many more than anybody writes down in a millisecond.
pub const LOG_BATCH: usize = 256;
/// Connections for a standby kept between two exchanges: of the table, a tick looks at four times as many at most.
pub const TELL_BATCH: usize = 1024;

/// The ends of a connection, as its first packet has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Source address: of who opened it.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Whether who opened it is on the near side (outside; towards the clients).
    pub from_near: bool,
}

impl Ends {
    fn of(key: &Key, side: Side) -> Self {
        let (source, destination, ports) = key.as_sent_from(side);
        Self {
            source: address_of(source),
            destination: address_of(destination),
            source_port: (ports >> 16) as u16,
            destination_port: (ports & 0xffff) as u16,
            protocol: key.protocol(),
            from_near: side == Side::Near,
        }
    }
}

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// Its first packet was allowed.
    Opened,
    /// It was closed by its end points, was idle for too long, or is no longer allowed.
    Closed,
}

/// A connection that was opened or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Which of the two.
    pub happened: Happened,
    /// When, on the functions' clock: ms that wrap after 49 days.
    pub at_ms: u32,
    /// Between whom.
    pub ends: Ends,
    /// Index of the rule that allowed it, or of the backend that has it, in the configuration that runs then; of a backend that is no
    /// longer in it [`u32::MAX`].
    pub chosen: u32,
}

/// What became of a packet that a rule with `log` decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It opened a connection.
    Allowed,
    /// It was answered with a SYN cookie; who returns that is allowed.
    Challenged,
    /// It was dropped and its sender told.
    Rejected,
    /// The rule denies it ([`DropReason::Denied`]: also of a rule that rejects, where no answer may be sent), it was beyond the rule's
    /// limit ([`DropReason::RuleRate`]), or the rule allows it and something else does not.
    Dropped(DropReason),
}

/// A decision of a rule with `log` on a packet of no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged {
    /// When, as [`Event::at_ms`].
    pub at_ms: u32,
    /// Index of the rule.
    pub rule: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// Of the packet.
    pub ends: Ends,
    /// Whether there is an [`Event`] of the connection's opening, too.
    pub sampled: bool,
}

/// See the module's head.
#[derive(Debug)]
pub struct Ring<T> {
    batch: Vec<T>,
    missed: u64,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self { batch: Vec::new(), missed: 0 }
    }
}

impl<T> Ring<T> {
    /// Room for so many; what is there is forgotten. The only call that allocates.
    pub fn hold(&mut self, most: usize) {
        self.batch = Vec::with_capacity(most);
    }

    pub(crate) fn push(&mut self, one: T) {
        if self.batch.len() == self.batch.capacity() {
            self.missed += 1;
        } else {
            self.batch.push(one);
        }
    }

    /// Whether another would be kept.
    pub(crate) fn has_room(&self) -> bool {
        self.batch.len() < self.batch.capacity()
    }

    /// Whether there is nothing to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Takes what there is and goes on with `empty`, in the room that it has.
    #[must_use]
    pub fn exchange(&mut self, mut empty: Vec<T>) -> Vec<T> {
        empty.clear();
        mem::replace(&mut self.batch, empty)
    }

    /// How many found no room, ever.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl Ring<Logged> {
    #[cold]
    pub(crate) fn decided(
        &mut self,
        at_ms: u32,
        key: &Key,
        side: Side,
        (rule, outcome): (u32, Outcome),
        sampled: bool,
    ) {
        self.push(Logged { at_ms, rule, outcome, ends: Ends::of(key, side), sampled });
    }
}

/// Flow events, see the module's head.
#[derive(Debug, Default)]
pub struct Events {
    ring: Ring<Event>,
    /// The highest hash of what is in the sample, which needs no division; 0: off.
    highest: u64,
}

impl Events {
    /// From now on, of one connection in `every`; 0: of none. The only call that allocates.
    pub fn sample(&mut self, every: u32) {
        self.highest = u64::MAX.checked_div(every.into()).unwrap_or(0);
        self.ring.hold(if every == 0 { 0 } else { BATCH });
    }

    /// Whether a connection with this key is in the sample.
    #[inline]
    pub(crate) fn sampled(&self, key: &Key) -> bool {
        self.highest != 0 && key.hash(SAMPLE_SEED) <= self.highest
    }

    /// [`Events::sampled`] of untagged IPv4.
    #[inline]
    pub(crate) fn sampled_v4(&self, key: V4Key) -> bool {
        self.highest != 0 && key.hash(SAMPLE_SEED) <= self.highest
    }

    /// A connection of the sample was opened from `side`, or one that had been is over.
    #[cold]
    pub(crate) fn happened(&mut self, what: Happened, at_ms: u32, key: &Key, side: Side, chosen: u32) {
        self.ring.push(Event { happened: what, at_ms, ends: Ends::of(key, side), chosen });
    }

    /// Where they lie.
    pub fn ring(&mut self) -> &mut Ring<Event> {
        &mut self.ring
    }
}

/// Which connections are in a sample does not depend on the table's seed: two instances in a row sample the same ones.
const SAMPLE_SEED: u64 = 0x6970_6669_785f_3730;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packet::{Parsed, parse};

    fn key(port: u16) -> Key {
        let [high, low] = port.to_be_bytes();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        let sum = frame[14..].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame.extend([high, low, 0, 53, 0, 8, 0, 0]);
        match parse(&frame) {
            Ok(Parsed::Ip(packet)) => Key::of(&packet, Side::Near),
            other => unreachable!("{other:?}"),
        }
    }

    /// As a function says it.
    fn happened(events: &mut Events, what: Happened, key: Key, at_ms: u32) {
        if events.sampled(&key) {
            events.happened(what, at_ms, &key, Side::Near, 7);
        }
    }

    #[test]
    fn off_keeps_nothing_and_has_no_room() {
        let mut events = Events::default();
        happened(&mut events, Happened::Opened, key(1), 1);
        events.sample(1);
        events.sample(0);
        happened(&mut events, Happened::Closed, key(1), 1);
        assert!(events.ring.is_empty());
        assert_eq!((events.ring.missed(), events.ring.batch.capacity()), (0, 0));
    }

    #[test]
    fn both_ends_of_a_sampled_connection_are_kept_and_nothing_of_others() {
        let mut events = Events::default();
        events.sample(8);
        for port in 1..=2_000 {
            happened(&mut events, Happened::Opened, key(port), 5);
        }
        let opened = events.ring.exchange(Vec::with_capacity(BATCH));
        assert!((150..350).contains(&opened.len()), "{}", opened.len());
        for port in 1..=2_000 {
            happened(&mut events, Happened::Closed, key(port), 9);
        }
        let closed = events.ring.exchange(vec![]);
        let as_closed = |e: &Event| Event { happened: Happened::Closed, at_ms: 9, ..*e };
        assert_eq!(opened.iter().map(as_closed).collect::<Vec<_>>(), closed);
        let first = opened[0];
        assert_eq!(
            (first.ends.source.to_string(), first.ends.destination_port, first.chosen),
            ("192.0.2.1".into(), 53, 7)
        );
        assert!(first.ends.from_near);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut events = Events::default();
        events.sample(1);
        for port in 0..u16::try_from(BATCH).unwrap() + 10 {
            happened(&mut events, Happened::Opened, key(port), 1);
        }
        assert_eq!(events.ring.missed(), 10);
        assert_eq!(events.ring.exchange(Vec::with_capacity(BATCH)).len(), BATCH);
        happened(&mut events, Happened::Opened, key(1), 1);
        assert!(!events.ring.is_empty());
    }
}
