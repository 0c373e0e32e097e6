//! The balancer's modes and options, case by case; what random frames say of them is in `tests/balancer.rs`.
// Helpers outside of #[test] functions; small values.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::common::{
    carry,
    naive::{self, Naive, Seen},
    *,
};
use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{Affinity, Backend, LoadBalancer, Mode, QuicIds, Vip},
};
use dataplane_engine::{DropReason, PacketFunction, Verdict, build};

const VIP4: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::10";
const CLIENT4: &str = "198.51.100.1";
const CLIENT6: &str = "2001:db8:1::1";

fn members(count: u16) -> Vec<Backend> {
    let addresses = |n| vec![ip(&format!("10.0.0.{n}")), ip(&format!("fd00::{n:x}"))];
    (1..=count).map(|n| Backend { addresses: addresses(n), ..backend(n, 1) }).collect()
}

/// TCP 443 and UDP 443 on both addresses, all in one mode.
fn services(mode: Mode) -> Vec<Vip> {
    let one = |id, address, protocol| Vip { mode, ..vip(id, address, protocol, 443) };
    vec![one("t4", VIP4, 6), one("u4", VIP4, 17), one("t6", VIP6, 6), one("u6", VIP6, 17)]
}

fn with(vips: Vec<Vip>, backends: Vec<Backend>, change: impl FnOnce(&mut LoadBalancer)) -> Configuration {
    let mut it = balancer(vips, vec![], 4096);
    if let Function::LoadBalancer(of) = &mut it.function {
        of.backends = backends;
        of.addresses = vec![ip("10.0.0.254"), ip("fd00::fe")];
        change(of);
    }
    it.check().unwrap();
    it
}

fn in_mode(mode: Mode) -> Box<dyn PacketFunction> {
    build(&with(services(mode), members(1), |_| ())).unwrap()
}

fn counter(of: &dyn PacketFunction, name: &str) -> u64 {
    let mut all = BTreeMap::new();
    of.counters(&mut all);
    all.get(name).copied().unwrap_or(0)
}

/// What leaves, and by which port.
fn sent(
    lb: &mut dyn PacketFunction,
    now_ms: u64,
    port: u16,
    frame: Vec<u8>,
) -> Result<(u16, Vec<u8>), DropReason> {
    let mut frame = frame;
    match lb.process(now_ms * 1000, port, &mut frame) {
        Verdict::Forward { port } => Ok((port, frame)),
        Verdict::Drop(reason) => Err(reason),
    }
}

fn from_client(build: Build) -> Vec<u8> {
    build.macs(LB_CLIENT_MAC, CLIENT_MAC).frame()
}

fn from_backend(build: Build) -> Vec<u8> {
    build.macs(LB_BACKEND_MAC, backend_mac(1)).frame()
}

fn seen(frame: &[u8]) -> Naive {
    match naive::read(frame) {
        Seen::Ip(p) => p,
        other => panic!("{other:?}"),
    }
}

/// Client and service of both IP versions.
fn both() -> [((IpAddr, u16), (IpAddr, u16)); 2] {
    [(CLIENT4, VIP4), (CLIENT6, VIP6)].map(|(c, s)| ((ip(c), 5000), (ip(s), 443)))
}

#[test]
fn nat_translates_to_the_backend_and_back_and_every_checksum_stays_right() {
    for (client, service) in both() {
        for tcp in [true, false] {
            let mut lb = in_mode(Mode::Nat);
            let backend = (if client.0.is_ipv4() { ip("10.0.0.1") } else { ip("fd00::1") }, 443);
            let segment = |s, d, flags| match tcp {
                true => Build::tcp(s, d, flags, b"data"),
                false => Build::udp(s, d, b"data"),
            };
            let (port, out) = sent(&mut *lb, 0, 0, from_client(segment(client, service, 2))).unwrap();
            let expected =
                Build { hops: 63, ..segment(client, backend, 2) }.macs(backend_mac(1), LB_BACKEND_MAC);
            assert_eq!((port, out), (1, expected.frame()));
            let (port, out) = sent(&mut *lb, 0, 1, from_backend(segment(backend, client, 0x12))).unwrap();
            let expected =
                Build { hops: 63, ..segment(service, client, 0x12) }.macs(CLIENT_MAC, LB_CLIENT_MAC);
            assert_eq!((port, out), (0, expected.frame()));
            // From another backend, or as the service itself: of no connection.
            let other = if client.0.is_ipv4() { ip("10.0.0.2") } else { ip("fd00::2") };
            for source in [(other, 443), service] {
                let frame = from_backend(segment(source, client, 0x12));
                assert_eq!(sent(&mut *lb, 0, 1, frame), Err(DropReason::Untracked));
            }
        }
    }
}

