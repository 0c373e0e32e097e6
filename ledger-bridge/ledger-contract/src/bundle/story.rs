//! The body, line by line: who says what, does it link to what was said before, and is it true as far as it can be
//! computed again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, de::DeserializeOwned};
use trust::{Digest, Envelope, TrustRoots, statement::Statement};

use super::{BundleCheck, BundleError, VerifiedBundle, broken, receipt::Receipt};
use crate::{
    anchoring::COMPLETED,
    approval::{Approved, MAX_CLOCK_SKEW_S, approved_intent, proven_entry, signer},
    evidence::{
        ATTESTATION, AttestationClaim, DECISION, DecisionClaim, Link, MEASUREMENT, MeasurementClaim, OUTCOME,
        Objective, OutcomeClaim, PLAN, PlanClaim, STEP, StepClaim, objectives,
    },
    intent::IntentKind,
};

/// What the lines so far have told.
pub(super) struct Story<'a> {
    roots: &'a TrustRoots,
    receipt: &'a Receipt,
    checks: Vec<BundleCheck>,
    previous: Option<Digest>,
    operation_id: Option<String>,
    approved: Option<Approved>,
    plan: Option<PlanClaim>,
    /// Final state of each step that has a line of its own.
    steps: BTreeMap<u32, String>,
    appraisals: Vec<bool>,
    measurements: Vec<Vec<Objective>>,
    outcome: Option<OutcomeClaim>,
}

/// The part of a statement that says how to read the rest.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "predicateType")]
    predicate_type: String,
}

type Told<T> = Result<T, BundleError>;

/// `line 4 (step 2, ensure compute vfw)`: as much as can be read of it.
fn place(index: usize, line: &[u8]) -> String {
    let number = index + 1;
    let payload = Envelope::from_json(line).map(|e| e.payload).unwrap_or_default();
    match describe(&payload) {
        Some(what) => format!("line {number} ({what})"),
        None => format!("line {number}"),
    }
}

fn describe(payload: &[u8]) -> Option<String> {
    let kind: Kind = serde_json::from_slice(payload).ok()?;
    let name =
        kind.predicate_type.strip_prefix("https://mandate.dev/evidence/")?.strip_suffix("/v1")?.to_owned();
    if kind.predicate_type != STEP {
        return Some(name);
    }
    let step: Statement<Link<StepClaim>> = serde_json::from_slice(payload).ok()?;
    let claim = step.predicate.claim;
    Some(format!("step {}, {} {}", claim.step, claim.action, claim.object).trim_end().to_owned())
}

impl<'a> Story<'a> {
    pub fn new(roots: &'a TrustRoots, receipt: &'a Receipt) -> Self {
        Self {
            roots,
            receipt,
            checks: Vec::new(),
            previous: None,
            operation_id: None,
            approved: None,
            plan: None,
            steps: BTreeMap::new(),
            appraisals: Vec::new(),
            measurements: Vec::new(),
            outcome: None,
        }
    }

    /// One more line, without its newline.
    pub fn line(&mut self, index: usize, line: &[u8]) -> Told<()> {
        let place = place(index, line);
        let told = self.envelope(line).and_then(|envelope| self.statement(index, &envelope));
        let detail = told.or_else(|problem| broken(place.clone(), problem))?;
        self.previous = Some(Digest::of(line));
        self.checks.push(BundleCheck { name: place, ok: detail.ok, detail: detail.text });
        self.checks.extend(detail.more);
        Ok(())
    }

    /// The signed statement of a line: in its one encoding, by the orchestrator that anchored it.
    fn envelope(&self, line: &[u8]) -> Result<Envelope, String> {
        let envelope = Envelope::from_json(line).map_err(|e| e.to_string())?;
        if envelope.to_json() != line {
            return Err("the line is not in its canonical encoding: a byte of it was altered".to_owned());
        }
        let who = signer(&envelope, self.roots, self.receipt.time())?;
        if who.role() != "orchestrator" {
            return Err(format!("{who} has the role `{}`, not `orchestrator`", who.role()));
        }
        let org = &self.receipt.orchestrator.org;
        match who.org == *org {
            true => Ok(envelope),
            false => Err(format!("signed by {who}; the evidence was anchored by organisation `{org}`")),
        }
    }

