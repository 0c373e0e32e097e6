//! What the engine shows of its work while it goes on: steps with their attempts, the feed, and how its parts do.
//!
//! It only reads. An event is read through its journaled form, so that a new kind of event is shown without a change
//! here.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use lcm::{Event, Operation, Plan, Step, operation::StepState};
use serde::Deserialize;
use trust::UnixTime;

use super::{Engine, now, now_ms};
use crate::{
    journal::{Happened, RefusedApproval},
    problem::Problem,
    remote_policy::{RefusedCall, refusals::Counted},
    views::{AttemptView, ComponentView, EventView, OperationView, StepView},
};

/// Longest wait for a peer that is asked how it does.
const PROBE: Duration = Duration::from_secs(3);
/// The ledger's clock may be this far ahead of ours before approvals wait for us, s.
const MAX_SKEW_S: i64 = 5;
/// Waiting events are counted up to this: more is as bad.
const MAX_LAG: usize = 100;
/// Evidence that waits longer than this is worth a look, s.
const MAX_OUTBOX_AGE_S: i64 = 300;

pub(super) fn steps(operation: &Operation, events: &[Event]) -> Vec<StepView> {
    let Some(plan) = &operation.plan else { return Vec::new() };
    let mut attempts = attempts(events);
    let begun = |s: &&Step| !matches!(operation.step_state(s.id), None | Some(StepState::Pending));
    // Isolation is planned for every service and done to few.
    let all = plan.steps.iter().chain(plan.isolation.iter().filter(begun));
    all.map(|step| StepView {
        id: step.id,
        what: step.what.clone(),
        action: step.action.name(),
        object: step.action.object().to_owned(),
        needs: step.needs.clone(),
        state: state(operation.step_state(step.id)).to_owned(),
        attempts: attempts.remove(&step.id).unwrap_or_default(),
    })
    .collect()
}

fn state(state: Option<&StepState>) -> &'static str {
    match state {
        None | Some(StepState::Pending) => "pending",
        Some(StepState::Started) => "started",
        Some(StepState::Done(_)) => "done",
        Some(StepState::Failed(_) | StepState::UndoFailed(_)) => "failed",
        Some(StepState::Undoing) => "undoing",
        Some(StepState::Undone) => "undone",
    }
}

fn attempts(events: &[Event]) -> BTreeMap<u32, Vec<AttemptView>> {
    let mut out: BTreeMap<u32, Vec<AttemptView>> = BTreeMap::new();
    for event in events {
        let (step, begun, ended) = match event {
            Event::Started { step, attempt, at_ms } => (step, Some((*attempt, *at_ms, false)), None),
            Event::UndoStarted { step, attempt, at_ms } => (step, Some((*attempt, *at_ms, true)), None),
            Event::Done { step, at_ms, calls, .. } | Event::Undone { step, at_ms, calls } => {
                (step, None, Some((*at_ms, *calls, None)))
            }
            Event::Failed { step, failure, at_ms, calls }
            | Event::UndoFailed { step, failure, at_ms, calls } => {
                let problem = format!("{}: {}", failure.code, failure.detail);
                (step, None, Some((*at_ms, *calls, Some(problem))))
            }
            _ => continue,
        };
        let of_step = out.entry(*step).or_default();
        if let Some((number, started_ms, undo)) = begun {
            of_step.push(AttemptView { number, undo, started_ms, ended_ms: None, problem: None, calls: 0 });
        }
        if let (Some((at_ms, calls, problem)), Some(last)) = (ended, of_step.last_mut()) {
            last.ended_ms = Some(at_ms);
            last.calls = calls;
            last.problem = problem;
        }
    }
    out
}

/// As much of an entry, sealed or not, as says when it was decided.
#[derive(Deserialize)]
struct Decided {
    time: UnixTime,
}

impl Engine {
    pub(super) async fn feed(&self, after: u64, limit: usize) -> Result<Vec<(u64, EventView)>, Problem> {
        let journal = self.journal.clone();
        let read = tokio::task::spawn_blocking(move || journal.feed(after, limit)).await;
        let happened = read.map_err(|e| Problem::internal("TASK", e))?;
        let happened = happened.map_err(|e| Problem::internal("JOURNAL", e))?;
        // The plans say what a step is: each operation of the page is looked at once.
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        let mut views = Vec::with_capacity(happened.len());
        for (number, happened) in happened {
            let view = match happened {
                Happened::Refused(refused) => refused_view(refused),
                Happened::RefusedCall(call) => self.refused_call_view(&call.0, &call.1)?,
                Happened::Event { operation, event } => {
                    if !known.contains_key(&operation) {
                        known.insert(operation.clone(), self.known(&operation)?);
                    }
                    event_view(&event, known.get(&operation))
                }
            };
            views.push((number, view));
        }
        Ok(views)
    }

