//! What the journal keeps at hand, so that nothing has to be folded again: closed operations, services as their last
//! operation left them, gaps of the ledger. All of it follows from the events and is written with them.

use lcm::{Event, NsRecord, Operation, operation::FinalState};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use trust::UnixTime;

use super::{Journal, JournalError};

/// An anchored operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedRow {
    /// NS instance.
    pub ns: String,
    /// Its intent.
    pub intent_id: String,
    /// What it did.
    pub action: String,
    /// SOL003 final state.
    pub state: String,
    /// Site, if it had one.
    pub site: Option<String>,
    /// Steps done, and in all.
    pub progress: (u32, u32),
    /// What went wrong.
    pub problem: Option<String>,
    /// What is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<String>,
    /// When it was accepted, ms.
    pub accepted_ms: u64,
    /// When it was closed, ms.
    pub closed_ms: Option<u64>,
}

impl ClosedRow {
    /// Of an operation that is closed.
    #[must_use]
    pub fn of(operation: &Operation) -> Self {
        Self {
            ns: operation.grant.ns_instance_id.clone(),
            intent_id: operation.grant.intent_id.clone(),
            action: operation.grant.action.clone(),
            state: operation.state().to_owned(),
            site: operation.plan.as_ref().map(|p| p.site.clone()).filter(|s| !s.is_empty()),
            progress: operation.progress(),
            problem: operation.problem(),
            leftovers: operation.outcome.as_ref().map(|o| o.leftovers.clone()).unwrap_or_default(),
            accepted_ms: operation.accepted_ms,
            closed_ms: operation.closed_ms,
        }
    }
}

const NAMED: &str = "SELECT summary FROM service
    WHERE json_extract(summary, '$.tenant')=?1 AND json_extract(summary, '$.service')=?2
    ORDER BY json_extract(summary, '$.since_ms') DESC LIMIT 1";

/// Which services are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listing<'a> {
    /// Of this tenant alone.
    pub tenant: Option<&'a str>,
    /// Those that were terminated too.
    pub all: bool,
    /// After this one, by its instance id.
    pub after: Option<&'a str>,
    /// So many at most.
    pub limit: usize,
}

impl Listing<'_> {
    /// The first thousand of every tenant.
    #[must_use]
    pub fn of(all: bool) -> Self {
        Self { tenant: None, all, after: None, limit: 1000 }
    }
}

/// A service as its last operation left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// NS instance.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// Name of the service.
    pub service: String,
    /// Site.
    pub site: Option<String>,
    /// Id of its NSD.
    pub nsd: String,
    /// Keys of its instances.
    pub instances: Vec<String>,
    /// `INSTANTIATING`, `INSTANTIATED`, `NOT_INSTANTIATED`, `BROKEN`, `ISOLATED`.
    pub state: String,
    /// End of its lease.
    pub lease_until: Option<UnixTime>,
    /// Was the SLA met when it was measured last?
    pub sla_met: Option<bool>,
    /// When its first operation was accepted, ms.
    pub since_ms: u64,
}

/// Where a service's place in the lists is, and who sees it, without reading it.
const INDICES: &str = "
    CREATE INDEX IF NOT EXISTS service_since ON service (json_extract(summary, '$.since_ms'), ns);
    CREATE INDEX IF NOT EXISTS service_live ON service (json_extract(summary, '$.since_ms'), ns)
        WHERE json_extract(summary, '$.state')<>'NOT_INSTANTIATED';
    CREATE INDEX IF NOT EXISTS service_tenant
        ON service (json_extract(summary, '$.tenant'), json_extract(summary, '$.since_ms'), ns);
    CREATE INDEX IF NOT EXISTS service_tenant_live
        ON service (json_extract(summary, '$.tenant'), json_extract(summary, '$.since_ms'), ns)
        WHERE json_extract(summary, '$.state')<>'NOT_INSTANTIATED';
    CREATE INDEX IF NOT EXISTS service_name ON service (
        json_extract(summary, '$.tenant'), json_extract(summary, '$.service'), json_extract(summary, '$.since_ms'));
";

pub(super) fn prepare(connection: &Connection) -> Result<(), JournalError> {
    Ok(connection.execute_batch(INDICES)?)
}

