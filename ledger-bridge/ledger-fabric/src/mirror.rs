//! The channel's decisions and state as its verified blocks say, kept on this machine: the mirror.
//!
//! Each block is taken whole in one SQLite transaction, with its number and hash, so the mirror is always at the end of a
//! block and goes on with the next one, whatever was cut off. What the contract decided becomes a log: entries in the
//! channel's order, numbered from 0, each the leaf of a Merkle tree by its sealed bytes, which everybody in the channel has
//! alike. So all mirrors of a channel number alike and have the same root. Requests travel beside transactions; who has one
//! keeps it here *before* it is submitted, and an entry whose request is here can be opened.
//!
//! Never: a block that was not verified ([`crate::follow`]), a number given twice. Tests: `tests/mirror.rs`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ledger_contract::{
    records::Entry,
    transaction::{FIRST_NAME, SealedEntry},
};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, Transaction, params};
use trust::{
    Digest, Envelope,
    merkle::{Tree, leaf_hash},
};

/// Version of the tables.
const SCHEMA: i64 = 1;

const TABLES: &str = "
    CREATE TABLE at (one INTEGER PRIMARY KEY CHECK (one = 0), channel TEXT NOT NULL, next INTEGER NOT NULL, hash BLOB);
    CREATE TABLE entry (number INTEGER PRIMARY KEY, name INTEGER NOT NULL UNIQUE, request BLOB NOT NULL UNIQUE,
        block INTEGER NOT NULL, tx TEXT NOT NULL, decided INTEGER NOT NULL, event INTEGER NOT NULL, sealed BLOB NOT NULL);
    CREATE INDEX events ON entry (number) WHERE event = 1;
    CREATE TABLE request (digest BLOB PRIMARY KEY, envelope BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE configuration (block INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
";

/// Why the mirror cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// SQLite failed; what was asked for did not happen.
    #[error("the mirror {}: {source}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// It is of another channel.
    #[error("the mirror {} is of channel `{found}`, not `{asked}`: name another directory", .path.display())]
    OtherChannel {
        /// The file.
        path: PathBuf,
        /// Its channel.
        found: String,
        /// The one that was asked for.
        asked: String,
    },
    /// Made by another version.
    #[error("the mirror {} has version {found}, this program reads {SCHEMA}: remove it, it is made again from the channel", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: i64,
    },
    /// What it holds contradicts itself, or the next block does not follow.
    #[error("the mirror {}: {problem}; remove it, it is made again from the channel", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What.
        problem: String,
    },
}

/// A valid transaction of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its id.
    pub tx_id: String,
    /// What it decided: which of its decisions, and the entry.
    pub decided: Vec<(u32, SealedEntry)>,
    /// What it wrote.
    pub writes: BTreeMap<String, Option<Vec<u8>>>,
}

/// Where the mirror is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The block that comes next.
    pub next: u64,
    /// Hash of the header before; `None`: there was none.
    pub hash: Option<Digest>,
}

/// An entry as the mirror has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub number: u64,
    /// The block that its transaction is in.
    pub block: u64,
    /// The transaction.
    pub tx_id: String,
    /// Which of the transaction's decisions.
    pub decided: u32,
    /// Without its request.
    pub sealed: SealedEntry,
    /// The request, when it is here.
    pub request: Option<Envelope>,
}

impl Kept {
    /// The entry, when its request is here.
    #[must_use]
    pub fn open(&self) -> Option<Entry> {
        self.sealed.clone().open(self.request.clone()?).ok()
    }
}

/// The mirror.
pub struct Mirror {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    connection: Connection,
    tree: Tree,
    at: At,
}

const COLUMNS: &str =
    "number, block, tx, decided, sealed, envelope FROM entry LEFT JOIN request ON digest = request";

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

/// A row of [`COLUMNS`]; `Err`: what is wrong with it.
fn kept(row: &Row<'_>) -> rusqlite::Result<Result<Kept, String>> {
    let sealed: Vec<u8> = row.get(4)?;
    let request: Option<Vec<u8>> = row.get(5)?;
    let (number, block) = (unsigned(row.get(0)?), unsigned(row.get(1)?));
    let (tx_id, decided) = (row.get(2)?, row.get(3)?);
    let read = || {
        let sealed = serde_json::from_slice(&sealed).map_err(|e| e.to_string())?;
        let request = request.map(|bytes| Envelope::from_canonical(&bytes).map_err(|e| e.to_string()));
        Ok(Kept { number, block, tx_id, decided, sealed, request: request.transpose()? })
    };
    Ok(read().map_err(|e: String| format!("entry {number} cannot be read: {e}")))
}

