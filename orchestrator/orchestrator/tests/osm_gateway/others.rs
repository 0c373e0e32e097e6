//! Who may not, what is nobody's business here, and what OSM would understand otherwise than it looks.

use std::sync::Arc;

use mano_osm::{Osm as Driver, OsmConfig};
use orchestrator::artifacts::ArtifactStore;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    clients::{Client, Osm, PASSWORD, Setup, refused, topic},
    world::plain,
};

/// A project that nobody manages, and its user.
async fn elsewhere(setup: &Setup) -> Client {
    match &setup.osm {
        Osm::Fake(_) => Client::login(&setup.run().url, "carol", PASSWORD, "elsewhere").await,
        Osm::Real(_) => {
            let user = std::env::var("OSM_NBI_USER").unwrap_or_else(|_| "admin".into());
            let password = std::env::var("OSM_NBI_PASSWORD").unwrap_or_else(|_| "admin".into());
            Client::login(&setup.run().url, &user, &password, "admin").await
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_key_here_may_read_and_nothing_else() {
    let mut setup = Setup::new().await;
    let bob = setup.client("bob", &setup.project).await;
    assert_eq!(bob.names().await, Vec::<String>::new());
    for answer in [
        bob.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await,
        bob.post("nslcm/v1/ns_instances", &setup.ns("edge-1")).await,
        bob.delete("nslcm/v1/ns_instances/00000000-0000-4000-a000-000000000001").await,
        bob.upload(topic("vfw_vnf"), b"x".to_vec()).await,
    ] {
        refused(&answer, 401, "OSM_GATEWAY_IDENTITY");
    }
    // Without a token, or with one that is none: in OSM's own words, by which clients log in again.
    let mut stranger = setup.alice().await;
    stranger.token = "nobody's".into();
    let (status, answer) = stranger.post("nslcm/v1/ns_instances", &setup.ns("edge-1")).await;
    assert_eq!(
        (status, answer["detail"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("Invalid Token or Authorization HTTP header"))
    );
    stranger.token = String::new();
    assert_eq!(stranger.post("nslcm/v1/ns_instances", &setup.ns("edge-1")).await.0, StatusCode::UNAUTHORIZED);
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_deleted_is_nobodys_at_once() {
    let mut setup = Setup::new().await;
    let alice = setup.alice().await;
    assert_eq!(alice.post("nslcm/v1/ns_instances", &setup.ns("edge-1")).await.0, StatusCode::CREATED);
    let token = alice.token.clone();
    assert!(alice.delete(&format!("admin/v1/tokens/{token}")).await.0.is_success());
    let refused = alice.post("nslcm/v1/ns_instances", &setup.ns("edge-2")).await;
    assert_eq!(refused.0, StatusCode::UNAUTHORIZED, "{}", refused.1);
    let refused = alice.get_any("nslcm/v1/ns_instances").await;
    assert_eq!(refused.0, StatusCode::UNAUTHORIZED, "{}", refused.1);
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_no_intent_does_is_refused_in_a_managed_project() {
    let mut setup = Setup::new().await;
    let alice = setup.alice().await;
    let vim = setup.vim.clone();
    for (method, path) in [
        (Method::POST, "admin/v1/vim_accounts".to_owned()),
        (Method::DELETE, format!("admin/v1/vim_accounts/{vim}")),
        (Method::PATCH, format!("admin/v1/vim_accounts/{vim}")),
        (Method::POST, "admin/v1/users".into()),
        (Method::POST, "nsilcm/v1/netslice_instances_content".into()),
        (Method::POST, "vnfpkgm/v1/vnf_packages".into()),
        (Method::PATCH, format!("nsd/v1/ns_descriptors/{}", setup.nsd)),
        (Method::PUT, "nslcm/v1/ns_instances/x".into()),
        // A read by its verb, a write by what OSM makes of it.
        (Method::GET, format!("admin/v1/vim_accounts/{vim}?METHOD=DELETE")),
        (Method::POST, "vnflcm/v1/vnf_instances".into()),
        (Method::POST, "nsfm/v1/alarms".into()),
    ] {
        let request =
            alice.request(method.clone(), &path).header("Content-Type", "application/json").body("{}");
        let answer = Client::send(request).await;
        refused(&answer, 401, "OSM_GATEWAY_NOT_ALLOWED");
    }
    for path in [
        "nslcm/v1?topic=ns_instances&METHOD=POST",
        "nslcm/v1/ns_instances?METHOD=POST&METHOD=GET",
        "nslcm/v1/ns_instances/x?item=terminate",
    ] {
        refused(
            &Client::send(alice.request(Method::POST, path).body("{}")).await,
            400,
            "OSM_GATEWAY_REQUEST",
        );
    }
    for path in ["test/db-clear/nsrs", "token/DELETE/x"] {
        refused(&alice.get_any(path).await, 405, "OSM_GATEWAY_NOT_ALLOWED");
    }
    let form = alice
        .request(Method::POST, "nslcm/v1/ns_instances")
        .header("Content-Type", "application/x-www-form-urlencoded");
    refused(&Client::send(form.body("METHOD=DELETE&_id=x")).await, 415, "OSM_GATEWAY_REQUEST");
    for query in ["FORCE=True", "PUBLIC=True", "ADMIN", "surplus=1", "vnf.0=x"] {
        let answer = alice.post(&format!("nslcm/v1/ns_instances_content?{query}"), &setup.ns("edge-1")).await;
        refused(&answer, 422, "OSM_GATEWAY_NOT_CARRIED");
    }
    let mut other = setup.ns("edge-1");
    other["vimAccountId"] = json!("00000000-0000-4000-a000-00000000dead");
    refused(&alice.post("nslcm/v1/ns_instances_content", &other).await, 400, "OSM_GATEWAY_VIM");
    let mut other = setup.ns("edge-1");
    other["nsdId"] = json!("00000000-0000-4000-a000-00000000dead");
    refused(&alice.post("nslcm/v1/ns_instances_content", &other).await, 404, "OSM_GATEWAY_NOT_FOUND");
    // What the operator listed passes; subscriptions do.
    let listed = alice.post("nst/v1/netslice_templates", &json!({})).await;
    assert!(listed.1["detail"].as_str().is_none_or(|d| !d.contains("OSM_GATEWAY")), "{listed:?}");
    assert_eq!(alice.names().await, Vec::<String>::new());
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_that_nobody_manages_notices_nothing() {
    let mut setup = Setup::new().await;
    let carol = elsewhere(&setup).await;
    let before = carol.get("admin/v1/vim_accounts").await;
    let vim = json!({ "name": format!("{}-vim", setup.project), "vim_type": "openstack", "vim_url": "http://127.0.0.1:1/v3", "vim_tenant_name": "t",
        "vim_user": "u", "vim_password": "p" });
    let (status, made) = carol.post("admin/v1/vim_accounts", &vim).await;
    assert!(status.is_success(), "{made}");
    if let Osm::Real(_) = setup.osm {
        let after = carol.get("admin/v1/vim_accounts").await;
        assert_eq!(after.as_array().unwrap().len(), before.as_array().unwrap().len() + 1);
        let id = made["id"].as_str().unwrap();
        assert!(carol.delete(&format!("admin/v1/vim_accounts/{id}")).await.0.is_success());
        let unknown = carol.post("nslcm/v1/ns_instances", &json!({ "nsName": "x" })).await;
        assert_eq!(unknown.0, StatusCode::UNPROCESSABLE_ENTITY, "OSM's own answer: {unknown:?}");
        assert_eq!(
            Client::send(carol.request(Method::OPTIONS, "nslcm/v1/ns_instances")).await.0,
            StatusCode::METHOD_NOT_ALLOWED
        );
    }
    // OSM's server would take what is in such a body for the next request.
    let hidden =
        format!("POST /osm/nslcm/v1/ns_instances HTTP/1.1\r\nAuthorization: Bearer {}\r\n\r\n", carol.token);
    let chunked = || {
        let hidden = hidden.clone();
        reqwest::Body::wrap_stream(futures::stream::once(async move { Ok::<_, std::io::Error>(hidden) }))
    };
    let answer = Client::send(carol.request(Method::POST, "admin/v1/vim_accounts").body(chunked())).await;
    refused(&answer, 411, "OSM_GATEWAY_REQUEST");
    for _ in 0..5 {
        // A verb without a body goes on without one: the connection is as good as before.
        Client::send(carol.request(Method::DELETE, "admin/v1/vim_accounts/nobodys").body(chunked())).await;
        assert_eq!(carol.get_any("admin/v1/vim_accounts").await.0, StatusCode::OK);
    }
    for query in ["ADMIN", "ADMIN=True", "SET_PROJECT=gw", "a=b;ADMIN=x"] {
        let answer = carol.post(&format!("admin/v1/vim_accounts?{query}"), &vim).await;
        refused(&answer, 401, "OSM_GATEWAY_ADMIN_REACH");
    }
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_registered_packages_reach_osm() {
    let mut setup = Setup::new().await;
    let Osm::Real(url) = &setup.osm else {
        println!("SKIPPED: onboarding needs an NBI; set OSM_NBI_URL");
        let alice = setup.alice().await;
        refused(&alice.upload(topic("vfw_vnf"), b"never seen".to_vec()).await, 409, "OSM_GATEWAY_PACKAGE");
        return setup.stop().await;
    };
    let url = url.clone();
    setup.stop().await;
    let dir = tempfile::tempdir().unwrap();
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, PASSWORD).unwrap();
    let config: OsmConfig = serde_json::from_value(
        json!({ "url": url, "allow_plain_http": true, "username": setup.user("alice"),
        "project": setup.project, "password_file": password_file, "sites": { "none": "gw-cloud" } }),
    )
    .unwrap();
    let artifacts = Arc::new(ArtifactStore::new(setup.world.home.artifacts()));
    let mut parts = setup.world.parts(Arc::new(setup.world.log()), plain);
    parts.mano = Some(Arc::new(Driver::new(mano_osm::client::Client::new(config).unwrap(), artifacts)));
    setup.start_of(parts).await;
    let alice = setup.alice().await;
    let direct = Client::login(&url, &setup.user("alice"), PASSWORD, &setup.project).await;
    assert!(direct.delete(&format!("nsd/v1/ns_descriptors/{}", setup.nsd)).await.0.is_success());
    refused(&alice.upload(topic("secure_edge_ns"), b"never seen".to_vec()).await, 409, "OSM_GATEWAY_PACKAGE");
    let package = setup.package("secure_edge_ns").await;
    refused(&alice.upload(topic("vfw_vnf"), package.clone()).await, 422, "OSM_GATEWAY_PACKAGE");
    let (status, made) = alice.upload(topic("secure_edge_ns"), package.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let id = made["id"].as_str().unwrap().to_owned();
    let there = alice.get(&format!("nsd/v1/ns_descriptors/{id}")).await;
    assert_eq!(there["_admin"]["userDefinedData"]["mandate"], "ns/secure_edge_ns", "marked as ours");
    assert_eq!(
        alice.upload(topic("secure_edge_ns"), package).await.1["id"],
        id.as_str(),
        "once more is the same"
    );
    setup.nsd = id.clone();
    assert_eq!(alice.post("nslcm/v1/ns_instances", &setup.ns("uses-it")).await.0, StatusCode::CREATED);
    refused(&alice.delete(&format!("nsd/v1/ns_descriptors/{id}")).await, 409, "OSM_GATEWAY_STATE");
    let ns = alice.get("nslcm/v1/ns_instances?name=uses-it").await[0]["_id"].as_str().unwrap().to_owned();
    assert_eq!(alice.delete(&format!("nslcm/v1/ns_instances_content/{ns}")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(alice.delete(&format!("nsd/v1/ns_descriptors/{id}")).await.0, StatusCode::NO_CONTENT);
    setup.stop().await;
}
