//! OSM as a MANO: the back end of the orchestrator that speaks to OSM's northbound interface (SOL005 as OSM has it).
//!
//! [`Osm`] is the driver ([`mano::Mano`]); [`client`] the session with the NBI below it. What a service becomes in OSM's
//! request is in `translate`, our key on OSM's records in `mark`, day-0 documents in [`day0`], errors in `error`.
//!
//! What it must never do: touch a record that does not carry our mark; take OSM's word for what is at a VIM; repeat a POST whose
//! answer was lost without looking.
//!
//! Tests: beside the code; `tests/session.rs`, `tests/traps.rs` and `tests/lost.rs` against a stand-in that replays what a real NBI was recorded to
//! answer and loses answers on demand; `tests/nbi.rs` on a real NBI, where `OSM_NBI_URL` names one.

mod actions;
mod admin;
pub mod client;
mod config;
pub mod day0;
mod error;
mod mark;
mod notify;
mod observe;
mod operations;
mod packages;
mod records;
mod scaling;
mod services;
mod translate;

pub use admin::{Enabled, VimAccount};
pub use config::OsmConfig;
pub use http_peer::{BadConfig, Secret};
pub use notify::{Callback, MAX_NOTIFICATION_BYTES};

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use async_trait::async_trait;
use mano::{
    Capabilities, Inventory, Mano, ObservedPackage, ObservedService, PackageKind, PackageSpec, Removal,
    Scope, ServiceKey, ServiceSpec,
};
use vim::{Artifacts, DriverError, ObjectKey, VimDriver};

use client::Client;
use error::Trouble;
use records::Account;

/// OSM as a MANO.
pub struct Osm {
    client: Client,
    artifacts: Arc<dyn Artifacts>,
    /// Our sites' VIMs, which say why a machine failed: OSM says that it did.
    vims: BTreeMap<String, Arc<dyn VimDriver>>,
    /// One call at a time per service and package: two that look and act at once would both act.
    busy: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// VIM account -> its name, as last seen.
    names: Mutex<BTreeMap<String, String>>,
    /// When operations are looked at.
    lately: operations::Lately,
    /// Who waits for an operation's end.
    bells: notify::Bells,
    /// Whom OSM tells when one ends.
    told: Mutex<Option<notify::Told>>,
}

impl Osm {
    /// A back end over this session; packages' bytes come from `artifacts`. Asks nothing yet.
    #[must_use]
    pub fn new(client: Client, artifacts: Arc<dyn Artifacts>) -> Self {
        Self {
            client,
            artifacts,
            vims: BTreeMap::new(),
            busy: Mutex::default(),
            names: Mutex::default(),
            lately: operations::Lately::default(),
            bells: notify::Bells::default(),
            told: Mutex::default(),
        }
    }

    /// With the VIMs of our sites, by name.
    #[must_use]
    pub fn with_vims(mut self, vims: BTreeMap<String, Arc<dyn VimDriver>>) -> Self {
        self.vims = vims;
        self
    }

    /// The session, for its count of calls.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn turn(&self, what: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = lock(&self.busy);
        busy.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = busy.get(what).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        busy.insert(what.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// Does it when nobody else does anything with it.
    async fn alone<T>(
        &self,
        what: &str,
        operation: &str,
        it: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, DriverError> {
        let turn = self.turn(what);
        let _mine = turn.lock().await;
        it.await.map_err(|e| e.about(what, operation))
    }

    /// Does it as often as its answers are lost: each time it looks first.
    async fn again<T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        step: impl Fn() -> F,
    ) -> Result<T, Trouble> {
        let mut lost = 0;
        loop {
            match step().await {
                Ok(it) => return Ok(it),
                Err(e) => self.settle(e, &mut lost).await?,
            }
        }
    }

    fn know_accounts(&self, all: &[Account]) {
        *lock(&self.names) = all.iter().map(|a| (a.id.clone(), a.name.clone())).collect();
    }

    /// VIM account -> site of ours.
    fn site_of_account(&self) -> BTreeMap<String, String> {
        let sites: BTreeMap<&String, &String> =
            self.client.config().sites.iter().map(|(site, name)| (name, site)).collect();
        let names = lock(&self.names);
        names.iter().filter_map(|(id, name)| Some((id.clone(), (*sites.get(name)?).clone()))).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Mano for Osm {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        Ok(Capabilities {
            driver: "osm".into(),
            sites: self.client.config().sites.keys().cloned().collect(),
            heal: true,
            migrate: true,
            counts_macs_up: true,
            day0_fixed: true,
            one_site_networks: true,
            ignores: vec![
                "affinity-or-anti-affinity-group and local-affinity-or-anti-affinity-rule of an NSD: Mandate's placement decides".into(),
                "every deployment flavour and instantiation level but the first".into(),
            ],
        })
    }

    async fn ensure_package(&self, spec: &PackageSpec) -> Result<ObservedPackage, DriverError> {
        self.alone(
            &format!("{} {}", spec.kind, spec.id),
            "ensure_package",
            self.again(|| self.package_step(spec)),
        )
        .await
    }

    async fn remove_package(&self, kind: PackageKind, id: &str) -> Result<Removal, DriverError> {
        self.alone(&format!("{kind} {id}"), "remove_package", self.again(|| self.unpackage_step(kind, id)))
            .await
    }

    async fn ensure_service(
        &self,
        key: &ServiceKey,
        spec: &ServiceSpec,
    ) -> Result<ObservedService, DriverError> {
        self.alone(key.as_str(), "ensure", self.ensure(key, spec)).await
    }

    async fn remove_service(&self, key: &ServiceKey) -> Result<(), DriverError> {
        self.alone(key.as_str(), "remove", self.take_down(key)).await
    }

    async fn heal(
        &self,
        key: &ServiceKey,
        action: &str,
        instances: &BTreeSet<ObjectKey>,
    ) -> Result<ObservedService, DriverError> {
        self.alone(key.as_str(), "heal", self.again(|| self.heal_step(key, action, instances))).await
    }

    async fn migrate(
        &self,
        key: &ServiceKey,
        instance: &ObjectKey,
        host: &str,
    ) -> Result<ObservedService, DriverError> {
        self.alone(key.as_str(), "migrate", self.again(|| self.migrate_step(key, instance, host))).await
    }

    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        let what = match scope {
            Scope::All => "*",
            Scope::Service(key) => key.as_str(),
        };
        let seen = async {
            self.accounts(std::iter::empty()).await?;
            self.inventory(scope).await
        };
        seen.await.map_err(|e: Trouble| e.about(what, "observe"))
    }
}
