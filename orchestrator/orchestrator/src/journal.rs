//! The journal: SQLite in WAL mode with `synchronous=FULL`; a commit has returned only when it is on disk.
//!
//! Two transactions carry the guarantees. *Accept*: the ledger checkpoint, the operation and its first event are
//! written together, and the approval's position and the intent's id are unique, so an approval is actuated at most
//! once however often it arrives. *Close*: an operation whose last event is `Closed` is the outbox: it is anchored
//! however often the process dies, and its receipt and bundle are written together.
//!
//! A normal start never creates a journal: [`Journal::create`] is `mandate init`'s.

mod decided;
mod feed;
mod gateway;
mod mitigations;
mod refused;
mod replies;
mod rows;
mod schema;
mod stored;
mod traces;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lcm::Event;
use prometheus_client::metrics::histogram::Histogram;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Transaction, params};

pub use decided::Decided;
pub use feed::Happened;
pub use mitigations::{Mitigation, Proposal, StandingRow};
pub use replies::{MAX_REPLIES, REPLY_TTL_MS, Reply};
pub use rows::{ClosedRow, Gap, Listing, ServiceRow};
use schema::SCHEMA;
pub use stored::{Room, StoreBounds, StoredPackage};
pub use traces::MAX_TRACES;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It is there already.
    #[error("{0} exists already: a journal is created once, by `mandate init`")]
    Exists(PathBuf),
    /// It is not there.
    #[error("{0} does not exist: run `mandate init` (a start never creates a journal)")]
    Missing(PathBuf),
    /// Another process has it open.
    #[error("{0} is in use by another process: stop that `mandate serve` first (one orchestrator per home)")]
    Locked(PathBuf),
    /// Made by another version.
    #[error(
        "{path} has schema {found}, this program reads up to {SCHEMA}: start the version that wrote it, or update"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: i64,
    },
    /// SQLite failed; the operation that was asked for did not happen.
    #[error("journal: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// An event that cannot be read or written.
    #[error("journal, operation {operation}, event {seq}: {source}")]
    Event {
        /// Operation.
        operation: String,
        /// Sequence number.
        seq: i64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Events that contradict each other.
    #[error("journal, operation {operation}: {source}")]
    Fold {
        /// Operation.
        operation: String,
        /// Why.
        #[source]
        source: lcm::operation::IllegalTransition,
    },
    /// A row that cannot be read or written.
    #[error("journal: {0}")]
    Row(#[source] serde_json::Error),
    /// A number that does not fit.
    #[error("journal: {0} is out of range")]
    Range(&'static str),
}

/// Refused approvals that are remembered, the newest ones.
const MAX_REFUSALS: i64 = 10_000;

/// Whether an approval was new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It was taken.
    New,
    /// The operation that it began earlier.
    Before(String),
}

/// An approval that was refused by the actuator's own verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedApproval {
    /// Position it claims.
    pub position: u64,
    /// Reason code.
    pub code: String,
    /// Why.
    pub detail: String,
    /// When, ms.
    pub at_ms: u64,
}

/// The journal.
pub struct Journal {
    connection: Mutex<Connection>,
    /// Where the time of each durable commit of events is observed.
    timed: Option<Histogram>,
}

impl Journal {
    /// Creates the file; refuses when it is there.
    pub fn create(path: &Path) -> Result<(), JournalError> {
        if path.exists() {
            return Err(JournalError::Exists(path.to_owned()));
        }
        let connection = Connection::open(path)?;
        configure(&connection)?;
        schema::create(&connection)
    }

