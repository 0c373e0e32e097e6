//! Calls that a cloud's services refused because they belonged to no operation: the timeline's, for the service they
//! concerned and for their cloud.
//!
//! The same refusal again within [`EPISODE_MS`] is counted on its row, not written again. Bounds: rows of one project and
//! in all; what goes takes its number in the feed along, so that whoever calls in a loop fills no disk. Tests: below.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    Journal, JournalError,
    rows::{json, number, read, unsigned},
};
use crate::remote_policy::{RefusedCall, refusals::Counted};

/// After this long without the same refusal, the next is a line of its own, ms.
const EPISODE_MS: u64 = 15 * 60 * 1000;
/// Rows of one project, the newest ones: whatever one tenant does, the others' stay.
const MAX_OF_PROJECT: i64 = 1000;
/// Rows in all, the newest ones.
const MAX_ROWS: i64 = 20_000;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS refused_call (
        id INTEGER PRIMARY KEY AUTOINCREMENT, identity TEXT NOT NULL, cloud TEXT NOT NULL,
        project TEXT NOT NULL, ns TEXT, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
        count INTEGER NOT NULL, body TEXT NOT NULL, feed INTEGER) STRICT;
    CREATE INDEX IF NOT EXISTS refused_call_identity ON refused_call (identity, id);
    CREATE INDEX IF NOT EXISTS refused_call_project ON refused_call (project, id);
    CREATE INDEX IF NOT EXISTS refused_call_cloud ON refused_call (cloud, id);
    CREATE INDEX IF NOT EXISTS refused_call_ns ON refused_call (ns, id) WHERE ns IS NOT NULL;
";

/// Its own tables, added to a journal of any earlier version when it is opened.
pub(super) fn prepare(connection: &Connection) -> Result<(), JournalError> {
    Ok(connection.execute_batch(TABLES)?)
}

/// A row of the feed's query, from `from` on: identity, first, last, count, body.
pub(super) fn row(
    row: &rusqlite::Row<'_>,
    from: usize,
) -> Result<Option<(RefusedCall, Counted)>, JournalError> {
    let Some(identity) = row.get::<_, Option<String>>(from)? else { return Ok(None) };
    let body: Counted = read(&row.get::<_, String>(from + 4)?)?;
    let counted = Counted {
        first_ms: unsigned(row.get(from + 1)?),
        last_ms: unsigned(row.get(from + 2)?),
        count: unsigned(row.get(from + 3)?),
        ..body
    };
    Ok(Some((read(&identity)?, counted)))
}

impl Journal {
    /// Keeps refused calls, in one transaction; those that have a row of their own from now on.
    pub fn keep_refused(&self, refused: &[(RefusedCall, Counted)]) -> Result<Vec<RefusedCall>, JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        let mut new = Vec::new();
        for (call, counted) in refused {
            if !count(&tx, call, counted)? {
                insert(&tx, call, counted)?;
                new.push(call.clone());
            }
        }
        let projects: BTreeSet<&str> = new.iter().map(|c| c.project_id.as_str()).collect();
        for project in projects {
            forget(
                &tx,
                "SELECT id, feed FROM refused_call WHERE project=?1 ORDER BY id DESC LIMIT -1 OFFSET ?2",
                params![project, MAX_OF_PROJECT],
            )?;
        }
        if !new.is_empty() {
            let beyond = "SELECT id, feed FROM refused_call ORDER BY id DESC LIMIT -1 OFFSET ?1";
            forget(&tx, beyond, params![MAX_ROWS])?;
        }
        tx.commit()?;
        Ok(new)
    }

    /// Refused calls about a service's objects, oldest first.
    pub fn refused_of_service(&self, ns: &str) -> Result<Vec<(RefusedCall, Counted)>, JournalError> {
        self.refused("ns=?1", ns, MAX_ROWS)
    }

    /// The newest refused calls of a cloud, oldest first.
    pub fn refused_of_cloud(
        &self,
        cloud: &str,
        limit: usize,
    ) -> Result<Vec<(RefusedCall, Counted)>, JournalError> {
        self.refused("cloud=?1", cloud, i64::try_from(limit).unwrap_or(MAX_ROWS))
    }

    fn refused(
        &self,
        which: &str,
        value: &str,
        limit: i64,
    ) -> Result<Vec<(RefusedCall, Counted)>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT identity, first_ms, last_ms, count, body FROM
             (SELECT * FROM refused_call WHERE {which} ORDER BY id DESC LIMIT ?2) ORDER BY id",
        ))?;
        let mut rows = statement.query(params![value, limit])?;
        let mut out = Vec::new();
        while let Some(found) = rows.next()? {
            out.extend(row(found, 0)?);
        }
        Ok(out)
    }
}

