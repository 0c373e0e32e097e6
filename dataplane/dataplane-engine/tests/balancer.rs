//! The balancer against a naive model, and its table's bounds.
// Helpers outside of #[test] functions; small values.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod common;

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
};

use common::{
    naive::{self, Naive, Seen},
    random::{self, Random},
    traffic::{Sent, any_frame},
    *,
};
use dataplane_control::{
    MacAddr,
    config::{Backend, Vip},
};
use dataplane_engine::{DropReason, PacketFunction, Verdict, build, build_with_seed, maglev};
use proptest::{prelude::*, strategy::ValueTree as _};

const IDLE_MS: u64 = 300_000;

#[derive(Debug, Clone)]
struct Connection {
    client: (IpAddr, u16),
    service: (IpAddr, u16),
    protocol: u8,
    vlan: (u16, u16),
    /// Name, and the generation since which it has been there without a gap.
    backend: (String, u64),
    mac: [u8; 6],
    last_ms: u64,
    answered: bool,
    confirmed: bool,
    fin: [bool; 2],
    reset: bool,
}

impl Connection {
    fn closing(&self) -> bool {
        self.reset || self.fin == [true, true]
    }

    fn lifetime_ms(&self) -> u64 {
        match self.protocol {
            6 if self.closing() => 10_000,
            _ if !self.confirmed => 30_000,
            _ => IDLE_MS,
        }
    }
}

#[derive(Debug)]
struct Model {
    vips: Vec<Vip>,
    backends: Vec<Backend>,
    /// Per backend, the generation since which it has been there.
    since: Vec<u64>,
    generation: u64,
    connections: Vec<Connection>,
}

/// The frame that leaves and its port, or why none does.
type Outcome = Result<(u16, Vec<u8>), &'static str>;

fn addressed(frame: &[u8], to: MacAddr, from: MacAddr) -> Vec<u8> {
    [&to.0[..], &from.0, &frame[12..]].concat()
}

impl Model {
    fn reconfigure(&mut self, vips: Vec<Vip>, backends: Vec<Backend>) {
        self.generation += 1;
        let before = |b: &Backend| self.backends.iter().position(|old| old.id == b.id).map(|i| self.since[i]);
        self.since = backends.iter().map(|b| before(b).unwrap_or(self.generation)).collect();
        (self.vips, self.backends) = (vips, backends);
    }

    fn frame(&mut self, now_ms: u64, far: bool, frame: &[u8]) -> Outcome {
        let seen = naive::read(frame);
        let own = if far { LB_BACKEND_MAC } else { LB_CLIENT_MAC };
        let ours = frame.get(..6) == Some(&own.0[..]);
        let group = frame.first().is_some_and(|b| b % 2 == 1);
        match seen {
            Seen::Bad => Err("bad"),
            Seen::Arp(_) if far => Err("neighbour_ignored"),
            Seen::Arp(p) if ours || group => self.arp(frame, &p),
            Seen::Ip(p) if p.is_solicitation() && !far && (ours || group) => self.solicitation(frame, &p),
            Seen::Ip(p) if p.is_solicitation() || p.is_advertisement() => Err("neighbour_ignored"),
            _ if !ours => Err("not_ours"),
            Seen::Ip(p) if far => self.at_backend_port(now_ms, frame, &p),
            Seen::Ip(p) => self.at_client_port(now_ms, frame, &p),
            Seen::Arp(_) => unreachable!(),
        }
    }

    fn arp(&self, frame: &[u8], p: &[u8]) -> Outcome {
        let (op, _, sender, target) = naive::arp(p).ok_or("arp")?;
        if op != 1 || sender == target || !self.vips.iter().any(|v| v.address == IpAddr::V4(target)) {
            return Err("neighbour_ignored");
        }
        let at = frame.len() - p.len();
        let mut out = addressed(frame, MacAddr(frame[6..12].try_into().unwrap()), LB_CLIENT_MAC);
        out[at + 7] = 2;
        out[at + 8..at + 14].copy_from_slice(&LB_CLIENT_MAC.0);
        out[at + 14..at + 18].copy_from_slice(&target.octets());
        out[at + 18..at + 28].copy_from_slice(&p[8..18]);
        Ok((0, out))
    }

