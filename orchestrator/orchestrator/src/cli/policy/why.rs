//! `mandate policy show --why`: every rule of a decision, the lines of `data.json` that it went by, and what would change it.
//!
//! The log is decided again up to the entry, from the entries alone. What chooses the lines is what the decision itself
//! looked at: the state that it read, and the bundle that was in force before it. Tests: below, and `tests/gate_cli.rs`.

use ledger_contract::{
    Snapshot,
    contract::{NOT_APPLICABLE, NOT_EVALUATED, Request},
    intent::{Intent, IntentKind, Sensitivity},
    policy::DATA_FILE,
    records::{Entry, PolicyBundle, RuleResult},
    state::{ServiceRecord, policy_key, service_key},
};
use trust::Envelope;

use super::{
    super::{
        context::Context,
        failure::{Exit, Failure},
        output::{Paint, Style, printable},
        scan, verdict,
    },
    Replayed, history,
};
use crate::client::ClientError;

/// Least length of an id; a shorter number is that of an entry.
const MIN_ID: usize = 8;

/// One rule, and what it looked at.
#[derive(serde::Serialize)]
struct Explained {
    rule: String,
    passed: bool,
    code: String,
    detail: String,
    /// Lines of `data.json` that it went by: number and text.
    data: Vec<(usize, String)>,
    /// What would have to change.
    change: Option<&'static str>,
}

/// `mandate policy show --why ID`.
pub async fn run(context: &Context, id: &str) -> Result<Exit, Failure> {
    let position = position(context, id).await?;
    let Replayed { history, last } = history(context, position).await?;
    let last = last.ok_or_else(|| Failure::internal("REPLAY", "the entry was not reached"))?;
    let asked = Asked::of(&last.entry.request, &last.read);
    // What a change of the policy was decided by is not in force after it.
    let verdict = &last.outcome.verdict;
    let decided_by = last.read.get::<PolicyBundle>(&policy_key(&verdict.policy)).ok().flatten();
    let data = decided_by
        .or_else(|| history.policy())
        .and_then(|p| p.files.get(DATA_FILE).cloned())
        .unwrap_or_default();
    let rules: Vec<Explained> = verdict.rules.iter().map(|r| explained(r, &data, &asked)).collect();
    let read: Vec<&String> = last.read.0.keys().collect();
    let document = serde_json::json!({ "intent": id, "request": asked.kind, "position": position,
        "approved": verdict.approved, "policy": verdict.policy, "rules": rules, "read": read });
    context.ui.show(&document, |style| explain(&rules, &read, style))
}

/// The entry of an intent, a standing grant or a change of the rules, or the entry of that number.
async fn position(context: &Context, id: &str) -> Result<u64, Failure> {
    // Ids have eight characters at least.
    if let Ok(position) = id.parse::<u64>()
        && id.len() < MIN_ID
    {
        return Ok(position);
    }
    let client = context.client()?;
    match client.intent(id).await {
        Ok(intent) => return Ok(intent.position),
        Err(ClientError::Problem(problem)) if problem.status == 404 => {}
        Err(e) => return Err(context.client_failure(e)),
    }
    let mut found = None;
    // One that was refused for want of signatures may have come again: the last counts.
    let look = |number, e: &Entry| found = names_id(e, id).then_some(number).or(found);
    scan::entries(context, &client, u64::MAX, look).await?;
    found.ok_or_else(|| {
        let detail = format!("no intent, standing grant or change of the rules `{id}` is on the ledger");
        Failure::usage("NOT_FOUND", "Nothing to explain", detail)
            .hint("`mandate ledger log` shows the entries; --why takes an id, or the number of an entry")
    })
}

fn names_id(entry: &Entry, id: &str) -> bool {
    match Request::parse(&entry.request) {
        Ok(Request::Intent(it)) => it.id == id,
        Ok(Request::Standing(it)) => it.id == id,
        Ok(Request::Governance(it)) => it.id == id,
        _ => false,
    }
}

fn explained(r: &RuleResult, data: &str, asked: &Asked) -> Explained {
    let looked = r.code != NOT_EVALUATED && !r.detail.starts_with(NOT_APPLICABLE);
    Explained {
        rule: r.rule.clone(),
        passed: r.passed,
        code: r.code.clone(),
        detail: r.detail.clone(),
        data: if looked { data_lines(data, &r.rule, asked) } else { Vec::new() },
        change: (!r.passed && r.code != NOT_EVALUATED).then(|| verdict::hint(&r.code)),
    }
}