    fn statement(&mut self, index: usize, envelope: &Envelope) -> Result<Detail, String> {
        if self.outcome.is_some() {
            return Err("there is evidence after the outcome".to_owned());
        }
        let kind: Kind = serde_json::from_slice(&envelope.payload)
            .map_err(|e| format!("the statement cannot be read: {e}"))?;
        let first = index == 0;
        if first != (kind.predicate_type == DECISION) {
            return Err("evidence begins with the decision, and has one".to_owned());
        }
        match kind.predicate_type.as_str() {
            DECISION => {
                let (claim, subject) = self.link::<DecisionClaim>(index, envelope, DECISION)?;
                self.decision(&claim, subject)
            }
            PLAN => self.about_intent(index, envelope, PLAN).and_then(|c| self.planned(c)),
            STEP => self.about_intent(index, envelope, STEP).and_then(|c| self.step(&c)),
            ATTESTATION => self.about_intent(index, envelope, ATTESTATION).and_then(|c| self.attestation(&c)),
            MEASUREMENT => self.about_intent(index, envelope, MEASUREMENT).and_then(|c| self.measurement(&c)),
            OUTCOME => self.about_intent(index, envelope, OUTCOME).and_then(|c| self.ended(c)),
            other => Err(format!("predicate type `{other}` is none of an evidence bundle's")),
        }
    }

    /// Reads a claim and checks the link to the line before; with it, the digests it is about.
    fn link<P: DeserializeOwned>(
        &mut self,
        index: usize,
        envelope: &Envelope,
        kind: &str,
    ) -> Result<(P, BTreeSet<Digest>), String> {
        let statement: Statement<Link<P>> =
            Statement::from_envelope(envelope, kind).map_err(|e| format!("the statement: {e}"))?;
        let link = statement.predicate;
        if usize::try_from(link.index) != Ok(index) {
            return Err(format!(
                "it says it is line {}: lines are missing or in another order",
                link.index + 1
            ));
        }
        if link.previous != self.previous {
            return Err("it does not follow the line before: the digest differs".to_owned());
        }
        let operation = self.operation_id.get_or_insert_with(|| link.operation_id.clone());
        if *operation != link.operation_id {
            return Err(format!("it is of operation `{}`, the bundle of `{operation}`", link.operation_id));
        }
        Ok((link.claim, statement.subject.iter().filter_map(|s| s.sha256()).collect()))
    }

    /// A claim whose subject is the intent.
    fn about_intent<P: DeserializeOwned>(
        &mut self,
        index: usize,
        envelope: &Envelope,
        kind: &str,
    ) -> Result<P, String> {
        let (claim, subject) = self.link(index, envelope, kind)?;
        match subject.contains(&self.approval()?.grant.intent) {
            true => Ok(claim),
            false => Err("its subject is not the intent".to_owned()),
        }
    }

    fn approval(&self) -> Result<&Approved, String> {
        self.approved.as_ref().ok_or_else(|| "there is no decision before it".to_owned())
    }

    fn decision(&mut self, claim: &DecisionClaim, subject: BTreeSet<Digest>) -> Result<Detail, String> {
        let approved = proven_entry(&claim.approval, self.roots)
            .and_then(|entry| approved_intent(entry, self.roots))
            .map_err(|refusal| format!("the approval: {} ({})", refusal.detail, refusal.code))?;
        if !subject.contains(&approved.grant.intent) {
            return Err("its subject is not the intent".to_owned());
        }
        let rules = approved.entry.verdict.rules.len();
        let detail = Detail::new(format!(
            "{} `{}` by {}, approved at position {} ({}) by {rules} rules of policy {}",
            approved.grant.action,
            approved.intent.service,
            approved.tenant_identity,
            approved.position,
            approved.entry.time,
            approved.grant.policy.short(),
        ));
        self.approved = Some(approved);
        Ok(detail)
    }

