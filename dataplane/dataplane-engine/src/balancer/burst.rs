//! A burst in stages, as the firewall's: all headers; where all connections are; then, in their order, what each frame does.
//!
//! What is of a live, open connection of an `l2` service and simple is done here. Everything else goes the way of a single frame, which
//! looks again from the start: whatever the frames before it changed, it finds.
//!
//! Tests: `a_burst_is_its_frames_in_turn` in `tests/balancer.rs`.

use super::{ANSWERED, Balancer, CONFIRMED, FINS, RESET, SPECIAL, State, source_mac};
use crate::{
    Frame, Verdict,
    common::UNCONFIRMED_MS,
    machine::Machine,
    packet::{self, TCP},
    table::{Entry, Side, Sought, V4Key},
};

/// Frames that are handled together.
const BURST: usize = 64;

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
        (flags & (FINS | RESET | SPECIAL) == 0) & (idle_ms <= lifetime_ms) & (generation == self.generation)
    }
}

impl<M: Machine> Balancer<M> {
    #[inline]
    pub(super) fn burst_from<F: Frame>(
        &mut self,
        now_ms: u32,
        side: Side,
        frames: &mut [F],
        verdicts: &mut [Verdict],
    ) {
        for (frames, verdicts) in frames.chunks_mut(BURST).zip(verdicts.chunks_mut(BURST)) {
            match side {
                Side::Near => self.stages::<true, F>(now_ms, frames, verdicts),
                Side::Far => self.stages::<false, F>(now_ms, frames, verdicts),
            }
        }
    }

    #[inline]
    fn stages<const NEAR: bool, F: Frame>(
        &mut self,
        now_ms: u32,
        frames: &mut [F],
        verdicts: &mut [Verdict],
    ) {
        let side = if NEAR { Side::Near } else { Side::Far };
        let ours = self.plan.pair.on(side).mac;
        let mut all = [Sought::default(); BURST];
        for (frame, sought) in frames.iter().zip(&mut all) {
            let bytes = frame.bytes();
            let Some(simple) = packet::simple(bytes).filter(|_| bytes.starts_with(&ours)) else { continue };
            let key = V4Key::of(simple.addresses, simple.ports, simple.protocol, side);
            *sought = self.table.seek::<M>(key);
        }
        let mut slots = [u32::MAX; BURST];
        for ((_, sought), slot) in frames.iter().zip(&all).zip(&mut slots) {
            *slot = self.table.candidate::<M>(sought);
        }
        let idle_ms = self.plan.timeouts.idle_ms;
        let known = Known {
            now_ms,
            idle_ms,
            unconfirmed_ms: UNCONFIRMED_MS.min(idle_ms),
            generation: self.plan.generation,
        };
        let out = *self.plan.pair.on(side.other());
        for (((frame, verdict), sought), slot) in frames.iter_mut().zip(verdicts).zip(&all).zip(slots) {
            let entry = self.table.found(slot, sought).filter(|entry| known.renews(entry));
            let next = entry.map(|entry| {
                entry.last_ms = now_ms;
                let state = &mut entry.value;
                if NEAR {
                    // A simple segment has neither SYN nor RST.
                    state.flags |= if state.flags & ANSWERED != 0 { CONFIRMED } else { 0 };
                    state.client_mac = source_mac(frame.bytes());
                } else {
                    state.flags |= if sought.protocol == TCP { ANSWERED } else { ANSWERED | CONFIRMED };
                }
                *state
            });
            let to = next.and_then(|state| match NEAR {
                true => self.backend_mac(&state),
                false => Some(state.client_mac),
            });
            *verdict = match (to, frame.bytes_mut().first_chunk_mut::<12>()) {
                (Some(to), Some(macs)) => {
                    macs[..6].copy_from_slice(&to);
                    macs[6..].copy_from_slice(&out.mac);
                    Verdict::Forward { port: out.index }
                }
                _ => self.one(now_ms, side, frame),
            };
        }
    }

    /// Where a connection's frame goes, counted.
    #[inline]
    fn backend_mac(&mut self, state: &State) -> Option<[u8; 6]> {
        let mac = self.plan.pool.slots.get(usize::from(state.backend))?.mac;
        self.count(state.service, state.backend);
        Some(mac)
    }
}
