//! Network services from their creation to their end, as OSM's clients ask for them.

use std::time::Duration;

use ledger_contract::records::Entry;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::clients::{Client, Osm, Setup, refused};

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_shot_creation_is_an_intent_and_its_operation_follows() {
    let mut setup = Setup::new().await;
    let alice = setup.alice().await;
    assert_eq!(alice.names().await, Vec::<String>::new());
    let (status, made) = alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let (ns, op) = (text(&made["id"]), text(&made["nslcmop_id"]));
    // The same again, as a client whose answer was lost asks: nothing twice.
    assert_eq!(alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await.1, made);
    let done = alice.ended(&op).await;
    assert_eq!(
        (text(&done["operationState"]), text(&done["lcmOperationType"])),
        ("COMPLETED".into(), "instantiate".into())
    );
    let record = alice.get(&format!("nslcm/v1/ns_instances_content/{ns}")).await;
    assert_eq!(
        (text(&record["_id"]), text(&record["name"]), text(&record["nsState"])),
        (ns.clone(), "edge-1".into(), "READY".into())
    );
    assert_eq!(record["_admin"]["nsState"], "INSTANTIATED");
    // OSM's own client looks for the name in the list, and filters.
    assert_eq!(alice.names().await, ["edge-1"]);
    assert_eq!(alice.get("nslcm/v1/ns_instances?name=edge-1").await[0]["_id"], ns.as_str());
    assert_eq!(alice.get("nslcm/v1/ns_instances?name=edge-2").await, json!([]));
    assert_eq!(alice.get(&format!("nslcm/v1/ns_instances?_id={ns}")).await["name"], "edge-1");
    let vnfs = alice.get(&format!("nslcm/v1/vnfrs?nsr-id-ref={ns}")).await;
    let members: Vec<String> =
        vnfs.as_array().unwrap().iter().map(|v| text(&v["member-vnf-index-ref"])).collect();
    assert_eq!(members, ["vfw", "vlb"]);
    let yaml = alice.http.get(format!("{}/nslcm/v1/ns_instances", alice.url)).bearer_auth(&alice.token);
    let yaml = yaml.send().await.unwrap().text().await.unwrap();
    assert!(yaml.starts_with("---") && yaml.contains("edge-1"), "{yaml}");
    // Whose signature it is: the person's, not the operator's.
    let who = signers(&setup).await;
    assert_eq!(who, ["tenant@acme"]);
    let scale = json!({ "scaleType": "SCALE_VNF", "scaleVnfData": { "scaleVnfType": "SCALE_OUT",
        "scaleByStepData": { "member-vnf-index": "vlb", "scaling-group-descriptor": "backends" } } });
    let (status, scaled) = alice.post(&format!("nslcm/v1/ns_instances/{ns}/scale"), &scale).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{scaled}");
    assert_eq!(alice.ended(&text(&scaled["id"])).await["operationState"], "COMPLETED");
    let heal = json!({ "healVnfData": [{ "vnfInstanceId": vnfs[0]["_id"], "cause": "a test" }] });
    let (status, healed) = alice.post(&format!("nslcm/v1/ns_instances/{ns}/heal"), &heal).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{healed}");
    assert_eq!(alice.ended(&text(&healed["id"])).await["operationState"], "COMPLETED");
    let ops = alice.get(&format!("nslcm/v1/ns_lcm_op_occs?nsInstanceId={ns}")).await;
    let kinds: Vec<String> = ops.as_array().unwrap().iter().map(|o| text(&o["lcmOperationType"])).collect();
    assert_eq!(kinds, ["instantiate", "scale", "heal"]);
    let deleted = alice.delete(&format!("nslcm/v1/ns_instances/{ns}")).await;
    refused(&deleted, 409, "OSM_GATEWAY_STATE");
    // As after an upgrade of the orchestrator: the ids are the same.
    setup.stop().await;
    setup.start().await;
    let alice = setup.alice().await;
    assert_eq!(alice.get(&format!("nslcm/v1/ns_instances/{ns}")).await["nsState"], "READY");
    assert_eq!(alice.get(&format!("nslcm/v1/ns_lcm_op_occs/{op}")).await["operationState"], "COMPLETED");
    let (status, ending) =
        alice.delete(&format!("nslcm/v1/ns_instances_content/{ns}?timeout_ns_terminate=60")).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{ending}");
    assert_eq!(alice.ended(&text(&ending["_id"])).await["operationState"], "COMPLETED");
    assert_eq!(alice.names().await, Vec::<String>::new());
    assert_eq!(alice.get_any(&format!("nslcm/v1/ns_instances/{ns}")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(setup.world.left(), Vec::new());
    setup.world.nothing_twice();
    setup.stop().await;
}

/// Who signed the intents, once each.
async fn signers(setup: &Setup) -> Vec<String> {
    let engine = &setup.run().life.engine;
    let mut out = Vec::new();
    for line in orchestrator::service::Service::ledger_range(engine.as_ref(), 0, 1000).await.unwrap() {
        let entry: Entry = serde_json::from_str(&line).unwrap();
        if entry.request.payload_type == ledger_contract::intent::INTENT_PAYLOAD {
            let (org, name) = trust::identity::claimed(&entry.request.signatures[0].certificate).unwrap();
            out.push(format!("{name}@{org}"));
        }
    }
    out.dedup();
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_is_nobodys_business_until_it_is_instantiated_once() {
    let mut setup = Setup::new().await;
    let alice = setup.alice().await;
    let (status, made) = alice.post("nslcm/v1/ns_instances", &setup.ns("Edge draft")).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let ns = text(&made["id"]);
    assert_eq!(signers(&setup).await, Vec::<String>::new(), "nothing to decide yet");
    setup.stop().await;
    setup.start().await;
    let alice = setup.alice().await;
    let record = alice.get(&format!("nslcm/v1/ns_instances/{ns}")).await;
    assert_eq!(
        (text(&record["name"]), text(&record["nsState"])),
        ("Edge draft".into(), "NOT_INSTANTIATED".into())
    );
    let at = format!("nslcm/v1/ns_instances/{ns}/instantiate");
    let terminate = format!("nslcm/v1/ns_instances/{ns}/terminate");
    refused(&alice.post(&terminate, &json!({})).await, 409, "OSM_GATEWAY_STATE");
    let request = setup.ns("Edge draft");
    // OSM's trap: it takes both. Ten at once are one.
    let all = futures::future::join_all((0..10).map(|_| alice.post(&at, &request))).await;
    let op = text(&all[0].1["id"]);
    for (status, answer) in &all {
        assert_eq!((*status, text(&answer["id"])), (StatusCode::ACCEPTED, op.clone()), "{answer}");
    }
    assert_eq!(alice.ended(&op).await["operationState"], "COMPLETED");
    assert_eq!(text(&alice.post(&at, &request).await.1["id"]), op, "a late repetition");
    let mut other = request.clone();
    other["nsDescription"] = json!("another");
    refused(&alice.post(&at, &other).await, 409, "OSM_GATEWAY_STATE");
    other["nsName"] = json!("another");
    refused(&alice.post(&at, &other).await, 422, "OSM_GATEWAY_NOT_CARRIED");
    let (_, ending) = alice.post(&terminate, &json!({ "autoremove": false })).await;
    assert_eq!(alice.ended(&text(&ending["id"])).await["operationState"], "COMPLETED");
    assert_eq!(alice.get(&format!("nslcm/v1/ns_instances/{ns}")).await["nsState"], "NOT_INSTANTIATED");
    // Once more from the same record: another service, another operation.
    let (_, again) = alice.post(&at, &request).await;
    assert_ne!(text(&again["id"]), op);
    assert_eq!(alice.ended(&text(&again["id"])).await["operationState"], "COMPLETED");
    let (_, ending) = alice.post(&terminate, &json!({})).await;
    assert_eq!(alice.ended(&text(&ending["id"])).await["operationState"], "COMPLETED");
    assert_eq!(alice.delete(&format!("nslcm/v1/ns_instances/{ns}")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(alice.get_any(&format!("nslcm/v1/ns_instances/{ns}")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(setup.world.left(), Vec::new());
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_policy_refuses_is_refused_in_osms_words() {
    let mut setup = Setup::new().await;
    let alice = setup.alice().await;
    let mut asked = setup.ns("edge-1");
    asked["additionalParamsForNs"] = json!({ "mandate": { "lease_s": 3_000_000_000_u64 } });
    let answer = alice.post("nslcm/v1/ns_instances_content", &asked).await;
    assert_eq!(answer.0, StatusCode::CONFLICT, "{answer:?}");
    let detail = text(&answer.1["detail"]);
    assert!(detail.contains("rule ") && detail.contains("mandate intent status osm-"), "{detail}");
    assert_eq!(answer.1["code"], "CONFLICT");
    assert_eq!(alice.names().await, Vec::<String>::new(), "no record is left");
    // The name is free for one that is in order.
    let (status, made) = alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    alice.ended(&text(&made["nslcmop_id"])).await;
    let ns = text(&made["id"]);
    // An operation that the policy refuses is on the service's timeline.
    let action = json!({ "primitive": "x", "primitive_params": {} });
    refused(
        &alice.post(&format!("nslcm/v1/ns_instances/{ns}/action"), &action).await,
        422,
        "OSM_GATEWAY_NOT_CARRIED",
    );
    let known = alice.get(&format!("nslcm/v1/ns_instances/{ns}")).await;
    let instance = text(&known["mandate"]["ns"]);
    let mut seen = false;
    for _ in 0..100 {
        let lines = orchestrator::service::Service::timeline(setup.run().life.engine.as_ref(), &instance)
            .await
            .unwrap();
        seen = lines.iter().any(|l| l.kind == "gate" && l.what.contains("OSM_GATEWAY_NOT_CARRIED"));
        if seen {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(seen, "the refusal is on the timeline");
    let metrics = setup.run().metrics.render(&[], &[]).unwrap();
    assert!(metrics.contains("mandate_osm_gateway_refused_total"), "{metrics}");
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_others_ask_for_are_seen_under_ids_of_their_own() {
    let mut setup = Setup::new().await;
    let alice = setup.alice().await;
    let deploy = setup.world.deploy("by-intent");
    setup.run().life.submit(&setup.world, &deploy).await;
    setup.run().life.anchored(&deploy.id).await;
    assert_eq!(alice.names().await, ["by-intent"]);
    let record = alice.get("nslcm/v1/ns_instances?name=by-intent").await[0].clone();
    let ns = text(&record["_id"]);
    let ops = alice.get(&format!("nslcm/v1/ns_lcm_op_occs?nsInstanceId={ns}")).await;
    assert_eq!((ops.as_array().unwrap().len(), text(&ops[0]["lcmOperationType"])), (1, "instantiate".into()));
    assert_eq!(
        alice.get(&format!("nslcm/v1/ns_lcm_op_occs/{}", text(&ops[0]["id"]))).await["operationState"],
        "COMPLETED"
    );
    let (status, ending) = alice.delete(&format!("nslcm/v1/ns_instances_content/{ns}")).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{ending}");
    assert_eq!(alice.ended(&text(&ending["_id"])).await["operationState"], "COMPLETED");
    assert_eq!(alice.names().await, Vec::<String>::new());
    setup.stop().await;
}

/// OSM's own record of a service of ours: made by hand here, as Mandate's driver names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn osms_record_of_it_is_shown_as_the_clients() {
    let mut setup = Setup::new().await;
    let alice = setup.alice().await;
    let (_, made) = alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge one")).await;
    alice.ended(&text(&made["nslcmop_id"])).await;
    let ns = text(&made["id"]);
    let key = text(&alice.get(&format!("nslcm/v1/ns_instances/{ns}")).await["mandate"]["ns"]);
    let theirs = behind(&setup, &key).await;
    for path in [
        format!("nslcm/v1/ns_instances/{ns}"),
        "nslcm/v1/ns_instances".into(),
        "nslcm/v1/ns_instances?name=edge+one".into(),
        "nslcm/v1/ns_instances?_admin.nsState=INSTANTIATED".into(),
    ] {
        let found = alice.get(&path).await;
        let found = if let Value::Array(all) = &found {
            assert_eq!(all.len(), 1, "{path}: {found}");
            all[0].clone()
        } else {
            found
        };
        assert_eq!((text(&found["_id"]), text(&found["name"])), (ns.clone(), "edge one".into()), "{path}");
        assert_eq!(text(&found["nsd-ref"]), "secure_edge_ns");
        assert_eq!(text(&found["nsState"]), "READY", "ours, whatever OSM says");
        assert!(found.get("resource-orchestrator").is_none_or(|r| r == "osmopenmano"), "OSM's own");
        assert!(!found.to_string().contains(&theirs), "{path}: {found}");
    }
    let vnfs = alice.get(&format!("nslcm/v1/vnf_instances?nsr-id-ref={ns}")).await;
    assert_eq!(vnfs.as_array().unwrap().len(), 2, "{vnfs}");
    assert!(vnfs.as_array().unwrap().iter().all(|v| v["nsr-id-ref"] == ns.as_str()), "{vnfs}");
    assert_eq!(alice.get_any(&format!("nslcm/v1/ns_instances/{theirs}")).await.0, StatusCode::NOT_FOUND);
    let id = text(&vnfs[0]["_id"]);
    assert_eq!(alice.get(&format!("nslcm/v1/vnfrs/{id}")).await["nsr-id-ref"], ns.as_str());
    // Heal by OSM's id of the VNF.
    let heal = json!({ "healVnfData": [{ "vnfInstanceId": id }] });
    let (status, healed) = alice.post(&format!("nslcm/v1/ns_instances/{ns}/heal"), &heal).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{healed}");
    assert_eq!(alice.ended(&text(&healed["id"])).await["operationState"], "COMPLETED");
    setup.stop().await;
}

/// A record in OSM under this name; its id there.
async fn behind(setup: &Setup, key: &str) -> String {
    match &setup.osm {
        Osm::Fake(nbi) => {
            let id = "00000000-0000-4000-a000-0000000000aa";
            let record = json!({ "_id": id, "id": id, "name": key, "nsState": "BUILDING", "nsd-ref": "secure_edge_ns",
                "resource-orchestrator": "osmopenmano", "_admin": { "nsState": "NOT_INSTANTIATED" },
                "links": [format!("/osm/nslcm/v1/ns_instances/{id}")] });
            let vnf = |n: u32, member: &str| {
                let own = format!("00000000-0000-4000-a000-0000000000b{n}");
                json!({ "_id": own, "nsr-id-ref": id, "member-vnf-index-ref": member })
            };
            let mut shelf = nbi.shelf.lock().unwrap();
            shelf.records.insert("ns_instances", vec![record]);
            shelf.records.insert("vnf_instances", vec![vnf(1, "vfw"), vnf(2, "vlb")]);
            shelf.records.insert("vnfrs", vec![vnf(1, "vfw"), vnf(2, "vlb")]);
            id.to_owned()
        }
        Osm::Real(url) => {
            let client = Client::login(url, &setup.user("alice"), "Gw-passw0rd!", &setup.project).await;
            let record = json!({ "nsName": key, "nsdId": setup.nsd, "vimAccountId": setup.vim });
            text(&client.post("nslcm/v1/ns_instances", &record).await.1["id"])
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instantiation_that_is_cancelled_gives_way() {
    let mut setup = Setup::new().await;
    let alice = setup.alice().await;
    let (_, made) = alice.post("nslcm/v1/ns_instances_content", &setup.ns("edge-1")).await;
    let (ns, op) = (text(&made["id"]), text(&made["nslcmop_id"]));
    let cancelled = alice
        .post(&format!("nslcm/v1/ns_lcm_op_occs/{op}/cancel"), &json!({ "cancelMode": "GRACEFUL" }))
        .await;
    let ended = alice.ended(&op).await;
    // It may have been quicker.
    match cancelled.0 {
        StatusCode::ACCEPTED => assert!(
            ["FAILED_TEMP", "COMPLETED"].contains(&text(&ended["operationState"]).as_str()),
            "{ended}"
        ),
        _ => refused(&cancelled, 409, "OSM_GATEWAY_STATE"),
    }
    let again = alice
        .post(&format!("nslcm/v1/ns_lcm_op_occs/{op}/cancel"), &json!({ "cancelMode": "GRACEFUL" }))
        .await;
    refused(&again, 409, "OSM_GATEWAY_STATE");
    if cancelled.0 == StatusCode::ACCEPTED {
        for op in alice.get(&format!("nslcm/v1/ns_lcm_op_occs?nsInstanceId={ns}")).await.as_array().unwrap() {
            alice.ended(&text(&op["id"])).await;
        }
        assert_eq!(setup.world.left(), Vec::new());
    }
    setup.stop().await;
}
