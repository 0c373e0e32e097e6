//! A burst in stages, so that what one frame waits for from memory the others wait for, too: all headers; where all connections are;
//! what the rules say of those that are not there; then, in their order, what each frame does.
//!
//! What is of an established connection, or simple and opens one where nothing but the rules has a say, is done here. Everything else goes the
//! way of a single frame: whatever the frames before it changed, it finds.
//!
//! Tests: `a_burst_is_its_frames_in_turn` in `tests/firewall.rs`.

use super::{
    Firewall, Plan,
    state::{ANSWERED, ESTABLISHED, FROM_FAR, SAMPLED, State, Timeouts},
};
use crate::{
    Frame, Verdict,
    chain::InRow,
    events::Happened,
    key::{Key, Side, V4Key},
    machine::{Machine, Work},
    packet::{self, ACK, FIN, Header, Packet, RST, Rest, SYN, TCP},
    rules::{Decision, Opening},
    table::{Entry, Place, Sought},
};

/// Frames that are handled together.
pub(super) const BURST: usize = 64;

/// What a simple packet of an established connection is judged by.
#[derive(Clone, Copy)]
struct Known {
    now_ms: u32,
    side: Side,
    timeouts: Timeouts,
    generation: u32,
}

impl Known {
    /// The rule of a connection that goes on, which is renewed; `None`: nothing was done, and there is more to see.
    #[inline]
    fn renew(&self, entry: &mut Entry<State>, protocol: u8) -> Option<u32> {
        const STEADY: u16 = ANSWERED | ESTABLISHED;
        let flags = entry.value.flags;
        let (lifetime_ms, steady) = match protocol {
            TCP => (self.timeouts.tcp, flags & !(FROM_FAR | SAMPLED) == STEADY),
            // The first answer is written down.
            _ => {
                let asks = (flags & FROM_FAR == 0) == (self.side == Side::Near);
                (self.timeouts.udp(flags), asks | (flags & ANSWERED != 0))
            }
        };
        let idle_ms = self.now_ms.wrapping_sub(entry.last_ms);
        if !steady | (idle_ms > lifetime_ms) | (entry.value.generation != self.generation) {
            return None;
        }
        entry.last_ms = self.now_ms;
        Some(entry.value.rule)
    }
}

/// What is known of the frames of a burst; kept between bursts, for it takes time to clear.
#[derive(Debug)]
pub(super) struct Scratch {
    headers: [Rest; BURST],
    sought: [Sought; BURST],
    slots: [u32; BURST],
    /// Frames of which nothing is known.
    fresh: [u8; BURST],
    openings: [Opening; BURST],
    /// By frame.
    decided: [Option<Decision>; BURST],
    /// Simple frames of IPv6, and by frame which of these it is, counted from 1.
    six: [Six; BURST],
    six_of: [u8; BURST],
    sixes: usize,
    /// How many frames there are, and of how many of `fresh` the rules said something.
    count: usize,
    decisions: usize,
}

/// A simple frame of IPv6.
#[derive(Debug, Clone, Copy)]
struct Six {
    packet: Packet,
    key: Key,
    place: Place,
    /// Where its connection probably is.
    slot: u32,
}

impl Six {
    const NOTHING: Self =
        Self { packet: Packet::NOTHING, key: Key::VACANT, place: Place::NOWHERE, slot: u32::MAX };
}

impl Scratch {
    /// Before the next burst.
    fn settle(&mut self) {
        for at in self.fresh.iter().take(self.decisions) {
            self.decided[usize::from(*at) % BURST] = None;
        }
        self.decisions = 0;
        if std::mem::take(&mut self.sixes) > 0 {
            self.six_of = [0; BURST];
        }
    }

    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            headers: [Rest::NOTHING; BURST],
            sought: [Sought::NOTHING; BURST],
            slots: [0; BURST],
            fresh: [0; BURST],
            openings: [Opening::default(); BURST],
            decided: [None; BURST],
            six: [Six::NOTHING; BURST],
            six_of: [0; BURST],
            sixes: 0,
            count: 0,
            decisions: 0,
        })
    }
}

