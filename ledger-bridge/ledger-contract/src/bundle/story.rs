//! The body, line by line: who says what, does it link to what was said before, and is it true as far as it can be
//! computed again.

use std::collections::BTreeSet;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use trust::{
    Digest, Envelope,
    statement::{Statement, predicate_type},
};

use super::{
    BundleCheck, BundleError, VerifiedBundle, broken, plans,
    receipt::Receipt,
    steps::{ATTEST, DONE, ENSURE_COMPUTE, ENSURE_IMAGE, FAILED, MEASURE, Steps, UNDONE},
};
use crate::{
    anchoring::COMPLETED,
    approval::{Approved, MAX_CLOCK_SKEW_S, approved_intent, proven_entry, signer},
    evidence::{
        ATTESTATION, AttestationClaim, DECISION, DecisionClaim, Link, MAX_STEPS_PER_LINE, MEASUREMENT,
        MeasurementClaim, OUTCOME, Objective, OutcomeClaim, PLAN, PlanClaim, STEP, STEPS, StepClaim,
        StepsClaim, challenge_nonce, objectives,
    },
    intent::IntentKind,
};

/// What the lines so far have told.
pub(super) struct Story<'a> {
    receipt: &'a Receipt,
    checks: Vec<BundleCheck>,
    previous: Option<Digest>,
    operation_id: Option<String>,
    approved: Option<Approved>,
    plan: Option<Planned>,
    appraisals: Vec<bool>,
    /// The objectives of the last measurement.
    measured: Option<Vec<Objective>>,
    /// Was any traffic sent in a measurement?
    traffic: bool,
    outcome: Option<OutcomeClaim>,
}

/// A plan, and what became of it.
struct Planned {
    site: String,
    claim: PlanClaim,
    steps: Steps,
}

impl Planned {
    /// Where a step is to take effect.
    fn site_of(&self, step: u32) -> &str {
        let found = self.claim.steps.iter().chain(&self.claim.isolation).find(|s| s.step == step);
        found.map_or(self.site.as_str(), |s| plans::site_of(&self.claim, s))
    }

    /// Is it the attestation of the service as it was, before anything is started?
    fn is_gate(&self, step: u32) -> bool {
        let mut before = self.claim.steps.iter().take_while(|s| s.step != step);
        before.all(|s| s.action != ENSURE_COMPUTE)
    }

    /// Is it the last attestation at its site?
    fn is_last(&self, step: u32) -> bool {
        let mut after = self.claim.steps.iter().skip_while(|s| s.step != step).skip(1);
        let site = self.site_of(step);
        !after.any(|s| s.action == ATTEST && plans::site_of(&self.claim, s) == site)
    }
}

/// What the observation of an image or an instance says about bytes.
#[derive(Deserialize)]
struct ObservedBytes {
    /// Of an instance.
    image: Option<Digest>,
    /// Of an image.
    digest: Option<Digest>,
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
    let kind = predicate_type(payload).ok()?;
    match kind.as_str() {
        STEP => {
            let step: Statement<Link<StepClaim>> = serde_json::from_slice(payload).ok()?;
            Some(words(&step.predicate.claim))
        }
        STEPS => {
            let steps: Statement<Link<StepsClaim>> = serde_json::from_slice(payload).ok()?;
            Some(span(&steps.predicate.claim.steps))
        }
        _ => short(&kind).map(str::to_owned),
    }
}

/// `https://mandate.dev/evidence/plan/v1` -> `plan`.
fn short(predicate_type: &str) -> Option<&str> {
    predicate_type.strip_prefix("https://mandate.dev/evidence/")?.strip_suffix("/v1")
}

fn words(claim: &StepClaim) -> String {
    format!("step {}, {} {}", claim.step, claim.action, claim.object).trim_end().to_owned()
}

/// `steps 2 to 9`
fn span(steps: &[StepClaim]) -> String {
    match steps {
        [] => "steps".to_owned(),
        [one] => words(one),
        [first, .., last] => format!("steps {} to {}", first.step, last.step),
    }
}

