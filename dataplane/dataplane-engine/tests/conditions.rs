//! What rules ask of a packet beyond addresses and ports reaches them from the frame: ICMP type and code, TCP flags, VLANs.
// Helpers outside of #[test] functions.
#![allow(clippy::unwrap_used)]

use crate::common::*;
use dataplane_control::{
    Configuration, Function,
    config::{IcmpMatch, Rule, RuleAction, TcpFlags, Zone},
};
use dataplane_engine::{Verdict, build};

/// Whether each frame from outside opens a connection of its own.
fn passes(rule: Rule, zones: Vec<Zone>, frames: &[Vec<u8>]) -> Vec<bool> {
    let mut configuration: Configuration = firewall(vec![], 64);
    if let Function::Firewall(f) = &mut configuration.function {
        (f.rules, f.zones) = (vec![rule], zones);
    }
    let mut engine = build(&configuration).unwrap();
    frames.iter().map(|f| matches!(engine.process(0, 0, &mut f.clone()), Verdict::Forward { .. })).collect()
}

fn allow(protocol: u8) -> Rule {
    rule("r", RuleAction::Allow, Some(protocol), None, None)
}

#[test]
fn icmp_type_and_code() {
    let (c, s) = (ip("198.51.100.1"), ip("192.0.2.10"));
    let echo = |code| Build::icmp(c, s, 8, code, &[0, code, 0, 1]).frame();
    let frames = [echo(0), echo(1)];
    let icmp = |kind, code| Rule { icmp: Some(IcmpMatch { kind, code }), ..allow(1) };
    for (kind, code, expected) in [
        (8, Some(0), [true, false]),
        (8, Some(1), [false, true]),
        (8, None, [true; 2]),
        (13, None, [false; 2]),
    ] {
        assert_eq!(passes(icmp(kind, code), vec![], &frames), expected, "{kind} {code:?}");
    }
}

#[test]
fn flags_of_the_first_segment() {
    let (c, s) = (ip("198.51.100.1"), ip("192.0.2.10"));
    // A SYN; one that asks for explicit congestion notification (RFC 3168 §6.1.1).
    let frames =
        [(1, 0x02), (2, 0xc2)].map(|(port, flags)| Build::tcp((c, port), (s, 443), flags, &[]).frame());
    for (value, mask, expected) in
        [(2, 0xff, [true, false]), (0xc2, 0xc2, [false, true]), (2, 0x12, [true; 2])]
    {
        let rule = Rule { tcp_flags: Some(TcpFlags { value, mask }), ..allow(6) };
        assert_eq!(passes(rule, vec![], &frames), expected, "{value:x}/{mask:x}");
    }
}

#[test]
fn zones_are_outer_vlans_of_their_port() {
    let (c, s) = ((ip("198.51.100.1"), 1), (ip("192.0.2.10"), 53));
    let tagged = |tags: &[u16]| Build { tags: tags.to_vec(), ..Build::udp(c, s, b"?") }.frame();
    let frames = [tagged(&[]), tagged(&[10]), tagged(&[10, 30]), tagged(&[30, 10])];
    let zone =
        |id: &str, port: &str, vlans: &[u16]| Zone { id: id.into(), port: port.into(), vlans: vlans.into() };
    let zones =
        vec![zone("red", "outside", &[10]), zone("rest", "outside", &[]), zone("blue", "inside", &[0, 30])];
    for (from, to, expected) in [
        ("red", None, [false, true, true, false]),
        ("rest", None, [true, false, false, true]),
        ("outside", Some("blue"), [true, false, false, true]),
        ("red", Some("blue"), [false; 4]),
        ("outside", Some("inside"), [true; 4]),
    ] {
        let rule = Rule { from: from.into(), to: to.map(Into::into), ..allow(17) };
        assert_eq!(passes(rule, zones.clone(), &frames), expected, "{from} {to:?}");
    }
}
