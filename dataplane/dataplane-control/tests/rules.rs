//! What a firewall's rules and zones may say, how it is refused otherwise, and that what is left out leaves no trace in a document.
// Helpers outside of #[test] functions.
#![allow(clippy::unwrap_used)]

use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{
        Firewall, IcmpMatch, Limit, LimitPer, MAX_RULES, MAX_ZONES, Port, PortDriver, Rule, RuleAction,
        TcpFlags, Zone,
    },
};

fn configuration(zones: Vec<Zone>, rules: Vec<Rule>) -> Configuration {
    let port = |name: &str| Port {
        name: name.into(),
        driver: PortDriver::AfPacket { interface: name.into() },
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
    };
    let firewall =
        Firewall { outside: "outside".into(), inside: "inside".into(), zones, rules, ..Firewall::default() };
    Configuration {
        instance: "i".into(),
        generation: 1,
        ports: vec![port("outside"), port("inside")],
        function: Function::Firewall(firewall),
    }
}

fn zone(id: &str, port: &str, vlans: &[u16]) -> Zone {
    Zone { id: id.into(), port: port.into(), vlans: vlans.to_vec() }
}

fn rule(id: &str) -> Rule {
    Rule { id: id.into(), from: "outside".into(), action: RuleAction::Allow, ..Rule::default() }
}

/// Path and problem; nothing, both as a structure and as a document.
fn refusal(zones: Vec<Zone>, rules: Vec<Rule>) -> Option<String> {
    let it = configuration(zones, rules);
    let refusal = it.check().err();
    assert_eq!(Configuration::parse(&it.to_bytes()).err(), refusal);
    refusal.map(|e| e.to_string())
}

fn zones() -> Vec<Zone> {
    vec![zone("red", "outside", &[0, 10]), zone("rest", "outside", &[]), zone("blue", "inside", &[10])]
}

#[test]
fn zones_part_the_vlans_of_a_port() {
    assert_eq!(refusal(zones(), vec![]), None);
    let too_many = (0..=u16::try_from(MAX_ZONES).unwrap())
        .map(|n| zone(&format!("z{n}"), "inside", &[n]))
        .collect::<Vec<_>>();
    for (wrong, words) in [
        (vec![zone("outside", "inside", &[1])], "firewall.zones[0].id: `outside` is a port"),
        (
            vec![zone("a", "elsewhere", &[1])],
            "firewall.zones[0].port: `elsewhere` is neither `outside` nor `inside`",
        ),
        (vec![zone("a", "inside", &[4095])], "firewall.zones[0].vlans: 4095 is not within 0 to 4094"),
        (vec![zone("a", "inside", &[1, 1])], "VLANs of firewall.zones on `inside`: `1` is there twice"),
        (vec![zone("a", "inside", &[1]), zone("a", "outside", &[2])], "firewall.zones: `a` is there twice"),
        (vec![zone("a", "inside", &[]), zone("b", "inside", &[])], "two zones on `inside` have no `vlans`"),
        (too_many, "firewall.zones: 255 zones on `inside`; at most 254"),
    ] {
        let refusal = refusal(wrong, vec![]).unwrap();
        assert!(refusal.contains(words), "{refusal}");
    }
    // The same VLAN on the other port is another network's.
    assert_eq!(refusal(vec![zone("a", "inside", &[1]), zone("b", "outside", &[1])], vec![]), None);
}

#[test]
fn conditions_go_together() {
    let limit = Limit { rate_per_second: 10, burst: 5, per: LimitPer::Source };
    let icmp = IcmpMatch { kind: 8, code: None };
    let flags = TcpFlags { value: 2, mask: 0x12 };
    let good = [
        Rule { from: "red".into(), to: Some("blue".into()), ..rule("a") },
        Rule { from: "blue".into(), to: Some("outside".into()), action: RuleAction::Reject, ..rule("b") },
        Rule { protocol: Some(58), icmp: Some(icmp), log: true, ..rule("c") },
        Rule { protocol: Some(6), tcp_flags: Some(flags), limit: Some(limit), ..rule("d") },
    ];
    assert_eq!(refusal(zones(), good.into()), None);
    for (wrong, words) in [
        (
            Rule { from: "green".into(), ..rule("a") },
            ".from: `green` is neither `outside` nor `inside` nor a zone",
        ),
        (Rule { to: Some("green".into()), ..rule("a") }, ".to: `green` is neither"),
        (Rule { to: Some("red".into()), ..rule("a") }, ".to: `red` is on the port of `outside`"),
        (
            Rule { from: "blue".into(), to: Some("inside".into()), ..rule("a") },
            ".to: `inside` is on the port of `blue`",
        ),
        (
            Rule { destination_ports: "53".parse().ok(), protocol: Some(1), ..rule("a") },
            "ports need protocol",
        ),
        (Rule { icmp: Some(icmp), protocol: Some(6), ..rule("a") }, "icmp needs protocol 1 or 58"),
        (Rule { tcp_flags: Some(flags), ..rule("a") }, "tcp_flags need protocol 6"),
        (
            Rule { tcp_flags: Some(TcpFlags { value: 4, mask: 2 }), protocol: Some(6), ..rule("a") },
            ".tcp_flags.value: has flags that `mask` leaves out",
        ),
        (Rule { limit: Some(limit), action: RuleAction::Deny, ..rule("a") }, ".limit: `deny` drops all"),
        (
            Rule { limit: Some(Limit { burst: 0, ..limit }), ..rule("a") },
            ".limit: rate_per_second and burst start at 1",
        ),
        (Rule { limit: Some(Limit { rate_per_second: 0, ..limit }), ..rule("a") }, "start at 1"),
    ] {
        let refusal = refusal(zones(), vec![rule("first"), wrong]).unwrap();
        assert!(refusal.contains("firewall.rules[1]") && refusal.contains(words), "{refusal}");
    }
}

#[test]
fn a_hundred_thousand_rules_and_no_more() {
    let rules = |n: usize| (0..n).map(|n| rule(&n.to_string())).collect::<Vec<_>>();
    assert_eq!(configuration(vec![], rules(MAX_RULES)).check(), Ok(()));
    let refusal = configuration(vec![], rules(MAX_RULES + 1)).check().unwrap_err().to_string();
    assert!(refusal.contains("firewall.rules: 100001 rules; at most 100000"), "{refusal}");
}

#[test]
fn what_is_left_out_leaves_no_trace() {
    let old = r#"{"id":"web","from":"outside","action":"allow","protocol":6,"destination_ports":"443"}"#;
    let rule: Rule = serde_json::from_str(old).unwrap();
    assert_eq!(serde_json::to_string(&rule).unwrap(), old);
    let new = r#"{"id":"ping","from":"red","to":"blue","action":"reject","protocol":1,"icmp":{"type":8,"code":0},"log":true,"limit":{"rate_per_second":10,"burst":5,"per":"source"}}"#;
    let rule: Rule = serde_json::from_str(new).unwrap();
    assert_eq!(serde_json::to_string(&rule).unwrap(), new);
    assert!(!String::from_utf8(configuration(vec![], vec![]).to_bytes()).unwrap().contains("zones"));
}
