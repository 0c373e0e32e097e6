//! Windows against a model with unbounded numbers, and against sessions of two hosts.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small test values; sequence numbers wrap

use super::*;
use proptest::prelude::*;

fn segment(flags: u8, sequence: u32, acknowledged: u32, window: u16, payload: u32) -> Segment {
    let length = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    Segment { sequence, acknowledged, flags, window, length, ..Segment::default() }
}

/// A connection and the flags that the firewall keeps of it.
#[derive(Clone)]
struct Middle {
    windows: Windows,
    answered: bool,
    established: bool,
}

impl Middle {
    fn see(&mut self, from_initiator: bool, segment: &Segment) -> Checked {
        let checked = self.windows.check(from_initiator, self.answered, self.established, segment);
        if checked == Checked::Within && !segment.has(RST) {
            self.answered |= !from_initiator && segment.has(SYN);
            self.established |= from_initiator && self.answered && !segment.has(SYN);
        }
        checked
    }

    /// Established: what each side sends next; windows of 112 and 200 by 4.
    fn established(initiator: u32, responder: u32) -> Self {
        let syn = Segment { scale: Some(0), ..segment(SYN, initiator.wrapping_sub(1), 0, 112, 0) };
        let mut it = Self { windows: Windows::opened(&syn), answered: false, established: false };
        let answer =
            Segment { scale: Some(2), ..segment(SYN | ACK, responder.wrapping_sub(1), initiator, 200, 0) };
        assert_eq!(it.see(false, &answer), Checked::Within);
        assert_eq!(it.see(true, &segment(ACK, initiator, responder, 112, 0)), Checked::Within);
        assert_eq!(it.see(false, &segment(ACK, responder, initiator, 200, 0)), Checked::Within);
        it
    }
}

/// The bounds of the module's head with numbers that never wrap: sides 0 and 1, each number relative to the side's first.
#[derive(Debug, Default, Clone)]
struct Model {
    end: [i64; 2],
    max_end: [i64; 2],
    max_win: [i64; 2],
}

impl Model {
    fn established() -> Self {
        // As `Middle::established`: the SYN-ACK's window is not scaled, the acknowledgement's is.
        Self { end: [0, 0], max_end: [800, 112], max_win: [112, 800] }
    }

    fn see(&mut self, side: usize, start: i64, length: i64, acknowledged: i64, window: i64) -> bool {
        let (s, r) = (side, 1 - side);
        let oldest = self.end[s] - self.max_win[r];
        let least = self.end[r] - self.max_win[s].max(66_000);
        let good = start <= self.max_end[s]
            && start + length >= oldest
            && (least..=self.end[r]).contains(&acknowledged);
        if good {
            let sixteen = |bytes: i64| (bytes.max(1) + 15) / 16 * 16;
            self.max_win[s] = self.max_win[s].max(sixteen(window));
            if start + length > self.max_end[s] {
                self.max_win[r] = sixteen(self.max_win[r] + start + length - self.max_end[s]);
            }
            self.end[s] = self.end[s].max(start + length);
            self.max_end[r] = self.max_end[r].max(acknowledged + window.max(1));
        }
        good
    }
}

proptest! {
    #[test]
    fn decides_as_unbounded_numbers_say(
        first in [any::<u32>(), any::<u32>()],
        steps in proptest::collection::vec(
            (0..2usize, 0..4u8, -3i64..4, 0i64..1500, 0..3u8, -3i64..4, 0u16..2000), 1..200),
    ) {
        let mut middle = Middle::established(first[0], first[1]);
        let mut model = Model::established();
        for (side, where_, off, length, ack_where, ack_off, window) in steps {
            let other = 1 - side;
            let start = off + match where_ {
                0 | 1 => model.end[side],
                2 => model.max_end[side],
                _ => model.end[side] - model.max_win[other] - length,
            };
            let acknowledged = ack_off + match ack_where {
                0 | 1 => model.end[other],
                _ => model.end[other] - model.max_win[side].max(66_000),
            };
            let scaled = i64::from(window) << (2 * side);
            let number = |side: usize, n: i64| first[side].wrapping_add(n as u32);
            let sent = segment(ACK, number(side, start), number(other, acknowledged), window, length as u32);
            let expected = if model.see(side, start, length, acknowledged, scaled) {
                Checked::Within
            } else {
                Checked::Outside
            };
            prop_assert_eq!(middle.see(side == 0, &sent), expected);
        }
    }

    /// Whoever does not see the traffic has to guess: of the 2^32 numbers only those of the windows do.
    #[test]
    fn a_blind_reset_or_segment_is_outside(number: u32, acknowledged: u32, side: bool) {
        let (i, r) = (0x1000_0000, 0x9000_0000);
        let (first, other) = if side { (i, r) } else { (r, i) };
        let near = |a: u32, b: u32, by: u32| a.wrapping_sub(b.wrapping_sub(by)) <= 2 * by;
        let mut middle = Middle::established(i, r);
        let before = middle.windows;
        let reset = middle.see(side, &segment(RST, number, 0, 0, 0));
        prop_assert_eq!(reset == Checked::Outside, !near(number, first, 2000) || number.wrapping_sub(first) > 800);
        if !near(number, first, 2000) || !near(acknowledged, other, 70_000) {
            prop_assert_eq!(middle.see(side, &segment(ACK, number, acknowledged, 10, 10)), Checked::Outside);
            prop_assert_eq!(middle.windows, before);
        }
    }
}

