//! `mandate site …`.

use attestation::AkRecord;
use clap::{Args, Subcommand};
use ledger_contract::records::AK_PAYLOAD;
use serde::Serialize;
use trust::{Digest, Envelope};

use super::{
    args::{MemberName, seconds},
    context::Context,
    failure::{Exit, Failure, chain},
    output::{Cell, Paint, Style, Table},
    progress::Spinner,
    timeline::Renderer,
    verdict,
};
use crate::views::{CleaningView, CommittedView, SiteView, StraysView};

/// Commands on sites.
#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// List the sites with their room
    List,
    /// What happened at a site and belongs to no operation: calls that its cloud refused, what was done about drift
    Timeline {
        /// The site
        name: String,
    },
    /// Register a site's attestation key on the ledger
    Enrol(EnrolArgs),
    /// List what carries our mark and belongs to no service, and what was removed of such
    Strays,
    /// Remove strays by their keys; who, what and why is on record
    Clean(CleanArgs),
}

/// Arguments of `site enrol`.
#[derive(Debug, Args)]
pub struct EnrolArgs {
    /// The site
    name: String,
    /// Which operator vouches for the key
    #[arg(long = "as", value_name = "ORG/NAME")]
    who: MemberName,
    /// Make a new key; the old one is not accepted any more
    #[arg(long)]
    rotate: bool,
    /// How long the key is valid
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = seconds)]
    valid_for: u64,
}

/// Arguments of `site clean`.
#[derive(Debug, Args)]
pub struct CleanArgs {
    /// Their keys, as `mandate site strays` lists them; at one site only: KEY@SITE
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Runs a command.
pub async fn run(context: &Context, command: SiteCommand) -> Result<Exit, Failure> {
    match command {
        SiteCommand::List => {
            let sites = context.client()?.sites().await.map_err(|e| context.client_failure(e))?;
            context.ui.show(&sites, |style| render(&sites, style))
        }
        SiteCommand::Timeline { name } => {
            let lines =
                context.client()?.site_timeline(&name).await.map_err(|e| context.client_failure(e))?;
            context.ui.show(&lines, |style| {
                let mut renderer = Renderer::new(style);
                lines.iter().map(|line| renderer.line(line)).collect()
            })
        }
        SiteCommand::Enrol(args) => enrol(context, &args).await,
        SiteCommand::Strays => {
            let view = context.client()?.strays().await.map_err(|e| context.client_failure(e))?;
            context.ui.show(&view, |style| render_strays(&view, style))
        }
        SiteCommand::Clean(args) => clean(context, args).await,
    }
}

async fn clean(context: &Context, args: CleanArgs) -> Result<Exit, Failure> {
    let cleaning = CleaningView { keys: args.keys, reason: args.reason };
    let cleaned = context.client()?.clean_strays(&cleaning).await.map_err(|e| context.client_failure(e))?;
    context.ui.show(&cleaned, |style| {
        let mut table = Table::new(&["KEY", "SITE", "STATE"], "nothing");
        for c in &cleaned {
            let state = match &c.problem {
                None => Cell::new(Paint::Green, "removed"),
                Some(problem) => Cell::new(Paint::Red, problem),
            };
            table.row([(&c.key).into(), (&c.site).into(), state]);
        }
        table.render(style)
    })?;
    Ok(if cleaned.iter().all(|c| c.problem.is_none()) { Exit::Ok } else { Exit::OperationFailed })
}

fn render_strays(view: &StraysView, style: Style) -> String {
    let mut table = Table::new(&["KEY", "SITE", "WHAT"], "no strays");
    for s in &view.strays {
        table.row([Cell::new(Paint::Yellow, s.key.as_str()), (&s.site).into(), (&s.detail).into()]);
    }
    let mut out = table.render(style);
    for (site, why) in &view.unseen {
        out.push_str(&format!("{} {site}: {why}\n", style.paint(Paint::Red, "not seen:")));
    }
    for m in &view.cleaned {
        let keys = m.objects().into_iter().collect::<Vec<_>>().join(", ");
        let who = format!("{} by {}: {}", m.decision.to_lowercase(), m.who, m.reason);
        out.push_str(&format!("{} {keys} {who}\n", style.paint(Paint::Dim, "cleaned:")));
    }
    out
}

/// What `enrol --json` answers: the key and the ledger's decision, flat.
#[derive(Serialize)]
struct Enrolled<'a> {
    record: &'a AkRecord,
    #[serde(flatten)]
    committed: &'a CommittedView,
}

