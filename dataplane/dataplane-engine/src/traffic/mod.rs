//! The pure traffic generator behind [`dataplane_control::traffic`].
//!
//! A session resolves its destinations (ARP, neighbour discovery), opens the TCP flows that must arrive, sends
//! probes round robin over all flows, waits for the last answers, and reports:
//!
//! ```text
//! Resolving ── all answered or given up ──> Opening ── all open or given up ──> Sending ── all due ──> Draining
//! ```
//!
//! Frame `k` of the run is due `k / rate` after the start. One that is more than [`LATE_US`] late is skipped and
//! counted as shortfall, so a slow generator shortens the trial's load, never stretches its time, and says so.
//!
//! The probe of an open TCP flow is a data segment, that of any other TCP flow a SYN, told apart by its sequence
//! number; so a blocked TCP flow sends SYNs only, and a flow that never opened shows as loss. Connections are left
//! open on purpose: a later session with the same flows must find them on their old backends. There is no
//! retransmission and no congestion control: this is a probe, not a TCP.
//!
//! A destination that does not resolve gets no frame, its share counts as shortfall; only blocked flows are sent to
//! another destination's MAC instead, so that silence proves something.
//!
//! Tests: `tests/chain.rs`, `tests/session.rs`; parts beside their code.

mod flows;
pub(crate) mod frames;
mod stats;

use std::collections::{BTreeMap, VecDeque};

use dataplane_control::{
    config::{ConfigError, MacAddr},
    traffic::{TrafficProfile, TrafficReport},
};

use crate::{
    common::invalid,
    hash::address_of,
    neighbour,
    packet::{self, ACK, Message, PSH, Packet, Parsed, RST, SYN, TCP, TCP_HEADER, UDP_HEADER},
    probe::Probe,
};
use flows::{ARRIVED, Flows, OPEN, SENT};
use frames::{Route, Segment};
use stats::{Histogram, Seen};

/// Largest frame of a profile, bytes without FCS.
pub const MAX_FRAME_BYTES: u16 = 9_014;
/// Most frames of a run (a bit of memory for each).
pub const MAX_FRAMES: u64 = 1 << 28;
/// A frame later than this is skipped, µs.
pub const LATE_US: u64 = 10_000;
/// Tries to resolve a destination.
const RESOLVE_ATTEMPTS: u8 = 30;
const RESOLVE_RETRY_US: u64 = 100_000;
/// SYNs sent to open a flow.
const SYN_ATTEMPTS: u8 = 5;
const SYN_RETRY_US: u64 = 200_000;
/// Initial sequence number of a flow's opening SYN, plus its index; above any probe's.
const OPENING_SEQUENCE: u32 = 1 << 31;
const FCS: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Resolving,
    Opening,
    Sending { start_us: u64 },
    Draining { since_us: u64 },
}

#[derive(Debug)]
struct Neighbour {
    address: u128,
    /// One of our sources, to ask from.
    source: u128,
    mac: Option<[u8; 6]>,
    attempts: u8,
    due_us: u64,
}

/// One run of a [`TrafficProfile`].
#[derive(Debug)]
pub struct Session {
    mac: [u8; 6],
    rate_pps: u64,
    frame_bytes: usize,
    frames: u64,
    drain_us: u64,
    phase: Phase,
    neighbours: Vec<Neighbour>,
    /// By group: where its frames go, once resolved.
    routes: Vec<Option<[u8; 6]>>,
    flows: Flows,
    /// Flows to be opened and when to send their next SYN; due times never decrease.
    opening: VecDeque<(usize, u64)>,
    opening_due_us: u64,
    /// Flows whose SYN-ACK we have yet to acknowledge.
    acknowledgements: VecDeque<usize>,
    /// Frames of the schedule dealt with, sent or not.
    scheduled: u64,
    /// Frames sent: the next sequence number.
    sent: u64,
    next_flow: usize,
    shortfall: u64,
    first_tx_us: Option<u64>,
    last_tx_us: u64,
    seen: Seen,
    rx_bytes: u64,
    latency: Histogram,
    jitter_sum_us: u64,
    jitter_samples: u64,
}