/// What is done with frames of one port.
enum Phase<'w, F> {
    /// All of it.
    Whole { frames: &'w mut [F], verdicts: &'w mut [Verdict] },
    /// In a row of functions: where their connections are is asked for,
    Seek { headers: &'w [Header] },
    /// then the connections,
    Find { frames: &'w [F] },
    /// then some of them are decided on, from the `first` on; which go on to the other side.
    Decide { first: usize, frames: &'w mut [F], verdicts: &'w mut [Verdict], onward: &'w mut u64 },
}

struct Together<'w, M, F> {
    firewall: &'w mut Firewall<M>,
    scratch: &'w mut Scratch,
    now_ms: u32,
    side: Side,
    phase: Phase<'w, F>,
}

impl<M: Machine, F: Frame> Work for Together<'_, M, F> {
    #[inline(always)]
    fn done(self) {
        let Self { firewall, scratch, now_ms, side, phase } = self;
        match phase {
            Phase::Whole { frames, verdicts } => {
                for (frames, verdicts) in frames.chunks_mut(BURST).zip(verdicts.chunks_mut(BURST)) {
                    match side {
                        Side::Near => firewall.stages::<true, F>(scratch, now_ms, frames, verdicts),
                        Side::Far => firewall.stages::<false, F>(scratch, now_ms, frames, verdicts),
                    }
                }
            }
            Phase::Seek { headers } => firewall.seek(scratch, now_ms, headers),
            Phase::Find { frames } => firewall.find(scratch, side, frames),
            Phase::Decide { first, frames, verdicts, onward } => {
                *onward = match side {
                    Side::Near => firewall.judge::<true, F>(scratch, now_ms, first, frames, verdicts),
                    Side::Far => firewall.judge::<false, F>(scratch, now_ms, first, frames, verdicts),
                }
            }
        }
    }
}

impl<M: Machine> Firewall<M> {
    fn together<F: Frame>(&mut self, now_us: u64, side: Side, phase: Phase<'_, F>) {
        let now_ms = self.clock.advance(now_us);
        let Some(mut scratch) = self.scratch.take() else { return };
        M::run(Together { firewall: self, scratch: &mut scratch, now_ms, side, phase });
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
        let count = frames.len().min(verdicts.len()).min(BURST);
        let (frames, verdicts) = (&mut frames[..count], &mut verdicts[..count]);
        let Scratch { headers, sought, .. } = scratch;
        for at in 0..count {
            let simple = packet::simple(frames[at].bytes());
            headers[at] = Rest::of(&simple);
            sought[at].key = V4Key::of(simple.addresses, simple.ports, simple.protocol, side);
        }
        for sought in sought.iter_mut().take(count) {
            self.table.seek::<M>(sought);
        }
        scratch.count = count;
        self.find(scratch, side, frames);
        let _onward = self.judge::<NEAR, F>(scratch, now_ms, 0, frames, verdicts);
        scratch.settle();
    }

    /// Where connections of frames with these headers are is asked for.
    #[inline(always)]
    fn seek(&mut self, scratch: &mut Scratch, now_ms: u32, headers: &[Header]) {
        // More than may come new; what is over leaves its lines near for those.
        self.look(now_ms, BURST);
        scratch.count = headers.len().min(BURST);
        for ((header, rest), sought) in headers.iter().zip(&mut scratch.headers).zip(&mut scratch.sought) {
            *rest = header.rest;
            sought.key = header.key;
            self.table.seek_hashed::<M>(sought, header.hash);
        }
    }

