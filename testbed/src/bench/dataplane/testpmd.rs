//! DPDK's own testpmd in its `io` mode: what a loop in C between two ports forwards.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::peer::{Forwarded, Thread};
use crate::{command, interrupt};

/// Time of a round.
const ROUND: Duration = Duration::from_millis(400);
/// The last line of what it says at `stop`.
const DONE: &str = "Done.";

/// It runs, and forwards in rounds.
pub struct Testpmd {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    thread: Thread,
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        command::kill(&mut self.child);
    }
}

impl Testpmd {
    /// Between two devices, as `--vdev` has them.
    pub fn start(eal: &[&str], devices: &[String; 2]) -> anyhow::Result<Self> {
        // Into a pipe it would speak only when it has much to say.
        let mut program = Command::new("stdbuf");
        program.args(["--output=L", "dpdk-testpmd"]).args(eal).args(["-l", "0,1"]);
        program.args(devices.iter().map(|d| format!("--vdev={d}")));
        program.args(["--", "-i", "--forward-mode=io", "--total-num-mbufs=16384"]);
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child =
            program.spawn().with_context(|| format!("cannot run `{}`", command::shown(&program)))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("testpmd has no pipes")
        };
        let process = child.id();
        let mut stdout = BufReader::new(stdout);
        // Said once the ports are there.
        let ready = until(&mut stdout, "Done");
        let thread = ready.and_then(|_| Thread::find(process, |name| name.ends_with("worker-1")));
        match thread {
            Ok(thread) => Ok(Self { child, stdin, stdout, thread }),
            Err(e) => {
                command::kill(&mut child);
                Err(e)
            }
        }
    }

    /// Forwards for a while.
    pub fn round(&mut self) -> anyhow::Result<Forwarded> {
        interrupt::check()?;
        let before = self.thread.cpu()?;
        writeln!(self.stdin, "start")?;
        sleep(ROUND);
        writeln!(self.stdin, "stop")?;
        let said = until(&mut self.stdout, DONE)?;
        let cpu = self.thread.cpu()?.saturating_sub(before);
        let (received, sent) = totals(&said).with_context(|| format!("testpmd said {said:?}"))?;
        Forwarded::of(received, sent, cpu)
    }
}

fn until(stdout: &mut BufReader<ChildStdout>, last: &str) -> anyhow::Result<String> {
    let mut all = String::new();
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line)? == 0 {
            bail!("testpmd ended: {}", all.lines().last().unwrap_or_default());
        }
        all += &line;
        if line.trim_end().ends_with(last) {
            return Ok(all);
        }
    }
}

/// Received and sent of both ports together.
fn totals(said: &str) -> Option<(u64, u64)> {
    let (_, after) = said.rsplit_once("Accumulated forward statistics")?;
    let number = |name: &str| after.split_once(name)?.1.split_whitespace().next()?.parse().ok();
    Some((number("RX-packets:")?, number("TX-packets:")?))
}

#[cfg(test)]
mod tests {
    use super::totals;

    #[test]
    fn both_ports_are_read_together() {
        let said = "  RX-packets: 5   RX-dropped: 0\n  +++ Accumulated forward statistics for all ports+++\n  \
                    RX-packets: 31198592       RX-dropped: 0             RX-total: 31198592\n  \
                    TX-packets: 31198560       TX-dropped: 32            TX-total: 31198592\n  +++\nDone.\n";
        assert_eq!(totals(said), Some((31_198_592, 31_198_560)));
        assert_eq!(totals("RX-packets: 5"), None);
    }
}
