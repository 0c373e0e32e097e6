//! What every driver must do, as a suite that is run on every driver.
//!
//! A driver's tests give a [`Fixture`]: the driver, the VIM's own view of things (what is left, what is half made,
//! what is not ours), and two images that run a data plane. [`run`] makes a fresh one per case. The suite has no
//! runtime of its own (the few cases that wait use a timer of the fake's), and it changes nothing outside the fixture.
//!
//! Tests of the suite itself: `tests/fake.rs` runs it on the fake and on a fake that breaks each promise in turn.

use std::{collections::BTreeSet, time::Instant};

use async_trait::async_trait;
use dataplane_control::{MacAddr, config::PortDriver};
use trust::Digest;

use crate::{
    ComputeSpec, ComputeState, Disposition, Inventory, Kind, ObjectKey, Observed, Resources, Scope, Spec,
    VimDriver, VnfControl, port_interface,
};

/// Most ways an object can be left half made that are tried per kind.
const MAX_WAYS: usize = 32;

/// A driver under test and its VIM's own view.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The driver.
    fn driver(&self) -> &dyn VimDriver;

    /// Control of the functions it runs.
    fn control(&self) -> &dyn VnfControl;

    /// Two different images that the driver can get, both of a data plane.
    fn images(&self) -> [Digest; 2];

    /// How the data plane reaches its `index`-th port in this VIM.
    fn port_driver(&self, index: usize) -> PortDriver {
        PortDriver::AfPacket { interface: port_interface(index) }
    }

    /// Leaves the object as a crash in the middle of `ensure` or `remove` would, in the `way`-th way this VIM knows
    /// for this kind. What `spec` needs is there. False: there are only `way` ways.
    async fn leave_half_made(&mut self, key: &ObjectKey, spec: &Spec, way: usize) -> Result<bool, String>;

    /// What tells one life of the instance from the next: the same as long as it goes on, another after each boot. By default
    /// its process.
    async fn incarnation(&self, key: &ObjectKey) -> Result<String, String> {
        self.control().status(key).await.map(|s| s.pid.to_string()).map_err(|e| format!("{} {e}", e.code))
    }

    /// Kills the instance's process (or its machine) behind the driver's back.
    async fn crash(&mut self, key: &ObjectKey) -> Result<(), String>;

    /// Makes something in the VIM that is not ours, as near to ours as it can get.
    async fn make_foreign(&mut self) -> Result<(), String>;

    /// Is all that [`Self::make_foreign`] made still there, unchanged?
    async fn foreign_intact(&mut self) -> Result<bool, String>;

    /// Sends a frame out of the instance's `port`-th connection point, as its process would.
    async fn emit(&self, key: &ObjectKey, port: usize, frame: &[u8]) -> Result<(), String>;

    /// Changes a whole service of one instance, network and image behind the driver's back, in the `way`-th way this
    /// VIM knows, and says what it did. What can be changed without the driver can be put right by it: with `ensure`
    /// of all three, the instance's document being of generation 9. `None`: there are only `way` ways.
    async fn alter(
        &mut self,
        instance: &ObjectKey,
        network: &ObjectKey,
        image: &ObjectKey,
        way: usize,
    ) -> Result<Option<String>, String>;

    /// Makes something that carries our mark and belongs to no object, in the `way`-th way this VIM knows, and says
    /// what. `None`: there are only `way` ways.
    async fn make_stray(&mut self, way: usize) -> Result<Option<String>, String>;

    /// Another site that links can be joined to, for a VIM that has such.
    async fn other_site(&mut self) -> Result<Option<Self>, String>
    where
        Self: Sized,
    {
        Ok(None)
    }

    /// A new driver over the same VIM, as after a crash of the orchestrator.
    async fn restart(&mut self) -> Result<(), String>;

    /// Everything in the VIM that came with our objects, of whatever service, read without the driver: links,
    /// namespaces, processes, files, …; for people to read. Foreign objects are not among it.
    async fn residue(&mut self) -> Result<Vec<String>, String>;

    /// The end of a case, passed or not: nothing of the fixture may stay.
    async fn close(self) -> Result<(), String>;
}

