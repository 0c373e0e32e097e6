//! Our services, operations and members in the shape of OSM's records: the fields that OSM's clients read.
//!
//! Where OSM has a record of the service too, [`merged`] shows that one under the client's id and name, with our state: OSM's
//! `nsState` is set before the machines are there. Tests: below.

use serde_json::{Value, json};

use crate::{
    ids,
    port::{Decision, Governed, NsRow, OpRow, Progress},
};

/// How an operation does, in OSM's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpState {
    /// `PROCESSING`, `COMPLETED`, `FAILED`, `FAILED_TEMP`.
    pub(crate) state: &'static str,
    /// `detailed-status`, `stage`.
    pub(crate) detail: String,
    /// `errorMessage`.
    pub(crate) error: Option<String>,
    /// When it came into that state, ms; 0: at its start.
    pub(crate) since_ms: u64,
}

impl OpState {
    pub(crate) fn is_over(&self) -> bool {
        self.state != "PROCESSING"
    }

    /// `decision` is none while the ledger has not decided, `progress` none while no operation carries the intent out.
    pub(crate) fn of(intent: &str, decision: Option<&Decision>, progress: Option<&Progress>) -> Self {
        let under_way = |detail: String| Self { state: "PROCESSING", detail, error: None, since_ms: 0 };
        let failed = |state, error: String, since_ms| Self {
            state,
            detail: error.clone(),
            error: Some(error),
            since_ms,
        };
        let Some(p) = progress else {
            return match decision {
                None => under_way("waits for the ledger's decision".into()),
                Some(d) if d.approved => under_way("approved; waits for its turn".into()),
                Some(d) => failed("FAILED", refusal(intent, d), 0),
            };
        };
        let problem = || {
            let why = p.problem.as_deref().unwrap_or("see the timeline");
            format!("{why}; `mandate intent status {intent}`")
        };
        let since_ms = p.closed_ms.unwrap_or(0);
        match p.state.as_str() {
            "COMPLETED" => Self { state: "COMPLETED", detail: "Done".into(), error: None, since_ms },
            "FAILED" => failed("FAILED", problem(), since_ms),
            "FAILED_TEMP" => failed("FAILED_TEMP", format!("a person is needed: {}", problem()), since_ms),
            "ROLLED_BACK" if cancelled(p) => {
                failed("FAILED_TEMP", format!("cancelled: {}", problem()), since_ms)
            }
            "ROLLED_BACK" => failed("FAILED", problem(), since_ms),
            "ROLLING_BACK" => under_way(format!("taking back: {}", problem())),
            _ => under_way(format!("{} of {} steps", p.steps.0, p.steps.1)),
        }
    }
}

/// Did somebody end it, rather than something?
fn cancelled(p: &Progress) -> bool {
    let why = p.problem.as_deref().unwrap_or_default();
    ["REVOKED", "PREEMPTED", "gives way", "revoked"].iter().any(|w| why.contains(w))
}

/// A refusal of the ledger: the rule, and what to do next.
pub(crate) fn refusal(intent: &str, d: &Decision) -> String {
    format!("{}: {} (rule {}); `mandate intent status {intent}` shows every rule", d.code, d.detail, d.rule)
}

/// OSM's name of an action of ours.
pub(crate) fn kind_of(action: &str) -> &str {
    match action {
        "deploy" => "instantiate",
        "rollback" => "update",
        other => other,
    }
}

fn seconds(ms: u64) -> Value {
    json!(ms as f64 / 1000.0)
}

