//! `mandate ns …`.

use std::io::IsTerminal as _;

use clap::Subcommand;

use super::{
    args,
    context::Context,
    failure::{Exit, Failure},
    intent::{operations, state},
    output::{Cell, Paint, Style, Table},
    progress::Spinner,
    timeline::{self, Renderer},
    watch::{Follower, identity, settled},
};
use crate::{
    client::ClientError,
    views::{NsView, TimelineLine},
};

/// Commands on network services.
#[derive(Debug, Subcommand)]
pub enum NsCommand {
    /// List the services
    List {
        /// Also those that were terminated
        #[arg(long)]
        all: bool,
    },
    /// Show a service with its instances and operations
    Show {
        /// NS instance id, or TENANT/SERVICE
        #[arg(value_parser = args::name)]
        ns: String,
    },
    /// Show everything that happened to a service
    Timeline {
        /// NS instance id, or TENANT/SERVICE
        #[arg(value_parser = args::name)]
        ns: String,
        /// Go on as it happens; with --json, one JSON document per line
        #[arg(long, short)]
        follow: bool,
    },
}

/// Runs a command.
pub async fn run(context: &Context, command: NsCommand) -> Result<Exit, Failure> {
    match command {
        NsCommand::List { all } => list(context, all).await,
        NsCommand::Show { ns } => {
            let view = context.client()?.ns(&ns).await.map_err(|e| missing(context, e))?;
            context.ui.show(&view, |style| render_show(&view, style))
        }
        NsCommand::Timeline { ns, follow: false } => {
            let client = context.client()?;
            let lines = client.timeline(&ns).await.map_err(|e| missing(context, e))?;
            let view = client.ns(&ns).await.map_err(|e| missing(context, e))?;
            context.ui.show(&lines, |style| timeline::render(&view, &lines, style, width()))
        }
        NsCommand::Timeline { ns, follow: true } => follow(context, &ns).await,
    }
}

/// A service that is not there.
pub fn missing(context: &Context, error: ClientError) -> Failure {
    let missing = matches!(&error, ClientError::Problem(p) if p.status == 404);
    let failure = context.client_failure(error);
    if missing {
        failure.hint("name it as TENANT/SERVICE, or by its id: mandate ns list --all")
    } else {
        failure
    }
}

async fn list(context: &Context, all: bool) -> Result<Exit, Failure> {
    let services = context.client()?.services(all).await.map_err(|e| context.client_failure(e))?;
    context.ui.show(&services, |style| render_list(&services, style))
}

/// As it was measured last; what is cut off or gone keeps nothing.
fn sla(ns: &NsView) -> Cell {
    match ns.sla_met.filter(|_| ns.state == "INSTANTIATED") {
        Some(true) => Cell::new(Paint::Green, "met"),
        Some(false) => Cell::new(Paint::Red, "missed"),
        None => Cell::new(Paint::Dim, "-"),
    }
}

/// When it ends; overdue while the service still stands.
fn lease(ns: &NsView) -> Cell {
    let now = trust::UnixTime(std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs()));
    match ns.lease_until {
        None => Cell::new(Paint::Dim, "-"),
        Some(end) if end < now && ns.state != "NOT_INSTANTIATED" => {
            Cell::new(Paint::Red, format!("ended {end}: terminate the service"))
        }
        Some(end) => format!("until {end}").into(),
    }
}

fn render_list(services: &[NsView], style: Style) -> String {
    let mut table = Table::new(
        &["NS INSTANCE", "SERVICE", "STATE", "SITE", "NSD", ">INSTANCES", "SLA"],
        "no services; deploy one with `mandate intent new deploy`",
    );
    for s in services {
        table.row([
            Cell::new(Paint::Cyan, &s.id),
            format!("{}/{}", s.tenant, s.service).into(),
            state(&s.state),
            s.site.as_deref().unwrap_or("-").into(),
            (&s.nsd).into(),
            s.instances.len().into(),
            sla(s),
        ]);
    }
    table.render(style)
}

