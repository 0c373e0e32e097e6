//! What a person sees: aligned tables without boxes, a few colours, and marks with an ASCII fallback.
//!
//! Everything is rendered into a string first, so that tests compare it with golden text. Text that comes from
//! elsewhere (descriptors, the ledger) never reaches the terminal with its control characters.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use super::failure::{Exit, Failure};
use crate::problem::Problem;

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How a piece of text is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paint {
    /// As it is.
    #[default]
    Plain,
    /// Headings.
    Bold,
    /// Of little weight.
    Dim,
    /// Good.
    Green,
    /// Bad.
    Red,
    /// To be looked at.
    Yellow,
    /// Names.
    Cyan,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Green => "32",
            Self::Red => "31",
            Self::Yellow => "33",
            Self::Cyan => "36",
        }
    }
}

/// What the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Colours?
    pub color: bool,
    /// Marks beyond ASCII?
    pub unicode: bool,
}

impl Style {
    /// Paints, when there is colour. Control characters are made visible.
    #[must_use]
    pub fn paint(self, paint: Paint, text: &str) -> String {
        let text = printable(text);
        match (self.color, paint) {
            (false, _) | (_, Paint::Plain) => text,
            (true, p) => format!("\x1b[{}m{text}\x1b[0m", p.code()),
        }
    }

    /// The mark of a result: done, failed or refused, under way, undone.
    #[must_use]
    pub fn mark(self, state: &str) -> String {
        let (paint, unicode, ascii) = match state {
            "done" | "DONE" => (Paint::Green, "✔", "+"),
            "failed" | "FAILED" => (Paint::Red, "✘", "x"),
            "refused" => (Paint::Red, "⊘", "x"),
            "undone" | "UNDONE" => (Paint::Yellow, "↺", "<"),
            "started" => (Paint::Cyan, "…", "."),
            _ => (Paint::Dim, "·", "-"),
        };
        self.paint(paint, if self.unicode { unicode } else { ascii })
    }

    /// The mark of a check.
    #[must_use]
    pub fn check(self, ok: bool) -> String {
        self.mark(if ok { "done" } else { "failed" })
    }
}

/// The text without control characters (a package may not drive the reader's terminal); a newline becomes a space.
#[must_use]
pub fn printable(text: &str) -> String {
    // Bidirectional overrides reorder what a person reads, so they count as control characters here.
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    text.chars()
        .map(|c| {
            if c == '\n' {
                ' '
            } else if hidden(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// A cell of a table.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    /// Painted text.
    pub fn new(paint: Paint, text: impl std::fmt::Display) -> Self {
        Self { text: printable(&text.to_string()), paint }
    }
}

impl<T: std::fmt::Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Paint::Plain, text)
    }
}

/// A table: aligned columns, two spaces between them, no boxes.
#[derive(Debug, Clone, Default)]
pub struct Table {
    headers: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<Cell>>,
    empty: &'static str,
}

impl Table {
    /// A table with these headings; one that begins with `>` is aligned to the right. `empty` is said when there is
    /// no row.
    #[must_use]
    pub fn new(headers: &[&'static str], empty: &'static str) -> Self {
        let right = headers.iter().map(|h| h.starts_with('>')).collect();
        let headers = headers.iter().map(|h| h.trim_start_matches('>').to_owned()).collect();
        Self { headers, right, rows: Vec::new(), empty }
    }

    /// A table whose headings come from elsewhere.
    #[must_use]
    pub fn titled(headers: &[String]) -> Self {
        let headers = headers.iter().map(|h| h.to_uppercase()).collect();
        Self { headers, empty: "nothing", ..Self::default() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// As text, each line ended.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", style.paint(Paint::Dim, self.empty));
        }
        let mut widths: Vec<usize> = self.headers.iter().map(|h| h.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let head: Vec<Cell> = self.headers.iter().map(|h| Cell::new(Paint::Bold, h)).collect();
        let mut out = String::new();
        for row in std::iter::once(&head).filter(|h| h.iter().any(|c| !c.text.is_empty())).chain(&self.rows) {
            out.push_str(&self.line(row, &widths, style));
        }
        out
    }

    fn line(&self, row: &[Cell], widths: &[usize], style: Style) -> String {
        let mut out = String::new();
        for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
            let pad = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            let painted = style.paint(cell.paint, &cell.text);
            let last = i + 1 == row.len();
            match (self.right.get(i) == Some(&true), last) {
                (true, _) => out.push_str(&format!("{pad}{painted}")),
                (false, true) => out.push_str(&painted),
                (false, false) => out.push_str(&format!("{painted}{pad}")),
            }
            if !last {
                out.push_str("  ");
            }
        }
        format!("{}\n", out.trim_end())
    }
}

/// Where output goes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// One JSON document instead of text.
    pub json: bool,
    /// Of stdout.
    pub out: Style,
    /// Of stderr.
    pub err: Style,
    /// Is stderr a terminal (for progress)?
    pub progress: bool,
}

