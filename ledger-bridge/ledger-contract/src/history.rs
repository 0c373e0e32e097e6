//! Deciding a log again: every entry in order, over the state that those before it left, by the rules of its time.
//!
//! `mandate policy replay` runs it over a whole log, and `mandate policy show --why` up to one entry, to say what the
//! decision looked at. Pure; proofs are not looked at here. Tests: `tests/history.rs`.

use std::collections::BTreeMap;

use trust::{Digest, UnixTime};

use crate::{
    contract::{Outcome, SnapshotError, TxInfo, decide, snapshot},
    records::{Entry, PolicyBundle, RuleResult},
    state::{POLICY_ACTIVE, Snapshot, decode, policy_key},
};

/// The state that the entries so far have left.
#[derive(Debug, Default)]
pub struct History {
    state: BTreeMap<String, Vec<u8>>,
    next: u64,
    time: UnixTime,
    v: u32,
}

/// An entry, and what deciding it again gave.
#[derive(Debug, Clone)]
pub struct Again {
    /// The entry.
    pub entry: Entry,
    /// What the decision read.
    pub read: Snapshot,
    /// The same as the entry says.
    pub outcome: Outcome,
}

/// Where a log differs from what deciding it again gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("entry {position}: {what}: the log says `{log}`, deciding it again gives `{again}`")]
pub struct Difference {
    /// Of which entry.
    pub position: u64,
    /// `encoding`, `position`, `version`, `time`, `verdict`, `event`, `writes`, or a rule.
    pub what: String,
    /// What the log says.
    pub log: String,
    /// What it should say.
    pub again: String,
}

impl History {
    /// The next entry, its exact bytes.
    pub fn next(&mut self, line: &str) -> Result<Again, Difference> {
        let position = self.next;
        let differ = |what: &str, log: String, again: String| Difference {
            position,
            what: what.to_owned(),
            log,
            again,
        };
        let entry: Entry =
            serde_json::from_str(line).map_err(|e| differ("encoding", "?".to_owned(), e.to_string()))?;
        if entry.to_bytes() != line.as_bytes() {
            return Err(differ("encoding", "another".to_owned(), "the canonical one".to_owned()));
        }
        if entry.position != position {
            return Err(differ("position", entry.position.to_string(), position.to_string()));
        }
        if entry.v < self.v {
            return Err(differ("version", entry.v.to_string(), format!("{} or later", self.v)));
        }
        if entry.time < self.time {
            return Err(differ("time", entry.time.to_string(), format!("{} or later", self.time)));
        }
        let read = self.read(&entry).map_err(|problem| differ("request", "?".to_owned(), problem))?;
        let tx = TxInfo { v: entry.v, ledger: entry.ledger.clone(), position, time: entry.time };
        let outcome = decide(&entry.request, &read, &tx);
        if let Some((what, log, again)) = difference(&entry, &outcome) {
            return Err(differ(&what, log, again));
        }
        self.apply(&entry, &outcome);
        Ok(Again { entry, read, outcome })
    }

    /// The policy bundle in force now.
    #[must_use]
    pub fn policy(&self) -> Option<PolicyBundle> {
        let get = |key: &str| self.state.get(key).map(Vec::as_slice);
        let digest: Digest = decode(POLICY_ACTIVE, get(POLICY_ACTIVE)?).ok()?;
        let key = policy_key(&digest);
        decode(&key, get(&key)?).ok()
    }

    /// The values of all keys that begin with `prefix`, by key.
    pub fn state<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let from = self.state.range(prefix.to_owned()..);
        from.take_while(move |(k, _)| k.starts_with(prefix)).map(|(k, v)| (k.as_str(), v.as_slice()))
    }

    /// How many entries were decided again.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.next
    }

    /// None yet?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next == 0
    }

    fn read(&self, entry: &Entry) -> Result<Snapshot, String> {
        let read = |key: &str| Ok::<_, std::convert::Infallible>(self.state.get(key).cloned());
        snapshot(&entry.request, read).map_err(|e| match e {
            SnapshotError::Malformed(m) => m.to_string(),
            SnapshotError::Read(never) => match never {},
        })
    }

    fn apply(&mut self, entry: &Entry, outcome: &Outcome) {
        for (key, value) in &outcome.writes {
            match value {
                Some(value) => drop(self.state.insert(key.clone(), value.clone())),
                None => drop(self.state.remove(key)),
            }
        }
        self.next = self.next.saturating_add(1);
        (self.time, self.v) = (entry.time, entry.v);
    }
}

/// The wording of details may change between programs; what they decide may not.
fn difference(entry: &Entry, outcome: &Outcome) -> Option<(String, String, String)> {
    let said = |r: &RuleResult| match r.passed {
        true => format!("{} passed", r.rule),
        false => format!("{} {}", r.rule, r.code),
    };
    let (log, again) = (&entry.verdict, &outcome.verdict);
    let rules = log.rules.len().max(again.rules.len());
    for i in 0..rules {
        let pair = [log.rules.get(i), again.rules.get(i)].map(|r| r.map_or("nothing".to_owned(), said));
        if pair[0] != pair[1] {
            let [log, again] = pair;
            return Some((format!("rule {i}"), log, again));
        }
    }
    let pairs = [
        ("verdict", log.approved.to_string(), again.approved.to_string()),
        ("policy", log.policy.to_string(), again.policy.to_string()),
        ("event", json(&entry.event), json(&outcome.event)),
        ("writes", entry.writes.to_string(), outcome.writes_digest().to_string()),
    ];
    let (what, log, again) = pairs.into_iter().find(|(_, log, again)| log != again)?;
    Some((what.to_owned(), log, again))
}

fn json(value: &impl serde::Serialize) -> String {
    // Records are structs and maps with text keys: they always encode.
    serde_json::to_string(value).unwrap_or_default()
}
