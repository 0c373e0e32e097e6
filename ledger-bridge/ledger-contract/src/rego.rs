//! Tenant rules: Rego through regorus, deterministic and bounded.
//!
//! regorus is built without `std`: it then has no random numbers, no clock, no network and prints nothing. Its
//! execution timer reads the «time source» below, which counts how often it was asked: the limit is an amount of
//! work, the same on every machine, not a time. An error of any kind refuses; it never approves. What texts and lists may
//! grow to is bounded since version 4 of the rules ([`bounds`]).

mod bounds;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    num::NonZeroU32,
    sync::Once,
    time::Duration,
};

use regorus::{
    Engine, Value,
    utils::limits::{ExecutionTimerConfig, TimeSource, set_time_source},
};
use serde::Deserialize;

use crate::{
    memo::{ByBytes, remembered},
    policy::{DATA_FILE, PolicyError, TestResult},
    records::PolicyBundle,
};

/// Work units (expressions and loop iterations) between two looks at the budget.
const UNITS_PER_TICK: NonZeroU32 = NonZeroU32::new(1000).unwrap();
/// Looks at the budget that one evaluation may take: with [`UNITS_PER_TICK`] a million units, well under a second.
const MAX_TICKS: u64 = 1000;
/// Builtins that one call, with a number from the input, can make allocate or work without bound.
const FORBIDDEN: [&str; 4] = ["numbers.range", "strings.repeat", "bits.lsh", "rand."];
/// Ending of a file of tests.
const TEST_SUFFIX: &str = "_test.rego";
/// Most tests of one bundle: they run in the decision that brings it into force.
const MAX_TESTS: usize = 256;
/// Most refusals kept of one rule file.
const MAX_DENIALS: usize = 100;

/// Compiled rule files that a thread remembers: those of the bundles in force and some before.
const MAX_ENGINES: usize = 16;

/// Version of the rules since which what a policy makes is bounded.
const BOUNDED_SINCE: u32 = 4;

/// Code of a policy's error under the rules of version `v`.
pub(crate) fn code(error: &PolicyError, v: u32) -> &'static str {
    match v >= BOUNDED_SINCE && bounds::is_bound(&error.problem) {
        true => "POLICY_LIMIT",
        false => "POLICY_ERROR",
    }
}

/// What a rule file refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Denial {
    pub rule: String,
    pub code: String,
    pub detail: String,
}

/// A rule file's result.
pub(crate) struct Evaluated {
    pub rules: BTreeSet<String>,
    pub denials: Vec<Denial>,
}

thread_local! {
    static TICKS: Cell<u64> = const { Cell::new(0) };
    static ENGINES: RefCell<ByBytes<Result<Engine, PolicyError>>> = RefCell::new(ByBytes::new(MAX_ENGINES));
}

struct WorkCounter;

impl TimeSource for WorkCounter {
    fn now(&self) -> Option<Duration> {
        let n = TICKS.get().saturating_add(1);
        TICKS.set(n);
        Some(Duration::from_millis(n))
    }
}

/// An engine of its own for one evaluation, compiled once for the same file and data.
fn engine(bundle: &PolicyBundle, path: &str, source: &str, v: u32) -> Result<Engine, PolicyError> {
    let bounded = [u8::from(v >= BOUNDED_SINCE)];
    let data = bundle.files.get(DATA_FILE).map_or("{}", String::as_str);
    remembered(
        |f| ENGINES.with_borrow_mut(f),
        [path.as_bytes(), source.as_bytes(), data.as_bytes(), &bounded].as_slice(),
        || {
            let mut engine = compile(path, source, data, v)?;
            // The first evaluation prepares the engine. It is always made here, so that every later one starts alike.
            eval::<BTreeSet<String>>(&mut engine, path, "rules", v)?;
            Ok(engine)
        },
    )
}

fn compile(path: &str, source: &str, data: &str, v: u32) -> Result<Engine, PolicyError> {
    static COUNTER: WorkCounter = WorkCounter;
    static ONCE: Once = Once::new();
    // It can only fail when it is set already, which `Once` excludes.
    ONCE.call_once(|| {
        let _ = set_time_source(&COUNTER);
    });
    let error = |e: &dyn std::fmt::Display| PolicyError::new(path, first_lines(&e.to_string()));
    if let Some(name) = FORBIDDEN.iter().find(|name| source.contains(*name)) {
        return Err(PolicyError::new(path, format!("`{name}` is not available to policies")));
    }
    let mut engine = Engine::new();
    if v >= BOUNDED_SINCE {
        bounds::source(source).map_err(|e| error(&e))?;
        bounds::guard(&mut engine).map_err(|e| error(&e))?;
    }
    engine.set_strict_builtin_errors(true);
    engine.set_gather_prints(true);
    engine.set_execution_timer_config(ExecutionTimerConfig {
        limit: Duration::from_millis(MAX_TICKS),
        check_interval: UNITS_PER_TICK,
    });
    let package = engine.add_policy(path.to_owned(), source.to_owned()).map_err(|e| error(&e))?;
    if package != "data.mandate.tenant" {
        return Err(PolicyError::new(path, format!("its package is `{package}`, expected mandate.tenant")));
    }
    engine.add_data_json(data).map_err(|e| error(&e))?;
    Ok(engine)
}

/// Regorus underlines the place over several lines; a verdict has one.
fn first_lines(text: &str) -> String {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).take(5).collect::<Vec<_>>().join(" ")
}

