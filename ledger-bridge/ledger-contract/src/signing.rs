//! Whose signatures a request takes: separation of duties and n-of-m co-signing, as the policy says for each action.
//!
//! Pure, over identities whose signatures were verified already; the contract and the actuator count alike. Who asks is
//! the first signature; all others are co-signers. A person counts once, whatever number of certificates or keys they
//! have: subject (organisation and name) and key must both be new. Tests: `tests/emergency.rs`, `tests/governance.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trust::Identity;

use crate::{
    built::Supplier,
    verdict::{Checked, fault},
};

/// What takes signatures besides the actions of intents.
pub const GATED: [&str; 7] =
    ["package", "attestation_key", "standing_grant", "policy", "organisation", "revoke", "break_glass"];

/// Most co-signers that a rule can ask for: an envelope has room for them and who asks.
pub const MAX_COSIGNERS: u32 = 15;

/// Whose signatures something takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningRule {
    /// People who sign besides who asks.
    #[serde(default)]
    pub cosigners: u32,
    /// Roles of which each co-signer must have one; empty: any.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<String>,
    /// Of those, so many of a role at least.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub of_role: BTreeMap<String, u32>,
    /// Different organisations among all who count, who asks included.
    #[serde(default)]
    pub organisations: u32,
    /// Separation of duties: who signed the software (package or build) does not count for its deployment.
    #[serde(default)]
    pub not_suppliers: bool,
}

impl SigningRule {
    /// What holds when a policy says nothing.
    #[must_use]
    pub fn default_of(what: &str) -> Self {
        match what {
            "policy" | "organisation" => Self {
                cosigners: 1,
                roles: ["operator", "auditor"].map(str::to_owned).into(),
                ..Self::default()
            },
            _ => Self::default(),
        }
    }

    pub(crate) fn problem(&self, what: &str) -> Option<String> {
        if self.cosigners > MAX_COSIGNERS {
            return Some(format!("{} co-signers; at most {MAX_COSIGNERS} fit", self.cosigners));
        }
        if ["policy", "organisation"].contains(&what) && self.cosigners == 0 {
            return Some("nobody changes the rules alone: at least one co-signer".to_owned());
        }
        let asked: u32 = self.of_role.values().fold(0, |a, b| a.saturating_add(*b));
        if asked > self.cosigners {
            return Some(format!(
                "{} of certain roles, but only {} at all",
                number(asked, "co-signer", "co-signers"),
                self.cosigners
            ));
        }
        if let Some(role) = self.of_role.keys().find(|r| !self.roles.is_empty() && !self.roles.contains(*r)) {
            return Some(format!("co-signers of role `{role}` are asked for, which `roles` excludes"));
        }
        (self.organisations > self.cosigners.saturating_add(1))
            .then(|| format!("{} organisations cannot come from so few signers", self.organisations))
    }

    /// Do these people fulfil it? `signers`: of every signature, who asks first, each with its organisation entitled to
    /// vouch for it. `suppliers`: who signed the software.
    pub(crate) fn fulfilled(&self, signers: &[Identity], suppliers: &[Supplier]) -> Checked<String> {
        let Some(asker) = signers.first() else {
            return fault("SIGNATURES_TOO_FEW", "there is no signature");
        };
        if self.not_suppliers && suppliers.iter().any(|s| s.is(asker)) {
            return fault(
                "SIGNER_NOT_SEPARATE",
                format!("{asker} signed the software; another person has to ask for its use"),
            );
        }
        let counted = self.counted(signers, suppliers);
        let organisations: BTreeSet<&str> =
            std::iter::once(asker).chain(counted.iter().copied()).map(|i| i.org.as_str()).collect();
        let names = counted.iter().map(|i| format!("{i} ({})", i.role())).collect::<Vec<_>>().join(", ");
        let have =
            if names.is_empty() { "no co-signer counts".to_owned() } else { format!("co-signed by {names}") };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        if count(counted.len()) < self.cosigners {
            return fault(
                "SIGNATURES_TOO_FEW",
                format!(
                    "{have}; {} needed{}",
                    number(self.cosigners, "co-signer is", "co-signers are"),
                    self.whose()
                ),
            );
        }
        for (role, least) in &self.of_role {
            if count(counted.iter().filter(|i| i.role() == role).count()) < *least {
                return fault(
                    "SIGNATURES_TOO_FEW",
                    format!(
                        "{have}; {least} of role {role} {} needed",
                        if *least == 1 { "is" } else { "are" }
                    ),
                );
            }
        }
        if count(organisations.len()) < self.organisations {
            let all = organisations.into_iter().collect::<Vec<_>>().join(", ");
            return fault(
                "ORGANISATIONS_TOO_FEW",
                format!(
                    "signers of {all}; {} needed",
                    number(self.organisations, "organisation is", "organisations are")
                ),
            );
        }
        Ok(match self.cosigners {
            0 => "one signature is enough".to_owned(),
            n => format!("{have}; {n} needed"),
        })
    }

    fn whose(&self) -> String {
        match self.roles.is_empty() {
            true => String::new(),
            false => format!(", of {}", self.roles.iter().cloned().collect::<Vec<_>>().join(" or ")),
        }
    }

    /// Co-signers that count: other people than who asks and than each other, of the right role.
    fn counted<'a>(&self, signers: &'a [Identity], suppliers: &[Supplier]) -> Vec<&'a Identity> {
        let mut people: BTreeSet<String> = signers.first().map(ToString::to_string).into_iter().collect();
        let mut keys: Vec<_> = signers.first().map(|i| i.key).into_iter().collect();
        let mut out = Vec::new();
        for who in signers.iter().skip(1) {
            let right = self.roles.is_empty() || self.roles.contains(who.role());
            let separate = !self.not_suppliers || !suppliers.iter().any(|s| s.is(who));
            if right && separate && !keys.contains(&who.key) && people.insert(who.to_string()) {
                keys.push(who.key);
                out.push(who);
            }
        }
        out
    }
}

/// A number with its noun.
fn number(n: u32, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
