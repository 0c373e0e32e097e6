//! Deciding an intent.
//!
//! Order of the rules: who asks and may they ([`admit`]); is it well formed ([`form`]); is it fresh and does the service's
//! state allow it ([`state`]); where does the software come from; quota ([`quota`]); compliance ([`compliance`]); the
//! tenant rules ([`tenant`]). Every rule is listed in every verdict. A request that fails authentication, authorization
//! or form leaves no trace in the state.
//!
//! What each approval reserves is in [`quota`], what its evidence settles in [`crate::anchoring`]. Tests:
//! `tests/decide.rs`, `tests/actions.rs`, `tests/emergency.rs`.

mod admit;
mod compliance;
pub(crate) mod form;
mod quota;
pub use quota::remaining;
pub(crate) mod state;
mod tenant;

use std::collections::{BTreeMap, BTreeSet};

use attestation::AkRecord;
use trust::Digest;

use crate::{
    authority::Context,
    contract::Outcome,
    intent::{Intent, IntentKind, ns_instance_id_of, parameters_digest, refusable_parameters},
    policy::Assurance,
    provenance::{self, Packages},
    records::{Event, Grant},
    standing,
    state::{
        AK_INDEX, BadRecord, InFlight, IntentRecord, RefusedRecord, Revision, ServiceRecord, ServiceState,
        Usage, ak_key, intent_key, refused_key, service_key, usage_key,
    },
    verdict::{Checked, NOT_APPLICABLE, Rules, Writes},
};
use quota::Effect;

/// Rules after the entitlement that leave no trace when they refuse.
const AUTHORIZED: [&str; 4] =
    ["authorization/break-glass", "authorization/attributes", "authorization/signatures", "form/intent"];
/// Rules between authority and provenance.
const EARLY: [&str; 5] = [
    "freshness/expiry",
    "freshness/replay",
    "compliance/dependencies",
    "compliance/state",
    "compliance/in-flight",
];
/// Rules after provenance that look at the packages.
const PACKAGED: [&str; 4] =
    ["provenance/refused-digest", "compliance/revision", "compliance/members", "compliance/scaling"];
const QUOTAS: [&str; 7] = [
    "quota/services",
    "quota/instances",
    "quota/vcpus",
    "quota/memory",
    "quota/vfs",
    "quota/bandwidth",
    "quota/sites",
];
/// Rules after that, before the tenant rules.
const COMPLIANCE: [&str; 4] =
    ["compliance/lease", "compliance/window", "compliance/sovereignty", "compliance/sensitivity"];

/// Everything that the decision of one intent looks at.
struct Case<'a> {
    ctx: &'a Context<'a>,
    intent: &'a Intent,
    digest: Digest,
    service: Option<ServiceRecord>,
    usage: Usage,
    keys: Vec<AkRecord>,
}

/// Decides an intent.
pub(crate) fn intent(ctx: &Context<'_>, intent: &Intent) -> Result<Outcome, BadRecord> {
    let mut rules = Rules::new(ctx.tx.v);
    let case = Case {
        ctx,
        intent,
        digest: Digest::of(&ctx.request.payload),
        service: ctx.state.get(&service_key(&intent.tenant, &intent.service))?,
        usage: ctx.state.get(&usage_key(&intent.tenant))?.unwrap_or_default(),
        keys: valid_keys(ctx)?,
    };
    let Some(signers) = admit::admit(ctx, intent, case.sensitivity(), &mut rules)? else {
        let rest = EARLY.into_iter().chain(provenance::RULES).chain(PACKAGED).chain(QUOTAS).chain(COMPLIANCE);
        rules.not_evaluated(rest);
        tenant::skip(ctx, &mut rules);
        return Ok(rules.refused(ctx.policy));
    };
    let fresh = case.early_rules(&mut rules)?;
    let packages = case.provenance_rules(&mut rules)?;
    case.package_rules(&mut rules, packages.as_ref())?;
    let effect = case.effect(packages.as_ref())?;
    case.quota_rules(&mut rules, effect.as_ref());
    case.compliance_rules(&mut rules);
    case.tenant_rules(&mut rules, &signers, packages.as_ref());
    let images = case.images(packages.as_ref())?;
    case.conclude(rules, fresh, packages, images, effect)
}

/// Keys that are valid now, by site.
fn valid_keys(ctx: &Context<'_>) -> Result<Vec<AkRecord>, BadRecord> {
    let mut out = Vec::new();
    for site in ctx.state.get::<Vec<String>>(AK_INDEX)?.unwrap_or_default() {
        let key = ctx.state.get::<AkRecord>(&ak_key(&site))?;
        out.extend(key.filter(|k| k.not_before <= ctx.tx.time && ctx.tx.time <= k.not_after));
    }
    Ok(out)
}

