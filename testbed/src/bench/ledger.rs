//! The contract on a real Fabric, as Caliper would: a rate of intents that rises, for each way to cut blocks.
//!
//! For each block size and timeout a full network is started; intents are sent at fixed rates (`examples/ledger-load` of
//! `ledger-fabric`), each a transaction of its own, whatever became of those before. Latency is from when an intent was due until it is
//! in a block; the knee is the highest rate of which 95 % are decided a second. Client, orderers, peers and contracts share this machine,
//! so that its processors are the knee. The report is a directory with plots. Tests: below, and `bench/plot.rs`.

use std::{env, fmt::Write as _, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    control,
    plot::{Line, Plot},
    report::{Bar, Machine, Report, Row},
};
use crate::{
    cli::{BenchOptions, Net},
    command, interrupt,
    ui::{self, Step},
    up::fabric::{self, Network, Plan},
    workspace,
};

/// One network's sweep: each rate takes its time, and what did not fit into it.
const SWEEP_LIMIT: Duration = Duration::from_secs(900);
/// What is added to the timeout of a block at most, median, ms.
const ADDED_MS: f64 = 60.0;
/// A rate is held when so much of it is decided a second.
const HELD: f64 = 0.95;

/// What is swept.
struct Sweep {
    /// Transactions of a full block, and its timeout in ms.
    blocks: &'static [(u32, u32)],
    rates: &'static [u32],
    seconds: u32,
}

const WHOLE: Sweep = Sweep {
    blocks: &[
        (10, 50),
        (10, 200),
        (10, 500),
        (50, 50),
        (50, 200),
        (50, 500),
        (100, 50),
        (100, 200),
        (100, 500),
    ],
    rates: &[10, 25, 50, 75, 100, 150, 200, 300, 400],
    seconds: 10,
};
const QUICK: Sweep =
    Sweep { blocks: &[(10, 50), (50, 200), (100, 500)], rates: &[10, 50, 100, 200], seconds: 5 };

/// What came of one rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Point {
    rate_per_s: f64,
    sent: u64,
    committed: u64,
    throughput_per_s: f64,
    endorsed_p50_ms: Option<f64>,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// Beginning of an error, and how many.
    errors: Value,
}

impl Point {
    fn held(&self) -> bool {
        self.throughput_per_s >= HELD * self.rate_per_s
    }
}

/// One way to cut blocks.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Curve {
    max_message_count: u32,
    batch_timeout_ms: u32,
    /// The highest rate that was held, a second.
    knee_per_s: Option<f64>,
    points: Vec<Point>,
}

impl Curve {
    fn new((max_message_count, batch_timeout_ms): (u32, u32), points: Vec<Point>) -> Self {
        let held = points.iter().take_while(|p| p.held()).last();
        Self { max_message_count, batch_timeout_ms, knee_per_s: held.map(|p| p.rate_per_s), points }
    }

    fn name(&self) -> String {
        format!("{} or {} ms", self.max_message_count, self.batch_timeout_ms)
    }

    /// What is promised of it, and what there is to know.
    fn rows(&self) -> Vec<Row> {
        let first = self.points.first();
        let knee = self.points.iter().find(|p| Some(p.rate_per_s) == self.knee_per_s);
        let bar = Bar::AtMost(f64::from(self.batch_timeout_ms) + ADDED_MS);
        let at = |p: Option<&Point>| p.map_or(String::new(), |p| format!("at {}/s", p.rate_per_s));
        let highest = self.points.iter().map(|p| p.throughput_per_s).fold(0.0, f64::max);
        let name = self.name();
        let row = |what: &str, measured, bar, unit, with: &str| {
            Row::new(&format!("blocks of {name}: {what}"), measured, bar, unit, with)
        };
        vec![
            row("decision, median", first.and_then(|p| p.p50_ms), bar, "ms", &at(first)),
            row("decision, p99", first.and_then(|p| p.p99_ms), Bar::Shown, "ms", &at(first)),
            row("knee", self.knee_per_s, Bar::Shown, "/s", &format!("at most {highest:.0}/s decided")),
            row("decision, p95", knee.and_then(|p| p.p95_ms), Bar::Shown, "ms", &at(knee)),
        ]
    }
}

/// What was measured.
pub struct Measured {
    /// Each promise.
    pub report: Report,
    curves: Vec<Curve>,
}

impl Measured {
    /// Every rate, and the promises.
    pub fn json(&self) -> Value {
        serde_json::json!({ "curves": self.curves, "promises": self.report })
    }
}

/// Builds, starts networks, measures, draws.
pub fn run(options: &BenchOptions) -> anyhow::Result<Measured> {
    let machine = Machine::here();
    let sweep = if options.quick { &QUICK } else { &WHOLE };
    let load = step("what sends intents", || control::built("ledger-fabric", "ledger-load"))?;
    let mut curves = Vec::new();
    for blocks in sweep.blocks {
        interrupt::check()?;
        let plan = Plan {
            net: Net::Full,
            max_message_count: blocks.0,
            batch_timeout_ms: blocks.1,
            release: true,
            ..Plan::default()
        };
        let network = Network::start(&fabric::root_for_tests()?, plan)?;
        let what = format!("blocks of {} or {} ms", blocks.0, blocks.1);
        let points = step(&what, || points(&load, sweep, &network));
        network.end()?;
        curves.push(Curve::new(*blocks, points?));
    }
    let rows = curves.iter().flat_map(Curve::rows).collect();
    let measured = Measured { report: Report::new(options.quick, machine, rows), curves };
    let dir = workspace::state_dir()?.join("bench").join("ledger");
    write(&dir, &measured)?;
    ui::say(&format!("the report: {}", dir.join("report.md").display()));
    Ok(measured)
}

