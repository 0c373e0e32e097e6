//! The running cloud as its administrator sees it: what a play counts from the outside, not by asking the product.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::Value;

use super::{http::Client, identity, layout::Layout};

/// Who looks.
#[derive(Debug)]
pub struct View {
    layout: Layout,
    token: String,
}

/// What somebody's service is in the cloud: names, or what they are called there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Servers: name and id.
    pub servers: Vec<(String, String)>,
    /// Networks' names.
    pub networks: Vec<String>,
    /// Ids of ports that belong to no server and no service of the cloud's own, or to servers.
    pub ports: Vec<String>,
    /// Images' names.
    pub images: Vec<String>,
    /// Server groups' names.
    pub groups: Vec<String>,
    /// Used on all hosts together: VCPU, PCPU and MEMORY_MB.
    pub used: u64,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts = (self.servers.len(), self.networks.len(), self.ports.len(), self.images.len());
        write!(f, "{} servers, {} networks, {} ports, {} images", counts.0, counts.1, counts.2, counts.3)
    }
}

impl View {
    /// Of the cloud that runs.
    pub fn new() -> anyhow::Result<Self> {
        let layout = Layout::make(&super::root()?)?;
        let token = identity::token(&layout)?;
        Ok(Self { layout, token })
    }

    /// The same cloud, as somebody else sees it.
    pub(super) fn as_user(&self, user: &str, project: &str) -> anyhow::Result<Self> {
        let layout = Layout::make(self.layout.root())?;
        let token = identity::token_of(&layout, user, project)?;
        Ok(Self { layout, token })
    }

    /// What every user's password is.
    pub fn secret(&self) -> &str {
        self.layout.secret()
    }

    /// Where a service's configuration is.
    pub fn etc(&self, service: &str) -> PathBuf {
        self.layout.etc(service)
    }

    /// A file of the cloud's CA: `ca.crt`, `policy.crt`, ….
    pub fn pki(&self, file: &str) -> PathBuf {
        self.layout.pki().join(file)
    }

    pub(super) fn of(&self, service: &str) -> Client<'_> {
        Client { port: self.layout.port(service), token: &self.token }
    }

    /// Everything that anybody made there.
    pub fn look(&self) -> anyhow::Result<Seen> {
        let servers = self.of("nova").get("/v2.1/servers/detail?all_tenants=1")?;
        let networks = self.of("neutron").get("/v2.0/networks")?;
        let ports = self.of("neutron").get("/v2.0/ports")?;
        let images = self.of("glance").get("/v2/images")?;
        let groups = self.of("nova").get("/v2.1/os-server-groups?all_projects=1")?;
        let named = |all: &Value, key: &str, field: &str| -> Vec<String> {
            let all = all[key].as_array().cloned().unwrap_or_default();
            all.iter().filter_map(|one| Some(one[field].as_str()?.to_owned())).collect()
        };
        let (names, ids) = (named(&servers, "servers", "name"), named(&servers, "servers", "id"));
        Ok(Seen {
            servers: names.into_iter().zip(ids).collect(),
            networks: named(&networks, "networks", "name"),
            ports: named(&ports, "ports", "id"),
            images: named(&images, "images", "name"),
            groups: named(&groups, "server_groups", "name"),
            used: self.used()?,
        })
    }

    /// How many servers are ACTIVE.
    pub fn active(&self) -> anyhow::Result<usize> {
        let servers = self.of("nova").get("/v2.1/servers/detail?all_tenants=1")?;
        let all = servers["servers"].as_array().into_iter().flatten();
        Ok(all.filter(|s| s["status"] == "ACTIVE").count())
    }

    fn used(&self) -> anyhow::Result<u64> {
        let placement = self.of("placement");
        let providers = placement.get("/resource_providers")?;
        let mut sum = 0;
        for provider in providers["resource_providers"].as_array().cloned().unwrap_or_default() {
            let id = provider["uuid"].as_str().context("a provider without an id")?;
            let usages = placement.get(&format!("/resource_providers/{id}/usages"))?;
            let of = |class: &str| usages["usages"][class].as_u64().unwrap_or_default();
            sum += of("VCPU") + of("PCPU") + of("MEMORY_MB");
        }
        Ok(sum)
    }

    /// Deletes a server behind everybody's back.
    pub fn delete_server(&self, id: &str) -> anyhow::Result<()> {
        self.of("nova").ask("DELETE", &format!("/v2.1/servers/{id}"), &Value::Null).map(drop)
    }
}
