//! `mandate intent …`: what a tenant does.

mod actions;

use std::path::{Path, PathBuf};

use actions::{HealArgs, IsolateArgs, MigrateArgs, RollbackArgs, UpdateArgs};
use clap::{Args, Subcommand, ValueEnum};
use ledger_contract::{
    Intent,
    intent::{
        API_VERSION, Deploy, Emergency, INTENT_PAYLOAD, IntentKind, MAX_INTENT_BYTES, PlacementHints, Scale,
        ScaleDirection, Sensitivity, Sla, VnfParams,
    },
};
use serde::Serialize;
use trust::{Digest, Envelope};

use super::{
    args::{self, MemberName, country, seconds},
    context::Context,
    cosign,
    failure::{Exit, Failure, chain},
    files,
    output::{Cell, Paint, Style, Table, duration},
    proof, verdict, watch,
};
use crate::views::{CommittedView, IntentView, OperationView, PackageView};

/// Most intents that `list` shows.
const MAX_LISTED: usize = 1000;

/// Commands on intents.
#[derive(Debug, Subcommand)]
pub enum IntentCommand {
    /// Write a new intent, to be signed
    #[command(subcommand)]
    New(NewIntent),
    /// Sign an intent (or add a signature to a signed one)
    Sign {
        /// The intent
        file: PathBuf,
        /// Who signs
        #[arg(long = "as", value_name = "ORG/NAME")]
        who: MemberName,
        /// Where to write the envelope [default: beside the intent, as .dsse.json]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Submit a signed intent; the policy decides
    Submit {
        /// The envelope that `sign` wrote
        file: PathBuf,
        /// Watch it being carried out, as `watch` does
        #[arg(long)]
        watch: bool,
        /// Stop watching after this long
        #[arg(long, value_name = "DURATION", value_parser = seconds, requires = "watch")]
        timeout: Option<u64>,
    },
    /// Show an intent and what became of it
    Status {
        /// Its id
        #[arg(value_parser = args::name)]
        id: String,
    },
    /// Follow an intent until it is closed and its evidence anchored
    Watch {
        /// Its id
        #[arg(value_parser = args::name)]
        id: String,
        /// Stop watching after this long
        #[arg(long, value_name = "DURATION", value_parser = seconds)]
        timeout: Option<u64>,
    },
    /// List the intents, newest first
    List {
        /// How many at most
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
}

/// New intents.
#[derive(Debug, Subcommand)]
pub enum NewIntent {
    /// Instantiate a network service
    Deploy(Box<DeployArgs>),
    /// Scale a member of a service
    Scale(ScaleArgs),
    /// Change the configuration of a service, or the version of its software
    Update(Box<UpdateArgs>),
    /// Bring instances back that are down, or replace some
    Heal(HealArgs),
    /// Move a service, or members of it, to another site: make before break
    Migrate(MigrateArgs),
    /// Cut off traffic, keep the processes, take a capture
    Isolate(IsolateArgs),
    /// Go back to a former revision; what is left is refused from then on
    Rollback(RollbackArgs),
    /// Terminate a service
    Terminate(CommonArgs),
}

/// What every intent has.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Name of the service, 1 to 32 of a-z 0-9 -
    #[arg(long, value_name = "NAME")]
    service: String,
    /// Tenant [default: the only one whose key is in the home directory]
    #[arg(long, value_name = "NAME", env = "MANDATE_TENANT")]
    tenant: Option<String>,
    /// Not to be decided or acted upon after this long
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = seconds)]
    expires_in: u64,
    /// Id, 8 to 64 of a-z 0-9 - [default: made of the time and a random number]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Not to begin before this intent has completed; may be repeated
    #[arg(long = "depends-on", value_name = "INTENT")]
    depends_on: Vec<String>,
    /// Break the glass: rules that the policy lets an emergency waive are waived, on record for ever
    #[arg(long, value_name = "REASON", value_parser = args::reason)]
    emergency: Option<String>,
    /// Where to write it [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Arguments of `intent new deploy`.
