//! Two load balancers, one of which tells the other: connections that were moved by a change of backends go where they are after a fail-over.
//! Needs root for namespaces, as does `tests/chain.rs`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::{
    fs,
    net::UdpSocket,
    process::Command,
    time::{Duration, Instant},
};

use dataplane_control::{
    Configuration, Function,
    sync::{Datagram, Key},
};
use dataplane_engine::maglev::{self, FiveTuple};
use serde_json::json;
use support::{
    Bench, Process, can_run, configuration, fails,
    frames::udp4,
    run,
    wire::{LONGEST, Wire, within},
};

const FLOWS: u16 = 60;
const CLIENT: [u8; 4] = [198, 51, 100, 7];
const VIP: [u8; 4] = [192, 0, 2, 10];
const LISTENS: &str = "127.0.0.1:4790";

fn balancer(instance: &str, interfaces: [&str; 2], generation: u64, backends: u16) -> Configuration {
    let port = |name: &str, interface: &str, mac: &str| json!({ "name": name, "driver": { "af_packet": { "interface": interface } }, "mac": mac });
    let member = |n| json!({ "id": format!("b{n}"), "number": n, "mac": format!("02:00:00:00:01:{n:02x}"), "weight": 1 });
    configuration(json!({
        "instance": instance, "generation": generation,
        "ports": [port("client", interfaces[0], "02:00:00:00:00:02"), port("backend", interfaces[1], "02:00:00:00:00:03")],
        "function": { "load_balancer": {
            "client": "client", "backend": "backend", "idle_ms": 120_000, "max_connections": 1000, "table_size": 251,
            "vips": [{ "id": "dns", "address": "192.0.2.10", "protocol": 17, "port": 53 }],
            "backends": (1..=backends).map(member).collect::<Vec<_>>(),
        } },
    }))
}

/// A balancer's two links, from outside.
struct Links {
    clients: Wire,
    backends: Wire,
}

impl Links {
    fn of(bench: &Bench, hosts: &str, namespace: &str, name: &str) -> Self {
        for side in ["c", "b"] {
            bench.link((hosts, &format!("h{name}{side}")), (namespace, &format!("{name}{side}")));
        }
        let wire = |side| Wire::open(hosts, &format!("h{name}{side}"));
        Self { clients: wire("c"), backends: wire("b") }
    }

    /// Sends a datagram of each flow; the backends that they go to.
    fn ask(&self) -> Vec<u16> {
        (0..FLOWS)
            .map(|flow| {
                let mut frame = udp4(CLIENT, VIP, (5000 + flow, 53), 20);
                frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
                assert!(self.clients.send(&frame));
                let got = Self::frame(&self.backends, [2, 0, 0, 0, 1]);
                assert_eq!(got[34..36], (5000 + flow).to_be_bytes());
                got[5].into()
            })
            .collect()
    }

    /// A backend answers all of them.
    fn answer(&self) {
        for flow in 0..FLOWS {
            let mut frame = udp4(VIP, CLIENT, (53, 5000 + flow), 20);
            frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 3]);
            assert!(self.backends.send(&frame));
            // To the client's MAC, as `udp4` has it.
            Self::frame(&self.clients, [2, 0, 0, 0, 0]);
        }
    }

    /// The next frame to a MAC that begins so, from a balancer.
    fn frame(wire: &Wire, to: [u8; 5]) -> Vec<u8> {
        let (mut buffer, until) = (vec![0; LONGEST], Instant::now() + Duration::from_secs(5));
        loop {
            let length = wire.receive(&mut buffer, until).unwrap_or_else(|| panic!("nothing to {to:x?}"));
            if buffer[..5] == to && matches!(buffer[6..12], [2, 0, 0, 0, 0, 2 | 3]) {
                return buffer[..length].to_vec();
            }
        }
    }
}

