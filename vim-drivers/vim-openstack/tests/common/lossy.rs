//! Between a driver and a real cloud: every call goes through, is counted by its shape, and the ones named are lost on the way.
//!
//! It exists to inject faults. The catalogue of each token is rewritten so that all services are reached through it. A call is
//! named by its shape (method and path without ids) and its number among those of the shape: that stays the same when calls
//! that go out together change places.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{ConnectInfo, Request, State, connect_info::Connected},
    http::{HeaderMap, Method, StatusCode, header},
    response::Response,
    routing::any,
    serve::{IncomingStream, Listener},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use vim_openstack::CloudConfig;

/// Longest body that is carried.
const MAX_BODY: usize = 16 << 20;
/// How late a call is carried out that was given up.
const LATE: Duration = Duration::from_millis(1500);
/// Longer than any client waits.
const HANG: Duration = Duration::from_secs(600);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// It does not arrive; the connection ends.
    Request,
    /// It is carried out; the connection ends without an answer.
    Answer,
    /// It is carried out; the answer ends in the middle.
    Cut,
    /// It is carried out; nobody answers, and the connection stays.
    Hang,
    /// The connection ends at once; it is carried out a while later.
    Late,
    /// It does not arrive: somebody between answers so.
    Instead(u16),
    /// It is carried out, and the answer is that.
    After(u16),
}

/// All of them.
pub const LOSSES: [Loss; 13] = [
    Loss::Request,
    Loss::Answer,
    Loss::Cut,
    Loss::Hang,
    Loss::Late,
    Loss::Instead(500),
    Loss::Instead(502),
    Loss::Instead(503),
    Loss::Instead(504),
    Loss::Instead(429),
    Loss::After(500),
    Loss::After(502),
    Loss::After(504),
];

/// Method and path without ids, and the number among its like, from 0.
pub type Named = (String, usize);

#[derive(Default)]
struct Seen {
    /// Every call, in order.
    calls: Vec<Named>,
    counts: BTreeMap<String, usize>,
    plan: BTreeMap<Named, Loss>,
    lost: Vec<(Named, Loss)>,
    /// Status and task that servers are said to have.
    pretended: Option<(String, Value)>,
}

struct Inner {
    http: reqwest::Client,
    /// `scheme://host:port` of each service behind, by number.
    upstream: Mutex<Vec<String>>,
    own: String,
    seen: Mutex<Seen>,
}

/// The proxy; it ends with the runtime.
#[derive(Clone)]
pub struct Lossy(Arc<Inner>);

impl Lossy {
    /// Before the cloud of this configuration; answered with the configuration for who goes through it.
    pub async fn start(cloud: &CloudConfig) -> (Self, CloudConfig) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = std::fs::read(cloud.cacert.as_ref().unwrap()).unwrap();
        let ca = reqwest::Certificate::from_pem(&ca).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let (origin, path) = split(&cloud.auth_url);
        let inner = Inner { http, upstream: Mutex::new(vec![origin]), own, seen: Mutex::default() };
        let it = Self(Arc::new(inner));
        let config = CloudConfig {
            auth_url: format!("{}/0{path}", it.0.own),
            cacert: None,
            allow_plain_http: true,
            ..cloud.clone()
        };
        let app = Router::new().fallback(any(carry)).with_state(it.clone());
        let app = app.into_make_service_with_connect_info::<Line>();
        tokio::spawn(async move { axum::serve(Fragile(listener), app).await });
        (it, config)
    }

    /// From now on, these are lost. What was seen is forgotten.
    pub fn lose(&self, plan: impl IntoIterator<Item = (Named, Loss)>) {
        *self.0.seen.lock().unwrap() = Seen { plan: plan.into_iter().collect(), ..Seen::default() };
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Named> {
        self.0.seen.lock().unwrap().calls.clone()
    }

    /// Calls so far that change something, tokens included.
    pub fn changes(&self) -> Vec<Named> {
        self.calls().into_iter().filter(|(shape, _)| !shape.starts_with("GET ")).collect()
    }

    /// How often each shape was asked.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.0.seen.lock().unwrap().counts.clone()
    }

    /// What was lost.
    pub fn lost(&self) -> Vec<(Named, Loss)> {
        self.0.seen.lock().unwrap().lost.clone()
    }

    /// From now on nova is heard to say that every server has this status and task; `None`: what it really says.
    pub fn pretend(&self, status: Option<(&str, Value)>) {
        let mut seen = self.0.seen.lock().unwrap();
        seen.pretended = status.map(|(status, task)| (status.to_owned(), task));
    }

    fn pretended(&self, body: &Bytes) -> Option<Bytes> {
        let (status, task) = self.0.seen.lock().unwrap().pretended.clone()?;
        let mut found: Value = serde_json::from_slice(body).ok()?;
        let one = |server: &mut Value| {
            if server["status"].is_string() {
                server["status"] = Value::String(status.clone());
                server["OS-EXT-STS:task_state"] = task.clone();
            }
        };
        one(&mut found["server"]);
        found["servers"].as_array_mut().into_iter().flatten().for_each(one);
        Some(found.to_string().into())
    }

    fn see(&self, shape: String) -> Option<Loss> {
        let mut seen = self.0.seen.lock().unwrap();
        let count = seen.counts.entry(shape.clone()).or_default();
        let named = (shape, *count);
        *count += 1;
        seen.calls.push(named.clone());
        let loss = seen.plan.get(&named).copied()?;
        seen.lost.push((named, loss));
        Some(loss)
    }

    /// Our path for what is at this address.
    fn through(&self, url: &str) -> String {
        let (origin, path) = split(url);
        let mut known = self.0.upstream.lock().unwrap();
        let at = known.iter().position(|o| *o == origin).unwrap_or_else(|| {
            known.push(origin);
            known.len() - 1
        });
        format!("{}/{at}{path}", self.0.own)
    }

    fn rewritten(&self, body: &Bytes) -> Bytes {
        let Ok(mut token) = serde_json::from_slice::<Value>(body) else { return body.clone() };
        for service in token["token"]["catalog"].as_array_mut().into_iter().flatten() {
            for endpoint in service["endpoints"].as_array_mut().into_iter().flatten() {
                let through = self.through(endpoint["url"].as_str().unwrap_or_default());
                endpoint["url"] = Value::String(through);
            }
        }
        token.to_string().into()
    }
}

