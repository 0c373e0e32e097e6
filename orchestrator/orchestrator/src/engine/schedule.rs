//! The order in which accepted operations begin.
//!
//! A pure queue: what was accepted goes in with [`Schedule::push`], what may begin comes out of [`Schedule::next`], and
//! the end of an operation ([`Schedule::ended`]) frees its service and those that depend on it. The promises:
//!
//! - operations of one service begin in the ledger's order, one at a time;
//! - tenants take turns: who has waited longest since the last turn is next, however many others queue up;
//! - what cuts traffic off or breaks the glass goes before repairs, and repairs before everything else;
//! - a tenant begins at most [`Rate::burst`] operations at once and [`Rate::per_minute`] on average; urgent ones do not
//!   wait for that;
//! - what cuts off or ends a service, asked for in person, waits for no other operation of it: those that have not begun
//!   come out as [`Next::Refuse`] at once, unless it depends on them;
//! - an operation begins in the first round after the last one it depends on has completed; when one of those did not
//!   complete, it comes out as [`Next::Refuse`], and nothing of it is done;
//! - nothing is dropped. Who feeds the queue stops reading the ledger's stream while it is full ([`Schedule::room`]).
//!
//! Entries are small: the operation itself stays in the journal until it begins. No clock, no I/O; the property tests
//! are below.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Operations that wait at most. An entry is some 200 bytes; twice the burst that the issue of intents is sized for.
pub(super) const CAPACITY: usize = 20_000;

/// How urgent an operation is, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Isolation, and whatever broke the glass: not rate-limited.
    Urgent,
    /// Healing and rollback: not rate-limited either.
    Repair,
    /// Everything else.
    Ordinary,
}

impl Class {
    /// Of an action of [`ledger_contract::intent::ACTIONS`].
    pub(super) fn of(action: &str, emergency: bool) -> Self {
        match action {
            _ if emergency => Self::Urgent,
            "isolate" => Self::Urgent,
            "heal" | "rollback" => Self::Repair,
            _ => Self::Ordinary,
        }
    }
}

/// How fast a tenant's operations begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// On average.
    pub per_minute: u32,
    /// At once, after a rest.
    pub burst: u32,
}

/// An accepted operation that has not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Operation.
    pub id: String,
    /// Its intent.
    pub intent_id: String,
    /// Tenant.
    pub tenant: String,
    /// NS instance.
    pub ns: String,
    /// How urgent.
    pub class: Class,
    /// Order among the operations of its service: the ledger's.
    pub position: u64,
    /// Intents that must have completed.
    pub depends_on: Vec<String>,
    /// `isolate` or `terminate`, asked for in person: other operations of the service give way to it.
    pub overtakes: Option<&'static str>,
    /// The intent that it gives way to.
    pub gives_way_to: Option<String>,
}

impl Waiting {
    /// Does an operation of this intent give way to it?
    pub(super) fn goes_before(&self, intent: &str) -> bool {
        self.overtakes.is_some() && !self.depends_on.iter().any(|d| d == intent)
    }
}

/// Why an operation is not to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// This intent, which it depends on, did not complete.
    Dependency(String),
    /// It gives way to this intent.
    GivesWay(String),
}

/// What became of an intent that others depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent {
    /// Its operation is not over (or has not begun, or is not known here yet).
    Open,
    /// Its operation is `COMPLETED`.
    Completed,
    /// Its operation ended otherwise.
    NotCompleted,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// This operation begins.
    Begin(Waiting),
    /// This one is not to be carried out.
    Refuse(Waiting, Why),
    /// Nothing before this moment, ms: every tenant that has something to begin is over its rate.
    Wait(u64),
    /// Nothing can begin until an operation ends or another one is pushed.
    Idle,
}

