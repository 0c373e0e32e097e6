//! Deciding an anchor: evidence of an operation comes back, and what it says changes the service and its tenant's usage.
//!
//! | operation | COMPLETED | ROLLED_BACK | FAILED |
//! |---|---|---|---|
//! | deploy | service active | service gone, all given back | service broken, keeps what was reserved |
//! | scale out | stays reserved | increment given back | service broken, keeps the increment too |
//! | scale in | decrement given back | nothing changes | service broken, nothing given back |
//! | update, rollback | the next revision is the present one, what it does not need is given back | increment given back | service broken, keeps the larger of both |
//! | heal | service active | state as before | service broken |
//! | migrate | increment given back | increment given back | service broken, keeps both |
//! | isolate | service isolated | state as before | service broken |
//! | terminate | service gone, all given back | nothing changes | nothing changes; a new intent may try again |
//!
//! Only an operation that was rolled back says that nothing of it is left. After a failed one processes may still run,
//! so the service keeps its reservation (the larger one), and takes nothing but a heal, an isolate or a terminate. The
//! same holds for a service that was isolated (its traffic cut, its instances kept). An operation of any kind may end
//! with the service isolated, when its attestation failed: then it is not COMPLETED, but for an isolate.
//!
//! An isolation or a termination may be approved while another operation is under way. The orchestrator ends that one
//! first, and evidence is taken in the order of the approvals. When the service is gone before all of it is there, its
//! record stays, with nothing charged for it, until the last has come.
//!
//! Where the service runs is known from here on: what it uses at each site is counted against the tenant's limit there.

use std::collections::BTreeMap;

use crate::{
    authority::Context,
    contract::Outcome,
    intent::ScaleDirection,
    intents::state::former_after,
    records::{Anchor, Event, ResourceUse},
    registry,
    state::{
        BadRecord, InFlightKind, IntentRecord, OperationRecord, ServiceRecord, ServiceState, Usage,
        intent_key, operation_key, service_key, usage_key,
    },
    verdict::{Checked, Rules, Writes, fault},
};

const RULES: [&str; 5] =
    ["form/anchor", "freshness/replay", "evidence/intent", "evidence/instance", "evidence/operation"];

/// SOL003 state of an operation that did what it should.
pub const COMPLETED: &str = "COMPLETED";
/// SOL003 state of an operation that left nothing behind.
pub const ROLLED_BACK: &str = "ROLLED_BACK";
/// SOL003 state of an operation that may have left something behind.
pub const FAILED: &str = "FAILED";
const OUTCOMES: [&str; 3] = [COMPLETED, ROLLED_BACK, FAILED];

/// Decides an anchor.
pub(crate) fn anchor(ctx: &Context<'_>, anchor: &Anchor) -> Result<Outcome, BadRecord> {
    let mut rules = Rules::new(ctx.tx.v);
    if ctx.authorize(&mut rules, &["orchestrator"]).is_none() {
        rules.not_evaluated(RULES);
        return Ok(rules.refused(ctx.policy));
    }
    let intent = ctx.state.get::<IntentRecord>(&intent_key(&anchor.intent_id))?;
    let isolates = intent.as_ref().is_some_and(|i| i.action == "isolate");
    rules.check(RULES[0], form(anchor, isolates));
    let known = ctx.state.get::<OperationRecord>(&operation_key(&anchor.operation_id))?;
    rules.check(RULES[1], unanchored(known.as_ref()));
    let Some(intent) = rules.value(RULES[2], approved(intent, anchor)) else {
        rules.not_evaluated(RULES.into_iter().skip(3));
        return Ok(rules.refused(ctx.policy));
    };
    let service = ctx.state.get::<ServiceRecord>(&service_key(&intent.tenant, &intent.service))?;
    let service = service.filter(|s| Some(&s.ns_instance_id) == intent.ns_instance_id.as_ref());
    rules.check(RULES[3], instance(&intent, anchor));
    let Some((service, kind)) = rules.value(RULES[4], under_way(service, anchor)) else {
        return Ok(rules.refused(ctx.policy));
    };
    if !rules.all_passed() {
        return Ok(rules.refused(ctx.policy));
    }
    let usage = ctx.state.get::<Usage>(&usage_key(&intent.tenant))?.unwrap_or_default();
    let writes = record(ctx, anchor, intent, service, &kind, usage);
    let event = Event::EvidenceAnchored { operation_id: anchor.operation_id.clone(), bundle: anchor.bundle };
    Ok(Outcome { verdict: rules.verdict(ctx.policy), writes: writes.0, event: Some(event) })
}

