//! Which intents the ledger has decided, by position: so that a page of them costs what it shows. What the ledger says
//! of each stays the ledger's.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Journal, JournalError, rows::number};

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS decided (
        position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS decided_tenant ON decided (tenant, position);
";

/// An intent that left a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Position of its entry.
    pub position: u64,
    /// Its id.
    pub id: String,
    /// Its tenant.
    pub tenant: String,
}

pub(super) fn prepare(connection: &Connection) -> Result<(), JournalError> {
    Ok(connection.execute_batch(TABLE)?)
}

const OF_ALL: &str = "SELECT id FROM decided WHERE position<?1 ORDER BY position DESC LIMIT ?2";
const OF_TENANT: &str =
    "SELECT id FROM decided WHERE tenant=?3 AND position<?1 ORDER BY position DESC LIMIT ?2";

impl Journal {
    /// The ledger's entries below this position have been looked at.
    pub fn decided_to(&self) -> Result<Option<u64>, JournalError> {
        let sql = "SELECT value FROM meta WHERE key='decided_to'";
        let text: Option<String> = self.lock().query_row(sql, [], |r| r.get(0)).optional()?;
        Ok(text.and_then(|t| t.parse().ok()))
    }

    /// Takes in what was found in the entries below `to`.
    pub fn put_decided(&self, found: &[Decided], to: u64) -> Result<(), JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        for it in found {
            tx.execute(
                "INSERT OR IGNORE INTO decided (position, id, tenant) VALUES (?1, ?2, ?3)",
                params![number(it.position), it.id, it.tenant],
            )?;
        }
        tx.execute(
            "INSERT INTO meta (key, value) VALUES ('decided_to', ?1) ON CONFLICT (key) DO UPDATE SET value=?1",
            [to.to_string()],
        )?;
        Ok(tx.commit()?)
    }

    /// Ids of intents, newest first, at most `limit`: of a tenant or of all, decided before a position or up to now.
    pub fn decided(
        &self,
        tenant: Option<&str>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<String>, JournalError> {
        let connection = self.lock();
        let (before, limit) = (number(before.unwrap_or(u64::MAX)), number(limit as u64));
        let ids: Result<Vec<String>, _> = match tenant {
            None => {
                connection.prepare_cached(OF_ALL)?.query_map(params![before, limit], |r| r.get(0))?.collect()
            }
            Some(tenant) => connection
                .prepare_cached(OF_TENANT)?
                .query_map(params![before, limit, tenant], |r| r.get(0))?
                .collect(),
        };
        Ok(ids?)
    }

    /// How SQLite would answer: for the tests that a page is found, not searched for.
    #[cfg(test)]
    pub(super) fn plan_of(&self, sql: &str, parameters: &[&dyn rusqlite::ToSql]) -> String {
        let connection = self.lock();
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let rows = statement.query_map(parameters, |r| r.get::<_, String>(3)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_found_by_its_position() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        Journal::create(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.decided_to().unwrap(), None);
        let of = |n: u64| Decided {
            position: n,
            id: format!("i-{n}"),
            tenant: if n.is_multiple_of(3) { "a" } else { "b" }.into(),
        };
        let all: Vec<_> = (0..9).map(of).collect();
        journal.put_decided(&all[..5], 5).unwrap();
        journal.put_decided(&all[3..], 9).unwrap();
        assert_eq!(journal.decided_to().unwrap(), Some(9));
        assert_eq!(journal.decided(None, None, 2).unwrap(), ["i-8", "i-7"]);
        assert_eq!(journal.decided(None, Some(7), 2).unwrap(), ["i-6", "i-5"]);
        assert_eq!(journal.decided(Some("a"), Some(6), 9).unwrap(), ["i-3", "i-0"]);
        for (sql, parameters) in
            [(OF_ALL, &[&1_i64 as &dyn rusqlite::ToSql, &2_i64][..]), (OF_TENANT, &[&1_i64, &2_i64, &"a"])]
        {
            let plan = journal.plan_of(sql, parameters);
            assert!(plan.starts_with("SEARCH decided") && !plan.contains("TEMP"), "{plan}");
        }
    }
}
