//! The session against a cloud that misbehaves on demand: what is asked again, what is not, and how often.
//!
//! The cloud here exists to inject faults; `tests/yoga.rs` is the session against a real one.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use serde_json::{Value, json};
use vim_openstack::{Auth, Call, Client, CloudConfig, Fault, Interface, Microversion, Secret, Service};

/// What the next calls of a path are answered with; then 200 and a document.
type Script = Arc<Mutex<Vec<Answer>>>;

#[derive(Clone, Copy)]
enum Answer {
    Status(u16),
    /// With `Retry-After: 0`.
    Later(u16),
    /// The connection ends without an answer.
    Break,
    /// To somewhere else.
    Redirect,
    /// More than anybody asked for.
    Flood,
}

#[derive(Clone, Default)]
struct Cloud {
    base: Arc<Mutex<String>>,
    logins: Arc<AtomicU32>,
    /// Life of the tokens, s.
    life_s: Arc<AtomicU32>,
    script: Script,
    seen: Arc<Mutex<Vec<(Method, String, HeaderMap)>>>,
}

impl Cloud {
    async fn start() -> (Self, Client) {
        let cloud = Self::default();
        cloud.life_s.store(3600, Ordering::SeqCst);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        *cloud.base.lock().unwrap() = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(any(answer)).with_state(cloud.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::new(cloud.config()).unwrap();
        (cloud, client)
    }

    fn config(&self) -> CloudConfig {
        CloudConfig {
            auth_url: self.base.lock().unwrap().clone(),
            auth: Auth::ApplicationCredential {
                application_credential_id: "id".into(),
                secret: Secret::Given("s3cr3t".into()),
            },
            region_name: Some("R".into()),
            interface: Interface::Public,
            cacert: None,
            allow_plain_http: true,
            timeout_s: 5,
        }
    }

    fn then(&self, answers: &[Answer]) {
        *self.script.lock().unwrap() = answers.to_vec();
        self.seen.lock().unwrap().clear();
    }

    /// Calls of nova other than for its versions.
    fn asked(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|(_, path, _)| path.ends_with("/servers")).count()
    }

    fn logins(&self) -> u32 {
        self.logins.load(Ordering::SeqCst)
    }
}

fn token(cloud: &Cloud) -> Response {
    let n = cloud.logins.fetch_add(1, Ordering::SeqCst);
    let (base, life) = (cloud.base.lock().unwrap().clone(), cloud.life_s.load(Ordering::SeqCst));
    let endpoint =
        |region: &str, url: String| json!({"interface": "public", "region_id": region, "url": url});
    let body = json!({"token": {
        "issued_at": "2026-11-20T10:00:00.000000Z",
        "expires_at": format!("2026-11-20T{:02}:{:02}:{:02}.000000Z", 10 + life / 3600, life / 60 % 60, life % 60),
        "project": {"id": "p1"},
        "catalog": [
            {"type": "compute", "endpoints": [endpoint("R", format!("{base}/compute/v2.1"))]},
            {"type": "image", "endpoints": [endpoint("S", format!("{base}/image"))]},
            {"type": "network", "endpoints": [endpoint("R", "http://127.0.0.1:1".into())]},
            {"type": "placement", "endpoints": [endpoint("R", "ftp://x".into())]},
        ],
    }});
    (StatusCode::CREATED, [("X-Subject-Token", format!("token-{n}"))], Json(body)).into_response()
}

async fn answer(State(cloud): State<Cloud>, request: Request) -> Response {
    let (path, method) = (request.uri().path().to_owned(), request.method().clone());
    if path == "/v3/auth/tokens" {
        return token(&cloud);
    }
    cloud.seen.lock().unwrap().push((method, path.clone(), request.headers().clone()));
    if path == "/compute/v2.1/" {
        return Json(json!({"version": {"version": "2.95", "min_version": "2.1"}})).into_response();
    }
    let next = {
        let mut script = cloud.script.lock().unwrap();
        if script.is_empty() { None } else { Some(script.remove(0)) }
    };
    let refusal = Json(json!({"itemNotFound": {"code": 404, "message": "as scripted"}}));
    match next {
        None => Json(json!({"servers": []})).into_response(),
        Some(Answer::Status(status)) => (StatusCode::from_u16(status).unwrap(), refusal).into_response(),
        Some(Answer::Later(status)) => {
            (StatusCode::from_u16(status).unwrap(), [(header::RETRY_AFTER, "0")], refusal).into_response()
        }
        Some(Answer::Redirect) => {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "http://127.0.0.1:1/")]).into_response()
        }
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

fn list() -> Call {
    Call::get(Service::Compute, "servers")
}

fn create() -> Call {
    Call::new(Service::Compute, Method::POST, "servers").json(&json!({"server": {}}))
}

