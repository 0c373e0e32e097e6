//! The gate inside OpenStack as the services find it: certificates, a server, and what runs, made by hand.
#![allow(dead_code, reason = "each test uses its part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use orchestrator::{
    api::tls::Renewal,
    remote_policy::{
        CloudPolicy, Gate, PolicyConfig, RefusedCall, Source,
        refusals::Counted,
        running::{Effect, Open, Running, RunningOperation},
        server,
    },
    telemetry::metrics::Metrics,
};
use reqwest::{Client, Identity, StatusCode};
use serde_json::json;
use tokio::sync::watch;
use trust::{
    UnixTime,
    issue::{Issued, ca, member},
};
use vim::{Kind, ObjectKey};

pub const CREATE_SERVER: &str = "os_compute_api:servers:create";

/// What runs, made by hand; and what was refused.
#[derive(Default)]
pub struct ByHand {
    running: Mutex<Arc<Running>>,
    kept: Mutex<BTreeMap<RefusedCall, Counted>>,
}

impl Source for ByHand {
    fn running(&self) -> Arc<Running> {
        self.running.lock().unwrap().clone()
    }
    fn keep(&self, refused: &[(RefusedCall, Counted)]) -> Result<Vec<RefusedCall>, String> {
        let mut kept = self.kept.lock().unwrap();
        let mut new = Vec::new();
        for (call, counted) in refused {
            match kept.get_mut(call) {
                Some(known) => known.count += counted.count,
                None => {
                    kept.insert(call.clone(), counted.clone());
                    new.push(call.clone());
                }
            }
        }
        Ok(new)
    }
}

impl ByHand {
    pub fn runs(&self, operation: RunningOperation) {
        let mut running = Running::default();
        running.put("op", Some(operation));
        *self.running.lock().unwrap() = Arc::new(running);
    }

    pub fn rests(&self) {
        *self.running.lock().unwrap() = Arc::default();
    }

    pub fn kept(&self) -> Vec<(RefusedCall, Counted)> {
        self.kept.lock().unwrap().clone().into_iter().collect()
    }

    /// What was kept, once there is that much of it.
    pub async fn kept_within(&self, limit: Duration, least: usize) -> Vec<(RefusedCall, Counted)> {
        let began = Instant::now();
        loop {
            let kept = self.kept();
            if kept.len() >= least || began.elapsed() > limit {
                return kept;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// An operation that makes something at the site `edge`.
pub fn makes(key: &str, kind: Kind, effect: Effect) -> RunningOperation {
    let key = ObjectKey::new(key).unwrap();
    RunningOperation {
        id: "op".into(),
        ns_instance_id: key.service().into(),
        objects: [("edge".to_owned(), key.clone())].into(),
        open: vec![Open { site: "edge".into(), key, kind, effect }],
        mano: BTreeMap::new(),
    }
}

/// An operation that boots an instance.
pub fn boot(key: &str) -> RunningOperation {
    makes(key, Kind::Compute, Effect::Ensure)
}

/// Certificates.
pub struct Cards {
    pub services: Issued,
    pub stranger: Issued,
    pub server: Issued,
    pub ca: String,
    pub other_ca: String,
}

impl Cards {
    pub fn new() -> Self {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let (from, to) = (UnixTime(now - 60), UnixTime(now + 3_600));
        let authority = |name, seed| ca(name, &[seed; 32], from, to).unwrap();
        let issue = |by: &Issued, name: &str, seed: u8| {
            member(by, name, BTreeMap::new(), &[seed; 32], &[seed], (from, to)).unwrap()
        };
        let (cloud, other) = (authority("cloud", 1), authority("other", 2));
        Self {
            services: issue(&cloud, "services", 3),
            stranger: issue(&other, "services", 4),
            server: issue(&cloud, "orchestrator", 5),
            ca: cloud.certificate_pem,
            other_ca: other.certificate_pem,
        }
    }
}

/// A gate that listens.
pub struct Asked {
    pub cards: Cards,
    pub source: Arc<ByHand>,
    pub metrics: Arc<Metrics>,
    pub config: PolicyConfig,
    pub renewal: Renewal,
    address: std::net::SocketAddr,
    _dir: tempfile::TempDir,
    stop: watch::Sender<bool>,
}

impl Asked {
    pub async fn start() -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (cards, dir) = (Cards::new(), tempfile::tempdir().unwrap());
        let file = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let ids = |ids: &[&str]| ids.iter().map(|i| (*i).to_owned()).collect();
        let cloud = CloudPolicy {
            sites: ids(&["edge"]),
            projects: ids(&["managed"]),
            users: ids(&["mandate"]),
            mano_users: BTreeSet::new(),
            service_users: ids(&["nova"]),
        };
        let config = PolicyConfig {
            listen: "127.0.0.1:0".into(),
            url: "https://127.0.0.1".into(),
            certificate: file("server.crt", &cards.server.certificate_pem),
            key: file("server.key", &cards.server.key_pem),
            client_ca: file("ca.crt", &cards.ca),
            clouds: [("yoga".to_owned(), cloud)].into(),
        };
        let source = Arc::new(ByHand::default());
        let metrics = Arc::new(Metrics::default());
        let listener = server::listen(&config).await.unwrap();
        let (address, renewal) = (listener.address(), listener.renewal());
        let (stop, stopped) = watch::channel(false);
        let gate = Gate::new(config.clone(), source.clone(), metrics.clone());
        tokio::spawn(gate.serve(listener, stopped));
        Self { cards, source, metrics, config, renewal, address, _dir: dir, stop }
    }

    pub fn url(&self, cloud: &str, service: &str, rule: &str) -> String {
        format!("https://{}/v1/{cloud}/{service}/{rule}", self.address)
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    pub fn client(&self, who: &Issued) -> Client {
        let pem = format!("{}{}", who.certificate_pem, who.key_pem);
        builder().identity(Identity::from_pem(pem.as_bytes()).unwrap()).build().unwrap()
    }

    pub fn anonymous(&self) -> Client {
        builder().build().unwrap()
    }
}

fn builder() -> reqwest::ClientBuilder {
    // Members' certificates name no host: who answers is not what is tested here.
    Client::builder().no_proxy().danger_accept_invalid_certs(true).timeout(Duration::from_secs(60))
}

/// Status, body and code of an answer to what oslo.policy asks.
pub async fn ask(client: &Client, url: &str, user: &str, project: &str) -> (StatusCode, String, String) {
    let target = json!({"project_id": project, "user_id": user, "availability_zone": null});
    let credentials = json!({"user_id": user, "project_id": project, "roles": ["member", "reader"]});
    let body = form_urlencoded::Serializer::new(String::new())
        .append_pair("rule", "null")
        .append_pair("target", &target.to_string())
        .append_pair("credentials", &credentials.to_string())
        .finish();
    let request = client.post(url).header("Content-Type", "application/x-www-form-urlencoded").body(body);
    let reply = request.send().await.unwrap();
    let code = reply.headers().get("mandate-code").map(|c| c.to_str().unwrap().to_owned());
    (reply.status(), reply.text().await.unwrap(), code.unwrap_or_default())
}

pub fn quantiles(took: &mut [Duration]) -> String {
    took.sort();
    let at = |permille: usize| took[(took.len() - 1) * permille / 1000];
    format!("{} answers, median {:?}, p99 {:?}, most {:?}", took.len(), at(500), at(990), at(1000))
}
