//! What every MANO back end must do, as a suite that is run on every one.
//!
//! A back end's tests give a [`Fixture`]: the back end, packages that it can get, a specification to vary, and the MANO's
//! own view of things. [`run`] makes a fresh one per case. The report is the VIM port's. Nothing is changed outside the
//! fixture, and a fixture on a real MANO must be able to live beside other people's services: every case clears what it made.
//!
//! Tests of the suite itself: `tests/fake.rs` runs it on the fake and on fakes that break a promise.

use std::{collections::BTreeSet, time::Instant};

use async_trait::async_trait;
use vim::{
    Disposition, DriverError, ObjectKey,
    conformance::{Case, Report},
};

use crate::{
    Inventory, Mano, ObservedService, PackageKind, PackageSpec, Removal, Scope, ServiceKey, ServiceSpec,
    ServiceState,
};

/// Most ways a service can be left half made that are tried.
const MAX_WAYS: usize = 32;

/// Packages that a fixture's back end can get, and one that it cannot.
#[derive(Debug, Clone)]
pub struct Packages {
    /// Two versions of one VNF package.
    pub vnf: [PackageSpec; 2],
    /// The NS package that refers to it.
    pub ns: PackageSpec,
    /// A VNF package of whose digest there are no bytes.
    pub missing: PackageSpec,
}

/// A back end under test and its MANO's own view.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The back end.
    fn mano(&self) -> &dyn Mano;

    /// Its packages.
    fn packages(&self) -> Packages;

    /// A service of the NS package with the first version of the VNF package: at least one VDU of `count` instances,
    /// three being planned, each with a day-0 document; scalable between 1 and 3.
    fn service(&self, key: &ServiceKey, count: u32) -> ServiceSpec;

    /// Leaves the service as a crash in the middle of `ensure_service` or `remove_service` would, in the `way`-th way
    /// this MANO knows, and says which. Its packages are there. `None`: there are only `way` ways.
    async fn leave_half_made(
        &mut self,
        key: &ServiceKey,
        spec: &ServiceSpec,
        way: usize,
    ) -> Result<Option<String>, String>;

    /// Makes something in the MANO that is not ours, as near to ours as it can get: a service of that key's name, and a package
    /// of the first VNF package's id with other bytes when `package`. The packages are there when not.
    async fn make_foreign(&mut self, key: &ServiceKey, package: bool) -> Result<(), String>;

    /// Is all that [`Self::make_foreign`] made still there, unchanged? It is taken away by this.
    async fn foreign_intact(&mut self) -> Result<bool, String>;

    /// Has services that are built fail inside the MANO from now on (or no more). False: this MANO cannot be made to.
    async fn failing(&mut self, on: bool) -> Result<bool, String>;

    /// A new back end over the same MANO, as after a crash of the orchestrator.
    async fn restart(&mut self) -> Result<(), String>;

    /// Everything in the MANO that came with our packages and services, read without the back end; for people to read.
    async fn residue(&mut self) -> Result<Vec<String>, String>;

    /// The end of a case, passed or not: nothing of the fixture may stay.
    async fn close(self) -> Result<(), String>;
}

macro_rules! check {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}

/// One case: its name and what it does to a fixture.
macro_rules! each {
    ($make:expr, $only:expr, $report:expr, [$($case:ident)+]) => {$(
        if $only.is_none_or(|only| stringify!($case).contains(only)) {
            let start = Instant::now();
            let outcome = match $make().await {
                Err(e) => Err(format!("the fixture: {e}")),
                Ok(mut fixture) => {
                    let outcome = $case(&mut fixture).await;
                    let closed = fixture.close().await;
                    outcome.and(closed.map_err(|e| format!("closing the fixture: {e}")))
                }
            };
            let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            $report.cases.push(Case { name: stringify!($case), elapsed_ms, outcome, skipped: None });
        }
    )+};
}

