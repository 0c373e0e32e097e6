//! Processes: found, recognised and ended by process id *and* start time, never by id alone.
//!
//! A process that was started just before a crash, before its id was written down, is found by the control socket
//! in its arguments, which is unique to the instance.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
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
        for (signal, limit) in [(Signal::SIGTERM, AFTER_TERM), (Signal::SIGKILL, AFTER_KILL)] {
            if !self.runs() {
                return Ok(());
            }
            let pid = i32::try_from(self.pid).map_err(|e| HostError::Internal(e.to_string()))?;
            match kill(Pid::from_raw(pid), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => {
                    let what = format!("to end process {pid}");
                    return Err(HostError::NotPrivileged { what, source: e.into() });
                }
            }
            if self.ended_within(limit).await {
                return Ok(());
            }
        }
        Err(HostError::ProcessStuck { pid: self.pid, seconds: AFTER_KILL.as_secs() })
    }
}

/// Processes started with this control socket, whether or not anyone wrote their ids down.
pub(crate) fn with_control(socket: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| names_control(*pid, socket)).filter_map(Process::of).collect()
}

fn names_control(pid: u32, socket: &Path) -> bool {
    let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let arguments: Vec<&[u8]> = arguments.split(|b| *b == 0).collect();
    arguments.windows(2).any(|w| w[0] == b"--control" && w[1] == socket.as_os_str().as_encoded_bytes())
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
