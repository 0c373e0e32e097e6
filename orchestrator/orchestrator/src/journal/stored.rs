//! Who has what in the package store: room is taken here before a byte is written, and given back with the package.
//!
//! A provider is charged for every artifact that its packages hold, once however many hold it; the store for every
//! artifact once, whoever holds it. The bounds are arguments. Tests: below, and `tests/engine/store.rs`.

use rusqlite::{Connection, Transaction, params};
use trust::Digest;

use super::{
    Journal, JournalError,
    rows::{number, unsigned},
};

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS stored (
        org TEXT NOT NULL, package TEXT NOT NULL, artifact TEXT NOT NULL, bytes INTEGER NOT NULL,
        at_ms INTEGER NOT NULL, PRIMARY KEY (org, package, artifact)) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS stored_artifact ON stored (artifact, bytes);
";

/// What may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreBounds {
    /// Bytes of one provider.
    pub provider_bytes: u64,
    /// Packages of one provider.
    pub provider_packages: u64,
    /// Bytes of all.
    pub store_bytes: u64,
}

/// Whether there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It was taken now.
    Taken,
    /// This provider has this package already.
    Held,
    /// So many bytes of the provider's are stored, and so many more would be too many.
    ProviderBytes(u64, u64),
    /// The provider has so many packages.
    ProviderPackages(u64),
    /// So many bytes are stored, and so many more would be too many.
    StoreBytes(u64, u64),
}

/// A package in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPackage {
    /// Organisation of its provider; empty: nobody known.
    pub org: String,
    /// Digest of the package.
    pub package: Digest,
    /// When it came, ms.
    pub at_ms: u64,
}

pub(super) fn prepare(connection: &Connection) -> Result<(), JournalError> {
    Ok(connection.execute_batch(TABLE)?)
}

impl Journal {
    /// Takes room for a package and what it holds (digests and bytes; the package itself among them), or says what is
    /// in the way.
    pub fn take_room(
        &self,
        (org, package): (&str, &Digest),
        artifacts: &[(Digest, u64)],
        bounds: Option<&StoreBounds>,
        at_ms: u64,
    ) -> Result<Room, JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        let name = package.to_string();
        if one(&tx, "SELECT EXISTS (SELECT 1 FROM stored WHERE org=?1 AND package=?2)", &[org, &name])? > 0 {
            let again = "UPDATE stored SET at_ms=?3 WHERE org=?1 AND package=?2";
            tx.execute(again, params![org, name, number(at_ms)])?;
            self.commit(tx)?;
            return Ok(Room::Held);
        }
        if let Some(bounds) = bounds
            && let Some(full) = full(&tx, org, artifacts, bounds)?
        {
            return Ok(full);
        }
        for (artifact, bytes) in artifacts {
            let artifact = artifact.to_string();
            // What nobody was known to have is this provider's from now on.
            tx.execute("DELETE FROM stored WHERE org='' AND artifact=?1", [&artifact])?;
            tx.execute(
                "INSERT OR REPLACE INTO stored (org, package, artifact, bytes, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![org, name, artifact, number(*bytes), number(at_ms)],
            )?;
        }
        self.commit(tx)?;
        Ok(Room::Taken)
    }

    /// Gives a package's room back; what nobody holds any more.
    pub fn give_room_back(&self, org: &str, package: &Digest) -> Result<Vec<Digest>, JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        let name = package.to_string();
        let held: Vec<String> = {
            let mut statement =
                tx.prepare_cached("SELECT artifact FROM stored WHERE org=?1 AND package=?2")?;
            let rows = statement.query_map([org, &name], |r| r.get(0))?;
            rows.collect::<Result<_, _>>()?
        };
        tx.execute("DELETE FROM stored WHERE org=?1 AND package=?2", [org, &name])?;
        let mut free = Vec::new();
        for artifact in held {
            if one(&tx, "SELECT EXISTS (SELECT 1 FROM stored WHERE artifact=?1)", &[&artifact])? == 0 {
                free.extend(artifact.parse::<Digest>().ok());
            }
        }
        self.commit(tx)?;
        Ok(free)
    }

    /// Every package that room is taken for.
    pub fn stored_packages(&self) -> Result<Vec<StoredPackage>, JournalError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT org, package, MIN(at_ms) FROM stored GROUP BY org, package")?;
        let rows = statement
            .query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, i64>(2)?)))?;
        let mut out = Vec::new();
        for row in rows {
            let (org, package, at_ms) = row?;
            let Ok(package) = package.parse() else { return Err(JournalError::Range("a stored digest")) };
            out.push(StoredPackage { org, package, at_ms: unsigned(at_ms) });
        }
        Ok(out)
    }

    /// Is room taken for this artifact?
    pub fn is_stored(&self, artifact: &Digest) -> Result<bool, JournalError> {
        let connection = self.lock();
        let sql = "SELECT EXISTS (SELECT 1 FROM stored WHERE artifact=?1)";
        Ok(connection.query_row(sql, [artifact.to_string()], |r| r.get(0))?)
    }
}