    /// Opens an existing journal for this process alone.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        if !path.exists() {
            return Err(JournalError::Missing(path.to_owned()));
        }
        let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // Who has it open keeps it: waiting for the lock would only delay the answer.
        connection.busy_timeout(Duration::ZERO)?;
        configure(&connection).map_err(|e| locked(e, path))?;
        schema::upgrade(&mut connection, path).map_err(|e| locked(e, path))?;
        feed::prepare(&connection)?;
        replies::prepare(&connection)?;
        traces::prepare(&connection)?;
        stored::prepare(&connection)?;
        decided::prepare(&connection)?;
        rows::prepare(&connection)?;
        refused::prepare(&connection)?;
        gateway::prepare(&connection)?;
        Ok(Self { connection: Mutex::new(connection), timed: None })
    }

    /// With its commits timed.
    #[must_use]
    pub fn timed(self, histogram: Histogram) -> Self {
        Self { timed: Some(histogram), ..self }
    }

    fn commit(&self, tx: Transaction<'_>) -> Result<(), JournalError> {
        let began = Instant::now();
        tx.commit()?;
        if let Some(histogram) = &self.timed {
            histogram.observe(began.elapsed().as_secs_f64());
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves no transaction open: rusqlite rolls back on drop.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits something that says nothing: can we still write?
    pub fn probe(&self) -> Result<(), JournalError> {
        let sql = "INSERT INTO meta (key, value) VALUES ('probe', '1')
                   ON CONFLICT (key) DO UPDATE SET value=CAST(value AS INTEGER)%2+1";
        self.lock().execute(sql, [])?;
        Ok(())
    }

    /// Position of the last ledger event that was consumed.
    pub fn checkpoint(&self) -> Result<Option<u64>, JournalError> {
        let text: Option<String> = self
            .lock()
            .query_row("SELECT value FROM meta WHERE key='checkpoint'", [], |r| r.get(0))
            .optional()?;
        Ok(text.and_then(|t| t.parse().ok()))
    }

    /// The ledger's checkpoint (a signed note) that was verified last.
    pub fn verified_head(&self) -> Result<Option<String>, JournalError> {
        let sql = "SELECT value FROM meta WHERE key='verified_head'";
        Ok(self.lock().query_row(sql, [], |r| r.get(0)).optional()?)
    }

    /// Remembers a checkpoint that continues the one before.
    pub fn set_verified_head(&self, note: &str) -> Result<(), JournalError> {
        let sql = "INSERT INTO meta (key, value) VALUES ('verified_head', ?1)
                   ON CONFLICT (key) DO UPDATE SET value=?1";
        self.lock().execute(sql, [note])?;
        Ok(())
    }

    /// Moves the checkpoint over an event that asks for nothing.
    pub fn skip(&self, position: u64) -> Result<(), JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        set_checkpoint(&tx, position)?;
        Ok(tx.commit()?)
    }

    /// Takes an approval: operation, first event and (when it came by the stream) checkpoint, in one transaction.
    pub fn accept(&self, first: &Event, position: u64, from_stream: bool) -> Result<Accepted, JournalError> {
        let Event::Accepted { operation_id, grant, .. } = first else {
            return Err(JournalError::Range("the first event of an operation"));
        };
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        if from_stream {
            set_checkpoint(&tx, position)?;
        }
        let number = i64::try_from(position).map_err(|_| JournalError::Range("the position"))?;
        let earlier: Option<String> = tx
            .query_row(
                "SELECT id FROM operation WHERE position=?1 OR intent_id=?2",
                params![number, grant.intent_id],
                |r| r.get(0),
            )
            .optional()?;
        if let Some(id) = earlier {
            tx.commit()?;
            return Ok(Accepted::Before(id));
        }
        tx.execute(
            "INSERT INTO operation (id, position, intent_id, ns) VALUES (?1, ?2, ?3, ?4)",
            params![operation_id, number, grant.intent_id, grant.ns_instance_id],
        )?;
        insert(&tx, operation_id, first)?;
        rows::announce(&tx, first)?;
        self.commit(tx)?;
        Ok(Accepted::New)
    }

    /// Remembers an approval that the actuator itself refused, for who examines the journal later.
    pub fn refuse(&self, refused: &RefusedApproval, from_stream: bool) -> Result<(), JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        if from_stream {
            set_checkpoint(&tx, refused.position)?;
        }
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        tx.execute(
            "INSERT INTO refusal (position, code, detail, at_ms) VALUES (?1, ?2, ?3, ?4)",
            params![number(refused.position), refused.code, refused.detail, number(refused.at_ms)],
        )?;
        // Forged approvals must not make the journal grow without end.
        tx.execute(
            "DELETE FROM refusal WHERE rowid <= (SELECT MAX(rowid) FROM refusal) - ?1",
            [MAX_REFUSALS],
        )?;
        Ok(tx.commit()?)
    }

    /// The newest refused approvals, newest first.
    pub fn refusals(&self, limit: u32) -> Result<Vec<RefusedApproval>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT position, code, detail, at_ms FROM refusal ORDER BY rowid DESC LIMIT ?1",
        )?;
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        let rows = statement.query_map([limit], |r| {
            Ok(RefusedApproval {
                position: number(r.get(0)?),
                code: r.get(1)?,
                detail: r.get(2)?,
                at_ms: number(r.get(3)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Appends events to an operation, durably, in one transaction.
    pub fn append(&self, operation: &str, events: &[Event]) -> Result<(), JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        for event in events {
            insert(&tx, operation, event)?;
        }
        self.commit(tx)
    }

    /// The last event of an operation together with its bundle, and what is kept at hand of it.
    pub fn anchored(
        &self,
        operation: &str,
        event: &Event,
        bundle: &[u8],
        row: &ClosedRow,
    ) -> Result<(), JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        insert(&tx, operation, event)?;
        rows::put_closed(&tx, operation, row)?;
        tx.execute(
            "INSERT OR REPLACE INTO bundle (operation, content) VALUES (?1, ?2)",
            params![operation, bundle],
        )?;
        self.commit(tx)
    }

    /// The bundle of an anchored operation.
    pub fn bundle(&self, operation: &str) -> Result<Option<Vec<u8>>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT content FROM bundle WHERE operation=?1")?;
        Ok(statement.query_row([operation], |r| r.get(0)).optional()?)
    }

    /// Ids of all operations, oldest first.
    pub fn operations(&self) -> Result<Vec<String>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT id FROM operation ORDER BY position")?;
        let rows = statement.query_map([], |r| r.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// All events of an operation, in order.
    pub fn events(&self, operation: &str) -> Result<Vec<Event>, JournalError> {
        events_of(&self.lock(), operation)
    }
}

fn events_of(connection: &Connection, operation: &str) -> Result<Vec<Event>, JournalError> {
    let mut statement =
        connection.prepare_cached("SELECT seq, body FROM event WHERE operation=?1 ORDER BY seq")?;
    let rows = statement.query_map([operation], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?)))?;
    let mut events = Vec::new();
    for row in rows {
        let (seq, body) = row?;
        let event = serde_json::from_str(&body).map_err(|source| JournalError::Event {
            operation: operation.to_owned(),
            seq,
            source,
        })?;
        events.push(event);
    }
    Ok(events)
}

