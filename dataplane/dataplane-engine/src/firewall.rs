//! The stateful firewall: transparent at layer 2 between `outside` and `inside`, default deny.
//!
//! A connection is opened by a packet that the rules allow; from then on its packets pass in both directions
//! without asking the rules again until a reconfiguration, after which its next packet is judged by the new rules
//! (by the way it was opened) and revoked if they no longer allow it. TCP opens with SYN only. ICMP echo is a
//! connection; ICMP errors pass if they quote a tracked one and go to its sender. ARP and valid neighbour discovery
//! pass. Everything else drops, each with its reason.
//!
//! A TCP connection closes with RST, or FIN from both sides, and ends [`TCP_CLOSING_MS`] later whatever is sent: from
//! then on no packet renews it. A SYN opens it again if the rules allow that. Until then the last segments of one that
//! was closed by FINs pass; of one that was reset only RSTs do.
//!
//! Simplifications: no fragment passes (see [`crate::packet`]); multicast other than neighbour discovery needs a rule
//! and its replies do not match; sequence numbers are not tracked, so who can spoof a connection's addresses and ports
//! can cut it with a RST, never keep it or open one.
//!
//! Tests: `tests/firewall.rs` compares with a naive model; `tests/chain.rs`.

mod plan;

use std::{marker::PhantomData, sync::Arc};

use dataplane_control::{
    Configuration,
    config::{ConfigError, Firewall as FirewallConfig, RuleAction},
};

pub(crate) use self::plan::{Basis, Counts, Next, Plan};

use crate::{
    DropReason, Frame, PacketFunction, PortIndex, Verdict,
    common::{self, Clock, Drops, TCP_CLOSING_MS, TCP_HALF_CLOSED_MS, TCP_HANDSHAKE_MS},
    events::Events,
    machine::Machine,
    neighbour,
    packet::{self, ACK, FIN, Message, Packet, Parsed, RST, SYN, TCP},
    prepare::{self, Kind, Prepared, Retired, Snapshot},
    rules::NewConnection,
    table::{Entry, Key, Side, Sought, TICK_SLOTS, Table, V4Key},
};

/// What a connection remembers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    /// Of the rule set that last allowed it.
    generation: u32,
    /// Index of the rule that did.
    rule: u32,
    flags: u8,
}

/// Frames that are handled together.
const BURST: usize = 64;

/// SYN-ACK came from the responder.
const ANSWERED: u8 = 1;
/// The initiator acknowledged it.
const ESTABLISHED: u8 = 2;
const FIN_FROM_INITIATOR: u8 = 4;
const FIN_FROM_RESPONDER: u8 = 8;
const FINS: u8 = FIN_FROM_INITIATOR | FIN_FROM_RESPONDER;
const RESET: u8 = 16;
/// The initiator is on the far side.
const FROM_FAR: u8 = 32;

impl State {
    fn initiator(self) -> Side {
        if self.flags & FROM_FAR == 0 { Side::Near } else { Side::Far }
    }

    fn closing(self) -> bool {
        self.flags & RESET != 0 || self.flags & FINS == FINS
    }
}

/// What a TCP segment does to its connection.
enum Step {
    Pass(u8),
    Reopen,
    Drop(DropReason),
}

#[derive(Debug, Clone, Copy)]
struct Timeouts {
    tcp_ms: u32,
    other_ms: u32,
}

impl Timeouts {
    fn of(config: &FirewallConfig) -> Self {
        Self { tcp_ms: common::idle_ms(config.tcp_idle_ms), other_ms: common::idle_ms(config.other_idle_ms) }
    }

    #[inline]
    fn expired(&self, entry: &Entry<State>, now_ms: u32) -> bool {
        now_ms.wrapping_sub(entry.last_ms) > self.lifetime_ms(entry)
    }

    #[inline]
    fn lifetime_ms(&self, entry: &Entry<State>) -> u32 {
        let state = entry.value;
        match () {
            () if entry.key.protocol() != TCP => self.other_ms,
            () if state.closing() => TCP_CLOSING_MS.min(self.tcp_ms),
            () if state.flags & ESTABLISHED == 0 => TCP_HANDSHAKE_MS.min(self.tcp_ms),
            () if state.flags & FINS != 0 => TCP_HALF_CLOSED_MS.min(self.tcp_ms),
            () => self.tcp_ms,
        }
    }
}

/// What a simple packet of an established connection is judged by.
#[derive(Clone, Copy)]
struct Known {
    now_ms: u32,
    timeouts: Timeouts,
    generation: u32,
}

