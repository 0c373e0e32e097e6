//! The session against an NBI that misbehaves on demand: what is asked again, what is not, and how often.
//!
//! The NBI here exists to inject faults; its words are those of the recordings in `tests/recorded/` and of the NBI's source, and
//! `tests/nbi.rs` is the session against a real one.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
    routing::any,
};
use mano_osm::{
    OsmConfig, Secret,
    client::{Call, Client, Fault},
};
use reqwest::Method;
use serde_json::{Value, json};

/// What the next call is answered with.
#[derive(Clone, Copy)]
enum Answer {
    /// A status and OSM's words.
    Refuse(u16, &'static str),
    /// The connection ends without an answer.
    Break,
    /// To somewhere else.
    Redirect,
    /// More than anybody asked for.
    Flood,
}

#[derive(Default)]
struct Said {
    /// Answers to logins and to other calls, in order; then success.
    logins: Vec<Answer>,
    calls: Vec<Answer>,
    /// The document of a login, when it is not the usual one.
    token: Option<Value>,
    asked: Vec<(String, HeaderMap)>,
    passwords: Vec<String>,
}

#[derive(Clone, Default)]
struct Nbi(Arc<Mutex<Said>>);

impl Nbi {
    async fn start(password: Secret) -> (Self, Client) {
        let nbi = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(any(answer)).with_state(nbi.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = OsmConfig {
            url,
            username: "mandate".into(),
            password,
            project: "tenant".into(),
            cacert: None,
            allow_plain_http: true,
            timeout_s: 5,
            sites: [("here".to_owned(), "vim".to_owned())].into(),
            deadline_s: 60,
            poll_ms: 10,
        };
        (nbi, Client::new(config).unwrap())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Said) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    /// Logins and other calls since the last time.
    fn count(&self) -> (usize, usize) {
        self.with(|s| (std::mem::take(&mut s.passwords).len(), std::mem::take(&mut s.asked).len()))
    }
}

async fn answer(State(nbi): State<Nbi>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let login = parts.uri.path() == "/osm/admin/v1/tokens";
    let next = nbi.with(|s| {
        if login {
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&body["username"], &body["project_id"]), (&json!("mandate"), &json!("tenant")));
            s.passwords.push(body["password"].as_str().unwrap().to_owned());
        } else {
            s.asked.push((parts.uri.to_string(), parts.headers.clone()));
        }
        let script = if login { &mut s.logins } else { &mut s.calls };
        (!script.is_empty()).then(|| script.remove(0))
    });
    let usual = json!({ "id": format!("token-{}", nbi.with(|s| s.passwords.len())), "issued_at": 1.0, "expires": 3601.0 });
    let document = match login {
        true => nbi.with(|s| s.token.clone()).unwrap_or(usual),
        false => json!([]),
    };
    let refused = |status: u16, detail: &str| {
        let body = json!({ "code": "X", "status": status, "detail": detail }).to_string();
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .unwrap()
    };
    match next {
        None => Response::new(Body::from(document.to_string())),
        Some(Answer::Refuse(status, detail)) => refused(status, detail),
        Some(Answer::Redirect) => Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header(header::LOCATION, "http://127.0.0.1:1/")
            .body(Body::empty())
            .unwrap(),
        Some(Answer::Break) => {
            let broken = futures::stream::once(async { Err::<Vec<u8>, _>(std::io::Error::other("cut")) });
            Response::builder().header(header::CONTENT_LENGTH, 100).body(Body::from_stream(broken)).unwrap()
        }
        Some(Answer::Flood) => {
            let chunk = vec![b' '; 1 << 20];
            let flood = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
            Response::new(Body::from_stream(flood))
        }
    }
}

fn given() -> Secret {
    Secret::Given("right".into())
}

fn list() -> Call {
    Call::get("nslcm/v1/ns_instances")
}

fn create() -> Call {
    Call::post("nslcm/v1/ns_instances", &json!({}))
}

#[tokio::test]
async fn one_token_for_all_and_another_when_it_is_none_any_more() {
    let (nbi, client) = Nbi::start(given()).await;
    let all = (0..20).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.ask::<Value>(&list()).await.unwrap() })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    assert_eq!(nbi.count(), (1, 20));
    assert_eq!(client.calls().total(), 21);
    // The three texts of a token that is none, even for a call that must not be made twice: nothing happened.
    for text in [
        "Needed a token or Authorization http header",
        "Invalid Token or Authorization HTTP header",
        "Expired Token or Authorization HTTP header",
    ] {
        nbi.with(|s| s.calls = vec![Answer::Refuse(401, text)]);
        client.ask::<Value>(&create()).await.unwrap();
        assert_eq!(nbi.count(), (1, 2), "{text}");
        nbi.with(|s| s.calls = vec![Answer::Refuse(401, text); 2]);
        assert_eq!(
            client.ask::<Value>(&create()).await.unwrap_err().status(),
            Some(StatusCode::UNAUTHORIZED)
        );
        assert_eq!(nbi.count(), (1, 2), "{text}: no further");
    }
}