/// How a suite went.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Every case, in order.
    pub cases: Vec<Case>,
}

/// How a case went.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// How long it took, ms.
    pub elapsed_ms: u64,
    /// What broke, if anything.
    pub outcome: Result<(), String>,
    /// Why it was not run: what the driver does not have ([`crate::Capabilities`]).
    pub skipped: Option<&'static str>,
}

impl Report {
    /// One line per case that was not run, with the reason.
    #[must_use]
    pub fn skipped(&self) -> Vec<String> {
        self.cases.iter().filter_map(|c| Some(format!("{}: {}", c.name, c.skipped?))).collect()
    }

    /// One line per case that failed; empty when all passed.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let failed = |c: &Case| c.outcome.as_ref().err().map(|e| format!("{}: {e}", c.name));
        self.cases.iter().filter_map(failed).collect()
    }
}

macro_rules! check {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}

macro_rules! cases {
    ($make:expr, $only:expr, $report:expr, $($case:ident),+ $(,)?) => {$(
        if $only(stringify!($case)) {
            let start = Instant::now();
            let mut skipped = None;
            let outcome = match $make().await {
                Err(e) => Err(format!("the fixture: {e}")),
                Ok(mut fixture) => {
                    let outcome = match needs_functions(stringify!($case)) && !functions(&fixture).await {
                        true => {
                            skipped = Some("this VIM does not reach into its guests");
                            Ok(())
                        }
                        false => $case(&mut fixture).await,
                    };
                    let closed = fixture.close().await.map_err(|e| format!("closing the fixture: {e}"));
                    outcome.and(closed)
                }
            };
            let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            $report.cases.push(Case { name: stringify!($case), elapsed_ms, outcome, skipped });
        }
    )+};
}

mod blocks;
mod drift;
use blocks::{
    Instance, clear, ensure, functions, ground, image, joined, key, needs_functions, network, nothing_left,
    observe, pid, plain, plainly, refused, remove, start,
};
use drift::{
    a_capture_has_what_passes_in_order_and_within_its_bound,
    a_dead_instance_says_so_whether_or_not_it_is_cut, an_end_is_noticed_and_our_own_doing_is_not,
    every_change_behind_its_back_is_seen_and_put_right,
    joined_links_carry_frames_between_sites_and_nothing_else_does,
    strays_are_found_and_removed_by_their_keys,
};

/// Runs every case whose name contains `only`, each on a fixture of its own, to the end whatever fails.
pub async fn run<F: Fixture>(make: impl AsyncFn() -> Result<F, String>, only: Option<&str>) -> Report {
    run_where(make, |case| only.is_none_or(|only| case.contains(only))).await
}

/// Runs every case whose name is asked for: a slow VIM's suite can be divided.
pub async fn run_where<F: Fixture>(
    make: impl AsyncFn() -> Result<F, String>,
    only: impl Fn(&str) -> bool,
) -> Report {
    let mut report = Report::default();
    cases!(
        make,
        only,
        report,
        capabilities_name_the_driver,
        ensure_is_idempotent,
        ensure_completes_what_is_half_made,
        remove_clears_what_is_half_made,
        removing_what_is_absent_succeeds,
        observe_lists_ours_in_scope,
        foreign_objects_are_untouched,
        configuration_changes_in_place,
        a_refused_configuration_leaves_the_running_one,
        another_image_is_another_instance,
        other_ports_are_another_instance,
        errors_carry_code_and_disposition,
        isolation_cuts_traffic_and_keeps_the_process,
        isolation_outlives_the_driver_and_ends_with_the_instance,
        a_crashed_instance_is_down_and_ensure_restarts_it,
        a_restarted_driver_keeps_what_runs,
        concurrent_calls_make_one_object,
        images_are_shared_and_kept_while_referred_to,
        keys_never_collide,
        a_removed_service_leaves_nothing,
        a_capture_has_what_passes_in_order_and_within_its_bound,
        every_change_behind_its_back_is_seen_and_put_right,
        a_dead_instance_says_so_whether_or_not_it_is_cut,
        strays_are_found_and_removed_by_their_keys,
        an_end_is_noticed_and_our_own_doing_is_not,
        joined_links_carry_frames_between_sites_and_nothing_else_does,
    );
    report
}

