//! A cloud of a `clouds.yaml`: what the `openstack` command reads, so that an operator names a file that is there already.
//!
//! Of its many fields those are read that say where and who; `profile`, `secure.yaml` and `vendor` files are not followed.
//! Tests: below.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Auth, BadConfig, CloudConfig, Interface, Secret, bad, default_domain, default_timeout_s, text};

/// Longest file that is read, bytes.
const MAX_BYTES: u64 = 1 << 20;
const FIELD: &str = "clouds_yaml";

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    clouds: BTreeMap<String, Cloud>,
}

#[derive(Debug, Deserialize)]
struct Cloud {
    auth: Named,
    auth_type: Option<String>,
    region_name: Option<String>,
    interface: Option<String>,
    cacert: Option<PathBuf>,
    verify: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Named {
    auth_url: String,
    username: Option<String>,
    password: Option<String>,
    project_name: Option<String>,
    user_domain_name: Option<String>,
    project_domain_name: Option<String>,
    domain_name: Option<String>,
    application_credential_id: Option<String>,
    application_credential_secret: Option<String>,
}

impl CloudConfig {
    /// The cloud called `name` of a `clouds.yaml`.
    pub fn from_clouds_yaml(path: &Path, name: &str) -> Result<Self, BadConfig> {
        let text = text(FIELD, path, MAX_BYTES)?;
        let at = path.display();
        let file: File = serde_saphyr::from_str(&text).or_else(|e| bad(FIELD, format!("{at}: {e}")))?;
        let names: Vec<&str> = file.clouds.keys().map(String::as_str).collect();
        match file.clouds.get(name) {
            Some(cloud) => {
                configured(cloud).or_else(|problem| bad(FIELD, format!("{at}, cloud `{name}`: {problem}")))
            }
            None => bad(FIELD, format!("{at} has no cloud `{name}`; it has: {}", names.join(", "))),
        }
    }
}

fn configured(cloud: &Cloud) -> Result<CloudConfig, String> {
    if cloud.verify == Some(false) {
        return Err(
            "verify: false would believe any endpoint; name the cloud's CA as cacert instead".to_owned()
        );
    }
    let interface = match cloud.interface.as_deref() {
        None | Some("public") => Interface::Public,
        Some("internal") => Interface::Internal,
        Some("admin") => Interface::Admin,
        Some(other) => return Err(format!("interface `{other}` is none of public, internal, admin")),
    };
    Ok(CloudConfig {
        auth_url: cloud.auth.auth_url.clone(),
        auth: auth(cloud)?,
        region_name: cloud.region_name.clone(),
        interface,
        cacert: cloud.cacert.clone(),
        allow_plain_http: false,
        timeout_s: default_timeout_s(),
    })
}

fn auth(cloud: &Cloud) -> Result<Auth, String> {
    let it = &cloud.auth;
    let need =
        |field: &Option<String>, name: &str| field.clone().ok_or_else(|| format!("auth has no {name}"));
    let domain =
        |field: &Option<String>| field.clone().or(it.domain_name.clone()).unwrap_or_else(default_domain);
    match cloud.auth_type.as_deref() {
        None | Some("password" | "v3password") if it.application_credential_id.is_none() => {
            Ok(Auth::Password {
                username: need(&it.username, "username")?,
                user_domain_name: domain(&it.user_domain_name),
                password: Secret::Given(need(&it.password, "password")?),
                project_name: need(&it.project_name, "project_name")?,
                project_domain_name: domain(&it.project_domain_name),
            })
        }
        None | Some("v3applicationcredential") => Ok(Auth::ApplicationCredential {
            application_credential_id: need(&it.application_credential_id, "application_credential_id")?,
            secret: Secret::Given(need(&it.application_credential_secret, "application_credential_secret")?),
        }),
        Some(other) => {
            Err(format!("auth_type `{other}` is not known here: use a password or an application credential"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn read(text: &str, name: &str) -> Result<CloudConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clouds.yaml");
        fs::write(&path, text).unwrap();
        CloudConfig::from_clouds_yaml(&path, name).map_err(|e| e.problem)
    }

    const TWO: &str = "
clouds:
  edge:
    auth: {auth_url: 'https://k:5000/v3', username: u, password: p, project_name: t, domain_name: D}
    region_name: R
    interface: internal
    cacert: /ca.pem
    volume_api_version: 3
  app:
    auth_type: v3applicationcredential
    auth: {auth_url: 'https://k', application_credential_id: i, application_credential_secret: s}
";

    #[test]
    fn what_the_openstack_command_reads() {
        let edge = read(TWO, "edge").unwrap();
        assert_eq!((edge.region_name.as_deref(), edge.interface), (Some("R"), Interface::Internal));
        let Auth::Password { user_domain_name, project_domain_name, .. } = &edge.auth else { unreachable!() };
        assert_eq!((user_domain_name.as_str(), project_domain_name.as_str()), ("D", "D"));
        assert!(!format!("{edge:?}").contains("\"p\""), "the password is not shown");
        assert!(matches!(read(TWO, "app").unwrap().auth, Auth::ApplicationCredential { .. }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(read(TWO, "core").unwrap_err().contains("it has: app, edge"));
        for (from, to, complaint) in [
            ("password: p, ", "", "auth has no password"),
            ("interface: internal", "interface: outer", "none of public"),
            ("region_name: R", "verify: false", "any endpoint"),
            ("region_name: R", "auth_type: token", "`token` is not known"),
            ("clouds:", "clouds", "clouds.yaml:"),
        ] {
            let error = read(&TWO.replacen(from, to, 1), "edge").unwrap_err();
            assert!(error.contains(complaint), "{to}: {error}");
        }
    }
}
