//! The reflector: an end point without state that answers what it is sent, as a measured backend.
//!
//! UDP is echoed. TCP is answered from each segment alone: SYN with SYN-ACK (its initial sequence number is a hash of
//! the flow), data with its echo, FIN with FIN-ACK; acknowledgements and resets are taken in. ICMP echo is answered.
//! Probe payloads get the reflector's number ([`crate::probe`]). Frames must be for our MAC, packets for one of our
//! addresses, checksums right. ARP and neighbour solicitations for our addresses are answered, so that a chain
//! without a balancer resolves; behind one, nobody asks.
//!
//! It keeps no connections, and an answer is never longer than the frame it answers.
//!
//! Tests: `tests/golden.rs`, `tests/chain.rs`.

use std::{mem, sync::Arc};

use dataplane_control::{
    Configuration, Function,
    config::{ConfigError, Port, Reflector as ReflectorConfig},
};

use crate::{
    DropReason, Frame, PacketFunction, PortIndex, Verdict, checksum,
    common::{self, Drops, OwnPort},
    hash::{address_bits, v4_bits},
    maglev, neighbour,
    packet::{
        self, ACK, FIN, ICMP, IPV6_HEADER, Message, PSH, Packet, Parsed, RST, SYN, TCP, TCP_HEADER, UDP,
        UDP_HEADER,
    },
    prepare::{self, Basis, Kind, Prepared, Retired, Snapshot},
    probe,
};

/// Hop limit of what we send.
const HOPS: u8 = 64;
/// TCP window of what we send.
const WINDOW: u16 = 65_535;
/// Shortest frame we make shorter ones up to (IEEE 802.3, without FCS), if the buffer allows.
const MIN_FRAME: usize = 60;

/// A configuration, compiled.
#[derive(Debug)]
pub(crate) struct Plan {
    ports: Vec<Port>,
    port: OwnPort,
    number: u16,
    /// Sorted.
    addresses: Vec<u128>,
}

impl Plan {
    fn new(c: &Configuration, config: &ReflectorConfig) -> Result<Self, ConfigError> {
        let mut addresses: Vec<u128> = config.addresses.iter().map(|a| address_bits(*a)).collect();
        addresses.sort_unstable();
        let port = common::port(c, "reflector.port", &config.port)?;
        Ok(Self { ports: c.ports.clone(), port, number: config.number, addresses })
    }
}

/// The next plan, and afterwards what it replaced.
#[derive(Debug)]
pub(crate) struct Next {
    before: Arc<Plan>,
    plan: Arc<Plan>,
}

impl Next {
    pub(crate) fn prepare(running: &Arc<Plan>, c: &Configuration) -> Result<Self, ConfigError> {
        let Function::Reflector(config) = &c.function else {
            return Err(common::other_function("reflector"));
        };
        common::same_ports(&running.ports, c)?;
        Ok(Self { before: running.clone(), plan: Arc::new(Plan::new(c, config)?) })
    }
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Reflector {
    plan: Arc<Plan>,
    drops: Drops,
    answered: u64,
    stamped: u64,
}

impl Reflector {
    pub(crate) fn new(c: &Configuration, config: &ReflectorConfig) -> Result<Self, ConfigError> {
        let plan = Arc::new(Plan::new(c, config)?);
        Ok(Self { plan, drops: Drops::default(), answered: 0, stamped: 0 })
    }

    fn is_ours(&self, address: u128) -> bool {
        self.plan.addresses.binary_search(&address).is_ok()
    }

    /// Rewrites the frame into its answer; its length.
    fn answer(&mut self, frame: &mut [u8]) -> Result<usize, DropReason> {
        let parsed = packet::parse(frame)?;
        let to_us = frame.starts_with(&self.plan.port.mac);
        let to_group = frame.first().is_some_and(|b| b & 1 != 0);
        match parsed {
            Parsed::Arp(at) if to_us || to_group => self.arp(frame, at),
            Parsed::Ip(packet) if packet.message == Message::NeighbourSolicitation && (to_us || to_group) => {
                self.solicitation(frame, &packet)
            }
            Parsed::Ip(packet) if to_us => self.ip(frame, &packet),
            _ => Err(DropReason::NotOurs),
        }
    }

    fn arp(&self, frame: &mut [u8], at: usize) -> Result<usize, DropReason> {
        let arp = neighbour::arp(frame, at).ok_or(DropReason::Arp)?;
        if !arp.request || arp.sender == arp.target || !self.is_ours(v4_bits(arp.target)) {
            return Err(DropReason::NeighbourIgnored);
        }
        neighbour::answer_arp(frame, at, self.plan.port.mac).ok_or(DropReason::Truncated)
    }