#[test]
fn nat_leaves_a_datagram_without_checksum_without() {
    let mut lb = in_mode(Mode::Nat);
    let (client, service) = both()[0];
    let none = |b: Build| Build { checksum_at: None, ..b };
    let (_, out) = sent(&mut *lb, 0, 0, from_client(none(Build::udp(client, service, b"?")))).unwrap();
    assert_eq!(seen(&out).transport[6..8], [0, 0]);
    // A sum that comes to zero is written as all ones: of all payloads of two bytes one does that.
    let zero = (0..=u16::MAX).find(|n| {
        let b = Build::udp(client, (ip("10.0.0.1"), 443), &n.to_be_bytes());
        seen(&b.frame()).transport[6..8] == [0xff, 0xff]
    });
    let (_, out) =
        sent(&mut *lb, 0, 0, from_client(Build::udp(client, service, &zero.unwrap().to_be_bytes()))).unwrap();
    assert_eq!(seen(&out).transport[6..8], [0xff, 0xff]);
}

#[test]
fn a_nat_connection_uses_the_backend_port() {
    let vips = vec![Vip { backend_port: Some(8080), ..services(Mode::Nat).remove(0) }];
    let mut lb = build(&with(vips, members(1), |_| ())).unwrap();
    let (client, service) = both()[0];
    let (_, out) = sent(&mut *lb, 0, 0, from_client(Build::tcp(client, service, 2, b""))).unwrap();
    assert_eq!(seen(&out).destination_port, 8080);
    let reply = |port| from_backend(Build::tcp((ip("10.0.0.1"), port), client, 0x12, b""));
    assert_eq!(sent(&mut *lb, 0, 1, reply(443)), Err(DropReason::Untracked));
    let (_, out) = sent(&mut *lb, 0, 1, reply(8080)).unwrap();
    assert_eq!((seen(&out).source, seen(&out).source_port), service);
}

/// An ICMP error of `router` to whom `about` came from.
fn error(router: IpAddr, about: &Build, kind: u8, code: u8, keep: usize) -> Build {
    let mut quoted = about.packet();
    quoted.truncate(keep);
    Build::icmp(router, about.source, kind, code, &[&[0, 0, 5, 0xdc][..], &quoted].concat())
}

#[test]
fn icmp_errors_are_translated_inside_and_out() {
    for (client, service) in both() {
        let v4 = client.0.is_ipv4();
        let backend = (if v4 { ip("10.0.0.1") } else { ip("fd00::1") }, 443);
        let router = if v4 { ip("10.9.9.9") } else { ip("fd99::9") };
        let header = if v4 { 20 } else { 40 };
        let (kind, code) = if v4 { (3, 1) } else { (1, 0) };
        // Whole, and so short that the quoted checksum is missing.
        for keep in [1000, header + 8] {
            let mut lb = in_mode(Mode::Nat);
            sent(&mut *lb, 0, 0, from_client(Build::tcp(client, service, 2, b"data"))).unwrap();
            let (to_backend, to_service) =
                (Build::tcp(client, backend, 2, b"data"), Build::tcp(client, service, 2, b"data"));
            let (port, out) =
                sent(&mut *lb, 0, 1, from_backend(error(router, &to_backend, kind, code, keep))).unwrap();
            let expected = Build { hops: 63, ..error(service.0, &to_service, kind, code, keep) };
            assert_eq!((port, out), (0, expected.macs(CLIENT_MAC, LB_CLIENT_MAC).frame()));
            // The other way: about a reply.
            let (reply, as_sent) =
                (Build::tcp(service, client, 0x12, b"data"), Build::tcp(backend, client, 0x12, b"data"));
            let (port, out) =
                sent(&mut *lb, 0, 0, from_client(error(router, &reply, kind, code, keep))).unwrap();
            let expected = Build { hops: 63, ..error(router, &as_sent, kind, code, keep) };
            assert_eq!((port, out), (1, expected.macs(backend_mac(1), LB_BACKEND_MAC).frame()));
            // About nothing that was sent.
            let stray = error(router, &Build::tcp((client.0, 5001), backend, 2, b""), kind, code, keep);
            assert_eq!(sent(&mut *lb, 0, 1, from_backend(stray)), Err(DropReason::IcmpUnrelated));
        }
    }
}