impl Session {
    /// Prepares a run that starts at `now_us`; `mac` is ours.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the field of the profile that cannot be.
    pub fn new(profile: TrafficProfile, mac: MacAddr, now_us: u64) -> Result<Self, ConfigError> {
        let frames = u64::from(profile.rate_pps) * u64::from(profile.duration_ms) / 1000;
        if !(1..=MAX_FRAMES).contains(&frames) {
            let problem = format!("rate times duration is {frames} frames; must be 1 to {MAX_FRAMES}");
            return Err(invalid("rate_pps", problem));
        }
        if profile.frame_bytes > MAX_FRAME_BYTES {
            return Err(invalid(
                "frame_bytes",
                format!("{} is above {MAX_FRAME_BYTES}", profile.frame_bytes),
            ));
        }
        let flows = Flows::new(&profile)?;
        let known = profile.next_hop.map(|mac| mac.0);
        Ok(Self {
            mac: mac.0,
            rate_pps: u64::from(profile.rate_pps),
            frame_bytes: usize::from(profile.frame_bytes),
            frames,
            drain_us: u64::from(profile.drain_ms) * 1000,
            phase: Phase::Resolving,
            neighbours: neighbours(&flows, known, now_us),
            routes: Vec::new(),
            opening: to_open(&flows, now_us),
            opening_due_us: now_us,
            acknowledgements: VecDeque::with_capacity(flows.flows.len()),
            seen: Seen::new(frames),
            flows,
            scheduled: 0,
            sent: 0,
            next_flow: 0,
            shortfall: 0,
            first_tx_us: None,
            last_tx_us: now_us,
            rx_bytes: 0,
            latency: Histogram::new(),
            jitter_sum_us: 0,
            jitter_samples: 0,
        })
    }

    /// Writes the frame that is to be sent now, if any, and returns its length; call until `None`.
    ///
    /// The frame counts as sent at `now_us`. A buffer shorter than the profile's frames makes them shortfall.
    pub fn next_frame(&mut self, now_us: u64, buffer: &mut [u8]) -> Option<usize> {
        if let Some(length) = self.acknowledge(buffer) {
            return Some(length);
        }
        if self.phase == Phase::Resolving {
            if let Some(length) = self.resolve(now_us, buffer) {
                return Some(length);
            }
            self.finish_resolving(now_us);
        }
        if self.phase == Phase::Opening {
            if let Some(length) = self.open(now_us, buffer) {
                return Some(length);
            }
            if self.opening.is_empty() {
                self.phase = Phase::Sending { start_us: now_us };
            }
        }
        let Phase::Sending { start_us } = self.phase else { return None };
        let length = self.send(now_us, start_us, buffer);
        if length.is_none() && self.scheduled >= self.frames {
            self.phase = Phase::Draining { since_us: now_us };
        }
        length
    }

    /// Takes in a received frame.
    pub fn receive(&mut self, now_us: u64, frame: &[u8]) {
        let Ok(parsed) = packet::parse(frame) else { return };
        let group = frame.first().is_some_and(|b| b & 1 != 0);
        if !group && !frame.starts_with(&self.mac) {
            return;
        }
        match parsed {
            Parsed::Arp(at) => self.arp(frame, at),
            Parsed::Ip(packet) if packet.message == Message::NeighbourAdvertisement => {
                self.advertisement(frame, &packet);
            }
            Parsed::Ip(packet) => self.answer(now_us, frame, &packet),
        }
    }

    /// Whether all was sent and the drain time is over.
    #[must_use]
    pub fn finished(&self, now_us: u64) -> bool {
        matches!(self.phase, Phase::Draining { since_us } if now_us.saturating_sub(since_us) >= self.drain_us)
    }

