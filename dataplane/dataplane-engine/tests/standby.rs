//! State sync: what one balancer tells of its connections, and what another makes of it.
// Helpers outside of #[test] functions; small values.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::common::*;
use dataplane_control::{Configuration, config::Mode, sync::Told};
use dataplane_engine::{PacketFunction, Verdict, build, build_with_seed, events::TELL_BATCH};

type Engine = Box<dyn PacketFunction>;

const CLIENTS: u16 = 200;

fn client(port: u16) -> (IpAddr, u16) {
    match port % 2 {
        0 => (ip("198.51.100.1"), port),
        _ => (ip("2001:db8:1::1"), port),
    }
}

fn service(of: IpAddr) -> (IpAddr, u16) {
    (if of.is_ipv4() { ip("192.0.2.10") } else { ip("2001:db8::10") }, 443)
}

fn with(numbers: &[u16], most: u32) -> Configuration {
    let vips = vec![vip("web4", "192.0.2.10", 6, 443), vip("web6", "2001:db8::10", 6, 443)];
    balancer(vips, numbers.iter().map(|n| backend(*n, 1)).collect(), most)
}

/// To the service, of this connection, in these VLANs.
fn segment(port: u16, flags: u8, tags: &[u16]) -> Vec<u8> {
    let (c, s) = (client(port), service(client(port).0));
    Build { tags: tags.to_vec(), ..Build::tcp(c, s, flags, b"").macs(LB_CLIENT_MAC, CLIENT_MAC) }.frame()
}

/// The backend that a segment goes to.
fn sent(lb: &mut Engine, now_ms: u64, port: u16, flags: u8, tags: &[u16]) -> u16 {
    let mut frame = segment(port, flags, tags);
    let verdict = lb.process(now_ms * 1000, 0, &mut frame);
    assert_eq!(verdict, Verdict::Forward { port: 1 });
    (1..=9).find(|n| backend_mac(*n).0[..] == frame[..6]).unwrap()
}

/// A handshake; the backend.
fn connect(lb: &mut Engine, now_ms: u64, port: u16, tags: &[u16]) -> u16 {
    let to = sent(lb, now_ms, port, 2, tags);
    let (c, s) = (client(port), service(client(port).0));
    let answer = Build::tcp(s, c, 0x12, b"").macs(LB_BACKEND_MAC, backend_mac(to));
    let mut answer = Build { tags: tags.to_vec(), ..answer }.frame();
    assert_eq!(lb.process(now_ms * 1000, 1, &mut answer), Verdict::Forward { port: 0 });
    assert_eq!(sent(lb, now_ms, port, 0x10, tags), to);
    to
}

fn counter(of: &Engine, name: &str) -> u64 {
    let mut all = BTreeMap::new();
    of.counters(&mut all);
    all[name]
}

/// All that is told within a round of the table that begins then.
fn told(lb: &mut Engine, from_ms: u64) -> Vec<Told> {
    let mut all = vec![];
    for now_ms in (from_ms..from_ms + 8_100).step_by(5) {
        lb.tick(now_ms * 1000);
        all.extend(lb.sync(0).unwrap().exchange(Vec::with_capacity(TELL_BATCH)));
    }
    all
}

fn active(most: u32) -> Engine {
    let mut lb = build(&with(&[1, 2, 3, 4], most)).unwrap();
    lb.sync(0).unwrap().hold(TELL_BATCH);
    lb
}

/// A backend goes, and all connections of its are given to others; then it comes back, and they stay. Who sees them for the first time would give
/// them to the backend that came back.
#[test]
fn a_standby_that_was_told_sends_connections_where_they_are() {
    let mut lb = active(1000);
    lb.reconfigure(&with(&[1, 2, 3], 1000)).unwrap();
    let tags = |port: u16| if port.is_multiple_of(3) { vec![7, 9] } else { vec![] };
    let on: Vec<u16> = (0..CLIENTS).map(|port| connect(&mut lb, 1_000, port, &tags(port))).collect();
    lb.reconfigure(&with(&[4, 3, 2, 1], 1000)).unwrap();
    // Checked again one by one.
    (0..CLIENTS)
        .for_each(|port| assert_eq!(sent(&mut lb, 2_000, port, 0x10, &tags(port)), on[usize::from(port)]));
    let all = told(&mut lb, 3_000);
    assert!(all.len() >= usize::from(CLIENTS), "{}", all.len());

    let standby = || build_with_seed(&with(&[4, 3, 2, 1], 1000), 77).unwrap();
    let moved = |lb: &mut Engine| {
        (0..CLIENTS)
            .filter(|port| sent(lb, 20_000, *port, 0x10, &tags(*port)) != on[usize::from(*port)])
            .count()
    };
    let without = moved(&mut standby());
    assert!(without > 30, "the test would show nothing: {without}");
    let mut lb = standby();
    // In pieces, in any order, twice.
    for _ in 0..2 {
        all.chunks(40).rev().for_each(|some| lb.adopt(12_000_000, 0, some));
    }
    assert_eq!(lb.connections(), u64::from(CLIENTS));
    assert!(counter(&lb, "sync.adopted") >= u64::from(CLIENTS));
    assert_eq!(counter(&lb, "sync.refused"), 0);
    assert_eq!(moved(&mut lb), 0);
    // A backend answers before its client sends: the client's MAC was told.
    let mut lb = standby();
    lb.adopt(12_000_000, 0, &all);
    let answer =
        Build::tcp(service(client(0).0), client(0), 0x18, b"x").macs(LB_BACKEND_MAC, backend_mac(on[0]));
    let mut frame = Build { tags: tags(0), ..answer }.frame();
    assert_eq!(lb.process(13_000_000, 1, &mut frame), Verdict::Forward { port: 0 });
    assert_eq!(frame[..6], CLIENT_MAC.0);
    // They are as old as they are: idle for 300 s since the last packet, not since they were told.
    let oldest_ms = u64::from(all.iter().map(|t| t.idle_ms).max().unwrap());
    lb.tick((12_000 + 300_000 - oldest_ms - 100) * 1000);
    assert_eq!(lb.connections(), u64::from(CLIENTS));
    lb.tick((12_000 + 300_100) * 1000);
    assert_eq!(lb.connections(), 1, "the one that was heard of");
}

