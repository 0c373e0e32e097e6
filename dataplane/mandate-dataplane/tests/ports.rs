//! Ports without a network interface: capture files, vhost-user in both roles, `net_null`; and what is said when a device is
//! not there. Needs no privilege.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::{collections::BTreeMap, fs};

use dataplane_control::{
    Configuration,
    traffic::{Expectation, FlowGroup, TrafficProfile},
};
use serde_json::{Value, json};
use support::{
    Bench, configuration, fails,
    frames::{read_pcap, udp4, write_pcap},
};

const FRAMES: u16 = 500;

fn port(name: &str, driver: Value, last: u8) -> Value {
    json!({ "name": name, "driver": driver, "mac": format!("02:00:00:00:00:{last:02x}") })
}

fn firewall(instance: &str, outside: Value, inside: Value) -> Configuration {
    configuration(json!({
        "instance": instance, "generation": 1,
        "ports": [port("outside", outside, 1), port("inside", inside, 2)],
        "function": { "firewall": { "outside": "outside", "inside": "inside", "rules": [
            { "id": "dns", "from": "outside", "action": "allow", "protocol": 17, "destination_ports": "53" },
        ] } },
    }))
}

#[test]
fn a_capture_goes_through_a_firewall_into_another() {
    let bench = Bench::new();
    let (from, to) = (bench.path("in.pcap"), bench.path("out.pcap"));
    // Every third one is to another port.
    let destination = |i: u16| if i.is_multiple_of(3) { 54 } else { 53 };
    let frames: Vec<Vec<u8>> = (0..FRAMES)
        .map(|i| udp4([198, 51, 100, 7], [192, 0, 2, 10], (1024 + i, destination(i)), usize::from(i)))
        .collect();
    write_pcap(&from, &frames);
    let mut process = bench.start_here(
        &firewall(
            "captures",
            json!({ "pcap_file": { "receive": from.to_str() } }),
            json!({ "pcap_file": { "transmit": to.to_str() } }),
        ),
        &[],
    );
    let status = process.wait_for(|s| s.counters["rx_frames.outside"] == u64::from(FRAMES));
    assert_eq!(process.terminate(), Some(0));
    let passed: Vec<Vec<u8>> =
        frames.into_iter().zip(0..).filter(|(_, i)| destination(*i) == 53).map(|(f, _)| f).collect();
    assert_eq!(status.counters["tx_frames.inside"], passed.len() as u64);
    assert_eq!(read_pcap(&to), passed, "in order, byte for byte");
}

#[test]
fn zeroes_without_end_are_no_packets() {
    let bench = Bench::new();
    let null = || json!({ "null": { "frame_bytes": 128 } });
    let mut process = bench.start_here(&firewall("zeroes", null(), null()), &[]);
    let status = process.wait_for(|s| s.counters["rx_frames.outside"] > 100_000);
    assert!(status.counters["drop.ethertype"] > 100_000, "{status:?}");
    assert_eq!(status.counters["tx_frames.inside"], 0);
    assert_eq!(process.terminate(), Some(0));
}

/// A generator on one side of a vhost-user socket, a reflector on the other.
fn over_vhost_user(generator: Value, reflector: Value, guest_opens: bool) {
    let bench = Bench::new();
    let at = |mut driver: Value| {
        let options = driver.as_object_mut().unwrap().values_mut().next().unwrap();
        options["socket"] = json!(bench.path("vhost"));
        driver
    };
    let generator = configuration(json!({
        "instance": "generator", "generation": 1, "ports": [port("p", at(generator), 1)],
        "function": { "generator": { "port": "p" } },
    }));
    let reflector = configuration(json!({
        "instance": "reflector", "generation": 1, "ports": [port("p", at(reflector), 0x11)],
        "function": { "reflector": { "port": "p", "number": 1, "addresses": ["192.0.2.10"] } },
    }));
    let mut processes = BTreeMap::new();
    if guest_opens {
        // It waits for the other side before it starts.
        let waiting = bench.spawn_here(&generator, &[]);
        processes.insert("reflector", bench.start_here(&reflector, &[]));
        processes.insert("generator", waiting.started());
    } else {
        processes.insert("reflector", bench.start_here(&reflector, &[]));
        processes.insert("generator", bench.start_here(&generator, &[]));
    }
    // The rings of a vhost-user device are handed over after its start.
    let report = loop {
        let report = processes.get_mut("generator").unwrap().client().run(profile()).unwrap();
        if report.rx_frames > 0 {
            break report;
        }
    };
    assert!(report.tx_frames > 1_000, "{report:?}");
    for (name, process) in processes {
        assert_eq!(process.terminate(), Some(0), "{name}");
    }
    assert_eq!((report.rx_frames, report.loss_ppm), (report.tx_frames, 0), "{report:?}");
    assert_eq!(report.groups["dns"].arrived, 8, "{report:?}");
}

fn profile() -> TrafficProfile {
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
            count: 8,
            expect: Expectation::Balanced { backends, table_size: 5 },
        }],
        frame_bytes: 200,
        rate_pps: 5_000,
        duration_ms: 400,
        drain_ms: 100,
        next_hop: None,
    }
}

#[test]
fn a_guest_and_its_host_exchange_frames() {
    over_vhost_user(json!({ "virtio_user": {} }), json!({ "vhost": {} }), false);
}

#[test]
fn a_guest_may_open_the_socket() {
    over_vhost_user(
        json!({ "virtio_user": { "server": true } }),
        json!({ "vhost": { "server": false } }),
        true,
    );
}

#[test]
fn a_device_that_is_not_there_is_named_with_what_to_do() {
    let bench = Bench::new();
    let null = || json!({ "null": {} });
    let attempt = |driver: Value| {
        let config = bench.path("config.json");
        fs::write(&config, firewall("x", null(), driver).to_bytes()).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mandate-dataplane"));
        command.arg("--config").arg(&config).arg("--control").arg(bench.path("control"));
        let (code, words) = fails(command);
        assert_eq!(code, Some(1), "{words}");
        assert!(words.contains("`inside`"), "{words}");
        words
    };
    let words = attempt(json!({ "pci": { "address": "ffff:3b:02.1" } }));
    assert!(words.contains("ffff:3b:02.1 does not exist on this machine"), "{words}");
    let words = attempt(json!({ "virtio_user": { "socket": bench.path("nobody") } }));
    assert!(words.contains("nobody serves this vhost-user socket"), "{words}");
    for driver in ["vhost", "memif"] {
        let words = attempt(json!({ driver: { "socket": bench.path("no/socket"), "server": true } }));
        assert!(words.contains("its directory does not exist"), "{words}");
    }
    let words = attempt(json!({ "pcap_file": { "receive": bench.path("none.pcap") } }));
    assert!(words.contains("no such capture file"), "{words}");
    let words = attempt(json!({ "pcap_interface": { "interface": "no-such-if" } }));
    assert!(words.contains("`no-such-if` does not exist in this network namespace"), "{words}");
}
