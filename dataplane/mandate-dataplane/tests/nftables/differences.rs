//! Where the firewall decides otherwise than Linux: named as in the table of `docs/dataplane.md`, which has the reasons.

use crate::Verdict::{self, Drop, Part, Pass};

struct Difference {
    name: &'static str,
    linux: Verdict,
    ours: Verdict,
    steps: &'static [&'static str],
}

const fn difference(
    name: &'static str,
    linux: Verdict,
    ours: Verdict,
    steps: &'static [&'static str],
) -> Difference {
    Difference { name, linux, ours, steps }
}

const ALL: &[Difference] = &[
    difference(
        "out of the window",
        Drop,
        Pass,
        &["tcp out of the window / data far ahead", "tcp out of the window / RST far ahead"],
    ),
    difference(
        "transport checksum",
        Drop,
        Pass,
        &["tcp malformed / wrong checksum", "udp malformed / wrong checksum", "icmp echo / wrong checksum"],
    ),
    difference(
        "data after a reset",
        Pass,
        Drop,
        &[
            "tcp reset by the server / data after RST",
            "tcp reset by the server / data of the other after RST",
        ],
    ),
    difference("opened by both", Pass, Drop, &["tcp opened by both / SYN of the other"]),
    difference(
        "fragments out of order",
        Pass,
        Part,
        &[
            "fragments / the last first",
            "fragments / two of three swapped",
            "fragments / IPv6, the last first",
        ],
    ),
    difference("overlapping fragments", Drop, Part, &["fragments / overlapping"]),
    difference("tiny first fragment", Pass, Drop, &["fragments / a tiny first"]),
    difference(
        "ICMP queries",
        Pass,
        Drop,
        &[
            "icmp types / timestamp request",
            "icmp types / information request",
            "icmp types / address mask request",
        ],
    ),
    difference(
        "obsolete ICMP errors",
        Pass,
        Drop,
        &["icmp errors / source quench", "icmp errors / redirect"],
    ),
    difference("ICMP error from the other side", Pass, Drop, &["icmp errors / from the wrong side"]),
    difference("ICMP quote", Pass, Drop, &["icmp errors / quotes too little"]),
    difference("SCTP states", Drop, Pass, &["other protocols / SCTP DATA of no association"]),
    difference("authentication header", Drop, Pass, &["extension headers / authentication header"]),
    difference("order of extension headers", Pass, Drop, &["extension headers / hop by hop behind another"]),
    difference("number of extension headers", Pass, Drop, &["extension headers / nine"]),
    difference("routing header", Pass, Drop, &["extension headers / routing type 0, one left"]),
    difference(
        "source route",
        Pass,
        Drop,
        &["options / loose source route", "options / strict source route"],
    ),
    difference(
        "malformed options",
        Pass,
        Drop,
        &["options / longer than the header", "options / of no length"],
    ),
    difference(
        "impossible addresses",
        Pass,
        Drop,
        &[
            "addresses / IPv4 from a multicast group",
            "addresses / IPv4 from broadcast",
            "addresses / IPv4 from loopback",
            "addresses / IPv6 from a multicast group",
            "addresses / IPv6 from loopback",
            "addresses / IPv6 from a mapped address",
        ],
    ),
    difference("VLANs", Pass, Drop, &["VLAN / answer in another VLAN", "VLAN / answer without a tag"]),
    difference("two VLAN tags", Pass, Drop, &["VLAN / two tags, denied"]),
    difference("three VLAN tags", Pass, Drop, &["VLAN / three tags"]),
    difference("other EtherTypes", Pass, Drop, &["layer 2 / LLDP-like EtherType", "layer 2 / 802.3 length"]),
    difference(
        "malformed ARP",
        Pass,
        Drop,
        &["layer 2 / ARP of another operation", "layer 2 / ARP for another hardware"],
    ),
];

pub fn all() -> impl Iterator<Item = String> {
    ALL.iter()
        .flat_map(|d| d.steps.iter().map(|step| format!("{step}: nftables {:?}, vFW {:?}", d.linux, d.ours)))
}

pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|d| d.name)
}