    /// What happened so far.
    #[must_use]
    pub fn report(&self) -> TrafficReport {
        let must_arrive = || self.flows.groups.iter().filter(|g| !g.blocked);
        let tx_frames: u64 = must_arrive().map(|g| g.tx_frames).sum();
        let rx_frames: u64 = must_arrive().map(|g| g.rx_frames).sum();
        let elapsed_us = self.last_tx_us.saturating_sub(self.first_tx_us.unwrap_or(self.last_tx_us));
        // The last frame takes its share of time too: n frames span n intervals, not n - 1.
        let span_us = elapsed_us + 1_000_000 / self.rate_pps;
        let rx_bits = (self.rx_bytes + FCS * rx_frames) * 8;
        let found = |n: &Neighbour| n.mac.map(|mac| (address_of(n.address), MacAddr(mac)));
        TrafficReport {
            elapsed_us,
            tx_frames,
            rx_frames,
            loss_ppm: loss_ppm(tx_frames, rx_frames, must_arrive().next().is_some()),
            throughput_kbps: rx_bits * 1000 / span_us.max(1),
            shortfall_frames: self.shortfall,
            latency_p50_us: self.latency.percentile(50),
            latency_p95_us: self.latency.percentile(95),
            latency_p99_us: self.latency.percentile(99),
            jitter_us: self.jitter_sum_us.checked_div(self.jitter_samples).unwrap_or(0),
            groups: self.flows.groups.iter().map(|g| (g.id.clone(), self.flows.report(g))).collect(),
            neighbours: self.neighbours.iter().filter_map(found).collect::<BTreeMap<_, _>>(),
        }
    }

    fn resolve(&mut self, now_us: u64, buffer: &mut [u8]) -> Option<usize> {
        let wanting =
            |n: &&mut Neighbour| n.mac.is_none() && n.attempts < RESOLVE_ATTEMPTS && n.due_us <= now_us;
        let neighbour = self.neighbours.iter_mut().find(wanting)?;
        neighbour.attempts += 1;
        neighbour.due_us = now_us + RESOLVE_RETRY_US;
        frames::resolve(buffer, self.mac, neighbour.source, neighbour.address)
    }

    fn finish_resolving(&mut self, now_us: u64) {
        let given_up = |n: &Neighbour| n.attempts >= RESOLVE_ATTEMPTS && n.due_us <= now_us;
        if !self.neighbours.iter().all(|n| n.mac.is_some() || given_up(n)) {
            return;
        }
        let mac_of =
            |address: u128| self.neighbours.iter().find(|n| n.address == address).and_then(|n| n.mac);
        let instead = self.neighbours.iter().find_map(|n| n.mac);
        let route = |g: &flows::Group| mac_of(g.destination).or(instead.filter(|_| g.blocked));
        self.routes = self.flows.groups.iter().map(route).collect();
        self.opening_due_us = now_us;
        self.phase = Phase::Opening;
    }

    /// The next opening SYN, at the run's rate.
    fn open(&mut self, now_us: u64, buffer: &mut [u8]) -> Option<usize> {
        // Each round takes an entry off; an entry goes back only with a frame sent.
        while let Some((flow, due_us)) = self.opening.front().copied() {
            let state = self.flows.flows.get(flow)?;
            let hopeless = state.attempts >= SYN_ATTEMPTS && due_us <= now_us;
            if state.is(OPEN) || hopeless || self.route(flow).is_none() {
                self.opening.pop_front();
                continue;
            }
            if due_us.max(self.opening_due_us) > now_us {
                return None;
            }
            self.opening.pop_front();
            self.opening.push_back((flow, now_us + SYN_RETRY_US));
            self.opening_due_us =
                self.opening_due_us.max(now_us.saturating_sub(LATE_US)) + 1_000_000 / self.rate_pps;
            self.flows.flows.get_mut(flow)?.attempts += 1;
            let segment = frames::syn(self.ports(flow)?, opening_sequence(flow));
            return frames::tcp(buffer, &self.route(flow)?, &segment, None);
        }
        None
    }

