//! What people see: ticks, spinners and colours on stderr. stdout is for results.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Is stderr a terminal that may be drawn on?
pub fn is_terminal() -> bool {
    io::stderr().is_terminal() && env::var_os("CI").is_none()
}

/// Colours on this stream? `NO_COLOR` (no-color.org) and `CLICOLOR_FORCE` are heeded.
pub fn coloured(stream_is_terminal: bool) -> bool {
    let set = |name: &str| env::var_os(name).is_some_and(|v| !v.is_empty());
    !set("NO_COLOR") && (stream_is_terminal || set("CLICOLOR_FORCE"))
}

/// A foreground colour or weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Passed.
    Green,
    /// Failed, refused.
    Red,
    /// Look here.
    Yellow,
    /// A name.
    Cyan,
    /// Of second rank.
    Dim,
    /// A heading.
    Bold,
}

impl Paint {
    /// `text` in this colour, if `on`.
    pub fn paint(self, text: &str, on: bool) -> String {
        let code = match self {
            Self::Green => "32",
            Self::Red => "31",
            Self::Yellow => "33",
            Self::Cyan => "36",
            Self::Dim => "2",
            Self::Bold => "1",
        };
        if on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// `text` for stderr.
    pub fn err(self, text: &str) -> String {
        self.paint(text, coloured(io::stderr().is_terminal()))
    }
}

/// One line on stderr. A stderr that is gone is no reason to stop.
pub fn say(line: &str) {
    let _gone = writeln!(io::stderr(), "{line}");
}

/// An error with its causes.
pub fn error(e: &anyhow::Error) {
    say(&format!("{} {e:#}", Paint::Red.err("error:")));
}

/// A line about to become a tick or a cross.
pub struct Step {
    name: String,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Starts the spinner, or says on a plain stream what begins.
    pub fn begin(name: &str) -> Self {
        let bar = is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(90));
            bar
        });
        Self { name: name.to_owned(), start: Instant::now(), bar }
    }

    /// What goes on now, on a terminal.
    pub fn note(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}  {}", self.name, Paint::Dim.err(text)));
        }
    }

    /// Ends the line; returns how long it took, ms.
    pub fn end(self, ok: bool, detail: &str) -> u64 {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let mark = if ok { Paint::Green.err("✓") } else { Paint::Red.err("✗") };
        let took = Paint::Dim.err(&format!("{:>8}", duration(ms)));
        let detail = if detail.is_empty() { String::new() } else { format!("  {}", Paint::Dim.err(detail)) };
        say(&format!("{mark} {took}  {}{detail}", self.name));
        ms
    }
}

/// `12 ms`, `3.4 s`, `2 min 05 s`.
pub fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {:02} s", ms / 60_000, ms / 1_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let read = [0, 999, 1_000, 59_999, 60_000, 125_000].map(duration);
        assert_eq!(read, ["0 ms", "999 ms", "1.0 s", "59.9 s", "1 min 00 s", "2 min 05 s"]);
    }

    #[test]
    fn no_colour_means_no_escape() {
        assert_eq!(Paint::Red.paint("x", false), "x");
        assert_eq!(Paint::Red.paint("x", true), "\x1b[31mx\x1b[0m");
    }
}