#[tokio::test]
async fn one_token_for_all_and_another_when_it_ends() {
    let (cloud, client) = Cloud::start().await;
    let all = (0..20).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.ask::<Value>(&list()).await.unwrap() })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    assert_eq!((cloud.logins(), cloud.asked()), (1, 20));
    assert_eq!(client.project_id().await.unwrap(), "p1");
    // Revoked: once more with a new one, and no further.
    cloud.then(&[Answer::Status(401)]);
    client.ask::<Value>(&list()).await.unwrap();
    assert_eq!((cloud.logins(), cloud.asked()), (2, 2));
    cloud.then(&[Answer::Status(401), Answer::Status(401)]);
    assert_eq!(client.ask::<Value>(&list()).await.unwrap_err().status(), Some(StatusCode::UNAUTHORIZED));
    assert_eq!((cloud.logins(), cloud.asked()), (3, 2));
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let (cloud, client) = Cloud::start().await;
    cloud.life_s.store(2, Ordering::SeqCst);
    client.ask::<Value>(&list()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    client.ask::<Value>(&list()).await.unwrap();
    assert_eq!(cloud.logins(), 2, "half of a short life");
}

#[tokio::test]
async fn what_did_nothing_is_asked_again_within_a_bound() {
    let (cloud, client) = Cloud::start().await;
    for busy in [429, 503] {
        cloud.then(&[Answer::Later(busy), Answer::Later(busy)]);
        client.tell(&create()).await.unwrap();
        assert_eq!(cloud.asked(), 3, "{busy}");
    }
    cloud.then(&[Answer::Later(503); 9]);
    let error = client.tell(&create()).await.unwrap_err();
    assert_eq!((error.status(), cloud.asked()), (Some(StatusCode::SERVICE_UNAVAILABLE), 4));
    for final_ in [400, 403, 404, 409] {
        cloud.then(&[Answer::Status(final_)]);
        assert_eq!(client.tell(&create()).await.unwrap_err().message(), "as scripted");
        assert_eq!(cloud.asked(), 1, "{final_}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_again_only_when_that_changes_nothing() {
    let (cloud, client) = Cloud::start().await;
    for lost in [Answer::Status(500), Answer::Status(502), Answer::Status(504)] {
        cloud.then(&[lost]);
        client.ask::<Value>(&list()).await.unwrap();
        assert_eq!(cloud.asked(), 2);
        cloud.then(&[lost]);
        let error = client.tell(&create()).await.unwrap_err();
        assert!(error.is_lost() && cloud.asked() == 1, "{error}");
    }
    cloud.then(&[Answer::Break]);
    client.ask::<Value>(&list()).await.unwrap();
    assert_eq!(cloud.asked(), 2);
    cloud.then(&[Answer::Break]);
    let error = client.ask::<Value>(&create()).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Lost { .. }) && cloud.asked() == 1, "{error}");
}

#[tokio::test]
async fn nothing_goes_where_the_catalogue_does_not_say() {
    let (cloud, client) = Cloud::start().await;
    cloud.then(&[Answer::Redirect]);
    let error = client.ask::<Value>(&list()).await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::TEMPORARY_REDIRECT));
    let error = client.ask::<Value>(&Call::get(Service::Image, "images")).await.unwrap_err().to_string();
    assert!(error.contains("in region R; it has public in S"), "{error}");
    let error = client.ask::<Value>(&Call::get(Service::Placement, "traits")).await.unwrap_err().to_string();
    assert!(error.contains("neither https nor http"), "{error}");
    let error = client.ask::<Value>(&Call::get(Service::Network, "ports")).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Unreachable { .. }), "{error}");
    let error = format!("{error}");
    assert!(!error.contains("token-"), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_not_kept() {
    let (cloud, client) = Cloud::start().await;
    cloud.then(&[Answer::Flood]);
    let error = client.ask::<Value>(&list()).await.unwrap_err().to_string();
    assert!(error.contains("more than"), "{error}");
}

#[tokio::test]
async fn the_microversion_is_asked_once_and_said_each_time() {
    let (cloud, client) = Cloud::start().await;
    client.ask::<Value>(&list()).await.unwrap();
    client.ask::<Value>(&list()).await.unwrap();
    let seen = cloud.seen.lock().unwrap().clone();
    assert_eq!(seen.iter().filter(|(_, path, _)| path == "/compute/v2.1/").count(), 1);
    let said: Vec<_> = seen.iter().filter(|(_, path, _)| path.ends_with("servers")).collect();
    assert!(said.iter().all(|(_, _, h)| h["OpenStack-API-Version"] == "compute 2.90"));
    let error = client.tell(&create().least(Microversion(2, 96))).await.unwrap_err().to_string();
    assert!(error.contains("needs microversion 2.96, the service speaks 2.90"), "{error}");
    assert_eq!(client.calls().0, [1, 3, 0, 0, 0, 0], "keystone once, nova three times");
}

#[tokio::test]
async fn a_cloud_that_is_not_there() {
    let (cloud, _) = Cloud::start().await;
    let nowhere = CloudConfig { auth_url: "http://127.0.0.1:1".into(), ..cloud.config() };
    let error = Client::new(nowhere).unwrap().project_id().await.unwrap_err();
    assert!(matches!(error.fault, Fault::Unreachable { .. }), "{error}");
    assert!(error.to_string().starts_with("keystone POST auth/tokens: not reached"), "{error}");
    let unreadable = CloudConfig {
        auth: Auth::ApplicationCredential {
            application_credential_id: "id".into(),
            secret: Secret::File("/nonexistent".into()),
        },
        ..cloud.config()
    };
    let error = Client::new(unreadable).unwrap().project_id().await.unwrap_err().to_string();
    assert!(error.contains("secret_file: /nonexistent"), "{error}");
}