async fn enrol(context: &Context, args: &EnrolArgs) -> Result<Exit, Failure> {
    let signer = context.signer(&args.who)?;
    let client = context.client()?;
    let spinner = Spinner::start(&context.ui, format!("asking the TPM of {}", args.name));
    let key = client.attestation_key(&args.name, args.rotate).await.map_err(|e| context.client_failure(e))?;
    if key.site != args.name {
        let detail = format!("asked for the key of `{}`, got that of `{}`", args.name, key.site);
        return Err(Failure::refused("WRONG_SITE", "Nothing was signed", detail));
    }
    let now = context.now()?;
    // The validity is what the operator vouches for; the orchestrator only proposes the key.
    let record = AkRecord { not_before: now, not_after: now.plus(args.valid_for), ..key };
    let payload = serde_json::to_vec(&record).map_err(|e| Failure::internal("JSON", e))?;
    let request =
        Envelope::sign(AK_PAYLOAD, payload, &[&signer]).map_err(|e| Failure::internal("SIGN", chain(&e)))?;
    let committed = client.submit(&request).await.map_err(|e| context.client_failure(e))?;
    drop(spinner);
    let document = Enrolled { record: &record, committed: &committed };
    context.ui.show(&document, |style| {
        let key = Digest::of(&record.public_key).short();
        let what = if committed.verdict.approved {
            format!("{}'s attestation key {key}, valid until {}", record.site, record.not_after)
        } else {
            format!("no key was registered for {}", record.site)
        };
        verdict::render_committed(&what, &committed, style)
    })?;
    Ok(if committed.verdict.approved { Exit::Ok } else { Exit::Refused })
}

fn render(sites: &[SiteView], style: Style) -> String {
    let mut table = Table::new(
        &[
            "SITE",
            "DRIVER",
            "COUNTRY",
            ">LATENCY",
            ">INSTANCES",
            ">VCPUS",
            ">MEMORY",
            "ATTESTATION",
            "PROBLEM",
        ],
        "no sites",
    );
    for s in sites {
        table.row([
            Cell::new(Paint::Cyan, &s.name),
            (&s.driver).into(),
            (&s.jurisdiction).into(),
            format!("{} us", s.latency_us).into(),
            format!("{}/{}", s.used.instances, s.total.instances).into(),
            format!("{}/{}", s.used.vcpus, s.total.vcpus).into(),
            format!("{}/{} MiB", s.used.memory_mib, s.total.memory_mib).into(),
            (&s.attestation).into(),
            Cell::new(Paint::Red, s.problem.as_deref().unwrap_or_default()),
        ]);
    }
    table.render(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_strays() {
        let stray = lcm::drift::Difference {
            site: "edge-a".into(),
            key: vim::ObjectKey::new("ns-1/vl/x").unwrap(),
            kind: vim::Kind::Network,
            deviation: lcm::drift::Deviation::Extra,
            detail: "it is of a service that does not exist".into(),
        };
        let view = StraysView { strays: vec![stray], ..StraysView::default() };
        assert_eq!(
            render_strays(&view, Style { color: false, unicode: false }),
            "KEY        SITE    WHAT\nns-1/vl/x  edge-a  it is of a service that does not exist\n"
        );
    }

    #[test]
    fn golden_list() {
        let total = vim::Resources { vcpus: 32, memory_mib: 32_768, instances: 32 };
        let site = SiteView {
            name: "edge-a".into(),
            driver: "host".into(),
            jurisdiction: "DE".into(),
            latency_us: 2000,
            total,
            used: vim::Resources { vcpus: 4, memory_mib: 2048, instances: 4 },
            attestation: "registered".into(),
            problem: None,
        };
        assert_eq!(
            render(&[site], Style { color: false, unicode: false }),
            "SITE    DRIVER  COUNTRY  LATENCY  INSTANCES  VCPUS          MEMORY  ATTESTATION  PROBLEM\n\
             edge-a  host    DE       2000 us       4/32   4/32  2048/32768 MiB  registered\n"
        );
    }
}
