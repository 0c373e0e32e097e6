//! The load balancer: Maglev over weighted backends, dispatch at layer 2.
//!
//! Towards a backend only the MAC addresses change, so backends carry the VIPs themselves and answer through us; their
//! replies go to the client's MAC as learnt from the connection. A tracked connection keeps its backend across
//! reconfigurations for as long as the backend is configured; then it is given to another. A connection whose VIP is
//! gone is revoked. ARP requests and neighbour solicitations for VIPs are answered on the client port only; where
//! they are is told unasked when the orchestrator says so ([`crate::PacketFunction::announcement`]). ICMP
//! errors about a tracked connection are carried along in either direction.
//!
//! A packet of no tracked connection is dispatched whatever its TCP flags: consistent hashing then finds its backend
//! again after a restart. Since anybody can send such a packet, it never makes a connection that lasts: until it is
//! confirmed, a connection is forgotten after [`UNCONFIRMED_MS`]. UDP is confirmed by a packet from the backend, TCP by
//! one that the client sends after that, because a backend answers anybody's SYN.
//!
//! Tests: `tests/balancer.rs` compares with a naive model; `tests/chain.rs`; golden ARP and ND replies.

mod plan;

use std::sync::Arc;

use dataplane_control::{
    Configuration,
    config::{ConfigError, LoadBalancer},
};

pub(crate) use self::plan::{Basis, Count, Counts, Next, Plan};

use crate::{
    DropReason, Frame, PacketFunction, PortIndex, Verdict,
    common::{self, Clock, Drops, TCP_CLOSING_MS, UNCONFIRMED_MS},
    maglev, neighbour,
    packet::{self, ACK, FIN, Message, Packet, Parsed, RST, SYN, TCP, UDP},
    prepare::{self, Kind, Prepared, Retired, Snapshot},
    table::{Entry, Key, Side, TICK_SLOTS, Table},
};

/// What a connection remembers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    client_mac: [u8; 6],
    flags: u8,
    /// Index into the pool's slots.
    backend: u16,
    /// Of the configuration that its VIP and backend were last checked against.
    generation: u32,
}

/// Both sides were heard, in the order that an honest client causes.
const CONFIRMED: u8 = 1;
const FIN_FROM_CLIENT: u8 = 2;
const FIN_FROM_BACKEND: u8 = 4;
const FINS: u8 = FIN_FROM_CLIENT | FIN_FROM_BACKEND;
const RESET: u8 = 8;
/// The backend was heard.
const ANSWERED: u8 = 16;

fn closing(flags: u8) -> bool {
    flags & RESET != 0 || flags & FINS == FINS
}

#[derive(Debug, Clone, Copy)]
struct Timeouts {
    idle_ms: u32,
}

impl Timeouts {
    #[inline]
    fn expired(self, entry: &Entry<State>, now_ms: u32) -> bool {
        let flags = entry.value.flags;
        let lifetime_ms = match () {
            () if closing(flags) => TCP_CLOSING_MS.min(self.idle_ms),
            () if flags & CONFIRMED == 0 => UNCONFIRMED_MS.min(self.idle_ms),
            () => self.idle_ms,
        };
        now_ms.wrapping_sub(entry.last_ms) > lifetime_ms
    }
}

#[derive(Debug, Default)]
struct Totals {
    opened: u64,
    expired: u64,
    revoked: u64,
    moved: u64,
    neighbour: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Balancer {
    plan: Arc<Plan>,
    /// By the pool's slots.
    counts: Vec<Count>,
    table: Table<State>,
    clock: Clock,
    drops: Drops,
    totals: Totals,
}

/// What to do with a frame, before it is done.
enum Action {
    /// To a backend's MAC.
    Dispatch([u8; 6]),
    /// To a client's MAC.
    Return([u8; 6]),
    AnswerArp(usize),
    AnswerSolicitation(Packet),
}

impl Balancer {
    pub(crate) fn new(c: &Configuration, config: &LoadBalancer, seed: u64) -> Result<Self, ConfigError> {
        let plan = Plan::new(c, config, &[], 0)?;
        Ok(Self {
            counts: vec![Count::default(); plan.pool.slots.len()],
            table: plan.table(seed)?,
            plan: Arc::new(plan),
            clock: Clock::default(),
            drops: Drops::default(),
            totals: Totals::default(),
        })
    }

