//! TCP in the middle: who may send what before the handshake is over, what closes, and, where TCP is strict, segments against
//! the windows of their connection: RFC 9293 §3.10.7.4 as one in the middle can know it.
//!
//! Who is in the middle sees what each side sent, not what arrived. From that follow bounds that no honest segment crosses
//! (van Rooij, "Real Stateful TCP Packet Filtering in IP Filter", 2001; what conntrack does is the same). With *end* the highest
//! sequence number after a side's data, *max_end* the highest that its peer's window ever allowed, and *max_win* the
//! largest window it offered, a segment from S to R passes if
//!
//! - it begins at or before S's *max_end*: not beyond what R allowed;
//! - it ends no more than R's *max_win* before S's *end*: not older than anything R may still wait for;
//! - it acknowledges no more than R's *end*: nothing that R never sent;
//! - and no less than S's *max_win* (or 66,000, whichever is more) below that.
//!
//! Reset (RFC 5961 §3): its number must lie between what R acknowledged and S's *max_end*. Only the next number that R waits for or
//! that S sends closes the connection here; another one passes, for R's challenge ACK to find out, and changes nothing.
//! SYN in a connection (RFC 5961 §4) passes unchanged, for the same reason; so does a challenge ACK.
//! Windows are scaled if both sides said so (RFC 7323 §2.2). Selective acknowledgements are not looked at.
//!
//! Connections that were not seen to open are not checked: [`Windows`] begin with a SYN.
//!
//! Tests: below, against a model with unbounded numbers, and with sessions of two hosts over links that lose, delay and
//! repeat.

use super::state::{ANSWERED, ESTABLISHED, FIN_FROM_INITIATOR, FIN_FROM_RESPONDER, RESET, is_closing};
use crate::{
    DropReason,
    packet::{ACK, FIN, Packet, RST, SYN, TCP_HEADER},
};

/// What a TCP segment does to its connection.
pub(super) enum Step {
    Pass(u16),
    Reopen,
    Drop(DropReason),
}

/// RFC 9293 reduced to what a filter needs: who may send what before the handshake is over, and what closes.
#[inline]
pub(super) fn step(flags: u16, from_initiator: bool, segment: u8) -> Step {
    match segment & (SYN | ACK | RST) {
        SYN if is_closing(flags) => Step::Reopen,
        s if s & RST != 0 => Step::Pass(flags | RESET),
        _ if flags & RESET != 0 => Step::Drop(DropReason::TcpReset),
        SYN if from_initiator => Step::Pass(flags),
        s if s & SYN != 0 && s & ACK != 0 && !from_initiator => Step::Pass(flags | ANSWERED),
        s if s & SYN != 0 => Step::Drop(DropReason::TcpState),
        _ if flags & ANSWERED == 0 && from_initiator => Step::Drop(DropReason::TcpState),
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

/// Largest shift of a window (RFC 7323 §2.3).
const MAX_SCALE: u32 = 14;
/// In place of a shift: the side did not offer to scale.
const NO_SCALE: u32 = 15;
/// An acknowledgement may be that old whatever the window: one of a whole unscaled window, and some.
const LEAST_ACK_WINDOW: u32 = 66_000;

/// What a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Segment {
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    /// As in the header.
    pub window: u16,
    /// Of the sequence space: payload, and one each for SYN and FIN.
    pub length: u32,
    /// Of a SYN: its maximum segment size, 0 if it has none.
    pub mss: u16,
    /// Of a SYN: whether it offers to scale windows, and by which shift.
    pub scale: Option<u8>,
}

impl Segment {
    /// Of a parsed TCP packet; `None` if it is none.
    pub(crate) fn read(frame: &[u8], packet: &Packet) -> Option<Self> {
        let segment = frame.get(packet.l4..packet.end)?;
        let h: &[u8; TCP_HEADER] = segment.first_chunk()?;
        let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        let header = usize::from(h[12] >> 4) * 4;
        let payload = u32::try_from(segment.len().checked_sub(header)?).ok()?;
        let flags = h[13];
        let mut it = Self {
            sequence: word(4),
            acknowledged: word(8),
            flags,
            window: u16::from_be_bytes([h[14], h[15]]),
            length: payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0),
            mss: 0,
            scale: None,
        };
        if flags & SYN != 0 {
            it.options(segment.get(TCP_HEADER..header)?);
        }
        Some(it)
    }

    /// RFC 9293 §3.1: kinds 0 and 1 are a byte; at most 40 bytes. What is malformed ends the list.
    fn options(&mut self, mut options: &[u8]) {
        while let [kind, rest @ ..] = options {
            match (kind, rest) {
                (0, _) => return,
                (1, _) => options = rest,
                (kind, [length, ..]) if *length >= 2 && usize::from(*length) <= options.len() => {
                    let (option, after) = options.split_at(usize::from(*length));
                    match (kind, option) {
                        (2, [_, _, a, b]) => self.mss = u16::from_be_bytes([*a, *b]),
                        (3, [_, _, shift]) => self.scale = Some(*shift),
                        _ => {}
                    }
                    options = after;
                }
                _ => return,
            }
        }
    }

    /// The first sequence number after it.
    pub(crate) fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.length)
    }

    fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// What one side of a connection sent and offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sent {
    end: u32,
    max_end: u32,
    /// The highest number it acknowledged.
    acknowledged: u32,
    /// Largest window offered, bytes, a multiple of 16; in the lowest four bits its shift, or [`NO_SCALE`].
    window: u32,
}

