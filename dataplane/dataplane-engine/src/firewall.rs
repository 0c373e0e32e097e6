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
//! What else may be configured (`firewall.tracking`): [`tcp`] windows, [`fragments`], [`limits`] of sources and rules, half-open connections and
//! what a SYN beyond them gets ([`syn`]), time-outs by [`state`], and what gives way when the table is full. A rule that rejects is
//! answered for ([`reply`]). All of it is on the way of single frames: an established connection that none of it concerns goes
//! by without looking at it.
//!
//! Multicast other than neighbour discovery needs a rule, and its replies do not match. Unless TCP is strict, who can spoof a
//! connection's addresses and ports can cut it with a RST, never keep it or open one.
//!
//! Tests: `tests/firewall.rs` compares with a naive model; `tests/guards.rs` has what must be configured; `tests/chain.rs`.

mod burst;
mod fragments;
mod guards;
mod limits;
mod plan;
mod reply;
mod state;
mod syn;
mod tcp;

use std::{marker::PhantomData, sync::Arc};

use dataplane_control::{
    Configuration,
    config::{ConfigError, Firewall as FirewallConfig, RuleAction, tracking::BeyondHalfOpen},
};

use self::plan::Earlier;
pub(crate) use self::plan::{Basis, Counts, Next, Plan};
use self::{
    burst::{BURST, Scratch},
    fragments::Seen,
    guards::{Extent, Guards, Room},
    reply::Way,
    state::{ANSWERED, ESTABLISHED, FROM_FAR, PROXIED, RESET, SAMPLED, State, WINDOWED},
    syn::{Proxied, Sent},
    tcp::{Checked, Segment, Step, Windows},
};

use crate::{
    DropReason, Frame, PacketFunction, PortIndex, Verdict,
    common::{self, Clock, Drops},
    events::{Events, Happened, Logged, Outcome, Ring},
    key::{Key, Side},
    machine::Machine,
    neighbour,
    packet::{self, ACK, ICMP, ICMPV6, Message, Packet, Parsed, RST, SYN, TCP, UDP},
    prepare::{self, Kind, Prepared, Retired, Snapshot},
    rules::{Decision, NewConnection},
    table::{Entry, Judged, TICK_SLOTS, Table},
};

/// Connections looked at for one that is over when the table is full.
const RECLAIM: usize = 64;

/// Counters beyond drops and rules.
#[derive(Debug, Default)]
struct Totals {
    opened: u64,
    expired: u64,
    revoked: u64,
    evicted: u64,
    neighbour: u64,
    fragments: u64,
    rejected: u64,
    cookies_sent: u64,
    cookies_returned: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Firewall<M> {
    plan: Arc<Plan>,
    /// Frames each rule allowed (of its connections, both directions) or denied.
    hits: Vec<u64>,
    /// What they were counted before the plan was swapped in.
    earlier: Arc<Earlier>,
    table: Table<State>,
    guards: Guards,
    clock: Clock,
    drops: Drops,
    totals: Totals,
    events: Events,
    /// Decisions of rules with `log`.
    log: Ring<Logged>,
    /// Not there while it is in use.
    scratch: Option<Box<Scratch>>,
    machine: PhantomData<M>,
}

impl<M: Machine> Firewall<M> {
    pub(crate) fn new(c: &Configuration, config: &FirewallConfig, seed: u64) -> Result<Self, ConfigError> {
        let plan = Plan::new(c, config, 0)?;
        let table = plan.table(seed)?;
        let (most, slots) = (plan.max_connections, table.capacity());
        let room = Room::new(&plan.policy, &Extent::NOTHING, most, slots, false, seed)?;
        Ok(Self {
            hits: vec![0; plan.rules()],
            earlier: Arc::default(),
            table,
            guards: Guards::new(plan.policy.clone(), room, seed),
            plan: Arc::new(plan),
            clock: Clock::default(),
            drops: Drops::default(),
            totals: Totals::default(),
            events: Events::default(),
            log: Ring::default(),
            scratch: Some(Scratch::new()),
            machine: PhantomData,
        })
    }

    #[inline]
    fn verdict(&mut self, side: Side, way: Result<Way, DropReason>) -> Verdict {
        match way {
            Ok(Way::On) => Verdict::Forward { port: self.plan.pair.on(side.other()).index },
            Ok(Way::Back) => Verdict::Forward { port: self.plan.pair.on(side).index },
            Err(reason) => self.drops.drop(reason),
        }
    }

    #[inline(never)]
    fn one<F: Frame>(&mut self, now_ms: u32, side: Side, frame: &mut F) -> Verdict {
        let way = self.decide(now_ms, side, frame);
        self.verdict(side, way)
    }

