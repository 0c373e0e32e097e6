//! What rules ask of a packet beyond addresses and ports reaches them from the frame: ICMP type and code, TCP flags, VLANs. What those with
//! `log` decide is left for others.
// Helpers outside of #[test] functions.
#![allow(clippy::unwrap_used)]

use crate::common::*;
use dataplane_control::{
    Configuration, Function,
    config::{
        IcmpMatch, Limit, LimitPer, Rule, RuleAction, TcpFlags, Tracking, Zone,
        tracking::{BeyondHalfOpen, HalfOpen},
    },
};
use dataplane_engine::{
    DropReason, PacketFunction, Verdict, build,
    events::{Ends, LOG_BATCH, Outcome},
};

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

/// Source port, rule and outcome of what was written down since the last time.
fn written(engine: &mut Box<dyn PacketFunction>) -> Vec<(u16, u32, Outcome)> {
    let log = engine.log(0).unwrap();
    log.exchange(Vec::with_capacity(LOG_BATCH))
        .into_iter()
        .map(|l| (l.ends.source_port, l.rule, l.outcome))
        .collect()
}

/// One packet to each of five ports, alone and in a burst, twice: what rules with `log` decide on new connections is left, with what became of
/// it, and nothing of what belongs to a connection or to other rules.
#[test]
fn what_rules_with_log_decide_is_left_to_be_written_down() {
    let log = |id: &str, action, port: u16| Rule {
        log: true,
        ..rule(id, action, Some(17), None, Some(&port.to_string()))
    };
    let limit = Some(Limit { rate_per_second: 1, burst: 1, per: LimitPer::Rule });
    let silent = rule("silent", RuleAction::Deny, Some(17), None, Some("5"));
    let rules = vec![
        log("allow", RuleAction::Allow, 1),
        log("deny", RuleAction::Deny, 2),
        log("reject", RuleAction::Reject, 3),
        Rule { limit, ..log("few", RuleAction::Allow, 4) },
        silent,
    ];
    let ask = |port: u16| Build::udp((ip("198.51.100.1"), port), (ip("192.0.2.10"), port), b"?").frame();
    let answer = |port: u16| Build::udp((ip("192.0.2.10"), port), (ip("198.51.100.1"), port), b"!").frame();
    let again = |port: u16| Build::udp((ip("198.51.100.2"), port), (ip("192.0.2.10"), port), b"?").frame();
    let denied = |rule: u16| (rule + 1, rule.into(), Outcome::Dropped(DropReason::Denied));
    for burst in [false, true] {
        let mut engine = build(&firewall(rules.clone(), 64)).unwrap();
        let send = |engine: &mut Box<dyn PacketFunction>, ingress, frames: Vec<Vec<u8>>| {
            let mut frames = frames;
            let mut verdicts = vec![Verdict::Drop(DropReason::Untracked); frames.len()];
            if burst {
                engine.burst(0, ingress, &mut frames, &mut verdicts);
            } else {
                for frame in &mut frames {
                    let _ = engine.process(0, ingress, frame);
                }
            }
        };
        // Nobody writes down yet: counted, and forgotten.
        send(&mut engine, 0, vec![ask(2)]);
        assert!(engine.log(0).is_some_and(|l| l.is_empty() && l.missed() == 1));
        engine.log(0).unwrap().hold(LOG_BATCH);
        assert!(engine.log(1).is_none());

        send(&mut engine, 0, (1..=5).map(ask).collect());
        let rejected = (3, 2, Outcome::Rejected);
        let first = [(1, 0, Outcome::Allowed), denied(1), rejected, (4, 3, Outcome::Allowed)];
        assert_eq!(written(&mut engine), first, "burst: {burst}");
        // Of a connection, both ways; then the others, decided again.
        send(&mut engine, 1, vec![answer(1), answer(4)]);
        send(&mut engine, 0, (1..=5).map(ask).collect());
        assert_eq!(written(&mut engine), [denied(1), rejected], "burst: {burst}");
        send(&mut engine, 0, vec![again(4)]);
        assert_eq!(written(&mut engine), [(4, 3, Outcome::Dropped(DropReason::RuleRate))], "burst: {burst}");

        // More than there is room for.
        send(&mut engine, 0, (0..LOG_BATCH + 7).map(|_| ask(2)).collect());
        assert_eq!(engine.log(0).unwrap().missed(), 8, "burst: {burst}");
        let all = engine.log(0).unwrap().exchange(vec![]);
        assert_eq!(all.len(), LOG_BATCH);
        let ends = Ends {
            source: ip("198.51.100.1"),
            destination: ip("192.0.2.10"),
            source_port: 2,
            destination_port: 2,
            protocol: 17,
            from_near: true,
        };
        assert!(all.iter().all(|l| l.ends == ends && !l.sampled));
    }
}

/// What a SYN beyond the half-open connections gets, and the connection that its cookie opens.
#[test]
fn cookies_are_written_down_as_what_they_are() {
    let half_open = Some(HalfOpen { limit: 1, beyond: BeyondHalfOpen::Cookie });
    let mut configuration = firewall(vec![Rule { log: true, ..allow(6) }], 64);
    if let Function::Firewall(f) = &mut configuration.function {
        f.tracking = Tracking { half_open, ..Tracking::default() };
    }
    let mut engine = build(&configuration).unwrap();
    engine.log(0).unwrap().hold(LOG_BATCH);
    engine.events().unwrap().sample(1);
    let (c, s) = (ip("198.51.100.1"), (ip("192.0.2.10"), 443));
    let syn = |port| Build::tcp((c, port), s, 2, &[]);
    let mut frames = [syn(1).frame(), syn(2).frame()];
    for frame in &mut frames {
        assert!(matches!(engine.process(0, 0, frame), Verdict::Forward { .. }));
    }
    // The answer's number, after Ethernet and IPv4, acknowledged.
    let cookie = u32::from_be_bytes(frames[1][38..42].try_into().unwrap());
    let mut returned = Build::tcp((c, 2), s, 16, &[]);
    let next = u32::from_be_bytes(syn(2).transport[4..8].try_into().unwrap()).wrapping_add(1);
    returned.transport[4..8].copy_from_slice(&next.to_be_bytes());
    returned.transport[8..12].copy_from_slice(&cookie.wrapping_add(1).to_be_bytes());
    assert!(matches!(engine.process(1_000, 0, &mut returned.frame()), Verdict::Forward { port: 1 }));
    let all = engine.log(0).unwrap().exchange(vec![]);
    let told: Vec<_> = all.iter().map(|l| (l.ends.source_port, l.outcome, l.sampled)).collect();
    // Those that were opened are in the sample, too.
    let (allowed, challenged) = (Outcome::Allowed, Outcome::Challenged);
    assert_eq!(told, [(1, allowed, true), (2, challenged, false), (2, allowed, true)]);
}
