//! Nanoseconds per packet of established flows, as ratios to a parse-free touch of the same templates.
//!
//! `cargo run --release -p dataplane-engine --example cycles`. Rounds are interleaved and medians are taken, so that
//! only ratios of one run mean anything; it fails if a packet does not go where it must.

use std::{hint::black_box, time::Instant};

use dataplane_control::{
    Configuration, MacAddr,
    config::{Backend, Firewall, Function, LoadBalancer, Port, PortDriver, Rule, RuleAction, Vip},
    traffic::{Expectation, FlowGroup, TrafficProfile},
};
use dataplane_engine::{PacketFunction, Verdict, build, traffic::Session};

const ROUNDS: usize = 15;
const PACKETS: usize = 400_000;
const NEAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn configuration(function: Function) -> Configuration {
    let port = |name: &str| Port {
        name: name.into(),
        driver: PortDriver::AfPacket { interface: name.into() },
        mac: NEAR,
    };
    Configuration {
        instance: "cycles".into(),
        generation: 1,
        ports: vec![port("near"), port("far")],
        function,
    }
}

fn firewall(rules: u32) -> Configuration {
    let rule = |i: u32| Rule {
        id: format!("r{i}"),
        from: "near".into(),
        action: if i + 1 == rules { RuleAction::Allow } else { RuleAction::Deny },
        protocol: Some(17),
        destination_ports: format!("{}", if i + 1 == rules { 53 } else { 1000 + i }).parse().ok(),
        ..Rule::default()
    };
    configuration(Function::Firewall(Firewall {
        outside: "near".into(),
        inside: "far".into(),
        rules: (0..rules).map(rule).collect(),
        max_connections: 1 << 20,
        other_idle_ms: 300_000,
        ..Firewall::default()
    }))
}

fn backends() -> Vec<Backend> {
    (1..=100).map(|n| Backend::new(&format!("b{n}"), n, MacAddr([2, 0, 0, 1, 0, 1]), 1)).collect()
}

fn balancer() -> Configuration {
    let vip = |id: &str, address: &str| {
        Vip::new(id, address.parse().unwrap_or(std::net::Ipv4Addr::LOCALHOST.into()), 17, 53)
    };
    let vips = vec![vip("v4", "192.0.2.10"), vip("v6", "2001:db8::10")];
    configuration(Function::LoadBalancer(LoadBalancer {
        max_connections: 1 << 20,
        ..LoadBalancer::new("near", "far", vips, backends())
    }))
}

/// One UDP frame per flow, made by the generator.
fn templates(flows: u32, v4: bool) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
    let (source, destination) =
        if v4 { ("198.18.0.1", "192.0.2.10") } else { ("2001:db8:1::1", "2001:db8::10") };
    let group = FlowGroup {
        id: "all".into(),
        protocol: 17,
        source: source.parse()?,
        destination: destination.parse()?,
        destination_port: 53,
        first: 0,
        count: flows,
        expect: Expectation::Balanced { backends: backends(), table_size: 65_537 },
    };
    let profile = TrafficProfile {
        groups: vec![group],
        frame_bytes: 60,
        rate_pps: flows,
        duration_ms: 1000,
        drain_ms: 0,
        next_hop: None,
    };
    let mut session = Session::new(profile, MacAddr([2, 0, 0, 0, 0, 1]), 0)?;
    let mut resolver = build(&balancer())?;
    let mut buffer = [0; 256];
    let mut out = Vec::new();
    let mut now_us = 0;
    while out.len() < flows as usize && now_us < 2_000_000 {
        while let Some(length) = session.next_frame(now_us, &mut buffer) {
            let frame = &mut buffer[..length];
            if session.report().tx_frames > 0 {
                out.push(frame.to_vec());
            } else if let Verdict::Forward { port: 0, length } = resolver.process(now_us, 0, frame) {
                session.receive(now_us, &frame[..usize::from(length)]);
            }
        }
        now_us += 100;
    }
    Ok(out)
}

fn round(frames: &mut [Vec<u8>], mut one: impl FnMut(&mut [u8]) -> bool) -> f64 {
    let mut lost = 0;
    let start = Instant::now();
    let mut done = 0;
    while done < PACKETS {
        for frame in frames.iter_mut().take(PACKETS - done) {
            lost += usize::from(!one(frame));
            done += 1;
        }
    }
    let ns = start.elapsed().as_nanos() as f64 / PACKETS as f64;
    assert_eq!(lost, 0, "a packet did not pass: this run measures something else");
    ns
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:>8} {:>4} {:>10} {:>16} {:>16} {:>16}",
        "flows", "IP", "touch ns", "fw 10 rules", "fw 1000 rules", "lb 100 backends"
    );
    for (flows, v4) in [(1_000, true), (100_000, true), (1_000, false), (100_000, false)] {
        let mut frames = templates(flows, v4)?;
        let mut functions: [Box<dyn PacketFunction>; 3] =
            [build(&firewall(10))?, build(&firewall(1000))?, build(&balancer())?];
        let mut samples = vec![Vec::new(); 4];
        for n in 0..=ROUNDS {
            let touch = round(&mut frames, |f| black_box(f[0] ^ f[f.len() - 1]) != 1 || black_box(true));
            let mut ns = vec![touch];
            for function in &mut functions {
                ns.push(round(&mut frames, |f| {
                    // The balancer rewrites: address it to us again, as the next frame would be.
                    f[..6].copy_from_slice(&NEAR.0);
                    matches!(function.process(1000, 0, f), Verdict::Forward { port: 1, .. })
                }));
            }
            // The first round opens the connections.
            if n > 0 {
                samples.iter_mut().zip(ns).for_each(|(s, ns)| s.push(ns));
            }
        }
        let m: Vec<f64> = samples.into_iter().map(median).collect();
        let cell = |i: usize| format!("{:.1} ({:.1}x)", m[i], m[i] / m[0]);
        println!(
            "{flows:>8} {:>4} {:>10.1} {:>16} {:>16} {:>16}",
            if v4 { 4 } else { 6 },
            m[0],
            cell(1),
            cell(2),
            cell(3)
        );
    }
    Ok(())
}
