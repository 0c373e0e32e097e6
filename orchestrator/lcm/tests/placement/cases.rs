//! Named cases, worked out by hand.

use lcm::placement::{
    Amounts, Budget, Candidate, Cause, Code, Connection, Cost, Costs, Exclusion, Group, Leg, Link, Member,
    Path, PlacementError, Problem, Solver, explain, explain_refusal, solve,
};

fn member(name: &str, vcpus: u32) -> Member {
    let demand = Amounts { vcpus, ..Amounts::default() };
    Member { name: name.into(), demand, ..Member::default() }
}

fn site(name: &str, cost: u32, vcpus: u32) -> Candidate {
    let room = Amounts { vcpus, ..Amounts::default() };
    Candidate { name: name.into(), cost, total: room, free: room, ..Candidate::default() }
}

fn connection(a: &str, b: &str, latency_us: u64) -> Connection {
    Connection { a: a.into(), b: b.into(), latency_us, bandwidth_kbps: None }
}

fn group(name: &str, members: &[&str]) -> Group {
    Group { name: name.into(), members: members.iter().map(|m| (*m).to_owned()).collect() }
}

/// A firewall and a balancer that talk to each other.
fn pair(sites: Vec<Candidate>) -> Problem {
    Problem {
        members: vec![member("fw", 4), member("lb", 2)],
        links: vec![Link { name: "inside".into(), a: "fw".into(), b: "lb".into(), traffic_kbps: 2500 }],
        paths: vec![Path {
            name: "there".into(),
            legs: vec![Leg::Access("fw".into()), Leg::Link("inside".into())],
            bound_us: 1000,
            penalty_per_us: 2,
            weight: 3,
        }],
        sites,
        ..Problem::default()
    }
}

fn solved(problem: &Problem) -> lcm::placement::Answer {
    solve(problem, Budget::default()).unwrap()
}

fn refused(problem: &Problem) -> lcm::placement::Unplaceable {
    match solve(problem, Budget::default()) {
        Err(PlacementError::Unplaceable(why)) => *why,
        other => panic!("{other:?}"),
    }
}

/// The example of the module's documentation.
#[test]
fn unused_capacity_by_hand() {
    let need = Amounts { vcpus: 4, memory_mib: 8192, ..Amounts::default() };
    let total = Amounts { vcpus: 16, memory_mib: 32768, ..Amounts::default() };
    let free = Amounts { vcpus: 8, memory_mib: 24576, ..Amounts::default() };
    let problem = Problem {
        members: vec![Member { demand: need, ..member("fw", 0) }],
        sites: vec![Candidate { total, free, ..site("a", 0, 0) }],
        costs: Costs { alpha_permille: 100, shortfall_per_mbps: None },
        ..Problem::default()
    };
    let answer = solved(&problem);
    assert_eq!(answer.parts.sites[0].unused_ppm, 375_000);
    assert_eq!((answer.z, answer.z.to_string().as_str()), (Cost(37_500), "37.5"));
}

/// Together on b: 6 x 3 + 4 = 22. Apart, fw on a: 4 x 1 + 2 x 3, path 200 + 600 = 800 µs: 18.
#[test]
fn splitting_is_worth_its_latency_or_not() {
    let sites = || {
        let (mut a, mut b) = (site("a", 1, 4), site("b", 3, 8));
        (a.latency_us, b.latency_us) = (200, 400);
        vec![a, b]
    };
    let mut problem = Problem { connections: vec![connection("b", "a", 600)], ..pair(sites()) };
    let answer = solved(&problem);
    assert_eq!((answer.assignment["fw"].as_str(), answer.assignment["lb"].as_str()), ("a", "b"));
    assert_eq!((answer.z, answer.parts.paths[0].legs_us.as_slice()), (Cost(18_000), [200, 600].as_slice()));
    let fw = answer.against.iter().find(|a| a.member == "fw").unwrap();
    assert_eq!((fw.code, fw.worse_by), (Code::CostsMore, Some(Cost(4_000))));
    assert_eq!(fw.text, "feasible, but costs 22 against 18 on a");
    let lb = answer.against.iter().find(|a| a.member == "lb").unwrap();
    assert_eq!(
        (lb.code, lb.text.as_str()),
        (Code::CapacityVcpus, "with `fw` there it needs 6 vCPUs, 4 of 4 are free")
    );
    // 1 µs over the bound costs 2 x 3, so that 801 µs more than pays for being together.
    problem.connections[0].latency_us = 801;
    let answer = solved(&problem);
    assert_eq!((answer.assignment["fw"].as_str(), answer.z), ("b", Cost(22_000)));
    // No connection at all: the same, for another reason.
    problem.connections.clear();
    let answer = solved(&problem);
    let fw = answer.against.iter().find(|a| a.member == "fw").unwrap();
    assert_eq!(
        (fw.code, fw.text.as_str()),
        (Code::NotConnected, "not connected with b, where `lb` is; link `inside`")
    );
}

