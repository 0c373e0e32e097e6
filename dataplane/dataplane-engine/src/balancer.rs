//! The load balancer: Maglev over weighted backends; each service goes to them in its mode (`dataplane_control::config::Mode`).
//!
//! - `l2`: only the MAC addresses change, so backends carry the VIPs themselves and answer through us; their replies go to the
//!   client's MAC as learnt from the connection.
//! - `nat`: VIP and port become the backend's, and back again in replies (`nat.rs`). A reply's service is known by the
//!   port that it comes from, so one entry serves both directions.
//! - `ipip`, `gue`: in another packet to the backend (`tunnel.rs`), which answers the client itself or through us.
//!
//! A tracked connection keeps its backend across
//! reconfigurations for as long as the backend is configured and healthy; then it is given to another. A connection whose VIP is
//! gone is revoked. ARP requests and neighbour solicitations for VIPs are answered on the client port only, those for our own
//! addresses on the backend port; where VIPs
//! are is told unasked when the orchestrator says so ([`crate::PacketFunction::announcement`]). ICMP
//! errors about a tracked connection are carried along in either direction, translated as the connection is. What is too long for a
//! backend's path, or at its last hop, is answered with an ICMP error (`icmp.rs`), at a bounded rate.
//!
//! A packet of no tracked connection is dispatched whatever its TCP flags: consistent hashing then finds its backend
//! again after a restart. Since anybody can send such a packet, it never makes a connection that lasts: until it is
//! confirmed, a connection is forgotten after [`UNCONFIRMED_MS`]. UDP is confirmed by a packet from the backend, TCP by
//! one that the client sends after that, because a backend answers anybody's SYN. Behind a tunnel backends may answer past us: there the
//! client's second packet confirms, but for a SYN or RST.
//!
//! A standby may be told of connections (`standby.rs`), which then go to the same backends there, whatever Maglev says.
//!
//! A datagram to a QUIC service goes to the backend that its connection id names (`quic.rs`), wherever its flow went before.
//!
//! Tests: `tests/standby.rs`; `tests/balancer.rs` compares with a naive model; `tests/balancer_modes.rs` goes case by case; `tests/chain.rs`; golden ARP and ND replies.

mod burst;
mod icmp;
mod nat;
mod plan;
mod quic;
mod standby;
mod tunnel;

use std::{marker::PhantomData, sync::Arc};

use dataplane_control::{
    Configuration,
    config::{ConfigError, Mode},
    sync::Told,
};

pub(crate) use self::plan::{Basis, Count, Counts, Next, Plan};

use self::{
    icmp::PathMtu,
    nat::{Becomes, End},
};
use crate::{
    DropReason, Frame, PacketFunction, PortIndex, Verdict,
    ages::Age,
    common::{self, Clock, Drops, TCP_CLOSING_MS, TCP_HALF_CLOSED_MS, UNCONFIRMED_MS},
    events::{Events, Happened, Ring},
    key::{Key, Side},
    machine::Machine,
    maglev, neighbour,
    packet::{self, ACK, FIN, Message, Packet, Parsed, Quoted, RST, SYN, TCP, UDP},
    prepare::{self, Kind, Prepared, Retired, Snapshot},
    table::{Entry, Judged, TICK_SLOTS, Table},
};

/// What a connection remembers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    client_mac: [u8; 6],
    flags: u8,
    marks: u8,
    /// Index into the pool's slots.
    backend: u16,
    /// Number of its service.
    service: u16,
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
/// The backend may never be heard.
const DIRECT: u8 = 32;
/// Its connection ids are to be read.
const QUIC: u8 = 64;
/// In another mode than `l2`.
const CARRIED: u8 = 128;

/// Of the marks: it is in the sample that flow events are kept of.
const SAMPLED: u8 = 1;

/// Where connections that are not confirmed wait: those that were closed are given up first.
const CLOSED: Age = Age::Queue(0);
const UNCONFIRMED: Age = Age::Queue(1);

/// Connections looked at for one that is over, or not confirmed, when the table is full.
const RECLAIM: usize = 64;

fn closing(flags: u8) -> bool {
    flags & RESET != 0 || flags & FINS == FINS
}

/// All that will be heard of its end was.
fn half_closed(flags: u8) -> bool {
    flags & (DIRECT | FIN_FROM_CLIENT) == DIRECT | FIN_FROM_CLIENT
}

#[derive(Debug, Clone, Copy)]
struct Timeouts {
    idle_ms: u32,
}

