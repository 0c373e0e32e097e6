//! `mandate serve`.

use clap::Args;
use ledger::{LedgerError, embedded::OpenOptions};

use super::{
    context::Context,
    failure::{Exit, Failure},
    files,
};
use crate::{config::Config, engine::EngineError, journal::JournalError, problem::Problem, serve::Reachable};

/// Largest configuration file read, bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Believe the machine's clock although it is more than 400 days ahead of the ledger's last entry
    #[arg(long)]
    accept_clock: bool,
}

/// Reads and checks the configuration, then runs until it is told to stop.
pub fn run(context: &Context, args: &ServeArgs) -> Result<Exit, Failure> {
    let path = context.home.config();
    let text = files::text(&path, MAX_CONFIG_BYTES).map_err(|f| {
        f.hint(format!("make a home with `mandate init --home {}`", context.home.path().display()))
    })?;
    let config = Config::parse(&text, &path.display().to_string()).map_err(|e| {
        Failure::usage("CONFIG", "The configuration is refused", e)
            .hint(format!("correct {}", path.display()))
    })?;
    let socket = context.home.socket();
    let ui = context.ui;
    let ready = move |reachable: &Reachable| {
        let tcp = reachable.tcp.map(|a| format!("https://{a}"));
        if ui.json {
            let mut document = serde_json::json!({ "ready": true, "socket": socket });
            if let Some(url) = tcp {
                document["url"] = url.into();
            }
            if let Some(address) = reachable.openstack_policy {
                document["openstack_policy"] = format!("https://{address}").into();
            }
            if let Some(address) = reachable.osm_notifications {
                document["osm_notifications"] = format!("http://{address}").into();
            }
            if let Some((tls, address)) = reachable.osm_gateway {
                document["osm_gateway"] = format!("{}://{address}/osm", scheme(tls)).into();
            }
            let _ = ui.document(&document);
        } else {
            let gate = reachable.openstack_policy.map(|a| format!("https://{a} for OpenStack's services"));
            let told = reachable.osm_notifications.map(|a| format!("http://{a} for OSM's notifications"));
            let osm = reachable.osm_gateway;
            let osm = osm.map(|(tls, a)| format!("{}://{a}/osm for OSM's clients", scheme(tls)));
            let others = gate.into_iter().chain(told).chain(osm);
            let also: String = tcp.into_iter().chain(others).map(|url| format!(" and {url}")).collect();
            let _ = ui.print(&format!("mandate serves on {}{also}\n", socket.display()));
        }
    };
    let options = OpenOptions { accept_clock: args.accept_clock };
    crate::serve::run(&context.home, config, options, ready).map_err(|e| failed(&e))?;
    Ok(Exit::Ok)
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

fn failed(error: &anyhow::Error) -> Failure {
    if in_use(error) {
        return Failure::usage("IN_USE", "Another mandate serve runs in this home", format!("{error:#}"))
            .hint("use that one, or stop it first; another home is named with --home DIR");
    }
    if let Some(code) = other_ledger(error) {
        return Failure::refused(code, "This is not the ledger that this home knows", said(error)).hint(
            "put the newest copy in its place (`mandate ledger restore DIR`), and find out who replaced it",
        );
    }
    let problem = Problem::new(500, "SERVE", "The orchestrator stopped", said(error))
        .hint("correct that and start it again: it goes on where it was");
    Failure { exit: Exit::Internal, problem }
}

/// The ledger was replaced by an older copy, or by one that went another way: nothing was carried out on it.
fn other_ledger(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(EngineError::Discontinuity { source }) => Some(source.code()),
        _ => None,
    })
}

/// What happened, with its causes; each is said once.
fn said(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |all, cause| match all.contains(&cause) {
        true => all,
        false if all.is_empty() => cause,
        false => format!("{all}: {cause}"),
    })
}

/// Does another process hold the ledger or the journal?
fn in_use(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(LedgerError::Locked { .. }))
            || matches!(cause.downcast_ref(), Some(JournalError::Locked(_)))
    })
}