fn explain(rules: &[Explained], read: &[&String], style: Style) -> String {
    let mut out = String::new();
    for r in rules {
        out.push_str(&format!(
            "{} {}: {}\n",
            style.check(r.passed),
            style.paint(Paint::Bold, &r.rule),
            printable(&r.detail)
        ));
        for (number, text) in &r.data {
            out.push_str(&format!(
                "    {}\n",
                style.paint(Paint::Dim, &format!("data.json:{number}: {}", text.trim()))
            ));
        }
        if let Some(change) = r.change {
            out.push_str(&format!(
                "    {} {}: {change}\n",
                style.paint(Paint::Red, &r.code),
                style.paint(Paint::Yellow, "to change")
            ));
        }
    }
    let keys: Vec<&str> = read.iter().map(|k| k.as_str()).collect();
    out.push_str(&format!("\nstate that was read: {}\n", keys.join(", ")));
    out
}

/// Where in `data.json` a rule looks: a section, and the key that it reads of the tenant's (or the default) part.
fn sections(rule: &str) -> &'static [(&'static str, &'static str)] {
    match rule {
        "authorization/organisation" => &[("orgs", "")],
        "authorization/attributes" => &[("attributes", "")],
        "authorization/signatures" => &[("signing", GATE)],
        "authorization/break-glass" => &[("emergency", "")],
        "provenance/slsa-level" => &[("slsa_min_level", SENSITIVITY), ("builders", "")],
        "provenance/supplier" => &[("supply", "providers"), ("supply", "builders")],
        "provenance/sbom-complete" => &[("supply", "complete_sbom_from")],
        "provenance/licences" => &[("supply", "denied_licences")],
        "provenance/denied" => &[("supply", "denied")],
        "compliance/lease" => &[("max_lease_s", SENSITIVITY)],
        "compliance/window" => &[("windows", "")],
        "compliance/sovereignty" => &[("jurisdictions", "")],
        "compliance/sensitivity" => &[("assurance", SENSITIVITY)],
        "quota/services" => &[("quotas", "services")],
        "quota/instances" => &[("quotas", "instances")],
        "quota/vcpus" => &[("quotas", "vcpus")],
        "quota/memory" => &[("quotas", "memory_mib")],
        "quota/vfs" => &[("quotas", "vfs")],
        "quota/bandwidth" => &[("quotas", "bandwidth_mbps")],
        "quota/sites" => &[("quotas", "sites")],
        r if r.starts_with("tenant/") => &[("tenant", "")],
        _ => &[],
    }
}

/// Stands for the sensitivity of the service.
const SENSITIVITY: &str = "*";
/// Stands for what takes the signatures: the action, or the kind of request.
const GATE: &str = "+";

/// How deep in objects and lists each line of a JSON text begins.
fn depths(lines: &[&str]) -> Vec<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut out = Vec::with_capacity(lines.len());
    for line in lines {
        out.push(depth);
        for c in line.chars() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '{' | '[' if !quoted => depth = depth.saturating_add(1),
                '}' | ']' if !quoted => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    out
}

/// The lines that decided: of each section the deepest one found on the way section, tenant (or `default`), key.
fn data_lines(data: &str, rule: &str, who: &Asked) -> Vec<(usize, String)> {
    let lines: Vec<&str> = data.lines().collect();
    let depths = depths(&lines);
    // The line of a key right within the part that begins at a line.
    let below = |at: usize, key: &str| {
        let depth = depths[at];
        let inside = (at + 1..lines.len()).take_while(|i| depths[*i] > depth);
        inside.filter(|i| depths[*i] == depth + 1).find(|i| names(lines[*i], key))
    };
    let section = |name: &str| (0..lines.len()).find(|i| depths[*i] == 1 && names(lines[*i], name));
    let line = |(name, key): &(&str, &str)| {
        let start = section(name)?;
        let key = match *key {
            SENSITIVITY => who.sensitivity.as_str(),
            GATE => who.gate.as_str(),
            other => other,
        };
        let part = below(start, &who.tenant).or_else(|| below(start, "default")).unwrap_or(start);
        Some(below(part, key).unwrap_or(part))
    };
    if rule == "authorization/break-glass" && !who.emergency {
        return Vec::new();
    }
    sections(rule).iter().filter_map(line).map(|i| (i + 1, lines[i].to_owned())).collect()
}

fn names(line: &str, key: &str) -> bool {
    line.trim_start()
        .strip_prefix('"')
        .and_then(|l| l.strip_prefix(key))
        .is_some_and(|l| l.starts_with("\":"))
}

