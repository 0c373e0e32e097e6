//! `mandate approval …`: carrying an approval by hand (air-gapped sites, rehearsals, disputes).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use ledger_contract::{
    Constitution,
    approval::{self, ActuatorPolicy},
    channel::ChannelProof,
    evidence::{InclusionProof, ProvenEntry},
    records::{Entry, Event},
};
use serde::{Deserialize, Serialize};
use trust::{TrustRoots, note::NoteVerifier};

use super::{
    context::Context,
    failure::{Exit, Failure},
    files, intent,
    output::{Cell, Paint, Table},
    scan,
};
use crate::{client::Client, config::Config};

/// What to do about trust roots that name no ledger.
const ONE_LOG: &str = "name the trust.json of that ledger's operator with --trust FILE";

/// Commands on approvals.
#[derive(Debug, Subcommand)]
pub enum ApprovalCommand {
    /// Write an approval with its proof into a file
    Export {
        /// Id of the intent, or position of its ledger entry
        #[arg(value_name = "INTENT|POSITION")]
        which: String,
        /// Where to write it [default: stdout]
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Hand an approval to the orchestrator, which verifies it as any other
    Deliver {
        /// The file
        file: PathBuf,
    },
    /// Verify an approval here, as the orchestrator does
    Verify {
        /// The file
        file: PathBuf,
        /// Trust roots [default: trust.json in the home directory]
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
    },
}

/// Runs a command.
pub async fn run(context: &Context, command: ApprovalCommand) -> Result<Exit, Failure> {
    match command {
        ApprovalCommand::Export { which, output } => export(context, &which, &output).await,
        ApprovalCommand::Deliver { file } => {
            let approval = read(&file)?.approval();
            let delivered =
                context.client()?.deliver(&approval).await.map_err(|e| context.client_failure(e))?;
            context.ui.show(&delivered, |style| {
                format!(
                    "{} as operation {}\n",
                    style.paint(Paint::Green, "accepted"),
                    style.paint(Paint::Cyan, &delivered.operation_id)
                )
            })
        }
        ApprovalCommand::Verify { file, trust } => verify(context, &file, trust.as_deref()),
    }
}

async fn export(context: &Context, which: &str, output: &Path) -> Result<Exit, Failure> {
    let position = match which.parse::<u64>() {
        Ok(position) => position,
        Err(_) => intent::fetch(context, which).await?.position,
    };
    let client = context.client()?;
    let proven = client.ledger_entry(position).await.map_err(|e| context.client_failure(e))?;
    approved_intent(position, &proven)?;
    let constitution = constitution(context, &client, position).await?;
    let carried = Carried { entry: proven.entry, proof: proven.proof, channel: proven.channel, constitution };
    let mut bytes = serde_json::to_vec(&carried).map_err(|e| Failure::internal("JSON", e))?;
    bytes.push(b'\n');
    files::write(output, &bytes)?;
    if output == Path::new("-") {
        return Ok(Exit::Ok);
    }
    let document = serde_json::json!({ "position": position, "file": output });
    context.ui.show(&document, |style| {
        format!("{} entry {position} to {}\n", style.paint(Paint::Green, "wrote"), output.display())
    })
}

/// What an approval's file holds: it with its proof, and what a stranger needs to follow the rules to it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Carried {
    entry: String,
    proof: InclusionProof,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    channel: Option<Box<ChannelProof>>,
    /// The genesis and every change of policy or organisations before the approval; empty: there was no change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    constitution: Vec<ProvenEntry>,
}

impl Carried {
    fn approval(&self) -> ProvenEntry {
        ProvenEntry { entry: self.entry.clone(), proof: self.proof.clone(), channel: self.channel.clone() }
    }
}

/// The genesis and the changes before an entry, with their proofs.
async fn constitution(
    context: &Context,
    client: &Client,
    position: u64,
) -> Result<Vec<ProvenEntry>, Failure> {
    let mut changes = Vec::new();
    let note = |number, e: &Entry| changes.extend(e.changes_rules().then_some(number));
    scan::entries(context, client, position, note).await?;
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let mut out = Vec::with_capacity(changes.len() + 1);
    for change in std::iter::once(0).chain(changes) {
        out.push(client.ledger_entry(change).await.map_err(|e| context.client_failure(e))?);
    }
    Ok(out)
}