/// Runs every case whose name contains `only`, each on a fixture of its own, to the end whatever fails.
pub async fn run<F: Fixture>(make: impl AsyncFn() -> Result<F, String>, only: Option<&str>) -> Report {
    let mut report = Report::default();
    each!(make, only, report, [
        capabilities_name_the_driver
        packages_are_made_once_and_replaced_by_digest
        a_package_in_use_stays
        packages_that_are_not_ours_are_untouched
        a_service_is_made_once
        counts_change_in_place
        what_cannot_change_in_place_is_refused
        ensure_completes_what_is_half_made
        remove_clears_what_is_half_made
        removing_what_is_absent_succeeds
        services_that_are_not_ours_are_untouched
        observe_keeps_to_its_scope
        a_failed_build_says_so_and_leaves_nothing_that_remove_does_not
        an_instance_is_healed_once_per_action
        an_instance_moves
        a_restarted_back_end_knows_what_is_there
        concurrent_calls_make_one_service
        errors_carry_code_and_disposition
    ]);
    report
}

// ---- building blocks ----

fn words(e: DriverError) -> String {
    format!("{} {e}", e.code)
}

fn service_key(text: &str) -> Result<ServiceKey, String> {
    ServiceKey::new(text).map_err(|e| e.to_string())
}

/// The packages that a service needs.
async fn ground<F: Fixture>(f: &F) -> Result<(), String> {
    let packages = f.packages();
    for spec in [&packages.vnf[0], &packages.ns] {
        let observed = f.mano().ensure_package(spec).await.map_err(words)?;
        check!(observed.digest == spec.digest, "{} has {} after ensure", spec.id, observed.digest);
    }
    Ok(())
}

async fn ensure<F: Fixture>(f: &F, key: &ServiceKey, count: u32) -> Result<ObservedService, String> {
    f.mano().ensure_service(key, &f.service(key, count)).await.map_err(words)
}

async fn start<F: Fixture>(f: &F, name: &str, count: u32) -> Result<ServiceKey, String> {
    ground(f).await?;
    let key = service_key(name)?;
    whole(f, &key, count, &ensure(f, &key, count).await?)?;
    Ok(key)
}

/// Is the service as it was asked for?
fn whole<F: Fixture>(f: &F, key: &ServiceKey, count: u32, observed: &ObservedService) -> Result<(), String> {
    let spec = f.service(key, count);
    check!(
        observed.state == ServiceState::Instantiated,
        "{key} is {:?}: {}",
        observed.state,
        observed.detail
    );
    check!(observed.fixed == Some(spec.fixed_digest()), "{key} was made from something else");
    for (index, member) in &spec.members {
        for (id, vdu) in &member.vdus {
            let found = observed.counts.get(index).and_then(|m| m.get(id));
            check!(found == Some(&vdu.count), "{key} has {found:?} of {index}/{id}, asked for {}", vdu.count);
        }
    }
    Ok(())
}

async fn look<F: Fixture>(f: &F, scope: &Scope) -> Result<Inventory, String> {
    f.mano().observe(scope).await.map_err(words)
}

async fn remove<F: Fixture>(f: &F, key: &ServiceKey) -> Result<(), String> {
    f.mano().remove_service(key).await.map_err(words)
}

/// Everything goes, and nothing of it stays.
async fn clear<F: Fixture>(f: &mut F) -> Result<(), String> {
    for key in look(f, &Scope::All).await?.services.keys() {
        remove(f, key).await?;
    }
    let packages = f.packages();
    for spec in [&packages.ns, &packages.vnf[0]] {
        let removal = f.mano().remove_package(spec.kind, &spec.id).await.map_err(words)?;
        check!(removal == Removal::Gone, "{} is still in use when no service is left", spec.id);
    }
    let left = look(f, &Scope::All).await?;
    check!(left == Inventory::default(), "still observed: {left:?}");
    let residue = f.residue().await?;
    check!(residue.is_empty(), "left behind: {residue:?}");
    Ok(())
}

fn refused<T: std::fmt::Debug>(
    result: Result<T, DriverError>,
    disposition: Disposition,
    what: &str,
) -> Result<(), String> {
    let error = match result {
        Ok(it) => return Err(format!("{what}: accepted, {it:?}")),
        Err(e) => e,
    };
    let stable = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    check!(!error.code.is_empty() && error.code.chars().all(stable), "{what}: `{}` is no code", error.code);
    check!(!error.key.is_empty() && !error.operation.is_empty(), "{what}: does not say where: {error:?}");
    check!(error.reason.len() > 8, "{what}: does not say why: {error:?}");
    check!(
        error.disposition == disposition,
        "{what}: {:?}, expected {disposition:?}: {error}",
        error.disposition
    );
    Ok(())
}

