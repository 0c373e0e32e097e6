//! The OpenAPI document against what is served: complete, without loose ends, and the same for everybody.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use std::collections::BTreeSet;

use orchestrator::{
    api::{catalogue, openapi},
    problem::Problem,
    views::CommittedView,
};
use serde_json::Value;

/// Every `$ref` in the document.
fn references(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            into.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|v| references(v, into));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, into)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let document = openapi::document();
    let mut all = BTreeSet::new();
    references(&document, &mut all);
    for reference in &all {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in schemas.keys() {
        assert!(all.contains(&format!("#/components/schemas/{name}")), "{name} is used nowhere");
    }
}

#[test]
fn every_operation_says_what_it_answers_and_how_it_refuses() {
    let document = openapi::document();
    for operation in catalogue::ALL {
        let path = operation.path.replace('~', "~0").replace('/', "~1");
        let method = operation.verb.name().to_lowercase();
        let it = document.pointer(&format!("/paths/{path}/{method}")).unwrap();
        assert_eq!(it["operationId"], operation.id);
        let answers = it["responses"].as_object().unwrap();
        for (status, answer) in answers {
            let refused = status.starts_with('4') || status.starts_with('5');
            let problem = answer["content"].get("application/problem+json").is_some();
            let own = operation.answers.iter().any(|a| a.status.to_string() == *status);
            assert_eq!(refused && !own, problem, "{} {status}", operation.id);
        }
        let post = method == "post";
        let parameters = it["parameters"].as_array().unwrap();
        let keyed = parameters.iter().any(|p| p["name"] == "Idempotency-Key");
        assert_eq!(post, keyed, "{}: an Idempotency-Key on every POST, and only there", operation.id);
    }
}

#[test]
fn required_members_of_what_is_served_are_the_types_own() {
    let document = openapi::document();
    let required = |name: &str| {
        let schema = &document["components"]["schemas"][name];
        let list = schema["required"].as_array().unwrap_or_else(|| panic!("{name}"));
        list.iter().map(|v| v.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let problem = serde_json::to_value(Problem::new(400, "X", "x", "x")).unwrap();
    assert_eq!(required("Problem"), keys(&problem));
    let verdict = serde_json::json!({ "approved": true, "rules": [], "policy": format!("sha256:{:064}", 0) });
    let committed: CommittedView = serde_json::from_value(
        serde_json::json!({ "position": 1, "time": 1, "verdict": verdict, "checkpoint": "" }),
    )
    .unwrap();
    assert_eq!(required("CommittedView"), keys(&serde_json::to_value(committed).unwrap()));
}

#[test]
fn the_form_of_a_finding_is_the_types_own() {
    let document = openapi::document();
    let schema = &document["components"]["schemas"]["Finding"];
    let of_schema: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    let finding = lcm::drift::Difference {
        site: "edge-a".into(),
        key: "ns-1/vl/x".parse().unwrap(),
        kind: vim::Kind::Network,
        deviation: lcm::drift::Deviation::Missing,
        detail: "gone".into(),
    };
    let json = serde_json::to_value(finding).unwrap();
    let of_type: BTreeSet<_> = json.as_object().unwrap().keys().cloned().collect();
    assert_eq!(of_schema, of_type);
}
