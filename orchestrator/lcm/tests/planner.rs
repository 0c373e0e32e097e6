//! Plans of the small service: order, undo, generations, references; and what is refused.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common;
use crate::common::{Setup, deploy, heal, plan, scale, sites, try_plan};
use dataplane_control::{Configuration, Function, traffic::Expectation};
use lcm::{Action, Plan};
use ledger_contract::{
    IntentKind,
    intent::ScaleDirection::{ScaleIn, ScaleOut},
};
use vim::Spec;

fn whats(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|s| format!("{} {:?}", s.what, s.needs)).collect()
}

fn deployed() -> Plan {
    plan(IntentKind::Deploy(Box::new(deploy())), None)
}

#[test]
fn deploy_makes_everything_in_order_and_measures_last() {
    let p = deployed();
    assert_eq!(p.site, "edge-a");
    assert_eq!(p.refused, [("edge-b".to_owned(), "feasible, but costs 20 against 15 on edge-a".to_owned())]);
    let image = trust::Digest::of("dp").short();
    assert_eq!(
        whats(&p),
        [
            format!("store image image/{image} []"),
            "make link vl/client_side []".into(),
            "make link vl/inspected []".into(),
            "make link vlb/vl/backends []".into(),
            "start vfw/vfw/0 [1, 2, 3]".into(),
            "start vlb/backend/0 [1, 4]".into(),
            "start vlb/backend/1 [1, 4]".into(),
            "start vlb/vlb/0 [1, 3, 4]".into(),
            "start probe/client [1, 2]".into(),
            "attest [1, 2, 3, 4, 5, 6, 7, 8, 9]".into(),
            "measure [10]".into(),
            "stop the probe [11]".into(),
        ]
    );
    assert_eq!(p.isolation.len(), 5, "four instances and the probe");
    assert_eq!(p.isolation[0].id, 13);
}

/// A VIM of guests that cannot be asked: nothing is attested or measured, and the plan says so.
#[test]
fn a_site_of_guests_is_not_measured() {
    let mut setup = Setup { attested: false, ..Setup::default() };
    for site in &mut setup.sites {
        (site.capabilities.functions, site.capabilities.attestation, site.ak) = (false, false, None);
        site.capabilities.features = vim::Feature::ALL.into();
    }
    let p = setup.plan(IntentKind::Deploy(Box::new(deploy())), None).unwrap();
    let last = p.steps.last().unwrap();
    assert!(last.what.starts_with("start ") && !last.what.contains("probe"), "{:?}", whats(&p));
    assert!(p.unmeasured.unwrap().contains("site edge-a"));
    assert!(p.isolation.is_empty());
    // A site that does not answer is no site of guests.
    assert_eq!(deployed().unmeasured, None);
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    assert_eq!(deployed().to_bytes(), deployed().to_bytes());
}

#[test]
fn every_configuration_parses_and_names_its_instance() {
    let p = deployed();
    for o in &p.after.unwrap().objects {
        if let (key, Spec::Compute(c)) = (&o.key, &o.spec) {
            let configuration = Configuration::parse(c.configuration.as_bytes()).unwrap();
            assert_eq!(configuration.instance, key.as_str());
            assert_eq!(configuration.ports.len(), c.ports.len());
            for (a, b) in configuration.ports.iter().zip(&c.ports) {
                assert_eq!((&a.name, a.mac), (&b.name, b.mac));
            }
        }
    }
}

