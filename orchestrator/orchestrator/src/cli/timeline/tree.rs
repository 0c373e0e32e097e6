//! A whole timeline as a picture: each operation a tree, each step a bar on the operation's own time axis, so that what
//! ran side by side stands side by side, a second try stands beside the first, and a silence of the ledger is a gap.
//!
//! ```text
//! operation op-1a2b  deploy  COMPLETED in 2.4 s                   0 ┊        1.2 s ┊        2.4 s
//! ├ ✔ decision    deploy approved and verified                    ▏                                      ledger entry 7
//! ├ ✔ plan        planned 11 steps on edge-a                      ██                             42 ms   bundle line 2
//! │ ├ ✔ step      ensure network vl/outside                         █                             4 ms   bundle line 3
//! ```

use super::{
    super::output::{Paint, Style, duration, printable},
    clock, date, kind_paint, wrap,
};
use crate::views::{NsView, OperationView, TimelineLine};

/// Narrowest and widest picture, columns.
const WIDTHS: std::ops::RangeInclusive<usize> = 80..=160;
/// Tree, mark and kind.
const LEFT: usize = 18;
/// Duration and evidence.
const RIGHT: usize = 10 + 17;
/// Most lines of one description.
const MAX_WRAPPED: usize = 4;

/// A picture of all operations of a service, oldest first.
pub fn render(ns: &NsView, lines: &[TimelineLine], style: Style, width: usize) -> String {
    let width = width.clamp(*WIDTHS.start(), *WIDTHS.end());
    let mut out = String::new();
    let name = format!("{}/{}", ns.tenant, ns.service);
    let place = ns.site.as_ref().map_or_else(String::new, |s| format!(" on {}", printable(s)));
    let state = style.paint(state_paint(&ns.state), &ns.state);
    let id = style.paint(Paint::Dim, &ns.id);
    out.push_str(&format!("{}  {state}{place}  {id}\n", style.paint(Paint::Bold, &name)));
    if lines.is_empty() {
        out.push_str(&format!("{}\n", style.paint(Paint::Dim, "nothing has happened yet")));
    }
    let pictures: Vec<Picture<'_>> = order(lines)
        .into_iter()
        .map(|id| Picture::new(id, ns.operations.iter().find(|o| o.id == id), lines, style, width))
        .collect();
    let mut day = String::new();
    for part in parts(&pictures, lines) {
        let today = date(part.at_ms());
        if today != day {
            out.push_str(&format!("\n{}\n", style.paint(Paint::Dim, &today)));
            day = today;
        }
        out.push('\n');
        match part {
            Part::Operation(picture) => out.push_str(&picture.render()),
            Part::Alone(lines) => lines.iter().for_each(|l| out.push_str(&alone(l, style, width))),
        }
    }
    out
}

/// What stands below what.
enum Part<'a> {
    Operation(&'a Picture<'a>),
    /// What no operation was under way for: silences of the ledger, answers to drift.
    Alone(Vec<&'a TimelineLine>),
}

impl Part<'_> {
    fn at_ms(&self) -> u64 {
        match self {
            Self::Operation(picture) => picture.from_ms,
            Self::Alone(lines) => lines.first().map_or(0, |l| l.at_ms),
        }
    }
}

/// Operations, and between them the lines that no picture has taken in, in the order of time.
fn parts<'a>(pictures: &'a [Picture<'a>], lines: &'a [TimelineLine]) -> Vec<Part<'a>> {
    let taken = |l: &TimelineLine| pictures.iter().any(|p| p.lines.iter().any(|own| std::ptr::eq(*own, l)));
    let mut alone: Vec<&TimelineLine> = lines.iter().filter(|l| !taken(l)).collect();
    alone.sort_by_key(|l| l.at_ms);
    let mut alone = alone.into_iter().peekable();
    let mut out = Vec::new();
    let mut before = |until: u64, out: &mut Vec<Part<'a>>| {
        let mut some = Vec::new();
        while let Some(line) = alone.next_if(|l| l.at_ms <= until) {
            some.push(line);
        }
        if !some.is_empty() {
            out.push(Part::Alone(some));
        }
    };
    for picture in pictures {
        before(picture.from_ms, &mut out);
        out.push(Part::Operation(picture));
    }
    before(u64::MAX, &mut out);
    out
}

