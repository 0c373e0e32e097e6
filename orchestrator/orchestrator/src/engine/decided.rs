//! The index of decided intents, kept up with the ledger: entries are read once, when they are new.

use ledger::LedgerError;
use ledger_contract::{
    intent::INTENT_PAYLOAD,
    records::Entry,
    state::{IntentRecord, decode, intent_key},
    transaction::{FIRST_NAME, SealedEntry},
};
use serde::Deserialize;

use super::{Engine, service::ledger_problem};
use crate::{
    journal::{Decided, JournalError},
    problem::Problem,
};

/// Entries read in one go: an anchor's has some 100 KiB.
const BATCH: usize = 64;

#[derive(Deserialize)]
struct Named {
    id: String,
}

fn journal(e: JournalError) -> Problem {
    Problem::internal("JOURNAL", e)
}

impl Engine {
    /// Takes in what the ledger has decided since.
    pub(super) async fn index_intents(&self) -> Result<(), Problem> {
        let _one_at_a_time = self.indexing.lock().await;
        let mut next = match self.journal.decided_to().map_err(journal)? {
            Some(next) => next,
            None => self.index_the_past().await?,
        };
        loop {
            let entries = self.ledger.range(next, BATCH).await.map_err(ledger_problem)?;
            if entries.is_empty() {
                return Ok(());
            }
            let mut found = Vec::new();
            for (number, entry) in (next..).zip(&entries) {
                found.extend(self.decided_by(number, entry).await?);
            }
            next += entries.len() as u64;
            self.journal.put_decided(&found, next).map_err(journal)?;
        }
    }

    /// Everything up to now at once, from the ledger's state; the position from which to go on.
    async fn index_the_past(&self) -> Result<u64, Problem> {
        let head = self.ledger.head().await.map_err(ledger_problem)?;
        let size = head.lines().nth(1).and_then(|l| l.parse().ok()).unwrap_or(0);
        let all = self.ledger.state_prefix(&intent_key("")).await.map_err(ledger_problem)?;
        let mut found = Vec::with_capacity(all.len());
        for (key, value) in all {
            let it: IntentRecord = decode(&key, &value).map_err(|e| Problem::internal("LEDGER_STATE", e))?;
            let id = key.trim_start_matches(&intent_key("")).to_owned();
            found.push(Decided { position: self.number_of(it.position).await?, id, tenant: it.tenant });
        }
        self.journal.put_decided(&found, size).map_err(journal)?;
        Ok(size)
    }

    /// The intent that an entry decided, when it left a record there.
    async fn decided_by(&self, number: u64, entry: &str) -> Result<Option<Decided>, Problem> {
        let entry = match serde_json::from_str::<Entry>(entry) {
            Ok(entry) => entry,
            // Its request is with who submitted it.
            Err(_) if serde_json::from_str::<SealedEntry>(entry).is_ok() => return Ok(None),
            Err(e) => return Err(Problem::internal("LEDGER_ENTRY", e)),
        };
        if entry.request.payload_type != INTENT_PAYLOAD {
            return Ok(None);
        }
        let Ok(Named { id }) = serde_json::from_slice(&entry.request.payload) else { return Ok(None) };
        let record = self.intent_record(&id).await.map_err(ledger_problem)?;
        let own = record.filter(|r| r.position == entry.position);
        Ok(own.map(|r| Decided { position: number, id, tenant: r.tenant }))
    }

    /// The number of the entry that the ledger's state refers to.
    pub(super) async fn number_of(&self, position: u64) -> Result<u64, Problem> {
        if position < FIRST_NAME {
            return Ok(position);
        }
        let read = self.ledger.read(position).await.map_err(ledger_problem)?;
        read.map(|(number, _)| number)
            .ok_or_else(|| Problem::internal("LEDGER_STATE", format!("entry {position} is not there")))
    }

    /// What the ledger has on record of an intent.
    pub(super) async fn intent_record(&self, id: &str) -> Result<Option<IntentRecord>, LedgerError> {
        let key = intent_key(id);
        let value = self.ledger.state(&key).await?;
        // A record that cannot be read is as good as none: the ledger says so itself where it decides.
        Ok(value.and_then(|v| decode(&key, &v).ok()))
    }
}
