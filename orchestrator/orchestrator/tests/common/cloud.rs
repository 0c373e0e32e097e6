//! The cloud of `cargo testbed up openstack`, as its users reach it.
#![allow(dead_code, reason = "each test uses its part")]

use std::{env, fs, path::PathBuf};

use reqwest::{Certificate, Client, Method, StatusCode};
use serde_json::{Value, json};

/// The path of `clouds.yaml`.
const CLOUDS: &str = "TESTBED_OPENSTACK";

/// Where the running cloud is; `None`, and a line that says so, where there is none.
pub fn root() -> Option<PathBuf> {
    let Some(file) = env::var_os(CLOUDS) else {
        println!("SKIPPED: no OpenStack; `cargo testbed test openstack` starts one");
        return None;
    };
    Some(PathBuf::from(file).parent().unwrap().to_owned())
}

/// Somebody with a token of a project.
#[derive(Clone)]
pub struct Cloud {
    http: Client,
    token: String,
    pub project: String,
    pub user: String,
    catalogue: Value,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }
}

fn word(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|l| l.trim().strip_prefix(&format!("{key}: ")));
    line.unwrap_or_else(|| panic!("no {key} in clouds.yaml")).to_owned()
}

/// The password that every user has, services too.
pub fn password(root: &std::path::Path) -> String {
    word(&fs::read_to_string(root.join("clouds.yaml")).unwrap(), "password")
}

impl Cloud {
    pub async fn login(root: &std::path::Path, user: &str, project: &str) -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let text = fs::read_to_string(root.join("clouds.yaml")).unwrap();
        let roots = [Certificate::from_pem(&fs::read(word(&text, "cacert")).unwrap()).unwrap()];
        let http = Client::builder().tls_certs_only(roots).https_only(true).no_proxy().build().unwrap();
        let who = json!({"name": user, "domain": {"id": "default"}, "password": word(&text, "password")});
        let scope = json!({"project": {"name": project, "domain": {"id": "default"}}});
        let identity = json!({"methods": ["password"], "password": {"user": who}});
        let url = format!("{}/auth/tokens", word(&text, "auth_url"));
        let body = json!({"auth": {"identity": identity, "scope": scope}});
        let reply = http.post(url).json(&body).send().await.unwrap();
        let token = reply.headers().get("X-Subject-Token").map(|t| t.to_str().unwrap().to_owned());
        let body: Value = reply.json().await.unwrap();
        let id = |of: &str| body["token"][of]["id"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
        let (project, user) = (id("project"), id("user"));
        Self { http, token: token.unwrap(), project, user, catalogue: body["token"]["catalog"].clone() }
    }

    fn endpoint(&self, kind: &str) -> String {
        let services = self.catalogue.as_array().unwrap();
        let service = services.iter().find(|s| s["type"] == kind).unwrap();
        let endpoints = service["endpoints"].as_array().unwrap();
        endpoints.iter().find(|e| e["interface"] == "public").unwrap()["url"].as_str().unwrap().to_owned()
    }

    pub async fn call(&self, method: Method, kind: &str, path: &str, body: Value) -> Answer {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.endpoint(kind)));
        request = request.header("X-Auth-Token", &self.token);
        if kind == "compute" {
            request = request.header("X-OpenStack-Nova-API-Version", "2.90");
        }
        let media_type = match (kind, method.as_str(), path.ends_with("/file")) {
            ("image", "PATCH", _) => "application/openstack-images-v2.1-json-patch",
            ("image", "PUT", true) => "application/octet-stream",
            _ => "application/json",
        };
        if !body.is_null() {
            request = request.header("Content-Type", media_type).body(body.to_string());
        }
        let reply = request.send().await.unwrap();
        let status = reply.status();
        Answer { status, body: reply.json().await.unwrap_or_default() }
    }

    pub async fn get(&self, kind: &str, path: &str) -> Value {
        self.call(Method::GET, kind, path, Value::Null).await.ok()
    }

    pub async fn post(&self, kind: &str, path: &str, body: Value) -> Value {
        self.call(Method::POST, kind, path, body).await.ok()
    }

    pub async fn delete(&self, kind: &str, path: &str) {
        let answer = self.call(Method::DELETE, kind, path, Value::Null).await;
        assert!(answer.status.is_success(), "DELETE {path}: {} {}", answer.status, answer.body);
    }

    /// The only one of a name in keystone.
    pub async fn named(&self, many: &str, name: &str) -> Option<String> {
        let found = self.get("identity", &format!("/{many}?name={name}")).await;
        found[many][0]["id"].as_str().map(str::to_owned)
    }
}

pub fn id(object: &Value) -> String {
    object["id"].as_str().unwrap_or_else(|| panic!("no id: {object}")).to_owned()
}