/// 2500 kbit/s over a connection of 1000: refused, or 2 started Mbit/s at 5 each.
#[test]
fn a_connection_that_is_too_narrow() {
    let mut problem = pair(vec![site("a", 1, 4), site("b", 1, 4)]);
    problem.connections = vec![Connection { bandwidth_kbps: Some(1000), ..connection("a", "b", 0) }];
    let why = refused(&problem);
    let Cause::Joint { members, rules } = &why.cause else { panic!("{why}") };
    assert_eq!(members, &["fw", "lb"]);
    assert_eq!(rules, &["the sites' vCPUs", "the connections' bandwidth"]);
    assert_eq!(
        why.to_string(),
        "`fw`, `lb` have a site each, but not all at once, because of the sites' vCPUs and the connections' bandwidth"
    );
    problem.costs.shortfall_per_mbps = Some(5);
    let answer = solved(&problem);
    assert_eq!((answer.z, answer.parts.connections[0].penalty), (Cost(16_000), Cost(10_000)));
}

#[test]
fn the_smallest_set_is_named_not_the_whole_service() {
    let mut problem = Problem {
        members: ["a", "b", "c", "d"].map(|m| member(m, 1)).into(),
        sites: vec![site("x", 1, 9), site("y", 1, 9)],
        ..Problem::default()
    };
    problem.anti_affinity = vec![group("apart", &["b", "c", "d"])];
    let why = refused(&problem);
    let Cause::Joint { members, rules } = &why.cause else { panic!("{why}") };
    assert_eq!(
        (members.as_slice(), rules.as_slice()),
        (["b", "c", "d"].map(String::from).as_slice(), ["anti-affinity `apart`".to_owned()].as_slice())
    );
    // Alone: which constraint kills which site.
    problem.members[0].demand.vcpus = 10;
    let why = refused(&problem);
    let text = "no site can take `a`: x: needs 10 vCPUs, 9 of 9 are free; y: needs 10 vCPUs, 9 of 9 are free";
    assert_eq!((why.to_string().as_str(), why.against.len()), (text, 2));
    assert_eq!(explain_refusal(&why).tables[0].rows.len(), 2);
}

#[test]
fn together_and_apart_contradict_each_other() {
    let problem = Problem {
        affinity: vec![group("near", &["fw", "lb"])],
        anti_affinity: vec![group("far", &["fw", "lb"])],
        ..pair(vec![site("a", 1, 9)])
    };
    let why = refused(&problem);
    assert_eq!(why.against[0].code, Code::AntiAffinity);
    assert_eq!(why.against[0].text, "`fw` and `lb` must be together and, by anti-affinity `far`, apart");
}

/// A site that refuses is left out; what was computed stays; in the end there is a reason for each.
#[test]
fn the_next_candidate_after_no_valid_host() {
    let problem = pair(vec![site("a", 1, 9), site("b", 2, 9), site("c", 3, 9)]);
    let mut solver = Solver::new(&problem).unwrap();
    let mut answer = solver.solve(Budget::default()).unwrap();
    for (refusing, next) in [("a", "b"), ("b", "c")] {
        assert!(answer.assignment.values().all(|s| s == refusing));
        let no = Exclusion {
            site: refusing.into(),
            member: Some("lb".into()),
            why: "No valid host was found".into(),
        };
        answer = solver.next(&no, Budget::default()).unwrap();
        assert!(answer.optimal && answer.assignment.values().all(|s| s == next));
        assert!(
            answer.refused().contains(&(refusing.into(), "No valid host was found".into())),
            "{:?}",
            answer.refused()
        );
        // As if it had been known from the start.
        let mut known = problem.clone();
        known.exclusions = ["a", "b"][..if next == "b" { 1 } else { 2 }]
            .iter()
            .map(|s| Exclusion { site: (*s).into(), ..no.clone() })
            .collect();
        assert_eq!(solved(&known).z, answer.z);
    }
    let no = Exclusion { site: "c".into(), member: None, why: "full".into() };
    assert_eq!(solver.next(&no, Budget::default()).unwrap_err().code(), "NO_SITE");
}

