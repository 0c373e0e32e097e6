//! The planner: desired objects, the difference to what is there, and the order of the steps.
//!
//! Every operation is the same computation: the objects of the service before, the objects after, and the steps that
//! lead from one to the other: make what is new, replace what is broken, change what differs, attest, measure, remove
//! what is no longer wanted. Deployment starts from nothing, termination ends there; a migration is new objects at
//! another site and old ones that go when those are attested and measured; a rollback is an update to what was.
//!
//! [`topology`](self) resolves descriptors into objects, `platform` and `asked` say what they ask of a VIM, `siting` says
//! where members go, `steps` puts the difference in order. Pure: the same inputs give the same plan, byte for byte. Tests: `tests/planner.rs`, `tests/life.rs`.

mod asked;
mod fit;
mod mano;
mod platform;
mod siting;
mod steps;
mod topology;

use std::collections::{BTreeMap, BTreeSet};

use attestation::AkRecord;
use descriptors::{
    day0::Day0,
    model::{Nsd, Vnfd},
};
use ledger_contract::{
    Intent, IntentKind,
    intent::{Deploy, Heal, Isolate, Migrate, Scale, Sla, Target, VnfParams},
    records::{Grant, ResourceUse},
};
use trust::{Digest, UnixTime};
use vim::{Kind, ObjectKey};

use crate::{
    drift::Deviation,
    measure::FLOWS,
    placement::{Connection, NO_TEE, Problem, Site},
    plan::{MAX_STEPS, Plan},
    record::{NsRecord, Object},
};
pub use fit::reserve_functions;
pub use mano::Manager;
use siting::{Seats, Siting};
use steps::{Change, Kept, Removal, Steps};
use topology::Topology;

/// A VNF package as the planner reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VnfPackage {
    /// Digest of the package.
    pub digest: Digest,
    /// Its descriptor.
    pub vnfd: Vnfd,
    /// Day-0 documents by VDU id.
    pub day0: BTreeMap<String, Day0>,
    /// Digests of its images by `sw-image-desc` id.
    pub images: BTreeMap<String, Digest>,
}

/// The descriptors of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    /// The NSD.
    pub nsd: Nsd,
    /// Digest of its package.
    pub nsd_package: Digest,
    /// VNF packages by VNFD id.
    pub vnfs: BTreeMap<String, VnfPackage>,
}

/// The wide-area network that joins sites.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wan {
    /// Its name, as every site's VIM knows it.
    pub name: String,
    /// Which sites it connects.
    pub connections: Vec<Connection>,
    /// Segments in use by our other services, planned ones included ([`NsRecord::segments`]).
    pub taken: BTreeSet<u16>,
}

/// Everything a plan is computed from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Operation.
    pub operation_id: &'a str,
    /// The intent, as signed.
    pub intent: &'a Intent,
    /// What was granted.
    pub grant: &'a Grant,
    /// Descriptors of the service as it is to be; not needed to isolate or terminate.
    pub catalogue: Option<&'a Catalogue>,
    /// One observation of every site.
    pub sites: &'a [Site],
    /// What joins them; `None`: a service stays within a site.
    pub wan: Option<&'a Wan>,
    /// Who makes services at some of them; `None`: we do, everywhere.
    pub mano: Option<&'a Manager>,
    /// The service as it is; absent on deploy.
    pub before: Option<&'a NsRecord>,
    /// Sites that had no room after all, and why ([`crate::Command::Replan`]).
    pub without: &'a BTreeMap<String, String>,
    /// The last step id of a plan that this one supersedes; 0: there is none.
    pub last_id: u32,
    /// 32 random bytes, for the challenge's nonce.
    pub entropy: &'a Digest,
    /// Ledger time of the decision.
    pub at: UnixTime,
    /// What things cost where it is placed.
    pub prices: Prices,
}

impl Input<'_> {
    /// What the tenant may still use at sites that have a limit; none, when an emergency waived the limits.
    fn site_quotas(&self) -> impl Iterator<Item = (&String, &ResourceUse)> {
        let waived = self.grant.waived.iter().any(|rule| rule == "quota/sites");
        self.grant.site_quotas.iter().filter(move |_| !waived)
    }
}

/// Prices of the placement that the operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prices {
    /// Alpha, per mille: price of unused capacity.
    pub alpha_permille: u32,
    /// Penalty for each µs over the latency that the SLA promises; 0: it costs nothing.
    pub sla_penalty_per_us: u32,
}

