//! Views of operations and services, and the timeline: read from the fold, never stored.

use std::collections::{BTreeMap, BTreeSet};

use lcm::{
    Event, Operation, Step,
    operation::{Authority, FinalState, StepResult},
};
use ledger_contract::evidence::Objective;

use super::Tracked;
use crate::{
    journal::{ClosedRow, Gap, Mitigation, ServiceRow},
    remote_policy::{RefusedCall, refusals::Counted},
    views::{NsView, OperationView, TimelineLine},
};

pub(super) fn operation(tracked: &Tracked) -> OperationView {
    let o = &tracked.operation;
    OperationView {
        id: o.id.clone(),
        tenant: o.grant.tenant.clone(),
        intent_id: o.grant.intent_id.clone(),
        ns_instance_id: o.grant.ns_instance_id.clone(),
        action: o.grant.action.clone(),
        state: o.state().to_owned(),
        site: o.plan.as_ref().map(|p| p.site.clone()).filter(|s| !s.is_empty()),
        progress: o.progress(),
        problem: tracked.problem.clone().or_else(|| o.problem()),
        leftovers: leftovers(o),
        anchored: o.is_anchored(),
        accepted_at: trust::UnixTime(o.accepted_ms / 1000),
        duration_ms: o.closed_ms.map(|c| c.saturating_sub(o.accepted_ms)),
    }
}

fn leftovers(o: &Operation) -> Vec<String> {
    let left = o.outcome.as_ref().map(|c| c.leftovers.as_slice()).or_else(|| o.leftovers());
    left.unwrap_or_default().to_vec()
}

/// An anchored operation.
pub(super) fn closed(id: &str, row: &ClosedRow, tenant: String) -> OperationView {
    OperationView {
        id: id.to_owned(),
        tenant,
        intent_id: row.intent_id.clone(),
        ns_instance_id: row.ns.clone(),
        action: row.action.clone(),
        state: row.state.clone(),
        site: row.site.clone(),
        progress: row.progress,
        problem: row.problem.clone(),
        leftovers: row.leftovers.clone(),
        anchored: true,
        accepted_at: trust::UnixTime(row.accepted_ms / 1000),
        duration_ms: row.closed_ms.map(|c| c.saturating_sub(row.accepted_ms)),
    }
}

/// A service; its operations come from the journal.
pub(super) fn service(row: &ServiceRow, operations: Vec<OperationView>) -> NsView {
    NsView {
        id: row.id.clone(),
        tenant: row.tenant.clone(),
        service: row.service.clone(),
        site: row.site.clone().or_else(|| operations.iter().rev().find_map(|o| o.site.clone())),
        nsd: row.nsd.clone(),
        instances: row.instances.iter().map(|i| (i.clone(), row.state.clone())).collect(),
        instance_sites: BTreeMap::new(),
        state: row.state.clone(),
        operations,
        lease_until: row.lease_until,
        sla_met: row.sla_met,
    }
}

