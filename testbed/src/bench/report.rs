//! Figures, each with its promise and bar, and the machine that they were measured on.

use std::fs;

use serde::Serialize;

use crate::ui::Paint;

/// What a figure must be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Anything: a figure that says how to read another one.
    Shown,
}

impl Bar {
    fn held(self, measured: f64) -> bool {
        match self {
            Self::AtMost(most) => measured <= most,
            Self::AtLeast(least) => measured >= least,
            Self::Shown => true,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(most) => format!("<= {} {unit}", number(most)),
            Self::AtLeast(least) => format!(">= {} {unit}", number(least)),
            Self::Shown => "-".to_owned(),
        }
    }
}

/// One promise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What is promised.
    pub promise: String,
    /// What was measured; absent when it could not be.
    pub measured: Option<f64>,
    /// Of the figure and of the bar.
    pub unit: &'static str,
    /// What it must be.
    pub bar: Bar,
    /// Was it measured, and is it what it must be?
    pub held: bool,
    /// With what, or why not.
    pub note: String,
}

impl Row {
    /// A figure, judged.
    pub fn new(promise: &str, measured: Option<f64>, bar: Bar, unit: &'static str, note: &str) -> Self {
        let held = measured.is_some_and(|m| bar.held(m));
        Self { promise: promise.to_owned(), measured, unit, bar, held, note: note.to_owned() }
    }
}

/// Where it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// Processor, as it calls itself.
    pub processor: String,
    /// Logical processors that we may use.
    pub processors: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Kernel.
    pub kernel: String,
    /// Load average of the last minute, before and after; ours is in the second.
    pub load: [f64; 2],
}

impl Machine {
    /// This machine, now.
    pub fn here() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches([' ', '\t', ':']).trim().to_owned()
        };
        let kib = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse::<u64>();
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib.unwrap_or_default() / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: [load(), 0.0],
        }
    }
}

/// Load average of the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Was every bar held?
    pub held: bool,
    /// Was every figure had?
    pub complete: bool,
    /// Fewer of everything than promised: a look, not a proof.
    pub quick: bool,
    /// Where.
    pub machine: Machine,
    /// In order.
    pub rows: Vec<Row>,
}

impl Report {
    /// Judged.
    pub fn new(quick: bool, machine: Machine, rows: Vec<Row>) -> Self {
        let held = !rows.is_empty() && rows.iter().all(|r| r.held);
        let complete = !rows.is_empty() && rows.iter().all(|r| r.measured.is_some());
        Self { held, complete, quick, machine: Machine { load: [machine.load[0], load()], ..machine }, rows }
    }

    /// For people.
    pub fn table(&self, colour: bool) -> String {
        let cells: Vec<[String; 4]> = self.rows.iter().map(cells).collect();
        let heads = ["promise", "measured", "bar", "with"].map(str::to_owned);
        let width =
            |i: usize| cells.iter().chain([&heads]).map(|c| c[i].chars().count()).max().unwrap_or_default();
        let widths = [width(0), width(1), width(2)];
        let line = |c: &[String; 4]| {
            let [p, m, b] = widths;
            format!("{:p$}  {:>m$}  {:b$}  {}", c[0], c[1], c[2], c[3])
        };
        let mut out = format!("  {}\n", Paint::Bold.paint(line(&heads).trim_end(), colour));
        for (row, cells) in self.rows.iter().zip(&cells) {
            let (mark, paint) = match row.bar {
                Bar::Shown if row.held => ("·", Paint::Dim),
                _ if row.held => ("✓", Paint::Green),
                _ => ("✗", Paint::Red),
            };
            out += &format!("{} {}\n", paint.paint(mark, colour), line(cells).trim_end());
        }
        let m = &self.machine;
        let place = format!(
            "{} x {}, {} MiB, Linux {}, load {:.1} before and {:.1} after{}",
            m.processors,
            m.processor,
            m.memory_mib,
            m.kernel,
            m.load[0],
            m.load[1],
            if self.quick { "; --quick: fewer of everything" } else { "" }
        );
        out + &Paint::Dim.paint(&place, colour)
    }
}

fn cells(row: &Row) -> [String; 4] {
    let measured = row.measured.map_or("not measured".to_owned(), |m| format!("{} {}", number(m), row.unit));
    [&row.promise, &measured, &row.bar.text(row.unit), &row.note].map(|c| c.trim_end().to_owned())
}

/// Three significant digits, thousands apart.
fn number(n: f64) -> String {
    let text = match n.abs() {
        a if a >= 100.0 || n.fract() == 0.0 => format!("{n:.0}"),
        a if a >= 10.0 => format!("{n:.1}"),
        _ => format!("{n:.2}"),
    };
    let (digits, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 && digits.as_bytes()[i - 1].is_ascii_digit() {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let read = [0.0, 0.123, 4.0, 12.34, 123.4, 1234.5, 1_000_000.0].map(number);
        assert_eq!(read, ["0", "0.12", "4", "12.3", "123", "1,234", "1,000,000"]);
    }

    #[test]
    fn what_is_not_measured_is_not_held() {
        let rows = |measured| vec![Row::new("a", measured, Bar::AtMost(5.0), "ms", "")];
        let report = |measured| Report::new(false, Machine::here(), rows(measured));
        assert!(report(Some(5.0)).held);
        assert!(!report(Some(5.1)).held);
        assert!(!report(None).held && !report(None).complete && report(Some(9.0)).complete);
        assert!(!Report::new(false, Machine::here(), Vec::new()).held, "nothing was measured");
        assert!(Row::new("b", Some(2.0), Bar::AtLeast(2.0), "/s", "").held);
        assert!(!Row::new("b", Some(1.9), Bar::AtLeast(2.0), "/s", "").held);
        assert!(Row::new("c", Some(1.9), Bar::Shown, "ms", "").held);
        assert!(!Row::new("c", None, Bar::Shown, "ms", "").held);
        let table = report(None).table(false);
        assert!(table.contains("✗ a") && table.contains("not measured") && !table.contains('\x1b'));
        assert!(report(Some(1.0)).table(true).contains("\x1b[32m✓"));
    }
}
