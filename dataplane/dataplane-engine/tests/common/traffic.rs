//! Generated frames over a small universe of hosts and ports, so that packets meet connections; valid, mutated and
//! random.

use std::net::IpAddr;

use dataplane_control::MacAddr;
use proptest::prelude::*;

use super::{Build, CLIENT_MAC, LB_BACKEND_MAC, LB_CLIENT_MAC, ip};

pub const NEAR4: [&str; 2] = ["198.51.100.1", "198.51.100.2"];
pub const FAR4: [&str; 2] = ["192.0.2.10", "192.0.2.11"];
pub const NEAR6: [&str; 2] = ["2001:db8:1::1", "2001:db8:1::2"];
pub const FAR6: [&str; 2] = ["2001:db8::10", "2001:db8::11"];

/// A frame and the side where it comes in.
#[derive(Debug, Clone)]
pub struct Sent {
    pub far: bool,
    pub frame: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Ends {
    far: bool,
    near: (IpAddr, u16),
    other: (IpAddr, u16),
}

fn ends() -> impl Strategy<Value = Ends> {
    (any::<bool>(), any::<bool>(), 0..2usize, 0..2usize, 0..2usize, 0..2usize).prop_map(
        |(far, v4, a, b, p, q)| {
            let (near, other) = if v4 { (NEAR4[a], FAR4[b]) } else { (NEAR6[a], FAR6[b]) };
            Ends { far, near: (ip(near), [49152, 49153][p]), other: (ip(other), [443, 53][q]) }
        },
    )
}

impl Ends {
    fn sender(&self) -> (IpAddr, u16) {
        if self.far { self.other } else { self.near }
    }
    fn receiver(&self) -> (IpAddr, u16) {
        if self.far { self.near } else { self.other }
    }
}

fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(2u8), 6 => Just(0x12), 8 => Just(0x10), 3 => Just(0x18), 2 => Just(0x11), 2 => Just(4), 1 => Just(0x14), 1 => any::<u8>()]
}

/// TCP, UDP, ICMP echo, another protocol.
fn plain(e: Ends) -> impl Strategy<Value = Build> {
    let (s, d) = (e.sender(), e.receiver());
    (0..10u8, flags(), 1..3u16, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
        move |(kind, flags, id, ask, payload)| match kind {
            0..=4 => Build::tcp(s, d, flags, &payload),
            5..=6 => Build::udp(s, d, &payload),
            7..=8 => {
                let kind = match (s.0.is_ipv4(), ask) {
                    (true, true) => 8,
                    (true, false) => 0,
                    (false, true) => 128,
                    (false, false) => 129,
                };
                Build::icmp(s.0, d.0, kind, 0, &[&id.to_be_bytes()[..], &[0, 1], &payload].concat())
            }
            _ => Build::new(
                s.0,
                d.0,
                [47, 132, 50][usize::from(id) % 3],
                [&[1, 2, 3, 4][..], &[0; 8], &payload].concat(),
                None,
            ),
        },
    )
}

/// An ICMP error from the receiver's side about a packet to it.
fn error(e: Ends) -> impl Strategy<Value = Build> {
    let about = Ends { far: !e.far, ..e.clone() };
    let to = e.receiver().0;
    (plain(about), any::<bool>(), any::<u8>(), 8..120usize).prop_map(move |(quoted, honest, kind, keep)| {
        let mut packet = quoted.packet();
        packet.truncate(keep.max(28));
        let from = if honest { quoted.destination } else { quoted.source };
        let kinds = if to.is_ipv4() { [3, 11, 12, 5] } else { [1, 2, 3, 137] };
        Build::icmp(from, to, kinds[usize::from(kind) % 4], 0, &[&[0; 4][..], &packet].concat())
    })
}

/// Neighbour solicitations and advertisements, ARP; valid unless `hops` spoils them.
fn neighbour() -> impl Strategy<Value = Sent> {
    (any::<bool>(), 0..4u8, 0..2usize, prop_oneof![4 => Just(255u8), 1 => any::<u8>()], any::<bool>())
        .prop_map(|(far, kind, host, hops, to_group)| {
            let near = ip(NEAR6[host]);
            let IpAddr::V6(target) = ip(FAR6[host]) else { unreachable!() };
            let mac = if far { LB_BACKEND_MAC } else { LB_CLIENT_MAC };
            let to = if to_group { MacAddr([0x33, 0x33, 0xff, 0, 0, 0x10]) } else { mac };
            let frame = match kind {
                0 | 1 => {
                    let (number, option) = if kind == 0 { (135, 1) } else { (136, 2) };
                    let rest = [&[0; 4][..], &target.octets(), &[option, 1], &CLIENT_MAC.0].concat();
                    let to_address = if to_group && kind == 0 {
                        let low = target.octets();
                        format!("ff02::1:ff{:02x}:{:02x}{:02x}", low[13], low[14], low[15])
                    } else {
                        FAR6[host].to_owned()
                    };
                    let build = Build::icmp(near, ip(&to_address), number, 0, &rest);
                    Build { hops, ..build.macs(to, CLIENT_MAC) }.frame()
                }
                _ => {
                    let to = if to_group { MacAddr([0xff; 6]) } else { mac };
                    let mut f = [&to.0[..], &CLIENT_MAC.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, kind - 1]].concat();
                    f.extend(
                        [&CLIENT_MAC.0[..], &[198, 51, 100, 1], &[0; 6], &[192, 0, 2, 10 + host as u8]]
                            .concat(),
                    );
                    f.extend([0; 18]);
                    f
                }
            };
            Sent { far, frame }
        })
}

