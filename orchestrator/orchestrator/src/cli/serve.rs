//! `mandate serve`.

use clap::Args;
use ledger::{LedgerError, embedded::OpenOptions};

use super::{
    context::Context,
    failure::{Exit, Failure},
    files,
};
use crate::{config::Config, journal::JournalError, problem::Problem, serve::Reachable};

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
            let _ = ui.document(&document);
        } else {
            let also = tcp.map_or_else(String::new, |url| format!(" and {url}"));
            let _ = ui.print(&format!("mandate serves on {}{also}\n", socket.display()));
        }
    };
    let options = OpenOptions { accept_clock: args.accept_clock };
    crate::serve::run(&context.home, config, options, ready).map_err(|e| failed(&e))?;
    Ok(Exit::Ok)
}

fn failed(error: &anyhow::Error) -> Failure {
    if in_use(error) {
        return Failure::usage("IN_USE", "Another mandate serve runs in this home", format!("{error:#}"))
            .hint("use that one, or stop it first; another home is named with --home DIR");
    }
    let problem = Problem::new(500, "SERVE", "The orchestrator stopped", format!("{error:#}"))
        .hint("correct that and start it again: it goes on where it was");
    Failure { exit: Exit::Internal, problem }
}

/// Does another process hold the ledger or the journal?
fn in_use(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(LedgerError::Locked { .. }))
            || matches!(cause.downcast_ref(), Some(JournalError::Locked(_)))
    })
}