#[derive(Debug, Args)]
pub struct DeployArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Registered NSD package: its digest, or the NSD's id if only one is registered
    #[arg(long, value_name = "DIGEST|ID")]
    nsd: String,
    /// Least throughput, kbit/s
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = args::throughput_kbps)]
    throughput_kbps: u64,
    /// Highest 95th percentile of the round trip, µs
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = args::latency_us)]
    latency_p95_us: u64,
    /// Highest loss, parts per million
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = args::loss_ppm)]
    loss_ppm: u64,
    #[command(flatten)]
    placement: PlacementArgs,
    /// How sensitive the traffic is
    #[arg(long, value_enum, default_value_t = SensitivityArg::Internal)]
    sensitivity: SensitivityArg,
    /// How long the service may run
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = seconds)]
    lease: u64,
    /// Firewall rules, VIPs and weights by member (JSON, TOML or YAML, by the file's ending)
    #[arg(long, value_name = "FILE")]
    params: Option<PathBuf>,
}

/// Arguments of `intent new scale`.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Member VNF index
    #[arg(long, value_name = "INDEX", value_parser = args::name)]
    member: String,
    /// Scaling aspect of its VNFD
    #[arg(long, value_name = "ID", value_parser = args::name)]
    aspect: String,
    /// Steps of the aspect
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(args::MAX_STEPS)))]
    steps: u32,
    /// Scale in instead of out
    #[arg(long = "in")]
    scale_in: bool,
}

/// [`Sensitivity`] on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum SensitivityArg {
    Public,
    Internal,
    Confidential,
    Restricted,
}

impl From<SensitivityArg> for Sensitivity {
    fn from(it: SensitivityArg) -> Self {
        match it {
            SensitivityArg::Public => Self::Public,
            SensitivityArg::Internal => Self::Internal,
            SensitivityArg::Confidential => Self::Confidential,
            SensitivityArg::Restricted => Self::Restricted,
        }
    }
}

/// Runs a command.
pub async fn run(context: &Context, command: IntentCommand) -> Result<Exit, Failure> {
    match command {
        IntentCommand::New(NewIntent::Deploy(args)) => deploy(context, *args).await,
        IntentCommand::New(NewIntent::Scale(args)) => scale(context, args),
        IntentCommand::New(NewIntent::Update(args)) => actions::update(context, *args).await,
        IntentCommand::New(NewIntent::Heal(args)) => actions::heal(context, args),
        IntentCommand::New(NewIntent::Migrate(args)) => actions::migrate(context, args),
        IntentCommand::New(NewIntent::Isolate(args)) => actions::isolate(context, args),
        IntentCommand::New(NewIntent::Rollback(args)) => actions::rollback(context, args).await,
        IntentCommand::New(NewIntent::Terminate(args)) => write(context, &args, IntentKind::Terminate {}),
        IntentCommand::Sign { file, who, output } => sign(context, &file, &who, output),
        IntentCommand::Submit { file, watch, timeout } => submit(context, &file, watch, timeout).await,
        IntentCommand::Status { id } => status(context, &id).await,
        IntentCommand::Watch { id, timeout } => watch::intent(context, &id, timeout).await,
        IntentCommand::List { limit } => list(context, limit.into()).await,
    }
}

/// Where something may run.
#[derive(Debug, Args)]
struct PlacementArgs {
    /// Only at this site; may be repeated [default: the best]
    #[arg(long = "site", value_name = "NAME")]
    sites: Vec<String>,
    /// Only at sites of this country (ISO 3166-1 alpha-2); may be repeated
    #[arg(long = "jurisdiction", value_name = "CC", value_parser = country)]
    jurisdictions: Vec<String>,
    /// Highest latency to the site, µs
    #[arg(long, value_name = "N", value_parser = args::latency_us)]
    max_site_latency_us: Option<u64>,
}

impl From<PlacementArgs> for PlacementHints {
    fn from(args: PlacementArgs) -> Self {
        let PlacementArgs { sites, jurisdictions, max_site_latency_us } = args;
        Self { sites, jurisdictions, max_site_latency_us }
    }
}

// ---- new

async fn deploy(context: &Context, args: DeployArgs) -> Result<Exit, Failure> {
    let vnf_params = args.params.as_deref().map_or_else(|| Ok(std::collections::BTreeMap::new()), params)?;
    let nsd_package = find_nsd(context, &args.nsd).await?;
    let deploy = Deploy {
        nsd_package,
        sla: Sla {
            throughput_kbps: args.throughput_kbps,
            latency_p95_us: args.latency_p95_us,
            loss_ppm: args.loss_ppm,
        },
        placement: args.placement.into(),
        sensitivity: args.sensitivity.into(),
        lease_s: args.lease,
        vnf_params,
    };
    write(context, &args.common, IntentKind::Deploy(Box::new(deploy)))
}

