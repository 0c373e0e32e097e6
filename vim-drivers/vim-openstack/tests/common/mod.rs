//! A real Yoga as a fixture: what is there is read and changed with a session of its own, never through the driver.
//!
//! Everything carries a home of the fixture's own, so that fixtures share a cloud.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod lossy;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use reqwest::Method;
use serde_json::{Value, json};
use trust::Digest;
use vim::{
    Artifacts, Kind, ObjectKey, Resources, Spec, VimDriver, VnfControl,
    conformance::{Fixture, Report},
};
use vim_openstack::{Call, Client, CloudConfig, OpenStackConfig, OpenStackVim, Service};

pub const NOVA: Service = Service::Compute;
pub const NEUTRON: Service = Service::Network;
pub const GLANCE: Service = Service::Image;
/// A boot on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);
const ASK_EVERY: Duration = Duration::from_millis(300);

static FIXTURES: AtomicU32 = AtomicU32::new(0);

/// `clouds.yaml` of the cloud under test.
pub fn clouds() -> Option<PathBuf> {
    let path = env::var_os("TESTBED_OPENSTACK").map(PathBuf::from);
    if path.is_none() {
        eprintln!(
            "SKIPPED: no OpenStack; `cargo testbed test openstack` starts one, or set TESTBED_OPENSTACK to a clouds.yaml"
        );
    }
    path
}

/// Two small images; the cloud boots nothing.
pub struct TwoImages {
    dir: tempfile::TempDir,
    pub digests: [Digest; 2],
}

impl TwoImages {
    pub fn make() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let unique = format!("{:?} {}", Instant::now(), std::process::id());
        let digests = ["one", "two"].map(|name| {
            let bytes = format!("{name} {unique}").repeat(100);
            let digest = Digest::of(&bytes);
            fs::write(dir.path().join(digest.hex()), bytes).unwrap();
            digest
        });
        Arc::new(Self { dir, digests })
    }

    pub fn file(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join(digest.hex())
    }
}

impl Artifacts for TwoImages {
    fn path(&self, digest: &Digest) -> Option<PathBuf> {
        Some(self.file(digest)).filter(|p| p.is_file())
    }
}

/// A cloud asked directly.
#[derive(Clone)]
pub struct Cloud(pub Client);

impl Cloud {
    pub fn of(clouds: &Path, name: &str) -> Self {
        Self(Client::new(CloudConfig::from_clouds_yaml(clouds, name).unwrap()).unwrap())
    }

    pub async fn ask(&self, call: Call) -> Result<Value, String> {
        self.0.ask(&call).await.map_err(|e| e.to_string())
    }

    pub async fn tell(&self, call: Call) -> Result<(), String> {
        self.0.tell(&call).await.map_err(|e| e.to_string())
    }

    pub async fn list(&self, call: Call, member: &str) -> Result<Vec<Value>, String> {
        self.0.all(call, member).await.map_err(|e| e.to_string())
    }

    pub async fn own(&self, resource: &str, member: &str) -> Result<Vec<Value>, String> {
        let project = self.0.project_id().await.map_err(|e| e.to_string())?;
        self.list(Call::get(NEUTRON, resource).query("project_id", project), member).await
    }