/// A line that belongs to no operation.
fn alone(line: &TimelineLine, style: Style, width: usize) -> String {
    let clock = clock(line.at_ms);
    let took = line.duration_ms.map_or_else(String::new, |ms| format!(" ({})", duration(ms)));
    let evidence = line.evidence.as_ref().map_or_else(String::new, |e| format!(", {}", printable(e)));
    let indent = clock.len() + 2 + 2 + line.kind.len() + 2;
    let text = wrap(&format!("{}{took}{evidence}", printable(&line.what)), width.saturating_sub(indent));
    let mut out = String::new();
    for (n, part) in text.iter().enumerate() {
        let part = style.paint(text_paint(line), part);
        if n == 0 {
            let mark = style.mark(if line.kind == "gap" { "gap" } else { &line.state });
            let kind = style.paint(kind_paint(&line.kind), &line.kind);
            out.push_str(&format!("{}  {mark} {kind}  {part}\n", style.paint(Paint::Dim, &clock)));
        } else {
            out.push_str(&format!("{:indent$}{part}\n", ""));
        }
    }
    out
}

/// Operations in the order of their first line.
fn order(lines: &[TimelineLine]) -> Vec<&str> {
    let mut seen: Vec<&str> = Vec::new();
    for line in lines.iter().filter(|l| !l.operation_id.is_empty()) {
        if !seen.contains(&line.operation_id.as_str()) {
            seen.push(&line.operation_id);
        }
    }
    seen
}

/// How a state of an operation or service is painted.
fn state_paint(state: &str) -> Paint {
    match state {
        "COMPLETED" | "INSTANTIATED" => Paint::Green,
        "FAILED" | "BROKEN" | "ISOLATED" | "FAILED_TEMP" => Paint::Red,
        "ROLLED_BACK" | "ROLLING_BACK" => Paint::Yellow,
        _ => Paint::Cyan,
    }
}

/// One operation.
struct Picture<'a> {
    id: &'a str,
    view: Option<&'a OperationView>,
    lines: Vec<&'a TimelineLine>,
    from_ms: u64,
    to_ms: u64,
    style: Style,
    bar: usize,
    what: usize,
}

impl<'a> Picture<'a> {
    fn new(
        id: &'a str,
        view: Option<&'a OperationView>,
        all: &'a [TimelineLine],
        style: Style,
        width: usize,
    ) -> Self {
        let own: Vec<&TimelineLine> = all.iter().filter(|l| l.operation_id == id).collect();
        let from_ms = own.iter().map(|l| l.at_ms).min().unwrap_or_default();
        let to_ms = own.iter().map(|l| end(l)).max().unwrap_or_default().max(from_ms + 1);
        // A silence of the ledger is nobody's, and concerns whoever was under way.
        let gaps = all.iter().filter(|l| {
            l.operation_id.is_empty() && l.at_ms < to_ms && (end(l) > from_ms || l.state == "started")
        });
        let mut lines: Vec<&TimelineLine> = own.into_iter().chain(gaps).collect();
        lines.sort_by_key(|l| (l.at_ms, rank(&l.kind)));
        let room = width.saturating_sub(LEFT + RIGHT);
        let bar = (room * 2 / 5).max(16);
        Self { id, view, lines, from_ms, to_ms, style, bar, what: room.saturating_sub(bar + 2) }
    }

    fn render(&self) -> String {
        let mut out = self.heading();
        for (i, line) in self.lines.iter().enumerate() {
            let last = i + 1 == self.lines.len();
            out.push_str(&self.line(line, last));
        }
        out
    }

    fn heading(&self) -> String {
        let s = self.style;
        let mut text = format!("operation {}", printable(self.id));
        let mut painted = format!("operation {}", s.paint(Paint::Bold, self.id));
        if let Some(view) = self.view {
            let took = view.duration_ms.map_or_else(String::new, |ms| format!(" in {}", duration(ms)));
            text.push_str(&format!("  {}  {}{took}", printable(&view.action), view.state));
            let state = s.paint(state_paint(&view.state), &view.state);
            painted.push_str(&format!("  {}  {state}{took}", s.paint(Paint::Plain, &view.action)));
        }
        let left = text.chars().count();
        let pad = (LEFT + self.what + 2).saturating_sub(left).max(2);
        let from = clock(self.from_ms);
        let to = format!("+{}", duration(self.to_ms - self.from_ms));
        let between = self.bar.saturating_sub(from.len() + to.len()).max(2);
        let mut axis = format!("{from}{:between$}{to}", "");
        if left + pad + axis.len() > LEFT + self.what + 2 + self.bar + RIGHT {
            axis = from;
        }
        format!("{painted}{:pad$}{}\n", "", s.paint(Paint::Dim, &axis))
    }

