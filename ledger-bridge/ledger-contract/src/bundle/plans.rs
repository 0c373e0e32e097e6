//! A plan against its approval: does it do what was approved, there, in an order in which nothing is lost, and no more?
//!
//! The plan document itself is not in a bundle; its claim says what the service is before and after, and attestation
//! shows that the claim came true. Pure. Tests: below, and the lies in `tests/lies.rs`.

use std::collections::{BTreeMap, BTreeSet};

use trust::Digest;

use super::steps::{ATTEST, ENSURE_COMPUTE, MEASURE};
use crate::{
    approval::Approved,
    evidence::{InstanceClaim, PlanClaim, PlannedStep, ServiceClaim},
    intent::{IntentKind, Isolate, Migrate, Target, parameters_digest},
};

/// Action of a step that cuts an instance's traffic.
pub(super) const ISOLATE: &str = "isolate";
/// Action of a step that records an instance's traffic.
pub(super) const CAPTURE: &str = "capture";

type Checked = Result<(), String>;

/// Holds a plan against what was approved.
pub(super) fn check(plan: &PlanClaim, approved: &Approved) -> Checked {
    let (intent, grant) = (&approved.intent.action, &approved.grant);
    if grant.attestation_required && !matches!(intent, IntentKind::Terminate {} | IntentKind::Isolate(_)) {
        attested_last(plan)?;
    }
    if let Some(step) = plan.steps.iter().find(|s| plan.unmeasured.is_some() && s.action == MEASURE) {
        return Err(format!("step {} measures what is said not to be measured", step.step));
    }
    match intent {
        IntentKind::Deploy(deploy) => {
            allowed(plan.steps.iter().map(|s| site_of(plan, s)), &deploy.placement.sites)?;
        }
        IntentKind::Update(it) => revised(plan, it.nsd_package, parameters_digest(&it.vnf_params))?,
        IntentKind::Rollback(it) => revised(plan, it.nsd_package, parameters_digest(&it.vnf_params))?,
        IntentKind::Heal(_) => healed(plan)?,
        IntentKind::Migrate(it) => migrated(plan, it, &grant.ns_instance_id)?,
        IntentKind::Isolate(it) => isolated(plan, it, &grant.ns_instance_id)?,
        IntentKind::Scale(_) => same_revision(plan)?,
        IntentKind::Terminate {} => {
            if let Some(step) = plan.steps.iter().find(|s| !s.action.starts_with("remove ")) {
                return Err(format!("step {} of a termination is to {}", step.step, step.action));
            }
        }
    }
    match (&plan.after, intent) {
        (Some(after), i) if !matches!(i, IntentKind::Isolate(_)) => granted(after, &grant.images),
        _ => Ok(()),
    }
}

/// Where a step is to take effect.
pub(super) fn site_of<'a>(plan: &'a PlanClaim, step: &'a PlannedStep) -> &'a str {
    if step.site.is_empty() { &plan.site } else { &step.site }
}

fn allowed<'a>(mut sites: impl Iterator<Item = &'a str>, named: &[String]) -> Checked {
    match sites.find(|s| !named.is_empty() && !named.iter().any(|n| n == s)) {
        Some(site) => Err(format!("site `{site}` is none that the intent allows")),
        None => Ok(()),
    }
}

