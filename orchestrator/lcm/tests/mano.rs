//! Plans of a service that a MANO makes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::{Setup, deploy, heal, managed, migrate, scale, target};
use lcm::{Action, Plan};
use ledger_contract::{IntentKind, intent::ScaleDirection::ScaleOut};
use mano::{PackageKind, SiteLink};
use vim::Kind;

fn deployed(setup: &Setup) -> Plan {
    setup.plan(IntentKind::Deploy(Box::new(deploy())), None).unwrap()
}

fn whats(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|s| format!("{} {:?}", s.what, s.needs)).collect()
}

#[test]
fn links_and_images_are_ours_and_instances_are_taken_for_ours() {
    let setup = managed(&["edge-a", "edge-b"]);
    let p = deployed(&setup);
    let image = trust::Digest::of("dp").short();
    assert_eq!(
        whats(&p),
        [
            format!("store image image/{image} []"),
            "make link vl/client_side []".into(),
            "make link vl/inspected []".into(),
            "make link vlb/vl/backends []".into(),
            "onboard vfw_vnf [4]".into(),
            "onboard vlb_vnf [5]".into(),
            "onboard secure_edge_ns [6]".into(),
            "make the service by osm [1, 2, 3, 4, 5, 6, 7]".into(),
            "start vfw/vfw/0 [1, 2, 3, 8]".into(),
            "start vlb/backend/0 [1, 4, 8]".into(),
            "start vlb/backend/1 [1, 4, 8]".into(),
            "start vlb/vlb/0 [1, 3, 4, 8]".into(),
        ]
    );
    assert_eq!(p.mano.as_deref(), Some("osm"));
    assert_eq!(p.after.as_ref().unwrap().mano.as_deref(), Some("osm"));
    assert_eq!(p.steps[7].undo.as_ref().map(Action::name).as_deref(), Some("remove service"));
}

#[test]
fn the_mano_is_told_every_instance_and_its_reserve() {
    let setup = managed(&["edge-a", "edge-b"]);
    let p = deployed(&setup);
    let record = p.after.as_ref().unwrap();
    let Action::Realize { service, spec } = &p.steps[7].action else { panic!("{:?}", p.steps[7]) };
    assert_eq!(service.as_str(), record.id);
    spec.check(service).unwrap();
    let backends = &spec.members["vlb"].vdus["backend"];
    assert_eq!(backends.count, 2);
    assert!(backends.instances.len() > 2, "what a later scaling needs is fixed now");
    for (index, instance) in (0_u8..).zip(&backends.instances) {
        assert!(instance.key.as_str().ends_with(&format!("vlb/backend/{index}")));
        assert!(instance.day0.contains(instance.key.as_str()));
        for (name, interface) in &instance.interfaces {
            let first = backends.instances[0].interfaces[name].mac.0;
            assert_eq!(interface.mac.0[..5], first[..5]);
            assert_eq!(interface.mac.0[5], first[5] + index, "counted up, as it counts");
        }
    }
    for object in record.objects.iter().filter(|o| o.spec.kind() == Kind::Network) {
        let mut links = spec.links.values().chain(spec.members.values().flat_map(|m| m.links.values()));
        let link = links.find(|l| l.key == object.key).unwrap();
        let SiteLink::Named { name } = &link.sites["edge-a"] else { panic!("{link:?}") };
        assert!(name.len() > 11 && name.contains('-'), "{name}");
    }
    // Every configuration that stands is the one that the instance is told.
    for object in record.computes() {
        let mut all = spec.members.values().flat_map(|m| m.vdus.values()).flat_map(|v| &v.instances);
        let told = all.find(|i| i.key == object.key).unwrap();
        let vim::Spec::Compute(c) = &object.spec else { panic!("{object:?}") };
        assert_eq!(told.day0, c.configuration);
        assert_eq!(told.interfaces.len(), c.ports.len());
    }
}

#[test]
fn healing_asks_it_to_make_instances_anew() {
    let setup = managed(&["edge-a", "edge-b"]);
    let before = deployed(&setup).after.unwrap();
    let setup = setup.observing(&before, |_, _| {});
    let p = setup.plan(heal(vec![target("vlb", "backend", 1)]), Some(&before)).unwrap();
    assert_eq!(whats(&p), ["rebuild vlb/backend/1 by osm []", "restore vlb/backend/1 [1]"]);
}

#[test]
fn a_termination_begins_with_the_service_and_ends_with_its_packages() {
    let setup = managed(&["edge-a", "edge-b"]);
    let before = deployed(&setup).after.unwrap();
    let p = setup.plan(IntentKind::Terminate {}, Some(&before)).unwrap();
    let names: Vec<String> = p.steps.iter().map(|s| s.action.name()).collect();
    assert_eq!(names[0], "remove service");
    assert!(names.iter().all(|n| n.starts_with("remove ")), "{names:?}");
    let last = p.steps.iter().rev().take(3).map(|s| s.action.clone()).collect::<Vec<_>>();
    assert!(matches!(&last[2], Action::Offboard { package: PackageKind::Ns, .. }), "{last:?}");
    assert!(p.steps.iter().all(lcm::plan::Step::forward_only));
}

/// The balancer hears of its new backend by another boot of ours; the MANO is told what it was told first.
#[test]
fn a_scaling_is_the_manos_and_its_configuration_is_ours() {
    let setup = managed(&["edge-a", "edge-b"]);
    let deployed = deployed(&setup);
    let before = deployed.after.unwrap();
    let p = setup.plan(scale(1, ScaleOut), Some(&before)).unwrap();
    let whats = whats(&p);
    assert!(whats.iter().any(|w| w.starts_with("start vlb/backend/2")), "{whats:?}");
    assert!(whats.last().unwrap().starts_with("reconfigure vlb/vlb/0"), "{whats:?}");
    let told = |p: &lcm::plan::Step| match &p.action {
        Action::Realize { spec, .. } => (**spec).clone(),
        other => panic!("{other:?}"),
    };
    let changed = p.steps.iter().find(|s| s.what.starts_with("change the service")).unwrap();
    let (first, then) = (told(&deployed.steps[7]), told(changed));
    assert_eq!(first.fixed_digest(), then.fixed_digest(), "nothing that it cannot change has changed");
    let after = p.after.unwrap();
    assert_eq!((after.told.len(), &after.told), (before.told.len(), &before.told));
    assert!(after.told.len() > after.computes().count(), "those in reserve too");
}

#[test]
fn what_it_cannot_do_is_refused_before_anything_is_done() {
    let setup = managed(&["edge-a", "edge-b"]);
    let before = deployed(&setup).after.unwrap();
    let refusal = setup.plan(migrate(&[], &["edge-b"]), Some(&before)).unwrap_err();
    assert_eq!(refusal.code, "MANO");
    let mut silent = managed(&["edge-a", "edge-b"]);
    silent.catalogue.vnfs.values_mut().for_each(|p| p.vnfd.vdus.values_mut().for_each(|v| v.day0 = None));
    let refusal = silent.plan(IntentKind::Deploy(Box::new(deploy())), None).unwrap_err();
    assert!(refusal.detail.contains("does not ask for it"), "{refusal}");
    // A site of its own and one of ours.
    let only = managed(&["edge-b"]);
    assert_eq!(deployed(&only).mano, None, "edge-a is cheaper, and ours");
}
