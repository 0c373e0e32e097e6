//! The intent: what a tenant asks for, signed.
//!
//! An intent is the payload of a DSSE envelope of type [`INTENT_PAYLOAD`]. Its digest is the digest of the payload's
//! exact bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trust::{Digest, UnixTime};

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
    /// What to do.
    pub action: IntentKind,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum IntentKind {
    /// Instantiate a network service.
    Deploy(Box<Deploy>),
    /// Scale a member by one of its scaling aspects.
    Scale(Scale),
    /// Terminate the service.
    Terminate {},
}

impl IntentKind {
    /// `deploy`, `scale`, `terminate`: as policies see it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Deploy(_) => "deploy",
            Self::Scale(_) => "scale",
            Self::Terminate {} => "terminate",
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

/// Id of a service's NS instance: `ns-` and 12 hexadecimal digits of SHA-256(tenant, service, id of the deploy intent).
#[must_use]
pub fn ns_instance_id(tenant: &str, service: &str, deploy_intent: &str) -> String {
    let parts = [tenant.as_bytes(), service.as_bytes(), deploy_intent.as_bytes()];
    format!("ns-{}", Digest::of_parts(parts).short())
}
