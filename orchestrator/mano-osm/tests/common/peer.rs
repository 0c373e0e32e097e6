//! The peer: passes on and records, or replays; and loses what it is told to lose.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    response::Response,
    routing::any,
};
use serde_json::Value;
use trust::Digest;

/// Longest body, bytes.
const MAX_BODY: usize = 64 << 20;

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is carried out, and its answer is lost.
    LoseAnswer,
    /// It is lost before it is carried out; who asked cannot tell.
    LoseCall,
    /// It is carried out and never answered: whoever asked is killed meanwhile.
    Hang,
}

/// One exchange.
#[derive(Debug, Clone, PartialEq)]
struct Exchange {
    /// `GET nslcm/v1/ns_instances?name=svc`.
    call: String,
    /// The document, or what stands for bytes.
    asked: String,
    status: u16,
    answer: Vec<u8>,
}

#[derive(Default)]
struct Tape {
    /// What was exchanged, or is still to be replayed.
    exchanges: VecDeque<Exchange>,
    faults: BTreeMap<usize, Fault>,
    /// The same, by the number of the call among those that change something.
    change_faults: BTreeMap<usize, Fault>,
    /// Calls so far, other than for tokens.
    calls: Vec<String>,
    /// The driver asked for something else than it did when this was recorded.
    astray: Option<String>,
}

impl Tape {
    /// Calls so far that change something.
    fn changes(&self) -> usize {
        self.calls.iter().filter(|c| !c.starts_with("GET ")).count()
    }
}

/// A server in front of an NBI, or instead of one.
#[derive(Clone)]
pub struct Peer {
    /// Where it is.
    pub url: String,
    upstream: Option<(String, reqwest::Client)>,
    tape: Arc<Mutex<Tape>>,
    file: PathBuf,
}

