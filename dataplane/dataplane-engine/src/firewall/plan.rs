//! The firewall's configuration, compiled, and its replacement while it runs.

use std::{collections::BTreeMap, mem, sync::Arc};

use dataplane_control::{
    Configuration, Function,
    config::{ConfigError, Firewall as Config, Port},
};

use super::{
    Firewall,
    guards::{Extent, Policy, Room},
    state::{State, Timeouts},
};
use crate::{
    common::{self, PortPair},
    machine::Machine,
    prepare,
    rules::Rules,
    table::Table,
};

pub(super) const MAX_CONNECTIONS: &str = "firewall.max_connections";
/// In [`Earlier::from`]: the rule is new.
const NEW: u32 = u32::MAX;

/// A configuration, compiled: what does not change from one swap to the next.
#[derive(Debug)]
pub(crate) struct Plan {
    ports: Vec<Port>,
    pub(super) pair: PortPair,
    /// Grows by one with each swap; connections remember which one allowed them.
    pub(super) generation: u32,
    pub(super) rules: Rules,
    rule_ids: Vec<String>,
    pub(super) max_connections: u32,
    pub(super) timeouts: Timeouts,
    pub(super) policy: Arc<Policy>,
}

impl Plan {
    /// The first plan of a process.
    pub(super) fn new(c: &Configuration, config: &Config, generation: u32) -> Result<Self, ConfigError> {
        Ok(Self {
            ports: c.ports.clone(),
            pair: PortPair::find(c, "firewall.inside", &config.outside, &config.inside)?,
            generation,
            rules: Rules::compile(config)?,
            rule_ids: config.rules.iter().map(|r| r.id.clone()).collect(),
            max_connections: config.max_connections,
            timeouts: Timeouts::of(config),
            policy: Arc::new(Policy::of(config)),
        })
    }

    pub(super) fn rules(&self) -> usize {
        self.rule_ids.len()
    }

    pub(super) fn table(&self, seed: u64) -> Result<Table<State>, ConfigError> {
        common::table(MAX_CONNECTIONS, self.max_connections, seed)
    }
}

/// What was counted before a plan, by the plan before it: a swap moves its counters here, and who reads them adds them up.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// Of each rule now, the index of the rule of that name then, or [`NEW`].
    from: Vec<u32>,
    /// By the rules then: while they ran, and before that.
    hits: Vec<u64>,
    before: Vec<u64>,
}

impl Earlier {
    fn of(&self, rule: usize) -> u64 {
        let Some(from) = self.from.get(rule).map(|from| *from as usize) else { return 0 };
        let count = |counts: &[u64]| counts.get(from).copied().unwrap_or(0);
        count(&self.hits) + count(&self.before)
    }
}

/// The running plan and the table's size.
#[derive(Debug, Clone)]
pub(crate) struct Basis {
    plan: Arc<Plan>,
    earlier: Arc<Earlier>,
    capacity: usize,
    seed: u64,
    extent: Extent,
}

impl Basis {
    pub(super) fn of<M: Machine>(running: &Firewall<M>) -> Self {
        Self {
            plan: running.plan.clone(),
            earlier: running.earlier.clone(),
            capacity: running.table.capacity(),
            seed: running.table.seed(),
            extent: running.guards.extent(),
        }
    }

    pub(crate) fn prepare(&self, c: &Configuration) -> Result<Next, ConfigError> {
        let Function::Firewall(config) = &c.function else { return Err(common::other_function("firewall")) };
        common::same_ports(&self.plan.ports, c)?;
        let plan = Plan::new(c, config, self.plan.generation.wrapping_add(1))?;
        if plan.pair != self.plan.pair {
            return Err(common::invalid("firewall.outside", "the two sides only change with a new process"));
        }
        let grows = plan.max_connections as usize > self.capacity;
        let capacity = self.capacity.max(plan.max_connections as usize);
        let most = plan.max_connections;
        let known: BTreeMap<&str, u32> = self.plan.rule_ids.iter().map(String::as_str).zip(0..).collect();
        Ok(Next {
            before: self.plan.clone(),
            earlier: Arc::new(Earlier {
                from: plan.rule_ids.iter().map(|id| known.get(id.as_str()).copied().unwrap_or(NEW)).collect(),
                hits: Vec::new(),
                before: (0..self.plan.rules()).map(|rule| self.earlier.of(rule)).collect(),
            }),
            hits: vec![0; plan.rules()],
            room: if grows { Some(plan.table(self.seed)?) } else { None },
            guards: Room::new(&plan.policy, &self.extent, most, capacity, grows, self.seed)?,
            plan: Arc::new(plan),
        })
    }
}

/// The next plan, and afterwards what it replaced.
#[derive(Debug)]
pub(crate) struct Next {
    before: Arc<Plan>,
    plan: Arc<Plan>,
    /// Of `before`, but for what is counted until the swap.
    earlier: Arc<Earlier>,
    hits: Vec<u64>,
    /// An empty table, if the running one is too small.
    room: Option<Table<State>>,
    guards: Room,
}

impl Next {
    pub(super) fn swap_into<M: Machine>(mut self, running: &mut Firewall<M>) -> Result<Self, ConfigError> {
        if !Arc::ptr_eq(&self.before, &running.plan) {
            return Err(prepare::stale());
        }
        // Nobody else has it yet.
        let earlier = Arc::get_mut(&mut self.earlier).ok_or_else(prepare::stale)?;
        mem::swap(&mut self.hits, &mut running.hits);
        earlier.hits = mem::take(&mut self.hits);
        mem::swap(&mut self.earlier, &mut running.earlier);
        mem::swap(&mut self.plan, &mut running.plan);
        let (most, grows) = (running.plan.max_connections, self.room.is_some());
        let Firewall { table, guards, plan, .. } = running;
        let moving = guards.swap(&plan.policy, &mut self.guards, most, grows);
        table.set_limit_and_tell(most, &mut self.room, |entry, before, after| {
            guards.moved(&moving, entry, before, after);
        });
        self.guards.keep(moving);
        Ok(self)
    }
}

/// Frames by rule, without the rules' names.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    plan: Arc<Plan>,
    hits: Vec<u64>,
    earlier: Arc<Earlier>,
}

impl Counts {
    pub(super) fn of<M: Machine>(running: &Firewall<M>) -> Self {
        let Firewall { plan, hits, earlier, .. } = running;
        Self { plan: plan.clone(), hits: hits.clone(), earlier: earlier.clone() }
    }

    pub(crate) fn report(&self, out: &mut BTreeMap<String, u64>) {
        let named = self.plan.rule_ids.iter().zip(&self.hits).zip(0..);
        out.extend(named.map(|((id, hits), rule)| (format!("rule.{id}"), hits + self.earlier.of(rule))));
    }
}
