//! The engine as the API's [`Service`].

use std::sync::Arc;

use async_trait::async_trait;
use attestation::AkRecord;
use lcm::{Operation, placement};
use ledger::LedgerError;
use ledger_contract::{
    Intent,
    evidence::ProvenEntry,
    records::{Entry, Event as LedgerEvent, Grant, PACKAGE_PAYLOAD},
    state::{IntentRecord, decode, intent_key},
};
use tokio::sync::watch;
use trust::{Digest, Envelope, Identity, UnixTime};
use vim::{Inventory, Scope};

use super::{Engine, Tracked, now, observe, reconcile::Look, views};
use crate::{
    journal::{Journal, JournalError, Listing, Mitigation, ServiceRow},
    problem::Problem,
    service::{Order, Service},
    views::{
        Cleaned, CleaningView, CommittedView, ComponentView, ConsistencyView, DeliveredView, DriftView,
        EventView, IntentView, NsDriftView, NsView, OperationView, PackageView, PlanView, SiteView, StepView,
        StraysView, TimelineLine,
    },
};

/// Most rows of a list.
const MAX_ROWS: usize = 1000;

pub(super) fn ledger_problem(e: LedgerError) -> Problem {
    if let LedgerError::Unauthenticated { verdict } = &e {
        Problem::new(403, verdict.code(), "The ledger does not know who asks", &e)
            .hint("check the certificate and the key that signed: `mandate intent sign`")
    } else if matches!(e, LedgerError::Elsewhere { .. }) {
        Problem::new(404, "ENTRY_ELSEWHERE", "The entry's request is not kept here", e)
            .hint("the orchestrator that took the request shows it")
    } else if e.retryable() {
        Problem::new(503, "LEDGER_UNAVAILABLE", "The ledger does not answer", e)
            .hint("try again; nothing was lost")
    } else {
        Problem::new(400, "LEDGER_REFUSED", "The ledger does not take the request", e)
    }
}

fn entry_of(text: &str) -> Result<Entry, Problem> {
    serde_json::from_str(text).map_err(|e| Problem::internal("LEDGER_ENTRY", e))
}

#[async_trait]
impl Service for Engine {
    fn member(&self, certificate: &[u8], at: UnixTime) -> Result<Identity, String> {
        self.constitution(|rules| rules.member(certificate, at))
    }

    async fn submit(&self, request: Envelope) -> Result<CommittedView, Problem> {
        if request.payload_type == PACKAGE_PAYLOAD {
            self.check_registration(&request.payload, now()).await?;
        }
        let committed = self.ledger.submit(request).await.map_err(ledger_problem)?;
        self.changed();
        let ns_instance_id = match &committed.entry.event {
            Some(LedgerEvent::IntentApproved { grant }) => Some(grant.ns_instance_id.clone()),
            _ => None,
        };
        Ok(CommittedView {
            position: committed.proven.proof.index,
            time: committed.entry.time,
            verdict: committed.entry.verdict,
            ns_instance_id,
            checkpoint: committed.proven.proof.checkpoint,
        })
    }

    async fn put_package(&self, content: Vec<u8>) -> Result<PackageView, Problem> {
        self.take_package(content).await
    }

    async fn packages(&self) -> Result<Vec<PackageView>, Problem> {
        self.list_packages().await
    }

    async fn intent(&self, id: &str) -> Result<IntentView, Problem> {
        let key = intent_key(id);
        let Some(value) = self.ledger.state(&key).await.map_err(ledger_problem)? else {
            return Err(Problem::not_found("intent", id).hint("see `mandate intent list`; one that was refused for its signature or role leaves no record under its id"));
        };
        self.intent_view(id, &decode(&key, &value).map_err(|e| Problem::internal("LEDGER_STATE", e))?).await
    }