impl Peer {
    /// A peer for the recording of this name.
    pub async fn start(name: &str) -> Self {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recorded/{name}.http"));
        let upstream = super::upstream().map(|url| {
            let ca = std::env::var_os("OSM_NBI_CA").map(PathBuf::from);
            let client = http_peer::client(ca.as_deref(), "OSM_NBI_CA", Duration::from_secs(120)).unwrap();
            (url.trim_end_matches('/').trim_end_matches("/osm").to_owned() + "/osm", client)
        });
        let mut tape = Tape::default();
        if upstream.is_none() {
            let text = fs::read_to_string(&file)
                .unwrap_or_else(|e| panic!("{}: {e}: record it with OSM_NBI_RECORD=1", file.display()));
            tape.exchanges = parse(&text);
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/osm", listener.local_addr().unwrap());
        let peer = Self { url, upstream, tape: Arc::new(Mutex::new(tape)), file };
        let router = Router::new().fallback(any(handle)).with_state(peer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        peer
    }

    /// Is it a real NBI's?
    pub fn is_real(&self) -> bool {
        self.upstream.is_some()
    }

    /// Is this run recorded?
    pub fn is_recorded(&self) -> bool {
        super::setting("OSM_NBI_RECORD", "") == "1"
    }

    /// The `n`-th call from now (0 is the next one, tokens apart) meets this fault.
    pub fn fault(&self, n: usize, fault: Fault) {
        let mut tape = self.tape.lock().unwrap();
        let at = tape.calls.len() + n;
        tape.faults.insert(at, fault);
    }

    /// The `n`-th call from now that changes something meets this fault.
    pub fn fault_change(&self, n: usize, fault: Fault) {
        let mut tape = self.tape.lock().unwrap();
        let at = tape.changes() + n;
        tape.change_faults.insert(at, fault);
    }

    /// No more faults.
    pub fn no_faults(&self) {
        let mut tape = self.tape.lock().unwrap();
        tape.faults.clear();
        tape.change_faults.clear();
    }

    /// What was exchanged so far is not part of the recording.
    pub fn begin(&self) {
        let mut tape = self.tape.lock().unwrap();
        tape.exchanges.clear();
        tape.calls.clear();
    }

    /// Calls so far, other than for tokens.
    pub fn calls(&self) -> Vec<String> {
        self.tape.lock().unwrap().calls.clone()
    }

    /// Ends the recording, or asserts that all of it was replayed.
    pub fn finish(&self) {
        let tape = self.tape.lock().unwrap();
        assert!(tape.astray.is_none(), "{}", tape.astray.as_deref().unwrap_or_default());
        match self.is_real() {
            true if self.is_recorded() => fs::write(&self.file, write(&tape.exchanges)).unwrap(),
            true => {}
            false => assert!(
                tape.exchanges.is_empty(),
                "{} recorded exchanges were not asked for; the next: {}",
                tape.exchanges.len(),
                tape.exchanges[0].call
            ),
        }
    }

    async fn pass_on(&self, call: &(Method, String), headers: &HeaderMap, body: Vec<u8>) -> Option<Exchange> {
        let (url, client) = self.upstream.as_ref()?;
        let mut request = client.request(call.0.clone(), format!("{url}/{}", call.1)).body(body.clone());
        for name in ["accept", "content-type", "authorization", "digest"] {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let answer = answer.bytes().await.ok()?.to_vec();
        Some(Exchange {
            call: format!("{} {}", call.0, call.1),
            asked: shown(headers, &body),
            status,
            answer,
        })
    }

    fn replay(&self, call: &(Method, String), headers: &HeaderMap, body: &[u8]) -> Option<Exchange> {
        let mut tape = self.tape.lock().unwrap();
        let next = tape.exchanges.front()?;
        let (called, asked) = (format!("{} {}", call.0, call.1), shown(headers, body));
        if next.call != called || next.asked != asked {
            let what = format!("recorded is\n{}\n{}\nasked is\n{called}\n{asked}", next.call, next.asked);
            tape.astray.get_or_insert(what);
            return None;
        }
        tape.exchanges.pop_front()
    }
}

/// A document as it is compared and recorded; bytes by their digest.
fn shown(headers: &HeaderMap, body: &[u8]) -> String {
    let json =
        headers.get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
    match (body.is_empty(), json) {
        (true, _) => String::new(),
        (_, false) => format!("{} bytes {}", body.len(), Digest::of(body)),
        _ => serde_json::from_slice::<Value>(body).map(|v| v.to_string()).unwrap_or_default(),
    }
}

async fn handle(State(peer): State<Peer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap().to_vec();
    let path = parts.uri.path_and_query().map_or("", |p| p.as_str());
    let call = (parts.method, path.trim_start_matches("/osm/").to_owned());
    if call.1 == "admin/v1/tokens" && !peer.is_real() {
        return answer(200, br#"{"id": "token", "issued_at": 0.0, "expires": 3600.0}"#.to_vec());
    }
    let token = call.1.starts_with("admin/v1/tokens");
    let fault = {
        let mut tape = peer.tape.lock().unwrap();
        let (at, change) = (tape.calls.len(), tape.changes());
        if !token {
            tape.calls.push(format!("{} {}", call.0, call.1));
        }
        let of_change = tape.change_faults.get(&change).filter(|_| call.0 != Method::GET);
        tape.faults.get(&at).or(of_change).copied().filter(|_| !token)
    };
    if fault == Some(Fault::LoseCall) {
        return broken();
    }
    let exchange = match peer.is_real() {
        true => peer.pass_on(&call, &parts.headers, body).await,
        false => peer.replay(&call, &parts.headers, &body),
    };
    let Some(exchange) = exchange else { return broken() };
    if peer.is_real() && !token {
        peer.tape.lock().unwrap().exchanges.push_back(exchange.clone());
    }
    match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(_) => broken(),
        None => answer(exchange.status, exchange.answer),
    }
}

fn answer(status: u16, body: Vec<u8>) -> Response {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .unwrap()
}

/// An answer that breaks off before it says anything.
fn broken() -> Response {
    let broken = futures::stream::once(async { Err::<Vec<u8>, _>(std::io::Error::other("cut")) });
    Response::builder().header(header::CONTENT_LENGTH, 100).body(Body::from_stream(broken)).unwrap()
}

// ---- the form of a recording ----
//
// > CALL
// what was asked, one line, maybe empty
// < STATUS            or `< STATUS = N`: the answer of the N-th exchange again
// what was answered, one line

fn write(exchanges: &VecDeque<Exchange>) -> String {
    let mut out = String::from(
        "# Recorded from a real OSM NBI by these tests (OSM_NBI_RECORD=1); passwords and paths are replaced.\n",
    );
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (n, e) in exchanges.iter().enumerate() {
        let body = text(&e.answer);
        let _ = writeln!(out, "> {}\n{}", e.call, sanitised(&e.asked));
        match seen.get(&body).filter(|_| body.len() > 40) {
            Some(same) => drop(writeln!(out, "< {} = {same}", e.status)),
            None => drop(writeln!(out, "< {}\n{body}", e.status)),
        }
        seen.entry(body).or_insert(n);
    }
    out
}

fn parse(text: &str) -> VecDeque<Exchange> {
    let mut out: VecDeque<Exchange> = VecDeque::new();
    let mut lines = text.lines().filter(|l| !l.starts_with('#'));
    while let Some(call) = lines.next() {
        let call = call.strip_prefix("> ").unwrap_or_else(|| panic!("no call: {call}")).to_owned();
        let asked = lines.next().unwrap().to_owned();
        let status = lines.next().unwrap().strip_prefix("< ").unwrap();
        let (status, answer) = match status.split_once(" = ") {
            Some((status, same)) => (status, out[same.parse::<usize>().unwrap()].answer.clone()),
            None => (status, bytes(lines.next().unwrap())),
        };
        out.push_back(Exchange { call, asked, status: status.parse().unwrap(), answer });
    }
    out
}

/// An answer as one line: JSON without what nobody reads, or bytes in hexadecimal.
fn text(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(mut v) => {
            lessen(&mut v);
            sanitised(&v.to_string())
        }
        Err(_) if body.is_empty() => String::new(),
        Err(_) => format!("hex {}", body.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

fn bytes(line: &str) -> Vec<u8> {
    match line.strip_prefix("hex ") {
        Some(hex) => {
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
        }
        None => line.as_bytes().to_vec(),
    }
}

/// What neither the driver nor its tests read.
const UNREAD: &[&str] = &[
    "resources",
    "vim_password",
    "instantiate_params",
    "virtual-compute-desc",
    "virtual-storage-desc",
    "virtual-storages",
    "sw-image-desc",
    "int-cpd",
    "ext-cpd",
    "connection-point",
    "internal-connection-point",
    "vnfd-connection-point-ref",
    "virtual-link-desc",
    "vnf-profile",
    "flavor",
    "image",
    "_links",
    "links",
    "storage",
    "projects_read",
    "projects_write",
    "operational-events",
    "orchestration-progress",
    "shared-volumes",
    "vnffgd",
    "additionalParamsForVnf",
    "vnf",
    "statusEnteredTime",
    "isAutomaticInvocation",
    "queuePosition",
    "stage",
    "detailedStatus",
    "modified",
    "created-time",
];

/// Copies of descriptors in records, and resources that nobody counted.
fn lessen(v: &mut Value) {
    match v {
        Value::Array(all) => all.iter_mut().for_each(lessen),
        Value::Object(all) => {
            if all.contains_key("nsd-ref") {
                all.remove("nsd");
            }
            // Of operations, only those of healings and moves are read.
            let kind = all.get("lcmOperationType").and_then(Value::as_str);
            if kind.is_some_and(|k| ["instantiate", "terminate", "scale"].contains(&k))
                && all.contains_key("operationParams")
            {
                all.insert("operationParams".into(), Value::Object(Default::default()));
            }
            UNREAD.iter().for_each(|name| drop(all.remove(*name)));
            all.values_mut().for_each(lessen);
        }
        _ => {}
    }
}

/// Without passwords and without paths of the machine where it was recorded.
fn sanitised(line: &str) -> String {
    let mut v: Value = match serde_json::from_str(line) {
        Ok(v) => v,
        Err(_) => return line.to_owned(),
    };
    clean(&mut v);
    v.to_string()
}

fn clean(v: &mut Value) {
    match v {
        Value::Array(all) => all.iter_mut().for_each(clean),
        Value::Object(all) => {
            for (name, value) in all.iter_mut() {
                match name.as_str() {
                    "vim_password" | "password" => *value = "secret".into(),
                    "path" => *value = "/app/storage/".into(),
                    _ => clean(value),
                }
            }
        }
        _ => {}
    }
}
