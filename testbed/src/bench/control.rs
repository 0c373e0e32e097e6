//! The control plane: gate, ledger, engine, evidence, observation.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::report::{Bar, Machine, Report, Row};
use crate::{
    cli::{BenchOptions, DemoOptions},
    command, demo, interrupt,
    ui::{self, Step},
    workspace,
};

/// A release build of everything on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(2400);
/// One measurement: making a log of a million entries is the longest.
const RUN_LIMIT: Duration = Duration::from_secs(3600);

/// How much of everything.
pub struct Sizes {
    decisions: u32,
    entries: u32,
    deploys: u32,
    intents: u32,
    services: u32,
}

impl Sizes {
    /// Not `--quick`.
    pub fn promised(&self) -> bool {
        self.entries == PROMISED.entries
    }
}

const PROMISED: Sizes =
    Sizes { decisions: 3_000, entries: 1_000_000, deploys: 300, intents: 10_000, services: 10_000 };
const QUICK: Sizes = Sizes { decisions: 500, entries: 20_000, deploys: 40, intents: 500, services: 1_000 };

/// The least fairness: Jain's index over the tenants, per mille; 1000: all alike.
const FAIR: f64 = 980.0;
/// What memory may grow by while ten thousand intents wait and are carried out, MiB: each service's row and what should be
/// there of it stay in memory (and in the embedded ledger's state), the operations do not.
const FLAT_MIB: f64 = 160.0;

pub type Rows = anyhow::Result<Vec<Row>>;
/// Measures something.
pub type Part = fn(&Sizes, &Path) -> Rows;

/// What is measured, in order.
pub const PARTS: &[(&str, Part)] = &[
    ("the embedded ledger", ledger),
    ("deployments and their evidence", deploys),
    ("a burst of intents", burst),
    ("services observed", observed),
    ("services compared", compared),
    ("the demo", chain),
];

/// Builds, measures, judges.
pub fn run(options: &BenchOptions, parts: &[(&str, Part)]) -> anyhow::Result<Report> {
    let machine = Machine::here();
    let sizes = if options.quick { &QUICK } else { &PROMISED };
    let dir = workspace::state_dir()?.join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let bar = progress(parts.len());
    let mut rows = Vec::new();
    for (what, part) in parts {
        interrupt::check()?;
        let step = Step::begin(what);
        let measured = part(sizes, &dir);
        let detail = measured.as_ref().err().map(|e| format!("{e:#}")).unwrap_or_default();
        let held = measured.as_ref().is_ok_and(|rows| rows.iter().all(|r| r.held));
        bar.suspend(|| step.end(held, &detail));
        bar.inc(1);
        match measured {
            Ok(some) => rows.extend(some),
            // What cannot be measured is neither held nor missed: it is said, and the exit code says it too.
            Err(e) => rows.push(Row::new(what, None, Bar::AtLeast(1.0), "", first_line(&e))),
        }
    }
    bar.finish_and_clear();
    Ok(Report::new(options.quick, machine, rows))
}

fn progress(parts: usize) -> ProgressBar {
    if !ui::is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30.cyan} {pos} of {len} measured, {elapsed}");
    ProgressBar::new(parts as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn first_line(e: &anyhow::Error) -> &'static str {
    match e.downcast_ref::<std::io::Error>() {
        Some(_) => "it could not be run: see above",
        None => "it failed: see above",
    }
}

/// An example as a release.
pub fn built(package: &str, name: &str) -> anyhow::Result<PathBuf> {
    let build = ["build", "--locked", "--release", "-p", package, "--example", name];
    command::succeed(workspace::cargo().args(build), BUILD_LIMIT)?;
    let metadata = workspace::Metadata::load(&workspace::root()?)?;
    Ok(metadata.target_directory.join("release").join("examples").join(name))
}

/// Runs an example as a release and reads the JSON document that it ends with.
pub fn example(package: &str, name: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let program = built(package, name)?;
    let out = command::succeed(Command::new(program).args(arguments), RUN_LIMIT)?;
    let last = out.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("what {name} answered"))
}

/// A number in an answer; absent is not zero.
pub fn at(answer: &Value, pointer: &str) -> Option<f64> {
    answer.pointer(pointer).and_then(Value::as_f64)
}

