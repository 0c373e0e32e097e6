//! Intake: approvals, from the ledger's stream or carried here by hand, verified and journaled.
//!
//! Both ways lead through [`Engine::take`]: the approval is verified from the trust roots alone, and the journal takes
//! each one once. A refused approval is journaled too, and never looked at again.

use std::{sync::atomic::Ordering, time::Duration};

use lcm::{Event, Operation, operation::Authority};
use ledger::LedgerError;
use ledger_contract::{
    approval::{self, ActuatorPolicy, Approved, Refusal, RefusalCode},
    evidence::ProvenEntry,
    records::{Entry, Event as LedgerEvent},
};
use tokio::sync::watch;
use trust::{Digest, UnixTime};

use super::{
    Engine, EngineError, intent_of, now, now_ms,
    schedule::{Class, Waiting},
};
use crate::{
    journal::{Accepted, RefusedApproval},
    problem::Problem,
};

/// Events taken from the ledger in one go.
const BATCH: usize = 64;
/// Pause after a ledger failure.
const LEDGER_PAUSE: Duration = Duration::from_secs(1);

/// How often to look whether there is room again.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// The contract's rule on dependencies.
const DEPENDENCIES: &str = "compliance/dependencies";

/// What became of an approval.
pub(super) enum Taken {
    /// A new operation.
    New(String),
    /// It had begun this operation before.
    Before(String),
    /// Our clock is behind the ledger's: it will be one.
    Later(Refusal),
    /// It is not one.
    Refused(Refusal),
}

/// An operation that was accepted and has not begun; `None` when it has.
fn waiting(operation: &Operation) -> Option<Waiting> {
    if operation.state() != "STARTING" || operation.problem().is_some() {
        return None;
    }
    let intent = intent_of(operation).ok();
    let waived = operation.grant.waived.iter().any(|rule| rule == DEPENDENCIES);
    // As the ledger has it: only what a person asks for.
    let in_person = intent.as_ref().is_some_and(|i| i.standing.is_none());
    let overtakes = match operation.grant.action.as_str() {
        "isolate" if in_person => Some("isolate"),
        "terminate" if in_person => Some("terminate"),
        _ => None,
    };
    Some(Waiting {
        id: operation.id.clone(),
        intent_id: operation.grant.intent_id.clone(),
        tenant: operation.grant.tenant.clone(),
        ns: operation.grant.ns_instance_id.clone(),
        class: Class::of(&operation.grant.action, intent.as_ref().is_some_and(|i| i.emergency.is_some())),
        position: operation.order().0,
        // What an emergency waived is not waited for: it may never come.
        depends_on: intent.filter(|_| !waived).map(|i| i.depends_on).unwrap_or_default(),
        overtakes,
        gives_way_to: None,
    })
}

