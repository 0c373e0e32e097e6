//! The packet functions: ours beside a reference in C on DPDK's libraries, in turns, by the CPU time of their threads.
//!
//! Both read the same rules and frames, which ours writes, and answer the same commands (`testbed/dataplane/reference.c`).
//! A round is so many frames of one case through each, one after the other; a figure is the median of the rounds, a
//! ratio the median of each round's. That both decide alike is checked in every round: figures of different work are none.
//! What the reference cannot do is measured beside something else of ours in the same process (`base`): a chain beside
//! its firewall alone, telemetry beside none, two packet threads beside one, IPv6 beside IPv4, modes of the balancer
//! beside layer 2. Of configurations that are swapped while frames pass, what is promised of them is judged.
//! Over devices (`net_pcap` from memory, `net_null`) ours is measured beside OVS-DPDK with the same rules and beside testpmd: there the
//! cost of the devices is in every figure, so that only the ratio says something.
//! Tests: below, and `examples/dataplane-bench` and `examples/dataplane-wire` of the data plane.

mod capture;
mod ovs;
mod peer;
mod testpmd;

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

use self::{ovs::Ovs, peer::Forwarded, testpmd::Testpmd};
use super::report::{Bar, Machine, Report, Row};
use crate::{
    cli::BenchOptions,
    command, interrupt,
    ui::{self, Step},
    up::apt::{self, Need},
    workspace,
};

const BUILD_LIMIT: Duration = Duration::from_secs(2400);
/// Making the files of a case.
const WRITE_LIMIT: Duration = Duration::from_secs(600);
const ROUNDS: usize = 11;
const QUICK_ROUNDS: usize = 7;
/// Frames of one case in a round, and at first, for the caches and the branch predictor to learn.
const FRAMES: u64 = 4_000_000;
const QUICK_FRAMES: u64 = 2_000_000;
/// Huge pages of 2 MiB: for both tables of a million connections, and for OVS and ours with 100,000 frames at each port.
const HUGE_PAGES: u64 = 1024;
/// Rounds over devices.
const WIRE_ROUNDS: usize = 9;
const QUICK_WIRE_ROUNDS: usize = 7;
/// Frames of ours over devices in a round.
const WIRE_FRAMES: u64 = 4_000_000;
/// Frames of a round beside something of ours: counters are left for others twice in it.
const BASE_FRAMES: u64 = 4_000_000;
/// Configurations that are swapped while frames pass.
const SWAPS: u64 = 20;
/// Peers, if they can be had.
const PEERS: &[Need] = &[
    Need { names: &["dpdk-dev", "dpdk"], why: "testpmd" },
    Need { names: &["openvswitch-switch-dpdk"], why: "the firewall's peer on DPDK" },
];
const HUGE_PAGES_FILE: &str = "/proc/sys/vm/nr_hugepages";

/// At least so many times OVS-DPDK on the same devices, by case; the first alone in a quick run, for OVS takes long to be warm.
const OVS_BARS: &[(&str, &str, f64)] = &[
    ("firewall-established-1k", "firewall on OVS-DPDK's devices, 1k flows", 8.0),
    ("firewall-established-100k", "firewall on OVS-DPDK's devices, 100k flows", 8.0),
];
/// At least so many times testpmd's `io`, by case.
const IO_BARS: &[(&str, &str, f64)] = &[
    ("io-null", "frames between two net_null ports", 1.0),
    ("io-pcap", "frames between two net_pcap ports", 1.0),
];