    fn acknowledge(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let flow = self.acknowledgements.pop_front()?;
        let state = self.flows.flows.get(flow)?;
        let (sequence, acknowledged) = (state.sequence, state.acknowledged);
        let segment = Segment { ports: self.ports(flow)?, sequence, acknowledged, flags: ACK };
        frames::tcp(buffer, &self.route(flow)?, &segment, None)
    }

    /// The next probe that is due; those too late, or that cannot be sent, are skipped and counted.
    fn send(&mut self, now_us: u64, start_us: u64, buffer: &mut [u8]) -> Option<usize> {
        let since_us = now_us.saturating_sub(start_us);
        let due = (since_us * self.rate_pps / 1_000_000 + 1).min(self.frames);
        let too_late =
            (since_us.saturating_sub(LATE_US) * self.rate_pps).div_ceil(1_000_000).min(self.frames);
        if self.scheduled < too_late && since_us > LATE_US {
            self.shortfall += too_late - self.scheduled;
            self.scheduled = too_late;
        }
        while self.scheduled < due {
            self.scheduled += 1;
            let flow = self.next_flow;
            self.next_flow = (flow + 1) % self.flows.flows.len().max(1);
            if let Some(length) = self.probe(now_us, flow, buffer) {
                self.count_sent(now_us, flow);
                return Some(length);
            }
            self.shortfall += 1;
        }
        None
    }

    fn count_sent(&mut self, now_us: u64, flow: usize) {
        self.sent += 1;
        self.first_tx_us.get_or_insert(now_us);
        self.last_tx_us = now_us;
        if let Some(state) = self.flows.flows.get_mut(flow) {
            state.flags |= SENT;
            if let Some(group) = self.flows.groups.get_mut(usize::from(state.group)) {
                group.tx_frames += 1;
            }
        }
    }

    /// Writes a flow's probe with the next sequence number.
    fn probe(&mut self, now_us: u64, flow: usize, buffer: &mut [u8]) -> Option<usize> {
        let route = self.route(flow)?;
        let ports = self.ports(flow)?;
        let index = self.flows.within_group(flow);
        let state = self.flows.flows.get_mut(flow)?;
        let group = self.flows.groups.get(usize::from(state.group))?;
        let length =
            self.frame_bytes.max(frames::min_probe_frame(frames::is_v4(route.source), group.protocol));
        let payload =
            Probe { group: state.group, backend: 0, flow: index, sequence: self.sent, sent_us: now_us }
                .to_bytes();
        if group.protocol != TCP {
            return frames::udp(buffer, &route, ports, &payload, length);
        }
        if state.is(OPEN) && !group.blocked {
            let segment = Segment {
                ports,
                sequence: state.sequence,
                acknowledged: state.acknowledged,
                flags: ACK | PSH,
            };
            let written = frames::tcp(buffer, &route, &segment, Some((&payload, length)))?;
            let headers = frames::min_probe_frame(frames::is_v4(route.source), TCP) - payload.len();
            state.sequence = state.sequence.wrapping_add(u32::try_from(length - headers).ok()?);
            return Some(written);
        }
        // Below 2^28: MAX_FRAMES.
        let sequence = u32::try_from(self.sent).ok()?;
        let written = frames::tcp(buffer, &route, &frames::syn(ports, sequence), None)?;
        state.syns = Some((state.syns.map_or(sequence, |(first, _)| first), sequence));
        state.syn_sent_us = now_us;
        Some(written)
    }

    fn route(&self, flow: usize) -> Option<Route> {
        let group_index = usize::from(self.flows.flows.get(flow)?.group);
        let group = self.flows.groups.get(group_index)?;
        let (source, _) = group.source_of(self.flows.within_group(flow));
        let destination_mac = (*self.routes.get(group_index)?)?;
        Some(Route { source_mac: self.mac, destination_mac, source, destination: group.destination })
    }

