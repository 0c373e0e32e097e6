//! `mandate intent new update | heal | migrate | isolate | rollback`: what is done to a service that runs.

use std::{path::PathBuf, str::FromStr};

use clap::Args;
use ledger_contract::intent::{
    Heal, Intent, IntentKind, Isolate, MAX_CAPTURE_MS, Migrate, Rollback, Sla, Target, Update,
};

use super::{CommonArgs, Params, PlacementArgs, find_nsd, params, seconds, write};
use crate::cli::{
    args::{latency_us, loss_ppm, reason, throughput_kbps},
    context::Context,
    failure::{Exit, Failure},
};

/// `MEMBER/VDU/N`.
#[derive(Debug, Clone)]
pub struct TargetArg(Target);

impl FromStr for TargetArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected MEMBER/VDU/NUMBER, as `mandate ns show` lists instances".to_owned();
        let [member, vdu, index] = text.split('/').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        if member.is_empty() || vdu.is_empty() {
            return Err(wrong());
        }
        let index = index.parse().map_err(|_| wrong())?;
        Ok(Self(Target { member: member.to_owned(), vdu: vdu.to_owned(), index }))
    }
}

fn targets(given: Vec<TargetArg>) -> Vec<Target> {
    given.into_iter().map(|t| t.0).collect()
}

/// Arguments of `intent new update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Registered NSD package: its digest, or the NSD's id if only one is registered
    #[arg(long, value_name = "DIGEST|ID")]
    nsd: String,
    /// The whole configuration: firewall rules, VIPs and weights by member (JSON, TOML or YAML)
    #[arg(long, value_name = "FILE")]
    params: Option<PathBuf>,
    /// Least throughput from now on, kbit/s
    #[arg(long, value_name = "N", requires_all = ["latency_p95_us", "loss_ppm"], value_parser = throughput_kbps)]
    throughput_kbps: Option<u64>,
    /// Highest 95th percentile of the round trip from now on, µs
    #[arg(long, value_name = "N", requires = "throughput_kbps", value_parser = latency_us)]
    latency_p95_us: Option<u64>,
    /// Highest loss from now on, parts per million
    #[arg(long, value_name = "N", requires = "throughput_kbps", value_parser = loss_ppm)]
    loss_ppm: Option<u64>,
    /// A new lease, from the approval on [default: as before]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    lease: Option<u64>,
}

/// Arguments of `intent new heal`.
#[derive(Debug, Args)]
pub struct HealArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Replace this instance (MEMBER/VDU/NUMBER); may be repeated [default: whatever is not as it should be]
    #[arg(long = "target", value_name = "INSTANCE")]
    targets: Vec<TargetArg>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    cause: String,
}

/// Arguments of `intent new migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Move this member only; may be repeated [default: all]
    #[arg(long = "member", value_name = "INDEX")]
    members: Vec<String>,
    #[command(flatten)]
    placement: PlacementArgs,
}

/// Arguments of `intent new isolate`.
#[derive(Debug, Args)]
pub struct IsolateArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Cut off this instance only (MEMBER/VDU/NUMBER); may be repeated [default: all]
    #[arg(long = "target", value_name = "INSTANCE")]
    targets: Vec<TargetArg>,
    /// Capture its traffic for so long before, ms; 0: no capture
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_CAPTURE_MS)))]
    capture_ms: u32,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
}

/// Arguments of `intent new rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// The intent (deploy, update or rollback) that made the revision to go back to
    #[arg(long, value_name = "INTENT")]
    to: String,
    /// What is wrong with the present revision, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
}

pub(super) async fn update(context: &Context, args: UpdateArgs) -> Result<Exit, Failure> {
    let vnf_params = args.params.as_deref().map_or_else(|| Ok(Params::new()), params)?;
    let sla = match (args.throughput_kbps, args.latency_p95_us, args.loss_ppm) {
        (Some(throughput_kbps), Some(latency_p95_us), Some(loss_ppm)) => {
            Some(Sla { throughput_kbps, latency_p95_us, loss_ppm })
        }
        _ => None,
    };
    let nsd_package = find_nsd(context, &args.nsd).await?;
    let update = Update { nsd_package, sla, lease_s: args.lease, vnf_params };
    write(context, &args.common, IntentKind::Update(Box::new(update)))
}

pub(super) fn heal(context: &Context, args: HealArgs) -> Result<Exit, Failure> {
    let heal = Heal { targets: targets(args.targets), cause: args.cause };
    write(context, &args.common, IntentKind::Heal(heal))
}

pub(super) fn migrate(context: &Context, args: MigrateArgs) -> Result<Exit, Failure> {
    let migrate = Migrate { members: args.members, placement: args.placement.into() };
    write(context, &args.common, IntentKind::Migrate(migrate))
}

pub(super) fn isolate(context: &Context, args: IsolateArgs) -> Result<Exit, Failure> {
    let isolate =
        Isolate { targets: targets(args.targets), capture_ms: args.capture_ms, reason: args.reason };
    write(context, &args.common, IntentKind::Isolate(isolate))
}

/// The revision is what that intent asked for: it is read from the ledger.
pub(super) async fn rollback(context: &Context, args: RollbackArgs) -> Result<Exit, Failure> {
    let client = context.client()?;
    let seen = client.intent(&args.to).await.map_err(|e| context.client_failure(e))?;
    let proven = client.ledger_entry(seen.position).await.map_err(|e| context.client_failure(e))?;
    let unreadable = |e: serde_json::Error| Failure::internal("LEDGER_ENTRY", e);
    let entry: ledger_contract::records::Entry = serde_json::from_str(&proven.entry).map_err(unreadable)?;
    let intent: Intent = serde_json::from_slice(&entry.request.payload).map_err(unreadable)?;
    let Some((nsd_package, vnf_params)) = intent.action.names() else {
        let detail = format!("`{}` is a {}: it made no revision", args.to, intent.action.name());
        return Err(Failure::usage("NO_REVISION", "There is nothing to go back to", detail)
            .hint("name a deploy, an update or a rollback of the service: mandate intent list"));
    };
    let rollback = Rollback { to: args.to, nsd_package, vnf_params: vnf_params.clone(), reason: args.reason };
    write(context, &args.common, IntentKind::Rollback(Box::new(rollback)))
}
