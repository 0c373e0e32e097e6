//! The balancer's configuration, compiled, and its replacement while it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use dataplane_control::{
    Configuration, Function,
    config::{Affinity, Backend, ConfigError, LoadBalancer, Mode, Vip},
};

use super::{Balancer, State, Timeouts, icmp::PathMtu, quic::Ids, tunnel::Ends};
use crate::{
    common::{self, PortPair},
    hash::address_bits,
    key::{Key, Side},
    maglev,
    packet::{Packet, TCP},
    prepare,
    table::Table,
};

const MAX_CONNECTIONS: &str = "load_balancer.max_connections";
/// Most backends; the number of a place fits 16 bits with room to spare.
const MAX_BACKENDS: usize = maglev::MAX_BACKENDS / 2;
/// Most services; their numbers fit 16 bits, and one says "none".
const MAX_VIPS: usize = 65_534;

/// A configuration, compiled: what does not change from one swap to the next.
#[derive(Debug)]
pub(crate) struct Plan {
    configuration: Arc<Configuration>,
    /// Ids of backends that fail their health checks.
    down: BTreeSet<String>,
    pub(super) pair: PortPair,
    /// Grows by one with each swap; connections remember against which one they were last checked.
    pub(super) generation: u32,
    pub(super) vips: Vips,
    pub(super) pool: Pool,
    /// Our addresses on the far side.
    pub(super) own: Vec<u128>,
    pub(super) mtu: u16,
    pub(super) max_connections: u32,
    pub(super) timeouts: Timeouts,
}

/// The balancer's part of a configuration.
fn balancer_of(c: &Configuration) -> Result<&LoadBalancer, ConfigError> {
    match &c.function {
        Function::LoadBalancer(config) => Ok(config),
        _ => Err(common::other_function("load balancer")),
    }
}

impl Plan {
    /// `before`: the places of the backends until now. `down`: ids of backends that are not to be used.
    pub(super) fn new(
        c: Arc<Configuration>,
        before: &[Slot],
        down: &BTreeSet<String>,
        generation: u32,
    ) -> Result<Self, ConfigError> {
        let config = balancer_of(&c)?;
        let known = |id: &&String| config.backends.iter().any(|b| b.id == **id);
        let down: BTreeSet<String> = down.iter().filter(known).cloned().collect();
        let pair = PortPair::find(&c, "load_balancer.backend", &config.client, &config.backend)?;
        Ok(Self {
            generation,
            vips: Vips::new(config)?,
            pool: Pool::new(config, before, &down, generation)?,
            own: config.addresses.iter().map(|a| address_bits(*a)).collect(),
            mtu: config.mtu,
            max_connections: config.max_connections,
            timeouts: Timeouts { idle_ms: common::idle_ms(config.idle_ms) },
            configuration: c,
            down,
            pair,
        })
    }

    pub(super) fn table(&self, seed: u64) -> Result<Table<State>, ConfigError> {
        common::table(MAX_CONNECTIONS, self.max_connections, seed)
    }

    /// Whether an address is one of ours towards the backends.
    pub(super) fn is_own(&self, address: u128) -> bool {
        self.own.contains(&address)
    }
}

/// A backend's place: kept while it is configured, so that connections may refer to it by number.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    id: String,
    /// As configured.
    pub number: u16,
    pub mac: [u8; 6],
    /// Generation in which the place was given to this backend; older connections mean its predecessor.
    pub since: u32,
    pub alive: bool,
    /// It fails its health checks, and another does not.
    down: bool,
    /// Its addresses of IPv4 and IPv6; 0: none.
    addresses: [u128; 2],
    /// For services of IPv4 and IPv6.
    tunnels: [Ends; 2],
}

impl Slot {
    fn vacant() -> Self {
        Self {
            id: String::new(),
            number: 0,
            mac: [0; 6],
            since: 0,
            alive: false,
            down: false,
            addresses: [0; 2],
            tunnels: [Ends::default(); 2],
        }
    }

    /// What the configuration says of it now.
    fn set(&mut self, config: &LoadBalancer, backend: &Backend, down: bool) {
        (self.number, self.mac) = (backend.number, backend.mac.0);
        self.down = down;
        self.addresses = [true, false].map(|v4| {
            let of_version = backend.addresses.iter().find(|a| a.is_ipv4() == v4);
            of_version.map_or(0, |a| address_bits(*a))
        });
        self.tunnels = [true, false].map(|v4| match config.tunnel(backend, v4) {
            Some((ours, theirs)) => Ends { ours: address_bits(ours), theirs: address_bits(theirs) },
            None => Ends::default(),
        });
    }

