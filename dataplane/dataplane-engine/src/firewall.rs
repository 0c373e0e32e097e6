//! The stateful firewall: transparent at layer 2 between `outside` and `inside`, default deny.
//!
//! A connection is opened by a packet that the rules allow; from then on its packets pass in both directions
//! without asking the rules again until a reconfiguration, after which its next packet is judged by the new rules
//! (by the way it was opened) and revoked if they no longer allow it. TCP opens with SYN only; a connection closes
//! after RST, or FIN from both sides, and may then be opened again. ICMP echo is a connection; ICMP errors pass if
//! they quote a tracked one and go to its sender. ARP and valid neighbour discovery pass. Everything else drops, each
//! with its reason.
//!
//! Simplifications, all towards the safe side: sequence numbers are not tracked; no fragment passes (see
//! [`crate::packet`]); multicast other than neighbour discovery needs a rule and its replies do not match.
//!
//! Tests: `tests/firewall.rs` compares with a naive model; `tests/chain.rs`.

use std::collections::BTreeMap;

use dataplane_control::{
    Configuration, Function,
    config::{ConfigError, Firewall as FirewallConfig, Port},
};

use crate::{
    DropReason, PacketFunction, PortIndex, Verdict,
    common::{self, Clock, Drops, PortPair, TCP_CLOSING_MS, TCP_HALF_CLOSED_MS, TCP_HANDSHAKE_MS},
    neighbour,
    packet::{self, ACK, FIN, Message, Packet, Parsed, RST, SYN, TCP},
    rules::{Decision, Rules},
    table::{Entry, Key, Side, TICK_SLOTS, Table},
};

/// What a connection remembers.
#[derive(Debug, Clone, Copy)]
struct State {
    /// Of the rule set that last allowed it.
    generation: u32,
    /// Index of the rule that did.
    rule: u32,
    flags: u8,
}

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
    Drop,
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
pub(crate) struct Firewall {
    ports: Vec<Port>,
    pair: PortPair,
    rules: Rules,
    rule_ids: Vec<String>,
    /// Frames each rule allowed (of its connections, both directions) or denied.
    hits: Vec<u64>,
    generation: u32,
    table: Table<State>,
    timeouts: Timeouts,
    clock: Clock,
    drops: Drops,
    totals: Totals,
}

const FIELD: &str = "firewall.max_connections";

impl Firewall {
    pub(crate) fn new(c: &Configuration, config: &FirewallConfig, seed: u64) -> Result<Self, ConfigError> {
        Ok(Self {
            ports: c.ports.clone(),
            pair: PortPair::find(c, "firewall.inside", &config.outside, &config.inside)?,
            rules: Rules::compile(config)?,
            rule_ids: config.rules.iter().map(|r| r.id.clone()).collect(),
            hits: vec![0; config.rules.len()],
            generation: 0,
            table: common::table(FIELD, config.max_connections, seed)?,
            timeouts: Timeouts::of(config),
            clock: Clock::default(),
            drops: Drops::default(),
            totals: Totals::default(),
        })
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
        if packet.protocol == TCP {
            match tcp_step(entry.value.flags, side == entry.value.initiator(), packet.tcp_flags) {
                Step::Pass(flags) => entry.value.flags = flags,
                Step::Reopen => return self.open(now_ms, side, packet, key, Some(slot)),
                Step::Drop => return Err(DropReason::TcpState),
            }
        }
        entry.last_ms = now_ms;
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
        if self.timeouts.expired(entry, now_ms) {
            self.table.remove(slot);
            self.totals.expired += 1;
            return Ok(None);
        }
        if entry.value.generation != self.generation {
            self.judge_again(slot)?;
        }
        Ok(Some(slot))
    }

