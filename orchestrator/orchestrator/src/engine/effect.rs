//! Effects: the one place where a VIM or a running function is called, and where what came back is judged.

use std::{sync::Arc, time::Duration};

use attestation::{AttestationResult, ReferenceValues, appraise};
use dataplane_control::traffic::TrafficProfile;
use lcm::{
    Action, compliance,
    operation::{Failure, StepResult, Then},
};
use ledger_contract::{evidence::objectives, intent::Sla};
use mano::{Mano, ServiceKey, VimObject};
use trust::Digest;
use vim::{
    Adoption, CaptureSpec, Disposition, DriverError, Kind, ObjectKey, Observed, Scope, Spec, VimDriver,
    VnfControl,
};

use super::now;
use crate::artifacts::ArtifactStore;

/// A site's ports, for one effect.
pub(super) struct Ports {
    pub(super) site: String,
    pub(super) vim: Arc<dyn VimDriver>,
    pub(super) control: Arc<dyn VnfControl>,
    /// Who makes the service's instances, when we do not.
    pub(super) mano: Option<Arc<dyn Mano>>,
    /// Where it said that it made this one, in a step that this one comes after.
    pub(super) told: Option<VimObject>,
    /// Where captures are kept.
    pub(super) artifacts: ArtifactStore,
}

/// Takes an effect within a time limit. A call that runs into the limit may have taken effect.
pub(super) async fn take(ports: &Ports, action: &Action, limit: Duration) -> Result<StepResult, Failure> {
    match tokio::time::timeout(limit, apply(ports, action)).await {
        Ok(result) => result,
        Err(_) => Err(failure(
            "TIMEOUT",
            format!("{} {} took longer than {} s", action.name(), action.object(), limit.as_secs()),
            Then::Unknown,
        )),
    }
}

pub(super) fn no_site() -> Failure {
    let detail = "the plan's site is not configured any more: put it back into config.toml and restart";
    failure("NO_SITE", detail.into(), Then::Escalate)
}

/// It was left in the middle, because the operation is to end: what it has done is taken back like that of any that failed.
pub(super) fn cut_short(action: &Action, why: &str) -> Failure {
    let detail = format!("{} {} was left in the middle: {why}", action.name(), action.object());
    failure("CUT_SHORT", detail, Then::Compensate)
}

fn failure(code: &str, detail: String, then: Then) -> Failure {
    Failure { code: code.into(), detail, then, refused: None }
}

impl From<DriverErrorOf> for Failure {
    fn from(DriverErrorOf(e): DriverErrorOf) -> Self {
        let then = e.disposition.into();
        let detail = e.to_string();
        Self { code: e.code, detail, then, refused: None }
    }
}

/// A driver's error, on its way into the journal.
struct DriverErrorOf(DriverError);

async fn apply(ports: &Ports, action: &Action) -> Result<StepResult, Failure> {
    match action {
        Action::Ensure { key, spec } => {
            let observed = match &ports.mano {
                Some(mano) if spec.kind() == Kind::Compute => {
                    adopted(ports, mano.as_ref(), key, spec).await?
                }
                _ => ports.vim.ensure(key, spec).await.map_err(DriverErrorOf)?,
            };
            // What was read back must be what was asked for: an answer of "done" is not enough.
            compliance::check(spec, &observed)
                .map_err(|why| failure("NOT_AS_SPECIFIED", why, Then::Retry))?;
            Ok(StepResult::Observed { observed })
        }
        Action::Remove { key, kind } => {
            ports.vim.remove(key, *kind).await.map_err(DriverErrorOf)?;
            Ok(StepResult::Acknowledged {})
        }
        Action::Attest { reference, nonce, .. } => attest(ports, reference, nonce).await,
        Action::Measure { probe, profile, sla } => measure(ports, probe, profile, sla).await,
        Action::Isolate { key } => match ports.control.isolate(key, true).await {
            Ok(()) => Ok(StepResult::Acknowledged {}),
            // An operation that gave way may have recorded what it did not come to make.
            Err(_) if is_absent(ports, key).await => Ok(StepResult::Acknowledged {}),
            Err(error) => Err(DriverErrorOf(error).into()),
        },
        Action::Announce { key } => {
            ports.control.announce(key).await.map_err(DriverErrorOf)?;
            Ok(StepResult::Acknowledged {})
        }
        Action::Capture { key, spec } => capture(ports, key, spec).await,
        of_mano => match &ports.mano {
            Some(mano) => orchestrated(mano.as_ref(), of_mano).await,
            None => Err(failure("NO_MANO", NO_MANO.into(), Then::Escalate)),
        },
    }
}

const NO_MANO: &str = "the MANO that makes this service is not configured any more: put [osm] back into config.toml and restart";

/// What is asked of the MANO.
async fn orchestrated(mano: &dyn Mano, action: &Action) -> Result<StepResult, Failure> {
    let service = match action {
        Action::Onboard { package } => {
            let package = mano.ensure_package(package).await.map_err(DriverErrorOf)?;
            return Ok(StepResult::Package { package });
        }
        Action::Offboard { package, id } => {
            mano.remove_package(*package, id).await.map_err(DriverErrorOf)?;
            return Ok(StepResult::Acknowledged {});
        }
        Action::Dissolve { service } => {
            mano.remove_service(service).await.map_err(DriverErrorOf)?;
            return Ok(StepResult::Acknowledged {});
        }
        Action::Realize { service, spec } => mano.ensure_service(service, spec).await,
        Action::Rebuild { service, name, instances } => mano.heal(service, name, instances).await,
        other => {
            let detail = format!("{} is not asked of a MANO", other.name());
            return Err(failure("INTERNAL", detail, Then::Escalate));
        }
    };
    Ok(StepResult::Service { service: Box::new(service.map_err(DriverErrorOf)?) })
}

