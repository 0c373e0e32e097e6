//! The flows of a profile: checked once, then flat arrays.

use std::collections::BTreeSet;

use dataplane_control::{
    config::ConfigError,
    traffic::{Expectation, FlowGroup, GroupReport, TrafficProfile},
};

use crate::{
    common::invalid,
    hash::address_bits,
    maglev,
    packet::{Packet, TCP, UDP},
};

/// Most groups of a profile.
pub(super) const MAX_GROUPS: usize = 256;
/// Most flows of a profile, over all groups.
pub(super) const MAX_FLOWS: u64 = 1 << 20;
/// Source ports of a flow group begin here …
const FIRST_PORT: u16 = 49_152;
/// … and are this many; then the next source address.
const PORTS: u32 = 16_384;

/// A group's constants and frame counters.
#[derive(Debug)]
pub(super) struct Group {
    pub id: String,
    pub protocol: u8,
    pub source: u128,
    pub destination: u128,
    pub destination_port: u16,
    first: u32,
    pub count: u32,
    pub blocked: bool,
    /// Index of its first flow.
    base: usize,
    pub tx_frames: u64,
    pub rx_frames: u64,
}

/// A flow's state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flow {
    pub group: u16,
    /// Number of the backend that Maglev names.
    expected: u16,
    /// Number of the backend that answered first, if `ANSWERED`.
    backend: u16,
    pub flags: u8,
    /// SYNs sent to open it.
    pub attempts: u8,
    /// Sequence number of the next TCP data byte.
    pub sequence: u32,
    /// What is acknowledged.
    pub acknowledged: u32,
    /// Sequence numbers of the run of the first and the latest SYN that was a probe.
    pub syns: Option<(u32, u32)>,
    pub syn_sent_us: u64,
    last_rtt_us: Option<u32>,
}

/// A probe was sent.
pub(super) const SENT: u8 = 1;
/// A probe came back.
pub(super) const ARRIVED: u8 = 2;
/// A backend's number came back.
const ANSWERED: u8 = 4;
const MISROUTED: u8 = 8;
/// The TCP handshake is done.
pub(super) const OPEN: u8 = 16;

impl Flow {
    pub(super) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Notes which backend answered.
    pub(super) fn answered_by(&mut self, backend: u16, blocked: bool) {
        let other =
            if self.is(ANSWERED) { backend != self.backend } else { !blocked && backend != self.expected };
        if !self.is(ANSWERED) {
            self.backend = backend;
        }
        self.flags |= ANSWERED | if other { MISROUTED } else { 0 };
    }

    /// Notes a round trip; its difference to the flow's previous one, µs.
    pub(super) fn round_trip(&mut self, rtt_us: u64) -> Option<u64> {
        let rtt = u32::try_from(rtt_us).unwrap_or(u32::MAX);
        self.last_rtt_us.replace(rtt).map(|before| u64::from(rtt.abs_diff(before)))
    }
}

impl Group {
    fn new(config: &FlowGroup, base: usize) -> Result<Self, ConfigError> {
        let wrong = |problem: &str| Err(invalid(&format!("groups `{}`", config.id), problem));
        if !matches!(config.protocol, TCP | UDP) {
            return wrong("protocol must be 6 or 17");
        }
        if config.source.is_ipv4() != config.destination.is_ipv4() {
            return wrong("source and destination differ in IP version");
        }
        if config.count == 0 || config.first.checked_add(config.count).is_none() {
            return wrong("count must be at least 1, first + count below 2^32");
        }
        if matches!(&config.expect, Expectation::Balanced { backends, table_size } if backends.is_empty() || *table_size < 2)
        {
            return wrong("balanced over no backend, or a table of fewer than 2 slots");
        }
        let it = Self {
            id: config.id.clone(),
            protocol: config.protocol,
            source: address_bits(config.source),
            destination: address_bits(config.destination),
            destination_port: config.destination_port,
            first: config.first,
            count: config.count,
            blocked: config.expect == Expectation::Blocked,
            base,
            tx_frames: 0,
            rx_frames: 0,
        };
        let (last, _) = it.source_of(config.count - 1);
        if last >> 32 != it.source >> 32 {
            return wrong("its sources run out of the address range");
        }
        Ok(it)
    }

    /// Source address and port of the `i`th flow of the group.
    pub(super) fn source_of(&self, i: u32) -> (u128, u16) {
        let n = self.first + i;
        // Below 65,536: 49,152 + 16,383.
        let port = FIRST_PORT + ((n % PORTS) & 0xffff) as u16;
        (self.source.wrapping_add(u128::from(n / PORTS)), port)
    }

    /// Source and destination port of the `i`th flow, as on the wire.
    pub(super) fn ports_of(&self, i: u32) -> u32 {
        u32::from(self.source_of(i).1) << 16 | u32::from(self.destination_port)
    }