/// `ns_lcm_op_occs`.
pub(crate) fn operation(row: &OpRow, project_id: &str, state: &OpState) -> Value {
    let entered = if state.since_ms == 0 { row.at_ms } else { state.since_ms };
    let mut params = row.params.clone();
    if let Some(map) = params.as_object_mut() {
        map.insert("lcmOperationType".into(), json!(row.kind));
        map.insert("nsInstanceId".into(), json!(row.record));
        if row.kind == "instantiate" {
            map.entry("nsDescription").or_insert(Value::Null);
            map.insert("nsr_id".into(), json!(row.record));
        }
    }
    json!({
        "_id": row.id, "id": row.id, "nsInstanceId": row.record, "lcmOperationType": row.kind,
        "operationState": state.state, "detailed-status": state.detail, "stage": state.detail,
        "detailedStatus": null, "errorMessage": state.error, "queuePosition": 0,
        "startTime": seconds(row.at_ms), "statusEnteredTime": seconds(entered),
        "isAutomaticInvocation": false, "isCancelPending": false, "operationParams": params,
        "links": {
            "self": format!("/osm/nslcm/v1/ns_lcm_op_occs/{}", row.id),
            "nsInstance": format!("/osm/nslcm/v1/ns_instances/{}", row.record),
        },
        "_admin": {
            "created": seconds(row.at_ms), "modified": seconds(entered),
            "projects_read": [project_id], "projects_write": [project_id],
        },
    })
}

/// An operation that nobody asked for here (`mandate intent submit`, a repair).
pub(crate) fn row_of(progress: &Progress, record: &str) -> OpRow {
    OpRow {
        id: ids::operation(&progress.intent_id),
        record: record.to_owned(),
        kind: kind_of(&progress.action).to_owned(),
        intent_id: progress.intent_id.clone(),
        envelope: String::new(),
        user: String::new(),
        params: json!({ "nsName": null, "nsdId": null }),
        at_ms: progress.accepted_ms,
        decision: None,
        autoremove: false,
        hidden: false,
    }
}

/// A record with all that is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    pub(crate) row: NsRow,
    pub(crate) service: Option<Governed>,
    /// Its operations, oldest first.
    pub(crate) operations: Vec<(OpRow, OpState)>,
}

impl Own {
    /// The operation that is under way: the first one that is not over.
    pub(crate) fn current(&self) -> Option<&(OpRow, OpState)> {
        self.operations.iter().find(|(_, s)| !s.is_over())
    }

    /// Is there a service, whole or not?
    pub(crate) fn lives(&self) -> bool {
        self.service.as_ref().is_some_and(Governed::lives)
    }

