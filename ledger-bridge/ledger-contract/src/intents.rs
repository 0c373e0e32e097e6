//! Deciding an intent.
//!
//! Order of the rules: who asks and may they; is the intent well formed; is it fresh; does the service's state allow
//! it; where does the software come from; quota; compliance; the tenant rules. Every rule is listed in every
//! verdict. A request that fails authentication, authorization or form leaves no trace in the state.

use std::collections::{BTreeMap, BTreeSet};

use attestation::AkRecord;
use serde_json::json;
use trust::{Digest, Identity};

use crate::{
    authority::Context,
    contract::Outcome,
    intent::{
        API_VERSION, Deploy, Intent, IntentKind, MAX_INTENT_BYTES, Scale, ScaleDirection, Sensitivity,
        ns_instance_id,
    },
    policy::Quota,
    provenance::{self, Packages},
    records::{Event, Grant, ResourceUse},
    registry, rego,
    state::{
        AK_INDEX, BadRecord, InFlight, InFlightKind, IntentRecord, ServiceRecord, ServiceState, Usage,
        ak_key, intent_key, service_key, usage_key,
    },
    verdict::{Checked, Rules, Writes, fault},
};

/// Rules between authority and provenance.
const EARLY: [&str; 5] =
    ["form/intent", "freshness/expiry", "freshness/replay", "compliance/state", "compliance/in-flight"];
/// The rule after provenance.
const SCALING: &str = "compliance/scaling";
/// Rules after that, before the tenant rules.
const LATE: [&str; 7] = [
    "quota/services",
    "quota/instances",
    "quota/vcpus",
    "quota/memory",
    "compliance/lease",
    "compliance/sovereignty",
    "compliance/sensitivity",
];

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
    let mut rules = Rules::default();
    let Some(who) = admit(ctx, intent, &mut rules) else {
        let rest = EARLY.into_iter().skip(1).chain(provenance::RULES).chain([SCALING]).chain(LATE);
        rules.not_evaluated(rest);
        skip_tenant_rules(ctx, &mut rules);
        return Ok(rules.refused(ctx.policy));
    };
    let case = Case {
        ctx,
        intent,
        digest: Digest::of(&ctx.request.payload),
        service: ctx.state.get(&service_key(&intent.tenant, &intent.service))?,
        usage: ctx.state.get(&usage_key(&intent.tenant))?.unwrap_or_default(),
        keys: valid_keys(ctx)?,
    };
    let seen = ctx.state.get::<IntentRecord>(&intent_key(&intent.id))?;
    let fresh = case.early_rules(&mut rules, seen.as_ref());
    let packages = case.provenance_rules(&mut rules)?;
    case.scaling_rule(&mut rules, packages.as_ref());
    let delta = case.delta(packages.as_ref());
    case.quota_rules(&mut rules, delta);
    case.compliance_rules(&mut rules);
    case.tenant_rules(&mut rules, &who, packages.as_ref());
    let images = case.images(packages.as_ref())?;
    Ok(case.conclude(rules, fresh, packages, images, delta.unwrap_or_default()))
}

/// Authority and form: what fails here leaves no trace.
fn admit(ctx: &Context<'_>, intent: &Intent, rules: &mut Rules) -> Option<Identity> {
    let who = ctx.authorize(rules, "tenant");
    let Some(who) = who else {
        rules.not_evaluated(["authorization/tenant", EARLY[0]]);
        return None;
    };
    let own = rules.check(
        "authorization/tenant",
        match who.tenant() == intent.tenant {
            true => Ok(format!("{who} speaks for tenant `{}`", intent.tenant)),
            false => fault(
                "TENANT_MISMATCH",
                format!("{who} speaks for tenant `{}`, the intent is `{}`'s", who.tenant(), intent.tenant),
            ),
        },
    );
    if !own {
        rules.not_evaluated([EARLY[0]]);
        return None;
    }
    rules.check(EARLY[0], form(ctx, intent)).then_some(who)
}