    fn planned(&mut self, plan: PlanClaim) -> Result<Detail, String> {
        if self.plan.is_some() {
            return Err("there is a second plan".to_owned());
        }
        if let IntentKind::Deploy(deploy) = &self.approval()?.intent.action {
            let sites = &deploy.placement.sites;
            if !sites.is_empty() && !sites.contains(&plan.site) {
                return Err(format!("site `{}` is none that the intent allows", plan.site));
            }
        }
        let ids: BTreeSet<u32> = plan.steps.iter().chain(&plan.isolation).map(|s| s.step).collect();
        if ids.len() != plan.steps.len() + plan.isolation.len() {
            return Err("two of its steps have the same id".to_owned());
        }
        let detail = format!(
            "{} steps at site `{}`, {} sites refused",
            plan.steps.len(),
            plan.site,
            plan.refused.len()
        );
        self.plan = Some(plan);
        Ok(Detail::new(detail))
    }

    fn step(&mut self, claim: &StepClaim) -> Result<Detail, String> {
        let Some(plan) = &self.plan else { return Err("there is no plan before it".to_owned()) };
        if !plan.steps.iter().chain(&plan.isolation).any(|s| s.step == claim.step) {
            return Err(format!("step {} is not in the plan", claim.step));
        }
        if self.steps.insert(claim.step, claim.state.clone()).is_some() {
            return Err(format!("step {} is there twice", claim.step));
        }
        Ok(Detail {
            ok: claim.state == "DONE" || claim.state == "UNDONE",
            ..Detail::new(claim.state.clone())
        })
    }

    fn attestation(&mut self, claim: &AttestationClaim) -> Result<Detail, String> {
        let approved = self.approval()?;
        let Some(plan) = &self.plan else { return Err("there is no plan before it".to_owned()) };
        let ak = &claim.reference.ak;
        if !approved.grant.attestation_keys.contains(ak) {
            return Err(format!(
                "the key of site `{}` is not the one registered when the intent was approved",
                ak.site
            ));
        }
        if ak.site != plan.site {
            return Err(format!("site `{}` was attested, the plan is for `{}`", ak.site, plan.site));
        }
        let (from, to) = (approved.entry.time, self.receipt.time().plus(MAX_CLOCK_SKEW_S));
        if claim.at.plus(MAX_CLOCK_SKEW_S) < from || claim.at > to {
            return Err(format!("appraised at {}, outside of the operation ({from} to {to})", claim.at));
        }
        let again = attestation::appraise(&claim.evidence, &claim.reference, &claim.nonce, claim.at);
        if again != claim.result {
            return Err("appraising the evidence again gives another result".to_owned());
        }
        self.appraisals.push(again.affirming);
        let instances = claim.reference.workloads.len();
        let checks = again.checks.into_iter().map(|c| BundleCheck {
            name: format!("attestation: {}", c.code),
            ok: c.passed,
            detail: c.detail,
        });
        Ok(Detail {
            ok: again.affirming,
            text: format!("{instances} instances at site `{}`, appraised again", ak.site),
            more: checks.collect(),
        })
    }

    fn measurement(&mut self, claim: &MeasurementClaim) -> Result<Detail, String> {
        if self.plan.is_none() {
            return Err("there is no plan before it".to_owned());
        }
        if let IntentKind::Deploy(deploy) = &self.approval()?.intent.action
            && deploy.sla != claim.sla
        {
            return Err("it was measured against another SLA than the intent's".to_owned());
        }
        let again = objectives(&claim.sla, &claim.profile, &claim.report);
        if again != claim.slo {
            return Err("computing the objectives again gives another result".to_owned());
        }
        let more = again.iter().map(|o| BundleCheck {
            name: format!("measurement: {}", o.name),
            ok: o.kept,
            detail: format!("{} measured, bound {}", o.measured, o.bound),
        });
        let detail = Detail {
            ok: again.iter().all(|o| o.kept),
            text: format!("{} frames sent, {} came back", claim.report.tx_frames, claim.report.rx_frames),
            more: more.collect(),
        };
        self.measurements.push(again);
        Ok(detail)
    }

    fn ended(&mut self, claim: OutcomeClaim) -> Result<Detail, String> {
        let anchored = &self.receipt.anchor.outcome;
        if claim.state != *anchored {
            return Err(format!("it says {}, the anchor {anchored}", claim.state));
        }
        let completed = claim.state == COMPLETED;
        if completed {
            self.complete()?;
        }
        self.sla_as_anchored(completed)?;
        let text = match &claim.problem {
            Some(problem) => format!("{}: {problem}", claim.state),
            None => claim.state.clone(),
        };
        self.outcome = Some(claim);
        Ok(Detail { ok: completed, ..Detail::new(text) })
    }

