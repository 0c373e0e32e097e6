//! Notifications: OSM tells us that an operation ended, long before we would have looked.
//!
//! With `OSM_NBI_URL` set the NBI subscribes us, and what it sends is what wakes the driver; without it the calls are replayed and the
//! test says the notification that the NBI sent when they were recorded.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Bytes, http::StatusCode, routing::get};
use common::World;
use mano::{Mano as _, ServiceKey, ServiceState, conformance::Fixture as _};
use mano_osm::{Callback, Osm};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinHandle};

/// Where the NBI finds us: the same in every run, because it is part of the recording.
const ADDRESS: &str = "127.0.0.1:18446";
/// Longer than any test: who is not woken fails.
const NEVER_MS: u64 = 300_000;
const SOON: Duration = Duration::from_secs(60);

/// Takes what the NBI sends, and has the driver know.
async fn listen(osm: Arc<Osm>) -> (mpsc::UnboundedReceiver<(String, bool)>, JoinHandle<()>) {
    let (send, received) = mpsc::unbounded_channel();
    let take = move |body: Bytes| async move {
        let woke = osm.notified(&body);
        let _ = send.send((String::from_utf8_lossy(&body).into_owned(), woke));
        StatusCode::NO_CONTENT
    };
    let router = Router::new().route("/", get(|| async { StatusCode::NO_CONTENT }).post(take));
    let listener = tokio::net::TcpListener::bind(ADDRESS).await.unwrap();
    let server = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
    (received, server)
}

/// What the NBI tells the driver of the service's instantiation; in a replay, what it told then.
async fn told(w: &World, osm: &Osm, received: &mut mpsc::UnboundedReceiver<(String, bool)>) {
    let asked = || w.peer.calls().iter().filter(|c| c.ends_with("/instantiate")).count();
    let before = asked();
    while asked() == before {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Its answer is there.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let operations = w.list("nslcm/v1/ns_lcm_op_occs").await;
    let running = operations.iter().find(|o| o["operationState"] == "PROCESSING").unwrap();
    let other = json!({ "_links": { "self": "/osm/nslcm/v1/ns_lcm_op_occs/another" } });
    assert!(!osm.notified(other.to_string().as_bytes()), "nobody waits for that one");
    if w.peer.is_real() {
        let (body, woke) =
            tokio::time::timeout(SOON, received.recv()).await.expect("OSM told nothing").unwrap();
        println!("{body}");
        assert!(woke, "{body}");
    } else {
        let link = format!("/osm/nslcm/v1/ns_lcm_op_occs/{}", running["id"].as_str().unwrap());
        assert!(osm.notified(json!({ "_links": { "self": link } }).to_string().as_bytes()));
    }
}

#[tokio::test]
async fn an_operation_that_ends_is_looked_at_when_osm_says_so() {
    let w = World::new("notified").await;
    w.ground().await;
    let callback =
        Callback { url: format!("http://{ADDRESS}/"), username: "osm".into(), password: "secret".into() };
    let key = ServiceKey::new("mandate-t-notified").unwrap();
    let spec = w.service_spec(&key, 1);
    let subscriptions = async || w.list("nslcm/v1/subscriptions").await.len();
    // The second is a process that follows one that was killed, which left its subscription behind.
    for process in 1..=2 {
        let osm = w.with(|c| c.poll_ms = NEVER_MS);
        osm.call_back(callback.clone());
        let (mut received, server) = listen(osm.clone()).await;
        let making = osm.ensure_service(&key, &spec);
        let both = async { tokio::join!(making, told(&w, &osm, &mut received)).0 };
        let made = tokio::time::timeout(SOON * 2, both).await.expect("it was not woken").unwrap();
        assert_eq!(made.state, ServiceState::Instantiated);
        assert_eq!(subscriptions().await, 1, "process {process}: one for the address and the NSD");
        w.osm.remove_service(&key).await.unwrap();
        if process == 2 {
            osm.unsubscribe().await;
        }
        server.abort();
        let _ = server.await;
    }
    assert_eq!(subscriptions().await, 0);
    for spec in [&w.packages.ns, &w.packages.vnf[0]] {
        w.osm.remove_package(spec.kind, &spec.id).await.unwrap();
    }
    let mut w = w;
    assert_eq!(w.residue().await.unwrap(), Vec::<String>::new());
    w.close().await.unwrap();
}
