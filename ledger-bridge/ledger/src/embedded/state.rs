//! Derived state: what deciding every entry in order has written, kept in a database beside the log.
//!
//! It is disposable: every value follows from the log, and when the file is missing, damaged or of another log, it is
//! made again from entry 0. It says how many entries it covers and the root of the tree over them, so it cannot be
//! taken for another log's. A commit updates it after the entries are durable, in one transaction per group; a crash
//! loses at most the last transactions (WAL, `synchronous=NORMAL`), and opening decides those entries again.
//!
//! One table holds three kinds of row: the contract's state, the position of every request by its digest, and the
//! positions of entries with an event. Every row carries 8 bytes of its own hash, which each read verifies, and the
//! exclusive or of all hashes is kept: [`State::scan`] finds what is altered, missing or too much.
//!
//! Never: an answer from a row whose hash does not fit; a write that is not one of the log's. Tests: below, and
//! `tests/state.rs`.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};
use trust::Digest;

/// Version of the tables, and of what the contract writes into them.
const SCHEMA: i64 = 1;
/// Page cache of each connection, KiB.
const CACHE_KIB: u32 = 16 << 10;
/// Pages of the write-ahead log before they are carried over: 16 MiB.
const WAL_PAGES: u32 = 4000;
/// Bytes of values that are read again and again (policy, organisations, packages).
const MAX_CACHED_BYTES: usize = 8 << 20;
/// Bytes of its hash that a row carries.
const CHECK: usize = 8;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    State = 0,
    Seen = 1,
    Event = 2,
}

/// Why the state cannot be used. It can always be made again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The database failed.
    #[error("{0}")]
    Database(#[from] rusqlite::Error),
    /// A row, or the sum of all, is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// It covers other entries.
    #[error("{0}")]
    Foreign(String),
}

/// What the state covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Covers {
    /// The first so many entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Digest,
}

/// What a group of entries changes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Changes {
    /// State writes; `None` deletes.
    pub state: BTreeMap<String, Option<Vec<u8>>>,
    /// Positions of requests by their digest.
    pub seen: HashMap<Digest, u64>,
    /// Positions with an event, ascending.
    pub events: Vec<u64>,
}

/// The database.
#[derive(Debug)]
pub(crate) struct State {
    connection: Connection,
    sum: Cell<Digest>,
    cached: RefCell<(usize, HashMap<String, Vec<u8>>)>,
}

fn row_hash(kind: Kind, key: &[u8], value: &[u8]) -> Digest {
    let length = (key.len() as u64).to_be_bytes();
    let hash = Sha256::new().chain_update([kind as u8]).chain_update(length).chain_update(key);
    Digest(hash.chain_update(value).finalize().into())
}

fn xor(a: Digest, b: Digest) -> Digest {
    let mut out = a;
    out.0.iter_mut().zip(b.0).for_each(|(x, y)| *x ^= y);
    out
}