/// Keys of a service's first `count` instances, in the order of its members and VDUs.
fn instances(spec: &ServiceSpec) -> Vec<ObjectKey> {
    let vdus = spec.members.values().flat_map(|m| m.vdus.values());
    vdus.flat_map(|v| v.instances.iter().take(v.count as usize)).map(|i| i.key.clone()).collect()
}

// ---- the cases ----

async fn capabilities_name_the_driver<F: Fixture>(f: &mut F) -> Result<(), String> {
    let found = f.mano().capabilities().await.map_err(words)?;
    check!(!found.driver.is_empty(), "no driver name");
    check!(!found.sites.is_empty(), "no sites");
    clear(f).await
}

async fn packages_are_made_once_and_replaced_by_digest<F: Fixture>(f: &mut F) -> Result<(), String> {
    let [one, two] = f.packages().vnf;
    let first = f.mano().ensure_package(&one).await.map_err(words)?;
    let again = f.mano().ensure_package(&one).await.map_err(words)?;
    check!(first == again && first.digest == one.digest, "{first:?}, then {again:?}");
    let other = f.mano().ensure_package(&two).await.map_err(words)?;
    check!(other.digest == two.digest, "replaced: {other:?}");
    let seen = look(f, &Scope::All).await?.packages;
    check!(seen == [other], "observed {seen:?}");
    clear(f).await
}

async fn a_package_in_use_stays<F: Fixture>(f: &mut F) -> Result<(), String> {
    start(f, "uses", 1).await?;
    for spec in [&f.packages().ns, &f.packages().vnf[0]] {
        let removal = f.mano().remove_package(spec.kind, &spec.id).await.map_err(words)?;
        check!(removal == Removal::InUse, "{} {removal:?} under a service", spec.id);
    }
    let seen = look(f, &Scope::All).await?.packages;
    check!(seen.len() == 2 && seen.iter().all(|p| p.in_use), "observed {seen:?}");
    clear(f).await
}

async fn packages_that_are_not_ours_are_untouched<F: Fixture>(f: &mut F) -> Result<(), String> {
    let key = service_key("foreignpackage")?;
    f.make_foreign(&key, true).await?;
    let ours = f.packages().vnf[0].clone();
    refused(
        f.mano().ensure_package(&ours).await,
        Disposition::Compensate,
        "a package of that id that is not ours",
    )?;
    f.mano().remove_package(PackageKind::Vnf, &ours.id).await.map_err(words)?;
    let seen = look(f, &Scope::All).await?;
    check!(seen == Inventory::default(), "observed as ours: {seen:?}");
    check!(f.foreign_intact().await?, "a package that is not ours was changed");
    clear(f).await
}

async fn a_service_is_made_once<F: Fixture>(f: &mut F) -> Result<(), String> {
    let key = start(f, "once", 1).await?;
    let before = look(f, &Scope::Service(key.clone())).await?;
    let again = ensure(f, &key, 1).await?;
    whole(f, &key, 1, &again)?;
    let after = look(f, &Scope::Service(key.clone())).await?;
    let told = |i: &Inventory| {
        i.services.get(&key).map(|s| (s.mano_id.clone(), s.operation.clone(), s.objects.clone()))
    };
    check!(told(&before).is_some() && told(&before) == told(&after), "before {before:?}, after {after:?}");
    clear(f).await
}

async fn counts_change_in_place<F: Fixture>(f: &mut F) -> Result<(), String> {
    let key = start(f, "scaled", 1).await?;
    let id = |i: &Inventory| i.services.values().map(|s| s.mano_id.clone()).collect::<Vec<_>>();
    let before = id(&look(f, &Scope::Service(key.clone())).await?);
    for count in [3, 2, 1] {
        whole(f, &key, count, &ensure(f, &key, count).await?).map_err(|e| format!("to {count}: {e}"))?;
    }
    let after = id(&look(f, &Scope::Service(key)).await?);
    check!(before == after, "another service: {before:?}, then {after:?}");
    clear(f).await
}

