//! `mandate ledger …`.

mod care;
mod chaincode;
mod join;
mod remembered;
mod trouble;

use std::path::PathBuf;

use clap::Subcommand;
use ledger_contract::{
    contract::Request,
    records::{Change, Entry, Event, Revocable},
    transaction::SealedEntry,
};
use serde::Serialize;
use trust::{
    identity::claimed,
    witness::{WitnessKey, Witnesses},
};

use super::{
    args,
    context::Context,
    failure::{Exit, Failure},
    output::{Cell, Paint, Style, Table},
    proof,
};
use crate::client::Client;

/// Commands on the ledger.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// List the entries, oldest first: refusals are entries too
    Log {
        /// First position
        #[arg(long, default_value_t = 0, value_name = "POSITION")]
        from: u64,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Show the newest checkpoint, verified here: its signature, and that it continues the one verified before
    Head {
        /// Public key of a witness that is believed (several times)
        #[arg(long = "witness", value_name = "KEY")]
        witnesses: Vec<String>,
        /// How many of them must have cosigned [default: all]
        #[arg(long, value_name = "N", requires = "witnesses")]
        quorum: Option<usize>,
        /// Trust roots [default: trust.json in the home directory]
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
    },
    /// Fetch an entry with its inclusion proof and verify it here
    Proof {
        /// Position of the entry
        #[arg(value_parser = args::position)]
        position: u64,
        /// Trust roots [default: trust.json in the home directory]
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
    },
    /// Check the whole ledger by independent code: every file, hash, signature and decision; nothing is changed
    Fsck {
        /// Directory of a ledger or backup [default: that of the home]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Copy the ledger, in use or not, to a new directory or to an earlier backup of it
    Backup {
        /// The directory; it will hold the log's key
        dir: PathBuf,
    },
    /// Put a backup in the place of a ledger that is gone; the backup is checked first
    Restore {
        /// The backup
        dir: PathBuf,
    },
    /// Witnesses of the ledger, and their cosignatures
    #[command(subcommand)]
    Witness(care::WitnessCommand),
    /// Make the package by which Fabric's peers find the contract: always the same bytes, so every organisation gets the
    /// same id
    PackageChaincode(chaincode::PackageArgs),
    /// Make a Fabric channel the ledger of this home: found the ledger there, or find it founded, and trust the channel from
    /// now on
    Join(join::JoinArgs),
}

/// Runs a command.
pub async fn run(context: &Context, command: LedgerCommand) -> Result<Exit, Failure> {
    match command {
        LedgerCommand::Fsck { dir } => care::check(context, dir.as_deref()),
        LedgerCommand::Backup { dir } => care::backup(context, &dir),
        LedgerCommand::Restore { dir } => care::restore(context, &dir),
        LedgerCommand::Witness(command) => care::witness(context, command),
        LedgerCommand::PackageChaincode(args) => chaincode::package(context, &args),
        LedgerCommand::Join(args) => join::join(context, &args).await,
        LedgerCommand::Log { from, limit } => {
            let client = context.client()?;
            let entries =
                client.ledger_range(from, limit.into()).await.map_err(|e| context.client_failure(e))?;
            log(context, from, &entries)?;
            more(context, &client, from, entries.len()).await
        }
        LedgerCommand::Head { witnesses, quorum, trust } => {
            let (client, demanded) = (context.client()?, demanded(&witnesses, quorum)?);
            let roots = context.roots(trust.as_deref())?;
            let (note, checkpoint) = remembered::head(context, &client, &roots).await?;
            let cosigned = demanded.verify(&note).map_err(|e| {
                Failure::refused("TOO_FEW_WITNESSES", "The checkpoint is not witnessed", e)
                    .hint("wait for the witnesses, or ask for the newest cosigned checkpoint: `mandate ledger witness list`")
            })?;
            let document = serde_json::json!({ "verified": true, "origin": checkpoint.origin,
                "size": checkpoint.size, "root": checkpoint.root, "cosigned": cosigned, "checkpoint": note });
            context.ui.show(&document, |style| {
                format!(
                    "{note}\n{} {} entries\n",
                    style.paint(Paint::Green, "signature verified:"),
                    checkpoint.size
                )
            })
        }
        LedgerCommand::Proof { position, trust } => {
            let (client, roots) = (context.client()?, context.roots(trust.as_deref())?);
            remembered::head(context, &client, &roots).await?;
            let proven = client.ledger_entry(position).await.map_err(|e| context.client_failure(e))?;
            let verified = proof::verify(&roots, &proven)?;
            let document = serde_json::json!({ "verified": true, "size": verified.checkpoint.size,
                "root": verified.checkpoint.root, "leaf": verified.leaf, "proven": proven });
            context.ui.show(&document, |style| render_proof(&verified, proven.proof.path.len(), style))
        }
    }
}

/// Whom the verifier believes.
fn demanded(keys: &[String], quorum: Option<usize>) -> Result<Witnesses, Failure> {
    let parse = |text: &String| {
        WitnessKey::parse(text).map_err(|e| {
            Failure::usage("WITNESS_KEY", "Not a witness's key", format!("{text}: {e}"))
                .hint("a key has the form name+id+key, with signature type 4")
        })
    };
    let keys: Vec<_> = keys.iter().map(parse).collect::<Result<_, _>>()?;
    if let Some(n) = quorum.filter(|n| !(1..=keys.len()).contains(n)) {
        let detail = format!("--quorum {n} of {} witnesses", keys.len());
        return Err(Failure::usage("USAGE", "Wrong usage", detail)
            .hint(format!("expected 1 to {}: as many as there are --witness", keys.len())));
    }
    Ok(Witnesses { quorum: quorum.unwrap_or(keys.len()), keys })
}

/// Says how to go on when the log is longer than what was shown.
async fn more(context: &Context, client: &Client, from: u64, shown: usize) -> Result<Exit, Failure> {
    let size = proof::claimed_size(&client.ledger_head().await.map_err(|e| context.client_failure(e))?);
    let next = from.saturating_add(shown as u64);
    if let Some(left) = size.map(|s| s.saturating_sub(next)).filter(|left| *left > 0) {
        context.ui.note(&format!("{left} more: --from {next}"));
    }
    Ok(Exit::Ok)
}

/// An entry as it can be shown: without its request when that is with somebody else.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Whole(Box<Entry>),
    Sealed(Box<SealedEntry>),
}