    /// Its address of an IP version.
    #[inline]
    pub fn address(&self, v6: bool) -> u128 {
        self.addresses[usize::from(v6)]
    }

    /// The tunnel for services of an IP version.
    #[inline]
    pub fn tunnel(&self, v6: bool) -> Ends {
        self.tunnels[usize::from(v6)]
    }

    /// Whether a connection of a generation is still this backend's.
    pub fn keeps(&self, generation: u32) -> bool {
        self.alive && !self.down && self.since <= generation
    }

    /// Whether tunnels to it end at an address.
    pub fn ends_at(&self, address: u128) -> bool {
        self.alive && self.tunnels.iter().any(|t| t.theirs == address)
    }
}

/// The position of a backend that is no longer configured.
const NOWHERE: u32 = u32::MAX;

/// The backends and the table over them.
#[derive(Debug)]
pub(super) struct Pool {
    pub slots: Vec<Slot>,
    /// Of each slot, see [`super::mac_bits`]: what an established connection needs of it.
    pub macs: Vec<u64>,
    /// From Maglev's index (position in the configuration) to the slot.
    order: Vec<u16>,
    /// From the slot to the position in the configuration; of a vacant one [`NOWHERE`].
    positions: Vec<u32>,
    maglev: maglev::Table,
    /// Numbers of backends that are to be used, sorted, and their slots.
    numbers: Vec<(u16, u16)>,
}

impl Pool {
    /// The pool of a configuration; backends known from `before` keep their places.
    fn new(
        config: &LoadBalancer,
        before: &[Slot],
        down: &BTreeSet<String>,
        generation: u32,
    ) -> Result<Self, ConfigError> {
        if config.backends.len() > MAX_BACKENDS {
            return Err(common::invalid("load_balancer.backends", format!("more than {MAX_BACKENDS}")));
        }
        // Where all are down the checks may be what is broken.
        let checks_count = config.backends.iter().any(|b| !down.contains(&b.id));
        let is_down = |b: &Backend| checks_count && down.contains(&b.id);
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
        let mut numbers = Vec::with_capacity(kept.len());
        for (backend, kept) in config.backends.iter().zip(kept) {
            let place = kept.unwrap_or_else(|| {
                vacant = give_place(&mut slots, vacant, &backend.id, generation);
                vacant
            });
            slots[place].set(config, backend, is_down(backend));
            let place = u16::try_from(place);
            let place = place.map_err(|_| common::invalid("load_balancer.backends", "too many"))?;
            order.push(place);
            if !is_down(backend) {
                numbers.push((backend.number, place));
            }
        }
        numbers.sort_unstable();
        let usable: Vec<Backend> = config
            .backends
            .iter()
            .map(|b| Backend { draining: b.draining || is_down(b), ..b.clone() })
            .collect();
        let mut positions = vec![NOWHERE; slots.len()];
        for (position, slot) in (0..).zip(&order) {
            positions[usize::from(*slot)] = position;
        }
        let macs = slots.iter().map(|slot| super::mac_bits(slot.mac)).collect();
        let maglev = maglev::Table::new(&usable, config.table_size);
        Ok(Self { slots, macs, order, positions, maglev, numbers })
    }

    /// The slot of the flow's backend.
    pub fn pick(&self, hash: u64) -> Option<u16> {
        self.maglev.lookup(hash).and_then(|i| self.order.get(i)).copied()
    }

    /// The position in the running configuration of the backend that a connection of a generation has.
    pub fn configured(&self, slot: u16, generation: u32) -> u32 {
        let slot = usize::from(slot);
        let kept = self.slots.get(slot).is_some_and(|s| s.alive && s.since <= generation);
        self.positions.get(slot).copied().filter(|_| kept).unwrap_or(NOWHERE)
    }

    /// The slot of the backend with this number, if it is to be used.
    pub fn numbered(&self, number: u16) -> Option<u16> {
        let at = self.numbers.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        self.numbers.get(at).map(|(_, slot)| *slot)
    }
}

/// A place for a new backend: the next of a removed one from `first` on, or one more.
fn give_place(slots: &mut Vec<Slot>, first: usize, id: &str, generation: u32) -> usize {
    let place = (first..slots.len()).find(|i| !slots[*i].alive).unwrap_or(slots.len());
    let slot = Slot { id: id.to_owned(), since: generation, alive: true, ..Slot::vacant() };
    match slots.get_mut(place) {
        Some(vacant) => *vacant = slot,
        None => slots.push(slot),
    }
    place
}