    #[inline]
    fn decide(&mut self, now_ms: u32, side: Side, frame: &[u8]) -> Result<Action, DropReason> {
        let parsed = packet::parse(frame)?;
        let ours = frame.starts_with(&self.plan.pair.on(side).mac);
        let group = frame.first().is_some_and(|b| b & 1 != 0);
        match (parsed, side) {
            (Parsed::Arp(at), Side::Near) if ours || group => self.arp(frame, at),
            (Parsed::Arp(_), Side::Far) => Err(DropReason::NeighbourIgnored),
            (Parsed::Ip(packet), Side::Near)
                if packet.message == Message::NeighbourSolicitation && (ours || group) =>
            {
                self.solicitation(frame, packet)
            }
            (
                Parsed::Ip(Packet {
                    message: Message::NeighbourSolicitation | Message::NeighbourAdvertisement,
                    ..
                }),
                _,
            ) => Err(DropReason::NeighbourIgnored),
            _ if !ours => Err(DropReason::NotOurs),
            (Parsed::Ip(packet), Side::Near) => self.towards_backend(now_ms, frame, &packet),
            (Parsed::Ip(packet), Side::Far) => self.towards_client(now_ms, frame, &packet),
            (Parsed::Arp(_), _) => Err(DropReason::NotOurs),
        }
    }

    fn arp(&mut self, frame: &[u8], at: usize) -> Result<Action, DropReason> {
        let arp = neighbour::arp(frame, at).ok_or(DropReason::Arp)?;
        let target = crate::hash::v4_bits(arp.target);
        if !arp.request || arp.sender == arp.target || !self.plan.vips.has_address(target) {
            return Err(DropReason::NeighbourIgnored);
        }
        Ok(Action::AnswerArp(at))
    }

    fn solicitation(&mut self, frame: &[u8], packet: Packet) -> Result<Action, DropReason> {
        let asked = neighbour::discovery(frame, &packet).ok_or(DropReason::NeighbourDiscovery)?;
        if !self.plan.vips.has_address(asked.target) {
            return Err(DropReason::NeighbourIgnored);
        }
        Ok(Action::AnswerSolicitation(packet))
    }

    #[inline]
    fn towards_backend(&mut self, now_ms: u32, frame: &[u8], packet: &Packet) -> Result<Action, DropReason> {
        match (packet.protocol, packet.message) {
            (TCP | UDP, _) => {}
            (_, Message::Error) => {
                return self.related(now_ms, Side::Near, frame, packet).map(Action::Dispatch);
            }
            _ => return Err(DropReason::NoService),
        }
        let key = Key::of(packet, Side::Near);
        let client_mac = source_mac(frame);
        let live = self.live(now_ms, &key)?;
        let segment = packet.tcp_flags;
        let Some(entry) = live.and_then(|slot| self.table.get(slot)) else {
            return self.open(now_ms, packet, key, client_mac);
        };
        let state = &mut entry.value;
        if segment & (SYN | ACK) == SYN && closing(state.flags) {
            if let Some(slot) = live {
                self.table.remove(slot);
            }
            return self.open(now_ms, packet, key, client_mac);
        }
        let confirmed = if state.flags & ANSWERED != 0 && segment & (SYN | RST) == 0 { CONFIRMED } else { 0 };
        state.flags |= confirmed | closed_by(segment, FIN_FROM_CLIENT);
        state.client_mac = client_mac;
        entry.last_ms = now_ms;
        let backend = entry.value.backend;
        self.dispatch(backend)
    }

    /// Counts a frame for a backend and addresses it there.
    #[inline]
    fn dispatch(&mut self, backend: u16) -> Result<Action, DropReason> {
        let slot = self.plan.pool.slots.get(usize::from(backend)).ok_or(DropReason::NoBackend)?;
        if let Some(count) = self.counts.get_mut(usize::from(backend)) {
            count.frames += 1;
        }
        Ok(Action::Dispatch(slot.mac))
    }

