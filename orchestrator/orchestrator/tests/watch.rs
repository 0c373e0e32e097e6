//! `mandate intent watch` as a process: its exit code says how the operation ended, and it outlives a restart of the
//! orchestrator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod common;

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use common::Recorder;
use ledger_contract::records::{RuleResult, Verdict};
use orchestrator::{
    api::{Api, Signals},
    views::{IntentView, OperationView, TimelineLine},
};
use tokio::{net::UnixListener, process::Command, sync::watch, task::JoinHandle};
use trust::{Digest, UnixTime};

const LIMIT: Duration = Duration::from_secs(30);

struct Server {
    stop: watch::Sender<bool>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    fn start(socket: &Path, service: Arc<Recorder>) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (stop, stopped) = watch::channel(false);
        let api = Api::new(service, Signals { draining: stopped.clone(), stop: stopped });
        Self { stop, task: tokio::spawn(api.serve_unix(listener)) }
    }

    async fn stop(self, socket: &Path) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
        std::fs::remove_file(socket).unwrap();
    }
}

fn verdict(approved: bool) -> Verdict {
    let code = if approved { "" } else { "QUOTA_EXCEEDED" };
    let rule = RuleResult {
        rule: "quota/vcpus".into(),
        passed: approved,
        code: code.into(),
        detail: "9 of 8".into(),
    };
    Verdict { approved, rules: vec![rule], policy: Digest([0; 32]) }
}

fn intent(approved: bool, state: Option<(&str, bool)>) -> IntentView {
    let operation = state.map(|(state, anchored)| OperationView {
        id: "op-1".into(),
        tenant: "acme".into(),
        intent_id: "i-1".into(),
        ns_instance_id: "ns-1".into(),
        action: "deploy".into(),
        state: state.into(),
        site: Some("edge-a".into()),
        progress: (1, 2),
        problem: (state != "COMPLETED").then(|| "the wire was cut".into()),
        leftovers: Vec::new(),
        anchored,
        accepted_at: UnixTime(1),
        duration_ms: Some(1500),
    });
    IntentView {
        id: "i-1".into(),
        tenant: "acme".into(),
        service: "edge".into(),
        action: "deploy".into(),
        position: 4,
        verdict: verdict(approved),
        operation,
    }
}

fn line(state: &str, what: &str) -> TimelineLine {
    TimelineLine {
        at_ms: 1,
        operation_id: "op-1".into(),
        kind: "step".into(),
        state: state.into(),
        what: what.into(),
        duration_ms: Some(3),
        evidence: None,
    }
}

fn mandate(socket: &Path, arguments: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_mandate"));
    c.arg("--home").arg(socket.with_file_name("home")).arg("--socket").arg(socket).args(arguments);
    c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    c
}

async fn end(c: &mut Command) -> Output {
    tokio::time::timeout(LIMIT, c.output()).await.expect("it must end").unwrap()
}

fn socket(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("mandate.sock")
}

#[tokio::test]
async fn the_exit_code_says_how_it_ended() {
    for (view, code) in [
        (intent(true, Some(("COMPLETED", true))), 0),
        (intent(true, Some(("ROLLED_BACK", true))), 4),
        (intent(true, Some(("FAILED", true))), 4),
        (intent(true, Some(("FAILED_TEMP", false))), 6),
        (intent(false, None), 1),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let socket = socket(&dir);
        let service = Arc::new(Recorder::default());
        *service.intent.lock().unwrap() = Some(view.clone());
        let server = Server::start(&socket, service);
        let out = end(&mut mandate(&socket, &["intent", "watch", "i-1", "--json"])).await;
        assert_eq!(out.status.code(), Some(code), "{view:?}");
        let answer: IntentView = serde_json::from_slice(&out.stdout).expect("one document, and nothing else");
        assert_eq!(answer, view);
        let text = end(&mut mandate(&socket, &["intent", "watch", "i-1"])).await;
        assert_eq!(text.status.code(), Some(code));
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(!text.contains('\x1b'), "no colour into a pipe");
        for decision in ["retry", "rollback", "fail"] {
            let command = format!("mandate operation {decision} op-1 --reason");
            assert_eq!(text.contains(&command), code == 6, "{text}");
        }
        server.stop(&socket).await;
    }
}