fn label(text: &str, least: usize, most: usize) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (least..=most).contains(&text.len()) && text.bytes().all(legal)
}

fn form(ctx: &Context<'_>, intent: &Intent) -> Checked<String> {
    let invalid = |detail: String| fault("INVALID_INTENT", detail);
    if ctx.request.payload.len() > MAX_INTENT_BYTES {
        return invalid(format!("it is larger than {MAX_INTENT_BYTES} bytes"));
    }
    if intent.api_version != API_VERSION {
        return invalid(format!("apiVersion is `{}`, expected `{API_VERSION}`", intent.api_version));
    }
    if !label(&intent.id, 8, 64) {
        return invalid(format!("id `{}` is not 8 to 64 of a-z 0-9 -", intent.id));
    }
    if !label(&intent.service, 1, 32) {
        return invalid(format!("service `{}` is not 1 to 32 of a-z 0-9 -", intent.service));
    }
    if !registry::name(&intent.tenant) {
        return invalid(format!("`{}` is not a name for a tenant", intent.tenant));
    }
    match &intent.action {
        IntentKind::Deploy(deploy) => {
            let code = |c: &&String| c.len() != 2 || !c.bytes().all(|b| b.is_ascii_uppercase());
            match deploy.placement.jurisdictions.iter().find(code) {
                Some(bad) => invalid(format!("jurisdiction `{bad}` is not a code of ISO 3166-1 alpha-2")),
                None if deploy.lease_s == 0 => invalid("a lease of 0 seconds".to_owned()),
                None => Ok(format!("deploy `{}`", intent.service)),
            }
        }
        IntentKind::Scale(scale) if scale.steps == 0 => invalid("scaling by 0 steps".to_owned()),
        other @ (IntentKind::Scale(_) | IntentKind::Terminate {}) => {
            Ok(format!("{} `{}`", other.name(), intent.service))
        }
        other => invalid(format!("this ledger does not decide `{}` yet", other.name())),
    }
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

fn skip_tenant_rules(ctx: &Context<'_>, rules: &mut Rules) {
    let names = rego::declared(&ctx.bundle).unwrap_or_default();
    let names: Vec<String> = names.iter().map(|n| format!("tenant/{n}")).collect();
    rules.not_evaluated(names.iter().map(String::as_str));
}

impl Case<'_> {
    /// Freshness and the service's state; whether the intent's id is unused.
    fn early_rules(&self, rules: &mut Rules, seen: Option<&IntentRecord>) -> bool {
        rules.check(EARLY[1], self.expiry());
        let fresh = rules.check(EARLY[2], self.replay(seen));
        rules.check(EARLY[3], self.state());
        rules.check(EARLY[4], self.in_flight());
        fresh
    }

    fn expiry(&self) -> Checked<String> {
        let (now, end) = (self.ctx.tx.time, self.intent.not_after);
        match now <= end {
            true => Ok(format!("decided at {now}, valid to {end}")),
            false => fault("EXPIRED", format!("decided at {now}, but it was valid to {end} only")),
        }
    }

    fn replay(&self, seen: Option<&IntentRecord>) -> Checked<String> {
        match seen {
            None => Ok(format!("id `{}` is new", self.intent.id)),
            Some(s) if s.intent == self.digest => {
                fault("REPLAYED", format!("this intent was decided at position {}", s.position))
            }
            Some(s) => fault(
                "INTENT_ID_REUSED",
                format!("id `{}` is another intent's, decided at position {}", self.intent.id, s.position),
            ),
        }
    }

    fn state(&self) -> Checked<String> {
        let name = &self.intent.service;
        match (&self.intent.action, &self.service) {
            (IntentKind::Deploy(_), None) => Ok(format!("there is no service `{name}` yet")),
            (IntentKind::Deploy(_), Some(s)) => {
                fault("SERVICE_EXISTS", format!("service `{name}` exists as {}", s.ns_instance_id))
            }
            (_, None) => {
                fault("NO_SUCH_SERVICE", format!("tenant `{}` has no service `{name}`", self.intent.tenant))
            }
            (_, Some(s)) => Ok(format!("service `{name}` is {}", s.ns_instance_id)),
        }
    }

    fn in_flight(&self) -> Checked<String> {
        match self.service.as_ref() {
            None => Ok("no operation is under way".to_owned()),
            Some(ServiceRecord { in_flight: Some(o), .. }) => fault(
                "OPERATION_IN_FLIGHT",
                format!("the evidence of intent `{}` is not anchored yet", o.intent_id),
            ),
            Some(s) if s.state != ServiceState::Active && !self.terminates() => {
                let name = &self.intent.service;
                fault(
                    "SERVICE_NOT_ACTIVE",
                    format!("service `{name}` is {:?}: it can only be terminated", s.state),
                )
            }
            Some(_) => Ok("no operation is under way".to_owned()),
        }
    }

    fn terminates(&self) -> bool {
        matches!(self.intent.action, IntentKind::Terminate {})
    }

    /// What the intent's software must satisfy: the deployment's own sensitivity, or the service's.
    fn sensitivity(&self) -> Option<Sensitivity> {
        match &self.intent.action {
            IntentKind::Deploy(deploy) => Some(deploy.sensitivity),
            _ => self.service.as_ref().map(|s| s.sensitivity),
        }
    }

    fn provenance_rules(&self, rules: &mut Rules) -> Result<Option<Packages>, BadRecord> {
        let nsd = match (&self.intent.action, &self.service) {
            (IntentKind::Terminate {}, _) => {
                for rule in provenance::RULES {
                    rules.check(rule, not_applicable("terminate"));
                }
                return Ok(None);
            }
            (IntentKind::Deploy(deploy), _) => Some(deploy.nsd_package),
            (IntentKind::Update(update), _) => Some(update.nsd_package),
            (IntentKind::Rollback(rollback), _) => Some(rollback.nsd_package),
            (_, service) => service.as_ref().map(|s| s.nsd_package),
        };
        let (Some(nsd), Some(sensitivity)) = (nsd, self.sensitivity()) else {
            rules.not_evaluated(provenance::RULES);
            return Ok(None);
        };
        provenance::check(self.ctx, rules, &nsd, sensitivity)
    }

    fn scaling_rule(&self, rules: &mut Rules, packages: Option<&Packages>) {
        let outcome = match (&self.intent.action, packages, &self.service) {
            (IntentKind::Scale(scale), Some(packages), Some(service)) => scaling(scale, packages, service),
            (IntentKind::Scale(_), _, _) => return rules.not_evaluated([SCALING]),
            (other, _, _) => not_applicable(other.name()),
        };
        rules.check(SCALING, outcome);
    }
    /// What the intent adds to (or, scaling in, will take from) the tenant's usage; `None` when unknown.
    fn delta(&self, packages: Option<&Packages>) -> Option<ResourceUse> {
        match &self.intent.action {
            IntentKind::Deploy(_) => packages.map(|p| p.nsd.record.resources),
            IntentKind::Scale(scale) => packages.and_then(|p| scale_delta(scale, p)),
            _ => Some(ResourceUse::default()),
        }
    }

    /// Services and resources that are reserved on approval.
    fn asked(&self, delta: ResourceUse) -> (u32, ResourceUse) {
        match &self.intent.action {
            IntentKind::Deploy(_) => (1, delta),
            IntentKind::Scale(s) if s.direction == ScaleDirection::ScaleOut => (0, delta),
            _ => (0, ResourceUse::default()),
        }
    }

    fn quota_rules(&self, rules: &mut Rules, delta: Option<ResourceUse>) {
        let Some(delta) = delta else { return rules.not_evaluated(LATE.into_iter().take(4)) };
        let quotas = &self.ctx.data.quotas;
        let Some(quota) = quotas.get(&self.intent.tenant).or_else(|| quotas.get("default")) else {
            let detail =
                format!("the policy has no quota for tenant `{}` and no default", self.intent.tenant);
            for rule in LATE.into_iter().take(4) {
                rules.check(rule, fault("QUOTA_EXCEEDED", detail.clone()));
            }
            return;
        };
        let Quota { services, instances, vcpus, memory_mib } = *quota;
        let (more, ask) = self.asked(delta);
        let used = self.usage.resources;
        let rows = [
            ("services", self.usage.services, more, services),
            ("instances", used.instances, ask.instances, instances),
            ("vCPUs", used.vcpus, ask.vcpus, vcpus),
            ("MiB of memory", used.memory_mib, ask.memory_mib, memory_mib),
        ];
        for (rule, row) in LATE.iter().zip(rows) {
            rules.check(rule, within(row));
        }
    }

    fn compliance_rules(&self, rules: &mut Rules) {
        rules.check(LATE[4], self.lease());
        let kind = self.intent.action.name();
        let IntentKind::Deploy(deploy) = &self.intent.action else {
            rules.check(LATE[5], not_applicable(kind));
            match &self.intent.action {
                IntentKind::Scale(_) => rules.check(LATE[6], self.attestable()),
                _ => rules.check(LATE[6], not_applicable(kind)),
            };
            return;
        };
        rules.check(LATE[5], self.sovereignty(deploy));
        rules.check(LATE[6], self.attestable());
    }

    fn lease(&self) -> Checked<String> {
        match (&self.intent.action, &self.service) {
            (IntentKind::Deploy(deploy), _) => {
                let most = self.ctx.data.max_lease_s.of(deploy.sensitivity);
                match deploy.lease_s <= most {
                    true => Ok(format!("{} s of at most {most} s", deploy.lease_s)),
                    false => fault(
                        "LEASE_TOO_LONG",
                        format!(
                            "{} s; {:?} services get at most {most} s",
                            deploy.lease_s, deploy.sensitivity
                        ),
                    ),
                }
            }
            (IntentKind::Scale(_), Some(s)) if self.ctx.tx.time > s.lease_until => {
                fault("LEASE_ENDED", format!("the service's lease ended at {}", s.lease_until))
            }
            (action, _) => not_applicable(action.name()),
        }
    }

    fn sovereignty(&self, deploy: &Deploy) -> Checked<String> {
        if deploy.sensitivity < Sensitivity::Restricted {
            return Ok(format!("{:?} services may run in any jurisdiction", deploy.sensitivity));
        }
        let all = &self.ctx.data.jurisdictions;
        let allowed = all.get(&self.intent.tenant).or_else(|| all.get("default"));
        let asked = &deploy.placement.jurisdictions;
        if asked.is_empty() {
            return fault(
                "JURISDICTION_REQUIRED",
                "a restricted service names the jurisdictions it may run in",
            );
        }
        match asked.iter().find(|j| !allowed.is_some_and(|a| a.contains(*j))) {
            None => Ok(format!("{} allowed for tenant `{}`", asked.join(", "), self.intent.tenant)),
            Some(j) => fault(
                "JURISDICTION_NOT_ALLOWED",
                format!("{j} is not allowed for tenant `{}`", self.intent.tenant),
            ),
        }
    }

    fn attestation_required(&self) -> bool {
        !self.terminates() && self.sensitivity().is_some_and(|s| s >= Sensitivity::Confidential)
    }

    fn attestable(&self) -> Checked<String> {
        if !self.attestation_required() {
            return Ok("attestation is not required".to_owned());
        }
        match self.keys.len() {
            0 => fault(
                "NO_ATTESTATION_KEY",
                "the service must be attested, but no site has a valid attestation key",
            ),
            n => Ok(format!("attestation is required; {n} sites have a valid key")),
        }
    }

    fn tenant_rules(&self, rules: &mut Rules, who: &Identity, packages: Option<&Packages>) {
        let input = self.rego_input(who, packages);
        let evaluated = match rego::evaluate(&self.ctx.bundle, &input) {
            Ok(evaluated) => evaluated,
            Err(e) => {
                rules.check("tenant/policy", fault("POLICY_ERROR", e.to_string()));
                return;
            }
        };
        for file in evaluated {
            for name in &file.rules {
                let denial = file.denials.iter().find(|d| d.rule == *name);
                let outcome = match denial {
                    None => Ok("nothing to object".to_owned()),
                    Some(d) => fault(&d.code, d.detail.clone()),
                };
                rules.check(&format!("tenant/{name}"), outcome);
            }
            for stray in file.denials.iter().filter(|d| !file.rules.contains(&d.rule)) {
                rules.check(&format!("tenant/{}", stray.rule), fault(&stray.code, stray.detail.clone()));
            }
        }
    }

    fn rego_input(&self, who: &Identity, packages: Option<&Packages>) -> String {
        let packages: serde_json::Map<String, serde_json::Value> = packages
            .iter()
            .flat_map(|p| p.all())
            .map(|p| {
                let images: Vec<_> =
                    p.record.images.iter().map(|i| json!({"digest": i.digest, "sbom": i.sbom})).collect();
                let value = json!({
                    "digest": p.record.digest, "kind": p.record.kind, "version": p.record.version,
                    "resources": p.record.resources, "images": images,
                });
                (p.record.descriptor_id.clone(), value)
            })
            .collect();
        json!({
            "intent": self.intent,
            "identity": {"org": who.org, "name": who.name, "role": who.role(), "tenant": who.tenant()},
            "packages": packages,
            "usage": self.usage,
            "time": self.ctx.tx.time,
        })
        .to_string()
    }

    fn conclude(
        &self,
        rules: Rules,
        fresh: bool,
        packages: Option<Packages>,
        images: BTreeSet<Digest>,
        delta: ResourceUse,
    ) -> Outcome {
        if !fresh {
            return rules.refused(self.ctx.policy);
        }
        let code = rules.code().unwrap_or_default().to_owned();
        let verdict = rules.verdict(self.ctx.policy);
        let mut writes = Writes::default();
        let ns = self.ns_instance_id();
        let record = IntentRecord {
            intent: self.digest,
            tenant: self.intent.tenant.clone(),
            service: self.intent.service.clone(),
            action: self.intent.action.name().to_owned(),
            position: self.ctx.tx.position,
            approved: verdict.approved,
            code,
            ns_instance_id: (verdict.approved || self.service.is_some()).then(|| ns.clone()),
            operation_id: None,
        };
        writes.put(intent_key(&self.intent.id), &record);
        let service = self.next_service(&ns, packages.as_ref(), delta);
        let (true, Some(service)) = (verdict.approved, service) else {
            return Outcome { verdict, writes: writes.0, event: None };
        };
        let usage = self.next_usage(delta);
        let grant = Box::new(self.grant(&service, images));
        writes.put(service_key(&self.intent.tenant, &self.intent.service), &service);
        if usage != self.usage {
            writes.put(usage_key(&self.intent.tenant), &usage);
        }
        Outcome { verdict, writes: writes.0, event: Some(Event::IntentApproved { grant }) }
    }

    fn ns_instance_id(&self) -> String {
        match (&self.intent.action, &self.service) {
            (IntentKind::Deploy(_), _) | (_, None) => {
                ns_instance_id(&self.intent.tenant, &self.intent.service, &self.intent.id)
            }
            (_, Some(s)) => s.ns_instance_id.clone(),
        }
    }

    fn next_usage(&self, delta: ResourceUse) -> Usage {
        let (services, resources) = self.asked(delta);
        Usage {
            services: self.usage.services.saturating_add(services),
            resources: self.usage.resources.plus(&resources),
        }
    }

    /// The service as it is once the intent is approved; `None` when a rule has refused what would be needed.
    fn next_service(
        &self,
        ns: &str,
        packages: Option<&Packages>,
        delta: ResourceUse,
    ) -> Option<ServiceRecord> {
        let kind = match &self.intent.action {
            IntentKind::Deploy(_) => InFlightKind::Deploy,
            IntentKind::Scale(s) => InFlightKind::Scale { direction: s.direction, delta },
            IntentKind::Terminate {} => InFlightKind::Terminate,
            // Refused by the form rule until the ledger decides them.
            _ => return None,
        };
        let in_flight = Some(InFlight { intent_id: self.intent.id.clone(), kind });
        let (_, reserved) = self.asked(delta);
        match &self.intent.action {
            IntentKind::Deploy(deploy) => Some(ServiceRecord {
                ns_instance_id: ns.to_owned(),
                deploy_intent: self.intent.id.clone(),
                state: ServiceState::Pending,
                nsd_package: deploy.nsd_package,
                packages: packages?.digests(),
                sensitivity: deploy.sensitivity,
                lease_until: self.ctx.tx.time.plus(deploy.lease_s),
                reserved,
                in_flight,
            }),
            _ => {
                let service = self.service.clone()?;
                Some(ServiceRecord { reserved: service.reserved.plus(&reserved), in_flight, ..service })
            }
        }
    }

    /// Every image of the packages that a grant would name; a terminate looks at its service's.
    fn images(&self, packages: Option<&Packages>) -> Result<BTreeSet<Digest>, BadRecord> {
        match (packages, &self.service) {
            (Some(packages), _) => Ok(packages.images()),
            (None, Some(service)) => provenance::images(self.ctx, service.packages.values()),
            (None, None) => Ok(BTreeSet::new()),
        }
    }

    fn grant(&self, service: &ServiceRecord, images: BTreeSet<Digest>) -> Grant {
        let deploys = matches!(self.intent.action, IntentKind::Deploy(_));
        Grant {
            ledger: self.ctx.tx.ledger.clone(),
            intent_id: self.intent.id.clone(),
            intent: self.digest,
            tenant: self.intent.tenant.clone(),
            ns_instance_id: service.ns_instance_id.clone(),
            action: self.intent.action.name().to_owned(),
            not_after: self.intent.not_after,
            lease_until: deploys.then_some(service.lease_until),
            packages: service.packages.clone(),
            images,
            attestation_keys: self.keys.clone(),
            attestation_required: self.attestation_required(),
            policy: self.ctx.policy,
            site_quotas: BTreeMap::new(),
            waived: Vec::new(),
            standing: None,
        }
    }
}

