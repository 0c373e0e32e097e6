//! What the ledger keeps and emits: requests, records, verdicts, grants, entries.

use std::collections::{BTreeMap, BTreeSet};

use attestation::AkRecord;
use serde::{Deserialize, Serialize};
use trust::{Digest, Envelope, UnixTime};

/// DSSE payload type: a provider registers a package ([`PackageRecord`]).
pub const PACKAGE_PAYLOAD: &str = "application/vnd.mandate.package.v1+json";
/// DSSE payload type: the operator registers a site's attestation key ([`attestation::AkRecord`]).
pub const AK_PAYLOAD: &str = "application/vnd.mandate.attestation-key.v1+json";
/// DSSE payload type: the orchestrator anchors an operation's evidence ([`Anchor`]).
pub const ANCHOR_PAYLOAD: &str = "application/vnd.mandate.anchor.v1+json";
/// DSSE payload type: the operator founds the ledger ([`Genesis`]); entry 0.
pub const GENESIS_PAYLOAD: &str = "application/vnd.mandate.genesis.v1+json";

/// A package as its provider registers it. Names say nothing; the digest does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PackageRecord {
    /// Digest of the package file.
    pub digest: Digest,
    /// `vnf` or `ns`.
    pub kind: PackageKind,
    /// Descriptor id.
    pub descriptor_id: String,
    /// Descriptor version.
    pub version: String,
    /// For an NSD: the digests of the VNF packages of its `vnfd-id`s, by VNFD id.
    #[serde(default)]
    pub constituents: BTreeMap<String, Digest>,
    /// What one instance at its default level uses; an NSD counts its own as the sum over its members.
    pub resources: ResourceUse,
    /// What one step of a scaling aspect adds, by `member/aspect` (NSD) or `aspect` (VNFD).
    #[serde(default)]
    pub scaling: BTreeMap<String, ResourceUse>,
    /// For an NSD: the VNFD id of each member VNF index, so that single members can be charged.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<String, String>,
    /// The software images it carries.
    #[serde(default)]
    pub images: Vec<ImageRecord>,
}

/// `vnf` or `ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PackageKind {
    /// A VNF package.
    Vnf,
    /// An NSD package.
    Ns,
}

/// A software image of a package, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// Digest of the image.
    pub digest: Digest,
    /// Digest of its CycloneDX SBOM; absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<Digest>,
    /// What its SBOM says, as far as rules look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<ImageContents>,
    /// Its SLSA v1 provenance (DSSE, in-toto statement), whole: the contract verifies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Envelope>,
    /// The same in a Sigstore bundle, in place of [`Self::provenance`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance_bundle: Option<ProvenanceBundle>,
}

/// SLSA provenance (v1 or v0.2) in a Sigstore bundle, whole: the contract verifies it with the keys and identities that
/// the ledger has of one organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ProvenanceBundle {
    /// The organisation that lists the key or identity which signed.
    pub org: String,
    /// The bundle's file as it is, JSON text.
    pub bundle: String,
}

/// What an SBOM says of an image. Orchestrator and provider read it from the same document, independently.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ImageContents {
    /// Has it NTIA's minimum elements: author, time and relationships, and of each component its name, version,
    /// supplier and a unique identifier?
    pub complete: bool,
    /// SPDX licence ids and expressions of its components.
    #[serde(default)]
    pub licences: BTreeSet<String>,
    /// Its components: `sha256:<hex>` where the SBOM has a digest, and the purl where it has one.
    #[serde(default)]
    pub components: BTreeSet<String>,
}

