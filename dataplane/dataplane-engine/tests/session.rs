//! The generator alone: what it does when nobody answers, when it is late, and what it refuses.
// Helpers outside of #[test] functions; small values.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use crate::common::{
    naive::{self, Seen},
    *,
};
use dataplane_control::traffic::{Expectation, FlowGroup, TrafficProfile};
use dataplane_engine::{
    build,
    traffic::{LATE_US, Session},
};

fn group(protocol: u8, v4: bool, expect: Expectation) -> FlowGroup {
    let (source, destination) =
        if v4 { ("198.51.100.1", "192.0.2.10") } else { ("2001:db8:1::1", "2001:db8::10") };
    FlowGroup {
        id: "g".into(),
        protocol,
        source: ip(source),
        destination: ip(destination),
        destination_port: 443,
        first: 0,
        count: 10,
        expect,
    }
}

fn balanced() -> Expectation {
    Expectation::Balanced { backends: vec![backend(7, 1)], table_size: 251 }
}

fn profile(groups: Vec<FlowGroup>) -> TrafficProfile {
    TrafficProfile {
        groups,
        frame_bytes: 60,
        rate_pps: 1000,
        duration_ms: 1000,
        drain_ms: 10,
        next_hop: None,
    }
}

/// All frames due at a time.
fn due(session: &mut Session, now_us: u64) -> Vec<Vec<u8>> {
    let mut buffer = [0; 1600];
    std::iter::from_fn(|| session.next_frame(now_us, &mut buffer).map(|n| buffer[..n].to_vec()))
        .take(5000)
        .collect()
}

/// Answers resolution (and opening) directly with a reflector until the session sends probes; when it does.
fn started(session: &mut Session) -> u64 {
    let mut end = build(&reflector(7, &["192.0.2.10", "2001:db8::10"])).unwrap();
    for now in (0..1_000_000).step_by(100) {
        for mut frame in due(session, now) {
            if session.report().tx_frames > 0 {
                return now;
            }
            if let dataplane_engine::Verdict::Forward { .. } = end.process(now, 0, &mut frame) {
                session.receive(now, &frame);
            }
        }
    }
    panic!("never began");
}

#[test]
fn it_asks_for_the_destination_a_bounded_number_of_times() {
    for (v4, ethertype) in [(true, [8, 6]), (false, [0x86, 0xdd])] {
        let mut session = Session::new(profile(vec![group(17, v4, balanced())]), CLIENT_MAC, 0).unwrap();
        let mut asked = 0;
        let mut now = 0;
        while !session.finished(now) {
            for frame in due(&mut session, now) {
                assert_eq!(frame[12..14], ethertype);
                match naive::read(&frame) {
                    Seen::Arp(p) => assert_eq!(naive::arp(&p).unwrap().3.to_string(), "192.0.2.10"),
                    Seen::Ip(p) => assert_eq!(p.discovery().unwrap().to_string(), "2001:db8::10"),
                    Seen::Bad => panic!("not a valid frame: {frame:02x?}"),
                }
                asked += 1;
            }
            now += 1000;
            assert!(now < 10_000_000, "never ends");
        }
        assert_eq!(asked, 30);
        let report = session.report();
        assert_eq!((report.loss_ppm, report.groups["g"].flows, report.neighbours.len()), (1_000_000, 0, 0));
    }
}

#[test]
fn a_late_generator_skips_and_says_so() {
    let mut session = Session::new(profile(vec![group(17, true, balanced())]), CLIENT_MAC, 0).unwrap();
    let start = started(&mut session);
    // Half a second of sleep: what is more than LATE_US late is gone, the rest goes out at once.
    let burst = due(&mut session, start + 500_000).len() as u64;
    assert_eq!(burst, LATE_US / 1000 + 1);
    assert_eq!(session.report().shortfall_frames, 500 - burst);
    let rest: usize = (501..=1100).map(|ms| due(&mut session, start + ms * 1000).len()).sum();
    assert_eq!(rest, 499);
    let report = session.report();
    assert_eq!(report.tx_frames + report.shortfall_frames, 1000);
    assert!(report.elapsed_us <= 1_000_000, "never stretched: {}", report.elapsed_us);
}

