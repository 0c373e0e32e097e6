//! The intent: what a tenant asks for, signed.
//!
//! An intent is the payload of a DSSE envelope of type [`INTENT_PAYLOAD`]. Its digest is the digest of the payload's
//! exact bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trust::{Digest, UnixTime};

use crate::records::ENTRY_VERSION;

/// DSSE payload type of an intent.
pub const INTENT_PAYLOAD: &str = "application/vnd.mandate.intent.v1+json";
/// `apiVersion` of an intent.
pub const API_VERSION: &str = "mandate.dev/v1";
/// Largest intent accepted, bytes.
pub const MAX_INTENT_BYTES: usize = 1 << 20;

/// A request to change the infrastructure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// [`API_VERSION`].
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// Chosen by the tenant, unique for ever: 8 to 64 of `a-z 0-9 -`. It is the idempotency key.
    pub id: String,
    /// The tenant on whose behalf.
    pub tenant: String,
    /// The network service: 1 to 32 of `a-z 0-9 -`, unique for the tenant while it lives.
    pub service: String,
    /// After this moment the intent must not be decided or acted upon any more.
    pub not_after: UnixTime,
    /// Intents (by id) of the same tenant that must have completed before this one is carried out; at most
    /// [`MAX_DEPENDENCIES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// Break-glass: rules that the policy lets an emergency waive are waived, visibly and for ever on record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency: Option<Emergency>,
    /// The orchestrator acts by itself, under a standing grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<StandingUse>,
    /// What to do.
    pub action: IntentKind,
}

impl Intent {
    /// What `form/intent` refuses it for, whoever signs it: for whoever writes an intent, before it is signed. `None`:
    /// it is well formed.
    #[must_use]
    pub fn malformed(&self) -> Option<String> {
        crate::intents::form::malformed(self)
    }
}

/// Most intents that one may depend on: a graph of services is made of small steps.
pub const MAX_DEPENDENCIES: usize = 16;
/// Longest reason, cause or other text for people in an intent, bytes.
pub const MAX_REASON_BYTES: usize = 1024;

/// Why the glass is broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emergency {
    /// For the auditors: what happened, and the ticket.
    pub reason: String,
}

/// An intent that the orchestrator signs itself, entitled by a standing grant ([`crate::records::StandingGrant`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandingUse {
    /// Id of the standing grant.
    pub grant: String,
    /// When the cause was seen. Later than the decision never; earlier when the ledger was down meanwhile.
    pub observed_at: UnixTime,
    /// What was seen, and what is to be done about it.
    pub reason: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum IntentKind {
    /// Instantiate a network service.
    Deploy(Box<Deploy>),
    /// Change its software or its configuration (SOL005 `UpdateNs`).
    Update(Box<Update>),
    /// Scale a member by one of its scaling aspects.
    Scale(Scale),
    /// Bring instances back that are down, or that are to be replaced (SOL005 `HealNs`).
    Heal(Heal),
    /// Move members to another site: make before break.
    Migrate(Migrate),
    /// Cut traffic, keep the processes, take a capture.
    Isolate(Isolate),
    /// Go back to a former revision; what is left is refused from then on.
    Rollback(Box<Rollback>),
    /// Terminate the service.
    Terminate {},
}

/// Every action's name, as policies see it.
pub const ACTIONS: [&str; 8] =
    ["deploy", "update", "scale", "heal", "migrate", "isolate", "rollback", "terminate"];

impl IntentKind {
    /// One of [`ACTIONS`].
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Deploy(_) => "deploy",
            Self::Update(_) => "update",
            Self::Scale(_) => "scale",
            Self::Heal(_) => "heal",
            Self::Migrate(_) => "migrate",
            Self::Isolate(_) => "isolate",
            Self::Rollback(_) => "rollback",
            Self::Terminate {} => "terminate",
        }
    }
}

impl IntentKind {
    /// The NSD package and configuration that it names: of a deployment, an update, a rollback.
    #[must_use]
    pub fn names(&self) -> Option<(Digest, &BTreeMap<String, VnfParams>)> {
        match self {
            Self::Deploy(it) => Some((it.nsd_package, &it.vnf_params)),
            Self::Update(it) => Some((it.nsd_package, &it.vnf_params)),
            Self::Rollback(it) => Some((it.nsd_package, &it.vnf_params)),
            _ => None,
        }
    }
}

/// Parameters of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// Digest of the registered NSD package.
    pub nsd_package: Digest,
    /// What is promised and measured.
    pub sla: Sla,
    /// Where it may run.
    #[serde(default)]
    pub placement: PlacementHints,
    /// How sensitive the traffic is.
    pub sensitivity: Sensitivity,
    /// How long it may run from its approval, seconds.
    pub lease_s: u64,
    /// Configuration of the functions, by member VNF index (OSM's `additionalParamsForVnf`).
    #[serde(default)]
    pub vnf_params: BTreeMap<String, VnfParams>,
}

/// Service level: integers only, so that every verifier computes the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sla {
    /// Least throughput at the offered rate, kbit/s.
    pub throughput_kbps: u64,
    /// Highest 95th percentile of the round trip, µs.
    pub latency_p95_us: u64,
    /// Highest loss, parts per million.
    pub loss_ppm: u64,
}

/// Where a service may run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementHints {
    /// Only these sites; empty: any.
    #[serde(default)]
    pub sites: Vec<String>,
    /// Only sites of these jurisdictions (ISO 3166-1 alpha-2); empty: any.
    #[serde(default)]
    pub jurisdictions: Vec<String>,
    /// Highest latency from the tenant to the site, µs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_site_latency_us: Option<u64>,
}

