//! Plans of the whole life cycle: what is done in which order, where, and what is refused.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::*;
use dataplane_control::{Configuration, Function};
use lcm::{Action, NsRecord, Plan};
use ledger_contract::{
    IntentKind,
    intent::{ScaleDirection::ScaleOut, StandingUse},
};
use vim::{ComputeState, Kind, Observed, Spec};

fn whats(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|s| s.what.as_str()).collect()
}

fn deployed() -> NsRecord {
    plan(IntentKind::Deploy(Box::new(deploy())), None).after.unwrap()
}

fn balancer(action: &Action) -> Option<(u64, Vec<u16>)> {
    let Action::Ensure { spec, .. } = action else { return None };
    let Spec::Compute(c) = &**spec else { return None };
    let c = Configuration::parse(c.configuration.as_bytes()).unwrap();
    match c.function {
        Function::LoadBalancer(l) => Some((c.generation, l.backends.iter().map(|b| b.number).collect())),
        _ => None,
    }
}

#[test]
fn an_update_of_rules_reconfigures_in_place() {
    let before = deployed();
    let p = plan(update("ns", other_params()), Some(&before));
    assert_eq!(
        whats(&p),
        [
            "attest (as it was)",
            "start probe/client",
            "reconfigure vfw/vfw/0",
            "reconfigure vlb/vlb/0",
            "attest",
            "measure",
            "stop the probe",
        ]
    );
    let after = p.after.unwrap();
    assert_eq!(after.revision, "intent-update");
    assert_eq!(after.deploy.vnf_params, other_params());
    assert_eq!(after.objects.len(), before.objects.len());
}

#[test]
fn another_package_version_rolls_through_the_backends_while_the_balancer_leaves_each_out() {
    let before = deployed();
    let setup = Setup { catalogue: next_version(), ..Setup::default() };
    let p = setup.plan(update("ns2", deploy().vnf_params), Some(&before)).unwrap();
    let (old, new) = (trust::Digest::of("dp").short(), trust::Digest::of("dp2").short());
    assert_eq!(
        whats(&p),
        [
            "attest (as it was)".to_owned(),
            format!("store image image/{new}"),
            "start probe/client".into(),
            "drain vlb/backend/0".into(),
            "replace vlb/backend/0".into(),
            "drain vlb/backend/1".into(),
            "replace vlb/backend/1".into(),
            "replace vlb/vlb/0".into(),
            "replace vfw/vfw/0".into(),
            "attest".into(),
            "measure".into(),
            "stop the probe".into(),
            format!("remove image/{old}"),
        ]
    );
    let tables: Vec<_> = p.steps.iter().filter_map(|s| balancer(&s.action)).collect();
    assert_eq!(tables, [(2, vec![2]), (3, vec![1]), (4, vec![1, 2])], "one backend at a time is left out");
    let backs: Vec<_> = p.steps.iter().filter_map(|s| balancer(s.undo.as_ref()?)).collect();
    assert_eq!(
        backs,
        [(7, vec![1, 2]), (6, vec![2]), (5, vec![1])],
        "taken back in reverse, each is newer than the one before"
    );
    for (i, step) in p.steps.iter().enumerate().skip(4).take(4) {
        assert_eq!(step.needs.iter().max(), Some(&p.steps[i - 1].id), "{}: one after the other", step.what);
    }
    let after = p.after.unwrap();
    assert_eq!(after.packages, grant(&intent(update("ns2", deploy().vnf_params))).packages);
}

#[test]
fn a_rollback_ends_at_the_configuration_that_it_names() {
    let before = deployed();
    let setup = Setup { catalogue: next_version(), ..Setup::default() };
    let newer = setup.plan(update("ns2", other_params()), Some(&before)).unwrap().after.unwrap();
    let p = Setup::default().observing(&newer, |_, _| ()).plan(rollback(), Some(&newer)).unwrap();
    let after = p.after.clone().unwrap();
    assert_eq!(
        (&after.deploy.nsd_package, &after.deploy.vnf_params),
        (&trust::Digest::of("ns"), &deploy().vnf_params)
    );
    let functions = |r: &NsRecord| -> Vec<Function> {
        let of = |s: &Spec| match s {
            Spec::Compute(c) => Some(Configuration::parse(c.configuration.as_bytes()).unwrap().function),
            _ => None,
        };
        r.objects.iter().filter_map(|o| of(&o.spec)).collect()
    };
    assert_eq!(functions(&after), functions(&before));
    assert!(
        after.computes().all(|o| matches!(&o.spec, Spec::Compute(c) if c.image == trust::Digest::of("dp")))
    );
}

