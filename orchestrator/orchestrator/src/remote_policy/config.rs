//! `[openstack_policy]` of `config.toml`: where the services' checks are answered, and what each cloud manages.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

/// Most projects, and most users of each kind, of one cloud: a policy file names each project twice in one rule.
const MAX_IDS: usize = 1000;
/// Longest name of a cloud: it is part of a URL and a label of metrics.
const MAX_NAME: usize = 32;

/// Where the checks of OpenStack's services are answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// `ADDRESS:PORT`.
    pub listen: String,
    /// How the services reach it: `https://HOST:PORT`, a name or address that the certificate has.
    pub url: String,
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The CA of the services' certificates, PEM; it should sign for nothing else.
    pub client_ca: PathBuf,
    /// The clouds that ask, by name.
    #[serde(rename = "cloud", default)]
    pub clouds: BTreeMap<String, CloudPolicy>,
}

/// What is managed of a cloud, and who acts there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudPolicy {
    /// The sites that this cloud is.
    pub sites: BTreeSet<String>,
    /// Ids of the projects in which nothing changes without an operation.
    pub projects: BTreeSet<String>,
    /// Ids of Mandate's own users.
    pub users: BTreeSet<String>,
    /// Ids of the users as whom a MANO (OSM, by its VIM account) acts: they pass while an operation of ours waits for that MANO, for
    /// the instances that it was asked for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub mano_users: BTreeSet<String>,
    /// Ids of the users as whom nova asks neutron for ports on somebody's behalf.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub service_users: BTreeSet<String>,
}

impl PolicyConfig {
    /// The key that is wrong, and what would be right.
    pub fn check(&self, sites: &BTreeSet<&str>) -> Result<(), (String, String)> {
        let bad = |key: &str, problem: &str| Err((format!("openstack_policy.{key}"), problem.to_owned()));
        if self.listen.parse::<std::net::SocketAddr>().is_err() {
            return bad("listen", "ADDRESS:PORT, for example 0.0.0.0:8444 or [::]:8444");
        }
        let host = self.url.strip_prefix("https://").unwrap_or_default();
        let legal = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        if host.is_empty() || !host.chars().all(legal) {
            return bad("url", "https://HOST:PORT without a path, as the services reach it");
        }
        if self.clouds.is_empty() {
            return bad("cloud", "at least one [openstack_policy.cloud.NAME] is needed");
        }
        let mut taken = BTreeMap::new();
        for (name, cloud) in &self.clouds {
            cloud.check(name, sites)?;
            for site in &cloud.sites {
                if let Some(other) = taken.insert(site, name) {
                    let problem = format!("`{site}` is of the cloud `{other}` already");
                    return bad(&format!("cloud.{name}.sites"), &problem);
                }
            }
        }
        Ok(())
    }

    /// The cloud that a site is.
    #[must_use]
    pub fn cloud_of(&self, site: &str) -> Option<&str> {
        self.clouds.iter().find(|(_, c)| c.sites.contains(site)).map(|(name, _)| name.as_str())
    }
}

impl CloudPolicy {
    fn check(&self, name: &str, sites: &BTreeSet<&str>) -> Result<(), (String, String)> {
        let bad =
            |key: &str, problem: &str| Err((format!("openstack_policy.cloud.{name}{key}"), problem.into()));
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(legal) {
            return bad("", &format!("a cloud's name is 1 to {MAX_NAME} of a-z 0-9 -"));
        }
        if let Some(other) = self.sites.iter().find(|s| !sites.contains(s.as_str())) {
            return bad(".sites", &format!("`{other}` is no [[site]]"));
        }
        let ids = [
            (".sites", &self.sites, 1),
            (".projects", &self.projects, 1),
            (".users", &self.users, 1),
            (".mano_users", &self.mano_users, 0),
            (".service_users", &self.service_users, 0),
        ];
        for (key, ids, least) in ids {
            if !(least..=MAX_IDS).contains(&ids.len()) {
                return bad(key, &format!("{least} to {MAX_IDS}"));
            }
            if let Some(id) = ids.iter().find(|id| !is_id(id)) {
                return bad(key, &format!("`{id}` is no id: `openstack project show NAME -c id`"));
            }
        }
        let twice = |key: &str, one: &BTreeSet<String>, other: &BTreeSet<String>, what: &str| {
            let Some(id) = one.intersection(other).next() else { return Ok(()) };
            bad(key, &format!("`{id}` is among the {what}: a user is the one or the other"))
        };
        twice(".service_users", &self.users, &self.service_users, "users")?;
        twice(".mano_users", &self.mano_users, &self.users, "users")?;
        twice(".mano_users", &self.mano_users, &self.service_users, "service users")
    }
}

/// Ids go into a policy file as they are: nothing that its grammar would read.
fn is_id(id: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=64).contains(&id.len()) && id.chars().all(legal)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn cloud() -> CloudPolicy {
        let ids = |ids: &[&str]| ids.iter().map(|i| (*i).to_owned()).collect();
        CloudPolicy {
            sites: ids(&["edge"]),
            projects: ids(&["p1", "p2"]),
            users: ids(&["mandate"]),
            mano_users: ids(&["osm"]),
            service_users: ids(&["nova"]),
        }
    }

    pub(crate) fn config() -> PolicyConfig {
        PolicyConfig {
            listen: "127.0.0.1:0".into(),
            url: "https://mandate.example:8444".into(),
            certificate: "a".into(),
            key: "b".into(),
            client_ca: "c".into(),
            clouds: [("yoga".to_owned(), cloud())].into(),
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let sites = BTreeSet::from(["edge", "core"]);
        config().check(&sites).unwrap();
        let wrong = |change: fn(&mut PolicyConfig)| {
            let mut c = config();
            change(&mut c);
            c.check(&sites).unwrap_err().0
        };
        assert_eq!(wrong(|c| c.listen = "8444".into()), "openstack_policy.listen");
        for url in ["http://x", "https://", "https://x/y", "https://x y", "https://%(id)s"] {
            let mut c = config();
            c.url = url.into();
            assert_eq!(c.check(&sites).unwrap_err().0, "openstack_policy.url", "{url}");
        }
        assert_eq!(wrong(|c| c.clouds.clear()), "openstack_policy.cloud");
        let of = |key: &str| format!("openstack_policy.cloud.yoga{key}");
        let yoga = |c: &mut PolicyConfig, f: fn(&mut CloudPolicy)| f(c.clouds.get_mut("yoga").unwrap());
        let mut c = config();
        yoga(&mut c, |y| assert!(y.sites.insert("moon".into())));
        assert_eq!(c.check(&sites).unwrap_err().0, of(".sites"));
        for id in ["", "a b", "x)", "é", "a'b", "%(x)s"] {
            let mut c = config();
            c.clouds.get_mut("yoga").unwrap().projects.insert(id.into());
            assert_eq!(c.check(&sites).unwrap_err().0, of(".projects"), "{id}");
        }
        let mut c = config();
        yoga(&mut c, |y| y.users.clear());
        assert_eq!(c.check(&sites).unwrap_err().0, of(".users"));
        let mut c = config();
        yoga(&mut c, |y| assert!(y.service_users.insert("mandate".into())));
        assert_eq!(c.check(&sites).unwrap_err().0, of(".service_users"));
        let mut c = config();
        c.clouds.insert("b".into(), cloud());
        assert_eq!(c.check(&sites).unwrap_err().0, of(".sites"), "one site, two clouds");
    }
}
