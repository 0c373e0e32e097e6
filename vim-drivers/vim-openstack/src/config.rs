//! Which cloud, and who we are there: the fields of `clouds.yaml`, with secrets in files of their own.
//!
//! Or a cloud of a `clouds.yaml`, as the `openstack` command has it ([`clouds`]). Checked before anything is asked of the
//! cloud. Tests: below.

mod clouds;

use std::{
    fs,
    path::{Path, PathBuf},
};

pub(crate) use http_peer::bad;
use http_peer::encrypted;
pub use http_peer::{BadConfig, Secret};
use reqwest::Url;
use serde::Deserialize;

/// A cloud as configured, one section of a site.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudConfig {
    /// Identity API, with or without `/v3`: `https://keystone.example:5000/v3`.
    pub auth_url: String,
    /// Who we are.
    pub auth: Auth,
    /// Region of the catalogue; absent: the catalogue has one.
    #[serde(default)]
    pub region_name: Option<String>,
    /// Which of the catalogue's endpoints.
    #[serde(default)]
    pub interface: Interface,
    /// The CA that certified the cloud's endpoints, PEM; absent: those that browsers know.
    #[serde(default)]
    pub cacert: Option<PathBuf>,
    /// Take endpoints that are not TLS: tokens and secrets then cross the network readable. For a control plane on this machine.
    #[serde(default)]
    pub allow_plain_http: bool,
    /// Longest wait for an answer, s.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u64,
}

fn default_timeout_s() -> u64 {
    60
}

/// How we prove who we are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// A user's password, scoped to a project.
    Password {
        /// User.
        username: String,
        /// Domain of the user.
        #[serde(default = "default_domain")]
        user_domain_name: String,
        /// The password, in a file of its own.
        #[serde(rename = "password_file")]
        password: Secret,
        /// Project.
        project_name: String,
        /// Domain of the project.
        #[serde(default = "default_domain")]
        project_domain_name: String,
    },
    /// An application credential: it has its project, and can be less than its user.
    ApplicationCredential {
        /// Its id.
        application_credential_id: String,
        /// The secret, in a file of its own.
        #[serde(rename = "secret_file")]
        secret: Secret,
    },
}

fn default_domain() -> String {
    "Default".to_owned()
}

/// Kind of endpoint in the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interface {
    /// For users.
    #[default]
    Public,
    /// Inside the cloud.
    Internal,
    /// For administrators.
    Admin,
}

impl Interface {
    /// As the catalogue writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }
}

impl CloudConfig {
    /// The Identity API's base, ending in `/v3/`.
    pub fn identity(&self) -> Result<Url, BadConfig> {
        let text = self.auth_url.trim_end_matches('/').trim_end_matches("/v3");
        let url = Url::parse(&format!("{text}/v3/"));
        let url = url.or_else(|e| bad("auth_url", format!("`{}` is no URL: {e}", self.auth_url)))?;
        self.allowed(&url).or_else(|problem| bad("auth_url", problem))?;
        Ok(url)
    }

    /// May this endpoint be asked?
    pub(crate) fn allowed(&self, url: &Url) -> Result<(), String> {
        encrypted(url, ("allow_plain_http", self.allow_plain_http))
    }
}

/// A short text file.
fn text(field: &'static str, path: &Path, most: u64) -> Result<String, BadConfig> {
    let trouble = |e: std::io::Error| BadConfig { field, problem: format!("{}: {e}", path.display()) };
    let length = fs::metadata(path).map_err(trouble)?.len();
    if length > most {
        return bad(field, format!("{} is longer than {most} bytes", path.display()));
    }
    fs::read_to_string(path).map_err(trouble)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(auth_url: &str) -> CloudConfig {
        let text = serde_json::json!({
            "auth_url": auth_url,
            "auth": { "type": "application_credential", "application_credential_id": "1", "secret_file": "/x" },
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn the_identity_api_is_found_with_or_without_its_version() {
        for url in ["https://k:5000", "https://k:5000/", "https://k:5000/v3", "https://k:5000/v3/"] {
            assert_eq!(config(url).identity().unwrap().as_str(), "https://k:5000/v3/");
        }
        assert_eq!(config("https://k/identity").identity().unwrap().as_str(), "https://k/identity/v3/");
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear_by_accident() {
        let error = config("http://k:5000").identity().unwrap_err();
        assert!(error.problem.contains("allow_plain_http"), "{error}");
        let willing = CloudConfig { allow_plain_http: true, ..config("http://k:5000") };
        willing.identity().unwrap();
        for other in ["ftp://k", "k:5000", ""] {
            assert_eq!(
                CloudConfig { auth_url: other.into(), ..willing.clone() }.identity().unwrap_err().field,
                "auth_url"
            );
        }
    }
}
