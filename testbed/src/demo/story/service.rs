//! Points 3 to 9 for a service that goes well: deploy, evidence, scale, terminate.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use trust::Envelope;

use super::{Deployed, KEPT_SERVICE, Story, TENANT, text};
use crate::{
    command,
    demo::{mandate::Refusal, traces::Traces},
    interrupt, workspace,
};

/// From approval to anchor.
const OPERATION_LIMIT: Duration = Duration::from_secs(60);
/// The same by an OSM, which looks at what it makes every 15 s.
const OSM_OPERATION_LIMIT: Duration = Duration::from_secs(600);
/// What is promised, and then measured. Modest: veth links and one busy core carry it on any machine.
const SLA: [&str; 6] = ["--throughput-kbps", "4000", "--latency-p95-us", "100000", "--loss-ppm", "10000"];
/// What docs/verify-by-hand.sh needs.
const BY_HAND: [&str; 4] = ["bash", "openssl", "jq", "xxd"];
const BY_HAND_LIMIT: Duration = Duration::from_secs(60);
/// Where in a bundle a byte is flipped, parts of a thousand; its ends are added.
const FLIPS_PERMILLE: [usize; 10] = [50, 150, 250, 350, 450, 550, 650, 750, 850, 950];

impl Story {
    /// Makes and signs an intent; returns its id and the signed file.
    pub(super) fn intent(&self, signer: &str, arguments: &[&str]) -> anyhow::Result<(String, PathBuf)> {
        let dir = self.stage.path(TENANT);
        fs::create_dir_all(&dir)?;
        let n = fs::read_dir(&dir)?.count();
        let (plain, signed) = (dir.join(format!("{n:02}.json")), dir.join(format!("{n:02}.dsse.json")));
        let (plain_name, signed_name) = (plain.display().to_string(), signed.display().to_string());
        let line = [&["intent", "new"], arguments, &["-o", &plain_name]].concat();
        self.stage.mandate.ask(&line)?;
        let signer = format!("{signer}/tenant");
        self.stage.mandate.ask(&["intent", "sign", &plain_name, "--as", &signer, "-o", &signed_name])?;
        let intent: Value = serde_json::from_slice(&fs::read(&plain)?)?;
        Ok((text(&intent, "id")?, signed))
    }