impl Ui {
    /// From the flags and the environment.
    #[must_use]
    pub fn detect(json: bool, when: ColorWhen) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let color = |terminal: bool| match when {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => terminal && !set("NO_COLOR") && !dumb,
        };
        let unicode = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty()))
            .is_some_and(|v| {
                let v = v.to_ascii_lowercase();
                v.contains("utf-8") || v.contains("utf8")
            });
        let (out, err) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        Self {
            json,
            out: Style { color: !json && color(out), unicode },
            err: Style { color: !json && color(err), unicode },
            progress: err && !json && !dumb,
        }
    }

    /// Writes to stdout. A closed pipe is not an error: the reader has seen enough.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Writes bytes to stdout.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::internal("STDOUT", format!("cannot write to stdout: {e}")))
            }
            _ => Ok(()),
        }
    }

    /// Writes one JSON document to stdout.
    pub fn document(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Failure::internal("JSON", format!("cannot encode the answer: {e}")))?;
        self.print(&format!("{text}\n"))
    }

    /// The JSON document, or what `text` renders.
    pub fn show(&self, value: &impl Serialize, text: impl FnOnce(Style) -> String) -> Result<Exit, Failure> {
        if self.json {
            self.document(value)?
        } else {
            self.print(&text(self.out))?
        }
        Ok(Exit::Ok)
    }

    /// What clap says about a command, on stderr.
    pub fn help(&self, text: &clap::builder::StyledStr) {
        let text = if self.err.color { text.ansi().to_string() } else { text.to_string() };
        let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
    }

    /// A line for the person at the terminal, never part of the answer.
    pub fn note(&self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// Reports a failure on stderr.
    pub fn fail(&self, problem: &Problem) {
        let text = if self.json {
            serde_json::to_string(problem).unwrap_or_else(|_| problem.to_string())
        } else {
            render_problem(problem, self.err)
        };
        let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
    }
}

/// A problem for people: what, where and why, what to do next.
#[must_use]
pub fn render_problem(problem: &Problem, style: Style) -> String {
    let mut out = format!(
        "{}: {} {}\n",
        style.paint(Paint::Red, "error"),
        style.paint(Paint::Bold, &problem.title),
        style.paint(Paint::Dim, &format!("({})", problem.code)),
    );
    for line in problem.detail.lines() {
        out.push_str(&format!("  {}\n", printable(line)));
    }
    if let Some(hint) = &problem.hint {
        out.push_str(&format!("{}: {}\n", style.paint(Paint::Cyan, "next"), printable(hint)));
    }
    out
}

/// A duration for people: `350 ms`, `12.4 s`, `3 min 05 s`.
#[must_use]
pub fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {:02} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

/// Seconds as they are given on the command line: `30s`, `90m`, `24h`, `7d`.
#[must_use]
pub fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let whole = units.iter().find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

/// A size for people, bytes.
#[must_use]
pub fn size(bytes: u64) -> String {
    const STEP: u64 = 1024;
    match bytes {
        0..STEP => format!("{bytes} B"),
        STEP..0x10_0000 => format!("{}.{} KiB", bytes / STEP, bytes % STEP * 10 / STEP),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { color: false, unicode: false };

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let mut t = Table::new(&["NAME", ">SIZE", "STATE"], "none");
        t.row(["vfw".into(), 12.into(), Cell::new(Paint::Green, "ok")]);
        t.row(["vlb-long-name".into(), 4096.into(), "".into()]);
        assert_eq!(
            t.render(PLAIN),
            "NAME           SIZE  STATE\n\
             vfw              12  ok\n\
             vlb-long-name  4096\n"
        );
        let coloured = t.render(Style { color: true, unicode: true });
        assert!(coloured.contains("\x1b[32mok\x1b[0m"), "{coloured:?}");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_in_a_cell_stays_on_its_line(cells in proptest::collection::vec(".{0,12}", 1..12)) {
            let mut t = Table::new(&["A", ">B"], "");
            cells.iter().for_each(|c| t.row([c.into(), 1.into()]));
            let text = t.render(PLAIN);
            proptest::prop_assert_eq!(text.lines().count(), cells.len() + 1, "{:?}", text);
            let bad = |c: char| c.is_control() && c != '\n';
            proptest::prop_assert!(!text.chars().any(bad), "{:?}", text);
        }
    }

    #[test]
    fn an_empty_table_says_what_to_do() {
        assert_eq!(
            Table::new(&["A"], "no sites: see mandate init").render(PLAIN),
            "no sites: see mandate init\n"
        );
    }

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        let mut t = Table::new(&["A", "B"], "");
        t.row(["\x1b]0;owned\x07\u{202e}".into(), "x\ny".into()]);
        let text = t.render(Style { color: true, unicode: true });
        assert!(!text.contains("\x1b]") && !text.contains('\x07') && !text.contains('\u{202e}'), "{text:?}");
        assert!(text.contains("x y"));
    }

    #[test]
    fn a_problem_says_what_where_why_and_next() {
        let p = Problem::new(404, "NOT_FOUND", "Not found", "there is no site `x`").hint("mandate site list");
        assert_eq!(
            render_problem(&p, PLAIN),
            "error: Not found (NOT_FOUND)\n  there is no site `x`\nnext: mandate site list\n"
        );
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!([duration(7), duration(12_480), duration(185_000)], ["7 ms", "12.4 s", "3 min 05 s"]);
        assert_eq!([span(0), span(90), span(5_400), span(86_400)], ["0s", "90s", "90m", "1d"]);
        assert_eq!([size(1), size(1536), size(3 << 20)], ["1 B", "1.5 KiB", "3.0 MiB"]);
    }
}