#[test]
fn what_does_not_fit_is_answered_with_the_mtu_that_does() {
    for (mode, room) in [(Mode::Nat, [1500, 1500]), (Mode::Ipip, [1480, 1460]), (Mode::Gue, [1468, 1448])] {
        for ((client, service), room) in both().into_iter().zip(room) {
            let mut lb = in_mode(mode);
            let headers = if client.0.is_ipv4() { 40 } else { 60 };
            let packet = |total: usize| Build::tcp(client, service, 0x10, &vec![7; total - headers]);
            let (port, out) = sent(&mut *lb, 0, 0, from_client(packet(room))).unwrap();
            assert_eq!((port, carry::packet(&out).len()), (1, 1500));
            let frame = from_client(packet(room + 1));
            let (port, out) = sent(&mut *lb, 0, 0, frame.clone()).unwrap();
            let expected = carry::error_about(&frame, &seen(&frame), Some(room as u16), LB_CLIENT_MAC.0);
            assert_eq!((port, out), (0, expected));
            assert_eq!(counter(&*lb, "answer.too_big"), 1);
        }
    }
}

#[test]
fn errors_are_told_at_a_bounded_rate_and_never_about_errors() {
    let mut lb = in_mode(Mode::Gue);
    let (client, service) = both()[0];
    let frame = from_client(Build::tcp(client, service, 0x10, &[7; 1460]));
    let told = |lb: &mut dyn PacketFunction, now_ms| {
        (0..1000).filter(|_| sent(lb, now_ms, 0, frame.clone()) != Err(DropReason::TooBig)).count()
    };
    assert_eq!(told(&mut *lb, 100), 50);
    assert_eq!(told(&mut *lb, 110), 10);
    assert_eq!(told(&mut *lb, 10_000), 50);
    let about = Build::tcp(service, client, 0x10, &[7; 1440]);
    let long = from_client(error(ip("10.9.9.9"), &about, 3, 4, 1480));
    assert_eq!(sent(&mut *lb, 20_000, 0, long), Err(DropReason::TooBig));
}

#[test]
fn the_last_hop_is_told_to_the_client() {
    for mode in [Mode::Nat, Mode::Ipip, Mode::Gue] {
        for (client, service) in both() {
            let mut lb = in_mode(mode);
            let frame = from_client(Build { hops: 1, ..Build::udp(client, service, b"trace") });
            let (port, out) = sent(&mut *lb, 0, 0, frame.clone()).unwrap();
            assert_eq!((port, out), (0, carry::error_about(&frame, &seen(&frame), None, LB_CLIENT_MAC.0)));
        }
    }
    // In mode `l2` we are no hop.
    let (client, service) = both()[0];
    let frame = from_client(Build { hops: 1, ..Build::udp(client, service, b"trace") });
    let (port, out) = sent(&mut *in_mode(Mode::L2), 0, 0, frame.clone()).unwrap();
    assert_eq!((port, &out[12..]), (1, &frame[12..]));
}

