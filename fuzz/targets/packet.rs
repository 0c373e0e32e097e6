//! Every header parser of the packet path: frames into the firewall, the balancer and the reflector.
//!
//! The input is frames, each after a byte for where it comes in and what becomes of its checksum, and two for its length;
//! a burst must decide as its frames one by one do, and what is dropped is left as it was.
#![no_main]

use dataplane_control::Configuration;
use dataplane_engine::{PacketFunction, Verdict, build};
use libfuzzer_sys::fuzz_target;

/// Frames of an input: those after them only cost time.
const MOST: usize = 32;
/// The input asks for the IPv4 checksum to be right.
const CHECKSUM: u8 = 2;

const PORTS: &str = r#""instance": "fuzz", "generation": 1, "ports": [
    { "name": "a", "driver": { "af_packet": { "interface": "a" } }, "mac": "02:00:00:00:02:00" },
    { "name": "b", "driver": { "af_packet": { "interface": "b" } }, "mac": "02:00:00:00:02:01" }]"#;
const FUNCTIONS: [&str; 3] = [
    r#"{ "firewall": { "outside": "a", "inside": "b", "max_connections": 64, "rules": [
        { "id": "no", "from": "a", "action": "deny", "protocol": 6, "destination_ports": "1-79" },
        { "id": "yes", "from": "a", "action": "allow" }] } }"#,
    r#"{ "load_balancer": { "client": "a", "backend": "b", "max_connections": 64, "table_size": 13,
        "vips": [
            { "id": "1", "address": "192.0.2.10", "protocol": 17, "port": 53 },
            { "id": "2", "address": "192.0.2.10", "protocol": 6, "port": 443 },
            { "id": "3", "address": "2001:db8::10", "protocol": 17, "port": 53 },
            { "id": "4", "address": "2001:db8::10", "protocol": 6, "port": 443 }],
        "backends": [{ "id": "b", "number": 1, "mac": "02:00:00:03:00:01", "weight": 1 }] } }"#,
    r#"{ "reflector": { "port": "a", "number": 1, "addresses": ["192.0.2.10", "2001:db8::10"] } }"#,
];

struct Given {
    port: u16,
    frame: Vec<u8>,
}

fn given(mut data: &[u8]) -> Vec<Given> {
    let mut all = Vec::new();
    while let [how, high, low, rest @ ..] = data
        && all.len() < MOST
    {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        let mut frame = frame.to_vec();
        if how & CHECKSUM != 0 {
            right(&mut frame);
        }
        all.push(Given { port: u16::from(how & 1), frame });
        data = rest;
    }
    all
}

/// The checksum of an untagged IPv4 header (RFC 1071).
fn right(frame: &mut [u8]) {
    let Some([8, 0, first, ..]) = frame.get(12..) else { return };
    let header = usize::from(first % 16) * 4;
    let Some(header) = frame.get_mut(14..14 + header).filter(|h| h.len() >= 20) else { return };
    header[10..12].fill(0);
    let mut sum: u32 = header.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn built(function: &str) -> Box<dyn PacketFunction> {
    let document = format!("{{ {PORTS}, \"function\": {function} }}");
    build(&Configuration::parse(document.as_bytes()).expect("a document")).expect("a function")
}

fuzz_target!(|data: &[u8]| {
    let all = given(data);
    for function in FUNCTIONS {
        let (mut single, mut burst) = (built(function), built(function));
        for run in all.chunk_by(|a, b| a.port == b.port) {
            let port = run[0].port;
            let mut frames: Vec<Vec<u8>> = run.iter().map(|g| g.frame.clone()).collect();
            let mut verdicts = vec![Verdict::Forward { port: 9 }; frames.len()];
            burst.burst(1_000_000, port, &mut frames, &mut verdicts);
            for ((given, frame), verdict) in run.iter().zip(&frames).zip(&verdicts) {
                let mut one = given.frame.clone();
                assert_eq!(single.process(1_000_000, port, &mut one), *verdict);
                assert_eq!(&one, frame);
                match verdict {
                    Verdict::Forward { port } => assert!(*port < 2),
                    Verdict::Drop(_) => assert_eq!(frame, &given.frame),
                }
            }
        }
        assert_eq!(single.connections(), burst.connections());
        single.tick(400_000_000_000);
        assert_eq!(single.connections(), 0);
    }
});
