//! What would be done about an intent if it were approved now: planned as an approved one is, on one look at the sites.
//!
//! It entitles nobody to anything: the grant is computed here, from what the ledger's state says, and forgotten. Nothing
//! is journaled, reserved or submitted; whether the policy would approve is not asked. So an approved intent may be
//! planned otherwise: by then other services may have taken the room. Tests: `tests/engine/dry_run.rs`.

use std::collections::{BTreeMap, BTreeSet};

use attestation::AkRecord;
use lcm::{
    Action, Plan, Step,
    placement::{self, Budget, PlacementError},
    planner::{self, Input, Refusal},
};
use ledger_contract::{
    Intent, IntentKind,
    intent::{Sensitivity, ns_instance_id},
    policy::Assurance,
    records::{Grant, PolicyBundle, ResourceUse},
    remaining_at_sites,
    state::{self, AK_INDEX, ServiceRecord, Usage, decode},
};
use serde::de::DeserializeOwned;
use trust::Digest;

use super::{Engine, now, service::ledger_problem};
use crate::{
    problem::Problem,
    views::{PlacementView, PlanView, PlannedStepView, TableView},
};

impl Engine {
    /// The plan of an intent, or why there is none, and what was weighed.
    pub(super) async fn dry_run(&self, intent: &Intent) -> Result<PlanView, Problem> {
        let grant = self.as_if_granted(intent).await?;
        if !self.may_exist(intent).await? {
            let detail = format!("tenant `{}` has no service `{}`", intent.tenant, intent.service);
            return Ok(refused(intent, &grant, &Refusal { code: "NO_SUCH_SERVICE", detail }, None));
        }
        let survey = match self.survey(intent, &grant).await {
            Ok(survey) => survey,
            Err(refusal) => return Ok(refused(intent, &grant, &refusal, None)),
        };
        let input = survey.input(intent, &grant);
        let placement = explained(&input);
        let view = match planner::plan(&input) {
            Ok(plan) => planned(&plan, placement),
            Err(refusal) => refused(intent, &grant, &refusal, placement),
        };
        Ok(PlanView { demands: demands(&grant, input.sites), ..view })
    }

    /// What an approval would entitle to, as the ledger's state is now.
    async fn as_if_granted(&self, intent: &Intent) -> Result<Grant, Problem> {
        let service: Option<ServiceRecord> =
            self.fetch(&state::service_key(&intent.tenant, &intent.service)).await?;
        let service = service.filter(|_| !matches!(intent.action, IntentKind::Deploy(_)));
        let packages = match (intent.action.names(), &service) {
            (Some((nsd, _)), _) => self.packages_of(&nsd).await?,
            (None, Some(service)) => service.packages.clone(),
            (None, None) => BTreeMap::new(),
        };
        let mut images = BTreeSet::new();
        for digest in packages.values() {
            let record = self.registered(digest).await?;
            images.extend(record.iter().flat_map(|r| &r.images).map(|i| i.digest));
        }
        let policy = self.fetch::<Digest>(state::POLICY_ACTIVE).await?.unwrap_or(Digest([0; 32]));
        let fresh = || ns_instance_id(&intent.tenant, &intent.service, &intent.id);
        let sensitivity = match (&intent.action, &service) {
            (IntentKind::Deploy(deploy), _) => Some(deploy.sensitivity),
            (_, service) => service.as_ref().map(|s| s.sensitivity),
        };
        let starts = !matches!(intent.action, IntentKind::Terminate {} | IntentKind::Isolate(_));
        let assurance = match sensitivity.filter(|_| starts) {
            Some(sensitivity) => self.assurance(sensitivity, &policy).await?,
            None => Assurance::None,
        };
        let payload = serde_json::to_vec(intent).map_err(|e| Problem::internal("ENCODING", e))?;
        Ok(Grant {
            ledger: self.ledger.name().to_owned(),
            intent_id: intent.id.clone(),
            intent: Digest::of(payload),
            tenant: intent.tenant.clone(),
            ns_instance_id: service.as_ref().map_or_else(fresh, |s| s.ns_instance_id.clone()),
            action: intent.action.name().to_owned(),
            not_after: intent.not_after,
            lease_until: None,
            packages,
            images,
            attestation_keys: self.valid_keys().await?,
            attestation_required: assurance > Assurance::None,
            tee_required: assurance == Assurance::Tee,
            policy,
            site_quotas: self.site_quotas(&intent.tenant, &policy).await?,
            waived: Vec::new(),
            standing: None,
        })
    }

    /// Is the service that the intent is about on the ledger, unless the intent makes it?
    async fn may_exist(&self, intent: &Intent) -> Result<bool, Problem> {
        if matches!(intent.action, IntentKind::Deploy(_)) {
            return Ok(true);
        }
        let key = state::service_key(&intent.tenant, &intent.service);
        Ok(self.fetch::<ServiceRecord>(&key).await?.is_some_and(|s| !s.gone))
    }

    async fn fetch<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Problem> {
        let value = self.ledger.state(key).await.map_err(ledger_problem)?;
        value.map(|v| decode(key, &v).map_err(|e| Problem::internal("LEDGER_STATE", e))).transpose()
    }

    /// A registered NSD's package and those of its constituents.
    async fn packages_of(&self, nsd: &Digest) -> Result<BTreeMap<String, Digest>, Problem> {
        let Some(record) = self.registered(nsd).await? else {
            return Err(Problem::new(
                409,
                "UNKNOWN_PACKAGE",
                "The intent cannot be planned",
                format!("package {nsd} is not registered"),
            )
            .hint("register it first: `mandate package push`; see `mandate package list`"));
        };
        let mut packages = record.constituents;
        packages.insert(record.descriptor_id, record.digest);
        Ok(packages)
    }

