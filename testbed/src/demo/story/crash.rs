//! Point 10: the orchestrator is killed in mid-deploy and finishes after its restart, without doing anything twice.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{Story, TENANT, service, text};
use crate::{demo::traces::Traces, interrupt};

/// Until the first steps of a deployment are done.
const FIRST_STEPS: Duration = Duration::from_secs(30);
/// Kill after so many steps were begun.
const STEPS: usize = 4;

impl Story {
    pub(super) fn crash(&mut self) -> anyhow::Result<String> {
        let before = self.stage.places.look();
        let params = self.params();
        let (id, signed) = self.intent(TENANT, &self.deployment("edge-2", &params, "10m"))?;
        let (position, ns) = self.submit(&signed)?;
        self.alive.push("edge-2");
        let begun = interrupt::wait_for("no step of the second service began", FIRST_STEPS, || {
            let begun = self.steps_begun(&ns)?;
            Ok((begun >= STEPS).then_some(begun))
        })?;
        self.stage.crash_serve()?;
        let half = self.stage.places.look().beyond(&before);
        self.note("killed; starting again");
        self.stage.start_serve()?;
        let operation = self.anchored(&id)?;
        service::completed(&operation)?;
        self.export_approval("edge-2", position)?;

        let found = self.stage.places.look().beyond(&before);
        same_as_first(&found, &self.one)?;
        let (bundle, _) = self.verified(&text(&operation, "id")?)?;
        let bundle = fs::read(bundle)?;
        once_each(&bundle)?;
        let launches = launches(&bundle, &ns);
        self.anchored_once(&text(&operation, "id")?)?;
        Ok(format!(
            "killed after {begun} steps with {half}; then {found}; {launches} launches measured, every step once, one anchor"
        ))
    }

    /// Steps on the service's timeline that began.
    fn steps_begun(&self, ns: &str) -> anyhow::Result<usize> {
        // The service is known as soon as its approval is taken in, which may be after the answer to its submission.
        let Ok(lines) = self.stage.mandate.ask(&["ns", "timeline", ns]) else { return Ok(0) };
        let lines = lines.as_array().cloned().unwrap_or_default();
        ensure!(!lines.iter().any(|l| l["kind"] == "outcome"), "it was over before it could be killed");
        Ok(lines.iter().filter(|l| l["kind"] == "step").count())
    }

    /// Exactly one anchor of this operation is on the ledger.
    fn anchored_once(&self, operation: &str) -> anyhow::Result<()> {
        let log = self.stage.mandate.ask(&["ledger", "log", "--limit", "1000"])?;
        let anchors = count_anchors(&log, operation);
        ensure!(anchors == 1, "{anchors} anchors of {operation} on the ledger, one is right");
        Ok(())
    }
}

/// As many namespaces, links and processes as the same service without a crash. The fabric is there already.
fn same_as_first(found: &Traces, one: &Traces) -> anyhow::Result<()> {
    let instances = |t: &Traces| {
        let namespaces = t.namespaces.iter().filter(|n| !n.ends_with("-fabric")).count();
        [namespaces, t.links.len(), t.processes.len()]
    };
    ensure!(instances(found) == instances(one), "the same service without a crash is {one}, with it {found}");
    Ok(())
}

/// No step is in the evidence twice.
fn once_each(bundle: &[u8]) -> anyhow::Result<()> {
    let mut seen = BTreeMap::<u64, usize>::new();
    for claim in service::steps(bundle) {
        let step = claim["step"].as_u64().context("a step without a number")?;
        *seen.entry(step).or_default() += 1;
    }
    ensure!(!seen.is_empty(), "the evidence has no steps");
    let twice: Vec<&u64> = seen.iter().filter(|(_, n)| **n > 1).map(|(step, _)| step).collect();
    ensure!(twice.is_empty(), "steps {twice:?} are in the evidence more than once");
    Ok(())
}

/// Launches of this service that the TPM's event log has: the last word on what was started.
fn launches(bundle: &[u8], ns: &str) -> usize {
    let ours = format!("\"instance\":\"{ns}/");
    let claim = service::claims(bundle, "attestation").pop().unwrap_or_default();
    let lines = claim["evidence"]["log"].as_array().cloned().unwrap_or_default();
    let lines = lines.iter().filter_map(Value::as_str);
    lines.filter(|l| l.contains("\"event\":\"launch\"") && l.contains(&ours)).count()
}

/// Anchors of an operation among ledger entries, wherever in the answer the entries are.
fn count_anchors(value: &Value, operation: &str) -> usize {
    match value {
        Value::Array(items) => items.iter().map(|v| count_anchors(v, operation)).sum(),
        Value::Object(fields) if fields.get("type").is_some_and(|t| t == "evidence_anchored") => {
            usize::from(fields.get("operation_id").is_some_and(|o| o == operation))
        }
        Value::Object(fields) => fields.values().map(|v| count_anchors(v, operation)).sum(),
        Value::String(text) if text.starts_with('{') => {
            serde_json::from_str(text).map_or(0, |v: Value| count_anchors(&v, operation))
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_counted_in_entries_and_in_text() {
        let entry =
            r#"{"position":3,"event":{"type":"evidence_anchored","operation_id":"op-1","bundle":"x"}}"#;
        let log = serde_json::json!([entry, serde_json::from_str::<Value>(entry).unwrap(), {"event": null}]);
        assert_eq!((count_anchors(&log, "op-1"), count_anchors(&log, "op-2")), (2, 0));
    }
}
