//! Ports of DPDK, measured: a worker of `cargo testbed bench dataplane`, beside testpmd and OVS-DPDK on the same devices.
//!
//! `dataplane-wire null` and `dataplane-wire pcap A B` move frames from each of two ports to the other, as testpmd's `io` does;
//! `dataplane-wire pcap A B CONFIGURATION WARM` puts the configured function between, after the frames of WARM (as `fixture.rs` of
//! `dataplane-bench` writes them) have passed it. It obeys commands on stdin: `round N` passes about N frames; a frame is counted when it was received.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::{
    io::{self, BufRead as _},
    time::Instant,
};

use dataplane_control::Configuration;
use dataplane_engine::{DropReason, PacketFunction, Verdict};
use dpdk::{BURST, Burst, Eal, EalConfig, Mbuf, Memory, Pool, Port, Processor, Vdev};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

/// For captures of 100,000 frames in each port's memory.
const MANY_BUFFERS: u32 = (1 << 18) - 1;
const MANY_MB: u32 = 700;
const FEW_BUFFERS: u32 = 4095;
const FEW_MB: u32 = 64;
const TICK_US: u64 = 1_000;
/// As testpmd's default.
const FRAME_BYTES: u16 = 64;

fn cpu() -> f64 {
    let t = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    t.tv_sec() as f64 + t.tv_nsec() as f64 * 1e-9
}

/// Two ports, and what is between them.
struct Wire<'p> {
    ports: [Port<'p>; 2],
    burst: Burst<'p>,
    out: [Burst<'p>; 2],
    function: Option<Box<dyn PacketFunction<Mbuf<'p>> + 'p>>,
    began: Instant,
    ticked_us: u64,
    passed: u64,
    dropped: u64,
}

impl<'p> Wire<'p> {
    /// Frames received, of both ports.
    fn turn(&mut self) -> usize {
        let mut received = 0;
        for from in 0..2 {
            let n = self.ports[from].rx(&mut self.burst);
            received += n;
            if n == 0 {
                continue;
            }
            match self.function {
                None => self.io(1 - from),
                Some(_) => self.decide(from),
            }
        }
        received
    }

    fn io(&mut self, to: usize) {
        self.passed += self.ports[to].tx(&mut self.burst) as u64;
        self.dropped += self.burst.len() as u64;
        self.burst.clear();
    }

    fn decide(&mut self, from: usize) {
        let Some(function) = &mut self.function else { return };
        let now_us = self.began.elapsed().as_micros() as u64;
        let mut verdicts = [Verdict::Drop(DropReason::Untracked); BURST];
        let n = self.burst.len();
        function.burst(now_us, from as u16, self.burst.buffers_mut(), &mut verdicts[..n]);
        if now_us - self.ticked_us >= TICK_US {
            self.ticked_us = now_us;
            function.tick(now_us);
        }
        for (frame, verdict) in self.burst.drain().zip(verdicts) {
            match verdict {
                Verdict::Forward { port } => {
                    let out = &mut self.out[usize::from(port)];
                    assert!(out.push(frame).is_ok(), "there is room for a burst");
                }
                Verdict::Drop(_) => self.dropped += 1,
            }
        }
        for (out, port) in self.out.iter_mut().zip(&mut self.ports) {
            self.passed += port.tx(out) as u64;
            self.dropped += out.len() as u64;
            out.clear();
        }
    }

    fn round(&mut self, count: u64) -> serde_json::Value {
        (self.passed, self.dropped) = (0, 0);
        let (began, mut done) = (cpu(), 0);
        while done < count {
            done += self.turn() as u64;
        }
        let took = cpu() - began;
        json!({ "mpps": done as f64 / took / 1e6, "passed": self.passed, "dropped": self.dropped })
    }
}

/// Passes frames that only open connections.
fn warm<'p>(function: &mut (dyn PacketFunction<Mbuf<'p>> + 'p), pool: &'p Pool<'p>, file: &str) {
    let bytes = std::fs::read(file).unwrap();
    let mut rest = &bytes[4..];
    while let [a, b, c, d, tail @ ..] = rest {
        let (frame, tail) = tail.split_at(usize::from(u16::from_le_bytes([*a, *b])));
        let mut buffer = pool.alloc().unwrap();
        assert!(buffer.set_len(frame.len() as u16));
        buffer.frame_mut().copy_from_slice(frame);
        function.process(0, u16::from_le_bytes([*c, *d]), &mut buffer);
        rest = tail;
    }
}

fn run(devices: [Vdev; 2], memory_mb: u32, buffers: u32, between: Option<(&str, &str)>) {
    let config = EalConfig { memory: Memory::detect(memory_mb), cpus: vec![0], vdevs: devices.to_vec() };
    let eal = Eal::init(&config).unwrap();
    let pool = Pool::new(&eal, buffers).unwrap();
    let mut function = None;
    if let Some((configuration, frames)) = between {
        let configuration = Configuration::parse(&std::fs::read(configuration).unwrap()).unwrap();
        let built = dataplane_engine::build_on::<Processor, _>(&configuration, 0x6d61_6e64).unwrap();
        warm(&mut **function.insert(built), &pool, frames);
    }
    let mut wire = Wire {
        ports: devices.map(|d| Port::open(&pool, d.name()).unwrap()),
        burst: Burst::new(),
        out: [Burst::new(), Burst::new()],
        function,
        began: Instant::now(),
        ticked_us: 0,
        passed: 0,
        dropped: 0,
    };
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let answer = match line.split_once(' ') {
            Some(("round", n)) => wire.round(n.parse().unwrap()),
            _ => json!({ "error": "a command that nobody knows" }),
        };
        println!("{answer}");
    }
}

fn main() {
    dataplane_engine::set_huge_pages(dpdk::prefer_huge_pages);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let captures = |a: &str, b: &str| [(0, a), (1, b)].map(|(n, f)| Vdev::pcap_endless(n, f).unwrap());
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["null"] => run([0, 1].map(|n| Vdev::null(n, FRAME_BYTES)), FEW_MB, FEW_BUFFERS, None),
        ["pcap", a, b] => run(captures(a, b), MANY_MB, MANY_BUFFERS, None),
        ["pcap", a, b, configuration, frames] => {
            run(captures(a, b), MANY_MB, MANY_BUFFERS, Some((configuration, frames)));
        }
        _ => eprintln!("usage: dataplane-wire null | pcap A B [CONFIGURATION WARM]"),
    }
}
