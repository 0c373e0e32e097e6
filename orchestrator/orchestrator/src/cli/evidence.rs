//! `mandate evidence …`: what was done, and that it was.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use ledger_contract::{
    bundle::{MAX_BUNDLE_BYTES, VerifiedBundle, verify_bundle},
    evidence::{
        ATTESTATION, AttestationClaim, DECISION, Link, MEASUREMENT, MeasurementClaim, OUTCOME, Objective,
        OutcomeClaim, PLAN, PlanClaim, Receipt, STEP, STEPS, StepClaim, StepsClaim,
    },
    records::Entry,
};
use serde::{Serialize, de::DeserializeOwned};
use trust::{Digest, Envelope, identity::claimed, statement::Statement};

use super::{
    args,
    context::Context,
    failure::{Exit, Failure},
    files,
    output::{Cell, Paint, Style, Table},
    progress::Spinner,
};
use crate::{
    client::{Client, ClientError},
    views::NsView,
};

/// Commands on evidence.
#[derive(Debug, Subcommand)]
pub enum EvidenceCommand {
    /// Show what is in an evidence bundle
    Show {
        /// Operation, or NS instance or TENANT/SERVICE (its newest anchored operation), or a bundle's file
        #[arg(value_name = "NS|OPERATION|FILE", value_parser = args::name)]
        which: String,
    },
    /// Write an operation's evidence bundle into a file
    Export {
        /// Operation, or NS instance or TENANT/SERVICE (its newest anchored operation)
        #[arg(value_name = "OPERATION|NS", value_parser = args::name)]
        which: String,
        /// Where to write it [default: stdout]
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Verify an evidence bundle offline, from the trust roots alone
    Verify {
        /// The bundle
        file: PathBuf,
        /// Trust roots [default: trust.json in the home directory]
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
    },
}

/// Runs a command.
pub async fn run(context: &Context, command: EvidenceCommand) -> Result<Exit, Failure> {
    match command {
        EvidenceCommand::Show { which } => {
            let bytes = if Path::new(&which).is_file() {
                files::read(Path::new(&which), MAX_BUNDLE_BYTES as u64)?
            } else {
                fetch(context, &which).await?.1
            };
            show(context, &bytes)
        }
        EvidenceCommand::Export { which, output } => export(context, &which, &output).await,
        EvidenceCommand::Verify { file, trust } => verify(context, &file, trust.as_deref()),
    }
}

// ---- fetching

/// The bundle of an operation, or of the newest anchored operation of a service.
async fn fetch(context: &Context, which: &str) -> Result<(String, Vec<u8>), Failure> {
    let client = context.client()?;
    let operation = match client.ns(which).await {
        Ok(ns) => newest(&ns)?,
        Err(ClientError::Problem(p)) if p.status == 404 => which.to_owned(),
        Err(e) => return Err(context.client_failure(e)),
    };
    let bytes = bundle(context, &client, &operation).await?;
    Ok((operation, bytes))
}

async fn bundle(context: &Context, client: &Client, operation: &str) -> Result<Vec<u8>, Failure> {
    client.bundle(operation).await.map_err(|e| {
        let missing = matches!(&e, ClientError::Problem(p) if p.status == 404);
        let failure = context.client_failure(e);
        if missing {
            failure.hint(
                "name a service as TENANT/SERVICE (`mandate ns list --all`), an operation of it (`mandate ns show`), \
                 or for `show` a bundle's file",
            )
        } else {
            failure
        }
    })
}

fn newest(ns: &NsView) -> Result<String, Failure> {
    let anchored = ns.operations.iter().rev().find(|o| o.anchored).map(|o| o.id.clone());
    anchored.ok_or_else(|| {
        let detail = format!("no operation of {} is anchored yet", ns.id);
        Failure::usage("NOT_ANCHORED", "There is no evidence yet", detail)
            .hint(format!("follow it with `mandate ns timeline {} --follow`", ns.id))
    })
}

async fn export(context: &Context, which: &str, output: &Path) -> Result<Exit, Failure> {
    let (operation, bytes) = fetch(context, which).await?;
    files::write(output, &bytes)?;
    if output == Path::new("-") {
        return Ok(Exit::Ok);
    }
    let document = serde_json::json!({ "operation_id": operation, "file": output,
        "size_bytes": bytes.len(), "digest": Digest::of(&bytes) });
    context.ui.show(&document, |style| {
        format!(
            "{} the evidence of {operation} to {}\nnext: mandate evidence verify {}\n",
            style.paint(Paint::Green, "wrote"),
            output.display(),
            output.display()
        )
    })
}

// ---- showing

/// One line of a bundle, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    line: usize,
    kind: String,
    what: String,
    signer: String,
    digest: Digest,
    /// What became of each step that the line is about, when there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<String>,
}

fn show(context: &Context, bytes: &[u8]) -> Result<Exit, Failure> {
    let text = std::str::from_utf8(bytes).map_err(|_| not_a_bundle("not UTF-8"))?;
    let lines = text.lines().zip(1..).map(|(text, n)| line(n, text)).collect::<Result<Vec<_>, _>>()?;
    if lines.is_empty() {
        return Err(not_a_bundle("it is empty"));
    }
    context.ui.show(&lines, |style| {
        format!(
            "{}\nnothing is verified yet; next: mandate evidence verify FILE\n",
            render_lines(&lines, style)
        )
    })
}

