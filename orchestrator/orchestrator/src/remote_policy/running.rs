//! What runs now: of each operation that is under way, the effects that have begun and are not over.
//!
//! Made from the fold, and from nothing else. A step counts from its `Started` (which is durable before the effect
//! begins) to its end; between two attempts it counts too, because a cloud works on after a call has timed out: nova
//! binds ports minutes after it was asked for a server. What is done, waits for its turn, or waits for a person does not
//! count.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dataplane_control::MacAddr;
use lcm::{NsRecord, Operation, Plan, Step, operation::StepState, plan::Action};
use vim::{Kind, ObjectKey, Spec};

/// What an effect does to its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Makes it be as specified: by creating, changing, or removing and creating it.
    Ensure,
    /// Makes it not be.
    Remove,
    /// Cuts its traffic.
    Isolate,
}

/// An effect that has begun and is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Where.
    pub site: String,
    /// The object.
    pub key: ObjectKey,
    /// Its kind.
    pub kind: Kind,
    /// What is done to it.
    pub effect: Effect,
}

/// An operation that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunningOperation {
    /// Operation; for a cleaning, `cleaning` and who asked for it.
    pub id: String,
    /// NS instance.
    pub ns_instance_id: String,
    /// What has begun and is not over.
    pub open: Vec<Open>,
    /// Every object of its plan: one of them that is not open is not to be touched.
    pub objects: BTreeSet<(String, ObjectKey)>,
    /// Sites where its MANO is at work now, with the MAC addresses of the connection points that it was told to make there, or makes
    /// anew or takes away.
    pub mano: BTreeMap<String, BTreeSet<MacAddr>>,
}

/// Everything that runs now.
#[derive(Debug, Clone, Default)]
pub struct Running {
    operations: BTreeMap<String, Arc<RunningOperation>>,
}

impl Running {
    /// Operations with something open.
    pub fn operations(&self) -> impl Iterator<Item = &RunningOperation> {
        self.operations.values().map(|o| &**o)
    }

    /// What an operation has open now instead of what it had.
    pub fn put(&mut self, id: &str, operation: Option<RunningOperation>) -> bool {
        match operation {
            Some(o) if self.operations.get(id).is_some_and(|known| **known == o) => false,
            Some(o) => {
                self.operations.insert(id.to_owned(), Arc::new(o));
                true
            }
            None => self.operations.remove(id).is_some(),
        }
    }
}

impl RunningOperation {
    /// What of it runs now; `None`: nothing.
    #[must_use]
    pub fn of(operation: &Operation) -> Option<Self> {
        if operation.outcome.is_some() {
            return None;
        }
        let plan = operation.plan.as_ref()?;
        let open: Vec<Open> = steps(plan).flat_map(|step| open(operation, plan, step)).collect();
        if open.is_empty() {
            return None;
        }
        let objects = steps(plan).filter_map(|s| {
            let key = ObjectKey::new(s.action.object()).ok()?;
            Some((plan.site_of(s).to_owned(), key))
        });
        Some(Self {
            id: operation.id.clone(),
            ns_instance_id: operation.grant.ns_instance_id.clone(),
            objects: objects.collect(),
            mano: at_work(operation, plan),
            open,
        })
    }
}

fn steps(plan: &Plan) -> impl Iterator<Item = &Step> {
    plan.steps.iter().chain(&plan.isolation)
}

fn open(operation: &Operation, plan: &Plan, step: &Step) -> Vec<Open> {
    let Some(action) = under_way(operation, step) else { return Vec::new() };
    let one = |key: &ObjectKey, kind, effect| {
        vec![Open { site: plan.site_of(step).to_owned(), key: key.clone(), kind, effect }]
    };
    match action {
        Action::Ensure { key, spec } => one(key, spec.kind(), Effect::Ensure),
        Action::Remove { key, kind } => one(key, *kind, Effect::Remove),
        Action::Isolate { key } => one(key, Kind::Compute, Effect::Isolate),
        // The MANO acts on the service's instances, each at its site.
        Action::Realize { .. } => instances(plan, Effect::Ensure, |_| true),
        Action::Rebuild { instances: named, .. } => {
            let again = instances(plan, Effect::Ensure, |key| named.contains(key));
            again.into_iter().chain(instances(plan, Effect::Remove, |key| named.contains(key))).collect()
        }
        Action::Dissolve { .. } => instances(plan, Effect::Remove, |_| true),
        // These ask the functions themselves, the MANO's catalogue, or nobody; a capture changes nothing in a cloud.
        Action::Attest { .. }
        | Action::Measure { .. }
        | Action::Announce { .. }
        | Action::Capture { .. }
        | Action::Onboard { .. }
        | Action::Offboard { .. } => Vec::new(),
    }
}

/// Where the MANO is at work, and on which connection points.
fn at_work(operation: &Operation, plan: &Plan) -> BTreeMap<String, BTreeSet<MacAddr>> {
    let mut under_way = steps(plan).filter_map(|step| under_way(operation, step));
    let of_mano =
        |a: &&Action| matches!(a, Action::Realize { .. } | Action::Rebuild { .. } | Action::Dissolve { .. });
    let mut out: BTreeMap<String, BTreeSet<MacAddr>> = BTreeMap::new();
    if under_way.find(of_mano).is_none() {
        return out;
    }
    for object in plan.before.iter().chain(&plan.after).flat_map(NsRecord::computes) {
        let Spec::Compute(compute) = &object.spec else { continue };
        out.entry(object.site.clone()).or_default().extend(compute.ports.iter().map(|p| p.mac));
    }
    out
}

/// What of a step is under way: itself, or its undo.
fn under_way<'a>(operation: &Operation, step: &'a Step) -> Option<&'a Action> {
    // On the way back a failed step is over until it is taken back; for a person nothing is under way.
    let (forward, waits) = (operation.state() == "PROCESSING", operation.state() == "FAILED_TEMP");
    match operation.step_state(step.id)? {
        StepState::Started => Some(&step.action),
        StepState::Failed(_) if forward => Some(&step.action),
        StepState::Undoing => step.undo.as_ref(),
        StepState::UndoFailed(_) if !waits => step.undo.as_ref(),
        _ => None,
    }
}

/// Instances of the service, before and after.
fn instances(plan: &Plan, effect: Effect, of: impl Fn(&ObjectKey) -> bool) -> Vec<Open> {
    let all = plan.before.iter().chain(&plan.after).flat_map(NsRecord::computes);
    let open = all.filter(|o| of(&o.key)).map(|o| Open {
        site: o.site.clone(),
        key: o.key.clone(),
        kind: Kind::Compute,
        effect,
    });
    open.collect()
}
