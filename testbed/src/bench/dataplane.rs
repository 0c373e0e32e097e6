//! The packet functions: ours beside a reference in C on DPDK's libraries, in turns, by the CPU time of their threads.
//!
//! Both read the same rules and frames, which ours writes, and answer the same commands (`testbed/dataplane/reference.c`).
//! A round is so many frames of one case through each, one after the other; a figure is the median of the rounds, a
//! ratio the median of each round's. That both decide alike is checked in every round: figures of different work are none.
//! Tests: below, and `examples/dataplane-bench` of the data plane.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::report::{Bar, Machine, Report, Row};
use crate::{
    cli::BenchOptions,
    command, interrupt,
    ui::{self, Step},
    workspace,
};

const BUILD_LIMIT: Duration = Duration::from_secs(2400);
/// Making the files of all cases.
const WRITE_LIMIT: Duration = Duration::from_secs(600);
const ROUNDS: usize = 11;
const QUICK_ROUNDS: usize = 7;
/// Frames of one case in a round, and at first, for the caches and the branch predictor to learn.
const FRAMES: u64 = 4_000_000;
const QUICK_FRAMES: u64 = 2_000_000;
/// Huge pages of 2 MiB for both tables of a million connections.
const HUGE_PAGES: u64 = 512;
const HUGE_PAGES_FILE: &str = "/proc/sys/vm/nr_hugepages";

/// What must be held, by case: against the reference, and in millions a second.
const BARS: &[(&str, &str, Bar, Bar)] = &[
    ("firewall-established-1k", "firewall, established, 1k flows", Bar::AtLeast(1.3), Bar::Shown),
    ("firewall-established-100k", "firewall, established, 100k flows", Bar::AtLeast(1.3), Bar::Shown),
    ("firewall-established-1m", "firewall, established, 1M flows", Bar::AtLeast(1.3), Bar::Shown),
    ("firewall-new", "firewall, new connections with ageing", Bar::Shown, Bar::AtLeast(8.0)),
];

/// A case as the worker names it.
#[derive(Debug, Clone, Deserialize)]
struct Case {
    case: String,
    flows: u64,
    rules: u64,
}

/// Figures of a case, millions of frames a second and core.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseRow {
    case: String,
    flows: u64,
    rules: u64,
    ours_mpps: f64,
    reference_mpps: f64,
    floor_mpps: f64,
    ratio_reference: f64,
}

/// What was measured.
pub struct Measured {
    /// Each promise.
    pub report: Report,
    /// Each case.
    pub rows: Vec<CaseRow>,
}

impl Measured {
    /// The last line: every case, and the promises.
    pub fn json(&self) -> Value {
        serde_json::json!({ "rows": self.rows, "promises": self.report })
    }
}

/// One that obeys.
struct Worker {
    name: &'static str,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        command::kill(&mut self.child);
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Round {
    mpps: f64,
    passed: u64,
    dropped: u64,
}

impl Worker {
    fn start(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        let line = command::shown(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run `{line}`"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else { bail!("`{line}` has no pipes") };
        Ok(Self { name, child, stdin, stdout: BufReader::new(stdout) })
    }

    fn ask(&mut self, line: &str) -> anyhow::Result<Value> {
        interrupt::check()?;
        let mut answer = String::new();
        let asked = writeln!(self.stdin, "{line}").and_then(|()| self.stdout.read_line(&mut answer));
        let value: Value = match asked {
            Ok(n) if n > 0 => {
                serde_json::from_str(&answer).with_context(|| format!("{} said {answer:?}", self.name))?
            }
            _ => bail!("{} ended at `{line}`: see above", self.name),
        };
        match value.get("error").and_then(Value::as_str) {
            Some(error) => bail!("{} at `{line}`: {error}", self.name),
            None => Ok(value),
        }
    }

    fn round(&mut self, kind: &str, frames: u64) -> anyhow::Result<Round> {
        Ok(serde_json::from_value(self.ask(&format!("{kind} {frames}"))?)?)
    }
}

/// Reserves huge pages for as long as it lives, if it may.
struct HugePages {
    before: Option<u64>,
}

impl HugePages {
    fn reserve() -> Self {
        let read = || fs::read_to_string(HUGE_PAGES_FILE).ok()?.trim().parse::<u64>().ok();
        let Some(before) = read() else { return Self { before: None } };
        if before < HUGE_PAGES && fs::write(HUGE_PAGES_FILE, HUGE_PAGES.to_string()).is_ok() {
            return Self { before: Some(before) };
        }
        Self { before: None }
    }

