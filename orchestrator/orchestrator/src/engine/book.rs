//! What the engine has in memory: operations that are under way, a few words on those that wait, services in short.
//!
//! Everything else is in the journal and is read when somebody asks. So memory grows with what is under way and with
//! the number of services that live, not with what was ever done: a service that is terminated leaves. What has begun and is
//! not over can be read without waiting for whoever writes here ([`Shown`]). Tests: below.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
};

use lcm::{Event, NsRecord, Operation, drift::Desired, operation::FinalState};

use super::schedule::{Next, Parent, Rate, Schedule, Waiting, Why};
use crate::{
    journal::{Journal, JournalError, ServiceRow},
    remote_policy::running::{Running, RunningOperation},
};

/// What runs now, for who must not wait: replaced as a whole whenever it changes.
pub(super) type Shown = Arc<RwLock<Arc<Running>>>;

/// An operation that is under way, or waits for its anchor.
#[derive(Debug, Clone)]
pub(super) struct Tracked {
    pub operation: Operation,
    /// Why its evidence is not on the ledger, when the ledger refused it.
    pub problem: Option<String>,
}

/// What may begin.
pub(super) enum Turn {
    /// This operation, now.
    Begin(String),
    /// It is not to be carried out.
    Refuse(String, Why),
    /// Nothing before this moment, ms.
    Wait(u64),
    /// Nothing.
    Idle,
}

/// The engine's memory.
#[derive(Debug)]
pub(super) struct Book {
    live: BTreeMap<String, Tracked>,
    queue: Schedule,
    /// Operation of each intent that waits or is under way.
    by_intent: BTreeMap<String, String>,
    services: BTreeMap<String, ServiceRow>,
    /// What should be there, in short, of every service that is instantiated or isolated.
    desired: BTreeMap<String, Arc<Desired>>,
    /// Segments of the wide-area network that services use.
    segments: BTreeMap<String, BTreeSet<u16>>,
    running: Running,
    /// Where [`Self::running`] is shown, if anybody looks.
    shown: Option<Shown>,
}

