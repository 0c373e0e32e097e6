//! Answers that were given under an `Idempotency-Key`, so that the same request again gets the same answer.
//!
//! Bounded in number and in time, in a table of its own beside the operations: a restart forgets none.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Journal, JournalError};

/// Answers kept; the oldest makes room. At 1 KiB each that is 10 MiB.
pub const MAX_REPLIES: u32 = 10_000;
/// How long an answer is kept, ms: a day outlasts every retry that a client makes by itself.
pub const REPLY_TTL_MS: u64 = 24 * 3_600_000;

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS reply (
        id INTEGER PRIMARY KEY AUTOINCREMENT, caller TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL,
        status INTEGER NOT NULL, media_type TEXT NOT NULL, body BLOB NOT NULL, at_ms INTEGER NOT NULL,
        UNIQUE (caller, key)) STRICT;
";

/// An answer that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Digest of what was asked.
    pub request: String,
    /// HTTP status.
    pub status: u16,
    /// Media type of the body.
    pub media_type: String,
    /// The body.
    pub body: Vec<u8>,
}

pub(super) fn prepare(connection: &Connection) -> Result<(), JournalError> {
    Ok(connection.execute_batch(TABLE)?)
}

impl Journal {
    /// The answer that `caller` got under `key`, if it is still kept.
    pub fn reply(&self, caller: &str, key: &str, now_ms: u64) -> Result<Option<Reply>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT request, status, media_type, body FROM reply WHERE caller=?1 AND key=?2 AND at_ms>?3",
        )?;
        let row = |r: &rusqlite::Row<'_>| {
            Ok(Reply { request: r.get(0)?, status: r.get(1)?, media_type: r.get(2)?, body: r.get(3)? })
        };
        Ok(statement.query_row(params![caller, key, since(now_ms)], row).optional()?)
    }

    /// Keeps an answer, and lets go of those that are too old or too many.
    pub fn keep_reply(
        &self,
        caller: &str,
        key: &str,
        reply: &Reply,
        now_ms: u64,
    ) -> Result<(), JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        tx.execute(
            "DELETE FROM reply WHERE at_ms<=?1 OR (caller=?2 AND key=?3)",
            params![since(now_ms), caller, key],
        )?;
        tx.execute(
            "INSERT INTO reply (caller, key, request, status, media_type, body, at_ms) VALUES (?,?,?,?,?,?,?)",
            params![caller, key, reply.request, reply.status, reply.media_type, reply.body, ms(now_ms)],
        )?;
        tx.execute("DELETE FROM reply WHERE id<=(SELECT MAX(id) FROM reply)-?1", [MAX_REPLIES])?;
        Ok(tx.commit()?)
    }
}

fn ms(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

fn since(now_ms: u64) -> i64 {
    ms(now_ms.saturating_sub(REPLY_TTL_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_over_a_restart_until_it_is_too_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        Journal::create(&path).unwrap();
        let now = 2 * REPLY_TTL_MS;
        let reply =
            Reply { request: "d".into(), status: 201, media_type: "text/x".into(), body: b"{}".to_vec() };
        Journal::open(&path).unwrap().keep_reply("a", "k", &reply, now).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.reply("a", "k", now + 1).unwrap(), Some(reply.clone()));
        assert_eq!(journal.reply("b", "k", now + 1).unwrap(), None, "another caller's key is another key");
        assert_eq!(journal.reply("a", "k", now + REPLY_TTL_MS).unwrap(), None);
        journal.keep_reply("b", "k", &reply, now + REPLY_TTL_MS).unwrap();
        let left: u32 = journal.lock().query_row("SELECT COUNT(*) FROM reply", [], |r| r.get(0)).unwrap();
        assert_eq!(left, 1, "what is too old is deleted");
    }
}
