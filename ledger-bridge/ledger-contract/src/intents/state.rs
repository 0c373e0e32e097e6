//! Is the intent fresh, and does the service's state allow it?

use std::collections::BTreeSet;

use super::{Case, not_applicable};
use crate::{
    intent::{Intent, IntentKind, ScaleDirection, parameters_digest, refusable_parameters},
    provenance::Packages,
    state::{
        BadRecord, IntentRecord, MAX_BEHIND, OperationRecord, RefusedRecord, Revision, ServiceRecord,
        ServiceState, intent_key, operation_key, refused_key,
    },
    verdict::{Checked, fault},
};

impl Case<'_> {
    pub(super) fn expiry(&self) -> Checked<String> {
        let (now, end) = (self.ctx.tx.time, self.intent.not_after);
        match now <= end {
            true => Ok(format!("decided at {now}, valid to {end}")),
            false => fault("EXPIRED", format!("decided at {now}, but it was valid to {end} only")),
        }
    }

    pub(super) fn replay(&self, seen: Option<&IntentRecord>) -> Checked<String> {
        match seen {
            None => Ok(format!("id `{}` is new", self.intent.id)),
            Some(s) if s.intent == self.digest => {
                fault("REPLAYED", format!("this intent was decided at position {}", s.position))
            }
            Some(s) => fault(
                "INTENT_ID_REUSED",
                format!("id `{}` is another intent's, decided at position {}", self.intent.id, s.position),
            ),
        }
    }

    /// They exist already, so no circle can come of it. That they have completed is for who carries them out to wait
    /// for; one that ended otherwise never will.
    pub(super) fn dependencies(&self) -> Result<Checked<String>, BadRecord> {
        for id in &self.intent.depends_on {
            let record = self.ctx.state.get::<IntentRecord>(&intent_key(id))?;
            let Some(record) = record.filter(|r| r.tenant == self.intent.tenant) else {
                let tenant = &self.intent.tenant;
                return Ok(fault("NO_SUCH_DEPENDENCY", format!("tenant `{tenant}` has no intent `{id}`")));
            };
            if let Some(refused) = self.hopeless(id, &record)? {
                return Ok(refused);
            }
        }
        Ok(Ok(match self.intent.depends_on.as_slice() {
            [] => "it depends on nothing".to_owned(),
            some => format!("{} approved: {}", some.len(), some.join(", ")),
        }))
    }

    fn hopeless(&self, id: &str, record: &IntentRecord) -> Result<Option<Checked<String>>, BadRecord> {
        if !record.approved {
            let detail = format!("intent `{id}` was refused: {}", record.code);
            return Ok(Some(fault("DEPENDENCY_NOT_APPROVED", detail)));
        }
        if let Some(position) = record.revoked {
            let detail = format!("intent `{id}` was revoked at position {position}");
            return Ok(Some(fault("DEPENDENCY_FAILED", detail)));
        }
        let Some(operation) = &record.operation_id else { return Ok(None) };
        let ended = self.ctx.state.get::<OperationRecord>(&operation_key(operation))?;
        let failed = ended.filter(|o| o.outcome != crate::anchoring::COMPLETED);
        Ok(failed.map(|o| {
            fault("DEPENDENCY_FAILED", format!("operation {operation} of `{id}` ended {}", o.outcome))
        }))
    }

    pub(super) fn existence(&self) -> Checked<String> {
        let name = &self.intent.service;
        match (&self.intent.action, &self.service) {
            (IntentKind::Deploy(_), None) => Ok(format!("there is no service `{name}` yet")),
            (IntentKind::Deploy(_), Some(s)) => {
                fault("SERVICE_EXISTS", format!("service `{name}` exists as {}", s.ns_instance_id))
            }
            (_, None) => {
                fault("NO_SUCH_SERVICE", format!("tenant `{}` has no service `{name}`", self.intent.tenant))
            }
            (_, Some(s)) if s.gone => {
                fault("NO_SUCH_SERVICE", format!("service `{name}` is gone; only evidence is waited for"))
            }
            (_, Some(s)) => Ok(format!("service `{name}` is {}", s.ns_instance_id)),
        }
    }

    pub(super) fn in_flight(&self) -> Checked<String> {
        match self.service.as_ref() {
            None => Ok("no operation is under way".to_owned()),
            Some(ServiceRecord { in_flight: Some(o), behind, .. })
                if self.overtakes() && behind.len() < MAX_BEHIND =>
            {
                let last = behind.last().map_or(&o.intent_id, |b| &b.intent_id);
                Ok(format!("it does not wait for the evidence of intent `{last}`: it ends what is under way"))
            }
            Some(ServiceRecord { in_flight: Some(o), .. }) => fault(
                "OPERATION_IN_FLIGHT",
                format!("the evidence of intent `{}` is not anchored yet", o.intent_id),
            ),
            Some(s) if s.state != ServiceState::Active && !self.mends() => {
                let name = &self.intent.service;
                fault(
                    "SERVICE_NOT_ACTIVE",
                    format!(
                        "service `{name}` is {:?}: it can be healed, isolated or terminated, not more",
                        s.state
                    ),
                )
            }
            Some(_) => Ok("no operation is under way".to_owned()),
        }
    }

    /// Is it approved while another operation is under way? To cut off and to end, whoever asks for it in person; what
    /// the orchestrator does by itself can wait.
    fn overtakes(&self) -> bool {
        let ends = matches!(self.intent.action, IntentKind::Terminate {} | IntentKind::Isolate(_));
        self.ctx.tx.v >= 3 && ends && self.intent.standing.is_none()
    }

    /// Can it be done to a service that is isolated or broken?
    fn mends(&self) -> bool {
        matches!(self.intent.action, IntentKind::Terminate {} | IntentKind::Heal(_) | IntentKind::Isolate(_))
    }

    /// An update changes something; a rollback goes back to a revision that was.
    pub(super) fn revision(&self, packages: Option<&Packages>) -> Checked<String> {
        let (service, present) =
            (self.service.as_ref(), self.service.as_ref().and_then(|s| s.revision.as_ref()));
        match (&self.intent.action, service) {
            (IntentKind::Update(update), Some(service)) => {
                self.same_descriptor(packages, service)?;
                let parameters = parameters_digest(&update.vnf_params);
                let same = present
                    .is_some_and(|p| p.nsd_package == update.nsd_package && p.parameters == parameters);
                if same && update.sla.is_none() && update.lease_s.is_none() {
                    return fault(
                        "NOTHING_TO_UPDATE",
                        "it is what runs already, with the same SLA and lease",
                    );
                }
                Ok(format!("package {}, configuration {}", update.nsd_package.short(), parameters.short()))
            }
            (IntentKind::Rollback(rollback), Some(service)) => {
                let asked = (rollback.nsd_package, parameters_digest(&rollback.vnf_params));
                former(service, &rollback.to, asked)
            }
            (other, _) => not_applicable(other.name()),
        }
    }

    /// Another version, never another service under the same name.
    fn same_descriptor(
        &self,
        packages: Option<&Packages>,
        service: &ServiceRecord,
    ) -> Result<(), crate::verdict::Fault> {
        let Some(packages) = packages else { return Ok(()) };
        let id = &packages.nsd.record.descriptor_id;
        // A grant lists the packages by descriptor id: the NSD's own is among them.
        match service.packages.get(id) == Some(&service.nsd_package) {
            true => Ok(()),
            false => fault(
                "OTHER_NSD",
                format!(
                    "package {} is of NSD `{id}`, which is not the service's",
                    packages.nsd.record.digest
                ),
            ),
        }
    }

    /// Whatever a rollback left behind is refused.
    pub(super) fn refused_digests(&self, packages: Option<&Packages>) -> Result<Checked<String>, BadRecord> {
        let Some((nsd, parameters)) = self.intent.action.names() else {
            return Ok(not_applicable(self.intent.action.name()));
        };
        let constituents: BTreeSet<_> =
            packages.iter().flat_map(|p| p.all()).map(|p| p.record.digest).collect();
        let named = constituents.into_iter().chain([nsd]).chain(refusable_parameters(parameters));
        for digest in named {
            let key = refused_key(&self.intent.tenant, &digest);
            if let Some(refused) = self.ctx.state.get::<RefusedRecord>(&key)? {
                let detail = format!(
                    "{digest} was left behind by rollback `{}` (entry {}): {}",
                    refused.intent_id, refused.position, refused.reason
                );
                return Ok(fault("DIGEST_REFUSED", detail));
            }
        }
        Ok(Ok("no rollback has left any of it behind".to_owned()))
    }

    /// Members that the intent names exist.
    pub(super) fn members(&self, packages: Option<&Packages>) -> Checked<String> {
        let named = members_of(self.intent);
        let known = packages.map(|p| &p.nsd.record.members).filter(|m| !m.is_empty());
        let (Some(known), false) = (known, named.is_empty()) else {
            return Ok("no member is named that the record could know".to_owned());
        };
        match named.iter().find(|m| !known.contains_key(**m)) {
            None => Ok(named.into_iter().collect::<Vec<_>>().join(", ")),
            Some(stray) => fault("NO_SUCH_MEMBER", format!("the service has no member `{stray}`")),
        }
    }
}

