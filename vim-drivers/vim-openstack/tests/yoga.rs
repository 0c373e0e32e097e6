//! The session against a real OpenStack: `cargo testbed test openstack` starts one and sets `TESTBED_OPENSTACK`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::{env, path::PathBuf};

use reqwest::Method;
use serde_json::{Value, json};
use vim_openstack::{Auth, Call, Client, CloudConfig, Secret, Service};

/// `clouds.yaml` of the cloud under test.
fn clouds() -> Option<PathBuf> {
    let path = env::var_os("TESTBED_OPENSTACK").map(PathBuf::from);
    if path.is_none() {
        println!(
            "SKIPPED: no OpenStack; `cargo testbed up openstack`, then set TESTBED_OPENSTACK to its clouds.yaml"
        );
    }
    path
}

fn client(path: &std::path::Path) -> Client {
    Client::new(CloudConfig::from_clouds_yaml(path, "mandate").unwrap()).unwrap()
}

#[tokio::test]
async fn every_service_answers_and_the_token_is_got_once() {
    let Some(path) = clouds() else { return };
    let client = client(&path);
    for (service, resource, member) in [
        (Service::Compute, "servers/detail", "servers"),
        (Service::Network, "networks", "networks"),
        (Service::Image, "images", "images"),
    ] {
        let answer: Value = client.ask(&Call::get(service, resource)).await.unwrap();
        assert!(answer[member].is_array(), "{answer}");
    }
    let calls = client.calls().0;
    assert_eq!((calls[0], calls[1]), (1, 2), "one token, nova's versions and its list");
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_ours_to_do() {
    let Some(path) = clouds() else { return };
    let client = client(&path);
    for (service, resource) in [
        (Service::Compute, "servers/00000000-0000-0000-0000-000000000000"),
        (Service::Network, "networks/00000000-0000-0000-0000-000000000000"),
        (Service::Image, "images/00000000-0000-0000-0000-000000000000"),
    ] {
        let error = client.ask::<Value>(&Call::get(service, resource)).await.unwrap_err();
        assert!(error.is_absent() && !error.message().contains('<'), "{error}");
        client.delete(service, resource).await.unwrap();
    }
    let wrong = Auth::Password {
        username: "mandate".into(),
        user_domain_name: "Default".into(),
        password: Secret::Given("wrong".into()),
        project_name: "tenant-a".into(),
        project_domain_name: "Default".into(),
    };
    let config = CloudConfig { auth: wrong, ..CloudConfig::from_clouds_yaml(&path, "mandate").unwrap() };
    let error = Client::new(config).unwrap().project_id().await.unwrap_err();
    assert_eq!((error.status().map(|s| s.as_u16()), error.kind()), (Some(401), "Unauthorized"), "{error}");
}

/// An application credential is enough, and ends with its deletion; a region that is none is said with those that there are.
#[tokio::test]
async fn an_application_credential_and_a_region() {
    let Some(path) = clouds() else { return };
    let (config, keystone) = (CloudConfig::from_clouds_yaml(&path, "mandate").unwrap(), client(&path));
    let me: Value =
        keystone.ask(&Call::get(Service::Identity, "users").query("name", "mandate")).await.unwrap();
    let user = me["users"][0]["id"].as_str().unwrap().to_owned();
    let all = format!("users/{user}/application_credentials");
    let name = format!("test-{}", std::process::id());
    let body = json!({ "application_credential": { "name": name } });
    let made: Value =
        keystone.ask(&Call::new(Service::Identity, Method::POST, &*all).json(&body)).await.unwrap();
    let made = &made["application_credential"];
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    let auth = Auth::ApplicationCredential {
        application_credential_id: text("id"),
        secret: Secret::Given(text("secret")),
    };
    let with_it = CloudConfig { auth, ..config.clone() };
    let by_credential = Client::new(with_it.clone()).unwrap();
    let networks: Value = by_credential.ask(&Call::get(Service::Network, "networks")).await.unwrap();
    assert!(networks["networks"].is_array(), "{networks}");
    assert_eq!(by_credential.project_id().await.unwrap(), keystone.project_id().await.unwrap());
    keystone.delete(Service::Identity, format!("{all}/{}", text("id"))).await.unwrap();
    let gone = Client::new(with_it).unwrap();
    let error = gone.project_id().await.unwrap_err();
    assert_eq!(error.status().map(|s| s.as_u16()), Some(401), "{error}");
    // Nor is anything taken for deleted because nobody may ask.
    gone.delete(Service::Network, "networks/00000000-0000-0000-0000-000000000000").await.unwrap_err();
    let elsewhere = CloudConfig { region_name: Some("RegionTwo".into()), ..config };
    let error = Client::new(elsewhere).unwrap().ask::<Value>(&Call::get(Service::Network, "networks")).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("in region RegionTwo; it has") && error.contains("RegionOne"), "{error}");
}

#[tokio::test]
async fn another_ca_is_not_believed() {
    let Some(path) = clouds() else { return };
    let config = CloudConfig::from_clouds_yaml(&path, "mandate").unwrap();
    let error = Client::new(CloudConfig { cacert: None, ..config }).unwrap().project_id().await.unwrap_err();
    assert!(error.did_nothing() && error.to_string().to_lowercase().contains("certificate"), "{error}");
}
