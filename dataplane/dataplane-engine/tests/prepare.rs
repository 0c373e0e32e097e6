//! A configuration prepared on another thread and swapped in: what it keeps, and what it refuses.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // helpers outside of #[test] functions

use std::collections::BTreeMap;

use crate::common::*;
use dataplane_control::{
    Configuration,
    config::{Rule, RuleAction},
};
use dataplane_engine::{PacketFunction, Prepared, Retired, Snapshot, Verdict, build};

fn counters(function: &dyn PacketFunction) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    function.counters(&mut out);
    out
}

fn from_client(port: u16) -> Vec<u8> {
    Build::udp((ip("198.51.100.1"), port), (ip("192.0.2.10"), 53), b"?").frame()
}

fn forwards(function: &mut dyn PacketFunction, ports: std::ops::Range<u16>) -> bool {
    ports.map(|p| function.process(0, 0, &mut from_client(p))).all(|v| matches!(v, Verdict::Forward { .. }))
}

/// The same, each answered: then a connection is not given up for another.
fn exchanges(function: &mut dyn PacketFunction, ports: std::ops::Range<u16>) -> bool {
    ports.into_iter().all(|port| {
        let mut answer = Build::udp((ip("192.0.2.10"), 53), (ip("198.51.100.1"), port), b"!").frame();
        forwards(function, port..port + 1)
            && matches!(function.process(0, 1, &mut answer), Verdict::Forward { .. })
    })
}

fn rules(ids: &[&str]) -> Vec<Rule> {
    ids.iter().map(|id| rule(id, RuleAction::Allow, Some(17), None, Some("53"))).collect()
}

fn dns(numbers: &[u16], most: u32) -> Configuration {
    let backends = numbers.iter().map(|n| backend(*n, 1)).collect();
    balancer(vec![vip("dns", "192.0.2.10", 17, 53)], backends, most)
}

/// Prepares where packets do not wait, while the function goes on.
fn prepare_elsewhere(function: &dyn PacketFunction, configuration: Configuration) -> Prepared {
    let basis = function.basis();
    std::thread::spawn(move || basis.prepare(&configuration)).join().unwrap().unwrap()
}

#[test]
fn all_of_it_may_change_threads() {
    fn is_send<T: Send + 'static>() {}
    is_send::<dataplane_engine::Basis>();
    is_send::<Prepared>();
    is_send::<Retired>();
    is_send::<Snapshot>();
}

#[test]
fn what_happens_during_a_preparation_is_kept() {
    let mut fw = build(&firewall(rules(&["a"]), 10)).unwrap();
    assert!(forwards(&mut *fw, 1..3));
    let prepared = prepare_elsewhere(&*fw, firewall(rules(&["b", "a"]), 10));
    assert!(forwards(&mut *fw, 1..6));
    assert_eq!((fw.connections(), counters(&*fw)["rule.a"]), (5, 7));
    let retired = fw.swap(prepared).unwrap();
    std::thread::spawn(move || drop(retired)).join().unwrap();
    // The count follows its name to another place; the new rule, now the first, starts at zero.
    let now = counters(&*fw);
    assert_eq!((fw.connections(), now["rule.a"], now["rule.b"]), (5, 7, 0));
    assert!(forwards(&mut *fw, 1..6));
    let now = counters(&*fw);
    assert_eq!((fw.connections(), now["rule.a"], now["rule.b"]), (5, 7, 5));
}

#[test]
fn a_backend_keeps_its_counts_and_another_in_its_place_does_not_get_them() {
    let mut lb = build(&dns(&[1, 2], 100)).unwrap();
    assert!(forwards(&mut *lb, 1..50));
    let prepared = prepare_elsewhere(&*lb, dns(&[3, 2], 100));
    assert!(forwards(&mut *lb, 1..50));
    let before = counters(&*lb);
    drop(lb.swap(prepared).unwrap());
    let after = counters(&*lb);
    assert!(before["backend.backend-1"] > 0 && before["backend.backend-2"] > 0);
    assert_eq!(after["backend.backend-2"], before["backend.backend-2"]);
    assert_eq!(after["backend_connections.backend-2"], before["backend_connections.backend-2"]);
    assert_eq!((after["backend.backend-3"], after.get("backend.backend-1")), (0, None));
}

