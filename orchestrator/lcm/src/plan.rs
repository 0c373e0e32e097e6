//! The plan: every step with its key, its order and its undo, decided before the first effect.

use std::collections::BTreeSet;

use attestation::{ReferenceValues, Workload};
use dataplane_control::traffic::TrafficProfile;
use ledger_contract::intent::Sla;
use mano::{PackageKind, PackageSpec, ServiceKey, ServiceSpec};
use serde::{Deserialize, Serialize};
use trust::Digest;
use vim::{CaptureSpec, Kind, ObjectKey, Spec};

pub use crate::record::{NsRecord, Object};

/// Most steps a plan may have: a bound on one operation's journal.
pub const MAX_STEPS: usize = 4096;

/// What an operation will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Operation.
    pub operation_id: String,
    /// The intent it carries out.
    pub intent_id: String,
    /// NS instance.
    pub ns_instance_id: String,
    /// One of [`ledger_contract::intent::ACTIONS`].
    pub action: String,
    /// The site of every step that names no other: chosen (deploy, migrate) or in use.
    pub site: String,
    /// Every other candidate, and why not.
    pub refused: Vec<(String, String)>,
    /// In order of id; a step's needs are lower ids.
    pub steps: Vec<Step>,
    /// Run instead of the undo steps when attestation fails: traffic is cut, processes are kept for forensics.
    pub isolation: Vec<Step>,
    /// The service before, absent on deploy.
    pub before: Option<NsRecord>,
    /// The service when every step is done, absent on terminate.
    pub after: Option<NsRecord>,
    /// The MANO that makes the service's instances, by its driver's name; absent: we do, at the VIMs themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mano: Option<String>,
    /// Why the service is not measured, though its intent promises something; absent: it is, or there is nothing to measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmeasured: Option<String>,
}

impl Plan {
    /// The document that is journaled; its bytes are what [`Self::digest`] is over.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Maps with string keys, lists and numbers always encode.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Digest of the document.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_bytes())
    }

    /// The step of this id.
    #[must_use]
    pub fn step(&self, id: u32) -> Option<&Step> {
        self.steps.iter().chain(&self.isolation).find(|s| s.id == id)
    }

    /// Where a step takes effect.
    #[must_use]
    pub fn site_of<'a>(&'a self, step: &'a Step) -> &'a str {
        if step.site.is_empty() { &self.site } else { &step.site }
    }

    /// Every site that a step takes effect at.
    #[must_use]
    pub fn sites(&self) -> BTreeSet<&str> {
        self.steps.iter().chain(&self.isolation).map(|s| self.site_of(s)).collect()
    }

    /// The highest step id: a plan that supersedes this one goes on counting.
    #[must_use]
    pub fn last_id(&self) -> u32 {
        self.steps.iter().chain(&self.isolation).map(|s| s.id).max().unwrap_or(0)
    }

    /// Was this object there before?
    #[must_use]
    pub fn had(&self, site: &str, key: &ObjectKey) -> bool {
        self.before.as_ref().is_some_and(|b| b.spec(site, key).is_some())
    }

    /// Does the step remove an object that the service then has no more, without a way back?
    #[must_use]
    pub fn removes_for_good(&self, step: &Step) -> bool {
        let Action::Remove { key, .. } = &step.action else { return false };
        let site = self.site_of(step);
        let kept = self.after.as_ref().is_some_and(|a| a.spec(site, key).is_some());
        step.undo.is_none() && self.had(site, key) && !kept
    }

    /// Is there no way back once it has begun? What an object's neighbours were told is not taken back either.
    #[must_use]
    pub fn commits(&self, step: &Step) -> bool {
        matches!(step.action, Action::Announce { .. }) || self.removes_for_good(step)
    }

    /// Can it only go forward? What is to be cut off or to go away is never brought back.
    #[must_use]
    pub fn forward_only(&self) -> bool {
        matches!(self.action.as_str(), "terminate" | "isolate")
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Counted from 1 over the operation; isolation steps go on counting after the last ordinary one, a plan that
    /// supersedes another after that one's last.
    pub id: u32,
    /// Where; empty: at the plan's site ([`Plan::site_of`]).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub site: String,
    /// Steps that must be done first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<u32>,
    /// For people: `start vlb/backend/2`.
    pub what: String,
    /// The effect.
    pub action: Action,
    /// What takes it back; absent: nothing to take back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Action>,
}

impl Step {
    /// A removal or a cut without an undo: it can only be tried again.
    #[must_use]
    pub fn forward_only(&self) -> bool {
        let removes = matches!(
            self.action,
            Action::Remove { .. }
                | Action::Isolate { .. }
                | Action::Dissolve { .. }
                | Action::Offboard { .. }
        );
        self.undo.is_none() && removes
    }