impl Sent {
    fn max_win(&self) -> u32 {
        self.window & !15
    }

    fn scale(&self) -> u32 {
        match self.window & 15 {
            NO_SCALE => 0,
            shift => shift,
        }
    }

    /// Rounds up: a bound may be too wide, never too narrow.
    fn widen(&mut self, bytes: u32) {
        let bytes = bytes.clamp(1, 1 << 30).next_multiple_of(16);
        self.window = self.max_win().max(bytes) | self.window & 15;
    }

    fn begin(segment: &Segment) -> Self {
        let shift = segment.scale.map_or(NO_SCALE, |s| u32::from(s).min(MAX_SCALE));
        let mut it = Self { end: segment.end(), max_end: segment.end(), acknowledged: 0, window: shift };
        it.widen(u32::from(segment.window));
        it
    }
}

/// What becomes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    /// It is within the windows, which moved: what it does to the state counts.
    Within,
    /// It may pass, for the other side to answer, and changes nothing.
    Unproven,
    /// It does not pass.
    Outside,
}

/// Both sides of a connection, initiator first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Windows([Sent; 2]);

/// Bytes of a connection's windows.
pub(crate) const WINDOWS_BYTES: usize = 32;
const _: () = assert!(size_of::<Windows>() == WINDOWS_BYTES);

/// a is at or after b, in a circle of sequence numbers.
fn from(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) < 1 << 31
}

impl Windows {
    /// Of a connection that this SYN opens.
    pub(crate) fn opened(syn: &Segment) -> Self {
        let initiator = Sent::begin(syn);
        // What an answer acknowledges at least.
        Self([initiator, Sent { acknowledged: syn.sequence.wrapping_add(1), ..Sent::default() }])
    }

    /// Whether the connection was seen to open.
    pub(crate) fn are_known(&self) -> bool {
        self.0[0].window != 0
    }

    /// Looks at a segment of a connection that is known. `answered`: a SYN-ACK within the windows came before;
    /// `established`: so did the initiator's answer to it.
    pub(crate) fn check(
        &mut self,
        from_initiator: bool,
        answered: bool,
        established: bool,
        segment: &Segment,
    ) -> Checked {
        match (answered, from_initiator) {
            _ if segment.flags & (SYN | ACK) == SYN => self.syn(from_initiator && !answered, segment),
            (false, true) => self.before_the_answer(segment),
            (false, false) => self.answer(segment),
            (true, false) if !established && segment.flags & (SYN | RST) == SYN => self.answer(segment),
            _ if segment.has(RST) => self.reset(from_initiator, segment),
            _ if segment.has(SYN) => Checked::Unproven,
            _ => self.within(from_initiator, segment),
        }
    }