#[test]
fn healing_replaces_what_is_wrong_after_the_rest_has_proven_itself() {
    let before = deployed();
    let down = |site: &str, i: &mut vim::Inventory| {
        let key = |path: &str| vim::ObjectKey::new(format!("{}/{path}", before.id)).unwrap();
        i.objects.remove(&key("vlb/backend/1"));
        if let Some(Observed::Compute(c)) = i.objects.get_mut(&key("vlb/vlb/0")) {
            c.state = ComputeState::Down;
        }
        if site == "edge-a" {
            i.objects.insert(key("probe/client"), observed(&before.objects[4].spec));
        }
    };
    let p = Setup::default().observing(&before, down).plan(heal(vec![]), Some(&before)).unwrap();
    assert_eq!(
        whats(&p),
        [
            "attest (as it was)",
            "restore vlb/backend/1",
            "remove vlb/vlb/0",
            "start vlb/vlb/0",
            "start probe/client",
            "attest",
            "measure",
            "stop the probe",
        ]
    );
    let Action::Attest { reference, .. } = &p.steps[0].action else { panic!() };
    let asked: Vec<_> = reference.workloads.keys().map(|k| k.split_once('/').unwrap().1).collect();
    assert_eq!(asked, ["vfw/vfw/0", "vlb/backend/0"], "what is broken cannot be asked");
    assert_eq!(p.after.as_ref().unwrap().objects, before.objects, "nothing but that it runs again");
    let Action::Measure { profile, .. } = &p.steps[6].action else { panic!() };
    let firsts: Vec<_> = profile.groups.iter().filter(|g| g.count == 64).map(|g| g.first).collect();
    assert_eq!(firsts, [0, 64], "flows of the deployment's measurement, and new ones");
}

#[test]
fn named_instances_are_replaced_one_after_the_other_and_come_back_when_it_unwinds() {
    let before = deployed();
    let targets = vec![target("vlb", "backend", 0), target("vlb", "backend", 1)];
    let p = Setup::default().observing(&before, |_, _| ()).plan(heal(targets), Some(&before)).unwrap();
    assert_eq!(
        whats(&p)[..5],
        [
            "attest (as it was)",
            "remove vlb/backend/0",
            "start vlb/backend/0",
            "remove vlb/backend/1",
            "start vlb/backend/1"
        ]
    );
    assert!(p.steps[3].needs.contains(&p.steps[2].id), "the other serves meanwhile");
    assert!(matches!(&p.steps[1].undo, Some(Action::Ensure { .. })));
}

#[test]
fn healing_is_refused_where_nothing_can_be_seen_and_by_itself_where_somebody_cut_off() {
    let before = deployed();
    let mut blind = Setup::default();
    blind.sites[0].problem = Some("no route to host".into());
    assert_eq!(blind.plan(heal(vec![]), Some(&before)).unwrap_err().code, "UNOBSERVED");
    let stranger = heal(vec![target("vlb", "backend", 7)]);
    let seen = Setup::default().observing(&before, |_, _| ());
    assert_eq!(seen.plan(stranger, Some(&before)).unwrap_err().code, "NO_SUCH_INSTANCE");
    let cut = plan(isolate(vec![target("vfw", "vfw", 0)], 0), Some(&before)).after.unwrap();
    let seen = Setup::default().observing(&cut, |_, _| ());
    let mut by_itself = intent(heal(vec![]));
    by_itself.standing = Some(StandingUse {
        grant: "standing-1".into(),
        observed_at: trust::UnixTime(1),
        reason: "down".into(),
    });
    assert_eq!(seen.plan_intent(&by_itself, Some(&cut)).unwrap_err().code, "ISOLATED");
    let asked = seen.plan(heal(vec![]), Some(&cut)).unwrap();
    assert!(whats(&asked).contains(&"remove vfw/vfw/0"));
    assert!(asked.after.unwrap().isolated.is_empty());
}

