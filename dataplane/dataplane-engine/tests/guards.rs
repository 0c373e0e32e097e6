//! What `firewall.tracking` and rules bring beside the table: answers to what is rejected, windows, limits, SYN cookies, eviction,
//! checksums, time-outs, fragments that do not pass.
// Helpers outside of #[test] functions; small values.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::{collections::BTreeMap, net::IpAddr};

use crate::common::{
    naive::{self, Naive, Seen},
    traffic::{Sent, any_frame},
    *,
};
use dataplane_control::{
    Configuration, Function,
    config::{
        Limit, LimitPer, Rule, RuleAction, Tracking,
        tracking::{self, BeyondHalfOpen, HalfOpen, PerSource, Rate, WhenFull},
    },
};
use dataplane_engine::{DropReason, PacketFunction, Verdict, build};
use proptest::prelude::*;

type End = (IpAddr, u16);
type Engine = Box<dyn PacketFunction>;

const OUTSIDE: u16 = 0;
const INSIDE: u16 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const FIN_ACK: u8 = 17;
const SYN_ACK: u8 = 18;

fn tracked(rules: Vec<Rule>, most: u32, tracking: Tracking) -> Configuration {
    let mut c = firewall(rules, most);
    if let Function::Firewall(f) = &mut c.function {
        f.tracking = tracking;
    }
    c.check().unwrap();
    c
}

fn all() -> Vec<Rule> {
    vec![rule("all", RuleAction::Allow, None, None, None)]
}

fn client(n: u8) -> End {
    (ip(&format!("198.51.100.{n}")), 40_000)
}

fn server() -> End {
    (ip("192.0.2.10"), 443)
}

fn client6() -> End {
    (ip("2001:db8:1::1"), 40_000)
}

fn server6() -> End {
    (ip("2001:db8::10"), 443)
}