impl Timeouts {
    #[inline]
    fn lifetime_ms(self, flags: u8) -> u32 {
        match () {
            () if closing(flags) => TCP_CLOSING_MS.min(self.idle_ms),
            () if flags & CONFIRMED == 0 => UNCONFIRMED_MS.min(self.idle_ms),
            () if half_closed(flags) => TCP_HALF_CLOSED_MS.min(self.idle_ms),
            () => self.idle_ms,
        }
    }

    #[inline]
    fn expired(self, entry: &Entry<State>, now_ms: u32) -> bool {
        now_ms.wrapping_sub(entry.last_ms) > self.lifetime_ms(entry.value.flags)
    }

    /// When the connection is looked at next; one that is not confirmed may be given up for others.
    #[inline]
    fn age(self, entry: &Entry<State>) -> (Age, u32) {
        let flags = entry.value.flags;
        let age = match () {
            () if flags & CONFIRMED != 0 => Age::Wheel,
            () if closing(flags) => CLOSED,
            () => UNCONFIRMED,
        };
        (age, entry.last_ms.wrapping_add(self.lifetime_ms(flags)))
    }

    fn judge(self, entry: &Entry<State>, now_ms: u32) -> Judged {
        if self.expired(entry, now_ms) {
            return Judged::Over;
        }
        let (age, due_ms) = self.age(entry);
        Judged::Waits(age, due_ms)
    }
}

#[derive(Debug, Default)]
struct Totals {
    opened: u64,
    expired: u64,
    evicted: u64,
    revoked: u64,
    moved: u64,
    named: u64,
    neighbour: u64,
    too_big: u64,
    time_exceeded: u64,
    path_mtu: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Balancer<M> {
    plan: Arc<Plan>,
    /// By the pool's slots.
    counts: Vec<Count>,
    path_mtus: Vec<PathMtu>,
    /// By the services' numbers.
    vip_counts: Vec<Count>,
    table: Table<State>,
    clock: Clock,
    drops: Drops,
    totals: Totals,
    events: Events,
    walk: standby::Walk,
    synced: standby::Totals,
    errors: icmp::Limit,
    /// Not there while it is in use.
    scratch: Option<Box<burst::Scratch>>,
    machine: PhantomData<M>,
}

/// What to do with a frame, before it is done.
enum Action {
    /// As it is, out by this side to this MAC.
    Address(Side, [u8; 6]),
    /// To a backend, in its service's mode.
    Carry(Carried),
    /// A NAT reply, to a client.
    Return(Returned),
    AnswerArp(Side, usize),
    AnswerSolicitation(Side, Packet),
}

/// A packet to a backend.
struct Carried {
    packet: Packet,
    /// Where the transport of the packet begins that this ICMP error quotes; 0: it is none.
    quoted: usize,
    service: u16,
    backend: u16,
    /// Of the flow.
    hash: u64,
}

/// A packet to a client that is to come from the service.
struct Returned {
    packet: Packet,
    /// As in [`Carried`].
    quoted: usize,
    client_mac: [u8; 6],
    service: Becomes,
}

impl<M: Machine> Balancer<M> {
    pub(crate) fn new(c: &Configuration, seed: u64) -> Result<Self, ConfigError> {
        let plan = Plan::new(Arc::new(c.clone()), &[], &std::collections::BTreeSet::new(), 0)?;
        Ok(Self {
            counts: vec![Count::default(); plan.pool.slots.len()],
            path_mtus: vec![PathMtu::default(); plan.pool.slots.len()],
            vip_counts: vec![Count::default(); plan.vips.len()],
            table: plan.table(seed)?,
            plan: Arc::new(plan),
            clock: Clock::default(),
            drops: Drops::default(),
            totals: Totals::default(),
            events: Events::default(),
            walk: standby::Walk::default(),
            synced: standby::Totals::default(),
            errors: icmp::Limit::default(),
            scratch: Some(burst::Scratch::new()),
            machine: PhantomData,
        })
    }

    #[inline(never)]
    fn one<F: Frame>(&mut self, now_ms: u32, side: Side, frame: &mut F) -> Verdict {
        let decided = self.decide(now_ms, side, frame.bytes());
        match decided.and_then(|action| self.act(now_ms, &action, frame)) {
            Ok(port) => Verdict::Forward { port },
            Err(reason) => self.drops.drop(reason),
        }
    }

