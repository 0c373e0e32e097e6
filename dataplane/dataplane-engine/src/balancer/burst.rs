//! A burst in stages, as the firewall's: all headers; where all connections are; then, in their order, what each frame does.
//!
//! What is simple and of a live, open connection whose packets' connection ids are not read is done here. Everything else goes the way of a
//! single frame, which looks again from the start: whatever the frames before it changed, it finds.
//!
//! Tests: `a_burst_is_its_frames_in_turn` in `tests/balancer.rs`.

use super::{
    ANSWERED, Balancer, CARRIED, CONFIRMED, Carried, DIRECT, FINS, QUIC, RESET, Returned, State, mac_bits,
    nat::Becomes, source_mac,
};
use crate::{
    DropReason, Frame, PortIndex, Verdict,
    chain::InRow,
    common::UNCONFIRMED_MS,
    hash::v4_bits,
    key::{Side, V4Key},
    machine::{Machine, Work},
    maglev,
    packet::{self, Header, IPV4_HEADER, Message, Packet, SYN, Simple, TCP},
    table::{Entry, Sought},
};

/// Frames that are handled together.
pub(super) const BURST: usize = 64;

/// What a simple frame of a known connection is judged by.
#[derive(Clone, Copy)]
struct Known {
    now_ms: u32,
    idle_ms: u32,
    unconfirmed_ms: u32,
    generation: u32,
}

impl Known {
    /// Whether a frame does no more to its connection than to renew it.
    #[inline]
    fn renews(&self, entry: &Entry<State>) -> bool {
        let State { flags, generation, .. } = entry.value;
        let lifetime_ms = if flags & CONFIRMED != 0 { self.idle_ms } else { self.unconfirmed_ms };
        let idle_ms = self.now_ms.wrapping_sub(entry.last_ms);
        (flags & (FINS | RESET | QUIC) == 0) & (idle_ms <= lifetime_ms) & (generation == self.generation)
    }
}

/// What is known of the frames of a burst.
#[derive(Debug)]
pub(super) struct Scratch {
    sought: [Sought; BURST],
    slots: [u32; BURST],
    /// NAT replies, sought as their clients see them: a bit each.
    translated: u64,
    count: usize,
}

impl Scratch {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self { sought: [Sought::NOTHING; BURST], slots: [u32::MAX; BURST], translated: 0, count: 0 })
    }
}

/// What is done with frames of one port, as in the firewall.
enum Phase<'w, F> {
    Whole { frames: &'w mut [F], verdicts: &'w mut [Verdict] },
    Seek { headers: &'w [Header] },
    Find,
    Decide { first: usize, frames: &'w mut [F], verdicts: &'w mut [Verdict], onward: &'w mut u64 },
}

struct Together<'w, M, F> {
    balancer: &'w mut Balancer<M>,
    scratch: &'w mut Scratch,
    now_ms: u32,
    side: Side,
    phase: Phase<'w, F>,
}

impl<M: Machine, F: Frame> Work for Together<'_, M, F> {
    #[inline(always)]
    fn done(self) {
        let Self { balancer, scratch, now_ms, side, phase } = self;
        match phase {
            Phase::Whole { frames, verdicts } => {
                for (frames, verdicts) in frames.chunks_mut(BURST).zip(verdicts.chunks_mut(BURST)) {
                    match side {
                        Side::Near => balancer.stages::<true, F>(scratch, now_ms, frames, verdicts),
                        Side::Far => balancer.stages::<false, F>(scratch, now_ms, frames, verdicts),
                    }
                }
            }
            Phase::Seek { headers } => balancer.seek(scratch, now_ms, side, headers),
            Phase::Find => balancer.find(scratch),
            Phase::Decide { first, frames, verdicts, onward } => {
                *onward = match side {
                    Side::Near => balancer.judge::<true, F>(scratch, now_ms, first, frames, verdicts),
                    Side::Far => balancer.judge::<false, F>(scratch, now_ms, first, frames, verdicts),
                }
            }
        }
    }
}

