//! The plan: every step with its key, its order and its undo, decided before the first effect.

use std::collections::BTreeMap;

use attestation::{AkRecord, ReferenceValues, Workload};
use dataplane_control::{Configuration, Function, config::Backend, traffic::TrafficProfile};
use ledger_contract::intent::{Deploy, Sla};
use serde::{Deserialize, Serialize};
use trust::Digest;
use vim::{Kind, ObjectKey, Spec};

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
    /// `deploy`, `scale`, `terminate`.
    pub action: String,
    /// Site chosen (deploy) or in use.
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
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Counted from 1; isolation steps go on counting after the last ordinary one.
    pub id: u32,
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
        }
    }

    /// The object concerned, or empty.
    #[must_use]
    pub fn object(&self) -> &str {
        match self {
            Self::Ensure { key, .. } | Self::Remove { key, .. } | Self::Isolate { key } => key.as_str(),
            Self::Measure { probe, .. } => probe.as_str(),
            Self::Attest { .. } => "",
        }
    }
}

/// A network service as it is desired: what the next operation starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NsRecord {
    /// NS instance.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// Service.
    pub service: String,
    /// Site.
    pub site: String,
    /// NSD id.
    pub nsd: String,
    /// Packages by descriptor id, as granted at deployment.
    pub packages: BTreeMap<String, Digest>,
    /// The deployment's parameters.
    pub deploy: Deploy,
    /// Instances by member and VDU.
    pub instances: BTreeMap<String, BTreeMap<String, u32>>,
    /// Everything that must be there, in the order it was made.
    pub objects: Vec<(ObjectKey, Spec)>,
    /// The attestation key of the site, when it attests.
    pub ak: Option<AkRecord>,
    /// Flows that measurements have used. A balancer remembers a flow longer than two operations are apart, so each
    /// measurement takes new ones.
    #[serde(default)]
    pub flows: u32,
}

impl NsRecord {
    /// The desired spec of an object.
    #[must_use]
    pub fn spec(&self, key: &ObjectKey) -> Option<&Spec> {
        self.objects.iter().find(|(k, _)| k == key).map(|(_, s)| s)
    }

    /// Replaces or appends an object.
    pub fn put(&mut self, key: ObjectKey, spec: Spec) {
        match self.objects.iter_mut().find(|(k, _)| *k == key) {
            Some((_, s)) => *s = spec,
            None => self.objects.push((key, spec)),
        }
    }

    /// Backends of its (first) load balancer, as its configuration has them.
    #[must_use]
    pub fn backends(&self) -> Vec<Backend> {
        let documents = self.objects.iter().filter_map(|(_, s)| match s {
            Spec::Compute(c) => Configuration::parse(c.configuration.as_bytes()).ok(),
            _ => None,
        });
        let mut balancers = documents.filter_map(|c| match c.function {
            Function::LoadBalancer(l) => Some(l.backends),
            _ => None,
        });
        balancers.next().unwrap_or_default()
    }

    /// What its instances must be measured to be.
    #[must_use]
    pub fn workloads(&self) -> BTreeMap<String, Workload> {
        self.objects.iter().filter_map(|(k, s)| workload(s).map(|w| (k.to_string(), w))).collect()
    }
}

/// Reference values of a compute; `None` for anything else.
#[must_use]
pub fn workload(spec: &Spec) -> Option<Workload> {
    match spec {
        Spec::Compute(c) => {
            Some(Workload { image: c.image, configuration: Digest::of(c.configuration.as_bytes()) })
        }
        _ => None,
    }
}
