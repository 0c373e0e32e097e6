//! The engine as the API's [`Service`].

use async_trait::async_trait;
use attestation::AkRecord;
use lcm::placement;
use ledger::LedgerError;
use ledger_contract::{
    evidence::ProvenEntry,
    records::{Entry, Event as LedgerEvent, Grant, PACKAGE_PAYLOAD},
    state::{IntentRecord, decode, intent_key},
};
use tokio::sync::watch;
use trust::{Digest, Envelope};
use vim::{Inventory, Scope};

use super::{Engine, now, views};
use crate::{
    problem::Problem,
    service::Service,
    views::{
        CommittedView, DeliveredView, IntentView, NsView, OperationView, PackageView, SiteView, TimelineLine,
    },
};

/// Most rows of a list.
const MAX_ROWS: usize = 1000;

pub(super) fn ledger_problem(e: LedgerError) -> Problem {
    if let LedgerError::Unauthenticated { verdict } = &e {
        Problem::new(403, verdict.code(), "The ledger does not know who asks", &e)
            .hint("check the certificate and the key that signed: `mandate intent sign`")
    } else if e.retryable() {
        Problem::new(503, "LEDGER_UNAVAILABLE", "The ledger does not answer", e)
            .hint("try again; nothing was lost")
    } else {
        Problem::new(400, "LEDGER_REFUSED", "The ledger does not take the request", e)
    }
}

fn entry_of(proven: &ProvenEntry) -> Result<Entry, Problem> {
    serde_json::from_str(&proven.entry).map_err(|e| Problem::internal("LEDGER_ENTRY", e))
}

#[async_trait]
impl Service for Engine {
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
            position: committed.entry.position,
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

    async fn intents(&self, limit: usize) -> Result<Vec<IntentView>, Problem> {
        let all = self.ledger.state_prefix(&intent_key("")).await.map_err(ledger_problem)?;
        let mut records = Vec::with_capacity(all.len());
        for (key, value) in all {
            let record: IntentRecord =
                decode(&key, &value).map_err(|e| Problem::internal("LEDGER_STATE", e))?;
            let id = key.trim_start_matches(&intent_key("")).to_owned();
            records.push((id, record));
        }
        records.sort_by_key(|(_, r)| std::cmp::Reverse(r.position));
        let mut out = Vec::new();
        for (id, record) in records.iter().take(limit.min(MAX_ROWS)) {
            out.push(self.intent_view(id, record).await?);
        }
        Ok(out)
    }

    async fn services(&self, all: bool) -> Result<Vec<NsView>, Problem> {
        let tracked = self.read();
        let views = views::services(tracked.values());
        Ok(views.into_iter().filter(|v| all || v.state != "NOT_INSTANTIATED").collect())
    }

    async fn ns(&self, id: &str) -> Result<NsView, Problem> {
        let tracked = self.read();
        let named = |v: &NsView| v.id == id || format!("{}/{}", v.tenant, v.service) == id;
        // The newest of that name: a service may have been terminated and deployed again.
        let found = views::services(tracked.values()).into_iter().rev().find(named);
        found.ok_or_else(|| Problem::not_found("network service", id).hint("see `mandate ns list --all`"))
    }

    async fn timeline(&self, ns: &str) -> Result<Vec<TimelineLine>, Problem> {
        let id = self.ns(ns).await?.id;
        let tracked = self.read();
        let mut of_service: Vec<_> =
            tracked.values().filter(|t| t.operation.grant.ns_instance_id == id).collect();
        of_service.sort_by_key(|t| t.operation.approval.proof.index);
        Ok(of_service.into_iter().flat_map(views::timeline).collect())
    }

    async fn operation(&self, id: &str) -> Result<OperationView, Problem> {
        let tracked = self.read();
        tracked.get(id).map(views::operation).ok_or_else(|| Problem::not_found("operation", id))
    }

    async fn bundle(&self, operation: &str) -> Result<Vec<u8>, Problem> {
        let found = self.journal.bundle(operation).map_err(|e| Problem::internal("JOURNAL", e))?;
        match found {
            Some(bundle) => Ok(bundle),
            None if self.operation(operation).is_some() => Err(Problem::new(
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
            Problem::new(502, "ATTESTATION_KEY", "The site's attestation key cannot be had", e)
                .hint("is the site's TPM there? See [site.host.tpm] in config.toml")
        })
    }

    async fn deliver(&self, approval: ProvenEntry) -> Result<DeliveredView, Problem> {
        // A place first: a caller who goes away while it waits must not leave an accepted operation that nobody drives.
        let place = self.arrivals.reserve().await.map_err(|e| Problem::internal("STOPPING", e))?;
        let operation_id = self.delivered(approval)?;
        place.send(operation_id.clone());
        Ok(DeliveredView { operation_id })
    }

    async fn ledger_head(&self) -> Result<String, Problem> {
        self.ledger.head().await.map_err(ledger_problem)
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

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Engine {
    async fn intent_view(&self, id: &str, record: &IntentRecord) -> Result<IntentView, Problem> {
        let entry = entry_of(&self.ledger_entry(record.position).await?)?;
        let tracked = self.read();
        let operation = tracked.values().find(|t| t.operation.grant.intent_id == id).map(views::operation);
        Ok(IntentView {
            id: id.to_owned(),
            tenant: record.tenant.clone(),
            service: record.service.clone(),
            action: record.action.clone(),
            position: record.position,
            verdict: entry.verdict,
            operation,
        })
    }

    async fn registered_ak(&self, site: &str) -> Result<Option<AkRecord>, Problem> {
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
            }
        });
        futures::future::join_all(looks).await
    }
}