    /// A packet of no live connection.
    fn open(
        &mut self,
        now_ms: u32,
        packet: &Packet,
        key: Key,
        client_mac: [u8; 6],
    ) -> Result<Action, DropReason> {
        if !self.plan.vips.serves(&key) {
            return Err(DropReason::NoService);
        }
        let hash = maglev::hash_words(packet.source, packet.destination, packet.ports, packet.protocol);
        let backend = self.plan.pool.pick(hash).ok_or(DropReason::NoBackend)?;
        let flags = closed_by(packet.tcp_flags, FIN_FROM_CLIENT);
        let state = State { client_mac, flags, backend, generation: self.plan.generation };
        let timeouts = self.plan.timeouts;
        let (slot, reclaimed) =
            self.table.insert_or_reclaim(key, state, now_ms, |entry| timeouts.expired(entry, now_ms));
        self.totals.expired += reclaimed as u64;
        slot.ok_or(DropReason::TableFull)?;
        self.totals.opened += 1;
        if let Some(count) = self.counts.get_mut(usize::from(backend)) {
            count.opened += 1;
        }
        self.dispatch(backend)
    }

    #[inline]
    fn towards_client(&mut self, now_ms: u32, frame: &[u8], packet: &Packet) -> Result<Action, DropReason> {
        match (packet.protocol, packet.message) {
            (TCP | UDP, _) => {}
            (_, Message::Error) => return self.related(now_ms, Side::Far, frame, packet).map(Action::Return),
            _ => return Err(DropReason::Untracked),
        }
        let key = Key::of(packet, Side::Far);
        let live = self.live(now_ms, &key)?;
        let entry = live.and_then(|slot| self.table.get(slot)).ok_or(DropReason::Untracked)?;
        let heard = if packet.protocol == TCP { ANSWERED } else { ANSWERED | CONFIRMED };
        entry.value.flags |= heard | closed_by(packet.tcp_flags, FIN_FROM_BACKEND);
        entry.last_ms = now_ms;
        Ok(Action::Return(entry.value.client_mac))
    }

    /// The MAC of the other end of the connection that an ICMP error quotes.
    fn related(
        &mut self,
        now_ms: u32,
        side: Side,
        frame: &[u8],
        packet: &Packet,
    ) -> Result<[u8; 6], DropReason> {
        let quoted = packet::quoted(frame, packet).ok_or(DropReason::IcmpUnrelated)?;
        if quoted.source != packet.destination {
            return Err(DropReason::IcmpUnrelated);
        }
        let key = Key::of_quoted(&quoted, packet.vlan, side);
        let slot = self.live(now_ms, &key)?.ok_or(DropReason::IcmpUnrelated)?;
        let state = self.table.get(slot).ok_or(DropReason::IcmpUnrelated)?.value;
        match side {
            Side::Far => Ok(state.client_mac),
            Side::Near => self
                .plan
                .pool
                .slots
                .get(usize::from(state.backend))
                .map(|s| s.mac)
                .ok_or(DropReason::NoBackend),
        }
    }

    /// The slot of a key's connection if it is neither expired nor (an error) revoked.
    #[inline]
    fn live(&mut self, now_ms: u32, key: &Key) -> Result<Option<u32>, DropReason> {
        let Some(slot) = self.table.find(key) else { return Ok(None) };
        let Some(entry) = self.table.get(slot) else { return Ok(None) };
        if self.plan.timeouts.expired(entry, now_ms) {
            self.table.remove(slot);
            self.totals.expired += 1;
            return Ok(None);
        }
        if entry.value.generation != self.plan.generation {
            self.check_again(slot)?;
        }
        Ok(Some(slot))
    }

    /// After a reconfiguration: is the service still there, and the backend? If only the latter is gone, another.
    #[cold]
    fn check_again(&mut self, slot: u32) -> Result<(), DropReason> {
        let Some(entry) = self.table.get(slot) else { return Err(DropReason::Revoked) };
        if !self.plan.vips.serves(&entry.key) {
            self.table.remove(slot);
            self.totals.revoked += 1;
            return Err(DropReason::Revoked);
        }
        let known = self.plan.pool.slots.get(usize::from(entry.value.backend));
        if !known.is_some_and(|s| s.alive && s.since <= entry.value.generation) {
            let (source, destination, ports) = entry.key.as_sent_from(Side::Near);
            let hash = maglev::hash_words(source, destination, ports, entry.key.protocol());
            entry.value.backend = self.plan.pool.pick(hash).ok_or(DropReason::NoBackend)?;
            self.totals.moved += 1;
        }
        entry.value.generation = self.plan.generation;
        Ok(())
    }