    #[inline]
    fn decide(&mut self, now_ms: u32, side: Side, frame: &[u8]) -> Result<Action, DropReason> {
        let parsed = packet::parse(frame)?;
        let ours = frame.starts_with(&self.plan.pair.on(side).mac);
        let group = frame.first().is_some_and(|b| b & 1 != 0);
        match (parsed, side) {
            (Parsed::Arp(at), side) if self.answers(side) && (ours || group) => self.arp(side, frame, at),
            (Parsed::Arp(_), Side::Far) => Err(DropReason::NeighbourIgnored),
            (Parsed::Ip(packet), side)
                if packet.message == Message::NeighbourSolicitation
                    && self.answers(side)
                    && (ours || group) =>
            {
                self.solicitation(side, frame, packet)
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
            (Parsed::Arp(_), Side::Near) => Err(DropReason::NotOurs),
        }
    }

    /// Whether there is anything to be asked for on a side.
    fn answers(&self, side: Side) -> bool {
        side == Side::Near || !self.plan.own.is_empty()
    }

    fn is_here(&self, side: Side, address: u128) -> bool {
        match side {
            Side::Near => self.plan.vips.has_address(address),
            Side::Far => self.plan.is_own(address),
        }
    }

    fn arp(&mut self, side: Side, frame: &[u8], at: usize) -> Result<Action, DropReason> {
        let arp = neighbour::arp(frame, at).ok_or(DropReason::Arp)?;
        let target = crate::hash::v4_bits(arp.target);
        if !arp.request || arp.sender == arp.target || !self.is_here(side, target) {
            return Err(DropReason::NeighbourIgnored);
        }
        Ok(Action::AnswerArp(side, at))
    }

    fn solicitation(&mut self, side: Side, frame: &[u8], packet: Packet) -> Result<Action, DropReason> {
        let asked = neighbour::discovery(frame, &packet).ok_or(DropReason::NeighbourDiscovery)?;
        if !self.is_here(side, asked.target) {
            return Err(DropReason::NeighbourIgnored);
        }
        Ok(Action::AnswerSolicitation(side, packet))
    }

    #[inline]
    fn towards_backend(&mut self, now_ms: u32, frame: &[u8], packet: &Packet) -> Result<Action, DropReason> {
        match (packet.protocol, packet.message) {
            (TCP | UDP, _) => {}
            (_, Message::Error) => return self.error_to_backend(now_ms, frame, packet),
            _ => return Err(DropReason::NoService),
        }
        let key = Key::of(packet, Side::Near);
        let client_mac = source_mac(frame);
        let live = self.live(now_ms, &key)?;
        let segment = packet.tcp_flags;
        let Some(entry) = live.and_then(|slot| self.table.get(slot)) else {
            return self.open(now_ms, packet, frame, key);
        };
        let flags = entry.value.flags;
        if segment & (SYN | ACK) == SYN && (closing(flags) || half_closed(flags)) {
            if let Some(slot) = live {
                self.forget(slot);
            }
            return self.open(now_ms, packet, frame, key);
        }
        let known = flags & (ANSWERED | DIRECT) != 0 && segment & (SYN | RST) == 0;
        let confirmed = if known { CONFIRMED } else { 0 };
        let state = &mut entry.value;
        state.flags |= confirmed | closed_by(segment, FIN_FROM_CLIENT);
        state.client_mac = client_mac;
        entry.last_ms = now_ms;
        let State { service, backend, .. } = entry.value;
        if let Some(slot) = live {
            self.wait(now_ms, slot, flags);
        }
        let named = self.named(service, frame, packet).filter(|named| *named != backend);
        if let (Some(named), Some(entry)) = (named, live.and_then(|slot| self.table.get(slot))) {
            entry.value.backend = named;
            self.totals.named += 1;
        }
        self.dispatch(packet, service, named.unwrap_or(backend))
    }

    /// The backend that a datagram's connection id names.
    #[inline]
    fn named(&self, service: u16, frame: &[u8], packet: &Packet) -> Option<u16> {
        let quic = self.plan.vips.get(service)?.quic;
        if !quic.are_read() {
            return None;
        }
        let datagram = frame.get(packet.l4 + packet::UDP_HEADER..packet.end)?;
        self.plan.pool.numbered(quic.server(datagram)?)
    }

    /// Counts a frame for a backend and addresses it there.
    #[inline]
    fn dispatch(&mut self, packet: &Packet, service: u16, backend: u16) -> Result<Action, DropReason> {
        let mode = self.plan.vips.get(service).ok_or(DropReason::NoService)?.mode;
        let slot = self.plan.pool.slots.get(usize::from(backend)).ok_or(DropReason::NoBackend)?;
        let action = match mode {
            Mode::L2 => Action::Address(Side::Far, slot.mac),
            _ => {
                let hash =
                    maglev::hash_words(packet.source, packet.destination, packet.ports, packet.protocol);
                Action::Carry(Carried { packet: *packet, quoted: 0, service, backend, hash })
            }
        };
        self.count(service, backend);
        Ok(action)
    }

    #[inline]
    fn count(&mut self, service: u16, backend: u16) {
        if let Some(count) = self.counts.get_mut(usize::from(backend)) {
            count.frames += 1;
        }
        if let Some(count) = self.vip_counts.get_mut(usize::from(service)) {
            count.frames += 1;
        }
    }

    /// A packet of no live connection.
    fn open(&mut self, now_ms: u32, packet: &Packet, frame: &[u8], key: Key) -> Result<Action, DropReason> {
        let number = self.plan.vips.find(&key).ok_or(DropReason::NoService)?;
        let service = self.plan.vips.get(number).ok_or(DropReason::NoService)?;
        let named = self.named(number, frame, packet);
        let hash = || service.hash(packet.source, packet.destination, packet.ports, packet.protocol);
        let backend = named.or_else(|| self.plan.pool.pick(hash())).ok_or(DropReason::NoBackend)?;
        let flags = kind(service) | closed_by(packet.tcp_flags, FIN_FROM_CLIENT);
        let generation = self.plan.generation;
        let sampled = self.events.sampled(&key);
        let marks = if sampled { SAMPLED } else { 0 };
        let client_mac = source_mac(frame);
        let state = State { client_mac, flags, marks, backend, service: number, generation };
        if self.table.is_full() {
            self.make_room(now_ms);
        }
        let age = if closing(flags) { CLOSED } else { UNCONFIRMED };
        let age = (age, now_ms.wrapping_add(self.plan.timeouts.lifetime_ms(flags)));
        self.table.insert(key, state, now_ms, age).ok_or(DropReason::TableFull)?;
        self.totals.opened += 1;
        if sampled {
            let chosen = self.plan.pool.configured(backend, generation);
            self.events.happened(Happened::Opened, now_ms, &key, Side::Near, chosen);
        }
        self.totals.named += u64::from(named.is_some());
        if let Some(count) = self.counts.get_mut(usize::from(backend)) {
            count.opened += 1;
        }
        if let Some(count) = self.vip_counts.get_mut(usize::from(number)) {
            count.opened += 1;
        }
        self.dispatch(packet, number, backend)
    }

    /// A connection that is over, or else the oldest that is not confirmed, makes room for another.
    #[cold]
    fn make_room(&mut self, now_ms: u32) {
        self.look(now_ms, RECLAIM);
        for _ in 0..RECLAIM {
            let Some(slot) = self.table.oldest().filter(|_| self.table.is_full()) else { return };
            let Some(entry) = self.table.get(slot) else { return };
            if entry.value.flags & CONFIRMED == 0 {
                self.forget(slot);
                self.totals.evicted += 1;
                return;
            }
            // Confirmed since.
            let age = self.plan.timeouts.age(entry);
            self.table.wait(slot, age, now_ms);
        }
    }

    /// Looks at connections whose time has come.
    #[inline]
    fn look(&mut self, now_ms: u32, budget: usize) {
        let Self { table, events, plan, .. } = self;
        let ended = table.look::<M>(now_ms, budget, |entry| {
            let judged = plan.timeouts.judge(entry, now_ms);
            if matches!(judged, Judged::Over) {
                over(plan, events, entry);
            }
            judged
        });
        self.totals.expired += ended as u64;
    }

    /// Every connection goes this way, or as [`over`] is told otherwise.
    fn forget(&mut self, slot: u32) {
        if let Some(entry) = self.table.get(slot) {
            over(&self.plan, &mut self.events, entry);
        }
        self.table.remove(slot);
    }

    /// If a connection's flags are no more what they were: it is looked at when they say.
    #[inline]
    fn wait(&mut self, now_ms: u32, slot: u32, before: u8) {
        if let Some(entry) = self.table.get(slot).filter(|entry| entry.value.flags != before) {
            let age = self.plan.timeouts.age(entry);
            self.table.wait(slot, age, now_ms);
        }
    }

    #[inline]
    fn towards_client(&mut self, now_ms: u32, frame: &[u8], packet: &Packet) -> Result<Action, DropReason> {
        match (packet.protocol, packet.message) {
            (TCP | UDP, _) => {}
            (_, Message::Error) if self.plan.is_own(packet.destination) => {
                return Err(self.error_in_tunnel(now_ms, frame, packet));
            }
            (_, Message::Error) => return self.error_to_client(now_ms, frame, packet),
            _ => return Err(DropReason::Untracked),
        }
        let translated = self.plan.vips.untranslated(packet);
        let (seen, service) = match &translated {
            Some((seen, service)) => (seen, Some(Becomes { address: service.address, port: service.port })),
            None => (packet, None),
        };
        let key = Key::of(seen, Side::Far);
        let slot = self.live(now_ms, &key)?.ok_or(DropReason::Untracked)?;
        let state = self.table.get(slot).ok_or(DropReason::Untracked)?.value;
        if !self.comes_from(&state, packet.source, packet.v6, service.is_some()) {
            return Err(DropReason::Untracked);
        }
        let entry = self.table.get(slot).ok_or(DropReason::Untracked)?;
        let heard = if packet.protocol == TCP { ANSWERED } else { ANSWERED | CONFIRMED };
        let flags = entry.value.flags;
        entry.value.flags |= heard | closed_by(packet.tcp_flags, FIN_FROM_BACKEND);
        entry.last_ms = now_ms;
        let client_mac = entry.value.client_mac;
        self.wait(now_ms, slot, flags);
        Ok(match service {
            Some(service) => Action::Return(Returned { packet: *packet, quoted: 0, client_mac, service }),
            None => Action::Address(Side::Near, client_mac),
        })
    }

    /// Whether this is the address that a connection's backend has on the far side.
    #[inline]
    fn comes_from(&self, state: &State, address: u128, v6: bool, translated: bool) -> bool {
        let nat = self.plan.vips.get(state.service).is_some_and(|s| s.mode == Mode::Nat);
        let slot = || self.plan.pool.slots.get(usize::from(state.backend));
        nat == translated && (!nat || slot().is_some_and(|s| s.address(v6) == address))
    }

    /// The connection that an ICMP error is about.
    fn related(&mut self, now_ms: u32, key: &Key) -> Result<State, DropReason> {
        let slot = self.live(now_ms, key)?.ok_or(DropReason::IcmpUnrelated)?;
        Ok(self.table.get(slot).ok_or(DropReason::IcmpUnrelated)?.value)
    }

    /// An error about a reply.
    fn error_to_backend(&mut self, now_ms: u32, frame: &[u8], packet: &Packet) -> Result<Action, DropReason> {
        let quoted = quoted(frame, packet)?;
        let state = self.related(now_ms, &Key::of_quoted(&quoted, packet.vlan, Side::Near))?;
        let State { service, backend, .. } = state;
        let mode = self.plan.vips.get(service).ok_or(DropReason::IcmpUnrelated)?.mode;
        let slot = self.plan.pool.slots.get(usize::from(backend)).ok_or(DropReason::NoBackend)?;
        if mode == Mode::L2 {
            return Ok(Action::Address(Side::Far, slot.mac));
        }
        let (source, destination) = (quoted.destination, quoted.source);
        let hash = maglev::hash_words(source, destination, quoted.ports.rotate_left(16), quoted.protocol);
        Ok(Action::Carry(Carried { packet: *packet, quoted: quoted.l4, service, backend, hash }))
    }

    /// An error about a packet that a backend was given.
    fn error_to_client(&mut self, now_ms: u32, frame: &[u8], packet: &Packet) -> Result<Action, DropReason> {
        let quoted = quoted(frame, packet)?;
        // The quoted packet went the other way: seen from its end it is a reply.
        let reply = Packet {
            source: quoted.destination,
            destination: quoted.source,
            ports: quoted.ports.rotate_left(16),
            protocol: quoted.protocol,
            ..*packet
        };
        let translated = self.plan.vips.untranslated(&reply);
        let service = translated.as_ref().map(|(_, s)| Becomes { address: s.address, port: s.port });
        let (destination, ports) = match &translated {
            Some((seen, _)) => (seen.source, seen.ports.rotate_left(16)),
            None => (quoted.destination, quoted.ports),
        };
        let seen = Quoted { destination, ports, ..quoted };
        let state = self.related(now_ms, &Key::of_quoted(&seen, packet.vlan, Side::Far))?;
        if !self.comes_from(&state, quoted.destination, packet.v6, service.is_some()) {
            return Err(DropReason::IcmpUnrelated);
        }
        let client_mac = state.client_mac;
        Ok(match service {
            Some(service) => {
                Action::Return(Returned { packet: *packet, quoted: quoted.l4, client_mac, service })
            }
            None => Action::Address(Side::Near, client_mac),
        })
    }

    /// An error about an outer packet (RFC 2003 §4): of the path's MTU the next long packet's sender is told; the rest ends here.
    #[cold]
    fn error_in_tunnel(&mut self, now_ms: u32, frame: &[u8], packet: &Packet) -> DropReason {
        let Ok(quoted) = quoted(frame, packet) else { return DropReason::IcmpUnrelated };
        if !matches!(quoted.protocol, tunnel::IPV4_IN_IP | tunnel::IPV6_IN_IP | UDP) {
            return DropReason::IcmpUnrelated;
        }
        let slots = self.plan.pool.slots.iter().zip(&mut self.path_mtus);
        let mut theirs = slots.filter(|(slot, _)| slot.ends_at(quoted.destination)).peekable();
        if theirs.peek().is_none() {
            return DropReason::IcmpUnrelated;
        }
        if let Some(mtu) = icmp::told_mtu(frame, packet) {
            self.totals.path_mtu += 1;
            theirs.for_each(|(_, path)| path.learn(mtu, now_ms));
        }
        DropReason::Consumed
    }

    /// The slot of a key's connection if it is neither expired nor (an error) revoked.
    #[inline]
    fn live(&mut self, now_ms: u32, key: &Key) -> Result<Option<u32>, DropReason> {
        let Some(slot) = self.table.find(key) else { return Ok(None) };
        let Some(entry) = self.table.get(slot) else { return Ok(None) };
        if self.plan.timeouts.expired(entry, now_ms) {
            self.forget(slot);
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
        let number = self.plan.vips.find(&entry.key);
        let Some((number, service)) = number.and_then(|n| Some((n, self.plan.vips.get(n)?))) else {
            self.forget(slot);
            self.totals.revoked += 1;
            return Err(DropReason::Revoked);
        };
        let known = self.plan.pool.slots.get(usize::from(entry.value.backend));
        if !known.is_some_and(|s| s.keeps(entry.value.generation)) {
            let (source, destination, ports) = entry.key.as_sent_from(Side::Near);
            let hash = service.hash(source, destination, ports, entry.key.protocol());
            entry.value.backend = self.plan.pool.pick(hash).ok_or(DropReason::NoBackend)?;
            self.totals.moved += 1;
        }
        entry.value.flags = entry.value.flags & !(DIRECT | QUIC | CARRIED) | kind(service);
        (entry.value.service, entry.value.generation) = (number, self.plan.generation);
        Ok(())
    }

    /// Rewrites the frame; the port it leaves by.
    #[inline]
    fn act<F: Frame>(
        &mut self,
        now_ms: u32,
        action: &Action,
        frame: &mut F,
    ) -> Result<PortIndex, DropReason> {
        let answered = |length: Option<usize>, frame: &mut F| {
            length.is_some_and(|n| frame.resize(n)).then_some(()).ok_or(DropReason::Truncated)
        };
        match action {
            Action::Address(side, mac) => self.address(frame.bytes_mut(), *side, *mac),
            Action::Carry(carried) => self.carry(now_ms, carried, frame),
            Action::Return(returned) => self.give_back(returned, frame),
            Action::AnswerArp(side, at) => {
                self.totals.neighbour += 1;
                let port = *self.plan.pair.on(*side);
                answered(neighbour::answer_arp(frame.bytes_mut(), *at, port.mac), frame)?;
                Ok(port.index)
            }
            Action::AnswerSolicitation(side, packet) => {
                self.totals.neighbour += 1;
                let port = *self.plan.pair.on(*side);
                answered(neighbour::answer_solicitation(frame.bytes_mut(), packet, port.mac), frame)?;
                Ok(port.index)
            }
        }
    }

    /// From our MAC on a side to another there.
    #[inline]
    fn address(&self, frame: &mut [u8], side: Side, to: [u8; 6]) -> Result<PortIndex, DropReason> {
        let from = self.plan.pair.on(side);
        let macs: &mut [u8; 12] = frame.first_chunk_mut().ok_or(DropReason::Truncated)?;
        macs[..6].copy_from_slice(&to);
        macs[6..].copy_from_slice(&from.mac);
        Ok(from.index)
    }

    /// A packet to a backend by NAT or a tunnel, or the error that it is answered with.
    #[inline]
    fn carry<F: Frame>(
        &mut self,
        now_ms: u32,
        carried: &Carried,
        frame: &mut F,
    ) -> Result<PortIndex, DropReason> {
        let Carried { packet, quoted, service, backend, hash } = carried;
        let service = self.plan.vips.get(*service).ok_or(DropReason::NoService)?;
        let slot = self.plan.pool.slots.get(usize::from(*backend)).ok_or(DropReason::NoBackend)?;
        let (mode, ends, mac) = (service.mode, slot.tunnel(packet.v6), slot.mac);
        let to = Becomes { address: slot.address(packet.v6), port: service.backend_port };
        let overhead = if mode.is_tunnel() { ends.overhead(mode) } else { 0 };
        let path = self.path_mtus.get(usize::from(*backend)).copied().unwrap_or_default();
        let room = usize::from(path.of(self.plan.mtu, now_ms)) - overhead;
        // An IPv6 sender is never told less (RFC 8201 §4).
        let room = if packet.v6 { room.max(usize::from(dataplane_control::config::MIN_MTU)) } else { room };
        if packet.end - packet.l3 > room {
            let room = u16::try_from(room).unwrap_or(u16::MAX);
            return self.refuse(now_ms, packet, icmp::Error::TooBig(room), frame);
        }
        if !nat::hop(frame.bytes_mut(), packet).ok_or(DropReason::Truncated)? {
            return self.refuse(now_ms, packet, icmp::Error::TimeExceeded, frame);
        }
        if mode == Mode::Nat {
            translate(frame.bytes_mut(), packet, *quoted, End::Destination, to)?;
        } else {
            if !frame.prepend(overhead) {
                return Err(DropReason::Headroom);
            }
            ends.wrap(frame.bytes_mut(), packet, mode, *hash).ok_or(DropReason::Truncated)?;
            if !frame.resize(packet.end + overhead) {
                return Err(DropReason::Truncated);
            }
            let ether_type = if ends.v6() { packet::IPV6 } else { packet::IPV4 };
            let place = frame.bytes_mut().get_mut(packet.l3 - 2..packet.l3).ok_or(DropReason::Truncated)?;
            place.copy_from_slice(&ether_type.to_be_bytes());
        }
        self.address(frame.bytes_mut(), Side::Far, mac)
    }

    /// A NAT reply to its client.
    #[inline]
    fn give_back<F: Frame>(&mut self, returned: &Returned, frame: &mut F) -> Result<PortIndex, DropReason> {
        let Returned { packet, quoted, client_mac, service } = returned;
        if !nat::hop(frame.bytes_mut(), packet).ok_or(DropReason::Truncated)? {
            return Err(DropReason::HopLimit);
        }
        translate(frame.bytes_mut(), packet, *quoted, End::Source, *service)?;
        self.address(frame.bytes_mut(), Side::Near, *client_mac)
    }

    /// Makes an error of a packet from a client, if one may be sent about it (RFC 1122 §3.2.2).
    #[cold]
    fn refuse<F: Frame>(
        &mut self,
        now_ms: u32,
        packet: &Packet,
        error: icmp::Error,
        frame: &mut F,
    ) -> Result<PortIndex, DropReason> {
        let (reason, total) = match error {
            icmp::Error::TooBig(_) => (DropReason::TooBig, &mut self.totals.too_big),
            icmp::Error::TimeExceeded => (DropReason::HopLimit, &mut self.totals.time_exceeded),
        };
        if packet.message != Message::None || !self.errors.take(now_ms) {
            return Err(reason);
        }
        if !(frame.resize(icmp::quoted(packet)) && frame.prepend(icmp::overhead(packet))) {
            return Err(DropReason::Headroom);
        }
        let near = self.plan.pair.near;
        icmp::answer(frame.bytes_mut(), packet, error, near.mac).ok_or(DropReason::Truncated)?;
        *total += 1;
        Ok(near.index)
    }
}

/// A connection is over, and was when its last packet came.
#[inline]
fn over(plan: &Plan, events: &mut Events, entry: &Entry<State>) {
    let State { marks, backend, generation, .. } = entry.value;
    if marks & SAMPLED != 0 {
        let chosen = plan.pool.configured(backend, generation);
        events.happened(Happened::Closed, entry.last_ms, &entry.key, Side::Near, chosen);
    }
}

/// The packet that an ICMP error quotes, if its sender is told of it.
fn quoted(frame: &[u8], packet: &Packet) -> Result<Quoted, DropReason> {
    let quoted = packet::quoted(frame, packet);
    quoted.filter(|q| q.source == packet.destination).ok_or(DropReason::IcmpUnrelated)
}

/// Translates a packet, or an error and the packet that it quotes.
fn translate(
    frame: &mut [u8],
    packet: &Packet,
    quoted: usize,
    end: End,
    to: Becomes,
) -> Result<(), DropReason> {
    let done = match quoted {
        0 => nat::packet(frame, packet, end, to),
        at => nat::error(frame, packet, at, end, to),
    };
    done.ok_or(DropReason::Truncated)
}

/// What its service makes of a connection.
fn kind(service: &plan::Service) -> u8 {
    let direct = if service.mode.is_tunnel() { DIRECT } else { 0 };
    let carried = if service.mode == Mode::L2 { 0 } else { CARRIED };
    direct | carried | if service.quic.are_read() { QUIC } else { 0 }
}

/// The lowest octet first.
#[inline]
fn mac_bits(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

#[inline]
fn source_mac(frame: &[u8]) -> [u8; 6] {
    frame.get(6..).and_then(|f| f.first_chunk()).copied().unwrap_or_default()
}

#[inline]
fn closed_by(segment: u8, fin: u8) -> u8 {
    (if segment & FIN != 0 { fin } else { 0 }) | (if segment & RST != 0 { RESET } else { 0 })
}

impl<M: Machine, F: Frame> PacketFunction<F> for Balancer<M> {
    fn process(&mut self, now_us: u64, ingress: PortIndex, frame: &mut F) -> Verdict {
        let now_ms = self.clock.advance(now_us);
        let Some(side) = self.plan.pair.side(ingress) else {
            return self.drops.drop(DropReason::UnknownPort);
        };
        self.look(now_ms, burst::BURST);
        self.one(now_ms, side, frame)
    }

    fn burst(&mut self, now_us: u64, ingress: PortIndex, frames: &mut [F], verdicts: &mut [Verdict]) {
        match self.plan.pair.side(ingress) {
            Some(side) => self.whole(now_us, side, frames, verdicts),
            None => self.drops.unknown_port(frames.len(), verdicts),
        }
    }

    fn tick(&mut self, now_us: u64) {
        let now_ms = self.clock.advance(now_us);
        self.look(now_ms, TICK_SLOTS);
        self.tell(now_ms);
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
        let vips = self.plan.vips.addresses();
        let (port, address) = match vips.get(index) {
            Some(address) => (&self.plan.pair.near, address),
            None => (&self.plan.pair.far, self.plan.own.get(index - vips.len())?),
        };
        let length = neighbour::announcement(buffer, port.mac, *address)?;
        Some((port.index, u16::try_from(length).ok()?))
    }

    fn snapshot(&self) -> Snapshot {
        let Totals {
            opened,
            expired,
            evicted,
            revoked,
            moved,
            named,
            neighbour,
            too_big,
            time_exceeded,
            path_mtu,
        } = self.totals;
        Snapshot {
            drops: self.drops.clone(),
            totals: vec![
                ("connections.opened", opened),
                ("connections.expired", expired),
                ("connections.evicted", evicted),
                ("connections.revoked", revoked),
                ("connections.moved", moved),
                ("connections.named", named),
                ("answer.neighbour", neighbour),
                ("answer.too_big", too_big),
                ("answer.time_exceeded", time_exceeded),
                ("path_mtu.learnt", path_mtu),
                ("sync.told", self.synced.told),
                ("sync.adopted", self.synced.adopted),
                ("sync.kept", self.synced.kept),
                ("sync.refused", self.synced.refused),
            ],
            named: Kind::Balancer(Counts::of(self)),
            connections: self.table.len() as u64,
            half_open: 0,
        }
    }

    fn connections(&self) -> u64 {
        self.table.len() as u64
    }

    fn events(&mut self) -> Option<&mut Events> {
        Some(&mut self.events)
    }

    fn sync(&mut self, index: usize) -> Option<&mut Ring<Told>> {
        (index == 0).then_some(&mut self.walk.ring)
    }

    fn adopt(&mut self, now_us: u64, index: usize, told: &[Told]) {
        if index == 0 {
            let now_ms = self.clock.advance(now_us);
            self.take_told(now_ms, told);
        }
    }
}
