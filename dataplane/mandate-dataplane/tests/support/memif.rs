//! Processes in a row over shared memory: generator, firewall, reflector. Needs no privilege.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc)]

use std::thread::{self, JoinHandle};

use dataplane_control::{
    Configuration,
    traffic::{Expectation, FlowGroup, TrafficProfile, TrafficReport},
};
use serde_json::{Value, json};

use super::{Bench, Process, configuration};

pub fn port(name: &str, driver: Value, last: u8) -> Value {
    json!({ "name": name, "driver": driver, "mac": format!("02:00:00:00:00:{last:02x}") })
}

/// One end of a memif; whoever is in the middle is the server, and starts first.
pub fn memif(bench: &Bench, name: &str, server: bool) -> Value {
    json!({ "memif": { "socket": bench.path(name), "server": server } })
}

/// Generator, something, reflector.
pub struct Row {
    // Processes end before their sockets go.
    pub generator: Process,
    pub middle: Process,
    pub reflector: Process,
    pub bench: Bench,
}

impl Row {
    /// `function` makes the middle's configuration of its two ports, `outside` and `inside`.
    pub fn start(function: impl Fn(Value) -> Configuration, options: &[&str]) -> Self {
        Self::start_in(Bench::new(), function, options)
    }

    pub fn start_in(bench: Bench, function: impl Fn(Value) -> Configuration, options: &[&str]) -> Self {
        let ports = Self::ports(&bench);
        let middle = bench.start_here(&function(ports), options);
        Self::around(bench, middle)
    }

    /// Of the process in the middle.
    pub fn ports(bench: &Bench) -> Value {
        json!([
            port("outside", memif(bench, "outside", true), 2),
            port("inside", memif(bench, "inside", true), 3)
        ])
    }

    /// Around a process whose memif servers are `outside` and `inside`.
    pub fn around(bench: Bench, middle: Process) -> Self {
        let end = |instance: &str, socket: &str, last: u8, function: Value| {
            let ports = json!([port("p", memif(&bench, socket, false), last)]);
            let document =
                json!({ "instance": instance, "generation": 1, "ports": ports, "function": function });
            bench.start_here(&configuration(document), &[])
        };
        let reflector = json!({ "port": "p", "number": 1, "addresses": ["192.0.2.10"] });
        let reflector = end("reflector", "inside", 0x11, json!({ "reflector": reflector }));
        let generator = end("generator", "outside", 1, json!({ "generator": { "port": "p" } }));
        let mut row = Self { generator, middle, reflector, bench };
        row.wait_until_connected();
        row
    }

    /// The two sides of a memif find each other after their start.
    fn wait_until_connected(&mut self) {
        for _ in 0..50 {
            if self.generator.client().run(profile(1, 1_000, 20)).unwrap().rx_frames > 0 {
                return;
            }
        }
        panic!("nothing comes through: {:#?}", self.middle.status());
    }

    /// Sends in the background.
    pub fn send(&mut self, profile: TrafficProfile) -> JoinHandle<TrafficReport> {
        let mut client = self.generator.client();
        thread::spawn(move || client.run(profile).unwrap())
    }

    pub fn stop(self) {
        let Self { generator, middle, reflector, bench } = self;
        for process in [generator, middle, reflector] {
            assert_eq!(process.terminate(), Some(0));
        }
        drop(bench);
    }
}

/// A firewall that lets DNS in.
pub fn firewall(generation: u64, ports: Value) -> Configuration {
    configuration(json!({
        "instance": "firewall", "generation": generation, "ports": ports,
        "function": { "firewall": { "outside": "outside", "inside": "inside", "other_idle_ms": 500, "rules": [
            { "id": "ntp", "from": "outside", "action": "allow", "protocol": 17, "destination_ports": "123" },
            { "id": "dns", "from": "outside", "action": "allow", "protocol": 17, "destination_ports": "53" },
        ] } },
    }))
}

/// DNS from that many flows, answered by the reflector.
pub fn profile(flows: u32, rate_pps: u32, duration_ms: u32) -> TrafficProfile {
    let backends = json!([{ "id": "b", "number": 1, "mac": "02:00:00:00:00:11", "weight": 1 }]);
    let backends = serde_json::from_value(backends).unwrap();
    TrafficProfile {
        groups: vec![FlowGroup {
            id: "dns".into(),
            protocol: 17,
            source: "198.51.100.1".parse().unwrap(),
            destination: "192.0.2.10".parse().unwrap(),
            destination_port: 53,
            first: 0,
            count: flows,
            expect: Expectation::Balanced { backends, table_size: 5 },
        }],
        frame_bytes: 200,
        rate_pps,
        duration_ms,
        drain_ms: 200,
        next_hop: None,
    }
}

/// What must not come back: the same to a port that no rule names.
pub fn blocked(flows: u32, rate_pps: u32, duration_ms: u32) -> TrafficProfile {
    let mut it = profile(flows, rate_pps, duration_ms);
    let mut group = it.groups[0].clone();
    group.id = "blocked".into();
    group.destination_port = 5353;
    group.expect = Expectation::Blocked;
    it.groups.push(group);
    it
}