/// VLAN tags, IPv4 options or IPv6 extension headers, fragments, padding, MAC addresses.
fn dressed(e: Ends, build: Build) -> impl Strategy<Value = Sent> {
    let v4 = build.source.is_ipv4();
    let protocol = build.protocol;
    let tags = prop_oneof![8 => Just(vec![]), 1 => Just(vec![10]), 1 => Just(vec![10, 20]), 1 => Just(vec![1, 2, 3])];
    let fragment = prop_oneof![20 => Just(0u16), 1 => Just(0x4000), 1 => Just(0x2000), 1 => Just(7)];
    (tags, fragment, 0..24u8, 0..20usize, 0..12u8).prop_map(move |(tags, fragment, extra, padding, odd)| {
        let mut b = build.clone();
        let [high, low] = fragment.to_be_bytes();
        (b.options, b.first_extension) = match (v4, extra) {
            (true, 0) => (vec![1, 1, 1, 0], None),
            (true, 1) => (vec![131, 4, 4, 0], None),
            (true, 2) => (vec![7, 60, 0, 0], None),
            (false, 0) => (vec![60, 0, 1, 4, 0, 0, 0, 0, protocol, 0, 1, 4, 0, 0, 0, 0], Some(0)),
            (false, 1) => (vec![protocol, 0, 0, odd % 2, 0, 0, 0, 0], Some(43)),
            (false, 2) => (vec![0, 0, 1, 4, 0, 0, 0, 0, protocol, 0, 1, 4, 0, 0, 0, 0], Some(60)),
            (false, 3 | 4) => (vec![protocol, 0, high, low >> 1, 0, 0, 0, 9], Some(44)),
            (false, 5) => (vec![protocol, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Some(51)),
            (false, 6) => ([60, 0, 1, 4, 0, 0, 0, 0].repeat(8 + usize::from(odd % 2)), Some(60)),
            _ => (vec![], None),
        };
        if extra == 6 && !v4 {
            let last = b.options.len() - 8;
            b.options[last] = protocol;
        }
        (b.tags, b.fragment, b.padding) = (tags, fragment, padding);
        let ours = if e.far { LB_BACKEND_MAC } else { LB_CLIENT_MAC };
        b.to = match odd {
            0 => MacAddr([2, 9, 9, 9, 9, 9]),
            1 => MacAddr([0xff; 6]),
            _ => ours,
        };
        b.from = if odd == 2 { MacAddr([2, 0, 0, 0, 0, 7]) } else { CLIENT_MAC };
        Sent { far: e.far, frame: b.frame() }
    })
}

pub fn valid() -> impl Strategy<Value = Sent> {
    prop_oneof![
        12 => ends().prop_flat_map(|e| plain(e.clone()).prop_flat_map(move |b| dressed(e.clone(), b))),
        3 => ends().prop_flat_map(|e| error(e.clone()).prop_flat_map(move |b| dressed(e.clone(), b))),
        1 => neighbour(),
    ]
}

/// Truncated, or with a few bytes changed.
pub fn mutated() -> impl Strategy<Value = Sent> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (valid(), changes, prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)])
        .prop_map(|(mut sent, changes, cut)| {
            for (at, value) in changes {
                let at = at.index(sent.frame.len());
                sent.frame[at] = value;
            }
            if let Some(cut) = cut {
                let keep = cut.index(sent.frame.len() + 1);
                sent.frame.truncate(keep);
            }
            sent
        })
}

/// Random bytes, most of them with a known EtherType and version.
pub fn random() -> impl Strategy<Value = Sent> {
    (any::<bool>(), 0..4u8, proptest::collection::vec(any::<u8>(), 0..200)).prop_map(
        |(far, kind, mut frame)| {
            let head: &[u8] = match kind {
                0 => &[8, 0, 0x45],
                1 => &[0x86, 0xdd, 0x60],
                2 => &[0x81, 0],
                _ => &[],
            };
            if let Some(place) = frame.get_mut(12..12 + head.len()) {
                place.copy_from_slice(head);
            }
            Sent { far, frame }
        },
    )
}

pub fn any_frame() -> impl Strategy<Value = Sent> {
    prop_oneof![20 => valid(), 4 => mutated(), 1 => random()]
}