impl Mirror {
    /// Opens the mirror of `channel` in `dir`, or makes it: it holds nothing that the channel does not, but requests.
    pub fn open(dir: &Path, channel: &str) -> Result<Self, MirrorError> {
        let path = dir.join("mirror.db");
        let failed = |source| MirrorError::Sqlite { path: path.clone(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;").map_err(failed)?;
        let version: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        match version {
            0 => create(&mut connection, channel).map_err(failed)?,
            SCHEMA => {}
            found => return Err(MirrorError::Version { path, found }),
        }
        let (found, next, hash): (String, i64, Option<Vec<u8>>) = connection
            .query_row("SELECT channel, next, hash FROM at", [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
            .map_err(failed)?;
        if found != channel {
            return Err(MirrorError::OtherChannel { path, found, asked: channel.to_owned() });
        }
        let tree = tree(&connection).map_err(failed)?;
        let hash = hash.and_then(|bytes| Some(Digest(bytes.try_into().ok()?)));
        let at = At { next: unsigned(next), hash };
        Ok(Self { path, inner: Mutex::new(Inner { connection, tree, at }) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sqlite(&self, source: rusqlite::Error) -> MirrorError {
        MirrorError::Sqlite { path: self.path.clone(), source }
    }

    fn damaged(&self, problem: impl Into<String>) -> MirrorError {
        MirrorError::Damaged { path: self.path.clone(), problem: problem.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn at(&self) -> At {
        self.inner().at
    }

    /// How many entries it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner().tree.size()
    }

    /// Reads the tree of all entries.
    pub fn tree<T>(&self, read: impl FnOnce(&Tree) -> T) -> T {
        read(&self.inner().tree)
    }

    /// Keeps a request. It is on disk when this returns.
    pub fn keep(&self, digest: &Digest, request: &Envelope) -> Result<(), MirrorError> {
        let inner = self.inner();
        let kept = inner.connection.execute(
            "INSERT OR IGNORE INTO request (digest, envelope) VALUES (?1, ?2)",
            params![digest.0, request.to_json()],
        );
        kept.map(drop).map_err(|e| self.sqlite(e))
    }

    /// Forgets a request that became no entry.
    pub fn forget(&self, digest: &Digest) -> Result<(), MirrorError> {
        let inner = self.inner();
        let sql =
            "DELETE FROM request WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM entry WHERE request = ?1)";
        inner.connection.execute(sql, [digest.0]).map(drop).map_err(|e| self.sqlite(e))
    }

    /// Takes block `block`, whose header has `hash`: its valid transactions of the contract in order, and the block itself
    /// when it changes the channel's configuration.
    pub fn take(
        &self,
        block: u64,
        hash: &Digest,
        transactions: &[Applied],
        configuration: Option<&[u8]>,
    ) -> Result<(), MirrorError> {
        let mut inner = self.inner();
        if inner.at.next != block {
            return Err(self.damaged(format!("block {block} came, {} comes next", inner.at.next)));
        }
        let size = inner.tree.size();
        let leaves = write(&mut inner.connection, (block, hash, size), transactions, configuration)
            .map_err(|e| self.sqlite(e))?;
        leaves.into_iter().for_each(|leaf| inner.tree.push(leaf));
        inner.at = At { next: block.saturating_add(1), hash: Some(*hash) };
        Ok(())
    }

    fn one(&self, which: &str, value: impl rusqlite::ToSql) -> Result<Option<Kept>, MirrorError> {
        let inner = self.inner();
        let sql = format!("SELECT {COLUMNS} WHERE {which} = ?1");
        let found = inner
            .connection
            .prepare_cached(&sql)
            .and_then(|mut s| s.query_row([value], kept).optional())
            .map_err(|e| self.sqlite(e))?;
        found.transpose().map_err(|problem| self.damaged(problem))
    }

    /// An entry by its number, or by its name.
    pub fn entry(&self, position: u64) -> Result<Option<Kept>, MirrorError> {
        self.one(if position < FIRST_NAME { "number" } else { "name" }, number(position))
    }

    /// The entry that decided a request.
    pub fn decided(&self, request: &Digest) -> Result<Option<Kept>, MirrorError> {
        self.one("entry.request", request.0)
    }

    /// At most `limit` entries from number `from`: all, or those that emitted something and whose request is here.
    pub fn entries(&self, from: u64, limit: usize, events: bool) -> Result<Vec<Kept>, MirrorError> {
        let inner = self.inner();
        let which = if events { "AND event = 1 AND envelope IS NOT NULL" } else { "" };
        let sql = format!("SELECT {COLUMNS} WHERE number >= ?1 {which} ORDER BY number LIMIT ?2");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = || {
            let mut statement = inner.connection.prepare_cached(&sql)?;
            let rows = statement.query_map(params![number(from), limit], kept)?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = rows().map_err(|e| self.sqlite(e))?;
        rows.into_iter().collect::<Result<_, String>>().map_err(|problem| self.damaged(problem))
    }

    /// Number of the newest entry that emitted something and whose request is here.
    pub fn last_event(&self) -> Result<Option<u64>, MirrorError> {
        let inner = self.inner();
        let sql = "SELECT number FROM entry JOIN request ON digest = request WHERE event = 1 ORDER BY number DESC LIMIT 1";
        let found = inner.connection.query_row(sql, [], |row| row.get(0)).optional();
        Ok(found.map_err(|e| self.sqlite(e))?.map(unsigned))
    }

    /// A value of the contract's state.
    pub fn state(&self, key: &str) -> Result<Option<Vec<u8>>, MirrorError> {
        let inner = self.inner();
        let found = inner
            .connection
            .prepare_cached("SELECT value FROM state WHERE key = ?1")
            .and_then(|mut s| s.query_row([key], |row| row.get(0)).optional());
        found.map_err(|e| self.sqlite(e))
    }

    /// All values whose key begins with `prefix`, by key.
    pub fn state_prefix(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, MirrorError> {
        let inner = self.inner();
        let rows = || {
            let mut statement = inner
                .connection
                .prepare_cached("SELECT key, value FROM state WHERE key >= ?1 ORDER BY key")?;
            let mut rows = statement.query([prefix])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let key: String = row.get(0)?;
                if !key.starts_with(prefix) {
                    break;
                }
                found.push((key, row.get(1)?));
            }
            Ok(found)
        };
        rows().map_err(|e: rusqlite::Error| self.sqlite(e))
    }

    /// The configuration blocks after block `after` and before block `before`, in order.
    pub fn configuration(&self, after: u64, before: u64) -> Result<Vec<Vec<u8>>, MirrorError> {
        let inner = self.inner();
        let rows = || {
            let mut statement = inner.connection.prepare_cached(
                "SELECT bytes FROM configuration WHERE block > ?1 AND block < ?2 ORDER BY block",
            )?;
            let rows = statement.query_map([number(after), number(before)], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        rows().map_err(|e: rusqlite::Error| self.sqlite(e))
    }
}

fn create(connection: &mut Connection, channel: &str) -> rusqlite::Result<()> {
    let tx = connection.transaction()?;
    tx.execute_batch(TABLES)?;
    tx.execute("INSERT INTO at (one, channel, next) VALUES (0, ?1, 0)", [channel])?;
    tx.pragma_update(None, "user_version", SCHEMA)?;
    tx.commit()
}

/// The tree of what is there: 64 bytes of memory for each entry.
fn tree(connection: &Connection) -> rusqlite::Result<Tree> {
    let mut statement = connection.prepare("SELECT sealed FROM entry ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut tree = Tree::default();
    while let Some(row) = rows.next()? {
        tree.push(leaf_hash(row.get_ref(0)?.as_blob().unwrap_or_default()));
    }
    Ok(tree)
}

/// One block, whole; the leaves that it adds.
fn write(
    connection: &mut Connection,
    (block, hash, size): (u64, &Digest, u64),
    transactions: &[Applied],
    configuration: Option<&[u8]>,
) -> rusqlite::Result<Vec<Digest>> {
    let tx = connection.transaction()?;
    let mut leaves = Vec::new();
    for applied in transactions {
        for (decided, sealed) in &applied.decided {
            let bytes = sealed.to_bytes();
            tx.prepare_cached(
                "INSERT INTO entry (number, name, request, block, tx, decided, event, sealed)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                number(size + leaves.len() as u64),
                number(sealed.position),
                sealed.request.0,
                number(block),
                applied.tx_id,
                decided,
                sealed.event.is_some(),
                bytes,
            ])?;
            leaves.push(leaf_hash(&bytes));
        }
        put(&tx, &applied.writes)?;
    }
    if let Some(bytes) = configuration {
        tx.execute(
            "INSERT INTO configuration (block, bytes) VALUES (?1, ?2)",
            params![number(block), bytes],
        )?;
    }
    let next = number(block.saturating_add(1));
    tx.execute("UPDATE at SET next = ?1, hash = ?2", params![next, hash.0])?;
    tx.commit()?;
    Ok(leaves)
}

fn put(tx: &Transaction<'_>, writes: &BTreeMap<String, Option<Vec<u8>>>) -> rusqlite::Result<()> {
    for (key, value) in writes {
        match value {
            Some(value) => tx
                .prepare_cached("INSERT OR REPLACE INTO state (key, value) VALUES (?1, ?2)")?
                .execute(params![key, value])?,
            None => tx.prepare_cached("DELETE FROM state WHERE key = ?1")?.execute([key])?,
        };
    }
    Ok(())
}