    /// After a reconfiguration: by the new rules, as the connection was opened.
    #[cold]
    fn judge_again(&mut self, slot: u32) -> Result<(), DropReason> {
        let Some(entry) = self.table.get(slot) else { return Err(DropReason::Revoked) };
        if let Decision::Allow(rule) = self.rules.decide(&entry.key, entry.value.initiator()) {
            entry.value.rule = rule;
            entry.value.generation = self.generation;
            return Ok(());
        }
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
        let rule = match self.rules.decide(&key, side) {
            Decision::Allow(rule) => rule,
            Decision::Deny(rule) => {
                self.count_rule(rule);
                return Err(DropReason::Denied);
            }
            Decision::Default => return Err(DropReason::NoRule),
        };
        let flags = if side == Side::Far { FROM_FAR } else { 0 };
        let state = State { generation: self.generation, rule, flags };
        if let Some(slot) = replaced {
            self.table.remove(slot);
        }
        let timeouts = self.timeouts;
        let (slot, reclaimed) =
            self.table.insert_or_reclaim(key, state, now_ms, |entry| timeouts.expired(entry, now_ms));
        self.totals.expired += reclaimed as u64;
        slot.ok_or(DropReason::TableFull)?;
        self.totals.opened += 1;
        self.count_rule(rule);
        Ok(())
    }

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
        let rule = self.table.get(slot).map_or(u32::MAX, |e| e.value.rule);
        self.count_rule(rule);
        Ok(())
    }
}

/// RFC 9293 reduced to what a filter needs: who may send what before the handshake is over, and what closes.
#[inline]
fn tcp_step(flags: u8, from_initiator: bool, segment: u8) -> Step {
    let state = State { generation: 0, rule: 0, flags };
    match segment & (SYN | ACK | RST) {
        SYN if state.closing() => Step::Reopen,
        SYN if from_initiator => Step::Pass(flags),
        SYN => Step::Drop,
        s if s & RST != 0 => Step::Pass(flags | RESET),
        s if s & SYN != 0 && from_initiator => Step::Drop,
        s if s & SYN != 0 => Step::Pass(flags | ANSWERED),
        _ if flags & ANSWERED == 0 && from_initiator => Step::Drop,
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

impl PacketFunction for Firewall {
    fn process(&mut self, now_us: u64, ingress: PortIndex, frame: &mut [u8]) -> Verdict {
        let now_ms = self.clock.advance(now_us);
        let Some(side) = self.pair.side(ingress) else { return self.drops.drop(DropReason::UnknownPort) };
        match self.decide(now_ms, side, frame) {
            // The parser refuses longer frames.
            Ok(()) => Verdict::Forward {
                port: self.pair.on(side.other()).index,
                length: u16::try_from(frame.len()).unwrap_or(u16::MAX),
            },
            Err(reason) => self.drops.drop(reason),
        }
    }

    fn tick(&mut self, now_us: u64) {
        let now_ms = self.clock.advance(now_us);
        let timeouts = self.timeouts;
        self.totals.expired += self.table.sweep(TICK_SLOTS, |entry| timeouts.expired(entry, now_ms)) as u64;
    }

    fn reconfigure(&mut self, configuration: &Configuration) -> Result<(), ConfigError> {
        configuration.check()?;
        let Function::Firewall(config) = &configuration.function else {
            return Err(common::other_function("firewall"));
        };
        common::same_ports(&self.ports, configuration)?;
        let pair = PortPair::find(configuration, "firewall.inside", &config.outside, &config.inside)?;
        if pair != self.pair {
            return Err(common::invalid("firewall.outside", "the two sides only change with a new process"));
        }
        let rules = Rules::compile(config)?;
        common::check_max_connections(FIELD, config.max_connections)?;
        self.table
            .set_limit(config.max_connections)
            .map_err(|_| common::out_of_memory(FIELD, config.max_connections))?;
        let before: BTreeMap<&str, u64> =
            self.rule_ids.iter().map(String::as_str).zip(self.hits.iter().copied()).collect();
        self.hits = config.rules.iter().map(|r| before.get(r.id.as_str()).copied().unwrap_or(0)).collect();
        self.rule_ids = config.rules.iter().map(|r| r.id.clone()).collect();
        self.rules = rules;
        self.timeouts = Timeouts::of(config);
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    fn counters(&self, out: &mut BTreeMap<String, u64>) {
        self.drops.report(out);
        out.extend(self.rule_ids.iter().zip(&self.hits).map(|(id, hits)| (format!("rule.{id}"), *hits)));
        out.insert("connections.opened".into(), self.totals.opened);
        out.insert("connections.expired".into(), self.totals.expired);
        out.insert("connections.revoked".into(), self.totals.revoked);
        out.insert("pass.neighbour".into(), self.totals.neighbour);
    }

    fn connections(&self) -> u64 {
        self.table.len() as u64
    }
}