/// What must be held, by case: against the reference, and in millions a second (established: twice VPP's stateful ACL, and 1.5 times its load
/// balancer, on such a machine; that encapsulates in GRE, ours is measured at layer 2 here).
const BARS: &[(&str, &str, Bar, Bar)] = &[
    ("firewall-established-1k", "firewall, established, 1k flows", Bar::AtLeast(1.3), Bar::AtLeast(78.0)),
    ("firewall-established-100k", "firewall, established, 100k flows", Bar::AtLeast(1.3), Bar::AtLeast(35.0)),
    ("firewall-established-1m", "firewall, established, 1M flows", Bar::AtLeast(1.3), Bar::AtLeast(24.0)),
    ("firewall-new", "firewall, new connections with ageing", Bar::Shown, Bar::AtLeast(8.0)),
    ("balancer-established-1k", "balancer, layer 2, 1k flows", Bar::AtLeast(1.3), Bar::AtLeast(55.05)),
    ("balancer-established-100k", "balancer, layer 2, 100k flows", Bar::AtLeast(1.3), Bar::AtLeast(39.75)),
    ("balancer-established-1m", "balancer, layer 2, 1M flows", Bar::AtLeast(1.3), Bar::AtLeast(23.7)),
];

/// At least so many times what ours is measured beside, by case.
const BASE_BARS: &[(&str, &str, f64)] = &[
    ("chain-established-1k", "chain of firewall and balancer, 1k flows", 0.6),
    ("chain-established-100k", "chain of firewall and balancer, 100k flows", 0.6),
    ("firewall-established-100k-telemetry", "telemetry, established", 0.98),
    ("firewall-new-telemetry", "telemetry, new connections", 0.98),
    ("firewall-established-100k-two-workers", "two workers", 1.8),
];
/// What a connection may take, bytes.
const MEMORY_CASE: &str = "firewall-established-1m";
const MEMORY_BYTES: f64 = 96.0;
/// Promises of configurations that are swapped while frames pass.
const SWAP_CASE: &str = "firewall-swap-10k-rules";
const SWAP_BUILD_S: f64 = 2.0;

/// A case as the worker names it.
#[derive(Debug, Clone, Deserialize)]
struct Case {
    case: String,
    flows: u64,
    rules: u64,
    /// Something is promised of it.
    bar: bool,
    /// The reference can do it.
    reference: bool,
    /// What else of ours it is measured beside: a case or other words.
    base: Option<String>,
    /// Configurations are swapped.
    swaps: bool,
}

/// Figures of a case, millions of frames a second and core; null where it was not measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CaseRow {
    case: String,
    flows: u64,
    rules: u64,
    ours_mpps: Option<f64>,
    reference_mpps: Option<f64>,
    floor_mpps: Option<f64>,
    ratio_reference: Option<f64>,
    /// Ours on the devices that OVS or testpmd had.
    ours_wire_mpps: Option<f64>,
    ovs_mpps: Option<f64>,
    ratio_ovs: Option<f64>,
    testpmd_mpps: Option<f64>,
    ratio_testpmd: Option<f64>,
    /// What of ours it was measured beside.
    base: Option<String>,
    base_mpps: Option<f64>,
    ratio_base: Option<f64>,
    /// Where configurations were swapped.
    swap: Option<Swap>,
    /// Memory of ours for each connection that it has room for.
    connection_bytes: Option<f64>,
}

/// Configurations that were swapped while frames passed; times are of the threads' CPU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Swap {
    swaps: u64,
    /// Frames that passed meanwhile, millions a second.
    #[serde(skip_serializing)]
    mpps: f64,
    /// Of these frames.
    dropped: u64,
    /// The longest time to compile one.
    build_s: f64,
    /// The same by the clock on the wall, which others' work on the processor lengthens.
    build_wall_s: f64,
    /// Time between two bursts with a swap: median and longest.
    stall_us: f64,
    longest_stall_us: f64,
    /// Time of a burst: median and longest.
    burst_us: f64,
    longest_burst_us: f64,
}

