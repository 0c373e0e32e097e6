//! The firewall against a naive model, and its bounds.
// Helpers outside of #[test] functions; small values.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::{net::IpAddr, ops::Range};

use crate::common::{
    naive::{self, Naive, Piece, Seen},
    random::{self, Random},
    traffic::{Sent, any_frame},
    *,
};
use dataplane_control::{
    Configuration, Function,
    config::{
        PortRange, Prefix, Rule, RuleAction, Tracking,
        tracking::{BeyondHalfOpen, HalfOpen},
    },
};
use dataplane_engine::{DropReason, PacketFunction, Verdict, build, build_with_seed};
use proptest::{prelude::*, strategy::ValueTree as _};

const TCP_IDLE_MS: u64 = 300_000;
const OTHER_IDLE_MS: u64 = 60_000;

type End = (IpAddr, u16);

#[derive(Debug, Clone)]
struct Connection {
    from_far: bool,
    source: End,
    destination: End,
    protocol: u8,
    vlan: (u16, u16),
    last_ms: u64,
    checked: u64,
    answered: bool,
    established: bool,
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
            6 if !self.established => 30_000,
            6 if self.fin != [false, false] => 120_000,
            6 => TCP_IDLE_MS,
            _ => OTHER_IDLE_MS,
        }
    }
}

/// A datagram in pieces, a flag for each byte that passed.
#[derive(Debug)]
struct Datagram {
    name: (bool, IpAddr, IpAddr, u32, Option<u8>, (u16, u16)),
    since_ms: u64,
    generation: u64,
    bytes: Vec<bool>,
    end: Option<usize>,
    ended: bool,
}

/// What the documentation says, with lists.
#[derive(Debug, Default)]
struct Model {
    rules: Vec<Rule>,
    generation: u64,
    connections: Vec<Connection>,
    datagrams: Vec<Datagram>,
}

impl Datagram {
    fn take(&mut self, part: Range<usize>, more: bool) -> Result<(), &'static str> {
        self.bytes.resize(self.bytes.len().max(part.end), false);
        let before = self.bytes.clone();
        let known = before[part.clone()].iter().filter(|b| **b).count();
        if self.ended || known == part.len() {
            return Err("fragment_overlap");
        }
        self.bytes[part.clone()].fill(true);
        let last = before.iter().rposition(|b| *b).map_or(0, |b| b + 1);
        let contradicts = self.end.is_some_and(|end| part.end > end || !more && part.end != end)
            || !more && last > part.end;
        let starts = self.bytes.windows(2).filter(|w| !w[0] && w[1]).count() + usize::from(self.bytes[0]);
        if known > 0 || contradicts || starts > 8 {
            self.ended = true;
            self.bytes = before;
            return Err(if known > 0 { "fragment_overlap" } else { "fragment_size" });
        }
        if !more {
            self.end = Some(part.end);
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.end.is_some_and(|end| self.bytes[..end].iter().all(|b| *b))
    }
}

/// The end points of a packet: an echo's identifier stands for the asking side's port.
fn end_points(p: &Naive) -> (End, End) {
    match p.icmp {
        Some((_, _, id)) if p.is_request() => ((p.source, id), (p.destination, 0)),
        Some((_, _, id)) => ((p.source, 0), (p.destination, id)),
        None => ((p.source, p.source_port), (p.destination, p.destination_port)),
    }
}

