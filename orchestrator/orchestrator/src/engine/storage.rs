//! The package store's room: taken before anything is written, bounded for each provider and in all, and given back.
//!
//! What stays: a package that the ledger has and has not taken back; one that a service there names, or may go back to;
//! one that came within the last day, for it may still be registered. Everything else goes, when room is short and
//! every hour. Never: a file that somebody still holds. Tests: `tests/engine/store.rs`, `journal/stored.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ledger_contract::state::{InFlightKind, PackageEntry, ServiceRecord, decode};
use tokio::sync::watch;
use trust::Digest;

use super::{Engine, EngineError, catalogue::blocking, now_ms, service::ledger_problem};
use crate::{
    artifacts::ArtifactError,
    journal::{Room, StoreBounds},
    problem::Problem,
};

/// How long a package waits for its registration, ms.
const UNREGISTERED_MS: u64 = 24 * 3_600_000;
/// Pause between two looks for what can go.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);
const PACKAGES: &str = "package/";
const SERVICES: &str = "service/";
const MIB: u64 = 1 << 20;

/// What is to be stored: a package and its images, by digest.
pub(super) struct Incoming {
    pub org: String,
    pub package: Digest,
    pub contents: BTreeMap<Digest, Vec<u8>>,
}

/// Packages as the ledger knows them.
struct Known {
    /// By digest: constituents, images, organisation, whether it was taken back.
    packages: BTreeMap<Digest, Package>,
    /// Named by a service that is not gone.
    used: BTreeSet<Digest>,
}

struct Package {
    org: String,
    holds: Vec<Digest>,
    constituents: Vec<Digest>,
    revoked: bool,
}

impl Engine {
    /// Stores a package with its images if there is room.
    pub(super) async fn store(&self, incoming: Incoming) -> Result<(), Problem> {
        let _one_at_a_time = self.storing.lock().await;
        let artifacts: Vec<_> = incoming.contents.iter().map(|(d, c)| (*d, c.len() as u64)).collect();
        let (org, package) = (incoming.org.clone(), incoming.package);
        let taken = self.make_room(&org, &package, &artifacts).await?;
        let store = self.artifacts.clone();
        let written = blocking(move || {
            // The package last: one that is stored is complete.
            let (last, images): (Vec<_>, Vec<_>) =
                incoming.contents.iter().partition(|(digest, _)| **digest == incoming.package);
            for (_, content) in images.into_iter().chain(last) {
                store.put(content).map_err(|e| not_written(&e))?;
            }
            Ok(())
        })
        .await;
        if written.is_err() && taken == Room::Taken {
            self.let_go(&org, &package)?;
        }
        written
    }

    async fn make_room(
        &self,
        org: &str,
        package: &Digest,
        artifacts: &[(Digest, u64)],
    ) -> Result<Room, Problem> {
        let limits = &self.config.limits;
        let bounds = StoreBounds {
            provider_bytes: limits.provider_store_mib.saturating_mul(MIB),
            provider_packages: limits.provider_packages,
            store_bytes: limits.store_mib.saturating_mul(MIB),
        };
        let known = self.known_packages().await?;
        self.adopt(&known)?;
        let take = || self.journal.take_room((org, package), artifacts, Some(&bounds), now_ms());
        let mut room = take().map_err(journal)?;
        if !matches!(room, Room::Taken | Room::Held) && self.collect(&known)? > 0 {
            room = take().map_err(journal)?;
        }
        match refused(room, org, &bounds) {
            None => Ok(room),
            Some(problem) => Err(problem),
        }
    }