    /// The connections are asked for, and what is of none is looked up in the rules.
    #[inline(always)]
    fn find<F: Frame>(&self, scratch: &mut Scratch, side: Side, frames: &[F]) {
        let Scratch { sought, slots, fresh, count, .. } = scratch;
        // Where checksums are looked at, all frames go one by one.
        let count = if self.guards.policy.verify_checksums { 0 } else { *count };
        let mut missing = 0;
        for at in 0..count.min(BURST) {
            let candidate = self.table.candidate::<M>(&sought[at]);
            slots[at] = candidate.slot;
            // Below a burst.
            fresh[missing % BURST] = u8::try_from(at).unwrap_or(0);
            missing += usize::from(candidate.missing);
        }
        scratch.decisions =
            if missing > 0 { self.decide_on_missing(scratch, missing, side, frames) } else { 0 };
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
        let forward = Verdict::Forward { port: self.plan.pair.on(side.other()).index };
        if self.guards.policy.verify_checksums {
            return frames.iter_mut().zip(verdicts).zip(0..).fold(0, |onward, ((frame, verdict), bit)| {
                *verdict = self.one(now_ms, side, frame);
                onward | u64::from(*verdict == forward) << bit
            });
        }
        let Plan { timeouts, generation, .. } = *self.plan;
        let known = Known { now_ms, side, timeouts, generation };
        let mut onward = u64::MAX;
        let found = scratch.sought.iter().zip(&scratch.slots).zip(&scratch.headers).zip(0..BURST).skip(first);
        for (((frame, verdict), (((sought, slot), header), at)), bit) in
            frames.iter_mut().zip(verdicts).zip(found).zip(0..)
        {
            let opens = header.tcp_flags & SYN != 0;
            let entry = self.table.found(*slot, sought).filter(|_| !opens);
            let Some(rule) = entry.and_then(|entry| known.renew(entry, sought.key.protocol())) else {
                *verdict = self.other(scratch, at, now_ms, side, frame);
                onward &= !(u64::from(*verdict != forward) << bit);
                continue;
            };
            self.count_rule(rule);
            *verdict = forward;
        }
        onward
    }

    /// What is not one more packet of an established connection.
    #[inline(always)]
    fn other<F: Frame>(
        &mut self,
        scratch: &Scratch,
        at: usize,
        now_ms: u32,
        side: Side,
        frame: &mut F,
    ) -> Verdict {
        let (sought, decided) = (&scratch.sought[at % BURST], scratch.decided[at % BURST]);
        match decided.and_then(Decision::simply_allowed_by) {
            Some(rule) if self.open_at_once(now_ms, side, sought, rule) => {
                Verdict::Forward { port: self.plan.pair.on(side.other()).index }
            }
            _ => self.by_itself(scratch, at, now_ms, side, frame),
        }
    }

    /// The way of a single frame.
    #[inline(never)]
    fn by_itself<F: Frame>(
        &mut self,
        scratch: &Scratch,
        at: usize,
        now_ms: u32,
        side: Side,
        frame: &mut F,
    ) -> Verdict {
        let header = scratch.headers[at % BURST];
        if header.protocol == 0 {
            return match scratch.six_of[at % BURST].checked_sub(1) {
                Some(which) => self.six(&scratch.six[usize::from(which) % BURST], now_ms, side, frame),
                None => self.one(now_ms, side, frame),
            };
        }
        let (key, decided) = (scratch.sought[at % BURST].key, scratch.decided[at % BURST]);
        let packet = header.simple(key, side).packet();
        let way = self.connection(now_ms, side, &packet, (key.key(), decided), frame);
        self.verdict(side, way)
    }

    /// Opens a connection that a rule allows, if nothing else has a say and it surely is not there; false: nothing was done.
    #[inline(never)]
    fn open_at_once(&mut self, now_ms: u32, side: Side, sought: &Sought, rule: u32) -> bool {
        let protocol = sought.key.protocol();
        if !self.guards.are_open(protocol) {
            return false;
        }
        let sampled = self.events.sampled_v4(sought.key);
        let flags = if side == Side::Far { FROM_FAR } else { 0 } | if sampled { SAMPLED } else { 0 };
        let state = State { generation: self.plan.generation, rule, flags, counted: 0 };
        let age = self.plan.timeouts.age_at_first(protocol, state, now_ms);
        if !self.table.insert_new::<M>(sought, state, now_ms, age) {
            return false;
        }
        self.guards.opened(protocol, flags);
        self.totals.opened += 1;
        if sampled {
            self.events.happened(Happened::Opened, now_ms, &sought.key.key(), side, rule);
        }
        self.count_rule(rule);
        true
    }