fn not_applicable(action: &str) -> Checked<String> {
    Ok(format!("does not apply to {action}"))
}

fn within((what, used, more, limit): (&str, u32, u32, u32)) -> Checked<String> {
    let detail = format!("{used} {what} in use, {more} more asked for, quota {limit}");
    // Asking for nothing more is always allowed, also above a quota that was lowered.
    match more == 0 || used.checked_add(more).is_some_and(|sum| sum <= limit) {
        true => Ok(detail),
        false => fault("QUOTA_EXCEEDED", detail),
    }
}

fn scale_delta(scale: &Scale, packages: &Packages) -> Option<ResourceUse> {
    let step = packages.nsd.record.scaling.get(&format!("{}/{}", scale.member, scale.aspect))?;
    Some(step.times(scale.steps))
}

fn scaling(scale: &Scale, packages: &Packages, service: &ServiceRecord) -> Checked<String> {
    let Some(delta) = scale_delta(scale, packages) else {
        let detail = format!(
            "`{}` has no scaling aspect `{}/{}`",
            packages.nsd.record.descriptor_id, scale.member, scale.aspect
        );
        return fault("NO_SUCH_ASPECT", detail);
    };
    let enough = service.reserved.minus(&delta).is_some();
    if scale.direction == ScaleDirection::ScaleIn && !enough {
        return fault("SCALE_LEVEL", format!("{} steps in are more than the service has", scale.steps));
    }
    Ok(format!("{} steps of `{}/{}`: {delta}", scale.steps, scale.member, scale.aspect))
}
