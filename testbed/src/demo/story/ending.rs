//! How it ends: the first service's timeline, what was refused, and where to go on.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use super::{KEPT_SERVICE, Story, TENANT};
use crate::{
    demo::{heading, stdout_coloured},
    ui::{self, Paint},
};

impl Story {
    /// For people; with `--json` it goes to stderr.
    pub(super) fn ending(&self, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if self.approvals.is_empty() {
            return heading(&format!("All of it held, in {}.", ui::duration(ms)));
        }
        heading("What happened to acme/edge-1");
        self.timeline();
        heading("What was refused");
        for r in &self.report.refused {
            ui::say(&format!("  {} {:<48} {}", Paint::Red.err("✗"), r.case, Paint::Yellow.err(&r.code)));
        }
        heading(&format!("All of it held, in {}.", ui::duration(ms)));
        self.further();
    }

    fn timeline(&self) {
        let coloured = !self.json && stdout_coloured();
        let Some(first) = &self.first else { return };
        match self.stage.mandate.text(&["ns", "timeline", &first.ns], coloured) {
            Ok(text) if self.json => ui::say(&text),
            // Whoever closed stdout does not want it.
            Ok(text) => drop(write!(io::stdout(), "{text}")),
            Err(e) => ui::error(&e),
        }
    }

    fn further(&self) {
        if !self.keep {
            ui::say("Nothing of it is left but the evidence of edge-1, which anybody can verify:");
            let bundle = &self.report.evidence.bundle;
            let trust = bundle.with_file_name("trust.json");
            let line = format!(
                "{} evidence verify {} --trust {}",
                self.stage.programs.mandate.display(),
                bundle.display(),
                trust.display()
            );
            ui::say(&format!("  {}", Paint::Cyan.err(&line)));
            ui::say("`cargo testbed demo --keep` leaves a service to look around in.");
            return;
        }
        ui::say("Explore further; `cargo testbed down` ends it all:");
        for line in [
            format!("ns show {TENANT}/{KEPT_SERVICE}"),
            format!("ns timeline {TENANT}/{KEPT_SERVICE}"),
            "site list".into(),
            "ledger log".into(),
            format!("evidence show {TENANT}/{KEPT_SERVICE}"),
            format!("evidence export {TENANT}/{KEPT_SERVICE} -o {KEPT_SERVICE}.jsonl"),
        ] {
            ui::say(&format!("  {}", Paint::Cyan.err(&self.stage.mandate.shown(&line))));
        }
    }
}