#[test]
fn scale_out_adds_then_reconfigures_the_balancer_and_keeps_old_flows() {
    let before = deployed().after.unwrap();
    let p = plan(scale(2, ScaleOut), Some(&before));
    assert_eq!(
        whats(&p),
        [
            "attest (as it was) []",
            "start vlb/backend/2 [1]",
            "start vlb/backend/3 [1]",
            "start probe/client [1]",
            "measure (baseline) [4]",
            "reconfigure vlb/vlb/0 [2, 3, 4, 5]",
            "attest [2, 3, 4, 6]",
            "measure [7]",
            "stop the probe [8]",
        ]
    );
    let Action::Ensure { spec, .. } = &p.steps[5].action else { panic!() };
    let Spec::Compute(c) = &**spec else { panic!() };
    let configuration = Configuration::parse(c.configuration.as_bytes()).unwrap();
    assert_eq!(configuration.generation, 2);
    let Function::LoadBalancer(l) = configuration.function else { panic!() };
    assert_eq!(l.backends.iter().map(|b| b.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    // The undo goes forward in generation and back in content.
    let Some(Action::Ensure { spec, .. }) = &p.steps[5].undo else { panic!() };
    let Spec::Compute(c) = &**spec else { panic!() };
    let undo = Configuration::parse(c.configuration.as_bytes()).unwrap();
    assert_eq!(undo.generation, 3);
    let Function::LoadBalancer(l) = undo.function else { panic!() };
    assert_eq!(l.backends.len(), 2);
    let Action::Measure { profile, .. } = &p.steps[7].action else { panic!() };
    let sizes: Vec<_> = profile
        .groups
        .iter()
        .filter_map(|g| match &g.expect {
            Expectation::Balanced { backends, .. } => Some((g.first, backends.len())),
            Expectation::Blocked => None,
        })
        .collect();
    assert_eq!(sizes, [(64, 2), (128, 4)], "flows that the deployment's measurement did not use");
    assert_eq!(p.after.unwrap().flows, 192);
}

#[test]
fn scale_in_reconfigures_first_and_removes_last() {
    let before = deployed().after.unwrap();
    let grown = plan(scale(1, ScaleOut), Some(&before)).after.unwrap();
    let p = plan(scale(1, ScaleIn), Some(&grown));
    let order: Vec<_> = p.steps.iter().map(|s| s.what.as_str()).collect();
    assert_eq!(
        order,
        [
            "attest (as it was)",
            "start probe/client",
            "measure (baseline)",
            "reconfigure vlb/vlb/0",
            "attest",
            "measure",
            "stop the probe",
            "remove vlb/backend/2"
        ]
    );
    assert!(p.steps[7].undo.is_some());
}

#[test]
fn terminate_removes_computes_then_links_then_images_and_never_undoes() {
    let before = deployed().after.unwrap();
    let p = plan(IntentKind::Terminate {}, Some(&before));
    let kinds: Vec<_> = p.steps.iter().map(|s| s.action.name()).collect();
    let expected = [vec!["remove compute"; 4], vec!["remove network"; 3], vec!["remove image"]].concat();
    assert_eq!(kinds, expected);
    assert!(p.steps.iter().all(|s| s.undo.is_none()));
    assert!(p.after.is_none());
}

#[test]
fn refusals_say_what_to_do() {
    let before = deployed().after.unwrap();
    let refusal = try_plan(scale(7, ScaleOut), Some(&before), &sites()).unwrap_err();
    assert_eq!(refusal.code, "SCALE_LIMIT");
    assert!(refusal.detail.contains("from 2 to 9"), "{refusal}");
    assert_eq!(try_plan(scale(2, ScaleIn), Some(&before), &sites()).unwrap_err().code, "SCALE_LIMIT");
    assert_eq!(try_plan(heal(vec![]), None, &sites()).unwrap_err().code, "NO_SUCH_SERVICE");
    let mut d = deploy();
    d.vnf_params.insert("stray".into(), Default::default());
    let refusal = try_plan(IntentKind::Deploy(Box::new(d)), None, &sites()).unwrap_err();
    assert_eq!(refusal.code, "PARAMETERS");
    let mut full = sites();
    full.iter_mut().for_each(|s| s.inventory.total.vcpus = 4);
    let refusal = try_plan(IntentKind::Deploy(Box::new(deploy())), None, &full).unwrap_err();
    assert_eq!(refusal.code, "NO_SITE");
    assert!(refusal.detail.contains("needs 5 vCPUs, 4 of 4 are free"), "{refusal}");
}

#[test]
fn nothing_runs_that_was_not_granted_and_no_key_means_no_plan() {
    let before = deployed().after.unwrap();
    let plan_of = |action: IntentKind, stands: bool, change: fn(&mut ledger_contract::records::Grant)| {
        let intent = common::intent(action);
        let mut grant = common::grant(&intent);
        change(&mut grant);
        lcm::planner::plan(&lcm::planner::Input {
            operation_id: "op-scale",
            intent: &intent,
            grant: &grant,
            catalogue: Some(&common::catalogue()),
            sites: &sites(),
            wan: None,
            mano: None,
            without: &Default::default(),
            last_id: 0,
            before: stands.then_some(&before),
            entropy: &trust::Digest([7; 32]),
            at: trust::UnixTime(1_000),
            prices: Default::default(),
        })
    };
    let plan_with =
        |change: fn(&mut ledger_contract::records::Grant)| plan_of(scale(1, ScaleOut), true, change);
    assert_eq!(plan_with(|g| g.images.clear()).unwrap_err().code, "PACKAGES");
    assert_eq!(plan_with(|g| g.attestation_keys.clear()).unwrap_err().code, "ATTESTATION_KEY");
    let unattested = plan_with(|g| {
        g.attestation_keys.clear();
        g.attestation_required = false;
    });
    assert!(unattested.unwrap().steps.iter().all(|s| s.action.name() != "attest"));
    // Nobody offers what is asked for: not where it runs already.
    let shielded = plan_with(|g| g.tee_required = true).unwrap_err();
    assert_eq!(shielded.code, "TEE");
    assert!(shielded.detail.contains("trusted execution environment"), "{}", shielded.detail);
    let nowhere =
        plan_of(IntentKind::Deploy(Box::new(deploy())), false, |g| g.tee_required = true).unwrap_err();
    assert_eq!(nowhere.code, "NO_SITE");
    assert!(
        nowhere.detail.contains("a trusted execution environment is required and the site offers none"),
        "{nowhere}"
    );
}

/// Its deployment may have been ended before it began: what carries the service's keys goes, and nothing else.
#[test]
fn a_service_without_a_record_is_terminated_by_its_keys() {
    let none = try_plan(IntentKind::Terminate {}, None, &sites()).unwrap();
    assert!(none.steps.is_empty() && none.before.is_none() && none.after.is_none());
    let record = deployed().after.unwrap();
    let mut setup = Setup::default().observing(&record, |_, _| ());
    let other = vim::ObjectKey::new("ns-other/vl/x").unwrap();
    let link = setup.sites[0].inventory.objects.values().next().unwrap().clone();
    setup.sites[0].inventory.objects.insert(other.clone(), link);
    let plan = setup.plan(IntentKind::Terminate {}, None).unwrap();
    assert_eq!(plan.steps.len(), record.objects.len());
    assert!(plan.steps.iter().all(|s| matches!(s.action, Action::Remove { .. }) && s.undo.is_none()));
    assert!(plan.steps.iter().all(|s| s.action.object() != other.as_str()));
    setup.sites[1].problem = Some("it does not answer".into());
    assert_eq!(setup.plan(IntentKind::Terminate {}, None).unwrap_err().code, "UNOBSERVED");
}

/// Nothing is placed above what the policy leaves the tenant at a site, and nothing grows above it.
#[test]
fn site_quotas_bind_the_plan() {
    use lcm::placement::{self, Budget};
    let left = |vcpus| ledger_contract::records::ResourceUse {
        vcpus,
        instances: 9,
        memory_mib: 9_000,
        ..Default::default()
    };
    let deployment = || IntentKind::Deploy(Box::new(deploy()));
    let mut setup = Setup::default();
    assert_eq!(setup.plan(deployment(), None).unwrap().site, "edge-a", "the cheapest");
    setup.site_quotas = [("edge-a".to_owned(), left(3))].into();
    let elsewhere = setup.plan(deployment(), None).unwrap();
    assert_eq!(elsewhere.site, "edge-b");
    let why = &elsewhere.refused.iter().find(|(site, _)| site == "edge-a").unwrap().1;
    assert!(why.contains("the tenant's quota there leaves"), "{why}");
    setup.site_quotas.insert("edge-b".into(), left(0));
    let refusal = setup.plan(deployment(), None).unwrap_err();
    assert!(refusal.code == "NO_SITE" && refusal.detail.contains("quota"), "{refusal}");
    // Four instances of one vCPU each: they fit exactly, and the probe is not counted.
    setup.site_quotas = [("edge-a".to_owned(), left(4))].into();
    let exact = setup.plan(deployment(), None).unwrap();
    assert_eq!(exact.site, "edge-a");
    setup.site_quotas = [("edge-a".to_owned(), left(1))].into();
    let grown = |n| setup.plan(scale(n, ScaleOut), exact.after.as_ref());
    assert!(grown(1).is_ok());
    assert_eq!(grown(2).unwrap_err().code, "SITE_QUOTA");
    // The explanation names it.
    let problem = placement::Problem {
        members: vec![placement::Member {
            name: "m".into(),
            demand: placement::Amounts { vcpus: 2, ..Default::default() },
            ..Default::default()
        }],
        sites: vec![placement::Candidate {
            name: "a".into(),
            free: placement::Amounts { vcpus: 4, ..Default::default() },
            quota: Some(placement::Amounts { vcpus: 1, ..Default::default() }),
            ..Default::default()
        }],
        ..Default::default()
    };
    let placement::PlacementError::Unplaceable(why) =
        placement::solve(&problem, Budget::default()).unwrap_err()
    else {
        panic!()
    };
    assert!(why.against.iter().any(|a| a.code == placement::Code::SiteQuota), "{why}");
}

/// What the operator says of a site and of prices decides where a service goes.
#[test]
fn drained_sites_and_promised_latency() {
    let deployment = || IntentKind::Deploy(Box::new(deploy()));
    let mut setup = Setup::default();
    setup.sites[0].drained = true;
    let plan = setup.plan(deployment(), None).unwrap();
    assert_eq!(plan.site, "edge-b");
    assert!(
        plan.refused.iter().any(|(site, why)| site == "edge-a" && why.contains("drains")),
        "{:?}",
        plan.refused
    );
    // The cheaper site is too far for what was promised: its penalty outweighs it.
    let mut setup = Setup::default();
    setup.sites[0].latency_us = 60_000;
    setup.sites[0].cost = 0;
    setup.sites[1].cost = 500;
    assert_eq!(setup.plan(deployment(), None).unwrap().site, "edge-a");
    setup.prices.sla_penalty_per_us = 1;
    assert_eq!(setup.plan(deployment(), None).unwrap().site, "edge-b");
}