#[test]
fn a_migration_makes_proves_and_only_then_breaks() {
    let before = deployed();
    let p = Setup::joined().plan(migrate(&[], &["edge-c"]), Some(&before)).unwrap();
    assert_eq!(p.site, "edge-c");
    let whats = whats(&p);
    let at = |what: &str| whats.iter().position(|w| w.starts_with(what)).unwrap();
    assert_eq!(
        whats.iter().filter(|w| w.starts_with("attest")).count(),
        1,
        "the old is not built on: {whats:?}"
    );
    assert!(at("start probe") < at("attest") && at("attest") < at("measure") && at("measure") < at("remove"));
    let sites = |f: fn(&Action) -> bool| -> Vec<&str> {
        let mut all: Vec<_> = p.steps.iter().filter(|s| f(&s.action)).map(|s| p.site_of(s)).collect();
        all.dedup();
        all
    };
    assert_eq!(sites(|a| matches!(a, Action::Ensure { .. } | Action::Attest { .. })), ["edge-c"]);
    assert!(
        p.steps
            .iter()
            .filter(|s| s.what.starts_with("remove"))
            .all(|s| p.site_of(s) == "edge-a" && p.removes_for_good(s))
    );
    assert_eq!(p.refused[0].0, "edge-a");
    let after = p.after.unwrap();
    assert_eq!(after.sites().into_iter().collect::<Vec<_>>(), ["edge-c"]);
    assert_eq!(after.deploy.placement.sites, ["edge-c"]);
    let mac = |r: &NsRecord| match &r.computes().next().unwrap().spec {
        Spec::Compute(c) => c.ports[0].mac,
        _ => panic!(),
    };
    assert_ne!(mac(&before), mac(&after), "both stand for a while, perhaps on one link");
}

#[test]
fn a_migration_stays_in_the_countries_of_the_deployment_unless_it_names_another_place() {
    let mut before = deployed();
    before.deploy.placement.jurisdictions = vec!["DE".into()];
    let mut abroad = Setup::joined();
    let moves = |setup: &Setup, sites: &[&str]| setup.plan(migrate(&[], sites), Some(&before));
    let at_home = moves(&abroad, &[]).unwrap();
    assert_eq!(at_home.after.unwrap().deploy.placement.jurisdictions, ["DE"], "and so does the next one");
    abroad.sites.iter_mut().filter(|s| s.name != "edge-a").for_each(|s| s.jurisdiction = "FR".into());
    let refusal = moves(&abroad, &[]).unwrap_err();
    assert_eq!(refusal.code, "NO_SITE");
    assert!(refusal.detail.contains("jurisdiction FR"), "{refusal:?}");
    assert_eq!(moves(&abroad, &["edge-c"]).unwrap().site, "edge-c", "who names a site means it");
}