impl Known {
    /// The rule of a connection that goes on, which is renewed; `None`: nothing was done, and there is more to see.
    #[inline]
    fn renew(&self, entry: &mut Entry<State>, protocol: u8) -> Option<u32> {
        const STEADY: u8 = ANSWERED | ESTABLISHED;
        let (lifetime_ms, steady) = match protocol {
            TCP => (self.timeouts.tcp_ms, entry.value.flags & !FROM_FAR == STEADY),
            _ => (self.timeouts.other_ms, true),
        };
        let idle_ms = self.now_ms.wrapping_sub(entry.last_ms);
        if !steady | (idle_ms > lifetime_ms) | (entry.value.generation != self.generation) {
            return None;
        }
        entry.last_ms = self.now_ms;
        Some(entry.value.rule)
    }
}

/// Counters beyond drops and rules.
#[derive(Debug, Default)]
struct Totals {
    opened: u64,
    expired: u64,
    revoked: u64,
    neighbour: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Firewall<M> {
    plan: Arc<Plan>,
    /// Frames each rule allowed (of its connections, both directions) or denied.
    hits: Vec<u64>,
    table: Table<State>,
    clock: Clock,
    drops: Drops,
    totals: Totals,
    events: Events,
    machine: PhantomData<M>,
}

impl<M: Machine> Firewall<M> {
    pub(crate) fn new(c: &Configuration, config: &FirewallConfig, seed: u64) -> Result<Self, ConfigError> {
        let plan = Plan::new(c, config, 0)?;
        Ok(Self {
            hits: vec![0; plan.rules()],
            table: plan.table(seed)?,
            plan: Arc::new(plan),
            clock: Clock::default(),
            drops: Drops::default(),
            totals: Totals::default(),
            events: Events::default(),
            machine: PhantomData,
        })
    }

    /// A burst in stages, so that what one frame waits for from memory the others wait for, too: all headers; where all
    /// connections are; then, in their order, what each frame does. What is not of an established connection, or not simple, goes
    /// the way of a single frame: whatever the frames before it changed, it finds.
    #[inline]
    fn stages<F: Frame>(&mut self, now_ms: u32, side: Side, frames: &mut [F], verdicts: &mut [Verdict]) {
        let mut all = [Sought::default(); BURST];
        for (frame, sought) in frames.iter().zip(&mut all) {
            let Some(simple) = packet::simple(frame.bytes()) else { continue };
            let key = V4Key::of(simple.addresses, simple.ports, simple.protocol, side);
            *sought = self.table.seek::<M>(key);
        }
        let mut slots = [u32::MAX; BURST];
        for ((_, sought), slot) in frames.iter().zip(&all).zip(&mut slots) {
            *slot = self.table.candidate::<M>(sought);
        }
        let known = Known { now_ms, timeouts: self.plan.timeouts, generation: self.plan.generation };
        let forward = self.plan.pair.on(side.other()).index;
        for (((frame, verdict), sought), slot) in frames.iter_mut().zip(verdicts).zip(&all).zip(slots) {
            let rule = self.table.found(slot, sought).and_then(|entry| known.renew(entry, sought.protocol));
            *verdict = match rule {
                Some(rule) => {
                    self.count_rule(rule);
                    Verdict::Forward { port: forward }
                }
                None => self.one(now_ms, side, frame.bytes()),
            };
        }
    }

    #[inline(never)]
    fn one(&mut self, now_ms: u32, side: Side, frame: &[u8]) -> Verdict {
        match self.decide(now_ms, side, frame) {
            Ok(()) => Verdict::Forward { port: self.plan.pair.on(side.other()).index },
            Err(reason) => self.drops.drop(reason),
        }
    }

    #[inline]
    fn decide(&mut self, now_ms: u32, side: Side, frame: &[u8]) -> Result<(), DropReason> {
        match packet::parse(frame)? {
            Parsed::Ip(packet) => self.ip(now_ms, side, &packet, frame),
            Parsed::Arp(at) => {
                neighbour::arp(frame, at).ok_or(DropReason::Arp)?;
                self.totals.neighbour += 1;
                Ok(())
            }
        }
    }

    #[inline]
    fn ip(&mut self, now_ms: u32, side: Side, packet: &Packet, frame: &[u8]) -> Result<(), DropReason> {
        match packet.message {
            Message::None | Message::EchoRequest | Message::EchoReply => {
                self.connection(now_ms, side, packet)
            }
            Message::Error => self.related(now_ms, side, packet, frame),
            Message::NeighbourSolicitation | Message::NeighbourAdvertisement => {
                neighbour::discovery(frame, packet).ok_or(DropReason::NeighbourDiscovery)?;
                self.totals.neighbour += 1;
                Ok(())
            }
            Message::Other => Err(DropReason::IcmpType),
        }
    }