/// Of a request, what chooses lines of `data.json`.
#[derive(Default)]
struct Asked {
    /// `intent`, `governance`, …
    kind: &'static str,
    tenant: String,
    /// Of the service: as the deployment asks, and the ledger had it when anything else was decided; empty: of none.
    sensitivity: String,
    /// Under which name `signing` has it.
    gate: String,
    emergency: bool,
}

impl Asked {
    fn of(request: &Envelope, read: &Snapshot) -> Self {
        let Ok(request) = Request::parse(request) else { return Self::default() };
        let kind = request.kind();
        let gate = match &request {
            Request::Governance(it) => it.change.gate(),
            Request::Intent(it) => it.action.name(),
            Request::Package(_) => "package",
            Request::AttestationKey(_) => "attestation_key",
            Request::Standing(_) => "standing_grant",
            Request::Genesis(_) | Request::Anchor(_) => "",
        };
        let base = Self { kind, gate: gate.to_owned(), ..Self::default() };
        match &request {
            Request::Intent(it) => Self {
                tenant: it.tenant.clone(),
                sensitivity: sensitivity(it, read).and_then(word).unwrap_or_default(),
                emergency: it.emergency.is_some(),
                ..base
            },
            Request::Standing(it) => Self { tenant: it.tenant.clone(), ..base },
            _ => base,
        }
    }
}

/// As the decision saw it.
fn sensitivity(intent: &Intent, read: &Snapshot) -> Option<Sensitivity> {
    match &intent.action {
        IntentKind::Deploy(it) => Some(it.sensitivity),
        _ => {
            let service: Option<ServiceRecord> =
                read.get(&service_key(&intent.tenant, &intent.service)).ok().flatten();
            service.map(|s| s.sensitivity)
        }
    }
}