// ---- the cases ----

async fn capabilities_name_the_driver<F: Fixture>(f: &mut F) -> Result<(), String> {
    let found = f.driver().capabilities().await.map_err(|e| e.to_string())?;
    check!(!found.driver.is_empty(), "no driver name");
    nothing_left(f).await
}

async fn ensure_is_idempotent<F: Fixture>(f: &mut F) -> Result<(), String> {
    let instance = start(f, "idem").await?;
    let before = (observe(f, &Scope::All).await?, pid(f, &instance.key).await?);
    check!(before.0.objects.len() == 3, "three objects made, {:?} observed", before.0.objects);
    for (name, spec) in
        [("idem/image", image(f.images()[0])), ("idem/net", network(1500)), ("idem/vdu", instance.spec()?)]
    {
        let again = ensure(f, &key(name)?, &spec).await?;
        check!(before.0.objects.get(&key(name)?) == Some(&again), "{name}: {again:?} the second time");
    }
    let after = (observe(f, &Scope::All).await?, pid(f, &instance.key).await?);
    check!(before == after, "before {before:?}, after {after:?}");
    clear(f, "idem").await?;
    nothing_left(f).await
}

async fn half_made_ways<F: Fixture>(f: &mut F, complete: bool) -> Result<(), String> {
    for kind in [Kind::Image, Kind::Network, Kind::Compute] {
        for way in 0..MAX_WAYS {
            let service = format!("half{way}");
            let instance = Instance::new(f, &service, "vdu")?;
            let (name, spec) = match kind {
                Kind::Image => ("image", image(f.images()[0])),
                Kind::Network => ("net", network(1500)),
                Kind::Compute => ("vdu", instance.spec()?),
            };
            let object = key(&format!("{service}/{name}"))?;
            if kind == Kind::Compute {
                ground(f, &service).await?;
            }
            let known = f.leave_half_made(&object, &spec, way).await?;
            if known {
                let result = half_made(f, &object, &spec, complete, &instance).await;
                result.map_err(|e| format!("{kind:?}, half made in way {way}: {e}"))?;
            }
            clear(f, &service).await?;
            nothing_left(f).await.map_err(|e| format!("{kind:?}, half made in way {way}: {e}"))?;
            if !known {
                break;
            }
        }
    }
    Ok(())
}

async fn half_made<F: Fixture>(
    f: &mut F,
    object: &ObjectKey,
    spec: &Spec,
    complete: bool,
    instance: &Instance,
) -> Result<(), String> {
    if complete {
        let observed = ensure(f, object, spec).await?;
        let whole = match spec {
            Spec::Image(i) => Observed::Image { digest: i.digest },
            Spec::Network(n) => joined(n.mtu, n.interconnect.clone()),
            Spec::Compute(_) => instance.expected(),
        };
        check!(plain(&observed) == whole, "{observed:?} after ensure, expected {whole:?}");
        let seen = observe(f, &Scope::All).await?;
        check!(plainly(&seen, object) == Some(whole), "observed {:?}", seen.objects.get(object));
    }
    remove(f, object, spec.kind()).await?;
    let seen = observe(f, &Scope::All).await?;
    check!(!seen.objects.contains_key(object), "still there after remove: {:?}", seen.objects.get(object));
    Ok(())
}

async fn ensure_completes_what_is_half_made<F: Fixture>(f: &mut F) -> Result<(), String> {
    half_made_ways(f, true).await
}

async fn remove_clears_what_is_half_made<F: Fixture>(f: &mut F) -> Result<(), String> {
    half_made_ways(f, false).await
}