#[test]
fn a_tunnel_copies_class_and_keeps_tags_and_nothing_behind_the_packet() {
    let (client, service) = both()[0];
    for mode in [Mode::Ipip, Mode::Gue] {
        let mut lb = in_mode(mode);
        let build = Build { tags: vec![7, 9], padding: 6, ..Build::tcp(client, service, 2, b"") };
        let mut frame = from_client(build);
        let l3 = carry::l3(&frame);
        // Expedited forwarding, congestion experienced: class and header checksum.
        frame[l3 + 1] = 0xbb;
        frame[l3 + 10..l3 + 12].fill(0);
        let sum = checksum(&[&frame[l3..l3 + 20]]);
        frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
        let (_, out) = sent(&mut *lb, 0, 0, frame.clone()).unwrap();
        assert_eq!(out[12..20], frame[12..20]);
        let outer = carry::packet(&out);
        assert_eq!((outer[1], outer[6], outer[8], out.len()), (0xbb, 0x40, 64, l3 + outer.len()));
        assert_eq!(outer[9], if mode == Mode::Ipip { 4 } else { 17 });
        let inner = &outer[if mode == Mode::Ipip { 20 } else { 32 }..];
        assert_eq!(inner, carry::packet(&carry::hopped(&frame)));
    }
}

#[test]
fn flows_leave_a_gue_tunnel_from_many_ports_and_each_from_one() {
    let mut lb = in_mode(Mode::Gue);
    let mut ports = BTreeSet::new();
    for n in 0..200 {
        let port = |lb: &mut dyn PacketFunction| {
            let flow = Build::udp((ip(CLIENT4), 1000 + n), (ip(VIP4), 443), b"?");
            seen(&sent(lb, 0, 0, from_client(flow)).unwrap().1).source_port
        };
        let first = port(&mut *lb);
        assert!(first >= 49_152);
        assert_eq!(port(&mut *lb), first);
        ports.insert(first);
    }
    assert!(ports.len() > 190, "{}", ports.len());
}

#[test]
fn a_tunnel_learns_the_mtu_of_its_path_for_ten_minutes() {
    let mut lb = in_mode(Mode::Ipip);
    let (client, service) = both()[0];
    let long = || from_client(Build::tcp(client, service, 0x10, &[7; 1440]));
    let (_, outer) = sent(&mut *lb, 0, 0, long()).unwrap();
    // What a router between us and the backend says of it.
    let outer = carry::packet(&outer);
    let told = |mtu: u16, quoted: &[u8]| {
        let rest = [&[0, 0][..], &mtu.to_be_bytes(), &quoted[..28]].concat();
        from_backend(Build::icmp(ip("10.9.9.9"), ip("10.0.0.254"), 3, 4, &rest))
    };
    assert_eq!(sent(&mut *lb, 1, 1, told(1400, outer)), Err(DropReason::Consumed));
    let (port, out) = sent(&mut *lb, 2, 0, long()).unwrap();
    assert_eq!((port, seen(&out).transport[6..8].to_vec()), (0, 1380u16.to_be_bytes().to_vec()));
    // Not about a packet of ours, or less than anybody has: believed no further than 576.
    let mut other = outer.to_vec();
    other[16..20].copy_from_slice(&[10, 9, 9, 9]);
    assert_eq!(sent(&mut *lb, 3, 1, told(600, &other)), Err(DropReason::IcmpUnrelated));
    sent(&mut *lb, 4, 1, told(68, outer)).unwrap_err();
    let (_, out) = sent(&mut *lb, 5, 0, long()).unwrap();
    assert_eq!(seen(&out).transport[6..8], 556u16.to_be_bytes());
    assert_eq!(sent(&mut *lb, 600_010, 0, long()).unwrap().0, 1);
}

