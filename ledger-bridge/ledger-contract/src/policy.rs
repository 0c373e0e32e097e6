//! The policy bundle: `data.json` for the structural rules, `*.rego` for the tenant rules, and the default one.
//!
//! Strict: an unknown key of `data.json` is an error, for a misspelt quota must not mean «no quota».

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{intent::Sensitivity, records::PolicyBundle};

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
    /// SLSA build level by builder id.
    #[serde(default)]
    pub builders: BTreeMap<String, u32>,
    /// Least SLSA build level of every image, by sensitivity.
    pub slsa_min_level: BySensitivity<u32>,
    /// Longest lease, seconds, by sensitivity.
    pub max_lease_s: BySensitivity<u64>,
    /// By tenant, or `default`.
    pub quotas: BTreeMap<String, Quota>,
    /// Jurisdictions that restricted services may run in, by tenant, or `default`.
    #[serde(default)]
    pub jurisdictions: BTreeMap<String, BTreeSet<String>>,
    /// Whatever the tenant rules need; not read here.
    #[serde(default)]
    pub tenant: serde_json::Value,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
        self.data()?;
        crate::rego::declared(self).map(|_| ())
    }
}