/// Other entries are on the ledger too; they approve nothing.
fn approved_intent(position: u64, proven: &ProvenEntry) -> Result<(), Failure> {
    let entry: Entry = serde_json::from_str(&proven.entry).map_err(|e| {
        Failure::internal("ENTRY_FORMAT", format!("the orchestrator sent no ledger entry: {e}"))
    })?;
    if matches!(entry.event, Some(Event::IntentApproved { .. })) {
        return Ok(());
    }
    let detail = match entry.verdict.code() {
        "" => format!("entry {position} is of another kind"),
        code => format!("entry {position} was refused: {code}"),
    };
    Err(Failure::usage("NOT_AN_INTENT", "Not an approved intent", detail).hint(
        "`mandate intent list` shows the intents with their entries; `mandate ledger proof` takes any entry",
    ))
}

fn read(file: &Path) -> Result<Carried, Failure> {
    let bytes = files::read(file, files::MAX_DOCUMENT_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Failure::usage("NOT_AN_APPROVAL", "Not an approval", format!("{}: {e}", file.display()))
            .hint("get one with `mandate approval export INTENT -o FILE`")
    })
}

fn verify(context: &Context, file: &Path, trust: Option<&Path>) -> Result<Exit, Failure> {
    let carried = read(file)?;
    let proven = carried.approval();
    let roots = context.roots(trust)?;
    let policies = policies(context, &proven)?;
    let ledger = ledger(&roots)?;
    let rules =
        Constitution::pinned(&ledger, &roots, policies).followed(&carried.constitution).map_err(|e| {
            Failure::refused(e.code.as_str(), "The rules behind the approval cannot be followed", e.detail)
                .hint("--trust is the trust.json of the founding, or a later one of the same ledger")
        })?;
    let policy = ActuatorPolicy { constitution: &rules, at: context.now()? };
    let approved = approval::verify(&proven, &policy)
        .map_err(|e| {
            Failure::refused(e.code.as_str(), "The approval is refused", e.detail)
                .hint("is it of the ledger of these trust roots? Export it again: mandate approval export INTENT -o FILE")
        })?;
    let changes = carried.constitution.len().saturating_sub(1);
    let document = serde_json::json!({ "verified": true, "position": approved.position, "intent": approved.intent,
        "grant": approved.grant, "signer": approved.tenant_identity.to_string(), "changes_followed": changes });
    context.ui.show(&document, |style| {
        let mut table = Table::new(&["", ""], "");
        let grant = &approved.grant;
        for (name, value) in [
            ("intent", approved.intent.id.clone()),
            ("action", format!("{} {}/{}", grant.action, grant.tenant, approved.intent.service)),
            ("signed by", approved.tenant_identity.to_string()),
            ("ns instance", grant.ns_instance_id.clone()),
            ("entry", format!("{} of {}", approved.position, grant.ledger)),
            ("not after", grant.not_after.to_string()),
            ("policy", grant.policy.to_string()),
            ("rules", format!("as pinned; changes followed since: {changes}")),
        ] {
            table.row([Cell::new(Paint::Dim, name), value.into()]);
        }
        format!(
            "{}\n{} here; whether it was used before, the journal says\n",
            table.render(style),
            style.paint(Paint::Green, "verified")
        )
    })
}

/// Policies accepted here; a stranger without a configuration accepts the one that decided, which is then shown.
fn policies(context: &Context, proven: &ProvenEntry) -> Result<BTreeSet<trust::Digest>, Failure> {
    let path = context.home.config();
    if path.exists() {
        let text = files::text(&path, files::MAX_DOCUMENT_BYTES)?;
        let config = Config::parse(&text, &path.display().to_string()).map_err(|e| {
            Failure::usage("CONFIG", "The configuration is refused", e)
                .hint(format!("correct {}", path.display()))
        })?;
        return Ok(config.accepted_policies.into_iter().collect());
    }
    let entry: Option<ledger_contract::records::Entry> = serde_json::from_str(&proven.entry).ok();
    Ok(entry.map(|e| e.verdict.policy).into_iter().collect())
}

/// The ledger of the trust roots: the channel, or the only log key's.
pub(super) fn ledger(roots: &TrustRoots) -> Result<String, Failure> {
    if let Some(root) = &roots.channel {
        return ledger_contract::channel::name(root).map_err(|e| {
            Failure::usage("TRUST_ROOTS", "Unusable channel", e.detail)
                .hint("`mandate ledger join` writes the channel into trust.json")
        });
    }
    let [key] = &roots.logs[..] else {
        let detail = format!("{} log keys; exactly one is needed", roots.logs.len());
        return Err(Failure::usage("TRUST_ROOTS", "Which ledger?", detail).hint(ONE_LOG));
    };
    let verifier = NoteVerifier::parse(key)
        .map_err(|e| Failure::usage("TRUST_ROOTS", "Unusable log key", e).hint(ONE_LOG))?;
    Ok(verifier.name().to_owned())
}