/// Countable use, for quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ResourceUse {
    /// VDU instances.
    pub instances: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// SR-IOV virtual functions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vfs: u32,
    /// Bandwidth of its connection points, Mbit/s.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bandwidth_mbps: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl ResourceUse {
    /// Nothing at all?
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// The larger of both, each by itself.
    #[must_use]
    pub fn max(&self, other: &Self) -> Self {
        self.zip(other, u32::max)
    }

    /// The difference, 0 where there is none.
    #[must_use]
    pub fn less(&self, other: &Self) -> Self {
        self.zip(other, u32::saturating_sub)
    }

    /// The sum (saturating: what cannot be counted is over every quota).
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.zip(other, u32::saturating_add)
    }

    /// So many times (saturating).
    #[must_use]
    pub fn times(&self, n: u32) -> Self {
        let n = Self { instances: n, vcpus: n, memory_mib: n, vfs: n, bandwidth_mbps: n };
        self.zip(&n, u32::saturating_mul)
    }

    /// The difference; `None` when `other` is more in any of them.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Option<Self> {
        Some(Self {
            instances: self.instances.checked_sub(other.instances)?,
            vcpus: self.vcpus.checked_sub(other.vcpus)?,
            memory_mib: self.memory_mib.checked_sub(other.memory_mib)?,
            vfs: self.vfs.checked_sub(other.vfs)?,
            bandwidth_mbps: self.bandwidth_mbps.checked_sub(other.bandwidth_mbps)?,
        })
    }

    fn zip(&self, other: &Self, f: impl Fn(u32, u32) -> u32) -> Self {
        Self {
            instances: f(self.instances, other.instances),
            vcpus: f(self.vcpus, other.vcpus),
            memory_mib: f(self.memory_mib, other.memory_mib),
            vfs: f(self.vfs, other.vfs),
            bandwidth_mbps: f(self.bandwidth_mbps, other.bandwidth_mbps),
        }
    }
}

impl std::fmt::Display for ResourceUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} instances, {} vCPUs, {} MiB", self.instances, self.vcpus, self.memory_mib)?;
        if self.vfs > 0 {
            write!(f, ", {} VFs", self.vfs)?;
        }
        if self.bandwidth_mbps > 0 {
            write!(f, ", {} Mbit/s", self.bandwidth_mbps)?;
        }
        Ok(())
    }
}

/// What founds a ledger: organisations, and the first policy bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Name of the ledger (origin of its checkpoints).
    pub ledger: String,
    /// CA certificates (PEM) by organisation.
    pub orgs: BTreeMap<String, trust::identity::OrgRoot>,
    /// The organisation that operates it.
    pub operator: String,
    /// The policy bundle in force.
    pub policy: PolicyBundle,
}

/// A policy bundle: files by path. Its digest is over the sorted list of paths and contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyBundle {
    /// `*.rego` and one `data.json`.
    pub files: BTreeMap<String, String>,
}

impl PolicyBundle {
    /// What every verdict cites.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of_parts(self.files.iter().flat_map(|(p, c)| [p.as_bytes(), c.as_bytes()]))
    }
}

/// What the orchestrator anchors when an operation is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// Operation id; an anchor for the same operation is accepted once.
    pub operation_id: String,
    /// Id of the intent it carried out.
    pub intent_id: String,
    /// NS instance.
    pub ns_instance_id: String,
    /// SOL003 final state: `COMPLETED`, `ROLLED_BACK`, `FAILED`.
    pub outcome: String,
    /// Digest of the evidence bundle's body.
    pub bundle: Digest,
    /// Was the service isolated (traffic cut, instances kept)? Then it still exists, whatever the outcome.
    #[serde(default)]
    pub isolated: bool,
    /// Was the SLA met? Absent when nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla_met: Option<bool>,
    /// What the service uses at each site from now on, whole; absent: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<BTreeMap<String, ResourceUse>>,
}

/// One rule's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RuleResult {
    /// Stable id, `group/name`: `authorization/role`, `quota/vcpus`, `provenance/slsa-level`, …
    pub rule: String,
    /// Did it pass?
    pub passed: bool,
    /// Stable code of a refusal, `UPPER_SNAKE_CASE`; empty when it passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// What was compared with what.
    pub detail: String,
}

/// The rule of every decision that says who asks.
pub const AUTHENTICATION: &str = "authentication/signature";