    #[inline]
    fn connection(&mut self, now_ms: u32, side: Side, packet: &Packet) -> Result<(), DropReason> {
        let key = Key::of(packet, side);
        let Some(slot) = self.live(now_ms, &key)? else { return self.open(now_ms, side, packet, key, None) };
        let Some(entry) = self.table.get(slot) else { return Err(DropReason::Untracked) };
        let closing = entry.value.closing();
        if packet.protocol == TCP {
            match tcp_step(entry.value.flags, side == entry.value.initiator(), packet.tcp_flags) {
                Step::Pass(flags) => entry.value.flags = flags,
                Step::Reopen => return self.open(now_ms, side, packet, key, Some(slot)),
                Step::Drop(reason) => return Err(reason),
            }
        }
        // The segment that closes is the last one to renew.
        if !closing {
            entry.last_ms = now_ms;
        }
        if let Some(hits) = self.hits.get_mut(entry.value.rule as usize) {
            *hits += 1;
        }
        Ok(())
    }

    /// The slot of a key's connection if it is neither expired nor (an error) revoked.
    #[inline]
    fn live(&mut self, now_ms: u32, key: &Key) -> Result<Option<u32>, DropReason> {
        let Some(slot) = self.table.find(key) else { return Ok(None) };
        let Some(entry) = self.table.get(slot) else { return Ok(None) };
        if self.plan.timeouts.expired(entry, now_ms) {
            over(&mut self.events, entry);
            self.table.remove(slot);
            self.totals.expired += 1;
            return Ok(None);
        }
        if entry.value.generation != self.plan.generation {
            self.judge_again(slot)?;
        }
        Ok(Some(slot))
    }

    /// After a reconfiguration: by the new rules, as the connection was opened.
    #[cold]
    fn judge_again(&mut self, slot: u32) -> Result<(), DropReason> {
        let Some(entry) = self.table.get(slot) else { return Err(DropReason::Revoked) };
        let again = NewConnection::tracked(entry.key);
        if let Some(rule) = self.plan.rules.decide(&again, entry.value.initiator()).allowed_by() {
            entry.value.rule = rule;
            entry.value.generation = self.plan.generation;
            return Ok(());
        }
        over(&mut self.events, entry);
        self.table.remove(slot);
        self.totals.revoked += 1;
        Err(DropReason::Revoked)
    }

    /// A packet of no live connection: the rules decide. `replaced` is the closed connection of the same key, if any.
    fn open(
        &mut self,
        now_ms: u32,
        side: Side,
        packet: &Packet,
        key: Key,
        replaced: Option<u32>,
    ) -> Result<(), DropReason> {
        if packet.protocol == TCP && packet.tcp_flags & (SYN | ACK) != SYN {
            return Err(DropReason::TcpNotSyn);
        }
        if packet.message == Message::EchoReply {
            return Err(DropReason::Untracked);
        }
        let decision = self.plan.rules.decide(&NewConnection::of(packet, key), side);
        let Some(rule) = decision.rule() else { return Err(DropReason::NoRule) };
        if decision.action() != RuleAction::Allow {
            self.count_rule(rule);
            return Err(DropReason::Denied);
        }
        let flags = if side == Side::Far { FROM_FAR } else { 0 };
        let state = State { generation: self.plan.generation, rule, flags };
        if let Some(slot) = replaced {
            self.table.get(slot).map(|entry| over(&mut self.events, entry));
            self.table.remove(slot);
        }
        let timeouts = self.plan.timeouts;
        let (slot, reclaimed) = self.table.insert_or_reclaim(key, state, now_ms, |entry| {
            timeouts.expired(entry, now_ms) && over(&mut self.events, entry)
        });
        self.totals.expired += reclaimed as u64;
        slot.ok_or(DropReason::TableFull)?;
        self.totals.opened += 1;
        self.events.opened(now_ms, &key, side, rule);
        self.count_rule(rule);
        Ok(())
    }

    #[inline]
    fn count_rule(&mut self, rule: u32) {
        if let Some(hits) = self.hits.get_mut(rule as usize) {
            *hits += 1;
        }
    }

