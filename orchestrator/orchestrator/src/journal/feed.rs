//! The feed: every journaled event of every operation, every refused approval and refused call, in the one order in which they
//! became durable. Its numbers are what `Last-Event-ID` names, so a follower goes on after a restart of either side.
//!
//! Triggers write it in the transaction of the event itself: an event without its number cannot exist.

use lcm::Event;
use rusqlite::{Connection, params};

use super::{Journal, JournalError, RefusedApproval, refused};
use crate::remote_policy::{RefusedCall, refusals::Counted};

/// Its own tables, added to a journal of any earlier version when it is opened.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS feed (
        id INTEGER PRIMARY KEY AUTOINCREMENT, operation TEXT, seq INTEGER NOT NULL) STRICT;
    CREATE TRIGGER IF NOT EXISTS feed_of_event AFTER INSERT ON event BEGIN
        INSERT INTO feed (operation, seq) VALUES (NEW.operation, NEW.seq); END;
    CREATE TRIGGER IF NOT EXISTS feed_of_refusal AFTER INSERT ON refusal BEGIN
        INSERT INTO feed (operation, seq) VALUES (NULL, NEW.rowid); END;
";

/// What was written before there was a feed, by its time.
const BACKFILL: &str = "
    INSERT INTO feed (operation, seq)
        SELECT operation, seq FROM event ORDER BY json_extract(body, '$.at_ms'), operation, seq;
";

/// What became durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// Something in the life of an operation.
    Event {
        /// Operation.
        operation: String,
        /// What.
        event: Box<Event>,
    },
    /// An approval was refused.
    Refused(RefusedApproval),
    /// A cloud refused a call; counted up to now.
    RefusedCall(Box<(RefusedCall, Counted)>),
}

/// Adds the feed's tables; those of an older journal are filled.
pub(super) fn prepare(connection: &Connection) -> Result<(), JournalError> {
    let there: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name='feed' AND type='table')",
        [],
        |r| r.get(0),
    )?;
    let fill = if there { "" } else { BACKFILL };
    connection.execute_batch(&format!("BEGIN; {TABLES} {fill} COMMIT;"))?;
    Ok(())
}

impl Journal {
    /// What became durable after number `after`, at most `limit` of it, in order.
    pub fn feed(&self, after: u64, limit: usize) -> Result<Vec<(u64, Happened)>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT f.id, f.operation, e.body, r.position, r.code, r.detail, r.at_ms, f.seq,
             c.identity, c.first_ms, c.last_ms, c.count, c.body FROM feed f
             LEFT JOIN event e ON e.operation=f.operation AND e.seq=f.seq
             LEFT JOIN refusal r ON f.operation IS NULL AND r.rowid=f.seq
             LEFT JOIN refused_call c ON f.operation='' AND c.id=f.seq
             WHERE f.id>?1 ORDER BY f.id LIMIT ?2",
        )?;
        let from = i64::try_from(after).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![from, i64::try_from(limit).unwrap_or(i64::MAX)])?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            if let Some(happened) = happened(row)? {
                out.push((number(row.get(0)?), happened));
            }
        }
        Ok(out)
    }

    /// Ids of operations, newest first, at most `limit`: all, or those that are not anchored; older than `before`.
    pub fn newest_operations(
        &self,
        open: bool,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT id FROM operation WHERE (NOT ?1 OR closed IS NULL)
             AND (?2 IS NULL OR position<(SELECT position FROM operation WHERE id=?2))
             ORDER BY position DESC LIMIT ?3",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![open, before, limit], |r| r.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Number of the newest; 0 when there is nothing.
    pub fn newest(&self) -> Result<u64, JournalError> {
        Ok(number(self.lock().query_row("SELECT COALESCE(MAX(id), 0) FROM feed", [], |r| r.get(0))?))
    }
}

fn number(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// `None`: something refused that was let go since.
fn happened(row: &rusqlite::Row<'_>) -> Result<Option<Happened>, JournalError> {
    let Some(operation) = row.get::<_, Option<String>>(1)? else {
        let Some(position) = row.get(3)? else { return Ok(None) };
        return Ok(Some(Happened::Refused(RefusedApproval {
            position: number(position),
            code: row.get(4)?,
            detail: row.get(5)?,
            at_ms: number(row.get(6)?),
        })));
    };
    if operation.is_empty() {
        return Ok(refused::row(row, 8)?.map(|call| Happened::RefusedCall(Box::new(call))));
    }
    let body: String = row.get(2)?;
    match serde_json::from_str(&body) {
        Ok(event) => Ok(Some(Happened::Event { operation, event: Box::new(event) })),
        Err(source) => Err(JournalError::Event { operation, seq: row.get(7)?, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::accepted, *};

    #[test]
    fn everything_durable_has_a_number_that_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        Journal::create(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!((journal.newest().unwrap(), journal.feed(0, 9).unwrap()), (0, vec![]));
        journal.accept(&accepted("op-1", "i-1"), 1, true).unwrap();
        let refused =
            RefusedApproval { position: 2, code: "EXPIRED".into(), detail: "late".into(), at_ms: 5 };
        journal.refuse(&refused, true).unwrap();
        journal.append("op-1", &[Event::Recovered { at_ms: 6 }]).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        let all = journal.feed(0, 9).unwrap();
        assert_eq!(all.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(all[1].1, Happened::Refused(refused));
        assert_eq!(journal.feed(1, 1).unwrap(), all[1..2]);
        assert_eq!(journal.newest().unwrap(), 3);
    }

    #[test]
    fn a_journal_from_before_the_feed_is_filled_by_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        Journal::create(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        journal.accept(&accepted("op-b", "i-1"), 1, true).unwrap();
        journal.accept(&accepted("op-a", "i-2"), 2, true).unwrap();
        journal.append("op-b", &[Event::Recovered { at_ms: 9 }]).unwrap();
        let before = "DROP TRIGGER feed_of_event; DROP TRIGGER feed_of_refusal; DROP TABLE feed;";
        journal.lock().execute_batch(before).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        let operations: Vec<_> = journal.feed(0, 9).unwrap().into_iter().map(|(_, h)| h).collect();
        assert_eq!(operations.len(), 3);
        let last =
            Happened::Event { operation: "op-b".into(), event: Box::new(Event::Recovered { at_ms: 9 }) };
        assert_eq!(operations[2], last);
    }
}
