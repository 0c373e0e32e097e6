//! The command line: parsing, one module per noun, and how a command ends.
//!
//! Nothing here decides anything about the infrastructure: it signs and verifies locally, asks `mandate serve` over
//! its socket, and shows. Private keys never leave the process that was asked to sign. Tests: beside each module,
//! `tests/cli.rs` (the built binary), `tests/init.rs`.

mod approval;
mod args;
mod context;
mod cosign;
mod drift;
mod evidence;
mod failure;
mod files;
mod governance;
mod init;
mod intent;
mod ledger;
mod lint;
mod meta;
mod ns;
mod openstack;
mod operation;
mod output;
mod package;
mod plan;
mod policy;
mod progress;
mod proof;
mod scan;
mod serve;
mod site;
mod standing;
mod status;
mod timeline;
mod top;
mod verdict;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::{
    ColorChoice, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum as _,
    builder::styling,
};

pub use failure::{Exit, Failure};
pub use output::{ColorWhen, Ui};

use context::Context;

const STYLES: styling::Styles = styling::Styles::styled()
    .header(styling::AnsiColor::Green.on_default().bold())
    .usage(styling::AnsiColor::Green.on_default().bold())
    .literal(styling::AnsiColor::Cyan.on_default().bold())
    .placeholder(styling::AnsiColor::Cyan.on_default());

const AFTER_HELP: &str = "\
A first deployment (packages are made with `mandate package pack` and `sign`):
  mandate init                  # a home: identities, ledger, journal
  mandate serve                 # the orchestrator, in a terminal of its own
  mandate package push vfw_vnf.tar.gz --as provider/provider
  mandate package push vlb_vnf.tar.gz --as provider/provider
  mandate package push secure_edge_ns.tar.gz --as provider/provider
  mandate intent new deploy --service edge --nsd secure_edge_ns \\
      --params edge.params.yaml -o edge.json    # rules, VIPs and weights
  mandate intent sign edge.json --as tenant/tenant
  mandate intent submit edge.dsse.json --watch  # the policy decides
  mandate ns timeline tenant/edge               # and where the evidence is
  mandate evidence export tenant/edge -o edge.jsonl
  mandate evidence verify edge.jsonl            # offline, with trust.json alone";

/// Ledger-gated NFV orchestration: nothing changes without a signed, approved intent, and everything that was done
/// comes back as evidence that anybody can verify.
#[derive(Debug, Parser)]
#[command(
    name = "mandate",
    version,
    styles = STYLES,
    subcommand_required = true,
    arg_required_else_help = true,
    propagate_version = true,
    after_help = failure::EXIT_CODES,
    after_long_help = const_format(),
    max_term_width = 110
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

