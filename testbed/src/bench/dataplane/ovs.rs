//! Open vSwitch on DPDK with the same rules: connection tracking, new connections by the rules, established ones pass.
//!
//! Its datapath runs in a thread that polls; between rounds the process waits.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;

use super::peer::{Forwarded, Thread, signal};
use crate::{command, interrupt};

/// Debian's build with DPDK.
const SWITCH: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const ROUND: Duration = Duration::from_millis(800);
/// Until its caches and its connections are there.
const WARM: Duration = Duration::from_secs(90);
const STEP: Duration = Duration::from_secs(120);
/// Highest priority of a rule; those of established connections are above.
const FIRST_RULE: u32 = 60_000;

/// It forwards between two captures.
pub struct Ovs {
    directory: PathBuf,
    switch: Child,
    database: Child,
    thread: Thread,
}

impl Drop for Ovs {
    fn drop(&mut self) {
        command::kill(&mut self.switch);
        command::kill(&mut self.database);
    }
}

/// Whether Debian's package is there.
pub fn is_there() -> bool {
    Path::new(SWITCH).is_file() && Path::new(SCHEMA).is_file()
}

impl Ovs {
    /// With the rules of a case between two captures, warm.
    pub fn start(directory: &Path, eal: &str, rules: &Path, captures: [&Path; 2]) -> anyhow::Result<Self> {
        let directory = directory.join("ovs");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let text = fs::read_to_string(rules).with_context(|| format!("cannot read {}", rules.display()))?;
        let flows_file = directory.join("flows");
        fs::write(&flows_file, flows(&text)?)?;
        let at = |name: &str| directory.join(name).display().to_string();
        let of = |program: &str| {
            let mut command = Command::new(program);
            for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"] {
                command.env(variable, &directory);
            }
            command
        };
        let database_socket = format!("unix:{}", at("db.sock"));
        command::succeed(of("ovsdb-tool").args(["create", &at("conf.db"), SCHEMA]), STEP)?;
        let remote = format!("--remote=p{database_socket}");
        let mut program = of("ovsdb-server");
        let database = quiet(program.args([&at("conf.db"), &remote, "--unixctl=database.ctl"]))?;
        let mut database = Guard(Some(database));
        wait_for(Path::new(&at("db.sock")))?;
        let vsctl = |arguments: &[&str]| {
            let database = format!("--db={database_socket}");
            command::succeed(of("ovs-vsctl").args([&database, "--timeout=100"]).args(arguments), STEP)
        };
        vsctl(&["--no-wait", "init"])?;
        let extra = format!("other_config:dpdk-extra={eal}");
        let settings = ["dpdk-init=true", "dpdk-lcore-mask=0x1", "pmd-cpu-mask=0x2"];
        let settings = settings.map(|s| format!("other_config:{s}"));
        let mut set = vec!["--no-wait", "set", "Open_vSwitch", ".", extra.as_str()];
        set.extend(settings.iter().map(String::as_str));
        vsctl(&set)?;
        let log = format!("--log-file={}", at("switch.log"));
        let mut program = of(SWITCH);
        let switch = quiet(program.args([&database_socket, &log, "--unixctl=switch.ctl"]))?;
        let mut switch = Guard(Some(switch));
        vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=secure"])?;
        let bridge = format!("unix:{}", at("br0.mgmt"));
        command::succeed(of("ovs-ofctl").args(["add-flows", &bridge]).arg(&flows_file), STEP)?;
        for (n, capture) in captures.iter().enumerate() {
            let (port, wanted) = (format!("p{n}"), format!("ofport_request={}", n + 1));
            let device =
                format!("options:dpdk-devargs=net_pcap{n},rx_pcap={},infinite_rx=1", capture.display());
            vsctl(&[
                "add-port",
                "br0",
                &port,
                "--",
                "set",
                "Interface",
                &port,
                "type=dpdk",
                &wanted,
                &device,
            ])?;
            let problem = vsctl(&["get", "Interface", &port, "error"])?.stdout;
            if problem.trim() != "[]" {
                bail!("OVS refuses port {n}: {}", problem.trim());
            }
        }
        let process = switch.0.as_ref().map(Child::id).context("OVS is gone")?;
        let thread = Thread::find(process, |name| name.starts_with("pmd"))?;
        let (Some(switch), Some(database)) = (switch.0.take(), database.0.take()) else {
            bail!("OVS is gone")
        };
        let mut it = Self { directory, switch, database, thread };
        it.warm_up()?;
        Ok(it)
    }

    /// Until all that is received is sent.
    fn warm_up(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + WARM;
        loop {
            let it = self.round()?;
            if it.passed > 0.999 {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("OVS still drops {:.1} % after {WARM:?}", 100.0 * (1.0 - it.passed));
            }
            signal(self.switch.id(), Signal::SIGCONT)?;
            sleep(Duration::from_secs(2));
        }
    }

    /// Forwards for a while; waits before and afterwards.
    pub fn round(&mut self) -> anyhow::Result<Forwarded> {
        interrupt::check()?;
        signal(self.switch.id(), Signal::SIGCONT)?;
        sleep(ROUND / 8);
        let (before, began) = (self.frames()?, self.thread.cpu()?);
        sleep(ROUND);
        let (after, ended) = (self.frames()?, self.thread.cpu()?);
        signal(self.switch.id(), Signal::SIGSTOP)?;
        Forwarded::of(after.0 - before.0, after.1 - before.1, ended.saturating_sub(began))
    }

    fn frames(&self) -> anyhow::Result<(u64, u64)> {
        let bridge = format!("unix:{}", self.directory.join("br0.mgmt").display());
        let said = command::succeed(Command::new("ovs-ofctl").args(["dump-ports", &bridge]), STEP)?.stdout;
        frames(&said).with_context(|| format!("OVS said {said:?}"))
    }
}

