//! Drives one operation: asks it what to do next, does it, journals what happened, and asks again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lcm::{
    Action, Command, Event, NsRecord, Operation, Plan,
    operation::{Authority, Failure, StepResult, StepState},
    placement::Site,
    planner::{self, Catalogue, Input, Manager, Prices, Wan},
};
use ledger_contract::{Intent, IntentKind, records::Grant};
use mano::VimObject;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::JoinSet,
};
use trust::Digest;
use vim::Spec;

use super::{Engine, EngineError, anchor::Anchored, effect, now, now_ms, standing::Late};
use crate::telemetry::{follow, trace, vim::within};

/// Longest that a step of a MANO may take, s: it makes a whole service, and has a deadline of its own before this.
const MANO_STEP_S: u64 = 3_600;

/// How a step's effect, or its undoing, ended.
struct Ended {
    step: u32,
    undo: bool,
    outcome: Result<StepResult, Failure>,
    calls: u32,
}

impl Engine {
    /// Drives an operation until it is anchored, or until `stop`.
    pub(super) async fn drive(
        self: &Arc<Self>,
        id: &str,
        recovered: bool,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), EngineError> {
        let Some(mut operation) = self.read().get(id).map(|t| t.operation.clone()) else { return Ok(()) };
        if recovered {
            self.record(&mut operation, vec![Event::Recovered { at_ms: now_ms() }]).await?;
        }
        let mut slots: Option<Vec<OwnedSemaphorePermit>> = None;
        let mut effects: JoinSet<Ended> = JoinSet::new();
        let mut in_flight: Vec<u32> = Vec::new();
        let mut arrivals = self.inbox.arrivals();
        let (turn, turned) = watch::channel(None);
        loop {
            arrivals.mark_unchanged();
            let told = self.inbox.take(&operation);
            if !told.is_empty() {
                self.record(&mut operation, told).await?;
            }
            if let Some(why) = operation.is_to_end() {
                turn.send_replace(Some(why.to_owned()));
            }
            let commands = match *stop.borrow() {
                true => Vec::new(),
                false => operation.next(&self.retries, now_ms(), &in_flight),
            };
            if commands.is_empty() && in_flight.is_empty() {
                return Ok(());
            }
            let mut pause = None;
            for command in commands {
                match command {
                    Command::Plan => self.make_plan(&mut operation, &BTreeMap::new(), 0).await?,
                    Command::Replan { without, last_id } => {
                        tracing::info!(operation = id, ?without, "no room: planned again");
                        slots = None;
                        self.make_plan(&mut operation, &without, last_id).await?;
                    }
                    Command::Expire => {
                        self.record(&mut operation, vec![Event::Expired { at_ms: now_ms() }]).await?;
                    }
                    Command::Escalate { problem, leftovers } => {
                        tracing::error!(operation = id, problem, ?leftovers, "a person is needed");
                        let event = Event::Escalated { problem, leftovers, at_ms: now_ms() };
                        self.record(&mut operation, vec![event]).await?;
                    }
                    Command::Await => {
                        // Somebody else may use the place meanwhile.
                        slots = None;
                        pause = match operation.outcome.is_some() {
                            true => match self.approve_late(&mut operation).await? {
                                Late::Approved => Some(0),
                                Late::Again(ms) => Some(ms),
                                Late::Refused => return Ok(()),
                            },
                            false => Some(u64::MAX),
                        };
                    }
                    Command::Run { step, attempt } => {
                        if slots.is_none()
                            && !self.take_slots(&operation, &mut slots, (&mut stop, &mut arrivals)).await
                        {
                            break;
                        }
                        let event = Event::Started { step, attempt, at_ms: now_ms() };
                        self.record(&mut operation, vec![event]).await?;
                        in_flight.push(step);
                        self.begin(&mut effects, &operation, step, (attempt, false), &turned);
                    }
                    Command::Undo { step, attempt } => {
                        let event = Event::UndoStarted { step, attempt, at_ms: now_ms() };
                        self.record(&mut operation, vec![event]).await?;
                        in_flight.push(step);
                        self.begin(&mut effects, &operation, step, (attempt, true), &turned);
                    }
                    Command::Wait { until_ms } => pause = Some(until_ms.saturating_sub(now_ms())),
                    Command::Close(outcome) => {
                        tracing::info!(operation = id, state = outcome.state.name(), "closed");
                        self.close(&mut operation, Event::Closed { outcome, at_ms: now_ms() }).await?;
                    }
                    Command::Anchor => {
                        // The infrastructure is done with; only the ledger is waited for.
                        slots = None;
                        if !self.turn_to_anchor(&operation, &mut stop).await {
                            return Ok(());
                        }
                        match self.anchor(&mut operation).await? {
                            Anchored::Yes | Anchored::Refused => return Ok(()),
                            Anchored::Later(ms) => pause = Some(ms),
                        }
                    }
                }
            }
            if let Some(ended) = wait(&mut effects, &mut stop, &mut arrivals, pause).await? {
                in_flight.retain(|s| *s != ended.step);
                self.record(&mut operation, vec![event_of(ended)]).await?;
            }
        }
    }

