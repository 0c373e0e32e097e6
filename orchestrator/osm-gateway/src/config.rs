//! `[osm_gateway]` of `config.toml`: where OSM's clients are answered, which of OSM's projects are managed, and whose keys
//! are kept for whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
};

use ledger_contract::intent::{PlacementHints, Sensitivity, Sla};
use serde::{Deserialize, Serialize};

/// Most managed projects, and most identities: each identity is a key in custody.
const MAX_ENTRIES: usize = 1000;
/// Longest lease that a project may give by default, s: ten years, as the CLI.
const MAX_LEASE_S: u64 = 10 * 365 * 86_400;

/// Where OSM's clients are answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// `ADDRESS:PORT`.
    pub listen: String,
    /// Certificate chain, PEM; absent together with `key`: plain HTTP, on a loopback address alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// OSM's projects in which nothing changes without an intent, by name. Every other project passes through.
    #[serde(rename = "project", default)]
    pub projects: BTreeMap<String, ManagedProject>,
    /// Who speaks for which person: `USER@PROJECT`, as OSM's token names them.
    #[serde(rename = "identity", default)]
    pub identities: BTreeMap<String, PersonKey>,
}

/// A managed project, and what OSM's forms have no field for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagedProject {
    /// The tenant whose services its network services are.
    pub tenant: String,
    /// What is promised where a request says nothing.
    pub sla: Sla,
    /// How sensitive the traffic is.
    pub sensitivity: Sensitivity,
    /// How long a service may run from its approval, s.
    pub lease_s: u64,
    /// Where services may run besides what the VIM account says.
    #[serde(default, skip_serializing_if = "is_anywhere")]
    pub placement: PlacementHints,
    /// Longest that a request may take to be decided and carried out, s; OSM's `timeout_ns_…` overrides it.
    #[serde(default = "default_expires_s")]
    pub expires_s: u64,
    /// What else may be written there, unseen by the ledger: `admin/v1/users`, `nst/v1/netslice_templates`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pass: BTreeSet<String>,
}

fn is_anywhere(hints: &PlacementHints) -> bool {
    *hints == PlacementHints::default()
}

fn default_expires_s() -> u64 {
    3600
}

/// A person's certificate and key, as `mandate init` makes them for members: in our custody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersonKey {
    /// Certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// OSM's id of the user: another user who gets this name later is somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
}

/// What OSM itself is: `[osm]`, as far as the gateway needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The NBI's base: `https://osm.example:9999/osm`.
    pub url: String,
    /// The CA that certified it, PEM; absent: those that browsers know.
    pub cacert: Option<PathBuf>,
    /// It is not TLS, and that was allowed.
    pub allow_plain_http: bool,
    /// Our sites and the name of OSM's VIM account for each.
    pub sites: BTreeMap<String, String>,
}

/// What no pass list opens: these are what intents are for.
const NEVER_PASSED: [&str; 4] = ["nslcm/", "vnfpkgm/", "nsd/", "vnflcm/"];

impl GatewayConfig {
    /// The key that is wrong, and what would be right.
    pub fn check(&self) -> Result<(), (String, String)> {
        let bad = |key: String, problem: String| Err((format!("osm_gateway.{key}"), problem));
        let Ok(listen) = self.listen.parse::<SocketAddr>() else {
            return bad("listen".into(), "ADDRESS:PORT, for example 0.0.0.0:9998 or [::]:9998".into());
        };
        if self.certificate.is_some() != self.key.is_some() {
            return bad(
                "certificate".into(),
                "certificate and key belong together: name both or neither".into(),
            );
        }
        if self.certificate.is_none() && !listen.ip().is_loopback() {
            let problem = format!(
                "{listen} without certificate and key: passwords and tokens would cross the network readable; name both, or listen on 127.0.0.1"
            );
            return bad("listen".into(), problem);
        }
        if self.projects.is_empty() {
            return bad("project".into(), "at least one [osm_gateway.project.NAME] is needed".into());
        }
        if self.projects.len().max(self.identities.len()) > MAX_ENTRIES {
            return bad(
                "project".into(),
                format!("at most {MAX_ENTRIES} projects and {MAX_ENTRIES} identities"),
            );
        }
        self.projects.iter().try_for_each(|(name, project)| {
            project.check().or_else(|(key, problem)| bad(format!("project.{name}.{key}"), problem))
        })?;
        for who in self.identities.keys() {
            let project = who.rsplit_once('@').map(|(user, project)| (user.is_empty(), project));
            match project {
                Some((false, project)) if self.projects.contains_key(project) => {}
                Some((false, project)) => {
                    return bad(
                        format!("identity.\"{who}\""),
                        format!("there is no [osm_gateway.project.{project}]"),
                    );
                }
                _ => return bad(format!("identity.\"{who}\""), "write it USER@PROJECT".into()),
            }
        }
        Ok(())
    }
}