fn ledger(sizes: &Sizes, dir: &Path) -> Rows {
    let (dir, decisions, entries) =
        (dir.display().to_string(), sizes.decisions.to_string(), sizes.entries.to_string());
    let arguments = ["--dir", &dir, "--decisions", &decisions, "--entries", &entries, "--json"];
    example("ledger", "ledger-bench", &arguments).map(|answer| ledger_rows(sizes, &answer))
}

fn ledger_rows(sizes: &Sizes, a: &Value) -> Vec<Row> {
    let (open, closed) = ("/decisions/open_loop", "/decisions/closed_loop");
    let with = format!("{} deployments, fsync; 2,000/s arrive, at most 50 in flight", sizes.decisions);
    let clients = format!("{} deployments, fsync; 50 clients without a pause", sizes.decisions);
    let long = format!("{} entries", sizes.entries);
    let own = format!("{long}; without what it waited for a processor that others had");
    let row = |promise: &str, pointer: &str, bar, unit, with: &str| {
        Row::new(promise, at(a, pointer), bar, unit, with)
    };
    vec![
        row("decision, p50", &format!("{open}/latency/p50_ms"), Bar::AtMost(5.0), "ms", &with),
        row("decision, p99", &format!("{open}/latency/p99_ms"), Bar::AtMost(25.0), "ms", &with),
        row("decisions", &format!("{closed}/decisions_per_s"), Bar::AtLeast(2000.0), "/s", &clients),
        row("their p50: 50 / rate", &format!("{closed}/latency/p50_ms"), Bar::Shown, "ms", &clients),
        row("their p99", &format!("{closed}/latency/p99_ms"), Bar::AtMost(25.0), "ms", &clients),
        row(
            "their CPU",
            &format!("{closed}/cpu_us"),
            Bar::Shown,
            "us",
            "each, all threads, clients included",
        ),
        row("of it one after the other", &format!("{closed}/in_turn_cpu_us"), Bar::Shown, "us", "each"),
        row("a long log starts", "/long/start_ms", Bar::AtMost(3000.0), "ms", &long),
        row("its memory, at most", "/long/memory_mib", Bar::AtMost(190.0), "MiB", &long),
        row("a proof from it, p99", "/long/entry_with_proof_own/p99_ms", Bar::AtMost(5.0), "ms", &own),
        row("the same by the clock", "/long/entry_with_proof/p99_ms", Bar::Shown, "ms", &long),
    ]
}

fn deploys(sizes: &Sizes, dir: &Path) -> Rows {
    let (count, dir) = (sizes.deploys.to_string(), dir.display().to_string());
    let a = example("orchestrator", "control-bench", &["deploys", &count, &dir])?;
    let with = format!(
        "{count} deployments; the VIM's share, not counted: {:.1} ms",
        at(&a, "/vim_cpu_ms_per_deploy").unwrap_or_default()
    );
    let lines = at(&a, "/bundles/lines").unwrap_or_default();
    let evidence = format!("their bundles, {lines} lines each, by the CPU time of one thread");
    Ok(vec![
        Row::new("CPU per deployment", at(&a, "/cpu_ms_per_deploy"), Bar::AtMost(20.0), "ms", &with),
        Row::new(
            "bundles verified per core",
            at(&a, "/bundles/per_core_s"),
            Bar::AtLeast(1000.0),
            "/s",
            &evidence,
        ),
    ])
}

fn burst(sizes: &Sizes, dir: &Path) -> Rows {
    let (count, dir) = (sizes.intents.to_string(), dir.display().to_string());
    example("orchestrator", "control-bench", &["burst", &count, &dir])
        .map(|answer| burst_rows(sizes, &answer))
}

fn burst_rows(sizes: &Sizes, a: &Value) -> Vec<Row> {
    let with = format!("{} approved intents at once, five tenants, one with 60 %", sizes.intents);
    let difference = |a_: &str, b: &str| Some(at(a, a_)? - at(a, b)?);
    vec![
        Row::new("burst: intents lost", difference("/expected", "/completed"), Bar::AtMost(0.0), "", &with),
        Row::new(
            "burst: memory grows by",
            difference("/memory_most_mib", "/memory_before_mib"),
            Bar::AtMost(FLAT_MIB),
            "MiB",
            &with,
        ),
        Row::new(
            "burst: services out of order",
            difference("/ordered", "/in_order"),
            Bar::AtMost(0.0),
            "",
            &with,
        ),
        Row::new(
            "burst: fairness",
            at(a, "/fairness_permille"),
            Bar::AtLeast(FAIR),
            "‰",
            "Jain's index over tenants with work to do",
        ),
    ]
}