#[test]
fn all_is_told_in_turn_and_only_what_both_sides_were_heard_of() {
    let mut lb = active(100_000);
    (0..CLIENTS).for_each(|port| assert!(connect(&mut lb, 0, port, &[]) > 0));
    (CLIENTS..2 * CLIENTS).for_each(|port| assert!(sent(&mut lb, 0, port, 2, &[]) > 0));
    let all = told(&mut lb, 10);
    let of: BTreeSet<u16> = all.iter().map(|t| t.client_port).collect();
    assert_eq!(of, (0..CLIENTS).collect(), "each at least once, nothing else");
    assert!(all.len() <= usize::from(CLIENTS) * 2);
    // Nobody takes them away: the ring is full, the walk waits, nothing is lost.
    let mut lb = active(1000);
    lb.sync(0).unwrap().hold(16);
    (0..CLIENTS).for_each(|port| assert!(connect(&mut lb, 0, port, &[]) > 0));
    (1..100).for_each(|s| lb.tick(s * 1_000_000));
    assert_eq!((counter(&lb, "sync.told"), lb.sync(0).unwrap().missed()), (16, 0));
    // Off: nothing is kept.
    let mut lb = build(&with(&[1], 100)).unwrap();
    connect(&mut lb, 0, 1, &[]);
    lb.tick(20_000_000);
    assert!(lb.sync(0).unwrap().is_empty() && lb.sync(1).is_none());
    assert_eq!(counter(&lb, "sync.told"), 0);
}

#[test]
fn what_is_told_changes_nothing_that_is_younger_or_cannot_be() {
    let mut lb = active(1000);
    let on = connect(&mut lb, 1_000, 1, &[]);
    let all = told(&mut lb, 5_000);
    let one = *all.first().unwrap();
    assert_eq!((one.backend, one.client_port, one.ends), (on, 1, 0));
    let other = if on == 1 { 2 } else { 1 };
    // Heard of here since: stays.
    let mut standby = active(1000);
    standby.adopt(20_000_000, 0, &[Told { backend: other, idle_ms: 9_000, ..one }]);
    assert_eq!(sent(&mut standby, 21_000, 1, 0x10, &[]), other);
    standby.adopt(22_000_000, 0, &[Told { idle_ms: 1_500, ..one }]);
    assert_eq!(sent(&mut standby, 22_000, 1, 0x10, &[]), other);
    assert_eq!(counter(&standby, "sync.kept"), 1);
    // Elsewhere since: goes there.
    standby.adopt(30_000_000, 0, &[Told { idle_ms: 10, ..one }]);
    assert_eq!(sent(&mut standby, 30_000, 1, 0x10, &[]), on);
    assert_eq!(standby.connections(), 1);
    // No such service, no such backend, over by now; another function of a row.
    let refused = [
        Told { service_port: 444, ..one },
        Told { backend: 77, ..one },
        Told { idle_ms: 300_001, ..one },
        Told { idle_ms: u32::MAX, ..one },
    ];
    let mut standby = active(1000);
    standby.adopt(1_000, 0, &refused);
    standby.adopt(1_000, 1, &[one]);
    assert_eq!((standby.connections(), counter(&standby, "sync.refused")), (0, 4));
    // A backend that is down gets none.
    let down = [format!("backend-{on}")].into();
    let prepared = standby.basis().prepare_health(0, &down).unwrap();
    drop(standby.swap(prepared).unwrap());
    standby.adopt(1_000, 0, &[one]);
    assert_eq!((standby.connections(), counter(&standby, "sync.refused")), (0, 5));
}