impl Case {
    fn row(&self) -> CaseRow {
        CaseRow { case: self.case.clone(), flows: self.flows, rules: self.rules, ..CaseRow::default() }
    }
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

/// Ours, and something else of ours.
#[derive(Debug, Deserialize)]
struct Pair {
    ours: Round,
    base: Round,
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
    let [ours, wire] = step("our packet functions", build_ours)?;
    let reference = step("the reference in C", || build_reference(&dir))?;
    let cases: Vec<Case> = cases(&ours)?.into_iter().filter(|c| c.bar || !options.quick).collect();
    let _pages = HugePages::reserve();
    let huge = HugePages::enough();
    let mut worker = Worker::start("dataplane-bench", Command::new(&ours).arg("run").arg(&dir))?;
    let mut theirs = Worker::start("the reference", Command::new(reference).arg(&dir).args(eal(huge)))?;
    let mut rows = Vec::new();
    for case in &cases {
        let what = format!("{} flows, {} rules: {}", case.flows, case.rules, case.case);
        rows.push(step(&what, || {
            command::succeed(Command::new(&ours).arg("write").arg(&dir).arg(&case.case), WRITE_LIMIT)?;
            let row = if case.swaps {
                measure_swaps(case, &mut worker)
            } else if case.reference {
                measure(case, options.quick, &mut worker, &mut theirs)
            } else {
                measure_beside_ours(case, options.quick, &mut worker)
            };
            forget(&dir, case);
            row
        })?);
    }
    // Their tables make room for what comes.
    drop((worker, theirs));
    let over = Wire { program: &wire, dir: &dir, huge, quick: options.quick };
    over.beside_peers(&mut rows);
    let note = if huge {
        "tables in huge pages".to_owned()
    } else {
        format!("no huge pages: reserve {HUGE_PAGES} for figures that mean something")
    };
    Ok(Measured { report: Report::new(options.quick, machine, judged(&rows, options.quick, &note)), rows })
}

fn step<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let step = Step::begin(what);
    let done = work();
    step.end(done.is_ok(), "");
    done
}