    /// Are there enough, whoever reserved them?
    fn enough() -> bool {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let free = text.lines().find_map(|l| l.strip_prefix("HugePages_Free:")?.trim().parse::<u64>().ok());
        free.is_some_and(|n| n >= HUGE_PAGES)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // Whoever has them keeps them; the rest goes back.
            let _best_effort = fs::write(HUGE_PAGES_FILE, before.to_string());
        }
    }
}

/// Builds both, writes the files, measures.
pub fn run(options: &BenchOptions) -> anyhow::Result<Measured> {
    let machine = Machine::here();
    let dir = workspace::state_dir()?.join("bench").join("dataplane");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let ours = step("our packet functions", build_ours)?;
    let reference = step("the reference in C", || build_reference(&dir))?;
    let cases = step("rules and frames", || write_cases(&ours, &dir))?;
    let _pages = HugePages::reserve();
    let huge = HugePages::enough();
    let mut ours = Worker::start("dataplane-bench", Command::new(ours).arg("run").arg(&dir))?;
    let mut theirs = Worker::start("the reference", Command::new(reference).arg(&dir).args(eal(huge)))?;
    let mut rows = Vec::new();
    for case in &cases {
        let what = format!("{} flows, {} rules: {}", case.flows, case.rules, case.case);
        rows.push(step(&what, || measure(case, options.quick, &mut ours, &mut theirs))?);
    }
    let note = if huge {
        "tables in huge pages"
    } else {
        "no huge pages: reserve 512 for figures that mean something"
    };
    Ok(Measured { report: Report::new(options.quick, machine, judged(&rows, note)), rows })
}

fn step<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let step = Step::begin(what);
    let done = work();
    step.end(done.is_ok(), "");
    done
}

fn build_ours() -> anyhow::Result<PathBuf> {
    let build = ["build", "--locked", "--release", "-p", "mandate-dataplane", "--example", "dataplane-bench"];
    command::succeed(workspace::cargo().args(build), BUILD_LIMIT)?;
    let metadata = workspace::Metadata::load(&workspace::root()?)?;
    Ok(metadata.target_directory.join("release").join("examples").join("dataplane-bench"))
}

/// As fast as the compiler makes it on this processor.
fn build_reference(dir: &Path) -> anyhow::Result<PathBuf> {
    let source = workspace::root()?.join("testbed/dataplane/reference.c");
    let program = dir.join("reference");
    let flags =
        command::succeed(Command::new("pkg-config").args(["--cflags", "--libs", "libdpdk"]), BUILD_LIMIT)?;
    let mut compile = Command::new("cc");
    compile.args(["-O3", "-march=native", "-Wall", "-o"]).arg(&program).arg(source);
    // After DPDK's own `-march`, or that one counts.
    compile.args(flags.stdout.split_whitespace()).arg("-march=native");
    command::succeed(&mut compile, BUILD_LIMIT)?;
    Ok(program)
}

fn write_cases(ours: &Path, dir: &Path) -> anyhow::Result<Vec<Case>> {
    command::succeed(Command::new(ours).arg("write").arg(dir), WRITE_LIMIT)?;
    let listed = command::succeed(Command::new(ours).arg("cases"), WRITE_LIMIT)?;
    listed.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn eal(huge: bool) -> &'static [&'static str] {
    match huge {
        true => &["--in-memory", "--no-pci", "-l", "0", "--log-level=error", "--force-max-simd-bitwidth=512"],
        false => &[
            "--no-huge",
            "-m",
            "1024",
            "--no-pci",
            "-l",
            "0",
            "--log-level=error",
            "--force-max-simd-bitwidth=512",
        ],
    }
}