fn points(load: &Path, sweep: &Sweep, network: &Network) -> anyhow::Result<Vec<Point>> {
    let rates = sweep.rates.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut c = Command::new(load);
    c.args(["--rates", &rates, "--seconds", &sweep.seconds.to_string()]).envs(network.variables(false));
    let out = command::succeed(&mut c, SWEEP_LIMIT)?;
    let points = out.stdout.lines().map(serde_json::from_str).collect::<Result<Vec<Point>, _>>();
    let points = points.with_context(|| format!("what it said: {}", out.tail(3)))?;
    ensure!(!points.is_empty(), "nothing was measured: {}", out.tail(3));
    Ok(points)
}

fn step<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let step = Step::begin(what);
    let done = work();
    step.end(done.is_ok(), "");
    done
}

/// What is plotted: file, title, its axis, and the figure of a rate.
type Figure = (&'static str, &'static str, &'static str, fn(&Point) -> Option<f64>);
const FIGURES: [Figure; 4] = [
    ("latency-p50.svg", "Decision latency, median", "ms", |p| p.p50_ms),
    ("latency-p95.svg", "Decision latency, 95th percentile", "ms", |p| p.p95_ms),
    ("latency-p99.svg", "Decision latency, 99th percentile", "ms", |p| p.p99_ms),
    ("throughput.svg", "Throughput", "decided/s", |p| Some(p.throughput_per_s)),
];

/// Figures, table and plots.
fn write(dir: &Path, measured: &Measured) -> anyhow::Result<()> {
    let put = |name: &str, text: &str| {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (file, title, unit, of) in FIGURES {
        let line = |curve: &Curve| Line {
            name: curve.name(),
            points: curve.points.iter().filter_map(|p| Some((p.rate_per_s, of(p)?))).collect(),
        };
        let lines = measured.curves.iter().map(line).collect();
        put(file, &Plot { title, x: "sent/s", y: unit, lines }.svg())?;
    }
    put("report.json", &serde_json::to_string_pretty(&measured.json())?)?;
    put("report.md", &document(measured)?)
}

fn document(measured: &Measured) -> anyhow::Result<String> {
    let mut text = "# The contract on Fabric: latency and throughput\n\n".to_owned();
    let m = &measured.report.machine;
    writeln!(
        text,
        "Three orderers, two organisations of two peers, both endorse; all of it and the client on one machine: {} x {}, {} MiB, \
         Linux {}. `{}`\n",
        m.processors,
        m.processor,
        m.memory_mib,
        m.kernel,
        env::args().skip(1).fold("cargo testbed".to_owned(), |all, word| format!("{all} {word}"))
    )?;
    writeln!(
        text,
        "| block: transactions or timeout | sent/s | decided/s | endorsed p50, ms | p50, ms | p95, ms | p99, ms | failed |\n\
         |---|---|---|---|---|---|---|---|"
    )?;
    let ms = |figure: Option<f64>| figure.map_or("-".to_owned(), |f| format!("{f:.0}"));
    for curve in &measured.curves {
        for p in &curve.points {
            let knee = if curve.knee_per_s == Some(p.rate_per_s) { " (knee)" } else { "" };
            writeln!(
                text,
                "| {} | {}{knee} | {:.0} | {} | {} | {} | {} | {} |",
                curve.name(),
                p.rate_per_s,
                p.throughput_per_s,
                ms(p.endorsed_p50_ms),
                ms(p.p50_ms),
                ms(p.p95_ms),
                ms(p.p99_ms),
                p.sent - p.committed.min(p.sent)
            )?;
        }
    }
    for (file, title, ..) in FIGURES {
        write!(text, "\n![{title}]({file})\n")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(rate: f64, throughput: f64) -> Point {
        let ms = Some(100.0);
        Point {
            rate_per_s: rate,
            sent: 10,
            committed: 9,
            throughput_per_s: throughput,
            endorsed_p50_ms: ms,
            p50_ms: ms,
            p95_ms: ms,
            p99_ms: ms,
            errors: Value::Null,
        }
    }

    #[test]
    fn the_knee_is_before_the_first_rate_that_is_not_held() {
        let points = vec![point(10.0, 10.0), point(50.0, 48.0), point(100.0, 70.0), point(150.0, 150.0)];
        let curve = Curve::new((10, 50), points);
        assert_eq!(curve.knee_per_s, Some(50.0));
        let held: Vec<bool> = curve.rows().iter().map(|r| r.held).collect();
        assert_eq!(held, [true, true, true, true], "100 ms is within 50 + 60");
        let slow = Curve::new((10, 30), vec![point(10.0, 5.0)]);
        assert_eq!(slow.knee_per_s, None);
        assert!(!slow.rows()[0].held && !slow.rows()[2].held, "no knee is not measured");
        let report = Report::new(true, Machine::here(), curve.rows());
        let text = document(&Measured { report, curves: vec![curve] }).unwrap();
        assert!(text.contains("| 50 (knee) |") && text.contains("(throughput.svg)"), "{text}");
    }
}