    /// Which flow of the group a packet answers.
    fn answered_flow(&self, packet: &Packet) -> Option<u32> {
        let from = packet.source == self.destination && packet.protocol == self.protocol;
        let [source_port, port] = [(packet.ports >> 16) as u16, (packet.ports & 0xffff) as u16];
        (from && source_port == self.destination_port).then_some(())?;
        let host = u32::try_from(packet.destination.checked_sub(self.source)?).ok()?;
        let n = host.checked_mul(PORTS)?.checked_add(u32::from(port.checked_sub(FIRST_PORT)?))?;
        n.checked_sub(self.first).filter(|i| *i < self.count)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let service = |g: &Self| (g.protocol, g.destination, g.destination_port);
        let (low, high) = if self.source <= other.source { (self, other) } else { (other, self) };
        // In flows, counted from the lower source; a distance beyond all flows stays beyond them.
        let distance = (high.source - low.source).min(1 << 64) * u128::from(PORTS);
        let range = |g: &Self, from: u128| {
            from + u128::from(g.first)..from + u128::from(g.first) + u128::from(g.count)
        };
        let (a, b) = (range(low, 0), range(high, distance));
        service(self) == service(other) && a.start < b.end && b.start < a.end
    }
}

/// All groups and flows.
#[derive(Debug)]
pub(super) struct Flows {
    pub groups: Vec<Group>,
    pub flows: Vec<Flow>,
}

impl Flows {
    pub(super) fn new(profile: &TrafficProfile) -> Result<Self, ConfigError> {
        let total: u64 = profile.groups.iter().map(|g| u64::from(g.count)).sum();
        if !(1..=MAX_GROUPS).contains(&profile.groups.len()) || total > MAX_FLOWS {
            return Err(invalid("groups", format!("1 to {MAX_GROUPS} groups, at most {MAX_FLOWS} flows")));
        }
        let mut ids = BTreeSet::new();
        let mut it = Self { groups: Vec::new(), flows: Vec::new() };
        for config in &profile.groups {
            if !ids.insert(&config.id) {
                return Err(invalid("groups", format!("`{}` is there twice", config.id)));
            }
            let group = Group::new(config, it.flows.len())?;
            if let Some(other) = it.groups.iter().find(|g| g.overlaps(&group)) {
                return Err(invalid("groups", format!("`{}` and `{}` share flows", other.id, group.id)));
            }
            it.add_flows(&group, &config.expect);
            it.groups.push(group);
        }
        Ok(it)
    }

    fn add_flows(&mut self, group: &Group, expect: &Expectation) {
        // At most MAX_GROUPS.
        let index = u16::try_from(self.groups.len()).unwrap_or(u16::MAX);
        let expected: Box<dyn Fn(u32) -> u16> = match expect {
            Expectation::Blocked => Box::new(|_| 0),
            Expectation::Balanced { backends, table_size } => {
                let table = maglev::Table::new(backends, *table_size);
                Box::new(move |i| {
                    let (source, _) = group.source_of(i);
                    let hash =
                        maglev::hash_words(source, group.destination, group.ports_of(i), group.protocol);
                    table.lookup(hash).and_then(|b| backends.get(b)).map_or(0, |b| b.number)
                })
            }
        };
        let flow = |i| Flow { group: index, expected: expected(i), ..Flow::default() };
        self.flows.extend((0..group.count).map(flow));
    }

    /// The flow that a packet answers: its group's index, and its index among all flows.
    pub(super) fn answered(&self, packet: &Packet) -> Option<(usize, usize)> {
        let hit =
            |(g, group): (usize, &Group)| group.answered_flow(packet).map(|i| (g, group.base + i as usize));
        self.groups.iter().enumerate().find_map(hit)
    }

    /// Index of a flow within its group.
    pub(super) fn within_group(&self, flow: usize) -> u32 {
        let base =
            self.flows.get(flow).and_then(|f| self.groups.get(usize::from(f.group))).map_or(0, |g| g.base);
        u32::try_from(flow - base).unwrap_or(0)
    }

    /// A group's report.
    pub(super) fn report(&self, group: &Group) -> GroupReport {
        let mut out =
            GroupReport { tx_frames: group.tx_frames, rx_frames: group.rx_frames, ..GroupReport::default() };
        for flow in self.flows.iter().skip(group.base).take(group.count as usize) {
            out.flows += u32::from(flow.is(SENT));
            out.arrived += u32::from(flow.is(ARRIVED));
            out.misrouted += u32::from(flow.is(MISROUTED));
            if flow.is(ANSWERED) {
                *out.backends.entry(flow.backend).or_default() += 1;
            }
        }
        out
    }
}