#[test]
fn a_member_moves_alone_where_links_can_span_and_nowhere_else() {
    let before = deployed();
    let joined = Setup::joined();
    let p = joined.plan(migrate(&["vlb"], &["edge-b"]), Some(&before)).unwrap();
    assert_eq!(p.site, "edge-a", "traffic still comes in where the firewall is");
    let whats = whats(&p);
    assert!(whats.contains(&"reconfigure vl/inspected"), "{whats:?}");
    assert!(whats.contains(&"make link vl/inspected at edge-b"), "{whats:?}");
    assert!(whats.contains(&"start vlb/vlb/0 at edge-b"), "{whats:?}");
    assert!(whats.contains(&"attest at edge-b") && whats.contains(&"attest"), "{whats:?}");
    assert!(whats.contains(&"remove vlb/vlb/0"), "{whats:?}");
    // What is measured is the new one; its clients are told before the former one goes.
    let place = |what: &str| whats.iter().position(|w| *w == what);
    assert!(place("measure") < place("announce vlb/vlb/0 at edge-b"), "{whats:?}");
    assert!(place("announce vlb/vlb/0 at edge-b") < place("remove vlb/vlb/0"), "{whats:?}");
    let hops = p.steps.iter().filter_map(|s| match &s.action {
        Action::Measure { profile, .. } => Some(profile.next_hop),
        _ => None,
    });
    assert!(hops.into_iter().all(|h| h.is_some()));
    let after = p.after.unwrap();
    let segments: Vec<_> = after
        .objects
        .iter()
        .filter_map(|o| match &o.spec {
            Spec::Network(n) => n.interconnect.as_ref().map(|i| (o.site.as_str(), i.wan.as_str(), i.segment)),
            _ => None,
        })
        .collect();
    assert_eq!(segments.len(), 2);
    assert_eq!(segments[0].2, segments[1].2, "one segment at both ends");
    // Taken by another service: the next free one, and so on around.
    let mut other = joined.clone();
    other.wan.as_mut().unwrap().taken.insert(segments[0].2);
    let next = other.plan(migrate(&["vlb"], &["edge-b"]), Some(&before)).unwrap().after.unwrap();
    assert!(!next.segments().contains(&segments[0].2) && next.segments().len() == 1);
    let full = (1..=4094).collect();
    other.wan.as_mut().unwrap().taken = full;
    assert_eq!(other.plan(migrate(&["vlb"], &["edge-b"]), Some(&before)).unwrap_err().code, "NO_SEGMENT");
    // Going on: the segment stays, the image that is at the new site already is not stored again.
    let more = joined.observing(&after, |_, _| ()).plan(scale(1, ScaleOut), Some(&after)).unwrap();
    assert_eq!(more.after.as_ref().unwrap().segments(), after.segments());
    assert_eq!(more.steps.iter().filter(|s| s.action.name() == "ensure network").count(), 0);
    // Where links cannot span, a member cannot go alone.
    assert_eq!(try_plan(migrate(&["vlb"], &[]), Some(&before), &sites()).unwrap_err().code, "NO_SITE");
    let mut narrow = joined;
    narrow.sites.iter_mut().for_each(|s| s.capabilities.inter_site_links = false);
    assert_eq!(narrow.plan(migrate(&["vlb"], &[]), Some(&before)).unwrap_err().code, "NO_SITE");
}

#[test]
fn an_isolation_captures_first_and_cuts_and_nothing_else() {
    let before = deployed();
    let p = plan(isolate(vec![target("vlb", "backend", 1)], 500), Some(&before));
    assert_eq!(whats(&p), ["capture vlb/backend/1", "isolate vlb/backend/1"]);
    assert_eq!(p.steps[1].needs, [1]);
    assert!(p.steps.iter().all(|s| s.undo.is_none()) && p.isolation.is_empty());
    let after = p.after.unwrap();
    assert_eq!((after.objects, after.isolated.len()), (before.objects.clone(), 1));
    let all = plan(isolate(vec![], 0), Some(&before));
    assert_eq!(all.steps.iter().filter(|s| s.action.name() == "isolate").count(), 4);
    // What is isolated can be terminated: everything of it goes.
    let end = plan(IntentKind::Terminate {}, all.after.as_ref());
    assert_eq!(
        end.steps.iter().filter(|s| matches!(s.action, Action::Remove { kind: Kind::Compute, .. })).count(),
        4
    );
}

#[test]
fn each_plan_is_the_same_every_time() {
    let before = deployed();
    let setup = Setup::joined().observing(&before, |_, _| ());
    for action in [
        update("ns", other_params()),
        rollback(),
        heal(vec![]),
        migrate(&["vlb"], &[]),
        isolate(vec![], 10),
        IntentKind::Terminate {},
    ] {
        let p = setup.plan(action.clone(), Some(&before)).unwrap();
        assert_eq!(p.to_bytes(), setup.plan(action, Some(&before)).unwrap().to_bytes());
        let read: Plan = serde_json::from_slice(&p.to_bytes()).unwrap();
        assert_eq!(read, p);
    }
}