fn wait_for(process: &mut Process, what: &str, least: u64) {
    let until = Instant::now() + Duration::from_secs(20);
    while process.counter(what) < least {
        assert!(Instant::now() < until, "{what}: {:#?}", process.status());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn after_a_fail_over_connections_go_where_they_were() {
    if !can_run() {
        return;
    }
    let mut bench = Bench::new();
    let (namespace, hosts) = (bench.namespace("lb"), bench.namespace("hosts"));
    run("ip", &format!("-n {namespace} link set dev lo up"));
    let (first, second) =
        (Links::of(&bench, &hosts, &namespace, "x"), Links::of(&bench, &hosts, &namespace, "y"));
    let key = bench.path("key");
    fs::write(&key, [7; 32]).unwrap();
    let key = key.to_str().unwrap();

    // On two backends; then there is a third.
    let options = ["--sync-to", LISTENS, "--sync-key", key];
    let mut active = bench.start_with(&namespace, &balancer("one", ["xc", "xb"], 1, 2), &options);
    let on = first.ask();
    first.answer();
    let now = balancer("one", ["xc", "xb"], 2, 3);
    assert_eq!(active.configure(&now).generation, 2);
    assert_eq!(first.ask(), on, "what is there stays");

    let mut standby = bench.start_with(
        &namespace,
        &balancer("two", ["yc", "yb"], 1, 3),
        &["--sync-from", LISTENS, "--sync-key", key],
    );
    wait_for(&mut standby, "sync.adopted", FLOWS.into());
    assert_eq!(standby.status().connections, u64::from(FLOWS));
    // Without, some would be moved.
    let Function::LoadBalancer(of) = &now.function else { panic!("a balancer") };
    let table = maglev::Table::new(&of.backends, of.table_size);
    let picked = |flow: u16| {
        let flow = FiveTuple {
            source: CLIENT.into(),
            destination: VIP.into(),
            source_port: 5000 + flow,
            destination_port: 53,
            protocol: 17,
        };
        of.backends[table.lookup(maglev::flow_hash(&flow)).unwrap()].number
    };
    let moved = (0..FLOWS).filter(|flow| picked(*flow) != on[usize::from(*flow)]).count();
    assert!(moved > 5, "the test would show nothing: {moved}");
    assert_eq!(second.ask(), on);
    assert_eq!(standby.counter("connections.opened"), 0);
    let sent = active.counter("sync.sent");
    assert!(sent >= u64::from(FLOWS) && active.counter("sync.told") >= sent, "{sent}");

    // Strangers change nothing.
    let refused = standby.counter("sync.datagrams_refused");
    let strange = Key::new(&[8; 32]).unwrap().seal(&Datagram::new(1, 0, "one"));
    let old = Key::new(&[7; 32]).unwrap().seal(&Datagram::new(1, 0, "one").numbered(1, 1));
    let say = move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for bytes in [b"hello".to_vec(), strange, old] {
            socket.send_to(&bytes, LISTENS).unwrap();
        }
    };
    within(&namespace, say).join().unwrap();
    wait_for(&mut standby, "sync.datagrams_refused", refused + 3);
    assert_eq!(standby.status().connections, u64::from(FLOWS));
    assert_eq!((active.terminate(), standby.terminate()), (Some(0), Some(0)));
}

#[test]
fn what_cannot_be_is_refused_at_the_start() {
    let bench = Bench::new();
    let (config, key) = (bench.path("config"), bench.path("key"));
    let ports = json!([support::memif::port("p", json!({ "null": { "frame_bytes": 60 } }), 2)]);
    let reflector = json!({ "reflector": { "port": "p", "number": 1, "addresses": [] } });
    let document = json!({ "instance": "r", "generation": 1, "ports": ports, "function": reflector });
    fs::write(&config, configuration(document).to_bytes()).unwrap();
    let words = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mandate-dataplane"));
        command.arg("--config").arg(&config).arg("--control").arg(bench.path("control"));
        let (code, words) = fails({
            command.args(options);
            command
        });
        assert!(code.is_some_and(|code| code != 0), "{words}");
        words
    };
    let key = key.to_str().unwrap();
    assert!(words(&["--sync-to", LISTENS]).contains("--sync-key"));
    assert!(words(&["--sync-to", "standby:1", "--sync-key", key]).contains("names are not looked up"));
    assert!(words(&["--sync-to", LISTENS, "--sync-key", key]).contains("--sync-key names a file"));
    fs::write(key, [7; 31]).unwrap();
    assert!(words(&["--sync-to", LISTENS, "--sync-key", key]).contains("31 bytes, not 32 or more"));
    fs::write(key, [7; 32]).unwrap();
    let two = ["--sync-from", LISTENS, "--sync-key", key, "--workers", "2"];
    assert!(words(&two).contains("--sync-from with --workers 2"));
    let elsewhere = ["--sync-from", "203.0.113.1:4790", "--sync-key", key];
    assert!(words(&elsewhere).contains("state sync at 203.0.113.1:4790"));
}