impl Engine {
    /// Follows the ledger's stream until `stop`: as far as there is room for what it brings.
    pub(super) async fn follow(&self, mut stop: watch::Receiver<bool>) -> Result<(), EngineError> {
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|s| *s) => return Ok(()),
                taken = self.intake() => taken?,
            }
            self.wake.notify_one();
        }
    }

    /// Waits for ledger events and takes them.
    async fn intake(&self) -> Result<(), EngineError> {
        // Back-pressure: what there is no room for stays in the ledger's stream.
        while self.read().room() < BATCH {
            tokio::time::sleep(ROOM_PAUSE).await;
        }
        let checkpoint = self.journal.checkpoint()?;
        let events = match self.next_events(checkpoint).await {
            Ok(events) => events,
            Err(error) => return self.ledger_is_down(&error).await,
        };
        self.same_ledger().await?;
        self.ledger_is_up()?;
        if let Err(error) = self.learn_rules().await {
            return self.ledger_is_down(&error).await;
        }
        for event in events {
            let Ok(entry) = serde_json::from_str::<Entry>(&event.entry) else {
                return Err(EngineError::Encode(format!(
                    "ledger entry {} is not an entry",
                    event.proof.index
                )));
            };
            let position = event.proof.index;
            if entry.changes_rules() {
                self.follow_rules(&event);
            }
            if super::standing::is_notice(&entry) {
                self.take_note(&event)?;
            }
            if !matches!(entry.event, Some(LedgerEvent::IntentApproved { .. })) {
                self.journal.skip(position)?;
                continue;
            }
            match self.take(event, true)? {
                Taken::New(_) => {}
                Taken::Before(id) => tracing::debug!(operation = id, "approval seen again"),
                Taken::Refused(refusal) => {
                    tracing::warn!(position, %refusal, "approval refused");
                }
                Taken::Later(refusal) => {
                    tracing::warn!(position, %refusal, "waiting: is our clock right?");
                    tokio::time::sleep(LEDGER_PAUSE).await;
                    break;
                }
            }
        }
        if let Err(problem) = self.index_intents().await {
            tracing::warn!(%problem, "the index of intents is behind; who asks for them brings it up to date");
        }
        Ok(())
    }

    async fn ledger_is_down(&self, error: &LedgerError) -> Result<(), EngineError> {
        self.ledger_up.store(false, Ordering::Relaxed);
        if self.journal.gap_begins(now_ms(), &error.to_string())? {
            tracing::warn!(%error, "the ledger does not answer; nothing new begins until it does, repairs go on");
            self.changed();
        }
        tokio::time::sleep(LEDGER_PAUSE).await;
        Ok(())
    }

    fn ledger_is_up(&self) -> Result<(), EngineError> {
        if self.journal.gap_ends(now_ms())? {
            tracing::info!("the ledger answers again");
            self.changed();
        }
        self.ledger_up.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn next_events(&self, after: Option<u64>) -> Result<Vec<ProvenEntry>, LedgerError> {
        self.ledger.wait(after).await?;
        self.ledger.events(after, BATCH).await
    }

    /// Verifies an approval and journals what becomes of it.
    pub(super) fn take(&self, approval: ProvenEntry, from_stream: bool) -> Result<Taken, EngineError> {
        let refusal = match self.verify(&approval, now()) {
            Ok(approved) => return self.accept(approval, &approved, from_stream),
            Err(refusal) => refusal,
        };
        if from_stream && refusal.code == RefusalCode::NotYet {
            return Ok(Taken::Later(refusal));
        }
        if from_stream && let Some(approved) = self.authentic(&approval, &refusal) {
            // Too late, under a policy that is not accepted here, or of somebody who was revoked since: the ledger waits
            // for its outcome all the same. It is taken, refused before it is planned, and anchored as rolled back:
            // nothing stays reserved.
            tracing::warn!(position = approval.proof.index, %refusal, "approval is not carried out");
            return self.accept(approval, &approved, from_stream);
        }
        self.leave(approval.proof.index, refusal, from_stream)
    }

    fn leave(&self, position: u64, refusal: Refusal, from_stream: bool) -> Result<Taken, EngineError> {
        let refused = RefusedApproval {
            position,
            code: refusal.code.as_str().to_owned(),
            detail: refusal.detail.clone(),
            at_ms: now_ms(),
        };
        self.journal.refuse(&refused, from_stream)?;
        Ok(Taken::Refused(refusal))
    }

    /// Is the instance that a grant names another service's? The ledger alone says which instance a service is; an
    /// approval of one service must not reach another, whoever wrote it.
    fn of_another_service(&self, approved: &Approved) -> Result<Option<Refusal>, EngineError> {
        let ns = &approved.grant.ns_instance_id;
        let Some(row) = self.journal.service_row(ns)? else { return Ok(None) };
        let asked = (&approved.intent.tenant, &approved.intent.service);
        let detail = || {
            let (tenant, service) = asked;
            format!(
                "NS instance {ns} is {}/{}, the intent is about {tenant}/{service}",
                row.tenant, row.service
            )
        };
        let other = (&row.tenant, &row.service) != asked;
        Ok(other.then(|| Refusal { code: RefusalCode::GrantMismatch, detail: detail() }))
    }

    pub(super) fn verify(&self, approval: &ProvenEntry, at: UnixTime) -> Result<Approved, Refusal> {
        self.constitution(|rules| approval::verify(approval, &ActuatorPolicy { constitution: rules, at }))
    }

    /// An approval that is genuine in everything but what the refusal says.
    fn authentic(&self, approval: &ProvenEntry, refusal: &Refusal) -> Option<Approved> {
        use RefusalCode::{Expired, PolicyNotAccepted, SignerRevoked};
        match refusal.code {
            Expired | PolicyNotAccepted | SignerRevoked => {
                self.constitution(|rules| approval::authentic(approval, rules)).ok()
            }
            _ => None,
        }
    }

    /// Why an accepted approval must not be acted upon any more: looked at again right before the plan.
    pub(super) fn inadmissible(&self, operation: &Operation) -> Option<(&'static str, String)> {
        if let Some(refused) = self.no_more(operation) {
            return Some(refused);
        }
        match self.journal.revoked_intent(&operation.grant.intent_id) {
            Ok(None) => None,
            Ok(Some((position, reason))) => {
                Some(("REVOKED", format!("taken back at position {position}: {reason}")))
            }
            Err(e) => Some(("JOURNAL", format!("whether it was taken back cannot be read: {e}"))),
        }
    }

    /// Is what it was accepted for not so any more? What a standing grant began is approved later, and as long as the
    /// changes of the rules cannot be read, only the pinned ones are known: then less is looked at.
    fn no_more(&self, operation: &Operation) -> Option<(&'static str, String)> {
        let (grant, now) = (&operation.grant, now());
        let learned = self.constitution(|rules| rules.followed_to().is_some());
        if let Some(approval) = operation.approval().filter(|_| learned) {
            let refusal = self.verify(approval, now).err().filter(|r| r.code != RefusalCode::NotYet)?;
            return Some((refusal.code.as_str(), refusal.detail));
        }
        if now > grant.not_after {
            return Some((
                "EXPIRED",
                format!("the approval was good until {}, it is {now}", grant.not_after),
            ));
        }
        if !self.constitution(|rules| rules.ever_accepted(&grant.policy)) {
            let detail = format!("decided under policy {}, which is not accepted here", grant.policy);
            return Some(("POLICY_NOT_ACCEPTED", detail));
        }
        None
    }

    fn accept(
        &self,
        approval: ProvenEntry,
        approved: &Approved,
        from_stream: bool,
    ) -> Result<Taken, EngineError> {
        if let Some(refusal) = self.of_another_service(approved)? {
            return self.leave(approved.position, refusal, from_stream);
        }
        let id = operation_id(&approved.entry.ledger, approved.position);
        let event = Event::Accepted {
            operation_id: id.clone(),
            authority: Authority::Approval(Box::new(approval)),
            grant: Box::new(approved.grant.clone()),
            decided_at: approved.entry.time,
            at_ms: now_ms(),
        };
        if let Accepted::Before(earlier) = self.journal.accept(&event, approved.position, from_stream)? {
            return Ok(Taken::Before(earlier));
        }
        self.enqueue(&event)?;
        self.changed();
        tracing::info!(operation = id, intent = approved.intent.id, "approval accepted");
        Ok(Taken::New(id))
    }

    pub(super) fn enqueue(&self, accepted: &Event) -> Result<(), EngineError> {
        let Some(operation) = Operation::accept(accepted) else { return Ok(()) };
        let queued = self.queued(&operation);
        let mut book = self.write();
        // Read while nobody can close an operation of it in memory: a row that is out of date by then would stay.
        if let Some(row) = self.journal.service_row(&operation.grant.ns_instance_id)? {
            book.announce(row);
        }
        if let Some(waiting) = queued {
            book.enqueue(waiting, now_ms(), &self.journal);
        }
        drop(book);
        self.make_way(&operation.grant.ns_instance_id);
        Ok(())
    }

    /// As it waits for its turn: what will not be carried out ends nothing else.
    pub(super) fn queued(&self, operation: &Operation) -> Option<Waiting> {
        let mut waiting = waiting(operation)?;
        if waiting.overtakes.is_some() && self.inadmissible(operation).is_some() {
            waiting.overtakes = None;
        }
        Some(waiting)
    }

    /// Tells the operation of a service that is under way to give way to an isolation or a termination that waits.
    pub(super) fn make_way(&self, ns: &str) {
        let told = {
            let book = self.read();
            book.overtaken(ns).map(|(operation, by)| {
                let event = Event::Preempted {
                    intent_id: by.intent_id.clone(),
                    action: by.overtakes.unwrap_or_default().to_owned(),
                    position: by.position,
                    at_ms: now_ms(),
                };
                (operation.clone(), event)
            })
        };
        let Some((operation, event)) = told else { return };
        tracing::info!(operation = operation.id, ?event, "told to give way");
        if let Err(error) = self.inbox.put(&operation, event) {
            tracing::warn!(operation = operation.id, %error, "it is not told to give way");
        }
    }

    /// An approval that was carried here by hand.
    pub(super) fn delivered(&self, approval: ProvenEntry) -> Result<String, Problem> {
        let title = "The approval is refused";
        match self.take(approval, false) {
            Ok(Taken::New(id)) => {
                self.wake.notify_one();
                Ok(id)
            }
            Ok(Taken::Before(id)) => Err(Problem::new(
                409,
                "APPROVAL_REPLAYED",
                title,
                format!("it was carried out before, as operation {id}; an approval counts once"),
            )
            .hint("submit a new intent")),
            Ok(Taken::Refused(r) | Taken::Later(r)) => {
                Err(Problem::new(403, r.code.as_str(), title, r.detail)
                    .hint("only what the ledger approved is carried out; see `mandate ledger log`"))
            }
            Err(e) => Err(Problem::internal("JOURNAL", e)),
        }
    }
}

/// The operation of an approval: the same on every orchestrator and after every restart.
fn operation_id(ledger: &str, position: u64) -> String {
    format!("op-{}", Digest::of_parts([ledger.as_bytes(), &position.to_be_bytes()]).short())
}