fn form(anchor: &Anchor, isolates: bool) -> Checked<String> {
    if !registry::name(&anchor.operation_id) {
        return fault("INVALID_ANCHOR", format!("`{}` is not an operation id", anchor.operation_id));
    }
    if let Some(site) = anchor.sites.iter().flatten().map(|(site, _)| site).find(|s| !registry::name(s)) {
        return fault("INVALID_ANCHOR", format!("`{site}` is not a name for a site"));
    }
    if anchor.sites.as_ref().is_some_and(|s| s.len() > registry::MAX_SITES) {
        return fault("INVALID_ANCHOR", format!("more than {} sites", registry::MAX_SITES));
    }
    if anchor.isolated && anchor.outcome == COMPLETED && !isolates {
        return fault("INVALID_ANCHOR", "an operation that ended with the service isolated is not COMPLETED");
    }
    match OUTCOMES.contains(&anchor.outcome.as_str()) {
        true => Ok(format!("operation {} {}", anchor.operation_id, anchor.outcome)),
        false => fault(
            "INVALID_ANCHOR",
            format!("outcome `{}` is none of {}", anchor.outcome, OUTCOMES.join(", ")),
        ),
    }
}

fn unanchored(known: Option<&OperationRecord>) -> Checked<String> {
    match known {
        None => Ok("not anchored before".to_owned()),
        Some(o) => {
            fault("ALREADY_ANCHORED", format!("anchored at position {} with bundle {}", o.position, o.bundle))
        }
    }
}

fn approved(intent: Option<IntentRecord>, anchor: &Anchor) -> Checked<(IntentRecord, String)> {
    match intent {
        None => fault("NO_SUCH_INTENT", format!("there is no intent `{}`", anchor.intent_id)),
        Some(i) if !i.approved => {
            fault("INTENT_NOT_APPROVED", format!("intent `{}` was refused: {}", anchor.intent_id, i.code))
        }
        Some(i) => {
            let detail = format!("intent `{}` was approved at position {}", anchor.intent_id, i.position);
            Ok((i, detail))
        }
    }
}

fn instance(intent: &IntentRecord, anchor: &Anchor) -> Checked<String> {
    match intent.ns_instance_id.as_ref() == Some(&anchor.ns_instance_id) {
        true => Ok(anchor.ns_instance_id.clone()),
        false => fault(
            "NS_INSTANCE_MISMATCH",
            format!(
                "the intent is about {}, the anchor about {}",
                intent.ns_instance_id.as_deref().unwrap_or("none"),
                anchor.ns_instance_id
            ),
        ),
    }
}

fn under_way(
    service: Option<ServiceRecord>,
    anchor: &Anchor,
) -> Checked<((ServiceRecord, InFlightKind), String)> {
    let early = service.as_ref().filter(|s| s.behind.iter().any(|o| o.intent_id == anchor.intent_id));
    if let Some(first) = early.and_then(|s| s.in_flight.as_ref()) {
        let detail = format!("the evidence of intent `{}` comes first", first.intent_id);
        return fault("NOT_IN_FLIGHT", detail);
    }
    let found = service.and_then(|s| {
        let kind = s.in_flight.as_ref().filter(|o| o.intent_id == anchor.intent_id).map(|o| o.kind.clone());
        kind.map(|k| (s, k))
    });
    match found {
        Some(found) => Ok((found, format!("the operation of intent `{}` is under way", anchor.intent_id))),
        None => fault("NOT_IN_FLIGHT", format!("no operation of intent `{}` is under way", anchor.intent_id)),
    }
}