fn full(
    tx: &Transaction<'_>,
    org: &str,
    artifacts: &[(Digest, u64)],
    bounds: &StoreBounds,
) -> Result<Option<Room>, JournalError> {
    let packages = one(tx, "SELECT COUNT(DISTINCT package) FROM stored WHERE org=?1", &[org])?;
    if packages >= bounds.provider_packages {
        return Ok(Some(Room::ProviderPackages(packages)));
    }
    let (mut more_own, mut more) = (0_u64, 0_u64);
    for (artifact, bytes) in artifacts {
        let name = artifact.to_string();
        let (all, own) = (
            one(tx, "SELECT EXISTS (SELECT 1 FROM stored WHERE artifact=?1)", &[&name])?,
            one(tx, "SELECT EXISTS (SELECT 1 FROM stored WHERE artifact=?1 AND org=?2)", &[&name, org])?,
        );
        more = more.saturating_add(if all == 0 { *bytes } else { 0 });
        more_own = more_own.saturating_add(if own == 0 { *bytes } else { 0 });
    }
    let own = one(
        tx,
        "SELECT COALESCE(SUM(bytes), 0) FROM (SELECT DISTINCT artifact, bytes FROM stored WHERE org=?1)",
        &[org],
    )?;
    if own.saturating_add(more_own) > bounds.provider_bytes {
        return Ok(Some(Room::ProviderBytes(own, more_own)));
    }
    let all = "SELECT COALESCE(SUM(bytes), 0) FROM (SELECT DISTINCT artifact, bytes FROM stored)";
    let all = one(tx, all, &[])?;
    let too_much = all.saturating_add(more) > bounds.store_bytes;
    Ok(too_much.then_some(Room::StoreBytes(all, more)))
}

fn one(tx: &Transaction<'_>, sql: &str, parameters: &[&str]) -> Result<u64, JournalError> {
    let mut statement = tx.prepare_cached(sql)?;
    Ok(unsigned(statement.query_row(rusqlite::params_from_iter(parameters), |r| r.get(0))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: StoreBounds = StoreBounds { provider_bytes: 100, provider_packages: 3, store_bytes: 150 };

    fn digest(name: &str) -> Digest {
        Digest::of(name)
    }

    #[test]
    fn room_is_taken_once_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        Journal::create(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        let take = |org: &str, package: &str, artifacts: &[(&str, u64)]| {
            let artifacts: Vec<_> = artifacts.iter().map(|(n, b)| (digest(n), *b)).collect();
            journal.take_room((org, &digest(package)), &artifacts, Some(&BOUNDS), 5).unwrap()
        };
        assert_eq!(take("a", "p1", &[("p1", 10), ("image", 50)]), Room::Taken);
        assert_eq!(take("a", "p1", &[("p1", 10), ("image", 50)]), Room::Held);
        assert_eq!(take("a", "p2", &[("p2", 41), ("image", 50)]), Room::ProviderBytes(60, 41));
        assert_eq!(take("a", "p2", &[("p2", 40), ("image", 50)]), Room::Taken, "an image counts once");
        assert_eq!(take("b", "p3", &[("p3", 10), ("image", 50)]), Room::Taken, "it counts for each");
        assert_eq!(take("b", "p4", &[("p4", 40)]), Room::Taken, "and once for all");
        assert_eq!(take("c", "p5", &[("p5", 10)]), Room::StoreBytes(150, 10));
        assert_eq!(journal.give_room_back("a", &digest("p1")).unwrap(), [digest("p1")]);
        assert_eq!(take("c", "p5", &[("p5", 10)]), Room::Taken);
        assert_eq!(journal.stored_packages().unwrap().len(), 4);
        assert_eq!(take("a", "x", &[("x", 0)]), Room::Taken);
        assert_eq!(take("a", "y", &[("y", 0)]), Room::Taken);
        assert_eq!(take("a", "z", &[("z", 0)]), Room::ProviderPackages(3));
        let free = journal.give_room_back("a", &digest("p2")).unwrap();
        assert_eq!(free, [digest("p2")], "the other provider has the image too");
        assert!(journal.is_stored(&digest("image")).unwrap());
    }

    #[test]
    fn what_was_nobodys_is_a_providers_once_it_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        Journal::create(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        let it = digest("old");
        assert_eq!(journal.take_room(("", &it), &[(it, 7)], None, 1).unwrap(), Room::Taken);
        assert_eq!(journal.take_room(("a", &it), &[(it, 7)], Some(&BOUNDS), 2).unwrap(), Room::Taken);
        let all = journal.stored_packages().unwrap();
        assert_eq!(all, [StoredPackage { org: "a".into(), package: it, at_ms: 2 }]);
    }
}
