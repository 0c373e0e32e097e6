//! Configurations that are compiled on another thread and swapped in between two bursts, while frames pass without a pause.

use std::{path::Path, sync::mpsc, thread, time::Instant};

use dataplane_control::Configuration;
use dataplane_engine::{Basis, Prepared, Retired};
use serde_json::{Value, json};

use crate::{
    bench::{Bench, Verdicts, Work, cpu},
    cases::Case,
    threads,
};

/// What the compiling thread is asked: to compile, or to free what was replaced.
enum Order {
    Prepare(Basis),
    Free(Box<Retired>),
}

/// So many swaps, of the case's two configurations by turns. Times are of the threads' CPU, but for `build_wall_s`.
pub fn swaps(bench: &mut Bench<'_>, directory: &Path, case: &Case, count: u64) -> Value {
    let configurations = ["other.json", "json"].map(|end| {
        let bytes = std::fs::read(directory.join(format!("{}.{end}", case.name))).unwrap();
        Configuration::parse(&bytes).unwrap()
    });
    let (orders, ordered) = mpsc::channel();
    let (give, compiled) = mpsc::channel::<(Prepared, [f64; 2])>();
    thread::scope(|scope| {
        scope.spawn(move || {
            threads::elsewhere();
            let mut next = configurations.iter().cycle();
            for order in ordered {
                match order {
                    Order::Prepare(basis) => {
                        let (began, from) = (Instant::now(), cpu());
                        let prepared = basis.prepare(next.next().unwrap()).unwrap();
                        give.send((prepared, [cpu() - from, began.elapsed().as_secs_f64()])).unwrap();
                    }
                    Order::Free(retired) => drop(retired),
                }
            }
        });
        let mut verdicts = Verdicts::default();
        let (mut builds, mut stalls, mut bursts) = (Vec::new(), Vec::new(), Vec::new());
        let began = cpu();
        bench.with_trace(|bench, trace| {
            for _ in 0..count {
                orders.send(Order::Prepare(bench.function.basis())).unwrap();
                let (prepared, took) = loop {
                    let from = cpu();
                    bench.burst(trace, &mut verdicts, Work::Decide);
                    bursts.push(cpu() - from);
                    if let Ok(done) = compiled.try_recv() {
                        break done;
                    }
                };
                builds.push(took);
                let from = cpu();
                let retired = bench.function.swap(prepared).unwrap();
                stalls.push(cpu() - from);
                orders.send(Order::Free(Box::new(retired))).unwrap();
            }
        });
        let took = cpu() - began;
        drop(orders);
        let [median_burst, longest_burst] = median_and_longest(bursts);
        let [median_stall, longest_stall] = median_and_longest(stalls);
        let [_, build_cpu_s] = median_and_longest(builds.iter().map(|b| b[0]).collect());
        let [_, build_wall_s] = median_and_longest(builds.iter().map(|b| b[1]).collect());
        let Verdicts { passed, dropped } = verdicts;
        json!({
            "mpps": passed as f64 / took / 1e6, "passed": passed, "dropped": dropped, "swaps": count,
            "build_s": build_cpu_s, "build_wall_s": build_wall_s,
            "stall_us": median_stall * 1e6, "longest_stall_us": longest_stall * 1e6,
            "burst_us": median_burst * 1e6, "longest_burst_us": longest_burst * 1e6,
        })
    })
}

fn median_and_longest(mut all: Vec<f64>) -> [f64; 2] {
    all.sort_by(f64::total_cmp);
    [all[all.len() / 2], all[all.len() - 1]]
}
