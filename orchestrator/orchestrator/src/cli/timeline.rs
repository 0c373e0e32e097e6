//! The timeline: one line per thing that happened, with its duration and its evidence.
//!
//! ```text
//! 14:03:07.120      +0 ms  ✔ decision     deploy approved and verified            ledger entry 7
//! 14:03:07.300    +180 ms  ✔ step         make link vl/outside            42 ms  bundle line 3
//! ```

mod tree;

use super::output::{Paint, Style, duration, printable};
use crate::views::TimelineLine;

pub use tree::render;

/// Width of the description; longer ones go on below.
const WHAT_WIDTH: usize = 52;
/// Where the description begins.
const INDENT: usize = 12 + 2 + 9 + 2 + 2 + 11 + 2;

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
        if line.operation_id != self.operation || self.start_ms.is_none() {
            let gap = if self.start_ms.is_none() { "" } else { "\n" };
            let heading = self.style.paint(Paint::Bold, &heading(&line.operation_id));
            out.push_str(&format!("{gap}{heading}  {}\n", self.style.paint(Paint::Dim, &date(line.at_ms))));
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
        let what = wrap(&printable(&line.what), WHAT_WIDTH);
        let (first, rest) = what.split_first().map_or(("", &[][..]), |(f, r)| (f.as_str(), r));
        let text = format!(
            "{}  {}  {} {}  {}  {}  {}",
            s.paint(Paint::Dim, &clock(line.at_ms)),
            s.paint(Paint::Dim, &format!("{:>9}", format!("+{}", duration(since_ms)))),
            s.mark(&line.state),
            s.paint(kind_paint(&line.kind), &format!("{:<11}", line.kind)),
            s.paint(Paint::Plain, &format!("{first:<WHAT_WIDTH$}")),
            s.paint(slow(line.duration_ms), &format!("{took:>7}")),
            s.paint(Paint::Dim, line.evidence.as_deref().unwrap_or_default()),
        );
        let mut out = format!("{}\n", text.trim_end());
        for more in rest {
            out.push_str(&format!("{:INDENT$}{more}\n", ""));
        }
        out
    }
}

/// Breaks at spaces; a word longer than the width stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn heading(operation: &str) -> String {
    if operation.is_empty() { "of no operation".into() } else { format!("operation {operation}") }
}

fn kind_paint(kind: &str) -> Paint {
    match kind {
        "decision" | "anchor" => Paint::Cyan,
        "attestation" | "measurement" => Paint::Green,
        "recovery" | "gap" => Paint::Yellow,
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

/// The day, in UTC.
fn date(at_ms: u64) -> String {
    let text = trust::UnixTime(at_ms / 1_000).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

/// Time of day in UTC, ms.
fn clock(at_ms: u64) -> String {
    let (s, ms) = (at_ms / 1_000 % 86_400, at_ms % 1_000);
    format!("{:02}:{:02}:{:02}.{ms:03}", s / 3_600, s / 60 % 60, s % 60)
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

    fn all(lines: &[TimelineLine], style: Style) -> String {
        let mut lines = lines.to_vec();
        lines.sort_by_key(|l| l.at_ms);
        let mut renderer = Renderer::new(style);
        lines.iter().map(|l| renderer.line(l)).collect()
    }

    proptest::proptest! {
        #[test]
        fn wrapping_keeps_every_word_and_the_width(words in proptest::collection::vec("[a-zé]{1,9}", 1..40)) {
            let text = words.join(" ");
            let lines = wrap(&text, 20);
            proptest::prop_assert_eq!(lines.join(" "), text);
            proptest::prop_assert!(lines.iter().all(|l| l.chars().count() <= 20), "{:?}", lines);
        }
    }

    #[test]
    fn golden_without_colour_and_unicode() {
        let t0 = 1_800_000_000_000;
        let long = "planned 11 steps on edge-a; not edge-b: feasible, but costs 120 against 70 on edge-a";
        let lines = [
            line(t0, "op-1", "decision", "done", "approved by 12 rules", None),
            line(t0 + 190, "op-1", "step", "done", "make link vl/inspected", Some(4)),
            line(t0 + 180, "op-1", "plan", "done", long, Some(42)),
            line(t0 + 7_180, "op-1", "step", "failed", "start vfw/vfw/0", Some(7_000)),
            line(t0 + 90_000, "op-2", "step", "undone", "remove vl/inspected", Some(3)),
        ];
        let got = all(&lines, Style { color: false, unicode: false });
        let expected = "\
operation op-1  2027-01-15
08:00:00.000      +0 ms  + decision     approved by 12 rules                                           bundle line 3
08:00:00.180    +180 ms  + plan         planned 11 steps on edge-a; not edge-b: feasible,       42 ms  bundle line 3
                                        but costs 120 against 70 on edge-a
08:00:00.190    +190 ms  + step         make link vl/inspected                                   4 ms  bundle line 3
08:00:07.180     +7.1 s  x step         start vfw/vfw/0                                         7.0 s  bundle line 3

operation op-2  2027-01-15
08:01:30.000      +0 ms  < step         remove vl/inspected                                      3 ms  bundle line 3
";
        assert_eq!(got, expected);
    }

    #[test]
    fn colour_and_unicode_when_the_terminal_has_them() {
        let text = all(&[line(0, "op", "step", "done", "x", None)], Style { color: true, unicode: true });
        assert!(text.contains("\x1b[32m✔\x1b[0m"), "{text:?}");
    }
}