    /// Waits for a place at every site of the plan; false: `stop` or something for this operation came first. In the
    /// order of their names, so that two operations never wait for each other.
    async fn take_slots(
        &self,
        operation: &Operation,
        slots: &mut Option<Vec<OwnedSemaphorePermit>>,
        (stop, arrivals): (&mut watch::Receiver<bool>, &mut watch::Receiver<u64>),
    ) -> bool {
        let sites = operation.plan.as_ref().map(|p| sites_of(p)).unwrap_or_default();
        let mut taken = Vec::with_capacity(sites.len());
        for semaphore in sites.iter().filter_map(|s| self.site_slots.get(s)) {
            let place = semaphore.clone().acquire_owned();
            tokio::pin!(place);
            let permit = loop {
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|s| *s) => return false,
                    permit = &mut place => break permit,
                    _ = arrivals.changed() => if self.inbox.has(&operation.id) { return false },
                }
            };
            // The semaphores are never closed.
            taken.extend(permit);
        }
        *slots = Some(taken);
        true
    }

    fn begin(
        &self,
        effects: &mut JoinSet<Ended>,
        operation: &Operation,
        id: u32,
        (attempt, undo): (u32, bool),
        turned: &watch::Receiver<Option<String>>,
    ) {
        let step = operation.plan.as_ref().and_then(|p| p.step(id)).cloned();
        let action = step.and_then(|s| if undo { s.undo } else { Some(s.action) });
        let site = step_site(operation, id).and_then(|name| Some((name, self.sites.get(name)?)));
        let managed = operation.plan.as_ref().is_some_and(|p| p.mano.is_some());
        let ports = site.map(|(name, s)| effect::Ports {
            site: name.to_owned(),
            vim: s.vim.clone(),
            control: s.control.clone(),
            mano: self.mano.clone().filter(|_| managed),
            // Once: what failed may have failed because it is so no more.
            told: if attempt == 1 && !undo { told(operation, id) } else { None },
            artifacts: self.artifacts.clone(),
        });
        let least = self.config.limits.step_timeout_s;
        let limit = match &action {
            Some(action) if action.of_mano() => least.max(MANO_STEP_S),
            _ => least.max(site.map_or(0, |(_, s)| s.config.step_timeout_s())),
        };
        let limit = Duration::from_secs(limit);
        let name = trace::attempt(id, attempt, undo);
        let context = follow::step_context(&self.journal, &operation.id, &operation.grant.intent_id, &name);
        let mut turned = turned.clone();
        effects.spawn(async move {
            let calls = vim::calls::Count::default();
            let outcome = match (action, ports) {
                (Some(action), Some(ports)) => {
                    let effect = within(context, effect::take(&ports, &action, limit));
                    let effect = vim::calls::counted(Some(calls.clone()), effect);
                    // A MANO works for minutes at what is to be taken back anyway: that ends it there.
                    let longs = !undo && matches!(action, Action::Realize { .. } | Action::Rebuild { .. });
                    tokio::select! {
                        outcome = effect => outcome,
                        why = told_to_end(&mut turned), if longs => Err(effect::cut_short(&action, &why)),
                    }
                }
                (None, _) => Ok(StepResult::Acknowledged {}),
                (_, None) => Err(effect::no_site()),
            };
            Ended { step: id, undo, outcome, calls: calls.get() }
        });
    }

    /// Observes every site once and plans; a refusal closes the operation without an effect.
    async fn make_plan(
        &self,
        operation: &mut Operation,
        without: &BTreeMap<String, String>,
        last_id: u32,
    ) -> Result<(), EngineError> {
        let _alone = self.planning.lock().await;
        let event = match self.plan_of(operation, without, last_id).await {
            Ok(plan) => Event::Planned { plan: Arc::new(plan), at_ms: now_ms() },
            Err(r) => Event::Refused { code: r.code.to_owned(), detail: r.detail, at_ms: now_ms() },
        };
        self.record(operation, vec![event]).await
    }

    async fn plan_of(
        &self,
        operation: &Operation,
        without: &BTreeMap<String, String>,
        last_id: u32,
    ) -> Result<Plan, planner::Refusal> {
        let bad = |code, detail: String| planner::Refusal { code, detail };
        if let Some((code, detail)) = self.inadmissible(operation) {
            return Err(bad(code, detail));
        }
        let intent = intent_of(operation).map_err(|e| bad("PARAMETERS", e))?;
        let survey = self.survey(&intent, &operation.grant).await?;
        let mut entropy = [0; 32];
        getrandom::fill(&mut entropy).map_err(|e| bad("PARAMETERS", format!("no randomness: {e}")))?;
        let entropy = Digest(entropy);
        planner::plan(&Input {
            operation_id: &operation.id,
            without,
            last_id,
            entropy: &entropy,
            at: operation.decided_at,
            ..survey.input(&intent, &operation.grant)
        })
    }

    /// What an intent is planned from: the service as it is, its descriptors, and one look at every site.
    pub(super) async fn survey(&self, intent: &Intent, grant: &Grant) -> Result<Survey, planner::Refusal> {
        let bad = |code, detail: String| planner::Refusal { code, detail };
        let before = self.journal.record(&grant.ns_instance_id).map_err(|e| bad("JOURNAL", e.to_string()))?;
        let granted = &grant.packages;
        let catalogue = match (&intent.action, &before) {
            (IntentKind::Deploy(d), _) => Some(self.catalogue(d.nsd_package, granted)),
            (IntentKind::Update(u), _) => Some(self.catalogue(u.nsd_package, granted)),
            (IntentKind::Rollback(r), _) => Some(self.catalogue(r.nsd_package, granted)),
            (IntentKind::Scale(_) | IntentKind::Heal(_) | IntentKind::Migrate(_), Some(b)) => {
                Some(self.catalogue(b.deploy.nsd_package, &b.packages))
            }
            _ => None,
        };
        let catalogue = catalogue.transpose().map_err(|e| bad("PACKAGES", e.to_string()))?;
        let mut sites = self.observe_sites(grant).await;
        self.reserve(&mut sites, &grant.ns_instance_id);
        let wan = self.wan(&grant.ns_instance_id);
        let configured = &self.config.placement;
        let prices = Prices {
            alpha_permille: configured.alpha_permille,
            sla_penalty_per_us: configured.sla_penalty_per_us,
        };
        let mano = match &self.mano {
            Some(mano) => {
                let asked = mano.capabilities().await;
                Some(Manager { capabilities: asked.map_err(|e| bad("MANO", e.to_string()))? })
            }
            None => None,
        };
        Ok(Survey { before, catalogue, sites, wan, mano, without: BTreeMap::new(), prices })
    }
}