#[tokio::test]
async fn a_missing_permission_is_no_reason_to_log_in_again() {
    let (nbi, client) = Nbi::start(given()).await;
    client.ask::<Value>(&list()).await.unwrap();
    nbi.count();
    nbi.with(|s| {
        s.calls = vec![Answer::Refuse(
            401,
            "Access denied: You have not permissions to use these admin query string",
        )]
    });
    let error = client.ask::<Value>(&list()).await.unwrap_err();
    assert!(error.to_string().contains("Access denied"), "{error}");
    assert_eq!(nbi.count(), (0, 1));
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_and_the_next_one_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    let (nbi, client) = Nbi::start(Secret::File(file.clone())).await;
    nbi.with(|s| s.logins = vec![Answer::Refuse(401, "Invalid username/password")]);
    for _ in 0..10 {
        let error = client.ask::<Value>(&list()).await.unwrap_err();
        assert!(matches!(error.fault, Fault::Login { locked: false, .. }), "{error}");
        assert!(error.to_string().contains("password_file"), "says what to do: {error}");
    }
    assert_eq!(nbi.count(), (1, 0), "the fifth would lock the account");
    std::fs::write(&file, "right\n").unwrap();
    client.ask::<Value>(&list()).await.unwrap();
    assert_eq!(nbi.with(|s| s.passwords.clone()), ["right"]);
    // A locked account is left alone, too.
    let (nbi, client) = Nbi::start(given()).await;
    let locked = "Failed to login as the account is locked due to MANY FAILED ATTEMPTS";
    nbi.with(|s| s.logins = vec![Answer::Refuse(401, locked)]);
    for _ in 0..3 {
        let error = client.ask::<Value>(&list()).await.unwrap_err();
        assert!(matches!(error.fault, Fault::Login { locked: true, .. }), "{error}");
    }
    assert_eq!(nbi.count(), (1, 0));
}

#[tokio::test]
async fn an_unreachable_login_is_tried_again_with_each_call() {
    let (nbi, client) = Nbi::start(given()).await;
    nbi.with(|s| s.logins = vec![Answer::Break, Answer::Refuse(502, "")]);
    for _ in 0..2 {
        assert!(client.ask::<Value>(&list()).await.unwrap_err().is_lost());
    }
    client.ask::<Value>(&list()).await.unwrap();
    assert_eq!(nbi.count(), (3, 1));
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_one_without_an_end_works() {
    let (nbi, client) = Nbi::start(given()).await;
    nbi.with(|s| s.token = Some(json!({ "id": "short", "issued_at": 1.0, "expires": 3.0 })));
    client.ask::<Value>(&list()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    client.ask::<Value>(&list()).await.unwrap();
    assert_eq!(nbi.count().0, 2, "half of a short life");
    let (nbi, client) = Nbi::start(given()).await;
    nbi.with(|s| s.token = Some(json!({ "id": "first", "message": "change_password", "user_id": "u" })));
    for _ in 0..3 {
        client.ask::<Value>(&list()).await.unwrap();
    }
    assert_eq!(nbi.count(), (1, 3));
}

#[tokio::test]
async fn what_did_nothing_is_asked_again_within_a_bound() {
    let (nbi, client) = Nbi::start(given()).await;
    for busy in [429, 503] {
        nbi.with(|s| s.calls = vec![Answer::Refuse(busy, "later"); 2]);
        client.tell(&create()).await.unwrap();
        assert_eq!(nbi.count().1, 3, "{busy}");
    }
    nbi.with(|s| s.calls = vec![Answer::Refuse(503, "later"); 9]);
    client.tell(&create()).await.unwrap_err();
    assert_eq!(nbi.count().1, 4);
    nbi.with(|s| s.calls.clear());
    for last in [400, 403, 404, 405, 409, 422] {
        nbi.with(|s| s.calls = vec![Answer::Refuse(last, "as scripted")]);
        assert_eq!(client.tell(&create()).await.unwrap_err().detail(), "as scripted");
        assert_eq!(nbi.count().1, 1, "{last}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_only_when_that_is_harmless() {
    let (nbi, client) = Nbi::start(given()).await;
    let delete = Call::new(Method::DELETE, "nslcm/v1/ns_instances/x");
    let put = Call::new(Method::PUT, "vnfpkgm/v1/vnf_packages/x").json(&json!({}));
    for lost in [Answer::Break, Answer::Refuse(500, ""), Answer::Refuse(504, "")] {
        for (call, times) in [(list(), 2), (delete.clone(), 2), (create(), 1), (put.clone(), 1)] {
            nbi.with(|s| s.calls = vec![lost]);
            let result = client.tell(&call).await;
            assert_eq!((result.is_ok(), nbi.count().1), (times == 2, times), "{call:?}");
            assert!(result.is_ok() || result.is_err_and(|e| e.is_lost()), "{call:?}");
        }
    }
}

#[tokio::test]
async fn json_is_asked_for_and_names_stay_values() {
    let (nbi, client) = Nbi::start(given()).await;
    client.ask::<Value>(&list().query("name", "a&METHOD=DELETE#x/../y")).await.unwrap();
    let asked = nbi.with(|s| s.asked.clone());
    let (url, headers) = &asked[0];
    assert_eq!(url, "/osm/nslcm/v1/ns_instances?name=a%26METHOD%3DDELETE%23x%2F..%2Fy");
    assert_eq!(headers[header::ACCEPT], "application/json", "with */* the NBI answers YAML");
    assert_eq!(headers[header::AUTHORIZATION], "Bearer token-1");
}

#[tokio::test]
async fn answers_are_bounded_and_lead_nowhere_else() {
    let (nbi, client) = Nbi::start(given()).await;
    nbi.with(|s| s.calls = vec![Answer::Flood]);
    let error = client.ask::<Value>(&list()).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Unreadable { .. }), "{error}");
    nbi.with(|s| s.calls = vec![Answer::Redirect]);
    let error = client.ask::<Value>(&list()).await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::TEMPORARY_REDIRECT), "{error}");
}
