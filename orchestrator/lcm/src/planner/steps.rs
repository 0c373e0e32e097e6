//! The steps: the difference between two records, in an order in which nothing is built on what is not proven.

mod managed;

use std::collections::{BTreeMap, BTreeSet};

use attestation::{AkRecord, ReferenceValues, Workload};
use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{Backend, LoadBalancer},
};
use ledger_contract::evidence::challenge_nonce;
use vim::{CaptureSpec, ComputeSpec, Kind, ObjectKey, PortSpec, Spec};

use super::{
    Input, Place, Refusal, refuse,
    siting::Seats,
    topology::{Topology, configuration_of, generation_of, text},
};
use crate::{
    drift::Deviation,
    measure::{FLOWS, FLOWS_PER_ADDRESS, Offer},
    plan::{Action, Plan, Step, workload},
    record::{NsRecord, Object},
};

/// Bytes of each captured frame that are kept: headers, and a look at what follows.
const SNAP_BYTES: u32 = 256;
/// Most bytes of a capture.
const MAX_CAPTURE_BYTES: u64 = 16 << 20;

/// What kind of difference this is.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Objects that are to be made anew although their record stays the same, and what is wrong with them; `None`:
    /// nothing is, they were named.
    pub(super) replace: BTreeMap<Place, Option<Deviation>>,
    /// Objects that nobody asked for.
    pub(super) extra: Vec<(Place, Kind)>,
    /// What becomes of flows that began before.
    pub(super) kept: Kept,
    /// How what is no longer wanted goes.
    pub(super) removal: Removal,
}

/// What is measured of flows that began before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kept {
    /// New ones only.
    #[default]
    None,
    /// Flows are begun before the change; it need not keep them.
    Baseline,
    /// Flows are begun before the change, and must go on as they were.
    Both,
    /// Flows of the former operation's measurement must go where they went.
    Former,
}

/// How objects that are no longer wanted go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Removal {
    /// For good: it is tried until it works.
    #[default]
    ForGood,
    /// They come back when the operation unwinds.
    Undoable,
}

/// Builds the steps of one plan.
pub(super) struct Steps<'a> {
    input: &'a Input<'a>,
    topology: Option<(&'a Topology<'a>, &'a Seats)>,
    before: Option<&'a NsRecord>,
    after: Option<NsRecord>,
    refused: Vec<(String, String)>,
    main: String,
    steps: Vec<Step>,
    /// Step that makes an object.
    made: BTreeMap<Place, u32>,
    /// The steps that attest the service as it was: nothing is built on what cannot prove itself.
    gate: Vec<u32>,
    /// The step by which a MANO makes the instances that come after it.
    realized: Option<u32>,
    unmeasured: Option<String>,
}