    /// Built from nothing; compared with what the engine made of the solicitation.
    fn solicitation(&self, frame: &[u8], p: &Naive) -> Outcome {
        let target = p.discovery().ok_or("neighbour_discovery")?;
        if !self.vips.iter().any(|v| v.address == IpAddr::V6(target)) {
            return Err("neighbour_ignored");
        }
        let ip_at = (14..).step_by(4).find(|at| frame[at - 2..*at] == [0x86, 0xdd]).unwrap();
        let room = frame.len() >= ip_at + 40 + 32;
        let unspecified = p.source == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let (to, destination, solicited) = match unspecified {
            true => (MacAddr([0x33, 0x33, 0, 0, 0, 1]), ip("ff02::1"), 0),
            false => (MacAddr(frame[6..12].try_into().unwrap()), p.source, 0x40),
        };
        let mut rest = [&[0x20 | solicited, 0, 0, 0], &target.octets()[..]].concat();
        if room {
            rest.extend([&[2, 1][..], &LB_CLIENT_MAC.0].concat());
        }
        let reply = Build { hops: 255, ..Build::icmp(target.into(), destination, 136, 0, &rest) }.packet();
        let out =
            [&to.0[..], &LB_CLIENT_MAC.0, &frame[12..ip_at], &frame[ip_at..ip_at + 4], &reply[4..]].concat();
        Ok((0, out))
    }

    fn pick(&self, c: &Connection) -> Option<(String, u64)> {
        let flow = maglev::FiveTuple {
            source: c.client.0,
            destination: c.service.0,
            source_port: c.client.1,
            destination_port: c.service.1,
            protocol: c.protocol,
        };
        let index = table_of(&self.backends).lookup(maglev::flow_hash(&flow))?;
        Some((self.backends[index].id.clone(), self.since[index]))
    }

    fn serves(&self, service: (IpAddr, u16), protocol: u8) -> bool {
        self.vips.iter().any(|v| (v.address, v.port, v.protocol) == (service.0, service.1, protocol))
    }

