//! Which cloud, and who we are there: the fields of `clouds.yaml`, with secrets in files of their own.
//!
//! Or a cloud of a `clouds.yaml`, as the `openstack` command has it ([`clouds`]). Checked before anything is asked of the
//! cloud. Tests: below.

mod clouds;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use reqwest::Url;
use serde::Deserialize;

/// Longest secret that is read, bytes.
const MAX_SECRET_BYTES: u64 = 4096;

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

/// A secret, and where it is from.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PathBuf")]
pub enum Secret {
    /// A file with nothing else in it, read each time: who rotates it need not restart us.
    File(PathBuf),
    /// As it stood in a `clouds.yaml`.
    Given(String),
}

impl From<PathBuf> for Secret {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// Never the secret itself.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Given(_) => f.write_str("given"),
        }
    }
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

/// What is wrong with a configuration, and in which field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("OpenStack, {field}: {problem}")]
pub struct BadConfig {
    /// Field.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub problem: String,
}

pub(crate) fn bad<T>(field: &'static str, problem: impl Into<String>) -> Result<T, BadConfig> {
    Err(BadConfig { field, problem: problem.into() })
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
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.allow_plain_http => Ok(()),
            "http" => Err(format!(
                "{url} is not TLS, and our token would cross the network readable: use an https endpoint, or say \
                 allow_plain_http = true"
            )),
            other => Err(format!("{url}: `{other}` is neither https nor http")),
        }
    }
}

impl Secret {
    /// The secret; of a file without the newline that editors leave.
    pub(crate) fn read(&self, field: &'static str) -> Result<String, BadConfig> {
        let path = match self {
            Self::Given(secret) => return Ok(secret.clone()),
            Self::File(path) => path,
        };
        let text = text(field, path, MAX_SECRET_BYTES)?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => bad(field, format!("{} is empty", path.display())),
            secret => Ok(secret.to_owned()),
        }
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

    #[test]
    fn secrets_are_one_line_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let secret = Secret::File(path.clone());
        assert!(secret.read("password_file").is_err());
        fs::write(&path, "\n").unwrap();
        assert!(secret.read("password_file").unwrap_err().problem.contains("is empty"));
        fs::write(&path, "s3cr3t \n").unwrap();
        assert_eq!(secret.read("password_file").unwrap(), "s3cr3t ");
        fs::write(&path, vec![b'a'; 5000]).unwrap();
        assert!(secret.read("password_file").is_err());
        assert_eq!(format!("{:?}", Secret::Given("s3cr3t".into())), "given");
    }
}