#[test]
fn our_addresses_are_told_on_the_backend_port_only() {
    let request = |target: [u8; 4]| {
        let mut f = [&[0xff; 6][..], &[2, 0, 0, 3, 0, 1], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        f.extend([&[2, 0, 0, 3, 0, 1][..], &[10, 0, 0, 1], &[0; 6], &target].concat());
        f
    };
    let mut lb = in_mode(Mode::Nat);
    let (port, reply) = sent(&mut *lb, 0, 1, request([10, 0, 0, 254])).unwrap();
    assert_eq!(
        (port, reply[21], &reply[22..28], &reply[28..32]),
        (1, 2, &LB_BACKEND_MAC.0[..], &[10, 0, 0, 254][..])
    );
    assert_eq!(sent(&mut *lb, 0, 0, request([10, 0, 0, 254])), Err(DropReason::NeighbourIgnored));
    assert_eq!(sent(&mut *lb, 0, 1, request([192, 0, 2, 10])), Err(DropReason::NeighbourIgnored));
    let told: Vec<u16> =
        (0..5).map_while(|i| lb.announcement(i, &mut [0; 1600])).map(|(port, _)| port).collect();
    assert_eq!(told, [0, 0, 1, 1]);
}

#[test]
fn affinity_by_source_takes_all_of_a_client_to_one_backend() {
    let vips = services(Mode::L2).into_iter().map(|v| Vip { affinity: Affinity::Source, ..v }).collect();
    let mut lb = build(&with(vips, members(20), |_| ())).unwrap();
    let mut used = BTreeSet::new();
    for host in 1..100 {
        let client = ip(&format!("198.51.100.{host}"));
        let backends: BTreeSet<_> = (0..20)
            .map(|n| match n % 2 {
                0 => Build::tcp((client, 1000 + n), (ip(VIP4), 443), 2, b""),
                _ => Build::udp((client, 1000 + n), (ip(VIP4), 443), b""),
            })
            .map(|b| sent(&mut *lb, 0, 0, from_client(b)).unwrap().1[..6].to_vec())
            .collect();
        assert_eq!(backends.len(), 1);
        used.extend(backends);
    }
    assert!(used.len() > 15);
}

/// The backends of these client ports' connections.
fn by_port(
    lb: &mut dyn PacketFunction,
    now_ms: u64,
    ports: impl Iterator<Item = u16>,
) -> BTreeMap<u16, [u8; 6]> {
    let one = |port| {
        let b = Build::tcp((ip(CLIENT4), port), (ip(VIP4), 443), 0x10, b"");
        sent(lb, now_ms, 0, from_client(b)).unwrap().1[..6].try_into().unwrap()
    };
    let mut one = one;
    ports.map(|port| (port, one(port))).collect()
}

#[test]
fn a_draining_backend_keeps_its_connections_and_gets_no_more() {
    let config = |draining| {
        let mut all = members(3);
        all[0].draining = draining;
        with(services(Mode::L2), all, |_| ())
    };
    let mut lb = build(&config(false)).unwrap();
    let before = by_port(&mut *lb, 0, 1..200);
    assert!(before.values().filter(|m| **m == backend_mac(1).0).count() > 40);
    lb.reconfigure(&config(true)).unwrap();
    assert_eq!(by_port(&mut *lb, 1, 1..200), before);
    assert!(by_port(&mut *lb, 2, 200..500).values().all(|m| *m != backend_mac(1).0));
    assert_eq!(counter(&*lb, "connections.moved"), 0);
    // Maglev: of the others' flows no more than a percent goes elsewhere.
    let mut fresh = build(&config(true)).unwrap();
    let after = by_port(&mut *fresh, 0, 1..200);
    let moved = before.iter().filter(|(p, m)| **m != backend_mac(1).0 && after[p] != **m).count();
    assert!(moved <= 2, "{moved}");
}

#[test]
fn a_dead_backend_gives_its_connections_away_and_gets_no_more() {
    let mut lb = build(&with(services(Mode::L2), members(3), |_| ())).unwrap();
    let before = by_port(&mut *lb, 0, 1..200);
    let down = |lb: &mut dyn PacketFunction, ids: &[&str]| {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let prepared = lb.basis().prepare_health(0, &ids).unwrap();
        let _retired = lb.swap(prepared).unwrap();
    };
    down(&mut *lb, &["backend-1", "nobody"]);
    let after = by_port(&mut *lb, 1, 1..300);
    assert!(after.values().all(|m| *m != backend_mac(1).0));
    for (port, mac) in before.iter().filter(|(_, m)| **m != backend_mac(1).0) {
        assert_eq!(after[port], *mac, "a connection of a healthy backend stays");
    }
    // It holds over a reconfiguration.
    lb.reconfigure(&with(services(Mode::L2), members(3), |_| ())).unwrap();
    assert!(by_port(&mut *lb, 2, 300..500).values().all(|m| *m != backend_mac(1).0));
    down(&mut *lb, &[]);
    assert!(by_port(&mut *lb, 3, 500..700).values().any(|m| *m == backend_mac(1).0));
    // All of them: rather the checks are wrong.
    down(&mut *lb, &["backend-1", "backend-2", "backend-3"]);
    let all: BTreeSet<_> = by_port(&mut *lb, 4, 700..900).into_values().collect();
    assert_eq!(all.len(), 3);
    let firewall = build(&firewall(vec![], 10)).unwrap();
    assert!(firewall.basis().prepare_health(0, &BTreeSet::new()).is_err());
}

/// A short-header QUIC datagram with a server's number in its connection id.
fn quic(from: (IpAddr, u16), number: u16) -> Vec<u8> {
    let id = [&[0x40][..], &number.to_be_bytes(), &[1, 2, 3, 4, 5]].concat();
    from_client(Build::udp(from, (ip(VIP4), 443), &[&[0x41][..], &id, &[0xcc; 30]].concat()))
}

#[test]
fn a_quic_connection_follows_its_id_wherever_the_client_is() {
    for mode in [Mode::L2, Mode::Nat] {
        let ids = vec![QuicIds { rotation: 2, server_id_bytes: 2 }];
        let vips =
            services(mode).into_iter().filter(|v| v.protocol == 17).map(|v| Vip { quic: ids.clone(), ..v });
        let config = |backends| with(vips.clone().collect(), backends, |_| ());
        let mut lb = build(&config(members(10))).unwrap();
        let to = |lb: &mut dyn PacketFunction, frame| sent(lb, 0, 0, frame).unwrap().1[..6].to_vec();
        // From a new address each time; then one flow whose id changes.
        for n in 0..50 {
            let from = (ip(&format!("203.0.113.{n}")), 4000 + n);
            assert_eq!(to(&mut *lb, quic(from, 7)), backend_mac(7).0);
        }
        assert_eq!(counter(&*lb, "connections.named"), 50);
        let from = (ip("203.0.113.1"), 4001);
        assert_eq!(to(&mut *lb, quic(from, 3)), backend_mac(3).0);
        assert_eq!(to(&mut *lb, quic(from, 3)), backend_mac(3).0);
        // Nobody's number, or an Initial's random id: by addresses and ports, to where that flow is.
        assert_eq!(to(&mut *lb, quic(from, 99)), backend_mac(3).0);
        let initial = [&[0xc0, 0, 0, 0, 1, 8, 0x40, 0, 9, 1, 2, 3, 4, 5][..], &[0; 1180]].concat();
        let initial = |from| from_client(Build::udp(from, (ip(VIP4), 443), &initial));
        assert_eq!(to(&mut *lb, initial(from)), backend_mac(3).0);
        let used: BTreeSet<_> = (0..50).map(|n| to(&mut *lb, initial((ip(CLIENT4), 6000 + n)))).collect();
        assert!(used.len() > 5);
        // One that drains keeps what names it; one that is gone does not.
        let mut fewer = members(10);
        fewer[6].draining = true;
        fewer.remove(2);
        lb.reconfigure(&config(fewer)).unwrap();
        assert_eq!(to(&mut *lb, quic((ip(CLIENT4), 7000), 7)), backend_mac(7).0);
        assert_ne!(to(&mut *lb, quic(from, 3)), backend_mac(3).0);
    }
}

#[test]
fn a_second_balancer_with_another_history_picks_the_same_backends() {
    let vips = || services(Mode::L2);
    let mut one = build(&with(vips(), members(20), |_| ())).unwrap();
    for count in [25, 3, 18, 20] {
        one.reconfigure(&with(vips(), members(count), |_| ())).unwrap();
    }
    let mut shuffled = members(20);
    shuffled.reverse();
    let mut two = build(&with(vips(), shuffled, |_| ())).unwrap();
    assert_eq!(by_port(&mut *one, 0, 1..2000), by_port(&mut *two, 0, 1..2000));
}

#[test]
fn a_tunnelled_connection_lasts_on_what_the_client_sends_twice() {
    for (flags, confirmed) in [([0x10, 0x10], true), ([2, 0x10], true), ([2, 2], false), ([0x11, 0x10], true)]
    {
        let mut lb = in_mode(Mode::Ipip);
        let (client, service) = both()[0];
        for flags in flags {
            sent(&mut *lb, 0, 0, from_client(Build::tcp(client, service, flags, b""))).unwrap();
        }
        let left = |lb: &mut dyn PacketFunction, now_ms: u64| {
            lb.tick(now_ms * 1000);
            lb.connections()
        };
        assert_eq!(left(&mut *lb, 31_000), u64::from(confirmed), "{flags:?}");
        // After the client's FIN, two minutes.
        assert_eq!(left(&mut *lb, 121_000), u64::from(confirmed && flags[0] & 1 == 0));
    }
}

#[test]
fn services_and_backends_are_counted() {
    let mut lb = in_mode(Mode::Nat);
    let (client, service) = both()[0];
    for n in 0..3 {
        sent(&mut *lb, 0, 0, from_client(Build::tcp((client.0, 5000 + n % 2), service, 2, b""))).unwrap();
    }
    let all =
        ["vip.t4", "vip_connections.t4", "vip.u4", "backend.backend-1", "backend_connections.backend-1"];
    assert_eq!(all.map(|name| counter(&*lb, name)), [3, 2, 0, 3, 2]);
    // They stay with their names over a reconfiguration.
    let mut vips = services(Mode::Nat);
    vips.insert(0, vip("new", "192.0.2.1", 6, 1));
    lb.reconfigure(&with(vips, members(2), |_| ())).unwrap();
    assert_eq!(all.map(|name| counter(&*lb, name)), [3, 2, 0, 3, 2]);
}

/// Headers that were put together by hand; tshark 4.0 finds every checksum of such packets right (docs/dataplane.md).
#[test]
fn golden_tunnel_packets() {
    let request = "020000000200 020000000001 0800 45bb 0025 1234 4000 40 11 3afa c6336401 c000020a 1388 01bb 0011 0000 7175657374696f6e3f";
    let mut frame = unhex(request);
    let sum = checksum(&[&frame[14..24], &frame[26..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let out = |mode| sent(&mut *in_mode(mode), 0, 0, frame.clone()).unwrap().1;
    let ipip = out(Mode::Ipip);
    assert_eq!(
        ipip[..34],
        unhex("020000030001 020000000201 0800 45bb 0039 0000 4000 40 04 2508 0a0000fe 0a000001")
    );
    let gue = out(Mode::Gue);
    assert_eq!(
        gue[..34],
        unhex("020000030001 020000000201 0800 45bb 0045 0000 4000 40 11 24ef 0a0000fe 0a000001")
    );
    assert_eq!(gue[36..46], unhex("17c0 0031 0000 00 04 0000"));
    for (outer, wrapped) in [(34, &ipip), (46, &gue)] {
        assert_eq!(wrapped[outer..], carry::hopped(&frame)[14..]);
    }
}

#[test]
fn a_mac_that_moves_is_where_replies_go_in_every_mode() {
    for mode in [Mode::L2, Mode::Nat, Mode::Ipip, Mode::Gue] {
        let mut lb = in_mode(mode);
        let (client, service) = both()[1];
        for gateway in [CLIENT_MAC, MacAddr([2, 0, 0, 0, 0, 9])] {
            let ask = Build::udp(client, service, b"?").macs(LB_CLIENT_MAC, gateway).frame();
            sent(&mut *lb, 0, 0, ask).unwrap();
            let source = if mode == Mode::Nat { (ip("fd00::1"), 443) } else { service };
            let (port, out) = sent(&mut *lb, 0, 1, from_backend(Build::udp(source, client, b"!"))).unwrap();
            assert_eq!((port, &out[..6], seen(&out).source), (0, &gateway.0[..], service.0));
        }
    }
}