fn damaged(kind: Kind, key: &[u8]) -> StateError {
    let key = match std::str::from_utf8(key) {
        Ok(text) => format!("`{text}`"),
        Err(_) => hex(key),
    };
    StateError::Damaged(format!("the row {key} ({kind:?}) is not what was written"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn position(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

impl State {
    /// An empty one; what was there before is removed.
    pub fn create(path: &Path, ledger: &str) -> Result<Self, StateError> {
        remove(path);
        // The database would make its files readable for everybody.
        let private = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        private.map_err(|e| StateError::Damaged(format!("{} cannot be made: {e}", path.display())))?;
        let connection = Connection::open(path)?;
        configure(&connection)?;
        connection.execute_batch(
            "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
             CREATE TABLE row (kind INTEGER, key BLOB, value BLOB NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID;",
        )?;
        connection.pragma_update(None, "user_version", SCHEMA)?;
        let it = Self { connection, sum: Cell::new(Digest([0; 32])), cached: RefCell::default() };
        it.set("ledger", ledger)?;
        it.set_covers(&Covers { size: 0, root: trust::merkle::empty_root() })?;
        Ok(it)
    }

    /// One that is there, of this ledger.
    pub fn open(path: &Path, ledger: &str) -> Result<Self, StateError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        configure(&connection)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
        if version != SCHEMA {
            return Err(StateError::Foreign(format!(
                "it is of version {version}, this program's is {SCHEMA}"
            )));
        }
        let it = Self { connection, sum: Cell::new(Digest([0; 32])), cached: RefCell::default() };
        let found = it.meta("ledger")?;
        if found != ledger {
            return Err(StateError::Foreign(format!("it is of the ledger `{found}`")));
        }
        it.sum.set(it.digest("sum")?);
        Ok(it)
    }

    /// What it covers.
    pub fn covers(&self) -> Result<Covers, StateError> {
        let bad = || StateError::Damaged("its size is not a number".to_owned());
        let size = self.meta("size")?.parse().map_err(|_| bad())?;
        Ok(Covers { size, root: self.digest("root")? })
    }

    fn meta(&self, key: &str) -> Result<String, StateError> {
        let mut statement = self.connection.prepare_cached("SELECT value FROM meta WHERE key=?1")?;
        Ok(statement.query_row([key], |r| r.get(0))?)
    }

    fn digest(&self, key: &str) -> Result<Digest, StateError> {
        Digest::from_hex(&self.meta(key)?).map_err(|_| StateError::Damaged(format!("its {key} is no digest")))
    }

    fn set(&self, key: &str, value: &str) -> Result<(), StateError> {
        let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value=?2";
        self.connection.prepare_cached(sql)?.execute(params![key, value])?;
        Ok(())
    }

    fn set_covers(&self, covers: &Covers) -> Result<(), StateError> {
        self.set("size", &covers.size.to_string())?;
        self.set("root", &covers.root.hex())?;
        self.set("sum", &self.sum.get().hex())
    }

    fn row(&self, kind: Kind, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let mut statement =
            self.connection.prepare_cached("SELECT value FROM row WHERE kind=?1 AND key=?2")?;
        let stored: Option<Vec<u8>> =
            statement.query_row(params![kind as u8, key], |r| r.get(0)).optional()?;
        stored.map(|bytes| open(kind, key, bytes).map(|(value, _)| value)).transpose()
    }

    /// One value of the contract's state.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        if let Some(value) = self.cached.borrow().1.get(key) {
            return Ok(Some(value.clone()));
        }
        let value = self.row(Kind::State, key.as_bytes())?;
        if let Some(value) = &value {
            self.remember(key, value);
        }
        Ok(value)
    }

    /// [`Self::get`], for those who do not write: another connection may have.
    pub fn fresh(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.row(Kind::State, key.as_bytes())
    }

    fn remember(&self, key: &str, value: &[u8]) {
        let mut cached = self.cached.borrow_mut();
        if cached.0 + value.len() > MAX_CACHED_BYTES {
            *cached = Default::default();
        }
        cached.0 += key.len() + value.len();
        cached.1.insert(key.to_owned(), value.to_vec());
    }

    /// Position of the request with this digest.
    pub fn seen(&self, digest: &Digest) -> Result<Option<u64>, StateError> {
        let found = self.row(Kind::Seen, &digest.0)?;
        found.map(|v| position(&v).ok_or_else(|| damaged(Kind::Seen, &digest.0))).transpose()
    }

    /// Positions with an event from `from` on, at most `limit`.
    pub fn events(&self, from: u64, limit: usize) -> Result<Vec<u64>, StateError> {
        let sql = "SELECT key, value FROM row WHERE kind=?1 AND key>=?2 ORDER BY key LIMIT ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![Kind::Event as u8, from.to_be_bytes(), limit])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            let key: Vec<u8> = row.get(0)?;
            open(Kind::Event, &key, row.get(1)?)?;
            events.push(position(&key).ok_or_else(|| damaged(Kind::Event, &key))?);
        }
        Ok(events)
    }

    /// The newest position with an event.
    pub fn last_event(&self) -> Result<Option<u64>, StateError> {
        let sql = "SELECT key FROM row WHERE kind=?1 ORDER BY key DESC LIMIT 1";
        let key: Option<Vec<u8>> =
            self.connection.query_row(sql, [Kind::Event as u8], |r| r.get(0)).optional()?;
        key.map(|k| position(&k).ok_or_else(|| damaged(Kind::Event, &k))).transpose()
    }

    /// All values whose key begins with `prefix`, sorted.
    pub fn prefix(&self, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StateError> {
        let sql = "SELECT key, value FROM row WHERE kind=?1 AND key>=?2 ORDER BY key";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![Kind::State as u8, prefix.as_bytes()])?;
        let mut found = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let key: Vec<u8> = row.get(0)?;
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            let (value, _) = open(Kind::State, &key, row.get(1)?)?;
            let key = String::from_utf8(key).map_err(|e| damaged(Kind::State, e.as_bytes()))?;
            found.insert(key, value);
        }
        Ok(found)
    }

    /// Applies a group of entries, as a whole.
    pub fn apply(&self, changes: &Changes, covers: &Covers) -> Result<(), StateError> {
        let tx = self.connection.unchecked_transaction()?;
        let before = self.sum.get();
        let applied = self.apply_rows(changes).and_then(|()| self.set_covers(covers));
        if let Err(e) = applied.and_then(|()| Ok(tx.commit()?)) {
            self.sum.set(before);
            self.cached.take();
            return Err(e);
        }
        Ok(())
    }

    fn apply_rows(&self, changes: &Changes) -> Result<(), StateError> {
        for (key, value) in &changes.state {
            let old = self.get(key)?;
            self.forget([key]);
            self.put(Kind::State, key.as_bytes(), old.as_deref(), value.as_deref())?;
        }
        for (digest, position) in &changes.seen {
            self.put(Kind::Seen, &digest.0, None, Some(&position.to_be_bytes()))?;
        }
        for position in &changes.events {
            self.put(Kind::Event, &position.to_be_bytes(), None, Some(&[]))?;
        }
        Ok(())
    }

    /// These are written, by this connection or another.
    pub fn forget<'a>(&self, keys: impl IntoIterator<Item = &'a String>) {
        let mut cached = self.cached.borrow_mut();
        for key in keys {
            if let Some(old) = cached.1.remove(key) {
                cached.0 -= key.len() + old.len();
            }
        }
    }

    fn put(&self, kind: Kind, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) -> Result<(), StateError> {
        if let Some(old) = old {
            self.sum.set(xor(self.sum.get(), row_hash(kind, key, old)));
        }
        let Some(value) = new else {
            let mut delete = self.connection.prepare_cached("DELETE FROM row WHERE kind=?1 AND key=?2")?;
            delete.execute(params![kind as u8, key])?;
            return Ok(());
        };
        let hash = row_hash(kind, key, value);
        self.sum.set(xor(self.sum.get(), hash));
        let stored = [&hash.0[..CHECK], value].concat();
        let sql = match old {
            Some(_) => "UPDATE row SET value=?3 WHERE kind=?1 AND key=?2",
            None => "INSERT INTO row (kind, key, value) VALUES (?1, ?2, ?3)",
        };
        self.connection.prepare_cached(sql)?.execute(params![kind as u8, key, stored])?;
        Ok(())
    }

    /// Reads every row: is each what was written, and are all there? Consistent while others write.
    pub fn scan(&self) -> Result<u64, StateError> {
        let tx = self.connection.unchecked_transaction()?;
        let expected = self.digest("sum")?;
        let mut statement = tx.prepare("SELECT kind, key, value FROM row")?;
        let mut rows = statement.query([])?;
        let (mut sum, mut count) = (Digest([0; 32]), 0);
        while let Some(row) = rows.next()? {
            let kind = match row.get(0)? {
                0_i64 => Kind::State,
                1 => Kind::Seen,
                2 => Kind::Event,
                n => return Err(StateError::Damaged(format!("a row is of kind {n}"))),
            };
            let key: Vec<u8> = row.get(1)?;
            sum = xor(sum, open(kind, &key, row.get(2)?)?.1);
            count += 1;
        }
        match sum == expected {
            true => Ok(count),
            false => Err(StateError::Damaged("a row is missing, or one is too much".to_owned())),
        }
    }
}