#[test]
fn frames_have_the_size_asked_for_or_what_the_probe_needs() {
    for (protocol, v4, asked, got) in
        [(17, true, 60, 74), (17, false, 0, 94), (6, true, 60, 86), (6, false, 1514, 1514)]
    {
        let groups = vec![group(protocol, v4, balanced())];
        let mut session =
            Session::new(TrafficProfile { frame_bytes: asked, ..profile(groups) }, CLIENT_MAC, 0).unwrap();
        let start = started(&mut session);
        let frames = due(&mut session, start + 3000);
        assert!(!frames.is_empty());
        for frame in frames {
            assert_eq!(frame.len(), got);
            assert!(naive::read(&frame) != Seen::Bad);
        }
    }
}

#[test]
fn a_blocked_tcp_flow_sends_nothing_but_syn_and_any_answer_counts() {
    let mut session =
        Session::new(profile(vec![group(6, true, Expectation::Blocked)]), CLIENT_MAC, 0).unwrap();
    let start = started_blocked(&mut session);
    let first = due(&mut session, start);
    let frames = [first, due(&mut session, start + 5000)].concat();
    assert_eq!(frames.len(), 6);
    for frame in &frames {
        let Seen::Ip(p) = naive::read(frame) else { panic!("not IP") };
        assert_eq!(p.flags, 2);
    }
    // A refusal by the other end shows that the SYN got through.
    let Seen::Ip(p) = naive::read(&frames[0]) else { panic!("not IP") };
    let sequence = u32::from_be_bytes(p.transport[4..8].try_into().unwrap());
    let (s, d) = ((p.source, p.source_port), (p.destination, p.destination_port));
    let mut refused = Build::tcp(d, s, 0x14, &[]).macs(CLIENT_MAC, backend_mac(7));
    refused.transport[8..12].copy_from_slice(&(sequence + 1).to_be_bytes());
    session.receive(start + 5000, &refused.frame());
    session.receive(start + 5001, &refused.frame());
    let got = &session.report().groups["g"];
    assert_eq!((got.arrived, got.rx_frames), (1, 1));
}

fn started_blocked(session: &mut Session) -> u64 {
    let mut end = build(&reflector(7, &["192.0.2.10"])).unwrap();
    let mut frame = due(session, 0).remove(0);
    assert!(matches!(end.process(0, 0, &mut frame), dataplane_engine::Verdict::Forward { .. }));
    session.receive(0, &frame);
    0
}

#[test]
fn a_profile_that_cannot_be_is_refused_with_its_field() {
    let of = |change: fn(&mut TrafficProfile)| {
        let mut p = profile(vec![group(6, true, balanced())]);
        change(&mut p);
        Session::new(p, CLIENT_MAC, 0).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(of(|_| ()), "");
    assert!(of(|p| p.rate_pps = 0).contains("rate_pps"));
    assert!(of(|p| (p.rate_pps, p.duration_ms) = (u32::MAX, u32::MAX)).contains("rate_pps"));
    assert!(of(|p| p.frame_bytes = 10_000).contains("frame_bytes"));
    assert!(of(|p| p.groups.clear()).contains("groups"));
    assert!(of(|p| p.groups[0].protocol = 1).contains("`g`: protocol"));
    assert!(of(|p| p.groups[0].count = 0).contains("count"));
    assert!(of(|p| p.groups[0].count = 2_000_000).contains("flows"));
    assert!(of(|p| p.groups[0].source = ip("::1")).contains("IP version"));
    assert!(
        of(|p| (p.groups[0].source, p.groups[0].first) = (ip("255.255.255.255"), 16_380))
            .contains("address range")
    );
    assert!(of(|p| p.groups.push(p.groups[0].clone())).contains("twice"));
    let overlap = |p: &mut TrafficProfile| {
        // 198.51.100.0 + 16,384 flows is the next address.
        let other = FlowGroup {
            id: "h".into(),
            source: ip("198.51.100.0"),
            first: 16_384 + 9,
            ..p.groups[0].clone()
        };
        p.groups.push(other);
    };
    assert!(of(overlap).contains("share flows"));
}