    fn live(
        &mut self,
        now_ms: u64,
        client: (IpAddr, u16),
        service: (IpAddr, u16),
        protocol: u8,
        vlan: (u16, u16),
    ) -> Result<Option<usize>, &'static str> {
        let wanted =
            |c: &Connection| (c.client, c.service, c.protocol, c.vlan) == (client, service, protocol, vlan);
        let Some(i) = self.connections.iter().position(wanted) else { return Ok(None) };
        if now_ms - self.connections[i].last_ms > self.connections[i].lifetime_ms() {
            self.connections.remove(i);
            return Ok(None);
        }
        if !self.serves(service, protocol) {
            self.connections.remove(i);
            return Err("revoked");
        }
        let there = |(b, since): (&Backend, &u64)| {
            (&b.id, *since) == (&self.connections[i].backend.0, self.connections[i].backend.1)
        };
        if !self.backends.iter().zip(&self.since).any(there) {
            let c = self.connections[i].clone();
            self.connections[i].backend = self.pick(&c).ok_or("no_backend")?;
        }
        Ok(Some(i))
    }

    fn dispatch(&self, backend: &str, frame: &[u8]) -> Outcome {
        let backend = self.backends.iter().find(|b| b.id == backend).unwrap();
        Ok((1, addressed(frame, backend.mac, LB_BACKEND_MAC)))
    }

    fn at_client_port(&mut self, now_ms: u64, frame: &[u8], p: &Naive) -> Outcome {
        if p.is_error() {
            let q = p.quoted().filter(|q| q.source == p.destination).ok_or("icmp_unrelated")?;
            let (client, service) = ((q.destination, q.destination_port), (q.source, q.source_port));
            let i = self.live(now_ms, client, service, q.protocol, p.vlan)?.ok_or("icmp_unrelated")?;
            return self.dispatch(&self.connections[i].backend.0.clone(), frame);
        }
        if !matches!(p.protocol, 6 | 17) {
            return Err("no_service");
        }
        let (client, service) = ((p.source, p.source_port), (p.destination, p.destination_port));
        let mac = frame[6..12].try_into().unwrap();
        let (fin, syn, rst, ack) = (p.flags & 1 != 0, p.flags & 2 != 0, p.flags & 4 != 0, p.flags & 16 != 0);
        let mut live = self.live(now_ms, client, service, p.protocol, p.vlan)?;
        if let Some(i) = live.filter(|i| syn && !ack && self.connections[*i].closing()) {
            self.connections.remove(i);
            live = None;
        }
        let i = match live {
            Some(i) => i,
            None => {
                if !self.serves(service, p.protocol) {
                    return Err("no_service");
                }
                let mut new = Connection {
                    client,
                    service,
                    protocol: p.protocol,
                    vlan: p.vlan,
                    backend: (String::new(), 0),
                    mac,
                    last_ms: now_ms,
                    answered: false,
                    confirmed: false,
                    fin: [false; 2],
                    reset: false,
                };
                new.backend = self.pick(&new).ok_or("no_backend")?;
                self.connections.push(new);
                self.connections.len() - 1
            }
        };
        let c = &mut self.connections[i];
        // Every TCP packet has flags, UDP none.
        c.confirmed |= p.protocol == 6 && c.answered && !syn && !rst;
        c.fin[0] |= fin;
        c.reset |= rst;
        (c.mac, c.last_ms) = (mac, now_ms);
        let backend = c.backend.0.clone();
        self.dispatch(&backend, frame)
    }

    fn at_backend_port(&mut self, now_ms: u64, frame: &[u8], p: &Naive) -> Outcome {
        if p.is_error() {
            let q = p.quoted().filter(|q| q.source == p.destination).ok_or("icmp_unrelated")?;
            let (client, service) = ((q.source, q.source_port), (q.destination, q.destination_port));
            let i = self.live(now_ms, client, service, q.protocol, p.vlan)?.ok_or("icmp_unrelated")?;
            return Ok((0, addressed(frame, MacAddr(self.connections[i].mac), LB_CLIENT_MAC)));
        }
        if !matches!(p.protocol, 6 | 17) {
            return Err("untracked");
        }
        let (client, service) = ((p.destination, p.destination_port), (p.source, p.source_port));
        let i = self.live(now_ms, client, service, p.protocol, p.vlan)?.ok_or("untracked")?;
        let c = &mut self.connections[i];
        c.answered = true;
        c.confirmed |= p.protocol == 17;
        c.fin[1] |= p.flags & 1 != 0;
        c.reset |= p.flags & 4 != 0;
        c.last_ms = now_ms;
        Ok((0, addressed(frame, MacAddr(c.mac), LB_CLIENT_MAC)))
    }
}

/// Of these backends; made when they are others than last time.
fn table_of(backends: &[Backend]) -> Rc<maglev::Table> {
    thread_local! {
        static LAST: RefCell<Option<(Vec<Backend>, Rc<maglev::Table>)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some((of, table)) if of == backends => Rc::clone(table),
        _ => {
            let table = Rc::new(maglev::Table::new(backends, 65_537));
            *last = Some((backends.to_vec(), Rc::clone(&table)));
            table
        }
    })
}

fn vips() -> impl Strategy<Value = Vec<Vip>> {
    let all = vec![
        vip("a", "192.0.2.10", 6, 443),
        vip("b", "192.0.2.10", 17, 53),
        vip("c", "2001:db8::10", 6, 443),
        vip("d", "2001:db8::11", 17, 443),
        vip("e", "192.0.2.11", 6, 53),
    ];
    let n = all.len();
    prop::sample::subsequence(all, 1..=n)
}

fn backends() -> impl Strategy<Value = Vec<Backend>> {
    let all: Vec<Backend> = (1..=5).map(|n| backend(n, u32::from(n))).collect();
    prop_oneof![9 => prop::sample::subsequence(all, 1..=5).prop_shuffle(), 1 => Just(vec![])]
}

