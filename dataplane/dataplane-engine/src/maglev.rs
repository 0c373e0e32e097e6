//! Maglev consistent hashing (Eisenbud et al., NSDI 2016, §3.4), with weights.
//!
//! Each backend has a permutation of the table's slots, `(offset + j · skip) mod M`, derived from its id alone. The
//! backends take turns claiming their next free slot; a backend of weight `w` takes a turn in `w / max(w)` of the
//! rounds. Turns go in the order of ids, so the same set gives the same table however it is listed.
//!
//! Whoever knows backends and table size can recompute which backend a flow belongs to: the generator does, to find
//! misrouted flows. [`flow_hash`] therefore never changes and has no secret.
//!
//! Tests: below (share, disruption, order) and `tests/balancer.rs`.

use std::net::IpAddr;

use dataplane_control::config::Backend;

use crate::hash::{fold, name_hash};

/// Most backends of a table: their index must fit a slot.
pub const MAX_BACKENDS: usize = 65_534;

const EMPTY: u16 = u16::MAX;
const OFFSET_SEED: u64 = 0x4d61_676c_6576_2d31;
const SKIP_SEED: u64 = 0x4d61_676c_6576_2d32;

/// A flow as the balancer sees it, from client to service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// Client address.
    pub source: IpAddr,
    /// Service address.
    pub destination: IpAddr,
    /// Client port.
    pub source_port: u16,
    /// Service port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// Hash of a flow, 64 bits, the same everywhere and for ever.
#[must_use]
pub fn flow_hash(flow: &FiveTuple) -> u64 {
    let ports = u32::from(flow.source_port) << 16 | u32::from(flow.destination_port);
    hash_words(
        crate::hash::address_bits(flow.source),
        crate::hash::address_bits(flow.destination),
        ports,
        flow.protocol,
    )
}

/// [`flow_hash`] of addresses in [`crate::hash::address_bits`] form.
#[inline]
pub(crate) fn hash_words(source: u128, destination: u128, ports: u32, protocol: u8) -> u64 {
    let [s1, s0] = crate::hash::halves(source);
    let [d1, d0] = crate::hash::halves(destination);
    let a = fold(s1 ^ 0x243f_6a88_85a3_08d3, s0 ^ 0x1319_8a2e_0370_7344);
    let b = fold(d1 ^ 0xa409_3822_299f_31d0, d0 ^ 0x082e_fa98_ec4e_6c89);
    let c = u64::from(ports) << 8 | u64::from(protocol);
    fold(fold(a ^ c, b ^ 0x4528_21e6_38d0_1377), 0xbe54_66cf_34e9_0c6c ^ c)
}

/// The lookup table.
#[derive(Debug, Clone)]
pub struct Table {
    slots: Vec<u16>,
    size: u64,
}

struct Turn {
    backend: u16,
    weight: u64,
    credit: u64,
    position: u64,
    skip: u64,
}

impl Table {
    /// Fills a table of `table_size` slots (a prime; see [`dataplane_control::Configuration::check`]).
    ///
    /// A draining backend has no slots: whoever asks is a new connection. Without others, with more than [`MAX_BACKENDS`] or without
    /// slots the table is empty and every lookup `None`.
    #[must_use]
    pub fn new(backends: &[Backend], table_size: u32) -> Self {
        let size = u64::from(table_size);
        if backends.len() > MAX_BACKENDS || table_size < 2 {
            return Self { slots: Vec::new(), size };
        }
        let mut turns = turns(backends, size);
        if turns.is_empty() {
            return Self { slots: Vec::new(), size };
        }
        let top = turns.iter().map(|t| t.weight).max().unwrap_or(1);
        let mut slots = vec![EMPTY; table_size as usize];
        let mut free = slots.len();
        // Ends: each round gives at least the heaviest backend a slot, and a prime size makes every
        // permutation reach every slot.
        while free > 0 {
            for turn in &mut turns {
                turn.credit += turn.weight;
                if turn.credit >= top && free > 0 {
                    turn.credit -= top;
                    claim(&mut slots, turn, size);
                    free -= 1;
                }
            }
        }
        Self { slots, size }
    }

    /// Index of the flow's backend in the slice that [`Table::new`] was given.
    #[must_use]
    #[inline]
    pub fn lookup(&self, hash: u64) -> Option<usize> {
        let slot = usize::try_from(hash % self.size.max(1)).ok()?;
        self.slots.get(slot).map(|b| usize::from(*b))
    }

    /// The slots, for statistics: each an index of a backend.
    #[must_use]
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }
}

fn turns(backends: &[Backend], size: u64) -> Vec<Turn> {
    let mut order: Vec<(u16, &Backend)> = (0..).zip(backends).filter(|(_, b)| !b.draining).collect();
    order.sort_by(|a, b| a.1.id.cmp(&b.1.id));
    let turn = |(backend, b): (u16, &Backend)| Turn {
        backend,
        weight: u64::from(b.weight.max(1)),
        credit: 0,
        position: name_hash(OFFSET_SEED, &b.id) % size,
        skip: name_hash(SKIP_SEED, &b.id) % (size - 1) + 1,
    };
    order.into_iter().map(turn).collect()
}

/// Gives the backend the next free slot of its permutation; there must be one.
fn claim(slots: &mut [u16], turn: &mut Turn, size: u64) {
    for _ in 0..slots.len() {
        let here = usize::try_from(turn.position).unwrap_or(0);
        turn.position = (turn.position + turn.skip) % size;
        if let Some(slot) = slots.get_mut(here).filter(|s| **s == EMPTY) {
            *slot = turn.backend;
            return;
        }
    }
}