/// One operation's lines, in the order of its journal.
pub(super) fn timeline(operation: &Operation, events: &[Event]) -> Vec<TimelineLine> {
    let mut lines = Timeline { operation, started: BTreeMap::new(), out: Vec::new() };
    let bundle = lcm::fold::step_lines(operation);
    for event in events {
        lines.event(event, &bundle);
    }
    lines.running();
    lines.out
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

    fn event(&mut self, event: &Event, bundle: &BTreeMap<u32, usize>) {
        match event {
            Event::Accepted { authority: Authority::Approval(approval), grant, at_ms, .. } => {
                let what = format!("{} approved and verified", grant.action);
                self.push(*at_ms, "decision", "done", what).evidence =
                    Some(format!("ledger entry {}", approval.proof.index));
            }
            Event::Accepted { authority: Authority::Standing(standing), grant, at_ms, .. } => {
                let what =
                    format!("{} begun under a standing grant, the ledger does not answer", grant.action);
                self.push(*at_ms, "decision", "done", what).evidence =
                    Some(format!("ledger entry {}", standing.grant.proof.index));
            }
            Event::Approved { approval, at_ms } => {
                let what = "approved by the ledger".to_owned();
                self.push(*at_ms, "decision", "done", what).evidence =
                    Some(format!("ledger entry {}", approval.proof.index));
            }
            Event::Expired { at_ms } => {
                let until = self.operation.grant.not_after;
                let what = format!("the grant was good to {until}: no new step forward");
                self.push(*at_ms, "grant", "expired", what);
            }
            Event::Revoked { position, reason, at_ms } => {
                let what = format!("the intent was revoked: {reason}");
                self.push(*at_ms, "grant", "revoked", what).evidence =
                    Some(format!("ledger entry {position}"));
            }
            Event::Preempted { intent_id, action, position, at_ms } => {
                let what = format!("gives way: intent {intent_id} is to {action} the service");
                self.push(*at_ms, "direction", "preempted", what).evidence =
                    Some(format!("ledger entry {position}"));
            }
            Event::Escalated { problem, leftovers, at_ms } => {
                let what = format!("a person is needed: {problem}; left: {}", leftovers.join(", "));
                self.push(*at_ms, "escalation", "failed", what);
            }
            Event::Directed { by, what, reason, at_ms } => {
                let what = format!("{} directed by {by}: {reason}", what.name());
                self.push(*at_ms, "direction", "done", what);
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
            Event::Done { step, result, at_ms, .. } => self.done(*step, result, *at_ms, bundle),
            Event::Failed { step, failure, at_ms, .. } => {
                let what = format!("{}: {}: {}", self.what(*step), failure.code, failure.detail);
                self.ended(*step, *at_ms, "failed", what, bundle);
            }
            Event::Undone { step, at_ms, .. } => {
                self.ended(*step, *at_ms, "undone", format!("took back: {}", self.what(*step)), bundle);
            }
            Event::UndoFailed { step, failure, at_ms, .. } => {
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
        self.operation.step(id)
    }

    fn what(&self, id: u32) -> String {
        self.step(id).map_or_else(|| format!("step {id}"), |s| s.what.clone())
    }

    fn done(&mut self, step: u32, result: &StepResult, at_ms: u64, bundle: &BTreeMap<u32, usize>) {
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
            StepResult::Captured { capture, frames, .. } => {
                what.push_str(&format!(": {frames} frames, kept as {capture}"));
            }
            StepResult::Observed { .. }
            | StepResult::Acknowledged {}
            | StepResult::Package { .. }
            | StepResult::Service { .. } => {}
        }
        self.ended(step, at_ms, "done", what, bundle);
    }

    fn ended(&mut self, step: u32, at_ms: u64, state: &str, what: String, bundle: &BTreeMap<u32, usize>) {
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
    fn running(&mut self) {
        if self.operation.outcome.is_some() {
            return;
        }
        let open: BTreeSet<(u64, u32)> = self.started.iter().map(|(s, at)| (*at, *s)).collect();
        for (at_ms, step) in open {
            let what = self.what(step);
            self.push(at_ms, "step", "started", what);
        }
    }
}

/// Times without a ledger, among the lines of operations.
pub(super) fn gap(gap: &Gap) -> TimelineLine {
    let what = match gap.to_ms {
        Some(_) => format!("the ledger did not answer: {}", gap.reason),
        None => format!("the ledger does not answer: {}", gap.reason),
    };
    TimelineLine {
        at_ms: gap.from_ms,
        operation_id: String::new(),
        kind: "gap".into(),
        state: if gap.to_ms.is_some() { "done" } else { "started" }.into(),
        what,
        duration_ms: gap.to_ms.map(|t| t.saturating_sub(gap.from_ms)),
        evidence: None,
    }
}

/// A call that a cloud refused, as often as it did.
pub(super) fn refused(call: &RefusedCall, counted: &Counted) -> TimelineLine {
    let took = counted.last_ms.saturating_sub(counted.first_ms);
    TimelineLine {
        at_ms: counted.first_ms,
        operation_id: String::new(),
        kind: "gate".into(),
        state: "refused".into(),
        what: call.sentence(counted),
        duration_ms: (counted.count > 1).then_some(took),
        evidence: None,
    }
}

/// What was done about drift.
pub(super) fn mitigation(m: &Mitigation) -> TimelineLine {
    let under = m.grant.as_ref().map(|g| format!(" under standing grant {g}")).unwrap_or_default();
    let state = match m.decision.as_str() {
        "REPAIR" => "done",
        "REFUSED" => "refused",
        _ => "started",
    };
    TimelineLine {
        at_ms: m.at_ms,
        operation_id: String::new(),
        kind: "mitigation".into(),
        state: state.into(),
        what: format!("{} {}{under}, by {}: {}", m.decision.to_lowercase(), m.action, m.who, m.reason),
        duration_ms: None,
        evidence: m.intent_id.as_ref().map(|i| format!("intent {i}")),
    }
}

fn kept(objectives: &[Objective]) -> String {
    let broken: Vec<_> = objectives.iter().filter(|o| !o.kept).map(|o| o.name.as_str()).collect();
    if broken.is_empty() { "every objective kept".into() } else { format!("broken: {}", broken.join(", ")) }
}