impl Case<'_> {
    /// Freshness and the service's state; whether the intent's id is unused.
    fn early_rules(&self, rules: &mut Rules) -> Result<bool, BadRecord> {
        let seen = self.ctx.state.get::<IntentRecord>(&intent_key(&self.intent.id))?;
        rules.check(EARLY[0], self.expiry());
        let fresh = rules.check(EARLY[1], self.replay(seen.as_ref()));
        rules.check(EARLY[2], self.dependencies()?);
        rules.check(EARLY[3], self.existence());
        rules.check(EARLY[4], self.in_flight());
        Ok(fresh)
    }

    fn provenance_rules(&self, rules: &mut Rules) -> Result<Option<Packages>, BadRecord> {
        let nsd = match (&self.intent.action, &self.service) {
            // Nothing is started, and nothing must stand in the way.
            (action @ (IntentKind::Terminate {} | IntentKind::Isolate(_)), _) => {
                for rule in provenance::RULES {
                    rules.check(rule, not_applicable(action.name()));
                }
                return Ok(None);
            }
            (action, service) => {
                action.names().map_or_else(|| service.as_ref().map(|s| s.nsd_package), |(nsd, _)| Some(nsd))
            }
        };
        let (Some(nsd), Some(sensitivity)) = (nsd, self.sensitivity()) else {
            rules.not_evaluated(provenance::RULES);
            return Ok(None);
        };
        provenance::check(self.ctx, rules, &nsd, sensitivity, &self.intent.tenant)
    }

    fn package_rules(&self, rules: &mut Rules, packages: Option<&Packages>) -> Result<(), BadRecord> {
        rules.check(PACKAGED[0], self.refused_digests(packages)?);
        rules.check(PACKAGED[1], self.revision(packages));
        rules.check(PACKAGED[2], self.members(packages));
        match self.scaling(packages) {
            Some(outcome) => drop(rules.check(PACKAGED[3], outcome)),
            None => rules.not_evaluated([PACKAGED[3]]),
        }
        Ok(())
    }

    fn conclude(
        &self,
        rules: Rules,
        fresh: bool,
        packages: Option<Packages>,
        images: BTreeSet<Digest>,
        effect: Option<Effect>,
    ) -> Result<Outcome, BadRecord> {
        if !fresh {
            return Ok(rules.refused(self.ctx.policy));
        }
        let code = rules.code().unwrap_or_default().to_owned();
        let waived = rules.waived().to_vec();
        let verdict = rules.verdict(self.ctx.policy);
        let mut writes = Writes::default();
        let ns = self.ns_instance_id();
        writes.put(intent_key(&self.intent.id), &self.record(verdict.approved, code, &ns));
        let (true, Some(effect)) = (verdict.approved, effect) else {
            return Ok(Outcome { verdict, writes: writes.0, event: None });
        };
        let usage = self.usage_after(&effect);
        let Some(service) = self.next_service(&ns, packages.as_ref(), &effect) else {
            return Ok(Outcome { verdict, writes: writes.0, event: None });
        };
        let granted = effect_packages(&effect).unwrap_or(&service.packages).clone();
        let grant = Box::new(self.grant(&service, granted, images, waived));
        writes.put(service_key(&self.intent.tenant, &self.intent.service), &service);
        if usage != self.usage {
            writes.put(usage_key(&self.intent.tenant), &usage);
        }
        self.leave_behind(&effect, &mut writes);
        if let Some(used) = &self.intent.standing {
            standing::used(self.ctx, self.intent, used, &mut writes)?;
        }
        Ok(Outcome { verdict, writes: writes.0, event: Some(Event::IntentApproved { grant }) })
    }

    fn record(&self, approved: bool, code: String, ns: &str) -> IntentRecord {
        IntentRecord {
            intent: self.digest,
            tenant: self.intent.tenant.clone(),
            service: self.intent.service.clone(),
            action: self.intent.action.name().to_owned(),
            position: self.ctx.tx.position,
            approved,
            code,
            ns_instance_id: (approved || self.service.is_some()).then(|| ns.to_owned()),
            operation_id: None,
            revoked: None,
        }
    }

    fn ns_instance_id(&self) -> String {
        match (&self.intent.action, &self.service) {
            (IntentKind::Deploy(_), _) | (_, None) => {
                let it = self.intent;
                ns_instance_id_of(self.ctx.tx.v, &it.tenant, &it.service, &it.id)
            }
            (_, Some(s)) => s.ns_instance_id.clone(),
        }
    }

    /// The service as it is once the intent is approved; `None` when a rule has refused what would be needed.
    fn next_service(&self, ns: &str, packages: Option<&Packages>, effect: &Effect) -> Option<ServiceRecord> {
        // Version 1 of the rules did not know it.
        let asked = if self.ctx.tx.v >= 2 { effect.asked } else { Default::default() };
        let approved = InFlight { intent_id: self.intent.id.clone(), kind: effect.kind.clone(), asked };
        let IntentKind::Deploy(deploy) = &self.intent.action else {
            let mut service = self.service.clone()?;
            service.reserved = service.reserved.plus(&effect.asked);
            match &service.in_flight {
                None => service.in_flight = Some(approved),
                Some(_) => service.behind.push(approved),
            }
            return Some(service);
        };
        let revision = Revision {
            intent_id: self.intent.id.clone(),
            nsd_package: deploy.nsd_package,
            parameters: parameters_digest(&deploy.vnf_params),
            plain: deploy.vnf_params.is_empty(),
        };
        Some(ServiceRecord {
            ns_instance_id: ns.to_owned(),
            deploy_intent: self.intent.id.clone(),
            state: ServiceState::Pending,
            nsd_package: deploy.nsd_package,
            packages: packages?.digests(),
            sensitivity: deploy.sensitivity,
            lease_until: self.ctx.tx.time.plus(deploy.lease_s),
            reserved: effect.asked,
            in_flight: Some(approved),
            behind: Vec::new(),
            gone: false,
            revision: (self.ctx.tx.v >= 2).then_some(revision),
            former: Vec::new(),
            sites: BTreeMap::new(),
        })
    }

    /// Of the present revision, what the one that is gone back to has not: refused from now on, whatever becomes of the
    /// rollback.
    fn leave_behind(&self, effect: &Effect, writes: &mut Writes) {
        let (IntentKind::Rollback(rollback), Some(service)) = (&self.intent.action, &self.service) else {
            return;
        };
        let Some(kept) = effect_packages(effect) else { return };
        let kept: BTreeSet<&Digest> = kept.values().collect();
        let mut bad: BTreeSet<Digest> = service
            .packages
            .values()
            .chain([&service.nsd_package])
            .filter(|d| !kept.contains(d))
            .copied()
            .collect();
        let parameters = service.revision.as_ref().filter(|r| !r.plain).map(|r| r.parameters);
        bad.extend(parameters.filter(|p| refusable_parameters(&rollback.vnf_params) != Some(*p)));
        let record = RefusedRecord {
            intent_id: self.intent.id.clone(),
            position: self.ctx.tx.position,
            reason: rollback.reason.clone(),
        };
        for digest in bad {
            writes.put(refused_key(&self.intent.tenant, &digest), &record);
        }
    }

    /// Every image of the packages that a grant would name; what starts nothing looks at its service's.
    fn images(&self, packages: Option<&Packages>) -> Result<BTreeSet<Digest>, BadRecord> {
        match (packages, &self.service) {
            (Some(packages), _) => Ok(packages.images()),
            (None, Some(service)) => provenance::images(self.ctx, service.packages.values()),
            (None, None) => Ok(BTreeSet::new()),
        }
    }

    fn grant(
        &self,
        service: &ServiceRecord,
        packages: BTreeMap<String, Digest>,
        images: BTreeSet<Digest>,
        waived: Vec<String>,
    ) -> Grant {
        Grant {
            ledger: self.ctx.tx.ledger.clone(),
            intent_id: self.intent.id.clone(),
            intent: self.digest,
            tenant: self.intent.tenant.clone(),
            ns_instance_id: service.ns_instance_id.clone(),
            action: self.intent.action.name().to_owned(),
            not_after: self.intent.not_after,
            lease_until: self.renewed_lease(),
            packages,
            images,
            attestation_keys: self.keys.clone(),
            attestation_required: self.assurance() > Assurance::None,
            tee_required: self.assurance() == Assurance::Tee,
            policy: self.ctx.policy,
            site_quotas: self.site_quotas(),
            waived,
            standing: self.intent.standing.as_ref().map(|s| s.grant.clone()),
        }
    }
}

/// The packages of the revision that an update or a rollback makes.
fn effect_packages(effect: &Effect) -> Option<&BTreeMap<String, Digest>> {
    match &effect.kind {
        crate::state::InFlightKind::Revise { packages, .. } => Some(packages),
        _ => None,
    }
}

fn not_applicable(action: &str) -> Checked<String> {
    Ok(format!("{NOT_APPLICABLE}{action}"))
}