fn const_format() -> String {
    format!("{AFTER_HELP}\n\n{}", failure::EXIT_CODES)
}

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Home directory [default: /var/lib/mandate for root, else ~/.local/share/mandate]
    #[arg(long, global = true, env = "MANDATE_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// Socket of `mandate serve` [default: run/mandate.sock in the home directory]
    #[arg(long, global = true, env = "MANDATE_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// `mandate serve` on another machine, over mutual TLS: https://HOST:PORT; needs --client
    #[arg(long, global = true, env = "MANDATE_URL", value_name = "URL", conflicts_with = "socket", value_parser = args::url)]
    url: Option<String>,
    /// Whose certificate to connect with
    #[arg(long, global = true, env = "MANDATE_CLIENT", value_name = "ORG/NAME")]
    client: Option<args::MemberName>,
    /// Answer with one JSON document on stdout; errors as a problem document on stderr
    #[arg(long, global = true)]
    json: bool,
    /// When to use colour (NO_COLOR is honoured)
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    color: ColorWhen,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a home directory: identities, trust roots, ledger, journal, configuration
    Init(init::InitArgs),
    /// Run the orchestrator
    Serve(serve::ServeArgs),
    /// Lint, pack, sign, verify and register packages
    #[command(subcommand)]
    Package(package::PackageCommand),
    /// Make, sign, submit and follow intents
    #[command(subcommand)]
    Intent(intent::IntentCommand),
    /// Show what would be done about an intent if it were approved now
    Plan(plan::PlanArgs),
    /// Export, verify and deliver approvals by hand
    #[command(subcommand)]
    Approval(approval::ApprovalCommand),
    /// Look at network services
    #[command(subcommand)]
    Ns(ns::NsCommand),
    /// How the orchestrator, its ledger, its journal and its sites do
    Status,
    /// What goes on, as it happens
    Top,
    /// Look at operations, and decide about those that are FAILED_TEMP
    #[command(subcommand)]
    Operation(operation::OperationCommand),
    /// Look at what is not as it should be, and what was done about it
    #[command(subcommand)]
    Drift(drift::DriftCommand),
    /// Look at sites and register their attestation keys
    #[command(subcommand)]
    Site(site::SiteCommand),
    /// Have OpenStack's services ask Mandate
    #[command(subcommand)]
    Openstack(openstack::OpenstackCommand),
    /// Show, export and verify evidence
    #[command(subcommand)]
    Evidence(evidence::EvidenceCommand),
    /// Look into the ledger and verify its proofs
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Test, propose and explain policies; decide the whole log again
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Add a signature to a signed document
    Cosign(cosign::CosignArgs),
    /// Change organisations, take back what was granted
    #[command(subcommand)]
    Governance(governance::GovernanceCommand),
    /// What the orchestrator may do by itself
    #[command(subcommand)]
    Standing(standing::StandingCommand),
    /// Write completions for a shell to stdout
    Completions(meta::CompletionsArgs),
    /// Write the manual pages into a directory
    Man(meta::ManArgs),
}

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    let command = Cli::command().color(asked_color());
    let parsed = command.try_get_matches().and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let ui = Ui::detect(cli.global.json, cli.global.color);
    let exit = match dispatch(cli, ui) {
        Ok(exit) => exit,
        Err(failure) => {
            ui.fail(&failure.problem);
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

fn dispatch(cli: Cli, ui: Ui) -> Result<Exit, Failure> {
    let context = Context::new(cli.global, ui)?;
    match cli.command {
        Command::Init(args) => init::run(&context, &args),
        Command::Serve(args) => serve::run(&context, &args),
        Command::Completions(args) => meta::completions(&context, &args),
        Command::Man(args) => meta::man(&context, &args),
        Command::Openstack(c) => openstack::run(&context, &c),
        other => context::block_on(talk(&context, other))?,
    }
}

async fn talk(context: &Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Package(c) => package::run(context, c).await,
        Command::Intent(c) => intent::run(context, c).await,
        Command::Plan(args) => plan::run(context, &args).await,
        Command::Approval(c) => approval::run(context, c).await,
        Command::Ns(c) => ns::run(context, c).await,
        Command::Status => status::run(context).await,
        Command::Top => top::run(context).await,
        Command::Operation(c) => operation::run(context, c).await,
        Command::Drift(c) => drift::run(context, c).await,
        Command::Site(c) => site::run(context, c).await,
        Command::Evidence(c) => evidence::run(context, c).await,
        Command::Ledger(c) => ledger::run(context, c).await,
        Command::Policy(c) => policy::run(context, c).await,
        Command::Cosign(args) => cosign::run(context, &args),
        Command::Governance(c) => governance::run(context, c).await,
        Command::Standing(c) => standing::run(context, c).await,
        Command::Init(_)
        | Command::Serve(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Openstack(_) => Ok(Exit::Ok),
    }
}

/// What `--color` asks for, before the arguments are parsed: what clap says about them is coloured so too.
fn asked_color() -> ColorChoice {
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    color_of(&arguments)
}

fn color_of(arguments: &[String]) -> ColorChoice {
    let separate = arguments.windows(2).filter(|w| w[0] == "--color").map(|w| w[1].as_str());
    let joined = arguments.iter().filter_map(|a| a.strip_prefix("--color="));
    match separate.chain(joined).find_map(|value| ColorWhen::from_str(value, false).ok()) {
        Some(ColorWhen::Never) => ColorChoice::Never,
        Some(ColorWhen::Always) => ColorChoice::Always,
        Some(ColorWhen::Auto) | None => ColorChoice::Auto,
    }
}

/// What is wrong, in one line, and clap's tips, from the text that clap writes for people.
fn said(text: &str) -> (String, Option<String>) {
    let lines =
        text.lines().map(str::trim).take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more"));
    let (tips, wrong): (Vec<&str>, Vec<&str>) =
        lines.filter(|l| !l.is_empty()).partition(|l| l.starts_with("tip:"));
    let tips: Vec<&str> = tips.iter().map(|t| t.trim_start_matches("tip:").trim()).collect();
    let wrong = wrong.join(" ").trim_start_matches("error: ").to_owned();
    (wrong, (!tips.is_empty()).then(|| tips.join("; ")))
}

/// The help of the command that the arguments name, as far as they name one.
fn help_of(arguments: impl Iterator<Item = String>) -> clap::builder::StyledStr {
    let mut command = Cli::command();
    command.build();
    for argument in arguments.filter(|a| !a.starts_with('-')) {
        if let Some(inner) = command.find_subcommand(&argument).cloned() {
            command = inner;
        }
    }
    command.render_help()
}

/// What clap says, as text or (when `--json` is among the arguments) as a problem.
fn usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|a| a == "--json");
    if !json && error.kind() == clap::error::ErrorKind::MissingSubcommand {
        // As without MANDATE_HOME and the like, which clap takes for arguments.
        let arguments = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned());
        Ui::detect(false, ColorWhen::Auto).help(&help_of(arguments));
        return ExitCode::from(Exit::Usage as u8);
    }
    if !error.use_stderr() || !json {
        // Help and version are answers; everything else already says how to go on.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
    }
    let (detail, tip) = said(&error.render().to_string());
    let hint = tip.unwrap_or_else(|| "the same with --help says what is expected".into());
    let failure = Failure::usage("USAGE", "Wrong usage", detail).hint(hint);
    Ui::detect(true, ColorWhen::Never).fail(&failure.problem);
    ExitCode::from(Exit::Usage as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tip_of_the_parser_is_the_hint() {
        let error = Cli::try_parse_from(["mandate", "ns", "lst"]).unwrap_err();
        let (wrong, tip) = said(&error.render().to_string());
        assert!(wrong.contains("lst") && !wrong.contains("tip"), "{wrong}");
        assert!(tip.is_some_and(|t| t.contains("'list'")));
        let error = Cli::try_parse_from(["mandate", "intent", "sign", "f"]).unwrap_err();
        let (wrong, tip) = said(&error.render().to_string());
        assert!(wrong.contains("--as <ORG/NAME>") && tip.is_none(), "{wrong}");
    }

    #[test]
    fn a_command_without_its_subcommand_shows_what_there_is() {
        let of = |line: &str| help_of(line.split(' ').map(str::to_owned)).to_string();
        assert!(of("ns").contains("mandate ns [OPTIONS] <COMMAND>") && of("ns").contains("timeline"));
        assert!(
            of("--home /x intent new").contains("mandate intent new")
                && of("intent new").contains("rollback")
        );
        assert!(of("").contains("Exit codes:"));
    }

    #[test]
    fn the_colour_asked_for_is_known_before_parsing() {
        let of = |line: &str| color_of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("mandate --color never x"), ColorChoice::Never);
        assert_eq!(of("mandate x --color=always"), ColorChoice::Always);
        assert_eq!(of("mandate x --color"), ColorChoice::Auto);
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn every_documented_line_parses() {
        for line in [
            "mandate init --operator op --provider pr --tenant a --tenant b --auditor au --site x=DE --tpm x=device:/dev/tpmrm0",
            "mandate --home /h --json serve",
            "mandate package lint d --json",
            "mandate package pack d --image fw=/bin/true --lockfile Cargo.lock --root-package p --builder provider/builder -o f",
            "mandate package pack d --image fw=/bin/true --lockfile Cargo.lock --root-package p --builder-key k --builder-cert c -o f",
            "mandate package sign f --as provider/provider -o g",
            "mandate package verify f --trust t",
            "mandate package verify f --bundle b",
            "mandate package push f --as provider/provider",
            "mandate package list",
            "mandate intent new deploy --service s --nsd ns --tenant t --throughput-kbps 1 --latency-p95-us 2 --loss-ppm 3 --site a --jurisdiction DE --sensitivity restricted --lease 24h --expires-in 1h --params p.yaml -o f",
            "mandate intent new scale --service s --member m --aspect a --steps 2 --in",
            "mandate intent new heal --service s --cause c --target m/v/0",
            "mandate intent new terminate --service s",
            "mandate intent sign f --as tenant/tenant",
            "mandate intent submit f --watch",
            "mandate intent status i",
            "mandate intent watch i",
            "mandate intent list",
            "mandate plan f",
            "mandate plan f --explain --json",
            "mandate approval export 4 -o f",
            "mandate approval deliver f",
            "mandate approval verify f",
            "mandate ns list --all",
            "mandate ns show n",
            "mandate ns timeline n --follow",
            "mandate status --json",
            "mandate top --url https://h:1 --client operator/operator",
            "mandate operation list --open --limit 5",
            "mandate operation show o",
            "mandate drift list --limit 5 --json",
            "mandate drift show acme/edge",
            "mandate operation retry o --reason because",
            "mandate operation rollback o --reason because",
            "mandate operation fail o --reason because --json",
            "mandate site list",
            "mandate site enrol a --as operator/operator --rotate --valid-for 90d",
            "mandate evidence show n",
            "mandate evidence export o -o f",
            "mandate evidence verify f --trust t",
            "mandate ledger log --from 1 --limit 2",
            "mandate ledger head",
            "mandate ledger proof 3",
            "mandate policy test d",
            "mandate policy test --active",
            "mandate policy replay",
            "mandate policy show --why i",
            "mandate policy propose d --reason r --as operator/operator -o f",
            "mandate cosign f --as auditor/auditor",
            "mandate governance submit f",
            "mandate governance organisation o --root f --reason r --as operator/operator",
            "mandate governance revoke --intent i --reason r --as tenant/tenant",
            "mandate standing grant --tenant t --action heal --as tenant/tenant",
            "mandate standing list",
            "mandate standing revoke s --reason r --as tenant/tenant",
            "mandate completions bash",
            "mandate man d --color never",
        ] {
            assert!(
                parse(line).is_ok(),
                "{line}: {}",
                parse(line).err().map(|e| e.to_string()).unwrap_or_default()
            );
        }
    }

    #[test]
    fn wrong_lines_do_not_parse() {
        for line in [
            "mandate",
            "mandate frobnicate",
            "mandate intent new deploy --service s",
            "mandate intent new deploy --nsd n --service s --lease soon",
            "mandate intent new deploy --nsd n --service s --lease 24",
            "mandate intent new deploy --nsd n --service s --jurisdiction de",
            "mandate intent new deploy --nsd n --service s --jurisdiction Germany",
            "mandate intent new terminate --service s --expires-in 24",
            "mandate intent new scale --service s --member m --aspect a --steps 0",
            "mandate intent sign f",
            "mandate intent sign f --as tenant",
            "mandate package sign f --as ../../etc/x",
            "mandate package pack d -o f --builder provider/builder --builder-key k",
            "mandate site enrol a --as x/y --valid-for 0d",
            "mandate operation fail o",
            "mandate operation list --limit 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
