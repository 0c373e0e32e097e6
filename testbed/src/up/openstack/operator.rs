//! What an operator does to the running cloud while others use it: hosts out of service, quotas, zones, networks and users; for
//! plays in which the cloud is not any more what it was when a plan was made.
//!
//! What one of these made is taken away by its counterpart; absent is success then.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{View, http::Reply};

/// The services that ask about policies.
pub const GATED: [&str; 3] = ["nova", "neutron", "glance"];

/// Absent is success.
fn gone(reply: &Reply, what: &str) -> anyhow::Result<()> {
    ensure!((200..300).contains(&reply.status) || reply.status == 404, "{what}: {}", reply.body);
    Ok(())
}

fn id(of: &Value) -> anyhow::Result<String> {
    Ok(of["id"].as_str().with_context(|| format!("it has no id: {of}"))?.to_owned())
}

impl View {
    /// The compute service of a host is up, or counts as down: nothing new is put there.
    pub fn serve_host(&self, host: &str, on: bool) -> anyhow::Result<()> {
        let body = json!({ "host": host, "binary": "nova-compute", "forced_down": !on });
        let reply = self.of("nova").call_in("2.11", ("PUT", "/v2.1/os-services/force-down"), &body)?;
        ensure!(reply.status == 200, "the service of {host}: {} {}", reply.status, reply.body);
        Ok(())
    }

    /// The id of the only one of a name in keystone.
    pub fn named(&self, many: &str, name: &str) -> anyhow::Result<Option<String>> {
        let found = self.of("keystone").get(&format!("/v3/{many}?name={name}"))?;
        Ok(found[many][0]["id"].as_str().map(str::to_owned))
    }

    /// The id of a project or user that there is.
    pub fn id_of(&self, many: &str, name: &str) -> anyhow::Result<String> {
        self.named(many, name)?.with_context(|| format!("keystone has none of {many} called {name}"))
    }

    /// Most servers of a project; `None`: as before.
    pub fn quota(&self, project: &str, servers: Option<usize>) -> anyhow::Result<()> {
        let path = format!("/v2.1/os-quota-sets/{}", self.id_of("projects", project)?);
        let nova = self.of("nova");
        match servers {
            Some(n) => nova.ask("PUT", &path, &json!({ "quota_set": { "instances": n } })),
            None => nova.ask("DELETE", &path, &Value::Null),
        }
        .map(drop)
    }

    /// Makes an availability zone of one host.
    pub fn zone(&self, name: &str, host: &str) -> anyhow::Result<()> {
        self.drop_zone(name)?;
        let body = json!({ "aggregate": { "name": name, "availability_zone": name } });
        let made = self.of("nova").ask("POST", "/v2.1/os-aggregates", &body)?;
        let body = json!({ "add_host": { "host": host } });
        let id = &made.body["aggregate"]["id"];
        self.of("nova").ask("POST", &format!("/v2.1/os-aggregates/{id}/action"), &body).map(drop)
    }

    /// Takes a zone away.
    pub fn drop_zone(&self, name: &str) -> anyhow::Result<()> {
        let all = self.of("nova").get("/v2.1/os-aggregates")?;
        for one in all["aggregates"].as_array().into_iter().flatten().filter(|a| a["name"] == name) {
            let path = format!("/v2.1/os-aggregates/{}", one["id"]);
            for host in one["hosts"].as_array().into_iter().flatten() {
                let body = json!({ "remove_host": { "host": host } });
                self.of("nova").ask("POST", &format!("{path}/action"), &body)?;
            }
            gone(&self.of("nova").call("DELETE", &path, &Value::Null)?, "the aggregate")?;
        }
        Ok(())
    }

    /// Makes a network of a project, with addresses, and returns its id.
    pub fn network(&self, project: &str, name: &str, cidr: &str) -> anyhow::Result<String> {
        let project = self.id_of("projects", project)?;
        let neutron = self.of("neutron");
        let network = json!({ "network": { "name": name, "project_id": project } });
        let network = id(&neutron.ask("POST", "/v2.0/networks", &network)?.body["network"])?;
        let subnet = json!({ "subnet": { "network_id": network, "ip_version": 4, "cidr": cidr, "project_id": project } });
        neutron.ask("POST", "/v2.0/subnets", &subnet)?;
        Ok(network)
    }

    /// Takes a network away.
    pub fn drop_network(&self, id: &str) -> anyhow::Result<()> {
        let path = format!("/v2.0/networks/{id}");
        gone(&self.of("neutron").call("DELETE", &path, &Value::Null)?, "the network")
    }

    /// Makes a user with everybody's password and a role in a project, and returns its id.
    pub fn user(&self, name: &str, project: &str, role: &str) -> anyhow::Result<String> {
        self.drop_user(name)?;
        let keystone = self.of("keystone");
        let user = json!({ "user": { "name": name, "domain_id": "default", "password": self.secret() } });
        let user = id(&keystone.ask("POST", "/v3/users", &user)?.body["user"])?;
        let (project, role) = (self.id_of("projects", project)?, self.id_of("roles", role)?);
        let path = format!("/v3/projects/{project}/users/{user}/roles/{role}");
        keystone.ask("PUT", &path, &Value::Null)?;
        Ok(user)
    }

    /// Takes a user away.
    pub fn drop_user(&self, name: &str) -> anyhow::Result<()> {
        let Some(id) = self.named("users", name)? else { return Ok(()) };
        gone(&self.of("keystone").call("DELETE", &format!("/v3/users/{id}"), &Value::Null)?, "the user")
    }

    /// Lets members of projects make and remove flavors, as who makes services for a project without being everybody's administrator must.
    pub fn flavors_by_members(&self, on: bool) -> anyhow::Result<()> {
        let rules = ["os-flavor-manage:create", "os-flavor-manage:delete", "os-flavor-extra-specs:create"];
        let rule = |name: &&str| format!("\"os_compute_api:{name}\": \"role:member or role:admin\"\n");
        let text: String = if on { rules.iter().map(rule).collect() } else { "{}\n".into() };
        let file = self.etc("nova").join("policy.d/flavors.yaml");
        Ok(fs::write(file, text)?)
    }

    /// What nova, or another service, says to somebody: status and body.
    pub fn answer(
        &self,
        (user, project): (&str, &str),
        service: &str,
        (method, path, body): (&str, &str, &Value),
    ) -> anyhow::Result<(u16, Value)> {
        let mine = self.as_user(user, project)?;
        let reply = mine.of(service).call(method, path, body)?;
        Ok((reply.status, reply.body))
    }

    /// Where a service reads its policies.
    pub fn policy_file(&self, service: &str) -> PathBuf {
        self.etc(service).join("policy.d/mandate.yaml")
    }

    /// Has the services ask nobody any more. glance keeps a rule whose file is emptied, so it gets its own rules back.
    pub fn drop_policies(&self) -> anyhow::Result<()> {
        for service in GATED {
            let file = self.policy_file(service);
            let Ok(text) = fs::read_to_string(&file) else { continue };
            let own =
                |line: &str| Some(format!("{}\"\n", line.split_once(" and (rule:mandate_unmanaged or")?.0));
            let kept: String = text.lines().filter_map(own).collect();
            match service {
                "glance" if kept.is_empty() => {}
                "glance" => fs::write(&file, kept)?,
                _ => fs::write(&file, "{}\n")?,
            }
        }
        Ok(())
    }
}