fn render_lines(lines: &[Line], style: Style) -> String {
    let mut table = Table::new(&[">LINE", "KIND", "WHAT", "SIGNED BY", "DIGEST"], "an empty bundle");
    for l in lines {
        table.row([
            l.line.into(),
            Cell::new(Paint::Cyan, &l.kind),
            (&l.what).into(),
            (&l.signer).into(),
            Cell::new(Paint::Dim, l.digest.short()),
        ]);
        for step in &l.steps {
            table.row(["".into(), "".into(), format!("  {step}").into(), "".into(), "".into()]);
        }
    }
    table.render(style)
}

fn line(number: usize, text: &str) -> Result<Line, Failure> {
    let bad = |problem: String| not_a_bundle(format!("line {number}: {problem}"));
    let digest = Digest::of(text);
    if let Ok(receipt) = serde_json::from_str::<Receipt>(text) {
        let size = receipt.anchor.proof.checkpoint.lines().nth(1).unwrap_or("?").to_owned();
        let what = format!("anchored as ledger entry {} of {size}", receipt.anchor.proof.index);
        return Ok(Line {
            line: number,
            kind: "receipt".into(),
            what,
            signer: "the log".into(),
            digest,
            steps: vec![],
        });
    }
    let envelope = Envelope::from_json(text.as_bytes()).map_err(|e| bad(e.to_string()))?;
    let statement: Statement<serde_json::Value> =
        serde_json::from_slice(&envelope.payload).map_err(|e| bad(e.to_string()))?;
    let signer = envelope.signatures.first().and_then(|s| claimed(&s.certificate).ok());
    Ok(Line {
        line: number,
        kind: kind(&statement.predicate_type),
        what: what(&statement.predicate_type, &envelope).unwrap_or_else(|| "unknown claim".into()),
        signer: signer.map_or_else(|| "?".into(), |(org, name)| format!("{org}/{name}")),
        digest,
        steps: told(&statement.predicate_type, &envelope),
    })
}

/// Each step of a line about several.
fn told(predicate_type: &str, envelope: &Envelope) -> Vec<String> {
    let claims = (predicate_type == STEPS).then(|| claim::<StepsClaim>(envelope, STEPS)).flatten();
    let steps = claims.map(|c| c.steps).unwrap_or_default();
    if steps.len() == 1 { Vec::new() } else { steps.iter().map(in_words).collect() }
}

fn in_words(step: &StepClaim) -> String {
    format!("{}: {} {}", step.state, step.action, step.object).trim_end().to_owned()
}

/// `https://mandate.dev/evidence/step/v1` -> `step`.
fn kind(predicate_type: &str) -> String {
    let path = predicate_type.trim_end_matches("/v1");
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn claim<P: DeserializeOwned>(envelope: &Envelope, predicate_type: &str) -> Option<P> {
    Statement::<Link<P>>::from_envelope(envelope, predicate_type).ok().map(|s| s.predicate.claim)
}

fn what(predicate_type: &str, envelope: &Envelope) -> Option<String> {
    Some(match predicate_type {
        DECISION => {
            let it: ledger_contract::evidence::DecisionClaim = claim(envelope, DECISION)?;
            let entry: Entry = serde_json::from_str(&it.approval.entry).ok()?;
            format!(
                "approved by {} rules as ledger entry {}",
                entry.verdict.rules.len(),
                it.approval.proof.index
            )
        }
        PLAN => {
            let it: PlanClaim = claim(envelope, PLAN)?;
            format!("{} steps at {}, {} sites refused", it.steps.len(), it.site, it.refused.len())
        }
        STEP => {
            let it: StepClaim = claim(envelope, STEP)?;
            in_words(&it)
        }
        STEPS => {
            let it: StepsClaim = claim(envelope, STEPS)?;
            match it.steps.as_slice() {
                [one] => in_words(one),
                all => {
                    let done = all.iter().filter(|s| s.state == "DONE").count();
                    format!("{} steps, {done} of them DONE", all.len())
                }
            }
        }
        ATTESTATION => {
            let it: AttestationClaim = claim(envelope, ATTESTATION)?;
            format!("{} measurements, {} workloads", it.evidence.log.len(), it.reference.workloads.len())
        }
        MEASUREMENT => {
            let it: MeasurementClaim = claim(envelope, MEASUREMENT)?;
            let kept = it.slo.iter().filter(|s| s.kept).count();
            format!(
                "{} kbit/s, p95 {} us, {kept} of {} SLOs kept",
                it.report.throughput_kbps,
                it.report.latency_p95_us,
                it.slo.len()
            )
        }
        OUTCOME => {
            let it: OutcomeClaim = claim(envelope, OUTCOME)?;
            it.problem.map_or_else(|| it.state.clone(), |p| format!("{}: {p}", it.state))
        }
        _ => return None,
    })
}

fn not_a_bundle(detail: impl std::fmt::Display) -> Failure {
    Failure::usage("NOT_A_BUNDLE", "Not an evidence bundle", detail)
        .hint("get one with `mandate evidence export TENANT/SERVICE -o FILE`")
}

/// Is any line of it a receipt or a signed statement, whatever else is wrong?
fn has_evidence(bytes: &[u8]) -> bool {
    bytes.split(|b| *b == b'\n').any(|l| std::str::from_utf8(l).is_ok_and(|text| line(0, text).is_ok()))
}

// ---- verifying

/// What `--json` answers.
#[derive(Serialize)]
struct VerifiedView<'a> {
    verified: bool,
    operation_id: &'a str,
    intent_id: &'a str,
    action: &'a str,
    tenant: &'a str,
    service: &'a str,
    ns_instance_id: &'a str,
    signer: String,
    orchestrator: String,
    site: Option<&'a str>,
    steps: usize,
    attested: Option<bool>,
    slo: &'a [Objective],
    outcome: &'a str,
    problem: Option<&'a str>,
    body: Digest,
    decided: u64,
    anchored: u64,
    checks: &'a [ledger_contract::bundle::BundleCheck],
}