impl<'a> Story<'a> {
    pub fn new(receipt: &'a Receipt) -> Self {
        Self {
            receipt,
            checks: Vec::new(),
            previous: None,
            operation_id: None,
            approved: None,
            plan: None,
            appraisals: Vec::new(),
            measured: None,
            traffic: false,
            outcome: None,
        }
    }

    /// One more line, without its newline.
    pub fn line(&mut self, index: usize, line: &[u8]) -> Told<()> {
        let told = self.envelope(line).and_then(|envelope| self.statement(index, &envelope));
        let detail = told.or_else(|problem| broken(place(index, line), problem))?;
        self.previous = Some(Digest::of(line));
        let name = format!("line {} ({})", index + 1, detail.what);
        self.checks.push(BundleCheck { name, ok: detail.ok, detail: detail.text });
        self.checks.extend(detail.more);
        Ok(())
    }

    /// The signed statement of a line: in its one encoding, by the orchestrator that anchored it.
    fn envelope(&self, line: &[u8]) -> Result<Envelope, String> {
        let envelope = Envelope::from_canonical(line).map_err(|e| e.to_string())?;
        let roots = &self.receipt.constitution.at(self.receipt.place).roots;
        let who = signer(&envelope, roots, self.receipt.time())?;
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
        let kind = predicate_type(&envelope.payload).map_err(|e| format!("the statement: {e}"))?;
        let first = index == 0;
        if first != (kind == DECISION) {
            return Err("evidence begins with the decision, and has one".to_owned());
        }
        let told = match kind.as_str() {
            DECISION => {
                let (claim, subject) = self.link::<DecisionClaim>(index, envelope, DECISION)?;
                self.decision(&claim, subject)
            }
            PLAN => self.about_intent(index, envelope, PLAN).and_then(|c| self.planned(c)),
            STEP => {
                let claim = self.about_intent(index, envelope, STEP)?;
                self.step(&claim).map(|told| Detail { what: words(&claim), ..told })
            }
            STEPS => {
                let claim: StepsClaim = self.about_intent(index, envelope, STEPS)?;
                self.run(&claim.steps).map(|told| Detail { what: span(&claim.steps), ..told })
            }
            ATTESTATION => self.about_intent(index, envelope, ATTESTATION).and_then(|c| self.attestation(&c)),
            MEASUREMENT => self.about_intent(index, envelope, MEASUREMENT).and_then(|c| self.measurement(&c)),
            OUTCOME => self.about_intent(index, envelope, OUTCOME).and_then(|c| self.ended(c)),
            other => Err(format!("predicate type `{other}` is none of an evidence bundle's")),
        };
        told.map(|told| match told.what.is_empty() {
            true => Detail { what: short(&kind).unwrap_or_default().to_owned(), ..told },
            false => told,
        })
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
        let epoch = self.receipt.constitution.at(claim.approval.place());
        let roots = &epoch.roots;
        let approved = proven_entry(&claim.approval, roots)
            .and_then(|entry| approved_intent(&claim.approval, entry, roots))
            .map_err(|refusal| format!("the approval: {} ({})", refusal.detail, refusal.code))?;
        if !subject.contains(&approved.grant.intent) {
            return Err("its subject is not the intent".to_owned());
        }
        if let Some(in_force) = epoch.policy.filter(|p| *p != approved.grant.policy) {
            return Err(format!(
                "the approval: decided by policy {}, which was not in force: that was {in_force}",
                approved.grant.policy
            ));
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
        let waived = approved.grant.waived.iter().map(|rule| BundleCheck {
            name: "decision: waived".to_owned(),
            ok: false,
            detail: format!(
                "{rule}, in an emergency: {}",
                approved.intent.emergency.as_ref().map_or("", |e| e.reason.as_str())
            ),
        });
        let detail = Detail { more: waived.collect(), ..detail };
        self.approved = Some(approved);
        Ok(detail)
    }

    fn planned(&mut self, plan: PlanClaim) -> Result<Detail, String> {
        if let Some(former) = &self.plan {
            self.supersedes(former, &plan)?;
        }
        plans::check(&plan, self.approval()?)?;
        let steps = Steps::of(&plan)?;
        let detail = format!(
            "{} steps at site `{}`, {} sites refused",
            plan.steps.len(),
            plan.site,
            plan.refused.len()
        );
        let unmeasured = plan.unmeasured.iter().map(|why| BundleCheck {
            name: "plan: not measured".to_owned(),
            ok: false,
            detail: format!("whether the objectives are kept is not known: {why}"),
        });
        let unmeasured = unmeasured.collect();
        let before = self.plan.take().map_or(0, |p| p.steps.plain);
        self.plan = Some(Planned { site: plan.site.clone(), claim: plan, steps: steps.after(before) });
        (self.measured, self.traffic) = (None, false);
        Ok(Detail { more: unmeasured, ..Detail::new(detail) })
    }

    /// A second plan follows one that was taken back whole, for another site.
    fn supersedes(&self, former: &Planned, plan: &PlanClaim) -> Result<(), String> {
        if !matches!(self.approval()?.intent.action, IntentKind::Deploy(_) | IntentKind::Migrate(_)) {
            return Err("there is a second plan".to_owned());
        }
        former.steps.taken_back().map_err(|e| format!("there is a second plan, but of the first {e}"))?;
        match former.site == plan.site {
            true => Err(format!("there is a second plan, for site `{}` again", plan.site)),
            false => Ok(()),
        }
    }

    fn plan(&mut self) -> Result<&mut Planned, String> {
        self.plan.as_mut().ok_or_else(|| "there is no plan before it".to_owned())
    }

    /// Steps under one signature: each is held against the plan as if it had a line of its own, and named if it does not hold.
    fn run(&mut self, steps: &[StepClaim]) -> Result<Detail, String> {
        if steps.is_empty() || steps.len() > MAX_STEPS_PER_LINE {
            return Err(format!("it tells {} steps; a line has 1 to {MAX_STEPS_PER_LINE}", steps.len()));
        }
        if let [one] = steps {
            return self.step(one);
        }
        let (mut ok, mut more) = (true, Vec::with_capacity(steps.len()));
        for claim in steps {
            let told = self.step(claim).map_err(|problem| format!("{}: {problem}", words(claim)))?;
            ok &= told.ok;
            more.push(BundleCheck { name: words(claim), ok: told.ok, detail: told.text });
            more.extend(told.more);
        }
        Ok(Detail { ok, more, ..Detail::new(format!("{} steps, each read back", steps.len())) })
    }

    fn step(&mut self, claim: &StepClaim) -> Result<Detail, String> {
        self.plan()?.steps.plain(claim)?;
        if claim.state == DONE && [ENSURE_COMPUTE, ENSURE_IMAGE].contains(&claim.action.as_str()) {
            self.granted_bytes(claim)?;
        }
        if claim.state == DONE && claim.action == plans::CAPTURE {
            let named = claim.observed.get("capture").and_then(|c| Digest::deserialize(c).ok());
            let digest = named.ok_or("it does not say which capture was taken")?;
            return Ok(Detail::new(format!("{DONE}: capture {digest}")));
        }
        let text = match read_back(&claim.observed).filter(|_| claim.state == DONE) {
            Some(place) => format!("{DONE}: {place}"),
            None => claim.state.clone(),
        };
        Ok(Detail { ok: claim.state == DONE || claim.state == UNDONE, ..Detail::new(text) })
    }

    /// What was found stored or running is one of the images that the grant names.
    fn granted_bytes(&self, claim: &StepClaim) -> Result<(), String> {
        let found = ObservedBytes::deserialize(&claim.observed)
            .ok()
            .and_then(|o| if claim.action == ENSURE_IMAGE { o.digest } else { o.image });
        match found {
            None => Err(format!("it does not say which image was found as {}", claim.object)),
            Some(image) if self.approval()?.grant.images.contains(&image) => Ok(()),
            Some(image) => Err(format!("image {image} was found, which the grant does not name")),
        }
    }

    fn attestation(&mut self, claim: &AttestationClaim) -> Result<Detail, String> {
        self.reference(claim)?;
        self.challenge(claim)?;
        let approved = self.approval()?;
        let (from, to) = (approved.entry.time, self.receipt.time().plus(MAX_CLOCK_SKEW_S));
        if claim.at.plus(MAX_CLOCK_SKEW_S) < from || claim.at > to {
            return Err(format!("appraised at {}, outside of the operation ({from} to {to})", claim.at));
        }
        let again = attestation::appraise(&claim.evidence, &claim.reference, &claim.nonce, claim.at);
        if again != claim.result {
            return Err("appraising the evidence again gives another result".to_owned());
        }
        self.plan()?.steps.evidence(claim.step, ATTEST, again.affirming)?;
        self.appraisals.push(again.affirming);
        let instances = claim.reference.workloads.len();
        let checks = again.checks.into_iter().map(|c| BundleCheck {
            name: format!("attestation: {}", c.code),
            ok: c.passed,
            detail: c.detail,
        });
        let text = format!("{instances} instances at site `{}`, appraised again", claim.reference.ak.site);
        Ok(Detail { ok: again.affirming, more: checks.collect(), ..Detail::new(text) })
    }

    /// The reference values are those of the granted software, under the key and at the site that were granted.
    fn reference(&mut self, claim: &AttestationClaim) -> Result<(), String> {
        let (ak, workloads) = (&claim.reference.ak, &claim.reference.workloads);
        let grant = &self.approval()?.grant;
        if grant.tee_required && !claim.reference.tee {
            return Err(
                "the grant asks for a trusted execution environment, the reference values do not".to_owned()
            );
        }
        if !grant.attestation_keys.contains(ak) {
            return Err(format!(
                "the key of site `{}` is not the one registered when the intent was approved",
                ak.site
            ));
        }
        let images = grant.images.clone();
        if workloads.is_empty() {
            return Err("it asks for no instance at all".to_owned());
        }
        let planned = self.plan()?;
        let site = planned.site_of(claim.step);
        if ak.site != site {
            return Err(format!("site `{}` was attested, the step is for `{site}`", ak.site));
        }
        // What ran before was granted then: a revision is built on it, and replaces it.
        let was =
            planned.claim.before.iter().flat_map(|b| &b.instances).filter(|_| planned.is_gate(claim.step));
        let ran = |object: &str, image: &Digest| {
            was.clone().any(|i| i.site == site && i.object == object && i.image == *image)
        };
        let stranger = workloads.iter().find(|(o, w)| !images.contains(&w.image) && !ran(o, &w.image));
        if let Some((instance, w)) = stranger {
            return Err(format!("{instance} is to run image {}, which the grant does not name", w.image));
        }
        if let Some(object) =
            planned.steps.computes_before(claim.step, site).find(|o| !workloads.contains_key(*o))
        {
            return Err(format!("it does not ask for {object}, which the plan starts before it"));
        }
        let after = planned.claim.after.iter().flat_map(|a| &a.instances);
        let asked = after.filter(|i| planned.is_last(claim.step) && i.site == site && !i.isolated);
        for i in asked {
            match workloads.get(&i.object) {
                Some(w) if (w.image, w.configuration) == (i.image, i.configuration) => {}
                Some(_) => {
                    return Err(format!("it asks {} for something else than the plan's end", i.object));
                }
                None => return Err(format!("it does not ask for {}, which the plan ends with", i.object)),
            }
        }
        Ok(())
    }

    /// The nonce was made for this step of this operation and these reference values.
    fn challenge(&self, claim: &AttestationClaim) -> Result<(), String> {
        let operation = self.operation_id.as_deref().unwrap_or_default();
        match challenge_nonce(&claim.entropy, operation, claim.step, &claim.reference) == claim.nonce {
            true => Ok(()),
            false => Err(format!("its nonce was not made for step {} of `{operation}`", claim.step)),
        }
    }

    fn measurement(&mut self, claim: &MeasurementClaim) -> Result<Detail, String> {
        let promised = match &self.approval()?.intent.action {
            IntentKind::Deploy(deploy) => Some(&deploy.sla),
            IntentKind::Update(update) => update.sla.as_ref(),
            _ => None,
        };
        if promised.is_some_and(|sla| *sla != claim.sla) {
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
        let text = format!("{} frames sent, {} came back", claim.report.tx_frames, claim.report.rx_frames);
        let ok = again.iter().all(|o| o.kept);
        let detail = Detail { ok, more: more.collect(), ..Detail::new(text) };
        // A broken promise is a result; functions that do not what they were configured to are a failure.
        let works = again.iter().all(|o| o.kept || !o.functional());
        self.plan()?.steps.evidence(claim.step, MEASURE, works)?;
        self.traffic |= claim.profile.groups.iter().any(|g| g.count > 0);
        self.measured = Some(again);
        Ok(detail)
    }

    fn ended(&mut self, claim: OutcomeClaim) -> Result<Detail, String> {
        let anchored = &self.receipt.anchor.outcome;
        if claim.state != *anchored {
            return Err(format!("it says {}, the anchor {anchored}", claim.state));
        }
        let completed = claim.state == COMPLETED;
        match &self.plan {
            Some(plan) => plan.steps.bear_out(&claim.state, self.receipt.anchor.isolated)?,
            None if completed => return Err("it is COMPLETED without a plan".to_owned()),
            None => {}
        }
        if completed {
            self.measured_as_asked()?;
        }
        self.sla_as_anchored()?;
        self.left_as_told(&claim)?;
        let text = match &claim.problem {
            Some(problem) => format!("{}: {problem}", claim.state),
            None => claim.state.clone(),
        };
        let more = interventions(&claim);
        self.outcome = Some(claim);
        Ok(Detail { ok: completed, more, ..Detail::new(text) })
    }

    /// Leftovers are of an operation that failed, and name at least what could not be taken back.
    fn left_as_told(&self, claim: &OutcomeClaim) -> Result<(), String> {
        if claim.state != FAILED {
            let none = claim.leftovers.is_empty();
            return if none { Ok(()) } else { Err(format!("it is {}, and something is left", claim.state)) };
        }
        let stuck = self.plan.iter().flat_map(|p| p.steps.not_taken_back());
        let named = |object: &str| claim.leftovers.iter().any(|l| l.split('@').next() == Some(object));
        match stuck.filter(|o| !o.is_empty()).find(|o| !named(o)) {
            Some(object) => Err(format!("{object} could not be taken back, and is not among what is left")),
            None => Ok(()),
        }
    }

    /// A service with addresses of its own was seen to serve them, or to miss its objectives.
    fn measured_as_asked(&self) -> Result<(), String> {
        let Some((_, vnf_params)) = self.approval()?.intent.action.names() else { return Ok(()) };
        if self.plan.as_ref().is_some_and(|p| p.claim.unmeasured.is_some()) {
            return Ok(());
        }
        match vnf_params.values().any(|p| !p.vips.is_empty()) && !self.traffic {
            true => Err("it is COMPLETED, but no traffic was sent to the services of the intent".to_owned()),
            false => Ok(()),
        }
    }

    fn sla_as_anchored(&self) -> Result<(), String> {
        let met = self.measured.as_ref().map(|o| o.iter().all(|o| o.kept));
        let said = self.receipt.anchor.sla_met;
        match met == said {
            true => Ok(()),
            false => Err(format!("the anchor says SLA met: {said:?}, the last measurement: {met:?}")),
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
        if receipt.place <= approved.place {
            return broken("receipt", "it was anchored before it was decided");
        }
        self.receipt_checks(body);
        self.break_glass(&approved);
        Ok(VerifiedBundle {
            checks: self.checks,
            operation_id,
            verdict: approved.entry.verdict.clone(),
            decided: (approved.position, approved.entry.time),
            intent: approved.intent,
            grant: approved.grant,
            tenant_identity: approved.tenant_identity,
            orchestrator_identity: receipt.orchestrator.clone(),
            steps: self.plan.as_ref().map_or(0, |p| p.steps.plain),
            site: self.plan.map(|p| p.site),
            attested: self.appraisals.last().copied(),
            slo: self.measured.unwrap_or_default(),
            outcome: outcome.state,
            problem: outcome.problem,
            body,
            anchored: (receipt.index, receipt.time()),
        })
    }

    /// What was done outside of the rules stands first.
    fn break_glass(&mut self, approved: &Approved) {
        let Some(emergency) = &approved.intent.emergency else { return };
        let waived = match approved.grant.waived.as_slice() {
            [] => "no rule had to be waived".to_owned(),
            some => format!("waived: {}", some.join(", ")),
        };
        let detail =
            format!("{} declared an emergency: {}; {waived}", approved.tenant_identity, emergency.reason);
        let check =
            BundleCheck { name: "BREAK-GLASS".to_owned(), ok: approved.grant.waived.is_empty(), detail };
        self.checks.insert(0, check);
    }

    fn receipt_checks(&mut self, body: Digest) {
        let Receipt { entry, index, channel, orchestrator, size, .. } = self.receipt;
        let rows = [
            ("receipt: body", format!("anchored digest {body}")),
            ("receipt: anchor", format!("by {orchestrator} at position {index} ({})", entry.time)),
            match channel {
                None => (
                    "receipt: inclusion",
                    format!("entry {index} is in the tree of {size} entries of `{}`", entry.ledger),
                ),
                Some(told) => ("receipt: channel", format!("{told}, is valid on channel `{}`", entry.ledger)),
            },
        ];
        let checks = rows.map(|(name, detail)| BundleCheck { name: name.to_owned(), ok: true, detail });
        self.checks.extend(checks);
    }
}

/// What came from outside, for a person.
fn interventions(claim: &OutcomeClaim) -> Vec<BundleCheck> {
    let row = |name: String, detail: String| BundleCheck { name, ok: false, detail };
    let mut rows: Vec<BundleCheck> = claim
        .interventions
        .iter()
        .map(|i| {
            let by = if i.by.is_empty() { String::new() } else { format!("{}: ", i.by) };
            row(format!("outcome: {}", i.kind), format!("{by}{}", i.reason))
        })
        .collect();
    rows.extend(claim.leftovers.iter().map(|l| row("outcome: left behind".to_owned(), l.clone())));
    rows
}

/// What a line says, for a person.
/// Where an instance was found, and how its connection points are bound there; `None`: the VIM does not tell.
fn read_back(observed: &Value) -> Option<String> {
    let host = observed.pointer("/whereabouts/host")?.as_str()?;
    let bound = |(name, link): (&String, &Value)| {
        let binding = link.get("binding")?;
        let text = |key: &str| binding.get(key).and_then(Value::as_str);
        let device = text("pci_slot").map_or_else(String::new, |slot| format!(" {slot}"));
        Some(format!("{name} {}{device}", text("vif_type")?))
    };
    let links = observed.get("links").and_then(Value::as_object);
    let ports: Vec<String> = links.into_iter().flatten().filter_map(bound).collect();
    let group = observed.pointer("/whereabouts/group/satisfied").and_then(Value::as_bool);
    let apart =
        group.map_or("", |kept| if kept { ", its group satisfied" } else { ", its group not satisfied" });
    Some(format!("on {host}, {}{apart}", ports.join(", ")))
}

struct Detail {
    /// Which line it is; empty: its predicate type says it all.
    what: String,
    ok: bool,
    text: String,
    more: Vec<BundleCheck>,
}

impl Detail {
    fn new(text: String) -> Self {
        Self { what: String::new(), ok: true, text, more: Vec::new() }
    }
}
