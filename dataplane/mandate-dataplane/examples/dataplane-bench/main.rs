//! Our packet functions, measured: the worker of `cargo testbed bench dataplane`.
//!
//! `dataplane-bench cases` names the cases, `dataplane-bench write DIR CASE` writes one's files, `dataplane-bench run DIR` obeys commands on stdin as
//! `testbed/dataplane/reference.c` does: `load CASE`, `round N`, `floor N`; and `pair N`, a round of the case and one of what it is measured
//! beside, and `swap N`, so many swaps of configurations while frames pass.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_precision_loss)]

mod bench;
mod cases;
mod fixture;
mod swap;
mod telemetry;
mod threads;

use std::{
    io::{self, BufRead as _},
    path::{Path, PathBuf},
    thread,
};

use dpdk::{Eal, EalConfig, Memory, Pool};
use serde_json::{Value, json};

use crate::{
    bench::{BUFFERS, Bench, Round, Work},
    cases::{Beside, CASES, Case},
    telemetry::Telemetry,
    threads::Second,
};

/// Frames after which telemetry is switched on or off: others' work on the machine meets both alike, and each time other frames.
const SLICE: u64 = 61_000;

/// A case, and what it is measured beside if that is another function.
struct Loaded<'p> {
    case: &'static Case,
    bench: Bench<'p>,
    other: Option<Bench<'p>>,
    base_first: bool,
}

impl<'p> Loaded<'p> {
    fn new(pool: &'p Pool<'p>, directory: &Path, case: &'static Case, second: &Second) -> Self {
        let mut bench = Bench::load(pool, directory, case, "json");
        let other = match case.beside {
            Beside::Case(name) => Some(Bench::load(pool, directory, Case::named(name).unwrap(), "json")),
            Beside::Alone => Some(Bench::load(pool, directory, case, "other.json")),
            Beside::Silence => {
                bench.telemetry = Some(Telemetry::start());
                None
            }
            Beside::OneWorker => {
                second.load(case);
                None
            }
            Beside::Nothing | Beside::Swaps => None,
        };
        Self { case, bench, other, base_first: false }
    }

    fn round(&mut self, count: u64, second: &Second) -> Round {
        self.switch(true);
        match self.case.beside {
            Beside::OneWorker => second.round(&mut self.bench, count),
            _ => self.bench.round(count, Work::Decide),
        }
    }

    /// What it is measured beside.
    fn base(&mut self, count: u64) -> Round {
        self.switch(false);
        self.other.as_mut().unwrap_or(&mut self.bench).round(count, Work::Decide)
    }

    /// Both by turns, so many frames each.
    fn pair(&mut self, count: u64, second: &Second) -> Value {
        let slice = if self.case.beside == Beside::Silence { SLICE } else { count };
        let (mut ours, mut base) = (Round::default(), Round::default());
        for _ in 0..count.div_ceil(slice) {
            self.base_first = !self.base_first;
            if self.base_first {
                base.then(&self.base(slice));
                ours.then(&self.round(slice, second));
            } else {
                ours.then(&self.round(slice, second));
                base.then(&self.base(slice));
            }
        }
        json!({ "ours": ours.json(), "base": base.json() })
    }

    fn switch(&mut self, on: bool) {
        let Bench { function, telemetry, .. } = &mut self.bench;
        if let Some(telemetry) = telemetry {
            telemetry.switch(on, &mut **function);
        }
    }
}

fn run(directory: &Path) {
    threads::look_around();
    let eal = EalConfig { memory: Memory::detect(64), cpus: vec![threads::CPU], vdevs: Vec::new() };
    let eal = Eal::init(&eal).unwrap();
    // For a case and what it is beside; and for the second worker.
    let pools = [2 * BUFFERS, BUFFERS].map(|buffers| Pool::new(&eal, buffers + 63).unwrap());
    thread::scope(|scope| {
        let second = Second::start(scope, &pools[1], directory);
        obey(directory, &pools[0], &second);
    });
}

fn obey(directory: &Path, pool: &Pool<'_>, second: &Second) {
    let mut loaded = None;
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match (words.as_slice(), &mut loaded) {
            (["load", name], _) => {
                // Two tables at once may be more than there is memory.
                drop(loaded.take());
                second.forget();
                let new = loaded.insert(Loaded::new(pool, directory, Case::named(name).unwrap(), second));
                let Bench { function, connection_bytes, .. } = &new.bench;
                json!({ "loaded": name, "connections": function.connections(), "connection_bytes": connection_bytes })
            }
            (["round", n], Some(loaded)) => loaded.round(n.parse().unwrap(), second).json(),
            (["pair", n], Some(loaded)) => loaded.pair(n.parse().unwrap(), second),
            (["floor", n], Some(loaded)) => loaded.bench.round(n.parse().unwrap(), Work::Copy).json(),
            (["swap", n], Some(Loaded { case, bench, .. })) => {
                swap::swaps(bench, directory, case, n.parse().unwrap())
            }
            _ => json!({ "error": "a command that nobody knows" }),
        };
        println!("{answer}");
    }
}

fn listed(c: &Case) -> Value {
    json!({
        "case": c.name, "flows": c.flows, "rules": c.rules, "bar": c.bar,
        "reference": c.has_reference(), "base": c.base(), "swaps": c.beside == Beside::Swaps,
    })
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["cases"] => CASES.iter().for_each(|c| println!("{}", listed(c))),
        ["write", directory, name] => {
            Case::named(name).unwrap().write(&PathBuf::from(directory)).unwrap();
        }
        ["run", directory] => {
            dataplane_engine::set_huge_pages(dpdk::prefer_huge_pages);
            run(&PathBuf::from(directory));
        }
        _ => eprintln!("usage: dataplane-bench cases | write DIR CASE | run DIR"),
    }
}