    fn ports(&self, flow: usize) -> Option<u32> {
        let group = self.flows.groups.get(usize::from(self.flows.flows.get(flow)?.group))?;
        Some(group.ports_of(self.flows.within_group(flow)))
    }

    fn arp(&mut self, frame: &[u8], at: usize) {
        let Some(arp) = neighbour::arp(frame, at).filter(|a| !a.request) else { return };
        self.resolved(crate::hash::v4_bits(arp.sender), arp.sender_mac);
    }

    fn advertisement(&mut self, frame: &[u8], packet: &Packet) {
        let Some(found) = neighbour::discovery(frame, packet) else { return };
        let source_mac = frame.get(6..).and_then(|f| f.first_chunk()).copied();
        if let Some(mac) = found.link.or(source_mac) {
            self.resolved(found.target, mac);
        }
    }

    fn resolved(&mut self, address: u128, mac: [u8; 6]) {
        let wanted = |n: &&mut Neighbour| n.address == address && n.mac.is_none();
        if let Some(neighbour) = self.neighbours.iter_mut().find(wanted) {
            neighbour.mac = Some(mac);
        }
    }

    /// A packet that may answer one of our flows.
    fn answer(&mut self, now_us: u64, frame: &[u8], packet: &Packet) {
        let Some((group, flow)) = self.flows.answered(packet) else { return };
        if !packet.transport_checksum_is_right(frame) {
            return;
        }
        let Some(payload) = payload(frame, packet) else { return };
        if packet.tcp_flags & (SYN | RST) != 0 {
            self.answer_to_syn(now_us, frame, packet, group, flow);
        } else if let Some(probe) = Probe::read(payload) {
            self.answer_to_probe(now_us, frame, packet, &probe, (group, flow));
        }
    }

    fn answer_to_probe(
        &mut self,
        now_us: u64,
        frame: &[u8],
        packet: &Packet,
        probe: &Probe,
        (group, flow): (usize, usize),
    ) {
        let ours = usize::from(probe.group) == group && probe.flow == self.flows.within_group(flow);
        if !ours || probe.sequence >= self.sent || !self.seen.insert(probe.sequence) {
            return;
        }
        if packet.protocol == TCP {
            self.acknowledge_later(frame, packet, flow);
        }
        let blocked = self.flows.groups.get(group).is_some_and(|g| g.blocked);
        if let Some(state) = self.flows.flows.get_mut(flow) {
            state.answered_by(probe.backend, blocked);
        }
        self.arrived(group, flow, Some(now_us.saturating_sub(probe.sent_us)), frame.len());
    }

    /// Our next segment acknowledges this one.
    fn acknowledge_later(&mut self, frame: &[u8], packet: &Packet, flow: usize) {
        let Some(numbers) = tcp_numbers(frame, packet) else { return };
        let length = payload(frame, packet).map_or(0, <[u8]>::len);
        let end = numbers.sequence.wrapping_add(u32::try_from(length).unwrap_or(0));
        if let Some(state) = self.flows.flows.get_mut(flow) {
            // Newer in sequence space (RFC 9293 §3.4).
            if end.wrapping_sub(state.acknowledged) < 1 << 31 {
                state.acknowledged = end;
            }
        }
    }