/// Ends its child unless that is taken.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            command::kill(child);
        }
    }
}

fn quiet(program: &mut Command) -> anyhow::Result<Child> {
    let line = command::shown(program);
    let program = program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    program.spawn().with_context(|| format!("cannot run `{line}`"))
}

fn wait_for(file: &Path) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while !file.exists() {
        if Instant::now() > until {
            bail!("{} does not come", file.display());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Received and sent by all ports.
fn frames(said: &str) -> Option<(u64, u64)> {
    let sum = |which: &str| {
        let found = said.split(which).skip(1).map(|rest| rest.split(',').next()?.trim().parse::<u64>().ok());
        found.sum::<Option<u64>>()
    };
    Some((sum("rx pkts=")?, sum("tx pkts=")?))
}

/// The rules of a case (see `fixture.rs` of `dataplane-bench`) as OpenFlow: a range of ports is as many masks as it needs.
fn flows(rules: &str) -> anyhow::Result<String> {
    let mut out = "table=0,priority=10,ip,actions=ct(table=1)\n\
                   table=0,priority=0,actions=drop\n\
                   table=1,priority=65000,ct_state=+trk+est,in_port=1,actions=output:2\n\
                   table=1,priority=65000,ct_state=+trk+est,in_port=2,actions=output:1\n\
                   table=1,priority=0,actions=drop\n"
        .to_owned();
    for (priority, line) in (1..=FIRST_RULE).rev().zip(rules.lines().skip(1)) {
        let [source, destination, _, ports, protocol, action] =
            line.split_whitespace().collect::<Vec<_>>()[..]
        else {
            bail!("not a rule: {line}");
        };
        let (first, last) = ports.split_once('-').context("not a range of ports")?;
        let protocol = if protocol == "6" { "tcp" } else { "udp" };
        let action = if action == "allow" { "ct(commit),output:2" } else { "drop" };
        for (port, mask) in masks(first.parse()?, last.parse()?) {
            writeln!(
                out,
                "table=1,priority={priority},ct_state=+trk+new,in_port=1,{protocol},nw_src={source},nw_dst={destination},\
                 tp_dst={port:#x}/{mask:#x},actions={action}"
            )?;
        }
    }
    Ok(out)
}

/// A range as values with masks.
fn masks(first: u32, last: u32) -> Vec<(u32, u32)> {
    let mut out = Vec::new();
    let mut at = first;
    while at <= last {
        let mut size = 1;
        while at.is_multiple_of(size * 2) && at + size * 2 - 1 <= last {
            size *= 2;
        }
        out.push((at, 0xffff & !(size - 1)));
        at += size;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_match_a_range_and_nothing_else() {
        for (first, last) in [(0, 0xffff), (80, 80), (1024, 3023), (1, 6), (65_535, 65_535), (7, 8)] {
            let all = masks(first, last);
            for port in 0..=0xffff_u32 {
                let times = all.iter().filter(|(value, mask)| port & mask == *value).count();
                assert_eq!(times, usize::from((first..=last).contains(&port)), "{port} in {first}-{last}");
            }
        }
    }

    #[test]
    fn rules_keep_their_order() {
        let rules = "connections 1\n10.0.0.0/8 0.0.0.0/0 0-65535 443-443 6 deny\n0.0.0.0/0 0.0.0.0/0 0-65535 1-2 17 allow\n";
        let text = flows(rules).unwrap();
        let lines: Vec<&str> = text.lines().skip(5).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].contains("priority=60000") && lines[0].contains("tcp,nw_src=10.0.0.0/8"));
        assert!(lines[0].ends_with("tp_dst=0x1bb/0xffff,actions=drop"));
        assert!(lines[2].contains("priority=59999") && lines[2].ends_with("actions=ct(commit),output:2"));
    }

    #[test]
    fn all_ports_are_counted() {
        let said = "port LOCAL: rx pkts=0, bytes=0\n  tx pkts=1, bytes=0\nport  1: rx pkts=50, bytes=3\n tx pkts=20, b";
        assert_eq!(frames(said), Some((50, 21)));
    }
}
