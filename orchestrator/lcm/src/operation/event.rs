//! What is journaled of an operation, and what it asks for: the vocabulary of the state machine.

use std::{collections::BTreeMap, sync::Arc};

use attestation::{AttestationResult, Evidence};
use dataplane_control::traffic::TrafficReport;
use ledger_contract::{
    evidence::{Objective, ProvenEntry},
    records::Grant,
};
use serde::{Deserialize, Serialize};
use trust::{Digest, Envelope, UnixTime};
use vim::{Disposition, Observed};

use crate::plan::Plan;

/// What is appended to an operation's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// An approval, or what a standing grant entitles to, was verified and taken; the approval shares a transaction with
    /// the ledger checkpoint.
    Accepted {
        /// Operation.
        operation_id: String,
        /// What it runs under, as verified.
        #[serde(rename = "approval")]
        authority: Authority,
        /// What it entitles to.
        grant: Box<Grant>,
        /// Ledger time of the decision.
        decided_at: UnixTime,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// The ledger approved what was begun under a standing grant.
    Approved {
        /// The approval, as verified.
        approval: Box<ProvenEntry>,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// The plan is made. A second one supersedes the first, which was taken back.
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
        /// Calls of the VIM's and the MANO's APIs that the attempt took.
        #[serde(default, skip_serializing_if = "is_zero")]
        calls: u32,
    },
    /// It failed, or nobody knows.
    Failed {
        /// Step.
        step: u32,
        /// Why, and what to do about it.
        failure: Failure,
        /// Wall clock, ms.
        at_ms: u64,
        /// Calls of the VIM's and the MANO's APIs that the attempt took.
        #[serde(default, skip_serializing_if = "is_zero")]
        calls: u32,
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
        /// Calls of the VIM's and the MANO's APIs that the attempt took.
        #[serde(default, skip_serializing_if = "is_zero")]
        calls: u32,
    },
    /// Taking it back failed.
    UndoFailed {
        /// Step.
        step: u32,
        /// Why.
        failure: Failure,
        /// Wall clock, ms.
        at_ms: u64,
        /// Calls of the VIM's and the MANO's APIs that the attempt took.
        #[serde(default, skip_serializing_if = "is_zero")]
        calls: u32,
    },
    /// The grant ran out in mid-operation: no new step forward.
    Expired {
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// The ledger took the intent back in mid-operation: no new step forward.
    Revoked {
        /// Position of the ledger's entry.
        position: u64,
        /// Why.
        reason: String,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// The ledger approved an isolation or a termination of the same service: it gives way.
    Preempted {
        /// The intent that it gives way to.
        intent_id: String,
        /// What that one is: `isolate`, `terminate`.
        action: String,
        /// Position of its approval.
        position: u64,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// It cannot end by itself: SOL003 FAILED_TEMP. It keeps trying, slowly, or waits for a direction.
    Escalated {
        /// Why.
        problem: String,
        /// The objects that are left, exactly.
        leftovers: Vec<String>,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// A person decided (SOL003 §5.4.14 to 5.4.17: retry, rollback, fail).
    Directed {
        /// Who: `name@org`.
        by: String,
        /// What is to be done.
        what: Direction,
        /// Why.
        reason: String,
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

/// Serde's question about what need not be written.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What an operation runs under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Authority {
    /// An approval.
    Approval(Box<ProvenEntry>),
    /// A standing grant, while the ledger does not answer: the approval comes later ([`Event::Approved`]).
    Standing(Box<Standing>),
}

/// What entitles the orchestrator to act by itself until the ledger answers again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The standing grant's entry.
    pub grant: ProvenEntry,
    /// The orchestrator's signed intent, which it will submit.
    pub intent: Envelope,
}

/// What a person can have done about an operation that cannot end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Try again at once.
    Retry,
    /// Take everything back; also of an operation under way.
    Rollback,
    /// Leave everything as it is, with the leftovers on record.
    Fail,
}

impl Direction {
    /// As SOL003 names the task resource.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Rollback => "rollback",
            Self::Fail => "fail",
        }
    }
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
    /// A package, read back from the MANO.
    Package {
        /// As it is.
        package: mano::ObservedPackage,
    },
    /// A service, as the MANO says: not the truth, which is read back of its instances.
    Service {
        /// As it says.
        service: Box<mano::ObservedService>,
    },
    /// An affirming appraisal.
    Attested {
        /// What the attester sent.
        evidence: Box<Evidence>,
        /// When it was appraised.
        at: UnixTime,
        /// Every check.
        appraisal: AttestationResult,
    },
    /// A capture was taken and is kept.
    Captured {
        /// Digest of the pcapng file, under which it is kept.
        capture: Digest,
        /// Its size.
        size_bytes: u64,
        /// Frames in it.
        frames: u64,
        /// Frames that were seen and not kept.
        dropped: u64,
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
    /// There is no room at this site: take back what was made, and plan again without it.
    Replan,
}

impl From<Disposition> for Then {
    fn from(d: Disposition) -> Self {
        match d {
            Disposition::Retry => Self::Retry,
            // Placing it again is for who plans; here it is unwound.
            Disposition::Compensate => Self::Compensate,
            Disposition::Elsewhere => Self::Replan,
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
    /// How its evidence is written. Journaled: what was closed before an upgrade is anchored as the same bytes after it.
    #[serde(default)]
    pub evidence: EvidenceForm,
}

/// How the steps of a closed operation are written as evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceForm {
    /// A signed line for each step: operations that an earlier version closed.
    #[default]
    Lines,
    /// A signed line for each run of steps between two pieces of evidence.
    Runs,
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
    /// Plan again, without these sites; the plan's step ids go on after `last_id`.
    Replan {
        /// Sites that had no room after all, and why.
        without: BTreeMap<String, String>,
        /// Last step id that was used.
        last_id: u32,
    },
    /// Nothing before this moment (wall clock, ms), or before another event comes.
    Wait {
        /// When to ask again.
        until_ms: u64,
    },
    /// Nothing before another event comes: a direction, or the approval.
    Await,
    /// Journal `Expired`.
    Expire,
    /// Journal `Escalated`.
    Escalate {
        /// Why.
        problem: String,
        /// The objects that are left, exactly.
        leftovers: Vec<String>,
    },
    /// Journal `Closed` together with the outbox entry.
    Close(Outcome),
    /// Anchor the evidence.
    Anchor,
}