/// Why there is no plan. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// `NO_SITE`, `UNOBSERVED`, `DESCRIPTOR`, `PARAMETERS`, `SCALE_LIMIT`, `NO_SUCH_SERVICE`, `NO_SUCH_INSTANCE`, `ISOLATED`,
    /// `MANO`, `PACKAGES`, `ATTESTATION_KEY`, `TEE`, `NO_SEGMENT`, `SITE_QUOTA`, `TOO_LARGE`.
    pub code: &'static str,
    /// What, where, and what to do.
    pub detail: String,
}

fn refuse<T>(code: &'static str, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, detail: detail.into() })
}

/// Instances by member and VDU.
type Counts = BTreeMap<String, BTreeMap<String, u32>>;
/// An object's site and key.
type Place = (String, ObjectKey);

/// Plans an operation.
pub fn plan(input: &Input<'_>) -> Result<Plan, Refusal> {
    let plan = match &input.intent.action {
        IntentKind::Deploy(deploy) => deployment(input, deploy)?,
        IntentKind::Scale(scale) => scaling(input, scale)?,
        IntentKind::Update(u) => {
            let sla = u.sla.as_ref();
            revision(input, &Revision { nsd_package: u.nsd_package, params: &u.vnf_params, sla })?
        }
        IntentKind::Rollback(r) => {
            revision(input, &Revision { nsd_package: r.nsd_package, params: &r.vnf_params, sla: None })?
        }
        IntentKind::Heal(heal) => healing(input, heal)?,
        IntentKind::Migrate(migrate) => migration(input, migrate)?,
        IntentKind::Isolate(isolate) => isolation(input, isolate)?,
        IntentKind::Terminate {} if input.before.is_none() => {
            let change = Change { extra: everything_of(input)?, ..Change::default() };
            Steps::new(input, None, None, None).build(&change)?
        }
        IntentKind::Terminate {} => {
            Steps::new(input, None, Some(existing(input)?), None).build(&Change::default())?
        }
    };
    within_quotas(input, &plan)?;
    if plan.steps.len() > MAX_STEPS {
        return refuse(
            "TOO_LARGE",
            format!("{} steps; at most {MAX_STEPS}: split the service", plan.steps.len()),
        );
    }
    Ok(plan)
}

/// No plan uses more at a site than the policy leaves the tenant there, wherever its members had to go.
fn within_quotas(input: &Input<'_>, plan: &Plan) -> Result<(), Refusal> {
    let Some(after) = &plan.after else { return Ok(()) };
    for (site, left) in input.site_quotas() {
        let more = used_at(after, site)
            .less(&plan.before.as_ref().map_or_else(Default::default, |b| used_at(b, site)));
        if left.max(&more) != *left {
            return refuse(
                "SITE_QUOTA",
                format!(
                    "it needs {more} more at site {site}; the tenant's quota there leaves {left}: name other sites, or ask for less"
                ),
            );
        }
    }
    Ok(())
}

/// What the instances of a service use at a site, as evidence counts it.
fn used_at(record: &NsRecord, site: &str) -> ResourceUse {
    let here = record.objects.iter().filter(|o| o.site == site);
    here.fold(ResourceUse::default(), |sum, o| match &o.spec {
        vim::Spec::Compute(c) => sum.plus(&ResourceUse {
            instances: 1,
            vcpus: c.vcpus,
            memory_mib: c.memory_mib,
            ..ResourceUse::default()
        }),
        _ => sum,
    })
}

/// The placement problem that an intent poses; `None`: it places nothing anew.
pub fn placement(input: &Input<'_>) -> Result<Option<Problem>, Refusal> {
    match &input.intent.action {
        IntentKind::Deploy(deploy) => {
            let topology = Topology::new(input, &deploy.vnf_params)?;
            let counts = topology.initial();
            let all = counts.keys().cloned().collect();
            Ok(Some(Siting::new(input, &topology, deploy).problem(&counts, None, &all)))
        }
        IntentKind::Migrate(migrate) => {
            let before = existing(input)?;
            let topology = Topology::new(input, &before.deploy.vnf_params)?;
            let now = Seats::of(&topology, before)?;
            let moving = movers(before, migrate)?;
            let asked = whither(before, migrate);
            let siting = Siting::new(input, &topology, &asked);
            Ok(Some(siting.problem(&before.instances, Some(&now), &moving)))
        }
        _ => Ok(None),
    }
}

