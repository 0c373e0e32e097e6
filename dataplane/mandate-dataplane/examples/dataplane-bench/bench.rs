//! A packet function and the frames that it passes, timed.

use std::path::Path;

use dataplane_control::Configuration;
use dataplane_engine::{DropReason, PacketFunction, Verdict};
use dpdk::{BURST, Burst, Mbuf, Pool, Processor};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::{cases::Case, telemetry::Telemetry};

/// Bursts of buffers that are filled in turn.
const BURSTS: usize = 8;
/// Buffers of one.
pub const BUFFERS: u32 = (BURSTS * BURST) as u32;
/// How often connections are aged, µs of virtual time.
const TICK_US: u64 = 1_000;
const SEED: u64 = 0x6d61_6e64_6174_6521;
/// Of an untagged IPv4 frame without options: both addresses, both ports.
const PAIRS: [(usize, usize); 2] = [(26, 4), (34, 2)];
const FLAGS: usize = 47;
const SYN: u8 = 2;
const ACK: u8 = 16;

struct Frame {
    from: u32,
    length: u16,
    side: u16,
}

#[derive(Default)]
pub struct Trace {
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    at: usize,
}

impl Trace {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let count = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let mut from = 4;
        let frame = |_| {
            let (length, side) = (word(from), word(from + 2));
            let frame = Frame { from: from as u32 + 4, length, side };
            from += 4 + usize::from(length);
            frame
        };
        let frames = (0..count).map(frame).collect();
        Self { bytes, frames, at: 0 }
    }
}

#[derive(Default)]
pub struct Verdicts {
    pub passed: u64,
    pub dropped: u64,
}

impl Verdicts {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.dropped += other.dropped;
    }
}

/// Frames that were passed in some time of a thread's CPU.
#[derive(Default)]
pub struct Round {
    frames: u64,
    seconds: f64,
    pub verdicts: Verdicts,
}

impl Round {
    /// One after the other.
    pub fn then(&mut self, other: &Self) {
        self.frames += other.frames;
        self.seconds += other.seconds;
        self.verdicts.add(&other.verdicts);
    }

    /// At the same time, in another thread: rates add up.
    pub fn beside(&mut self, other: &Self) {
        let rate = self.rate() + other.rate();
        self.frames += other.frames;
        self.seconds = self.frames as f64 / rate;
        self.verdicts.add(&other.verdicts);
    }

    fn rate(&self) -> f64 {
        self.frames as f64 / self.seconds
    }

    pub fn json(&self) -> serde_json::Value {
        let Verdicts { passed, dropped } = self.verdicts;
        json!({ "mpps": self.rate() / 1e6, "passed": passed, "dropped": dropped })
    }
}

/// Of the calling thread, seconds.
pub fn cpu() -> f64 {
    let t = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    t.tv_sec() as f64 + t.tv_nsec() as f64 * 1e-9
}

/// Of this process, bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

/// What is done with frames.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// They are copied into buffers.
    Copy,
    /// They are decided on, too.
    Decide,
    /// Requests that pass are answered, too.
    Answer,
}

pub struct Bench<'p> {
    pub function: Box<dyn PacketFunction<Mbuf<'p>> + 'p>,
    /// Memory that building the function took, for each connection that it has room for.
    pub connection_bytes: f64,
    pub telemetry: Option<Telemetry>,
    trace: Trace,
    frame_ns: u64,
    now_ns: u64,
    ticked_us: u64,
    buffers: Vec<Burst<'p>>,
    group: usize,
}

impl<'p> Bench<'p> {
    /// A case with the configuration in its file of this ending, after the frames that open connections.
    pub fn load(pool: &'p Pool<'p>, directory: &Path, case: &Case, configuration: &str) -> Self {
        let file = |end: &str| directory.join(format!("{}.{end}", case.name));
        let configuration = Configuration::parse(&std::fs::read(file(configuration)).unwrap()).unwrap();
        let before = resident();
        let function = dataplane_engine::build_on::<Processor, _>(&configuration, SEED).unwrap();
        let connection_bytes = resident().saturating_sub(before) as f64 / f64::from(case.connections());
        let mut it = Self {
            function,
            connection_bytes,
            telemetry: None,
            trace: Trace::read(&file("frames")),
            frame_ns: case.frame_ns(),
            now_ns: 0,
            ticked_us: 0,
            buffers: (0..BURSTS).map(|_| buffers(pool)).collect(),
            group: 0,
        };
        let mut warm = Trace::read(&file("warm"));
        let count = warm.frames.len() as u64;
        let work = if case.is_answered_by_worker() { Work::Answer } else { Work::Decide };
        it.pass(&mut warm, count, &mut Verdicts::default(), work);
        it
    }