#[derive(Debug, Default)]
struct Tenant {
    /// By NS instance, in the ledger's order.
    services: BTreeMap<String, VecDeque<Waiting>>,
    /// Services whose first operation could begin: by class, then by position.
    ready: BTreeSet<(Class, u64, String)>,
    /// Number of its last turn; 0: none yet.
    turn: u64,
    /// Operations it may begin now, in thousandths.
    tokens: u64,
    /// When `tokens` was computed, ms.
    at_ms: u64,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Schedule {
    rate: Rate,
    tenants: BTreeMap<String, Tenant>,
    /// Services with an operation that has begun.
    busy: BTreeSet<String>,
    /// Services whose first operation waits for this intent: (tenant, service).
    blocked: BTreeMap<String, BTreeSet<(String, String)>>,
    len: usize,
    turns: u64,
}

impl Schedule {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            tenants: BTreeMap::new(),
            busy: BTreeSet::new(),
            blocked: BTreeMap::new(),
            len: 0,
            turns: 0,
        }
    }

    /// Operations that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many more can be taken.
    pub(super) fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.len)
    }

    /// Adds an operation. `parent` tells what became of an intent.
    pub(super) fn push(&mut self, waiting: Waiting, now_ms: u64, parent: &impl Fn(&str) -> Parent) {
        let (name, ns) = (waiting.tenant.clone(), waiting.ns.clone());
        let full = u64::from(self.rate.burst) * 1000;
        let tenant = self.tenants.entry(name.clone()).or_insert_with(|| Tenant {
            tokens: full,
            at_ms: now_ms,
            ..Tenant::default()
        });
        let queue = tenant.services.entry(ns.clone()).or_default();
        let at = queue.partition_point(|w| w.position < waiting.position);
        if at == 0
            && let Some(first) = queue.front()
        {
            // What was first is no longer: what it was ready as is taken back.
            tenant.ready.remove(&(first.class, first.position, ns.clone()));
        }
        queue.insert(at, waiting);
        self.len += 1;
        let first = queue.front().map(|w| (w.class, w.position, ns.clone()));
        let gives_way = give_way(queue);
        if gives_way && let Some(ready) = first {
            // What it was ready as, or waits for, does not matter any more.
            tenant.ready.remove(&ready);
        }
        if at == 0 || gives_way {
            self.look_at(&name, &ns, parent);
        }
    }

    /// The operations of a service that wait, in order.
    pub(super) fn of_service<'a>(&'a self, ns: &'a str) -> impl Iterator<Item = &'a Waiting> {
        self.tenants.values().filter_map(move |t| t.services.get(ns)).flatten()
    }

    /// Is the first operation of this service ready, or what does it wait for?
    fn look_at(&mut self, tenant: &str, ns: &str, parent: &impl Fn(&str) -> Parent) {
        if self.busy.contains(ns) {
            return;
        }
        let Some(it) = self.tenants.get_mut(tenant) else { return };
        let Some(first) = it.services.get(ns).and_then(VecDeque::front) else { return };
        let waits = first.gives_way_to.is_none();
        let open = first.depends_on.iter().find(|i| waits && parent(i) == Parent::Open);
        match open {
            Some(intent) => {
                let of = self.blocked.entry(intent.clone()).or_default();
                of.insert((tenant.to_owned(), ns.to_owned()));
            }
            None => {
                it.ready.insert((first.class, first.position, ns.to_owned()));
            }
        }
    }

    /// What may begin now; called again until it answers [`Next::Wait`] or [`Next::Idle`]. Without `ordinary` only
    /// what is urgent and repairs.
    pub(super) fn next(&mut self, now_ms: u64, ordinary: bool, parent: &impl Fn(&str) -> Parent) -> Next {
        let rate = self.rate;
        let mut wait: Option<u64> = None;
        let mut best: Option<(Class, u64, &str)> = None;
        for (name, tenant) in &mut self.tenants {
            let Some(class) = tenant.ready.first().map(|(class, ..)| *class) else { continue };
            if class == Class::Ordinary && !ordinary {
                continue;
            }
            if let Err(until) = tenant.may_begin(class, rate, now_ms) {
                wait = Some(wait.map_or(until, |w| w.min(until)));
                continue;
            }
            if best.is_none_or(|(c, t, _)| (class, tenant.turn) < (c, t)) {
                best = Some((class, tenant.turn, name));
            }
        }
        let Some(name) = best.map(|(.., name)| name.to_owned()) else {
            return wait.map_or(Next::Idle, Next::Wait);
        };
        match self.take(&name) {
            Some(waiting) => self.begin(waiting, parent),
            None => Next::Idle,
        }
    }

    /// Takes the tenant's first ready operation out of the queue; its service is busy from now on.
    fn take(&mut self, name: &str) -> Option<Waiting> {
        let tenant = self.tenants.get_mut(name)?;
        let (class, _, ns) = tenant.ready.pop_first()?;
        let queue = tenant.services.get_mut(&ns)?;
        let waiting = queue.pop_front()?;
        if queue.is_empty() {
            tenant.services.remove(&ns);
        }
        self.len = self.len.saturating_sub(1);
        self.turns += 1;
        tenant.turn = self.turns;
        if class == Class::Ordinary {
            tenant.tokens = tenant.tokens.saturating_sub(1000);
        }
        self.busy.insert(ns);
        Some(waiting)
    }

    fn begin(&self, waiting: Waiting, parent: &impl Fn(&str) -> Parent) -> Next {
        if let Some(intent) = waiting.gives_way_to.clone() {
            return Next::Refuse(waiting, Why::GivesWay(intent));
        }
        match waiting.depends_on.iter().find(|i| parent(i) == Parent::NotCompleted).cloned() {
            Some(failed) => Next::Refuse(waiting, Why::Dependency(failed)),
            None => Next::Begin(waiting),
        }
    }

    /// Has this service an operation that waits or has begun?
    pub(super) fn concerns(&self, ns: &str) -> bool {
        self.busy.contains(ns) || self.tenants.values().any(|t| t.services.contains_key(ns))
    }

    /// Marks a service as busy with an operation that began before the queue existed (after a restart).
    pub(super) fn resume(&mut self, ns: &str) {
        self.busy.insert(ns.to_owned());
    }

    /// An operation is over: its service is free, and who waited for its intent is looked at again.
    pub(super) fn ended(&mut self, tenant: &str, ns: &str, intent: &str, parent: &impl Fn(&str) -> Parent) {
        self.busy.remove(ns);
        self.look_at(tenant, ns, parent);
        for (tenant, ns) in self.blocked.remove(intent).unwrap_or_default() {
            self.look_at(&tenant, &ns, parent);
        }
        // A tenant at rest is forgotten once it would have its whole burst again anyway; its turn does not matter then.
        if self.tenants.len() > MAX_RESTING {
            self.tenants.retain(|_, t| !t.services.is_empty());
        }
    }
}