    fn line(&self, line: &TimelineLine, last: bool) -> String {
        let s = self.style;
        let (branch, more) = self.branch(line, last);
        let mut what = wrap(&printable(&line.what), self.what);
        if what.len() > MAX_WRAPPED {
            what.truncate(MAX_WRAPPED);
            what.iter_mut()
                .last()
                .into_iter()
                .for_each(|w| w.push_str(if s.unicode { "…" } else { "..." }));
        }
        let took = line.duration_ms.map_or_else(String::new, duration);
        let first = what.first().cloned().unwrap_or_default();
        let pad = self.what.saturating_sub(first.chars().count());
        let kind = LEFT.saturating_sub(branch.chars().count() + 3);
        let text = format!(
            "{}{} {} {}{:pad$}  {} {} {}",
            s.paint(Paint::Dim, &branch),
            s.mark(if line.kind == "gap" { "gap" } else { &line.state }),
            s.paint(kind_paint(&line.kind), &format!("{:<kind$}", line.kind)),
            s.paint(text_paint(line), &first),
            "",
            self.bar_of(line),
            s.paint(Paint::Dim, &format!("{took:>9}")),
            s.paint(Paint::Dim, line.evidence.as_deref().unwrap_or_default()),
        );
        let mut out = format!("{}\n", text.trim_end());
        for rest in what.iter().skip(1) {
            let indent = LEFT.saturating_sub(more.chars().count());
            let rest = s.paint(text_paint(line), rest);
            out.push_str(&format!("{}{:indent$}{rest}\n", s.paint(Paint::Dim, &more), ""));
        }
        out
    }

    /// The tree in front of a line, and in front of what is wrapped below it.
    fn branch(&self, line: &TimelineLine, last: bool) -> (String, String) {
        let step = matches!(line.kind.as_str(), "step" | "attestation" | "measurement");
        let (tee, corner, pipe) = if self.style.unicode { ("├", "└", "│") } else { ("|", "`", "|") };
        match (step, last) {
            (true, _) => (format!("{pipe} {tee} "), format!("{pipe} {pipe}")),
            (false, true) => (format!("{corner} "), String::new()),
            (false, false) => (format!("{tee} "), pipe.to_owned()),
        }
    }

    fn bar_of(&self, line: &TimelineLine) -> String {
        let (first, cells) = self.cells(line);
        let instant = line.duration_ms.is_none() && line.state != "started";
        let cell = match (self.style.unicode, instant, line.kind.as_str()) {
            (true, true, _) => "▏",
            (true, _, "gap") => "░",
            (true, _, "outcome") => "─",
            (true, ..) => "█",
            (false, true, _) => "|",
            (false, _, "gap") => "~",
            (false, _, "outcome") => "-",
            (false, ..) => "=",
        };
        let paint = match (line.state.as_str(), line.kind.as_str()) {
            ("failed" | "refused", _) => Paint::Red,
            ("undone", _) | (_, "gap" | "recovery") => Paint::Yellow,
            ("started", _) | (_, "decision" | "anchor" | "plan") => Paint::Cyan,
            (_, "outcome") => Paint::Dim,
            _ => Paint::Green,
        };
        let after = self.bar.saturating_sub(first + cells);
        format!("{:first$}{}{:after$}", "", self.style.paint(paint, &cell.repeat(cells)), "")
    }

    /// First cell and number of cells: at least one, and never beyond the axis.
    fn cells(&self, line: &TimelineLine) -> (usize, usize) {
        let span = u128::from(self.to_ms - self.from_ms);
        let scale = |ms: u64| {
            let since = u128::from(ms.clamp(self.from_ms, self.to_ms) - self.from_ms);
            usize::try_from(since * self.bar as u128 / span).unwrap_or(self.bar)
        };
        // The outcome's duration is the operation's: it ends where the line stands.
        let (from, to) = match line.kind.as_str() {
            "outcome" => (self.from_ms, line.at_ms),
            _ if line.state == "started" => (line.at_ms, self.to_ms),
            _ => (line.at_ms, end(line)),
        };
        let first = scale(from).min(self.bar.saturating_sub(1));
        (first, scale(to).saturating_sub(first).clamp(1, self.bar - first))
    }
}

fn end(line: &TimelineLine) -> u64 {
    match line.kind.as_str() {
        "outcome" => line.at_ms,
        _ => line.at_ms.saturating_add(line.duration_ms.unwrap_or_default()),
    }
}

/// What comes first when it has the same time.
fn rank(kind: &str) -> u8 {
    match kind {
        "decision" => 0,
        "plan" => 1,
        "outcome" => 3,
        "anchor" => 4,
        _ => 2,
    }
}