impl<'a> Steps<'a> {
    pub(super) fn new(
        input: &'a Input<'a>,
        topology: Option<(&'a Topology<'a>, &'a Seats)>,
        before: Option<&'a NsRecord>,
        after: Option<NsRecord>,
    ) -> Self {
        let main = after.as_ref().or(before).map(|r| r.site.clone()).unwrap_or_default();
        Self {
            input,
            topology,
            before,
            after,
            refused: Vec::new(),
            main,
            steps: Vec::new(),
            made: BTreeMap::new(),
            gate: Vec::new(),
            realized: None,
            unmeasured: None,
        }
    }

    pub(super) fn refusing(mut self, refused: Vec<(String, String)>) -> Self {
        self.refused = refused;
        self
    }

    pub(super) fn build(mut self, change: &Change) -> Result<Plan, Refusal> {
        if self.after.is_some() {
            self.grow(change)?;
        }
        self.shrink(change);
        let isolation = self.isolation();
        Ok(self.plan(isolation))
    }

    /// Captures and cuts, and nothing else.
    pub(super) fn cut(mut self, targets: &BTreeSet<Place>, capture_ms: u32) -> Plan {
        for (site, key) in targets {
            let mut needs = Vec::new();
            if capture_ms > 0 {
                let spec = CaptureSpec {
                    duration_ms: capture_ms,
                    snap_bytes: SNAP_BYTES,
                    max_bytes: MAX_CAPTURE_BYTES,
                };
                let action = Action::Capture { key: key.clone(), spec };
                needs.push(self.push(site, Vec::new(), format!("capture {}", short(key)), action, None));
            }
            let action = Action::Isolate { key: key.clone() };
            self.push(site, needs, format!("isolate {}", short(key)), action, None);
        }
        self.plan(Vec::new())
    }

    fn plan(self, isolation: Vec<Step>) -> Plan {
        Plan {
            operation_id: self.input.operation_id.to_owned(),
            intent_id: self.input.intent.id.clone(),
            ns_instance_id: self.input.grant.ns_instance_id.clone(),
            action: self.input.intent.action.name().to_owned(),
            site: self.main,
            refused: self.refused,
            steps: self.steps,
            isolation,
            before: self.before.cloned(),
            mano: self.after.as_ref().or(self.before).and_then(|r| r.mano.clone()),
            after: self.after,
            unmeasured: self.unmeasured,
        }
    }

    fn push(
        &mut self,
        site: &str,
        mut needs: Vec<u32>,
        what: String,
        action: Action,
        undo: Option<Action>,
    ) -> u32 {
        if needs.is_empty() {
            needs.clone_from(&self.gate);
        }
        needs.sort_unstable();
        needs.dedup();
        let id = self.next_id();
        let site = if site == self.main { String::new() } else { site.to_owned() };
        self.steps.push(Step { id, site, needs, what, action, undo });
        id
    }

    fn next_id(&self) -> u32 {
        let made = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.input.last_id.saturating_add(made).saturating_add(1)
    }

    fn was(&self, object: &Object) -> Option<&'a Spec> {
        self.before.and_then(|b| b.spec(&object.site, &object.key))
    }

    /// What is new, replaced and changed, then attestation and measurement.
    fn grow(&mut self, change: &Change) -> Result<(), Refusal> {
        let Some(after) = self.after.clone() else { return Ok(()) };
        self.attest_before(&after, change)?;
        let replaced = |o: &Object| change.replace.contains_key(&(o.site.clone(), o.key.clone()));
        let differs = |o: &&Object| !replaced(o) && self.was(o) != Some(&o.spec);
        let (new, changed): (Vec<&Object>, Vec<&Object>) =
            after.objects.iter().filter(differs).partition(|o| self.was(o).is_none());
        // A link that is to span sites must do so before anything is plugged into its new end.
        let (links, changed): (Vec<&Object>, Vec<&Object>) =
            changed.into_iter().partition(|o| o.spec.kind() != Kind::Compute);
        for object in links {
            let undo = self.was(object).map(|old| ensure(&object.key, old));
            self.alter("reconfigure", object, &object.spec, Vec::new(), undo);
        }
        self.changeable(&after, &changed)?;
        let (new, computes): (Vec<&Object>, Vec<&Object>) =
            new.into_iter().partition(|o| o.spec.kind() != Kind::Compute);
        for object in new {
            self.make(object);
        }
        self.realize(&after)?;
        for object in computes {
            self.make(object);
        }
        self.replace(&after, change);
        let probe = self.probe(&after)?;
        let baseline = self.baseline(&after, probe.as_ref(), change);
        let fresh: Vec<u32> = self.made.values().copied().chain(baseline).collect();
        self.change(&after, &changed, &fresh);
        let ready: Vec<u32> = self.made.values().copied().collect();
        let attested = self.attest_after(&after, probe.as_ref(), &ready)?;
        if let Some(p) = &probe {
            let sets = self.flow_sets(&after, change.kept);
            let needs = if attested.is_empty() { ready } else { attested };
            let measured = self.measure("measure", p, &after, &sets, needs);
            let action = Action::Remove { key: p.object.key.clone(), kind: Kind::Compute };
            self.push(&p.object.site, vec![measured], "stop the probe".into(), action, None);
        }
        self.announce(&after);
        Ok(())
    }

