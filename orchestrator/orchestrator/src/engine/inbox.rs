//! What reaches an operation under way from outside: a direction, a revocation, its late approval.
//!
//! Only an operation's driver writes its journal, so that no two events ever race for a place in it. Others put theirs
//! here; the driver takes them at its next turn, and is woken for it. What cannot follow any more by then is dropped:
//! who asked was told so when it was put in, as far as could be known.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use lcm::{
    Event, Operation,
    operation::{Direction, IllegalTransition},
};
use tokio::sync::watch;

use super::{Engine, now_ms};
use crate::problem::Problem;

/// Most events that wait for one operation: they come from people and from the ledger, one at a time.
const MAX_WAITING: usize = 64;

/// Events for operations under way, by operation.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: Mutex<BTreeMap<String, Vec<Event>>>,
    arrivals: watch::Sender<u64>,
}

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum InboxError {
    /// It cannot follow what has happened.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// Too many wait already.
    #[error("{MAX_WAITING} events wait for operation {0} already: it does not get to them")]
    Full(String),
}

impl Inbox {
    /// Puts an event in for an operation as it is known now.
    pub(super) fn put(&self, operation: &Operation, event: Event) -> Result<(), InboxError> {
        operation.clone().apply(&event)?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let events = waiting.entry(operation.id.clone()).or_default();
        if events.len() >= MAX_WAITING {
            return Err(InboxError::Full(operation.id.clone()));
        }
        events.push(event);
        drop(waiting);
        self.arrivals.send_modify(|n| *n = n.wrapping_add(1));
        Ok(())
    }

    /// Takes what waits for an operation and can still follow.
    pub(super) fn take(&self, operation: &Operation) -> Vec<Event> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let events = waiting.remove(&operation.id).unwrap_or_default();
        let mut tried = operation.clone();
        events.into_iter().filter(|e| tried.apply(e).is_ok()).collect()
    }

    /// Does something wait for this operation?
    pub(super) fn has(&self, id: &str) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Notices of arrivals, for whichever operation; those before now count as seen.
    pub(super) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }
}

impl Engine {
    /// Has a person's decision about an operation carried out (SOL003: retry, rollback, fail).
    pub fn direct(&self, id: &str, by: &str, what: Direction, reason: &str) -> Result<(), Problem> {
        let known = self.read().get(id).map(|t| t.operation.clone());
        let Some(operation) = known else {
            return Err(
                Problem::not_found("operation under way", id).hint("see `mandate operation list --open`")
            );
        };
        let event = Event::Directed { by: by.to_owned(), what, reason: reason.to_owned(), at_ms: now_ms() };
        self.inbox.put(&operation, event).map_err(|_| {
            let is = format!("operation {id}, a {}, is {}", operation.grant.action, operation.state());
            let title = "This cannot be directed now";
            if operation.leftovers().is_some() {
                return Problem::new(409, "FORWARD_ONLY", title, format!("{is}, and can only go forward"))
                    .hint("mend the cause and retry it, or end it with fail: what is left stays on record");
            }
            Problem::new(409, "NOT_FAILED_TEMP", title, is).hint(
                "retry and fail are for an operation that is FAILED_TEMP; rollback also for one under way",
            )
        })
    }
}
