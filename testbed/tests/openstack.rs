//! The cloud of `cargo testbed up openstack`, asked over TLS for what a driver needs of it: boots with SR-IOV ports that
//! are bound in truth, anti-affinity, hosts and VFs that run out, quotas, refusals; and nothing is left.
//!
//! `cargo testbed test openstack` starts the cloud and runs this; without one everything here is skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use std::{
    env, fs,
    sync::LazyLock,
    time::{Duration, Instant},
};

use reqwest::{Certificate, Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// The path of `clouds.yaml`.
const CLOUDS: &str = "TESTBED_OPENSTACK";
/// A boot with eight VFs on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
const ASK_EVERY: Duration = Duration::from_millis(300);
const NOVA: (&str, &str) = ("compute", "X-OpenStack-Nova-API-Version");

/// Two hosts have only so many VFs: one test at a time.
static ONE_AT_A_TIME: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);

/// A user of the cloud, with the endpoints of the catalogue.
struct Cloud {
    http: Client,
    token: String,
    project: String,
    catalogue: Value,
}

struct Answer {
    status: StatusCode,
    body: Value,
}

impl Answer {
    #[track_caller]
    fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }

    fn text(&self) -> String {
        self.body.to_string()
    }
}

/// The value of a key in `clouds.yaml`; every user has the same.
fn word(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|l| l.trim().strip_prefix(&format!("{key}: ")));
    line.unwrap_or_else(|| panic!("no {key} in clouds.yaml")).to_owned()
}

/// The running cloud's configuration; `None`, and a line that says so, where there is none.
fn configuration() -> Option<String> {
    let Some(file) = env::var_os(CLOUDS) else {
        eprintln!("SKIPPED: no OpenStack; `cargo testbed test openstack` starts one");
        return None;
    };
    Some(fs::read_to_string(file).unwrap())
}

fn http(ca: &[u8]) -> Client {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let roots = [Certificate::from_pem(ca).unwrap()];
    Client::builder().tls_certs_only(roots).https_only(true).no_proxy().build().unwrap()
}

impl Cloud {
    async fn login(text: &str, user: &str, project: &str) -> Self {
        let http = http(&fs::read(word(text, "cacert")).unwrap());
        let (status, token, body) =
            Self::authenticate(&http, text, user, &word(text, "password"), project).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        let project = body["token"]["project"]["id"].as_str().unwrap().to_owned();
        Self { http, token, project, catalogue: body["token"]["catalog"].clone() }
    }

    async fn authenticate(
        http: &Client,
        text: &str,
        user: &str,
        password: &str,
        project: &str,
    ) -> (StatusCode, String, Value) {
        let user = json!({"name": user, "domain": {"id": "default"}, "password": password});
        let scope = json!({"project": {"name": project, "domain": {"id": "default"}}});
        let identity = json!({"methods": ["password"], "password": {"user": user}});
        let body = json!({"auth": {"identity": identity, "scope": scope}});
        let url = format!("{}/auth/tokens", word(text, "auth_url"));
        let reply = http.post(url).json(&body).send().await.unwrap();
        let token = reply.headers().get("X-Subject-Token").map(|t| t.to_str().unwrap().to_owned());
        (reply.status(), token.unwrap_or_default(), reply.json().await.unwrap())
    }

    fn endpoint(&self, kind: &str) -> String {
        let services = self.catalogue.as_array().unwrap();
        let service = services.iter().find(|s| s["type"] == kind).unwrap();
        let endpoints = service["endpoints"].as_array().unwrap();
        endpoints.iter().find(|e| e["interface"] == "public").unwrap()["url"].as_str().unwrap().to_owned()
    }