    /// Moves the next frames, of one side, into packet buffers as a device would, and passes them on; how many.
    #[inline]
    pub fn burst(&mut self, trace: &mut Trace, verdicts: &mut Verdicts, work: Work) -> usize {
        let left = &trace.frames[trace.at..];
        let side = left[0].side;
        let frames = self.buffers[self.group].buffers_mut();
        let mut n = 0;
        for (of, frame) in left.iter().zip(frames.iter_mut()) {
            if of.side != side {
                break;
            }
            let (from, length) = (of.from as usize, usize::from(of.length));
            frame.reset();
            assert!(frame.set_len(of.length));
            frame.frame_mut().copy_from_slice(&trace.bytes[from..from + length]);
            n += 1;
        }
        if work == Work::Copy {
            std::hint::black_box(frames);
        } else {
            self.now_ns += n as u64 * self.frame_ns;
            let now_us = self.now_ns / 1000;
            let mut decided = [Verdict::Drop(DropReason::Untracked); BURST];
            self.function.burst(now_us, side, &mut frames[..n], &mut decided[..n]);
            let passed = decided[..n].iter().filter(|v| matches!(v, Verdict::Forward { .. })).count();
            verdicts.passed += passed as u64;
            verdicts.dropped += (n - passed) as u64;
            if work == Work::Answer {
                self.answer(now_us, n);
            }
            if now_us - self.ticked_us >= TICK_US {
                self.ticked_us = now_us;
                self.function.tick(now_us);
                if let Some(telemetry) = &mut self.telemetry {
                    telemetry.tick(now_us, &mut *self.function);
                }
            }
        }
        self.group = (self.group + 1) % BURSTS;
        trace.at = (trace.at + n) % trace.frames.len();
        n
    }

    /// The requests of the burst that was just passed come back as answers.
    fn answer(&mut self, now_us: u64, count: usize) {
        let frames = &mut self.buffers[self.group].buffers_mut()[..count];
        if frames[0].frame_mut()[FLAGS] != SYN {
            return;
        }
        for frame in frames.iter_mut() {
            let bytes = frame.frame_mut();
            for (at, width) in PAIRS {
                let (first, second) = bytes[at..at + 2 * width].split_at_mut(width);
                first.swap_with_slice(second);
            }
            bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
            bytes[FLAGS] = SYN | ACK;
        }
        let mut decided = [Verdict::Drop(DropReason::Untracked); BURST];
        self.function.burst(now_us, 1, frames, &mut decided[..count]);
        assert!(
            decided[..count].iter().all(|v| matches!(v, Verdict::Forward { .. })),
            "an answer is dropped"
        );
    }

    /// Passes so many frames: CPU seconds.
    fn pass(&mut self, trace: &mut Trace, count: u64, verdicts: &mut Verdicts, work: Work) -> f64 {
        let began = cpu();
        let mut done = 0;
        while done < count {
            done += self.burst(trace, verdicts, work) as u64;
        }
        cpu() - began
    }

    /// Does something with the frames to come.
    pub fn with_trace<T>(&mut self, work: impl FnOnce(&mut Self, &mut Trace) -> T) -> T {
        let mut trace = std::mem::take(&mut self.trace);
        let done = work(self, &mut trace);
        self.trace = trace;
        done
    }

    /// Passes so many frames.
    pub fn round(&mut self, count: u64, work: Work) -> Round {
        let mut verdicts = Verdicts::default();
        let seconds = self.with_trace(|it, trace| it.pass(trace, count, &mut verdicts, work));
        Round { frames: count, seconds, verdicts }
    }
}

/// A burst of buffers that nobody else has.
fn buffers<'p>(pool: &'p Pool<'p>) -> Burst<'p> {
    let mut burst = Burst::new();
    assert_eq!(pool.fill(&mut burst, BURST), BURST);
    burst
}
