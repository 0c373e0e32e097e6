//! Services: made, scaled and removed by looking first and acting then, until what is there is what was asked for.
//!
//! Each round reads the records and operations of the service and takes one step. A step whose answer was lost is not
//! repeated but looked for, after a pause in which it may still arrive. That is all there is against the traps: a second instantiation is never asked for
//! while there is an operation (the NBI would accept it until the LCM has begun); a record is deleted only when no
//! operation of it runs (the NBI would delete it in mid-build); what failed is terminated before it is deleted.
//!
//! Tests: `tests/traps.rs` has each trap, `tests/lost.rs` drops the answer of every call in turn, on the recorded behaviour;
//! `tests/nbi.rs` on a real NBI.

use std::{collections::BTreeSet, time::Instant};

use mano::{ObservedService, PackageKind, ServiceKey, ServiceSpec, ServiceState};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;
use vim::Disposition;

use crate::{
    Osm,
    client::Call,
    error::{Trouble, escalate, failed, refuse},
    mark::Mark,
    observe::{counts, standing},
    operations::Ended,
    records::{Made, Occurrence, Package, Service, Vnf},
    scaling,
    translate::{Found, Request, request},
};

/// Steps to make or remove a service, at most: every step of scaling is one.
const MAX_ROUNDS: u32 = 256;
/// Lost answers that are looked for in one call.
const MAX_LOST: u32 = 8;
/// How long a call whose answer was lost may take to have its effect, in first pauses between two looks.
const SETTLE: u32 = 3;
/// Different faults that are told: more are of one cause.
const MAX_FAULTS: usize = 3;
/// Terminations that may fail before the record is deleted by force.
const MAX_TERMINATIONS: u32 = 2;

fn path(id: &str) -> String {
    format!("nslcm/v1/ns_instances/{}", http_peer::segment(id))
}

/// What one round did.
enum Round {
    /// Something: look again.
    Acted,
    /// An operation, which ended so: nothing goes on with the service.
    Ended(Box<Occurrence>),
    /// Nothing was left to do.
    Done(Box<ObservedService>),
}

/// What a service is to be, with everything that is needed to make it.
struct Wanted<'s> {
    key: &'s ServiceKey,
    spec: &'s ServiceSpec,
    found: Found,
    request: Request,
    mark: Mark,
}

impl Osm {
    pub(crate) async fn ensure(
        &self,
        key: &ServiceKey,
        spec: &ServiceSpec,
    ) -> Result<ObservedService, Trouble> {
        if let Err(e) = spec.check(key) {
            return refuse("OSM_SPEC", e.to_string());
        }
        let wanted = self.wanted(key, spec).await?;
        let until = Instant::now() + self.client.config().deadline();
        let (mut lost, mut ended) = (0, None);
        for _ in 0..MAX_ROUNDS {
            match self.round(&wanted, until, ended.take()).await {
                Ok(Round::Acted) => {}
                Ok(Round::Ended(operation)) => ended = Some(*operation),
                Ok(Round::Done(observed)) => return Ok(*observed),
                Err(e) => self.settle(e, &mut lost).await?,
            }
        }
        escalate(
            "OSM_ENDLESS",
            format!("{MAX_ROUNDS} steps and the service is not as asked for: look at it in OSM"),
        )
    }

    /// A lost answer is looked for again in a while; any other error is one.
    pub(crate) async fn settle(&self, error: Trouble, lost: &mut u32) -> Result<(), Trouble> {
        if !error.is_lost() || *lost >= MAX_LOST {
            return Err(error);
        }
        *lost += 1;
        sleep(http_peer::jittered(self.client.config().poll() * SETTLE)).await;
        Ok(())
    }

    /// Everything that a request names, found: accounts, packages; and what OSM would only refuse later, refused.
    async fn wanted<'s>(&self, key: &'s ServiceKey, spec: &'s ServiceSpec) -> Result<Wanted<'s>, Trouble> {
        let sites: BTreeSet<&str> = spec.members.values().map(|m| m.site.as_str()).collect();
        let reached = spec.links.values().flat_map(|l| l.sites.keys()).map(String::as_str);
        let accounts = self.accounts(sites.into_iter().chain(reached)).await?;
        let of_nsd = [(spec.nsd.id.as_str(), spec.nsd.digest)].into();
        let mut nsds = self.used_packages(PackageKind::Ns, &of_nsd).await?;
        let used = spec.members.values().map(|m| (m.vnfd.id.as_str(), m.vnfd.digest)).collect();
        let vnfds = self.used_packages(PackageKind::Vnf, &used).await?;
        let Some(nsd) = nsds.remove(&spec.nsd.id) else {
            return refuse("OSM_PACKAGE_ABSENT", format!("OSM has no NSD {}: ensure it first", spec.nsd.id));
        };
        if nsd.df.first().is_some_and(|df| df.id != spec.flavour) {
            let first = &nsd.df[0].id;
            return refuse(
                "OSM_SPEC",
                format!("flavour {}: OSM takes an NSD's first, which is {first}", spec.flavour),
            );
        }
        let found = Found { accounts, nsd, vnfds };
        for (index, member) in &spec.members {
            scaling::feasible(index, member, &found.vnfds[&member.vnfd.id])?;
        }
        let request = request(key, spec, &found, self.client.config().deadline_s)?;
        Ok(Wanted { key, spec, found, request, mark: Mark::of(key, spec) })
    }