/// A service.
#[derive(Debug)]
pub(super) struct Service {
    pub address: u128,
    pub port: u16,
    protocol: u8,
    pub mode: Mode,
    /// In mode `nat`, where backends listen.
    pub backend_port: u16,
    affinity: Affinity,
    pub quic: Ids,
    id: String,
}

impl Service {
    fn new(vip: &Vip) -> Self {
        Self {
            address: address_bits(vip.address),
            port: vip.port,
            protocol: vip.protocol,
            mode: vip.mode,
            backend_port: vip.port_of_backends(),
            affinity: vip.affinity,
            quic: Ids::new(&vip.quic),
            id: vip.id.clone(),
        }
    }

    fn sort_key(&self) -> (u128, u16, u8) {
        (self.address, self.port, self.protocol)
    }

    fn v6(&self) -> bool {
        self.address >> 32 != 0xffff
    }

    /// What Maglev is asked with for a client's flow.
    pub fn hash(&self, source: u128, destination: u128, ports: u32, protocol: u8) -> u64 {
        match self.affinity {
            Affinity::FiveTuple => maglev::hash_words(source, destination, ports, protocol),
            Affinity::Source => maglev::hash_words(source, destination, 0, 0),
        }
    }
}

/// The services, sorted for binary search.
#[derive(Debug)]
pub(super) struct Vips {
    services: Vec<Service>,
    addresses: Vec<u128>,
    /// By protocol (UDP, TCP), IP version and port of the backends: which service a NAT reply is of, plus one. Empty: none.
    replies: [[Vec<u16>; 2]; 2],
    /// In no other mode.
    pub l2: bool,
}

impl Vips {
    fn new(config: &LoadBalancer) -> Result<Self, ConfigError> {
        if config.vips.len() > MAX_VIPS {
            return Err(common::invalid("load_balancer.vips", format!("more than {MAX_VIPS}")));
        }
        let mut services: Vec<_> = config.vips.iter().map(Service::new).collect();
        services.sort_by_key(Service::sort_key);
        services.dedup_by_key(|s| s.sort_key());
        let mut addresses: Vec<u128> = services.iter().map(|s| s.address).collect();
        addresses.dedup();
        let mut replies: [[Vec<u16>; 2]; 2] = Default::default();
        for (service, number) in services.iter().zip(1..).filter(|(s, _)| s.mode == Mode::Nat) {
            let ports = &mut replies[usize::from(service.protocol == TCP)][usize::from(service.v6())];
            ports.resize(1 << 16, 0);
            ports[usize::from(service.backend_port)] = number;
        }
        let l2 = services.iter().all(|s| s.mode == Mode::L2);
        Ok(Self { services, addresses, replies, l2 })
    }

    /// Number of the service that a connection from the client side is for.
    pub fn find(&self, key: &Key) -> Option<u16> {
        let (_, destination, ports) = key.as_sent_from(Side::Near);
        let port = (ports & 0xffff) as u16;
        let wanted = (destination, port, key.protocol());
        self.services
            .binary_search_by_key(&wanted, Service::sort_key)
            .ok()
            .and_then(|i| u16::try_from(i).ok())
    }

    #[inline]
    pub fn get(&self, number: u16) -> Option<&Service> {
        self.services.get(usize::from(number))
    }

    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// The service that a packet is a NAT reply of, if it comes from a backend: by the port alone.
    #[inline]
    pub fn answered_from(&self, port: u16, protocol: u8, v6: bool) -> Option<&Service> {
        let ports = &self.replies[usize::from(protocol == TCP)][usize::from(v6)];
        self.get(ports.get(usize::from(port))?.checked_sub(1)?)
    }

    /// Whether any packet may be a NAT reply.
    #[inline]
    pub fn translate(&self, v6: bool) -> bool {
        self.replies.iter().any(|by_version| !by_version[usize::from(v6)].is_empty())
    }

