//! What is sent: sessions as end points send them, and what nobody should.

use std::net::IpAddr;

use dataplane_control::{
    MacAddr,
    config::{Rule, RuleAction},
};

use crate::{
    Case, Side,
    Side::*,
    Step,
    common::{Build, CLIENT_MAC, backend_mac, checksum, ip, rule},
};

type End = (IpAddr, u16);

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// Allowing and denying, prefixes in prefixes, ports and ranges, both versions and both sides.
pub fn rules() -> Vec<Rule> {
    use RuleAction::{Allow, Deny};
    let from = |prefix: &str, rule: Rule| Rule { source: Some(prefix.parse().unwrap()), ..rule };
    let ports = |range: &str, rule: Rule| Rule { source_ports: Some(range.parse().unwrap()), ..rule };
    let server = Some("192.0.2.10/32");
    let server6 = Some("2001:db8::10/128");
    vec![
        from("198.51.100.128/25", rule("guests", Deny, Some(17), None, None)),
        rule("web", Allow, Some(6), server, Some("443")),
        rule("range", Allow, Some(6), server, Some("8000-8080")),
        rule("hole", Deny, Some(6), Some("192.0.2.11/32"), Some("9000-9010")),
        rule("around", Allow, Some(6), Some("192.0.2.11/32"), Some("9000-9100")),
        rule("dns", Allow, Some(17), Some("192.0.2.0/24"), Some("53")),
        ports("5000-5100", rule("from-ports", Allow, Some(17), server, Some("7000"))),
        rule("never", Deny, Some(6), server, Some("443")),
        rule("icmp", Allow, Some(1), server, None),
        rule("esp", Allow, Some(50), server, None),
        rule("sctp", Allow, Some(132), server, Some("5060")),
        rule("web6", Allow, Some(6), server6, Some("443")),
        rule("dns6", Allow, Some(17), Some("2001:db8::/64"), Some("53")),
        rule("icmp6", Allow, Some(58), server6, None),
        Rule {
            from: "inside".into(),
            ..from("192.0.2.0/24", rule("mail", Allow, Some(6), None, Some("25")))
        },
    ]
}

fn addressed(build: Build, from: Side) -> Build {
    let (client, server) = (CLIENT_MAC, backend_mac(1));
    if from == Outside { build.macs(server, client) } else { build.macs(client, server) }
}

fn one(name: &'static str, from: Side, build: Build) -> Step {
    Step { name, from, frames: vec![addressed(build, from).frame()] }
}