fn verify(context: &Context, file: &Path, trust: Option<&Path>) -> Result<Exit, Failure> {
    let roots = context.roots(trust)?;
    let bytes = files::read(file, MAX_BUNDLE_BYTES as u64)?;
    let spinner = Spinner::start(&context.ui, "verifying");
    let outcome = verify_bundle(&bytes, &roots);
    drop(spinner);
    let it = outcome.map_err(|e| {
        // A changed bundle is refused; only what has no line of evidence in it is no bundle at all.
        if !has_evidence(&bytes) {
            return not_a_bundle(format!("{}: there is no line of evidence in it", file.display()));
        }
        let used = trust.map_or_else(|| context.home.trust(), Path::to_owned);
        Failure::refused("BUNDLE_INVALID", "The evidence does not verify", format!("{}: {e}", file.display()))
            .hint(format!(
                "are {} the trust roots of the operator it comes from? (--trust FILE names others); if so, get it \
                 again with `mandate evidence export`: this one was changed",
                used.display()
            ))
    })?;
    let view = VerifiedView {
        verified: true,
        operation_id: &it.operation_id,
        intent_id: &it.intent.id,
        action: it.intent.action.name(),
        tenant: &it.intent.tenant,
        service: &it.intent.service,
        ns_instance_id: &it.grant.ns_instance_id,
        signer: it.tenant_identity.to_string(),
        orchestrator: it.orchestrator_identity.to_string(),
        site: it.site.as_deref(),
        steps: it.steps,
        attested: it.attested,
        slo: &it.slo,
        outcome: &it.outcome,
        problem: it.problem.as_deref(),
        body: it.body,
        decided: it.decided.0,
        anchored: it.anchored.0,
        checks: &it.checks,
    };
    context.ui.show(&view, |style| render_verified(&it, style))
}

fn render_verified(it: &VerifiedBundle, style: Style) -> String {
    let mut checks = Table::new(&["", "CHECK", "FOUND"], "nothing was checked");
    for c in &it.checks {
        let (mark, paint) = if c.ok { ("ok", Paint::Green) } else { ("no", Paint::Yellow) };
        checks.row([Cell::new(paint, mark), (&c.name).into(), Cell::new(Paint::Dim, &c.detail)]);
    }
    let mut slo = Table::new(&["OBJECTIVE", ">BOUND", ">MEASURED", "KEPT"], "nothing was measured");
    for s in &it.slo {
        let kept = if s.kept { Cell::new(Paint::Green, "yes") } else { Cell::new(Paint::Red, "no") };
        slo.row([(&s.name).into(), s.bound.into(), s.measured.into(), kept]);
    }
    format!("{}\n{}\n{}", checks.render(style), slo.render(style), summary(it, style))
}

fn summary(it: &VerifiedBundle, style: Style) -> String {
    let mut facts = Table::new(&["", ""], "");
    let problem = it.problem.as_ref().map_or_else(String::new, |p| format!(": {p}"));
    let attested = match it.attested {
        Some(true) => "affirming",
        Some(false) => "contraindicated",
        None => "none",
    };
    for (name, value) in [
        ("service", format!("{} {}/{}", it.intent.action.name(), it.intent.tenant, it.intent.service)),
        ("outcome", format!("{}{problem}", it.outcome)),
        ("site", format!("{}, {} steps", it.site.as_deref().unwrap_or("none"), it.steps)),
        ("attestation", attested.to_owned()),
        ("asked by", it.tenant_identity.to_string()),
        ("decided", format!("entry {}, {}", it.decided.0, it.decided.1)),
        ("evidence by", it.orchestrator_identity.to_string()),
        ("anchored", format!("entry {}, {}", it.anchored.0, it.anchored.1)),
    ] {
        facts.row([Cell::new(Paint::Dim, name), value.into()]);
    }
    format!(
        "{} {}\n{}",
        style.paint(Paint::Green, "verified"),
        style.paint(Paint::Bold, &it.operation_id),
        facts.render(style)
    )
}
