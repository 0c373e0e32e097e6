//! `mandate serve`.

use super::{
    context::Context,
    failure::{Exit, Failure},
    files,
};
use crate::{config::Config, problem::Problem};

/// Largest configuration file read, bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Reads and checks the configuration, then runs until it is told to stop.
pub fn run(context: &Context) -> Result<Exit, Failure> {
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
    let ready = move || {
        if ui.json {
            let _ = ui.document(&serde_json::json!({ "ready": true, "socket": socket }));
        } else {
            let _ = ui.print(&format!("mandate serves on {}\n", socket.display()));
        }
    };
    crate::wiring::serve(context.home.clone(), config, ready).map_err(|e| failed(&e))?;
    Ok(Exit::Ok)
}

fn failed(error: &anyhow::Error) -> Failure {
    let problem = Problem::new(500, "SERVE", "The orchestrator stopped", format!("{error:#}"))
        .hint("correct that and start it again: it goes on where it was");
    Failure { exit: Exit::Internal, problem }
}
