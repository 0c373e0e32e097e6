//! The same policy in Linux: a bridge in a namespace, nftables with connection tracking on what it forwards.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use dataplane_control::config::{Rule, RuleAction};

use crate::{
    Side, Verdict,
    support::{
        Bench, run,
        wire::{LONGEST, Wire},
    },
};

/// An EtherType for experiments (IEEE 802, local), which no rule is asked about: what was sent before it is decided.
const FENCE: [u8; 2] = [0x88, 0xb5];
const WITHIN: Duration = Duration::from_secs(5);
/// Only in a namespace that has `br_netfilter`.
const BRIDGED: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Whether this kernel and machine can do it; says why not.
pub fn can_run() -> bool {
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs `nft`: apt-get install nftables");
        return false;
    }
    if !fs::exists(BRIDGED).unwrap_or_default() {
        let _built_in_or_absent = Command::new("modprobe").arg("br_netfilter").status();
    }
    if !fs::exists(BRIDGED).unwrap_or_default() {
        eprintln!("SKIPPED: needs the kernel's br_netfilter: modprobe br_netfilter");
        return false;
    }
    true
}

/// The bridge and both ends.
pub struct Kernel {
    ends: [Wire; 2],
    fences: u32,
    buffer: Vec<u8>,
    // Sockets close before their namespaces go.
    _bench: Bench,
}

impl Kernel {
    pub fn new(rules: &[Rule]) -> Self {
        let mut bench = Bench::new();
        let [bridge, ends] = ["-nft", "-ends"].map(|name| bench.namespace(name));
        run("ip", &format!("-n {bridge} link add br0 type bridge stp_state 0 mcast_snooping 0"));
        run("ip", &format!("-n {bridge} link set dev br0 up"));
        for (outer, inner) in [("outside", "o0"), ("inside", "i0")] {
            bench.link((&ends, outer), (&bridge, inner));
            run("ip", &format!("-n {bridge} link set dev {inner} master br0"));
            // Both ends send with any address.
            run("bridge", &format!("-n {bridge} link set dev {inner} learning off"));
        }
        for setting in [
            "bridge.bridge-nf-call-iptables=1",
            "bridge.bridge-nf-call-ip6tables=1",
            "bridge.bridge-nf-filter-vlan-tagged=1",
        ] {
            run("ip", &format!("netns exec {bridge} sysctl -qw net.{setting}"));
        }
        load(&bridge, &ruleset(rules));
        // There are these once the rules ask for connections.
        run("ip", &format!("netns exec {bridge} sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0"));
        let ends = ["outside", "inside"].map(|interface| Wire::open(&ends, interface));
        let mut it = Self { ends, fences: 0, buffer: vec![0; LONGEST], _bench: bench };
        it.wait_for_links();
        it
    }

    /// What becomes of these frames, sent one after the other.
    pub fn decide(&mut self, from: Side, frames: &[Vec<u8>]) -> Verdict {
        for frame in frames {
            assert!(self.ends[from as usize].send(frame), "the kernel sends no such frame: {frame:02x?}");
        }
        let fence = self.fence(from);
        let until = Instant::now() + WITHIN;
        let mut came = 0;
        loop {
            match self.ends[from.other() as usize].receive(&mut self.buffer, until) {
                Some(n) if self.buffer[..n] == fence[..] => return Verdict::of(came, frames.len()),
                Some(n) if self.buffer[..n].get(12..14) != Some(&FENCE) => came += 1,
                Some(_) => {}
                None => panic!("the bridge did not pass a fence within {WITHIN:?}"),
            }
        }
    }

    fn fence(&mut self, from: Side) -> Vec<u8> {
        self.fences += 1;
        let mut frame = [&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8][..], &FENCE].concat();
        frame.extend(self.fences.to_be_bytes());
        frame.resize(60, 0);
        assert!(self.ends[from as usize].send(&frame));
        frame
    }

    /// A port forwards a moment after it is up.
    fn wait_for_links(&mut self) {
        let until = Instant::now() + WITHIN;
        for from in [Side::Outside, Side::Inside] {
            loop {
                let fence = self.fence(from);
                let soon = Instant::now() + Duration::from_millis(20);
                let came = self.ends[from.other() as usize].receive(&mut self.buffer, soon);
                if came.is_some_and(|n| self.buffer[..n] == fence[..]) {
                    break;
                }
                assert!(Instant::now() < until, "the bridge does not forward");
            }
        }
    }
}

/// The rules as a person writes them for nftables: what is known passes, then the first rule that matches, default deny.
/// Which port a frame came in on is a mark from the bridge: there is no other way to ask on this hook.
fn ruleset(rules: &[Rule]) -> String {
    let mut text = "table bridge ports {
  chain by_port {
    type filter hook prerouting priority -300;
    iifname o0 meta mark set 1
    iifname i0 meta mark set 2
  }
}
table inet firewall {
  chain forward {
    type filter hook forward priority 0; policy drop;
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept
    ct state established,related accept
    ct state != new drop
"
    .to_owned();
    for rule in rules {
        let mark = if rule.from == "outside" { 1 } else { 2 };
        write!(text, "    meta mark {mark}").unwrap();
        for (prefix, which) in [(rule.source, "saddr"), (rule.destination, "daddr")] {
            if let Some(prefix) = prefix {
                let version = if prefix.address.is_ipv4() { "ip" } else { "ip6" };
                write!(text, " {version} {which} {prefix}").unwrap();
            }
        }
        if let Some(protocol) = rule.protocol {
            write!(text, " meta l4proto {protocol}").unwrap();
        }
        for (ports, which) in [(rule.source_ports, "sport"), (rule.destination_ports, "dport")] {
            if let Some(ports) = ports {
                write!(text, " th {which} {ports}").unwrap();
            }
        }
        let action = if rule.action == RuleAction::Allow { "accept" } else { "drop" };
        writeln!(text, " {action}").unwrap();
    }
    text + "  }\n}\n"
}

fn load(namespace: &str, ruleset: &str) {
    let mut nft = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    nft.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft refuses:\n{ruleset}");
}