    /// The service as it was, site by site: but for what is to be replaced, and for what the service leaves behind.
    fn attest_before(&mut self, after: &NsRecord, change: &Change) -> Result<(), Refusal> {
        let Some(before) = self.before else { return Ok(()) };
        let mut gate = Vec::new();
        for (site, ak) in &after.aks {
            let stays = |key: &str| {
                let here = |o: &&Object| o.site == *site && o.key.as_str() == key;
                let object = before.computes().find(here);
                let left = change.removal == Removal::ForGood
                    && object.is_some_and(|o| after.spec(site, &o.key).is_none());
                let place = object.map(|o| (o.site.clone(), o.key.clone()));
                !left && place.is_some_and(|p| !change.replace.contains_key(&p))
            };
            let workloads: BTreeMap<_, _> =
                before.workloads(site).into_iter().filter(|(k, _)| stays(k)).collect();
            if !workloads.is_empty() {
                let reference = self.reference(ak, workloads);
                gate.push(self.attest("attest (as it was)", site, reference, Vec::new()));
            }
        }
        self.gate = gate;
        Ok(())
    }

    fn reference(&self, ak: &AkRecord, workloads: BTreeMap<String, Workload>) -> ReferenceValues {
        ReferenceValues { ak: ak.clone(), workloads, tee: self.input.grant.tee_required }
    }

    fn attest_after(
        &mut self,
        after: &NsRecord,
        probe: Option<&Probe>,
        needs: &[u32],
    ) -> Result<Vec<u32>, Refusal> {
        let mut attested = Vec::new();
        for (site, ak) in &after.aks {
            let mut workloads = after.workloads(site);
            if let Some(p) = probe.filter(|p| p.object.site == *site) {
                workloads.extend(workload(&p.object.spec).map(|w| (p.object.key.to_string(), w)));
            }
            let granted = &self.input.grant.images;
            if let Some((instance, w)) = workloads.iter().find(|(_, w)| !granted.contains(&w.image)) {
                return refuse(
                    "PACKAGES",
                    format!("{instance} would run image {}, which was not granted", w.image),
                );
            }
            if !workloads.is_empty() {
                let reference = self.reference(ak, workloads);
                attested.push(self.attest("attest", site, reference, needs.to_vec()));
            }
        }
        Ok(attested)
    }

    fn attest(&mut self, what: &str, site: &str, reference: ReferenceValues, needs: Vec<u32>) -> u32 {
        let entropy = *self.input.entropy;
        let nonce = challenge_nonce(&entropy, self.input.operation_id, self.next_id(), &reference);
        let what = if site == self.main { what.to_owned() } else { format!("{what} at {site}") };
        let action = Action::Attest { reference: Box::new(reference), entropy, nonce };
        self.push(site, needs, what, action, None)
    }

    fn make(&mut self, object: &Object) -> u32 {
        let verb = match object.spec {
            Spec::Image(_) => "store image",
            Spec::Network(_) => "make link",
            Spec::Compute(_) => "start",
        };
        let undo = Action::Remove { key: object.key.clone(), kind: object.spec.kind() };
        let needs = self.needs_of(object);
        self.alter(verb, object, &object.spec, needs, Some(undo))
    }

    fn alter(
        &mut self,
        verb: &str,
        object: &Object,
        spec: &Spec,
        needs: Vec<u32>,
        undo: Option<Action>,
    ) -> u32 {
        let what = self.words(verb, object);
        let id = self.push(&object.site, needs, what, ensure(&object.key, spec), undo);
        self.made.insert((object.site.clone(), object.key.clone()), id);
        id
    }

    fn words(&self, verb: &str, object: &Object) -> String {
        let short = short(&object.key);
        if object.site == self.main {
            format!("{verb} {short}")
        } else {
            format!("{verb} {short} at {}", object.site)
        }
    }

