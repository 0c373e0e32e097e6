//! A new configuration in two halves: everything that takes long, or may fail, on any thread; then a swap on the
//! packet thread that takes pointers, and copies a balancer's counters.
//!
//! ```text
//! packet thread: basis() ─┐                       ┌─> swap(Prepared) ─┐
//! another:                └─> Basis::prepare() ───┘                   └─> drop(Retired)
//! ```
//!
//! A [`Prepared`] fits the plan it was prepared against and no other: a swap after any other swap is refused. Nothing
//! of the connection table is in it but, if the table has to grow, the room for it; only then does the swap's time
//! depend on the number of connections. Neither half drops a rule set on the packet thread: what was replaced leaves
//! in [`Retired`], and names of counters are only put together where a [`Snapshot`] is read.
//!
//! Tests: `tests/prepare.rs`; the models in `tests/firewall.rs` and `tests/balancer.rs` reconfigure through it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dataplane_control::{Configuration, config::ConfigError};

use crate::{balancer, chain, common, common::Drops, firewall, reflector};

/// One of the functions that process packets, in some form.
#[derive(Debug, Clone)]
pub(crate) enum Kind<F, B, R, C> {
    Firewall(F),
    Balancer(B),
    Reflector(R),
    /// Several, in a row.
    Chain(Vec<C>),
}

impl<F, B, R, C> Kind<F, B, R, C> {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Firewall(_) => "firewall",
            Self::Balancer(_) => "load balancer",
            Self::Reflector(_) => "reflector",
            Self::Chain(_) => "chain",
        }
    }
}

/// What the next configuration is prepared against: the running plan. Made in constant time.
#[derive(Debug, Clone)]
pub struct Basis(pub(crate) Kind<firewall::Basis, balancer::Basis, Arc<reflector::Plan>, Basis>);

impl Basis {
    /// Checks and compiles a configuration. Takes as long as it takes: not for the packet thread.
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration contradicts itself, differs from the running one in what needs a new
    /// process (kind of function, ports, sides), or needs more memory than there is.
    pub fn prepare(&self, configuration: &Configuration) -> Result<Prepared, ConfigError> {
        configuration.check()?;
        Ok(Prepared(match &self.0 {
            Kind::Firewall(basis) => Kind::Firewall(basis.prepare(configuration)?),
            Kind::Balancer(basis) => Kind::Balancer(basis.prepare(configuration)?),
            Kind::Reflector(plan) => Kind::Reflector(reflector::Next::prepare(plan, configuration)?),
            Kind::Chain(parts) => Kind::Chain(chain::prepare(parts, configuration)?),
        }))
    }

    /// The running configuration with these backends of the `index`-th function of a row (0 of one that is alone) down, by their ids: they
    /// get no new connections, and those that they have go to others. Where all are down none is. Until this is asked for again it holds
    /// for whatever is prepared. Not for the packet thread.
    ///
    /// # Errors
    /// [`ConfigError`] if the function has no backends, or there is not enough memory.
    pub fn prepare_health(&self, index: usize, down: &BTreeSet<String>) -> Result<Prepared, ConfigError> {
        match &self.0 {
            Kind::Balancer(basis) if index == 0 => {
                basis.prepare_health(down).map(|next| Prepared(Kind::Balancer(next)))
            }
            Kind::Chain(parts) => chain::prepare_health(parts, index, down).map(|p| Prepared(Kind::Chain(p))),
            other => Err(common::prepared_for("load balancer", other.name())),
        }
    }

    /// A balancer's running configuration, compiled again; nothing of other functions.
    pub(crate) fn balancer_again(&self) -> Result<Option<Prepared>, ConfigError> {
        match &self.0 {
            Kind::Balancer(basis) => basis.again().map(|next| Some(Prepared(Kind::Balancer(next)))),
            _ => Ok(None),
        }
    }
}

/// A configuration ready to be swapped in, see [`crate::PacketFunction::swap`].
#[derive(Debug)]
#[must_use = "nothing runs it until it is swapped in"]
pub struct Prepared(pub(crate) Kind<firewall::Next, balancer::Next, reflector::Next, Option<Prepared>>);

/// What a swap replaced; to be dropped off the packet thread, which is all it is good for.
#[derive(Debug)]
#[must_use = "drop it on another thread: freeing a large rule set takes milliseconds"]
pub struct Retired(pub(crate) Prepared);

/// The plan that `prepared` was made against is no longer the running one.
pub(crate) fn stale() -> ConfigError {
    common::invalid("generation", "another configuration was swapped in since; prepare this one again")
}

/// The counters of one moment, copied without their names.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(crate) drops: Drops,
    pub(crate) totals: Vec<(&'static str, u64)>,
    pub(crate) named: Kind<firewall::Counts, balancer::Counts, (), Snapshot>,
    pub(crate) connections: u64,
    /// Of those, TCP whose handshake is not complete; a firewall counts them.
    pub(crate) half_open: u64,
}

impl Snapshot {
    /// Adds every counter, all monotonic: `drop.<reason>`, `rule.<id>`, `backend.<id>`, …
    pub fn counters(&self, out: &mut BTreeMap<String, u64>) {
        self.drops.report(out);
        match &self.named {
            Kind::Firewall(counts) => counts.report(out),
            Kind::Balancer(counts) => counts.report(out),
            Kind::Reflector(()) => {}
            Kind::Chain(parts) => parts.iter().for_each(|part| part.add_to(out)),
        }
        out.extend(self.totals.iter().map(|(name, count)| ((*name).to_owned(), *count)));
    }

    /// Adds to what is there of the same names.
    fn add_to(&self, out: &mut BTreeMap<String, u64>) {
        let mut own = BTreeMap::new();
        self.counters(&mut own);
        for (name, count) in own {
            *out.entry(name).or_default() += count;
        }
    }

    /// Connections that were tracked.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// TCP connections among them whose handshake was not complete, as firewalls count them.
    #[must_use]
    pub fn half_open(&self) -> u64 {
        self.half_open
    }
}