#[tokio::test]
async fn a_person_decides_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket(&dir);
    let service = Arc::new(Recorder::default());
    let stuck = intent(true, Some(("FAILED_TEMP", false))).operation.unwrap();
    service.operations.lock().unwrap().push(stuck.clone());
    let server = Server::start(&socket, service.clone());
    for what in ["retry", "rollback", "fail"] {
        let line = ["operation", what, "op-1", "--reason", "the rack is back", "--json"];
        let out = end(&mut mandate(&socket, &line)).await;
        assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(serde_json::from_slice::<OperationView>(&out.stdout).unwrap(), stuck);
        assert_eq!(service.asked(), [format!("{what} op-1 by socket: the rack is back")]);
        let out = end(&mut mandate(&socket, &["operation", what, "op-1"])).await;
        assert_eq!(out.status.code(), Some(2), "never without a reason");
    }
    let out = end(&mut mandate(&socket, &["operation", "list", "--open"])).await;
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("op-1") && text.contains("FAILED_TEMP"), "{text}");
    let out = end(&mut mandate(&socket, &["operation", "show", "op-1"])).await;
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("to be decided: mandate operation retry|rollback|fail op-1"), "{text}");
    server.stop(&socket).await;
}

#[tokio::test]
async fn it_shows_each_step_once_and_waits_for_the_anchor() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket(&dir);
    let service = Arc::new(Recorder::default());
    *service.intent.lock().unwrap() = Some(intent(true, None));
    let server = Server::start(&socket, service.clone());
    let running = mandate(&socket, &["intent", "watch", "i-1"]).spawn().unwrap();
    let steps = [
        (intent(true, Some(("PROCESSING", false))), vec![line("started", "make link")]),
        (
            intent(true, Some(("PROCESSING", false))),
            vec![line("done", "make link"), line("started", "start vfw")],
        ),
        (
            intent(true, Some(("COMPLETED", false))),
            vec![line("done", "make link"), line("done", "start vfw")],
        ),
        (intent(true, Some(("COMPLETED", true))), vec![line("done", "make link"), line("done", "start vfw")]),
    ];
    for (view, lines) in steps {
        tokio::time::sleep(Duration::from_millis(200)).await;
        *service.intent.lock().unwrap() = Some(view);
        *service.timeline.lock().unwrap() = lines;
        service.changes.send_modify(|n| *n += 1);
    }
    let out = tokio::time::timeout(LIMIT, running.wait_with_output()).await.unwrap().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(0), "{text}");
    assert_eq!(text.matches("make link").count(), 1, "{text}");
    assert_eq!(text.matches("start vfw").count(), 1, "{text}");
    assert!(text.contains("COMPLETED in 1.5 s"), "{text}");
    server.stop(&socket).await;
}

#[tokio::test]
async fn it_outlives_a_restart_of_the_orchestrator() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket(&dir);
    let service = Arc::new(Recorder::default());
    *service.intent.lock().unwrap() = Some(intent(true, Some(("PROCESSING", false))));
    let server = Server::start(&socket, service.clone());
    let running = mandate(&socket, &["intent", "watch", "i-1", "--json"]).spawn().unwrap();
    while service.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop(&socket).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    *service.intent.lock().unwrap() = Some(intent(true, Some(("COMPLETED", true))));
    service.changes.send_modify(|n| *n += 1);
    let server = Server::start(&socket, service);
    let out = tokio::time::timeout(LIMIT, running.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    server.stop(&socket).await;
}

#[tokio::test]
async fn nobody_there_and_no_time_left() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket(&dir);
    let out = end(&mut mandate(&socket, &["intent", "watch", "i-1", "--json"])).await;
    assert_eq!(out.status.code(), Some(3), "who was never there is not waited for");
    let service = Arc::new(Recorder::default());
    *service.intent.lock().unwrap() = Some(intent(true, Some(("PROCESSING", false))));
    let server = Server::start(&socket, service);
    let out = end(&mut mandate(&socket, &["intent", "watch", "i-1", "--json", "--timeout", "1s"])).await;
    assert_eq!(out.status.code(), Some(4));
    let problem: serde_json::Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!(problem["code"], "WATCH_TIMEOUT");
    server.stop(&socket).await;
}