fn deployment(input: &Input<'_>, deploy: &Deploy) -> Result<Plan, Refusal> {
    let topology = Topology::new(input, &deploy.vnf_params)?;
    let counts = topology.initial();
    let siting = Siting::new(input, &topology, deploy);
    let (seats, refused) = siting.everything(&counts)?;
    let after = NsRecord {
        id: input.grant.ns_instance_id.clone(),
        tenant: input.intent.tenant.clone(),
        service: input.intent.service.clone(),
        site: seats.main.clone(),
        nsd: topology.catalogue.nsd.id.clone(),
        packages: input.grant.packages.clone(),
        deploy: deploy.clone(),
        revision: input.intent.id.clone(),
        objects: topology.objects(&counts, &seats, None)?,
        leftovers: Vec::new(),
        instances: counts,
        aks: BTreeMap::new(),
        isolated: BTreeSet::new(),
        mano: None,
        told: BTreeMap::new(),
        flows: FLOWS,
    };
    let mut after = attested(input, after)?;
    after.mano = mano::manager(input, &after)?;
    Steps::new(input, Some((&topology, &seats)), None, Some(after))
        .refusing(refused)
        .build(&Change::default())
}

fn scaling(input: &Input<'_>, scale: &Scale) -> Result<Plan, Refusal> {
    let before = existing(input)?;
    let topology = Topology::new(input, &before.deploy.vnf_params)?;
    let seats = Seats::of(&topology, before)?;
    let counts = topology.scaled(&before.instances, scale)?;
    let mut after = before.tidied();
    after.objects = topology.objects(&counts, &seats, Some(before))?;
    after.instances = counts;
    after.flows = before.flows.saturating_add(2 * FLOWS);
    let after = attested(input, after)?;
    let kept = if steps::grows(before, &after) { Kept::Both } else { Kept::Baseline };
    let change = Change { kept, removal: Removal::Undoable, ..Change::default() };
    Steps::new(input, Some((&topology, &seats)), Some(before), Some(after)).build(&change)
}

/// What an update or a rollback makes of the service.
struct Revision<'a> {
    nsd_package: Digest,
    params: &'a BTreeMap<String, VnfParams>,
    sla: Option<&'a Sla>,
}

fn revision(input: &Input<'_>, to: &Revision<'_>) -> Result<Plan, Refusal> {
    let before = existing(input)?;
    let topology = Topology::new(input, to.params)?;
    if topology.catalogue.nsd.id != before.nsd {
        let (was, is) = (&before.nsd, &topology.catalogue.nsd.id);
        return refuse(
            "PARAMETERS",
            format!("the service is of NSD {was}, the package of {is}: deploy that as a service of its own"),
        );
    }
    let counts = topology.carried_over(&before.instances);
    let seats = Seats::of(&topology, before)?;
    let mut after = before.tidied();
    after.deploy.nsd_package = to.nsd_package;
    after.deploy.vnf_params = to.params.clone();
    if let Some(sla) = to.sla {
        after.deploy.sla = sla.clone();
    }
    after.revision.clone_from(&input.intent.id);
    after.packages.clone_from(&input.grant.packages);
    after.objects = topology.objects(&counts, &seats, Some(before))?;
    after.instances = counts;
    after.isolated.clear();
    after.flows = before.flows.saturating_add(2 * FLOWS);
    let after = attested(input, after)?;
    // Going back is what is done when something is wrong: what is not as it should be is replaced on the way.
    let mut replace = match &input.intent.action {
        IntentKind::Rollback(_) => deviations(input, before)?.wrong,
        _ => BTreeMap::new(),
    };
    replace.extend(before.isolated.iter().map(|p| (p.clone(), Some(Deviation::Cut))));
    replace.retain(|(site, key), _| after.spec(site, key).is_some());
    let kept =
        if replace.is_empty() && steps::flows_survive(before, &after) { Kept::Both } else { Kept::None };
    let change = Change { replace, kept, removal: Removal::Undoable, ..Change::default() };
    Steps::new(input, Some((&topology, &seats)), Some(before), Some(after)).build(&change)
}

fn healing(input: &Input<'_>, heal: &Heal) -> Result<Plan, Refusal> {
    let before = existing(input)?;
    let topology = Topology::new(input, &before.deploy.vnf_params)?;
    let seats = Seats::of(&topology, before)?;
    let found = deviations(input, before)?;
    let mut replace = found.wrong;
    if heal.targets.is_empty() && !before.isolated.is_empty() {
        // What was cut off for a reason comes back when somebody asks for it, never by itself.
        if input.intent.standing.is_some() {
            return refuse(
                "ISOLATED",
                "instances of the service are isolated: only a tenant's own intent heals them",
            );
        }
        replace.extend(before.isolated.iter().map(|p| (p.clone(), Some(Deviation::Cut))));
    }
    for target in &heal.targets {
        let object = instance(before, target)?;
        let place = (object.site.clone(), object.key.clone());
        let cut = before.is_isolated(object).then_some(Deviation::Cut);
        replace.entry(place).or_insert(cut);
    }
    let mut after = before.tidied();
    after.isolated.retain(|place| !replace.contains_key(place));
    after.flows = before.flows.saturating_add(FLOWS);
    let after = attested(input, after)?;
    let change = Change { replace, extra: found.extra, kept: Kept::Former, ..Change::default() };
    Steps::new(input, Some((&topology, &seats)), Some(before), Some(after)).build(&change)
}

