//! The timeline: one line per thing that happened, with its duration and its evidence.
//!
//! ```text
//! 14:03:07.120    +0 ms  ✔ decision     approved by 12 rules                         ledger entry 7
//! 14:03:07.300  +180 ms  ✔ step         ensure network ns-…/vl/outside       42 ms  bundle line 3
//! ```

use super::output::{Paint, Style, duration};
use crate::views::TimelineLine;

/// Width of the description; longer ones push the rest aside.
const WHAT_WIDTH: usize = 52;

/// Renders lines one by one, so that a follower looks the same as a list.
pub struct Renderer {
    style: Style,
    start_ms: Option<u64>,
    operation: String,
}

impl Renderer {
    /// A renderer that has seen nothing yet.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self { style, start_ms: None, operation: String::new() }
    }

    /// One line, ended; a heading before it when another operation begins.
    pub fn line(&mut self, line: &TimelineLine) -> String {
        let mut out = String::new();
        if line.operation_id != self.operation {
            let gap = if self.operation.is_empty() { "" } else { "\n" };
            out.push_str(&format!("{gap}{}\n", self.style.paint(Paint::Bold, &heading(&line.operation_id))));
            self.operation.clone_from(&line.operation_id);
            self.start_ms = Some(line.at_ms);
        }
        let since = line.at_ms.saturating_sub(self.start_ms.unwrap_or(line.at_ms));
        out.push_str(&self.body(line, since));
        out
    }

    fn body(&self, line: &TimelineLine, since_ms: u64) -> String {
        let s = self.style;
        let took = line.duration_ms.map_or_else(String::new, duration);
        let text = format!(
            "{}  {}  {} {}  {}  {}  {}",
            s.paint(Paint::Dim, &clock(line.at_ms)),
            s.paint(Paint::Dim, &format!("{:>11}", format!("+{}", duration(since_ms)))),
            s.mark(&line.state),
            s.paint(kind_paint(&line.kind), &format!("{:<11}", line.kind)),
            s.paint(Paint::Plain, &format!("{:<WHAT_WIDTH$}", line.what)),
            s.paint(slow(line.duration_ms), &format!("{took:>9}")),
            s.paint(Paint::Dim, line.evidence.as_deref().unwrap_or_default()),
        );
        format!("{}\n", text.trim_end())
    }
}

fn heading(operation: &str) -> String {
    if operation.is_empty() { "before any operation".into() } else { format!("operation {operation}") }
}

fn kind_paint(kind: &str) -> Paint {
    match kind {
        "decision" | "anchor" => Paint::Cyan,
        "attestation" | "measurement" => Paint::Green,
        "recovery" => Paint::Yellow,
        "refusal" => Paint::Red,
        "outcome" => Paint::Bold,
        _ => Paint::Plain,
    }
}

/// Seconds are worth a look.
fn slow(ms: Option<u64>) -> Paint {
    match ms {
        Some(5_000..) => Paint::Yellow,
        _ => Paint::Dim,
    }
}

/// Time of day in UTC, ms.
fn clock(at_ms: u64) -> String {
    let (s, ms) = (at_ms / 1_000 % 86_400, at_ms % 1_000);
    format!("{:02}:{:02}:{:02}.{ms:03}", s / 3_600, s / 60 % 60, s % 60)
}

/// A whole timeline.
#[must_use]
pub fn render(lines: &[TimelineLine], style: Style) -> String {
    let mut renderer = Renderer::new(style);
    lines.iter().map(|l| renderer.line(l)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at_ms: u64, op: &str, kind: &str, state: &str, what: &str, ms: Option<u64>) -> TimelineLine {
        TimelineLine {
            at_ms,
            operation_id: op.into(),
            kind: kind.into(),
            state: state.into(),
            what: what.into(),
            duration_ms: ms,
            evidence: Some("bundle line 3".into()),
        }
    }

    #[test]
    fn golden_without_colour_and_unicode() {
        let t0 = 1_800_000_000_000;
        let lines = [
            line(t0, "op-1", "decision", "done", "approved by 12 rules", None),
            line(t0 + 180, "op-1", "step", "done", "ensure network ns-1/vl/outside", Some(42)),
            line(t0 + 7_180, "op-1", "step", "failed", "ensure compute ns-1/vnf/1/vdu/fw/0", Some(7_000)),
            line(t0 + 90_000, "op-2", "step", "undone", "remove network ns-1/vl/outside", Some(3)),
        ];
        let got = render(&lines, Style { color: false, unicode: false });
        let expected = "\
operation op-1
08:00:00.000        +0 ms  + decision     approved by 12 rules                                             bundle line 3
08:00:00.180      +180 ms  + step         ensure network ns-1/vl/outside                            42 ms  bundle line 3
08:00:07.180       +7.1 s  x step         ensure compute ns-1/vnf/1/vdu/fw/0                        7.0 s  bundle line 3

operation op-2
08:01:30.000        +0 ms  < step         remove network ns-1/vl/outside                             3 ms  bundle line 3
";
        assert_eq!(got, expected);
    }

    #[test]
    fn colour_and_unicode_when_the_terminal_has_them() {
        let text = render(&[line(0, "op", "step", "done", "x", None)], Style { color: true, unicode: true });
        assert!(text.contains("\x1b[32m✔\x1b[0m"), "{text:?}");
    }
}
