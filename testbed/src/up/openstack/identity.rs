//! What keystone is filled with: the services and their endpoints, projects and users.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    http::Client,
    layout::{APIS, Layout, TENANTS},
};

/// A token of the administrator's.
pub fn token(layout: &Layout) -> anyhow::Result<String> {
    token_of(layout, "admin", "admin")
}

/// A token of somebody's, in a project.
pub fn token_of(layout: &Layout, user: &str, project: &str) -> anyhow::Result<String> {
    let client = Client { port: layout.port("keystone"), token: "" };
    let user = json!({"name": user, "domain": {"id": "default"}, "password": layout.secret()});
    let identity = json!({"methods": ["password"], "password": {"user": user}});
    let scope = json!({"project": {"name": project, "domain": {"id": "default"}}});
    let body = json!({"auth": {"identity": identity, "scope": scope}});
    let reply = client.ask("POST", "/v3/auth/tokens", &body)?;
    Ok(reply.header("X-Subject-Token").context("keystone gave no token")?.to_owned())
}

/// Fills a keystone that was just bootstrapped.
pub fn fill(layout: &Layout) -> anyhow::Result<()> {
    let token = token(layout)?;
    let keystone = Keystone(Client { port: layout.port("keystone"), token: &token });
    for (service, kind, path) in APIS.iter().filter(|(s, ..)| *s != "keystone") {
        let id = keystone.create("services", "service", &json!({"name": service, "type": kind}))?;
        let public = format!("https://127.0.0.1:{}{path}", layout.public(service));
        let inner = format!("http://127.0.0.1:{}{path}", layout.port(service));
        for (interface, url) in [("public", &public), ("internal", &inner), ("admin", &inner)] {
            let endpoint =
                json!({"service_id": id, "interface": interface, "url": url, "region_id": "RegionOne"});
            keystone.create("endpoints", "endpoint", &endpoint)?;
        }
    }
    let project =
        |name: &str| keystone.create("projects", "project", &json!({"name": name, "domain_id": "default"}));
    let user = |name: &str| {
        let user = json!({"name": name, "domain_id": "default", "password": layout.secret()});
        keystone.create("users", "user", &user)
    };
    let services = project("service")?;
    let service_role = keystone.create("roles", "role", &json!({"name": "service"}))?;
    let admin = keystone.role("admin")?;
    for (service, ..) in APIS.iter().filter(|(s, ..)| *s != "keystone") {
        let user = user(service)?;
        [&admin, &service_role].into_iter().try_for_each(|role| keystone.grant(&services, &user, role))?;
    }
    let (member, reader) = (keystone.role("member")?, keystone.role("reader")?);
    // The orchestrator's own: an administrator, as binding ports and naming hosts needs.
    let mandate = user("mandate")?;
    for tenant in TENANTS {
        let (project, user) = (project(tenant)?, user(tenant)?);
        [&member, &reader].into_iter().try_for_each(|role| keystone.grant(&project, &user, role))?;
        keystone.grant(&project, &mandate, &admin)?;
    }
    Ok(())
}

/// Tells of cinder, unless it is known.
pub fn volumes(layout: &Layout, token: &str) -> anyhow::Result<()> {
    let client = Client { port: layout.port("keystone"), token };
    if client.get("/v3/services?name=cinder")?["services"].as_array().is_some_and(|s| !s.is_empty()) {
        return Ok(());
    }
    let keystone = Keystone(client);
    let user = json!({"name": "cinder", "domain_id": "default", "password": layout.secret()});
    let user = keystone.create("users", "user", &user)?;
    let services = client.get("/v3/projects?name=service")?;
    let services = services["projects"][0]["id"].as_str().context("keystone has no project service")?;
    for role in ["admin", "service"] {
        keystone.grant(services, &user, &keystone.role(role)?)?;
    }
    let service = keystone.create("services", "service", &json!({"name": "cinder", "type": "volumev3"}))?;
    let url = |scheme: &str, port: u16| format!("{scheme}://127.0.0.1:{port}/v3/%(project_id)s");
    let inner = url("http", layout.volumes());
    let public = url("https", layout.volumes() - 1);
    for (interface, url) in [("public", &public), ("internal", &inner), ("admin", &inner)] {
        let endpoint =
            json!({"service_id": service, "interface": interface, "url": url, "region_id": "RegionOne"});
        keystone.create("endpoints", "endpoint", &endpoint)?;
    }
    Ok(())
}

struct Keystone<'a>(Client<'a>);

impl Keystone<'_> {
    /// Creates one of a collection; returns its id.
    fn create(&self, many: &str, one: &str, what: &Value) -> anyhow::Result<String> {
        let reply = self.0.ask("POST", &format!("/v3/{many}"), &json!({one: what}))?;
        Ok(reply.body[one]["id"].as_str().with_context(|| format!("keystone's {one} has no id"))?.to_owned())
    }

    fn role(&self, name: &str) -> anyhow::Result<String> {
        let found = self.0.get(&format!("/v3/roles?name={name}"))?;
        let id = found["roles"][0]["id"].as_str();
        Ok(id.with_context(|| format!("keystone has no role {name}"))?.to_owned())
    }

    fn grant(&self, project: &str, user: &str, role: &str) -> anyhow::Result<()> {
        let path = format!("/v3/projects/{project}/users/{user}/roles/{role}");
        self.0.ask("PUT", &path, &Value::Null).map(drop)
    }
}
