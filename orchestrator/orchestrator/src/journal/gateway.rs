//! What OSM's clients made at the gateway and neither the ledger nor OSM keeps: records (drafts, names, who asked) and the
//! operations that clients poll, each with its signed intent until the ledger has decided.
//!
//! Its own tables, added to a journal of any earlier version when it is opened. Bounds: what was removed, and the operations of
//! it, is kept for [`KEEP_MS`]; how many records a project may have is the gateway's to say. Tests: below.

use osm_gateway::{NsRow, OpRow};
use rusqlite::{Connection, Transaction, params};
use serde::de::DeserializeOwned;

use super::{
    Journal, JournalError,
    rows::{json, number, read},
};

/// How long what was removed is kept, ms: a week; whoever polls longer finds nothing.
const KEEP_MS: u64 = 7 * 24 * 3_600_000;
/// Most rows that are read at once.
const MAX_ROWS: i64 = 1000;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS gateway_record (
        id TEXT PRIMARY KEY, project TEXT NOT NULL, ns TEXT, created_ms INTEGER NOT NULL, removed INTEGER NOT NULL,
        body TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS gateway_record_project ON gateway_record (project, created_ms, id) WHERE removed=0;
    CREATE INDEX IF NOT EXISTS gateway_record_ns ON gateway_record (ns) WHERE removed=0 AND ns IS NOT NULL;
    CREATE INDEX IF NOT EXISTS gateway_record_removed ON gateway_record (created_ms) WHERE removed=1;
    CREATE TABLE IF NOT EXISTS gateway_operation (
        id TEXT PRIMARY KEY, record TEXT NOT NULL, at_ms INTEGER NOT NULL, undecided INTEGER NOT NULL,
        body TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS gateway_operation_record ON gateway_operation (record, at_ms, id);
    CREATE INDEX IF NOT EXISTS gateway_operation_undecided ON gateway_operation (at_ms) WHERE undecided=1;
";

pub(super) fn prepare(connection: &Connection) -> Result<(), JournalError> {
    Ok(connection.execute_batch(TABLES)?)
}

impl Journal {
    /// Keeps a record as it is now.
    pub fn put_gateway_record(&self, row: &NsRow, now_ms: u64) -> Result<(), JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        put(&tx, row)?;
        forget(&tx, now_ms)?;
        self.commit(tx)
    }

    /// Keeps an operation as it is now, and its record with it.
    pub fn put_gateway_operation(&self, op: &OpRow, record: Option<&NsRow>) -> Result<(), JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        tx.prepare_cached(
            "INSERT OR REPLACE INTO gateway_operation (id, record, at_ms, undecided, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![op.id, op.record, number(op.at_ms), op.decision.is_none(), json(op)?])?;
        record.map(|row| put(&tx, row)).transpose()?;
        self.commit(tx)
    }

    /// A record, removed or not.
    pub fn gateway_record(&self, id: &str) -> Result<Option<NsRow>, JournalError> {
        Ok(self.gateway_rows("SELECT body FROM gateway_record WHERE id=?1 LIMIT ?2", id)?.pop())
    }

    /// A project's records that are not removed, oldest first.
    pub fn gateway_records(&self, project: &str) -> Result<Vec<NsRow>, JournalError> {
        let sql =
            "SELECT body FROM gateway_record WHERE project=?1 AND removed=0 ORDER BY created_ms, id LIMIT ?2";
        self.gateway_rows(sql, project)
    }

    /// The record of an NS instance.
    pub fn gateway_record_of(&self, ns: &str) -> Result<Option<NsRow>, JournalError> {
        let sql = "SELECT body FROM gateway_record WHERE ns=?1 AND removed=0 LIMIT ?2";
        Ok(self.gateway_rows(sql, ns)?.pop())
    }

    /// An operation.
    pub fn gateway_operation(&self, id: &str) -> Result<Option<OpRow>, JournalError> {
        Ok(self.gateway_rows("SELECT body FROM gateway_operation WHERE id=?1 LIMIT ?2", id)?.pop())
    }

    /// A record's operations, the newest, oldest first.
    pub fn gateway_operations(&self, record: &str) -> Result<Vec<OpRow>, JournalError> {
        let sql = "SELECT body FROM (SELECT body, at_ms, id FROM gateway_operation WHERE record=?1
                   ORDER BY at_ms DESC, id LIMIT ?2) ORDER BY at_ms, id";
        self.gateway_rows(sql, record)
    }

    /// Operations that the ledger has not decided, oldest first.
    pub fn gateway_undecided(&self) -> Result<Vec<OpRow>, JournalError> {
        let sql = "SELECT body FROM gateway_operation WHERE undecided=1 AND ?1='' ORDER BY at_ms LIMIT ?2";
        self.gateway_rows(sql, "")
    }

    fn gateway_rows<T: DeserializeOwned>(&self, sql: &str, key: &str) -> Result<Vec<T>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![key, MAX_ROWS], |r| r.get::<_, String>(0))?;
        rows.map(|body| read(&body?)).collect()
    }
}