    /// Which way the frame goes, in which an answer or a translation may have been written.
    #[inline]
    fn decide<F: Frame>(&mut self, now_ms: u32, side: Side, frame: &mut F) -> Result<Way, DropReason> {
        match packet::parse(frame.bytes()) {
            Ok(Parsed::Ip(packet)) => {
                if self.guards.policy.verify_checksums && !checksum_is_right(&packet, frame.bytes()) {
                    return Err(DropReason::TransportChecksum);
                }
                self.ip(now_ms, side, &packet, frame)
            }
            Ok(Parsed::Arp(at)) => {
                neighbour::arp(frame.bytes(), at).ok_or(DropReason::Arp)?;
                self.totals.neighbour += 1;
                Ok(Way::On)
            }
            Err(reason @ (DropReason::Fragment | DropReason::FirstFragment)) => {
                self.fragment(now_ms, side, frame, reason)
            }
            Err(reason) => Err(reason),
        }
    }

    #[inline]
    fn ip<F: Frame>(
        &mut self,
        now_ms: u32,
        side: Side,
        packet: &Packet,
        frame: &mut F,
    ) -> Result<Way, DropReason> {
        match packet.message {
            Message::None | Message::EchoRequest | Message::EchoReply => {
                self.connection(now_ms, side, packet, (Key::of(packet, side), None), frame)
            }
            Message::Error => self.related(now_ms, side, packet, frame.bytes()),
            Message::NeighbourSolicitation | Message::NeighbourAdvertisement => {
                neighbour::discovery(frame.bytes(), packet).ok_or(DropReason::NeighbourDiscovery)?;
                self.totals.neighbour += 1;
                Ok(Way::On)
            }
            Message::Other => Err(DropReason::IcmpType),
        }
    }

    /// `reason`: which kind of fragment the parser says it is.
    #[cold]
    fn fragment<F: Frame>(
        &mut self,
        now_ms: u32,
        side: Side,
        frame: &mut F,
        reason: DropReason,
    ) -> Result<Way, DropReason> {
        let generation = self.plan.generation;
        let fragments = self.guards.fragments.as_mut().ok_or(reason)?;
        let (packet, piece) = packet::piece(frame.bytes())?;
        match fragments.see(now_ms, generation, side, &packet, &piece)? {
            Seen::Later => {
                self.totals.fragments += 1;
                Ok(Way::On)
            }
            // How much of the sequence it is cannot be known.
            Seen::First if packet.protocol == TCP && self.guards.checks_windows() => Err(reason),
            Seen::First => {
                let way = self.ip(now_ms, side, &packet, frame)?;
                if let (Way::On, Some(fragments)) = (way, &mut self.guards.fragments) {
                    fragments.passed(now_ms, generation, side, &packet, &piece);
                    self.totals.fragments += 1;
                }
                Ok(way)
            }
        }
    }

    /// With the key comes what the rules say if it is a new one, where that is known already.
    #[inline]
    fn connection<F: Frame>(
        &mut self,
        now_ms: u32,
        side: Side,
        packet: &Packet,
        (key, decided): (Key, Option<Decision>),
        frame: &mut F,
    ) -> Result<Way, DropReason> {
        let Some(slot) = self.live(now_ms, &key)? else {
            return self.open(now_ms, side, packet, (key, decided), None, frame);
        };
        let Some(entry) = self.table.get(slot) else { return Err(DropReason::Untracked) };
        let state = entry.value;
        let from_initiator = side == state.initiator();
        let mut flags = state.flags;
        if packet.protocol == TCP {
            match tcp::step(flags, from_initiator, packet.tcp_flags) {
                Step::Reopen => return self.open(now_ms, side, packet, (key, None), Some(slot), frame),
                _ if flags & PROXIED != 0 => {
                    return self.proxied(now_ms, from_initiator, packet, slot, frame);
                }
                Step::Pass(after) => flags = after,
                Step::Drop(reason) => return Err(reason),
            }
            if state.flags & WINDOWED != 0
                && let Some(windows) = self.guards.windows(slot)
            {
                let segment = Segment::read(frame.bytes(), packet).ok_or(DropReason::TcpHeader)?;
                let (answered, established) = (state.flags & ANSWERED != 0, state.flags & ESTABLISHED != 0);
                match windows.check(from_initiator, answered, established, &segment) {
                    Checked::Within => {}
                    Checked::Outside => return Err(DropReason::TcpWindow),
                    Checked::Unproven => {
                        self.count_rule(state.rule);
                        return Ok(Way::On);
                    }
                }
            }
        } else if !from_initiator {
            flags |= ANSWERED;
        }
        self.go_on(now_ms, packet.protocol, slot, flags);
        Ok(Way::On)
    }