    pub async fn post(&self, service: Service, path: &str, body: Value) -> Result<Value, String> {
        self.ask(Call::new(service, Method::POST, path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Result<(), String> {
        self.tell(Call::new(NEUTRON, Method::PUT, path).json(&body)).await
    }

    pub async fn delete(&self, service: Service, path: &str) -> Result<(), String> {
        self.0.delete(service, path).await.map_err(|e| e.to_string())
    }

    pub async fn action(&self, server: &str, body: Value) -> Result<(), String> {
        self.tell(Call::new(NOVA, Method::POST, format!("servers/{server}/action")).json(&body)).await
    }

    pub async fn server(&self, id: &str) -> Result<Value, String> {
        Ok(self.ask(Call::get(NOVA, format!("servers/{id}"))).await?["server"].take())
    }

    pub async fn becomes(&self, server: &str, status: &str) -> Result<Value, String> {
        let start = Instant::now();
        loop {
            let seen = self.server(server).await?;
            if seen["status"] == status && seen["OS-EXT-STS:task_state"].is_null() {
                return Ok(seen);
            }
            if start.elapsed() > LIMIT {
                return Err(format!("not {status}: {seen}"));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    pub async fn gone(&self, server: &str) -> Result<(), String> {
        self.delete(NOVA, &format!("servers/{server}")).await?;
        let start = Instant::now();
        while self.server(server).await.is_ok() {
            if start.elapsed() > LIMIT {
                return Err(format!("server {server} does not go"));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    /// Sum of what placement says is used, on every host.
    pub async fn used(&self) -> Result<u64, String> {
        let providers =
            self.list(Call::get(Service::Placement, "resource_providers"), "resource_providers").await?;
        let mut sum = 0;
        for provider in providers {
            let path = format!("resource_providers/{}/usages", text(&provider, "uuid"));
            let usages = self.ask(Call::get(Service::Placement, path)).await?;
            sum += usages["usages"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
        }
        Ok(sum)
    }
}

pub fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

pub fn id(value: &Value) -> String {
    text(value, "id")
}

/// A site of its own on the cloud.
pub struct Yoga {
    pub clouds: PathBuf,
    pub home: String,
    pub cloud: Cloud,
    pub images: Arc<TwoImages>,
    pub vim: OpenStackVim,
    pub config: OpenStackConfig,
    foreign: Vec<(Service, String, Value)>,
    /// Of the ways in which it can be changed or left half made, every so manieth, from which on.
    part: (usize, usize),
}

pub fn config(clouds: &Path, home: &str, images: &Arc<TwoImages>) -> OpenStackConfig {
    let cloud = CloudConfig::from_clouds_yaml(clouds, "mandate").unwrap();
    OpenStackConfig {
        wans: [("wan".to_owned(), "physnet1".to_owned())].into(),
        virtual_functions: [("physnet2".to_owned(), 16)].into(),
        ..OpenStackConfig::new(cloud, "edge", home, images.clone())
    }
}

pub fn home() -> String {
    format!("t{:x}-{}", std::process::id(), FIXTURES.fetch_add(1, Ordering::SeqCst))
}

impl Yoga {
    pub fn new(clouds: &Path) -> Result<Self, String> {
        let (home, images) = (home(), TwoImages::make());
        let capacity = Some(Resources { vcpus: 8, memory_mib: 1024, instances: 8 });
        let config = OpenStackConfig { capacity, ..config(clouds, &home, &images) };
        let vim = OpenStackVim::new(config.clone()).map_err(|e| e.to_string())?;
        let cloud = Cloud::of(clouds, "mandate");
        let (clouds, part) = (clouds.to_owned(), (0, 1));
        Ok(Self { clouds, home, cloud, images, vim, config, foreign: Vec::new(), part })
    }

    /// One that knows only some of the ways: several of them are all, and run at the same time.
    pub fn part(clouds: &Path, part: (usize, usize)) -> Result<Self, String> {
        Ok(Self { part, ..Self::new(clouds)? })
    }

    fn way(&self, way: usize) -> usize {
        way * self.part.1 + self.part.0
    }

    pub fn mark(&self, key: &ObjectKey) -> String {
        format!("mandate:{}:{key}", self.home)
    }

    pub async fn servers(&self) -> Result<Vec<Value>, String> {
        let all = self.cloud.list(Call::get(NOVA, "servers/detail"), "servers").await?;
        Ok(all.into_iter().filter(|s| s["metadata"]["mandate.home"] == self.home.as_str()).collect())
    }

    pub async fn server_of(&self, key: &ObjectKey) -> Result<Value, String> {
        let all = self.servers().await?;
        let found = all.into_iter().find(|s| s["metadata"]["mandate.key"] == key.as_str());
        found.ok_or_else(|| format!("{key} has no server"))
    }

    async fn id_of(&self, key: &ObjectKey) -> Result<String, String> {
        self.server_of(key).await.map(|s| id(&s))
    }

    pub async fn marked(&self, resource: &str, key: &ObjectKey) -> Result<Vec<Value>, String> {
        let mark = self.mark(key);
        let member = resource.rsplit('/').next().unwrap_or(resource).replace('-', "_");
        let all = self.cloud.own(resource, &member).await?;
        Ok(all.into_iter().filter(|o| o["description"] == mark.as_str()).collect())
    }

    async fn one(&self, resource: &str, key: &ObjectKey) -> Result<String, String> {
        let all = self.marked(resource, key).await?;
        all.first().map(id).ok_or_else(|| format!("{key} has no {resource}"))
    }

    async fn image_of(&self, key: &ObjectKey) -> Result<Value, String> {
        let all = self
            .cloud
            .list(Call::get(GLANCE, "images").query("tag", self.mark(key).replace('/', "~")), "images")
            .await?;
        all.into_iter().next().ok_or_else(|| format!("{key} has no image"))
    }

    async fn port(&self, key: &ObjectKey, body: Value) -> Result<Value, String> {
        let mut port = json!({ "description": self.mark(key), "fixed_ips": [] });
        port.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        Ok(self.cloud.post(NEUTRON, "ports", json!({ "port": port })).await?["port"].take())
    }

    /// The image of a queued order: all but the bytes.
    async fn queued(&self, key: &ObjectKey, digest: &Digest) -> Result<Value, String> {
        let body = json!({
            "name": "half", "disk_format": "raw", "container_format": "bare", "visibility": "private",
            "tags": [self.mark(key).replace('/', "~")], "mandate_home": self.home, "mandate_digest": digest.to_string(),
            "mandate_sha512": "?",
        });
        self.cloud.post(GLANCE, "images", body).await
    }

    async fn half_compute(&mut self, key: &ObjectKey, spec: &Spec, way: usize) -> Result<bool, String> {
        let Spec::Compute(compute) = spec else { return Ok(false) };
        let network = self.one("networks", &compute.ports[0].network).await?;
        let mac = compute.ports[0].mac.to_string();
        match way {
            // Its port, and nothing else.
            0 => self
                .port(key, json!({ "network_id": network, "mac_address": mac, "name": "eth" }))
                .await
                .map(drop)?,
            // A port of another specification.
            1 => self.port(key, json!({ "network_id": network, "name": "eth" })).await.map(drop)?,
            // A server that failed.
            2 => {
                self.vim.ensure(key, spec).await.map_err(|e| e.to_string())?;
                let server = self.id_of(key).await?;
                self.cloud.action(&server, json!({ "os-resetState": { "state": "error" } })).await?;
            }
            // A server whose port was deleted first.
            3 => {
                self.vim.ensure(key, spec).await.map_err(|e| e.to_string())?;
                let port = self.one("ports", key).await?;
                self.cloud.delete(NEUTRON, &format!("ports/{port}")).await?;
            }
            // A server with its tags gone, and twice: as two lost answers can have it.
            4 => {
                self.vim.ensure(key, spec).await.map_err(|e| e.to_string())?;
                let server = self.server_of(key).await?;
                let path = format!("servers/{}/tags", id(&server));
                self.cloud.delete(NOVA, &path).await?;
            }
            5 => {
                self.vim.ensure(key, spec).await.map_err(|e| e.to_string())?;
                let server = self.server_of(key).await?;
                self.double(&server).await?;
            }
            // A server that is being built.
            6 => {
                self.vim.ensure(key, spec).await.map_err(|e| e.to_string())?;
                let server = self.server_of(key).await?;
                let port = self.one("ports", key).await?;
                self.cloud.gone(&id(&server)).await?;
                self.order(&server, json!([{ "port": port }])).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Another server of the same marks.
    async fn double(&self, server: &Value) -> Result<(), String> {
        let made = self.order(server, json!("none")).await?;
        self.cloud.becomes(&made, "ACTIVE").await.map(drop)
    }

    /// Orders a server of the same marks; its id.
    async fn order(&self, server: &Value, networks: Value) -> Result<String, String> {
        let flavors =
            self.cloud.list(Call::get(NOVA, "flavors").query("is_public", "None"), "flavors").await?;
        let flavor =
            flavors.iter().find(|f| f["name"] == server["flavor"]["original_name"]).ok_or("no flavor")?;
        let body = json!({ "server": {
            "name": server["name"], "imageRef": server["image"]["id"], "flavorRef": flavor["id"],
            "networks": networks, "metadata": server["metadata"], "tags": server["tags"],
            "user_data": server["OS-EXT-SRV-ATTR:user_data"],
        } });
        let made = self.cloud.post(NOVA, "servers", body).await?;
        Ok(text(&made["server"], "id"))
    }

    async fn alter_server(&self, instance: &ObjectKey, way: usize) -> Result<Option<String>, String> {
        let server = self.id_of(instance).await?;
        let (what, action, status) = match way {
            0 => ("stopped", json!({ "os-stop": null }), "SHUTOFF"),
            1 => ("paused", json!({ "pause": null }), "PAUSED"),
            2 => ("suspended", json!({ "suspend": null }), "SUSPENDED"),
            3 => ("shelved", json!({ "shelve": null }), "SHELVED_OFFLOADED"),
            4 => ("rescued", json!({ "rescue": {} }), "RESCUE"),
            5 => ("in error", json!({ "os-resetState": { "state": "error" } }), "ERROR"),
            _ => return Ok(None),
        };
        self.cloud.action(&server, action).await?;
        self.cloud.becomes(&server, status).await?;
        Ok(Some(format!("server {what}")))
    }

    async fn alter_beside(
        &self,
        instance: &ObjectKey,
        network: &ObjectKey,
        image: &ObjectKey,
        way: usize,
    ) -> Result<Option<String>, String> {
        let net = self.one("networks", network).await?;
        let port = format!("ports/{}", self.one("ports", instance).await?);
        let what = match way {
            0 => {
                let server = self.server_of(instance).await?;
                let body = json!({ "rebuild": { "imageRef": server["image"]["id"], "user_data": null } });
                self.cloud.action(&id(&server), body).await?;
                self.cloud.becomes(&id(&server), "ACTIVE").await?;
                "rebuilt without its configuration"
            }
            1 => {
                self.cloud.gone(&self.id_of(instance).await?).await?;
                "server deleted"
            }
            2 => {
                self.cloud.put(&port, json!({ "port": { "admin_state_up": false } })).await?;
                "port down"
            }
            3 => {
                self.cloud.delete(NEUTRON, &port).await?;
                "port deleted"
            }
            4 => {
                self.cloud.put(&port, json!({ "port": { "name": "other" } })).await?;
                "port renamed"
            }
            5 => {
                self.port(instance, json!({ "network_id": net, "name": "more" })).await?;
                "a port more"
            }
            6 => {
                let path = format!("networks/{net}");
                self.cloud.put(&path, json!({ "network": { "admin_state_up": false } })).await?;
                "network down"
            }
            7 => {
                self.cloud.put(&format!("networks/{net}"), json!({ "network": { "mtu": 1400 } })).await?;
                "another MTU"
            }
            8 => {
                let image = id(&self.image_of(image).await?);
                self.cloud.delete(GLANCE, &format!("images/{image}")).await?;
                "image deleted"
            }
            9 => {
                let image = id(&self.image_of(image).await?);
                self.cloud
                    .tell(Call::new(GLANCE, Method::POST, format!("images/{image}/actions/deactivate")))
                    .await?;
                "image deactivated"
            }
            10 => {
                let key = ObjectKey::new("drift/old").unwrap();
                self.port(&key, json!({ "network_id": net })).await?;
                "a port of an instance that is not"
            }
            _ => return Ok(None),
        };
        Ok(Some(what.to_owned()))
    }
}

#[async_trait]
impl Fixture for Yoga {
    fn driver(&self) -> &dyn VimDriver {
        &self.vim
    }

    fn control(&self) -> &dyn VnfControl {
        &self.vim
    }

    fn images(&self) -> [Digest; 2] {
        self.images.digests
    }

    /// The server, and how often it was brought to life.
    async fn incarnation(&self, key: &ObjectKey) -> Result<String, String> {
        let server = self.id_of(key).await?;
        let call = Call::get(NOVA, format!("servers/{server}/os-instance-actions"));
        let actions = self.cloud.list(call, "instanceActions").await?;
        let births = ["create", "start", "rebuild", "reboot", "unshelve", "unrescue", "resume"];
        let lives = actions.iter().filter(|a| births.contains(&text(a, "action").as_str())).count();
        Ok(format!("{server} in its {lives}. life"))
    }

    async fn leave_half_made(&mut self, key: &ObjectKey, spec: &Spec, way: usize) -> Result<bool, String> {
        let way = self.way(way);
        match (spec, way) {
            (Spec::Image(image), 0) => self.queued(key, &image.digest).await.map(|_| true),
            (Spec::Image(image), 1) => {
                // Other bytes under our marks.
                let made = self.queued(key, &image.digest).await?;
                let other = self.images.file(&self.images.digests[1]);
                upload(&self.clouds, &self.cloud, &id(&made), fs::read(other).unwrap()).await?;
                Ok(true)
            }
            (Spec::Network(_), 0) => {
                let body = json!({ "description": self.mark(key), "name": "half", "admin_state_up": false });
                self.cloud.post(NEUTRON, "networks", json!({ "network": body })).await?;
                Ok(true)
            }
            (Spec::Compute(_), way) => self.half_compute(key, spec, way).await,
            _ => Ok(false),
        }
    }

    async fn crash(&mut self, key: &ObjectKey) -> Result<(), String> {
        self.alter_server(key, 0).await.map(drop)
    }

    async fn make_foreign(&mut self) -> Result<(), String> {
        let other = format!("mandate:{}x:scope/vdu", self.home);
        let near = ["mandate:scope/net", other.as_str(), "mandate", ""];
        let mut made = Vec::new();
        for (n, description) in near.iter().enumerate() {
            let body =
                json!({ "network": { "name": "scope-net", "description": description, "mtu": 1400 + n } });
            let network = self.cloud.post(NEUTRON, "networks", body).await?["network"].take();
            made.push((NEUTRON, format!("networks/{}", id(&network)), "network"));
            let body =
                json!({ "port": { "network_id": id(&network), "name": "eth", "description": description } });
            let port = self.cloud.post(NEUTRON, "ports", body).await?["port"].take();
            made.push((NEUTRON, format!("ports/{}", id(&port)), "port"));
        }
        let body = json!({ "name": "dataplane", "disk_format": "raw", "container_format": "bare", "visibility": "private",
            "tags": [other.replace('/', "~")], "mandate_home": format!("{}x", self.home),
            "mandate_digest": self.images.digests[0].to_string() });
        let image = self.cloud.post(GLANCE, "images", body).await?;
        made.push((GLANCE, format!("images/{}", id(&image)), ""));
        let body = json!({ "server_group": { "name": other, "policy": "affinity" } });
        let group = self.cloud.post(NOVA, "os-server-groups", body).await?["server_group"].take();
        made.push((NOVA, format!("os-server-groups/{}", id(&group)), "server_group"));
        for (service, path, member) in made {
            let object = self.cloud.ask(Call::get(service, path.as_str())).await?;
            let object = if member.is_empty() { object } else { object[member].clone() };
            self.foreign.push((service, path, json!({ "member": member, "object": object })));
        }
        Ok(())
    }

    async fn foreign_intact(&mut self) -> Result<bool, String> {
        for (service, path, was) in &self.foreign {
            let mut now = self.cloud.ask(Call::get(*service, path)).await?;
            let member = text(was, "member");
            let now = if member.is_empty() { now } else { now[&member].take() };
            if now != was["object"] {
                eprintln!("was {}, is {now}", was["object"]);
                return Ok(false);
            }
        }
        Ok(!self.foreign.is_empty())
    }

    async fn emit(&self, _key: &ObjectKey, _port: usize, _frame: &[u8]) -> Result<(), String> {
        Err("nobody gets into a guest".into())
    }

    async fn alter(
        &mut self,
        instance: &ObjectKey,
        network: &ObjectKey,
        image: &ObjectKey,
        way: usize,
    ) -> Result<Option<String>, String> {
        const SERVER: usize = 6;
        let way = self.way(way);
        match way {
            0..SERVER => self.alter_server(instance, way).await,
            _ => self.alter_beside(instance, network, image, way - SERVER).await,
        }
    }

    async fn make_stray(&mut self, way: usize) -> Result<Option<String>, String> {
        let key = |text: &str| ObjectKey::new(text).unwrap();
        let what = match way {
            0 => {
                let net = self.one("networks", &key("stays/net")).await?;
                self.port(&key("stays/vdu-9"), json!({ "network_id": net })).await?;
                "port"
            }
            1 => {
                let body = json!({ "name": "eth", "description": self.mark(&key("gone/vdu")) });
                self.cloud.post(NEUTRON, "security-groups", json!({ "security_group": body })).await?;
                "security group"
            }
            2 => {
                let body = json!({ "name": self.mark(&key("gone/group")), "policy": "affinity" });
                self.cloud.post(NOVA, "os-server-groups", json!({ "server_group": body })).await?;
                "server group"
            }
            3 => {
                self.queued(&key("gone/image"), &self.images.digests[1]).await?;
                "image without bytes"
            }
            4 => {
                let body = json!({ "name": "eth", "description": self.mark(&key("gone/vdu")) });
                self.cloud.post(NEUTRON, "qos/policies", json!({ "policy": body })).await?;
                "QoS policy"
            }
            5 => {
                let net = self.one("networks", &key("stays/net")).await?;
                let port = self.port(&key("gone/vdu"), json!({ "network_id": net })).await?;
                let body = json!({ "port_id": id(&port), "sub_ports": [], "description": self.mark(&key("gone/vdu")) });
                self.cloud.post(NEUTRON, "trunks", json!({ "trunk": body })).await?;
                "trunk"
            }
            6 => {
                let name = format!("mandate-{}-left", self.home);
                let body = json!({ "id": name, "name": name, "vcpus": 1, "ram": 64, "disk": 1, "os-flavor-access:is_public": false });
                self.cloud.post(NOVA, "flavors", json!({ "flavor": body })).await?;
                "flavor"
            }
            _ => return Ok(None),
        };
        Ok(Some(what.to_owned()))
    }

    async fn restart(&mut self) -> Result<(), String> {
        self.vim = OpenStackVim::new(self.config.clone()).map_err(|e| e.to_string())?;
        Ok(())
    }

    async fn residue(&mut self) -> Result<Vec<String>, String> {
        residue(&self.cloud, &self.home).await
    }

    async fn close(mut self) -> Result<(), String> {
        // Users before what they use.
        for server in self.servers().await? {
            self.cloud.gone(&id(&server)).await?;
        }
        let foreign = std::mem::take(&mut self.foreign);
        for (service, path, _) in foreign.into_iter().rev() {
            self.cloud.delete(service, &path).await?;
        }
        let found = self.vim.observe(&vim::Scope::All).await.map_err(|e| e.to_string())?;
        for kind in [Kind::Compute, Kind::Network, Kind::Image] {
            let strays = found.extra.iter().filter(|s| s.kind == kind).map(|s| &s.key);
            let objects = found.objects.iter().filter(|(_, o)| o.kind() == kind).map(|(k, _)| k);
            for key in strays.chain(objects) {
                self.vim.remove(key, kind).await.map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }
}

/// Everything in the project that carries a home's mark: what it is, its id, its name.
pub async fn residue(cloud: &Cloud, home: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let say = |what: &str, o: &Value| format!("{what} {} {}", id(o), text(o, "name"));
    let servers = cloud.list(Call::get(NOVA, "servers/detail"), "servers").await?;
    out.extend(servers.iter().filter(|s| s["metadata"]["mandate.home"] == home).map(|s| say("server", s)));
    let mark = format!("mandate:{home}:");
    for resource in
        ["networks", "subnets", "ports", "security-groups", "qos/policies", "trunks", "floatingips"]
    {
        let member = resource.rsplit('/').next().unwrap_or(resource).replace('-', "_");
        let all = cloud.own(resource, &member).await?;
        out.extend(
            all.iter().filter(|o| text(o, "description").starts_with(&mark)).map(|o| say(resource, o)),
        );
    }
    let images = Call::get(GLANCE, "images").query("mandate_home", home);
    out.extend(cloud.list(images, "images").await?.iter().map(|o| say("image", o)));
    let groups = cloud.list(Call::get(NOVA, "os-server-groups"), "server_groups").await?;
    out.extend(groups.iter().filter(|o| text(o, "name").starts_with(&mark)).map(|o| say("group", o)));
    let flavors = cloud.list(Call::get(NOVA, "flavors").query("is_public", "None"), "flavors").await?;
    let prefix = format!("mandate-{home}-");
    out.extend(flavors.iter().filter(|o| id(o).starts_with(&prefix)).map(|o| say("flavor", o)));
    Ok(out)
}

/// Sends an image's bytes; the session sends only documents.
pub async fn upload(clouds: &Path, cloud: &Cloud, image: &str, bytes: Vec<u8>) -> Result<(), String> {
    let _ = cloud;
    let raw = Raw::login(clouds).await?;
    raw.put(&format!("images/{image}/file"), bytes).await
}

/// A token and glance, without the driver's session: for what that does not do.
pub struct Raw {
    http: reqwest::Client,
    token: String,
    glance: String,
}

impl Raw {
    pub async fn login(clouds: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(clouds).map_err(|e| e.to_string())?;
        let word = |key: &str| {
            let line = text.lines().find_map(|l| l.trim().strip_prefix(&format!("{key}: ")));
            line.map(str::to_owned).ok_or_else(|| format!("no {key} in clouds.yaml"))
        };
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = fs::read(word("cacert")?).map_err(|e| e.to_string())?;
        let ca = reqwest::Certificate::from_pem(&ca).map_err(|e| e.to_string())?;
        let http =
            reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().map_err(|e| e.to_string())?;
        let user = json!({ "name": "mandate", "domain": { "id": "default" }, "password": word("password")? });
        let scope = json!({ "project": { "name": "tenant-a", "domain": { "id": "default" } } });
        let identity = json!({ "methods": ["password"], "password": { "user": user } });
        let url = format!("{}/auth/tokens", word("auth_url")?);
        let body = json!({ "auth": { "identity": identity, "scope": scope } });
        let answer = http.post(url).json(&body).send().await.map_err(|e| e.to_string())?;
        let token = answer.headers()["X-Subject-Token"].to_str().unwrap().to_owned();
        let answer: Value = answer.json().await.map_err(|e| e.to_string())?;
        let services = answer["token"]["catalog"].as_array().unwrap();
        let glance = services.iter().find(|s| s["type"] == "image").unwrap();
        let public =
            glance["endpoints"].as_array().unwrap().iter().find(|e| e["interface"] == "public").unwrap();
        Ok(Self { http, token, glance: format!("{}/v2", self::text(public, "url")) })
    }

    pub async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), String> {
        let request = self.http.put(format!("{}/{path}", self.glance)).header("X-Auth-Token", &self.token);
        let request = request.header("Content-Type", "application/octet-stream").body(bytes);
        let answer = request.send().await.map_err(|e| e.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("PUT {path}: {}", answer.status())) }
    }
}

/// Prints a report and fails with what failed.
pub fn conclude(reports: &[Report]) {
    let cases: Vec<_> = reports.iter().flat_map(|r| &r.cases).collect();
    for case in &cases {
        let word = match (&case.outcome, case.skipped) {
            (Err(_), _) => "FAILED",
            (Ok(()), Some(_)) => "SKIPPED",
            (Ok(()), None) => "ok",
        };
        eprintln!("{:>7} ms  {word:7} {}", case.elapsed_ms, case.name);
    }
    let skipped: Vec<String> = reports.iter().flat_map(Report::skipped).collect();
    eprintln!("{} cases, {} skipped: {}", cases.len(), skipped.len(), skipped.join("; "));
    assert!(!cases.is_empty(), "no case ran");
    let failures: Vec<String> = reports.iter().flat_map(Report::failures).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

pub type Strings = BTreeMap<String, String>;