/// As `data.json` writes it.
fn word(sensitivity: Sensitivity) -> Option<String> {
    serde_json::to_value(sensitivity).ok()?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use ledger_contract::{intent::INTENT_PAYLOAD, records::GOVERNANCE_PAYLOAD};
    use serde_json::json;
    use trust::Digest;

    use super::*;

    fn asked(tenant: &str) -> Asked {
        Asked { tenant: tenant.into(), sensitivity: "internal".into(), ..Asked::default() }
    }

    #[test]
    fn the_data_that_decided_is_found_by_line() {
        let data = "{\n  \"quotas\": {\n    \"default\": {\n      \"vcpus\": 8\n    },\n    \"acme\": {}\n  },\n  \"tenant\": {\n    \"quotas\": {}\n  },\n  \"max_lease_s\": {\n    \"public\": 1,\n    \"internal\": 2\n  }\n}";
        assert_eq!(data_lines(data, "quota/vcpus", &asked("acme")), [(6, "    \"acme\": {}".to_owned())]);
        assert_eq!(data_lines(data, "quota/vcpus", &asked("other")), [(4, "      \"vcpus\": 8".to_owned())]);
        assert_eq!(data_lines(data, "tenant/x", &asked("acme"))[0].0, 8);
        assert_eq!(data_lines(data, "compliance/lease", &asked("acme"))[0].0, 13);
        assert_eq!(data_lines(data, "compliance/lease", &Asked::default())[0].0, 11);
        assert!(data_lines(data, "freshness/replay", &asked("acme")).is_empty());
        // However it is laid out.
        let wide = data.replace("  ", "\t\t");
        assert_eq!(data_lines(&wide, "quota/vcpus", &asked("other"))[0].0, 4);
        assert!(data_lines("{\"quotas\": {\"}{", "quota/vcpus", &asked("acme")).is_empty());
        assert!(data_lines("", "quota/vcpus", &asked("acme")).is_empty());
    }

    const DATA: &str = r#"{
  "slsa_min_level": {
    "internal": 1,
    "confidential": 2
  },
  "signing": {
    "policy": {},
    "revoke": {},
    "scale": {}
  },
  "emergency": {}
}"#;

    fn signed(kind: &str, payload: &serde_json::Value) -> Envelope {
        let signature = trust::dsse::Signature { sig: vec![0; 8], certificate: vec![0; 8] };
        Envelope {
            payload_type: kind.into(),
            payload: payload.to_string().into_bytes(),
            signatures: vec![signature],
        }
    }

    fn intent(action: &serde_json::Value) -> Envelope {
        let it = json!({ "apiVersion": "mandate.dev/v1", "id": "intent-0002", "tenant": "acme", "service": "edge",
            "not_after": 1, "action": action });
        signed(INTENT_PAYLOAD, &it)
    }

    /// The state that a decision about a confidential service has read.
    fn read() -> Snapshot {
        let record = json!({ "ns_instance_id": "ns-1", "deploy_intent": "intent-0001", "state": "active",
            "nsd_package": Digest::of("ns"), "packages": {}, "sensitivity": "confidential", "lease_until": 1,
            "reserved": { "instances": 1, "vcpus": 1, "memory_mib": 1 } });
        let _: ServiceRecord = serde_json::from_value(record.clone()).unwrap();
        let mut read = Snapshot::default();
        read.insert(service_key("acme", "edge"), record.to_string().into_bytes());
        read
    }

    #[test]
    fn every_action_is_explained_by_the_sensitivity_of_its_service() {
        let (digest, hints) = (Digest::of("package"), json!({ "sites": [] }));
        for action in [
            json!({ "kind": "update", "nsd_package": digest }),
            json!({ "kind": "scale", "member": "vlb", "aspect": "a", "direction": "SCALE_OUT", "steps": 1 }),
            json!({ "kind": "heal", "cause": "killed" }),
            json!({ "kind": "migrate", "placement": hints }),
            json!({ "kind": "isolate", "reason": "captured" }),
            json!({ "kind": "rollback", "to": "intent-0001", "nsd_package": digest, "reason": "worse" }),
            json!({ "kind": "terminate" }),
        ] {
            let asked = Asked::of(&intent(&action), &read());
            assert_eq!((asked.kind, asked.gate.as_str()), ("intent", action["kind"].as_str().unwrap()));
            assert_eq!(asked.sensitivity, "confidential", "{action}");
            assert_eq!(data_lines(DATA, "provenance/slsa-level", &asked)[0].0, 4, "{action}");
            assert!(data_lines(DATA, "authorization/break-glass", &asked).is_empty());
            // Nothing is made up about a service that is not there.
            assert_eq!(Asked::of(&intent(&action), &Snapshot::default()).sensitivity, "");
        }
        let sla = json!({ "throughput_kbps": 1, "latency_p95_us": 1, "loss_ppm": 0 });
        let deploy = json!({ "kind": "deploy", "nsd_package": digest, "sla": sla, "sensitivity": "internal", "lease_s": 1 });
        let asked = Asked::of(&intent(&deploy), &Snapshot::default());
        assert_eq!(data_lines(DATA, "provenance/slsa-level", &asked)[0].0, 3);
    }

    #[test]
    fn signatures_are_explained_by_what_takes_them() {
        let change = |change: serde_json::Value| {
            let it = json!({ "id": "change-0001", "ledger": "l", "not_after": 1, "reason": "r", "change": change });
            let asked = Asked::of(&signed(GOVERNANCE_PAYLOAD, &it), &Snapshot::default());
            assert_eq!(asked.kind, "governance");
            data_lines(DATA, "authorization/signatures", &asked)[0].0
        };
        let policy =
            json!({ "kind": "policy", "bundle": { "files": {} }, "supersedes": Digest::of("before") });
        assert_eq!(change(policy), 7);
        assert_eq!(change(json!({ "kind": "revoke", "what": { "of": "intent", "id": "intent-0001" } })), 8);
        // The policy says nothing of it: the section, and what holds then is in the rule's own words.
        assert_eq!(change(json!({ "kind": "organisation", "name": "acme" })), 6);
        let scale =
            json!({ "kind": "scale", "member": "vlb", "aspect": "a", "direction": "SCALE_OUT", "steps": 1 });
        let asked = Asked::of(&intent(&scale), &read());
        assert_eq!(data_lines(DATA, "authorization/signatures", &asked)[0].0, 9);
    }

    #[test]
    fn a_rule_that_says_nothing_about_it_went_by_no_line() {
        let asked = Asked::of(&intent(&json!({ "kind": "terminate" })), &read());
        let rule = |detail: &str, code: &str| RuleResult {
            rule: "provenance/slsa-level".into(),
            passed: code.is_empty(),
            code: code.into(),
            detail: detail.into(),
        };
        assert!(explained(&rule("does not apply to terminate", ""), DATA, &asked).data.is_empty());
        let skipped = explained(&rule("a rule before it refused", NOT_EVALUATED), DATA, &asked);
        assert!(skipped.data.is_empty() && skipped.change.is_none());
        assert_eq!(explained(&rule("too low", "SLSA_LEVEL_TOO_LOW"), DATA, &asked).data.len(), 1);
    }
}