/// Takes an instance that the MANO made for ours, and reads it back from the VIM: the MANO's word is not the truth. What it said
/// when it made the service does, unless the VIM knows no such instance: then it is asked again.
async fn adopted(ports: &Ports, mano: &dyn Mano, key: &ObjectKey, spec: &Spec) -> Result<Observed, Failure> {
    let mut refused = None;
    if let Some(told) = &ports.told {
        match adopt(ports, key, spec, &told.id).await {
            Err(e) if e.disposition == Disposition::Compensate => refused = Some(e),
            other => return Ok(other.map_err(DriverErrorOf)?),
        }
    }
    let service = ServiceKey::of(key);
    let found = mano.observe(&mano::Scope::Service(service.clone())).await.map_err(DriverErrorOf)?;
    let places = found.services.get(&service).and_then(|s| s.objects.get(key));
    let Some(place) = places.and_then(|p| p.iter().find(|o| o.site == ports.site)) else {
        let detail = format!("the MANO does not say that it made {key} at site {}", ports.site);
        return Err(failure("NOT_MADE", detail, Then::Retry));
    };
    match refused {
        Some(e) if ports.told.as_ref().is_some_and(|told| told.id == place.id) => {
            Err(DriverErrorOf(e).into())
        }
        _ => Ok(adopt(ports, key, spec, &place.id).await.map_err(DriverErrorOf)?),
    }
}

async fn adopt(ports: &Ports, key: &ObjectKey, spec: &Spec, id: &str) -> Result<Observed, DriverError> {
    let adoption = Adoption { key: key.clone(), spec: spec.clone(), id: id.to_owned() };
    let mut taken = ports.vim.adopt(&[adoption]).await?;
    taken.remove(key).ok_or_else(|| DriverError {
        key: key.to_string(),
        operation: "adopt".into(),
        code: "NOT_MADE".into(),
        reason: format!("{id} is not there as {key}"),
        disposition: Disposition::Retry,
    })
}

/// Does the VIM know nothing of it, not even a part? Then there is no traffic to cut.
async fn is_absent(ports: &Ports, key: &ObjectKey) -> bool {
    let seen = ports.vim.observe(&Scope::Service(key.service().to_owned())).await;
    seen.is_ok_and(|i| !i.objects.contains_key(key) && i.extra.iter().all(|s| s.key != *key))
}

/// Takes a capture and keeps it: the digest that the evidence names is that of the kept bytes.
async fn capture(ports: &Ports, key: &ObjectKey, spec: &CaptureSpec) -> Result<StepResult, Failure> {
    let taken = ports.control.capture(key, spec).await.map_err(DriverErrorOf)?;
    let (frames, dropped) = (taken.frames, taken.dropped);
    let size_bytes = u64::try_from(taken.pcapng.len()).unwrap_or(u64::MAX);
    let store = ports.artifacts.clone();
    let kept = tokio::task::spawn_blocking(move || store.put(&taken.pcapng)).await;
    let lost =
        |why: String| failure("CAPTURE_NOT_KEPT", format!("the capture of {key}: {why}"), Then::Compensate);
    let capture = kept.map_err(|e| lost(e.to_string()))?.map_err(|e| lost(e.to_string()))?;
    Ok(StepResult::Captured { capture, size_bytes, frames, dropped })
}

/// Challenges and appraises. What cannot be affirmed is isolated; what cannot be asked is a driver's error.
async fn attest(ports: &Ports, reference: &ReferenceValues, nonce: &Digest) -> Result<StepResult, Failure> {
    let keys: Vec<ObjectKey> =
        reference.workloads.keys().filter_map(|k| ObjectKey::new(k.as_str()).ok()).collect();
    let evidence = ports.control.attest(&keys, nonce).await.map_err(DriverErrorOf)?;
    let at = now();
    let appraisal = appraise(&evidence, reference, nonce, at);
    let refused = first_refused(&appraisal);
    let result = StepResult::Attested { evidence: Box::new(evidence), at, appraisal };
    match refused {
        None => Ok(result),
        Some((code, detail)) => Err(Failure {
            code: format!("ATTESTATION_{code}"),
            detail,
            then: Then::Isolate,
            refused: Some(Box::new(result)),
        }),
    }
}

fn first_refused(appraisal: &AttestationResult) -> Option<(String, String)> {
    if appraisal.affirming {
        return None;
    }
    let check = appraisal.checks.iter().find(|c| !c.passed);
    Some(check.map_or(("EMPTY".into(), "no check was made".into()), |c| (c.code.clone(), c.detail.clone())))
}

/// Sends known traffic. A broken SLA is recorded; a function that does not do what it was configured to is a failure.
async fn measure(
    ports: &Ports,
    probe: &ObjectKey,
    profile: &TrafficProfile,
    sla: &Sla,
) -> Result<StepResult, Failure> {
    let report = ports.control.run_traffic(probe, profile).await.map_err(DriverErrorOf)?;
    let objectives = objectives(sla, profile, &report);
    let broken = objectives.iter().find(|o| o.functional() && !o.kept).cloned();
    let result = StepResult::Measured { report: Box::new(report), objectives };
    match broken {
        None => Ok(result),
        Some(o) => Err(Failure {
            code: o.name.to_uppercase(),
            detail: format!(
                "{} flows; at most {} allowed: traffic does not follow the rules",
                o.measured, o.bound
            ),
            then: Then::Retry,
            refused: Some(Box::new(result)),
        }),
    }
}