async fn removing_what_is_absent_succeeds<F: Fixture>(f: &mut F) -> Result<(), String> {
    for kind in [Kind::Image, Kind::Network, Kind::Compute] {
        remove(f, &key("absent/thing")?, kind).await.map_err(|e| format!("{kind:?}, never made: {e}"))?;
    }
    start(f, "absent").await?;
    for (name, kind) in [("vdu", Kind::Compute), ("net", Kind::Network), ("image", Kind::Image)] {
        for time in ["once", "twice"] {
            let object = key(&format!("absent/{name}"))?;
            remove(f, &object, kind).await.map_err(|e| format!("{object} removed {time}: {e}"))?;
        }
    }
    nothing_left(f).await
}

async fn observe_lists_ours_in_scope<F: Fixture>(f: &mut F) -> Result<(), String> {
    f.make_foreign().await?;
    // One service's name is the beginning of the other's.
    let one = start(f, "scope").await?;
    ground(f, "scope-2").await?;
    let names = |i: &Inventory| i.objects.keys().map(ToString::to_string).collect::<BTreeSet<_>>();
    let expect = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    let found = observe(f, &Scope::Service("scope".into())).await?;
    let ours = expect(&["scope/image", "scope/net", "scope/vdu"]);
    check!(names(&found) == ours, "in `scope`: {:?}", found.objects);
    check!(
        plainly(&found, &one.key) == Some(one.expected()),
        "the instance: {:?}",
        found.objects.get(&one.key)
    );
    let other = observe(f, &Scope::Service("scope-2".into())).await?;
    check!(names(&other) == expect(&["scope-2/image", "scope-2/net"]), "in `scope-2`: {:?}", other.objects);
    let all = observe(f, &Scope::All).await?;
    check!(names(&all).len() == 5, "in all: {:?}", all.objects);
    let none = observe(f, &Scope::Service("scop".into())).await?;
    check!(none.objects.is_empty(), "in `scop`: {:?}", none.objects);
    let used = Resources { vcpus: 1, memory_mib: 64, instances: 1 };
    check!(all.used == used && none.used == used, "used: {:?} in all, {:?} in `scop`", all.used, none.used);
    check!(all.total.instances > 0 && all.total == none.total, "total: {:?}, {:?}", all.total, none.total);
    clear(f, "scope").await?;
    clear(f, "scope-2").await?;
    nothing_left(f).await
}

async fn foreign_objects_are_untouched<F: Fixture>(f: &mut F) -> Result<(), String> {
    f.make_foreign().await?;
    check!(f.foreign_intact().await?, "the fixture's own foreign objects are not there");
    start(f, "foreign").await?;
    check!(f.foreign_intact().await?, "changed by ensure");
    clear(f, "foreign").await?;
    check!(f.foreign_intact().await?, "changed by remove");
    nothing_left(f).await
}

/// The VIM's identifiers of an instance and of its ports, where it says them.
fn bindings(found: &Inventory, key: &ObjectKey) -> Vec<String> {
    let Some(Observed::Compute(c)) = found.objects.get(key) else { return Vec::new() };
    let ports = c.links.values().filter_map(|l| Some(l.binding.as_ref()?.id.clone()));
    c.whereabouts.iter().map(|at| at.id.clone()).chain(ports).collect()
}

async fn configuration_changes_in_place<F: Fixture>(f: &mut F) -> Result<(), String> {
    let mut instance = start(f, "config").await?;
    let functions = functions(f).await;
    let mut before = pid(f, &instance.key).await?;
    let ports = bindings(&observe(f, &Scope::All).await?, &instance.key);
    for generation in [2, 3] {
        (instance.generation, instance.number) = (generation, 40);
        let observed = ensure(f, &instance.key, &instance.spec()?).await?;
        check!(plain(&observed) == instance.expected(), "{observed:?}, expected {:?}", instance.expected());
        let after = pid(f, &instance.key).await?;
        if functions {
            let status = f.control().status(&instance.key).await.map_err(|e| e.to_string())?;
            check!(after == before, "process {before} became {after}");
            check!(status.configuration == instance.digest(), "it runs {}", status.configuration);
        } else {
            // Another boot of the same instance.
            check!(after != before, "booted {before}, and not again for generation {generation}");
            let now = bindings(&observe(f, &Scope::All).await?, &instance.key);
            check!(now == ports, "ports {ports:?} became {now:?}");
        }
        before = after;
    }
    let seen = observe(f, &Scope::All).await?;
    check!(
        plainly(&seen, &instance.key) == Some(instance.expected()),
        "{:?}",
        seen.objects.get(&instance.key)
    );
    clear(f, "config").await?;
    nothing_left(f).await
}

