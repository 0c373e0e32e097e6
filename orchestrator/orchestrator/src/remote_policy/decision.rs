//! The answer: pure, from the question, what is configured of the cloud, and what runs.
//!
//! Allowed is what an operation that runs now is doing: asked for by Mandate's own user of that cloud (or by nova's,
//! about ports), in a managed project, of a class and kind that one of the operation's open effects at that site has, and,
//! where the target shows a key, on an object of that operation. An image belongs to every service whose key it carries: one
//! that others use too may be changed (a key comes or goes), and is not deleted.

use super::{
    config::CloudPolicy,
    request::{Question, Target},
    rules::{Class, Rule, Service},
    running::{Open, Running, RunningOperation},
};
use vim::Kind;

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// Stable code.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    /// The NS instance whose object it is about, when the target shows one.
    pub ns: Option<String>,
}

/// May this be done now? Which operation it belongs to; `Ok(None)`: nobody has to ask for it.
pub fn decide<'r>(
    cloud: &CloudPolicy,
    (service, name): (Service, &str),
    question: &Question,
    running: &'r Running,
) -> Result<Option<&'r str>, Refusal> {
    let target = &question.target;
    let no = |code, detail: String| Err(refusal(target, code, detail));
    let Some(rule) = service.rule(name) else {
        let detail = format!("{service} has no rule of this name that Mandate knows");
        return Err(Refusal { code: "RULE_UNKNOWN", detail, ns: None });
    };
    if !rule.class.gated() {
        return Ok(None);
    }
    let managed = |project: &String| cloud.projects.contains(project);
    if !managed(&target.project_id) && !managed(&question.actor.project_id) {
        let detail =
            "neither the caller's project nor the object's is managed here: write the policy file again";
        return no("PROJECT_NOT_MANAGED", detail.into());
    }
    let user = &question.actor.user_id;
    let for_nova = rule.asked_by_nova() && cloud.service_users.contains(user);
    let for_mano = cloud.mano_users.contains(user);
    if !for_nova && !for_mano && !cloud.users.contains(user) {
        let detail = "not Mandate's user: in this project things change by an approved intent alone";
        let refusal = refusal(target, "OUT_OF_BAND", detail.into());
        // Nobody writes on a service's timeline by naming it.
        let named = rule.class == Class::Create || target.as_asked;
        return Err(Refusal { ns: refusal.ns.filter(|_| !named), ..refusal });
    }
    if let Some(mark) = &target.bad_key {
        return no("FOREIGN_KEY", format!("it carries `{mark}` as its key, which is none"));
    }
    let fit = |o: &&RunningOperation| {
        fits(cloud, &rule, target, o) && (!for_mano || is_manos(cloud, &rule, target, o))
    };
    match running.operations().find(fit) {
        Some(operation) => Ok(Some(&operation.id)),
        None => Err(why_not(cloud, &rule, target, running)),
    }
}

fn refusal(target: &Target, code: &'static str, detail: String) -> Refusal {
    Refusal { code, detail, ns: target.keys.first().map(|k| k.service().to_owned()) }
}

/// Has the operation something open of this kind that this call can be part of, on this object?
fn fits(cloud: &CloudPolicy, rule: &Rule, target: &Target, operation: &RunningOperation) -> bool {
    let mut open = operation.open.iter().filter(|o| concerns(cloud, rule, o));
    let shared = rule.service == Service::Glance && rule.class != Class::Delete;
    open.any(|o| shared || target.keys.iter().all(|key| belongs(operation, o, key)))
}

/// Is the operation's MANO at work here, and is this what it was told?
fn is_manos(cloud: &CloudPolicy, rule: &Rule, target: &Target, operation: &RunningOperation) -> bool {
    if rule.kinds() == [Kind::Network] || rule.kinds() == [Kind::Image] {
        return false;
    }
    let mut told = operation.mano.iter().filter(|(site, _)| cloud.sites.contains(*site));
    match target.mac {
        Some(mac) => told.any(|(_, macs)| macs.contains(&mac)),
        // neutron shows no address of a port that is changed.
        None => rule.name != "create_port" && told.next().is_some(),
    }
}

fn concerns(cloud: &CloudPolicy, rule: &Rule, open: &Open) -> bool {
    cloud.sites.contains(&open.site) && rule.kinds().contains(&open.kind) && rule.class.fits(open.effect)
}

