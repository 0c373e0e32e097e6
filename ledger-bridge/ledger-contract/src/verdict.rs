//! Collecting the results of rules into a verdict.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use trust::Digest;

use crate::{
    contract::Outcome,
    records::{RuleResult, Verdict},
    waive::waives,
};

/// How the detail of a rule begins that an emergency has waived; what it refused with, and why, follows.
pub const WAIVED: &str = "waived by break-glass: ";

/// How the detail of a rule begins that says nothing about what is asked for.
pub const NOT_APPLICABLE: &str = "does not apply to ";

/// Code of a rule that was not evaluated because one before it failed.
pub const NOT_EVALUATED: &str = "NOT_EVALUATED";

/// Codes that no emergency waives, whatever rule they are of: nobody looked, or a signature of the software is bad.
const NEVER_WAIVED: [&str; 2] = [NOT_EVALUATED, "PROVENANCE_INVALID"];

/// Why a rule refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub code: String,
    pub detail: String,
}

/// A rule's outcome: what was found, or why it refuses.
pub(crate) type Checked<T> = Result<T, Fault>;

pub(crate) fn fault<T>(code: &str, detail: impl Into<String>) -> Checked<T> {
    Err(Fault { code: code.to_owned(), detail: detail.into() })
}

/// Rules that version 1 of the entry format did not have: they are not listed in its verdicts. What they are about
/// (co-signing rules, standing grants, …) could not be written down then, so none of them could refuse.
const SINCE_2: [&str; 16] = [
    "authorization/signatures",
    "authorization/attributes",
    "authorization/break-glass",
    "compliance/dependencies",
    "compliance/revision",
    "compliance/window",
    "provenance/not-revoked",
    "provenance/refused-digest",
    "provenance/sbom-complete",
    "provenance/supplier",
    "provenance/licences",
    "provenance/denied",
    "quota/vfs",
    "quota/bandwidth",
    "quota/sites",
    "compliance/members",
];

/// The results so far, in order.
#[derive(Debug)]
pub(crate) struct Rules {
    results: Vec<RuleResult>,
    /// Version of the rules.
    v: u32,
    /// What an emergency waives here: rules and groups.
    waives: BTreeSet<String>,
    waived: Vec<String>,
}

impl Rules {
    /// None yet, by version `v` of the rules.
    pub fn new(v: u32) -> Self {
        Self { results: Vec::new(), v, waives: BTreeSet::new(), waived: Vec::new() }
    }

    /// From now on, refusals of these rules and groups are recorded, and waived.
    pub fn waive(&mut self, rules: BTreeSet<String>) {
        self.waives = rules;
    }

    /// Rules that were waived so far.
    pub fn waived(&self) -> &[String] {
        &self.waived
    }

    fn listed(&self, rule: &str) -> bool {
        self.v >= 2 || !SINCE_2.contains(&rule)
    }

    /// Records a rule whose success is described by its text.
    pub fn check(&mut self, rule: &str, outcome: Checked<String>) -> bool {
        let outcome = match outcome {
            Err(f) if !NEVER_WAIVED.contains(&f.code.as_str()) && waives(&self.waives, rule) => {
                self.waived.push(rule.to_owned());
                Ok(format!("{WAIVED}{}: {}", f.code, f.detail))
            }
            other => other,
        };
        self.value(rule, outcome.map(|detail| ((), detail))).is_some()
    }

    /// Records a rule that yields something.
    pub fn value<T>(&mut self, rule: &str, outcome: Checked<(T, String)>) -> Option<T> {
        let (value, code, detail) = match outcome {
            Ok((value, detail)) => (Some(value), String::new(), detail),
            Err(f) => (None, f.code, f.detail),
        };
        if self.listed(rule) {
            self.results.push(RuleResult { rule: rule.to_owned(), passed: value.is_some(), code, detail });
        }
        value
    }

    /// Lists rules that could not be evaluated.
    pub fn not_evaluated<'a>(&mut self, rules: impl IntoIterator<Item = &'a str>) {
        let because =
            self.results.iter().find(|r| !r.passed).map_or("an earlier rule", |r| &r.rule).to_owned();
        for rule in rules {
            let detail = format!("not evaluated: {because} did not pass");
            self.check(rule, fault(NOT_EVALUATED, detail));
        }
    }

    /// The first refusal.
    pub fn code(&self) -> Option<&str> {
        self.results.iter().find(|r| !r.passed).map(|r| r.code.as_str())
    }

    pub fn all_passed(&self) -> bool {
        self.code().is_none()
    }

    pub fn verdict(self, policy: Digest) -> Verdict {
        Verdict { approved: self.all_passed() && !self.results.is_empty(), rules: self.results, policy }
    }

    /// A refusal that changes nothing.
    pub fn refused(self, policy: Digest) -> Outcome {
        Outcome { verdict: self.verdict(policy), writes: BTreeMap::new(), event: None }
    }
}

/// State writes of an outcome.
#[derive(Debug, Default)]
pub(crate) struct Writes(pub BTreeMap<String, Option<Vec<u8>>>);

impl Writes {
    pub fn put(&mut self, key: String, value: &impl Serialize) {
        // Records are structs and maps with text keys: they always encode.
        self.0.insert(key, Some(serde_json::to_vec(value).unwrap_or_default()));
    }

    pub fn delete(&mut self, key: String) {
        self.0.insert(key, None);
    }
}
