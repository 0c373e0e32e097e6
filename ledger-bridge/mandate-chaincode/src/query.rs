//! Looking at the state: pages of keys, and what a key was.

use fabric::{
    message::{GetHistoryForKey, GetStateByRange, KeyModification, KeyValue},
    shim::{Answer, Done, Got, Want},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use trust::UnixTime;

use crate::contract::{Transaction, failed};

/// Most rows of one answer.
pub const MAX_ROWS: usize = 1000;

/// A key and its value.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// Key.
    pub key: String,
    /// Value: every record is JSON.
    pub value: Box<RawValue>,
}

/// What a key was.
#[derive(Debug, Serialize, Deserialize)]
pub struct Was {
    /// Transaction that wrote it.
    pub tx: String,
    /// The transaction's.
    pub time: UnixTime,
    /// Value; absent: it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Box<RawValue>>,
}

fn raw(bytes: &[u8]) -> Result<Box<RawValue>, Done> {
    serde_json::from_slice(bytes)
        .map_err(|e| Done::error(500, format!("a record of the state is no JSON: {e}")))
}

impl TryFrom<KeyValue> for Row {
    type Error = Done;

    fn try_from(it: KeyValue) -> Result<Self, Done> {
        Ok(Self { value: raw(&it.value)?, key: it.key })
    }
}

impl TryFrom<KeyModification> for Was {
    type Error = Done;

    fn try_from(it: KeyModification) -> Result<Self, Done> {
        let value = match it.is_delete {
            true => None,
            false => Some(raw(&it.value)?),
        };
        let seconds = it.timestamp.map_or(0, |t| t.seconds);
        Ok(Self { tx: it.tx_id, time: UnixTime(u64::try_from(seconds).unwrap_or(0)), value })
    }
}

/// Rows as they come, up to a limit.
struct Rows<T> {
    limit: usize,
    rows: Vec<T>,
    closing: bool,
}

impl<T: Serialize> Rows<T> {
    fn new(limit: usize) -> Self {
        Self { limit: limit.min(MAX_ROWS), rows: Vec::new(), closing: false }
    }

    fn page<R>(&mut self, rows: Vec<R>, more: Option<String>) -> Want
    where
        T: TryFrom<R, Error = Done>,
    {
        let room = self.limit.saturating_sub(self.rows.len());
        for row in rows.into_iter().take(room) {
            match T::try_from(row) {
                Ok(row) => self.rows.push(row),
                Err(done) => return Want::Done(done),
            }
        }
        match more {
            None => self.done(),
            Some(id) if self.rows.len() < self.limit => Want::Next(id),
            Some(id) => {
                self.closing = true;
                Want::Close(id)
            }
        }
    }

    fn done(&self) -> Want {
        // Text and JSON always encode.
        Want::Done(Done::ok(serde_json::to_vec(&self.rows).unwrap_or_default()))
    }
}

/// The keys with a prefix.
pub(crate) struct Prefix {
    range: GetStateByRange,
    rows: Rows<Row>,
}

impl Prefix {
    pub fn new(prefix: &str, after: &str, limit: usize) -> Self {
        let start_key = match after.is_empty() {
            true => prefix.to_owned(),
            false => format!("{after}\u{0}"),
        };
        let end_key = format!("{prefix}{}", char::MAX);
        let range = GetStateByRange { start_key, end_key, collection: String::new() };
        Self { range, rows: Rows::new(limit) }
    }
}

impl Transaction for Prefix {
    fn resume(&mut self, answer: Option<Answer>) -> Want {
        match answer {
            None => Want::Range(self.range.clone()),
            Some(Ok(Got::Keys(page))) => self.rows.page(page.rows, page.more),
            Some(Ok(Got::Written)) if self.rows.closing => self.rows.done(),
            Some(other) => Want::Done(failed(&other)),
        }
    }
}

/// What a key was, newest first.
pub(crate) struct History {
    key: String,
    rows: Rows<Was>,
}

impl History {
    pub fn new(key: &str, limit: usize) -> Self {
        Self { key: key.to_owned(), rows: Rows::new(limit) }
    }
}

impl Transaction for History {
    fn resume(&mut self, answer: Option<Answer>) -> Want {
        match answer {
            None => Want::History(GetHistoryForKey { key: self.key.clone() }),
            Some(Ok(Got::History(page))) => self.rows.page(page.rows, page.more),
            Some(Ok(Got::Written)) if self.rows.closing => self.rows.done(),
            Some(other) => Want::Done(failed(&other)),
        }
    }
}
