//! The gate in the real Yoga: nova, neutron and glance of `cargo testbed up openstack` ask the real server module over
//! mutual TLS, with the policy files that `mandate openstack policy` prints and the check of `packaging/oslo-policy`.
//!
//! What is made by hand here is the list of running operations, because no driver of OpenStack is wired to the orchestrator
//! yet: that the list is right, with real plans, is shown in `tests/engine/gate.rs`. Everything else is real: tokens, calls,
//! a server that boots, ports that nova binds. Without a cloud everything here is skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "common/asked.rs"]
mod asked;
#[path = "common/cloud.rs"]
mod cloud;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use asked::{ByHand, makes};
use cloud::{Cloud, id};
use orchestrator::{
    remote_policy::{
        CloudPolicy, Gate, PolicyConfig,
        rules::{Class, Service, WITHOUT_RULE},
        running::Effect,
        server,
    },
    telemetry::metrics::Metrics,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use vim::Kind;

/// A boot, or its end, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
const ASK_EVERY: Duration = Duration::from_millis(300);
/// Time-out of the plugin in this cloud, by default.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Only a hang takes longer than this.
const HANG: Duration = Duration::from_secs(45);

/// The projects, users and policy files of this test; taken away when it ends well.
struct Stage {
    root: PathBuf,
    home: tempfile::TempDir,
    config: PolicyConfig,
    source: Arc<ByHand>,
    metrics: Arc<Metrics>,
    admin: Cloud,
    tenant: Cloud,
    elsewhere: Cloud,
    mandate: Cloud,
    nova: Cloud,
}

/// A gate that listens, until it is dropped.
struct Listening {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Listening {
    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }
}

const MANAGED: &str = "gate-managed";
const UNMANAGED: &str = "gate-unmanaged";

async fn keystone(admin: &Cloud, root: &Path) {
    let password = cloud::password(root);
    for project in [MANAGED, UNMANAGED] {
        if admin.named("projects", project).await.is_none() {
            let project = json!({"name": project, "domain_id": "default"});
            admin.post("identity", "/projects", json!({"project": project})).await;
        }
    }
    for (user, projects, role) in
        [("gate-tenant", &[MANAGED, UNMANAGED][..], "member"), ("gate-mandate", &[MANAGED], "admin")]
    {
        let id = match admin.named("users", user).await {
            Some(id) => id,
            None => {
                let user = json!({"name": user, "domain_id": "default", "password": password});
                id(&admin.post("identity", "/users", json!({"user": user})).await["user"])
            }
        };
        let role = admin.named("roles", role).await.unwrap();
        for project in projects {
            let project = admin.named("projects", project).await.unwrap();
            let path = format!("/projects/{project}/users/{id}/roles/{role}");
            admin.call(Method::PUT, "identity", &path, Value::Null).await.ok();
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Stage {
    async fn set() -> Option<Self> {
        let root = cloud::root()?;
        let admin = Cloud::login(&root, "admin", "admin").await;
        keystone(&admin, &root).await;
        let login = async |user: &str, project: &str| Cloud::login(&root, user, project).await;
        let tenant = login("gate-tenant", MANAGED).await;
        let elsewhere = login("gate-tenant", UNMANAGED).await;
        let mandate = login("gate-mandate", MANAGED).await;
        // As nova.conf has it under [neutron].
        let nova = login("neutron", "service").await;
        let port = free_port();
        let one = |id: &str| BTreeSet::from([id.to_owned()]);
        let cloud = CloudPolicy {
            sites: one("edge"),
            projects: one(&tenant.project),
            users: one(&mandate.user),
            mano_users: BTreeSet::new(),
            service_users: one(&nova.user),
        };
        let config = PolicyConfig {
            listen: format!("127.0.0.1:{port}"),
            url: format!("https://127.0.0.1:{port}"),
            certificate: root.join("pki/policy.crt"),
            key: root.join("pki/policy.key"),
            client_ca: root.join("pki/ca.crt"),
            clouds: [("yoga".to_owned(), cloud)].into(),
        };
        let home = home(&config);
        let (source, metrics) = (Arc::default(), Arc::default());
        Some(Self { root, home, config, source, metrics, admin, tenant, elsewhere, mandate, nova })
    }

    async fn listen(&self, config: &PolicyConfig) -> Listening {
        let (stop, stopped) = watch::channel(false);
        let listener = server::listen(config).await.unwrap();
        let gate = Gate::new(config.clone(), self.source.clone(), self.metrics.clone());
        Listening { stop, task: tokio::spawn(gate.serve(listener, stopped)) }
    }

    fn policy_file(&self, service: Service) -> PathBuf {
        self.root.join("etc").join(service.name()).join("policy.d/mandate.yaml")
    }

    fn install(&self, how: &str) {
        for service in Service::ALL {
            fs::write(self.policy_file(service), print(self.home.path(), service, &[how])).unwrap();
        }
    }

    /// As it was. glance keeps a rule whose file is removed, so it gets one that says what is so without any.
    fn uninstall(&self) {
        for service in Service::ALL {
            let path = self.policy_file(service);
            let own = match service {
                Service::Glance => without_us(&print(self.home.path(), service, &[])),
                _ => "{}\n".to_owned(),
            };
            fs::write(&path, own).unwrap();
        }
    }
}

/// The rules of a file without what we added to them.
fn without_us(text: &str) -> String {
    let rules: BTreeMap<String, String> = serde_saphyr::from_str(text).unwrap();
    let own = rules.iter().filter_map(|(name, check)| {
        let (own, _) = check.split_once(" and (rule:mandate_unmanaged")?;
        Some(format!("{}: {}\n", json!(name), json!(own)))
    });
    own.collect()
}

/// A home of which nothing but the configuration is there.
fn home(config: &PolicyConfig) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let section = toml::to_string(&BTreeMap::from([("openstack_policy", config)])).unwrap();
    let text = format!(
        "operator = \"op\"\naccepted_policies = [\"sha256:{}\"]\n[[site]]\nname = \"edge\"\njurisdiction = \"DE\"\n\
         latency_us = 1\ncost = 1\n[site.host]\nvcpus = 1\nmemory_mib = 1\ninstances = 1\n{section}",
        "0".repeat(64)
    );
    fs::write(dir.path().join("config.toml"), text).unwrap();
    dir
}

/// What `mandate openstack policy` prints.
fn print(home: &Path, service: Service, more: &[&str]) -> String {
    let mut mandate = Command::new(env!("CARGO_BIN_EXE_mandate"));
    mandate.args(["openstack", "policy", "--service", service.name(), "--home"]).arg(home).args(more);
    let output = mandate.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The calls that change something in the managed project, on objects that are there.
struct Objects {
    server: String,
    port: String,
    network: String,
    subnet: String,
    router: String,
    group: String,
    image: String,
    queued: String,
    flavor: String,
}

type Change = (Method, &'static str, String, Value);

impl Objects {
    /// Made while nothing is gated.
    async fn make(stage: &Stage) -> Self {
        let tenant = &stage.tenant;
        let network = json!({"network": {"name": "n"}});
        let network = id(&tenant.post("network", "/v2.0/networks", network).await["network"]);
        let subnet = json!({"network_id": network, "ip_version": 4, "cidr": "10.7.0.0/24"});
        let subnet = id(&tenant.post("network", "/v2.0/subnets", json!({"subnet": subnet})).await["subnet"]);
        let port = json!({"port": {"network_id": network, "description": "mandate:gate:ns-1/vnf/vdu/0"}});
        let port = id(&tenant.post("network", "/v2.0/ports", port).await["port"]);
        let router = id(&tenant.post("network", "/v2.0/routers", json!({"router": {}})).await["router"]);
        let group = json!({"security_group": {"name": "g"}});
        let group = id(&tenant.post("network", "/v2.0/security-groups", group).await["security_group"]);
        let image = image(tenant, "i").await;
        tenant.call(Method::PUT, "image", &format!("/v2/images/{image}/file"), json!("x")).await.ok();
        let queued = self::image(tenant, "q").await;
        let name = format!("gate-{}", std::process::id());
        let flavor = json!({"flavor": {"name": name, "vcpus": 1, "ram": 64, "disk": 1}});
        let flavor = id(&stage.admin.post("compute", "/flavors", flavor).await["flavor"]);
        let server = server_of(&image, &flavor, &json!("none"));
        let server = id(&tenant.post("compute", "/servers", server).await["server"]);
        until(tenant, &server, "ACTIVE").await;
        Self { server, port, network, subnet, router, group, image, queued, flavor }
    }

    fn changes(&self) -> Vec<Change> {
        let Self { server, port, network, subnet, router, group, image, queued, flavor } = self;
        let on = |what: &str, id: &str| format!("{what}/{id}");
        let action = |what: Value| (Method::POST, "compute", format!("/servers/{server}/action"), what);
        let (post, put, delete) = (Method::POST, Method::PUT, Method::DELETE);
        let rename = json!([{"op": "replace", "path": "/name", "value": "other"}]);
        vec![
            (post.clone(), "compute", "/servers".into(), server_of(image, flavor, &json!("none"))),
            (put.clone(), "compute", on("/servers", server), json!({"server": {"name": "other"}})),
            (post.clone(), "compute", format!("/servers/{server}/metadata"), json!({"metadata": {"a": "b"}})),
            action(json!({"reboot": {"type": "HARD"}})),
            action(json!({"os-stop": null})),
            action(json!({"lock": null})),
            action(json!({"createImage": {"name": "s"}})),
            (
                post.clone(),
                "compute",
                format!("/servers/{server}/os-interface"),
                json!({"interfaceAttachment": {}}),
            ),
            (
                post.clone(),
                "compute",
                "/os-keypairs".into(),
                json!({"keypair": {"name": "k", "type": "ssh",
                "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDummyDummyDummyDummyDummyDummyDummyDummyDumm"}}),
            ),
            (
                post.clone(),
                "compute",
                "/os-server-groups".into(),
                json!({"server_group": {"name": "g", "policy": "affinity"}}),
            ),
            (delete.clone(), "compute", on("/servers", server), Value::Null),
            (post.clone(), "network", "/v2.0/networks".into(), json!({"network": {"name": "x"}})),
            (put.clone(), "network", on("/v2.0/networks", network), json!({"network": {"name": "x"}})),
            (
                post.clone(),
                "network",
                "/v2.0/subnets".into(),
                json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.8.0.0/24"}}),
            ),
            (put.clone(), "network", on("/v2.0/subnets", subnet), json!({"subnet": {"name": "x"}})),
            (delete.clone(), "network", on("/v2.0/subnets", subnet), Value::Null),
            (post.clone(), "network", "/v2.0/ports".into(), json!({"port": {"network_id": network}})),
            (put.clone(), "network", on("/v2.0/ports", port), json!({"port": {"name": "x"}})),
            (delete.clone(), "network", on("/v2.0/ports", port), Value::Null),
            (post.clone(), "network", "/v2.0/routers".into(), json!({"router": {"name": "x"}})),
            (put.clone(), "network", on("/v2.0/routers", router), json!({"router": {"name": "x"}})),
            (
                put.clone(),
                "network",
                format!("/v2.0/routers/{router}/add_router_interface"),
                json!({"subnet_id": subnet}),
            ),
            (delete.clone(), "network", on("/v2.0/routers", router), Value::Null),
            (
                post.clone(),
                "network",
                "/v2.0/address-groups".into(),
                json!({"address_group": {"name": "x", "addresses": ["10.0.0.0/8"]}}),
            ),
            (put.clone(), "image", format!("/v2/images/{image}/tags/x"), Value::Null),
            (post.clone(), "image", format!("/v2/images/{image}/members"), json!({"member": "x"})),
            (
                post.clone(),
                "network",
                "/v2.0/security-groups".into(),
                json!({"security_group": {"name": "x"}}),
            ),
            (
                post.clone(),
                "network",
                "/v2.0/security-group-rules".into(),
                json!({"security_group_rule": {"security_group_id": group, "direction": "ingress"}}),
            ),
            (delete.clone(), "network", on("/v2.0/security-groups", group), Value::Null),
            (delete.clone(), "network", on("/v2.0/networks", network), Value::Null),
            (
                post.clone(),
                "image",
                "/v2/images".into(),
                json!({"name": "x", "disk_format": "raw", "container_format": "bare"}),
            ),
            (Method::PATCH, "image", on("/v2/images", image), rename),
            (put, "image", format!("/v2/images/{queued}/file"), json!("x")),
            (post, "image", format!("/v2/images/{image}/actions/deactivate"), Value::Null),
            (delete, "image", on("/v2/images", image), Value::Null),
        ]
    }

    async fn reads(&self, who: &Cloud) {
        for (kind, path) in [
            ("compute", "/servers/detail".into()),
            ("compute", format!("/servers/{}", self.server)),
            ("compute", format!("/servers/{}/os-interface", self.server)),
            ("network", "/v2.0/networks".into()),
            ("network", format!("/v2.0/ports/{}", self.port)),
            ("network", format!("/v2.0/routers/{}", self.router)),
            ("image", "/v2/images".into()),
            ("image", format!("/v2/images/{}", self.image)),
        ] {
            who.get(kind, &path).await;
        }
        let path = format!("/servers/{}/action", self.server);
        let console = json!({"os-getConsoleOutput": {"length": 1}});
        who.post("compute", &path, console).await;
    }

    async fn clear(self, stage: &Stage) {
        let admin = &stage.admin;
        stage.tenant.delete("compute", &format!("/servers/{}", self.server)).await;
        gone(&stage.tenant, &self.server).await;
        for (kind, path) in [
            ("network", format!("/v2.0/ports/{}", self.port)),
            ("network", format!("/v2.0/routers/{}", self.router)),
            ("network", format!("/v2.0/security-groups/{}", self.group)),
            ("network", format!("/v2.0/networks/{}", self.network)),
            ("image", format!("/v2/images/{}", self.image)),
            ("image", format!("/v2/images/{}", self.queued)),
            ("compute", format!("/flavors/{}", self.flavor)),
        ] {
            admin.delete(kind, &path).await;
        }
    }
}

async fn image(who: &Cloud, name: &str) -> String {
    let body = json!({"name": name, "disk_format": "raw", "container_format": "bare"});
    id(&who.post("image", "/v2/images", body).await)
}

fn server_of(image: &str, flavor: &str, networks: &Value) -> Value {
    json!({"server": {"name": "it", "imageRef": image, "flavorRef": flavor, "networks": networks}})
}

async fn until(who: &Cloud, server: &str, state: &str) {
    let start = Instant::now();
    loop {
        let seen = who.get("compute", &format!("/servers/{server}")).await["server"].clone();
        if seen["status"] == state {
            return;
        }
        assert!(seen["status"] != "ERROR" && start.elapsed() < BOOT_LIMIT, "{seen}");
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn gone(who: &Cloud, server: &str) {
    let (start, path) = (Instant::now(), format!("/servers/{server}"));
    while who.call(Method::GET, "compute", &path, Value::Null).await.status != 404 {
        assert!(start.elapsed() < BOOT_LIMIT, "{path} is not gone");
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Every one of these changes is refused, as 403.
async fn all_refused(changes: Vec<Change>, who: &Cloud, name: &str) {
    for (method, kind, path, body) in changes {
        let answer = who.call(method.clone(), kind, &path, body).await;
        assert_eq!(answer.status, 403, "{name}: {method} {path}: {}", answer.body);
    }
}

/// Every change by somebody with a token of the managed project is.
async fn refused(objects: &Objects, who: &Cloud, name: &str) {
    all_refused(objects.changes(), who, name).await;
}

/// Every change by somebody whose token is of another project: of what is there, and of what is to be the project's.
async fn refused_from_elsewhere(stage: &Stage, objects: &Objects, who: &Cloud, name: &str) {
    let made = ["/servers", "/os-keypairs", "/os-server-groups", "/v2/images"];
    let here =
        |path: &str| made.contains(&path) || path.starts_with("/v2.0/") && path.matches('/').count() == 2;
    let mut changes = objects.changes();
    changes.retain(|(_, _, path, _)| !here(path));
    let (project, post) = (&stage.tenant.project, Method::POST);
    for (one, many) in [("network", "networks"), ("router", "routers"), ("security_group", "security-groups")]
    {
        let body = json!({one: {"name": "x", "project_id": project}});
        changes.push((post.clone(), "network", format!("/v2.0/{many}"), body));
    }
    let port = json!({"port": {"network_id": objects.network, "tenant_id": project}});
    changes.push((post.clone(), "network", "/v2.0/ports".into(), port));
    let image = json!({"name": "x", "disk_format": "raw", "container_format": "bare", "owner": project});
    changes.push((post, "image", "/v2/images".into(), image));
    all_refused(changes, who, name).await;
}

/// One of each of what the tenant does in the other project: nobody asks there.
async fn unnoticed(stage: &Stage, objects: &Objects) {
    let who = &stage.elsewhere;
    let network = json!({"network": {"name": "u"}});
    let network = id(&who.post("network", "/v2.0/networks", network).await["network"]);
    let port = json!({"port": {"network_id": network}});
    let port = id(&who.post("network", "/v2.0/ports", port).await["port"]);
    let rename = json!({"port": {"name": "x"}});
    who.call(Method::PUT, "network", &format!("/v2.0/ports/{port}"), rename).await.ok();
    let image = image(who, "u").await;
    who.call(Method::PUT, "image", &format!("/v2/images/{image}/file"), json!("x")).await.ok();
    let server = server_of(&image, &objects.flavor, &json!("none"));
    let server = id(&who.post("compute", "/servers", server).await["server"]);
    until(who, &server, "ACTIVE").await;
    let stop = json!({"os-stop": null});
    assert_eq!(
        who.call(Method::POST, "compute", &format!("/servers/{server}/action"), stop).await.status,
        202
    );
    until(who, &server, "SHUTOFF").await;
    who.delete("compute", &format!("/servers/{server}")).await;
    gone(who, &server).await;
    for (kind, path) in [
        ("network", format!("/v2.0/ports/{port}")),
        ("network", format!("/v2.0/networks/{network}")),
        ("image", format!("/v2/images/{image}")),
    ] {
        who.delete(kind, &path).await;
    }
}

/// What a driver does in the steps of a deployment and of a termination, each under its own.
async fn under_operations(stage: &Stage, objects: &Objects) {
    let (who, source) = (&stage.mandate, &stage.source);
    let key = |key: &str| json!(format!("mandate:gate:{key}"));
    let refused = async |kind: &str, path: &str, body: Value| {
        let answer = who.call(Method::POST, kind, path, body).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.body);
    };
    source.runs(makes("ns-1/image/x", Kind::Image, Effect::Ensure));
    let tags = json!(["mandate:gate:ns-1~image~x"]);
    let image = json!({"name": "d", "disk_format": "raw", "container_format": "bare", "tags": tags});
    let image = id(&who.post("image", "/v2/images", image).await);
    who.call(Method::PUT, "image", &format!("/v2/images/{image}/file"), json!("x")).await.ok();
    let network = |k: &str| json!({"network": {"name": "d", "description": key(k)}});
    refused("network", "/v2.0/networks", network("ns-1/vl/a")).await;

    source.runs(makes("ns-1/vl/a", Kind::Network, Effect::Ensure));
    refused("network", "/v2.0/networks", network("ns-2/vl/a")).await;
    let network = id(&who.post("network", "/v2.0/networks", network("ns-1/vl/a")).await["network"]);
    let subnet = json!({"network_id": network, "ip_version": 4, "cidr": "10.6.0.0/24", "description": key("ns-1/vl/a")});
    who.post("network", "/v2.0/subnets", json!({"subnet": subnet})).await;
    refused("compute", "/servers", server_of(&image, &objects.flavor, &json!("none"))).await;

    source.runs(makes("ns-1/vnf/vdu/0", Kind::Compute, Effect::Ensure));
    let port = json!({"port": {"network_id": network, "description": key("ns-1/vnf/vdu/0/left")}});
    let port = id(&who.post("network", "/v2.0/ports", port).await["port"]);
    let server = server_of(&image, &objects.flavor, &json!([{"port": port}]));
    let server = id(&who.post("compute", "/servers", server).await["server"]);
    until(who, &server, "ACTIVE").await;
    let bound = who.get("network", &format!("/v2.0/ports/{port}")).await["port"].clone();
    assert_eq!(
        (bound["binding:vif_type"].as_str(), bound["device_id"].as_str()),
        (Some("ovs"), Some(&*server))
    );
    let metadata = json!({"metadata": {"mandate.key": "ns-1/vnf/vdu/0"}});
    who.post("compute", &format!("/servers/{server}/metadata"), metadata).await;
    // The tenant's token is worth no more while Mandate works.
    let name = json!({"port": {"name": "x"}});
    let path = format!("/v2.0/ports/{port}");
    assert_eq!(stage.tenant.call(Method::PUT, "network", &path, name.clone()).await.status, 403);
    source.rests();
    // nova itself, out of band: as if somebody had nova's password.
    let answer = stage.nova.call(Method::PUT, "network", &path, name.clone()).await;
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert_eq!(
        who.call(Method::DELETE, "compute", &format!("/servers/{server}"), Value::Null).await.status,
        403
    );
    // Another instance's step is under way: this one's port shows its key when it is to go.
    source.runs(makes("ns-2/vnf/vdu/0", Kind::Compute, Effect::Remove));
    assert_eq!(who.call(Method::DELETE, "network", &path, Value::Null).await.status, 403);

    source.runs(makes("ns-1/vnf/vdu/0", Kind::Compute, Effect::Remove));
    refused("compute", "/servers", server_of(&image, &objects.flavor, &json!("none"))).await;
    who.delete("compute", &format!("/servers/{server}")).await;
    gone(who, &server).await;
    who.delete("network", &path).await;
    source.runs(makes("ns-1/vl/a", Kind::Network, Effect::Remove));
    who.delete("network", &format!("/v2.0/networks/{network}")).await;
    source.runs(makes("ns-1/image/x", Kind::Image, Effect::Remove));
    who.delete("image", &format!("/v2/images/{image}")).await;
    source.rests();
}

fn codes(stage: &Stage) -> BTreeSet<(String, String)> {
    let kept = stage.source.kept();
    kept.iter().map(|(call, _)| (call.user_id.clone(), call.code.clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_changes_in_a_managed_project_without_an_operation() {
    let Some(stage) = Stage::set().await else { return };
    stage.uninstall();
    let objects = Objects::make(&stage).await;
    let gate = stage.listen(&stage.config).await;
    stage.install("--plugin");

    for (who, name) in [(&stage.tenant, "tenant"), (&stage.mandate, "mandate")] {
        refused(&objects, who, name).await;
        objects.reads(who).await;
    }
    refused_from_elsewhere(&stage, &objects, &stage.admin, "admin").await;
    objects.reads(&stage.admin).await;
    unnoticed(&stage, &objects).await;
    under_operations(&stage, &objects).await;
    stage.source.kept_within(HANG, 30).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let codes = codes(&stage);
    let of = |who: &Cloud, code: &str| (who.user.clone(), code.to_owned());
    for expected in [
        of(&stage.tenant, "OUT_OF_BAND"),
        of(&stage.admin, "OUT_OF_BAND"),
        of(&stage.mandate, "NO_OPERATION"),
        of(&stage.mandate, "NO_STEP"),
        of(&stage.mandate, "FOREIGN_KEY"),
        of(&stage.nova, "NO_OPERATION"),
    ] {
        assert!(codes.contains(&expected), "{expected:?} of {codes:?}");
    }
    assert!(stage.source.kept().iter().all(|(call, _)| call.project_id == stage.tenant.project));
    let metrics = stage.metrics.render(&[], &[]).unwrap();
    metrics.lines().filter(|l| l.contains("policy_check")).for_each(|l| println!("{l}"));

    // Mandate down: refused, not open, and no error of the service; the other project notices nothing.
    gate.end().await;
    for (who, name) in [(&stage.tenant, "tenant, down"), (&stage.mandate, "mandate, down")] {
        refused(&objects, who, name).await;
    }
    objects.reads(&stage.tenant).await;
    unnoticed(&stage, &objects).await;

    // Mandate hangs: it takes the connection and says nothing.
    let hangs = tokio::net::TcpListener::bind(&stage.config.listen).await.unwrap();
    let began = Instant::now();
    let name = json!({"port": {"name": "x"}});
    let path = format!("/v2.0/ports/{}", objects.port);
    let answer = stage.tenant.call(Method::PUT, "network", &path, name).await;
    let took = began.elapsed();
    println!("a Mandate that hangs: {} after {took:?}", answer.status);
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert!(took >= PLUGIN_TIMEOUT && took < HANG, "{took:?}");
    drop(hangs);

    // The services' certificate is of another CA than is configured.
    let other = asked::Cards::new();
    let ca = stage.home.path().join("other.crt");
    fs::write(&ca, &other.ca).unwrap();
    let gate = stage.listen(&PolicyConfig { client_ca: ca, ..stage.config.clone() }).await;
    let before = stage.source.kept().len();
    stage.source.runs(makes("ns-1/vl/a", Kind::Network, Effect::Ensure));
    refused(&objects, &stage.mandate, "of another CA").await;
    stage.source.rests();
    gate.end().await;
    assert_eq!(stage.source.kept().len(), before, "nobody was heard");

    let network = https(&stage, &objects).await;
    stage.uninstall();
    stage.admin.delete("network", &format!("/v2.0/networks/{network}")).await;
    objects.clear(&stage).await;
}

/// What the services can ask by themselves, without the plugin; a network that is left.
async fn https(stage: &Stage, objects: &Objects) -> String {
    stage.install("--https");
    let gate = stage.listen(&stage.config).await;
    refused(objects, &stage.tenant, "tenant, https").await;
    let (who, source) = (&stage.mandate, &stage.source);
    let reboot = json!({"reboot": {"type": "HARD"}});
    let path = format!("/servers/{}/action", objects.server);
    assert_eq!(who.call(Method::POST, "compute", &path, reboot.clone()).await.status, 403);
    source.runs(makes("ns-1/vnf/vdu/0", Kind::Compute, Effect::Ensure));
    assert_eq!(who.call(Method::POST, "compute", &path, reboot.clone()).await.status, 202);
    until(who, &objects.server, "ACTIVE").await;
    let port = format!("/v2.0/ports/{}", objects.port);
    let name = json!({"port": {"name": "x"}});
    assert_eq!(who.call(Method::PUT, "network", &port, name.clone()).await.status, 200);
    source.rests();
    assert_eq!(who.call(Method::PUT, "network", &port, name.clone()).await.status, 403);
    // These it cannot ask for: they are Mandate's users', operation or not.
    let network = json!({"network": {"name": "h"}});
    let network = id(&who.post("network", "/v2.0/networks", network).await["network"]);
    gate.end().await;
    let down = who.call(Method::PUT, "network", &port, name).await;
    assert!(!down.status.is_success(), "{}", down.body);
    println!("https, Mandate down: neutron {}", down.status);
    let down = who.call(Method::POST, "compute", &path, reboot).await;
    assert!(!down.status.is_success(), "{}", down.body);
    println!("https, Mandate down: nova {}", down.status);
    network
}

#[derive(serde::Deserialize)]
struct Yoga {
    rules: Vec<(String, String, String, String, Vec<String>)>,
    effective: BTreeMap<String, String>,
    parts: BTreeMap<String, Vec<String>>,
    said: Vec<String>,
}

/// What the installed Yoga says of a service's rules.
fn yoga(root: &Path, service: Service, more: &[&str]) -> Yoga {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/yoga.py");
    let mut python = Command::new(root.join("cache/venv/bin/python"));
    let output = python.arg(script).arg(service.name()).args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_rules_are_those_of_yoga_and_the_files_keep_their_meaning() {
    let Some(root) = cloud::root() else { return };
    let one = |id: &str| BTreeSet::from([id.to_owned()]);
    let cloud = CloudPolicy {
        sites: one("edge"),
        projects: ["a1", "b2"].map(str::to_owned).into(),
        users: one("m"),
        mano_users: BTreeSet::new(),
        service_users: one("n"),
    };
    let config = PolicyConfig {
        listen: "127.0.0.1:8444".into(),
        url: "https://mandate.example:8444".into(),
        certificate: "c".into(),
        key: "k".into(),
        client_ca: "a".into(),
        clouds: [("yoga".to_owned(), cloud)].into(),
    };
    let home = home(&config);
    for service in Service::ALL {
        let real = yoga(&root, service, &[]);
        let ours: BTreeMap<_, _> = service.rules().map(|r| (r.name, r)).collect();
        let without = |name: &str| service == Service::Neutron && WITHOUT_RULE.contains(&name);
        let known: BTreeSet<&str> = ours.keys().copied().filter(|name| !without(name)).collect();
        let there: BTreeSet<&str> = real.rules.iter().map(|r| r.0.as_str()).collect();
        assert_eq!(known, there, "{service}: none missing and none unknown");
        for (name, default, old_name, old, methods) in &real.rules {
            let rule = &ours[name.as_str()];
            let deprecated = (old_name != "-").then_some((old_name.as_str(), old.as_str()));
            assert_eq!((rule.default, rule.deprecated), (default.as_str(), deprecated), "{name}");
            let changes = methods.iter().any(|m| m != "GET" && m != "HEAD");
            if rule.class == Class::Read && changes {
                // Named one by one: what a changing call shows, and reads that are POSTs.
                let reads = ["show", "index", "-attributes", "console-output", "_access", "host_status"];
                assert!(reads.iter().any(|r| name.contains(r)), "{name} changes something");
            }
        }
        for (how, new) in [("--plugin", ""), ("--https", ""), ("--plugin", "new")] {
            let file = home.path().join("policy.yaml");
            let more: &[&str] = if new.is_empty() { &[how] } else { &[how, "--new-defaults"] };
            fs::write(&file, print(home.path(), service, more)).unwrap();
            let bare = yoga(&root, service, &["none.yaml", new]);
            // neutron's file is for `enforce_new_defaults`, and keeps the meaning that rules have without it; an
            // administrator, about whom no policy is asked without it, is let pass by each.
            let kept = service == Service::Neutron && new.is_empty();
            let with = yoga(&root, service, &[file.to_str().unwrap(), if kept { "new" } else { new }]);
            assert_eq!(with.said, bare.said, "{service}: nothing is said that was not before");
            for rule in service.rules().filter(|r| !without(r.name)) {
                let (before, after) = (&bare.effective[rule.name], &with.effective[rule.name]);
                let before = match kept && rule.class != Class::Alias {
                    true => &format!("(rule:context_is_admin or {before})"),
                    false => before,
                };
                if !rule.class.gated() {
                    assert_eq!(before, after, "{}", rule.name);
                    continue;
                }
                let [own, question] = &with.parts[rule.name][..] else { panic!("{}: {after}", rule.name) };
                assert_eq!(own, before, "{}: the service's own check", rule.name);
                let asks = question.starts_with("(rule:mandate_unmanaged or ");
                assert!(asks && question.contains("mandate"), "{question}");
            }
        }
    }
}

#[test]
fn the_plugin_does_as_it_says() {
    let Some(root) = cloud::root() else { return };
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/oslo-policy/tests");
    let mut python = Command::new(root.join("cache/venv/bin/python"));
    python.args(["-B", "-W", "ignore", "-m", "unittest", "discover"]).arg(&tests);
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