    /// A compute needs its image and its links at its site, as far as this plan makes them.
    fn needs_of(&self, object: &Object) -> Vec<u32> {
        let Spec::Compute(c) = &object.spec else { return Vec::new() };
        let here = |o: &&Object| o.site == object.site;
        let image = self.after.iter().flat_map(|a| &a.objects).filter(here).find_map(|o| match &o.spec {
            Spec::Image(i) if i.digest == c.image => Some(&o.key),
            _ => None,
        });
        let objects = image.into_iter().chain(c.ports.iter().map(|p| &p.network));
        let made = objects.filter_map(|k| self.made.get(&(object.site.clone(), k.clone()))).copied();
        made.chain(self.realized).collect()
    }

    /// What is broken, or named: images and links are made good; an instance goes, and comes back as it should be. Those
    /// that still serve go one after the other.
    fn replace(&mut self, after: &NsRecord, change: &Change) {
        let mut serving: BTreeMap<Place, u32> = BTreeMap::new();
        self.rebuild(after, change);
        for object in &after.objects {
            if self.is_managed() && object.spec.kind() == Kind::Compute {
                continue;
            }
            let place = (object.site.clone(), object.key.clone());
            let Some(deviation) = change.replace.get(&place) else { continue };
            let kind = object.spec.kind();
            let gone = Action::Remove { key: object.key.clone(), kind };
            if kind != Kind::Compute || *deviation == Some(Deviation::Missing) {
                // What was not there goes again when this unwinds; what was broken is left mended.
                let undo = match deviation {
                    Some(Deviation::Missing) => Some(gone),
                    _ => Some(ensure(&object.key, &object.spec)),
                };
                let needs = self.needs_of(object);
                self.alter("restore", object, &object.spec, needs, undo);
                continue;
            }
            // What ran as it should is restored when this unwinds; what did not is nothing to go back to.
            let back = deviation.is_none().then(|| self.was(object)).flatten();
            let undo = back.map(|old| ensure(&object.key, old));
            let family = (object.site.clone(), family(&object.key));
            let mut needs = self.needs_of(object);
            needs.extend(self.gate.iter().copied());
            if deviation.is_none() {
                needs.extend(serving.get(&family));
            }
            let removed = self.push(&object.site, needs, self.words("remove", object), gone.clone(), undo);
            let id = self.alter("start", object, &object.spec, vec![removed], Some(gone));
            if deviation.is_none() {
                serving.insert(family, id);
            }
        }
    }

    /// What differs: in its configuration only, in place; in more, by a new instance, behind a balancer that does not
    /// send anything there meanwhile.
    fn change(&mut self, after: &NsRecord, changed: &[&Object], needs: &[u32]) {
        let pool = self.pool(after, changed);
        let in_pool = |o: &Object| pool.as_ref().is_some_and(|p| p.contains(o));
        let (others, replaced): (Vec<&Object>, Vec<&Object>) = match &pool {
            None => (changed.to_vec(), Vec::new()),
            Some(_) => changed.iter().copied().partition(|o| !in_pool(o)),
        };
        if let Some(pool) = pool {
            self.roll(after, &pool, &replaced, needs);
        }
        let mut former: BTreeMap<Place, u32> = BTreeMap::new();
        for object in others {
            let mut needs = needs.to_vec();
            needs.extend(self.needs_of(object));
            let Some(old) = self.was(object) else { continue };
            let anew = !in_place(old, &object.spec);
            let family = (object.site.clone(), family(&object.key));
            if anew {
                needs.extend(former.get(&family));
            }
            let undo = ensure(&object.key, &restored(old, &object.spec, 1));
            let verb = if anew { "replace" } else { "reconfigure" };
            let id = self.alter(verb, object, &object.spec, needs, Some(undo));
            if anew {
                former.insert(family, id);
            }
        }
    }