    /// A SYN once more, perhaps another one; in a connection it proves nothing.
    fn syn(&mut self, opens: bool, segment: &Segment) -> Checked {
        if !opens {
            return Checked::Unproven;
        }
        *self = Self::opened(segment);
        Checked::Within
    }

    /// Of the initiator, which waits for an answer: only a reset, of its own SYN or of what a challenge showed it.
    fn before_the_answer(&self, segment: &Segment) -> Checked {
        let [initiator, _] = self.0;
        let known = segment.sequence == initiator.end || segment.sequence == initiator.acknowledged;
        if segment.has(RST) && known { Checked::Within } else { Checked::Outside }
    }

    /// Of the responder: SYN-ACK or reset must acknowledge the SYN (RFC 9293 §3.10.7.3); another segment is a challenge
    /// ACK about a connection that only the responder remembers.
    fn answer(&mut self, segment: &Segment) -> Checked {
        let [initiator, responder] = &mut self.0;
        if !segment.has(SYN | RST) {
            initiator.acknowledged = segment.acknowledged;
            return Checked::Unproven;
        }
        // The SYN and perhaps data that came with it (RFC 7413).
        let acknowledges = segment.has(ACK)
            & from(segment.acknowledged, responder.acknowledged)
            & from(initiator.end, segment.acknowledged);
        if !acknowledges {
            return Checked::Outside;
        }
        if segment.has(RST) {
            return Checked::Within;
        }
        *responder = Sent { acknowledged: segment.acknowledged, ..Sent::begin(segment) };
        responder.max_end = responder.end.wrapping_add(initiator.max_win());
        if segment.scale.is_none() || initiator.window & 15 == NO_SCALE {
            initiator.window |= NO_SCALE;
            responder.window |= NO_SCALE;
        }
        let allowed = segment.acknowledged.wrapping_add(u32::from(segment.window));
        if from(allowed, initiator.max_end) {
            initiator.max_end = allowed;
        }
        initiator.acknowledged = responder.end;
        Checked::Within
    }

    fn sides(&mut self, from_initiator: bool) -> (&mut Sent, &mut Sent) {
        let [initiator, responder] = &mut self.0;
        if from_initiator { (initiator, responder) } else { (responder, initiator) }
    }

    fn reset(&mut self, from_initiator: bool, segment: &Segment) -> Checked {
        let (sender, receiver) = self.sides(from_initiator);
        let number = segment.sequence;
        if number == receiver.acknowledged || number == sender.end {
            return Checked::Within;
        }
        let in_window = from(number, receiver.acknowledged) && from(sender.max_end, number);
        if in_window { Checked::Unproven } else { Checked::Outside }
    }

    fn within(&mut self, from_initiator: bool, segment: &Segment) -> Checked {
        let (sender, receiver) = self.sides(from_initiator);
        let (end, acknowledged) = (segment.end(), segment.acknowledged);
        let ack_window = sender.max_win().max(LEAST_ACK_WINDOW);
        let good = from(sender.max_end, segment.sequence)
            & from(end, sender.end.wrapping_sub(receiver.max_win()))
            & from(receiver.end, acknowledged)
            & from(acknowledged, receiver.end.wrapping_sub(ack_window));
        if !good {
            return Checked::Outside;
        }
        let window = u32::from(segment.window) << sender.scale();
        sender.widen(window);
        if from(end, sender.max_end) {
            // A probe of a closed window, or a peer that took back what it offered: it may have been more.
            let more = end.wrapping_sub(sender.max_end);
            receiver.widen(receiver.max_win().saturating_add(more));
        }
        if from(end, sender.end) {
            sender.end = end;
        }
        if from(acknowledged, sender.acknowledged) {
            sender.acknowledged = acknowledged;
        }
        // One more where the window is closed: probes (RFC 9293 §3.8.6.1) carry a byte.
        let allowed = acknowledged.wrapping_add(window.max(1));
        if from(allowed, receiver.max_end) {
            receiver.max_end = allowed;
        }
        Checked::Within
    }
}

#[cfg(test)]
mod tests;