    /// `_admin.nsState`.
    pub(crate) fn state(&self) -> &'static str {
        match self.service.as_ref().map(|s| s.state.as_str()) {
            Some("INSTANTIATED" | "ISOLATED") => "INSTANTIATED",
            Some("BROKEN") => "BROKEN",
            _ => "NOT_INSTANTIATED",
        }
    }

    /// `nsState`.
    fn shown(&self) -> &'static str {
        if let Some((op, _)) = self.current() {
            return match op.kind.as_str() {
                "instantiate" => "BUILDING",
                "terminate" => "TERMINATING",
                "scale" => "SCALING",
                "heal" => "HEALING",
                "migrate" => "MIGRATING",
                _ => "UPDATING",
            };
        }
        match self.service.as_ref().map(|s| s.state.as_str()) {
            Some("INSTANTIATED") => "READY",
            Some("ISOLATED") => "DEGRADED",
            Some("BROKEN") => "BROKEN",
            _ => "NOT_INSTANTIATED",
        }
    }

    /// What a client sees otherwise than OSM would say it.
    fn truth(&self) -> Value {
        let (row, current) = (&self.row, self.current());
        let last = self.operations.last();
        let doing = match self.shown() {
            "BUILDING" => "INSTANTIATING",
            "READY" | "NOT_INSTANTIATED" | "BROKEN" | "DEGRADED" => "IDLE",
            other => other,
        };
        let operational = match (self.shown(), self.state()) {
            ("BUILDING", _) => "init",
            ("TERMINATING", _) => "terminating",
            ("BROKEN", _) => "failed",
            (_, "INSTANTIATED") => "running",
            _ if self.operations.iter().any(|(o, _)| o.kind == "terminate") => "terminated",
            _ => "init",
        };
        let error = last.and_then(|(o, s)| Some((o, s.error.clone()?)));
        let detail = last.map_or_else(|| "scheduled".to_owned(), |(_, s)| s.detail.clone());
        json!({
            "_id": row.id, "id": row.id, "name": row.name, "name-ref": row.name, "short-name": row.name,
            "ns-instance-config-ref": row.id, "nsState": self.shown(), "currentOperation": doing,
            "currentOperationID": current.map(|(o, _)| o.id.clone()),
            "operational-status": operational,
            "config-status": if self.state() == "INSTANTIATED" { "configured" } else { "init" },
            "detailed-status": detail,
            "errorDescription": error.as_ref().map(|(o, _)| format!("Operation: {} {}", o.kind, o.id)),
            "errorDetail": error.map(|(_, e)| e),
            "description": row.request.get("nsDescription").cloned().unwrap_or(Value::Null),
            "instantiate_params": row.request,
            "additionalParamsForNs": row.request.get("additionalParamsForNs").cloned().unwrap_or(Value::Null),
            "mandate": { "tenant": row.tenant, "service": row.service, "ns": row.ns,
                "state": self.service.as_ref().map(|s| s.state.clone()) },
        })
    }

    /// The record of a service that OSM does not have.
    pub(crate) fn alone(&self) -> Value {
        let row = &self.row;
        let mut out = json!({
            "admin-status": "ENABLED", "deploymentStatus": null, "configurationStatus": null, "vcaStatus": null,
            "create-time": seconds(row.created_ms), "nsd-id": row.nsd.1, "nsd-ref": self.nsd(), "nsd-name-ref": self.nsd(),
            "nsd": { "_id": row.nsd.1, "id": self.nsd(), "name": self.nsd() },
            "datacenter": row.request.get("vimAccountId").cloned().unwrap_or(Value::Null),
            "resource-orchestrator": "mandate", "orchestration-progress": {}, "operational-events": [],
            "constituent-vnfr-ref": self.members().iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(),
            "vld": [], "vnfd-id": [], "flavor": [], "image": [],
            "_admin": {
                "created": seconds(row.created_ms), "modified": seconds(row.created_ms), "nsState": self.state(),
                "current-operation": null, "nslcmop": null, "operational": null,
                "projects_read": [row.project_id], "projects_write": [row.project_id],
            },
        });
        overlay(&mut out, self.truth());
        self.admin(&mut out);
        out
    }

    fn nsd(&self) -> String {
        let named = self.service.as_ref().map(|s| s.nsd.clone()).filter(|n| !n.is_empty());
        named.unwrap_or_else(|| {
            self.row.request.get("nsd").and_then(Value::as_str).unwrap_or_default().to_owned()
        })
    }

    fn admin(&self, out: &mut Value) {
        if let Some(admin) = out.get_mut("_admin").and_then(Value::as_object_mut) {
            admin.insert("nsState".into(), json!(self.state()));
            let current = self.current();
            admin.insert("nslcmop".into(), json!(current.map(|(o, _)| o.id.clone())));
            admin.insert("current-operation".into(), json!(current.map(|(o, _)| o.id.clone())));
        }
    }

    /// OSM's own record of it, shown as the client's.
    pub(crate) fn merged(&self, mut record: Value) -> Value {
        let theirs = record.get("_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        replaced(&mut record, &theirs, &self.row.id);
        let truth = self.truth();
        overlay(&mut record, truth);
        self.admin(&mut record);
        record
    }

    /// Members, by the ids under which a client sees them where OSM has none.
    pub(crate) fn members(&self) -> Vec<(String, String)> {
        let Some(service) = self.service.as_ref().filter(|s| s.lives()) else { return Vec::new() };
        let mut names: Vec<&String> = service.instances.iter().map(|(m, ..)| m).collect();
        names.dedup();
        names.into_iter().map(|m| (ids::vnf(&service.ns, m), m.clone())).collect()
    }

    /// `vnf_instances` of a service that OSM does not have.
    pub(crate) fn vnfs(&self) -> Vec<Value> {
        let Some(service) = &self.service else { return Vec::new() };
        let vnf = |(id, member): (String, String)| {
            let of = service.instances.iter().filter(|(m, ..)| *m == member);
            let vdur: Vec<Value> = of
                .map(|(_, vdu, index, state)| {
                    let up = matches!(state.as_str(), "INSTANTIATED");
                    json!({ "vdu-id-ref": vdu, "count-index": index, "status": if up { "ACTIVE" } else { state.as_str() },
                        "name": format!("{}-{member}-{vdu}-{index}", self.row.name), "interfaces": [], "ip-address": null })
                })
                .collect();
            json!({
                "_id": id, "id": id, "nsr-id-ref": self.row.id, "member-vnf-index-ref": member, "vnfd-ref": member,
                "vnfd-id": null, "vim-account-id": self.row.request.get("vimAccountId").cloned().unwrap_or(Value::Null),
                "ip-address": null, "created-time": seconds(self.row.created_ms), "vdur": vdur,
                "connection-point": [], "additionalParamsForVnf": null,
                "_admin": { "nsState": self.state(), "created": seconds(self.row.created_ms), "modified": seconds(self.row.created_ms),
                    "projects_read": [self.row.project_id], "projects_write": [self.row.project_id] },
            })
        };
        self.members().into_iter().map(vnf).collect()
    }
}

