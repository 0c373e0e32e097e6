//! Processes that outlive us: each leads a group of its own and is known by its id and its time of start.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use crate::{command, interrupt};

/// From SIGTERM to SIGKILL; a database writes what it has.
const STOP_LIMIT: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(20);
/// Of a log, in an error.
const LAST_LINES: usize = 12;

/// A process that may run.
#[derive(Debug)]
pub struct Process {
    name: String,
    file: PathBuf,
    log: PathBuf,
}

impl Process {
    /// The one of this name below `root`.
    pub fn at(root: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            file: root.join("run").join(format!("{name}.pid")),
            log: root.join("log").join(format!("{name}.log")),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// When it was started, while it runs.
    pub fn since(&self) -> Option<SystemTime> {
        self.pid().and_then(|_| fs::metadata(&self.file).ok()?.modified().ok())
    }

    /// Its id, while it runs.
    pub fn pid(&self) -> Option<Pid> {
        let (pid, start) = self.recorded()?;
        (started(pid)? == start).then_some(pid)
    }

    fn recorded(&self) -> Option<(Pid, String)> {
        let text = fs::read_to_string(&self.file).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        Some((Pid::from_raw(pid.parse().ok()?), start.to_owned()))
    }

    /// Starts it, unless it runs.
    pub fn start(&self, command: &mut Command) -> anyhow::Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        self.sweep();
        let log = fs::File::options().create(true).append(true).open(&self.log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot run `{}`", command::shown(command)))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let start = started(pid).with_context(|| format!("{} ended at once", self.name))?;
        fs::write(&self.file, format!("{pid} {start}"))?;
        Ok(())
    }

    /// Waits until `ready`; an error when it ends before.
    pub fn wait(&self, limit: Duration, ready: impl Fn() -> bool) -> anyhow::Result<()> {
        interrupt::wait_for(&format!("{} is not ready", self.name), limit, || {
            if ready() {
                return Ok(Some(()));
            }
            if self.pid().is_none() {
                bail!("{} ended:\n{}", self.name, self.last_words());
            }
            Ok(None)
        })
    }

    /// The end of what it said.
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    /// Sends it a signal; returns whether it ran.
    pub fn signal(&self, signal: Signal) -> bool {
        // Gone in between is as good.
        self.pid().map(|pid| kill(pid, signal)).is_some()
    }

    /// Ends it without asking, and what is left of its group; returns whether it ran.
    pub fn kill(&self) -> bool {
        let ran = self.signal(Signal::SIGKILL);
        self.finish(Instant::now());
        ran
    }

    /// Asks it to end; returns whether it ran.
    fn terminate(&self) -> bool {
        self.signal(Signal::SIGTERM)
    }

    /// Waits for its end, and ends what is left of its group.
    fn finish(&self, deadline: Instant) {
        while let Some(pid) = self.pid() {
            if Instant::now() > deadline {
                let _gone = kill(pid, Signal::SIGKILL);
            }
            std::thread::sleep(TICK);
        }
        self.sweep();
        let _gone = fs::remove_file(&self.file);
    }

    /// Ends children that outlived it. While a group has members, the kernel gives its id to no one else; a process
    /// that has it now, and another start, is a stranger.
    fn sweep(&self) {
        if let Some((pid, _)) = self.recorded()
            && started(pid).is_none()
        {
            let _gone = killpg(pid, Signal::SIGKILL);
        }
    }
}

/// Every process that was started below `root`, those of a lower rank first: users before what they use.
pub fn all(root: &Path, rank: fn(&str) -> u8) -> anyhow::Result<Vec<Process>> {
    let Ok(entries) = fs::read_dir(root.join("run")) else { return Ok(vec![]) };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".pid").map(str::to_owned));
    }
    names.sort_by_key(|name| (rank(name), name.clone()));
    Ok(names.iter().map(|name| Process::at(root, name)).collect())
}

/// Says which run and which have ended; false when one has.
pub fn status(what: &str, all: &[Process]) -> bool {
    for process in all {
        match process.pid() {
            Some(pid) => println!("{what} {:16} up    pid {pid}", process.name()),
            None => println!("{what} {:16} ended  {}", process.name(), process.log().display()),
        }
    }
    if all.is_empty() {
        println!("{what} is not up");
    }
    all.iter().all(|p| p.pid().is_some())
}

/// Ends them in this order, those of one rank together; returns how many ran.
pub fn stop_all(all: &[Process], rank: fn(&str) -> u8) -> usize {
    let deadline = Instant::now() + STOP_LIMIT;
    let mut ran = 0;
    for group in all.chunk_by(|a, b| rank(a.name()) == rank(b.name())) {
        ran += group.iter().filter(|p| p.terminate()).count();
        group.iter().for_each(|p| p.finish(deadline));
    }
    ran
}

/// The time of start that the kernel keeps, in its ticks; `None` when there is no such process or it has ended.
fn started(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may have spaces: state is the third field, the time of start the twenty-second.
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    let state = rest.next()?;
    (!["Z", "X"].contains(&state)).then(|| rest.nth(18).map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut c = Command::new("sh");
        c.args(["-c", script]);
        c
    }

    fn place() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("run")).unwrap();
        fs::create_dir_all(dir.path().join("log")).unwrap();
        dir
    }

    #[test]
    fn it_is_started_once_found_again_and_ended_with_its_children() {
        let dir = place();
        let it = Process::at(dir.path(), "x");
        it.start(&mut sh("sleep 60 & echo $!; wait")).unwrap();
        let pid = it.pid().unwrap();
        it.start(&mut sh("exit 1")).unwrap();
        assert_eq!(it.pid(), Some(pid), "not started twice");
        let child = || fs::read_to_string(it.log()).unwrap().trim().parse().ok().map(Pid::from_raw);
        it.wait(Duration::from_secs(10), || child().is_some()).unwrap();
        let child = child().unwrap();
        assert!(started(child).is_some());
        assert_eq!(stop_all(&[Process::at(dir.path(), "x")], |_| 0), 1);
        assert_eq!((it.pid(), started(pid)), (None, None));
        let gone = Instant::now() + Duration::from_secs(10);
        while started(child).is_some() && Instant::now() < gone {
            std::thread::sleep(TICK);
        }
        assert!(started(child).is_none(), "the child as well");
        assert_eq!(stop_all(&[Process::at(dir.path(), "x")], |_| 0), 0);
    }

    #[test]
    fn a_stranger_with_its_id_is_left_alone() {
        let dir = place();
        let it = Process::at(dir.path(), "x");
        let mut stranger = sh("sleep 60").spawn().unwrap();
        fs::write(dir.path().join("run/x.pid"), format!("{} 1", stranger.id())).unwrap();
        assert_eq!(it.pid(), None);
        stop_all(&[it], |_| 0);
        assert!(stranger.try_wait().unwrap().is_none());
        command::kill(&mut stranger);
    }

    #[test]
    fn who_ends_early_is_quoted() {
        let dir = place();
        let it = Process::at(dir.path(), "x");
        it.start(&mut sh("sleep 0.2; echo no such table")).unwrap();
        let e = it.wait(Duration::from_secs(10), || false).unwrap_err();
        assert!(e.to_string().contains("no such table"), "{e}");
    }
}
