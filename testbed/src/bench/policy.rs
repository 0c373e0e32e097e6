//! The gate inside OpenStack: what a question costs whoever asks it.

use std::path::Path;

use serde_json::Value;

use super::{
    control::{Part, Rows, Sizes, at, example},
    report::{Bar, Row},
};

/// What is measured.
pub const PARTS: &[(&str, Part)] = &[("the gate inside OpenStack", gate)];
/// The longest answer to a service that waits for it, ms.
const ANSWER_MS: f64 = 5.0;
/// Questions asked, with `--quick` and without.
const QUICK_ANSWERS: &str = "8000";
const ANSWERS: &str = "40000";

fn gate(sizes: &Sizes, _: &Path) -> Rows {
    let answers = if sizes.promised() { ANSWERS } else { QUICK_ANSWERS };
    example("orchestrator", "policy-bench", &[answers]).map(|a| rows(&a))
}

fn rows(a: &Value) -> Vec<Row> {
    let all = "20 askers without a pause, each on a TLS connection that is kept; clients that do nothing else, on the same machine";
    let some = "the same 20, 1,000 questions a second together";
    let plugin = "the oslo.policy plugin in one Python thread, from the question to the answer";
    let row = |promise: &str, pointer: &str, bar, unit, with: &str| {
        Row::new(promise, at(a, pointer), bar, unit, with)
    };
    let bar = Bar::AtMost(ANSWER_MS);
    vec![
        row("an answer, p99", "/closed/latency/p99_ms", bar, "ms", all),
        row("its p50", "/closed/latency/p50_ms", Bar::Shown, "ms", all),
        row("answers", "/closed/per_s", Bar::Shown, "/s", all),
        row("their CPU", "/closed/cpu_us", Bar::Shown, "us", "each, clients included"),
        row("of it in the server", "/inside_us", Bar::Shown, "us", "on average, by the clock"),
        row("an answer when not pressed, p99", "/open/latency/p99_ms", bar, "ms", some),
        row("its p50", "/open/latency/p50_ms", Bar::Shown, "ms", some),
        row("with the plugin, p99", "/plugin/p99_ms", bar, "ms", plugin),
        row("its p50", "/plugin/p50_ms", Bar::Shown, "ms", plugin),
        row("of it Python", "/plugin_own_us", Bar::Shown, "us", "CPU of the plugin, TLS included"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_that_is_late_or_was_not_measured_holds_nothing() {
        let answer = json!({
            "closed": { "per_s": 20_000.0, "cpu_us": 40.0, "latency": { "p50_ms": 0.5, "p99_ms": 5.1 } },
            "open": { "latency": { "p50_ms": 0.1, "p99_ms": 0.4 } }, "inside_us": 6.0, "plugin": null });
        let held: Vec<bool> = rows(&answer).iter().map(|r| r.held).collect();
        assert_eq!(held, [false, true, true, true, true, true, true, false, false, false]);
    }
}