    /// A packet from a backend as the client is to see it, if it is a NAT reply.
    pub fn untranslated(&self, packet: &Packet) -> Option<(Packet, &Service)> {
        let service = self.answered_from((packet.ports >> 16) as u16, packet.protocol, packet.v6)?;
        if self.has_address(packet.source) {
            return None;
        }
        let ports = u32::from(service.port) << 16 | packet.ports & 0xffff;
        Some((Packet { source: service.address, ports, ..*packet }, service))
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
    pub(super) fn of<M>(running: &Balancer<M>) -> Self {
        Self { plan: running.plan.clone(), capacity: running.table.capacity(), seed: running.table.seed() }
    }

    pub(crate) fn prepare(&self, c: &Configuration) -> Result<Next, ConfigError> {
        balancer_of(c)?;
        common::same_ports(&self.plan.configuration.ports, c)?;
        self.next(Arc::new(c.clone()), &self.plan.down)
    }

    /// The same configuration with other backends down.
    pub(crate) fn prepare_health(&self, down: &BTreeSet<String>) -> Result<Next, ConfigError> {
        self.next(self.plan.configuration.clone(), down)
    }

    /// The same configuration with the same backends down.
    pub(crate) fn again(&self) -> Result<Next, ConfigError> {
        self.next(self.plan.configuration.clone(), &self.plan.down)
    }

    fn next(&self, c: Arc<Configuration>, down: &BTreeSet<String>) -> Result<Next, ConfigError> {
        let plan = Plan::new(c, &self.plan.pool.slots, down, self.plan.generation.wrapping_add(1))?;
        if plan.pair != self.plan.pair {
            return Err(common::invalid(
                "load_balancer.client",
                "the two sides only change with a new process",
            ));
        }
        let grows = plan.max_connections as usize > self.capacity;
        let before: BTreeMap<&str, usize> =
            self.plan.vips.services.iter().zip(0..).map(|(s, i)| (s.id.as_str(), i)).collect();
        let kept = plan.vips.services.iter().map(|s| before.get(s.id.as_str()).copied()).collect();
        Ok(Next {
            before: self.plan.clone(),
            counts: vec![Count::default(); plan.pool.slots.len()],
            path_mtus: vec![PathMtu::default(); plan.pool.slots.len()],
            vip_counts: vec![Count::default(); plan.vips.len()],
            kept,
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
    path_mtus: Vec<PathMtu>,
    vip_counts: Vec<Count>,
    /// Where the services were before.
    kept: Vec<Option<usize>>,
    /// An empty table, if the running one is too small.
    room: Option<Table<State>>,
}

impl Next {
    pub(super) fn swap_into<M>(mut self, running: &mut Balancer<M>) -> Result<Self, ConfigError> {
        if !Arc::ptr_eq(&self.before, &running.plan) {
            return Err(prepare::stale());
        }
        let places = self.plan.pool.slots.iter().zip(&running.counts).zip(&running.path_mtus);
        let next = self.counts.iter_mut().zip(&mut self.path_mtus);
        for ((count, path_mtu), ((slot, before), mtu_before)) in next.zip(places) {
            if slot.since != self.plan.generation {
                (*count, *path_mtu) = (*before, *mtu_before);
            }
        }
        for (count, kept) in self.vip_counts.iter_mut().zip(&self.kept) {
            *count = kept.and_then(|i| running.vip_counts.get(i)).copied().unwrap_or_default();
        }
        mem::swap(&mut self.counts, &mut running.counts);
        mem::swap(&mut self.path_mtus, &mut running.path_mtus);
        mem::swap(&mut self.vip_counts, &mut running.vip_counts);
        mem::swap(&mut self.plan, &mut running.plan);
        let Balancer { table, events, plan, .. } = running;
        table.set_limit_and_tell(plan.max_connections, &mut self.room, |entry, _, after| {
            if after.is_none() {
                super::over(plan, events, entry);
            }
        });
        Ok(self)
    }
}

/// What a backend or a service was given.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    pub frames: u64,
    pub opened: u64,
}

/// The same of all places and services, without their names.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    plan: Arc<Plan>,
    counts: Vec<Count>,
    vip_counts: Vec<Count>,
}

impl Counts {
    pub(super) fn of<M>(running: &Balancer<M>) -> Self {
        Self {
            plan: running.plan.clone(),
            counts: running.counts.clone(),
            vip_counts: running.vip_counts.clone(),
        }
    }

    pub(crate) fn report(&self, out: &mut BTreeMap<String, u64>) {
        for (slot, count) in self.plan.pool.slots.iter().zip(&self.counts).filter(|(slot, _)| slot.alive) {
            out.insert(format!("backend.{}", slot.id), count.frames);
            out.insert(format!("backend_connections.{}", slot.id), count.opened);
        }
        for (service, count) in self.plan.vips.services.iter().zip(&self.vip_counts) {
            out.insert(format!("vip.{}", service.id), count.frames);
            out.insert(format!("vip_connections.{}", service.id), count.opened);
        }
    }
}
