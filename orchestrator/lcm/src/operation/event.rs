//! What is journaled of an operation, and what it asks for: the vocabulary of the state machine.

use std::sync::Arc;

use attestation::{AttestationResult, Evidence};
use dataplane_control::traffic::TrafficReport;
use ledger_contract::{
    evidence::{Objective, ProvenEntry},
    records::Grant,
};
use serde::{Deserialize, Serialize};
use trust::UnixTime;
use vim::{Disposition, Observed};

use crate::plan::Plan;

/// What is appended to an operation's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// An approval was verified and taken; shares a transaction with the ledger checkpoint.
    Accepted {
        /// Operation.
        operation_id: String,
        /// The approval, as verified.
        approval: Box<ProvenEntry>,
        /// What it entitles to.
        grant: Box<Grant>,
        /// Ledger time of the decision.
        decided_at: UnixTime,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// The plan is made.
    Planned {
        /// The plan.
        plan: Arc<Plan>,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// There is no plan; nothing was done.
    Refused {
        /// Reason code.
        code: String,
        /// Why.
        detail: String,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// A step is about to take effect.
    Started {
        /// Step.
        step: u32,
        /// From 1.
        attempt: u32,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// It took effect and was read back.
    Done {
        /// Step.
        step: u32,
        /// What was found.
        result: Box<StepResult>,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// It failed, or nobody knows.
    Failed {
        /// Step.
        step: u32,
        /// Why, and what to do about it.
        failure: Failure,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// A step is about to be taken back.
    UndoStarted {
        /// Step.
        step: u32,
        /// From 1.
        attempt: u32,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// It was taken back.
    Undone {
        /// Step.
        step: u32,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// Taking it back failed.
    UndoFailed {
        /// Step.
        step: u32,
        /// Why.
        failure: Failure,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// The orchestrator was restarted and took the operation up again.
    Recovered {
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// It is over; shares a transaction with the outbox.
    Closed {
        /// How.
        outcome: Outcome,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// Its evidence is on the ledger.
    Anchored {
        /// The anchor's entry and proof.
        receipt: Box<ProvenEntry>,
        /// Wall clock, ms.
        at_ms: u64,
    },
}

/// What a step found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case", deny_unknown_fields)]
pub enum StepResult {
    /// An object, read back from the VIM.
    Observed {
        /// As it is.
        observed: Observed,
    },
    /// Gone, or cut: nothing more to say.
    Acknowledged {},
    /// An affirming appraisal.
    Attested {
        /// What the attester sent.
        evidence: Box<Evidence>,
        /// When it was appraised.
        at: UnixTime,
        /// Every check.
        appraisal: AttestationResult,
    },
    /// A measurement.
    Measured {
        /// What happened to the traffic.
        report: Box<TrafficReport>,
        /// Against what was promised.
        objectives: Vec<Objective>,
    },
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Reason code.
    pub code: String,
    /// What, where, why.
    pub detail: String,
    /// What is to be done.
    pub then: Then,
    /// Evidence that was refused, for the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Box<StepResult>>,
}

/// What is to be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Nothing happened: again.
    Retry,
    /// It may have happened: again, it is idempotent.
    Unknown,
    /// Unwind.
    Compensate,
    /// What runs is not what was approved: cut its traffic, keep it for forensics.
    Isolate,
    /// Leave everything as it is and call a person.
    Escalate,
}

impl From<Disposition> for Then {
    fn from(d: Disposition) -> Self {
        match d {
            Disposition::Retry => Self::Retry,
            // Placing it again is for who plans; here it is unwound.
            Disposition::Compensate | Disposition::Elsewhere => Self::Compensate,
            Disposition::Unknown => Self::Unknown,
            Disposition::Escalate => Self::Escalate,
        }
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// SOL003: `COMPLETED`, `ROLLED_BACK`, `FAILED`.
    pub state: FinalState,
    /// Why, when it is not `COMPLETED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Was the service isolated?
    #[serde(default)]
    pub isolated: bool,
    /// Objects that could not be taken back.
    #[serde(default)]
    pub leftovers: Vec<String>,
}

/// SOL003's final states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FinalState {
    /// Every step is done.
    Completed,
    /// Everything was taken back.
    RolledBack,
    /// Neither.
    Failed,
}

impl FinalState {
    /// As SOL003 writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "COMPLETED",
            Self::RolledBack => "ROLLED_BACK",
            Self::Failed => "FAILED",
        }
    }
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Observe the sites and plan.
    Plan,
    /// Journal `Started`, take the effect, journal `Done` or `Failed`.
    Run {
        /// Step.
        step: u32,
        /// From 1.
        attempt: u32,
    },
    /// Journal `UndoStarted`, take it back, journal `Undone` or `UndoFailed`.
    Undo {
        /// Step.
        step: u32,
        /// From 1.
        attempt: u32,
    },
    /// Nothing before this moment (wall clock, ms).
    Wait {
        /// When to ask again.
        until_ms: u64,
    },
    /// Journal `Closed` together with the outbox entry.
    Close(Outcome),
    /// Anchor the evidence.
    Anchor,
}