    /// May it fail without anything else failing? A capture that cannot be had must not keep traffic from being cut;
    /// neighbours who were not told where something went find out by themselves.
    #[must_use]
    pub fn dispensable(&self) -> bool {
        matches!(self.action, Action::Capture { .. } | Action::Announce { .. })
    }
}

/// An effect. Every one is idempotent by key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Make an object be as specified.
    Ensure {
        /// Its key.
        key: ObjectKey,
        /// What it is to be.
        spec: Box<Spec>,
    },
    /// Make an object not be.
    Remove {
        /// Its key.
        key: ObjectKey,
        /// Its kind.
        kind: Kind,
    },
    /// Challenge the running instances and appraise their evidence.
    Attest {
        /// What must run.
        reference: Box<ReferenceValues>,
        /// Random bytes, for freshness.
        entropy: Digest,
        /// The challenge: [`ledger_contract::evidence::challenge_nonce`].
        nonce: Digest,
    },
    /// Send known traffic and compare.
    Measure {
        /// The generator's key.
        probe: ObjectKey,
        /// What to send and what must become of it.
        profile: Box<TrafficProfile>,
        /// What was promised.
        sla: Sla,
    },
    /// Cut an instance's traffic, keep its process.
    Isolate {
        /// Its key.
        key: ObjectKey,
    },
    /// Have an instance tell its links that its addresses are there, before the one that they were at goes away.
    Announce {
        /// Its key.
        key: ObjectKey,
    },
    /// Record an instance's traffic, before it is cut. An operation goes on without a capture that cannot be had.
    Capture {
        /// The instance's key.
        key: ObjectKey,
        /// How long, and how much.
        spec: CaptureSpec,
    },
    /// Have the MANO hold a package.
    Onboard {
        /// Which.
        package: PackageSpec,
    },
    /// Have the MANO forget a package, unless services use it.
    Offboard {
        /// Which kind.
        package: PackageKind,
        /// Its descriptor's id.
        id: String,
    },
    /// Have the MANO make a service be as specified. Its instances are then taken for ours, each by a step that ensures it.
    Realize {
        /// The service.
        service: ServiceKey,
        /// What it is to be.
        spec: Box<ServiceSpec>,
    },
    /// Have the MANO make instances of its service anew.
    Rebuild {
        /// The service.
        service: ServiceKey,
        /// Name of this rebuilding: asked for twice, it is done once.
        name: String,
        /// The instances.
        instances: BTreeSet<ObjectKey>,
    },
    /// Have the MANO take its service down.
    Dissolve {
        /// The service.
        service: ServiceKey,
    },
}

impl Action {
    /// For evidence: `ensure network`, `remove compute`, `attest`, …
    #[must_use]
    pub fn name(&self) -> String {
        let kind = |k: Kind| match k {
            Kind::Image => "image",
            Kind::Network => "network",
            Kind::Compute => "compute",
        };
        match self {
            Self::Ensure { spec, .. } => format!("ensure {}", kind(spec.kind())),
            Self::Remove { kind: k, .. } => format!("remove {}", kind(*k)),
            Self::Attest { .. } => "attest".into(),
            Self::Measure { .. } => "measure".into(),
            Self::Isolate { .. } => "isolate".into(),
            Self::Announce { .. } => "announce".into(),
            Self::Capture { .. } => "capture".into(),
            Self::Onboard { .. } => "ensure package".into(),
            Self::Offboard { .. } => "remove package".into(),
            Self::Realize { .. } => "ensure service".into(),
            Self::Rebuild { .. } => "rebuild instances".into(),
            Self::Dissolve { .. } => "remove service".into(),
        }
    }

    /// Is it asked of the MANO, not of a site?
    #[must_use]
    pub fn of_mano(&self) -> bool {
        matches!(
            self,
            Self::Onboard { .. }
                | Self::Offboard { .. }
                | Self::Realize { .. }
                | Self::Rebuild { .. }
                | Self::Dissolve { .. }
        )
    }

    /// The object concerned, or empty.
    #[must_use]
    pub fn object(&self) -> &str {
        match self {
            Self::Ensure { key, .. }
            | Self::Remove { key, .. }
            | Self::Isolate { key }
            | Self::Announce { key }
            | Self::Capture { key, .. } => key.as_str(),
            Self::Measure { probe, .. } => probe.as_str(),
            Self::Attest { .. } => "",
            Self::Onboard { package } => &package.id,
            Self::Offboard { id, .. } => id,
            Self::Realize { service, .. } | Self::Rebuild { service, .. } | Self::Dissolve { service } => {
                service.as_str()
            }
        }
    }
}

/// Reference values of a compute; `None` for anything else, and for a guest: it has no configuration to be measured.
#[must_use]
pub fn workload(spec: &Spec) -> Option<Workload> {
    match spec {
        Spec::Compute(c) if !c.configuration.is_empty() => {
            Some(Workload { image: c.image, configuration: Digest::of(c.configuration.as_bytes()) })
        }
        _ => None,
    }
}
