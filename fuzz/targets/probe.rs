//! What comes back to the traffic generator: its own probes' payloads, and any frame.
#![no_main]

use dataplane_control::{
    MacAddr,
    traffic::{Expectation, FlowGroup, TrafficProfile},
};
use dataplane_engine::{probe::Probe, traffic::Session};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(probe) = Probe::read(data) {
        assert_eq!(Probe::read(&probe.to_bytes()), Some(probe));
    }
    let group = |id: &str, protocol, source: &str, destination: &str| FlowGroup {
        id: id.into(),
        protocol,
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        destination_port: 53,
        first: 0,
        count: 4,
        expect: Expectation::Blocked,
    };
    let profile = TrafficProfile {
        groups: vec![
            group("4", 17, "198.51.100.1", "192.0.2.10"),
            group("6", 6, "2001:db8:1::1", "2001:db8::10"),
        ],
        frame_bytes: 100,
        rate_pps: 1000,
        duration_ms: 10,
        drain_ms: 1,
        next_hop: None,
    };
    let mut session = Session::new(profile, MacAddr([2, 0, 0, 0, 0, 1]), 0).expect("a profile");
    let mut buffer = [0; 2048];
    while let Some(length) = session.next_frame(9_000, &mut buffer) {
        // What it sent itself, changed as the input says.
        let mut frame = buffer[..length].to_vec();
        for (byte, change) in frame.iter_mut().zip(data) {
            *byte ^= change;
        }
        session.receive(9_000, &frame);
    }
    session.receive(9_000, data);
    let _ = session.report();
});