async fn a_refused_configuration_leaves_the_running_one<F: Fixture>(f: &mut F) -> Result<(), String> {
    let mut instance = start(f, "refused").await?;
    let before = pid(f, &instance.key).await?;
    // Another document of the generation that runs.
    instance.number = 99;
    let result = f.driver().ensure(&instance.key, &instance.spec()?).await;
    refused(result, Disposition::Compensate, "another document of the same generation")?;
    instance.number = 1;
    let seen = observe(f, &Scope::All).await?;
    check!(
        plainly(&seen, &instance.key) == Some(instance.expected()),
        "{:?}",
        seen.objects.get(&instance.key)
    );
    check!(pid(f, &instance.key).await? == before, "the process is another");
    let again = ensure(f, &instance.key, &instance.spec()?).await?;
    check!(plain(&again) == instance.expected(), "back to what runs: {again:?}");
    check!(pid(f, &instance.key).await? == before, "the process is another");
    clear(f, "refused").await?;
    nothing_left(f).await
}

async fn another_image_is_another_instance<F: Fixture>(f: &mut F) -> Result<(), String> {
    let mut instance = start(f, "image").await?;
    let before = pid(f, &instance.key).await?;
    ensure(f, &key("image/second")?, &image(f.images()[1])).await?;
    instance.image = f.images()[1];
    let observed = ensure(f, &instance.key, &instance.spec()?).await?;
    check!(plain(&observed) == instance.expected(), "{observed:?}, expected {:?}", instance.expected());
    check!(pid(f, &instance.key).await? != before, "the process is the same");
    let seen = observe(f, &Scope::All).await?;
    check!(seen.used.instances == 1, "{:?} used", seen.used);
    clear(f, "image").await?;
    nothing_left(f).await
}

async fn other_ports_are_another_instance<F: Fixture>(f: &mut F) -> Result<(), String> {
    let mut instance = start(f, "ports").await?;
    let before = pid(f, &instance.key).await?;
    instance.mac = MacAddr([2, 0, 0, 0xfe, 0xfe, 0xfe]);
    let observed = ensure(f, &instance.key, &instance.spec()?).await?;
    check!(plain(&observed) == instance.expected(), "{observed:?}, expected {:?}", instance.expected());
    check!(pid(f, &instance.key).await? != before, "the process is the same");
    clear(f, "ports").await?;
    nothing_left(f).await
}

async fn errors_carry_code_and_disposition<F: Fixture>(f: &mut F) -> Result<(), String> {
    let d = Disposition::Compensate;
    let unknown = Digest::of(b"no image has this digest");
    refused(f.driver().ensure(&key("errors/none")?, &image(unknown)).await, d, "an unknown image")?;
    let instance = Instance::new(f, "errors", "vdu")?;
    let make = f.driver().ensure(&instance.key, &instance.spec()?).await;
    refused(make, d, "an instance without image and network")?;
    ensure(f, &key("errors/image")?, &image(f.images()[0])).await?;
    refused(f.driver().ensure(&instance.key, &instance.spec()?).await, d, "an instance without its network")?;
    ensure(f, &key("errors/net")?, &network(1500)).await?;
    let total = observe(f, &Scope::All).await?.total;
    let large = ComputeSpec { vcpus: total.vcpus.saturating_add(1), ..instance.compute()? };
    let no_room = f.driver().ensure(&instance.key, &Spec::Compute(large)).await;
    refused(no_room, Disposition::Elsewhere, "more than there is room for")?;
    let bad = ComputeSpec { configuration: "{}".into(), ..instance.compute()? };
    refused(
        f.driver().ensure(&instance.key, &Spec::Compute(bad)).await,
        d,
        "a document that does not parse",
    )?;
    let other = Instance::new(f, "errors", "other")?;
    let strange = ComputeSpec { configuration: other.document(), ..instance.compute()? };
    refused(
        f.driver().ensure(&instance.key, &Spec::Compute(strange)).await,
        d,
        "another instance's document",
    )?;
    refused(f.control().status(&instance.key).await, d, "the status of what is not there")?;
    refused(f.control().isolate(&instance.key, true).await, d, "isolating what is not there")?;
    // Whatever was refused left nothing of the instance.
    clear(f, "errors").await?;
    nothing_left(f).await
}