impl Model {
    fn allowed(&self, from_far: bool, s: End, d: End, protocol: u8) -> Result<(), &'static str> {
        let side = if from_far { "inside" } else { "outside" };
        let has_ports = matches!(protocol, 6 | 17 | 132);
        let net = |p: Option<Prefix>, a: IpAddr| p.is_none_or(|p| contains(p, a));
        let ports =
            |r: Option<PortRange>, p: u16| r.is_none_or(|r| has_ports && (r.first..=r.last).contains(&p));
        let hit = self.rules.iter().find(|r| {
            r.from == side
                && r.protocol.is_none_or(|p| p == protocol)
                && net(r.source, s.0)
                && net(r.destination, d.0)
                && ports(r.source_ports, s.1)
                && ports(r.destination_ports, d.1)
        });
        match hit.map(|r| r.action) {
            Some(RuleAction::Allow) => Ok(()),
            Some(RuleAction::Deny | RuleAction::Reject) => Err("denied"),
            None => Err("no_rule"),
        }
    }

    /// Index of the live connection of a packet that came in on a side.
    fn live(&mut self, now_ms: u64, far: bool, p: &Naive) -> Result<Option<usize>, &'static str> {
        let (s, d) = end_points(p);
        let found = self.connections.iter().position(|c| {
            let same = if c.from_far == far {
                (c.source, c.destination) == (s, d)
            } else {
                (c.destination, c.source) == (s, d)
            };
            // An echo connection is asked from its initiator's side only.
            let icmp = p.icmp.is_none() || p.is_request() == (c.from_far == far);
            same && icmp && (c.protocol, c.vlan) == (p.protocol, p.vlan)
        });
        let Some(i) = found else { return Ok(None) };
        if now_ms - self.connections[i].last_ms > self.connections[i].lifetime_ms() {
            self.connections.remove(i);
            return Ok(None);
        }
        let c = self.connections[i].clone();
        if c.checked != self.generation {
            if self.allowed(c.from_far, c.source, c.destination, c.protocol).is_err() {
                self.connections.remove(i);
                return Err("revoked");
            }
            self.connections[i].checked = self.generation;
        }
        Ok(Some(i))
    }

    fn packet(&mut self, now_ms: u64, far: bool, p: &Naive) -> Result<(), &'static str> {
        if p.is_solicitation() || p.is_advertisement() {
            return p.discovery().map(|_| ()).ok_or("neighbour_discovery");
        }
        if p.is_error() {
            let quoted = p.quoted().ok_or("icmp_unrelated")?;
            if quoted.source != p.destination {
                return Err("icmp_unrelated");
            }
            let i = self.live(now_ms, !far, &quoted)?.ok_or("icmp_unrelated")?;
            return if self.connections[i].reset { Err("tcp_reset") } else { Ok(()) };
        }
        if p.icmp.is_some() && !p.is_request() && !p.is_reply() {
            return Err("icmp_type");
        }
        let Some(i) = self.live(now_ms, far, p)? else { return self.open(now_ms, far, p) };
        let closing = self.connections[i].closing();
        if p.protocol == 6 && !self.segment(i, far, p.flags)? {
            self.open_allowed(far, p)?;
            self.connections.remove(i);
            return self.open(now_ms, far, p);
        }
        if !closing {
            self.connections[i].last_ms = now_ms;
        }
        Ok(())
    }

    /// Whether the segment belongs to the connection (false: it opens a new one).
    fn segment(&mut self, i: usize, far: bool, flags: u8) -> Result<bool, &'static str> {
        let (fin, syn, rst, ack) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 16 != 0);
        let c = &mut self.connections[i];
        let initiator = c.from_far == far;
        if rst {
            c.reset = true;
        } else if syn && !ack {
            if c.closing() {
                return Ok(false);
            }
            if !initiator {
                return Err("tcp_state");
            }
        } else if c.reset {
            return Err("tcp_reset");
        } else if syn {
            if initiator {
                return Err("tcp_state");
            }
            c.answered = true;
        } else if !c.answered {
            if initiator {
                return Err("tcp_state");
            }
        } else {
            c.established |= initiator;
            c.fin[usize::from(initiator)] |= fin;
        }
        Ok(true)
    }

    fn open_allowed(&self, far: bool, p: &Naive) -> Result<(), &'static str> {
        let (s, d) = end_points(p);
        self.allowed(far, s, d, p.protocol)
    }

    fn open(&mut self, now_ms: u64, far: bool, p: &Naive) -> Result<(), &'static str> {
        if p.protocol == 6 && p.flags & 0x12 != 2 {
            return Err("tcp_not_syn");
        }
        if p.is_reply() {
            return Err("untracked");
        }
        self.open_allowed(far, p)?;
        let (source, destination) = end_points(p);
        self.connections.push(Connection {
            from_far: far,
            source,
            destination,
            protocol: p.protocol,
            vlan: p.vlan,
            last_ms: now_ms,
            checked: self.generation,
            answered: false,
            established: false,
            fin: [false; 2],
            reset: false,
        });
        Ok(())
    }

    fn fragment(&mut self, now_ms: u64, far: bool, p: &Naive, piece: &Piece) -> Result<(), &'static str> {
        let part = piece.bytes.clone();
        let v4 = p.source.is_ipv4();
        let aligned = !piece.more || part.len().is_multiple_of(8);
        if part.is_empty() || !aligned || v4 && p.protocol == 6 && part.start == 8 {
            return Err("fragment_tiny");
        }
        if part.end > 65_515 {
            return Err("fragment_size");
        }
        let name = (far, p.source, p.destination, piece.id, v4.then_some(p.protocol), p.vlan);
        self.datagrams.retain(|d| now_ms - d.since_ms <= 30_000 && d.generation == self.generation);
        if let Some(datagram) = self.datagrams.iter_mut().find(|d| d.name == name) {
            let taken = datagram.take(part, piece.more);
            self.datagrams.retain(|d| !d.is_whole());
            return taken;
        }
        if part.start > 0 {
            return Err("fragment_early");
        }
        self.packet(now_ms, far, p)?;
        let (bytes, generation) = (vec![true; part.end], self.generation);
        let first = Datagram { name, since_ms: now_ms, generation, bytes, end: None, ended: false };
        self.datagrams.push(first);
        Ok(())
    }

    fn frame(&mut self, now_ms: u64, far: bool, frame: &[u8]) -> Result<(), &'static str> {
        match naive::read_any(frame) {
            Seen::Bad => Err("bad"),
            Seen::Arp(p) => naive::arp(&p).map(|_| ()).ok_or("arp"),
            Seen::Ip(p) => match &p.piece {
                Some(piece) => self.fragment(now_ms, far, &p, piece),
                None => self.packet(now_ms, far, &p),
            },
        }
    }
}

