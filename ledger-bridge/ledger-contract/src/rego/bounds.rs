//! What one evaluation may make and say, since version 4 of the rules.
//!
//! The engine counts work, not memory. What lets a few calls make a text or a list without bound (each twice as long as
//! the one before) is called through here: the most that a call can make is reckoned from its arguments before it is
//! made, and an evaluation has so much in all. The builtin itself stays the engine's. An answer is measured before it is
//! written out, for a value that holds itself twice, thirty times over, is small until then.
//!
//! Not bounded, because the engine's operators and comparisons cannot be reached: integers that are multiplied with
//! themselves again and again, and the time to compare lists that hold themselves twice, thirty times over.
//! Tests: `tests/decide.rs`.

use std::cell::{Cell, RefCell};

use regorus::{Engine, Value};

/// Largest input, bytes: an intent of the largest size and all that is known of its packages.
pub(super) const MAX_INPUT_BYTES: usize = 8 << 20;
/// What the guarded builtins of one evaluation may make, bytes: a thousand times what any verdict needs.
const MAX_MADE_BYTES: u64 = 32 << 20;
/// Largest answer, counted as its values and the bytes of its texts.
const MAX_ANSWER: u64 = 4 << 20;
/// Deepest answer: a set of objects of texts has three levels.
const MAX_DEPTH: u32 = 16;
/// What a value costs besides its text.
const VALUE_BYTES: u64 = 32;
/// Most rules of a file, by its lines: each may be evaluated in the midst of another.
pub(super) const MAX_LINES: usize = 2_000;

/// Builtins that can make more than they are given, with their number of arguments.
const GUARDED: [(&str, u8); 7] = [
    ("concat", 2),
    ("replace", 3),
    ("strings.replace_n", 2),
    ("sprintf", 2),
    ("array.concat", 2),
    ("json.marshal", 1),
    ("json.marshal_with_options", 2),
];

/// What every error of these bounds says.
const TOO_MUCH: &str = "a bound of policies is exceeded";

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
    static BUILTINS: RefCell<Vec<(&'static str, Engine)>> = const { RefCell::new(Vec::new()) };
}

/// Is it one of these bounds, or the engine's bound on work?
pub(super) fn is_bound(text: &str) -> bool {
    text.contains(TOO_MUCH) || text.contains("execution exceeded time limit")
}

pub(super) fn input(text: &str) -> Result<(), String> {
    match text.len() <= MAX_INPUT_BYTES {
        true => Ok(()),
        false => Err(format!("{TOO_MUCH}: the input has {} bytes, {MAX_INPUT_BYTES} at most", text.len())),
    }
}

pub(super) fn source(text: &str) -> Result<(), String> {
    match text.lines().count() {
        n if n > MAX_LINES => Err(format!("{TOO_MUCH}: {n} lines, {MAX_LINES} at most")),
        _ => Ok(()),
    }
}

/// Refuses an answer that is too large or too deep to be written out.
pub(super) fn answer(value: &Value) -> Result<(), String> {
    let mut left = MAX_ANSWER;
    match spend(value, &mut left, MAX_DEPTH) {
        true => Ok(()),
        false => Err(format!(
            "{TOO_MUCH}: the answer is larger than {MAX_ANSWER} bytes, or deeper than {MAX_DEPTH}"
        )),
    }
}

/// Takes what a value would be, written out, from what is left.
fn spend(value: &Value, left: &mut u64, depth: u32) -> bool {
    let own = VALUE_BYTES + value.as_string().map_or(0, |s| s.len() as u64);
    let Some(rest) = left.checked_sub(own) else { return false };
    *left = rest;
    let Some(depth) = depth.checked_sub(1) else { return false };
    match value {
        Value::Array(all) => all.iter().all(|v| spend(v, left, depth)),
        Value::Set(all) => all.iter().all(|v| spend(v, left, depth)),
        Value::Object(all) => all.iter().all(|(k, v)| spend(k, left, depth) && spend(v, left, depth)),
        _ => true,
    }
}

