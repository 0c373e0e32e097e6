//! `mandate policy …`: a bundle's own tests, deciding the whole log again, and why something was decided as it was.
//!
//! Replay and explanation happen here, from the entries alone: the ledger is not believed about its own decisions.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use indicatif::ProgressBar;
use ledger_contract::{
    contract::Request,
    history::{Again, History},
    intent::IntentKind,
    policy::TestResult,
    records::{Change, PolicyBundle},
};

use super::{
    context::Context,
    failure::{Exit, Failure},
    files,
    governance::{self, ChangeArgs},
    output::{Cell, Paint, Style, Table},
    progress, proof, verdict,
};

/// Entries fetched at once.
const PAGE: usize = 500;
/// Largest file of a bundle read, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Commands on policy.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Run a bundle's own tests (rules `test_…` of its *_test.rego)
    Test {
        /// Directory of the bundle [default: the bundle in force]
        dir: Option<PathBuf>,
        /// The bundle in force on the ledger
        #[arg(long, conflicts_with = "dir")]
        active: bool,
    },
    /// Decide every entry of the ledger again; all must agree
    Replay,
    /// Show the bundle in force, or why an intent was decided as it was
    Show {
        /// Explain the decision of this intent
        #[arg(long, value_name = "INTENT")]
        why: Option<String>,
    },
    /// Propose another bundle: writes the change for its signatures
    Propose {
        /// Directory of the bundle
        dir: PathBuf,
        #[command(flatten)]
        common: ChangeArgs,
    },
}

/// Runs a command.
pub async fn run(context: &Context, command: PolicyCommand) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Test { dir: Some(dir), .. } => test(context, &read(&dir)?),
        PolicyCommand::Test { dir: None, .. } => test(context, &active(context).await?),
        PolicyCommand::Replay => replay(context).await,
        PolicyCommand::Show { why: None } => show(context).await,
        PolicyCommand::Show { why: Some(id) } => why(context, &id).await,
        PolicyCommand::Propose { dir, common } => {
            let bundle = read(&dir)?;
            passing(&dir, &bundle)?;
            let supersedes = context.client()?.policy().await.map_err(|e| context.client_failure(e))?;
            if supersedes == bundle.digest() {
                let detail = format!("{}: {supersedes} is in force already", dir.display());
                return Err(Failure::refused("POLICY_UNCHANGED", "No other bundle", detail)
                    .hint("nothing to propose; change a file of it first"));
            }
            governance::propose(context, &common, Change::Policy { bundle, supersedes })
        }
    }
}

/// `data.json` and every `*.rego` of a directory.
fn read(dir: &Path) -> Result<PolicyBundle, Failure> {
    let entries = std::fs::read_dir(dir).map_err(|e| Failure::unreadable(dir, &e))?;
    let mut bundle = PolicyBundle { files: BTreeMap::new() };
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        if name == ledger_contract::policy::DATA_FILE || path.extension().is_some_and(|e| e == "rego") {
            bundle.files.insert(name.to_owned(), files::text(&path, MAX_FILE_BYTES)?);
        }
    }
    Ok(bundle)
}

fn checked(bundle: &PolicyBundle) -> Result<Vec<TestResult>, Failure> {
    let unusable = |e: ledger_contract::policy::PolicyError| {
        Failure::refused("POLICY_ERROR", "The bundle cannot decide", e).hint("correct the file it names")
    };
    bundle.check().map_err(unusable)?;
    bundle.test().map_err(unusable)
}

/// The ledger would refuse it, after everybody has signed.
fn passing(dir: &Path, bundle: &PolicyBundle) -> Result<(), Failure> {
    match checked(bundle)?.into_iter().find(|t| !t.passed) {
        None => Ok(()),
        Some(t) => {
            let detail = format!("{} of {}: {}", t.name, t.file, t.detail);
            Err(Failure::refused("POLICY_TESTS_FAILED", "The bundle's own tests fail", detail)
                .hint(format!("mandate policy test {}", dir.display())))
        }
    }
}

fn test(context: &Context, bundle: &PolicyBundle) -> Result<Exit, Failure> {
    let results = checked(bundle)?;
    let failed = results.iter().filter(|r| !r.passed).count();
    let document = serde_json::json!({ "bundle": bundle.digest(), "tests": results, "failed": failed });
    context.ui.show(&document, |style| {
        let mut table = Table::new(&["", "TEST", "FILE", "DETAIL"], "the bundle has no tests (*_test.rego)");
        for r in &results {
            let (mark, paint) = if r.passed { ("ok", Paint::Green) } else { ("no", Paint::Red) };
            table.row([
                Cell::new(paint, mark),
                (&r.name).into(),
                (&r.file).into(),
                Cell::new(Paint::Dim, &r.detail),
            ]);
        }
        format!(
            "{}\nbundle {}: {} tests, {failed} failed\n",
            table.render(style),
            bundle.digest(),
            results.len()
        )
    })?;
    Ok(if failed == 0 { Exit::Ok } else { Exit::Refused })
}

/// A log that was decided again, as far as was asked for.
pub struct Replayed {
    /// The state it left.
    pub history: History,
    /// The last entry.
    pub last: Option<Again>,
}