    /// Lets go, every hour until `stop`, what need not be here any more.
    pub(super) async fn keep_store(
        self: std::sync::Arc<Self>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), EngineError> {
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|s| *s) => return Ok(()),
                () = tokio::time::sleep(COLLECT_EVERY) => {}
            }
            let _one_at_a_time = self.storing.lock().await;
            let collected = match self.known_packages().await {
                Ok(known) => self.adopt(&known).and_then(|()| self.collect(&known)),
                Err(problem) => Err(problem),
            };
            if let Err(problem) = collected {
                tracing::warn!(%problem, "the package store is not cleared");
            }
        }
    }

    async fn known_packages(&self) -> Result<Known, Problem> {
        let damaged = |e: &dyn std::fmt::Display| Problem::internal("LEDGER_STATE", e);
        let mut packages = BTreeMap::new();
        for (key, value) in self.ledger.state_prefix(PACKAGES).await.map_err(ledger_problem)? {
            let entry: PackageEntry = decode(&key, &value).map_err(|e| damaged(&e))?;
            let record = entry.record().map_err(|e| damaged(&e))?;
            let signer = entry.request.signatures.first();
            let org = signer.and_then(|s| trust::identity::claimed(&s.certificate).ok()).map(|(org, _)| org);
            let images = record.images.iter().map(|i| i.digest);
            let package = Package {
                org: org.unwrap_or_default(),
                holds: images.chain([record.digest]).collect(),
                constituents: record.constituents.values().copied().collect(),
                revoked: entry.revoked.is_some(),
            };
            packages.insert(record.digest, package);
        }
        let mut used = BTreeSet::new();
        for (key, value) in self.ledger.state_prefix(SERVICES).await.map_err(ledger_problem)? {
            let service: ServiceRecord = decode(&key, &value).map_err(|e| damaged(&e))?;
            named_by(&service, &mut used);
        }
        for tracked in self.read().live().filter(|t| t.operation.outcome.is_none()) {
            used.extend(tracked.operation.grant.packages.values());
        }
        let parts: Vec<_> = used.iter().filter_map(|d| packages.get(d)).collect();
        let parts: Vec<Digest> = parts.into_iter().flat_map(|p: &Package| p.constituents.clone()).collect();
        used.extend(parts);
        Ok(Known { packages, used })
    }

    /// Counts what is here and was never counted: registered packages for who registered them, the rest for nobody.
    fn adopt(&self, known: &Known) -> Result<(), Problem> {
        let files = self.artifacts.all().map_err(|e| not_written(&e))?;
        for (digest, bytes) in &files {
            let Some(package) = known.packages.get(digest) else { continue };
            if self.journal.is_stored(digest).map_err(journal)? {
                continue;
            }
            let holds: Vec<_> = package.holds.iter().filter_map(|d| Some((*d, *files.get(d)?))).collect();
            debug_assert!(holds.contains(&(*digest, *bytes)));
            self.journal.take_room((&package.org, digest), &holds, None, now_ms()).map_err(journal)?;
        }
        for (digest, bytes) in &files {
            if !self.journal.is_stored(digest).map_err(journal)? {
                let alone = [(*digest, *bytes)];
                self.journal.take_room(("", digest), &alone, None, now_ms()).map_err(journal)?;
            }
        }
        Ok(())
    }

    /// Removes what need not be here; how many packages that were.
    fn collect(&self, known: &Known) -> Result<usize, Problem> {
        let late = now_ms().saturating_sub(UNREGISTERED_MS);
        let mut gone = 0;
        for stored in self.journal.stored_packages().map_err(journal)? {
            let here = self.artifacts.size(&stored.package) > 0;
            let wanted = match known.packages.get(&stored.package) {
                _ if known.used.contains(&stored.package) => true,
                Some(package) => !package.revoked,
                None => stored.at_ms > late,
            };
            if !(here && wanted) {
                tracing::info!(package = %stored.package, provider = stored.org, "let go from the package store");
                self.let_go(&stored.org, &stored.package)?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    fn let_go(&self, org: &str, package: &Digest) -> Result<(), Problem> {
        for artifact in self.journal.give_room_back(org, package).map_err(journal)? {
            self.artifacts.remove(&artifact).map_err(|e| not_written(&e))?;
        }
        Ok(())
    }
}

fn named_by(service: &ServiceRecord, used: &mut BTreeSet<Digest>) {
    used.insert(service.nsd_package);
    used.extend(service.packages.values());
    used.extend(service.former.iter().map(|r| r.nsd_package));
    for flight in service.in_flight.iter().chain(&service.behind) {
        if let InFlightKind::Revise { next, packages, .. } = &flight.kind {
            used.insert(next.nsd_package);
            used.extend(packages.values());
        }
    }
}

fn journal(e: crate::journal::JournalError) -> Problem {
    Problem::internal("JOURNAL", e)
}

/// In MiB, rounded up: nobody is told that it uses less than it does.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(MIB)
}

fn refused(room: Room, org: &str, bounds: &StoreBounds) -> Option<Problem> {
    let take_back = "take back packages that no service uses (`mandate governance revoke --package DIGEST`); what was \
                     never registered goes a day after it came; or the operator raises";
    let (code, detail, key) = match room {
        Room::Taken | Room::Held => return None,
        Room::ProviderBytes(used, more) => (
            "PROVIDER_STORE_FULL",
            format!(
                "provider `{org}` has {} MiB here, this package takes {} MiB more, and its bound is {} MiB",
                mib(used),
                mib(more),
                mib(bounds.provider_bytes)
            ),
            "provider_store_mib",
        ),
        Room::ProviderPackages(used) => (
            "PROVIDER_STORE_FULL",
            format!(
                "provider `{org}` has {used} packages here, and its bound is {}",
                bounds.provider_packages
            ),
            "provider_packages",
        ),
        Room::StoreBytes(used, more) => (
            "STORE_FULL",
            format!(
                "all providers together have {} MiB here, this package takes {} MiB more, and the bound is {} MiB",
                mib(used),
                mib(more),
                mib(bounds.store_bytes)
            ),
            "store_mib",
        ),
    };
    Some(
        Problem::new(507, code, "There is no room for the package", detail)
            .hint(format!("{take_back} `{key}` under [limits] in config.toml")),
    )
}

/// A store that cannot be written; a full disk is for the operator to mend, and says so.
fn not_written(error: &ArtifactError) -> Problem {
    if error.is_full() {
        return Problem::new(507, "STORE_DISK_FULL", "There is no room for the package", error)
            .hint("nothing was stored; the operator makes room on that file system, then push again");
    }
    Problem::internal("ARTIFACTS", error)
}