fn text_paint(line: &TimelineLine) -> Paint {
    match line.state.as_str() {
        "failed" | "refused" => Paint::Red,
        "undone" => Paint::Yellow,
        _ => Paint::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = 1_800_000_000_000;

    fn line(at: u64, kind: &str, state: &str, what: &str, ms: Option<u64>, evidence: &str) -> TimelineLine {
        TimelineLine {
            at_ms: T0 + at,
            operation_id: if kind == "gap" { String::new() } else { "op-1".into() },
            kind: kind.into(),
            state: state.into(),
            what: what.into(),
            duration_ms: ms,
            evidence: (!evidence.is_empty()).then(|| evidence.into()),
        }
    }

    fn ns() -> NsView {
        NsView {
            id: "ns-0123456789ab".into(),
            tenant: "acme".into(),
            service: "edge".into(),
            state: "INSTANTIATED".into(),
            site: Some("edge-a".into()),
            nsd: "secure_edge_ns".into(),
            instances: vec![],
            instance_sites: Default::default(),
            operations: vec![OperationView {
                id: "op-1".into(),
                tenant: "acme".into(),
                intent_id: "i-1".into(),
                ns_instance_id: "ns-0123456789ab".into(),
                action: "deploy".into(),
                state: "COMPLETED".into(),
                site: Some("edge-a".into()),
                progress: (3, 3),
                problem: None,
                leftovers: Vec::new(),
                anchored: true,
                accepted_at: trust::UnixTime(T0 / 1_000),
                duration_ms: Some(2_400),
            }],
            lease_until: None,
            sla_met: None,
        }
    }

    fn lines() -> Vec<TimelineLine> {
        vec![
            line(0, "decision", "done", "deploy approved and verified", None, "ledger entry 7"),
            line(
                10,
                "plan",
                "done",
                "planned 3 steps on edge-a; not edge-b: no room",
                Some(90),
                "bundle line 2",
            ),
            line(100, "step", "done", "ensure network vl/outside", Some(500), "bundle line 3"),
            line(
                100,
                "step",
                "failed",
                "ensure compute fw/0: TIMEOUT: no answer",
                Some(900),
                "bundle line 4",
            ),
            line(1_200, "step", "done", "ensure compute fw/0", Some(1_100), "bundle line 4"),
            line(2_400, "outcome", "done", "COMPLETED", Some(2_400), ""),
            line(2_400, "gap", "done", "the ledger did not answer: refused", Some(1_500), ""),
            line(4_000, "anchor", "done", "evidence anchored", None, "ledger entry 12"),
        ]
    }

    #[test]
    fn golden_without_colour_and_unicode() {
        let got = render(&ns(), &lines(), Style { color: false, unicode: false }, 100);
        assert_eq!(got, GOLDEN, "\n{got}");
    }

    #[test]
    fn what_belongs_to_no_operation_stands_between_them() {
        let alone = |at: u64, kind: &str, what: &str| TimelineLine {
            operation_id: String::new(),
            ..line(at, kind, "done", what, None, "intent auto-heal-1")
        };
        let mut all = lines();
        all.insert(0, alone(0, "gap", "the ledger did not answer: refused"));
        all[0].at_ms -= 90_000_000;
        all.push(alone(
            5_000,
            "mitigation",
            "repair heal under standing grant g, by operator/orchestrator: ns-1/fw/0 is DOWN",
        ));
        let text = render(&ns(), &all, Style { color: false, unicode: false }, 100);
        let of = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word}\n{text}"));
        assert!(
            of("2027-01-14") < of("gap  the ledger") && of("gap  the ledger") < of("2027-01-15"),
            "{text}"
        );
        assert!(
            of("2027-01-15") < of("operation op-1") && of("anchor ") < of("mitigation  repair heal"),
            "{text}"
        );
        assert!(text.contains("\n08:00:05.000  + mitigation  repair heal under standing grant g"), "{text}");
        assert!(text.ends_with("is DOWN, intent auto-heal-1\n"), "{text}");
    }

    const GOLDEN: &str = include_str!("golden.txt");

    proptest::proptest! {
        #[test]
        fn every_line_fits_and_every_bar_is_on_the_axis(
            times in proptest::collection::vec((0u64..10_000, proptest::option::of(0u64..20_000)), 1..20),
            width in 20usize..300,
        ) {
            let lines: Vec<_> =
                times.iter().map(|(at, ms)| line(*at, "step", "done", "x", *ms, "bundle line 999")).collect();
            let text = render(&ns(), &lines, Style { color: false, unicode: true }, width);
            let widest = text.lines().map(|l| l.chars().count()).max().unwrap_or_default();
            proptest::prop_assert!(widest <= width.clamp(80, 160), "{widest} > {width}\n{text}");
            proptest::prop_assert_eq!(text.lines().filter(|l| l.contains(" step ")).count(), lines.len());
        }
    }
}
