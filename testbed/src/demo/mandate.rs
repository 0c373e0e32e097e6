//! The `mandate` command as its users call it: a process each time, its answer read as JSON.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::{
    command::{self, Output},
    interrupt,
};

/// One command. A watched deployment is the longest.
const LIMIT: Duration = Duration::from_secs(90);
const START_LIMIT: Duration = Duration::from_secs(20);
/// After SIGTERM, before SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A refusal: how the process ended and the stable code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Exit code.
    pub exit: i32,
    /// Of the problem document, or of the first rule that did not pass.
    pub code: String,
    /// Where and why.
    pub detail: String,
}

/// The program and the home it works in.
#[derive(Debug, Clone)]
pub struct Mandate {
    program: PathBuf,
    home: PathBuf,
}

impl Mandate {
    /// Nothing is looked at yet.
    pub fn new(program: PathBuf, home: PathBuf) -> Self {
        Self { program, home }
    }

    /// The home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A command line that a person could type.
    pub fn shown(&self, arguments: &str) -> String {
        format!("{} --home {} {arguments}", self.program.display(), self.home.display())
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut c = Command::new(&self.program);
        c.arg("--home").arg(&self.home).args(arguments);
        c.env_remove("MANDATE_HOME").env_remove("MANDATE_SOCKET");
        c
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> anyhow::Result<(String, Output)> {
        let mut c = self.command(arguments);
        c.arg("--json");
        let line = command::shown(&c);
        Ok((line, command::capture(&mut c, LIMIT)?))
    }

    /// Must succeed; its answer.
    pub fn ask<S: AsRef<OsStr>>(&self, arguments: &[S]) -> anyhow::Result<Value> {
        let (line, out) = self.run(arguments)?;
        if !out.status.success() {
            bail!("`{line}` ended with {}: {}", out.status, refusal(&out).detail);
        }
        // The last document counts: a command that is followed writes one per change.
        let mut last = Value::Null;
        for document in serde_json::Deserializer::from_str(&out.stdout).into_iter::<Value>() {
            last = document.with_context(|| format!("`{line}` answered no JSON: {}", out.tail(5)))?;
        }
        Ok(last)
    }

    /// Must be refused (exit codes 1 and 4), not broken; why.
    pub fn refused<S: AsRef<OsStr>>(&self, arguments: &[S]) -> anyhow::Result<Refusal> {
        let (line, out) = self.run(arguments)?;
        ensure!(!out.status.success(), "`{line}` was accepted, and had to be refused: {}", out.tail(5));
        let refusal = refusal(&out);
        ensure!(
            matches!(refusal.exit, 1 | 4) && !refusal.code.is_empty(),
            "`{line}` was not refused, it failed ({}): {}",
            out.status,
            refusal.detail
        );
        Ok(refusal)
    }

    /// Its text for people, coloured or not.
    pub fn text<S: AsRef<OsStr>>(&self, arguments: &[S], coloured: bool) -> anyhow::Result<String> {
        let mut c = self.command(arguments);
        c.args(["--color", if coloured { "always" } else { "never" }]);
        Ok(command::succeed(&mut c, LIMIT)?.stdout)
    }

    /// Starts `mandate serve` and waits until it answers.
    pub fn serve(&self, log: &Path) -> anyhow::Result<Serve> {
        let open = || File::options().create(true).append(true).open(log);
        let stdout = open().with_context(|| format!("cannot write {}", log.display()))?;
        let mut c = self.command(&["serve"]);
        c.stdin(Stdio::null()).stdout(stdout).stderr(open()?);
        // A terminal's Ctrl-C is for the demo, which then ends this in order.
        c.process_group(0);
        let child = c.spawn().context("cannot start `mandate serve`")?;
        let mut serve = Serve { child };
        interrupt::wait_for("`mandate serve` does not answer", START_LIMIT, || {
            if let Some(status) = serve.child.try_wait()? {
                bail!("`mandate serve` ended with {status}:\n{}", tail(log));
            }
            Ok(self.ask(&["site", "list"]).ok())
        })?;
        Ok(serve)
    }
}

/// A running `mandate serve`; ended when dropped.
#[derive(Debug)]
pub struct Serve {
    child: Child,
}

impl Serve {
    /// SIGKILL: what a power cut is to it.
    pub fn crash(mut self) {
        command::kill(&mut self.child);
    }

    /// In order, as a service manager does.
    pub fn stop(&mut self) {
        use nix::{sys::signal, unistd::Pid};
        let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)) | Err(_));
        if ended(&mut self.child) {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended in between.
            let _gone = signal::kill(Pid::from_raw(pid), signal::Signal::SIGTERM);
        }
        let start = std::time::Instant::now();
        while !ended(&mut self.child) {
            if start.elapsed() > STOP_LIMIT {
                command::kill(&mut self.child);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Leaves it running when the demo ends.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reads the problem document on stderr, or the verdict on stdout.
fn refusal(out: &Output) -> Refusal {
    let exit = out.status.code().unwrap_or(-1);
    let problem = out.stderr.lines().rev().find_map(|l| serde_json::from_str::<Value>(l).ok());
    if let Some(problem) = problem.filter(|p| p["code"].is_string()) {
        let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
        return Refusal { exit, code: text("code"), detail: format!("{}: {}", text("code"), text("detail")) };
    }
    let answer: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
    let verdict =
        if answer["committed"].is_object() { &answer["committed"]["verdict"] } else { &answer["verdict"] };
    let rules = verdict["rules"].as_array();
    match rules.and_then(|r| r.iter().find(|r| r["passed"] == false)) {
        Some(rule) => {
            let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
            Refusal { exit, code: text("code"), detail: format!("{} ({})", text("detail"), text("rule")) }
        }
        None => Refusal { exit, code: String::new(), detail: out.tail(10) },
    }
}

/// The end of a file, for messages.
pub fn tail(path: &Path) -> String {
    const LINES: usize = 20;
    let read: io::Result<String> = std::fs::read_to_string(path);
    let text = read.unwrap_or_else(|e| format!("({}: {e})", path.display()));
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn out(stdout: &str, stderr: &str) -> Output {
        let status = std::process::ExitStatus::from_raw(256);
        Output { status, stdout: stdout.into(), stderr: stderr.into() }
    }

    #[test]
    fn a_refusal_is_read_from_the_problem_or_the_verdict() {
        let problem = refusal(&out("", "log line\n{\"code\":\"REPLAYED\",\"detail\":\"was consumed\"}\n"));
        assert_eq!((problem.exit, problem.code.as_str()), (1, "REPLAYED"));
        let verdict = r#"{"verdict":{"rules":[{"rule":"a","passed":true,"detail":""},
            {"rule":"quota/vcpus","passed":false,"code":"QUOTA","detail":"9 of 8"}]}}"#;
        let submitted = format!("{{\"committed\":{verdict}}}");
        assert_eq!(refusal(&out(&submitted, "")), refusal(&out(verdict, "")));
        let verdict = refusal(&out(verdict, ""));
        assert_eq!((verdict.code.as_str(), verdict.detail.as_str()), ("QUOTA", "9 of 8 (quota/vcpus)"));
        assert_eq!(refusal(&out("", "panicked")).code, "", "a crash is no refusal");
    }
}