    /// A packet of a connection passed: its flags are these from now on.
    #[inline]
    fn go_on(&mut self, now_ms: u32, protocol: u8, slot: u32, flags: u16) {
        let Some(entry) = self.table.get(slot) else { return };
        let before = entry.value;
        entry.value.flags = flags;
        // The segment that closes is the last one to renew.
        if !before.closing() {
            entry.last_ms = now_ms;
        }
        if flags != before.flags {
            self.guards.changed(protocol, before.flags, flags);
            let age = self.plan.timeouts.age(entry);
            self.table.wait(slot, age, now_ms);
        }
        self.count_rule(before.rule);
    }

    /// A segment of a connection that a SYN cookie opened, see [`syn`].
    #[cold]
    fn proxied<F: Frame>(
        &mut self,
        now_ms: u32,
        from_initiator: bool,
        packet: &Packet,
        slot: u32,
        frame: &mut F,
    ) -> Result<Way, DropReason> {
        let state = self.table.get(slot).ok_or(DropReason::Untracked)?.value;
        let segment = Segment::read(frame.bytes(), packet).ok_or(DropReason::TcpHeader)?;
        let proxied = self.guards.proxied(slot, state).ok_or(DropReason::TcpState)?;
        let (mut flags, kind) = (state.flags, packet.tcp_flags & (SYN | ACK | RST));
        let answered = flags & ANSWERED != 0;
        let sent = if !answered && from_initiator && kind & (SYN | RST) == 0 {
            proxied.call(frame, packet)
        } else if !answered && !from_initiator && kind == SYN | ACK {
            flags |= ANSWERED;
            proxied.answered(frame, packet, &segment)
        } else if !answered && !from_initiator && kind == RST | ACK {
            flags |= RESET;
            proxied.refused(frame, packet, &segment)
        } else if !from_initiator && kind == SYN | ACK && flags & ESTABLISHED == 0 {
            flags |= ESTABLISHED;
            proxied.answered_again(frame, packet, &segment)
        } else {
            match tcp::step(flags, from_initiator, packet.tcp_flags) {
                Step::Pass(after) if answered || kind & RST != 0 && from_initiator => flags = after,
                Step::Drop(reason) => return Err(reason),
                _ => return Err(DropReason::TcpState),
            }
            match !answered || proxied.translate(frame.bytes_mut(), packet, !from_initiator).is_some() {
                true => Sent::On,
                false => Sent::Nothing,
            }
        };
        let way = sent.way().ok_or(DropReason::TcpState)?;
        self.go_on(now_ms, TCP, slot, flags);
        Ok(way)
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
            self.judge_again(slot)?;
        }
        Ok(Some(slot))
    }

    fn forget(&mut self, slot: u32) {
        if let Some(entry) = self.table.get(slot) {
            over(&mut self.guards, &mut self.events, entry);
        }
        self.table.remove(slot);
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
        self.forget(slot);
        self.totals.revoked += 1;
        Err(DropReason::Revoked)
    }

    /// A packet of no live connection: the rules decide. `replaced` is the closed connection of the same key, if any.
    fn open<F: Frame>(
        &mut self,
        now_ms: u32,
        side: Side,
        packet: &Packet,
        (key, decided): (Key, Option<Decision>),
        replaced: Option<u32>,
        frame: &mut F,
    ) -> Result<Way, DropReason> {
        if packet.protocol == TCP && packet.tcp_flags & (SYN | ACK) != SYN {
            return self.open_returned(now_ms, side, packet, key, frame);
        }
        if packet.message == Message::EchoReply {
            return Err(DropReason::Untracked);
        }
        let decision = match decided {
            Some(decision) => decision,
            None => self.plan.rules.decide(&NewConnection::of(packet, key), side),
        };
        let Some(rule) = decision.rule() else { return Err(DropReason::NoRule) };
        let way = self.admit(now_ms, side, packet, (key, decision, rule), replaced, frame);
        if decision.log() {
            self.write_down(now_ms, side, key, decision, way);
        }
        way
    }