impl<M: Machine> Balancer<M> {
    fn together<F: Frame>(&mut self, now_us: u64, side: Side, phase: Phase<'_, F>) {
        let now_ms = self.clock.advance(now_us);
        let Some(mut scratch) = self.scratch.take() else { return };
        M::run(Together { balancer: self, scratch: &mut scratch, now_ms, side, phase });
        self.scratch = Some(scratch);
    }

    /// A burst from one side.
    pub(super) fn whole<F: Frame>(
        &mut self,
        now_us: u64,
        side: Side,
        frames: &mut [F],
        verdicts: &mut [Verdict],
    ) {
        self.together(now_us, side, Phase::Whole { frames, verdicts });
    }

    #[inline(always)]
    fn stages<const NEAR: bool, F: Frame>(
        &mut self,
        scratch: &mut Scratch,
        now_ms: u32,
        frames: &mut [F],
        verdicts: &mut [Verdict],
    ) {
        let side = if NEAR { Side::Near } else { Side::Far };
        self.look(now_ms, BURST);
        let nat = !NEAR && self.plan.vips.translate(false);
        scratch.translated = 0;
        scratch.count = frames.len().min(BURST);
        for ((frame, sought), bit) in frames.iter().zip(&mut scratch.sought).zip(0..) {
            let mut simple = packet::simple(frame.bytes());
            if nat && let Some(as_seen) = self.as_seen(&simple) {
                simple = as_seen;
                scratch.translated |= 1 << bit;
            }
            *sought = match simple.tcp_flags & SYN == 0 {
                true => Sought::of(V4Key::of(simple.addresses, simple.ports, simple.protocol, side)),
                false => Sought::NOTHING,
            };
            self.table.seek::<M>(sought);
        }
        self.find(scratch);
        let _onward = self.judge::<NEAR, F>(scratch, now_ms, 0, frames, verdicts);
    }

    /// Where connections of frames with these headers are is asked for.
    #[inline(always)]
    fn seek(&mut self, scratch: &mut Scratch, now_ms: u32, side: Side, headers: &[Header]) {
        self.look(now_ms, BURST);
        let nat = side == Side::Far && self.plan.vips.translate(false);
        scratch.translated = 0;
        scratch.count = headers.len().min(BURST);
        for ((header, sought), bit) in headers.iter().zip(&mut scratch.sought).zip(0..) {
            if header.rest.tcp_flags & SYN != 0 {
                *sought = Sought::NOTHING;
                continue;
            }
            if nat && let Some(seen) = self.as_seen(&header.rest.simple(header.key, side)) {
                *sought = Sought::of(V4Key::of(seen.addresses, seen.ports, seen.protocol, side));
                scratch.translated |= 1 << bit;
                self.table.seek::<M>(sought);
                continue;
            }
            *sought = Sought::of(header.key);
            self.table.seek_hashed::<M>(sought, header.hash);
        }
    }

    /// The connections are asked for.
    #[inline(always)]
    fn find(&self, scratch: &mut Scratch) {
        let Scratch { sought, slots, count, .. } = scratch;
        for (sought, slot) in sought.iter().zip(slots).take(*count) {
            *slot = self.table.candidate::<M>(sought).slot;
        }
    }