    async fn intents(
        &self,
        tenant: Option<&str>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<IntentView>, Problem> {
        self.index_intents().await?;
        let mut out = Vec::new();
        for id in self.journal.decided(tenant, before, limit).map_err(journal_problem)? {
            let record = self.intent_record(&id).await.map_err(ledger_problem)?;
            let record = record.ok_or_else(|| {
                Problem::internal("LEDGER_STATE", format!("the record of intent `{id}` cannot be read"))
            })?;
            out.push(self.intent_view(&id, &record).await?);
        }
        Ok(out)
    }

    async fn services(&self, asked: &Listing<'_>) -> Result<Vec<NsView>, Problem> {
        let rows = self.journal.services(asked).map_err(journal_problem)?;
        rows.iter().map(|r| self.ns_view(r)).collect()
    }

    async fn ns(&self, id: &str) -> Result<NsView, Problem> {
        self.ns_view(&self.service_named(id)?)
    }

    async fn timeline(&self, ns: &str) -> Result<Vec<TimelineLine>, Problem> {
        let row = self.service_named(ns)?;
        let mut lines = Vec::new();
        for id in self.journal.operations_of(&row.id).map_err(journal_problem)? {
            let events = self.journal.events(&id).map_err(journal_problem)?;
            let operation = Operation::fold(&events).map_err(|e| Problem::internal("JOURNAL", e))?;
            lines.extend(views::timeline(&operation, &events));
        }
        let gaps = self.journal.gaps(row.since_ms).map_err(journal_problem)?;
        let mitigations = self.journal.mitigations(Some(&row.id), 0).map_err(journal_problem)?;
        let refused = self.journal.refused_of_service(&row.id).map_err(journal_problem)?;
        let refused = refused.iter().map(|(call, counted)| views::refused(call, counted));
        let others = gaps.iter().map(views::gap).chain(mitigations.iter().map(views::mitigation));
        for line in others.chain(refused) {
            let at = lines.iter().position(|l| l.at_ms > line.at_ms).unwrap_or(lines.len());
            lines.insert(at, line);
        }
        Ok(lines)
    }

    async fn site_timeline(&self, site: &str) -> Result<Vec<TimelineLine>, Problem> {
        if !self.sites.contains_key(site) {
            return Err(Problem::not_found("site", site).hint("see `mandate site list`"));
        }
        let mut mitigations = self.journal.mitigations(None, 0).map_err(journal_problem)?;
        mitigations.retain(|m| m.findings.iter().any(|f| f.site == site));
        let mut lines: Vec<_> = mitigations.iter().map(views::mitigation).collect();
        let cloud = self.config.openstack_policy.as_ref().and_then(|p| p.cloud_of(site));
        if let Some(cloud) = cloud {
            let refused = self.journal.refused_of_cloud(cloud, MAX_ROWS).map_err(journal_problem)?;
            lines.extend(refused.iter().map(|(call, counted)| views::refused(call, counted)));
        }
        lines.sort_by_key(|l| l.at_ms);
        Ok(lines.split_off(lines.len().saturating_sub(MAX_ROWS)))
    }

    async fn operation(&self, id: &str) -> Result<OperationView, Problem> {
        self.operation_view(id)?.ok_or_else(|| Problem::not_found("operation", id))
    }

    async fn operations(
        &self,
        open: bool,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<OperationView>, Problem> {
        let ids =
            self.journal.newest_operations(open, before, limit.min(MAX_ROWS)).map_err(journal_problem)?;
        let views = ids.iter().map(|id| self.operation_view(id));
        views.filter_map(Result::transpose).collect()
    }

    async fn steps(&self, operation: &str) -> Result<Vec<StepView>, Problem> {
        let events = self.journal.events(operation).map_err(journal_problem)?;
        if events.is_empty() {
            return Err(Problem::not_found("operation", operation));
        }
        let folded = Operation::fold(&events).map_err(|e| Problem::internal("JOURNAL", e))?;
        Ok(observe::steps(&folded, &events))
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, EventView)>, Problem> {
        self.feed(after, limit.min(MAX_ROWS)).await
    }

    async fn newest_event(&self) -> Result<u64, Problem> {
        self.journal.newest().map_err(|e| Problem::internal("JOURNAL", e))
    }

    async fn components(&self) -> Vec<ComponentView> {
        self.component_views().await
    }

    fn journal(&self) -> Arc<Journal> {
        self.journal.clone()
    }

    async fn plan(&self, intent: Intent) -> Result<PlanView, Problem> {
        self.dry_run(&intent).await
    }

    async fn direct_operation(&self, id: &str, order: &Order<'_>) -> Result<OperationView, Problem> {
        let known = self.operation(id).await?;
        if self.read().get(id).is_none() {
            let detail = format!("operation {id} is {}: nothing of it is under way", known.state);
            return Err(Problem::new(409, "NOT_FAILED_TEMP", "This cannot be directed now", detail)
                .hint("see `mandate operation list --open`"));
        }
        self.direct(id, order.by, order.what, order.reason)?;
        self.operation(id).await
    }

    async fn bundle(&self, operation: &str) -> Result<Vec<u8>, Problem> {
        let found = self.journal.bundle(operation).map_err(|e| Problem::internal("JOURNAL", e))?;
        match found {
            Some(bundle) => Ok(bundle),
            None if self.operation_view(operation)?.is_some() => Err(Problem::new(
                409,
                "NOT_ANCHORED",
                "No evidence yet",
                format!("operation {operation} is not anchored"),
            )
            .hint("wait for it: `mandate intent watch`")),
            None => Err(Problem::not_found("operation", operation)),
        }
    }

    async fn sites(&self) -> Result<Vec<SiteView>, Problem> {
        let mut out = Vec::new();
        for site in self.sites.values() {
            let inventory = site.vim.observe(&Scope::All).await;
            let capabilities = site.vim.capabilities().await;
            let problem = inventory.as_ref().err().or(capabilities.as_ref().err()).map(ToString::to_string);
            let inventory = inventory.unwrap_or_default();
            let capabilities = capabilities.unwrap_or_default();
            let registered = self.registered_ak(&site.config.name).await?;
            out.push(SiteView {
                name: site.config.name.clone(),
                driver: capabilities.driver,
                jurisdiction: site.config.jurisdiction.clone(),
                latency_us: site.config.latency_us,
                total: inventory.total,
                used: inventory.used,
                attestation: match (capabilities.attestation, registered) {
                    (false, _) => "no TPM".to_owned(),
                    (true, None) => "key not registered".to_owned(),
                    (true, Some(k)) if k.not_after < now() => format!("key expired {}", k.not_after),
                    (true, Some(k)) => format!("key valid until {}", k.not_after),
                },
                problem,
            });
        }
        Ok(out)
    }

    async fn attestation_key(&self, site: &str, rotate: bool) -> Result<AkRecord, Problem> {
        let found = self
            .sites
            .get(site)
            .ok_or_else(|| Problem::not_found("site", site).hint("see `mandate site list`"))?;
        found.keys.attestation_key(rotate).await.map_err(|e| {
            if found.config.tpm().is_none() {
                let hint = match found.config.openstack {
                    Some(_) => "only sites of [site.host] attest: services there need no enrolment",
                    None => "name its TPM under [site.host.tpm] in config.toml and restart",
                };
                return Problem::new(409, "NO_TPM", "The site cannot attest", format!("`{site}`: {e}"))
                    .hint(hint);
            }
            Problem::new(502, "ATTESTATION_KEY", "The site's attestation key cannot be had", e)
                .hint("is the site's TPM there? See [site.host.tpm] in config.toml")
        })
    }

    async fn deliver(&self, approval: ProvenEntry) -> Result<DeliveredView, Problem> {
        Ok(DeliveredView { operation_id: self.delivered(approval)? })
    }

    async fn ledger_head(&self) -> Result<String, Problem> {
        self.ledger.head().await.map_err(ledger_problem)
    }

    async fn ledger_consistency(&self, size: u64) -> Result<ConsistencyView, Problem> {
        let found = self.ledger.extension(size).await;
        found.map(|e| ConsistencyView { checkpoint: e.checkpoint, proof: e.proof }).map_err(|e| match e {
            LedgerError::Range { .. } => {
                Problem::not_found("ledger size", &size.to_string()).hint("see `mandate ledger head`")
            }
            other => ledger_problem(other),
        })
    }

    async fn ledger_entry(&self, position: u64) -> Result<ProvenEntry, Problem> {
        let found = self.ledger.entry(position).await.map_err(ledger_problem)?;
        found.ok_or_else(|| {
            Problem::not_found("ledger entry", &position.to_string()).hint("see `mandate ledger head`")
        })
    }

    async fn ledger_range(&self, from: u64, limit: usize) -> Result<Vec<String>, Problem> {
        self.ledger.range(from, limit.min(MAX_ROWS)).await.map_err(ledger_problem)
    }

    async fn policy(&self) -> Result<Digest, Problem> {
        let key = ledger_contract::state::POLICY_ACTIVE;
        let value = self.ledger.state(key).await.map_err(ledger_problem)?;
        let value =
            value.ok_or_else(|| Problem::internal("LEDGER_STATE", "the ledger has no policy bundle"))?;
        decode(key, &value).map_err(|e| Problem::internal("LEDGER_STATE", e))
    }

    async fn drift(&self) -> Result<DriftView, Problem> {
        let Look { at_ms, took_ms, services, unseen, findings } = self.looked.borrow().clone();
        let proposals = self.journal.proposals().map_err(journal_problem)?.into_iter().collect();
        Ok(DriftView { at_ms, took_ms, services, unseen, findings, proposals })
    }

    async fn ns_drift(&self, ns: &str) -> Result<NsDriftView, Problem> {
        self.drift_of(self.service_named(ns)?)
    }

    async fn strays(&self) -> Result<StraysView, Problem> {
        self.find_strays().await
    }

    async fn clean_strays(&self, by: &str, asked: CleaningView) -> Result<Vec<Cleaned>, Problem> {
        self.remove_strays(by, &asked).await
    }

    async fn mitigations(&self) -> Result<Vec<Mitigation>, Problem> {
        let mut all = self.journal.mitigations(None, 0).map_err(journal_problem)?;
        Ok(all.split_off(all.len().saturating_sub(MAX_ROWS)))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

pub(super) fn journal_problem(e: JournalError) -> Problem {
    Problem::internal("JOURNAL", e)
}

impl Engine {
    /// From memory while it is under way, from the journal before and after.
    pub(super) fn operation_view(&self, id: &str) -> Result<Option<OperationView>, Problem> {
        if let Some(tracked) = self.read().get(id) {
            return Ok(Some(views::operation(tracked)));
        }
        if let Some(row) = self.journal.closed_row(id).map_err(journal_problem)? {
            let service = self.journal.service_row(&row.ns).map_err(journal_problem)?;
            let tenant = service.map(|s| s.tenant);
            return Ok(Some(views::closed(id, &row, tenant.unwrap_or_default())));
        }
        let events = self.journal.events(id).map_err(journal_problem)?;
        let folded = Operation::fold(&events).ok();
        Ok(folded.map(|operation| views::operation(&Tracked { operation, problem: None })))
    }

    fn ns_view(&self, row: &ServiceRow) -> Result<NsView, Problem> {
        let ids = self.journal.operations_of(&row.id).map_err(journal_problem)?;
        let mut operations = Vec::with_capacity(ids.len());
        for id in ids {
            operations.extend(self.operation_view(&id)?);
        }
        let mut view = views::service(row, operations);
        view.instance_sites = self.read().sites_of(row);
        // An instance that the last look found otherwise than it should be is not in the service's state.
        for found in self.looked.borrow().findings.get(&row.id).into_iter().flatten() {
            let key = found.key.to_string();
            for (_, state) in view.instances.iter_mut().filter(|(instance, _)| *instance == key) {
                found.deviation.code().clone_into(state);
            }
        }
        Ok(view)
    }

    /// By instance id, or the newest that is or was `tenant/service`.
    fn service_named(&self, id: &str) -> Result<ServiceRow, Problem> {
        // The journal has an approval before memory has: whoever was told of its operation finds its service.
        let found = match id.split_once('/') {
            Some((tenant, service)) => self.journal.service_named(tenant, service),
            None => self.journal.service_row(id),
        };
        let row = found.map_err(journal_problem)?;
        row.ok_or_else(|| Problem::not_found("network service", id).hint("see `mandate ns list --all`"))
    }

    async fn intent_view(&self, id: &str, record: &IntentRecord) -> Result<IntentView, Problem> {
        let read = self.ledger.read(record.position).await.map_err(ledger_problem)?;
        let (position, entry) = read.ok_or_else(|| {
            Problem::internal(
                "LEDGER_STATE",
                format!("entry {} of intent `{id}` is not there", record.position),
            )
        })?;
        let entry = entry_of(&entry)?;
        let operation = match self.journal.operation_of(id).map_err(journal_problem)? {
            Some(operation) => self.operation_view(&operation)?,
            None => None,
        };
        Ok(IntentView {
            id: id.to_owned(),
            tenant: record.tenant.clone(),
            service: record.service.clone(),
            action: record.action.clone(),
            position,
            verdict: entry.verdict,
            operation,
        })
    }

    pub(super) async fn registered_ak(&self, site: &str) -> Result<Option<AkRecord>, Problem> {
        let key = ledger_contract::state::ak_key(site);
        let value = self.ledger.state(&key).await.map_err(ledger_problem)?;
        value.map(|v| decode(&key, &v).map_err(|e| Problem::internal("LEDGER_STATE", e))).transpose()
    }

    /// One look at every site, with the attestation keys that the grant names.
    pub(super) async fn observe_sites(&self, grant: &Grant) -> Vec<placement::Site> {
        let looks = self.sites.values().map(|site| async {
            let (capabilities, inventory) =
                tokio::join!(site.vim.capabilities(), site.vim.observe(&Scope::All));
            let problem = inventory.as_ref().err().or(capabilities.as_ref().err()).map(ToString::to_string);
            placement::Site {
                name: site.config.name.clone(),
                jurisdiction: site.config.jurisdiction.clone(),
                latency_us: site.config.latency_us,
                cost: site.config.cost,
                capabilities: capabilities.unwrap_or_default(),
                inventory: inventory.unwrap_or_else(|_| Inventory::default()),
                ak: grant.attestation_keys.iter().find(|k| k.site == site.config.name).cloned(),
                problem,
                drained: site.config.drained,
                tee: site.config.tee.clone(),
                defaults: site.config.defaults(),
            }
        });
        futures::future::join_all(looks).await
    }
}