    /// One step; `ended` is the operation that the step before it was.
    async fn round(
        &self,
        wanted: &Wanted<'_>,
        until: Instant,
        ended: Option<Occurrence>,
    ) -> Result<Round, Trouble> {
        let records = self.services(Some(wanted.key)).await?;
        let Some((mark, record)) = self.only(wanted.key, records).await? else {
            let made: Made =
                self.client.ask(&Call::post("nslcm/v1/ns_instances", &wanted.request.body)).await?;
            return self.instantiate(wanted, &made.id, until).await;
        };
        let operations = match ended.filter(|o| o.service == record.id) {
            Some(ended) => vec![ended],
            None => self.operations(Some(&record.id)).await?,
        };
        if let Some(running) = operations.iter().find(|o| o.runs()) {
            self.no_second(running, &operations).await?;
            let first = operations.iter().find(|o| o.kind == "instantiate");
            match first.is_some_and(|first| running.kind == "instantiate" && running.id != first.id) {
                // One too many, cancelled: how it ends is no matter, what it leaves is seen by the next look.
                true => drop(self.wait(&running.id, until).await?),
                false => {
                    let ended = in_time(&running.kind, self.wait(&running.id, until).await)?;
                    self.conclude(&running.kind, wanted.key, ended).await?;
                }
            }
            return Ok(Round::Acted);
        }
        match standing(&record, operations.last()) {
            // Parameters were taken from the request that made the record.
            ServiceState::NotInstantiated if operations.is_empty() && mark == wanted.mark => {
                self.instantiate(wanted, &record.id, until).await
            }
            ServiceState::NotInstantiated | ServiceState::Broken => {
                self.take_down(wanted.key).await?;
                Ok(Round::Acted)
            }
            ServiceState::Instantiated | ServiceState::Changing => {
                self.adjust(wanted, &mark, &record, &operations, until).await
            }
        }
    }

    async fn instantiate(&self, wanted: &Wanted<'_>, id: &str, until: Instant) -> Result<Round, Trouble> {
        let nsd = &wanted.found.nsd.mano_id;
        self.have_told(nsd).await;
        let call = Call::post(format!("{}/instantiate", path(id)), &wanted.request.body);
        let made: Made = self.client.ask(&call).await?;
        let bell = self.bells.of(&made.id);
        let ended = self.carried_out("instantiate", wanted.key, &made.id, until).await;
        if !bell.rang() {
            self.not_told(nsd);
        }
        ended
    }

    /// Starts an operation and waits for its end.
    async fn start(
        &self,
        kind: &str,
        key: &ServiceKey,
        call: &Call,
        until: Instant,
    ) -> Result<Round, Trouble> {
        let made: Made = self.client.ask(call).await?;
        self.carried_out(kind, key, &made.id, until).await
    }

    /// Waits for an operation of ours that began just now.
    async fn carried_out(
        &self,
        kind: &str,
        key: &ServiceKey,
        operation: &str,
        until: Instant,
    ) -> Result<Round, Trouble> {
        let (ended, last) = in_time(kind, self.wait_begun(kind, operation, until).await)?;
        let whole = ended == Ended::Done;
        self.conclude(kind, key, ended).await?;
        Ok(last.filter(|_| whole).map_or(Round::Acted, |o| Round::Ended(Box::new(o))))
    }

    /// What came of an operation; one that fails to build the service is unwound in OSM before that is said.
    async fn conclude(&self, kind: &str, key: &ServiceKey, ended: Ended) -> Result<(), Trouble> {
        let error = match ended {
            Ended::Done | Ended::Gone => return Ok(()),
            Ended::Failed(words) => failed(kind, &self.explained(words, key).await),
            Ended::Cancelled(words) => {
                let s = self.client.config().deadline_s;
                let reason = format!("OSM's {kind} did not end in {s} s and was cancelled: {words}");
                Trouble::Refused { code: "OSM_DEADLINE", reason, disposition: Disposition::Compensate }
            }
        };
        if kind == "instantiate"
            && let Err(e) = self.take_down(key).await
        {
            tracing::warn!(%key, error = ?e, "what a failed instantiation left in OSM is not gone: removing the service does it");
        }
        Err(error)
    }

