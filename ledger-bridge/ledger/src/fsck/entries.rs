//! Deciding every entry again over a state of its own, and comparing that with the derived state on disk.

use std::path::Path;

use ledger_contract::{
    TxInfo,
    contract::{decide, snapshot},
    records::{Entry, Verdict},
};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

use crate::LedgerError;

type Found = Vec<(&'static str, String)>;

/// The log, decided again.
pub(super) struct Replay {
    name: String,
    /// Temporary, and on disk when it is large.
    scratch: Connection,
    /// The derived state, if there is one that can be read.
    state: Option<Connection>,
    time: u64,
    /// Version of the rules; a log never goes back to older ones.
    v: u32,
    /// Deciding makes no sense after an entry that is missing or wrong.
    lost: bool,
    pub decided: u64,
    pub derived: Option<u64>,
    unreadable: Option<String>,
}

fn failed(e: rusqlite::Error) -> LedgerError {
    LedgerError::State { problem: format!("the checker's own state: {e}") }
}

impl Replay {
    pub fn new(name: &str, dir: &Path) -> Result<Self, LedgerError> {
        let scratch = Connection::open("").map_err(failed)?;
        scratch
            .execute_batch(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
                 CREATE TABLE row (kind INTEGER, key BLOB, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID;",
            )
            .map_err(failed)?;
        let path = dir.join("state.db");
        let (mut state, mut derived, mut unreadable) = (None, None, None);
        if path.exists() {
            let covers =
                Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(|c| {
                    let size: String =
                        c.query_row("SELECT value FROM meta WHERE key='size'", [], |r| r.get(0))?;
                    Ok((c, size))
                });
            match covers {
                Ok((connection, size)) => (state, derived) = (Some(connection), size.parse().ok()),
                Err(e) => unreadable = Some(format!("it cannot be read: {e}")),
            }
        }
        let name = name.to_owned();
        Ok(Self { name, scratch, state, time: 0, v: 0, lost: false, decided: 0, derived, unreadable })
    }

    fn value(&self, kind: i64, key: &[u8]) -> rusqlite::Result<Option<Vec<u8>>> {
        let mut statement = self.scratch.prepare_cached("SELECT value FROM row WHERE kind=?1 AND key=?2")?;
        statement.query_row(params![kind, key], |r| r.get(0)).optional()
    }

    fn put(&self, kind: i64, key: &[u8], value: &[u8]) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO row (kind, key, value) VALUES (?1, ?2, ?3)";
        self.scratch.prepare_cached(sql)?.execute(params![kind, key, value]).map(|_| ())
    }

    /// Looks at one entry.
    pub fn entry(&mut self, position: u64, bytes: Option<&[u8]>) -> Found {
        let Some(bytes) = bytes else {
            self.lost = true;
            return vec![("ENTRY_MISSING", "it is missing".to_owned())];
        };
        let entry: Entry = match serde_json::from_slice(bytes) {
            Ok(entry) => entry,
            Err(e) => {
                self.lost = true;
                return vec![("ENTRY_FORMAT", format!("it cannot be read: {e}"))];
            }
        };
        let mut found = Found::new();
        if serde_json::to_vec(&entry).unwrap_or_default() != bytes {
            found.push(("ENTRY_FORMAT", "it is not in its canonical encoding".to_owned()));
        }
        if entry.position != position || entry.ledger != self.name {
            found.push((
                "ENTRY_PLACE",
                format!("it says ledger `{}`, position {}", entry.ledger, entry.position),
            ));
        }
        if entry.time.0 < self.time {
            found.push(("ENTRY_TIME", format!("its time {} is before that of the entry before", entry.time)));
        }
        self.time = self.time.max(entry.time.0);
        if entry.v < self.v {
            let problem = format!("decided by version {} of the rules, after version {}", entry.v, self.v);
            found.push(("ENTRY_VERSION", problem));
        }
        self.v = self.v.max(entry.v);
        if !self.lost {
            match self.decide(&entry) {
                Ok(None) => self.decided += 1,
                Ok(Some(problem)) => {
                    self.lost = true;
                    found.push(("ENTRY_DECISION", problem));
                }
                Err(e) => {
                    self.lost = true;
                    found.push(("ENTRY_DECISION", format!("it cannot be decided here: {e}")));
                }
            }
        }
        found
    }

    fn decide(&self, entry: &Entry) -> Result<Option<String>, String> {
        let failed = |e: rusqlite::Error| e.to_string();
        let digest = entry.request.digest();
        if self.value(1, &digest.0).map_err(failed)?.is_some() {
            return Ok(Some("the same request was decided before".to_owned()));
        }
        let state =
            snapshot(&entry.request, |key| self.value(0, key.as_bytes())).map_err(|e| e.to_string())?;
        let tx =
            TxInfo { v: entry.v, ledger: entry.ledger.clone(), position: entry.position, time: entry.time };
        let outcome = decide(&entry.request, &state, &tx);
        let same = outcome.writes_digest() == entry.writes
            && outcome.event == entry.event
            && outcome.verdict.policy == entry.verdict.policy
            && outcome.verdict.approved == entry.verdict.approved
            && found_by(&outcome.verdict).eq(found_by(&entry.verdict));
        if !same {
            let (again, said) = (outcome.verdict.code(), entry.verdict.code());
            return Ok(Some(format!(
                "deciding it again gives `{again}` and writes {}, it says `{said}` and {}",
                outcome.writes_digest(),
                entry.writes
            )));
        }
        for (key, value) in &outcome.writes {
            match value {
                Some(value) => self.put(0, key.as_bytes(), value).map_err(failed)?,
                None => {
                    let sql = "DELETE FROM row WHERE kind=0 AND key=?1";
                    self.scratch.execute(sql, [key.as_bytes()]).map_err(failed)?;
                }
            }
        }
        self.put(1, &digest.0, &entry.position.to_be_bytes()).map_err(failed)?;
        if outcome.event.is_some() {
            self.put(2, &entry.position.to_be_bytes(), &[]).map_err(failed)?;
        }
        Ok(None)
    }

    /// The derived state must be what deciding its entries gives; looked at when those are decided.
    pub fn derived_at(&mut self, size: u64) -> Found {
        if let Some(problem) = self.unreadable.take() {
            return vec![("STATE", problem)];
        }
        if self.derived != Some(size) || self.lost {
            return Found::new();
        }
        let Some(state) = &self.state else { return Found::new() };
        match compare(state, &self.scratch) {
            Ok(None) => Found::new(),
            Ok(Some(problem)) => vec![("STATE", problem)],
            Err(e) => vec![("STATE", format!("it cannot be read: {e}"))],
        }
    }

    /// A derived state beyond the log.
    pub fn derived_ahead(&self, head: u64) -> Option<String> {
        let covers = self.derived.filter(|covers| *covers > head)?;
        Some(format!("it covers {covers} entries, the log has {head}"))
    }
}

/// What each rule found; how it is put into words may change between programs.
fn found_by(verdict: &Verdict) -> impl Iterator<Item = (&str, bool, &str)> {
    verdict.rules.iter().map(|r| (r.rule.as_str(), r.passed, r.code.as_str()))
}

fn compare(state: &Connection, scratch: &Connection) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT kind, key, value FROM row ORDER BY kind, key";
    let (mut left, mut right) = (state.prepare(sql)?, scratch.prepare(sql)?);
    let (mut left, mut right) = (left.query([])?, right.query([])?);
    type Row = (i64, Vec<u8>, Vec<u8>);
    let row = |r: Option<&rusqlite::Row<'_>>| -> rusqlite::Result<Option<Row>> {
        r.map(|r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).transpose()
    };
    loop {
        match (row(left.next()?)?, row(right.next()?)?) {
            (None, None) => return Ok(None),
            (Some((kind, key, stored)), Some((k, expected, value))) if (kind, &key) == (k, &expected) => {
                let mut hash = Sha256::new().chain_update([u8::try_from(kind).unwrap_or(u8::MAX)]);
                hash.update((key.len() as u64).to_be_bytes());
                hash.update(&key);
                hash.update(&value);
                let check = hash.finalize();
                if stored != [&check[..8], &value].concat() {
                    return Ok(Some(format!("the value of `{}` is not what deciding gives", name(&key))));
                }
            }
            (Some((kind, key, _)), Some((k, expected, _))) if (kind, &key) < (k, &expected) => {
                return Ok(Some(format!("`{}` is there, and deciding does not give it", name(&key))));
            }
            (Some((_, key, _)), None) => {
                return Ok(Some(format!("`{}` is there, and deciding does not give it", name(&key))));
            }
            (_, Some((_, expected, _))) => {
                return Ok(Some(format!("`{}` is missing", name(&expected))));
            }
        }
    }
}

fn name(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.contains('\0') => text.to_owned(),
        _ => key.iter().map(|b| format!("{b:02x}")).collect(),
    }
}