fn put(tx: &Transaction<'_>, row: &NsRow) -> Result<(), JournalError> {
    tx.prepare_cached(
        "INSERT OR REPLACE INTO gateway_record (id, project, ns, created_ms, removed, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![row.id, row.project, row.ns, number(row.created_ms), row.removed, json(row)?])?;
    Ok(())
}

/// What was removed long ago goes, with its operations; what was not decided stays.
fn forget(tx: &Transaction<'_>, now_ms: u64) -> Result<(), JournalError> {
    let before = number(now_ms.saturating_sub(KEEP_MS));
    let gone = "SELECT id FROM gateway_record WHERE removed=1 AND created_ms<?1";
    tx.execute(
        &format!("DELETE FROM gateway_operation WHERE undecided=0 AND at_ms<?1 AND record IN ({gone})"),
        [before],
    )?;
    tx.execute(
        "DELETE FROM gateway_record WHERE removed=1 AND created_ms<?1
         AND NOT EXISTS (SELECT 1 FROM gateway_operation o WHERE o.record=gateway_record.id)",
        [before],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use osm_gateway::Decision;
    use serde_json::json;
    use trust::Digest;

    use super::*;

    fn record(id: &str, created_ms: u64) -> NsRow {
        NsRow {
            id: id.into(),
            project: "edge".into(),
            project_id: "p".into(),
            user: "alice".into(),
            name: "n".into(),
            tenant: "acme".into(),
            service: "n".into(),
            request: json!({}),
            nsd: (Digest::of("x"), "nsd".into()),
            ns: Some(format!("ns-{id}")),
            created_ms,
            removed: false,
        }
    }

    fn operation(id: &str, record: &str, at_ms: u64) -> OpRow {
        OpRow {
            id: id.into(),
            record: record.into(),
            kind: "instantiate".into(),
            intent_id: format!("i-{id}"),
            envelope: "{}".into(),
            user: "alice".into(),
            params: json!({}),
            at_ms,
            decision: None,
            autoremove: false,
            hidden: false,
        }
    }

    #[test]
    fn a_restart_finds_everything_and_a_week_later_what_was_removed_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        Journal::create(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        journal.put_gateway_operation(&operation("o1", "a", 5), Some(&record("a", 1))).unwrap();
        journal.put_gateway_record(&record("b", 2), 2).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        let ids = |rows: Vec<NsRow>| rows.into_iter().map(|r| r.id).collect::<Vec<_>>();
        assert_eq!(ids(journal.gateway_records("edge").unwrap()), ["a", "b"]);
        assert_eq!(journal.gateway_record_of("ns-b").unwrap().unwrap().id, "b");
        assert_eq!(journal.gateway_undecided().unwrap().len(), 1);
        let decision =
            Decision { approved: true, code: String::new(), rule: String::new(), detail: String::new() };
        let decided = OpRow { decision: Some(decision), ..operation("o1", "a", 5) };
        journal.put_gateway_operation(&decided, None).unwrap();
        assert_eq!(
            (journal.gateway_undecided().unwrap(), journal.gateway_operations("a").unwrap().len()),
            (vec![], 1)
        );
        let removed = NsRow { removed: true, ..record("a", 1) };
        journal.put_gateway_record(&removed, KEEP_MS).unwrap();
        assert_eq!(ids(journal.gateway_records("edge").unwrap()), ["b"]);
        assert!(
            journal.gateway_record("a").unwrap().is_some()
                && journal.gateway_record_of("ns-a").unwrap().is_none()
        );
        journal.put_gateway_record(&record("c", 3), KEEP_MS + 10).unwrap();
        assert_eq!(journal.gateway_record("a").unwrap(), None);
        assert_eq!(journal.gateway_operation("o1").unwrap(), None);
    }
}