/// Is it the open object, one below it (its ports), or one of the service that the plan has no step of its own for?
fn belongs(operation: &RunningOperation, open: &Open, key: &vim::ObjectKey) -> bool {
    let below = |object: &vim::ObjectKey| {
        key == object || key.as_str().strip_prefix(object.as_str()).is_some_and(|rest| rest.starts_with('/'))
    };
    if below(&open.key) {
        return true;
    }
    let planned = operation.objects.iter().any(|(site, object)| *site == open.site && below(object));
    key.service() == operation.ns_instance_id && !planned
}

/// The nearest miss.
fn why_not(cloud: &CloudPolicy, rule: &Rule, target: &Target, running: &Running) -> Refusal {
    let here = |o: &&RunningOperation| o.open.iter().any(|open| cloud.sites.contains(&open.site));
    let mut at_site = running.operations().filter(here).peekable();
    if at_site.peek().is_none() {
        return refusal(target, "NO_OPERATION", "no operation runs at this cloud now".into());
    }
    let fitting = |o: &&RunningOperation| o.open.iter().any(|open| concerns(cloud, rule, open));
    let ids = |operations: Vec<&RunningOperation>| {
        operations.iter().map(|o| o.id.as_str()).take(3).collect::<Vec<_>>().join(", ")
    };
    let all: Vec<_> = at_site.collect();
    let near: Vec<_> = all.iter().copied().filter(|o| fitting(o)).collect();
    match (near.is_empty(), target.keys.first()) {
        (false, Some(key)) => {
            let detail = format!("`{key}` is not what operation {} works on now", ids(near));
            refusal(target, "FOREIGN_KEY", detail)
        }
        _ => {
            let detail = format!("no step that is under way does this; operations: {}", ids(all));
            refusal(target, "NO_STEP", detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dataplane_control::MacAddr;
    use vim::ObjectKey;

    use super::{super::running::Effect, *};
    use crate::remote_policy::{config::tests::cloud, request::Actor};

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    fn running(site: &str, open: &[(&str, Kind, Effect)]) -> Running {
        let objects = ["ns-1/vl/a", "ns-1/vnf/vdu/0", "ns-1/vnf/vdu/1", "ns-1/image/x"];
        let mut running = Running::default();
        let one = |(k, kind, effect): &(&str, Kind, Effect)| Open {
            site: site.into(),
            key: key(k),
            kind: *kind,
            effect: *effect,
        };
        let operation = RunningOperation {
            id: "op-1".into(),
            ns_instance_id: "ns-1".into(),
            open: open.iter().map(one).collect(),
            objects: objects.iter().map(|o| (site.to_owned(), key(o))).collect::<BTreeSet<_>>(),
            ..RunningOperation::default()
        };
        running.put("op-1", Some(operation));
        running
    }

    fn ask(user: &str, project: &str, target_project: &str, keys: &[&str]) -> Question {
        Question {
            actor: Actor { user_id: user.into(), project_id: project.into() },
            target: Target {
                project_id: target_project.into(),
                keys: keys.iter().map(|k| key(k)).collect(),
                ..Target::default()
            },
        }
    }

    const BOOT: &[(&str, Kind, Effect)] = &[("ns-1/vnf/vdu/0", Kind::Compute, Effect::Ensure)];
    const CREATE: (Service, &str) = (Service::Nova, "os_compute_api:servers:create");
    const CREATE_PORT: (Service, &str) = (Service::Neutron, "create_port");

    fn code(rule: (Service, &str), question: &Question, running: &Running) -> &'static str {
        decide(&cloud(), rule, question, running).map_or_else(|r| r.code, |_| "ALLOWED")
    }

    #[test]
    fn a_call_belongs_to_an_operation_or_is_refused() {
        let now = running("edge", BOOT);
        let ours = ask("mandate", "p1", "p1", &[]);
        assert_eq!(decide(&cloud(), CREATE, &ours, &now), Ok(Some("op-1")));
        assert_eq!(code(CREATE, &ours, &Running::default()), "NO_OPERATION");
        assert_eq!(code(CREATE, &ours, &running("other", BOOT)), "NO_OPERATION", "at another cloud");
        // A tenant of the very project, its admin, and an admin from elsewhere, while an operation runs.
        for (user, project) in [("tenant", "p1"), ("admin", "p1"), ("admin", "elsewhere"), ("", "p1")] {
            assert_eq!(code(CREATE, &ask(user, project, "p1", &[]), &now), "OUT_OF_BAND");
        }
        // The caller's project counts where the target shows none (flavors).
        let flavor = (Service::Nova, "os_compute_api:os-flavor-manage:create");
        assert_eq!(code(flavor, &ask("mandate", "p2", "", &[]), &now), "ALLOWED");
        assert_eq!(code(CREATE, &ask("mandate", "x", "y", &[]), &now), "PROJECT_NOT_MANAGED");
        assert_eq!(code((Service::Nova, "servers:explode"), &ours, &now), "RULE_UNKNOWN");
    }

    #[test]
    fn reads_are_nobodys_business() {
        for rule in [
            (Service::Nova, "os_compute_api:servers:show"),
            (Service::Neutron, "get_port"),
            (Service::Glance, "get_image"),
            (Service::Nova, "os_compute_api:os-console-output"),
        ] {
            assert_eq!(
                decide(&cloud(), rule, &ask("tenant", "p1", "p1", &[]), &Running::default()),
                Ok(None)
            );
        }
    }

    #[test]
    fn a_step_allows_its_own_kind_and_class() {
        let ours = ask("mandate", "p1", "p1", &[]);
        type Case = (&'static [(&'static str, Kind, Effect)], (Service, &'static str), &'static str);
        let cases: [Case; 13] = [
            (BOOT, CREATE_PORT, "ALLOWED"),
            (BOOT, (Service::Neutron, "create_network"), "NO_STEP"),
            (BOOT, (Service::Glance, "add_image"), "NO_STEP"),
            (BOOT, (Service::Nova, "os_compute_api:servers:delete"), "ALLOWED"),
            (&[("ns-1/vl/a", Kind::Network, Effect::Ensure)], (Service::Neutron, "create_subnet"), "ALLOWED"),
            (&[("ns-1/vl/a", Kind::Network, Effect::Ensure)], CREATE, "NO_STEP"),
            (&[("ns-1/image/x", Kind::Image, Effect::Ensure)], (Service::Glance, "upload_image"), "ALLOWED"),
            (&[("ns-1/vnf/vdu/0", Kind::Compute, Effect::Remove)], CREATE, "NO_STEP"),
            (
                &[("ns-1/vnf/vdu/0", Kind::Compute, Effect::Remove)],
                (Service::Neutron, "delete_port"),
                "ALLOWED",
            ),
            (
                &[("ns-1/vnf/vdu/0", Kind::Compute, Effect::Remove)],
                (Service::Nova, "os_compute_api:servers:stop"),
                "ALLOWED",
            ),
            (
                &[("ns-1/vnf/vdu/0", Kind::Compute, Effect::Isolate)],
                (Service::Neutron, "update_port"),
                "ALLOWED",
            ),
            (
                &[("ns-1/vnf/vdu/0", Kind::Compute, Effect::Isolate)],
                (Service::Nova, "os_compute_api:servers:delete"),
                "NO_STEP",
            ),
            (
                &[("ns-1/vnf/vdu/0", Kind::Compute, Effect::Isolate)],
                (Service::Nova, "os_compute_api:server-metadata:create"),
                "ALLOWED",
            ),
        ];
        for (open, rule, expected) in cases {
            assert_eq!(code(rule, &ours, &running("edge", open)), expected, "{open:?} {rule:?}");
        }
    }

    #[test]
    fn a_key_that_is_shown_is_of_the_open_object() {
        let now = running("edge", BOOT);
        let with = |keys: &[&str]| code(CREATE_PORT, &ask("mandate", "p1", "p1", keys), &now);
        assert_eq!(with(&["ns-1/vnf/vdu/0"]), "ALLOWED");
        assert_eq!(with(&["ns-1/vnf/vdu/0/left"]), "ALLOWED", "its port");
        assert_eq!(with(&["ns-1/sg/inside"]), "ALLOWED", "of the service, and no step of its own");
        assert_eq!(with(&["ns-1/vnf/vdu/1"]), "FOREIGN_KEY", "another instance, whose step is not under way");
        assert_eq!(with(&["ns-1/vnf/vdu/1/left"]), "FOREIGN_KEY");
        assert_eq!(with(&["ns-2/vnf/vdu/0"]), "FOREIGN_KEY", "another service");
        assert_eq!(with(&["ns-1/vnf/vdu/0", "ns-2/x"]), "FOREIGN_KEY", "all that are shown count");
        let mut bad = ask("mandate", "p1", "p1", &[]);
        bad.target.bad_key = Some("..".into());
        assert_eq!(code(CREATE_PORT, &bad, &now), "FOREIGN_KEY");
        let foreign = ask("mandate", "p1", "p1", &["ns-2/vnf/vdu/0"]);
        let refusal = decide(&cloud(), CREATE_PORT, &foreign, &now).unwrap_err();
        assert_eq!(refusal.ns.as_deref(), Some("ns-2"), "it is on that service's timeline");
        let of = |rule, question: &Question| decide(&cloud(), rule, question, &now).unwrap_err().ns;
        let mut tenants = ask("tenant", "p1", "p1", &["ns-2/vnf/vdu/0"]);
        let [delete, update] = ["delete_port", "update_port"].map(|r| (Service::Neutron, r));
        assert_eq!(of(delete, &tenants).as_deref(), Some("ns-2"));
        assert_eq!(of(CREATE_PORT, &tenants), None, "whoever names a service does not write on its timeline");
        tenants.target.as_asked = true;
        assert_eq!(of(update, &tenants), None);
    }

    #[test]
    fn a_mano_makes_what_it_was_told_while_it_is_waited_for() {
        let mac = |n: u8| MacAddr([2, 0, 0, 0, 0, n]);
        let mut now = running("edge", BOOT);
        let ask = |project: &str, mac: Option<MacAddr>| {
            let mut question = ask("osm", project, "p1", &[]);
            question.target.mac = mac;
            question
        };
        let server = ask("p1", None);
        assert_eq!(code(CREATE, &server, &now), "NO_STEP", "it is our own step that is under way");
        let told = |site: &str| [(site.to_owned(), [mac(1), mac(2)].into())].into();
        let mut operation = (*now.operations().next().unwrap()).clone();
        operation.mano = told("elsewhere");
        now.put("op-1", Some(operation.clone()));
        assert_eq!(code(CREATE, &server, &now), "NO_STEP", "the MANO is at work at another cloud");
        operation.mano = told("edge");
        now.put("op-1", Some(operation));
        assert_eq!(code(CREATE, &server, &now), "ALLOWED");
        let flavor = (Service::Nova, "os_compute_api:os-flavor-manage:create");
        assert_eq!(code(flavor, &super::tests::ask("osm", "p1", "", &[]), &now), "ALLOWED");
        for (rule, mac, expected) in [
            ("create_port", Some(mac(1)), "ALLOWED"),
            ("create_port", Some(mac(9)), "NO_STEP"),
            ("create_port", None, "NO_STEP"),
            ("delete_port", Some(mac(2)), "ALLOWED"),
            ("delete_port", Some(mac(9)), "NO_STEP"),
            ("update_port", None, "ALLOWED"),
            ("create_network", None, "NO_STEP"),
        ] {
            assert_eq!(code((Service::Neutron, rule), &ask("p1", mac), &now), expected, "{rule} {mac:?}");
        }
        assert_eq!(code((Service::Glance, "add_image"), &server, &now), "NO_STEP");
        assert_eq!(code(CREATE, &server, &Running::default()), "NO_OPERATION");
    }

    #[test]
    fn an_image_may_be_of_several_services() {
        let now = running("edge", &[("ns-1/image/x", Kind::Image, Effect::Ensure)]);
        let of_two = ask("mandate", "p1", "p1", &["ns-1/image/x", "ns-2/image/x"]);
        assert_eq!(code((Service::Glance, "modify_image"), &of_two, &now), "ALLOWED", "its key is added");
        assert_eq!(code((Service::Glance, "delete_image"), &of_two, &now), "FOREIGN_KEY");
        let own = ask("mandate", "p1", "p1", &["ns-1/image/x"]);
        assert_eq!(code((Service::Glance, "delete_image"), &own, &now), "ALLOWED");
    }

    #[test]
    fn nova_asks_for_ports_as_itself_while_a_server_is_made() {
        let by_nova = ask("nova", "service", "p1", &[]);
        let bind = (Service::Neutron, "update_port");
        assert_eq!(code(bind, &by_nova, &running("edge", BOOT)), "ALLOWED");
        assert_eq!(code(bind, &by_nova, &Running::default()), "NO_OPERATION");
        let network = running("edge", &[("ns-1/vl/a", Kind::Network, Effect::Ensure)]);
        assert_eq!(code(bind, &by_nova, &network), "ALLOWED", "ports come with networks too");
        for rule in [(Service::Neutron, "create_network"), (Service::Glance, "delete_image"), CREATE] {
            assert_eq!(code(rule, &by_nova, &running("edge", BOOT)), "OUT_OF_BAND", "ports alone");
        }
    }
}