#[test]
fn a_reset_closes_with_the_next_number_only() {
    let start = Middle::established(1000, 5000);
    let reset = |side, number| start.clone().see(side, &segment(RST, number, 0, 0, 0));
    assert_eq!(reset(true, 1000), Checked::Within);
    assert_eq!(reset(true, 1001), Checked::Unproven);
    assert_eq!(reset(true, 1800), Checked::Unproven);
    assert_eq!(reset(true, 1801), Checked::Outside);
    assert_eq!(reset(true, 999), Checked::Outside);
    assert_eq!(reset(false, 5000), Checked::Within);
    assert_eq!(reset(false, 5113), Checked::Outside);
    // With data on the way: what it would be after the data, or what the other side waits for.
    let mut busy = start.clone();
    assert_eq!(busy.see(true, &segment(ACK, 1000, 5000, 100, 300)), Checked::Within);
    for (number, expected) in [(1000, Checked::Within), (1300, Checked::Within), (1100, Checked::Unproven)] {
        assert_eq!(busy.clone().see(true, &segment(RST, number, 0, 0, 0)), expected, "{number}");
    }
}

#[test]
fn a_syn_is_answered_by_what_acknowledges_it() {
    let opened = |first: u32| Middle {
        windows: Windows::opened(&segment(SYN, first, 0, 100, 0)),
        answered: false,
        established: false,
    };
    for first in [7, u32::MAX] {
        let next = first.wrapping_add(1);
        for (flags, acknowledged, expected) in [
            (SYN | ACK, next, Checked::Within),
            (SYN | ACK, first, Checked::Outside),
            (SYN | ACK, next.wrapping_add(1), Checked::Outside),
            (RST | ACK, next, Checked::Within),
            (RST | ACK, first, Checked::Outside),
            (RST, next, Checked::Outside),
            (ACK, 0x5555, Checked::Unproven),
        ] {
            let got = opened(first).see(false, &segment(flags, 99, acknowledged, 100, 0));
            assert_eq!(got, expected, "{flags:x} {acknowledged}");
        }
        // The initiator resets what a challenge showed it (RFC 9293 §3.10.7.3), its own SYN, and nothing else.
        let mut challenged = opened(first);
        assert_eq!(challenged.see(false, &segment(ACK, 99, 0x5555, 100, 0)), Checked::Unproven);
        for (number, expected) in
            [(0x5555, Checked::Within), (next, Checked::Within), (0x5556, Checked::Outside)]
        {
            assert_eq!(challenged.clone().see(true, &segment(RST, number, 0, 0, 0)), expected);
        }
        // Another SYN begins anew; in a connection it is for the other side to challenge.
        let mut again = opened(first);
        assert_eq!(again.see(true, &segment(SYN, 0x7777, 0, 100, 0)), Checked::Within);
        assert_eq!(again.see(false, &segment(SYN | ACK, 99, next, 100, 0)), Checked::Outside);
        assert_eq!(again.see(false, &segment(SYN | ACK, 99, 0x7778, 100, 0)), Checked::Within);
        assert_eq!(again.see(false, &segment(SYN | ACK, 99, 0x7778, 100, 0)), Checked::Within, "sent twice");
        assert_eq!(again.see(true, &segment(SYN, 0x8888, 0, 100, 0)), Checked::Unproven);
        assert_eq!(again.see(true, &segment(ACK, 0x7778, 100, 100, 0)), Checked::Within);
        assert_eq!(again.see(false, &segment(SYN | ACK, 99, 0x7778, 100, 0)), Checked::Unproven);
    }
}

