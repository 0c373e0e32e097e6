//! The OSM that `OSM_NBI_URL` names, as its operator sees it: what a play sets up there, and what it counts from the outside.
//!
//! A whole OSM: its LCM and RO must reach the testbed's OpenStack. Asked with `curl`, which speaks to whatever an OSM stands
//! behind. It must never touch what the play did not make.

use std::{
    env, fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::{command, interrupt};

/// Where the NBI is.
pub const URL: &str = "OSM_NBI_URL";
/// A program that kills, starts, stops (SIGSTOP) and continues (SIGCONT) this OSM's services: `PROGRAM kill lcm`.
pub const CONTROL: &str = "OSM_CONTROL";
const CONTROL_LIMIT: Duration = Duration::from_secs(60);
/// A VIM account is tried at once; a slow RO takes a minute.
const ENABLING: Duration = Duration::from_secs(120);
const ASK_LIMIT: Duration = Duration::from_secs(60);

/// A session.
#[derive(Debug, Clone)]
pub struct Nbi {
    url: String,
    token: String,
    ca: Option<String>,
    /// User, password and project.
    pub login: [String; 3],
}

/// What became of a VIM account.
#[derive(Debug)]
pub struct Account {
    /// Could OSM use it?
    pub enabled: bool,
    /// OSM's words.
    pub detail: String,
}

impl Nbi {
    /// The OSM that the environment names; `None`: none.
    pub fn named() -> anyhow::Result<Option<Self>> {
        let said = |name: &str| env::var(name).ok().filter(|v| !v.is_empty());
        let Some(url) = said(URL) else { return Ok(None) };
        ensure!(command::exists("curl"), "curl is not installed: OSM is asked with it");
        let url = format!("{}/osm", url.trim_end_matches('/').trim_end_matches("/osm"));
        let or_admin = |name: &str| said(name).unwrap_or_else(|| "admin".into());
        let login = ["OSM_NBI_USER", "OSM_NBI_PASSWORD", "OSM_NBI_PROJECT"].map(or_admin);
        let it = Self { url, token: String::new(), ca: said("OSM_NBI_CA"), login };
        it.again().map(Some)
    }

    /// The same with a new token.
    pub fn again(&self) -> anyhow::Result<Self> {
        let mut it = Self { token: String::new(), ..self.clone() };
        let [username, password, project] = &it.login;
        let body = json!({ "username": username, "password": password, "project_id": project });
        let token = it.ask("POST", "admin/v1/tokens", &body)?;
        it.token = token["id"].as_str().with_context(|| format!("{}: no token: {token}", it.url))?.to_owned();
        Ok(it)
    }

    /// Somebody else, here or at another address that stands before this one.
    pub fn as_other(&self, url: Option<&str>, [user, password, project]: [&str; 3]) -> anyhow::Result<Self> {
        let login = [user, password, project].map(str::to_owned);
        let url = url.map_or_else(|| self.url.clone(), str::to_owned);
        Self { url, login, ..self.clone() }.again()
    }

    /// Has one of this OSM's services (`nbi`, `lcm`, `ro`) killed, started, stopped or continued.
    pub fn control(what: &str, service: &str) -> anyhow::Result<()> {
        let program = env::var(CONTROL).with_context(|| format!("set {CONTROL}"))?;
        command::succeed(Command::new(program).args([what, service]), CONTROL_LIMIT).map(drop)
    }

    /// Where it is, with `/osm`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The CA of its certificate.
    pub fn ca(&self) -> Option<&str> {
        self.ca.as_deref()
    }

    /// One call; OSM's own errors are errors.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send((method, path), "application/json", &body)
    }

    /// Uploads a package in one piece.
    pub fn upload(&self, path: &str, file: &Path) -> anyhow::Result<Value> {
        self.send(("POST", path), "application/gzip", &format!("@{}", file.display()))
    }

    fn send(&self, (method, path): (&str, &str), media_type: &str, body: &str) -> anyhow::Result<Value> {
        let mut c = Command::new("curl");
        c.args(["--silent", "--show-error", "--request", method, "--header", "Accept: application/json"]);
        c.args(["--header", &format!("Content-Type: {media_type}"), "--header"]);
        c.arg(format!("Authorization: Bearer {}", self.token));
        if let Some(ca) = &self.ca {
            c.args(["--cacert", ca]);
        }
        if !body.is_empty() {
            c.args(["--data-binary", body]);
        }
        c.arg(format!("{}/{path}", self.url));
        let out = command::capture(&mut c, ASK_LIMIT)?;
        ensure!(out.status.success(), "{method} {path} at {}: {}", self.url, out.stderr.trim());
        let answer: Value = match out.stdout.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).with_context(|| format!("{method} {path}: {text}"))?,
        };
        let problem = answer["status"].as_u64().is_some() && answer["detail"].is_string();
        ensure!(!problem, "{method} {path}: {answer}");
        Ok(answer)
    }

    /// Makes a VIM account and waits until OSM has tried it; one of that name that is there goes first.
    pub fn make_account(&self, account: &Value) -> anyhow::Result<Account> {
        let name = account["name"].as_str().unwrap_or_default();
        self.drop_account(name)?;
        let made = self.ask("POST", "admin/v1/vim_accounts", account)?;
        let id = made["id"].as_str().context("the VIM account has no id")?.to_owned();
        interrupt::wait_for("OSM does not try its VIM account", ENABLING, || {
            let one = self.ask("GET", &format!("admin/v1/vim_accounts/{id}"), &Value::Null)?;
            let state = one["_admin"]["operationalState"].as_str().unwrap_or_default();
            let detail = one["_admin"]["detailed-status"].as_str().unwrap_or_default().to_owned();
            Ok((state != "PROCESSING").then(|| Account { enabled: state == "ENABLED", detail }))
        })
    }

    /// Removes the VIM account of a name, if there is one, and waits until it is gone.
    pub fn drop_account(&self, name: &str) -> anyhow::Result<()> {
        let path = format!("admin/v1/vim_accounts?name={name}");
        let found = |nbi: &Self| -> anyhow::Result<Option<String>> {
            let all = nbi.ask("GET", &path, &Value::Null)?;
            Ok(all[0]["_id"].as_str().map(str::to_owned))
        };
        let Some(id) = found(self)? else { return Ok(()) };
        self.ask("DELETE", &format!("admin/v1/vim_accounts/{id}"), &Value::Null)?;
        let start = Instant::now();
        while found(self)?.is_some() {
            if start.elapsed() > ENABLING {
                bail!("OSM does not let go of VIM account {name}");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Names of the network services and packages that there are.
    pub fn all(&self) -> anyhow::Result<Vec<String>> {
        let mut out = Vec::new();
        for (list, field) in [
            ("nslcm/v1/ns_instances", "name"),
            ("nsd/v1/ns_descriptors", "id"),
            ("vnfpkgm/v1/vnf_packages", "id"),
        ] {
            let all = self.ask("GET", list, &Value::Null)?;
            let named = all.as_array().cloned().unwrap_or_default();
            out.extend(named.iter().filter_map(|one| one[field].as_str()).map(|n| format!("{list} {n}")));
        }
        Ok(out)
    }

    /// Its password in a file of its own, as `mandate` wants it.
    pub fn password_file(&self, path: &Path) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(path, &self.login[1])?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
    }
}