fn configure(connection: &Connection) -> Result<(), JournalError> {
    connection.execute_batch(
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
    )?;
    Ok(())
}

fn locked(error: JournalError, path: &Path) -> JournalError {
    match error {
        JournalError::Sqlite(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
            JournalError::Locked(path.to_owned())
        }
        other => other,
    }
}

fn set_checkpoint(tx: &Transaction<'_>, position: u64) -> Result<(), JournalError> {
    tx.execute(
        "INSERT INTO meta (key, value) VALUES ('checkpoint', ?1) ON CONFLICT (key) DO UPDATE SET value=?1",
        [position.to_string()],
    )?;
    Ok(())
}

fn insert(tx: &Transaction<'_>, operation: &str, event: &Event) -> Result<(), JournalError> {
    let body = serde_json::to_string(event).map_err(|source| JournalError::Event {
        operation: operation.to_owned(),
        seq: -1,
        source,
    })?;
    tx.execute(
        "INSERT INTO event (operation, seq, body)
         SELECT ?1, COALESCE(MAX(seq), 0) + 1, ?2 FROM event WHERE operation=?1",
        params![operation, body],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcm::operation::Authority;
    use ledger_contract::{
        evidence::{InclusionProof, ProvenEntry},
        records::Grant,
    };
    use trust::{Digest, UnixTime};

    pub(super) fn accepted(id: &str, intent: &str) -> Event {
        let proof = InclusionProof { index: 0, path: vec![], checkpoint: String::new() };
        Event::Accepted {
            operation_id: id.into(),
            authority: Authority::Approval(Box::new(ProvenEntry {
                entry: "{}".into(),
                proof,
                channel: None,
            })),
            grant: Box::new(Grant {
                ledger: "l".into(),
                intent_id: intent.into(),
                intent: Digest::of("i"),
                tenant: "t".into(),
                ns_instance_id: "ns-1".into(),
                action: "deploy".into(),
                not_after: UnixTime(1),
                lease_until: None,
                packages: Default::default(),
                images: Default::default(),
                attestation_keys: vec![],
                attestation_required: false,
                tee_required: false,
                policy: Digest::of("p"),
                site_quotas: Default::default(),
                waived: vec![],
                standing: None,
            }),
            decided_at: UnixTime(1),
            at_ms: 1,
        }
    }

    #[test]
    fn never_created_by_a_start_and_never_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        assert!(matches!(Journal::open(&path), Err(JournalError::Missing(_))));
        assert!(!path.exists());
        Journal::create(&path).unwrap();
        assert!(matches!(Journal::create(&path), Err(JournalError::Exists(_))));
        let first = Journal::open(&path).unwrap();
        assert!(first.checkpoint().unwrap().is_none());
        assert!(matches!(Journal::open(&path), Err(JournalError::Locked(_))), "two writers");
    }

    #[test]
    fn an_approval_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        Journal::create(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.accept(&accepted("op-1", "intent-1"), 7, true).unwrap(), Accepted::New);
        let again = Accepted::Before("op-1".into());
        assert_eq!(journal.accept(&accepted("op-1", "intent-1"), 7, true).unwrap(), again);
        assert_eq!(journal.accept(&accepted("op-2", "intent-1"), 8, false).unwrap(), again);
        assert_eq!(journal.checkpoint().unwrap(), Some(7));
        journal.append("op-1", &[Event::Recovered { at_ms: 2 }]).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.events("op-1").unwrap().len(), 2);
        assert_eq!(journal.operations().unwrap(), ["op-1"]);
    }
}