#[test]
fn windows_are_scaled_if_both_sides_say_so() {
    for (one, two, limit) in [(Some(4), Some(4), 1792), (None, Some(4), 112), (Some(4), None, 112)] {
        let syn = Segment { scale: one, ..segment(SYN, 0, 0, 112, 0) };
        let mut it = Middle { windows: Windows::opened(&syn), answered: false, established: false };
        it.see(false, &Segment { scale: two, ..segment(SYN | ACK, 0, 1, 100, 0) });
        it.see(true, &segment(ACK, 1, 1, 112, 0));
        let beyond = segment(ACK, 1 + limit + 1, 1, 100, 1);
        assert_eq!(it.clone().see(false, &beyond), Checked::Outside, "{one:?} {two:?}");
        assert_eq!(it.see(false, &segment(ACK, 1 + limit, 1, 100, 1)), Checked::Within, "{one:?} {two:?}");
    }
}

#[test]
fn options_are_read_whatever_they_are() {
    let read = |bytes: &[u8]| {
        let mut it = Segment::default();
        it.options(bytes);
        (it.mss, it.scale)
    };
    assert_eq!(read(&[2, 4, 5, 0xb4, 1, 3, 3, 7]), (1460, Some(7)));
    assert_eq!(read(&[4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 200]), (0, Some(200)));
    for broken in [&[2][..], &[2, 0], &[2, 1, 3, 3, 7], &[3, 9, 7], &[0, 3, 3, 7], &[3, 2], &[2, 3, 7]] {
        assert_eq!(read(broken), (0, None), "{broken:?}");
    }
    // An absurd shift is the largest (RFC 7323 §2.3).
    assert_eq!(Sent::begin(&Segment { scale: Some(200), ..segment(SYN, 0, 0, 1, 0) }).scale(), 14);
}

/// A host that sends so many bytes and takes what it is sent, slowly.
struct Host {
    initiator: bool,
    first: u32,
    shift: u32,
    buffer: u32,
    to_send: u32,
    /// Relative to `first`: 0 is the SYN.
    una: u32,
    next: u32,
    peer_first: u32,
    peer_shift: u32,
    /// Relative to `peer_first`, as bytes that came out of order.
    taken: u32,
    beyond: std::collections::BTreeMap<u32, u32>,
    unread: u32,
    right_edge: u32,
    /// Relative to `first`: how far the peer's window goes.
    allowed: u32,
    open: bool,
}

impl Host {
    fn all(&self) -> u32 {
        self.to_send + 2
    }

    fn window(&mut self) -> u16 {
        let free = self.buffer - self.unread.min(self.buffer);
        // Never take back what was offered (RFC 9293 §3.8.6).
        let edge = (self.taken + free).max(self.right_edge);
        let raw = ((edge - self.taken) >> self.shift).min(0xffff);
        self.right_edge = self.right_edge.max(self.taken + (raw << self.shift));
        raw as u16
    }

    fn emit(&mut self, start: u32, length: u32) -> Segment {
        let fin = length > 0 && start + length == self.all();
        let flags = ACK | if fin { FIN } else { 0 };
        let payload = length - u32::from(fin);
        let window = self.window();
        segment(
            flags,
            self.first.wrapping_add(start),
            self.peer_first.wrapping_add(self.taken),
            window,
            payload,
        )
    }

    fn syn(&mut self) -> Segment {
        let raw = self.buffer.min(0xffff) as u16;
        let flags = if self.initiator { SYN } else { SYN | ACK };
        let acknowledged = if self.initiator { 0 } else { self.peer_first.wrapping_add(self.taken) };
        if !self.initiator {
            self.right_edge = self.taken + u32::from(raw);
        }
        self.next = self.next.max(1);
        Segment { scale: Some(self.shift as u8), ..segment(flags, self.first, acknowledged, raw, 0) }
    }