fn eval<T: serde::de::DeserializeOwned>(
    engine: &mut Engine,
    path: &str,
    rule: &str,
    v: u32,
) -> Result<T, PolicyError> {
    let error = |e: &dyn std::fmt::Display| {
        PolicyError::new(path, format!("`{rule}`: {}", first_lines(&e.to_string())))
    };
    bounds::begin();
    let value = engine.eval_rule(format!("data.mandate.tenant.{rule}")).map_err(|e| error(&e))?;
    if v >= BOUNDED_SINCE {
        bounds::answer(&value).map_err(|e| error(&e))?;
    }
    if value == Value::Undefined {
        return Err(error(&"is undefined"));
    }
    // An empty answer, which is the usual one, is the same in every type.
    if value.as_set().is_ok_and(|s| s.is_empty()) {
        return serde_json::from_str("[]").map_err(|e| error(&e));
    }
    let json = value.to_json_str().map_err(|e| error(&e))?;
    serde_json::from_str(&json).map_err(|e| error(&e))
}

fn rule_files(bundle: &PolicyBundle) -> impl Iterator<Item = (&String, &String)> {
    bundle.files.iter().filter(|(path, source)| path.ends_with(".rego") && !is_test(path, source))
}

/// By name and package: no bundle of version 1 could have such a file.
fn is_test(path: &str, source: &str) -> bool {
    path.ends_with(TEST_SUFFIX) && source.lines().any(|l| l.trim_end() == "package mandate.tenant_test")
}

/// Runs the tests of a bundle.
pub(crate) fn test(bundle: &PolicyBundle, v: u32) -> Result<Vec<TestResult>, PolicyError> {
    let mut results = Vec::new();
    for (path, source) in bundle.files.iter().filter(|(path, source)| is_test(path, source)) {
        let tested = path.replace(TEST_SUFFIX, ".rego");
        let Some(rules) = bundle.files.get(&tested) else {
            return Err(PolicyError::new(path, format!("there is no {tested} that it could test")));
        };
        let data = bundle.files.get(DATA_FILE).map_or("{}", String::as_str);
        let mut engine = compile(&tested, rules, data, v)?;
        let error = |e: &dyn std::fmt::Display| PolicyError::new(path, first_lines(&e.to_string()));
        if let Some(name) = FORBIDDEN.iter().find(|name| source.contains(*name)) {
            return Err(PolicyError::new(path, format!("`{name}` is not available to policies")));
        }
        if v >= BOUNDED_SINCE {
            bounds::source(source).map_err(|e| error(&e))?;
        }
        engine.add_policy(path.clone(), source.clone()).map_err(|e| error(&e))?;
        let names: BTreeSet<&str> = source.lines().filter_map(test_name).collect();
        if names.len() + results.len() > MAX_TESTS {
            return Err(PolicyError::new(path, format!("more than {MAX_TESTS} tests")));
        }
        results.extend(names.into_iter().map(|name| run_test(engine.clone(), path, name)));
    }
    Ok(results)
}

/// `test_x` of a line `test_x if {`, `test_x := …`, `test_x {`.
fn test_name(line: &str) -> Option<&str> {
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(line.len());
    line.starts_with("test_").then(|| &line[..end])
}

fn run_test(mut engine: Engine, path: &str, name: &str) -> TestResult {
    bounds::begin();
    let outcome = engine.eval_rule(format!("data.mandate.tenant_test.{name}"));
    let detail = match outcome {
        Ok(Value::Bool(true)) => String::new(),
        Ok(Value::Undefined) => "it is undefined: nothing in it was true".to_owned(),
        Ok(other) if bounds::answer(&other).is_ok() => format!("it is {other}"),
        Ok(_) => "it is too large to be shown".to_owned(),
        Err(e) => first_lines(&e.to_string()),
    };
    TestResult { file: path.to_owned(), name: name.to_owned(), passed: detail.is_empty(), detail }
}

/// Names of all rules that the bundle's files declare; an error when one does not compile.
pub(crate) fn declared(bundle: &PolicyBundle, v: u32) -> Result<BTreeSet<String>, PolicyError> {
    let mut names = BTreeSet::new();
    for (path, source) in rule_files(bundle) {
        let mut engine = engine(bundle, path, source, v)?;
        names.extend(eval::<BTreeSet<String>>(&mut engine, path, "rules", v)?);
    }
    Ok(names)
}

/// Evaluates every rule file over `input`, a JSON document.
pub(crate) fn evaluate(bundle: &PolicyBundle, input: &str, v: u32) -> Result<Vec<Evaluated>, PolicyError> {
    if v >= BOUNDED_SINCE {
        bounds::input(input).map_err(|e| PolicyError::new("*", e))?;
    }
    rule_files(bundle).map(|(path, source)| evaluate_file(bundle, path, source, input, v)).collect()
}

fn evaluate_file(
    bundle: &PolicyBundle,
    path: &str,
    source: &str,
    input: &str,
    v: u32,
) -> Result<Evaluated, PolicyError> {
    let mut engine = engine(bundle, path, source, v)?;
    engine.set_input_json(input).map_err(|e| PolicyError::new(path, first_lines(&e.to_string())))?;
    let rules = eval::<BTreeSet<String>>(&mut engine, path, "rules", v)?;
    let mut denials = eval::<Vec<Denial>>(&mut engine, path, "deny", v)?;
    denials.sort();
    denials.truncate(MAX_DENIALS);
    Ok(Evaluated { rules, denials })
}
