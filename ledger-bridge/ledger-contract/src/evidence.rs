//! The evidence bundle: in-toto statements about one operation, and their predicates.
//!
//! A bundle is an in-toto attestation bundle: JSON Lines, each line one DSSE envelope of a [`trust::statement`]. Its
//! *body* is every line but the last, newlines included; the body's SHA-256 is what is anchored. The last line is
//! the [`Receipt`] (plain canonical JSON): the anchor's ledger entry and proofs. Order of the body: decision,
//! plan, the steps in runs, attestation and measurement where their steps stand, outcome.

use attestation::{AttestationResult, Evidence, ReferenceValues};
use dataplane_control::traffic::{Expectation, TrafficProfile, TrafficReport};
use serde::{Deserialize, Serialize};
use trust::{Digest, UnixTime};

use crate::{channel::ChannelProof, intent::Sla};

/// Predicate: the decision: the approval (ledger entry and proof) that the operation ran under.
pub const DECISION: &str = "https://mandate.dev/evidence/decision/v1";
/// Predicate: the plan, with its placement.
pub const PLAN: &str = "https://mandate.dev/evidence/plan/v1";
/// Predicate: one step of actuation, read back. Earlier bundles have such a line for each step; they verify.
pub const STEP: &str = "https://mandate.dev/evidence/step/v1";
/// Predicate: steps of actuation between two pieces of evidence, each read back, under one signature.
pub const STEPS: &str = "https://mandate.dev/evidence/steps/v1";
/// Predicate: attestation evidence, reference values and their appraisal.
pub const ATTESTATION: &str = "https://mandate.dev/evidence/attestation/v1";
/// Predicate: a measurement against the SLA.
pub const MEASUREMENT: &str = "https://mandate.dev/evidence/measurement/v1";
/// Predicate: how the operation ended.
pub const OUTCOME: &str = "https://mandate.dev/evidence/outcome/v1";

/// Every predicate links to the one before: digest of the previous line (without newline), absent on the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link<P> {
    /// Operation.
    pub operation_id: String,
    /// Position in the bundle, from 0.
    pub index: u32,
    /// Digest of the line before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// The claim itself.
    pub claim: P,
}

/// A ledger entry with the proof that it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ProvenEntry {
    /// Exact bytes of the entry.
    pub entry: String,
    /// Its proof: in the log, or in the mirror of a channel.
    pub proof: InclusionProof,
    /// What the Fabric channel proves of it, where the ledger is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<serde_json::Value>"))]
    pub channel: Option<Box<ChannelProof>>,
}

impl ProvenEntry {
    /// Where it is in the ledger's order: its index in a log, its place ([`ChannelProof::place`]) in a channel. Places of one
    /// ledger compare.
    #[must_use]
    pub fn place(&self) -> u64 {
        self.channel.as_ref().map_or(self.proof.index, |c| c.place())
    }
}

/// RFC 6962 inclusion in a signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct InclusionProof {
    /// Leaf index.
    pub index: u64,
    /// Audit path, leaf to root.
    pub path: Vec<Digest>,
    /// C2SP checkpoint (signed note) of the tree it is included in.
    pub checkpoint: String,
}

/// Claim of [`DECISION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionClaim {
    /// The approval.
    pub approval: ProvenEntry,
}

/// Claim of [`PLAN`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanClaim {
    /// Digest of the plan document.
    pub plan: Digest,
    /// Site that was chosen.
    pub site: String,
    /// Sites that were refused, and why.
    pub refused: Vec<(String, String)>,
    /// The steps that were to be done.
    pub steps: Vec<PlannedStep>,
    /// The steps that were to be done instead, had attestation failed.
    pub isolation: Vec<PlannedStep>,
    /// The service before; absent: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<ServiceClaim>,
    /// The service when every step is done; absent: there is none then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<ServiceClaim>,
    /// Why the service was not to be measured: a verifier shows it, and the objectives are not known to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmeasured: Option<String>,
}

/// A service as a plan sees it: as much of it as an intent can be held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceClaim {
    /// Its NSD package.
    pub nsd_package: Digest,
    /// Digest of its configuration as intents give it ([`crate::intent::parameters_digest`]).
    pub parameters: Digest,
    /// Its instances, by site and object.
    pub instances: Vec<InstanceClaim>,
}

/// An instance that must run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceClaim {
    /// Where.
    pub site: String,
    /// Object key.
    pub object: String,
    /// Image.
    pub image: Digest,
    /// Configuration document, as it is measured.
    pub configuration: Digest,
    /// Digest of what the document makes the instance do: without its generation and without MAC addresses, which
    /// differ from place to place.
    pub policy: Digest,
    /// Is its traffic cut?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
}

/// A step as it was planned; the line of what became of it names the same step, action and object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStep {
    /// Its id.
    pub step: u32,
    /// For people.
    pub what: String,
    /// `ensure network`, `attest`, `measure`, …
    pub action: String,
    /// Object key, or empty.
    pub object: String,
    /// Site, when it is another than the plan's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub site: String,
}

/// Claim of [`STEP`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepClaim {
    /// Step id in the plan.
    pub step: u32,
    /// What was done: `ensure network`, `remove compute`, …
    pub action: String,
    /// Object key.
    pub object: String,
    /// `DONE`, `UNDONE`, `FAILED`.
    pub state: String,
    /// What was read back from the VIM, or the error: a JSON document.
    pub observed: serde_json::Value,
}