fn render_show(ns: &NsView, style: Style) -> String {
    let mut facts = Table::new(&["", ""], "");
    for (name, value) in [
        ("service", Cell::new(Paint::Bold, format!("{}/{}", ns.tenant, ns.service))),
        ("state", state(&ns.state)),
        ("site", ns.site.as_deref().unwrap_or("-").into()),
        ("nsd", (&ns.nsd).into()),
        ("lease", lease(ns)),
        ("sla", sla(ns)),
    ] {
        facts.row([Cell::new(Paint::Dim, name), value]);
    }
    let mut instances = Table::new(&["VDU INSTANCE", "STATE", "SITE"], "no instances");
    for (key, is) in &ns.instances {
        let site = ns.instance_sites.get(key).map_or("-", String::as_str);
        instances.row([Cell::new(Paint::Cyan, key), state(is), site.into()]);
    }
    format!(
        "{}\n{}\n{}\n{}",
        style.paint(Paint::Cyan, &ns.id),
        facts.render(style),
        instances.render(style),
        operations(&ns.operations).render(style)
    )
}

/// Columns of the terminal, or what fits on paper when there is none.
fn width() -> usize {
    const WITHOUT: usize = 120;
    if !std::io::stdout().is_terminal() {
        return WITHOUT;
    }
    ratatui::crossterm::terminal::size().map_or(WITHOUT, |(columns, _)| usize::from(columns))
}

/// Until interrupted: lines as they happen, and a picture of each operation when its evidence is anchored.
async fn follow(context: &Context, ns: &str) -> Result<Exit, Failure> {
    let ui = context.ui;
    let mut follower = Follower::new(context, None)?;
    let spinner = Spinner::start(&ui, format!("following {ns}"));
    let id = follower.ask(&spinner, |c| async move { c.ns(ns).await }).await?.id;
    let mut renderer = Renderer::new(ui.out);
    let mut shown = std::collections::BTreeSet::new();
    loop {
        let lines = follower.ask(&spinner, |c| async move { c.timeline(ns).await }).await?;
        let mut anchored = Vec::new();
        for line in &lines {
            if !shown.insert(identity(line)) {
                continue;
            }
            if line.kind == "anchor" {
                anchored.push(line.operation_id.clone());
            }
            let line = settled(line, false);
            let json = serde_json::to_string(&line).map_err(|e| Failure::internal("JSON", e))?;
            let text = if ui.json { format!("{json}\n") } else { renderer.line(&line) };
            spinner.suspend(|| ui.print(&text))?;
        }
        if ui.out.color && !anchored.is_empty() {
            let view = follower.ask(&spinner, |c| async move { c.ns(ns).await }).await?;
            let of = |l: &&TimelineLine| anchored.contains(&l.operation_id) || l.operation_id.is_empty();
            let lines: Vec<_> = lines.iter().filter(of).cloned().collect();
            let picture = timeline::render(&view, &lines, ui.out, width());
            spinner.suspend(|| ui.print(&format!("\n{picture}\n")))?;
        }
        spinner.say(format!("following {ns}"));
        follower.event(&spinner, &id).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_list() {
        let ns = NsView {
            id: "ns-0123456789ab".into(),
            tenant: "acme".into(),
            service: "edge".into(),
            state: "INSTANTIATED".into(),
            site: Some("edge-a".into()),
            nsd: "secure_edge_ns".into(),
            instances: vec![("ns-0123456789ab/vfw/fw/0".into(), "active".into())],
            instance_sites: [("ns-0123456789ab/vfw/fw/0".to_owned(), "edge-b".to_owned())].into(),
            operations: Vec::new(),
            lease_until: None,
            sla_met: Some(true),
        };
        let plain = Style { color: false, unicode: false };
        assert_eq!(
            render_list(std::slice::from_ref(&ns), plain),
            "NS INSTANCE      SERVICE    STATE         SITE    NSD             INSTANCES  SLA\n\
             ns-0123456789ab  acme/edge  INSTANTIATED  edge-a  secure_edge_ns          1  met\n"
        );
        let shown = render_show(&ns, plain);
        assert!(shown.starts_with("ns-0123456789ab\nservice  acme/edge\nstate    INSTANTIATED\n"), "{shown}");
        let instance = "VDU INSTANCE              STATE   SITE\nns-0123456789ab/vfw/fw/0  active  edge-b\n";
        assert!(shown.contains(instance), "{shown}");
        assert!(shown.ends_with("no operation yet\n"), "{shown}");
    }
}