    fn refused_call_view(&self, call: &RefusedCall, counted: &Counted) -> Result<EventView, Problem> {
        let service = call.ns.as_ref().map(|ns| self.journal.service_row(ns)).transpose();
        let service = service.map_err(|e| Problem::internal("JOURNAL", e))?.flatten();
        Ok(EventView {
            event: "call_refused".into(),
            at_ms: counted.first_ms,
            tenant: service.map(|s| s.tenant).unwrap_or_default(),
            ns_instance_id: call.ns.clone(),
            operation: None,
            step: None,
            what: Some(format!("{} {}", call.service, call.rule)),
            code: Some(call.code.clone()),
            detail: Some(call.sentence(counted)),
        })
    }

    fn known(&self, id: &str) -> Result<Known, Problem> {
        let live = self.read().get(id).map(|t| t.operation.plan.clone());
        let plan = match live {
            Some(plan) => plan,
            None => {
                let events = self.journal.events(id).map_err(|e| Problem::internal("JOURNAL", e))?;
                events.iter().find_map(|e| match e {
                    Event::Planned { plan, .. } => Some(plan.clone()),
                    _ => None,
                })
            }
        };
        Ok(Known { view: self.operation_view(id)?, plan })
    }

    /// Every part, each asked at the same time as the others.
    pub(super) async fn component_views(&self) -> Vec<ComponentView> {
        let (journal, (ledger, clock), sites) =
            tokio::join!(self.journal_view(), self.ledger_views(), self.site_views());
        let mut all = vec![journal, ledger, clock, self.outbox_view()];
        all.extend(sites);
        all
    }

    async fn journal_view(&self) -> ComponentView {
        let journal = self.journal.clone();
        let began = Instant::now();
        let probed = tokio::time::timeout(PROBE, tokio::task::spawn_blocking(move || journal.probe())).await;
        let took = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX);
        let problem = match probed {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(e))) => Some(e.to_string()),
            Ok(Err(e)) => Some(e.to_string()),
            Err(_) => Some(format!("no commit within {} s", PROBE.as_secs())),
        };
        let detail = problem.clone().unwrap_or_else(|| "a commit reached the disk".into());
        component("journal", problem.is_none(), false, detail, &[("commit_us", took)])
    }

    /// Without the ledger nothing new is deployed, and everything else goes on.
    async fn ledger_views(&self) -> (ComponentView, ComponentView) {
        let newest = match tokio::time::timeout(PROBE, self.newest_entry()).await {
            Ok(newest) => newest,
            Err(_) => Err(format!("no answer within {} s", PROBE.as_secs())),
        };
        match newest {
            Ok((position, at)) => {
                let age = seconds(now().0) - seconds(at);
                let lag = self.lag().await;
                let detail = format!("entry {position} is the newest, {lag} events wait to be taken");
                let mut ledger = component("ledger", true, true, detail, &[]);
                let values = [("newest_entry", seconds(position)), ("newest_entry_age_s", age.max(0))];
                ledger.values.extend(values.map(|(name, value)| (name.to_owned(), value)));
                ledger.values.insert("lag_events".into(), seconds(lag));
                (ledger, clock(-age))
            }
            Err(why) => (
                component("ledger", false, true, why, &[]),
                component("clock", true, true, "nothing to compare with".into(), &[]),
            ),
        }
    }

    /// Events that wait in the ledger's stream, counted up to a bound.
    async fn lag(&self) -> u64 {
        let taken = self.journal.checkpoint().ok().flatten();
        self.ledger.waiting(taken, MAX_LAG).await.unwrap_or(0)
    }

    /// Position and time of the newest entry.
    async fn newest_entry(&self) -> Result<(u64, u64), String> {
        let head = self.ledger.head().await.map_err(|e| e.to_string())?;
        let size =
            head.lines().nth(1).and_then(|l| l.parse::<u64>().ok()).ok_or("the checkpoint has no size")?;
        let position = size.checked_sub(1).ok_or("the ledger is empty")?;
        let newest = self.ledger.range(position, 1).await.map_err(|e| e.to_string())?;
        let newest = newest.first().ok_or("the newest entry is not there")?;
        let decided: Decided = serde_json::from_str(newest).map_err(|e| e.to_string())?;
        Ok((position, decided.time.0))
    }

    fn outbox_view(&self) -> ComponentView {
        let book = self.read();
        let waiting = book.live().filter(|t| t.operation.outcome.is_some() && !t.operation.is_anchored());
        let (mut depth, mut oldest) = (0i64, 0i64);
        for tracked in waiting {
            depth += 1;
            let since = tracked.operation.closed_ms.unwrap_or_default();
            oldest = oldest.max(seconds(now_ms().saturating_sub(since) / 1_000));
        }
        let detail = match depth {
            0 => "all evidence is anchored".to_owned(),
            n => format!("evidence of {n} operations waits, the oldest for {oldest} s"),
        };
        let values = [("outbox_operations", depth), ("oldest_s", oldest)];
        component("outbox", oldest <= MAX_OUTBOX_AGE_S, true, detail, &values)
    }

    async fn site_views(&self) -> Vec<ComponentView> {
        let looks = self.sites.iter().map(|(name, site)| async move {
            let answer = tokio::time::timeout(PROBE, site.vim.capabilities()).await;
            let (ready, detail) = match answer {
                Ok(Ok(c)) if !c.functions => {
                    (true, format!("{} answers; its guests are not attested", c.driver))
                }
                Ok(Ok(c)) => match self.attests(name, c.attestation).await {
                    Ok(how) => (true, format!("{} answers; {how}", c.driver)),
                    Err(why) => (false, format!("{} answers; attestation is not possible: {why}", c.driver)),
                },
                Ok(Err(e)) => (false, e.to_string()),
                Err(_) => (false, format!("no answer within {} s", PROBE.as_secs())),
            };
            component(&format!("site/{name}"), ready, true, detail, &[])
        });
        futures::future::join_all(looks).await
    }
}

