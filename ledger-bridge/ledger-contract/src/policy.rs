//! The policy bundle: `data.json` for the structural rules, `*.rego` for the tenant rules, and the default one.
//!
//! Strict: an unknown key of `data.json` is an error, for a misspelt quota must not mean «no quota».

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use trust::UnixTime;

pub use crate::signing::SigningRule;
use crate::{
    intent::{ACTIONS, Sensitivity},
    records::{ENTRY_VERSION, PolicyBundle, ResourceUse},
    signing::GATED,
    waive::waivable,
};

/// Path of the data document in a bundle.
pub const DATA_FILE: &str = "data.json";
/// Largest file of a bundle, bytes.
pub const MAX_POLICY_FILE_BYTES: usize = 1 << 20;
/// Most files of a bundle.
pub const MAX_POLICY_FILES: usize = 64;
/// SLSA builder id that the default bundle trusts, at level 2: the packer of this repository.
pub const DEFAULT_BUILDER: &str = "https://mandate.dev/builders/local/v1";

/// `data.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyData {
    /// Which roles and tenants an organisation's certificates may claim. Empty: any organisation may vouch for any
    /// provider, auditor and tenant; otherwise only those listed. `operator` and `orchestrator` are the operating
    /// organisation's alone, always.
    #[serde(default)]
    pub orgs: BTreeMap<String, OrgPolicy>,
    /// SLSA build level by builder id, and whose word it takes for that.
    #[serde(default)]
    pub builders: BTreeMap<String, BuilderRule>,
    /// Least SLSA build level of every image, by sensitivity.
    pub slsa_min_level: BySensitivity<u32>,
    /// Longest lease, seconds, by sensitivity.
    pub max_lease_s: BySensitivity<u64>,
    /// By tenant, or `default`.
    pub quotas: BTreeMap<String, Quota>,
    /// Jurisdictions that restricted services may run in, by tenant, or `default`.
    #[serde(default)]
    pub jurisdictions: BTreeMap<String, BTreeSet<String>>,
    /// Whose signatures it takes, by what is asked for: an intent's action, or one of
    /// [`crate::signing::GATED`]. What is not listed takes [`PolicyData::signing`]'s default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub signing: BTreeMap<String, SigningRule>,
    /// Attributes that a signer's certificate must carry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<AttributeRule>,
    /// Who may break the glass; absent: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency: Option<EmergencyRule>,
    /// When what may be done; empty: at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// Where software may come from, and what may not be in it.
    #[serde(default, skip_serializing_if = "Supply::is_default")]
    pub supply: Supply,
    /// Least level of attestation, by sensitivity. Absent: a measured site from confidential on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assurance: Option<BySensitivity<Assurance>>,
    /// Whatever the tenant rules need; not read here.
    #[serde(default)]
    pub tenant: serde_json::Value,
}

/// How a site vouches for what runs there, each level more than those before it. What each shows, and what it does not:
/// docs/gate.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assurance {
    /// It need not.
    None,
    /// A measured launch, quoted by a TPM.
    Measured,
    /// A trusted execution environment that attests itself. No evidence that is appraised here shows one: asking for it
    /// refuses.
    Tee,
}

impl PolicyData {
    /// What a site must attest of a service: from confidential on a measured launch at least.
    #[must_use]
    pub fn assurance_of(&self, sensitivity: Sensitivity) -> Assurance {
        let asked = self.assurance.map_or(Assurance::None, |a| a.of(sensitivity));
        match sensitivity >= Sensitivity::Confidential {
            true => asked.max(Assurance::Measured),
            false => asked,
        }
    }
}

/// How far a builder is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BuilderRule {
    /// SLSA build level, whoever of the builders and providers signs that it built something.
    Level(u32),
    /// The same, when one of those listed signs.
    Signed(SignedBuilder),
}

/// A builder whose provenance counts only with certain signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBuilder {
    /// SLSA build level.
    pub level: u32,
    /// Who signs its provenance, `NAME@ORG`: a member, a key, or an identity that Fulcio certified.
    pub signers: BTreeSet<String>,
}

impl BuilderRule {
    /// SLSA build level.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::Level(level) => *level,
            Self::Signed(rule) => rule.level,
        }
    }

    /// Does it take that signer's word?
    #[must_use]
    pub fn takes(&self, signer: &str) -> bool {
        match self {
            Self::Level(_) => true,
            Self::Signed(rule) => rule.signers.contains(signer),
        }
    }
}

/// An attribute that the certificate of who asks must carry (ABAC).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeRule {
    /// For these actions; empty: all.
    #[serde(default)]
    pub actions: BTreeSet<String>,
    /// For services of at least this sensitivity; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<Sensitivity>,
    /// Name of the attribute in the certificate, as `mandate.clearance`.
    pub attribute: String,
    /// One of these values.
    pub values: BTreeSet<String>,
}