    /// Rewrites the frame; the port it leaves by and its length.
    #[inline]
    fn act(&mut self, action: &Action, frame: &mut [u8]) -> Option<(PortIndex, usize)> {
        match action {
            Action::Dispatch(mac) => {
                address(frame, *mac, self.plan.pair.far.mac).map(|n| (self.plan.pair.far.index, n))
            }
            Action::Return(mac) => {
                address(frame, *mac, self.plan.pair.near.mac).map(|n| (self.plan.pair.near.index, n))
            }
            Action::AnswerArp(at) => {
                self.totals.neighbour += 1;
                neighbour::answer_arp(frame, *at, self.plan.pair.near.mac)
                    .map(|n| (self.plan.pair.near.index, n))
            }
            Action::AnswerSolicitation(packet) => {
                self.totals.neighbour += 1;
                neighbour::answer_solicitation(frame, packet, self.plan.pair.near.mac)
                    .map(|n| (self.plan.pair.near.index, n))
            }
        }
    }
}

#[inline]
fn address(frame: &mut [u8], destination: [u8; 6], source: [u8; 6]) -> Option<usize> {
    let length = frame.len();
    let macs: &mut [u8; 12] = frame.first_chunk_mut()?;
    macs[..6].copy_from_slice(&destination);
    macs[6..].copy_from_slice(&source);
    Some(length)
}

#[inline]
fn source_mac(frame: &[u8]) -> [u8; 6] {
    frame.get(6..).and_then(|f| f.first_chunk()).copied().unwrap_or_default()
}

#[inline]
fn closed_by(segment: u8, fin: u8) -> u8 {
    (if segment & FIN != 0 { fin } else { 0 }) | (if segment & RST != 0 { RESET } else { 0 })
}

impl<F: Frame> PacketFunction<F> for Balancer {
    fn process(&mut self, now_us: u64, ingress: PortIndex, frame: &mut F) -> Verdict {
        let now_ms = self.clock.advance(now_us);
        let Some(side) = self.plan.pair.side(ingress) else {
            return self.drops.drop(DropReason::UnknownPort);
        };
        match self.decide(now_ms, side, frame.bytes()) {
            Ok(action) => match self.act(&action, frame.bytes_mut()) {
                Some((port, length)) if frame.resize(length) => Verdict::Forward { port },
                _ => self.drops.drop(DropReason::Truncated),
            },
            Err(reason) => self.drops.drop(reason),
        }
    }

    fn tick(&mut self, now_us: u64) {
        let now_ms = self.clock.advance(now_us);
        let timeouts = self.plan.timeouts;
        self.totals.expired += self.table.sweep(TICK_SLOTS, |entry| timeouts.expired(entry, now_ms)) as u64;
    }

    fn basis(&self) -> prepare::Basis {
        prepare::Basis(Kind::Balancer(Basis::of(self)))
    }

    fn swap(&mut self, prepared: Prepared) -> Result<Retired, ConfigError> {
        match prepared.0 {
            Kind::Balancer(next) => next.swap_into(self).map(|old| Retired(Prepared(Kind::Balancer(old)))),
            other => Err(common::prepared_for(other.name(), "load balancer")),
        }
    }

    fn announcement(&self, index: usize, buffer: &mut [u8]) -> Option<(PortIndex, u16)> {
        let address = self.plan.vips.addresses().get(index)?;
        let near = &self.plan.pair.near;
        let length = neighbour::announcement(buffer, near.mac, *address)?;
        Some((near.index, u16::try_from(length).ok()?))
    }

    fn snapshot(&self) -> Snapshot {
        let Totals { opened, expired, revoked, moved, neighbour } = self.totals;
        Snapshot {
            drops: self.drops.clone(),
            totals: vec![
                ("connections.opened", opened),
                ("connections.expired", expired),
                ("connections.revoked", revoked),
                ("connections.moved", moved),
                ("answer.neighbour", neighbour),
            ],
            named: Kind::Balancer(Counts::of(self)),
            connections: self.table.len() as u64,
        }
    }

    fn connections(&self) -> u64 {
        self.table.len() as u64
    }
}
