//! What one evaluation may make and say, since version 4 of the rules.
//!
//! The engine counts work, not memory. What lets a few calls make a text or a list without bound (each twice as long as
//! the one before) is called through here: the most that a call can make is reckoned from its arguments before it is
//! made, and an evaluation has so much in all. The builtin itself stays the engine's. An answer is measured before it is
//! written out, for a value that holds itself twice, thirty times over, is small until then.
//!
//! A text is measured before it is parsed, too: the engine's parser tries what an open bracket may begin one after the
//! other, each try reading the rest again, so its time grows by a factor with each bracket inside another.
//!
//! Not bounded, because the engine's operators and comparisons cannot be reached: integers that are multiplied with
//! themselves again and again, and the time to compare lists that hold themselves twice, thirty times over.
//! Tests: below, and `tests/policies.rs`.

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

/// Deepest brackets inside one another: twice what any rule of the default bundle has.
const MAX_NESTING: u32 = 12;
/// Most tries of the parser: a hundred times what the default bundle costs.
const MAX_TRIES: u64 = 1 << 18;

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
    let lines = text.lines().count();
    if lines > MAX_LINES {
        return Err(format!("{TOO_MUCH}: {lines} lines, {MAX_LINES} at most"));
    }
    let found = nesting(text);
    if found.most > MAX_NESTING {
        return Err(format!(
            "{TOO_MUCH}: line {}: brackets inside one another, {MAX_NESTING} deep at most: give the inner ones a name",
            found.at
        ));
    }
    match found.tries {
        n if n > MAX_TRIES => {
            Err(format!("{TOO_MUCH}: too many brackets inside one another, in all: make it two files"))
        }
        _ => Ok(()),
    }
}

/// Brackets of all kinds.
#[derive(Debug, PartialEq, Eq)]
struct Nesting {
    /// How deep they stand inside one another at most.
    most: u32,
    /// The line where that is.
    at: usize,
    /// What the parser may try, in all: for each bracket twice as much as for the one that it is in.
    tries: u64,
}

/// Texts and comments have no brackets; a text that does not end ends with its line, as the parser says.
fn nesting(text: &str) -> Nesting {
    let mut found = Nesting { most: 0, at: 1, tries: 0 };
    let (mut open, mut line) = (0_u32, 1);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '[' | '{' | '(' => {
                open += 1;
                found.tries = found.tries.saturating_add(1 << open.min(40));
                if open > found.most {
                    (found.most, found.at) = (open, line);
                }
            }
            ']' | '}' | ')' => open = open.saturating_sub(1),
            '#' => line += usize::from(chars.by_ref().any(|c| c == '\n')),
            '`' => line += chars.by_ref().take_while(|c| *c != '`').filter(|c| *c == '\n').count(),
            '"' => {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => line += usize::from(chars.next() == Some('\n')),
                        '"' => break,
                        '\n' => {
                            line += 1;
                            break;
                        }
                        _ => {}
                    }
                }
            }
            '\n' => line += 1,
            _ => {}
        }
    }
    found
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn brackets_are_counted_where_they_are_brackets() {
        for (text, most) in [
            ("", (0, 1)),
            ("a\n[{(x)}]", (3, 2)),
            ("[]\n[]\n[]", (1, 1)),
            ("]]]]\n[", (1, 2)),
            ("x := \"[[[[\\\"[[\"\ny := [1]", (1, 2)),
            ("# [[[[\n(1)", (1, 2)),
            ("`[[\n[[`\n[[1]]", (2, 3)),
            ("\"[[\n[[", (2, 2)),
            ("# no end [[", (0, 1)),
        ] {
            let found = nesting(text);
            assert_eq!((found.most, found.at), most, "{text:?}");
        }
    }

    #[test]
    fn many_deep_ones_are_too_much_together() {
        let deep = "[".repeat(11) + &"]".repeat(11) + "\n";
        assert!(source(&deep.repeat(60)).is_ok());
        assert!(source(&deep.repeat(100)).unwrap_err().contains("in all"));
        let shipped = include_str!("../../policy/default/tenant.rego");
        let found = nesting(shipped);
        assert!(found.most * 2 <= MAX_NESTING && found.tries * 100 <= MAX_TRIES, "{found:?}");
    }

    /// What the parser takes for the deepest text that is let through, against a flat one of the same length; one level more
    /// would be a factor more.
    #[test]
    fn no_text_that_is_let_through_keeps_the_parser() {
        let head = "package mandate.tenant\n\nf(p) := x if p == ";
        for open in ["[", "{", "(", "[{", "{[", "x[", "f(", "[x |", "{x |", "{1: ", "not [", "-("] {
            let brackets = open.matches(['[', '{', '(']).count();
            for closed in [false, true] {
                let text = |depth: usize| {
                    let close = if closed { "1".to_owned() + &"]})".repeat(depth) } else { String::new() };
                    format!("{head}{}{close}\n", open.repeat(depth / brackets))
                };
                let most = usize::try_from(MAX_NESTING).unwrap();
                assert!(source(&text(most - 1)).is_ok(), "{open}");
                let problem = source(&text(most * 2 + 2)).unwrap_err();
                assert!(problem.contains("line 3: brackets inside one another"), "{problem}");
                let start = std::time::Instant::now();
                let _ = Engine::new().add_policy("p".into(), text(most - 1));
                // Seconds would be a bound that fails to bound; what is let through takes milliseconds.
                assert!(start.elapsed().as_secs() < 20, "{open}: {:?}", start.elapsed());
                println!("{open} {closed}: {:?}", start.elapsed());
            }
        }
    }
}