/// A stored value without its check, and the row's hash.
fn open(kind: Kind, key: &[u8], mut stored: Vec<u8>) -> Result<(Vec<u8>, Digest), StateError> {
    if stored.len() < CHECK {
        return Err(damaged(kind, key));
    }
    let value = stored.split_off(CHECK);
    let hash = row_hash(kind, key, &value);
    match hash.0[..CHECK] == stored[..] {
        true => Ok((value, hash)),
        false => Err(damaged(kind, key)),
    }
}

fn configure(connection: &Connection) -> Result<(), StateError> {
    connection.set_prepared_statement_cache_capacity(32);
    connection.execute_batch(&format!(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-{CACHE_KIB};
         PRAGMA wal_autocheckpoint={WAL_PAGES}; PRAGMA temp_store=MEMORY;"
    ))?;
    Ok(())
}

/// The database's files.
pub(crate) fn files(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    })
}

/// Removes the database: it is made again when the log is opened next.
pub(crate) fn remove(path: &Path) {
    for file in files(path) {
        if let Err(error) = fs::remove_file(&file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.display(), %error, "a file of the ledger's derived state cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(n: u64) -> Changes {
        Changes {
            state: BTreeMap::from([
                (format!("intent/{n}"), Some(vec![7; 50])),
                ("usage/acme".to_owned(), Some(n.to_be_bytes().to_vec())),
                (format!("intent/{}", n.wrapping_sub(2)), None),
            ]),
            seen: HashMap::from([(Digest::of(n.to_be_bytes()), n)]),
            events: vec![n],
        }
    }

    fn filled(path: &Path) -> State {
        let state = State::create(path, "log").unwrap();
        for n in 0..40 {
            state.apply(&changes(n), &Covers { size: n + 1, root: Digest::of(n.to_be_bytes()) }).unwrap();
        }
        state
    }

    #[test]
    fn what_was_applied_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        drop(filled(&path));
        let state = State::open(&path, "log").unwrap();
        assert_eq!(state.covers().unwrap(), Covers { size: 40, root: Digest::of(39_u64.to_be_bytes()) });
        assert_eq!(state.scan().unwrap(), 2 + 1 + 40 + 40);
        assert_eq!(state.get("usage/acme").unwrap().unwrap(), 39_u64.to_be_bytes());
        assert_eq!(state.get("intent/3").unwrap(), None);
        assert_eq!(state.prefix("intent/").unwrap().len(), 2);
        assert_eq!(state.seen(&Digest::of(7_u64.to_be_bytes())).unwrap(), Some(7));
        assert_eq!((state.events(38, 10).unwrap(), state.last_event().unwrap()), (vec![38, 39], Some(39)));
        assert!(matches!(State::open(&path, "other"), Err(StateError::Foreign(_))));
    }

    /// Rows altered, removed and added behind its back.
    #[test]
    fn a_scan_finds_every_kind_of_damage() {
        for sql in [
            "UPDATE row SET value = zeroblob(length(value)) WHERE kind=0 AND key=CAST('usage/acme' AS BLOB)",
            "DELETE FROM row WHERE kind=1 AND value IN (SELECT value FROM row WHERE kind=1 LIMIT 1)",
            "INSERT INTO row SELECT kind, CAST(key || 'x' AS BLOB), value FROM row WHERE kind=2 LIMIT 1",
            "UPDATE meta SET value = replace(value, substr(value, 1, 1), 'f') WHERE key='sum'",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state.db");
            drop(filled(&path));
            assert!(Connection::open(&path).unwrap().execute(sql, []).unwrap() > 0);
            let state = State::open(&path, "log").unwrap();
            assert!(matches!(state.scan(), Err(StateError::Damaged(_))), "{sql}");
        }
    }
}