impl Book {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            live: BTreeMap::new(),
            queue: Schedule::new(rate),
            by_intent: BTreeMap::new(),
            services: BTreeMap::new(),
            desired: BTreeMap::new(),
            segments: BTreeMap::new(),
            running: Running::default(),
            shown: None,
        }
    }

    /// Shows what runs there from now on.
    pub(super) fn show_in(&mut self, shown: Shown) {
        self.shown = Some(shown);
    }

    /// Something runs now, or no more.
    pub(super) fn runs(&mut self, id: &str, what: Option<RunningOperation>) {
        if let Some(shown) = &self.shown
            && self.running.put(id, what)
        {
            *shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(self.running.clone());
        }
    }

    fn show(&mut self, id: &str) {
        if self.shown.is_some() {
            let what = self.live.get(id).and_then(|t| RunningOperation::of(&t.operation));
            self.runs(id, what);
        }
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Tracked> {
        self.live.values()
    }

    pub(super) fn get(&self, id: &str) -> Option<&Tracked> {
        self.live.get(id)
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceRow> {
        self.services.values()
    }

    /// A service as an operation left it, with what should be there.
    pub(super) fn put_service(&mut self, row: ServiceRow, record: Option<&NsRecord>) {
        match record.filter(|_| ["INSTANTIATED", "ISOLATED"].contains(&row.state.as_str())) {
            Some(record) => drop(self.desired.insert(row.id.clone(), Arc::new(record.desired()))),
            None => drop(self.desired.remove(&row.id)),
        }
        match record.map(NsRecord::segments).filter(|s| !s.is_empty()) {
            Some(segments) => drop(self.segments.insert(row.id.clone(), segments)),
            None => drop(self.segments.remove(&row.id)),
        }
        match row.lives() {
            true => drop(self.services.insert(row.id.clone(), row)),
            false => drop(self.services.remove(&row.id)),
        }
    }

    /// Where each instance of a service is, as far as it is settled.
    pub(super) fn sites_of(&self, row: &ServiceRow) -> BTreeMap<String, String> {
        let Some(desired) = self.desired.get(&row.id) else { return BTreeMap::new() };
        desired
            .instances()
            .map(|(site, key)| (key.to_string(), site.to_owned()))
            .filter(|(key, _)| row.instances.contains(key))
            .collect()
    }

    /// Segments of the wide-area network that are in use or planned, but for those of one service.
    pub(super) fn segments(&self, but: &str) -> BTreeSet<u16> {
        let used = self.segments.iter().filter(|(ns, _)| *ns != but).flat_map(|(_, s)| s.iter().copied());
        let planned = self.planned(but).flat_map(NsRecord::segments);
        used.chain(planned).collect()
    }

    /// Services as operations under way will leave them, but for one.
    pub(super) fn planned<'a>(&'a self, but: &'a str) -> impl Iterator<Item = &'a NsRecord> {
        let open = self.live.values().map(|t| &t.operation).filter(|o| o.outcome.is_none());
        let others = open.filter(move |o| o.grant.ns_instance_id != but);
        others.filter_map(|o| o.plan.as_ref()?.after.as_ref())
    }

    /// A service that nothing has been made of yet.
    pub(super) fn announce(&mut self, row: ServiceRow) {
        if row.lives() {
            self.services.entry(row.id.clone()).or_insert(row);
        }
    }

    /// What should be there, and the services that are not to be compared with it: those that an operation waits for
    /// or works on, and those that are broken.
    pub(super) fn desired(&self) -> (BTreeMap<String, Arc<Desired>>, BTreeSet<String>) {
        let live = self.live.values().filter(|t| t.operation.outcome.is_none());
        let mut out: BTreeSet<_> = live.map(|t| t.operation.grant.ns_instance_id.clone()).collect();
        out.extend(self.services.values().filter(|r| r.state == "BROKEN").map(|r| r.id.clone()));
        (self.desired.clone(), out)
    }

    /// Has this service an operation that waits or is under way?
    pub(super) fn is_busy(&self, ns: &str) -> bool {
        let live = |t: &Tracked| t.operation.outcome.is_none() && t.operation.grant.ns_instance_id == ns;
        self.queue.concerns(ns) || self.live.values().any(live)
    }

    /// The operation of a service that has begun and is not over, and what waits that it is to give way to.
    pub(super) fn overtaken<'a>(&'a self, ns: &'a str) -> Option<(&'a Operation, &'a Waiting)> {
        let mut live = self.live.values().map(|t| &t.operation);
        let begun = live.find(|o| o.outcome.is_none() && o.grant.ns_instance_id == ns)?;
        let mut waiting = self.queue.of_service(ns);
        let by = waiting.find(|w| w.goes_before(&begun.grant.intent_id))?;
        (!begun.is_preempted()).then_some((begun, by))
    }

    /// Operations that wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How many more can wait.
    pub(super) fn room(&self) -> usize {
        self.queue.room()
    }

    /// Operations that have begun and are not closed. Those that wait for a person do not count: however many of them
    /// there are, the others go on.
    pub(super) fn begun(&self) -> usize {
        let works = |t: &&Tracked| t.operation.outcome.is_none() && t.operation.leftovers().is_none();
        self.live.values().filter(works).count()
    }

    /// Takes in an operation that has not begun.
    pub(super) fn enqueue(&mut self, waiting: Waiting, now_ms: u64, journal: &Journal) {
        self.by_intent.insert(waiting.intent_id.clone(), waiting.id.clone());
        let (live, by_intent) = (&self.live, &self.by_intent);
        self.queue.push(waiting, now_ms, &|intent| parent(intent, live, by_intent, journal));
    }

    /// Takes in an operation that had begun before a restart, or is closed and waits for its anchor.
    pub(super) fn resume(&mut self, operation: Operation) {
        if operation.outcome.is_none() {
            self.queue.resume(&operation.grant.ns_instance_id);
        }
        self.track(operation);
    }

    /// Has an operation in memory from now on.
    pub(super) fn track(&mut self, operation: Operation) {
        let id = operation.id.clone();
        self.by_intent.insert(operation.grant.intent_id.clone(), id.clone());
        self.live.insert(id.clone(), Tracked { operation, problem: None });
        self.show(&id);
    }

    /// What may begin now; what comes out is to be tracked at once.
    pub(super) fn turn(&mut self, now_ms: u64, ordinary: bool, journal: &Journal) -> Turn {
        let (live, by_intent) = (&self.live, &self.by_intent);
        let next = self.queue.next(now_ms, ordinary, &|intent| parent(intent, live, by_intent, journal));
        match next {
            Next::Begin(waiting) => Turn::Begin(waiting.id),
            Next::Refuse(waiting, why) => Turn::Refuse(waiting.id, why),
            Next::Wait(until_ms) => Turn::Wait(until_ms),
            Next::Idle => Turn::Idle,
        }
    }

    /// Folds events in.
    pub(super) fn apply(
        &mut self,
        id: &str,
        events: &[Event],
    ) -> Result<(), lcm::operation::IllegalTransition> {
        let Some(tracked) = self.live.get_mut(id) else { return Ok(()) };
        let applied = events.iter().try_for_each(|e| tracked.operation.apply(e));
        self.show(id);
        applied
    }

    /// An operation is closed: its service is free for the next one.
    pub(super) fn closed(&mut self, id: &str, journal: &Journal) {
        let Some(tracked) = self.live.get(id) else { return };
        let grant = &tracked.operation.grant;
        let (live, by_intent) = (&self.live, &self.by_intent);
        let status = |intent: &str| parent(intent, live, by_intent, journal);
        self.queue.ended(&grant.tenant, &grant.ns_instance_id, &grant.intent_id, &status);
    }

    /// Its evidence is anchored: the journal knows the rest.
    pub(super) fn forget(&mut self, id: &str) {
        if let Some(tracked) = self.live.remove(id) {
            self.by_intent.remove(&tracked.operation.grant.intent_id);
            self.show(id);
        }
    }

    pub(super) fn set_problem(&mut self, id: &str, problem: String) {
        if let Some(tracked) = self.live.get_mut(id) {
            tracked.problem = Some(problem);
        }
    }
}