fn scale(context: &Context, args: ScaleArgs) -> Result<Exit, Failure> {
    let direction = if args.scale_in { ScaleDirection::ScaleIn } else { ScaleDirection::ScaleOut };
    let scale = Scale { member: args.member, aspect: args.aspect, direction, steps: args.steps };
    write(context, &args.common, IntentKind::Scale(scale))
}

type Params = std::collections::BTreeMap<String, VnfParams>;

fn params(path: &Path) -> Result<Params, Failure> {
    let text = files::text(path, MAX_INTENT_BYTES as u64)?;
    let bad = |e: &dyn std::fmt::Display| {
        Failure::usage("PARAMS", "The parameters cannot be read", format!("{}: {e}", path.display())).hint(
            "a map from member VNF index to rules, vips and weights, for example vlb: {weights: [1, 2]}",
        )
    };
    match path.extension().and_then(|e| e.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|e| bad(&e)),
        Some("toml") => toml::from_str(&text).map_err(|e| bad(&e)),
        Some("yaml" | "yml") => serde_saphyr::from_str(&text).map_err(|e| bad(&e)),
        _ => Err(bad(&"the file's name must end in .json, .toml, .yaml or .yml")),
    }
}

/// By digest as it is; by id the one that is registered.
async fn find_nsd(context: &Context, id: &str) -> Result<Digest, Failure> {
    if let Ok(digest) = id.parse::<Digest>() {
        return Ok(digest);
    }
    let packages = context.client()?.packages().await.map_err(|e| context.client_failure(e))?;
    choose_nsd(&packages, id)
}

/// The one registered NSD package of that id; several are the caller's to choose from.
fn choose_nsd(packages: &[PackageView], id: &str) -> Result<Digest, Failure> {
    let is_nsd = |p: &&PackageView| {
        p.record.kind == ledger_contract::records::PackageKind::Ns && p.descriptor_id == id
    };
    let found: Vec<&PackageView> = packages.iter().filter(is_nsd).filter(|p| p.registered).collect();
    match found[..] {
        [one] => Ok(one.digest),
        [] if packages.iter().any(|p| is_nsd(&p)) => Err(Failure::refused(
            "NOT_REGISTERED",
            "The NSD is not registered",
            format!("`{id}` is stored only"),
        )
        .hint("mandate package push PACKAGE --as ORG/NAME")),
        [] => {
            Err(Failure::usage("NOT_FOUND", "There is no such NSD", format!("no NSD `{id}` is registered"))
                .hint("mandate package list"))
        }
        _ => {
            let digests: Vec<_> = found.iter().map(|p| format!("{} ({})", p.digest, p.version)).collect();
            let detail = format!("NSD `{id}` is registered {} times: {}", found.len(), digests.join(", "));
            Err(Failure::usage("AMBIGUOUS", "Which NSD?", detail)
                .hint("name it by its digest: --nsd sha256:…"))
        }
    }
}

fn write(context: &Context, args: &CommonArgs, action: IntentKind) -> Result<Exit, Failure> {
    let now = context.now()?;
    let intent = Intent {
        api_version: API_VERSION.into(),
        id: args.id.clone().map_or_else(|| new_id(now.0), Ok)?,
        tenant: tenant(context, args.tenant.as_deref())?,
        service: args.service.clone(),
        not_after: now.plus(args.expires_in),
        depends_on: args.depends_on.clone(),
        emergency: args.emergency.clone().map(|reason| Emergency { reason }),
        standing: None,
        action,
    };
    check(&intent)?;
    let mut bytes = serde_json::to_vec_pretty(&intent).map_err(|e| Failure::internal("JSON", e))?;
    bytes.push(b'\n');
    let Some(path) = args.output.as_deref().filter(|p| *p != Path::new("-")) else {
        context.ui.note(&format!("intent {}", intent.id));
        context.ui.bytes(&bytes)?;
        return Ok(Exit::Ok);
    };
    files::write(path, &bytes)?;
    let document = serde_json::json!({ "id": intent.id, "file": path, "digest": Digest::of(&bytes) });
    context.ui.show(&document, |style| {
        format!(
            "{} intent {} to {}\nnext: mandate intent sign {} --as {}/tenant\n",
            style.paint(Paint::Green, "wrote"),
            style.paint(Paint::Cyan, &intent.id),
            path.display(),
            path.display(),
            intent.tenant
        )
    })
}