fn migration(input: &Input<'_>, migrate: &Migrate) -> Result<Plan, Refusal> {
    let before = existing(input)?;
    if let Some(name) = &before.mano {
        return refuse(
            "MANO",
            format!(
                "{name} made the service and moves nothing to another VIM: deploy it there, then terminate it here"
            ),
        );
    }
    let topology = Topology::new(input, &before.deploy.vnf_params)?;
    let now = Seats::of(&topology, before)?;
    let moving = movers(before, migrate)?;
    let asked = whither(before, migrate);
    let siting = Siting::new(input, &topology, &asked);
    let (seats, refused) = siting.moving(&before.instances, &now, &moving)?;
    let mut after = before.tidied();
    if moving.len() == before.instances.len() {
        after.deploy.placement = asked.placement.clone();
    }
    after.site.clone_from(&seats.main);
    after.objects = topology.objects(&before.instances, &seats, Some(before))?;
    after.isolated.retain(|(site, key)| after.objects.iter().any(|o| o.is(site, key)));
    after.flows = before.flows.saturating_add(FLOWS);
    let after = attested(input, after)?;
    let change = Change { kept: Kept::Former, removal: Removal::ForGood, ..Change::default() };
    Steps::new(input, Some((&topology, &seats)), Some(before), Some(after)).refusing(refused).build(&change)
}

/// Where a migration may go. Who names neither a site nor a country does not mean to leave the countries that the
/// service was to stay in.
fn whither(before: &NsRecord, migrate: &Migrate) -> Deploy {
    let mut placement = migrate.placement.clone();
    if placement.sites.is_empty() && placement.jurisdictions.is_empty() {
        placement.jurisdictions.clone_from(&before.deploy.placement.jurisdictions);
    }
    Deploy { placement, ..before.deploy.clone() }
}

/// Which members a migration moves: those that it names, or all.
fn movers(before: &NsRecord, migrate: &Migrate) -> Result<BTreeSet<String>, Refusal> {
    let moving: BTreeSet<String> = match migrate.members.is_empty() {
        true => before.instances.keys().cloned().collect(),
        false => migrate.members.iter().cloned().collect(),
    };
    if let Some(stray) = moving.iter().find(|m| !before.instances.contains_key(*m)) {
        let known: Vec<_> = before.instances.keys().collect();
        return refuse("PARAMETERS", format!("no member `{stray}`; there are {known:?}"));
    }
    Ok(moving)
}

fn isolation(input: &Input<'_>, isolate: &Isolate) -> Result<Plan, Refusal> {
    let before = existing(input)?;
    let named: Vec<&Object> = match isolate.targets.is_empty() {
        true => before.computes().collect(),
        false => isolate.targets.iter().map(|t| instance(before, t)).collect::<Result<_, _>>()?,
    };
    let targets: BTreeSet<Place> = named.iter().map(|o| (o.site.clone(), o.key.clone())).collect();
    let mut after = before.clone();
    after.isolated.extend(targets.iter().cloned());
    Ok(Steps::new(input, None, Some(before), Some(after)).cut(&targets, isolate.capture_ms))
}

/// Everything of a service that is known by its keys alone: its deployment had not begun when it was to end.
fn everything_of(input: &Input<'_>) -> Result<Vec<(Place, Kind)>, Refusal> {
    let ns = &input.grant.ns_instance_id;
    let mut found = BTreeMap::new();
    for site in input.sites {
        if let Some(why) = &site.problem {
            return refuse("UNOBSERVED", format!("what stands at site {} cannot be seen: {why}", site.name));
        }
        let objects = site.inventory.objects.iter().map(|(key, o)| (key, o.kind()));
        let all = objects.chain(site.inventory.extra.iter().map(|s| (&s.key, s.kind)));
        let ours = all.filter(|(key, _)| key.service() == ns);
        found.extend(ours.map(|(key, kind)| ((site.name.clone(), key.clone()), kind)));
    }
    Ok(found.into_iter().collect())
}

fn existing<'a>(input: &Input<'a>) -> Result<&'a NsRecord, Refusal> {
    let id = &input.grant.ns_instance_id;
    match input.before {
        Some(record) if record.id == *id && record.tenant == input.intent.tenant => Ok(record),
        _ => {
            refuse("NO_SUCH_SERVICE", format!("service {id} is not instantiated here: see `mandate ns list`"))
        }
    }
}