fn measure(case: &Case, quick: bool, ours: &mut Worker, theirs: &mut Worker) -> anyhow::Result<CaseRow> {
    let (rounds, frames) = if quick { (QUICK_ROUNDS, QUICK_FRAMES) } else { (ROUNDS, FRAMES) };
    let load = format!("load {}", case.case);
    let (a, b) = (ours.ask(&load)?, theirs.ask(&load)?);
    if a["connections"] != b["connections"] {
        bail!("{}: ours has {} connections, the reference {}", case.case, a["connections"], b["connections"]);
    }
    let mut all = Vec::new();
    for round in 0..=rounds {
        let (our, reference) = match round % 2 {
            0 => (ours.round("round", frames)?, theirs.round("round", frames)?),
            _ => {
                let reference = theirs.round("round", frames)?;
                (ours.round("round", frames)?, reference)
            }
        };
        if (our.passed, our.dropped) != (reference.passed, reference.dropped) {
            bail!("{}: ours decides otherwise than the reference: {our:?}, {reference:?}", case.case);
        }
        all.push((our.mpps, reference.mpps, ours.round("floor", frames)?.mpps));
    }
    // In the first both learn.
    all.remove(0);
    let of = |f: fn(&(f64, f64, f64)) -> f64| median(all.iter().map(f).collect());
    Ok(CaseRow {
        case: case.case.clone(),
        flows: case.flows,
        rules: case.rules,
        ours_mpps: of(|r| r.0),
        reference_mpps: of(|r| r.1),
        floor_mpps: of(|r| r.2),
        ratio_reference: of(|r| r.0 / r.1),
    })
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn judged(rows: &[CaseRow], note: &str) -> Vec<Row> {
    let mut out = Vec::new();
    for (case, promise, ratio, rate) in BARS {
        let row = rows.iter().find(|r| r.case == *case);
        let with = match row {
            Some(r) => format!("{} rules, 64 B; {note}", r.rules),
            None => "not measured".to_owned(),
        };
        out.push(Row::new(promise, row.map(|r| r.ours_mpps), *rate, "M/s", &with));
        let reference = row.map_or(0.0, |r| r.reference_mpps);
        let against = format!("times the reference, {reference:.1} M/s");
        out.push(Row::new("  by the reference", row.map(|r| r.ratio_reference), *ratio, "x", &against));
    }
    ui::say("figures are of one thread's CPU time; only ratios of one run compare");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, ours_mpps: f64, ratio_reference: f64) -> CaseRow {
        let reference_mpps = ours_mpps / ratio_reference;
        CaseRow {
            case: case.into(),
            flows: 1,
            rules: 1,
            ours_mpps,
            reference_mpps,
            floor_mpps: 1.0,
            ratio_reference,
        }
    }

    #[test]
    fn a_ratio_below_the_bar_or_a_case_that_is_missing_holds_nothing() {
        let rows = [row("firewall-established-1k", 50.0, 1.29), row("firewall-new", 8.1, 0.9)];
        let held: Vec<bool> = judged(&rows, "").iter().map(|r| r.held).collect();
        assert_eq!(held, [true, false, false, false, false, false, true, true]);
    }

    #[test]
    fn what_ends_early_or_complains_is_said() {
        let worker = |script: &str| Worker::start("w", Command::new("sh").args(["-c", script])).unwrap();
        assert!(worker("exit 0").ask("load x").unwrap_err().to_string().contains("ended at `load x`"));
        let complains = worker(r#"read l; echo "{\"error\":\"no $l\"}""#).ask("y").unwrap_err();
        assert!(complains.to_string().contains("no y"));
        let mut good = worker(r#"read l; echo '{"mpps":2.5,"passed":3,"dropped":4}'"#);
        assert_eq!(good.round("round", 7).unwrap().passed, 3);
    }
}
