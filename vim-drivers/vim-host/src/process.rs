//! Processes: found, recognised and ended by process id *and* start time, never by id alone.
//!
//! A signal goes through a pidfd (pidfd_open(2), Linux 5.3) that was opened before the start time was compared: when
//! the process ends in between and its id is given to another, the signal reaches nobody.
//!
//! A process that was started just before a crash, before its id was written down, is found by the control socket
//! in its arguments, which is unique to the instance.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fd::OwnedFd,
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

use crate::error::HostError;

/// How often a process that is to end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long it has after SIGTERM, and then after SIGKILL.
const AFTER_TERM: Duration = Duration::from_secs(1);
const AFTER_KILL: Duration = Duration::from_secs(5);

/// A process, safe against reuse of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    pub pid: u32,
    /// Start time in clock ticks since boot: field 22 of `/proc/<pid>/stat` (proc(5)).
    pub start_ticks: u64,
}

impl Process {
    /// The running process with this id; `None` when there is none or it is a zombie.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let start_ticks = parse_stat(&stat)?;
        Some(Self { pid, start_ticks })
    }

    /// Does it still run?
    pub(crate) fn runs(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// The file it executes, as the kernel has it.
    pub(crate) fn executable(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/exe", self.pid))
    }

    /// Waits until it has ended; false: it still runs.
    pub(crate) async fn ended_within(&self, limit: Duration) -> bool {
        let start = Instant::now();
        while self.runs() {
            if start.elapsed() >= limit {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        true
    }

    /// SIGTERM, then SIGKILL; ended when this returns.
    pub(crate) async fn end(&self) -> Result<(), HostError> {
        let Some(hold) = self.hold()? else { return Ok(()) };
        for (signal, limit) in [(Signal::TERM, AFTER_TERM), (Signal::KILL, AFTER_KILL)] {
            hold.signal(signal)?;
            if self.ended_within(limit).await {
                return Ok(());
            }
        }
        Err(HostError::ProcessStuck { pid: self.pid, seconds: AFTER_KILL.as_secs() })
    }

    /// A descriptor that becomes readable when this very process ends; `None` when it does not run.
    pub(crate) fn pidfd(&self) -> Option<OwnedFd> {
        self.hold().ok().flatten().map(|hold| hold.fd)
    }

    /// A hold on this very process; `None` when it does not run.
    fn hold(&self) -> Result<Option<Hold>, HostError> {
        let no_id = || HostError::Internal(format!("{} is no process id", self.pid));
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or_else(no_id)?;
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            // None with this id, or a thread of another process has it.
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(e) => return Err(refused(self.pid, e)),
        };
        // Compared once it is held: whoever had the id when it was opened is held, and ids are given in time's order.
        Ok(self.runs().then_some(Hold { pid: self.pid, fd }))
    }
}

/// A process held by a pidfd: what happens to its id does not matter any more.
struct Hold {
    pid: u32,
    fd: OwnedFd,
}

impl Hold {
    /// Signals it; nothing to do when it has ended.
    fn signal(&self, signal: Signal) -> Result<(), HostError> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(refused(self.pid, e)),
        }
    }
}

fn refused(pid: u32, e: Errno) -> HostError {
    HostError::NotPrivileged { what: format!("to end process {pid} (pidfd, Linux 5.3)"), source: e.into() }
}

/// Processes started with this control socket, whether or not anyone wrote their ids down.
pub(crate) fn with_control(socket: &Path) -> Vec<Process> {
    on_sockets(|s| s == socket).into_iter().map(|(process, _)| process).collect()
}

/// Processes started with a control socket somewhere in this directory, and those sockets.
pub(crate) fn on_sockets_in(dir: &Path) -> Vec<(Process, PathBuf)> {
    on_sockets(|s| s.starts_with(dir))
}

fn on_sockets(wanted: impl Fn(&Path) -> bool) -> Vec<(Process, PathBuf)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let named = pids.filter_map(|pid| Some((pid, control_of(pid).filter(|s| wanted(s))?)));
    named.filter_map(|(pid, socket)| Some((Process::of(pid)?, socket))).collect()
}

/// The control socket among a process's arguments.
fn control_of(pid: u32) -> Option<PathBuf> {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut arguments = arguments.split(|b| *b == 0);
    arguments.find(|a| *a == b"--control")?;
    Some(PathBuf::from(OsStr::from_bytes(arguments.next()?)))
}

/// Field 22 of a stat line, unless the process is a zombie or dead. The second field may hold anything but ends
/// with the last `)`.
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_field_22_whatever_the_name() {
        let tail = (4..=52).map(|i| i.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(parse_stat(&format!("7 (a b) S 0) R {tail}")), Some(22));
        assert_eq!(parse_stat(&format!("7 (gone) Z {tail}")), None);
        assert_eq!(parse_stat(""), None);
    }

    /// In a namespace of its own for process ids, where nobody else takes the next one.
    #[test]
    fn a_signal_never_reaches_who_has_the_id_now() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("SKIPPED: needs root, to make a namespace for process ids");
        }
        let output = std::process::Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "process::tests::only_with_ids_of_its_own", "--nocapture"])
            .env("IDS_OF_ITS_OWN", "1")
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if text.contains("SKIPPED") || text.contains("unshare failed") {
            return eprintln!("SKIPPED: {text}");
        }
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    /// Run by [`a_signal_never_reaches_who_has_the_id_now`].
    #[test]
    fn only_with_ids_of_its_own() {
        if std::env::var_os("IDS_OF_ITS_OWN").is_none() {
            return;
        }
        let sleep = || std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut first = sleep();
        let known = Process::of(first.id()).unwrap();
        let hold = known.hold().unwrap().unwrap();
        first.kill().unwrap();
        first.wait().unwrap();
        // The next process gets the id again; start times have a resolution of 10 ms.
        std::thread::sleep(Duration::from_millis(50));
        if let Err(e) = fs::write("/proc/sys/kernel/ns_last_pid", (first.id() - 1).to_string()) {
            return eprintln!("SKIPPED: ns_last_pid: {e}");
        }
        let mut second = sleep();
        assert_eq!(second.id(), first.id(), "another process took the id");
        hold.signal(Signal::KILL).unwrap();
        assert!(known.hold().unwrap().is_none(), "who has the id now is another");
        std::thread::sleep(Duration::from_millis(50));
        assert!(second.try_wait().unwrap().is_none(), "the signal reached who has the id now");
        second.kill().unwrap();
        second.wait().unwrap();
    }

    #[tokio::test]
    async fn a_process_is_known_by_id_and_start_time_and_ends() {
        let me = Process::of(std::process::id()).unwrap();
        assert!(me.runs());
        assert!(!Process { start_ticks: me.start_ticks + 1, ..me }.runs());
        // A process that ignores SIGTERM; its control socket is in its arguments.
        let socket = std::env::temp_dir().join(format!("vim-host-unit-{}", me.pid));
        let mut child = tokio::process::Command::new("/bin/sh")
            .args(["-c", "trap '' TERM; while :; do sleep 0.05; done", "sh", "--control"])
            .arg(&socket)
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let found = with_control(&socket);
        assert_eq!(found.iter().map(|p| p.pid).collect::<Vec<_>>(), [child.id().unwrap()]);
        found[0].end().await.unwrap();
        assert!(!found[0].runs() && with_control(&socket).is_empty());
        assert!(!child.wait().await.unwrap().success());
    }
}