    /// A balancer whose backends get new instances while it goes on serving: when there is more than one of them.
    fn pool<'o>(&self, after: &'o NsRecord, changed: &[&Object]) -> Option<Pool<'o>> {
        let (object, balancer) = balancer(after)?;
        // A guest that cannot be told which backends to leave out would be booted anew for each of them.
        if self.is_mute(&object.site) {
            return None;
        }
        let pool = Pool { balancer: object, backends: balancer.backends };
        let old = self.was(object)?;
        let anew = |o: &&&Object| pool.serves(o) && self.was(o).is_some_and(|w| !in_place(w, &o.spec));
        let rolls = pool.backends.len() > 1
            && changed.iter().filter(anew).count() > 0
            && configuration_of(old).is_some_and(|c| matches!(c.function, Function::LoadBalancer(_)));
        rolls.then_some(pool)
    }

    /// For each backend: the balancer leaves it out, it is replaced; at the end the balancer is as it should be.
    fn roll(&mut self, after: &NsRecord, pool: &Pool<'_>, replaced: &[&Object], needs: &[u32]) {
        let Some(old) = self.was(pool.balancer) else { return };
        let backends: Vec<&Object> = replaced.iter().copied().filter(|o| pool.serves(o)).collect();
        let Some(generation) = generation_of(old) else { return };
        let count = u64::try_from(backends.len()).unwrap_or(u64::MAX);
        // Whatever the balancer runs when this unwinds, what it goes back to is newer.
        let newest = generation.saturating_add(count).saturating_add(1);
        let key = &pool.balancer.key;
        let undo = |content: &Spec, back: u64| {
            let generation = newest.saturating_add(count).saturating_add(1).saturating_sub(back);
            Some(ensure(key, &with_generation(content, generation)))
        };
        let (mut content, mut last) = (old.clone(), needs.to_vec());
        for (index, backend) in (0_u64..).zip(&backends) {
            let without = pool.without(old, backend, generation.saturating_add(index).saturating_add(1));
            let what = format!("drain {}", short(&backend.key));
            let action = ensure(key, &without);
            let drained = self.push(&pool.balancer.site, last, what, action, undo(&content, index));
            let was = self.was(backend).map(|w| ensure(&backend.key, &restored(w, &backend.spec, 1)));
            let mut needs = vec![drained];
            needs.extend(self.needs_of(backend));
            last = vec![self.alter("replace", backend, &backend.spec, needs, was)];
            content = without;
        }
        let end = with_generation(&pool.balancer.spec, newest);
        let verb = if in_place(old, &end) { "reconfigure" } else { "replace" };
        last.extend(self.needs_of(pool.balancer));
        self.alter(verb, pool.balancer, &end, last, undo(&content, count));
        if let Some(a) = &mut self.after {
            a.put(&pool.balancer.site, key.clone(), end);
        }
        debug_assert_eq!(after.computes().count(), self.after.iter().flat_map(NsRecord::computes).count());
    }

    fn probe(&mut self, after: &NsRecord) -> Result<Option<Probe>, Refusal> {
        let Some((topology, seats)) = self.topology else { return Ok(None) };
        let Some(object) = topology.probe_object(seats)? else { return Ok(None) };
        let mute = after.computes().map(|o| o.site.as_str()).find(|s| self.is_mute(s));
        if let Some(mute) = mute {
            self.unmeasured = Some(format!(
                "the functions at site {mute} cannot be asked: its VIM runs guests of their own"
            ));
            return Ok(None);
        }
        let step = self.make(&object);
        Ok(Some(Probe { object, step }))
    }

    /// Does the site run guests that cannot be asked anything? Of a site that does not answer, nothing is concluded.
    fn is_mute(&self, site: &str) -> bool {
        let found = self.input.sites.iter().find(|s| s.name == site);
        found.is_some_and(|s| s.problem.is_none() && !s.capabilities.functions)
    }

    /// Flows that begin before anything changes.
    fn baseline(&mut self, after: &NsRecord, probe: Option<&Probe>, change: &Change) -> Option<u32> {
        let (probe, before) = (probe?, self.before?);
        if !matches!(change.kept, Kept::Baseline | Kept::Both) {
            return None;
        }
        let sets = [(flow(before.flows), before.backends())];
        Some(self.measure("measure (baseline)", probe, after, &sets, vec![probe.step]))
    }

    /// What is sent at the end: sets of flows, each with the backends at its beginning.
    fn flow_sets(&self, after: &NsRecord, kept: Kept) -> Vec<(u32, Vec<Backend>)> {
        let Some(before) = self.before else { return vec![(0, after.backends())] };
        let new = match kept {
            Kept::Baseline | Kept::Both => before.flows.saturating_add(FLOWS),
            Kept::None | Kept::Former => before.flows,
        };
        let new = (flow(new), self.after.as_ref().unwrap_or(after).backends());
        match kept {
            // Flows that began before keep their backends; new ones follow the new table.
            Kept::Both => vec![(flow(before.flows), before.backends()), new],
            Kept::Former if before.flows >= FLOWS => {
                vec![(flow(before.flows.saturating_sub(FLOWS)), after.backends()), new]
            }
            _ => vec![new],
        }
    }

    /// A balancer that stands at another site as well, on a link that both share: its clients know the former one's MAC.
    fn moved<'o>(&self, after: &'o NsRecord) -> Option<&'o Object> {
        let before = self.before?;
        let (balancer, _) = balancer(after)?;
        let elsewhere = |o: &&Object| o.key == balancer.key && o.site != balancer.site;
        before.computes().find(elsewhere)?;
        let Spec::Compute(compute) = &balancer.spec else { return None };
        let spans = |p: &PortSpec| {
            let link = after.spec(&balancer.site, &p.network);
            matches!(link, Some(Spec::Network(n)) if n.interconnect.is_some())
        };
        let stood = before.spec(&balancer.site, &balancer.key).is_some();
        (!stood && compute.ports.iter().any(spans)).then_some(balancer)
    }

    /// When everything is proven, and before anything goes away.
    fn announce(&mut self, after: &NsRecord) {
        let Some(balancer) = self.moved(after) else { return };
        let needs = self.steps.last().map(|s| s.id).into_iter().collect();
        let (what, key) = (self.words("announce", balancer), balancer.key.clone());
        self.push(&balancer.site, needs, what, Action::Announce { key }, None);
    }

    fn measure(
        &mut self,
        what: &str,
        probe: &Probe,
        after: &NsRecord,
        sets: &[(u32, Vec<Backend>)],
        needs: Vec<u32>,
    ) -> u32 {
        let params =
            self.topology.map(|(t, _)| (t.firewall_params(), t.probe().map(|p| t.params(p.balancer))));
        let (firewall, balancer) = params.unwrap_or((None, None));
        let offer = Offer {
            rules: firewall.map(|p| p.rules.as_slice()),
            vips: balancer.map(|p| p.vips.as_slice()).unwrap_or_default(),
            sla: &after.deploy.sla,
        };
        let mut profile = Box::new(offer.profile(sets));
        // Two of them answer who has its addresses: what is measured is the new one.
        profile.next_hop = self.moved(after).and_then(|o| client_mac(&o.spec));
        let sla = after.deploy.sla.clone();
        let action = Action::Measure { probe: probe.object.key.clone(), profile, sla };
        self.push(&probe.object.site, needs, what.into(), action, None)
    }

    /// Objects that are no longer wanted, or never were: computes first, then links, then images.
    fn shrink(&mut self, change: &Change) {
        let kept = |o: &Object| self.after.as_ref().is_some_and(|a| a.spec(&o.site, &o.key).is_some());
        let before = self.before.map(|b| b.objects.as_slice()).unwrap_or_default();
        let gone: Vec<&Object> = before.iter().filter(|o| !kept(o)).collect();
        let undoable = self.after.is_some() && change.removal == Removal::Undoable;
        let mut needs: Vec<u32> = self.steps.last().map(|s| s.id).into_iter().collect();
        needs.extend(self.dissolve());
        for kind in [Kind::Compute, Kind::Network, Kind::Image] {
            let mut stage = Vec::new();
            for object in gone.iter().rev().filter(|o| o.spec.kind() == kind) {
                let undo = undoable.then(|| ensure(&object.key, &object.spec));
                let action = Action::Remove { key: object.key.clone(), kind };
                let what = self.words("remove", object);
                stage.push(self.push(&object.site, needs.clone(), what, action, undo));
            }
            for (site, key) in self.unwanted(change, kind) {
                let what = format!("remove stray {}", short(&key));
                let action = Action::Remove { key, kind };
                stage.push(self.push(&site, needs.clone(), what, action, None));
            }
            if !stage.is_empty() {
                needs = stage;
            }
        }
        self.offboard(needs);
    }

    /// What nobody wants and the steps so far do not remove: what an operation left, and what was found.
    fn unwanted(&self, change: &Change, kind: Kind) -> BTreeSet<Place> {
        let goes = |(site, key): &Place| {
            self.steps.iter().any(|s| {
                let here = if s.site.is_empty() { &self.main } else { &s.site };
                here == site && matches!(&s.action, Action::Remove { key: k, .. } if k == key)
            })
        };
        let left = self.before.into_iter().flat_map(|b| &b.leftovers);
        let left = left.filter(|o| o.spec.kind() == kind).map(|o| (o.site.clone(), o.key.clone()));
        let found = change.extra.iter().filter(|(_, k)| *k == kind).map(|(place, _)| place.clone());
        left.chain(found).filter(|place| !goes(place)).collect()
    }

    fn isolation(&self) -> Vec<Step> {
        if !self.steps.iter().any(|s| matches!(s.action, Action::Attest { .. })) {
            return Vec::new();
        }
        // What is to be removed stands as long as attestation has not passed.
        let all = self.before.into_iter().chain(&self.after).flat_map(NsRecord::computes);
        let computes: BTreeSet<(&str, &ObjectKey)> = all.map(Object::place).collect();
        let mut next = self.next_id();
        let mut steps = Vec::new();
        let mut push = |site: &str, what: String, action: Action| {
            let site = if site == self.main { String::new() } else { site.to_owned() };
            steps.push(Step { id: next, site, needs: Vec::new(), what, action, undo: None });
            next = next.saturating_add(1);
        };
        for (site, key) in computes {
            push(site, format!("isolate {}", short(key)), Action::Isolate { key: key.clone() });
        }
        let measures = self.steps.iter().find_map(|s| match &s.action {
            Action::Measure { probe, .. } => Some((s, probe)),
            _ => None,
        });
        if let Some((step, probe)) = measures {
            let action = Action::Remove { key: probe.clone(), kind: Kind::Compute };
            let site = if step.site.is_empty() { &self.main } else { &step.site };
            push(site, "stop the probe".into(), action);
        }
        steps
    }
}

