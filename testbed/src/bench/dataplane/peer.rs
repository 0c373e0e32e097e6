//! Programs of others that are measured by the CPU time of the thread that forwards: testpmd and OVS-DPDK.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What was forwarded in some time.
#[derive(Debug, Clone, Copy)]
pub struct Forwarded {
    /// Received, millions a second of the thread's CPU time.
    pub mpps: f64,
    /// Of those received, the share that was sent.
    pub passed: f64,
}

impl Forwarded {
    /// From frames received and sent in so much CPU time.
    pub fn of(received: u64, sent: u64, cpu: Duration) -> anyhow::Result<Self> {
        if received == 0 || cpu.is_zero() {
            bail!("nothing was received");
        }
        // Far below 2^52.
        let (received, sent) = (received as f64, sent as f64);
        Ok(Self { mpps: received / cpu.as_secs_f64() / 1e6, passed: sent / received })
    }
}

/// A thread of another process.
#[derive(Debug)]
pub struct Thread(PathBuf);

impl Thread {
    /// The one whose name is accepted.
    pub fn find(process: u32, accepted: impl Fn(&str) -> bool) -> anyhow::Result<Self> {
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm")).is_ok_and(|name| accepted(name.trim())) {
                return Ok(Self(task.join("schedstat")));
            }
        }
        bail!("process {process} has no thread that forwards")
    }

    /// CPU time so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let text =
            fs::read_to_string(&self.0).with_context(|| format!("cannot read {}", self.0.display()))?;
        let ns = text.split_whitespace().next().and_then(|n| n.parse().ok());
        Ok(Duration::from_nanos(ns.context("the kernel does not count CPU time of threads")?))
    }
}

/// Lets a process wait, or go on: what polls must not take the processor from whoever is measured.
pub fn signal(process: u32, signal: Signal) -> anyhow::Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(process)?), signal)?)
}