    /// OSM's words with those of the VIMs. nova's list, which RO reads, has no fault of a server that found no host: OSM calls it
    /// `unknown`. Asked before the server goes.
    async fn explained(&self, words: String, key: &ServiceKey) -> String {
        let mut said: BTreeSet<String> = BTreeSet::new();
        for (site, id) in self.failed_machines(key).await.unwrap_or_default() {
            let Some(vim) = self.vims.get(&site) else { continue };
            match vim.fault(&id).await {
                Ok(fault) => said.extend(fault),
                Err(e) => tracing::warn!(%key, error = %e, "why a machine failed cannot be had"),
            }
        }
        said.retain(|fault| !words.contains(fault.as_str()));
        let said: Vec<String> = said.into_iter().take(MAX_FAULTS).collect();
        if said.is_empty() { words } else { format!("{words}; the VIM: {}", said.join("; ")) }
    }

    /// Machines that OSM says are in error: site, and the VIM's id.
    async fn failed_machines(&self, key: &ServiceKey) -> Result<Vec<(String, String)>, Trouble> {
        if self.vims.is_empty() {
            return Ok(Vec::new());
        }
        let Some((_, record)) = self.services(Some(key)).await?.into_iter().next() else {
            return Ok(Vec::new());
        };
        let sites = self.site_of_account();
        let mut out = Vec::new();
        let vnfs = self.vnfs(Some(&record.id)).await?;
        for vdur in vnfs.iter().flat_map(|v| &v.vdur).filter(|r| r.status != "ACTIVE") {
            for (target, at) in &vdur.vim_info {
                let site = target.strip_prefix("vim:").and_then(|account| sites.get(account));
                if let (Some(site), Some(at)) = (site, at.as_ref().filter(|at| !at.vim_id.is_empty())) {
                    out.push((site.clone(), at.vim_id.clone()));
                }
            }
        }
        Ok(out)
    }

    /// Of instantiations that wait behind the one that runs, none may begin.
    async fn no_second(&self, running: &Occurrence, operations: &[Occurrence]) -> Result<(), Trouble> {
        let second = operations.iter().filter(|o| o.runs() && o.id != running.id && o.kind == "instantiate");
        for operation in second {
            self.cancel(&operation.id).await?;
        }
        Ok(())
    }

    /// The one record of a service. Several are what lost answers made: all but the oldest that was ever built go.
    async fn only(
        &self,
        key: &ServiceKey,
        mut records: Vec<(Mark, Service)>,
    ) -> Result<Option<(Mark, Service)>, Trouble> {
        if records.len() < 2 {
            return Ok(records.pop());
        }
        let operations = self.operations(None).await?;
        let untouched = |s: &Service| {
            standing(s, None) == ServiceState::NotInstantiated
                && !operations.iter().any(|o| o.service == s.id)
        };
        let (idle, mut busy): (Vec<_>, Vec<_>) = records.into_iter().partition(|(_, s)| untouched(s));
        if busy.len() > 1 {
            let ids = busy.iter().map(|(_, s)| s.id.as_str()).collect::<Vec<_>>().join(", ");
            return escalate(
                "OSM_AMBIGUOUS",
                format!("OSM has built {key} more than once: {ids}; terminate all but one"),
            );
        }
        let mut idle = idle.into_iter();
        let kept = busy.pop().or_else(|| idle.next());
        for (_, extra) in idle {
            self.client.delete(path(&extra.id)).await?;
        }
        Ok(kept)
    }

    /// A service that is there: as asked for, or one step nearer.
    async fn adjust(
        &self,
        wanted: &Wanted<'_>,
        mark: &Mark,
        record: &Service,
        operations: &[Occurrence],
        until: Instant,
    ) -> Result<Round, Trouble> {
        if mark.fixed != wanted.mark.fixed {
            return refuse("OSM_SERVICE_DIFFERS", differs(mark, &wanted.mark));
        }
        let vnfs = self.vnfs(Some(&record.id)).await?;
        if let Some(body) = update(wanted, mark, &vnfs)? {
            return self
                .start(
                    "update",
                    wanted.key,
                    &Call::post(format!("{}/update", path(&record.id)), &body),
                    until,
                )
                .await;
        }
        let there = counts(mark, &vnfs.iter().collect::<Vec<_>>());
        if let Some(body) = scaling::next(wanted.spec, &wanted.found.vnfds, &there)? {
            return self
                .start("scale", wanted.key, &Call::post(format!("{}/scale", path(&record.id)), &body), until)
                .await;
        }
        let mut observed = self.observed(mark, record, &vnfs, operations);
        observed.decided.clone_from(&wanted.request.decided);
        Ok(Round::Done(Box::new(observed)))
    }