/// Origin and path of a URL.
fn split(url: &str) -> (String, String) {
    let rest = url.find("://").map_or(0, |at| at + 3);
    let end = url[rest..].find('/').map_or(url.len(), |at| rest + at);
    (url[..end].to_owned(), url[end..].to_owned())
}

/// The call without what is different each time.
fn shape(method: &Method, path: &str, body: &[u8]) -> String {
    let id = |part: &str| {
        let hex = part.chars().filter(char::is_ascii_hexdigit).count();
        part.len() >= 32 && hex >= 32 || part.starts_with("mandate-") || part.starts_with("mandate%3A")
    };
    let parts: Vec<&str> = path.split('/').map(|p| if id(p) { "*" } else { p }).collect();
    let action = match path.ends_with("/action") {
        true => {
            serde_json::from_slice::<Value>(body).ok().and_then(|v| v.as_object()?.keys().next().cloned())
        }
        false => None,
    };
    format!("{method} {}{}", parts.join("/"), action.map(|a| format!(" {a}")).unwrap_or_default())
}

async fn carry(State(it): State<Lossy>, ConnectInfo(line): ConnectInfo<Line>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap_or_default();
    let path = head.uri.path_and_query().map_or("/", |p| p.as_str()).trim_start_matches('/').to_owned();
    let (at, path) = path.split_once('/').unwrap_or((&path, ""));
    let origin = it.0.upstream.lock().unwrap()[at.parse::<usize>().unwrap()].clone();
    let bare = head.uri.path().trim_start_matches('/').split_once('/').map_or("", |p| p.1);
    let loss = it.see(shape(&head.method, bare, &body));
    let url = format!("{origin}/{path}");
    let send = async |it: &Lossy| forward(it, head.method.clone(), &url, &head.headers, body.clone()).await;
    match loss {
        None => send(&it).await,
        Some(Loss::Request) => line.cut(),
        Some(Loss::Answer) => {
            send(&it).await;
            line.cut()
        }
        Some(Loss::Hang) => {
            send(&it).await;
            tokio::time::sleep(HANG).await;
            line.cut()
        }
        Some(Loss::Late) => {
            let (it, method, headers) = (it.clone(), head.method.clone(), head.headers.clone());
            let (url, body) = (url.clone(), body.clone());
            tokio::spawn(async move {
                tokio::time::sleep(LATE).await;
                forward(&it, method, &url, &headers, body).await
            });
            line.cut()
        }
        Some(Loss::Cut) => {
            let (mut parts, body) = send(&it).await.into_parts();
            let body = to_bytes(body, MAX_BODY).await.unwrap_or_default();
            parts.headers.insert(header::CONTENT_LENGTH, (body.len() + 2).into());
            let half = body.slice(..body.len() / 2);
            let broken = futures::stream::iter([Ok(half), Err(io::Error::other("cut"))]);
            Response::from_parts(parts, Body::from_stream(broken))
        }
        Some(Loss::Instead(status)) => answer(status),
        Some(Loss::After(status)) => {
            send(&it).await;
            answer(status)
        }
    }
}

fn answer(status: u16) -> Response {
    let mut answer = Response::new(Body::from("<html><body>from between</body></html>"));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer.headers_mut().insert(header::CONTENT_TYPE, "text/html".parse().unwrap());
    if [429, 503].contains(&status) {
        answer.headers_mut().insert(header::RETRY_AFTER, "1".parse().unwrap());
    }
    answer
}

async fn forward(it: &Lossy, method: Method, url: &str, headers: &HeaderMap, body: Bytes) -> Response {
    let token = url.ends_with("/auth/tokens");
    let mut headers = headers.clone();
    for hop in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(hop);
    }
    let sent = it.0.http.request(method, url).headers(headers).body(body).send().await;
    let Ok(sent) = sent else { return answer(502) };
    let (status, mut headers) = (sent.status(), sent.headers().clone());
    let Ok(body) = sent.bytes().await else { return answer(502) };
    let body = if token { it.rewritten(&body) } else { body };
    let servers = url.contains("/v2.1/servers/") && !url.contains("/action");
    let body = if servers { it.pretended(&body).unwrap_or(body) } else { body };
    for hop in [header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(hop);
    }
    let mut out = Response::new(Body::from(body));
    (*out.status_mut(), *out.headers_mut()) = (status, headers);
    out
}

/// A connection that can be ended without an answer.
#[derive(Clone, Default)]
struct Line(Arc<AtomicBool>);

impl Line {
    fn cut(&self) -> Response {
        self.0.store(true, Ordering::SeqCst);
        Response::new(Body::empty())
    }
}

struct Fragile(TcpListener);

struct Wire {
    stream: TcpStream,
    line: Line,
}

impl Listener for Fragile {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            if let Ok((stream, from)) = self.0.accept().await {
                return (Wire { stream, line: Line::default() }, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, Fragile>> for Line {
    fn connect_info(stream: IncomingStream<'_, Fragile>) -> Self {
        stream.io().line.clone()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.line.0.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