    /// A simple frame of IPv6.
    #[inline]
    fn six<F: Frame>(&mut self, six: &Six, now_ms: u32, side: Side, frame: &mut F) -> Verdict {
        let Six { packet, key, slot, .. } = six;
        let Plan { timeouts, generation, .. } = *self.plan;
        if packet.protocol != TCP || packet.tcp_flags & (SYN | ACK | RST | FIN) == ACK {
            let known = Known { now_ms, side, timeouts, generation };
            let found = self.table.found_key(*slot, key);
            if let Some(rule) = found.and_then(|entry| known.renew(entry, packet.protocol)) {
                self.count_rule(rule);
                return Verdict::Forward { port: self.plan.pair.on(side.other()).index };
            }
        }
        let way = self.connection(now_ms, side, packet, (*key, None), frame);
        self.verdict(side, way)
    }

    /// What the rules say of those frames that are of no connection where it would be looked for first, by frame; later a frame may find
    /// its connection all the same. How many of `fresh` there are now.
    #[inline(never)]
    fn decide_on_missing<F: Frame>(
        &self,
        scratch: &mut Scratch,
        missing: usize,
        side: Side,
        frames: &[F],
    ) -> usize {
        let Scratch { headers, sought, fresh, openings, decided, six, six_of, sixes: all_sixes, .. } =
            scratch;
        let (mut count, mut sixes) = (0, 0);
        let opening = self.plan.rules.opening(side);
        for which in 0..missing.min(BURST) {
            let at = fresh[which];
            let index = usize::from(at) % BURST;
            let Rest { tcp_flags, protocol, .. } = headers[index];
            if protocol != 0 && (protocol != TCP || tcp_flags == SYN) {
                let sought = &sought[index];
                self.table.seek_elsewhere::<M>(sought);
                openings[count % BURST] = opening.of(sought.key, tcp_flags);
                fresh[count % BURST] = at;
                count += 1;
            } else if protocol == 0
                && let Some(packet) = frames.get(index).and_then(|frame| packet::simple_v6(frame.bytes()))
            {
                let key = Key::of(&packet, side);
                six[sixes % BURST] =
                    Six { packet, key, place: self.table.seek_key::<M>(&key), slot: u32::MAX };
                sixes += 1;
                // Below a burst.
                six_of[index] = u8::try_from(sixes).unwrap_or(0);
            }
        }
        *all_sixes = sixes;
        for six in six.iter_mut().take(sixes) {
            six.slot = self.table.candidate_at::<M>(six.place);
        }
        self.table.prefetch_free::<M>(count);
        let openings = openings.get(..count).unwrap_or_default();
        let decisions = self.plan.rules.decide_openings::<M>(side, openings);
        for (at, decision) in fresh.iter().zip(decisions).take(count) {
            decided[usize::from(*at) % BURST] = Some(decision);
        }
        count
    }
}

impl<M: Machine, F: Frame> InRow<F> for Firewall<M> {
    fn seek_all(&mut self, now_us: u64, side: Side, headers: &[Header]) {
        self.together::<F>(now_us, side, Phase::Seek { headers });
    }

    fn find_all(&mut self, now_us: u64, side: Side, frames: &[F]) {
        self.together(now_us, side, Phase::Find { frames });
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

    fn settle(&mut self) {
        if let Some(scratch) = &mut self.scratch {
            scratch.settle();
        }
    }

    fn keeps_headers(&self) -> bool {
        !self.guards.translate()
    }
}