async fn what_cannot_change_in_place_is_refused<F: Fixture>(f: &mut F) -> Result<(), String> {
    let key = start(f, "fixed", 1).await?;
    let mut spec = f.service(&key, 1);
    let first =
        spec.members.values_mut().flat_map(|m| m.vdus.values_mut()).flat_map(|v| &mut v.instances).next();
    first.ok_or("the fixture's service has no instance")?.day0.push_str(" changed");
    refused(f.mano().ensure_service(&key, &spec).await, Disposition::Compensate, "another day-0 document")?;
    whole(f, &key, 1, &ensure(f, &key, 1).await?)?;
    clear(f).await
}

async fn half_made<F: Fixture>(f: &mut F, complete: bool) -> Result<(), String> {
    for way in 0..MAX_WAYS {
        ground(f).await?;
        let key = service_key(&format!("half{way}"))?;
        let spec = f.service(&key, 1);
        let Some(how) = f.leave_half_made(&key, &spec, way).await? else { return clear(f).await };
        let result = if complete {
            match ensure(f, &key, 1).await {
                Ok(observed) => whole(f, &key, 1, &observed),
                Err(e) => Err(e),
            }
        } else {
            remove(f, &key).await
        };
        result.map_err(|e| format!("left {how}: {e}"))?;
        clear(f).await.map_err(|e| format!("left {how}: {e}"))?;
    }
    Err(format!("the fixture knows more than {MAX_WAYS} ways"))
}

async fn ensure_completes_what_is_half_made<F: Fixture>(f: &mut F) -> Result<(), String> {
    half_made(f, true).await
}

async fn remove_clears_what_is_half_made<F: Fixture>(f: &mut F) -> Result<(), String> {
    half_made(f, false).await
}

async fn removing_what_is_absent_succeeds<F: Fixture>(f: &mut F) -> Result<(), String> {
    remove(f, &service_key("absent")?).await?;
    let key = start(f, "gone", 1).await?;
    remove(f, &key).await?;
    remove(f, &key).await?;
    clear(f).await
}

async fn services_that_are_not_ours_are_untouched<F: Fixture>(f: &mut F) -> Result<(), String> {
    ground(f).await?;
    let key = service_key("namesake")?;
    f.make_foreign(&key, false).await?;
    let seen = look(f, &Scope::All).await?.services;
    check!(seen.is_empty(), "observed as ours: {seen:?}");
    whole(f, &key, 1, &ensure(f, &key, 1).await?)?;
    remove(f, &key).await?;
    check!(f.foreign_intact().await?, "a service that is not ours was changed");
    clear(f).await
}

async fn observe_keeps_to_its_scope<F: Fixture>(f: &mut F) -> Result<(), String> {
    let (a, b) = (start(f, "scope-a", 1).await?, start(f, "scope-b", 1).await?);
    let one = look(f, &Scope::Service(a.clone())).await?;
    check!(one.services.keys().eq([&a]) && one.packages.is_empty(), "of {a}: {one:?}");
    let all = look(f, &Scope::All).await?;
    check!(all.services.keys().eq([&a, &b]) && all.packages.len() == 2, "of all: {all:?}");
    let spec = f.service(&a, 1);
    let known: BTreeSet<_> = spec.keys().map(|(k, _)| k).collect();
    let strange = one.services[&a].objects.keys().find(|k| !known.contains(k));
    check!(strange.is_none(), "objects that were not asked for: {strange:?}");
    clear(f).await
}

async fn a_failed_build_says_so_and_leaves_nothing_that_remove_does_not<F: Fixture>(
    f: &mut F,
) -> Result<(), String> {
    ground(f).await?;
    let key = service_key("fails")?;
    if f.failing(true).await? {
        let error = f.mano().ensure_service(&key, &f.service(&key, 1)).await.err();
        f.failing(false).await?;
        let error = error.ok_or("a failed build succeeded")?;
        check!(error.disposition != Disposition::Retry, "nothing happened, it says: {error:?}");
        remove(f, &key).await?;
        let residue = f.residue().await?;
        let services: Vec<_> = residue.iter().filter(|r| r.contains(key.as_str())).collect();
        check!(services.is_empty(), "left behind: {services:?}");
    }
    whole(f, &key, 1, &ensure(f, &key, 1).await?)?;
    clear(f).await
}