    fn solicitation(&self, frame: &mut [u8], packet: &Packet) -> Result<usize, DropReason> {
        let asked = neighbour::discovery(frame, packet).ok_or(DropReason::NeighbourDiscovery)?;
        if !self.is_ours(asked.target) {
            return Err(DropReason::NeighbourIgnored);
        }
        neighbour::answer_solicitation(frame, packet, self.plan.port.mac).ok_or(DropReason::Truncated)
    }

    fn ip(&mut self, frame: &mut [u8], packet: &Packet) -> Result<usize, DropReason> {
        if !self.is_ours(packet.destination) {
            return Err(DropReason::NoService);
        }
        if !packet.transport_checksum_is_right(frame) {
            return Err(DropReason::TransportChecksum);
        }
        let end = match (packet.protocol, packet.message) {
            (UDP, _) => self.udp(frame, packet),
            (TCP, _) => self.tcp(frame, packet),
            (_, Message::EchoRequest) => echo(frame, packet),
            _ => Err(DropReason::NoService),
        }?;
        turn_around(frame, packet, end).ok_or(DropReason::Truncated)?;
        neighbour::swap_macs(frame, self.plan.port.mac).ok_or(DropReason::Truncated)?;
        Ok(pad(frame, end))
    }

    /// Swaps ports and stamps; the checksum only changes by the stamp.
    fn udp(&mut self, frame: &mut [u8], packet: &Packet) -> Result<usize, DropReason> {
        let datagram = frame.get_mut(packet.l4..packet.end).ok_or(DropReason::Truncated)?;
        let (header, payload) =
            datagram.split_first_chunk_mut::<UDP_HEADER>().ok_or(DropReason::UdpHeader)?;
        swap_ports(header);
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = payload.get_mut(..length - UDP_HEADER).ok_or(DropReason::UdpHeader)?;
        if let Some(before) = probe::stamp(payload, self.plan.number) {
            self.stamped += 1;
            let sum = u16::from_be_bytes([header[6], header[7]]);
            if sum != 0 {
                // Zero would mean "none" (RFC 768): its other form in one's complement is all ones.
                let sum = match checksum::updated(sum, before, self.plan.number) {
                    0 => u16::MAX,
                    sum => sum,
                };
                header[6..].copy_from_slice(&sum.to_be_bytes());
            }
        }
        Ok(packet.l4 + length)
    }