fn log(context: &Context, from: u64, entries: &[String]) -> Result<Exit, Failure> {
    let mut parsed = Vec::with_capacity(entries.len());
    for text in entries {
        let whole = serde_json::from_str(text).map(|entry| Shown::Whole(Box::new(entry)));
        let shown = whole.or_else(|e| {
            let sealed = serde_json::from_str(text).map(|entry| Shown::Sealed(Box::new(entry)));
            sealed.map_err(|_| {
                Failure::internal("ENTRY_FORMAT", format!("the orchestrator sent no ledger entry: {e}"))
            })
        })?;
        parsed.push(shown);
    }
    context.ui.show(&parsed, |style| render_log(from, &parsed, style))
}

fn render_log(from: u64, entries: &[Shown], style: Style) -> String {
    let mut table = Table::new(
        &[">ENTRY", "TIME", "REQUEST", "SUBJECT", "BY", "DECISION", "EVENT"],
        "no entries from there on",
    );
    for (number, shown) in (from..).zip(entries) {
        let (time, verdict, emitted) = match shown {
            Shown::Whole(e) => (e.time, &e.verdict, e.event.as_ref()),
            Shown::Sealed(e) => (e.time, &e.verdict, e.event.as_ref()),
        };
        let (kind, subject, by) = match shown {
            Shown::Whole(e) => {
                let (kind, subject) = describe(e);
                (kind, subject, signer(e))
            }
            Shown::Sealed(e) => ("elsewhere", e.request.short(), String::new()),
        };
        let decision = if verdict.approved {
            Cell::new(Paint::Green, "approved")
        } else {
            Cell::new(Paint::Red, verdict.code())
        };
        table.row([
            number.into(),
            Cell::new(Paint::Dim, time),
            kind.into(),
            Cell::new(Paint::Cyan, subject),
            by.into(),
            decision,
            event(emitted).into(),
        ]);
    }
    table.render(style)
}