fn contains(prefix: Prefix, address: IpAddr) -> bool {
    let bits = |a: IpAddr| match a {
        IpAddr::V4(a) => format!("{:032b}", a.to_bits()),
        IpAddr::V6(a) => format!("{:0128b}", a.to_bits()),
    };
    let n = usize::from(prefix.length);
    prefix.address.is_ipv4() == address.is_ipv4() && bits(prefix.address)[..n] == bits(address)[..n]
}

/// Reasons of the parser: the model only says "bad".
fn is_bad(reason: DropReason) -> bool {
    use DropReason::*;
    let bad =
        [Truncated, EtherType, Ipv4Header, Ipv4Checksum, SourceRoute, Ipv6Header, Ipv6Extension, Address];
    let transport = [Fragment, FragmentTiny, TcpHeader, TcpFlags, UdpHeader, TransportHeader, IcmpType];
    bad.contains(&reason) || transport.contains(&reason)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let prefixes = [
        "192.0.2.0/24",
        "192.0.2.10/32",
        "198.51.100.0/30",
        "2001:db8::/32",
        "2001:db8::10/128",
        "2001:db8:1::/64",
    ];
    let prefix = move || prop::option::of(prop::sample::select(prefixes.to_vec()));
    let ports = || prop::option::weighted(0.3, prop::sample::select(vec!["443", "1-100", "49152-49152"]));
    let protocol = prop_oneof![3 => Just(None), 3 => Just(Some(6)), 2 => Just(Some(17)), 1 => Just(Some(1)), 1 => Just(Some(58))];
    (any::<bool>(), any::<bool>(), protocol, prefix(), prefix(), ports(), ports()).prop_filter_map(
        "one IP version",
        |(inside, allow, protocol, source, destination, source_ports, destination_ports)| {
            let source: Option<Prefix> = source.map(|p| p.parse().unwrap());
            let destination: Option<Prefix> = destination.map(|p| p.parse().unwrap());
            if let (Some(s), Some(d)) = (source, destination)
                && s.address.is_ipv4() != d.address.is_ipv4()
            {
                return None;
            }
            let with_ports = matches!(protocol, Some(6 | 17));
            let range = |p: Option<&str>| p.filter(|_| with_ports).map(|p| p.parse().unwrap());
            Some(Rule {
                id: String::new(),
                from: if inside { "inside" } else { "outside" }.into(),
                action: if allow { RuleAction::Allow } else { RuleAction::Deny },
                protocol,
                source,
                destination,
                source_ports: range(source_ports),
                destination_ports: range(destination_ports),
                ..Rule::default()
            })
        },
    )
}

fn rule_set() -> impl Strategy<Value = Vec<Rule>> {
    let wide = prop::option::of(Just(rule("", RuleAction::Allow, None, None, None)));
    (proptest::collection::vec(any_rule(), 0..5), wide).prop_map(|(mut rules, wide)| {
        rules.extend(wide);
        for (i, rule) in rules.iter_mut().enumerate() {
            rule.id = format!("r{i}");
        }
        rules
    })
}