    fn take(&mut self, s: &Segment) -> bool {
        if s.has(SYN) {
            self.peer_first = s.sequence;
            self.peer_shift = u32::from(s.scale.unwrap_or(0));
            self.taken = self.taken.max(1);
            if s.has(ACK) {
                self.una = self.una.max(1);
                self.open = true;
            }
            self.allowed = self.allowed.max(1 + u32::from(s.window));
            return true;
        }
        self.open = true;
        let acknowledged = s.acknowledged.wrapping_sub(self.first);
        if acknowledged <= self.next {
            self.una = self.una.max(acknowledged);
            self.allowed = self.allowed.max(acknowledged + (u32::from(s.window) << self.peer_shift));
        }
        let start = s.sequence.wrapping_sub(self.peer_first);
        if s.length > 0 && start < 1 << 31 {
            self.beyond.insert(start, s.length.max(self.beyond.get(&start).copied().unwrap_or(0)));
            while let Some((&start, &length)) = self.beyond.range(..=self.taken).next() {
                self.beyond.remove(&start);
                if start + length > self.taken {
                    self.unread += start + length - self.taken;
                    self.taken = start + length;
                }
            }
        }
        s.length > 0
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A whole session over links that lose `loss` of 100, delay (so that later ones overtake) and repeat; every segment that comes
/// by the middle must be within. How many came by.
fn session(seed: u64, loss: u64) -> usize {
    let mut dice = Dice(seed);
    let host = |initiator: bool, dice: &mut Dice| Host {
        initiator,
        // Numbers that wrap early, often.
        first: 0u32.wrapping_sub(dice.roll(60_000) as u32),
        shift: dice.roll(8) as u32,
        buffer: [900, 8000, 70_000, 400_000][dice.roll(4) as usize],
        to_send: dice.roll(150_000) as u32,
        una: 0,
        next: 0,
        peer_first: 0,
        peer_shift: 0,
        taken: 0,
        beyond: std::collections::BTreeMap::new(),
        unread: 0,
        right_edge: 0,
        allowed: 0,
        open: false,
    };
    let mut hosts = [host(true, &mut dice), host(false, &mut dice)];
    let mut middle: Option<Middle> = None;
    // (time, number, towards the host or still before the middle, of which host, segment)
    let mut wires: std::collections::BTreeMap<(u64, usize), (bool, usize, Segment)> =
        std::collections::BTreeMap::new();
    let (mut count, mut seen) = (0, 0);
    for now in 0..200_000u64 {
        let mut sent: Vec<(usize, Segment)> = vec![];
        while let Some(entry) = wires.first_entry().filter(|e| e.key().0 <= now) {
            let (passed, who, s) = entry.remove();
            if !passed {
                seen += 1;
                let middle = middle.get_or_insert_with(|| Middle {
                    windows: Windows::opened(&s),
                    answered: false,
                    established: false,
                });
                let checked = middle.see(who == 0, &s);
                assert!(
                    checked != Checked::Outside,
                    "seed {seed}, {now}: {who} {s:?} of {:?}",
                    middle.windows
                );
                if dice.roll(100) >= loss {
                    wires.insert((now + 1 + dice.roll(9), count), (true, who, s));
                    count += 1;
                }
                continue;
            }
            let other = 1 - who;
            if hosts[other].take(&s) && hosts[other].peer_first != 0 || hosts[other].taken > 0 && s.length > 0
            {
                let h = &mut hosts[other];
                let answer = if h.una == 0 {
                    h.syn()
                } else {
                    let at = h.next;
                    h.emit(at, 0)
                };
                sent.push((other, answer));
            }
        }
        for (who, h) in hosts.iter_mut().enumerate() {
            h.unread -= h.unread.min(dice.roll(400) as u32);
            let timer = now % 97 == 40 * who as u64;
            if !h.open {
                if who == 0 && now % 50 == 0 || who == 1 && h.taken > 0 && timer {
                    sent.push((who, h.syn()));
                }
                continue;
            }
            let allowed = h.allowed.min(h.all());
            if timer && h.una < h.all() {
                // Again from the first that is not acknowledged, a probe where the window is closed, or keep-alive.
                let edge = if h.allowed <= h.una { h.una + 1 } else { allowed };
                let length = edge.min(h.all()).saturating_sub(h.una).min(1 + dice.roll(1460) as u32);
                let una = h.una;
                h.next = h.next.max(una + length);
                sent.push((who, h.emit(una, length)));
            } else if dice.roll(4) == 0 && h.next < allowed {
                let length = (allowed - h.next).min(1 + dice.roll(1460) as u32);
                let at = h.next;
                h.next += length;
                sent.push((who, h.emit(at, length)));
            } else if dice.roll(300) == 0 && h.next > 1 && h.next < h.all() {
                let before = h.next - 1;
                let alive = Segment { flags: ACK, ..h.emit(before, 0) };
                sent.push((who, alive));
            }
        }
        for (who, s) in sent {
            for _ in 0..1 + u64::from(dice.roll(50) == 0) {
                if dice.roll(100) >= loss {
                    wires.insert((now + 1 + dice.roll(9), count), (false, who, s));
                    count += 1;
                }
            }
        }
        if hosts.iter().all(|h| h.una == h.all()) {
            return seen;
        }
    }
    panic!("seed {seed}: never over: {:?}", hosts.map(|h| (h.una, h.next, h.all(), h.allowed, h.open)));
}

#[test]
fn no_segment_of_an_honest_session_is_outside() {
    let all: usize = (0..60).map(|seed| session(seed, [0, 2, 15][seed as usize % 3])).sum();
    assert!(all > 10_000, "{all}");
}