    /// SYN-ACK or RST.
    fn answer_to_syn(&mut self, now_us: u64, frame: &[u8], packet: &Packet, group: usize, flow: usize) {
        let Some(numbers) = tcp_numbers(frame, packet) else { return };
        let blocked = self.flows.groups.get(group).is_some_and(|g| g.blocked);
        let Some(state) = self.flows.flows.get_mut(flow) else { return };
        let answered = numbers.acknowledged.wrapping_sub(1);
        let is_probe = state.syns.is_some_and(|(first, last)| (first..=last).contains(&answered));
        if packet.tcp_flags & RST != 0 && !blocked {
            state.flags &= !OPEN;
            return;
        }
        if !is_probe && answered != opening_sequence(flow) {
            return;
        }
        if !blocked && !state.is(OPEN) && packet.tcp_flags & RST == 0 {
            state.flags |= OPEN;
            state.sequence = numbers.acknowledged;
            state.acknowledged = numbers.sequence.wrapping_add(1);
            if self.acknowledgements.len() < self.flows.flows.len() {
                self.acknowledgements.push_back(flow);
            }
        }
        if is_probe && self.seen.insert(u64::from(answered)) {
            let latest =
                self.flows.flows.get(flow).filter(|f| f.syns.is_some_and(|(_, last)| last == answered));
            let rtt_us = latest.map(|f| now_us.saturating_sub(f.syn_sent_us));
            self.arrived(group, flow, rtt_us, frame.len());
        }
    }

    /// Counts a probe that came back for the first time.
    fn arrived(&mut self, group: usize, flow: usize, rtt_us: Option<u64>, bytes: usize) {
        let Some(group) = self.flows.groups.get_mut(group) else { return };
        let Some(state) = self.flows.flows.get_mut(flow) else { return };
        group.rx_frames += 1;
        state.flags |= ARRIVED;
        if group.blocked {
            return;
        }
        self.rx_bytes += bytes as u64;
        let Some(rtt_us) = rtt_us else { return };
        self.latency.record(rtt_us);
        if let Some(difference) = state.round_trip(rtt_us) {
            self.jitter_sum_us += difference;
            self.jitter_samples += 1;
        }
    }
}

fn opening_sequence(flow: usize) -> u32 {
    OPENING_SEQUENCE.wrapping_add(u32::try_from(flow).unwrap_or(0))
}

fn loss_ppm(tx: u64, rx: u64, expected: bool) -> u64 {
    match tx {
        // Nothing could be sent where something must arrive: that is no success.
        0 if expected => 1_000_000,
        0 => 0,
        _ => tx.saturating_sub(rx) * 1_000_000 / tx,
    }
}

/// Each destination once, with a source to ask from, unless it is known where to send.
fn neighbours(flows: &Flows, known: Option<[u8; 6]>, now_us: u64) -> Vec<Neighbour> {
    let sources: BTreeMap<u128, u128> =
        flows.groups.iter().rev().map(|g| (g.destination, g.source_of(0).0)).collect();
    let new = |(address, source)| Neighbour { address, source, mac: known, attempts: 0, due_us: now_us };
    sources.into_iter().map(new).collect()
}

/// The TCP flows that must arrive, in order.
fn to_open(flows: &Flows, now_us: u64) -> VecDeque<(usize, u64)> {
    let wanted = |f: &flows::Flow| {
        flows.groups.get(usize::from(f.group)).is_some_and(|g| g.protocol == TCP && !g.blocked)
    };
    flows.flows.iter().enumerate().filter(|(_, f)| wanted(f)).map(|(i, _)| (i, now_us)).collect()
}

/// What follows the transport header, within the IP packet.
fn payload<'f>(frame: &'f [u8], packet: &Packet) -> Option<&'f [u8]> {
    let transport = frame.get(packet.l4..packet.end)?;
    match packet.protocol {
        TCP => transport.get(usize::from(*transport.get(12)? >> 4) * 4..),
        _ => transport.get(UDP_HEADER..),
    }
}

struct Numbers {
    sequence: u32,
    acknowledged: u32,
}

fn tcp_numbers(frame: &[u8], packet: &Packet) -> Option<Numbers> {
    let h: &[u8; TCP_HEADER] = frame.get(packet.l4..packet.end)?.first_chunk()?;
    Some(Numbers {
        sequence: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
        acknowledged: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
    })
}