impl ManagedProject {
    fn check(&self) -> Result<(), (String, String)> {
        let bad = |key: &str, problem: String| Err((key.to_owned(), problem));
        if self.tenant.is_empty() {
            return bad("tenant", "a tenant's name".into());
        }
        if !(1..=MAX_LEASE_S).contains(&self.lease_s) {
            return bad("lease_s", format!("1 to {MAX_LEASE_S} seconds"));
        }
        if !(60..=86_400).contains(&self.expires_s) {
            return bad("expires_s", "60 to 86400 seconds".into());
        }
        let legal = |p: &str| {
            p.split('/').count() == 3
                && p.split('/').all(|s| !s.is_empty())
                && !p.contains(['?', '#', '%', ' '])
        };
        for path in &self.pass {
            if !legal(path) {
                return bad("pass", format!("`{path}`: TOPIC/v1/RESOURCE, for example admin/v1/users"));
            }
            if NEVER_PASSED.iter().any(|p| path.starts_with(p)) {
                return bad(
                    "pass",
                    format!("`{path}`: network services and packages change by intents alone"),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn project() -> ManagedProject {
        ManagedProject {
            tenant: "acme".into(),
            sla: Sla { throughput_kbps: 1, latency_p95_us: 1, loss_ppm: 0 },
            sensitivity: Sensitivity::Internal,
            lease_s: 3600,
            placement: PlacementHints::default(),
            expires_s: 3600,
            pass: BTreeSet::new(),
        }
    }

    pub(crate) fn config() -> GatewayConfig {
        let key = PersonKey { certificate: "c".into(), key: "k".into(), user_id: None };
        GatewayConfig {
            listen: "127.0.0.1:0".into(),
            certificate: None,
            key: None,
            projects: [("edge".to_owned(), project())].into(),
            identities: [("alice@edge".to_owned(), key)].into(),
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        config().check().unwrap();
        let wrong = |change: &dyn Fn(&mut GatewayConfig)| {
            let mut c = config();
            change(&mut c);
            c.check().unwrap_err().0
        };
        assert_eq!(wrong(&|c| c.listen = "9998".into()), "osm_gateway.listen");
        assert_eq!(wrong(&|c| c.listen = "0.0.0.0:9998".into()), "osm_gateway.listen", "plain");
        assert_eq!(wrong(&|c| c.key = Some("k".into())), "osm_gateway.certificate");
        assert_eq!(wrong(&|c| c.projects.clear()), "osm_gateway.project");
        for who in ["alice", "@edge", "alice@core"] {
            let key = config().identities["alice@edge"].clone();
            let at = wrong(&|c| drop(c.identities.insert(who.into(), key.clone())));
            assert_eq!(at, format!("osm_gateway.identity.\"{who}\""));
        }
        for pass in [
            "nslcm/v1/ns_instances",
            "admin/v1",
            "admin/v1/users/x",
            "admin/v1/u?x",
            "vnfpkgm/v1/vnf_packages",
        ] {
            let at = wrong(&|c| assert!(c.projects.get_mut("edge").unwrap().pass.insert(pass.into())));
            assert_eq!(at, "osm_gateway.project.edge.pass", "{pass}");
        }
    }
}
