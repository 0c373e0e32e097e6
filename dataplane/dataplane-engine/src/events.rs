//! Connections that were opened and closed, for those who keep flow records (IPFIX, RFC 7011).
//!
//! A function that tracks connections owns one [`Events`] and says [`Events::opened`] and [`Events::closed`]. It is off until a
//! sampling rate is set: then each of the two is one comparison, on paths that open or end a connection and on no other. Sampled are
//! whole connections, chosen by their key: of one that is in the sample both ends are. The room is bounded: what finds none is
//! counted and forgotten. Whoever runs the function takes the full batch away and gives an empty one back ([`Events::exchange`]), so nothing
//! is allocated after [`Events::sample`].
//!
//! Tests: below, and `tests/events.rs`.

use std::{mem, net::IpAddr};

use crate::{
    hash::address_of,
    table::{Key, Side},
};

/// Events kept between two exchanges: a millisecond of a million new connections a second.
pub const BATCH: usize = 1024;

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
    /// Index of the rule that allowed it, or of the backend that has it.
    pub chosen: u32,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Events {
    batch: Vec<Event>,
    /// One connection in so many; 0: off.
    every: u32,
    missed: u64,
}

impl Events {
    /// From now on, of one connection in `every`; 0: of none. The only call that allocates.
    pub fn sample(&mut self, every: u32) {
        self.every = every;
        let room = if every == 0 { 0 } else { BATCH };
        self.batch = Vec::with_capacity(room);
    }

    /// Whether a connection with this key is in the sample.
    #[inline]
    fn sampled(&self, key: &Key) -> bool {
        self.every != 0 && key.hash(SAMPLE_SEED).is_multiple_of(u64::from(self.every))
    }

    /// A connection was opened from `side`.
    #[inline]
    pub(crate) fn opened(&mut self, now_ms: u32, key: &Key, side: Side, chosen: u32) {
        if self.sampled(key) {
            self.keep(Happened::Opened, now_ms, key, side, chosen);
        }
    }

    /// A connection that had been opened from `side` is over.
    #[inline]
    pub(crate) fn closed(&mut self, now_ms: u32, key: &Key, side: Side, chosen: u32) {
        if self.sampled(key) {
            self.keep(Happened::Closed, now_ms, key, side, chosen);
        }
    }

    #[cold]
    fn keep(&mut self, happened: Happened, at_ms: u32, key: &Key, side: Side, chosen: u32) {
        if self.batch.len() == self.batch.capacity() {
            self.missed += 1;
            return;
        }
        let (source, destination, ports) = key.as_sent_from(side);
        self.batch.push(Event {
            happened,
            at_ms,
            source: address_of(source),
            destination: address_of(destination),
            source_port: (ports >> 16) as u16,
            destination_port: (ports & 0xffff) as u16,
            protocol: key.protocol(),
            from_near: side == Side::Near,
            chosen,
        });
    }

    /// Whether there is nothing to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Takes what there is and goes on with `empty`, whose room is kept if it has [`BATCH`].
    #[must_use]
    pub fn exchange(&mut self, mut empty: Vec<Event>) -> Vec<Event> {
        empty.clear();
        mem::replace(&mut self.batch, empty)
    }

    /// Events that found no room, ever.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
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

    #[test]
    fn off_keeps_nothing_and_has_no_room() {
        let mut events = Events::default();
        events.opened(1, &key(1), Side::Near, 0);
        events.sample(1);
        events.sample(0);
        events.closed(1, &key(1), Side::Near, 0);
        assert!(events.is_empty());
        assert_eq!((events.missed(), events.batch.capacity()), (0, 0));
    }

    #[test]
    fn both_ends_of_a_sampled_connection_are_kept_and_nothing_of_others() {
        let mut events = Events::default();
        events.sample(8);
        for port in 1..=2_000 {
            events.opened(5, &key(port), Side::Near, 7);
        }
        let opened = events.exchange(Vec::with_capacity(BATCH));
        assert!((150..350).contains(&opened.len()), "{}", opened.len());
        for port in 1..=2_000 {
            events.closed(9, &key(port), Side::Near, 7);
        }
        let closed = events.exchange(vec![]);
        let as_closed = |e: &Event| Event { happened: Happened::Closed, at_ms: 9, ..*e };
        assert_eq!(opened.iter().map(as_closed).collect::<Vec<_>>(), closed);
        let first = opened[0];
        assert_eq!(
            (first.source.to_string(), first.destination_port, first.chosen),
            ("192.0.2.1".into(), 53, 7)
        );
        assert!(first.from_near);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut events = Events::default();
        events.sample(1);
        for port in 0..u16::try_from(BATCH).unwrap() + 10 {
            events.opened(1, &key(port), Side::Near, 0);
        }
        assert_eq!(events.missed(), 10);
        assert_eq!(events.exchange(Vec::with_capacity(BATCH)).len(), BATCH);
        events.opened(1, &key(1), Side::Near, 0);
        assert!(!events.is_empty());
    }
}