/// Most steps in one line: a line stays short enough to be read as one document.
pub const MAX_STEPS_PER_LINE: usize = 256;

/// Claim of [`STEPS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepsClaim {
    /// What became of each, in the plan's order; 1 to [`MAX_STEPS_PER_LINE`].
    pub steps: Vec<StepClaim>,
}

/// Claim of [`ATTESTATION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationClaim {
    /// Step id in the plan.
    pub step: u32,
    /// The random bytes that made the challenge fresh.
    pub entropy: Digest,
    /// The nonce of the challenge: [`challenge_nonce`] of the above, so that it is bound to this step of this plan.
    pub nonce: Digest,
    /// What the attester sent.
    pub evidence: Evidence,
    /// What it was compared with.
    pub reference: ReferenceValues,
    /// When it was appraised.
    pub at: UnixTime,
    /// The result; a verifier appraises again and must get the same.
    pub result: AttestationResult,
}

/// The nonce of a challenge: fresh by its entropy, and good for one step of one operation and these reference values
/// only. Evidence of another operation cannot answer it.
#[must_use]
pub fn challenge_nonce(
    entropy: &Digest,
    operation_id: &str,
    step: u32,
    reference: &ReferenceValues,
) -> Digest {
    // Strings, numbers and maps with string keys always encode.
    let json = serde_json::to_vec(reference).unwrap_or_default();
    Digest::of_parts([&entropy.0[..], operation_id.as_bytes(), &step.to_be_bytes(), &json])
}

/// Claim of [`MEASUREMENT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasurementClaim {
    /// Step id in the plan.
    pub step: u32,
    /// What was promised.
    pub sla: Sla,
    /// What was sent, and what had to become of it.
    pub profile: TrafficProfile,
    /// What was measured.
    pub report: TrafficReport,
    /// Each promise, and whether it was kept: [`objectives`]; a verifier computes it again.
    pub slo: Vec<Objective>,
}

/// A service level objective against its measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// `throughput_kbps`, `latency_p95_us`, `loss_ppm`, `blocked_flows_arrived`, `allowed_flows_missing`,
    /// `misrouted_flows`, `untested_flows`.
    pub name: String,
    /// The bound: a minimum for throughput, a maximum for everything else.
    pub bound: u64,
    /// What was measured.
    pub measured: u64,
    /// Was it kept?
    pub kept: bool,
}

impl Objective {
    /// Does breaking it mean that the functions do not do what they were configured to?
    #[must_use]
    pub fn functional(&self) -> bool {
        ["blocked_flows_arrived", "allowed_flows_missing", "misrouted_flows", "untested_flows"]
            .contains(&self.name.as_str())
    }
}

/// The objectives of a measurement: three of the SLA, four of the functions' correctness. A blocked flow of which
/// nothing was sent proves nothing, and counts as untested.
#[must_use]
pub fn objectives(sla: &Sla, profile: &TrafficProfile, report: &TrafficReport) -> Vec<Objective> {
    let (mut blocked, mut missing, mut misrouted, mut untested) = (0, 0, 0, 0);
    for group in &profile.groups {
        let got = report.groups.get(&group.id).cloned().unwrap_or_default();
        match group.expect {
            Expectation::Blocked => {
                blocked += u64::from(got.arrived);
                untested += u64::from(if got.tx_frames == 0 {
                    group.count
                } else {
                    group.count.saturating_sub(got.flows)
                });
            }
            Expectation::Balanced { .. } => {
                missing += u64::from(group.count.saturating_sub(got.arrived));
                misrouted += u64::from(got.misrouted);
            }
        }
    }
    let at_most = |name: &str, bound, measured| Objective {
        name: name.into(),
        bound,
        measured,
        kept: measured <= bound,
    };
    vec![
        Objective {
            name: "throughput_kbps".into(),
            bound: sla.throughput_kbps,
            measured: report.throughput_kbps,
            kept: report.throughput_kbps >= sla.throughput_kbps,
        },
        at_most("latency_p95_us", sla.latency_p95_us, report.latency_p95_us),
        at_most("loss_ppm", sla.loss_ppm, report.loss_ppm),
        at_most("blocked_flows_arrived", 0, blocked),
        at_most("allowed_flows_missing", 0, missing),
        at_most("misrouted_flows", 0, misrouted),
        at_most("untested_flows", 0, untested),
    ]
}

/// Claim of [`OUTCOME`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomeClaim {
    /// SOL003 state: `COMPLETED`, `ROLLED_BACK`, `FAILED`.
    pub state: String,
    /// Why, when it is not `COMPLETED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Objects that were not dealt with as they should have been: `key`, or `key@site` at another site than the plan's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<String>,
    /// What changed its course from outside, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interventions: Vec<InterventionClaim>,
}

/// Something from outside that changed an operation's course.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterventionClaim {
    /// `expired`, `revoked`, `escalated` (a person was called), `retry`, `rollback`, `fail` (a person decided).
    pub kind: String,
    /// Who: a person, or the ledger's entry; empty: the orchestrator itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Why.
    pub reason: String,
}

/// The last line of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The ledger entry that anchored the body.
    pub anchor: ProvenEntry,
    /// Genesis and every change of policy or organisations before the anchor, when there was one: a verifier follows
    /// them from its own trust roots ([`crate::constitution`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constitution: Vec<ProvenEntry>,
}
