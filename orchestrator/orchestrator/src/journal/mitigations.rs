//! What the orchestrator may do by itself (standing grants), did (mitigations) and would have others do (proposals).

use std::collections::BTreeSet;

use lcm::{Event, drift::Difference};
use ledger_contract::{Intent, evidence::ProvenEntry, records::StandingGrant};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::{
    Accepted, Journal, JournalError,
    rows::{json, number, read, unsigned},
};

/// Mitigations that are remembered, the newest ones: years of a busy site.
const MAX_MITIGATIONS: i64 = 100_000;

/// Positions of operations that the ledger does not know yet begin here: no log gets so long.
const UNAPPROVED: u64 = 1 << 62;

/// A standing grant, with the entry that approved it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingRow {
    /// What may be done.
    pub grant: StandingGrant,
    /// The ledger's entry and proof, as verified.
    pub approval: ProvenEntry,
}

/// What was done about a finding: who, what, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Mitigation {
    /// When, ms.
    pub at_ms: u64,
    /// NS instance.
    pub ns: String,
    /// Tenant.
    pub tenant: String,
    /// Service.
    pub service: String,
    /// Who acted: our identity.
    pub who: String,
    /// `heal`, `isolate`, `terminate`.
    pub action: String,
    /// `REPAIR`, `PROPOSE`, `HOLD`, `REFUSED`.
    pub decision: String,
    /// Standing grant that it was done under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// The intent that carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<String>,
    /// For people: why so.
    pub reason: String,
    /// What was found.
    #[schemars(with = "Vec<crate::views::Finding>")]
    pub findings: Vec<Difference>,
}

impl Mitigation {
    /// Keys of the objects that were wrong.
    #[must_use]
    pub fn objects(&self) -> BTreeSet<String> {
        self.findings.iter().map(|f| f.key.to_string()).collect()
    }
}

/// An intent that the orchestrator may not sign: for the tenant, or the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Proposal {
    /// When it was proposed, ms.
    pub at_ms: u64,
    /// Why the orchestrator does not do it by itself: `NO_STANDING_GRANT`, `FLAPPING`, `NO_BUDGET`, `REFUSED`.
    pub code: String,
    /// In words.
    pub reason: String,
    /// What was found.
    #[schemars(with = "Vec<crate::views::Finding>")]
    pub findings: Vec<Difference>,
    /// The intent, to be signed.
    #[schemars(with = "serde_json::Value")]
    pub intent: Intent,
}

impl Journal {
    /// Keeps a standing grant; `position` is that of its entry.
    pub fn put_standing(&self, row: &StandingRow, position: u64) -> Result<(), JournalError> {
        self.lock().execute(
            "INSERT OR IGNORE INTO standing (id, tenant, position, body) VALUES (?1, ?2, ?3, ?4)",
            params![row.grant.id, row.grant.tenant, number(position), json(row)?],
        )?;
        Ok(())
    }

    /// A standing grant is good no more.
    pub fn revoke_standing(&self, id: &str) -> Result<(), JournalError> {
        self.lock().execute("UPDATE standing SET revoked=1 WHERE id=?1", [id])?;
        Ok(())
    }

    /// Standing grants that were not revoked (whether they are in force is a matter of the time).
    pub fn standing(&self) -> Result<Vec<StandingRow>, JournalError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT body FROM standing WHERE revoked=0 ORDER BY position")?;
        let rows = statement.query_map([], |r| r.get::<_, String>(0))?;
        rows.map(|row| read(&row?)).collect()
    }

    /// An intent was taken back.
    pub fn revoke_intent(&self, intent: &str, position: u64, reason: &str) -> Result<(), JournalError> {
        self.lock().execute(
            "INSERT OR IGNORE INTO revoked (intent, position, reason) VALUES (?1, ?2, ?3)",
            params![intent, number(position), reason],
        )?;
        Ok(())
    }

    /// Where and why an intent was taken back, if it was.
    pub fn revoked_intent(&self, intent: &str) -> Result<Option<(u64, String)>, JournalError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT position, reason FROM revoked WHERE intent=?1")?;
        let row = statement.query_row([intent], |r| Ok((unsigned(r.get(0)?), r.get(1)?))).optional()?;
        Ok(row)
    }

    /// Takes what a standing grant entitles to: operation and first event. Its place among the operations of its
    /// service is behind all that the ledger has approved so far, until the ledger approves it too.
    pub fn accept_standing(&self, first: &Event, at_ms: u64) -> Result<Accepted, JournalError> {
        self.accept(first, UNAPPROVED.saturating_add(at_ms), false)
    }

    /// The ledger has approved it, at this position.
    pub fn approved_late(&self, operation: &str, position: u64) -> Result<(), JournalError> {
        self.lock()
            .execute("UPDATE operation SET position=?2 WHERE id=?1", params![operation, number(position)])?;
        Ok(())
    }

    /// Leaves a mitigation on record.
    pub fn mitigated(&self, mitigation: &Mitigation) -> Result<(), JournalError> {
        let connection = self.lock();
        connection.execute(
            "INSERT INTO mitigation (at_ms, ns, body) VALUES (?1, ?2, ?3)",
            params![number(mitigation.at_ms), mitigation.ns, json(mitigation)?],
        )?;
        connection.execute(
            "DELETE FROM mitigation WHERE id <= (SELECT MAX(id) FROM mitigation) - ?1",
            [MAX_MITIGATIONS],
        )?;
        Ok(())
    }

    /// Mitigations of a service from a moment on, oldest first; without a service: of all.
    pub fn mitigations(&self, ns: Option<&str>, from_ms: u64) -> Result<Vec<Mitigation>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT body FROM mitigation WHERE (?1 IS NULL OR ns=?1) AND at_ms >= ?2 ORDER BY id",
        )?;
        let rows = statement.query_map(params![ns, number(from_ms)], |r| r.get::<_, String>(0))?;
        rows.map(|row| read(&row?)).collect()
    }

    /// Proposes an intent for a service, instead of the one that was proposed before; without one: withdraws it.
    pub fn propose(&self, ns: &str, proposal: Option<&Proposal>) -> Result<(), JournalError> {
        let connection = self.lock();
        match proposal {
            None => connection.execute("DELETE FROM proposal WHERE ns=?1", [ns])?,
            Some(p) => connection.execute(
                "INSERT OR REPLACE INTO proposal (ns, at_ms, body) VALUES (?1, ?2, ?3)",
                params![ns, number(p.at_ms), json(p)?],
            )?,
        };
        Ok(())
    }

    /// Every proposal, oldest first, with its NS instance.
    pub fn proposals(&self) -> Result<Vec<(String, Proposal)>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT ns, body FROM proposal ORDER BY at_ms, ns")?;
        let rows = statement.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
        rows.map(|row| {
            let (ns, body) = row?;
            Ok((ns, read(&body)?))
        })
        .collect()
    }
}
