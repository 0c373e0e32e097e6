//! The W3C trace context that an intent was submitted under, until its operation asks for it.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Journal, JournalError};

/// Contexts kept; the oldest makes room (an intent is accepted within seconds of its submission).
pub const MAX_TRACES: u32 = 10_000;

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS trace (
        id INTEGER PRIMARY KEY AUTOINCREMENT, intent TEXT NOT NULL UNIQUE, parent TEXT NOT NULL) STRICT;
";

pub(super) fn prepare(connection: &Connection) -> Result<(), JournalError> {
    Ok(connection.execute_batch(TABLE)?)
}

impl Journal {
    /// Remembers under which `traceparent` an intent was submitted; the first one counts.
    pub fn keep_trace(&self, intent: &str, parent: &str) -> Result<(), JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        tx.execute("INSERT OR IGNORE INTO trace (intent, parent) VALUES (?1, ?2)", params![intent, parent])?;
        tx.execute("DELETE FROM trace WHERE id<=(SELECT MAX(id) FROM trace)-?1", [MAX_TRACES])?;
        Ok(tx.commit()?)
    }

    /// The `traceparent` that an intent was submitted under, if its client sent one.
    pub fn trace_of(&self, intent: &str) -> Result<Option<String>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT parent FROM trace WHERE intent=?1")?;
        Ok(statement.query_row([intent], |r| r.get(0)).optional()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_context_of_an_intent_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        Journal::create(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        journal.keep_trace("i", "a").unwrap();
        journal.keep_trace("i", "b").unwrap();
        assert_eq!(journal.trace_of("i").unwrap().as_deref(), Some("a"));
        assert_eq!(journal.trace_of("j").unwrap(), None);
    }
}