/// How sensitive a service's traffic is; each level demands at least the former's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sensitivity {
    /// No demand.
    Public,
    /// Signed packages.
    Internal,
    /// Attested sites.
    Confidential,
    /// Attested sites within the named jurisdictions.
    Restricted,
}

/// Configuration of one member VNF: firewall rules, services, weights. Read by the planner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VnfParams {
    /// Firewall rules, in order; `from` is the role `outside` or `inside`.
    #[serde(default)]
    pub rules: Vec<dataplane_control::config::Rule>,
    /// Services of a load balancer.
    #[serde(default)]
    pub vips: Vec<dataplane_control::config::Vip>,
    /// Weight of the n-th backend instance (default 1).
    #[serde(default)]
    pub weights: Vec<u32>,
}

/// A scaling request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Member VNF index.
    pub member: String,
    /// Scaling aspect of its VNFD.
    pub aspect: String,
    /// Out or in.
    pub direction: ScaleDirection,
    /// Steps of the aspect's delta, at least 1.
    pub steps: u32,
}

/// SOL003 `ScaleVnfRequest.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ScaleDirection {
    /// Add instances.
    ScaleOut,
    /// Remove instances.
    ScaleIn,
}

/// A new revision: the whole of it, not a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Digest of the registered NSD package; the same or another version of the same NSD id.
    pub nsd_package: Digest,
    /// What is promised from now on; absent: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla: Option<Sla>,
    /// The lease is renewed: how long it may run from this approval, seconds; absent: it ends as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<u64>,
    /// Configuration of the functions, whole.
    #[serde(default)]
    pub vnf_params: BTreeMap<String, VnfParams>,
}

/// One VDU instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Member VNF index.
    pub member: String,
    /// VDU.
    pub vdu: String,
    /// Number of the instance, from 0.
    pub index: u32,
}

/// A healing request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heal {
    /// Instances to replace whatever their state; empty: those that are not as they should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// SOL005 `cause`, for people.
    pub cause: String,
}

/// A migration request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// Members to move; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// Where they may run from now on. The sites where they are now are no candidates.
    pub placement: PlacementHints,
}

/// An isolation request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isolate {
    /// Instances to cut off; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// How long to capture each instance's traffic before it is cut, ms; 0: no capture, at most
    /// [`MAX_CAPTURE_MS`].
    #[serde(default)]
    pub capture_ms: u32,
    /// Why.
    pub reason: String,
}

/// Longest capture before an isolation, ms: what is to be cut should not run on for long.
pub const MAX_CAPTURE_MS: u32 = 10_000;

/// Going back to a former revision of the service: again the whole of it, so that the approval says all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The intent (deploy, update or rollback) that made that revision.
    pub to: String,
    /// Its NSD package.
    pub nsd_package: Digest,
    /// Its configuration; the ledger compares it with what it kept of the revision.
    #[serde(default)]
    pub vnf_params: BTreeMap<String, VnfParams>,
    /// What was wrong with the present one.
    pub reason: String,
}

/// Digest of a revision's configuration: over its canonical JSON (maps sorted by key, no spaces).
#[must_use]
pub fn parameters_digest(vnf_params: &BTreeMap<String, VnfParams>) -> Digest {
    // Strings, numbers, lists and maps with text keys always encode.
    Digest::of(serde_json::to_vec(vnf_params).unwrap_or_default())
}

/// What a refused configuration is remembered by: nobody's fault is the empty one, so it has none.
#[must_use]
pub fn refusable_parameters(vnf_params: &BTreeMap<String, VnfParams>) -> Option<Digest> {
    (!vnf_params.is_empty()).then(|| parameters_digest(vnf_params))
}

/// Hexadecimal digits of an NS instance's id: nobody finds two services of one id, nor one of another's id.
const NS_ID_DIGITS: usize = 32;
/// Until version 3 of the rules: 48 bits, of which anybody finds two of a kind in seconds.
const NS_ID_DIGITS_3: usize = 12;

/// Id of a service's NS instance under the present rules: `ns-` and 32 hexadecimal digits of SHA-256(tenant, service, id
/// of the deploy intent).
#[must_use]
pub fn ns_instance_id(tenant: &str, service: &str, deploy_intent: &str) -> String {
    ns_instance_id_of(ENTRY_VERSION, tenant, service, deploy_intent)
}

/// The same under the rules of version `v`, by which an entry was decided. A service keeps its id as long as it lives.
#[must_use]
pub fn ns_instance_id_of(v: u32, tenant: &str, service: &str, deploy_intent: &str) -> String {
    let parts = [tenant.as_bytes(), service.as_bytes(), deploy_intent.as_bytes()];
    let digits = if v >= 4 { NS_ID_DIGITS } else { NS_ID_DIGITS_3 };
    format!("ns-{}", &Digest::of_parts(parts).hex()[..digits])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found in half a minute on one core; another tenant's id, among ten thousand live ones, takes minutes.
    #[test]
    fn two_services_of_one_id_under_version_3_are_two() {
        let of = |v, intent| ns_instance_id_of(v, "acme", "edge", intent);
        assert_eq!(of(3, "i-09856834"), "ns-d7ae9c76d4d3");
        assert_eq!(of(3, "i-09856834"), of(3, "i-02509406"));
        assert_ne!(of(ENTRY_VERSION, "i-09856834"), of(ENTRY_VERSION, "i-02509406"));
        assert_eq!(of(4, "i-09856834").len(), "ns-".len() + 32);
    }
}
