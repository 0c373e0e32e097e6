//! A gateway between clients and an NBI, and the clients.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ledger_contract::intent::{PlacementHints, Sensitivity, Sla};
use orchestrator::{
    artifacts::ArtifactStore,
    engine::Parts,
    osm_gateway::{Behind, Door},
    service::Service as _,
    telemetry::metrics::Metrics,
};
use osm_gateway::{Gateway, GatewayConfig, ManagedProject, PersonKey, Upstream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    life::Life,
    nbi::FakeNbi,
    world::{SITES, TENANT, World, plain},
};

/// OSM, a real one or the stand-in.
pub enum Osm {
    Real(String),
    Fake(FakeNbi),
}

/// Everything between a client and the ledger.
pub struct Setup {
    pub world: World,
    pub osm: Osm,
    pub run: Option<Run>,
    pub nsd: String,
    pub vim: String,
    pub project: String,
}

/// A `mandate serve`, as far as the gateway needs one.
pub struct Run {
    pub life: Life,
    pub url: String,
    pub metrics: Arc<Metrics>,
    /// Where the same is behind TLS.
    pub tls: SocketAddr,
    stop: watch::Sender<bool>,
    served_too: JoinHandle<std::io::Result<()>>,
    served: JoinHandle<std::io::Result<()>>,
}