fn members_of(intent: &Intent) -> BTreeSet<&str> {
    match &intent.action {
        IntentKind::Migrate(it) => it.members.iter().map(String::as_str).collect(),
        IntentKind::Heal(it) => it.targets.iter().map(|t| t.member.as_str()).collect(),
        IntentKind::Isolate(it) => it.targets.iter().map(|t| t.member.as_str()).collect(),
        _ => BTreeSet::new(),
    }
}

fn former(service: &ServiceRecord, to: &str, asked: (trust::Digest, trust::Digest)) -> Checked<String> {
    let Some(found) = service.former.iter().find(|r| r.intent_id == to) else {
        let known: Vec<_> = service.former.iter().map(|r| r.intent_id.as_str()).collect();
        return fault(
            "NO_SUCH_REVISION",
            format!("`{to}` made no former revision that is kept; those are: {}", known.join(", ")),
        );
    };
    match (found.nsd_package, found.parameters) == asked {
        true => {
            Ok(format!("revision of `{to}`: package {}, configuration {}", asked.0.short(), asked.1.short()))
        }
        false => fault(
            "REVISION_MISMATCH",
            format!(
                "the revision of `{to}` has package {} and configuration {}, the intent {} and {}",
                found.nsd_package, found.parameters, asked.0, asked.1
            ),
        ),
    }
}

/// The former revisions once `next` is the present one: each once, the newest kept.
pub(crate) fn former_after(service: &ServiceRecord, next: &Revision, keeps_present: bool) -> Vec<Revision> {
    let same = |a: &Revision, b: &Revision| (a.nsd_package, a.parameters) == (b.nsd_package, b.parameters);
    let present = service.revision.iter().filter(|_| keeps_present);
    let mut out: Vec<Revision> =
        service.former.iter().chain(present).filter(|r| !same(r, next)).cloned().collect();
    let excess = out.len().saturating_sub(crate::state::MAX_REVISIONS);
    out.drain(..excess);
    out
}

/// A scaling step that is not more than the service has.
pub(super) fn scales_in_too_far(
    direction: ScaleDirection,
    service: &ServiceRecord,
    delta: &crate::records::ResourceUse,
) -> bool {
    direction == ScaleDirection::ScaleIn && service.reserved.minus(delta).is_none()
}