/// What the policy would refuse anyway, said at once.
fn check(intent: &Intent) -> Result<(), Failure> {
    let legal = |text: &str, range: std::ops::RangeInclusive<usize>| {
        let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        range.contains(&text.len()) && text.chars().all(ok)
    };
    if !legal(&intent.id, 8..=64) {
        return Err(Failure::usage("BAD_ID", "Wrong id", format!("`{}`: 8 to 64 of a-z 0-9 -", intent.id))
            .hint("leave --id away: one is made"));
    }
    if !legal(&intent.service, 1..=32) {
        let detail = format!("`{}`: 1 to 32 of a-z 0-9 -", intent.service);
        return Err(
            Failure::usage("BAD_SERVICE", "Wrong service name", detail).hint("for example --service edge-1")
        );
    }
    formed(intent).map_err(|f| f.hint(format!("mandate intent new {} --help", intent.action.name())))
}

/// The ledger refuses what is not well formed, whoever signs it: it is not written and not signed.
fn formed(intent: &Intent) -> Result<(), Failure> {
    match intent.malformed() {
        None => Ok(()),
        Some(detail) => Err(Failure::usage("INVALID_INTENT", "The intent is not well formed", detail)
            .hint("make it again with `mandate intent new`")),
    }
}

/// Sorts by time, and two of the same second differ: `i-<seconds in hex>-<64 random bits in hex>`.
fn new_id(now_s: u64) -> Result<String, Failure> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| Failure::internal("RANDOM", e))?;
    Ok(format!("i-{now_s:08x}-{}", hex::encode(random)))
}

/// The tenant named, or the only one whose key is here.
fn tenant(context: &Context, named: Option<&str>) -> Result<String, Failure> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    let members = files::members(&context.home).unwrap_or_default();
    let tenants: Vec<&str> = members.iter().filter_map(|m| m.strip_suffix("/tenant")).collect();
    match tenants[..] {
        [one] => Ok(one.to_owned()),
        [] => Err(Failure::usage("TENANT", "Which tenant?", "no tenant's key is in the home directory")
            .hint("name it with --tenant NAME")),
        _ => Err(Failure::usage(
            "TENANT",
            "Which tenant?",
            format!("there are keys of {}", tenants.join(", ")),
        )
        .hint("name one with --tenant NAME")),
    }
}

// ---- sign and submit

fn sign(context: &Context, file: &Path, who: &MemberName, output: Option<PathBuf>) -> Result<Exit, Failure> {
    let signer = context.signer(who)?;
    let bytes = files::read(file, files::MAX_DOCUMENT_BYTES)?;
    let (envelope, intent) = match Envelope::from_json(&bytes) {
        Ok(mut envelope) => {
            let intent = parse(file, &envelope.payload)?;
            cosign::once(file, &envelope, who, &signer)?;
            envelope.cosign(&signer).map_err(|e| Failure::usage("SIGN", "Cannot sign", chain(&e)))?;
            (envelope, intent)
        }
        Err(_) => {
            let intent = parse(file, &bytes)?;
            formed(&intent)?;
            // The bytes of the file are what is signed, not what we make of them.
            let signed = Envelope::sign(INTENT_PAYLOAD, bytes, &[&signer]);
            (signed.map_err(|e| Failure::internal("SIGN", chain(&e)))?, intent)
        }
    };
    let path = output.unwrap_or_else(|| files::beside(file, "dsse.json"));
    let mut json = envelope.to_json();
    json.push(b'\n');
    files::write(&path, &json)?;
    if path == Path::new("-") {
        return Ok(Exit::Ok);
    }
    let document =
        serde_json::json!({ "id": intent.id, "file": path, "signatures": envelope.signatures.len() });
    context.ui.show(&document, |style| {
        format!(
            "{} intent {} as {who}: {}\nnext: mandate intent submit {} --watch\n",
            style.paint(Paint::Green, "signed"),
            style.paint(Paint::Cyan, &intent.id),
            path.display(),
            path.display()
        )
    })
}