#[derive(Debug, Clone)]
enum Op {
    Frame(Sent),
    Wait(u64),
    Reconfigure(Vec<Vip>, Vec<Backend>),
    Tick,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        60 => any_frame().prop_map(Op::Frame),
        3 => prop::sample::select(vec![1, 9_999_000, 10_001_000, 31_000_000, 301_000_000]).prop_map(Op::Wait),
        2 => (vips(), backends()).prop_map(|(v, b)| Op::Reconfigure(v, b)),
        2 => Just(Op::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn decides_and_rewrites_as_the_model(
        v in vips(), b in backends(), seed: u64, ops in proptest::collection::vec(op(), 1..150),
    ) {
        let mut engine = build_with_seed(&balancer(v.clone(), b.clone(), 4096), seed).unwrap();
        let since = vec![0; b.len()];
        let mut model = Model { vips: v, backends: b, since, generation: 0, connections: vec![] };
        let mut now_us = 5_000_000;
        for op in ops {
            now_us += 10;
            match op {
                Op::Wait(us) => now_us += us,
                Op::Tick => engine.tick(now_us),
                Op::Reconfigure(vips, backends) => {
                    engine.reconfigure(&balancer(vips.clone(), backends.clone(), 4096)).unwrap();
                    model.reconfigure(vips, backends);
                }
                Op::Frame(Sent { far, frame }) => {
                    let expected = model.frame(now_us / 1000, far, &frame);
                    let mut bytes = frame.clone();
                    let got = engine.process(now_us, u16::from(far), &mut bytes);
                    match (got, expected) {
                        (Verdict::Forward { port }, Ok((expected_port, expected))) => {
                            prop_assert_eq!(port, expected_port);
                            prop_assert_eq!(&bytes[..], &expected[..], "{:02x?}", frame);
                        }
                        (Verdict::Drop(reason), Err("bad")) => {
                            prop_assert!(reason.index() <= DropReason::IcmpType.index(), "{reason:?}");
                        }
                        (Verdict::Drop(reason), Err(label)) => {
                            prop_assert_eq!((reason.label(), &bytes), (label, &frame));
                        }
                        (got, expected) => prop_assert!(false, "{got:?}, model {expected:?}: {frame:02x?}"),
                    }
                }
            }
        }
        engine.tick(now_us + 400_000_000);
        prop_assert_eq!(engine.connections(), 0);
    }
}

fn drawn<T>(what: impl Strategy<Value = T>, runner: &mut proptest::test_runner::TestRunner) -> T {
    what.new_tree(runner).unwrap().current()
}

/// In bursts, with waits, sweeps and reconfigurations between them; as many as [`random::frames_and_seed`] says.
#[test]
fn random_frames_are_dispatched_as_by_the_model() {
    let (frames, seed) = random::frames_and_seed();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut random = Random::new(seed);
    let mut stream = random::Stream::new(random.next());
    let (v, b) = (drawn(vips(), &mut runner), drawn(backends(), &mut runner));
    let mut engine = build_with_seed(&balancer(v.clone(), b.clone(), 16_384), seed).unwrap();
    let since = vec![0; b.len()];
    let mut model = Model { vips: v, backends: b, since, generation: 0, connections: vec![] };
    let (mut now_us, mut done, mut passed) = (5_000_000, 0, 0_u64);
    let mut next = stream.next();
    while done < frames {
        now_us += random.next() % 3000;
        match random.below(800) {
            0..8 => now_us += random.pick(&[9_999_000, 10_001_000, 31_000_000, 301_000_000]),
            8..16 => engine.tick(now_us),
            16 => {
                let (v, b) = (drawn(vips(), &mut runner), drawn(backends(), &mut runner));
                engine.reconfigure(&balancer(v.clone(), b.clone(), 16_384)).unwrap();
                model.reconfigure(v, b);
            }
            // What is over is found by nobody.
            17..20 => model.connections.retain(|c| now_us / 1000 - c.last_ms <= c.lifetime_ms()),
            _ => {}
        }
        let (far, most) = (next.far, 1 + random.below(80));
        let mut sent = vec![];
        while next.far == far && sent.len() < most {
            sent.push(std::mem::replace(&mut next, stream.next()).frame);
        }
        let mut bytes = sent.clone();
        let mut verdicts = vec![Verdict::Drop(DropReason::Untracked); sent.len()];
        engine.burst(now_us, u16::from(far), &mut bytes, &mut verdicts);
        for ((frame, bytes), got) in sent.iter().zip(&bytes).zip(verdicts) {
            let expected = model.frame(now_us / 1000, far, frame);
            let same = match (got, &expected) {
                (Verdict::Forward { port }, Ok((to, expected))) => port == *to && bytes == expected,
                (Verdict::Drop(reason), Err("bad")) => reason.index() <= DropReason::IcmpType.index(),
                (Verdict::Drop(reason), Err(label)) => reason.label() == *label && bytes == frame,
                _ => false,
            };
            assert!(
                same,
                "seed {seed}, frame {done}: {got:?} {bytes:02x?}, model {expected:02x?}: {frame:02x?}"
            );
            done += 1;
            passed += u64::from(expected.is_ok());
        }
    }
    eprintln!("seed {seed}: {done} frames, {passed} passed");
    // Both ways are tried.
    assert!(passed > done / 20 && passed < done);
}

fn from_client(port: u16) -> Vec<u8> {
    Build::udp((ip("198.51.100.1"), port), (ip("192.0.2.10"), 53), b"?").frame()
}

#[test]
fn a_full_table_refuses_new_connections_and_keeps_old_ones() {
    let config = |n, most| {
        balancer(vec![vip("dns", "192.0.2.10", 17, 53)], (1..=n).map(|n| backend(n, 1)).collect(), most)
    };
    let mut lb = build(&config(2, 5)).unwrap();
    for port in 1..=5 {
        assert!(matches!(lb.process(0, 0, &mut from_client(port)), Verdict::Forward { port: 1, .. }));
    }
    assert_eq!(lb.process(0, 0, &mut from_client(6)), Verdict::Drop(DropReason::TableFull));
    lb.reconfigure(&config(2, 6)).unwrap();
    for port in 1..=6 {
        assert!(matches!(lb.process(0, 0, &mut from_client(port)), Verdict::Forward { port: 1, .. }));
    }
    assert_eq!(lb.connections(), 6);
}

#[test]
fn a_backend_that_comes_back_under_its_name_is_not_the_one_that_left() {
    let config = |numbers: &[u16]| {
        let backends = numbers.iter().map(|n| backend(*n, 1)).collect();
        balancer(vec![vip("dns", "192.0.2.10", 17, 53)], backends, 100)
    };
    let next = |lb: &mut dyn PacketFunction, port| {
        let mut sent = from_client(port);
        lb.process(0, 0, &mut sent);
        sent[..6].to_vec()
    };
    // Its place in the pool goes to another while nobody sends, or stays empty: connections follow neither the place
    // nor the name.
    for (without, with) in [(&[3, 2][..], &[3, 2, 1][..]), (&[2], &[2, 1, 3])] {
        let mut lb = build(&config(&[1, 2])).unwrap();
        let on_1: Vec<u16> = (1..60).filter(|port| next(&mut *lb, *port) == backend_mac(1).0).collect();
        assert!(on_1.len() > 20);
        lb.reconfigure(&config(without)).unwrap();
        lb.reconfigure(&config(with)).unwrap();
        let mut fresh = build(&config(with)).unwrap();
        for port in on_1 {
            assert_eq!(next(&mut *lb, port), next(&mut *fresh, port), "given out anew");
        }
    }
}

#[test]
fn replies_go_where_the_client_was_seen_last() {
    let mut lb = build(&balancer(vec![vip("dns", "192.0.2.10", 17, 53)], vec![backend(1, 1)], 10)).unwrap();
    let (c, s) = ((ip("198.51.100.1"), 5000), (ip("192.0.2.10"), 53));
    for gateway in [CLIENT_MAC, MacAddr([2, 0, 0, 0, 0, 9])] {
        lb.process(0, 0, &mut Build::udp(c, s, b"?").macs(LB_CLIENT_MAC, gateway).frame());
        let mut reply = Build::udp(s, c, b"!").macs(LB_BACKEND_MAC, backend_mac(1)).frame();
        assert!(matches!(lb.process(0, 1, &mut reply), Verdict::Forward { port: 0, .. }));
        assert_eq!((&reply[..6], &reply[6..12]), (&gateway.0[..], &LB_CLIENT_MAC.0[..]));
    }
}

fn web(sender: (IpAddr, u16), flags: u8) -> Vec<u8> {
    Build::tcp(sender, (ip("192.0.2.10"), 443), flags, b"").frame()
}

fn two_services(most: u32) -> Box<dyn PacketFunction> {
    let vips = vec![vip("web", "192.0.2.10", 6, 443), vip("dns", "192.0.2.10", 17, 53)];
    build(&balancer(vips, vec![backend(1, 1)], most)).unwrap()
}

/// How many connections are left after `idle_s` of silence.
fn left_after(lb: &mut dyn PacketFunction, idle_s: u64) -> u64 {
    lb.tick(idle_s * 1_000_000);
    lb.connections()
}

#[test]
fn what_only_a_client_sends_does_not_stay() {
    // Lone acknowledgements, data, SYNs, each of them twice and thrice; datagrams: nobody ever answered.
    for flags in [0x10, 0x18, 2, 0x11] {
        for times in 1..=3 {
            let mut lb = two_services(100);
            for n in 0..100 {
                for _ in 0..times {
                    let mut frame = web((ip("203.0.113.7"), 1000 + n), flags);
                    assert!(matches!(lb.process(0, 0, &mut frame), Verdict::Forward { port: 1, .. }));
                }
            }
            assert_eq!(left_after(&mut *lb, 29), 100);
            assert_eq!(left_after(&mut *lb, 31), 0, "flags {flags:x}, {times} times");
        }
    }
    let mut lb = two_services(100);
    for port in (1..=100).chain(1..=100) {
        lb.process(0, 0, &mut from_client(port));
    }
    assert_eq!(left_after(&mut *lb, 29), 100);
    assert_eq!(left_after(&mut *lb, 31), 0);
}

#[test]
fn a_backend_that_answers_a_syn_confirms_nothing() {
    let mut lb = two_services(10);
    let (c, s) = ((ip("203.0.113.7"), 1000), (ip("192.0.2.10"), 443));
    lb.process(0, 0, &mut web(c, 2));
    let mut answer = |flags| {
        let mut frame = Build::tcp(s, c, flags, b"").macs(LB_BACKEND_MAC, backend_mac(1)).frame();
        assert!(matches!(lb.process(0, 1, &mut frame), Verdict::Forward { port: 0, .. }));
    };
    answer(0x12);
    answer(0x12);
    lb.process(0, 0, &mut web(c, 2));
    assert_eq!(left_after(&mut *lb, 31), 0);
}

#[test]
fn both_sides_confirm() {
    let (c, s) = ((ip("203.0.113.7"), 1000), (ip("192.0.2.10"), 443));
    let mut lb = two_services(10);
    let mut answer = Build::tcp(s, c, 0x12, b"").macs(LB_BACKEND_MAC, backend_mac(1)).frame();
    lb.process(0, 0, &mut web(c, 2));
    lb.process(0, 1, &mut answer);
    lb.process(0, 0, &mut web(c, 0x10));
    // UDP: one answer is enough.
    lb.process(0, 0, &mut from_client(5000));
    let answer = Build::udp((s.0, 53), (ip("198.51.100.1"), 5000), b"!");
    lb.process(0, 1, &mut answer.macs(LB_BACKEND_MAC, backend_mac(1)).frame());
    assert_eq!(left_after(&mut *lb, 299), 2);
    assert_eq!(left_after(&mut *lb, 301), 0);
}