/// A decision, with every rule that was evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// True only when every rule passed.
    pub approved: bool,
    /// All of them, in order.
    pub rules: Vec<RuleResult>,
    /// Digest of the policy bundle that decided.
    pub policy: Digest,
}

impl Verdict {
    /// The first refusal's code, or empty.
    #[must_use]
    pub fn code(&self) -> &str {
        self.rules.iter().find(|r| !r.passed).map_or("", |r| r.code.as_str())
    }

    /// The first refusal's detail, or empty.
    #[must_use]
    pub fn detail(&self) -> &str {
        self.rules.iter().find(|r| !r.passed).map_or("", |r| r.detail.as_str())
    }

    /// Is it known who asked? Otherwise the request is no entry: a stranger must not make the log grow.
    #[must_use]
    pub fn authenticated(&self) -> bool {
        self.rules.iter().any(|r| r.passed && r.rule == AUTHENTICATION)
    }
}

/// What an approved intent entitles the orchestrator to do, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Ledger it is valid on.
    pub ledger: String,
    /// Id of the intent.
    pub intent_id: String,
    /// Digest of the intent's payload.
    pub intent: Digest,
    /// Tenant.
    pub tenant: String,
    /// NS instance it concerns.
    pub ns_instance_id: String,
    /// One of [`crate::intent::ACTIONS`].
    pub action: String,
    /// Not to be started after this.
    pub not_after: UnixTime,
    /// End of the lease (deploy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<UnixTime>,
    /// The packages it may use: digests by descriptor id.
    pub packages: BTreeMap<String, Digest>,
    /// Digests of every software image in those packages: nothing else may run.
    #[serde(default)]
    pub images: BTreeSet<Digest>,
    /// Sites whose attestation keys were registered at the time of the decision.
    pub attestation_keys: Vec<AkRecord>,
    /// Must the service be attested before it counts as instantiated?
    pub attestation_required: bool,
    /// Must it run in a trusted execution environment that attests itself ([`crate::policy::Assurance::Tee`])?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tee_required: bool,
    /// Policy bundle that decided.
    pub policy: Digest,
    /// What the tenant may still use at a site, for the sites that the policy limits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub site_quotas: BTreeMap<String, ResourceUse>,
    /// Rules that were waived, by break-glass; empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waived: Vec<String>,
    /// The standing grant that entitled the orchestrator to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<String>,
}

/// DSSE payload type: a tenant, or the operator, lets the orchestrator act by itself ([`StandingGrant`]).
pub const STANDING_PAYLOAD: &str = "application/vnd.mandate.standing-grant.v1+json";
/// DSSE payload type: the consortium changes its own rules ([`Governance`]).
pub const GOVERNANCE_PAYLOAD: &str = "application/vnd.mandate.governance.v1+json";

/// What the orchestrator may do by itself, for whom, how often. It is an intent that is approved in advance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandingGrant {
    /// Unique for ever: 8 to 64 of `a-z 0-9 -`.
    pub id: String,
    /// Tenant whose services.
    pub tenant: String,
    /// Only these services; empty: all of the tenant's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// Of `heal`, `isolate`, and `terminate` (at the end of the lease, never before).
    pub actions: BTreeSet<String>,
    /// Most operations within [`Self::window_s`], per service.
    pub budget: u32,
    /// Window of the budget, s.
    pub window_s: u64,
    /// Least time between two operations on one service, s.
    pub cooldown_s: u64,
    /// Good from.
    pub not_before: UnixTime,
    /// Good to.
    pub not_after: UnixTime,
}

/// A change of the rules themselves: it needs the signatures that the policy in force asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Governance {
    /// Unique for ever: 8 to 64 of `a-z 0-9 -`.
    pub id: String,
    /// The ledger whose rules.
    pub ledger: String,
    /// Not to be decided after this.
    pub not_after: UnixTime,
    /// Why, for the auditors.
    pub reason: String,
    /// What.
    pub change: Change,
}

