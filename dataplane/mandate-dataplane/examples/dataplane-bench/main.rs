//! Our packet functions, measured: the worker of `cargo testbed bench dataplane`.
//!
//! `dataplane-bench cases` names the cases, `dataplane-bench write DIR CASE` writes one's files, `dataplane-bench run DIR` obeys commands on stdin as
//! `testbed/dataplane/reference.c` does: `load CASE`, `round N`, `floor N`.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod fixture;

use std::{
    io::{self, BufRead as _},
    path::{Path, PathBuf},
};

use dataplane_control::Configuration;
use dataplane_engine::{DropReason, PacketFunction, Verdict};
use dpdk::{BURST, Burst, Eal, EalConfig, Mbuf, Memory, Pool, Processor};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::fixture::CASES;

/// Bursts of buffers that are filled in turn.
const BURSTS: usize = 8;
const BUFFERS: u32 = 511 + 64;
/// How often connections are aged, µs of virtual time.
const TICK_US: u64 = 1_000;

struct Frame {
    from: u32,
    length: u16,
    side: u16,
}

#[derive(Default)]
struct Trace {
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
struct Verdicts {
    passed: u64,
    dropped: u64,
}

struct Bench<'p> {
    function: Box<dyn PacketFunction<Mbuf<'p>> + 'p>,
    trace: Trace,
    frame_ns: u64,
    now_ns: u64,
    ticked_us: u64,
    buffers: Vec<Burst<'p>>,
}

fn cpu() -> f64 {
    let t = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    t.tv_sec() as f64 + t.tv_nsec() as f64 * 1e-9
}

impl<'p> Bench<'p> {
    fn load(pool: &'p Pool<'p>, directory: &Path, name: &str) -> Self {
        let case = CASES.iter().find(|c| c.name == name).unwrap();
        let file = |end: &str| directory.join(format!("{name}.{end}"));
        let configuration = Configuration::parse(&std::fs::read(file("json")).unwrap()).unwrap();
        let mut it = Self {
            function: dataplane_engine::build_on::<Processor, _>(&configuration, 0x6d61_6e64_6174_6521)
                .unwrap(),
            trace: Trace::read(&file("frames")),
            frame_ns: case.frame_ns(),
            now_ns: 0,
            ticked_us: 0,
            buffers: (0..BURSTS).map(|_| buffers(pool)).collect(),
        };
        let mut warm = Trace::read(&file("warm"));
        let count = warm.frames.len() as u64;
        let mut verdicts = Verdicts::default();
        it.pass(&mut warm, count, &mut verdicts, true);
        it
    }

    /// Moves the next frames into packet buffers as a device would, and passes them on: CPU seconds.
    fn pass(&mut self, trace: &mut Trace, count: u64, verdicts: &mut Verdicts, decide: bool) -> f64 {
        let began = cpu();
        let (mut group, mut done) = (0, 0);
        while done < count {
            let left = &trace.frames[trace.at..];
            let side = left[0].side;
            let frames = self.buffers[group].buffers_mut();
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
            if decide {
                self.now_ns += n as u64 * self.frame_ns;
                let now_us = self.now_ns / 1000;
                let mut decided = [Verdict::Drop(DropReason::Untracked); BURST];
                self.function.burst(now_us, side, &mut frames[..n], &mut decided[..n]);
                let passed = decided[..n].iter().filter(|v| matches!(v, Verdict::Forward { .. })).count();
                verdicts.passed += passed as u64;
                verdicts.dropped += (n - passed) as u64;
                if now_us - self.ticked_us >= TICK_US {
                    self.ticked_us = now_us;
                    self.function.tick(now_us);
                }
            } else {
                std::hint::black_box(frames);
            }
            group = (group + 1) % BURSTS;
            trace.at = (trace.at + n) % trace.frames.len();
            done += n as u64;
        }
        cpu() - began
    }

    fn round(&mut self, count: u64, decide: bool) -> serde_json::Value {
        let (mut trace, mut verdicts) = (std::mem::take(&mut self.trace), Verdicts::default());
        let took = self.pass(&mut trace, count, &mut verdicts, decide);
        self.trace = trace;
        let Verdicts { passed, dropped } = verdicts;
        json!({ "mpps": count as f64 / took / 1e6, "passed": passed, "dropped": dropped })
    }
}

/// A burst of buffers that nobody else has.
fn buffers<'p>(pool: &'p Pool<'p>) -> Burst<'p> {
    let mut burst = Burst::new();
    assert_eq!(pool.fill(&mut burst, BURST), BURST);
    burst
}

fn run(directory: &Path) {
    let eal = EalConfig { memory: Memory::detect(64), cpus: vec![0], vdevs: Vec::new() };
    let eal = Eal::init(&eal).unwrap();
    let pool = Pool::new(&eal, BUFFERS).unwrap();
    let mut bench = None;
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match (words.as_slice(), &mut bench) {
            (["load", name], _) => {
                // Two tables at once may be more than there is memory.
                drop(bench.take());
                let new = bench.insert(Bench::load(&pool, directory, name));
                json!({ "loaded": name, "connections": new.function.connections() })
            }
            (["round", n], Some(bench)) => bench.round(n.parse().unwrap(), true),
            (["floor", n], Some(bench)) => bench.round(n.parse().unwrap(), false),
            _ => json!({ "error": "a command that nobody knows" }),
        };
        println!("{answer}");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["cases"] => {
            for c in CASES {
                println!("{}", json!({ "case": c.name, "flows": c.flows, "rules": c.rules, "bar": c.bar }));
            }
        }
        ["write", directory, name] => {
            let case = CASES.iter().find(|c| c.name == *name).unwrap();
            case.write(&PathBuf::from(directory)).unwrap();
        }
        ["run", directory] => {
            dataplane_engine::set_huge_pages(dpdk::prefer_huge_pages);
            run(&PathBuf::from(directory));
        }
        _ => eprintln!("usage: dataplane-bench cases | write DIR CASE | run DIR"),
    }
}