/// The query of a list; each has an index of its own.
fn list(of_tenant: bool, all: bool) -> String {
    let tenant = if of_tenant { "json_extract(summary, '$.tenant')=?4 AND" } else { "" };
    let live = if all { "" } else { "json_extract(summary, '$.state')<>'NOT_INSTANTIATED' AND" };
    format!(
        "SELECT summary FROM service WHERE {tenant} {live} json_extract(summary, '$.since_ms')>=?1
         AND (json_extract(summary, '$.since_ms'), ns)>(?1, ?2)
         ORDER BY json_extract(summary, '$.since_ms'), ns LIMIT ?3"
    )
}

impl ServiceRow {
    /// Is there something of it, or will there be?
    #[must_use]
    pub fn lives(&self) -> bool {
        self.state != "NOT_INSTANTIATED"
    }

    fn new(first: &Event) -> Option<Self> {
        let operation = Operation::accept(first)?;
        let intent = crate::engine::intent_of(&operation).ok();
        Some(Self {
            id: operation.grant.ns_instance_id.clone(),
            tenant: operation.grant.tenant.clone(),
            service: intent.map(|i| i.service).unwrap_or_default(),
            site: None,
            nsd: String::new(),
            instances: Vec::new(),
            state: "INSTANTIATING".into(),
            lease_until: operation.grant.lease_until,
            sla_met: None,
            since_ms: operation.accepted_ms,
        })
    }

    /// What a closed operation makes of it; false: nothing.
    fn absorb(&mut self, operation: &Operation, record: Option<&NsRecord>) -> bool {
        let Some(outcome) = &operation.outcome else { return false };
        // One that was refused before it had a plan changed nothing and knows nothing.
        if operation.plan.is_none() {
            if self.state == "INSTANTIATING" {
                "NOT_INSTANTIATED".clone_into(&mut self.state);
                return true;
            }
            return false;
        }
        self.state = match record {
            _ if !outcome.isolated && outcome.state == FinalState::Failed => "BROKEN",
            Some(_) if outcome.isolated => "ISOLATED",
            Some(_) => "INSTANTIATED",
            None => "NOT_INSTANTIATED",
        }
        .to_owned();
        self.site = record.map(|r| r.site.clone()).or(self.site.take());
        if let Some(record) = record {
            self.nsd.clone_from(&record.nsd);
        }
        self.instances = record.map(instances).unwrap_or_default();
        self.lease_until = operation.grant.lease_until.or(self.lease_until);
        self.sla_met = lcm::fold::sla_met(operation).or(self.sla_met);
        true
    }
}

fn instances(record: &NsRecord) -> Vec<String> {
    record.computes().map(|o| o.key.to_string()).collect()
}

/// When the ledger did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// From, ms.
    pub from_ms: u64,
    /// To, ms; absent: it still does not.
    pub to_ms: Option<u64>,
    /// What it said.
    pub reason: String,
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, JournalError> {
    serde_json::to_string(value).map_err(JournalError::Row)
}

pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, JournalError> {
    serde_json::from_str(text).map_err(JournalError::Row)
}

pub(super) fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// A service that nobody has heard of before is being made.
pub(super) fn announce(tx: &Transaction<'_>, first: &Event) -> Result<(), JournalError> {
    if let Some(row) = ServiceRow::new(first) {
        tx.execute(
            "INSERT OR IGNORE INTO service (ns, summary) VALUES (?1, ?2)",
            params![row.id, json(&row)?],
        )?;
    }
    Ok(())
}

/// What is kept at hand of an anchored operation.
pub(super) fn put_closed(tx: &Transaction<'_>, id: &str, row: &ClosedRow) -> Result<(), JournalError> {
    tx.execute("UPDATE operation SET closed=?2 WHERE id=?1", params![id, json(row)?])?;
    Ok(())
}

