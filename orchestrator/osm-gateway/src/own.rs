//! Our services as one project sees them: its records, and the tenant's services that nobody made here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use trust::Digest;

use crate::{
    Gateway, Governed, MAX_SERVICES, Managed, NsRow, Refused, codes, ids,
    records::{OpState, Own, row_of},
};

impl Gateway {
    /// All of them, oldest first.
    pub(crate) async fn owns(&self, m: &Managed<'_>) -> Result<Vec<Own>, Refused> {
        let mut services: BTreeMap<String, Governed> =
            self.port.services(&m.project.tenant).await?.into_iter().map(|s| (s.ns.clone(), s)).collect();
        let mut out = Vec::new();
        for row in self.port.records(m.key)? {
            let service = row.ns.as_ref().and_then(|ns| services.remove(ns));
            out.extend(self.settled(self.own(row, service).await?)?);
        }
        for (ns, service) in services {
            // One that another project's record is about is that project's to show.
            if self.port.record_of(&ns)?.is_none() {
                out.push(self.own(self.unmade(m, &service), Some(service)).await?);
            }
        }
        out.truncate(MAX_SERVICES);
        Ok(out)
    }

    /// One of them.
    pub(crate) async fn find(&self, m: &Managed<'_>, id: &str) -> Result<Option<Own>, Refused> {
        if let Some(row) = self.port.record(id)?.filter(|r| r.project == m.key) {
            if row.removed {
                return Ok(None);
            }
            return self.settled(self.own(row, None).await?);
        }
        for service in self.port.services(&m.project.tenant).await? {
            if ids::service(&service.ns) == id && self.port.record_of(&service.ns)?.is_none() {
                return Ok(Some(self.own(self.unmade(m, &service), Some(service)).await?));
            }
        }
        Ok(None)
    }

    /// One of them, or OSM's words that there is none.
    pub(crate) async fn needed(&self, m: &Managed<'_>, id: &str) -> Result<Own, Refused> {
        let found = self.find(m, id).await?;
        found.ok_or_else(|| {
            let detail = format!(
                "Not found any nsr with filter='{{'_id': '{id}'}}': it is none of Mandate's in project {}",
                m.key
            );
            Refused::new(404, codes::NOT_FOUND, detail)
        })
    }

    /// With its operations. A service that is over is asked for by itself.
    pub(crate) async fn own(&self, row: NsRow, service: Option<Governed>) -> Result<Own, Refused> {
        let service = match (service, &row.ns) {
            (Some(service), _) => Some(service),
            (None, Some(ns)) => self.port.service(ns).await?,
            (None, None) => None,
        };
        let mut operations = Vec::new();
        let mut seen = BTreeSet::new();
        let known = |intent: &str| {
            let mut all = service.iter().flat_map(|s| &s.operations);
            all.rfind(|p| p.intent_id == intent).cloned()
        };
        for op in self.port.operations(&row.id)? {
            seen.insert(op.intent_id.clone());
            let begun = op.decision.as_ref().is_none_or(|d| d.approved || op.hidden);
            let progress = match known(&op.intent_id) {
                None if begun => self.port.progress(&op.intent_id).await?,
                found => found,
            };
            if op.hidden && progress.is_none() {
                continue;
            }
            let state = OpState::of(&op.intent_id, op.decision.as_ref(), progress.as_ref());
            operations.push((op, state));
        }
        for progress in service.iter().flat_map(|s| &s.operations).filter(|p| !seen.contains(&p.intent_id)) {
            let state = OpState::of(&progress.intent_id, None, Some(progress));
            operations.push((row_of(progress, &row.id), state));
        }
        operations.sort_by_key(|(op, _)| op.at_ms);
        Ok(Own { row, service, operations })
    }

    /// A record goes when the termination that was to remove it has completed.
    fn settled(&self, mut own: Own) -> Result<Option<Own>, Refused> {
        let gone = own.operations.last().is_some_and(|(op, s)| op.autoremove && s.state == "COMPLETED");
        if gone && !own.lives() {
            own.row.removed = true;
            self.port.put_record(&own.row)?;
            return Ok(None);
        }
        Ok(Some(own))
    }

    /// The record of a service that nobody made here.
    fn unmade(&self, m: &Managed<'_>, service: &Governed) -> NsRow {
        let created_ms = service.operations.first().map_or(0, |o| o.accepted_ms);
        NsRow {
            id: ids::service(&service.ns),
            project: m.key.to_owned(),
            project_id: m.caller.project_id.clone(),
            user: String::new(),
            name: service.service.clone(),
            tenant: service.tenant.clone(),
            service: service.service.clone(),
            request: json!({ "nsName": service.service, "nsd": service.nsd }),
            nsd: (Digest([0; 32]), String::new()),
            ns: Some(service.ns.clone()),
            created_ms,
            removed: false,
        }
    }
}