    /// As a rule says that is known by now.
    #[inline]
    fn admit<F: Frame>(
        &mut self,
        now_ms: u32,
        side: Side,
        packet: &Packet,
        (key, decision, rule): (Key, Decision, u32),
        replaced: Option<u32>,
        frame: &mut F,
    ) -> Result<Way, DropReason> {
        if decision.limited() && !self.guards.rule_allows(now_ms, rule, packet.source) {
            return Err(DropReason::RuleRate);
        }
        if decision.action() != RuleAction::Allow {
            self.count_rule(rule);
            let answered = decision.action() == RuleAction::Reject && self.reject(now_ms, packet, frame);
            return if answered { Ok(Way::Back) } else { Err(DropReason::Denied) };
        }
        if packet.protocol == TCP
            && let Some(beyond) = self.guards.beyond_half_open()
        {
            return self.challenge(now_ms, packet, frame, beyond);
        }
        if let Some(slot) = replaced {
            self.forget(slot);
        }
        let syn = if packet.protocol == TCP && self.guards.checks_windows() {
            Segment::read(frame.bytes(), packet)
        } else {
            None
        };
        let slot = self.insert(now_ms, side, packet, key, rule, if syn.is_some() { WINDOWED } else { 0 })?;
        if let Some(syn) = syn {
            self.guards.set_windows(slot, Windows::opened(&syn));
        }
        Ok(Way::On)
    }

    /// A decision of a rule with `log`, and what it came to.
    #[cold]
    fn write_down(
        &mut self,
        now_ms: u32,
        side: Side,
        key: Key,
        decision: Decision,
        way: Result<Way, DropReason>,
    ) {
        let outcome = match way {
            Ok(Way::On) => Outcome::Allowed,
            Ok(Way::Back) if decision.action() == RuleAction::Allow => Outcome::Challenged,
            Ok(Way::Back) => Outcome::Rejected,
            Err(reason) => Outcome::Dropped(reason),
        };
        let Some(rule) = decision.rule() else { return };
        let sampled = outcome == Outcome::Allowed && self.events.sampled(&key);
        self.log.decided(now_ms, &key, side, (rule, outcome), sampled);
    }

    #[cold]
    fn reject<F: Frame>(&mut self, now_ms: u32, packet: &Packet, frame: &mut F) -> bool {
        let answered = reply::may_be_answered(frame.bytes(), packet)
            && self.guards.may_answer(now_ms)
            && reply::reject(frame, packet);
        self.totals.rejected += u64::from(answered);
        answered
    }

    /// A SYN beyond the half-open connections there may be.
    #[cold]
    fn challenge<F: Frame>(
        &mut self,
        now_ms: u32,
        packet: &Packet,
        frame: &mut F,
        beyond: BeyondHalfOpen,
    ) -> Result<Way, DropReason> {
        let cookies = &mut self.guards.cookies;
        let sent = match beyond {
            BeyondHalfOpen::Cookie => syn::challenge(cookies, now_ms, frame, packet),
            BeyondHalfOpen::Refuse => Sent::Nothing,
        };
        let way = sent.way().ok_or(DropReason::HalfOpen)?;
        self.totals.cookies_sent += 1;
        Ok(way)
    }

    /// TCP of no connection, and no SYN: it may return a cookie.
    #[cold]
    fn open_returned<F: Frame>(
        &mut self,
        now_ms: u32,
        side: Side,
        packet: &Packet,
        key: Key,
        frame: &mut F,
    ) -> Result<Way, DropReason> {
        let segment = Segment::read(frame.bytes(), packet).ok_or(DropReason::TcpNotSyn)?;
        let returned = self.guards.cookies.returned(now_ms, packet, &segment).ok_or(DropReason::TcpNotSyn)?;
        // As its SYN was; the rules may be others by now.
        let syn = NewConnection::of(&Packet { tcp_flags: SYN, ..*packet }, key);
        let decision = self.plan.rules.decide(&syn, side);
        let Some(rule) = decision.rule() else { return Err(DropReason::NoRule) };
        let slot = match decision.action() {
            RuleAction::Allow => self.insert(now_ms, side, packet, key, rule, PROXIED),
            RuleAction::Deny | RuleAction::Reject => Err(DropReason::Denied),
        };
        if decision.log() {
            self.write_down(now_ms, side, key, decision, slot.map(|_| Way::On));
        }
        let slot = slot?;
        let proxied = Proxied::of(&returned);
        let sent = match self.guards.set_proxied(slot, proxied) {
            true => proxied.call(frame, packet),
            false => Sent::Nothing,
        };
        self.totals.cookies_returned += 1;
        sent.way().ok_or(DropReason::TcpNotSyn)
    }