/// Break-glass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmergencyRule {
    /// Who: `tenant` for its own services, `operator` for everybody's.
    pub roles: BTreeSet<String>,
    /// For which actions.
    pub actions: BTreeSet<String>,
    /// Which rules may be waived: rule ids, or groups as `quota/*`. Who asks, replay, digests and the provenance
    /// signature never ([`crate::waive::waivable`]).
    pub waives: BTreeSet<String>,
}

/// A maintenance window, UTC. An action that a window names for a tenant is refused outside of all that do. Isolate and
/// heal are exempt: they cannot wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// For these tenants; empty: all.
    #[serde(default)]
    pub tenants: BTreeSet<String>,
    /// For these actions.
    pub actions: BTreeSet<String>,
    /// Days on which it begins; empty: every day.
    #[serde(default)]
    pub days: BTreeSet<Day>,
    /// Hour at which it begins, 0 to 23.
    pub from_hour: u8,
    /// Hour before which it ends, 1 to 24; not later than `from_hour`: on the next day.
    pub to_hour: u8,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "they are the days")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// 1970-01-01 was a Thursday.
const WEEK: [Day; 7] = [Day::Thu, Day::Fri, Day::Sat, Day::Sun, Day::Mon, Day::Tue, Day::Wed];

impl Window {
    /// Does it say anything about that action of that tenant?
    #[must_use]
    pub fn concerns(&self, tenant: &str, action: &str) -> bool {
        self.actions.contains(action) && (self.tenants.is_empty() || self.tenants.contains(tenant))
    }

    /// Is it open?
    #[must_use]
    pub fn open(&self, at: UnixTime) -> bool {
        let (day, hour) = (at.0 / 86_400, (at.0 % 86_400) / 3_600);
        let (from, to) = (u64::from(self.from_hour), u64::from(self.to_hour));
        let begins = |day: u64| {
            let weekday = usize::try_from(day % 7).ok().and_then(|d| WEEK.get(d));
            self.days.is_empty() || weekday.is_some_and(|d| self.days.contains(d))
        };
        match from < to {
            true => begins(day) && (from..to).contains(&hour),
            false => (begins(day) && hour >= from) || (day > 0 && begins(day - 1) && hour < to),
        }
    }
}

/// Where software may come from, and what may not be in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Supply {
    /// Organisations whose packages may be used, by tenant, or `default`; neither: any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub providers: BTreeMap<String, BTreeSet<String>>,
    /// SLSA builder ids whose images may be used, by tenant, or `default`; neither: any that `builders` knows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub builders: BTreeMap<String, BTreeSet<String>>,
    /// From which sensitivity on SBOMs must be complete; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_sbom_from: Option<Sensitivity>,
    /// Licences (SPDX ids or whole expressions) that nothing may have.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub denied_licences: BTreeSet<String>,
    /// What must not run: digests (of packages, images, components) and purls, with the advisory (CVE, GHSA, …) or reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub denied: BTreeMap<String, String>,
}

impl Supply {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl PolicyData {
    /// Whose signatures it takes. What the policy does not list takes one signature, but for what changes the rules
    /// themselves: there the operator is never enough alone.
    #[must_use]
    pub fn signing(&self, what: &str) -> SigningRule {
        self.signing.get(what).cloned().unwrap_or_else(|| SigningRule::default_of(what))
    }

    /// Values that no rule could make sense of.
    fn problem(&self) -> Option<String> {
        let action = |a: &&String| !ACTIONS.contains(&a.as_str());
        let gated = |a: &&String| action(a) && !GATED.contains(&a.as_str());
        if let Some(name) = self.signing.keys().find(gated) {
            return Some(format!("signing: `{name}` is neither an action nor one of {}", GATED.join(", ")));
        }
        if let Some((name, why)) = self.signing.iter().find_map(|(n, r)| r.problem(n).map(|p| (n, p))) {
            return Some(format!("signing of `{name}`: {why}"));
        }
        let hours = |w: &&Window| w.from_hour > 23 || !(1..=24).contains(&w.to_hour);
        if let Some(w) = self.windows.iter().find(hours) {
            return Some(format!("windows: from {} to {} are no hours of a day", w.from_hour, w.to_hour));
        }
        let mut named = self.windows.iter().flat_map(|w| &w.actions);
        if let Some(name) = named.find(action) {
            return Some(format!("windows: `{name}` is no action"));
        }
        let emergency = self.emergency.as_ref()?;
        if let Some(name) = emergency.actions.iter().find(action) {
            return Some(format!("emergency: `{name}` is no action"));
        }
        if let Some(role) = emergency.roles.iter().find(|r| !["tenant", "operator"].contains(&r.as_str())) {
            return Some(format!("emergency: a {role} breaks no glass, only tenant and operator do"));
        }
        let rule = emergency.waives.iter().find(|r| !waivable(r))?;
        Some(format!("emergency: rule `{rule}` is never waived"))
    }
}

/// What an organisation may vouch for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgPolicy {
    /// Roles its certificates may carry.
    pub roles: BTreeSet<String>,
    /// Tenants its certificates may speak for.
    #[serde(default)]
    pub tenants: BTreeSet<String>,
}