struct Probe {
    object: Object,
    step: u32,
}

/// A balancer and the backends that it is to have.
struct Pool<'o> {
    balancer: &'o Object,
    backends: Vec<Backend>,
}

impl Pool<'_> {
    fn serves(&self, object: &Object) -> bool {
        object.site == self.balancer.site && self.backends.iter().any(|b| b.id == object.key.as_str())
    }

    fn contains(&self, object: &Object) -> bool {
        self.serves(object) || object.is(&self.balancer.site, &self.balancer.key)
    }

    /// The balancer as it was, with its backends but this one.
    fn without(&self, old: &Spec, backend: &Object, generation: u64) -> Spec {
        edited(old, |c| {
            c.generation = generation;
            if let Function::LoadBalancer(l) = &mut c.function {
                l.backends = self.backends.iter().filter(|b| b.id != backend.key.as_str()).cloned().collect();
            }
        })
    }
}

fn ensure(key: &ObjectKey, spec: &Spec) -> Action {
    Action::Ensure { key: key.clone(), spec: Box::new(spec.clone()) }
}

/// Does it differ in its configuration only? Then the data plane takes it in place.
fn in_place(old: &Spec, new: &Spec) -> bool {
    match (old, new) {
        (Spec::Compute(o), Spec::Compute(n)) => {
            let shape = |c: &ComputeSpec| ComputeSpec { configuration: String::new(), ..c.clone() };
            shape(o) == shape(n)
        }
        _ => true,
    }
}

