//! A burst in stages, as the firewall's: all headers; where all connections are; then, in their order, what each frame does.
//!
//! What is simple and of a live, open connection whose packets' connection ids are not read is done here. Everything else goes the way of a
//! single frame, which looks again from the start: whatever the frames before it changed, it finds.
//!
//! Tests: `a_burst_is_its_frames_in_turn` in `tests/balancer.rs`.

use super::{
    ANSWERED, Balancer, CARRIED, CONFIRMED, Carried, DIRECT, FINS, QUIC, RESET, Returned, State,
    nat::Becomes, source_mac,
};
use crate::{
    DropReason, Frame, PortIndex, Verdict,
    common::UNCONFIRMED_MS,
    hash::v4_bits,
    machine::{Machine, Work},
    maglev,
    packet::{self, IPV4_HEADER, Message, Packet, SYN, Simple, TCP},
    table::{Entry, Side, Sought, V4Key},
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

/// Frames of one side, decided on together.
pub(super) struct Together<'w, M, F> {
    pub balancer: &'w mut Balancer<M>,
    pub now_ms: u32,
    pub side: Side,
    pub frames: &'w mut [F],
    pub verdicts: &'w mut [Verdict],
}

impl<M: Machine, F: Frame> Work for Together<'_, M, F> {
    #[inline(always)]
    fn done(self) {
        let Self { balancer, now_ms, side, frames, verdicts } = self;
        for (frames, verdicts) in frames.chunks_mut(BURST).zip(verdicts.chunks_mut(BURST)) {
            balancer.look(now_ms, BURST);
            match side {
                Side::Near => balancer.stages::<true, F>(now_ms, frames, verdicts),
                Side::Far => balancer.stages::<false, F>(now_ms, frames, verdicts),
            }
        }
    }
}

impl<M: Machine> Balancer<M> {
    #[inline(always)]
    fn stages<const NEAR: bool, F: Frame>(
        &mut self,
        now_ms: u32,
        frames: &mut [F],
        verdicts: &mut [Verdict],
    ) {
        let side = if NEAR { Side::Near } else { Side::Far };
        let ours = self.plan.pair.on(side).mac;
        let nat = !NEAR && self.plan.vips.translate(false);
        let mut translated = 0_u64;
        let mut all = [Sought::NOTHING; BURST];
        for ((frame, sought), bit) in frames.iter().zip(&mut all).zip(0..) {
            let bytes = frame.bytes();
            let goes_on = |simple: &Simple| simple.tcp_flags & SYN == 0 && bytes.starts_with(&ours);
            let Some(mut simple) = packet::simple(bytes).filter(goes_on) else { continue };
            if nat && let Some(as_seen) = self.as_seen(&simple) {
                simple = as_seen;
                translated |= 1 << bit;
            }
            let key = V4Key::of(simple.addresses, simple.ports, simple.protocol, side);
            *sought = Sought::of(key);
            self.table.seek::<M>(sought);
        }
        let mut slots = [u32::MAX; BURST];
        for ((_, sought), slot) in frames.iter().zip(&all).zip(&mut slots) {
            *slot = self.table.candidate::<M>(sought).slot;
        }
        let idle_ms = self.plan.timeouts.idle_ms;
        let known = Known {
            now_ms,
            idle_ms,
            unconfirmed_ms: UNCONFIRMED_MS.min(idle_ms),
            generation: self.plan.generation,
        };
        let out = *self.plan.pair.on(side.other());
        for ((((frame, verdict), sought), slot), bit) in
            frames.iter_mut().zip(verdicts).zip(&all).zip(slots).zip(0..)
        {
            let translated = translated >> bit & 1 != 0;
            let entry = self.table.found(slot, sought).filter(|entry| known.renews(entry));
            // As it was before anything is written: a load of what several stores have just written waits for all of them.
            let state = entry.map(|entry| entry.value);
            let plain = |state: &State| !translated & (state.flags & CARRIED == 0);
            *verdict = match state {
                Some(state) if plain(&state) => {
                    self.renew::<NEAR>(now_ms, slot, state, sought, frame.bytes());
                    match self.next_mac::<NEAR>(&state).zip(frame.bytes_mut().first_chunk_mut::<12>()) {
                        Some((to, macs)) => {
                            macs[..6].copy_from_slice(&to);
                            macs[6..].copy_from_slice(&out.mac);
                            Verdict::Forward { port: out.index }
                        }
                        None => self.drops.drop(DropReason::NoBackend),
                    }
                }
                Some(state) => self.translate::<NEAR, F>(now_ms, slot, state, sought, translated, frame),
                None => self.one(now_ms, side, frame),
            };
        }
    }

    /// What a frame that is no more than one more changes of its connection.
    #[inline]
    fn renew<const NEAR: bool>(&mut self, now_ms: u32, slot: u32, was: State, sought: &Sought, frame: &[u8]) {
        let Some(entry) = self.table.get(slot) else { return };
        entry.last_ms = now_ms;
        if NEAR {
            // A simple segment has neither SYN nor RST.
            let confirmed = was.flags & (ANSWERED | DIRECT) != 0;
            entry.value.flags = was.flags | if confirmed { CONFIRMED } else { 0 };
            entry.value.client_mac = source_mac(frame);
        } else {
            let heard = if sought.key.protocol() == TCP { ANSWERED } else { ANSWERED | CONFIRMED };
            entry.value.flags = was.flags | heard;
        }
    }

    /// Where an `l2` connection's frame goes; counted towards the backend.
    #[inline]
    fn next_mac<const NEAR: bool>(&mut self, state: &State) -> Option<[u8; 6]> {
        if !NEAR {
            return Some(state.client_mac);
        }
        let mac = self.plan.pool.slots.get(usize::from(state.backend))?.mac;
        self.count(state.service, state.backend);
        Some(mac)
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