    /// The arguments of a deployment.
    pub(super) fn deployment<'a>(&self, service: &'a str, params: &'a str, expires: &'a str) -> Vec<&'a str> {
        let mut line = vec!["deploy", "--service", service, "--nsd", "secure_edge_ns", "--tenant", TENANT];
        line.extend(SLA);
        line.extend(["--jurisdiction", "DE", "--sensitivity", "confidential", "--lease", "24h"]);
        line.extend(["--expires-in", expires, "--params", params]);
        line
    }

    /// The tenant's parameters.
    pub(super) fn params(&self) -> String {
        self.stage.programs.root.join("testbed/scenarios/edge.params.yaml").display().to_string()
    }

    /// Submits an intent that is approved; returns its ledger position and NS instance.
    pub(super) fn submit(&self, signed: &Path) -> anyhow::Result<(u64, String)> {
        let answer = self.stage.mandate.ask(&["intent", "submit", &signed.display().to_string()])?;
        let committed = if answer["committed"].is_object() { &answer["committed"] } else { &answer };
        let position = committed["position"]
            .as_u64()
            .with_context(|| format!("the answer has no position: {answer}"))?;
        Ok((position, text(committed, "ns_instance_id")?))
    }

    /// Waits until an intent's operation is closed and anchored.
    pub(super) fn anchored(&self, intent: &str) -> anyhow::Result<Value> {
        let limit = if self.by_osm { OSM_OPERATION_LIMIT } else { OPERATION_LIMIT };
        self.anchored_within(intent, limit)
    }

    /// The same, with more time.
    pub(super) fn anchored_within(&self, intent: &str, limit: Duration) -> anyhow::Result<Value> {
        interrupt::wait_for(&format!("intent {intent} is not anchored"), limit, || {
            let status = self.stage.mandate.ask(&["intent", "status", intent])?;
            let operation = &status["operation"];
            if let [Some(done), Some(all)] =
                [operation["progress"][0].as_u64(), operation["progress"][1].as_u64()]
            {
                self.note(&format!("{done} of {all} steps"));
            }
            Ok((operation["anchored"] == true).then(|| operation.clone()))
        })
    }

    /// An intent from its making to its anchor; it must complete.
    pub(super) fn carried_out(&self, arguments: &[&str]) -> anyhow::Result<(Value, u64)> {
        let (id, signed) = self.intent(TENANT, arguments)?;
        let (position, _) = self.submit(&signed)?;
        let operation = self.anchored(&id)?;
        completed(&operation)?;
        Ok((operation, position))
    }

    pub(super) fn deploy(&mut self) -> anyhow::Result<String> {
        let params = self.params();
        let (id, signed) = self.intent(TENANT, &self.deployment("edge-1", &params, "1h"))?;
        // As a person does: submit and watch it being carried out.
        self.stage.mandate.ask(&["intent", "submit", &signed.display().to_string(), "--watch"])?;
        let status = self.stage.mandate.ask(&["intent", "status", &id])?;
        let operation = self.anchored(&id)?;
        completed(&operation)?;
        let deployed = Deployed {
            ns: text(&operation, "ns_instance_id")?,
            operation: text(&operation, "id")?,
            position: status["position"].as_u64().context("the intent has no position")?,
            site: text(&operation, "site")?,
        };
        self.alive.push("edge-1");
        let found = self.stage.places.look().beyond(&self.empty);
        ensure!(!found.processes.is_empty(), "the service is said to run, and no process of it does");
        let ns = self.ns("edge-1")?;
        let instances = ns["instances"].as_array().map_or(0, Vec::len);
        ensure!(ns["state"] == "INSTANTIATED", "the service is {}", ns["state"]);
        ensure!(found.processes.len() >= instances, "{instances} instances, {found}");
        let detail = format!("on {}: {found}", deployed.site);
        self.export_approval("edge-1", deployed.position)?;
        (self.one, self.first) = (found, Some(deployed));
        Ok(detail)
    }

    pub(super) fn deploy_kept(&mut self) -> anyhow::Result<String> {
        let params = self.params();
        self.carried_out(&self.deployment(KEPT_SERVICE, &params, "1h"))?;
        Ok(format!("{TENANT}/{KEPT_SERVICE}"))
    }

    /// What the orchestrator says of a service.
    pub(super) fn ns(&self, service: &str) -> anyhow::Result<Value> {
        self.stage.mandate.ask(&["ns", "show", &format!("{TENANT}/{service}")])
    }

    /// Keeps an approval for those who will misuse it.
    pub(super) fn export_approval(&mut self, name: &'static str, position: u64) -> anyhow::Result<()> {
        let file = self.stage.path(&format!("{name}.approval.json"));
        self.stage.mandate.ask(&[
            "approval",
            "export",
            &position.to_string(),
            "-o",
            &file.display().to_string(),
        ])?;
        self.approvals.push((name, file));
        Ok(())
    }

    /// The auditor has a bundle, the trust roots and the program; no home, no orchestrator.
    fn auditor(&self) -> super::super::mandate::Mandate {
        let nowhere = self.stage.path("auditor");
        super::super::mandate::Mandate::new(self.stage.programs.mandate.clone(), nowhere)
    }

    /// Copies the trust roots to the auditor.
    fn trust_roots(&self) -> anyhow::Result<String> {
        let roots = self.stage.path("auditor.trust.json");
        fs::copy(self.stage.mandate.home().join("trust.json"), &roots)?;
        Ok(roots.display().to_string())
    }

    /// Exports the evidence of an operation and verifies it as the auditor; returns the file and what was verified.
    pub(super) fn verified(&self, operation: &str) -> anyhow::Result<(PathBuf, Value)> {
        let bundle = self.stage.path(&format!("{operation}.jsonl"));
        let name = bundle.display().to_string();
        self.stage.mandate.ask(&["evidence", "export", operation, "-o", &name])?;
        let verdict = self.auditor().ask(&["evidence", "verify", &name, "--trust", &self.trust_roots()?])?;
        Ok((bundle, verdict))
    }

    pub(super) fn evidence(&mut self) -> anyhow::Result<String> {
        let operation = self.first()?.operation.clone();
        let (bundle, verdict) = self.verified(&operation)?;
        let bytes = fs::read(&bundle)?;
        let measured = measurement(&bytes).context("the bundle has no measurement")?;
        check_traffic(&measured)?;
        let part = |name: &str| measured[name].clone();
        self.report.measurement =
            serde_json::json!({ "sla": part("sla"), "report": part("report"), "slo": part("slo") });
        let checks = verdict["checks"].as_array().map_or(0, Vec::len);
        let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count();
        self.report.evidence.bundle = self.kept_evidence(&bundle)?;
        self.report.evidence.verified = true;
        Ok(format!("{lines} signed lines, {checks} checks, {}", slo_words(&self.report.measurement)))
    }

    /// Copies a bundle and the trust roots to where they outlive the demo: `.testbed/evidence/`.
    fn kept_evidence(&self, bundle: &Path) -> anyhow::Result<PathBuf> {
        let dir = workspace::state_dir()?.join("evidence");
        fs::create_dir_all(&dir)?;
        let kept = dir.join("edge-1.jsonl");
        fs::copy(bundle, &kept)?;
        fs::copy(self.stage.mandate.home().join("trust.json"), dir.join("trust.json"))?;
        Ok(kept)
    }

    /// A stranger's verification, with no code of ours.
    pub(super) fn by_hand(&mut self) -> anyhow::Result<String> {
        let missing = BY_HAND.iter().find(|program| !command::exists(program));
        if let Some(program) = missing {
            return Ok(format!("SKIPPED: {program} is not installed; `apt install openssl jq xxd`"));
        }
        let mut c = Command::new(self.stage.programs.root.join("docs/verify-by-hand.sh"));
        c.arg(&self.report.evidence.bundle).arg(self.trust_roots()?);
        let out = command::succeed(&mut c, BY_HAND_LIMIT)?;
        Ok(out.stdout.lines().last().unwrap_or_default().to_owned())
    }

    pub(super) fn tamper(&mut self) -> anyhow::Result<String> {
        let good = fs::read(&self.report.evidence.bundle)?;
        let bad = self.stage.path("flipped.jsonl");
        let (auditor, roots) = (self.auditor(), self.trust_roots()?);
        let last = good.len().saturating_sub(1);
        let inner = FLIPS_PERMILLE.iter().map(|p| good.len() * p / 1000);
        let mut found = Vec::new();
        for at in [0].into_iter().chain(inner).chain([last]) {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            fs::write(&bad, &bytes)?;
            let refusal =
                auditor.refused(&["evidence", "verify", &bad.display().to_string(), "--trust", &roots])?;
            ensure!(refusal.exit == 1, "byte {at} flipped: exit code {}", refusal.exit);
            found.push(refusal);
        }
        fs::remove_file(&bad)?;
        let Some(Refusal { code, detail, .. }) = found.get(found.len() / 2) else {
            bail!("nothing was tried")
        };
        let place = detail.split_once(".jsonl: ").map_or(detail.as_str(), |(_, place)| place);
        self.report.refused("evidence with one byte flipped", code);
        Ok(format!("{} of {} found; for example {place}", found.len(), found.len()))
    }

    pub(super) fn scale(&mut self) -> anyhow::Result<String> {
        let before = self.stage.places.look();
        let (operation, _) = self.carried_out(&scale_by("edge-1", "2"))?;
        let after = self.stage.places.look();
        let more = after.beyond(&before);
        ensure!(more.processes.len() == 2, "two backends more, and {more} more on the machine");
        ensure!(before.beyond(&after).processes.is_empty(), "a process was replaced that had to stay");
        let (bundle, _) = self.verified(&text(&operation, "id")?)?;
        let measured = measurement(&fs::read(bundle)?).context("scaling was not measured")?;
        check_traffic(&measured)?;
        Ok(format!("{more} more; {}", slo_words(&measured)))
    }

    pub(super) fn terminate(&mut self) -> anyhow::Result<String> {
        let mut ids = Vec::new();
        for service in std::mem::take(&mut self.alive) {
            let (id, signed) =
                self.intent(TENANT, &["terminate", "--service", service, "--tenant", TENANT])?;
            self.submit(&signed)?;
            ids.push(id);
        }
        for id in &ids {
            let operation = self.anchored(id)?;
            completed(&operation)?;
            self.verified(&text(&operation, "id")?)?;
        }
        let left: Traces = self.stage.places.look().beyond(&self.empty);
        ensure!(left.is_empty(), "left behind: {left}: {left:?}");
        Ok(format!("{} services; no namespace, link, process or file is left", ids.len()))
    }
}