/// A segment with numbers, a window and options.
fn segment(from: End, to: End, flags: u8, (sequence, acknowledged): (u32, u32), payload: &[u8]) -> Build {
    let mut b = Build::tcp(from, to, flags, payload);
    b.transport[4..8].copy_from_slice(&sequence.to_be_bytes());
    b.transport[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    b.transport[14..16].copy_from_slice(&1000u16.to_be_bytes());
    b
}

fn with_mss(mut b: Build, mss: u16) -> Build {
    let [high, low] = mss.to_be_bytes();
    b.transport.splice(20..20, [2, 4, high, low]);
    b.transport[12] = 0x60;
    b
}

/// The port it leaves by and its bytes, or why not.
fn send(fw: &mut Engine, at_ms: u64, port: u16, b: &Build) -> Result<(u16, Vec<u8>), DropReason> {
    let mut frame = b.frame();
    match fw.process(at_ms * 1000, port, &mut frame) {
        Verdict::Forward { port } => Ok((port, frame)),
        Verdict::Drop(reason) => Err(reason),
    }
}

/// Whether it goes to the other side, and unchanged.
fn passes(fw: &mut Engine, at_ms: u64, port: u16, b: &Build) -> bool {
    send(fw, at_ms, port, b) == Ok((1 - port, b.frame()))
}

fn counter(fw: &Engine, name: &str) -> u64 {
    let mut all = BTreeMap::new();
    fw.counters(&mut all);
    all.get(name).copied().unwrap_or(0)
}

/// A frame, read by somebody else; its checksums must be right.
fn read(frame: &[u8]) -> Naive {
    let Seen::Ip(p) = naive::read(frame) else { panic!("not valid: {frame:02x?}") };
    let octets = |a: IpAddr| match a {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let length = (p.transport.len() as u32).to_be_bytes();
    let pseudo = [&octets(p.source)[..], &octets(p.destination), &length, &[0, 0, 0, p.protocol]].concat();
    let pseudo = if p.protocol == 1 { vec![] } else { pseudo };
    assert_eq!(checksum(&[&pseudo, &p.transport]), 0, "checksum of {frame:02x?}");
    p
}

fn numbers(p: &Naive) -> (u32, u32) {
    let word = |at: usize| u32::from_be_bytes(p.transport[at..at + 4].try_into().unwrap());
    (word(4), word(8))
}

fn reject_all() -> Engine {
    let rules = vec![rule("no", RuleAction::Reject, None, None, None)];
    build(&tracked(rules, 10, Tracking::default())).unwrap()
}

/// Fields and checksums of the four answers as tshark 4.0 reads them: RST with ACK 1001 and 0, "communication administratively
/// filtered" (3, 13), "administratively prohibited" (1, 1); every checksum correct.
#[test]
fn what_is_rejected_is_answered_in_a_way_that_others_read() {
    let macs = "020000000001 020000000200";
    let reset6 = Build { tags: vec![10, 0x2014], ..segment(client6(), server6(), SYN, (u32::MAX, 0), b"") };
    let echo6 =
        Build { tags: vec![10], ..Build::icmp(client6().0, server6().0, 128, 0, &[0, 1, 0, 2, 9, 9]) };
    let (c6, s6) = ("20010db8000100000000000000000001", "20010db8000000000000000000000010");
    for (asked, golden) in [
        (
            segment(client(1), server(), SYN, (1000, 0), b""),
            "0800 45000028 00004000 40064e91 c000020a c6336401 \
             01bb9c40 00000000 000003e9 50140000 21ad0000 000000000000"
                .to_owned(),
        ),
        (
            Build::udp(client(1), server(), b"ask"),
            "0800 45c0003b 00004000 40014dc3 c000020a c6336401 030de94e 00000000 \
             4500001f 12340000 40117c5b c6336401 c000020a 9c4001bb 000ba929 61736b"
                .to_owned(),
        ),
        (
            reset6,
            format!(
                "88a8000a 81002014 86dd 60000000 00140640 {s6} {c6} \
                 01bb9c40 00000000 00000000 50140000 b6510000"
            ),
        ),
        (
            echo6,
            format!(
                "8100000a 86dd 60000000 003a3a40 {s6} {c6} 01010900 00000000 \
                 60000000 000a3a40 {c6} {s6} 80001b2b 00010002 0909"
            ),
        ),
    ] {
        let (port, frame) = send(&mut reject_all(), 0, OUTSIDE, &asked).unwrap();
        assert_eq!((port, frame), (OUTSIDE, unhex(&format!("{macs} {golden}"))));
    }
}

#[test]
fn a_rejected_segment_is_reset_by_its_numbers_and_long_packets_are_quoted_in_part() {
    // RFC 9293 §3.10.7.1: with ACK the number it acknowledges; without, all that it takes is acknowledged.
    let answer = |flags, payload: &[u8]| {
        let asked = segment(client(1), server(), flags, (1000, 77), payload);
        let (_, frame) = send(&mut reject_all(), 0, OUTSIDE, &asked).unwrap();
        let p = read(&frame);
        (p.flags, numbers(&p))
    };
    assert_eq!(answer(SYN, b"data"), (RST | ACK, (0, 1005)));
    assert_eq!(answer(SYN, b""), (RST | ACK, (0, 1001)));
    for (from, to, most) in [(client(1), server(), 576), (client6(), server6(), 1280)] {
        for length in [10, 500, 520, 521, 1185, 1186, 1400] {
            let asked = Build::udp(from, to, &vec![7; length]);
            let (_, frame) = send(&mut reject_all(), 0, OUTSIDE, &asked).unwrap();
            let p = read(&frame);
            let whole = asked.packet();
            let header = if from.0.is_ipv4() { 20 } else { 40 };
            assert_eq!(p.transport[8..], whole[..whole.len().min(most - header - 8)], "{length}");
        }
    }
}

#[test]
fn answers_are_limited() {
    let rules = vec![rule("no", RuleAction::Reject, None, None, None)];
    let answers = Some(Rate { per_second: 10, burst: 3 });
    let mut fw = build(&tracked(rules, 10, Tracking { answers, ..Tracking::default() })).unwrap();
    let mut answered = |at_ms| {
        let mut ask = || send(&mut fw, at_ms, OUTSIDE, &segment(client(1), server(), SYN, (1, 0), b""));
        let all: Vec<bool> = (0..5).map(|_| ask().is_ok()).collect();
        all.iter().filter(|a| **a).count()
    };
    assert_eq!((answered(0), answered(99), answered(100), answered(250), answered(10_000)), (3, 0, 1, 1, 3));
}

fn handshake(fw: &mut Engine, at_ms: u64, c: End, (x, y): (u32, u32)) {
    let s = server();
    assert!(passes(fw, at_ms, OUTSIDE, &segment(c, s, SYN, (x.wrapping_sub(1), 0), b"")));
    assert!(passes(fw, at_ms, INSIDE, &segment(s, c, SYN_ACK, (y.wrapping_sub(1), x), b"")));
    assert!(passes(fw, at_ms, OUTSIDE, &segment(c, s, ACK, (x, y), b"")));
}

#[test]
fn strict_tcp_keeps_out_who_does_not_know_the_numbers() {
    let (c, s) = (client(1), server());
    let strict = |most| tracked(all(), most, Tracking { strict_tcp: true, ..Tracking::default() });
    for first in [(5000, 90_000), (0, u32::MAX)] {
        let mut fw = build(&strict(10)).unwrap();
        let (x, y) = first;
        handshake(&mut fw, 0, c, first);
        for grows in [false, true] {
            if grows {
                // Whatever slot it is in.
                handshake(&mut fw, 0, client(2), (1, 1));
                fw.reconfigure(&strict(5000)).unwrap();
            }
            let far = x.wrapping_add(1 << 30);
            for (port, forged) in [
                (OUTSIDE, segment(c, s, RST, (far, 0), b"")),
                (OUTSIDE, segment(c, s, ACK, (far, y), b"evil")),
                (OUTSIDE, segment(c, s, ACK, (x, y.wrapping_add(1 << 20)), b"evil")),
                (INSIDE, segment(s, c, RST, (y.wrapping_add(2000), 0), b"")),
                (INSIDE, segment(s, c, FIN_ACK, (y.wrapping_sub(70_000), x), b"")),
            ] {
                assert_eq!(send(&mut fw, 1, port, &forged), Err(DropReason::TcpWindow), "{forged:?}");
            }
            // A number in the window, but not the next: for the other side to ask about.
            assert!(passes(&mut fw, 1, INSIDE, &segment(s, c, RST, (y.wrapping_add(9), 0), b"")));
            assert!(passes(&mut fw, 1, INSIDE, &segment(s, c, ACK, (y, x), b"still here")));
            assert!(passes(&mut fw, 1, OUTSIDE, &segment(c, s, SYN, (far, 0), b"")));
            assert!(passes(&mut fw, 1, OUTSIDE, &segment(c, s, ACK, (x, y), b"yes")));
        }
        let fragment = Build { fragment: 0x2000, ..segment(c, s, ACK, (x, y), b"twelve bytes") };
        assert_eq!(send(&mut fw, 1, OUTSIDE, &fragment), Err(DropReason::FirstFragment));
        let after = x.wrapping_add(3);
        assert!(passes(&mut fw, 2, OUTSIDE, &segment(c, s, RST, (after, 0), b"")));
        let late = segment(s, c, ACK, (y.wrapping_add(10), after), b"");
        assert_eq!(send(&mut fw, 2, INSIDE, &late), Err(DropReason::TcpReset));
    }
}

#[test]
fn one_source_holds_and_opens_so_many() {
    let limits = |connections, new_connections| Tracking {
        per_source: Some(PerSource { connections, new_connections, ipv4_prefix: 32, ipv6_prefix: 64 }),
        ..Tracking::default()
    };
    let mut fw = build(&tracked(all(), 100, limits(Some(2), None))).unwrap();
    let from = |n: u8, port| Build::udp((client(n).0, port), server(), b"?");
    assert!(passes(&mut fw, 0, OUTSIDE, &from(1, 1)) && passes(&mut fw, 10_000, OUTSIDE, &from(1, 2)));
    for at_ms in [10_000, 60_000] {
        assert_eq!(send(&mut fw, at_ms, OUTSIDE, &from(1, 3)), Err(DropReason::SourceLimit));
    }
    assert!(passes(&mut fw, 10_000, OUTSIDE, &from(2, 3)), "a rule for one changes nothing for another");
    // The first is over after a minute, found by a packet or by ageing alike.
    fw.tick(60_001_000);
    assert!(passes(&mut fw, 60_001, OUTSIDE, &from(1, 3)));
    assert_eq!(send(&mut fw, 60_001, OUTSIDE, &from(1, 4)), Err(DropReason::SourceLimit));
    // Other limits of the same sources count on; other sources count anew, and the old ones take nothing from them.
    fw.reconfigure(&tracked(all(), 5000, limits(Some(3), None))).unwrap();
    assert!(passes(&mut fw, 60_002, OUTSIDE, &from(1, 4)));
    assert_eq!(send(&mut fw, 60_002, OUTSIDE, &from(1, 5)), Err(DropReason::SourceLimit));
    let mut wide = limits(Some(1), None);
    wide.per_source = wide.per_source.map(|s| PerSource { ipv4_prefix: 24, ..s });
    fw.reconfigure(&tracked(all(), 5000, wide)).unwrap();
    assert!(passes(&mut fw, 60_003, OUTSIDE, &from(1, 5)));
    // One tick looks at 4096 places.
    (0..2).for_each(|_| fw.tick(200_000_000));
    assert_eq!(fw.connections(), 0);
    assert!(passes(&mut fw, 200_000, OUTSIDE, &from(1, 6)));
    assert_eq!(send(&mut fw, 200_000, OUTSIDE, &from(2, 6)), Err(DropReason::SourceLimit));

    let rate = Rate { per_second: 10, burst: 2 };
    let mut fw = build(&tracked(all(), 100, limits(None, Some(rate)))).unwrap();
    let opened = |fw: &mut Engine, at_ms, ports: std::ops::Range<u16>| {
        ports.filter(|p| send(fw, at_ms, OUTSIDE, &from(1, *p)).is_ok()).count()
    };
    assert_eq!((opened(&mut fw, 0, 1..9), opened(&mut fw, 350, 11..19)), (2, 2));
    assert_eq!(send(&mut fw, 350, OUTSIDE, &from(1, 20)), Err(DropReason::SourceRate));
}

#[test]
fn a_rule_decides_on_so_many_connections_in_a_time() {
    for (per, expected) in [(LimitPer::Rule, [2, 0]), (LimitPer::Source, [2, 2])] {
        let limit = Some(Limit { rate_per_second: 1, burst: 2, per });
        let rules = vec![Rule { limit, ..rule("few", RuleAction::Allow, None, None, None) }];
        let mut fw = build(&tracked(rules, 100, Tracking::default())).unwrap();
        let mut opened = |n| {
            let from = |port| Build::udp((client(n).0, port), server(), b"?");
            (1..6).filter(|port| send(&mut fw, 0, OUTSIDE, &from(*port)).is_ok()).count()
        };
        assert_eq!([opened(1), opened(2)], expected, "{per:?}");
        assert_eq!(counter(&fw, "drop.rule_rate"), 10 - expected.iter().sum::<usize>() as u64);
    }
}

fn half_open(limit: u32, beyond: BeyondHalfOpen) -> Tracking {
    Tracking { half_open: Some(HalfOpen { limit, beyond }), ..Tracking::default() }
}

#[test]
fn half_open_connections_are_counted_until_they_are_no_longer() {
    let (c, s) = (client(1), server());
    let mut fw = build(&tracked(all(), 100, half_open(2, BeyondHalfOpen::Refuse))).unwrap();
    let syn = |n| segment(client(n), s, SYN, (1, 0), b"");
    assert!(passes(&mut fw, 0, OUTSIDE, &syn(1)) && passes(&mut fw, 0, OUTSIDE, &syn(2)));
    assert_eq!(send(&mut fw, 0, OUTSIDE, &syn(3)), Err(DropReason::HalfOpen));
    assert!(passes(&mut fw, 0, OUTSIDE, &Build::udp(c, s, b"?")), "TCP only");
    assert_eq!((fw.snapshot().connections(), fw.snapshot().half_open()), (3, 2));
    // Established; refused by the server; too old.
    assert!(passes(&mut fw, 1, INSIDE, &segment(s, c, SYN_ACK, (9, 2), b"")));
    assert_eq!(send(&mut fw, 1, OUTSIDE, &syn(3)), Err(DropReason::HalfOpen), "not yet");
    assert!(passes(&mut fw, 1, OUTSIDE, &segment(c, s, ACK, (2, 10), b"")));
    assert!(passes(&mut fw, 2, OUTSIDE, &syn(3)));
    assert_eq!(send(&mut fw, 2, OUTSIDE, &syn(4)), Err(DropReason::HalfOpen));
    assert!(passes(&mut fw, 2, INSIDE, &segment(s, client(3), RST | ACK, (0, 2), b"")));
    assert!(passes(&mut fw, 3, OUTSIDE, &syn(4)));
    assert_eq!(send(&mut fw, 3, OUTSIDE, &syn(5)), Err(DropReason::HalfOpen));
    fw.tick(30_001_000);
    assert!(passes(&mut fw, 30_001, OUTSIDE, &syn(5)));
    assert_eq!(send(&mut fw, 30_001, OUTSIDE, &syn(6)), Err(DropReason::HalfOpen));
}

/// One half-open connection there is; every other SYN gets a cookie.
fn flooded() -> Engine {
    let mut fw = build(&tracked(all(), 100, half_open(1, BeyondHalfOpen::Cookie))).unwrap();
    let other = segment((ip("203.0.113.9"), 9), server(), SYN, (7, 0), b"");
    assert!(passes(&mut fw, 0, OUTSIDE, &other));
    fw
}

/// A client that connected by its cookie: (the client's next number, the cookie's next, the server's next).
fn connected(fw: &mut Engine, c: End, s: End, x: u32, y: u32) -> (u32, u32, u32) {
    let syn = with_mss(segment(c, s, SYN, (x, 0), b""), 1400);
    let (port, answer) = send(fw, 1, OUTSIDE, &syn).unwrap();
    let p = read(&answer);
    assert_eq!((port, p.flags, p.source, p.destination), (OUTSIDE, SYN_ACK, s.0, c.0));
    let (cookie, acknowledged) = numbers(&p);
    assert_eq!(
        (acknowledged, &p.transport[14..16]),
        (x.wrapping_add(1), &[0, 0][..]),
        "nothing may be sent yet"
    );
    let most = if c.0.is_ipv4() { 1460u16 } else { 1440 };
    assert_eq!(p.transport[20..], [&[2, 4][..], &most.to_be_bytes()].concat());
    assert_eq!(fw.connections(), 1, "nothing is kept");
    let (nx, nc, ny) = (x.wrapping_add(1), cookie.wrapping_add(1), y.wrapping_add(1));
    // Twice: the SYN to the server may be lost.
    for at_ms in [2, 900] {
        let (port, call) = send(fw, at_ms, OUTSIDE, &segment(c, s, ACK, (nx, nc), b"")).unwrap();
        let p = read(&call);
        assert_eq!((port, p.flags, numbers(&p), p.destination), (INSIDE, SYN, (x, 0), s.0));
        assert_eq!(p.transport[14..16], 1000u16.to_be_bytes());
        assert_eq!(p.transport[20..], [2, 4, 5, 0x78], "the size that the client told: 1400");
    }
    assert_eq!(fw.connections(), 2);
    let wrong = segment(s, c, SYN_ACK, (y, nx.wrapping_add(1)), b"");
    assert_eq!(send(fw, 901, INSIDE, &wrong), Err(DropReason::TcpState));
    let (port, window) = send(fw, 901, INSIDE, &segment(s, c, SYN_ACK, (y, nx), b"")).unwrap();
    let p = read(&window);
    assert_eq!((port, p.flags, numbers(&p), p.source), (OUTSIDE, ACK, (nc, nx), s.0));
    assert_eq!(p.transport[14..16], 1000u16.to_be_bytes(), "now it may");
    (nx, nc, ny)
}

#[test]
fn who_returns_a_cookie_is_connected() {
    for (c, s) in [(client(1), server()), (client6(), server6())] {
        for (x, y) in [(1000, 70_000), (u32::MAX, u32::MAX), (0x8000_0000, 3)] {
            let mut fw = flooded();
            let (nx, nc, ny) = connected(&mut fw, c, s, x, y);
            // Data both ways, each in its own numbers.
            let (port, frame) = send(&mut fw, 902, OUTSIDE, &segment(c, s, ACK, (nx, nc), b"GET /")).unwrap();
            let p = read(&frame);
            assert_eq!((port, numbers(&p), &p.transport[20..]), (INSIDE, (nx, ny), &b"GET /"[..]));
            let reply = segment(s, c, ACK, (ny, nx.wrapping_add(5)), b"200");
            let (port, frame) = send(&mut fw, 903, INSIDE, &reply).unwrap();
            let p = read(&frame);
            assert_eq!((port, numbers(&p)), (OUTSIDE, (nc, nx.wrapping_add(5))));
            assert_eq!(&p.transport[20..], b"200");
            // It ends as others do.
            let fin = segment(s, c, FIN_ACK, (ny.wrapping_add(3), nx.wrapping_add(5)), b"");
            let p = read(&send(&mut fw, 904, INSIDE, &fin).unwrap().1);
            assert_eq!(numbers(&p), (nc.wrapping_add(3), nx.wrapping_add(5)));
            let fin = segment(c, s, FIN_ACK, (nx.wrapping_add(5), nc.wrapping_add(4)), b"");
            let p = read(&send(&mut fw, 905, OUTSIDE, &fin).unwrap().1);
            assert_eq!(numbers(&p), (nx.wrapping_add(5), ny.wrapping_add(4)));
            fw.tick(40_000_000);
            assert_eq!(fw.connections(), 0);
            assert_eq!((counter(&fw, "reply.syn_cookie"), counter(&fw, "connections.by_cookie")), (1, 1));
        }
    }
}

#[test]
fn a_cookie_outlives_one_change_of_the_secret() {
    let (c, s) = (client(1), server());
    let returned = |changes: u64| {
        let mut fw = flooded();
        let (_, answer) = send(&mut fw, 1, OUTSIDE, &segment(c, s, SYN, (50, 0), b"")).unwrap();
        let (cookie, _) = numbers(&read(&answer));
        (0..changes).for_each(|n| fw.reseed(n));
        let (_, again) = send(&mut fw, 1, OUTSIDE, &segment(c, s, SYN, (50, 0), b"")).unwrap();
        assert_eq!(numbers(&read(&again)).0 == cookie, changes == 0, "made with the newest");
        send(&mut fw, 2, OUTSIDE, &segment(c, s, ACK, (51, cookie.wrapping_add(1)), b""))
            .map(|(port, _)| port)
    };
    assert_eq!([0, 1, 2].map(returned), [Ok(INSIDE), Ok(INSIDE), Err(DropReason::TcpNotSyn)]);
}

#[test]
fn a_server_that_speaks_first_is_acknowledged_when_it_asks_again() {
    let (c, s) = (client(1), server());
    let mut fw = flooded();
    let (nx, nc, ny) = connected(&mut fw, c, s, 50, 60);
    let (port, frame) = send(&mut fw, 1900, INSIDE, &segment(s, c, SYN_ACK, (60, nx), b"")).unwrap();
    let p = read(&frame);
    assert_eq!((port, p.flags, numbers(&p), p.source), (INSIDE, ACK, (nx, ny), c.0));
    let p = read(&send(&mut fw, 1901, INSIDE, &segment(s, c, ACK, (ny, nx), b"220 hello")).unwrap().1);
    assert_eq!(numbers(&p), (nc, nx));
}

#[test]
fn a_server_that_refuses_resets_what_the_client_took_for_a_connection() {
    let (c, s) = (client(1), server());
    let mut fw = flooded();
    let syn = segment(c, s, SYN, (50, 0), b"");
    let (cookie, _) = numbers(&read(&send(&mut fw, 1, OUTSIDE, &syn).unwrap().1));
    assert!(send(&mut fw, 2, OUTSIDE, &segment(c, s, ACK, (51, cookie.wrapping_add(1)), b"")).is_ok());
    let forged = segment(s, c, RST | ACK, (0, 52), b"");
    assert_eq!(send(&mut fw, 3, INSIDE, &forged), Err(DropReason::TcpState));
    let (port, frame) = send(&mut fw, 3, INSIDE, &segment(s, c, RST | ACK, (0, 51), b"")).unwrap();
    let p = read(&frame);
    assert_eq!((port, p.flags, numbers(&p).0), (OUTSIDE, RST, cookie.wrapping_add(1)));
}

#[test]
fn a_flood_neither_opens_nor_disturbs_anything() {
    let (c, s) = (client(1), server());
    let mut fw = build(&tracked(all(), 100, half_open(5, BeyondHalfOpen::Cookie))).unwrap();
    handshake(&mut fw, 0, c, (10, 20));
    for n in 0..2000u16 {
        let source = (ip(&format!("203.0.113.{}", n % 250 + 1)), 1 + n);
        assert!(send(&mut fw, 1, OUTSIDE, &segment(source, s, SYN, (u32::from(n), 0), b"")).is_ok());
        // A guess at a cookie.
        let guess = segment(source, s, ACK, (u32::from(n) + 1, u32::from(n) * 7919), b"");
        let refused = send(&mut fw, 1, OUTSIDE, &guess);
        assert!(n < 5 || refused == Err(DropReason::TcpNotSyn), "{n}: {refused:?}");
    }
    assert_eq!(fw.connections(), 6);
    assert!(passes(&mut fw, 2, OUTSIDE, &segment(c, s, ACK, (10, 20), b"as ever")));
    // What the rules do not allow gets no cookie.
    assert_eq!(send(&mut fw, 2, INSIDE, &segment(s, c, SYN, (1, 0), b"")), Err(DropReason::TcpState));
    let other = segment(s, (ip("198.51.100.77"), 5), SYN, (1, 0), b"");
    assert_eq!(send(&mut fw, 2, INSIDE, &other), Err(DropReason::NoRule));
}

#[test]
fn a_full_table_evicts_what_is_not_established_and_nothing_else() {
    let evict = Tracking { when_full: WhenFull::Evict, ..Tracking::default() };
    let s = server();
    let mut fw = build(&tracked(all(), 20, evict)).unwrap();
    for n in 1..=10 {
        handshake(&mut fw, 0, client(n), (10, 20));
    }
    for n in 0..500u16 {
        let source = (ip("203.0.113.7"), 1000 + n);
        assert!(passes(&mut fw, 1, OUTSIDE, &segment(source, s, SYN, (1, 0), b"")), "{n}");
    }
    for n in 1..=10 {
        assert!(passes(&mut fw, 2, OUTSIDE, &segment(client(n), s, ACK, (10, 20), b"x")), "{n}");
    }
    assert_eq!((fw.connections(), counter(&fw, "connections.evicted")), (20, 490));
    // Nobody gives way where all are established.
    let mut fw =
        build(&tracked(all(), 10, Tracking { when_full: WhenFull::Evict, ..Tracking::default() })).unwrap();
    for n in 1..=10 {
        handshake(&mut fw, 0, client(n), (10, 20));
    }
    let one_more = segment(client(11), s, SYN, (1, 0), b"");
    assert_eq!(send(&mut fw, 1, OUTSIDE, &one_more), Err(DropReason::TableFull));
}

#[test]
fn transport_checksums_are_verified_where_it_says_so() {
    for verify_checksums in [false, true] {
        let tracking = Tracking { verify_checksums, ..Tracking::default() };
        let mut fw = build(&tracked(all(), 10, tracking)).unwrap();
        for good in [
            segment(client(1), server(), SYN, (1, 0), b""),
            Build::udp(client6(), server6(), b"odd"),
            Build::icmp(client(1).0, server().0, 8, 0, &[0, 1, 0, 2]),
        ] {
            let at = good.checksum_at.unwrap();
            let mut bad = Build { checksum_at: None, ..good.clone() };
            bad.transport[at] = 0x55;
            let got = send(&mut fw, 0, OUTSIDE, &bad).map(|_| ());
            assert_eq!(got, if verify_checksums { Err(DropReason::TransportChecksum) } else { Ok(()) });
            assert!(passes(&mut fw, 0, OUTSIDE, &good));
        }
    }
}

/// Whatever came before it and lives longer.
#[test]
fn what_is_over_is_forgotten_at_its_time() {
    let timeouts = tracking::Timeouts {
        udp_one_way_ms: Some(30_000),
        icmp_ms: Some(500),
        ..tracking::Timeouts::default()
    };
    let mut fw = build(&tracked(all(), 10, Tracking { timeouts, ..Tracking::default() })).unwrap();
    fw.process(0, OUTSIDE, &mut Build::udp(client(1), server(), b"?").frame());
    fw.process(0, OUTSIDE, &mut Build::icmp(client(1).0, server().0, 8, 0, &[0, 1, 0, 2]).frame());
    assert_eq!(fw.connections(), 2);
    fw.tick(520_000);
    assert_eq!(fw.connections(), 1);
}

/// What, which frames from which port, and how long it lives then, ms.
type Timed = (&'static str, Vec<(u16, Build)>, u64);

#[test]
fn time_outs_are_those_of_the_state() {
    let timeouts = tracking::Timeouts {
        tcp_handshake_ms: Some(2000),
        tcp_half_closed_ms: Some(4000),
        tcp_closing_ms: Some(1000),
        udp_one_way_ms: Some(3000),
        udp_both_ways_ms: Some(20_000),
        icmp_ms: Some(500),
    };
    let (c, s) = (client(1), server());
    let udp = (Build::udp(c, s, b"?"), Build::udp(s, c, b"!"));
    let tcp = |flags| segment(c, s, flags, (10, 20), b"");
    let back = |flags| segment(s, c, flags, (20, 11), b"");
    let echo = Build::icmp(c.0, s.0, 8, 0, &[0, 1, 0, 2]);
    let cases: [Timed; 6] = [
        ("UDP one way", vec![(OUTSIDE, udp.0.clone()), (OUTSIDE, udp.0.clone())], 3000),
        ("UDP both ways", vec![(OUTSIDE, udp.0), (INSIDE, udp.1)], 20_000),
        ("echo", vec![(OUTSIDE, echo)], 500),
        ("handshake", vec![(OUTSIDE, tcp(SYN)), (INSIDE, back(SYN_ACK))], 2000),
        ("half closed", vec![(OUTSIDE, tcp(SYN)), (INSIDE, back(SYN_ACK)), (OUTSIDE, tcp(FIN_ACK))], 4000),
        (
            "closing",
            vec![
                (OUTSIDE, tcp(SYN)),
                (INSIDE, back(SYN_ACK)),
                (OUTSIDE, tcp(FIN_ACK)),
                (INSIDE, back(FIN_ACK)),
            ],
            1000,
        ),
    ];
    for (what, frames, lifetime_ms) in cases {
        let tracking = Tracking { timeouts, ..Tracking::default() };
        let mut fw = build(&tracked(all(), 10, tracking)).unwrap();
        for (port, b) in &frames {
            // In a burst of one: the way of known connections.
            let mut verdicts = [Verdict::Drop(DropReason::Untracked)];
            fw.burst(7000, *port, &mut [b.frame()], &mut verdicts);
            assert!(matches!(verdicts, [Verdict::Forward { .. }]), "{what}");
        }
        fw.tick((7 + lifetime_ms) * 1000);
        assert_eq!(fw.connections(), 1, "{what}");
        // An established one is looked at every 16 ms.
        fw.tick((8 + 16 + lifetime_ms) * 1000);
        assert_eq!(fw.connections(), 0, "{what}");
    }
}

#[test]
fn fragments_pass_or_not_as_it_says() {
    let whole = Build::udp(client(1), server(), &[7; 56]);
    let piece = |from: usize, to: usize, word: u16| Build {
        transport: whole.transport[from..to].to_vec(),
        checksum_at: None,
        fragment: word,
        ..whole.clone()
    };
    let (first, last) = (piece(0, 32, 0x2000), piece(32, 64, 4));
    let drop = Tracking { fragments: tracking::Fragments::Drop, ..Tracking::default() };
    let mut fw = build(&tracked(all(), 10, drop.clone())).unwrap();
    assert_eq!(send(&mut fw, 0, OUTSIDE, &first), Err(DropReason::FirstFragment));
    assert_eq!(send(&mut fw, 0, OUTSIDE, &last), Err(DropReason::Fragment));
    fw.reconfigure(&tracked(all(), 10, Tracking::default())).unwrap();
    assert_eq!(send(&mut fw, 0, OUTSIDE, &last), Err(DropReason::FragmentEarly));
    assert!(passes(&mut fw, 0, OUTSIDE, &first) && passes(&mut fw, 0, OUTSIDE, &last));
    assert_eq!(counter(&fw, "pass.fragment"), 2);
    // Half a datagram, and another configuration: what allowed it may be gone.
    assert!(passes(&mut fw, 0, OUTSIDE, &first));
    fw.reconfigure(&tracked(all(), 10, Tracking::default())).unwrap();
    assert_eq!(send(&mut fw, 0, OUTSIDE, &last), Err(DropReason::FragmentEarly));
    // The rest of what a rule denies has nothing to share.
    let mut fw = build(&tracked(vec![], 10, Tracking::default())).unwrap();
    assert_eq!(send(&mut fw, 0, OUTSIDE, &first), Err(DropReason::NoRule));
    assert_eq!(send(&mut fw, 0, OUTSIDE, &last), Err(DropReason::FragmentEarly));
    fw.reconfigure(&tracked(all(), 10, drop)).unwrap();
    assert_eq!(send(&mut fw, 0, OUTSIDE, &first), Err(DropReason::FirstFragment));
}

fn everything() -> Tracking {
    Tracking {
        per_source: Some(PerSource {
            connections: Some(20),
            new_connections: Some(Rate { per_second: 100_000, burst: 100 }),
            ipv4_prefix: 32,
            ipv6_prefix: 64,
        }),
        strict_tcp: true,
        when_full: WhenFull::Evict,
        answers: Some(Rate { per_second: 1_000_000, burst: 1000 }),
        ..half_open(2, BeyondHalfOpen::Cookie)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// With all of it on: whatever comes, what leaves is valid, and what goes back is for who sent it.
    #[test]
    fn whatever_comes_what_leaves_is_valid(
        frames in proptest::collection::vec(any_frame(), 1..200),
        reject: bool,
        flip in any::<u16>(),
    ) {
        let mut rules = all();
        if reject {
            rules.insert(0, rule("no", RuleAction::Reject, None, Some("192.0.2.10/32"), None));
            rules.push(Rule { from: "inside".into(), ..rule("back", RuleAction::Reject, None, None, None) });
        }
        let mut fw = build(&tracked(rules, 24, everything())).unwrap();
        let mut returned = vec![];
        for (now, sent) in (0u64..).step_by(1000).zip(&frames) {
            let mut all = vec![sent.clone()];
            all.append(&mut returned);
            for Sent { far, frame } in all {
                let mut bytes = frame.clone();
                let Verdict::Forward { port } = fw.process(now, u16::from(far), &mut bytes) else { continue };
                if port == u16::from(far) {
                    let p = read(&bytes);
                    prop_assert_eq!((&bytes[..6], &bytes[6..12]), (&frame[6..12], &frame[..6]));
                    // Acknowledge cookies, most of them as they are.
                    if p.protocol == 6 && p.flags == SYN_ACK && port == OUTSIDE {
                        let (cookie, next) = numbers(&p);
                        let cookie = cookie.wrapping_add(1 + u32::from(flip % 7 == 0));
                        let (c, s) = ((p.destination, p.destination_port), (p.source, p.source_port));
                        let ack = segment(c, s, ACK, (next, cookie), b"");
                        let answer = segment(s, c, [SYN_ACK, RST | ACK][usize::from(flip % 5 == 0)], (99, next), b"");
                        let data = segment(c, s, ACK, (next, cookie), b"data");
                        let tags = |b: Build| Build {
                            tags: [p.vlan.0, p.vlan.1].into_iter().filter(|v| *v != 0).collect(), ..b
                        }.frame();
                        returned.push(Sent { far: false, frame: tags(ack) });
                        returned.push(Sent { far: true, frame: tags(answer) });
                        returned.push(Sent { far: false, frame: tags(data) });
                    }
                } else if bytes != frame && matches!(naive::read(&frame), Seen::Ip(_)) {
                    // Translated: what was right stays right.
                    let p = match naive::read(&bytes) { Seen::Ip(p) => p, other => panic!("{other:?}") };
                    prop_assert_eq!(p.protocol, 6);
                }
            }
        }
        // Nothing is left of what was counted.
        fw.tick(1_000_000_000);
        prop_assert_eq!(fw.connections(), 0);
        for n in 1..=2 {
            let syn = segment((ip("203.0.113.5"), n), (ip("203.0.113.77"), 80), SYN, (1, 0), b"");
            prop_assert!(passes(&mut fw, 1_000_001, OUTSIDE, &syn), "half-open connections are left");
        }
    }
}
