//! Anchoring: folds a closed operation into its evidence, has the ledger anchor its digest, keeps the bundle.
//!
//! Everything here is deterministic (signatures too), so that doing it again after a crash submits the identical
//! envelope, which the ledger answers with its first receipt. Evidence goes to the ledger in the order in which
//! operations ended; one whose evidence the ledger refuses holds nobody up.

use std::collections::BTreeMap;

use lcm::{Event, Operation, fold};
use ledger::LedgerError;
use ledger_contract::{
    evidence::{ProvenEntry, Receipt},
    records::{ANCHOR_PAYLOAD, Anchor, ResourceUse},
};
use tokio::sync::watch;
use trust::{Digest, Envelope};
use vim::Spec;

use super::{Engine, EngineError, Tracked, now_ms};
use crate::journal::ClosedRow;

/// Pause before an anchor that could not be submitted is tried again, ms.
const RETRY_MS: u64 = 2_000;

/// What became of an attempt to anchor.
pub(super) enum Anchored {
    /// The evidence is on the ledger and the bundle is kept.
    Yes,
    /// The ledger does not answer: again after so many ms.
    Later(u64),
    /// The ledger says no, and would say it again: the operation stays open and names the reason.
    Refused,
}

/// What the service uses at each site when the operation is over; `None` when it had no plan and changed nothing.
fn used(operation: &Operation) -> Option<BTreeMap<String, ResourceUse>> {
    operation.plan.as_ref()?;
    let mut out: BTreeMap<String, ResourceUse> = BTreeMap::new();
    for object in operation.record().iter().flat_map(|r| &r.objects) {
        let Spec::Compute(c) = &object.spec else { continue };
        let one =
            ResourceUse { instances: 1, vcpus: c.vcpus, memory_mib: c.memory_mib, ..ResourceUse::default() };
        let sum = out.entry(object.site.clone()).or_default();
        *sum = sum.plus(&one);
    }
    Some(out)
}

impl Engine {
    /// Waits until the evidence of every operation that ended before this one is anchored; false: `stop` came first.
    pub(super) async fn turn_to_anchor(
        &self,
        operation: &Operation,
        stop: &mut watch::Receiver<bool>,
    ) -> bool {
        let mut changes = self.changes.subscribe();
        while self.is_behind(operation) {
            tokio::select! {
                // The sender is ours: it does not end before we do.
                _ = changes.changed() => {}
                _ = stop.wait_for(|s| *s) => return false,
            }
        }
        true
    }

    fn is_behind(&self, operation: &Operation) -> bool {
        let ended = |o: &Operation| (o.closed_ms, o.order());
        let waits =
            |t: &Tracked| t.operation.outcome.is_some() && !t.operation.is_anchored() && t.problem.is_none();
        self.read().live().any(|t| waits(t) && ended(&t.operation) < ended(operation))
    }

    /// Anchors a closed operation.
    pub(super) async fn anchor(&self, operation: &mut Operation) -> Result<Anchored, EngineError> {
        let mut bundle = fold::body(operation, &self.signer)?;
        let request = self.anchor_request(operation, Digest::of(&bundle))?;
        let committed = match self.ledger.submit(request).await {
            Ok(committed) => committed,
            Err(error) if error.retryable() => {
                tracing::warn!(operation = operation.id, %error, "evidence could not be anchored yet");
                return Ok(Anchored::Later(RETRY_MS));
            }
            Err(error @ (LedgerError::Unauthenticated { .. } | LedgerError::Refused { .. })) => {
                // Our own certificate, here or on the channel, ran out or was revoked: a person has to renew it; a restart
                // tries again.
                tracing::error!(operation = operation.id, %error, "the ledger does not know our signature");
                self.set_problem(&operation.id, format!("evidence refused: {error}"));
                return Ok(Anchored::Refused);
            }
            Err(error) => return Err(error.into()),
        };
        if !committed.entry.verdict.approved {
            let code = committed.entry.verdict.code().to_owned();
            tracing::error!(operation = operation.id, code, "the ledger refuses the evidence: see its entry");
            let at = committed.proven.proof.index;
            self.set_problem(&operation.id, format!("evidence refused by the ledger ({code}), entry {at}"));
            return Ok(Anchored::Refused);
        }
        let receipt = Receipt {
            anchor: committed.proven.clone(),
            constitution: self.constitution(|c| c.proofs(committed.proven.place())),
        };
        bundle.extend(serde_json::to_vec(&receipt).map_err(|e| EngineError::Encode(e.to_string()))?);
        bundle.push(b'\n');
        self.keep(operation, committed.proven, bundle).await?;
        Ok(Anchored::Yes)
    }

    fn anchor_request(&self, operation: &Operation, bundle: Digest) -> Result<Envelope, EngineError> {
        let outcome = operation.outcome.as_ref();
        let anchor = Anchor {
            operation_id: operation.id.clone(),
            intent_id: operation.grant.intent_id.clone(),
            ns_instance_id: operation.grant.ns_instance_id.clone(),
            outcome: outcome.map_or("FAILED", |o| o.state.name()).to_owned(),
            bundle,
            isolated: outcome.is_some_and(|o| o.isolated),
            sla_met: fold::sla_met(operation),
            sites: used(operation),
        };
        let payload = serde_json::to_vec(&anchor).map_err(|e| EngineError::Encode(e.to_string()))?;
        Envelope::sign(ANCHOR_PAYLOAD, payload, &[&self.signer])
            .map_err(|e| EngineError::Encode(e.to_string()))
    }

    async fn keep(
        &self,
        operation: &mut Operation,
        receipt: ProvenEntry,
        bundle: Vec<u8>,
    ) -> Result<(), EngineError> {
        let event = Event::Anchored { receipt: Box::new(receipt), at_ms: now_ms() };
        operation.apply(&event)?;
        let (journal, id, row) = (self.journal.clone(), operation.id.clone(), ClosedRow::of(operation));
        tokio::task::spawn_blocking(move || journal.anchored(&id, &event, &bundle, &row)).await??;
        self.write().forget(&operation.id);
        self.changed();
        Ok(())
    }
}