/// Marks what gives way to something behind it; did the first of them change?
fn give_way(queue: &mut VecDeque<Waiting>) -> bool {
    let mut first = false;
    for at in 0..queue.len() {
        let Some(it) = queue.get(at).filter(|w| w.overtakes.is_none() && w.gives_way_to.is_none()) else {
            continue;
        };
        let to =
            queue.iter().skip(at + 1).find(|w| w.goes_before(&it.intent_id)).map(|w| w.intent_id.clone());
        if let (Some(to), Some(it)) = (to, queue.get_mut(at)) {
            (it.gives_way_to, it.class) = (Some(to), Class::Urgent);
            first |= at == 0;
        }
    }
    first
}

/// Tenants without a waiting operation that are remembered (for their rate and turn).
const MAX_RESTING: usize = 10_000;

impl Tenant {
    /// May an operation of this class begin? Otherwise: when.
    fn may_begin(&mut self, class: Class, rate: Rate, now_ms: u64) -> Result<(), u64> {
        if class != Class::Ordinary {
            return Ok(());
        }
        let full = u64::from(rate.burst) * 1000;
        let passed = now_ms.saturating_sub(self.at_ms);
        let more = passed.saturating_mul(u64::from(rate.per_minute)) / 60;
        // Fractions of a thousandth are not lost: the clock moves only when something was gained.
        if more > 0 {
            self.tokens = self.tokens.saturating_add(more).min(full);
            self.at_ms = now_ms;
        }
        if self.tokens >= 1000 {
            return Ok(());
        }
        let missing = (1000 - self.tokens).saturating_mul(60).div_ceil(u64::from(rate.per_minute).max(1));
        Err(now_ms.max(self.at_ms).saturating_add(missing.max(1)))
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
