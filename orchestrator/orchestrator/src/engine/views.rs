//! Views of operations and services, and the timeline: read from the fold, never stored.

use std::collections::{BTreeMap, BTreeSet};

use lcm::{
    Event, NsRecord, Operation, Step,
    operation::{FinalState, StepResult, StepState},
};
use ledger_contract::evidence::Objective;
use vim::Kind;

use super::{Tracked, runner::intent_of};
use crate::views::{NsView, OperationView, TimelineLine};

pub(super) fn operation(tracked: &Tracked) -> OperationView {
    let o = &tracked.operation;
    OperationView {
        id: o.id.clone(),
        ns_instance_id: o.grant.ns_instance_id.clone(),
        action: o.grant.action.clone(),
        state: o.state().to_owned(),
        site: o.plan.as_ref().map(|p| p.site.clone()).filter(|s| !s.is_empty()),
        progress: o.progress(),
        problem: tracked.problem.clone().or_else(|| o.problem()),
        anchored: o.is_anchored(),
        accepted_at: trust::UnixTime(o.accepted_ms / 1000),
        duration_ms: o.closed_ms.map(|c| c.saturating_sub(o.accepted_ms)),
    }
}

/// All services there ever were, in the order of their first operation.
pub(super) fn services<'a>(all: impl Iterator<Item = &'a Tracked>) -> Vec<NsView> {
    let mut by_ns: BTreeMap<&str, Vec<&Tracked>> = BTreeMap::new();
    for tracked in all {
        by_ns.entry(&tracked.operation.grant.ns_instance_id).or_default().push(tracked);
    }
    let mut views: Vec<(u64, NsView)> = by_ns
        .into_iter()
        .map(|(id, mut of_service)| {
            of_service.sort_by_key(|t| t.operation.approval.proof.index);
            let first = of_service.first().map_or(0, |t| t.operation.accepted_ms);
            (first, service(id, &of_service))
        })
        .collect();
    views.sort_by_key(|(first, _)| *first);
    views.into_iter().map(|(_, v)| v).collect()
}

fn service(id: &str, of_service: &[&Tracked]) -> NsView {
    let newest = |planned: bool| {
        of_service
            .iter()
            .rev()
            .map(|t| &t.operation)
            .find(|o| o.outcome.is_some() && (o.plan.is_some() || !planned))
    };
    let closed = newest(true).or_else(|| newest(false));
    let record = closed.and_then(Operation::record);
    // While it is being deployed, the plan says what it will be.
    let planned = of_service.iter().rev().find_map(|t| t.operation.plan.as_ref()?.after.clone());
    let known = record.as_ref().or(planned.as_ref());
    let intent = of_service.first().and_then(|t| intent_of(&t.operation).ok());
    let isolated = closed.and_then(|o| o.outcome.as_ref()).is_some_and(|o| o.isolated);
    let state = state(of_service, closed, record.as_ref(), isolated);
    NsView {
        id: id.to_owned(),
        tenant: intent.as_ref().map(|i| i.tenant.clone()).unwrap_or_default(),
        service: intent.as_ref().map(|i| i.service.clone()).unwrap_or_default(),
        site: known.map(|r| r.site.clone()),
        nsd: known.map(|r| r.nsd.clone()).unwrap_or_default(),
        instances: record.as_ref().map(|r| instances(r, state)).unwrap_or_default(),
        state: state.to_owned(),
        operations: of_service.iter().map(|t| operation(t)).collect(),
        lease_until: of_service.first().and_then(|t| t.operation.grant.lease_until),
        sla_met: of_service.iter().rev().find_map(|t| lcm::fold::sla_met(&t.operation)),
    }
}

/// SOL005 `nsState`, with `BROKEN` for what neither succeeded nor was taken back, and `ISOLATED`.
fn state(
    of_service: &[&Tracked],
    closed: Option<&Operation>,
    record: Option<&NsRecord>,
    isolated: bool,
) -> &'static str {
    let outcome = closed.and_then(|o| o.outcome.as_ref());
    match (outcome, record) {
        (Some(o), _) if !isolated && o.state == FinalState::Failed => "BROKEN",
        (_, Some(_)) if isolated => "ISOLATED",
        (_, Some(_)) => "INSTANTIATED",
        (None, None) if !of_service.is_empty() => "INSTANTIATING",
        _ => "NOT_INSTANTIATED",
    }
}

fn instances(record: &NsRecord, state: &str) -> Vec<(String, String)> {
    let computes = record.objects.iter().filter(|(_, s)| s.kind() == Kind::Compute);
    computes.map(|(k, _)| (k.to_string(), state.to_owned())).collect()
}

/// One operation's lines, in the order of its journal.
pub(super) fn timeline(tracked: &Tracked) -> Vec<TimelineLine> {
    let mut lines = Timeline { operation: &tracked.operation, started: BTreeMap::new(), out: Vec::new() };
    let bundle = bundle_lines(&tracked.operation);
    for event in &tracked.events {
        lines.event(event, &bundle);
    }
    lines.running(tracked);
    lines.out
}

/// Line of the bundle for each step, as [`lcm::fold::body`] writes them: decision, plan, then the steps that began.
fn bundle_lines(operation: &Operation) -> BTreeMap<u32, u32> {
    let mut lines = BTreeMap::new();
    let Some(plan) = &operation.plan else { return lines };
    let mut line = 3;
    for step in plan.steps.iter().chain(&plan.isolation) {
        match operation.step_state(step.id) {
            None | Some(StepState::Pending) => {}
            Some(StepState::Failed(f)) => {
                lines.insert(step.id, line);
                line += 1 + u32::from(f.refused.is_some());
            }
            Some(_) => {
                lines.insert(step.id, line);
                line += 1;
            }
        }
    }
    lines
}

