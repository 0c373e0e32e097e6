//! Standing grants and revocations: what the ledger says besides approvals, and how an operation begins without it.
//!
//! While the ledger is down, a standing grant that was verified before entitles to begin: the orchestrator's own signed
//! intent takes the approval's place in the journal. When the ledger answers again, the intent is submitted as it was
//! signed; its approval is then verified like any other and goes into the evidence, in front of the anchor. An intent
//! that the ledger refuses afterwards leaves the operation closed and not anchored, with the refusal in its place: a
//! matter for people, and visible.

use lcm::{
    Event, Operation,
    operation::{Authority, FinalState, Standing},
};
use ledger_contract::{
    Intent,
    approval::ActuatorPolicy,
    evidence::ProvenEntry,
    notice::{self, Notice},
    records::{Entry, Event as LedgerEvent, Grant},
};
use trust::{Digest, Envelope};

use super::{Engine, EngineError, now, now_ms};
use crate::journal::{RefusedApproval, StandingRow};

/// Pause before an intent that could not be submitted is tried again, ms.
const RETRY_MS: u64 = 2_000;

/// Is this entry a notice?
pub(super) fn is_notice(entry: &Entry) -> bool {
    matches!(
        entry.event,
        Some(
            LedgerEvent::StandingGranted { .. }
                | LedgerEvent::StandingRevoked { .. }
                | LedgerEvent::IntentRevoked { .. }
        )
    )
}

impl Engine {
    /// Takes note of a standing grant or a revocation, verified; one that does not verify is left on record.
    pub(super) fn take_note(&self, proven: &ProvenEntry) -> Result<(), EngineError> {
        let verified = self
            .constitution(|rules| notice::verify(proven, &ActuatorPolicy { constitution: rules, at: now() }));
        let position = proven.proof.index;
        match verified {
            Ok(None) => {}
            Ok(Some(verified)) => self.note(verified.notice, proven, position)?,
            Err(refusal) => {
                tracing::warn!(position, %refusal, "notice refused");
                let refused = RefusedApproval {
                    position,
                    code: refusal.code.as_str().to_owned(),
                    detail: refusal.detail,
                    at_ms: now_ms(),
                };
                self.journal.refuse(&refused, true)?;
            }
        }
        Ok(())
    }

    fn note(&self, notice: Notice, proven: &ProvenEntry, position: u64) -> Result<(), EngineError> {
        match notice {
            Notice::Standing(grant) => {
                tracing::info!(grant = grant.id, tenant = grant.tenant, "standing grant taken");
                self.journal
                    .put_standing(&StandingRow { grant: *grant, approval: proven.clone() }, position)?;
            }
            Notice::StandingRevoked { id } => {
                tracing::info!(grant = id, "standing grant taken back");
                self.journal.revoke_standing(&id)?;
            }
            Notice::IntentRevoked { id, reason } => {
                tracing::warn!(intent = id, reason, "intent taken back");
                self.journal.revoke_intent(&id, position, &reason)?;
                self.revoke(&id, position, &reason)?;
            }
        }
        self.changed();
        Ok(())
    }

    /// Tells an operation under way that its intent was taken back. One that has not begun looks by itself.
    pub(super) fn revoke(&self, intent: &str, position: u64, reason: &str) -> Result<(), EngineError> {
        let Some(id) = self.journal.operation_of(intent)? else { return Ok(()) };
        let Some(operation) = self.read().get(&id).map(|t| t.operation.clone()) else { return Ok(()) };
        let event = Event::Revoked { position, reason: reason.to_owned(), at_ms: now_ms() };
        if let Err(error) = self.inbox.put(&operation, event) {
            // It is over: what was done under it is for another intent to undo.
            tracing::info!(operation = id, %error, "too late to take it back");
        }
        Ok(())
    }

    /// Begins an operation of ours without the ledger; false: there is nothing to begin it under.
    pub(super) fn begin_standing(
        &self,
        intent: &Intent,
        request: Envelope,
        grant: &str,
        ns: &str,
    ) -> Result<bool, EngineError> {
        let Some(standing) = self.journal.standing()?.into_iter().find(|s| s.grant.id == grant) else {
            return Ok(false);
        };
        let Some(last) = self.grant_of_what_runs(ns)? else { return Ok(false) };
        let digest = Digest::of(&request.payload);
        let grant = Grant {
            intent_id: intent.id.clone(),
            intent: digest,
            action: intent.action.name().to_owned(),
            not_after: intent.not_after,
            lease_until: None,
            waived: Vec::new(),
            standing: Some(grant.to_owned()),
            ..last
        };
        let operation_id =
            format!("op-{}", Digest::of_parts([grant.ledger.as_bytes(), b"standing", &digest.0]).short());
        tracing::warn!(operation = operation_id, intent = intent.id, "begun without the ledger");
        let event = Event::Accepted {
            operation_id,
            authority: Authority::Standing(Box::new(Standing { grant: standing.approval, intent: request })),
            grant: Box::new(grant),
            decided_at: now(),
            at_ms: now_ms(),
        };
        self.journal.accept_standing(&event, now_ms())?;
        self.enqueue(&event)?;
        self.changed();
        self.wake.notify_one();
        Ok(true)
    }

    /// The grant under which the service became what it is: its packages, images and keys, and whether it is attested.
    /// An operation that did not complete made nothing, and what isolates or terminates asks for no attestation.
    fn grant_of_what_runs(&self, ns: &str) -> Result<Option<Grant>, EngineError> {
        for id in self.journal.operations_of(ns)?.iter().rev() {
            let operation = Operation::fold(&self.journal.events(id)?)?;
            let completed = operation.outcome.is_some_and(|o| o.state == FinalState::Completed);
            if completed && !["isolate", "terminate"].contains(&operation.grant.action.as_str()) {
                return Ok(Some(operation.grant));
            }
        }
        Ok(None)
    }

    /// Has what was begun without the ledger approved by it: its evidence is anchored after that.
    pub(super) async fn approve_late(&self, operation: &mut Operation) -> Result<Late, EngineError> {
        let Authority::Standing(standing) = &operation.authority else { return Ok(Late::Approved) };
        let committed = match self.ledger.submit(standing.intent.clone()).await {
            Ok(committed) => committed,
            Err(error) if error.retryable() => return Ok(Late::Again(RETRY_MS)),
            Err(error) => return Ok(self.not_approved(operation, &error)),
        };
        let position = committed.proven.proof.index;
        match self.verify(&committed.proven, committed.entry.time) {
            Ok(approved) if approved.grant.intent == operation.grant.intent => {
                let event = Event::Approved { approval: Box::new(committed.proven), at_ms: now_ms() };
                self.journal.approved_late(&operation.id, position)?;
                self.record(operation, vec![event]).await?;
                Ok(Late::Approved)
            }
            Ok(_) => Ok(self.not_approved(operation, &"the ledger approved another intent of that id")),
            Err(refusal) => Ok(self.not_approved(operation, &refusal)),
        }
    }

    fn not_approved(&self, operation: &Operation, why: &dyn std::fmt::Display) -> Late {
        tracing::error!(operation = operation.id, %why, "what was begun is not approved afterwards");
        self.set_problem(&operation.id, format!("not approved afterwards: {why}"));
        Late::Refused
    }
}

/// What became of an intent that was carried out before the ledger could decide it.
pub(super) enum Late {
    /// It is approved.
    Approved,
    /// The ledger does not answer: again after so many ms.
    Again(u64),
    /// The ledger refuses it.
    Refused,
}