/// Counts it on its row, if that is not too old.
fn count(tx: &Transaction<'_>, call: &RefusedCall, counted: &Counted) -> Result<bool, JournalError> {
    let identity = json(call)?;
    let mut statement = tx.prepare_cached(
        "SELECT id, body FROM refused_call WHERE identity=?1 AND last_ms>=?2 ORDER BY id DESC LIMIT 1",
    )?;
    let since = number(counted.first_ms.saturating_sub(EPISODE_MS));
    let found: Option<(i64, String)> =
        statement.query_row(params![identity, since], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
    let Some((id, body)) = found else { return Ok(false) };
    let body = Counted { object: counted.object.clone(), ..read::<Counted>(&body)? };
    tx.prepare_cached(
        "UPDATE refused_call SET last_ms=MAX(last_ms, ?2), count=count+?3, body=?4 WHERE id=?1",
    )?
    .execute(params![id, number(counted.last_ms), number(counted.count), json(&body)?])?;
    Ok(true)
}

fn insert(tx: &Transaction<'_>, call: &RefusedCall, counted: &Counted) -> Result<(), JournalError> {
    tx.prepare_cached(
        "INSERT INTO refused_call (identity, cloud, project, ns, first_ms, last_ms, count, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        json(call)?,
        call.cloud,
        call.project_id,
        call.ns,
        number(counted.first_ms),
        number(counted.last_ms),
        number(counted.count),
        json(counted)?
    ])?;
    let id = tx.last_insert_rowid();
    // An operation has a name: the empty one says which table the number is of.
    tx.execute("INSERT INTO feed (operation, seq) VALUES ('', ?1)", [id])?;
    let feed = tx.last_insert_rowid();
    tx.execute("UPDATE refused_call SET feed=?2 WHERE id=?1", [id, feed])?;
    Ok(())
}

fn forget(tx: &Transaction<'_>, beyond: &str, which: impl rusqlite::Params) -> Result<(), JournalError> {
    let rows: Vec<(i64, Option<i64>)> = {
        let mut statement = tx.prepare_cached(beyond)?;
        let found = statement.query_map(which, |r| Ok((r.get(0)?, r.get(1)?)))?;
        found.collect::<Result<_, _>>()?
    };
    for (id, feed) in rows {
        tx.execute("DELETE FROM refused_call WHERE id=?1", [id])?;
        tx.execute("DELETE FROM feed WHERE id=?1", [feed])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::Happened, *};

    fn call(user: &str, project: &str, ns: Option<&str>) -> RefusedCall {
        RefusedCall {
            cloud: "yoga".into(),
            service: "nova".into(),
            rule: "os_compute_api:servers:create".into(),
            user_id: user.into(),
            project_id: project.into(),
            code: "OUT_OF_BAND".into(),
            ns: ns.map(str::to_owned),
        }
    }

    fn at(ms: u64, count: u64) -> Counted {
        Counted { first_ms: ms, last_ms: ms, count, detail: "why".into(), object: format!("o{ms}") }
    }

    fn journal() -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        Journal::create(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        (dir, journal)
    }

    #[test]
    fn the_same_is_counted_within_an_episode() {
        let (_dir, journal) = journal();
        let (a, b) = (call("u", "p", Some("ns-1")), call("v", "p", None));
        assert_eq!(journal.keep_refused(&[(a.clone(), at(1, 2)), (b.clone(), at(2, 1))]).unwrap().len(), 2);
        assert_eq!(journal.keep_refused(&[(a.clone(), at(EPISODE_MS, 5))]).unwrap(), []);
        let own = journal.refused_of_service("ns-1").unwrap();
        let body = Counted {
            first_ms: 1,
            last_ms: EPISODE_MS,
            count: 7,
            detail: "why".into(),
            object: format!("o{EPISODE_MS}"),
        };
        assert_eq!(own, [(a.clone(), body)]);
        assert_eq!(journal.keep_refused(&[(a.clone(), at(3 * EPISODE_MS, 1))]).unwrap(), [a]);
        assert_eq!(journal.refused_of_service("ns-1").unwrap().len(), 2, "another episode");
        assert_eq!(journal.refused_of_cloud("yoga", 2).unwrap()[0].0, b, "the newest two, in order");
        let feed = journal.feed(0, 10).unwrap();
        assert!(matches!(&feed[..], [(_, Happened::RefusedCall(..)), _, _]), "{feed:?}");
    }

    #[test]
    fn a_loop_fills_no_disk_and_takes_nobody_elses_place() {
        let (_dir, journal) = journal();
        journal.keep_refused(&[(call("u", "other", None), at(1, 1))]).unwrap();
        for n in 0..1500 {
            let users: Vec<_> = (0..2).map(|u| (call(&format!("u{n}-{u}"), "p", None), at(n, 1))).collect();
            journal.keep_refused(&users).unwrap();
        }
        let all = journal.refused_of_cloud("yoga", 100_000).unwrap();
        assert_eq!(all.len(), 1 + 1000);
        assert_eq!(all[0].0.project_id, "other");
        assert_eq!(journal.feed(0, 100_000).unwrap().len(), 1001, "nor does the feed grow");
        assert_eq!(journal.newest().unwrap(), 3001, "a number is not used again");
    }
}
