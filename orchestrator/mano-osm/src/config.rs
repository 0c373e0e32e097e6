//! Which OSM, who we are there, and which of its VIM accounts are our sites. Checked before anything is asked.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use http_peer::{BadConfig, Secret, bad, encrypted};
use reqwest::Url;
use serde::Deserialize;

/// Longest deadline that can be configured, s: a day.
const MAX_DEADLINE_S: u64 = 86_400;

/// An OSM as configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsmConfig {
    /// The northbound interface, with or without `/osm`: `https://osm.example:9999/osm`.
    pub url: String,
    /// Our user.
    pub username: String,
    /// Its password, in a file of its own.
    #[serde(rename = "password_file")]
    pub password: Secret,
    /// Project, by name or id.
    #[serde(default = "default_project")]
    pub project: String,
    /// The CA that certified the NBI, PEM; absent: those that browsers know.
    #[serde(default)]
    pub cacert: Option<PathBuf>,
    /// Take an NBI that is not TLS: token and password then cross the network readable. For one on this machine.
    #[serde(default)]
    pub allow_plain_http: bool,
    /// Longest wait for an answer, s.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u64,
    /// Our sites: name -> OSM's VIM account, by name.
    pub sites: BTreeMap<String, String>,
    /// Longest that an operation of OSM's may take, s; then it is cancelled. OSM's own limits are longer.
    #[serde(default = "default_deadline_s")]
    pub deadline_s: u64,
    /// Shortest pause between two looks at an operation, ms; it grows to 32 times that. One that begins is looked at after 16
    /// times that, and once others of its kind were seen a little before they were over. A call whose answer was lost has three
    /// times that to have its effect.
    #[serde(default = "default_poll_ms")]
    pub poll_ms: u64,
}

fn default_project() -> String {
    "admin".to_owned()
}

fn default_timeout_s() -> u64 {
    60
}

fn default_deadline_s() -> u64 {
    1800
}

fn default_poll_ms() -> u64 {
    500
}

impl OsmConfig {
    /// The NBI's base, ending in `/osm/`.
    pub fn base(&self) -> Result<Url, BadConfig> {
        let text = self.url.trim_end_matches('/').trim_end_matches("/osm");
        let url = Url::parse(&format!("{text}/osm/"));
        let url = url.or_else(|e| bad("url", format!("`{}` is no URL: {e}", self.url)))?;
        encrypted(&url, ("allow_plain_http", self.allow_plain_http))
            .or_else(|problem| bad("url", problem))?;
        if self.sites.is_empty() {
            return bad("sites", "none: name at least one site and OSM's VIM account for it");
        }
        if !(1..=MAX_DEADLINE_S).contains(&self.deadline_s) {
            return bad("deadline_s", format!("{}: 1 to {MAX_DEADLINE_S}", self.deadline_s));
        }
        Ok(url)
    }

    /// First pause between two looks.
    pub(crate) fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms.max(1))
    }

    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_s)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(url: &str) -> OsmConfig {
        let text = serde_json::json!({
            "url": url, "username": "u", "password_file": "/x", "sites": { "here": "vim" },
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn the_nbi_is_found_with_or_without_its_path() {
        for url in ["https://o:9999", "https://o:9999/", "https://o:9999/osm", "https://o:9999/osm/"] {
            assert_eq!(config(url).base().unwrap().as_str(), "https://o:9999/osm/");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_before_it_is_tried() {
        let error = config("http://o").base().unwrap_err();
        assert!(error.problem.contains("allow_plain_http"), "{error}");
        assert_eq!(config("ftp://o").base().unwrap_err().field, "url");
        let none = OsmConfig { sites: BTreeMap::new(), ..config("https://o") };
        assert_eq!(none.base().unwrap_err().field, "sites");
        let never = OsmConfig { deadline_s: 0, ..config("https://o") };
        assert_eq!(never.base().unwrap_err().field, "deadline_s");
        assert!(serde_json::from_str::<OsmConfig>(r#"{"url": "x", "usr": "y"}"#).is_err());
    }
}
