//! What `cargo test` prints, read while it prints: counts, failures, and what was skipped.

use std::{
    fmt,
    io::{BufRead as _, BufReader},
    ops::AddAssign,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::Context as _;

use crate::{command, ui};

/// How many tests did what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Held.
    pub passed: usize,
    /// Did not.
    pub failed: usize,
    /// Could not be run here; why was said.
    pub skipped: usize,
}

impl Tally {
    /// A single test.
    pub fn of(ok: bool) -> Self {
        Self { passed: usize::from(ok), failed: usize::from(!ok), skipped: 0 }
    }

    /// A single test that could not be run.
    pub fn skipped() -> Self {
        Self { skipped: 1, ..Self::default() }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// libtest's output, line by line.
#[derive(Debug, Default)]
struct Reader {
    tally: Tally,
    /// Inside the captured output of tests that passed.
    quiet: bool,
    /// Which is shown as well.
    loud: bool,
    /// The test whose captured output comes, until it is counted as skipped.
    section: Option<String>,
    /// Tests of this run that passed for libtest and were skipped in truth.
    skipped: usize,
}

impl Reader {
    /// Takes a line; returns what is to be shown of it.
    fn line(&mut self, line: &str) -> Option<String> {
        if let Some(rest) = line.strip_prefix("test result: ") {
            (self.quiet, self.section) = (false, None);
            let mut run = counts(rest);
            let skipped = std::mem::take(&mut self.skipped);
            run.passed = run.passed.saturating_sub(skipped);
            run.skipped += skipped;
            self.tally += run;
            return Some(line.to_owned());
        }
        match line {
            "successes:" => self.quiet = true,
            "failures:" => self.quiet = false,
            _ => {}
        }
        if let Some(name) = line.strip_prefix("---- ") {
            self.section = name.split(' ').next().map(str::to_owned);
        }
        if self.quiet && (!self.loud || line.trim_start().starts_with("SKIPPED")) {
            let name = line.trim_start().starts_with("SKIPPED").then(|| self.section.take())??;
            self.skipped += 1;
            return Some(format!("{name}: {}", line.trim_start()));
        }
        let dull = line.is_empty() || line.starts_with("test ") && line.ends_with(" ... ok");
        (!dull).then(|| line.to_owned())
    }
}

/// `ok. 3 passed; 1 failed; 2 ignored; …`
fn counts(text: &str) -> Tally {
    let number = |word: &str| {
        let mut parts = text.split([';', '.']).map(str::trim);
        parts.find_map(|p| p.strip_suffix(word)).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    };
    Tally { passed: number("passed"), failed: number("failed"), skipped: number("ignored") }
}

/// Runs `cargo test`, shows what matters, and counts.
pub fn run(c: &mut Command, limit: Duration) -> anyhow::Result<Tally> {
    read(c, limit, Reader::default())
}

/// The same, and what tests that passed have printed is shown: figures.
pub fn run_shown(c: &mut Command, limit: Duration) -> anyhow::Result<Tally> {
    read(c, limit, Reader { loud: true, ..Reader::default() })
}

fn read(c: &mut Command, limit: Duration, mut reader: Reader) -> anyhow::Result<Tally> {
    let line = command::shown(c);
    c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = c.spawn().with_context(|| format!("cannot run `{line}`"))?;
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let lines = BufReader::new(stdout).split(b'\n').map_while(Result::ok);
            lines.map(|l| String::from_utf8_lossy(&l).into_owned()).all(|l| sender.send(l).is_ok())
        });
    }
    let printer = thread::spawn(move || {
        for line in receiver {
            if let Some(shown) = reader.line(&line) {
                ui::say(&shown);
            }
        }
        reader.tally
    });
    let status = command::wait(&mut child, &line, limit).inspect_err(|_| command::kill(&mut child))?;
    let mut tally = printer.join().unwrap_or_default();
    // What does not even compile has no result lines.
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 4 tests\ntest a ... ok\ntest b ... ok\ntest c ... FAILED\ntest d ... ignored\n\nsuccesses:\n\n\
        ---- a stdout ----\nSKIPPED: no swtpm\nSKIPPED: nor this\n\n---- b stdout ----\nhello\n\n\nsuccesses:\n    a\n    b\n\n\
        failures:\n\n---- c stdout ----\nboom\n\n\nfailures:\n    c\n\n\
        test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";

    #[test]
    fn counts_shows_failures_and_skips() {
        let mut reader = Reader::default();
        let shown: Vec<String> = OUTPUT.lines().filter_map(|l| reader.line(l)).collect();
        assert_eq!(reader.tally, Tally { passed: 1, failed: 1, skipped: 2 });
        let text = shown.join("\n");
        assert!(text.contains("a: SKIPPED: no swtpm") && text.contains("boom"), "{text}");
        assert!(
            !text.contains("hello") && !text.contains("nor this") && !text.contains("a ... ok"),
            "{text}"
        );
        assert_eq!(reader.tally.to_string(), "1 passed, 1 failed, 2 skipped");
        let mut reader = Reader { loud: true, ..Reader::default() };
        let shown: Vec<String> = OUTPUT.lines().filter_map(|l| reader.line(l)).collect();
        assert_eq!(reader.tally, Tally { passed: 1, failed: 1, skipped: 2 });
        assert!(shown.join("\n").contains("hello"));
    }
}