    async fn call(&self, method: Method, kind: &str, path: &str, body: Value) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.endpoint(kind)));
        request = request.header("X-Auth-Token", &self.token);
        request = match kind {
            "compute" => request.header(NOVA.1, "2.90"),
            "placement" => request.header("OpenStack-API-Version", "placement 1.39"),
            _ => request,
        };
        if !body.is_null() {
            request = request.json(&body);
        }
        let reply = request.send().await.unwrap();
        let status = reply.status();
        Answer { status, body: reply.json().await.unwrap_or_default() }
    }

    async fn get(&self, kind: &str, path: &str) -> Value {
        self.call(Method::GET, kind, path, Value::Null).await.ok()
    }

    async fn post(&self, kind: &str, path: &str, body: Value) -> Value {
        self.call(Method::POST, kind, path, body).await.ok()
    }

    async fn delete(&self, kind: &str, path: &str) {
        let answer = self.call(Method::DELETE, kind, path, Value::Null).await;
        assert!(answer.status.is_success(), "DELETE {path}: {} {}", answer.status, answer.body);
    }

    async fn image(&self) -> String {
        let body = json!({"name": "it", "disk_format": "raw", "container_format": "bare"});
        let image = id(&self.post("image", "/v2/images", body).await);
        let url = format!("{}/v2/images/{image}/file", self.endpoint("image"));
        let put = self.http.put(url).header("X-Auth-Token", &self.token);
        let put = put.header("Content-Type", "application/octet-stream").body(vec![7; 4096]);
        assert_eq!(put.send().await.unwrap().status(), StatusCode::NO_CONTENT);
        image
    }

    async fn flavor(&self, vcpus: u32, specs: Value) -> String {
        let name = format!("f{vcpus}-{}", specs.as_object().unwrap().len());
        let body = json!({"flavor": {"name": name, "vcpus": vcpus, "ram": 1024, "disk": 1}});
        let flavor = id(&self.post("compute", "/flavors", body).await["flavor"]);
        let path = format!("/flavors/{flavor}/os-extra_specs");
        self.post("compute", &path, json!({"extra_specs": specs})).await;
        flavor
    }

    async fn network(&self, physical: &str, vlan: u32) -> String {
        let network = json!({"name": "n", "provider:network_type": "vlan",
            "provider:physical_network": physical, "provider:segmentation_id": vlan});
        let network =
            id(&self.post("network", "/v2.0/networks", json!({"network": network})).await["network"]);
        let subnet =
            json!({"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24", "enable_dhcp": false});
        self.post("network", "/v2.0/subnets", json!({"subnet": subnet})).await;
        network
    }

    async fn port(&self, network: &str, vnic: &str) -> String {
        let port =
            json!({"network_id": network, "binding:vnic_type": vnic, "binding:profile": {"ours": "x"}});
        id(&self.post("network", "/v2.0/ports", json!({"port": port})).await["port"])
    }

    async fn boot(&self, image: &str, flavor: &str, ports: &[String], hints: Value) -> Value {
        let networks = match ports {
            [] => json!("none"),
            some => some.iter().map(|p| json!({"port": p})).collect(),
        };
        let server = json!({"name": "it", "imageRef": image, "flavorRef": flavor, "networks": networks});
        let body = json!({"server": server, "os:scheduler_hints": hints});
        let server = id(&self.post("compute", "/servers", body).await["server"]);
        let start = Instant::now();
        loop {
            let seen = self.get("compute", &format!("/servers/{server}")).await["server"].clone();
            if seen["status"] != "BUILD" {
                return seen;
            }
            assert!(start.elapsed() < BOOT_LIMIT, "{seen}");
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn gone(&self, server: &Value) {
        let path = format!("/servers/{}", id(server));
        self.delete("compute", &path).await;
        let start = Instant::now();
        while self.call(Method::GET, "compute", &path, Value::Null).await.status != StatusCode::NOT_FOUND {
            assert!(start.elapsed() < BOOT_LIMIT, "{path} is not gone");
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Waits until neutron says what is expected of a port: nova tells it after the server is there.
    async fn port_becomes(&self, port: &str, key: &str, value: &str) -> Value {
        let start = Instant::now();
        loop {
            let seen = self.get("network", &format!("/v2.0/ports/{port}")).await["port"].clone();
            if seen[key] == value {
                return seen;
            }
            assert!(start.elapsed() < BOOT_LIMIT, "{seen}");
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn clear(&self, ports: &[String], networks: &[String], flavors: &[String], image: &str) {
        for port in ports {
            self.delete("network", &format!("/v2.0/ports/{port}")).await;
        }
        for network in networks {
            self.delete("network", &format!("/v2.0/networks/{network}")).await;
        }
        for flavor in flavors {
            self.delete("compute", &format!("/flavors/{flavor}")).await;
        }
        self.delete("image", &format!("/v2/images/{image}")).await;
    }

    /// What placement says is used, of everything on every host.
    async fn used(&self) -> u64 {
        let providers = self.get("placement", "/resource_providers").await;
        let mut sum = 0;
        for provider in providers["resource_providers"].as_array().unwrap() {
            let path = format!("/resource_providers/{}/usages", provider["uuid"].as_str().unwrap());
            let usages = self.get("placement", &path).await["usages"].clone();
            sum += usages.as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
        }
        sum
    }
}

fn id(object: &Value) -> String {
    object["id"].as_str().unwrap_or_else(|| panic!("no id: {object}")).to_owned()
}

#[tokio::test]
async fn endpoints_speak_tls_and_only_the_right_users_are_heard() {
    let Some(text) = configuration() else { return };
    let cloud = Cloud::login(&text, "admin", "admin").await;
    for (kind, path) in [("identity", "/projects"), ("image", "/v2/images"), ("network", "/v2.0/networks")] {
        assert!(cloud.endpoint(kind).starts_with("https://127.0.0.1:"));
        cloud.get(kind, path).await;
    }
    let versions = cloud.get("placement", "/").await;
    assert_eq!(versions["versions"][0]["max_version"], "1.39");
    let nova = cloud.get("compute", "/").await;
    assert_eq!(nova["version"]["version"], "2.90", "Yoga's");
    assert!(nova["version"]["links"][0]["href"].as_str().unwrap().starts_with("https://"), "{nova}");
    let (status, ..) = Cloud::authenticate(&cloud.http, &text, "admin", "wrong", "admin").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, ..) =
        Cloud::authenticate(&cloud.http, &text, "tenant-a", &word(&text, "password"), "tenant-b").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "a tenant is none in another's project");
    let stranger = Client::builder().no_proxy().build().unwrap();
    assert!(stranger.get(word(&text, "auth_url")).send().await.is_err(), "the CA is not the world's");
}

#[tokio::test]
async fn a_server_with_two_direct_ports_is_bound_and_leaves_nothing() {
    let Some(text) = configuration() else { return };
    let _alone = ONE_AT_A_TIME.lock().await;
    let cloud = Cloud::login(&text, "mandate", "tenant-a").await;
    let (image, before) = (cloud.image().await, cloud.used().await);
    let specs = json!({"hw:cpu_policy": "dedicated", "hw:mem_page_size": "1GB", "hw:numa_nodes": "1"});
    let flavor = cloud.flavor(4, specs).await;
    let (plain, fast) = (cloud.network("physnet1", 101).await, cloud.network("physnet2", 1001).await);
    let ports = [
        cloud.port(&plain, "normal").await,
        cloud.port(&fast, "direct").await,
        cloud.port(&fast, "direct").await,
        cloud.port(&fast, "direct-physical").await,
    ];
    let server = cloud.boot(&image, &flavor, &ports, json!({})).await;
    assert_eq!(server["status"], "ACTIVE", "{server}");
    let host = server["OS-EXT-SRV-ATTR:host"].as_str().unwrap();
    let vlan = |port: &Value| port["binding:vif_details"]["vlan"].clone();
    let mut devices = Vec::new();
    for (port, vif) in ports.iter().zip(["ovs", "hw_veb", "hw_veb", "hostdev_physical"]) {
        let seen = cloud.port_becomes(port, "status", "ACTIVE").await;
        assert_eq!(
            (seen["binding:vif_type"].as_str(), seen["binding:host_id"].as_str()),
            (Some(vif), Some(host))
        );
        assert_eq!(seen["binding:profile"]["ours"], "x", "{seen}");
        assert_eq!(vif != "ovs", vlan(&seen) == "1001", "{seen}");
        devices.extend(seen["binding:profile"]["pci_slot"].as_str().map(str::to_owned));
    }
    devices.sort();
    devices.dedup();
    assert_eq!(devices.len(), 3, "two VFs and a PF: {devices:?}");
    // A host's PCI addresses are its own: compute1 has the even buses, compute2 those two further.
    let own = if host == "compute1" { ["18", "58", "98"] } else { ["1a", "5a", "9a"] };
    assert!(devices.iter().all(|d| own.contains(&&d[5..7])), "{devices:?} on {host}");
    cloud.gone(&server).await;
    for port in &ports {
        let seen = cloud.port_becomes(port, "binding:vif_type", "unbound").await;
        assert_eq!(seen["binding:profile"], json!({"ours": "x"}));
    }
    cloud.clear(&ports, &[plain, fast], &[flavor], &image).await;
    assert_eq!(cloud.used().await, before, "placement");
}

#[tokio::test]
async fn hosts_and_virtual_functions_run_out() {
    let Some(text) = configuration() else { return };
    let _alone = ONE_AT_A_TIME.lock().await;
    let cloud = Cloud::login(&text, "mandate", "tenant-a").await;
    let (image, fast) = (cloud.image().await, cloud.network("physnet2", 1002).await);
    let (small, huge) =
        (cloud.flavor(1, json!({})).await, cloud.flavor(64, json!({"hw:cpu_policy": "dedicated"})).await);
    let fault = |server: &Value| server["fault"]["message"].as_str().unwrap_or_default().to_owned();

    let server = cloud.boot(&image, &huge, &[], json!({})).await;
    assert!(
        server["status"] == "ERROR" && fault(&server).starts_with("No valid host was found."),
        "{server}"
    );
    cloud.gone(&server).await;

    let group = json!({"server_group": {"name": "apart", "policy": "anti-affinity"}});
    let group = id(&cloud.post("compute", "/os-server-groups", group).await["server_group"]);
    let mut apart = Vec::new();
    for _ in 0..3 {
        apart.push(cloud.boot(&image, &small, &[], json!({"group": group})).await);
    }
    let hosts: Vec<_> = apart.iter().filter_map(|s| s["OS-EXT-SRV-ATTR:host"].as_str()).collect();
    assert!(hosts.len() == 2 && hosts[0] != hosts[1], "{hosts:?}");
    assert!(fault(&apart[2]).contains("not enough hosts"), "{}", apart[2]);
    for server in &apart {
        cloud.gone(server).await;
    }
    cloud.delete("compute", &format!("/os-server-groups/{group}")).await;

    // Sixteen VFs on each host: two boots of twelve fit, a third does not.
    let (mut ports, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let from = ports.len();
        for _ in 0..12 {
            ports.push(cloud.port(&fast, "direct").await);
        }
        servers.push(cloud.boot(&image, &small, &ports[from..], json!({})).await);
    }
    assert_eq!(servers[1]["status"], "ACTIVE", "{}", servers[1]);
    assert_eq!(servers[2]["status"], "ERROR", "{}", servers[2]);
    for server in &servers {
        cloud.gone(server).await;
    }
    cloud.clear(&ports, &[fast], &[small, huge], &image).await;
}

#[tokio::test]
async fn tenants_are_refused_what_is_not_theirs_and_what_is_too_much() {
    let Some(text) = configuration() else { return };
    let _alone = ONE_AT_A_TIME.lock().await;
    let admin = Cloud::login(&text, "admin", "admin").await;
    let tenant = Cloud::login(&text, "tenant-b", "tenant-b").await;
    let provider =
        json!({"network": {"provider:network_type": "vlan", "provider:physical_network": "physnet1"}});
    let refused = tenant.call(Method::POST, "network", "/v2.0/networks", provider).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text());
    let project = &tenant.project;
    let quota = format!("/v2.0/quotas/{project}");
    admin.call(Method::PUT, "network", &quota, json!({"quota": {"network": 0}})).await.ok();
    let refused = tenant.call(Method::POST, "network", "/v2.0/networks", json!({"network": {}})).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text().contains("Quota exceeded for resources: ['network']"), "{}", refused.text());
    admin.delete("network", &quota).await;

    let (image, flavor) = (tenant.image().await, admin.flavor(2, json!({})).await);
    let quota = format!("/os-quota-sets/{project}");
    admin.call(Method::PUT, "compute", &quota, json!({"quota_set": {"cores": 1}})).await.ok();
    let server = json!({"server": {"name": "x", "imageRef": image, "flavorRef": flavor, "networks": "none"}});
    let refused = tenant.call(Method::POST, "compute", "/servers", server).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.text().contains("Quota exceeded for cores"), "{}", refused.text());
    admin.delete("compute", &quota).await;
    admin.delete("compute", &format!("/flavors/{flavor}")).await;
    tenant.delete("image", &format!("/v2/images/{image}")).await;
}