/// Index of the first flow of a set: within the ports of one source address, which a rule may be limited to. By the
/// time they come round again, 128 scalings later, the balancer has forgotten the first ones.
fn flow(used: u32) -> u32 {
    used % FLOWS_PER_ADDRESS
}

/// Does every backend stay as it is?
pub(super) fn grows(before: &NsRecord, after: &NsRecord) -> bool {
    let now = after.backends();
    before.backends().iter().all(|b| now.contains(b))
}

/// Do flows that began before go on as they did? When every function that sees them stays, and what it is told about
/// them: its rules, its services.
pub(super) fn flows_survive(before: &NsRecord, after: &NsRecord) -> bool {
    let same = |o: &Object| {
        let Some(old) = before.spec(&o.site, &o.key) else { return true };
        let (Some(was), Some(is)) = (configuration_of(old), configuration_of(&o.spec)) else { return true };
        in_place(old, &o.spec)
            && match (was.function, is.function) {
                (Function::LoadBalancer(a), Function::LoadBalancer(b)) => a.vips == b.vips,
                (Function::Firewall(a), Function::Firewall(b)) => a == b,
                _ => true,
            }
    };
    grows(before, after) && after.computes().all(same)
}

/// The service's balancer, if it has one.
fn balancer(record: &NsRecord) -> Option<(&Object, LoadBalancer)> {
    record.computes().find_map(|o| match configuration_of(&o.spec)?.function {
        Function::LoadBalancer(l) => Some((o, l)),
        _ => None,
    })
}

