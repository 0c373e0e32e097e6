//! What the gate inside OpenStack costs whoever asks it: `cargo run --release -p orchestrator --example policy-bench -- [ANSWERS]`.
//! One JSON document on stdout; `cargo testbed bench policy` reads it.
//!
//! The server is the product's, over mutual TLS; what runs is made by hand. The clients here do as little as can be done: a
//! connection each that is kept, one request that was encoded before, and the answer's end looked for. `plugin` is the time of
//! the oslo.policy plugin as it is, one Python thread that asks and waits, and `plugin_own` its time without waiting; absent
//! where there is no `python3`.
#![allow(missing_docs, dead_code, clippy::unwrap_used, clippy::panic)]

#[path = "../tests/common/asked.rs"]
mod asked;

use std::{
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use asked::{Asked, boot};
use nix::sys::resource::{UsageWho, getrusage};
use rustls::{
    ClientConfig,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Askers at once, as many as a busy cloud's services have together.
const ASKERS: usize = 20;
/// Each asks this often before it is measured.
const WARM: usize = 50;
/// Answers, unless it is said.
const ANSWERS: usize = 40_000;
/// Asked for each second where it is not as fast as can be.
const RATE: u64 = 1_000;

/// Members' certificates name no host; who answers is not what is measured.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn connector(asked: &Asked) -> TlsConnector {
    let (chain, key) = orchestrator::api::tls::identity(
        asked.cards.services.certificate_pem.as_bytes(),
        asked.cards.services.key_pem.as_bytes(),
    )
    .unwrap();
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(chain, key)
        .unwrap();
    TlsConnector::from(Arc::new(config))
}

/// A question as the plugin asks it, with its head.
fn question(asked: &Asked) -> Vec<u8> {
    let target = json!({"project_id": "managed", "tenant_id": "managed", "name": "eth0", "id": "b6fe2bd7",
        "description": "mandate:home:ns-1/vnf/vdu/0", "tags": []});
    let credentials =
        json!({"user_id": "mandate", "project_id": "managed", "roles": ["member", "reader", "admin"]});
    let body = json!({ "target": target, "credentials": credentials }).to_string();
    let url = asked.url("yoga", "neutron", "create_port");
    let path = &url[url.find("/v1/").unwrap()..];
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: gate\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

async fn connect(asked: &Asked) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(asked.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    connector(asked).connect(ServerName::try_from("gate").unwrap(), stream).await.unwrap()
}

/// Asks once; the answer must be `True`.
async fn ask(line: &mut TlsStream<TcpStream>, question: &[u8], answer: &mut Vec<u8>) -> Duration {
    let began = Instant::now();
    line.write_all(question).await.unwrap();
    line.flush().await.unwrap();
    answer.clear();
    while !answer.ends_with(b"\r\n\r\nTrue") {
        assert_ne!(line.read_buf(answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(answer));
    }
    began.elapsed()
}

/// So many answers by all askers together, each at its own pace or without a pause.
async fn load(asked: &Arc<Asked>, answers: usize, every: Option<Duration>) -> (Vec<Duration>, Duration) {
    let mut lines = Vec::new();
    for _ in 0..ASKERS {
        lines.push(connect(asked).await);
    }
    let question: Arc<[u8]> = question(asked).into();
    let start = Instant::now();
    let all: Vec<_> = lines
        .into_iter()
        .enumerate()
        .map(|(n, mut line)| {
            let question = question.clone();
            tokio::spawn(async move {
                let (mut took, mut answer) = (Vec::with_capacity(answers / ASKERS), Vec::with_capacity(1024));
                let mut tick = every.map(|every| {
                    let first = tokio::time::Instant::now() + every * u32::try_from(n).unwrap() / 20;
                    tokio::time::interval_at(first, every)
                });
                for asked in 0..WARM + answers / ASKERS {
                    if let Some(tick) = &mut tick {
                        tick.tick().await;
                    }
                    let one = ask(&mut line, &question, &mut answer).await;
                    took.extend((asked >= WARM).then_some(one));
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for one in all {
        took.extend(one.await.unwrap());
    }
    (took, start.elapsed())
}

fn latency(took: &mut [Duration]) -> Value {
    took.sort();
    let at = |permille: usize| took[(took.len() - 1) * permille / 1000].as_secs_f64() * 1000.0;
    json!({ "p50_ms": at(500), "p90_ms": at(900), "p99_ms": at(990), "most_ms": at(1000) })
}

fn cpu_us() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let us = |t: nix::sys::time::TimeVal| (t.tv_sec() * 1_000_000 + t.tv_usec()) as f64;
    us(usage.user_time()) + us(usage.system_time())
}

const PLUGIN: &str = r#"
import json, os, sys, time
from mandate_oslo_policy import connections, question
host, port, path, directory, answers = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
import ssl
# Members' certificates name no host.
make = ssl.create_default_context
def context(*a, **k):
    made = make(*a, **k)
    made.check_hostname = False
    return made
ssl.create_default_context = context
files = connections.Files(*[os.path.join(directory, f) for f in ("ca.crt", "services.crt", "services.key")])
server = connections.Server(host, port, files)
target = dict(project_id="managed", name="eth0", description="mandate:home:ns-1/vnf/vdu/0", attributes_to_update=["name"])
creds = dict(user_id="mandate", project_id="managed", roles=["member", "reader", "admin"])
took = []
for n in range(answers + 50):
    began = time.perf_counter()
    answer = connections.post(server, path, question.body(target, creds), 5.0)
    if n >= 50:
        took.append(time.perf_counter() - began)
    assert answer.true, answer
    if n == 49:
        own = time.process_time()
own = (time.process_time() - own) / answers
took.sort()
at = lambda permille: took[(len(took) - 1) * permille // 1000] * 1000
print(json.dumps(dict(latency=dict(p50_ms=at(500), p90_ms=at(900), p99_ms=at(990), most_ms=at(1000)), own_us=own * 1e6)))
"#;

/// The plugin as it is, one thread of Python.
fn plugin(asked: &Asked, answers: usize) -> Option<Value> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("ca.crt", &asked.cards.ca),
        ("services.crt", &asked.cards.services.certificate_pem),
        ("services.key", &asked.cards.services.key_pem),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    // Without its package's own head, which needs oslo.policy.
    let package =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/oslo-policy/mandate_oslo_policy");
    let bare = dir.path().join("mandate_oslo_policy");
    fs::create_dir(&bare).unwrap();
    for module in ["connections.py", "question.py"] {
        fs::copy(package.join(module), bare.join(module)).unwrap();
    }
    fs::write(bare.join("__init__.py"), "").unwrap();
    let url = asked.url("yoga", "neutron", "create_port");
    let path = &url[url.find("/v1/").unwrap()..];
    let address = asked.address();
    let mut c = Command::new("python3");
    c.env("PYTHONPATH", dir.path()).args([
        "-c",
        PLUGIN,
        &address.ip().to_string(),
        &address.port().to_string(),
    ]);
    let out = c.args([path, &dir.path().display().to_string(), &answers.to_string()]).output().ok()?;
    if !out.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&out.stderr));
        return None;
    }
    serde_json::from_slice(&out.stdout).ok()
}

fn main() {
    let answers = std::env::args().nth(1).map_or(ANSWERS, |n| n.parse().unwrap());
    let server = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = Arc::new(server.block_on(Asked::start()));
    asked.source.runs(boot("ns-1/vnf/vdu/0"));
    let before = cpu_us();
    let (mut closed, took) = clients.block_on(load(&asked, answers, None));
    let cpu = (cpu_us() - before) / (closed.len() + WARM * ASKERS) as f64;
    let every = Duration::from_secs(1) * u32::try_from(ASKERS).unwrap() / u32::try_from(RATE).unwrap();
    let (mut open, _) = clients.block_on(load(&asked, answers / 4, Some(every)));
    let plugin = plugin(&asked, answers / 10);
    let text = asked.metrics.render(&[], &[]).unwrap();
    let line = |end: &str| {
        let line =
            text.lines().find(|l| l.starts_with("mandate_policy_check_duration_seconds") && l.contains(end));
        line.and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
    };
    let inside = line("_sum").zip(line("_count")).map(|(sum, count)| sum / count * 1e6);
    let rate = closed.len() as f64 / took.as_secs_f64();
    println!(
        "{}",
        json!({
            "askers": ASKERS,
            "closed": { "answers": closed.len(), "per_s": rate, "cpu_us": cpu, "latency": latency(&mut closed) },
            "open": { "answers": open.len(), "per_s": RATE, "latency": latency(&mut open) },
            "inside_us": inside,
            "plugin": plugin.as_ref().map(|p| &p["latency"]),
            "plugin_own_us": plugin.as_ref().map(|p| &p["own_us"]),
        })
    );
}
