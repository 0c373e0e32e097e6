//! Frames of every size between two ports over `af_packet`, `af_xdp` (veth pairs in a network namespace) and `memif`,
//! and waiting for them without polling. Needs root, and says so when it skips. Each driver gets a process of its own:
//! this file's first test starts the second one in a namespace.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::{
    io::Write,
    os::fd::AsFd,
    process::Command,
    time::{Duration, Instant},
};

use dpdk::{BURST, Burst, Eal, EalConfig, Memory, Pool, Port, Vdev, Waiter, Woken};

/// Names the driver, and that we are inside the namespace.
const DRIVER: &str = "MANDATE_DPDK_WIRE";
/// From the shortest Ethernet frame to the longest, without FCS.
const LENGTHS: [u16; 4] = [60, 61, 590, 1514];
const WITHIN: Duration = Duration::from_secs(5);

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[test]
fn frames_pass_over_every_driver() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root for a network namespace: run `sudo -E cargo test -p dpdk`");
        return;
    }
    for driver in ["af_packet", "af_xdp", "memif"] {
        let namespace = Namespace(format!("dpdk-wire-{}-{driver}", std::process::id()));
        let name = &namespace.0;
        ip(&format!("netns add {name}"));
        ip(&format!("netns exec {name} sysctl -qw net.ipv6.conf.default.disable_ipv6=1"));
        ip(&format!("-n {name} link add w0 type veth peer name w1"));
        for interface in ["w0", "w1"] {
            ip(&format!("-n {name} link set dev {interface} up promisc on"));
        }
        let inside = Command::new("ip")
            .args(["netns", "exec", name])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "in_the_namespace", "--nocapture"])
            .env(DRIVER, driver)
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&inside.stderr);
        assert!(inside.status.success(), "{driver}: {words}");
        eprintln!("{}", words.lines().filter(|l| l.starts_with(driver)).collect::<Vec<_>>().join("\n"));
    }
}

#[test]
fn in_the_namespace() {
    let Ok(driver) = std::env::var(DRIVER) else { return };
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("memif").to_str().unwrap().to_owned();
    let vdevs = match driver.as_str() {
        "af_packet" => vec![Vdev::af_packet(0, "w0").unwrap(), Vdev::af_packet(1, "w1").unwrap()],
        "af_xdp" => vec![Vdev::af_xdp(0, "w0").unwrap(), Vdev::af_xdp(1, "w1").unwrap()],
        _ => vec![Vdev::memif(0, &socket, true).unwrap(), Vdev::memif(1, &socket, false).unwrap()],
    };
    dpdk::hold_interfaces().unwrap();
    let config = EalConfig { memory: Memory::Ordinary { size_mb: 160 }, cpus: vec![0], vdevs: vdevs.clone() };
    let eal = Eal::init(&config).unwrap();
    // Each end its own: af_xdp makes the pool the memory that it shares with the kernel.
    let pools = [Pool::new(&eal, 8_191).unwrap(), Pool::new(&eal, 8_191).unwrap()];
    let mut near = Port::open(&pools[0], vdevs[0].name()).unwrap();
    let mut far = Port::open(&pools[1], vdevs[1].name()).unwrap();
    wait_for_link(&near);
    wait_for_link(&far);

    // A memif client offers its buffers when it polls.
    assert_eq!(far.rx(&mut Burst::new()), 0);

    let (bell, mut ringer) = std::io::pipe().unwrap();
    let mut waiter = Waiter::new(&eal, bell.as_fd());
    let expected = if driver == "memif" { 0 } else { 2 };
    assert_eq!(waiter.sockets(), expected, "sockets to wait for");
    assert_eq!(waiter.wait(Duration::from_millis(1)).unwrap(), Woken::TimedOut);

    let mut out = Burst::new();
    for i in 0..BURST {
        let mut frame = pools[0].alloc().unwrap();
        assert!(frame.set_len(LENGTHS[i % LENGTHS.len()]));
        frame.frame_mut().fill(i as u8);
        // Broadcast, a locally administered source, an experimental type.
        frame.frame_mut()[..14]
            .copy_from_slice(&[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        out.push(frame).unwrap();
    }
    let sent = Instant::now();
    assert_eq!(near.tx(&mut out), BURST);
    if expected > 0 {
        assert_eq!(waiter.wait(WITHIN).unwrap(), Woken::Packets);
        eprintln!("{driver}: awake {} µs after the first transmit call", sent.elapsed().as_micros());
    }
    let received = receive(&mut far, &mut near);
    assert_eq!(received.len(), BURST, "every frame, once");
    for (i, frame) in received.iter().enumerate() {
        assert_eq!(frame.len(), usize::from(LENGTHS[i % LENGTHS.len()]));
        assert!(frame[14..].iter().all(|b| *b == i as u8), "bytes of frame {i}");
    }
    ringer.write_all(&[0]).unwrap();
    assert_eq!(waiter.wait(WITHIN).unwrap(), Woken::Called);
}

fn wait_for_link(port: &Port<'_>) {
    let until = Instant::now() + WITHIN;
    while !port.link().up {
        assert!(Instant::now() < until, "no link");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What arrives; `other` is polled too, as some drivers complete transmissions there.
fn receive<'p>(port: &mut Port<'p>, other: &mut Port<'p>) -> Vec<Vec<u8>> {
    let (mut burst, mut ignored, mut frames) = (Burst::new(), Burst::new(), vec![]);
    let until = Instant::now() + WITHIN;
    while frames.len() < BURST && Instant::now() < until {
        port.rx(&mut burst);
        frames.extend(burst.drain().map(|b| b.frame().to_vec()));
        other.rx(&mut ignored);
        ignored.clear();
    }
    frames
}