/// The service as a closed operation left it.
pub(super) fn put_service(
    tx: &Transaction<'_>,
    operation: &Operation,
) -> Result<Option<ServiceRow>, JournalError> {
    let ns = &operation.grant.ns_instance_id;
    let known: Option<String> =
        tx.query_row("SELECT summary FROM service WHERE ns=?1", [ns], |r| r.get(0)).optional()?;
    let Some(known) = known else { return Ok(None) };
    let mut row: ServiceRow = read(&known)?;
    let record = operation.record();
    if !row.absorb(operation, record.as_ref()) {
        return Ok(None);
    }
    let record = record.as_ref().map(json).transpose()?;
    tx.execute(
        "UPDATE service SET summary=?2, record=CASE WHEN ?3 THEN ?4 ELSE record END WHERE ns=?1",
        params![ns, json(&row)?, operation.plan.is_some(), record],
    )?;
    Ok(Some(row))
}

impl Journal {
    /// The last event before the anchor, and the service as it is then, in one transaction.
    pub fn closed(
        &self,
        id: &str,
        event: &Event,
        operation: &Operation,
    ) -> Result<Option<ServiceRow>, JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        super::insert(&tx, id, event)?;
        let row = put_service(&tx, operation)?;
        self.commit(tx)?;
        Ok(row)
    }

    /// Ids of the operations that are not anchored, in the ledger's order.
    pub fn open_operations(&self) -> Result<Vec<String>, JournalError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT id FROM operation WHERE closed IS NULL ORDER BY position")?;
        let rows = statement.query_map([], |r| r.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The operation of an intent.
    pub fn operation_of(&self, intent: &str) -> Result<Option<String>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT id FROM operation WHERE intent_id=?1")?;
        Ok(statement.query_row([intent], |r| r.get(0)).optional()?)
    }

    /// What is at hand of an anchored operation.
    pub fn closed_row(&self, id: &str) -> Result<Option<ClosedRow>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT closed FROM operation WHERE id=?1")?;
        let text: Option<Option<String>> = statement.query_row([id], |r| r.get(0)).optional()?;
        text.flatten().map(|t| read(&t)).transpose()
    }

    /// Ids of a service's operations, in the ledger's order.
    pub fn operations_of(&self, ns: &str) -> Result<Vec<String>, JournalError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT id FROM operation WHERE ns=?1 ORDER BY position")?;
        let rows = statement.query_map([ns], |r| r.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Every service that lives, oldest first.
    pub fn live_services(&self) -> Result<Vec<ServiceRow>, JournalError> {
        self.services(&Listing { limit: usize::MAX, ..Listing::of(false) })
    }

    /// A page of services, oldest first; nothing after one that there never was.
    pub fn services(&self, asked: &Listing<'_>) -> Result<Vec<ServiceRow>, JournalError> {
        let after = match asked.after {
            None => (-1, String::new()),
            Some(ns) => match self.service_row(ns)? {
                Some(row) => (number(row.since_ms), row.id),
                None => return Ok(Vec::new()),
            },
        };
        let connection = self.lock();
        let mut statement = connection.prepare_cached(&list(asked.tenant.is_some(), asked.all))?;
        let limit = number(asked.limit as u64);
        let text = |r: &rusqlite::Row<'_>| r.get::<_, String>(0);
        let rows = match asked.tenant {
            Some(tenant) => statement.query_map(params![after.0, after.1, limit, tenant], text)?,
            None => statement.query_map(params![after.0, after.1, limit], text)?,
        };
        rows.map(|row| read(&row?)).collect()
    }

    /// The newest service that is or was called so.
    pub fn service_named(&self, tenant: &str, service: &str) -> Result<Option<ServiceRow>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(NAMED)?;
        let text: Option<String> = statement.query_row([tenant, service], |r| r.get(0)).optional()?;
        text.map(|t| read(&t)).transpose()
    }

    /// One service.
    pub fn service_row(&self, ns: &str) -> Result<Option<ServiceRow>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT summary FROM service WHERE ns=?1")?;
        let text: Option<String> = statement.query_row([ns], |r| r.get(0)).optional()?;
        text.map(|t| read(&t)).transpose()
    }

    /// The desired state of a service: what its next operation starts from.
    pub fn record(&self, ns: &str) -> Result<Option<NsRecord>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT record FROM service WHERE ns=?1")?;
        let text: Option<Option<String>> = statement.query_row([ns], |r| r.get(0)).optional()?;
        text.flatten().map(|t| read(&t)).transpose()
    }

    /// The ledger does not answer any more; false: that was known.
    pub fn gap_begins(&self, at_ms: u64, reason: &str) -> Result<bool, JournalError> {
        let changed = self.lock().execute(
            "INSERT OR IGNORE INTO gap (from_ms, reason)
             SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM gap WHERE to_ms IS NULL)",
            params![number(at_ms), reason],
        )?;
        Ok(changed > 0)
    }

    /// The ledger answers again.
    pub fn gap_ends(&self, at_ms: u64) -> Result<bool, JournalError> {
        let changed = self.lock().execute("UPDATE gap SET to_ms=?1 WHERE to_ms IS NULL", [number(at_ms)])?;
        Ok(changed > 0)
    }

    /// When the ledger did not answer, of what touches the time from `from_ms` on; oldest first.
    pub fn gaps(&self, from_ms: u64) -> Result<Vec<Gap>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT from_ms, to_ms, reason FROM gap WHERE to_ms IS NULL OR to_ms >= ?1 ORDER BY from_ms",
        )?;
        let rows = statement.query_map([number(from_ms)], |r| {
            Ok(Gap {
                from_ms: unsigned(r.get(0)?),
                to_ms: r.get::<_, Option<i64>>(1)?.map(unsigned),
                reason: r.get(2)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u64) -> ServiceRow {
        ServiceRow {
            id: format!("ns-{:02}", 97 * n % 50),
            tenant: if n.is_multiple_of(3) { "a" } else { "b" }.into(),
            service: format!("s{}", n % 7),
            site: None,
            nsd: String::new(),
            instances: Vec::new(),
            state: if n.is_multiple_of(4) { "INSTANTIATED" } else { "NOT_INSTANTIATED" }.into(),
            lease_until: None,
            sla_met: None,
            // Some began in the same millisecond.
            since_ms: n / 3,
        }
    }

    fn journal() -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        Journal::create(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        for n in 0..50 {
            let row = row(n);
            let sql = "INSERT INTO service (ns, summary) VALUES (?1, ?2)";
            journal.lock().execute(sql, params![row.id, json(&row).unwrap()]).unwrap();
        }
        (dir, journal)
    }

    #[test]
    fn pages_put_together_are_the_list() {
        let (_dir, journal) = journal();
        for (tenant, all, limit) in
            [(None, true, 7), (None, false, 1), (Some("a"), true, 3), (Some("b"), false, 50)]
        {
            let mut expected: Vec<_> = (0..50).map(row).collect();
            expected.retain(|r| (all || r.lives()) && tenant.is_none_or(|t| t == r.tenant));
            expected.sort_by(|a, b| (a.since_ms, &a.id).cmp(&(b.since_ms, &b.id)));
            let (mut seen, mut after) = (Vec::new(), None::<String>);
            loop {
                let asked = Listing { tenant, all, after: after.as_deref(), limit };
                let page = journal.services(&asked).unwrap();
                let Some(last) = page.last() else { break };
                after = Some(last.id.clone());
                seen.extend(page);
            }
            assert_eq!(seen, expected);
        }
        let nowhere = Listing { after: Some("ns-none"), ..Listing::of(true) };
        assert_eq!(journal.services(&nowhere).unwrap(), []);
        assert_eq!(journal.live_services().unwrap().len(), 13);
        let newest = journal.service_named("a", "s6").unwrap().unwrap();
        assert_eq!(newest.since_ms, 48 / 3, "{newest:?}");
    }

    #[test]
    fn a_page_is_found_not_searched_for() {
        let (_dir, journal) = journal();
        let parameters: [&dyn rusqlite::ToSql; 4] = [&1_i64, &"ns-1", &2_i64, &"a"];
        for (of_tenant, all) in [(false, false), (false, true), (true, false), (true, true)] {
            let plan = journal.plan_of(&list(of_tenant, all), &parameters[..3 + usize::from(of_tenant)]);
            assert!(plan.starts_with("SEARCH service USING INDEX") && !plan.contains("TEMP"), "{plan}");
        }
        let plan = journal.plan_of(NAMED, &[&"a", &"s"]);
        assert!(plan.contains("service_name") && !plan.contains("TEMP"), "{plan}");
    }
}