fn build_ours() -> anyhow::Result<[PathBuf; 2]> {
    let names = ["dataplane-bench", "dataplane-wire"];
    let mut build = workspace::cargo();
    build.args(["build", "--locked", "--release", "-p", "mandate-dataplane"]);
    build.args(names.iter().flat_map(|name| ["--example", name]));
    command::succeed(&mut build, BUILD_LIMIT)?;
    let metadata = workspace::Metadata::load(&workspace::root()?)?;
    let built = metadata.target_directory.join("release").join("examples");
    Ok(names.map(|name| built.join(name)))
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

fn cases(ours: &Path) -> anyhow::Result<Vec<Case>> {
    let listed = command::succeed(Command::new(ours).arg("cases"), WRITE_LIMIT)?;
    listed.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Removes the frames of a case, of which there may be a quarter of a gigabyte, unless a peer is to have them.
fn forget(dir: &Path, case: &Case) {
    let is_kept = |case: &str| OVS_BARS.iter().any(|(name, ..)| *name == case);
    if is_kept(&case.case) {
        return;
    }
    let beside = case.base.as_ref().filter(|name| !is_kept(name));
    for name in [Some(&case.case), beside].into_iter().flatten() {
        for end in ["frames", "warm"] {
            // What is left is written over next time.
            let _best_effort = fs::remove_file(dir.join(format!("{name}.{end}")));
        }
    }
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
    let of = |f: fn(&(f64, f64, f64)) -> f64| Some(median(all.iter().map(f).collect()));
    Ok(CaseRow {
        ours_mpps: of(|r| r.0),
        reference_mpps: of(|r| r.1),
        floor_mpps: of(|r| r.2),
        ratio_reference: of(|r| r.0 / r.1),
        // Of few connections it says nothing.
        connection_bytes: a["connection_bytes"].as_f64().filter(|_| case.flows >= 100_000),
        ..case.row()
    })
}

/// Beside something else of ours, or alone.
fn measure_beside_ours(case: &Case, quick: bool, ours: &mut Worker) -> anyhow::Result<CaseRow> {
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    ours.ask(&format!("load {}", case.case))?;
    let mut all = Vec::new();
    for _ in 0..=rounds {
        let Pair { ours, base } = serde_json::from_value(ours.ask(&format!("pair {BASE_FRAMES}"))?)?;
        if ours.dropped + base.dropped > 0 {
            bail!("{}: frames are dropped, and all were to pass: {ours:?}, {base:?}", case.case);
        }
        all.push((ours.mpps, base.mpps));
    }
    // In the first both learn.
    all.remove(0);
    let of = |f: fn(&(f64, f64)) -> f64| Some(median(all.iter().map(f).collect()));
    Ok(CaseRow {
        ours_mpps: of(|r| r.0),
        base: case.base.clone(),
        base_mpps: of(|r| r.1),
        ratio_base: of(|r| r.0 / r.1),
        ..case.row()
    })
}

fn measure_swaps(case: &Case, ours: &mut Worker) -> anyhow::Result<CaseRow> {
    ours.ask(&format!("load {}", case.case))?;
    // The caches and the branch predictor learn.
    ours.round("round", QUICK_FRAMES)?;
    let swap: Swap = serde_json::from_value(ours.ask(&format!("swap {SWAPS}"))?)?;
    Ok(CaseRow { ours_mpps: Some(swap.mpps), swap: Some(swap), ..case.row() })
}

/// Ours over devices, and beside whom.
struct Wire<'a> {
    program: &'a Path,
    dir: &'a Path,
    huge: bool,
    quick: bool,
}

impl Wire<'_> {
    /// Adds what can be had: a peer that is not there, or does not start, leaves its figures out.
    fn beside_peers(&self, rows: &mut Vec<CaseRow>) {
        if let Err(e) = apt::install(PEERS) {
            ui::say(&format!("peers are missing: {e:#}"));
        }
        for (case, _, _) in ovs_bars(self.quick) {
            let Some(row) = rows.iter_mut().find(|r| r.case == *case) else { continue };
            let what = format!("{case} beside OVS-DPDK");
            match step(&what, || self.beside_ovs(case)) {
                Ok((ours, ovs, ratio)) => {
                    (row.ours_wire_mpps, row.ovs_mpps, row.ratio_ovs) = (Some(ours), Some(ovs), Some(ratio));
                }
                Err(e) => ui::say(&format!("{what}: {e:#}")),
            }
        }
        for (case, _, _) in IO_BARS {
            let what = format!("{case} beside testpmd");
            match step(&what, || self.beside_testpmd(case)) {
                Ok((ours, testpmd, ratio)) => rows.push(CaseRow {
                    case: (*case).to_owned(),
                    ours_wire_mpps: Some(ours),
                    testpmd_mpps: Some(testpmd),
                    ratio_testpmd: Some(ratio),
                    ..CaseRow::default()
                }),
                Err(e) => ui::say(&format!("{what}: {e:#}")),
            }
        }
    }

    fn captures(&self, case: &str) -> anyhow::Result<[PathBuf; 2]> {
        let both = ["outside", "inside"].map(|side| self.dir.join(format!("{case}.{side}.pcap")));
        capture::write(&self.dir.join(format!("{case}.warm")), &both[0], &both[1])?;
        Ok(both)
    }

    fn beside_ovs(&self, case: &str) -> anyhow::Result<(f64, f64, f64)> {
        if !ovs::is_there() {
            bail!("openvswitch-switch-dpdk is not installed");
        }
        let captures = self.captures(case)?;
        let file = |end: &str| self.dir.join(format!("{case}.{end}"));
        let mut command = Command::new(self.program);
        command.arg("pcap").args(&captures).args([file("json"), file("warm")]);
        let mut ours = Worker::start("dataplane-wire", &mut command)?;
        let eal = if self.huge { "--no-pci --in-memory" } else { "--no-pci --no-huge -m 2048" };
        let mut theirs = Ovs::start(self.dir, eal, &file("rules"), [&captures[0], &captures[1]])?;
        self.compare(&mut ours, || theirs.round())
    }

    fn beside_testpmd(&self, case: &str) -> anyhow::Result<(f64, f64, f64)> {
        let mut command = Command::new(self.program);
        let devices = if case == "io-null" {
            command.arg("null");
            [0, 1].map(|n| format!("net_null{n},size=64"))
        } else {
            let captures = self.captures("firewall-established-1k")?;
            command.arg("pcap").args(&captures);
            [0, 1].map(|n| format!("net_pcap{n},rx_pcap={},infinite_rx=1", captures[n].display()))
        };
        let mut ours = Worker::start("dataplane-wire", &mut command)?;
        let eal: &[&str] = match self.huge {
            true => &["--in-memory", "--no-pci", "--log-level=error"],
            false => &["--no-huge", "-m", "256", "--no-pci", "--log-level=error"],
        };
        let mut theirs = Testpmd::start(eal, &devices)?;
        self.compare(&mut ours, || theirs.round())
    }

    /// Ours, the peer's, and how many times the peer's ours is.
    fn compare(
        &self,
        ours: &mut Worker,
        mut theirs: impl FnMut() -> anyhow::Result<Forwarded>,
    ) -> anyhow::Result<(f64, f64, f64)> {
        let rounds = if self.quick { QUICK_WIRE_ROUNDS } else { WIRE_ROUNDS };
        let mut all = Vec::new();
        for _ in 0..=rounds {
            let our = ours.round("round", WIRE_FRAMES)?;
            let peer = theirs()?;
            // Whoever drops does less.
            if our.dropped > 0 || peer.passed < 0.999 {
                bail!("one of them drops: {our:?}, {peer:?}");
            }
            all.push((our.mpps, peer.mpps));
        }
        // In the first both learn.
        all.remove(0);
        let of = |f: fn(&(f64, f64)) -> f64| median(all.iter().map(f).collect());
        Ok((of(|r| r.0), of(|r| r.1), of(|r| r.0 / r.1)))
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn ovs_bars(quick: bool) -> &'static [(&'static str, &'static str, f64)] {
    if quick { &OVS_BARS[..1] } else { OVS_BARS }
}

fn judged(rows: &[CaseRow], quick: bool, note: &str) -> Vec<Row> {
    let of = |case: &str| rows.iter().find(|r| r.case == case);
    let mut out = Vec::new();
    for (case, promise, ratio, rate) in BARS {
        let row = of(case);
        let with = match row {
            Some(r) => format!("{} rules, 64 B; {note}", r.rules),
            None => "not measured".to_owned(),
        };
        out.push(Row::new(promise, row.and_then(|r| r.ours_mpps), *rate, "M/s", &with));
        let against = times("the reference", row.and_then(|r| r.reference_mpps));
        out.push(Row::new("  by the reference", row.and_then(|r| r.ratio_reference), *ratio, "x", &against));
    }
    for (case, promise, bar) in BASE_BARS {
        let row = of(case);
        let base = row.and_then(|r| r.base.as_deref()).unwrap_or("what it is measured beside");
        let against = times(base, row.and_then(|r| r.base_mpps));
        out.push(Row::new(promise, row.and_then(|r| r.ratio_base), Bar::AtLeast(*bar), "x", &against));
    }
    let memory = of(MEMORY_CASE).and_then(|r| r.connection_bytes);
    let with = "resident after the table is made, by its room";
    out.push(Row::new("memory per connection", memory, Bar::AtMost(MEMORY_BYTES), "B", with));
    out.extend(judged_swaps(of(SWAP_CASE).and_then(|r| r.swap)));
    for (case, promise, bar) in ovs_bars(quick) {
        let row = of(case);
        let against = times("OVS-DPDK with connection tracking", row.and_then(|r| r.ovs_mpps));
        out.push(Row::new(promise, row.and_then(|r| r.ratio_ovs), Bar::AtLeast(*bar), "x", &against));
    }
    for (case, promise, bar) in IO_BARS {
        let row = of(case);
        let against = times("testpmd io", row.and_then(|r| r.testpmd_mpps));
        out.push(Row::new(promise, row.and_then(|r| r.ratio_testpmd), Bar::AtLeast(*bar), "x", &against));
    }
    ui::say("figures are of one thread's CPU time; only ratios of one run compare");
    out
}

fn judged_swaps(swap: Option<Swap>) -> [Row; 3] {
    let with = |text: fn(&Swap) -> String| swap.as_ref().map_or_else(|| "not measured".to_owned(), text);
    let build =
        with(|s| format!("longest of {}, on another thread; {:.2} s by the clock", s.swaps, s.build_wall_s));
    let lost = with(|s| format!("{:.1} M/s meanwhile", s.mpps));
    let stall = with(|s| {
        format!(
            "median of {:.1} µs, {:.1} at most; a burst takes {:.1} µs, {:.0} at most",
            s.stall_us, s.longest_stall_us, s.burst_us, s.longest_burst_us
        )
    });
    let of = |f: fn(&Swap) -> f64| swap.as_ref().map(f);
    [
        Row::new("10,000 rules, built", of(|s| s.build_s), Bar::AtMost(SWAP_BUILD_S), "s", &build),
        Row::new("  frames lost by swaps", of(|s| s.dropped as f64), Bar::AtMost(0.0), "", &lost),
        Row::new(
            "  frames wait for a swap",
            of(|s| s.stall_us / s.burst_us),
            Bar::AtMost(1.0),
            "bursts",
            &stall,
        ),
    ]
}

fn times(peer: &str, mpps: Option<f64>) -> String {
    mpps.map_or_else(|| format!("{peer}: not measured"), |mpps| format!("times {peer}, {mpps:.1} M/s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, ours_mpps: f64, ratio_reference: f64) -> CaseRow {
        CaseRow {
            case: case.into(),
            ours_mpps: Some(ours_mpps),
            reference_mpps: Some(ours_mpps / ratio_reference),
            ratio_reference: Some(ratio_reference),
            ..CaseRow::default()
        }
    }

    #[test]
    fn a_ratio_below_the_bar_or_a_case_that_is_missing_holds_nothing() {
        let established = CaseRow { ratio_ovs: Some(8.1), ..row("firewall-established-1k", 50.0, 1.29) };
        let io = CaseRow { case: "io-null".into(), ratio_testpmd: Some(0.99), ..CaseRow::default() };
        let held: Vec<bool> = judged(&[established, row("firewall-new", 8.1, 0.9), io], false, "")
            .iter()
            .map(|r| r.held)
            .collect();
        let bars = 2 * BARS.len() + BASE_BARS.len() + 4;
        assert_eq!(held[..8], [false, false, false, false, false, false, true, true]);
        assert!(held[8..bars].iter().all(|h| !h));
        assert_eq!(held[bars..], [true, false, false, false]);
    }

    #[test]
    fn a_swap_that_loses_a_frame_holds_nothing_and_a_ratio_to_ours_is_judged() {
        let said = r#"{"swaps":20,"mpps":8.0,"passed":9,"dropped":1,"build_s":2.0,"build_wall_s":2.1,"stall_us":3.0,
            "longest_stall_us":4.0,"burst_us":5.0,"longest_burst_us":6.0}"#;
        let swap: Swap = serde_json::from_str(said).unwrap();
        let held = |swap| judged_swaps(swap).map(|r| r.held);
        assert_eq!(held(Some(swap)), [true, false, true]);
        assert_eq!(held(Some(Swap { dropped: 0, build_s: 2.01, ..swap })), [false, true, true]);
        assert_eq!(held(Some(Swap { stall_us: 5.1, ..swap })), [true, false, false]);
        assert_eq!(held(None), [false; 3]);
        let chain = |ratio| CaseRow { ratio_base: Some(ratio), ..row("chain-established-1k", 8.0, 1.0) };
        let first = |ratio| judged(&[chain(ratio)], true, "")[2 * BARS.len()].held;
        assert!(first(0.6) && !first(0.59));
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let json = serde_json::to_value(row("a", 1.0, 2.0)).unwrap();
        assert!(json["ovs_mpps"].is_null() && json["ratio_ovs"].is_null() && json["ratio_reference"] == 2.0);
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