/// Migration: one member moves, the other stays although its site is drained, and pays nothing twice.
#[test]
fn what_is_pinned_stays() {
    let mut problem = pair(vec![site("a", 1, 6), site("b", 1, 6)]);
    problem.connections = vec![connection("a", "b", 100)];
    problem.sites[0].free.vcpus = 0;
    problem.sites[0].drained = Some("drained for maintenance".into());
    for m in &mut problem.members {
        m.held = Some(lcm::placement::Held { site: "a".into(), amounts: m.demand });
    }
    problem.members[1].pinned = Some("a".into());
    let answer = solved(&problem);
    assert_eq!((answer.assignment["fw"].as_str(), answer.assignment["lb"].as_str()), ("b", "a"));
    let why = |m: &str| answer.against.iter().find(|a| a.member == m).map(|a| a.text.clone()).unwrap();
    assert_eq!((why("fw").as_str(), why("lb").as_str()), ("drained for maintenance", "`lb` stays on a"));
}

#[test]
fn an_explanation_adds_up() {
    let problem = Problem {
        connections: vec![connection("a", "b", 600)],
        ..pair(vec![site("a", 1, 4), site("b", 3, 8)])
    };
    let told = explain(&solved(&problem));
    assert!(told.headline.starts_with("Z = 16: nothing is cheaper ("), "{}", told.headline);
    let cells = |row: &Vec<String>| row.join(" | ");
    let costs: Vec<String> = told.tables[0].rows.iter().map(cells).collect();
    assert_eq!(
        costs,
        ["member fw | on a | 4", "member lb | on b | 6", "path there | 600 µs | 6", "Z |  | 16"]
    );
    assert!(told.tables.iter().all(|t| t.rows.iter().all(|r| r.len() == t.columns.len())));
}

#[test]
fn malformed_problems_say_where() {
    let good = pair(vec![site("a", 1, 9)]);
    let said = |change: fn(&mut Problem)| {
        let mut problem = good.clone();
        change(&mut problem);
        solve(&problem, Budget::default()).unwrap_err().to_string()
    };
    assert!(said(|p| p.links[0].b = "x".into()).contains("link `inside`: names `x`"));
    assert!(said(|p| p.members[1].name = "fw".into()).contains("member `fw`: there twice"));
    assert!(said(|p| p.connections = vec![connection("a", "a", 1)]).contains("connection `a to a`"));
    assert!(said(|p| p.members[0].pinned = Some("z".into())).contains("member `fw`: names `z`"));
    assert!(said(|p| p.sites[0].latency_us = u64::MAX).contains("too large to count"));
    assert!(
        said(|p| p.sites = (0..129).map(|i| site(&i.to_string(), 1, 1)).collect()).contains("at most 128")
    );
}

/// 64 x 64, far beyond what can be proved: it ends within the budget and says how far it is.
#[test]
fn the_largest_size_ends_with_a_gap() {
    let sites: Vec<String> = (0..64).map(|i| format!("s{i:02}")).collect();
    let mut problem = Problem {
        members: (0..64).map(|i| member(&format!("m{i:02}"), 2 + i % 5)).collect(),
        costs: Costs { alpha_permille: 500, shortfall_per_mbps: None },
        ..Problem::default()
    };
    problem.sites = sites.iter().zip(0u32..).map(|(n, i)| site(n, 3 + i * 7 % 11, 5 + i % 4)).collect();
    for (i, a) in sites.iter().enumerate() {
        let hop = |(j, b): (usize, &String)| connection(a, b, 100 + ((i * 37 + j * 91) % 400) as u64);
        problem.connections.extend(sites.iter().enumerate().skip(i + 1).map(hop));
    }
    for i in 1..64 {
        let (name, a, b) = (format!("l{i:02}"), format!("m{:02}", i - 1), format!("m{i:02}"));
        problem.links.push(Link { name: name.clone(), a, b, traffic_kbps: 1000 });
        let legs = vec![Leg::Link(name.clone())];
        problem.paths.push(Path { name, legs, bound_us: 150, penalty_per_us: 1, weight: 1 });
    }
    let answer = solve(&problem, Budget::nodes(2000)).unwrap();
    assert!(!answer.optimal && answer.nodes <= 2000);
    assert!(answer.lower_bound < answer.z && answer.gap_permille > 0 && answer.gap_permille < 1000);
    assert_eq!(answer.against.len(), 64 * 63);
}