/// What a MANO said, in a step that this one needs, of the instance that this one is about.
fn told(operation: &Operation, id: u32) -> Option<VimObject> {
    let step = operation.step(id)?;
    let Action::Ensure { key, .. } = &step.action else { return None };
    let site = operation.plan.as_ref()?.site_of(step);
    let said = step.needs.iter().rev().find_map(|before| match operation.step_state(*before) {
        Some(StepState::Done(result)) => match &**result {
            StepResult::Service { service } => service.objects.get(key),
            _ => None,
        },
        _ => None,
    });
    said?.iter().find(|o| o.site == site).cloned()
}

/// What an intent is planned from.
pub(super) struct Survey {
    before: Option<NsRecord>,
    catalogue: Option<Catalogue>,
    sites: Vec<Site>,
    wan: Option<Wan>,
    mano: Option<Manager>,
    without: BTreeMap<String, String>,
    prices: Prices,
}

impl Survey {
    /// For a plan that nobody carries out: of no operation, with a challenge that anybody could foresee.
    pub(super) fn input<'a>(&'a self, intent: &'a Intent, grant: &'a Grant) -> Input<'a> {
        const FORESEEN: Digest = Digest([0; 32]);
        Input {
            operation_id: "",
            intent,
            grant,
            catalogue: self.catalogue.as_ref(),
            sites: &self.sites,
            wan: self.wan.as_ref(),
            mano: self.mano.as_ref(),
            before: self.before.as_ref(),
            without: &self.without,
            last_id: 0,
            entropy: &FORESEEN,
            at: now(),
            prices: self.prices,
        }
    }
}