/// A value for each sensitivity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BySensitivity<T> {
    /// For public services.
    pub public: T,
    /// For internal services.
    pub internal: T,
    /// For confidential services.
    pub confidential: T,
    /// For restricted services.
    pub restricted: T,
}

impl<T: Copy> BySensitivity<T> {
    /// The value for a sensitivity.
    #[must_use]
    pub fn of(&self, sensitivity: Sensitivity) -> T {
        match sensitivity {
            Sensitivity::Public => self.public,
            Sensitivity::Internal => self.internal,
            Sensitivity::Confidential => self.confidential,
            Sensitivity::Restricted => self.restricted,
        }
    }
}

/// What a tenant may use at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Services.
    pub services: u32,
    /// VDU instances.
    pub instances: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// SR-IOV virtual functions; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vfs: Option<u32>,
    /// Bandwidth of connection points, Mbit/s; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_mbps: Option<u32>,
    /// At single sites, of all its services together; a site that is not listed has no limit of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sites: BTreeMap<String, ResourceUse>,
}

/// What became of one test of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestResult {
    /// The file that it is in.
    pub file: String,
    /// Its name.
    pub name: String,
    /// Was it true?
    pub passed: bool,
    /// What it was instead, or empty.
    pub detail: String,
}

/// Why a policy bundle cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy bundle, {file}: {problem}")]
pub struct PolicyError {
    /// Which file of the bundle.
    pub file: String,
    /// What is wrong with it.
    pub problem: String,
}

impl PolicyError {
    pub(crate) fn new(file: &str, problem: impl std::fmt::Display) -> Self {
        Self { file: file.to_owned(), problem: problem.to_string() }
    }
}

impl PolicyBundle {
    /// The bundle that a new ledger starts with.
    #[must_use]
    pub fn default_bundle() -> Self {
        let files = [
            (DATA_FILE, include_str!("../policy/default/data.json")),
            ("tenant.rego", include_str!("../policy/default/tenant.rego")),
            ("tenant_test.rego", include_str!("../policy/default/tenant_test.rego")),
        ];
        Self { files: files.into_iter().map(|(p, c)| (p.to_owned(), c.to_owned())).collect() }
    }

    /// The same bundle with another `data.json`.
    #[must_use]
    pub fn with_data(mut self, data: &PolicyData) -> Self {
        // A struct of maps with text keys always encodes.
        let text = serde_json::to_string_pretty(data).unwrap_or_default();
        self.files.insert(DATA_FILE.to_owned(), text);
        self
    }

    /// Reads `data.json`.
    pub fn data(&self) -> Result<PolicyData, PolicyError> {
        let text = self.files.get(DATA_FILE).ok_or_else(|| PolicyError::new(DATA_FILE, "is not there"))?;
        serde_json::from_str(text).map_err(|e| PolicyError::new(DATA_FILE, e))
    }

    /// Is it a bundle that can decide? Every file is read, every rule file compiled.
    pub fn check(&self) -> Result<(), PolicyError> {
        self.check_under(ENTRY_VERSION)
    }

    /// The same under the rules of version `v`.
    pub(crate) fn check_under(&self, v: u32) -> Result<(), PolicyError> {
        if self.files.len() > MAX_POLICY_FILES {
            return Err(PolicyError::new("*", format!("more than {MAX_POLICY_FILES} files")));
        }
        for (path, content) in &self.files {
            if content.len() > MAX_POLICY_FILE_BYTES {
                return Err(PolicyError::new(path, format!("larger than {MAX_POLICY_FILE_BYTES} bytes")));
            }
            let rego = std::path::Path::new(path).extension().is_some_and(|e| e == "rego");
            if path != DATA_FILE && !rego {
                return Err(PolicyError::new(path, "is neither data.json nor *.rego"));
            }
        }
        if let Some(problem) = self.data()?.problem() {
            return Err(PolicyError::new(DATA_FILE, problem));
        }
        crate::rego::declared(self, v).map(|_| ())
    }

    /// Runs its own tests: every rule `test_…` of each `NAME_test.rego`, over `NAME.rego` and the data, as `opa test`
    /// does. A test that is undefined, false or errs has failed.
    pub fn test(&self) -> Result<Vec<TestResult>, PolicyError> {
        self.test_under(ENTRY_VERSION)
    }

    pub(crate) fn test_under(&self, v: u32) -> Result<Vec<TestResult>, PolicyError> {
        crate::rego::test(self, v)
    }
}