#[derive(Debug, Clone)]
enum Op {
    Frame(Sent),
    Wait(u64),
    Reconfigure(Vec<Rule>),
    Tick,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        60 => any_frame().prop_map(Op::Frame),
        4 => prop::sample::select(vec![1, 9_999_000, 10_001_000, 31_000_000, 61_000_000, 121_000_000, 301_000_000]).prop_map(Op::Wait),
        1 => rule_set().prop_map(Op::Reconfigure),
        2 => Just(Op::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn decides_as_the_model(rules in rule_set(), seed: u64, ops in proptest::collection::vec(op(), 1..200)) {
        let mut engine = build_with_seed(&firewall(rules.clone(), 4096), seed).unwrap();
        let mut model = Model { rules, generation: 0, ..Model::default() };
        let mut now_us = 5_000_000;
        for op in ops {
            now_us += 10;
            match op {
                Op::Wait(us) => now_us += us,
                Op::Tick => engine.tick(now_us),
                Op::Reconfigure(rules) => {
                    engine.reconfigure(&firewall(rules.clone(), 4096)).unwrap();
                    model.rules = rules;
                    model.generation += 1;
                }
                Op::Frame(Sent { far, frame }) => {
                    let expected = model.frame(now_us / 1000, far, &frame);
                    let mut bytes = frame.clone();
                    let got = engine.process(now_us, u16::from(far), &mut bytes);
                    prop_assert_eq!(&bytes, &frame, "a firewall changes nothing");
                    match (got, expected) {
                        (Verdict::Forward { port }, Ok(())) => {
                            prop_assert_eq!((port, bytes.len()), (u16::from(!far), frame.len()));
                        }
                        (Verdict::Drop(reason), Err("bad")) => prop_assert!(is_bad(reason), "{reason:?}"),
                        (Verdict::Drop(reason), Err(label)) => prop_assert_eq!(reason.label(), label),
                        (got, expected) => prop_assert!(false, "{got:?}, model {expected:?}: {frame:02x?}"),
                    }
                }
            }
        }
        // The model forgets only on a packet; ageing may have removed expired ones, never live ones.
        let live = model.connections.iter().filter(|c| now_us / 1000 - c.last_ms <= c.lifetime_ms()).count() as u64;
        prop_assert!((live..=model.connections.len() as u64).contains(&engine.connections()));
        // Age everything.
        engine.tick(now_us + 400_000_000);
        prop_assert_eq!(engine.connections(), 0);
    }
}

/// A rule set of the properties' kind.
fn drawn_rules(runner: &mut proptest::test_runner::TestRunner) -> Vec<Rule> {
    rule_set().new_tree(runner).unwrap().current()
}

/// So many datagrams that none gives way to another.
fn many_pieces(mut c: Configuration) -> Configuration {
    if let Function::Firewall(f) = &mut c.function {
        f.tracking.fragment_datagrams = Some(65_536);
    }
    c
}

/// In bursts, with waits, sweeps and reconfigurations between them; as many as [`random::frames_and_seed`] says.
#[test]
fn random_frames_are_decided_as_by_the_model() {
    let (frames, seed) = random::frames_and_seed();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut random = Random::new(seed);
    let mut stream = random::Stream::new(random.next());
    let rules = drawn_rules(&mut runner);
    let mut engine = build_with_seed(&many_pieces(firewall(rules.clone(), 16_384)), seed).unwrap();
    let mut model = Model { rules, generation: 0, ..Model::default() };
    let (mut now_us, mut done, mut passed) = (5_000_000, 0, 0_u64);
    let mut next = stream.next();
    while done < frames {
        now_us += random.next() % 3000;
        match random.below(400) {
            0..4 => now_us += random.pick(&[9_999_000, 10_001_000, 31_000_000, 61_000_000, 121_000_000]),
            4..8 => engine.tick(now_us),
            8 | 9 => {
                model.rules = drawn_rules(&mut runner);
                model.generation += 1;
                engine.reconfigure(&many_pieces(firewall(model.rules.clone(), 16_384))).unwrap();
            }
            // What is over is found by nobody.
            10 | 11 => model.connections.retain(|c| now_us / 1000 - c.last_ms <= c.lifetime_ms()),
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
            let same = match (got, expected) {
                (Verdict::Forward { port }, Ok(())) => port == u16::from(!far),
                (Verdict::Drop(reason), Err("bad")) => is_bad(reason),
                (Verdict::Drop(reason), Err(label)) => reason.label() == label,
                _ => false,
            };
            assert!(same, "seed {seed}, frame {done}: {got:?}, model {expected:?}: {frame:02x?}");
            assert_eq!(bytes, frame, "seed {seed}, frame {done}: a firewall changes nothing");
            done += 1;
            passed += u64::from(expected.is_ok());
        }
    }
    eprintln!("seed {seed}: {done} frames, {passed} passed");
    // Both ways are tried.
    assert!(passed > done / 10 && passed < done);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    /// Bursts of any size, from either side: no other verdict, byte or counter than frame by frame.
    #[test]
    fn a_burst_is_its_frames_in_turn(
        rules in rule_set(),
        seed: u64,
        guarded: bool,
        talks in proptest::collection::vec(talk(), 1..12),
        ops in proptest::collection::vec((op(), 0_usize..4096, 0_usize..3), 1..250),
    ) {
        let config = |rules: Vec<Rule>| guard(guarded, firewall([open_rules(), rules].concat(), 64));
        let built = || build_with_seed(&config(rules.clone()), seed).unwrap();
        let (mut single, mut burst) = (built(), built());
        let mut now_us = 5_000_000;
        let mut waiting: (bool, Vec<Vec<u8>>) = (false, Vec::new());
        for (op, pick, more) in ops {
            // Most frames are of few conversations: a burst has many of one, and what they change.
            let sent = match &op {
                Op::Frame(sent) if more == 0 => Some(sent.clone()),
                Op::Frame(_) => Some(talks[pick % talks.len()][pick / 16 % talks[pick % talks.len()].len()].clone()),
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
                (Op::Reconfigure(rules), _) => {
                    let next = config(rules);
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

/// With what may be configured beside the table.
fn guard(guarded: bool, mut c: Configuration) -> Configuration {
    if let (true, Function::Firewall(f)) = (guarded, &mut c.function) {
        let half_open = HalfOpen { limit: 3, beyond: BeyondHalfOpen::Cookie };
        f.tracking = Tracking { half_open: Some(half_open), strict_tcp: true, ..Tracking::default() };
        f.tracking.timeouts.udp_one_way_ms = Some(10_000);
    }
    c
}

/// Frames of one conversation, in no order: some open it, most go on.
fn talk() -> impl Strategy<Value = Vec<Sent>> {
    let ends = ((0_u8..4, 1024_u16..1028), (0_u8..4, 440_u16..444));
    (ends, any::<bool>(), prop::sample::select(vec![0, 6, 20])).prop_map(|((a, b), tcp, padding)| {
        let (a, b) =
            ((ip(&format!("198.51.100.{}", 1 + a.0)), a.1), (ip(&format!("192.0.2.{}", 1 + b.0)), b.1));
        let one = |far: bool, flags: u8| {
            let (s, d) = if far { (b, a) } else { (a, b) };
            let built = if tcp { Build::tcp(s, d, flags, b"") } else { Build::udp(s, d, b"0123456789ab") };
            Sent { far, frame: Build { padding, ..built }.frame() }
        };
        [
            (false, 2),
            (true, 0x12),
            (false, 0x10),
            (true, 0x10),
            (false, 0x18),
            (true, 0x11),
            (false, 0x11),
            (false, 4),
        ]
        .into_iter()
        .flat_map(|(far, flags)| {
            // What closes is seldom.
            let often = if flags == 0x10 { 6 } else { 1 };
            std::iter::repeat_n(one(far, flags), often)
        })
        .collect()
    })
}

fn same(
    single: &mut dyn PacketFunction,
    burst: &mut dyn PacketFunction,
    now_us: u64,
    frames: Vec<Vec<u8>>,
    far: bool,
) -> Result<(), TestCaseError> {
    let (mut ones, mut all) = (frames.clone(), frames);
    let verdicts: Vec<Verdict> =
        ones.iter_mut().map(|frame| single.process(now_us, u16::from(far), frame)).collect();
    let mut got = vec![Verdict::Drop(DropReason::Untracked); all.len()];
    burst.burst(now_us, u16::from(far), &mut all, &mut got);
    prop_assert_eq!(got, verdicts);
    prop_assert_eq!(all, ones);
    Ok(())
}

fn syn(port: u16) -> Vec<u8> {
    Build::tcp((ip("198.51.100.1"), port), (ip("192.0.2.10"), 443), 2, &[]).frame()
}

fn open_rules() -> Vec<Rule> {
    vec![rule("all", RuleAction::Allow, None, None, None)]
}

#[test]
fn a_full_table_forgets_what_is_over_then_the_oldest_that_nobody_answered() {
    let mut fw = build(&firewall(open_rules(), 10)).unwrap();
    let count = |fw: &dyn PacketFunction, name: &str| {
        let mut all = std::collections::BTreeMap::new();
        fw.counters(&mut all);
        all.get(name).copied().unwrap_or(0)
    };
    for port in 1..=10 {
        assert!(matches!(fw.process(0, 0, &mut syn(port)), Verdict::Forward { port: 1 }));
    }
    assert!(matches!(fw.process(29_000_000, 0, &mut syn(10)), Verdict::Forward { .. }));
    // Without a tick: the nine idle handshakes are over after 30 s, the tenth was seen again.
    assert!(matches!(fw.process(31_000_000, 0, &mut syn(11)), Verdict::Forward { .. }));
    assert!(matches!(fw.process(31_000_000, 0, &mut syn(10)), Verdict::Forward { .. }));
    assert_eq!((fw.connections(), count(&*fw, "connections.expired")), (2, 9));
    // None is over, and the one that began first is given up: its answer passes no more.
    (12..=20).for_each(|port| {
        assert!(matches!(fw.process(31_000_000, 0, &mut syn(port)), Verdict::Forward { .. }))
    });
    assert_eq!((fw.connections(), count(&*fw, "connections.evicted")), (10, 1));
    let (s, c) = ((ip("192.0.2.10"), 443), ip("198.51.100.1"));
    let mut answer = |port| fw.process(31_000_000, 1, &mut Build::tcp(s, (c, port), 0x12, b"").frame());
    let passing: Vec<u16> =
        (10..=20).filter(|port| matches!(answer(*port), Verdict::Forward { .. })).collect();
    assert_eq!(passing.len(), 10);
}

#[test]
fn an_established_connection_survives_a_flood_and_nothing_makes_room_for_more() {
    let (c, s) = ((ip("198.51.100.7"), 5000), (ip("192.0.2.10"), 443));
    let mut fw = established((c, s), open_rules());
    let mut frames: Vec<Vec<u8>> = (1..=5000).map(syn).collect();
    let mut verdicts = vec![Verdict::Drop(DropReason::Untracked); frames.len()];
    fw.burst(1000, 0, &mut frames, &mut verdicts);
    assert!(verdicts.iter().all(|v| *v == Verdict::Forward { port: 1 }));
    let mut datagrams: Vec<Vec<u8>> =
        (1..=5000).map(|port| Build::udp((ip("198.51.100.9"), port), s, b"?").frame()).collect();
    fw.burst(2000, 0, &mut datagrams, &mut verdicts);
    assert!(passes(&mut *fw, (c, s), 3, true, 0x10) && passes(&mut *fw, (c, s), 3, false, 0x10));
    assert_eq!(fw.connections(), 10);
    // Ten that are all established: a new one is refused.
    for port in 5001..5010 {
        for (initiator, flags) in [(true, 2), (false, 0x12), (true, 0x10)] {
            assert!(passes(&mut *fw, ((c.0, port), s), 4, initiator, flags), "{port} {flags:x}");
        }
    }
    assert_eq!(fw.process(5000, 0, &mut syn(1)), Verdict::Drop(DropReason::TableFull));
}

#[test]
fn only_the_rules_change_at_run_time() {
    let running = firewall(open_rules(), 10);
    let mut fw = build(&running).unwrap();
    assert!(matches!(fw.process(0, 0, &mut syn(1)), Verdict::Forward { .. }));
    let mut other_port = running.clone();
    other_port.ports[0].mac = CLIENT_MAC;
    let mut swapped = running.clone();
    if let Function::Firewall(f) = &mut swapped.function {
        std::mem::swap(&mut f.outside, &mut f.inside);
    }
    let mut too_many = running.clone();
    if let Function::Firewall(f) = &mut too_many.function {
        f.max_connections = u32::MAX;
    }
    let other: Configuration = reflector(1, &["192.0.2.10"]);
    for refused in [other_port, swapped, too_many, other] {
        let problem = fw.reconfigure(&refused).unwrap_err().to_string();
        assert!(problem.starts_with("configuration, "), "{problem}");
        assert_eq!(fw.connections(), 1);
    }
    fw.reconfigure(&firewall(vec![], 10)).unwrap();
    assert_eq!(fw.process(1, 0, &mut syn(1)), Verdict::Drop(DropReason::Revoked));
    assert_eq!(fw.process(2, 0, &mut syn(1)), Verdict::Drop(DropReason::NoRule));
    let mut counters = std::collections::BTreeMap::new();
    fw.counters(&mut counters);
    assert_eq!((counters["drop.revoked"], counters["connections.revoked"]), (1, 1));
}

#[test]
fn a_frame_from_nowhere_drops() {
    let mut fw = build(&firewall(open_rules(), 10)).unwrap();
    assert_eq!(fw.process(0, 2, &mut syn(1)), Verdict::Drop(DropReason::UnknownPort));
    assert_eq!(fw.process(0, 0, &mut vec![]), Verdict::Drop(DropReason::Truncated));
    assert_eq!(fw.process(0, 0, &mut vec![0; 70_000]), Verdict::Drop(DropReason::Truncated));
}

#[test]
fn a_half_closed_connection_lives_shorter_than_an_open_one() {
    let (c, s) = ((ip("198.51.100.1"), 1), (ip("192.0.2.10"), 443));
    for (fin, idle_us, lives) in
        [(false, 299_000_000, true), (true, 119_000_000, true), (true, 121_000_000, false)]
    {
        let mut fw = build(&firewall(open_rules(), 10)).unwrap();
        let last = if fin { 0x11 } else { 0x10 };
        for (port, build) in [
            (0, Build::tcp(c, s, 2, &[])),
            (1, Build::tcp(s, c, 0x12, &[])),
            (0, Build::tcp(c, s, last, &[])),
        ] {
            assert!(matches!(fw.process(0, port, &mut build.frame()), Verdict::Forward { .. }));
        }
        let later = fw.process(idle_us, 1, &mut Build::tcp(s, c, 0x10, b"more").frame());
        let expected = if lives { None } else { Some(Verdict::Drop(DropReason::TcpNotSyn)) };
        assert_eq!(Some(later).filter(|v| matches!(v, Verdict::Drop(_))), expected, "fin {fin}, {idle_us}");
    }
}

#[test]
fn a_reply_must_come_in_the_same_vlans() {
    let (c, s) = ((ip("2001:db8:1::1"), 5000), (ip("2001:db8::10"), 53));
    let mut fw = build(&firewall(open_rules(), 10)).unwrap();
    let with = |b: Build, tags: &[u16]| Build { tags: tags.to_vec(), ..b }.frame();
    assert!(matches!(
        fw.process(0, 0, &mut with(Build::udp(c, s, b"?"), &[10, 20])),
        Verdict::Forward { .. }
    ));
    // Priority bits are no part of the VLAN.
    assert!(matches!(
        fw.process(0, 1, &mut with(Build::udp(s, c, b"!"), &[10, 0xe014])),
        Verdict::Forward { .. }
    ));
    for other in [&[30, 20][..], &[10, 21], &[10], &[20], &[]] {
        let verdict = fw.process(0, 1, &mut with(Build::udp(s, c, b"!"), other));
        assert_eq!(verdict, Verdict::Drop(DropReason::NoRule), "{other:?}");
    }
}

/// The ends of a connection, and one that is established between them at time 0.
fn established(ends: (End, End), rules: Vec<Rule>) -> Box<dyn PacketFunction> {
    let mut fw = build(&firewall(rules, 10)).unwrap();
    for (initiator, flags) in [(true, 2), (false, 0x12), (true, 0x10)] {
        assert!(passes(&mut *fw, ends, 0, initiator, flags), "{flags:x}");
    }
    fw
}

fn send(
    fw: &mut dyn PacketFunction,
    (c, s): (End, End),
    at_ms: u64,
    initiator: bool,
    flags: u8,
) -> Option<DropReason> {
    let (from, to) = if initiator { (c, s) } else { (s, c) };
    let mut frame = Build::tcp(from, to, flags, b"data").frame();
    match fw.process(at_ms * 1000, u16::from(!initiator), &mut frame) {
        Verdict::Forward { .. } => None,
        Verdict::Drop(reason) => Some(reason),
    }
}

fn passes(fw: &mut dyn PacketFunction, ends: (End, End), at_ms: u64, initiator: bool, flags: u8) -> bool {
    send(fw, ends, at_ms, initiator, flags).is_none()
}

fn some_ends() -> (End, End) {
    ((ip("198.51.100.1"), 1), (ip("192.0.2.10"), 443))
}

#[test]
fn a_reset_connection_passes_nothing_but_resets_and_a_new_syn() {
    let ends = some_ends();
    for reset_by_initiator in [true, false] {
        let mut fw = established(ends, open_rules());
        assert!(passes(&mut *fw, ends, 1, reset_by_initiator, 0x14));
        for initiator in [true, false] {
            for flags in [0x10, 0x18, 0x11, 0x12] {
                let got = send(&mut *fw, ends, 2, initiator, flags);
                assert_eq!(got, Some(DropReason::TcpReset), "{flags:x} from the initiator: {initiator}");
            }
            assert!(passes(&mut *fw, ends, 3, initiator, 4), "a reset again");
        }
        // An error about it, too.
        let (c, s) = ends;
        let packet = Build::tcp(c, s, 0x10, b"data").packet();
        let mut error = Build::icmp(s.0, c.0, 3, 1, &[&[0; 4][..], &packet].concat()).frame();
        assert_eq!(fw.process(4000, 1, &mut error), Verdict::Drop(DropReason::TcpReset));
        // The initiator opens it again; the rules allow nothing from the other side.
        assert_eq!(send(&mut *fw, ends, 5, false, 2), Some(DropReason::NoRule));
        assert!(passes(&mut *fw, ends, 6, true, 2));
        assert_eq!(send(&mut *fw, ends, 6, true, 0x10), Some(DropReason::TcpState), "a new handshake");
        assert!(passes(&mut *fw, ends, 6, false, 0x12) && passes(&mut *fw, ends, 6, true, 0x10));
    }
}

/// `close` closes at 1 s; then `flags` is sent every second by both sides: nothing passes after 11 s.
fn ends_whatever_is_sent(close: &[(bool, u8)], flags: u8, meanwhile: Option<DropReason>) {
    let ends = some_ends();
    let mut fw = established(ends, open_rules());
    for (initiator, flags) in close {
        assert!(passes(&mut *fw, ends, 1000, *initiator, *flags));
    }
    for at_s in 2..=11 {
        for initiator in [true, false] {
            assert_eq!(send(&mut *fw, ends, at_s * 1000, initiator, flags), meanwhile, "{flags:x}, {at_s} s");
        }
    }
    for initiator in [true, false] {
        assert_eq!(send(&mut *fw, ends, 11_001, initiator, flags), Some(DropReason::TcpNotSyn), "{flags:x}");
    }
    assert_eq!(fw.connections(), 0);
}

#[test]
fn a_closed_connection_ends_whatever_is_sent() {
    let reset = Some(DropReason::TcpReset);
    ends_whatever_is_sent(&[(true, 4)], 0x10, reset);
    ends_whatever_is_sent(&[(false, 4)], 0x10, reset);
    ends_whatever_is_sent(&[(false, 4)], 4, None);
    for first in [true, false] {
        ends_whatever_is_sent(&[(first, 0x11), (!first, 0x11)], 0x10, None);
        ends_whatever_is_sent(&[(first, 0x11), (!first, 0x11)], 0x11, None);
        // Resets do not begin the time anew.
        ends_whatever_is_sent(&[(first, 0x11), (!first, 0x11)], 4, None);
    }
}

#[test]
fn a_closed_connection_opens_again_only_if_the_rules_still_allow_it() {
    let ends = some_ends();
    for close in [&[(true, 4)][..], &[(true, 0x11), (false, 0x11)]] {
        let mut fw = established(ends, open_rules());
        assert!(close.iter().all(|(initiator, flags)| passes(&mut *fw, ends, 1, *initiator, *flags)));
        assert!(passes(&mut *fw, ends, 2, true, 2));
        assert!(close.iter().all(|(i, f)| *f == 0x11 || passes(&mut *fw, ends, 3, *i, *f)));
        fw.reconfigure(&firewall(vec![], 10)).unwrap();
        assert_eq!(send(&mut *fw, ends, 4, true, 2), Some(DropReason::Revoked));
        assert_eq!(send(&mut *fw, ends, 5, true, 2), Some(DropReason::NoRule));
    }
}