    async fn valid_keys(&self) -> Result<Vec<AkRecord>, Problem> {
        let mut keys = Vec::new();
        for site in self.fetch::<Vec<String>>(AK_INDEX).await?.unwrap_or_default() {
            let key: Option<AkRecord> = self.fetch(&state::ak_key(&site)).await?;
            keys.extend(key.filter(|k| (k.not_before..=k.not_after).contains(&now())));
        }
        Ok(keys)
    }

    /// What the tenant may still use at the sites that the policy limits.
    async fn site_quotas(
        &self,
        tenant: &str,
        policy: &Digest,
    ) -> Result<BTreeMap<String, ResourceUse>, Problem> {
        let bundle: Option<PolicyBundle> = self.fetch(&state::policy_key(policy)).await?;
        let data = bundle.map(|b| b.data()).transpose().map_err(|e| Problem::internal("LEDGER_STATE", e))?;
        let usage: Usage = self.fetch(&state::usage_key(tenant)).await?.unwrap_or_default();
        let quota = data.as_ref().and_then(|d| d.quotas.get(tenant).or_else(|| d.quotas.get("default")));
        Ok(quota.map(|q| remaining_at_sites(q, &usage)).unwrap_or_default())
    }

    async fn assurance(&self, sensitivity: Sensitivity, policy: &Digest) -> Result<Assurance, Problem> {
        let bundle: Option<PolicyBundle> = self.fetch(&state::policy_key(policy)).await?;
        let data = bundle.map(|b| b.data()).transpose().map_err(|e| Problem::internal("LEDGER_STATE", e))?;
        // Without a policy nothing would be approved; a measured launch is what it takes at least.
        Ok(data.map_or(Assurance::Measured, |d| d.assurance_of(sensitivity)))
    }
}

/// Z with its parts and the reason against every other site; `None`: nothing is placed anew.
fn explained(input: &Input<'_>) -> Option<PlacementView> {
    let problem = planner::placement(input).ok().flatten()?;
    let (sites, explanation) = match placement::solve(&problem, Budget::default()) {
        Ok(answer) => (answer.assignment.clone(), placement::explain(&answer)),
        Err(PlacementError::Unplaceable(why)) => (BTreeMap::new(), placement::explain_refusal(&why)),
        Err(_) => return None,
    };
    let table = |t: placement::Table| TableView { title: t.title, columns: t.columns, rows: t.rows };
    Some(PlacementView {
        sites,
        headline: explanation.headline,
        tables: explanation.tables.into_iter().map(table).collect(),
    })
}

/// What the policy demands of a site's trustworthiness, and what each has of it.
fn demands(grant: &Grant, sites: &[placement::Site]) -> Option<TableView> {
    let candidates: Vec<_> = sites.iter().map(|s| placement::Candidate::of(s, now())).collect();
    let row = |what: &str, of: &dyn Fn(usize) -> Option<String>, has: &dyn Fn(usize) -> String| {
        let answer = |n: usize| of(n).map_or_else(|| has(n), |why| format!("no: {why}"));
        std::iter::once(what.to_owned()).chain((0..sites.len()).map(answer)).collect::<Vec<_>>()
    };
    let mut rows = Vec::new();
    if grant.attestation_required {
        let lacks = |n: usize| candidates[n].no_attestation.clone();
        rows.push(row("a measured launch, attested", &lacks, &|_| "yes".to_owned()));
    }
    if grant.tee_required {
        let lacks = |n: usize| candidates[n].no_tee.clone();
        let has = |n: usize| format!("yes: {}", sites[n].tee.as_deref().unwrap_or_default());
        rows.push(row("a trusted execution environment (TEE)", &lacks, &has));
    }
    let columns = std::iter::once("what".to_owned()).chain(sites.iter().map(|s| s.name.clone())).collect();
    (!rows.is_empty()).then(|| TableView {
        title: "The policy demands, for traffic as sensitive as this".into(),
        columns,
        rows,
    })
}

fn planned(plan: &Plan, placement: Option<PlacementView>) -> PlanView {
    PlanView {
        ns_instance_id: plan.ns_instance_id.clone(),
        action: plan.action.clone(),
        feasible: true,
        code: None,
        detail: None,
        site: Some(plan.site.clone()).filter(|s| !s.is_empty()),
        steps: plan.steps.iter().map(|s| step(plan, s)).collect(),
        placement,
        demands: None,
    }
}

fn refused(intent: &Intent, grant: &Grant, refusal: &Refusal, placement: Option<PlacementView>) -> PlanView {
    PlanView {
        ns_instance_id: grant.ns_instance_id.clone(),
        action: intent.action.name().to_owned(),
        feasible: false,
        code: Some(refusal.code.to_owned()),
        detail: Some(refusal.detail.clone()),
        site: None,
        steps: Vec::new(),
        placement,
        demands: None,
    }
}

fn step(plan: &Plan, step: &Step) -> PlannedStepView {
    PlannedStepView {
        id: step.id,
        what: step.what.clone(),
        action: step.action.name(),
        object: step.action.object().to_owned(),
        site: plan.site_of(step).to_owned(),
        needs: step.needs.clone(),
        undo: step.undo.as_ref().map(Action::name),
    }
}