/// Arguments of a scale-out of the backends.
pub(super) fn scale_by<'a>(service: &'a str, steps: &'a str) -> [&'a str; 11] {
    let member = ["--member", "vlb", "--aspect", "backends"];
    [
        "scale",
        "--service",
        service,
        "--tenant",
        TENANT,
        member[0],
        member[1],
        member[2],
        member[3],
        "--steps",
        steps,
    ]
}

/// It must have ended well.
pub(super) fn completed(operation: &Value) -> anyhow::Result<()> {
    let state = operation["state"].as_str().unwrap_or("unknown");
    ensure!(
        state == "COMPLETED",
        "{} ended {state}: {}",
        operation["action"].as_str().unwrap_or("the operation"),
        operation["problem"].as_str().unwrap_or("no reason given")
    );
    Ok(())
}

/// The claims of a bundle's statements of one predicate (`…/evidence/<name>/v1`), in order.
pub(super) fn claims(bundle: &[u8], name: &str) -> Vec<Value> {
    let suffix = format!("/evidence/{name}/v1");
    let claim = |line: &[u8]| {
        let envelope = Envelope::from_json(line).ok()?;
        let statement: Value = serde_json::from_slice(&envelope.payload).ok()?;
        let named = statement["predicateType"].as_str()?.ends_with(&suffix);
        named.then(|| statement["predicate"]["claim"].clone())
    };
    bundle.split(|b| *b == b'\n').filter_map(claim).collect()
}