/// Has the engine's builtins called through here.
pub(super) fn guard(engine: &mut Engine) -> Result<(), String> {
    for (name, arguments) in GUARDED {
        let call = move |given: Vec<Value>| {
            let made = MADE.get().saturating_add(most(name, &given));
            MADE.set(made);
            if made > MAX_MADE_BYTES {
                anyhow::bail!("{TOO_MUCH}: `{name}` would make too much");
            }
            builtin(name, arguments, given)
        };
        engine.add_extension(name.to_owned(), arguments, Box::new(call)).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// An evaluation begins.
pub(super) fn begin() {
    MADE.set(0);
}

/// Most that a call can make, bytes.
fn most(name: &str, given: &[Value]) -> u64 {
    let text = |n: usize| given.get(n).and_then(|v| v.as_string().ok()).map_or(0, |s| s.len() as u64);
    match name {
        "concat" => {
            let (count, all) = given.get(1).map_or((0, 0), texts);
            all.saturating_add(count.saturating_mul(text(0)))
        }
        "replace" => replaced(text(0), text(1), text(2)),
        "strings.replace_n" => given.first().and_then(|v| v.as_object().ok()).map_or(0, |patterns| {
            let len = |v: &Value| v.as_string().map_or(0, |s| s.len() as u64);
            patterns.iter().fold(text(1), |made, (old, new)| replaced(made, len(old), len(new)))
        }),
        "sprintf" => given
            .get(1)
            .map_or(0, whole)
            .saturating_add(text(0))
            .saturating_add(given.first().and_then(|v| v.as_string().ok()).map_or(0, |f| widths(f))),
        "array.concat" => given
            .iter()
            .filter_map(|v| v.as_array().ok())
            .fold(0, |n, a| n + (a.len() as u64).saturating_mul(VALUE_BYTES)),
        _ => given.first().map_or(0, whole).saturating_mul(2),
    }
}

fn texts(all: &Value) -> (u64, u64) {
    let of = |v: &Value| v.as_string().map_or(0, |s| s.len() as u64);
    match all {
        Value::Array(a) => (a.len() as u64, a.iter().map(of).fold(0, u64::saturating_add)),
        Value::Set(a) => (a.len() as u64, a.iter().map(of).fold(0, u64::saturating_add)),
        _ => (0, 0),
    }
}

/// A text of so many bytes with every `old` replaced.
fn replaced(text: u64, old: u64, new: u64) -> u64 {
    let places = text.checked_div(old).unwrap_or(text).saturating_add(1);
    text.saturating_add(places.saturating_mul(new))
}

/// A value written out; more than there may be when it is too large.
fn whole(value: &Value) -> u64 {
    let mut left = MAX_MADE_BYTES;
    match spend(value, &mut left, u32::MAX >> 20) {
        true => MAX_MADE_BYTES - left,
        false => u64::MAX,
    }
}

/// Widths and precisions that a format asks for.
fn widths(format: &str) -> u64 {
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
    numbers.fold(0, |sum: u64, n| sum.saturating_add(n.parse().unwrap_or(u64::MAX)))
}

/// The engine's own, in an engine of its own.
fn builtin(name: &'static str, arguments: u8, given: Vec<Value>) -> anyhow::Result<Value> {
    BUILTINS.with_borrow_mut(|known| {
        if !known.iter().any(|(n, _)| *n == name) {
            let mut engine = Engine::new();
            engine.set_strict_builtin_errors(true);
            let inputs: Vec<String> = (0..arguments).map(|n| format!("input[{n}]")).collect();
            let source = format!("package builtin\nanswer := {name}({})\n", inputs.join(", "));
            engine.add_policy("builtin.rego".to_owned(), source)?;
            known.push((name, engine));
        }
        let engine = known.iter_mut().find(|(n, _)| *n == name).map(|(_, e)| e);
        let Some(engine) = engine else { return Ok(Value::Undefined) };
        engine.set_input(Value::from(given));
        engine.eval_rule("data.builtin.answer".to_owned())
    })
}