async fn isolation_cuts_traffic_and_keeps_the_process<F: Fixture>(f: &mut F) -> Result<(), String> {
    let instance = start(f, "isolate").await?;
    let before = pid(f, &instance.key).await?;
    for (on, state) in
        [(true, ComputeState::Isolated), (true, ComputeState::Isolated), (false, ComputeState::Active)]
    {
        f.control().isolate(&instance.key, on).await.map_err(|e| e.to_string())?;
        let seen = observe(f, &Scope::All).await?;
        let found = seen.objects.get(&instance.key);
        let as_expected = matches!(found, Some(Observed::Compute(c)) if c.state == state);
        check!(as_expected, "isolate {on}: {found:?}");
        check!(pid(f, &instance.key).await? == before, "isolate {on}: the process is another");
        // Ensuring what is there already does not let traffic through again.
        let again = ensure(f, &instance.key, &instance.spec()?).await?;
        check!(Some(&again) == found, "isolate {on}, then ensure: {again:?}");
    }
    clear(f, "isolate").await?;
    nothing_left(f).await
}

async fn isolation_outlives_the_driver_and_ends_with_the_instance<F: Fixture>(
    f: &mut F,
) -> Result<(), String> {
    let instance = start(f, "cut").await?;
    let before = pid(f, &instance.key).await?;
    f.control().isolate(&instance.key, true).await.map_err(|e| e.to_string())?;
    f.restart().await?;
    let seen = observe(f, &Scope::All).await?;
    let found = seen.objects.get(&instance.key);
    let cut = matches!(found, Some(Observed::Compute(c)) if c.state == ComputeState::Isolated);
    check!(cut, "after a restart of the driver: {found:?}");
    let again = ensure(f, &instance.key, &instance.spec()?).await?;
    check!(Some(&again) == found, "after a restart and ensure: {again:?}");
    check!(pid(f, &instance.key).await? == before, "the process is another");
    remove(f, &instance.key, Kind::Compute).await?;
    let anew = ensure(f, &instance.key, &instance.spec()?).await?;
    check!(plain(&anew) == instance.expected(), "removed while isolated and made anew: {anew:?}");
    clear(f, "cut").await?;
    nothing_left(f).await
}

async fn a_crashed_instance_is_down_and_ensure_restarts_it<F: Fixture>(f: &mut F) -> Result<(), String> {
    let instance = start(f, "crash").await?;
    let before = pid(f, &instance.key).await?;
    f.crash(&instance.key).await?;
    let seen = observe(f, &Scope::All).await?;
    let found = seen.objects.get(&instance.key);
    let down = matches!(found, Some(Observed::Compute(c)) if c.state == ComputeState::Down);
    check!(down, "observed after the crash: {found:?}");
    let status = f.control().status(&instance.key).await;
    let disposition = if functions(f).await { Disposition::Unknown } else { Disposition::Compensate };
    refused(status, disposition, "the status of what is down")?;
    let again = ensure(f, &instance.key, &instance.spec()?).await?;
    check!(plain(&again) == instance.expected(), "{again:?}, expected {:?}", instance.expected());
    check!(pid(f, &instance.key).await? != before, "the process is the same");
    clear(f, "crash").await?;
    nothing_left(f).await
}