    /// Decides on frames that were found, from the `first` on, in their order; which go on to the other side, a bit each.
    #[inline(always)]
    fn judge<const NEAR: bool, F: Frame>(
        &mut self,
        scratch: &Scratch,
        now_ms: u32,
        first: usize,
        frames: &mut [F],
        verdicts: &mut [Verdict],
    ) -> u64 {
        let side = if NEAR { Side::Near } else { Side::Far };
        let plan = self.plan.clone();
        let out = plan.pair.on(side.other());
        let macs = (mac_bits(plan.pair.on(side).mac), mac_bits(out.mac));
        let idle_ms = plan.timeouts.idle_ms;
        let unconfirmed_ms = UNCONFIRMED_MS.min(idle_ms);
        let known = Known { now_ms, idle_ms, unconfirmed_ms, generation: plan.generation };
        let forward = Verdict::Forward { port: out.index };
        let mut onward = u64::MAX;
        let found = scratch.slots.iter().zip(&scratch.sought).zip(0..64).skip(first);
        for (((frame, verdict), ((slot, sought), at)), bit) in
            frames.iter_mut().zip(verdicts).zip(found).zip(0..)
        {
            let translated = scratch.translated >> at & 1 != 0;
            if !translated
                && self.pass::<NEAR>(&known, *slot, sought, frame.bytes_mut(), macs, &plan.pool.macs)
            {
                *verdict = forward;
                continue;
            }
            let ours = frame.bytes().starts_with(&plan.pair.on(side).mac);
            let entry = self.table.found(*slot, sought).filter(|entry| ours && known.renews(entry));
            *verdict = match entry.map(|entry| entry.value) {
                Some(state) if translated | (state.flags & CARRIED != 0) => {
                    self.translate::<NEAR, F>(now_ms, *slot, state, sought, translated, frame)
                }
                _ => self.one(now_ms, side, frame),
            };
            onward &= !(u64::from(*verdict != forward) << bit);
        }
        onward
    }

    /// One more frame, from one of our addresses to the next and to us, of an `l2` connection that goes on; false: it is something else, and
    /// nothing was done. `macs` are ours on the two sides, `backends` those of the pool's slots.
    #[inline(always)]
    fn pass<const NEAR: bool>(
        &mut self,
        known: &Known,
        slot: u32,
        sought: &Sought,
        frame: &mut [u8],
        macs: (u64, u64),
        backends: &[u64],
    ) -> bool {
        let (Some(entry), Some(head)) = (self.table.found(slot, sought), frame.first_chunk_mut::<12>())
        else {
            return false;
        };
        let State { flags, backend, service, client_mac, .. } = entry.value;
        if !known.renews(entry) | (flags & CARRIED != 0) | (first_mac(head) != macs.0) {
            return false;
        }
        let to = if NEAR {
            let (backend, service) = (usize::from(backend), usize::from(service));
            let counts = (self.counts.get_mut(backend), self.vip_counts.get_mut(service));
            let (Some(to), (Some(count), Some(of_vip))) = (backends.get(backend), counts) else {
                return false;
            };
            count.frames += 1;
            of_vip.frames += 1;
            entry.value.client_mac.copy_from_slice(&head[6..]);
            *to
        } else {
            mac_bits(client_mac)
        };
        entry.value.flags = flags | heard::<NEAR>(flags, sought.key.protocol());
        entry.last_ms = known.now_ms;
        let (low, high) = (to | macs.1 << 48, (macs.1 >> 16 & 0xffff_ffff) as u32);
        head[..8].copy_from_slice(&low.to_le_bytes());
        head[8..].copy_from_slice(&high.to_le_bytes());
        true
    }

    /// What a frame that is no more than one more changes of its connection.
    #[inline]
    fn renew<const NEAR: bool>(&mut self, now_ms: u32, slot: u32, was: State, sought: &Sought, frame: &[u8]) {
        let Some(entry) = self.table.get(slot) else { return };
        entry.last_ms = now_ms;
        entry.value.flags = was.flags | heard::<NEAR>(was.flags, sought.key.protocol());
        if NEAR {
            entry.value.client_mac = source_mac(frame);
        }
    }

    /// A simple packet from a backend as its client sees it, if it is a NAT reply.
    #[inline]
    fn as_seen(&self, simple: &Simple) -> Option<Simple> {
        let service = self.plan.vips.answered_from((simple.ports >> 16) as u16, simple.protocol, false)?;
        if self.plan.vips.has_address(v4_bits(simple.addresses.0)) {
            return None;
        }
        let address = (service.address & 0xffff_ffff) as u32;
        Some(Simple {
            addresses: (address, simple.addresses.1),
            ports: u32::from(service.port) << 16 | simple.ports & 0xffff,
            ..*simple
        })
    }

