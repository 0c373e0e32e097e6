//! The balancer's configuration, compiled, and its replacement while it runs.

use std::{collections::BTreeMap, mem, sync::Arc};

use dataplane_control::{
    Configuration, Function,
    config::{ConfigError, LoadBalancer, Port, Vip},
};

use super::{Balancer, State, Timeouts};
use crate::{
    common::{self, PortPair},
    hash::address_bits,
    maglev, prepare,
    table::{Key, Side, Table},
};

const MAX_CONNECTIONS: &str = "load_balancer.max_connections";
/// Most backends; the number of a place fits 16 bits with room to spare.
const MAX_BACKENDS: usize = maglev::MAX_BACKENDS / 2;

/// A configuration, compiled: what does not change from one swap to the next.
#[derive(Debug)]
pub(crate) struct Plan {
    ports: Vec<Port>,
    pub(super) pair: PortPair,
    /// Grows by one with each swap; connections remember against which one they were last checked.
    pub(super) generation: u32,
    pub(super) vips: Vips,
    pub(super) pool: Pool,
    pub(super) max_connections: u32,
    pub(super) timeouts: Timeouts,
}

impl Plan {
    /// `before`: the places of the backends until now.
    pub(super) fn new(
        c: &Configuration,
        config: &LoadBalancer,
        before: &[Slot],
        generation: u32,
    ) -> Result<Self, ConfigError> {
        common::check_max_connections(MAX_CONNECTIONS, config.max_connections)?;
        if let Some(vip) = config.vips.iter().find(|v| **v != Vip::new(&v.id, v.address, v.protocol, v.port))
        {
            let path = format!("load_balancer.vips `{}`", vip.id);
            return Err(common::invalid(
                &path,
                "this engine carries no service with options; leave them out",
            ));
        }
        Ok(Self {
            ports: c.ports.clone(),
            pair: PortPair::find(c, "load_balancer.backend", &config.client, &config.backend)?,
            generation,
            vips: Vips::new(config),
            pool: Pool::new(config, before, generation)?,
            max_connections: config.max_connections,
            timeouts: Timeouts { idle_ms: common::idle_ms(config.idle_ms) },
        })
    }

    pub(super) fn table(&self, seed: u64) -> Result<Table<State>, ConfigError> {
        common::table(MAX_CONNECTIONS, self.max_connections, seed)
    }
}

/// A backend's place: kept while it is configured, so that connections may refer to it by number.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    id: String,
    pub mac: [u8; 6],
    /// Generation in which the place was given to this backend; older connections mean its predecessor.
    pub since: u32,
    pub alive: bool,
}

/// The backends and the table over them.
#[derive(Debug)]
pub(super) struct Pool {
    pub slots: Vec<Slot>,
    /// From Maglev's index (position in the configuration) to the slot.
    order: Vec<u16>,
    maglev: maglev::Table,
}

impl Pool {
    /// The pool of a configuration; backends known from `before` keep their places.
    fn new(config: &LoadBalancer, before: &[Slot], generation: u32) -> Result<Self, ConfigError> {
        if config.backends.len() > MAX_BACKENDS {
            return Err(common::invalid("load_balancer.backends", format!("more than {MAX_BACKENDS}")));
        }
        let mut slots = before.to_vec();
        // One that was gone in between has lost its connections: it comes back as another.
        let mut known: BTreeMap<&str, usize> =
            before.iter().zip(0..).filter(|(s, _)| s.alive).map(|(s, i)| (s.id.as_str(), i)).collect();
        let kept: Vec<_> = config.backends.iter().map(|b| known.remove(b.id.as_str())).collect();
        for gone in known.into_values() {
            slots[gone].alive = false;
        }
        let mut vacant = 0;
        let mut order = Vec::with_capacity(kept.len());
        for (backend, kept) in config.backends.iter().zip(kept) {
            let place = kept.unwrap_or_else(|| {
                vacant = give_place(&mut slots, vacant, &backend.id, generation);
                vacant
            });
            slots[place].mac = backend.mac.0;
            let place = u16::try_from(place);
            order.push(place.map_err(|_| common::invalid("load_balancer.backends", "too many"))?);
        }
        Ok(Self { slots, order, maglev: maglev::Table::new(&config.backends, config.table_size) })
    }

    /// The slot of the flow's backend.
    pub fn pick(&self, hash: u64) -> Option<u16> {
        self.maglev.lookup(hash).and_then(|i| self.order.get(i)).copied()
    }
}