#[test]
fn a_full_table_takes_what_is_told_in_place_of_what_is_not_confirmed_only() {
    let mut lb = active(1000);
    (0..20).for_each(|port| assert!(connect(&mut lb, 0, port, &[]) > 0));
    let mut all = told(&mut lb, 10);
    all.sort_by_key(|t| t.client_port);
    all.dedup_by_key(|t| t.client_port);
    let mut standby = build(&with(&[1, 2, 3, 4], 10)).unwrap();
    let own: Vec<u16> = (100..105).map(|port| connect(&mut standby, 10_000, port, &[])).collect();
    (200..205).for_each(|port| assert!(sent(&mut standby, 10_000, port, 2, &[]) > 0));
    standby.adopt(10_000_000, 0, &all);
    assert_eq!((counter(&standby, "sync.adopted"), counter(&standby, "sync.refused")), (5, 15));
    assert_eq!(counter(&standby, "connections.evicted"), 5);
    // Its own are there: a change of backends would show it, had they been opened again.
    assert_eq!((counter(&standby, "connections.opened"), standby.connections()), (10, 10));
    let again: Vec<u16> = (100..105).map(|port| sent(&mut standby, 10_000, port, 0x10, &[])).collect();
    assert_eq!((again, counter(&standby, "connections.opened")), (own, 10));
}

/// Two that tell each other: what ended on one ends on the other, and nothing goes round for ever.
#[test]
fn what_was_told_is_told_on_only_when_it_was_heard_of() {
    let mut one = active(1000);
    let mut two = active(1000);
    (0..64).for_each(|port| assert!(connect(&mut one, 0, port, &[]) > 0));
    two.adopt(9_000_000, 0, &told(&mut one, 10));
    assert_eq!(two.connections(), 64);
    assert_eq!(told(&mut two, 9_000), []);
    for port in 0..8 {
        sent(&mut two, 18_000 + u64::from(port), port, 0x10, &[]);
    }
    let of: BTreeSet<u16> = told(&mut two, 18_010).iter().map(|t| t.client_port).collect();
    assert!(of.len() >= 6 && of.iter().all(|port| *port < 8), "{of:?}");
    // Reset by a client: the standby forgets it when the other does.
    for port in 0..64 {
        sent(&mut one, 30_000, port, 4, &[]);
    }
    let ended = told(&mut one, 30_000);
    assert!(ended.iter().all(|t| t.ends & dataplane_control::sync::RESET != 0));
    two.adopt(38_200_000, 0, &ended);
    two.tick(49_000_000);
    assert_eq!(two.connections(), 0);
    // Of what is not there the end is no news.
    two.adopt(49_000_000, 0, &ended);
    assert_eq!(two.connections(), 0);
}

#[test]
fn every_mode_takes_what_is_told() {
    for mode in [Mode::Nat, Mode::Ipip, Mode::Gue] {
        let configuration = |numbers: &[u16]| {
            let mut it = with(numbers, 1000);
            if let dataplane_control::Function::LoadBalancer(of) = &mut it.function {
                of.addresses = vec![ip("10.0.0.254"), ip("fd00::fe")];
                for (b, n) in of.backends.iter_mut().zip(numbers) {
                    b.addresses = vec![ip(&format!("10.0.0.{n}")), ip(&format!("fd00::{n}"))];
                }
                of.vips.iter_mut().for_each(|v| v.mode = mode);
            }
            it.check().unwrap();
            it
        };
        let mut lb = build(&configuration(&[1, 2])).unwrap();
        lb.sync(0).unwrap().hold(TELL_BATCH);
        let to = |lb: &mut Engine, now_ms: u64, port: u16, flags| {
            let mut frame = segment(port, flags, &[]);
            assert_eq!(lb.process(now_ms * 1000, 0, &mut frame), Verdict::Forward { port: 1 });
            frame[..6].to_vec()
        };
        let on: Vec<Vec<u8>> = (0..40).map(|port| to(&mut lb, 0, port, 2)).collect();
        for port in 0..40 {
            // By NAT the backend answers through us; out of a tunnel it may not.
            if mode == Mode::Nat {
                let n = on[usize::from(port)][5];
                let v4 = client(port).0.is_ipv4();
                let from = (ip(&if v4 { format!("10.0.0.{n}") } else { format!("fd00::{n}") }), 443);
                let answer = Build::tcp(from, client(port), 0x12, b"").macs(LB_BACKEND_MAC, backend_mac(1));
                assert_eq!(lb.process(0, 1, &mut answer.frame()), Verdict::Forward { port: 0 });
            }
            assert_eq!(to(&mut lb, 0, port, 0x10), on[usize::from(port)]);
        }
        let mut standby = build(&configuration(&[1, 2, 3])).unwrap();
        standby.adopt(9_000_000, 0, &told(&mut lb, 10));
        assert_eq!(standby.connections(), 40, "{mode:?}");
        for port in 0..40 {
            assert_eq!(to(&mut standby, 9_000, port, 0x10), on[usize::from(port)], "{mode:?}");
        }
    }
}
