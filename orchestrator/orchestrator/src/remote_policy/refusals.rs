//! What was refused, on its way to the journal: the same again is counted, not repeated.
//!
//! An answer never waits for the disk: it leaves a note here, and a task of [`super::server`] has the notes journaled a
//! moment later. A caller in a loop is one note with a count. Bounds: [`MAX_NOTES`] between two writes (what is beyond
//! is counted under its cloud and code), and the journal's own on rows.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{decision::Refusal, request::Question, rules::Service};

/// Different refusals between two writes to the journal.
const MAX_NOTES: usize = 256;

/// A call that OpenStack refused because we said no.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct RefusedCall {
    /// Cloud, as configured.
    pub cloud: String,
    /// `nova`, `neutron`, `glance`.
    pub service: String,
    /// The policy rule that asked.
    pub rule: String,
    /// Id of the user who called.
    pub user_id: String,
    /// Id of the project: the object's, or the caller's when the object's was not shown.
    pub project_id: String,
    /// Why, as a stable code.
    pub code: String,
    /// NS instance whose object it was about, when that was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns: Option<String>,
}

/// How often, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counted {
    /// First time, ms.
    pub first_ms: u64,
    /// Last time, ms.
    pub last_ms: u64,
    /// How often.
    pub count: u64,
    /// Why, in words, the first time.
    pub detail: String,
    /// Id of the object, the last time; empty: not shown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
}

impl RefusedCall {
    /// The refusal of a question.
    #[must_use]
    pub fn of(cloud: &str, (service, rule): (Service, &str), question: &Question, refusal: &Refusal) -> Self {
        let (actor, target) = (&question.actor, &question.target);
        let project = if target.project_id.is_empty() { &actor.project_id } else { &target.project_id };
        Self {
            cloud: cloud.to_owned(),
            service: service.name().to_owned(),
            // A rule that nobody knows may be anything.
            rule: service.rule(rule).map_or("unknown", |r| r.name).to_owned(),
            user_id: actor.user_id.clone(),
            project_id: project.clone(),
            code: refusal.code.to_owned(),
            ns: refusal.ns.clone(),
        }
    }

    /// For people: who, what, why and how often.
    #[must_use]
    pub fn sentence(&self, counted: &Counted) -> String {
        let times = match counted.count {
            1 => String::new(),
            n => format!(" {n} times"),
        };
        let object = if counted.object.is_empty() { "" } else { " on " };
        format!(
            "{} refused {}{object}{} by user {} in project {}{times}: {}: {}",
            self.service, self.rule, counted.object, self.user_id, self.project_id, self.code, counted.detail
        )
    }
}

/// Notes that are not journaled yet.
#[derive(Debug, Default)]
pub struct Refusals {
    notes: Mutex<BTreeMap<RefusedCall, Counted>>,
}

impl Refusals {
    /// Leaves a note; true: it is the first of its kind since the last [`Self::take`].
    pub fn note(&self, call: RefusedCall, counted: Counted) -> bool {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let call = match notes.contains_key(&call) || notes.len() < MAX_NOTES {
            true => call,
            false => RefusedCall {
                service: "several".into(),
                rule: "several".into(),
                user_id: "several".into(),
                project_id: "several".into(),
                ns: None,
                ..call
            },
        };
        let mut first = false;
        let note = notes.entry(call).or_insert_with(|| {
            first = true;
            Counted { count: 0, ..counted.clone() }
        });
        note.count = note.count.saturating_add(counted.count);
        note.last_ms = note.last_ms.max(counted.last_ms);
        note.object = counted.object;
        first
    }

    /// Everything that was noted since the last time.
    pub fn take(&self) -> BTreeMap<RefusedCall, Counted> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_counted_and_there_is_a_bound() {
        let refusals = Refusals::default();
        let call = |n: usize| RefusedCall {
            cloud: "yoga".into(),
            service: "nova".into(),
            rule: "r".into(),
            user_id: format!("u{n}"),
            project_id: "p".into(),
            code: "OUT_OF_BAND".into(),
            ns: None,
        };
        let at =
            |ms| Counted { first_ms: ms, last_ms: ms, count: 1, detail: "x".into(), object: String::new() };
        assert!(refusals.note(call(0), at(1)));
        assert!((2..100).all(|ms| !refusals.note(call(0), at(ms))));
        let taken = refusals.take();
        assert_eq!(taken[&call(0)], Counted { last_ms: 99, count: 99, ..at(1) });
        assert!(taken[&call(0)].first_ms == 1 && refusals.take().is_empty());
        (0..3 * MAX_NOTES).for_each(|n| {
            refusals.note(call(n), at(5));
        });
        let taken = refusals.take();
        assert_eq!(taken.len(), MAX_NOTES + 1);
        assert_eq!(taken.values().map(|c| c.count).sum::<u64>(), 3 * MAX_NOTES as u64, "all are counted");
    }
}