    /// An ICMP error passes if it quotes a packet of a tracked connection and goes to that packet's sender.
    fn related(&mut self, now_ms: u32, side: Side, packet: &Packet, frame: &[u8]) -> Result<(), DropReason> {
        let quoted = packet::quoted(frame, packet).ok_or(DropReason::IcmpUnrelated)?;
        if quoted.source != packet.destination {
            return Err(DropReason::IcmpUnrelated);
        }
        let key = Key::of_quoted(&quoted, packet.vlan, side);
        let slot = self.live(now_ms, &key)?.ok_or(DropReason::IcmpUnrelated)?;
        let state = self.table.get(slot).ok_or(DropReason::IcmpUnrelated)?.value;
        if state.flags & RESET != 0 {
            return Err(DropReason::TcpReset);
        }
        self.count_rule(state.rule);
        Ok(())
    }
}

/// The end of a connection, which was when its last packet came; always true.
fn over(events: &mut Events, entry: &Entry<State>) -> bool {
    events.closed(entry.last_ms, &entry.key, entry.value.initiator(), entry.value.rule);
    true
}

/// RFC 9293 reduced to what a filter needs: who may send what before the handshake is over, and what closes.
#[inline]
fn tcp_step(flags: u8, from_initiator: bool, segment: u8) -> Step {
    let state = State { generation: 0, rule: 0, flags };
    match segment & (SYN | ACK | RST) {
        SYN if state.closing() => Step::Reopen,
        s if s & RST != 0 => Step::Pass(flags | RESET),
        _ if flags & RESET != 0 => Step::Drop(DropReason::TcpReset),
        SYN if from_initiator => Step::Pass(flags),
        s if s & SYN != 0 && s & ACK != 0 && !from_initiator => Step::Pass(flags | ANSWERED),
        s if s & SYN != 0 => Step::Drop(DropReason::TcpState),
        _ if flags & ANSWERED == 0 && from_initiator => Step::Drop(DropReason::TcpState),
        // A challenge acknowledgement (RFC 5961 §4.2) to a SYN: passes, changes nothing.
        _ if flags & ANSWERED == 0 => Step::Pass(flags),
        _ => {
            let fin = match (segment & FIN != 0, from_initiator) {
                (true, true) => FIN_FROM_INITIATOR,
                (true, false) => FIN_FROM_RESPONDER,
                _ => 0,
            };
            Step::Pass(flags | fin | if from_initiator { ESTABLISHED } else { 0 })
        }
    }
}

impl<M: Machine, F: Frame> PacketFunction<F> for Firewall<M> {
    fn process(&mut self, now_us: u64, ingress: PortIndex, frame: &mut F) -> Verdict {
        let now_ms = self.clock.advance(now_us);
        let Some(side) = self.plan.pair.side(ingress) else {
            return self.drops.drop(DropReason::UnknownPort);
        };
        self.one(now_ms, side, frame.bytes())
    }

    fn burst(&mut self, now_us: u64, ingress: PortIndex, frames: &mut [F], verdicts: &mut [Verdict]) {
        let now_ms = self.clock.advance(now_us);
        let Some(side) = self.plan.pair.side(ingress) else {
            frames.iter().zip(verdicts).for_each(|(_, v)| *v = self.drops.drop(DropReason::UnknownPort));
            return;
        };
        for (frames, verdicts) in frames.chunks_mut(BURST).zip(verdicts.chunks_mut(BURST)) {
            self.stages(now_ms, side, frames, verdicts);
        }
    }

    fn tick(&mut self, now_us: u64) {
        let now_ms = self.clock.advance(now_us);
        let timeouts = self.plan.timeouts;
        self.totals.expired += self
            .table
            .sweep(TICK_SLOTS, |entry| timeouts.expired(entry, now_ms) && over(&mut self.events, entry))
            as u64;
    }

    fn basis(&self) -> prepare::Basis {
        prepare::Basis(Kind::Firewall(Basis::of(self)))
    }

    fn swap(&mut self, prepared: Prepared) -> Result<Retired, ConfigError> {
        match prepared.0 {
            Kind::Firewall(next) => next.swap_into(self).map(|old| Retired(Prepared(Kind::Firewall(old)))),
            other => Err(common::prepared_for(other.name(), "firewall")),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let Totals { opened, expired, revoked, neighbour } = self.totals;
        Snapshot {
            drops: self.drops.clone(),
            totals: vec![
                ("connections.opened", opened),
                ("connections.expired", expired),
                ("connections.revoked", revoked),
                ("pass.neighbour", neighbour),
            ],
            named: Kind::Firewall(Counts::of(self)),
            connections: self.table.len() as u64,
        }
    }

    fn connections(&self) -> u64 {
        self.table.len() as u64
    }

    fn events(&mut self) -> Option<&mut Events> {
        Some(&mut self.events)
    }
}
