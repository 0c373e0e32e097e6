//! `mandate standing …`: what the orchestrator may do by itself, granted in advance.

use std::path::PathBuf;

use clap::Subcommand;
use ledger_contract::{
    records::{STANDING_PAYLOAD, StandingGrant},
    standing::{GRANTABLE, MAX_BUDGET},
    state::StandingRecord,
};
use trust::Envelope;

use super::{
    args::{self, MemberName},
    context::Context,
    cosign,
    failure::{Exit, Failure, chain},
    output::{Cell, Paint, Style, Table, span},
    policy,
};

/// Commands on standing grants.
#[derive(Debug, Subcommand)]
pub enum StandingCommand {
    /// Make and sign a standing grant
    Grant(GrantArgs),
    /// List what was granted, and what of it was taken back
    List,
    /// Take one back: writes the change for its signatures
    Revoke {
        /// Its id
        id: String,
        #[command(flatten)]
        common: super::governance::ChangeArgs,
    },
}

/// What `mandate standing grant` takes.
#[derive(Debug, clap::Args)]
pub struct GrantArgs {
    /// Tenant whose services
    #[arg(long, value_name = "NAME", value_parser = args::name)]
    tenant: String,
    /// Only these services; none: all of the tenant's
    #[arg(long = "service", value_name = "SERVICE")]
    services: Vec<String>,
    /// heal, isolate, terminate (at the end of the lease)
    #[arg(long = "action", value_name = "ACTION", required = true, value_parser = GRANTABLE, hide_possible_values = true)]
    actions: Vec<String>,
    /// Most operations on one service within the window
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_BUDGET)))]
    budget: u32,
    /// Window of the budget
    #[arg(long, default_value = "1h", value_parser = args::seconds, value_name = "DURATION")]
    window: u64,
    /// Least time between two operations on one service
    #[arg(long, default_value = "60s", value_parser = args::seconds, value_name = "DURATION")]
    cooldown: u64,
    /// How long it is good
    #[arg(long, default_value = "30d", value_parser = args::seconds, value_name = "DURATION")]
    valid_for: u64,
    /// As whom: ORG/NAME of the tenant's or the operator's identity
    #[arg(long = "as", value_name = "ORG/NAME")]
    who: MemberName,
    /// Where to write it
    #[arg(short, long, value_name = "FILE", default_value = "standing.dsse.json")]
    output: PathBuf,
}

/// Runs a command.
pub async fn run(context: &Context, command: StandingCommand) -> Result<Exit, Failure> {
    match command {
        StandingCommand::Grant(args) => grant(context, args),
        StandingCommand::List => list(context).await,
        StandingCommand::Revoke { id, common } => {
            let what = ledger_contract::records::Revocable::StandingGrant { id };
            super::governance::propose(context, &common, ledger_contract::records::Change::Revoke { what })
        }
    }
}

fn grant(context: &Context, args: GrantArgs) -> Result<Exit, Failure> {
    let now = context.now()?;
    let grant = StandingGrant {
        id: super::governance::new_id("standing", now)?,
        tenant: args.tenant,
        services: args.services,
        actions: args.actions.into_iter().collect(),
        budget: args.budget,
        window_s: args.window,
        cooldown_s: args.cooldown,
        not_before: now,
        not_after: now.plus(args.valid_for),
    };
    let payload = serde_json::to_vec(&grant).map_err(|e| Failure::internal("ENCODE", e))?;
    let signer = context.signer(&args.who)?;
    let envelope = Envelope::sign(STANDING_PAYLOAD, payload, &[&signer])
        .map_err(|e| Failure::internal("SIGN", chain(&e)))?;
    cosign::write(&args.output, &envelope)?;
    let file = args.output.display();
    let document = serde_json::json!({ "id": grant.id, "file": args.output });
    context.ui.show(&document, |style| {
        format!(
            "{} {} as {}: {file}\nnext: mandate governance submit {file}\n",
            style.paint(Paint::Green, "signed"),
            style.paint(Paint::Cyan, &grant.id),
            args.who
        )
    })
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let history = policy::history(context, u64::MAX).await?.history;
    let records: Vec<StandingRecord> =
        history.state("standing/").filter_map(|(_, v)| serde_json::from_slice(v).ok()).collect();
    let now = context.now()?;
    context.ui.show(&records, |style| render(&records, now, style))
}

fn render(records: &[StandingRecord], now: trust::UnixTime, style: Style) -> String {
    let mut table = Table::new(
        &["ID", "TENANT", "SERVICES", "ACTIONS", ">BUDGET", "GOOD TO", "STATE"],
        "nothing was granted; see `mandate standing grant --help`",
    );
    for r in records {
        let g = &r.grant;
        let services = if g.services.is_empty() { "all".to_owned() } else { g.services.join(" ") };
        let state = match r.revoked {
            None if g.not_after < now => Cell::new(Paint::Dim, "ended"),
            None => Cell::new(Paint::Green, "good"),
            Some(at) => Cell::new(Paint::Red, format!("taken back at {at}")),
        };
        table.row([
            Cell::new(Paint::Cyan, &g.id),
            g.tenant.clone().into(),
            services.into(),
            g.actions.iter().cloned().collect::<Vec<_>>().join(" ").into(),
            format!("{} in {}", g.budget, span(g.window_s)).into(),
            g.not_after.into(),
            state,
        ]);
    }
    table.render(style)
}