    fn tcp(&mut self, frame: &mut [u8], packet: &Packet) -> Result<usize, DropReason> {
        let segment = frame.get_mut(packet.l4..packet.end).ok_or(DropReason::Truncated)?;
        let header = usize::from(*segment.get(12).ok_or(DropReason::TcpHeader)? >> 4) * 4;
        let reply = tcp_reply(packet, segment, segment.len() - header)?;
        // Options end here: they were about the other direction.
        segment.copy_within(header.., TCP_HEADER);
        let (h, payload) = segment.split_first_chunk_mut::<TCP_HEADER>().ok_or(DropReason::TcpHeader)?;
        swap_ports(h);
        h[4..8].copy_from_slice(&reply.sequence.to_be_bytes());
        h[8..12].copy_from_slice(&reply.acknowledged.to_be_bytes());
        h[12] = 5 << 4;
        h[13] = reply.flags;
        h[14..16].copy_from_slice(&WINDOW.to_be_bytes());
        h[16..20].fill(0);
        if probe::stamp(payload.get_mut(..reply.payload).unwrap_or_default(), self.plan.number).is_some() {
            self.stamped += 1;
        }
        let end = packet.l4 + TCP_HEADER + reply.payload;
        // The pseudo header is symmetric in its addresses: it may be summed before they are swapped.
        let sum = packet.pseudo_header(frame, end - packet.l4) + checksum::sum(&frame[packet.l4..end]);
        frame[packet.l4 + 16..packet.l4 + 18].copy_from_slice(&checksum::finish(sum).to_be_bytes());
        Ok(end)
    }
}

struct TcpReply {
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    payload: usize,
}

/// What answers a segment with `payload` bytes of data.
fn tcp_reply(packet: &Packet, segment: &[u8], payload: usize) -> Result<TcpReply, DropReason> {
    let h: &[u8; TCP_HEADER] = segment.first_chunk().ok_or(DropReason::TcpHeader)?;
    let sequence = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
    let acknowledged = u32::from_be_bytes([h[8], h[9], h[10], h[11]]);
    let length = u32::try_from(payload).map_err(|_| DropReason::Truncated)?;
    match packet.tcp_flags & (SYN | ACK | RST | FIN) {
        SYN => Ok(TcpReply {
            sequence: initial_sequence(packet),
            acknowledged: sequence.wrapping_add(1),
            flags: SYN | ACK,
            payload: 0,
        }),
        flags if flags & (SYN | RST) != 0 => Err(DropReason::Consumed),
        flags if flags & FIN != 0 => Ok(TcpReply {
            sequence: acknowledged,
            acknowledged: sequence.wrapping_add(length).wrapping_add(1),
            flags: FIN | ACK,
            payload,
        }),
        _ if payload == 0 => Err(DropReason::Consumed),
        _ => Ok(TcpReply {
            sequence: acknowledged,
            acknowledged: sequence.wrapping_add(length),
            flags: PSH | ACK,
            payload,
        }),
    }
}

fn initial_sequence(packet: &Packet) -> u32 {
    let hash = maglev::hash_words(packet.source, packet.destination, packet.ports, packet.protocol);
    (hash & 0xffff_ffff) as u32
}

fn swap_ports(header: &mut [u8]) {
    header[..4].rotate_left(2);
}

/// Echo request to echo reply; its checksum anew.
fn echo(frame: &mut [u8], packet: &Packet) -> Result<usize, DropReason> {
    let reply = if packet.protocol == ICMP { 0 } else { 129 };
    let pseudo = packet.pseudo_header(frame, packet.end - packet.l4);
    let message = frame.get_mut(packet.l4..packet.end).ok_or(DropReason::Truncated)?;
    message[0] = reply;
    message[2..4].fill(0);
    let sum = checksum::finish(pseudo + checksum::sum(message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Ok(packet.end)
}

/// Swaps the IP addresses and writes length, hop limit and header checksum for a packet that ends at `end`.
fn turn_around(frame: &mut [u8], packet: &Packet, end: usize) -> Option<()> {
    if packet.v6 {
        let h: &mut [u8; IPV6_HEADER] = frame.get_mut(packet.l3..)?.first_chunk_mut()?;
        h[8..40].rotate_left(16);
        h[4..6].copy_from_slice(&u16::try_from(end - packet.l3 - IPV6_HEADER).ok()?.to_be_bytes());
        h[7] = HOPS;
        return Some(());
    }
    let h = frame.get_mut(packet.l3..packet.l4)?;
    h[12..20].rotate_left(4);
    h[2..4].copy_from_slice(&u16::try_from(end - packet.l3).ok()?.to_be_bytes());
    h[8] = HOPS;
    h[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(h));
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Zeroes what follows the packet up to the shortest frame; the frame's length.
fn pad(frame: &mut [u8], end: usize) -> usize {
    let length = end.max(MIN_FRAME.min(frame.len()));
    if let Some(padding) = frame.get_mut(end..length) {
        padding.fill(0);
    }
    length
}

impl<F: Frame> PacketFunction<F> for Reflector {
    fn process(&mut self, _now_us: u64, ingress: PortIndex, frame: &mut F) -> Verdict {
        if ingress != self.plan.port.index {
            return self.drops.drop(DropReason::UnknownPort);
        }
        match self.answer(frame.bytes_mut()) {
            Ok(length) if frame.resize(length) => {
                self.answered += 1;
                Verdict::Forward { port: ingress }
            }
            Ok(_) => self.drops.drop(DropReason::Truncated),
            Err(reason) => self.drops.drop(reason),
        }
    }

    fn tick(&mut self, _now_us: u64) {}

    fn basis(&self) -> Basis {
        Basis(Kind::Reflector(self.plan.clone()))
    }

    fn swap(&mut self, prepared: Prepared) -> Result<Retired, ConfigError> {
        match prepared.0 {
            Kind::Reflector(mut next) if Arc::ptr_eq(&next.before, &self.plan) => {
                mem::swap(&mut self.plan, &mut next.plan);
                Ok(Retired(Prepared(Kind::Reflector(next))))
            }
            Kind::Reflector(_) => Err(prepare::stale()),
            other => Err(common::prepared_for(other.name(), "reflector")),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            drops: self.drops.clone(),
            totals: vec![("reflector.answered", self.answered), ("reflector.stamped", self.stamped)],
            named: Kind::Reflector(()),
            connections: 0,
            half_open: 0,
        }
    }

    fn connections(&self) -> u64 {
        0
    }
}
