//! What is kept in memory of an operation that is over: everything a list shows, nothing that evidence needs.
//!
//! The events, the plan and its configuration documents stay in the journal.

use std::sync::Arc;

use super::{FinalState, Operation};
use crate::record::NsRecord;

/// An operation that is over, in a few hundred bytes; its record is shared with the service's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedOperation {
    /// Operation.
    pub id: String,
    /// The intent it carried out.
    pub intent_id: String,
    /// Tenant.
    pub tenant: String,
    /// NS instance.
    pub ns_instance_id: String,
    /// What was done.
    pub action: String,
    /// The plan's site; `None`: it did not come to a plan.
    pub site: Option<String>,
    /// How it ended.
    pub state: FinalState,
    /// Why, when it did not complete.
    pub problem: Option<String>,
    /// Was the service isolated?
    pub isolated: bool,
    /// What is left.
    pub leftovers: Vec<String>,
    /// Steps done, and steps in all.
    pub progress: (u32, u32),
    /// Position of its approval, then when it was accepted: [`Operation::order`].
    pub order: (u64, u64),
    /// When it was accepted, ms.
    pub accepted_ms: u64,
    /// When it was closed, ms.
    pub closed_ms: u64,
    /// Is its evidence on the ledger?
    pub anchored: bool,
    /// Were all objectives of its last measurement kept? `None`: nothing was measured.
    pub sla_met: Option<bool>,
    /// The service as it left it; `None`: there is no service, or it did not come to a plan.
    pub record: Option<Arc<NsRecord>>,
}

impl Operation {
    /// What to keep of it; `None` while it is not over.
    #[must_use]
    pub fn summary(&self) -> Option<ClosedOperation> {
        let outcome = self.outcome.as_ref()?;
        Some(ClosedOperation {
            id: self.id.clone(),
            intent_id: self.grant.intent_id.clone(),
            tenant: self.grant.tenant.clone(),
            ns_instance_id: self.grant.ns_instance_id.clone(),
            action: self.grant.action.clone(),
            site: self.plan.as_ref().map(|p| p.site.clone()),
            state: outcome.state,
            problem: outcome.problem.clone(),
            isolated: outcome.isolated,
            leftovers: outcome.leftovers.clone(),
            progress: self.progress(),
            order: self.order(),
            accepted_ms: self.accepted_ms,
            closed_ms: self.closed_ms.unwrap_or_default(),
            anchored: self.is_anchored(),
            sla_met: crate::fold::sla_met(self),
            record: self.record().map(Arc::new),
        })
    }
}