/// An intent, from its bytes.
pub fn parse(file: &Path, payload: &[u8]) -> Result<Intent, Failure> {
    if payload.len() > MAX_INTENT_BYTES {
        let detail = format!("{}: {} bytes; at most {MAX_INTENT_BYTES}", file.display(), payload.len());
        return Err(Failure::usage("TOO_LARGE", "The intent is too large", detail)
            .hint("make one with `mandate intent new`"));
    }
    serde_json::from_slice(payload).map_err(|e| {
        Failure::usage("NOT_AN_INTENT", "Not an intent", format!("{}: {e}", file.display()))
            .hint("make one with `mandate intent new`")
    })
}

async fn submit(context: &Context, file: &Path, watch: bool, timeout: Option<u64>) -> Result<Exit, Failure> {
    let bytes = files::read(file, files::MAX_DOCUMENT_BYTES)?;
    let envelope = Envelope::from_json(&bytes).map_err(|e| {
        Failure::usage("NOT_AN_ENVELOPE", "Not a signed intent", format!("{}: {}", file.display(), chain(&e)))
            .hint(format!("sign it first: mandate intent sign {} --as ORG/NAME", file.display()))
    })?;
    if envelope.payload_type != INTENT_PAYLOAD {
        let detail = format!("{}: payload type `{}`", file.display(), envelope.payload_type);
        return Err(Failure::usage("NOT_AN_INTENT", "Not a signed intent", detail)
            .hint("submit what `mandate intent sign` wrote"));
    }
    let id = parse(file, &envelope.payload)?.id;
    let (committed, decided_before) = decided(context, &envelope).await?;
    if !watch || !committed.verdict.approved {
        return submitted(context, &id, decided_before, &committed);
    }
    context.ui.note(verdict::render_committed(&id, &committed, context.ui.err).trim_end());
    watch::intent(context, &id, timeout).await
}

/// The ledger's decision on any signed request, and whether it was made before.
pub async fn decided(context: &Context, envelope: &Envelope) -> Result<(CommittedView, bool), Failure> {
    let client = context.client()?;
    let before = client.ledger_head().await.map_err(|e| context.client_failure(e))?;
    let committed = client.submit(envelope).await.map_err(|e| context.client_failure(e))?;
    // The same envelope has the same answer: its entry was there before we asked.
    let decided_before = proof::claimed_size(&before).is_some_and(|size| committed.position < size);
    if decided_before {
        let at = format!("ledger entry {} of {}", committed.position, committed.time);
        context.ui.note(&format!("decided before, as {at}: nothing new was done"));
    }
    Ok((committed, decided_before))
}

/// What `submit --json` answers: the intent and the ledger's decision, flat.
#[derive(Serialize)]
struct Submitted<'a> {
    id: &'a str,
    /// Was this very envelope decided before? Then nothing new was done.
    decided_before: bool,
    #[serde(flatten)]
    committed: &'a CommittedView,
}

fn submitted(
    context: &Context,
    id: &str,
    decided_before: bool,
    committed: &CommittedView,
) -> Result<Exit, Failure> {
    let document = Submitted { id, decided_before, committed };
    let approved = committed.verdict.approved;
    context.ui.show(&document, |style| {
        let next = if approved { format!("next: mandate intent watch {id}\n") } else { String::new() };
        format!("{}{next}", verdict::render_committed(id, committed, style))
    })?;
    Ok(if approved { Exit::Ok } else { Exit::Refused })
}

// ---- status and list

async fn status(context: &Context, id: &str) -> Result<Exit, Failure> {
    let intent = fetch(context, id).await?;
    context.ui.show(&intent, |style| render_status(&intent, style))
}

/// One intent.
pub async fn fetch(context: &Context, id: &str) -> Result<IntentView, Failure> {
    context.client()?.intent(id).await.map_err(|e| context.client_failure(e))
}

fn render_status(intent: &IntentView, style: Style) -> String {
    let mut out = format!(
        "{} {} {}/{}, ledger entry {}\n\n{}",
        style.paint(Paint::Cyan, &intent.id),
        intent.action,
        intent.tenant,
        intent.service,
        intent.position,
        verdict::render(&intent.verdict, style)
    );
    if let Some(op) = &intent.operation {
        out.push_str(&format!("\n{}", operations(std::slice::from_ref(op)).render(style)));
        if let Some(problem) = &op.problem {
            out.push_str(&format!(
                "{} {}\n",
                style.paint(Paint::Red, "problem:"),
                style.paint(Paint::Plain, problem)
            ));
        }
    }
    out
}

