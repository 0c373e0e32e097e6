//! The balancer against a naive model, and its table's bounds.
// Helpers outside of #[test] functions; small values.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
};

use crate::common::{
    carry,
    naive::{self, Naive, Seen},
    random::{self, Random},
    traffic::{Sent, any_frame},
    *,
};
use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{
        Affinity, Backend, Chain, Link, LoadBalancer, Mode, RuleAction, Vip,
        tracking::{self, BeyondHalfOpen, HalfOpen},
    },
};
use dataplane_engine::{
    DropReason, PacketFunction, Verdict, build, build_with_seed,
    events::Happened::{self, Closed, Opened},
    maglev,
};
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
    /// In a tunnel when it was last checked.
    direct: bool,
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
            _ if self.direct && self.fin[0] => 120_000,
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
    /// Our addresses on the backend port.
    own: Vec<IpAddr>,
    connections: Vec<Connection>,
}

/// One of these that is IPv4, or is not.
fn of_version(addresses: &[IpAddr], v4: bool) -> Option<IpAddr> {
    addresses.iter().copied().find(|a| a.is_ipv4() == v4)
}

fn backend_ip(number: u16, v4: bool) -> IpAddr {
    ip(&if v4 { format!("10.0.0.{number}") } else { format!("fd00::{number}") })
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
            Seen::Arp(p) if (!far || !self.own.is_empty()) && (ours || group) => self.arp(far, frame, &p),
            Seen::Arp(_) if far => Err("neighbour_ignored"),
            Seen::Ip(p) if p.is_solicitation() && (!far || !self.own.is_empty()) && (ours || group) => {
                self.solicitation(far, frame, &p)
            }
            Seen::Ip(p) if p.is_solicitation() || p.is_advertisement() => Err("neighbour_ignored"),
            _ if !ours => Err("not_ours"),
            Seen::Ip(p) if far => self.at_backend_port(now_ms, frame, &p),
            Seen::Ip(p) => self.at_client_port(now_ms, frame, &p),
            Seen::Arp(_) => unreachable!(),
        }
    }

    fn is_here(&self, far: bool, address: IpAddr) -> bool {
        if far { self.own.contains(&address) } else { self.vips.iter().any(|v| v.address == address) }
    }

    fn arp(&self, far: bool, frame: &[u8], p: &[u8]) -> Outcome {
        let mac = if far { LB_BACKEND_MAC } else { LB_CLIENT_MAC };
        let (op, _, sender, target) = naive::arp(p).ok_or("arp")?;
        if op != 1 || sender == target || !self.is_here(far, target.into()) {
            return Err("neighbour_ignored");
        }
        let at = frame.len() - p.len();
        let mut out = addressed(frame, MacAddr(frame[6..12].try_into().unwrap()), mac);
        out[at + 7] = 2;
        out[at + 8..at + 14].copy_from_slice(&mac.0);
        out[at + 14..at + 18].copy_from_slice(&target.octets());
        out[at + 18..at + 28].copy_from_slice(&p[8..18]);
        Ok((u16::from(far), out))
    }

    /// Built from nothing; compared with what the engine made of the solicitation.
    fn solicitation(&self, far: bool, frame: &[u8], p: &Naive) -> Outcome {
        let mac = if far { LB_BACKEND_MAC } else { LB_CLIENT_MAC };
        let target = p.discovery().ok_or("neighbour_discovery")?;
        if !self.is_here(far, target.into()) {
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
            rest.extend([&[2, 1][..], &mac.0].concat());
        }
        let reply = Build { hops: 255, ..Build::icmp(target.into(), destination, 136, 0, &rest) }.packet();
        let out = [&to.0[..], &mac.0, &frame[12..ip_at], &frame[ip_at..ip_at + 4], &reply[4..]].concat();
        Ok((u16::from(far), out))
    }

    fn pick(&self, c: &Connection) -> Option<(String, u64)> {
        let flow = maglev::FiveTuple {
            source: c.client.0,
            destination: c.service.0,
            source_port: c.client.1,
            destination_port: c.service.1,
            protocol: c.protocol,
        };
        let flow = match self.service(c.service, c.protocol)?.affinity {
            Affinity::FiveTuple => flow,
            Affinity::Source => {
                maglev::FiveTuple { source_port: 0, destination_port: 0, protocol: 0, ..flow }
            }
        };
        let index = table_of(&self.backends).lookup(maglev::flow_hash(&flow))?;
        Some((self.backends[index].id.clone(), self.since[index]))
    }

    fn service(&self, service: (IpAddr, u16), protocol: u8) -> Option<&Vip> {
        self.vips.iter().find(|v| (v.address, v.port, v.protocol) == (service.0, service.1, protocol))
    }

    fn mode(&self, c: &Connection) -> Mode {
        self.service(c.service, c.protocol).unwrap().mode
    }

    /// The service whose NAT replies have this source.
    fn untranslated(&self, source: (IpAddr, u16), protocol: u8) -> Option<(IpAddr, u16)> {
        let nat = |v: &&Vip| {
            v.mode == Mode::Nat
                && v.protocol == protocol
                && v.address.is_ipv4() == source.0.is_ipv4()
                && v.backend_port.unwrap_or(v.port) == source.1
        };
        let vip = self.vips.iter().find(nat).filter(|_| !self.is_here(false, source.0))?;
        Some((vip.address, vip.port))
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
        if self.service(service, protocol).is_none() {
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
        self.connections[i].direct = self.mode(&self.connections[i]).is_tunnel();
        Ok(Some(i))
    }

    /// Of a tunnel to a backend, for a service of this version.
    fn ends(&self, backend: &Backend, v4: bool) -> (IpAddr, IpAddr) {
        let ends = |v4| Some((of_version(&self.own, v4)?, of_version(&backend.addresses, v4)?));
        ends(v4).or(ends(!v4)).unwrap()
    }

    /// To a connection's backend, in the service's mode.
    fn dispatch(&self, c: &Connection, frame: &[u8], p: &Naive, quoted: Option<&Naive>) -> Outcome {
        let backend = self.backends.iter().find(|b| b.id == c.backend.0).unwrap();
        let vip = self.service(c.service, c.protocol).unwrap();
        if vip.mode == Mode::L2 {
            return Ok((1, addressed(frame, backend.mac, LB_BACKEND_MAC)));
        }
        if p.hops <= 1 {
            if quoted.is_some() {
                return Err("hop_limit");
            }
            return Ok((0, carry::error_about(frame, p, None, LB_CLIENT_MAC.0)));
        }
        let frame = carry::hopped(frame);
        let v4 = p.source.is_ipv4();
        let out = match vip.mode {
            Mode::Nat => {
                let to = (of_version(&backend.addresses, v4).unwrap(), vip.backend_port.unwrap_or(vip.port));
                carry::translated(&frame, p, quoted, false, to)
            }
            _ => {
                let (ours, theirs) = self.ends(backend, v4);
                let hash = maglev::flow_hash(&maglev::FiveTuple {
                    source: c.client.0,
                    destination: c.service.0,
                    source_port: c.client.1,
                    destination_port: c.service.1,
                    protocol: c.protocol,
                });
                carry::Tunnel { ours, theirs, gue: vip.mode == Mode::Gue, hash }.wrapped(&frame)
            }
        };
        Ok((1, addressed(&out, backend.mac, LB_BACKEND_MAC)))
    }

    /// From a backend to a connection's client.
    fn give_back(&self, c: &Connection, frame: &[u8], p: &Naive, quoted: Option<&Naive>) -> Outcome {
        if self.mode(c) != Mode::Nat {
            return Ok((0, addressed(frame, MacAddr(c.mac), LB_CLIENT_MAC)));
        }
        if p.hops <= 1 {
            return Err("hop_limit");
        }
        let out = carry::translated(&carry::hopped(frame), p, quoted, true, c.service);
        Ok((0, addressed(&out, MacAddr(c.mac), LB_CLIENT_MAC)))
    }

    /// Whether a connection's packets from the far side come from there.
    fn comes_from(&self, c: &Connection, source: IpAddr, translated: bool) -> bool {
        let backend = self.backends.iter().find(|b| b.id == c.backend.0).unwrap();
        match self.mode(c) {
            Mode::Nat => translated && backend.addresses.contains(&source),
            _ => !translated,
        }
    }

    fn at_client_port(&mut self, now_ms: u64, frame: &[u8], p: &Naive) -> Outcome {
        if p.is_error() {
            let q = p.quoted().filter(|q| q.source == p.destination).ok_or("icmp_unrelated")?;
            let (client, service) = ((q.destination, q.destination_port), (q.source, q.source_port));
            let i = self.live(now_ms, client, service, q.protocol, p.vlan)?.ok_or("icmp_unrelated")?;
            return self.dispatch(&self.connections[i], frame, p, Some(&q));
        }
        if !matches!(p.protocol, 6 | 17) {
            return Err("no_service");
        }
        let (client, service) = ((p.source, p.source_port), (p.destination, p.destination_port));
        let mac = frame[6..12].try_into().unwrap();
        let (fin, syn, rst, ack) = (p.flags & 1 != 0, p.flags & 2 != 0, p.flags & 4 != 0, p.flags & 16 != 0);
        let mut live = self.live(now_ms, client, service, p.protocol, p.vlan)?;
        let over = |c: &Connection| c.closing() || c.direct && c.fin[0];
        if let Some(i) = live.filter(|i| syn && !ack && over(&self.connections[*i])) {
            self.connections.remove(i);
            live = None;
        }
        let i = match live {
            Some(i) => i,
            None => {
                let vip = self.service(service, p.protocol).ok_or("no_service")?;
                let mut new = Connection {
                    client,
                    service,
                    protocol: p.protocol,
                    vlan: p.vlan,
                    backend: (String::new(), 0),
                    mac,
                    last_ms: now_ms,
                    direct: vip.mode.is_tunnel(),
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
        c.confirmed |= (c.answered || c.direct && live.is_some()) && !syn && !rst;
        c.fin[0] |= fin;
        c.reset |= rst;
        (c.mac, c.last_ms) = (mac, now_ms);
        self.dispatch(&self.connections[i], frame, p, None)
    }

    fn at_backend_port(&mut self, now_ms: u64, frame: &[u8], p: &Naive) -> Outcome {
        if p.is_error() {
            let q = p.quoted().filter(|q| q.source == p.destination).ok_or("icmp_unrelated")?;
            if self.own.contains(&p.destination) {
                let end = |b: &Backend| {
                    [true, false].map(|v4| self.ends(b, v4)).iter().any(|e| e.1 == q.destination)
                };
                let ours = [4, 41, 17].contains(&q.protocol) && self.backends.iter().any(end);
                return Err(if ours { "consumed" } else { "icmp_unrelated" });
            }
            let (client, seen) = ((q.source, q.source_port), (q.destination, q.destination_port));
            let service = self.untranslated(seen, q.protocol);
            let i = self.live(now_ms, client, service.unwrap_or(seen), q.protocol, p.vlan)?;
            let i = i.ok_or("icmp_unrelated")?;
            if !self.comes_from(&self.connections[i], q.destination, service.is_some()) {
                return Err("icmp_unrelated");
            }
            return self.give_back(&self.connections[i], frame, p, Some(&q));
        }
        if !matches!(p.protocol, 6 | 17) {
            return Err("untracked");
        }
        let (client, seen) = ((p.destination, p.destination_port), (p.source, p.source_port));
        let service = self.untranslated(seen, p.protocol);
        let i = self.live(now_ms, client, service.unwrap_or(seen), p.protocol, p.vlan)?.ok_or("untracked")?;
        if !self.comes_from(&self.connections[i], p.source, service.is_some()) {
            return Err("untracked");
        }
        let c = &mut self.connections[i];
        c.answered = true;
        c.confirmed |= p.protocol == 17;
        c.fin[1] |= p.flags & 1 != 0;
        c.reset |= p.flags & 4 != 0;
        c.last_ms = now_ms;
        self.give_back(&self.connections[i], frame, p, None)
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
    let modes = prop::sample::select(vec![Mode::L2, Mode::Nat, Mode::Ipip, Mode::Gue]);
    let options = (modes, any::<bool>(), any::<bool>());
    (prop::sample::subsequence(all, 1..=n), proptest::collection::vec(options, n)).prop_map(
        |(vips, options)| {
            let dressed = |(vip, (mode, port, source)): (Vip, (Mode, bool, bool))| Vip {
                mode,
                backend_port: (mode == Mode::Nat && port).then_some(8000 + vip.port),
                affinity: if source { Affinity::Source } else { Affinity::FiveTuple },
                ..vip
            };
            vips.into_iter().zip(options).map(dressed).collect()
        },
    )
}

/// Our addresses towards the backends: of both versions, or one.
fn own() -> impl Strategy<Value = Vec<IpAddr>> {
    prop::sample::subsequence(vec![ip("10.0.0.254"), ip("fd00::254")], 1..=2)
}

fn with_addresses(backend: Backend) -> Backend {
    let addresses = [true, false].map(|v4| backend_ip(backend.number, v4)).to_vec();
    Backend { addresses, ..backend }
}

fn configured(vips: Vec<Vip>, backends: Vec<Backend>, own: &[IpAddr]) -> Configuration {
    let mut it = balancer(vec![], vec![], 4096);
    if let Function::LoadBalancer(of) = &mut it.function {
        *of = LoadBalancer { vips, backends, addresses: own.to_vec(), ..of.clone() };
    }
    it.check().unwrap();
    it
}

/// What a VIP sends to a client or an ICMP error quotes, as a NAT backend would: from its own address and another port.
fn as_backend(sent: &Sent, number: u16, backend_port: bool) -> Option<Sent> {
    let Seen::Ip(p) = naive::read(&sent.frame) else { return None };
    let quoted = p.quoted().filter(|_| p.is_error());
    let port = match &quoted {
        Some(q) => q.destination_port,
        None => p.source_port,
    };
    if !matches!(quoted.as_ref().map_or(p.protocol, |q| q.protocol), 6 | 17) {
        return None;
    }
    let to =
        (backend_ip(number, p.source.is_ipv4()), if backend_port { port.wrapping_add(8000) } else { port });
    Some(Sent { far: true, frame: carry::translated(&sent.frame, &p, quoted.as_ref(), true, to) })
}

fn backends() -> impl Strategy<Value = Vec<Backend>> {
    let all: Vec<Backend> = (1..=5).map(|n| with_addresses(backend(n, u32::from(n)))).collect();
    prop_oneof![9 => prop::sample::subsequence(all, 1..=5).prop_shuffle(), 1 => Just(vec![])]
}

/// An outer UDP checksum over an inner one that is wrong is wrong, too: it is not compared.
fn comparable(sent: &[u8], mut got: Vec<u8>, mut expected: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let wrong = matches!(naive::read(sent), Seen::Ip(p) if matches!(p.protocol, 6 | 17) && !carry::transport_is_right(&p));
    let at = carry::l3(&expected);
    if wrong
        && expected.len() > at + 48
        && expected[at] >> 4 == 6
        && expected[at + 42..at + 44] == [0x17, 0xc0]
    {
        got[at + 46..at + 48].fill(0);
        expected[at + 46..at + 48].fill(0);
    }
    (got, expected)
}

#[derive(Debug, Clone)]
enum Op {
    Frame(Sent),
    FromBackend(Sent, u16, bool),
    /// What one of the frames that left lately causes: a reply with these flags, or an ICMP error that quotes so many bytes.
    Caused(prop::sample::Index, Result<u8, usize>),
    Wait(u64),
    Reconfigure(Vec<Vip>, Vec<Backend>),
    Tick,
}

fn caused() -> impl Strategy<Value = Result<u8, usize>> {
    prop_oneof![
        prop::sample::select(vec![2u8, 0x12, 0x10, 0x10, 0x18, 0x11, 4]).prop_map(Ok),
        (28..120usize).prop_map(Err)
    ]
}

/// See [`Op::Caused`]; `left` by a port.
fn cause((port, left): &(u16, Vec<u8>), what: &Result<u8, usize>) -> Option<Sent> {
    let Seen::Ip(p) = naive::read(left) else { return None };
    let tags = [p.vlan.0, p.vlan.1].into_iter().filter(|tag| *tag != 0).collect();
    let (from, to) = ((p.destination, p.destination_port), (p.source, p.source_port));
    let build = match what {
        Ok(flags) if p.protocol == 6 => Build::tcp(from, to, *flags, b"answer"),
        Ok(_) => Build::udp(from, to, b"answer"),
        Err(keep) => {
            let mut quoted = carry::packet(left).to_vec();
            quoted.truncate(*keep.max(&if from.0.is_ipv4() { 28 } else { 48 }));
            let (router, kind) = if from.0.is_ipv4() { ("10.9.9.9", 11) } else { ("fd99::9", 3) };
            Build::icmp(ip(router), to.0, kind, 0, &[&[0; 4][..], &quoted].concat())
        }
    };
    let far = *port == 1;
    let own = if far { LB_BACKEND_MAC } else { LB_CLIENT_MAC };
    Some(Sent { far, frame: Build { tags, ..build.macs(own, CLIENT_MAC) }.frame() })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        45 => any_frame().boxed().prop_map(Op::Frame),
        25 => (any_frame().boxed(), 1..6u16, any::<bool>()).prop_map(|(sent, n, port)| Op::FromBackend(sent, n, port)),
        25 => (any::<prop::sample::Index>(), caused()).prop_map(|(which, what)| Op::Caused(which, what)),
        3 => prop::sample::select(vec![1, 9_999_000, 10_001_000, 31_000_000, 301_000_000]).prop_map(Op::Wait),
        2 => (vips(), backends()).prop_map(|(v, b)| Op::Reconfigure(v, b)),
        2 => Just(Op::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn decides_and_rewrites_as_the_model(
        v in vips(), b in backends(), own in own(), seed: u64, ops in proptest::collection::vec(op(), 1..150),
    ) {
        let mut engine = build_with_seed(&configured(v.clone(), b.clone(), &own), seed).unwrap();
        let since = vec![0; b.len()];
        let mut model = Model { vips: v, backends: b, since, generation: 0, own: own.clone(), connections: vec![] };
        let mut now_us = 5_000_000;
        let mut left: Vec<(u16, Vec<u8>)> = vec![];
        for op in ops {
            now_us += 10;
            let op = match op {
                Op::Caused(which, what) => match left.get(which.index(left.len().max(1))).and_then(|l| cause(l, &what)) {
                    Some(sent) => Op::Frame(sent),
                    None => continue,
                },
                Op::FromBackend(sent, n, port) if sent.far => {
                    Op::Frame(as_backend(&sent, n, port).unwrap_or(sent))
                }
                Op::FromBackend(sent, ..) => Op::Frame(sent),
                op => op,
            };
            match op {
                Op::FromBackend(..) | Op::Caused(..) => unreachable!(),
                Op::Wait(us) => now_us += us,
                Op::Tick => engine.tick(now_us),
                Op::Reconfigure(vips, backends) => {
                    engine.reconfigure(&configured(vips.clone(), backends.clone(), &own)).unwrap();
                    model.reconfigure(vips, backends);
                }
                Op::Frame(Sent { far, frame }) => {
                    let expected = model.frame(now_us / 1000, far, &frame);
                    let mut bytes = frame.clone();
                    let got = engine.process(now_us, u16::from(far), &mut bytes);
                    match (got, expected) {
                        (Verdict::Forward { port }, Ok((expected_port, expected))) => {
                            prop_assert_eq!(port, expected_port);
                            left.push((port, bytes.clone()));
                            if left.len() > 8 {
                                left.remove(0);
                            }
                            let (got, expected) = comparable(&frame, bytes, expected);
                            prop_assert_eq!(got, expected, "{:02x?}", frame);
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
    let own = [ip("10.0.0.254"), ip("fd00::254")];
    let (v, b) = (drawn(vips(), &mut runner), drawn(backends(), &mut runner));
    let mut engine = build_with_seed(&configured(v.clone(), b.clone(), &own), seed).unwrap();
    let since = vec![0; b.len()];
    let mut model =
        Model { vips: v, backends: b, since, generation: 0, own: own.to_vec(), connections: vec![] };
    let mut left: Vec<(u16, Vec<u8>)> = vec![];
    let (mut now_us, mut done, mut passed) = (5_000_000, 0, 0_u64);
    let mut next = stream.next();
    while done < frames {
        now_us += random.next() % 3000;
        match random.below(800) {
            0..8 => now_us += random.pick(&[9_999_000, 10_001_000, 31_000_000, 301_000_000]),
            8..16 => engine.tick(now_us),
            16 => {
                let (v, b) = (drawn(vips(), &mut runner), drawn(backends(), &mut runner));
                engine.reconfigure(&configured(v.clone(), b.clone(), &own)).unwrap();
                model.reconfigure(v, b);
            }
            // What is over is found by nobody.
            17..20 => model.connections.retain(|c| now_us / 1000 - c.last_ms <= c.lifetime_ms()),
            _ => {}
        }
        let (far, most) = (next.far, 1 + random.below(80));
        let mut sent = vec![];
        while next.far == far && sent.len() < most {
            let plain = std::mem::replace(&mut next, stream.next());
            // Some as a backend that translates sends it, or caused by what left lately.
            let other = match random.below(8) {
                0 | 1 => as_backend(&plain, 1 + random.below(5) as u16, random.one_in(2)),
                2 | 3 if !left.is_empty() => {
                    let flags = random.pick(&[2, 0x12, 0x10, 0x10, 0x18, 0x11, 4]);
                    let what = if random.one_in(3) { Err(28 + random.below(90)) } else { Ok(flags) };
                    cause(&left[random.below(left.len())], &what)
                }
                _ => None,
            };
            sent.push(other.filter(|o| o.far == far).unwrap_or(plain).frame);
        }
        let mut bytes = sent.clone();
        let mut verdicts = vec![Verdict::Drop(DropReason::Untracked); sent.len()];
        engine.burst(now_us, u16::from(far), &mut bytes, &mut verdicts);
        for ((frame, bytes), got) in sent.iter().zip(&bytes).zip(verdicts) {
            let expected = model.frame(now_us / 1000, far, frame);
            let same = match (got, &expected) {
                (Verdict::Forward { port }, Ok((to, expected))) => {
                    let at = random.below(64).min(left.len());
                    left.splice(at..(at + 1).min(left.len()), [(port, bytes.clone())]);
                    let (bytes, expected) = comparable(frame, bytes.clone(), expected.clone());
                    port == *to && bytes == expected
                }
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

/// What a firewall before the balancer looks after, which protocols it lets through, or no firewall.
fn before() -> impl Strategy<Value = Option<(tracking::Tracking, Vec<u8>)>> {
    let plain = tracking::Tracking::default;
    let cookies = Some(HalfOpen { limit: 2, beyond: BeyondHalfOpen::Cookie });
    let trackings = vec![
        plain(),
        tracking::Tracking { half_open: cookies, ..plain() },
        tracking::Tracking { verify_checksums: true, ..plain() },
        tracking::Tracking { strict_tcp: true, ..plain() },
    ];
    let protocols = prop::sample::select(vec![vec![6, 17], vec![17], vec![6]]);
    prop::option::weighted(0.7, (prop::sample::select(trackings), protocols))
}

/// A balancer, or a firewall and it in a row, with the same ends.
fn behind(before: Option<&(tracking::Tracking, Vec<u8>)>, of: Configuration) -> Configuration {
    let Some((tracking, protocols)) = before else { return of };
    let rules = protocols
        .iter()
        .map(|p| rule(&format!("protocol-{p}"), RuleAction::Allow, Some(*p), None, None))
        .collect();
    let mut it = firewall(rules, 4096);
    let [client, backend] = [0, 1].map(|n| of.ports[n].clone());
    if let Function::Firewall(first) = &mut it.function {
        (first.inside, first.tracking) = (client.name.clone(), tracking.clone());
    }
    it.ports[1] = backend;
    let links = vec![Link { name: client.name, mac: client.mac }];
    it.function = Function::Chain(Chain { links, functions: vec![it.function, of.function] });
    it.check().unwrap();
    it
}

/// One burst at once and frame by frame: the same verdicts, and bytes.
fn same(
    single: &mut dyn PacketFunction,
    burst: &mut dyn PacketFunction,
    now_us: u64,
    frames: Vec<Vec<u8>>,
    far: bool,
) -> Result<(), TestCaseError> {
    let (mut one, mut all) = (frames.clone(), frames);
    let mut verdicts = vec![Verdict::Drop(DropReason::Consumed); all.len()];
    burst.burst(now_us, u16::from(far), &mut all, &mut verdicts);
    for ((frame, other), verdict) in one.iter_mut().zip(&all).zip(&verdicts) {
        let expected = single.process(now_us, u16::from(far), frame);
        prop_assert_eq!((expected, &*frame), (*verdict, other));
    }
    Ok(())
}

/// Frames of one conversation with a service, in no order: some open it, most go on.
fn talk() -> impl Strategy<Value = Vec<Sent>> {
    (0..2u16, prop::sample::select(vec![6u8, 17]), 0..3u16, prop::sample::select(vec![0, 6, 20])).prop_map(
        |(host, protocol, port, padding)| {
            let client = (ip(&format!("198.51.100.{}", host + 1)), 49_152 + port);
            let service = (ip("192.0.2.10"), if protocol == 6 { 443 } else { 53 });
            let mut out = vec![];
            for (far, flags, payload) in [
                (false, 2, 0),
                (true, 0x12, 0),
                (false, 0x10, 9),
                (true, 0x10, 3),
                (false, 0x11, 0),
                (true, 0x10, 0),
                (false, 0x18, 40),
                (true, 0x18, 5),
                (false, 4, 0),
            ] {
                let (s, d) = if far { (service, client) } else { (client, service) };
                let bytes = vec![0x5a; payload];
                let b =
                    if protocol == 6 { Build::tcp(s, d, flags, &bytes) } else { Build::udp(s, d, &bytes) };
                let own = if far { LB_BACKEND_MAC } else { LB_CLIENT_MAC };
                out.push(Sent { far, frame: Build { padding, ..b.macs(own, CLIENT_MAC) }.frame() });
            }
            out
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Bursts of any size, from either side, alone or behind a firewall in a row: no other verdict, byte or counter than frame by frame.
    #[test]
    fn a_burst_is_its_frames_in_turn(
        v in vips(), b in backends(), own in own(), before in before(), seed: u64,
        talks in proptest::collection::vec(talk(), 1..8),
        ops in proptest::collection::vec((op().boxed(), 0_usize..4096, 0_usize..4), 1..250),
    ) {
        let row = |v: Vec<Vip>, b: Vec<Backend>| behind(before.as_ref(), configured(v, b, &own));
        let built = || build_with_seed(&row(v.clone(), b.clone()), seed).unwrap();
        let (mut single, mut burst) = (built(), built());
        let mut now_us = 5_000_000;
        let mut waiting: (bool, Vec<Vec<u8>>) = (false, Vec::new());
        for (op, pick, more) in ops {
            let sent = match &op {
                Op::Caused(..) => continue,
                Op::Frame(sent) if more == 0 => Some(sent.clone()),
                Op::FromBackend(sent, n, port) if more == 0 => as_backend(sent, *n, *port),
                Op::Frame(_) | Op::FromBackend(..) => {
                    let talk = &talks[pick % talks.len()];
                    let sent = talk[pick / 16 % talk.len()].clone();
                    // Those to backends that translate answer from their own addresses.
                    let translated = as_backend(&sent, 1 + (pick % 5) as u16, false);
                    Some(translated.filter(|_| sent.far && more == 1).unwrap_or(sent))
                }
                _ => None,
            };
            let ends = sent.as_ref().is_none_or(|s| s.far != waiting.0) || waiting.1.len() > pick % 100;
            if ends {
                same(&mut *single, &mut *burst, now_us, std::mem::take(&mut waiting.1), waiting.0)?;
                now_us += 10;
            }
            match (op, sent) {
                (_, Some(sent)) => {
                    waiting.0 = sent.far;
                    waiting.1.push(sent.frame);
                }
                (Op::Wait(us), _) => now_us += us,
                (Op::Reconfigure(vips, backends), _) => {
                    let next = row(vips, backends);
                    single.reconfigure(&next).unwrap();
                    burst.reconfigure(&next).unwrap();
                }
                _ => [&mut single, &mut burst].into_iter().for_each(|f| f.tick(now_us)),
            }
        }
        same(&mut *single, &mut *burst, now_us, waiting.1, waiting.0)?;
        // A burst looks for what is over by itself.
        [&mut single, &mut burst].into_iter().for_each(|f| f.tick(now_us));
        let counters = |f: &dyn PacketFunction| {
            let mut out = std::collections::BTreeMap::new();
            f.counters(&mut out);
            (out, f.connections())
        };
        prop_assert_eq!(counters(&*single), counters(&*burst));
    }
}

fn from_client(port: u16) -> Vec<u8> {
    Build::udp((ip("198.51.100.1"), port), (ip("192.0.2.10"), 53), b"?").frame()
}

#[test]
fn a_full_table_refuses_new_connections_and_keeps_those_that_were_answered() {
    let config = |n, most| {
        balancer(vec![vip("dns", "192.0.2.10", 17, 53)], (1..=n).map(|n| backend(n, 1)).collect(), most)
    };
    let mut lb = build(&config(2, 5)).unwrap();
    for port in 1..=5 {
        assert!(matches!(lb.process(0, 0, &mut from_client(port)), Verdict::Forward { port: 1, .. }));
    }
    // Nobody has answered: the oldest makes room.
    assert!(matches!(lb.process(0, 0, &mut from_client(6)), Verdict::Forward { port: 1, .. }));
    let answer = |port| {
        Build::udp((ip("192.0.2.10"), 53), (ip("198.51.100.1"), port), b"!")
            .macs(LB_BACKEND_MAC, backend_mac(1))
    };
    assert_eq!(lb.process(0, 1, &mut answer(1).frame()), Verdict::Drop(DropReason::Untracked));
    assert!(matches!(lb.process(0, 0, &mut from_client(1)), Verdict::Forward { port: 1, .. }));
    for port in [1, 3, 4, 5, 6] {
        assert!(
            matches!(lb.process(0, 1, &mut answer(port).frame()), Verdict::Forward { port: 0, .. }),
            "{port}"
        );
    }
    assert_eq!(lb.process(0, 0, &mut from_client(2)), Verdict::Drop(DropReason::TableFull));
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

/// Whatever came before it and lives longer.
#[test]
fn what_is_closed_is_forgotten_at_its_time() {
    let mut lb = two_services(10);
    lb.process(0, 0, &mut from_client(5000));
    for flags in [2, 4] {
        lb.process(0, 0, &mut web((ip("203.0.113.7"), 1000), flags));
    }
    assert_eq!(left_after(&mut *lb, 9), 2);
    assert_eq!(left_after(&mut *lb, 11), 1);
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

/// What was told since the last time: of which client port, when, and which backend.
fn told(lb: &mut dyn PacketFunction) -> Vec<(Happened, u16, u32, u32)> {
    let ring = lb.events().unwrap().ring();
    assert_eq!(ring.missed(), 0);
    let all = ring.exchange(Vec::with_capacity(1024));
    let from_client =
        |e: &dataplane_engine::events::Event| e.ends.from_near && e.ends.destination == ip("192.0.2.10");
    assert!(all.iter().all(from_client), "{all:?}");
    all.iter().map(|e| (e.happened, e.ends.source_port, e.at_ms, e.chosen)).collect()
}

fn sampled(most: u32) -> Box<dyn PacketFunction> {
    let mut lb = two_services(most);
    lb.events().unwrap().sample(1);
    lb
}

#[test]
fn both_ends_of_a_connection_are_told_whichever_way_it_ends() {
    let at = |s: u64| s * 1_000_000;
    let client = |port| (ip("203.0.113.7"), port);
    // Over, and nobody asks; its end is its last packet.
    let mut lb = sampled(1000);
    lb.process(at(1), 0, &mut from_client(1));
    lb.process(at(3), 0, &mut from_client(1));
    assert_eq!(told(&mut *lb), [(Opened, 1, 1_000, 0)]);
    lb.tick(at(40));
    assert_eq!(told(&mut *lb), [(Closed, 1, 3_000, 0)]);

    // Over, and found so by its next packet before it is looked at.
    for port in 1..=200 {
        lb.process(at(50), 0, &mut from_client(port));
    }
    assert_eq!(told(&mut *lb).len(), 200);
    lb.process(at(90), 0, &mut from_client(200));
    let then = told(&mut *lb);
    assert_eq!(then[then.len() - 2..], [(Closed, 200, 50_000, 0), (Opened, 200, 90_000, 0)]);
    assert!(then.len() < 150, "{}", then.len());
    lb.tick(at(91));
    assert_eq!(then.len() + told(&mut *lb).len(), 201);

    // Replaced by a new one between the same ends, after a reset.
    for flags in [2, 4, 2] {
        lb.process(at(100), 0, &mut web(client(7), flags));
    }
    let ends: Vec<_> = told(&mut *lb).into_iter().filter(|e| e.1 == 7).map(|e| e.0).collect();
    assert_eq!(ends, [Opened, Closed, Opened]);

    // The oldest makes room.
    let mut lb = sampled(2);
    for port in 1..=3 {
        lb.process(0, 0, &mut from_client(port));
    }
    assert_eq!(told(&mut *lb), [(Opened, 1, 0, 0), (Opened, 2, 0, 0), (Closed, 1, 0, 0), (Opened, 3, 0, 0)]);

    // Its service has gone.
    lb.reconfigure(&balancer(vec![vip("web", "192.0.2.10", 6, 443)], vec![backend(1, 1)], 2)).unwrap();
    lb.process(at(1), 0, &mut from_client(3));
    assert_eq!(told(&mut *lb), [(Closed, 3, 0, 0)]);
}

#[test]
fn a_told_connection_has_the_backend_of_the_configuration_that_runs() {
    let dns = |numbers: &[u16], most| {
        let backends = numbers.iter().map(|n| backend(*n, 1)).collect();
        balancer(vec![vip("dns", "192.0.2.10", 17, 53)], backends, most)
    };
    let mut lb = build(&dns(&[1, 2, 3], 100)).unwrap();
    lb.events().unwrap().sample(1);
    let mut on = vec![];
    for port in 1..=60 {
        let mut sent = from_client(port);
        lb.process(0, 0, &mut sent);
        on.push((1..=3).find(|n| backend_mac(*n).0[..] == sent[..6]).unwrap());
    }
    let opened: Vec<u16> = told(&mut *lb).iter().map(|e| e.3 as u16 + 1).collect();
    assert_eq!(opened, on);
    // Other places, one gone and another in its place, a larger table; nobody sends any more.
    lb.reconfigure(&dns(&[4, 3, 1], 200)).unwrap();
    lb.tick(31_000_000);
    let mut closed = told(&mut *lb);
    closed.sort_by_key(|e| e.1);
    let place = |on: &u16| [None, Some(2), None, Some(1)][usize::from(*on)].unwrap_or(u32::MAX);
    assert_eq!(closed.iter().map(|e| e.3).collect::<Vec<_>>(), on.iter().map(place).collect::<Vec<_>>());
    assert!(closed.iter().all(|e| e.0 == Closed));
    // Nothing of what is not in the sample.
    lb.events().unwrap().sample(u32::MAX);
    for port in 1..=60 {
        lb.process(40_000_000, 0, &mut from_client(port));
    }
    assert_eq!(told(&mut *lb), []);
}
