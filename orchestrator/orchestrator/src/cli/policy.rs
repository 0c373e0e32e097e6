//! `mandate policy …`: a bundle's own tests, deciding the whole log again, and [why](why) something was decided as it was.
//!
//! Replay and explanation happen here, from the entries alone: the ledger is not believed about its own decisions.

mod why;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use indicatif::ProgressBar;
use ledger_contract::{
    history::{Again, History},
    policy::TestResult,
    records::{Change, PolicyBundle},
};

use super::{
    context::Context,
    failure::{Exit, Failure},
    files,
    governance::{self, ChangeArgs},
    output::{Cell, Paint, Table},
    progress, proof, scan,
};

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
    /// Show the bundle in force, or why something was decided as it was
    Show {
        /// Explain the decision of this intent, standing grant or change of the rules (id, or number of its entry)
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
        PolicyCommand::Show { why: Some(id) } => why::run(context, &id).await,
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
        let entries = client
            .ledger_range(replayed.history.len(), scan::PAGE)
            .await
            .map_err(|e| context.client_failure(e))?;
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
