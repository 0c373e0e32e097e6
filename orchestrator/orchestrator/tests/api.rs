//! The API over a real UNIX socket, with a service that records what it was asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod common;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Recorder, approval};
use lcm::operation::Direction;
use orchestrator::{
    api::{Api, Bounds, MAX_BEHIND, Signals, catalogue},
    client::{Client, ClientError, Message},
    problem::Problem,
    views::{EventView, OperationView},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
};
use trust::{
    Digest, Envelope, Signer, UnixTime,
    issue::{ca, member},
};

struct Server {
    recorder: Arc<Recorder>,
    client: Client,
    socket: PathBuf,
    stop: watch::Sender<bool>,
    drain: watch::Sender<bool>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
    _dir: tempfile::TempDir,
}

fn start() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("mandate.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let recorder = Arc::new(Recorder::default());
    let (stop, stopped) = watch::channel(false);
    let (drain, draining) = watch::channel(false);
    let bounds = Bounds { package_bytes: 1 << 16 };
    let api = Api::new(recorder.clone(), Signals { draining, stop: stopped }).bounds(bounds);
    let task = tokio::spawn(api.serve_unix(listener));
    Server { recorder, client: Client::new(&socket).unwrap(), socket, stop, drain, task, _dir: dir }
}

const JSON: &str = "content-type: application/json\r\n";
const BYTES: &str = "content-type: application/octet-stream\r\n";