impl Engine {
    /// Counts what is planned and not made yet as used: two plans must not give the same room away.
    fn reserve(&self, sites: &mut [Site], but: &str) {
        let book = self.read();
        for (record, object) in book.planned(but).flat_map(|r| r.objects.iter().map(move |o| (r, o))) {
            let Spec::Compute(compute) = &object.spec else { continue };
            let Some(site) = sites.iter_mut().find(|s| s.name == object.site) else { continue };
            if !site.inventory.objects.contains_key(&object.key) {
                let used = &mut site.inventory.used;
                used.vcpus = used.vcpus.saturating_add(compute.vcpus);
                used.memory_mib = used.memory_mib.saturating_add(compute.memory_mib);
                used.instances = used.instances.saturating_add(1);
                planner::reserve_functions(site, compute, &record.objects);
            }
        }
    }

    fn wan(&self, but: &str) -> Option<Wan> {
        let configured = self.config.wan.as_ref()?;
        Some(Wan {
            name: configured.name.clone(),
            connections: configured.connections.clone(),
            taken: self.read().segments(but),
        })
    }
}

/// Every site that a plan has steps at.
fn sites_of(plan: &Plan) -> BTreeSet<String> {
    plan.sites().into_iter().filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

/// Where a step of the operation's plan takes effect.
fn step_site(operation: &Operation, id: u32) -> Option<&str> {
    let plan = operation.plan.as_ref()?;
    plan.step(id).map(|step| plan.site_of(step))
}

/// The intent that an operation carries out, which was verified when it was accepted.
pub(crate) fn intent_of(operation: &Operation) -> Result<Intent, String> {
    let payload = match &operation.authority {
        Authority::Approval(approval) => {
            let entry: ledger_contract::records::Entry =
                serde_json::from_str(&approval.entry).map_err(|e| format!("the approval's entry: {e}"))?;
            entry.request.payload
        }
        Authority::Standing(standing) => standing.intent.payload.clone(),
    };
    serde_json::from_slice(&payload).map_err(|e| format!("the approval's intent: {e}"))
}

/// Ends when the operation is to end, with the reason.
async fn told_to_end(turned: &mut watch::Receiver<Option<String>>) -> String {
    let why = turned.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
    match why {
        Some(why) => why,
        None => std::future::pending().await,
    }
}

/// The next effect that ends; `None` when the pause is over, or there is nothing to wait for, or `stop` came.
async fn wait(
    effects: &mut JoinSet<Ended>,
    stop: &mut watch::Receiver<bool>,
    arrivals: &mut watch::Receiver<u64>,
    pause: Option<u64>,
) -> Result<Option<Ended>, EngineError> {
    let idle = effects.is_empty();
    if idle && pause.is_none() {
        return Ok(None);
    }
    tokio::select! {
        Some(ended) = effects.join_next() => Ok(Some(ended?)),
        () = sleep(pause) => Ok(None),
        _ = arrivals.changed() => Ok(None),
        // What is in flight ends by itself.
        _ = stop.wait_for(|s| *s), if idle => Ok(None),
    }
}

async fn sleep(pause: Option<u64>) {
    match pause {
        Some(u64::MAX) | None => std::future::pending().await,
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
    }
}

fn event_of(ended: Ended) -> Event {
    let (step, at_ms, calls) = (ended.step, now_ms(), ended.calls);
    match (ended.undo, ended.outcome) {
        (false, Ok(result)) => Event::Done { step, result: Box::new(result), at_ms, calls },
        (false, Err(failure)) => Event::Failed { step, failure, at_ms, calls },
        (true, Ok(_)) => Event::Undone { step, at_ms, calls },
        (true, Err(failure)) => Event::UndoFailed { step, failure, at_ms, calls },
    }
}