fn overlay(record: &mut Value, with: Value) {
    if let (Some(record), Value::Object(with)) = (record.as_object_mut(), with) {
        record.extend(with);
    }
}

/// One id for another, wherever a text has it: alone, or in a path.
pub(crate) fn replaced(value: &mut Value, from: &str, to: &str) {
    if from.is_empty() || from == to {
        return;
    }
    match value {
        Value::String(text) if text.contains(from) => *text = text.replace(from, to),
        Value::Array(items) => items.iter_mut().for_each(|i| replaced(i, from, to)),
        Value::Object(map) => map.values_mut().for_each(|v| replaced(v, from, to)),
        _ => {}
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use trust::Digest;

    use super::*;

    pub(crate) fn row(id: &str) -> NsRow {
        NsRow {
            id: id.into(),
            project: "edge".into(),
            project_id: "p".into(),
            user: "alice".into(),
            name: "edge one".into(),
            tenant: "acme".into(),
            service: "edge-one".into(),
            request: json!({ "nsName": "edge one", "nsDescription": "mine" }),
            nsd: (Digest::of("nsd"), "n".into()),
            ns: Some("ns-1".into()),
            created_ms: 1500,
            removed: false,
        }
    }

    fn own(state: &str) -> Own {
        let service = Governed {
            ns: "ns-1".into(),
            tenant: "acme".into(),
            service: "edge-one".into(),
            state: state.into(),
            nsd: "secure".into(),
            instances: vec![
                ("vfw".into(), "vdu".into(), 0, state.into()),
                ("vlb".into(), "vdu".into(), 0, state.into()),
            ],
            operations: Vec::new(),
        };
        Own { row: row("r"), service: Some(service), operations: Vec::new() }
    }

    fn progress(state: &str, problem: Option<&str>) -> Progress {
        Progress {
            state: state.into(),
            intent_id: "i".into(),
            action: "deploy".into(),
            steps: (1, 4),
            problem: problem.map(str::to_owned),
            accepted_ms: 1,
            closed_ms: Some(2),
        }
    }

    #[test]
    fn an_operation_follows_its_intent() {
        let refused = Decision {
            approved: false,
            code: "QUOTA_EXCEEDED".into(),
            rule: "tenant/quota".into(),
            detail: "4 of 4".into(),
        };
        let approved =
            Decision { approved: true, code: String::new(), rule: String::new(), detail: String::new() };
        let of = |d: Option<&Decision>, p: Option<Progress>| OpState::of("i-1", d, p.as_ref());
        assert_eq!(of(None, None).state, "PROCESSING");
        assert_eq!(of(Some(&approved), None).state, "PROCESSING");
        let failed = of(Some(&refused), None);
        assert_eq!(failed.state, "FAILED");
        let error = failed.error.unwrap();
        assert!(
            error.contains("QUOTA_EXCEEDED") && error.contains("tenant/quota") && error.contains("i-1"),
            "{error}"
        );
        for (state, problem, osm) in [
            ("STARTING", None, "PROCESSING"),
            ("PROCESSING", None, "PROCESSING"),
            ("ROLLING_BACK", Some("X"), "PROCESSING"),
            ("COMPLETED", None, "COMPLETED"),
            ("ROLLED_BACK", Some("NO_VALID_HOST"), "FAILED"),
            ("ROLLED_BACK", Some("PREEMPTED: x"), "FAILED_TEMP"),
            ("FAILED", Some("X"), "FAILED"),
            ("FAILED_TEMP", Some("X"), "FAILED_TEMP"),
        ] {
            assert_eq!(of(Some(&approved), Some(progress(state, problem))).state, osm, "{state}");
        }
    }

    #[test]
    fn a_record_has_what_clients_read() {
        let it = own("INSTANTIATED");
        let doc = it.alone();
        for field in [
            "_id",
            "id",
            "name",
            "nsd-id",
            "nsd-ref",
            "nsState",
            "operational-status",
            "config-status",
            "detailed-status",
            "vld",
            "constituent-vnfr-ref",
            "create-time",
            "currentOperation",
            "currentOperationID",
            "errorDetail",
        ] {
            assert!(doc.get(field).is_some(), "{field}");
        }
        assert_eq!(
            (doc["nsState"].as_str(), doc["_admin"]["nsState"].as_str()),
            (Some("READY"), Some("INSTANTIATED"))
        );
        assert_eq!(doc["constituent-vnfr-ref"].as_array().unwrap().len(), 2);
        assert_eq!(it.vnfs()[1]["vdur"][0]["status"], "ACTIVE");
        let theirs = json!({ "_id": "osm-1", "id": "osm-1", "name": "ns-1", "nsState": "READY", "vld": [{ "x": "keep" }],
            "links": ["/osm/nslcm/v1/ns_instances/osm-1"], "_admin": { "nsState": "INSTANTIATED", "projects_read": ["p"] } });
        let shown = it.merged(theirs);
        assert_eq!((shown["_id"].as_str(), shown["name"].as_str()), (Some("r"), Some("edge one")));
        assert_eq!(shown["links"][0], "/osm/nslcm/v1/ns_instances/r");
        assert_eq!(shown["vld"][0]["x"], "keep");
        assert_eq!(own("BROKEN").alone()["nsState"], "BROKEN");
    }

    proptest! {
        /// What was substituted is found again: nothing else changed.
        #[test]
        fn substitution_has_an_inverse(texts in proptest::collection::vec("[a-c/-]{0,12}", 0..8), seed in any::<u64>()) {
            let (a, b) = (ids::operation(&format!("a{seed}")), ids::operation(&format!("b{seed}")));
            let with: Vec<Value> = texts.iter().enumerate().map(|(i, t)| match i % 3 {
                0 => json!(t),
                1 => json!(format!("{t}{a}{t}")),
                _ => json!({ t.as_str(): a, "l": [format!("/x/{a}/{a}"), 1, null] }),
            }).collect();
            let original = json!(with);
            let mut there = original.clone();
            replaced(&mut there, &a, &b);
            prop_assert!(!there.to_string().contains(&a));
            replaced(&mut there, &b, &a);
            prop_assert_eq!(there, original);
        }
    }
}