/// The MAC that a balancer has towards its clients.
fn client_mac(spec: &Spec) -> Option<MacAddr> {
    let configuration = configuration_of(spec)?;
    let Function::LoadBalancer(l) = configuration.function else { return None };
    configuration.ports.iter().find(|p| p.name == l.client).map(|p| p.mac)
}

/// The VDU of an instance: its key without the number.
fn family(key: &ObjectKey) -> ObjectKey {
    let parent = key.as_str().rsplit_once('/').map_or(key.as_str(), |(parent, _)| parent);
    ObjectKey::new(parent).unwrap_or_else(|_| key.clone())
}

/// A key without its service, for people.
fn short(key: &ObjectKey) -> &str {
    key.as_str().split_once('/').map_or(key.as_str(), |(_, rest)| rest)
}

/// The old spec as an undo: its configuration under a generation above the new one's, because a data plane never
/// goes back to an older generation.
fn restored(old: &Spec, new: &Spec, above: u64) -> Spec {
    match generation_of(new) {
        Some(generation) => with_generation(old, generation.saturating_add(above)),
        None => old.clone(),
    }
}

fn with_generation(spec: &Spec, generation: u64) -> Spec {
    edited(spec, |c| c.generation = generation)
}

/// A compute with its configuration edited; anything else as it is.
fn edited(spec: &Spec, edit: impl FnOnce(&mut Configuration)) -> Spec {
    match (spec, configuration_of(spec)) {
        (Spec::Compute(c), Some(mut configuration)) => {
            edit(&mut configuration);
            Spec::Compute(ComputeSpec { configuration: text(&configuration), ..c.clone() })
        }
        _ => spec.clone(),
    }
}