#[test]
fn a_preparation_fits_one_swap_and_one_function() {
    let mut fw = build(&firewall(rules(&["a"]), 10)).unwrap();
    let mut lb = build(&dns(&[1], 10)).unwrap();
    assert!(forwards(&mut *fw, 1..3) && forwards(&mut *lb, 1..3));
    let first = fw.basis().prepare(&firewall(rules(&["b"]), 10)).unwrap();
    let second = fw.basis().prepare(&firewall(vec![], 10)).unwrap();
    drop(fw.swap(first).unwrap());
    let words = fw.swap(second).unwrap_err().to_string();
    assert!(words.contains("prepare this one again"), "{words}");
    let words = lb.swap(fw.basis().prepare(&firewall(vec![], 10)).unwrap()).unwrap_err().to_string();
    assert!(words.contains("prepared for a firewall"), "{words}");
    let [first, second] = [&[1, 2][..], &[2]].map(|numbers| lb.basis().prepare(&dns(numbers, 10)).unwrap());
    drop(lb.swap(first).unwrap());
    assert!(lb.swap(second).is_err());
    // A firewall that looks the same is another one.
    let twin = build(&firewall(rules(&["a"]), 10)).unwrap();
    assert!(fw.swap(twin.basis().prepare(&firewall(vec![], 10)).unwrap()).is_err());
    assert!(forwards(&mut *fw, 1..3) && forwards(&mut *lb, 1..3), "nothing was changed");
    assert!(counters(&*fw).contains_key("rule.b"));
    assert!(counters(&*lb).contains_key("backend.backend-1"));
}

#[test]
fn a_reflector_is_prepared_too() {
    let mut it = build(&reflector(1, &["192.0.2.10"])).unwrap();
    let answers = |it: &mut dyn PacketFunction| {
        let frame = Build::udp((ip("198.51.100.1"), 1), (ip("192.0.2.11"), 53), b"?");
        let mut frame = frame.macs(backend_mac(1), CLIENT_MAC).frame();
        matches!(it.process(0, 0, &mut frame), Verdict::Forward { .. })
    };
    let prepared = prepare_elsewhere(&*it, reflector(1, &["192.0.2.11"]));
    let late = prepare_elsewhere(&*it, reflector(1, &[]));
    assert!(!answers(&mut *it));
    drop(it.swap(prepared).unwrap());
    assert!(answers(&mut *it));
    assert!(it.swap(late).is_err());
    assert!(answers(&mut *it));
}

#[test]
fn the_table_grows_with_room_that_was_made_elsewhere() {
    let mut fw = build(&firewall(rules(&["a"]), 10)).unwrap();
    assert!(exchanges(&mut *fw, 1..11) && !exchanges(&mut *fw, 11..12));
    for (most, fits) in [(5000, 5001), (20, 20), (5000, 5001)] {
        let prepared = prepare_elsewhere(&*fw, firewall(rules(&["a"]), most));
        drop(fw.swap(prepared).unwrap());
        assert!(exchanges(&mut *fw, 1..11), "none is lost");
        assert!(exchanges(&mut *fw, 1..fits));
        assert!(!exchanges(&mut *fw, 6000..6001), "{most}");
    }
}

#[test]
fn a_snapshot_is_of_its_moment() {
    let mut fw = build(&firewall(rules(&["a"]), 10)).unwrap();
    assert!(forwards(&mut *fw, 1..4));
    let snapshot = fw.snapshot();
    fw.reconfigure(&firewall(rules(&["b"]), 10)).unwrap();
    assert!(forwards(&mut *fw, 1..9));
    let mut then = BTreeMap::new();
    snapshot.counters(&mut then);
    assert_eq!((then["rule.a"], then.get("rule.b"), snapshot.connections()), (3, None, 3));
    assert_eq!(counters(&*fw)["rule.b"], 8);
}