/// One frame with bytes changed after the Ethernet header, and its IPv4 header's checksum made right again.
fn changed(name: &'static str, from: Side, build: Build, change: impl Fn(&mut Vec<u8>)) -> Step {
    let mut step = one(name, from, build);
    let frame = &mut step.frames[0];
    change(frame);
    if frame.len() >= 34 && frame[12..14] == [8, 0] {
        let header = (usize::from(frame[14] % 16) * 4).clamp(20, frame.len() - 14);
        frame[24..26].fill(0);
        let sum = checksum(&[&frame[14..14 + header]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    step
}

fn client(n: u8) -> IpAddr {
    ip(&format!("198.51.100.{n}"))
}

fn server() -> IpAddr {
    ip("192.0.2.10")
}

/// A TCP connection and what each side sent so far.
struct Talk {
    ends: [End; 2],
    next: [u32; 2],
    tags: Vec<u16>,
    initiator: Side,
}

impl Talk {
    fn new(source: End, destination: End) -> Self {
        Self { ends: [source, destination], next: [0xffff_ff00, 5_000_000], tags: vec![], initiator: Outside }
    }

    fn build(&self, who: usize, sequence: u32, flags: u8, payload: &[u8]) -> Build {
        let (s, d) = (self.ends[who], self.ends[1 - who]);
        let acknowledged = if flags & ACK == 0 { 0 } else { self.next[1 - who] };
        let mut t = [s.1.to_be_bytes(), d.1.to_be_bytes()].concat();
        t.extend([sequence.to_be_bytes(), acknowledged.to_be_bytes()].concat());
        let options: &[u8] = if flags & SYN == 0 { &[] } else { &[2, 4, 5, 0xb4] };
        t.extend([0x50 + options.len() as u8 * 4, flags, 0x20, 0, 0, 0, 0, 0]);
        t.extend(options);
        t.extend(payload);
        Build { tags: self.tags.clone(), ..Build::new(s.0, d.0, 6, t, Some(16)) }
    }

    fn side(&self, who: usize) -> Side {
        if who == 0 { self.initiator } else { self.initiator.other() }
    }

    /// The next segment of one: 0 who opened it, 1 the other.
    fn send(&mut self, name: &'static str, who: usize, flags: u8, payload: &[u8]) -> Step {
        let build = self.build(who, self.next[who], flags, payload);
        let length = payload.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        self.next[who] = self.next[who].wrapping_add(length);
        one(name, self.side(who), build)
    }

    /// A segment that is no part of the sequence.
    fn stray(&self, name: &'static str, who: usize, offset: u32, flags: u8, payload: &[u8]) -> Step {
        one(name, self.side(who), self.build(who, self.next[who].wrapping_add(offset), flags, payload))
    }

    fn open(&mut self) -> Vec<Step> {
        vec![
            self.send("SYN", 0, SYN, b""),
            self.send("SYN-ACK", 1, SYN | ACK, b""),
            self.send("ACK", 0, ACK, b""),
        ]
    }
}

fn web(port: u16) -> Talk {
    Talk::new((client(1), port), (server(), 443))
}

fn tcp() -> Vec<Case> {
    let mut all = vec![];
    let mut add = |name, steps: Vec<Vec<Step>>| {
        all.push(Case { name, steps: steps.into_iter().flatten().collect() });
    };
    for (name, mut t) in [
        ("tcp session", web(1001)),
        ("tcp session over IPv6", Talk::new((ip("2001:db8:1::1"), 1001), (ip("2001:db8::10"), 443))),
        ("tcp session in a VLAN", Talk { tags: vec![10], ..web(1002) }),
        (
            "tcp session from inside",
            Talk { initiator: Inside, ..Talk::new((server(), 1003), (client(9), 25)) },
        ),
    ] {
        let steps = vec![
            t.open(),
            vec![
                t.send("request", 0, PSH | ACK, b"GET / HTTP/1.1\r\n\r\n"),
                t.send("its acknowledgement", 1, ACK, b""),
                t.send("answer", 1, PSH | ACK, &[b'x'; 1000]),
                t.send("answer's second half", 1, PSH | ACK, &[b'y'; 1000]),
                t.stray("a retransmission", 1, 0_u32.wrapping_sub(1000), PSH | ACK, &[b'y'; 1000]),
                t.send("acknowledgement", 0, ACK, b""),
                t.stray("a keep-alive", 0, 0_u32.wrapping_sub(1), ACK, b""),
                t.send("its acknowledgement, too", 1, ACK, b""),
                t.send("FIN", 0, FIN | ACK, b""),
                t.send("half-closed data", 1, PSH | ACK, b"the rest"),
                t.send("half-closed acknowledgement", 0, ACK, b""),
                t.send("FIN of the other", 1, FIN | ACK, b""),
                t.send("last ACK", 0, ACK, b""),
                t.stray("FIN again", 1, 0_u32.wrapping_sub(1), FIN | ACK, b""),
                t.send("last ACK again", 0, ACK, b""),
                t.stray("SYN, opened anew", 0, 1 << 20, SYN, b""),
            ],
        ];
        add(name, steps);
    }
    let mut t = web(1010);
    add(
        "tcp reset by the server",
        vec![
            t.open(),
            vec![
                t.send("data", 0, PSH | ACK, b"1"),
                t.send("RST", 1, RST | ACK, b""),
                t.stray("data after RST", 0, 0, PSH | ACK, b"2"),
                t.stray("data of the other after RST", 1, 0, PSH | ACK, b"3"),
                t.stray("RST again", 1, 0, RST, b""),
                t.stray("SYN, opened anew", 0, 1 << 20, SYN, b""),
            ],
        ],
    );
    let mut t = web(1011);
    add(
        "tcp refused",
        vec![vec![
            t.send("SYN", 0, SYN, b""),
            t.send("RST-ACK", 1, RST | ACK, b""),
            t.stray("SYN again", 0, 1 << 20, SYN, b""),
        ]],
    );
    let mut t = web(1012);
    add(
        "tcp half open",
        vec![vec![
            t.send("SYN", 0, SYN, b""),
            t.stray("SYN again", 0, 0_u32.wrapping_sub(1), SYN, b""),
            t.stray("data before the answer", 0, 0, PSH | ACK, b"early"),
            t.stray("FIN before the answer", 0, 0, FIN | ACK, b""),
            t.send("SYN-ACK", 1, SYN | ACK, b""),
            t.stray("SYN-ACK again", 1, 0_u32.wrapping_sub(1), SYN | ACK, b""),
            t.send("ACK", 0, ACK, b""),
            t.send("data", 0, PSH | ACK, b"late"),
        ]],
    );
    let mut t = web(1013);
    add(
        "tcp in odd states",
        vec![
            t.open(),
            vec![
                t.stray("SYN within", 0, 0_u32.wrapping_sub(1), SYN, b""),
                t.send("challenge ACK", 1, ACK, b""),
                t.stray("SYN of the other", 1, 100, SYN, b""),
                t.stray("SYN-ACK of the initiator", 0, 0, SYN | ACK, b""),
                t.send("data still", 0, PSH | ACK, b"still"),
            ],
        ],
    );
    let mut t = web(1014);
    add(
        "tcp out of the window",
        vec![
            t.open(),
            vec![
                t.stray("data far ahead", 0, 1 << 30, PSH | ACK, b"x"),
                t.stray("data far behind", 1, 0_u32.wrapping_sub(1 << 30), PSH | ACK, b"x"),
                t.stray("RST far ahead", 1, 1 << 30, RST, b""),
                t.stray("RST within the window", 1, 100, RST, b""),
            ],
        ],
    );
    let mut t = web(1015);
    let mut other = Talk { initiator: Inside, ..Talk::new((server(), 443), (client(1), 1015)) };
    add(
        "tcp opened by both",
        vec![vec![t.send("SYN", 0, SYN, b""), other.send("SYN of the other", 0, SYN, b"")]],
    );
    // Each with a port of its own: it is of no connection.
    let strays: [(&str, u8); 10] = [
        ("ACK", ACK),
        ("SYN-ACK", SYN | ACK),
        ("data", PSH | ACK),
        ("FIN", FIN | ACK),
        ("RST", RST),
        ("RST-ACK", RST | ACK),
        ("no flags", 0),
        ("SYN-FIN", SYN | FIN),
        ("SYN-RST", SYN | RST),
        ("all flags", 0x3f),
    ];
    let strays = (1100..).zip(strays).map(|(port, (name, flags))| web(port).stray(name, 0, 0, flags, b""));
    add("tcp of no connection", vec![strays.collect()]);
    let strange: [(&str, u8); 4] = [
        ("FIN only", FIN),
        ("SYN with PSH", SYN | PSH),
        ("SYN with URG", SYN | 0x20),
        ("SYN with ECN", SYN | 0xc0),
    ];
    let strange = (1120..).zip(strange).map(|(port, (name, flags))| web(port).stray(name, 0, 0, flags, b""));
    add("tcp with odd flags", vec![strange.collect()]);
    let syn = |port| web(port).build(0, 7, SYN, b"");
    add(
        "tcp malformed",
        vec![vec![
            changed("data offset too short", Outside, syn(1140), |f| f[46] = 0x40),
            changed("data offset beyond", Outside, syn(1141), |f| f[46] = 0xf0),
            changed("wrong checksum", Outside, syn(1142), |f| f[50] ^= 0x55),
            changed("cut short", Outside, syn(1143), |f| {
                f.truncate(44);
                f[17] = 30;
            }),
        ]],
    );
    all
}

/// Rules: their order, prefixes, ports at the ends of ranges.
fn ruled() -> Vec<Case> {
    let syn = |name, port, from: IpAddr, to: &str, at| {
        Talk::new((from, port), (ip(to), at)).send(name, 0, SYN, b"")
    };
    let ask = |name, from: End, to: &str, at| one(name, Outside, Build::udp(from, (ip(to), at), b"?"));
    let c = client(2);
    vec![Case {
        name: "rules",
        steps: vec![
            syn("first port of a range", 2000, c, "192.0.2.10", 8000),
            syn("within a range", 2001, c, "192.0.2.10", 8040),
            syn("last port of a range", 2002, c, "192.0.2.10", 8080),
            syn("before a range", 2003, c, "192.0.2.10", 7999),
            syn("behind a range", 2004, c, "192.0.2.10", 8081),
            syn("denied before it is allowed", 2005, c, "192.0.2.11", 9000),
            syn("last denied", 2006, c, "192.0.2.11", 9010),
            syn("first allowed behind", 2007, c, "192.0.2.11", 9011),
            syn("allowed before it is denied", 2008, c, "192.0.2.10", 443),
            syn("another host", 2009, c, "192.0.2.12", 443),
            syn("from inside what only outside may", 2010, c, "192.0.2.10", 25),
            ask("a guest", (client(129), 2000), "192.0.2.10", 53),
            ask("the last that is no guest", (client(127), 2000), "192.0.2.10", 53),
            ask("another of the prefix", (c, 2001), "192.0.2.200", 53),
            ask("beyond the prefix", (c, 2001), "192.0.3.0", 53),
            ask("first source port", (c, 5000), "192.0.2.10", 7000),
            ask("last source port", (c, 5100), "192.0.2.10", 7000),
            ask("before the source ports", (c, 4999), "192.0.2.10", 7000),
            ask("behind the source ports", (c, 5101), "192.0.2.10", 7000),
            one(
                "IPv6 of the prefix",
                Outside,
                Build::udp((ip("2001:db8:1::2"), 1), (ip("2001:db8::ff"), 53), b"?"),
            ),
            one(
                "IPv6 beyond it",
                Outside,
                Build::udp((ip("2001:db8:1::2"), 1), (ip("2001:db8:0:1::1"), 53), b"?"),
            ),
        ],
    }]
}

fn udp() -> Vec<Case> {
    let (c, s) = ((client(3), 3000), (server(), 53));
    let (c6, s6) = ((ip("2001:db8:1::3"), 3000), (ip("2001:db8::10"), 53));
    let at = |port| (client(3), port);
    let ask = |port| Build::udp(at(port), s, b"question");
    vec![
        Case {
            name: "udp",
            steps: vec![
                one("answer that nobody asked for", Inside, Build::udp(s, c, b"!")),
                one("question", Outside, Build::udp(c, s, b"?")),
                one("answer", Inside, Build::udp(s, c, b"!")),
                one("answer again", Inside, Build::udp(s, c, b"!!")),
                one("question again", Outside, Build::udp(c, s, b"?")),
                one("answer from another port", Inside, Build::udp((s.0, 54), c, b"!")),
                one("answer to another port", Inside, Build::udp(s, (c.0, 3001), b"!")),
                one("no payload", Outside, Build::udp(at(3002), s, b"")),
                one("with padding", Outside, Build { padding: 10, ..ask(3003) }),
                one("IPv6", Outside, Build::udp(c6, s6, b"?")),
                one("IPv6 answer", Inside, Build::udp(s6, c6, b"!")),
                one("a QUIC Initial", Outside, Build::udp(at(3004), s, &[0xc3; 1200])),
            ],
        },
        Case {
            name: "udp malformed",
            steps: vec![
                changed("no checksum", Outside, ask(3010), |f| f[40..42].fill(0)),
                changed("wrong checksum", Outside, ask(3011), |f| f[40] ^= 0x55),
                changed("length too short", Outside, ask(3012), |f| f[39] = 7),
                changed("length beyond", Outside, ask(3013), |f| f[39] = 200),
                changed("length below what is there", Outside, ask(3014), |f| {
                    f[39] = 12;
                    f[40..42].fill(0);
                }),
                changed("header cut short", Outside, ask(3015), |f| {
                    f.truncate(40);
                    f[17] = 26;
                }),
                changed("IPv6 without checksum", Outside, Build::udp((c6.0, 3016), s6, b"?"), |f| {
                    f[60..62].fill(0);
                }),
            ],
        },
    ]
}

fn icmp() -> Vec<Case> {
    let (c, s) = (client(4), server());
    let (c6, s6) = (ip("2001:db8:1::4"), ip("2001:db8::10"));
    let router = ip("192.0.2.1");
    let echo = |from, to, kind, id: u8| Build::icmp(from, to, kind, 0, &[0, id, 0, 1, 1, 2, 3, 4]);
    let asked = Build::udp((c, 4000), (s, 53), b"question");
    let asked6 = Build::udp((c6, 4000), (s6, 53), b"question");
    let stranger = Build::udp((c, 4001), (s, 53), b"question");
    let about = |from, to, kind, code, build: &Build| {
        Build::icmp(from, to, kind, code, &[&[0, 0, 5, 0x78][..], &build.packet()[..]].concat())
    };
    let mut t = Talk::new((c, 4002), (s, 443));
    let opened = t.open();
    let segment = t.build(0, t.next[0], PSH | ACK, b"data");
    vec![
        Case {
            name: "icmp echo",
            steps: vec![
                one("reply that nobody asked for", Inside, echo(s, c, 0, 1)),
                one("request", Outside, echo(c, s, 8, 1)),
                one("reply", Inside, echo(s, c, 0, 1)),
                one("reply again", Inside, echo(s, c, 0, 1)),
                one("reply with another identifier", Inside, echo(s, c, 0, 2)),
                one("request to another host", Outside, echo(c, ip("192.0.2.11"), 8, 3)),
                one("request from inside", Inside, echo(s, c, 8, 4)),
                one("IPv6 request", Outside, echo(c6, s6, 128, 5)),
                one("IPv6 reply", Inside, echo(s6, c6, 129, 5)),
                changed("wrong checksum", Outside, echo(c, s, 8, 6), |f| f[36] ^= 0x55),
            ],
        },
        Case {
            name: "icmp types",
            steps: vec![
                one("timestamp request", Outside, echo(c, s, 13, 7)),
                one("information request", Outside, echo(c, s, 15, 8)),
                one("address mask request", Outside, echo(c, s, 17, 9)),
                one("timestamp reply", Inside, echo(s, c, 14, 17)),
                one("router advertisement", Outside, echo(c, s, 9, 10)),
                one("an unknown type", Outside, echo(c, s, 200, 11)),
                one("IPv6 multicast listener report", Outside, echo(c6, s6, 131, 12)),
                one("IPv6 router advertisement", Outside, echo(c6, s6, 134, 13)),
                one("IPv6 redirect", Outside, echo(c6, s6, 137, 14)),
                one("IPv6 unknown type", Outside, echo(c6, s6, 200, 15)),
                one("ICMP in IPv6", Outside, Build { protocol: 1, ..echo(c6, s6, 8, 16) }),
            ],
        },
        Case {
            name: "icmp errors",
            steps: [
                vec![
                    one("about nothing known", Inside, about(s, c, 3, 3, &asked)),
                    one("question", Outside, asked.clone()),
                    one("port unreachable", Inside, about(s, c, 3, 3, &asked)),
                    one("fragmentation needed by a router", Inside, about(router, c, 3, 4, &asked)),
                    one("time exceeded by a router", Inside, about(router, c, 11, 0, &asked)),
                    one("parameter problem", Inside, about(router, c, 12, 0, &asked)),
                    one("to another host", Inside, about(router, client(5), 3, 3, &asked)),
                    one("from the wrong side", Outside, about(router, c, 3, 3, &asked)),
                    one("about another port", Inside, about(s, c, 3, 3, &stranger)),
                    one(
                        "quotes too little",
                        Inside,
                        Build::icmp(s, c, 3, 3, &[&[0; 4][..], &asked.packet()[..24]].concat()),
                    ),
                    one(
                        "quotes eight bytes",
                        Inside,
                        Build::icmp(s, c, 3, 3, &[&[0; 4][..], &asked.packet()[..28]].concat()),
                    ),
                    one("source quench", Inside, about(s, c, 4, 0, &asked)),
                    one("redirect", Inside, about(router, c, 5, 1, &asked)),
                    one("IPv6 question", Outside, asked6.clone()),
                    one("IPv6 port unreachable", Inside, about(s6, c6, 1, 4, &asked6)),
                    one("IPv6 packet too big", Inside, about(ip("2001:db8::1"), c6, 2, 0, &asked6)),
                    one("IPv6 time exceeded", Inside, about(ip("2001:db8::1"), c6, 3, 0, &asked6)),
                    one(
                        "IPv6 about nothing known",
                        Inside,
                        about(s6, c6, 1, 4, &Build::udp((c6, 4009), (s6, 53), b"")),
                    ),
                ],
                opened,
                vec![
                    one("fragmentation needed for TCP", Inside, about(router, c, 3, 4, &segment)),
                    one(
                        "about a segment never sent",
                        Inside,
                        about(router, c, 3, 1, &t.build(0, t.next[0] ^ 1 << 31, ACK, b"")),
                    ),
                ],
            ]
            .into_iter()
            .flatten()
            .collect(),
        },
    ]
}

/// An IPv4 packet in pieces of these payloads' lengths.
fn fragments4(build: &Build, lengths: &[usize]) -> Vec<Build> {
    let whole = build.packet()[20..].to_vec();
    let mut at = 0;
    lengths
        .iter()
        .map(|n| {
            let end = (at + n).min(whole.len());
            let more = if end < whole.len() { 0x2000 } else { 0 };
            let piece = Build {
                transport: whole[at..end].to_vec(),
                checksum_at: None,
                fragment: more | (at / 8) as u16,
                ..build.clone()
            };
            at = end;
            piece
        })
        .collect()
}

fn fragments6(build: &Build, lengths: &[usize]) -> Vec<Build> {
    let whole = build.packet()[40..].to_vec();
    let mut at = 0_usize;
    lengths
        .iter()
        .map(|n| {
            let end = (at + n).min(whole.len());
            let more = u16::from(end < whole.len());
            let [high, low] = (at as u16 | more).to_be_bytes();
            let piece = Build {
                transport: whole[at..end].to_vec(),
                checksum_at: None,
                options: vec![build.protocol, 0, high, low, 0, 0, build.source_port_byte(), 9],
                first_extension: Some(44),
                ..build.clone()
            };
            at = end;
            piece
        })
        .collect()
}

impl Build {
    /// Tells packets of one test apart.
    fn source_port_byte(&self) -> u8 {
        self.transport[1]
    }
}

fn pieces(name: &'static str, builds: impl IntoIterator<Item = Build>) -> Step {
    let frames = builds.into_iter().map(|b| addressed(b, Outside).frame()).collect();
    Step { name, from: Outside, frames }
}

/// Each datagram has a source of its own: its fragments have one identification.
fn fragments() -> Vec<Case> {
    let s = (server(), 53);
    let ask = |n: u8| Build::udp((client(n), 5000), s, &[n; 100]);
    let ask6 = |n: u16| Build::udp((ip("2001:db8:1::5"), n), (ip("2001:db8::10"), 53), &[7; 100]);
    let backwards = |mut all: Vec<Build>| {
        all.reverse();
        all
    };
    let swapped = |mut all: Vec<Build>| {
        all.swap(0, 1);
        all
    };
    let overlapping = |n| {
        let mut all = fragments4(&ask(n), &[56, 56]);
        all[1].fragment -= 1;
        all
    };
    let syn = Talk::new((client(50), 5000), (server(), 443)).build(0, 7, SYN, b"");
    let denied = Build::udp((client(51), 5000), (server(), 54), &[1; 100]);
    vec![Case {
        name: "fragments",
        steps: vec![
            pieces("two", fragments4(&ask(20), &[56, 56])),
            pieces("three", fragments4(&ask(21), &[40, 40, 40])),
            pieces("the last first", backwards(fragments4(&ask(22), &[56, 56]))),
            pieces("two of three swapped", swapped(fragments4(&ask(23), &[40, 40, 40]))),
            pieces("overlapping", overlapping(24)),
            pieces("a tiny first", fragments4(&syn, &[8, 16])),
            pieces("of what is denied", fragments4(&denied, &[56, 56])),
            pieces("a later one alone", fragments4(&ask(25), &[56, 56]).split_off(1)),
            pieces("IPv6", fragments6(&ask6(5001), &[56, 56])),
            pieces("IPv6, the last first", backwards(fragments6(&ask6(5002), &[56, 56]))),
            pieces("IPv6, a later one alone", fragments6(&ask6(5003), &[56, 56]).split_off(1)),
            pieces("IPv6, atomic", fragments6(&ask6(5004), &[200])),
            pieces("Do not Fragment", [Build { fragment: 0x4000, ..ask(26) }]),
        ],
    }]
}

fn malformed() -> Vec<Case> {
    let s = (server(), 53);
    let ask = |n: u16| Build::udp((client(6), 6000 + n), s, b"question");
    let ask6 = |n: u16| Build::udp((ip("2001:db8:1::6"), 6000 + n), (ip("2001:db8::10"), 53), b"question");
    let from = |address: &str, n: u16| Build::udp((ip(address), 6000 + n), s, b"question");
    let from6 =
        |address: &str, n: u16| Build::udp((ip(address), 6000 + n), (ip("2001:db8::10"), 53), b"question");
    let optioned = |n, options: &[u8]| Build { options: options.to_vec(), ..ask(n) };
    let mut wrong_sum = one("IPv4 wrong checksum", Outside, ask(1));
    wrong_sum.frames[0][24] ^= 0x55;
    vec![
        Case {
            name: "malformed",
            steps: vec![
                wrong_sum,
                changed("IPv4 version 5", Outside, ask(2), |f| f[14] = 0x55),
                changed("IPv4 header of 16 bytes", Outside, ask(3), |f| f[14] = 0x44),
                changed("IPv4 longer than its frame", Outside, ask(4), |f| f[17] = 200),
                changed("IPv4 shorter than its header", Outside, ask(5), |f| f[17] = 19),
                changed("IPv4 cut short", Outside, ask(6), |f| f.truncate(30)),
                changed("IPv6 version 5", Outside, ask6(7), |f| f[14] = 0x50),
                changed("IPv6 longer than its frame", Outside, ask6(8), |f| f[19] = 200),
                changed("IPv6 cut short", Outside, ask6(9), |f| f.truncate(50)),
            ],
        },
        Case {
            name: "addresses",
            steps: vec![
                one("IPv4 from a multicast group", Outside, from("224.0.0.5", 10)),
                one("IPv4 from broadcast", Outside, from("255.255.255.255", 11)),
                one("IPv4 from loopback", Outside, from("127.0.0.1", 12)),
                one("IPv4 from nowhere", Outside, from("0.0.0.0", 13)),
                one("IPv6 from a multicast group", Outside, from6("ff02::1", 14)),
                one("IPv6 from loopback", Outside, from6("::1", 15)),
                one("IPv6 from a mapped address", Outside, from6("::ffff:198.51.100.6", 16)),
            ],
        },
        Case {
            name: "options",
            steps: vec![
                one("none and end", Outside, optioned(20, &[1, 1, 1, 0])),
                one("record route", Outside, optioned(21, &[7, 7, 4, 0, 0, 0, 0, 0])),
                one("router alert", Outside, optioned(22, &[148, 4, 0, 0])),
                one("loose source route", Outside, optioned(23, &[131, 7, 4, 192, 0, 2, 10, 0])),
                one("strict source route", Outside, optioned(24, &[137, 7, 4, 192, 0, 2, 10, 0])),
                one("longer than the header", Outside, optioned(25, &[7, 60, 4, 0])),
                one("of no length", Outside, optioned(26, &[7, 0, 4, 0])),
            ],
        },
    ]
}

fn extensions() -> Vec<Case> {
    let ask = |n: u16, first: u8, options: &[u8]| Build {
        options: options.to_vec(),
        first_extension: Some(first),
        ..Build::udp((ip("2001:db8:1::7"), 7000 + n), (ip("2001:db8::10"), 53), b"question")
    };
    let padded = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let many: Vec<u8> = (0..9).flat_map(|n| padded(if n == 8 { 17 } else { 60 })).collect();
    let eight: Vec<u8> = (0..8).flat_map(|n| padded(if n == 7 { 17 } else { 60 })).collect();
    let bare = |n: u16, next: u8| Build {
        first_extension: Some(next),
        ..Build::udp((ip("2001:db8:1::7"), 7000 + n), (ip("2001:db8::10"), 53), b"question")
    };
    vec![Case {
        name: "extension headers",
        steps: vec![
            one("hop by hop", Outside, ask(1, 0, &padded(17))),
            one("router alert", Outside, ask(2, 0, &[17, 0, 5, 2, 0, 0, 1, 0])),
            one("destination options", Outside, ask(3, 60, &padded(17))),
            one("hop by hop and destination", Outside, ask(4, 0, &[padded(60), padded(17)].concat())),
            one("hop by hop behind another", Outside, ask(5, 60, &[padded(0), padded(17)].concat())),
            one("routing, none left", Outside, ask(6, 43, &[17, 0, 0, 0, 0, 0, 0, 0])),
            one("routing type 0, one left", Outside, ask(7, 43, &[17, 0, 0, 1, 0, 0, 0, 0])),
            one("eight", Outside, ask(8, 60, &eight)),
            one("nine", Outside, ask(9, 60, &many)),
            one("beyond the packet", Outside, ask(10, 60, &[17, 60, 1, 4, 0, 0, 0, 0])),
            one("authentication header", Outside, ask(11, 51, &[17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1])),
            one("no next header", Outside, bare(12, 59)),
            one("an unknown next header", Outside, bare(13, 253)),
        ],
    }]
}

/// CRC-32C as SCTP has it (RFC 9260, appendix A), in the order of its bytes.
fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    (!crc).to_le_bytes()
}

fn sctp(s: End, d: End, tag: u32, chunk: &[u8]) -> Build {
    let mut t = [s.1.to_be_bytes(), d.1.to_be_bytes()].concat();
    t.extend([tag.to_be_bytes(), [0; 4]].concat());
    t.extend(chunk);
    let sum = crc32c(&t);
    t[8..12].copy_from_slice(&sum);
    Build::new(s.0, d.0, 132, t, None)
}

fn other_protocols() -> Vec<Case> {
    let (c, s) = (client(8), server());
    let esp = |from, to| Build::new(from, to, 50, vec![1, 2, 3, 4, 0, 0, 0, 1, 9, 9, 9, 9], None);
    let init =
        |kind: u8| [&[kind, 0, 0, 20][..], &[0, 0, 0, 9, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 5]].concat();
    let data = [&[0, 3, 0, 20][..], &[0; 12], b"data"].concat();
    let (a, b) = ((c, 8000), (s, 5060));
    vec![Case {
        name: "other protocols",
        steps: vec![
            one("ESP back first", Inside, esp(s, c)),
            one("ESP", Outside, esp(c, s)),
            one("ESP back", Inside, esp(s, c)),
            one("a protocol without a rule", Outside, Build { protocol: 103, ..esp(c, s) }),
            one("SCTP INIT", Outside, sctp(a, b, 0, &init(1))),
            one("SCTP INIT-ACK", Inside, sctp(b, a, 9, &init(2))),
            one("SCTP COOKIE-ECHO", Outside, sctp(a, b, 9, &[10, 0, 0, 8, 1, 2, 3, 4])),
            one("SCTP COOKIE-ACK", Inside, sctp(b, a, 9, &[11, 0, 0, 4])),
            one("SCTP DATA", Outside, sctp(a, b, 9, &data)),
            one("SCTP DATA of no association", Outside, sctp((c, 8001), b, 9, &data)),
            one("SCTP cut short", Outside, Build::new(c, s, 132, vec![0x1f, 0x42, 0x13, 0xc4, 0, 0], None)),
        ],
    }]
}

fn layer_two() -> Vec<Case> {
    let (c, s) = ((client(10), 9000), (server(), 53));
    let asked = |tags: &[u16], port| Build { tags: tags.to_vec(), ..Build::udp((c.0, port), s, b"?") };
    let answer = |tags: &[u16], port| Build { tags: tags.to_vec(), ..Build::udp(s, (c.0, port), b"!") };
    let ethernet = |kind: [u8; 2], rest: &[u8]| {
        let mut frame = [&backend_mac(1).0[..], &CLIENT_MAC.0, &kind, rest].concat();
        frame.resize(frame.len().max(60), 0);
        frame
    };
    let raw = |name, frame: Vec<u8>| Step { name, from: Outside, frames: vec![frame] };
    let arp = |operation: u8| {
        [&[0, 1, 8, 0, 6, 4, 0, operation][..], &CLIENT_MAC.0, &[198, 51, 100, 10], &[0; 6], &[192, 0, 2, 10]]
            .concat()
    };
    let (near, target) = (ip("2001:db8:1::a"), ip("2001:db8::10"));
    let IpAddr::V6(bits) = target else { return vec![] };
    let solicitation = |hops| Build {
        hops,
        ..Build::icmp(near, target, 135, 0, &[&[0; 4][..], &bits.octets(), &[1, 1], &CLIENT_MAC.0].concat())
    };
    let advertisement = Build {
        hops: 255,
        ..Build::icmp(
            target,
            near,
            136,
            0,
            &[&[0x60, 0, 0, 0][..], &bits.octets(), &[2, 1], &[2; 6]].concat(),
        )
    };
    let mut own = Build::udp((c.0, 9009), s, b"?");
    own.from = MacAddr([1, 0, 0x5e, 0, 0, 1]);
    own.to = backend_mac(1);
    vec![
        Case {
            name: "VLAN",
            steps: vec![
                one("tagged", Outside, asked(&[10], 9000)),
                one("tagged answer", Inside, answer(&[10], 9000)),
                one("answer in another VLAN", Inside, answer(&[11], 9000)),
                one("answer without a tag", Inside, answer(&[], 9000)),
                one(
                    "tagged, denied",
                    Outside,
                    Build { tags: vec![10], ..Build::udp(c, (server(), 54), b"?") },
                ),
                one("two tags", Outside, asked(&[10, 20], 9001)),
                one(
                    "two tags, denied",
                    Outside,
                    Build { tags: vec![10, 20], ..Build::udp(c, (server(), 54), b"?") },
                ),
                one("three tags", Outside, asked(&[1, 2, 3], 9002)),
            ],
        },
        Case {
            name: "layer 2",
            steps: vec![
                raw("ARP request", ethernet([8, 6], &arp(1))),
                raw("ARP reply", ethernet([8, 6], &arp(2))),
                raw("ARP of another operation", ethernet([8, 6], &arp(9))),
                raw("ARP for another hardware", ethernet([8, 6], &[&[0, 6][..], &arp(1)[2..]].concat())),
                one("neighbour solicitation", Outside, solicitation(255)),
                one("neighbour advertisement", Inside, advertisement),
                one("neighbour solicitation from afar", Outside, solicitation(64)),
                raw("LLDP-like EtherType", ethernet([0x88, 0xb7], &[1, 2, 3])),
                raw("802.3 length", ethernet([0, 38], &[0x42, 0x42, 3])),
                raw("Ethernet from a group", own.frame()),
            ],
        },
    ]
}

/// All of them.
pub fn all() -> Vec<Case> {
    [tcp(), ruled(), udp(), icmp(), fragments(), malformed(), extensions(), other_protocols(), layer_two()]
        .into_iter()
        .flatten()
        .collect()
}