/// One exchange in plain bytes: what a client that is not ours sees. Status, headers (lower case), body.
async fn raw(socket: &Path, request: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

async fn exchange(socket: &Path, method: &str, path: &str, extra: &str, body: &str) -> (u16, String, String) {
    let length = body.len();
    raw(
        socket,
        &format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{extra}\r\n{body}"),
    )
    .await
}

fn problem(answer: &(u16, String, String)) -> Problem {
    assert!(answer.1.contains("content-type: application/problem+json"), "{}", answer.1);
    let problem: Problem = serde_json::from_str(&answer.2).unwrap();
    assert_eq!(problem.status, answer.0);
    problem
}

fn envelope() -> Envelope {
    let authority = ca("acme", &[1; 32], UnixTime(0), UnixTime(2_000_000_000)).unwrap();
    let attrs = Default::default();
    let valid = (UnixTime(0), UnixTime(2_000_000_000));
    let issued = member(&authority, "tenant", attrs, &[2; 32], &[1], valid).unwrap();
    let signer = Signer::from_pem(&issued.key_pem, &issued.certificate_pem).unwrap();
    Envelope::sign("text/x", b"payload".to_vec(), &[&signer]).unwrap()
}

#[tokio::test]
async fn every_call_reaches_the_service_with_what_was_asked() {
    let s = start();
    let c = &s.client;
    assert_eq!(c.submit(&envelope()).await.unwrap().position, 7);
    assert!(c.packages().await.unwrap().is_empty());
    c.intents(5).await.unwrap();
    c.services(true).await.unwrap();
    c.ns("acme/edge").await.unwrap_err();
    c.timeline("acme/edge").await.unwrap();
    c.timeline("ns-1").await.unwrap();
    c.intent("i d/é?#").await.unwrap_err();
    assert_eq!(c.attestation_key("edge-a", true).await.unwrap().site, "edge-a");
    c.attestation_key("edge-a", false).await.unwrap();
    assert_eq!(c.deliver(&approval(3)).await.unwrap().operation_id, "op-1");
    assert_eq!(c.ledger_range(2, 3).await.unwrap(), ["{}"]);
    assert_eq!(
        s.recorder.asked(),
        [
            "submit text/x",
            "intents None None 6",
            "services true",
            "ns acme/edge",
            "timeline acme/edge",
            "timeline ns-1",
            "intent i d/é?#",
            "key edge-a true",
            "key edge-a false",
            "deliver entry",
            "range 2 3",
        ]
    );
    assert_eq!(c.ledger_entry(9).await.unwrap().proof.index, 9);
    assert_eq!(c.ledger_head().await.unwrap(), "origin\n1\nroot\n");
    assert_eq!(c.policy().await.unwrap(), Digest([1; 32]));
    assert_eq!(c.bundle("op-1").await.unwrap(), b"{\"op\":\"op-1\"}\n");
    assert_eq!(c.health().await.unwrap().status, "ok");
    assert!(c.sites().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_service_can_be_named_by_tenant_and_name() {
    let s = start();
    exchange(&s.socket, "GET", "/v1/ns/acme%2Fedge", "", "").await;
    exchange(&s.socket, "GET", "/v1/ns/acme%2Fedge/timeline", "", "").await;
    exchange(&s.socket, "GET", "/v1/ns/ns-1/timeline", "", "").await;
    assert_eq!(s.recorder.asked(), ["ns acme/edge", "timeline acme/edge", "timeline ns-1"]);
}

#[tokio::test]
async fn every_operation_of_the_catalogue_is_there() {
    let s = start();
    let index = exchange(&s.socket, "GET", "/v1", "", "").await;
    for operation in catalogue::ALL {
        let method = operation.verb.name();
        assert!(index.2.contains(&format!("{method} {}", operation.path)), "{}", operation.id);
        let path = operation.path.replace("{position}", "1").replace(['{', '}'], "");
        let query = if path.ends_with("changes") { "?after=9" } else { "" };
        let answer = exchange(&s.socket, method, &format!("{path}{query}"), "", "").await;
        for code in ["NO_ROUTE", "METHOD_NOT_ALLOWED", "\"CALLER\""] {
            assert!(!answer.2.contains(code), "{}: {}", operation.id, answer.2);
        }
    }
}

#[tokio::test]
async fn whatever_is_refused_is_a_problem_with_its_status() {
    let s = start();
    for (method, path, body, status, code) in [
        ("GET", "/nowhere", "", 404, "NO_ROUTE"),
        ("GET", "/v1/nowhere", "", 404, "NO_ROUTE"),
        ("DELETE", "/v1/ns", "", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/v1/requests", "", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/v1/requests", "{}", 422, "UNPROCESSABLE"),
        ("POST", "/v1/requests", "", 400, "MALFORMED"),
        ("POST", "/v1/approvals", "{\"entry\":1}", 422, "UNPROCESSABLE"),
        ("GET", "/v1/ns?nextpage_opaque_marker=AB", "", 400, "MARKER"),
        ("GET", "/v1/ns/%ff", "", 404, "NOT_FOUND"),
        ("PUT", "/v1/packages/content", "x", 415, "MEDIA_TYPE"),
        ("GET", "/v1/intents?limit=0", "", 400, "LIMIT"),
        ("GET", "/v1/intents?limit=1001", "", 400, "LIMIT"),
        ("GET", "/v1/intents?limit=x", "", 400, "QUERY"),
        ("GET", "/v1/intents?lim=1", "", 400, "QUERY"),
        ("GET", "/v1/ledger/entries/-1", "", 404, "NOT_FOUND"),
        ("GET", "/v1/ledger/entries/99999999999999999999", "", 404, "NOT_FOUND"),
        ("GET", "/v1/operations/op-9", "", 500, "BROKEN"),
        ("GET", "/v1/ns/none", "", 404, "NOT_FOUND"),
    ] {
        let answer = exchange(&s.socket, method, path, JSON, body).await;
        assert_eq!(answer.0, status, "{method} {path}: {}", answer.2);
        assert_eq!(problem(&answer).code, code, "{method} {path}");
    }
    let refused = s.client.ns("none").await.unwrap_err();
    assert!(matches!(refused, ClientError::Problem(p) if p.hint.as_deref() == Some("look elsewhere")));
}

#[tokio::test]
async fn bodies_are_bounded_with_and_without_a_length() {
    let s = start();
    let fits = vec![b'x'; 1 << 16];
    s.client.put_package(fits).await.unwrap_err();
    assert_eq!(s.recorder.asked(), ["put 65536"]);
    let answer = exchange(&s.socket, "PUT", "/v1/packages/content", BYTES, &"x".repeat((1 << 16) + 1)).await;
    assert_eq!(problem(&answer).code, "BODY_TOO_LARGE");
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 15, "x".repeat(1 << 15));
    let head = "PUT /v1/packages/content HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = raw(&s.socket, &format!("{head}{chunk}{chunk}{chunk}0\r\n\r\n")).await;
    assert_eq!((answer.0, problem(&answer).code.as_str()), (413, "BODY_TOO_LARGE"));
    assert!(s.recorder.asked().is_empty(), "the service saw nothing of it");
}

#[tokio::test]
async fn an_unchanged_resource_is_not_sent_again() {
    let s = start();
    let first = exchange(&s.socket, "GET", "/v1/policy", "", "").await;
    let tag = first.1.lines().find_map(|l| l.strip_prefix("etag: ")).unwrap().to_owned();
    let again =
        exchange(&s.socket, "GET", "/v1/policy", &format!("if-none-match: \"x\", {tag}\r\n"), "").await;
    assert_eq!((again.0, again.2.as_str()), (304, ""));
    let other = exchange(&s.socket, "GET", "/v1/policy", "if-none-match: \"x\"\r\n", "").await;
    assert_eq!((other.0, other.2), (200, first.2));
}

#[tokio::test]
async fn a_long_poll_answers_with_the_change_or_the_stop() {
    let s = start();
    assert_eq!(s.client.changes(0).await.unwrap(), 1, "at once when there is news");
    assert_eq!(s.client.changes(9).await.unwrap(), 1, "also after a restart, when the number is lower");
    let client = s.client.clone();
    let waiting = tokio::spawn(async move { client.changes(1).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    s.recorder.changes.send_replace(2);
    assert_eq!(waiting.await.unwrap().unwrap(), 2);

    let client = s.client.clone();
    let waiting = tokio::spawn(async move { client.changes(2).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let since = Instant::now();
    s.stop.send_replace(true);
    assert_eq!(waiting.await.unwrap().unwrap(), 2);
    s.task.await.unwrap().unwrap();
    assert!(since.elapsed() < Duration::from_secs(4), "a long poll does not hold the stop up");
}

#[tokio::test]
async fn nobody_on_the_socket_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::new(&dir.path().join("none.sock")).unwrap().health().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");
    let stale = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let error = Client::new(&stale).unwrap().health().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");
}

#[tokio::test]
async fn the_same_key_gets_the_same_answer_and_another_request_under_it_none() {
    let s = start();
    let body = String::from_utf8(envelope().to_json()).unwrap();
    let keyed = |key: &str| format!("{JSON}idempotency-key: {key}\r\n");
    let first = exchange(&s.socket, "POST", "/v1/requests", &keyed("k-1"), &body).await;
    assert_eq!((first.0, s.recorder.asked().len()), (201, 1));
    let again = exchange(&s.socket, "POST", "/v1/requests", &keyed("\"k-1\""), &body).await;
    assert_eq!((again.0, &again.2), (201, &first.2));
    assert!(again.1.contains("idempotency-replayed: true"), "{}", again.1);
    assert!(s.recorder.asked().is_empty(), "carried out once");
    let other = exchange(&s.socket, "POST", "/v1/requests", &keyed("k-1"), &format!("{body} ")).await;
    assert_eq!((other.0, problem(&other).code.as_str()), (422, "IDEMPOTENCY_KEY_REUSED"));
    let elsewhere = exchange(&s.socket, "POST", "/v1/sites/edge-a/attestation-key", &keyed("k-1"), "").await;
    assert_eq!(problem(&elsewhere).code, "IDEMPOTENCY_KEY_REUSED");
    let anew = exchange(&s.socket, "POST", "/v1/requests", &keyed("k-2"), &body).await;
    assert_eq!((anew.0, s.recorder.asked().len()), (201, 1));
    for bad in ["", &"x".repeat(129), "a b"] {
        let answer = exchange(&s.socket, "POST", "/v1/requests", &keyed(bad), &body).await;
        assert_eq!(problem(&answer).code, "IDEMPOTENCY_KEY", "{bad}");
    }
}

#[tokio::test]
async fn a_key_in_use_is_busy_and_a_refusal_is_an_answer_too() {
    let s = start();
    *s.recorder.submission.lock().unwrap() = Duration::from_millis(500);
    let body = String::from_utf8(envelope().to_json()).unwrap();
    let headers = format!("{JSON}idempotency-key: k\r\n");
    let (socket, h, b) = (s.socket.clone(), headers.clone(), body.clone());
    let first = tokio::spawn(async move { exchange(&socket, "POST", "/v1/requests", &h, &b).await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    let busy = exchange(&s.socket, "POST", "/v1/requests", &headers, &body).await;
    assert_eq!((busy.0, problem(&busy).code.as_str()), (409, "IDEMPOTENCY_KEY_BUSY"));
    assert!(busy.1.contains("retry-after: 1"), "{}", busy.1);
    assert_eq!(first.await.unwrap().0, 201);

    let headers = format!("{JSON}idempotency-key: r\r\n");
    for _ in 0..2 {
        let refused = exchange(&s.socket, "POST", "/v1/requests", &headers, "{}").await;
        assert_eq!(problem(&refused).code, "UNPROCESSABLE");
    }
}

#[tokio::test]
async fn draining_takes_nothing_new_and_goes_on_answering() {
    let s = start();
    s.drain.send_replace(true);
    let refused = exchange(&s.socket, "POST", "/v1/requests", JSON, "{}").await;
    assert_eq!((refused.0, problem(&refused).code.as_str()), (503, "DRAINING"));
    assert!(refused.1.contains("retry-after: 5"), "{}", refused.1);
    assert_eq!(exchange(&s.socket, "GET", "/v1/policy", "", "").await.0, 200);
    let ready = s.client.ready().await.unwrap();
    assert_eq!((ready.ready, ready.phase.as_str()), (false, "draining"));
}

#[tokio::test]
async fn a_key_is_replaced_only_when_it_is_still_the_one_that_was_seen() {
    let s = start();
    let path = "/v1/sites/edge-a/attestation-key";
    let seen = exchange(&s.socket, "GET", path, "", "").await;
    let tag = seen.1.lines().find_map(|l| l.strip_prefix("etag: ")).unwrap().to_owned();
    let stale = exchange(&s.socket, "POST", path, "if-match: \"x\"\r\n", "").await;
    assert_eq!((stale.0, problem(&stale).code.as_str()), (412, "PRECONDITION"));
    assert_eq!(exchange(&s.socket, "POST", path, &format!("if-match: {tag}\r\n"), "").await.0, 200);
}

fn event(kind: &str, tenant: &str, op: &str) -> EventView {
    let operation = OperationView {
        id: op.into(),
        tenant: tenant.into(),
        intent_id: "i".into(),
        ns_instance_id: format!("ns-{tenant}"),
        action: "deploy".into(),
        state: "PROCESSING".into(),
        site: None,
        progress: (0, 1),
        problem: None,
        leftovers: Vec::new(),
        anchored: false,
        accepted_at: UnixTime(1),
        duration_ms: None,
    };
    EventView {
        event: kind.into(),
        at_ms: 1,
        tenant: tenant.into(),
        ns_instance_id: Some(operation.ns_instance_id.clone()),
        operation: Some(operation),
        step: None,
        what: None,
        code: None,
        detail: None,
    }
}

fn happens(s: &Server, event: EventView) {
    s.recorder.events.lock().unwrap().push(event);
    s.recorder.changes.send_modify(|n| *n += 1);
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_and_ends_with_the_server() {
    let s = start();
    happens(&s, event("accepted", "acme", "op-1"));
    let mut stream = s.client.events(None, None).await.unwrap();
    happens(&s, event("started", "acme", "op-1"));
    happens(&s, event("done", "other", "op-2"));
    let Some(Message::Event(e)) = stream.next().await.unwrap() else { panic!() };
    assert_eq!((e.id.as_str(), e.kind.as_str()), ("2", "dev.mandate.operation.started"), "from now on");
    assert_eq!(stream.last(), Some(2));
    let mut again = s.client.events(Some("ns-other"), Some(1)).await.unwrap();
    let Some(Message::Event(e)) = again.next().await.unwrap() else { panic!() };
    assert_eq!((e.id.as_str(), e.source.as_str()), ("3", "/v1/operations/op-2"), "only of that service");
    s.stop.send_replace(true);
    assert_eq!(stream.next().await.unwrap().map(|_| ()), Some(()), "what had happened is still sent");
    assert!(stream.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_person_directs_an_operation_and_says_why() {
    let s = start();
    s.recorder.operations.lock().unwrap().push(event("started", "acme", "op-1").operation.unwrap());
    for (what, name) in
        [(Direction::Retry, "retry"), (Direction::Rollback, "rollback"), (Direction::Fail, "fail")]
    {
        assert_eq!(s.client.direct("op-1", what, "the rack is back").await.unwrap().id, "op-1");
        assert_eq!(s.recorder.asked(), [format!("{name} op-1 by socket: the rack is back")]);
    }
    let long = format!("{{\"reason\":\"{}\"}}", "x".repeat(1001));
    for (body, code) in [
        ("{}", "UNPROCESSABLE"),
        ("{\"reason\":\"\"}", "REASON"),
        (&long, "REASON"),
        ("{\"reason\":\"x\",\"by\":\"me\"}", "UNPROCESSABLE"),
    ] {
        let refused = exchange(&s.socket, "POST", "/v1/operations/op-1/fail", JSON, body).await;
        assert_eq!((refused.0, problem(&refused).code.as_str()), (422, code), "{body:.40}");
    }
    assert!(s.recorder.asked().is_empty(), "the service saw nothing of it");
}

#[tokio::test]
async fn who_is_too_far_behind_is_told_so() {
    let s = start();
    let many = u64::try_from(s.recorder.events.lock().unwrap().len()).unwrap() + MAX_BEHIND + 5;
    *s.recorder.events.lock().unwrap() =
        vec![event("started", "acme", "op-1"); usize::try_from(many).unwrap()];
    let mut stream = s.client.events(None, Some(1)).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Some(Message::Lagged(many - 1)));
    happens(&s, event("done", "acme", "op-1"));
    let Some(Message::Event(e)) = stream.next().await.unwrap() else { panic!() };
    assert_eq!(e.id, (many + 1).to_string());
}

#[tokio::test]
async fn events_are_pages_too() {
    let s = start();
    for n in 0..5 {
        happens(&s, event(&format!("e{n}"), "acme", "op-1"));
    }
    let page = exchange(&s.socket, "GET", "/v1/events?limit=2", "", "").await;
    let link = page.1.lines().find_map(|l| l.strip_prefix("link: <")).unwrap().split('>').next().unwrap();
    let next = exchange(&s.socket, "GET", link, "", "").await;
    assert!(
        next.2.contains("\"e2\"") && next.2.contains("\"e3\"") && !next.2.contains("\"e1\""),
        "{}",
        next.2
    );
    let after = exchange(&s.socket, "GET", "/v1/events", "last-event-id: 4\r\n", "").await;
    assert!(after.2.contains("\"e4\"") && !after.2.contains("\"e3\""), "{}", after.2);
}

/// Its key is refused before anybody looks at the body; the client has written all of it when it reads the answer.
#[tokio::test]
async fn who_is_refused_may_finish_writing() {
    let server = start();
    let head = format!(
        "POST /v1/strays/clean HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Idempotency-Key: \r\nContent-Length: {}\r\n\r\n",
        50 * 8192
    );
    let mut stream = UnixStream::connect(&server.socket).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..50 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        stream.write_all(&[b' '; 8192]).await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("IDEMPOTENCY_KEY"), "{answer}");
}