async fn an_instance_is_healed_once_per_action<F: Fixture>(f: &mut F) -> Result<(), String> {
    if !f.mano().capabilities().await.map_err(words)?.heal {
        return clear(f).await;
    }
    let key = start(f, "sick", 1).await?;
    let sick = instances(&f.service(&key, 1)).into_iter().collect();
    let first = f.mano().heal(&key, "heal-1", &sick).await.map_err(words)?;
    let again = f.mano().heal(&key, "heal-1", &sick).await.map_err(words)?;
    check!(first.operation == again.operation, "healed twice: {:?}, {:?}", first.operation, again.operation);
    let other = f.mano().heal(&key, "heal-2", &sick).await.map_err(words)?;
    check!(other.operation != first.operation, "not healed again: {:?}", other.operation);
    whole(f, &key, 1, &other)?;
    let unknown = ObjectKey::new(format!("{key}/no/such")).map_err(|e| e.to_string())?;
    let healed = f.mano().heal(&key, "heal-3", &[unknown].into()).await;
    refused(healed, Disposition::Compensate, "healing what is not there")?;
    clear(f).await
}

async fn an_instance_moves<F: Fixture>(f: &mut F) -> Result<(), String> {
    if !f.mano().capabilities().await.map_err(words)?.migrate {
        return clear(f).await;
    }
    let key = start(f, "moved", 1).await?;
    let instance = instances(&f.service(&key, 1)).into_iter().next().ok_or("no instance")?;
    let first = f.mano().migrate(&key, &instance, "host-2").await.map_err(words)?;
    let again = f.mano().migrate(&key, &instance, "host-2").await.map_err(words)?;
    check!(first.operation == again.operation, "moved twice: {:?}, {:?}", first.operation, again.operation);
    let back = f.mano().migrate(&key, &instance, "host-1").await.map_err(words)?;
    check!(back.operation != first.operation, "not moved back: {:?}", back.operation);
    clear(f).await
}

async fn a_restarted_back_end_knows_what_is_there<F: Fixture>(f: &mut F) -> Result<(), String> {
    let key = start(f, "stays", 2).await?;
    let before = look(f, &Scope::All).await?;
    f.restart().await?;
    let after = look(f, &Scope::All).await?;
    check!(before == after, "before {before:?}, after {after:?}");
    whole(f, &key, 2, &ensure(f, &key, 2).await?)?;
    clear(f).await
}

async fn concurrent_calls_make_one_service<F: Fixture>(f: &mut F) -> Result<(), String> {
    ground(f).await?;
    let key = service_key("race")?;
    let spec = f.service(&key, 1);
    let call = || f.mano().ensure_service(&key, &spec);
    let (a, b, c) = futures::join!(call(), call(), call());
    let ids: BTreeSet<String> =
        [a, b, c].into_iter().map(|r| r.map(|o| o.mano_id).map_err(words)).collect::<Result<_, _>>()?;
    check!(ids.len() == 1, "several services: {ids:?}");
    clear(f).await
}

async fn errors_carry_code_and_disposition<F: Fixture>(f: &mut F) -> Result<(), String> {
    ground(f).await?;
    let missing = f.mano().ensure_package(&f.packages().missing).await;
    refused(missing, Disposition::Compensate, "a package of which there are no bytes")?;
    let key = service_key("bad")?;
    let mut elsewhere = f.service(&key, 1);
    elsewhere.members.values_mut().for_each(|m| m.site = "atlantis".into());
    refused(
        f.mano().ensure_service(&key, &elsewhere).await,
        Disposition::Compensate,
        "a site that is not configured",
    )?;
    let mut few = f.service(&key, 1);
    few.members.values_mut().flat_map(|m| m.vdus.values_mut()).for_each(|v| v.instances.clear());
    refused(
        f.mano().ensure_service(&key, &few).await,
        Disposition::Compensate,
        "fewer instances than asked for",
    )?;
    let mut strange = f.service(&key, 1);
    strange.nsd.digest = trust::Digest::of(b"another");
    refused(
        f.mano().ensure_service(&key, &strange).await,
        Disposition::Compensate,
        "a package that is not there",
    )?;
    let of_none = f.mano().heal(&key, "heal", &BTreeSet::new()).await;
    refused(of_none, Disposition::Compensate, "healing a service that is not there")?;
    clear(f).await
}