/// How the state of an operation looks.
#[must_use]
pub fn state(state: &str) -> Cell {
    let paint = match state {
        "COMPLETED" | "INSTANTIATED" => Paint::Green,
        "FAILED" | "FAILED_TEMP" | "BROKEN" | "ISOLATED" => Paint::Red,
        "ROLLED_BACK" | "ROLLING_BACK" => Paint::Yellow,
        "STARTING" | "PROCESSING" => Paint::Cyan,
        "NOT_INSTANTIATED" => Paint::Plain,
        // What drift is called; and what we do not know is to be looked at.
        _ => Paint::Yellow,
    };
    Cell::new(paint, state)
}

/// A table of operations.
#[must_use]
pub fn operations(operations: &[OperationView]) -> Table {
    let mut table = Table::new(
        &["OPERATION", "ACTION", "STATE", "SITE", ">STEPS", ">TOOK", "EVIDENCE", "ACCEPTED"],
        "no operation yet",
    );
    for op in operations {
        table.row([
            Cell::new(Paint::Cyan, &op.id),
            (&op.action).into(),
            state(&op.state),
            op.site.as_deref().unwrap_or("-").into(),
            format!("{}/{}", op.progress.0, op.progress.1).into(),
            op.duration_ms.map_or_else(|| "-".into(), |ms| duration(ms).into()),
            if op.anchored { Cell::new(Paint::Green, "anchored") } else { "-".into() },
            Cell::new(Paint::Dim, op.accepted_at),
        ]);
    }
    table
}

async fn list(context: &Context, limit: usize) -> Result<Exit, Failure> {
    let limit = limit.min(MAX_LISTED);
    let intents = context.client()?.intents(limit).await.map_err(|e| context.client_failure(e))?;
    context.ui.show(&intents, |style| render_list(&intents, style))
}

fn render_list(intents: &[IntentView], style: Style) -> String {
    let mut table = Table::new(
        &["INTENT", "ACTION", "SERVICE", ">ENTRY", "DECISION", "OPERATION", "STATE"],
        "no intents yet; make one with `mandate intent new`",
    );
    for i in intents {
        let decision = if i.verdict.approved {
            Cell::new(Paint::Green, "approved")
        } else {
            Cell::new(Paint::Red, i.verdict.code())
        };
        let op = i.operation.as_ref();
        table.row([
            Cell::new(Paint::Cyan, &i.id),
            (&i.action).into(),
            format!("{}/{}", i.tenant, i.service).into(),
            i.position.into(),
            decision,
            op.map_or_else(|| "-".into(), |o| (&o.id).into()),
            op.map_or_else(|| "-".into(), |o| state(&o.state)),
        ]);
    }
    table.render(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_legal_and_differ() {
        let (a, b) = (new_id(1_800_000_000).unwrap(), new_id(1_800_000_000).unwrap());
        assert_ne!(a, b);
        assert!((8..=64).contains(&a.len()), "{a}");
        assert!(a.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{a}");
        assert!(new_id(1_900_000_000).unwrap() > a, "later ids sort later");
    }

    #[test]
    fn parameters_read_the_same_from_three_formats() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            (
                "p.json",
                r#"{"vfw":{"rules":[{"id":"web","from":"outside","action":"allow","protocol":6,"destination_ports":"80"}]},"vlb":{"weights":[1,2]}}"#,
            ),
            (
                "p.toml",
                "[vlb]\nweights = [1, 2]\n[[vfw.rules]]\nid = \"web\"\nfrom = \"outside\"\naction = \"allow\"\nprotocol = 6\ndestination_ports = \"80\"\n",
            ),
            (
                "p.yaml",
                "vfw:\n  rules:\n    - {id: web, from: outside, action: allow, protocol: 6, destination_ports: \"80\"}\nvlb:\n  weights: [1, 2]\n",
            ),
        ];
        let read: Vec<Params> = files
            .iter()
            .map(|(name, text)| {
                let path = dir.path().join(name);
                std::fs::write(&path, text).unwrap();
                params(&path).unwrap()
            })
            .collect();
        assert_eq!(read[0]["vlb"].weights, [1, 2]);
        assert!(read.iter().all(|p| *p == read[0]), "{read:?}");
        let unknown = dir.path().join("q.json");
        std::fs::write(&unknown, r#"{"vfw":{"rulez":[]}}"#).unwrap();
        assert_eq!(params(&unknown).unwrap_err().problem.code, "PARAMS");
    }
}