/// What a request is and what it is about.
fn describe(entry: &Entry) -> (&'static str, String) {
    match Request::parse(&entry.request) {
        Err(_) => ("unknown", entry.request.payload_type.clone()),
        Ok(request) => {
            let subject = match &request {
                Request::Genesis(g) => g.ledger.clone(),
                Request::Package(p) => format!("{} {}", p.descriptor_id, p.version).trim_end().to_owned(),
                Request::AttestationKey(ak) => ak.site.clone(),
                Request::Intent(i) => format!("{} {}/{} ({})", i.action.name(), i.tenant, i.service, i.id),
                Request::Anchor(a) => format!("{} {}", a.operation_id, a.outcome),
                Request::Standing(g) => format!("{} for {} ({})", g.id, g.tenant, actions(&g.actions)),
                Request::Governance(g) => format!("{} ({})", change(&g.change), g.id),
            };
            (request.kind(), subject)
        }
    }
}

fn actions(actions: &std::collections::BTreeSet<String>) -> String {
    actions.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// A change of the rules, in a few words.
fn change(change: &Change) -> String {
    match change {
        Change::Policy { bundle, .. } => format!("policy {}", bundle.digest().short()),
        Change::Organisation { name, root: Some(_) } => format!("organisation {name}"),
        Change::Organisation { name, root: None } => format!("organisation {name} leaves"),
        Change::Revoke { what } => match what {
            Revocable::Intent { id } => format!("revoke intent {id}"),
            Revocable::StandingGrant { id } => format!("revoke standing grant {id}"),
            Revocable::Package { digest } => format!("revoke package {}", digest.short()),
            Revocable::AttestationKey { site } => format!("revoke key of site {site}"),
        },
    }
}

/// Who claims to have signed (the ledger has verified it; `proof` and `approval verify` do it again).
fn signer(entry: &Entry) -> String {
    let certificate = entry.request.signatures.first().map(|s| s.certificate.as_slice()).unwrap_or_default();
    claimed(certificate).map_or_else(|_| "?".to_owned(), |(org, name)| format!("{org}/{name}"))
}

fn event(emitted: Option<&Event>) -> String {
    match emitted {
        None => String::new(),
        Some(Event::IntentApproved { grant }) => format!("grant for {}", grant.ns_instance_id),
        Some(Event::EvidenceAnchored { bundle, .. }) => format!("evidence {}", bundle.short()),
        Some(Event::IntentRevoked { intent_id, .. }) => format!("intent {intent_id} revoked"),
        Some(Event::StandingGranted { grant }) => format!("standing grant {}", grant.id),
        Some(Event::StandingRevoked { id }) => format!("standing grant {id} revoked"),
        Some(Event::PolicyChanged { now, .. }) => format!("policy {}", now.short()),
        Some(Event::OrganisationChanged { name, root: Some(_) }) => format!("organisation {name}"),
        Some(Event::OrganisationChanged { name, root: None }) => format!("organisation {name} left"),
    }
}

fn render_proof(verified: &proof::Verified, path: usize, style: Style) -> String {
    let (kind, subject) = describe(&verified.entry);
    let mut table = Table::new(&["", "", ""], "");
    let channel = verified.channel.as_ref().map(|told| ("channel", told.clone()));
    let of_log = [
        ("checkpoint", format!("signed by log {}", verified.checkpoint.origin)),
        ("inclusion", format!("leaf {} of {}, {path} hashes", verified.index, verified.checkpoint.size)),
        ("entry", format!("{kind} {subject}, {}", verified.entry.time)),
    ];
    for (what, detail) in channel.into_iter().chain(of_log) {
        table.row([Cell::new(Paint::Green, "ok"), what.into(), detail.into()]);
    }
    format!(
        "{}\n{} here, from the trust roots alone\n",
        table.render(style),
        style.paint(Paint::Green, "verified")
    )
}
