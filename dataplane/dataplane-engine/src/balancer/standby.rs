//! State sync to a standby: connections of both sides are told in turn, and those that another tells are taken.
//!
//! Who tells has no part in the packet path. [`Balancer::tell`] walks over the table, so many slots in a tick that all of it is seen every
//! [`ROUND_MS`], and leaves what is confirmed in a bounded ring ([`Ring`]); a full one ends the walk until it was taken away. What was only
//! told and not heard of since is not told again: two balancers that tell each other keep no connection alive that ended on both.
//!
//! Who is told gives a connection to the backend that it has elsewhere, if that is to be used and the service is there. What it has itself and
//! has heard of since, stays as it is; nothing that is confirmed makes room. The same told twice changes nothing.
//!
//! Tests: `tests/standby.rs`.

use dataplane_control::sync::{self, Told};

use super::{
    ANSWERED, Balancer, CONFIRMED, FIN_FROM_BACKEND, FIN_FROM_CLIENT, RESET, SAMPLED, State, closing, kind,
};
use crate::{
    ages::Age,
    events::Ring,
    hash::address_of,
    key::{Key, Side},
    machine::Machine,
    table::{Entry, TICK_SLOTS},
};

/// In so long the whole table is told.
const ROUND_MS: u32 = 8_000;

/// Of the marks: it was told. The six above it are the lowest of the time that it was last heard of by then.
const TOLD: u8 = 2;

/// Where a connection that was told and not heard of since has its last packet, in its marks.
fn told_at(last_ms: u32) -> u8 {
    TOLD | ((last_ms & 0x3f) as u8) << 2
}

/// Whether a connection is known from elsewhere only. One in 64 that was heard of is taken for such, until its next packet.
fn only_told(entry: &Entry<State>) -> bool {
    entry.value.marks & !SAMPLED == told_at(entry.last_ms)
}

/// The walk over the table.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub ring: Ring<Told>,
    cursor: usize,
    last_ms: u32,
}

/// What became of connections that were told.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Totals {
    /// Left in the ring.
    pub told: u64,
    /// Taken: they were not there, or nothing was heard of them for longer than elsewhere.
    pub adopted: u64,
    /// What is there is younger.
    pub kept: u64,
    /// No such service or backend, over by now, or no room.
    pub refused: u64,
}

/// What is made of a told connection.
enum Made {
    Adopted,
    Kept,
    Refused,
}

impl<M: Machine> Balancer<M> {
    /// Some slots further.
    pub(super) fn tell(&mut self, now_ms: u32) {
        let Self { table, walk, plan, synced, .. } = self;
        if !walk.ring.has_room() {
            return;
        }
        let since_ms = now_ms.wrapping_sub(walk.last_ms).min(ROUND_MS);
        let share = table.capacity() as u64 * u64::from(since_ms) / u64::from(ROUND_MS);
        if share == 0 {
            return;
        }
        walk.last_ms = now_ms;
        let slots = usize::try_from(share).unwrap_or(TICK_SLOTS).min(TICK_SLOTS);
        let Walk { ring, cursor, .. } = walk;
        table.walk(cursor, slots, |entry| {
            let State { flags, backend, generation, .. } = entry.value;
            if flags & CONFIRMED == 0 || only_told(entry) || plan.timeouts.expired(entry, now_ms) {
                return true;
            }
            if let Some(slot) = plan.pool.slots.get(usize::from(backend)).filter(|s| s.keeps(generation)) {
                ring.push(told_of(entry, slot.number, now_ms));
                synced.told += 1;
            }
            ring.has_room()
        });
    }

    /// Takes connections that another balancer told.
    pub(super) fn take_told(&mut self, now_ms: u32, told: &[Told]) {
        for told in told {
            let count = match self.take_one(now_ms, told) {
                Made::Adopted => &mut self.synced.adopted,
                Made::Kept => &mut self.synced.kept,
                Made::Refused => &mut self.synced.refused,
            };
            *count += 1;
        }
    }

    fn take_one(&mut self, now_ms: u32, told: &Told) -> Made {
        let key = Key::of_told(told);
        let Some(service) = self.plan.vips.find(&key) else { return Made::Refused };
        let kind = self.plan.vips.get(service).map(kind);
        let (Some(kind), Some(backend)) = (kind, self.plan.pool.numbered(told.backend)) else {
            return Made::Refused;
        };
        let flags = CONFIRMED | ANSWERED | kind | ended(told.ends);
        let lifetime_ms = self.plan.timeouts.lifetime_ms(flags);
        if told.idle_ms > lifetime_ms {
            return Made::Refused;
        }
        let last_ms = now_ms.wrapping_sub(told.idle_ms);
        let Told { client_mac, .. } = *told;
        let generation = self.plan.generation;
        let state = State { client_mac, flags, marks: told_at(last_ms), backend, service, generation };
        let age = (Age::Wheel, last_ms.wrapping_add(lifetime_ms));
        let there = self.table.find(&key);
        if let Some(entry) = there.and_then(|slot| self.table.get(slot)) {
            if now_ms.wrapping_sub(entry.last_ms) <= told.idle_ms {
                return Made::Kept;
            }
            entry.value = State { marks: state.marks | entry.value.marks & SAMPLED, ..state };
            entry.last_ms = last_ms;
            if let Some(slot) = there {
                self.table.wait(slot, age, now_ms);
            }
            return Made::Adopted;
        }
        // That it ended is no news of what is not there.
        if closing(flags) {
            return Made::Kept;
        }
        if self.table.is_full() {
            self.make_room(now_ms);
        }
        let Some(slot) = self.table.insert(key, state, now_ms, age) else { return Made::Refused };
        if let Some(entry) = self.table.get(slot) {
            entry.last_ms = last_ms;
        }
        Made::Adopted
    }
}

fn told_of(entry: &Entry<State>, backend: u16, now_ms: u32) -> Told {
    let (client, service, ports) = entry.key.as_sent_from(Side::Near);
    let end = |flag, told| if entry.value.flags & flag != 0 { told } else { 0 };
    Told {
        client: address_of(client),
        client_port: (ports >> 16) as u16,
        service: address_of(service),
        service_port: (ports & 0xffff) as u16,
        protocol: entry.key.protocol(),
        vlans: entry.key.vlans(),
        client_mac: entry.value.client_mac,
        ends: end(FIN_FROM_CLIENT, sync::FIN_FROM_CLIENT)
            | end(FIN_FROM_BACKEND, sync::FIN_FROM_BACKEND)
            | end(RESET, sync::RESET),
        backend,
        idle_ms: now_ms.wrapping_sub(entry.last_ms),
    }
}

/// The flags that say how a told connection ended.
fn ended(ends: u8) -> u8 {
    let end = |told, flag| if ends & told != 0 { flag } else { 0 };
    end(sync::FIN_FROM_CLIENT, FIN_FROM_CLIENT)
        | end(sync::FIN_FROM_BACKEND, FIN_FROM_BACKEND)
        | end(sync::RESET, RESET)
}
