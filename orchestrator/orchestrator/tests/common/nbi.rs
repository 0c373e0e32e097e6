//! OSM's NBI for the gateway's tests: a real one where `OSM_NBI_URL` names it, else one that answers as that one was seen to,
//! and breaks on demand.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::StreamExt as _;
use serde_json::{Value, json};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The answer breaks off in the middle.
    Torn,
    /// 500, as a proxy writes it.
    Broken,
}

/// The stand-in's state.
#[derive(Default)]
pub struct Shelf {
    /// Token -> user, project, is it an administrator's.
    pub tokens: BTreeMap<String, (String, String, bool)>,
    /// Topic -> records.
    pub records: BTreeMap<&'static str, Vec<Value>>,
    /// Writes that arrived.
    pub written: Vec<(Method, String, usize)>,
    pub fault: Option<Fault>,
}

/// The stand-in.
pub struct FakeNbi {
    pub url: String,
    pub shelf: Arc<Mutex<Shelf>>,
    task: tokio::task::JoinHandle<()>,
}

impl FakeNbi {
    pub async fn start() -> Self {
        Self::of(Arc::default()).await
    }

    /// With what another one had.
    pub async fn of(shelf: Arc<Mutex<Shelf>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/osm", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(shelf.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, shelf, task }
    }

    /// It is gone.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn json_of(status: u16, document: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let headers = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
    (status, headers, serde_json::to_string_pretty(document).unwrap()).into_response()
}

fn error(status: u16, code: &str, detail: &str) -> Response {
    json_of(status, &json!({ "code": code, "status": status, "detail": detail }))
}

fn who(shelf: &Shelf, headers: &HeaderMap) -> Option<(String, String, bool)> {
    let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    shelf.tokens.get(token).cloned()
}

async fn answer(State(shelf): State<Arc<Mutex<Shelf>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 64 << 20).await.unwrap_or_default();
    let path: Vec<String> =
        parts.uri.path().split('/').filter(|p| !p.is_empty()).skip(1).map(str::to_owned).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let query: Vec<(String, String)> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|p| {
            let (name, value) = p.split_once('=')?;
            Some((name.to_owned(), value.replace("%2C", ",").replace('+', " ")))
        })
        .collect();
    let mut shelf = shelf.lock().unwrap();
    match shelf.fault {
        Some(Fault::Broken) => {
            return (StatusCode::INTERNAL_SERVER_ERROR, "<html>bad</html>").into_response();
        }
        Some(Fault::Torn) if path.len() == 3 && path[0] == "nslcm" => {
            let begun =
                Bytes::from("[\n  { \"_id\": \"x\", \"name\": \"whole\" }, { \"_id\": \"y\", \"name\"");
            let torn = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Err(std::io::Error::other("torn"))
            };
            let pieces = futures::stream::once(async { Ok(begun) }).chain(futures::stream::once(torn));
            return Body::from_stream(pieces).into_response();
        }
        _ => {}
    }
    if path == ["admin", "v1", "tokens"] && parts.method == Method::POST {
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
        let token = format!("token-{}-{}-{}", text("username"), text("project_id"), shelf.tokens.len());
        let admin = text("username") == "admin";
        shelf.tokens.insert(token.clone(), (text("username"), text("project_id"), admin));
        return json_of(200, &json!({ "id": token, "expires": 4e9 }));
    }
    let Some((user, project, admin)) = who(&shelf, &parts.headers) else {
        return error(401, "UNAUTHORIZED", "Invalid Token or Authorization HTTP header");
    };
    match (&parts.method, &path[..]) {
        (&Method::DELETE, ["admin", "v1", "tokens", token]) => {
            shelf.tokens.remove(*token);
            json_of(200, &json!("deleted"))
        }
        (&Method::GET, []) => json_of(
            200,
            &json!({
                "_id": "t", "username": user, "user_id": format!("id-{user}"), "project_name": project,
                "project_id": format!("id-{project}"), "admin": admin, "expires": 4e9,
            }),
        ),
        (&Method::GET, [_, _, topic]) => {
            let mut all = shelf.records.get(topic).cloned().unwrap_or_default();
            for (name, value) in &query {
                all.retain(|r| value.split(',').any(|v| r[name.as_str()] == v));
            }
            json_of(200, &json!(all))
        }
        (&Method::GET, [_, _, topic, id]) => {
            let found = shelf.records.get(topic).and_then(|all| all.iter().find(|r| r["_id"] == *id));
            found.map_or_else(|| error(404, "NOT_FOUND", "Not found"), |r| json_of(200, r))
        }
        (&Method::GET, _) => error(404, "NOT_FOUND", "Not found"),
        (&Method::HEAD | &Method::OPTIONS, _) => error(405, "METHOD_NOT_ALLOWED", "no"),
        (method, _) => {
            let at = (method.clone(), parts.uri.to_string(), body.len());
            shelf.written.push(at);
            json_of(201, &json!({ "id": "made-by-osm" }))
        }
    }
}