/// Nothing is started or reconfigured after it was attested, at each site.
fn attested_last(plan: &PlanClaim) -> Checked {
    let last = |site: &str, action: &str| {
        plan.steps.iter().rposition(|s| s.action == action && site_of(plan, s) == site)
    };
    if !plan.steps.iter().any(|s| s.action == ATTEST) {
        return Err("it has no attestation, which the grant requires".to_owned());
    }
    let computes = plan.steps.iter().filter(|s| s.action == ENSURE_COMPUTE);
    let sites: BTreeSet<&str> = computes.map(|s| site_of(plan, s)).collect();
    for site in sites {
        match (last(site, ATTEST), last(site, ENSURE_COMPUTE)) {
            (None, _) => return Err(format!("site `{site}` has no attestation, which the grant requires")),
            (Some(attest), Some(compute)) if attest < compute => {
                return Err(format!(
                    "step {} starts or reconfigures an instance after the last attestation",
                    plan.steps[compute].step
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn both(plan: &PlanClaim) -> Result<(&ServiceClaim, &ServiceClaim), String> {
    match (&plan.before, &plan.after) {
        (Some(before), Some(after)) => Ok((before, after)),
        _ => Err("it does not say what the service is before and after".to_owned()),
    }
}

fn granted(after: &ServiceClaim, images: &BTreeSet<Digest>) -> Checked {
    match after.instances.iter().find(|i| !images.contains(&i.image)) {
        Some(i) => Err(format!("{} is to run image {}, which the grant does not name", i.object, i.image)),
        None => Ok(()),
    }
}

/// An update or a rollback ends at the revision that its intent names, whole.
fn revised(plan: &PlanClaim, nsd_package: Digest, parameters: Digest) -> Checked {
    let (_, after) = both(plan)?;
    if after.nsd_package != nsd_package {
        return Err(format!(
            "it ends with NSD package {}, the intent names {nsd_package}",
            after.nsd_package
        ));
    }
    match after.parameters == parameters {
        true => Ok(()),
        false => Err("it ends with another configuration than the intent's".to_owned()),
    }
}

/// What a scaling says of the service, when it does, is of the same revision.
fn same_revision(plan: &PlanClaim) -> Checked {
    match (&plan.before, &plan.after) {
        (Some(b), Some(a)) if (b.nsd_package, b.parameters) != (a.nsd_package, a.parameters) => {
            Err("it changes the service's packages or configuration, which the intent does not".to_owned())
        }
        _ => Ok(()),
    }
}

/// Healing changes nothing but that it runs again.
fn healed(plan: &PlanClaim) -> Checked {
    same_revision(plan)?;
    let (before, after) = both(plan)?;
    let what = |s: &ServiceClaim| -> Vec<InstanceClaim> {
        s.instances.iter().map(|i| InstanceClaim { isolated: false, ..i.clone() }).collect()
    };
    if what(before) != what(after) {
        return Err("healing changes an instance's image, configuration or site".to_owned());
    }
    let cut = |s: &ServiceClaim| -> BTreeSet<(String, String)> {
        s.instances.iter().filter(|i| i.isolated).map(|i| (i.site.clone(), i.object.clone())).collect()
    };
    match cut(after).is_subset(&cut(before)) {
        true => Ok(()),
        false => Err("healing cuts an instance off".to_owned()),
    }
}

/// A migration changes where the named members are, and nothing else; what is left behind goes last.
fn migrated(plan: &PlanClaim, migrate: &Migrate, ns: &str) -> Checked {
    same_revision(plan)?;
    let (before, after) = both(plan)?;
    let index = |s: &'_ ServiceClaim| -> BTreeMap<String, InstanceClaim> {
        s.instances.iter().map(|i| (i.object.clone(), i.clone())).collect()
    };
    let (was, is) = (index(before), index(after));
    if !was.keys().eq(is.keys()) {
        return Err("migration changes which instances there are".to_owned());
    }
    for (object, now) in &is {
        let Some(then) = was.get(object) else { continue };
        if (then.image, then.policy) != (now.image, now.policy) {
            return Err(format!("migration changes the image or the configuration of {object}"));
        }
        let named = migrate.members.is_empty() || migrate.members.iter().any(|m| of_member(object, ns, m));
        if !named && then.site != now.site {
            return Err(format!("migration moves {object}, which the intent does not name"));
        }
        if named && then.site == now.site {
            return Err(format!("migration leaves {object} where it is"));
        }
        if named {
            allowed(std::iter::once(now.site.as_str()), &migrate.placement.sites)?;
        }
    }
    made_before_break(plan, before)
}

fn made_before_break(plan: &PlanClaim, before: &ServiceClaim) -> Checked {
    let proven = plan.steps.iter().rposition(|s| s.action == ATTEST || s.action == "measure");
    let made = plan.steps.iter().rposition(|s| s.action == ENSURE_COMPUTE);
    let here =
        |s: &PlannedStep| before.instances.iter().any(|i| i.object == s.object && i.site == site_of(plan, s));
    let broken = plan.steps.iter().position(|s| s.action == "remove compute" && here(s));
    match broken {
        Some(broken) if made > Some(broken) || proven > Some(broken) => Err(format!(
            "step {} removes {} before the new site is proven",
            plan.steps[broken].step, plan.steps[broken].object
        )),
        _ => Ok(()),
    }
}

/// An isolation captures what was asked for, cuts what was named, and touches nothing else.
fn isolated(plan: &PlanClaim, isolate: &Isolate, ns: &str) -> Checked {
    same_revision(plan)?;
    let (before, after) = both(plan)?;
    let known = [ISOLATE, CAPTURE];
    if let Some(step) = plan.steps.iter().find(|s| !known.contains(&s.action.as_str())) {
        return Err(format!("step {} of an isolation is to {}", step.step, step.action));
    }
    let named = |i: &&InstanceClaim| {
        isolate.targets.is_empty() || isolate.targets.iter().any(|t| is_target(&i.object, ns, t))
    };
    let wanted: BTreeSet<(&str, &str)> =
        before.instances.iter().filter(named).map(|i| (i.site.as_str(), i.object.as_str())).collect();
    let of = |action: &str| -> BTreeSet<(&str, &str)> {
        let steps = plan.steps.iter().filter(|s| s.action == action);
        steps.map(|s| (site_of(plan, s), s.object.as_str())).collect()
    };
    if of(ISOLATE) != wanted {
        return Err("it does not cut exactly the instances that the intent names".to_owned());
    }
    if isolate.capture_ms > 0 && of(CAPTURE) != wanted {
        return Err("it does not capture the traffic of every instance that it cuts".to_owned());
    }
    for (at, cut) in plan.steps.iter().enumerate().filter(|(_, s)| s.action == ISOLATE) {
        let later = &plan.steps[at..];
        if later.iter().any(|s| s.action == CAPTURE && s.object == cut.object && s.site == cut.site) {
            return Err(format!("step {} cuts {} before its traffic is captured", cut.step, cut.object));
        }
    }
    let untouched = before.instances.iter().zip(&after.instances).all(|(b, a)| {
        (&b.site, &b.object, b.image, b.configuration) == (&a.site, &a.object, a.image, a.configuration)
            && a.isolated == (b.isolated || named(&b))
    });
    match untouched && before.instances.len() == after.instances.len() {
        true => Ok(()),
        false => {
            Err("it says something else of the service than that these instances are cut off".to_owned())
        }
    }
}

/// A member index or VDU id that a key can carry as it is stands in it as it is.
fn of_member(object: &str, ns: &str, member: &str) -> bool {
    let rest = object.strip_prefix(ns).and_then(|r| r.strip_prefix('/')).unwrap_or_default();
    part_is(rest.split('/').next().unwrap_or_default(), member)
}

fn is_target(object: &str, ns: &str, target: &Target) -> bool {
    let rest = object.strip_prefix(ns).and_then(|r| r.strip_prefix('/')).unwrap_or_default();
    let mut parts = rest.split('/');
    let mut next = |text: &str| parts.next().is_some_and(|p| part_is(p, text));
    next(&target.member) && next(&target.vdu) && next(&target.index.to_string())
}

/// One part of a key: the text itself, or its slug with 8 digits of its digest.
fn part_is(part: &str, text: &str) -> bool {
    part == text || part.rsplit_once('-').is_some_and(|(_, d)| d == &Digest::of(text.as_bytes()).hex()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::PlacementHints;

    const NS: &str = "ns-1";

    fn instance(site: &str, object: &str) -> InstanceClaim {
        let of = |what: &str| Digest::of(format!("{object} {what}"));
        InstanceClaim {
            site: site.into(),
            object: format!("{NS}/{object}"),
            image: of("image"),
            configuration: of("configuration"),
            policy: of("policy"),
            isolated: false,
        }
    }

    fn service(sites: [&str; 2]) -> ServiceClaim {
        let instances = vec![instance(sites[0], "vfw/vfw/0"), instance(sites[1], "vlb/vlb/0")];
        ServiceClaim { nsd_package: Digest::of("ns"), parameters: Digest::of("{}"), instances }
    }

    fn step(step: u32, action: &str, object: &str, site: &str) -> PlannedStep {
        let object = if object.is_empty() { String::new() } else { format!("{NS}/{object}") };
        PlannedStep { step, what: String::new(), action: action.into(), object, site: site.into() }
    }

    fn plan(before: ServiceClaim, after: ServiceClaim, steps: Vec<PlannedStep>) -> PlanClaim {
        PlanClaim {
            plan: Digest::of("plan"),
            site: "a".into(),
            refused: vec![],
            steps,
            isolation: vec![],
            before: Some(before),
            after: Some(after),
            unmeasured: None,
        }
    }

    fn refused(checked: Checked, word: &str) {
        let problem = checked.unwrap_err();
        assert!(problem.contains(word), "{problem}");
    }

    #[test]
    fn healing_changes_nothing() {
        let same = plan(service(["a", "a"]), service(["a", "a"]), vec![]);
        assert_eq!(healed(&same), Ok(()));
        for change in [
            |i: &mut InstanceClaim| i.image = Digest::of("other"),
            |i: &mut InstanceClaim| i.configuration = Digest::of("other"),
            |i: &mut InstanceClaim| i.site = "b".into(),
        ] {
            let mut lie = same.clone();
            change(&mut lie.after.as_mut().unwrap().instances[0]);
            refused(healed(&lie), "healing changes");
        }
        let mut lie = same.clone();
        lie.after.as_mut().unwrap().instances[0].isolated = true;
        refused(healed(&lie), "cuts an instance off");
        let mut lie = same.clone();
        lie.after.as_mut().unwrap().parameters = Digest::of("other");
        refused(healed(&lie), "packages or configuration");
        refused(healed(&PlanClaim { before: None, ..same }), "before and after");
    }

    #[test]
    fn a_revision_ends_where_its_intent_says() {
        let it = plan(service(["a", "a"]), service(["a", "a"]), vec![]);
        assert_eq!(revised(&it, Digest::of("ns"), Digest::of("{}")), Ok(()));
        refused(revised(&it, Digest::of("ns2"), Digest::of("{}")), "NSD package");
        refused(revised(&it, Digest::of("ns"), Digest::of("rules")), "another configuration");
    }

    fn migration(sites: &[&str]) -> Migrate {
        let sites = sites.iter().map(|s| (*s).to_owned()).collect();
        let placement = PlacementHints { sites, ..PlacementHints::default() };
        Migrate { members: vec!["vlb".into()], placement }
    }

    fn moved() -> PlanClaim {
        let steps = vec![
            step(1, "ensure compute", "vlb/vlb/0", "b"),
            step(2, "attest", "", "b"),
            step(3, "attest", "", ""),
            step(4, "measure", "probe/client", ""),
            step(5, "remove compute", "vlb/vlb/0", ""),
        ];
        plan(service(["a", "a"]), service(["a", "b"]), steps)
    }

    #[test]
    fn a_migration_moves_what_is_named_and_breaks_last() {
        assert_eq!(migrated(&moved(), &migration(&["b"]), NS), Ok(()));
        refused(migrated(&moved(), &migration(&["c"]), NS), "none that the intent allows");
        let mut stays = moved();
        stays.after = Some(service(["a", "a"]));
        refused(migrated(&stays, &migration(&[]), NS), "where it is");
        let mut stranger = moved();
        stranger.after = Some(service(["b", "b"]));
        refused(migrated(&stranger, &migration(&[]), NS), "does not name");
        let mut other = moved();
        other.after.as_mut().unwrap().instances[1].policy = Digest::of("other");
        refused(migrated(&other, &migration(&[]), NS), "image or the configuration");
        let mut early = moved();
        early.steps.swap(1, 4);
        refused(migrated(&early, &migration(&[]), NS), "before the new site is proven");
    }

    #[test]
    fn an_isolation_captures_and_cuts_what_is_named() {
        let isolate = |capture_ms| Isolate {
            targets: vec![Target { member: "vlb".into(), vdu: "vlb".into(), index: 0 }],
            capture_ms,
            reason: "it talks to strangers".into(),
        };
        let mut after = service(["a", "a"]);
        after.instances[1].isolated = true;
        let steps = vec![step(1, "capture", "vlb/vlb/0", ""), step(2, "isolate", "vlb/vlb/0", "")];
        let it = plan(service(["a", "a"]), after, steps);
        assert_eq!(isolated(&it, &isolate(100), NS), Ok(()));
        let change = |f: fn(&mut PlanClaim)| {
            let mut lie = it.clone();
            f(&mut lie);
            isolated(&lie, &isolate(100), NS)
        };
        refused(change(|p| p.steps.swap(0, 1)), "before its traffic is captured");
        refused(change(|p| drop(p.steps.remove(0))), "does not capture");
        refused(change(|p| drop(p.steps.remove(1))), "does not cut exactly");
        refused(change(|p| p.steps.push(step(3, "isolate", "vfw/vfw/0", ""))), "does not cut exactly");
        refused(change(|p| p.steps.push(step(3, "remove compute", "vlb/vlb/0", ""))), "an isolation is to");
        refused(change(|p| p.after = Some(service(["a", "a"]))), "something else of the service");
    }
}
