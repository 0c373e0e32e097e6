//! The gate inside OpenStack over real TLS: who may ask, what is answered, and how fast. What runs is made by hand here;
//! that it is made of real plans is shown in `tests/engine/gate.rs`, and the real services ask in `tests/openstack_policy.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "common/asked.rs"]
mod asked;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use asked::{Asked, CREATE_SERVER, Cards, boot};
use orchestrator::remote_policy::server;
use reqwest::StatusCode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_an_operation_is_true_and_all_else_false() {
    let asked = Asked::start().await;
    let services = asked.client(&asked.cards.services);
    let url = asked.url("yoga", "nova", CREATE_SERVER);
    let ask = async |url: &str, user: &str| asked::ask(&services, url, user, "managed").await;
    assert_eq!(ask(&url, "mandate").await, (StatusCode::OK, "False".into(), "NO_OPERATION".into()));
    asked.source.runs(boot("ns-1/vnf/vdu/0"));
    assert_eq!(ask(&url, "mandate").await, (StatusCode::OK, "True".into(), String::new()));
    assert_eq!(ask(&url, "tenant").await, (StatusCode::OK, "False".into(), "OUT_OF_BAND".into()));
    asked.source.rests();
    assert_eq!(ask(&url, "mandate").await.2, "NO_OPERATION");
    for (cloud, service, code) in [("train", "nova", "CLOUD_UNKNOWN"), ("yoga", "heat", "SERVICE_UNKNOWN")] {
        let url = asked.url(cloud, service, CREATE_SERVER);
        assert_eq!(ask(&url, "mandate").await, (StatusCode::BAD_REQUEST, "False".into(), code.into()));
    }
    let bad = services.post(&url).body("x").send().await.unwrap();
    assert_eq!((bad.status(), bad.text().await.unwrap().as_str()), (StatusCode::BAD_REQUEST, "False"));
    let huge = vec![b'x'; 1 << 20];
    let form = "application/x-www-form-urlencoded";
    let huge = services.post(&url).header("Content-Type", form).body(huge).send().await;
    assert!(huge.is_err() || huge.is_ok_and(|r| r.status() == StatusCode::BAD_REQUEST));
    let kept = asked.source.kept_within(Duration::from_secs(30), 2).await;
    let codes: Vec<_> = kept.iter().map(|(c, n)| (c.user_id.as_str(), c.code.as_str(), n.count)).collect();
    assert_eq!(codes, [("mandate", "NO_OPERATION", 2), ("tenant", "OUT_OF_BAND", 1)]);
    let metrics = asked.metrics.render(&[], &[]).unwrap();
    let line = "mandate_policy_checks_total{cloud=\"yoga\",service=\"nova\",code=\"OUT_OF_BAND\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_services_are_heard() {
    let asked = Asked::start().await;
    let url = asked.url("yoga", "nova", CREATE_SERVER);
    let fails = async |client: reqwest::Client, why: &str| {
        let error = client.post(&url).body("x").send().await;
        assert!(error.is_err(), "{why}: {error:?}");
    };
    fails(asked.client(&asked.cards.stranger), "a certificate of another CA").await;
    fails(asked.anonymous(), "no certificate").await;
    // The CA changes while it listens; who has the old one is a stranger from then on.
    let services = asked.client(&asked.cards.services);
    assert_eq!(asked::ask(&services, &url, "tenant", "managed").await.2, "OUT_OF_BAND");
    std::fs::write(&asked.config.client_ca, &asked.cards.other_ca).unwrap();
    asked.renewal.replace(server::material(&asked.config).unwrap());
    fails(asked.client(&asked.cards.services), "of the CA that was").await;
    let new = asked.client(&asked.cards.stranger);
    assert_eq!(asked::ask(&new, &url, "tenant", "managed").await.2, "OUT_OF_BAND");
    // What cannot be read replaces nothing.
    std::fs::write(&asked.config.client_ca, "not a certificate").unwrap();
    assert!(server::material(&asked.config).is_ok_and(|_| false) || server::material(&asked.config).is_err());
}

/// Not a bar of the test, which runs on busy machines too: it prints what `docs/openstack-policy.md` names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_quick() {
    let asked = Arc::new(Asked::start().await);
    asked.source.runs(boot("ns-1/vnf/vdu/0"));
    let url = asked.url("yoga", "neutron", "create_port");
    let client = asked.client(&asked.cards.services);
    for _ in 0..50 {
        assert_eq!(asked::ask(&client, &url, "mandate", "managed").await.1, "True");
    }
    let mut took = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    for _ in 0..1000 {
        tick.tick().await;
        let began = Instant::now();
        assert_eq!(asked::ask(&client, &url, "mandate", "managed").await.1, "True");
        took.push(began.elapsed());
    }
    println!("200/s, one after the other: {}", asked::quantiles(&mut took));
    let mut all = Vec::new();
    let many: Vec<_> = (0..20)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                for _ in 0..100 {
                    let began = Instant::now();
                    assert_eq!(asked::ask(&client, &url, "mandate", "managed").await.1, "True");
                    took.push(began.elapsed());
                }
                took
            })
        })
        .collect();
    for one in many {
        all.extend(one.await.unwrap());
    }
    println!("20 at once, without a pause: {}", asked::quantiles(&mut all));
    let text = asked.metrics.render(&[], &[]).unwrap();
    for line in text.lines().filter(|l| l.starts_with("mandate_policy_check_duration_seconds")) {
        println!("{line}");
    }
    assert!(all.len() == 2000 && took.len() == 1000);
}

#[test]
fn cards_are_of_two_authorities() {
    let cards = Cards::new();
    assert_ne!(cards.services.certificate_pem, cards.stranger.certificate_pem);
}