/// A test that is a measurement: what it prints.
fn test(package: &str, target: &str, name: &str, services: u32) -> anyhow::Result<String> {
    let mut c = workspace::cargo();
    c.args(["test", "--locked", "--release", "-p", package, "--test", target, "--", name, "--nocapture"]);
    let out = command::succeed(c.env("OBSERVED_SERVICES", services.to_string()), BUILD_LIMIT)?;
    Ok(format!("{}\n{}", out.stdout, out.stderr))
}

fn observed(sizes: &Sizes, _: &Path) -> Rows {
    let said = test("vim-host", "drift", "thousands_of_services", sizes.services)?;
    let ms = figure(&said, "observed in ", " ms")
        .context("the test did not say how long it took: is this root?")?;
    let with = format!("{} services on this machine's VIM, once its files are known", sizes.services);
    Ok(vec![Row::new("services observed", Some(ms), Bar::AtMost(1800.0), "ms", &with)])
}

fn compared(_: &Sizes, _: &Path) -> Rows {
    let said = test("lcm", "drift", "ten_thousand_services", 10_000)?;
    let ms = figure(&said, "compared in ", " ms").context("the test did not say how long it took")?;
    Ok(vec![Row::new(
        "services compared",
        Some(ms),
        Bar::AtMost(200.0),
        "ms",
        "10000 services of 8 objects; observing and comparing: 2 s",
    )])
}

/// The number between two texts.
fn figure(said: &str, before: &str, after: &str) -> Option<f64> {
    let rest = &said[said.find(before)? + before.len()..];
    rest[..rest.find(after)?].trim().parse().ok()
}

/// The demo as a measurement: its story is for stderr, stdout is the report's alone.
fn quiet() -> DemoOptions {
    DemoOptions { release: true, json: true, ..DemoOptions::default() }
}

fn chain(_: &Sizes, _: &Path) -> Rows {
    let report = demo::run(&quiet())?;
    let deploy = report.steps.iter().find(|s| s.ok && s.name.starts_with("tenant: deploy"));
    let seconds = deploy.map(|s| Duration::from_millis(s.ms).as_secs_f64());
    let with = "the demo's first service, from submission to anchor: 1 s of it is measuring";
    Ok(vec![Row::new("intent to measured and attested", seconds, Bar::AtMost(5.0), "s", with)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_demo_leaves_stdout_to_the_report() {
        assert!(quiet().json, "with it the demo tells its story on stderr");
    }

    #[test]
    fn figures_are_read_from_what_was_said() {
        let said = "SKIPPED nothing\n10000 services, 30002 objects: observed in 812 ms\n";
        assert_eq!(figure(said, "observed in ", " ms"), Some(812.0));
        assert_eq!(figure("SKIPPED: not root", "observed in ", " ms"), None);
    }

    #[test]
    fn an_answer_without_a_figure_holds_nothing() {
        let answer = json!({ "decisions": {
            "open_loop": { "latency": { "p50_ms": 4.0, "p99_ms": 30.0 } },
            "closed_loop": { "decisions_per_s": 2500.0, "cpu_us": 200.0,
                "latency": { "p50_ms": 20.0, "p99_ms": 24.0 } } } });
        let rows = ledger_rows(&QUICK, &answer);
        let held: Vec<bool> = rows.iter().map(|r| r.held).collect();
        assert_eq!(held, [true, false, true, true, true, true, false, false, false, false, false]);
        let answer = json!({ "expected": 550, "completed": 549, "ordered": 50, "in_order": 50,
            "memory_before_mib": 30, "memory_most_mib": 61, "fairness_permille": 999 });
        let held: Vec<bool> = burst_rows(&QUICK, &answer).iter().map(|r| r.held).collect();
        assert_eq!(held, [false, true, true, true]);
    }
}
