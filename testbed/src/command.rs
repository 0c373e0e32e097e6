//! Other programs: run to the end with a bound, output kept.

use std::{
    ffi::OsStr,
    io::{self, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::interrupt;

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// stdout, lossy UTF-8.
    pub stdout: String,
    /// stderr, lossy UTF-8.
    pub stderr: String,
}

impl Output {
    /// The last lines of stderr, or of stdout when that is empty: what a person wants to see of a failure.
    pub fn tail(&self, lines: usize) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let all: Vec<&str> = text.trim_end().lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// How a command line reads in a message.
pub fn shown(command: &Command) -> String {
    let word = |w: &OsStr| {
        let w = w.to_string_lossy().into_owned();
        if w.contains(' ') || w.is_empty() { format!("'{w}'") } else { w }
    };
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(word(program)).chain(command.get_args().map(word)).collect::<Vec<_>>().join(" ")
}

/// Runs to the end, at most `limit`; ended by force when that is over or we are interrupted.
pub fn capture(command: &mut Command, limit: Duration) -> anyhow::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let line = shown(command);
    let mut child = command.spawn().with_context(|| format!("cannot run `{line}`"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = match wait(&mut child, &line, limit) {
        Ok(status) => status,
        Err(e) => {
            kill(&mut child);
            return Err(e);
        }
    };
    Ok(Output {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}

/// Like [`capture`], and a failure is an error with the last lines of its output.
pub fn succeed(command: &mut Command, limit: Duration) -> anyhow::Result<Output> {
    let line = shown(command);
    let output = capture(command, limit)?;
    if !output.status.success() {
        bail!("`{line}` failed ({}):\n{}", output.status, output.tail(30));
    }
    Ok(output)
}

/// Runs with all it says on our stderr (our stdout is for results); true when it succeeded.
pub fn passthrough(command: &mut Command, limit: Duration) -> anyhow::Result<bool> {
    let line = shown(command);
    command.stdout(io::stderr());
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot run `{line}`"))?;
    let status = wait(&mut child, &line, limit).inspect_err(|_| kill(&mut child))?;
    Ok(status.success())
}

/// Waits for a child with a bound.
pub fn wait(child: &mut Child, what: &str, limit: Duration) -> anyhow::Result<ExitStatus> {
    interrupt::wait_for(&format!("`{what}` has not ended"), limit, || Ok(child.try_wait()?))
}

/// SIGKILL and reap; it may have ended by itself.
pub fn kill(child: &mut Child) {
    let _ended_already = child.kill();
    let _reaped = child.wait();
}

fn drain(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before the error is what there is to show.
            let _partial = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Is there a program of this name on the path?
pub fn exists(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut c = Command::new("sh");
        c.args(["-c", script]);
        c
    }

    #[test]
    fn output_and_failure_are_kept() {
        let out = succeed(&mut sh("echo a; echo b >&2"), Duration::from_secs(5)).unwrap();
        assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("a\n", "b\n"));
        let e = succeed(&mut sh("echo why >&2; exit 3"), Duration::from_secs(5)).unwrap_err().to_string();
        assert!(e.contains("why") && e.contains("exit 3") && e.contains("exit status: 3"), "{e}");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let e = capture(&mut sh("exec sleep 60"), Duration::from_millis(50)).unwrap_err();
        assert!(e.to_string().contains("sleep 60"), "{e}");
    }
}