/// A place for a new backend: the next of a removed one from `first` on, or one more.
fn give_place(slots: &mut Vec<Slot>, first: usize, id: &str, generation: u32) -> usize {
    let place = (first..slots.len()).find(|i| !slots[*i].alive).unwrap_or(slots.len());
    let slot = Slot { id: id.to_owned(), mac: [0; 6], since: generation, alive: true };
    match slots.get_mut(place) {
        Some(vacant) => *vacant = slot,
        None => slots.push(slot),
    }
    place
}

/// The services, sorted for binary search.
#[derive(Debug)]
pub(super) struct Vips {
    /// Address, port and protocol of each.
    services: Vec<(u128, u16, u8)>,
    addresses: Vec<u128>,
}

impl Vips {
    fn new(config: &LoadBalancer) -> Self {
        let mut services: Vec<_> =
            config.vips.iter().map(|v| (address_bits(v.address), v.port, v.protocol)).collect();
        services.sort_unstable();
        let mut addresses: Vec<u128> = services.iter().map(|s| s.0).collect();
        addresses.dedup();
        Self { services, addresses }
    }

    /// Whether a connection from the client side is for a service.
    pub fn serves(&self, key: &Key) -> bool {
        let (_, destination, ports) = key.as_sent_from(Side::Near);
        let port = (ports & 0xffff) as u16;
        self.services.binary_search(&(destination, port, key.protocol())).is_ok()
    }

    /// Each address once.
    pub fn addresses(&self) -> &[u128] {
        &self.addresses
    }

    pub fn has_address(&self, address: u128) -> bool {
        self.addresses.binary_search(&address).is_ok()
    }
}

/// The running plan and the table's size.
#[derive(Debug, Clone)]
pub(crate) struct Basis {
    plan: Arc<Plan>,
    capacity: usize,
    seed: u64,
}

impl Basis {
    pub(super) fn of(running: &Balancer) -> Self {
        Self { plan: running.plan.clone(), capacity: running.table.capacity(), seed: running.table.seed() }
    }

    pub(crate) fn prepare(&self, c: &Configuration) -> Result<Next, ConfigError> {
        let Function::LoadBalancer(config) = &c.function else {
            return Err(common::other_function("load balancer"));
        };
        common::same_ports(&self.plan.ports, c)?;
        let plan = Plan::new(c, config, &self.plan.pool.slots, self.plan.generation.wrapping_add(1))?;
        if plan.pair != self.plan.pair {
            return Err(common::invalid(
                "load_balancer.client",
                "the two sides only change with a new process",
            ));
        }
        let grows = plan.max_connections as usize > self.capacity;
        Ok(Next {
            before: self.plan.clone(),
            counts: vec![Count::default(); plan.pool.slots.len()],
            room: if grows { Some(plan.table(self.seed)?) } else { None },
            plan: Arc::new(plan),
        })
    }
}

/// The next plan, and afterwards what it replaced.
#[derive(Debug)]
pub(crate) struct Next {
    before: Arc<Plan>,
    plan: Arc<Plan>,
    counts: Vec<Count>,
    /// An empty table, if the running one is too small.
    room: Option<Table<State>>,
}

impl Next {
    pub(super) fn swap_into(mut self, running: &mut Balancer) -> Result<Self, ConfigError> {
        if !Arc::ptr_eq(&self.before, &running.plan) {
            return Err(prepare::stale());
        }
        let places = self.plan.pool.slots.iter().zip(&running.counts);
        for (count, (slot, before)) in self.counts.iter_mut().zip(places) {
            if slot.since != self.plan.generation {
                *count = *before;
            }
        }
        mem::swap(&mut self.counts, &mut running.counts);
        mem::swap(&mut self.plan, &mut running.plan);
        running.table.set_limit(running.plan.max_connections, &mut self.room);
        Ok(self)
    }
}

/// What a backend was given.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    pub frames: u64,
    pub opened: u64,
}

/// The same of all places, without the backends' names.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    plan: Arc<Plan>,
    counts: Vec<Count>,
}

impl Counts {
    pub(super) fn of(running: &Balancer) -> Self {
        Self { plan: running.plan.clone(), counts: running.counts.clone() }
    }

    pub(crate) fn report(&self, out: &mut BTreeMap<String, u64>) {
        for (slot, count) in self.plan.pool.slots.iter().zip(&self.counts).filter(|(slot, _)| slot.alive) {
            out.insert(format!("backend.{}", slot.id), count.frames);
            out.insert(format!("backend_connections.{}", slot.id), count.opened);
        }
    }
}