pub fn real() -> Option<String> {
    std::env::var("OSM_NBI_URL").ok().filter(|url| !url.is_empty())
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

impl Setup {
    /// On whatever NBI there is.
    pub async fn new() -> Self {
        match real() {
            Some(url) => Self::on_real(url).await,
            None => Self::on_fake().await,
        }
    }

    pub async fn on_fake() -> Self {
        let (world, nbi) = (World::new(), FakeNbi::start().await);
        let id = |n: u32| format!("00000000-0000-4000-a000-00000000000{n}");
        {
            let mut shelf = nbi.shelf.lock().unwrap();
            let nsd = json!({ "_id": id(1), "id": "secure_edge_ns", "name": "secure_edge_ns", "_admin": { "userDefinedData": {
                "mandate": "ns/secure_edge_ns", "mandate_sha256": world.nsd.hex() } } });
            shelf.records.insert("ns_descriptors", vec![nsd]);
            let vims = json!([{ "_id": id(2), "name": "gw-cloud" }, { "_id": id(3), "name": "elsewhere" }]);
            shelf.records.insert("vim_accounts", vims.as_array().unwrap().clone());
        }
        let mut it =
            Self { world, osm: Osm::Fake(nbi), run: None, nsd: id(1), vim: id(2), project: "gw".into() };
        it.start().await;
        it
    }

    /// A project of its own, with the packages that the ledger knows.
    async fn on_real(url: String) -> Self {
        let world = World::new();
        let admin = Client::login(
            &url,
            &setting("OSM_NBI_USER", "admin"),
            &setting("OSM_NBI_PASSWORD", "admin"),
            "admin",
        )
        .await;
        let project = format!("gw{}", std::process::id() * 100 + next());
        let made = admin.post("admin/v1/projects", &json!({ "name": project })).await;
        assert!(made.0.is_success(), "{made:?}");
        for user in ["alice", "bob"] {
            let user = json!({ "username": format!("{user}-{project}"), "password": PASSWORD,
                "project_role_mappings": [{ "project": project, "role": "system_admin" }] });
            let made = admin.post("admin/v1/users", &user).await;
            assert!(made.0.is_success(), "{made:?}");
        }
        let mut it = Self {
            world,
            osm: Osm::Real(url.clone()),
            run: None,
            nsd: String::new(),
            vim: String::new(),
            project,
        };
        let own = Client::login(&url, &it.user("alice"), PASSWORD, &it.project).await;
        let vim = json!({ "name": "gw-cloud", "vim_type": "openstack", "vim_url": "http://127.0.0.1:1/v3", "vim_tenant_name": "t",
            "vim_user": "u", "vim_password": "p" });
        it.vim = own.post("admin/v1/vim_accounts", &vim).await.1["id"].as_str().unwrap().to_owned();
        it.start().await;
        for name in ["vfw_vnf", "vlb_vnf", "secure_edge_ns"] {
            let made = own.upload(topic(name), it.package(name).await).await;
            assert_eq!(made.0, StatusCode::CREATED, "{name}: {made:?}");
            it.nsd = made.1["id"].as_str().unwrap().to_owned();
        }
        it
    }

    pub fn nbi(&self) -> String {
        match &self.osm {
            Osm::Real(url) => url.clone(),
            Osm::Fake(nbi) => nbi.url.clone(),
        }
    }

    pub fn fake(&self) -> &FakeNbi {
        match &self.osm {
            Osm::Fake(nbi) => nbi,
            Osm::Real(_) => panic!("a real one"),
        }
    }

    /// A user's name, there.
    pub fn user(&self, name: &str) -> String {
        match &self.osm {
            Osm::Real(_) => format!("{name}-{}", self.project),
            Osm::Fake(_) => name.to_owned(),
        }
    }

    pub fn config(&self) -> GatewayConfig {
        let (key, certificate) = self.world.home.identity(TENANT, "tenant");
        let project = ManagedProject {
            tenant: TENANT.into(),
            sla: Sla { throughput_kbps: 1_000, latency_p95_us: 50_000, loss_ppm: 0 },
            sensitivity: Sensitivity::Confidential,
            lease_s: 3_600,
            placement: PlacementHints::default(),
            expires_s: 600,
            pass: ["nst/v1/netslice_templates".to_owned()].into(),
        };
        GatewayConfig {
            listen: "127.0.0.1:0".into(),
            certificate: None,
            key: None,
            projects: [(self.project.clone(), project)].into(),
            identities: [(
                format!("{}@{}", self.user("alice"), self.project),
                PersonKey { certificate, key, user_id: None },
            )]
            .into(),
        }
    }

    pub async fn start(&mut self) {
        let parts = self.world.parts(Arc::new(self.world.log()), plain);
        self.start_of(parts).await;
    }

    pub async fn start_of(&mut self, parts: Parts) {
        let life = Life::of(parts);
        let metrics = Arc::<Metrics>::default();
        let (stop, stopped) = watch::channel(false);
        let behind = Behind::new(life.engine.clone(), metrics.clone(), stopped.clone());
        let upstream = Upstream {
            url: self.nbi(),
            cacert: None,
            allow_plain_http: true,
            sites: [(SITES[0].to_owned(), "gw-cloud".to_owned())].into(),
        };
        let gateway = Gateway::new(self.config(), &upstream, behind.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let tls = self.tls().await;
        let at = tls.address().unwrap();
        let served_too = tokio::spawn(behind.clone().serve(gateway.clone(), tls, stopped.clone()));
        let served = tokio::spawn(behind.serve(gateway, Door::Plain(listener), stopped));
        let url = format!("http://{address}/osm");
        self.run = Some(Run { life, url, metrics, tls: at, stop, served_too, served });
    }

    /// With the orchestrator's own certificate.
    async fn tls(&self) -> Door {
        let (key, certificate) = self.world.home.identity("operator", "orchestrator");
        let config = GatewayConfig { certificate: Some(certificate), key: Some(key), ..self.config() };
        orchestrator::osm_gateway::listen(&config).await.unwrap()
    }

    /// As after `kill -9`, or SIGTERM: the journal is what is left.
    pub async fn stop(&mut self) {
        let run = self.run.take().unwrap();
        run.stop.send_replace(true);
        run.served.await.unwrap().unwrap();
        run.served_too.await.unwrap().unwrap();
        run.life.end().await;
    }

    pub fn run(&self) -> &Run {
        self.run.as_ref().unwrap()
    }

    /// A client of the gateway.
    pub async fn client(&self, user: &str, project: &str) -> Client {
        Client::login(&self.run().url, &self.user(user), PASSWORD, project).await
    }

    pub async fn alice(&self) -> Client {
        self.client("alice", &self.project).await
    }

    /// A registered package's bytes.
    pub async fn package(&self, name: &str) -> Vec<u8> {
        let all = self.run().life.engine.packages().await.unwrap();
        let digest = all.iter().find(|p| p.descriptor_id == name).unwrap().digest;
        ArtifactStore::new(self.world.home.artifacts()).get(&digest).unwrap()
    }

    pub fn ns(&self, name: &str) -> Value {
        json!({ "nsName": name, "nsdId": self.nsd, "vimAccountId": self.vim, "nsDescription": "default description",
            "additionalParamsForVnf": [
                { "member-vnf-index": "vfw", "additionalParams": { "rules": [{ "id": "dns", "from": "outside", "action": "allow",
                    "protocol": 17, "destination": "203.0.113.10/32", "destination_ports": "53" }] } },
                { "member-vnf-index": "vlb", "additionalParams": { "vips": [{ "id": "dns", "address": "203.0.113.10", "protocol": 17, "port": 53 }] } },
            ] })
    }
}

/// Where a package is uploaded.
pub fn topic(name: &str) -> &'static str {
    if name.ends_with("_ns") { "nsd/v1/ns_descriptors_content" } else { "vnfpkgm/v1/vnf_packages_content" }
}

/// As OSM's rules ask for.
pub const PASSWORD: &str = "Gw-passw0rd!";

fn next() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// A client of OSM's, as the `osm` command is one.
pub struct Client {
    pub http: reqwest::Client,
    pub url: String,
    pub token: String,
}

impl Client {
    pub async fn login(url: &str, user: &str, password: &str, project: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        let mut it = Self { http, url: url.to_owned(), token: String::new() };
        let body = json!({ "username": user, "password": password, "project_id": project });
        let (status, answer) = it.post("admin/v1/tokens", &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        it.token = answer["id"].as_str().unwrap().to_owned();
        it
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request =
            self.http.request(method, format!("{}/{path}", self.url)).header("Accept", "application/json");
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    pub async fn send(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (status, value)
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, value) = self.get_any(path).await;
        assert_eq!(status, StatusCode::OK, "GET {path}: {value}");
        value
    }

    pub async fn get_any(&self, path: &str) -> (StatusCode, Value) {
        Self::send(self.request(Method::GET, path)).await
    }

    /// As `osm` does it: JSON that is called YAML.
    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let request = self.request(Method::POST, path).header("Content-Type", "application/yaml");
        Self::send(request.body(body.to_string())).await
    }

    pub async fn delete(&self, path: &str) -> (StatusCode, Value) {
        Self::send(self.request(Method::DELETE, path)).await
    }

    pub async fn upload(&self, path: &str, package: Vec<u8>) -> (StatusCode, Value) {
        let request = self.request(Method::POST, path).header("Content-Type", "application/gzip");
        Self::send(request.body(package)).await
    }

    /// As `osm --wait` does it.
    pub async fn ended(&self, op: &str) -> Value {
        for _ in 0..300 {
            let found = self.get(&format!("nslcm/v1/ns_lcm_op_occs/{op}")).await;
            if found["operationState"] != "PROCESSING" {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("operation {op} does not end");
    }

    pub async fn names(&self) -> Vec<String> {
        let all = self.get("nslcm/v1/ns_instances_content").await;
        all.as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[track_caller]
pub fn refused(answer: &(StatusCode, Value), status: u16, code: &str) {
    assert_eq!(answer.0.as_u16(), status, "{}", answer.1);
    assert_eq!(answer.1["status"], status, "{}", answer.1);
    let detail = answer.1["detail"].as_str().unwrap();
    assert!(detail.starts_with(&format!("{code}: ")), "{code}: {detail}");
}