    /// A simple frame of a connection in another mode.
    #[inline]
    fn translate<const NEAR: bool, F: Frame>(
        &mut self,
        now_ms: u32,
        slot: u32,
        state: State,
        sought: &Sought,
        translated: bool,
        frame: &mut F,
    ) -> Verdict {
        let side = if NEAR { Side::Near } else { Side::Far };
        // It is there: the header is what made the frame simple.
        let Some(packet) = packet_of(frame.bytes()) else { return self.one(now_ms, side, frame) };
        if !NEAR && !self.comes_from(&state, packet.source, false, translated) {
            return self.one(now_ms, side, frame);
        }
        self.renew::<NEAR>(now_ms, slot, state, sought, frame.bytes());
        match self.rewritten::<NEAR, F>(now_ms, &state, packet, translated, frame) {
            Ok(port) => Verdict::Forward { port },
            Err(reason) => self.drops.drop(reason),
        }
    }

    #[inline]
    fn rewritten<const NEAR: bool, F: Frame>(
        &mut self,
        now_ms: u32,
        state: &State,
        packet: Packet,
        translated: bool,
        frame: &mut F,
    ) -> Result<PortIndex, DropReason> {
        let State { client_mac, backend, service, .. } = *state;
        if NEAR {
            let hash = maglev::hash_words(packet.source, packet.destination, packet.ports, packet.protocol);
            self.count(service, backend);
            return self.carry(now_ms, &Carried { packet, quoted: 0, service, backend, hash }, frame);
        }
        if !translated {
            return self.address(frame.bytes_mut(), Side::Near, client_mac);
        }
        let service = self.plan.vips.get(service).ok_or(DropReason::NoService)?;
        let service = Becomes { address: service.address, port: service.port };
        self.give_back(&Returned { packet, quoted: 0, client_mac, service }, frame)
    }
}

/// What [`packet::parse`] says of a frame that [`packet::simple`] took.
#[inline]
fn packet_of(frame: &[u8]) -> Option<Packet> {
    const L3: usize = 14;
    let h: &[u8; IPV4_HEADER + 4] = frame.get(L3..)?.first_chunk()?;
    let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    Some(Packet {
        source: v4_bits(word(12)),
        destination: v4_bits(word(16)),
        ports: word(20),
        vlan: 0,
        protocol: h[9],
        v6: false,
        tcp_flags: 0,
        message: Message::None,
        icmp: 0,
        l3: L3,
        l4: L3 + IPV4_HEADER,
        end: L3 + usize::from(u16::from_be_bytes([h[2], h[3]])),
    })
}

/// Of a frame's first octets, which it begins with.
#[inline(always)]
fn first_mac(macs: &[u8; 12]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *macs;
    u64::from_le_bytes([a, b, c, d, e, f, g, h]) & 0xffff_ffff_ffff
}

/// What is known of a connection by one more frame, which is neither SYN nor RST.
#[inline(always)]
fn heard<const NEAR: bool>(flags: u8, protocol: u8) -> u8 {
    match NEAR {
        true if flags & (ANSWERED | DIRECT) != 0 => CONFIRMED,
        true => 0,
        false if protocol == TCP => ANSWERED,
        false => ANSWERED | CONFIRMED,
    }
}

impl<M: Machine, F: Frame> InRow<F> for Balancer<M> {
    fn seek_all(&mut self, now_us: u64, side: Side, headers: &[Header]) {
        self.together::<F>(now_us, side, Phase::Seek { headers });
    }

    fn find_all(&mut self, now_us: u64, side: Side, _: &[F]) {
        self.together::<F>(now_us, side, Phase::Find);
    }

    fn judge_run(
        &mut self,
        now_us: u64,
        side: Side,
        first: usize,
        frames: &mut [F],
        verdicts: &mut [Verdict],
    ) -> u64 {
        let mut onward = 0;
        self.together(now_us, side, Phase::Decide { first, frames, verdicts, onward: &mut onward });
        onward
    }

    fn settle(&mut self) {}

    fn keeps_headers(&self) -> bool {
        self.plan.vips.l2
    }
}