/// What became of each step, evidence apart, in order.
pub(super) fn steps(bundle: &[u8]) -> Vec<Value> {
    let runs = claims(bundle, "steps");
    runs.iter().flat_map(|run| run["steps"].as_array().cloned().unwrap_or_default()).collect()
}

pub(super) fn measurement(bundle: &[u8]) -> Option<Value> {
    claims(bundle, "measurement").pop()
}

/// Exactly the flows that the rules allow arrived, and from the backend that Maglev names.
pub(super) fn check_traffic(measured: &Value) -> anyhow::Result<()> {
    let groups =
        measured["report"]["groups"].as_object().context("the measurement has no groups of flows")?;
    ensure!(!groups.is_empty(), "nothing was measured");
    let (mut through, mut blocked) = (0, 0);
    for (name, group) in groups {
        let number = |key: &str| group[key].as_u64().unwrap_or(u64::MAX);
        ensure!(number("misrouted") == 0, "{name}: {} flows came from another backend", number("misrouted"));
        match number("arrived") {
            0 => blocked += 1,
            n if n == number("flows") => through += 1,
            n => bail!("{name}: {n} of {} flows arrived", number("flows")),
        }
    }
    ensure!(
        through > 0 && blocked > 0,
        "{through} groups of flows arrived, {blocked} were blocked: both must be seen"
    );
    Ok(())
}

pub(super) fn slo_words(measured: &Value) -> String {
    let number = |key: &str| measured["report"][key].as_u64().unwrap_or_default();
    format!(
        "{}.{} Mbit/s, p95 {} µs, loss {} ppm",
        number("throughput_kbps") / 1000,
        number("throughput_kbps") % 1000 / 100,
        number("latency_p95_us"),
        number("loss_ppm")
    )
}