/// What a [`Governance`] changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Another policy bundle comes into force.
    Policy {
        /// It.
        bundle: PolicyBundle,
        /// The bundle that must be in force now.
        supersedes: Digest,
    },
    /// An organisation joins, changes its roots or revocations, or leaves (no `root`).
    Organisation {
        /// Name.
        name: String,
        /// From now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<trust::identity::OrgRoot>,
    },
    /// What was granted or registered is taken back.
    Revoke {
        /// It.
        what: Revocable,
    },
}

impl Change {
    /// What a policy calls it, for its signing rule.
    #[must_use]
    pub fn gate(&self) -> &'static str {
        match self {
            Self::Policy { .. } => "policy",
            Self::Organisation { .. } => "organisation",
            Self::Revoke { .. } => "revoke",
        }
    }
}

/// What can be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case", deny_unknown_fields)]
pub enum Revocable {
    /// An approved intent whose operation is under way: it is unwound.
    Intent {
        /// Id.
        id: String,
    },
    /// A standing grant.
    StandingGrant {
        /// Id.
        id: String,
    },
    /// A package: no intent may name it any more.
    Package {
        /// Digest.
        digest: Digest,
    },
    /// A site's attestation key.
    AttestationKey {
        /// Site.
        site: String,
    },
}

/// At most one per transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// An intent was approved.
    IntentApproved {
        /// What it entitles to.
        grant: Box<Grant>,
    },
    /// Evidence was anchored.
    EvidenceAnchored {
        /// Operation.
        operation_id: String,
        /// Digest of the bundle.
        bundle: Digest,
    },
    /// An approved intent was taken back: its operation, if under way, is to be unwound.
    IntentRevoked {
        /// Intent.
        intent_id: String,
        /// Why.
        reason: String,
    },
    /// The orchestrator may act by itself from now on.
    StandingGranted {
        /// What it may do.
        grant: Box<StandingGrant>,
    },
    /// A standing grant was taken back.
    StandingRevoked {
        /// Its id.
        id: String,
    },
    /// Another policy bundle is in force.
    PolicyChanged {
        /// Digest of the one before.
        before: Digest,
        /// Digest of the one in force from the next entry on.
        now: Digest,
    },
    /// An organisation joined, changed or left.
    OrganisationChanged {
        /// Name.
        name: String,
        /// Digest of its new roots' JSON; absent when it left.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<Digest>,
    },
}

/// A ledger entry: the exact bytes of this document's JSON are the leaf of the Merkle tree.
///
/// Refused requests are entries too: who asked for what, and which rule refused. Only those that nobody known to the
/// ledger has signed ([`Verdict::authenticated`]) are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Version of this format.
    pub v: u32,
    /// Ledger's name.
    pub ledger: String,
    /// Position, from 0.
    pub position: u64,
    /// Ledger time.
    pub time: UnixTime,
    /// The signed request.
    pub request: Envelope,
    /// What was decided.
    pub verdict: Verdict,
    /// What was emitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    /// Digest over the state writes (sorted keys and values).
    pub writes: Digest,
}

/// The state a transaction reads: named before the decision.
pub type ReadSet = BTreeSet<String>;

/// Version of the entry format, and of the rules that decided it, that a new [`Entry::v`] carries. Older ones are read,
/// and decided again, by the rules of their time:
///
/// * 1: deploy, scale, terminate; one signature.
/// * 2: every action, co-signing, standing grants, break-glass, governance; revisions and use by site in the state.
/// * 3: an isolation or a termination that a person asks for is approved while another operation is under way.
/// * 4: an NS instance's id has 128 bits of its digest instead of 48.
pub const ENTRY_VERSION: u32 = 4;

impl Entry {
    /// Does it change who decides what?
    #[must_use]
    pub fn changes_rules(&self) -> bool {
        matches!(self.event, Some(Event::PolicyChanged { .. } | Event::OrganisationChanged { .. }))
    }

    /// The leaf: always the same bytes for the same entry.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and maps with text keys always encode.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