/// The service after the operation (`None`: gone), and what the tenant gets back.
fn after(
    service: ServiceRecord,
    intent: &IntentRecord,
    kind: &InFlightKind,
    anchor: &Anchor,
) -> (Option<ServiceRecord>, ResourceUse) {
    let nothing = ResourceUse::default();
    let (all, before) = (service.reserved, service.state);
    let asked = service.in_flight.as_ref().map_or(nothing, |o| o.asked);
    let settled = |state: ServiceState, back: ResourceUse| {
        let reserved = all.less(&back);
        Some(ServiceRecord { state, in_flight: None, reserved, ..service.clone() })
    };
    let completed = anchor.outcome == COMPLETED;
    match kind {
        _ if anchor.isolated => (settled(ServiceState::Isolated, nothing), nothing),
        InFlightKind::Terminate if completed => (None, all),
        InFlightKind::Terminate => (settled(before, nothing), nothing),
        _ if anchor.outcome == FAILED => (settled(ServiceState::Broken, nothing), nothing),
        InFlightKind::Deploy if completed => (settled(ServiceState::Active, nothing), nothing),
        InFlightKind::Deploy => (None, all),
        InFlightKind::Scale { direction, delta } => {
            let gives_back = completed == (*direction == ScaleDirection::ScaleIn);
            let back = if gives_back { *delta } else { nothing };
            (settled(ServiceState::Active, back), back)
        }
        InFlightKind::Revise { next, packages, reserved, lease_until } if completed => {
            let back = all.less(reserved);
            let rolls_back = intent.action == "rollback";
            let revised = settled(ServiceState::Active, back).map(|s| ServiceRecord {
                former: former_after(&service, next, !rolls_back),
                revision: Some(next.clone()),
                nsd_package: next.nsd_package,
                packages: packages.clone(),
                lease_until: lease_until.unwrap_or(s.lease_until),
                ..s
            });
            (revised, back)
        }
        InFlightKind::Revise { .. } => (settled(before, asked), asked),
        InFlightKind::Migrate => (settled(before, asked), asked),
        InFlightKind::Heal if completed => (settled(ServiceState::Active, nothing), nothing),
        InFlightKind::Isolate if completed => (settled(ServiceState::Isolated, nothing), nothing),
        InFlightKind::Heal | InFlightKind::Isolate => (settled(before, nothing), nothing),
    }
}

/// A service that is gone, as long as there are approvals whose evidence is not there.
fn waits_for_evidence(service: ServiceRecord) -> Option<ServiceRecord> {
    let nothing = ResourceUse::default();
    (!service.behind.is_empty()).then_some(ServiceRecord { gone: true, reserved: nothing, ..service })
}

/// What was approved behind the operation that is over is now the one under way.
fn next_in_flight(mut service: ServiceRecord) -> ServiceRecord {
    let waits = !service.behind.is_empty();
    service.in_flight = waits.then(|| service.behind.remove(0));
    service
}

/// What a tenant uses at each site once one of its services uses `now` where it used `before`.
fn used_at(
    all: &BTreeMap<String, ResourceUse>,
    before: &BTreeMap<String, ResourceUse>,
    now: &BTreeMap<String, ResourceUse>,
) -> BTreeMap<String, ResourceUse> {
    let mut out = all.clone();
    for (site, used) in before {
        if let Some(sum) = out.get_mut(site) {
            *sum = sum.less(used);
        }
    }
    for (site, used) in now {
        let sum = out.entry(site.clone()).or_default();
        *sum = sum.plus(used);
    }
    out.retain(|_, sum| !sum.is_zero());
    out
}

fn record(
    ctx: &Context<'_>,
    anchor: &Anchor,
    intent: IntentRecord,
    service: ServiceRecord,
    kind: &InFlightKind,
    usage: Usage,
) -> Writes {
    let mut writes = Writes::default();
    let operation = OperationRecord {
        position: ctx.tx.position,
        intent_id: anchor.intent_id.clone(),
        tenant: intent.tenant.clone(),
        service: intent.service.clone(),
        ns_instance_id: anchor.ns_instance_id.clone(),
        outcome: anchor.outcome.clone(),
        bundle: anchor.bundle,
        sla_met: anchor.sla_met,
    };
    writes.put(operation_key(&anchor.operation_id), &operation);
    let key = service_key(&intent.tenant, &intent.service);
    let asked = service.in_flight.as_ref().map_or_else(ResourceUse::default, |o| o.asked);
    let was = service.clone();
    let before = service.sites.clone();
    let (service, back) = match service.gone {
        true => (None, ResourceUse::default()),
        false => after(service, &intent, kind, anchor),
    };
    let gone = service.is_none() && !was.gone;
    let sites = match (&service, &anchor.sites) {
        (None, _) => BTreeMap::new(),
        (Some(_), Some(now)) => {
            now.iter().filter(|(_, r)| !r.is_zero()).map(|(s, r)| (s.clone(), *r)).collect()
        }
        (Some(_), None) => before.clone(),
    };
    match service.or_else(|| waits_for_evidence(was)) {
        Some(service) => writes.put(key, &ServiceRecord { sites: sites.clone(), ..next_in_flight(service) }),
        None => writes.delete(key),
    }
    let next = Usage {
        services: usage.services.saturating_sub(u32::from(gone)),
        resources: usage.resources.less(&back),
        sites: used_at(&usage.sites, &before, &sites),
        unplaced: usage.unplaced.less(&asked),
    };
    if next != usage {
        writes.put(usage_key(&intent.tenant), &next);
    }
    let intent = IntentRecord { operation_id: Some(anchor.operation_id.clone()), ..intent };
    writes.put(intent_key(&anchor.intent_id), &intent);
    writes
}