async fn a_restarted_driver_keeps_what_runs<F: Fixture>(f: &mut F) -> Result<(), String> {
    let instance = start(f, "restart").await?;
    let before = (observe(f, &Scope::All).await?, pid(f, &instance.key).await?);
    f.restart().await?;
    let after = (observe(f, &Scope::All).await?, pid(f, &instance.key).await?);
    check!(before == after, "before {before:?}, after {after:?}");
    let again = ensure(f, &instance.key, &instance.spec()?).await?;
    check!(plain(&again) == instance.expected(), "{again:?}");
    check!(pid(f, &instance.key).await? == before.1, "the process is another");
    f.restart().await?;
    clear(f, "restart").await?;
    nothing_left(f).await
}

async fn concurrent_calls_make_one_object<F: Fixture>(f: &mut F) -> Result<(), String> {
    ground(f, "twice").await?;
    let instance = Instance::new(f, "twice", "vdu")?;
    let spec = instance.spec()?;
    let (one, two) =
        futures::future::join(ensure(f, &instance.key, &spec), ensure(f, &instance.key, &spec)).await;
    let (one, two) = (one?, two?);
    check!(one == two && plain(&one) == instance.expected(), "{one:?} and {two:?}");
    let seen = observe(f, &Scope::All).await?;
    check!(seen.used.instances == 1, "{:?} used", seen.used);
    let gone = futures::future::join(
        remove(f, &instance.key, Kind::Compute),
        remove(f, &instance.key, Kind::Compute),
    );
    let (one, two) = gone.await;
    one.and(two)?;
    clear(f, "twice").await?;
    nothing_left(f).await
}

async fn images_are_shared_and_kept_while_referred_to<F: Fixture>(f: &mut F) -> Result<(), String> {
    for name in ["first/image", "second/image", "second/again"] {
        ensure(f, &key(name)?, &image(f.images()[0])).await?;
    }
    remove(f, &key("first/image")?, Kind::Image).await?;
    remove(f, &key("second/again")?, Kind::Image).await?;
    let instance = start(f, "second").await?;
    remove(f, &instance.key, Kind::Compute).await?;
    clear(f, "second").await?;
    nothing_left(f).await
}

async fn keys_never_collide<F: Fixture>(f: &mut F) -> Result<(), String> {
    let names = ["k/a-b", "k-a/b", "k/a/b", "k/a.b", "k/a_b", "k/ab", "k/a-b/net", "k/a-bb", "k/0", "k/00"];
    for (i, name) in (0u16..).zip(names) {
        ensure(f, &key(name)?, &network(1400 + i)).await?;
    }
    let mut expected: std::collections::BTreeMap<_, _> = Default::default();
    for (i, name) in (0u16..).zip(names) {
        expected.insert(key(name)?, joined(1400 + i, None));
    }
    let found = observe(f, &Scope::All).await?.objects;
    check!(found == expected, "observed {found:?}");
    for name in names {
        remove(f, &key(name)?, Kind::Network).await?;
        expected.remove(&key(name)?);
        let found = observe(f, &Scope::All).await?.objects;
        check!(found == expected, "after removing {name}: {found:?}");
    }
    nothing_left(f).await
}

async fn a_removed_service_leaves_nothing<F: Fixture>(f: &mut F) -> Result<(), String> {
    let stays = start(f, "stays").await?;
    let before = observe(f, &Scope::All).await?;
    let residue = f.residue().await?;
    check!(!residue.is_empty(), "the fixture sees nothing of a running service");
    let goes = start(f, "goes").await?;
    let second = Instance { number: 2, ..Instance::new(f, "goes", "vdu-2")? };
    ensure(f, &second.key, &second.spec()?).await?;
    check!(goes.mac != second.mac, "the suite's own MAC addresses collide");
    clear(f, "goes").await?;
    let after = observe(f, &Scope::All).await?;
    check!(before == after, "before {before:?}, after {after:?}");
    let left = f.residue().await?;
    check!(left == residue, "before {residue:?}, after {left:?}");
    let kept = ensure(f, &stays.key, &stays.spec()?).await?;
    check!(plain(&kept) == stays.expected(), "the other service changed: {kept:?}");
    clear(f, "stays").await?;
    nothing_left(f).await
}
