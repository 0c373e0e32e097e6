//! The journal's tables, and how a journal of an earlier version becomes one of this version.
//!
//! An upgrade is one transaction: it happened or it did not. It adds tables and columns and fills them from the events,
//! which stay as they were written: the events are the journal, the rest is what is kept at hand of them.
//! Tests: `tests/engine/upgrade.rs`, on a home that version 0.1 left in the middle of its work.

use std::path::Path;

use lcm::{Event, Operation};
use rusqlite::{Connection, Transaction};

use super::{JournalError, rows};

/// Version of the schema.
pub(super) const SCHEMA: i64 = 2;

const TABLES_1: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE operation (
        id TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE, intent_id TEXT NOT NULL UNIQUE,
        ns TEXT NOT NULL) STRICT;
    CREATE TABLE event (
        operation TEXT NOT NULL REFERENCES operation(id), seq INTEGER NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (operation, seq)) STRICT, WITHOUT ROWID;
    CREATE TABLE refusal (
        position INTEGER NOT NULL, code TEXT NOT NULL, detail TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE bundle (operation TEXT PRIMARY KEY REFERENCES operation(id), content BLOB NOT NULL) STRICT;
";

/// `closed`: what is at hand of an anchored operation, as JSON. `service`: each service as its last operation left it.
/// `gap`: when the ledger did not answer. `standing`, `mitigation`, `proposal`: what the orchestrator may do, did and
/// proposes by itself.
const TABLES_2: &str = "
    ALTER TABLE operation ADD COLUMN closed TEXT;
    CREATE INDEX operation_ns ON operation (ns, position);
    CREATE INDEX operation_open ON operation (position) WHERE closed IS NULL;
    CREATE TABLE service (
        ns TEXT PRIMARY KEY, summary TEXT NOT NULL, record TEXT) STRICT;
    CREATE TABLE gap (from_ms INTEGER PRIMARY KEY, to_ms INTEGER, reason TEXT NOT NULL) STRICT;
    CREATE TABLE standing (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, position INTEGER NOT NULL, body TEXT NOT NULL,
        revoked INTEGER NOT NULL DEFAULT 0) STRICT;
    CREATE TABLE revoked (
        intent TEXT PRIMARY KEY, position INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;
    CREATE TABLE mitigation (
        id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, ns TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE INDEX mitigation_ns ON mitigation (ns, at_ms);
    CREATE TABLE proposal (
        ns TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
";

/// Makes the tables of a new journal.
pub(super) fn create(connection: &Connection) -> Result<(), JournalError> {
    let version = format!("PRAGMA user_version={SCHEMA};");
    connection.execute_batch(&format!("BEGIN; {TABLES_1} {TABLES_2} {version} COMMIT;"))?;
    Ok(())
}

/// Brings an older journal to this version; refuses a newer one.
pub(super) fn upgrade(connection: &mut Connection, path: &Path) -> Result<(), JournalError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if !(1..=SCHEMA).contains(&found) {
        return Err(JournalError::Schema { path: path.to_owned(), found });
    }
    if found < 2 {
        tracing::info!(journal = %path.display(), "the journal is of an earlier version: upgrading it");
        let tx = connection.transaction()?;
        tx.execute_batch(TABLES_2)?;
        fill_in(&tx)?;
        tx.execute_batch("PRAGMA user_version=2;")?;
        tx.commit()?;
    }
    Ok(())
}

/// Computes from the events what version 2 keeps at hand.
fn fill_in(tx: &Transaction<'_>) -> Result<(), JournalError> {
    let ids: Vec<String> = {
        let mut statement = tx.prepare("SELECT id FROM operation ORDER BY position")?;
        let rows = statement.query_map([], |r| r.get(0))?;
        rows.collect::<Result<_, _>>()?
    };
    for id in ids {
        let events: Vec<Event> = super::events_of(tx, &id)?;
        let operation = Operation::fold(&events)
            .map_err(|source| JournalError::Fold { operation: id.clone(), source })?;
        if let Some(first) = events.first() {
            rows::announce(tx, first)?;
        }
        if operation.outcome.is_some() {
            rows::put_service(tx, &operation)?;
        }
        if operation.is_anchored() {
            rows::put_closed(tx, &id, &rows::ClosedRow::of(&operation))?;
        }
    }
    Ok(())
}