    /// A connection that a rule allows, within its source's limits, where there is room or room is made; its slot.
    #[inline]
    fn insert(
        &mut self,
        now_ms: u32,
        side: Side,
        packet: &Packet,
        key: Key,
        rule: u32,
        flags: u16,
    ) -> Result<u32, DropReason> {
        let counted = self.guards.take(now_ms, packet.source)?;
        let sampled = self.events.sampled(&key);
        let flags = flags | if side == Side::Far { FROM_FAR } else { 0 } | if sampled { SAMPLED } else { 0 };
        let state = State { generation: self.plan.generation, rule, flags, counted };
        if self.table.is_full() {
            self.make_room(now_ms);
        }
        let age = self.plan.timeouts.age_at_first(packet.protocol, state, now_ms);
        let slot = self.table.insert(key, state, now_ms, age);
        let Some(slot) = slot else {
            self.guards.give_back(counted, packet.source);
            return Err(DropReason::TableFull);
        };
        self.guards.opened(packet.protocol, flags);
        self.totals.opened += 1;
        if sampled {
            self.events.happened(Happened::Opened, now_ms, &key, side, rule);
        }
        self.count_rule(rule);
        Ok(slot)
    }

    /// A connection that is over, or else, where the configuration says so, the oldest of those that may be given up makes room for another.
    #[cold]
    fn make_room(&mut self, now_ms: u32) {
        self.look(now_ms, RECLAIM);
        if self.table.is_full()
            && self.guards.policy.evict
            && let Some(slot) = self.table.oldest()
        {
            self.forget(slot);
            self.totals.evicted += 1;
        }
    }

    /// Looks at connections whose time has come.
    #[inline]
    fn look(&mut self, now_ms: u32, budget: usize) {
        let timeouts = self.plan.timeouts;
        let Self { table, guards, events, .. } = self;
        let ended = table.look::<M>(now_ms, budget, |entry| {
            let judged = timeouts.judge(entry, now_ms);
            if matches!(judged, Judged::Over) {
                over(guards, events, entry);
            }
            judged
        });
        self.totals.expired += ended as u64;
    }

    #[inline]
    fn count_rule(&mut self, rule: u32) {
        if let Some(hits) = self.hits.get_mut(rule as usize) {
            *hits += 1;
        }
    }

    /// An ICMP error passes if it quotes a packet of a tracked connection and goes to that packet's sender.
    fn related(&mut self, now_ms: u32, side: Side, packet: &Packet, frame: &[u8]) -> Result<Way, DropReason> {
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
        Ok(Way::On)
    }
}

/// A connection is over, and was when its last packet came.
#[inline]
fn over(guards: &mut Guards, events: &mut Events, entry: &Entry<State>) {
    guards.release(entry);
    let State { rule, flags, .. } = entry.value;
    if flags & SAMPLED != 0 {
        events.happened(Happened::Closed, entry.last_ms, &entry.key, entry.value.initiator(), rule);
    }
}

/// Of TCP, UDP and ICMP; others have none, or one of their own.
fn checksum_is_right(packet: &Packet, frame: &[u8]) -> bool {
    !matches!(packet.protocol, TCP | UDP | ICMP | ICMPV6) || packet.transport_checksum_is_right(frame)
}

impl<M: Machine, F: Frame> PacketFunction<F> for Firewall<M> {
    fn process(&mut self, now_us: u64, ingress: PortIndex, frame: &mut F) -> Verdict {
        let now_ms = self.clock.advance(now_us);
        let Some(side) = self.plan.pair.side(ingress) else {
            return self.drops.drop(DropReason::UnknownPort);
        };
        self.look(now_ms, BURST);
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
        self.guards.sweep(now_ms, TICK_SLOTS);
    }

    fn reseed(&mut self, seed: u64) {
        self.guards.cookies.rotate(seed);
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
        let t = &self.totals;
        Snapshot {
            drops: self.drops.clone(),
            totals: vec![
                ("connections.opened", t.opened),
                ("connections.expired", t.expired),
                ("connections.revoked", t.revoked),
                ("connections.evicted", t.evicted),
                ("pass.neighbour", t.neighbour),
                ("pass.fragment", t.fragments),
                ("reply.reject", t.rejected),
                ("reply.syn_cookie", t.cookies_sent),
                ("connections.by_cookie", t.cookies_returned),
            ],
            named: Kind::Firewall(Counts::of(self)),
            connections: self.table.len() as u64,
            half_open: self.guards.half_open().into(),
        }
    }

    fn connections(&self) -> u64 {
        self.table.len() as u64
    }

    fn events(&mut self) -> Option<&mut Events> {
        Some(&mut self.events)
    }

    fn log(&mut self, index: usize) -> Option<&mut Ring<Logged>> {
        (index == 0).then_some(&mut self.log)
    }
}