impl Engine {
    /// Can what runs at a site be attested, and if not, what to do? Nothing that must be attested goes there meanwhile.
    async fn attests(&self, site: &str, tpm: bool) -> Result<&'static str, String> {
        if !tpm {
            let next =
                "name its TPM under [site.host.tpm] in config.toml, restart, then `mandate site enrol`";
            return Err(format!("it has no TPM; {next}"));
        }
        let Some(found) = self.sites.get(site) else { return Err("there is no such site".into()) };
        match tokio::time::timeout(PROBE, found.keys.answers()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(format!("{e}; is its TPM there? See [site.host.tpm] in config.toml")),
            Err(_) => return Err(format!("its TPM does not answer within {} s", PROBE.as_secs())),
        }
        match tokio::time::timeout(PROBE, self.registered_ak(site)).await {
            Ok(Ok(None)) => {
                Err(format!("its key is not registered; `mandate site enrol {site} --as ORG/NAME`"))
            }
            Ok(Ok(Some(key))) if key.not_after < now() => {
                Err(format!("its key expired {}; `mandate site enrol {site} --as ORG/NAME`", key.not_after))
            }
            Ok(Ok(Some(_))) => Ok("its key is registered"),
            // The ledger's trouble is shown as the ledger's.
            Ok(Err(_)) | Err(_) => Ok("whether its key is registered, only the ledger knows"),
        }
    }
}

fn seconds(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// How far the ledger's newest entry is ahead of our clock: entries from the future wait until it is then.
fn clock(ahead_s: i64) -> ComponentView {
    let ready = ahead_s <= MAX_SKEW_S;
    let detail = match ahead_s {
        ..=0 => "not behind the ledger's".to_owned(),
        n => format!("{n} s behind the ledger's newest entry; approvals wait for it: set the clock"),
    };
    component("clock", ready, false, detail, &[("behind_ledger_s", ahead_s.max(0))])
}

fn component(
    name: &str,
    ready: bool,
    optional: bool,
    detail: String,
    values: &[(&str, i64)],
) -> ComponentView {
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    ComponentView { name: name.to_owned(), ready, optional, detail, values }
}

fn refused_view(refused: RefusedApproval) -> EventView {
    EventView {
        event: "refused".into(),
        at_ms: refused.at_ms,
        tenant: String::new(),
        ns_instance_id: None,
        operation: None,
        step: None,
        what: None,
        code: Some(refused.code),
        detail: Some(format!("ledger entry {}: {}", refused.position, refused.detail)),
    }
}

/// What events of one operation are shown with.
struct Known {
    view: Option<OperationView>,
    plan: Option<Arc<Plan>>,
}

fn event_view(event: &Event, known: Option<&Known>) -> EventView {
    let json = serde_json::to_value(event).unwrap_or_default();
    let text = |pointer: &str| json.pointer(pointer).and_then(|v| v.as_str()).map(str::to_owned);
    let number = |pointer: &str| json.pointer(pointer).and_then(serde_json::Value::as_u64);
    let step = number("/step").and_then(|n| u32::try_from(n).ok());
    let plan = known.and_then(|k| k.plan.as_ref());
    let operation = known.and_then(|k| k.view.clone());
    EventView {
        event: text("/event").unwrap_or_default(),
        at_ms: number("/at_ms").unwrap_or_default(),
        tenant: operation.as_ref().map(|o| o.tenant.clone()).unwrap_or_default(),
        ns_instance_id: operation.as_ref().map(|o| o.ns_instance_id.clone()),
        operation,
        step,
        what: step.and_then(|s| plan?.step(s)).map(|s| s.what.clone()),
        code: text("/failure/code").or_else(|| text("/code")),
        detail: text("/failure/detail").or_else(|| text("/detail")).or_else(|| text("/outcome/problem")),
    }
}