/// What became of an intent that another one depends on.
fn parent(
    intent: &str,
    live: &BTreeMap<String, Tracked>,
    by_intent: &BTreeMap<String, String>,
    journal: &Journal,
) -> Parent {
    let judged = |completed| if completed { Parent::Completed } else { Parent::NotCompleted };
    if let Some(id) = by_intent.get(intent) {
        let outcome = live.get(id).and_then(|t| t.operation.outcome.as_ref());
        return outcome.map_or(Parent::Open, |o| judged(o.state == FinalState::Completed));
    }
    let row = journal.operation_of(intent).and_then(|id| match id {
        Some(id) => journal.closed_row(&id),
        None => Ok(None),
    });
    match row {
        Ok(Some(row)) => judged(row.state == FinalState::Completed.name()),
        Ok(None) => Parent::Open,
        // What cannot be read is not taken for a success; the journal's failure ends the engine soon enough.
        Err(JournalError::Row(_)) => Parent::NotCompleted,
        Err(_) => Parent::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_terminated_leaves() {
        let mut book = Book::new(Rate { per_minute: 1, burst: 1 });
        let row = |n: u32, state: &str| ServiceRow {
            id: format!("ns-{n}"),
            tenant: "t".into(),
            service: "s".into(),
            site: None,
            nsd: String::new(),
            instances: Vec::new(),
            state: state.into(),
            lease_until: None,
            sla_met: None,
            since_ms: 0,
        };
        for n in 0..1000 {
            book.announce(row(n, "INSTANTIATING"));
            book.put_service(row(n, "INSTANTIATED"), None);
            book.put_service(row(n, "NOT_INSTANTIATED"), None);
            book.announce(row(n, "NOT_INSTANTIATED"));
        }
        book.put_service(row(1000, "BROKEN"), None);
        assert_eq!(book.services().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["ns-1000"]);
    }
}