    /// Terminates and deletes every record of the service, whatever its state.
    pub(crate) async fn take_down(&self, key: &ServiceKey) -> Result<(), Trouble> {
        let until = Instant::now() + self.client.config().deadline();
        let (mut lost, mut terminations) = (0, 0);
        for _ in 0..MAX_ROUNDS {
            match self.down_round(key, until, &mut terminations).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => self.settle(e, &mut lost).await?,
            }
        }
        escalate("OSM_ENDLESS", format!("{MAX_ROUNDS} steps and {key} is not gone: look at it in OSM"))
    }

    /// One step; true when nothing is left.
    async fn down_round(
        &self,
        key: &ServiceKey,
        until: Instant,
        terminations: &mut u32,
    ) -> Result<bool, Trouble> {
        let Some((_, record)) = self.services(Some(key)).await?.into_iter().next() else { return Ok(true) };
        let operations = self.operations(Some(&record.id)).await?;
        if let Some(running) = operations.iter().find(|o| o.runs()) {
            if running.kind != "terminate" {
                self.cancel(&running.id).await?;
            }
            self.wait(&running.id, until).await?;
            return Ok(false);
        }
        if standing(&record, operations.last()) == ServiceState::NotInstantiated {
            return self.forget(&record.id, false).await.map(|()| false);
        }
        if *terminations >= MAX_TERMINATIONS {
            tracing::warn!(%key, "OSM cannot terminate it: its record is deleted by force, what it has at VIMs stays there");
            return self.forget(&record.id, true).await.map(|()| false);
        }
        *terminations += 1;
        let body = json!({ "timeout_ns_terminate": self.client.config().deadline_s });
        match self.client.ask::<Made>(&Call::post(format!("{}/terminate", path(&record.id)), &body)).await {
            // It is not instantiated (any more), or gone: the next look tells.
            Err(e) if e.is_conflict() || e.is_absent() => Ok(false),
            Err(e) => Err(e.into()),
            Ok(made) => self.wait_begun("terminate", &made.id, until).await.map(|_| false),
        }
    }

    /// Deletes a record. Not by `ns_instances_content`: of a service that was never instantiated that answers 204 and deletes
    /// nothing.
    async fn forget(&self, id: &str, force: bool) -> Result<(), Trouble> {
        let call = Call::new(Method::DELETE, path(id));
        let call = if force { call.query("FORCE", "True") } else { call };
        match self.client.tell(&call).await {
            // An operation began in between, or it is broken: the next look tells.
            Err(e) if e.is_absent() || e.is_conflict() && !force => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Of an instantiation that does not end: to ask again would be to wait as long again. Taking it back waits too, for as long as it
/// takes.
fn in_time<T>(kind: &str, waited: Result<T, Trouble>) -> Result<T, Trouble> {
    waited.map_err(|e| if kind == "instantiate" { e.over() } else { e })
}

fn differs(there: &Mark, wanted: &Mark) -> String {
    let what = match () {
        () if there.instances != wanted.instances => "other members or instances",
        () if there.links != wanted.links || there.inner != wanted.inner => "other links",
        () => "other sites, addresses, day-0 documents, NSD or parameters",
    };
    format!("OSM made it with {what}, which it cannot change in place: remove the service and make it anew")
}

/// The update that brings a member to the package wanted. OSM's makes a VDU's instances anew without the parameters and addresses
/// that they were made with, so it is only for members that have neither.
fn update(wanted: &Wanted<'_>, mark: &Mark, vnfs: &[Vnf]) -> Result<Option<Value>, Trouble> {
    for vnf in vnfs {
        let Some(member) = wanted.spec.members.get(&vnf.member) else { continue };
        let package: &Package = &wanted.found.vnfds[&member.vnfd.id];
        // A revision counts uploads, the mark says bytes: the same bytes uploaded again are no other package.
        let same = mark.packages.get(&vnf.member) == Some(&member.vnfd.digest);
        if same || vnf.package != package.mano_id || vnf.revision == package.admin.revision {
            continue;
        }
        if member
            .vdus
            .values()
            .any(|v| v.instances.iter().any(|i| !i.interfaces.is_empty() || !i.day0.is_empty()))
        {
            return refuse(
                "OSM_UPDATE_FORGETS",
                format!(
                    "member {} runs revision {} of {}, wanted is {}; OSM's update would lose its MAC addresses and day-0 documents: \
                     remove the service and make it anew",
                    vnf.member, vnf.revision, member.vnfd.id, package.admin.revision
                ),
            );
        }
        let data = json!({ "vnfInstanceId": vnf.id, "vnfdId": package.mano_id });
        return Ok(Some(json!({ "updateType": "CHANGE_VNFPKG", "changeVnfPackageData": data })));
    }
    Ok(None)
}