/// Decides the ledger's entries again, to the end or to `position`.
pub async fn history(context: &Context, position: u64) -> Result<Replayed, Failure> {
    let client = context.client()?;
    let head = client.ledger_head().await.map_err(|e| context.client_failure(e))?;
    let size = proof::claimed_size(&head).unwrap_or_default();
    let end = size.min(position.saturating_add(1));
    let bar = if context.ui.progress { ProgressBar::new(end) } else { ProgressBar::hidden() };
    let mut replayed = Replayed { history: History::default(), last: None };
    while replayed.history.len() < end {
        let entries =
            client.ledger_range(replayed.history.len(), PAGE).await.map_err(|e| context.client_failure(e))?;
        if entries.is_empty() {
            let detail = format!("the ledger has {size} entries, but sends {} only", replayed.history.len());
            return Err(Failure::refused("LOG_INCOMPLETE", "The log is incomplete", detail)
                .hint("mandate ledger head; is it the same ledger?"));
        }
        for line in entries {
            if replayed.history.len() >= end {
                break;
            }
            let again = replayed.history.next(&line).map_err(|difference| {
                Failure::refused("REPLAY_DIFFERS", "Deciding the log again gives something else", difference)
                    .hint("the log was altered, or decided by another program: compare its head with a witness's")
            })?;
            replayed.last = Some(again);
        }
        bar.set_position(replayed.history.len());
    }
    bar.finish_and_clear();
    Ok(replayed)
}

async fn replay(context: &Context) -> Result<Exit, Failure> {
    let spinner = progress::Spinner::start(&context.ui, "deciding the log again");
    let replayed = history(context, u64::MAX).await?;
    drop(spinner);
    let n = replayed.history.len();
    let document = serde_json::json!({ "agrees": true, "entries": n });
    context.ui.show(&document, |style| {
        format!("{}: {n} entries were decided again\n", style.paint(Paint::Green, "all agree"))
    })
}

async fn active(context: &Context) -> Result<PolicyBundle, Failure> {
    history(context, u64::MAX).await?.history.policy().ok_or_else(|| {
        Failure::refused("POLICY_ERROR", "No policy", "the ledger has no policy in force")
            .hint("is it founded? see `mandate ledger log`")
    })
}

async fn show(context: &Context) -> Result<Exit, Failure> {
    let bundle = active(context).await?;
    let document = serde_json::json!({ "digest": bundle.digest(), "files": bundle.files });
    context.ui.show(&document, |style| {
        let mut out = format!("policy {}\n", style.paint(Paint::Bold, &bundle.digest().to_string()));
        for (name, text) in &bundle.files {
            out.push_str(&format!("\n{}\n", style.paint(Paint::Cyan, name)));
            text.lines().for_each(|l| out.push_str(&format!("  {}\n", super::output::printable(l))));
        }
        out
    })
}

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

async fn why(context: &Context, id: &str) -> Result<Exit, Failure> {
    let intent = super::intent::fetch(context, id).await?;
    let Replayed { history, last } = history(context, intent.position).await?;
    let last = last.ok_or_else(|| Failure::internal("REPLAY", "the entry was not reached"))?;
    let asked = Asked::of(&last.entry.request);
    let data = history
        .policy()
        .and_then(|p| p.files.get(ledger_contract::policy::DATA_FILE).cloned())
        .unwrap_or_default();
    let rules: Vec<Explained> = last
        .outcome
        .verdict
        .rules
        .iter()
        .map(|r| Explained {
            rule: r.rule.clone(),
            passed: r.passed,
            code: r.code.clone(),
            detail: r.detail.clone(),
            data: data_lines(&data, &r.rule, &asked),
            change: (!r.passed && r.code != ledger_contract::contract::NOT_EVALUATED)
                .then(|| verdict::hint(&r.code)),
        })
        .collect();
    let read: Vec<&String> = last.read.0.keys().collect();
    let document = serde_json::json!({ "intent": id, "position": intent.position, "approved": last.outcome.verdict.approved,
        "policy": last.outcome.verdict.policy, "rules": rules, "read": read });
    context.ui.show(&document, |style| explain(&rules, &read, style))
}

fn explain(rules: &[Explained], read: &[&String], style: Style) -> String {
    let mut out = String::new();
    for r in rules {
        out.push_str(&format!(
            "{} {}: {}\n",
            style.check(r.passed),
            style.paint(Paint::Bold, &r.rule),
            super::output::printable(&r.detail)
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
        "authorization/signatures" => &[("signing", "")],
        "authorization/break-glass" => &[("emergency", "")],
        "provenance/slsa-level" => &[("slsa_min_level", SENSITIVITY), ("builders", "")],
        "provenance/supplier" => &[("supply", "providers")],
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
        let key = if *key == SENSITIVITY { who.sensitivity.as_str() } else { *key };
        let part = below(start, &who.tenant).or_else(|| below(start, "default")).unwrap_or(start);
        Some(below(part, key).unwrap_or(part))
    };
    sections(rule).iter().filter_map(line).map(|i| (i + 1, lines[i].to_owned())).collect()
}

fn names(line: &str, key: &str) -> bool {
    line.trim_start()
        .strip_prefix('"')
        .and_then(|l| l.strip_prefix(key))
        .is_some_and(|l| l.starts_with("\":"))
}

/// Of an intent, what chooses lines of `data.json`.
#[derive(Default)]
struct Asked {
    tenant: String,
    /// Of the service that is deployed; empty: not in this intent.
    sensitivity: String,
}

impl Asked {
    fn of(request: &trust::Envelope) -> Self {
        let Ok(Request::Intent(it)) = Request::parse(request) else { return Self::default() };
        let sensitivity = match &it.action {
            IntentKind::Deploy(d) => serde_json::to_value(d.sensitivity).ok(),
            _ => None,
        };
        let text = sensitivity.as_ref().and_then(|s| s.as_str()).unwrap_or_default();
        Self { tenant: it.tenant.clone(), sensitivity: text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(tenant: &str) -> Asked {
        Asked { tenant: tenant.into(), sensitivity: "internal".into() }
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
}