    /// An operation that says it is complete has evidence of every step of its plan, and of its attestation.
    fn complete(&self) -> Result<(), String> {
        let Some(plan) = &self.plan else { return Err("it is COMPLETED without a plan".to_owned()) };
        if let Some((id, state)) = self.steps.iter().find(|(_, state)| *state != "DONE") {
            return Err(format!("it is COMPLETED, but step {id} is {state}"));
        }
        let missing = plan.steps.iter().filter(|s| !self.steps.contains_key(&s.step)).count();
        if missing != self.appraisals.len() + self.measurements.len() {
            return Err(format!(
                "it is COMPLETED, but {missing} steps of the plan have no line, and there are {} attestations and {} measurements",
                self.appraisals.len(),
                self.measurements.len()
            ));
        }
        let required = self.approval()?.grant.attestation_required;
        match self.appraisals.last() {
            None if required => {
                Err("it is COMPLETED without the attestation that the grant requires".to_owned())
            }
            Some(false) => Err("it is COMPLETED, but the attestation is not affirming".to_owned()),
            _ => Ok(()),
        }
    }

    fn sla_as_anchored(&self, completed: bool) -> Result<(), String> {
        let met = self.measurements.last().map(|o| o.iter().all(|o| o.kept));
        let said = self.receipt.anchor.sla_met;
        match met == said || (said.is_none() && !completed) {
            true => Ok(()),
            false => Err(format!("the anchor says SLA met: {said:?}, the measurement: {met:?}")),
        }
    }

    /// Everything was told: compare it with what was anchored.
    pub fn finish(mut self, body: Digest) -> Told<VerifiedBundle> {
        let receipt = self.receipt;
        let anchor = &receipt.anchor;
        let (Some(approved), Some(outcome)) = (self.approved.take(), self.outcome.take()) else {
            return broken("bundle", "it has no outcome: lines are missing at its end");
        };
        let operation_id = self.operation_id.take().unwrap_or_default();
        let pairs = [
            ("bundle digest", anchor.bundle.to_string(), body.to_string()),
            ("operation", anchor.operation_id.clone(), operation_id.clone()),
            ("intent", anchor.intent_id.clone(), approved.intent.id.clone()),
            ("NS instance", anchor.ns_instance_id.clone(), approved.grant.ns_instance_id.clone()),
            ("ledger", receipt.entry.ledger.clone(), approved.entry.ledger.clone()),
        ];
        for (what, anchored, here) in &pairs {
            if anchored != here {
                return broken("receipt", format!("{what}: anchored `{anchored}`, the bundle has `{here}`"));
            }
        }
        if receipt.entry.position <= approved.position {
            return broken("receipt", "it was anchored before it was decided");
        }
        self.receipt_checks(body);
        Ok(VerifiedBundle {
            checks: self.checks,
            operation_id,
            verdict: approved.entry.verdict.clone(),
            decided: (approved.position, approved.entry.time),
            intent: approved.intent,
            grant: approved.grant,
            tenant_identity: approved.tenant_identity,
            orchestrator_identity: receipt.orchestrator.clone(),
            site: self.plan.map(|p| p.site),
            steps: self.steps.len(),
            attested: self.appraisals.last().copied(),
            slo: self.measurements.pop().unwrap_or_default(),
            outcome: outcome.state,
            problem: outcome.problem,
            body,
            anchored: (receipt.entry.position, receipt.time()),
        })
    }

    fn receipt_checks(&mut self, body: Digest) {
        let Receipt { entry, orchestrator, size, .. } = self.receipt;
        let rows = [
            ("receipt: body", format!("anchored digest {body}")),
            ("receipt: anchor", format!("by {orchestrator} at position {} ({})", entry.position, entry.time)),
            (
                "receipt: inclusion",
                format!("entry {} is in the tree of {size} entries of `{}`", entry.position, entry.ledger),
            ),
        ];
        let checks = rows.map(|(name, detail)| BundleCheck { name: name.to_owned(), ok: true, detail });
        self.checks.extend(checks);
    }
}

/// What a line says, for a person.
struct Detail {
    ok: bool,
    text: String,
    more: Vec<BundleCheck>,
}

impl Detail {
    fn new(text: String) -> Self {
        Self { ok: true, text, more: Vec::new() }
    }
}