struct Timeline<'a> {
    operation: &'a Operation,
    started: BTreeMap<u32, u64>,
    out: Vec<TimelineLine>,
}

impl Timeline<'_> {
    fn push(&mut self, at_ms: u64, kind: &str, state: &str, what: String) -> &mut TimelineLine {
        self.out.push(TimelineLine {
            at_ms,
            operation_id: self.operation.id.clone(),
            kind: kind.into(),
            state: state.into(),
            what,
            duration_ms: None,
            evidence: None,
        });
        let last = self.out.len() - 1;
        &mut self.out[last]
    }

    fn event(&mut self, event: &Event, bundle: &BTreeMap<u32, u32>) {
        match event {
            Event::Accepted { approval, grant, at_ms, .. } => {
                let what = format!("{} approved and verified", grant.action);
                self.push(*at_ms, "decision", "done", what).evidence =
                    Some(format!("ledger entry {}", approval.proof.index));
            }
            Event::Planned { plan, at_ms } => {
                let mut what = format!("planned {} steps on {}", plan.steps.len(), plan.site);
                for (site, why) in &plan.refused {
                    what.push_str(&format!("; not {site}: {why}"));
                }
                self.push(*at_ms, "plan", "done", what).evidence = Some("bundle line 2".into());
            }
            Event::Refused { code, detail, at_ms } => {
                self.push(*at_ms, "plan", "refused", format!("{code}: {detail}"));
            }
            Event::Started { step, at_ms, .. } | Event::UndoStarted { step, at_ms, .. } => {
                self.started.insert(*step, *at_ms);
            }
            Event::Done { step, result, at_ms } => self.done(*step, result, *at_ms, bundle),
            Event::Failed { step, failure, at_ms } => {
                let what = format!("{}: {}: {}", self.what(*step), failure.code, failure.detail);
                self.ended(*step, *at_ms, "failed", what, bundle);
            }
            Event::Undone { step, at_ms } => {
                self.ended(*step, *at_ms, "undone", format!("took back: {}", self.what(*step)), bundle);
            }
            Event::UndoFailed { step, failure, at_ms } => {
                let what = format!("could not take back {}: {}", self.what(*step), failure.detail);
                self.ended(*step, *at_ms, "failed", what, bundle);
            }
            Event::Recovered { at_ms } => {
                self.push(
                    *at_ms,
                    "recovery",
                    "done",
                    "orchestrator restarted; operation taken up again".into(),
                );
            }
            Event::Closed { outcome, at_ms } => {
                let mut what = outcome.state.name().to_owned();
                if let Some(problem) = &outcome.problem {
                    what.push_str(&format!(": {problem}"));
                }
                if !outcome.leftovers.is_empty() {
                    what.push_str(&format!("; left behind: {}", outcome.leftovers.join(", ")));
                }
                let good = outcome.state == FinalState::Completed;
                let duration = at_ms.saturating_sub(self.operation.accepted_ms);
                let line = self.push(*at_ms, "outcome", if good { "done" } else { "failed" }, what);
                line.duration_ms = Some(duration);
            }
            Event::Anchored { receipt, at_ms } => {
                let line = self.push(*at_ms, "anchor", "done", "evidence anchored".into());
                line.evidence = Some(format!("ledger entry {}", receipt.proof.index));
            }
        }
    }

    fn step(&self, id: u32) -> Option<&Step> {
        self.operation.plan.as_ref().and_then(|p| p.step(id))
    }

    fn what(&self, id: u32) -> String {
        self.step(id).map_or_else(|| format!("step {id}"), |s| s.what.clone())
    }

    fn done(&mut self, step: u32, result: &StepResult, at_ms: u64, bundle: &BTreeMap<u32, u32>) {
        let mut what = self.what(step);
        match result {
            StepResult::Attested { appraisal, .. } => {
                what.push_str(&format!(": {} checks passed", appraisal.checks.len()));
            }
            StepResult::Measured { report, objectives } => {
                what.push_str(&format!(
                    ": {:.1} Mbit/s, p95 {:.2} ms, loss {} ppm; {}",
                    report.throughput_kbps as f64 / 1000.0,
                    report.latency_p95_us as f64 / 1000.0,
                    report.loss_ppm,
                    kept(objectives)
                ));
            }
            StepResult::Observed { .. } | StepResult::Acknowledged {} => {}
        }
        self.ended(step, at_ms, "done", what, bundle);
    }

    fn ended(&mut self, step: u32, at_ms: u64, state: &str, what: String, bundle: &BTreeMap<u32, u32>) {
        let kind = match self.step(step).map(|s| s.action.name()) {
            Some(name) if name == "attest" => "attestation",
            Some(name) if name == "measure" => "measurement",
            _ => "step",
        };
        let began = self.started.remove(&step);
        let line = self.push(began.unwrap_or(at_ms), kind, state, what);
        line.duration_ms = began.map(|b| at_ms.saturating_sub(b));
        line.evidence = bundle.get(&step).map(|n| format!("bundle line {n}"));
    }

    /// Steps that run now.
    fn running(&mut self, tracked: &Tracked) {
        if tracked.operation.outcome.is_some() {
            return;
        }
        let open: BTreeSet<(u64, u32)> = self.started.iter().map(|(s, at)| (*at, *s)).collect();
        for (at_ms, step) in open {
            let what = self.what(step);
            self.push(at_ms, "step", "started", what);
        }
    }
}

fn kept(objectives: &[Objective]) -> String {
    let broken: Vec<_> = objectives.iter().filter(|o| !o.kept).map(|o| o.name.as_str()).collect();
    if broken.is_empty() { "every objective kept".into() } else { format!("broken: {}", broken.join(", ")) }
}