fn instance<'a>(record: &'a NsRecord, target: &Target) -> Result<&'a Object, Refusal> {
    let Target { member, vdu, index } = target;
    let key = topology::object_key(&record.id, &[member, vdu, &index.to_string()])?;
    match record.computes().find(|o| o.key == key) {
        Some(object) => Ok(object),
        None => refuse(
            "NO_SUCH_INSTANCE",
            format!("the service has no instance {member}/{vdu}/{index}: see `mandate ns show`"),
        ),
    }
}

/// The record with the attestation keys that the grant names for its sites: a key may have been rotated or have expired
/// since the deployment.
fn attested(input: &Input<'_>, mut record: NsRecord) -> Result<NsRecord, Refusal> {
    let sites: BTreeSet<String> = record.computes().map(|o| o.site.clone()).collect();
    let shielded = |name: &String| input.sites.iter().any(|s| s.name == *name && s.tee.is_some());
    if let Some(site) = sites.iter().find(|s| input.grant.tee_required && !shielded(s)) {
        return refuse("TEE", format!("site {site}: {NO_TEE}"));
    }
    let asked = |name: &String| {
        let site = input.sites.iter().find(|s| s.name == *name);
        let mute = site.is_some_and(|s| s.problem.is_none() && !s.capabilities.functions);
        !mute && (input.before.is_some() || site.is_some_and(|s| s.capabilities.attestation))
    };
    let key = |site: &String| input.grant.attestation_keys.iter().find(|k| k.site == *site).cloned();
    record.aks = sites
        .iter()
        .filter(|s| asked(s))
        .filter_map(|s| key(s).map(|k| (s.clone(), k)))
        .collect::<BTreeMap<String, AkRecord>>();
    match sites.iter().find(|s| input.grant.attestation_required && !record.aks.contains_key(*s)) {
        None => Ok(record),
        Some(site) => refuse(
            "ATTESTATION_KEY",
            format!(
                "the service must be attested, and site {site} has no valid key: `mandate site enrol {site}`"
            ),
        ),
    }
}

/// What is not as it should be.
struct Deviations {
    wrong: BTreeMap<Place, Option<Deviation>>,
    extra: Vec<(Place, Kind)>,
}

/// Compares the record with what was observed. Nothing is concluded from a site that could not be asked.
fn deviations(input: &Input<'_>, before: &NsRecord) -> Result<Deviations, Refusal> {
    let desired = before.desired();
    let mut found = Deviations { wrong: BTreeMap::new(), extra: Vec::new() };
    for name in before.sites() {
        let site = match input.sites.iter().find(|s| s.name == name) {
            Some(site) if site.problem.is_none() => site,
            other => {
                let why =
                    other.and_then(|s| s.problem.clone()).unwrap_or_else(|| "it is not configured".into());
                return refuse("UNOBSERVED", format!("what stands at site {name} cannot be seen: {why}"));
            }
        };
        for d in desired.differences(name, &site.inventory) {
            let place = (d.site, d.key);
            match d.deviation {
                // What was cut off and is not any more is to be cut again, not to come back.
                Deviation::NotCut => {}
                // A part that goes by the key of something wanted can only go together with it.
                Deviation::Extra if before.spec(&place.0, &place.1).is_some() => {
                    if d.kind == Kind::Compute {
                        found.wrong.entry(place).or_insert(Some(Deviation::ImageChanged));
                    }
                }
                Deviation::Extra => found.extra.push((place, d.kind)),
                deviation => {
                    found.wrong.insert(place, Some(deviation));
                }
            }
        }
    }
    found.wrong.extend(unplugged(before, &found.wrong));
    Ok(found)
}

/// Instances on a link that is gone: whatever they say, they hang in the air.
fn unplugged(
    before: &NsRecord,
    wrong: &BTreeMap<Place, Option<Deviation>>,
) -> BTreeMap<Place, Option<Deviation>> {
    let gone = |site: &str, link: &ObjectKey| {
        wrong.get(&(site.to_owned(), link.clone())) == Some(&Some(Deviation::Missing))
    };
    let hangs = |o: &&Object| match &o.spec {
        vim::Spec::Compute(c) => c.ports.iter().any(|p| gone(&o.site, &p.network)) && !before.is_isolated(o),
        _ => false,
    };
    let places = before.computes().filter(hangs).map(|o| (o.site.clone(), o.key.clone()));
    places.filter(|p| !wrong.contains_key(p)).map(|p| (p, Some(Deviation::Down))).collect()
}
